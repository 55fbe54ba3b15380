//! The lockstep world: a short sweep, equal runs of equal seeds, oracles that agree with each other
//! and that can fail.

use sim::history::{Action, History, Outcome};
use sim::lockstep::{Run, run_scenario, run_traced};
use sim::oracle::{self, Rule, Violation, search};
use sim::outcome::Verdict;
use sim::scenario::{Fault, Mix, Scenario, TimedFault, Workload};
use sim::sweep::run_guarded;
use sim::trace::Trace;

fn assert_ok(scenario: &Scenario) {
    let outcome = run_guarded(scenario, run_scenario);
    let seed = scenario.seed;
    assert!(
        outcome.verdict.is_ok(),
        "seed {seed}: {}\nreplay: cargo run -p sim --release -- replay {seed} --world lockstep",
        outcome.verdict
    );
}

#[test]
fn drawn_clusters_keep_every_rule_and_recover() {
    for seed in 0..25 {
        assert_ok(&Scenario::from_seed(seed));
    }
}

/// Scenarios that once failed, as `sim show SEED` prints them: see docs/testing.md.
#[test]
fn what_was_found_once_stays_repaired() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regressions");
    let files = std::fs::read_dir(directory).expect("the directory is part of the sources");
    let mut count = 0;
    for file in files {
        let path = file.expect("a readable entry").path();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let scenario = Scenario::parse(&text).expect("a scenario");
        let verdict = run_guarded(&scenario, run_scenario).verdict;
        assert!(verdict.is_ok(), "{}: {verdict}", path.display());
        count += 1;
    }
    assert!(count >= 4, "{count} scenarios");
}

