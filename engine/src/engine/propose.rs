//! Batches that form by themselves: whatever waited when the loop turned becomes one entry.
//!
//! Owns the open batch and the tokens of blocks that are in the log and not yet applied.
//! Next: `apply` answers them.

use super::{Effect, Engine};
use crate::api::{Bounded, Rejection, Response, Token};
use crate::block::{Block, BlockKind, LENGTH_BYTES};
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::record::{EntryKind, RecordBuilder};
use crate::state_machine::StateMachine;
use crate::time::Now;
use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::vec::Vec;

#[derive(Debug, Default)]
pub(super) struct Proposals {
    batch: RecordBuilder,
    /// Who asked for each block, oldest first: those in the log, then those of the open batch.
    tokens: VecDeque<Token>,
    /// Blocks of the open batch.
    batch_blocks: usize,
    /// Entries that are not applied yet, oldest first.
    appended: VecDeque<Appended>,
    uncommitted_bytes: usize,
}

#[derive(Debug)]
struct Appended {
    index: LogIndex,
    bytes: usize,
    blocks: usize,
}

impl Proposals {
    pub(super) fn waiting(&self) -> usize {
        self.tokens.len()
    }

    /// How many blocks of entry `index` somebody waits for: all, if this member proposed it in its
    /// present term, or none. Each has its token taken as it is applied.
    pub(super) fn take_entry(&mut self, index: LogIndex) -> usize {
        if self.appended.front().is_none_or(|appended| appended.index != index) {
            return 0;
        }
        let appended = self.appended.pop_front().expect("just seen");
        self.uncommitted_bytes -= appended.bytes;
        appended.blocks
    }

    /// The token of the oldest block.
    pub(super) fn take_token(&mut self) -> Token {
        self.tokens.pop_front().expect("every block has its token")
    }

    pub(super) fn check_invariants(&self, is_leader: bool, last_index: LogIndex) {
        let in_log: usize = self.appended.iter().map(|appended| appended.blocks).sum();
        let blocks = in_log + self.batch_blocks;
        assert_eq!(self.tokens.len(), blocks, "every_waiting_block_is_somewhere");
        assert!(is_leader || self.tokens.is_empty(), "only_leaders_keep_clients_waiting");
        assert!(
            self.appended.back().is_none_or(|appended| appended.index <= last_index),
            "waiting_entries_within_log"
        );
    }
}

impl<S: StateMachine> Engine<S> {
    /// Adds a block to the batch.
    pub(super) fn propose(
        &mut self,
        now: Now,
        token: Token,
        bytes: &[u8],
    ) -> Result<(), Response<S::Reply>> {
        let max = self.limits.uncommitted_bytes_max as u64;
        let used = (self.proposals.uncommitted_bytes + self.proposals.batch.payload_len()) as u64;
        if used >= max {
            let what = Bounded::UncommittedBytes;
            return Err(Response::Rejected(Rejection::Full { what, used, max }));
        }
        self.check_block(now, bytes)?;
        let would_be = self.proposals.batch.payload_len() + LENGTH_BYTES + bytes.len();
        if would_be > limits::RECORD_PAYLOAD_BYTES_MAX {
            self.seal(now);
        }
        let len = u32::try_from(bytes.len()).expect("a checked block fits a record");
        let payload = self.proposals.batch.payload_mut();
        payload.extend_from_slice(&len.to_le_bytes());
        payload.extend_from_slice(bytes);
        self.proposals.tokens.push_back(token);
        self.proposals.batch_blocks += 1;
        if self.proposals.batch.payload_len() >= self.limits.batch_bytes_target {
            self.seal(now);
        }
        Ok(())
    }

    /// What is refused here never enters the log.
    fn check_block(&self, now: Now, bytes: &[u8]) -> Result<(), Response<S::Reply>> {
        let block = Block::parse(bytes).map_err(|error| {
            Response::Rejected(Rejection::Malformed { reason: error.to_string() })
        })?;
        if block.kind != BlockKind::Commands {
            return Ok(());
        }
        for (ordinal, (_, command)) in block.commands().enumerate() {
            if let Err(reply) = self.machine.validate(command) {
                let command = u32::try_from(ordinal).expect("bounded by the block's count");
                return Err(Response::Invalid { command, reply });
            }
        }
        self.check_space(now, &block).map_err(Response::Rejected)
    }

    /// Seals the batch at the end of a turn, unless the disk is busy: then it grows, and the next
    /// flush carries more. A leader whose own disk has stalled goes at the pace of its followers'.
    pub(super) fn seal_batch(&mut self, now: Now) {
        let settled_index = self.raft.durable_index().max(self.raft.commit_index());
        // A log that has yet to grow up to an installed snapshot ends before what is committed.
        let unsettled = self.raft.last_index().0.saturating_sub(settled_index.0);
        let is_disk_busy = unsettled >= limits::UNSETTLED_RECORDS_MAX;
        if self.proposals.batch_blocks > 0 && !is_disk_busy {
            self.seal(now);
        }
    }

    fn seal(&mut self, now: Now) {
        // A batch may fill up in the very turn in which this member was elected.
        self.append_first_entry(now);
        let expected_bytes = self.proposals.batch.payload_len();
        let next_batch = RecordBuilder::with_capacity(expected_bytes.min(64 * 1024));
        let batch = core::mem::replace(&mut self.proposals.batch, next_batch);
        let blocks = core::mem::take(&mut self.proposals.batch_blocks);
        let index = self.append(now, batch, EntryKind::Commands);
        self.proposals.uncommitted_bytes += expected_bytes;
        self.proposals.appended.push_back(Appended { index, bytes: expected_bytes, blocks });
    }

    /// Leadership is gone: blocks in the log may or may not survive, the open batch does not.
    pub(super) fn abandon_proposals(
        &mut self,
        leader: Option<NodeId>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let mut abandoned = core::mem::take(&mut self.proposals);
        let in_log = abandoned.tokens.len() - abandoned.batch_blocks;
        for token in abandoned.tokens.drain(..in_log) {
            effects.push(Effect::Respond { token, response: Response::Unknown { leader } });
        }
        for token in abandoned.tokens {
            let response = Response::Rejected(Rejection::NotLeader { leader });
            effects.push(Effect::Respond { token, response });
        }
    }
}
