//! Raft on its public door: the cases that the paper names, and random schedules of everything that
//! can happen to a group.

use engine::api::Token;
use engine::ids::{LogIndex, NodeId, Term};
use engine::raft::{
    AppendOutcome, Body, Change, ChangeRequest, Leave, LogPosition, Message, RoleName,
};
use proptest::prelude::*;
use tests::group::{self, Group};
use tests::image::record;

/// A group in which member 1 leads in its first term and nothing is under way.
fn led_by_one(members: u64) -> Group {
    let mut group = Group::new(members);
    group.elect(1);
    group
}

#[test]
fn a_single_member_elects_itself_and_commits_once_durable() {
    let mut group = Group::new(1);
    group.time_out(1);
    assert_eq!(group.member(1).raft.role(), RoleName::Candidate);
    group.flush(1, 1);
    assert_eq!(group.member(1).raft.role(), RoleName::Leader);
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(0));
    group.settle();
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(1));
}

#[test]
fn a_vote_is_not_sent_before_it_is_durable() {
    let mut group = Group::new(3);
    group.time_out(1);
    group.now = group.now + engine::time::Micros::from_millis(150);
    let request = Message {
        term: Term(1),
        body: Body::VoteRequest { last: LogPosition::default(), is_transfer: false },
    };
    group.network.clear();
    group.network.push(group::Packet { from: NodeId(1), to: NodeId(2), message: request });
    group.deliver(0);
    assert!(group.network.is_empty(), "the vote must wait for the disk");
    group.flush(2, 1);
    let granted = Body::VoteResponse { granted: true };
    assert_eq!(group.network[0].message, Message { term: Term(1), body: granted });
}

#[test]
fn a_vote_survives_a_crash_and_the_second_candidate_is_refused() {
    let mut group = Group::new(3);
    let request = |from| group::Packet {
        from: NodeId(from),
        to: NodeId(3),
        message: Message {
            term: Term(1),
            body: Body::VoteRequest { last: LogPosition::default(), is_transfer: false },
        },
    };
    group.network.push(request(1));
    group.deliver(0);
    group.flush(3, 1);
    group.network.clear();
    group.crash(3, 0);
    group.network.push(request(2));
    group.deliver(0);
    let refused = Body::VoteResponse { granted: false };
    assert_eq!(group.network[0].message, Message { term: Term(1), body: refused });
}

#[test]
fn stepping_down_in_the_same_term_keeps_the_vote() {
    let mut group = led_by_one(3);
    let term = group.member(1).raft.term();
    // The leader hears nobody for longer than an election timeout.
    group.now = group.now + engine::time::Micros::from_millis(200);
    group.turn(1);
    let raft = &group.member(1).raft;
    assert_eq!((raft.role(), raft.term()), (RoleName::Follower, term));
    assert_eq!(raft.voted_for(), Some(NodeId(1)));
}

#[test]
fn an_acknowledgement_waits_for_the_followers_disk() {
    let mut group = led_by_one(3);
    group.propose(1);
    group.drop_packets_of(3);
    group.deliver(0);
    let acknowledged = |group: &Group, index| {
        group.network.iter().any(|packet| {
            matches!(packet.message.body, Body::AppendResponse {
                outcome: AppendOutcome::Matched { match_index }, .. } if match_index.0 >= index)
        })
    };
    assert!(!acknowledged(&group, 2));
    // What a heartbeat is answered with does not run ahead of the disk either.
    group.time_out(1);
    group.drop_packets_of(3);
    while let Some(to_two) = group.network.iter().position(|packet| packet.to.0 == 2) {
        group.deliver(to_two);
    }
    assert!(acknowledged(&group, 1) && !acknowledged(&group, 2));
    group.flush(2, 1);
    assert!(acknowledged(&group, 2));
}

#[test]
fn a_leader_commits_by_its_followers_while_its_own_disk_is_slow() {
    let mut group = led_by_one(3);
    group.propose(1);
    while !group.network.is_empty() {
        group.deliver(0);
        group.flush(2, 9);
        group.flush(3, 9);
    }
    assert!(group.member(1).raft.durable_index() < LogIndex(2));
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(2));
}

#[test]
fn a_late_completion_never_vouches_for_entries_that_replaced_the_flushed_ones() {
    let mut group = Group::new(3);
    let append = |from, term, records| group::Packet {
        from: NodeId(from),
        to: NodeId(3),
        message: Message {
            term: Term(term),
            body: Body::Append {
                previous: LogPosition::default(),
                commit: LogIndex(0),
                round: 0,
                records,
            },
        },
    };
    // Three entries of term 1 are on their way to the disk when a leader of term 2 replaces them.
    let old = vec![record(1, 1), record(2, 1), record(3, 1)];
    group.network.push(append(1, 1, old));
    group.deliver(0);
    let new = vec![record(1, 2), record(2, 2)];
    group.network.push(append(2, 2, new));
    group.deliver(0);
    group.flush(3, 1);
    assert_eq!(
        group.member(3).raft.durable_index(),
        LogIndex(0),
        "the old flush counts for nothing"
    );
    group.flush(3, 1);
    assert_eq!(group.member(3).raft.durable_index(), LogIndex(2));
}

