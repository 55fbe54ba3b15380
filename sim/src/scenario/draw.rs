//! Draws a scenario from a seed.
//!
//! Owns the distribution of configurations and faults. Swarm testing (Groce et al., ISSTA 2012): each
//! seed enables its own subset of fault classes, because a run with everything at once rarely gets
//! anywhere. Never looks at the outcome of a run.

use super::{
    Admin, Blow, DiskSettings, EngineSettings, Fault, Mix, Moment, Network, Scenario, TimedFault,
    Turns, Workload,
};
use crate::damage::Decay;
use crate::streams::Stream;

/// What can be broken; each seed draws its own subset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FaultClass {
    Partitions,
    Crashes,
    Kills,
    PowerLoss,
    Pauses,
    Clocks,
    SlowDisks,
    DiskErrors,
    FullDisks,
    Elections,
    Leaders,
    Lags,
    Changes,
}

const FAULT_CLASSES: [FaultClass; 13] = [
    FaultClass::Partitions,
    FaultClass::Crashes,
    FaultClass::Kills,
    FaultClass::PowerLoss,
    FaultClass::Pauses,
    FaultClass::Clocks,
    FaultClass::SlowDisks,
    FaultClass::DiskErrors,
    FaultClass::FullDisks,
    FaultClass::Elections,
    FaultClass::Leaders,
    FaultClass::Lags,
    FaultClass::Changes,
];

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut shape = Stream::new(seed, "shape");
        let nodes = [3, 3, 3, 3, 5, 5, 1, 2, 4][shape.weighted(&[4, 4, 4, 4, 3, 3, 1, 1, 1])];
        let faults_ms = shape.skewed(3_000, 20_000);
        let engine = draw_engine(&mut Stream::new(seed, "engine settings"));
        let (spares, admin) = draw_churn(&mut Stream::new(seed, "churn"));
        let network = draw_network(&mut Stream::new(seed, "network settings"));
        let disk = draw_disk(&mut Stream::new(seed, "disk settings"));
        let workload = draw_workload(&mut Stream::new(seed, "workload settings"));
        let turns = Turns { delay_us_max: shape.pick(&[0, 5, 20, 20, 200, 2_000]) };
        // Time for a slow node to catch up over a drawn network, and for leases to run out.
        let healing_ms = 20_000 + 40 * engine.election_timeout_ms;
        let mut scenario = Self {
            seed,
            nodes,
            spares,
            faults_ms,
            healing_ms,
            engine,
            workload,
            admin,
            network,
            disk,
            turns,
            faults: Vec::new(),
        };
        scenario.faults = scenario.plan(Stream::new(seed, "faults")).draw();
        match shape.weighted(&[6, 3, 1]) {
            0 => scenario.with_damage(),
            1 => scenario.into_storm(),
            _ => scenario.into_delusion(),
        }
    }

    /// One election after the other: what tells a right consensus from a nearly right one is decided
    /// where logs differ, and logs differ where leaders fall while their entries are on their way. So
    /// entries go out one by one over a network that is slow compared with the election timeout, and
    /// whoever leads is struck before it has caught its breath.
    fn into_storm(mut self) -> Self {
        let mut stream = Stream::new(self.seed, "storm");
        self.nodes = stream.pick(&[3, 3, 5]);
        self.faults_ms = stream.between(3_000, 8_000);
        self.engine.election_timeout_ms = 100;
        self.engine.heartbeat_interval_ms = 20;
        self.healing_ms = 24_000;
        if stream.one_in(2) {
            self.engine.batch_bytes_target = 1;
            self.engine.inflight_entries_max = stream.pick(&[1, 1, 4]);
        }
        self.network = Network {
            latency_us_min: 500,
            latency_us_max: stream.pick(&[5_000, 30_000, 50_000]),
            loss_ppm: stream.pick(&[0, 20_000, 200_000]),
            duplicate_ppm: stream.pick(&[0, 20_000]),
            straggler_ppm: stream.pick(&[0, 50_000, 300_000]),
            straggler_us_max: stream.pick(&[100_000, 1_000_000]),
            encode: false,
        };
        self.workload.clients = stream.between(2, 5);
        self.workload.pause_us = 10_000;
        self.workload.window = stream.pick(&[4, 32]);
        self.workload.request_timeout_ms = stream.pick(&[50, 150]);
        self.workload.mix =
            Mix { send: 40, take: 10, get: 5, browse: 10, list: 10, ..self.workload.mix };
        self.faults = self.plan(stream).draw_storm();
        self
    }

    /// One leader after the other is deposed and does not notice, while clients look everywhere.
    fn into_delusion(mut self) -> Self {
        let mut stream = Stream::new(self.seed, "delusion");
        self.nodes = stream.pick(&[3, 3, 5]);
        (self.spares, self.admin) = (0, Admin::default());
        self.faults_ms = stream.between(5_000, 10_000);
        self.network.loss_ppm = 0;
        self.network.latency_us_max = self.network.latency_us_max.min(5_000);
        self.network.latency_us_min = self.network.latency_us_min.min(5_000);
        self.workload.clients = stream.between(3, 6);
        self.workload.pause_us = 10_000;
        self.workload.request_timeout_ms = stream.pick(&[50, 150, 300]);
        self.workload.mix = Mix { get: 10, browse: 20, list: 20, ..self.workload.mix };
        if stream.one_in(2) {
            // A leader with a lease that hands over does not notice either, if it is cut off just then.
            self.engine.lease_drift_ppm = Some(LEASE_DRIFT_PPM);
            self.admin.pause_ms = 50;
            self.workload.read_here_ppm = 0;
            self.faults = self.plan(stream).draw_lost_transfers();
        } else {
            self.faults = self.plan(stream).draw_delusions();
        }
        self
    }

    /// Disks that decay, misplace, lie and vanish, in every second scenario where a minority can be spared.
    fn with_damage(mut self) -> Self {
        let mut stream = Stream::new(self.seed, "damage");
        if self.nodes < 3 || self.admin.pause_ms > 0 || !stream.one_in(2) {
            return self;
        }
        let mut plan = self.plan(stream);
        plan.faults = std::mem::take(&mut self.faults);
        self.faults = plan.draw_damage();
        self
    }

    fn plan(&self, stream: Stream) -> FaultPlan {
        FaultPlan {
            stream,
            nodes: self.machines(),
            end_ms: self.faults_ms,
            election_timeout_ms: self.engine.election_timeout_ms,
            has_lease: self.engine.lease_drift_ppm.is_some(),
            has_churn: self.admin.pause_ms > 0,
            faults: Vec::new(),
        }
    }
}

