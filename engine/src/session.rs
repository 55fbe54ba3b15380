//! Client sessions: what makes a retried command take effect once (Ongaro's thesis, §6.3).
//!
//! Owns which sessions are open, the sequence that each must use next, and the replies that a client
//! may still ask for again. Opening, closing and expiring are decided by the log alone: a session
//! idle for longer than the dedup window in log time is gone, and so is the idlest one when there
//! are too many. Never looks into a reply. Every operation is O(1), amortised.
//! Next: `engine::apply` for who asks, `block` for what a client sends.

use crate::api::CommandError;
use crate::hlc::Hlc;
use crate::ids::{Sequence, SessionId};
use crate::limits::{self, Limits};
use crate::state_machine::{RestoreError, SnapshotReader};
use crate::wire;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use hashbrown::HashTable;
use xxhash_rust::xxh3::Xxh3;

/// What is to be done with a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict<R> {
    /// It is the next one: apply it and [`record`](Session::record) its reply.
    Apply,
    /// It was applied before, and this was the reply.
    Replay(R),
    /// It has no effect and no reply.
    Refuse(CommandError),
}

/// One open session.
#[derive(Debug)]
pub struct Session<R> {
    id: SessionId,
    active_at: Hlc,
    expected: Sequence,
    /// Of the sequences just below `expected`, without gaps.
    replies: VecDeque<R>,
    /// The session that was idle longer than this one; none for the idlest.
    idler: Number,
    /// The session that was active after this one; in a free slot the next free one.
    busier: Number,
    /// Its ordinal in the snapshot that is being written, until it is written or changed.
    rank: Number,
}

impl<R: Clone> Session<R> {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The sequence that the next new command must have.
    #[must_use]
    pub fn expected(&self) -> Sequence {
        self.expected
    }

    /// Replies that can be repeated, at most [`limits::SESSION_WINDOW`].
    #[must_use]
    pub fn replies_len(&self) -> usize {
        self.replies.len()
    }

    /// Decides what to do with the command of this sequence.
    pub fn check(&self, sequence: Sequence) -> Verdict<R> {
        let expected = self.expected;
        if sequence == expected {
            return Verdict::Apply;
        }
        if sequence > expected {
            return Verdict::Refuse(CommandError::SequenceGap { expected });
        }
        let age = usize::try_from(expected.0 - sequence.0).unwrap_or(usize::MAX);
        match self.replies.len().checked_sub(age).and_then(|at| self.replies.get(at)) {
            Some(reply) => Verdict::Replay(reply.clone()),
            None => Verdict::Refuse(CommandError::ReplyForgotten),
        }
    }

    /// Remembers the reply to the command that was just applied, forgetting the oldest reply beyond
    /// [`limits::SESSION_WINDOW`].
    ///
    /// # Panics
    /// If `sequence` is not the expected one: only what [`check`](Self::check) let through counts.
    pub fn record(&mut self, sequence: Sequence, reply: R) {
        assert!(sequence == self.expected, "only the expected command is applied");
        if self.replies.len() == limits::SESSION_WINDOW {
            self.replies.pop_front();
        }
        self.replies.push_back(reply);
        self.expected = sequence.next();
    }

    /// Forgets the replies that the client has.
    fn acknowledge(&mut self, acked_below: Sequence) {
        let unacked = self.expected.0.saturating_sub(acked_below.0);
        let unacked = usize::try_from(unacked).unwrap_or(usize::MAX);
        let acked = self.replies.len().saturating_sub(unacked);
        self.replies.drain(..acked);
        // A client that was once far behind must not keep its memory for ever; by halves, so that
        // moving what is left is paid for by what went.
        if self.replies.capacity() > REPLIES_KEPT_MIN
            && self.replies.len() < self.replies.capacity() / 4
        {
            self.replies.shrink_to(self.replies.capacity() / 2);
        }
    }
}

const SNAPSHOT_VERSION: u8 = 1;

/// No counter gets here within the life of a cluster; in a snapshot it is damage.
const COUNTER_MAX: u64 = 1 << 62;

/// Capacity for replies that is never given back while the session is open.
const REPLIES_KEPT_MIN: usize = 64;

/// The number of a slot; [`NONE`] is none.
type Number = u32;
const NONE: Number = u32::MAX;

/// All open sessions, in the order of their last activity.
#[derive(Debug)]
pub struct Sessions<R> {
    slots: Vec<Session<R>>,
    free: Number,
    /// Slots by session id. Never iterated.
    table: HashTable<Number>,
    idlest: Number,
    busiest: Number,
    id_last: SessionId,
    idle_millis_max: u64,
    sessions_max: usize,
    snapshot: Option<Writing<R>>,
}

