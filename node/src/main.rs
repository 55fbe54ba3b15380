//! The `node` binary: makes and runs nodes, one at a time or a whole cluster on this machine.
//!
//! Only a command line; everything that matters is in the library. Next: `cli`.

#[cfg(not(feature = "sim"))]
mod cli;

#[cfg(not(feature = "sim"))]
fn main() -> std::process::ExitCode {
    cli::main()
}

#[cfg(feature = "sim")]
fn main() -> std::process::ExitCode {
    eprintln!(
        "this `node` was built with feature `sim`, for the simulator, and cannot serve; build it \
         without that feature"
    );
    std::process::ExitCode::FAILURE
}
