//! Tells calls of the client library from the committed log.
//!
//! The library hides under which session and sequence a command went, and after which entry a read
//! was true; that is its job. The log shows all that took effect, and when. So each command that took
//! effect is matched with a call that asked for just this, was under way just then, and was answered
//! just so; each read with an entry that was the last one at some moment while it was under way, and
//! after which its answer was true. What then has a name goes into a [`History`], which the oracles
//! of all worlds judge; what cannot be explained is a violation by itself:
//!
//! - an answer without an effect was lost, or never was;
//! - a read without an entry was stale, or saw what never was;
//! - an effect without a call took place twice, or though its caller was told that it would not
//!   (found by `oracle::replay`, which misses the sender).
//!
//! Never looks at a node. Next: `matching` for the search, `oracle::check_history` for the judgement.

use super::matching::Matched;
use crate::history::{Action, CommittedLog, History, Operation, Outcome};
use crate::oracle::model::Model;
use crate::oracle::replay::blocks;
use crate::oracle::{Rule, Violation};
use engine::ids::{LogIndex, MessageId, Sequence, SessionId};
use engine::queue::{Command, Delivered, Query, Reply};
use engine::record::EntryKind;
use engine::state_machine::CommandContext;
use std::collections::BTreeMap;

/// How a call ended.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum End {
    /// With this, but for lengths of messages, which are 0.
    Answered(Reply),
    /// Rejected: it has no effect, now or later.
    NoEffect(String),
    /// Nobody knows.
    Unknown,
}

/// A call of the client library.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) client: u64,
    pub(super) action: Action,
    /// A receive that waits asks again and again: until the last time it gets nothing.
    pub(super) is_waiting: bool,
    invoked_us: u64,
    returned_us: u64,
    end: End,
}

impl Call {
    /// A call that begins.
    pub(super) fn new(client: u64, action: Action, is_waiting: bool, now_us: u64) -> Self {
        let (invoked_us, returned_us) = (now_us, u64::MAX);
        Self { client, action, is_waiting, invoked_us, returned_us, end: End::Unknown }
    }

    /// It has ended.
    pub(super) fn conclude(&mut self, now_us: u64, end: End) {
        assert!(now_us >= self.invoked_us, "no answer before its question");
        (self.returned_us, self.end) = (now_us, end);
    }

    /// Whether it was answered.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.end, End::Answered(_))
    }

    /// Whether it may take effect at a time.
    pub(super) fn is_under_way(&self, at_us: u64) -> bool {
        self.invoked_us <= at_us && at_us <= self.open_until_us()
    }

    /// Whether a command that took effect at a time with this reply, as far as it is told, may be it.
    pub(super) fn fits(&self, at_us: u64, reply: &Reply) -> bool {
        self.is_under_way(at_us)
            && match &self.end {
                End::Answered(answer) => answer == reply,
                End::Unknown => true,
                End::NoEffect(_) => false,
            }
    }

    /// Until when it may take effect: a caller that gave up does not end it.
    pub(super) fn open_until_us(&self) -> u64 {
        if self.is_answered() { self.returned_us } else { u64::MAX }
    }
}

/// A command that took effect.
#[derive(Debug)]
pub(super) struct Effect {
    /// When its entry was first applied anywhere, microseconds.
    pub(super) at_us: u64,
    pub(super) index: LogIndex,
    pub(super) name: (SessionId, Sequence),
    /// What it was.
    pub(super) command: Command,
    /// What it gave.
    pub(super) reply: Reply,
}

/// What the log has to say about calls.
struct Explanation {
    effects: Vec<Effect>,
    /// For each call that is a read: the entry after which its answer was true.
    reads: BTreeMap<usize, (LogIndex, Reply)>,
}

