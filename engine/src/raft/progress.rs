//! What a leader knows of one follower, and how much it may send it.
//!
//! Pure bookkeeping; sends nothing. Next: `leader`, which does.

use super::message::Standing;
use super::snapshot::SnapshotMeta;
use crate::ids::{LogIndex, NodeId};
use crate::limits::Limits;
use crate::time::Micros;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use bincode::{Decode, Encode};

/// A follower as its leader shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct FollowerStatus {
    /// Which.
    pub node: NodeId,
    /// Its log equals the leader's up to here, durably.
    pub match_index: LogIndex,
    /// The next entry to send.
    pub next_index: LogIndex,
    /// How entries go to it.
    pub flow: FlowStatus,
    /// When it last answered, on the leader's monotonic clock; when the term began if never.
    pub responded_at: Micros,
    /// Whether it may lead, as it says.
    pub is_fit: bool,
    /// Its priority, as it says.
    pub priority: u8,
    /// Whether it has every record that its state refers to, as it says.
    pub is_complete: bool,
    /// Whether its disk is short of space, as it says.
    pub is_short: bool,
}

/// How entries go to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum FlowStatus {
    /// The leader finds out where the logs agree.
    Probe,
    /// Entries go out ahead of the answers.
    Replicate,
    /// It gets a snapshot first.
    Snapshot {
        /// Bytes that it has.
        received: u64,
        /// Bytes of the snapshot.
        total: u64,
    },
}

/// A follower as its leader sees it.
#[derive(Clone, Hash, Debug)]
pub(super) struct Progress {
    /// The follower's log equals ours up to here, durably (Figure 2: matchIndex).
    pub(super) match_index: LogIndex,
    /// The next entry to send (Figure 2: nextIndex).
    pub(super) next_index: LogIndex,
    pub(super) flow: Flow,
    /// When it last answered anything in this term.
    pub(super) responded_at: Micros,
    /// Whether it has answered at all in this term.
    pub(super) has_responded: bool,
    /// The latest read round that it confirmed.
    pub(super) confirmed_round: u64,
    /// What it said of its log in earlier rounds is true no more: its disk has lost what it matched.
    pub(super) trusted_from_round: u64,
    /// Whether entries for it are being read from the disk.
    pub(super) is_fetching: bool,
    /// Since when it has done nothing but refuse what it had matched.
    contradicts_since: Option<Micros>,
    /// What it says of itself.
    pub(super) standing: Standing,
    catch_up: CatchUp,
    /// Set once it is a member no more: until when it is told so, at the latest.
    pub(super) departs_by: Option<Micros>,
}

/// Rounds of catching up (thesis §4.2.1): whatever the log holds when a round begins must have arrived
/// within an election timeout, or the follower is too slow to count on.
#[derive(Clone, Copy, Hash, Default, Debug)]
struct CatchUp {
    goal: LogIndex,
    began_at: Micros,
    /// When a round last ended in time.
    succeeded_at: Option<Micros>,
}

/// How entries go to a follower.
#[derive(Clone, Hash, Debug)]
pub(super) enum Flow {
    /// Where its log agrees with ours is not known: one empty append at a time finds out.
    Probe,
    /// Entries are sent ahead of the answers, within a window.
    Replicate(Window),
    /// What it needs is gone; it gets a snapshot.
    Snapshot(Sending),
}

/// Appends that are not answered yet.
#[derive(Clone, Hash, Debug, Default)]
pub(super) struct Window {
    /// Last index and bytes of each.
    sent: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Window {
    fn release(&mut self, match_index: LogIndex) {
        while self.sent.front().is_some_and(|(last_index, _)| *last_index <= match_index) {
            let (_, bytes) = self.sent.pop_front().expect("the loop's condition");
            self.bytes -= bytes;
        }
    }
}

/// A snapshot on its way. Pieces are sent ahead of the answers, within a window of bytes.
#[derive(Clone, Hash, Debug)]
pub(super) struct Sending {
    /// Which.
    pub(super) meta: Box<SnapshotMeta>,
    /// The follower has this many.
    pub(super) acked: u64,
    /// What it said last, which may be less: it has restarted, or the answer was late.
    pub(super) heard: u64,
    /// This many were sent.
    pub(super) sent: u64,
    /// The piece that is being read from the disk.
    pub(super) reading: Option<u64>,
    /// When the follower last got on, or sending began anew.
    pub(super) moved_at: Micros,
    /// Whether anything has been sent since the beginning.
    pub(super) has_begun: bool,
}

impl Sending {
    pub(super) fn new(meta: SnapshotMeta, now: Micros) -> Self {
        let (acked, heard, sent, reading, has_begun) = (0, 0, 0, None, false);
        Self { meta: Box::new(meta), acked, heard, sent, reading, moved_at: now, has_begun }
    }

