//! Tells how far the opening of a long log is.
//!
//! Owns a count of the bytes that a recovery reads, between the recovery and its disk; a line of the log
//! goes out whenever another second has passed. Never changes what is read.
//! Next: `engine::storage` (`recovery`), which reads.

use bytes::Bytes;
use engine::storage::disk::{Disk, DiskError, DiskOp, FileName};
use std::time::Duration;
use tokio::time::Instant;

/// A recovery that takes less is not worth a line; a longer one gets one this often.
const LINES_APART: Duration = Duration::from_secs(1);

/// A disk that is read by a recovery.
pub(crate) struct Opening<'a, D> {
    disk: &'a mut D,
    begun_at: Instant,
    told_at: Instant,
    read_bytes: u64,
    /// Bytes of the log; snapshots, of which not all are read, are not counted.
    log_bytes: u64,
}

impl<'a, D: Disk> Opening<'a, D> {
    pub(crate) fn of(disk: &'a mut D) -> Self {
        let now = Instant::now();
        Self { disk, begun_at: now, told_at: now, read_bytes: 0, log_bytes: 0 }
    }

    /// How long it took.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun_at.elapsed()
    }

    fn tell(&mut self, op: &DiskOp) {
        if let DiskOp::Read { file: FileName::Segment(_), len, .. } = op {
            self.read_bytes += *len as u64;
        }
        if self.told_at.elapsed() < LINES_APART {
            return;
        }
        self.told_at = Instant::now();
        let (read, all) = (self.read_bytes >> 20, self.log_bytes >> 20);
        let share = (self.read_bytes * 100).checked_div(self.log_bytes).unwrap_or(100).min(100);
        let seconds = self.elapsed().as_secs();
        tracing::info!("opening the log: {share}%, {read} of {all} MiB read in {seconds} s");
    }
}

impl<D: Disk> Disk for Opening<'_, D> {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        let files = self.disk.list()?;
        let is_log = |(file, _): &&(FileName, u64)| matches!(file, FileName::Segment(_));
        self.log_bytes = files.iter().filter(is_log).map(|(_, len)| len).sum();
        Ok(files)
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError> {
        self.tell(op);
        self.disk.perform(op)
    }
}
