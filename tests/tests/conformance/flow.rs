//! Flow control: how much goes out to a follower ahead of its answers, and how much clients may ask of
//! a leader (thesis §10.2.1; no section on the bounds themselves).

use engine::api::{Bounded, Rejection, Request, Response};
use engine::ids::NodeId;
use engine::limits::Limits;
use engine::raft::{FlowStatus, RoleName, Settings};
use tests::front::Front;
use tests::group::settings;
use tests::messages::{append, append_of, matched, position, rejected};
use tests::solo::Solo;

/// The window of the tests' settings, in entries.
const WINDOW: u64 = 4;

fn flow(solo: &Solo, follower: usize) -> FlowStatus {
    solo.raft.followers()[follower - 2].flow
}

/// Row: progress probe and replicate. A follower begins in probe; a match makes it replicate, and a
/// refusal of what was sent makes it probe again.
#[test]
fn a_match_starts_the_flow_of_entries_and_a_refusal_stops_it() {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 2, &[1]);
    assert_eq!(flow(&solo, 2), FlowStatus::Probe);
    solo.hear(2, matched(2, 1));
    assert_eq!((flow(&solo, 2), flow(&solo, 3)), (FlowStatus::Replicate, FlowStatus::Probe));
    let answer = solo.ask(2, rejected(2, 2, position(1, 1)));
    assert_eq!(flow(&solo, 2), FlowStatus::Probe);
    assert_eq!(append_of(&answer[0].1), Some((position(1, 1), 0, vec![])), "it asks at once");
}

/// Row: progress probe. While nothing is known of a follower's log, it gets one empty append for each
/// heartbeat, however much there is to send.
#[test]
fn a_probed_follower_costs_one_empty_append_a_heartbeat() {
    let mut solo = Solo::in_role(RoleName::Leader, 3, 2, &[1]);
    for _ in 0..5 {
        solo.sent.clear();
        solo.propose();
        solo.propose();
        assert_eq!(solo.sent, []);
        solo.time_out();
        let sent: Vec<_> = solo.sent.iter().map(|(to, m)| (*to, append_of(m))).collect();
        let probe = Some((position(1, 1), 0, vec![]));
        assert_eq!(sent, [(2, probe.clone()), (3, probe)]);
    }
}

/// Row: in-flight window by count. No more entries are under way than the window has room for; an
/// answer makes room for as many as it acknowledges, and one that says nothing new makes none.
#[test]
fn the_window_bounds_the_entries_under_way_and_slides() {
    let mut solo = Solo::replicating(3, 1, &[]);
    for _ in 0..10 {
        solo.propose();
    }
    assert_eq!(solo.entries_sent_to(2), [[2], [3], [4], [5]], "{WINDOW} entries");
    let sent = |solo: &mut Solo, acknowledged| {
        solo.sent.clear();
        solo.hear(2, matched(1, acknowledged));
        solo.entries_sent_to(2).concat()
    };
    assert_eq!(sent(&mut solo, 1), [0; 0], "nothing new");
    assert_eq!(sent(&mut solo, 2), [6]);
    assert_eq!(sent(&mut solo, 2), [0; 0], "the same again");
    assert_eq!(sent(&mut solo, 5), [7, 8, 9]);
    assert_eq!(sent(&mut solo, 4), [0; 0], "overtaken by a later one");
    assert_eq!(sent(&mut solo, 9), [10, 11]);
    assert_eq!(sent(&mut solo, 11), [0; 0]);
    solo.sent.clear();
    solo.propose();
    assert_eq!(solo.entries_sent_to(2), [[12]], "free again");
}

/// Row: in-flight window. One follower that does not answer holds up nobody else.
#[test]
fn a_full_window_holds_up_its_own_follower_only() {
    let mut solo = Solo::replicating(3, 1, &[]);
    for index in 2..20 {
        solo.propose();
        solo.hear(3, matched(1, index));
        assert_eq!(solo.commit(), index);
    }
    assert_eq!(solo.entries_sent_to(2).concat().len() as u64, WINDOW);
    assert_eq!(solo.entries_sent_to(3).concat(), Vec::from_iter(2..20));
}

/// Row: in-flight window. If the answers are lost, a heartbeat's answer opens the window.
#[test]
fn a_heartbeats_answer_opens_a_full_window() {
    let mut solo = Solo::replicating(3, 1, &[]);
    for _ in 0..6 {
        solo.propose();
    }
    solo.sent.clear();
    solo.time_out();
    assert_eq!(append_of(&solo.sent[0].1), Some((position(1, 5), 1, vec![])));
    solo.hear(2, matched(1, 5));
    assert_eq!(solo.entries_sent_to(2), [[6, 7]]);
}

fn narrow_settings(inflight_bytes_max: usize) -> Settings {
    let limits = Limits { inflight_bytes_max, ..Limits::default() };
    Settings { limits, ..settings(1, 3, 1) }
}

