//! Elections (§5.2).

use super::ROLES;
use engine::ids::{NodeId, Term};
use engine::raft::{Body, Message, RoleName};
use engine::time::Micros;
use tests::group::Group;
use tests::image::{Image, records};
use tests::messages::{
    append, append_of, position, pre_vote_request, pre_vote_response, vote_request, vote_response,
};
use tests::solo::Solo;

const TIMEOUT_MS: u64 = 100;

/// To whom each message of `sent` goes, if all of them satisfy `is_such`.
fn receivers(sent: &[(u64, Message)], is_such: impl Fn(&Body) -> bool) -> Vec<u64> {
    assert!(sent.iter().all(|(_, message)| is_such(&message.body)), "{sent:?}");
    sent.iter().map(|(to, _)| *to).collect()
}

/// §5.2: "when servers start up, they begin as followers".
#[test]
fn a_member_starts_as_a_follower_whatever_it_was() {
    for role in ROLES {
        let solo = Solo::in_role(role, 3, 5, &[1]);
        let (_, term, vote) = solo.standing();
        let again = solo.restarted(tests::group::settings(1, 3, 2));
        assert_eq!(again.standing(), (RoleName::Follower, term, vote));
        assert_eq!(again.raft.leader(), None);
    }
}

/// §5.2: "leaders send periodic heartbeats ... to all followers": one to each at every interval,
/// also when there is nothing else to say, and none in between.
#[test]
fn a_leader_sends_a_heartbeat_to_everybody_at_every_interval() {
    let mut solo = Solo::in_role(RoleName::Leader, 5, 1, &[]);
    for _ in 0..5 {
        solo.wait(1);
        assert_eq!(solo.take_sent(), []);
        solo.time_out();
        let sent = solo.take_sent();
        assert_eq!(receivers(&sent, |body| matches!(body, Body::Append { .. })), [2, 3, 4, 5]);
        assert!(sent.iter().all(|(_, message)| message.term == Term(1)));
        assert_eq!(solo.raft.next_deadline(), solo.now + Micros::from_millis(10));
    }
}

/// §5.2: "if a follower receives no communication over ... the election timeout, then it assumes
/// there is no viable leader"; so does a candidate. Here they first ask whether they could win.
#[test]
fn a_follower_and_a_candidate_start_a_new_election_when_their_time_is_over() {
    for role in [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate] {
        let mut solo = Solo::in_role(role, 3, 2, &[1]);
        solo.wait(TIMEOUT_MS - 1);
        assert_eq!((solo.raft.role(), solo.take_sent()), (role, Vec::new()), "not before");
        solo.time_out();
        assert_eq!((solo.raft.role(), solo.raft.term()), (RoleName::PreCandidate, Term(2)));
        let asked = pre_vote_request(3, position(1, 1));
        assert_eq!(solo.take_sent(), [(2, asked.clone()), (3, asked)]);
        // With the promise of a quorum it votes for itself and asks for votes, one term later.
        let asked = vote_request(3, position(1, 1));
        let sent = solo.ask(3, pre_vote_response(3, true));
        assert_eq!(solo.standing(), (RoleName::Candidate, 3, Some(1)));
        assert_eq!(sent, [(2, asked.clone()), (3, asked)]);
    }
}

/// §5.2: a candidate that hears from nobody stays one, and each attempt asks anew.
#[test]
fn every_election_of_a_candidate_is_in_a_term_of_its_own() {
    let mut solo = Solo::in_role(RoleName::Candidate, 3, 1, &[]);
    for term in 2..6 {
        solo.time_out();
        solo.hear(2, pre_vote_response(term, true));
        assert_eq!(solo.standing(), (RoleName::Candidate, term, Some(1)));
        assert_eq!(solo.durable().voted_for, Some(NodeId(1)));
    }
}

