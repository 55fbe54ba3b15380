//! The exhaustive check of small groups, in bounds of seconds; `sim check` takes larger ones.

use sim::check::{Bounds, End, Limits, Profile, Report, Witness, run};

/// Checks that every state within `bounds` keeps every promise, and that the check came upon what it
/// is for.
fn exhaust(bounds: Bounds, expected: &[Witness]) -> Report {
    let report = run(bounds, Limits::default(), |_| {});
    assert_eq!(report.violations, [], "in {bounds:?}");
    assert_eq!(report.end, End::Exhausted, "in {bounds:?}");
    for witness in expected {
        assert!(report.witnesses.contains(witness), "no {} in {bounds:?}", witness.name());
    }
    report
}

#[test]
fn two_members_keep_every_promise_in_every_order_of_events() {
    let bounds =
        Bounds { members: 2, terms: 2, in_flight: 2, duplicates: 0, ..Profile::Elections.bounds() };
    let expected = [Witness::CommittedLater, Witness::TailLost, Witness::TornApart];
    assert!(exhaust(bounds, &expected).states > 100_000);
}

#[test]
fn three_members_elect_one_leader_whatever_a_crash_interrupts() {
    let bounds = Bounds { in_flight: 1, duplicates: 0, ..Profile::Elections.bounds() };
    let expected = [Witness::Committed, Witness::Deposed, Witness::TailLost];
    assert!(exhaust(bounds, &expected).states > 10_000);
}

#[test]
fn entries_of_deposed_leaders_stay_or_go_for_all_alike() {
    let bounds = Bounds { terms: 3, ..Profile::Succession.bounds() };
    let expected = [Witness::Overwritten, Witness::CommittedLater, Witness::TwoLeaders];
    assert!(exhaust(bounds, &expected).states > 10_000);
}

#[test]
fn persists_of_replaced_entries_vouch_for_nothing() {
    let bounds = Bounds { crashes: 1, duplicates: 0, ..Profile::Overwriting.bounds() };
    let expected = [Witness::Overwritten, Witness::LateCompletion, Witness::TornApart];
    assert!(exhaust(bounds, &expected).states > 100_000);
}

#[test]
fn members_are_taken_out_whatever_a_crash_interrupts() {
    let bounds = Bounds { changes: 1, ..Profile::Cancellation.bounds() };
    let expected = [Witness::Joint, Witness::JointLeft, Witness::Removed, Witness::Deposed];
    assert!(exhaust(bounds, &expected).states > 10_000);
}
