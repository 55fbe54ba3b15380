//! How much a check looks at: bounds, and named sets of them.
//!
//! One set of bounds that covers everything is too much for any machine, so each profile gives room
//! to one kind of trouble. Next: `command`, which takes them from the command line.

use serde_json::{Value, json};

/// What the groups of a check may do at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Members, 1 to 4.
    pub members: u8,
    /// Terms, 1 to 7: nobody campaigns beyond the last.
    pub terms: u8,
    /// Entries that leaders append besides the first of each term, in all.
    pub proposals: u8,
    /// Crashes, in all.
    pub crashes: u8,
    /// Requests to change the membership, in all.
    pub changes: u8,
    /// Messages that arrive twice, in all.
    pub duplicates: u8,
    /// Messages in flight at once that are not going to be lost, at most 6.
    pub in_flight: u8,
    /// Persists of one member under way at once; with 0, disks take no time.
    pub unsynced: u8,
    /// Most entries in a message, and on the way to one follower.
    pub window: u8,
    /// Terms that have begun when the check does. Their leaders were members 1, 3, 3 and 1, elected
    /// by member 2, and nobody heard of the entries that each appended: two in term 1, one in every
    /// other. If two messages may be in flight, the last one's request for the third vote is.
    pub feuds: u8,
}

impl Bounds {
    /// Wide enough for a limit of depth to be what ends the check.
    #[must_use]
    pub const fn widened(self) -> Self {
        Self {
            terms: 7,
            proposals: 3,
            crashes: 3,
            duplicates: 2,
            in_flight: 4,
            unsynced: 3,
            ..self
        }
    }

    /// As a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "nodes": self.members,
            "terms": self.terms,
            "proposals": self.proposals,
            "crashes": self.crashes,
            "changes": self.changes,
            "duplicates": self.duplicates,
            "in_flight": self.in_flight,
            "unsynced": self.unsynced,
            "window": self.window,
            "feuds": self.feuds,
        })
    }
}

/// Bounds by name.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Two campaigns for one term, with crashes before and after votes are durable.
    Elections,
    /// Two leaders one after the other: what the first wrote, flushed, sent and lost in a crash.
    Replication,
    /// Two leaders left entries behind that nobody else has; two more terms decide which of them
    /// stay (Figure 8).
    Succession,
    /// A leader replaces what others have, while persists are under way and the disks lose some.
    Overwriting,
    /// One or two members are taken out at once while leaders change.
    Membership,
    /// A leader is asked twice: to take members out, to leave the joint phase, to cancel; and
    /// somebody crashes in the middle.
    Cancellation,
}

impl Profile {
    /// All, in the order in which a check without a profile runs them.
    pub const ALL: [Self; 6] = [
        Self::Elections,
        Self::Replication,
        Self::Succession,
        Self::Overwriting,
        Self::Membership,
        Self::Cancellation,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Elections => "elections",
            Self::Replication => "replication",
            Self::Succession => "succession",
            Self::Overwriting => "overwriting",
            Self::Membership => "membership",
            Self::Cancellation => "cancellation",
        }
    }

    /// Its bounds for three members.
    #[must_use]
    pub const fn bounds(self) -> Bounds {
        let small = Bounds {
            members: 3,
            terms: 1,
            proposals: 0,
            crashes: 1,
            changes: 0,
            duplicates: 0,
            in_flight: 1,
            unsynced: 2,
            window: 1,
            feuds: 0,
        };
        match self {
            Self::Elections => Bounds { in_flight: 2, duplicates: 1, ..small },
            Self::Replication => Bounds { terms: 2, ..small },
            // With disks that take no time, so that there is room for four terms.
            Self::Succession => Bounds { feuds: 2, terms: 4, crashes: 0, unsynced: 0, ..small },
            Self::Membership => Bounds { terms: 2, changes: 1, crashes: 0, unsynced: 0, ..small },
            Self::Cancellation => Bounds { changes: 2, unsynced: 0, ..small },
            Self::Overwriting => Bounds {
                feuds: 3,
                terms: 3,
                in_flight: 2,
                window: 2,
                crashes: 2,
                duplicates: 1,
                ..small
            },
        }
    }
}
