//! Pulling a backup off a member.
//!
//! Owns the order of the pull: first how new the backup must be, then the snapshot, then the records that
//! the snapshot refers to. Every piece is verified before it is written. Never touches a file: bytes go
//! to a function that the caller gives. Next: `engine::backup` for the format, and for the check of a
//! whole file.

use crate::api::Client;
use crate::call::{Ask, Caller};
use crate::error::CallError;
use crate::reader::ReadFrom;
use bytes::Bytes;
use engine::api::{BackupAnswer, BackupRequest};
use engine::backup::{Encoder, Header, State};
use engine::ids::{GroupId, LogIndex, NodeId};
use engine::limits;
use engine::queue::Query;
use engine::raft::SnapshotMeta;
use engine::record::{ChecksumSeed, Record};
use engine::time::Micros;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a member is asked again whether its snapshot is ready.
const READY_PAUSE: Duration = Duration::from_millis(50);
/// How long a member may take to save its snapshot.
const READY_MAX: Duration = Duration::from_secs(600);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A step was not answered.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The member does not get as far as the leader was when the backup began.
    #[error("node {node} has applied entries up to {applied}, the leader up to {wanted}")]
    Behind {
        /// Which.
        node: NodeId,
        /// Up to where it came.
        applied: LogIndex,
        /// What must be in the backup.
        wanted: LogIndex,
    },
    /// Its snapshot was not saved in time.
    #[error("node {node} did not save a snapshot within {} s", after.as_secs())]
    NotReady {
        /// Which.
        node: NodeId,
        /// How long it was asked.
        after: Duration,
    },
    /// The member was restarted, or got a snapshot from its leader.
    #[error(
        "node {node} has let go of what the backup was pulled from: it was restarted, or lagged"
    )]
    Gone {
        /// Which.
        node: NodeId,
    },
    /// The member lacks a record.
    #[error("node {node} does not have the record of entry {index} at this moment")]
    Absent {
        /// Which.
        node: NodeId,
        /// Of which entry.
        index: LogIndex,
    },
    /// Another backup is under way there.
    #[error(
        "another backup is being pulled from node {node}; it ends by itself {} s after its client is gone",
        left.0.div_ceil(1_000_000)
    )]
    Busy {
        /// Which.
        node: NodeId,
        /// How much of that time is left.
        left: Micros,
    },
    /// What came is not what was asked for.
    #[error("node {node} sent {what}; check that client and nodes are of compatible versions")]
    Wrong {
        /// Which.
        node: NodeId,
        /// What is wrong.
        what: String,
    },
    /// The bytes could not be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// How far a backup is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackupProgress {
    /// The member saves a snapshot.
    Preparing,
    /// So many bytes of the state are there, of so many.
    State(u64, u64),
    /// So many records are there, of so many.
    Records(u64, u64),
}

/// A backup that is being pulled from one member.
struct Pull<'a> {
    client: &'a Client,
    node: NodeId,
    backup: u64,
}

impl Client {
    /// Pulls a backup off one member, and hands its bytes to `write`, from the first to the last. All
    /// that was acknowledged before this call is in it, and of what is sent meanwhile, a beginning.
    /// `tell` hears how far it is.
    ///
    /// # Errors
    /// Why there is none; what was written until then is of no use.
    pub async fn backup(
        &self,
        node: NodeId,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
        mut tell: impl FnMut(BackupProgress),
    ) -> Result<Header, BackupError> {
        let (caller, answer) = Caller::new(self.timeout());
        let query = Query::List { after: None, max: 1 };
        let wanted = self.ask(Ask::Query { query, from: ReadFrom::Leader, caller }, answer).await?;
        let name = self.mint_id().0[..8].try_into().expect("eight bytes of sixteen");
        let pull = Pull { client: self, node, backup: u64::from_le_bytes(name) };
        let done = pull.run(wanted.at, &mut write, &mut tell).await;
        // Should this not arrive, the member lets go by itself, a little later.
        let _ended = pull.ask(BackupRequest::End { backup: pull.backup }).await;
        done
    }
}

