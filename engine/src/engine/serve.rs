//! Answers other members that lack records, from memory or from the store.
//!
//! Owns what is being read for them: one request of each member at a time. A member whose request comes
//! while the one before is served asks again. Next: `repair` for the other side.

use super::{Effect, Engine};
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::raft::{Body, Message};
use crate::record::Record;
use crate::state_machine::StateMachine;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Requests that are being answered, by who asks.
#[derive(Debug, Default)]
pub(super) struct Servings {
    under_way: BTreeMap<NodeId, Serving>,
}

#[derive(Debug)]
struct Serving {
    indices: Vec<LogIndex>,
    /// How many of them are settled.
    done: usize,
    records: Vec<Record>,
    bytes: usize,
    absent: Vec<LogIndex>,
}

impl Serving {
    fn take(&mut self, record: Record) {
        self.bytes += record.bytes().len();
        self.records.push(record);
        self.done += 1;
    }

    fn is_absent(&mut self, index: LogIndex) {
        self.absent.push(index);
        self.done += 1;
    }

    /// The run of consecutive entries that are asked for next: first, and the one after the last.
    fn next_run(&self) -> (LogIndex, LogIndex) {
        let rest = &self.indices[self.done..];
        let first = rest[0];
        let len = rest.iter().zip(first.0..).take_while(|(index, at)| index.0 == *at).count();
        (first, LogIndex(first.0 + len as u64))
    }
}

impl<S: StateMachine> Engine<S> {
    /// A member asks for records.
    pub(super) fn on_records_request(
        &mut self,
        from: NodeId,
        indices: Vec<LogIndex>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        if self.serving.under_way.contains_key(&from) {
            return;
        }
        let (done, records, bytes, absent) = (0, Vec::new(), 0, Vec::new());
        self.go_on_serving(from, Serving { indices, done, records, bytes, absent }, effects);
    }

    /// Collects what is in memory up to the next entry that must be read, or answers.
    fn go_on_serving(
        &mut self,
        to: NodeId,
        mut serving: Serving,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        while let Some(index) = serving.indices.get(serving.done).copied() {
            // What is not known to be committed may be replaced; and one message holds no more.
            let is_full = serving.bytes >= limits::APPEND_BYTES_TARGET;
            if index > self.raft.commit_index() || is_full {
                break;
            }
            if self.repair.is_missing(index) {
                serving.is_absent(index);
            } else if let Some(record) = self.in_memory(index) {
                serving.take(record.clone());
            } else {
                let (first, end) = serving.next_run();
                let bytes_max = limits::APPEND_BYTES_TARGET - serving.bytes;
                self.serving.under_way.insert(to, serving);
                return self.fetch_for_member(to, (first, end, bytes_max), effects);
            }
        }
        self.answer_member(to, serving, effects);
    }

    /// What was read for `to`; nothing if the store has it no more.
    pub(super) fn on_fetched_for_member(
        &mut self,
        to: NodeId,
        records: Vec<Record>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let Some(mut serving) = self.serving.under_way.remove(&to) else { return };
        let done = serving.done;
        if records.is_empty() {
            serving.is_absent(serving.indices[done]);
        }
        for record in records {
            let index = record.index();
            // The disk may still hold an entry that was replaced since.
            let is_committed = index <= self.raft.commit_index()
                && self.raft.term_at(index).is_none_or(|term| term == record.term());
            if is_committed && serving.indices.get(serving.done) == Some(&index) {
                serving.take(record);
            }
        }
        if serving.done == done {
            return self.answer_member(to, serving, effects);
        }
        self.go_on_serving(to, serving, effects);
    }

    fn answer_member(
        &self,
        to: NodeId,
        Serving { records, absent, .. }: Serving,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let body = Body::Records { records, absent, applied: self.applied_index };
        effects.push(Effect::Send { to, message: Message { term: self.raft.term(), body } });
    }
}
