//! Backups: everything that a cluster holds at one moment of its log, in one file that can be checked.
//!
//! A backup is a snapshot of one member and the records that the snapshot's state still refers to. The
//! client pulls both from any member ([`BackupRequest`](crate::api::BackupRequest)), in pieces of which
//! one is on its way at a time; so a slow disk at the client slows the pull, and nothing piles up at the
//! member. It restores the state from the bytes that it got to learn which records belong to it.
//!
//! Owns the format and the check of a whole file. Reads and writes nothing: bytes come from a function
//! that the caller gives. Next: `format` for the layout, `contents` for what must be in a file,
//! `engine::backups` for the member's side, `storage::restore` for the way back into a cluster.

mod contents;
mod format;

pub use contents::{Contents, State, check};
pub use format::{Encoder, FormatError, Header, ReadError, Reader, Section, SectionKind};
