//! `sim`: sweeps seeds, replays one, runs a scenario file.
//!
//! Owns the command line and what it prints. Every failure prints the command that replays it.
//! Next: `sim::sweep` for the pool, `sim::lockstep` for a run.

use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sim::bench::{self, Load};
use sim::outcome::{Counts, Outcome};
use sim::scenario::Scenario;
use sim::trace::Trace;
use sim::{check, lockstep, sweep};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Runs simulated clusters under faults and checks what they do.
#[derive(Parser, Debug)]
#[command(name = "sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run many seeds, or one scenario file. Fails if any run does.
    Run {
        /// A scenario file to run.
        #[arg(required_unless_present = "seeds", conflicts_with = "seeds")]
        file: Option<PathBuf>,
        /// Seeds to run, from A up to but without B.
        #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
        seeds: Option<Range<u64>>,
        /// Where to run them.
        #[arg(long, value_enum, default_value = "lockstep")]
        world: World,
        /// Print verdicts as JSON too, one line each.
        #[arg(long)]
        json: bool,
        /// Threads; as many as there are processors if not given.
        #[arg(long, value_name = "N")]
        jobs: Option<usize>,
    },
    /// Run one seed twice, compare the runs, and print what happened line by line.
    Replay {
        /// The seed.
        seed: u64,
        /// Where to run it.
        #[arg(long, value_enum, default_value = "lockstep")]
        world: World,
        /// Print the verdict without the trace.
        #[arg(long)]
        quiet: bool,
    },
    /// Visit every state of small groups: every order of deliveries, losses, timeouts, flushes and
    /// crashes within bounds. Fails if a promise is broken in any, and prints how.
    Check(check::command::Arguments),
    /// Measure a simulated node.
    #[command(subcommand)]
    Bench(Bench),
    /// Print the scenario that a seed draws, as a file that `run` takes.
    Show {
        /// The seed.
        seed: u64,
    },
}

#[derive(Subcommand, Debug)]
enum Bench {
    /// Send, receive and acknowledge steadily for hours: bytes on the disk against bytes that wait.
    Space {
        /// Simulated hours.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        hours: u64,
        /// Messages in a simulated second.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=4_096))]
        rate: u32,
        /// Bytes in each body.
        #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(0..=4_096))]
        payload: u32,
        /// Messages that always wait.
        #[arg(long, default_value_t = 100_000)]
        backlog: u64,
        /// Of so many received messages one is put off, and waits among others that are gone.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..))]
        keep_one_in: u64,
        /// Print one JSON object for every simulated quarter of an hour, and one at the end.
        #[arg(long)]
        json: bool,
    },
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum World {
    /// Engines in one event loop: fast, for sweeps.
    Lockstep,
    /// The real node and client on a simulated network; needs the feature `sim`.
    Madsim,
}

impl World {
    const fn name(self) -> &'static str {
        match self {
            Self::Lockstep => "lockstep",
            Self::Madsim => "madsim",
        }
    }

