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

#[cfg(test)]
mod tests {
    use super::super::explain::End;
    use super::*;
    use engine::ids::{LogIndex, Position, Sequence, SessionId};
    use engine::queue::{Delivered, ReceiveMode};

    fn receive() -> Command {
        Command::Receive { queue: "q".to_owned(), max: 1, mode: ReceiveMode::Take }
    }

    fn received(offsets: &[u32]) -> Reply {
        let deliveries = offsets.iter().map(|offset| {
            let position = Position { index: LogIndex(1), offset: *offset };
            Delivered { position, len: 0, attempt: 1 }
        });
        let deliveries = deliveries.collect();
        Reply::Received { token: LeaseToken::ZERO, until: Hlc::ZERO, deliveries }
    }

    fn effect(at_us: u64, reply: Reply) -> Effect {
        let name = (SessionId(1), Sequence(at_us));
        Effect { at_us, index: LogIndex(at_us), name, command: receive(), reply }
    }

    fn call(is_waiting: bool, invoked_us: u64, returned_us: u64, end: End) -> Call {
        let mut call = Call::new(invoked_us, Action::Command(receive()), is_waiting, invoked_us);
        call.conclude(returned_us, end);
        call
    }

    #[test]
    fn a_vain_attempt_of_a_waiting_receive_leaves_the_effects_of_others_to_them() {
        let calls = [
            call(false, 0, 100, End::Answered(received(&[]))),
            call(true, 50, 60, End::Answered(received(&[7]))),
        ];
        let effects =
            [effect(55, received(&[])), effect(58, received(&[7])), effect(90, received(&[]))];
        let matched = Matched::new(&calls, &effects);
        assert_eq!((matched.effect_of(0), matched.effect_of(1)), (Some(2), Some(1)));
        assert_eq!(matched.others().collect::<Vec<_>>(), [(0, 50)]);
    }

    #[test]
    fn a_call_of_unknown_outcome_explains_one_effect_at_any_time_after_it_began() {
        let calls = [call(false, 50, 60, End::Unknown)];
        let effects = [effect(40, received(&[1])), effect(900, received(&[2]))];
        let matched = Matched::new(&calls, &effects);
        assert_eq!(matched.effect_of(0), Some(1));
        assert_eq!(matched.owners[0], Owner::Nobody);
    }

    #[test]
    fn a_call_of_unknown_outcome_gives_way_to_one_that_was_answered() {
        let calls =
            [call(false, 0, 10, End::Unknown), call(false, 30, 60, End::Answered(received(&[2])))];
        let effects = [effect(50, received(&[2]))];
        let matched = Matched::new(&calls, &effects);
        assert_eq!((matched.effect_of(0), matched.effect_of(1)), (None, Some(0)));
    }

    #[test]
    fn a_call_that_was_told_it_had_no_effect_explains_none() {
        let calls = [call(false, 0, 100, End::NoEffect("rejected".to_owned()))];
        let effects = [effect(50, received(&[1]))];
        assert_eq!(Matched::new(&calls, &effects).owners, [Owner::Nobody]);
    }
}
