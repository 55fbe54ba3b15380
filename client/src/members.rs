//! The members of a cluster as their leader sees them, for people and for programs.
//!
//! Pure: reads one status of a leader. Never asks anybody. Next: `engine::raft::Membership` for what
//! the roles mean.

use engine::ids::{LogIndex, NodeId};
use engine::raft::{Claim, FlowStatus, FollowerStatus, Leave, Member, Membership};
use engine::wire::client::NodeStatus;
use std::time::Duration;

/// A member that has answered its leader within this time is in touch.
const IN_TOUCH: Duration = Duration::from_secs(1);

/// A membership change that is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The entry that ended it; for a repetition, the one that made the membership.
    pub index: LogIndex,
    /// The membership since.
    pub membership: Membership,
}

impl Changed {
    /// The member that took its place with this claim.
    #[must_use]
    pub fn claimed_by(&self, claim: Claim) -> Option<&Member> {
        self.membership.members().iter().find(|member| member.claim == Some(claim))
    }

    /// The member at this address.
    #[must_use]
    pub fn at_address(&self, address: &str) -> Option<&Member> {
        self.membership.members().iter().find(|member| member.address == address)
    }
}

/// The members, as their leader sees them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// The leader.
    pub leader: NodeId,
    /// The last entry that it has.
    pub last_index: LogIndex,
    /// The last entry that it knows to be committed.
    pub commit_index: LogIndex,
    /// The newest membership in its log.
    pub membership: Membership,
    /// The entry that made it; 0 for the founding one.
    pub membership_index: LogIndex,
    /// To whom it is handing over.
    pub transfer: Option<NodeId>,
    /// Each member, ordered by node.
    pub list: Vec<MemberStatus>,
}

/// What a member is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It gets the log and does not vote.
    Learner,
    /// A learner that becomes a voter as soon as it has caught up.
    Joining,
    /// It votes until the change under way is done.
    Outgoing,
}

/// A member, as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberStatus {
    /// Which.
    pub node: NodeId,
    /// Where it is reached; empty if the cluster was made without addresses.
    pub address: String,
    /// What it is.
    pub role: MemberRole,
    /// Whether a node has taken this place; false for a place that was only reserved.
    pub is_taken: bool,
    /// How long its leader has not heard of it; zero for the leader.
    pub silent_for: Duration,
    /// Its log equals the leader's up to here, durably.
    pub match_index: LogIndex,
    /// How entries go to it; `None` for the leader.
    pub flow: Option<FlowStatus>,
    /// Whether its disk, its clock and its state machine keep up, so that it may lead.
    pub is_fit: bool,
    /// Whether it has every record that its state refers to, as far as any member has.
    pub is_complete: bool,
    /// Leadership goes to the highest.
    pub priority: u8,
    /// Whether its disk is short of space.
    pub is_short: bool,
}

impl MemberRole {
    fn of(membership: &Membership, member: &Member) -> Self {
        if membership.incoming().contains(&member.node) {
            Self::Voter
        } else if membership.outgoing().contains(&member.node) {
            Self::Outgoing
        } else if member.is_joining {
            Self::Joining
        } else {
            Self::Learner
        }
    }

    /// Its name: `voter`, `learner`, `joining` or `outgoing`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Joining => "joining",
            Self::Outgoing => "outgoing",
        }
    }
}

impl Members {
    pub(crate) fn of(status: &NodeStatus) -> Self {
        let list = status.membership.members().iter().map(|member| {
            let role = MemberRole::of(&status.membership, member);
            let follower = status.followers.iter().find(|follower| follower.node == member.node);
            MemberStatus::of(status, member, role, follower)
        });
        Self {
            leader: status.node,
            last_index: status.last_index,
            commit_index: status.commit_index,
            list: list.collect(),
            membership: status.membership.clone(),
            membership_index: status.membership_index,
            transfer: status.transfer,
        }
    }