    /// What its build needs.
    const fn build_flags(self) -> &'static str {
        match self {
            Self::Lockstep => "",
            Self::Madsim => " --features sim",
        }
    }

    /// How this world runs a scenario.
    fn runner(self) -> Result<fn(&Scenario) -> Outcome, String> {
        match self {
            Self::Lockstep => Ok(lockstep::run_scenario),
            #[cfg(feature = "sim")]
            Self::Madsim => Ok(sim::madsim::run_scenario),
            #[cfg(not(feature = "sim"))]
            Self::Madsim => Err("this build has no madsim world; run it with \
                                 `cargo run -p sim --release --features sim -- ...`"
                .to_owned()),
        }
    }
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is not a range of seeds; write it as 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let from = from.parse().map_err(|_| wrong())?;
    let to = to.parse().map_err(|_| wrong())?;
    if from < to { Ok(from..to) } else { Err(wrong()) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run { seeds: Some(seeds), world, json, jobs, file: _ } => {
            run_seeds(seeds, world, json, jobs)
        }
        Command::Run { file, world, json, .. } => {
            let file = file.expect("clap asks for a file or seeds");
            run_file(&file, world, json)
        }
        Command::Replay { seed, world, quiet } => replay(seed, world, quiet),
        Command::Check(arguments) => Ok(check::command::check(&arguments)),
        Command::Bench(Bench::Space { hours, rate, payload, backlog, keep_one_in, json }) => {
            let payload = payload as usize;
            let load = Load { hours, messages_per_s: rate, payload, backlog, keep_one_in };
            Ok(bench_space(load, json))
        }
        Command::Show { seed } => {
            print!("{}", Scenario::from_seed(seed).to_text());
            Ok(true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

/// Runs a load and prints how much of the disk it took, at most, once the backlog was there.
fn bench_space(load: Load, json: bool) -> bool {
    let bar = progress_bar(load.hours * 60);
    let (mut disk_max, mut beyond_max, mut ratio_max) = (0, 0, 0.0_f64);
    let mut last = None;
    bench::space(load, |sample| {
        bar.inc(1);
        disk_max = disk_max.max(sample.disk_bytes);
        beyond_max = beyond_max.max(sample.disk_bytes.saturating_sub(2 * sample.live_bytes));
        if sample.waiting >= load.backlog {
            ratio_max = ratio_max.max(sample.ratio());
        }
        if json && sample.minute.is_multiple_of(15) {
            bar.suspend(|| print_line(&json!(sample).to_string()));
        }
        last = Some(sample);
    });
    bar.finish_and_clear();
    let live = last.map_or(0, |sample| sample.live_bytes);
    let ratio = (ratio_max * 100.0).round() / 100.0;
    let sent = load.hours * 3_600 * u64::from(load.messages_per_s);
    if json {
        let total = json!({
            "hours": load.hours, "messages": sent, "live_bytes": live, "disk_bytes_max": disk_max,
            "beyond_twice_bytes_max": beyond_max, "ratio_max": ratio,
        });
        return print_line(&total.to_string());
    }
    let mib = |bytes: u64| bytes >> 20;
    print_line(&format!(
        "{sent} messages in {} simulated hours\n  live   {} MiB at the end\n  disk   {} MiB at most, {} MiB \
         beyond twice the live bytes at most\n  ratio  {ratio} at most, once the backlog was there",
        load.hours,
        mib(live),
        mib(disk_max),
        mib(beyond_max)
    ))
}

/// The totals of a sweep.
#[derive(Default)]
struct Totals {
    seeds: u64,
    failed: Vec<u64>,
    counts: Counts,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        if !outcome.verdict.is_ok() {
            self.failed.push(outcome.seed);
        }
        self.counts.events += outcome.counts.events;
        self.counts.simulated_us += outcome.counts.simulated_us;
        self.counts.operations += outcome.counts.operations;
        self.counts.answered += outcome.counts.answered;
        self.counts.entries += outcome.counts.entries;
        self.counts.leaders += outcome.counts.leaders;
        self.counts.lives += outcome.counts.lives;
        self.counts.damaged += outcome.counts.damaged;
        self.counts.excused += outcome.counts.excused;
    }

    fn summary(&self, wall_s: f64) -> String {
        let Counts { events, simulated_us, operations, answered, .. } = self.counts;
        let Counts { entries, leaders, lives, damaged, excused, .. } = self.counts;
        json!({
            "seeds": self.seeds,
            "failed": self.failed,
            "simulated_s": simulated_us / 1_000_000,
            "wall_s": (wall_s * 100.0).round() / 100.0,
            "events": events,
            "operations": operations,
            "answered": answered,
            "entries": entries,
            "leaders": leaders,
            "lives": lives,
            "damaged": damaged,
            "excused": excused,
        })
        .to_string()
    }
}

fn verdict_json(outcome: &Outcome) -> String {
    json!({
        "seed": outcome.seed,
        "verdict": outcome.verdict.word(),
        "what": outcome.verdict.to_string(),
        "trace_hash": format!("{:016x}", outcome.trace_hash),
        "events": outcome.counts.events,
        "simulated_s": outcome.counts.simulated_us / 1_000_000,
    })
    .to_string()
}

fn run_seeds(
    seeds: Range<u64>,
    world: World,
    json: bool,
    jobs: Option<usize>,
) -> Result<bool, String> {
    let runner = world.runner()?;
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let bar = progress_bar(seeds.end - seeds.start);
    let (began, mut totals) = (Instant::now(), Totals::default());
    sweep::sweep(seeds, jobs, runner, |outcome| {
        totals.add(&outcome);
        bar.inc(1);
        if json {
            bar.suspend(|| print_line(&verdict_json(&outcome)))
        } else if outcome.verdict.is_ok() {
            true
        } else {
            bar.set_message(format!("{} failed", totals.failed.len()));
            bar.suspend(|| print_line(&failure(&outcome, world)))
        }
    });
    bar.finish_and_clear();
    print_line(&totals.summary(began.elapsed().as_secs_f64()));
    Ok(totals.failed.is_empty())
}

fn failure(outcome: &Outcome, world: World) -> String {
    format!(
        "seed {}: {}\n  replay: cargo run -p sim --release{} -- replay {} --world {}",
        outcome.seed,
        outcome.verdict,
        world.build_flags(),
        outcome.seed,
        world.name()
    )
}

/// Prints a line; false once nobody reads any more.
fn print_line(line: &str) -> bool {
    writeln!(std::io::stdout(), "{line}").is_ok()
}

fn progress_bar(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} {msg}");
    ProgressBar::new(seeds).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn run_file(file: &PathBuf, world: World, json: bool) -> Result<bool, String> {
    let runner = world.runner()?;
    let name = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("cannot read {name}: {error}"))?;
    let scenario = Scenario::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    let began = Instant::now();
    let outcome = sweep::run_guarded(&scenario, runner);
    if json {
        print_line(&verdict_json(&outcome));
    } else if !outcome.verdict.is_ok() {
        print_line(&format!("{name}: {}", outcome.verdict));
    }
    let mut totals = Totals::default();
    totals.add(&outcome);
    print_line(&totals.summary(began.elapsed().as_secs_f64()));
    Ok(outcome.verdict.is_ok())
}

fn replay(seed: u64, world: World, quiet: bool) -> Result<bool, String> {
    let runner = world.runner()?;
    let scenario = Scenario::from_seed(seed);
    let first = sweep::run_guarded(&scenario, runner);
    let second = if quiet {
        sweep::run_guarded(&scenario, runner)
    } else {
        replay_readably(&scenario, world)
    };
    print_line(&format!("seed {seed}: {}", second.verdict));
    print_line(&verdict_json(&second));
    if first != second {
        return Err(format!(
            "two runs of seed {seed} differ: trace {:016x} and {:016x}, {} and {}; something in \
             the simulation is not deterministic",
            first.trace_hash, second.trace_hash, first.verdict, second.verdict
        ));
    }
    Ok(second.verdict.is_ok())
}

/// A run with its trace on standard output.
fn replay_readably(scenario: &Scenario, world: World) -> Outcome {
    fn standard_output() -> Trace {
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let mut is_read = true;
        Trace::readable(Box::new(move |line: &str| {
            is_read = is_read && writeln!(out, "{line}").is_ok();
        }))
    }
    let traced: fn(&Scenario) -> Outcome = match world {
        World::Lockstep => |scenario| lockstep::run_traced(scenario, standard_output()).outcome,
        #[cfg(feature = "sim")]
        World::Madsim => |scenario| sim::madsim::run_traced(scenario, standard_output()).outcome,
        #[cfg(not(feature = "sim"))]
        World::Madsim => unreachable!("a world without a runner is refused before"),
    };
    sweep::run_guarded(scenario, traced)
}
