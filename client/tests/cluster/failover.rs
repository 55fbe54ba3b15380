//! What a client makes of leaders that come, go, lie about nothing and lose answers.

use crate::fake_cluster::{FakeCluster, Mood};
use client::{CallError, NewMessage, Options, ReceiveOptions, Rejected, Unknown};
use engine::limits::Limits;
use engine::queue::Invalid;
use std::collections::VecDeque;
use std::time::Duration;

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("message {number}")).collect()
}

#[tokio::test]
async fn one_address_of_a_follower_is_enough_to_send_and_receive() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(1, Options::default()).await;
    let sent = client.send(NewMessage::to("q").body("hello").header("k", "v")).await.unwrap();
    assert!(!sent.duplicate);

    let deliveries = client.receive("q", ReceiveOptions::default()).await.unwrap();
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].message.body, b"hello");
    assert_eq!(deliveries[0].message.headers, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(deliveries[0].attempt, 1);
    assert_eq!(client.ack("q", &[deliveries[0].handle]).await.unwrap(), [true]);
    assert_eq!(client.ack("q", &[deliveries[0].handle]).await.unwrap(), [false]);
    assert_eq!(client.list().await.unwrap()[0].available, 0);
    assert_eq!(client.nodes().nodes.len(), 3);
}

#[tokio::test]
async fn a_waiting_receive_gets_a_message_that_is_sent_later() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(1, Options::default()).await;
    let options = ReceiveOptions { wait: Duration::from_secs(30), ..ReceiveOptions::default() };
    let waiter = client.clone();
    let waiting = tokio::spawn(async move { waiter.receive("q", options).await });
    // The receive is ahead of this in the same session, so it found the queue empty.
    tokio::task::yield_now().await;
    client.send(NewMessage::to("q").body("late")).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap()[0].message.body, b"late");
}

#[tokio::test]
async fn what_a_killed_leader_applied_without_answering_is_stored_once_and_in_order() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(2, Options { window: 64, ..Options::default() }).await;
    let mut pending = VecDeque::new();
    for (number, body) in numbered(600).into_iter().enumerate() {
        pending.push_back(client.enqueue(NewMessage::to("q").body(body)).await.unwrap());
        if number == 200 {
            cluster.world().mood = Mood::AppliesAndHangsUp;
        }
        if number == 300 {
            cluster.kill(1);
            cluster.elect(None);
        }
        if number == 310 {
            let mut world = cluster.world();
            world.mood = Mood::Serves;
            world.elect(Some(3));
        }
    }
    for answer in pending {
        assert!(!answer.await.unwrap().duplicate);
    }
    assert_eq!(cluster.world().bodies("q"), numbered(600));
}

#[tokio::test]
async fn a_leader_that_stays_silent_is_left_as_soon_as_another_is_known() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(3, Options::default()).await;
    client.send(NewMessage::to("q").body("message 0")).await.unwrap();
    cluster.world().mood = Mood::Ignores;
    let stuck = client.enqueue(NewMessage::to("q").body("message 1")).await.unwrap();
    let read = client.list().await.unwrap();
    assert_eq!(read[0].available, 1);
    {
        let mut world = cluster.world();
        world.mood = Mood::Serves;
        world.elect(Some(2));
    }
    stuck.await.unwrap();
    assert_eq!(cluster.world().bodies("q"), numbered(2));
}

#[tokio::test]
async fn many_receives_at_once_get_each_message_once() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(11, Options::default()).await;
    let messages = numbered(60).into_iter().map(|body| NewMessage::to("q").body(body)).collect();
    assert_eq!(client.send_many(messages).await.unwrap().len(), 60);
    let mut receivers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        let options = ReceiveOptions { max: 3, ..ReceiveOptions::default() };
        receivers.spawn(async move { client.receive("q", options).await.unwrap() });
    }
    let mut bodies: Vec<Vec<u8>> =
        receivers.join_all().await.into_iter().flatten().map(|d| d.message.body).collect();
    bodies.sort_unstable();
    let mut wanted: Vec<Vec<u8>> = numbered(60).into_iter().map(String::into_bytes).collect();
    wanted.sort_unstable();
    assert_eq!(bodies, wanted);
}

#[tokio::test]
async fn refusals_for_want_of_room_delay_messages_and_keep_their_order() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(4, Options { window: 8, ..Options::default() }).await;
    cluster.world().mood = Mood::Full(5);
    let mut pending = Vec::new();
    for body in numbered(100) {
        pending.push(client.enqueue(NewMessage::to("q").body(body)).await.unwrap());
    }
    for answer in pending {
        answer.await.unwrap();
    }
    assert_eq!(cluster.world().bodies("q"), numbered(100));
}

