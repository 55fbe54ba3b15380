//! Linearizability by search (Wing and Gong, 1993; Lowe's memoisation, 2017), for small histories.
//!
//! The cross-check of `precedence` and `replay`: it knows nothing of logs, entries or positions, only
//! of ids that go into queues and come out, and tries every order that real time allows. Exponential
//! in the number of concurrent operations, so it refuses long histories. Covers sends, takes, browses,
//! deletes and purges; leases end by log time, which a history does not show.

use crate::history::{Action, History, Outcome};
use engine::ids::MessageId;
use engine::queue::{Command, Query, ReceiveMode, Reply};
use std::collections::{BTreeMap, BTreeSet};

/// Longest history that is searched.
pub const OPERATIONS_MAX: usize = 64;

/// What was asked, without what only a log knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Send messages with these ids to these queues.
    Send(Vec<(String, MessageId)>),
    /// Take the oldest.
    Take {
        /// From where.
        queue: String,
        /// At most.
        max: usize,
    },
    /// See the oldest.
    Browse {
        /// Where.
        queue: String,
        /// At most.
        max: usize,
    },
    /// Remove these.
    Delete {
        /// From where.
        queue: String,
        /// Which.
        ids: Vec<MessageId>,
    },
    /// Remove all.
    Purge {
        /// From where.
        queue: String,
    },
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// For each message whether its id was known.
    Duplicates(Vec<bool>),
    /// These came, in this order.
    Messages(Vec<MessageId>),
    /// For each id whether it was there.
    Deleted(Vec<bool>),
    /// So many were removed.
    Purged(u64),
}

/// An operation to be placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When it was invoked.
    pub invoked_us: u64,
    /// When it returned; `u64::MAX` if its outcome is unknown, and then it may never take effect.
    pub returned_us: u64,
    /// What was asked.
    pub question: Question,
    /// What was answered, if it was.
    pub told: Option<Told>,
}

/// Queues of ids.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Ids {
    known: BTreeSet<MessageId>,
    queues: BTreeMap<String, Vec<MessageId>>,
}

impl Ids {
    fn apply(&mut self, question: &Question) -> Told {
        let empty = Vec::new();
        match question {
            Question::Send(messages) => Told::Duplicates(
                messages
                    .iter()
                    .map(|(queue, id)| {
                        let is_new = self.known.insert(*id);
                        if is_new {
                            self.queues.entry(queue.clone()).or_default().push(*id);
                        }
                        !is_new
                    })
                    .collect(),
            ),
            Question::Take { queue, max } => {
                let ids = self.queues.entry(queue.clone()).or_default();
                Told::Messages(ids.drain(..ids.len().min(*max)).collect())
            }
            Question::Browse { queue, max } => {
                let ids = self.queues.get(queue).unwrap_or(&empty);
                Told::Messages(ids.iter().take(*max).copied().collect())
            }
            Question::Delete { queue, ids } => {
                let waiting = self.queues.entry(queue.clone()).or_default();
                let delete = |id: &MessageId| {
                    let at = waiting.iter().position(|other| other == id);
                    at.map(|at| waiting.remove(at)).is_some()
                };
                Told::Deleted(ids.iter().map(delete).collect())
            }
            Question::Purge { queue } => {
                let ids = self.queues.entry(queue.clone()).or_default();
                let count = ids.len() as u64;
                ids.clear();
                Told::Purged(count)
            }
        }
    }
}

/// The operations of a history as this search sees them, if it can: none of them leases anything,
/// and there are not too many.
#[must_use]
pub fn events(history: &History) -> Option<Vec<Event>> {
    let events = history.operations.iter().map(|operation| {
        let question = question(&operation.action)?;
        let (told, returned_us) = match &operation.outcome {
            Outcome::Unknown | Outcome::Failed { .. } => (None, u64::MAX),
            Outcome::Replied { reply, messages, .. } => {
                (Some(told(reply, messages)?), operation.returned_us)
            }
        };
        Some(Event { invoked_us: operation.invoked_us, returned_us, question, told })
    });
    let events: Vec<Event> = events.collect::<Option<_>>()?;
    (events.len() <= OPERATIONS_MAX).then_some(events)
}

fn question(action: &Action) -> Option<Question> {
    match action {
        Action::Command(Command::Send { messages }) => Some(Question::Send(
            messages.iter().map(|message| (message.to.clone(), message.id)).collect(),
        )),
        Action::Command(Command::Receive { queue, max, mode: ReceiveMode::Take }) => {
            Some(Question::Take { queue: queue.clone(), max: *max as usize })
        }
        Action::Command(Command::Delete { queue, ids }) => {
            Some(Question::Delete { queue: queue.clone(), ids: ids.clone() })
        }
        Action::Command(Command::Purge { queue }) => Some(Question::Purge { queue: queue.clone() }),
        Action::Query(Query::Browse { queue, after: None, max }) => {
            Some(Question::Browse { queue: queue.clone(), max: *max as usize })
        }
        Action::Command(
            Command::Receive { mode: ReceiveMode::Lease { .. }, .. }
            | Command::Acknowledge { .. }
            | Command::Nack { .. }
            | Command::Extend { .. }
            | Command::Configure { .. },
        )
        | Action::Query(
            Query::Get { .. } | Query::Browse { .. } | Query::List { .. } | Query::Available { .. },
        )
        | Action::StaleQuery(_) => None,
    }
}

