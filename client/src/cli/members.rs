//! Commands that operators run on the membership: `members` and what is below it, and `transfer`.
//!
//! A change that waits shows for what. Owns no rule of what may be changed: the leader refuses with
//! a reason, and only "has not caught up yet" is waited for.

use super::output::{Printer, Waiting};
use super::values::parse_address;
use super::{Failure, Outcome};
use clap::{Args, Subcommand};
use client::{CallError, Changed, Client, MemberRole, MemberStatus, Members, Rejected};
use engine::ids::{LogIndex, NodeId};
use engine::raft::{Change, ChangeError, ChangeRequest, Leave, Step};
use serde_json::{Value, json};
use std::str::FromStr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a wait looks for the reason, and a node that lags is asked for again.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// A look at the leader takes no longer than this.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// A wait without `--timeout`.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

#[derive(Args, Debug)]
pub(super) struct MembersArgs {
    #[command(subcommand)]
    command: Option<MembersCommand>,
}

#[derive(Subcommand, Debug)]
enum MembersCommand {
    /// Reserve the place of a further node, which takes it with `node join`
    Add(AddArgs),
    /// Remove a node; its number and its data are of no use any more
    Remove(ChangeArgs),
    /// Put another node in a voter's place, in one step, once it has caught up
    Replace(ReplaceArgs),
    /// Make a learner a voter, once it has caught up
    Promote(ChangeArgs),
    /// Make a voter a learner
    Demote(ChangeArgs),
    /// End a change of the voters that was made with --stay-joint, with the new voters
    Leave,
    /// Take a change of the voters that is under way back
    Cancel,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// Where the node will be reached, HOST:PORT
    #[arg(value_parser = parse_address)]
    address: String,
    /// It gets the log and does not vote, until it is promoted
    #[arg(long)]
    learner: bool,
}

#[derive(Args, Debug)]
struct ChangeArgs {
    /// Node, by number
    node: u64,
    #[command(flatten)]
    end: EndArgs,
}

#[derive(Args, Debug)]
struct EndArgs {
    /// Stop half-way, where the old and the new voters both count, until `members leave` or `cancel`
    #[arg(long)]
    stay_joint: bool,
}

impl EndArgs {
    fn leave(&self) -> Leave {
        if self.stay_joint { Leave::Explicit } else { Leave::Automatic }
    }
}

#[derive(Args, Debug)]
struct ReplaceArgs {
    /// Node that goes, by number
    old: u64,
    /// Node that comes: the number of a learner, or HOST:PORT of one that is still to join
    new: Newcomer,
    #[command(flatten)]
    end: EndArgs,
}

#[derive(Args, Debug)]
pub(super) struct TransferArgs {
    /// Voter that shall lead, by number; the best one if none is named
    node: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Newcomer {
    Node(NodeId),
    Address(String),
}

impl FromStr for Newcomer {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(node) => Ok(Self::Node(NodeId(node))),
            Err(_) => parse_address(text).map(Self::Address).map_err(|_| {
                format!(
                    "`{text}` is neither the number of a node nor an address like 10.0.0.4:7400"
                )
            }),
        }
    }
}

/// What a command works with.
struct Desk<'a> {
    client: &'a Client,
    printer: Printer,
    /// When waiting ends, and how long that is after the start.
    until: Instant,
    limit: Duration,
}

pub(super) async fn members(
    client: &Client,
    args: MembersArgs,
    timeout: Option<Duration>,
    printer: Printer,
) -> Outcome {
    let limit = timeout.unwrap_or(FOREVER);
    let desk = Desk { client, printer, until: Instant::now() + limit, limit };
    match args.command {
        None => desk.show().await,
        Some(MembersCommand::Add(args)) => desk.add(args).await,
        Some(MembersCommand::Remove(args)) => desk.step(Step::Remove, &args).await,
        Some(MembersCommand::Promote(args)) => desk.step(Step::Promote, &args).await,
        Some(MembersCommand::Demote(args)) => desk.step(Step::Demote, &args).await,
        Some(MembersCommand::Replace(args)) => desk.replace(args).await,
        Some(MembersCommand::Leave) => desk.change_and_tell(ChangeRequest::Leave).await,
        Some(MembersCommand::Cancel) => desk.change_and_tell(ChangeRequest::Cancel).await,
    }
}