/// §5.2: "a candidate wins an election if it receives votes from a majority of the servers in the
/// full cluster", in one round trip; a majority of refusals ends it.
#[test]
fn an_election_takes_one_round_trip_of_votes() {
    use RoleName::{Candidate, Follower, Leader};
    let cases: [(u64, &[u64], &[u64], RoleName); 12] = [
        (2, &[2], &[], Leader),
        (2, &[], &[2], Follower),
        (3, &[], &[], Candidate),
        (3, &[2], &[], Leader),
        (3, &[2], &[3], Leader),
        (3, &[], &[2, 3], Follower),
        (3, &[], &[2], Candidate),
        (5, &[2], &[3], Candidate),
        (5, &[2, 3], &[4, 5], Leader),
        (5, &[2], &[3, 4, 5], Follower),
        (7, &[2, 3], &[4, 5, 6], Candidate),
        (7, &[2, 3, 4], &[], Leader),
    ];
    for (members, yes, no, expected) in cases {
        let mut solo = Solo::in_role(Candidate, members, 4, &[1]);
        for voter in no {
            solo.hear(*voter, vote_response(4, false));
        }
        for voter in yes {
            solo.hear(*voter, vote_response(4, true));
        }
        let term = Term(4);
        assert_eq!((solo.raft.role(), solo.raft.term()), (expected, term), "{members} {yes:?}");
    }
}

/// §5.2: each voter counts once, whatever the network repeats.
#[test]
fn a_repeated_vote_counts_once() {
    let mut solo = Solo::in_role(RoleName::Candidate, 5, 1, &[]);
    for _ in 0..9 {
        solo.hear(2, vote_response(1, true));
    }
    assert_eq!(solo.raft.role(), RoleName::Candidate);
    let mut solo = Solo::in_role(RoleName::PreCandidate, 5, 1, &[]);
    for _ in 0..9 {
        solo.hear(2, pre_vote_response(2, true));
    }
    assert_eq!(solo.raft.role(), RoleName::PreCandidate);
}

/// §5.2: a new leader announces itself at once, "to establish its authority and prevent new
/// elections", and begins its term with an entry (§8).
#[test]
fn the_winner_announces_itself_at_once() {
    let mut solo = Solo::in_role(RoleName::Candidate, 3, 4, &[1, 3]);
    let sent = solo.ask(2, vote_response(4, true));
    let announced: Vec<_> = sent.iter().map(|(to, message)| (*to, append_of(message))).collect();
    let heartbeat = Some((position(3, 2), 0, Vec::new()));
    assert_eq!(announced, [(2, heartbeat.clone()), (3, heartbeat)]);
    assert_eq!(solo.log(), [1, 3, 4]);
}

/// §5.2: "each server will vote for at most one candidate in a given term, on a first-come-first-
/// served basis"; the same candidate may ask again.
#[test]
fn a_member_votes_for_one_candidate_a_term() {
    for (first, second, is_granted) in [(2, 2, true), (2, 3, false), (3, 2, false), (3, 3, true)] {
        let mut solo = Solo::with_log(3, 1, &[1]);
        let request = vote_request(2, position(1, 1));
        assert_eq!(solo.ask(first, request.clone()), [(first, vote_response(2, true))]);
        let answer = solo.ask(second, request.clone());
        assert_eq!(answer, [(second, vote_response(2, is_granted))], "{first} then {second}");
        // Nor does it forget over a crash (Figure 2: votedFor is persistent).
        let mut solo = solo.restarted(tests::group::settings(1, 3, 2));
        assert_eq!(solo.ask(second, request), [(second, vote_response(2, is_granted))]);
        // The next term has a vote of its own.
        let next = vote_request(3, position(1, 1));
        assert_eq!(solo.ask(second, next), [(second, vote_response(3, true))]);
    }
}

/// §5.2: a follower that grants a vote waits a whole election timeout for the winner before it campaigns
/// itself; one that refuses does not wait for the loser.
#[test]
fn granting_a_vote_puts_the_own_election_off_and_refusing_does_not() {
    for (last, is_granted) in [(position(1, 1), true), (position(0, 0), false)] {
        let mut solo = Solo::with_log(3, 1, &[1]);
        // The term is known already, so that nothing but the vote moves the deadline.
        solo.hear(2, vote_response(2, false));
        solo.wait(TIMEOUT_MS - 1);
        let before = solo.raft.next_deadline();
        assert_eq!(solo.ask(3, vote_request(2, last)), [(3, vote_response(2, is_granted))]);
        let after = solo.raft.next_deadline();
        let is_whole = after.since(solo.now) >= Micros::from_millis(TIMEOUT_MS);
        assert_eq!((is_whole, after == before), (is_granted, !is_granted));
    }
}

