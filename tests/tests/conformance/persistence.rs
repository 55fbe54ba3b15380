//! Persistence that takes its time (thesis §10.2.1: writing to the leader's disk in parallel; Figure 2:
//! "updated on stable storage before responding"). Completions come late, several at once, and after
//! the term has changed; nothing that is said may run ahead of them.

use engine::ids::{LogIndex, NodeId};
use engine::raft::{AppendOutcome, Body, RoleName};
use engine::storage::IoId;
use tests::group::{Group, settings};
use tests::image::records;
use tests::messages::{
    append, matched, outcome_of, position, pre_vote_response, vote_request, vote_response,
};
use tests::solo::Solo;

/// How far the member said its log to be equal, message by message.
fn acknowledged(solo: &mut Solo) -> Vec<u64> {
    let sent = solo.take_sent();
    let outcomes = sent.iter().filter_map(|(_, message)| outcome_of(message));
    let index = |outcome| match outcome {
        AppendOutcome::Matched { match_index } => Some(match_index.0),
        _ => None,
    };
    outcomes.filter_map(index).collect()
}

fn slow_follower() -> Solo {
    let mut solo = Solo::with_log(3, 1, &[1]);
    solo.hear(2, append(1, position(1, 1), 1, Vec::new()));
    solo.is_disk_slow = true;
    solo.sent.clear();
    solo
}

/// Figure 2: a follower acknowledges an entry when it is durable, and not before; a heartbeat in
/// between is answered with what is.
#[test]
fn a_follower_acknowledges_what_is_durable_as_it_becomes_durable() {
    let mut solo = slow_follower();
    for index in 2..5 {
        solo.hear(2, append(1, position(1, index - 1), 1, records(index, &[1])));
    }
    assert_eq!((solo.log().len(), solo.unsynced.len()), (4, 3));
    assert_eq!(acknowledged(&mut solo), [0; 0]);
    solo.hear(2, append(1, position(1, 4), 1, Vec::new()));
    assert_eq!(acknowledged(&mut solo), [1]);
    solo.flush(1);
    assert_eq!(acknowledged(&mut solo), [2]);
    solo.flush(2);
    assert_eq!(acknowledged(&mut solo), [4], "two at once are one answer");
}

/// Row: coalesced and repeated completions. The last one stands for all before it; those that come
/// after it, again, or of nothing that was issued, change nothing.
#[test]
fn completions_may_be_coalesced_repeated_and_out_of_order() {
    let mut solo = slow_follower();
    for index in 2..5 {
        solo.hear(2, append(1, position(1, index - 1), 1, records(index, &[1])));
    }
    let ios: Vec<IoId> = solo.unsynced.iter().map(|persist| persist.io).collect();
    solo.report(ios[1]);
    assert_eq!(acknowledged(&mut solo), [3]);
    for io in [ios[0], ios[1], IoId::default()] {
        solo.report(io);
        assert_eq!((acknowledged(&mut solo), solo.raft.durable_index()), (vec![], LogIndex(3)));
    }
    solo.report(IoId(ios[2].0 + 99));
    assert_eq!((acknowledged(&mut solo), solo.raft.durable_index()), (vec![4], LogIndex(4)));
    // What is issued later is not durable by that.
    solo.hear(2, append(1, position(1, 4), 1, records(5, &[1])));
    assert_eq!((acknowledged(&mut solo), solo.raft.durable_index()), (vec![], LogIndex(4)));
}

/// Row: completions out of order with term changes. Entries that were replaced while they were on
/// their way count for nothing; those that stayed do.
#[test]
fn a_late_completion_counts_only_for_what_was_not_replaced() {
    let mut solo = slow_follower();
    solo.hear(2, append(1, position(1, 1), 1, records(2, &[1, 1, 1])));
    solo.hear(3, append(2, position(1, 2), 1, records(3, &[2])));
    assert_eq!(solo.log(), [1, 1, 2]);
    solo.flush(1);
    assert_eq!(solo.raft.durable_index(), LogIndex(2), "of three entries one is still there");
    assert_eq!(acknowledged(&mut solo), [0; 0], "in term 2, which is not durable, it says nothing");
    solo.flush(1);
    assert_eq!(solo.raft.durable_index(), LogIndex(3));
    assert_eq!(acknowledged(&mut solo), [2, 3], "one after the other, as the disk had them");
}

