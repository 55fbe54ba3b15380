//! What the commands of a script do to a group of members.
//!
//! | command | what happens |
//! |---|---|
//! | `disk N term T log A B C` | before `nodes`: what member N starts with, entries of terms A, B and C |
//! | `nodes N` | members 1 to N start |
//! | `campaign N` | all forget their leader, and N's election timeout passes |
//! | `timeout N` | N's next deadline passes: an election, or a leader's heartbeat |
//! | `elect N [among A B]` | N campaigns, and messages arrive (among those) until it leads |
//! | `run MILLIS [among A B]` | time passes, all deadlines too, and what is said (among those) arrives |
//! | `propose N [COUNT]` | N, a leader, appends entries |
//! | `deliver A->B [COUNT]` | the oldest messages from A to B arrive, all if no count is given |
//! | `deliver all [among A B]` | messages arrive until nobody (of those) has anything more to say |
//! | `tell A->B append T U after I term V` | B hears an append of A that the script makes up |
//! | `drop A->B`, `drop all` | messages are lost |
//! | `duplicate A->B` | the network doubles the oldest message from A to B |
//! | `cut A B \| C D`, `heal` | from now on messages between the two sides are lost; no more |
//! | `read-back COUNT` | a leader reads that many entries at once for a follower that lags |
//! | `slow N`, `fast N` | N's disk does what `flush` says; or is instant, as all are at first |
//! | `flush N [COUNT]` | the oldest persists of N become durable, all if no count is given |
//! | `crash N [keeping COUNT]` | N dies, and of its persists the oldest happen to be on the disk |
//! | `restart N` | it comes back with what its disk holds |
//! | `join` | a node starts that knows of no membership; its id is the next one |
//! | `change N STEP...` | N, a leader, is asked to `add`, `add-joining`, `promote:X`, `demote:X` or `remove:X` |
//! | `change N explicitly STEP...` | the same, and the joint phase waits to be left |
//! | `leave N`, `cancel N` | N is asked to end the joint phase, with the new voters or with the old |
//! | `transfer N X` | N is asked to hand over to X |
//! | `snapshot N` | N makes a snapshot of what is committed; the log before the one before it goes |
//! | `members` | prints each member's newest membership |
//! | `state` | prints a line for each member |
//! | `network` | prints each message under way |

use engine::ids::{LogIndex, NodeId};
use engine::raft::{
    AppendOutcome, Body, Change, ChangeRequest, Leave, LogPosition, RoleName, Step,
};
use engine::time::Micros;
use std::collections::{BTreeMap, BTreeSet};
use tests::group::{Group, Packet};
use tests::image::{Image, records};
use tests::messages::{append, position};

/// More deliveries than any script needs: the members talk without end.
const DELIVERIES_MAX: usize = 10_000;

type Outcome<T> = Result<T, String>;

/// A group, and what the script decided about its network and disks.
#[derive(Default)]
pub(crate) struct World {
    group: Option<Group>,
    disks: BTreeMap<u64, Image>,
    slow: BTreeSet<u64>,
    /// Members of different sides do not hear one another.
    sides: Vec<Vec<u64>>,
}

fn number(word: &str) -> Outcome<u64> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

fn numbers(words: &[&str]) -> Outcome<Vec<u64>> {
    words.iter().map(|word| number(word)).collect()
}

/// `A->B`.
fn link(word: &str) -> Outcome<(u64, u64)> {
    let (from, to) = word.split_once("->").ok_or(format!("{word:?} is not a link like 1->2"))?;
    Ok((number(from)?, number(to)?))
}

