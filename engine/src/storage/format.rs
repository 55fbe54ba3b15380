//! The bytes of a data directory: the headers of segments and flushes, snapshots, and the identity.
//!
//! Owns the layouts and their checks, as pure functions over bytes. Never reads a file, and never
//! decides what a failed check means: that is `scan`'s. Next: `scan`.
//!
//! A segment is a header, then flushes one after another:
//!
//! ```text
//!  0                64                   64 + f1           64 + f1 + f2
//!  +----------------+--------------------+-----------------+------
//!  | segment header |      flush 1       |     flush 2     |  ...
//!  +----------------+--------------------+-----------------+------
//!
//!  segment header
//!  0        8     11  12      16        32      40        48          56             64
//!  +--------+-----+---+-------+---------+-------+---------+-----------+--------------+
//!  |checksum|"PHS"|ver| group | cluster | node  | segment |first index|first sequence|
//!  |  u64   |     |u8 |  u32  | 16 bytes|  u64  |   u64   |    u64    |     u64      |
//!  +--------+-----+---+-------+---------+-------+---------+-----------+--------------+
//! ```
//!
//! `first index` is one more than the log's last entry when the segment was begun, and `first
//! sequence` that of its first flush: segments chain, so none can go missing unnoticed. The checksum
//! is plain XXH3-64, so that a foreign segment is told from a damaged one.
//!
//! A segment that begins the log anew has "PHR" in the place of "PHS", and a longer header. Whatever
//! came before counts no more once its first flush is whole: the snapshot up to entry `snapshot`
//! stands for it. `base term` is that of the entry before `first index`, and the second checksum is
//! seeded with the first:
//!
//! ```text
//!  64       72         80          88
//!  +--------+----------+-----------+
//!  |checksum| snapshot | base term |
//!  |  u64   |   u64    |    u64    |
//!  +--------+----------+-----------+
//! ```
//!
//! A flush is what one fdatasync made durable: the hard state, and the records of all the persists
//! that it coalesces, exactly as the leader encoded them, zero padded to a multiple of 8. After those
//! that extend the log may come *archived* ones: copies of older, committed entries, which say nothing
//! about where the log ends:
//!
//! ```text
//!  0        8     11  12      16     20       24       32       40      48     56       64
//!  +--------+-----+---+-------+------+--------+--------+--------+-------+------+--------+
//!  |checksum|"PHF"|ver|records|count |archived|sequence| commit | term  |voted | record |
//!  |  u64   |     |u8 | bytes | u32  | count  |  u64   |  u64   |  u64  | for  | digest |
//!  +--------+-----+---+-------+------+--------+--------+--------+-------+------+--------+
//!
//!  64          72         80      84       88        96        104
//!  +-----------+----------+-------+--------+---------+---------+---------+----------+----+
//!  |   first   | previous |entries|previous| vouched | vouched | records | archived |zero|
//!  |   index   |  first   |  u32  |entries |  term   |  index  |         | records  |    |
//!  +-----------+----------+-------+--------+---------+---------+---------+----------+----+
//! ```
//!
//! `sequence` counts flushes from 1 over all segments. `voted for` is 0 for nobody. The checksum
//! covers the rest of the header and the header's place (segment and offset), and is seeded with
//! cluster, node and group: a flush of another node, or a copy of one of ours that somebody sent as
//! a message, never passes. `record digest` chains the records' checksums, so that a whole flush is
//! exactly what was once written and no mixture. `count` is of all records, and the last `archived
//! count` of them are the archived ones.
//!
//! `first index` and `entries` are the [`EntrySpan`] that the flush leaves at the end of the log. That
//! of the flush before is repeated, so that the next header tells what a destroyed flush held. `vouched`
//! is the place up to which the node has promised its log to others: its end, or where it ended before
//! damage shortened it, until it is back there.
//!
//! A snapshot is in a file of its own, which is named after the last entry in it. `last entry` is the
//! same number, and the owner stands in the header too: no foreign and no renamed file passes. The
//! description holds length and checksum of the state, and has its own in the header:
//!
//! ```text
//!  snapshot
//!  0        8     11  12      16        32      40      48          52     56          64
//!  +--------+-----+---+-------+---------+-------+-------+-----------+------+-----------+--------------+-----+
//!  |checksum|"PHN"|ver| group | cluster | node  | last  |description| zero |description|bincode of    |state|
//!  |  u64   |     |u8 |  u32  | 16 bytes|  u64  | entry | bytes u32 | u32  | checksum  |`SnapshotMeta`|     |
//!  +--------+-----+---+-------+---------+-------+-------+-----------+------+-----------+--------------+-----+
//! ```
//!
//! ```text
//!  identity
//!  0        8     11  12
//!  +--------+-----+---+---------------------------+
//!  |checksum|"PHI"|ver| bincode of `Identity`     |
//!  +--------+-----+---+---------------------------+
//! ```
//!
//! Little-endian throughout. Versions to come keep the first twelve bytes of each, so that an old
//! build can say "upgrade" where it would otherwise see damage.

