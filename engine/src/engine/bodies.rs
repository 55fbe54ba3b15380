//! Entries that are needed again: to apply after a restart, to send to a follower that lags, and for
//! the bodies that answers refer to. Recent ones are in Raft's cache; the rest is fetched.
//!
//! Owns a small cache of fetched entries, since a batch is often delivered in several receives. An answer
//! that needs an entry which is missing here waits for its repair, for a while. Next: `repair`.

use super::{Effect, Engine, Fetch, FetchId, SnapshotRead};
use crate::api::{Response, Token};
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::record::Record;
use crate::state_machine::{BodyRef, StateMachine};
use crate::time::{Micros, Now};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;

/// Fetched entries that are kept for the next receive, bytes.
const FETCHED_BYTES_MAX: usize = 2 * limits::RECORD_PAYLOAD_BYTES_MAX;

/// How long an answer waits for the repair of an entry that a body is in.
const REPAIR_PATIENCE: Micros = Micros::from_secs(5);

/// Fetches under way.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    last_id: FetchId,
    under_way: BTreeMap<FetchId, Purpose>,
    is_applying: bool,
}

#[derive(Debug)]
enum Purpose {
    Apply(LogIndex),
    Follower(NodeId),
    /// For a member that lacks records.
    Member(NodeId),
    /// A piece of a snapshot: for whom, of which, from where.
    Snapshot(NodeId, LogIndex, u64),
    /// For a backup's pull.
    Backup(u64),
    /// A piece of the state, for a backup's pull.
    BackupState(u64),
    /// For answers that wait; the range, so that what was not read is asked for again.
    Bodies(Fetch),
}

impl Fetches {
    fn begin<R>(
        &mut self,
        purpose: impl FnOnce(Fetch) -> Purpose,
        (first, end, bytes_max): (LogIndex, LogIndex, usize),
        effects: &mut Vec<Effect<R>>,
    ) {
        self.last_id = FetchId(self.last_id.0 + 1);
        let fetch = Fetch { id: self.last_id, first, end, bytes_max };
        self.under_way.insert(fetch.id, purpose(fetch));
        effects.push(Effect::Fetch(fetch));
    }
}

/// Answers that wait for bodies, and what was fetched lately.
#[derive(Debug)]
pub(super) struct Bodies<R> {
    last_answer: u64,
    waiting: BTreeMap<u64, Waiting<R>>,
    /// Bytes of the bodies of the answers that wait.
    bytes: u64,
    /// Entries that are being fetched, and who waits for a part of each: answer and slot.
    asked: BTreeMap<LogIndex, Vec<(u64, usize)>>,
    /// Answers that wait for a repair, and until when; the longest waiting first.
    stuck: VecDeque<(Micros, u64)>,
    recent: Recent,
}

/// An answer that lacks some of its bodies.
#[derive(Debug)]
struct Waiting<R> {
    token: Token,
    response: Response<R>,
    wanted: Vec<BodyRef>,
    found: Vec<Bytes>,
    missing: usize,
    bytes: u64,
}

impl<R> Default for Bodies<R> {
    fn default() -> Self {
        Self {
            last_answer: 0,
            waiting: BTreeMap::new(),
            bytes: 0,
            asked: BTreeMap::new(),
            stuck: VecDeque::new(),
            recent: Recent::default(),
        }
    }
}

