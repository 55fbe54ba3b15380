//! The file: a header, sections, and a trailer, each under a checksum of its own.
//!
//! ```text
//! header
//! 0        8     11  12         16
//! +--------+-----+---+----------+---------------------------+
//! |checksum|"PHB"|ver|bytes u32 | bincode of `Header`       |
//! +--------+-----+---+----------+---------------------------+
//!
//! section
//! 0        8          12   13     16         24
//! +--------+----------+----+------+----------+--------------+
//! |checksum|bytes u32 |kind| zero |number u64| bytes        |
//! +--------+----------+----+------+----------+--------------+
//! ```
//!
//! Little-endian. A checksum is XXH3-64 over everything after itself; a section's is seeded with the
//! header's, and sections are numbered from 1, so that none can be missing, doubled, in another place
//! or out of another backup. First come the sections of the state, then those of the records, in the
//! order of their indices; a trailer with the counts ends the file. So a cut is found wherever it is.
//!
//! Next: `contents` for what the sections must add up to.

use crate::ids::{ClusterId, GroupId, NodeId};
use crate::limits;
use crate::raft::SnapshotMeta;
use crate::record::{ChecksumSeed, RECORD_HEADER_BYTES, Record, RecordError};
use crate::wire;
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: &[u8; 3] = b"PHB";
const VERSION: u8 = 1;
const FILE_HEAD_BYTES: usize = 16;
const SECTION_HEAD_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 8;
/// Members and runs of terms are all that grows in a header.
const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// A section of records ends with the record that reaches the target of a pull.
const SECTION_BYTES_MAX: usize =
    limits::DELIVERY_BYTES_TARGET + limits::RECORD_PAYLOAD_BYTES_MAX + RECORD_HEADER_BYTES;

/// Whose backup, and of which moment.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Header {
    /// The cluster that it is of.
    pub cluster: ClusterId,
    /// Its group.
    pub group: GroupId,
    /// The member that it was pulled from.
    pub node: NodeId,
    /// The last entry in it, with its term and its stamp, the members at that entry, and what the
    /// bytes of the state must be.
    pub meta: SnapshotMeta,
}

impl Header {
    /// What the checksums of the cluster's records are bound to.
    #[must_use]
    pub fn record_seed(&self) -> ChecksumSeed {
        ChecksumSeed::of(self.cluster, self.group)
    }
}

/// What a section holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// The next piece of the state.
    State = 1,
    /// Whole records.
    Records = 2,
    /// The counts; the last section.
    Trailer = 3,
}

impl SectionKind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::State),
            2 => Some(Self::Records),
            3 => Some(Self::Trailer),
            _ => None,
        }
    }
}

/// What the sections before must have added up to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Encode, Decode)]
struct Counts {
    state_bytes: u64,
    records: u64,
    record_bytes: u64,
}

/// Why bytes are no backup.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// It does not begin like one.
    #[error("this is not a backup; give a file that `posthaste backup` wrote")]
    NotABackup,
    /// A newer build wrote it.
    #[error("the backup has version {version}, unknown to this build; use a newer one")]
    Version {
        /// Its version byte.
        version: u8,
    },
    /// It ends too early.
    #[error("the backup is cut off at byte {at}; use another copy of it")]
    Cut {
        /// The file's length.
        at: u64,
    },
    /// Its bytes are not those that were written.
    #[error("the backup is damaged at byte {at}: {what}; use another copy of it")]
    Damaged {
        /// Where what is wrong begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Why a backup could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError<E: core::error::Error + 'static> {
    /// Its bytes are wrong.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Its bytes cannot be had.
    #[error("{0}")]
    Source(E),
}

/// Writes a backup, section after section.
#[derive(Debug)]
pub struct Encoder {
    seed: u64,
    number: u64,
    counts: Counts,
}

