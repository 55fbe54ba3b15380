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

use super::command::{Command, Held, Message, Query, ReceiveMode, Retention};
use super::reply::Invalid;
use crate::hlc::Hlc;
use crate::ids::{LeaseToken, LogIndex, MessageId, Position};
use crate::limits;
use crate::wire;
use crate::wire::reader::Reader;
use alloc::vec::Vec;
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
const TAG_CONFIGURE: u8 = 8;

/// Bytes before each message of a send.
const MESSAGE_LENGTH_BYTES: usize = 4;

impl Command {
    /// Whether encoded bytes are those of a send, which alone adds to what the queues hold.
    #[must_use]
    pub fn is_send(bytes: &[u8]) -> bool {
        bytes.first() == Some(&TAG_SEND)
    }

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
            Self::Configure { .. } => TAG_CONFIGURE,
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
            Self::Configure { queue, retention } => wire::encode_into(&(queue, retention), out),
        }
    }

    /// Decodes a command, whether or not its counts and spans are within their bounds.
    ///
    /// # Errors
    /// [`Invalid::Undecodable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        Ok(match CommandView::parse(bytes, limits::BODY_BYTES_MAX)? {
            CommandView::Send(messages) => {
                let owned = messages.iter().map(|sent| Message::decode(sent.encoded));
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
            CommandView::Configure { queue, retention } => {
                Self::Configure { queue: queue.into(), retention }
            }
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

/// A [`Message`] read where it lies.
///
/// Accepts what [`Message::decode`] accepts. The reverse holds for every message within the bounds
/// of [`limits`]: a receiver can decode whatever a send put into the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
        let mut reader = Reader(bytes);
        let message = Self::read(&mut reader).filter(|_| reader.is_empty());
        message.ok_or(Invalid::Undecodable)
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        Some(Self {
            id: MessageId::read(reader)?,
            from: reader.string()?,
            to: reader.string()?,
            sent_at: reader.stamp()?,
            headers: HeadersView::read(reader)?,
            body: reader.bytes()?,
        })
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

impl HeadersView {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let claimed = reader.number()?;
        let mut headers = Self { count: usize::try_from(claimed).ok()?, longest_bytes: 0 };
        // Each header takes two bytes at least, so this ends with the bytes, whatever is claimed.
        for _ in 0..claimed {
            let (key, value) = (reader.string()?, reader.string()?);
            headers.longest_bytes = headers.longest_bytes.max(key.len() + value.len());
        }
        Some(headers)
    }
}