/// The history of calls.
///
/// # Errors
/// An answer that the log does not explain.
pub(super) fn explain(
    calls: &[Call],
    log: &CommittedLog,
    applied_us: &[u64],
    dedup_window_millis: u64,
    sessions_max: usize,
) -> Result<History, Violation> {
    let model = Model::new(dedup_window_millis, sessions_max);
    let explanation = walk(calls, log, applied_us, model)?;
    let matched = Matched::new(calls, &explanation.effects);
    for (number, call) in calls.iter().enumerate().filter(|(_, call)| call.is_answered()) {
        let is_explained = match call.action {
            Action::Command(_) => matched.effect_of(number).is_some(),
            Action::Query(_) | Action::StaleQuery(_) => explanation.reads.contains_key(&number),
        };
        if !is_explained {
            return Err(unexplained(number, call));
        }
    }
    Ok(write_history(calls, &explanation, &matched))
}

fn unexplained(number: usize, call: &Call) -> Violation {
    let Call { client, action, invoked_us, returned_us, end, .. } = call;
    let (rule, why) = match action {
        Action::Command(_) => (Rule::NothingLost, "the log has no command with this reply then"),
        Action::Query(_) | Action::StaleQuery(_) => {
            (Rule::Linearizability, "this was not true at any moment in between")
        }
    };
    let what = format!(
        "call {number} of client {client}, from {invoked_us} to {returned_us} us, {action:?}, was \
         answered {end:?}, and {why}"
    );
    Violation::new(rule, *returned_us, what)
}

/// Replays the log; asks the model the clients' questions on the way.
fn walk(
    calls: &[Call],
    log: &CommittedLog,
    applied_us: &[u64],
    mut model: Model,
) -> Result<Explanation, Violation> {
    let mut explanation = Explanation { effects: Vec::new(), reads: BTreeMap::new() };
    let mut waiting = Readers::new(calls, applied_us);
    waiting.ask(LogIndex::ZERO, &model, &mut explanation.reads);
    for (entry, at_us) in log.entries().iter().zip(applied_us) {
        model.advance(entry.stamp);
        let commands = if entry.kind == EntryKind::Commands { &entry.payload[..] } else { &[] };
        for block in blocks(commands) {
            let bad = |what| Violation::new(Rule::Integrity, *at_us, what);
            let Some((start, _, block)) = block else {
                return Err(bad(format!("entry {} holds what is no block", entry.index)));
            };
            let context = CommandContext {
                term: entry.term,
                index: entry.index,
                log_time: entry.stamp,
                offset: u32::try_from(start).expect("payloads are bounded"),
            };
            let mut effects = Vec::new();
            let applied = model.apply_block(context, &block, &mut effects);
            applied.map_err(|why| bad(format!("entry {} holds: {why}", entry.index)))?;
            explanation.effects.extend(effects.into_iter().map(|effect| Effect {
                at_us: *at_us,
                index: entry.index,
                name: (effect.session, effect.sequence),
                command: effect.command,
                reply: effect.reply,
            }));
        }
        waiting.ask(entry.index, &model, &mut explanation.reads);
    }
    Ok(explanation)
}

/// Reads that wait for an entry after which their answer was true.
struct Readers<'a> {
    /// By the earliest entry that will do, the latest first.
    later: Vec<(LogIndex, LogIndex, usize, &'a Query, &'a Reply)>,
    now: Vec<(LogIndex, usize, &'a Query, &'a Reply)>,
}

impl<'a> Readers<'a> {
    fn new(calls: &'a [Call], applied_us: &[u64]) -> Self {
        let mut later = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            let (Action::Query(query), End::Answered(reply)) = (&call.action, &call.end) else {
                continue;
            };
            // What was applied anywhere before the call must be seen; what was applied nowhere when
            // it returned cannot have been.
            let first = applied_us.partition_point(|at_us| *at_us < call.invoked_us);
            let last = applied_us.partition_point(|at_us| *at_us <= call.returned_us);
            later.push((LogIndex(first as u64), LogIndex(last as u64), number, query, reply));
        }
        later.sort_by_key(|(first, _, number, ..)| core::cmp::Reverse((*first, *number)));
        Self { later, now: Vec::new() }
    }

    /// Compares the answers with the model's after an entry.
    fn ask(
        &mut self,
        index: LogIndex,
        model: &Model,
        reads: &mut BTreeMap<usize, (LogIndex, Reply)>,
    ) {
        while self.later.last().is_some_and(|(first, ..)| *first <= index) {
            let (_, last, number, query, reply) = self.later.pop().expect("there is one");
            self.now.push((last, number, query, reply));
        }
        self.now.retain(|(last, number, query, reply)| {
            let expected = model.queues.query(query);
            let is_true = without_lengths(&expected) == **reply;
            if is_true {
                reads.insert(*number, (index, expected));
            }
            !is_true && *last > index
        });
    }
}