/// Spare machines, and an operator who uses them: in every second scenario.
fn draw_churn(stream: &mut Stream) -> (u64, Admin) {
    if stream.one_in(2) {
        return (0, Admin::default());
    }
    let pause_ms = stream.pick(&[50, 200, 700, 2_000]);
    (stream.between(0, 4), Admin { pause_ms })
}

/// A lease is safe as long as no two clocks differ in speed by more than this, in a million.
const LEASE_DRIFT_PPM: u32 = 50_000;
/// Speeds of clocks, too fast by so much in a million.
const CLOCK_RATES_PPM: [i64; 6] = [-200_000, -20_000, -500, 500, 20_000, 200_000];
/// The same where there are leases: no second of one differs from one of another by more than the
/// bound.
const LEASED_CLOCK_RATES_PPM: [i64; 4] = [-20_000, -500, 500, 20_000];

fn draw_engine(stream: &mut Stream) -> EngineSettings {
    let mut engine = EngineSettings::default();
    // A small bound makes its behaviour frequent; each is drawn on its own.
    if stream.one_in(3) {
        engine.election_timeout_ms = stream.between(100, 1_000);
        engine.heartbeat_interval_ms = (engine.election_timeout_ms / stream.between(5, 10)).max(1);
    }
    if stream.one_in(3) {
        engine.batch_bytes_target = stream.pick(&[1, 300, 4_096]);
    }
    if stream.one_in(3) {
        engine.inflight_entries_max = stream.pick(&[1, 1, 2, 8]);
    }
    if stream.one_in(4) {
        engine.inflight_bytes_max = stream.pick(&[1, 1_000, 20_000]);
    }
    if stream.one_in(4) {
        engine.uncommitted_bytes_max = stream.pick(&[2_000, 20_000]);
    }
    if stream.one_in(3) {
        engine.log_cache_bytes_max = stream.pick(&[0, 1_000, 20_000]);
    }
    if stream.one_in(5) {
        engine.sessions_max = stream.pick(&[2, 4, 8]);
    }
    if stream.one_in(5) {
        engine.waiting_requests_max = stream.pick(&[2, 8, 32]);
    }
    if stream.one_in(3) {
        engine.dedup_window_millis = stream.pick(&[500, 2_000, 5_000]);
    }
    if stream.one_in(2) {
        engine.segment_bytes_max = stream.pick(&[4_096, 16_384, 100_000]);
    }
    if !stream.one_in(4) {
        engine.snapshot_log_bytes = stream.pick(&[2_000, 8_000, 64_000]);
        engine.snapshot_chunk_bytes_max = stream.pick(&[200, 2_000, 1_000_000]);
    }
    if stream.one_in(4) {
        engine.priorities = (0..stream.between(2, 4)).map(|_| stream.pick(&[0, 1, 2])).collect();
    }
    if stream.one_in(4) {
        engine.lease_drift_ppm = Some(LEASE_DRIFT_PPM);
    }
    engine
}

