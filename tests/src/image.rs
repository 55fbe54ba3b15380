//! A disk as Raft sees it: a hard state and a log, and the records to fill it with.

use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, Term};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::{HardState, Persist, Recovered};

/// What a member's disk holds for certain.
#[derive(Clone, Default, Debug)]
pub struct Image {
    /// Term, vote and known commit index.
    pub hard_state: HardState,
    /// All entries from 1 on.
    pub log: Vec<Record>,
}

impl Image {
    /// A disk with a log of entries of `terms`, on a member that has seen `term` and not voted in it.
    #[must_use]
    pub fn with_log(term: u64, terms: &[u64]) -> Self {
        let hard_state = HardState { term: Term(term), ..HardState::default() };
        Self { hard_state, log: records(1, terms) }
    }

    /// A persist has become durable.
    pub fn take(&mut self, persist: &Persist) {
        self.hard_state = persist.hard_state;
        if let Some(first) = persist.records.first() {
            self.log.truncate(first.index().previous().0 as usize);
            self.log.extend(persist.records.iter().cloned());
        }
    }

    /// What a member finds when it starts on this disk.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
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
            ..Recovered::default()
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
