//! Numbered places in memory that are used again.
//!
//! Owns the chunks: memory is taken a chunk at a time, so that nothing is ever moved and growing
//! never makes anybody wait. It is not given back: a queue that was long once may be so again.
//! Next: `messages`, which keeps slots and entries here.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// No place.
pub(super) const NONE: u32 = u32::MAX;

const CHUNK_LEN: usize = 4_096;

/// Values by number.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    len: u32,
    /// Places to use again, the last first.
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0, free: Vec::new() }
    }

    /// Puts a value into a free place.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self[number] = value;
            return number;
        }
        let number = self.len;
        assert!(number < NONE, "4 billion messages fit no memory");
        if (number as usize).is_multiple_of(CHUNK_LEN) {
            self.chunks.push(Vec::with_capacity(CHUNK_LEN));
        }
        self.chunks[number as usize / CHUNK_LEN].push(value);
        self.len += 1;
        number
    }

    /// Frees a place; whoever knows its number must forget it.
    pub(super) fn remove(&mut self, number: u32) {
        self.free.push(number);
    }

    /// The values of all places, also of free ones.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// Places in use.
    pub(super) fn used(&self) -> u32 {
        self.len - u32::try_from(self.free.len()).expect("no more free places than places")
    }

    /// Places that there are, in use or free.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> u32 {
        self.len
    }
}

/// More about the values of a [`Slab`], by the same numbers: what is looked at without the rest lies
/// close together here.
#[derive(Debug)]
pub(super) struct Column<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Column<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Puts the value of a number that the slab has just given.
    pub(super) fn put(&mut self, number: u32, value: T) {
        let (chunk, at) = (number as usize / CHUNK_LEN, number as usize % CHUNK_LEN);
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(CHUNK_LEN));
        }
        match self.chunks[chunk].get_mut(at) {
            Some(place) => *place = value,
            None => self.chunks[chunk].push(value),
        }
    }
}

impl<T> Index<u32> for Column<T> {
    type Output = T;
    fn index(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK_LEN][number as usize % CHUNK_LEN]
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK_LEN][number as usize % CHUNK_LEN]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK_LEN][number as usize % CHUNK_LEN]
    }
}
