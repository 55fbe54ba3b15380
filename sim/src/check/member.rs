//! One member: the real [`Raft`], its disk, and what is on the way to it.
//!
//! Owns what happens to one member at a time, the way `engine` drives it: an input, the first entry
//! of a term if one is due, a turn. Never decides what happens next, and knows no other member.
//! Next: `catalog` keeps every member ever seen.

use super::form::CLOCK_START;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::{ChangeRequest, Membership, Message, Output, Planned, Raft, Settings};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::{HardState, IoId, Persist, Recovered};
use engine::time::Micros;

/// Most entries of a log here. The bounds keep logs well below.
pub(super) const ENTRIES_MAX: usize = 12;

/// What a member's disk holds for certain.
#[derive(Clone, Default, Debug)]
pub(super) struct Image {
    pub(super) hard_state: HardState,
    pub(super) log: Vec<Record>,
}

impl Image {
    fn take(&mut self, persist: &Persist) {
        self.hard_state = persist.hard_state;
        replace_tail(&mut self.log, &persist.records);
    }

    fn recovered(&self) -> Recovered {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for record in &self.log {
            if term_runs.last().is_none_or(|(_, term)| *term != record.term()) {
                term_runs.push((record.index(), record.term()));
            }
        }
        let of_members = self.log.iter().filter(|record| record.kind() == EntryKind::Membership);
        let memberships = of_members.map(|record| {
            let membership = Membership::decode(record.payload());
            (record.index(), membership.expect("written by a leader"))
        });
        Recovered {
            memberships: memberships.collect(),
            hard_state: self.hard_state,
            term_runs,
            last_index: LogIndex(self.log.len() as u64),
            last_stamp: self.log.last().map_or(Hlc::ZERO, Record::hlc),
            ..Recovered::default()
        }
    }
}

/// Puts `records` where they belong, and nothing after them.
fn replace_tail(log: &mut Vec<Record>, records: &[Record]) {
    if let Some(first) = records.first() {
        let kept = usize::try_from(first.index().previous().0).expect("logs are short here");
        log.truncate(kept);
        log.extend(records.iter().cloned());
    }
}

/// What can happen to a member by itself, or by a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Input {
    /// A message arrives.
    Deliver {
        /// Whose.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// The clock reaches the next deadline: an election, or on a leader a heartbeat.
    TimeOut,
    /// The leader appends an entry.
    Propose,
    /// The leader is asked to change the membership.
    Change(ChangeRequest),
    /// The first so many persists under way are durable, and reported together.
    Flush(usize),
    /// Power fails; of the persists under way the first so many are on the disk. The member is back
    /// at once: one that is down and one that is not heard of cannot be told apart.
    Crash(usize),
}

/// A message on its way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    pub(super) to: NodeId,
    pub(super) message: Message,
}

/// What all members of a group have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) members: usize,
    /// Whether disks take no time.
    pub(super) is_flushed_at_once: bool,
    /// Most entries in a message and on the way to a follower.
    pub(super) window: u64,
}

/// One member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) raft: Raft,
    pub(super) image: Image,
    /// Persists under way, oldest first.
    pub(super) unsynced: Vec<Persist>,
    /// When each of them was issued.
    issued_at: Vec<Micros>,
    pub(super) now: Micros,
    /// The last persist that was reported durable.
    pub(super) durable_io: IoId,
}

/// What came of an input.
pub(super) struct Outcome {
    pub(super) member: Member,
    pub(super) sent: Vec<Sent>,
    /// Entries were cut off the log.
    pub(super) is_truncated: bool,
    /// Entries were read back from the disk for a follower.
    pub(super) is_fetched: bool,
}

/// The one record that a term can have at an index: there is one leader a term, and it appends once.
fn record(index: LogIndex, term: Term, kind: EntryKind, payload: &[u8]) -> Record {
    let seed = ChecksumSeed::of(ClusterId([7; 16]), GroupId(0));
    let stamp = Hlc(index.0 << 16 | term.0);
    let mut builder = RecordBuilder::default();
    builder.payload_mut().extend_from_slice(payload);
    builder.seal(seed, GroupId(0), index, term, stamp, kind)
}

