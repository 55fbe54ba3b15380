//! Whom a node calls, and for how long.

use super::*;
use engine::engine::RoleName;
use engine::ids::{ClusterId, LogIndex, Term};
use engine::raft::{Body, Change, Step};
use engine::storage::Identity;

const START: Micros = Micros::from_secs(1);

fn address(node: u64) -> String {
    format!("10.0.0.{node}:7100")
}

fn founders() -> Vec<(NodeId, String)> {
    (1..=3).map(|node| (NodeId(node), address(node))).collect()
}

fn membership() -> Membership {
    Membership::founding(founders())
}

/// Node 1 of three.
fn peers() -> Peers {
    let identity = Identity::founder(ClusterId([1; 16]), GroupId(0), NodeId(1), founders());
    let mut peers = Peers::new(&NodeConfig::new(identity));
    peers.on_membership(START, &membership());
    peers
}

fn changed(membership: &Membership, steps: Vec<Step>) -> Membership {
    let change = Change { steps, ..Change::default() };
    let next = membership.changed(&change).unwrap();
    if next.is_joint() { next.left().unwrap() } else { next }
}

fn status(leader: Option<u64>) -> Status {
    Status {
        node: NodeId(1),
        role: RoleName::Follower,
        term: Term(1),
        voted_for: None,
        leader: leader.map(NodeId),
        first_index: LogIndex(1),
        last_index: LogIndex(0),
        durable_index: LogIndex(0),
        commit_index: LogIndex(0),
        applied_index: LogIndex(0),
        membership: Membership::default(),
        membership_index: LogIndex(0),
        is_removed: false,
        is_fit: true,
        missing: 0,
        lost: 0,
        snapshot_index: LogIndex(0),
        followers: Vec::new(),
        transfer: None,
        sessions: 0,
        waiting_requests: 0,
        room: Default::default(),
    }
}

fn health(peers: &Peers, now: Micros, leader: Option<u64>) -> Vec<Health> {
    peers.view(now, &status(leader)).nodes.iter().map(|node| node.health).collect()
}

fn connect(peers: &mut Peers, node: u64) -> DialerId {
    let peer = &peers.peers[&NodeId(node)];
    peer.outbound.reopen();
    let dialer = peer.dialer;
    peers.on_dialled(dialer, NodeId(node), true);
    dialer
}

fn called(peers: &Peers) -> Vec<u64> {
    peers.peers.keys().map(|node| node.0).collect()
}

fn is_open(peers: &Peers, node: u64) -> bool {
    peers.peers[&NodeId(node)].outbound.is_open()
}

fn vote() -> Message {
    Message { term: Term(1), body: Body::VoteResponse { granted: true } }
}

#[test]
fn a_silent_leader_is_unreachable_while_a_connected_follower_is_not() {
    let mut peers = peers();
    let dialers: Vec<DialerId> = [2, 3].map(|node| connect(&mut peers, node)).to_vec();
    for node in [2, 3] {
        peers.on_heard(START, NodeId(node));
    }
    let later = START + Micros::from_millis(301);
    use Health::{Itself, Reachable, Unreachable};
    assert_eq!(health(&peers, START, Some(2)), [Itself, Reachable, Reachable]);
    assert_eq!(health(&peers, later, Some(2)), [Itself, Unreachable, Reachable]);
    assert_eq!(health(&peers, later, Some(1)), [Itself, Unreachable, Unreachable]);
    peers.on_dialled(dialers[1], NodeId(3), false);
    assert_eq!(health(&peers, later, Some(2)), [Itself, Unreachable, Unreachable]);
}

#[test]
fn a_connection_without_any_answer_is_cut_and_one_with_answers_is_kept() {
    let mut peers = peers();
    for node in [2, 3] {
        connect(&mut peers, node);
    }
    for tenth in 0..=21 {
        let now = START + Micros::from_millis(tenth * 100);
        peers.send(now, NodeId(2), &vote());
        peers.send(now, NodeId(3), &vote());
        peers.on_heard(now, NodeId(3));
    }
    assert!(!is_open(&peers, 2));
    assert!(is_open(&peers, 3));
}