    /// A member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&MemberStatus> {
        self.list.iter().find(|member| member.node == node)
    }

    /// What is under way and what it waits for, in words; none if nothing is.
    #[must_use]
    pub fn under_way(&self) -> Option<String> {
        let membership = &self.membership;
        let what = if membership.is_joint() {
            let (from, to) = (names(membership.outgoing()), names(membership.incoming()));
            format!("the voters change from {from} to {to}")
        } else if self.membership_index > self.commit_index {
            "the membership changes".to_owned()
        } else {
            return self.joining();
        };
        let index = self.membership_index;
        let silent: Vec<NodeId> = self
            .list
            .iter()
            .filter(|m| self.votes(m) && !m.is_in_touch())
            .map(|m| m.node)
            .collect();
        let why = if self.membership_index <= self.commit_index {
            match membership.leave() {
                Leave::Explicit => "waits for `posthaste members leave` or `cancel`".to_owned(),
                Leave::Automatic => "is about to end".to_owned(),
            }
        } else if silent.is_empty() {
            format!("entry {index} waits for a majority to store it")
        } else {
            format!(
                "entry {index} waits for a majority to store it, and {} silent",
                nodes_are(&silent)
            )
        };
        Some(format!("{what}; {why}"))
    }

    fn joining(&self) -> Option<String> {
        let joining = self.list.iter().find(|member| member.role == MemberRole::Joining)?;
        let node = joining.node;
        Some(match joining.is_taken {
            true => format!("node {node} joins; {}", self.progress_of(node)?.1),
            false => format!(
                "node {node} is to join; start it with `node join --address {}`",
                joining.address
            ),
        })
    }

    fn votes(&self, member: &MemberStatus) -> bool {
        matches!(member.role, MemberRole::Voter | MemberRole::Outgoing)
    }

    /// How much of the log a member has, from 0 to 1, and in words.
    #[must_use]
    pub fn progress_of(&self, node: NodeId) -> Option<(f64, String)> {
        let member = self.member(node)?;
        let (what, has, of) = match member.flow {
            Some(FlowStatus::Snapshot { received, total }) => {
                ("bytes of a snapshot", received, total)
            }
            Some(FlowStatus::Probe | FlowStatus::Replicate) | None => {
                ("entries", member.match_index.0, self.last_index.0)
            }
        };
        let share = if of == 0 { 1.0 } else { has as f64 / of as f64 };
        // Not 100% before all is there.
        let percent = (share * 100.0).floor();
        let mut words =
            format!("{percent}% of the log ({what} {} of {})", grouped(has), grouped(of));
        if !member.is_taken && member.match_index == LogIndex::ZERO {
            words.push_str(", and nobody has taken its place yet");
        } else if !member.is_in_touch() {
            words.push_str(&format!(", and it is silent for {} s", member.silent_for.as_secs()));
        }
        Some((share, words))
    }
}

impl MemberStatus {
    fn of(
        status: &NodeStatus,
        member: &Member,
        role: MemberRole,
        follower: Option<&FollowerStatus>,
    ) -> Self {
        let silent_for =
            |f: &FollowerStatus| Duration::from_micros(status.uptime.since(f.responded_at).0);
        let is_founder = status.membership.is_voter(member.node);
        Self {
            node: member.node,
            address: member.address.clone(),
            role,
            is_taken: member.claim.is_some() || is_founder,
            silent_for: follower.map_or(Duration::ZERO, silent_for),
            match_index: follower.map_or(status.durable_index, |f| f.match_index),
            flow: follower.map(|f| f.flow),
            is_fit: follower.map_or(status.is_fit, |f| f.is_fit),
            is_complete: follower.map_or(status.missing == 0, |f| f.is_complete),
            priority: follower.map_or(status.priority, |f| f.priority),
            is_short: follower.map_or(status.room.is_short, |f| f.is_short),
        }
    }

    /// Whether its leader has heard of it lately.
    #[must_use]
    pub fn is_in_touch(&self) -> bool {
        self.silent_for <= IN_TOUCH
    }
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    names.join(", ")
}