impl<R> Bodies<R> {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the bodies of the answers that wait.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    /// The entries that answers wait for, rising.
    pub(super) fn awaited(&self) -> impl Iterator<Item = LogIndex> + '_ {
        self.asked.keys().copied()
    }

    /// A fetched entry, if it was kept.
    pub(super) fn recent(&self, index: LogIndex) -> Option<&Record> {
        self.recent.entries.get(&index)
    }

    /// An entry has come, from the disk or from another member.
    pub(super) fn take(&mut self, record: &Record, effects: &mut Vec<Effect<R>>) {
        self.hand_out(record, effects);
        self.recent.keep(record.clone());
    }

    /// Whoever waits for the entry waits for its repair, at most until then.
    fn stick(&mut self, index: LogIndex, until: Micros) {
        let answers = self.asked.get(&index).into_iter().flatten();
        self.stuck.extend(answers.map(|(answer, _)| (until, *answer)));
    }

    /// When somebody has waited for a repair for too long.
    pub(super) fn next_deadline(&self) -> Option<Micros> {
        self.stuck.front().map(|(until, _)| *until)
    }

    /// Ends an answer's waiting; what it waited for may still come.
    fn end(&mut self, answer: u64) -> Option<Waiting<R>> {
        let waiting = self.waiting.remove(&answer)?;
        self.bytes -= waiting.bytes;
        for body in &waiting.wanted {
            let index = body.position.index;
            if let Some(waiters) = self.asked.get_mut(&index) {
                waiters.retain(|(waiter, _)| *waiter != answer);
                if waiters.is_empty() {
                    self.asked.remove(&index);
                }
            }
        }
        Some(waiting)
    }

    /// Gives everybody who waits for a part of `record` that part.
    fn hand_out(&mut self, record: &Record, effects: &mut Vec<Effect<R>>) {
        for (answer, slot) in self.asked.remove(&record.index()).unwrap_or_default() {
            let waiting = self.waiting.get_mut(&answer).expect("it waits until it has all");
            waiting.found[slot] = body_of(record, waiting.wanted[slot]);
            waiting.missing -= 1;
            if waiting.missing == 0 {
                let Waiting { token, response, found, bytes, .. } =
                    self.waiting.remove(&answer).expect("just seen");
                self.bytes -= bytes;
                effects.push(Effect::Respond { token, response: with_bodies(response, found) });
            }
        }
    }
}

/// Fetched entries, the oldest dropped first when there are too many bytes of them.
#[derive(Debug, Default)]
struct Recent {
    entries: BTreeMap<LogIndex, Record>,
    ages: VecDeque<LogIndex>,
    bytes: usize,
}

impl Recent {
    fn keep(&mut self, record: Record) {
        let (index, bytes) = (record.index(), record.bytes().len());
        if self.entries.insert(index, record).is_none() {
            self.ages.push_back(index);
            self.bytes += bytes;
        }
        while self.bytes > FETCHED_BYTES_MAX {
            let oldest = self.ages.pop_front().expect("bytes belong to entries");
            let record = self.entries.remove(&oldest).expect("every age has its entry");
            self.bytes -= record.bytes().len();
        }
    }
}

/// A body shares its entry's memory, unless it would keep a much larger entry alive.
fn body_of(record: &Record, body: BodyRef) -> Bytes {
    let slice = record.payload_slice(body.position.offset, body.len);
    let slice = slice.expect("a state machine refers only to what it was given");
    if slice.len() * 4 < record.bytes().len() { Bytes::copy_from_slice(&slice) } else { slice }
}

fn with_bodies<R>(mut response: Response<R>, found: Vec<Bytes>) -> Response<R> {
    if let Response::Applied { bodies, .. }
    | Response::Answer { bodies, .. }
    | Response::Stale { bodies, .. } = &mut response
    {
        *bodies = found;
    }
    response
}

impl<S: StateMachine> Engine<S> {
    /// Answers with the bodies that are wanted, now or when they are read.
    pub(super) fn respond_with_bodies(
        &mut self,
        token: Token,
        response: Response<S::Reply>,
        wanted: Vec<BodyRef>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let bytes: u64 = wanted.iter().map(|body| u64::from(body.len)).sum();
        let max = limits::ANSWER_BODIES_BYTES_MAX as u64;
        if bytes > max {
            let response = Response::TooLarge { bytes, max };
            return effects.push(Effect::Respond { token, response });
        }
        if let Some(lost) = wanted.iter().find(|it| self.repair.is_lost(it.position.index)) {
            let response = Response::BodyMissing { entry: lost.position.index, is_lost: true };
            return effects.push(Effect::Respond { token, response });
        }
        let answer = self.bodies.last_answer + 1;
        let mut found = Vec::with_capacity(wanted.len());
        let mut missing = 0;
        let mut is_stuck = false;
        let mut to_fetch = BTreeSet::new();
        for (slot, body) in wanted.iter().enumerate() {
            let index = body.position.index;
            if let Some(record) = self.in_memory(index) {
                found.push(body_of(record, *body));
                continue;
            }
            found.push(Bytes::new());
            missing += 1;
            let waiters = self.bodies.asked.entry(index).or_default();
            if self.repair.is_missing(index) {
                is_stuck = true;
            } else if waiters.is_empty() {
                to_fetch.insert(index);
            }
            waiters.push((answer, slot));
        }
        if missing == 0 {
            effects.push(Effect::Respond { token, response: with_bodies(response, found) });
            return;
        }
        self.bodies.last_answer = answer;
        self.bodies.bytes += bytes;
        let waiting = Waiting { token, response, wanted, found, missing, bytes };
        self.bodies.waiting.insert(answer, waiting);
        if is_stuck {
            self.bodies.stuck.push_back((self.turned_at + REPAIR_PATIENCE, answer));
        }
        self.fetch_runs(&to_fetch, effects);
    }

