//! Repair: records of committed entries that this member lacks are pulled from the others. After a
//! snapshot came, the bodies that its state refers to are elsewhere; and a disk may damage what it holds
//! (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018).
//!
//! Owns the set of what is missing, and one request at a time, to the leader first and to the others in
//! turn. It is a set and not a stream: whatever is lost, doubled or overtaken, what is not durable here
//! is asked for again. No term matters, since a committed entry is the same everywhere. Only what the
//! store has reported as durable is missing no more; whoever waits for a body gets it before.
//!
//! What no member has although the state refers to it is *lost*: told once, answered as lost, and asked
//! for now and then all the same. While a single member does not answer, nothing is.
//! Next: `serve` for who answers, `indices` for the set, `bodies` for who waits.

use super::indices::Indices;
use super::{Effect, Engine, Event};
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::raft::{Body, Message};
use crate::record::Record;
use crate::state_machine::StateMachine;
use crate::time::Micros;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Pause after everybody was asked and nothing new came of it.
const PAUSE: Micros = Micros::from_millis(200);

/// Pause between two searches for what was nowhere.
const LOST_PAUSE: Micros = Micros::from_secs(10);

/// What is missing, and the search for it.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Whether the store has to be told what is needed, and to say what it lacks.
    wants_settling: bool,
    missing: Indices,
    /// Of the missing ones, those that no member has.
    lost: BTreeSet<LogIndex>,
    /// Records on their way to the disk, and their bytes.
    archiving: BTreeMap<LogIndex, usize>,
    archiving_bytes: usize,
    asked: Option<Asked>,
    /// Who is asked next, in the order of `Engine::sources`.
    turn: usize,
    /// Who does not have what, in this round.
    absent: BTreeMap<LogIndex, Absence>,
    /// Nobody is asked before.
    rests_until: Micros,
}

/// A request under way.
#[derive(Debug)]
struct Asked {
    to: NodeId,
    until: Micros,
}

/// What is known of a missing entry.
#[derive(Debug, Default)]
struct Absence {
    /// They do not have it.
    nodes: BTreeSet<NodeId>,
    /// As much had one of them applied that may have let it go.
    applied: LogIndex,
}

impl Repair {
    /// After a recovery, and after a snapshot was installed.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { wants_settling: true, ..Self::default() };
    }

    /// Entries that are missing here and may be elsewhere.
    pub(super) fn missing(&self) -> u64 {
        self.missing.len() - self.lost()
    }

    /// Entries that no member has.
    pub(super) fn lost(&self) -> u64 {
        self.lost.len() as u64
    }

    pub(super) fn is_missing(&self, index: LogIndex) -> bool {
        self.missing.contains(index)
    }

    pub(super) fn is_lost(&self, index: LogIndex) -> bool {
        self.lost.contains(&index)
    }

    /// The entry is there again, or is needed no more.
    fn strike(&mut self, index: LogIndex) {
        self.missing.remove(index);
        self.lost.remove(&index);
        self.absent.remove(&index);
    }

    /// Entries from `from` on were replaced, or given up.
    pub(super) fn forget_from(&mut self, from: LogIndex) {
        let gone: Vec<LogIndex> = self.missing.iter_from(from).collect();
        gone.into_iter().for_each(|index| self.strike(index));
    }

    pub(super) fn next_deadline(&self) -> Option<Micros> {
        if self.missing.is_empty() {
            return None;
        }
        match &self.asked {
            Some(asked) => Some(asked.until),
            // The next report of the store wakes it.
            None => self.has_room().then_some(self.rests_until),
        }
    }

    fn has_room(&self) -> bool {
        self.archiving_bytes < limits::INFLIGHT_BYTES_MAX
    }

    /// What `node` may have, at most a message of it: `urgent` ones first.
    fn wanted_of(&self, node: NodeId, urgent: &[LogIndex], last: LogIndex) -> Vec<LogIndex> {
        let is_wanted = |index: &LogIndex| {
            let is_absent = self.absent.get(index).is_some_and(|it| it.nodes.contains(&node));
            *index <= last && !is_absent && !self.archiving.contains_key(index)
        };
        let urgent = urgent.iter().copied().filter(|index| self.missing.contains(*index));
        let mut wanted: Vec<LogIndex> =
            urgent.filter(is_wanted).take(limits::RECORDS_REQUEST_MAX).collect();
        if wanted.is_empty() {
            let all = self.missing.iter_from(LogIndex::ZERO).take_while(|index| *index <= last);
            wanted = all.filter(is_wanted).take(limits::RECORDS_REQUEST_MAX).collect();
        }
        wanted
    }
}

