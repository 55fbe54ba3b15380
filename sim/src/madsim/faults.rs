//! Breaking things on time, and repairing everything at the end of the fault phase.
//!
//! Owns the links and the lives of processes. A power failure stops a node's tasks where they stand
//! and drops them at the restart: madsim tells peers of a killed node at once, and of a machine
//! without power nobody is told.

use super::machine::Process;
use super::world::{Shared, kind};
use crate::damage::Decay;
use crate::scenario::Fault;
use madsim::net::NetSim;
use madsim::runtime::Handle;
use madsim::task::NodeId as Host;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How many writes in a row are looked at for one that may land elsewhere.
const MISDIRECTIONS_TRIED_MAX: u32 = 20;

/// Longest way in a network that was repaired: no leader can be elected if a round trip takes
/// longer than the election timeout.
const HEALED_LATENCY_MAX: Duration = Duration::from_millis(2);

/// What faults are done to.
pub(super) struct Faults {
    shared: Shared,
    handle: Handle,
    net: Arc<NetSim>,
    /// The nodes, in the order of their numbers.
    nodes: Vec<Host>,
    clients: Vec<Host>,
    cut: BTreeSet<(Host, Host)>,
}

impl Faults {
    /// Nothing is broken yet.
    pub(super) fn new(shared: &Shared, nodes: Vec<Host>, clients: Vec<Host>) -> Self {
        Self {
            shared: shared.clone(),
            handle: Handle::current(),
            net: NetSim::current(),
            nodes,
            clients,
            cut: BTreeSet::new(),
        }
    }

    fn host(&self, node: u64) -> Host {
        self.nodes[usize::try_from(node - 1).expect("nodes are numbered from 1")]
    }

    /// Something breaks, or is repaired. Says what follows from it by itself, and after how many
    /// milliseconds each.
    pub(super) fn inject(&mut self, ordinal: usize, fault: &Fault) -> Vec<(u64, Fault)> {
        {
            let mut world = self.shared.lock();
            world.event(kind::FAULT, 0, [ordinal as u64, 0]);
            world.tell("--", ' ', format_args!("{fault:?}"));
        }
        match *fault {
            Fault::Partition { ref group } => self.partition(group),
            Fault::OneWay { from, to } => self.cut(self.host(from), self.host(to)),
            Fault::Deafen { node } => self.cut_all(node, |it, other| (other, it)),
            Fault::Mute { node } => self.cut_all(node, |it, other| (it, other)),
            Fault::HideFromClients { node } => self.hide(node),
            Fault::Ambush { .. } => self.ambush(),
            Fault::StrikeLeader { blow, for_ms } => {
                let leader = self.shared.lock().last_leader;
                return leader.map_or(Vec::new(), |(_, leader)| blow.against(leader, for_ms));
            }
            Fault::CutPair { one, other } => self.cut_pair(one, other),
            Fault::Bridge { node } => {
                let others = (1..=self.nodes.len() as u64).filter(|other| *other != node);
                let others: Vec<u64> = others.collect();
                let (left, right) = others.split_at(others.len() / 2);
                for one in left {
                    right.iter().for_each(|other| self.cut_pair(*one, *other));
                }
            }
            Fault::Chain { ref nodes } => {
                for (at, one) in nodes.iter().enumerate() {
                    nodes.iter().skip(at + 2).for_each(|other| self.cut_pair(*one, *other));
                }
            }
            // Links have one latency here; but a cut only holds up what TCP carries. So a node that
            // hears nothing for the time hears all of it afterwards, late.
            Fault::Lag { node, by_ms: 0, .. } => self.hear(node),
            Fault::Lag { node, by_ms, .. } => {
                self.cut_all(node, |it, other| (other, it));
                return vec![(by_ms, Fault::Lag { node, by_ms: 0, for_ms: 0 })];
            }
            Fault::Rejoin { node } => self.rejoin(node),
            Fault::Heal => self.heal(),
            Fault::Crash { node } => self.crash(node),
            Fault::CrashAll => (1..=self.nodes.len() as u64).for_each(|node| self.crash(node)),
            Fault::Kill { node } => self.kill(node),
            Fault::Restart { node } => self.restart(node),
            Fault::Pause { node } => self.pause(node),
            Fault::Resume { node } => self.resume(node),
            Fault::ClockJump { .. }
            | Fault::ClockRate { .. }
            | Fault::ClockFreeze { .. }
            | Fault::ClockRepair { .. } => self.set_clock(fault),
            Fault::DiskSlow { node, by_us } => {
                self.shared.lock().machine(node).disk_slow_us = by_us;
            }
            Fault::DiskError { node } => {
                self.shared.lock().machine(node).fails_next_operation = true;
            }
            Fault::DiskFull { node, room_bytes } => {
                self.shared.lock().machine(node).disk.set_room(Some(room_bytes));
            }
            Fault::DiskFree { node } => self.shared.lock().machine(node).disk.set_room(None),
            Fault::DiskRot { node, how } => self.rot(node, how),
            Fault::DiskMisdirect { node } => {
                self.shared.lock().machine(node).misdirects = MISDIRECTIONS_TRIED_MAX;
            }
            Fault::DiskLies { node, lies } => self.shared.lock().machine(node).set_lying(lies),
            Fault::DiskVanish { node } => self.vanish(node),
        }
        Vec::new()
    }

