//! Nodes that join, leave, are replaced and come back, as operators do it.

use crate::support::{Cluster, PATIENCE, complaint, free_addresses, run};
use crate::{Promised, assert_kept, block_on, enqueue, receive_all, settle};
use client::{CallError, Changed, Client, NewMessage, ReadFrom, Rejected};
use engine::ids::{ClusterId, GroupId, LogIndex, NodeId};
use engine::raft::{Change, ChangeError, ChangeRequest, Step};
use engine::storage::{Identity, Store};
use node::DiskPort;
use node::disk::FileDisk;
use std::path::Path;
use std::time::{Duration, Instant};

async fn change(client: &Client, steps: &[Step]) -> Result<Changed, CallError> {
    let change = Change { steps: steps.to_vec(), ..Change::default() };
    client.change_membership(ChangeRequest::Change(change)).await
}

/// Makes a change, and waits until the nodes that it promotes have caught up.
async fn change_once_caught_up(client: &Client, steps: &[Step]) -> Changed {
    let start = Instant::now();
    loop {
        match change(client, steps).await {
            Err(CallError::Rejected(Rejected::Change(ChangeError::NotCaughtUp { .. }))) => {
                assert!(start.elapsed() < PATIENCE, "it never catches up");
            }
            changed => return changed.unwrap(),
        }
    }
}

fn voters(changed: &Changed) -> Vec<u64> {
    changed.membership.incoming().iter().map(|node| node.0).collect()
}

#[test]
fn a_cluster_grows_from_one_to_three_under_load_and_survives_its_founder() {
    block_on(async {
        let mut cluster = Cluster::start(1, &[]);
        let client = cluster.connect().await;
        let mut promised = Promised::new();
        let mut underway = enqueue(&client, 900).await;
        settle(&mut underway, 100, &mut promised).await;
        assert_eq!(cluster.join(), NodeId(2));
        settle(&mut underway, 300, &mut promised).await;
        assert_eq!(cluster.join(), NodeId(3));
        let members = client.members().await.unwrap();
        assert_eq!(members.membership.incoming(), [NodeId(1), NodeId(2), NodeId(3)]);
        let mut more = enqueue(&client, 100).await;
        cluster.kill(NodeId(1));
        settle(&mut underway, 500, &mut promised).await;
        settle(&mut more, 100, &mut promised).await;
        cluster.start_node(NodeId(1), &[]);
        // Those that joined know from their own logs whose members they are.
        cluster.kill(NodeId(2));
        cluster.kill(NodeId(3));
        for node in [2, 3] {
            cluster.start_node(NodeId(node), &[]);
        }
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn a_removed_node_says_so_and_so_does_its_next_start() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let gone = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
        let changed = change(&client, &[Step::Remove(gone)]).await.unwrap();
        assert_eq!(changed.membership.members().len(), 2);
        let line = format!("node {gone} WAS REMOVED from the cluster");
        cluster.process(gone).wait_for_line(&line);
        let mut promised = Promised::new();
        settle(&mut enqueue(&client, 100).await, 100, &mut promised).await;

        // Again is no error, and its number never comes back.
        change(&client, &[Step::Remove(gone)]).await.unwrap();
        let error = change(&client, &[Step::Promote(gone)]).await.unwrap_err();
        assert_eq!(
            error,
            CallError::Rejected(Rejected::Change(ChangeError::Removed { node: gone }))
        );

        assert!(cluster.process(gone).terminate().success());
        cluster.restart_removed(gone);
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn a_node_that_was_down_when_it_was_removed_is_told_by_the_others() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let gone = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
        cluster.kill(gone);
        change(&client, &[Step::Remove(gone)]).await.unwrap();
        cluster.restart_removed(gone);
        assert_eq!(client.members().await.unwrap().leader, leader, "nobody was disturbed");
    });
}