impl<S: StateMachine> Engine<S> {
    /// Once the store knows the log as it is: says what is needed of what lies before it.
    pub(super) fn settle(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        let base = self.raft.base().index;
        // The log may begin anew while the state stays: a snapshot has filled the gap between the two.
        let has_jumped = base != self.live.base() && !self.is_purge_due();
        if core::mem::take(&mut self.repair.wants_settling) || has_jumped {
            let live = self.settle_live(base);
            effects.push(Effect::Settle { live });
        }
    }

    /// The store lacks these.
    pub(super) fn on_missing(&mut self, indices: &[LogIndex]) {
        for index in indices {
            self.repair.missing.insert(*index);
            // It may just have been written, and be damaged again.
            if let Some(bytes) = self.repair.archiving.remove(index) {
                self.repair.archiving_bytes -= bytes;
            }
        }
        self.repair.rests_until = Micros::ZERO;
    }

    /// The store has these again.
    pub(super) fn on_archived(
        &mut self,
        indices: &[LogIndex],
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        for index in indices {
            if let Some(bytes) = self.repair.archiving.remove(index) {
                self.repair.archiving_bytes -= bytes;
                self.repair.strike(*index);
            }
        }
        self.apply_committed(effects);
    }

    /// Entries before the log that are needed no more, or that the log has passed without need.
    pub(super) fn give_up_missing(
        &mut self,
        passed: (LogIndex, LogIndex),
        kept: &[LogIndex],
        released: &[LogIndex],
    ) {
        let (from, first) = passed;
        released.iter().for_each(|index| self.repair.strike(*index));
        let passed = self.repair.missing.iter_from(from).take_while(|index| *index < first);
        let unneeded = passed.filter(|index| kept.binary_search(index).is_err());
        let unneeded: Vec<LogIndex> = unneeded.collect();
        unneeded.into_iter().for_each(|index| self.repair.strike(index));
    }

    /// Whom to ask: the leader, which is likely to be up to date, and then the others.
    fn sources(&self) -> Vec<NodeId> {
        let (me, leader) = (self.raft.node(), self.raft.leader());
        let members = self.raft.membership().members().iter().map(|member| member.node);
        let mut sources: Vec<NodeId> = members.filter(|node| *node != me).collect();
        sources.sort_unstable_by_key(|node| (Some(*node) != leader, *node));
        sources
    }

    /// Asks for what is missing, if nobody is being asked.
    pub(super) fn pull(&mut self, now: Micros, effects: &mut Vec<Effect<S::Reply>>) {
        if self.repair.missing.is_empty() {
            return;
        }
        let sources = self.sources();
        if let Some(asked) = &self.repair.asked {
            if now < asked.until {
                return;
            }
            // It does not answer. Others may since have got what they did not have.
            self.repair.asked = None;
            self.repair.turn += 1;
            if self.repair.turn >= sources.len() {
                self.repair.turn = 0;
                self.repair.absent.clear();
            }
        }
        if now < self.repair.rests_until || !self.repair.has_room() {
            return;
        }
        let urgent: Vec<LogIndex> =
            self.bodies.awaited().chain([self.applied_index.next()]).collect();
        for at in 0..sources.len() {
            let turn = (self.repair.turn + at) % sources.len();
            let to = sources[turn];
            let indices = self.repair.wanted_of(to, &urgent, self.raft.commit_index());
            if !indices.is_empty() {
                self.repair.turn = turn;
                let until = now + self.transfer_patience;
                self.repair.asked = Some(Asked { to, until });
                let body = Body::RecordsRequest { indices };
                let message = Message { term: self.raft.term(), body };
                return effects.push(Effect::Send { to, message });
            }
        }
        self.conclude(now, &sources, effects);
    }

