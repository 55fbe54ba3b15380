//! Everything that was ever seen, once: members, messages, and what came of each input.
//!
//! Groups differ in few members and messages that are combined in many ways, so a state names them
//! by number, and each step of the engine is computed once. Owns memory, and no rule.
//! Next: `model` for the states that are made of these numbers.

use super::form::{CLOCK_START, Digests, Frame, Renamings};
use super::member::{Input, Member, Sent, Setup, Summary};
use crate::sweep::guarded;
use engine::ids::NodeId;
use engine::raft::{ChangeRequest, Message};
use engine::storage::IoId;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

/// Numbers of the catalog are their own hash, once spread.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = super::form::mix(self.0, number);
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
}

type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Rows of a shelf; each is twice as long as the one before.
const ROWS: usize = 32;

/// Values by number, added by any thread and read without a lock.
struct Shelf<T> {
    rows: [OnceLock<Box<[OnceLock<T>]>>; ROWS],
}

impl<T> Shelf<T> {
    fn new() -> Self {
        Self { rows: [const { OnceLock::new() }; ROWS] }
    }

    /// Row, its length, and the place in it.
    fn place(number: u32) -> (usize, usize, usize) {
        let number = number + 1;
        let row = number.ilog2();
        (row as usize, 1 << row, (number - (1 << row)) as usize)
    }

    fn get(&self, number: u32) -> &T {
        let (row, _, at) = Self::place(number);
        let slot = self.rows[row].get().and_then(|row| row[at].get());
        slot.expect("a number is handed out after its value was put")
    }

    fn put(&self, number: u32, value: T) {
        let (row, len, at) = Self::place(number);
        let row = self.rows[row].get_or_init(|| (0..len).map(|_| OnceLock::new()).collect());
        assert!(row[at].set(value).is_ok(), "a number is handed out once");
    }
}

/// Values by what makes them equal.
struct Index<T> {
    numbers: Mutex<NumberMap<u64, u32>>,
    shelf: Shelf<T>,
}

impl<T> Index<T> {
    fn new() -> Self {
        Self { numbers: Mutex::default(), shelf: Shelf::new() }
    }

