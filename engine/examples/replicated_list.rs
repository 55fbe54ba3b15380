//! A replicated list of strings: `cargo run -p engine --example replicated_list`.
//!
//! Begin with `impl StateMachine for List`; `cluster` is the driver around it. `main` tells a story:
//! a leader dies when it has popped a line and has not yet said which. The client asks again and
//! gets that line and no other.

mod cluster;

use bincode::{Decode, Encode};
use cluster::{Cluster, Session, reply_to};
use engine::state_machine::{
    CommandContext, RestoreError, SnapshotReader, StateMachine, read_value,
};
use engine::wire;

#[derive(Default)]
struct List(Vec<String>);

#[derive(Encode, Decode)]
enum Command {
    Push {
        value: String,
    },
    /// Before the one that is at this place now.
    Insert {
        at: u64,
        value: String,
    },
    /// Takes the last one off.
    Pop,
}

#[derive(Encode, Decode)]
enum Query {
    Get { at: u64 },
    Len,
}

#[derive(Clone, PartialEq, Debug, Encode, Decode)]
enum Reply {
    Value(Option<String>),
    Len(u64),
    /// The list ends before that place.
    TooFar {
        len: u64,
    },
    Invalid,
}

impl StateMachine for List {
    type Reply = Reply;

    /// Whether a place is in the list is not asked here: until the command is applied, commands
    /// before it may move the end.
    fn validate(&self, command: &[u8]) -> Result<(), Reply> {
        wire::decode::<Command>("a command", command).map(drop).map_err(|_| Reply::Invalid)
    }

    fn apply(&mut self, _: CommandContext, command: &[u8]) -> Reply {
        let Self(list) = self;
        let len = list.len() as u64;
        match wire::decode("a command", command) {
            Ok(Command::Push { value }) => list.push(value),
            Ok(Command::Insert { at, .. }) if at > len => return Reply::TooFar { len },
            Ok(Command::Insert { at, value }) => list.insert(at as usize, value),
            Ok(Command::Pop) => return Reply::Value(list.pop()),
            Err(_) => return Reply::Invalid,
        }
        Reply::Len(len + 1)
    }

    fn query(&self, query: &[u8]) -> Reply {
        let value = |at: u64| self.0.get(usize::try_from(at).ok()?).cloned();
        match wire::decode("a query", query) {
            Ok(Query::Get { at }) => Reply::Value(value(at)),
            Ok(Query::Len) => Reply::Len(self.0.len() as u64),
            Err(_) => Reply::Invalid,
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.push(1);
        wire::encode_into(&(self.0.len() as u64), out);
        self.0.iter().for_each(|value| wire::encode_into(value, out));
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut reader = SnapshotReader::new(bytes, 1)?;
        self.0.clear();
        for _ in 0..reader.number(u64::MAX, "the length")? {
            self.0.push(reader.text("a value")?.into());
        }
        reader.finish()
    }

    fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
        wire::encode_into(reply, out);
    }

    fn read_reply(bytes: &mut &[u8]) -> Result<Reply, RestoreError> {
        read_value(bytes, "a reply")
    }
}

fn push(value: &str) -> Vec<u8> {
    wire::encode(&Command::Push { value: value.into() })
}

fn insert(at: u64, value: &str) -> Vec<u8> {
    wire::encode(&Command::Insert { at, value: value.into() })
}

fn main() {
    let mut cluster = Cluster::<List>::new();
    println!("Three members of a new cluster elect node {}.", cluster.leader());

    let mut session = Session::open(&mut cluster);
    for line in ["wash", "iron"] {
        let reply = session.apply(&mut cluster, &push(line));
        println!("push {line}: {reply:?}");
    }
    let reply = session.apply(&mut cluster, &insert(1, "dry"));
    println!("insert dry before iron: {reply:?}");

    let request = session.request(&wire::encode(&Command::Pop));
    let dead = cluster.ask_a_leader_that_dies(&request);
    println!("pop: node {dead} does it and dies without a word.");

    println!("Node {} leads now.", cluster.leader());
    let reply = reply_to(cluster.ask(&request));
    println!("The same request again: {reply:?}, as it was the first time.");
    assert_eq!(reply, Reply::Value(Some("iron".into())));

    let len = cluster.query(wire::encode(&Query::Len));
    println!("How many are left: {len:?}");
    assert_eq!(len, Reply::Len(2));

    cluster.start(dead);
    cluster.settle();
    println!("Node {dead} is back, and all three have the same state.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_ends_well() {
        main();
    }

    #[test]
    fn a_list_keeps_its_order() {
        let mut cluster = Cluster::<List>::new();
        let mut session = Session::open(&mut cluster);
        for command in [push("b"), push("d"), insert(1, "c"), insert(0, "a"), insert(4, "e")] {
            session.apply(&mut cluster, &command);
        }
        let too_far = session.apply(&mut cluster, &insert(9, "z"));
        assert_eq!(too_far, Reply::TooFar { len: 5 });
        for (at, value) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            let found = cluster.query(wire::encode(&Query::Get { at: at as u64 }));
            assert_eq!(found, Reply::Value(Some((*value).into())));
        }
        let beyond = cluster.query(wire::encode(&Query::Get { at: 5 }));
        assert_eq!(beyond, Reply::Value(None));
        cluster.settle();
    }

    #[test]
    fn a_restored_list_equals_the_original() {
        let list = List(["one", "", "three"].map(String::from).into());
        let mut bytes = Vec::new();
        list.snapshot(&mut bytes);
        let mut restored = List::default();
        restored.restore(&bytes).expect("it was just written");
        assert_eq!(restored.0, list.0);
        for len in 0..bytes.len() {
            restored.restore(&bytes[..len]).expect_err("it was cut off");
        }
    }
}
