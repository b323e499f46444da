//! `meshctl policy`: thresholds and limits, while the mesh runs.

use std::io;
use std::path::PathBuf;

use clap::Subcommand;
use mesh_messages::agent::PolicyValue;
use mesh_messages::policy::PolicyInForce;

use super::agent;
use crate::client::Request;
use crate::exit::Failure;
use crate::input;
use crate::output::{Screen, Table, compact};
use crate::session::Session;

/// Commands about the operator's policy.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what holds for all agents, or for one, and where each value comes from
    #[command(after_help = "Examples:\n  meshctl policy show\n  meshctl policy show echo")]
    Show {
        /// An agent; without it, what holds for agents whose manifests override nothing
        #[arg(value_name = "AGENT")]
        agent: Option<String>,
    },
    /// Replace thresholds and limits while the mesh runs; what the document does not name stays as it is
    #[command(after_help = "Examples:\n  meshctl policy apply policy.yaml\n  \
        echo 'default: {lifecycle: {max_crashes: 5}}' | meshctl policy apply -\n\n\
        The document, each part of which may be left out:\n  \
        default:                          # for all agents, below their manifests\n    \
        lifecycle: {max_crashes: 5, crash_window_ms: 60000, auto_restart: true,\n                \
        quarantine_threshold: 8, failures_per_hour: 20}\n    \
        resource_limits: {cpu: 500m, memory: 256Mi, disk: 1Gi, pids: 32}\n    \
        sandbox_level: strict           # relaxed, strict, maximum\n    \
        approvals: [{action: 'net.*', decision: ask, role: admin}]   # what agents ask people\n    \
        access: [{decision: deny, verbs: [task.submit], taskTypes: ['billing.*']}]   # who may do what\n  \
        agents:                           # for single agents, above their manifests\n    \
        echo: {essential: true}\n    \
        other: {}                         # takes back what was applied before\n\n\
        An agent that is failing is judged by the old thresholds until it is stable or recovered.")]
    Apply {
        /// YAML or JSON; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::Show { .. })
    }
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Show { agent: Some(id) } => agent::policy(id, session),
        Command::Show { agent: None } => {
            let answer = session.send(&Request::get(&["v1", "policies"]))?;
            session.out.show(&answer, || {
                let policy: PolicyInForce = answer.read()?;
                Ok(screen(&policy.values))
            })
        }
        Command::Apply { file } => {
            let document = input::yaml(file, &mut io::stdin())?;
            let answer = session.send(&Request::put(&["v1", "policies"]).json(&document))?;
            session.out.show(&answer, || {
                let policy: PolicyInForce = answer.read()?;
                Ok(screen(&policy.values))
            })
        }
    }
}

/// The values in force, each with its origin.
pub(in crate::commands) fn screen(values: &[PolicyValue]) -> Screen {
    let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
    for value in values {
        table.row([
            value.key.as_str().into(),
            compact(&value.value).into(),
            value.origin.as_str().into(),
        ]);
    }
    Screen::new()
        .table(table)
        .named(values.iter().map(|value| value.key.as_str()))
}
