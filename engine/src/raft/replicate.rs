//! How entries, heartbeats and snapshots go to followers (§5.3, §7), each at the pace of its answers.
//!
//! Entries go out before they are durable here. Whatever has left the cache is read from the disk
//! without holding anything up. Next: `progress` for what a follower may be sent.

use super::message::{Body, LogPosition, Standing};
use super::progress::{Flow, Sending};
use super::role::Role;
use super::snapshot::SnapshotMeta;
use super::{Output, Raft};
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::record::Record;
use crate::time::Micros;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;

impl Raft {
    /// An empty append just before the next entry to send: as a heartbeat it also finds out that an
    /// earlier append was lost, as a probe it finds out where the logs agree.
    pub(super) fn send_heartbeat(&mut self, to: NodeId, now: Micros, out: &mut Vec<Output>) {
        self.begin_snapshot_if_needed(to, now);
        let resend_after = self.settings.election_timeout;
        let Some(progress) = self.progress_mut(to) else { return };
        let previous_index = progress.next_index.previous();
        if let Flow::Snapshot(sending) = &mut progress.flow {
            sending.resend_after(resend_after, now);
            // Whoever waits for a snapshot agrees with nobody but on the beginning of all logs.
            return self.send_append(to, LogPosition::default(), Vec::new(), out);
        }
        let previous = self.position(previous_index);
        self.send_append(to, previous, Vec::new(), out);
    }

    fn position(&self, index: LogIndex) -> LogPosition {
        LogPosition { term: self.log.term_at(index).expect("next_within_log"), index }
    }

    /// Sends what the follower's window has room for.
    pub(super) fn send_entries(&mut self, to: NodeId, now: Micros, out: &mut Vec<Output>) {
        let (base, last_index) = (self.log.base().index, self.log.last_index());
        let cache_first = self.log.cache_first();
        loop {
            let limits = &self.settings.limits;
            let Role::Leader(role) = &mut self.role else { return };
            let Some(progress) = role.progress_mut(to) else { return };
            let first = progress.next_index;
            if first <= base || matches!(progress.flow, Flow::Snapshot(_)) {
                self.begin_snapshot_if_needed(to, now);
                return self.send_snapshot(to, out);
            }
            if first > last_index || progress.is_fetching || !progress.has_room(limits) {
                return;
            }
            if first < cache_first {
                progress.is_fetching = true;
                out.push(Output::Fetch { follower: to, first });
                return;
            }
            let records_max = progress.room_entries(limits).min(limits::APPEND_RECORDS_MAX);
            let bytes_max = limits::APPEND_BYTES_TARGET.min(limits.inflight_bytes_max);
            let run = self.log.cached_run(first, records_max, bytes_max);
            self.send_records(to, run, out);
        }
    }

    /// Entries that a follower needed were read; none if they could not be.
    pub fn on_fetched(&mut self, follower: NodeId, records: Vec<Record>, out: &mut Vec<Output>) {
        let Role::Leader(role) = &mut self.role else { return };
        let Some(progress) = role.progress_mut(follower) else { return };
        progress.is_fetching = false;
        let next_index = progress.next_index;
        let is_wanted = progress.has_room(&self.settings.limits)
            && records.first().is_some_and(|record| record.index() == next_index)
            // The disk may still hold entries that were replaced since.
            && records.iter().all(|r| self.log.term_at(r.index()) == Some(r.term()))
            && self.log.base().index < next_index;
        if is_wanted {
            self.send_records(follower, records, out);
        }
    }

