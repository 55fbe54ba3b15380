//! Which entries are needed for the bodies in them: those that the state machine names, and those that
//! a remembered reply or an answer under way still refers to (*pinned*).
//!
//! Owns one bit for each applied entry of the log, and of what lies before the log only what ended there
//! since: the store has the rest. Never asks for a record. Next: `snapshots` for when entries fall behind
//! the log, `repair` for those that are missing.

use super::Engine;
use crate::ids::LogIndex;
use crate::state_machine::{BodyChanges, StateMachine};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

const WORD_BITS: u64 = u64::BITS as u64;

/// Needed entries.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// The last entry before the log.
    base: LogIndex,
    /// The word of the log's first entry, and those that follow; a bit for each entry, set while the state
    /// machine may name a body of it.
    first_word: u64,
    words: VecDeque<u64>,
    /// Entries before the log that the store has, and that the state machine names no more.
    ended: BTreeSet<LogIndex>,
    /// Reused from turn to turn.
    changes: BodyChanges,
}

/// What happens to entries when the log's first ones fall behind.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Passing {
    /// Needed, and before the log from now on; rising.
    pub(super) keep: Vec<LogIndex>,
    /// Before the log already, and needed no more; rising.
    pub(super) release: Vec<LogIndex>,
}

impl Live {
    /// Of a log that begins after `base`, with a state that names `entries` (rising) and replies that pin
    /// some more.
    fn restored(base: LogIndex, entries: &[LogIndex], pinned: &BTreeSet<LogIndex>) -> Self {
        let mut live = Self { base, first_word: base.next().0 / WORD_BITS, ..Self::default() };
        entries.iter().filter(|index| **index > base).for_each(|index| live.set(*index, true));
        let is_only_pinned = |index: &&LogIndex| entries.binary_search(index).is_err();
        live.ended = pinned.range(..=base).filter(is_only_pinned).copied().collect();
        live
    }

    fn set(&mut self, index: LogIndex, is_live: bool) {
        let word = usize::try_from(index.0 / WORD_BITS - self.first_word).expect("within the log");
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (index.0 % WORD_BITS);
        if is_live {
            self.words[word] |= bit;
        } else {
            self.words[word] &= !bit;
        }
    }

    fn is_set(&self, index: LogIndex) -> bool {
        let word = (index.0 / WORD_BITS).checked_sub(self.first_word);
        let word = word.and_then(|word| self.words.get(usize::try_from(word).ok()?));
        word.is_some_and(|word| word >> (index.0 % WORD_BITS) & 1 == 1)
    }

    fn take(&mut self, changes: &mut BodyChanges) {
        for index in changes.begun.drain(..) {
            if index > self.base {
                self.set(index, true);
            } else {
                self.ended.remove(&index);
            }
        }
        for index in changes.ended.drain(..) {
            if index > self.base {
                self.set(index, false);
            } else {
                self.ended.insert(index);
            }
        }
    }

    /// The last entry before the log, as the store was told.
    pub(super) fn base(&self) -> LogIndex {
        self.base
    }

    /// Whether the state machine names the entry, which is applied, and the store's if it lies before the
    /// log.
    pub(super) fn is_named(&self, index: LogIndex) -> bool {
        if index > self.base { self.is_set(index) } else { !self.ended.contains(&index) }
    }

    /// The log begins with `first` from now on.
    fn pass(&mut self, first: LogIndex, pinned: &BTreeSet<LogIndex>) -> Passing {
        let mut release = Vec::new();
        self.ended.retain(|index| {
            let is_pinned = pinned.contains(index);
            if !is_pinned {
                release.push(*index);
            }
            is_pinned
        });
        let mut keep = Vec::new();
        let mut index = self.base.next();
        while index < first {
            if self.is_set(index) {
                keep.push(index);
            } else if pinned.contains(&index) {
                keep.push(index);
                self.ended.insert(index);
            }
            index = index.next();
        }
        self.base = self.base.max(first.previous());
        let first_word = self.base.next().0 / WORD_BITS;
        let gone = usize::try_from(first_word - self.first_word).unwrap_or(usize::MAX);
        self.words.drain(..gone.min(self.words.len()));
        self.first_word = first_word;
        Passing { keep, release }
    }
}

