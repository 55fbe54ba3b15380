//! Damaging disks, within the bounds of the atlas.

use super::machine::{Machine, address};
use super::world::World;
use crate::atlas::{self, Copy, Needs, Place};
use crate::damage::{self, Decay};
use crate::disk::Fate;
use engine::engine::Config;
use engine::ids::Term;
use engine::raft::LogPosition;
use engine::storage::disk::DiskOp;

impl World {
    /// Whether everything on a machine's disk may be lost now.
    pub(super) fn strike(&mut self, node: u64) -> bool {
        let verdict = self.may_damage(node);
        match &verdict {
            Ok(()) => self.machine(node).is_struck = true,
            Err(refusal) => {
                let who = format!("n{node}");
                self.tell(&who, ' ', format_args!("is not damaged: {refusal}"));
            }
        }
        verdict.is_ok()
    }

    /// Whether a disk that was struck is not whole.
    pub(super) fn is_damaged(&self, node: u64) -> bool {
        let machine = &self.machines[usize::try_from(node - 1).expect("nodes are few")];
        machine.is_struck && Copy::claimed(&machine.disk, self.config(machine)).is_none()
    }

    fn may_damage(&self, node: u64) -> Result<(), atlas::Refusal> {
        let (_, membership) = self.committed.memberships().newest();
        let log = self.committed.log();
        let index = log.last_index();
        let term = log.entry(index).map_or_else(Default::default, |entry| entry.term);
        let committed = LogPosition { term, index };
        let machine = &self.machines[usize::try_from(node - 1).expect("nodes are few")];
        let copy = Copy::claimed(&machine.disk, self.config(machine));
        let (claimed, term) = copy.map_or_else(Default::default, |it| (it.last(), it.term()));
        let needs = Needs { committed, claimed, term };
        // A term that nobody leads yet is one in which somebody may be asking for votes.
        let led = self.last_leader.map_or(Term::ZERO, |(term, _)| term);
        let place = |machine: &Machine| {
            let copy = Copy::durable(&machine.disk, self.config(machine));
            Place {
                node: machine.id,
                has_all: copy.as_ref().is_some_and(|copy| needs.are_met_by(copy)),
                is_campaigning: copy.is_some_and(|copy| copy.term() > led),
            }
        };
        let places: Vec<Place> = self.machines.iter().map(place).collect();
        atlas::may_damage(machine.id, &needs, membership, &places)
    }

    fn config(&self, machine: &Machine) -> Config {
        self.scenario.engine_config(machine.id, address, 0)
    }

    /// A write lands elsewhere, if one is to and this is one that may: what it would have made durable is
    /// then nothing that others lack.
    pub(super) fn misdirect(&mut self, node: u64, op: &DiskOp) -> bool {
        if self.machine(node).misdirects == 0 || !matches!(op, DiskOp::Write { .. }) {
            return false;
        }
        self.machine(node).misdirects -= 1;
        let before = self.machine(node).disk.clone();
        drop(engine::storage::disk::Disk::perform(&mut self.machine(node).disk, op));
        let may_strike = self.strike(node);
        self.machine(node).disk = before;
        may_strike && self.machine(node).misdirect(op)
    }
}

impl Machine {
    /// Durable bytes decay somewhere; says where, if there are any of that kind.
    pub(super) fn decay(&mut self, how: Decay) -> Option<String> {
        damage::decay(&mut self.disk, how, &mut self.stream)
    }

    fn misdirect(&mut self, op: &DiskOp) -> bool {
        self.misdirects = 0;
        damage::misdirect(&mut self.disk, op, &mut self.stream).is_some()
    }

    /// Another disk takes the place of its disk.
    pub(super) fn vanish(&mut self) {
        self.disk.vanish();
        self.disk.set_sync_lying(self.is_lying);
    }

    /// Whether syncs do nothing from now on. When they are honest again, everything is durable.
    pub(super) fn set_lying(&mut self, is_lying: bool) {
        self.is_lying = is_lying;
        if !is_lying {
            self.disk.crash_with(|_, _| Fate::Kept);
        }
        self.disk.set_sync_lying(is_lying);
    }
}
