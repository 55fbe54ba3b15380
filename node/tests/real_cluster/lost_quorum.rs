//! A majority is lost for good, and a survivor's directory becomes a cluster of one.

use crate::support::{Cluster, PATIENCE, Process, complaint, run};
use crate::{Promised, QUEUE, assert_kept, block_on, enqueue, receive_all, settle};
use client::{Client, NewMessage, Options};
use engine::ids::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::path::Path;

/// Every file of a data directory but the lock.
fn files_of(data: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.file_name().unwrap() != "lock");
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn everything_acknowledged_is_received_from_a_cluster_of_one_after_a_lost_quorum() {
    block_on(async {
        let mut cluster = Cluster::start(3, &[]);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let mut promised = Promised::new();
        let mut underway = enqueue(&client, 500).await;
        let (first, _) = underway.front().unwrap();
        let first = *first;
        settle(&mut underway, 500, &mut promised).await;
        for node in (1..=3).map(NodeId).filter(|node| *node != leader) {
            cluster.kill(node);
            std::fs::remove_dir_all(cluster.data(node)).unwrap();
        }
        assert!(cluster.process(leader).terminate().success());

        let (from, new) = (cluster.data(leader), cluster.data(NodeId(9)));
        let before = files_of(&from);
        let mut arguments = vec!["recover-from-lost-quorum", "--from", &from, "--data", &new];
        let report = run(&arguments);
        let text = String::from_utf8(report.stdout.clone()).unwrap();
        assert!(report.status.success(), "{}", complaint(&report));
        let (old, other) = (cluster.id.to_string(), ClusterId([7; 16]).to_string());
        assert!(text.contains("Messages may be lost."), "{text}");
        assert!(text.contains(&format!("--confirm-cluster {old}")), "{text}");
        assert!(!Path::new(&new).exists(), "a report makes nothing");

        arguments.extend(["--confirm-cluster", &other]);
        let refused = run(&arguments);
        assert_eq!(refused.status.code(), Some(1));
        let complaint_text = complaint(&refused);
        assert!(complaint_text.contains(&old) && complaint_text.contains(&other));

        *arguments.last_mut().unwrap() = &old;
        let copied = run(&arguments);
        assert!(copied.status.success(), "{}", complaint(&copied));
        assert_eq!(files_of(&from), before, "the old directory is as it was");
        let text = String::from_utf8(copied.stdout).unwrap();
        let id = text.lines().find_map(|line| line.strip_prefix("cluster ")).unwrap();
        let id = ClusterId(uuid::Uuid::parse_str(id).unwrap().into_bytes());
        assert_ne!(id, cluster.id);
        let again = run(&arguments);
        assert!(complaint(&again).contains("is not empty"), "{}", complaint(&again));

        let process = Process::start(&["start", "--data", &new], &[]);
        process.wait_for_line("log recovered");
        let address = &cluster.addresses[usize::try_from(leader.0).unwrap() - 1];
        let options = Options { cluster: Some(id), timeout: PATIENCE, ..Options::default() };
        let client = Client::connect(std::slice::from_ref(address), options).await.unwrap();
        let sent = client.send(NewMessage::to(QUEUE).id(first)).await.unwrap();
        assert_eq!((sent.receipt, sent.duplicate), (promised[&first], true));
        assert_kept(&promised, &receive_all(&client).await);
    });
}
