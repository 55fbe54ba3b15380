//! The model: which states follow one another.
//!
//! Everything that the network, the disks and the clocks may do is an action. A message that is lost
//! is lost when it is sent, which looks no different to anybody from losing it later; so whatever is
//! in flight is going to matter, and a bound on it is a bound on how much is going on at once.
//! Never looks into the engine: members are stepped by `catalog`.
//! Next: `properties` for what must hold.

use super::Bounds;
use super::catalog::{Catalog, Event, MemberEntry, MessageEntry, Step};
use super::form::MEMBERS_MAX;
use super::member::{Member, Setup, Summary};
use super::properties::{self, Witness, Witnesses};
use super::state::{Broken, History, IN_FLIGHT_MAX, Network, State, TERMS_MAX};
use engine::ids::NodeId;
use engine::raft::{Body, Change, ChangeRequest, Leave, Step as ChangeStep};
use stateright::{Model, Property};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a check and those who watch it share.
pub(super) struct Shared {
    pub(super) catalog: Catalog,
    pub(super) witnesses: Witnesses,
    /// States visited.
    pub(super) visited: AtomicUsize,
    /// Set to end the check where it is.
    pub(super) is_stopped: AtomicBool,
}

/// Groups of members within bounds.
pub(super) struct Group {
    pub(super) bounds: Bounds,
    pub(super) shared: Arc<Shared>,
}

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Action {
    /// To which member, from 0.
    pub(super) at: u8,
    pub(super) event: Event,
    /// The message that arrives is also still to arrive.
    pub(super) is_duplicated: bool,
    /// Which of the messages that are sent by it get through, a bit each.
    pub(super) kept: u8,
    /// What it does to the member.
    pub(super) step: u32,
}

/// What may be asked of the membership: to take out any one or two members at once; and, where there
/// may be a second request, to stay joint until it comes, and to end that either way.
fn menu(bounds: &Bounds) -> Vec<ChangeRequest> {
    if bounds.changes == 0 {
        return Vec::new();
    }
    let nodes = || (1..=u64::from(bounds.members)).map(NodeId);
    let pairs = nodes().flat_map(|one| {
        nodes().filter(move |other| *other > one).map(move |other| vec![one, other])
    });
    let departing: Vec<Vec<NodeId>> = nodes().map(|node| vec![node]).chain(pairs).collect();
    let remove = |leave| {
        let steps = |nodes: &Vec<NodeId>| nodes.iter().copied().map(ChangeStep::Remove).collect();
        let change = move |steps| ChangeRequest::Change(Change { steps, leave });
        departing.iter().map(steps).map(change)
    };
    let mut menu: Vec<ChangeRequest> = remove(Leave::Automatic).collect();
    if bounds.changes > 1 {
        menu.extend(remove(Leave::Explicit));
        menu.extend([ChangeRequest::Leave, ChangeRequest::Cancel]);
    }
    menu
}

impl Group {
    /// # Panics
    /// If the bounds exceed what a state has room for.
    pub(super) fn new(bounds: Bounds, keeps_aliases: bool) -> Self {
        assert!((1..=MEMBERS_MAX).contains(&usize::from(bounds.members)));
        assert!((1..=TERMS_MAX).contains(&usize::from(bounds.terms)));
        assert!(usize::from(bounds.in_flight) <= IN_FLIGHT_MAX);
        let setup = Setup {
            members: usize::from(bounds.members),
            is_flushed_at_once: bounds.unsynced == 0,
            window: u64::from(bounds.window),
        };
        let shared = Shared {
            catalog: Catalog::new(setup, menu(&bounds), keeps_aliases),
            witnesses: Witnesses::default(),
            visited: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
        };
        Self { bounds, shared: Arc::new(shared) }
    }

    /// A group that has just been founded.
    fn fresh(&self) -> State {
        let catalog = &self.shared.catalog;
        let members = self.members_count();
        let mut numbers = [0; MEMBERS_MAX];
        for (at, number) in numbers.iter_mut().enumerate().take(members) {
            *number = catalog.add_member(Member::new(at as u64 + 1, catalog.setup));
        }
        let mut state = State {
            members: numbers,
            network: Network::default(),
            history: History::default(),
            crashes_left: self.bounds.crashes,
            duplicates_left: self.bounds.duplicates,
            proposals_left: self.bounds.proposals,
            changes_left: self.bounds.changes,
            broken: None,
            fingerprint: 0,
        };
        state.seal(catalog, members);
        state
    }