    /// The next piece to read, if the window has room.
    pub(super) fn next_piece(&self, limits: &Limits) -> Option<(u64, usize)> {
        let in_flight = self.sent.saturating_sub(self.acked);
        let is_done = self.sent >= self.meta.bytes && self.has_begun;
        if self.reading.is_some() || is_done || in_flight >= limits.inflight_bytes_max as u64 {
            return None;
        }
        let len = (self.meta.bytes - self.sent).min(limits.snapshot_chunk_bytes_max as u64);
        Some((self.sent, usize::try_from(len).expect("a piece fits memory")))
    }

    /// The follower lacks everything from `next_offset` on.
    pub(super) fn on_response(&mut self, next_offset: u64, now: Micros) {
        self.heard = next_offset.min(self.meta.bytes);
        if self.heard > self.acked {
            self.acked = self.heard;
            self.sent = self.sent.max(self.heard);
            self.moved_at = now;
        }
    }

    /// Nothing moved for so long that pieces must have been lost: they go again.
    pub(super) fn resend_after(&mut self, span: Micros, now: Micros) {
        if now.since(self.moved_at) >= span {
            (self.acked, self.sent, self.has_begun) = (self.heard, self.heard, false);
            self.moved_at = now;
        }
    }
}

impl Progress {
    /// At the start of a term: assume that it has everything, and find out (§5.3).
    pub(super) fn new(next_index: LogIndex, now: Micros) -> Self {
        Self {
            match_index: LogIndex::ZERO,
            next_index,
            flow: Flow::Probe,
            responded_at: now,
            has_responded: false,
            confirmed_round: 0,
            trusted_from_round: 0,
            is_fetching: false,
            contradicts_since: None,
            standing: Standing { priority: 0, is_fit: false, is_complete: false, is_short: false },
            catch_up: CatchUp::default(),
            departs_by: None,
        }
    }

    /// It, for those who watch.
    pub(super) fn status(&self, node: NodeId) -> FollowerStatus {
        FollowerStatus {
            node,
            match_index: self.match_index,
            next_index: self.next_index,
            flow: match &self.flow {
                Flow::Probe => FlowStatus::Probe,
                Flow::Replicate(_) => FlowStatus::Replicate,
                Flow::Snapshot(sending) => {
                    FlowStatus::Snapshot { received: sending.acked, total: sending.meta.bytes }
                }
            },
            responded_at: self.responded_at,
            is_fit: self.standing.is_fit,
            priority: self.standing.priority,
            is_complete: self.standing.is_complete,
            is_short: self.standing.is_short,
        }
    }

