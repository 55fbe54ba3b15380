//! The bytes of commands, queries and messages.
//!
//! Owns the encodings and the borrowed views through which the machine reads a command where it lies
//! in the log: nothing is copied and, on the path of every message, nothing is allocated. Knows the
//! absolute bounds of what is well formed; never looks at state. Decoding is total.
//! Next: `machine` applies what parses here.
//!
//! ```text
//!  0     1     2
//!  +-----+-----+------------------------------------------------+
//!  | tag | ver | send: each message as (len u32, bincode)       |
//!  | u8  | u8  | others: the fields in bincode, the list last   |
//!  +-----+-----+------------------------------------------------+
//! ```
//!
//! A query is a version byte and the [`Query`] in bincode.

use super::command::{Command, Held, Message, Query, ReceiveMode};
use super::reply::Invalid;
use crate::hlc::Hlc;
use crate::ids::MessageId;
use crate::limits;
use crate::wire;
use alloc::string::String;
use alloc::vec::Vec;
use bincode::de::BorrowDecoder;
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Decode};
use core::marker::PhantomData;

const COMMAND_VERSION: u8 = 1;
const QUERY_VERSION: u8 = 1;

const TAG_SEND: u8 = 1;
const TAG_RECEIVE: u8 = 2;
const TAG_ACKNOWLEDGE: u8 = 3;
const TAG_NACK: u8 = 4;
const TAG_EXTEND: u8 = 5;
const TAG_DELETE: u8 = 6;
const TAG_PURGE: u8 = 7;

/// Bytes before a command's own fields.
const COMMAND_HEADER_BYTES: usize = 2;
/// Bytes before each message of a send.
const MESSAGE_LENGTH_BYTES: usize = 4;

impl Command {
    /// Appends the encoding of this command: what goes into a block.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let tag = match self {
            Self::Send { .. } => TAG_SEND,
            Self::Receive { .. } => TAG_RECEIVE,
            Self::Acknowledge { .. } => TAG_ACKNOWLEDGE,
            Self::Nack { .. } => TAG_NACK,
            Self::Extend { .. } => TAG_EXTEND,
            Self::Delete { .. } => TAG_DELETE,
            Self::Purge { .. } => TAG_PURGE,
        };
        out.extend_from_slice(&[tag, COMMAND_VERSION]);
        match self {
            Self::Send { messages } => messages.iter().for_each(|message| append(message, out)),
            Self::Receive { queue, max, mode } => wire::encode_into(&(queue, max, mode), out),
            Self::Acknowledge { queue, held } => wire::encode_into(&(queue, held), out),
            Self::Nack { queue, held, delay_millis } => {
                wire::encode_into(&(queue, delay_millis, held), out);
            }
            Self::Extend { queue, held, lease_millis } => {
                wire::encode_into(&(queue, lease_millis, held), out);
            }
            Self::Delete { queue, ids } => wire::encode_into(&(queue, ids), out),
            Self::Purge { queue } => wire::encode_into(queue, out),
        }
    }

    /// Decodes a command, whether or not its counts and spans are within their bounds.
    ///
    /// # Errors
    /// [`Invalid::Undecodable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        Ok(match CommandView::parse(bytes)? {
            CommandView::Send(messages) => {
                let owned = messages.iter().map(|(_, encoded, _)| Message::decode(encoded));
                let messages = owned.collect::<Result<_, _>>();
                Self::Send { messages: messages.map_err(|_| Invalid::Undecodable)? }
            }
            CommandView::Receive { queue, max, mode } => {
                Self::Receive { queue: queue.into(), max, mode }
            }
            CommandView::Acknowledge { queue, held } => {
                Self::Acknowledge { queue: queue.into(), held: held.iter().collect() }
            }
            CommandView::Nack { queue, held, delay_millis } => {
                Self::Nack { queue: queue.into(), held: held.iter().collect(), delay_millis }
            }
            CommandView::Extend { queue, held, lease_millis } => {
                Self::Extend { queue: queue.into(), held: held.iter().collect(), lease_millis }
            }
            CommandView::Delete { queue, ids } => {
                Self::Delete { queue: queue.into(), ids: ids.iter().collect() }
            }
            CommandView::Purge { queue } => Self::Purge { queue: queue.into() },
        })
    }
}

