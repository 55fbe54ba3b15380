//! Room on the disk: how much there is, and what happens to a write that finds none.
//!
//! Owns the question that goes out now and then, and the operations that the disk refused for want of
//! space. Those are no failure: they stay at the head of the write lane and are performed again, from
//! the one that was refused on, until there is room. So each operation either was done, once, or is
//! the refused one, and doing that one again is harmless: a write puts the same bytes in the same
//! place, over whatever part of them came to lie there; a cut, a deletion and a renaming that were
//! refused have not happened. A sync is never among them: a failed one ends the node, for want of space
//! as for anything else. Next: `engine::space` for what becomes of the numbers.

use super::{Effect, Replica};
use crate::engine::Space;
use crate::limits;
use crate::state_machine::StateMachine;
use crate::storage::disk::{DiskOp, FileName, Job, JobDone, JobId, Lane, free_bytes_in};
use crate::time::{Micros, Now};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// What is known of the room, and what waits for some.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// When to ask next.
    ask_at: Micros,
    asked: Option<JobId>,
    /// As the disk last said; `None` as long as it has not.
    free_bytes: Option<u64>,
    refused: Option<Refused>,
}

/// The rest of a job of the write lane.
#[derive(Debug)]
struct Refused {
    ops: Vec<DiskOp>,
    again_at: Micros,
    /// It is being performed again.
    is_under_way: bool,
}

impl Room {
    /// Whether the write lane is held up.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// When a turn must come at the latest.
    pub(super) fn next_deadline(&self) -> Option<Micros> {
        let waiting = self.refused.as_ref().filter(|refused| !refused.is_under_way);
        let ask_at = self.asked.is_none().then_some(self.ask_at);
        [waiting.map(|refused| refused.again_at), ask_at].into_iter().flatten().min()
    }
}

impl<S: StateMachine> Replica<S> {
    /// Asks for the room when it is time to, and tries again what was refused.
    pub(super) fn watch_room(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        if self.room.asked.is_none() && self.room.ask_at <= now.monotonic {
            let id = self.next_job();
            self.room.asked = Some(id);
            self.room.ask_at = now.monotonic + limits::SPACE_CHECK_INTERVAL;
            effects.push(Effect::Disk(Job { id, lane: Lane::Read, ops: vec![DiskOp::Space] }));
        }
        let is_due = |refused: &Refused| !refused.is_under_way && refused.again_at <= now.monotonic;
        if !self.room.refused.as_ref().is_some_and(is_due) {
            return;
        }
        let id = self.next_job();
        let refused = self.room.refused.as_mut().expect("just seen");
        refused.is_under_way = true;
        // Whatever may go makes room for what must stay; but only in order, lest a gap be left.
        let is_deletion = |op: &DiskOp| matches!(op, DiskOp::Delete { file: FileName::Segment(_) });
        let mut ops = Vec::new();
        if !refused.ops.iter().any(is_deletion) {
            self.store.delete_all_that_may_go(&mut ops);
        }
        ops.append(&mut refused.ops);
        self.write = Some(id);
        effects.push(Effect::Disk(Job { id, lane: Lane::Write, ops }));
    }

    /// Whether the report is the answer to the question; if so, it is taken.
    pub(super) fn on_room(&mut self, done: &JobDone) -> bool {
        if self.room.asked != Some(done.id) {
            return false;
        }
        self.room.asked = None;
        let answer = done.result.as_ref().ok().and_then(|answers| answers.first());
        // A system that does not tell is no reason to stop, nor to believe that space is short.
        self.room.free_bytes = answer.and_then(|answer: &Bytes| free_bytes_in(answer));
        self.tell_room();
        true
    }

    /// The disk refused a job of the write lane for want of space: keeps what is not done of it.
    pub(super) fn on_refused(&mut self, now: Now, ops: Vec<DiskOp>) {
        let again_at = now.monotonic + limits::SPACE_CHECK_INTERVAL;
        self.write = None;
        self.room.refused = Some(Refused { ops, again_at, is_under_way: false });
        self.room.ask_at = now.monotonic;
        self.tell_room();
    }

    /// A job of the write lane is done.
    pub(super) fn on_accepted(&mut self) {
        if self.room.refused.take().is_some() {
            self.tell_room();
        }
    }

    fn tell_room(&mut self) {
        let free_bytes = self.room.free_bytes.unwrap_or(u64::MAX);
        let quota_left = self.data_bytes_max.saturating_sub(self.store.disk_bytes());
        let is_refusing = self.room.is_refused();
        self.engine.set_space(Space { free_bytes: free_bytes.min(quota_left), is_refusing });
    }
}