fn nodes_are(nodes: &[NodeId]) -> String {
    match nodes {
        [node] => format!("node {node} is"),
        nodes => format!("nodes {} are", names(nodes)),
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use engine::ids::{ClusterId, Term};
    use engine::raft::{Change, Step};
    use engine::time::Micros;

    fn follower(node: u64, match_index: u64, responded_at_secs: u64) -> FollowerStatus {
        FollowerStatus {
            node: NodeId(node),
            match_index: LogIndex(match_index),
            next_index: LogIndex(match_index + 1),
            flow: FlowStatus::Replicate,
            responded_at: Micros::from_secs(responded_at_secs),
            is_fit: true,
            priority: 0,
            is_complete: true,
            is_short: false,
        }
    }

    /// Node 1 leads for 100 s, and has 10,000 entries.
    fn status(membership: Membership, followers: Vec<FollowerStatus>) -> NodeStatus {
        NodeStatus {
            node: NodeId(1),
            cluster: ClusterId([1; 16]),
            role: "leader".to_owned(),
            term: Term(1),
            leader: Some(NodeId(1)),
            first_index: LogIndex(1),
            last_index: LogIndex(10_000),
            durable_index: LogIndex(10_000),
            commit_index: LogIndex(9_990),
            applied_index: LogIndex(9_990),
            log_time: 0,
            messages: 0,
            queues: 0,
            sessions: 0,
            segments: 1,
            log_bytes: 1,
            membership,
            membership_index: LogIndex(9_000),
            is_removed: false,
            is_fit: true,
            missing: 0,
            lost: 0,
            snapshot_index: LogIndex(0),
            followers,
            transfer: None,
            priority: 3,
            uptime: Micros::from_secs(100),
            version: String::new(),
            room: Default::default(),
        }
    }

    fn founders() -> Membership {
        Membership::founding((1..=3).map(|node| (NodeId(node), format!("n{node}:1"))).collect())
    }

    fn changed(steps: Vec<Step>, leave: Leave) -> Membership {
        founders().changed(&Change { steps, leave }).unwrap()
    }

    fn add(claim: Option<Claim>) -> Step {
        Step::Add { address: "n4:1".to_owned(), claim, is_joining: true }
    }

    #[test]
    fn members_have_their_roles_and_the_leader_is_itself() {
        let steps = vec![add(Some(Claim([1; 16]))), Step::Demote(NodeId(3))];
        let joint = changed(steps, Leave::Automatic);
        let followers = vec![follower(2, 9_995, 100), follower(3, 1, 90), follower(4, 4_500, 100)];
        let members = Members::of(&status(joint, followers));
        let roles: Vec<&str> = members.list.iter().map(|member| member.role.name()).collect();
        assert_eq!(roles, ["voter", "voter", "outgoing", "joining"]);
        assert_eq!(members.leader, NodeId(1));
        assert_eq!((members.list[0].match_index, members.list[0].priority), (LogIndex(10_000), 3));
        assert_eq!(members.list[2].silent_for, Duration::from_secs(10));
        assert!(!members.list[2].is_in_touch() && members.list[1].is_in_touch());
    }

    #[test]
    fn a_change_that_waits_says_for_what() {
        assert_eq!(Members::of(&status(founders(), Vec::new())).under_way(), None);
        let remove = |leave| changed(vec![Step::Remove(NodeId(3))], leave);
        let followers = vec![follower(2, 1, 10), follower(3, 1, 100)];
        let mut waiting = status(remove(Leave::Automatic), followers);
        waiting.membership_index = LogIndex(9_999);
        assert_eq!(
            Members::of(&waiting).under_way().unwrap(),
            "the voters change from 1, 2, 3 to 1, 2; entry 9999 waits for a majority to store it, \
             and node 2 is silent"
        );
        let explicit = Members::of(&status(remove(Leave::Explicit), Vec::new()));
        assert_eq!(
            explicit.under_way().unwrap(),
            "the voters change from 1, 2, 3 to 1, 2; waits for `posthaste members leave` or `cancel`"
        );
    }

    #[test]
    fn a_joining_node_shows_how_far_it_is() {
        let taken = changed(vec![add(Some(Claim([1; 16])))], Leave::Automatic);
        let members = Members::of(&status(taken.clone(), vec![follower(4, 4_500, 100)]));
        let words = "45% of the log (entries 4,500 of 10,000)";
        assert_eq!(members.progress_of(NodeId(4)), Some((0.45, words.to_owned())));
        assert_eq!(members.under_way().unwrap(), format!("node 4 joins; {words}"));

        let flow = FlowStatus::Snapshot { received: 999, total: 1_000 };
        let follower = FollowerStatus { flow, ..follower(4, 0, 97) };
        let members = Members::of(&status(taken, vec![follower]));
        assert_eq!(
            members.progress_of(NodeId(4)).unwrap().1,
            "99% of the log (bytes of a snapshot 999 of 1,000), and it is silent for 3 s"
        );
        let open = changed(vec![add(None)], Leave::Automatic);
        let members = Members::of(&status(open, Vec::new()));
        assert!(members.under_way().unwrap().contains("node join --address n4:1"));
    }
}