/// Appends a message with its length before it.
fn append(message: &Message, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; MESSAGE_LENGTH_BYTES]);
    wire::encode_into(message, out);
    let len = u32::try_from(out.len() - at - MESSAGE_LENGTH_BYTES).expect("a Vec under 4 GiB");
    out[at..at + MESSAGE_LENGTH_BYTES].copy_from_slice(&len.to_le_bytes());
}

impl Query {
    /// The encoding of this query: what goes into a request.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = alloc::vec![QUERY_VERSION];
        wire::encode_into(self, &mut out);
        out
    }

    /// Decodes a query and checks its bounds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let Some((&QUERY_VERSION, rest)) = bytes.split_first() else {
            return Err(Invalid::Undecodable);
        };
        let query = wire::decode("a query", rest).map_err(|_| Invalid::Undecodable)?;
        match &query {
            Self::Get { queue, .. } | Self::Available { queue } => check_queue_name(queue)?,
            Self::Browse { queue, max, .. } => {
                check_queue_name(queue)?;
                check_count(u64::from(*max), limits::MESSAGES_PER_RECEIVE_MAX)?;
            }
            Self::List { max, .. } => {
                check_count(u64::from(*max), limits::MESSAGES_PER_RECEIVE_MAX)?;
            }
        }
        Ok(query)
    }
}

impl Message {
    /// The encoding of this message: what lies in the log and what a receiver gets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Decodes what a receiver got.
    ///
    /// # Errors
    /// The bytes are not a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, wire::WireError> {
        wire::decode("a message", bytes)
    }
}

/// A [`Message`] read where it lies. Accepts exactly the bytes that [`Message::decode`] accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorrowDecode)]
pub struct MessageView<'a> {
    /// See [`Message::id`].
    pub id: MessageId,
    /// See [`Message::from`].
    pub from: &'a str,
    /// See [`Message::to`].
    pub to: &'a str,
    /// See [`Message::sent_at`].
    pub sent_at: Hlc,
    /// See [`Message::headers`].
    pub headers: HeadersView,
    /// See [`Message::body`].
    pub body: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// Reads a message that takes all of `bytes`.
    ///
    /// # Errors
    /// [`Invalid::Undecodable`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Invalid> {
        wire::decode("a message", bytes).map_err(|_| Invalid::Undecodable)
    }

    fn check(&self, body_bytes_max: u32) -> Result<(), Invalid> {
        check_queue_name(self.to)?;
        if self.from.len() > limits::NAME_BYTES_MAX {
            return Err(Invalid::SenderName { bytes: self.from.len() as u64 });
        }
        let HeadersView { count, longest_bytes } = self.headers;
        if count > limits::HEADERS_MAX || longest_bytes > limits::HEADER_BYTES_MAX {
            return Err(Invalid::Headers { id: self.id });
        }
        let (bytes, max) = (self.body.len() as u64, u64::from(body_bytes_max));
        if bytes > max {
            return Err(Invalid::Body { id: self.id, bytes, max });
        }
        Ok(())
    }
}

/// What the machine has to know of a message's headers: they are walked and not collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadersView {
    /// How many.
    pub count: usize,
    /// Bytes of the longest, key and value together.
    pub longest_bytes: usize,
}