    fn send_records(&mut self, to: NodeId, records: Vec<Record>, out: &mut Vec<Output>) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        let (previous_index, last_index) = (first.index().previous(), last.index());
        let bytes = records.iter().map(|record| record.bytes().len()).sum();
        let Some(progress) = self.progress_mut(to) else { return };
        progress.on_sent(last_index, bytes);
        let previous = self.position(previous_index);
        self.send_append(to, previous, records, out);
    }

    fn send_append(
        &self,
        to: NodeId,
        previous: LogPosition,
        records: Vec<Record>,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(role) = &self.role else { return };
        let (commit, round) = (self.commit_index, role.reads.round);
        // Safe before our own flush: the term is durable, and a follower's acknowledgement counts
        // for the follower alone.
        self.send_now(to, Body::Append { previous, commit, round, records }, out);
    }

    /// A follower whose next entry is gone needs the newest snapshot; so does one whose snapshot
    /// leads to a place that is gone by now.
    fn begin_snapshot_if_needed(&mut self, to: NodeId, now: Micros) {
        let base = self.log.base().index;
        let Some(progress) = self.progress_mut(to) else { return };
        let is_gone = match &progress.flow {
            Flow::Probe | Flow::Replicate(_) => progress.next_index <= base,
            Flow::Snapshot(sending) => sending.meta.base.index < base,
        };
        if is_gone {
            self.begin_snapshot(to, now);
        }
    }

    fn begin_snapshot(&mut self, to: NodeId, now: Micros) {
        let meta = self.snapshot.clone().expect("what is gone from the log is in a snapshot");
        // Damage may have taken away entries that were there when it was made.
        let meta = meta.going_on_from(self.log.base());
        let Some(progress) = self.progress_mut(to) else { return };
        progress.is_fetching = false;
        progress.flow = Flow::Snapshot(Sending::new(meta, now));
    }

    /// A follower's log is damaged, and it told what it must not forget.
    pub(super) fn on_wants_snapshot(
        &mut self,
        from: NodeId,
        at_least: LogIndex,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        if self.snapshot.as_ref().is_none_or(|meta| meta.last.index < at_least) {
            return out.push(Output::WantSnapshot { at_least });
        }
        let Role::Leader(role) = &mut self.role else { return };
        let next_round = role.reads.round + 1;
        let Some(progress) = role.progress_mut(from) else { return };
        if !matches!(&progress.flow, Flow::Snapshot(sending) if sending.meta.last.index >= at_least)
        {
            // What it had matched, it has no more, and late answers may still say that it has: only
            // those count that have heard of a round which begins now.
            progress.match_index = LogIndex::ZERO;
            progress.trusted_from_round = next_round;
            role.reads.round = next_round;
            self.begin_snapshot(from, now);
        }
    }

    /// Has the next piece read that the follower's window has room for.
    fn send_snapshot(&mut self, to: NodeId, out: &mut Vec<Output>) {
        let Role::Leader(role) = &mut self.role else { return };
        let Some(progress) = role.progress_mut(to) else { return };
        let Flow::Snapshot(sending) = &mut progress.flow else { return };
        if let Some((offset, len)) = sending.next_piece(&self.settings.limits) {
            sending.reading = Some(offset);
            let index = sending.meta.last.index;
            out.push(Output::ReadSnapshot { follower: to, index, offset, len });
        }
    }

    /// A piece of the snapshot up to `index` was read; empty if that snapshot is gone.
    pub fn on_snapshot_read(
        &mut self,
        follower: NodeId,
        index: LogIndex,
        offset: u64,
        chunk: Bytes,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(role) = &mut self.role else { return };
        let round = role.reads.round;
        let Some(progress) = role.progress_mut(follower) else { return };
        let Flow::Snapshot(sending) = &mut progress.flow else { return };
        if sending.meta.last.index != index || sending.reading != Some(offset) {
            return;
        }
        sending.reading = None;
        if chunk.is_empty() && sending.meta.bytes > 0 {
            return self.begin_snapshot(follower, now);
        }
        // Answers may have come meanwhile that make this piece a repetition, or leave a gap before it.
        if offset == sending.sent {
            sending.sent += chunk.len() as u64;
            sending.has_begun = true;
            let meta: Box<SnapshotMeta> = sending.meta.clone();
            self.send_now(follower, Body::Snapshot { round, meta, offset, chunk }, out);
        }
        self.send_snapshot(follower, out);
    }

    pub(super) fn on_snapshot_response(
        &mut self,
        from: NodeId,
        (round, standing): (u64, Standing),
        last: LogPosition,
        next_offset: u64,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let Some(progress) = self.on_response(from, round, standing, now) else { return };
        if let Flow::Snapshot(sending) = &mut progress.flow
            && sending.meta.last == last
        {
            sending.on_response(next_offset, now);
        }
        self.release_reads(now, out);
        self.send_entries(from, now, out);
    }
}