use super::error::SnapshotDamage;
use super::{HardState, Identity};
use crate::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use crate::raft::{LogPosition, Snapshot, SnapshotMeta};
use crate::record::{ChecksumSeed, RECORD_HEADER_BYTES, Record};
use crate::wire;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of the header of a segment that begins the log anew.
pub const RESET_HEADER_BYTES: usize = SEGMENT_HEADER_BYTES + 24;
/// Bytes of a snapshot's header, without the description.
pub const SNAPSHOT_HEADER_BYTES: usize = 64;
/// Bytes of a flush's header.
pub const FLUSH_HEADER_BYTES: usize = 104;
/// Flushes begin at multiples of this, bytes.
pub const FLUSH_ALIGNMENT: usize = 8;
/// The version of the layouts of segments, flushes and snapshots; 2 has archived records.
pub const FORMAT_VERSION: u8 = 2;
/// The version of the identity's layout; 2 has the node's own address.
pub const IDENTITY_VERSION: u8 = 2;

const SEGMENT_MAGIC: [u8; 3] = *b"PHS";
const RESET_MAGIC: [u8; 3] = *b"PHR";
const FLUSH_MAGIC: [u8; 3] = *b"PHF";
const SNAPSHOT_MAGIC: [u8; 3] = *b"PHN";
const IDENTITY_MAGIC: [u8; 3] = *b"PHI";
/// Checksum, magic and version: what every version has.
const PREFIX_BYTES: usize = 12;

const _: () = {
    assert!(SEGMENT_HEADER_BYTES.is_multiple_of(FLUSH_ALIGNMENT));
    assert!(RESET_HEADER_BYTES.is_multiple_of(FLUSH_ALIGNMENT));
    assert!(FLUSH_HEADER_BYTES.is_multiple_of(FLUSH_ALIGNMENT));
};

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What a log's bytes are bound to: whose they are, and the seeds that follow from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
    record_seed: ChecksumSeed,
    flush_seed: u64,
}

impl Owner {
    /// The owner of a node's log of a group.
    #[must_use]
    pub fn new(cluster: ClusterId, group: GroupId, node: NodeId) -> Self {
        let record_seed = ChecksumSeed::of(cluster, group);
        let flush_seed = xxh3_64_with_seed(&node.0.to_le_bytes(), record_seed.0);
        Self { cluster, group, node, record_seed, flush_seed }
    }

    /// The seed of the records' checksums: the same on every node of the group.
    #[must_use]
    pub fn record_seed(&self) -> ChecksumSeed {
        self.record_seed
    }
}

/// Why bytes are not the header that they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Too short, or checksum, magic or zeros are wrong: damaged or never wholly written.
    Broken,
    /// Whole, but of a version that this build does not know.
    Version(u8),
}

/// Says that the log begins anew with a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResetMark {
    /// The last entry in the snapshot that stands for everything before.
    pub snapshot: LogIndex,
    /// The term of the entry before the log's first.
    pub base_term: Term,
}

/// The header of a segment; see the module's diagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The cluster whose it is.
    pub cluster: ClusterId,
    /// The group whose it is.
    pub group: GroupId,
    /// The node whose it is.
    pub node: NodeId,
    /// Its number, as in the file's name.
    pub segment: u64,
    /// The log's last index when it was begun, plus one; the log's first if it begins anew.
    pub first_index: LogIndex,
    /// The sequence of its first flush.
    pub first_sequence: u64,
    /// Whether the log begins anew here.
    pub reset: Option<ResetMark>,
}