/// A reply with the lengths of messages, which the client library does not tell, set to 0.
pub(super) fn without_lengths(reply: &Reply) -> Reply {
    let mut reply = reply.clone();
    match &mut reply {
        Reply::Received { deliveries, .. } => {
            deliveries.iter_mut().for_each(|delivered: &mut Delivered| delivered.len = 0);
        }
        Reply::Got(found) => found.iter_mut().for_each(|browsed| browsed.len = 0),
        Reply::Browsed(found) => found.iter_mut().for_each(|browsed| browsed.len = 0),
        Reply::SentOne(_)
        | Reply::SentMany(_)
        | Reply::Settled(_)
        | Reply::Deleted(_)
        | Reply::Purged(_)
        | Reply::Queues(_)
        | Reply::Available(_)
        | Reply::Configured
        | Reply::Invalid(_) => {}
    }
    reply
}

fn write_history(calls: &[Call], explanation: &Explanation, matched: &Matched) -> History {
    let mut history = History::default();
    for (ordinal, client) in matched.others() {
        let effect = &explanation.effects[ordinal];
        history.operations.push(Operation {
            client,
            command: Some(effect.name),
            action: Action::Command(effect.command.clone()),
            // Nobody was told when it began or ended, so it precedes and follows nothing.
            invoked_us: 0,
            returned_us: u64::MAX,
            outcome: Outcome::Unknown,
        });
    }
    for (number, call) in calls.iter().enumerate() {
        let mut operation = Operation {
            client: call.client,
            command: None,
            action: call.action.clone(),
            invoked_us: call.invoked_us,
            returned_us: call.open_until_us(),
            outcome: Outcome::Unknown,
        };
        if let Some(ordinal) = matched.effect_of(number) {
            let effect = &explanation.effects[ordinal];
            operation.command = Some(effect.name);
            operation.action = Action::Command(effect.command.clone());
            operation.outcome = replied(call, effect.index, &effect.reply);
        } else if let Some((index, reply)) = explanation.reads.get(&number) {
            operation.outcome = replied(call, *index, reply);
        }
        history.operations.push(operation);
    }
    history
}

fn replied(call: &Call, index: LogIndex, reply: &Reply) -> Outcome {
    if !call.is_answered() {
        return Outcome::Unknown;
    }
    let messages: Vec<MessageId> = Vec::new();
    Outcome::Replied { index, reply: reply.clone(), messages }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(call: &Call) -> Result<History, Violation> {
        explain(core::slice::from_ref(call), &CommittedLog::default(), &[], 1_000, 10)
    }

    fn ended(action: Action, end: End) -> Call {
        let mut call = Call::new(0, action, false, 10);
        call.conclude(20, end);
        call
    }

    #[test]
    fn an_answer_to_a_command_that_is_not_in_the_log_is_lost() {
        let purge = Action::Command(Command::Purge { queue: "q".to_owned() });
        let answered = ended(purge.clone(), End::Answered(Reply::Purged(0)));
        let violation = explained(&answered).expect_err("the log is empty");
        assert_eq!(violation.rule, Rule::NothingLost);
        assert!(explained(&ended(purge.clone(), End::Unknown)).is_ok());
        assert!(explained(&ended(purge, End::NoEffect("no".to_owned()))).is_ok());
    }

    #[test]
    fn a_read_of_what_never_was_is_not_explained() {
        let get = Query::Get { queue: "q".to_owned(), id: MessageId([1; 16]) };
        let get = Action::Query(get);
        assert!(explained(&ended(get.clone(), End::Answered(Reply::Got(None)))).is_ok());
        let violation = explained(&ended(get, End::Answered(Reply::Available(true))));
        assert_eq!(violation.expect_err("the queue is empty").rule, Rule::Linearizability);
    }
}