    /// `state` after `leader` was elected by `voter` alone, and was heard by nobody since: it is the
    /// only one that has the entries of its term. If two messages may be in flight, the request for
    /// the third member's vote still is.
    fn led_by(&self, state: &State, leader: u64, voter: u64) -> State {
        let mut state = state.clone();
        state.network = Network::default();
        while self.summary(&state, leader).is_leader {
            self.happens(&mut state, leader, Event::TimeOut);
        }
        // The voter forgets the leader before; its own campaign is lost on the way.
        self.happens(&mut state, voter, Event::TimeOut);
        let is_roomy = self.bounds.in_flight > 1;
        // The first campaign may only be told that it is late.
        for _ in 0..3 {
            let mut waiting = VecDeque::from([(leader, Event::TimeOut)]);
            while let Some((node, event)) = waiting.pop_front() {
                for number in self.happens(&mut state, node, event) {
                    let MessageEntry { to, message, .. } = self.shared.catalog.message(number);
                    if [leader, voter].contains(&to.0) {
                        waiting.push_back((to.0, Event::Deliver(number)));
                    } else if matches!(message.body, Body::VoteRequest { .. }) && is_roomy {
                        state.network.add(number);
                    }
                }
                let unsynced = self.summary(&state, node).unsynced;
                if unsynced > 0 {
                    waiting.push_front((node, Event::Flush(unsynced)));
                }
                if self.summary(&state, leader).is_leader {
                    self.flush(&mut state, leader);
                    return state;
                }
            }
        }
        panic!("a member that is voted for leads");
    }

    fn flush(&self, state: &mut State, node: u64) {
        let unsynced = self.summary(state, node).unsynced;
        if unsynced > 0 {
            self.happens(state, node, Event::Flush(unsynced));
        }
    }

    /// Lets `event` happen to `node`. Returns what it sends.
    fn happens(&self, state: &mut State, node: u64, event: Event) -> Vec<u32> {
        let member = &mut state.members[node as usize - 1];
        let step = self.step(self.shared.catalog.step_number(*member, event));
        let before = &self.entry(*member).summary;
        *member = step.member;
        let observed = state.history.observe(before, &self.entry(step.member).summary);
        observed.expect("one campaign at a time breaks nothing");
        step.sent.clone()
    }

    fn summary(&self, state: &State, node: u64) -> &Summary {
        &self.entry(state.members[node as usize - 1]).summary
    }

    fn members_count(&self) -> usize {
        usize::from(self.bounds.members)
    }

    pub(super) fn entry(&self, number: u32) -> &MemberEntry {
        self.shared.catalog.member(number)
    }

    pub(super) fn step(&self, number: u32) -> &Step {
        self.shared.catalog.step(number)
    }

    /// What the properties look at, of each member.
    pub(super) fn summaries(&self, state: &State) -> Vec<&Summary> {
        let members = &state.members[..self.members_count()];
        members.iter().map(|number| &self.entry(*number).summary).collect()
    }

    /// What may happen to a member by itself.
    fn events(&self, state: &State, summary: &Summary) -> impl Iterator<Item = Event> + use<> {
        // Beyond the last term there are no campaigns, and disks that stall are left to simulations.
        let is_in_bounds = summary.is_leader || summary.term < self.bounds.terms;
        let may_time_out = is_in_bounds && !summary.is_disk_late;
        let may_propose = summary.is_leader && state.proposals_left > 0;
        let flushes = 1..=summary.unsynced;
        let crashes = if state.crashes_left > 0 { 0..summary.unsynced + 1 } else { 0..0 };
        let may_change = summary.is_leader && state.changes_left > 0;
        let requests = if may_change { self.shared.catalog.menu.len() as u8 } else { 0 };
        let time_out = may_time_out.then_some(Event::TimeOut);
        let propose = may_propose.then_some(Event::Propose);
        time_out
            .into_iter()
            .chain(propose)
            .chain((0..requests).map(Event::Change))
            .chain(flushes.map(Event::Flush))
            .chain(crashes.map(Event::Crash))
    }

