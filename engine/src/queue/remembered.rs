//! The order in which ids are forgotten.
//!
//! Owns a queue of numbers, kept as runs: messages that come one after the other mostly have numbers
//! that do, so that a thousand of them take eight bytes. While it is frozen, what is taken off its
//! front stays, for a snapshot that has yet to read it.
//! Next: `dedup` for what is in it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Runs in a part: memory is taken and given back by parts, and nothing is ever moved.
const PART_RUNS: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    len: u32,
}

/// A place in the queue: so many numbers into a run of a part.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Place {
    /// Counted from the first part that there ever was.
    part: u64,
    run: u32,
    offset: u32,
}

/// Numbers in the order in which they came.
#[derive(Debug)]
pub(super) struct Remembered {
    parts: VecDeque<Vec<Run>>,
    /// The part that is the first of `parts`.
    part_first: u64,
    front: Place,
    len: u64,
    is_frozen: bool,
}

impl Remembered {
    pub(super) const fn new() -> Self {
        let front = Place { part: 0, run: 0, offset: 0 };
        Self { parts: VecDeque::new(), part_first: 0, front, len: 0, is_frozen: false }
    }

    /// How many.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where [`pop`](Self::pop) goes on.
    pub(super) fn front(&self) -> Place {
        self.front
    }

    pub(super) fn push(&mut self, number: u32) {
        self.len += 1;
        let last = self.parts.back_mut().and_then(|part| part.last_mut());
        if let Some(run) = last
            && run.first + run.len == number
        {
            run.len += 1;
            return;
        }
        if self.parts.back().is_none_or(|part| part.len() == PART_RUNS) {
            self.parts.push_back(Vec::with_capacity(PART_RUNS));
        }
        let part = self.parts.back_mut().expect("there is one now");
        part.push(Run { first: number, len: 1 });
    }

    /// The number at the front.
    pub(super) fn first(&self) -> Option<u32> {
        self.number_at(&mut { self.front })
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        let mut place = self.front;
        let number = self.number_at(&mut place)?;
        place.offset += 1;
        self.front = place;
        self.len -= 1;
        self.drop_parts();
        Some(number)
    }

    /// Keeps what is popped until [`thaw`](Self::thaw).
    pub(super) fn freeze(&mut self) {
        self.is_frozen = true;
    }

    pub(super) fn thaw(&mut self) {
        self.is_frozen = false;
        self.drop_parts();
    }

    /// The number at a place, which moves behind it.
    pub(super) fn next(&self, place: &mut Place) -> Option<u32> {
        let number = self.number_at(place)?;
        place.offset += 1;
        Some(number)
    }

    fn drop_parts(&mut self) {
        while !self.is_frozen && self.part_first < self.front.part {
            self.parts.pop_front();
            self.part_first += 1;
        }
    }

    /// The number at a place; a place behind a run becomes that of the next one.
    fn number_at(&self, place: &mut Place) -> Option<u32> {
        loop {
            let part = self.parts.get((place.part - self.part_first) as usize)?;
            match part.get(place.run as usize) {
                Some(run) if place.offset < run.len => return Some(run.first + place.offset),
                Some(_) if place.run as usize + 1 < part.len() => {
                    (place.run, place.offset) = (place.run + 1, 0);
                }
                // The last run may still grow, and so may the part.
                Some(_) if part.len() < PART_RUNS => return None,
                Some(_) if self.parts.len() as u64 == place.part - self.part_first + 1 => {
                    return None;
                }
                Some(_) => *place = Place { part: place.part + 1, run: 0, offset: 0 },
                None => return None,
            }
        }
    }
}
