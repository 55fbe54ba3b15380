//! Which call asked for which effect.
//!
//! A matching of intervals and points: a call may have caused an effect that came while it was under
//! way, is of the same content and was replied to just so. Found greedily first, earliest return
//! first, which is right wherever all calls are of one kind; where receives that wait, or calls whose
//! outcome is unknown, let the greedy choice go wrong, it is repaired by augmenting paths
//! (Kuhn, 1955), so that what can be explained is. Next: `explain`.

use super::explain::{Call, Effect, without_lengths};
use crate::history::Action;
use engine::hlc::Hlc;
use engine::ids::LeaseToken;
use engine::queue::{Command, Reply};
use std::collections::{BTreeMap, BTreeSet};

/// The queue from which the client library deletes a message that never was, in place of a command
/// that nobody waits for any more.
const PLACEHOLDER_QUEUE: &str = "-";

/// Who an effect belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// Nobody that is known.
    Nobody,
    /// The call with this number, which ended with it or may have.
    Call(usize),
    /// A receive that waited, which asked in vain; any number of effects may be its.
    Vain(usize),
    /// The client library itself, in place of a command that nobody waited for.
    Library,
}

/// Calls and effects with the same content.
#[derive(Default)]
struct Group {
    calls: Vec<usize>,
    effects: Vec<usize>,
}

/// The best explanation of all effects by calls.
pub(super) struct Matched<'a> {
    calls: &'a [Call],
    effects: &'a [Effect],
    /// The replies to the effects as far as the client library tells them.
    told: Vec<Reply>,
    owners: Vec<Owner>,
    by_call: BTreeMap<usize, usize>,
}

impl<'a> Matched<'a> {
    /// Matches effects, which are in the order of the log, with calls.
    pub(super) fn new(calls: &'a [Call], effects: &'a [Effect]) -> Self {
        let told = effects.iter().map(|effect| told(&effect.reply)).collect();
        let owners = vec![Owner::Nobody; effects.len()];
        let mut matched = Self { calls, effects, told, owners, by_call: BTreeMap::new() };
        let mut groups: BTreeMap<Vec<u8>, Group> = BTreeMap::new();
        for (number, call) in calls.iter().enumerate() {
            if let Action::Command(command) = &call.action {
                groups.entry(content(command)).or_default().calls.push(number);
            }
        }
        for (ordinal, effect) in effects.iter().enumerate() {
            if is_placeholder(&effect.command) {
                matched.owners[ordinal] = Owner::Library;
            } else {
                groups.entry(content(&effect.command)).or_default().effects.push(ordinal);
            }
        }
        groups.values().for_each(|group| matched.match_group(group));
        matched
    }

    /// The effect that a call had, if it is known to have had one.
    pub(super) fn effect_of(&self, call: usize) -> Option<usize> {
        self.by_call.get(&call).copied()
    }

    /// Effects that no single call answers for, with the client as far as it is known.
    pub(super) fn others(&self) -> impl Iterator<Item = (usize, u64)> {
        self.owners.iter().enumerate().filter_map(|(ordinal, owner)| match owner {
            Owner::Vain(call) => Some((ordinal, self.calls[*call].client)),
            Owner::Library => Some((ordinal, 0)),
            Owner::Nobody | Owner::Call(_) => None,
        })
    }

    fn match_group(&mut self, group: &Group) {
        for effect in &group.effects {
            self.match_greedily(group, *effect);
        }
        for effect in &group.effects {
            if self.owners[*effect] == Owner::Nobody {
                self.find_call(group, *effect, &mut BTreeSet::new());
            }
        }
        for call in &group.calls {
            if self.calls[*call].is_answered() && !self.by_call.contains_key(call) {
                self.find_effect(group, *call, &mut BTreeSet::new());
            }
        }
    }

    fn fits(&self, call: usize, effect: usize) -> bool {
        self.calls[call].fits(self.effects[effect].at_us, &self.told[effect])
    }

    fn match_greedily(&mut self, group: &Group, effect: usize) {
        let free = group.calls.iter().copied().filter(|call| !self.by_call.contains_key(call));
        let fitting = free.filter(|call| self.fits(*call, effect));
        let best = fitting.min_by_key(|call| (self.calls[*call].open_until_us(), *call));
        match (best, self.asked_in_vain(group, effect)) {
            (Some(call), None) => self.assign(call, effect),
            (Some(call), Some(_)) if self.calls[call].is_answered() => self.assign(call, effect),
            (_, Some(call)) => self.owners[effect] = Owner::Vain(call),
            (None, None) => {}
        }
    }

    /// A receive that waited when this effect gave somebody nothing.
    fn asked_in_vain(&self, group: &Group, effect: usize) -> Option<usize> {
        let at_us = self.effects[effect].at_us;
        let is_empty = matches!(&self.told[effect], Reply::Received { deliveries, .. } if deliveries.is_empty());
        let mut waiting = group.calls.iter().filter(|call| self.calls[**call].is_waiting);
        waiting.find(|call| is_empty && self.calls[**call].is_under_way(at_us)).copied()
    }

    fn assign(&mut self, call: usize, effect: usize) {
        self.owners[effect] = Owner::Call(call);
        self.by_call.insert(call, effect);
    }

    /// Finds a call for an effect, letting calls change their effects for it.
    fn find_call(&mut self, group: &Group, effect: usize, seen: &mut BTreeSet<usize>) -> bool {
        for call in group.calls.iter().copied() {
            if !self.fits(call, effect) || !seen.insert(call) {
                continue;
            }
            let is_free = match self.by_call.get(&call).copied() {
                None => true,
                Some(other) => match self.asked_in_vain(group, other) {
                    Some(waiting) => {
                        self.owners[other] = Owner::Vain(waiting);
                        true
                    }
                    None => self.find_call(group, other, seen),
                },
            };
            if is_free {
                self.assign(call, effect);
                return true;
            }
        }
        false
    }

    /// Finds an effect for a call, letting effects change their calls for it.
    fn find_effect(&mut self, group: &Group, call: usize, seen: &mut BTreeSet<usize>) -> bool {
        for effect in group.effects.iter().copied() {
            if !self.fits(call, effect) || !seen.insert(effect) {
                continue;
            }
            let is_free = match self.owners[effect] {
                Owner::Nobody | Owner::Vain(_) | Owner::Library => true,
                Owner::Call(other) if !self.calls[other].is_answered() => {
                    self.by_call.remove(&other);
                    true
                }
                Owner::Call(other) => self.find_effect(group, other, seen),
            };
            if is_free {
                self.assign(call, effect);
                return true;
            }
        }
        false
    }
}

fn is_placeholder(command: &Command) -> bool {
    matches!(command, Command::Delete { queue, .. } if queue == PLACEHOLDER_QUEUE)
}

/// A command as its caller gave it, before the client stamped its messages.
fn content(command: &Command) -> Vec<u8> {
    let mut command = command.clone();
    if let Command::Send { messages } = &mut command {
        messages.iter_mut().for_each(|message| message.sent_at = Hlc::ZERO);
    }
    let mut bytes = Vec::new();
    command.encode_into(&mut bytes);
    bytes
}

/// A reply as far as the client library tells it.
fn told(reply: &Reply) -> Reply {
    match reply {
        Reply::Received { deliveries, .. } if deliveries.is_empty() => {
            let token = LeaseToken::ZERO;
            Reply::Received { token, until: Hlc::ZERO, deliveries: Vec::new() }
        }
        other => without_lengths(other),
    }
}
