//! Long tests that are programs of their own: `cargo run --release -p mesh-tests -- sim`, `… -- mutants`.

mod mutants;
mod sim;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tests of meshd that are too long for `cargo test`.
#[derive(Debug, Parser)]
#[command(name = "mesh-tests", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plant bugs into a copy of the sources, one at a time, and see that the tests catch each of them
    Mutants(mutants::Args),
    /// Simulate meshd in virtual time, and check every promise after every step
    Sim(sim::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Mutants(args) => mutants::run(&args),
        Command::Sim(args) => sim::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _nobody_reads = writeln!(std::io::stderr(), "mesh-tests: {error}");
            ExitCode::from(2)
        }
    }
}
