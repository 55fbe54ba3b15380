//! Commands that look at queues and nodes, and those that delete: `get`, `browse`, `list`, `delete`,
//! `purge`, `nodes`, `status`.

use super::output::{Printer, message_json, time};
use super::values::{escape, parse_id};
use super::{Failure, Outcome};
use clap::Args;
use client::{Client, Cluster, Node, Read, ReadFrom, Reader, Stored};
use engine::ids::{MessageId, NodeId};
use engine::raft::{FlowStatus, FollowerStatus};
use engine::wire::client::{Health, NodeStatus};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Characters of a body that a table shows.
const PREVIEW_CHARS: usize = 60;
/// Messages that one browse call asks for.
const PAGE: usize = 256;

#[derive(Args, Debug)]
pub(super) struct QueueArg {
    /// Queue
    queue: String,
}

#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// Queue that the message is in
    queue: String,
    /// Id of the message, a UUID
    #[arg(value_parser = parse_id)]
    id: MessageId,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    read: ReadArgs,
}

/// Who answers.
#[derive(Args, Debug)]
struct ReadArgs {
    /// Let any node answer, as new as the leader would
    #[arg(long, conflicts_with = "stale")]
    here: bool,
    /// Let any node answer at once from what it knows, however old, also without a leader
    #[arg(long)]
    stale: bool,
}

impl ReadArgs {
    fn reader(&self, client: &Client) -> Reader {
        client.reader(match (self.here, self.stale) {
            (_, true) => ReadFrom::Stale,
            (true, false) => ReadFrom::Anywhere,
            (false, false) => ReadFrom::Leader,
        })
    }

    /// Says who answered and how old that is, if that was left open.
    fn note<T>(&self, read: &Read<T>, printer: Printer) {
        if !self.here && !self.stale {
            return;
        }
        let Read { at, node, .. } = read;
        let mut value = json!({"answered_by": node.0, "at": at.0});
        let mut text = format!("answered by node {node}, true after entry {at}");
        if let Some(log_time) = read.log_time {
            value["log_time"] = json!(time(log_time));
            text.push_str(&format!(" of {}", time(log_time)));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let age = now.saturating_sub(Duration::from_millis(log_time.millis()));
            value["age_ms"] = json!(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            text.push_str(&format!(", {:.1} s ago by this machine's clock", age.as_secs_f64()));
        }
        printer.note(&value, &text);
    }
}

#[derive(Args, Debug)]
pub(super) struct BrowseArgs {
    /// Queue to look into
    queue: String,
    /// Messages at most
    #[arg(long, default_value_t = 100)]
    max: usize,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    /// Queue that the messages are in
    queue: String,
    /// Ids of the messages, UUIDs
    #[arg(required = true, value_name = "ID", value_parser = parse_id)]
    ids: Vec<MessageId>,
}

#[derive(Args, Debug)]
pub(super) struct NodesArgs {
    /// Go on and print every change
    #[arg(long)]
    follow: bool,
}

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Nodes to ask, by number; all of them if none is named
    #[arg(value_name = "NODE")]
    numbers: Vec<u64>,
}

fn stored_json(stored: &Stored) -> Value {
    let mut value = message_json(&stored.message);
    value["position"] = json!(stored.receipt.position.to_string());
    value["stored_at"] = json!(time(stored.receipt.stamp));
    value["attempts"] = json!(stored.attempts);
    value["unavailable_until"] = json!(stored.unavailable_until.map(time));
    value
}

pub(super) async fn get(client: &Client, args: GetArgs, printer: Printer) -> Outcome {
    let read = args.read.reader(client).get(&args.queue, args.id).await?;
    args.read.note(&read, printer);
    let Some(stored) = read.value else {
        let what = format!("`{}` holds no message {}", args.queue, args.id);
        return Err(Failure::Nothing(what));
    };
    let message = &stored.message;
    let mut lines = vec![
        format!("id           {}", message.id),
        format!("from         {}", escape(message.from.as_bytes())),
        format!("sent at      {}", time(message.sent_at)),
        format!("position     {}", stored.receipt.position),
        format!("stored at    {}", time(stored.receipt.stamp)),
        format!("attempts     {}", stored.attempts),
        format!("unavailable  {}", stored.unavailable_until.map_or("no".into(), until)),
    ];
    for (key, value) in &message.headers {
        lines.push(format!("header       {}={}", escape(key.as_bytes()), escape(value.as_bytes())));
    }
    lines.push(format!("body         {}", escape(&message.body)));
    Ok(printer.line(&stored_json(&stored), &lines.join("\n"))?)
}

fn until(stamp: engine::hlc::Hlc) -> String {
    format!("until {}", time(stamp))
}

