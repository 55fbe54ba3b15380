//! What a leader knows of one follower, and how much it may send it.
//!
//! Pure bookkeeping; sends nothing. Next: `leader`, which does.

use crate::ids::{LogIndex, NodeId};
use crate::limits::Limits;
use crate::time::Micros;
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
#[derive(Debug)]
pub(super) struct Progress {
    /// The follower's log equals ours up to here, durably (Figure 2: matchIndex).
    pub(super) match_index: LogIndex,
    /// The next entry to send (Figure 2: nextIndex).
    pub(super) next_index: LogIndex,
    pub(super) flow: Flow,
    /// When it last answered anything in this term.
    pub(super) responded_at: Micros,
    /// The latest read round that it confirmed.
    pub(super) confirmed_round: u64,
    /// Whether entries for it are being read from the disk.
    pub(super) is_fetching: bool,
}

/// How entries go to a follower.
#[derive(Debug)]
pub(super) enum Flow {
    /// Where its log agrees with ours is not known: one empty append at a time finds out.
    Probe,
    /// Entries are sent ahead of the answers, within a window.
    Replicate(Window),
}

/// Appends that are not answered yet.
#[derive(Debug, Default)]
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

impl Progress {
    /// At the start of a term: assume that it has everything, and find out (§5.3).
    pub(super) fn new(next_index: LogIndex, now: Micros) -> Self {
        Self {
            match_index: LogIndex::ZERO,
            next_index,
            flow: Flow::Probe,
            responded_at: now,
            confirmed_round: 0,
            is_fetching: false,
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
            },
            responded_at: self.responded_at,
            is_fit: true,
            priority: 0,
        }
    }

    /// Whether a further append may be sent.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        match &self.flow {
            Flow::Probe => false,
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

    /// The follower has everything up to `match_index`. Says whether that is news.
    pub(super) fn on_matched(&mut self, match_index: LogIndex) -> bool {
        let is_news = match_index > self.match_index;
        self.match_index = self.match_index.max(match_index);
        match &mut self.flow {
            Flow::Probe => {
                self.next_index = self.match_index.next();
                self.flow = Flow::Replicate(Window::default());
            }
            Flow::Replicate(window) => {
                window.release(self.match_index);
                self.next_index = self.next_index.max(self.match_index.next());
            }
        }
        is_news
    }

    /// The follower lacks the entry at `previous_index`; it can agree with us at most up to
    /// `agreement`. Says whether the rejection is about what was sent last, or is stale.
    pub(super) fn on_rejected(&mut self, previous_index: LogIndex, agreement: LogIndex) -> bool {
        let is_stale = match self.flow {
            Flow::Probe => previous_index != self.next_index.previous(),
            Flow::Replicate(_) => previous_index >= self.next_index,
        };
        if is_stale || previous_index <= self.match_index {
            return false;
        }
        self.flow = Flow::Probe;
        self.next_index =
            agreement.min(previous_index.previous()).next().max(self.match_index.next());
        true
    }
}
