//! The simulated network: which messages arrive, how often and when.
//!
//! Owns link state and the fate of each message. Links are one-way, between nodes and between nodes
//! and the clients as a whole. Never looks into a message. Next: `world` delivers.

use crate::scenario::Network;
use crate::streams::Stream;

/// Who sends or receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Address {
    /// A node.
    Node(u64),
    /// A client.
    Client(u64),
    /// The operator.
    Admin,
}

/// Most nodes a simulated cluster has.
const NODES_MAX: usize = engine::limits::MEMBERS_MAX;

/// Longest way in a network that was repaired, microseconds.
const HEALED_LATENCY_US_MAX: u64 = 2_000;

/// Links and their quality.
#[derive(Clone, Debug)]
pub(super) struct Links {
    settings: Network,
    stream: Stream,
    /// `cut[from - 1][to - 1]`.
    cut: [[bool; NODES_MAX]; NODES_MAX],
    hidden: [bool; NODES_MAX],
    lags: [Option<Lag>; NODES_MAX],
    is_healed: bool,
}

/// What a node hears comes late.
#[derive(Clone, Copy, Debug)]
struct Lag {
    since_us: u64,
    by_us: u64,
}

impl Lag {
    /// Grows as fast as time passes, so that messages come half as often meanwhile and never stop:
    /// a leader that heard nothing for so long would step down.
    fn at(self, now_us: u64) -> u64 {
        self.by_us.min(now_us.saturating_sub(self.since_us))
    }
}

/// When the copies of a message arrive, as spans from now in microseconds.
pub(super) type Arrivals = [Option<u64>; 2];

fn at(node: u64) -> usize {
    usize::try_from(node - 1).expect("nodes are numbered from 1")
}

impl Links {
    /// A network of a scenario's quality with all links up.
    #[must_use]
    pub(super) fn new(seed: u64, settings: &Network) -> Self {
        Self {
            settings: settings.clone(),
            stream: Stream::new(seed, "network"),
            cut: [[false; NODES_MAX]; NODES_MAX],
            hidden: [false; NODES_MAX],
            lags: [None; NODES_MAX],
            is_healed: false,
        }
    }

    /// Nodes in the group and nodes outside it don't hear each other.
    pub(super) fn partition(&mut self, group: &[u64]) {
        for from in 1..=NODES_MAX as u64 {
            for to in 1..=NODES_MAX as u64 {
                if group.contains(&from) != group.contains(&to) {
                    self.cut(from, to);
                }
            }
        }
    }