impl World {
    /// Runs one command and returns what it prints.
    pub(crate) fn run(&mut self, command: &str) -> Outcome<Vec<String>> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["disk", node, "term", term, "log", ref terms @ ..] => {
                let image = Image::with_log(number(term)?, &numbers(terms)?);
                self.disks.insert(number(node)?, image);
            }
            ["nodes", count] => self.start(number(count)?),
            ["cut", ref sides @ ..] => {
                let sides = sides.split(|word| *word == "|").map(numbers);
                self.sides = sides.collect::<Outcome<_>>()?;
            }
            ["read-back", count] => self.group()?.read_back_records = number(count)? as usize,
            ["heal"] => self.sides.clear(),
            ["slow", node] => drop(self.slow.insert(number(node)?)),
            ["fast", node] => drop(self.slow.remove(&number(node)?)),
            ["state"] => return self.state(),
            ["members"] => return self.members(),
            ["join"] => drop(self.group()?.join()),
            ["network"] => return Ok(self.group()?.network.iter().map(describe).collect()),
            ["deliver", "all"] => self.deliver_all(None)?,
            ["deliver", "all", "among", ref nodes @ ..] => {
                self.deliver_all(Some(numbers(nodes)?))?
            }
            ["deliver", between] => self.deliver(link(between)?, usize::MAX)?,
            ["deliver", between, count] => self.deliver(link(between)?, number(count)? as usize)?,
            ["tell", between, "append", ref rest @ ..] => self.tell_append(link(between)?, rest)?,
            ["run", millis] => self.run_on(number(millis)?, None)?,
            ["run", millis, "among", ref nodes @ ..] => {
                self.run_on(number(millis)?, Some(numbers(nodes)?))?;
            }
            ["drop", "all"] => self.group()?.network.clear(),
            ["drop", between] => {
                let between = link(between)?;
                self.group()?.network.retain(|packet| ends(packet) != between);
            }
            ["duplicate", between] => {
                let at = self.find(link(between)?)?;
                self.group()?.duplicate(at);
            }
            _ => self.run_on_member(command, &words)?,
        }
        self.settle_disks();
        Ok(Vec::new())
    }

    /// The commands that concern one member.
    fn run_on_member(&mut self, command: &str, words: &[&str]) -> Outcome<()> {
        let unknown = || format!("no command {command:?}; the list is in world.rs");
        let [verb, node, rest @ ..] = words else { return Err(unknown()) };
        let node = number(node).map_err(|_| unknown())?;
        let group = self.group()?;
        if node == 0 || node > group.members.len() as u64 {
            return Err(format!("there is no member {node}"));
        }
        let waits_for_nothing = group.member(node).raft.next_deadline() == Micros::MAX;
        match (*verb, rest) {
            ("campaign" | "timeout" | "elect", _) if waits_for_nothing => {
                return Err(format!("member {node} has no deadline"));
            }
            ("campaign", []) => {
                group.now = group.now + Micros::from_millis(200);
                group.time_out(node);
            }
            ("timeout", []) => group.time_out(node),
            ("elect", []) => self.elect(node, None)?,
            ("elect", ["among", nodes @ ..]) => self.elect(node, Some(numbers(nodes)?))?,
            ("propose", []) => self.propose(node, 1)?,
            ("propose", [count]) => self.propose(node, number(count)?)?,
            ("flush", []) => group.flush(node, usize::MAX),
            ("flush", [count]) => group.flush(node, number(count)? as usize),
            ("crash", []) => group.kill(node, 0),
            ("crash", ["keeping", count]) => group.kill(node, number(count)? as usize),
            ("restart", []) => group.restart(node),
            ("snapshot", []) => group.snapshot(node, 150),
            ("leave", []) => change(group, node, &ChangeRequest::Leave)?,
            ("cancel", []) => change(group, node, &ChangeRequest::Cancel)?,
            ("change", ["explicitly", steps @ ..]) => {
                change(group, node, &request(steps, Leave::Explicit)?)?;
            }
            ("change", steps) => change(group, node, &request(steps, Leave::Automatic)?)?,
            ("transfer", [to]) => {
                let outcome = group.transfer(node, Some(number(to)?));
                outcome.map_err(|error| error.to_string())?;
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn group(&mut self) -> Outcome<&mut Group> {
        self.group.as_mut().ok_or("there are no members yet; begin with \"nodes 3\"".into())
    }

    fn start(&mut self, count: u64) {
        let disks = (1..=count).map(|node| self.disks.remove(&node).unwrap_or_default());
        self.group = Some(Group::on_disks(disks.collect()).with_manual_timers());
    }

    /// Instant disks have done what they were given, and nothing crosses a cut.
    fn settle_disks(&mut self) {
        let Some(group) = &mut self.group else { return };
        let is_pending =
            |group: &Group, node: u64| !group.members[node as usize - 1].unsynced.is_empty();
        let fast = (1..=group.members.len() as u64).filter(|node| !self.slow.contains(node));
        for node in fast {
            while is_pending(group, node) {
                group.flush(node, usize::MAX);
            }
        }
        let side = |node: NodeId| self.sides.iter().position(|side| side.contains(&node.0));
        group.network.retain(|packet| side(packet.from) == side(packet.to));
    }

    fn find(&mut self, between: (u64, u64)) -> Outcome<usize> {
        let found = self.group()?.network.iter().position(|packet| ends(packet) == between);
        found.ok_or(format!("no message from {} to {} is under way", between.0, between.1))
    }

    fn run_on(&mut self, millis: u64, among: Option<Vec<u64>>) -> Outcome<()> {
        let group = self.group()?;
        let everybody = (1..=group.members.len() as u64).collect();
        group.run_among(&among.unwrap_or(everybody), millis);
        Ok(())
    }

    fn tell_append(&mut self, (from, to): (u64, u64), words: &[&str]) -> Outcome<()> {
        let after = words.iter().position(|word| *word == "after").unwrap_or(words.len());
        let ["after", index, "term", previous_term] = words[after..] else {
            return Err("say where: append TERMS after INDEX term TERM".into());
        };
        let index = number(index)?;
        let entries = records(index + 1, &numbers(&words[..after])?);
        let previous = position(number(previous_term)?, index);
        let leader = &self.group()?.member(from).raft;
        let (term, commit) = (leader.term().0, leader.commit_index().0);
        self.group()?.say(from, to, append(term, previous, commit, entries));
        Ok(())
    }

    fn deliver(&mut self, between: (u64, u64), count: usize) -> Outcome<()> {
        self.find(between)?;
        let under_way = self.group()?.network.iter().filter(|packet| ends(packet) == between);
        for _ in 0..count.min(under_way.count()) {
            let at = self.find(between)?;
            self.group()?.deliver(at);
        }
        Ok(())
    }

    /// The oldest message arrives, if there is one; others than those `among` are held back.
    fn deliver_next(&mut self, among: Option<&[u64]>) -> Outcome<bool> {
        self.settle_disks();
        let group = self.group()?;
        let is_in = |node: NodeId| among.is_none_or(|nodes| nodes.contains(&node.0));
        let next = group.network.iter().position(|packet| is_in(packet.from) && is_in(packet.to));
        if let Some(at) = next {
            group.deliver(at);
        }
        Ok(next.is_some())
    }

    fn deliver_all(&mut self, among: Option<Vec<u64>>) -> Outcome<()> {
        for _ in 0..DELIVERIES_MAX {
            if !self.deliver_next(among.as_deref())? {
                return Ok(());
            }
        }
        Err("the members talk without end".into())
    }

    fn elect(&mut self, node: u64, among: Option<Vec<u64>>) -> Outcome<()> {
        self.run(&format!("campaign {node}"))?;
        while self.group()?.member(node).raft.role() != RoleName::Leader {
            if !self.deliver_next(among.as_deref())? {
                return Err(format!("member {node} is not elected"));
            }
        }
        Ok(())
    }

    fn propose(&mut self, node: u64, count: u64) -> Outcome<()> {
        let group = self.group()?;
        if !group.member(node).raft.is_leader() {
            return Err(format!("member {node} does not lead"));
        }
        for _ in 0..count {
            group.propose(node);
        }
        Ok(())
    }

    fn members(&mut self) -> Outcome<Vec<String>> {
        let list = |nodes: Vec<NodeId>| {
            let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
            if nodes.is_empty() { "-".into() } else { nodes.join(" ") }
        };
        let describe = |member: &tests::group::Member| {
            let (node, membership) = (member.raft.node(), member.raft.membership());
            let (new, old) = (membership.incoming().to_vec(), membership.outgoing().to_vec());
            let outgoing = if old.is_empty() { "".into() } else { format!("  and {}", list(old)) };
            let learners = list(membership.learners().collect());
            let index = member.raft.membership_index();
            format!("{node}  by entry {index}  voters {}{outgoing}  learners {learners}", list(new))
        };
        Ok(self.group()?.members.iter().map(describe).collect())
    }

    fn state(&mut self) -> Outcome<Vec<String>> {
        let group = self.group()?;
        let count = group.members.len() as u64;
        Ok((1..=count).map(|node| line(group, node)).collect())
    }
}

fn ends(packet: &Packet) -> (u64, u64) {
    (packet.from.0, packet.to.0)
}

fn change(group: &mut Group, node: u64, request: &ChangeRequest) -> Outcome<()> {
    if !group.member(node).raft.is_leader() {
        return Err(format!("member {node} does not lead"));
    }
    group.change(node, request).map_err(|error| error.to_string())
}

fn request(steps: &[&str], leave: Leave) -> Outcome<ChangeRequest> {
    let step = |word: &&str| {
        let add = |is_joining| Step::Add { address: String::new(), claim: None, is_joining };
        match word.split_once(':') {
            None if *word == "add" => Ok(add(false)),
            None if *word == "add-joining" => Ok(add(true)),
            Some(("promote", node)) => Ok(Step::Promote(NodeId(number(node)?))),
            Some(("demote", node)) => Ok(Step::Demote(NodeId(number(node)?))),
            Some(("remove", node)) => Ok(Step::Remove(NodeId(number(node)?))),
            _ => Err(format!("{word:?} is no step of a change")),
        }
    };
    let steps = steps.iter().map(step).collect::<Outcome<_>>()?;
    Ok(ChangeRequest::Change(Change { steps, leave }))
}

/// A member in one line.
fn line(group: &Group, node: u64) -> String {
    let member = &group.members[node as usize - 1];
    let raft = &member.raft;
    let role = match raft.role() {
        _ if member.is_down => "down",
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    };
    let vote = raft.voted_for().map_or("-".into(), |voted| voted.to_string());
    let base = raft.base().index;
    let gone = if base > LogIndex::ZERO { format!("({base} gone) ") } else { String::new() };
    let terms: Vec<String> = group.log(node).iter().map(u64::to_string).collect();
    let (last, durable) = (raft.last_index(), raft.durable_index());
    let tail = if durable < last { format!("  (durable to {durable})") } else { String::new() };
    format!(
        "{node} {role:<13}  term {}  vote {vote}  commit {}  last {last}  log {gone}{}{tail}",
        raft.term(),
        raft.commit_index(),
        if terms.is_empty() { "-".into() } else { terms.join(" ") },
    )
}

fn place(position: LogPosition) -> String {
    format!("{} of term {}", position.index, position.term)
}

/// A message in one line.
fn describe(packet: &Packet) -> String {
    let answer = |granted: bool| if granted { "yes" } else { "no" };
    let what = match &packet.message.body {
        Body::PreVoteRequest { last } => format!("pre-vote? log ends at {}", place(*last)),
        Body::PreVoteResponse { granted } => format!("pre-vote: {}", answer(*granted)),
        Body::VoteRequest { last, is_transfer } => {
            let order = if *is_transfer { ", by order of the leader" } else { "" };
            format!("vote? log ends at {}{order}", place(*last))
        }
        Body::VoteResponse { granted } => format!("vote: {}", answer(*granted)),
        Body::Append { previous, commit, records, .. } => {
            let terms: Vec<String> = records.iter().map(|r| r.term().to_string()).collect();
            let entries = if terms.is_empty() { "nothing".into() } else { terms.join(" ") };
            format!("append {entries} after {}, commit {commit}", place(*previous))
        }
        Body::AppendResponse { outcome: AppendOutcome::Matched { match_index }, .. } => {
            format!("matched to {match_index}")
        }
        Body::AppendResponse { outcome: AppendOutcome::Rejected { hint, .. }, .. } => {
            format!("refused, may agree to {}", place(*hint))
        }
        Body::AppendResponse { outcome: AppendOutcome::StaleTerm, .. } => {
            "the append was of an earlier term".into()
        }
        Body::AppendResponse { outcome: AppendOutcome::WantsSnapshot { at_least }, .. } => {
            format!("wants a snapshot of at least {at_least}")
        }
        Body::AppendResponse { outcome: AppendOutcome::Lost { hint, .. }, .. } => {
            format!("refused, its disk has lost entries, may agree to {}", place(*hint))
        }
        Body::Snapshot { meta, offset, chunk, .. } => {
            let end = offset + chunk.len() as u64;
            format!("snapshot of {}, bytes {offset} to {end} of {}", place(meta.last), meta.bytes)
        }
        Body::SnapshotResponse { last, next_offset, .. } => {
            format!("snapshot of {}: has {next_offset} bytes", place(*last))
        }
        Body::TimeoutNow => "campaign now".into(),
        Body::ReadRequest { .. } => "read?".into(),
        Body::ReadResponse { index, .. } => format!("read from {index} on"),
        Body::Removed { membership_index } => format!("you were removed by {membership_index}"),
        Body::RecordsRequest { indices } => format!("{} records?", indices.len()),
        Body::Records { records, .. } => format!("{} records", records.len()),
        Body::OlderCopy { matched } => format!("you have once acknowledged {}", place(*matched)),
    };
    format!("{}->{}  term {}  {what}", packet.from, packet.to, packet.message.term)
}