#[tokio::test]
async fn an_invalid_message_is_rejected_and_its_neighbours_are_stored() {
    let limits = Limits { body_bytes_max: 20, ..Limits::default() };
    let cluster = FakeCluster::with_limits(limits).await;
    let client = cluster.client(5, Options::default()).await;
    let mut pending = Vec::new();
    for (number, body) in numbered(30).into_iter().enumerate() {
        let body = if number % 10 == 7 { "x".repeat(21) } else { body };
        pending.push(client.enqueue(NewMessage::to("q").body(body)).await.unwrap());
    }
    for (number, answer) in pending.into_iter().enumerate() {
        match answer.await {
            Ok(_) => assert_ne!(number % 10, 7),
            Err(CallError::Rejected(Rejected::Invalid(Invalid::Body {
                bytes: 21,
                max: 20,
                ..
            }))) => {
                assert_eq!(number % 10, 7);
            }
            Err(other) => panic!("message {number}: {other}"),
        }
    }
    let wanted: Vec<String> =
        numbered(30).into_iter().enumerate().filter(|(n, _)| n % 10 != 7).map(|(_, b)| b).collect();
    assert_eq!(cluster.world().bodies("q"), wanted);
}

#[tokio::test]
async fn a_session_that_expired_while_idle_is_replaced_without_the_caller_noticing() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(6, Options::default()).await;
    client.send(NewMessage::to("q").body("message 0")).await.unwrap();
    cluster.world().sessions = engine::session::Sessions::new(&Limits::default());
    // The new table mints the same first id again, as a real one never does.
    cluster.world().sessions.open(engine::hlc::Hlc::ZERO);
    cluster.world().sessions.close(engine::ids::SessionId(1));
    client.send(NewMessage::to("q").body("message 1")).await.unwrap();
    assert_eq!(cluster.world().bodies("q"), numbered(2));
}

#[tokio::test]
async fn a_call_that_reached_no_leader_is_rejected_at_its_deadline() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(7, Options::default()).await;
    cluster.elect(None);
    let hasty = client.with_timeout(Duration::from_millis(30));
    let error = hasty.send(NewMessage::to("q").body("late")).await.unwrap_err();
    assert!(matches!(error, CallError::Rejected(Rejected::Deadline { .. })), "{error}");
    cluster.elect(Some(2));
    client.send(NewMessage::to("q").body("message 0")).await.unwrap();
    assert_eq!(cluster.world().bodies("q"), numbered(1));
}

#[tokio::test]
async fn a_call_that_was_given_up_is_not_carried_out_by_the_next_leader() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(8, Options::default()).await;
    client.send(NewMessage::to("q").body("message 0")).await.unwrap();
    cluster.world().mood = Mood::Ignores;
    let hasty = client.with_timeout(Duration::from_millis(30));
    let error = hasty.send(NewMessage::to("q").body("given up")).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(Unknown::Deadline { .. })), "{error}");
    {
        let mut world = cluster.world();
        world.mood = Mood::Serves;
        world.elect(Some(3));
    }
    client.send(NewMessage::to("q").body("message 1")).await.unwrap();
    assert_eq!(cluster.world().bodies("q"), numbered(2));
}

#[tokio::test]
async fn closing_a_client_closes_its_session() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(9, Options::default()).await;
    client.send(NewMessage::to("q").body("x")).await.unwrap();
    assert_eq!(cluster.world().sessions.len(), 1);
    client.close(Duration::from_secs(10)).await;
    // The goodbye is written by now; another client's call is read after it or soon enough.
    let other = cluster.client(10, Options::default()).await;
    while !cluster.world().sessions.is_empty() {
        other.list().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_freezes_with_its_connections_open_is_noticed_by_its_silence() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(12, Options::default()).await;
    let is_connected = |known: &client::Cluster| known.nodes[0].connected;
    let mut known = client.nodes();
    while !is_connected(&known) {
        known = client.nodes_changed(&known).await.unwrap();
    }
    cluster.world().frozen = Some(engine::ids::NodeId(1));
    let stuck = client.enqueue(NewMessage::to("q").body("message 0")).await.unwrap();
    while is_connected(&known) {
        known = client.nodes_changed(&known).await.unwrap();
    }
    cluster.elect(Some(2));
    stuck.await.unwrap();
    assert_eq!(cluster.world().bodies("q"), numbered(1));
}

#[tokio::test]
async fn nobody_home_is_an_error_that_names_each_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    for cluster in [None, Some(engine::ids::ClusterId([7; 16]))] {
        let connect_timeout = Duration::from_millis(50);
        let options = Options { connect_timeout, cluster, ..Options::default() };
        let addresses = std::slice::from_ref(&address);
        let error = client::Client::connect(addresses, options).await.unwrap_err();
        assert_eq!(error.attempts[0].0, address);
        assert!(error.attempts[0].1.contains("refused"), "{error}");
    }
}
