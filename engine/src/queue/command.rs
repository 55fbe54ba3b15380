//! What a client can ask of the queues.

use crate::hlc::Hlc;
use crate::ids::{LeaseToken, MessageId, Position};
use alloc::string::String;
use alloc::vec::Vec;
use bincode::{Decode, Encode};

/// A message as its sender made it. Its encoding is what lies in the log and what a receiver gets.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Message {
    /// Unique; a second send with the same id has no effect and gets the first one's receipt.
    pub id: MessageId,
    /// The sender's name, at most 255 bytes, may be empty.
    pub from: String,
    /// The recipient queue, 1 to 255 bytes.
    pub to: String,
    /// The sender's clock, for information.
    pub sent_at: Hlc,
    /// At most 32, each at most 1 KiB.
    pub headers: Vec<(String, String)>,
    /// Up to the configured limit, may be empty.
    pub body: Vec<u8>,
}

/// Something that changes the queues. Goes through the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Append each message to its queue, all or nothing. A queue exists once something was sent to it.
    Send {
        /// 1 to 4,096 of them, to any queues.
        messages: Vec<Message>,
    },
    /// Take the oldest available messages of a queue.
    Receive {
        /// From where. An unknown queue is an empty one.
        queue: String,
        /// At most this many, 1 to 4,096.
        max: u32,
        /// For good or for a while.
        mode: ReceiveMode,
    },
    /// Done with these: remove them. Answers for each whether the lease was still held.
    Acknowledge {
        /// Their queue.
        queue: String,
        /// What was received.
        held: Vec<Held>,
    },
    /// Not now: make these available again after a delay.
    Nack {
        /// Their queue.
        queue: String,
        /// What was received.
        held: Vec<Held>,
        /// In log time, at most 12 h; 0 is at once.
        delay_millis: u64,
    },
    /// I need longer: the lease ends this much after now (in log time).
    Extend {
        /// Their queue.
        queue: String,
        /// What was received.
        held: Vec<Held>,
        /// From now, 1 ms to 12 h.
        lease_millis: u64,
    },
    /// Remove messages by id, whether waiting or leased.
    Delete {
        /// Their queue.
        queue: String,
        /// Which.
        ids: Vec<MessageId>,
    },
    /// Remove all messages of a queue, leased ones too.
    Purge {
        /// Which.
        queue: String,
    },
    /// Give a queue these limits in place of those that it has, from this entry on. It comes into being
    /// if it is not there.
    Configure {
        /// Which.
        queue: String,
        /// What it keeps.
        retention: Retention,
    },
}

/// What a queue keeps. The limits are of the messages that a receive would get now: what exceeds them is
/// dropped, the oldest first. A message that is leased or delayed neither counts nor is dropped; when it
/// comes back to its old place it does, and may be. The ids of dropped messages are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Encode, Decode)]
pub struct Retention {
    /// Dropped this long after the send, in log time; 1 ms to 100 years.
    pub max_age_millis: Option<u64>,
    /// Dropped while the encoded messages together have more bytes than this, at least 1.
    pub max_bytes: Option<u64>,
    /// Dropped while there are more messages than this, at least 1.
    pub max_messages: Option<u64>,
}

/// How long a receiver gets a message for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ReceiveMode {
    /// For good: it is removed as it is delivered. A lost reply is repeated within the session.
    Take,
    /// For a while: unless it is acknowledged by then, it becomes available again, in its old place.
    Lease {
        /// From the receive's own log time, 1 ms to 12 h.
        millis: u64,
    },
}

/// A message that a receiver holds, with the token that fences its lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Held {
    /// Which message.
    pub position: Position,
    /// Of the receive that leased it. A later lease of the same message has a greater one.
    pub token: LeaseToken,
}

/// A read.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Query {
    /// One message by id, if it is waiting or leased.
    Get {
        /// Its queue.
        queue: String,
        /// Which.
        id: MessageId,
    },
    /// Messages of a queue in order, waiting and leased, without taking them.
    Browse {
        /// Which queue.
        queue: String,
        /// Only later ones than this.
        after: Option<Position>,
        /// At most this many, 1 to 4,096.
        max: u32,
    },
    /// Queues in the order of their names.
    List {
        /// Only names greater than this.
        after: Option<String>,
        /// At most this many, 1 to 4,096.
        max: u32,
    },
    /// For a watch: is a message available in this queue?
    Available {
        /// Which.
        queue: String,
    },
}
