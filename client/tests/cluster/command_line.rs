//! The `posthaste` program, as operators run it.

use crate::fake_cluster::FakeCluster;
use engine::ids::NodeId;
use engine::raft::{Change, ChangeError, Step};
use std::process::{Command, Output};

/// Runs the program against the cluster, to its end.
async fn run(cluster: &FakeCluster, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(line.split(' ')).env("POSTHASTE_NODES", cluster.addresses.join(","));
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A place that is reserved for node 4.
fn reserve(cluster: &FakeCluster) {
    let step = Step::Add { address: "n4:1".to_owned(), claim: None, is_joining: false };
    let mut world = cluster.world();
    let change = Change { steps: vec![step], ..Change::default() };
    world.membership = world.membership.changed(&change).unwrap();
}

#[tokio::test]
async fn members_are_shown_with_their_roles_for_people_and_for_programs() {
    let cluster = FakeCluster::start().await;
    reserve(&cluster);
    let shown = run(&cluster, "members").await;
    let lines: Vec<&str> = text(&shown.stdout).lines().collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[1].contains("voter") && lines[1].contains("yes"), "{lines:?}");
    assert!(lines[4].contains("n4:1") && lines[4].contains("learner"), "{lines:?}");

    let shown = run(&cluster, "members --json").await;
    let rows = text(&shown.stdout).lines().map(|line| serde_json::from_str(line).unwrap());
    let rows: Vec<serde_json::Value> = rows.collect();
    assert_eq!((&rows[3]["node"], &rows[3]["role"]), (&4.into(), &"learner".into()));
    assert_eq!((&rows[0]["leader"], &rows[1]["leader"]), (&true.into(), &false.into()));
}

#[tokio::test]
async fn a_backup_that_no_member_can_give_leaves_no_file_and_says_why() {
    let cluster = FakeCluster::start().await;
    let home = std::env::temp_dir().join(format!("posthaste-backup-{}", std::process::id()));
    let line = format!("backup {} --timeout 5s", home.display());
    let failed = run(&cluster, &line).await;
    assert_eq!(failed.status.code(), Some(6));
    let said = text(&failed.stderr);
    for node in 1..=3 {
        assert!(said.contains(&format!("node {node}: node {node} has let go")), "{said}");
    }
    assert!(!home.exists() && !home.with_extension("tmp").exists());

    std::fs::write(&home, "no backup at all, but long enough").unwrap();
    let damaged = run(&cluster, &format!("backup --verify {}", home.display())).await;
    assert_eq!(damaged.status.code(), Some(6));
    assert!(text(&damaged.stderr).contains("this is not a backup"), "{}", text(&damaged.stderr));
    let taken = run(&cluster, &line).await;
    std::fs::remove_file(&home).unwrap();
    assert_eq!(taken.status.code(), Some(2), "a file that is there is left alone");
}

#[tokio::test]
async fn adding_a_node_reserves_its_place_and_says_how_it_joins() {
    let cluster = FakeCluster::start().await;
    for _ in 0..2 {
        let added = run(&cluster, "members add n4:1").await;
        let said = text(&added.stdout);
        assert!(said.contains("Node 4 has a place at n4:1"), "{said}");
        assert!(said.contains("node join --data DIR --address n4:1 --cluster-address"), "{said}");
    }
    let taken = cluster.addresses[0].clone();
    let refused = run(&cluster, &format!("members add {taken}")).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains(&format!("{taken} is the address of node 1")), "{said}");
}

#[tokio::test]
async fn a_replacement_waits_for_the_newcomer_and_says_so() {
    let cluster = FakeCluster::start().await;
    reserve(&cluster);
    let lag = ChangeError::NotCaughtUp { node: NodeId(4), matched: 1, last: 10 };
    cluster.world().refusals = [lag.clone(), lag].into();
    let replaced = run(&cluster, "members replace 3 n4:1").await;
    let said = text(&replaced.stderr);
    assert!(replaced.status.success(), "{said}");
    assert!(said.contains("waiting: node 4 has"), "{said}");
    let done = text(&replaced.stdout);
    assert!(done.contains("the voters are 1, 2, 4"), "{done}");
    assert_eq!(cluster.world().operations, 3);
}

#[tokio::test]
async fn a_wait_ends_at_its_timeout_with_the_reason() {
    let cluster = FakeCluster::start().await;
    reserve(&cluster);
    let lag = ChangeError::NotCaughtUp { node: NodeId(4), matched: 1, last: 10 };
    cluster.world().refusals = std::iter::repeat_n(lag, 1_000).collect();
    let given_up = run(&cluster, "members promote 4 --timeout 700ms").await;
    assert_eq!(given_up.status.code(), Some(4));
    let said = text(&given_up.stderr);
    assert!(said.contains("no answer within 700 ms: node 4 has"), "{said}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_once_with_its_exit_code() {
    let cluster = FakeCluster::start().await;
    for (line, code) in [
        ("members remove 9", 1),
        ("members leave", 1),
        ("members cancel", 1),
        ("members replace 3 3", 2),
        ("members replace 3 four", 2),
    ] {
        let refused = run(&cluster, line).await;
        assert_eq!(refused.status.code(), Some(code), "{line}: {}", text(&refused.stderr));
    }
}

#[tokio::test]
async fn leadership_moves_and_reads_say_how_old_they_are() {
    let cluster = FakeCluster::start().await;
    let moved = run(&cluster, "transfer 2").await;
    assert_eq!(text(&moved.stdout), "node 2 leads\n");
    for (line, expected) in [
        ("list --stale", "true after entry 1 of 1970-01-01T00:00:00.077Z"),
        ("browse q --here", "true after entry 1\n"),
    ] {
        let read = run(&cluster, line).await;
        assert_eq!(read.status.code(), Some(5), "there is nothing");
        let said = text(&read.stderr);
        assert!(said.contains("answered by node") && said.contains(expected), "{line}: {said}");
    }
}
