//! The window of a session: which commands are unanswered, and what to send next.
//!
//! Pure: no clock, no socket, no task. A [`Window`] numbers commands, keeps their blocks until they
//! are answered, and hands the blocks out again, in order and with the same sequences, whenever the
//! leader they were sent to is lost (Ongaro's thesis, §6.3). It never lets a command overtake an
//! earlier one: what is sent is always a prefix of what is unanswered. Next: `driver` for who calls.
//!
//! ```text
//!   answered, gone |  sent to this leader   |  to be sent      | not yet numbered
//!  ----------------+------------------------+------------------+-----------------> sequence
//!             acked below                 sent               next
//! ```
//!
//! Blocks resolve as a whole. A command whose caller has gone keeps its sequence; should its block
//! have to be sent again, a placeholder without effect takes the command's place, so that what
//! follows is not held up and nothing is done for nobody.

use bytes::Bytes;
use engine::api::{CommandError, Shortage};
use engine::block::{Block, BlockBuilder};
use engine::ids::{Sequence, SessionId};
use engine::queue::Reply;
use std::collections::VecDeque;

/// The unanswered commands of one session; `T` is a caller.
#[derive(Debug)]
pub(crate) struct Window<T> {
    session: SessionId,
    /// An encoded command that is valid and has no effect.
    placeholder: Vec<u8>,
    next: Sequence,
    blocks: VecDeque<InFlight<T>>,
    /// The first `sent` blocks are with the current leader, or answered; later ones may be
    /// answered, too, if they were before the leader was lost.
    sent: usize,
}

#[derive(Debug)]
struct InFlight<T> {
    first: Sequence,
    bytes: Bytes,
    /// One for each command; empty once answered.
    slots: Vec<Slot<T>>,
    count: u64,
    /// The number of the latest transmission, while its answer may come.
    request: Option<u64>,
    transmissions: u32,
}

#[derive(Debug)]
struct Slot<T> {
    caller: Option<T>,
    /// The command was replaced by the placeholder.
    placeholder: bool,
    /// Why a leader refused the command, if one did.
    refusal: Option<Box<Refusal>>,
}

/// Why a leader refused a command.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Refusal {
    Invalid(Reply),
    NoSpace(Shortage),
}

/// How a command of the window ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Applied; the bodies that the reply refers to, in order.
    Applied(Reply, Vec<Bytes>),
    /// Refused; it has no effect.
    Refused(Reply),
    /// Refused because disks are nearly full; it has no effect.
    NoSpace(Shortage),
    /// Applied, but nobody knows the reply.
    Forgotten,
    /// Applied, but the answer lacks bodies.
    BodiesMissing,
}

/// What an answer did to the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Commands were answered.
    Answered,
    /// The leader misses earlier commands: they are to be sent again.
    Rewound,
    /// The session is gone: take the window apart with [`Window::expire`].
    Expired,
    /// The answer is to a transmission that counts no more.
    Stale,
    /// The answer contradicts the protocol.
    Contradiction,
}

/// What became of a command when its session expired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It was never applied; its encoding, for another session.
    NeverApplied(Bytes),
    /// It was refused, and never applied.
    Refused(Ended),
    /// Nobody knows.
    Unknown,
}

impl<T> Window<T> {
    /// The window of a fresh session. `placeholder` encodes a command without effect.
    pub(crate) fn new(session: SessionId, placeholder: Vec<u8>) -> Self {
        let next = Sequence(1);
        Self { session, placeholder, next, blocks: VecDeque::new(), sent: 0 }
    }

    /// The session.
    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// All lower sequences are answered.
    pub(crate) fn acked_below(&self) -> Sequence {
        self.blocks.front().map_or(self.next, |block| block.first)
    }

    /// Sequences from the lowest unanswered one to the newest. The node remembers replies for this
    /// span, so it is what the window bounds.
    pub(crate) fn span(&self) -> usize {
        usize::try_from(self.next.0 - self.acked_below().0).expect("bounded by the window")
    }

    /// Blocks that are not answered.
    pub(crate) fn unanswered_blocks(&self) -> usize {
        self.blocks.iter().filter(|block| !block.is_answered()).count()
    }

