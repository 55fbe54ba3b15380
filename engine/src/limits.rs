//! Every bound of the system, decided once, with the relations between them checked at compile time.
//!
//! Each constant says what happens when it is reached. Those that a deployment may lower are fields
//! of [`Limits`] with the constant as their default.

use crate::time::Micros;

/// Largest body that can ever be configured, bytes. A larger body is refused as invalid.
pub const BODY_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Default bound of a body, bytes.
pub const BODY_BYTES_DEFAULT: u32 = 1024 * 1024;
/// Longest queue name and longest sender name, bytes of UTF-8; at least 1 for a queue.
pub const NAME_BYTES_MAX: usize = 255;
/// Most headers on a message.
pub const HEADERS_MAX: usize = 32;
/// Longest header, key and value together, bytes.
pub const HEADER_BYTES_MAX: usize = 1024;
/// Most messages in one send command.
pub const MESSAGES_PER_SEND_MAX: usize = 4_096;
/// Most messages in one receive, browse or acknowledgement command.
pub const MESSAGES_PER_RECEIVE_MAX: usize = 4_096;
/// Most commands in one block, and so in one client's call.
pub const COMMANDS_PER_BLOCK_MAX: usize = 4_096;
/// Largest block of commands, bytes: one body of the largest size with everything around it.
pub const BLOCK_BYTES_MAX: usize = BODY_BYTES_MAX as usize + 64 * 1024;
/// A batch takes no further block once it has this many payload bytes.
pub const BATCH_BYTES_TARGET: usize = 1024 * 1024;
/// Largest record payload, bytes: a batch may exceed its target by one block.
pub const RECORD_PAYLOAD_BYTES_MAX: usize = BATCH_BYTES_TARGET + BLOCK_BYTES_MAX;
/// Most body bytes in one reply to receive or browse; further messages wait for the next call.
pub const DELIVERY_BYTES_TARGET: usize = 4 * 1024 * 1024;
/// Largest frame head (the part that is decoded into structures), bytes.
pub const FRAME_HEAD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most body bytes in one answer: at least one message of any size fits. A block whose replies have
/// more together takes effect, and its client is told to ask for the replies in smaller parts.
pub const ANSWER_BODIES_BYTES_MAX: usize = RECORD_PAYLOAD_BYTES_MAX;
/// Largest frame on a connection, head and tail together, bytes. A larger one closes it.
pub const FRAME_BYTES_MAX: usize = ANSWER_BODIES_BYTES_MAX + FRAME_HEAD_BYTES_MAX;
/// Most records in one append message.
pub const APPEND_RECORDS_MAX: usize = 256;
/// An append message takes no further record once it has this many bytes.
pub const APPEND_BYTES_TARGET: usize = 2 * 1024 * 1024;
/// Most records that one message may ask for, when a member repairs what it lacks.
pub const RECORDS_REQUEST_MAX: usize = 256;
/// Append messages in flight to one follower before the leader waits, by entries.
pub const INFLIGHT_ENTRIES_MAX: u64 = 256;
/// The same by bytes.
pub const INFLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Uncommitted bytes at which a leader refuses further commands as full.
pub const UNCOMMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Records that may be neither durable on the leader nor committed before small batches wait and grow.
pub const UNSETTLED_RECORDS_MAX: u64 = 2;
/// Recent records kept in memory for replication and delivery, bytes.
pub const LOG_CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Voters of a cluster. A change that would make more is refused.
pub const VOTERS_MAX: usize = 7;
/// Members of a cluster: voters, those that were voters until a change is done, and learners.
pub const MEMBERS_MAX: usize = 2 * VOTERS_MAX;
/// Sessions; when one more opens, the one that was idle longest (in log time) is expired.
pub const SESSIONS_MAX: usize = 100_000;
/// Commands of one session that may be unanswered; also the replies remembered for it.
pub const SESSION_WINDOW: usize = 4_096;
/// Client requests that wait on a leader for their answer; further ones are refused as full.
pub const WAITING_REQUESTS_MAX: usize = 65_536;
/// Bytes that wait to be written to one connection before it is closed as a slow reader.
pub const CONNECTION_OUTBOUND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections of clients to one node; further ones are refused.
pub const CLIENT_CONNECTIONS_MAX: usize = 10_000;
/// Bytes of entries since the last snapshot at which the next is made, or as many as that snapshot
/// has, if these are more: so that snapshots never cost more than the log itself.
pub const SNAPSHOT_LOG_BYTES: u64 = 64 * 1024 * 1024;
/// Most bytes of a snapshot in one message, and in one piece of the job that writes it.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Largest snapshot, bytes. A follower refuses a larger one instead of running out of memory.
pub const SNAPSHOT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes of queries, and of answers whose bodies are read from the disk, that wait on a member. Further
/// requests are refused as full, and no further entry is applied meanwhile.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A node asks how much room its disk has this often, and as often it tries again what the disk refused
/// for want of it.
pub const SPACE_CHECK_INTERVAL: Micros = Micros::from_millis(200);
/// A node with less room than this, and twice its newest snapshot on top, is short of space. What still
/// goes on when a quorum is short must fit: the tail segment and one that is being rewritten or begun,
/// as much log as comes between two snapshots, and as much again; and with the bytes on top, a snapshot
/// that is written beside the two that are kept, and the log that a large one waits for.
pub const RESERVE_BYTES_DEFAULT: u64 = 2 * SEGMENT_BYTES_MAX + 2 * SNAPSHOT_LOG_BYTES;
/// Largest segment file, bytes; a record that does not fit opens the next segment.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of segments beyond twice the live ones at which the live ones of the oldest segment are moved,
/// so that it can go.
pub const SLACK_BYTES: u64 = 4 * SEGMENT_BYTES_MAX;