impl<'de, C> BorrowDecode<'de, C> for HeadersView {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let claimed = <u64 as Decode<C>>::decode(decoder)?;
        // The same bound as for collecting them, so that both decoders accept the same bytes.
        let claimed = usize::try_from(claimed).map_err(|_| DecodeError::LimitExceeded)?;
        decoder.claim_container_read::<(String, String)>(claimed)?;
        decoder.unclaim_bytes_read(claimed.saturating_mul(size_of::<(String, String)>()));
        let mut headers = Self { count: claimed, longest_bytes: 0 };
        for _ in 0..claimed {
            let key = <&str as BorrowDecode<'de, C>>::borrow_decode(decoder)?;
            let value = <&str as BorrowDecode<'de, C>>::borrow_decode(decoder)?;
            headers.longest_bytes = headers.longest_bytes.max(key.len() + value.len());
        }
        Ok(headers)
    }
}

/// A [`Command`] read where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum CommandView<'a> {
    Send(Messages<'a>),
    Receive { queue: &'a str, max: u32, mode: ReceiveMode },
    Acknowledge { queue: &'a str, held: Items<'a, Held> },
    Nack { queue: &'a str, held: Items<'a, Held>, delay_millis: u64 },
    Extend { queue: &'a str, held: Items<'a, Held>, lease_millis: u64 },
    Delete { queue: &'a str, ids: Items<'a, MessageId> },
    Purge { queue: &'a str },
}

impl<'a> CommandView<'a> {
    /// Reads the structure of all of `bytes`; [`check`](Self::check) looks at the values.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let [tag, COMMAND_VERSION, rest @ ..] = bytes else {
            return Err(Invalid::Undecodable);
        };
        Ok(match *tag {
            TAG_SEND => Self::Send(Messages::parse(bytes)?),
            TAG_RECEIVE => {
                let (queue, max, mode) = whole(rest)?;
                Self::Receive { queue, max, mode }
            }
            TAG_ACKNOWLEDGE => {
                let (queue, rest) = prefix(rest)?;
                Self::Acknowledge { queue, held: Items::parse(rest)? }
            }
            TAG_NACK => {
                let ((queue, delay_millis), rest) = prefix(rest)?;
                Self::Nack { queue, held: Items::parse(rest)?, delay_millis }
            }
            TAG_EXTEND => {
                let ((queue, lease_millis), rest) = prefix(rest)?;
                Self::Extend { queue, held: Items::parse(rest)?, lease_millis }
            }
            TAG_DELETE => {
                let (queue, rest) = prefix(rest)?;
                Self::Delete { queue, ids: Items::parse(rest)? }
            }
            TAG_PURGE => Self::Purge { queue: whole(rest)? },
            _ => return Err(Invalid::Undecodable),
        })
    }

    /// Whether every name, count, span and size is within its bounds.
    pub(super) fn check(&self, body_bytes_max: u32) -> Result<(), Invalid> {
        match *self {
            Self::Send(messages) => {
                check_count(messages.count as u64, limits::MESSAGES_PER_SEND_MAX)?;
                messages.iter().try_for_each(|(_, _, message)| message.check(body_bytes_max))
            }
            Self::Receive { queue, max, mode } => {
                check_queue_name(queue)?;
                check_count(u64::from(max), limits::MESSAGES_PER_RECEIVE_MAX)?;
                match mode {
                    ReceiveMode::Take => Ok(()),
                    ReceiveMode::Lease { millis } => check_lease(millis),
                }
            }
            Self::Acknowledge { queue, held } => {
                check_queue_name(queue)?;
                check_count(held.count as u64, limits::MESSAGES_PER_RECEIVE_MAX)
            }
            Self::Nack { queue, held, delay_millis } => {
                check_queue_name(queue)?;
                check_count(held.count as u64, limits::MESSAGES_PER_RECEIVE_MAX)?;
                check_span(delay_millis)
            }
            Self::Extend { queue, held, lease_millis } => {
                check_queue_name(queue)?;
                check_count(held.count as u64, limits::MESSAGES_PER_RECEIVE_MAX)?;
                check_lease(lease_millis)
            }
            Self::Delete { queue, ids } => {
                check_queue_name(queue)?;
                check_count(ids.count as u64, limits::MESSAGES_PER_RECEIVE_MAX)
            }
            Self::Purge { queue } => check_queue_name(queue),
        }
    }
}

