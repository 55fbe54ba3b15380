//! Sessions against a model that is too simple to be wrong: a list in the order of activity, each
//! with every reply ever given. Now and then the sessions are restored from their snapshot.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use engine::api::CommandError;
use engine::hlc::Hlc;
use engine::ids::{Sequence, SessionId};
use engine::limits::{self, Limits};
use engine::session::{Sessions, Verdict};
use engine::state_machine::RestoreError;
use proptest::prelude::*;
use std::collections::BTreeSet;

const IDLE_MILLIS_MAX: u64 = 30;
const SESSIONS_MAX: usize = 4;

fn limits() -> Limits {
    Limits { dedup_window_millis: IDLE_MILLIS_MAX, sessions_max: SESSIONS_MAX, ..Limits::default() }
}

#[derive(Debug)]
struct Known {
    id: u64,
    active_at: Hlc,
    /// The reply to sequence `i` is at `i - 1`.
    replies: Vec<u64>,
    forgotten_below: u64,
}

/// Idlest first.
#[derive(Default, Debug)]
struct Model {
    sessions: Vec<Known>,
    opened: u64,
}

impl Model {
    fn open(&mut self, now: Hlc) -> SessionId {
        if self.sessions.len() == SESSIONS_MAX {
            self.sessions.remove(0);
        }
        self.opened += 1;
        let id = self.opened;
        self.sessions.push(Known { id, active_at: now, replies: vec![], forgotten_below: 1 });
        SessionId(id)
    }

    fn close(&mut self, id: SessionId) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|session| session.id != id.0);
        self.sessions.len() < before
    }

    fn advance(&mut self, now: Hlc) {
        self.sessions.retain(|session| session.active_at.after_millis(IDLE_MILLIS_MAX) >= now);
    }

    fn touch(&mut self, id: SessionId, acked_below: u64, now: Hlc) -> bool {
        let Some(at) = self.sessions.iter().position(|session| session.id == id.0) else {
            return false;
        };
        let mut session = self.sessions.remove(at);
        session.active_at = now;
        let told = acked_below.min(session.replies.len() as u64 + 1);
        session.forgotten_below = session.forgotten_below.max(told);
        self.sessions.push(session);
        true
    }

    fn check(&self, id: SessionId, sequence: u64) -> Verdict<u64> {
        let Some(session) = self.sessions.iter().find(|session| session.id == id.0) else {
            return Verdict::Refuse(CommandError::SessionExpired);
        };
        let expected = session.replies.len() as u64 + 1;
        if sequence == expected {
            Verdict::Apply
        } else if sequence > expected {
            Verdict::Refuse(CommandError::SequenceGap { expected: Sequence(expected) })
        } else if sequence < session.forgotten_below {
            Verdict::Refuse(CommandError::ReplyForgotten)
        } else {
            Verdict::Replay(session.replies[sequence as usize - 1])
        }
    }

    fn record(&mut self, id: SessionId, reply: u64) {
        let session = self.sessions.iter_mut().find(|session| session.id == id.0).unwrap();
        session.replies.push(reply);
    }

    fn expected(&self, id: SessionId) -> u64 {
        let found = self.sessions.iter().find(|session| session.id == id.0);
        found.map_or(1, |session| session.replies.len() as u64 + 1)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Close {
        id: u64,
    },
    /// A block of `count` commands that starts at the expected sequence and `behind` below it, or
    /// at `ahead` above it.
    Block {
        id: u64,
        behind: u64,
        ahead: u64,
        count: u64,
        unacked: u64,
    },
    Wait {
        millis: u64,
    },
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 1u64..12;
    let block = (id.clone(), 0u64..4, prop_oneof![4 => Just(0u64), 1 => 1u64..3], 1u64..5, 0u64..8);
    let step = prop_oneof![
        3 => Just(Step::Open),
        1 => id.prop_map(|id| Step::Close { id }),
        12 => block.prop_map(|(id, behind, ahead, count, unacked)| {
            Step::Block { id, behind, ahead, count, unacked }
        }),
        3 => (1u64..20).prop_map(|millis| Step::Wait { millis }),
        2 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 1..120)
}

fn snapshot(sessions: &Sessions<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    sessions.snapshot(&mut bytes, |reply, out| out.extend_from_slice(&reply.to_le_bytes()));
    bytes
}

