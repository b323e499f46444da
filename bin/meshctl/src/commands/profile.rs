//! `meshctl profile`: security profiles by their names.

use clap::Subcommand;
use mesh_messages::profile::{ProfileDiff, SecurityProfile};

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Screen, Table, compact};
use crate::session::Session;

/// Rows to ask for: there are three.
const ROWS: usize = 100;

/// Commands about security profiles.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List them: what each demands and allows, and which agents have it
    #[command(after_help = "Example:\n  meshctl profile list")]
    List,
    /// Show how one differs from what holds for an agent
    #[command(after_help = "Example:\n  meshctl profile diff echo maximum\n\n\
        One is assigned by the manifest (policy.security.sandbox_level), or by the operator:\n  \
        echo 'agents: {echo: {sandbox_level: maximum}}' | meshctl policy apply -")]
    Diff {
        /// The agent's id
        #[arg(value_name = "AGENT")]
        agent: String,
        /// The profile: relaxed (basic), strict (enhanced) or maximum
        #[arg(value_name = "PROFILE")]
        profile: String,
    },
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::List)
    }
}

/// Runs one of them.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::List => list(session),
        Command::Diff { agent, profile } => diff(agent, profile, session),
    }
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "profiles"]), ROWS)?;
    session.out.show(&answer, || {
        let profiles: Vec<SecurityProfile> = answer.rows()?;
        let mut table = Table::new(&[
            "PROFILE",
            "ALSO",
            "DEFAULT",
            "SHORTFALL",
            "MAY DEGRADE",
            "EXECUTES",
            "AGENTS",
        ]);
        for profile in &profiles {
            let agents: Vec<&str> = profile
                .agents
                .iter()
                .map(mesh_messages::AgentId::as_str)
                .collect();
            table.row([
                profile.name.name().into(),
                profile.also.as_deref().unwrap_or("-").into(),
                if profile.configured { "yes" } else { "-" }.into(),
                if profile.required {
                    "refuses"
                } else {
                    "is told"
                }
                .into(),
                profile.degradable.join(", ").into(),
                profile.execution.as_str().into(),
                agents.join(", ").into(),
            ]);
        }
        let names = profiles.iter().map(|profile| profile.name.name());
        Ok(Screen::new().table(table).named(names))
    })
}

/// `GET /v1/agents/{id}/profile`.
pub(crate) fn diff(agent: &str, profile: &str, session: &mut Session) -> Result<(), Failure> {
    let request = Request::get(&["v1", "agents", agent, "profile"]).query("against", Some(profile));
    let answer = session.send(&request)?;
    session.out.show(&answer, || {
        let diff: ProfileDiff = answer.read()?;
        let mut table = Table::new(&["KEY", "HOLDS", "PROFILE"]);
        for one in &diff.differences {
            table.row([
                one.key.as_str().into(),
                compact(&one.effective).into(),
                compact(&one.profile).into(),
            ]);
        }
        let mut screen = Screen::new().line(format!(
            "agent {} has {}; assigned {}, it would have {}",
            diff.agent,
            diff.effective.name(),
            diff.profile.name(),
            diff.would_hold.name()
        ));
        if let Some(refused) = &diff.refused {
            screen = screen.line(format!("it could not start then: {refused}"));
        }
        let keys: Vec<String> = diff.differences.iter().map(|one| one.key.clone()).collect();
        if keys.is_empty() {
            return Ok(screen.line("nothing differs").named(keys));
        }
        Ok(screen.table(table).named(keys))
    })
}