fn draw_network(stream: &mut Stream) -> Network {
    let latency_us_min = stream.pick(&[1, 50, 100, 500, 5_000]);
    let mut network = Network {
        latency_us_min,
        latency_us_max: latency_us_min * stream.pick(&[1, 2, 5, 20]),
        encode: stream.one_in(4),
        ..Network::default()
    };
    if stream.one_in(2) {
        network.loss_ppm = stream.pick(&[1_000, 10_000, 50_000, 200_000]);
    }
    if stream.one_in(2) {
        network.duplicate_ppm = stream.pick(&[1_000, 20_000, 200_000]);
    }
    if stream.one_in(2) {
        network.straggler_ppm = stream.pick(&[1_000, 10_000, 100_000]);
        network.straggler_us_max = stream.pick(&[10_000, 300_000, 3_000_000]);
    }
    network
}

fn draw_disk(stream: &mut Stream) -> DiskSettings {
    let latency_us_min = stream.pick(&[1, 50, 100, 1_000]);
    let mut disk = DiskSettings {
        latency_us_min,
        latency_us_max: latency_us_min * stream.pick(&[1, 2, 10]),
        torn_writes: !stream.one_in(4),
        ..DiskSettings::default()
    };
    if stream.one_in(3) {
        disk.stall_ppm = stream.pick(&[1_000, 20_000]);
        disk.stall_us_max = stream.pick(&[20_000, 200_000, 1_000_000]);
    }
    disk
}

fn draw_workload(stream: &mut Stream) -> Workload {
    let mut mix = Mix::default();
    if stream.one_in(2) {
        for weight in [
            &mut mix.lease,
            &mut mix.take,
            &mut mix.nack,
            &mut mix.extend,
            &mut mix.delete,
            &mut mix.purge,
            &mut mix.get,
            &mut mix.browse,
            &mut mix.list,
            &mut mix.watch,
        ] {
            if stream.one_in(3) {
                *weight = stream.pick(&[0, 0, 1, 10, 30]);
            }
        }
    }
    Workload {
        clients: stream.between(1, 6),
        queues: stream.skewed(1, 12),
        pause_us: stream.pick(&[2_000, 10_000, 20_000, 50_000, 200_000]),
        window: stream.pick(&[1, 4, 32, 128]),
        block_commands_max: stream.pick(&[1, 2, 8, 64]),
        send_messages_max: stream.pick(&[1, 1, 3, 20]),
        body_bytes_max: stream.pick(&[0, 100, 100, 1_000, 20_000]),
        receive_max: stream.pick(&[1, 8, 100]),
        lease_ms_max: stream.pick(&[5, 300, 2_000, 20_000]),
        request_timeout_ms: stream.pick(&[100, 500, 1_000, 3_000]),
        duplicate_id_ppm: stream.pick(&[0, 20_000, 300_000]),
        session_churn_ppm: stream.pick(&[0, 0, 5_000, 50_000]),
        read_here_ppm: stream.pick(&[0, 300_000, 1_000_000]),
        read_stale_ppm: stream.pick(&[0, 0, 300_000]),
        mix,
    }
}

/// Collects timed faults. Every fault that lasts ends within the plan; the world repairs whatever
/// is left when the fault phase is over.
struct FaultPlan {
    stream: Stream,
    nodes: u64,
    end_ms: u64,
    election_timeout_ms: u64,
    /// Whether the cluster relies on its clocks' speeds.
    has_lease: bool,
    /// Whether there are membership changes to be disturbed.
    has_churn: bool,
    faults: Vec<TimedFault>,
}