/// The messages of a send, known to decode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Messages<'a> {
    pub(super) count: usize,
    command: &'a [u8],
}

impl<'a> Messages<'a> {
    fn parse(command: &'a [u8]) -> Result<Self, Invalid> {
        let (mut at, mut count) = (COMMAND_HEADER_BYTES, 0);
        while at < command.len() {
            let (start, end) = Self::bounds(command, at).ok_or(Invalid::Undecodable)?;
            MessageView::parse(&command[start..end])?;
            (at, count) = (end, count + 1);
        }
        Ok(Self { count, command })
    }

    /// Where the message whose length stands at `at` starts and ends.
    fn bounds(command: &[u8], at: usize) -> Option<(usize, usize)> {
        let start = at.checked_add(MESSAGE_LENGTH_BYTES)?;
        let len = u32::from_le_bytes(command.get(at..start)?.try_into().ok()?);
        let end = start.checked_add(len as usize)?;
        (end <= command.len()).then_some((start, end))
    }

    /// Each message: its offset within the command, its bytes, and what they say.
    pub(super) fn iter(self) -> impl Iterator<Item = (usize, &'a [u8], MessageView<'a>)> {
        let mut at = COMMAND_HEADER_BYTES;
        core::iter::from_fn(move || {
            let (start, end) = Self::bounds(self.command, at)?;
            at = end;
            let encoded = &self.command[start..end];
            let message = MessageView::parse(encoded).expect("parse has read these bytes");
            Some((start, encoded, message))
        })
    }
}

/// The list at the end of a command, known to decode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Items<'a, T> {
    pub(super) count: usize,
    bytes: &'a [u8],
    items: PhantomData<T>,
}

impl<'a, T: BorrowDecode<'a, ()>> Items<'a, T> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let (claimed, bytes) = prefix::<u64>(bytes)?;
        let mut rest = bytes;
        for _ in 0..claimed {
            (_, rest) = prefix::<T>(rest)?;
        }
        let count = usize::try_from(claimed).map_err(|_| Invalid::Undecodable)?;
        match rest {
            [] => Ok(Self { count, bytes, items: PhantomData }),
            _ => Err(Invalid::Undecodable),
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = T> {
        let mut rest = self.bytes;
        (0..self.count).map(move |_| {
            let (item, after) = prefix(rest).expect("parse has read these bytes");
            rest = after;
            item
        })
    }
}

fn prefix<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), Invalid> {
    let (value, used) =
        wire::decode_prefix("a command", bytes).map_err(|_| Invalid::Undecodable)?;
    Ok((value, &bytes[used..]))
}

fn whole<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, Invalid> {
    wire::decode("a command", bytes).map_err(|_| Invalid::Undecodable)
}

fn check_queue_name(name: &str) -> Result<(), Invalid> {
    match name.len() {
        1..=limits::NAME_BYTES_MAX => Ok(()),
        bytes => Err(Invalid::QueueName { bytes: bytes as u64 }),
    }
}

fn check_count(count: u64, max: usize) -> Result<(), Invalid> {
    let max = max as u64;
    if (1..=max).contains(&count) { Ok(()) } else { Err(Invalid::Count { count, max }) }
}

fn check_span(millis: u64) -> Result<(), Invalid> {
    let max = limits::LEASE_MILLIS_MAX;
    if millis <= max { Ok(()) } else { Err(Invalid::Span { millis, max }) }
}

fn check_lease(millis: u64) -> Result<(), Invalid> {
    if millis == 0 {
        return Err(Invalid::Span { millis, max: limits::LEASE_MILLIS_MAX });
    }
    check_span(millis)
}
