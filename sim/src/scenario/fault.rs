//! What can be done to a cluster.
//!
//! Owns the list of faults and their names in scenario files. Never does any of it: that is each
//! world's. Next: `draw` for which come when.

use crate::damage::Decay;
use serde::{Deserialize, Serialize};

/// A fault and its time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimedFault {
    /// Milliseconds from the start, below [`Scenario::faults_ms`](super::Scenario::faults_ms).
    pub at_ms: u64,
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What can be done to a cluster. Faults of a kind that is already in force have no effect, nor have
/// repairs of what is not broken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Nodes in the group and nodes outside it don't hear each other.
    Partition {
        /// Nodes on one side.
        group: Vec<u64>,
    },
    /// One node is not heard by another; the way back works.
    OneWay {
        /// Who is not heard.
        from: u64,
        /// By whom.
        to: u64,
    },
    /// Two nodes don't hear each other.
    CutPair {
        /// One.
        one: u64,
        /// The other.
        other: u64,
    },
    /// The other nodes fall into two halves, by their ids, which don't hear each other; this node
    /// hears, and is heard by, both.
    Bridge {
        /// Who stands between them.
        node: u64,
    },
    /// Each node hears only the ones before and after it.
    Chain {
        /// The nodes from end to end; others are as they were.
        nodes: Vec<u64>,
    },
    /// What a node hears from others comes late, as behind a queue that fills up: the delay grows by
    /// as much as time passes, up to `by_ms`. What it says arrives as before.
    Lag {
        /// Which.
        node: u64,
        /// At most so late, milliseconds.
        by_ms: u64,
        /// Over after this, milliseconds; what is under way still comes late.
        for_ms: u64,
    },
    /// Whoever leads at that time is struck, and recovers by itself. Nothing happens while nobody
    /// leads. What goes wrong around an election goes wrong here.
    StrikeLeader {
        /// How.
        blow: Blow,
        /// For how long, milliseconds.
        for_ms: u64,
    },
    /// All links of a node work again, and without lag.
    Rejoin {
        /// Which.
        node: u64,
    },
    /// A node hears nobody, but is heard.
    Deafen {
        /// Which.
        node: u64,
    },
    /// A node hears everybody, but is not heard.
    Mute {
        /// Which.
        node: u64,
    },
    /// Clients don't reach a node, nor it them.
    HideFromClients {
        /// Which.
        node: u64,
    },
    /// Waits for leaders to come to certain points, one after the other. Each is cut off from the
    /// other nodes in that instant, and all other links work again. Elections that follow one
    /// another closely, with little replicated in between, are where Raft is won or lost (§5.4.2,
    /// Figure 8).
    Ambush {
        /// The points, the first one first.
        moments: Vec<Moment>,
        /// Whether the followers lose power in the same instant and are back at once, and the network
        /// repeats what nodes sent lately.
        blink: bool,
    },
    /// All links work again.
    Heal,
    /// The power goes: the process is gone, and of what was not synced anything may be.
    Crash {
        /// Which.
        node: u64,
    },
    /// All nodes lose power in the same instant.
    CrashAll,
    /// The process is killed and the machine lives: all that was written stays.
    Kill {
        /// Which.
        node: u64,
    },
    /// A crashed node comes back.
    Restart {
        /// Which.
        node: u64,
    },
    /// The process stands still (SIGSTOP); its clocks go on, and what arrives waits.
    Pause {
        /// Which.
        node: u64,
    },
    /// It goes on.
    Resume {
        /// Which.
        node: u64,
    },
    /// The wall clock jumps.
    ClockJump {
        /// Whose.
        node: u64,
        /// Ahead, or back if negative, milliseconds.
        by_ms: i64,
    },
    /// Both clocks run at another rate than true time.
    ClockRate {
        /// Whose.
        node: u64,
        /// Too fast, or too slow if negative, in a million; above -1,000,000.
        ppm: i64,
    },
    /// The wall clock stands still.
    ClockFreeze {
        /// Whose.
        node: u64,
    },
    /// The wall clock tells true time again.
    ClockRepair {
        /// Whose.
        node: u64,
    },
    /// Disk jobs take this much longer from now on.
    DiskSlow {
        /// Whose.
        node: u64,
        /// Microseconds on top; 0 for as before.
        by_us: u64,
    },
    /// The next write or sync fails.
    DiskError {
        /// Whose.
        node: u64,
    },
    /// Next to no space is left. A write that needs more writes what fits, and fails.
    DiskFull {
        /// Whose.
        node: u64,
        /// So many bytes may still be written.
        #[serde(default)]
        room_bytes: u64,
    },
    /// There is space again.
    DiskFree {
        /// Whose.
        node: u64,
    },
    /// Durable bytes decay, if the [`atlas`](crate::atlas) allows it.
    DiskRot {
        /// Whose.
        node: u64,
        /// How.
        how: Decay,
    },
    /// A write lands elsewhere: the first one from now on for which the [`atlas`](crate::atlas) allows it.
    DiskMisdirect {
        /// Whose.
        node: u64,
    },
    /// Syncs say that they are done and do nothing from now on, or are honest again. The power of such a
    /// machine fails only when the [`atlas`](crate::atlas) allows it; otherwise its process is killed.
    DiskLies {
        /// Whose.
        node: u64,
        /// Whether they lie.
        lies: bool,
    },
    /// The power goes, and another disk is in the machine when it comes back: an empty one. If the
    /// [`atlas`](crate::atlas) allows it.
    DiskVanish {
        /// Whose.
        node: u64,
    },
}