    /// An entry that no disk has to be asked for.
    pub(super) fn in_memory(&self, index: LogIndex) -> Option<&Record> {
        self.raft.cached(index).or_else(|| self.bodies.recent(index))
    }

    /// Answers those who have waited for a repair for too long.
    pub(super) fn expire_bodies(&mut self, now: Micros, effects: &mut Vec<Effect<S::Reply>>) {
        while let Some((until, answer)) = self.bodies.stuck.front().copied() {
            if until > now {
                break;
            }
            self.bodies.stuck.pop_front();
            let Some(Waiting { token, wanted, .. }) = self.bodies.end(answer) else { continue };
            let mut entries = wanted.iter().map(|body| body.position.index);
            let entry = entries.find(|index| self.repair.is_missing(*index)).unwrap_or_default();
            let response = Response::BodyMissing { entry, is_lost: false };
            effects.push(Effect::Respond { token, response });
        }
    }

    /// Nobody has the entry: those who wait for it are told so.
    pub(super) fn refuse_bodies(&mut self, entry: LogIndex, effects: &mut Vec<Effect<S::Reply>>) {
        for (answer, _) in self.bodies.asked.get(&entry).cloned().unwrap_or_default() {
            // Twice, if it waits for two parts.
            let Some(Waiting { token, .. }) = self.bodies.end(answer) else { continue };
            let response = Response::BodyMissing { entry, is_lost: true };
            effects.push(Effect::Respond { token, response });
        }
    }

    /// Fetches runs of consecutive entries, each as one.
    fn fetch_runs(&mut self, wanted: &BTreeSet<LogIndex>, effects: &mut Vec<Effect<S::Reply>>) {
        let mut wanted = wanted.iter().copied();
        let Some(mut first) = wanted.next() else { return };
        let mut end = first.next();
        for index in wanted {
            if index != end {
                self.fetch_bodies(first, end, effects);
                first = index;
            }
            end = index.next();
        }
        self.fetch_bodies(first, end, effects);
    }

    fn fetch_bodies(
        &mut self,
        first: LogIndex,
        end: LogIndex,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let range = (first, end, limits::DELIVERY_BYTES_TARGET);
        self.fetches.begin(Purpose::Bodies, range, effects);
    }

    pub(super) fn fetch_for_follower(
        &mut self,
        follower: NodeId,
        first: LogIndex,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        if self.repair.is_missing(first) {
            // It asks again at the next turn.
            return self.raft.on_fetched(follower, Vec::new(), &mut self.outputs);
        }
        let last = LogIndex(first.0 + limits::APPEND_RECORDS_MAX as u64 - 1);
        let end = last.min(self.raft.durable_index()).next();
        let range = (first, end, limits::APPEND_BYTES_TARGET);
        self.fetches.begin(|_| Purpose::Follower(follower), range, effects);
    }

    pub(super) fn fetch_for_member(
        &mut self,
        member: NodeId,
        range: (LogIndex, LogIndex, usize),
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        self.fetches.begin(|_| Purpose::Member(member), range, effects);
    }

