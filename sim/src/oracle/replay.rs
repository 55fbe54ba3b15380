//! Replays the committed log on the reference model and compares every reply that a client got.
//!
//! The other half of linearizability in linear time (see `precedence`): replies and reads must be
//! what the model gives at the place that they revealed. Also finds commands that nobody sent,
//! answers from entries that do not exist, and sessions that were never opened.

use super::model::{BlockReply, Effect, Model};
use super::{Rule, Violation};
use crate::history::{Action, Answer, CommittedEntry, CommittedLog, History, Operation, Outcome};
use engine::block::{Block, LENGTH_BYTES};
use engine::ids::{LogIndex, Sequence, SessionId};
use engine::queue::{Command, Reply};
use engine::record::EntryKind;
use engine::state_machine::CommandContext;
use std::collections::BTreeMap;

/// Where and how a command took effect.
#[derive(Clone, PartialEq, Debug)]
pub struct PlacedEffect {
    /// The entry in which it did.
    pub index: LogIndex,
    /// What must be replied to it, now and for ever.
    pub reply: Reply,
}

/// What a replay gives.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The state after the last entry.
    pub model: Model,
    /// Every command that took effect.
    pub effects: BTreeMap<(SessionId, Sequence), PlacedEffect>,
}

/// Blocks of an entry's payload with their offsets; `None` in place of what does not parse.
pub(crate) fn blocks(payload: &[u8]) -> impl Iterator<Item = Option<(usize, &[u8], Block<'_>)>> {
    let mut at = 0;
    core::iter::from_fn(move || {
        if at >= payload.len() {
            return None;
        }
        let block = (|| {
            let len = payload.get(at..at + LENGTH_BYTES)?.try_into().ok()?;
            let start = at + LENGTH_BYTES;
            let bytes = payload.get(start..start + u32::from_le_bytes(len) as usize)?;
            Some((start, bytes, Block::parse(bytes).ok()?))
        })();
        at = block.as_ref().map_or(payload.len(), |(start, bytes, _)| start + bytes.len());
        Some(block)
    })
}

struct Replay<'a> {
    model: Model,
    effects: BTreeMap<(SessionId, Sequence), PlacedEffect>,
    operations: BTreeMap<(SessionId, Sequence), &'a Operation>,
    answers: BTreeMap<LogIndex, Vec<&'a Answer>>,
    reads: BTreeMap<LogIndex, Vec<&'a Operation>>,
    opened: Vec<SessionId>,
}

/// Replays `log` and checks all replies in `history` against it.
///
/// # Errors
/// [`Rule::Linearizability`], [`Rule::ExactlyOnce`] or [`Rule::NothingLost`] with what was replied
/// and what should have been.
pub fn replay(
    history: &History,
    log: &CommittedLog,
    dedup_window_millis: u64,
    sessions_max: usize,
) -> Result<Replayed, Violation> {
    let mut replay = Replay::new(history, dedup_window_millis, sessions_max);
    replay.check_reads(LogIndex::ZERO)?;
    for entry in log.entries() {
        replay.apply(entry)?;
        replay.check_reads(entry.index)?;
    }
    replay.check_leftovers(log)?;
    replay.check_operations(history)?;
    replay.check_sessions(history)?;
    Ok(Replayed { model: replay.model, effects: replay.effects })
}

fn violation(at_us: u64, explanation: String) -> Violation {
    Violation::new(Rule::Linearizability, at_us, explanation)
}

impl<'a> Replay<'a> {
    fn new(history: &'a History, dedup_window_millis: u64, sessions_max: usize) -> Self {
        let mut replay = Self {
            model: Model::new(dedup_window_millis, sessions_max),
            effects: BTreeMap::new(),
            operations: BTreeMap::new(),
            answers: BTreeMap::new(),
            reads: BTreeMap::new(),
            opened: Vec::new(),
        };
        for answer in &history.answers {
            replay.answers.entry(answer.index).or_default().push(answer);
        }
        for operation in &history.operations {
            if let Some(command) = operation.command {
                replay.operations.insert(command, operation);
            } else if let Some((index, _)) = operation.reply() {
                replay.reads.entry(index).or_default().push(operation);
            }
        }
        replay
    }

    fn apply(&mut self, entry: &CommittedEntry) -> Result<(), Violation> {
        self.model.advance(entry.stamp);
        let mut answers = self.answers.remove(&entry.index).unwrap_or_default();
        if entry.kind != EntryKind::Commands {
            return check_all_answered(entry.index, &answers);
        }
        for block in blocks(&entry.payload) {
            let Some((start, bytes, block)) = block else {
                let explanation = format!("entry {} holds what is no block", entry.index);
                return Err(Violation::new(Rule::Integrity, 0, explanation));
            };
            let context = CommandContext {
                term: entry.term,
                index: entry.index,
                log_time: entry.stamp,
                offset: u32::try_from(start).expect("payloads are bounded"),
            };
            let mut effects = Vec::new();
            let reply = self.model.apply_block(context, &block, &mut effects);
            let reply = reply.map_err(|invalid| {
                let explanation = format!("entry {} holds a bad command: {invalid}", entry.index);
                Violation::new(Rule::Integrity, 0, explanation)
            })?;
            for effect in effects {
                self.place(entry.index, effect)?;
            }
            match reply {
                BlockReply::Opened(session) => self.opened.push(session),
                BlockReply::Closed => {}
                // A block that came twice may stand in the entry twice: any of the two will do.
                BlockReply::Results(expected) => {
                    answers.retain(|answer| answer.block != bytes || answer.results != expected)
                }
            }
        }
        check_all_answered(entry.index, &answers)
    }