/// A snapshot that is being written.
#[derive(Debug)]
struct Writing<R> {
    id_last: SessionId,
    /// The sessions that there were when it began, the idlest first.
    order: Vec<Number>,
    /// How many of them are written; the counters come before the first.
    written: Option<usize>,
    /// When the last one of these was active.
    active_at: Hlc,
    /// Those of the others that have changed since, as they were.
    saved: BTreeMap<Number, Saved>,
    write_reply: fn(&R, &mut Vec<u8>),
}

/// A session as a snapshot has it.
#[derive(Debug)]
struct Saved {
    active_at: Hlc,
    id: SessionId,
    expected: Sequence,
    replies_len: u64,
    replies: Vec<u8>,
}

impl Saved {
    fn new<R>(session: &Session<R>, write_reply: impl Fn(&R, &mut Vec<u8>)) -> Self {
        let Session { active_at, id, expected, .. } = *session;
        let mut replies = Vec::new();
        session.replies.iter().for_each(|reply| write_reply(reply, &mut replies));
        Self { active_at, id, expected, replies_len: session.replies.len() as u64, replies }
    }

    fn write(&self, active_at: &mut Hlc, out: &mut Vec<u8>) {
        let since = self.active_at.0 - active_at.0;
        *active_at = self.active_at;
        wire::encode_into(&(self.id, since, self.expected, self.replies_len), out);
        out.extend_from_slice(&self.replies);
    }
}

