//! Values by number, in chunks that come, go, and can be looked at as they were.
//!
//! Owns the chunks and which numbers are in use. Memory is taken a chunk at a time, so that nothing is
//! ever moved and growing never makes anybody wait, and a chunk of which nothing is used is given
//! back. While a snapshot is open, a chunk is copied before it is first changed: what the snapshot
//! reads is the state as it was when it began, and each step pays for the chunks that it touches.
//! Next: `messages`, which keeps all it knows here; `snapshot` for who reads the copies.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// No number.
pub(super) const NONE: u32 = u32::MAX;

/// Small enough to be copied in a few microseconds.
pub(super) const CHUNK_LEN: usize = 1_024;

type Chunk<T> = Box<[T; CHUNK_LEN]>;

/// The chunk that a number is in.
pub(super) fn chunk_of(number: u32) -> usize {
    number as usize / CHUNK_LEN
}

/// A chunk as it was when the snapshot began.
#[derive(Debug)]
enum Kept<T> {
    Unchanged,
    Absent,
    Copy(Chunk<T>),
}

/// Values by number. What is looked at without the rest lies close together in a column of its own.
#[derive(Debug)]
pub(super) struct Column<T> {
    chunks: Vec<Option<Chunk<T>>>,
    is_frozen: bool,
    /// One for each chunk that there was when the column was frozen.
    kept: Vec<Kept<T>>,
}

impl<T: Clone + Default> Column<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), is_frozen: false, kept: Vec::new() }
    }

    /// Puts the value of a number, which need not have one.
    pub(super) fn put(&mut self, number: u32, value: T) {
        let chunk = chunk_of(number);
        if self.is_frozen {
            self.keep(chunk);
        }
        match self.chunks.get_mut(chunk) {
            Some(Some(chunk)) => chunk[number as usize % CHUNK_LEN] = value,
            Some(None) | None => self.put_first(chunk, number as usize % CHUNK_LEN, value),
        }
    }

    #[cold]
    fn put_first(&mut self, chunk: usize, at: usize, value: T) {
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let mut values = vec![T::default(); CHUNK_LEN].into_boxed_slice();
        values[at] = value;
        self.chunks[chunk] = Some(values.try_into().ok().expect("it has this length"));
    }

    /// The value of a number whose chunk may be gone.
    pub(super) fn find(&self, number: u32) -> Option<&T> {
        let chunk = self.chunks.get(chunk_of(number))?.as_ref()?;
        Some(&chunk[number as usize % CHUNK_LEN])
    }

    /// Gives back a chunk of which no value is used any more.
    pub(super) fn release(&mut self, chunk: usize) {
        let values = self.chunks.get_mut(chunk).and_then(Option::take);
        if self.is_frozen
            && let (Some(kept @ Kept::Unchanged), Some(values)) = (self.kept.get_mut(chunk), values)
        {
            *kept = Kept::Copy(values);
        }
    }

    /// All values, also of numbers that are not in use.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flat_map(|chunk| chunk.iter())
    }

    /// From now on [`frozen`](Self::frozen) tells the values of now.
    pub(super) fn freeze(&mut self) {
        let kept = |chunk: &Option<Chunk<T>>| match chunk {
            Some(_) => Kept::Unchanged,
            None => Kept::Absent,
        };
        self.kept.clear();
        self.kept.extend(self.chunks.iter().map(kept));
        self.is_frozen = true;
    }

    /// The value that a number had when the column was frozen, if its chunk was there.
    pub(super) fn frozen(&self, number: u32) -> Option<&T> {
        assert!(self.is_frozen);
        match self.kept.get(chunk_of(number))? {
            Kept::Unchanged => self.find(number),
            Kept::Absent => None,
            Kept::Copy(chunk) => Some(&chunk[number as usize % CHUNK_LEN]),
        }
    }

    /// Gives back copies, as many as `budget` says: to free gigabytes takes long. Says whether that was
    /// all; the column is not frozen any more.
    pub(super) fn thaw(&mut self, budget: &mut usize) -> bool {
        self.is_frozen = false;
        while *budget > 0
            && let Some(kept) = self.kept.pop()
        {
            *budget -= usize::from(matches!(kept, Kept::Copy(_)));
        }
        if self.kept.is_empty() {
            self.kept = Vec::new();
        }
        self.kept.is_empty()
    }

    #[cold]
    fn keep(&mut self, chunk: usize) {
        if let Some(kept @ Kept::Unchanged) = self.kept.get_mut(chunk) {
            *kept = Kept::Copy(self.chunks[chunk].clone().expect("it was there and not released"));
        }
    }
}

