//! How long a flush takes in each way of writing a segment: what the write lane's choice rests on.
//!
//! Writes small, middle and large flushes to one file for each way, the ways in turn and in another
//! order each time, so that whatever else the machine does hits all of them; compares medians within
//! the run. What a way costs before its first flush, as filling a segment with zeros, is told apart.
//! Needs no privileges. What came of it stands in docs/decisions.md.
//!
//! ```text
//! cargo run --release -p node --example flush -- DIRECTORY [ROUNDS]
//! ```

use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// As the store's segments.
const SEGMENT_BYTES: usize = 64 * 1024 * 1024;
/// What direct writes have to be aligned to, in memory and in the file.
const BLOCK_BYTES: usize = 4_096;
const FLUSH_BYTES: [usize; 3] = [4 * 1024, 64 * 1024, 1024 * 1024];
const ROUNDS_DEFAULT: usize = 200;

/// A way of writing a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each flush makes the file longer.
    Append,
    /// Space for the whole file is reserved, and never written (`posix_fallocate`).
    Reserved,
    /// The whole file was written with zeros, and synced.
    Zeroed,
    /// As [`Way::Append`], past the page cache.
    DirectAppend,
    /// As [`Way::Zeroed`], past the page cache.
    DirectZeroed,
}

const WAYS: [Way; 5] =
    [Way::Append, Way::Reserved, Way::Zeroed, Way::DirectAppend, Way::DirectZeroed];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Reserved => "reserved",
            Self::Zeroed => "zeroed",
            Self::DirectAppend => "direct append",
            Self::DirectZeroed => "direct zeroed",
        }
    }

    fn is_direct(self) -> bool {
        matches!(self, Self::DirectAppend | Self::DirectZeroed)
    }
}

/// A file that is written in one way.
struct Lane {
    way: Way,
    path: PathBuf,
    file: OwnedFd,
    offset: usize,
    preparations: Vec<Duration>,
    flushes: Vec<Duration>,
}

impl Lane {
    fn new(directory: &Path, way: Way) -> Result<Self, Box<dyn Error>> {
        let path = directory.join(format!("flush-{}.tmp", way.name().replace(' ', "-")));
        let (file, spent) = prepare(&path, way)?;
        Ok(Self { way, path, file, offset: 0, preparations: vec![spent], flushes: Vec::new() })
    }

    fn flush(&mut self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        if self.offset + bytes.len() > SEGMENT_BYTES {
            let (file, spent) = prepare(&self.path, self.way)?;
            (self.file, self.offset) = (file, 0);
            self.preparations.push(spent);
        }
        let began = Instant::now();
        write_all(&self.file, bytes, self.offset)?;
        rustix::fs::fdatasync(&self.file)?;
        self.flushes.push(began.elapsed());
        self.offset += bytes.len();
        Ok(())
    }
}

fn prepare(path: &Path, way: Way) -> Result<(OwnedFd, Duration), Box<dyn Error>> {
    let _ = std::fs::remove_file(path);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fsync(&file)?;
    let began = Instant::now();
    match way {
        Way::Append | Way::DirectAppend => {}
        Way::Reserved => {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SEGMENT_BYTES as u64)?;
            rustix::fs::fsync(&file)?;
        }
        Way::Zeroed | Way::DirectZeroed => {
            let zeros = vec![0; 1024 * 1024];
            for at in (0..SEGMENT_BYTES).step_by(zeros.len()) {
                write_all(&file, &zeros, at)?;
            }
            rustix::fs::fsync(&file)?;
        }
    }
    let spent = began.elapsed();
    if !way.is_direct() {
        return Ok((file, spent));
    }
    Ok((rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty())?, spent))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], offset: usize) -> Result<(), Box<dyn Error>> {
    let mut at = offset as u64;
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, at)?;
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

fn median(spans: &[Duration]) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn mean(spans: &[Duration]) -> Duration {
    let count = u32::try_from(spans.len()).unwrap_or(u32::MAX).max(1);
    spans.iter().sum::<Duration>() / count
}

fn measure(directory: &Path, len: usize, rounds: usize) -> Result<(), Box<dyn Error>> {
    let buffer = vec![0xA5; len + BLOCK_BYTES];
    let start = buffer.as_ptr().align_offset(BLOCK_BYTES);
    let bytes = &buffer[start..start + len];
    let lanes = WAYS.iter().map(|way| Lane::new(directory, *way));
    let mut lanes: Vec<Lane> = lanes.collect::<Result<_, _>>()?;
    for round in 0..rounds {
        for turn in 0..lanes.len() {
            let count = lanes.len();
            lanes[(round + turn) % count].flush(bytes)?;
        }
    }
    let base = median(&lanes[0].flushes).as_secs_f64();
    println!("flushes of {} KiB, {rounds} each:", len / 1024);
    for lane in &lanes {
        let (flush, prepared) = (median(&lane.flushes), median(&lane.preparations));
        let ratio = flush.as_secs_f64() / base;
        println!(
            "  {:14} median {:8.1} us, {ratio:4.2} of append; mean {:8.1} us; \
             a segment is prepared in {:6.1} ms",
            lane.way.name(),
            flush.as_secs_f64() * 1e6,
            mean(&lane.flushes).as_secs_f64() * 1e6,
            prepared.as_secs_f64() * 1e3,
        );
        std::fs::remove_file(&lane.path)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("name a directory on the disk to be measured")?;
    let rounds = arguments.next().map_or(Ok(ROUNDS_DEFAULT), |rounds| rounds.parse())?;
    for len in FLUSH_BYTES {
        measure(Path::new(&directory), len, rounds)?;
    }
    Ok(())
}