impl SegmentHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        bytes[8..11].copy_from_slice(self.reset.map_or(&SEGMENT_MAGIC, |_| &RESET_MAGIC));
        bytes[11] = FORMAT_VERSION;
        bytes[12..16].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster.0);
        bytes[32..40].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.segment.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_index.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.first_sequence.to_le_bytes());
        let checksum = xxh3_64(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        if let Some(mark) = self.reset {
            bytes.resize(RESET_HEADER_BYTES, 0);
            bytes[72..80].copy_from_slice(&mark.snapshot.0.to_le_bytes());
            bytes[80..88].copy_from_slice(&mark.base_term.0.to_le_bytes());
            let checksum = xxh3_64_with_seed(&bytes[72..88], checksum);
            bytes[64..72].copy_from_slice(&checksum.to_le_bytes());
        }
        assert_eq!(bytes.len(), self.header_bytes());
        bytes
    }

    /// Bytes of the header.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        self.reset.map_or(SEGMENT_HEADER_BYTES, |_| RESET_HEADER_BYTES)
    }

    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// Says whether it is broken or too new.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let head = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(HeaderError::Broken)?;
        let is_reset = head[8..11] == RESET_MAGIC;
        let has_magic = is_reset || head[8..11] == SEGMENT_MAGIC;
        if !has_magic || u64_at(head, 0) != xxh3_64(&head[8..]) {
            return Err(HeaderError::Broken);
        }
        if head[11] != FORMAT_VERSION {
            return Err(HeaderError::Version(head[11]));
        }
        Ok(Self {
            cluster: ClusterId(head[16..32].try_into().expect("sixteen bytes")),
            group: GroupId(u32_at(head, 12)),
            node: NodeId(u64_at(head, 32)),
            segment: u64_at(head, 40),
            first_index: LogIndex(u64_at(head, 48)),
            first_sequence: u64_at(head, 56),
            reset: if is_reset { Some(decode_reset_mark(bytes)?) } else { None },
        })
    }
}

fn decode_reset_mark(bytes: &[u8]) -> Result<ResetMark, HeaderError> {
    let bytes = bytes.get(..RESET_HEADER_BYTES).ok_or(HeaderError::Broken)?;
    if u64_at(bytes, 64) != xxh3_64_with_seed(&bytes[72..88], u64_at(bytes, 0)) {
        return Err(HeaderError::Broken);
    }
    Ok(ResetMark { snapshot: LogIndex(u64_at(bytes, 72)), base_term: Term(u64_at(bytes, 80)) })
}

/// The header of a snapshot; see the module's diagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The cluster whose it is.
    pub cluster: ClusterId,
    /// The group whose it is.
    pub group: GroupId,
    /// The node whose it is.
    pub node: NodeId,
    /// The last entry in it, as in the file's name.
    pub last_index: LogIndex,
    /// Bytes of the description.
    pub description_bytes: u32,
    /// XXH3-64 of the description.
    pub description_checksum: u64,
}

impl SnapshotHeader {
    fn encode(&self) -> [u8; SNAPSHOT_HEADER_BYTES] {
        let mut bytes = [0; SNAPSHOT_HEADER_BYTES];
        bytes[8..11].copy_from_slice(&SNAPSHOT_MAGIC);
        bytes[11] = FORMAT_VERSION;
        bytes[12..16].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster.0);
        bytes[32..40].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.last_index.0.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.description_bytes.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.description_checksum.to_le_bytes());
        let checksum = xxh3_64(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// Says whether it is broken or too new.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..SNAPSHOT_HEADER_BYTES).ok_or(HeaderError::Broken)?;
        if bytes[8..11] != SNAPSHOT_MAGIC || u64_at(bytes, 0) != xxh3_64(&bytes[8..]) {
            return Err(HeaderError::Broken);
        }
        if bytes[11] != FORMAT_VERSION {
            return Err(HeaderError::Version(bytes[11]));
        }
        Ok(Self {
            cluster: ClusterId(bytes[16..32].try_into().expect("sixteen bytes")),
            group: GroupId(u32_at(bytes, 12)),
            node: NodeId(u64_at(bytes, 32)),
            last_index: LogIndex(u64_at(bytes, 40)),
            description_bytes: u32_at(bytes, 48),
            description_checksum: u64_at(bytes, 56),
        })
    }

    /// Where the state begins, bytes from the file's start.
    #[must_use]
    pub fn state_offset(&self) -> u64 {
        SNAPSHOT_HEADER_BYTES as u64 + u64::from(self.description_bytes)
    }
}

