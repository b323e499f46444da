//! `meshctl agent`: deploying, watching and controlling agents.

mod control;
mod deploy;
mod graph;
mod limit;
mod logs;
mod show;
mod sign;
mod signal;

pub(super) use show::policy;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Subcommand;
use mesh_messages::dependency::{Dependents, Needed};

use crate::exit::Failure;
use crate::session::Session;

/// Commands about agents.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a bundle or a manifest, without a daemon
    #[command(
        after_help = "Examples:\n  meshctl agent validate ./echo\n  meshctl agent validate ./echo/manifest.yaml"
    )]
    Validate {
        /// A bundle's directory, or a manifest
        path: PathBuf,
    },
    /// Sign a bundle: writes the publisher's signature into its manifest
    #[command(
        after_help = "Example:\n  meshctl key new --out acme.key && meshctl agent sign ./echo --key acme.key"
    )]
    Sign(sign::Sign),
    /// Check a bundle's signature; needs no daemon
    #[command(
        after_help = "Example:\n  meshctl agent verify ./echo --key did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
    )]
    Verify(Box<sign::Verify>),
    /// Register a bundle and start its agent
    #[command(after_help = DEPLOY_HELP)]
    Deploy(deploy::Deploy),
    /// List agents
    #[command(
        after_help = "Examples:\n  meshctl agent list\n  meshctl agent list --capability echo -o name"
    )]
    List(show::List),
    /// Show an agent's profile
    #[command(
        after_help = "Examples:\n  meshctl agent show echo\n  meshctl agent show echo -o yaml\n  meshctl agent show echo --at 1042"
    )]
    Show(show::Show),
    /// Show an agent's stage, supervision, health and instances
    #[command(after_help = "Example:\n  meshctl agent status echo --watch")]
    Status(Id),
    /// Start a stopped agent
    #[command(
        after_help = "Examples:\n  meshctl agent start echo\n  meshctl agent start search --with-needed"
    )]
    Start {
        #[command(flatten)]
        agent: Id,
        /// Also the stopped agents that it needs, those first that the others need
        #[arg(long)]
        with_needed: bool,
    },
    /// Stop an agent; it stays registered. Refused while others that run need it
    #[command(
        after_help = "Examples:\n  meshctl agent stop echo\n  meshctl agent stop store --with-dependents"
    )]
    Stop {
        #[command(flatten)]
        agent: Id,
        /// Stop the agents that need it, too, and before it
        #[arg(long, conflicts_with = "alone")]
        with_dependents: bool,
        /// Let the agents that need it run without it
        #[arg(long)]
        alone: bool,
    },
    /// Show what agents need of each other, and the order in which they start
    #[command(after_help = graph::HELP)]
    Graph(graph::Graph),
    /// Stop an agent and start it again
    #[command(after_help = "Example:\n  meshctl agent restart echo")]
    Restart(Id),
    /// Give an agent no more work and freeze its processes; they go on where they were with resume
    #[command(after_help = "Example:\n  meshctl agent pause echo")]
    Pause(Id),
    /// Give a paused agent work again
    #[command(after_help = "Example:\n  meshctl agent resume echo")]
    Resume(Id),
    /// Isolate an agent: it executes nothing, receives nothing and holds no valid token
    #[command(
        after_help = "Example:\n  meshctl agent quarantine echo --reason 'answers look wrong' --severity high"
    )]
    Quarantine(control::Quarantine),
    /// Bring an agent back from quarantine
    #[command(
        after_help = "Examples:\n  meshctl agent recover echo\n  meshctl agent recover echo --force"
    )]
    Recover {
        #[command(flatten)]
        agent: Id,
        /// Also when its recoveries are used up; takes an admin's token
        #[arg(long)]
        force: bool,
    },
    /// Run another registered version of an agent
    #[command(
        after_help = "Examples:\n  meshctl agent upgrade echo\n  meshctl agent upgrade echo --to 1.1.0 --type hard"
    )]
    Upgrade(control::Upgrade),
    /// Go back to an earlier version of an agent
    #[command(
        after_help = "Examples:\n  meshctl agent rollback echo\n  meshctl agent rollback echo --to 1.0.0"
    )]
    Rollback {
        #[command(flatten)]
        agent: Id,
        /// The version; without it, the one before
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
    /// Change how many instances an agent has
    #[command(after_help = "Example:\n  meshctl agent scale echo 3")]
    Scale {
        #[command(flatten)]
        agent: Id,
        /// How many
        replicas: u32,
    },
    /// Change limits of an agent while it runs, without a restart; they stay until they are changed or reset
    #[command(
        after_help = "Examples:\n  meshctl agent limit echo --cpu 500m --memory 256MB\n  \
        meshctl agent limit echo --connections 4 --bandwidth 500KB\n  meshctl agent limit echo --reset memory,io\n\n\
        They are the operator's word for this agent, above its manifest. What the kernel does not change at once, the\n\
        record limits.changed names: it holds from the next start on."
    )]
    Limit(limit::Limit),
    /// Send a signal to an agent's own process
    #[command(
        after_help = "Examples:\n  meshctl agent signal echo HUP\n  meshctl agent signal echo SIGUSR1 --instance 0\n\n\
        What ends, freezes and thaws processes has orders of its own: restart, stop, pause, resume."
    )]
    Signal(signal::Signal),
    /// End an agent for good; its persistent memory is sealed
    #[command(after_help = "Example:\n  meshctl agent terminate echo")]
    Terminate(Id),
    /// Drain, stop and forget an agent; its audit stays
    #[command(after_help = "Example:\n  meshctl agent remove echo")]
    Remove(Id),
    /// Show what an agent wrote to standard error
    #[command(
        after_help = "Examples:\n  meshctl agent logs echo --tail 20\n  meshctl agent logs echo -f"
    )]
    Logs(logs::Logs),
    /// Show an agent's records
    #[command(after_help = "Example:\n  meshctl agent history echo --limit 20")]
    History(History),
    /// Show what an agent's past tasks say of it
    #[command(after_help = "Example:\n  meshctl agent insights echo")]
    Insights(Id),
    /// Show the policy in force for an agent, and where each value comes from
    #[command(
        after_help = "Examples:\n  meshctl agent policy echo\n  meshctl agent policy echo --diff maximum"
    )]
    Policy {
        /// The agent
        #[command(flatten)]
        agent: Id,
        /// Show how this security profile differs from what holds
        #[arg(long, value_name = "PROFILE")]
        diff: Option<String>,
    },
    /// Show an agent's instances
    #[command(after_help = "Example:\n  meshctl agent instances echo --watch")]
    Instances(Id),
    /// Show what is enforced around an agent
    #[command(after_help = "Example:\n  meshctl agent sandbox echo")]
    Sandbox(Id),
}