impl FaultPlan {
    fn draw(mut self) -> Vec<TimedFault> {
        let enabled: Vec<FaultClass> =
            FAULT_CLASSES.into_iter().filter(|_| self.stream.one_in(3)).collect();
        if enabled.is_empty() {
            return Vec::new();
        }
        let timeout_ms = self.election_timeout_ms;
        let mean_pause_ms = self.stream.pick(&[timeout_ms, 200, 700, 2_000, 5_000]);
        let mut at_ms = self.stream.between(0, 2 * mean_pause_ms);
        while at_ms < self.end_ms {
            let class = enabled[self.stream.below(enabled.len())];
            self.draw_fault(class, at_ms);
            at_ms += self.stream.between(1, 2 * mean_pause_ms);
        }
        self.in_order()
    }

    /// Strikes at leaders about as often as there are new ones, and crashes in between.
    fn draw_storm(mut self) -> Vec<TimedFault> {
        let timeout_ms = self.election_timeout_ms;
        let pause_ms = self.stream.pick(&[timeout_ms / 2, timeout_ms, 3 * timeout_ms]);
        let others = [FaultClass::Crashes, FaultClass::Elections, FaultClass::Elections];
        let other = self.stream.pick(&others);
        let mut at_ms = 5 * timeout_ms;
        while at_ms < self.end_ms {
            if self.stream.one_in(3) {
                self.draw_fault(other, at_ms);
            } else {
                let for_ms = self.stream.between(1, 3 * timeout_ms);
                self.draw_strike(at_ms, for_ms);
            }
            at_ms += self.stream.between(1, 4 * pause_ms);
        }
        self.in_order()
    }

    /// Whoever hands leadership over is cut off as it says so, and comes back.
    fn draw_lost_transfers(mut self) -> Vec<TimedFault> {
        let timeout_ms = self.election_timeout_ms;
        let mut at_ms = 3 * timeout_ms;
        while at_ms < self.end_ms {
            self.add(at_ms, Fault::Heal);
            let moments = vec![Moment::TransferBegun];
            self.add(at_ms, Fault::Ambush { moments, blink: false });
            at_ms += timeout_ms * self.stream.between(3, 6);
        }
        self.in_order()
    }

    /// Each delusion ends before the next begins, as any other fault would end it too soon.
    fn draw_delusions(mut self) -> Vec<TimedFault> {
        let timeout_ms = self.election_timeout_ms;
        let mut at_ms = 5 * timeout_ms;
        while at_ms < self.end_ms {
            let for_ms = timeout_ms * self.stream.between(8, 20);
            self.add(at_ms, Fault::StrikeLeader { blow: Blow::Delude, for_ms });
            at_ms += for_ms + timeout_ms * self.stream.between(2, 6);
        }
        self.in_order()
    }

    fn draw_damage(mut self) -> Vec<TimedFault> {
        let mean_pause_ms = self.stream.pick(&[300, 1_000, 3_000]);
        let mut at_ms = self.stream.between(0, 2 * mean_pause_ms);
        while at_ms < self.end_ms {
            let (node, until_ms) = (self.node(), at_ms + self.span_ms());
            match self.stream.weighted(&[12, 4, 4, 1]) {
                0 => {
                    let how = self.stream.pick(&Decay::ALL);
                    self.add(at_ms, Fault::DiskRot { node, how });
                    // Now and then nobody looks before the damaged bytes are read.
                    if !self.stream.one_in(3) {
                        self.add(at_ms, Fault::Kill { node });
                        self.add(until_ms, Fault::Restart { node });
                    }
                }
                1 => {
                    self.add(at_ms, Fault::DiskMisdirect { node });
                    self.add(until_ms, Fault::Kill { node });
                    self.add(until_ms, Fault::Restart { node });
                }
                2 => {
                    self.add(at_ms, Fault::DiskLies { node, lies: true });
                    self.add(until_ms, Fault::Crash { node });
                    self.add(until_ms, Fault::DiskLies { node, lies: false });
                    self.add(until_ms, Fault::Restart { node });
                }
                _ => {
                    self.add(at_ms, Fault::DiskVanish { node });
                    self.add(until_ms, Fault::Restart { node });
                }
            }
            at_ms += self.stream.between(1, 2 * mean_pause_ms);
        }
        self.in_order()
    }

    /// Stable: faults of one instant stay in the order in which they were drawn.
    fn in_order(mut self) -> Vec<TimedFault> {
        self.faults.sort_by_key(|fault| fault.at_ms);
        self.faults
    }

    fn add(&mut self, at_ms: u64, fault: Fault) {
        if at_ms < self.end_ms {
            self.faults.push(TimedFault { at_ms, fault });
        }
    }

    fn node(&mut self) -> u64 {
        self.stream.between(1, self.nodes)
    }

