//! The command line: global options and the commands. What a command takes is defined beside what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    agent, audit, backup, board, budget, bus, chaos, claim, events, export, gate, governance,
    inbox, key, memory, plan, policy, profile, restore, schedule, secret, send, service, system,
    task, token, trust, workflow,
};
use crate::output::Format;

const AFTER_HELP: &str = "\
Examples:
  meshctl status
  meshctl agent deploy ./echo
  meshctl task submit --requires echo --input '{\"text\": \"hi\"}' --wait
  meshctl task list --state running --watch
  meshctl audit export --out audit.jsonl && meshctl audit verify audit.jsonl

Finding the daemon:
  its URL    --url, else MESH_URL, else <data>/endpoint, else http://127.0.0.1:8080
  the token  --token-file, else MESH_TOKEN, else <data>/token (not with --cert)
  its CA     --ca, else MESH_CA, else <data>/endpoint.ca for the URL found beside it, else the web's authorities
  <data>     --data, else MESH_DATA, else ./.mesh

Exit codes:
  0 ok · 1 the request or the task failed, or a file is invalid · 2 wrong usage · 3 not found
  4 denied · 5 conflict · 6 unreachable · 7 timed out, still running · 70 a bug · 75 try again";

// Texts with names that a doc comment would have to put in backticks, which help shows as they are.
const URL_HELP: &str = "The daemon's address, such as http://127.0.0.1:8080 [env: MESH_URL]";
const TOKEN_HELP: &str = "A file with the token to use [env: MESH_TOKEN, the token itself]";
const DATA_HELP: &str =
    "The daemon's data directory, for its address and token [env: MESH_DATA] [default: ./.mesh]";

const CA_HELP: &str =
    "A file with the authorities of the daemon's certificate, for https [env: MESH_CA]";
const CERT_HELP: &str =
    "A file with the certificate to be known by, when no token is named [env: MESH_CERT]";
const CERT_KEY_HELP: &str =
    "A file with the certificate's key, unless it is in the same one [env: MESH_CERT_KEY]";

