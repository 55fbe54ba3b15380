//! Check-quorum: a leader without a quorum steps down (thesis §6.2), and nobody who hears a leader
//! helps to depose it (thesis §4.2.3).

use engine::ids::NodeId;
use engine::raft::RoleName;
use engine::time::Micros;
use tests::group::Group;
use tests::messages::{
    append, matched, position, pre_vote_request, pre_vote_response, rejected, vote_request,
    vote_response,
};
use tests::solo::Solo;

const TIMEOUT_MS: u64 = 100;

/// Thesis §6.2: "a leader in Raft steps down if an election timeout elapses without a successful
/// round of heartbeats to a majority of its cluster". It keeps its term and its vote.
#[test]
fn a_leader_that_loses_its_quorum_steps_down() {
    for (members, answering) in [(2, 0), (3, 0), (5, 1), (7, 2)] {
        let mut solo = Solo::in_role(RoleName::Leader, members, 4, &[1]);
        let began = solo.now;
        while solo.raft.is_leader() {
            solo.wait(10);
            for follower in 2..2 + answering {
                solo.hear(follower, matched(4, 1));
            }
        }
        let (shortest, longest) = (TIMEOUT_MS, TIMEOUT_MS + 20);
        assert!((shortest..=longest).contains(&solo.now.since(began).as_millis()));
        assert_eq!(solo.standing(), (RoleName::Follower, 4, Some(1)), "{answering} of {members}");
        assert_eq!(solo.raft.leader(), None);
    }
}

/// Thesis §6.2: while a majority, itself included, answers, it leads on; a refusal is an answer too.
#[test]
fn a_leader_stays_while_a_quorum_answers() {
    for (members, answering) in [(1, 0), (2, 1), (3, 1), (5, 2), (7, 3)] {
        for answer in [matched(4, 1), rejected(4, 1, position(0, 0))] {
            let mut solo = Solo::in_role(RoleName::Leader, members, 4, &[1]);
            for _ in 0..30 {
                solo.wait(60);
                for follower in 2..2 + answering {
                    solo.hear(follower, answer.clone());
                }
                assert!(solo.raft.is_leader(), "{answering} of {members}");
            }
        }
    }
}

/// Thesis §6.2: different followers may answer in turn; what counts is when a quorum was last heard.
#[test]
fn the_quorum_that_answers_may_change() {
    let mut solo = Solo::in_role(RoleName::Leader, 5, 4, &[1]);
    for round in 0..30 {
        solo.wait(40);
        solo.hear(2 + round % 4, matched(4, 1));
        assert!(solo.raft.is_leader());
    }
}

/// Thesis §4.2.3: "if a server receives a RequestVote request within the minimum election timeout of
/// hearing from a current leader, it does not update its term or grant its vote".
#[test]
fn a_vote_request_is_ignored_while_a_leader_is_heard() {
    for (waited_ms, is_heard) in [(0, false), (99, false), (100, true)] {
        let mut solo = Solo::with_log(3, 1, &[1]);
        solo.hear(2, append(1, position(1, 1), 0, Vec::new()));
        solo.now = solo.now + Micros::from_millis(waited_ms);
        let answer = solo.ask(3, vote_request(2, position(1, 1)));
        if is_heard {
            assert_eq!(answer, [(3, vote_response(2, true))]);
        } else {
            assert_eq!(answer, []);
            assert_eq!(solo.standing(), (RoleName::Follower, 1, None), "after {waited_ms} ms");
        }
    }
}

/// Row: a superseding leader. A candidate gets nowhere while the others hear their leader; once they
/// do not, it is elected, and the old leader follows.
#[test]
fn a_leader_is_superseded_once_it_is_not_heard() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    for _ in 0..3 {
        group.run_among(&[1, 2], 200);
        for node in [1, 2] {
            group.say(3, node, pre_vote_request(2, position(1, 1)));
            group.say(3, node, vote_request(2, position(1, 1)));
        }
        group.settle_among(&[1, 2]);
    }
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![1, 1, 1]));
    group.elect(3);
    assert_eq!(group.roles(), [RoleName::Follower, RoleName::Follower, RoleName::Leader]);
    assert_eq!(group.member(1).raft.leader(), Some(NodeId(3)));
}

/// Row: a free stuck candidate. One that reached a higher term is ignored by those who hear their
/// leader; the leader learns of the term from its answer, steps down, and the group goes on in it.
#[test]
fn a_stuck_candidate_is_freed_by_the_leaders_own_heartbeat() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.run_among(&[1, 2], 200);
    group.say(2, 3, pre_vote_response(2, true));
    assert_eq!(group.member(3).raft.role(), RoleName::Candidate);
    group.flush(3, 9);
    // Its requests for votes are not even answered.
    while let Some(at) = group.network.iter().position(|packet| packet.from.0 == 3) {
        group.deliver(at);
    }
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![1, 1, 2]));
    group.network.clear();
    group.time_out(1);
    group.settle();
    assert_eq!((group.member(1).raft.role(), group.terms()[0]), (RoleName::Follower, 2));
    group.elect(1);
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![3, 3, 3]));
    assert_eq!(group.log(3), group.log(1));
}

/// Row: disruptive follower. With pre-vote one that does not hear its leader for a while and is well
/// heard itself raises no term, and so the leader leads on in its own.
#[test]
fn a_follower_that_is_deaf_for_a_while_does_not_disrupt() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    for _ in 0..50 {
        group.time_out(1);
        group.settle_among(&[1, 2]);
        if group.member(3).raft.next_deadline() <= group.now {
            group.time_out(3);
        }
        // What 3 says arrives; what it is told does not.
        while let Some(at) = group.network.iter().position(|packet| packet.from.0 == 3) {
            group.deliver(at);
        }
    }
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![1, 1, 1]));
    assert_ne!(group.member(3).raft.role(), RoleName::Follower);
    group.time_out(1);
    group.settle();
    assert_eq!(group.member(3).raft.leader(), Some(NodeId(1)));
}

/// Thesis §6.2: a leader that stepped down takes part in elections like anybody else, and may win.
#[test]
fn a_leader_that_stepped_down_can_be_elected_again() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.run_among(&[], 120);
    assert_eq!(group.leader(), None);
    group.elect(1);
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![2, 2, 2]));
}