/// A [`Command`] read where it lies.
#[derive(Debug)]
pub(super) enum CommandView<'a> {
    Send(Messages<'a>),
    Receive { queue: &'a str, max: u32, mode: ReceiveMode },
    Acknowledge { queue: &'a str, held: Items<'a, Held> },
    Nack { queue: &'a str, held: Items<'a, Held>, delay_millis: u64 },
    Extend { queue: &'a str, held: Items<'a, Held>, lease_millis: u64 },
    Delete { queue: &'a str, ids: Items<'a, MessageId> },
    Purge { queue: &'a str },
    Configure { queue: &'a str, retention: Retention },
}

impl<'a> CommandView<'a> {
    /// Reads the structure of all of `bytes`; [`check`](Self::check) tells about the values.
    pub(super) fn parse(bytes: &'a [u8], body_bytes_max: u32) -> Result<Self, Invalid> {
        let mut reader = Reader(bytes);
        let command = Self::read(bytes, body_bytes_max, &mut reader);
        command.filter(|_| reader.is_empty()).ok_or(Invalid::Undecodable)
    }

    fn read(bytes: &'a [u8], body_bytes_max: u32, reader: &mut Reader<'a>) -> Option<Self> {
        let [tag, version] = reader.array()?;
        if version != COMMAND_VERSION {
            return None;
        }
        Some(match tag {
            TAG_SEND => Self::Send(Messages::read(bytes, body_bytes_max, reader)?),
            TAG_RECEIVE => {
                let (queue, max) = (reader.string()?, reader.number_u32()?);
                let mode = match reader.number()? {
                    0 => ReceiveMode::Take,
                    1 => ReceiveMode::Lease { millis: reader.number()? },
                    _ => return None,
                };
                Self::Receive { queue, max, mode }
            }
            TAG_ACKNOWLEDGE => {
                Self::Acknowledge { queue: reader.string()?, held: Items::read(reader)? }
            }
            TAG_NACK => {
                let (queue, delay_millis) = (reader.string()?, reader.number()?);
                Self::Nack { queue, held: Items::read(reader)?, delay_millis }
            }
            TAG_EXTEND => {
                let (queue, lease_millis) = (reader.string()?, reader.number()?);
                Self::Extend { queue, held: Items::read(reader)?, lease_millis }
            }
            TAG_DELETE => Self::Delete { queue: reader.string()?, ids: Items::read(reader)? },
            TAG_PURGE => Self::Purge { queue: reader.string()? },
            TAG_CONFIGURE => {
                Self::Configure { queue: reader.string()?, retention: read_retention(reader)? }
            }
            _ => return None,
        })
    }

    /// Whether every name, count, span and size is within its bounds.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        match *self {
            Self::Send(ref messages) => {
                check_count(messages.count as u64, limits::MESSAGES_PER_SEND_MAX)?;
                messages.fault.clone().map_or(Ok(()), Err)
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
            Self::Configure { queue, retention } => {
                check_queue_name(queue)?;
                check_retention(retention)
            }
        }
    }
}

fn read_retention(reader: &mut Reader<'_>) -> Option<Retention> {
    let mut limit = || match reader.array()? {
        [0] => Some(None),
        [1] => Some(Some(reader.number()?)),
        [_] => None,
    };
    let (max_age_millis, max_bytes, max_messages) = (limit()?, limit()?, limit()?);
    Some(Retention { max_age_millis, max_bytes, max_messages })
}

fn check_retention(retention: Retention) -> Result<(), Invalid> {
    let Retention { max_age_millis, max_bytes, max_messages } = retention;
    if [max_age_millis, max_bytes, max_messages].contains(&Some(0)) {
        return Err(Invalid::Retention);
    }
    let (millis, max) = (max_age_millis.unwrap_or(0), limits::RETENTION_MILLIS_MAX);
    if millis <= max { Ok(()) } else { Err(Invalid::Span { millis, max }) }
}

/// The messages of a send, known to be readable.
#[derive(Debug)]
pub(super) struct Messages<'a> {
    pub(super) count: usize,
    command: &'a [u8],
    /// What is wrong with the first message that breaks a bound.
    fault: Option<Invalid>,
    /// Kept, so that the usual send of one message is read once.
    first: Option<SentView<'a>>,
}

/// One message of a send.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentView<'a> {
    /// Bytes from the start of the command to the start of the encoded message.
    pub(super) offset: usize,
    pub(super) encoded: &'a [u8],
    pub(super) message: MessageView<'a>,
}

impl<'a> SentView<'a> {
    fn read(command: &'a [u8], reader: &mut Reader<'a>) -> Option<Self> {
        let len = u32::from_le_bytes(reader.array()?);
        let offset = command.len() - reader.0.len();
        let encoded = reader.slice(u64::from(len))?;
        let message = MessageView::parse(encoded).ok()?;
        Some(Self { offset, encoded, message })
    }
}

impl<'a> Messages<'a> {
    fn read(command: &'a [u8], body_bytes_max: u32, reader: &mut Reader<'a>) -> Option<Self> {
        let mut messages = Self { count: 0, command, fault: None, first: None };
        while !reader.is_empty() {
            let sent = SentView::read(command, reader)?;
            if messages.fault.is_none() {
                messages.fault = sent.message.check(body_bytes_max).err();
            }
            messages.first.get_or_insert(sent);
            messages.count += 1;
        }
        Some(messages)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SentView<'a>> + use<'a> {
        let after_first = |first: SentView<'a>| first.offset + first.encoded.len();
        let command = self.command;
        let rest = self.first.map_or(command.len(), after_first);
        let mut reader = Reader(&command[rest..]);
        let others = core::iter::from_fn(move || SentView::read(command, &mut reader));
        self.first.into_iter().chain(others)
    }
}

/// What a command can have a list of.
pub(super) trait Item: Sized {
    /// Reads one.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
}

impl Item for MessageId {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.array().map(Self)
    }
}

impl Item for Held {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let index = LogIndex(reader.number()?);
        let offset = reader.number_u32()?;
        let token = LeaseToken(reader.number()?);
        Some(Self { position: Position { index, offset }, token })
    }
}

/// The list at the end of a command, known to be readable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Items<'a, T> {
    pub(super) count: usize,
    items: Reader<'a>,
    of: PhantomData<T>,
}

impl<'a, T: Item> Items<'a, T> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let claimed = reader.number()?;
        let items = *reader;
        // Each item takes a byte at least, so this ends with the bytes, whatever is claimed.
        for _ in 0..claimed {
            T::read(reader)?;
        }
        Some(Self { count: usize::try_from(claimed).ok()?, items, of: PhantomData })
    }

    pub(super) fn iter(self) -> impl ExactSizeIterator<Item = T> {
        let mut items = self.items;
        (0..self.count).map(move |_| T::read(&mut items).expect("read before"))
    }
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
