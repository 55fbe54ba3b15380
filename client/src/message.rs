//! Messages on their way in and out.
//!
//! Owns what a caller fills in ([`NewMessage`]) and what it gets ([`Delivery`], [`Stored`]), and the
//! checks that need no node. Never decides a limit: those are the engine's.

use engine::hlc::Hlc;
use engine::ids::{LeaseToken, LogIndex, MessageId, Position};
use engine::limits;
use engine::queue::{Held, Invalid, Message, Receipt, ReceiveMode};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A message to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewMessage {
    /// `None`: the client mints one. Sending the same id again has no effect.
    pub id: Option<MessageId>,
    /// The sender's name, at most 255 bytes.
    pub from: String,
    /// The queue, 1 to 255 bytes.
    pub to: String,
    /// At most 32 of at most 1 KiB each.
    pub headers: Vec<(String, String)>,
    /// Up to the cluster's limit (1 MiB unless configured).
    pub body: Vec<u8>,
}

impl NewMessage {
    /// An empty message to `queue`.
    #[must_use]
    pub fn to(queue: impl Into<String>) -> Self {
        Self { to: queue.into(), ..Self::default() }
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the id; see [`Client::mint_id`](crate::Client::mint_id).
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the sender's name.
    #[must_use]
    pub fn from(mut self, sender: impl Into<String>) -> Self {
        self.from = sender.into();
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((key.into(), value.into()));
        self
    }

    /// Checks what can be checked here and gives the message the queues' shape. The stamp is filled
    /// in when the message is encoded.
    pub(crate) fn into_message(self, mint: impl FnOnce() -> MessageId) -> Result<Message, Invalid> {
        let id = self.id.unwrap_or_else(mint);
        check_queue(&self.to)?;
        if self.from.len() > limits::NAME_BYTES_MAX {
            return Err(Invalid::SenderName { bytes: self.from.len() as u64 });
        }
        let header_fits =
            |(key, value): &(String, String)| key.len() + value.len() <= limits::HEADER_BYTES_MAX;
        if self.headers.len() > limits::HEADERS_MAX || !self.headers.iter().all(header_fits) {
            return Err(Invalid::Headers { id });
        }
        let (bytes, max) = (self.body.len() as u64, u64::from(limits::BODY_BYTES_MAX));
        if bytes > max {
            return Err(Invalid::Body { id, bytes, max });
        }
        let Self { from, to, headers, body, .. } = self;
        Ok(Message { id, from, to, sent_at: Hlc::ZERO, headers, body })
    }
}

impl From<Message> for NewMessage {
    fn from(message: Message) -> Self {
        let Message { id, from, to, sent_at: _, headers, body } = message;
        Self { id: Some(id), from, to, headers, body }
    }
}

/// Checks a queue's name.
pub(crate) fn check_queue(queue: &str) -> Result<(), Invalid> {
    if queue.is_empty() || queue.len() > limits::NAME_BYTES_MAX {
        return Err(Invalid::QueueName { bytes: queue.len() as u64 });
    }
    Ok(())
}

/// Checks the number of items in one command.
pub(crate) fn check_count(count: usize, max: usize) -> Result<(), Invalid> {
    if count == 0 || count > max {
        return Err(Invalid::Count { count: count as u64, max: max as u64 });
    }
    Ok(())
}

/// At least as many bytes as a message's encoding takes.
pub(crate) fn encoded_bytes_max(message: &Message) -> usize {
    // The id, the stamp, and at most nine bytes for each of the lengths.
    const FIXED_BYTES: usize = 16 + 9 + 4 * 9;
    let headers: usize =
        message.headers.iter().map(|(key, value)| key.len() + value.len() + 2 * 9).sum();
    FIXED_BYTES + message.from.len() + message.to.len() + message.body.len() + headers
}

/// How to receive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceiveOptions {
    /// At most this many, 1 to 4,096. Default 1.
    pub max: usize,
    /// For a while (default, 30 s) or for good.
    pub mode: ReceiveMode,
    /// How long to wait for a message while there is none. Default: not at all. The call's own
    /// deadline counts from the end of this.
    pub wait: Duration,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            max: 1,
            mode: ReceiveMode::Lease { millis: limits::LEASE_MILLIS_DEFAULT },
            wait: Duration::ZERO,
        }
    }
}

/// A message that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Names this delivery in ack, nack and extend.
    pub handle: Handle,
    /// The message.
    pub message: Message,
    /// How often it was handed out, this time included.
    pub attempt: u32,
    /// When the lease ends, in log time; of no meaning after a take.
    pub leased_until: Hlc,
}

/// A message seen without receiving it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its place and stamp.
    pub receipt: Receipt,
    /// The message.
    pub message: Message,
    /// How often it was handed out.
    pub attempts: u32,
    /// Until when it is leased or delayed, if it is.
    pub unavailable_until: Option<Hlc>,
}

/// The name of a delivery, with the token that fences its lease. Prints as `INDEX.OFFSET.TOKEN`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(pub Held);

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.position, self.0.token)
    }
}

/// A text that is not a handle.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is not a handle; a handle looks like 42.0.7 and is printed by receive")]
pub struct HandleError {
    /// The text.
    pub text: String,
}

impl FromStr for Handle {
    type Err = HandleError;

    fn from_str(text: &str) -> Result<Self, HandleError> {
        let error = || HandleError { text: text.to_owned() };
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or_else(error);
        let (index, offset, token) = (part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(error());
        }
        let position = Position {
            index: LogIndex(index.parse().map_err(|_| error())?),
            offset: offset.parse().map_err(|_| error())?,
        };
        Ok(Self(Held { position, token: LeaseToken(token.parse().map_err(|_| error())?) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_reads_back_what_it_prints() {
        let position = Position { index: LogIndex(42), offset: 160 };
        let handle = Handle(Held { position, token: LeaseToken(7) });
        assert_eq!(handle.to_string(), "42.160.7");
        assert_eq!("42.160.7".parse(), Ok(handle));
    }

    #[test]
    fn texts_that_are_no_handles_are_refused() {
        for text in ["", "1", "1.2", "1.2.3.4", "a.b.c", "1.-2.3", "1.99999999999.3"] {
            let parsed: Result<Handle, _> = text.parse();
            assert_eq!(parsed, Err(HandleError { text: text.to_owned() }));
        }
    }

    #[test]
    fn messages_beyond_a_limit_are_refused_before_they_are_sent() {
        let id = MessageId([1; 16]);
        let check = |message: NewMessage| message.into_message(|| id).map(|_| ());
        assert_eq!(check(NewMessage::to("q").body("x")), Ok(()));
        assert_eq!(check(NewMessage::to("")), Err(Invalid::QueueName { bytes: 0 }));
        let long = "x".repeat(256);
        assert_eq!(check(NewMessage::to(&long)), Err(Invalid::QueueName { bytes: 256 }));
        assert_eq!(check(NewMessage::to("q").from(&long)), Err(Invalid::SenderName { bytes: 256 }));
        let wide = NewMessage::to("q").header("k", "v".repeat(1_024));
        assert_eq!(check(wide), Err(Invalid::Headers { id }));
        let many = (0..33).fold(NewMessage::to("q"), |message, _| message.header("k", "v"));
        assert_eq!(check(many), Err(Invalid::Headers { id }));
    }
}
