//! What broke real systems after their release, as runs of the lockstep world: see the table
//! "Scenarios" in docs/testing.md, which also names the tests that show the others better.
//!
//! Every run is judged by all oracles; each test here claims something more about its course.

use sim::damage::Decay;
use sim::history::Outcome as Ended;
use sim::lockstep::{Run, run_traced};
use sim::scenario::{Admin, Blow, EngineSettings, Fault, Moment, Scenario, TimedFault, Workload};
use sim::trace::Trace;

/// How long faults last in these runs, milliseconds.
const FAULTS_MS: u64 = 6_000;

/// A sound network and sound disks, three clients, and these faults.
fn scenario(seed: u64, nodes: u64, faults: Vec<(u64, Fault)>) -> Scenario {
    Scenario {
        seed,
        nodes,
        spares: 0,
        faults_ms: FAULTS_MS,
        healing_ms: 20_000,
        engine: EngineSettings::default(),
        workload: Workload { read_here_ppm: 300_000, ..Workload::default() },
        admin: Admin::default(),
        network: Default::default(),
        disk: Default::default(),
        turns: Default::default(),
        faults: faults.into_iter().map(|(at_ms, fault)| TimedFault { at_ms, fault }).collect(),
    }
}

fn run(scenario: &Scenario) -> Run {
    let run = run_traced(scenario, Trace::hash_only());
    let verdict = &run.outcome.verdict;
    assert!(verdict.is_ok(), "seed {}: {verdict}\n{}", scenario.seed, scenario.to_text());
    run
}

/// Operations that were answered between two times.
fn answered(run: &Run, from_ms: u64, to_ms: u64) -> usize {
    let times = from_ms * 1_000..to_ms * 1_000;
    let operations = run.history.operations.iter();
    let is_answered = |ended: &Ended| matches!(ended, Ended::Replied { .. });
    operations.filter(|one| is_answered(&one.outcome) && times.contains(&one.returned_us)).count()
}

/// Clients are served all the time, and terms don't run away.
fn assert_calm(run: &Run, seed: u64) {
    for from_ms in (1_000..FAULTS_MS - 1_000).step_by(1_000) {
        let count = answered(run, from_ms, from_ms + 1_000);
        assert!(count > 10, "seed {seed}: {count} answers in the second from {from_ms} ms on");
    }
    let leaders = run.outcome.counts.leaders;
    assert!(leaders <= 4, "seed {seed}: {leaders} leaders");
}

/// Scenario 1: a leader that is deposed, and for seconds hears heartbeat answers of its time.
#[test]
fn a_deposed_leader_that_hears_late_answers_confirms_no_read() {
    for seed in 0..10 {
        let strike = |at_ms| (at_ms, Fault::StrikeLeader { blow: Blow::Delude, for_ms: 2_000 });
        let mut scenario = scenario(seed, 3, vec![strike(600), strike(3_000)]);
        scenario.network.duplicate_ppm = 200_000;
        scenario.workload.mix.list = 40;
        scenario.workload.request_timeout_ms = 200;
        let run = run(&scenario);
        assert!(run.outcome.counts.leaders >= 2, "seed {seed}: nobody was deposed");
        assert!(answered(&run, 2_200, 2_600) > 0, "seed {seed}: another one served meanwhile");
    }
}

/// Scenario 9: whoever leads is cut off at the moment when the membership becomes joint.
#[test]
fn a_joint_change_outlives_the_leader_that_began_it() {
    let mut changed = 0;
    for seed in 0..10 {
        let ambush = |at_ms| {
            let moments = vec![Moment::JointEntered; 3];
            (at_ms, Fault::Ambush { moments, blink: seed % 2 == 0 })
        };
        let heals = (1..6).map(|second| (second * 1_000 + 900, Fault::Heal));
        let mut scenario = scenario(seed, 3, heals.chain([ambush(500), ambush(3_000)]).collect());
        scenario.faults.sort_by_key(|fault| fault.at_ms);
        scenario.spares = 3;
        scenario.admin.pause_ms = 100;
        // Convergence says that nobody is left joint, and that all final members agree.
        changed += run(&scenario).history.changes.len();
    }
    assert!(changed > 20, "{changed} changes were answered");
}