    /// Whether every block is with the leader, so that a new one may follow.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.sent == self.blocks.len()
    }

    /// Starts a block for the next commands.
    pub(crate) fn start_block(&self) -> BlockBuilder {
        BlockBuilder::commands(self.session, self.next, self.acked_below())
    }

    /// Adds a block from [`start_block`](Self::start_block), with one caller for each command.
    pub(crate) fn push_block(&mut self, builder: BlockBuilder, callers: Vec<T>) {
        assert_eq!(builder.len(), callers.len());
        assert!(!callers.is_empty());
        let slots: Vec<Slot<T>> = callers
            .into_iter()
            .map(|caller| Slot { caller: Some(caller), placeholder: false, refusal: None })
            .collect();
        let count = slots.len() as u64;
        let first = self.next;
        self.next = Sequence(first.0 + count);
        let bytes = Bytes::from(builder.finish());
        self.blocks.push_back(InFlight {
            first,
            bytes,
            slots,
            count,
            request: None,
            transmissions: 0,
        });
    }

    /// Takes the next block to send and marks it as sent under the number `request`, which must be
    /// greater than all before it.
    pub(crate) fn transmit(&mut self, request: u64) -> Option<Bytes> {
        while self.blocks.get(self.sent).is_some_and(InFlight::is_answered) {
            self.sent += 1;
        }
        let block = self.blocks.get_mut(self.sent)?;
        if block.transmissions > 0 {
            block.replace_abandoned(&self.placeholder);
        }
        block.request = Some(request);
        block.transmissions += 1;
        self.sent += 1;
        Some(block.bytes.clone())
    }

    /// The results of a block came.
    pub(crate) fn on_applied(
        &mut self,
        request: u64,
        results: Vec<Result<Reply, CommandError>>,
        bodies: Vec<Bytes>,
        mut ended: impl FnMut(T, Ended),
    ) -> Progress {
        let Some(at) = self.position_of(request) else { return Progress::Stale };
        let block = &mut self.blocks[at];
        if results.len() as u64 != block.count {
            return Progress::Contradiction;
        }
        let first_error = |wanted: fn(&CommandError) -> bool| {
            results
                .iter()
                .filter_map(|result| result.as_ref().err())
                .find(|error| wanted(error))
                .copied()
        };
        if first_error(|error| matches!(error, CommandError::SessionExpired)).is_some() {
            return Progress::Expired;
        }
        if let Some(CommandError::SequenceGap { expected }) =
            first_error(|error| matches!(error, CommandError::SequenceGap { .. }))
        {
            return self.on_gap(at, expected);
        }
        let mut bodies = bodies.into_iter();
        for (slot, result) in std::mem::take(&mut block.slots).into_iter().zip(results) {
            let Ok(reply) = result else {
                slot.end(Ended::Forgotten, &mut ended);
                continue;
            };
            let wanted = body_count(&reply);
            let own: Vec<Bytes> = bodies.by_ref().take(wanted).collect();
            let whole = own.len() == wanted;
            slot.end(
                if whole { Ended::Applied(reply, own) } else { Ended::BodiesMissing },
                &mut ended,
            );
        }
        block.bytes = Bytes::new();
        block.request = None;
        while self.blocks.front().is_some_and(InFlight::is_answered) {
            self.blocks.pop_front();
            // An answered block may lie beyond what was sent again.
            self.sent = self.sent.saturating_sub(1);
        }
        Progress::Answered
    }

    fn on_gap(&mut self, at: usize, expected: Sequence) -> Progress {
        // Everything below the window was answered, so a leader that asks for it, or for something
        // after the block that it could not apply, is not talking about this session's history.
        if expected < self.acked_below() || expected >= self.blocks[at].first {
            return Progress::Contradiction;
        }
        self.rewind_to(expected);
        Progress::Rewound
    }

    /// A transmission was refused or lost without its outcome being known: everything from its
    /// block on is to be sent again. Returns whether the transmission still counted.
    pub(crate) fn on_undone(&mut self, request: u64) -> bool {
        let Some(at) = self.position_of(request) else { return false };
        self.rewind_to(self.blocks[at].first);
        true
    }

    /// The leader is lost: everything unanswered is to be sent again.
    pub(crate) fn rewind(&mut self) {
        self.rewind_to(Sequence::ZERO);
    }

    /// The leader refused the block of `request` because of its `command`th command. The command
    /// gives way to the placeholder, and its caller is told once that has been applied: by then it
    /// is certain that the command was not, even by an earlier leader.
    pub(crate) fn on_invalid(&mut self, request: u64, command: usize, refusal: Reply) -> Progress {
        let Some(at) = self.position_of(request) else { return Progress::Stale };
        let block = &mut self.blocks[at];
        let Some(slot) = block.slots.get_mut(command) else { return Progress::Contradiction };
        if slot.placeholder {
            return Progress::Contradiction;
        }
        slot.placeholder = true;
        slot.refusal = Some(Box::new(Refusal::Invalid(refusal)));
        block.rebuild(&self.placeholder);
        self.rewind_to(self.blocks[at].first);
        Progress::Rewound
    }

    /// The leader refused the block of `request` because space is short. All commands in the window that
    /// are `refused` give way to placeholders, as in [`on_invalid`](Self::on_invalid), so that those
    /// behind them, which may well make space, are not held up.
    pub(crate) fn on_no_space(
        &mut self,
        request: u64,
        shortage: &Shortage,
        refused: impl Fn(&[u8]) -> bool,
    ) -> Progress {
        let Some(at) = self.position_of(request) else { return Progress::Stale };
        let first = self.blocks[at].first;
        for block in self.blocks.range_mut(at..) {
            let commands = block.commands();
            for (slot, command) in block.slots.iter_mut().zip(commands) {
                if !slot.placeholder && refused(&command) {
                    slot.placeholder = true;
                    slot.refusal = Some(Box::new(Refusal::NoSpace(shortage.clone())));
                }
            }
            if !block.is_answered() {
                block.rebuild(&self.placeholder);
            }
        }
        self.rewind_to(first);
        Progress::Rewound
    }

    /// Takes the callers for whom `is_over` away. Their commands stay.
    pub(crate) fn abandon(
        &mut self,
        mut is_over: impl FnMut(&T) -> bool,
        mut ended: impl FnMut(T),
    ) {
        for slot in self.blocks.iter_mut().flat_map(|block| &mut block.slots) {
            if let Some(caller) = slot.caller.take_if(|caller| is_over(caller)) {
                ended(caller);
            }
        }
    }

    /// The callers that still wait.
    pub(crate) fn callers(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flat_map(|block| &block.slots).filter_map(|slot| slot.caller.as_ref())
    }

    /// Takes the window apart after the answer to `request` told that the session is gone. A
    /// session never comes back, so what was sent once, and not before that block, was not applied;
    /// of anything else nobody knows.
    pub(crate) fn expire(self, request: Option<u64>, mut ended: impl FnMut(T, Fate)) {
        let dead_from = request.and_then(|request| self.position_of(request)).unwrap_or(usize::MAX);
        for (at, block) in self.blocks.into_iter().enumerate() {
            let never_applied = at >= dead_from && block.transmissions <= 1;
            let commands = block.commands();
            for (slot, command) in block.slots.into_iter().zip(commands) {
                let Some(caller) = slot.caller else { continue };
                let fate = match slot.refusal {
                    Some(refusal) if never_applied => Fate::Refused(refusal.into_ended()),
                    None if never_applied => Fate::NeverApplied(command),
                    Some(_) | None => Fate::Unknown,
                };
                ended(caller, fate);
            }
        }
    }

    fn rewind_to(&mut self, sequence: Sequence) {
        let at = self.blocks.partition_point(|block| block.first.0 + block.count <= sequence.0);
        self.sent = self.sent.min(at);
        for block in self.blocks.range_mut(at..) {
            block.request = None;
        }
    }

    fn position_of(&self, request: u64) -> Option<usize> {
        self.blocks.iter().position(|block| block.request == Some(request))
    }
}