pub(super) async fn transfer(client: &Client, args: TransferArgs, printer: Printer) -> Outcome {
    let leader = client.transfer(args.node.map(NodeId)).await?;
    Ok(printer.line(&json!({"leader": leader.0}), &format!("node {leader} leads"))?)
}

impl Desk<'_> {
    async fn show(&self) -> Outcome {
        let members = self.client.members().await?;
        let header =
            ["node", "address", "role", "leads", "health", "match", "lag", "fit", "priority"];
        let rows = members
            .list
            .iter()
            .map(|member| (member_json(&members, member), member_cells(&members, member)));
        self.printer.table(&header, rows)?;
        if let Some(words) = members.under_way() {
            let value = json!({"under_way": words});
            self.printer.line(&value, &format!("\nUnder way: {words}."))?;
        }
        if let Some(to) = members.transfer {
            let value = json!({"transfer_to": to.0});
            self.printer.line(&value, &format!("\nUnder way: leadership goes to node {to}."))?;
        }
        Ok(())
    }

    async fn add(&self, args: AddArgs) -> Outcome {
        let AddArgs { address, learner } = args;
        let (node, index) = self.reserve(&address, !learner).await?;
        let join = self.join_command(&address, learner);
        let value = json!({"node": node.0, "address": address, "index": index, "join": join});
        let text = format!("Node {node} has a place at {address}. On its machine:\n\n  {join}");
        Ok(self.printer.line(&value, &text)?)
    }

    /// Reserves a place and says whose it is, and by which entry.
    async fn reserve(&self, address: &str, is_joining: bool) -> Result<(NodeId, u64), Failure> {
        let step = Step::Add { address: address.to_owned(), claim: None, is_joining };
        let change = Change { steps: vec![step], ..Change::default() };
        let changed = self.change(ChangeRequest::Change(change)).await?;
        let member = changed.at_address(address).ok_or_else(|| {
            Failure::Nothing(format!("{address} was added, and is gone again; see the members"))
        })?;
        Ok((member.node, changed.index.0))
    }

    fn join_command(&self, address: &str, learner: bool) -> String {
        let nodes = self.client.nodes().nodes;
        let others = nodes.iter().filter(|node| node.address != address);
        let known: String =
            others.map(|node| format!(" --cluster-address {}", node.address)).collect();
        let learner = if learner { " --learner" } else { "" };
        format!("node join --data DIR --address {address}{known}{learner}")
    }

    async fn replace(&self, args: ReplaceArgs) -> Outcome {
        let old = NodeId(args.old);
        let new = match args.new {
            Newcomer::Node(node) => node,
            Newcomer::Address(address) => self.place_at(&address).await?,
        };
        if old == new {
            return Err(Failure::Usage(format!("node {old} cannot replace itself")));
        }
        let steps = vec![Step::Promote(new), Step::Remove(old)];
        let change = Change { steps, leave: args.end.leave() };
        self.change_and_tell(ChangeRequest::Change(change)).await
    }

    /// The node whose place is at this address, which is reserved if there is none.
    async fn place_at(&self, address: &str) -> Result<NodeId, Failure> {
        let members = self.client.members().await?;
        if let Some(member) = members.list.iter().find(|member| member.address == address) {
            return Ok(member.node);
        }
        let (node, _) = self.reserve(address, false).await?;
        let join = self.join_command(address, true);
        let value = json!({"node": node.0, "address": address, "join": join});
        self.printer.note(
            &value,
            &format!("node {node} has a place at {address}. On its machine:\n\n  {join}\n"),
        );
        Ok(node)
    }

    async fn step(&self, step: fn(NodeId) -> Step, args: &ChangeArgs) -> Outcome {
        let steps = vec![step(NodeId(args.node))];
        let change = Change { steps, leave: args.end.leave() };
        self.change_and_tell(ChangeRequest::Change(change)).await
    }

    async fn change_and_tell(&self, request: ChangeRequest) -> Outcome {
        let Changed { index, membership } = self.change(request).await?;
        let voters: Vec<u64> = membership.incoming().iter().map(|node| node.0).collect();
        let learners: Vec<u64> = membership.learners().map(|node| node.0).collect();
        let outgoing: Vec<u64> = membership.outgoing().iter().map(|node| node.0).collect();
        let value = json!({
            "index": index.0,
            "voters": voters,
            "outgoing": outgoing,
            "learners": learners,
        });
        let mut text = format!("done by entry {index}: the voters are {}", list(&voters));
        if membership.is_joint() {
            text = format!(
                "half-way by entry {index}: both the voters {} and the voters {} count, until \
                 `posthaste members leave` or `cancel`",
                list(&outgoing),
                list(&voters)
            );
        }
        if !learners.is_empty() {
            text.push_str(&format!("; learners: {}", list(&learners)));
        }
        Ok(self.printer.line(&value, &text)?)
    }

    /// Makes a change, and shows why it waits while it does.
    async fn change(&self, request: ChangeRequest) -> Result<Changed, Failure> {
        let mut waiting = self.printer.waiting();
        let mut reason = "the leader was asked".to_owned();
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let client = self.client.with_timeout(left);
            let asked = client.change_membership(request.clone());
            let lagging = tokio::select! {
                biased;
                changed = asked => match changed {
                    Ok(changed) => return Ok(changed),
                    Err(CallError::Rejected(Rejected::Change(ChangeError::NotCaughtUp {
                        node, ..
                    }))) => node,
                    Err(error) => return Err(error.into()),
                },
                never = self.watch(&mut waiting) => match never {},
            };
            if let Ok(members) = self.client.with_timeout(LOOK_TIMEOUT).members().await {
                reason = self.tell_progress(&mut waiting, &members, lagging);
            }
            if Instant::now() + LOOK_INTERVAL >= self.until {
                let (timeout, trouble) = (self.limit, reason);
                return Err(CallError::from(Rejected::Deadline { timeout, trouble }).into());
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Shows what a change that was asked for waits for.
    async fn watch(&self, waiting: &mut Waiting) -> std::convert::Infallible {
        let client = self.client.with_timeout(LOOK_TIMEOUT);
        loop {
            sleep(LOOK_INTERVAL).await;
            match client.members().await {
                Ok(members) => {
                    let words = members.under_way();
                    waiting.tell(None, words.as_deref().unwrap_or("the leader was asked"));
                }
                Err(error) => waiting.tell(None, &error.to_string()),
            }
        }
    }

    fn tell_progress(&self, waiting: &mut Waiting, members: &Members, node: NodeId) -> String {
        let (share, words) = match members.progress_of(node) {
            Some((share, words)) => (Some(share), format!("node {node} has {words}")),
            None => (None, format!("node {node} is not a member")),
        };
        waiting.tell(share, &words);
        words
    }
}

fn list(nodes: &[u64]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    nodes.join(", ")
}

fn health(member: &MemberStatus) -> String {
    if !member.is_taken && member.match_index == LogIndex::ZERO {
        "not there yet".to_owned()
    } else if member.is_in_touch() {
        "in touch".to_owned()
    } else {
        format!("silent for {} s", member.silent_for.as_secs())
    }
}

fn member_cells(members: &Members, member: &MemberStatus) -> Vec<String> {
    let leads = member.node == members.leader;
    vec![
        member.node.to_string(),
        member.address.clone(),
        member.role.name().to_owned(),
        if leads { "yes" } else { "" }.to_owned(),
        health(member),
        member.match_index.to_string(),
        lag(members, member).to_string(),
        if member.is_fit { "yes" } else { "no" }.to_owned(),
        member.priority.to_string(),
    ]
}

fn lag(members: &Members, member: &MemberStatus) -> u64 {
    members.last_index.0.saturating_sub(member.match_index.0)
}

fn member_json(members: &Members, member: &MemberStatus) -> Value {
    json!({
        "node": member.node.0,
        "address": member.address,
        "role": member.role.name(),
        "leader": member.node == members.leader,
        "votes": matches!(member.role, MemberRole::Voter | MemberRole::Outgoing),
        "in_touch": member.is_in_touch(),
        "silent_ms": u64::try_from(member.silent_for.as_millis()).unwrap_or(u64::MAX),
        "match_index": member.match_index.0,
        "lag": lag(members, member),
        "fit": member.is_fit,
        "complete": member.is_complete,
        "short_of_space": member.is_short,
        "priority": member.priority,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_is_a_number_or_an_address() {
        assert_eq!("4".parse(), Ok(Newcomer::Node(NodeId(4))));
        assert_eq!("n4:7400".parse(), Ok(Newcomer::Address("n4:7400".to_owned())));
        for text in ["", "four", "n4", "n4:"] {
            assert!(text.parse::<Newcomer>().is_err(), "{text}");
        }
    }
}
