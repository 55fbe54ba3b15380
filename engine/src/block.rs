//! A block: what one client call proposes. Its bytes are made by the client and copied unchanged
//! into the payload of a record, so a position within the payload stays true for ever.
//!
//! ```text
//!  0     1     2       4          12               20            28
//!  +-----+-----+-------+----------+----------------+-------------+----------------------------+
//!  |kind |ver  | count | session  | first sequence | acked below | count x (len u32, command) |
//!  | u8  | u8  | u16   |  u64     |      u64       |    u64      |                            |
//!  +-----+-----+-------+----------+----------------+-------------+----------------------------+
//! ```
//!
//! Command `i` of a block has the sequence `first + i` in its session. `acked below` tells that the
//! client has the replies of all lower sequences, so they may be forgotten (Ongaro's thesis, §6.3).
//! In a record's payload each block is preceded by its length as a `u32`.

use crate::ids::{Sequence, SessionId};
use crate::limits;
use alloc::vec::Vec;

/// Bytes before the first command.
pub const BLOCK_HEADER_BYTES: usize = 28;
/// Bytes before each block in a payload, and before each command in a block.
pub const LENGTH_BYTES: usize = 4;
/// The layout above.
pub const BLOCK_VERSION: u8 = 1;

/// What a block asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockKind {
    /// Commands of a session.
    Commands = 1,
    /// A new session; no commands, and session, sequence and acknowledgement are 0.
    OpenSession = 2,
    /// The end of a session; no commands.
    CloseSession = 3,
}

/// Why bytes are not a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Fewer bytes than the layout needs.
    #[error("block cut short at byte {at}")]
    Short {
        /// Where bytes were missing.
        at: usize,
    },
    /// Bytes after the last command.
    #[error("block has {extra} bytes after its last command")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Too long, or too many commands.
    #[error(
        "block of {bytes} bytes and {count} commands exceeds {} bytes or {} commands; split it",
        limits::BLOCK_BYTES_MAX,
        limits::COMMANDS_PER_BLOCK_MAX
    )]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// Its commands.
        count: usize,
    },
    /// A version or kind that this build does not know, or fields that contradict the kind.
    #[error(
        "block of version {version} and kind {kind} is unknown to this build or contradicts itself"
    )]
    Unknown {
        /// Version byte.
        version: u8,
        /// Kind byte.
        kind: u8,
    },
}

/// A verified view of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block<'a> {
    /// What it asks for.
    pub kind: BlockKind,
    /// Whose commands; 0 for [`BlockKind::OpenSession`].
    pub session: SessionId,
    /// The sequence of the first command.
    pub first_sequence: Sequence,
    /// The client has the replies of all lower sequences.
    pub acked_below: Sequence,
    count: usize,
    commands: &'a [u8],
}

impl<'a> Block<'a> {
    /// Checks the structure of the whole of `bytes` (not the commands' own content).
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BlockError> {
        if bytes.len() < BLOCK_HEADER_BYTES {
            return Err(BlockError::Short { at: bytes.len() });
        }
        let count = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
        if bytes.len() > limits::BLOCK_BYTES_MAX || count > limits::COMMANDS_PER_BLOCK_MAX {
            return Err(BlockError::TooLarge { bytes: bytes.len(), count });
        }
        let (kind_byte, version) = (bytes[0], bytes[1]);
        let unknown = BlockError::Unknown { version, kind: kind_byte };
        let kind = match (version, kind_byte) {
            (BLOCK_VERSION, 1) => BlockKind::Commands,
            (BLOCK_VERSION, 2) => BlockKind::OpenSession,
            (BLOCK_VERSION, 3) => BlockKind::CloseSession,
            _ => return Err(unknown),
        };
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let block = Self {
            kind,
            session: SessionId(field(4)),
            first_sequence: Sequence(field(12)),
            acked_below: Sequence(field(20)),
            count,
            commands: &bytes[BLOCK_HEADER_BYTES..],
        };
        let is_bare = count == 0
            && block.first_sequence == Sequence::ZERO
            && block.acked_below == Sequence::ZERO;
        let consistent = match kind {
            BlockKind::Commands => {
                block.session != SessionId::ZERO
                    && block.first_sequence != Sequence::ZERO
                    && block.first_sequence.0.checked_add(count as u64).is_some()
                    && count > 0
            }
            BlockKind::OpenSession => block.session == SessionId::ZERO && is_bare,
            BlockKind::CloseSession => block.session != SessionId::ZERO && is_bare,
        };
        if !consistent {
            return Err(unknown);
        }
        block.check_commands()?;
        Ok(block)
    }

    fn check_commands(&self) -> Result<(), BlockError> {
        let mut at = 0;
        for _ in 0..self.count {
            let short = BlockError::Short { at: BLOCK_HEADER_BYTES + at };
            let len = self.commands.get(at..at + LENGTH_BYTES).ok_or(short)?;
            at += LENGTH_BYTES;
            let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            at = at.checked_add(len).filter(|end| *end <= self.commands.len()).ok_or(short)?;
        }
        match self.commands.len() - at {
            0 => Ok(()),
            extra => Err(BlockError::Trailing { extra }),
        }
    }