    /// How long a fault lasts: around the election timeout, where things are decided, or far longer.
    fn span_ms(&mut self) -> u64 {
        let timeout = self.election_timeout_ms;
        match self.stream.weighted(&[2, 3, 1]) {
            0 => self.stream.between(1, timeout),
            1 => self.stream.between(timeout, 4 * timeout),
            _ => self.stream.between(4 * timeout, 20 * timeout),
        }
    }

    fn draw_fault(&mut self, class: FaultClass, at_ms: u64) {
        let node = self.node();
        let until_ms = at_ms + self.span_ms();
        match class {
            FaultClass::Partitions => self.draw_partition(at_ms, until_ms),
            FaultClass::Crashes => {
                self.add(at_ms, Fault::Crash { node });
                self.add(until_ms, Fault::Restart { node });
            }
            FaultClass::Kills => {
                self.add(at_ms, Fault::Kill { node });
                self.add(until_ms, Fault::Restart { node });
            }
            FaultClass::PowerLoss => {
                self.add(at_ms, Fault::CrashAll);
                for node in 1..=self.nodes {
                    let back_ms = at_ms + self.span_ms();
                    self.add(back_ms, Fault::Restart { node });
                }
            }
            FaultClass::Pauses => {
                self.add(at_ms, Fault::Pause { node });
                self.add(until_ms, Fault::Resume { node });
            }
            FaultClass::Clocks => self.draw_clock_fault(at_ms, until_ms),
            FaultClass::SlowDisks => {
                let by_us = self.stream.pick(&[5_000, 50_000, 500_000, 5_000_000]);
                self.add(at_ms, Fault::DiskSlow { node, by_us });
                self.add(until_ms, Fault::DiskSlow { node, by_us: 0 });
            }
            FaultClass::DiskErrors => {
                self.add(at_ms, Fault::DiskError { node });
                self.add(until_ms, Fault::Restart { node });
            }
            FaultClass::Elections => self.draw_elections(at_ms),
            FaultClass::Leaders => self.draw_strike(at_ms, until_ms - at_ms),
            FaultClass::Changes => {
                let moments = [Moment::JointEntered, Moment::SnapshotSent, Moment::TransferBegun];
                let moments = vec![self.stream.pick(&moments)];
                let blink = self.stream.one_in(2);
                self.add(at_ms, Fault::Ambush { moments, blink });
                self.add(until_ms, Fault::Heal);
            }
            FaultClass::Lags => {
                let by_ms = self.span_ms();
                self.add(at_ms, Fault::Lag { node, by_ms, for_ms: until_ms - at_ms + by_ms });
            }
            FaultClass::FullDisks => {
                let room_bytes = self.stream.pick(&[0, 0, 100, 3_000, 30_000]);
                let is_everywhere = self.stream.one_in(3);
                let nodes = if is_everywhere { 1..=self.nodes } else { node..=node };
                for node in nodes {
                    self.add(at_ms, Fault::DiskFull { node, room_bytes });
                    self.add(until_ms, Fault::DiskFree { node });
                }
            }
        }
    }

    fn draw_strike(&mut self, at_ms: u64, for_ms: u64) {
        let blows = [
            Blow::Crash,
            Blow::Crash,
            Blow::Kill,
            Blow::Pause,
            Blow::Isolate,
            Blow::Deafen,
            Blow::Mute,
        ];
        let blow = self.stream.pick(&blows);
        self.add(at_ms, Fault::StrikeLeader { blow, for_ms });
    }

    /// One leader after the other is cut off as it is elected or as it commits.
    fn draw_elections(&mut self, at_ms: u64) {
        let count = self.stream.between(4, 12);
        let of_changes = [Moment::JointEntered, Moment::SnapshotSent, Moment::TransferBegun];
        let of_leaders = [Moment::Elected, Moment::Elected, Moment::Committed];
        let moments = (0..count).map(|_| {
            let is_of_change = self.has_churn && self.stream.one_in(2);
            self.stream.pick(if is_of_change { &of_changes } else { &of_leaders })
        });
        let moments: Vec<Moment> = moments.collect();
        let blink = self.stream.one_in(2);
        self.add(at_ms, Fault::Ambush { moments, blink });
        self.add(at_ms + count * 4 * self.election_timeout_ms, Fault::Heal);
    }

