//! What the queues answer.

use super::command::Retention;
use crate::hlc::Hlc;
use crate::ids::{LeaseToken, MessageId, Position, Term};
use alloc::string::String;
use alloc::vec::Vec;
use bincode::{Decode, Encode};

/// The proof that a message is in the log, and where: the same for every send of the same id within
/// the dedup window.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
pub struct Receipt {
    /// The one global order.
    pub position: Position,
    /// Term of the entry.
    pub term: Term,
    /// Stamp of the entry; rises with the position.
    pub stamp: Hlc,
}

/// How one message of a send ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Sent {
    /// Where it is, or was first put.
    pub receipt: Receipt,
    /// Whether the id had been sent before, so that this send had no effect.
    pub duplicate: bool,
}

/// The answer to a command or a query.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Reply {
    /// To a send of one message; without an allocation, as it is the most frequent of all.
    SentOne(Sent),
    /// To a send of several: one each, in order.
    SentMany(Vec<Sent>),
    /// To a receive: the bodies follow in the same order.
    Received {
        /// Fences the leases of these deliveries; 0 for [`ReceiveMode::Take`](super::ReceiveMode::Take).
        token: LeaseToken,
        /// When the leases end, in log time.
        until: Hlc,
        /// Oldest first.
        deliveries: Vec<Delivered>,
    },
    /// To acknowledge, nack and extend: for each whether the lease was still held, and so whether
    /// anything was done.
    Settled(Vec<bool>),
    /// To delete: for each id whether it was there.
    Deleted(Vec<bool>),
    /// To purge: how many were removed.
    Purged(u64),
    /// To get; the body follows if there is one.
    Got(Option<Browsed>),
    /// To browse; the bodies follow in the same order.
    Browsed(Vec<Browsed>),
    /// To list.
    Queues(Vec<QueueInfo>),
    /// To a watch that was asked as a query: whether a message is available.
    Available(bool),
    /// The command or query makes no sense and had no effect.
    Invalid(Invalid),
    /// To configure: the queue has these limits now.
    Configured,
}

/// A message handed to a receiver. Its bytes (an encoded [`Message`](super::Message)) lie in the log
/// at `position` and are `len` long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Delivered {
    /// Where its bytes are; also its name in acknowledgements.
    pub position: Position,
    /// How many bytes.
    pub len: u32,
    /// How often it was handed out, this time included.
    pub attempt: u32,
}

/// A message seen without taking it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Browsed {
    /// Where its bytes are.
    pub receipt: Receipt,
    /// How many bytes.
    pub len: u32,
    /// How often it was handed out.
    pub attempts: u32,
    /// Until when it is leased or delayed, if it is.
    pub unavailable_until: Option<Hlc>,
}

/// A queue.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// Messages that a receive would get now.
    pub available: u64,
    /// Messages under a lease.
    pub leased: u64,
    /// Messages that a nack put off.
    pub delayed: u64,
    /// Messages ever sent to it.
    pub sent_total: u64,
    /// Bytes of the messages that a receive would get now.
    pub bytes: u64,
    /// Messages that it ever dropped because they exceeded its limits.
    pub dropped_total: u64,
    /// Its limits.
    pub retention: Retention,
}

/// Why a command or a query is refused.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
pub enum Invalid {
    /// The bytes do not decode, or belong to a version that this build does not know.
    #[error("command cannot be decoded by this node; if the client is newer, upgrade the nodes")]
    Undecodable,
    /// A queue name that is empty or too long.
    #[error("queue name of {bytes} bytes; it must have 1 to 255 bytes of UTF-8")]
    QueueName {
        /// Its length.
        bytes: u64,
    },
    /// A sender's name that is too long.
    #[error("sender name of {bytes} bytes; it must have at most 255")]
    SenderName {
        /// Its length.
        bytes: u64,
    },
    /// A body that is too long.
    #[error(
        "body of message {id} has {bytes} bytes, the limit is {max}; split it or raise body_bytes_max"
    )]
    Body {
        /// Whose.
        id: MessageId,
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Too many headers, or one that is too long.
    #[error("message {id} has too many headers (at most 32) or one over 1024 bytes")]
    Headers {
        /// Whose.
        id: MessageId,
    },
    /// A count outside its range.
    #[error("{count} items in one command; it takes 1 to {max}")]
    Count {
        /// As asked.
        count: u64,
        /// At most.
        max: u64,
    },
    /// A span outside its range.
    #[error("a span of {millis} ms; it must be at most {max} ms, and at least 1 ms for a lease")]
    Span {
        /// As asked.
        millis: u64,
        /// At most.
        max: u64,
    },
    /// A limit of a queue that would keep nothing.
    #[error("a limit of 0 would keep nothing; leave a limit out to have none, or purge the queue")]
    Retention,
}
