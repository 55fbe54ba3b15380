//! Queries, answered once a quorum has confirmed that this member still leads and everything older
//! is applied (thesis §6.4); and watches, which only hint.
//!
//! Next: `bodies` sends what answers refer to.

use super::{Effect, Engine};
use crate::api::{Rejection, Response, Token};
use crate::ids::{LogIndex, NodeId};
use crate::state_machine::{StateMachine, Watched};
use crate::time::Micros;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::marker::PhantomData;

#[derive(Debug)]
pub(super) struct ReadQueue<R> {
    /// Every query that is not answered yet.
    queries: BTreeMap<Token, Bytes>,
    /// Their bytes.
    bytes: usize,
    /// Confirmed ones, with what must be applied before they are answered; indices do not fall.
    pub(super) confirmed: VecDeque<(LogIndex, Token)>,
    /// Watchers of each key, oldest first.
    watchers: BTreeMap<u64, VecDeque<Token>>,
    deadlines: BTreeSet<(Micros, Token)>,
    watches: BTreeMap<Token, (u64, Micros)>,
    woken: Vec<u64>,
    replies: PhantomData<R>,
}

impl<R> Default for ReadQueue<R> {
    fn default() -> Self {
        Self {
            queries: BTreeMap::new(),
            bytes: 0,
            confirmed: VecDeque::new(),
            watchers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            watches: BTreeMap::new(),
            woken: Vec::new(),
            replies: PhantomData,
        }
    }
}

impl<R> ReadQueue<R> {
    pub(super) fn waiting(&self) -> usize {
        self.queries.len() + self.watches.len()
    }

    /// Bytes of queries that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    fn add_query(&mut self, token: Token, query: Bytes) {
        self.bytes += query.len();
        self.queries.insert(token, query);
    }

    pub(super) fn remove_query(&mut self, token: Token) -> Option<Bytes> {
        let query = self.queries.remove(&token)?;
        self.bytes -= query.len();
        Some(query)
    }

    pub(super) fn next_deadline(&self) -> Option<Micros> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    fn add_watch(&mut self, token: Token, key: u64, until: Micros) {
        self.watchers.entry(key).or_default().push_back(token);
        self.deadlines.insert((until, token));
        self.watches.insert(token, (key, until));
    }

    fn remove_watch(&mut self, token: Token) -> bool {
        let Some((key, until)) = self.watches.remove(&token) else { return false };
        self.deadlines.remove(&(until, token));
        if let Some(tokens) = self.watchers.get_mut(&key) {
            // Whoever is woken or has waited longest stands in front.
            if let Some(at) = tokens.iter().position(|watcher| *watcher == token) {
                tokens.remove(at);
            }
            if tokens.is_empty() {
                self.watchers.remove(&key);
            }
        }
        true
    }

    /// The client is gone. Its queries are still answered, to nobody.
    pub(super) fn forget(&mut self, token: Token) {
        self.remove_watch(token);
    }

    pub(super) fn expire_watches(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) {
        while let Some((until, token)) = self.deadlines.first().copied() {
            if until > now {
                break;
            }
            self.remove_watch(token);
            effects.push(Effect::Respond { token, response: Response::TimedOut });
        }
    }

    pub(super) fn abandon_watches(&mut self, leader: Option<NodeId>, effects: &mut Vec<Effect<R>>) {
        self.watchers.clear();
        self.deadlines.clear();
        for token in core::mem::take(&mut self.watches).into_keys() {
            let response = Response::Rejected(Rejection::NotLeader { leader });
            effects.push(Effect::Respond { token, response });
        }
    }
}

impl<S: StateMachine> Engine<S> {
    /// Answers the queries that are confirmed and whose entries are applied.
    pub(super) fn answer_ready_queries(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        if !self.has_bodies() {
            return;
        }
        while let Some((index, token)) = self.reads.confirmed.front().copied() {
            if index > self.applied_index {
                break;
            }
            self.reads.confirmed.pop_front();
            let Some(query) = self.reads.remove_query(token) else { continue };
            let reply = self.machine.query(&query);
            let mut wanted = Vec::new();
            S::bodies(&reply, &mut wanted);
            let response = Response::Answer { at: self.applied_index, reply, bodies: Vec::new() };
            self.respond_with_bodies(token, response, wanted, effects);
        }
    }

    /// The leader is gone. What the reads of a follower wait for may never come: it is cut off, or is a
    /// member no more.
    pub(super) fn abandon_reads(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        for (_, token) in core::mem::take(&mut self.reads.confirmed) {
            if self.reads.remove_query(token).is_some() {
                let response = Response::Rejected(Rejection::NotLeader { leader: None });
                effects.push(Effect::Respond { token, response });
            }
        }
    }

    /// Whether the log has grown up to the state, so that every body can be had. After a snapshot was
    /// installed it takes a while.
    fn has_bodies(&self) -> bool {
        self.applied_index <= self.raft.last_index()
    }

    /// A linearizable query, on the leader or on a follower.
    pub(super) fn query(&mut self, token: Token, query: Bytes) {
        self.raft.read_here(token, &mut self.outputs);
        self.reads.add_query(token, query);
    }

    /// Answers from what is applied here, however old.
    pub(super) fn query_stale(
        &mut self,
        token: Token,
        query: &[u8],
        effects: &mut Vec<Effect<S::Reply>>,
    ) -> Result<(), Response<S::Reply>> {
        if !self.has_bodies() {
            let leader = self.raft.leader();
            return Err(Response::Rejected(Rejection::NotLeader { leader }));
        }
        let reply = self.machine.query(query);
        let mut wanted = Vec::new();
        S::bodies(&reply, &mut wanted);
        let (at, log_time) = (self.applied_index, self.applied_stamp);
        let response = Response::Stale { at, log_time, reply, bodies: Vec::new() };
        self.respond_with_bodies(token, response, wanted, effects);
        Ok(())
    }

    pub(super) fn watch(
        &mut self,
        token: Token,
        query: &[u8],
        until: Micros,
    ) -> Result<(), Response<S::Reply>> {
        match self.machine.watch(query) {
            Watched::Ready | Watched::Invalid => Err(Response::Ready),
            Watched::Wait(key) => {
                self.reads.add_watch(token, key, until);
                Ok(())
            }
        }
    }

    /// Tells one watcher for each thing that became available, the longest waiting first.
    pub(super) fn wake_watchers(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        let mut woken = core::mem::take(&mut self.reads.woken);
        self.machine.take_woken(&mut woken);
        for key in woken.drain(..) {
            let watcher = self.reads.watchers.get(&key).and_then(|tokens| tokens.front().copied());
            if let Some(token) = watcher {
                self.reads.remove_watch(token);
                effects.push(Effect::Respond { token, response: Response::Ready });
            }
        }
        self.reads.woken = woken;
    }
}
