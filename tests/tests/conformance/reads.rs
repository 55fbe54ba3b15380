//! Linearizable reads (thesis §6.4), and reads under a lease (thesis §6.4.1).

use engine::ids::NodeId;
use engine::raft::{
    Body, Change, ChangeRequest, Handicap, Leave, Membership, Message, RoleName, Settings, Step,
};
use engine::time::Micros;
use tests::group::{Group, settings};
use tests::image::Image;
use tests::messages::{
    append, matched, matched_in_round, position, pre_vote_request, pre_vote_response, read_request,
    read_response, rejected, transfer_vote_request, vote_request, vote_response,
};
use tests::solo::Solo;

/// The round in each append that was sent to `to`.
fn rounds(solo: &mut Solo, to: u64) -> Vec<u64> {
    let round = |(receiver, message): (u64, Message)| match message.body {
        Body::Append { round, .. } if receiver == to => Some(round),
        _ => None,
    };
    solo.take_sent().into_iter().filter_map(round).collect()
}

/// The same answer to an append of a read round.
fn in_round(round: u64, mut answer: Message) -> Message {
    if let Body::AppendResponse { round: answered, .. } = &mut answer.body {
        *answered = round;
    }
    answer
}

/// Thesis §6.4: "the leader issues a new round of heartbeats and waits for their acknowledgments from a
/// majority of the cluster"; the read sees what was committed when it came.
#[test]
fn a_read_is_answered_once_a_quorum_has_confirmed_its_round() {
    let mut solo = Solo::replicating(5, 1, &[]);
    solo.read(7);
    let receivers: Vec<u64> = solo.sent.iter().map(|(to, _)| *to).collect();
    assert_eq!((receivers, rounds(&mut solo, 5)), (vec![2, 3, 4, 5], vec![1]));
    solo.hear(2, matched_in_round(1, 1, 1));
    assert_eq!(solo.reads, [], "two of five");
    solo.hear(2, matched_in_round(1, 1, 1));
    assert_eq!(solo.reads, [], "an answer that comes twice counts once");
    // A refusal confirms the leader as well.
    solo.hear(3, in_round(1, rejected(1, 9, position(0, 0))));
    assert_eq!(solo.reads, [(7, 1)]);
}

/// Thesis §6.4: what was sent before the read came confirms nothing for it; reads that come while a
/// round is under way share the next.
#[test]
fn a_round_that_began_before_the_read_does_not_count_for_it() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.hear(2, matched_in_round(1, 1, 0));
    solo.read(1);
    solo.read(2);
    solo.read(3);
    assert_eq!(rounds(&mut solo, 2), [1], "one round is under way at a time");
    solo.hear(2, matched_in_round(1, 1, 0));
    assert_eq!(solo.reads, []);
    solo.hear(2, matched_in_round(1, 1, 1));
    assert_eq!(solo.reads, [(1, 1)]);
    assert_eq!(rounds(&mut solo, 2), [2], "the others share the next");
    solo.hear(3, matched_in_round(1, 1, 1));
    assert_eq!(solo.reads, [(1, 1)], "a late answer to the first round");
    solo.hear(3, matched_in_round(1, 1, 2));
    assert_eq!(solo.reads, [(1, 1), (2, 1), (3, 1)]);
    // Nobody confirms a round that was not begun.
    solo.read(4);
    solo.hear(2, matched_in_round(1, 1, 99));
    assert_eq!(solo.reads.len(), 3);
}

/// §8 and thesis §6.4: "a leader must have the latest information on which entries are committed" and has
/// not before its first entry is.
#[test]
fn a_new_leader_answers_no_read_before_its_first_commit() {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 5, &[1, 1]);
    solo.read(1);
    assert_eq!(rounds(&mut solo, 2), [0; 0], "not even a round begins");
    solo.hear(2, matched_in_round(5, 2, 0));
    assert_eq!((solo.commit(), solo.reads.clone()), (0, vec![]));
    solo.hear(2, matched_in_round(5, 3, 0));
    solo.wait(0);
    assert_eq!((solo.commit(), rounds(&mut solo, 2).last().copied()), (3, Some(1)));
    solo.hear(2, matched_in_round(5, 3, 1));
    assert_eq!(solo.reads, [(1, 3)]);
}

