//! `node::run` in this process, with the ports that only a test would give it.
#![cfg(not(feature = "sim"))]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use engine::ids::{ClusterId, GroupId, NodeId};
use engine::replica::Event;
use engine::storage::disk::{DiskError, DiskOp, Job, JobDone};
use engine::storage::{Identity, Store};
use engine::time::Now;
use node::clock::SystemClock;
use node::disk::{Directory, FileDisk};
use node::{DiskPort, NodeConfig, NodeError, Observer, Ports, Shutdown};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// A cluster of one, which elects itself and so writes at once.
fn format(home: &Path) -> NodeConfig {
    let members = vec![(NodeId(1), "127.0.0.1:0".to_owned())];
    let cluster = ClusterId([1; 16]);
    let identity = Identity::founder(cluster, GroupId(0), NodeId(1), members);
    let mut disk = FileDisk::create(home).unwrap();
    Store::format(disk.recovery(), &identity).unwrap();
    NodeConfig::new(identity)
}

fn run<D: DiskPort>(config: NodeConfig, ports: Ports<D, SystemClock>) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(node::run(config, ports))
}

/// A disk whose syncs fail once the node runs.
struct FailingDisk {
    files: FileDisk,
    done: Option<UnboundedSender<JobDone>>,
    syncs: Arc<AtomicU64>,
}

impl DiskPort for FailingDisk {
    type Recovery = Directory;

    fn recovery(&mut self) -> &mut Directory {
        self.files.recovery()
    }

    fn start(&mut self, done: UnboundedSender<JobDone>) {
        self.done = Some(done);
    }

    fn submit(&mut self, job: Job) {
        let syncs = job.ops.iter().filter(|op| matches!(op, DiskOp::Sync { .. })).count();
        self.syncs.fetch_add(syncs as u64, Ordering::Relaxed);
        let error = DiskError {
            operation: "sync",
            file: "a file".to_owned(),
            reason: "I/O error".to_owned(),
            is_full: false,
        };
        let report = job.failed_at(0, error);
        self.done.as_ref().unwrap().send(report).unwrap();
    }
}

#[test]
fn a_failed_sync_stops_the_node_and_is_not_tried_again() {
    let home = tempfile::tempdir().unwrap();
    let config = format(home.path());
    let syncs = Arc::new(AtomicU64::new(0));
    let files = FileDisk::open(home.path()).unwrap();
    let disk = FailingDisk { files, done: None, syncs: syncs.clone() };
    let shutdown: Shutdown = Box::pin(std::future::pending());
    let ports = Ports { disk, clock: SystemClock, seed: 1, shutdown, observer: None };
    let error = run(config, ports).unwrap_err();
    assert!(matches!(error, NodeError::Disk { .. }), "{error}");
    assert!(error.to_string().contains("sync of a file failed: I/O error"), "{error}");
    assert_eq!(syncs.load(Ordering::Relaxed), 1);
}

/// Asks the node to stop as soon as it leads.
struct StopWhenLeading {
    stop: Option<oneshot::Sender<()>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Observer for StopWhenLeading {
    fn on_event(&mut self, _: Now, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
        let is_led = matches!(event, Event::Role { leader: Some(_), .. });
        if let Some(stop) = self.stop.take_if(|_| is_led) {
            stop.send(()).unwrap();
        }
    }
}

#[test]
fn an_observer_sees_the_election_and_a_shutdown_releases_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let config = format(home.path());
    let (stop, stopped) = oneshot::channel();
    let events = Arc::new(Mutex::new(Vec::new()));
    let shutdown: Shutdown = Box::pin(async move { stopped.await.unwrap() });
    let observer = StopWhenLeading { stop: Some(stop), events: events.clone() };
    let disk = FileDisk::open(home.path()).unwrap();
    let ports =
        Ports { disk, clock: SystemClock, seed: 1, shutdown, observer: Some(Box::new(observer)) };
    run(config, ports).unwrap();
    let leads = |event: &Event| matches!(event, Event::Role { leader: Some(NodeId(1)), .. });
    assert!(events.lock().unwrap().iter().any(leads));
    FileDisk::open(home.path()).unwrap();
}
