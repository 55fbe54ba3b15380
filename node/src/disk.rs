//! A data directory on a real file system: positioned reads and writes, `fdatasync`, one writer
//! thread and one reader thread.
//!
//! Owns the files and the directory's lock; knows nothing of what is in them. A failed sync is
//! reported and never retried: the kernel may have dropped the dirty pages, and a second sync that
//! succeeds would vouch for bytes that are gone ("Can Applications Recover from fsync Failures?",
//! Rebello et al., 2020). Next: `engine::storage` for who issues the operations.

use crate::ports::DiskPort;
use bytes::{Bytes, BytesMut};
use engine::storage::disk::{
    Disk, DiskError, DiskOp, FileName, Job, JobDone, Lane, free_bytes_answer,
};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc::UnboundedSender;

/// Held, and holding the owner's process id, as long as a process uses the directory.
const LOCK_FILE: &str = "lock";
/// Open files kept by the writer. It appends to one segment and seldom touches another.
const OPEN_FILES_MAX: usize = 32;
/// Parts of one vectored write; Linux and macOS take at most 1,024.
const WRITE_PARTS_MAX: usize = 1_024;

/// Why a directory cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is none.
    #[error(
        "there is no data directory {path}; create it with `node init --data {path} ...`, or correct \
         --data"
    )]
    Missing {
        /// Which.
        path: String,
    },
    /// Another process uses it.
    #[error(
        "data directory {path} is in use by {holder}; stop that process first, or give this node \
         another directory"
    )]
    Locked {
        /// Which.
        path: String,
        /// By whom, as far as it said.
        holder: String,
    },
    /// The system refuses.
    #[error("cannot use data directory {path}: {reason}")]
    Refused {
        /// Which.
        path: String,
        /// What the system says.
        reason: String,
    },
}

/// A locked data directory.
#[derive(Debug)]
pub struct FileDisk {
    directory: Directory,
    lanes: Option<Lanes>,
}

impl FileDisk {
    /// Opens and locks an existing directory.
    ///
    /// # Errors
    /// It is missing, in use by another process, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let directory = Directory::open(path)?;
        Ok(Self { directory, lanes: None })
    }

    /// Creates the directory and its parents if need be, and opens and locks it.
    ///
    /// # Errors
    /// It is in use by another process, or the system refuses.
    pub fn create(path: &Path) -> Result<Self, DirectoryError> {
        fs::create_dir_all(path).map_err(|error| refused(path, &error))?;
        // The new directory's own entry must survive a crash as well as what will be in it.
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let parent = fs::File::open(parent).map_err(|error| refused(path, &error))?;
        parent.sync_all().map_err(|error| refused(path, &error))?;
        Self::open(path)
    }
}

fn refused(path: &Path, reason: &dyn std::fmt::Display) -> DirectoryError {
    DirectoryError::Refused { path: path.display().to_string(), reason: reason.to_string() }
}

impl DiskPort for FileDisk {
    type Recovery = Directory;

    fn recovery(&mut self) -> &mut Directory {
        &mut self.directory
    }

    fn start(&mut self, done: UnboundedSender<JobDone>) {
        assert!(self.lanes.is_none(), "started once");
        let writer =
            Worker::start("disk-writer", self.directory.fresh(OPEN_FILES_MAX), done.clone());
        // The reader keeps no file open between jobs, or a deleted segment would hold its space.
        let reader = Worker::start("disk-reader", self.directory.fresh(0), done);
        self.lanes = Some(Lanes { writer, reader });
    }

    fn submit(&mut self, job: Job) {
        let lanes = self.lanes.as_ref().expect("jobs are submitted after start");
        match job.lane {
            Lane::Write => lanes.writer.submit(job),
            Lane::Read => lanes.reader.submit(job),
        }
    }
}

#[derive(Debug)]
struct Lanes {
    writer: Worker,
    reader: Worker,
}

/// A thread that performs jobs in order. Dropping it waits until it has performed what is queued, so
/// that the directory's lock outlives every write.
#[derive(Debug)]
struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, mut directory: Directory, done: UnboundedSender<JobDone>) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let perform_all = move || {
            for job in queue {
                let report = job.perform(&mut directory);
                directory.close_excess_files();
                // Nobody listens once the driver has stopped; the rest of the queue is still done.
                let _ = done.send(report);
            }
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(perform_all)
            .expect("the system has a thread left for the disk");
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    fn submit(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("the queue closes only on drop");
        jobs.send(job).expect("the disk thread runs until its queue closes");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its own thread.
            let _ = thread.join();
        }
    }
}

/// The blocking side: files by name in one directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    handle: Arc<OwnedFd>,
    /// Only kept: closing it releases the lock.
    lock: Arc<OwnedFd>,
    files: BTreeMap<FileName, OwnedFd>,
    open_files_max: usize,
}