fn restore(bytes: &[u8]) -> Result<Sessions<u64>, RestoreError> {
    Sessions::restore(&limits(), bytes, |bytes| {
        let short = RestoreError::Damaged { what: "a reply", at: 0 };
        let (reply, rest) = bytes.split_first_chunk().ok_or(short)?;
        *bytes = rest;
        Ok(u64::from_le_bytes(*reply))
    })
}

struct Run {
    model: Model,
    sessions: Sessions<u64>,
    twin: Sessions<u64>,
    now: Hlc,
    replies: u64,
}

impl Run {
    fn new() -> Self {
        Self {
            model: Model::default(),
            sessions: Sessions::new(&limits()),
            twin: Sessions::new(&limits()),
            now: Hlc::from_millis(500),
            replies: 0,
        }
    }

    fn perform(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Open => {
                let id = self.model.open(now);
                assert_eq!(self.sessions.open(now), id);
                assert_eq!(self.twin.open(now), id);
            }
            Step::Close { id } => {
                let was_open = self.model.close(SessionId(id));
                assert_eq!(self.sessions.close(SessionId(id)), was_open);
                assert_eq!(self.twin.close(SessionId(id)), was_open);
            }
            Step::Block { id, behind, ahead, count, unacked } => {
                self.block(SessionId(id), behind, ahead, count, unacked);
            }
            Step::Wait { millis } => {
                self.now = now.next().after_millis(millis);
                self.model.advance(self.now);
                self.sessions.advance(self.now);
                self.twin.advance(self.now);
            }
            // From now on the model is compared with sessions that have another history.
            Step::Restore => {
                std::mem::swap(&mut self.sessions, &mut self.twin);
                self.sessions = restore(&snapshot(&self.twin)).unwrap();
            }
        }
    }

    fn block(&mut self, id: SessionId, behind: u64, ahead: u64, count: u64, unacked: u64) {
        let first = (self.model.expected(id) + ahead).saturating_sub(behind).max(1);
        let acked_below = first.saturating_sub(unacked);
        let is_open = self.model.touch(id, acked_below, self.now);
        let touched = self.sessions.touch(id, Sequence(acked_below), self.now);
        assert_eq!(touched.is_some(), is_open);
        self.twin.touch(id, Sequence(acked_below), self.now);
        for sequence in first..first + count {
            let verdict = self.model.check(id, sequence);
            assert_eq!(self.sessions.check(id, Sequence(sequence)), verdict);
            if verdict == Verdict::Apply {
                self.replies += 1;
                self.model.record(id, self.replies);
                self.sessions.record(id, Sequence(sequence), self.replies);
                let session = self.twin.session_mut(id).unwrap();
                session.record(Sequence(sequence), self.replies);
            }
        }
    }

    fn compare(&self) {
        self.sessions.check_invariants();
        assert_eq!(self.sessions.len(), self.model.sessions.len());
        assert_eq!(self.sessions.digest(|reply| *reply), self.twin.digest(|reply| *reply));
        assert_eq!(snapshot(&self.sessions), snapshot(&self.twin));
        assert!(self.sessions.replies().eq(self.twin.replies()));
        for id in 1..=self.model.opened + 1 {
            let id = SessionId(id);
            for sequence in 0..self.model.expected(id) + 2 {
                let verdict = self.model.check(id, sequence);
                assert_eq!(self.sessions.check(id, Sequence(sequence)), verdict);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_damaged_snapshot_is_refused_or_sound_sessions(
        before in steps(), at in any::<prop::sample::Index>(), value: u8, cut: bool,
    ) {
        let mut run = Run::new();
        before.iter().for_each(|step| run.perform(step));
        let mut bytes = snapshot(&run.sessions);
        let at = at.index(bytes.len());
        bytes[at] = value;
        bytes.truncate(if cut { at } else { bytes.len() });
        if let Ok(mut sessions) = restore(&bytes) {
            sessions.check_invariants();
            let again = restore(&snapshot(&sessions)).unwrap();
            prop_assert_eq!(again.digest(|reply| *reply), sessions.digest(|reply| *reply));
            // No earlier than any stamp that the damaged bytes may tell.
            sessions.advance(Hlc(u64::MAX));
            sessions.open(Hlc(u64::MAX));
            sessions.check_invariants();
        }
    }

    #[test]
    fn a_snapshot_in_pieces_is_that_of_when_it_began(
        before in steps(), during in steps(), pieces in prop::collection::vec(any::<bool>(), 100),
    ) {
        let mut run = Run::new();
        before.iter().for_each(|step| run.perform(step));
        let expected = snapshot(&run.sessions);
        run.sessions.begin_snapshot(|reply, out| out.extend_from_slice(&reply.to_le_bytes()));
        let (mut written, mut is_whole) = (Vec::new(), false);
        for (step, is_piece) in during.iter().zip(pieces) {
            if !matches!(step, Step::Restore) {
                run.perform(step);
            }
            is_whole = is_whole || is_piece && run.sessions.snapshot_piece(1, &mut written);
        }
        while !is_whole {
            is_whole = run.sessions.snapshot_piece(1, &mut written);
        }
        prop_assert_eq!(written, expected);
        run.compare();
    }

    #[test]
    fn sessions_answer_like_the_model(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.perform(step);
            run.compare();
        }
    }
}

#[test]
fn a_session_remembers_as_many_replies_as_its_window_holds() {
    let mut sessions = Sessions::new(&limits());
    let id = sessions.open(Hlc(1));
    let window = limits::SESSION_WINDOW as u64;
    for sequence in 1..=window + 5 {
        sessions.record(id, Sequence(sequence), sequence);
    }
    let forgotten = Verdict::Refuse(CommandError::ReplyForgotten);
    assert_eq!(sessions.check(id, Sequence(5)), forgotten);
    assert_eq!(sessions.check(id, Sequence(6)), Verdict::Replay(6));
    assert_eq!(sessions.session(id).unwrap().replies_len(), limits::SESSION_WINDOW);
    sessions.check_invariants();
}

#[test]
fn an_acknowledgement_of_the_future_forgets_only_the_past() {
    let mut sessions = Sessions::new(&limits());
    let id = sessions.open(Hlc(1));
    sessions.record(id, Sequence(1), 1);
    sessions.touch(id, Sequence(u64::MAX), Hlc(2)).unwrap();
    assert_eq!(sessions.check(id, Sequence(1)), Verdict::Refuse(CommandError::ReplyForgotten));
    assert_eq!(sessions.check(id, Sequence(2)), Verdict::Apply);
}

#[test]
fn the_idlest_session_makes_room_for_a_new_one() {
    let mut sessions = Sessions::<u64>::new(&limits());
    let first = sessions.open(Hlc(1));
    let second = sessions.open(Hlc(2));
    sessions.touch(first, Sequence(1), Hlc(3)).unwrap();
    for stamp in 4..=6 {
        sessions.open(Hlc(stamp));
    }
    assert_eq!(sessions.len(), SESSIONS_MAX);
    assert!(sessions.session(second).is_none());
    assert!(sessions.session(first).is_some());
}

#[test]
fn a_retry_after_a_restore_gets_the_same_reply() {
    let mut sessions = Sessions::new(&limits());
    let id = sessions.open(Hlc(1));
    sessions.record(id, Sequence(1), 17);
    sessions.record(id, Sequence(2), 18);
    sessions.touch(id, Sequence(2), Hlc(2)).unwrap();
    let mut restored = restore(&snapshot(&sessions)).unwrap();
    assert_eq!(restored.check(id, Sequence(2)), Verdict::Replay(18));
    assert_eq!(restored.check(id, Sequence(3)), Verdict::Apply);
    let gap = CommandError::SequenceGap { expected: Sequence(3) };
    assert_eq!(restored.check(id, Sequence(4)), Verdict::Refuse(gap));
    assert_eq!(restored.check(id, Sequence(1)), Verdict::Refuse(CommandError::ReplyForgotten));
    restored.advance(Hlc(3).after_millis(IDLE_MILLIS_MAX));
    let expired = Verdict::Refuse(CommandError::SessionExpired);
    assert_eq!(restored.check(id, Sequence(3)), expired);
    assert_eq!(restored.open(Hlc(4)), SessionId(id.0 + 1), "ids are not used again");
}

#[test]
fn too_many_restored_sessions_make_room_as_too_many_opened_ones_do() {
    let many = Limits { sessions_max: SESSIONS_MAX + 2, ..limits() };
    let mut sessions = Sessions::<u64>::new(&many);
    let ids: Vec<_> = (1..=SESSIONS_MAX as u64 + 2).map(|at| sessions.open(Hlc(at))).collect();
    let restored = restore(&snapshot(&sessions)).unwrap();
    restored.check_invariants();
    assert_eq!(restored.len(), SESSIONS_MAX);
    assert!(restored.session(ids[1]).is_none());
    assert!(restored.session(ids[2]).is_some());
}

#[test]
fn the_snapshot_of_sessions_is_pinned() {
    let mut sessions = Sessions::new(&limits());
    let (first, second) = (sessions.open(Hlc(5)), sessions.open(Hlc(6)));
    sessions.record(second, Sequence(1), 0x11);
    sessions.record(second, Sequence(2), 0x12);
    sessions.touch(first, Sequence(1), Hlc(300)).unwrap();
    sessions.close(first);
    let third = sessions.open(Hlc(300));
    sessions.record(third, Sequence(1), 0x13);
    sessions.touch(third, Sequence(2), Hlc(301)).unwrap();
    let reply = |number: u8| [&[number][..], &[0; 7]].concat();
    let expected =
        [&[1, 3, 2][..], &[2, 6, 3, 2], &reply(0x11), &reply(0x12), &[3, 251, 39, 1, 2, 0]];
    assert_eq!(snapshot(&sessions), expected.concat());
}

#[test]
fn every_contradiction_between_sessions_is_named() {
    // A counter that no cluster reaches.
    let beyond = [253, 1, 0, 0, 0, 0, 0, 0, 64];
    let refused: [(&[&[u8]], &str); 9] = [
        (&[&[1], &beyond, &[0]], "the last session's id"),
        (&[&[1, 1, 1, 2, 0, 1, 0]], "a session's id"),
        (&[&[1, 1, 1, 0, 0, 1, 0]], "a session or its sequence is 0"),
        (&[&[1, 1, 1, 1, 0, 0, 0]], "a session or its sequence is 0"),
        (&[&[1, 1, 1, 1, 0], &beyond, &[0]], "a session's sequence"),
        (&[&[1, 1, 1, 1, 0, 1, 1], &[0; 8]], "a session's number of replies"),
        (&[&[1, 1, 1, 1, 0, 251, 0, 32, 251, 1, 16]], "a session's number of replies"),
        (&[&[1, 2, 2, 1, 0, 1, 0, 1, 0, 1, 0]], "two sessions have one id"),
        (&[&[1, 0, 0, 0]], "bytes are left at its end"),
    ];
    for (parts, wrong) in refused {
        let error = restore(&parts.concat()).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged { what, .. } if what == wrong), "{error}");
    }
    let short = restore(&[1, 1, 1, 1, 0, 2, 1, 5]).unwrap_err();
    assert_eq!(short, RestoreError::Damaged { what: "a reply", at: 7 });
}