#[test]
fn an_entry_of_an_older_term_is_not_committed_by_counting() {
    // Figure 8, (a) to (c): an entry of term 2 reaches a majority in term 4.
    let mut group = led_by_one(5);
    group.propose(1);
    let to_two = group.network.iter().position(|packet| packet.to.0 == 2).expect("sent to all");
    group.deliver(to_two);
    group.flush(1, 9);
    group.flush(2, 9);
    group.network.clear();
    group.now = group.now + engine::time::Micros::from_millis(300);
    group.crash(1, 9);
    group.elect_among(2, &[1, 2, 3]);
    let raft = &group.member(2).raft;
    let old = raft.term_at(LogIndex(2)).expect("it has the old entry");
    assert!(old < raft.term());
    // It replicates the old entry to a quorum, and not yet its own: nothing is committed by that.
    for follower in [1, 3, 4] {
        let outcome = AppendOutcome::Matched { match_index: LogIndex(2) };
        group.answer_append(follower, 2, outcome);
    }
    let matched = group.member(2).raft.followers();
    assert_eq!(matched.iter().filter(|f| f.match_index == LogIndex(2)).count(), 3);
    assert!(group.member(2).raft.commit_index() < LogIndex(2));
    group.settle();
    assert!(group.member(2).raft.commit_index() >= LogIndex(3));
}

#[test]
fn a_follower_commits_only_what_the_append_validated() {
    let mut group = Group::new(3);
    let append = |from, term, previous: LogPosition, commit, records| group::Packet {
        from: NodeId(from),
        to: NodeId(2),
        message: Message {
            term: Term(term),
            body: Body::Append { previous, commit: LogIndex(commit), round: 0, records },
        },
    };
    let entries = vec![record(1, 1), record(2, 1)];
    group.network.push(append(1, 1, LogPosition::default(), 0, entries));
    group.deliver(0);
    // The leader of term 2 has committed two entries, and only its first is known to be ours.
    let first = LogPosition { term: Term(1), index: LogIndex(1) };
    group.network.push(append(3, 2, first, 2, Vec::new()));
    group.deliver(0);
    assert_eq!(group.member(2).raft.commit_index(), LogIndex(1));
}

#[test]
fn a_read_waits_for_a_round_that_began_after_it() {
    let mut group = led_by_one(3);
    group.member(1).raft.read(Token(1));
    group.turn(1);
    // Answers to the first round may not confirm a read that comes in now.
    let first_round: Vec<_> = group.network.drain(..).collect();
    group.member(1).raft.read(Token(2));
    group.turn(1);
    group.network.clear();
    group.network.extend(first_round);
    let to_two = group.network.iter().position(|packet| packet.to.0 == 2).expect("sent to all");
    group.deliver(to_two);
    let answer = group.network.iter().position(|packet| packet.to.0 == 1).expect("answered");
    group.duplicate(answer);
    group.deliver(answer);
    let reads = |group: &mut Group| -> Vec<u64> {
        group.member(1).reads.iter().map(|(token, _)| *token).collect()
    };
    assert_eq!(reads(&mut group), [1]);
    let again = group.network.iter().rposition(|packet| packet.to.0 == 1).expect("the duplicate");
    group.deliver(again);
    assert_eq!(reads(&mut group), [1], "a repeated answer of the old round confirms nothing new");
    group.settle();
    assert_eq!(reads(&mut group), [1, 2]);
}

#[test]
fn a_new_leader_takes_no_read_before_its_first_commit() {
    let mut group = Group::new(3);
    group.elect_among(1, &[1, 2, 3]);
    group.member(1).raft.read(Token(5));
    group.turn(1);
    // All messages arrive and are answered, but no follower's disk has the first entry yet.
    while !group.network.is_empty() {
        group.deliver(0);
    }
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(0));
    assert!(group.member(1).reads.is_empty());
    group.settle();
    group.time_out(1);
    group.settle();
    assert_eq!(group.member(1).reads.len(), 1);
}

#[test]
fn a_rejection_at_the_end_of_all_numbers_is_ignored() {
    let mut group = Group::new(3);
    group.elect_among(1, &[1, 2, 3]);
    let hint = LogPosition::default();
    let outcome = AppendOutcome::Rejected { previous_index: LogIndex(u64::MAX), hint };
    group.answer_append(2, 1, outcome);
    group.settle();
    assert_eq!(group.member(1).raft.commit_index(), LogIndex(1));
}