impl Directory {
    fn open(path: &Path) -> Result<Self, DirectoryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(handle) => handle,
            Err(Errno::NOENT) => {
                return Err(DirectoryError::Missing { path: path.display().to_string() });
            }
            Err(errno) => return Err(refused(path, &errno)),
        };
        let lock = lock(path, &handle)?;
        Ok(Self {
            path: path.to_owned(),
            handle: Arc::new(handle),
            lock: Arc::new(lock),
            files: BTreeMap::new(),
            open_files_max: OPEN_FILES_MAX,
        })
    }

    /// The same directory under the same lock, with no file open.
    fn fresh(&self, open_files_max: usize) -> Self {
        Self {
            path: self.path.clone(),
            handle: self.handle.clone(),
            lock: self.lock.clone(),
            files: BTreeMap::new(),
            open_files_max,
        }
    }

    fn error(&self, operation: &'static str, file: &str, errno: Errno) -> DiskError {
        DiskError {
            operation,
            file: self.path.join(file).display().to_string(),
            reason: errno.to_string(),
            is_full: errno == Errno::NOSPC || errno == Errno::DQUOT,
        }
    }

    fn file(&mut self, name: FileName, create: OFlags) -> Result<&OwnedFd, Errno> {
        use std::collections::btree_map::Entry;
        match self.files.entry(name) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC | create;
                let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
                let file = rustix::fs::openat(self.handle.as_ref(), name.to_string(), flags, mode)?;
                Ok(entry.insert(file))
            }
        }
    }

    /// Lowest segments first: the log is written at its end.
    fn close_excess_files(&mut self) {
        while self.files.len() > self.open_files_max {
            self.files.pop_first();
        }
    }

    fn try_perform(&mut self, op: &DiskOp) -> Result<Bytes, Errno> {
        match op {
            DiskOp::Read { file, offset, len } => {
                return read_at(self.file(*file, OFlags::empty())?, *offset, *len);
            }
            DiskOp::Write { file, offset, parts } => {
                write_at(self.file(*file, OFlags::CREATE)?, *offset, parts)?;
            }
            DiskOp::Truncate { file, len } => {
                rustix::fs::ftruncate(self.file(*file, OFlags::empty())?, *len)?;
            }
            DiskOp::Sync { file } => rustix::fs::fdatasync(self.file(*file, OFlags::empty())?)?,
            DiskOp::SyncDirectory => rustix::fs::fsync(self.handle.as_ref())?,
            DiskOp::Rename { from, to } => {
                self.files.remove(from);
                self.files.remove(to);
                let directory = self.handle.as_ref();
                rustix::fs::renameat(directory, from.to_string(), directory, to.to_string())?;
            }
            DiskOp::Delete { file } => {
                self.files.remove(file);
                let directory = self.handle.as_ref();
                match rustix::fs::unlinkat(directory, file.to_string(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            DiskOp::Space => {
                let system = rustix::fs::fstatvfs(self.handle.as_ref())?;
                // What is reserved for root is not ours.
                return Ok(free_bytes_answer(system.f_bavail.saturating_mul(system.f_frsize)));
            }
        }
        Ok(Bytes::new())
    }
}

impl Disk for Directory {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        let failed = |error: std::io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            self.error("list", "", errno)
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Some(name) = entry.file_name().to_str().and_then(FileName::parse) {
                files.push((name, entry.metadata().map_err(failed)?.len()));
            }
        }
        Ok(files)
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError> {
        let (operation, file) = describe(op);
        self.try_perform(op).map_err(|errno| self.error(operation, &file, errno))
    }
}

fn describe(op: &DiskOp) -> (&'static str, String) {
    match op {
        DiskOp::Read { file, .. } => ("read", file.to_string()),
        DiskOp::Write { file, .. } => ("write", file.to_string()),
        DiskOp::Truncate { file, .. } => ("truncate", file.to_string()),
        DiskOp::Sync { file } => ("sync", file.to_string()),
        DiskOp::SyncDirectory => ("sync", String::new()),
        DiskOp::Rename { from, .. } => ("rename", from.to_string()),
        DiskOp::Delete { file } => ("delete", file.to_string()),
        DiskOp::Space => ("space", String::new()),
    }
}

fn lock(path: &Path, directory: &OwnedFd) -> Result<OwnedFd, DirectoryError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file = rustix::fs::openat(directory, LOCK_FILE, flags, mode)
        .map_err(|errno| refused(path, &errno))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let holder = match fs::read_to_string(path.join(LOCK_FILE)) {
                Ok(pid) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
                Ok(_) | Err(_) => "another process".to_owned(),
            };
            return Err(DirectoryError::Locked { path: path.display().to_string(), holder });
        }
        Err(errno) => return Err(refused(path, &errno)),
    }
    // The process id is for people; a full disk must not keep a node from starting.
    let pid = format!("{}\n", std::process::id());
    if rustix::fs::ftruncate(&file, 0).is_ok() {
        let _ = rustix::io::pwrite(&file, pid.as_bytes(), 0);
    }
    Ok(file)
}

