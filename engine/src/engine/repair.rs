//! What this member lacks of entries that are committed (PAR's "distributed recovery", Alagappan et al.,
//! FAST 2018): after a snapshot came, whose bodies are elsewhere, and after damage.
//!
//! Owns the set of missing entries, as sorted runs.

use super::{Effect, Engine};
use crate::ids::LogIndex;
use crate::state_machine::StateMachine;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A set of entries as runs: first, and the one after the last. Large when a snapshot was installed,
/// and then mostly runs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Indices {
    runs: BTreeMap<LogIndex, LogIndex>,
    len: u64,
}

impl Indices {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn contains(&self, index: LogIndex) -> bool {
        let run = self.runs.range(..=index).next_back();
        run.is_some_and(|(_, end)| index < *end)
    }

    pub(super) fn insert(&mut self, index: LogIndex) {
        if self.contains(index) {
            return;
        }
        self.len += 1;
        let end = self.runs.remove(&index.next()).unwrap_or(index.next());
        match self.runs.range_mut(..index).next_back() {
            Some((_, before)) if *before == index => *before = end,
            Some(_) | None => _ = self.runs.insert(index, end),
        }
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, index: LogIndex) -> bool {
        if !self.contains(index) {
            return false;
        }
        self.len -= 1;
        let (first, end) = self.runs.range(..=index).next_back().expect("it is in a run");
        let (first, end) = (*first, *end);
        if first == index {
            self.runs.remove(&first);
        } else {
            self.runs.insert(first, index);
        }
        if index.next() < end {
            self.runs.insert(index.next(), end);
        }
        true
    }
}

/// What is missing.
#[derive(Debug, Default)]
pub(super) struct Repair {
    missing: Indices,
}

impl Repair {
    /// Entries that are missing here and may be elsewhere.
    pub(super) fn missing(&self) -> u64 {
        self.missing.len()
    }

    /// Entries that no member has.
    pub(super) fn lost(&self) -> u64 {
        0
    }
}

impl<S: StateMachine> Engine<S> {
    /// The store lacks these.
    pub(super) fn on_missing(&mut self, indices: &[LogIndex]) {
        indices.iter().for_each(|index| self.repair.missing.insert(*index));
    }

    /// The store has these again.
    pub(super) fn on_archived(&mut self, indices: &[LogIndex], _: &mut Vec<Effect<S::Reply>>) {
        for index in indices {
            self.repair.missing.remove(*index);
        }
    }
}