    /// Adds the actions that an event amounts to: one for each choice of what gets through.
    fn offer(
        &self,
        state: &State,
        at: u8,
        event: Event,
        is_duplicated: bool,
        actions: &mut Vec<Action>,
    ) {
        let member = state.members[usize::from(at)];
        let number = self.shared.catalog.step_number(member, event);
        let step = self.step(number);
        if step.panic.is_none() {
            let summary = &self.entry(step.member).summary;
            // One that leadership is handed to campaigns without waiting.
            if summary.unsynced > self.bounds.unsynced || summary.term > self.bounds.terms {
                return;
            }
            // A message that changes nothing might as well have been lost.
            if step.member == member && step.sent.is_empty() {
                return;
            }
        }
        let is_removed = matches!(event, Event::Deliver(_)) && !is_duplicated;
        let in_flight = state.network.as_slice().len() - usize::from(is_removed);
        let room = u32::from(self.bounds.in_flight).saturating_sub(in_flight as u32);
        for kept in 0..1_u32 << step.sent.len() {
            let changes_nothing = kept == 0 && step.member == member && step.panic.is_none();
            if kept.count_ones() <= room && !changes_nothing {
                let kept = u8::try_from(kept).expect("at most one or two messages to each");
                actions.push(Action { at, event, is_duplicated, kept, step: number });
            }
        }
    }

    fn observe(&self, state: &State, action: &Action, step: &Step, next: &State) {
        let (before, after) = (
            &self.entry(state.members[usize::from(action.at)]).summary,
            &self.entry(step.member).summary,
        );
        let witnesses = &self.shared.witnesses;
        witnesses.observe(before, after);
        if step.is_truncated {
            witnesses.note(Witness::Overwritten);
        }
        if step.is_fetched {
            witnesses.note(Witness::Fetched);
        }
        if action.is_duplicated {
            witnesses.note(Witness::Duplicated);
        }
        match action.event {
            Event::Crash(kept) => {
                if after.last_index < before.last_index {
                    witnesses.note(Witness::TailLost);
                }
                if kept > 0 && kept < before.unsynced {
                    witnesses.note(Witness::TornApart);
                }
            }
            // The log ends before, or otherwise than, what is durable now.
            Event::Flush(_) if !after.log.as_slice().starts_with(after.disk.as_slice()) => {
                witnesses.note(Witness::LateCompletion);
            }
            Event::Flush(_)
            | Event::Deliver(_)
            | Event::TimeOut
            | Event::Propose
            | Event::Change(_) => {}
        }
        if after.is_leader && self.summaries(next).iter().filter(|s| s.is_leader).count() > 1 {
            witnesses.note(Witness::TwoLeaders);
        }
    }
}

impl Model for Group {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = self.fresh();
        for term in 1..=self.bounds.feuds {
            let leader = if term == 2 || term == 3 { 3 } else { 1 };
            state = self.led_by(&state, leader, 2);
            if term == 1 {
                // The longest log is not the newest (§5.4.1).
                self.happens(&mut state, leader, Event::Propose);
                self.flush(&mut state, leader);
            }
        }
        state.seal(&self.shared.catalog, self.members_count());
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.shared.is_stopped.load(Ordering::Relaxed) {
            return;
        }
        // The checker asks this once of every state, after it has checked the properties.
        self.shared.visited.fetch_add(1, Ordering::Relaxed);
        if state.broken.is_some() {
            return;
        }
        for at in 0..self.bounds.members {
            let summary = &self.entry(state.members[usize::from(at)]).summary;
            for event in self.events(state, summary) {
                self.offer(state, at, event, false, actions);
            }
        }
        let mut previous = None;
        for number in state.network.as_slice() {
            if previous.replace(number) == Some(number) {
                continue;
            }
            let to = self.shared.catalog.message(*number).to;
            let at = u8::try_from(to.0 - 1).expect("one of a few members");
            self.offer(state, at, Event::Deliver(*number), false, actions);
            if state.duplicates_left > 0 {
                self.offer(state, at, Event::Deliver(*number), true, actions);
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let step = self.step(action.step);
        let mut next = state.clone();
        let member = &mut next.members[usize::from(action.at)];
        let before = &self.entry(*member).summary;
        *member = step.member;
        match action.event {
            Event::Deliver(_) if action.is_duplicated => next.duplicates_left -= 1,
            Event::Deliver(message) => next.network.remove(message),
            Event::Propose => next.proposals_left -= 1,
            Event::Change(_) => next.changes_left -= 1,
            Event::Crash(_) => next.crashes_left -= 1,
            Event::TimeOut | Event::Flush(_) => {}
        }
        for (bit, message) in step.sent.iter().enumerate() {
            if action.kept >> bit & 1 == 1 {
                next.network.add(*message);
            }
        }
        next.broken = match &step.panic {
            Some(_) => Some(Broken::Invariant),
            None => {
                let after = &self.entry(step.member).summary;
                next.history.observe(before, after).err()
            }
        };
        next.seal(&self.shared.catalog, self.members_count());
        self.observe(state, &action, step, &next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
