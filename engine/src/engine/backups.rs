//! Serving a backup: the member's side of the pull.
//!
//! Owns the pin, which holds back whatever would take from under a backup the snapshot and the records
//! that it consists of: while there is one, no further snapshot is made and nothing is purged or
//! released. It goes when its client says so, or has asked for nothing for [`limits::BACKUP_PATIENCE`];
//! and with an installed snapshot, which takes the place of all of it. Never believes a client: a pull
//! is bounded in number and bytes, and of a record that is not here it only says so.
//!
//! Next: `crate::backup` for what the client makes of it, `bodies` for the reads.

use super::{Effect, Engine};
use crate::api::{BackupAnswer, BackupRequest, Bounded, Rejection, Response, Token};
use crate::ids::LogIndex;
use crate::limits;
use crate::record::{RECORD_HEADER_BYTES, Record};
use crate::state_machine::StateMachine;
use crate::time::{Micros, Now};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// Pulls that may wait for the disk. A client has one; more come of connections that broke.
const PULLS_MAX: usize = 4;

/// The backup that is being pulled, if there is one.
#[derive(Debug, Default)]
pub(super) struct Backups {
    pin: Option<Pin>,
    pulls: BTreeMap<u64, Pull>,
    last_pull: u64,
}

#[derive(Debug)]
struct Pin {
    backup: u64,
    /// The snapshot has at least this entry. It was the last one applied when the pin was set, so of
    /// what the snapshot refers to nothing was let go before.
    wanted: LogIndex,
    until: Micros,
}

/// A pull that waits for the disk.
#[derive(Debug)]
struct Pull {
    token: Token,
    /// Records that are not read yet.
    left: VecDeque<LogIndex>,
    found: Vec<Bytes>,
    bytes: usize,
}

impl Pull {
    /// Takes the next record, unless there would be too many bytes of them for one answer. A single
    /// record never is too large for one.
    fn take(&mut self, record: &Record) -> bool {
        let bytes = self.bytes + record.bytes().len();
        let has_room = self.found.is_empty() || bytes <= limits::DELIVERY_BYTES_TARGET;
        if self.left.front() != Some(&record.index()) || !has_room {
            return false;
        }
        self.left.pop_front();
        self.bytes = bytes;
        self.found.push(record.bytes().clone());
        true
    }
}

const _: () = assert!(
    RECORD_HEADER_BYTES + limits::RECORD_PAYLOAD_BYTES_MAX + 1024 <= limits::FRAME_BYTES_MAX
);

impl Backups {
    pub(super) fn is_any(&self) -> bool {
        self.pin.is_some()
    }

    /// Whether a snapshot must be made now, or, for the sake of one that is pulled, must not; none if
    /// there is no backup.
    pub(super) fn wants_snapshot(&self, newest: LogIndex) -> Option<bool> {
        self.pin.as_ref().map(|pin| newest < pin.wanted)
    }

    pub(super) fn waiting(&self) -> usize {
        self.pulls.len()
    }

    /// Lets go of what nobody has asked for in time.
    pub(super) fn expire(&mut self, now: Micros) {
        self.pin.take_if(|pin| pin.until <= now);
    }

    /// Whether this is the backup that is being pulled; then it goes on for a while.
    fn touch(&mut self, backup: u64, now: Micros) -> bool {
        match self.pin.as_mut().filter(|pin| pin.backup == backup) {
            Some(pin) => {
                pin.until = now + limits::BACKUP_PATIENCE;
                true
            }
            None => false,
        }
    }
}

fn answered<R>(answer: BackupAnswer) -> Response<R> {
    Response::Backup { answer, bodies: Vec::new() }
}

impl<S: StateMachine> Engine<S> {
    /// Serves a step of a backup: answers at once with the error, or when the disk has brought what is
    /// asked for.
    pub(super) fn backup(
        &mut self,
        now: Now,
        token: Token,
        request: BackupRequest,
        effects: &mut Vec<Effect<S::Reply>>,
    ) -> Result<(), Response<S::Reply>> {
        let now = now.monotonic;
        self.backups.expire(now);
        match request {
            BackupRequest::Begin { backup, at_least } => {
                Err(answered(self.begin_backup(now, backup, at_least)))
            }
            BackupRequest::End { backup } => {
                self.backups.pin.take_if(|pin| pin.backup == backup);
                Err(answered(BackupAnswer::Ended))
            }
            BackupRequest::State { backup, offset, len } => {
                let index = self.backup_index(now, backup).map_err(answered)?;
                let pull = self.begin_pull(token, VecDeque::new())?;
                let len = (len as usize).min(limits::SNAPSHOT_CHUNK_BYTES_MAX);
                self.read_state_for_backup(pull, (index, offset, len), effects);
                Ok(())
            }
            BackupRequest::Records { backup, indices } => {
                let last = self.backup_index(now, backup).map_err(answered)?;
                let is_in_order = indices.is_sorted_by(|a, b| a < b);
                let is_within = indices.last().is_some_and(|index| *index <= last);
                if !is_in_order || !is_within || indices.len() > limits::BACKUP_RECORDS_MAX {
                    let reason = "records of a backup are asked for in order, and few at a time";
                    let rejection = Rejection::Malformed { reason: reason.into() };
                    return Err(Response::Rejected(rejection));
                }
                let pull = self.begin_pull(token, indices.into())?;
                self.go_on_with_pull(pull, effects);
                Ok(())
            }
        }
    }

