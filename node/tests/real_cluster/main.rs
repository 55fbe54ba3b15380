//! Real processes, real files, real sockets: what the simulator stands in for elsewhere.
//!
//! Nothing here sleeps: tests wait for answers, for lines of a node's log, or for its end.
#![cfg(not(feature = "sim"))]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod backup;
mod damage;
mod lost_quorum;
mod membership;
mod support;

use bytes::BytesMut;
use client::{CallError, Client, NewMessage, Pending, ReceiveOptions, Rejected};
use engine::ids::{ClusterId, MessageId, NodeId};
use engine::queue::{Invalid, Receipt, Sent};
use engine::wire::client::{
    Call, Caller, ClientFrame, Greeting, Health, Hello, Refusal, write_client_frame,
};
use engine::wire::{TailCheck, decode, take_frame, write_frame};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use support::{Cluster, PATIENCE, command, complaint, free_addresses, run};

const QUEUE: &str = "orders";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Sends on their way, oldest first.
type Underway = VecDeque<(MessageId, Pending<Sent>)>;
/// What was acknowledged, and how.
type Promised = BTreeMap<MessageId, Receipt>;

/// Puts `count` messages on their way, which must fit into the client's window.
async fn enqueue(client: &Client, count: usize) -> Underway {
    let mut underway = Underway::new();
    for number in 0..count {
        let id = client.mint_id();
        let message = NewMessage::to(QUEUE).id(id).body(number.to_string());
        underway.push_back((id, client.enqueue(message).await.unwrap()));
    }
    underway
}

/// Waits for the answers to the oldest `count` sends.
async fn settle(underway: &mut Underway, count: usize, promised: &mut Promised) {
    for (id, answer) in underway.drain(..count) {
        assert_eq!(promised.insert(id, answer.await.unwrap().receipt), None);
    }
}

/// Receives and acknowledges everything; positions must rise.
async fn receive_all(client: &Client) -> Vec<(MessageId, Receipt)> {
    let mut received = Vec::new();
    loop {
        let options = ReceiveOptions { max: 500, ..ReceiveOptions::default() };
        let deliveries = client.receive(QUEUE, options).await.unwrap();
        if deliveries.is_empty() {
            return received;
        }
        for delivery in &deliveries {
            let id = delivery.message.id;
            let stored = client.get(QUEUE, id).await.unwrap().unwrap();
            received.push((id, stored.receipt));
        }
        let handles: Vec<_> = deliveries.iter().map(|delivery| delivery.handle).collect();
        assert!(client.ack(QUEUE, &handles).await.unwrap().iter().all(|held| *held));
    }
}

/// Exactly what was acknowledged comes out, once, in order, with the receipts that were given.
fn assert_kept(promised: &Promised, received: &[(MessageId, Receipt)]) {
    let as_map: BTreeMap<_, _> = received.iter().copied().collect();
    assert_eq!(as_map.len(), received.len(), "nothing twice");
    assert_eq!(&as_map, promised, "nothing lost, nothing else, and every receipt as promised");
    assert!(received.is_sorted_by_key(|(_, receipt)| receipt.position), "in order");
}

#[test]
fn acknowledged_messages_survive_kill_9_of_the_leader_amid_sends() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let mut promised = Promised::new();
        let mut underway = enqueue(&client, 900).await;
        settle(&mut underway, 300, &mut promised).await;
        cluster.kill(leader);
        settle(&mut underway, 300, &mut promised).await;
        cluster.start_node(leader, &[]);
        settle(&mut underway, 300, &mut promised).await;
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn acknowledged_messages_survive_kill_9_of_all_nodes_at_once_amid_sends() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let mut promised = Promised::new();
        let mut underway = enqueue(&client, 1_000).await;
        settle(&mut underway, 300, &mut promised).await;
        cluster.kill_all();
        cluster.start_all(&[]);
        settle(&mut underway, 700, &mut promised).await;
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn an_id_sent_again_after_a_restart_of_everything_gets_its_first_receipt() {
    block_on(async {
        let mut cluster = Cluster::start(1, &[]);
        let client = cluster.connect().await;
        let message = NewMessage::to(QUEUE).id(client.mint_id());
        let first = client.send(message.clone()).await.unwrap();
        cluster.kill_all();
        cluster.start_all(&[]);
        let again = cluster.connect().await.send(message).await.unwrap();
        assert_eq!((again.receipt, again.duplicate), (first.receipt, true));
    });
}