    /// Notes an effect; it must have been asked for, and once.
    fn place(&mut self, index: LogIndex, effect: Effect) -> Result<(), Violation> {
        let command = (effect.session, effect.sequence);
        let Some(operation) = self.operations.get(&command) else {
            return Err(violation(
                0,
                format!(
                    "entry {index} holds command {} of session {}, which nobody sent: {:?}",
                    effect.sequence, effect.session, effect.command
                ),
            ));
        };
        if !is_action(&operation.action, &effect.command) {
            return Err(violation(
                operation.invoked_us,
                format!(
                    "entry {index} holds another command {} of session {} than was sent: {:?}, \
                     sent was {:?}",
                    effect.sequence, effect.session, effect.command, operation.action
                ),
            ));
        }
        let placed = PlacedEffect { index, reply: effect.reply };
        match self.effects.insert(command, placed) {
            None => Ok(()),
            Some(before) => Err(Violation::new(
                Rule::ExactlyOnce,
                operation.invoked_us,
                format!(
                    "command {} of session {} took effect at entries {} and {index}",
                    effect.sequence, effect.session, before.index
                ),
            )),
        }
    }

    fn check_reads(&mut self, index: LogIndex) -> Result<(), Violation> {
        for operation in self.reads.remove(&index).unwrap_or_default() {
            let (Action::Query(query) | Action::StaleQuery(query), Some((_, reply))) =
                (&operation.action, operation.reply())
            else {
                continue;
            };
            let expected = self.model.queues.query(query);
            if *reply != expected {
                return Err(violation(
                    operation.returned_us,
                    format!(
                        "client {} read {query:?} after entry {index} and got {reply:?}; the log \
                         gives {expected:?}",
                        operation.client
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Answers and reads from entries that were never committed.
    fn check_leftovers(&self, log: &CommittedLog) -> Result<(), Violation> {
        let last = log.last_index();
        if let Some((index, answers)) = self.answers.first_key_value() {
            let explanation =
                format!("a client was answered from entry {index}; the log ends at {last}");
            return Err(Violation::new(Rule::NothingLost, answers[0].at_us, explanation));
        }
        if let Some((index, reads)) = self.reads.first_key_value() {
            let explanation =
                format!("a client read the state after entry {index}; the log ends at {last}");
            return Err(Violation::new(Rule::NothingLost, reads[0].returned_us, explanation));
        }
        Ok(())
    }

    /// Every command that was replied to must have taken effect with this very reply.
    fn check_operations(&self, history: &History) -> Result<(), Violation> {
        for operation in &history.operations {
            let (Some(command), Outcome::Replied { index, reply, .. }) =
                (operation.command, &operation.outcome)
            else {
                continue;
            };
            let (session, sequence) = command;
            match self.effects.get(&command) {
                None => {
                    return Err(Violation::new(
                        Rule::NothingLost,
                        operation.returned_us,
                        format!(
                            "command {sequence} of session {session} was answered from entry \
                             {index} and is not in the log: {:?}",
                            operation.action
                        ),
                    ));
                }
                Some(effect) if effect.reply != *reply || effect.index > *index => {
                    return Err(violation(
                        operation.returned_us,
                        format!(
                            "command {sequence} of session {session} took effect at entry {} and \
                             was answered from entry {index} with {reply:?}; the log gives {:?}",
                            effect.index, effect.reply
                        ),
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn check_sessions(&self, history: &History) -> Result<(), Violation> {
        let mut told = BTreeMap::new();
        for opened in &history.sessions {
            let (session, client) = (opened.session, opened.client);
            if !self.opened.contains(&session) {
                let explanation = format!(
                    "client {client} was given session {session}, which \
                                           the log never opened"
                );
                return Err(Violation::new(Rule::NothingLost, opened.at_us, explanation));
            }
            if let Some(other) = told.insert(session, client) {
                let explanation =
                    format!("clients {other} and {client} were both given session {session}");
                return Err(Violation::new(Rule::ExactlyOnce, opened.at_us, explanation));
            }
        }
        Ok(())
    }
}

fn check_all_answered(index: LogIndex, answers: &[&Answer]) -> Result<(), Violation> {
    match answers.first() {
        None => Ok(()),
        Some(answer) => Err(violation(
            answer.at_us,
            format!(
                "a block of {} commands was answered from entry {index} with results that the log \
                 does not give: {:?}",
                answer.results.len(),
                answer.results
            ),
        )),
    }
}

fn is_action(action: &Action, command: &Command) -> bool {
    match action {
        Action::Command(sent) => sent == command,
        Action::Query(_) | Action::StaleQuery(_) => false,
    }
}
