//! `node join`: a further node for a cluster that runs.
//!
//! Before it asks for anything it writes down under which claim it will: whoever holds the claim holds
//! the place, so a second run goes on where the first one ended, and a directory that was lost cannot
//! be mistaken for the one that joined. Next: `start` for how it runs, and
//! `engine::raft::membership` for what the leader makes of the claim.

use super::init::{GROUP, parse_address};
use super::start::{Setup, Start};
use super::{Failure, runtime, stop_signal};
use client::{CallError, Changed, Client, MemberRole, Options, Rejected};
use engine::ids::NodeId;
use engine::raft::{Change, ChangeError, ChangeRequest, Claim, Step};
use engine::storage::{Identity, StorageError, Store};
use node::DiskPort;
use node::disk::FileDisk;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

/// Where the claim is kept, beside the node's own files.
const CLAIM_FILE: &str = "claim";
/// How long the cluster is looked for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A question is repeated after this, and the reason why it is not answered is told.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a joining node looks how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Joins a cluster that runs, and then runs the node as `node start` does. It gets the log first, and
/// votes as soon as it has caught up. Run again, it goes on where it was.
#[derive(Debug, clap::Args)]
pub(super) struct Join {
    /// Where the others and the clients will reach this node, HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    address: String,
    /// Members of the cluster to ask; one that answers is enough.
    #[arg(
        long = "cluster-address",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required = true,
        value_parser = parse_address
    )]
    cluster_addresses: Vec<String>,
    /// Get the log and do not vote, until `posthaste members promote`.
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    start: Start,
}

/// What the claim's file holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct ClaimFile {
    claim: String,
    address: String,
}

impl Join {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Self { address, cluster_addresses, learner, start } = self;
        let setup = start.setup("any empty directory will do")?;
        let mut disk = FileDisk::create(&setup.data)?;
        let known = known_identity(&mut disk, &setup.data, &address)?;
        runtime()?.block_on(async {
            let mut stop = Box::pin(stop_signal()?);
            let identity = match known {
                Some(identity) => identity,
                None => {
                    let claim = read_or_make_claim(&setup.data, &address)?;
                    let place = Place { address, claim, learner };
                    let asked = place.ask(&cluster_addresses);
                    let identity = tokio::select! {
                        biased;
                        _ = &mut stop => return Ok(ExitCode::SUCCESS),
                        identity = asked => identity?,
                    };
                    Store::format(disk.recovery(), &identity).map_err(|error| {
                        format!("cannot initialise {}: {error}", setup.data.display())
                    })?;
                    identity
                }
            };
            run_and_tell(setup, disk, identity, cluster_addresses, stop).await
        })
    }
}

/// The identity that the directory has from an earlier run, if any.
fn known_identity(
    disk: &mut FileDisk,
    data: &Path,
    address: &str,
) -> Result<Option<Identity>, Failure> {
    let data = data.display();
    match Store::read_identity(disk.recovery()) {
        Ok(identity) if identity.address == address => Ok(Some(identity)),
        Ok(Identity { node, address: own, .. }) => Err(format!(
            "{data} belongs to node {node}, which is reached at {own} and not at {address}; give its \
             own address, or join with an empty directory"
        )
        .into()),
        Err(StorageError::NoIdentity) => Ok(None),
        Err(error) => Err(format!("cannot use {data}: {error}").into()),
    }
}

/// The claim of this directory, which is durable before anybody hears of it.
fn read_or_make_claim(data: &Path, address: &str) -> Result<Claim, Failure> {
    let path = data.join(CLAIM_FILE);
    let name = path.display();
    if path.exists() {
        let text =
            fs::read_to_string(&path).map_err(|error| format!("cannot read {name}: {error}"))?;
        let file: ClaimFile = serde_json::from_str(&text)
            .map_err(|error| format!("{name} is damaged: {error}; join with an empty directory"))?;
        if file.address != address {
            let own = file.address;
            return Err(format!(
                "this directory has asked for a place at {own} before; join with --address {own}, or \
                 with an empty directory"
            )
            .into());
        }
        let claim = uuid::Uuid::parse_str(&file.claim)
            .map_err(|error| format!("{name} is damaged: {error}; join with an empty directory"))?;
        return Ok(Claim(claim.into_bytes()));
    }
    let mut claim = [0; 16];
    getrandom::fill(&mut claim)
        .map_err(|error| format!("the system gives no entropy for a claim: {error}"))?;
    let file =
        ClaimFile { claim: uuid::Uuid::from_bytes(claim).to_string(), address: address.to_owned() };
    write_durably(data, &serde_json::to_string(&file)?)
        .map_err(|error| format!("cannot write {name}: {error}"))?;
    Ok(Claim(claim))
}