    fn cut_pair(&mut self, one: u64, other: u64) {
        let (one, other) = (self.host(one), self.host(other));
        self.cut(one, other);
        self.cut(other, one);
    }

    fn set_clock(&self, fault: &Fault) {
        let mut world = self.shared.lock();
        let now_us = world.now_us();
        match *fault {
            Fault::ClockJump { node, by_ms } => {
                world.machine(node).clock.jump(now_us, by_ms.saturating_mul(1_000));
            }
            Fault::ClockRate { node, ppm } => world.machine(node).clock.set_rate(now_us, ppm),
            Fault::ClockFreeze { node } => world.machine(node).clock.freeze(now_us),
            Fault::ClockRepair { node } => world.machine(node).clock.repair(now_us),
            _ => unreachable!("only faults of clocks come here"),
        }
    }

    fn cut(&mut self, from: Host, to: Host) {
        if from != to && self.cut.insert((from, to)) {
            self.net.clog_link(from, to);
        }
    }

    fn cut_all(&mut self, node: u64, way: fn(Host, Host) -> (Host, Host)) {
        for other in self.nodes.clone() {
            let (from, to) = way(self.host(node), other);
            self.cut(from, to);
        }
    }

    /// Cuts off whoever is on the other side. Each client lives beside one of the nodes and shares its
    /// side: without clients that see only a deposed leader nobody would notice what it still serves.
    fn partition(&mut self, group: &[u64]) {
        let count = self.nodes.len();
        let is_inside = |ordinal: usize| group.contains(&((ordinal % count) as u64 + 1));
        let sides = |hosts: &[Host]| -> Vec<(Host, bool)> {
            hosts.iter().copied().zip((0..).map(is_inside)).collect()
        };
        let (nodes, mut everybody) = (sides(&self.nodes), sides(&self.clients));
        everybody.extend(&nodes);
        for (node, is_node_inside) in nodes {
            for (other, _) in everybody.iter().filter(|(_, inside)| *inside != is_node_inside) {
                self.cut(node, *other);
                self.cut(*other, node);
            }
        }
    }

    /// Cuts off the leader that was elected last. Faults are on a timetable here, so the moment after
    /// an election is met only by chance, and nobody loses power in it.
    fn ambush(&mut self) {
        self.heal();
        let leader = self.shared.lock().last_leader;
        if let Some((_, leader)) = leader {
            self.partition(&[leader]);
        }
    }

    /// All links of a node work again.
    fn rejoin(&mut self, node: u64) {
        let host = self.host(node);
        self.mend(|from, to| from == host || to == host);
    }

    /// A node hears all others again.
    fn hear(&mut self, node: u64) {
        let host = self.host(node);
        self.mend(|_, to| to == host);
    }

    fn mend(&mut self, is_meant: impl Fn(Host, Host) -> bool) {
        let (again, still) =
            std::mem::take(&mut self.cut).into_iter().partition(|(from, to)| is_meant(*from, *to));
        self.cut = still;
        let again: BTreeSet<(Host, Host)> = again;
        for (from, to) in again {
            self.net.unclog_link(from, to);
        }
    }

    fn hide(&mut self, node: u64) {
        for client in self.clients.clone() {
            self.cut(self.host(node), client);
            self.cut(client, self.host(node));
        }
    }

    fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cut) {
            self.net.unclog_link(from, to);
        }
    }

    /// Bytes at rest decay. Of a file that goes as a whole no process holds on to what is left.
    fn rot(&mut self, node: u64, how: Decay) {
        if !self.shared.lock().strike(node) {
            return;
        }
        if how == Decay::File {
            self.kill(node);
        }
        let mut world = self.shared.lock();
        if let Some(what) = world.machine(node).decay(how) {
            world.tell(&format!("n{node}"), ' ', format_args!("{what}"));
        }
    }

    /// The machine loses its disk.
    fn vanish(&mut self, node: u64) {
        if self.shared.lock().strike(node) {
            self.kill(node);
            self.shared.lock().machine(node).vanish();
        }
    }

    /// The power fails, if it has not failed before. A process that is gone already loses what its
    /// machine had not written. A machine whose syncs lie loses what it vouched for: only if others
    /// have that, or else its process is killed.
    fn crash(&mut self, node: u64) {
        let is_lying = self.shared.lock().machine(node).is_lying;
        if is_lying && !self.shared.lock().strike(node) {
            return self.kill(node);
        }
        let mut world = self.shared.lock();
        let is_torn = world.scenario.disk.torn_writes;
        let machine = world.machine(node);
        if machine.is_alive() {
            machine.end_life(Process::PowerLost);
            self.handle.pause(self.host(node));
        }
        world.machine(node).lose_power(is_torn);
        world.event(kind::STOP, node, [1, 0]);
    }

    /// The process is killed: its connections end, and what it wrote stays written.
    fn kill(&mut self, node: u64) {
        let is_alive = {
            let mut world = self.shared.lock();
            let is_alive = world.machine(node).is_alive();
            if is_alive {
                world.machine(node).end_life(Process::Killed);
                world.event(kind::STOP, node, [2, 0]);
            }
            is_alive
        };
        if is_alive {
            self.handle.kill(self.host(node));
        }
    }

    /// A process that is not there comes back.
    pub(super) fn restart(&mut self, node: u64) {
        let is_alive = self.shared.lock().machine(node).is_alive();
        if !is_alive {
            // Frees the ports: of a process that ended by itself madsim keeps them.
            self.handle.kill(self.host(node));
            self.handle.restart(self.host(node));
        }
    }

    fn pause(&mut self, node: u64) {
        let mut world = self.shared.lock();
        let machine = world.machine(node);
        if machine.process == Process::Running {
            machine.process = Process::Paused;
            self.handle.pause(self.host(node));
        }
    }

    fn resume(&mut self, node: u64) {
        let mut world = self.shared.lock();
        let machine = world.machine(node);
        if machine.process == Process::Paused {
            machine.process = Process::Running;
            self.handle.resume(self.host(node));
        }
    }

    /// The fault phase is over: everything is repaired.
    pub(super) fn repair(&mut self) {
        self.heal();
        self.net.update_config(|config| {
            config.packet_loss_rate = 0.0;
            config.send_latency.start = config.send_latency.start.min(HEALED_LATENCY_MAX / 2);
            config.send_latency.end = config.send_latency.end.min(HEALED_LATENCY_MAX);
        });
        for node in 1..=self.nodes.len() as u64 {
            {
                let mut world = self.shared.lock();
                world.is_healed = true;
                let now_us = world.now_us();
                let machine = world.machine(node);
                machine.disk.set_room(None);
                machine.fails_next_operation = false;
                machine.disk_slow_us = 0;
                machine.misdirects = 0;
                if machine.is_lying {
                    machine.set_lying(false);
                }
                machine.clock.repair(now_us);
                machine.clock.set_rate(now_us, 0);
                world.event(kind::REPAIR, node, [0, 0]);
            }
            self.resume(node);
            // A process that has not noticed what became of its disk is restarted, and so looks.
            if self.shared.lock().is_damaged(node) {
                self.kill(node);
            }
            self.restart(node);
        }
    }

    /// A node whose failed disk was found out only after the repair gets its restart, too.
    pub(super) fn restart_failed(&mut self) {
        for node in 1..=self.nodes.len() as u64 {
            let process = self.shared.lock().machine(node).process.clone();
            if let Process::DiskFailed(_) = process {
                self.restart(node);
            }
        }
    }

    /// Ends all processes, so that nothing of the run is left behind.
    pub(super) fn end(&self) {
        for host in self.nodes.iter().chain(&self.clients) {
            self.handle.kill(host);
        }
    }
}
