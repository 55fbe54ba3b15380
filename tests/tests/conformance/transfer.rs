//! Leadership is handed over (thesis §3.10).

use engine::api::{Rejection, Request, Response, TransferError};
use engine::ids::{LogIndex, NodeId};
use engine::limits::Limits;
use engine::raft::{
    Body, Change, ChangeRequest, Leave, Membership, RoleName, Settings, Standing, Step,
};
use tests::front::Front;
use tests::group::{Group, settings};
use tests::messages::{
    STANDING, append, matched, matched_by, position, timeout_now, transfer_vote_request,
    vote_response,
};
use tests::solo::Solo;

/// To whom it was said to campaign since the last time.
fn told(solo: &mut Solo) -> Vec<u64> {
    let sent = solo.take_sent().into_iter();
    let orders = sent.filter(|(_, message)| matches!(message.body, Body::TimeoutNow));
    orders.map(|(to, _)| to).collect()
}

/// Row: to an up-to-date node: it is told to campaign at once.
#[test]
fn a_follower_that_has_everything_is_told_at_once() {
    let mut solo = Solo::replicating(3, 1, &[]);
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    assert_eq!((told(&mut solo), solo.raft.transferring_to()), (vec![2], Some(NodeId(2))));
    assert!(solo.raft.is_leader(), "until another is");
}

/// Row: to a slow one: it first gets all entries. The order is repeated, as it may be lost.
#[test]
fn a_follower_that_lags_is_told_when_it_has_everything() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.propose();
    solo.sent.clear();
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    assert_eq!(told(&mut solo), [0; 0]);
    solo.hear(2, matched(1, 2));
    solo.wait(0);
    assert_eq!(told(&mut solo), [2]);
    solo.wait(5);
    assert_eq!(told(&mut solo), [0; 0]);
    solo.wait(5);
    assert_eq!(told(&mut solo), [2], "once more");
}

/// Thesis §3.10: the target "starts a new election, incrementing its term and becoming a candidate" with
/// no pre-vote, and the others vote though they hear their leader.
#[test]
fn the_target_campaigns_at_once_and_the_others_do_not_stay_true() {
    let mut solo = Solo::with_log(3, 1, &[1]);
    solo.hear(2, append(1, position(1, 1), 1, Vec::new()));
    let sent = solo.ask(2, timeout_now(1));
    let asks = transfer_vote_request(2, position(1, 1));
    assert_eq!(sent, [(2, asks.clone()), (3, asks)]);
    assert_eq!(solo.standing(), (RoleName::Candidate, 2, Some(1)));
    // On the other side:
    let mut solo = Solo::with_log(3, 1, &[1]);
    solo.hear(2, append(1, position(1, 1), 1, Vec::new()));
    let answer = solo.ask(3, transfer_vote_request(2, position(1, 1)));
    assert_eq!(answer, [(3, vote_response(2, true))]);
    // A leader too, and a log that is not as good is refused as ever.
    let mut solo = Solo::replicating(3, 1, &[]);
    let answer = solo.ask(3, transfer_vote_request(2, position(0, 0)));
    assert_eq!(answer, [(3, vote_response(2, false))]);
    assert_eq!(solo.standing(), (RoleName::Follower, 2, None));
}

/// Only the leader of the term gives the order; a late one of an earlier term, or of somebody else, is
/// nothing.
#[test]
fn only_the_leader_gives_the_order() {
    for (from, term) in [(3, 1), (2, 0), (3, 2)] {
        let mut solo = Solo::with_log(3, 1, &[1]);
        solo.hear(2, append(1, position(1, 1), 1, Vec::new()));
        solo.hear(from, timeout_now(term));
        assert_eq!(solo.raft.role(), RoleName::Follower, "{from} in {term}");
    }
    let mut solo = Solo::replicating(3, 1, &[]);
    assert_eq!(solo.ask(2, timeout_now(1)), []);
    assert!(solo.raft.is_leader());
}

/// Rows: to self, to a stranger, to a learner.
#[test]
fn only_another_voter_can_be_handed_over_to() {
    let founding = Membership::new([1, 2, 3].map(NodeId).to_vec()).with_learners(vec![NodeId(4)]);
    let mut solo = Solo::leader(Settings { founding, ..settings(1, 3, 1) }, 3);
    for follower in 2..=4 {
        solo.hear(follower, matched(1, 1));
    }
    assert_eq!(solo.transfer(Some(1)), Ok(None), "it leads already");
    for to in [4, 9] {
        let error = TransferError::NotAVoter { to: NodeId(to) };
        assert_eq!(solo.transfer(Some(to)), Err(error));
    }
    assert_eq!((told(&mut solo), solo.raft.transferring_to()), (vec![], None));
}

