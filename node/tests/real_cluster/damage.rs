//! Files that decay under real nodes with clients: one member after the other is killed, its files are
//! damaged, and it repairs itself from the others while they serve.
//!
//! `DAMAGE_ROUNDS` asks for more rounds, `DAMAGE_SEED` for others; a failure prints both.

use super::{QUEUE, block_on};
use crate::support::{Cluster, PATIENCE};
use client::{Client, NewMessage, Options, ReceiveOptions};
use engine::ids::{MessageId, NodeId, Position};
use engine::wire::client::NodeStatus;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// As small as they may be, so that a few seconds fill several, and snapshots replace them.
const FLAGS: [&str; 2] = ["--segment-bytes-max=19MiB", "--snapshot-log-bytes=4MiB"];
/// Rounds unless told otherwise: each member once.
const ROUNDS: u64 = 3;
/// Wounds in a round.
const WOUNDS: usize = 3;
/// What is written last looks like a torn write when it is damaged, and nothing vouches for it yet.
const UNSEALED_BYTES: u64 = 128 * 1_024;
const PAGE_BYTES: u64 = 4_096;
/// Repair is allowed to take so long on a busy machine.
const REPAIR_PATIENCE: Duration = Duration::from_secs(90);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A body that only its id has.
fn body_of(id: MessageId, len: usize) -> Vec<u8> {
    id.0.iter().cycle().take(len).copied().collect()
}

/// What the load's clients saw.
#[derive(Default)]
struct Seen {
    promised: BTreeMap<MessageId, Position>,
    received: Vec<(MessageId, Position)>,
}

impl Seen {
    /// Sends some messages and notes where they are.
    async fn send(&mut self, client: &Client, rng: &mut Xoshiro256PlusPlus) {
        let mut underway = Vec::new();
        for _ in 0..24 {
            let (id, len) = (client.mint_id(), rng.random_range(0..4_000));
            let message = NewMessage::to(QUEUE).id(id).body(body_of(id, len));
            underway.push((id, client.enqueue(message).await.unwrap()));
        }
        for (id, answer) in underway {
            let sent = answer.await.unwrap();
            assert_eq!(self.promised.insert(id, sent.receipt.position), None);
        }
    }

    /// Receives some, looks at every byte, and acknowledges them. Whether there were any.
    async fn receive(&mut self, client: &Client, max: usize) -> bool {
        let options = ReceiveOptions { max, ..ReceiveOptions::default() };
        let deliveries = client.receive(QUEUE, options).await.unwrap();
        for delivery in &deliveries {
            let (id, body) = (delivery.message.id, &delivery.message.body);
            assert_eq!(*body, body_of(id, body.len()), "{id} has other bytes");
            self.received.push((id, delivery.handle.0.position));
        }
        if deliveries.is_empty() {
            return false;
        }
        let handles: Vec<_> = deliveries.iter().map(|delivery| delivery.handle).collect();
        assert!(client.ack(QUEUE, &handles).await.unwrap().iter().all(|held| *held));
        true
    }
}

/// Sends and receives in a thread of its own until it is told to stop; more is sent than received.
fn load(cluster: &Cluster, seed: u64, is_over: &Arc<AtomicBool>) -> JoinHandle<Seen> {
    let (addresses, id) = (cluster.addresses.clone(), cluster.id);
    let is_over = is_over.clone();
    std::thread::spawn(move || {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut seen = Seen::default();
        block_on(async {
            let options = Options { cluster: Some(id), timeout: PATIENCE, ..Options::default() };
            let client = Client::connect(&addresses, options).await.unwrap();
            while !is_over.load(Ordering::Relaxed) {
                seen.send(&client, &mut rng).await;
                seen.receive(&client, rng.random_range(1..24)).await;
            }
            while seen.receive(&client, 500).await {}
        });
        seen
    })
}

/// The segments and snapshots of a node that does not run, each with its length, in order.
fn files(data: &str) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let is_of_log =
        |path: &PathBuf| path.extension().is_some_and(|end| end == "seg" || end == "snap");
    let mut files: Vec<PathBuf> = entries.filter(is_of_log).collect();
    files.sort();
    let len = |path: &PathBuf| path.metadata().unwrap().len();
    files.into_iter().map(|path| (path.clone(), len(&path))).collect()
}

