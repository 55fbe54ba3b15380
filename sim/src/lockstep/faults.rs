//! Breaking things on time, and repairing everything at the end of the fault phase.

use super::client::Client;
use super::event::Event;
use super::node::{Node, Standstill};
use super::world::World;
use crate::oracle::Violation;
use crate::scenario::{Blow, Fault, Moment};
use crate::workload::{Intent, body_of, mint};
use engine::engine::RoleName;
use engine::hlc::Hlc;
use engine::queue::{Command, Message, ReceiveMode};

/// How many writes in a row are looked at for one that may land elsewhere.
const MISDIRECTIONS_TRIED_MAX: u32 = 20;
/// The queue of the probe, which no other client uses.
const PROBE_QUEUE: &str = "probe";

impl World<'_> {
    pub(super) fn on_fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.trace.is_read() {
            self.trace.line(self.now_us, "--", ' ', format_args!("{fault:?}"));
        }
        let now_us = self.now_us;
        match fault {
            Fault::Partition { group } => self.links.partition(&group),
            Fault::OneWay { from, to } => self.links.cut(from, to),
            Fault::CutPair { one, other } => self.links.cut_pair(one, other),
            Fault::Bridge { node } => self.links.bridge(node, self.scenario.machines()),
            Fault::Chain { nodes } => self.links.chain(&nodes),
            Fault::Lag { node, by_ms, for_ms } => {
                self.links.lag(node, now_us, by_ms.saturating_mul(1_000));
                if by_ms > 0 {
                    let end = Fault::Lag { node, by_ms: 0, for_ms: 0 };
                    self.follow_up(for_ms, end);
                }
            }
            Fault::StrikeLeader { blow, for_ms } => self.strike_leader(blow, for_ms)?,
            Fault::Rejoin { node } => self.links.rejoin(node),
            Fault::Deafen { node } => self.links.deafen(node),
            Fault::Mute { node } => self.links.mute(node),
            Fault::HideFromClients { node } => self.links.hide(node),
            Fault::Ambush { moments, blink } => self.ambush = (moments.into(), blink),
            Fault::Heal => self.links.heal(),
            Fault::Crash { node } => self.crash(node, true),
            Fault::CrashAll => {
                for node in 1..=self.scenario.machines() {
                    self.crash(node, true);
                }
            }
            Fault::Kill { node } => self.crash(node, false),
            Fault::Restart { node } => self.start_node(node)?,
            Fault::Pause { node } => self.node(node).is_paused = true,
            Fault::Resume { node } => self.resume(node),
            Fault::ClockJump { node, by_ms } => {
                self.node(node).clock.jump(now_us, by_ms.saturating_mul(1_000));
            }
            Fault::ClockRate { node, ppm } => self.set_clock_rate(node, ppm),
            Fault::ClockFreeze { node } => self.node(node).clock.freeze(now_us),
            Fault::ClockRepair { node } => self.node(node).clock.repair(now_us),
            Fault::DiskSlow { node, by_us } => self.node(node).disk_slow_us = by_us,
            Fault::DiskError { node } => self.node(node).fails_next_job = true,
            Fault::DiskFull { node, room_bytes } => self.node(node).set_room(Some(room_bytes)),
            Fault::DiskFree { node } => self.node(node).set_room(None),
            Fault::DiskRot { node, how } => self.rot(node, how),
            Fault::DiskMisdirect { node } => self.node(node).misdirects = MISDIRECTIONS_TRIED_MAX,
            Fault::DiskLies { node, lies } => self.node(node).set_lying(lies),
            Fault::DiskVanish { node } => self.vanish(node),
        }
        Ok(())
    }

    /// A leader was elected, or has committed more: if an ambush waits for that, it is sprung.
    pub(super) fn spring_ambush(&mut self, leader: u64, moment: Moment) {
        let (moments, blink) = &mut self.ambush;
        let is_caught = moment == Moment::Committed && self.ambushed == Some(leader);
        if moments.front() == Some(&moment) && !is_caught {
            moments.pop_front();
            self.ambushed = Some(leader);
            self.events.push(self.now_us, Event::Ambush { leader, blink: *blink });
        }
    }

    /// The leader is cut off, and its followers may lose power and come back.
    pub(super) fn on_ambush(&mut self, leader: u64, blink: bool) -> Result<(), Violation> {
        if self.is_healed {
            return Ok(());
        }
        self.tell(leader, format_args!("is cut off, followers lose power: {blink}"));
        self.links.heal();
        self.links.partition(&[leader]);
        for node in (1..=self.scenario.machines()).filter(|node| blink && *node != leader) {
            let machine = self.node(node);
            if machine.replica.is_some() && machine.role.0 == RoleName::Follower {
                self.crash(node, true);
                self.start_node(node)?;
            }
        }
        if blink {
            self.repeat_lately_sent();
        }
        Ok(())
    }

    fn strike_leader(&mut self, blow: Blow, for_ms: u64) -> Result<(), Violation> {
        let leads = |machine: &&Node| machine.is_running() && machine.role.0 == RoleName::Leader;
        let leaders = self.nodes.iter().filter(leads);
        let Some(leader) = leaders.max_by_key(|machine| machine.role.1) else { return Ok(()) };
        let mut strikes = blow.against(leader.id.0, for_ms).into_iter();
        let (_, first) = strikes.next().expect("a blow begins at once");
        strikes.for_each(|(after_ms, fault)| self.follow_up(after_ms, fault));
        self.on_fault(first)
    }

    fn follow_up(&mut self, after_ms: u64, fault: Fault) {
        let at_us = self.now_us.saturating_add(after_ms.saturating_mul(1_000));
        self.events.push(at_us, Event::FollowUp(fault));
    }

    /// A power failure of a machine whose syncs lie loses what it vouched for: only if others have it.
    fn crash(&mut self, node: u64, is_power_lost: bool) {
        let loses_promises = is_power_lost && self.node(node).is_lying && !self.strike(node);
        let is_power_lost = is_power_lost && !loses_promises;
        let is_torn = self.scenario.disk.torn_writes;
        self.node(node).stop(Standstill::Crashed, is_power_lost, is_torn);
    }

    fn resume(&mut self, node: u64) {
        self.node(node).is_paused = false;
        // Whatever waited, and whatever deadline passed, is for the next turn to find.
        self.node(node).has_turn = false;
        self.schedule_turn(node);
    }

    fn set_clock_rate(&mut self, node: u64, ppm: i64) {
        let now_us = self.now_us;
        let machine = self.node(node);
        machine.clock.set_rate(now_us, ppm);
        // The deadline that was scheduled was reckoned at the old rate.
        machine.deadline_us = None;
        self.schedule_deadline(node);
    }

    /// The fault phase is over: everything is repaired, the workload ends, and the probe begins.
    pub(super) fn repair(&mut self) -> Result<(), Violation> {
        self.is_healed = true;
        self.links.repair();
        for node in 1..=self.scenario.machines() {
            let now_us = self.now_us;
            let machine = self.node(node);
            machine.set_room(None);
            machine.fails_next_job = false;
            machine.disk_slow_us = 0;
            machine.misdirects = 0;
            machine.misdirects_next_job = false;
            if machine.is_lying {
                machine.set_lying(false);
            }
            machine.clock.repair(now_us);
            self.set_clock_rate(node, 0);
            self.find_damage(node);
            self.start_node(node)?;
            self.resume(node);
        }
        for client in 0..self.clients.len() {
            self.clients[client].stop_generating();
        }
        self.admin.stop();
        self.send_probe();
        Ok(())
    }

    /// A fresh client sends a message and receives it.
    pub(super) fn send_probe(&mut self) {
        let client = self.clients.len() as u64;
        let id = mint(client, 1);
        let message = Message {
            id,
            from: "probe".to_owned(),
            to: PROBE_QUEUE.to_owned(),
            sent_at: Hlc::ZERO,
            headers: Vec::new(),
            body: body_of(id, 16),
        };
        let queue = PROBE_QUEUE.to_owned();
        let script = vec![
            Intent::Command(Command::Send { messages: vec![message] }),
            Intent::Command(Command::Receive { queue, max: 100, mode: ReceiveMode::Take }),
        ];
        self.clients.push(Client::scripted(self.scenario, client, script));
        self.wakes.push(None);
        self.start_client(client);
    }
}