impl Encoder {
    /// Begins with the header, whose bytes come first.
    #[must_use]
    pub fn new(header: &Header) -> (Self, Vec<u8>) {
        let mut bytes = alloc::vec![0; FILE_HEAD_BYTES];
        wire::encode_into(header, &mut bytes);
        let len = u32::try_from(bytes.len() - FILE_HEAD_BYTES).expect("members are bounded");
        bytes[8..11].copy_from_slice(MAGIC);
        bytes[11] = VERSION;
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        let seed = xxh3_64(&bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&seed.to_le_bytes());
        (Self { seed, number: 0, counts: Counts::default() }, bytes)
    }

    /// The head of the section that holds the next piece of the state; the piece follows it.
    #[must_use]
    pub fn state(&mut self, piece: &Bytes) -> [u8; SECTION_HEAD_BYTES] {
        self.counts.state_bytes += piece.len() as u64;
        self.section(SectionKind::State, core::slice::from_ref(piece))
    }

    /// The head of a section of records; the records follow it.
    #[must_use]
    pub fn records(&mut self, records: &[Bytes]) -> [u8; SECTION_HEAD_BYTES] {
        self.counts.records += records.len() as u64;
        self.counts.record_bytes += records.iter().map(|record| record.len() as u64).sum::<u64>();
        self.section(SectionKind::Records, records)
    }

    /// The trailer, which ends the file.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let mut counts = Vec::new();
        wire::encode_into(&self.counts, &mut counts);
        let counts = Bytes::from(counts);
        let mut bytes = self.section(SectionKind::Trailer, core::slice::from_ref(&counts)).to_vec();
        bytes.extend_from_slice(&counts);
        bytes
    }

    fn section(&mut self, kind: SectionKind, parts: &[Bytes]) -> [u8; SECTION_HEAD_BYTES] {
        self.number += 1;
        let len = parts.iter().map(Bytes::len).sum::<usize>();
        assert!(len <= SECTION_BYTES_MAX, "a pull brings no more");
        let mut head = [0; SECTION_HEAD_BYTES];
        head[8..12].copy_from_slice(&u32::try_from(len).expect("bounded above").to_le_bytes());
        head[12] = kind as u8;
        head[16..24].copy_from_slice(&self.number.to_le_bytes());
        let checksum = section_checksum(self.seed, &head, parts);
        head[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        head
    }
}

fn section_checksum(seed: u64, head: &[u8; SECTION_HEAD_BYTES], parts: &[Bytes]) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(&head[CHECKSUM_BYTES..]);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.digest()
}

/// A section that was read and verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Section {
    /// The next piece of the state.
    State(Bytes),
    /// The next records.
    Records(Vec<Record>),
}

/// Reads a backup from front to back. `read` gives the next so many bytes, and fewer only where the
/// file ends.
#[derive(Debug)]
pub struct Reader<F> {
    read: F,
    /// Bytes read.
    at: u64,
    seed: u64,
    record_seed: ChecksumSeed,
    number: u64,
    counts: Counts,
    is_ended: bool,
}