#[test]
fn a_dead_node_is_replaced_in_one_change() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let mut promised = Promised::new();
        settle(&mut enqueue(&client, 300).await, 300, &mut promised).await;
        let dead = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
        cluster.kill(dead);
        let new = cluster.begin_to_join(&["--learner"]);
        cluster.process(new).wait_for_line("caught up: node 4 is a learner");
        let steps = [Step::Promote(new), Step::Remove(dead)];
        let changed = change_once_caught_up(&client, &steps).await;
        let expected: Vec<u64> = (1..=4).filter(|node| *node != dead.0).collect();
        assert_eq!(voters(&changed), expected);
        assert_eq!(changed.membership.members().len(), 3);
        settle(&mut enqueue(&client, 100).await, 100, &mut promised).await;
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn a_leader_that_is_removed_hands_over_and_goes_quiet() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let mut promised = Promised::new();
        let mut underway = enqueue(&client, 600).await;
        settle(&mut underway, 200, &mut promised).await;
        let changed = change(&client, &[Step::Remove(leader)]).await.unwrap();
        assert!(!voters(&changed).contains(&leader.0));
        cluster.process(leader).wait_for_line("WAS REMOVED from the cluster");
        settle(&mut underway, 400, &mut promised).await;
        assert_ne!(client.members().await.unwrap().leader, leader);
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn a_wiped_node_cannot_come_back_as_itself_and_is_told_how_it_can() {
    block_on(async {
        let mut cluster = Cluster::start(1, &[]);
        let client = cluster.connect().await;
        let node = cluster.join();
        let third = cluster.join();
        cluster.kill(node);
        std::fs::remove_dir_all(cluster.data(node)).unwrap();
        let output = run(&cluster.join_arguments(node));
        assert_eq!(output.status.code(), Some(1));
        let complaint = complaint(&output);
        assert!(complaint.contains("posthaste members remove 2"), "{complaint}");

        change(&client, &[Step::Remove(node)]).await.unwrap();
        // As a new node: the directory is that of the attempt before, and of its claim.
        let back = NodeId(third.0 + 1);
        cluster.join_as(node, back);
        let members = client.members().await.unwrap();
        let expected = [NodeId(1), third, back];
        assert_eq!(members.membership.incoming(), expected);
    });
}

#[test]
fn a_node_that_was_killed_while_it_joined_goes_on_under_the_same_number() {
    block_on(async {
        let mut cluster = Cluster::start(1, &[]);
        let client = cluster.connect().await;
        let node = cluster.begin_to_join(&["--learner"]);
        cluster.kill(node);
        // As if it had been killed before the place was its own: only the claim is left.
        for entry in std::fs::read_dir(cluster.data(node)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != "claim" {
                std::fs::remove_file(path).unwrap();
            }
        }
        cluster.join_again(node, &["--learner"]);
        cluster.process(node).wait_for_line("caught up: node 2 is a learner");
        assert_eq!(client.members().await.unwrap().list.len(), 2);
        let learner = client.reader(ReadFrom::Stale).list().await.unwrap();
        assert_eq!(learner.value.len(), 0);
    });
}

#[test]
fn a_reserved_place_is_taken_by_the_first_node_that_comes() {
    block_on(async {
        let mut cluster = Cluster::start(1, &[]);
        let client = cluster.connect().await;
        let address = free_addresses(1).remove(0);
        let add = Step::Add { address: address.clone(), claim: None, is_joining: true };
        let changed = change(&client, &[add]).await.unwrap();
        assert_eq!(changed.at_address(&address).unwrap().node, NodeId(2));
        cluster.join_at(address);
        let members = client.members().await.unwrap();
        assert_eq!(members.membership.incoming(), [NodeId(1), NodeId(2)]);
    });
}

/// Sends and receives until the node's log does not begin with its first entry any more.
async fn outgrow_the_log(client: &Client, node: NodeId) {
    let start = Instant::now();
    while client.status(node).await.unwrap().first_index <= LogIndex(1) {
        let message = |_| NewMessage::to(crate::QUEUE).body(vec![7; 500_000]);
        for message in (0..20).map(message) {
            client.send(message).await.unwrap();
        }
        receive_all(client).await;
        assert!(start.elapsed() < PATIENCE, "the log is never cut");
    }
}