pub(super) async fn browse(client: &Client, args: BrowseArgs, printer: Printer) -> Outcome {
    let reader = args.read.reader(client);
    let mut found: Vec<Stored> = Vec::new();
    while found.len() < args.max {
        let after = found.last().map(|stored| stored.receipt.position);
        let page = reader.browse(&args.queue, after, PAGE.min(args.max - found.len())).await?;
        if found.is_empty() {
            args.read.note(&page, printer);
        }
        if page.value.is_empty() {
            break;
        }
        found.extend(page.value);
    }
    if found.is_empty() {
        return Err(Failure::Nothing(format!("`{}` holds no messages", args.queue)));
    }
    let rows = found.iter().map(|stored| {
        let cells = vec![
            stored.receipt.position.to_string(),
            stored.message.id.to_string(),
            stored.attempts.to_string(),
            stored.unavailable_until.map_or("available".to_owned(), until),
            escape(&stored.message.body).chars().take(PREVIEW_CHARS).collect(),
        ];
        (stored_json(stored), cells)
    });
    Ok(printer.table(&["position", "id", "attempts", "state", "body"], rows)?)
}

pub(super) async fn list(client: &Client, args: ListArgs, printer: Printer) -> Outcome {
    let read = args.read.reader(client).list().await?;
    args.read.note(&read, printer);
    let queues = read.value;
    if queues.is_empty() {
        let what = "there are no queues; a queue exists once something was sent to it";
        return Err(Failure::Nothing(what.to_owned()));
    }
    let rows = queues.iter().map(|queue| {
        let counts = [queue.available, queue.leased, queue.delayed, queue.sent_total];
        let value = json!({
            "queue": queue.name,
            "available": queue.available,
            "leased": queue.leased,
            "delayed": queue.delayed,
            "sent_total": queue.sent_total,
        });
        let name = escape(queue.name.as_bytes());
        (value, std::iter::once(name).chain(counts.map(|count| count.to_string())).collect())
    });
    Ok(printer.table(&["queue", "available", "leased", "delayed", "sent in all"], rows)?)
}

pub(super) async fn delete(client: &Client, args: DeleteArgs, printer: Printer) -> Outcome {
    let deleted = client.delete(&args.queue, &args.ids).await?;
    for (id, deleted) in args.ids.iter().zip(&deleted) {
        let value = json!({"id": id.to_string(), "deleted": deleted});
        printer
            .line(&value, &format!("{id} {}", if *deleted { "deleted" } else { "not found" }))?;
    }
    let missing = deleted.iter().filter(|deleted| !**deleted).count();
    if missing > 0 {
        let what = format!("{missing} of {} ids are not in `{}`", deleted.len(), args.queue);
        return Err(Failure::Nothing(what));
    }
    Ok(())
}

pub(super) async fn purge(client: &Client, args: QueueArg, printer: Printer) -> Outcome {
    let purged = client.purge(&args.queue).await?;
    let value = json!({"queue": args.queue, "purged": purged});
    Ok(printer.line(&value, &format!("{purged} messages removed from `{}`", args.queue))?)
}

pub(super) async fn nodes(client: &Client, args: NodesArgs, printer: Printer) -> Outcome {
    // The first node's word is here; the others are being dialled.
    let mut cluster = settle_connections(client).await;
    print_nodes(printer, &cluster)?;
    if !args.follow {
        return Ok(());
    }
    loop {
        cluster = client.nodes_changed(&cluster).await?;
        print_nodes(printer, &cluster)?;
    }
}

/// Waits for the connections to all nodes, but not for long.
async fn settle_connections(client: &Client) -> Cluster {
    const PATIENCE: Duration = Duration::from_millis(300);
    let mut cluster = client.nodes();
    let all_connected = async {
        while !cluster.nodes.iter().all(|node| node.connected) {
            match client.nodes_changed(&cluster).await {
                Ok(changed) => cluster = changed,
                Err(_) => return,
            }
        }
    };
    // Whoever is not connected by then is shown as such.
    let _settled = tokio::time::timeout(PATIENCE, all_connected).await;
    cluster
}

fn print_nodes(printer: Printer, cluster: &Cluster) -> Outcome {
    let rows = cluster.nodes.iter().map(|node| {
        let Node { node: id, address, leader, connected, .. } = node;
        let role = if *leader { "leader" } else { "follower" };
        let health = health(node);
        let value = json!({
            "node": id.0,
            "address": address,
            "role": role,
            "connected": connected,
            "health": health,
            "term": cluster.term.0,
        });
        let connected = if *connected { "yes" } else { "no" };
        let cells = [id.to_string(), address.clone(), role.into(), connected.into(), health.into()];
        (value, cells.to_vec())
    });
    Ok(printer.table(&["node", "address", "role", "connected", "health"], rows)?)
}

