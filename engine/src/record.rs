//! A log entry as bytes: the same on disk, in an append message and in memory.
//!
//! The leader encodes an entry once, with one checksum; followers verify it and store the very same
//! bytes. Nothing downstream re-encodes. Next: `block` for what a payload of commands contains,
//! `storage::format` for how records lie in files.
//!
//! ```text
//!  0        8        12  13  14   16       24       32       40       44    48
//!  +--------+--------+---+---+----+--------+--------+--------+--------+-----+---------+
//!  |checksum| payload|ver|knd|zero| index  |  term  |  hlc   | group  |zero | payload |
//!  |  u64   | len u32|u8 |u8 |u16 |  u64   |  u64   |  u64   |  u32   | u32 |  bytes  |
//!  +--------+--------+---+---+----+--------+--------+--------+--------+-----+---------+
//! ```
//!
//! Little-endian. The checksum is XXH3-64 over everything after itself, seeded with the cluster and
//! the group, so that a record of another cluster never passes for one of ours.

use crate::hlc::Hlc;
use crate::ids::{ClusterId, GroupId, LogIndex, Term};
use crate::limits;
use alloc::vec::Vec;
use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes before the payload.
pub const RECORD_HEADER_BYTES: usize = 48;
/// The layout above.
pub const RECORD_VERSION: u8 = 1;

/// Binds checksums to where their bytes belong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumSeed(pub u64);

impl ChecksumSeed {
    /// The seed of a group's records.
    #[must_use]
    pub fn of(cluster: ClusterId, group: GroupId) -> Self {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&cluster.0);
        bytes[16..].copy_from_slice(&group.0.to_le_bytes());
        Self(xxh3_64(&bytes))
    }

    /// The checksum of `bytes` under this seed.
    #[must_use]
    pub fn checksum(self, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self.0)
    }
}

/// What an entry means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryKind {
    /// The first entry of a leader's term (§5.4.2): commits what came before; no payload.
    Noop = 1,
    /// Blocks of commands, one after another; see `block`.
    Commands = 2,
    /// Moves log time on, so that leases and windows expire without traffic; no payload.
    Tick = 3,
    /// Another membership: all of it; see `raft::Membership`.
    Membership = 4,
    /// Whether space is short, so that nothing may be added; see `engine::space`.
    Space = 5,
}

impl EntryKind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Noop),
            2 => Some(Self::Commands),
            3 => Some(Self::Tick),
            4 => Some(Self::Membership),
            5 => Some(Self::Space),
            _ => None,
        }
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header, or than the header promises.
    #[error("record cut short: {have} bytes of {need}")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The payload's length exceeds the limit.
    #[error("record payload of {bytes} bytes exceeds {max}", max = limits::RECORD_PAYLOAD_BYTES_MAX)]
    TooLong {
        /// The promised length.
        bytes: usize,
    },
    /// The bytes are damaged, or belong to another cluster or group.
    #[error("record checksum is {found:#018x}, its bytes give {computed:#018x}")]
    Checksum {
        /// In the header.
        found: u64,
        /// Of the bytes.
        computed: u64,
    },
    /// A valid checksum over a version or kind that this build does not know.
    #[error("record of version {version} and kind {kind} is unknown to this build; upgrade it")]
    Unknown {
        /// Version byte.
        version: u8,
        /// Kind byte.
        kind: u8,
    },
}

/// A whole, verified record. Cloning it shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    index: LogIndex,
    term: Term,
    hlc: Hlc,
    kind: EntryKind,
    bytes: Bytes,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Record {
    /// The length of the record that begins at the start of `bytes`, header included, as far as its
    /// unverified header says; `None` while there is no whole header.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] if no valid record can be this long.
    pub fn peek_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        if bytes.len() < RECORD_HEADER_BYTES {
            return Ok(None);
        }
        let payload_len = u32_at(bytes, 8) as usize;
        if payload_len > limits::RECORD_PAYLOAD_BYTES_MAX {
            return Err(RecordError::TooLong { bytes: payload_len });
        }
        Ok(Some(RECORD_HEADER_BYTES + payload_len))
    }

    /// Verifies the record that begins at the start of `bytes` and takes it off, sharing the memory.
    ///
    /// # Errors
    /// Says what is wrong with the bytes; they are left untouched.
    pub fn take(seed: ChecksumSeed, bytes: &mut Bytes) -> Result<Self, RecordError> {
        let need = Self::peek_len(bytes)?.unwrap_or(RECORD_HEADER_BYTES);
        if bytes.len() < need {
            return Err(RecordError::Short { have: bytes.len(), need });
        }
        let found = u64_at(bytes, 0);
        let computed = seed.checksum(&bytes[8..need]);
        if found != computed {
            return Err(RecordError::Checksum { found, computed });
        }
        let (version, kind) = (bytes[12], bytes[13]);
        let (RECORD_VERSION, Some(kind)) = (version, EntryKind::of(kind)) else {
            return Err(RecordError::Unknown { version, kind });
        };
        let bytes = bytes.split_to(need);
        Ok(Self {
            index: LogIndex(u64_at(&bytes, 16)),
            term: Term(u64_at(&bytes, 24)),
            hlc: Hlc(u64_at(&bytes, 32)),
            kind,
            bytes,
        })
    }

    /// Where in the log.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The term of the leader that made it.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// The leader's stamp; rises with the index.
    #[must_use]
    pub fn hlc(&self) -> Hlc {
        self.hlc
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// The bytes after the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[RECORD_HEADER_BYTES..]
    }

    /// A part of the payload, sharing the memory; `None` if it reaches outside.
    #[must_use]
    pub fn payload_slice(&self, offset: u32, len: u32) -> Option<Bytes> {
        let start = RECORD_HEADER_BYTES.checked_add(offset as usize)?;
        let end = start.checked_add(len as usize)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }

    /// The whole record as it stands on disk and on the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Collects a payload, leaving room for the header, so that sealing copies nothing.
#[derive(Debug)]
pub struct RecordBuilder {
    bytes: Vec<u8>,
}

impl Default for RecordBuilder {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl RecordBuilder {
    /// An empty payload with room for `payload_bytes`.
    #[must_use]
    pub fn with_capacity(payload_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES + payload_bytes);
        bytes.resize(RECORD_HEADER_BYTES, 0);
        Self { bytes }
    }

    /// Payload bytes so far.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - RECORD_HEADER_BYTES
    }

    /// The buffer to append payload to; what is in it already must stay.
    pub fn payload_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Fills in the header and the checksum.
    #[must_use]
    pub fn seal(
        self,
        seed: ChecksumSeed,
        group: GroupId,
        index: LogIndex,
        term: Term,
        hlc: Hlc,
        kind: EntryKind,
    ) -> Record {
        let mut bytes = self.bytes;
        let payload_len = bytes.len() - RECORD_HEADER_BYTES;
        assert!(payload_len <= limits::RECORD_PAYLOAD_BYTES_MAX);
        let payload_len = u32::try_from(payload_len).expect("bounded by the line above");
        bytes[8..12].copy_from_slice(&payload_len.to_le_bytes());
        bytes[12] = RECORD_VERSION;
        bytes[13] = kind as u8;
        bytes[16..24].copy_from_slice(&index.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&term.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&hlc.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&group.0.to_le_bytes());
        let checksum = seed.checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        Record { index, term, hlc, kind, bytes: Bytes::from(bytes) }
    }
}