/// Row: the append ABA race. Entries are replaced and then put back by a later leader while all of it
/// is on its way to the disk. The first completion must not vouch for the third write: in between the
/// disk holds the second.
#[test]
fn a_completion_does_not_vouch_for_equal_entries_that_were_written_again() {
    let mut solo = slow_follower();
    solo.hear(2, append(1, position(1, 1), 1, records(2, &[1, 1])));
    solo.hear(3, append(2, position(1, 1), 1, records(2, &[2])));
    solo.hear(2, append(3, position(1, 1), 1, records(2, &[1, 1])));
    assert_eq!((solo.log(), solo.unsynced.len()), (vec![1, 1, 1], 3));
    for (flushed, durable) in [(1, 1), (1, 1), (1, 3)] {
        solo.flush(flushed);
        assert_eq!(solo.raft.durable_index(), LogIndex(durable));
        // A crash now keeps at least what was said to be durable.
        let again = Solo::on_disk(settings(1, 3, 2), solo.image.clone());
        assert_eq!(again.log()[..durable as usize], [1, 1, 1][..durable as usize]);
    }
    assert_eq!(acknowledged(&mut solo), [1, 3]);
}

/// Row: the same after they were durable. A replacement that is on its way takes back what was durable,
/// and putting the old entries back makes them durable only when that is written.
#[test]
fn durable_entries_that_are_being_replaced_are_durable_no_more() {
    let mut solo = slow_follower();
    solo.hear(2, append(1, position(1, 1), 1, records(2, &[1, 1])));
    solo.flush(9);
    assert_eq!(acknowledged(&mut solo), [3]);
    solo.hear(3, append(2, position(1, 1), 1, records(2, &[2])));
    solo.hear(2, append(3, position(1, 1), 1, records(2, &[1, 1])));
    assert_eq!(solo.raft.durable_index(), LogIndex(1));
    solo.flush(1);
    assert_eq!(solo.raft.durable_index(), LogIndex(1));
    solo.flush(1);
    assert_eq!((solo.raft.durable_index(), acknowledged(&mut solo)), (LogIndex(3), vec![1, 3]));
}

/// Thesis §10.2.1: "the leader may even commit an entry before it has been written to its own disk, if
/// a majority of followers have written it"; with its own disk needed, it waits.
#[test]
fn a_leader_counts_itself_only_for_what_is_durable() {
    let mut solo = Solo::replicating(5, 1, &[]);
    solo.is_disk_slow = true;
    solo.propose();
    assert_eq!(solo.entries_sent_to(2), [[2]], "it goes out before it is durable");
    solo.hear(2, matched(1, 2));
    solo.hear(3, matched(1, 2));
    assert_eq!(solo.commit(), 1, "two followers and a leader that may forget");
    solo.flush(9);
    assert_eq!(solo.commit(), 2, "the leader is the third");
    solo.propose();
    for follower in 2..=4 {
        solo.hear(follower, matched(1, 3));
    }
    assert_eq!((solo.commit(), solo.raft.durable_index()), (3, LogIndex(2)));
}

/// Row: a leader with an unpersisted tail. It crashes, comes back without the tail that the others
/// committed, and gets it from the next leader.
#[test]
fn a_leader_that_forgets_its_tail_gets_it_back_from_the_others() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.propose(1);
    group.propose(1);
    while !group.network.is_empty() {
        group.deliver(0);
        group.flush(2, 9);
        group.flush(3, 9);
    }
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(3));
    group.crash(1, 0);
    assert_eq!(group.log(1), [1]);
    group.elect(2);
    group.time_out(2);
    group.settle();
    assert_eq!(group.log(1), [1, 1, 1, 2]);
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(4));
}

/// Row: a follower with an unpersisted tail. What it never acknowledged may be lost with it, and the
/// leader, which did not count it, sends it again.
#[test]
fn a_follower_that_forgets_its_tail_was_not_counted_for_it() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    group.propose(1);
    group.drop_packets_between(1, 3);
    while !group.network.is_empty() {
        group.deliver(0);
        group.flush(1, 9);
    }
    assert_eq!((group.log(2), group.member(1).raft.commit_index()), (vec![1, 1], LogIndex(1)));
    group.crash(2, 0);
    assert_eq!(group.log(2), [1]);
    group.time_out(1);
    group.settle();
    assert_eq!((group.log(2), group.member(1).raft.commit_index()), (vec![1, 1], LogIndex(2)));
}