/// A majority of one needs nobody.
#[test]
fn a_single_member_answers_reads_at_once() {
    let mut solo = Solo::replicating(1, 1, &[]);
    solo.read(1);
    assert_eq!(solo.reads, [(1, 1)]);
}

/// Row: with learners. They get the round and confirm nothing (thesis §4.2.1: "not counted towards
/// majorities").
#[test]
fn learners_do_not_confirm_reads() {
    let founding = Membership::new([1, 2, 3].map(NodeId).to_vec());
    let founding = founding.with_learners(vec![NodeId(4), NodeId(5)]);
    let mut solo = Solo::leader(Settings { founding, ..settings(1, 3, 1) }, 3);
    for follower in 2..=5 {
        solo.hear(follower, matched(1, 1));
    }
    solo.read(1);
    for learner in [4, 5] {
        solo.hear(learner, matched_in_round(1, 1, 1));
        assert_eq!(solo.reads, []);
    }
    solo.hear(3, matched_in_round(1, 1, 1));
    assert_eq!(solo.reads, [(1, 1)]);
}

/// Row: reads released when the quorum shrinks. Once the silent members are gone, what is left of the
/// quorum is enough, without a further answer.
#[test]
fn reads_are_released_when_the_quorum_shrinks() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.read(1);
    let steps = vec![Step::Remove(NodeId(2)), Step::Remove(NodeId(3))];
    let change = Change { steps, leave: Leave::Automatic };
    solo.change(&ChangeRequest::Change(change)).expect("a legal change");
    assert_eq!(solo.reads, []);
    // Member 2 takes the joint membership; it answers what was sent before the read.
    solo.hear(2, matched_in_round(1, 2, 0));
    solo.wait(0);
    assert!(!solo.raft.membership().is_joint(), "the leader left the joint membership by itself");
    solo.wait(0);
    assert_eq!(solo.reads.first().map(|(token, _)| *token), Some(1));
}

/// Row: memory of pending reads is freed. A leader that leads no more fails them all, those under way
/// and those that wait.
#[test]
fn reads_of_a_deposed_leader_fail() {
    for message in [append(2, position(0, 0), 0, Vec::new()), vote_response(2, false)] {
        let mut solo = Solo::replicating(3, 1, &[]);
        for token in 1..=3 {
            solo.read(token);
        }
        solo.hear(2, message);
        solo.reads_failed.sort_unstable();
        assert_eq!((solo.reads_failed.clone(), solo.reads.clone()), (vec![1, 2, 3], vec![]));
        // The answers to its rounds come to nothing.
        solo.hear(2, matched_in_round(1, 1, 1));
        assert_eq!(solo.reads, []);
    }
}

/// Rounds count within a term: a leader that is elected again is not confirmed by answers to its former
/// self.
#[test]
fn a_round_of_an_earlier_term_confirms_nothing() {
    let mut solo = Solo::replicating(3, 1, &[]);
    solo.read(1);
    solo.hear(2, vote_response(2, false));
    solo.campaign(3);
    solo.hear(2, matched(3, 2));
    solo.read(2);
    solo.hear(2, matched_in_round(1, 2, 1));
    assert_eq!((solo.raft.is_leader(), solo.reads.clone()), (true, vec![]));
    solo.hear(2, matched_in_round(3, 2, 1));
    assert_eq!(solo.reads, [(2, 2)]);
}

fn follower() -> Solo {
    let mut solo = Solo::with_log(3, 1, &[1]);
    solo.hear(2, append(1, position(1, 1), 1, Vec::new()));
    solo.sent.clear();
    solo
}

/// The number of the one request that was sent to member 2.
fn request_id(solo: &mut Solo) -> u64 {
    match &solo.take_sent()[..] {
        [(2, Message { body: Body::ReadRequest { id }, .. })] => *id,
        other => panic!("not one request to the leader: {other:?}"),
    }
}

