//! The log as Raft sees it: the term of every entry, the recent entries themselves, and how far
//! what was handed to the disk is durable.
//!
//! Owns no file: a [`Persist`] goes out, its [`IoId`] comes back. An entry that has left the cache is
//! read through the store. Next: `storage` for the log on disk.

use super::message::LogPosition;
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use crate::record::Record;
use crate::storage::{HardState, IoId, Persist, Recovered};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    /// First index and term of each run of entries of one term. Terms rise strictly.
    term_runs: Vec<(LogIndex, Term)>,
    last_index: LogIndex,
    last_stamp: Hlc,
    /// The newest entries, without gaps up to the last.
    cache: VecDeque<Record>,
    cache_bytes: usize,
    /// First entry that no persist has carried yet.
    persist_from: LogIndex,
    /// Persists that are under way, oldest first.
    in_flight: VecDeque<InFlight>,
    last_io: IoId,
    durable_io: IoId,
    durable_index: LogIndex,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    io: IoId,
    /// The last entry that this persist vouches for. Falls when entries are truncated, so that a
    /// late completion never counts for the entries that replaced them.
    last_index: LogIndex,
}

impl Log {
    pub(super) fn new(recovered: &Recovered) -> Self {
        Self {
            term_runs: recovered.term_runs.clone(),
            last_index: recovered.last_index,
            last_stamp: recovered.last_stamp,
            cache: VecDeque::new(),
            cache_bytes: 0,
            persist_from: recovered.last_index.next(),
            in_flight: VecDeque::new(),
            last_io: IoId::default(),
            durable_io: IoId::default(),
            durable_index: recovered.last_index,
        }
    }

    pub(super) fn last_index(&self) -> LogIndex {
        self.last_index
    }

    pub(super) fn last_stamp(&self) -> Hlc {
        self.last_stamp
    }

    pub(super) fn durable_index(&self) -> LogIndex {
        self.durable_index
    }

    pub(super) fn last(&self) -> LogPosition {
        let term = self.term_runs.last().map_or(Term::ZERO, |(_, term)| *term);
        LogPosition { term, index: self.last_index }
    }