impl<E: core::error::Error + 'static, F: FnMut(usize) -> Result<Bytes, E>> Reader<F> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is not one, or cannot be had.
    pub fn open(mut read: F) -> Result<(Self, Header), ReadError<E>> {
        let head = read(FILE_HEAD_BYTES).map_err(ReadError::Source)?;
        let cut = |have: usize| FormatError::Cut { at: have as u64 };
        if head.len() < FILE_HEAD_BYTES {
            return Err(cut(head.len()).into());
        }
        if &head[8..11] != MAGIC {
            return Err(FormatError::NotABackup.into());
        }
        let damaged = FormatError::Damaged { at: 0, what: "its header is not whole" };
        let len = u32::from_le_bytes(head[12..16].try_into().expect("four bytes")) as usize;
        if len > HEADER_BYTES_MAX {
            return Err(damaged.into());
        }
        let body = read(len).map_err(ReadError::Source)?;
        if body.len() < len {
            return Err(cut(FILE_HEAD_BYTES + body.len()).into());
        }
        let mut hasher = Xxh3::new();
        hasher.update(&head[CHECKSUM_BYTES..]);
        hasher.update(&body);
        let seed = hasher.digest();
        if seed.to_le_bytes() != head[..CHECKSUM_BYTES] {
            return Err(damaged.into());
        }
        if head[11] != VERSION {
            return Err(FormatError::Version { version: head[11] }.into());
        }
        let header: Header =
            wire::decode("a backup's header", &body).map_err(|_| damaged.clone())?;
        if !header.meta.is_sound() {
            return Err(damaged.into());
        }
        let at = (FILE_HEAD_BYTES + len) as u64;
        let record_seed = header.record_seed();
        let (number, counts, is_ended) = (0, Counts::default(), false);
        Ok((Self { read, at, seed, record_seed, number, counts, is_ended }, header))
    }

    /// How far it has come, bytes from the start of the file.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next section; none once the trailer was there and all counts are right.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn next_section(&mut self) -> Result<Option<Section>, ReadError<E>> {
        if self.is_ended {
            return Ok(None);
        }
        let start = self.at;
        let damaged = |what| FormatError::Damaged { at: start, what };
        let head = self.take(SECTION_HEAD_BYTES)?;
        let head: [u8; SECTION_HEAD_BYTES] = head[..].try_into().expect("as many as asked for");
        let len = u32::from_le_bytes(head[8..12].try_into().expect("four bytes")) as usize;
        if len > SECTION_BYTES_MAX {
            return Err(damaged("no section is so long").into());
        }
        let bytes = self.take(len)?;
        let checksum = section_checksum(self.seed, &head, core::slice::from_ref(&bytes));
        if checksum.to_le_bytes() != head[..CHECKSUM_BYTES] {
            return Err(damaged("a section does not have its checksum").into());
        }
        self.number += 1;
        if head[16..24] != self.number.to_le_bytes() {
            return Err(damaged("a section is not in its place").into());
        }
        match SectionKind::of(head[12]) {
            Some(SectionKind::State) => {
                self.counts.state_bytes += bytes.len() as u64;
                Ok(Some(Section::State(bytes)))
            }
            Some(SectionKind::Records) => {
                let records = self.split_records(bytes);
                Ok(Some(Section::Records(
                    records.map_err(|_| damaged("a record does not have its checksum"))?,
                )))
            }
            Some(SectionKind::Trailer) => self.end(&bytes, start).map(|()| None),
            None => Err(damaged("a section of a kind that this build does not know").into()),
        }
    }

    fn take(&mut self, len: usize) -> Result<Bytes, ReadError<E>> {
        let bytes = (self.read)(len).map_err(ReadError::Source)?;
        self.at += bytes.len() as u64;
        if bytes.len() < len {
            return Err(FormatError::Cut { at: self.at }.into());
        }
        Ok(bytes)
    }

    fn split_records(&mut self, mut bytes: Bytes) -> Result<Vec<Record>, RecordError> {
        self.counts.record_bytes += bytes.len() as u64;
        let mut records = Vec::new();
        while !bytes.is_empty() {
            records.push(Record::take(self.record_seed, &mut bytes)?);
        }
        self.counts.records += records.len() as u64;
        Ok(records)
    }

    fn end(&mut self, trailer: &[u8], start: u64) -> Result<(), ReadError<E>> {
        let damaged = |at, what| Err(FormatError::Damaged { at, what }.into());
        let counts: Result<Counts, _> = wire::decode("a backup's trailer", trailer);
        if counts.ok() != Some(self.counts) {
            return damaged(start, "there is not as much in it as its trailer says");
        }
        let after = (self.read)(1).map_err(ReadError::Source)?;
        if !after.is_empty() {
            return damaged(self.at, "bytes follow its end");
        }
        self.is_ended = true;
        Ok(())
    }
}
