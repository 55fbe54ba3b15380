//! A power failure of the whole cluster after every disk operation of one member, in every way that is
//! legal for what was not synced: what is left opens, has forgotten nothing and invented nothing, and the
//! cluster goes on from it.
//!
//! The watched member leads, is deposed and has its entries replaced, makes snapshots, falls behind and
//! has one installed, pulls what it lacks, and cleans up behind itself. `recovery` does the same to a
//! store alone, with exact expectations. Every state is opened on its own; every so many, by the
//! environment variable `CRASH_POINTS_EVERY`, whole clusters are started from. 1 is all of them.

mod cluster;

use cluster::{Cluster, MEMBERS, Node, Promises, WATCHED, open};
use engine::api::{Request, Response};
use engine::ids::{LogIndex, NodeId};
use engine::queue::{Query, Reply};
use engine::state_machine::StateMachine;
use engine::time::Now;
use sim::disk::{Fate, SimDisk};
use sim::workload::is_intact;
use std::collections::{BTreeMap, BTreeSet};

/// Queues of the workload.
const QUEUES: [&str; 2] = ["old", "new"];
/// Most states of one operation that are opened unless all are asked for.
const STATES_PER_OPERATION: usize = 200;
/// One of so many opened states is also gone on from unless all are asked for.
const GO_ON_EVERY: usize = 25;

/// What the enumeration came to.
#[derive(Default, Debug)]
struct Count {
    /// Disk operations of the watched member.
    operations: usize,
    /// States that a power failure after one of them may leave.
    legal: usize,
    /// Of these, opened.
    opened: usize,
    /// Of these, gone on from by a whole cluster.
    gone_on: usize,
    torn: usize,
    snapshots: usize,
}

/// How thoroughly: every state, or a sample.
struct Effort {
    states_per_operation: usize,
    go_on_every: usize,
}

impl Effort {
    fn asked_for() -> Self {
        match std::env::var("CRASH_POINTS_EVERY").ok().and_then(|text| text.parse().ok()) {
            Some(every) => Self { states_per_operation: usize::MAX, go_on_every: every },
            None => Self { states_per_operation: STATES_PER_OPERATION, go_on_every: GO_ON_EVERY },
        }
    }
}

#[test]
fn a_power_failure_after_any_operation_in_any_legal_way_loses_and_invents_nothing() {
    let effort = Effort::asked_for();
    let mut count = Count::default();
    let mut watch = |nodes: &BTreeMap<NodeId, Node>, disk: &SimDisk, promises: &Promises, now| {
        count.operations += 1;
        let legal = disk.crash_state_count();
        count.legal += legal;
        // A stride that meets other combinations after each operation.
        let stride = legal.div_ceil(effort.states_per_operation).max(1);
        for number in (count.operations % stride..legal).step_by(stride) {
            let left = disk.crash_state(number);
            count.opened += 1;
            check_alone(&nodes[&WATCHED], left.clone(), promises, now, &mut count);
            if count.opened % effort.go_on_every == 0 {
                count.gone_on += 1;
                check_going_on(nodes, left, promises, now);
            }
        }
    };
    let (truncations, installs) = live(Cluster::new(Box::new(&mut watch)));
    assert!(truncations > 0 && installs > 0, "{truncations} and {installs}: a tame life");
    println!("{count:?}");
    assert!(count.operations > 400, "{count:?}");
    assert!(count.opened > 5_000 && count.gone_on > 200, "{count:?}");
    assert!(count.torn > 1_000 && count.snapshots > 1_000, "{count:?}");
}

/// The watched member's life. Says how often its log was cut, and how often it began anew.
fn live(mut cluster: Cluster<'_>) -> (usize, usize) {
    lead(&mut cluster);
    for round in 0..4 {
        cluster.send(QUEUES[1], &[100 + 30 * round, 0, 300]);
    }
    be_deposed(&mut cluster);
    // It falls so far behind that it needs a snapshot, and nothing that lies before it.
    cluster.cut_off(WATCHED, true);
    for round in 0..8 {
        cluster.send(QUEUES[1], &[350, 200, 10 * round]);
        cluster.delete(QUEUES[1], |_| true);
    }
    cluster.cut_off(WATCHED, false);
    cluster.settle();
    // Snapshots, rolled segments and purges, with much that goes and something that stays.
    for round in 0..6 {
        cluster.send(QUEUES[0], &[100 + 30 * round, 0, 300]);
    }
    for round in 0..16 {
        cluster.send(QUEUES[1], &[150, 90 * (round % 8), 20]);
        cluster.delete(QUEUES[1], |at| at % 4 != 1);
    }
    // It falls behind again, and now needs old messages, too.
    cluster.cut_off(WATCHED, true);
    for round in 0..12 {
        cluster.send(QUEUES[1], &[350, 200, 10 * round]);
        cluster.delete(QUEUES[1], |at| at % 3 != 1);
    }
    cluster.cut_off(WATCHED, false);
    cluster.settle();
    cluster.idle(3_000);
    // It goes on, makes snapshots of its own, and little of all that was there stays.
    for _ in 0..16 {
        cluster.send(QUEUES[1], &[300, 100]);
        cluster.delete(QUEUES[1], |at| at % 5 != 1);
    }
    cluster.delete(QUEUES[0], |at| at % 6 != 1);
    for _ in 0..6 {
        cluster.send(QUEUES[1], &[500]);
    }
    cluster.settle();
    cluster.idle(3_000);
    (cluster.truncations, cluster.installs)
}