/// §5.2: "if the leader's term is at least as large as the candidate's current term, then the
/// candidate recognizes the leader as legitimate and returns to follower state".
#[test]
fn a_candidate_falls_back_on_a_leader_of_its_term_or_a_later_one() {
    for role in [RoleName::PreCandidate, RoleName::Candidate] {
        for term in [4, 5] {
            let mut solo = Solo::in_role(role, 3, 4, &[1]);
            let vote = if term == 4 { solo.standing().2 } else { None };
            solo.hear(3, append(term, position(1, 1), 0, Vec::new()));
            // In the same term the vote stays with whom it was given.
            assert_eq!(solo.standing(), (RoleName::Follower, term, vote), "{role:?}");
            assert_eq!(solo.raft.leader(), Some(NodeId(3)));
        }
    }
}

/// §5.2: "election timeouts are chosen randomly from a fixed interval", here from the shortest to
/// twice that: none outside, and all over it.
#[test]
fn election_timeouts_are_spread_over_the_whole_interval() {
    for role in [RoleName::Follower, RoleName::Candidate] {
        let mut seen = [0_u32; 10];
        let mut solo = Solo::in_role(role, 3, 1, &[]);
        for term in 2..1_002 {
            match role {
                RoleName::Candidate => {
                    solo.time_out();
                    solo.hear(2, pre_vote_response(term, true));
                }
                _ => solo.hear(2, append(term, position(0, 0), 0, Vec::new())),
            }
            assert_eq!(solo.raft.role(), role);
            let timeout = solo.raft.next_deadline().since(solo.now);
            let bucket = timeout.0.checked_sub(TIMEOUT_MS * 1_000).expect("not too short") / 10_000;
            seen[usize::try_from(bucket).expect("small")] += 1;
        }
        assert!(seen.iter().all(|count| (50..=170).contains(count)), "{seen:?}");
    }
}

/// §5.2: "this spreads out the servers so that in most cases only a single server will time out".
#[test]
fn election_timeouts_rarely_conflict() {
    for members in [3, 5, 7] {
        let mut group = Group::new(members).with_manual_timers();
        let mut conflicts = 0;
        for round in 1..=1_000 {
            let message = append(round, position(0, 0), 0, Vec::new());
            for node in 1..=members {
                let from = node % members + 1;
                group.say(from, node, message.clone());
            }
            let mut deadlines: Vec<u64> =
                (1..=members).map(|node| group.member(node).raft.next_deadline().0).collect();
            deadlines.sort_unstable();
            // Within a millisecond of the first nobody would hear of its election.
            conflicts += u64::from(deadlines[1] - deadlines[0] < 1_000);
            group.settle();
        }
        assert!(conflicts < 20 * members, "{conflicts} of 1000 among {members}");
    }
}

/// §5.2: a majority of one is itself: no messages, but its own vote must be durable.
#[test]
fn a_single_member_elects_itself_once_its_vote_is_durable() {
    let mut solo = Solo::new(1);
    solo.is_disk_slow = true;
    solo.time_out();
    assert_eq!(solo.standing(), (RoleName::Candidate, 1, Some(1)));
    solo.flush(1);
    assert_eq!(solo.standing(), (RoleName::Leader, 1, Some(1)));
    solo.flush(1);
    assert_eq!((solo.commit(), solo.take_sent()), (1, Vec::new()));
}

/// §5.2: two candidates of one term split the votes; neither leads, the next term decides, and who
/// was cut off meanwhile falls in line.
#[test]
fn duelling_candidates_come_to_one_leader() {
    let disks = [1, 1, 1].map(|term| Image::with_log(term, &[]));
    let mut group = Group::on_disks(disks.to_vec()).with_manual_timers();
    // Both 1 and 3 hear yes of 2, before either has asked for a vote.
    group.time_out(1);
    group.time_out(3);
    group.network.clear();
    for candidate in [1, 3] {
        group.say(2, candidate, pre_vote_response(2, true));
        group.flush(candidate, 9);
    }
    group.drop_packets_between(1, 3);
    let asked: Vec<_> = group.network.iter().map(|p| (p.from.0, p.to.0)).collect();
    assert_eq!(asked, [(1, 2), (3, 2)], "both ask 2 for its vote in term 2");
    group.settle();
    assert_eq!(group.roles(), [RoleName::Leader, RoleName::Follower, RoleName::Follower]);
    assert_eq!(group.terms(), [2, 2, 2]);
    assert_eq!(group.member(3).raft.leader(), Some(NodeId(1)));
    assert_eq!(group.member(3).raft.voted_for(), Some(NodeId(3)), "for the whole term");
}