/// Runs and watches agents on a mesh: the client of meshd.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, about, after_help = AFTER_HELP, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    #[arg(long, global = true, value_name = "URL", help = URL_HELP)]
    pub(crate) url: Option<String>,
    #[arg(long, global = true, value_name = "FILE", help = TOKEN_HELP)]
    pub(crate) token_file: Option<PathBuf>,
    #[arg(long, global = true, value_name = "DIR", help = DATA_HELP)]
    pub(crate) data: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = CA_HELP)]
    pub(crate) ca: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = CERT_HELP)]
    pub(crate) cert: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = CERT_KEY_HELP)]
    pub(crate) cert_key: Option<PathBuf>,
    /// The form of the output; json and yaml are the HTTP answer, name is ids only
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub(crate) output: Format,
    /// Show it again whenever something changes, until Ctrl-C
    #[arg(long, global = true)]
    pub(crate) watch: bool,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how the mesh is doing
    #[command(after_help = "Example:\n  meshctl status --watch")]
    Status,
    /// Show every health check
    #[command(after_help = "Example:\n  meshctl health -o json")]
    Health,
    /// Say which protections this machine gives, and how to get the missing ones
    #[command(after_help = system::DOCTOR_HELP)]
    Doctor,
    /// Show agents with what they use, again and again
    #[command(after_help = "Examples:\n  meshctl top\n  meshctl top | head -n 5")]
    Top,
    /// Deploy, watch and control agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// Submit, follow and control tasks
    #[command(subcommand)]
    Task(task::Command),
    /// Submit, follow and end workflows
    #[command(subcommand)]
    Workflow(workflow::Command),
    /// Store, edit and start plans
    #[command(subcommand)]
    Plan(plan::Command),
    /// Begin runs of workflows at planned times
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Register, check and call services beside the agents
    #[command(subcommand)]
    Service(service::Command),
    /// See and answer what people are asked: approvals, questions and permissions
    #[command(subcommand)]
    Inbox(inbox::Command),
    /// Show the board: tasks by column; write its cards to a file, or take them from one
    #[command(
        after_help = "Examples:\n  meshctl board\n  meshctl board --watch\n  meshctl board export --out cards.jsonl"
    )]
    Board(board::Arguments),
    /// Show what agents have claimed
    #[command(subcommand)]
    Claim(claim::Command),
    /// Show how far agents are trusted, and why
    #[command(after_help = trust::TRUST_HELP)]
    Trust(trust::Trust),
    /// See the providers' accounts whose limit was reached, and have one tried now
    #[command(subcommand)]
    Gate(gate::Command),
    /// See the security profiles, and how one differs from what holds for an agent
    #[command(subcommand)]
    Profile(profile::Command),
    /// See who gets what; durable subscriptions, dead letters, the ways of messages
    #[command(subcommand)]
    Bus(bus::Command),
    /// See what tasks, agents, teams and providers' accounts may use and have used, and bound what agents share
    #[command(subcommand)]
    Budget(budget::Command),
    /// Send one KLP envelope and print the reply or the receipt
    Send(send::Send),
    /// Follow what happens, as it happens
    Events(events::Events),
    /// Read and write agents' memory
    #[command(subcommand)]
    Memory(memory::Command),
    /// Read, export and verify the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Write agents, assignments, relationships and insights as SQL tables
    #[command(after_help = export::EXPORT_HELP)]
    Export(export::Export),
    /// Back a running node up
    #[command(after_help = backup::BACKUP_HELP)]
    Backup(backup::Backup),
    /// Restore a backup into an empty data directory; needs no daemon
    #[command(after_help = restore::RESTORE_HELP)]
    Restore(restore::Restore),
    /// Hurt a running fleet on purpose, and judge whether the mesh kept its promises
    Chaos(Box<chaos::Chaos>),
    /// Set, list and delete secrets
    #[command(subcommand)]
    Secret(secret::Command),
    /// Issue, list and revoke tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Show or change thresholds and limits, while the mesh runs
    #[command(subcommand)]
    Policy(policy::Command),
    /// Make, sign and submit changes that admins sign together
    #[command(subcommand)]
    Governance(governance::Command),
    /// Make a key, or show the node's
    #[command(subcommand)]
    Key(Box<key::Command>),
    /// Show nodes
    #[command(subcommand)]
    Node(system::NodeCommand),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  source <(meshctl completions bash)")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether showing it again makes sense: it reads, and it ends.
    pub(crate) fn is_watchable(&self) -> bool {
        match self {
            Self::Status | Self::Health | Self::Top | Self::Node(_) => true,
            Self::Board(arguments) => arguments.is_watchable(),
            Self::Agent(command) => command.is_watchable(),
            Self::Task(command) => command.is_watchable(),
            Self::Workflow(command) => command.is_watchable(),
            Self::Schedule(command) => command.is_watchable(),
            Self::Plan(command) => command.is_watchable(),
            Self::Service(command) => command.is_watchable(),
            Self::Claim(command) => command.is_watchable(),
            Self::Trust(arguments) => arguments.is_watchable(),
            Self::Gate(command) => command.is_watchable(),
            Self::Profile(command) => command.is_watchable(),
            Self::Bus(command) => command.is_watchable(),
            Self::Budget(command) => command.is_watchable(),
            Self::Governance(command) => command.is_watchable(),
            Self::Inbox(command) => command.is_watchable(),
            Self::Memory(command) => command.is_watchable(),
            Self::Secret(command) => command.is_watchable(),
            Self::Token(command) => command.is_watchable(),
            Self::Policy(command) => command.is_watchable(),
            Self::Doctor
            | Self::Send(_)
            | Self::Events(_)
            | Self::Audit(_)
            | Self::Export(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Chaos(_)
            | Self::Key(_)
            | Self::Completions { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("meshctl").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_leaf_command_explains_itself_with_an_example() {
        fn check(command: &clap::Command) {
            if command.get_subcommands().next().is_none() {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(
                    help.contains("meshctl "),
                    "{} has no example",
                    command.get_name()
                );
                assert!(
                    command.get_about().is_some(),
                    "{} does not say what it does",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    /// What stands in the help is what people paste.
    #[test]
    fn every_example_in_the_help_parses() {
        fn examples(command: &clap::Command, all: &mut Vec<String>) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let lines = help.lines().flat_map(|line| line.split("&&"));
            let lines = lines.map(|line| line.split(['|', '>', '<']).next().unwrap_or(line).trim());
            all.extend(
                lines
                    .filter(|line| line.starts_with("meshctl "))
                    .map(str::to_owned),
            );
            command
                .get_subcommands()
                .for_each(|command| examples(command, all));
        }
        let mut all = Vec::new();
        examples(&Cli::command(), &mut all);
        assert!(all.len() > 30, "{all:?}");
        for example in all {
            let words = words(&example);
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{example}: {error}");
            }
        }
    }

    /// Splits as a shell does, as far as the examples need it.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(std::mem::take(&mut word)),
                _ => word.push(c),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [
            "-o json --url http://h:1 agent list",
            "agent list --url http://h:1 -o json",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(
                (cli.globals.output, cli.globals.url.as_deref()),
                (Format::Json, Some("http://h:1"))
            );
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [
            "",
            "nonsense",
            "agent",
            "task submit",
            "task submit --input 7",
            "agent scale echo",
            "agent limit",
            "agent limit echo --pids many",
            "task list --state nonsense",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