/// Spreads ids, which are minted one after the other, over all 64 bits.
fn hash(id: SessionId) -> u64 {
    let product = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

impl<R: Clone> Sessions<R> {
    /// No sessions. A session may be idle for `dedup_window_millis`; there are at most
    /// `sessions_max`, but always room for one. Both must be equal on all nodes.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            table: HashTable::new(),
            idlest: NONE,
            busiest: NONE,
            id_last: SessionId::ZERO,
            idle_millis_max: limits.dedup_window_millis,
            sessions_max: limits.sessions_max.clamp(1, limits::SESSIONS_MAX),
            snapshot: None,
        }
    }

    /// Opens a session, whose id was never used before. The idlest session expires if there is no
    /// room.
    pub fn open(&mut self, now: Hlc) -> SessionId {
        self.id_last = self.id_last.next();
        let id = self.id_last;
        self.insert(Session {
            id,
            active_at: now,
            expected: Sequence(1),
            replies: VecDeque::new(),
            idler: NONE,
            busier: NONE,
            rank: NONE,
        });
        id
    }

    /// Makes a session that is not open yet the busiest, and room for it if there is none.
    fn insert(&mut self, session: Session<R>) {
        if self.table.len() >= self.sessions_max {
            self.remove(self.idlest);
        }
        let id = session.id;
        let number = if self.free == NONE {
            self.slots.push(session);
            u32::try_from(self.slots.len() - 1).expect("no more slots than SESSIONS_MAX")
        } else {
            let number = self.free;
            let slot = &mut self.slots[number as usize];
            self.free = slot.busier;
            *slot = session;
            number
        };
        let slots = &self.slots;
        self.table.insert_unique(hash(id), number, |number| hash(slots[*number as usize].id));
        self.link(number);
    }

    /// Closes a session; says whether it was open.
    pub fn close(&mut self, id: SessionId) -> bool {
        let Some(number) = self.find(id) else { return false };
        self.remove(number);
        true
    }

    /// Log time has reached `now`: sessions that were idle for longer than they may expire.
    pub fn advance(&mut self, now: Hlc) {
        while let Some(session) = self.slots.get(self.idlest as usize)
            && session.active_at.after_millis(self.idle_millis_max) < now
        {
            self.remove(self.idlest);
        }
    }

    /// A block of this session arrived: it is active now, and the client has the replies of all
    /// sequences below `acked_below`. Looks the session up once for the whole block.
    pub fn touch(
        &mut self,
        id: SessionId,
        acked_below: Sequence,
        now: Hlc,
    ) -> Option<&mut Session<R>> {
        let number = self.find(id)?;
        self.save_as_it_is(number);
        if number != self.busiest {
            self.unlink(number);
            self.link(number);
        }
        let session = &mut self.slots[number as usize];
        session.active_at = now;
        session.acknowledge(acked_below);
        Some(session)
    }

    /// An open session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session<R>> {
        self.find(id).map(|number| &self.slots[number as usize])
    }

    /// An open session, to record replies in.
    pub fn session_mut(&mut self, id: SessionId) -> Option<&mut Session<R>> {
        let number = self.find(id)?;
        self.save_as_it_is(number);
        Some(&mut self.slots[number as usize])
    }

    /// Decides what to do with a command; see [`Session::check`]. A command of a session that is not
    /// open is refused as [`CommandError::SessionExpired`].
    #[must_use]
    pub fn check(&self, id: SessionId, sequence: Sequence) -> Verdict<R> {
        let expired = Verdict::Refuse(CommandError::SessionExpired);
        self.session(id).map_or(expired, |session| session.check(sequence))
    }

    /// Remembers a reply; see [`Session::record`].
    ///
    /// # Panics
    /// If [`check`](Self::check) would not let the command through.
    pub fn record(&mut self, id: SessionId, sequence: Sequence, reply: R) {
        let session = self.session_mut(id).expect("a command is applied in an open session");
        session.record(sequence, reply);
    }

    /// Open sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The replies that may be asked for again, of all sessions.
    pub fn replies(&self) -> impl Iterator<Item = &R> {
        self.idlest_first().flat_map(|session| &session.replies)
    }

    /// Appends all sessions and their replies, the idlest session first: a version byte, the last id,
    /// their number, and of each its id, when it was active (since the one before), the expected
    /// sequence, and the number of replies and the replies. Equal on nodes that have applied the same
    /// entries.
    pub fn snapshot(&self, out: &mut Vec<u8>, write_reply: impl Fn(&R, &mut Vec<u8>)) {
        out.push(SNAPSHOT_VERSION);
        wire::encode_into(&(self.id_last, self.len() as u64), out);
        let mut active_at = Hlc::ZERO;
        for session in self.idlest_first() {
            Saved::new(session, &write_reply).write(&mut active_at, out);
        }
    }

    /// Begins a [`snapshot`](Self::snapshot) of the sessions as they are now, to be written in pieces;
    /// one that was begun before is given up. Takes about 20 ns for each session.
    pub fn begin_snapshot(&mut self, write_reply: fn(&R, &mut Vec<u8>)) {
        let mut order = Vec::with_capacity(self.len());
        let mut next = self.idlest;
        while let Some(session) = self.slots.get_mut(next as usize) {
            session.rank = order.len() as Number;
            order.push(next);
            next = session.busier;
        }
        self.snapshot = Some(Writing {
            id_last: self.id_last,
            order,
            written: None,
            active_at: Hlc::ZERO,
            saved: BTreeMap::new(),
            write_reply,
        });
    }

    /// Appends further sessions of the snapshot until there are `bytes_max` more bytes; at least one, with
    /// all of its replies. Says whether that was all. The pieces are what [`snapshot`](Self::snapshot)
    /// would have written.
    pub fn snapshot_piece(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let Some(writing) = &mut self.snapshot else { return true };
        let end = out.len().saturating_add(bytes_max);
        if writing.written.is_none() {
            out.push(SNAPSHOT_VERSION);
            wire::encode_into(&(writing.id_last, writing.order.len() as u64), out);
        }
        let mut written = writing.written.unwrap_or(0);
        while written < writing.order.len() {
            let session = &mut self.slots[writing.order[written] as usize];
            let saved = writing.saved.remove(&(written as Number)).unwrap_or_else(|| {
                session.rank = NONE;
                Saved::new(session, writing.write_reply)
            });
            saved.write(&mut writing.active_at, out);
            written += 1;
            if out.len() >= end {
                break;
            }
        }
        writing.written = Some(written);
        let is_whole = written == writing.order.len();
        if is_whole {
            self.snapshot = None;
        }
        is_whole
    }

    /// Before a session changes: what a snapshot has yet to write of it is put aside.
    fn save_as_it_is(&mut self, number: Number) {
        let Some(writing) = &mut self.snapshot else { return };
        let session = &mut self.slots[number as usize];
        let rank = core::mem::replace(&mut session.rank, NONE);
        if rank != NONE {
            writing.saved.insert(rank, Saved::new(session, writing.write_reply));
        }
    }

    /// The sessions that [`snapshot`](Self::snapshot) wrote. Total. Should there be more of them than
    /// `limits` has room for, the idlest expire, as they do when one more opens.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn restore(
        limits: &Limits,
        bytes: &[u8],
        read_reply: impl Fn(&mut &[u8]) -> Result<R, RestoreError>,
    ) -> Result<Self, RestoreError> {
        let mut sessions = Self::new(limits);
        let mut reader = SnapshotReader::new(bytes, SNAPSHOT_VERSION)?;
        sessions.id_last = SessionId(reader.number(COUNTER_MAX, "the last session's id")?);
        let mut active_at = Hlc::ZERO;
        for _ in 0..reader.number(limits::SESSIONS_MAX as u64, "the number of sessions")? {
            let id = SessionId(reader.number(sessions.id_last.0, "a session's id")?);
            reader.check(sessions.find(id).is_none(), "two sessions have one id")?;
            let since = reader.number(u64::MAX - active_at.0, "a session's activity")?;
            active_at = Hlc(active_at.0 + since);
            let expected = Sequence(reader.number(COUNTER_MAX, "a session's sequence")?);
            let replies_max = expected.0.saturating_sub(1).min(limits::SESSION_WINDOW as u64);
            let count = reader.number(replies_max, "a session's number of replies")?;
            let mut replies = VecDeque::new();
            for _ in 0..count {
                replies.push_back(reader.with(&read_reply)?);
            }
            let is_numbered = id != SessionId::ZERO && expected != Sequence::ZERO;
            reader.check(is_numbered, "a session or its sequence is 0")?;
            let (idler, busier) = (NONE, NONE);
            let rank = NONE;
            sessions.insert(Session { id, active_at, expected, replies, idler, busier, rank });
        }
        reader.finish()?;
        Ok(sessions)
    }

    /// A checksum of all sessions, equal on nodes that have applied the same entries.
    pub fn digest(&self, hash_reply: impl Fn(&R) -> u64) -> u64 {
        let mut hasher = Xxh3::new();
        let mut number = |value: u64| hasher.update(&value.to_le_bytes());
        number(self.id_last.0);
        for session in self.idlest_first() {
            number(session.id.0);
            number(session.active_at.0);
            number(session.expected.0);
            number(session.replies.len() as u64);
            session.replies.iter().for_each(|reply| number(hash_reply(reply)));
        }
        hasher.digest()
    }

    /// Checks every named invariant; tests and simulations call it after each step.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        assert!(self.len() <= self.sessions_max, "sessions_are_bounded");
        let (mut count, mut active_at) = (0, Hlc::ZERO);
        for session in self.idlest_first() {
            count += 1;
            assert!(session.active_at >= active_at, "sessions_in_order_of_activity");
            active_at = session.active_at;
            assert!(session.id <= self.id_last, "session_ids_are_minted_here");
            let found = self.session(session.id).map(Session::id);
            assert!(found == Some(session.id), "session_is_found_by_its_id");
            assert!(session.replies.len() <= limits::SESSION_WINDOW, "replies_are_bounded");
            assert!((session.replies.len() as u64) < session.expected.0, "replies_were_recorded");
        }
        assert!(count == self.len(), "each_session_is_in_the_order");
    }

    fn idlest_first(&self) -> impl Iterator<Item = &Session<R>> {
        let slot = |number: Number| self.slots.get(number as usize);
        core::iter::successors(slot(self.idlest), move |session| slot(session.busier))
    }

    fn find(&self, id: SessionId) -> Option<Number> {
        let is_it = |number: &Number| self.slots[*number as usize].id == id;
        self.table.find(hash(id), is_it).copied()
    }

    /// Makes a session that is not in the order the busiest.
    fn link(&mut self, number: Number) {
        let idler = core::mem::replace(&mut self.busiest, number);
        match self.slots.get_mut(idler as usize) {
            Some(session) => session.busier = number,
            None => self.idlest = number,
        }
        let session = &mut self.slots[number as usize];
        (session.idler, session.busier) = (idler, NONE);
    }

    fn unlink(&mut self, number: Number) {
        let Session { idler, busier, .. } = self.slots[number as usize];
        match self.slots.get_mut(idler as usize) {
            Some(session) => session.busier = busier,
            None => self.idlest = busier,
        }
        match self.slots.get_mut(busier as usize) {
            Some(session) => session.idler = idler,
            None => self.busiest = idler,
        }
    }

    fn remove(&mut self, number: Number) {
        self.save_as_it_is(number);
        self.unlink(number);
        let id = self.slots[number as usize].id;
        let found = self.table.find_entry(hash(id), |other| *other == number);
        found.expect("an open session is in the table").remove();
        let session = &mut self.slots[number as usize];
        session.replies = VecDeque::new();
        session.busier = self.free;
        self.free = number;
    }
}
