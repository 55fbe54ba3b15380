//! A disk as Raft sees it: a hard state and a log, and the records to fill it with.

use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, Term};
use engine::raft::{LogPosition, Membership, Snapshot};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::{HardState, Persist, Recovered};

/// What a member's disk holds for certain.
#[derive(Clone, Default, Debug)]
pub struct Image {
    /// Term, vote and known commit index.
    pub hard_state: HardState,
    /// The newest snapshot.
    pub snapshot: Option<Snapshot>,
    /// The place before the first entry of `log`.
    pub base: LogPosition,
    /// All entries after `base`.
    pub log: Vec<Record>,
    /// Where the log ended before it rotted, until it reaches that again.
    pub vouched: LogPosition,
}

impl Image {
    /// A disk with a log of entries of `terms`, on a member that has seen `term` and not voted in it.
    #[must_use]
    pub fn with_log(term: u64, terms: &[u64]) -> Self {
        let hard_state = HardState { term: Term(term), ..HardState::default() };
        Self { hard_state, log: records(1, terms), ..Self::default() }
    }

    /// A persist has become durable.
    pub fn take(&mut self, persist: &Persist) {
        self.hard_state = persist.hard_state;
        if let Some(reset) = &persist.reset {
            self.base = reset.base;
            self.log.clear();
        }
        if let Some(first) = persist.records.first() {
            self.log.truncate(self.offset(first.index()));
            self.log.extend(persist.records.iter().cloned());
        }
        if self.last() >= self.vouched {
            self.vouched = LogPosition::default();
        }
    }

    /// The disk has damaged the entries from `first` on, and the store has noticed.
    pub fn rot(&mut self, first: LogIndex) {
        self.vouched = self.vouched.max(self.last());
        self.log.truncate(self.offset(first));
    }

    /// The place of the last entry.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        let last = self.log.last();
        last.map_or(self.base, |last| LogPosition { term: last.term(), index: last.index() })
    }

    /// Where an entry is in `log`.
    fn offset(&self, index: LogIndex) -> usize {
        (index.0 - self.base.index.next().0) as usize
    }

    /// Entries before `first` go.
    pub fn purge(&mut self, first: LogIndex) {
        if first.previous() > self.base.index {
            let last_gone = &self.log[self.offset(first.previous())];
            let base = LogPosition { term: last_gone.term(), index: last_gone.index() };
            self.log.drain(..self.offset(first));
            self.base = base;
        }
    }

    /// Up to `count` entries from `first` on.
    #[must_use]
    pub fn read(&self, first: LogIndex, count: usize) -> Vec<Record> {
        let from = self.log.get(self.offset(first)..).unwrap_or_default();
        from.iter().take(count).cloned().collect()
    }

    /// The last entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.base.index.0 + self.log.len() as u64)
    }

    /// What a member finds when it starts on this disk.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        if self.base.index > LogIndex::ZERO {
            term_runs.push((self.base.index, self.base.term));
        }
        for record in &self.log {
            if term_runs.last().is_none_or(|(_, term)| *term != record.term()) {
                term_runs.push((record.index(), record.term()));
            }
        }
        let is_membership = |record: &&Record| record.kind() == EntryKind::Membership;
        let membership = |record: &Record| {
            let membership = Membership::decode(record.payload()).expect("it was checked");
            (record.index(), membership)
        };
        let snapshot_stamp = self.snapshot.as_ref().map_or(Hlc::ZERO, |it| it.meta.stamp);
        Recovered {
            hard_state: self.hard_state,
            snapshot: self.snapshot.clone(),
            base: self.base,
            term_runs,
            memberships: self.log.iter().filter(is_membership).map(membership).collect(),
            last_index: self.last_index(),
            last_stamp: self.log.last().map_or(snapshot_stamp, Record::hlc),
            torn_bytes: 0,
            vouched: self.vouched,
            damaged: Vec::new(),
        }
    }
}

/// An entry with a payload of `payload_bytes` zeros.
#[must_use]
pub fn sized_record(index: u64, term: u64, stamp: Hlc, payload_bytes: usize) -> Record {
    let seed = ChecksumSeed::of(ClusterId([7; 16]), GroupId(0));
    let mut builder = RecordBuilder::with_capacity(payload_bytes);
    builder.payload_mut().extend(std::iter::repeat_n(0, payload_bytes));
    let (index, term) = (LogIndex(index), Term(term));
    builder.seal(seed, GroupId(0), index, term, stamp, EntryKind::Tick)
}

/// An entry that makes `membership` count.
#[must_use]
pub fn membership_record(index: u64, term: u64, stamp: Hlc, membership: &Membership) -> Record {
    let seed = ChecksumSeed::of(ClusterId([7; 16]), GroupId(0));
    let mut builder = RecordBuilder::default();
    builder.payload_mut().extend(membership.encode());
    let (index, term) = (LogIndex(index), Term(term));
    builder.seal(seed, GroupId(0), index, term, stamp, EntryKind::Membership)
}

/// The record that a leader of `term` would make at `index`.
#[must_use]
pub fn record(index: u64, term: u64) -> Record {
    sized_record(index, term, Hlc(index * 100 + term), 0)
}

/// Consecutive records from `first` on, one for each of `terms`.
#[must_use]
pub fn records(first: u64, terms: &[u64]) -> Vec<Record> {
    terms.iter().zip(first..).map(|(term, index)| record(index, *term)).collect()
}
