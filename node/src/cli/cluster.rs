//! `node cluster`: a cluster to play with, in the foreground.

use super::children::{CHECK_INTERVAL, Home, Nodes};
use super::{Failure, STRONG, runtime, stop_signal};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a cluster of real node processes on free ports of this machine until Ctrl-C.
#[derive(Debug, clap::Args)]
pub(super) struct Cluster {
    /// How many nodes, 1 to 7. One failure is survived from 3 on, two from 5 on.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=7))]
    nodes: u64,
    /// Where to keep the data directories; an earlier cluster there goes on. Without it, the data
    /// is temporary and removed at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Cluster {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = match self.data {
            Some(home) => Home::Given(home),
            None => Home::temporary()?,
        };
        let mut nodes = Nodes::prepare(home, self.nodes)?;
        runtime()?.block_on(async {
            let mut stop = std::pin::pin!(stop_signal()?);
            nodes.start_all()?;
            let leader = tokio::select! {
                biased;
                _ = &mut stop => return Ok(ExitCode::SUCCESS),
                found = nodes.wait_for_leader() => found?.1,
            };
            introduce(&nodes, leader.0);
            tokio::select! {
                biased;
                _ = &mut stop => {}
                () = watch(&mut nodes) => {
                    return Err("no node is left running".into());
                }
            }
            anstream::println!("\nStopping.");
            nodes.stop_all();
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn introduce(nodes: &Nodes, leader: u64) {
    anstream::println!("{STRONG}Cluster {} is up.{STRONG:#}\n", nodes.cluster);
    for member in &nodes.members {
        let role = if member.node.0 == leader { "leads  " } else { "follows" };
        let (node, address, data) = (member.node, &member.address, member.data.display());
        let process = member.process_id().unwrap_or_default();
        anstream::println!("  node {node}  {address}  {role}  process {process}  {data}");
    }
    let addresses = nodes.addresses().join(",");
    anstream::println!("\nTry, in another terminal:\n");
    anstream::println!("  posthaste --nodes {addresses} send orders 'one pair of boots'");
    anstream::println!("  posthaste --nodes {addresses} receive orders");
    anstream::println!("  posthaste --nodes {addresses} nodes");
    let leader = nodes.members.iter().find(|member| member.node.0 == leader);
    if let Some(process) = leader.and_then(|member| member.process_id())
        && nodes.members.len() >= 3
    {
        anstream::println!("  kill -9 {process}    # the leader; another takes over");
    }
    let what = match nodes.home {
        Home::Temporary(_) => "and removes the data",
        Home::Given(_) => "and keeps the data",
    };
    anstream::println!("\nCtrl-C stops the cluster {what}.");
}

/// Tells of every node that ends; completes when none is left.
async fn watch(nodes: &mut Nodes) {
    loop {
        while let Some(words) = nodes.ended() {
            anstream::eprintln!("\n{words}");
            for member in nodes.members.iter().filter(|member| member.process_id().is_none()) {
                anstream::eprintln!("Start it again: node start --data {}", member.data.display());
            }
        }
        if nodes.members.iter().all(|member| member.process_id().is_none()) {
            return;
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
