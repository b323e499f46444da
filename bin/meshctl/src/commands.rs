//! What each command does: a module per group, each with its arguments, its requests and its screens.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod board;
pub(crate) mod budget;
pub(crate) mod bus;
pub(crate) mod chaos;
pub(crate) mod claim;
pub(crate) mod events;
pub(crate) mod export;
pub(crate) mod gate;
pub(crate) mod governance;
pub(crate) mod inbox;
pub(crate) mod key;
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod profile;
pub(crate) mod restore;
pub(crate) mod schedule;
pub(crate) mod secret;
pub(crate) mod send;
pub(crate) mod service;
pub(crate) mod system;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod trust;
pub(crate) mod workflow;

use clap::CommandFactory as _;

use crate::cli::{Cli, Command};
use crate::exit::Failure;
use crate::session::Session;

/// Runs a command once.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Status => system::status(session),
        Command::Health => system::health(session),
        Command::Doctor => system::doctor(session),
        Command::Top => system::top(session),
        Command::Agent(command) => agent::run(command, session),
        Command::Task(command) => task::run(command, session),
        Command::Workflow(command) => workflow::run(command, session),
        Command::Schedule(command) => schedule::run(command, session),
        Command::Plan(command) => plan::run(command, session),
        Command::Service(command) => service::run(command, session),
        Command::Governance(command) => governance::run(command, session),
        Command::Inbox(command) => inbox::run(command, session),
        Command::Board(arguments) => board::run(arguments, session),
        Command::Claim(command) => claim::run(command, session),
        Command::Trust(arguments) => trust::run(arguments, session),
        Command::Gate(command) => gate::run(command, session),
        Command::Profile(command) => profile::run(command, session),
        Command::Bus(command) => bus::run(command, session),
        Command::Budget(command) => budget::run(command, session),
        Command::Send(arguments) => send::run(arguments, session),
        Command::Events(arguments) => events::run(arguments, session),
        Command::Memory(command) => memory::run(command, session),
        Command::Audit(command) => audit::run(command, session),
        Command::Export(arguments) => export::run(arguments, session),
        Command::Backup(arguments) => backup::run(arguments, session),
        Command::Restore(arguments) => restore::run(arguments, session),
        Command::Chaos(arguments) => chaos::run(arguments, session),
        Command::Secret(command) => secret::run(command, session),
        Command::Token(command) => token::run(command, session),
        Command::Policy(command) => policy::run(command, session),
        Command::Key(command) => key::run(command, session),
        Command::Node(system::NodeCommand::List) => system::nodes(session),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "meshctl", &mut script);
            Ok(session.out.write(&script)?)
        }
    }
}