/// Thesis §9.6: of two who ask at once, the one with the shorter log is told no, and no term is spent.
#[test]
fn duelling_pre_candidates_spend_no_term() {
    let disks = [&[1, 1][..], &[1, 1], &[1]].map(|terms| Image::with_log(1, terms));
    let mut group = Group::on_disks(disks.to_vec()).with_manual_timers();
    group.time_out(3);
    group.time_out(1);
    assert_eq!(
        (group.roles()[0], group.roles()[2]),
        (RoleName::PreCandidate, RoleName::PreCandidate)
    );
    group.settle();
    assert_eq!((group.leader(), group.terms()), (Some(1), vec![2, 2, 2]));
}

/// §5.2: whoever adopts the candidate's term may vote for it, whatever it was. Deviates for a leader,
/// which hears itself (thesis §4.2.3) and ignores the request.
#[test]
fn a_vote_is_given_from_every_role_but_a_leaders() {
    for role in ROLES {
        let mut solo = Solo::in_role(role, 3, 2, &[1]);
        // Its log must be as good as that of a leader, which has the first entry of its term too.
        let answer = solo.ask(2, vote_request(3, position(2, 2)));
        if role == RoleName::Leader {
            assert_eq!(answer, []);
        } else {
            assert_eq!(answer, [(2, vote_response(3, true))], "{role:?}");
            assert_eq!(solo.standing(), (RoleName::Follower, 3, Some(2)));
        }
        let mut solo = Solo::in_role(role, 3, 2, &[1]);
        let answer = solo.ask(2, pre_vote_request(3, position(2, 2)));
        let expected = if role == RoleName::Leader {
            pre_vote_response(2, false)
        } else {
            pre_vote_response(3, true)
        };
        assert_eq!(answer, [(2, expected)], "{role:?}");
    }
}

/// §5.2: a candidate concedes to the leader of its term and takes the leader's log for its own.
#[test]
fn a_candidate_concedes_and_takes_the_winners_log() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    // Member 3 is cut off, and two rounds of promises from a confused network make it a candidate.
    let term = group.member(1).raft.term().0;
    group.time_out(3);
    group.network.clear();
    group.say(2, 3, pre_vote_response(term + 1, true));
    group.network.clear();
    assert_eq!(group.member(3).raft.role(), RoleName::Candidate);
    // Meanwhile 1 is elected again, in the candidate's own term.
    group.crash(1, 9);
    group.elect_among(1, &[1, 2]);
    group.settle_among(&[1, 2]);
    assert_eq!(group.member(1).raft.term(), group.member(3).raft.term());
    group.propose(1);
    group.settle();
    group.time_out(1);
    group.settle();
    let (loser, winner) = (group.log(3), group.log(1));
    assert_eq!(group.member(3).raft.role(), RoleName::Follower);
    assert_eq!(group.member(3).raft.leader(), Some(NodeId(1)));
    assert_eq!((loser, group.member(3).raft.commit_index().0), (winner, 3));
}

/// §5.2: every member can lead, one after the other, and each learns the log of the one before.
#[test]
fn leadership_can_pass_through_every_member() {
    let mut group = Group::new(5).with_manual_timers();
    for round in 1..=2 {
        for node in 1..=5 {
            group.elect(node);
            assert_eq!(group.leader(), Some(node));
            assert_eq!(group.member(node).raft.commit_index().0, (round - 1) * 5 + node);
        }
    }
    assert!(group.log(1).is_sorted());
}

