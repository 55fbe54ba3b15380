//! Terms (§5.1).

use super::ROLES;
use engine::ids::Term;
use engine::raft::{Message, RoleName};
use tests::messages::{
    append, matched, position, pre_vote_request, pre_vote_response, rejected, stale_term,
    vote_request, vote_response,
};
use tests::solo::Solo;

/// Messages of `term` that bind whoever hears them to the term.
fn binding(term: u64) -> Vec<Message> {
    vec![
        append(term, position(0, 0), 0, Vec::new()),
        matched(term, 0),
        rejected(term, 0, position(0, 0)),
        vote_response(term, true),
        vote_response(term, false),
        pre_vote_response(term, false),
    ]
}

/// §5.1: "if one server's current term is smaller than the other's, then it updates its current term
/// to the larger value" (Terms: follower, candidate and leader adopt a higher term).
#[test]
fn every_role_adopts_a_higher_term_and_follows() {
    for role in ROLES {
        for message in binding(9) {
            let mut solo = Solo::in_role(role, 3, 2, &[1, 1]);
            solo.hear(2, message.clone());
            assert_eq!(solo.standing(), (RoleName::Follower, 9, None), "{role:?}, {message:?}");
            assert_eq!(solo.durable().term, Term(9));
        }
    }
}

/// Thesis §4.2.3: a leader hears itself, so a request for votes does not depose it; all others adopt
/// the candidate's term (Terms: adopt a higher term).
#[test]
fn a_vote_request_raises_the_term_of_all_but_a_leader() {
    for role in ROLES {
        let mut solo = Solo::in_role(role, 3, 2, &[1]);
        solo.hear(2, vote_request(9, position(8, 8)));
        let expected = match role {
            RoleName::Leader => (RoleName::Leader, 2, Some(1)),
            RoleName::Follower | RoleName::PreCandidate | RoleName::Candidate => {
                (RoleName::Follower, 9, Some(2))
            }
        };
        assert_eq!(solo.standing(), expected, "{role:?}");
    }
}

/// Thesis §9.6: "a server only increments its term if it first learns from a majority ... that they
/// would be willing to grant"; being asked or promised commits nobody to the term.
#[test]
fn pre_votes_raise_nobodys_term() {
    for role in ROLES {
        for message in [pre_vote_request(9, position(8, 8)), pre_vote_response(9, true)] {
            let mut solo = Solo::in_role(role, 3, 2, &[1]);
            let before = solo.standing();
            solo.hear(2, message.clone());
            assert_eq!(solo.standing(), before, "{role:?}, {message:?}");
        }
    }
}

/// §5.1: "if a server receives a request with a stale term number, it rejects the request" (Terms:
/// stale-term messages are rejected).
#[test]
fn a_message_of_a_stale_term_changes_nothing() {
    for role in ROLES {
        let mut messages = binding(2);
        messages.push(append(2, position(1, 1), 2, tests::image::records(2, &[2, 2])));
        messages.push(vote_request(2, position(2, 8)));
        messages.push(pre_vote_request(2, position(2, 8)));
        messages.push(pre_vote_response(2, true));
        messages.push(matched(2, 3));
        for message in messages {
            let mut solo = Solo::in_role(role, 3, 3, &[1, 1]);
            let (before, deadline) = (solo.standing(), solo.raft.next_deadline());
            let (log, commit) = (solo.log(), solo.commit());
            solo.hear(2, message.clone());
            assert_eq!(solo.standing(), before, "{role:?}, {message:?}");
            assert_eq!((solo.log(), solo.commit()), (log, commit), "{role:?}, {message:?}");
            // Whoever lags behind does not put off an election either.
            assert_eq!(solo.raft.next_deadline(), deadline, "{role:?}, {message:?}");
        }
    }
}

/// §5.1: the answer to a request of an old term carries the new one, so that a deposed leader or a
/// late candidate learns of it; stale answers are not answered.
#[test]
fn whoever_asks_in_a_stale_term_is_told_the_new_one() {
    for role in ROLES {
        let cases = [
            (append(2, position(0, 0), 0, Vec::new()), stale_term(3)),
            (vote_request(2, position(2, 8)), vote_response(3, false)),
            (pre_vote_request(2, position(2, 8)), pre_vote_response(3, false)),
        ];
        for (request, answer) in cases {
            let mut solo = Solo::in_role(role, 3, 3, &[1]);
            assert_eq!(solo.ask(2, request), [(2, answer)], "{role:?}");
        }
        let mut solo = Solo::in_role(role, 3, 3, &[1]);
        for answer in [matched(2, 1), vote_response(2, true), pre_vote_response(2, false)] {
            assert_eq!(solo.ask(2, answer), [], "{role:?}");
        }
    }
}

/// Figure 2, "persistent state ... updated on stable storage before responding": nothing is said in a
/// new term before the term is durable, and everything once it is.
#[test]
fn a_new_term_is_durable_before_anything_is_said_in_it() {
    for request in [
        append(9, position(0, 0), 0, Vec::new()),
        append(9, position(7, 7), 0, Vec::new()),
        vote_request(9, position(8, 8)),
        vote_request(9, position(0, 0)),
    ] {
        let mut solo = Solo::with_log(3, 2, &[1]);
        solo.is_disk_slow = true;
        assert_eq!(solo.ask(2, request.clone()), [], "{request:?}");
        assert_eq!((solo.raft.term(), solo.durable().term), (Term(9), Term(2)));
        solo.flush(9);
        let terms: Vec<Term> = solo.sent.iter().map(|(_, message)| message.term).collect();
        assert_eq!(terms, [Term(9)], "{request:?}");
    }
}

/// No section: a term that no cluster can reach is damage, and believing it would end all elections.
#[test]
fn a_term_beyond_all_reach_is_not_believed() {
    for role in ROLES {
        for message in binding(u64::MAX) {
            let mut solo = Solo::in_role(role, 3, 2, &[1]);
            let before = solo.standing();
            solo.hear(2, message);
            assert_eq!(solo.standing(), before, "{role:?}");
        }
    }
}
