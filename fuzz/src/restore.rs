//! Snapshots of the queues and of the sessions that nobody wrote.
//!
//! Claims: they are refused, or they are a state whose invariants hold, which is written and read
//! again as the same one, and which goes on without a panic.

use arbitrary::{Arbitrary, Unstructured};
use engine::hlc::Hlc;
use engine::ids::{LogIndex, Sequence, Term};
use engine::limits::Limits;
use engine::queue::{Command, Queues, ReceiveMode, Reply};
use engine::session::{Sessions, Verdict};
use engine::state_machine::{CommandContext, RestoreError, StateMachine};

#[derive(Arbitrary, Debug)]
enum Case {
    Queues { snapshot: Vec<u8>, steps: Vec<Step> },
    Sessions { snapshot: Vec<u8> },
}

/// What is done with restored queues.
#[derive(Arbitrary, Debug)]
enum Step {
    Receive { queue: String, lease_millis: Option<u16> },
    Purge { queue: String },
    Wait { millis: u32 },
}

/// One run over the fuzzer's bytes.
pub fn run(bytes: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    match case {
        Case::Queues { snapshot, steps } => queues(&snapshot, &steps),
        Case::Sessions { snapshot } => sessions(&snapshot),
    }
}

fn restored(snapshot: &[u8]) -> Result<Queues, RestoreError> {
    let mut queues = Queues::new(&Limits::default());
    queues.restore(snapshot)?;
    queues.check_invariants();
    Ok(queues)
}

fn queues(snapshot: &[u8], steps: &[Step]) {
    let Ok(mut queues) = restored(snapshot) else { return };
    let mut written = Vec::new();
    queues.snapshot(&mut written);
    let mut twin = restored(&written).expect("we wrote it");
    assert_eq!(twin.digest(), queues.digest(), "written and read again, the state is another");

    // Behind every entry and stamp that the bytes may tell.
    let index = LogIndex(1 << 63);
    let log_time = Hlc(u64::MAX / 2);
    let mut context = CommandContext { term: Term(1 << 63), index, log_time, offset: 0 };
    for step in steps {
        context.index = context.index.next();
        let millis = if let Step::Wait { millis } = step { *millis } else { 1 };
        context.log_time = context.log_time.after_millis(u64::from(millis));
        let replies = [&mut queues, &mut twin].map(|queues| perform(queues, context, step));
        assert_eq!(replies[0], replies[1], "two machines in one state answer differently");
        queues.check_invariants();
    }
    assert_eq!(twin.digest(), queues.digest(), "one state became two");
}

fn perform(queues: &mut Queues, context: CommandContext, step: &Step) -> Option<Reply> {
    queues.advance(context.log_time);
    let command = match step {
        Step::Receive { queue, lease_millis } => {
            let take = ReceiveMode::Take;
            let mode = lease_millis
                .map_or(take, |millis| ReceiveMode::Lease { millis: u64::from(millis).max(1) });
            Command::Receive { queue: queue.clone(), max: 2, mode }
        }
        Step::Purge { queue } => Command::Purge { queue: queue.clone() },
        Step::Wait { .. } => return None,
    };
    let mut bytes = Vec::new();
    command.encode_into(&mut bytes);
    Some(queues.apply(context, &bytes))
}

fn sessions(snapshot: &[u8]) {
    let restored = |bytes: &[u8]| {
        let sessions = Sessions::restore(&Limits::default(), bytes, Queues::read_reply)?;
        sessions.check_invariants();
        Ok::<_, RestoreError>(sessions)
    };
    let Ok(mut sessions) = restored(snapshot) else { return };
    let mut written = Vec::new();
    sessions.snapshot(&mut written, Queues::write_reply);
    let again = restored(&written).expect("we wrote it");
    assert!(again.replies().eq(sessions.replies()), "replies were written and came back others");
    let id = sessions.open(Hlc(u64::MAX));
    assert_eq!(sessions.check(id, Sequence(1)), Verdict::Apply);
    sessions.check_invariants();
}