/// What stands before the state in the file of a snapshot of `owner`.
#[must_use]
pub fn encode_snapshot_head(owner: &Owner, meta: &SnapshotMeta) -> Vec<u8> {
    let description = wire::encode(meta);
    let header = SnapshotHeader {
        cluster: owner.cluster,
        group: owner.group,
        node: owner.node,
        last_index: meta.last.index,
        description_bytes: u32::try_from(description.len()).expect("a few runs and members"),
        description_checksum: xxh3_64(&description),
    };
    let mut bytes = Vec::with_capacity(SNAPSHOT_HEADER_BYTES + description.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&description);
    bytes
}

/// The description and the state in the file of a snapshot with this `header`, sharing its memory.
///
/// # Errors
/// Says what of it is damaged.
pub fn decode_snapshot(header: &SnapshotHeader, file: &Bytes) -> Result<Snapshot, SnapshotDamage> {
    let state_offset = usize::try_from(header.state_offset()).unwrap_or(usize::MAX);
    let description = file.get(SNAPSHOT_HEADER_BYTES..state_offset);
    let description = description.ok_or(SnapshotDamage::Description)?;
    if xxh3_64(description) != header.description_checksum {
        return Err(SnapshotDamage::Description);
    }
    let meta: SnapshotMeta = wire::decode("a snapshot's description", description)
        .map_err(|_| SnapshotDamage::Description)?;
    if !meta.is_sound() {
        return Err(SnapshotDamage::Description);
    }
    let bytes = file.slice(state_offset..);
    if meta.bytes != bytes.len() as u64 {
        return Err(SnapshotDamage::Length { expected: meta.bytes, found: bytes.len() as u64 });
    }
    if meta.checksum != xxh3_64(&bytes) {
        return Err(SnapshotDamage::State);
    }
    Ok(Snapshot { meta, bytes })
}

/// Where a flush's header stands: a part of what its checksum covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The segment's number.
    pub segment: u64,
    /// Bytes from the segment's start.
    pub offset: u64,
}

/// The entries that a flush leaves at the end of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntrySpan {
    /// The first of them; without any, the one after the log's last.
    pub first: LogIndex,
    /// How many there are.
    pub count: u32,
}

impl EntrySpan {
    /// None, in a log that ends before `end`.
    #[must_use]
    pub fn none_before(end: LogIndex) -> Self {
        Self { first: end, count: 0 }
    }

    /// The index after the last: the log ends before it.
    #[must_use]
    pub fn end(&self) -> LogIndex {
        LogIndex(self.first.0 + u64::from(self.count))
    }
}

/// The header of a flush; see the module's diagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushHeader {
    /// Bytes of the records, without the padding.
    pub records_bytes: u32,
    /// How many records.
    pub record_count: u32,
    /// How many of them, the last ones, are copies of older entries.
    pub archived_count: u32,
    /// The flush's number, from 1 and without gaps over all segments.
    pub sequence: u64,
    /// The hard state from here on.
    pub hard_state: HardState,
    /// See [`chain_digest`].
    pub record_digest: u64,
    /// The log's last entries with this flush: those that it brought.
    pub entries: EntrySpan,
    /// The same of the flush before; that of the log's beginning for the first.
    pub previous: EntrySpan,
    /// What this node vouches for: see [`Recovered::vouched`](super::Recovered::vouched).
    pub vouched: LogPosition,
}

