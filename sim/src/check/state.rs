//! A group at one moment, and what it has promised so far.
//!
//! Owns the shape and the identity of states: a state is its fingerprint, the least over all
//! renamings of its members, so that groups that differ only in who is who are one state (symmetry
//! reduction), and a set of messages is the same in every order. Next: `model` for how states follow
//! one another, `properties` for what must hold in each.

use super::catalog::Catalog;
use super::form::{MEMBERS_MAX, Renamings, mix};
use super::member::{Summary, Terms, Voters};
use std::hash::{Hash, Hasher};

/// Most terms a profile may have.
pub(super) const TERMS_MAX: usize = 7;
/// Most messages that may be in flight.
pub(super) const IN_FLIGHT_MAX: usize = 6;

/// Messages in flight, by number, sorted: any of them may arrive next.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Network {
    len: u8,
    messages: [u32; IN_FLIGHT_MAX],
}

impl Network {
    pub(super) fn as_slice(&self) -> &[u32] {
        &self.messages[..usize::from(self.len)]
    }

    pub(super) fn add(&mut self, message: u32) {
        let at = self.as_slice().partition_point(|other| *other < message);
        self.messages.copy_within(at..usize::from(self.len), at + 1);
        self.messages[at] = message;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, message: u32) {
        let at = self.as_slice().iter().position(|other| *other == message);
        let at = at.expect("only what is in flight arrives");
        self.messages.copy_within(at + 1..usize::from(self.len), at);
        self.len -= 1;
    }
}

/// What must stay true for ever.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct History {
    /// The terms that had a leader, a bit each.
    pub(super) terms_led: u8,
    /// The terms of all entries that anybody ever held for committed.
    pub(super) committed: Terms,
    /// The term in which each of them was first held so.
    pub(super) committed_in: Terms,
    /// Who had to agree to the newest of them.
    pub(super) committed_by: Voters,
}

/// A promise that was broken by the step that led here. Those that a state shows are not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// Two leaders in one term.
    ElectionSafety,
    /// Two entries committed at one index.
    StateMachineSafety,
    /// The engine gave up.
    Invariant,
}

impl History {
    /// Takes in what a member has become. Says what that breaks.
    pub(super) fn observe(&mut self, before: &Summary, after: &Summary) -> Result<(), Broken> {
        if after.is_leader && !(before.is_leader && before.term == after.term) {
            if self.terms_led >> after.term & 1 == 1 {
                return Err(Broken::ElectionSafety);
            }
            self.terms_led |= 1 << after.term;
        }
        let committed = &after.log.as_slice()[..usize::from(after.commit)];
        for (at, term) in committed.iter().enumerate() {
            match self.committed.as_slice().get(at) {
                Some(agreed) if agreed == term => {}
                Some(_) => return Err(Broken::StateMachineSafety),
                None => {
                    self.committed.push(*term);
                    self.committed_in.push(after.term);
                    self.committed_by = after.voters;
                }
            }
        }
        Ok(())
    }

    /// Forgets who led the terms that every disk is past: nobody can lead them again.
    pub(super) fn forget_before(&mut self, term: u8) {
        self.terms_led &= u8::MAX << term;
    }
}

/// A group at one moment.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The members, by number in the catalog; as many as the group has.
    pub(super) members: [u32; MEMBERS_MAX],
    pub(super) network: Network,
    pub(super) history: History,
    pub(super) crashes_left: u8,
    pub(super) duplicates_left: u8,
    pub(super) proposals_left: u8,
    pub(super) changes_left: u8,
    pub(super) broken: Option<Broken>,
    pub(super) fingerprint: u64,
}

impl State {
    /// Sets the fingerprint after a change.
    pub(super) fn seal(&mut self, catalog: &Catalog, members_count: usize) {
        let numbers = self.members;
        let members = numbers.iter().take(members_count).map(|number| catalog.member(*number));
        let oldest = members.clone().map(|entry| entry.summary.disk_term).min();
        self.history.forget_before(oldest.unwrap_or(0));
        // Once nobody crashes any more, nobody reads what only a crash lets be read.
        let is_disk_read = self.crashes_left > 0;
        let mut digests = [None; MEMBERS_MAX];
        for (slot, entry) in digests.iter_mut().zip(members) {
            *slot = Some(if is_disk_read { &entry.digests } else { &entry.digests_without_disk });
        }
        let mut messages = [None; IN_FLIGHT_MAX];
        for (slot, number) in messages.iter_mut().zip(self.network.as_slice()) {
            *slot = Some(&catalog.message(*number).digests);
        }
        let plain = self.digest_of_numbers();
        let under = |renaming: usize| {
            // Sums, because neither members nor messages have an order.
            let of_members = digests.iter().flatten().map(|d| mix(d.under(renaming), 1));
            let of_messages = messages.iter().flatten().map(|d| mix(d.under(renaming), 2));
            let of_voters = self.digest_of_voters(&catalog.renamings, renaming);
            mix(of_members.chain(of_messages).fold(of_voters, u64::wrapping_add), plain)
        };
        let renamings = 0..catalog.renamings.len();
        self.fingerprint = renamings.map(under).min().expect("the identity is one");
    }

    fn digest_of_voters(&self, renamings: &Renamings, renaming: usize) -> u64 {
        let renamed = |set: u8| -> u8 {
            let nodes = (1..=MEMBERS_MAX as u8).filter(|node| set >> node & 1 == 1);
            nodes.map(|node| 1 << renamings.name(renaming, node)).sum()
        };
        let Voters { incoming, outgoing } = self.history.committed_by;
        mix(u64::from(renamed(incoming)) << 8 | u64::from(renamed(outgoing)), 7)
    }

    /// What no renaming changes.
    fn digest_of_numbers(&self) -> u64 {
        let budgets =
            [self.crashes_left, self.duplicates_left, self.proposals_left, self.changes_left];
        let broken = self.broken.map_or(0, |broken| broken as u8 + 1);
        let (committed, committed_in) =
            (self.history.committed.as_slice(), self.history.committed_in.as_slice());
        let terms = committed.iter().zip(committed_in).flat_map(|(a, b)| [*a, *b]);
        let start =
            mix(u64::from(broken) << 8 | u64::from(self.history.terms_led), committed.len() as u64);
        budgets.into_iter().chain(terms).fold(start, |digest, n| mix(digest, u64::from(n)))
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.fingerprint);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}
