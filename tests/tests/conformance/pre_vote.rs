//! Pre-vote (thesis §9.6).

use engine::ids::NodeId;
use engine::raft::RoleName;
use engine::storage::HardState;
use engine::time::Micros;
use tests::group::Group;
use tests::image::Image;
use tests::messages::{append, position, pre_vote_request, pre_vote_response};
use tests::solo::Solo;

/// Lets whoever is due first act, and everything arrive among `reachable`, until one of them leads
/// and all of them follow it. Fails after as many deadlines as would be twenty elections.
fn elect_somebody(group: &mut Group, reachable: &[u64]) -> u64 {
    for _ in 0..20 * reachable.len() {
        let due = reachable.iter().min_by_key(|node| group.member(**node).raft.next_deadline());
        group.time_out(*due.expect("somebody is reachable"));
        group.settle_among(reachable);
        let leaders: Vec<_> =
            reachable.iter().map(|node| group.member(*node).raft.leader()).collect();
        if leaders[0].is_some_and(|leader| leaders.iter().all(|other| *other == Some(leader))) {
            return leaders[0].expect("just seen").0;
        }
    }
    panic!("no leader: {:?} in {:?}", group.roles(), group.terms());
}

/// Row: split vote. A pre-vote that half the group answers decides nothing and raises no term; the
/// next one does.
#[test]
fn a_split_pre_vote_raises_no_term_and_is_resolved() {
    let mut group = Group::new(4).with_manual_timers();
    group.time_out(1);
    group.time_out(2);
    // 3 answers only 1, and 4 only 2: two promises each, with their own, of four.
    group.drop_packets_between(1, 2);
    group.drop_packets_between(2, 3);
    group.drop_packets_between(1, 4);
    group.settle();
    assert_eq!(group.roles()[..2], [RoleName::PreCandidate; 2]);
    assert_eq!(group.terms(), [0, 0, 0, 0]);
    elect_somebody(&mut group, &[1, 2, 3, 4]);
}

/// Row: split vote. Candidates that split the real votes go back to asking, so that the terms spent
/// are those of the votes.
#[test]
fn a_split_vote_is_resolved_in_a_later_term() {
    let mut group = Group::new(2).with_manual_timers();
    group.time_out(1);
    group.time_out(2);
    // Each promises the other, and so both vote for themselves in term 1.
    group.settle();
    assert_eq!(group.terms(), [1, 1]);
    assert_eq!(group.roles(), [RoleName::Follower; 2], "each refused the other");
    elect_somebody(&mut group, &[1, 2]);
    assert_eq!(group.terms(), [2, 2]);
}

/// Thesis §4.2.3 and §9.6: a promise is refused while a leader was heard within the shortest election
/// timeout, however good the log, and given after (row: with check-quorum).
#[test]
fn no_promise_is_given_while_a_leader_is_heard() {
    for (waited_ms, is_granted) in [(0, false), (99, false), (100, true)] {
        let mut solo = Solo::with_log(3, 1, &[1]);
        solo.hear(2, append(1, position(1, 1), 0, Vec::new()));
        solo.now = solo.now + Micros::from_millis(waited_ms);
        let answer = solo.ask(3, pre_vote_request(2, position(1, 1)));
        let expected = pre_vote_response(if is_granted { 2 } else { 1 }, is_granted);
        assert_eq!(answer, [(3, expected)], "after {waited_ms} ms");
    }
}

/// Thesis §9.6: a promise needs a newer term and a log that is as good.
#[test]
fn a_promise_needs_a_later_term_and_a_log_as_good() {
    let cases = [
        (3, position(2, 2), true),
        (9, position(2, 2), true),
        (3, position(2, 3), true),
        (3, position(3, 1), true),
        (2, position(2, 2), false),
        (1, position(2, 2), false),
        (3, position(2, 1), false),
        (3, position(1, 9), false),
    ];
    for (term, last, is_granted) in cases {
        let mut solo = Solo::with_log(3, 2, &[1, 2]);
        let answer = solo.ask(3, pre_vote_request(term, last));
        // A yes speaks of the term that was asked for, a no of the answerer's own (thesis §9.6).
        let expected = pre_vote_response(if is_granted { term } else { 2 }, is_granted);
        assert_eq!(answer, [(3, expected)], "{term} {last:?}");
    }
}

