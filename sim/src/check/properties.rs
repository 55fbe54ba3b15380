//! What must hold in every state: the five properties of Figure 3, nothing that was acknowledged is
//! lost, and the engine's own invariants. And what has to occur at least once, lest a check that
//! finds nothing has looked at nothing.
//!
//! Next: `model`, whose states these are about.

use super::member::{Summary, Terms};
use super::model::Group;
use super::state::{Broken, State};
use stateright::Property;
use std::sync::atomic::{AtomicBool, Ordering};

/// All that must hold in every state.
pub(super) fn all() -> Vec<Property<Group>> {
    vec![
        Property::always("election safety: one leader a term (§5.2)", |_, state: &State| {
            state.broken != Some(Broken::ElectionSafety)
        }),
        Property::always("log matching: equal entries have equal pasts (§5.3)", log_matching),
        Property::always(
            "leader completeness: a leader has all that was committed before its term (§5.4)",
            leader_completeness,
        ),
        Property::always(
            "state machine safety: one entry is committed at an index (§5.4.3)",
            |_, state: &State| state.broken != Some(Broken::StateMachineSafety),
        ),
        Property::always(
            "nothing acknowledged is lost: what was committed is on the disks of a quorum",
            nothing_lost,
        ),
        Property::always("the engine's own invariants hold", |_, state: &State| {
            state.broken != Some(Broken::Invariant)
        }),
    ]
}

/// Two logs that have an entry of one term at one index are equal up to there.
fn log_matching(group: &Group, state: &State) -> bool {
    let summaries = group.summaries(state);
    summaries.iter().enumerate().all(|(at, one)| {
        summaries[at + 1..].iter().all(|other| {
            let (one, other) = (one.log.as_slice(), other.log.as_slice());
            let agreement = one.iter().zip(other).rposition(|(a, b)| a == b);
            agreement.is_none_or(|last| one[..last] == other[..last])
        })
    })
}

fn leader_completeness(group: &Group, state: &State) -> bool {
    let (committed, committed_in) = (&state.history.committed, &state.history.committed_in);
    group.summaries(state).iter().filter(|summary| summary.is_leader).all(|leader| {
        let log = leader.log.as_slice();
        committed.as_slice().iter().zip(committed_in.as_slice()).enumerate().all(
            |(at, (term, committed_in))| *committed_in >= leader.term || log.get(at) == Some(term),
        )
    })
}

/// A quorum of those who had to agree has it for good, whatever the membership has become since.
fn nothing_lost(group: &Group, state: &State) -> bool {
    let summaries = group.summaries(state);
    state.history.committed.as_slice().iter().enumerate().all(|(at, term)| {
        let has_it = |disk: &Terms| disk.as_slice().get(at) == Some(term);
        let holders = summaries.iter().zip(1..).filter(|(summary, _)| has_it(&summary.disk));
        state.history.committed_by.have_quorum(holders.map(|(_, node)| 1 << node).sum())
    })
}

/// What a thorough check comes upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Witness {
    /// A leader of term 2 or later.
    LaterLeader,
    /// A leader that gave up its office.
    Deposed,
    /// Two members that both believe that they lead, in different terms.
    TwoLeaders,
    /// An entry was committed.
    Committed,
    /// An entry was committed in a later term than its own.
    CommittedLater,
    /// Entries were cut off a log and replaced.
    Overwritten,
    /// A crash took entries that were not durable.
    TailLost,
    /// A crash kept some of several persists.
    TornApart,
    /// A persist became durable whose entries had been replaced meanwhile.
    LateCompletion,
    /// A message arrived twice.
    Duplicated,
    /// A leader read entries back for a follower.
    Fetched,
    /// A leader made the membership joint.
    Joint,
    /// A joint membership was cut off a log.
    JointUndone,
    /// A leader ended the joint phase.
    JointLeft,
    /// A member learned that it is one no more.
    Removed,
}

impl Witness {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::LaterLeader,
        Self::Deposed,
        Self::TwoLeaders,
        Self::Committed,
        Self::CommittedLater,
        Self::Overwritten,
        Self::TailLost,
        Self::TornApart,
        Self::LateCompletion,
        Self::Duplicated,
        Self::Fetched,
        Self::Joint,
        Self::JointUndone,
        Self::JointLeft,
        Self::Removed,
    ];

    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LaterLeader => "a leader of a later term",
            Self::Deposed => "a leader deposed",
            Self::TwoLeaders => "two leaders of different terms at once",
            Self::Committed => "an entry committed",
            Self::CommittedLater => "an entry committed in a later term",
            Self::Overwritten => "an entry overwritten",
            Self::TailLost => "an unsynced tail lost in a crash",
            Self::TornApart => "a crash between two persists",
            Self::LateCompletion => "a late completion of replaced entries",
            Self::Duplicated => "a message delivered twice",
            Self::Fetched => "entries read back for a follower",
            Self::Joint => "a joint membership",
            Self::JointUndone => "a joint membership undone",
            Self::JointLeft => "a joint membership left",
            Self::Removed => "a member that knows of its removal",
        }
    }
}

/// Which have been seen.
#[derive(Debug, Default)]
pub(super) struct Witnesses([AtomicBool; Witness::ALL.len()]);

impl Witnesses {
    pub(super) fn note(&self, witness: Witness) {
        let seen = &self.0[witness as usize];
        // Read first: this is asked at every step by every thread, and changes once.
        if !seen.load(Ordering::Relaxed) {
            seen.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn seen(&self) -> Vec<Witness> {
        let is_seen = |witness: &Witness| self.0[*witness as usize].load(Ordering::Relaxed);
        Witness::ALL.into_iter().filter(is_seen).collect()
    }

    /// Takes note of what a member's change shows.
    pub(super) fn observe(&self, before: &Summary, after: &Summary) {
        if after.is_leader && after.term >= 2 {
            self.note(Witness::LaterLeader);
        }
        if before.is_leader && !after.is_leader {
            self.note(Witness::Deposed);
        }
        let was_joint = before.voters.outgoing != 0;
        if before.is_leader && after.is_leader {
            match (was_joint, after.voters.outgoing != 0) {
                (false, true) => self.note(Witness::Joint),
                (true, false) => self.note(Witness::JointLeft),
                (false, false) | (true, true) => {}
            }
        }
        if was_joint && after.log.as_slice().len() < before.log.as_slice().len() {
            self.note(Witness::JointUndone);
        }
        if after.is_removed {
            self.note(Witness::Removed);
        }
        if after.commit > before.commit {
            self.note(Witness::Committed);
            let newly =
                &after.log.as_slice()[usize::from(before.commit)..usize::from(after.commit)];
            if newly.iter().any(|term| *term < after.term) {
                self.note(Witness::CommittedLater);
            }
        }
    }
}
