//! The numbers that everything is named by, each in its own type so that none is taken for another.
//!
//! Owns no behaviour beyond stepping and printing. Next: `time` for instants, `record` for what
//! these numbers look like on disk.

use bincode::{Decode, Encode};
use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode,
        )]
        pub struct $name(pub $inner);

        impl $name {
            /// The number below every real one.
            pub const ZERO: Self = Self(0);

            /// The number after this one. These counters are 64 bits wide (32 for groups) and
            /// cannot run out within the life of a cluster.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The number before this one, saturating at zero.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A member of a cluster, 1 or more; unique within its cluster for ever.
    NodeId(u64)
}
number! {
    /// A Raft term (§5.1): at most one leader each; 0 before the first election.
    Term(u64)
}
number! {
    /// The place of an entry in the log: the first entry is 1, and 0 means "before the log".
    LogIndex(u64)
}
number! {
    /// One Raft group among several on a node. Today there is one, number 0; frames and records
    /// carry it from the first day.
    GroupId(u32)
}
number! {
    /// A client session, minted by the log; 0 is no session.
    SessionId(u64)
}
number! {
    /// The number of a command within its session, from 1 without gaps.
    Sequence(u64)
}
number! {
    /// A fencing token: rises with every lease that the log grants, and is never reused.
    LeaseToken(u64)
}

/// A cluster, minted once by whoever creates it; two clusters never share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&uuid::Uuid::from_bytes(self.0), f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// The id of a message: a UUID of the sender's choice, or one that the client mints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct MessageId(pub [u8; 16]);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&uuid::Uuid::from_bytes(self.0), f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// The place of a message in the one global order: its log entry, and the byte offset of the
/// message within that entry's payload. Positions of different messages are never equal, and they
/// compare in the order in which the log applied them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
pub struct Position {
    /// The entry.
    pub index: LogIndex,
    /// Bytes from the start of the entry's payload to the start of the encoded message.
    pub offset: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.offset)
    }
}