/// Thesis §6.4: "followers can ... issue a request to the leader that just asks for its current
/// readIndex": asked once for all reads that wait, again if no answer comes, and only the answer to
/// that very request counts.
#[test]
fn a_follower_asks_the_leader_from_where_on_it_may_answer() {
    let mut solo = follower();
    solo.read(1);
    let id = request_id(&mut solo);
    solo.read(2);
    assert_eq!(solo.take_sent(), [], "one request at a time");
    solo.wait(10);
    assert_eq!(request_id(&mut solo), id, "the same again, as no answer came");
    solo.hear(2, read_response(1, id.wrapping_sub(1), 9));
    assert_eq!(solo.reads, [], "an answer to something else");
    solo.hear(2, read_response(1, id, 4));
    assert_eq!(solo.reads, [(1, 4)]);
    let next = request_id(&mut solo);
    assert_ne!(next, id);
    solo.hear(2, read_response(1, id, 4));
    assert_eq!(solo.reads, [(1, 4)], "the first answer once more");
    solo.hear(2, read_response(1, next, 5));
    assert_eq!(solo.reads, [(1, 4), (2, 5)]);
}

/// The same on the leader: the follower's request waits for a round like any read, and a repetition is
/// answered once.
#[test]
fn a_leader_answers_a_follower_after_a_round() {
    let mut solo = Solo::replicating(3, 1, &[]);
    let sent = solo.ask(2, read_request(1, 70));
    assert!(sent.iter().all(|(_, message)| matches!(message.body, Body::Append { round: 1, .. })));
    solo.hear(2, read_request(1, 71));
    solo.hear(2, read_request(1, 71));
    let answers = |sent: Vec<(u64, Message)>| -> Vec<_> {
        let is_answer =
            |(_, message): &(u64, Message)| matches!(message.body, Body::ReadResponse { .. });
        sent.into_iter().filter(is_answer).collect()
    };
    let sent = solo.ask(3, matched_in_round(1, 1, 1));
    assert_eq!(answers(sent), [(2, read_response(1, 70, 1))]);
    let sent = solo.ask(3, matched_in_round(1, 1, 2));
    assert_eq!(answers(sent), [(2, read_response(1, 71, 1))]);
}

/// Row: memory of pending reads is freed, on followers: a new leader does not know of what was asked of
/// the old one, and who campaigns has no leader to ask.
#[test]
fn reads_of_a_follower_fail_when_its_leader_is_gone() {
    let mut solo = follower();
    solo.read(1);
    solo.read(2);
    solo.hear(3, append(2, position(1, 1), 1, Vec::new()));
    solo.reads_failed.sort_unstable();
    assert_eq!(solo.reads_failed, [1, 2]);
    solo.read(3);
    solo.time_out();
    while solo.raft.role() == RoleName::Follower {
        solo.time_out();
    }
    assert_eq!(
        (solo.raft.role(), solo.reads_failed.clone()),
        (RoleName::PreCandidate, vec![1, 2, 3])
    );
    solo.read(4);
    assert_eq!(solo.reads_failed, [1, 2, 3, 4], "at once");
}

/// Reads on every member of a group see what was committed before they came; the group checks it.
#[test]
fn every_member_answers_reads_linearizably() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    for token in 0..30 {
        let node = token % 3 + 1;
        group.propose(1);
        group.settle();
        group.read(node, token);
        group.settle();
        assert_eq!(group.member(node).reads.last().map(|(token, _)| *token), Some(token));
    }
}

fn lease_settings(drift_ppm: u32) -> Settings {
    Settings { lease_drift_ppm: Some(drift_ppm), ..settings(1, 3, 1) }
}

/// A leader with leases whose first entry is committed and whose lease began just now.
fn leaseholder(drift_ppm: u32) -> Solo {
    let mut solo = Solo::leader(lease_settings(drift_ppm), 3);
    solo.hear(2, matched(1, 1));
    solo.time_out();
    let round = rounds(&mut solo, 2).last().copied().expect("a heartbeat");
    solo.hear(2, matched_in_round(1, 1, round));
    solo
}