/// Row: timeout. Within an election timeout it has happened, or the leader leads on and says so.
#[test]
fn a_transfer_that_does_not_come_about_ends_after_an_election_timeout() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.propose();
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    for waited_ms in (10..=90).step_by(10) {
        solo.wait(10);
        solo.hear(3, matched(1, 2));
        assert_eq!(solo.raft.transferring_to(), Some(NodeId(2)), "{waited_ms} ms");
    }
    solo.wait(10);
    let timed_out = TransferError::TimedOut { to: NodeId(2) };
    assert_eq!(
        (solo.transfers_ended.clone(), solo.raft.transferring_to()),
        (vec![timed_out], None)
    );
    // Nobody is told afterwards.
    solo.hear(2, matched(1, 2));
    solo.wait(10);
    assert_eq!((told(&mut solo), solo.raft.is_leader()), (vec![], true));
}

/// Rows: second transfer to the same node, which goes on as it was, and to another, which takes the place
/// of the first.
#[test]
fn a_second_transfer_goes_on_or_takes_the_place_of_the_first() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.propose();
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    solo.wait(60);
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    solo.hear(3, matched(1, 2));
    assert_eq!(solo.transfers_ended, []);
    solo.wait(40);
    assert_eq!(solo.transfers_ended.len(), 1, "its time ran on");
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.propose();
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    assert_eq!(solo.transfer(Some(3)), Ok(Some(3)));
    assert_eq!(solo.transfers_ended, [TransferError::Replaced { to: NodeId(3) }]);
    solo.hear(2, matched(1, 2));
    solo.hear(3, matched(1, 2));
    solo.wait(0);
    assert_eq!(told(&mut solo), [3]);
}

/// Row: removed or demoted target. The transfer ends; there is nobody to wait for.
#[test]
fn a_transfer_ends_when_its_target_votes_no_more() {
    for step in [Step::Remove(NodeId(3)), Step::Demote(NodeId(3))] {
        let mut solo = Solo::replicating(3, 1, &[]);
        let change = Change { steps: vec![step], leave: Leave::Explicit };
        solo.change(&ChangeRequest::Change(change)).expect("legal");
        for follower in [2, 3] {
            solo.hear(follower, matched(1, 2));
        }
        solo.propose();
        assert_eq!(solo.transfer(Some(3)), Ok(Some(3)), "it still votes");
        solo.change(&ChangeRequest::Leave).expect("it is joint");
        assert_eq!(solo.transfers_ended, [TransferError::NotAVoter { to: NodeId(3) }]);
        assert_eq!((solo.raft.transferring_to(), told(&mut solo)), (None, vec![]));
    }
}

/// Row: a higher term arriving. Leadership is gone, and the transfer with it.
#[test]
fn a_transfer_ends_with_the_term() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.propose();
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    solo.hear(3, vote_response(7, false));
    assert_eq!((solo.raft.role(), solo.raft.transferring_to()), (RoleName::Follower, None));
    solo.hear(2, matched(1, 2));
    assert_eq!(told(&mut solo), [0; 0]);
}

/// Left to choose, a leader takes the one of the highest priority that is fit and within reach, and of
/// these the one with most of the log.
#[test]
fn the_best_of_those_that_can_lead_is_chosen() {
    let standing = |priority, is_fit| Standing { priority, is_fit, ..STANDING };
    let cases = [
        ([(2, standing(0, true)), (2, standing(0, true))], Some(3)),
        ([(2, standing(0, true)), (1, standing(0, true))], Some(2)),
        ([(1, standing(5, true)), (2, standing(4, true))], Some(2)),
        ([(2, standing(5, false)), (1, standing(0, true))], Some(3)),
        ([(2, standing(5, false)), (2, standing(5, false))], None),
    ];
    for (answers, expected) in cases {
        let mut solo = Solo::leader(Settings { priority: 9, ..settings(1, 3, 1) }, 3);
        solo.propose();
        for (follower, (index, standing)) in (2..).zip(answers) {
            solo.hear(follower, matched_by(1, index, standing));
        }
        let outcome = expected.map(Some).ok_or(TransferError::NoCandidate);
        assert_eq!(solo.transfer(None), outcome, "{answers:?}");
    }
    // Who has not answered is not within reach.
    let mut solo = Solo::leader(settings(1, 3, 1), 3);
    assert_eq!(solo.transfer(None), Err(TransferError::NoCandidate));
}