#[test]
fn equal_seeds_give_equal_runs_to_the_bit() {
    for seed in [1, 7, 12, 20] {
        let scenario = Scenario::from_seed(seed);
        let (first, second) = (run_scenario(&scenario), run_scenario(&scenario));
        assert!(first.counts.events > 0);
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn a_reader_of_the_trace_changes_nothing() {
    let scenario = Scenario::from_seed(3);
    let (sender, lines) = std::sync::mpsc::channel();
    let sink = Box::new(move |line: &str| {
        let _ = sender.send(line.len());
    });
    let read = run_traced(&scenario, Trace::readable(sink)).outcome;
    assert_eq!(read, run_scenario(&scenario));
    assert!(lines.iter().count() > 100);
}

#[test]
fn another_seed_for_the_faults_leaves_the_workload_as_it_was() {
    let calm = Scenario { faults: Vec::new(), ..Scenario::from_seed(5) };
    let mut broken = calm.clone();
    broken.faults.push(TimedFault { at_ms: calm.faults_ms - 1, fault: Fault::Crash { node: 1 } });
    let first = |run: &Run| run.history.operations[0].clone();
    let (calm, broken) =
        (run_traced(&calm, Trace::hash_only()), run_traced(&broken, Trace::hash_only()));
    assert_eq!(first(&calm).action, first(&broken).action);
    assert_eq!(first(&calm).invoked_us, first(&broken).invoked_us);
}

/// A few clients that only send, take, browse, delete and purge, so that a search can follow.
fn small_scenario(seed: u64) -> Scenario {
    let mix = Mix { send: 5, take: 4, browse: 3, delete: 1, purge: 1, ..nothing() };
    let workload = Workload {
        clients: 3,
        queues: 2,
        pause_us: 50_000,
        window: 2,
        duplicate_id_ppm: 200_000,
        receive_max: 3,
        mix,
        ..Workload::default()
    };
    let faults = vec![
        TimedFault { at_ms: 250, fault: Fault::Crash { node: 1 } },
        TimedFault { at_ms: 350, fault: Fault::Restart { node: 1 } },
    ];
    let scenario = Scenario { seed, nodes: 3, faults_ms: 400, faults, ..Scenario::from_seed(seed) };
    Scenario { workload, engine: Default::default(), healing_ms: 20_000, ..scenario }
}

fn nothing() -> Mix {
    Mix {
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
    }
}

fn check(run: &Run, history: &History) -> Result<(), Violation> {
    let engine = sim::scenario::EngineSettings::default();
    let (window, sessions) = (engine.dedup_window_millis, engine.sessions_max);
    oracle::check_history(history, Some(&run.log), window, sessions).map(drop)
}

fn small_runs() -> impl Iterator<Item = (u64, Run, Vec<search::Event>)> {
    (0..40).filter_map(|seed| {
        let run = run_traced(&small_scenario(seed), Trace::hash_only());
        assert_eq!(run.outcome.verdict, Verdict::Ok, "seed {seed}");
        // The search sees positions as little as clients do: browses after a position are left out.
        let events = search::events(&run.history)?;
        Some((seed, run, events))
    })
}

#[test]
fn the_search_finds_an_order_wherever_the_log_reveals_one() {
    let mut searched = 0;
    for (seed, run, events) in small_runs() {
        assert_eq!(check(&run, &run.history), Ok(()), "seed {seed}");
        assert!(search::is_linearizable(&events), "seed {seed}: {events:#?}");
        searched += 1;
    }
    assert!(searched >= 20, "only {searched} histories were small enough");
}

#[test]
fn a_message_that_is_delivered_twice_is_noticed_by_both_checks() {
    let mut corrupted = 0;
    for (seed, run, _) in small_runs() {
        let mut history = run.history.clone();
        if !deliver_twice(&mut history) {
            continue;
        }
        corrupted += 1;
        assert!(check(&run, &history).is_err(), "seed {seed}");
        let events = search::events(&history).expect("as small as before");
        assert!(!search::is_linearizable(&events), "seed {seed}: {events:#?}");
    }
    assert!(corrupted >= 10, "only {corrupted} histories could be corrupted");
}

/// Gives what one take got to another take that got nothing.
fn deliver_twice(history: &mut History) -> bool {
    let is_take = |ordinal: &usize| {
        let operation = &history.operations[*ordinal];
        let is_command = matches!(&operation.action, Action::Command(command)
            if matches!(command, engine::queue::Command::Receive { .. }));
        // The probe's queue is its own.
        is_command && operation.client < 3
    };
    let takes: Vec<usize> = (0..history.operations.len()).filter(is_take).collect();
    let got = |ordinal: usize| match &history.operations[ordinal].outcome {
        Outcome::Replied { messages, .. } => Some(messages.len()),
        Outcome::Unknown | Outcome::Failed { .. } => None,
    };
    let full = takes.iter().find(|ordinal| got(**ordinal) > Some(0));
    let empty = takes.iter().find(|ordinal| got(**ordinal) == Some(0));
    let (Some(full), Some(empty)) = (full, empty) else { return false };
    let Outcome::Replied { reply, messages, .. } = history.operations[*full].outcome.clone() else {
        return false;
    };
    if let Outcome::Replied { reply: other, messages: ids, .. } =
        &mut history.operations[*empty].outcome
    {
        (*other, *ids) = (reply, messages);
    }
    true
}

#[test]
fn disks_that_lie_on_every_node_are_found_out_when_the_power_fails() {
    let found = (0..20).any(|seed| {
        let mut scenario = Scenario { faults: Vec::new(), nodes: 3, ..Scenario::from_seed(seed) };
        scenario.disk.lying_sync = true;
        scenario.engine = Default::default();
        scenario.network = Default::default();
        scenario.faults_ms = 4_000;
        scenario.faults.push(TimedFault { at_ms: 2_000, fault: Fault::CrashAll });
        for node in 1..=3 {
            scenario.faults.push(TimedFault { at_ms: 2_010, fault: Fault::Restart { node } });
        }
        match run_guarded(&scenario, run_scenario).verdict {
            Verdict::Safety(violation) => violation.rule != Rule::Recovery,
            Verdict::Ok | Verdict::Liveness(_) | Verdict::Crash { .. } => false,
        }
    });
    assert!(found, "no oracle noticed that acknowledged messages were lost");
}