/// When nothing was written for so long after a flush, a flush of the hard state alone follows: what
/// is damaged before a valid flush is told from what was never wholly written.
pub const SEAL_AFTER: Micros = Micros::from_secs(1);

/// Most bytes that are read again in a second, to find what the disk has damaged; 0 turns that off. All of
/// a store is looked at once in [`SCRUB_ROUND`], unless that would take more.
pub const SCRUB_BYTES_PER_SECOND: u64 = 16 * 1024 * 1024;
/// How long a look at the whole store takes.
pub const SCRUB_ROUND: Micros = Micros::from_secs(24 * 60 * 60);
/// Bytes that are read again at once.
pub const SCRUB_PIECE_BYTES: usize = 256 * 1024;

/// Default lease of a received message.
pub const LEASE_MILLIS_DEFAULT: u64 = 30_000;
/// Longest lease, and longest delay of a nack.
pub const LEASE_MILLIS_MAX: u64 = 12 * 60 * 60 * 1_000;
/// Greatest age that a queue's limits can name: 100 years.
pub const RETENTION_MILLIS_MAX: u64 = 100 * 366 * 24 * 60 * 60 * 1_000;
/// Default window, in log time, within which a message id or a retried command is recognised.
pub const DEDUP_WINDOW_MILLIS_DEFAULT: u64 = 10 * 60 * 1_000;

/// Default most ids that are remembered of messages that are in no queue any more. Beyond it the oldest
/// are forgotten before their window is over: about 36 bytes each, and 24 for each entry.
pub const REMEMBERED_IDS_DEFAULT: u64 = 50_000_000;

/// Default shortest election timeout; each is drawn from this to twice this.
pub const ELECTION_TIMEOUT_DEFAULT: Micros = Micros::from_millis(150);
/// Default heartbeat interval.
pub const HEARTBEAT_INTERVAL_DEFAULT: Micros = Micros::from_millis(30);
/// A member keeps what a backup needs for this long after the backup's client last asked for anything.
pub const BACKUP_PATIENCE: Micros = Micros::from_secs(60);
/// Records that a backup asks for at once.
pub const BACKUP_RECORDS_MAX: usize = 4_096;