fn write_durably(data: &Path, text: &str) -> std::io::Result<()> {
    let temporary = data.join("claim.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, data.join(CLAIM_FILE))?;
    File::open(data)?.sync_all()
}

/// The place that a node asks for.
struct Place {
    address: String,
    claim: Claim,
    learner: bool,
}

impl Place {
    /// Asks the leader for it, for as long as it takes.
    async fn ask(self, cluster: &[String]) -> Result<Identity, Failure> {
        let client = connect(cluster, CONNECT_TIMEOUT).await?;
        let cluster = client.nodes().cluster.expect("a connected client knows its cluster");
        tracing::info!("asking cluster {cluster} for a place at {}", self.address);
        let step = Step::Add {
            address: self.address.clone(),
            claim: Some(self.claim),
            is_joining: !self.learner,
        };
        let request = ChangeRequest::Change(Change { steps: vec![step], ..Change::default() });
        let client = client.with_timeout(ASK_TIMEOUT);
        let changed = loop {
            match client.change_membership(request.clone()).await {
                Ok(changed) => break changed,
                Err(error) => self.judge(error)?,
            }
            sleep(LOOK_INTERVAL).await;
        };
        let node = self.find(&changed)?;
        tracing::info!("the cluster has a place for this node: it is node {node}");
        let address = self.address;
        Ok(Identity { cluster, group: GROUP, node, address, members: Vec::new() })
    }

    /// Whether to ask again after this.
    fn judge(&self, error: CallError) -> Result<(), Failure> {
        match error {
            CallError::Rejected(Rejected::Change(ChangeError::AddressTaken { address, node })) => {
                Err(format!(
                    "{address} is the address of node {node}, which has another data directory. If \
                     that directory is lost, remove the node with `posthaste members remove {node}` \
                     and run this again: this machine comes back as a new node. Otherwise start the \
                     node with its own directory, or give another --address"
                )
                .into())
            }
            CallError::Rejected(
                Rejected::Change(
                    ChangeError::Pending { .. } | ChangeError::Joint | ChangeError::LeaderTooNew,
                )
                | Rejected::Deadline { .. },
            )
            | CallError::Unknown(_) => {
                tracing::info!("no place yet, asking on: {error}");
                Ok(())
            }
            CallError::Rejected(_) => Err(format!("{error}; {}", error.remedy()).into()),
        }
    }

    fn find(&self, changed: &Changed) -> Result<NodeId, Failure> {
        let member = changed.claimed_by(self.claim).map(|member| member.node);
        member.ok_or_else(|| {
            let address = &self.address;
            format!("the place at {address} was taken away again; run this once more").into()
        })
    }
}

async fn connect(cluster: &[String], timeout: Duration) -> Result<Client, Failure> {
    let options = Options { connect_timeout: timeout, ..Options::default() };
    Ok(Client::connect(cluster, options).await?)
}

async fn run_and_tell(
    setup: Setup,
    disk: FileDisk,
    identity: Identity,
    cluster: Vec<String>,
    stop: impl Future<Output = &'static str> + Send + 'static,
) -> Result<ExitCode, Failure> {
    let node = identity.node;
    let teller = tokio::spawn(async move {
        // Only tells: the node joins without it.
        if let Err(error) = tell_progress(node, &cluster).await {
            tracing::warn!("cannot tell how far node {node} is: {error}");
        }
    });
    let served = setup.serve(disk, identity, stop).await;
    teller.abort();
    served
}

/// Tells how far the node is until it is what it shall be.
async fn tell_progress(node: NodeId, cluster: &[String]) -> Result<(), Failure> {
    let client = connect(cluster, CONNECT_TIMEOUT).await?.with_timeout(ASK_TIMEOUT);
    let mut told = String::new();
    loop {
        if let Ok(members) = client.members().await
            && let Some(member) = members.member(node)
            && let Some((share, words)) = members.progress_of(node)
        {
            let line = match member.role {
                MemberRole::Voter | MemberRole::Outgoing => {
                    tracing::info!("promoted: node {node} votes from now on");
                    return Ok(());
                }
                MemberRole::Learner if share >= 1.0 => {
                    tracing::info!("caught up: node {node} is a learner, and does not vote");
                    return Ok(());
                }
                MemberRole::Joining | MemberRole::Learner => format!("joining: {words}"),
            };
            if line != told {
                tracing::info!("{line}");
                told = line;
            }
        }
        sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_claim_and_its_address() {
        let home = tempfile::tempdir().unwrap();
        let claim = read_or_make_claim(home.path(), "a:1").unwrap();
        assert_eq!(read_or_make_claim(home.path(), "a:1").unwrap(), claim);
        let error = read_or_make_claim(home.path(), "b:1").unwrap_err().to_string();
        assert!(error.contains("join with --address a:1"), "{error}");
        fs::remove_file(home.path().join(CLAIM_FILE)).unwrap();
        assert_ne!(read_or_make_claim(home.path(), "a:1").unwrap(), claim, "wiped, so another");
    }

    #[test]
    fn a_damaged_claim_is_not_passed_off_as_a_new_one() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(CLAIM_FILE), "{\"claim\":\"x\",\"address\":\"a:1\"}").unwrap();
        let error = read_or_make_claim(home.path(), "a:1").unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
    }
}