#[test]
fn what_waits_for_a_stalled_disk_does_not_pile_up() {
    let mut group = led_by_one(3);
    // Member 3 learns of a new term, and its disk stands still from then on.
    let message = Message { term: Term(9), body: Body::VoteResponse { granted: false } };
    group.network.push(group::Packet { from: NodeId(2), to: NodeId(3), message });
    group.deliver(0);
    let heartbeat = |term| Message {
        term: Term(term),
        body: Body::Append {
            previous: LogPosition::default(),
            commit: LogIndex(0),
            round: 0,
            records: Vec::new(),
        },
    };
    for _ in 0..1_000 {
        for term in [1, 9] {
            let (from, message) = (NodeId(if term == 9 { 2 } else { 1 }), heartbeat(term));
            group.network.push(group::Packet { from, to: NodeId(3), message });
            group.deliver(0);
        }
        assert!(group.network.is_empty(), "the answer rests on the term");
    }
    group.flush(3, 9);
    assert_eq!(group.network.len(), 2, "the latest answer to each, and no other");
    assert_eq!(group.network[0].to, NodeId(1));
    assert_eq!(group.network[1].to, NodeId(2));
}

#[test]
fn a_member_that_was_cut_off_does_not_raise_the_term_when_it_is_back() {
    let mut group = led_by_one(3);
    let term = group.member(1).raft.term();
    for _ in 0..50 {
        group.turn(3);
        group.time_out(1);
        group.settle_among(&[1, 2]);
    }
    assert_eq!(group.member(3).raft.role(), RoleName::PreCandidate);
    // Its log is as good as any, and yet whoever hears the leader refuses it.
    let last = LogPosition { term, index: group.member(3).raft.last_index() };
    let message = Message { term: term.next(), body: Body::PreVoteRequest { last } };
    group.network.push(group::Packet { from: NodeId(3), to: NodeId(2), message });
    group.deliver(0);
    let refused = Message { term, body: Body::PreVoteResponse { granted: false } };
    assert_eq!(group.network[0].message, refused);
    group.time_out(1);
    group.settle();
    assert_eq!((group.leader(), group.member(1).raft.term()), (Some(1), term));
    assert_eq!(group.member(3).raft.term(), term);
}

#[test]
fn a_long_log_in_a_low_term_is_elected_over_a_short_log_in_a_high_term() {
    for terms_ahead in [1, 8] {
        let mut group = led_by_one(3);
        group.propose(1);
        group.drop_packets_of(3);
        group.settle();
        // Member 3 missed an entry but learned of a higher term.
        let high = Term(group.member(1).raft.term().0 + terms_ahead);
        let message = Message { term: high, body: Body::VoteResponse { granted: false } };
        group.network.push(group::Packet { from: NodeId(2), to: NodeId(3), message });
        group.deliver(0);
        group.settle();
        group.crash(1, 9);
        for _ in 0..20 {
            group.now = group.now + engine::time::Micros::from_millis(200);
            group.time_out(2);
            group.settle_among(&[2, 3]);
            if group.leader() == Some(2) {
                break;
            }
        }
        assert_eq!(group.leader(), Some(2), "{terms_ahead} terms ahead");
        assert!(group.member(2).raft.term() > high);
    }
}

#[test]
fn a_fetched_entry_that_the_log_has_replaced_is_not_sent() {
    let mut group = led_by_one(3);
    group.propose(1);
    group.settle();
    group.crash(1, 9);
    group.elect(1);
    let (next, term) = (group.member(1).raft.next_index(), group.member(1).raft.term());
    let stale = record(next.0, term.previous().0);
    let mut out = Vec::new();
    group.member(1).raft.on_fetched(NodeId(2), vec![stale], &mut out);
    assert_eq!(out, []);
    group.member(1).raft.check_invariants();
}

/// One thing that can happen.
#[derive(Clone, Debug)]
enum Step {
    Deliver(prop::sample::Index),
    Drop(prop::sample::Index),
    Duplicate(prop::sample::Index),
    TimeOut(u64),
    Propose(u64),
    Flush(u64, usize),
    Crash(u64, usize),
    Read(u64),
    Snapshot(u64),
    Transfer(u64, u64),
    Join,
    Change(u64, ChangeRequest),
}

