//! A client's side of one open session: which commands are unanswered, and what to send next.
//!
//! Owns the sequences. A command keeps its sequence for ever; whatever is unanswered may be sent
//! again, from the oldest on. Next: `client` for when.

use crate::history::{Action, History, OperationId, Outcome};
use crate::oracle::{Rule, Violation};
use bytes::Bytes;
use engine::api::CommandError;
use engine::block::BlockBuilder;
use engine::ids::{LogIndex, MessageId, Sequence, SessionId};
use engine::queue::{Command, Reply};
use std::collections::VecDeque;

#[derive(Clone, Debug)]
struct Pending {
    command: Command,
    operation: OperationId,
    is_answered: bool,
}

/// An open session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    id: SessionId,
    /// The sequence of the first of `pending`.
    first: Sequence,
    /// Commands from the oldest unanswered one on.
    pending: VecDeque<Pending>,
    /// How many of `pending` are on their way.
    sent: usize,
}

/// What a block's results meant.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Finished {
    /// These commands got their replies now.
    Replies(Vec<(Command, Reply)>),
    /// An earlier command is missing: send again.
    Gap,
    /// The session is gone; these commands are without an answer.
    Expired(Vec<Command>),
}

/// A command's result with the ids of the messages that came along.
pub(super) type DecodedResult = Result<(Reply, Vec<MessageId>), CommandError>;

impl Session {
    /// A session that was just opened.
    #[must_use]
    pub(super) fn new(id: SessionId) -> Self {
        Self { id, first: Sequence(1), pending: VecDeque::new(), sent: 0 }
    }

    /// Its name.
    #[must_use]
    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// Commands without an answer, and answered ones behind them.
    #[must_use]
    pub(super) fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// Takes up a command.
    pub(super) fn invoke(
        &mut self,
        client: u64,
        now_us: u64,
        command: Command,
        history: &mut History,
    ) {
        let sequence = Sequence(self.first.0 + self.pending.len() as u64);
        let action = Action::Command(command.clone());
        let operation = history.invoke(client, now_us, Some((self.id, sequence)), action);
        self.pending.push_back(Pending { command, operation, is_answered: false });
    }

    /// Everything from the oldest unanswered command on has to be sent again.
    pub(super) fn send_again(&mut self) {
        self.sent = 0;
    }

    /// The next block of at most so many commands, if any is to be sent.
    pub(super) fn next_block(&mut self, commands_max: usize) -> Option<(Sequence, Bytes)> {
        let first = Sequence(self.first.0 + self.sent as u64);
        let mut block = BlockBuilder::commands(self.id, first, self.first);
        for pending in self.pending.iter().skip(self.sent).take(commands_max) {
            block.push_with(|out| pending.command.encode_into(out));
        }
        if block.is_empty() {
            return None;
        }
        self.sent += block.len();
        Some((first, Bytes::from(block.finish())))
    }

    /// The results of a block whose first command has the sequence `first`.
    ///
    /// # Errors
    /// [`Rule::ExactlyOnce`]: a reply was forgotten that was never acknowledged.
    pub(super) fn finish(
        &mut self,
        now_us: u64,
        first: Sequence,
        index: LogIndex,
        results: Vec<DecodedResult>,
        history: &mut History,
    ) -> Result<Finished, Violation> {
        let (mut replies, mut has_gap, mut is_expired) = (Vec::new(), false, false);
        for (sequence, result) in (first.0..).zip(results) {
            let place = sequence.checked_sub(self.first.0).and_then(|at| usize::try_from(at).ok());
            let Some(pending) = place.and_then(|place| self.pending.get_mut(place)) else {
                is_expired |= matches!(result, Err(CommandError::SessionExpired));
                continue;
            };
            if pending.is_answered {
                continue;
            }
            match result {
                Ok((reply, messages)) => {
                    pending.is_answered = true;
                    replies.push((pending.command.clone(), reply.clone()));
                    let outcome = Outcome::Replied { index, reply, messages };
                    history.conclude(pending.operation, now_us, outcome);
                }
                Err(CommandError::SequenceGap { .. }) => has_gap = true,
                Err(error @ CommandError::SessionExpired) => {
                    is_expired = true;
                    history.conclude(pending.operation, now_us, Outcome::Failed { index, error });
                }
                Err(CommandError::ReplyForgotten) => {
                    let explanation = format!(
                        "command {sequence} of session {}: its reply was forgotten at entry \
                         {index}, and the client never had it",
                        self.id
                    );
                    return Err(Violation::new(Rule::ExactlyOnce, now_us, explanation));
                }
            }
        }
        while self.pending.front().is_some_and(|pending| pending.is_answered) {
            self.pending.pop_front();
            self.first = self.first.next();
            self.sent = self.sent.saturating_sub(1);
        }
        if is_expired {
            let lost = self.pending.drain(..).filter(|pending| !pending.is_answered);
            return Ok(Finished::Expired(lost.map(|pending| pending.command).collect()));
        }
        // A gap that has been answered or sent again meanwhile needs nothing more than that.
        Ok(if has_gap && replies.is_empty() { Finished::Gap } else { Finished::Replies(replies) })
    }
}
