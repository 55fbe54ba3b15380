//! A set of entries as runs. After a snapshot was installed it is large, and mostly runs.

use crate::ids::LogIndex;
use alloc::collections::BTreeMap;

/// A set of entries.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Indices {
    /// First of each run, and the one after its last.
    runs: BTreeMap<LogIndex, LogIndex>,
    len: u64,
}

impl Indices {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The run that an entry is in: first, and the one after the last.
    fn run_of(&self, index: LogIndex) -> Option<(LogIndex, LogIndex)> {
        let (first, end) = self.runs.range(..=index).next_back()?;
        (index < *end).then_some((*first, *end))
    }

    pub(super) fn contains(&self, index: LogIndex) -> bool {
        self.run_of(index).is_some()
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

    pub(super) fn remove(&mut self, index: LogIndex) {
        let Some((first, end)) = self.run_of(index) else { return };
        self.len -= 1;
        if first == index {
            self.runs.remove(&first);
        } else {
            self.runs.insert(first, index);
        }
        if index.next() < end {
            self.runs.insert(index.next(), end);
        }
    }

    /// The entries from `from` on, rising.
    pub(super) fn iter_from(&self, from: LogIndex) -> impl Iterator<Item = LogIndex> + '_ {
        let first = self.run_of(from).map_or(from, |(first, _)| first);
        let runs = self.runs.range(first..);
        let indices = runs.flat_map(|(first, end)| (first.0..end.0).map(LogIndex));
        indices.skip_while(move |index| *index < from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    #[test]
    fn runs_are_the_set_of_their_entries() {
        let (mut runs, mut set) = (Indices::default(), BTreeSet::new());
        // A full cycle of a small generator: every order of joining and cutting runs comes up.
        let mut number = 7_u64;
        for step in 0..4_000 {
            number = (number * 5 + 3) % 64;
            let index = LogIndex(number.wrapping_mul(step) % 40);
            if (number ^ step).is_multiple_of(3) {
                runs.remove(index);
                set.remove(&index);
            } else {
                runs.insert(index);
                set.insert(index);
            }
            assert_eq!(runs.len(), set.len() as u64);
            let from = LogIndex(step % 40);
            assert_eq!(runs.contains(from), set.contains(&from));
            let listed: Vec<LogIndex> = runs.iter_from(from).collect();
            assert_eq!(listed, set.range(from..).copied().collect::<Vec<_>>());
        }
        assert!(runs.runs.len() < runs.len() as usize, "neighbours share a run");
    }
}
