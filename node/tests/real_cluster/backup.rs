//! A backup of a running cluster, under load and while the node that serves it dies, and a new cluster
//! that is made of it.

use crate::support::{Cluster, PATIENCE, Process, complaint, free_addresses, run};
use crate::{Promised, QUEUE, block_on, enqueue, receive_all, settle};
use bytes::Bytes;
use client::{BackupError, BackupProgress, Client, NewMessage, Options, ReceiveOptions};
use engine::backup::{Contents, check};
use engine::ids::{ClusterId, MessageId, NodeId};
use std::cell::Cell;
use std::io;

/// Pulls a backup off a node into memory.
async fn pull(client: &Client, node: NodeId) -> Result<Vec<u8>, BackupError> {
    let mut file = Vec::new();
    let write = |bytes: &[u8]| {
        file.extend_from_slice(bytes);
        Ok(())
    };
    client.backup(node, write, |_| ()).await?;
    Ok(file)
}

fn contents(file: &[u8]) -> Contents {
    let mut rest = file;
    let read = |len: usize| {
        let (bytes, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        Ok::<_, io::Error>(Bytes::copy_from_slice(bytes))
    };
    check(read, |_| ()).unwrap()
}

/// Sends, receives and acknowledges in another queue as long as it is polled.
async fn make_traffic(client: &Client) {
    loop {
        let messages = (0..50).map(|at| NewMessage::to("traffic").body(vec![at; 2_000])).collect();
        client.send_many(messages).await.unwrap();
        let options = ReceiveOptions { max: 40, ..ReceiveOptions::default() };
        let taken = client.receive("traffic", options).await.unwrap();
        let handles: Vec<_> = taken.iter().map(|delivery| delivery.handle).collect();
        client.ack("traffic", &handles).await.unwrap();
    }
}

/// Sends `count` messages and takes the first `taken` of them: what waits then, in order.
async fn load(client: &Client, count: usize, taken: usize) -> Vec<MessageId> {
    let mut underway = enqueue(client, count).await;
    let waiting = underway.iter().skip(taken).map(|(id, _)| *id).collect();
    settle(&mut underway, count, &mut Promised::new()).await;
    let options = ReceiveOptions { max: taken, ..ReceiveOptions::default() };
    let deliveries = client.receive(QUEUE, options).await.unwrap();
    let handles: Vec<_> = deliveries.iter().map(|delivery| delivery.handle).collect();
    assert_eq!(client.ack(QUEUE, &handles).await.unwrap(), vec![true; taken]);
    waiting
}

/// Snapshots are made all the time, and the log is cut short behind them.
const SMALL: &[&str] = &["--snapshot-log-bytes", "1MiB", "--segment-bytes-max", "19MiB"];

#[test]
fn what_was_acknowledged_before_a_backup_is_in_the_cluster_that_is_made_of_it() {
    block_on(async {
        let cluster = Cluster::start(3, SMALL);
        let client = cluster.connect().await;
        let leader = cluster.leader(&client).await;
        let waiting = load(&client, 900, 300).await;
        let follower = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
        let traffic = cluster.connect().await;
        let file = tokio::select! {
            file = pull(&client, follower) => file.unwrap(),
            () = make_traffic(&traffic) => unreachable!("it goes on"),
        };
        let there = contents(&file);
        assert_eq!((there.header.cluster, there.header.node), (cluster.id, follower));
        // What happens after the backup has begun does not happen in the other cluster.
        receive_all(&client).await;

        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let (backup, data) = (path("backup"), path("data"));
        std::fs::write(&backup, &file).unwrap();
        let address = free_addresses(1).remove(0);
        let arguments = ["restore", &backup, "--data", &data, "--address", &address];
        let restored = run(&arguments);
        assert!(restored.status.success(), "{}", complaint(&restored));
        let again = complaint(&run(&arguments));
        assert!(again.contains("is not empty"), "{again}");
        let text = String::from_utf8(restored.stdout).unwrap();
        let id = text.lines().find_map(|line| line.strip_prefix("cluster ")).unwrap();
        let id = ClusterId(uuid::Uuid::parse_str(id).unwrap().into_bytes());
        assert_ne!(id, cluster.id);

        let process = Process::start(&["start", "--data", &data], &[]);
        process.wait_for_line("log recovered");
        let options = Options { cluster: Some(id), timeout: PATIENCE, ..Options::default() };
        let client = Client::connect(std::slice::from_ref(&address), options).await.unwrap();
        let known = client.send(NewMessage::to(QUEUE).id(waiting[0])).await.unwrap();
        assert!(known.duplicate, "what was sent before is known");
        let received: Vec<_> = receive_all(&client).await.iter().map(|(id, _)| *id).collect();
        assert_eq!(received, waiting, "each once and in order");
    });
}

#[test]
fn a_damaged_backup_is_refused_before_anything_is_written() {
    block_on(async {
        let cluster = Cluster::start(1, &[]);
        let client = cluster.connect().await;
        load(&client, 50, 10).await;
        let mut file = pull(&client, NodeId(1)).await.unwrap();
        let at = file.len() / 2;
        file[at] ^= 4;
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let (backup, data) = (path("backup"), path("data"));
        std::fs::write(&backup, &file).unwrap();
        let refused = run(&["restore", &backup, "--data", &data, "--address", "127.0.0.1:7400"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(complaint(&refused).contains("damaged at byte"), "{}", complaint(&refused));
        assert!(!std::path::Path::new(&data).exists());
    });
}

#[test]
fn a_node_that_dies_in_the_middle_of_a_backup_leaves_it_to_another() {
    block_on(async {
        let mut cluster = Cluster::start(3, SMALL);
        let client = cluster.connect().await.with_timeout(std::time::Duration::from_secs(2));
        let leader = cluster.leader(&client).await;
        let waiting = load(&client, 900, 100).await;
        let mut others = (1..=3).map(NodeId).filter(|node| *node != leader);
        let (first, second) = (others.next().unwrap(), others.next().unwrap());
        let died = Cell::new(false);
        let kill = |progress| {
            if matches!(progress, BackupProgress::State(..)) && !died.replace(true) {
                cluster.kill(first);
            }
        };
        let failed = client.backup(first, |_| Ok(()), kill).await;
        assert!(matches!(failed, Err(BackupError::Call(_))), "{failed:?}");
        assert!(died.get(), "it died in the middle");

        // Restarted, it knows nothing of the backup; and another member gives it.
        cluster.start_node(first, SMALL);
        let there = contents(&pull(&client, second).await.unwrap());
        assert_eq!(there.messages, waiting.len() as u64);
        let again = contents(&pull(&client, first).await.unwrap());
        assert_eq!(again.header.node, first);
        assert_eq!(again.messages, waiting.len() as u64);
    });
}
