//! Safety (§5.4, Figure 3).

use engine::ids::{LogIndex, NodeId};
use engine::raft::RoleName;
use tests::group::Group;
use tests::image::{Image, records};
use tests::messages::{
    append, matched, position, pre_vote_request, pre_vote_response, vote_request, vote_response,
};
use tests::solo::Solo;

/// §5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate":
/// by the last term, then by the length. Votes and promises alike.
#[test]
fn a_vote_needs_a_log_as_up_to_date_as_the_voters() {
    let cases: [(&[u64], _, bool); 14] = [
        (&[], position(0, 0), true),
        (&[], position(1, 1), true),
        (&[1], position(0, 0), false),
        (&[1], position(1, 1), true),
        (&[1], position(1, 2), true),
        (&[1, 1], position(1, 1), false),
        (&[1], position(2, 1), true),
        (&[1], position(2, 2), true),
        (&[1, 1], position(2, 1), true),
        (&[2], position(1, 1), false),
        (&[2], position(1, 2), false),
        (&[2, 2], position(1, 1), false),
        (&[1, 2], position(2, 2), true),
        (&[1, 1], position(1, 9), true),
    ];
    for (log, last, is_granted) in cases {
        let mut solo = Solo::with_log(3, 2, log);
        let answer = solo.ask(2, pre_vote_request(3, last));
        let term = if is_granted { 3 } else { 2 };
        assert_eq!(answer, [(2, pre_vote_response(term, is_granted))], "{log:?}, {last:?}");
        let answer = solo.ask(2, vote_request(3, last));
        assert_eq!(answer, [(2, vote_response(3, is_granted))], "{log:?}, {last:?}");
        assert_eq!(solo.standing().2, is_granted.then_some(2));
    }
}

/// §5.4.1: what counts is the log, durable or not: an entry that is still on its way to the voter's
/// disk may be acknowledged by the time the vote is.
#[test]
fn a_voter_judges_by_its_whole_log_durable_or_not() {
    let mut solo = Solo::with_log(3, 1, &[1]);
    solo.is_disk_slow = true;
    solo.hear(2, append(1, position(1, 1), 0, records(2, &[1])));
    solo.time_out();
    solo.hear(3, vote_request(2, position(1, 1)));
    solo.flush(9);
    assert!(solo.sent.contains(&(3, vote_response(2, false))));
}

/// §5.4.1: a candidate whose log lacks committed entries cannot win, however often it tries and
/// whatever its term.
#[test]
fn a_member_that_lacks_a_committed_entry_is_never_elected() {
    let mut group = Group::new(5).with_manual_timers();
    group.elect(1);
    group.propose(1);
    group.settle_among(&[1, 2, 3]);
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(2));
    group.kill(1, 0);
    group.kill(2, 0);
    for _ in 0..10 {
        for node in [4, 5] {
            group.now = group.now + engine::time::Micros::from_millis(200);
            group.time_out(node);
            group.settle();
            assert_eq!(group.leader(), None, "only 3 may lead");
        }
    }
    group.elect(3);
    assert_eq!(group.leader(), Some(3));
    assert_eq!(group.log(4), group.log(3));
}

/// Figure 8 as it stands at (c): S1, S2 and S5 differ at index 2, S1 leads term 4 and has appended its
/// entry of the term at index 3.
fn figure_8_at_c() -> Group {
    let logs: [(u64, &[u64]); 5] = [(3, &[1, 2]), (2, &[1, 2]), (3, &[1]), (3, &[1]), (3, &[1, 3])];
    let disks = logs.iter().map(|(term, log)| Image::with_log(*term, log)).collect();
    let mut group = Group::on_disks(disks).with_manual_timers();
    group.elect_among(1, &[1, 2, 3]);
    assert_eq!((group.terms()[0], group.log(1)), (4, vec![1, 2, 4]));
    group.network.clear();
    // "Log entry from term 2 has been replicated on a majority of the servers, but it is not
    // committed": of what S1 sends to S3 only the entry at index 2 arrives.
    group.say(1, 3, append(4, position(1, 1), 0, records(2, &[2])));
    group.flush(1, 9);
    group.flush(3, 9);
    for follower in [2, 3] {
        group.say(follower, 1, matched(4, 2));
    }
    assert_eq!([group.log(1), group.log(2), group.log(3)], [vec![1, 2, 4], vec![1, 2], vec![1, 2]]);
    group
}

/// Figure 8, (c): an entry of term 2 is on three of five, and yet not committed, since it is counted
/// in term 4 (§5.4.2).
#[test]
fn figure_8_an_old_entry_on_a_majority_is_not_committed() {
    let mut group = figure_8_at_c();
    let has_entry = group.member(1).raft.followers();
    let count = has_entry.iter().filter(|follower| follower.match_index >= LogIndex(2)).count();
    assert_eq!(count, 2, "two followers and the leader");
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(0));
}