impl<T> Index<u32> for Column<T> {
    type Output = T;
    #[inline]
    fn index(&self, number: u32) -> &T {
        let chunk = self.chunks[chunk_of(number)].as_ref().expect("its number is in use");
        &chunk[number as usize % CHUNK_LEN]
    }
}

impl<T: Clone + Default> IndexMut<u32> for Column<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        let chunk = chunk_of(number);
        if self.is_frozen {
            self.keep(chunk);
        }
        let chunk = self.chunks[chunk].as_mut().expect("its number is in use");
        &mut chunk[number as usize % CHUNK_LEN]
    }
}

const WORDS: usize = CHUNK_LEN / 64;

/// Which numbers of a chunk are in use.
#[derive(Clone, Debug)]
struct Used {
    bits: [u64; WORDS],
    count: u32,
    /// No word before this one has a free number.
    word_first: u32,
    /// Whether the chunk is in [`Numbers::partial`].
    is_listed: bool,
}

/// Numbers that are used again. Those that are given out one after the other are mostly neighbours, and
/// the fuller chunks are filled first, so that the others become empty.
#[derive(Debug)]
pub(super) struct Numbers {
    chunks: Vec<Used>,
    /// Chunks that had free numbers when they were put here; the last is looked at first.
    partial: Vec<u32>,
    /// Chunks of which no number is in use.
    empty: Vec<u32>,
    used: u32,
}

impl Numbers {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), partial: Vec::new(), empty: Vec::new(), used: 0 }
    }

    /// A number that is not in use.
    pub(super) fn take(&mut self) -> u32 {
        self.used += 1;
        while let Some(&chunk) = self.partial.last() {
            let used = &mut self.chunks[chunk as usize];
            if (1..CHUNK_LEN as u32).contains(&used.count) {
                return Self::take_of(used, chunk);
            }
            used.is_listed = false;
            if used.count == 0 {
                self.empty.push(chunk);
            }
            self.partial.pop();
        }
        let chunk = self.empty.pop().unwrap_or_else(|| {
            let used = Used { bits: [0; WORDS], count: 0, word_first: 0, is_listed: false };
            self.chunks.push(used);
            u32::try_from(self.chunks.len() - 1).expect("fewer chunks than numbers")
        });
        assert!((chunk as usize) < NONE as usize / CHUNK_LEN, "4 billion messages fit no memory");
        self.partial.push(chunk);
        let used = &mut self.chunks[chunk as usize];
        used.is_listed = true;
        Self::take_of(used, chunk)
    }

    fn take_of(used: &mut Used, chunk: u32) -> u32 {
        while used.bits[used.word_first as usize] == u64::MAX {
            used.word_first += 1;
        }
        let bit = used.bits[used.word_first as usize].trailing_ones();
        used.bits[used.word_first as usize] |= 1 << bit;
        used.count += 1;
        chunk * CHUNK_LEN as u32 + used.word_first * 64 + bit
    }

    /// A number is not in use any more. Says whether no other of its chunk is either.
    pub(super) fn give_back(&mut self, number: u32) -> bool {
        let chunk = chunk_of(number);
        let used = &mut self.chunks[chunk];
        let (word, bit) = (number / 64 % WORDS as u32, number % 64);
        assert!(used.bits[word as usize] & 1 << bit != 0, "a number is given back once");
        used.bits[word as usize] &= !(1 << bit);
        used.count -= 1;
        used.word_first = used.word_first.min(word);
        if !used.is_listed {
            used.is_listed = true;
            self.partial.push(chunk as u32);
        }
        self.used -= 1;
        used.count == 0
    }

    /// Numbers in use.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Numbers that there are, in use or free.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> u32 {
        (self.chunks.len() * CHUNK_LEN) as u32
    }
}
