//! A group of Raft members in one thread, in which every delivery, flush, timeout and crash is a
//! decision of the test. Checks the five safety properties (Figure 3) after each.

use crate::image::{self, Image};
use bytes::Bytes;
use engine::api::{Token, TransferError};
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::{
    AppendOutcome, Body, ChangeError, ChangeRequest, LogPosition, Membership, Message, Output,
    Planned, Raft, RoleName, Settings, Standing,
};
use engine::storage::{HardState, Persist};
use engine::time::Micros;
use std::collections::BTreeMap;

const STANDING: Standing =
    Standing { priority: 0, is_fit: true, is_complete: true, is_short: false };

/// One of them.
pub struct Member {
    /// The member itself.
    pub raft: Raft,
    /// What its disk holds for certain.
    pub image: Image,
    /// Persists under way, oldest first.
    pub unsynced: Vec<Persist>,
    /// Everything this member ever had in its log and did not cut off: what it would read back.
    shadow: Image,
    /// Reads that may be answered: token, and what must be applied.
    pub reads: Vec<(u64, LogIndex)>,
    /// Reads that will not be answered.
    pub reads_failed: Vec<u64>,
    /// Why leadership was not handed over, each time.
    pub transfers_ended: Vec<TransferError>,
    /// What it was told that it has acknowledged, and its log does not reach.
    pub older_than: Option<LogPosition>,
    /// Whether it has crashed and not come back: it hears and does nothing.
    pub is_down: bool,
}

impl Member {
    /// The state in its newest snapshot from `offset` on; nothing if the snapshot is another.
    fn snapshot_chunk(&self, index: LogIndex, offset: u64, len: usize) -> Bytes {
        let snapshot = self.image.snapshot.as_ref().filter(|it| it.meta.last.index == index);
        let bytes = snapshot.map_or(Bytes::new(), |it| it.bytes.clone());
        let start = bytes.len().min(offset as usize);
        bytes.slice(start..bytes.len().min(start + len))
    }
}

/// A message under way.
#[derive(Debug)]
pub struct Packet {
    /// Who sent it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: Message,
}

/// Members 1 to n and everything between them.
pub struct Group {
    /// In the order of their ids.
    pub members: Vec<Member>,
    /// Messages under way, oldest first.
    pub network: Vec<Packet>,
    /// The time, one for all.
    pub now: Micros,
    /// How many entries a leader gets at once when it reads some back for a follower.
    pub read_back_records: usize,
    /// Whether deadlines that have passed wait for [`Group::time_out`].
    has_manual_timers: bool,
    /// Members 1 to this many were there from the beginning.
    founders: u64,
    proposals: u64,
    restarts: u64,
    leaders: BTreeMap<Term, NodeId>,
    /// What was ever committed: index by index.
    committed: Vec<(Term, Hlc)>,
    /// What was committed when each read of a schedule came in: it must see at least that.
    read_floors: BTreeMap<Token, LogIndex>,
}

/// How the members of every test are set up: elections after 100 to 200 ms, heartbeats each 10 ms,
/// and bounds that are reached soon.
#[must_use]
pub fn settings(node: u64, members: u64, seed: u64) -> Settings {
    Settings {
        node: NodeId(node),
        founding: Membership::new((1..=members).map(NodeId).collect()),
        priority: 0,
        lease_drift_ppm: None,
        election_timeout: Micros::from_millis(100),
        heartbeat_interval: Micros::from_millis(10),
        limits: Limits {
            inflight_entries_max: 4,
            log_cache_bytes_max: 300,
            snapshot_chunk_bytes_max: 100,
            ..Limits::default()
        },
        seed,
    }
}

impl Group {
    /// Members 1 to `members` with empty disks.
    #[must_use]
    pub fn new(members: u64) -> Self {
        Self::on_disks((0..members).map(|_| Image::default()).collect())
    }

