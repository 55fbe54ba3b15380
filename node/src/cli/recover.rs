//! `node recover-from-lost-quorum`: a new cluster of one, out of what a survivor has.
//!
//! Owns the words, which are most of it: that something may be lost, what, and that another directory
//! may have more. Without the old cluster's id it only looks. Next: `engine::storage::Rescue`, which
//! copies.

use super::init::{mint_cluster, parse_address};
use super::{Failure, STRONG};
use engine::ids::{ClusterId, LogIndex};
use engine::storage::{Findings, Identity, Rescue};
use node::DiskPort;
use node::disk::{Directory, FileDisk};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes a new cluster of one node out of the data directory of a survivor, when a majority of the old
/// one is lost for good. While a majority can still be brought back, bring it back instead: this
/// command may lose messages that were acknowledged. Without --confirm-cluster it only reports what
/// it would do. The old directory stays as it is.
#[derive(Debug, clap::Args)]
pub(super) struct Recover {
    /// Data directory of the survivor, whose node must be stopped.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Directory to make for the new cluster's node; must be empty or not there yet.
    #[arg(long, value_name = "NEWDIR")]
    data: PathBuf,
    /// The old cluster's id, as the report shows it: do it.
    #[arg(long, value_name = "ID", value_parser = parse_cluster)]
    confirm_cluster: Option<ClusterId>,
    /// Where clients and further nodes will reach the new node; where the survivor was, unless given.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    address: Option<String>,
}

fn parse_cluster(text: &str) -> Result<ClusterId, String> {
    let id = uuid::Uuid::parse_str(text)
        .map_err(|error| format!("give the cluster id as the report shows it: {error}"))?;
    Ok(ClusterId(id.into_bytes()))
}

impl Recover {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let from = self.from.display();
        let mut source = FileDisk::open(&self.from)?;
        let mut rescue = Rescue::open(source.recovery())
            .map_err(|error| format!("cannot recover from {from}: {error}"))?;
        check_is_empty(&self.data)?;
        self.report(rescue.findings());
        let here = rescue.findings().identity.cluster;
        match self.confirm_cluster {
            None => {
                self.explain(here);
                Ok(ExitCode::SUCCESS)
            }
            Some(wanted) if wanted == here => self.copy(&mut rescue),
            Some(wanted) => Err(format!(
                "{from} belongs to cluster {here}, but --confirm-cluster names {wanted}; nothing was \
                 done; look at the report above, and whether this is the right directory"
            )
            .into()),
        }
    }

    fn report(&self, findings: &Findings) {
        let Findings { identity, hard_state, last, last_stamp, membership, .. } = findings;
        let vote = match hard_state.voted_for {
            Some(node) => format!("voted for node {node}"),
            None => "has not voted".to_owned(),
        };
        anstream::println!("{STRONG}{}{STRONG:#}", self.from.display());
        anstream::println!("  cluster       {}", identity.cluster);
        anstream::println!("  node          {}", identity.node);
        anstream::println!("  term          {}, {vote}", hard_state.term);
        anstream::println!(
            "  last entry    {STRONG}term {}, index {}{STRONG:#}, of {}",
            last.term,
            last.index,
            last_stamp.to_rfc3339()
        );
        let known = hard_state.commit.max(findings.snapshot);
        anstream::println!("  committed     at least up to {known}");
        if findings.snapshot > LogIndex::ZERO {
            anstream::println!("  snapshot      up to {}", findings.snapshot);
        }
        for member in membership.members() {
            let role = if membership.is_voter(member.node) { "voter" } else { "learner" };
            anstream::println!("  member        {} at {}, {role}", member.node, member.address);
        }
        anstream::println!();
    }

    /// What may happen, and how to go on.
    fn explain(&self, cluster: ClusterId) {
        let address = self.address.as_ref();
        let address = address.map_or_else(String::new, |address| format!(" --address {address}"));
        anstream::println!(
            "Nothing was done. This command makes a {STRONG}new{STRONG:#} cluster of one node, with \
             all that this directory holds.\n\n\
             {STRONG}Messages may be lost.{STRONG:#} Entries that a majority of the others had \
             acknowledged, and that this node\n\
             had not received yet, are not in it: sends and acknowledgements in them are gone. Entries \
             that were\n\
             never acknowledged, and that the old cluster might have dropped, may take effect.\n\n\
             Before you go on:\n\
             \x20 1. Try to bring the lost nodes back. With a majority of them nothing is lost.\n\
             \x20 2. Stop every node of the old cluster that still runs.\n\
             \x20 3. Run this report on the directory of every member that is left, and choose the one \
             whose last entry\n\
             \x20    has the highest term, and among those the highest index.\n\
             \x20 4. Then run:\n\n\
             \x20 node recover-from-lost-quorum --from {} --data {} --confirm-cluster {cluster}{address}\n\n\
             The new cluster gets a new id. Old nodes never mix with it; they have to join it anew, \
             with empty directories.",
            self.from.display(),
            self.data.display()
        );
    }

    fn copy(&self, rescue: &mut Rescue<'_, Directory>) -> Result<ExitCode, Failure> {
        let (node, group) = (rescue.next_node(), rescue.findings().identity.group);
        let address = match self.address.clone().unwrap_or_else(|| rescue.findings().address()) {
            address if address.is_empty() => {
                return Err(
                    "this node does not know its own address; give --address HOST:PORT".into()
                );
            }
            address => address,
        };
        let members = vec![(node, address.clone())];
        let identity = Identity::founder(mint_cluster(&members)?, group, node, members);
        let data = self.data.display();
        let mut target = FileDisk::create(&self.data)?;
        let last = rescue.findings().last.index;
        let bar = indicatif::ProgressBar::new(last.0);
        rescue.copy(target.recovery(), &identity, |index| bar.set_position(index.0)).map_err(
            |error| {
                format!("the copy to {data} is not complete, and of no use: {error}; delete it")
            },
        )?;
        bar.finish_and_clear();
        anstream::println!("{STRONG}cluster {}{STRONG:#}", identity.cluster);
        anstream::println!(
            "Copied all entries up to {last} to {data}, for node {node} at {address}.\n"
        );
        anstream::println!(
            "Never start a node of the old cluster again. Start this one:\n\n  \
             node start --data {data}\n\n\
             Then let others join, until there are as many as there were, each on its machine:\n\n  \
             node join --data DIR --address HOST:PORT --cluster-address {address}"
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses a directory with anything in it, ours or not.
pub(super) fn check_is_empty(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(format!("{shown} is not empty; choose a directory that is, or a new one").into())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot use {shown}: {error}").into()),
    }
}