impl FlushHeader {
    /// What holds of every header that was written here.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let log_count = self.record_count.checked_sub(self.archived_count);
        let is_in_range = |span: &EntrySpan| (1..u64::MAX >> 1).contains(&span.first.0);
        self.records_bytes as u64 >= u64::from(self.record_count) * RECORD_HEADER_BYTES as u64
            && log_count.is_some_and(|count| self.entries.count <= count)
            && self.sequence > 0
            && is_in_range(&self.entries)
            && is_in_range(&self.previous)
    }

    /// The header's bytes at `place` of `owner`'s log.
    #[must_use]
    pub fn encode(&self, owner: &Owner, place: Place) -> [u8; FLUSH_HEADER_BYTES] {
        let voted_for = self.hard_state.voted_for.unwrap_or(NodeId::ZERO);
        let mut bytes = [0; FLUSH_HEADER_BYTES];
        bytes[8..11].copy_from_slice(&FLUSH_MAGIC);
        bytes[11] = FORMAT_VERSION;
        bytes[12..16].copy_from_slice(&self.records_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.archived_count.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.hard_state.commit.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.hard_state.term.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&voted_for.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.record_digest.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.entries.first.0.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.previous.first.0.to_le_bytes());
        bytes[80..84].copy_from_slice(&self.entries.count.to_le_bytes());
        bytes[84..88].copy_from_slice(&self.previous.count.to_le_bytes());
        bytes[88..96].copy_from_slice(&self.vouched.term.0.to_le_bytes());
        bytes[96..104].copy_from_slice(&self.vouched.index.0.to_le_bytes());
        let checksum = flush_checksum(owner, place, &bytes);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, which stand at `place` of `owner`'s log.
    ///
    /// # Errors
    /// Says whether it is broken or too new.
    pub fn decode(owner: &Owner, place: Place, bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..FLUSH_HEADER_BYTES).ok_or(HeaderError::Broken)?;
        let bytes: &[u8; FLUSH_HEADER_BYTES] = bytes.try_into().expect("sliced to this length");
        // The magic is compared first because a scan for later flushes tries every eighth byte.
        if bytes[8..11] != FLUSH_MAGIC || u64_at(bytes, 0) != flush_checksum(owner, place, bytes) {
            return Err(HeaderError::Broken);
        }
        if bytes[11] != FORMAT_VERSION {
            return Err(HeaderError::Version(bytes[11]));
        }
        let voted_for = NodeId(u64_at(bytes, 48));
        Ok(Self {
            records_bytes: u32_at(bytes, 12),
            record_count: u32_at(bytes, 16),
            archived_count: u32_at(bytes, 20),
            sequence: u64_at(bytes, 24),
            hard_state: HardState {
                commit: LogIndex(u64_at(bytes, 32)),
                term: Term(u64_at(bytes, 40)),
                voted_for: (voted_for != NodeId::ZERO).then_some(voted_for),
            },
            record_digest: u64_at(bytes, 56),
            entries: EntrySpan { first: LogIndex(u64_at(bytes, 64)), count: u32_at(bytes, 80) },
            previous: EntrySpan { first: LogIndex(u64_at(bytes, 72)), count: u32_at(bytes, 84) },
            vouched: LogPosition {
                term: Term(u64_at(bytes, 88)),
                index: LogIndex(u64_at(bytes, 96)),
            },
        })
    }

    /// Bytes of the whole flush: header, records and padding.
    #[must_use]
    pub fn flush_bytes(&self) -> u64 {
        flush_bytes(u64::from(self.records_bytes))
    }
}

/// Bytes of a flush of `records_bytes` bytes of records, with header and padding.
#[must_use]
pub fn flush_bytes(records_bytes: u64) -> u64 {
    (FLUSH_HEADER_BYTES as u64 + records_bytes).next_multiple_of(FLUSH_ALIGNMENT as u64)
}

/// The digest of a flush's records so far and one more. It starts from 0.
#[must_use]
pub fn chain_digest(digest: u64, record: &Record) -> u64 {
    // A record begins with its own checksum, which stands for all its bytes.
    xxh3_64_with_seed(&record.bytes()[..8], digest)
}

fn flush_checksum(owner: &Owner, place: Place, header: &[u8; FLUSH_HEADER_BYTES]) -> u64 {
    let mut covered = [0; FLUSH_HEADER_BYTES + 8];
    covered[..96].copy_from_slice(&header[8..]);
    covered[96..104].copy_from_slice(&place.segment.to_le_bytes());
    covered[104..].copy_from_slice(&place.offset.to_le_bytes());
    xxh3_64_with_seed(&covered, owner.flush_seed)
}

