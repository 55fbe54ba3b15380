//! `node inspect`: what is in a data directory, whatever state it is in.
//!
//! Owns the words and the JSON. Never writes to the directory. Next: `engine::storage::Inspection`,
//! which looks.

use super::{Failure, STRONG};
use engine::ids::LogIndex;
use engine::raft::LogPosition;
use engine::storage::{Inspection, Start};
use node::DiskPort;
use node::disk::FileDisk;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows what is in a data directory: whose it is, its segments and snapshots, what its node would
/// start with, and everything that is damaged, with the reason. Every byte is read and checked;
/// nothing is written. The node must be stopped.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The data directory.
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// Exit with a failure if anything is damaged.
    #[arg(long)]
    verify: bool,
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut disk = FileDisk::open(&self.data)?;
        let inspection = Inspection::of(disk.recovery())
            .map_err(|error| format!("cannot inspect {}: {error}", self.data.display()))?;
        if self.json {
            anstream::println!("{:#}", to_json(&inspection));
        } else {
            self.report(&inspection);
        }
        let is_bad = self.verify && inspection.is_damaged();
        Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn report(&self, inspection: &Inspection) {
        anstream::println!("{STRONG}{}{STRONG:#}", self.data.display());
        match &inspection.identity {
            Ok(identity) => {
                anstream::println!("  cluster       {}", identity.cluster);
                anstream::println!("  node          {} at {}", identity.node, identity.address);
            }
            Err(error) => anstream::println!("  identity      {error}"),
        }
        report_start(&inspection.start);
        for segment in &inspection.segments {
            let range = segment.range.map_or_else(String::new, |(first, last)| {
                format!(", {} of the log from {first} to {last}", count(segment.entries, "record"))
            });
            let archived = match segment.archived {
                0 => String::new(),
                archived => format!(", {} of older entries", count(archived, "copy")),
            };
            let torn = match segment.torn_bytes {
                0 => String::new(),
                bytes => format!(", {bytes} bytes torn at its end"),
            };
            let anew = if segment.is_reset { ", the log begins anew" } else { "" };
            anstream::println!(
                "  segment       {:016x}: {} bytes, {}{range}{archived}{anew}{torn}",
                segment.segment,
                segment.bytes,
                count(segment.flushes, "flush")
            );
        }
        for snapshot in &inspection.snapshots {
            let state = if snapshot.is_whole { "whole" } else { "damaged" };
            anstream::println!(
                "  snapshot      up to {}: {} bytes, {state}",
                snapshot.index,
                snapshot.bytes
            );
        }
        for damaged in &inspection.damaged {
            anstream::println!("  {STRONG}damaged{STRONG:#}       {damaged}");
        }
        for error in &inspection.unreadable {
            anstream::println!("  {STRONG}unreadable{STRONG:#}    {error}");
        }
        if !inspection.is_damaged() {
            anstream::println!("  Nothing is damaged.");
        }
    }
}

fn report_start(start: &Result<Start, engine::storage::StorageError>) {
    let start = match start {
        Ok(start) => start,
        Err(error) => return anstream::println!("  {STRONG}will not start{STRONG:#} {error}"),
    };
    let vote = match start.hard_state.voted_for {
        Some(node) => format!("voted for node {node}"),
        None => "has not voted".to_owned(),
    };
    anstream::println!("  term          {}, {vote}", start.hard_state.term);
    let (base, last) = (start.base, start.last_index);
    anstream::println!(
        "  log           after {base}, up to {last}; {} live bytes",
        start.live_bytes
    );
    anstream::println!(
        "  committed     at least up to {}",
        start.hard_state.commit.max(start.snapshot)
    );
    if start.snapshot > LogIndex::ZERO {
        anstream::println!("  starts from   the snapshot up to {}", start.snapshot);
    }
    if start.vouched > LogPosition::default() {
        let LogPosition { term, index } = start.vouched;
        anstream::println!(
            "  {STRONG}vouched{STRONG:#}       up to entry {index} of term {term}: entries are missing; \
             start the node, and the others send them"
        );
    }
}

fn count(number: u64, noun: &str) -> String {
    let plural = match noun.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if noun.ends_with('h') => format!("{noun}es"),
        None => format!("{noun}s"),
    };
    format!("{number} {}", if number == 1 { noun } else { &plural })
}

fn to_json(inspection: &Inspection) -> Value {
    let text = |error: &engine::storage::StorageError| error.to_string();
    let identity = match &inspection.identity {
        Ok(identity) => json!({
            "cluster": identity.cluster.to_string(),
            "group": identity.group.0,
            "node": identity.node.0,
            "address": identity.address,
        }),
        Err(error) => json!({ "error": text(error) }),
    };
    let start = match &inspection.start {
        Ok(start) => json!({
            "term": start.hard_state.term.0,
            "voted_for": start.hard_state.voted_for.map(|node| node.0),
            "commit": start.hard_state.commit.0,
            "snapshot": start.snapshot.0,
            "base": start.base.0,
            "last_index": start.last_index.0,
            "vouched": { "term": start.vouched.term.0, "index": start.vouched.index.0 },
            "live_bytes": start.live_bytes,
        }),
        Err(error) => json!({ "error": text(error) }),
    };
    let segments = inspection.segments.iter().map(|segment| {
        json!({
            "segment": segment.segment,
            "bytes": segment.bytes,
            "begins_anew": segment.is_reset,
            "flushes": segment.flushes,
            "entries": segment.entries,
            "first": segment.range.map(|(first, _)| first.0),
            "last": segment.range.map(|(_, last)| last.0),
            "archived": segment.archived,
            "torn_bytes": segment.torn_bytes,
        })
    });
    let snapshots = inspection
        .snapshots
        .iter()
        .map(|it| json!({ "last": it.index.0, "bytes": it.bytes, "is_whole": it.is_whole }));
    let damaged = inspection.damaged.iter().map(|it| {
        json!({ "file": it.file.to_string(), "offset": it.offset, "damage": it.damage.to_string() })
    });
    json!({
        "identity": identity,
        "start": start,
        "segments": segments.collect::<Vec<_>>(),
        "snapshots": snapshots.collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(),
        "unreadable": inspection.unreadable.iter().map(text).collect::<Vec<_>>(),
        "is_damaged": inspection.is_damaged(),
    })
}