    /// One member for each disk, started on what it holds.
    #[must_use]
    pub fn on_disks(images: Vec<Image>) -> Self {
        let now = Micros::from_secs(1);
        let members = images.len() as u64;
        let member = |(image, node): (Image, u64)| Member {
            raft: Raft::new(settings(node, members, node), &image.recovered(), now),
            shadow: image.clone(),
            image,
            unsynced: Vec::new(),
            reads: Vec::new(),
            reads_failed: Vec::new(),
            transfers_ended: Vec::new(),
            older_than: None,
            is_down: false,
        };
        let proposals = images.iter().filter_map(|image| image.log.last()).map(|r| r.hlc().0).max();
        Self {
            members: images.into_iter().zip(1..).map(member).collect(),
            network: Vec::new(),
            now,
            read_back_records: 3,
            has_manual_timers: false,
            founders: members,
            proposals: proposals.unwrap_or(0),
            restarts: 0,
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            read_floors: BTreeMap::new(),
        }
    }

    /// The same with timers that fire when the test says so and not by themselves: time may pass
    /// for one member without the others' campaigning too.
    #[must_use]
    pub fn with_manual_timers(mut self) -> Self {
        self.has_manual_timers = true;
        self
    }

    /// Member `node`.
    pub fn member(&mut self, node: u64) -> &mut Member {
        &mut self.members[node as usize - 1]
    }