impl<T> InFlight<T> {
    fn is_answered(&self) -> bool {
        self.slots.is_empty()
    }

    fn replace_abandoned(&mut self, placeholder: &[u8]) {
        let mut changed = false;
        for slot in &mut self.slots {
            changed |= slot.caller.is_none() && !slot.placeholder;
            slot.placeholder |= slot.caller.is_none();
        }
        if changed {
            self.rebuild(placeholder);
        }
    }

    fn rebuild(&mut self, placeholder: &[u8]) {
        let block = Block::parse(&self.bytes).expect("built by a block builder");
        let mut builder = BlockBuilder::commands(block.session, self.first, block.acked_below);
        for (slot, (_, command)) in self.slots.iter().zip(block.commands()) {
            builder.push(if slot.placeholder { placeholder } else { command });
        }
        self.bytes = Bytes::from(builder.finish());
    }

    fn commands(&self) -> Vec<Bytes> {
        if self.is_answered() {
            return Vec::new();
        }
        let block = Block::parse(&self.bytes).expect("built by a block builder");
        block.commands().map(|(_, command)| self.bytes.slice_ref(command)).collect()
    }
}

impl Refusal {
    fn into_ended(self) -> Ended {
        match self {
            Self::Invalid(reply) => Ended::Refused(reply),
            Self::NoSpace(shortage) => Ended::NoSpace(shortage),
        }
    }
}

impl<T> Slot<T> {
    fn end(self, how: Ended, ended: &mut impl FnMut(T, Ended)) {
        let Some(caller) = self.caller else { return };
        // A placeholder deletes nothing; any other reply is the original's, from an earlier leader.
        let is_placeholders = matches!(how, Ended::Applied(Reply::Deleted(_), _));
        match self.refusal {
            Some(refusal) if is_placeholders => ended(caller, refusal.into_ended()),
            Some(_) | None => ended(caller, how),
        }
    }
}

/// How many bodies follow a reply.
pub(crate) fn body_count(reply: &Reply) -> usize {
    match reply {
        Reply::Received { deliveries, .. } => deliveries.len(),
        Reply::Got(found) => usize::from(found.is_some()),
        Reply::Browsed(messages) => messages.len(),
        Reply::SentOne(_)
        | Reply::SentMany(_)
        | Reply::Settled(_)
        | Reply::Deleted(_)
        | Reply::Purged(_)
        | Reply::Queues(_)
        | Reply::Available(_)
        | Reply::Configured
        | Reply::Invalid(_) => 0,
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