    fn draw_partition(&mut self, at_ms: u64, until_ms: u64) {
        let node = self.node();
        match self.stream.weighted(&[8, 4, 4, 2, 2, 2, 2, 1, 1]) {
            0 => {
                let group = (1..=self.nodes).filter(|_| self.stream.one_in(2)).collect();
                self.add(at_ms, Fault::Partition { group });
            }
            1 => self.add(at_ms, Fault::Partition { group: vec![node] }),
            2 => {
                let to = self.node();
                self.add(at_ms, Fault::OneWay { from: node, to });
            }
            3 => self.add(at_ms, Fault::Deafen { node }),
            4 => self.add(at_ms, Fault::Mute { node }),
            5 => self.add(at_ms, Fault::HideFromClients { node }),
            6 => {
                let other = self.node();
                self.add(at_ms, Fault::CutPair { one: node, other });
            }
            7 => self.add(at_ms, Fault::Bridge { node }),
            _ => {
                let mut nodes: Vec<u64> = (1..=self.nodes).collect();
                let (first, second) =
                    (self.stream.below(nodes.len()), self.stream.below(nodes.len()));
                nodes.swap(first, second);
                self.add(at_ms, Fault::Chain { nodes });
            }
        }
        // Now and then the next partition comes on top of this one.
        if !self.stream.one_in(4) {
            self.add(until_ms, Fault::Heal);
        }
    }

    fn draw_clock_fault(&mut self, at_ms: u64, until_ms: u64) {
        let node = self.node();
        match self.stream.weighted(&[3, 3, 2, 2]) {
            0 => {
                let size = i64::try_from(self.stream.skewed(1, 3_600_000)).expect("an hour fits");
                let by_ms = if self.stream.one_in(2) { size } else { -size };
                self.add(at_ms, Fault::ClockJump { node, by_ms });
            }
            1 => {
                let ppm = if self.has_lease {
                    self.stream.pick(&LEASED_CLOCK_RATES_PPM)
                } else {
                    self.stream.pick(&CLOCK_RATES_PPM)
                };
                self.add(at_ms, Fault::ClockRate { node, ppm });
                self.add(until_ms, Fault::ClockRate { node, ppm: 0 });
            }
            2 => self.add(at_ms, Fault::ClockFreeze { node }),
            _ => self.add(at_ms, Fault::ClockRepair { node }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_scenarios_and_different_ones_differ() {
        assert_eq!(Scenario::from_seed(42), Scenario::from_seed(42));
        assert_ne!(Scenario::from_seed(42), Scenario::from_seed(43));
    }

    #[test]
    fn every_fault_class_and_cluster_size_is_drawn_by_some_seed() {
        let scenarios: Vec<Scenario> = (0..500).map(Scenario::from_seed).collect();
        for nodes in 1..=5 {
            assert!(scenarios.iter().any(|scenario| scenario.nodes == nodes), "{nodes} nodes");
        }
        let three = scenarios.iter().filter(|scenario| scenario.nodes == 3).count();
        assert!(three > 250, "{three} of 500 have three nodes");
        let drawn = |is_it: fn(&Fault) -> bool| {
            scenarios.iter().any(|scenario| scenario.faults.iter().any(|timed| is_it(&timed.fault)))
        };
        assert!(drawn(|fault| matches!(fault, Fault::Partition { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::OneWay { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::CrashAll)));
        assert!(drawn(|fault| matches!(fault, Fault::Kill { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::Pause { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::ClockJump { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::DiskError { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::DiskFull { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::Ambush { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::StrikeLeader { blow: Blow::Delude, .. })));
        assert!(drawn(|fault| matches!(fault, Fault::Lag { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::CutPair { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::Bridge { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::Chain { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::DiskMisdirect { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::DiskLies { .. })));
        assert!(drawn(|fault| matches!(fault, Fault::DiskVanish { .. })));
        for how in Decay::ALL {
            let rots = Fault::DiskRot { node: 1, how };
            assert!(
                scenarios.iter().flat_map(|one| &one.faults).any(|timed| timed.fault == rots),
                "{how:?}"
            );
        }
        let calm = scenarios.iter().filter(|scenario| scenario.faults.is_empty()).count();
        assert!(calm > 0, "some seeds break nothing");
    }

    #[test]
    fn faults_come_in_the_order_of_time_and_end_with_their_phase() {
        for seed in 0..200 {
            let scenario = Scenario::from_seed(seed);
            assert!(scenario.faults.is_sorted_by_key(|fault| fault.at_ms), "seed {seed}");
            assert!(scenario.faults.iter().all(|fault| fault.at_ms < scenario.faults_ms));
        }
    }
}