/// Damages a file somewhere and says how.
fn wound(data: &str, rng: &mut Xoshiro256PlusPlus) -> String {
    let mut files = files(data);
    let last = files.iter_mut().rfind(|(path, _)| path.extension().is_some_and(|end| end == "seg"));
    let (unsealed, end) = last.expect("there is a segment");
    let unsealed = unsealed.clone();
    *end = end.saturating_sub(UNSEALED_BYTES);
    files.retain(|(_, end)| *end > 0);
    let Some((path, end)) = files.get(rng.random_range(0..files.len().max(1))).cloned() else {
        return "nothing: all of it is too new".to_owned();
    };
    let at = rng.random_range(0..end);
    let mut bytes = std::fs::read(&path).unwrap();
    let start = usize::try_from(at).unwrap();
    let what = match rng.random_range(0..3) {
        0 if path != unsealed => {
            bytes.truncate(start);
            "cut at"
        }
        1 => {
            let page = usize::try_from(at / PAGE_BYTES * PAGE_BYTES).unwrap();
            let page_end = (page + 4_096).min(bytes.len());
            bytes[page..page_end].fill(0);
            "a page of zeros around"
        }
        _ => {
            bytes[start] ^= 1 << rng.random_range(0..8);
            "a bit flips in"
        }
    };
    std::fs::write(&path, bytes).unwrap();
    format!("{}: {what} byte {at} of {end}", Path::new(&path).file_name().unwrap().display())
}

/// Waits until a node says that it lacks nothing and has applied whatever was committed by now.
async fn is_whole(client: &Client, node: NodeId) {
    let committed = |statuses: &[NodeStatus]| statuses.iter().map(|one| one.commit_index).max();
    let mut others = Vec::new();
    for other in (1..=3).map(NodeId) {
        others.extend(client.status(other).await);
    }
    let due = committed(&others).expect("somebody serves");
    let deadline = Instant::now() + REPAIR_PATIENCE;
    loop {
        let status = client.status(node).await;
        let is_whole = status.as_ref().is_ok_and(|status| {
            status.missing == 0 && status.lost == 0 && status.is_fit && status.applied_index >= due
        });
        if is_whole {
            return;
        }
        assert!(Instant::now() < deadline, "node {node} does not become whole: {status:#?}");
        let view = client.nodes();
        let _ = tokio::time::timeout(Duration::from_millis(50), client.nodes_changed(&view)).await;
    }
}

#[test]
fn members_whose_files_decay_in_turn_repair_themselves_and_nothing_is_lost() {
    let (rounds, seed) = (setting("DAMAGE_ROUNDS", ROUNDS), setting("DAMAGE_SEED", 1));
    eprintln!("DAMAGE_ROUNDS={rounds} DAMAGE_SEED={seed}");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut cluster = Cluster::start(3, &FLAGS);
    let is_over = Arc::new(AtomicBool::new(false));
    let load = load(&cluster, seed, &is_over);
    let mut wounds = Vec::new();
    block_on(async {
        let client = cluster.connect().await;
        for round in 0..rounds {
            let node = NodeId(1 + (round + seed) % 3);
            // What it alone has acknowledged with the leader, both others have before its files decay.
            write_some(&client).await;
            cluster.kill(node);
            write_some(&client).await;
            for _ in 0..WOUNDS {
                let wound = format!("node {node}, {}", wound(&cluster.data(node), &mut rng));
                eprintln!("{wound}");
                wounds.push(wound);
            }
            cluster.start_node(node, &FLAGS);
            is_whole(&client, node).await;
        }
        for node in (1..=3).map(NodeId) {
            is_whole(&client, node).await;
        }
    });
    is_over.store(true, Ordering::Relaxed);
    let Seen { promised, received } = load.join().expect("every call was answered");
    let as_map: BTreeMap<_, _> = received.iter().copied().collect();
    assert_eq!(as_map.len(), received.len(), "nothing twice: {wounds:#?}");
    assert_eq!(as_map, promised, "nothing lost and nothing else: {wounds:#?}");
    assert!(received.is_sorted_by_key(|(_, position)| *position), "in order: {wounds:#?}");
    eprintln!("{} messages, {} wounds, 0 lost, 0 twice", received.len(), wounds.len());
}

/// Acknowledged writes to a queue of their own, which is never emptied.
async fn write_some(client: &Client) {
    let mut underway = Vec::new();
    for _ in 0..400 {
        let message = NewMessage::to("ballast").body(vec![7; 16_000]);
        underway.push(client.enqueue(message).await.unwrap());
    }
    for answer in underway {
        answer.await.unwrap();
    }
}
