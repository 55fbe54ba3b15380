//! A cluster of one, out of what one member of a lost cluster has.
//!
//! Owns the reading: the whole log, what it has left behind, and the newest snapshot. Never
//! writes to the source, and never decides that a quorum is lost: that is a person's to say. Every
//! record's checksum is bound to its cluster, so nothing of the old members ever passes in the new one,
//! and two clusters never grow from one. Next: `recovery` for what an interrupted copy leaves.

use super::copy::Copy;
use super::disk::{Disk, DiskError, DiskOp, FileName, JobId};
use super::error::StorageError;
use super::store::Store;
use super::{HardState, Identity, Recovered};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, NodeId, Term};
use crate::limits::Limits;
use crate::raft::{LogPosition, Membership};
use crate::record::Record;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// Bytes that are read and written at a time.
const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// Why a lost cluster cannot be rescued from a directory.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RescueError {
    /// One of the directories cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node was still receiving the log from a leader.
    #[error(
        "this node has a snapshot up to entry {snapshot}, but the log that belongs to it only up to \
         entry {last}: it was still being brought up to date, and messages would be missing; choose \
         another member's directory"
    )]
    Unfinished {
        /// The last entry in the snapshot.
        snapshot: LogIndex,
        /// The last entry in the log.
        last: LogIndex,
    },
    /// The node lacks an entry.
    #[error(
        "entry {index} is missing here and would be lost, as its members would have repaired it: \
         choose another member's directory"
    )]
    Missing {
        /// Which.
        index: LogIndex,
    },
    /// The disk has lost entries that the node had.
    #[error(
        "the disk of this node has damaged entries after {last}, of which it had {vouched}: messages \
         would be missing; choose another member's directory"
    )]
    Damaged {
        /// The last entry before the damage.
        last: LogIndex,
        /// The last that it had.
        vouched: LogIndex,
    },
}

impl From<DiskError> for RescueError {
    fn from(error: DiskError) -> Self {
        Self::Storage(error.into())
    }
}

/// What a directory has, for whoever decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Findings {
    /// Whose it is.
    pub identity: Identity,
    /// Term, vote and known commit index.
    pub hard_state: HardState,
    /// The last entry: among several members, take the one with the greatest.
    pub last: LogPosition,
    /// The last entry's stamp; that of the snapshot if it is later.
    pub last_stamp: Hlc,
    /// The last entry that only the snapshot stands for.
    pub base: LogIndex,
    /// The last entry in the newest snapshot; 0 without one.
    pub snapshot: LogIndex,
    /// The newest membership that the node has seen.
    pub membership: Membership,
}

impl Findings {
    /// Where the node was reached, as far as it knows.
    #[must_use]
    pub fn address(&self) -> String {
        let own = self.membership.member(self.identity.node);
        own.map_or_else(|| self.identity.address.clone(), |member| member.address.clone())
    }
}

/// One member's directory, opened without writing to it.
#[derive(Debug)]
pub struct Rescue<'a, D: Disk> {
    disk: ReadOnly<'a, D>,
    store: Store,
    recovered: Recovered,
    findings: Findings,
}

impl<'a, D: Disk> Rescue<'a, D> {
    /// Reads a directory: its log, with every check of an ordinary start. A torn tail is left out.
    ///
    /// # Errors
    /// As an ordinary start of the node.
    pub fn open(disk: &'a mut D) -> Result<Self, StorageError> {
        let mut disk = ReadOnly(disk);
        let identity = Store::read_identity(&mut disk)?;
        let (cluster, group, node) = (identity.cluster, identity.group, identity.node);
        let limits = Limits::default();
        let (store, recovered) = Store::open(&mut disk, cluster, group, node, &limits)?;
        let meta = recovered.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let in_log = recovered.memberships.last().map(|(_, membership)| membership.clone());
        let membership = in_log
            .or_else(|| meta.map(|meta| meta.membership.1.clone()))
            .unwrap_or_else(|| Membership::founding(identity.members.clone()));
        let term = recovered.term_runs.last().map_or(Term::ZERO, |(_, term)| *term);
        let findings = Findings {
            identity,
            hard_state: recovered.hard_state,
            last: LogPosition { term, index: recovered.last_index },
            last_stamp: meta.map_or(Hlc::ZERO, |meta| meta.stamp).max(recovered.last_stamp),
            base: recovered.base.index,
            snapshot: meta.map_or(LogIndex::ZERO, |meta| meta.last.index),
            membership,
        };
        Ok(Self { disk, store, recovered, findings })
    }

    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The id of the one member of the new cluster: none that the old one ever gave out.
    #[must_use]
    pub fn next_node(&self) -> NodeId {
        self.findings.membership.node_last().max(self.findings.identity.node).next()
    }

