//! Bytes between processes: frames, and the structures in their heads.
//!
//! The one place that knows bincode. Everything decodes totally: any bytes give a value or a typed
//! error, lengths are checked before anything is allocated, and what is left over is an error.
//! Next: `client` and `peer` for the two conversations.
//!
//! ```text
//!  0          4          8               16              24
//!  +----------+----------+---------------+---------------+-----------+-----------+
//!  | head len | tail len | head checksum | tail checksum |   head    |   tail    |
//!  |   u32    |   u32    |      u64      |      u64      |  bincode  | raw bytes |
//!  +----------+----------+---------------+---------------+-----------+-----------+
//! ```
//!
//! Little-endian; the checksums are XXH3-64. The head's covers the two lengths as well. A tail of
//! records has a tail checksum of 0: each record carries its own, which the receiver verifies anyway.

pub mod client;
pub mod peer;
pub(crate) mod reader;

use crate::limits;
use alloc::vec::Vec;
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Encode};
use bytes::{Buf, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes before the head.
pub const FRAME_HEADER_BYTES: usize = 24;

/// First bytes of every handshake head, so that a stranger is recognised at once.
pub const MAGIC: u32 = 0x5048_3031; // "PH01"
/// Oldest protocol that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Newest protocol that this build speaks.
pub const PROTOCOL_MAX: u16 = 1;

/// Why bytes are not what they should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// A frame is longer than any that we send.
    #[error("frame of {head} + {tail} bytes exceeds {} bytes", limits::FRAME_BYTES_MAX)]
    TooLong {
        /// Head bytes.
        head: usize,
        /// Tail bytes.
        tail: usize,
    },
    /// Damaged on the way, or not our protocol.
    #[error(
        "frame checksum does not match its bytes; the peer does not speak this protocol or the bytes were damaged"
    )]
    Checksum,
    /// The structure does not decode.
    #[error("cannot decode {what}: {reason}")]
    Decode {
        /// What was expected.
        what: &'static str,
        /// What the decoder says.
        reason: alloc::string::String,
    },
    /// Bytes are left after the structure.
    #[error("{extra} bytes are left after {what}")]
    Trailing {
        /// What was expected.
        what: &'static str,
        /// How many bytes.
        extra: usize,
    },
    /// The tail does not fit what the head says.
    #[error("tail of {bytes} bytes does not fit its head: {reason}")]
    Tail {
        /// Its length.
        bytes: usize,
        /// What is wrong.
        reason: alloc::string::String,
    },
}

type Config = Configuration<LittleEndian, Varint, Limit<{ limits::FRAME_BYTES_MAX }>>;
const CONFIG: Config = bincode::config::standard().with_limit::<{ limits::FRAME_BYTES_MAX }>();

/// Appends the encoding of `value`.
pub fn encode_into(value: &impl Encode, out: &mut Vec<u8>) {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    bincode::encode_into_writer(value, Sink(out), CONFIG).expect("a Vec takes every byte");
}

/// The encoding of `value`.
#[must_use]
pub fn encode(value: &impl Encode) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

/// Decodes a value from the start of `bytes` and says how many it took.
///
/// # Errors
/// [`WireError::Decode`].
pub fn decode_prefix<'a, T: BorrowDecode<'a, ()>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(T, usize), WireError> {
    bincode::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|error| WireError::Decode { what, reason: alloc::format!("{error:?}") })
}

/// Decodes a value that takes all of `bytes`.
///
/// # Errors
/// [`WireError::Decode`] or [`WireError::Trailing`].
pub fn decode<'a, T: BorrowDecode<'a, ()>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, WireError> {
    let (value, used) = decode_prefix(what, bytes)?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(WireError::Trailing { what, extra }),
    }
}

/// A whole frame, its checksums verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// A bincode structure.
    pub head: Bytes,
    /// Bytes that the head describes.
    pub tail: Bytes,
}

/// Whether a tail is covered by the frame's own checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TailCheck {
    /// It is.
    Frame,
    /// Each record in it carries its own.
    Records,
}

/// Appends a frame to `out`: the head is encoded in place, the tail parts are copied once.
pub fn write_frame(out: &mut BytesMut, head: &impl Encode, tail: &[Bytes], check: TailCheck) {
    struct Sink<'a>(&'a mut BytesMut);
    impl bincode::enc::write::Writer for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    bincode::encode_into_writer(head, Sink(out), CONFIG).expect("a buffer takes every byte");
    let head_end = out.len();
    for part in tail {
        out.extend_from_slice(part);
    }
    let head_len = u32::try_from(head_end - start - FRAME_HEADER_BYTES).expect("limits");
    let tail_len = u32::try_from(out.len() - head_end).expect("limits");
    let tail_checksum = match check {
        TailCheck::Frame if tail_len > 0 => xxh3_64(&out[head_end..]).max(1),
        TailCheck::Frame | TailCheck::Records => 0,
    };
    let frame = &mut out[start..];
    frame[..4].copy_from_slice(&head_len.to_le_bytes());
    frame[4..8].copy_from_slice(&tail_len.to_le_bytes());
    let head_checksum =
        head_checksum(head_len, tail_len, &frame[FRAME_HEADER_BYTES..head_end - start]);
    frame[8..16].copy_from_slice(&head_checksum.to_le_bytes());
    frame[16..24].copy_from_slice(&tail_checksum.to_le_bytes());
}

fn head_checksum(head_len: u32, tail_len: u32, head: &[u8]) -> u64 {
    xxh3_64_with_seed(head, u64::from(head_len) << 32 | u64::from(tail_len))
}

/// Takes the next whole frame off the front of `buffer`, or nothing while it is incomplete.
/// The memory is shared, not copied.
///
/// # Errors
/// [`WireError::TooLong`] or [`WireError::Checksum`]; the connection is beyond repair then.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    if buffer.len() < FRAME_HEADER_BYTES {
        return Ok(None);
    }
    let u32_at = |at: usize| u32::from_le_bytes(buffer[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(buffer[at..at + 8].try_into().expect("8 bytes"));
    let (head_len, tail_len) = (u32_at(0), u32_at(4));
    let (head_found, tail_found) = (u64_at(8), u64_at(16));
    let (head, tail) = (head_len as usize, tail_len as usize);
    if head > limits::FRAME_HEAD_BYTES_MAX || head + tail > limits::FRAME_BYTES_MAX {
        return Err(WireError::TooLong { head, tail });
    }
    if buffer.len() < FRAME_HEADER_BYTES + head + tail {
        return Ok(None);
    }
    let mut frame = buffer.split_to(FRAME_HEADER_BYTES + head + tail).freeze();
    frame.advance(FRAME_HEADER_BYTES);
    let head = frame.split_to(head);
    let tail = frame;
    let tail_fits = tail_found == 0 || tail_found == xxh3_64(&tail).max(1);
    if head_found != head_checksum(head_len, tail_len, &head) || !tail_fits {
        return Err(WireError::Checksum);
    }
    Ok(Some(Frame { head, tail }))
}

/// How many more bytes the frame at the front of `buffer` needs, as far as can be told: what a
/// reader reserves before it reads on.
#[must_use]
pub fn missing_bytes(buffer: &[u8]) -> usize {
    if buffer.len() < FRAME_HEADER_BYTES {
        return FRAME_HEADER_BYTES - buffer.len();
    }
    let u32_at = |at: usize| u32::from_le_bytes(buffer[at..at + 4].try_into().expect("4 bytes"));
    let need = FRAME_HEADER_BYTES + u32_at(0) as usize + u32_at(4) as usize;
    need.saturating_sub(buffer.len()).min(limits::FRAME_BYTES_MAX)
}
