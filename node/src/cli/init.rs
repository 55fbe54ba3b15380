//! `node init`: the data directory of a new node.

use super::{Failure, STRONG};
use engine::ids::{ClusterId, GroupId, NodeId};
use engine::limits::VOTERS_MAX;
use engine::storage::{Identity, Store};
use engine::wire::client::PEER_ADDRESS_BYTES_MAX;
use node::DiskPort;
use node::disk::FileDisk;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// The one Raft group that there is today.
pub(super) const GROUP: GroupId = GroupId(0);

/// Makes a data directory that belongs to one node of one new cluster for ever. Run it once for each
/// node that the cluster begins with: first with `--cluster new`, then with the id that it prints.
/// The members are the same every time, and the id fits no others. For a node that comes later there
/// is `node join`.
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// Directory to make; must be empty or not there yet.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The cluster's id, or `new` for a new cluster.
    #[arg(long, value_name = "ID|new")]
    cluster: ClusterChoice,
    /// Which of the members this is.
    #[arg(long, value_name = "N")]
    node: u64,
    /// A member and where the others and the clients reach it; once for each, this one too.
    #[arg(long = "member", value_name = "N=HOST:PORT", required = true)]
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug)]
enum ClusterChoice {
    New,
    Existing(ClusterId),
}

impl FromStr for ClusterChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "new" {
            return Ok(Self::New);
        }
        match uuid::Uuid::parse_str(text) {
            Ok(id) => Ok(Self::Existing(ClusterId(id.into_bytes()))),
            Err(error) => {
                Err(format!("give a cluster id as `node init` prints it, or new: {error}"))
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Member {
    node: NodeId,
    address: String,
}

impl FromStr for Member {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write it as N=HOST:PORT, for example 1=10.0.0.1:7400".to_owned();
        let (node, address) = text.split_once('=').ok_or_else(form)?;
        let node = NodeId(node.parse().map_err(|_| form())?);
        if node == NodeId::ZERO {
            return Err("nodes are numbered from 1".to_owned());
        }
        let address = parse_address(address).map_err(|_| form())?;
        Ok(Self { node, address })
    }
}

/// Checks that an address has a host and a port that can be called.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if !is_address || text.len() > PEER_ADDRESS_BYTES_MAX {
        return Err(format!(
            "`{text}` is not an address; write it as HOST:PORT, like 10.0.0.4:7400"
        ));
    }
    Ok(text.to_owned())
}

impl Init {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let members = self.members.iter().map(|member| (member.node, member.address.clone()));
        let members = check_members(NodeId(self.node), members.collect())?;
        let cluster = match self.cluster {
            ClusterChoice::New => mint_cluster(&members)?,
            ClusterChoice::Existing(cluster) => cluster,
        };
        let identity = Identity::founder(cluster, GROUP, NodeId(self.node), members);
        identity.check_founders()?;
        let mut disk = FileDisk::create(&self.data)?;
        let data = self.data.display();
        Store::format(disk.recovery(), &identity)
            .map_err(|error| format!("cannot initialise {data}: {error}"))?;

        let (node, count) = (identity.node, identity.members.len());
        anstream::println!("{STRONG}cluster {cluster}{STRONG:#}");
        anstream::println!("Initialised node {node} of {count} in {data}.\n");
        print_others(&identity);
        anstream::println!("Start this node:\n\n  node start --data {data}");
        Ok(ExitCode::SUCCESS)
    }
}

fn print_others(identity: &Identity) {
    let others: Vec<_> = identity.members.iter().filter(|(id, _)| *id != identity.node).collect();
    if others.is_empty() {
        return;
    }
    anstream::println!("Initialise the others likewise, each on its machine, if not done yet:\n");
    let member_flags: String =
        identity.members.iter().map(|(id, address)| format!(" --member {id}={address}")).collect();
    for (id, _) in others {
        let cluster = identity.cluster;
        anstream::println!("  node init --data DIR --cluster {cluster} --node {id}{member_flags}");
    }
    anstream::println!();
}

/// The id of a new cluster of these members.
pub(super) fn mint_cluster(members: &[(NodeId, String)]) -> Result<ClusterId, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| format!("the system gives no entropy for a cluster id: {error}"))?;
    Ok(ClusterId::mint(random, GROUP, members))
}

/// The members, if they make sense, ordered by node.
fn check_members(
    node: NodeId,
    mut members: Vec<(NodeId, String)>,
) -> Result<Vec<(NodeId, String)>, Failure> {
    members.sort();
    let count = members.len();
    if count > VOTERS_MAX {
        return Err(format!("{count} members, but a cluster has at most {VOTERS_MAX}").into());
    }
    for pair in members.windows(2) {
        let ((first, address), (second, _)) = (&pair[0], &pair[1]);
        if first == second {
            return Err(format!("member {first} is given twice; number them 1, 2, 3").into());
        }
        if members.iter().filter(|(_, other)| other == address).count() > 1 {
            return Err(format!("two members have the address {address}; each has its own").into());
        }
    }
    if !members.iter().any(|(member, _)| *member == node) {
        let known: Vec<_> = members.iter().map(|(member, _)| member.to_string()).collect();
        let known = known.join(", ");
        return Err(format!(
            "node {node} is not among the members {known}; add --member {node}=HOST:PORT"
        )
        .into());
    }
    Ok(members)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn members(members: &[&str]) -> Vec<(NodeId, String)> {
        let parse = |text: &&str| text.parse::<Member>().unwrap();
        members.iter().map(parse).map(|member| (member.node, member.address)).collect()
    }

    fn refusal(node: u64, list: &[&str]) -> String {
        check_members(NodeId(node), members(list)).unwrap_err().to_string()
    }

    #[test]
    fn members_that_make_no_sense_are_refused_with_what_to_do() {
        assert!(refusal(1, &["1=a:1", "1=b:1"]).contains("member 1 is given twice"));
        assert!(refusal(1, &["1=a:1", "2=a:1"]).contains("two members have the address a:1"));
        assert!(refusal(3, &["1=a:1", "2=b:1"]).contains("add --member 3=HOST:PORT"));
        let many: Vec<String> = (1..=8).map(|node| format!("{node}=a:{node}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(refusal(1, &many).contains("at most 7"));
    }

    #[test]
    fn members_are_ordered_whatever_the_order_they_are_given_in() {
        let list = members(&["3=c:1", "1=a:1", "2=[::1]:7"]);
        let members = check_members(NodeId(2), list).unwrap();
        let nodes: Vec<_> = members.iter().map(|(node, _)| node.0).collect();
        assert_eq!(nodes, [1, 2, 3]);
    }

    #[test]
    fn malformed_members_and_cluster_ids_are_refused() {
        for text in
            ["", "1", "1=", "1=host", "0=host:1", "x=host:1", "1=host:0", "1=:1", "1=h:70000"]
        {
            assert!(text.parse::<Member>().is_err(), "{text}");
        }
        assert!("newer".parse::<ClusterChoice>().is_err());
        let id = mint_cluster(&members(&["1=a:1"])).unwrap().to_string();
        assert!(
            matches!(id.parse(), Ok(ClusterChoice::Existing(found)) if found.to_string() == id)
        );
    }
}