    /// The term of an entry; 0 for the place before the first; none beyond the last.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last_index {
            return None;
        }
        let after = self.term_runs.partition_point(|(first, _)| *first <= index);
        Some(after.checked_sub(1).map_or(Term::ZERO, |run| self.term_runs[run].1))
    }

    pub(super) fn matches(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The last entry at or before `index` whose term is at most `term`: if another log has `term`
    /// at `index`, the two can agree only up to there (§5.3, the optimisation at its end).
    pub(super) fn last_not_after(&self, index: LogIndex, term: Term) -> LogPosition {
        let index = index.min(self.last_index);
        let runs = self.term_runs.partition_point(|(first, t)| *first <= index && *t <= term);
        let Some(run) = runs.checked_sub(1) else { return LogPosition::default() };
        let run_end = self.term_runs.get(runs).map_or(self.last_index, |(f, _)| f.previous());
        LogPosition { term: self.term_runs[run].1, index: run_end.min(index) }
    }

    /// Appends the entry after the last one.
    pub(super) fn append(&mut self, record: Record) {
        assert_eq!(record.index(), self.last_index.next());
        let last_term = self.last().term;
        assert!(record.term() >= last_term);
        if record.term() > last_term {
            self.term_runs.push((record.index(), record.term()));
        }
        self.last_index = record.index();
        self.last_stamp = record.hlc();
        self.cache_bytes += record.bytes().len();
        self.cache.push_back(record);
    }

    /// Drops `from` and everything after it.
    pub(super) fn truncate_from(&mut self, from: LogIndex) {
        assert!(from > LogIndex::ZERO && from <= self.last_index);
        while self.cache.back().is_some_and(|record| record.index() >= from) {
            let record = self.cache.pop_back().expect("the loop's condition");
            self.cache_bytes -= record.bytes().len();
        }
        let kept = self.term_runs.partition_point(|(first, _)| *first < from);
        self.term_runs.truncate(kept);
        self.last_index = from.previous();
        self.persist_from = self.persist_from.min(from);
        self.durable_index = self.durable_index.min(self.last_index);
        for persist in &mut self.in_flight {
            persist.last_index = persist.last_index.min(self.last_index);
        }
    }

    pub(super) fn cache_first(&self) -> LogIndex {
        self.cache.front().map_or(self.last_index.next(), Record::index)
    }

    /// The cached entry at `index`.
    pub(super) fn cached(&self, index: LogIndex) -> Option<&Record> {
        let offset = index.0.checked_sub(self.cache_first().0)?;
        self.cache.get(usize::try_from(offset).ok()?)
    }

    /// Cached entries from `first` on, as many as fit but at least one.
    pub(super) fn cached_run(
        &self,
        first: LogIndex,
        records_max: usize,
        bytes_max: usize,
    ) -> Vec<Record> {
        let mut bytes = 0;
        let mut run = Vec::new();
        let mut index = first;
        while let Some(record) = self.cached(index).filter(|_| run.len() < records_max) {
            bytes += record.bytes().len();
            if bytes > bytes_max && !run.is_empty() {
                break;
            }
            run.push(record.clone());
            index = index.next();
        }
        run
    }

    /// Lets the oldest entries go while more than `bytes_max` are cached, but none that is not yet
    /// durable or lies after `needed_after`.
    pub(super) fn trim_cache(&mut self, bytes_max: usize, needed_after: LogIndex) {
        let releasable = self.durable_index.min(needed_after);
        while self.cache_bytes > bytes_max
            && self.cache.front().is_some_and(|record| record.index() <= releasable)
        {
            let record = self.cache.pop_front().expect("the loop's condition");
            self.cache_bytes -= record.bytes().len();
        }
    }

    /// Whether entries wait for a persist to carry them.
    pub(super) fn has_unissued(&self) -> bool {
        self.persist_from <= self.last_index
    }

    /// The next persist: all entries that none has carried yet.
    pub(super) fn issue(&mut self, hard_state: HardState) -> Persist {
        let records = self.cached_run(self.persist_from, usize::MAX, usize::MAX);
        self.persist_from = self.last_index.next();
        self.last_io = IoId(self.last_io.0 + 1);
        self.in_flight.push_back(InFlight { io: self.last_io, last_index: self.last_index });
        Persist { io: self.last_io, hard_state, reset: None, records }
    }

    /// The persist that is issued next.
    pub(super) fn next_io(&self) -> IoId {
        IoId(self.last_io.0 + 1)
    }

    /// The persist that was issued last.
    pub(super) fn last_io(&self) -> IoId {
        self.last_io
    }

    pub(super) fn durable_io(&self) -> IoId {
        self.durable_io
    }

    /// All persists up to `io` are durable. Says so of unknown or repeated ones without effect.
    pub(super) fn on_persisted(&mut self, io: IoId) {
        while self.in_flight.front().is_some_and(|persist| persist.io <= io) {
            let persist = self.in_flight.pop_front().expect("the loop's condition");
            self.durable_io = persist.io;
            // Not max: a persist that replaced a longer durable tail vouches for less than it.
            // `truncate_from` has lowered `durable_index` already, and every persist since covers
            // at least what was durable then, so rising is all that is left.
            self.durable_index = self.durable_index.max(persist.last_index);
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.durable_index <= self.last_index, "durable_within_log");
        assert!(self.durable_io <= self.last_io, "completions_follow_issues");
        assert!(self.persist_from <= self.last_index.next(), "persist_within_log");
        assert!(
            self.term_runs
                .iter()
                .zip(self.term_runs.iter().skip(1))
                .all(|(a, b)| a < b && a.1 < b.1),
            "terms_rise_along_the_log"
        );
        assert!(
            self.term_runs.last().is_none_or(|(first, _)| *first <= self.last_index),
            "term_runs_within_log"
        );
        if let Some(newest) = self.cache.back() {
            assert_eq!(newest.index(), self.last_index, "cache_ends_with_the_log");
            assert_eq!(newest.term(), self.last().term, "cache_agrees_with_term_runs");
            let span = self.last_index.0 - self.cache_first().0 + 1;
            assert_eq!(self.cache.len() as u64, span, "cache_has_no_gaps");
            if let Some(before) = self.cache.iter().rev().nth(1) {
                assert!(before.hlc() < newest.hlc(), "stamps_rise_along_the_log");
            }
        }
        assert!(self.cache_first() <= self.durable_index.next(), "unpersisted_entries_are_cached");
    }
}
