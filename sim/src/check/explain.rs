//! A violation as its readers want it: one line for each thing that happened.
//!
//! Next: `command`, which prints it.

use super::Violation;
use super::catalog::Event;
use super::member::Voters;
use super::model::{Action, Group};
use super::state::State;
use engine::raft::Message;
use engine::storage::Persist;
use stateright::Checker;
use std::fmt::{Debug, Write};

/// What does not hold, each with a way to it.
pub(super) fn violations(checker: &impl Checker<Group>) -> Vec<Violation> {
    let group = checker.model();
    let mut found: Vec<Violation> = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| {
            let steps = path.into_vec();
            let afters = steps.iter().skip(1).map(|(state, _)| state);
            let lines =
                steps.iter().zip(afters).enumerate().map(|(at, ((before, action), after))| {
                    let action = action.as_ref().expect("every state but the last has one");
                    format!("{:3}  {}", at + 1, line(group, before, action, after))
                });
            Violation { property, path: lines.collect() }
        })
        .collect();
    found.sort_by_key(|violation| violation.property);
    found
}

fn line(group: &Group, before: &State, action: &Action, after: &State) -> String {
    let at = usize::from(action.at);
    let step = group.step(action.step);
    let mut line = format!("n{} {}", action.at + 1, cause(group, action));
    if let Some(panic) = &step.panic {
        write!(line, "; {panic}").expect("strings take everything");
        return line;
    }
    let unsynced = |state: &State| &group.entry(state.members[at]).member.unsynced;
    if let Some(persist) = unsynced(after).last().filter(|p| unsynced(before).last() != Some(p)) {
        write!(line, "; writes {}", written(persist)).expect("strings take everything");
    }
    for (bit, number) in step.sent.iter().enumerate() {
        let message = group.shared.catalog.message(*number);
        let fate = if action.kept >> bit & 1 == 1 { "sends" } else { "loses" };
        write!(line, "; {fate} to n{}: {}", message.to, told(&message.message))
            .expect("strings take everything");
    }
    let summary = &group.entry(after.members[at]).summary;
    let role = group.entry(after.members[at]).member.raft.role();
    write!(
        line,
        "; now {role:?} of term {}, voters {}, log {:?}, disk {:?}, committed to {}",
        summary.term,
        voters(summary.voters),
        summary.log.as_slice(),
        summary.disk.as_slice(),
        summary.commit
    )
    .expect("strings take everything");
    line
}

fn voters(Voters { incoming, outgoing }: Voters) -> String {
    let list = |set: u8| (1..8).filter(|node| set >> node & 1 == 1).collect::<Vec<u8>>();
    match outgoing {
        0 => format!("{:?}", list(incoming)),
        _ => format!("{:?} after {:?}", list(incoming), list(outgoing)),
    }
}

fn cause(group: &Group, action: &Action) -> String {
    match action.event {
        Event::Deliver(number) => {
            let message = group.shared.catalog.message(number);
            let again = if action.is_duplicated { " (not for the last time)" } else { "" };
            format!("hears n{}{again}: {}", message.from, told(&message.message))
        }
        Event::TimeOut => "times out".to_owned(),
        Event::Propose => "appends an entry".to_owned(),
        Event::Change(number) => {
            let request = &group.shared.catalog.menu[usize::from(number)];
            format!("is asked for {}", brief(request))
        }
        Event::Flush(count) => format!("has flushed {count}"),
        Event::Crash(kept) => format!("crashes and recovers, with {kept} unsynced kept"),
    }
}

fn told(message: &Message) -> String {
    format!("{} of term {}", brief(&message.body), message.term)
}

fn written(persist: &Persist) -> String {
    let hard_state = brief(&persist.hard_state);
    let terms: Vec<u64> = persist.records.iter().map(|record| record.term().0).collect();
    match persist.records.first() {
        Some(first) => format!("{hard_state} and terms {terms:?} from {} on", first.index()),
        None => hard_state,
    }
}

/// The `Debug` text without what only a compiler needs.
fn brief(value: &impl Debug) -> String {
    let mut text = format!("{value:?}");
    while let Some(at) = text.find(", bytes: b\"") {
        let len = text[at..].find("\" }").expect("a record's last field") + 1;
        text.replace_range(at..at + len, "");
    }
    for name in ["Term(", "LogIndex(", "NodeId(", "Hlc("] {
        while let Some(at) = text.find(name) {
            let end = at + text[at..].find(')').expect("a newtype ends");
            text.remove(end);
            text.replace_range(at..at + name.len(), "");
        }
    }
    text.replace("HardState {", "{").replace("LogPosition {", "{")
}