    /// The leader of the highest term, if there is one.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        let leads = |member: &&Member| !member.is_down && member.raft.is_leader();
        let leaders = self.members.iter().filter(leads);
        leaders.max_by_key(|member| member.raft.term()).map(|member| member.raft.node().0)
    }

    fn act(&mut self, node: u64, act: impl FnOnce(&mut Raft, Micros, &mut Vec<Output>)) {
        self.act_with_timers(node, !self.has_manual_timers, act);
    }

    fn act_with_timers(
        &mut self,
        node: u64,
        may_fire: bool,
        act: impl FnOnce(&mut Raft, Micros, &mut Vec<Output>),
    ) {
        if self.member(node).is_down {
            return;
        }
        let mut out = Vec::new();
        let now = self.now;
        act(&mut self.member(node).raft, now, &mut out);
        let is_newly_elected = self.member(node).raft.wants_first_entry();
        if is_newly_elected {
            self.append(node);
        }
        if let Some(membership) = self.member(node).raft.wants_membership(now) {
            self.append_membership(node, &membership);
        }
        let raft = &mut self.member(node).raft;
        // Who was just elected says so at once, which is a heartbeat that is due.
        let just_before = Micros(raft.next_deadline().0 - 1);
        let turn_at = if may_fire || is_newly_elected { now } else { now.min(just_before) };
        raft.on_turn(turn_at, &mut out);
        for output in out {
            self.take(node, output);
        }
        let member = self.member(node);
        member.raft.check_invariants();
        member.raft.trim_cache();
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
                member.shadow.take(&persist);
                member.unsynced.push(persist);
            }
            Output::Fetch { follower, first } => {
                let count = self.read_back_records;
                let records = self.member(node).shadow.read(first, count);
                self.feed(node, |raft, _, out| raft.on_fetched(follower, records, out));
            }
            Output::ReadSnapshot { follower, index, offset, len } => {
                let chunk = self.member(node).snapshot_chunk(index, offset, len);
                self.feed(node, |raft, now, out| {
                    raft.on_snapshot_read(follower, index, offset, chunk, now, out);
                });
            }
            // Taken when the test says so.
            Output::WantSnapshot { .. } => {}
            // A snapshot is handed over before the persist that rests on it, and is durable first.
            Output::Install(snapshot) => self.member(node).image.snapshot = Some(*snapshot),
            Output::TransferEnded(error) => self.member(node).transfers_ended.push(error),
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
            Output::ReadsFailed { tokens } => {
                self.member(node).reads_failed.extend(tokens.iter().map(|token| token.0));
            }
            Output::Truncated { .. } => {}
            Output::OlderCopy { matched } => self.member(node).older_than = Some(matched),
        }
    }

    /// An answer of the disk comes within the same turn.
    fn feed(&mut self, node: u64, act: impl FnOnce(&mut Raft, Micros, &mut Vec<Output>)) {
        let (mut out, now) = (Vec::new(), self.now);
        act(&mut self.member(node).raft, now, &mut out);
        for output in out {
            self.take(node, output);
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
                let durable = member.image.last_index();
                assert!(*match_index <= durable, "acknowledged {match_index}, durable {durable}");
            }
            Body::VoteRequest { last, .. } => {
                let durable = member.image.last_index();
                assert!(last.index <= durable, "campaigns with {last:?}, durable {durable}");
            }
            Body::VoteResponse { granted: false }
            | Body::AppendResponse { outcome: AppendOutcome::Rejected { .. }, .. }
            | Body::AppendResponse { outcome: AppendOutcome::StaleTerm, .. }
            | Body::AppendResponse { outcome: AppendOutcome::Lost { .. }, .. }
            | Body::Append { .. }
            | Body::AppendResponse { outcome: AppendOutcome::WantsSnapshot { .. }, .. }
            | Body::PreVoteRequest { .. }
            | Body::PreVoteResponse { .. }
            | Body::Snapshot { .. }
            | Body::SnapshotResponse { .. }
            | Body::TimeoutNow
            | Body::ReadRequest { .. }
            | Body::ReadResponse { .. }
            | Body::Removed { .. }
            | Body::RecordsRequest { .. }
            | Body::Records { .. }
            | Body::OlderCopy { .. } => {}
        }
    }

    fn append(&mut self, node: u64) {
        let (index, term, stamp) = self.next_entry(node);
        self.member(node).raft.append(image::sized_record(index, term, stamp, 0));
    }

    fn append_membership(&mut self, node: u64, membership: &Membership) {
        let (index, term, stamp) = self.next_entry(node);
        let record = image::membership_record(index, term, stamp, membership);
        self.member(node).raft.append(record);
    }

    /// Index, term and stamp of a leader's next entry.
    fn next_entry(&mut self, node: u64) -> (u64, u64, Hlc) {
        let raft = &self.members[node as usize - 1].raft;
        let stamp = Hlc(self.proposals + 1).max(raft.last_stamp().next());
        self.proposals = stamp.0;
        (raft.next_index().0, raft.term().0, stamp)
    }

    /// The leader is asked for a change of the membership.
    ///
    /// # Errors
    /// As the leader says.
    pub fn change(&mut self, node: u64, request: &ChangeRequest) -> Result<(), ChangeError> {
        let now = self.now;
        if let Planned::Append(membership) = self.member(node).raft.plan_change(request, now)? {
            self.append_membership(node, &membership);
        }
        self.turn(node);
        Ok(())
    }

    /// The leader is asked to hand over; `None` if there is nothing to hand over.
    ///
    /// # Errors
    /// As the leader says.
    pub fn transfer(&mut self, node: u64, to: Option<u64>) -> Result<Option<u64>, TransferError> {
        let now = self.now;
        let mut out = Vec::new();
        let begun = self.member(node).raft.transfer(to.map(NodeId), now, &mut out);
        for output in out {
            self.take(node, output);
        }
        self.turn(node);
        begun.map(|to| to.map(|node| node.0))
    }

    /// A node starts that was no founder; its id is the next one.
    pub fn join(&mut self) -> u64 {
        let node = self.members.len() as u64 + 1;
        let image = Image::default();
        self.members.push(Member {
            raft: Raft::new(settings(node, 0, node), &image.recovered(), self.now),
            shadow: image.clone(),
            image,
            unsynced: Vec::new(),
            reads: Vec::new(),
            reads_failed: Vec::new(),
            transfers_ended: Vec::new(),
            older_than: None,
            is_down: false,
        });
        node
    }

    /// The member makes a snapshot of `bytes` of state up to what is committed and durable; it is
    /// durable at once. The log before the previous one goes.
    pub fn snapshot(&mut self, node: u64, bytes: usize) {
        let Member { raft, image, shadow, .. } = self.member(node);
        let last = raft.commit_index().min(raft.durable_index());
        if raft.snapshot().map_or(0, |meta| meta.last.index.0) >= last.0 {
            return;
        }
        let stamp = shadow.read(last, 1).first().map_or(Hlc::ZERO, engine::record::Record::hlc);
        // Equal on all members that snapshot at the same entry.
        let state = vec![last.0 as u8; bytes];
        let snapshot = raft.make_snapshot(last, stamp, state);
        image.snapshot = Some(snapshot.clone());
        let first = raft.on_snapshot_saved(snapshot.meta);
        image.purge(first);
        shadow.purge(first);
        self.turn(node);
    }

    /// The member appends an entry, if it leads.
    pub fn propose(&mut self, node: u64) {
        if self.member(node).raft.is_leader() && !self.member(node).raft.wants_first_entry() {
            self.append(node);
            self.act(node, |_, _, _| {});
        }
    }

    /// The member takes a read, which must see everything that is committed by now.
    pub fn read(&mut self, node: u64, token: u64) {
        let floor = LogIndex(self.committed.len() as u64);
        self.read_floors.insert(Token(token), floor);
        self.act(node, |raft, _, out| raft.read_here(Token(token), out));
    }

    /// Delivers an answer of `follower` to the leader, in the leader's term.
    pub fn answer_append(&mut self, follower: u64, leader: u64, outcome: AppendOutcome) {
        let term = self.member(leader).raft.term();
        let message =
            Message { term, body: Body::AppendResponse { round: 0, standing: STANDING, outcome } };
        let at = self.network.len();
        self.network.push(Packet { from: NodeId(follower), to: NodeId(leader), message });
        self.deliver(at);
    }

    /// The member's next deadline passes. Time is one for all here.
    pub fn time_out(&mut self, node: u64) {
        if self.member(node).raft.next_deadline() == Micros::MAX {
            // Whoever never campaigns has no timer.
            return;
        }
        self.now = self.now.max(self.member(node).raft.next_deadline());
        self.act_with_timers(node, true, |_, _, _| {});
    }

    /// Time passes: everybody's timers fire, and whatever is said arrives among the `reachable`.
    pub fn run_among(&mut self, reachable: &[u64], millis: u64) {
        let end = self.now + Micros::from_millis(millis);
        while self.now < end {
            self.now = self.now + Micros::from_millis(5);
            for node in 1..=self.members.len() as u64 {
                if self.member(node).raft.next_deadline() <= self.now {
                    self.time_out(node);
                }
            }
            self.settle_among(reachable);
        }
    }

    /// The member's loop turns.
    pub fn turn(&mut self, node: u64) {
        self.act(node, |_, _, _| {});
    }

    /// The `packet`th message under way arrives; at a member that is down it is lost.
    pub fn deliver(&mut self, packet: usize) {
        let Packet { from, to, message } = self.network.remove(packet);
        if to.0 > self.members.len() as u64 {
            // An id that was given out to a node that has not started.
            return;
        }
        self.act(to.0, |raft, now, out| raft.on_message(from, message, now, out));
    }

    /// A message arrives that the test makes up, before everything that is under way.
    pub fn say(&mut self, from: u64, to: u64, message: Message) {
        self.network.insert(0, Packet { from: NodeId(from), to: NodeId(to), message });
        self.deliver(0);
    }

    /// The network makes a second copy of the `packet`th message under way.
    pub fn duplicate(&mut self, packet: usize) {
        let Packet { from, to, message } = &self.network[packet];
        let copy = Packet { from: *from, to: *to, message: message.clone() };
        self.network.push(copy);
    }

    /// The first `count` persists under way become durable and are reported as one.
    pub fn flush(&mut self, node: u64, count: usize) {
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

    /// The member dies and comes back; of what was under way the first `kept` persists happen to be
    /// on the disk.
    pub fn crash(&mut self, node: u64, kept: usize) {
        self.kill(node, kept);
        self.restart(node);
    }

    /// The member dies; of what was under way the first `kept` persists happen to be on the disk.
    pub fn kill(&mut self, node: u64, kept: usize) {
        let member = self.member(node);
        let kept = kept.min(member.unsynced.len());
        for persist in member.unsynced.drain(..).take(kept) {
            member.image.take(&persist);
        }
        member.reads.clear();
        member.is_down = true;
    }

    /// The member dies, its disk damages the entries from `first` on, and it comes back.
    pub fn rot(&mut self, node: u64, first: u64) {
        self.kill(node, usize::MAX);
        self.member(node).image.rot(LogIndex(first));
        self.restart(node);
    }

    /// A member that was killed comes back with what its disk holds.
    pub fn restart(&mut self, node: u64) {
        self.restarts += 1;
        let (now, seed) = (self.now, self.restarts * 64 + node);
        let founders = if node <= self.founders { self.founders } else { 0 };
        let member = self.member(node);
        let recovered = member.image.recovered();
        member.shadow = member.image.clone();
        member.raft = Raft::new(settings(node, founders, seed), &recovered, now);
        member.is_down = false;
    }

    /// Delivers and flushes everything until nothing moves.
    pub fn settle(&mut self) {
        let everybody: Vec<u64> = (1..=self.members.len() as u64).collect();
        self.settle_among(&everybody);
    }

    /// The same while only `reachable` members hear one another and all other messages are lost.
    pub fn settle_among(&mut self, reachable: &[u64]) {
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

    /// As if `node` had been cut off meanwhile.
    pub fn drop_packets_of(&mut self, node: u64) {
        self.network.retain(|packet| packet.from.0 != node && packet.to.0 != node);
    }

    /// Loses what is under way between two members.
    pub fn drop_packets_between(&mut self, a: u64, b: u64) {
        let is_between = |from, to| (from, to) == (a, b) || (from, to) == (b, a);
        self.network.retain(|packet| !is_between(packet.from.0, packet.to.0));
    }

    /// The terms of the member's entries after its base, in order.
    #[must_use]
    pub fn log(&self, node: u64) -> Vec<u64> {
        let raft = &self.members[node as usize - 1].raft;
        let term = |index| raft.term_at(LogIndex(index)).expect("within the log").0;
        (raft.base().index.next().0..=raft.last_index().0).map(term).collect()
    }

    /// Every member's role, in order.
    #[must_use]
    pub fn roles(&self) -> Vec<RoleName> {
        self.members.iter().map(|member| member.raft.role()).collect()
    }

    /// Every member's term, in order.
    #[must_use]
    pub fn terms(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.raft.term().0).collect()
    }

    /// Makes `node` campaign and win, everybody answering.
    pub fn elect(&mut self, node: u64) {
        let everybody: Vec<u64> = (1..=self.members.len() as u64).collect();
        self.now = self.now + Micros::from_millis(150);
        self.elect_among(node, &everybody);
        self.settle();
    }

    /// Makes `node` campaign and win with the votes of `reachable` members, and stops as soon as it
    /// leads. A member that heard a leader lately refuses, so time must have passed.
    pub fn elect_among(&mut self, node: u64, reachable: &[u64]) {
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
        panic!("member {node} is not elected among {reachable:?}: {:?}", self.roles());
    }

    fn check_safety(&mut self) {
        for member in &self.members {
            let (node, term) = (member.raft.node(), member.raft.term());
            if !member.is_down && member.raft.is_leader() {
                let first = *self.leaders.entry(term).or_insert(node);
                assert_eq!(first, node, "election safety: two leaders in {term}");
            }
        }
        for member in &self.members {
            let raft = &member.raft;
            // What lies before the base is gone, and after a snapshot not all has come yet.
            let known = raft.base().index.0.max(1)..=raft.commit_index().min(raft.last_index()).0;
            for index in known {
                let term = raft.term_at(LogIndex(index)).expect("after the base, before the end");
                match self.committed.get(index as usize - 1) {
                    Some((committed, _)) => {
                        assert_eq!(*committed, term, "state machine safety at {index}");
                    }
                    None => self.committed.push((term, Hlc::ZERO)),
                }
            }
        }
        // Leader completeness: whoever leads the highest term ever seen has all that was committed.
        let Some((term, node)) = self.leaders.last_key_value() else { return };
        let Member { raft: leader, is_down, .. } = &self.members[node.0 as usize - 1];
        if !is_down && leader.is_leader() && leader.term() == *term {
            let gone = leader.base().index.0 as usize;
            for (at, (committed, _)) in self.committed.iter().enumerate().skip(gone) {
                let found = leader.term_at(LogIndex(at as u64 + 1));
                assert_eq!(found, Some(*committed), "leader completeness");
            }
        }
    }
}