    /// Whether a further append may be sent.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        match &self.flow {
            Flow::Probe | Flow::Snapshot(_) => false,
            Flow::Replicate(window) => {
                let unanswered = self.next_index.0 - self.match_index.next().0;
                unanswered < limits.inflight_entries_max && window.bytes < limits.inflight_bytes_max
            }
        }
    }

    /// How many entries may still go out.
    pub(super) fn room_entries(&self, limits: &Limits) -> usize {
        let unanswered = self.next_index.0 - self.match_index.next().0;
        usize::try_from(limits.inflight_entries_max.saturating_sub(unanswered))
            .unwrap_or(usize::MAX)
    }

    /// Entries up to `last_index` were sent.
    pub(super) fn on_sent(&mut self, last_index: LogIndex, bytes: usize) {
        assert!(last_index >= self.next_index);
        self.next_index = last_index.next();
        if let Flow::Replicate(window) = &mut self.flow {
            window.sent.push_back((last_index, bytes));
            window.bytes += bytes;
        }
    }

    /// The follower answered.
    pub(super) fn on_response(&mut self, round: u64, standing: Standing, now: Micros) {
        self.responded_at = now;
        self.has_responded = true;
        self.confirmed_round = self.confirmed_round.max(round);
        self.standing = standing;
    }

    /// The follower has everything up to `match_index`; our log begins after `base`.
    pub(super) fn on_matched(&mut self, match_index: LogIndex, base: LogIndex) {
        self.match_index = self.match_index.max(match_index);
        self.contradicts_since = None;
        match &mut self.flow {
            Flow::Probe => {
                self.next_index = self.match_index.next();
                self.flow = Flow::Replicate(Window::default());
            }
            Flow::Replicate(window) => {
                window.release(self.match_index);
                self.next_index = self.next_index.max(self.match_index.next());
            }
            // It has the snapshot, or never needed it.
            Flow::Snapshot(_) if self.match_index >= base => {
                self.next_index = self.match_index.next();
                self.flow = Flow::Replicate(Window::default());
            }
            // It has more than was known, but not yet what the log begins with.
            Flow::Snapshot(_) => self.next_index = self.next_index.max(self.match_index.next()),
        }
    }

    /// The follower refuses an entry that it had matched in this term, though it knows of no damage, and
    /// has done nothing else for `timeout`: a single one may be an answer that was long under way. It is
    /// told, looks whether its log really has lost what it vouched for, and stops if so; if not, no harm
    /// is done.
    pub(super) fn contradicts_itself(
        &mut self,
        previous_index: LogIndex,
        timeout: Micros,
        now: Micros,
    ) -> bool {
        if previous_index > self.match_index || previous_index == LogIndex::ZERO {
            return false;
        }
        let since = *self.contradicts_since.get_or_insert(now);
        now.since(since) >= timeout
    }

    /// The follower lacks the entry at `previous_index`; it can agree with us at most up to
    /// `agreement`. Says whether the rejection is about what was sent last, or is stale.
    pub(super) fn on_rejected(&mut self, previous_index: LogIndex, agreement: LogIndex) -> bool {
        let is_stale = match self.flow {
            Flow::Probe => previous_index != self.next_index.previous(),
            Flow::Replicate(_) => previous_index >= self.next_index,
            Flow::Snapshot(_) => true,
        };
        if is_stale || previous_index <= self.match_index {
            return false;
        }
        self.flow = Flow::Probe;
        self.next_index =
            agreement.min(previous_index.previous()).next().max(self.match_index.next());
        true
    }

    /// The follower has nothing of ours after `agreement` any more. Late answers may still say that it
    /// has: only those count that have heard of `round`, which begins now.
    pub(super) fn on_lost(&mut self, agreement: LogIndex, round: u64) {
        self.match_index = agreement;
        self.trusted_from_round = round;
        if let Flow::Replicate(_) = self.flow {
            self.flow = Flow::Replicate(Window::default());
        }
    }

    /// Begins and ends rounds of catching up; `last_index` is the end of our log.
    pub(super) fn note_catch_up(&mut self, last_index: LogIndex, timeout: Micros, now: Micros) {
        if self.match_index < self.catch_up.goal || !matches!(self.flow, Flow::Replicate(_)) {
            return;
        }
        if self.catch_up.goal > LogIndex::ZERO && now.since(self.catch_up.began_at) <= timeout {
            self.catch_up.succeeded_at = Some(now);
        }
        self.catch_up.goal = last_index;
        self.catch_up.began_at = now;
    }

    /// Whether it keeps up: a round of catching up has lately ended in time.
    pub(super) fn is_caught_up(&self, timeout: Micros, now: Micros) -> bool {
        let lately = timeout + timeout;
        matches!(self.flow, Flow::Replicate(_))
            && self.catch_up.succeeded_at.is_some_and(|at| now.since(at) <= lately)
            && now.since(self.responded_at) <= timeout
    }
}