/// §5.4.1 and §5.3: of divided logs the one with the newest entry wins, and its leader replaces what
/// the others have instead.
#[test]
fn the_newest_log_wins_and_replaces_the_others() {
    let logs: [(u64, &[u64]); 5] = [(1, &[1]), (1, &[1]), (2, &[2]), (2, &[]), (2, &[])];
    let disks = logs.iter().map(|(term, log)| Image::with_log(*term, log)).collect();
    let mut group = Group::on_disks(disks).with_manual_timers();
    // Members 4 and 5 voted for 3 in term 2 and never heard of its entry.
    group.time_out(1);
    group.settle();
    assert_eq!(group.leader(), None, "only 2 promises; the others are in term 2 already");
    group.elect(3);
    assert_eq!(group.leader(), Some(3));
    for node in 1..=5 {
        assert_eq!(group.log(node), [2, group.member(3).raft.term().0]);
    }
}

/// §5.2 and thesis §9.6: one whose term lags behind learns the others' by asking, and then wins.
#[test]
fn a_member_of_a_smaller_term_can_complete_an_election() {
    let disks = [(2, vec![2]), (8, vec![1]), (5, vec![1])];
    let disks = disks.iter().map(|(term, log)| Image::with_log(*term, log)).collect();
    let mut group = Group::on_disks(disks).with_manual_timers();
    for _ in 0..3 {
        group.time_out(1);
        group.settle();
    }
    assert_eq!(group.leader(), Some(1));
    assert_eq!(group.log(2), [2, 9]);
}

/// §5.2: the vote for oneself in an election that is lost or given up does not count in a later one,
/// however late it becomes durable.
#[test]
fn a_vote_for_oneself_after_a_lost_election_does_not_count() {
    for ending in [vote_response(3, false), append(2, position(0, 0), 0, Vec::new())] {
        let mut solo = Solo::in_role(RoleName::PreCandidate, 3, 1, &[]);
        solo.is_disk_slow = true;
        solo.hear(2, pre_vote_response(2, true));
        solo.hear(2, vote_response(2, true));
        assert_eq!(solo.raft.role(), RoleName::Candidate, "its own vote is not durable");
        solo.hear(3, ending);
        assert_eq!(solo.raft.role(), RoleName::Follower);
        solo.flush(9);
        assert_eq!(solo.raft.role(), RoleName::Follower);
    }
    // The same when the next election is its own: only the vote of that one counts.
    let mut solo = Solo::in_role(RoleName::PreCandidate, 3, 1, &[]);
    solo.is_disk_slow = true;
    solo.hear(2, pre_vote_response(2, true));
    solo.time_out();
    solo.hear(2, pre_vote_response(3, true));
    solo.hear(2, vote_response(3, true));
    solo.flush(1);
    assert_eq!(solo.standing(), (RoleName::Candidate, 3, Some(1)), "term 2 is durable, not 3");
    solo.flush(1);
    assert_eq!(solo.standing(), (RoleName::Leader, 3, Some(1)));
}

/// §5.2: a vote of an earlier term, or a promise of an earlier attempt, does not count in this one.
#[test]
fn a_late_vote_does_not_count_in_a_later_election() {
    let mut solo = Solo::in_role(RoleName::Candidate, 3, 4, &[]);
    solo.hear(2, vote_response(3, true));
    assert_eq!(solo.raft.role(), RoleName::Candidate);
    let mut solo = Solo::in_role(RoleName::PreCandidate, 3, 4, &[]);
    solo.hear(2, pre_vote_response(4, true));
    assert_eq!(solo.raft.role(), RoleName::PreCandidate);
}

/// §5.2: a leader has no election timeout.
#[test]
fn a_leader_never_campaigns() {
    let mut group = Group::new(3).with_manual_timers();
    group.elect(1);
    for _ in 0..100 {
        group.time_out(1);
        assert!(group.network.iter().all(|packet| append_of(&packet.message).is_some()));
        group.settle();
    }
    assert_eq!((group.leader(), group.member(1).raft.term().0), (Some(1), 1));
}

/// §5.2: a follower that hears its leader does not campaign; entries count as heartbeats.
#[test]
fn every_append_puts_the_next_election_off() {
    let mut solo = Solo::new(3);
    for index in 1..40_u64 {
        solo.wait(60);
        let previous = position(u64::from(index > 1), index - 1);
        solo.hear(2, append(1, previous, 0, records(index, &[1])));
        assert_eq!(solo.raft.role(), RoleName::Follower);
        assert!(solo.raft.next_deadline().since(solo.now) >= Micros::from_millis(TIMEOUT_MS));
    }
}