/// Row: a new leader with an unpersisted tail. Neither its vote for itself nor its request for others,
/// which state its log, go out before term, vote and tail are durable.
#[test]
fn a_candidate_with_an_unpersisted_tail_asks_when_it_is_durable() {
    let mut solo = slow_follower();
    solo.hear(2, append(1, position(1, 1), 1, records(2, &[1, 1])));
    solo.time_out();
    solo.hear(3, pre_vote_response(2, true));
    let asks = |solo: &Solo| {
        solo.sent.iter().any(|(_, message)| matches!(message.body, Body::VoteRequest { .. }))
    };
    assert_eq!((solo.raft.role(), asks(&solo)), (RoleName::Candidate, false));
    solo.flush(1);
    assert!(!asks(&solo), "the tail alone is not enough");
    solo.flush(1);
    assert!(solo.sent.contains(&(3, vote_request(2, position(1, 3)))));
    solo.hear(3, vote_response(2, true));
    assert_eq!((solo.raft.role(), solo.raft.durable_index()), (RoleName::Leader, LogIndex(3)));
}

/// Row: a new leader with an unpersisted tail. Its own first entry is not durable yet; what the others
/// acknowledge commits nothing that it would have to count itself for.
#[test]
fn a_new_leader_commits_its_first_entry_when_a_majority_has_it_durably() {
    let mut solo = Solo::in_role(RoleName::Candidate, 3, 2, &[1]);
    solo.is_disk_slow = true;
    solo.hear(2, vote_response(2, true));
    solo.hear(2, matched(2, 2));
    assert_eq!((solo.raft.role(), solo.commit()), (RoleName::Leader, 0));
    solo.flush(1);
    assert_eq!(solo.commit(), 2);
}

/// Figure 2: the vote is on the disk before it is sent; the same to two candidates, the second of a
/// later term, comes out in the order of the terms, and never twice for one term.
#[test]
fn votes_wait_for_the_disk_each_for_its_own_term() {
    let mut solo = Solo::with_log(3, 1, &[1]);
    solo.is_disk_slow = true;
    solo.hear(2, vote_request(2, position(1, 1)));
    solo.hear(3, vote_request(3, position(1, 1)));
    assert_eq!(solo.take_sent(), []);
    solo.flush(1);
    assert_eq!(solo.take_sent(), [(2, vote_response(2, true))]);
    assert_eq!(solo.durable().voted_for, Some(NodeId(2)));
    solo.flush(1);
    assert_eq!(solo.take_sent(), [(3, vote_response(3, true))]);
    assert_eq!(solo.durable().voted_for, Some(NodeId(3)));
}

/// Figure 2: a member that crashes before its vote is durable has not voted, and nobody heard of it.
#[test]
fn a_vote_that_was_not_durable_was_not_given() {
    let mut solo = Solo::with_log(3, 1, &[1]);
    solo.is_disk_slow = true;
    solo.hear(2, vote_request(2, position(1, 1)));
    assert_eq!(solo.take_sent(), []);
    let mut solo = solo.restarted(settings(1, 3, 2));
    assert_eq!(solo.standing(), (RoleName::Follower, 1, None));
    let answer = solo.ask(3, vote_request(2, position(1, 1)));
    assert_eq!(answer, [(3, vote_response(2, true))]);
}

/// §5.3: what is committed is known across a restart as far as it was noted, and never taken from what
/// the disk does not hold.
#[test]
fn the_noted_commit_index_never_exceeds_the_recovered_log() {
    let mut image = tests::image::Image::with_log(1, &[1, 1]);
    for (noted, expected) in [(0, 0), (1, 1), (2, 2), (9, 2)] {
        image.hard_state.commit = LogIndex(noted);
        let solo = Solo::on_disk(settings(1, 3, 1), image.clone());
        assert_eq!(solo.commit(), expected);
    }
}
