//! That states which are taken for one are one, and that a check can fail.

use super::form::{CLOCK_START, Digests, Frame, Renamings};
use super::model::Group;
use super::state::State;
use super::*;
use engine::ids::NodeId;
use engine::storage::IoId;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Range;

const SMALL: Bounds = Bounds {
    members: 3,
    terms: 1,
    proposals: 1,
    crashes: 1,
    changes: 0,
    duplicates: 0,
    in_flight: 1,
    unsynced: 1,
    window: 1,
    feuds: 0,
};

fn frame(renamings: &Renamings) -> Frame<'_> {
    Frame { renamings, now: CLOCK_START, durable_io: IoId(0) }
}

#[test]
fn a_form_renamed_is_the_form_of_what_was_renamed() {
    let renamings = Renamings::of(3);
    let frame = frame(&renamings);
    let followers = |names: [u64; 3]| {
        (NodeId(names[0]), vec![(NodeId(names[1]), "one"), (NodeId(names[2]), "other")])
    };
    let before = frame.digest(&followers([1, 2, 3]));
    for renaming in 0..renamings.len() {
        let names =
            [1, 2, 3].map(|node| renamings.names_of(node).nth(renaming).expect("as many names"));
        assert_eq!(before.under(renaming), frame.digest(&followers(names)).plain(), "{names:?}");
    }
    let all: BTreeSet<u64> = (0..renamings.len()).map(|renaming| before.under(renaming)).collect();
    assert_eq!(all.len(), 6);
}

#[test]
fn members_that_have_seen_nothing_are_alike() {
    let group = Group::new(SMALL, false);
    let state = &group.init_states()[0];
    let [one, other] = [0, 1].map(|at| group.entry(state.members[at]).digests);
    let forms = |digests: Digests| (0..6).map(|at| digests.under(at)).collect::<BTreeSet<_>>();
    assert_eq!(forms(one), forms(other));
}

/// Parts of a text from `open` to the next `close`.
fn spans(text: &str, open: &str, close: &str) -> Vec<Range<usize>> {
    let starts = text.match_indices(open).map(|(at, _)| at);
    starts.map(|at| at..at + text[at..].find(close).expect("closed")).collect()
}

#[test]
fn no_number_in_a_member_is_left_out_of_its_form() {
    let group = Group::new(Bounds { feuds: 1, ..SMALL }, false);
    let state = group.init_states().remove(0);
    let raft = &group.entry(state.members[0]).member.raft;
    assert!(raft.is_leader());
    let text = format!("{raft:?}");
    let renamings = Renamings::of(3);
    let plain = |text: &str| frame(&renamings).digest_text(text).plain();
    // What no behaviour depends on, and the bytes of records, which say what their fields say.
    let mut left_out = spans(&text, "Xoshiro256PlusPlus", "}");
    left_out.extend(spans(&text, "bytes: b", "\" }"));
    // What no group without changes of the membership depends on.
    left_out.extend(spans(&text, "version: ", ","));
    left_out.extend(spans(&text, "catch_up: ", "}"));
    let (mut at, mut changed) = (0, 0);
    while let Some(start) = text[at..].find(|c: char| c.is_ascii_digit()).map(|start| start + at) {
        let digits = text[start..].find(|c: char| !c.is_ascii_digit()).expect("text goes on");
        at = start + digits;
        let is_in_name = text[..start].ends_with(|c: char| c.is_alphanumeric());
        if is_in_name || left_out.iter().any(|span| span.contains(&start)) {
            continue;
        }
        let number: u64 = text[start..at].parse().expect("digits");
        let other = format!("{}{}{}", &text[..start], number ^ 1, &text[at..]);
        assert_ne!(plain(&text), plain(&other), "...{}", &text[start.saturating_sub(60)..at]);
        changed += 1;
    }
    assert!(changed > 40, "only {changed} numbers in {text}");
}

#[test]
fn members_of_one_form_have_one_future() {
    let aliases = audit(SMALL);
    assert!(aliases > 100, "only {aliases} members were taken for others");
}

#[test]
fn members_of_one_form_have_one_future_whatever_becomes_of_the_membership() {
    let aliases = audit(Bounds { members: 2, changes: 2, proposals: 0, unsynced: 0, ..SMALL });
    assert!(aliases > 100, "only {aliases} members were taken for others");
}

/// Everything of a state but its fingerprint.
fn concrete(state: &State) -> String {
    let mut state = state.clone();
    state.fingerprint = 0;
    format!("{state:?}")
}

#[test]
fn a_check_says_why_it_ended() {
    let small = Bounds { members: 2, proposals: 0, ..SMALL };
    let limits = Limits { threads: 1, ..Limits::default() };
    let ends = |limits| {
        let Report { end, depth, states, .. } = run(small, limits, |_| {});
        (end, depth, states)
    };
    let (end, depth, states) = ends(limits);
    assert_eq!(end, End::Exhausted);
    assert_eq!(ends(Limits { depth: Some(depth), ..limits }), (End::Exhausted, depth, states));
    let (end, cut, fewer) = ends(Limits { depth: Some(depth - 1), ..limits });
    assert_eq!((end, cut), (End::Depth, depth - 1));
    assert!(fewer < states);
}

#[test]
fn groups_of_one_fingerprint_have_one_future() {
    let group = Group::new(Bounds { proposals: 0, ..SMALL }, false);
    let mut waiting = VecDeque::from(group.init_states());
    let mut seen = HashSet::new();
    let mut futures: HashMap<u64, BTreeSet<u64>> = HashMap::new();
    let mut merged = 0;
    while let Some(state) = waiting.pop_front() {
        if seen.len() > 60_000 {
            break;
        }
        let nexts = group.next_states(&state);
        let future = nexts.iter().map(|next| next.fingerprint).collect();
        match futures.get(&state.fingerprint) {
            Some(known) => {
                assert_eq!(*known, future, "{state:?}");
                merged += 1;
            }
            None => drop(futures.insert(state.fingerprint, future)),
        }
        waiting.extend(nexts.into_iter().filter(|next| seen.insert(concrete(next))));
    }
    assert!(merged > 10_000, "only {merged} states were taken for others");
}
