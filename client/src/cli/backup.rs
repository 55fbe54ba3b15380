//! `posthaste backup`: everything in the cluster in one file, and the check of such a file.
//!
//! Owns the file: it is written under another name, made durable, and only then gets its own, so that
//! a file under that name is whole. Next: `client::backup` for the pull, `node restore` for the way back.

use super::output::{Printer, time};
use super::{Failure, Outcome};
use bytes::Bytes;
use clap::Args;
use client::{BackupError, BackupProgress, Client};
use engine::backup::{Contents, Header, check};
use engine::ids::NodeId;
use engine::queue::QueueInfo;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// Writes everything that the cluster holds to one file, while it runs: what was acknowledged before is
/// in it. Any member serves it, one after another is tried; `node restore` makes a new cluster out of it.
#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// File to write; it appears when it is whole. With --verify, the file to check
    file: PathBuf,
    /// Check all of the file, without a cluster, and show what is in it
    #[arg(long, conflicts_with = "from")]
    pub(super) verify: bool,
    /// Node to take the backup from [default: one that does not lead, or any that can]
    #[arg(long, value_name = "NODE")]
    from: Option<u64>,
}

pub(super) async fn backup(client: &Client, args: &BackupArgs, printer: Printer) -> Outcome {
    if args.file.exists() {
        let what = format!("{} is there already; give another name", args.file.display());
        return Err(Failure::Usage(what));
    }
    let mut temporary = args.file.clone().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let pulled = pull_from_any(client, args, &temporary, printer).await;
    let header = match pulled {
        Ok(header) => header,
        Err(failure) => {
            // Of no use to anybody; that it cannot be removed either is no news.
            let _removed = fs::remove_file(&temporary);
            return Err(failure);
        }
    };
    fs::rename(&temporary, &args.file)?;
    let parent = args.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    let bytes = fs::metadata(&args.file)?.len();
    let Header { cluster, node, meta, .. } = &header;
    let (last, at, file) = (meta.last.index, time(meta.stamp), args.file.display());
    let value = json!({
        "file": file.to_string(), "bytes": bytes, "cluster": cluster.to_string(), "node": node.0,
        "index": last.0, "term": meta.last.term.0, "log_time": at,
    });
    let text = format!(
        "{file}: {bytes} bytes, cluster {cluster} up to entry {last} of {at}, from node {node}; check \
         it with `posthaste backup --verify {file}`"
    );
    Ok(printer.line(&value, &text)?)
}

/// Tries one member after another; the leader, which has most to do, last.
async fn pull_from_any(
    client: &Client,
    args: &BackupArgs,
    temporary: &Path,
    printer: Printer,
) -> Result<Header, Failure> {
    let cluster = client.nodes();
    let mut candidates = cluster.nodes;
    candidates.sort_by_key(|node| (!node.connected, node.leader, node.node));
    let candidates: Vec<NodeId> = match args.from {
        Some(from) => vec![NodeId(from)],
        None => candidates.iter().map(|node| node.node).collect(),
    };
    let mut troubles = Vec::new();
    for node in candidates {
        match pull(client, node, temporary, printer).await {
            Ok(header) => return Ok(header),
            Err(BackupError::Write(error)) => {
                return Err(Failure::Backup(format!(
                    "cannot write {}: {error}",
                    temporary.display()
                )));
            }
            Err(error) => {
                let error = error.to_string();
                printer.note(
                    &json!({"node": node.0, "failed": error}),
                    &format!("not from {node}: {error}"),
                );
                troubles.push(format!("node {node}: {error}"));
            }
        }
    }
    let file = args.file.display();
    let what = format!(
        "no member could give the backup, and {file} was not written; {}; see `posthaste members`, and \
         try again",
        troubles.join("; ")
    );
    Err(Failure::Backup(what))
}

async fn pull(
    client: &Client,
    node: NodeId,
    temporary: &Path,
    printer: Printer,
) -> Result<Header, BackupError> {
    let mut file = BufWriter::new(File::create(temporary)?);
    let bar = bar(printer);
    let tell = |progress| show(&bar, node, progress);
    let header = client.backup(node, |bytes| file.write_all(bytes), tell).await;
    bar.finish_and_clear();
    let header = header?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(header)
}

fn bar(printer: Printer) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if printer.is_json() || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

fn show(bar: &ProgressBar, node: NodeId, progress: BackupProgress) {
    let (what, done, total) = match progress {
        BackupProgress::Preparing => {
            bar.set_message(format!("node {node} saves a snapshot"));
            return bar.tick();
        }
        BackupProgress::State(done, total) => ("bytes of queues", done, total),
        BackupProgress::Records(done, total) => ("records", done, total),
    };
    let template = "{bar:40} {human_pos}/{human_len} {msg}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
    bar.set_length(total);
    bar.set_message(what);
    bar.set_position(done);
}

/// Checks a whole file and shows what is in it.
pub(super) fn verify(args: &BackupArgs, printer: Printer) -> Outcome {
    let shown = args.file.display();
    let unreadable = |error| Failure::Backup(format!("cannot read {shown}: {error}"));
    let mut file = File::open(&args.file).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    let bar = bar(printer);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {eta} left").expect("valid"),
    );
    bar.set_length(len);
    let read = |len: usize| {
        let mut bytes = Vec::new();
        (&mut file).take(len as u64).read_to_end(&mut bytes).map(|_| Bytes::from(bytes))
    };
    let checked = check(read, |at| bar.set_position(at));
    bar.finish_and_clear();
    let contents = checked.map_err(|error| Failure::Backup(format!("{shown}: {error}")))?;
    print(&contents, printer)
}

fn print(contents: &Contents, printer: Printer) -> Outcome {
    let Contents { header, queues, messages, sessions, records, record_bytes, file_bytes } =
        contents;
    let Header { cluster, node, meta, .. } = header;
    let (index, term, at) = (meta.last.index, meta.last.term, time(meta.stamp));
    let members: Vec<String> = meta
        .membership
        .1
        .members()
        .iter()
        .map(|member| format!("{} at {}", member.node, member.address))
        .collect();
    let value = json!({
        "is_whole": true, "cluster": cluster.to_string(), "node": node.0, "index": index.0,
        "term": term.0, "log_time": at, "members": members, "queues": queues.len(),
        "messages": messages, "sessions": sessions, "records": records,
        "record_bytes": record_bytes, "bytes": file_bytes,
    });
    let text = format!(
        "whole: cluster {cluster} up to entry {index} of term {term} and {at}, from node {node}\n\
         members: {}\n{} queues, {messages} messages, {sessions} sessions; {records} records of \
         {record_bytes} bytes; {file_bytes} bytes in all",
        members.join(", "),
        queues.len()
    );
    printer.line(&value, &text)?;
    let row = |queue: &QueueInfo| {
        let QueueInfo { name, available, leased, delayed, sent_total, .. } = queue;
        let value = json!({
            "queue": name, "available": available, "leased": leased, "delayed": delayed,
            "sent_total": sent_total,
        });
        let numbers = [available, leased, delayed, sent_total].map(u64::to_string);
        (value, [name.clone()].into_iter().chain(numbers).collect())
    };
    printer.table(&["queue", "available", "leased", "delayed", "sent"], queues.iter().map(row))?;
    Ok(())
}
