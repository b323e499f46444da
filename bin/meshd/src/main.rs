//! The daemon. This file is the order of things; each step has a module of its own.

use std::process::ExitCode;

use clap::Parser;

mod builtin;
mod bundles;
mod cli;
mod courier;
mod daemon;
mod demo;
mod doctor;
mod durable;
mod endpoint;
mod exit;
mod identity;
mod natives;
mod notary;
mod outgoing;
mod renewal;
mod rotate;
mod settings;
mod show;
mod storage;
mod telemetry;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // Sandboxes are built by this very image, before it has a second thread.
    if mesh_sandbox::is_helper_invocation() {
        mesh_sandbox::sandbox_main();
    }
    if let Some(agent) = builtin::asked_for() {
        return builtin::run(&agent);
    }
    let cli = Cli::parse();
    exit::finish(match cli.command {
        None => daemon::run(&cli.run),
        Some(Command::Run(args)) => daemon::run(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Config(args)) => show::config(&args),
        Some(Command::Key(args)) => rotate::run(&args),
        Some(Command::Storage(args)) => storage::run(&args),
        Some(Command::Schema { format }) => show::schema(format),
    })
}