    pub(super) fn fetch_to_apply(&mut self, first: LogIndex, effects: &mut Vec<Effect<S::Reply>>) {
        if !self.fetches.is_applying && !self.repair.is_missing(first) {
            self.fetches.is_applying = true;
            let range = (first, self.raft.commit_index().next(), super::APPLY_BYTES_PER_TURN);
            self.fetches.begin(|_| Purpose::Apply(first), range, effects);
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        now: Now,
        id: FetchId,
        records: Vec<Record>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let Some(purpose) = self.fetches.under_way.remove(&id) else { return };
        match purpose {
            // Not what such a read brings.
            Purpose::Snapshot(..) | Purpose::BackupState(_) => {}
            Purpose::Backup(pull) => self.on_backup_fetched(pull, records, effects),
            Purpose::Follower(follower) => {
                self.raft.on_fetched(follower, records, &mut self.outputs);
            }
            Purpose::Member(member) => self.on_fetched_for_member(member, records, effects),
            Purpose::Apply(first) => self.on_fetched_to_apply(first, records, effects),
            Purpose::Bodies(fetch) => self.on_bodies_fetched(fetch, &records, effects),
        }
        if self.failure.is_some() {
            return;
        }
        self.after_raft(now, effects);
    }

    fn on_fetched_to_apply(
        &mut self,
        first: LogIndex,
        records: Vec<Record>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        self.fetches.is_applying = false;
        let is_next = first == self.applied_index.next() && self.raft.cached(first).is_none();
        if records.is_empty() && is_next && self.raft.term_at(first).is_some() {
            self.on_missing(&[first]);
        }
        for record in records {
            // What is next may have come from the cache meanwhile. And the store may have had an entry
            // that the log has replaced, but not yet on disk: the cache has its successor.
            let is_next = record.index() == self.applied_index.next();
            if is_next && self.raft.term_at(record.index()) == Some(record.term()) {
                self.apply_record(&record, effects);
            }
            if self.failure.is_some() {
                return;
            }
        }
    }

    pub(super) fn read_snapshot(
        &mut self,
        follower: NodeId,
        (index, offset, len): (LogIndex, u64, usize),
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        self.fetches.last_id = FetchId(self.fetches.last_id.0 + 1);
        let id = self.fetches.last_id;
        self.fetches.under_way.insert(id, Purpose::Snapshot(follower, index, offset));
        effects.push(Effect::ReadSnapshot(SnapshotRead { id, index, offset, len }));
    }

    /// Reads records for a backup's pull: from `first` on, before `end`.
    pub(super) fn fetch_for_backup(
        &mut self,
        pull: u64,
        range: (LogIndex, LogIndex, usize),
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        self.fetches.begin(|_| Purpose::Backup(pull), range, effects);
    }

    /// Reads a piece of a snapshot for a backup's pull.
    pub(super) fn read_state_for_backup(
        &mut self,
        pull: u64,
        (index, offset, len): (LogIndex, u64, usize),
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        self.fetches.last_id = FetchId(self.fetches.last_id.0 + 1);
        let id = self.fetches.last_id;
        self.fetches.under_way.insert(id, Purpose::BackupState(pull));
        effects.push(Effect::ReadSnapshot(SnapshotRead { id, index, offset, len }));
    }

    pub(super) fn on_snapshot_read(
        &mut self,
        now: Now,
        id: FetchId,
        bytes: Bytes,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let (follower, index, offset) = match self.fetches.under_way.remove(&id) {
            Some(Purpose::Snapshot(follower, index, offset)) => (follower, index, offset),
            Some(Purpose::BackupState(pull)) => {
                return self.on_backup_state(pull, bytes, effects);
            }
            Some(other) => {
                self.fetches.under_way.insert(id, other);
                return;
            }
            None => return,
        };
        let out = &mut self.outputs;
        self.raft.on_snapshot_read(follower, index, offset, bytes, now.monotonic, out);
        self.after_raft(now, effects);
    }

    /// The log begins anew, and the entries that answers wait for may be gone.
    pub(super) fn abandon_bodies(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        self.bodies.asked.clear();
        self.bodies.stuck.clear();
        self.bodies.bytes = 0;
        self.bodies.recent = Recent::default();
        let leader = self.raft.leader();
        for Waiting { token, .. } in core::mem::take(&mut self.bodies.waiting).into_values() {
            effects.push(Effect::Respond { token, response: Response::Unknown { leader } });
        }
        self.fetches.under_way.retain(|_, purpose| !matches!(purpose, Purpose::Bodies(_)));
    }

    /// What was read; nothing if the store does not have the first of them, though it should.
    fn on_bodies_fetched(
        &mut self,
        fetch: Fetch,
        records: &[Record],
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        for record in records {
            self.bodies.take(record, effects);
        }
        let until = self.turned_at + REPAIR_PATIENCE;
        let mut next = records.last().map_or(fetch.first, |last| last.index().next());
        if records.is_empty() && self.bodies.asked.contains_key(&next) {
            self.on_missing(&[next]);
        }
        while next < fetch.end && (self.repair.is_missing(next) || next == fetch.first) {
            self.bodies.stick(next, until);
            next = next.next();
        }
        if next < fetch.end {
            self.fetch_bodies(next, fetch.end, effects);
        }
    }
}
