//! Where each entry of the log lies on disk: twelve bytes an entry.
//!
//! Owns the map from index to place, truncated and appended to exactly as the log is. Never knows
//! what an entry says. Next: `store` for who keeps it.

use crate::ids::LogIndex;
use alloc::collections::VecDeque;

/// Where one record's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    segment: u32,
    offset: u32,
    len: u32,
}

impl Slot {
    pub(super) fn new(segment: u64, offset: u64, len: usize) -> Self {
        Self {
            segment: u32::try_from(segment).expect("2^32 segments of 64 MiB are never written"),
            offset: u32::try_from(offset).expect("a segment is shorter than 4 GiB"),
            len: u32::try_from(len).expect("a record is shorter than 4 GiB"),
        }
    }

    pub(super) fn segment(self) -> u64 {
        u64::from(self.segment)
    }

    pub(super) fn offset(self) -> u64 {
        u64::from(self.offset)
    }

    pub(super) fn len(self) -> usize {
        self.len as usize
    }

    pub(super) fn end(self) -> u64 {
        self.offset() + u64::from(self.len)
    }

    /// In the place of a record that is damaged. No record is empty.
    const HOLE: Self = Self { segment: 0, offset: 0, len: 0 };

    fn is_hole(self) -> bool {
        self.len == 0
    }
}

/// The slots of consecutive entries from `first` on. An entry may have lost its place: a hole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entries {
    first: LogIndex,
    slots: VecDeque<Slot>,
    /// Bytes of their records.
    bytes: u64,
}

impl Entries {
    /// None, in a log that begins at `first`.
    pub(super) fn beginning_at(first: LogIndex) -> Self {
        Self { first, slots: VecDeque::new(), bytes: 0 }
    }

    /// The first index that can be there.
    pub(super) fn first(&self) -> LogIndex {
        self.first
    }

    /// The index after the last.
    pub(super) fn end(&self) -> LogIndex {
        LogIndex(self.first.0 + self.slots.len() as u64)
    }

    /// Bytes of the records.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn at(&self, index: LogIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.first.0)?).ok()
    }

    pub(super) fn slot(&self, index: LogIndex) -> Option<Slot> {
        self.slots.get(self.at(index)?).copied().filter(|slot| !slot.is_hole())
    }

    /// Makes a hole where an entry was.
    pub(super) fn lose(&mut self, index: LogIndex) {
        let at = self.at(index).expect("it is not before the first");
        let lost = core::mem::replace(&mut self.slots[at], Slot::HOLE);
        self.bytes -= lost.len() as u64;
    }

    /// The entries that lost their place, in order.
    pub(super) fn holes(&self) -> impl Iterator<Item = LogIndex> + '_ {
        let indexed = (self.first.0..).map(LogIndex).zip(&self.slots);
        indexed.filter(|(_, slot)| slot.is_hole()).map(|(index, _)| index)
    }

    /// Makes holes up to the entry before `end`, where the log ends before it.
    pub(super) fn lose_until(&mut self, end: LogIndex) {
        while self.end() < end {
            self.slots.push_back(Slot::HOLE);
        }
    }

    /// Fills a hole; says whether there was one at `index`.
    pub(super) fn fill(&mut self, index: LogIndex, slot: Slot) -> bool {
        let hole = self.at(index).and_then(|at| self.slots.get_mut(at));
        let Some(hole) = hole.filter(|hole| hole.is_hole()) else { return false };
        *hole = slot;
        self.bytes += slot.len() as u64;
        true
    }

    /// The first hole from `index` on.
    pub(super) fn first_hole(&self, index: LogIndex) -> Option<LogIndex> {
        let first = index.max(self.first);
        (first.0..self.end().0).map(LogIndex).find(|index| self.slot(*index).is_none())
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate(&mut self, index: LogIndex) {
        let kept = index.0.saturating_sub(self.first.0);
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        if kept >= self.slots.len() {
            return;
        }
        let gone = self.slots.drain(kept..);
        self.bytes -= gone.map(|slot| slot.len() as u64).sum::<u64>();
    }

    /// Forgets the entries before `first`, which is at most one more than the last.
    pub(super) fn forget_before(&mut self, first: LogIndex) {
        assert!(first <= self.end());
        let gone = first.0.saturating_sub(self.first.0);
        let gone = self.slots.drain(..usize::try_from(gone).expect("no more than there are"));
        self.bytes -= gone.map(|slot| slot.len() as u64).sum::<u64>();
        self.first = self.first.max(first);
    }

    /// The same, but `first` may be anything: if nothing leads up to it, nothing is there any more.
    pub(super) fn forget_until(&mut self, first: LogIndex) {
        if (self.first..=self.end()).contains(&first) {
            self.forget_before(first);
        } else {
            *self = Self::beginning_at(first);
        }
    }

    /// Puts an entry at `index`, which is there or is the next: what was there from it on is gone.
    pub(super) fn put(&mut self, index: LogIndex, slot: Slot) {
        assert!(index >= self.first);
        assert!(index <= self.end());
        self.truncate(index);
        self.slots.push_back(slot);
        self.bytes += slot.len() as u64;
    }

    /// Those that are there, holes left out.
    pub(super) fn slots(&self) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        self.slots.iter().copied().filter(|slot| !slot.is_hole())
    }
}
