//! Where the entries lie that outlive the log proper: 16 bytes an entry.
//!
//! Owns the sparse map from index to place of the entries that the log has no place for: those before
//! its first, and copies that make good for damaged ones; and how many bytes of them each segment holds.
//! Never knows which entries are still wanted: the engine says so. Next: `clean`, which moves them.
//!
//! The map is a sequence of chunks of items in the order of their indices. A chunk knows a segment
//! before which none of its items lies, so that what the oldest segment still holds is found without
//! a look at every item.

use super::entries::{Entries, Slot};
use crate::ids::LogIndex;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// Items of a chunk; a full one is split.
const CHUNK_ITEMS_MAX: usize = 512;

/// One entry of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Item {
    /// Index, from the chunk's first on.
    delta: u32,
    slot: Slot,
}

/// Entries that are neighbours in the order of their indices.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Chunk {
    /// No item has a lower index.
    first: LogIndex,
    /// No item lies in an earlier segment.
    segment_min: u64,
    /// At least one, in the order of their indices.
    items: Vec<Item>,
}

impl Chunk {
    fn of(index: LogIndex, slot: Slot) -> Self {
        Self { first: index, segment_min: slot.segment(), items: vec![Item { delta: 0, slot }] }
    }

    fn delta(&self, index: LogIndex) -> Option<u32> {
        u32::try_from(index.0.checked_sub(self.first.0)?).ok()
    }

    fn index(&self, item: Item) -> LogIndex {
        LogIndex(self.first.0 + u64::from(item.delta))
    }

    fn find(&self, index: LogIndex) -> Option<usize> {
        let delta = self.delta(index)?;
        self.items.binary_search_by_key(&delta, |item| item.delta).ok()
    }

    /// The later half, as a chunk of its own.
    fn split(&mut self) -> Self {
        let later = self.items.split_off(self.items.len() / 2);
        let mut chunk = Self {
            first: self.index(later[0]),
            segment_min: self.segment_min,
            items: Vec::with_capacity(later.len()),
        };
        self.items.shrink_to_fit();
        let shift = later[0].delta;
        chunk.items.extend(later.iter().map(|item| Item { delta: item.delta - shift, ..*item }));
        chunk
    }
}

/// The places of archived entries.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Archive {
    chunks: Vec<Chunk>,
    len: u64,
    bytes: u64,
    /// Bytes of the items, by the segment that they lie in; none of zero.
    by_segment: BTreeMap<u64, u64>,
}

impl Archive {
    /// How many entries.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of their records.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The oldest segment that holds any.
    pub(super) fn first_segment(&self) -> Option<u64> {
        self.by_segment.keys().next().copied()
    }

    /// The chunk that an index belongs to; none if it is before all of them.
    fn chunk_at(&self, index: LogIndex) -> Option<usize> {
        self.chunks.partition_point(|chunk| chunk.first <= index).checked_sub(1)
    }

    pub(super) fn slot(&self, index: LogIndex) -> Option<Slot> {
        let chunk = &self.chunks[self.chunk_at(index)?];
        Some(chunk.items[chunk.find(index)?].slot)
    }