#[test]
fn a_new_member_is_called_and_a_departed_one_for_a_while_longer() {
    let mut peers = peers();
    connect(&mut peers, 3);
    let add = Step::Add { address: address(4), claim: None, is_joining: true };
    let next = changed(&membership(), vec![add, Step::Remove(NodeId(3))]);
    peers.on_membership(START, &next);
    assert_eq!(called(&peers), [2, 3, 4]);
    let nodes = peers.view(START, &status(None)).nodes;
    assert_eq!(nodes.iter().map(|node| node.node.0).collect::<Vec<_>>(), [1, 2, 4]);

    // The engine still has something to tell it: the time begins anew.
    let later = START + Micros::from_secs(4);
    peers.send(later, NodeId(3), &vote());
    peers.expire(START + STRANGER_GRACE);
    assert_eq!(called(&peers), [2, 3, 4]);
    assert_eq!(peers.next_expiry(), Some(later + STRANGER_GRACE));
    peers.expire(later + STRANGER_GRACE);
    assert_eq!(called(&peers), [2, 4]);

    // A change that is undone brings it back.
    peers.on_membership(later, &membership());
    assert_eq!((called(&peers), peers.next_expiry().is_some()), (vec![2, 3, 4], true));
    peers.expire(later + STRANGER_GRACE);
    assert_eq!((called(&peers), peers.next_expiry()), (vec![2, 3], None));
}

#[test]
fn a_member_whose_address_changes_is_called_there_and_its_old_dialer_counts_no_more() {
    let mut peers = peers();
    let old = connect(&mut peers, 3);
    let mut moved = founders();
    moved[2].1 = "10.0.0.9:7100".to_owned();
    peers.on_membership(START, &Membership::founding(moved));
    assert_eq!(peers.peers[&NodeId(3)].address, "10.0.0.9:7100");
    peers.on_dialled(old, NodeId(3), true);
    assert!(!peers.peers[&NodeId(3)].is_connected);
    connect(&mut peers, 3);
    peers.on_dialled(old, NodeId(3), false);
    assert!(peers.peers[&NodeId(3)].is_connected);
}

#[test]
fn a_stranger_is_called_back_only_when_there_is_something_to_tell_it() {
    let mut peers = peers();
    peers.send(START, NodeId(8), &vote());
    peers.on_called(START, NodeId(4), address(4));
    assert_eq!(called(&peers), [2, 3], "nothing is sent to 4, and 8 is unknown");
    peers.send(START, NodeId(4), &vote());
    assert_eq!(called(&peers), [2, 3, 4]);
    connect(&mut peers, 4);
    peers.expire(START + STRANGER_GRACE);
    assert_eq!(called(&peers), [2, 3]);
    // It becomes a member: then for good, on the same connection.
    peers.send(START, NodeId(4), &vote());
    connect(&mut peers, 4);
    let add = Step::Add { address: address(4), claim: None, is_joining: true };
    peers.on_membership(START, &changed(&membership(), vec![add]));
    assert_eq!(peers.next_expiry(), None);
    assert!(is_open(&peers, 4));
}

#[test]
fn strangers_are_bounded_and_members_are_none() {
    let mut peers = peers();
    peers.on_called(START, NodeId(2), "10.9.9.9:1".to_owned());
    peers.on_called(START, NodeId(1), "10.9.9.9:1".to_owned());
    assert!(peers.strangers.is_empty());
    for node in 0..2 * STRANGERS_MAX as u64 {
        let now = START + Micros(node);
        peers.on_called(now, NodeId(100 + node), address(1));
        peers.send(now, NodeId(100 + node), &vote());
    }
    assert_eq!(peers.strangers.len(), STRANGERS_MAX);
    assert!(!peers.strangers.contains_key(&NodeId(100)), "the oldest are forgotten");
    assert_eq!(called(&peers).len(), 2 + STRANGERS_MAX);
}