/// Says hello as a client of `cluster`, and returns the connection and the greeting.
fn say_hello(address: &str, cluster: Option<ClusterId>) -> (TcpStream, Greeting) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = BytesMut::new();
    write_frame(&mut bytes, &Hello::new(Caller::Client { cluster }), &[], TailCheck::Frame);
    stream.write_all(&bytes).unwrap();
    bytes.clear();
    loop {
        let mut piece = [0; 4_096];
        let count = stream.read(&mut piece).unwrap();
        assert_ne!(count, 0, "a greeting comes before the end");
        bytes.extend_from_slice(&piece[..count]);
        if let Some(frame) = take_frame(&mut bytes).unwrap() {
            return (stream, decode("a greeting", &frame.head).unwrap());
        }
    }
}

#[test]
fn a_client_of_another_cluster_is_refused_with_both_names() {
    let mut cluster = Cluster::start(1, &[]);
    let wanted = ClusterId([7; 16]);
    let (mut stream, greeting) = say_hello(&cluster.addresses[0], Some(wanted));
    let refusal = Refusal::WrongCluster { here: cluster.id, wanted };
    assert_eq!(greeting, Greeting::Refused(refusal.clone()));
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "and closed");
    cluster.process(NodeId(1)).wait_for_line(&refusal.to_string());
}

#[test]
fn a_client_too_many_is_refused_until_another_goes() {
    let cluster = Cluster::start(1, &["--client-connections-max", "1"]);
    let (first, greeting) = say_hello(&cluster.addresses[0], None);
    assert!(matches!(greeting, Greeting::Welcome(_)), "{greeting:?}");
    let (_, greeting) = say_hello(&cluster.addresses[0], None);
    assert_eq!(greeting, Greeting::Refused(Refusal::Full { max: 1 }));
    drop(first);
    // The node learns of the end through its socket, a moment later.
    while let (_, Greeting::Refused(_)) = say_hello(&cluster.addresses[0], Some(cluster.id)) {}
}

#[test]
fn a_member_of_another_cluster_is_refused_and_both_sides_say_so() {
    let addresses = free_addresses(2);
    let mut here = Cluster::init_at(addresses.clone());
    let mut other = Cluster::init_at(addresses);
    here.start_node(NodeId(1), &[]);
    other.start_node(NodeId(2), &[]);
    let refusal = format!("this node belongs to cluster {}", other.id);
    here.process(NodeId(1)).wait_for_line(&refusal);
    other.process(NodeId(2)).wait_for_line("refused the connection from");
}

#[test]
fn a_node_on_a_taken_port_refuses_to_start_and_says_what_to_do() {
    let cluster = Cluster::init(1);
    let _taken = TcpListener::bind(&cluster.addresses[0]).unwrap();
    let output = run(&["start", "--data", &cluster.data(NodeId(1))]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    let expected = format!("cannot listen on {}: another process has", cluster.addresses[0]);
    assert!(complaint.contains(&expected), "{complaint}");
    assert!(complaint.contains("--listen"), "{complaint}");
}

#[test]
fn a_second_process_on_a_directory_and_a_second_init_are_refused() {
    let cluster = Cluster::start(1, &[]);
    let data = cluster.data(NodeId(1));
    let output = run(&["start", "--data", &data]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("is in use by process"), "{}", complaint(&output));
    drop(cluster);

    let cluster = Cluster::init(1);
    let data = cluster.data(NodeId(1));
    let member = format!("--member=1={}", cluster.addresses[0]);
    let output = run(&["init", "--data", &data, "--cluster", "new", "--node", "1", &member]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("choose an empty directory"), "{}", complaint(&output));
}

/// Waits until clients are told that `node` is `health`.
async fn wait_for_health(client: &Client, node: NodeId, health: Health) {
    let mut view = client.nodes();
    while !view.nodes.iter().any(|seen| seen.node == node && seen.health == health) {
        let changed = tokio::time::timeout(PATIENCE, client.nodes_changed(&view)).await;
        view = changed.unwrap().unwrap();
    }
}

#[test]
fn clients_are_told_that_a_node_is_gone_and_that_it_is_back() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let follower = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
        wait_for_health(&client, follower, Health::Reachable).await;
        cluster.kill(follower);
        wait_for_health(&client, follower, Health::Unreachable).await;
        cluster.start_node(follower, &[]);
        wait_for_health(&client, follower, Health::Reachable).await;
    });
}

