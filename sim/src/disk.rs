//! The simulated disk: a directory in memory that loses, keeps or tears whatever was not synced.
//!
//! Owns the model of what a power failure may do. Reads see the latest write, as with a page cache;
//! [`SimDisk::crash`] then decides for each write that no sync covered, and for each creation,
//! rename and deletion that no directory sync covered, whether it happened. A process that dies
//! without a power failure loses nothing: open the same disk again. Has no entropy of its own.
//! Modelled on what file systems do (Pillai et al., "All File Systems Are Not Created Equal", OSDI
//! 2014) and on what a failed fsync leaves (Rebello et al., "Can Applications Recover from fsync
//! Failures?", ATC 2020). Next: `engine::storage` for what has to survive it.
//!
//! Files are held once: an operation that is not durable yet keeps only what it takes to undo it.

use bytes::Bytes;
use engine::storage::disk::{Disk, DiskError, DiskOp, FileName, free_bytes_answer};
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};

/// The unit in which a write tears unless told otherwise, bytes.
pub const SECTOR_BYTES: u64 = 512;
/// More states than this are refused by [`SimDisk::crash_states`].
const CRASH_STATES_MAX: usize = 1 << 16;
/// A write of more sectors is not torn into each set of them by [`SimDisk::crash_states`].
pub const SECTORS_OF_ALL_SETS: usize = 8;

/// An operation that a power failure may still undo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pending {
    /// Bytes were written.
    Write {
        /// The file, by the name it had then.
        file: FileName,
        /// Bytes from its start.
        offset: u64,
        /// Bytes written.
        len: u64,
    },
    /// A file was cut.
    Truncate {
        /// The file, by the name it had then.
        file: FileName,
        /// Bytes that stayed.
        len: u64,
    },
    /// A file was created.
    Create {
        /// Its name.
        file: FileName,
    },
    /// A file was renamed.
    Rename {
        /// The old name.
        from: FileName,
        /// The new one.
        to: FileName,
    },
    /// A file was removed.
    Delete {
        /// Its name.
        file: FileName,
    },
}

/// What a power failure does to one [`Pending`] operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It never happened.
    Lost,
    /// It happened wholly.
    Kept,
    /// Of a write, only the first bytes happened; the file is no longer than they make it. Other
    /// operations are lost.
    Prefix(u64),
    /// Of a write, these of its sectors happened (see [`SimDisk::sectors`]); the file is as long as
    /// the whole write makes it, and bytes that never existed read as zero. Other operations are lost.
    Sectors(Vec<bool>),
}

/// How bad a power failure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashMode {
    /// Whatever was not synced is gone.
    LoseAll,
    /// Each operation that was not synced meets a fate of its own.
    Random,
}

#[derive(Clone, Debug)]
enum Undo {
    Write { offset: usize, len: usize, old_len: usize, overwritten: Vec<u8> },
    Truncate { cut: Vec<u8>, len: usize },
    Create,
    Rename { from: FileName, replaced: Option<u64> },
    Delete,
}

impl Undo {
    fn is_of_directory(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Truncate { .. } => false,
            Self::Create | Self::Rename { .. } | Self::Delete => true,
        }
    }

    /// Whether an earlier operation on the same file makes no difference once this one is durable.
    fn supersedes(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Write { offset, len, .. }, Self::Write { offset: at, len: earlier_len, .. }) => {
                offset <= at && at + earlier_len <= offset + len
            }
            (Self::Truncate { len, .. }, Self::Write { offset, .. }) => len <= offset,
            _ => false,
        }
    }
}

/// An operation that is not durable: what it was done to, and how to take it back.
#[derive(Clone, Debug)]
struct Entry {
    inode: u64,
    file: FileName,
    undo: Undo,
    /// A sync that covered it has failed: the cache calls it clean, so no later sync writes it.
    is_dropped: bool,
}

impl Entry {
    fn describe(&self) -> Pending {
        let file = self.file;
        match &self.undo {
            Undo::Write { offset, len, .. } => {
                Pending::Write { file, offset: *offset as u64, len: *len as u64 }
            }
            Undo::Truncate { len, .. } => Pending::Truncate { file, len: *len as u64 },
            Undo::Create => Pending::Create { file },
            Undo::Rename { from, .. } => Pending::Rename { from: *from, to: file },
            Undo::Delete => Pending::Delete { file },
        }
    }
}

