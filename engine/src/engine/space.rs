//! Disk space: what a node with little of it says, and when the whole cluster stops taking messages in.
//!
//! Owns this node's own judgement, the leader's judgement of the quorum, and the replicated fact that
//! follows from it. A node is *short* when the room on its disk falls below its reserve, until there is
//! twice the reserve; it tells the leader. The cluster is short when a quorum cannot be had without
//! nodes that are: what a quorum can store is what the cluster can store, so one short node of three
//! stops nobody (it is shown, and it does not lead if another can), and a second one does. The leader
//! makes that an entry of the log, and takes it back by another, so every member knows and every client
//! is told the same, under whichever leader. While it holds, commands that make the store grow are
//! refused before they enter the log. Everything else goes on, from the reserve: acknowledging and
//! deleting is how space comes back.
//!
//! Never looks at a disk. Next: `replica::space` for where the numbers come from, `raft::space` for the
//! quorum.

use super::{Effect, Engine, Event};
use crate::api::{Rejection, Room, Shortage};
use crate::block::Block;
use crate::ids::{LogIndex, Sequence};
use crate::record::{EntryKind, RecordBuilder};
use crate::state_machine::StateMachine;
use crate::time::{Micros, Now};
use crate::wire;
use alloc::format;
use alloc::vec::Vec;

/// First byte of the payload of an entry of [`EntryKind::Space`]; the rest is an `Option<Shortage>`.
const PAYLOAD_VERSION: u8 = 1;

/// The room on this node's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes that may still be written, as far as is known.
    pub free_bytes: u64,
    /// Whether the disk has just refused a write for want of space.
    pub is_refusing: bool,
}

/// What is known of space, here and in the cluster.
#[derive(Debug, Default)]
pub(super) struct SpaceWatch {
    /// This node's; `None` as long as it was not told.
    own: Option<Space>,
    is_short: bool,
    /// The replicated fact, as of the last applied entry.
    shortage: Option<Shortage>,
    /// On a leader: whether a quorum is short, and since when it seems so.
    opinion: Option<(bool, Micros)>,
    /// On a leader: the entry that it appended last to change the fact.
    appended: Option<LogIndex>,
}

impl SpaceWatch {
    /// Judges this node's own room.
    fn judge(&mut self, reserve_bytes: u64) {
        let Some(Space { free_bytes, is_refusing }) = self.own else { return };
        let enough = if self.is_short { reserve_bytes.saturating_mul(2) } else { reserve_bytes };
        self.is_short = is_refusing || free_bytes < enough;
    }

    /// Notes what the quorum looks like now.
    fn note(&mut self, is_quorum_short: Option<bool>, now: Micros) {
        let Some(is_short) = is_quorum_short else { return };
        if self.opinion.is_none_or(|(before, _)| before != is_short) {
            self.opinion = Some((is_short, now));
        }
    }

    /// The opinion of the quorum, once it has been the same for long enough: a leader that was just
    /// elected hears of its followers one by one.
    fn settled_opinion(&self, patience: Micros, now: Micros) -> Option<bool> {
        let (is_short, since) = self.opinion?;
        (now.since(since) >= patience).then_some(is_short)
    }
}

impl<S: StateMachine> Engine<S> {
    /// The disk tells how much room there is.
    pub fn set_space(&mut self, space: Space) {
        self.space.own = Some(space);
    }

    /// Whether the disk refuses to write.
    pub(super) fn is_disk_refusing(&self) -> bool {
        self.space.own.is_some_and(|space| space.is_refusing)
    }

    /// With less room than this a node is short: what is configured, and twice its newest snapshot.
    fn reserve_bytes(&self) -> u64 {
        match self.limits.reserve_bytes {
            0 => 0,
            fixed => fixed.saturating_add(self.snapshots.newest_bytes().saturating_mul(2)),
        }
    }

    /// Judges the room here, and on a leader that of the quorum.
    pub(super) fn watch_space(&mut self, now: Now) {
        let reserve_bytes = self.reserve_bytes();
        self.space.judge(reserve_bytes);
        self.raft.set_short(self.space.is_short);
        if !self.raft.is_leader() {
            (self.space.opinion, self.space.appended) = (None, None);
            return;
        }
        let is_quorum_short = self.raft.is_quorum_short(now.monotonic);
        self.space.note(is_quorum_short, now.monotonic);
    }