fn settings(node: u64, setup: Setup) -> Settings {
    Settings {
        node: NodeId(node),
        founding: Membership::new((1..=setup.members as u64).map(NodeId).collect()),
        // The shortest there are: a timeout is drawn from 1..2 and so is always 1, which leaves
        // nothing to chance. When it passes, the model decides.
        election_timeout: Micros(1),
        heartbeat_interval: Micros(1),
        priority: 0,
        lease_drift_ppm: None,
        limits: Limits { inflight_entries_max: setup.window, ..Limits::default() },
        seed: 0,
    }
}

impl Member {
    /// A member that has seen nothing yet.
    pub(super) fn new(node: u64, setup: Setup) -> Self {
        Self::start(node, setup, Image::default())
    }

    fn start(node: u64, setup: Setup, image: Image) -> Self {
        Self {
            raft: Raft::new(settings(node, setup), &image.recovered(), CLOCK_START),
            image,
            unsynced: Vec::new(),
            issued_at: Vec::new(),
            now: CLOCK_START,
            durable_io: IoId::default(),
        }
    }

    /// What becomes of this member by `input`. Panics where the engine does.
    pub(super) fn after(&self, input: &Input, setup: Setup) -> Outcome {
        let mut outcome = Outcome {
            member: self.clone(),
            sent: Vec::new(),
            is_truncated: false,
            is_fetched: false,
        };
        let member = &mut outcome.member;
        let mut out = Vec::new();
        match input {
            Input::Deliver { from, message } => {
                member.raft.on_message(*from, message.clone(), member.now, &mut out);
            }
            Input::TimeOut => member.now = member.now.max(member.raft.next_deadline()),
            Input::Propose => member.append(EntryKind::Tick, &[]),
            Input::Change(request) => {
                if let Ok(Planned::Append(next)) = member.raft.plan_change(request, member.now) {
                    member.append(EntryKind::Membership, &next.encode());
                }
            }
            Input::Flush(count) => member.flush(*count, &mut out),
            Input::Crash(kept) => {
                let mut image = member.image.clone();
                member.unsynced.iter().take(*kept).for_each(|persist| image.take(persist));
                *member = Self::start(member.raft.node().0, setup, image);
                return outcome;
            }
        }
        outcome.turn(out);
        while setup.is_flushed_at_once && !outcome.member.unsynced.is_empty() {
            let mut out = Vec::new();
            outcome.member.flush(outcome.member.unsynced.len(), &mut out);
            outcome.turn(out);
        }
        outcome.member.raft.check_invariants();
        outcome
    }

    fn flush(&mut self, count: usize, out: &mut Vec<Output>) {
        self.issued_at.drain(..count);
        for persist in self.unsynced.drain(..count) {
            self.durable_io = persist.io;
            self.image.take(&persist);
        }
        self.raft.on_persisted(self.durable_io, self.now, out);
    }

    fn append(&mut self, kind: EntryKind, payload: &[u8]) {
        self.raft.append(record(self.raft.next_index(), self.raft.term(), kind, payload));
    }

    /// The log as it is read back, what is under way included: the store reads what it was given.
    fn stored(&self) -> Vec<Record> {
        let mut log = self.image.log.clone();
        self.unsynced.iter().for_each(|persist| replace_tail(&mut log, &persist.records));
        log
    }
}

