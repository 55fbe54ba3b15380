//! Runs committed entries through sessions and state machine, in order, each once.
//!
//! Next: `session` decides whether a command takes effect, `bodies` sends what replies refer to.

use super::{Effect, Engine, Event};
use crate::api::{CommandError, Response, Token};
use crate::block::{self, Block, BlockKind};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use crate::record::{EntryKind, Record};
use crate::session::Verdict;
use crate::state_machine::{CommandContext, StateMachine};
use alloc::format;
use alloc::vec::Vec;

/// The entry that is being applied.
#[derive(Clone, Copy)]
struct Entry {
    index: LogIndex,
    term: Term,
    stamp: Hlc,
}

impl<S: StateMachine> Engine<S> {
    /// Applies committed entries that are in memory, as many as this turn may, and fetches the next
    /// one if it is not.
    pub(super) fn apply_committed(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        while self.may_apply() && self.apply_budget_bytes > 0 && self.failure.is_none() {
            let next = self.applied_index.next();
            let Some(record) = self.raft.cached(next).cloned() else {
                self.fetch_to_apply(next, effects);
                break;
            };
            self.apply_record(&record, effects);
        }
        if self.failure.is_some() {
            return;
        }
        self.answer_ready_queries(effects);
        if core::mem::take(&mut self.has_applied) {
            self.wake_watchers(effects);
        }
    }

    /// Whether committed entries wait to be applied.
    pub(super) fn has_unapplied(&self) -> bool {
        self.applied_index < self.raft.commit_index()
    }

    /// Whether one may be applied now. While answers with many bytes wait for the disk, none is: each
    /// may add to them, and memory is bounded.
    fn may_apply(&self) -> bool {
        let has_room = self.bodies.waiting_bytes() < self.limits.waiting_bytes_max as u64;
        self.has_unapplied() && has_room
    }

    /// Whether the next one to apply is in memory, so that a turn is all it waits for.
    pub(super) fn can_apply_more(&self) -> bool {
        self.may_apply() && self.raft.cached(self.applied_index.next()).is_some()
    }

    /// Applies the entry after the last applied one; fails for good if it cannot be.
    pub(super) fn apply_record(&mut self, record: &Record, effects: &mut Vec<Effect<S::Reply>>) {
        assert_eq!(record.index(), self.applied_index.next());
        self.apply_budget_bytes = self.apply_budget_bytes.saturating_sub(record.bytes().len());
        let entry = Entry { index: record.index(), term: record.term(), stamp: record.hlc() };
        self.machine.advance(entry.stamp);
        self.sessions.advance(entry.stamp);
        match record.kind() {
            EntryKind::Noop | EntryKind::Tick | EntryKind::Membership => {}
            EntryKind::Commands => self.apply_blocks(entry, record.payload(), effects),
            EntryKind::Space => self.apply_space(entry.index, record.payload(), effects),
        }
        if self.failure.is_some() {
            return;
        }
        self.applied_index = entry.index;
        self.applied_stamp = entry.stamp;
        self.has_applied = true;
        self.snapshots.on_applied(record.bytes().len());
        let Entry { index, term, stamp: hlc } = entry;
        effects.push(Effect::Event(Event::Applied { index, term, hlc }));
    }

    fn apply_blocks(&mut self, entry: Entry, payload: &[u8], effects: &mut Vec<Effect<S::Reply>>) {
        let mut waiting = self.proposals.take_entry(entry.index);
        for block in block::in_payload(payload) {
            match block {
                Ok((start, block)) => {
                    let token = (waiting > 0).then(|| self.proposals.take_token());
                    waiting = waiting.saturating_sub(1);
                    self.apply_block(entry, start, &block, token, effects);
                }
                // A leader seals only what it has checked, so a newer version of this program did.
                // To skip what it means would let this member's state drift from the others'.
                Err(error) => {
                    let index = entry.index;
                    let reason =
                        format!("entry {index} cannot be applied: {error}; upgrade this node");
                    return self.fail(reason, effects);
                }
            }
        }
    }

    fn apply_block(
        &mut self,
        entry: Entry,
        start: usize,
        block: &Block<'_>,
        token: Option<Token>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let response = match block.kind {
            BlockKind::OpenSession => Response::SessionOpened(self.sessions.open(entry.stamp)),
            BlockKind::CloseSession => {
                self.sessions.close(block.session);
                Response::SessionClosed
            }
            BlockKind::Commands => {
                let results = self.apply_commands(entry, start, block, token.is_some());
                return self.respond_applied(token, entry.index, results, effects);
            }
        };
        if let Some(token) = token {
            effects.push(Effect::Respond { token, response });
        }
    }

    /// Applies the commands of a block. The results are collected only if somebody waits for them.
    fn apply_commands(
        &mut self,
        entry: Entry,
        start: usize,
        block: &Block<'_>,
        is_wanted: bool,
    ) -> Vec<Result<S::Reply, CommandError>> {
        let mut results = Vec::with_capacity(if is_wanted { block.len() } else { 0 });
        let session = self.sessions.touch(block.session, block.acked_below, entry.stamp);
        let Some(session) = session else {
            let expired = || Err(CommandError::SessionExpired);
            results.resize_with(if is_wanted { block.len() } else { 0 }, expired);
            return results;
        };
        let mut sequence = block.first_sequence;
        for (offset, command) in block.commands() {
            let result = match session.check(sequence) {
                Verdict::Apply => {
                    let offset = u32::try_from(start + offset).expect("bounded by the record");
                    let Entry { index, term, stamp: log_time } = entry;
                    let context = CommandContext { term, index, log_time, offset };
                    let reply = self.machine.apply(context, command);
                    session.record(sequence, reply.clone());
                    Ok(reply)
                }
                Verdict::Replay(reply) => Ok(reply),
                Verdict::Refuse(error) => Err(error),
            };
            if is_wanted {
                results.push(result);
            }
            sequence = sequence.next();
        }
        results
    }

    fn respond_applied(
        &mut self,
        token: Option<Token>,
        index: LogIndex,
        results: Vec<Result<S::Reply, CommandError>>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let Some(token) = token else { return };
        let mut wanted = Vec::new();
        for reply in results.iter().flatten() {
            S::bodies(reply, &mut wanted);
        }
        let response = Response::Applied { index, results, bodies: Vec::new() };
        self.respond_with_bodies(token, response, wanted, effects);
    }
}