    /// Copies everything to an empty directory under a new identity, whose node becomes the only
    /// member with one last entry. `tell` hears of each entry up to which the copy has come.
    ///
    /// The identity is written last: what an interrupted copy leaves is no node's directory.
    ///
    /// # Errors
    /// [`RescueError::Unfinished`]; [`RescueError::Missing`]; [`StorageError::NotEmpty`]; [`StorageError::Unreadable`]; a disk
    /// failed.
    ///
    /// # Panics
    /// If the new identity has the old cluster's id.
    pub fn copy(
        &mut self,
        target: &mut impl Disk,
        identity: &Identity,
        mut tell: impl FnMut(LogIndex),
    ) -> Result<(), RescueError> {
        assert_ne!(identity.cluster, self.findings.identity.cluster, "a cluster of its own");
        let (snapshot, last) = (self.findings.snapshot, self.findings.last.index);
        if snapshot > last {
            return Err(RescueError::Unfinished { snapshot, last });
        }
        if self.recovered.vouched > LogPosition::default() {
            return Err(RescueError::Damaged { last, vouched: self.recovered.vouched.index });
        }
        let mut copy = Copy::begin(target, identity, self.findings.hard_state)?;
        match &self.recovered.snapshot {
            // Where the old log does not begin with the first entry, the new one begins with the snapshot.
            Some(snapshot) if self.recovered.base.index > LogIndex::ZERO => {
                copy.write_snapshot(snapshot.clone(), self.recovered.base)?;
                self.copy_archive(&mut copy, &mut tell)?;
            }
            Some(_) | None => {}
        }
        let mut next = self.recovered.base.index.next();
        while next <= last {
            let records = self.read(next, last.next())?;
            next = records.last().map_or(last, Record::index).next();
            copy.write(&records)?;
            tell(next.previous());
        }
        let term = self.findings.hard_state.term.max(self.findings.last.term);
        let last = LogPosition { term, index: last };
        copy.finish(self.recovered.snapshot.clone(), last, self.findings.last_stamp)?;
        Ok(())
    }

    /// What lies before the log's first entry: which of it is still wanted, the new node knows once it
    /// has the state.
    fn copy_archive<T: Disk>(
        &mut self,
        copy: &mut Copy<'_, T>,
        tell: &mut impl FnMut(LogIndex),
    ) -> Result<(), RescueError> {
        let archived: Vec<LogIndex> = self.store.archived().collect();
        let (mut records, mut bytes) = (Vec::new(), 0);
        for index in archived {
            let read = self.read(index, index.next())?;
            bytes += read.iter().map(|record| record.bytes().len()).sum::<usize>();
            records.extend(read);
            if bytes >= PIECE_BYTES {
                copy.archive(&core::mem::take(&mut records))?;
                bytes = 0;
                tell(index);
            }
        }
        copy.archive(&records)?;
        Ok(())
    }

    fn read(&mut self, first: LogIndex, end: LogIndex) -> Result<Vec<Record>, RescueError> {
        let plan = self.store.plan_read(first, end, PIECE_BYTES, JobId(1));
        let (job, plan) = plan.ok_or(RescueError::Missing { index: first })?;
        let reads = job.perform(&mut self.disk).result?;
        Ok(plan.decode(self.store.record_seed(), &reads)?)
    }
}

/// A disk whose files stay as they are, whatever is asked.
#[derive(Debug)]
pub(super) struct ReadOnly<'a, D>(pub(super) &'a mut D);

impl<D: Disk> Disk for ReadOnly<'_, D> {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        self.0.list()
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError> {
        match op {
            DiskOp::Read { .. } | DiskOp::Space => self.0.perform(op),
            DiskOp::Write { .. }
            | DiskOp::Truncate { .. }
            | DiskOp::Sync { .. }
            | DiskOp::SyncDirectory
            | DiskOp::Rename { .. }
            | DiskOp::Delete { .. } => Ok(Bytes::new()),
        }
    }
}
