//! Reads the few shapes that commands and snapshots are made of, without copying.
//!
//! The format is bincode's (little-endian, varint), which `wire` writes; reading it by hand is what
//! makes a send cheap enough, several times faster than the general decoder. Total: whatever the
//! bytes, a method gives a value or `None`. Next: `queue::codec` and `state_machine`.

use crate::hlc::Hlc;

/// Bytes that are left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

/// First bytes of numbers that take more than one byte.
const U16_FOLLOWS: u8 = 251;
const U32_FOLLOWS: u8 = 252;
const U64_FOLLOWS: u8 = 253;

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(crate) fn slice(&mut self, len: u64) -> Option<&'a [u8]> {
        let (slice, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(slice)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let [first] = self.array()?;
        match first {
            0..U16_FOLLOWS => Some(u64::from(first)),
            U16_FOLLOWS => self.array().map(u16::from_le_bytes).map(u64::from),
            U32_FOLLOWS => self.array().map(u32::from_le_bytes).map(u64::from),
            U64_FOLLOWS => self.array().map(u64::from_le_bytes),
            _ => None,
        }
    }

    pub(crate) fn number_u32(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.slice(len)
    }

    pub(crate) fn string(&mut self) -> Option<&'a str> {
        core::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn stamp(&mut self) -> Option<Hlc> {
        self.number().map(Hlc)
    }
}