    /// `to` does not hear `from`.
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.cut[at(from)][at(to)] = true;
    }

    /// `node` hears no node.
    pub(super) fn deafen(&mut self, node: u64) {
        (1..=NODES_MAX as u64).for_each(|from| self.cut(from, node));
    }

    /// No node hears `node`.
    pub(super) fn mute(&mut self, node: u64) {
        (1..=NODES_MAX as u64).for_each(|to| self.cut(node, to));
    }

    /// Two nodes don't hear each other.
    pub(super) fn cut_pair(&mut self, one: u64, other: u64) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Of `nodes` nodes all but `middle` fall into two halves that don't hear each other.
    pub(super) fn bridge(&mut self, middle: u64, nodes: u64) {
        let others: Vec<u64> = (1..=nodes).filter(|node| *node != middle).collect();
        let (left, right) = others.split_at(others.len() / 2);
        left.iter().for_each(|one| right.iter().for_each(|other| self.cut_pair(*one, *other)));
    }

    /// Each of `nodes` hears only its neighbours.
    pub(super) fn chain(&mut self, nodes: &[u64]) {
        for (at, one) in nodes.iter().enumerate() {
            nodes.iter().skip(at + 2).for_each(|other| self.cut_pair(*one, *other));
        }
    }

    /// `node` hears ever later, up to `by_us`; not late any more if that is 0.
    pub(super) fn lag(&mut self, node: u64, now_us: u64, by_us: u64) {
        self.lags[at(node)] = (by_us > 0).then_some(Lag { since_us: now_us, by_us });
    }

    /// All links of `node` are up again.
    pub(super) fn rejoin(&mut self, node: u64) {
        self.cut[at(node)] = [false; NODES_MAX];
        self.cut.iter_mut().for_each(|row| row[at(node)] = false);
        self.hidden[at(node)] = false;
        self.lags[at(node)] = None;
    }

    /// Clients don't reach `node`, nor it them.
    pub(super) fn hide(&mut self, node: u64) {
        self.hidden[at(node)] = true;
    }

    /// All links are up again.
    pub(super) fn heal(&mut self) {
        self.cut = [[false; NODES_MAX]; NODES_MAX];
        self.hidden = [false; NODES_MAX];
        self.lags = [None; NODES_MAX];
    }

    /// From now on nothing is lost, doubled, held up or overtaken, and every way is short.
    pub(super) fn repair(&mut self) {
        self.heal();
        self.is_healed = true;
    }

    /// Whether a message on this way would arrive at all.
    #[must_use]
    pub(super) fn is_up(&self, from: Address, to: Address) -> bool {
        match (from, to) {
            (Address::Node(from), Address::Node(to)) => !self.cut[at(from)][at(to)],
            (Address::Node(node), Address::Client(_) | Address::Admin)
            | (Address::Client(_) | Address::Admin, Address::Node(node)) => !self.hidden[at(node)],
            (Address::Client(_) | Address::Admin, Address::Client(_) | Address::Admin) => true,
        }
    }

    /// Decides the fate of a message that is sent now.
    pub(super) fn arrivals(&mut self, now_us: u64, from: Address, to: Address) -> Arrivals {
        if !self.is_up(from, to) {
            return [None, None];
        }
        let lag = match (from, to) {
            (Address::Node(_), Address::Node(to)) => self.lags[at(to)],
            (Address::Node(_) | Address::Client(_) | Address::Admin, _) => None,
        };
        let latency_us = self.latency_us() + lag.map_or(0, |lag| lag.at(now_us));
        if self.is_healed {
            return [Some(latency_us), None];
        }
        let (loss, duplicate) = (self.settings.loss_ppm, self.settings.duplicate_ppm);
        let first = (!self.stream.chance(loss)).then_some(latency_us);
        let first = first.map(|latency_us| latency_us + self.hold_up_us());
        let copy = self.stream.chance(duplicate);
        let copy = copy.then(|| self.latency_us() + self.hold_up_us());
        [first, copy]
    }

    fn latency_us(&mut self) -> u64 {
        let Network { latency_us_min, latency_us_max, .. } = self.settings;
        if self.is_healed {
            // No leader can be elected if a round trip takes longer than the election timeout. Always
            // the same, so that pieces of a snapshot come in order, as on a connection.
            return latency_us_min.min(HEALED_LATENCY_US_MAX);
        }
        self.stream.between(latency_us_min, latency_us_max)
    }

    fn hold_up_us(&mut self) -> u64 {
        if self.stream.chance(self.settings.straggler_ppm) {
            self.stream.between(0, self.settings.straggler_us_max)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_cuts_both_ways_and_heals() {
        let mut links = Links::new(1, &Network::default());
        links.partition(&[1, 2]);
        let is_up = |links: &Links, from, to| links.is_up(Address::Node(from), Address::Node(to));
        assert!(is_up(&links, 1, 2) && is_up(&links, 3, 4));
        assert!(!is_up(&links, 1, 3) && !is_up(&links, 3, 1));
        links.heal();
        assert!(is_up(&links, 1, 3));
    }

    #[test]
    fn a_one_way_cut_leaves_the_way_back() {
        let mut links = Links::new(1, &Network::default());
        links.cut(1, 2);
        assert_eq!(links.arrivals(0, Address::Node(1), Address::Node(2)), [None, None]);
        assert!(links.arrivals(0, Address::Node(2), Address::Node(1))[0].is_some());
    }

    #[test]
    fn a_node_that_lags_hears_ever_later_and_never_nothing() {
        let mut links = Links::new(1, &Network::default());
        links.lag(2, 1_000, 50_000);
        let mut heard_us = 1_000;
        for now_us in (1_000..200_000).step_by(1_000) {
            let [Some(span_us), None] = links.arrivals(now_us, Address::Node(1), Address::Node(2))
            else {
                panic!("nothing is lost here")
            };
            assert!(now_us + span_us < heard_us + 5_000, "silence after {heard_us} us");
            heard_us = now_us + span_us;
        }
        assert!(heard_us > 240_000, "{heard_us}");
        let back = links.arrivals(200_000, Address::Node(2), Address::Node(1));
        assert!(back[0].is_some_and(|span_us| span_us < 5_000), "what it says comes as before");
    }

    #[test]
    fn a_bridge_and_a_chain_leave_only_neighbours() {
        let is_up = |links: &Links, from, to| links.is_up(Address::Node(from), Address::Node(to));
        let mut links = Links::new(1, &Network::default());
        links.bridge(3, 5);
        assert!(is_up(&links, 1, 2) && is_up(&links, 2, 3) && is_up(&links, 3, 5));
        assert!(!is_up(&links, 1, 4) && !is_up(&links, 5, 2));
        links.heal();
        links.chain(&[2, 1, 3]);
        assert!(is_up(&links, 2, 1) && is_up(&links, 3, 1) && !is_up(&links, 2, 3));
    }

    #[test]
    fn a_lossy_network_loses_and_doubles_until_it_is_repaired() {
        let network = Network { loss_ppm: 300_000, duplicate_ppm: 300_000, ..Network::default() };
        let mut links = Links::new(1, &network);
        let send = |links: &mut Links| {
            let arrivals = links.arrivals(0, Address::Node(1), Address::Node(2));
            arrivals.iter().flatten().count()
        };
        let counts: Vec<usize> = (0..1_000).map(|_| send(&mut links)).collect();
        assert!(counts.contains(&0) && counts.contains(&1) && counts.contains(&2));
        links.repair();
        assert!((0..1_000).all(|_| send(&mut links) == 1));
    }
}