    /// Everybody has answered, and nobody has what is left: what the state refers to of it is lost.
    fn conclude(&mut self, now: Micros, sources: &[NodeId], effects: &mut Vec<Effect<S::Reply>>) {
        let is_everybodys = |absence: &Absence| sources.iter().all(|n| absence.nodes.contains(n));
        let alone = Absence::default();
        let commit_index = self.raft.commit_index();
        let mut gone = Vec::new();
        for index in self.repair.missing.iter_from(LogIndex::ZERO) {
            let absence = self.repair.absent.get(&index).unwrap_or(&alone);
            let is_known = !self.repair.archiving.contains_key(&index) && index <= commit_index;
            if is_known && is_everybodys(absence) && self.knows_since(absence.applied) {
                gone.push(index);
            }
        }
        self.note_body_changes();
        let pinned =
            if gone.is_empty() { BTreeSet::new() } else { self.pinned_until(commit_index) };
        let base = self.live.base();
        for index in gone {
            let is_unapplied = index > self.applied_index;
            if is_unapplied && !self.raft.is_leader() {
                // It lies in everybody's snapshots by now.
                self.raft.request_snapshot();
                continue;
            }
            let is_needed = is_unapplied || self.live.is_named(index) || pinned.contains(&index);
            if is_needed && self.repair.lost.insert(index) {
                effects.push(Effect::Event(Event::Lost { index }));
                self.refuse_bodies(index, effects);
            } else if !is_needed && index <= base {
                // It has ended since, and whoever had it has let it go.
                self.repair.strike(index);
            }
        }
        self.repair.absent.clear();
        let is_open = self.repair.missing() > 0;
        self.repair.rests_until = now + if is_open { PAUSE } else { LOST_PAUSE };
    }

    /// Whether this member's state is no older than that of one that had applied `applied`. Alone, it
    /// must have applied all that was ever committed.
    fn knows_since(&self, applied: LogIndex) -> bool {
        self.raft.leader().is_some()
            && self.applied_index >= applied
            && (!self.raft.is_leader() || self.raft.has_committed_in_term())
            && (applied > LogIndex::ZERO || self.applied_index == self.raft.commit_index())
    }

    /// Records came, or the news that there are none.
    pub(super) fn on_records(
        &mut self,
        now: Micros,
        from: NodeId,
        (records, absent, applied): (Vec<Record>, &[LogIndex], LogIndex),
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let is_answer = self.repair.asked.take_if(|asked| asked.to == from).is_some();
        let mut is_news = false;
        for index in absent {
            if self.repair.missing.contains(*index) {
                let absence = self.repair.absent.entry(*index).or_default();
                is_news |= absence.nodes.insert(from);
                absence.applied = absence.applied.max(applied);
            }
        }
        let mut taken = Vec::new();
        for record in records {
            if self.is_wanted(&record) && !self.repair.archiving.contains_key(&record.index()) {
                let bytes = record.bytes().len();
                self.repair.archiving.insert(record.index(), bytes);
                self.repair.archiving_bytes += bytes;
                self.bodies.take(&record, effects);
                taken.push(record);
            }
        }
        if !taken.is_empty() {
            taken.sort_unstable_by_key(Record::index);
            effects.push(Effect::Archive { records: taken });
        } else if is_answer && !is_news {
            self.repair.turn += 1;
            self.repair.rests_until = now + PAUSE;
        }
    }

    /// Whether this is the record of a committed entry that is missing here. That it is whole was seen
    /// when it came in; that it is the right one, its sender answers for, as for what it replicates. Where
    /// the term is known here, it must agree.
    fn is_wanted(&self, record: &Record) -> bool {
        let index = record.index();
        let in_snapshot = || self.raft.snapshot().and_then(|meta| meta.term_at(index));
        let term = self.raft.term_at(index).or_else(in_snapshot);
        self.repair.missing.contains(index)
            && index <= self.raft.commit_index()
            && term.is_none_or(|term| term == record.term())
    }
}
