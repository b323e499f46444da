//! `meshctl trust`: how far agents are trusted.

use mesh_messages::trust::{AgentTrust, TrustCause, TrustChange, TrustLevel, TrustReset};

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Screen, Table};
use crate::session::Session;

/// Most agents that are listed; the list is read in pages of what the daemon gives.
const AGENTS_MAX: usize = 10_000;

/// Text after the help.
pub(crate) const TRUST_HELP: &str = "Examples:\n  meshctl trust\n  meshctl trust summarizer\n  \
    meshctl trust summarizer --reset 'the schema was wrong, not the agent'\n  \
    meshctl trust summarizer --reset 'on probation' --score 0.5 --capability summarize";

/// Shows how far agents are trusted, or sets it.
#[derive(Debug, clap::Args)]
pub(crate) struct Trust {
    /// Show this agent at each capability, and what led to it; all agents when absent
    #[arg(value_name = "AGENT")]
    agent: Option<String>,
    /// Set the trust in it to where an unknown agent stands, for this reason
    #[arg(long, value_name = "REASON", requires = "agent")]
    reset: Option<String>,
    /// Set it to this, from 0 to 1, instead
    #[arg(long, value_name = "LEVEL", requires = "reset", value_parser = level)]
    score: Option<TrustLevel>,
    /// Set it at this capability only
    #[arg(long, value_name = "NAME", requires = "reset")]
    capability: Option<String>,
}

fn level(text: &str) -> Result<TrustLevel, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| "must be a number from 0 to 1".to_owned())?;
    TrustLevel::try_from(value).map_err(str::to_owned)
}

impl Trust {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        self.reset.is_none()
    }
}

/// Runs it.
pub(crate) fn run(arguments: &Trust, session: &mut Session) -> Result<(), Failure> {
    let Some(agent) = &arguments.agent else {
        return list(session);
    };
    let request = match &arguments.reset {
        None => Request::get(&["v1", "trust", agent]),
        Some(reason) => {
            let reset = TrustReset {
                reason: reason.clone(),
                score: arguments.score,
                capability: arguments.capability.clone(),
            };
            let body = serde_json::to_value(reset).unwrap_or_default();
            Request::post(&["v1", "trust", agent, "reset"]).json(&body)
        }
    };
    let answer = session.send(&request)?;
    session.out.show(&answer, || Ok(one(&answer.read()?)))
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "trust"]), AGENTS_MAX)?;
    session.out.show(&answer, || {
        let agents: Vec<AgentTrust> = answer.rows()?;
        let mut table = Table::new(&[
            "AGENT",
            "CAPABILITY",
            "TRUST",
            "SCORE",
            "CONDUCT",
            "TRUSTED",
        ]);
        for agent in &agents {
            for at in &agent.capabilities {
                table.row([
                    agent.agent_id.as_str().into(),
                    at.capability.as_str().into(),
                    at.trust.to_string().into(),
                    at.score.to_string().into(),
                    agent.conduct.to_string().into(),
                    yes_or_no(at.trusted).into(),
                ]);
            }
        }
        let names = agents.iter().map(|agent| agent.agent_id.as_str());
        Ok(Screen::new().table(table).named(names))
    })
}

const fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn one(agent: &AgentTrust) -> Screen {
    let mut scores = Table::new(&["CAPABILITY", "TRUST", "SCORE", "TRUSTED"]);
    for at in &agent.capabilities {
        scores.row([
            at.capability.as_str().into(),
            at.trust.to_string().into(),
            at.score.to_string().into(),
            yes_or_no(at.trusted).into(),
        ]);
    }
    let mut history = Table::new(&["WHEN", "CHANGE", "CAUSE"]);
    for change in &agent.history {
        history.row([
            Some(change.at).into(),
            moves(change).into(),
            cause(change).into(),
        ]);
    }
    let conduct = format!(
        "conduct {}; {} is enough for a task that asks for trust",
        agent.conduct, agent.threshold
    );
    Screen::new()
        .line(conduct)
        .table(scores)
        .table(history)
        .named([agent.agent_id.as_str()])
}

fn moves(change: &TrustChange) -> String {
    let each = change.moves.iter().map(|step| {
        let of = step.capability.as_deref().unwrap_or("conduct");
        format!("{of} {} → {}", step.from, step.to)
    });
    each.collect::<Vec<_>>().join(", ")
}

fn cause(change: &TrustChange) -> String {
    match &change.cause {
        TrustCause::Verified { task, attempt, by } => {
            let by = serde_json::to_value(by).unwrap_or_default();
            let by = by.as_str().unwrap_or_default();
            format!("attempt {attempt} at {task} passed its check by {by}")
        }
        TrustCause::Failed {
            task,
            attempt,
            class,
        } => format!("attempt {attempt} at {task} failed: {class}"),
        TrustCause::Violation { record, what, .. } => format!("{what} (record {record})"),
        TrustCause::Version => "another version is in force".to_owned(),
        TrustCause::Reset { by, reason } => format!("set by {by}: {reason}"),
    }
}
