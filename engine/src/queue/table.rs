//! A hash table that grows a part at a time.
//!
//! Owns the split into shards: when a table of millions grows, all at once, everybody waits; here a
//! shard of a few thousand does. Never iterates, so nothing depends on the order in a table; hashes
//! are fixed and the same on every node. Next: `dedup` and `leases`, which keep theirs here.

use alloc::vec::Vec;
use hashbrown::HashTable;
use hashbrown::hash_table::OccupiedEntry;

const SHARDS: usize = 256;

/// Values found by the hash of their key, which they contain or lead to.
#[derive(Debug)]
pub(super) struct Table<T> {
    shards: Vec<HashTable<T>>,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| HashTable::new()).collect() }
    }

    /// From bits that a shard uses neither for its buckets (the lowest) nor for its tags (the highest).
    fn shard(hash: u64) -> usize {
        (hash >> 40) as usize % SHARDS
    }

    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.shards[Self::shard(hash)].find(hash, is_it)
    }

    pub(super) fn find_entry(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
    ) -> Option<OccupiedEntry<'_, T>> {
        self.shards[Self::shard(hash)].find_entry(hash, is_it).ok()
    }

    /// Adds a value that is not there; `rehash` tells the hash of any value.
    pub(super) fn insert(&mut self, hash: u64, value: T, rehash: impl Fn(&T) -> u64) {
        self.shards[Self::shard(hash)].insert_unique(hash, value, rehash);
    }

    /// Values in the table; adds up the shards.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }
}