/// Scenario 12: 1, 2 and 3 hear one another, 4 hears only 2, and 5 only 3; a chain; a bridge; ways
/// that go in one direction.
#[test]
fn partial_links_lead_to_no_endless_elections() {
    let pair = |one, other| (100, Fault::CutPair { one, other });
    let arms = vec![pair(4, 1), pair(4, 3), pair(4, 5), pair(5, 1), pair(5, 2)];
    let chain = vec![(100, Fault::Chain { nodes: vec![1, 2, 3, 4, 5] })];
    let bridge = vec![(100, Fault::Bridge { node: 3 })];
    let one_way = |from, to| (100, Fault::OneWay { from, to });
    let ways = vec![one_way(1, 2), one_way(3, 4), one_way(5, 1)];
    for faults in [arms, chain, bridge, ways] {
        for seed in 0..5 {
            let run = run(&scenario(seed, 5, faults.clone()));
            // Who is served depends on whom a client asks, but somebody is, and to the end.
            let late = answered(&run, FAULTS_MS - 1_000, FAULTS_MS);
            assert!(late > 10, "seed {seed}, {faults:?}: {late} answers in the last second");
        }
    }
}

/// Scenario 13: members that are away while the log is purged behind them, again and again, under a
/// leader that has purged all it may.
#[test]
fn a_member_that_is_away_while_the_log_is_purged_comes_back_by_a_snapshot() {
    for seed in 0..10 {
        let faults = (0..6).flat_map(|round| {
            let (at_ms, node) = (300 + round * 900, 1 + round % 3);
            [
                (at_ms, Fault::Crash { node }),
                (at_ms + 600, Fault::Restart { node }),
                (at_ms + 700, Fault::StrikeLeader { blow: Blow::Isolate, for_ms: 150 }),
            ]
        });
        let mut scenario = scenario(seed, 3, faults.collect());
        scenario.engine.snapshot_log_bytes = 2_000;
        scenario.engine.snapshot_chunk_bytes_max = 500;
        scenario.engine.segment_bytes_max = 4_096;
        scenario.workload.mix.take = 40;
        run(&scenario);
    }
}

/// Scenario 15: the leader's disk takes seconds for everything, and its heartbeats go on.
#[test]
fn a_leader_whose_disk_stalls_hands_leadership_over() {
    for seed in 0..5 {
        let slow = |node| (1_500, Fault::DiskSlow { node, by_us: 5_000_000 });
        for node in 1..=3 {
            let run = run(&scenario(seed, 3, vec![slow(node)]));
            let late = answered(&run, FAULTS_MS - 2_000, FAULTS_MS);
            assert!(late > 10, "seed {seed}, node {node}: {late} answers in the last seconds");
        }
    }
}

/// Scenario 18: all nodes lose power in the same instant, again and again, in the middle of whatever
/// their disks are doing.
#[test]
fn power_failures_of_all_nodes_at_once_lose_nothing_acknowledged() {
    for seed in 0..10 {
        let faults = (0..5).flat_map(|round| {
            let at_ms = 700 + round * 1_000;
            let back = (1..=3).map(move |node| (at_ms + 20 * node, Fault::Restart { node }));
            std::iter::once((at_ms, Fault::CrashAll)).chain(back)
        });
        let run = run(&scenario(seed, 3, faults.collect()));
        for at_ms in (700..4_700).step_by(1_000) {
            let count = answered(&run, at_ms, at_ms + 1_000);
            assert!(count > 0, "seed {seed}: nothing between two failures");
        }
    }
}