/// Thesis §9.6: a majority of refusals ends the attempt; the member waits for a leader again.
#[test]
fn a_majority_of_refusals_ends_the_attempt() {
    let mut solo = Solo::in_role(RoleName::PreCandidate, 5, 3, &[1]);
    for (voter, role) in
        [(2, RoleName::PreCandidate), (3, RoleName::PreCandidate), (4, RoleName::Follower)]
    {
        solo.hear(voter, pre_vote_response(3, false));
        assert_eq!(solo.standing(), (role, 3, None));
    }
    // Promises that come now are of an attempt that is over.
    solo.hear(5, pre_vote_response(4, true));
    assert_eq!(solo.raft.role(), RoleName::Follower);
}

/// Thesis §9.6: promises are not votes: a member may promise several, and promises nothing away.
#[test]
fn a_promise_binds_to_nothing() {
    let mut solo = Solo::with_log(3, 1, &[]);
    for from in [2, 3, 2] {
        let answer = solo.ask(from, pre_vote_request(2, position(0, 0)));
        assert_eq!(answer, [(from, pre_vote_response(2, true))]);
    }
    assert_eq!(solo.standing(), (RoleName::Follower, 1, None));
    assert_eq!(solo.durable(), HardState { term: engine::ids::Term(1), ..HardState::default() });
}

/// Row: migration from no pre-vote. A member that had raised its term without asking, as before there
/// was pre-vote, takes its leader over the term and comes back into the group.
#[test]
fn a_member_that_campaigned_without_asking_comes_back() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.propose(1);
    group.settle();
    let member = group.member(3);
    member.image.hard_state.term = engine::ids::Term(40);
    member.image.hard_state.voted_for = Some(NodeId(3));
    group.crash(3, 0);
    group.time_out(3);
    group.settle();
    let leader = elect_somebody(&mut group, &[1, 2, 3]);
    assert!(group.terms().iter().all(|term| *term >= 40), "{:?}", group.terms());
    assert_eq!(group.member(leader).raft.commit_index(), group.member(leader).raft.last_index());
}

/// Row: stuck pre-candidate is freed. One whose term is higher than the leader's asks in vain, as all
/// others hear the leader; its refusal of the leader's heartbeat brings the leader to the term.
#[test]
fn a_stuck_pre_candidate_is_freed() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.member(3).image.hard_state.term = engine::ids::Term(7);
    group.crash(3, 0);
    // Asking does not help: the others do not even learn of the term.
    group.run_among(&[1, 2], 200);
    for node in [1, 2] {
        group.say(3, node, pre_vote_request(8, position(1, 1)));
    }
    group.settle();
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![1, 1, 7]));
    // The heartbeat does.
    group.time_out(1);
    group.settle();
    assert_eq!(group.terms()[0], 7);
    let leader = elect_somebody(&mut group, &[1, 2, 3]);
    assert!(group.member(leader).raft.term().0 > 7);
}

/// Row: deadlock cases of mixed terms and logs. Whatever terms and logs three members start with, any
/// two of them elect one of those with the newest log.
#[test]
fn no_mixture_of_terms_and_logs_is_a_deadlock() {
    let logs: [&[u64]; 4] = [&[], &[1], &[1, 1], &[2]];
    let kinds: Vec<(u64, &[u64])> =
        [2, 3, 7].into_iter().flat_map(|term| logs.map(|log| (term, log))).collect();
    for first in &kinds {
        for second in &kinds {
            let disks = [first, second, first];
            let disks = disks.iter().map(|(term, log)| Image::with_log(*term, log)).collect();
            let mut group = Group::on_disks(disks).with_manual_timers();
            group.kill(3, 0);
            let leader = elect_somebody(&mut group, &[1, 2]);
            let newness = |log: &[u64]| (log.last().copied(), log.len());
            let (won, lost) = if leader == 1 { (first, second) } else { (second, first) };
            assert!(newness(won.1) >= newness(lost.1), "{first:?} {second:?}: {leader} leads");
            assert_eq!(group.log(1), group.log(2));
        }
    }
}