/// Figure 8, (d): rightly so, as S5 may still be elected by S2, S3 and S4 and replace it everywhere.
#[test]
fn figure_8_an_old_entry_on_a_majority_can_be_replaced() {
    let mut group = figure_8_at_c();
    group.kill(1, 9);
    group.network.clear();
    group.now = group.now + engine::time::Micros::from_millis(100);
    for _ in 0..2 {
        // Its term lags behind: at first it only learns that.
        group.time_out(5);
        group.settle();
    }
    assert_eq!(group.leader(), Some(5));
    group.time_out(5);
    group.settle();
    let term = group.terms()[4];
    assert!(term > 4);
    for node in 2..=5 {
        assert_eq!(group.log(node), [1, 3, term]);
        assert_eq!(group.member(node).raft.commit_index(), LogIndex(3));
    }
    group.restart(1);
    group.time_out(5);
    group.settle();
    assert_eq!(group.log(1), [1, 3, term]);
}

/// Figure 8, (e): once the entry of term 4 is on a majority, both are committed, and S5 cannot win an
/// election.
#[test]
fn figure_8_an_entry_of_the_own_term_on_a_majority_protects_the_old_one() {
    let mut group = figure_8_at_c();
    group.time_out(1);
    group.settle_among(&[1, 2, 3]);
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(3));
    group.kill(1, 9);
    for _ in 0..5 {
        group.now = group.now + engine::time::Micros::from_millis(200);
        group.time_out(5);
        group.settle();
        assert_eq!(group.leader(), None, "S2 and S3 refuse S5");
    }
    group.elect(2);
    group.time_out(2);
    group.settle();
    for node in 2..=5 {
        assert_eq!(group.log(node)[..3], [1, 2, 4]);
    }
}

/// §5.4.2: "only log entries from the leader's current term are committed by counting replicas"; those
/// of earlier terms "are committed indirectly".
#[test]
fn a_leader_counts_only_entries_of_its_own_term() {
    for (acknowledged, expected) in [(1, 0), (2, 0), (3, 3), (4, 4)] {
        let mut solo = Solo::in_role(RoleName::Leader, 3, 3, &[1, 2]);
        solo.propose();
        assert_eq!(solo.log(), [1, 2, 3, 3]);
        solo.hear(2, matched(3, acknowledged));
        assert_eq!(solo.commit(), expected, "acknowledged {acknowledged}");
    }
}

/// §5.4.2 and §8: without an entry of the new term nothing is committed, even if everybody has
/// everything; that is why a leader begins with one.
#[test]
fn nothing_is_committed_without_an_entry_of_the_new_term() {
    let mut solo = Solo::in_role(RoleName::Leader, 5, 7, &[1, 1, 2, 3]);
    for follower in 2..=5 {
        solo.hear(follower, matched(7, 4));
        assert_eq!(solo.commit(), 0);
    }
    for follower in 2..=3 {
        solo.hear(follower, matched(7, 5));
    }
    assert_eq!(solo.commit(), 5);
}

/// State Machine Safety (Figure 3): what a follower knows to be committed no append takes away; such a
/// one cannot come from a correct leader.
#[test]
fn a_committed_entry_is_never_replaced() {
    let mut solo = Solo::with_log(3, 1, &[1, 1]);
    solo.hear(2, append(1, position(1, 2), 2, records(3, &[1])));
    assert_eq!(solo.commit(), 2);
    solo.hear(3, append(2, position(1, 1), 2, records(2, &[2])));
    assert_eq!((solo.log(), solo.commit()), (vec![1, 1, 1], 2));
    // What lies after the committed part may go.
    solo.hear(3, append(2, position(1, 2), 2, records(3, &[2])));
    assert_eq!(solo.log(), [1, 1, 2]);
}

/// Leader Completeness (§5.4.3, Figure 9): an entry committed in one term is in the log of every later
/// leader, whoever of the majority that is.
#[test]
fn every_later_leader_has_what_was_committed() {
    for successor in [2, 3] {
        let mut group = Group::new(5).with_manual_timers();
        group.elect(1);
        group.propose(1);
        group.settle_among(&[1, 2, 3]);
        let committed = group.member(1).raft.commit_index();
        group.kill(1, 0);
        group.elect(successor);
        assert_eq!(group.member(successor).raft.term_at(committed), Some(engine::ids::Term(1)));
        assert_eq!(group.member(4).raft.leader(), Some(NodeId(successor)));
    }
}