#[test]
fn a_node_that_joins_after_the_log_was_cut_gets_a_snapshot_and_votes_on() {
    block_on(async {
        // Messages are forgotten, and log is cut, as soon as these allow it.
        let flags = ["--snapshot-log-bytes=1MiB", "--segment-bytes-max=20MiB", "--dedup-window=1s"];
        let mut cluster = Cluster::start(1, &flags);
        let client = cluster.connect().await;
        outgrow_the_log(&client, NodeId(1)).await;
        let mut promised = Promised::new();
        settle(&mut enqueue(&client, 300).await, 300, &mut promised).await;
        for node in [2, 3].map(NodeId) {
            assert_eq!(cluster.begin_to_join(&flags), node);
            cluster.process(node).wait_for_line("installed a snapshot");
            cluster.process(node).wait_for_line(&format!("promoted: node {node} "));
        }
        cluster.kill(NodeId(1));
        // The first client's session may have ended: with this window it lasts for a second.
        let client = cluster.connect().await;
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_without_an_election_timeout() {
    block_on(async {
        let timeout = Duration::from_secs(2);
        let mut cluster = Cluster::start(3, &["--election-timeout", "2s"]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let mut promised = Promised::new();
        let mut underway = enqueue(&client, 600).await;
        settle(&mut underway, 200, &mut promised).await;
        let before = Instant::now();
        assert!(cluster.process(leader).terminate().success());
        let mut view = client.nodes();
        while view.leader.is_none_or(|now| now == leader) {
            view = client.nodes_changed(&view).await.unwrap();
        }
        let elapsed = before.elapsed();
        assert!(elapsed < timeout, "{elapsed:?}: no follower would have campaigned by itself yet");
        settle(&mut underway, 400, &mut promised).await;
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn leadership_goes_where_the_operator_wants_it() {
    block_on(async {
        let cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        for to in (1..=3).map(NodeId).filter(|node| *node != leader) {
            assert_eq!(client.transfer(Some(to)).await.unwrap(), to);
        }
        assert!(client.transfer(Some(NodeId(9))).await.is_err());
        for from in [ReadFrom::Leader, ReadFrom::Anywhere, ReadFrom::Stale] {
            assert_eq!(client.reader(from).list().await.unwrap().value.len(), 0);
        }
    });
}

#[test]
fn two_lists_of_members_cannot_make_clusters_of_one_id() {
    let addresses = free_addresses(3);
    let home = tempfile::tempdir().unwrap();
    let init = |node: u64, cluster: &str, members: &[usize]| {
        let data = home.path().join(format!("{node}-{}", members.len()));
        let mut arguments = vec!["init".to_owned(), "--data".to_owned()];
        arguments.push(data.to_str().unwrap().to_owned());
        arguments.extend(["--cluster", cluster, "--node", &node.to_string()].map(str::to_owned));
        for member in members {
            arguments.push(format!("--member={}={}", member, addresses[member - 1]));
        }
        run(&arguments)
    };
    let output = init(1, "new", &[1, 2, 3]);
    let text = String::from_utf8(output.stdout).unwrap();
    let id = text.lines().next().unwrap().strip_prefix("cluster ").unwrap();
    let output = init(2, id, &[1, 2]);
    assert_eq!(output.status.code(), Some(1));
    let said = complaint(&output);
    assert!(said.contains(&format!("cluster {id} was not made for the members 1=")), "{said}");
    assert!(init(2, id, &[3, 2, 1]).status.success());

    // A directory that was made otherwise is refused at its start.
    let data = home.path().join("forged");
    forge(&data, id, addresses[..2].to_vec());
    let output = run(&["start", "--data", data.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("was not made for the members"), "{}", complaint(&output));
}

fn forge(data: &Path, cluster: &str, addresses: Vec<String>) {
    let members = (1..).map(NodeId).zip(addresses).collect();
    let cluster = ClusterId(uuid::Uuid::parse_str(cluster).unwrap().into_bytes());
    let identity = Identity::founder(cluster, GroupId(0), NodeId(2), members);
    let mut disk = FileDisk::create(data).unwrap();
    Store::format(disk.recovery(), &identity).unwrap();
}