const _: () = {
    assert!(BODY_BYTES_DEFAULT <= BODY_BYTES_MAX);
    assert!(RECORD_PAYLOAD_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(FRAME_BYTES_MAX < u32::MAX as usize);
    assert!(FRAME_HEAD_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(DELIVERY_BYTES_TARGET <= ANSWER_BODIES_BYTES_MAX);
    assert!(SEGMENT_BYTES_MAX > RECORD_PAYLOAD_BYTES_MAX as u64 + 4_096);
    assert!(BATCH_BYTES_TARGET <= APPEND_BYTES_TARGET);
    assert!(LOG_CACHE_BYTES_MAX >= 2 * RECORD_PAYLOAD_BYTES_MAX);
    assert!(SESSION_WINDOW >= COMMANDS_PER_BLOCK_MAX);
    assert!(SNAPSHOT_CHUNK_BYTES_MAX < FRAME_BYTES_MAX - FRAME_HEAD_BYTES_MAX);
    // A follower must hear several heartbeats within its shortest timeout (§5.6).
    assert!(HEARTBEAT_INTERVAL_DEFAULT.0 * 4 < ELECTION_TIMEOUT_DEFAULT.0);
};

/// The limits that a deployment or a test may lower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of a message, bytes, at most [`BODY_BYTES_MAX`].
    pub body_bytes_max: u32,
    /// A batch takes no further block once it has this many payload bytes.
    pub batch_bytes_target: usize,
    /// Append messages in flight to one follower, by entries.
    pub inflight_entries_max: u64,
    /// The same by bytes.
    pub inflight_bytes_max: usize,
    /// Uncommitted bytes at which a leader refuses further commands.
    pub uncommitted_bytes_max: usize,
    /// Recent records kept in memory, bytes.
    pub log_cache_bytes_max: usize,
    /// Sessions before the idlest is expired.
    pub sessions_max: usize,
    /// Requests waiting on a leader.
    pub waiting_requests_max: usize,
    /// Window in log time within which ids and retries are recognised. Every node of a cluster must
    /// have the same: it is replicated behaviour.
    pub dedup_window_millis: u64,
    /// Ids remembered of messages that are in no queue any more; beyond it the oldest are forgotten early.
    /// Every node of a cluster must have the same: it is replicated behaviour.
    pub remembered_ids_max: u64,
    /// Largest segment file, bytes.
    pub segment_bytes_max: u64,
    /// Bytes of segments beyond twice the live ones at which old segments are cleaned.
    pub slack_bytes: u64,
    /// Bytes that are read again in a second at most, to find what the disk has damaged; 0: none.
    pub scrub_bytes_per_second: u64,
    /// Bytes of entries since the last snapshot at which the next is made.
    pub snapshot_log_bytes: u64,
    /// Most bytes of a snapshot in one message.
    pub snapshot_chunk_bytes_max: usize,
    /// Bytes of queries, and of answers that wait for the disk.
    pub waiting_bytes_max: usize,
    /// A node with less room, apart from its snapshots' share, is short of space; 0: never.
    pub reserve_bytes: u64,
    /// The room of a node ends, whatever its disk says, when its files have so many bytes.
    pub data_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: BODY_BYTES_DEFAULT,
            batch_bytes_target: BATCH_BYTES_TARGET,
            inflight_entries_max: INFLIGHT_ENTRIES_MAX,
            inflight_bytes_max: INFLIGHT_BYTES_MAX,
            uncommitted_bytes_max: UNCOMMITTED_BYTES_MAX,
            log_cache_bytes_max: LOG_CACHE_BYTES_MAX,
            sessions_max: SESSIONS_MAX,
            waiting_requests_max: WAITING_REQUESTS_MAX,
            dedup_window_millis: DEDUP_WINDOW_MILLIS_DEFAULT,
            remembered_ids_max: REMEMBERED_IDS_DEFAULT,
            segment_bytes_max: SEGMENT_BYTES_MAX,
            slack_bytes: SLACK_BYTES,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
            snapshot_log_bytes: SNAPSHOT_LOG_BYTES,
            snapshot_chunk_bytes_max: SNAPSHOT_CHUNK_BYTES_MAX,
            waiting_bytes_max: WAITING_BYTES_MAX,
            reserve_bytes: RESERVE_BYTES_DEFAULT,
            data_bytes_max: u64::MAX,
        }
    }
}
