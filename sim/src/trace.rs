//! The trace of a run: a hash over all events, and a line for each when somebody wants to read it.
//!
//! Two runs are the same, bit for bit, if their hashes are. Memory is bounded: lines go out as they
//! come. Never influences a run. Next: `lockstep::world` for what is traced.

use core::fmt;
use xxhash_rust::xxh3::Xxh3;

/// Takes the lines of a readable trace.
pub type LineSink = Box<dyn FnMut(&str) + Send>;

/// Hashes events and, if asked, prints them.
pub struct Trace {
    hash: Xxh3,
    events: u64,
    lines: Option<LineSink>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("events", &self.events).finish_non_exhaustive()
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::hash_only()
    }
}

impl Trace {
    /// A trace that nobody reads.
    #[must_use]
    pub fn hash_only() -> Self {
        Self { hash: Xxh3::new(), events: 0, lines: None }
    }

    /// A trace that is read line by line, without line ends.
    #[must_use]
    pub fn readable(lines: LineSink) -> Self {
        Self { hash: Xxh3::new(), events: 0, lines: Some(lines) }
    }

    /// Counts and hashes an event: its time, what kind it is, whom it concerns, and two numbers that
    /// tell it from others of its kind.
    pub fn event(&mut self, time_us: u64, kind: u8, who: u64, numbers: [u64; 2]) {
        let mut bytes = [0; 33];
        bytes[..8].copy_from_slice(&time_us.to_le_bytes());
        bytes[8..16].copy_from_slice(&who.to_le_bytes());
        bytes[16..24].copy_from_slice(&numbers[0].to_le_bytes());
        bytes[24..32].copy_from_slice(&numbers[1].to_le_bytes());
        bytes[32] = kind;
        self.hash.update(&bytes);
        self.events += 1;
    }

    /// Whether somebody reads; if not, nobody needs to format anything.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.lines.is_some()
    }

    /// Prints a line: the time, who (`n1`, `c2`), a sign for its role, and what happened.
    pub fn line(&mut self, time_us: u64, who: &str, role: char, what: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
            lines(&format!("{seconds:>4}.{micros:06} {who:<4}{role} {what}"));
        }
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_in_any_event_changes_the_hash() {
        let hash = |time: u64, number: u64| {
            let mut trace = Trace::hash_only();
            trace.event(time, 1, 2, [number, 0]);
            trace.event(9, 1, 2, [3, 0]);
            trace.hash()
        };
        assert_eq!(hash(1, 2), hash(1, 2));
        assert_ne!(hash(1, 2), hash(2, 2));
        assert_ne!(hash(1, 2), hash(1, 3));
    }
}