#[test]
fn garbage_on_the_port_disturbs_nobody_and_leaves_a_line() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let address = cluster.addresses[usize::try_from(leader.0).unwrap() - 1].clone();
        for garbage in [b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".as_slice(), &[0; 64], &[255; 64]]
        {
            let mut stranger = TcpStream::connect(&address).unwrap();
            stranger.set_read_timeout(Some(PATIENCE)).unwrap();
            stranger.write_all(garbage).unwrap();
            // Closed, cleanly or by a reset, and without an answer.
            let answer = stranger.read(&mut [0; 1]);
            assert!(!matches!(answer, Ok(1)), "{answer:?}");
            cluster.process(leader).wait_for_line("closed the connection from");
        }
        let mut promised = Promised::new();
        settle(&mut enqueue(&client, 100).await, 100, &mut promised).await;
        assert_eq!(cluster.leader(&client).await, leader);
        assert_kept(&promised, &receive_all(&client).await);
    });
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let mut cluster = Cluster::start(1, &["--connection-outbound-bytes-max", "1MiB"]);
    let (mut stream, _) = say_hello(&cluster.addresses[0], None);
    let mut bytes = BytesMut::new();
    for request in 0..100 {
        write_client_frame(&mut bytes, &ClientFrame::Call { request, call: Call::Status }, &[]);
    }
    // The system's own buffers take some megabytes before anything waits in the node.
    while stream.write_all(&bytes).is_ok() {}
    cluster.process(NodeId(1)).wait_for_line("it does not read, and");
}

#[test]
fn a_node_told_to_stop_exits_with_success_and_one_that_loses_its_parent_too() {
    let mut cluster = Cluster::start(1, &[]);
    assert!(cluster.process(NodeId(1)).terminate().success());
    // Standard input of these processes is empty, as if the parent were gone at once.
    let data = cluster.data(NodeId(1));
    let status = command(&["start", "--data", &data, "--stop-with-parent"]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_body_over_the_configured_limit_is_rejected_with_both_numbers() {
    block_on(async {
        let cluster = Cluster::start(1, &["--body-bytes-max", "1KiB"]);
        let client = cluster.connect().await;
        let id = client.mint_id();
        let message = NewMessage::to(QUEUE).id(id);
        client.send(message.clone().id(client.mint_id()).body(vec![0; 1_024])).await.unwrap();
        let error = client.send(message.body(vec![0; 1_025])).await.unwrap_err();
        let expected = Rejected::Invalid(Invalid::Body { id, bytes: 1_025, max: 1_024 });
        assert_eq!(error, CallError::Rejected(expected));
    });
}

#[test]
fn the_demo_loses_repeats_and_reorders_nothing_and_says_so_in_json() {
    let output = run(&["demo", "--messages", "3000", "--json"]);
    assert!(output.status.success(), "{}", complaint(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let summary: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    for (key, expected) in [
        ("nodes", 3),
        ("sent", 3_000),
        ("acked", 3_000),
        ("received", 3_000),
        ("lost", 0),
        ("duplicated", 0),
        ("out_of_order", 0),
    ] {
        assert_eq!(summary[key], expected, "{key} in {summary}");
    }
    assert!(summary["failover_ms"].as_u64().unwrap() > 0, "{summary}");
    assert!(summary["elapsed_s"].as_f64().unwrap() > 0.0, "{summary}");
}