impl Outcome {
    /// What the engine's loop does after every input, and with what came of it.
    fn turn(&mut self, mut out: Vec<Output>) {
        let member = &mut self.member;
        if member.raft.wants_first_entry() {
            member.append(EntryKind::Noop, &[]);
        }
        if let Some(next) = member.raft.wants_membership(member.now) {
            member.append(EntryKind::Membership, &next.encode());
        }
        member.raft.on_turn(member.now, &mut out);
        out.into_iter().for_each(|output| self.take(output));
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => self.sent.push(Sent { to, message }),
            Output::Persist(persist) => {
                self.member.unsynced.push(persist);
                self.member.issued_at.push(self.member.now);
            }
            Output::Fetch { follower, first } => {
                self.is_fetched = true;
                let at = usize::try_from(first.previous().0).expect("logs are short here");
                let records = self.member.stored().into_iter().skip(at).take(1).collect();
                let mut out = Vec::new();
                self.member.raft.on_fetched(follower, records, &mut out);
                out.into_iter().for_each(|output| self.take(output));
            }
            Output::Truncated { .. } => self.is_truncated = true,
            Output::OlderCopy { .. } => unreachable!("no disk is replaced here"),
            Output::ReadsReady { .. } | Output::ReadsFailed { .. } | Output::TransferEnded(_) => {}
            Output::ReadSnapshot { .. } | Output::WantSnapshot { .. } | Output::Install(_) => {
                unreachable!("nothing is purged here, so that nobody needs a snapshot")
            }
        }
    }
}

/// The terms of a log's entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Terms {
    len: u8,
    terms: [u8; ENTRIES_MAX],
}

/// A term as it stands in summaries; the bounds keep terms small.
pub(super) fn small(number: u64) -> u8 {
    u8::try_from(number).expect("bounded by the model")
}

impl Terms {
    pub(super) fn push(&mut self, term: u8) {
        self.terms[usize::from(self.len)] = term;
        self.len += 1;
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.terms[..usize::from(self.len)]
    }
}

impl FromIterator<Term> for Terms {
    fn from_iter<I: IntoIterator<Item = Term>>(terms: I) -> Self {
        let mut all = Self::default();
        terms.into_iter().for_each(|term| all.push(small(term.0)));
        all
    }
}

/// Two voter sets, a bit for each member; the second is empty unless the membership is joint.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Voters {
    pub(super) incoming: u8,
    pub(super) outgoing: u8,
}

impl Voters {
    fn of(membership: &Membership) -> Self {
        let bits = |nodes: &[NodeId]| nodes.iter().map(|node| 1 << node.0).sum();
        Self { incoming: bits(membership.incoming()), outgoing: bits(membership.outgoing()) }
    }

    /// Whether these members are a majority of each set.
    pub(super) fn have_quorum(self, members: u8) -> bool {
        let is_majority = |set: u8| (set & members).count_ones() * 2 > set.count_ones();
        is_majority(self.incoming) && (self.outgoing == 0 || is_majority(self.outgoing))
    }
}

/// What the properties look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary {
    pub(super) term: u8,
    pub(super) is_leader: bool,
    pub(super) commit: u8,
    pub(super) last_index: u8,
    /// The log in memory.
    pub(super) log: Terms,
    /// The log on the disk.
    pub(super) disk: Terms,
    /// The term on the disk.
    pub(super) disk_term: u8,
    pub(super) unsynced: u8,
    /// Who votes by the newest membership in its log.
    pub(super) voters: Voters,
    /// Whether it knows that it is a member no more.
    pub(super) is_removed: bool,
    /// Whether a persist has been under way for a timeout already. After another one the disk would
    /// count as stalled.
    pub(super) is_disk_late: bool,
}

impl Summary {
    pub(super) fn of(member: &Member) -> Self {
        let raft = &member.raft;
        let term_at = |index| raft.term_at(LogIndex(index)).expect("within the log");
        Self {
            term: small(raft.term().0),
            is_leader: raft.is_leader(),
            commit: small(raft.commit_index().0),
            last_index: small(raft.last_index().0),
            log: (1..=raft.last_index().0).map(term_at).collect(),
            disk: member.image.log.iter().map(Record::term).collect(),
            disk_term: small(member.image.hard_state.term.0),
            unsynced: small(member.unsynced.len() as u64),
            voters: Voters::of(raft.membership()),
            is_removed: raft.is_removed(),
            is_disk_late: member.issued_at.first().is_some_and(|at| *at < member.now),
        }
    }
}
