//! What clients ask for: draws operations from a workload's mix.
//!
//! Owns one client's view of the queues: which ids it has sent and what it holds under leases. Used
//! by every world's clients; knows nothing of sessions, nodes or retries. Bodies are made from their
//! message's id, so that whoever receives one can tell whether it is whole.
//! Next: `scenario::Workload` for the numbers, `lockstep::client` for a user.

use crate::scenario::Workload;
use crate::streams::Stream;
use engine::hlc::Hlc;
use engine::ids::{MessageId, Position};
use engine::queue::{Command, Held, Message, Query, ReceiveMode, Reply};
use std::collections::VecDeque;

/// What a client wants next.
#[derive(Clone, PartialEq, Debug)]
pub enum Intent {
    /// To change the queues.
    Command(Command),
    /// To read.
    Query(Query),
    /// To wait until a message is available, and to receive then.
    Watch {
        /// In which queue.
        queue: String,
        /// At most, milliseconds.
        timeout_ms: u64,
    },
}

/// Deliveries that a client remembers in order to settle them; the oldest are let go.
const HELD_MAX: usize = 64;
/// Ids that a client remembers in order to send, get and delete them again.
const IDS_MAX: usize = 64;

/// Draws one client's operations.
#[derive(Clone, Debug)]
pub struct Generator {
    client: u64,
    workload: Workload,
    stream: Stream,
    minted: u64,
    sent: VecDeque<(String, MessageId)>,
    held: VecDeque<(String, Held)>,
}

/// The id of a client's `ordinal`th message.
#[must_use]
pub fn mint(client: u64, ordinal: u64) -> MessageId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&client.to_be_bytes());
    id[8..].copy_from_slice(&ordinal.to_be_bytes());
    MessageId(id)
}

/// A body of `len` bytes that belongs to `id` alone.
#[must_use]
pub fn body_of(id: MessageId, len: usize) -> Vec<u8> {
    let mixed = id.0[15].wrapping_mul(31) ^ id.0[7];
    id.0.iter().cycle().take(len).map(|byte| byte ^ mixed).collect()
}

/// Whether a message has the body that it was sent with.
#[must_use]
pub fn is_intact(message: &Message) -> bool {
    message.body == body_of(message.id, message.body.len())
}

impl Generator {
    /// The operations of one client under a seed.
    #[must_use]
    pub fn new(seed: u64, client: u64, workload: &Workload) -> Self {
        Self {
            client,
            workload: workload.clone(),
            stream: Stream::of(seed, "workload", client),
            minted: 0,
            sent: VecDeque::new(),
            held: VecDeque::new(),
        }
    }

    /// The pause until the next operation, microseconds.
    pub fn draw_pause_us(&mut self) -> u64 {
        self.stream.between(0, 2 * self.workload.pause_us)
    }

    /// Whether the client closes its session now and opens another.
    pub fn draws_churn(&mut self) -> bool {
        self.stream.chance(self.workload.session_churn_ppm)
    }

    /// Commands for the next block, at most.
    pub fn draw_block_len(&mut self) -> usize {
        1 + self.stream.below(self.workload.block_commands_max)
    }

    /// The next operation.
    pub fn draw(&mut self) -> Intent {
        let queue = self.queue();
        match self.stream.weighted(&self.workload.mix.weights()) {
            1 => self.receive(queue, false),
            2 => self.receive(queue, true),
            3 => self.settle(|queue, held, _| Command::Acknowledge { queue, held }),
            4 => self.settle(|queue, held, stream| {
                let delay_millis = if stream.one_in(3) { 0 } else { stream.skewed(0, 1_000) };
                Command::Nack { queue, held, delay_millis }
            }),
            5 => self.settle(|queue, held, stream| {
                let lease_millis = stream.skewed(1, 2_000);
                Command::Extend { queue, held, lease_millis }
            }),
            6 => {
                let (queue, id) = self.known_id(queue);
                Intent::Command(Command::Delete { queue, ids: vec![id] })
            }
            7 => Intent::Command(Command::Purge { queue }),
            8 => {
                let (queue, id) = self.known_id(queue);
                Intent::Query(Query::Get { queue, id })
            }
            9 => self.browse(queue),
            10 => Intent::Query(Query::List { after: None, max: 100 }),
            11 => {
                let timeout_ms = self.stream.between(1, self.workload.request_timeout_ms);
                Intent::Watch { queue, timeout_ms }
            }
            _ => self.send(),
        }
    }

    /// What to receive after a watch has said that there is something.
    pub fn draw_receive(&mut self, queue: String) -> Intent {
        let is_take = self.stream.one_in(3);
        self.receive(queue, is_take)
    }

