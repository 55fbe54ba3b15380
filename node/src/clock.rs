//! The wall clock of the operating system.

use crate::ports::{ClockPort, Wall};
use engine::time::Micros;
use std::time::{SystemTime, UNIX_EPOCH};

/// How far a machine's clock is assumed to be off while nothing measures it: what an NTP client
/// keeps easily, and what an unsynchronised machine exceeds. Only reported, never relied on.
const ASSUMED_ERROR: Micros = Micros::from_millis(250);

/// Reads the clock of the operating system and never sets it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl ClockPort for SystemClock {
    fn wall(&mut self) -> Wall {
        // A clock set before 1970 reads as 1970: stamps still rise, because the HLC makes them.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        Wall { time: Micros(micros), error: ASSUMED_ERROR }
    }
}