impl Pull<'_> {
    async fn run(
        &self,
        wanted: LogIndex,
        write: &mut impl FnMut(&[u8]) -> io::Result<()>,
        tell: &mut impl FnMut(BackupProgress),
    ) -> Result<Header, BackupError> {
        let (group, meta) = self.begin(wanted, tell).await?;
        let cluster = self.client.nodes().cluster.unwrap_or_default();
        let header = Header { cluster, group, node: self.node, meta };
        let (mut encoder, bytes) = Encoder::new(&header);
        write(&bytes)?;
        let state = self.pull_state(&header.meta, &mut encoder, write, tell).await?;
        let state = State::restore(&header.meta, &state);
        let state = state.map_err(|error| self.wrong(error.to_string()))?;
        let live = state.live_entries();
        // What is left of it is the list, while the records, which may be many, are pulled.
        drop(state);
        self.pull_records(header.record_seed(), &live, &mut encoder, write, tell).await?;
        write(&encoder.finish())?;
        Ok(header)
    }

    async fn begin(
        &self,
        wanted: LogIndex,
        tell: &mut impl FnMut(BackupProgress),
    ) -> Result<(GroupId, SnapshotMeta), BackupError> {
        let (node, backup) = (self.node, self.backup);
        let begun_at = Instant::now();
        let (mut seen, mut moved_at) = (LogIndex::ZERO, begun_at);
        loop {
            tell(BackupProgress::Preparing);
            let begin = BackupRequest::Begin { backup, at_least: wanted };
            let applied = match self.ask(begin).await? {
                (BackupAnswer::Ready { group, meta }, _)
                    if meta.is_sound() && meta.last.index >= wanted =>
                {
                    return Ok((group, *meta));
                }
                (BackupAnswer::Preparing { applied }, _) => applied,
                (other, _) => return Err(self.unexpected(other)),
            };
            let now = Instant::now();
            if applied > seen {
                (seen, moved_at) = (applied, now);
            }
            if applied < wanted && now >= moved_at + self.client.timeout() {
                return Err(BackupError::Behind { node, applied, wanted });
            }
            if now >= begun_at + READY_MAX {
                return Err(BackupError::NotReady { node, after: READY_MAX });
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    async fn pull_state(
        &self,
        meta: &SnapshotMeta,
        encoder: &mut Encoder,
        write: &mut impl FnMut(&[u8]) -> io::Result<()>,
        tell: &mut impl FnMut(BackupProgress),
    ) -> Result<Vec<u8>, BackupError> {
        let mut state: Vec<u8> = Vec::new();
        while (state.len() as u64) < meta.bytes {
            tell(BackupProgress::State(state.len() as u64, meta.bytes));
            let (backup, offset) = (self.backup, state.len() as u64);
            let len = u32::try_from(limits::SNAPSHOT_CHUNK_BYTES_MAX).expect("1 MiB");
            let (answer, bodies) = self.ask(BackupRequest::State { backup, offset, len }).await?;
            let (BackupAnswer::State, [piece]) = (&answer, &bodies[..]) else {
                return Err(self.unexpected(answer));
            };
            if piece.is_empty() {
                return Err(BackupError::Gone { node: self.node });
            }
            write(&encoder.state(piece))?;
            write(piece)?;
            state.extend_from_slice(piece);
        }
        Ok(state)
    }

    async fn pull_records(
        &self,
        seed: ChecksumSeed,
        live: &[LogIndex],
        encoder: &mut Encoder,
        write: &mut impl FnMut(&[u8]) -> io::Result<()>,
        tell: &mut impl FnMut(BackupProgress),
    ) -> Result<(), BackupError> {
        let mut done = 0;
        while done < live.len() {
            tell(BackupProgress::Records(done as u64, live.len() as u64));
            let asked = &live[done..live.len().min(done + limits::BACKUP_RECORDS_MAX)];
            let (backup, indices) = (self.backup, asked.to_vec());
            let (answer, bodies) = self.ask(BackupRequest::Records { backup, indices }).await?;
            if answer != BackupAnswer::Records || bodies.is_empty() || bodies.len() > asked.len() {
                return Err(self.unexpected(answer));
            }
            for (body, index) in bodies.iter().zip(asked) {
                let mut rest = body.clone();
                let record = Record::take(seed, &mut rest);
                let is_it = record.as_ref().is_ok_and(|record| record.index() == *index);
                if !is_it || !rest.is_empty() {
                    let found = record.map_or_else(|error| error.to_string(), |_| "another".into());
                    return Err(self.wrong(format!("a wrong record for entry {index}: {found}")));
                }
            }
            write(&encoder.records(&bodies))?;
            bodies.iter().try_for_each(|body| write(body))?;
            done += bodies.len();
        }
        tell(BackupProgress::Records(done as u64, live.len() as u64));
        Ok(())
    }

    async fn ask(&self, request: BackupRequest) -> Result<(BackupAnswer, Vec<Bytes>), BackupError> {
        let (caller, answer) = Caller::new(self.client.timeout());
        let ask = Ask::Backup { node: self.node, request, caller };
        Ok(self.client.ask(ask, answer).await?)
    }

    fn wrong(&self, what: String) -> BackupError {
        BackupError::Wrong { node: self.node, what }
    }

    fn unexpected(&self, answer: BackupAnswer) -> BackupError {
        let node = self.node;
        match answer {
            BackupAnswer::Gone => BackupError::Gone { node },
            BackupAnswer::Busy { left } => BackupError::Busy { node, left },
            BackupAnswer::Absent { index } => BackupError::Absent { node, index },
            BackupAnswer::Preparing { .. }
            | BackupAnswer::Ready { .. }
            | BackupAnswer::State
            | BackupAnswer::Records
            | BackupAnswer::Ended => self.wrong("an answer to something else".to_owned()),
        }
    }
}
