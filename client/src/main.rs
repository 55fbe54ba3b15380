//! The `posthaste` command line: see `cli`.

#[cfg(not(feature = "sim"))]
mod cli;

#[cfg(not(feature = "sim"))]
fn main() -> std::process::ExitCode {
    cli::main()
}

/// The simulator has a clock, a network and no terminal.
#[cfg(feature = "sim")]
fn main() -> std::process::ExitCode {
    eprintln!("this build of posthaste is for the simulator; build it without feature `sim`");
    std::process::ExitCode::FAILURE
}
