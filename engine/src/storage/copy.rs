//! The log of one cluster, written for another: what `rescue` and `restore` have in common.
//!
//! Owns the order of the writing. Every record is sealed under the checksum of the new cluster, and the
//! last entry makes its one node the only member; the identity is written at the very end, so that what an
//! interrupted copy leaves is no node's directory. Never reads the source. Next: `recovery` for what a
//! start makes of it.

use super::disk::{Disk, DiskOp, FileName, JobId};
use super::error::StorageError;
use super::format::Owner;
use super::recovery::{list_nothing_but, make_first_segment, write_identity};
use super::store::Store;
use super::{HardState, Identity, IoId, Persist};
use crate::hlc::Hlc;
use crate::limits::Limits;
use crate::raft::{LogPosition, Membership, Reset, Snapshot};
use crate::record::{EntryKind, RECORD_HEADER_BYTES, Record, RecordBuilder};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// A log that is being written, all of it at once.
pub(super) struct Copy<'a, D: Disk> {
    store: Store,
    target: &'a mut D,
    identity: &'a Identity,
    io: IoId,
    hard_state: HardState,
}

impl<'a, D: Disk> Copy<'a, D> {
    /// Begins in an empty directory.
    pub(super) fn begin(
        target: &'a mut D,
        identity: &'a Identity,
        hard_state: HardState,
    ) -> Result<Self, StorageError> {
        list_nothing_but(target, |_| false)?;
        make_first_segment(target, identity)?;
        target.perform(&DiskOp::SyncDirectory)?;
        let owner = Owner::new(identity.cluster, identity.group, identity.node);
        let store = Store::empty(owner, &Limits::default());
        let hard_state = HardState { voted_for: None, ..hard_state };
        Ok(Self { store, target, identity, io: IoId(0), hard_state })
    }

    /// Lets the log begin after `base`, with a snapshot that stands for what is before.
    pub(super) fn write_snapshot(
        &mut self,
        snapshot: Snapshot,
        base: LogPosition,
    ) -> Result<(), StorageError> {
        let reset = Reset { snapshot: snapshot.meta.last.index, base };
        self.store.save_snapshot(snapshot);
        self.persist(Some(Box::new(reset)), Vec::new())
    }

    /// Writes the next entries of the log.
    pub(super) fn write(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let records = records.iter().map(|record| self.seal_anew(record)).collect();
        self.persist(None, records)
    }

    /// Writes entries from before the log's first.
    pub(super) fn archive(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.store.archive(records.iter().map(|record| self.seal_anew(record)).collect());
        self.perform_all()
    }

    /// Makes the new node the only member, in a term and at a time after all others; then the snapshot,
    /// if the log did not begin with it, and the identity.
    pub(super) fn finish(
        mut self,
        snapshot: Option<Snapshot>,
        last: LogPosition,
        last_stamp: Hlc,
    ) -> Result<(), StorageError> {
        let founder = vec![(self.identity.node, self.identity.address.clone())];
        let mut builder = RecordBuilder::default();
        builder.payload_mut().extend(Membership::founding(founder).encode());
        let (seed, group) = (self.store.record_seed(), self.identity.group);
        let (index, term, stamp) = (last.index.next(), last.term.next(), last_stamp.next());
        let only_member = builder.seal(seed, group, index, term, stamp, EntryKind::Membership);
        self.hard_state.term = term;
        self.persist(None, vec![only_member])?;
        let is_there =
            |snapshot: &Snapshot| self.store.keeps(FileName::Snapshot(snapshot.meta.last.index));
        if let Some(snapshot) = snapshot.filter(|snapshot| !is_there(snapshot)) {
            self.store.save_snapshot(snapshot);
            self.perform_all()?;
        }
        write_identity(self.target, self.identity)
    }

    fn persist(
        &mut self,
        reset: Option<Box<Reset>>,
        records: Vec<Record>,
    ) -> Result<(), StorageError> {
        self.io = IoId(self.io.0 + 1);
        let hard_state = self.hard_state;
        self.store.persist(Persist { io: self.io, hard_state, reset, records });
        self.perform_all()
    }

    fn perform_all(&mut self) -> Result<(), StorageError> {
        while let Some(job) = self.store.next_write(JobId(1)) {
            job.perform(self.target).result?;
            self.store.write_done();
        }
        Ok(())
    }

    fn seal_anew(&self, record: &Record) -> Record {
        let payload = record.payload();
        let mut builder = RecordBuilder::with_capacity(payload.len());
        builder.payload_mut().extend_from_slice(payload);
        let (index, term, hlc, kind) = (record.index(), record.term(), record.hlc(), record.kind());
        let seed = self.store.record_seed();
        let sealed = builder.seal(seed, self.identity.group, index, term, hlc, kind);
        assert_eq!(sealed.bytes().len(), RECORD_HEADER_BYTES + payload.len());
        sealed
    }
}