/// Scenario 19: one node loses whatever was not synced, again and again, while the others stand still
/// in turn.
#[test]
fn a_node_that_forgets_what_was_not_synced_lets_nobody_split_the_cluster() {
    for seed in 0..10 {
        let faults = (0..12).flat_map(|round| {
            let (at_ms, other) = (400 + round * 400, 2 + round % 2);
            [
                (at_ms, Fault::Pause { node: other }),
                (at_ms + 10, Fault::Crash { node: 1 }),
                (at_ms + 30, Fault::Restart { node: 1 }),
                (at_ms + 390, Fault::Resume { node: other }),
            ]
        });
        let mut scenario = scenario(seed, 3, faults.collect());
        scenario.disk.torn_writes = false;
        scenario.disk.latency_us_max = 20_000;
        // One leader a term, one vote a term and matching logs: the oracles watch.
        run(&scenario);
    }
}

/// Damages a disk of each node in turn, each only once the others are whole, and restarts it.
fn decaying(seed: u64, how: Decay) -> Run {
    let faults = (0..5).flat_map(|round| {
        let (at_ms, node) = (900 + round * 1_000, 1 + (seed + round) % 3);
        [
            (at_ms, Fault::DiskRot { node, how }),
            (at_ms, Fault::Kill { node }),
            (at_ms + 100, Fault::Restart { node }),
        ]
    });
    let mut scenario = scenario(seed, 3, faults.collect());
    scenario.engine.segment_bytes_max = 16_384;
    scenario.engine.snapshot_log_bytes = 8_000;
    scenario.engine.snapshot_chunk_bytes_max = 2_000;
    // All nodes are whole at the end, or else the run has not converged.
    run(&scenario)
}

/// Scenario 20: bits flip, pages become zeros and segments are cut, at any place.
#[test]
fn a_log_that_decays_on_a_minority_heals_from_the_others() {
    let (mut damaged, mut excused) = (0, 0);
    for how in [Decay::Bit, Decay::Page, Decay::Truncation] {
        for seed in 0..4 {
            let counts = decaying(seed, how).outcome.counts;
            (damaged, excused) = (damaged + counts.damaged, excused + counts.excused);
        }
    }
    assert!(damaged >= 20, "{damaged} disks were damaged");
    assert_eq!(excused, 0, "of {damaged} that were damaged");
}

/// Scenario 21: the same in snapshots.
#[test]
fn a_snapshot_that_decays_on_a_minority_heals_from_the_others() {
    let (mut damaged, mut excused) = (0, 0);
    for how in [Decay::SnapshotBit, Decay::SnapshotPage, Decay::SnapshotTruncation] {
        for seed in 0..4 {
            let counts = decaying(seed, how).outcome.counts;
            (damaged, excused) = (damaged + counts.damaged, excused + counts.excused);
        }
    }
    assert!(damaged >= 20, "{damaged} disks were damaged");
    assert_eq!(excused, 0, "of {damaged} that were damaged");
}

/// Scenarios 26 and 27: a machine comes back with an empty disk. Its node refuses to run, whoever asks,
/// and the others serve.
#[test]
fn a_node_whose_disk_vanished_does_not_come_back_under_its_name() {
    for seed in 0..5 {
        for node in 1..=3 {
            let faults = vec![
                (1_500, Fault::DiskVanish { node }),
                (2_000, Fault::Restart { node }),
                (3_000, Fault::Restart { node }),
            ];
            let run = run(&scenario(seed, 3, faults));
            let counts = run.outcome.counts;
            if counts.damaged == 1 {
                assert_eq!(counts.excused, 1, "seed {seed}, node {node}");
            }
            let late = answered(&run, FAULTS_MS - 2_000, FAULTS_MS);
            assert!(late > 10, "seed {seed}, node {node}: {late} answers in the last seconds");
        }
    }
}