/// A point in the life of a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// A leader has just been elected.
    Elected,
    /// A leader other than the one that was caught last has just committed something.
    Committed,
    /// A leader has just begun the joint phase of a membership change.
    JointEntered,
    /// A leader has just sent a piece of a snapshot.
    SnapshotSent,
    /// A leader has just told another to take over.
    TransferBegun,
}

/// What a leader is struck with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    /// As [`Fault::Crash`].
    Crash,
    /// As [`Fault::Kill`].
    Kill,
    /// As [`Fault::Pause`].
    Pause,
    /// Cut off from all nodes, but not from clients.
    Isolate,
    /// As [`Fault::Deafen`].
    Deafen,
    /// As [`Fault::Mute`].
    Mute,
    /// It hears ever later, and when it lags by half of the time it falls mute. The others elect
    /// another leader, and it goes on hearing that it leads for the other half.
    Delude,
}

impl Blow {
    /// The faults that strike `node`, and those that end it, each with its time from now,
    /// milliseconds.
    #[must_use]
    pub fn against(self, node: u64, for_ms: u64) -> Vec<(u64, Fault)> {
        let (strike, end) = match self {
            Self::Crash => (Fault::Crash { node }, Fault::Restart { node }),
            Self::Kill => (Fault::Kill { node }, Fault::Restart { node }),
            Self::Pause => (Fault::Pause { node }, Fault::Resume { node }),
            Self::Isolate => (Fault::Partition { group: vec![node] }, Fault::Rejoin { node }),
            Self::Deafen => (Fault::Deafen { node }, Fault::Rejoin { node }),
            Self::Mute => (Fault::Mute { node }, Fault::Rejoin { node }),
            Self::Delude => {
                let by_ms = for_ms / 2;
                let lag = Fault::Lag { node, by_ms, for_ms };
                return vec![
                    (0, lag),
                    (by_ms, Fault::Mute { node }),
                    (for_ms, Fault::Rejoin { node }),
                ];
            }
        };
        vec![(0, strike), (for_ms, end)]
    }
}

impl Fault {
    /// The nodes that it names.
    #[must_use]
    pub fn nodes(&self) -> Vec<u64> {
        match self {
            Self::Partition { group } => group.clone(),
            Self::OneWay { from, to } => vec![*from, *to],
            Self::CutPair { one, other } => vec![*one, *other],
            Self::Chain { nodes } => nodes.clone(),
            Self::Ambush { .. } | Self::StrikeLeader { .. } | Self::Heal | Self::CrashAll => {
                Vec::new()
            }
            Self::Bridge { node }
            | Self::Lag { node, .. }
            | Self::Rejoin { node }
            | Self::Deafen { node }
            | Self::Mute { node }
            | Self::HideFromClients { node }
            | Self::Crash { node }
            | Self::Kill { node }
            | Self::Restart { node }
            | Self::Pause { node }
            | Self::Resume { node }
            | Self::ClockJump { node, .. }
            | Self::ClockRate { node, .. }
            | Self::ClockFreeze { node }
            | Self::ClockRepair { node }
            | Self::DiskSlow { node, .. }
            | Self::DiskError { node }
            | Self::DiskFull { node, .. }
            | Self::DiskFree { node }
            | Self::DiskRot { node, .. }
            | Self::DiskMisdirect { node }
            | Self::DiskLies { node, .. }
            | Self::DiskVanish { node } => vec![*node],
        }
    }
}
