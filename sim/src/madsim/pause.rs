//! Sleeping for less than a millisecond, which madsim's own `sleep` rounds up.

use madsim_tokio::time::{Instant, sleep_until};
use std::pin::pin;
use std::time::Duration;

/// Sleeps for so many microseconds.
pub(super) async fn pause_us(span_us: u64) {
    let until = Instant::now() + Duration::from_micros(span_us);
    let mut sleep = pin!(sleep_until(until));
    // Only a deadline that is given anew is taken as it is.
    sleep.as_mut().reset(until);
    sleep.await;
}