/// It is cut off with entries that nobody else has, and finds others in their place.
fn be_deposed(cluster: &mut Cluster<'_>) {
    cluster.cut_off(WATCHED, true);
    cluster.send_in_vain(WATCHED, QUEUES[1], &[200, 200]);
    cluster.send_in_vain(WATCHED, QUEUES[1], &[10]);
    cluster.run_until("another leader", |cluster| cluster.leader().is_some());
    cluster.send(QUEUES[1], &[400]);
    cluster.cut_off(WATCHED, false);
    cluster.settle();
}

/// The watched member leads, and there is a session.
fn lead(cluster: &mut Cluster<'_>) {
    cluster.run_until("a leader", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("there is one");
    if leader != WATCHED {
        cluster.ask(leader, Request::Transfer { to: Some(WATCHED) });
        cluster.run_until("the transfer", |cluster| cluster.leader() == Some(WATCHED));
    }
    cluster.open_session();
}

/// What a power failure left of the watched member, opened: it knows what it promised.
fn check_alone(before: &Node, mut left: SimDisk, promises: &Promises, now: Now, count: &mut Count) {
    let after = open(&mut left, WATCHED, now);
    after.check_invariants();
    count.torn += usize::from(after.torn_bytes() > 0);
    let (old, new) = (before.replica.raft(), after.raft());
    assert!(
        new.term() >= promises.term,
        "it has spoken in {} and is in {}",
        promises.term,
        new.term()
    );
    if let Some(candidate) = promises.votes.get(&new.term()) {
        assert_eq!(new.voted_for(), Some(*candidate), "its vote of term {}", new.term());
    }
    let settled =
        new.snapshot().map_or(LogIndex::ZERO, |meta| meta.last.index).max(new.base().index);
    count.snapshots += usize::from(new.snapshot().is_some());
    let durable = old.durable_index();
    for (index, term) in promises.committed.range(settled.next()..) {
        let is_promised = *index <= durable && old.term_at(*index) == Some(*term);
        if is_promised {
            assert_eq!(new.term_at(*index), Some(*term), "entry {index} was durable and committed");
        }
    }
    for index in (new.base().index.0 + 1..=new.last_index().0).map(LogIndex) {
        if let Some(term) = new.term_at(index) {
            assert!(
                promises.written.contains(&(index, term)),
                "entry {index} of {term} is invented"
            );
        }
    }
    if let Some(meta) = new.snapshot() {
        let term = promises.committed.get(&meta.last.index);
        assert_eq!(term, Some(&meta.last.term), "the snapshot is of what was committed");
    }
}

/// Everybody loses power; whatever was promised is there, and life goes on.
fn check_going_on(nodes: &BTreeMap<NodeId, Node>, left: SimDisk, promises: &Promises, now: Now) {
    let disks = nodes.iter().map(|(id, node)| {
        let disk = if *id == WATCHED {
            left.clone()
        } else {
            let mut disk = node.disk.clone();
            disk.crash_with(|_, _| Fate::Lost);
            disk
        };
        (*id, disk)
    });
    let mut cluster = Cluster::on(disks, promises.clone(), now.monotonic);
    if cluster.promises.committed.is_empty() {
        return;
    }
    cluster.open_session();
    cluster.send(QUEUES[1], &[77, 1_000]);
    cluster.settle();
    cluster.idle(1_000);
    for (index, term) in &promises.committed {
        for (id, node) in &cluster.nodes {
            if *index > node.replica.raft().base().index {
                assert_eq!(node.replica.term_at(*index), Some(*term), "entry {index} on {id}");
            }
        }
    }
    let mut digests = BTreeSet::new();
    for id in MEMBERS {
        check_messages(&mut cluster, id);
        let node = &cluster.nodes[&id];
        node.replica.machine().check_invariants();
        digests.insert(node.replica.machine().digest());
    }
    assert_eq!(digests.len(), 1, "equal state at equal index");
}

/// A member's queues hold all that was promised and nothing else, every byte of it.
fn check_messages(cluster: &mut Cluster<'_>, id: NodeId) {
    let mut found = BTreeSet::new();
    for queue in QUEUES {
        let query = Query::Browse { queue: queue.to_owned(), after: None, max: 4_096 };
        let request = Request::QueryStale(query.encode().into());
        let Response::Stale { reply: Reply::Browsed(browsed), bodies, .. } =
            cluster.answer(id, request)
        else {
            panic!("node {id} does not answer");
        };
        assert_eq!(browsed.len(), bodies.len());
        for body in &bodies {
            let message = engine::queue::Message::decode(body).expect("a message of ours");
            assert!(is_intact(&message), "node {id} has other bytes of {}", message.id);
            assert!(found.insert((queue.to_owned(), message.id)), "{} is there twice", message.id);
        }
    }
    let lost: Vec<_> = cluster.promises.waiting.difference(&found).collect();
    assert!(lost.is_empty(), "node {id} lost {lost:?}");
    let invented: Vec<_> = found.difference(&cluster.promises.sent).collect();
    assert!(invented.is_empty(), "nobody sent {invented:?}, which node {id} has");
}