    /// Learns from a reply: what was leased can be settled, what was settled is gone.
    pub fn learn(&mut self, command: &Command, reply: &Reply) {
        match (command, reply) {
            (Command::Receive { queue, .. }, Reply::Received { token, deliveries, .. }) => {
                for delivered in deliveries.iter().filter(|_| token.0 > 0) {
                    let held = Held { position: delivered.position, token: *token };
                    self.held.push_back((queue.clone(), held));
                }
                while self.held.len() > HELD_MAX {
                    self.held.pop_front();
                }
            }
            // Now and then a lease is kept in mind, to be settled a second time, in vain.
            (Command::Acknowledge { held, .. } | Command::Nack { held, .. }, Reply::Settled(_))
                if !self.stream.one_in(8) =>
            {
                self.held.retain(|(_, known)| !held.contains(known));
            }
            _ => {}
        }
    }

    fn queue(&mut self) -> String {
        format!("q{}", self.stream.between(0, self.workload.queues - 1))
    }

    fn send(&mut self) -> Intent {
        let count = self.stream.skewed(1, self.workload.send_messages_max.max(1));
        let messages = (0..count).map(|_| self.message()).collect();
        Intent::Command(Command::Send { messages })
    }

    fn message(&mut self) -> Message {
        let to = self.queue();
        let len = self.stream.skewed(0, self.workload.body_bytes_max);
        let id = if self.stream.chance(self.workload.duplicate_id_ppm) {
            // An id of our own, or of another client, who may or may not have used it yet.
            let other = self.stream.between(0, self.workload.clients.max(1) - 1);
            mint(other, self.stream.between(0, self.minted))
        } else {
            self.minted += 1;
            mint(self.client, self.minted)
        };
        self.sent.push_back((to.clone(), id));
        if self.sent.len() > IDS_MAX {
            self.sent.pop_front();
        }
        let from = format!("c{}", self.client);
        let headers = if self.stream.one_in(8) {
            vec![("kind".to_owned(), "simulated".to_owned())]
        } else {
            Vec::new()
        };
        let body = body_of(id, usize::try_from(len).expect("bodies are short"));
        Message { id, from, to, sent_at: Hlc::ZERO, headers, body }
    }

    fn receive(&mut self, queue: String, is_take: bool) -> Intent {
        let max = self.count();
        let mode = if is_take {
            ReceiveMode::Take
        } else {
            ReceiveMode::Lease { millis: self.stream.skewed(1, self.workload.lease_ms_max.max(1)) }
        };
        Intent::Command(Command::Receive { queue, max, mode })
    }

    fn count(&mut self) -> u32 {
        let count = self.stream.skewed(1, self.workload.receive_max.max(1));
        u32::try_from(count).expect("receives are bounded")
    }

    fn browse(&mut self, queue: String) -> Intent {
        let known = self.held.back().map(|(_, held)| held.position);
        let after: Option<Position> = if self.stream.one_in(3) { known } else { None };
        Intent::Query(Query::Browse { queue, after, max: self.count() })
    }

    fn known_id(&mut self, queue: String) -> (String, MessageId) {
        if self.sent.is_empty() || self.stream.one_in(10) {
            return (queue, mint(self.client, self.minted + 1));
        }
        let known = self.stream.below(self.sent.len());
        self.sent[known].clone()
    }

    /// Settles some of what is held in one queue, or receives if nothing is.
    fn settle(
        &mut self,
        command: impl FnOnce(String, Vec<Held>, &mut Stream) -> Command,
    ) -> Intent {
        let Some((queue, _)) = self.held.front().cloned() else {
            let queue = self.queue();
            return self.receive(queue, false);
        };
        let count = self.count() as usize;
        let same = self.held.iter().filter(|(other, _)| *other == queue);
        let held = same.take(count).map(|(_, held)| *held).collect();
        Intent::Command(command(queue, held, &mut self.stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_another_message_is_not_intact() {
        let (one, other) = (mint(1, 1), mint(1, 2));
        let message = |id, body| Message {
            id,
            from: String::new(),
            to: "q".to_owned(),
            sent_at: Hlc::ZERO,
            headers: Vec::new(),
            body,
        };
        assert!(is_intact(&message(one, body_of(one, 40))));
        assert!(!is_intact(&message(one, body_of(other, 40))));
    }

    #[test]
    fn every_kind_of_operation_is_drawn() {
        let mut workload = Workload::default();
        workload.mix.purge = 3;
        let mut generator = Generator::new(1, 0, &workload);
        let command = Command::Receive { queue: "q0".into(), max: 9, mode: ReceiveMode::Take };
        let deliveries =
            vec![engine::queue::Delivered { position: Position::default(), len: 1, attempt: 1 }];
        let (token, until) = (engine::ids::LeaseToken(1), Hlc::ZERO);
        generator.learn(&command, &Reply::Received { token, until, deliveries });
        let drawn: Vec<Intent> = (0..2_000).map(|_| generator.draw()).collect();
        let has = |is_it: fn(&Intent) -> bool| drawn.iter().any(is_it);
        assert!(has(|intent| matches!(intent, Intent::Command(Command::Send { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Command(Command::Receive { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Command(Command::Acknowledge { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Command(Command::Nack { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Command(Command::Extend { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Command(Command::Delete { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Command(Command::Purge { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Query(Query::Get { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Query(Query::Browse { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Query(Query::List { .. }))));
        assert!(has(|intent| matches!(intent, Intent::Watch { .. })));
    }
}
