//! The course of a run: start, break, repair, converge, drain, judge.
//!
//! Runs on madsim's supervisor, which no fault touches. Next: `faults` for what breaks, `actor` for
//! what clients do, `explain` for the judgement.

use super::actor::{Actor, Probe};
use super::admin::Admin;
use super::disk::DiskOfMachine;
use super::faults::Faults;
use super::machine::{Process, WallClock};
use super::watcher::Watcher;
use super::world::{Shared, World, kind};
use super::{Run, explain};
use crate::history::History;
use crate::oracle::progress::{ClientState, obstacles, stuck};
use crate::oracle::{self, Rule, Violation, nothing_lost};
use crate::scenario::{Fault, Scenario};
use crate::trace::Trace;
use engine::ids::NodeId;
use engine::queue::Reply;
use madsim::runtime::Handle;
use madsim::task::NodeId as Host;
use madsim_tokio::time::sleep;
use node::{NodeError, Ports};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A pause between two looks at how the cluster does, microseconds.
const LOOK_EVERY_US: u64 = 20_000;
/// Killed tasks are dropped when the runtime next comes round to them.
const AFTERMATH: Duration = Duration::from_millis(2);

/// Runs a scenario, from the start to the verdict.
pub(super) async fn run(scenario: Scenario, trace: Trace) -> Run {
    let shared = Shared::new(scenario.clone(), trace);
    let nodes: Vec<Host> =
        (1..=scenario.machines()).map(|node| build_node(&shared, node)).collect();
    let actors: Vec<Actor> =
        (0..scenario.workload.clients).map(|client| Actor::start(&shared, client)).collect();
    let probe = Probe::new(&shared, scenario.workload.clients);
    let admin = Admin::start(&shared);
    let clients = actors.iter().map(Actor::host).chain([probe.host(), admin.host()]).collect();
    let mut faults = Faults::new(&shared, nodes, clients);

    let mut result = run_faults(&shared, &mut faults, &scenario).await;
    if result.is_ok() {
        faults.repair();
        admin.stop();
        result = converge(&shared, &mut faults, (&actors, &probe, &admin), &scenario).await;
    }
    faults.end();
    sleep(AFTERMATH).await;
    judge(&mut shared.lock(), result)
}

fn build_node(shared: &Shared, node: u64) -> Host {
    let shared = shared.clone();
    let name = format!("n{node}");
    let last = u8::try_from(node).expect("nodes are few");
    let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    let handle = Handle::current();
    let builder = handle.create_node().name(name).ip(ip);
    builder.init(move || live(shared.clone(), node)).build().id()
}

/// One life of a node's process.
async fn live(shared: Shared, node: u64) {
    let (config, ports) = {
        let world = &mut *shared.lock();
        let ordinal = usize::try_from(node - 1).expect("nodes are few");
        let (config, seed) = world.machines[ordinal].begin_life(&world.scenario);
        let life = world.machines[ordinal].life;
        world.event(kind::START, node, [life, seed]);
        world.tell(&format!("n{node}"), ' ', format_args!("starts for the {life}. time"));
        let ports = Ports {
            disk: DiskOfMachine::new(&shared, node),
            clock: WallClock::new(&shared, node),
            seed,
            shutdown: Box::pin(std::future::pending()),
            observer: Some(Box::new(Watcher::new(&shared, NodeId(node), life)) as Box<_>),
        };
        (config, ports)
    };
    let result = node::run(config, ports).await;
    let mut world = shared.lock();
    world.tell(&format!("n{node}"), ' ', format_args!("ends: {result:?}"));
    world.event(kind::STOP, node, [3, 0]);
    let result = end(&mut world, node, result);
    world.judge(result);
}

/// A process has ended by itself, which is right only if a fault made its disk fail.
fn end(world: &mut World, node: u64, result: Result<(), NodeError>) -> Result<(), Violation> {
    let now_us = world.now_us();
    let machine = world.machine(node);
    let violation = |what: String| Err(Violation::new(Rule::Recovery, now_us, what));
    match result {
        Err(NodeError::Disk { reason }) if machine.has_broken_disk || machine.is_struck => {
            machine.end_life(Process::DiskFailed(reason));
            Ok(())
        }
        Err(NodeError::Open(error)) if machine.has_broken_disk || machine.is_struck => {
            machine.end_life(Process::CannotOpen(error.to_string()));
            Ok(())
        }
        Err(error) => violation(format!("node {node} stopped, and its disk is sound: {error}")),
        Ok(()) => violation(format!("node {node} stopped, and nobody asked it to")),
    }
}

