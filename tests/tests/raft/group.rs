//! A group of Raft members in one thread, in which every delivery, flush, timeout and crash is a
//! decision of the test. Checks the five safety properties (Figure 3) after each.

use engine::api::Token;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::{AppendOutcome, Body, Membership, Message, Output, Raft, RoleName, Settings};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::{HardState, Persist, Recovered};
use engine::time::Micros;
use std::collections::BTreeMap;

/// What a member's disk holds for certain.
#[derive(Clone, Default)]
struct Image {
    hard_state: HardState,
    log: Vec<Record>,
}

impl Image {
    fn take(&mut self, persist: &Persist) {
        self.hard_state = persist.hard_state;
        if let Some(first) = persist.records.first() {
            self.log.truncate(first.index().previous().0 as usize);
            self.log.extend(persist.records.iter().cloned());
        }
    }

    fn recovered(&self) -> Recovered {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for record in &self.log {
            if term_runs.last().is_none_or(|(_, term)| *term != record.term()) {
                term_runs.push((record.index(), record.term()));
            }
        }
        Recovered {
            hard_state: self.hard_state,
            term_runs,
            last_index: LogIndex(self.log.len() as u64),
            last_stamp: self.log.last().map_or(Hlc::ZERO, Record::hlc),
            torn_bytes: 0,
        }
    }
}

pub(crate) struct Member {
    pub(crate) raft: Raft,
    image: Image,
    /// Persists under way, oldest first.
    pub(crate) unsynced: Vec<Persist>,
    /// Everything this member ever had in its log and did not cut off: what it would read back.
    shadow: Vec<Record>,
    pub(crate) reads: Vec<(u64, LogIndex)>,
}

pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

pub(crate) struct Group {
    pub(crate) members: Vec<Member>,
    pub(crate) network: Vec<Packet>,
    pub(crate) now: Micros,
    seed: ChecksumSeed,
    proposals: u64,
    restarts: u64,
    leaders: BTreeMap<Term, NodeId>,
    /// What was ever committed: index by index.
    committed: Vec<(Term, Hlc)>,
    /// What was committed when each read of a schedule came in: it must see at least that.
    read_floors: BTreeMap<Token, LogIndex>,
}

fn settings(node: u64, members: u64, seed: u64) -> Settings {
    Settings {
        node: NodeId(node),
        membership: Membership::new((1..=members).map(NodeId).collect()),
        election_timeout: Micros::from_millis(100),
        heartbeat_interval: Micros::from_millis(10),
        limits: Limits { inflight_entries_max: 4, log_cache_bytes_max: 300, ..Limits::default() },
        seed,
    }
}

impl Group {
    pub(crate) fn new(members: u64) -> Self {
        let now = Micros::from_secs(1);
        let member = |node| Member {
            raft: Raft::new(settings(node, members, node), &Image::default().recovered(), now),
            image: Image::default(),
            unsynced: Vec::new(),
            shadow: Vec::new(),
            reads: Vec::new(),
        };
        Self {
            members: (1..=members).map(member).collect(),
            network: Vec::new(),
            now,
            seed: ChecksumSeed::of(ClusterId([7; 16]), GroupId(0)),
            proposals: 0,
            restarts: 0,
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            read_floors: BTreeMap::new(),
        }
    }

    pub(crate) fn member(&mut self, node: u64) -> &mut Member {
        &mut self.members[node as usize - 1]
    }