    /// Sets the pin once everything that must be in the backup is applied here; ready when there is a
    /// snapshot that was made since.
    fn begin_backup(&mut self, now: Micros, backup: u64, at_least: LogIndex) -> BackupAnswer {
        if let Some(pin) = self.backups.pin.as_ref().filter(|pin| pin.backup != backup) {
            return BackupAnswer::Busy { left: pin.until.since(now) };
        }
        let preparing = BackupAnswer::Preparing { applied: self.applied_index };
        if self.applied_index < at_least {
            return preparing;
        }
        if !self.backups.touch(backup, now) {
            let until = now + limits::BACKUP_PATIENCE;
            self.backups.pin = Some(Pin { backup, wanted: self.applied_index, until });
        }
        let wanted = self.backups.pin.as_ref().map_or(at_least, |pin| pin.wanted);
        match self.raft.snapshot().filter(|meta| meta.last.index >= wanted) {
            Some(meta) => BackupAnswer::Ready { group: self.group, meta: Box::new(meta.clone()) },
            None => preparing,
        }
    }

    /// The last entry in the snapshot that this backup is pulled from.
    fn backup_index(&mut self, now: Micros, backup: u64) -> Result<LogIndex, BackupAnswer> {
        if !self.backups.touch(backup, now) {
            return Err(BackupAnswer::Gone);
        }
        let wanted = self.backups.pin.as_ref().map(|pin| pin.wanted);
        let newest = self.raft.snapshot().map(|meta| meta.last.index);
        newest.filter(|newest| Some(*newest) >= wanted).ok_or(BackupAnswer::Gone)
    }

    fn begin_pull(
        &mut self,
        token: Token,
        left: VecDeque<LogIndex>,
    ) -> Result<u64, Response<S::Reply>> {
        if self.backups.pulls.len() >= PULLS_MAX {
            let (what, max) = (Bounded::WaitingRequests, PULLS_MAX as u64);
            return Err(Response::Rejected(Rejection::Full { what, used: max, max }));
        }
        self.backups.last_pull += 1;
        let pull = Pull { token, left, found: Vec::new(), bytes: 0 };
        self.backups.pulls.insert(self.backups.last_pull, pull);
        Ok(self.backups.last_pull)
    }

    /// Reads the next run of records, or answers with what there is.
    fn go_on_with_pull(&mut self, number: u64, effects: &mut Vec<Effect<S::Reply>>) {
        let Some(pull) = self.backups.pulls.get_mut(&number) else { return };
        let mut is_full = false;
        while let Some(record) = pull.left.front().and_then(|index| self.raft.cached(*index)) {
            is_full = !pull.take(record);
            if is_full {
                break;
            }
        }
        let room = limits::DELIVERY_BYTES_TARGET.saturating_sub(pull.bytes);
        let Some(first) = pull.left.front().copied().filter(|_| room > 0 && !is_full) else {
            return self.end_pull(number, BackupAnswer::Records, effects);
        };
        let mut end = first.next();
        while pull.left.get((end.0 - first.0) as usize) == Some(&end) {
            end = end.next();
        }
        self.fetch_for_backup(number, (first, end, room), effects);
    }

    pub(super) fn on_backup_fetched(
        &mut self,
        number: u64,
        records: Vec<Record>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let Some(pull) = self.backups.pulls.get_mut(&number) else { return };
        let is_any = !records.is_empty();
        if is_any && records.iter().all(|record| pull.take(record)) {
            return self.go_on_with_pull(number, effects);
        }
        // What is not here may be on its way from another member, which is asked for it as well.
        let absent = pull.left.front().copied().filter(|_| pull.found.is_empty());
        let answer = absent.map_or(BackupAnswer::Records, |index| BackupAnswer::Absent { index });
        self.end_pull(number, answer, effects);
    }

    pub(super) fn on_backup_state(
        &mut self,
        number: u64,
        bytes: Bytes,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        if let Some(pull) = self.backups.pulls.get_mut(&number) {
            pull.found = vec![bytes];
            self.end_pull(number, BackupAnswer::State, effects);
        }
    }

    /// A leader's snapshot takes the place of everything that a backup was pulled from.
    pub(super) fn abandon_backup(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        self.backups.pin = None;
        for pull in core::mem::take(&mut self.backups.pulls).into_values() {
            let response = answered(BackupAnswer::Gone);
            effects.push(Effect::Respond { token: pull.token, response });
        }
    }

    fn end_pull(&mut self, number: u64, answer: BackupAnswer, effects: &mut Vec<Effect<S::Reply>>) {
        let Some(Pull { token, found: bodies, .. }) = self.backups.pulls.remove(&number) else {
            return;
        };
        effects.push(Effect::Respond { token, response: Response::Backup { answer, bodies } });
    }
}