/// The fault phase.
async fn run_faults(
    shared: &Shared,
    faults: &mut Faults,
    scenario: &Scenario,
) -> Result<(), Violation> {
    let timed = scenario.faults.iter().enumerate();
    let timed = timed.map(|(ordinal, timed)| ((timed.at_ms, ordinal), timed.fault.clone()));
    let mut due: BTreeMap<(u64, usize), Fault> = timed.collect();
    let mut ordinals = due.len()..;
    while let Some(((at_ms, ordinal), fault)) = due.pop_first() {
        if at_ms >= scenario.faults_ms {
            break;
        }
        wait_until(shared, at_ms * 1_000).await?;
        for (after_ms, end) in faults.inject(ordinal, &fault) {
            let ordinal = ordinals.next().expect("there is always a next");
            due.insert((at_ms + after_ms, ordinal), end);
        }
    }
    wait_until(shared, scenario.healed_us()).await
}

/// Waits for a time, and looks now and then whether a rule was broken meanwhile.
async fn wait_until(shared: &Shared, until_us: u64) -> Result<(), Violation> {
    loop {
        let now_us = {
            let world = shared.lock();
            world.violation.clone().map_or(Ok(()), Err)?;
            world.now_us()
        };
        let Some(left_us) = until_us.checked_sub(now_us).filter(|left_us| *left_us > 0) else {
            return Ok(());
        };
        sleep(Duration::from_micros(left_us.min(LOOK_EVERY_US))).await;
    }
}

/// After the repair: the clients' last calls end, a fresh client is served and empties all queues,
/// and all nodes come to the same state.
async fn converge(
    shared: &Shared,
    faults: &mut Faults,
    (actors, probe, admin): (&[Actor], &Probe, &Admin),
    scenario: &Scenario,
) -> Result<(), Violation> {
    actors.iter().for_each(Actor::stop);
    probe.begin();
    let mut is_draining = false;
    loop {
        let now_us = shared.lock().now_us();
        wait_until(shared, now_us + LOOK_EVERY_US).await?;
        let unanswered = actors.iter().map(|actor| (actor.client(), actor.unanswered()));
        let unanswered: Vec<(u64, usize)> =
            unanswered.chain([(probe.client(), probe.unanswered())]).collect();
        if !is_draining && unanswered[..actors.len()].iter().all(|(_, count)| *count == 0) {
            is_draining = true;
            probe.drain();
        }
        faults.restart_failed();
        let mut found = {
            let world = shared.lock();
            let (_, membership) = world.committed.memberships().newest();
            let members = world.machines.iter().filter(|machine| membership.contains(machine.id));
            let states = members.map(|machine| (machine.id, machine.state()));
            let clients: Vec<ClientState> = unanswered
                .into_iter()
                .map(|(client, unanswered)| ClientState { client, unanswered })
                .collect();
            obstacles(&states.collect::<Vec<_>>(), &clients, probe.has_served())
        };
        if admin.is_busy() {
            found.push("the operator waits for an answer".to_owned());
        }
        if !shared.lock().committed.memberships().is_settled() {
            found.push("the membership is joint".to_owned());
        }
        if found.is_empty() {
            return Ok(());
        }
        let now_us = shared.lock().now_us();
        if now_us >= scenario.end_us() + probe.extra_us() {
            return Err(stuck(now_us, scenario.healed_us(), &found));
        }
    }
}

/// All rules over the whole run.
fn judge(world: &mut World, result: Result<(), Violation>) -> Run {
    let explained = explain::explain(
        &world.calls,
        world.committed.log(),
        &world.applied_us,
        world.scenario.engine.dedup_window_millis,
        world.scenario.engine.sessions_max,
    );
    let (history, explained) = match explained {
        Ok(history) => (history, Ok(())),
        Err(violation) => (History::default(), Err(violation)),
    };
    // What is unsafe matters more than what is slow.
    let is_slow = result.as_ref().is_err_and(|violation| violation.rule == Rule::Progress);
    let verdict = match result {
        Err(violation) if !is_slow => Err(violation),
        result => explained.and_then(|()| verify(world, &history, result.is_ok())).and(result),
    };
    let outcome = world.outcome(verdict);
    Run { outcome, history, log: world.committed.log().clone() }
}

fn verify(world: &World, history: &History, has_converged: bool) -> Result<(), Violation> {
    let engine = &world.scenario.engine;
    let model = oracle::check_history(
        history,
        Some(world.committed.log()),
        engine.dedup_window_millis,
        engine.sessions_max,
    )?;
    let model = model.expect("there was a log");
    let memberships = world.committed.memberships();
    memberships.check_answers(&world.changes, world.committed.log())?;
    let (_, membership) = memberships.newest();
    let members = world.machines.iter().filter(|machine| membership.contains(machine.id));
    for machine in members.filter(|_| has_converged) {
        let Some(seen) = &machine.seen else { continue };
        nothing_lost::check(world.now_us(), machine.id, &model, |question| {
            let known = seen.answers.iter().find(|(query, _)| query == question);
            known.map_or(Reply::Browsed(Vec::new()), |(_, reply)| reply.clone())
        })?;
    }
    Ok(())
}