    /// A leader makes its opinion a fact, or takes the fact back.
    pub(super) fn append_space(&mut self, now: Now) {
        let Some(is_short) = self.space.settled_opinion(self.transfer_patience, now.monotonic)
        else {
            return;
        };
        let is_under_way = self.space.appended.is_some_and(|index| index > self.applied_index);
        let is_known = self.space.shortage.is_some() == is_short;
        if is_known || is_under_way || self.raft.transferring_to().is_some() {
            return;
        }
        let shortage = is_short.then(|| self.raft.shortage(now.monotonic));
        let mut builder = RecordBuilder::default();
        builder.payload_mut().push(PAYLOAD_VERSION);
        wire::encode_into(&shortage, builder.payload_mut());
        self.space.appended = Some(self.append(now, builder, EntryKind::Space));
    }

    /// An entry about space is committed.
    pub(super) fn apply_space(
        &mut self,
        index: LogIndex,
        payload: &[u8],
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let shortage = match payload.split_first() {
            Some((&PAYLOAD_VERSION, rest)) => {
                wire::decode::<Option<Shortage>>("a shortage", rest).map_err(|it| format!("{it}"))
            }
            Some((version, _)) => Err(format!("version {version} of an entry about space")),
            None => Err("an entry about space without a version".into()),
        };
        match shortage {
            Ok(shortage) => {
                self.space.shortage.clone_from(&shortage);
                effects.push(Effect::Event(Event::Space { shortage }));
            }
            // What it means would be skipped, and the members would differ.
            Err(error) => {
                let reason = format!("entry {index} cannot be applied: {error}; upgrade this node");
                self.fail(reason, effects);
            }
        }
    }

    /// Refuses a block that would make the store grow while it must not. A repetition of what was
    /// applied grows nothing, and its sender may learn the outcome.
    pub(super) fn check_space(&self, now: Now, block: &Block<'_>) -> Result<(), Rejection> {
        let opinion = self.space.settled_opinion(self.transfer_patience, now.monotonic);
        // Full disks cannot store the fact either: then the leader's word is enough.
        if self.space.shortage.is_none() && opinion != Some(true) {
            return Ok(());
        }
        let session = self.sessions.session(block.session);
        let expected = session.map_or(Sequence::ZERO, |session| session.expected());
        let sequences = block.first_sequence.0..;
        let mut commands = block.commands().zip(sequences);
        let grows = commands
            .any(|((_, command), sequence)| sequence >= expected.0 && self.machine.grows(command));
        if !grows {
            return Ok(());
        }
        let shortage = self.space.shortage.clone();
        Err(Rejection::NoSpace(shortage.unwrap_or_else(|| self.raft.shortage(now.monotonic))))
    }

    /// How space is, for those who watch.
    pub(super) fn room(&self) -> Room {
        Room {
            free_bytes: self.space.own.map(|space| space.free_bytes),
            reserve_bytes: self.reserve_bytes(),
            is_short: self.space.is_short,
            shortage: self.space.shortage.clone(),
        }
    }

    /// The replicated fact, for a snapshot.
    pub(super) fn shortage(&self) -> &Option<Shortage> {
        &self.space.shortage
    }

    /// The replicated fact out of a snapshot.
    pub(super) fn restore_shortage(&mut self, shortage: Option<Shortage>) {
        self.space.shortage = shortage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(free_bytes: u64) -> SpaceWatch {
        let own = Some(Space { free_bytes, is_refusing: false });
        SpaceWatch { own, ..SpaceWatch::default() }
    }

    #[test]
    fn a_node_is_short_below_the_reserve_until_there_is_twice_as_much() {
        let mut watch = watch(1_000);
        for (free_bytes, is_short) in
            [(1_000, false), (999, true), (1_500, true), (1_999, true), (2_000, false)]
        {
            watch.own = Some(Space { free_bytes, is_refusing: false });
            watch.judge(1_000);
            assert_eq!(watch.is_short, is_short, "{free_bytes}");
        }
        watch.own = Some(Space { free_bytes: 5_000, is_refusing: true });
        watch.judge(1_000);
        assert!(watch.is_short, "the disk knows better than its figures");
    }

    #[test]
    fn without_a_reserve_only_a_disk_that_refuses_is_short() {
        let mut watch = watch(0);
        watch.judge(0);
        assert!(!watch.is_short);
        watch.own = Some(Space { free_bytes: 0, is_refusing: true });
        watch.judge(0);
        assert!(watch.is_short);
    }

    #[test]
    fn an_opinion_counts_once_it_has_stayed_the_same_for_long() {
        let (mut watch, patience) = (watch(0), Micros(300));
        watch.note(Some(true), Micros(0));
        watch.note(None, Micros(100));
        assert_eq!(watch.settled_opinion(patience, Micros(299)), None);
        assert_eq!(watch.settled_opinion(patience, Micros(300)), Some(true));
        watch.note(Some(false), Micros(400));
        assert_eq!(watch.settled_opinion(patience, Micros(600)), None);
        assert_eq!(watch.settled_opinion(patience, Micros(700)), Some(false));
    }
}