/// Thesis §6.4.1: with a lease no round is needed, until an election timeout, less the drift of clocks,
/// after a heartbeat went out that a quorum has confirmed.
#[test]
fn under_a_lease_a_read_is_answered_at_once() {
    for (drift_ppm, waited_ms, is_held) in
        [(0, 0, true), (0, 99, true), (0, 100, false), (100_000, 89, true), (100_000, 90, false)]
    {
        let mut solo = leaseholder(drift_ppm);
        solo.now = solo.now + Micros::from_millis(waited_ms);
        solo.read(1);
        assert_eq!(!solo.reads.is_empty(), is_held, "{drift_ppm} ppm, {waited_ms} ms");
    }
}

/// Thesis §6.4.1: a lease is not relied on where it may not hold: while leadership is handed over and
/// ever after in the term, with a clock that goes wrong, and before the first commit.
#[test]
fn a_lease_is_given_up_with_a_transfer_or_a_bad_clock() {
    let mut solo = leaseholder(0);
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    solo.read(1);
    assert_eq!(solo.reads, []);
    for _ in 0..20 {
        solo.wait(10);
        let round = rounds(&mut solo, 2).last().copied().unwrap_or(0);
        solo.hear(2, matched_in_round(1, 1, round));
    }
    assert_eq!((solo.transfers_ended.len(), solo.reads.len()), (1, 1));
    solo.read(2);
    assert_eq!(solo.reads.len(), 1, "member 2 may still be told late");
    // Before the target is told, too.
    let mut solo = leaseholder(0);
    solo.propose();
    assert_eq!(solo.transfer(Some(2)), Ok(Some(2)));
    solo.read(1);
    assert_eq!(solo.reads, []);
    let mut solo = leaseholder(0);
    solo.raft.set_handicap(Handicap { is_clock_bad: true, ..Handicap::default() });
    solo.read(1);
    assert_eq!(solo.reads, []);
}

/// Thesis §6.4.1 rests on §4.2.3: who heard a leader elects no other for an election timeout, whatever
/// happens meanwhile: a message of a later term, or a restart.
#[test]
fn a_voter_keeps_its_word_to_a_leader_that_reads_under_a_lease() {
    let heard = || {
        let mut solo = Solo::on_disk(lease_settings(0), Image::with_log(1, &[1]));
        solo.now = solo.now + Micros::from_millis(150);
        solo.hear(2, append(1, position(1, 1), 1, Vec::new()));
        solo
    };
    let refuses = |solo: &mut Solo| {
        let term = solo.raft.term().0;
        // In its own term too, which somebody else may be a candidate of.
        for asked in [term, term + 1] {
            let promise = solo.ask(3, pre_vote_request(asked, position(9, 9)));
            let vote = solo.ask(3, vote_request(asked, position(9, 9)));
            assert!(!promise.contains(&(3, pre_vote_response(asked, true))));
            assert!(!vote.contains(&(3, vote_response(asked, true))), "term {asked}");
        }
    };
    let mut solo = heard();
    refuses(&mut solo);
    // The refusal of an earlier question of its own comes late, in a later term.
    let mut solo = heard();
    solo.hear(3, pre_vote_response(9, false));
    assert_eq!(solo.raft.term().0, 9);
    refuses(&mut solo);
    // It restarts, and cannot know whom it heard.
    let mut solo = heard().restarted(lease_settings(0));
    refuses(&mut solo);
    solo.now = solo.now + Micros::from_millis(100);
    let answer = solo.ask(3, vote_request(2, position(9, 9)));
    assert_eq!(answer, [(3, vote_response(2, true))]);
    // The leader itself may release it (thesis §3.10), and then relies on no lease.
    let mut solo = heard();
    let answer = solo.ask(3, transfer_vote_request(2, position(9, 9)));
    assert_eq!(answer, [(3, vote_response(2, true))]);
}