/// Scenario 28: all disks are full at once, at once or after some more bytes, in the middle of whatever
/// is being written. Nobody stops; reads are answered; and when there is space, service is back.
#[test]
fn full_disks_everywhere_hold_the_cluster_up_until_there_is_space() {
    for seed in 0..6 {
        for room_bytes in [0, 700, 20_000] {
            let full = (1..=3).map(|node| (1_500, Fault::DiskFull { node, room_bytes }));
            let free = (1..=3).map(|node| (4_000, Fault::DiskFree { node }));
            // What was written in two attempts must be as durable as anything.
            let back = (1..=3).map(|node| (4_600, Fault::Restart { node }));
            let loss = core::iter::once((4_500, Fault::CrashAll)).chain(back);
            let mut scenario = scenario(seed, 3, full.chain(free).chain(loss).collect());
            scenario.engine.segment_bytes_max = 4_096;
            scenario.engine.snapshot_log_bytes = 8_000;
            scenario.engine.snapshot_chunk_bytes_max = 500;
            scenario.workload.mix.send = 80;
            let run = run(&scenario);
            assert_eq!(run.outcome.counts.lives, 6, "seed {seed}: no process stopped by itself");
            let late = answered(&run, FAULTS_MS - 1_000, FAULTS_MS);
            assert!(late > 10, "seed {seed}, {room_bytes}: {late} answers in the last second");
        }
    }
}

/// Scenario 28: the disk of one node is full, be it the leader's. The others serve.
#[test]
fn a_full_disk_on_one_node_stops_nobody() {
    for seed in 0..4 {
        for node in 1..=3 {
            let full = vec![(1_500, Fault::DiskFull { node, room_bytes: 300 })];
            let run = run(&scenario(seed, 3, full));
            assert_eq!(run.outcome.counts.lives, 3, "seed {seed}: no process stopped");
            for from_ms in [2_500, 3_500, 4_500] {
                let count = answered(&run, from_ms, from_ms + 1_000);
                assert!(count > 10, "seed {seed}, node {node}: {count} from {from_ms} ms on");
            }
        }
    }
}

/// Scenario 29: the syncs of one node do nothing, and it loses power, twice. The others have what was
/// acknowledged, and the node is found out instead of being counted with what it has not.
#[test]
fn a_lying_disk_on_a_minority_that_loses_power_costs_nothing_acknowledged() {
    for seed in 0..6 {
        for node in 1..=3 {
            let loss = |at_ms| {
                let lies = Fault::DiskLies { node, lies: true };
                let (crash, restart) = (Fault::Crash { node }, Fault::Restart { node });
                [(at_ms - 1_000, lies), (at_ms, crash), (at_ms + 900, restart)]
            };
            let run = run(&scenario(seed, 3, [loss(1_500), loss(3_500)].concat()));
            let count = answered(&run, 2_000, FAULTS_MS);
            assert!(count > 10, "seed {seed}, node {node}: {count} answers after the first loss");
        }
    }
}

/// Scenario 16: a node that hears nobody, or that nobody hears, be it the leader or not.
#[test]
fn a_deaf_node_and_a_mute_one_do_not_disturb_the_others() {
    for seed in 0..5 {
        for node in 1..=3 {
            for fault in [Fault::Deafen { node }, Fault::Mute { node }] {
                assert_calm(&run(&scenario(seed, 3, vec![(2_500, fault)])), seed);
            }
        }
    }
}

/// Scenario 17: nodes are removed while they are cut off, and come back with all they know.
#[test]
fn a_removed_node_that_comes_back_disturbs_nobody() {
    let mut removed = 0;
    for seed in 0..10 {
        let faults = (0..4).flat_map(|round| {
            let node = 1 + (seed + round) % 5;
            let at_ms = 500 + round * 1_200;
            [(at_ms, Fault::Partition { group: vec![node] }), (at_ms + 900, Fault::Heal)]
        });
        let mut scenario = scenario(seed, 5, faults.collect());
        scenario.spares = 2;
        scenario.admin.pause_ms = 60;
        let run = run(&scenario);
        let last = run.history.changes.last().map(|answer| answer.membership.clone());
        removed += last.map_or(0, |last| {
            (1..=5).filter(|id| !last.contains(engine::ids::NodeId(*id))).count()
        });
    }
    assert!(removed > 5, "{removed} nodes were removed");
}