/// The bytes of the identity file.
#[must_use]
pub fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES);
    bytes.resize(8, 0);
    bytes.extend_from_slice(&IDENTITY_MAGIC);
    bytes.push(IDENTITY_VERSION);
    wire::encode_into(identity, &mut bytes);
    let checksum = xxh3_64(&bytes[8..]);
    bytes[..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The identity in the bytes of its file.
///
/// # Errors
/// Says whether they are broken or too new.
pub fn decode_identity(bytes: &[u8]) -> Result<Identity, HeaderError> {
    if bytes.len() < PREFIX_BYTES
        || bytes[8..11] != IDENTITY_MAGIC
        || u64_at(bytes, 0) != xxh3_64(&bytes[8..])
    {
        return Err(HeaderError::Broken);
    }
    if bytes[11] != IDENTITY_VERSION {
        return Err(HeaderError::Version(bytes[11]));
    }
    wire::decode("identity", &bytes[PREFIX_BYTES..]).map_err(|_| HeaderError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(node: u64) -> Owner {
        Owner::new(ClusterId([7; 16]), GroupId(0), NodeId(node))
    }

    fn flush() -> FlushHeader {
        let hard_state =
            HardState { term: Term(4), voted_for: Some(NodeId(2)), commit: LogIndex(9) };
        FlushHeader {
            records_bytes: 50,
            record_count: 3,
            archived_count: 1,
            sequence: 3,
            hard_state,
            record_digest: 5,
            entries: EntrySpan { first: LogIndex(12), count: 2 },
            previous: EntrySpan { first: LogIndex(8), count: 4 },
            vouched: LogPosition { term: Term(4), index: LogIndex(13) },
        }
    }

    #[test]
    fn a_flush_header_passes_only_at_its_own_place_of_its_own_log() {
        let place = Place { segment: 2, offset: 64 };
        let bytes = flush().encode(&owner(1), place);
        assert_eq!(FlushHeader::decode(&owner(1), place, &bytes), Ok(flush()));
        let elsewhere = [Place { segment: 1, offset: 64 }, Place { segment: 2, offset: 72 }];
        for other in elsewhere {
            let decoded = FlushHeader::decode(&owner(1), other, &bytes);
            assert_eq!(decoded, Err(HeaderError::Broken));
        }
        let decoded = FlushHeader::decode(&owner(2), place, &bytes);
        assert_eq!(decoded, Err(HeaderError::Broken));
    }

    #[test]
    fn headers_keep_their_golden_bytes() {
        let segment = SegmentHeader {
            cluster: ClusterId([7; 16]),
            group: GroupId(3),
            node: NodeId(1),
            segment: 2,
            first_index: LogIndex(10),
            first_sequence: 5,
            reset: None,
        };
        let bytes = segment.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(segment));
        assert_eq!(
            xxh3_64(&bytes),
            1_918_336_247_348_921_979,
            "the layout of segment headers changed: raise the version"
        );
        let mark = ResetMark { snapshot: LogIndex(12), base_term: Term(3) };
        let anew = SegmentHeader { reset: Some(mark), ..segment };
        let bytes = anew.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(anew));
        assert_eq!(
            xxh3_64(&bytes),
            10_296_562_427_993_762_889,
            "the layout of headers that begin a log anew changed: raise the version"
        );
        let bytes = flush().encode(&owner(1), Place { segment: 2, offset: 64 });
        assert_eq!(
            xxh3_64(&bytes),
            6_537_575_862_506_827_020,
            "the layout of flush headers changed: raise the version"
        );
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let (cluster, group) = (ClusterId([7; 16]), GroupId(0));
        let identity = Identity::founder(cluster, group, NodeId(1), Vec::new());
        let mut bytes = encode_identity(&identity);
        assert_eq!(decode_identity(&bytes), Ok(identity));
        bytes[11] = 9;
        assert_eq!(decode_identity(&bytes), Err(HeaderError::Broken));
        let checksum = xxh3_64(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode_identity(&bytes), Err(HeaderError::Version(9)));
    }
}