    /// The number of the value with this key, and whether it is new.
    fn number(&self, key: u64, value: impl FnOnce() -> T) -> (u32, bool) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(&key) {
            return (*number, false);
        }
        let number = u32::try_from(numbers.len()).expect("fewer than four billion");
        self.shelf.put(number, value());
        numbers.insert(key, number);
        (number, true)
    }

    fn len(&self) -> usize {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A member that was seen.
pub(super) struct MemberEntry {
    pub(super) member: Member,
    pub(super) summary: Summary,
    pub(super) digests: Digests,
    /// Of all but the hard states on and under way to the disk, which only a crash brings back.
    pub(super) digests_without_disk: Digests,
}

/// A message that was seen.
pub(super) struct MessageEntry {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
    pub(super) digests: Digests,
}

/// What happens to a member, by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Event {
    /// The message of this number arrives.
    Deliver(u32),
    /// As [`Input::TimeOut`].
    TimeOut,
    /// As [`Input::Propose`].
    Propose,
    /// The request of this number on the menu is made.
    Change(u8),
    /// As [`Input::Flush`].
    Flush(u8),
    /// As [`Input::Crash`].
    Crash(u8),
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Step {
    /// The member it became.
    pub(super) member: u32,
    /// The messages it sent.
    pub(super) sent: Vec<u32>,
    pub(super) is_truncated: bool,
    pub(super) is_fetched: bool,
    /// What the engine said when it gave up.
    pub(super) panic: Option<String>,
}

const SHARDS: usize = 64;

/// All of it.
pub(super) struct Catalog {
    pub(super) renamings: Renamings,
    pub(super) setup: Setup,
    /// What may be asked of the membership; empty where it never changes.
    pub(super) menu: Vec<ChangeRequest>,
    members: Index<MemberEntry>,
    messages: Index<MessageEntry>,
    step_numbers: Vec<RwLock<NumberMap<(u32, Event), u32>>>,
    steps: Shelf<Step>,
    steps_count: AtomicU32,
    /// Members that were taken for known ones, if they are to be looked at again.
    aliases: Option<Mutex<NumberMap<u64, (u32, Member)>>>,
}

impl Catalog {
    pub(super) fn new(setup: Setup, menu: Vec<ChangeRequest>, keeps_aliases: bool) -> Self {
        Self {
            renamings: Renamings::of(setup.members),
            setup,
            menu,
            members: Index::new(),
            messages: Index::new(),
            step_numbers: (0..SHARDS).map(|_| RwLock::default()).collect(),
            steps: Shelf::new(),
            steps_count: AtomicU32::new(0),
            aliases: keeps_aliases.then(Mutex::default),
        }
    }

    pub(super) fn member(&self, number: u32) -> &MemberEntry {
        self.members.shelf.get(number)
    }

    pub(super) fn message(&self, number: u32) -> &MessageEntry {
        self.messages.shelf.get(number)
    }

    /// How many different members there have been.
    pub(super) fn members_count(&self) -> usize {
        self.members.len()
    }

    fn form(&self, member: &Member) -> Digests {
        self.frame(member).digest(&(&member.raft, &member.image, &member.unsynced))
    }

    fn form_without_disk(&self, member: &Member) -> Digests {
        let under_way: Vec<_> = member.unsynced.iter().map(|p| (p.io, &p.records)).collect();
        self.frame(member).digest(&(&member.raft, &member.image.log, under_way))
    }

    fn frame(&self, member: &Member) -> Frame<'_> {
        let Member { now, durable_io, .. } = *member;
        Frame { renamings: &self.renamings, now, durable_io }
    }

    pub(super) fn add_member(&self, member: Member) -> u32 {
        let digests = self.form(&member);
        let alias = self.aliases.as_ref().map(|aliases| (aliases, member.clone()));
        let digests_without_disk = self.form_without_disk(&member);
        let summary = Summary::of(&member);
        let entry = || MemberEntry { member, summary, digests, digests_without_disk };
        let (number, is_new) = self.members.number(digests.plain(), entry);
        if let Some((aliases, member)) = alias.filter(|_| !is_new) {
            let text = format!("{member:?}");
            if text != format!("{:?}", self.member(number).member) {
                let mut aliases = aliases.lock().unwrap_or_else(PoisonError::into_inner);
                aliases.insert(xxhash_rust::xxh3::xxh3_64(text.as_bytes()), (number, member));
            }
        }
        number
    }

    fn add_message(&self, from: NodeId, sent: Sent) -> u32 {
        let Sent { to, message } = sent;
        let frame =
            Frame { renamings: &self.renamings, now: CLOCK_START, durable_io: IoId::default() };
        let digests = frame.digest(&(from, to, &message));
        let entry = || MessageEntry { from, to, message, digests };
        self.messages.number(digests.plain(), entry).0
    }

    fn input(&self, event: Event) -> Input {
        match event {
            Event::Deliver(number) => {
                let MessageEntry { from, message, .. } = self.message(number);
                Input::Deliver { from: *from, message: message.clone() }
            }
            Event::TimeOut => Input::TimeOut,
            Event::Propose => Input::Propose,
            Event::Change(number) => Input::Change(self.menu[usize::from(number)].clone()),
            Event::Flush(count) => Input::Flush(usize::from(count)),
            Event::Crash(kept) => Input::Crash(usize::from(kept)),
        }
    }

    /// What becomes of a member by an event, by number.
    pub(super) fn step_number(&self, member: u32, event: Event) -> u32 {
        let mut hasher = NumberHasher::default();
        (member, event).hash(&mut hasher);
        let shard = &self.step_numbers[(hasher.finish() >> 32) as usize % SHARDS];
        let known = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = known.get(&(member, event)) {
            return *number;
        }
        drop(known);
        // Another thread may be at it too; whoever is first hands out the number.
        let step = self.compute(member, event);
        let mut known = shard.write().unwrap_or_else(PoisonError::into_inner);
        *known.entry((member, event)).or_insert_with(|| {
            let number = self.steps_count.fetch_add(1, Ordering::Relaxed);
            self.steps.put(number, step);
            number
        })
    }

    pub(super) fn step(&self, number: u32) -> &Step {
        self.steps.get(number)
    }

    fn compute(&self, number: u32, event: Event) -> Step {
        let before = &self.member(number).member;
        let input = self.input(event);
        match guarded(|| before.after(&input, self.setup)) {
            Ok(outcome) => {
                let from = before.raft.node();
                Step {
                    member: self.add_member(outcome.member),
                    sent: outcome.sent.into_iter().map(|s| self.add_message(from, s)).collect(),
                    is_truncated: outcome.is_truncated,
                    is_fetched: outcome.is_fetched,
                    panic: None,
                }
            }
            Err(panic) => Step {
                member: number,
                sent: Vec::new(),
                is_truncated: false,
                is_fetched: false,
                panic: Some(panic),
            },
        }
    }

    /// Checks that members that were taken for known ones have the same future: whatever happens to
    /// both, of all that was ever seen to happen, they say the same and become of one form again.
    /// Returns how many were looked at.
    ///
    /// # Panics
    /// If the form leaves out what matters.
    pub(super) fn audit(&self) -> usize {
        let aliases = self.aliases.as_ref().expect("made to keep aliases");
        let aliases = aliases.lock().unwrap_or_else(PoisonError::into_inner);
        for (known, member) in aliases.values() {
            self.compare(&self.member(*known).member, member);
        }
        aliases.len()
    }

    fn compare(&self, known: &Member, member: &Member) {
        for input in self.inputs_of(member) {
            let [a, b] = [known, member].map(|m| guarded(|| m.after(&input, self.setup)));
            let forms = [&a, &b].map(|outcome| {
                let outcome = outcome.as_ref().ok()?;
                // In flight, messages have no order.
                let mut sent: Vec<_> = outcome.sent.iter().map(|s| format!("{s:?}")).collect();
                sent.sort();
                Some((self.form(&outcome.member), sent))
            });
            assert!(
                forms[0] == forms[1],
                "two members of one form differ after {input:?}:\n{known:?}\n{member:?}"
            );
        }
    }

    fn inputs_of(&self, member: &Member) -> Vec<Input> {
        let mut inputs = vec![Input::TimeOut];
        let raft = &member.raft;
        if raft.is_leader() && !raft.wants_first_entry() {
            inputs.push(Input::Propose);
            inputs.extend(self.menu.iter().cloned().map(Input::Change));
        }
        inputs.extend((1..=member.unsynced.len()).map(Input::Flush));
        inputs.extend((0..=member.unsynced.len()).map(Input::Crash));
        let messages = u32::try_from(self.messages.len()).expect("fewer than four billion");
        let for_it = (0..messages).filter(|number| self.message(*number).to == raft.node());
        inputs.extend(for_it.map(|number| self.input(Event::Deliver(number))));
        inputs
    }
}
