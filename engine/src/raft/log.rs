//! The log as Raft sees it: the term of every entry, the recent entries themselves, and how far
//! what was handed to the disk is durable.
//!
//! Owns no file: a [`Persist`] goes out, its [`IoId`] comes back. An entry that has left the cache is
//! read through the store. What lies at or before the base is gone, and a snapshot stands for it.
//! Next: `storage` for the log on disk, `memberships` for the entries that the log itself heeds.

use super::membership::Membership;
use super::memberships::Memberships;
use super::message::LogPosition;
use super::snapshot::{Reset, SnapshotMeta};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use crate::record::{EntryKind, Record};
use crate::storage::{HardState, IoId, Persist, Recovered};
use crate::time::Micros;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The log.
#[derive(Clone, Hash, Debug)]
pub(super) struct Log {
    /// The log's first entry is the one after this; 0 while it has its very first.
    base: LogPosition,
    /// First index and term of each run of entries of one term, from the one that the base is in. Terms
    /// rise strictly.
    term_runs: Vec<(LogIndex, Term)>,
    memberships: Memberships,
    /// To be carried by the next persist.
    reset: Option<Box<Reset>>,
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

#[derive(Clone, Copy, Hash, Debug)]
struct InFlight {
    io: IoId,
    issued_at: Micros,
    /// The last entry that this persist vouches for. Falls when entries are truncated, so that a
    /// late completion never counts for the entries that replaced them.
    last_index: LogIndex,
}

impl Log {
    pub(super) fn new(founding: Membership, recovered: &Recovered) -> Self {
        Self {
            base: recovered.base,
            term_runs: recovered.term_runs.clone(),
            memberships: Memberships::new(founding, recovered),
            reset: None,
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

    /// The place before the first entry.
    pub(super) fn base(&self) -> LogPosition {
        self.base
    }

    pub(super) fn memberships(&self) -> &Memberships {
        &self.memberships
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

    /// The term of an entry, or of the base; none before and beyond.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last_index || index < self.base.index {
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

    /// The runs of one term up to `last`, from the one that `base` is in: what a snapshot tells of them.
    pub(super) fn term_runs_between(
        &self,
        base: LogIndex,
        last: LogIndex,
    ) -> Vec<(LogIndex, Term)> {
        let first = self.term_runs.partition_point(|(first, _)| *first <= base).saturating_sub(1);
        let runs = self.term_runs[first..].iter().take_while(|(first, _)| *first <= last);
        runs.copied().collect()
    }

    /// Appends the entry after the last one. Another membership counts from here on (§6).
    pub(super) fn append(&mut self, record: Record) {
        assert_eq!(record.index(), self.last_index.next());
        let last_term = self.last().term;
        assert!(record.term() >= last_term);
        if record.kind() == EntryKind::Membership {
            let membership = Membership::decode(record.payload());
            let membership = membership.expect("checked before it came here");
            self.memberships.push(record.index(), membership);
        }
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
        assert!(from > self.base.index && from <= self.last_index);
        while self.cache.back().is_some_and(|record| record.index() >= from) {
            let record = self.cache.pop_back().expect("the loop's condition");
            self.cache_bytes -= record.bytes().len();
        }
        let kept = self.term_runs.partition_point(|(first, _)| *first < from);
        self.term_runs.truncate(kept);
        self.memberships.truncate_from(from);
        self.last_index = from.previous();
        self.persist_from = self.persist_from.min(from);
        self.durable_index = self.durable_index.min(self.last_index);
        for persist in &mut self.in_flight {
            persist.last_index = persist.last_index.min(self.last_index);
        }
    }

    /// Forgets entries before `first`, which a snapshot covers and nobody needs any more.
    pub(super) fn purge(&mut self, first: LogIndex) {
        let index = first.previous();
        if index <= self.base.index {
            return;
        }
        let term = self.term_at(index).expect("a purge leaves the end of the log");
        self.base = LogPosition { term, index };
        self.term_runs = self.term_runs_between(index, self.last_index);
        self.memberships.purge(first);
        while self.cache.front().is_some_and(|record| record.index() < first) {
            let record = self.cache.pop_front().expect("the loop's condition");
            self.cache_bytes -= record.bytes().len();
        }
    }

    /// Forgets everything: the log goes on after the base of `from`, and `snapshot` stands for what was
    /// there. Whatever is under way to the disk vouches for nothing any more.
    pub(super) fn reset(&mut self, from: &SnapshotMeta, snapshot: &SnapshotMeta) {
        let base = from.base;
        self.base = base;
        let runs = from.term_runs.iter().take_while(|(first, _)| *first <= base.index);
        self.term_runs = runs.copied().collect();
        self.memberships.reset(snapshot);
        self.reset = Some(Box::new(Reset { snapshot: snapshot.last.index, base }));
        self.last_index = base.index;
        self.last_stamp = self.last_stamp.max(snapshot.stamp);
        self.cache.clear();
        self.cache_bytes = 0;
        self.persist_from = base.index.next();
        self.durable_index = LogIndex::ZERO;
        for persist in &mut self.in_flight {
            persist.last_index = LogIndex::ZERO;
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
        let Some(offset) = first.0.checked_sub(self.cache_first().0) else { return Vec::new() };
        let start = usize::try_from(offset).map_or(self.cache.len(), |at| at.min(self.cache.len()));
        let mut bytes = 0;
        let fits = |(at, record): &(usize, &Record)| {
            bytes += record.bytes().len();
            *at < records_max && (bytes <= bytes_max || *at == 0)
        };
        let count = self.cache.range(start..).enumerate().take_while(fits).count();
        let mut run = Vec::with_capacity(count);
        run.extend((start..start + count).map(|at| self.cache[at].clone()));
        run
    }

    /// Lets the oldest entries go while more than `bytes_max` are cached, but none that is not yet
    /// durable. What was not applied yet is read back when its turn comes.
    pub(super) fn trim_cache(&mut self, bytes_max: usize) {
        while self.cache_bytes > bytes_max
            && self.cache.front().is_some_and(|record| record.index() <= self.durable_index)
        {
            let record = self.cache.pop_front().expect("the loop's condition");
            self.cache_bytes -= record.bytes().len();
        }
    }

    /// Whether entries wait for a persist to carry them.
    pub(super) fn has_unissued(&self) -> bool {
        self.persist_from <= self.last_index || self.reset.is_some()
    }

    /// The next persist: all entries that none has carried yet.
    pub(super) fn issue(&mut self, hard_state: HardState, now: Micros) -> Persist {
        let records = self.cached_run(self.persist_from, usize::MAX, usize::MAX);
        self.persist_from = self.last_index.next();
        self.last_io = IoId(self.last_io.0 + 1);
        let (io, last_index) = (self.last_io, self.last_index);
        self.in_flight.push_back(InFlight { io, issued_at: now, last_index });
        Persist { io, hard_state, reset: self.reset.take(), records }
    }

    /// When the oldest persist that is still under way was issued.
    pub(super) fn oldest_issue(&self) -> Option<Micros> {
        self.in_flight.front().map(|persist| persist.issued_at)
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
        assert!(self.base.index <= self.last_index, "base_within_log");
        assert_eq!(self.term_at(self.base.index), Some(self.base.term), "base_has_its_term");
        self.memberships.check_invariants();
        if let Some(newest) = self.cache.back() {
            assert_eq!(newest.index(), self.last_index, "cache_ends_with_the_log");
            assert_eq!(newest.term(), self.last().term, "cache_agrees_with_term_runs");
            let span = self.last_index.0 - self.cache_first().0 + 1;
            assert_eq!(self.cache.len() as u64, span, "cache_has_no_gaps");
            if let Some(before) = self.cache.iter().rev().nth(1) {
                assert!(before.hlc() < newest.hlc(), "stamps_rise_along_the_log");
            }
        }
        let durable_index = self.durable_index.max(self.base.index);
        assert!(self.cache_first() <= durable_index.next(), "unpersisted_entries_are_cached");
    }
}