impl<S: StateMachine> Engine<S> {
    /// Notes what the state machine says since it was last asked.
    pub(super) fn note_body_changes(&mut self) {
        self.machine.take_body_changes(&mut self.live.changes);
        let mut changes = core::mem::take(&mut self.live.changes);
        self.live.take(&mut changes);
        self.live.changes = changes;
    }

    /// The state came from a snapshot, and the log begins after `base`: what is needed of what lies
    /// before, rising.
    pub(super) fn settle_live(&mut self, base: LogIndex) -> Vec<LogIndex> {
        let mut entries = Vec::new();
        self.machine.live_entries(&mut entries);
        let pinned = self.pinned_until(LogIndex(u64::MAX));
        self.live = Live::restored(base, &entries, &pinned);
        entries.extend(pinned);
        entries.retain(|index| *index <= base);
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    /// The log begins with `first` from now on.
    pub(super) fn pass_live(&mut self, first: LogIndex) -> Passing {
        self.note_body_changes();
        let pinned = self.pinned_until(first.previous());
        self.live.pass(first, &pinned)
    }

    /// The entries up to `last` that remembered replies, and answers under way, refer to.
    pub(super) fn pinned_until(&self, last: LogIndex) -> BTreeSet<LogIndex> {
        let mut pinned: BTreeSet<LogIndex> =
            self.bodies.awaited().take_while(|i| *i <= last).collect();
        let mut bodies = Vec::new();
        let mut before = None;
        for reply in self.sessions.replies() {
            bodies.clear();
            S::bodies(reply, &mut bodies);
            for index in bodies.iter().map(|body| body.position.index) {
                if index <= last && before != Some(index) {
                    pinned.insert(index);
                    before = Some(index);
                }
            }
        }
        pinned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(numbers: &[u64]) -> Vec<LogIndex> {
        numbers.iter().copied().map(LogIndex).collect()
    }

    fn changes(begun: &[u64], ended: &[u64]) -> BodyChanges {
        BodyChanges { begun: indices(begun), ended: indices(ended) }
    }

    fn set(numbers: &[u64]) -> BTreeSet<LogIndex> {
        indices(numbers).into_iter().collect()
    }

    #[test]
    fn what_is_named_or_pinned_is_kept_when_the_log_passes_it() {
        let mut live = Live::default();
        live.take(&mut changes(&[1, 2, 63, 64, 130], &[2]));
        let passing = live.pass(LogIndex(65), &set(&[2, 200]));
        assert_eq!(passing, Passing { keep: indices(&[1, 2, 63, 64]), release: Vec::new() });
        let passing = live.pass(LogIndex(131), &BTreeSet::new());
        assert_eq!(passing, Passing { keep: indices(&[130]), release: indices(&[2]) });
    }

    #[test]
    fn what_ends_before_the_log_is_released_once_nothing_pins_it() {
        let mut live = Live::restored(LogIndex(100), &indices(&[5, 70, 101]), &set(&[7]));
        live.take(&mut changes(&[], &[70]));
        assert!(live.is_named(LogIndex(5)) && live.is_named(LogIndex(101)));
        assert!(!live.is_named(LogIndex(70)) && !live.is_named(LogIndex(7)));
        assert_eq!(live.pass(LogIndex(101), &set(&[7, 70])).release, []);
        assert_eq!(live.pass(LogIndex(101), &set(&[7])).release, indices(&[70]));
        assert_eq!(live.pass(LogIndex(101), &set(&[])).release, indices(&[7]));
    }

    #[test]
    fn a_log_may_begin_anywhere_within_a_word() {
        for base in 0..200 {
            let mut live =
                Live::restored(LogIndex(base), &indices(&[base + 1, base + 64]), &set(&[]));
            assert!(live.is_named(LogIndex(base + 1)) && !live.is_named(LogIndex(base + 2)));
            let passing = live.pass(LogIndex(base + 65), &BTreeSet::new());
            assert_eq!(passing.keep, indices(&[base + 1, base + 64]));
            live.take(&mut changes(&[base + 65], &[]));
            assert!(live.is_named(LogIndex(base + 65)));
        }
    }
}
