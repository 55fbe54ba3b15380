//! What operators ask of a cluster, and reads that others than the leader answer.

use crate::fake_cluster::{FakeCluster, Mood, STALE_TIME};
use client::{CallError, Client, MemberRole, NewMessage, Options, ReadFrom, Rejected, Unknown};
use engine::ids::NodeId;
use engine::raft::{Change, ChangeError, ChangeRequest, Claim, Step};
use std::time::Duration;

const CLAIM: Claim = Claim([9; 16]);

fn join() -> ChangeRequest {
    let step = Step::Add { address: "n4:1".to_owned(), claim: Some(CLAIM), is_joining: true };
    ChangeRequest::Change(Change { steps: vec![step], ..Change::default() })
}

fn remove(node: u64) -> ChangeRequest {
    ChangeRequest::Change(Change { steps: vec![Step::Remove(NodeId(node))], ..Change::default() })
}

/// Waits until the client is connected to all nodes.
async fn connect_to_all(client: &Client) {
    let mut known = client.nodes();
    while !known.nodes.iter().all(|node| node.connected) {
        known = client.nodes_changed(&known).await.unwrap();
    }
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_asked_of_the_next_leader_and_made_once() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(1, Options::default()).await;
    cluster.world().mood = Mood::AppliesAndHangsUp;
    let request = client.clone();
    let changing = tokio::spawn(async move { request.change_membership(join()).await });
    let mut known = client.nodes();
    while cluster.world().operations == 0 {
        tokio::task::yield_now().await;
    }
    {
        let mut world = cluster.world();
        world.mood = Mood::Serves;
        world.elect(Some(2));
    }
    let changed = changing.await.unwrap().unwrap();
    assert_eq!(changed.claimed_by(CLAIM).unwrap().node, NodeId(4));
    assert_eq!(changed.membership.members().len(), 4);
    while known.leader != Some(NodeId(2)) {
        known = client.nodes_changed(&known).await.unwrap();
    }
    let members = client.members().await.unwrap();
    assert_eq!((members.leader, members.list.len()), (NodeId(2), 4));
    assert_eq!(members.list[3].role, MemberRole::Joining);
}

#[tokio::test]
async fn a_change_that_a_leader_cannot_make_yet_is_asked_for_again() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(2, Options::default()).await;
    cluster.world().refusals = [ChangeError::LeaderTooNew, ChangeError::LeaderTooNew].into();
    client.change_membership(remove(3)).await.unwrap();
    assert_eq!(cluster.world().operations, 3);
}

#[tokio::test]
async fn a_change_under_way_is_waited_for_only_if_it_may_be_the_same() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(3, Options::default()).await;
    cluster.world().refusals = [ChangeError::Joint].into();
    let error = client.change_membership(remove(3)).await.unwrap_err();
    assert_eq!(error, CallError::Rejected(Rejected::Change(ChangeError::Joint)));
    // Whoever loses an answer cannot know who is at it.
    cluster.world().mood = Mood::AppliesAndHangsUp;
    let request = client.clone();
    let changing = tokio::spawn(async move { request.change_membership(remove(3)).await });
    while cluster.world().operations == 1 {
        tokio::task::yield_now().await;
    }
    {
        let mut world = cluster.world();
        world.mood = Mood::Serves;
        world.refusals = [ChangeError::Joint, ChangeError::Pending { at: 7 }].into();
    }
    changing.await.unwrap().unwrap();
    assert_eq!(cluster.world().operations, 5);
}

#[tokio::test]
async fn a_change_that_makes_no_sense_is_rejected_with_the_reason() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(4, Options::default()).await;
    let error = client.change_membership(remove(9)).await.unwrap_err();
    assert!(error.to_string().contains("node 9 is not a member"), "{error}");
    assert_eq!(cluster.world().operations, 1);
}

#[tokio::test]
async fn a_change_that_reached_a_leader_and_is_not_answered_is_unknown_and_otherwise_rejected() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(5, Options::default()).await;
    let hasty = client.with_timeout(Duration::from_millis(100));
    cluster.world().mood = Mood::Ignores;
    let error = hasty.change_membership(remove(3)).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(Unknown::Deadline { .. })), "{error}");
    cluster.elect(None);
    let mut known = client.nodes();
    while known.leader.is_some() {
        known = client.nodes_changed(&known).await.unwrap();
    }
    let error = hasty.transfer(None).await.unwrap_err();
    assert!(matches!(error, CallError::Rejected(Rejected::Deadline { .. })), "{error}");
}

#[tokio::test]
async fn a_transfer_names_the_new_leader_also_when_its_answer_is_lost() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(6, Options::default()).await;
    connect_to_all(&client).await;
    assert_eq!(client.transfer(Some(NodeId(3))).await.unwrap(), NodeId(3));
    cluster.world().mood = Mood::AppliesAndHangsUp;
    assert_eq!(client.transfer(None).await.unwrap(), NodeId(1));
    assert_eq!(cluster.world().operations, 2, "the lost one is not asked of the new leader");
}

#[tokio::test]
async fn reads_from_anywhere_leave_the_leader_alone_and_stale_ones_need_none() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(7, Options::default()).await;
    client.send(NewMessage::to("q").body("hello")).await.unwrap();
    connect_to_all(&client).await;
    for _ in 0..4 {
        let read = client.reader(ReadFrom::Anywhere).list().await.unwrap();
        assert_eq!((read.value.len(), read.log_time), (1, None));
        assert_ne!(read.node, NodeId(1));
    }
    cluster.elect(None);
    let read = client.reader(ReadFrom::Stale).browse("q", None, 10).await.unwrap();
    assert_eq!(read.value[0].message.body, b"hello");
    assert_eq!(read.log_time, Some(STALE_TIME));
}

#[tokio::test]
async fn members_are_asked_of_the_leader_whoever_that_is() {
    let cluster = FakeCluster::start().await;
    let client = cluster.client(8, Options::default()).await;
    assert_eq!(client.members().await.unwrap().leader, NodeId(1));
    cluster.elect(Some(3));
    let mut members = client.members().await.unwrap();
    while members.leader != NodeId(3) {
        members = client.members().await.unwrap();
    }
    assert_eq!(client.status(NodeId(2)).await.unwrap().node, NodeId(2));
}
