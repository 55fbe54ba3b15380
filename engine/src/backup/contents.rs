//! What must be in a backup: a state that this build can restore, and the records that it refers to.
//!
//! Owns the check of a whole file. Never keeps a record: they pass by, in order, while the indices that
//! the state names are counted off. Next: `state_machine` for `live_entries`.

use super::format::{FormatError, Header, ReadError, Reader, Section};
use crate::engine::{Parts, split_state};
use crate::ids::LogIndex;
use crate::limits::{self, Limits};
use crate::queue::{Query, QueueInfo, Queues, Reply};
use crate::raft::SnapshotMeta;
use crate::record::Record;
use crate::session::Sessions;
use crate::state_machine::{RestoreError, StateMachine};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Queues that are asked for at a time.
const QUEUES_PAGE: u32 = 1_024;

/// The state in a backup, restored.
#[derive(Debug)]
pub struct State {
    queues: Queues,
    sessions: Sessions<Reply>,
}

impl State {
    /// Restores the state from the bytes of the snapshot that `meta` describes.
    ///
    /// # Errors
    /// They are not such a state, or one of a newer build.
    pub fn restore(meta: &SnapshotMeta, bytes: &[u8]) -> Result<Self, RestoreError> {
        if bytes.len() as u64 != meta.bytes || xxh3_64(bytes) != meta.checksum {
            let what = "it does not have the checksum that its description says";
            return Err(RestoreError::Damaged { what, at: bytes.len() });
        }
        let limits = Limits { sessions_max: limits::SESSIONS_MAX, ..Limits::default() };
        let Parts { sessions, machine, .. } = split_state(bytes)?;
        let mut queues = Queues::new(&limits);
        queues.restore(machine)?;
        let sessions = Sessions::restore(&limits, sessions, Queues::read_reply)?;
        Ok(Self { queues, sessions })
    }

    /// The entries of which a body may still be asked, in order: by a message that waits, or by the
    /// repetition of a command whose reply a session remembers.
    #[must_use]
    pub fn live_entries(&self) -> Vec<LogIndex> {
        let mut live = Vec::new();
        self.queues.live_entries(&mut live);
        let mut bodies = Vec::new();
        self.sessions.replies().for_each(|reply| Queues::bodies(reply, &mut bodies));
        live.extend(bodies.iter().map(|body| body.position.index));
        live.sort_unstable();
        live.dedup();
        live
    }

    /// All queues in the order of their names.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueInfo> {
        let mut all: Vec<QueueInfo> = Vec::new();
        loop {
            let after: Option<String> = all.last().map(|queue| queue.name.clone());
            let query = Query::List { after, max: QUEUES_PAGE };
            let Reply::Queues(page) = self.queues.query(&query.encode()) else { return all };
            let is_last = page.len() < QUEUES_PAGE as usize;
            all.extend(page);
            if is_last {
                return all;
            }
        }
    }
}

/// What is in a backup that was found whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contents {
    /// Whose it is, and of which moment.
    pub header: Header,
    /// The queues, in the order of their names.
    pub queues: Vec<QueueInfo>,
    /// Messages in all queues.
    pub messages: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Records.
    pub records: u64,
    /// Bytes of the records.
    pub record_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Reads a whole backup and checks everything about it; `read` gives the next so many bytes, and fewer
/// only where the file ends, and `tell` hears how many were read.
///
/// # Errors
/// What is wrong, and where.
pub fn check<E: core::error::Error + 'static>(
    read: impl FnMut(usize) -> Result<Bytes, E>,
    mut tell: impl FnMut(u64),
) -> Result<Contents, ReadError<E>> {
    let (mut reader, header) = Reader::open(read)?;
    let mut bytes = Vec::new();
    let mut expected = None;
    let (mut records, mut record_bytes) = (0, 0);
    loop {
        let at = reader.at();
        tell(at);
        match reader.next_section()? {
            Some(Section::State(piece)) if expected.is_none() => bytes.extend_from_slice(&piece),
            Some(Section::State(_)) => {
                let what = "a piece of the state comes after records";
                return Err(FormatError::Damaged { at, what }.into());
            }
            Some(Section::Records(found)) => {
                if expected.is_none() {
                    expected = Some(Expected::of(&header.meta, &bytes, at)?);
                }
                let expected = expected.as_mut().expect("set above");
                found.iter().try_for_each(|record| expected.take(record, at))?;
                records += found.len() as u64;
                record_bytes += found.iter().map(|record| record.bytes().len() as u64).sum::<u64>();
            }
            None => {
                let expected = match expected {
                    Some(expected) => expected,
                    None => Expected::of(&header.meta, &bytes, at)?,
                };
                expected.finish(at)?;
                let (queues, file_bytes) = (expected.state.queues(), reader.at());
                let (messages, sessions) =
                    (expected.state.queues.message_count(), expected.state.sessions.len() as u64);
                let contents = Contents {
                    header,
                    queues,
                    messages,
                    sessions,
                    records,
                    record_bytes,
                    file_bytes,
                };
                return Ok(contents);
            }
        }
    }
}

/// The records that the state wants, and how many of them were there.
struct Expected {
    state: State,
    live: Vec<LogIndex>,
    found: usize,
}

impl Expected {
    fn of(meta: &SnapshotMeta, bytes: &[u8], at: u64) -> Result<Self, FormatError> {
        let damaged = |what| FormatError::Damaged { at, what };
        let state = State::restore(meta, bytes).map_err(|error| match error {
            RestoreError::Version { version } => FormatError::Version { version },
            RestoreError::Damaged { what, .. } => damaged(what),
        })?;
        let live = state.live_entries();
        Ok(Self { state, live, found: 0 })
    }

    fn take(&mut self, record: &Record, at: u64) -> Result<(), FormatError> {
        if self.live.get(self.found) != Some(&record.index()) {
            let what = "a record is missing, or one that the state does not refer to is there";
            return Err(FormatError::Damaged { at, what });
        }
        self.found += 1;
        Ok(())
    }

    fn finish(&self, at: u64) -> Result<(), FormatError> {
        if self.found < self.live.len() {
            let what = "records are missing that the state refers to";
            return Err(FormatError::Damaged { at, what });
        }
        Ok(())
    }
}