fn told(reply: &Reply, messages: &[MessageId]) -> Option<Told> {
    match reply {
        Reply::SentOne(sent) => Some(Told::Duplicates(vec![sent.duplicate])),
        Reply::SentMany(sent) => {
            Some(Told::Duplicates(sent.iter().map(|sent| sent.duplicate).collect()))
        }
        Reply::Received { .. } | Reply::Browsed(_) => Some(Told::Messages(messages.to_vec())),
        Reply::Deleted(deleted) => Some(Told::Deleted(deleted.clone())),
        Reply::Purged(count) => Some(Told::Purged(*count)),
        Reply::Settled(_)
        | Reply::Got(_)
        | Reply::Queues(_)
        | Reply::Available(_)
        | Reply::Configured
        | Reply::Invalid(_) => None,
    }
}

/// Whether some order of the events respects real time and explains every answer.
///
/// # Panics
/// If there are more than [`OPERATIONS_MAX`] events.
#[must_use]
pub fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() <= OPERATIONS_MAX, "{} events are too many to search", events.len());
    let answered = events.iter().enumerate().filter(|(_, event)| event.told.is_some());
    let goal = answered.fold(0_u64, |mask, (ordinal, _)| mask | 1 << ordinal);
    let mut seen: BTreeSet<(u64, Ids)> = BTreeSet::new();
    let mut open = vec![(0_u64, Ids::default())];
    while let Some((placed, ids)) = open.pop() {
        if placed & goal == goal {
            return true;
        }
        let is_open = |ordinal: usize| placed >> ordinal & 1 == 0;
        // Whatever comes next must have been invoked before anything unplaced returned.
        let unplaced = events.iter().enumerate().filter(|(ordinal, _)| is_open(*ordinal));
        let horizon = unplaced.clone().map(|(_, event)| event.returned_us).min();
        for (ordinal, event) in unplaced {
            if Some(event.invoked_us) > horizon {
                continue;
            }
            let mut next = ids.clone();
            let would_tell = next.apply(&event.question);
            if event.told.as_ref().is_some_and(|told| *told != would_tell) {
                continue;
            }
            let state = (placed | 1 << ordinal, next);
            if seen.insert(state.clone()) {
                open.push(state);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Stream;

    fn id(number: u64) -> MessageId {
        MessageId(u128::from(number).to_le_bytes())
    }

    /// A history of overlapping operations that is linearizable because it was made in one order.
    fn good_history(seed: u64) -> Vec<Event> {
        let mut stream = Stream::new(seed, "history");
        let mut ids = Ids::default();
        let mut events = Vec::new();
        for at in 1..=stream.between(4, 14) {
            let queue = format!("q{}", stream.between(0, 1));
            let max = stream.between(1, 3) as usize;
            let question = match stream.between(0, 5) {
                0..=2 => Question::Send(vec![(queue, id(stream.between(1, 12)))]),
                3 => Question::Take { queue, max },
                4 => Question::Browse { queue, max },
                _ => Question::Delete { queue, ids: vec![id(stream.between(1, 12))] },
            };
            let is_lost = stream.one_in(8);
            let told = if is_lost && stream.one_in(2) { None } else { Some(ids.apply(&question)) };
            let event = Event {
                invoked_us: (at * 100).saturating_sub(stream.between(0, 250)),
                returned_us: if is_lost { u64::MAX } else { at * 100 + stream.between(0, 250) },
                question,
                told: told.filter(|_| !is_lost),
            };
            events.push(event);
        }
        events.sort_by_key(|event| event.invoked_us);
        events
    }

    #[test]
    fn histories_made_in_one_order_are_linearizable() {
        for seed in 0..300 {
            let events = good_history(seed);
            assert!(is_linearizable(&events), "seed {seed}: {events:#?}");
        }
    }

    #[test]
    fn a_message_from_nowhere_is_noticed_in_every_history() {
        for seed in 0..300 {
            let mut events = good_history(seed);
            let Some(event) =
                events.iter_mut().find(|event| matches!(event.told, Some(Told::Messages(_))))
            else {
                continue;
            };
            event.told = Some(Told::Messages(vec![id(999)]));
            assert!(!is_linearizable(&events), "seed {seed}: {events:#?}");
        }
    }

    #[test]
    fn a_read_that_misses_an_acknowledged_send_is_noticed() {
        let event = |invoked_us, returned_us, question, told| Event {
            invoked_us,
            returned_us,
            question,
            told: Some(told),
        };
        let send = Question::Send(vec![("q".to_owned(), id(1))]);
        let browse = Question::Browse { queue: "q".to_owned(), max: 5 };
        let sent = event(0, 10, send, Told::Duplicates(vec![false]));
        let stale = event(11, 20, browse.clone(), Told::Messages(Vec::new()));
        let overlapping = event(9, 20, browse, Told::Messages(Vec::new()));
        assert!(!is_linearizable(&[sent.clone(), stale]));
        assert!(is_linearizable(&[sent, overlapping]));
    }

    #[test]
    fn a_message_taken_twice_is_noticed() {
        let take = Question::Take { queue: "q".to_owned(), max: 1 };
        let event = |question, told| Event { invoked_us: 0, returned_us: 9, question, told };
        let sent = event(
            Question::Send(vec![("q".to_owned(), id(1))]),
            Some(Told::Duplicates(vec![false])),
        );
        let taken = event(take, Some(Told::Messages(vec![id(1)])));
        assert!(is_linearizable(&[sent.clone(), taken.clone()]));
        assert!(!is_linearizable(&[sent, taken.clone(), taken]));
    }
}
