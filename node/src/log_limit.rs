//! Keeps a stranger from filling the log.

use engine::time::Micros;

const WINDOW: Micros = Micros::from_secs(1);
const LINES_PER_WINDOW_MAX: u32 = 10;

/// Lets ten lines a second through and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    window_start: Micros,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Whether a line may be written at `now`, and then how many were suppressed since the last one.
    pub(crate) fn admit(&mut self, now: Micros) -> Option<u64> {
        if now.since(self.window_start) >= WINDOW {
            self.window_start = now;
            self.lines = 0;
        }
        if self.lines >= LINES_PER_WINDOW_MAX {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(core::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_line_of_a_second_is_suppressed_and_counted() {
        let mut limit = LogLimit::default();
        for _ in 0..LINES_PER_WINDOW_MAX {
            assert_eq!(limit.admit(Micros::from_millis(1)), Some(0));
        }
        assert_eq!(limit.admit(Micros::from_millis(2)), None);
        assert_eq!(limit.admit(Micros::from_millis(3)), None);
        assert_eq!(limit.admit(Micros::from_millis(1_001)), Some(2));
    }
}
