//! Faults against the real node and the real client, on a simulated network.
//!
//! Each test is a scenario of its own, run by `sim::madsim` and judged twice: by the oracles, which
//! replay the committed log, and here by what the clients were told alone. Nothing waits for real
//! time; a scenario that fails once fails always.

#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use engine::ids::Position;
use engine::queue::{Command, ReceiveMode, Reply};
use sim::history::{Action, History, Operation};
use sim::madsim::{Run, run_scenario, run_traced};
use sim::scenario::{Fault, Mix, Scenario, TimedFault, Workload};
use sim::trace::Trace;
use std::collections::BTreeSet;

const NOTHING: Mix = Mix {
    send: 0,
    lease: 0,
    take: 0,
    acknowledge: 0,
    nack: 0,
    extend: 0,
    delete: 0,
    purge: 0,
    get: 0,
    browse: 0,
    list: 0,
    watch: 0,
};

/// Three nodes under a busy workload of `mix`; faults are (milliseconds, what).
fn scenario(seed: u64, mix: Mix, faults: Vec<(u64, Fault)>) -> Scenario {
    let text = format!("seed = {seed}\nnodes = 3\nfaults_ms = 6000\nhealing_ms = 30000\n");
    let mut scenario = Scenario::parse(&text).unwrap();
    scenario.workload = Workload { pause_us: 10_000, mix, ..Workload::default() };
    let faults = faults.into_iter().map(|(at_ms, fault)| TimedFault { at_ms, fault });
    scenario.faults = faults.collect();
    scenario
}

/// Runs a scenario that must end well.
fn run(scenario: &Scenario) -> Run {
    let run = run_traced(scenario, Trace::hash_only());
    assert!(run.outcome.verdict.is_ok(), "{}\n{}", run.outcome.verdict, scenario.to_text());
    run
}

/// Does something to each node in turn, and undoes it a while later.
fn in_turn(what: fn(u64) -> Fault, undo: fn(u64) -> Fault) -> Vec<(u64, Fault)> {
    (0..6)
        .flat_map(|turn| {
            let (at_ms, node) = (500 + 900 * turn, turn % 3 + 1);
            [(at_ms, what(node)), (at_ms + 700, undo(node))]
        })
        .collect()
}

/// The messages that clients were told are stored, by their place.
fn acknowledged(history: &History) -> BTreeSet<Position> {
    let replies = history.operations.iter().filter_map(Operation::reply);
    replies
        .flat_map(|(_, reply)| match reply {
            Reply::SentOne(sent) => vec![sent.receipt.position],
            Reply::SentMany(sent) => sent.iter().map(|sent| sent.receipt.position).collect(),
            _ => Vec::new(),
        })
        .collect()
}

/// The messages that clients took for good, in the order of time.
fn taken(history: &History) -> Vec<Position> {
    let takes = history.operations.iter().filter_map(|operation| {
        let Action::Command(Command::Receive { mode: ReceiveMode::Take, .. }) = &operation.action
        else {
            return None;
        };
        match operation.reply() {
            Some((_, Reply::Received { deliveries, .. })) => Some(deliveries),
            _ => None,
        }
    });
    takes.flatten().map(|delivered| delivered.position).collect()
}

fn answered(history: &History, is_it: fn(&Action) -> bool) -> usize {
    let operations = history.operations.iter();
    operations.filter(|operation| operation.reply().is_some() && is_it(&operation.action)).count()
}

/// With clients that only send, whatever was acknowledged must come out of the drain, once.
fn assert_every_acknowledged_message_came_out_once(run: &Run) {
    let (acknowledged, taken) = (acknowledged(&run.history), taken(&run.history));
    let distinct: BTreeSet<Position> = taken.iter().copied().collect();
    assert_eq!(distinct.len(), taken.len(), "a message was taken twice");
    assert!(acknowledged.len() > 200, "only {} messages were acknowledged", acknowledged.len());
    let lost: Vec<&Position> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
}

#[test]
fn acknowledged_sends_survive_a_leader_crash() {
    let faults = in_turn(|node| Fault::Crash { node }, |node| Fault::Restart { node });
    let run = run(&scenario(1, Mix { send: 1, ..NOTHING }, faults));
    assert!(run.outcome.counts.leaders >= 3, "the leader was among those that crashed");
    assert_every_acknowledged_message_came_out_once(&run);
}

#[test]
fn all_nodes_lose_power_at_once_and_nothing_acknowledged_is_lost() {
    let faults = (0..4).flat_map(|time| {
        let at_ms = 700 + 1_200 * time;
        let back = (1..=3).map(move |node| (at_ms + 100 * node, Fault::Restart { node }));
        core::iter::once((at_ms, Fault::CrashAll)).chain(back)
    });
    let run = run(&scenario(2, Mix { send: 1, ..NOTHING }, faults.collect()));
    assert_eq!(run.outcome.counts.lives, 15, "three nodes were started five times each");
    assert_every_acknowledged_message_came_out_once(&run);
}