/// A change of one or two steps, legal or not.
fn change(members: u64) -> impl Strategy<Value = ChangeRequest> {
    let node = move || (1..=members).prop_map(NodeId);
    let step = prop_oneof![
        1 => any::<bool>().prop_map(|is_joining| {
            engine::raft::Step::Add { address: String::new(), claim: None, is_joining }
        }),
        1 => node().prop_map(engine::raft::Step::Promote),
        1 => node().prop_map(engine::raft::Step::Demote),
        1 => node().prop_map(engine::raft::Step::Remove),
    ];
    let leave = prop_oneof![Just(Leave::Automatic), Just(Leave::Explicit)];
    prop_oneof![
        6 => (prop::collection::vec(step, 1..3), leave)
            .prop_map(|(steps, leave)| ChangeRequest::Change(Change { steps, leave })),
        1 => Just(ChangeRequest::Leave),
        1 => Just(ChangeRequest::Cancel),
    ]
}

fn step(members: u64) -> impl Strategy<Value = Step> {
    let node = move || 1..=members;
    prop_oneof![
        12 => any::<prop::sample::Index>().prop_map(Step::Deliver),
        2 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => any::<prop::sample::Index>().prop_map(Step::Duplicate),
        2 => node().prop_map(Step::TimeOut),
        2 => node().prop_map(Step::Propose),
        6 => (node(), 1..4_usize).prop_map(|(node, count)| Step::Flush(node, count)),
        1 => (node(), 0..4_usize).prop_map(|(node, kept)| Step::Crash(node, kept)),
        1 => node().prop_map(Step::Read),
        1 => node().prop_map(Step::Snapshot),
        1 => (node(), node()).prop_map(|(node, to)| Step::Transfer(node, to)),
        1 => Just(Step::Join),
        2 => (node(), change(members)).prop_map(|(node, change)| Step::Change(node, change)),
    ]
}

fn perform(group: &mut Group, step: &Step, token: u64) {
    let packets = group.network.len();
    match step {
        Step::Deliver(at) if packets > 0 => group.deliver(at.index(packets)),
        Step::Drop(at) if packets > 0 => drop(group.network.remove(at.index(packets))),
        Step::Duplicate(at) if packets > 0 => group.duplicate(at.index(packets)),
        Step::Deliver(_) | Step::Drop(_) | Step::Duplicate(_) => {}
        Step::TimeOut(node) => group.time_out(*node),
        Step::Propose(node) => group.propose(*node),
        Step::Flush(node, count) => group.flush(*node, *count),
        Step::Crash(node, kept) => group.crash(*node, *kept),
        Step::Read(node) => group.read(*node, token),
        Step::Snapshot(node) => group.snapshot(*node, 150),
        // A node starts; whether its id is given out is another matter.
        Step::Join if group.members.len() < 7 => drop(group.join()),
        Step::Join => {}
        Step::Change(node, change) => {
            if group.member(*node).raft.is_leader() {
                let _ = group.change(*node, change);
            }
        }
        Step::Transfer(node, to) => {
            // Whether it can be, and comes about, is for the leader and the schedule to decide.
            if group.member(*node).raft.is_leader() {
                let _ = group.transfer(*node, Some(*to));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Election safety, leader completeness and state machine safety hold after every step, reads see
    /// all that was committed before them, and once the faults end the group elects a leader and
    /// agrees.
    #[test]
    fn safety_holds_under_every_schedule_and_progress_returns(
        members in 1..=5_u64,
        steps in prop::collection::vec(step(7), 1..600),
    ) {
        let mut group = Group::new(members);
        for (token, step) in steps.iter().enumerate() {
            let is_present = |node: u64| node <= group.members.len() as u64;
            let concerns = match step {
                Step::TimeOut(n)
                | Step::Propose(n)
                | Step::Flush(n, _)
                | Step::Crash(n, _)
                | Step::Read(n)
                | Step::Snapshot(n)
                | Step::Transfer(n, _)
                | Step::Change(n, _) => is_present(*n),
                Step::Deliver(_) | Step::Drop(_) | Step::Duplicate(_) | Step::Join => true,
            };
            if concerns {
                perform(&mut group, step, token as u64);
            }
        }
        heal(&mut group);
    }
}

/// Nothing is lost any more: whoever is due first acts, and all answers arrive.
fn heal(group: &mut Group) {
    group.settle();
    let count = group.members.len() as u64;
    for _ in 0..200 {
        let due = (1..=count).min_by_key(|node| group.member(*node).raft.next_deadline());
        group.time_out(due.expect("there are members"));
        group.settle();
    }
    let leader = group.leader().expect("a leader is elected once nothing fails");
    group.propose(leader);
    group.settle();
    for _ in 0..3 {
        group.time_out(leader);
        group.settle();
    }
    let raft = &group.member(leader).raft;
    let (last, membership) = (raft.last_index(), raft.membership().clone());
    for member in membership.members() {
        // Ids may have been given to nodes that never started.
        if member.node.0 <= group.members.len() as u64 {
            let commit = group.member(member.node.0).raft.commit_index();
            assert_eq!(commit, last, "member {} has caught up", member.node);
        }
    }
}
