//! Real node processes for tests: started, watched through their log, and killed at the end.

use client::{Client, Options};
use engine::ids::{ClusterId, NodeId};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The `node` binary with these arguments.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    command(arguments).output().unwrap()
}

/// What a process that ended wrote to standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running node.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start<S: AsRef<OsStr>>(arguments: &[S], flags: &[&str]) -> Self {
        let mut command = command(arguments);
        let mut child = command.args(flags).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("{line}");
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line of the log that contains `what`.
    pub(crate) fn wait_for_line(&self, what: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {what:?} in the node's log"));
            if line.contains(what) {
                return line;
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster on this machine.
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) addresses: Vec<String>,
    processes: Vec<Option<Process>>,
    home: TempDir,
}

impl Cluster {
    /// Initialises nodes on free ports by the command line, and starts none.
    pub(crate) fn init(count: usize) -> Self {
        let addresses = free_addresses(count);
        Self::init_at(addresses)
    }

    pub(crate) fn init_at(addresses: Vec<String>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let members: Vec<String> = addresses
            .iter()
            .enumerate()
            .map(|(at, address)| format!("--member={}={address}", at + 1))
            .collect();
        let mut cluster = "new".to_owned();
        for node in 1..=addresses.len() {
            let data = home.path().join(node.to_string());
            let node = node.to_string();
            let mut arguments = vec![
                "init",
                "--data",
                data.to_str().unwrap(),
                "--cluster",
                &cluster,
                "--node",
                &node,
            ];
            arguments.extend(members.iter().map(String::as_str));
            let output = run(&arguments);
            assert!(output.status.success(), "{}", complaint(&output));
            let text = String::from_utf8(output.stdout).unwrap();
            cluster = text.lines().next().unwrap().strip_prefix("cluster ").unwrap().to_owned();
        }
        let id = ClusterId(uuid::Uuid::parse_str(&cluster).unwrap().into_bytes());
        let processes = addresses.iter().map(|_| None).collect();
        Self { id, addresses, processes, home }
    }

    pub(crate) fn start(count: usize, flags: &[&str]) -> Self {
        let mut cluster = Self::init(count);
        cluster.start_all(flags);
        cluster
    }

    pub(crate) fn start_all(&mut self, flags: &[&str]) {
        for node in 1..=self.addresses.len() as u64 {
            self.start_node(NodeId(node), flags);
        }
    }

    pub(crate) fn start_node(&mut self, node: NodeId, flags: &[&str]) {
        let process = Process::start(&["start", "--data", &self.data(node)], flags);
        process.wait_for_line("log recovered");
        *self.place(node) = Some(process);
    }

    /// Starts a node that was removed, and waits until it says so.
    pub(crate) fn restart_removed(&mut self, node: NodeId) {
        let process = Process::start(&["start", "--data", &self.data(node)], &[]);
        process.wait_for_line("REMOVED from the cluster, by entry");
        *self.place(node) = Some(process);
    }

    /// A new node joins by the command line; waits for its place.
    pub(crate) fn begin_to_join(&mut self, flags: &[&str]) -> NodeId {
        let node = self.make_room(free_addresses(1).remove(0));
        self.join_again(node, flags);
        node
    }

    fn make_room(&mut self, address: String) -> NodeId {
        self.addresses.push(address);
        self.processes.push(None);
        NodeId(self.addresses.len() as u64)
    }

    /// A new node joins at this address, and has become a voter when this returns.
    pub(crate) fn join_at(&mut self, address: String) -> NodeId {
        let node = self.make_room(address);
        self.join_again(node, &[]);
        self.process(node).wait_for_line(&format!("promoted: node {node} "));
        node
    }

    /// The machine of `old` joins with its address and directory, and has become the voter `new` when
    /// this returns.
    pub(crate) fn join_as(&mut self, old: NodeId, new: NodeId) {
        let process = Process::start(&self.join_arguments(old), &[]);
        process.wait_for_line(&format!("promoted: node {new} "));
        *self.place(old) = Some(process);
    }

    /// The same node again, with what is in its directory.
    pub(crate) fn join_again(&mut self, node: NodeId, flags: &[&str]) {
        let process = Process::start(&self.join_arguments(node), flags);
        process.wait_for_line(&format!("log recovered node={node} "));
        *self.place(node) = Some(process);
    }

    /// A new node joins, and has become a voter when this returns.
    pub(crate) fn join(&mut self) -> NodeId {
        self.join_at(free_addresses(1).remove(0))
    }

    /// `node join` for a node.
    pub(crate) fn join_arguments(&self, node: NodeId) -> Vec<String> {
        let at = usize::try_from(node.0).unwrap() - 1;
        let mut arguments = ["join", "--data", &self.data(node), "--address", &self.addresses[at]]
            .map(str::to_owned)
            .to_vec();
        for address in &self.addresses[..at] {
            arguments.extend(["--cluster-address".to_owned(), address.clone()]);
        }
        arguments
    }

    pub(crate) fn kill(&mut self, node: NodeId) {
        self.place(node).take().unwrap().kill();
    }

    /// All at once: none is waited for before the last is killed.
    pub(crate) fn kill_all(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            process.child.kill().unwrap();
        }
        self.processes.iter_mut().for_each(|process| *process = None);
    }

    pub(crate) fn process(&mut self, node: NodeId) -> &mut Process {
        self.place(node).as_mut().unwrap()
    }

    fn place(&mut self, node: NodeId) -> &mut Option<Process> {
        &mut self.processes[usize::try_from(node.0).unwrap() - 1]
    }

    pub(crate) fn data(&self, node: NodeId) -> String {
        let data: PathBuf = self.home.path().join(node.to_string());
        data.to_str().unwrap().to_owned()
    }

    pub(crate) async fn connect(&self) -> Client {
        let options = Options { cluster: Some(self.id), timeout: PATIENCE, ..Options::default() };
        Client::connect(&self.addresses, options).await.unwrap()
    }

    /// Waits for a leader, and says which node it is.
    pub(crate) async fn leader(&self, client: &Client) -> NodeId {
        let mut view = client.nodes();
        while view.leader.is_none() {
            view =
                tokio::time::timeout(PATIENCE, client.nodes_changed(&view)).await.unwrap().unwrap();
        }
        view.leader.unwrap()
    }
}

/// Free ports below the range of outgoing connections, so that none takes a stopped node's port.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let mut held = Vec::new();
    while held.len() < count {
        let port = 20_000 + u16::try_from(getrandom::u32().unwrap() % 12_000).unwrap();
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok());
    }
    held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}