const DEPLOY_HELP: &str = "\
PATH is a bundle's directory with manifest.json or manifest.yaml in it, or a manifest; that file and
its entry are then the bundle. The same content again is nothing to do; other content under the same
version is a conflict (exit 5).

Examples:
  meshctl agent deploy ./echo
  meshctl agent deploy ./echo/manifest.yaml --no-start";

/// The agent meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Id {
    /// The agent's id
    pub(crate) id: String,
}

/// Which records.
#[derive(Debug, clap::Args)]
pub(crate) struct History {
    #[command(flatten)]
    agent: Id,
    /// Rows to show at most
    #[arg(long, default_value = "1000", value_name = "N")]
    limit: NonZeroUsize,
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(
            self,
            Self::List(_)
                | Self::Show(_)
                | Self::Status(_)
                | Self::Insights(_)
                | Self::Policy { .. }
                | Self::Instances(_)
                | Self::Sandbox(_)
                | Self::Graph(_)
        )
    }
}

/// Runs one of them.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    use control::Verb;
    match command {
        Command::Validate { path } => deploy::validate(path, session),
        Command::Sign(arguments) => sign::sign(arguments, session),
        Command::Verify(arguments) => sign::verify(arguments, session),
        Command::Deploy(arguments) => deploy::deploy(arguments, session),
        Command::List(arguments) => show::list(arguments, session),
        Command::Show(arguments) => show::profile(arguments, session),
        Command::Status(agent) => show::status(&agent.id, session),
        Command::Start { agent, with_needed } => {
            let needed = with_needed.then_some(Needed::Start).unwrap_or_default();
            control::order(&agent.id, Verb::Start(needed), session)
        }
        Command::Stop {
            agent,
            with_dependents,
            alone,
        } => {
            let dependents = match (with_dependents, alone) {
                (true, _) => Dependents::Stop,
                (false, true) => Dependents::Leave,
                (false, false) => Dependents::Refuse,
            };
            control::order(&agent.id, Verb::Stop(dependents), session)
        }
        Command::Graph(arguments) => graph::graph(arguments, session),
        Command::Restart(agent) => control::order(&agent.id, Verb::Restart, session),
        Command::Pause(agent) => control::order(&agent.id, Verb::Pause, session),
        Command::Resume(agent) => control::order(&agent.id, Verb::Resume, session),
        Command::Terminate(agent) => control::order(&agent.id, Verb::Terminate, session),
        Command::Limit(limits) => limit::limit(limits, session),
        Command::Signal(order) => signal::signal(order, session),
        Command::Scale { agent, replicas } => control::order(
            &agent.id,
            Verb::Scale {
                replicas: *replicas,
            },
            session,
        ),
        Command::Quarantine(arguments) => control::quarantine(arguments, session),
        Command::Recover { agent, force } => control::recover(&agent.id, *force, session),
        Command::Upgrade(arguments) => control::upgrade(arguments, session),
        Command::Rollback { agent, to } => control::rollback(&agent.id, to.as_deref(), session),
        Command::Remove(agent) => control::remove(&agent.id, session),
        Command::Logs(arguments) => logs::run(arguments, session),
        Command::History(History { agent, limit }) => super::audit::records(
            &["v1", "agents", &agent.id, "history"],
            limit.get(),
            session,
        ),
        Command::Insights(agent) => show::insights(&agent.id, session),
        Command::Policy { agent, diff } => match diff {
            Some(profile) => super::profile::diff(&agent.id, profile, session),
            None => show::policy(&agent.id, session),
        },
        Command::Instances(agent) => show::instances(&agent.id, session),
        Command::Sandbox(agent) => show::sandbox(&agent.id, session),
    }
}