    /// The leader of the highest term, if there is one.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.members.iter().filter(|member| member.raft.is_leader());
        leaders.max_by_key(|member| member.raft.term()).map(|member| member.raft.node().0)
    }

    fn act(&mut self, node: u64, act: impl FnOnce(&mut Raft, Micros, &mut Vec<Output>)) {
        let mut out = Vec::new();
        let now = self.now;
        let last = self.proposals;
        act(&mut self.member(node).raft, now, &mut out);
        if self.member(node).raft.wants_first_entry() {
            self.append(node);
        }
        self.member(node).raft.on_turn(now, &mut out);
        assert!(self.proposals >= last);
        for output in out {
            self.take(node, output);
        }
        let member = self.member(node);
        member.raft.check_invariants();
        let applied = member.raft.commit_index();
        member.raft.trim_cache(applied);
        self.check_safety();
    }

    fn take(&mut self, node: u64, output: Output) {
        match output {
            Output::Send { to, message } => {
                self.check_promise(node, to, &message);
                self.network.push(Packet { from: NodeId(node), to, message });
            }
            Output::Persist(persist) => {
                let member = self.member(node);
                if let Some(first) = persist.records.first() {
                    member.shadow.truncate(first.index().previous().0 as usize);
                    member.shadow.extend(persist.records.iter().cloned());
                }
                member.unsynced.push(persist);
            }
            Output::Fetch { follower, first } => {
                let records = self.member(node).shadow[first.0 as usize - 1..].iter().take(3);
                let records = records.cloned().collect();
                let mut out = Vec::new();
                self.member(node).raft.on_fetched(follower, records, &mut out);
                for output in out {
                    self.take(node, output);
                }
            }
            Output::ReadsReady { tokens, index } => {
                for token in &tokens {
                    let floor = self.read_floors.get(token).copied().unwrap_or_default();
                    assert!(
                        index >= floor,
                        "read {token:?} at {index} misses what is up to {floor}"
                    );
                }
                let reads = tokens.into_iter().map(|token| (token.0, index));
                self.member(node).reads.extend(reads);
            }
            Output::ReadsFailed { .. } | Output::Truncated { .. } => {}
        }
    }

    /// What a member promises in its present term is on its disk (Figure 2: "updated on stable
    /// storage before responding"). A promise of an earlier term may have been overtaken since.
    fn check_promise(&mut self, node: u64, to: NodeId, message: &Message) {
        let member = self.member(node);
        if message.term != member.raft.term() {
            return;
        }
        match &message.body {
            Body::VoteResponse { granted: true } => {
                let HardState { term, voted_for, .. } = member.image.hard_state;
                assert_eq!((term, voted_for), (message.term, Some(to)), "a vote is durable");
            }
            Body::AppendResponse { outcome: AppendOutcome::Matched { match_index }, .. } => {
                let durable = LogIndex(member.image.log.len() as u64);
                assert!(*match_index <= durable, "acknowledged {match_index}, durable {durable}");
            }
            Body::VoteRequest { last } => {
                let durable = LogIndex(member.image.log.len() as u64);
                assert!(last.index <= durable, "campaigns with {last:?}, durable {durable}");
            }
            Body::VoteResponse { granted: false }
            | Body::AppendResponse { outcome: AppendOutcome::Rejected { .. }, .. }
            | Body::Append { .. }
            | Body::PreVoteRequest { .. }
            | Body::PreVoteResponse { .. } => {}
        }
    }

    fn append(&mut self, node: u64) {
        self.proposals += 1;
        let stamp = Hlc(self.proposals);
        let (seed, raft) = (self.seed, &mut self.member(node).raft);
        let stamp = stamp.max(raft.last_stamp().next());
        let record = RecordBuilder::default().seal(
            seed,
            GroupId(0),
            raft.next_index(),
            raft.term(),
            stamp,
            EntryKind::Tick,
        );
        raft.append(record);
        self.proposals = self.proposals.max(stamp.0);
    }

    /// The member appends an entry, if it leads.
    pub(crate) fn propose(&mut self, node: u64) {
        if self.member(node).raft.is_leader() && !self.member(node).raft.wants_first_entry() {
            self.append(node);
            self.act(node, |_, _, _| {});
        }
    }

    /// The leader takes a read, which must see everything that is committed by now.
    pub(crate) fn read(&mut self, node: u64, token: u64) {
        let floor = LogIndex(self.committed.len() as u64);
        self.read_floors.insert(Token(token), floor);
        self.member(node).raft.read(Token(token));
        self.turn(node);
    }

    /// Delivers an answer of `follower` to the leader, in the leader's term.
    pub(crate) fn answer_append(&mut self, follower: u64, leader: u64, outcome: AppendOutcome) {
        let term = self.member(leader).raft.term();
        let message = Message { term, body: Body::AppendResponse { round: 0, outcome } };
        let at = self.network.len();
        self.network.push(Packet { from: NodeId(follower), to: NodeId(leader), message });
        self.deliver(at);
    }

    /// The member's next deadline passes. Time is one for all here.
    pub(crate) fn time_out(&mut self, node: u64) {
        self.now = self.now.max(self.member(node).raft.next_deadline());
        self.act(node, |_, _, _| {});
    }

    pub(crate) fn turn(&mut self, node: u64) {
        self.act(node, |_, _, _| {});
    }

    pub(crate) fn deliver(&mut self, packet: usize) {
        let Packet { from, to, message } = self.network.remove(packet);
        self.act(to.0, |raft, now, out| raft.on_message(from, message, now, out));
    }

    pub(crate) fn duplicate(&mut self, packet: usize) {
        let Packet { from, to, message } = &self.network[packet];
        let copy = Packet { from: *from, to: *to, message: message.clone() };
        self.network.push(copy);
    }

    /// The first `count` persists under way become durable and are reported as one.
    pub(crate) fn flush(&mut self, node: u64, count: usize) {
        let member = self.member(node);
        let count = count.min(member.unsynced.len());
        let done: Vec<Persist> = member.unsynced.drain(..count).collect();
        for persist in &done {
            member.image.take(persist);
        }
        if let Some(last) = done.last() {
            let io = last.io;
            self.act(node, |raft, now, out| raft.on_persisted(io, now, out));
        }
    }

    /// The member dies; of what was under way the first `kept` persists happen to be on the disk.
    pub(crate) fn crash(&mut self, node: u64, kept: usize) {
        self.restarts += 1;
        let (now, count, seed) = (self.now, self.members.len() as u64, self.restarts * 64 + node);
        let member = self.member(node);
        let kept = kept.min(member.unsynced.len());
        for persist in member.unsynced.drain(..).take(kept) {
            member.image.take(&persist);
        }
        let recovered = member.image.recovered();
        member.shadow = member.image.log.clone();
        member.raft = Raft::new(settings(node, count, seed), &recovered, now);
        member.reads.clear();
    }

    /// Delivers and flushes everything until nothing moves.
    pub(crate) fn settle(&mut self) {
        let everybody: Vec<u64> = (1..=self.members.len() as u64).collect();
        self.settle_among(&everybody);
    }

    /// The same while only `reachable` members hear one another and all other messages are lost.
    pub(crate) fn settle_among(&mut self, reachable: &[u64]) {
        for _ in 0..10_000 {
            let is_in = |id: NodeId| reachable.contains(&id.0);
            self.network.retain(|packet| is_in(packet.from) && is_in(packet.to));
            let mut is_quiet = self.network.is_empty();
            if !is_quiet {
                self.deliver(0);
            }
            for node in reachable {
                is_quiet &= self.member(*node).unsynced.is_empty();
                self.flush(*node, usize::MAX);
            }
            if is_quiet {
                return;
            }
        }
        panic!("the group does not come to rest");
    }

    /// The record that a leader of `term` would make at `index`.
    pub(crate) fn record(&self, index: u64, term: u64) -> Record {
        let (index, term, stamp) = (LogIndex(index), Term(term), Hlc(index * 100 + term));
        RecordBuilder::default().seal(self.seed, GroupId(0), index, term, stamp, EntryKind::Tick)
    }

    /// As if `node` had been cut off meanwhile.
    pub(crate) fn drop_packets_of(&mut self, node: u64) {
        self.network.retain(|packet| packet.from.0 != node && packet.to.0 != node);
    }

    /// Makes `node` campaign and win, everybody answering.
    pub(crate) fn elect(&mut self, node: u64) {
        let everybody: Vec<u64> = (1..=self.members.len() as u64).collect();
        self.now = self.now + Micros::from_millis(150);
        self.elect_among(node, &everybody);
        self.settle();
    }

    /// Makes `node` campaign and win with the votes of `reachable` members, and stops as soon as it
    /// leads. A member that heard a leader lately refuses, so time must have passed.
    pub(crate) fn elect_among(&mut self, node: u64, reachable: &[u64]) {
        self.time_out(node);
        for _ in 0..1_000 {
            if self.member(node).raft.is_leader() {
                return;
            }
            let is_in = |id: NodeId| reachable.contains(&id.0);
            self.network.retain(|packet| is_in(packet.from) && is_in(packet.to));
            if !self.network.is_empty() {
                self.deliver(0);
            }
            for member in reachable {
                self.flush(*member, usize::MAX);
            }
        }
        let roles: Vec<RoleName> = self.members.iter().map(|member| member.raft.role()).collect();
        panic!("member {node} is not elected among {reachable:?}: {roles:?}");
    }

    fn check_safety(&mut self) {
        for member in &self.members {
            let (node, term) = (member.raft.node(), member.raft.term());
            if member.raft.is_leader() {
                let first = *self.leaders.entry(term).or_insert(node);
                assert_eq!(first, node, "election safety: two leaders in {term}");
            }
        }
        for member in &self.members {
            let commit = member.raft.commit_index().0 as usize;
            for at in 0..commit {
                let index = LogIndex(at as u64 + 1);
                let term = member.raft.term_at(index).expect("committed entries are in the log");
                match self.committed.get(at) {
                    Some((committed, _)) => {
                        assert_eq!(*committed, term, "state machine safety at {index}");
                    }
                    None => self.committed.push((term, Hlc::ZERO)),
                }
            }
        }
        // Leader completeness: whoever leads the highest term ever seen has all that was committed.
        let Some((term, node)) = self.leaders.last_key_value() else { return };
        let leader = &self.members[node.0 as usize - 1].raft;
        if leader.is_leader() && leader.term() == *term {
            for (at, (committed, _)) in self.committed.iter().enumerate() {
                let found = leader.term_at(LogIndex(at as u64 + 1));
                assert_eq!(found, Some(*committed), "leader completeness");
            }
        }
    }
}
