//! What a disk does to bytes that were durable: decay, writes that land elsewhere, disks that vanish.
//!
//! Owns the drawing of one piece of damage within a machine's files. Never asks whether it may be
//! done: that is the [`atlas`](crate::atlas)'s. The kinds are those that are seen in the field
//! (Bairavasundaram et al., "An Analysis of Data Corruption in the Storage Stack", FAST 2008).

use crate::disk::SimDisk;
use crate::streams::Stream;
use bytes::Bytes;
use engine::storage::disk::{Disk, DiskOp, FileName};
use serde::{Deserialize, Serialize};

/// The unit in which pages go bad, bytes.
const PAGE_BYTES: u64 = 4_096;

/// How bytes at rest decay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// A bit of a segment flips.
    Bit,
    /// A page of a segment, or what there is of it, reads as zeros.
    Page,
    /// A segment ends sooner than it did.
    Truncation,
    /// A bit of a snapshot flips.
    SnapshotBit,
    /// A page of a snapshot reads as zeros.
    SnapshotPage,
    /// A snapshot ends sooner than it did.
    SnapshotTruncation,
    /// A segment or a snapshot is gone.
    File,
}

impl Decay {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Bit,
        Self::Page,
        Self::Truncation,
        Self::SnapshotBit,
        Self::SnapshotPage,
        Self::SnapshotTruncation,
        Self::File,
    ];

    fn may_strike(self, file: FileName) -> bool {
        let is_segment = matches!(file, FileName::Segment(_));
        let is_snapshot = matches!(file, FileName::Snapshot(_));
        match self {
            Self::Bit | Self::Page | Self::Truncation => is_segment,
            Self::SnapshotBit | Self::SnapshotPage | Self::SnapshotTruncation => is_snapshot,
            Self::File => is_segment || is_snapshot,
        }
    }
}

/// Damages a file of the disk somewhere. Says where, for people; nothing if there is no such file.
pub fn decay(disk: &mut SimDisk, how: Decay, stream: &mut Stream) -> Option<String> {
    let files = disk.list().expect("a simulated directory can be listed");
    let files: Vec<(FileName, u64)> =
        files.into_iter().filter(|(file, len)| how.may_strike(*file) && *len > 0).collect();
    if files.is_empty() {
        return None;
    }
    let (file, len) = files[stream.below(files.len())];
    let at = stream.between(0, len - 1);
    match how {
        Decay::Bit | Decay::SnapshotBit => {
            let bit = u32::try_from(stream.below(8)).expect("a byte has eight bits");
            assert!(disk.flip_bit(file, at, bit), "within the file");
            Some(format!("bit {bit} of byte {at} of {file} ({len} bytes) flips"))
        }
        Decay::Page | Decay::SnapshotPage => {
            let first = at / PAGE_BYTES * PAGE_BYTES;
            let end = (first + PAGE_BYTES).min(len);
            disk.overwrite_at_rest(file, first, &vec![0; (end - first) as usize]);
            Some(format!("bytes {first} to {end} of {file} ({len} bytes) become zeros"))
        }
        Decay::Truncation | Decay::SnapshotTruncation => {
            disk.truncate_at_rest(file, at);
            Some(format!("{file} is cut from {len} to {at} bytes"))
        }
        Decay::File => {
            disk.lose_file(file);
            Some(format!("{file} ({len} bytes) is gone"))
        }
    }
}

/// A write that lands elsewhere: in its own file or in another segment, over whatever is there. Its
/// own place stays as it was, but for the file's length. Says where, for people.
pub fn misdirect(disk: &mut SimDisk, op: &DiskOp, stream: &mut Stream) -> Option<String> {
    let DiskOp::Write { file, offset, parts } = op else { return None };
    let files = disk.list().expect("a simulated directory can be listed");
    let victims: Vec<(FileName, u64)> = files
        .into_iter()
        .filter(|(name, len)| matches!(name, FileName::Segment(_)) && *len > 0)
        .collect();
    if victims.is_empty() {
        return None;
    }
    let (victim, victim_len) = victims[stream.below(victims.len())];
    let written: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    let at = stream.between(0, victim_len - 1);
    // What the file system believes: the file has grown, though nothing came there.
    let hole = vec![0; written.len()];
    let grown = DiskOp::Write { file: *file, offset: *offset, parts: vec![Bytes::from(hole)] };
    // A disk without space takes no write, and so none can go astray.
    disk.perform(&grown).ok()?;
    let end = (at as usize + written.len()).min(victim_len as usize);
    disk.overwrite_at_rest(victim, at, &written[..end - at as usize]);
    Some(format!("{} bytes meant for {file} at {offset} land in {victim} at {at}", written.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn disk() -> SimDisk {
        let mut disk = SimDisk::new();
        disk.set_contents(FileName::Identity, vec![1; 40]);
        disk.set_contents(FileName::Segment(1), vec![1; 10_000]);
        disk.set_contents(FileName::Segment(2), vec![1; 5_000]);
        disk.set_contents(FileName::Snapshot(engine::ids::LogIndex(7)), vec![1; 6_000]);
        disk
    }

    fn files(disk: &mut SimDisk) -> Vec<Vec<u8>> {
        let files = disk.list().unwrap();
        files.iter().map(|(file, _)| disk.contents(*file).unwrap().to_vec()).collect()
    }

    #[test]
    fn every_decay_changes_one_file_and_never_the_identity() {
        for how in Decay::ALL {
            for seed in 0..50 {
                let (mut before, mut after) = (disk(), disk());
                let said = decay(&mut after, how, &mut Stream::new(seed, "decay"));
                assert!(said.is_some(), "{how:?}");
                assert_eq!(after.contents(FileName::Identity).unwrap(), [1; 40]);
                let (old, new) = (files(&mut before), files(&mut after));
                let kept = new.iter().filter(|bytes| old.contains(bytes)).count();
                assert_eq!(kept, 3, "{how:?}: {said:?}");
            }
        }
    }

    #[test]
    fn a_misdirected_write_strikes_another_place_and_leaves_its_own_alone() {
        let op = DiskOp::Write {
            file: FileName::Segment(2),
            offset: 5_000,
            parts: vec![Bytes::from(vec![9; 100])],
        };
        for seed in 0..50 {
            let mut disk = disk();
            misdirect(&mut disk, &op, &mut Stream::new(seed, "misdirect")).unwrap();
            assert_eq!(disk.contents(FileName::Segment(2)).unwrap()[5_000..], [0; 100]);
            let nines: usize = files(&mut disk).iter().flatten().filter(|byte| **byte == 9).count();
            assert!((1..=100).contains(&nines), "{nines}");
        }
    }
}