    /// The first entry that is not before `index`.
    pub(super) fn next_from(&self, index: LogIndex) -> Option<LogIndex> {
        let at = self.chunk_at(index).unwrap_or(0);
        let chunks = self.chunks.iter().skip(at);
        let mut indices =
            chunks.flat_map(|chunk| chunk.items.iter().map(|item| chunk.index(*item)));
        indices.find(|found| *found >= index)
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LogIndex, Slot)> + '_ {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.items.iter().map(|item| (chunk.index(*item), item.slot)))
    }

    fn count_in(&mut self, slot: Slot) {
        self.len += 1;
        self.bytes += slot.len() as u64;
        *self.by_segment.entry(slot.segment()).or_default() += slot.len() as u64;
    }

    fn count_out(&mut self, slot: Slot) {
        self.len -= 1;
        self.bytes -= slot.len() as u64;
        let bytes = self.by_segment.get_mut(&slot.segment()).expect("it was counted in");
        *bytes -= slot.len() as u64;
        if *bytes == 0 {
            self.by_segment.remove(&slot.segment());
        }
    }

    /// Puts an entry in, or in another place.
    pub(super) fn insert(&mut self, index: LogIndex, slot: Slot) {
        self.count_in(slot);
        let Some(at) = self.chunk_at(index) else {
            return self.chunks.insert(0, Chunk::of(index, slot));
        };
        let chunk = &mut self.chunks[at];
        let Some(delta) = chunk.delta(index) else {
            return self.chunks.insert(at + 1, Chunk::of(index, slot));
        };
        match chunk.items.binary_search_by_key(&delta, |item| item.delta) {
            Ok(found) => {
                let replaced = core::mem::replace(&mut chunk.items[found].slot, slot);
                chunk.segment_min = chunk.segment_min.min(slot.segment());
                self.count_out(replaced);
            }
            Err(place) if chunk.items.len() < CHUNK_ITEMS_MAX => {
                chunk.items.insert(place, Item { delta, slot });
                chunk.segment_min = chunk.segment_min.min(slot.segment());
            }
            // What comes in order leaves full chunks behind.
            Err(CHUNK_ITEMS_MAX) => self.chunks.insert(at + 1, Chunk::of(index, slot)),
            Err(_) => {
                let later = chunk.split();
                self.chunks.insert(at + 1, later);
                self.count_out(slot);
                self.insert(index, slot);
            }
        }
    }

    /// Takes in, of a log that is given up, what is committed and before `end`: it stays true. Places
    /// that are known already are newer.
    pub(super) fn take_committed(&mut self, given_up: &Entries, commit: LogIndex, end: LogIndex) {
        let end = end.min(commit.next()).min(given_up.end());
        for index in (given_up.first().0..end.0).map(LogIndex) {
            if let Some(slot) = given_up.slot(index)
                && self.slot(index).is_none()
            {
                self.insert(index, slot);
            }
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, index: LogIndex) -> Option<Slot> {
        let at = self.chunk_at(index)?;
        let found = self.chunks[at].find(index)?;
        let item = self.chunks[at].items.remove(found);
        self.count_out(item.slot);
        self.tidy(at);
        Some(item.slot)
    }

    /// Keeps, of the entries from `first` on and before `end`, those that `is_kept` says, which is
    /// asked in their order.
    pub(super) fn retain(
        &mut self,
        first: LogIndex,
        end: LogIndex,
        mut is_kept: impl FnMut(LogIndex) -> bool,
    ) {
        let mut at = self.chunk_at(first).unwrap_or(0);
        let mut gone = Vec::new();
        while at < self.chunks.len() && self.chunks[at].first < end {
            let chunk = &mut self.chunks[at];
            let chunk_first = chunk.first;
            chunk.items.retain(|item| {
                let index = LogIndex(chunk_first.0 + u64::from(item.delta));
                let stays = index < first || index >= end || is_kept(index);
                if !stays {
                    gone.push(item.slot);
                }
                stays
            });
            for slot in gone.drain(..) {
                self.count_out(slot);
            }
            // The next one has moved up if this one is gone or has taken it in.
            let chunks = self.chunks.len();
            self.tidy(at);
            at += usize::from(self.chunks.len() == chunks);
        }
    }

    /// Gives back the memory of a chunk that has lost items: it goes, is joined to its neighbour, or shrinks.
    fn tidy(&mut self, at: usize) {
        let len = self.chunks[at].items.len();
        if len == 0 {
            self.chunks.remove(at);
            return;
        }
        if len > CHUNK_ITEMS_MAX / 4 {
            return;
        }
        let has_room = |chunk: &Chunk| chunk.items.len() + len <= CHUNK_ITEMS_MAX / 2;
        if at > 0 && has_room(&self.chunks[at - 1]) {
            let last = self.chunks[at].items[len - 1];
            let last = self.chunks[at].index(last);
            if self.chunks[at - 1].delta(last).is_some() {
                let later = self.chunks.remove(at);
                let chunk = &mut self.chunks[at - 1];
                chunk.segment_min = chunk.segment_min.min(later.segment_min);
                for item in &later.items {
                    let delta = chunk.delta(later.index(*item)).expect("that of the last one fits");
                    chunk.items.push(Item { delta, slot: item.slot });
                }
                return;
            }
        }
        let items = &mut self.chunks[at].items;
        if items.capacity() > 4 * len {
            items.shrink_to(2 * len);
        }
    }

    /// Entries of `segment` from `first` on, in order: at least one, if there is any, then up to
    /// `bytes_max` bytes of records.
    ///
    /// # Panics
    /// If an earlier segment holds any.
    pub(super) fn in_segment(
        &mut self,
        segment: u64,
        first: LogIndex,
        bytes_max: u64,
    ) -> Vec<(LogIndex, Slot)> {
        assert!(self.first_segment().is_none_or(|first| first >= segment));
        let mut found = Vec::new();
        let mut bytes = 0;
        let at = self.chunk_at(first).unwrap_or(0);
        for chunk in self.chunks.iter_mut().skip(at) {
            if chunk.segment_min > segment {
                continue;
            }
            let mut segment_min = u64::MAX;
            for item in &chunk.items {
                segment_min = segment_min.min(item.slot.segment());
                let index = LogIndex(chunk.first.0 + u64::from(item.delta));
                if item.slot.segment() == segment && index >= first {
                    if bytes > 0 && bytes + item.slot.len() as u64 > bytes_max {
                        return found;
                    }
                    bytes += item.slot.len() as u64;
                    found.push((index, item.slot));
                }
            }
            chunk.segment_min = segment_min;
        }
        found
    }

    pub(super) fn check_invariants(&self) {
        let in_segments: u64 = self.by_segment.values().sum();
        assert_eq!(in_segments, self.bytes, "archived_bytes_add_up");
        let firsts = self.chunks.iter().map(|chunk| chunk.first);
        assert!(firsts.is_sorted_by(|a, b| a < b), "archived_entries_in_order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u64, u64, usize),
        Append(u64, usize),
        Remove(u64),
        Retain(u64, u64, u64),
        Oldest(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let index = prop_oneof![1_u64..40, 1_u64..3_000, Just(u64::MAX / 2), 1_u64 << 33..1 << 34];
        prop_oneof![
            4 => (index.clone(), 1_u64..9, 1_usize..99).prop_map(|(i, s, l)| Act::Insert(i, s, l)),
            4 => (1_u64..700, 1_usize..99).prop_map(|(count, len)| Act::Append(count, len)),
            3 => index.clone().prop_map(Act::Remove),
            1 => (index.clone(), index.clone(), 1_u64..5).prop_map(|(f, e, d)| Act::Retain(f, e, d)),
            2 => index.prop_map(Act::Oldest),
        ]
    }

    /// The map that `Archive` is compared with.
    type Model = BTreeMap<LogIndex, Slot>;

    fn perform(archive: &mut Archive, model: &mut Model, act: &Act) {
        let put = |archive: &mut Archive, model: &mut Model, index, slot| {
            archive.insert(index, slot);
            model.insert(index, slot);
        };
        match *act {
            Act::Insert(index, segment, len) => {
                put(archive, model, LogIndex(index), Slot::new(segment, 64, len));
            }
            Act::Append(count, len) => {
                let last = model.keys().next_back().map_or(0, |last| last.0);
                for at in 1..=count {
                    let slot = Slot::new(1 + at % 7, at, len);
                    put(archive, model, LogIndex(last + at), slot);
                }
            }
            Act::Remove(index) => {
                assert_eq!(archive.remove(LogIndex(index)), model.remove(&LogIndex(index)));
            }
            Act::Retain(first, end, divisor) => {
                let (first, end) = (LogIndex(first), LogIndex(end));
                archive.retain(first, end, |index| index.0.is_multiple_of(divisor));
                model.retain(|index, _| {
                    *index < first || *index >= end || index.0.is_multiple_of(divisor)
                });
            }
            Act::Oldest(first) => {
                let Some(segment) = archive.first_segment() else { return };
                let found = archive.in_segment(segment, LogIndex(first), u64::MAX);
                let there = model.range(LogIndex(first)..).map(|(index, slot)| (*index, *slot));
                let there: Vec<_> = there.filter(|(_, slot)| slot.segment() == segment).collect();
                assert_eq!(found, there);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn an_archive_is_a_sorted_map(acts in proptest::collection::vec(act(), 1..40)) {
            let (mut archive, mut model) = (Archive::default(), Model::new());
            for act in &acts {
                perform(&mut archive, &mut model, act);
                archive.check_invariants();
                prop_assert!(archive.iter().eq(model.iter().map(|(index, slot)| (*index, *slot))));
                prop_assert_eq!(archive.len(), model.len() as u64);
                for (index, slot) in &model {
                    prop_assert_eq!(archive.slot(*index), Some(*slot));
                }
                for segment in 1..9 {
                    let there = model.values().filter(|slot| slot.segment() == segment);
                    let bytes: usize = there.map(|slot| slot.len()).sum();
                    let counted = archive.by_segment.get(&segment).copied();
                    prop_assert_eq!(counted, (bytes > 0).then_some(bytes as u64));
                }
            }
        }
    }

    #[test]
    fn an_archived_entry_takes_at_most_32_bytes_of_memory() {
        let memory = |archive: &Archive| {
            let items: usize = archive.chunks.iter().map(|chunk| chunk.items.capacity()).sum();
            items * size_of::<Item>() + archive.chunks.capacity() * size_of::<Chunk>()
        };
        let mut archive = Archive::default();
        for index in 1..=100_000 {
            archive.insert(LogIndex(3 * index), Slot::new(1, index, 9));
        }
        assert!(memory(&archive) < 100_000 * 18, "{} bytes", memory(&archive));
        for index in (1..=100_000).filter(|index| index % 5 != 0) {
            archive.remove(LogIndex(3 * index));
        }
        assert!(memory(&archive) < 20_000 * 64, "{} bytes", memory(&archive));
        for index in (1..=100_000).filter(|index| index % 5 != 0).rev() {
            archive.insert(LogIndex(3 * index), Slot::new(1, index, 9));
        }
        assert!(memory(&archive) < 100_000 * 32, "{} bytes", memory(&archive));
    }
}
