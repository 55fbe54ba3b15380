//! `sim check`: its arguments, and what it prints.
//!
//! Next: `check::run`, which does it.

use super::{Bounds, End, Limits, Profile, Progress, Report, Witness, run, seconds};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What `sim check` takes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Which bounds to start from; all profiles, one after another, if not given.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Look no further than so many steps. Bounds that are not given are then wider, so that depth
    /// is what ends the check.
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Threads; as many as there are processors if not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// States at which to give up, about 100 bytes each.
    #[arg(long, value_name = "N", default_value_t = Limits::default().states)]
    states_max: usize,
    /// End with a line of JSON.
    #[arg(long)]
    json: bool,
    /// Members, 1 to 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=4))]
    nodes: Option<u8>,
    /// Terms, 1 to 7.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    terms: Option<u8>,
    /// Entries appended besides the first of each term, at most 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=4))]
    proposals: Option<u8>,
    /// Crashes.
    #[arg(long, value_name = "N")]
    crashes: Option<u8>,
    /// Requests to change the membership.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=4))]
    changes: Option<u8>,
    /// Messages that arrive twice.
    #[arg(long, value_name = "N")]
    duplicates: Option<u8>,
    /// Messages in flight at once, 1 to 6.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=6))]
    in_flight: Option<u8>,
    /// Persists of one member under way at once; with 0, disks take no time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=4))]
    unsynced: Option<u8>,
    /// Entries in a message and on the way to one follower, 1 to 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=4))]
    window: Option<u8>,
    /// Terms that are over at the start, each with a leader whose entries nobody else has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=4))]
    feuds: Option<u8>,
}

impl Arguments {
    fn bounds(&self, profile: Profile) -> Bounds {
        let base = profile.bounds();
        let base = if self.depth.is_some() { base.widened() } else { base };
        Bounds {
            members: self.nodes.unwrap_or(base.members),
            terms: self.terms.unwrap_or(base.terms),
            proposals: self.proposals.unwrap_or(base.proposals),
            crashes: self.crashes.unwrap_or(base.crashes),
            changes: self.changes.unwrap_or(base.changes),
            duplicates: self.duplicates.unwrap_or(base.duplicates),
            in_flight: self.in_flight.unwrap_or(base.in_flight),
            unsynced: self.unsynced.unwrap_or(base.unsynced),
            window: self.window.unwrap_or(base.window),
            feuds: self.feuds.unwrap_or(base.feuds),
        }
    }

    fn limits(&self) -> Limits {
        let threads = self.threads.unwrap_or(Limits::default().threads);
        Limits { depth: self.depth, states: self.states_max, threads }
    }
}

/// Checks what `arguments` ask for and prints what it finds. Says whether all is well.
#[must_use]
pub fn check(arguments: &Arguments) -> bool {
    let began = Instant::now();
    let profiles = match &arguments.profile {
        Some(profile) => std::slice::from_ref(profile),
        None => &Profile::ALL[..],
    };
    let mut reports = Vec::new();
    for profile in profiles {
        let bounds = arguments.bounds(*profile);
        print_line(&format!("{}: {}", profile.name(), bounds.to_json()));
        let report = run(bounds, arguments.limits(), progress());
        print_report(profile.name(), &report);
        let is_clean = report.violations.is_empty();
        reports.push((*profile, report));
        if !is_clean {
            break;
        }
    }
    let violations: usize = reports.iter().map(|(_, report)| report.violations.len()).sum();
    if arguments.json {
        let total = |of: fn(&Report) -> usize| reports.iter().map(|(_, r)| of(r)).sum::<usize>();
        let summary = json!({
            "states": total(|report| report.states),
            "depth": reports.iter().map(|(_, report)| report.depth).max(),
            "violations": violations,
            "exhausted": reports.iter().all(|(_, report)| report.end == End::Exhausted),
            "wall_s": seconds(began.elapsed()),
            "profiles": reports
                .iter()
                .map(|(profile, report)| (profile.name().to_owned(), report.to_json()))
                .collect::<serde_json::Map<_, _>>(),
        });
        print_line(&summary.to_string());
    }
    violations == 0
}

fn print_report(name: &str, report: &Report) {
    for violation in &report.violations {
        print_line(&format!("VIOLATED: {}", violation.property));
        violation.path.iter().for_each(|line| print_line(line));
    }
    let end = match report.end {
        End::Exhausted => "exhausted, no violations",
        End::Depth => "not exhausted, no violations to this depth",
        End::GaveUp => "not exhausted, gave up at --states-max; no violations so far",
        End::Violated => "stopped at a violation",
    };
    print_line(&format!(
        "{name}: {} states, {} steps, depth {}, {} members, {} s: {end}",
        report.states,
        report.transitions,
        report.depth,
        report.members,
        seconds(report.wall)
    ));
    let is_missing = |witness: &Witness| !report.witnesses.contains(witness);
    let missing: Vec<_> = Witness::ALL.into_iter().filter(is_missing).map(Witness::name).collect();
    if report.violations.is_empty() && !missing.is_empty() {
        print_line(&format!("{name}: did not come upon: {}", missing.join(", ")));
    }
}

/// Prints a line; nobody may be reading any more.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line that is rewritten on a terminal, and one every ten seconds elsewhere.
fn progress() -> impl FnMut(Progress) {
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{spinner} {msg}");
        let bar = ProgressBar::new_spinner();
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Some(bar)
    } else {
        None
    };
    let mut due = Duration::from_secs(10);
    move |Progress { states, depth, wall }| {
        let line = format!("{states} states, depth {depth}, {} s", wall.as_secs());
        if let Some(bar) = &bar {
            bar.set_message(line);
            bar.tick();
        } else if wall >= due {
            due += Duration::from_secs(10);
            eprintln!("{line}");
        }
    }
}