#[derive(Clone, Debug)]
struct Failure {
    operations_before: u64,
    is_full: bool,
}

/// A directory in memory. Cloning it takes a snapshot, with everything that is not durable yet.
#[derive(Clone, Debug)]
pub struct SimDisk {
    names: BTreeMap<FileName, u64>,
    files: BTreeMap<u64, Vec<u8>>,
    next_inode: u64,
    pending: Vec<Entry>,
    sector_bytes: u64,
    failure: Option<Failure>,
    is_sync_lying: bool,
    /// Bytes that all files may have together; `None`: there is no bound.
    capacity_bytes: Option<u64>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::with_sector_bytes(SECTOR_BYTES)
    }

    /// An empty directory on a disk that tears writes in units of `sector_bytes`, at least 1. Small
    /// ones make small tests meet every tear.
    #[must_use]
    pub fn with_sector_bytes(sector_bytes: u64) -> Self {
        assert!(sector_bytes > 0);
        Self {
            names: BTreeMap::new(),
            files: BTreeMap::new(),
            next_inode: 0,
            pending: Vec::new(),
            sector_bytes,
            failure: None,
            is_sync_lying: false,
            capacity_bytes: None,
        }
    }

    /// The bytes of a file as a reader sees them now, if it exists.
    #[must_use]
    pub fn contents(&self, file: FileName) -> Option<&[u8]> {
        self.names.get(&file).map(|inode| self.files[inode].as_slice())
    }

    /// Replaces a file's bytes, durably and at once: for tests that make their own damage.
    pub fn set_contents(&mut self, file: FileName, bytes: Vec<u8>) {
        let inode = *self.names.entry(file).or_insert_with(|| {
            self.next_inode += 1;
            self.next_inode
        });
        self.pending.retain(|entry| entry.inode != inode);
        self.files.insert(inode, bytes);
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`, durably. False if there is no such byte.
    pub fn flip_bit(&mut self, file: FileName, offset: u64, bit: u32) -> bool {
        assert!(bit < 8);
        let Some(inode) = self.names.get(&file) else { return false };
        let bytes = self.files.get_mut(inode).expect("a name always has its file");
        let Some(byte) = usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at)) else {
            return false;
        };
        *byte ^= 1 << bit;
        true
    }

    /// Replaces bytes where they lie, durably and without the process's doing; what would come after the
    /// file's end is left out. Writes that are not durable yet keep their fates.
    pub fn overwrite_at_rest(&mut self, file: FileName, offset: u64, bytes: &[u8]) {
        let Some(inode) = self.names.get(&file) else { return };
        let held = self.files.get_mut(inode).expect("a name always has its file");
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(held.len());
        let end = start.saturating_add(bytes.len()).min(held.len());
        held[start..end].copy_from_slice(&bytes[..end - start]);
    }

    /// Cuts a file to `len` bytes, durably and without the process's doing; with it goes whatever of
    /// the file was not durable.
    pub fn truncate_at_rest(&mut self, file: FileName, len: u64) {
        let Some(bytes) = self.contents(file) else { return };
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = bytes[..len].to_vec();
        self.settle_file(file);
        self.set_contents(file, bytes);
    }

    /// A file is gone for good.
    pub fn lose_file(&mut self, file: FileName) {
        self.settle_file(file);
        if let Some(inode) = self.names.remove(&file) {
            self.pending.retain(|entry| entry.inode != inode);
            self.forget_nameless_files();
        }
    }

    /// Another disk takes this one's place, as empty as it came from the factory.
    pub fn vanish(&mut self) {
        *self = Self::with_sector_bytes(self.sector_bytes);
    }

    /// Whatever was done to a file so far is durable.
    fn settle_file(&mut self, file: FileName) {
        if let Some(inode) = self.names.get(&file).copied() {
            self.pending.retain(|entry| entry.inode != inode);
        }
    }

    /// Makes one operation fail once `operations_before` more have succeeded. It does nothing, and a
    /// sync that fails leaves the bytes readable, but no later sync of them makes them durable. A
    /// power failure that comes before disarms it.
    pub fn fail_after(&mut self, operations_before: u64, is_full: bool) {
        self.failure = Some(Failure { operations_before, is_full });
    }

    /// Whether syncs report success without doing anything from now on.
    pub fn set_sync_lying(&mut self, is_lying: bool) {
        self.is_sync_lying = is_lying;
    }

    /// Leaves room for so many bytes more than there are now; `None` for any number. A write that
    /// needs more writes what fits and fails; deleting and cutting files gives room back.
    pub fn set_room(&mut self, room_bytes: Option<u64>) {
        self.capacity_bytes = room_bytes.map(|room_bytes| self.used_bytes() + room_bytes);
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.files[inode].len() as u64).sum()
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |bytes| bytes.saturating_sub(self.used_bytes()))
    }

    /// How many of the bytes of a write fit. Those that replace others always do.
    fn fitting_bytes(&self, file: FileName, offset: u64, len: u64) -> u64 {
        if self.capacity_bytes.is_none() {
            return len;
        }
        let old_len = self.contents(file).map_or(0, |bytes| bytes.len() as u64);
        let end_max = old_len.saturating_add(self.free_bytes());
        end_max.saturating_sub(offset).min(len)
    }

    /// What a power failure may undo, in the order in which it was done.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        self.pending.iter().map(Entry::describe).collect()
    }

    /// In how many sectors a write lies; 0 for other operations.
    #[must_use]
    pub fn sectors(&self, operation: &Pending) -> usize {
        match operation {
            Pending::Write { len: 0, .. } => 0,
            Pending::Write { offset, len, .. } => {
                let first = offset / self.sector_bytes;
                let last = (offset + len - 1) / self.sector_bytes;
                (last - first + 1) as usize
            }
            Pending::Truncate { .. }
            | Pending::Create { .. }
            | Pending::Rename { .. }
            | Pending::Delete { .. } => 0,
        }
    }

    /// The power fails; what is left is durable.
    pub fn crash(&mut self, mode: CrashMode, rng: &mut impl Rng) {
        match mode {
            CrashMode::LoseAll => self.crash_with(|_, _| Fate::Lost),
            CrashMode::Random => self.crash_with(|operation, sectors| {
                let choices = if matches!(operation, Pending::Write { .. }) { 4 } else { 2 };
                match (rng.random_range(0..choices), operation) {
                    (0, _) => Fate::Lost,
                    (2, Pending::Write { len, .. }) => Fate::Prefix(rng.random_range(0..=*len)),
                    (3, _) => Fate::Sectors((0..sectors).map(|_| rng.random()).collect()),
                    _ => Fate::Kept,
                }
            }),
        }
    }

    /// The power fails, and `decide` chooses the fate of each pending operation, in order; it is also
    /// told in how many sectors the operation lies.
    pub fn crash_with(&mut self, mut decide: impl FnMut(&Pending, usize) -> Fate) {
        self.failure = None;
        let entries = std::mem::take(&mut self.pending);
        let fates: Vec<Fate> = entries
            .iter()
            .map(|entry| {
                let operation = entry.describe();
                decide(&operation, self.sectors(&operation))
            })
            .collect();
        let mut written = Vec::with_capacity(entries.len());
        for entry in entries.iter().rev() {
            written.push(self.undo(entry));
        }
        written.reverse();
        for ((entry, fate), written) in entries.iter().zip(&fates).zip(&written) {
            self.redo(entry, fate, written);
        }
        self.forget_nameless_files();
    }

    /// Every disk that a power failure may leave now: each combination of each pending operation
    /// lost, kept, cut at each sector's end, and torn into each set of sectors. Of a write of more than
    /// [`SECTORS_OF_ALL_SETS`] only the sets with one sector, and those without one.
    ///
    /// # Panics
    /// If there are more than 65,536 of them.
    #[must_use]
    pub fn crash_states(&self) -> Vec<Self> {
        let count = self.crash_state_count();
        assert!(count <= CRASH_STATES_MAX, "{count} states are no small case");
        (0..count).map(|number| self.crash_state(number)).collect()
    }

    /// How many [`crash_states`](Self::crash_states) there are.
    #[must_use]
    pub fn crash_state_count(&self) -> usize {
        let fates = self.pending().iter().map(|operation| self.fates(operation).len()).collect();
        let fates: Vec<usize> = fates;
        fates.into_iter().fold(1, usize::saturating_mul)
    }

    /// One of the [`crash_states`](Self::crash_states), from 0 on.
    #[must_use]
    pub fn crash_state(&self, number: usize) -> Self {
        let mut combination = number;
        let mut disk = self.clone();
        let chosen: Vec<Fate> = self
            .pending()
            .iter()
            .map(|operation| {
                let fates = self.fates(operation);
                let fate = fates[combination % fates.len()].clone();
                combination /= fates.len();
                fate
            })
            .collect();
        let mut chosen = chosen.into_iter();
        disk.crash_with(|_, _| chosen.next().expect("one choice an operation"));
        disk
    }

    fn fates(&self, operation: &Pending) -> Vec<Fate> {
        let mut fates = vec![Fate::Lost, Fate::Kept];
        if let Pending::Write { offset, len, .. } = operation {
            let sectors = self.sectors(operation);
            let first_end = self.sector_bytes - offset % self.sector_bytes;
            let ends = (0..).map(|sector| first_end + sector * self.sector_bytes);
            fates.extend(ends.take_while(|end| end < len).map(Fate::Prefix));
            if sectors <= SECTORS_OF_ALL_SETS {
                for set in 0..(1_u32 << sectors) - 1 {
                    fates.push(Fate::Sectors((0..sectors).map(|at| set >> at & 1 == 1).collect()));
                }
            } else {
                for chosen in 0..sectors {
                    for is_kept in [true, false] {
                        let set = (0..sectors).map(|at| (at == chosen) == is_kept);
                        fates.push(Fate::Sectors(set.collect()));
                    }
                }
            }
        }
        fates
    }

    /// Takes an operation back; the later ones must have been. Returns what a write had written.
    fn undo(&mut self, entry: &Entry) -> Vec<u8> {
        match &entry.undo {
            Undo::Write { offset, len, old_len, overwritten } => {
                let bytes = self.files.get_mut(&entry.inode).expect("files outlive operations");
                // A later cut may have become durable where a failed sync had dropped this write.
                let end = (offset + len).min(bytes.len());
                let written = bytes[(*offset).min(end)..end].to_vec();
                let restored = overwritten.len().min(written.len());
                bytes[*offset..offset + restored].copy_from_slice(&overwritten[..restored]);
                bytes.truncate(*old_len);
                return written;
            }
            Undo::Truncate { cut, .. } => {
                let bytes = self.files.get_mut(&entry.inode).expect("files outlive operations");
                bytes.extend_from_slice(cut);
            }
            Undo::Create => {
                self.names.remove(&entry.file);
            }
            Undo::Rename { from, replaced } => {
                self.names.remove(&entry.file);
                self.names.insert(*from, entry.inode);
                if let Some(replaced) = replaced {
                    self.names.insert(entry.file, *replaced);
                }
            }
            Undo::Delete => {
                self.names.insert(entry.file, entry.inode);
            }
        }
        Vec::new()
    }

    /// Does an operation again as far as its fate allows.
    fn redo(&mut self, entry: &Entry, fate: &Fate, written: &[u8]) {
        match (&entry.undo, fate) {
            (_, Fate::Lost) => {}
            (Undo::Write { offset, .. }, fate) => {
                let sector_bytes = self.sector_bytes as usize;
                let bytes = self.files.get_mut(&entry.inode).expect("files outlive operations");
                let kept = match fate {
                    Fate::Prefix(len) => &written[..(*len as usize).min(written.len())],
                    Fate::Kept | Fate::Sectors(_) | Fate::Lost => written,
                };
                if !kept.is_empty() && bytes.len() < offset + kept.len() {
                    bytes.resize(offset + kept.len(), 0);
                }
                for (at, byte) in kept.iter().enumerate() {
                    let sector = (offset + at) / sector_bytes - offset / sector_bytes;
                    let is_there = match fate {
                        Fate::Sectors(set) => set.get(sector).copied().unwrap_or(false),
                        Fate::Kept | Fate::Prefix(_) | Fate::Lost => true,
                    };
                    if is_there {
                        bytes[offset + at] = *byte;
                    }
                }
            }
            (_, Fate::Prefix(_) | Fate::Sectors(_)) => {}
            (Undo::Truncate { len, .. }, Fate::Kept) => {
                self.files.get_mut(&entry.inode).expect("files outlive operations").truncate(*len);
            }
            (Undo::Create, Fate::Kept) => {
                self.names.insert(entry.file, entry.inode);
            }
            (Undo::Rename { from, .. }, Fate::Kept) => {
                if self.names.get(from) == Some(&entry.inode) {
                    self.names.remove(from);
                }
                self.names.insert(entry.file, entry.inode);
            }
            (Undo::Delete, Fate::Kept) => {
                if self.names.get(&entry.file) == Some(&entry.inode) {
                    self.names.remove(&entry.file);
                }
            }
        }
    }

    /// Frees files that no name leads to and none can lead to again.
    fn forget_nameless_files(&mut self) {
        let mut reachable: BTreeSet<u64> = self.names.values().copied().collect();
        for entry in &self.pending {
            reachable.insert(entry.inode);
            if let Undo::Rename { replaced: Some(old), .. } = entry.undo {
                reachable.insert(old);
            }
        }
        self.files.retain(|inode, _| reachable.contains(inode));
    }

    fn inode(&self, operation: &'static str, file: FileName) -> Result<u64, DiskError> {
        let missing = || DiskError {
            operation,
            file: file.to_string(),
            reason: "no such file".to_owned(),
            is_full: false,
        };
        self.names.get(&file).copied().ok_or_else(missing)
    }

    fn remember(&mut self, inode: u64, file: FileName, undo: Undo) {
        self.pending.push(Entry { inode, file, undo, is_dropped: false });
    }

    fn write(&mut self, file: FileName, offset: u64, parts: &[Bytes]) {
        let inode = match self.names.get(&file) {
            Some(inode) => *inode,
            None => {
                self.next_inode += 1;
                self.names.insert(file, self.next_inode);
                self.files.insert(self.next_inode, Vec::new());
                self.remember(self.next_inode, file, Undo::Create);
                self.next_inode
            }
        };
        let bytes = self.files.get_mut(&inode).expect("a name always has its file");
        let offset = usize::try_from(offset).expect("simulated files fit into memory");
        let len: usize = parts.iter().map(Bytes::len).sum();
        let old_len = bytes.len();
        let overwritten =
            bytes.get(offset..).map_or(Vec::new(), |tail| tail[..len.min(tail.len())].to_vec());
        if old_len < offset {
            bytes.resize(offset, 0);
        }
        let mut at = offset;
        for part in parts {
            let overlap = part.len().min(bytes.len() - at);
            bytes[at..at + overlap].copy_from_slice(&part[..overlap]);
            bytes.extend_from_slice(&part[overlap..]);
            at += part.len();
        }
        self.remember(inode, file, Undo::Write { offset, len, old_len, overwritten });
    }

    fn truncate(&mut self, file: FileName, len: u64) -> Result<(), DiskError> {
        let inode = self.inode("truncate", file)?;
        let bytes = self.files.get_mut(&inode).expect("a name always has its file");
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
        let cut = bytes.split_off(len);
        self.remember(inode, file, Undo::Truncate { cut, len });
        Ok(())
    }

    /// Makes a file's operations durable, and with them earlier ones that a failed sync had dropped
    /// and that they write anew.
    fn sync(&mut self, file: FileName) -> Result<(), DiskError> {
        let inode = self.inode("sync", file)?;
        if self.is_sync_lying {
            return Ok(());
        }
        let is_synced = |entry: &Entry| {
            entry.inode == inode && !entry.undo.is_of_directory() && !entry.is_dropped
        };
        let mut kept = Vec::new();
        for entry in std::mem::take(&mut self.pending) {
            if is_synced(&entry) {
                kept.retain(|earlier: &Entry| {
                    earlier.inode != inode || !entry.undo.supersedes(&earlier.undo)
                });
            } else {
                kept.push(entry);
            }
        }
        self.pending = kept;
        Ok(())
    }

    fn sync_directory(&mut self) {
        if self.is_sync_lying {
            return;
        }
        // Creations, by far the most frequent, leave no file without a name.
        let takes_names_away = self.pending.iter().any(|entry| {
            matches!(entry.undo, Undo::Delete | Undo::Rename { .. }) && !entry.is_dropped
        });
        self.pending.retain(|entry| !entry.undo.is_of_directory() || entry.is_dropped);
        if takes_names_away {
            self.forget_nameless_files();
        }
    }

    fn rename(&mut self, from: FileName, to: FileName) -> Result<(), DiskError> {
        let inode = self.inode("rename", from)?;
        self.names.remove(&from);
        let replaced = self.names.insert(to, inode);
        self.remember(inode, to, Undo::Rename { from, replaced });
        Ok(())
    }

    fn delete(&mut self, file: FileName) {
        if let Some(inode) = self.names.remove(&file) {
            self.remember(inode, file, Undo::Delete);
        }
    }

    /// Whether this operation is the one that is to fail, and what a failing sync leaves behind.
    fn fail_if_due(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        let Some(failure) = &mut self.failure else { return Ok(()) };
        if failure.operations_before > 0 {
            failure.operations_before -= 1;
            return Ok(());
        }
        let is_full = failure.is_full;
        self.failure = None;
        if let DiskOp::Sync { file } = op {
            let inode = self.inode("sync", *file)?;
            for entry in &mut self.pending {
                entry.is_dropped |= entry.inode == inode && !entry.undo.is_of_directory();
            }
        }
        Err(refused(op, is_full))
    }
}

/// The failure of an operation, for want of space or because it was to fail.
fn refused(op: &DiskOp, is_full: bool) -> DiskError {
    let (operation, file) = match op {
        DiskOp::Read { file, .. } => ("read", Some(*file)),
        DiskOp::Write { file, .. } => ("write", Some(*file)),
        DiskOp::Truncate { file, .. } => ("truncate", Some(*file)),
        DiskOp::Sync { file } => ("sync", Some(*file)),
        DiskOp::SyncDirectory => ("sync", None),
        DiskOp::Rename { from, .. } => ("rename", Some(*from)),
        DiskOp::Delete { file } => ("delete", Some(*file)),
        DiskOp::Space => ("space", None),
    };
    DiskError {
        operation,
        file: file.map_or_else(|| "the directory".to_owned(), |file| file.to_string()),
        reason: if is_full { "no space left" } else { "injected fault" }.to_owned(),
        is_full,
    }
}

/// The first `len` bytes of the parts of a write.
fn beginning(parts: &[Bytes], len: u64) -> Vec<Bytes> {
    let mut left = usize::try_from(len).expect("simulated files fit into memory");
    let mut beginning = Vec::new();
    for part in parts {
        let taken = part.len().min(left);
        beginning.push(part.slice(..taken));
        left -= taken;
    }
    beginning
}

impl Disk for SimDisk {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        let files = &self.files;
        Ok(self.names.iter().map(|(name, inode)| (*name, files[inode].len() as u64)).collect())
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError> {
        self.fail_if_due(op)?;
        match op {
            DiskOp::Read { file, offset, len } => {
                let bytes = &self.files[&self.inode("read", *file)?];
                let start = usize::try_from(*offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(*len).min(bytes.len());
                return Ok(Bytes::copy_from_slice(&bytes[start..end]));
            }
            DiskOp::Write { file, offset, parts } => {
                let len = parts.iter().map(|part| part.len() as u64).sum();
                let fitting = self.fitting_bytes(*file, *offset, len);
                if fitting < len {
                    self.write(*file, *offset, &beginning(parts, fitting));
                    return Err(refused(op, true));
                }
                self.write(*file, *offset, parts);
            }
            DiskOp::Truncate { file, len } => self.truncate(*file, *len)?,
            DiskOp::Sync { file } => self.sync(*file)?,
            DiskOp::SyncDirectory => self.sync_directory(),
            DiskOp::Rename { from, to } => self.rename(*from, *to)?,
            DiskOp::Delete { file } => self.delete(*file),
            DiskOp::Space => return Ok(free_bytes_answer(self.free_bytes())),
        }
        Ok(Bytes::new())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;
    use std::collections::BTreeSet;

    const FILE: FileName = FileName::Segment(1);
    const OTHER: FileName = FileName::Segment(2);

    fn write(file: FileName, offset: u64, bytes: &'static [u8]) -> DiskOp {
        // Two parts, as most writes have several.
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let parts = vec![Bytes::from_static(head), Bytes::from_static(tail)];
        DiskOp::Write { file, offset, parts }
    }

    fn perform(disk: &mut SimDisk, ops: &[DiskOp]) {
        for op in ops {
            disk.perform(op).unwrap();
        }
    }

    /// A file with durable bytes, in sectors of four.
    fn disk_with(bytes: &'static [u8]) -> SimDisk {
        let mut disk = SimDisk::with_sector_bytes(4);
        let ops = [write(FILE, 0, bytes), DiskOp::Sync { file: FILE }, DiskOp::SyncDirectory];
        perform(&mut disk, &ops);
        assert_eq!(disk.pending(), []);
        disk
    }

    fn contents_after_every_crash(disk: &SimDisk, file: FileName) -> BTreeSet<Option<Vec<u8>>> {
        disk.crash_states().iter().map(|left| left.contents(file).map(<[u8]>::to_vec)).collect()
    }

    fn set(contents: &[&[u8]]) -> BTreeSet<Option<Vec<u8>>> {
        contents.iter().map(|bytes| Some(bytes.to_vec())).collect()
    }

    #[test]
    fn a_power_failure_loses_keeps_or_tears_an_append_at_sectors() {
        let mut disk = disk_with(b"aaaaaa");
        perform(&mut disk, &[write(FILE, 6, b"bbbb")]);
        assert_eq!(disk.contents(FILE).unwrap(), b"aaaaaabbbb");
        let expected = set(&[
            b"aaaaaa",
            b"aaaaaabbbb",
            b"aaaaaabb",
            b"aaaaaa\0\0\0\0",
            b"aaaaaabb\0\0",
            b"aaaaaa\0\0bb",
        ]);
        assert_eq!(contents_after_every_crash(&disk, FILE), expected);
    }

    #[test]
    fn overlapping_writes_and_cuts_meet_their_fates_one_by_one() {
        let mut disk = disk_with(b"aaaa");
        let cut = DiskOp::Truncate { file: FILE, len: 2 };
        perform(&mut disk, &[write(FILE, 0, b"bb"), cut, write(FILE, 1, b"cc")]);
        assert_eq!(disk.contents(FILE).unwrap(), b"bcc");
        let expected = set(&[
            b"aaaa", b"bbaa", b"aa", b"bb", b"acca", b"bcca", b"acc",
            b"bcc", // Whole operations.
            b"aa\0", b"bb\0", // The last write's length without its bytes.
        ]);
        assert_eq!(contents_after_every_crash(&disk, FILE), expected);
    }

    #[test]
    fn what_a_sync_covered_survives_and_other_files_are_not_covered() {
        let mut disk = disk_with(b"aaaa");
        let ops = [write(OTHER, 0, b"oo"), DiskOp::SyncDirectory, write(FILE, 4, b"bb")];
        perform(&mut disk, &ops);
        perform(&mut disk, &[DiskOp::Sync { file: FILE }]);
        disk.crash_with(|_, _| Fate::Lost);
        assert_eq!(disk.contents(FILE).unwrap(), b"aaaabb");
        assert_eq!(disk.contents(OTHER).unwrap(), b"", "its name is durable, its bytes are not");
    }

    #[test]
    fn creations_renames_and_deletions_may_be_lost_until_the_directory_is_synced() {
        let mut disk = disk_with(b"old");
        let rename = DiskOp::Rename { from: OTHER, to: FILE };
        perform(&mut disk, &[write(OTHER, 0, b"new"), DiskOp::Sync { file: OTHER }, rename]);
        assert_eq!(contents_after_every_crash(&disk, FILE), set(&[b"old", b"new"]));
        let others = contents_after_every_crash(&disk, OTHER);
        assert_eq!(others, [None, Some(b"new".to_vec())].into());
        perform(&mut disk, &[DiskOp::SyncDirectory]);
        assert_eq!(contents_after_every_crash(&disk, FILE), set(&[b"new"]));
        perform(&mut disk, &[DiskOp::Delete { file: FILE }]);
        let left = contents_after_every_crash(&disk, FILE);
        assert_eq!(left, [None, Some(b"new".to_vec())].into());
        perform(&mut disk, &[DiskOp::SyncDirectory]);
        assert_eq!(contents_after_every_crash(&disk, FILE), [None].into());
        assert!(disk.files.is_empty(), "a deleted file takes no memory");
    }

    #[test]
    fn a_failed_sync_keeps_bytes_readable_that_only_writing_them_again_makes_durable() {
        let mut disk = disk_with(b"aaaa");
        perform(&mut disk, &[write(FILE, 4, b"bb")]);
        disk.fail_after(0, false);
        disk.perform(&DiskOp::Sync { file: FILE }).unwrap_err();
        perform(&mut disk, &[DiskOp::Sync { file: FILE }]);
        assert_eq!(disk.contents(FILE).unwrap(), b"aaaabb");
        let mut left = disk.clone();
        left.crash_with(|_, _| Fate::Lost);
        assert_eq!(left.contents(FILE).unwrap(), b"aaaa");
        perform(&mut disk, &[write(FILE, 4, b"bb"), DiskOp::Sync { file: FILE }]);
        disk.crash_with(|_, _| Fate::Lost);
        assert_eq!(disk.contents(FILE).unwrap(), b"aaaabb");
    }

    #[test]
    fn a_lying_sync_makes_nothing_durable() {
        let mut disk = disk_with(b"aaaa");
        disk.set_sync_lying(true);
        perform(&mut disk, &[write(FILE, 4, b"bb"), DiskOp::Sync { file: FILE }]);
        disk.crash_with(|_, _| Fate::Lost);
        assert_eq!(disk.contents(FILE).unwrap(), b"aaaa");
    }

    #[test]
    fn an_armed_failure_strikes_once_and_changes_nothing() {
        let mut disk = disk_with(b"aaaa");
        disk.fail_after(1, true);
        perform(&mut disk, &[write(FILE, 0, b"b")]);
        let error = disk.perform(&write(FILE, 0, b"cc")).unwrap_err();
        assert!(error.is_full);
        assert_eq!(disk.contents(FILE).unwrap(), b"baaa");
        perform(&mut disk, &[write(FILE, 0, b"cc")]);
        assert_eq!(disk.contents(FILE).unwrap(), b"ccaa");
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_takes_the_rest_once_there_is_room() {
        let mut disk = disk_with(b"aaaa");
        disk.set_room(Some(3));
        let error = disk.perform(&write(FILE, 2, b"bbbbbb")).unwrap_err();
        assert!(error.may_be_repeated(), "{error}");
        assert_eq!(disk.contents(FILE).unwrap(), b"aabbbbb", "two in place, three more");
        perform(&mut disk, &[write(FILE, 0, b"ccccccc"), DiskOp::Sync { file: FILE }]);
        disk.perform(&write(OTHER, 0, b"d")).unwrap_err();
        assert_eq!(disk.contents(OTHER).unwrap(), b"", "created, and empty");
        assert_eq!(disk.perform(&DiskOp::Space).unwrap(), free_bytes_answer(0));
        perform(&mut disk, &[DiskOp::Delete { file: FILE }]);
        assert_eq!(disk.perform(&DiskOp::Space).unwrap(), free_bytes_answer(7));
        perform(&mut disk, &[write(OTHER, 0, b"ddddddd")]);
        disk.set_room(None);
        perform(&mut disk, &[write(OTHER, 0, b"eeeeeeeeeeeeeee")]);
    }

    #[test]
    fn one_seed_makes_one_disk() {
        let mut disk = disk_with(b"aaaa");
        perform(
            &mut disk,
            &[write(FILE, 2, b"bbbbbbbbbbbbbbbbbbbbbbbbbbb"), write(OTHER, 3, b"c")],
        );
        let left = |seed| {
            let mut disk = disk.clone();
            disk.crash(CrashMode::Random, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
            (disk.contents(FILE).map(<[u8]>::to_vec), disk.contents(OTHER).map(<[u8]>::to_vec))
        };
        assert!((0..20).all(|seed| left(seed) == left(seed)));
        assert!((0..20).map(left).collect::<BTreeSet<_>>().len() > 5, "the seeds differ");
    }
}
