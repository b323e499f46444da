//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_config::{ReadError, Sources};

/// meshd runs other people's software agents supervised, sandboxed and audited.
#[derive(Debug, Parser)]
#[command(
    name = "meshd",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  meshd demo                           see what it does: a report on the files here, in seconds
  meshd doctor                         which layers of the sandbox this machine gives
  meshd                                run with the defaults: 127.0.0.1:8080, data in ./.mesh
  meshd --agents config/agents         run, and deploy every bundle in a directory
  MESH_LISTEN=127.0.0.1:0 meshd        any setting can come from the environment
  meshd config --origin                every setting, and where its value comes from

When it runs, talk to it with meshctl: `meshctl agent deploy PATH`, `meshctl task submit`, `meshctl status`.

Exit codes:
  0 ended as told   1 the command failed   2 wrong usage   5 port or data directory in use
  64 bad configuration, or data of a newer version   70 escalated to the root, or a bug
  75 disk full or read-only; try again"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) run: StartArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do; without one, `run`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon until SIGTERM or SIGINT; a second signal does not wait for work in progress
    #[command(after_help = "\
Examples:
  meshd run --listen 127.0.0.1:0 --data /var/lib/mesh
  meshd run --config /etc/meshd.yaml --agents /etc/meshd/agents

Prints `meshd ready at URL` on standard output when it serves, and keeps that URL in DATA/endpoint. The admin's
token is in DATA/token. Logs go to standard error.")]
    Run(StartArgs),
    /// Show the main job on real files: a small fleet of agents writes a report, one of them crashing on the way
    #[command(after_help = "\
Examples:
  meshd demo                  report on the files of the current directory
  meshd demo ~/src/project    report on another tree; its agents can read that tree and nothing else
  meshd demo --keep           leave the mesh serving afterwards, to look around with meshctl")]
    Demo(DemoArgs),
    /// Find out what this machine gives to sandbox agents, and how to get what is missing
    #[command(after_help = "Exits 0 when agents can run as shipped, 1 when they cannot.")]
    Doctor(DoctorArgs),
    /// Print the configuration in force
    #[command(after_help = "\
Examples:
  meshd config                          every setting with its value, as a file that could be loaded
  meshd config --origin                 every value with where it comes from
  meshd config --check -c meshd.yaml    print nothing but errors; exit 64 when there are any")]
    Config(ConfigArgs),
    /// Work on the data directory while no daemon runs: encrypt what is in it, or take its key from the kernel
    #[command(after_help = "\
Examples:
  meshd storage encrypt -c meshd.yaml    move a plain data directory into an encrypted one, in the same place
  meshd storage lock -c meshd.yaml       take away the key that a killed meshd has left with the kernel

A daemon that ends in order takes the key away by itself. What encryption needs is under `storage` in the configuration.")]
    Storage(StorageArgs),
    /// Give the node another key while no daemon runs; `meshctl key rotate --node` does it while one does
    #[command(after_help = "\
Examples:
  meshd key rotate -c meshd.yaml                  the log goes on under its name, signed by another key
  meshd key rotate --data .mesh --compromised     nothing that the old key signs from here on counts

The secret becomes DATA/node.key, the old one is gone. The next start puts the change on record.")]
    Key(KeyArgs),
    /// Print the JSON Schema of a format
    #[command(after_help = "Example:\n  meshd schema manifest > manifest.schema.json")]
    Schema {
        /// Which format
        #[arg(value_enum)]
        format: SchemaOf,
    },
}

/// Arguments of `run`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Start on a log that is not what a checkpoint elsewhere says that it was; put on record
    #[arg(long)]
    pub(crate) accept_cut_log: bool,
}

/// Where settings come from, beside the environment.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunArgs {
    /// Configuration file [default: config/meshd.yaml when present]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of everything that meshd keeps [default: ./.mesh]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address of the HTTP surface; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Deploy every bundle in DIR at start
    #[arg(long, value_name = "DIR")]
    pub(crate) agents: Option<PathBuf>,
    /// Form of the log on standard error: auto (human on a terminal), human or json
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
}

impl RunArgs {
    /// File, environment and these flags.
    ///
    /// # Errors
    /// [`ReadError`] when the file or a variable cannot be read.
    pub(crate) fn sources(&self) -> Result<Sources, ReadError> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let flags = [
            ("--data", "data", self.data.as_ref().map(text)),
            ("--listen", "listen", self.listen.clone()),
            ("--agents", "agents", self.agents.as_ref().map(text)),
            (
                "--log-format",
                "telemetry.log_format",
                self.log_format.clone(),
            ),
        ];
        let sources = Sources::read(self.config.as_deref())?;
        Ok(flags
            .into_iter()
            .fold(sources, |sources, (flag, key, value)| match value {
                Some(value) => sources.with_flag(flag, key, value),
                None => sources,
            }))
    }
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Tree of files to report on [default: the current directory]
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// Leave the mesh serving, and say how to look around
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Only check; with --origin, also print
    #[arg(long)]
    pub(crate) check: bool,
    /// Print where each value comes from
    #[arg(long)]
    pub(crate) origin: bool,
}

/// Arguments of `key`.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: KeyVerb,
}

/// What to do to the node's key.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Let another key take over
    Rotate {
        #[command(flatten)]
        run: RunArgs,
        /// The old key is in wrong hands
        #[arg(long)]
        compromised: bool,
    },
}

/// Arguments of `storage`.
#[derive(Debug, Args)]
pub(crate) struct StorageArgs {
    /// What to do
    #[arg(value_enum)]
    pub(crate) verb: StorageVerb,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What to do to the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StorageVerb {
    /// Move a plain directory into an encrypted one.
    Encrypt,
    /// Take the key away from the kernel.
    Lock,
}

/// A format with a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// An agent's manifest.
    Manifest,
    /// A task as it is submitted.
    Task,
    /// A workflow's document.
    Workflow,
    /// A KLP envelope.
    Klp,
    /// The configuration.
    Config,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn checking_and_printing_origins_go_together() {
        let cli = Cli::parse_from(["meshd", "config", "--check", "--origin"]);
        assert!(matches!(cli.command, Some(Command::Config(args)) if args.check && args.origin));
    }

    #[test]
    fn the_definition_of_the_command_line_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_what_happens_without_a_command_and_flags_become_settings() {
        let cli = Cli::parse_from(["meshd", "--data", "d", "--listen", "127.0.0.1:0"]);
        assert!(cli.command.is_none());
        let sources = cli.run.run.sources().unwrap();
        let keys: Vec<_> = sources
            .flags
            .iter()
            .map(|(flag, key, _)| (flag.as_str(), key.as_str()))
            .collect();
        assert_eq!(keys, [("--data", "data"), ("--listen", "listen")]);
    }

    #[test]
    fn flags_before_a_command_are_wrong_usage_and_not_ignored() {
        let error = Cli::try_parse_from(["meshd", "--data", "d", "demo"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