#[test]
fn a_partitioned_leader_serves_no_stale_read() {
    let cut_off = |node| Fault::Partition { group: vec![node] };
    let faults = in_turn(cut_off, |_| Fault::Heal);
    let mix = Mix { send: 10, take: 5, get: 20, browse: 20, list: 5, ..NOTHING };
    let run = run(&scenario(3, mix, faults));
    assert!(run.outcome.counts.leaders >= 3, "the leader was among those that were cut off");
    let reads = answered(&run.history, |action| matches!(action, Action::Query(_)));
    assert!(reads > 200, "only {reads} reads were answered");
}

#[test]
fn a_retry_through_fail_over_takes_effect_once() {
    let faults = in_turn(|node| Fault::Kill { node }, |node| Fault::Restart { node });
    let mut scenario = scenario(4, Mix { send: 1, ..NOTHING }, faults);
    scenario.workload.request_timeout_ms = 3_000;
    // A connection that ends after a request has gone out and before the answer is back.
    scenario.network.latency_us_min = 5_000;
    scenario.network.latency_us_max = 20_000;
    let run = run(&scenario);
    assert_every_acknowledged_message_came_out_once(&run);
    let sends = run
        .history
        .operations
        .iter()
        .filter(|operation| matches!(&operation.action, Action::Command(Command::Send { .. })));
    let slow = sends.filter(|operation| {
        operation.reply().is_some() && operation.returned_us - operation.invoked_us > 150_000
    });
    let slow = slow.count();
    assert!(slow > 10, "only {slow} sends waited for another leader");
}

#[test]
fn leases_are_fenced_while_leaders_pause_and_come_back() {
    let faults = in_turn(|node| Fault::Pause { node }, |node| Fault::Resume { node });
    let mix = Mix { send: 20, lease: 20, acknowledge: 15, nack: 5, extend: 5, ..NOTHING };
    let mut scenario = scenario(5, mix, faults);
    scenario.workload.lease_ms_max = 500;
    let run = run(&scenario);
    let settled = answered(&run.history, |action| {
        matches!(action, Action::Command(Command::Acknowledge { .. }))
    });
    assert!(settled > 50, "only {settled} acknowledgements were answered");
}

#[test]
fn wall_clocks_that_jump_change_nothing_but_stamps() {
    let jump = |node| Fault::ClockJump { node, by_ms: if node == 2 { -3_600_000 } else { 90_000 } };
    let mut faults = in_turn(jump, |node| Fault::ClockFreeze { node });
    faults.extend([(5_800, Fault::Kill { node: 1 }), (5_900, Fault::Restart { node: 1 })]);
    faults.sort_by_key(|(at_ms, _)| *at_ms);
    let run = run(&scenario(6, Mix { send: 3, ..NOTHING }, faults));
    assert_every_acknowledged_message_came_out_once(&run);
}

#[test]
fn a_node_whose_disk_fails_stops_and_catches_up_after_its_restart() {
    let faults = in_turn(|node| Fault::DiskError { node }, |node| Fault::Restart { node });
    let run = run(&scenario(7, Mix { send: 1, ..NOTHING }, faults));
    assert_eq!(run.outcome.counts.lives, 9, "each node failed twice, and was started again");
    assert_every_acknowledged_message_came_out_once(&run);
}

/// Scenario 28 with the real driver and the real client, whose sends are refused meanwhile.
#[test]
fn full_disks_stop_no_process_and_lose_nothing() {
    let full = (1..=3).map(|node| (1_500, Fault::DiskFull { node, room_bytes: 3_000 }));
    let free = (1..=3).map(|node| (3_500, Fault::DiskFree { node }));
    let run = run(&scenario(9, Mix { send: 1, ..NOTHING }, full.chain(free).collect()));
    assert_eq!(run.outcome.counts.lives, 3, "no process stopped");
    assert_every_acknowledged_message_came_out_once(&run);
}

#[test]
fn disks_that_lie_about_syncs_are_found_out() {
    let faults = vec![
        (3_000, Fault::CrashAll),
        (3_100, Fault::Restart { node: 1 }),
        (3_100, Fault::Restart { node: 2 }),
        (3_100, Fault::Restart { node: 3 }),
    ];
    let mut scenario = scenario(8, Mix { send: 1, ..NOTHING }, faults);
    scenario.disk.lying_sync = true;
    scenario.disk.torn_writes = false;
    let outcome = run_scenario(&scenario);
    assert_eq!(outcome.verdict.word(), "safety", "{}", outcome.verdict);
}

#[test]
fn a_short_sweep_is_clean() {
    for seed in 0..12 {
        run(&Scenario::from_seed(seed));
    }
}

/// Seeds that found something, each with what it was.
#[test]
fn seeds_that_once_failed_stay_clean() {
    // Both: the queue's last milestone was taken, and none of the next 255 messages became one.
    for seed in [687, 1_787] {
        run(&Scenario::from_seed(seed));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let outcomes: Vec<_> = [20, 20, 21].map(Scenario::from_seed).iter().map(run_scenario).collect();
    assert_eq!(outcomes[0], outcomes[1]);
    assert_ne!(outcomes[0].trace_hash, outcomes[2].trace_hash);
}