fn read_at(file: &OwnedFd, offset: u64, len: usize) -> Result<Bytes, Errno> {
    let mut bytes = BytesMut::zeroed(len);
    let mut filled = 0;
    while filled < len {
        match rustix::io::pread(file, &mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.freeze())
}

fn write_at(file: &OwnedFd, mut offset: u64, parts: &[Bytes]) -> Result<(), Errno> {
    for parts in parts.chunks(WRITE_PARTS_MAX) {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut slices = slices.as_mut_slice();
        // Skips empty slices too: a vectored write of nothing returns 0, which would look like a
        // disk that takes no more.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match rustix::io::pwritev(file, slices, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use engine::storage::disk::JobId;

    const SEGMENT: FileName = FileName::Segment(7);

    fn read(offset: u64, len: usize) -> DiskOp {
        DiskOp::Read { file: SEGMENT, offset, len }
    }

    fn write(offset: u64, parts: &[&'static [u8]]) -> DiskOp {
        let parts = parts.iter().map(|part| Bytes::from_static(part)).collect();
        DiskOp::Write { file: SEGMENT, offset, parts }
    }

    #[test]
    fn what_is_written_in_parts_is_read_back_and_a_read_past_the_end_is_short() {
        let home = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(home.path()).unwrap();
        let disk = disk.recovery();
        disk.perform(&write(2, &[b"", b"ab", b"", b"cde", b""])).unwrap();
        disk.perform(&DiskOp::Sync { file: SEGMENT }).unwrap();
        assert_eq!(disk.perform(&read(0, 5)).unwrap().as_ref(), b"\0\0abc");
        assert_eq!(disk.perform(&read(5, 100)).unwrap().as_ref(), b"de");
        disk.perform(&DiskOp::Truncate { file: SEGMENT, len: 3 }).unwrap();
        assert_eq!(disk.list().unwrap(), [(SEGMENT, 3)]);
    }

    #[test]
    fn a_write_of_more_parts_than_one_call_takes_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(home.path()).unwrap();
        let parts: Vec<Bytes> =
            (0..3_000_u32).map(|at| Bytes::copy_from_slice(&at.to_le_bytes())).collect();
        let whole: Vec<u8> = parts.iter().flatten().copied().collect();
        disk.recovery().perform(&DiskOp::Write { file: SEGMENT, offset: 0, parts }).unwrap();
        assert_eq!(disk.recovery().perform(&read(0, 12_000)).unwrap(), whole);
    }

    #[test]
    fn renaming_replaces_and_deleting_what_is_not_there_is_no_error() {
        let home = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(home.path()).unwrap();
        let disk = disk.recovery();
        let parts = vec![Bytes::from_static(b"new")];
        disk.perform(&DiskOp::Write { file: FileName::IdentityTemporary, offset: 0, parts })
            .unwrap();
        let rename = DiskOp::Rename { from: FileName::IdentityTemporary, to: FileName::Identity };
        disk.perform(&rename).unwrap();
        disk.perform(&DiskOp::SyncDirectory).unwrap();
        assert_eq!(disk.list().unwrap(), [(FileName::Identity, 3)]);
        disk.perform(&DiskOp::Delete { file: FileName::Identity }).unwrap();
        disk.perform(&DiskOp::Delete { file: FileName::Identity }).unwrap();
        assert_eq!(disk.list().unwrap(), []);
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let home = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(home.path()).unwrap();
        let error = disk.recovery().perform(&read(0, 1)).unwrap_err();
        assert_eq!(error.operation, "read");
        assert!(error.file.ends_with("0000000000000007.seg"), "{error}");
        assert!(!error.is_full);
    }

    #[test]
    fn a_directory_in_use_is_refused_with_the_process_that_has_it() {
        let home = tempfile::tempdir().unwrap();
        let first = FileDisk::open(home.path()).unwrap();
        let error = FileDisk::open(home.path()).unwrap_err();
        let holder = format!("in use by process {}", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        drop(first);
        FileDisk::open(home.path()).unwrap();
    }

    #[test]
    fn a_missing_directory_is_refused_with_the_command_that_makes_one() {
        let home = tempfile::tempdir().unwrap();
        let error = FileDisk::open(&home.path().join("absent")).unwrap_err();
        assert!(error.to_string().contains("node init --data"), "{error}");
    }

    #[test]
    fn jobs_of_the_write_lane_are_done_in_order_and_each_is_reported_once() {
        let home = tempfile::tempdir().unwrap();
        let mut disk = FileDisk::open(home.path()).unwrap();
        let (done, mut reports) = tokio::sync::mpsc::unbounded_channel();
        disk.start(done);
        for id in 0..100 {
            let ops = vec![write(0, &[b"x"]), write(id, &[b"y"])];
            disk.submit(Job { id: JobId(id), lane: Lane::Write, ops });
        }
        drop(disk);
        for id in 0..100 {
            let report = reports.try_recv().unwrap();
            let (result, rest) = (Ok(Vec::new()), Vec::new());
            assert_eq!(report, JobDone { id: JobId(id), result, rest });
        }
        assert!(reports.try_recv().is_err());
        let mut disk = FileDisk::open(home.path()).unwrap();
        let mut expected = vec![b'y'; 100];
        expected[0] = b'x';
        assert_eq!(disk.recovery().perform(&read(0, 200)).unwrap(), expected);
    }
}