    /// How many commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The commands in order, each with its byte offset from the start of the block.
    pub fn commands(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let commands = self.commands;
        let mut at = 0;
        core::iter::from_fn(move || {
            let len = commands.get(at..at + LENGTH_BYTES)?;
            let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            let start = at + LENGTH_BYTES;
            at = start + len;
            Some((BLOCK_HEADER_BYTES + start, &commands[start..at]))
        })
    }
}

/// The blocks of a record's payload in order, each with its byte offset from the payload's start.
/// Ends after the first error.
pub fn in_payload(payload: &[u8]) -> impl Iterator<Item = Result<(usize, Block<'_>), BlockError>> {
    let mut at = 0;
    core::iter::from_fn(move || {
        if at == payload.len() {
            return None;
        }
        let short = BlockError::Short { at };
        let rest = payload.get(at + LENGTH_BYTES..);
        let len = payload.get(at..at + LENGTH_BYTES);
        let len = len.map(|len| u32::from_le_bytes(len.try_into().expect("four bytes")) as usize);
        let (Some(rest), Some(len)) = (rest, len) else {
            at = payload.len();
            return Some(Err(short));
        };
        let start = at + LENGTH_BYTES;
        let block = rest.get(..len).ok_or(short).and_then(Block::parse);
        at = if block.is_ok() { start + len } else { payload.len() };
        Some(block.map(|block| (start, block)))
    })
}

/// Builds a block.
#[derive(Debug)]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    count: u16,
}

impl BlockBuilder {
    /// A block of `session` whose first command has `first_sequence`.
    #[must_use]
    pub fn commands(session: SessionId, first_sequence: Sequence, acked_below: Sequence) -> Self {
        Self::with_header(BlockKind::Commands, session, first_sequence, acked_below)
    }

    /// The block that opens a session.
    #[must_use]
    pub fn open_session() -> Vec<u8> {
        Self::with_header(BlockKind::OpenSession, SessionId::ZERO, Sequence::ZERO, Sequence::ZERO)
            .finish()
    }

    /// The block that closes `session`.
    #[must_use]
    pub fn close_session(session: SessionId) -> Vec<u8> {
        Self::with_header(BlockKind::CloseSession, session, Sequence::ZERO, Sequence::ZERO).finish()
    }

    fn with_header(
        kind: BlockKind,
        session: SessionId,
        first_sequence: Sequence,
        acked_below: Sequence,
    ) -> Self {
        let mut bytes = Vec::with_capacity(BLOCK_HEADER_BYTES);
        bytes.extend_from_slice(&[kind as u8, BLOCK_VERSION, 0, 0]);
        bytes.extend_from_slice(&session.0.to_le_bytes());
        bytes.extend_from_slice(&first_sequence.0.to_le_bytes());
        bytes.extend_from_slice(&acked_below.0.to_le_bytes());
        Self { bytes, count: 0 }
    }

    /// Appends a command that `write` encodes.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(usize::from(self.count) < limits::COMMANDS_PER_BLOCK_MAX);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        write(&mut self.bytes);
        let len = u32::try_from(self.bytes.len() - at - LENGTH_BYTES).expect("bounded by limits");
        self.bytes[at..at + LENGTH_BYTES].copy_from_slice(&len.to_le_bytes());
        self.count += 1;
    }

    /// Appends an encoded command.
    pub fn push(&mut self, command: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(command));
    }

    /// Commands so far.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The block's bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[2..4].copy_from_slice(&self.count.to_le_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = Vec::new();
        for block in blocks {
            let len = u32::try_from(block.len()).expect("small");
            payload.extend_from_slice(&len.to_le_bytes());
            payload.extend_from_slice(block);
        }
        payload
    }

    #[test]
    fn a_payload_yields_its_blocks_with_their_offsets() {
        let mut commands = BlockBuilder::commands(SessionId(7), Sequence(3), Sequence(2));
        commands.push(b"first");
        commands.push(b"second");
        let payload = payload(&[BlockBuilder::open_session(), commands.finish()]);
        let blocks: Vec<_> = in_payload(&payload).map(|block| block.expect("whole")).collect();
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].1.kind, BlockKind::OpenSession);
        let (start, block) = blocks[1];
        let found: Vec<_> =
            block.commands().map(|(at, c)| &payload[start + at..][..c.len()]).collect();
        assert_eq!(found, [&b"first"[..], b"second"]);
    }

    #[test]
    fn a_payload_that_is_cut_anywhere_ends_in_an_error() {
        let whole = payload(&[BlockBuilder::open_session(), BlockBuilder::open_session()]);
        for end in 1..whole.len() {
            let is_whole = in_payload(&whole[..end]).all(|block| block.is_ok());
            assert_eq!(is_whole, end == whole.len() / 2, "cut at {end}");
        }
    }

    #[test]
    fn a_block_that_contradicts_its_kind_is_refused() {
        let mut bytes = BlockBuilder::open_session();
        bytes[12] = 1;
        assert!(matches!(Block::parse(&bytes), Err(BlockError::Unknown { .. })));
    }
}