#[test]
fn sessions_of_a_newer_build_are_refused_as_such() {
    let error = restore(&[2, 0, 0]).unwrap_err();
    assert_eq!(error, RestoreError::Version { version: 2 });
    assert!(error.to_string().ends_with("upgrade this node"), "{error}");
    assert!(matches!(restore(&[]), Err(RestoreError::Damaged { at: 0, .. })));
}

#[test]
fn digests_tell_apart_sessions_that_differ_in_anything() {
    type State<'a> = &'a dyn Fn(&mut Sessions<u64>);
    let replied = |sessions: &mut Sessions<u64>, reply| {
        let id = sessions.open(Hlc(1));
        sessions.record(id, Sequence(1), reply);
        id
    };
    let states: [State<'_>; 7] = [
        &|_| {},
        &|sessions| {
            sessions.open(Hlc(1));
        },
        &|sessions| {
            sessions.open(Hlc(2));
        },
        &|sessions| {
            let id = sessions.open(Hlc(1));
            sessions.close(id);
        },
        &|sessions| {
            replied(sessions, 1);
        },
        &|sessions| {
            replied(sessions, 2);
        },
        // The same as the second but for the sequence that is expected.
        &|sessions| {
            let id = replied(sessions, 1);
            sessions.touch(id, Sequence(2), Hlc(1));
        },
    ];
    let digest = |state: &State<'_>| {
        let mut sessions = Sessions::new(&limits());
        state(&mut sessions);
        sessions.digest(|reply| *reply)
    };
    let digests: BTreeSet<u64> = states.iter().map(digest).collect();
    assert_eq!(digests.len(), states.len());
}

#[test]
#[should_panic(expected = "only the expected command is applied")]
fn a_reply_out_of_sequence_is_a_bug_and_not_a_value() {
    let mut sessions = Sessions::new(&limits());
    let id = sessions.open(Hlc(1));
    sessions.record(id, Sequence(2), 0);
}