fn health(node: &Node) -> &'static str {
    match node.health {
        Health::Itself | Health::Reachable => "reachable",
        Health::Unreachable if node.connected => "reachable from here only",
        Health::Unreachable => "unreachable",
    }
}

pub(super) async fn status(client: &Client, args: StatusArgs, printer: Printer) -> Outcome {
    let cluster = settle_connections(client).await;
    let nodes: Vec<NodeId> = if args.numbers.is_empty() {
        cluster.nodes.into_iter().map(|node| node.node).collect()
    } else {
        args.numbers.into_iter().map(NodeId).collect()
    };
    let mut found = Vec::new();
    let mut failure = None;
    for node in nodes {
        match client.status(node).await {
            Ok(status) => found.push(status),
            Err(error) => failure = Some(error),
        }
    }
    let header = [
        "node",
        "role",
        "term",
        "leader",
        "last",
        "durable",
        "commit",
        "applied",
        "messages",
        "queues",
        "sessions",
        "log bytes",
        "snapshot",
        "state",
        "priority",
        "uptime",
        "version",
    ];
    printer
        .table(&header, found.iter().map(|status| (status_json(status), status_cells(status))))?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn status_cells(status: &NodeStatus) -> Vec<String> {
    vec![
        status.node.to_string(),
        status.role.clone(),
        status.term.to_string(),
        status.leader.map_or("none".to_owned(), |leader| leader.to_string()),
        status.last_index.to_string(),
        status.durable_index.to_string(),
        status.commit_index.to_string(),
        status.applied_index.to_string(),
        status.messages.to_string(),
        status.queues.to_string(),
        status.sessions.to_string(),
        status.log_bytes.to_string(),
        status.snapshot_index.to_string(),
        state(status).to_owned(),
        status.priority.to_string(),
        format!("{}s", status.uptime.as_millis() / 1_000),
        status.version.clone(),
    ]
}

/// What a node is to its cluster.
fn state(status: &NodeStatus) -> &'static str {
    let (node, membership) = (status.node, &status.membership);
    let is_left_out = membership.was_given_out(node) && !membership.contains(node);
    if status.is_removed || is_left_out {
        "removed"
    } else if !membership.contains(node) {
        "not a member yet"
    } else if !status.is_fit {
        "unfit to lead"
    } else if status.room.is_short {
        "short of space"
    } else if membership.is_voter(node) {
        "voter"
    } else {
        "learner"
    }
}

fn follower_json(status: &NodeStatus, follower: &FollowerStatus) -> Value {
    let flow = match follower.flow {
        FlowStatus::Probe => json!("probe"),
        FlowStatus::Replicate => json!("replicate"),
        FlowStatus::Snapshot { received, total } => {
            json!({"snapshot_bytes": received, "snapshot_bytes_total": total})
        }
    };
    json!({
        "node": follower.node.0,
        "match_index": follower.match_index.0,
        "next_index": follower.next_index.0,
        "flow": flow,
        "silent_ms": status.uptime.since(follower.responded_at).as_millis(),
        "fit": follower.is_fit,
        "complete": follower.is_complete,
        "short_of_space": follower.is_short,
        "priority": follower.priority,
    })
}

fn status_json(status: &NodeStatus) -> Value {
    let followers: Vec<Value> =
        status.followers.iter().map(|follower| follower_json(status, follower)).collect();
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<u64>>();
    let learners: Vec<u64> = status.membership.learners().map(|node| node.0).collect();
    json!({
        "node": status.node.0,
        "cluster": status.cluster.to_string(),
        "role": status.role,
        "term": status.term.0,
        "leader": status.leader.map(|leader| leader.0),
        "first_index": status.first_index.0,
        "last_index": status.last_index.0,
        "durable_index": status.durable_index.0,
        "commit_index": status.commit_index.0,
        "applied_index": status.applied_index.0,
        "log_time": status.log_time,
        "messages": status.messages,
        "queues": status.queues,
        "sessions": status.sessions,
        "segments": status.segments,
        "log_bytes": status.log_bytes,
        "followers": followers,
        "state": state(status),
        "removed": status.is_removed,
        "fit": status.is_fit,
        "missing": status.missing,
        "lost": status.lost,
        "priority": status.priority,
        "snapshot_index": status.snapshot_index.0,
        "membership_index": status.membership_index.0,
        "voters": numbers(status.membership.incoming()),
        "outgoing": numbers(status.membership.outgoing()),
        "learners": learners,
        "transfer_to": status.transfer.map(|to| to.0),
        "uptime_seconds": status.uptime.as_millis() / 1_000,
        "free_bytes": status.room.free_bytes,
        "reserve_bytes": status.room.reserve_bytes,
        "short_of_space": status.room.is_short,
        "sends_refused": status.room.shortage.as_ref().map(ToString::to_string),
        "version": status.version,
    })
}