/// Row: in-flight window by bytes. Nothing further is sent while as many bytes are under way as may be;
/// the last message may exceed the bound, so that any entry gets through.
#[test]
fn the_window_bounds_the_bytes_under_way() {
    let mut solo = Solo::leader(narrow_settings(1_000), 3);
    solo.hear(2, matched(1, 1));
    for _ in 0..10 {
        solo.propose_sized(300);
    }
    assert_eq!(solo.entries_sent_to(2), [[2], [3], [4]], "three of 300 and more");
    let sent = |solo: &mut Solo, acknowledged| {
        solo.sent.clear();
        solo.hear(2, matched(1, acknowledged));
        solo.entries_sent_to(2)
    };
    assert_eq!(sent(&mut solo, 2), [[5, 6]], "two were under way, and a message has room for two");
    assert_eq!(sent(&mut solo, 3), [[0; 0]; 0], "three are");
    assert_eq!(sent(&mut solo, 6), [[7, 8], [9, 10]]);
    assert_eq!(sent(&mut solo, 10), [[11]]);
    // An entry that is larger than the whole window goes out alone.
    let mut solo = Solo::leader(narrow_settings(1_000), 3);
    solo.hear(2, matched(1, 1));
    solo.propose_sized(5_000);
    solo.propose_sized(1);
    assert_eq!(solo.entries_sent_to(2), [[2]]);
    solo.hear(2, matched(1, 2));
    assert_eq!(solo.entries_sent_to(2), [[2], [3]]);
}

/// Row: in-flight window. What was under way when a refusal came is not waited for.
#[test]
fn a_refusal_forgets_what_was_under_way() {
    let mut solo = Solo::replicating(3, 1, &[]);
    for _ in 0..6 {
        solo.propose();
    }
    solo.sent.clear();
    solo.hear(2, rejected(1, 4, position(1, 2)));
    solo.hear(2, matched(1, 2));
    assert_eq!(solo.entries_sent_to(2), [[3, 4, 5, 6]], "the whole window is free");
}

/// Row: uncommitted size limit. A leader takes no more than so many bytes that are not committed, says
/// so, and takes on as soon as they are.
#[test]
fn a_leader_refuses_what_exceeds_the_uncommitted_bytes_it_may_have() {
    let limits = Limits { uncommitted_bytes_max: 320, ..Limits::default() };
    let mut front = Front::leading(3, limits);
    // Each block has 28 bytes and 4 of length.
    for token in 0..10 {
        assert_eq!(front.propose(token), None, "{token}");
    }
    let full = Rejection::Full { what: Bounded::UncommittedBytes, used: 320, max: 320 };
    for token in 10..20 {
        assert_eq!(front.propose(token), Some(Response::Rejected(full.clone())));
    }
    front.acknowledge_all();
    assert_eq!(front.propose(20), None);
    front.acknowledge_all();
    for token in (0..10).chain([20]) {
        let answer = front.answer(token);
        assert!(matches!(answer, Some(Response::SessionOpened(_))), "{token}: {answer:?}");
    }
}

/// Row: a bounded log under partition. A leader that is cut off takes no more than the bound, and gives
/// the rest back when it steps down, each token with an answer.
#[test]
fn the_log_of_a_leader_that_is_cut_off_is_bounded() {
    let limits = Limits { uncommitted_bytes_max: 1_000, ..Limits::default() };
    let mut front = Front::leading(3, limits);
    let began = front.engine.raft().last_index().0;
    let (mut token, mut refused) = (0, 0);
    while front.engine.raft().is_leader() {
        for _ in 0..100 {
            token += 1;
            refused += u64::from(front.propose(token).is_some());
        }
        front.wait(10);
    }
    let taken = 1_000 / 32 + 1;
    assert!(token >= 1_000);
    assert!(front.engine.raft().last_index().0 - began <= taken);
    assert_eq!(refused, token - taken);
    assert_eq!(front.answers.len() as u64, taken);
    assert!(front.answers.iter().all(|(_, r)| *r == Response::Unknown { leader: None }));
}

/// Row: uncommitted size limit, for requests that have no bytes in the log: they are counted.
#[test]
fn a_leader_refuses_more_requests_than_may_wait() {
    let limits = Limits { waiting_requests_max: 3, ..Limits::default() };
    let mut front = Front::leading(3, limits);
    for token in 0..3 {
        assert_eq!(front.propose(token), None);
    }
    let full = Rejection::Full { what: Bounded::WaitingRequests, used: 3, max: 3 };
    assert_eq!(front.propose(3), Some(Response::Rejected(full)));
    front.acknowledge_all();
    assert_eq!(front.propose(4), None);
}

/// Row: rejection with a hint. Whoever does not lead refuses, and names the leader if it knows one.
#[test]
fn whoever_does_not_lead_names_the_leader() {
    let mut front = Front::new(3, Limits::default());
    let refused = |leader| Some(Response::Rejected(Rejection::NotLeader { leader }));
    assert_eq!(front.propose(1), refused(None));
    front.hear(3, append(1, position(0, 0), 0, Vec::new()));
    assert_eq!(front.propose(2), refused(Some(NodeId(3))));
    assert_eq!(front.ask(3, Request::Query(bytes::Bytes::new())), refused(Some(NodeId(3))));
    front.hear(2, append(2, position(0, 0), 0, Vec::new()));
    assert_eq!(front.propose(4), refused(Some(NodeId(2))));
    // While it campaigns nobody leads.
    let deadline = front.engine.next_deadline().expect("an election");
    front.wait_until(deadline);
    assert_eq!(front.propose(5), refused(None));
}

/// Row: rejection with a hint. What a deposed leader had not appended was not proposed, and what it
/// had may yet be committed: its clients are told which.
#[test]
fn a_deposed_leader_tells_refused_and_unknown_apart() {
    let mut front = Front::leading(3, Limits::default());
    assert_eq!(front.propose(1), None);
    front.hear(3, append(2, position(0, 0), 0, Vec::new()));
    assert_eq!(front.answer(1), Some(Response::Unknown { leader: Some(NodeId(3)) }));
    let refused = Response::Rejected(Rejection::NotLeader { leader: Some(NodeId(3)) });
    assert_eq!(front.propose(2), Some(refused));
}
