//! A replicated map of strings: `cargo run -p engine --example replicated_map`.
//!
//! Begin with `impl StateMachine for Map`; that is all that has to be written to have it replicated.
//! `cluster` is the driver around it. `main` tells a story: a leader dies at the worst moment, and a
//! compare-and-set that is tried again takes effect once.

mod cluster;

use bincode::{Decode, Encode};
use cluster::{Cluster, Session, reply_to};
use engine::state_machine::{
    CommandContext, RestoreError, SnapshotReader, StateMachine, read_value,
};
use engine::wire;
use std::collections::BTreeMap;

/// Strings by name. A `BTreeMap`, so that equal maps have equal snapshots; a hash map's order would
/// differ from member to member.
#[derive(Default)]
struct Map(BTreeMap<String, String>);

/// What can be done. Any encoding will do; this is the engine's own.
#[derive(Encode, Decode)]
enum Command {
    Set { key: String, value: String },
    Remove { key: String },
    CompareAndSet { key: String, expected: Option<String>, value: String },
}

/// What can be asked.
#[derive(Encode, Decode)]
enum Query {
    Get { key: String },
    Len,
}

#[derive(Clone, PartialEq, Debug, Encode, Decode)]
enum Reply {
    /// What was there before, or is there now.
    Value(Option<String>),
    /// Whether the value was the expected one, and so was replaced.
    Swapped(bool),
    Len(u64),
    Invalid,
}

impl StateMachine for Map {
    type Reply = Reply;

    fn validate(&self, command: &[u8]) -> Result<(), Reply> {
        wire::decode::<Command>("a command", command).map(drop).map_err(|_| Reply::Invalid)
    }

    fn apply(&mut self, _: CommandContext, command: &[u8]) -> Reply {
        let Self(map) = self;
        match wire::decode("a command", command) {
            Ok(Command::Set { key, value }) => Reply::Value(map.insert(key, value)),
            Ok(Command::Remove { key }) => Reply::Value(map.remove(&key)),
            Ok(Command::CompareAndSet { key, expected, value }) => {
                let is_expected = map.get(&key) == expected.as_ref();
                if is_expected {
                    map.insert(key, value);
                }
                Reply::Swapped(is_expected)
            }
            Err(_) => Reply::Invalid,
        }
    }

    fn query(&self, query: &[u8]) -> Reply {
        match wire::decode("a query", query) {
            Ok(Query::Get { key }) => Reply::Value(self.0.get(&key).cloned()),
            Ok(Query::Len) => Reply::Len(self.0.len() as u64),
            Err(_) => Reply::Invalid,
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.push(1);
        wire::encode_into(&(self.0.len() as u64), out);
        self.0.iter().for_each(|entry| wire::encode_into(&entry, out));
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut reader = SnapshotReader::new(bytes, 1)?;
        self.0.clear();
        for _ in 0..reader.number(u64::MAX, "the number of entries")? {
            let (key, value) = reader.value("an entry")?;
            self.0.insert(key, value);
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

fn set(key: &str, value: &str) -> Vec<u8> {
    wire::encode(&Command::Set { key: key.into(), value: value.into() })
}

fn compare_and_set(key: &str, expected: Option<&str>, value: &str) -> Vec<u8> {
    let expected = expected.map(str::to_owned);
    wire::encode(&Command::CompareAndSet { key: key.into(), expected, value: value.into() })
}

fn get(key: &str) -> Vec<u8> {
    wire::encode(&Query::Get { key: key.into() })
}

fn main() {
    let mut cluster = Cluster::<Map>::new();
    println!("Three members of a new cluster elect node {}.", cluster.leader());

    let mut session = Session::open(&mut cluster);
    let before = session.apply(&mut cluster, &set("boots", "brown"));
    println!("set boots = brown: {before:?} before.");

    let request = session.request(&compare_and_set("boots", Some("brown"), "black"));
    let dead = cluster.ask_a_leader_that_dies(&request);
    println!("compare-and-set boots, brown to black: node {dead} does it and dies without a word.");

    println!("Node {} leads now.", cluster.leader());
    let reply = reply_to(cluster.ask(&request));
    println!("The same request again: {reply:?}, as it was the first time.");
    assert_eq!(reply, Reply::Swapped(true));

    let reply = session.apply(&mut cluster, &compare_and_set("boots", Some("brown"), "red"));
    println!("A new one, brown to red: {reply:?}, as they are not brown any more.");
    assert_eq!(reply, Reply::Swapped(false));

    let boots = cluster.query(get("boots"));
    println!("get boots: {boots:?}");
    assert_eq!(boots, Reply::Value(Some("black".into())));

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
    fn a_map_is_what_was_set_and_not_removed() {
        let mut cluster = Cluster::<Map>::new();
        let mut session = Session::open(&mut cluster);
        for number in 0..20 {
            session.apply(&mut cluster, &set(&format!("key {number}"), "value"));
        }
        let remove = wire::encode(&Command::Remove { key: "key 7".into() });
        let removed = session.apply(&mut cluster, &remove);
        assert_eq!(removed, Reply::Value(Some("value".into())));
        assert_eq!(cluster.query(wire::encode(&Query::Len)), Reply::Len(19));
        assert_eq!(cluster.query(get("key 7")), Reply::Value(None));
        assert_eq!(session.apply(&mut cluster, b"no command"), Reply::Invalid);
        cluster.settle();
    }

    #[test]
    fn a_restored_map_equals_the_original() {
        let entries = [("a", "1"), ("b", ""), ("c", "3")];
        let map = Map(entries.map(|(key, value)| (key.into(), value.into())).into());
        let mut bytes = Vec::new();
        map.snapshot(&mut bytes);
        let mut restored = Map::default();
        restored.restore(&bytes).expect("it was just written");
        assert_eq!(restored.0, map.0);
        for len in 0..bytes.len() {
            restored.restore(&bytes[..len]).expect_err("it was cut off");
        }
    }
}
