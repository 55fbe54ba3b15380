//! A cluster of real node processes on this machine, for `cluster` and `demo`.
//!
//! Owns the processes: none outlives this one. Dropping kills them, and if this process dies without
//! dropping anything, they notice the end of their standard input. Next: `cluster`, `demo`.

use super::Failure;
use super::init::{GROUP, mint_cluster};
use client::{Client, Options};
use engine::ids::{ClusterId, NodeId};
use engine::storage::{Identity, Store};
use node::DiskPort;
use node::disk::FileDisk;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Lines of a failed node's log that are shown.
const LAST_WORDS_LINES: usize = 8;
/// A node that was asked to stop and is still there after this is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often processes are looked after.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Where the data directories are.
pub(super) enum Home {
    /// Removed at the end.
    Temporary(TempDir),
    /// Left alone.
    Given(PathBuf),
}

impl Home {
    pub(super) fn temporary() -> Result<Self, Failure> {
        let home = tempfile::Builder::new().prefix("posthaste-").tempdir();
        let home = home.map_err(|error| format!("cannot make a temporary directory: {error}"))?;
        Ok(Self::Temporary(home))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Temporary(home) => home.path(),
            Self::Given(home) => home,
        }
    }

    /// Keeps a temporary directory.
    pub(super) fn keep(self) -> PathBuf {
        match self {
            Self::Temporary(home) => home.keep(),
            Self::Given(home) => home,
        }
    }
}

/// The processes of a cluster. Declared before `home`, so that they are gone before it is.
pub(super) struct Nodes {
    pub(super) members: Vec<Member>,
    pub(super) cluster: ClusterId,
    pub(super) home: Home,
}

/// One node, running or not.
pub(super) struct Member {
    pub(super) node: NodeId,
    pub(super) address: String,
    pub(super) data: PathBuf,
    process: Option<Child>,
}

impl Nodes {
    /// Initialises `count` nodes in `home` on free ports of the loopback interface, or takes those
    /// that are there.
    pub(super) fn prepare(home: Home, count: u64) -> Result<Self, Failure> {
        let identity = match existing(&data_of(home.path(), NodeId(1)))? {
            Some(identity) if identity.members.len() as u64 == count => identity,
            Some(identity) => {
                let (home, found) = (home.path().display(), identity.members.len());
                let hint = format!("give --nodes {found}, or another --data");
                return Err(format!("{home} holds a cluster of {found} nodes; {hint}").into());
            }
            None => initialise(home.path(), count)?,
        };
        let members = identity.members.iter().map(|(node, address)| Member {
            node: *node,
            address: address.clone(),
            data: data_of(home.path(), *node),
            process: None,
        });
        Ok(Self { members: members.collect(), cluster: identity.cluster, home })
    }

    pub(super) fn start_all(&mut self) -> Result<(), Failure> {
        self.members.iter_mut().try_for_each(Member::start)
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.address.clone()).collect()
    }

    /// The member with this number, which the cluster's own nodes always have.
    pub(super) fn member(&mut self, node: NodeId) -> &mut Member {
        let found = self.members.iter_mut().find(|member| member.node == node);
        found.expect("a cluster names its members only")
    }

    /// The first process that ended unasked, with what it said at last.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.members.iter_mut().find_map(Member::ended)
    }

    /// Connects, and waits until there is a leader; fails if a node does.
    pub(super) async fn wait_for_leader(&mut self) -> Result<(Client, NodeId), Failure> {
        let options = Options {
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            cluster: Some(self.cluster),
            ..Options::default()
        };
        let addresses = self.addresses();
        let found = async {
            let client = Client::connect(&addresses, options).await?;
            let mut view = client.nodes();
            loop {
                if let Some(leader) = view.leader {
                    return Ok((client, leader));
                }
                view = client.nodes_changed(&view).await?;
            }
        };
        tokio::select! {
            biased;
            found = found => found,
            failure = async {
                loop {
                    if let Some(words) = self.ended() {
                        return words;
                    }
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
            } => Err(failure.into()),
        }
    }

    /// Asks all to stop, and waits for them.
    pub(super) fn stop_all(&mut self) {
        for member in &self.members {
            if let Some(process) = &member.process {
                // An error means that it is gone already.
                let _ = kill_process(Pid::from_child(process), Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for member in &mut self.members {
            while member.is_running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            member.kill();
        }
    }
}

impl Member {
    /// Starts the process; what it writes goes to its log file.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        assert!(self.process.is_none(), "one process a node");
        let failed = |error| format!("cannot start node {}: {error}", self.node);
        let log = File::options().create(true).append(true).open(self.log()).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let process = Command::new(program)
            .arg("start")
            .arg("--data")
            .arg(&self.data)
            .arg("--stop-with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    pub(super) fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// `kill -9`, and waits until the process is gone.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Errors mean that it is gone already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|process| process.try_wait().ok().flatten())
    }

    fn is_running(&mut self) -> bool {
        self.process.is_some() && self.exit_status().is_none()
    }

    /// If the process ended by itself: how, and the last lines of its log.
    fn ended(&mut self) -> Option<String> {
        let status = self.exit_status()?;
        self.process = None;
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join("\n  ");
        Some(format!("node {} ended with {status}; its last words:\n  {last}", self.node))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn data_of(home: &Path, node: NodeId) -> PathBuf {
    home.join(format!("node-{node}"))
}

fn existing(data: &Path) -> Result<Option<Identity>, Failure> {
    if !data.exists() {
        return Ok(None);
    }
    let mut disk = FileDisk::open(data)?;
    let identity = Store::read_identity(disk.recovery())
        .map_err(|error| format!("cannot use {}: {error}", data.display()))?;
    Ok(Some(identity))
}

fn initialise(home: &Path, count: u64) -> Result<Identity, Failure> {
    let mut members = Vec::new();
    for (node, port) in (1..=count).zip(free_ports(count)?) {
        members.push((NodeId(node), format!("127.0.0.1:{port}")));
    }
    let cluster = mint_cluster(&members)?;
    let mut identity = Identity::founder(cluster, GROUP, NodeId(1), members.clone());
    // The first node last: its directory says that all are there.
    for node in (1..=count).rev() {
        identity = Identity::founder(cluster, GROUP, NodeId(node), members.clone());
        let data = data_of(home, identity.node);
        let mut disk = FileDisk::create(&data)?;
        Store::format(disk.recovery(), &identity)
            .map_err(|error| format!("cannot initialise {}: {error}", data.display()))?;
    }
    Ok(identity)
}

/// Where ports for local clusters are looked for: below the range from which systems take the ports of
/// outgoing connections, or one of those could take a node's port while the node restarts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports tried before giving up.
const PORT_ATTEMPTS_MAX: usize = 1_000;

/// Ports that nobody has now. All are held until all are found, so that they differ.
fn free_ports(count: u64) -> Result<Vec<u16>, Failure> {
    let mut held = Vec::new();
    for _ in 0..PORT_ATTEMPTS_MAX {
        if held.len() as u64 == count {
            break;
        }
        let entropy = getrandom::u32()
            .map_err(|error| format!("the system gives no entropy for a port: {error}"))?;
        let width = u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(entropy % width).expect("less than the width");
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener)));
    }
    if (held.len() as u64) < count {
        let (first, last) = (PORTS.start, PORTS.end - 1);
        return Err(
            format!("found no {count} free ports on 127.0.0.1 from {first} to {last}").into()
        );
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}