/// A leader of lower priority hands over by itself to a fit follower that keeps up, and not again for a
/// while if that does not come about.
#[test]
fn leadership_goes_to_the_highest_priority_by_itself() {
    let preferred = Standing { priority: 7, ..STANDING };
    let mut solo = Solo::replicating(3, 1, &[]);
    for _ in 0..3 {
        solo.wait(10);
        solo.hear(2, matched_by(1, 1, preferred));
        solo.hear(3, matched(1, 1));
    }
    solo.wait(0);
    assert_eq!(solo.raft.transferring_to(), Some(NodeId(2)));
    assert!(told(&mut solo).contains(&2));
    let mut attempts = 1;
    for _ in 0..50 {
        let before = solo.raft.transferring_to();
        solo.wait(10);
        solo.hear(2, matched_by(1, 1, preferred));
        solo.hear(3, matched(1, 1));
        attempts += u64::from(before.is_none() && solo.raft.transferring_to().is_some());
    }
    assert_eq!(attempts, 1, "one in ten election timeouts");
}

/// Rows: there and back again, in a group.
#[test]
fn leadership_can_be_handed_there_and_back_again() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.propose(1);
    group.settle();
    group.time_out(1);
    group.settle();
    for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 2), (2, 1)] {
        let term = group.member(from).raft.term();
        assert_eq!(group.transfer(from, Some(to)), Ok(Some(to)));
        group.settle();
        assert_eq!((group.leader(), group.member(to).raft.term()), (Some(to), term.next()));
        group.time_out(to);
        group.settle();
    }
    assert_eq!(group.log(1), group.log(3));
}

/// Row: after a snapshot. A target that needs one gets it first; the transfer waits for it within its
/// time.
#[test]
fn a_target_that_needs_a_snapshot_gets_it_first() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    for _ in 0..3 {
        for _ in 0..8 {
            group.propose(1);
            group.settle_among(&[1, 2]);
        }
        group.time_out(1);
        group.settle_among(&[1, 2]);
        group.snapshot(1, 500);
    }
    // The pieces that were sent while it was away are lost; time passes until they go again.
    for _ in 0..12 {
        group.time_out(1);
        group.settle_among(&[1, 2]);
    }
    assert_eq!(group.transfer(1, Some(3)), Ok(Some(3)));
    for _ in 0..12 {
        if group.member(1).raft.is_leader() {
            group.time_out(1);
        }
        group.settle();
    }
    if group.leader() != Some(3) {
        assert!(group.member(3).raft.base().index > LogIndex(0));
        assert_eq!(group.transfer(1, Some(3)), Ok(Some(3)));
        group.settle();
    }
    assert_eq!(group.leader(), Some(3));
}

/// Row: proposals during a transfer. They are refused with the name of the next leader, and taken again
/// when it does not come about.
#[test]
fn proposals_during_a_transfer_are_refused_with_its_target() {
    let mut front = Front::leading(3, Limits::default());
    assert_eq!(front.propose(1), None);
    assert_eq!(front.ask(2, Request::Transfer { to: Some(NodeId(2)) }), None);
    let refused = Response::Rejected(Rejection::Transferring { to: NodeId(2) });
    assert_eq!(front.propose(3), Some(refused));
    front.acknowledge_all();
    assert!(matches!(front.answer(1), Some(Response::SessionOpened(_))), "what was taken counts");
    for _ in 0..11 {
        front.wait(10);
        front.acknowledge_all();
    }
    let timed_out = TransferError::TimedOut { to: NodeId(2) };
    assert_eq!(front.answer(2), Some(Response::Rejected(Rejection::Transfer(timed_out))));
    assert_eq!(front.propose(4), None);
    // And when it does, whoever asked is told.
    assert_eq!(front.ask(5, Request::Transfer { to: Some(NodeId(3)) }), None);
    front.hear(3, append(2, position(0, 0), 0, Vec::new()));
    assert_eq!(front.answer(5), Some(Response::Transferred { leader: NodeId(3) }));
}

/// The target may be deaf: within its time the old leader leads on, and nothing is lost.
#[test]
fn a_group_survives_a_target_that_dies() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.propose(1);
    group.settle();
    assert_eq!(group.transfer(1, Some(2)), Ok(Some(2)));
    group.kill(2, 0);
    group.run_among(&[1, 3], 150);
    assert_eq!(group.leader(), Some(1));
    assert_eq!(group.member(1).transfers_ended, [TransferError::TimedOut { to: NodeId(2) }]);
    group.propose(1);
    group.settle_among(&[1, 3]);
    assert_eq!(group.member(1).raft.commit_index(), group.member(1).raft.last_index());
}
