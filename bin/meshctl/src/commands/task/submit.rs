//! Submitting a task, exactly once.

use std::io;

use mesh_messages::claim::{ClaimMode, TaskClaim};
use mesh_messages::escalation::EscalationStep;
use mesh_messages::inbox::AnswerRole;
use mesh_messages::task::{Priority, RetrySpec, TaskReceipt, TaskSpec};
use mesh_messages::team::TeamWish;
use mesh_messages::units::Span;
use mesh_messages::{AgentId, TaskId};
use serde_json::Value;

use super::WAIT_DEFAULT;
use crate::client::{Answer, Request, RequestError};
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::Screen;
use crate::session::{Pauses, Session};

/// How often a submission is sent: once, and again while its answer gets lost. meshd restarts within these pauses.
const TRIES_MAX: u32 = 8;

/// What to submit.
#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// The capabilities that the agent must have
    #[arg(
        long,
        value_name = "CAP[,CAP…]",
        value_delimiter = ',',
        required_unless_present = "kind"
    )]
    requires: Vec<String>,
    /// What kind of work it is; without --requires, also the capability
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// What the agent gets: JSON, @FILE with JSON, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// low, normal, high or critical
    #[arg(long, value_name = "PRIORITY", value_parser = priority, default_value = "normal")]
    priority: Priority,
    /// When it must have ended, from now, such as 30s, 10m or 24h; 24h when absent
    #[arg(long, value_name = "TIME")]
    deadline: Option<Span>,
    /// How long one attempt may take; 10m when absent
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
    /// Submissions under one key are one task
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// A task that must have succeeded first; may be repeated
    #[arg(long, value_name = "TASK")]
    depends_on: Vec<TaskId>,
    /// A resource that it has for itself while it is worked on; may be repeated
    #[arg(long = "claim", value_name = "RESOURCE")]
    claims: Vec<String>,
    /// A resource that it shares with others who share it, such as to read it; may be repeated
    #[arg(long = "claim-shared", value_name = "RESOURCE")]
    shared: Vec<String>,
    /// Who takes it up when it has failed for good: operator, admin, agent:ID, or CAP[+CAP…] for an agent that can do these;
    /// may be repeated, and is then asked in turn; none asks nobody
    #[arg(long, value_name = "WHO", value_parser = escalation)]
    escalate: Vec<Who>,
    #[arg(long, value_name = "HOW", value_parser = team,
          help = "Whether several agents may do it between them when none has all that it requires: auto, hierarchical, cross_functional or never; auto when absent")]
    team: Option<TeamWish>,
    /// A mark to find it by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = input::pair)]
    labels: Vec<(String, String)>,
    /// Attempts in all, the first included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    max_attempts: Option<u32>,
    /// Wait for its end, 30s unless it says how long, and print its output
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = WAIT_DEFAULT)]
    wait: Option<Span>,
}

fn priority(text: &str) -> Result<Priority, String> {
    serde_json::from_value(Value::from(text))
        .map_err(|_| "must be low, normal, high or critical".to_owned())
}

fn team(text: &str) -> Result<TeamWish, String> {
    serde_json::from_value(Value::from(text))
        .map_err(|_| "must be auto, hierarchical, cross_functional or never".to_owned())
}

fn claimed(resource: &str, mode: ClaimMode) -> TaskClaim {
    TaskClaim {
        resource: resource.to_owned(),
        mode,
        token: None,
    }
}

/// Who is named by an `--escalate`; nobody by `none`.
#[derive(Debug, Clone)]
struct Who(Option<EscalationStep>);

fn escalation(text: &str) -> Result<Who, String> {
    let step = match (text, text.strip_prefix("agent:")) {
        ("none", _) => return Ok(Who(None)),
        ("operator", _) => EscalationStep {
            person: Some(AnswerRole::Operator),
            ..EscalationStep::default()
        },
        ("admin", _) => EscalationStep {
            person: Some(AnswerRole::Admin),
            ..EscalationStep::default()
        },
        (_, Some(id)) => EscalationStep {
            agent: Some(AgentId::new(id).map_err(|error| error.to_string())?),
            ..EscalationStep::default()
        },
        (names, None) => EscalationStep {
            requirements: names.split('+').map(str::to_owned).collect(),
            ..EscalationStep::default()
        },
    };
    match step.misfit() {
        None => Ok(Who(Some(step))),
        Some((_, why)) => Err(why),
    }
}

impl Submit {
    fn spec(&self, input: Value, key: String) -> TaskSpec {
        TaskSpec {
            kind: self.kind.clone(),
            requirements: self.requires.clone(),
            input,
            priority: self.priority,
            deadline_ms: self.deadline.map(Span::as_millis),
            timeout_ms: self.timeout.map(Span::as_millis),
            idempotency_key: Some(key),
            retry: self.max_attempts.map(|n| RetrySpec {
                max_attempts: Some(n),
                ..RetrySpec::default()
            }),
            depends_on: self.depends_on.clone(),
            claims: {
                let alone = self
                    .claims
                    .iter()
                    .map(|name| claimed(name, ClaimMode::Exclusive));
                let shared = self
                    .shared
                    .iter()
                    .map(|name| claimed(name, ClaimMode::Shared));
                alone.chain(shared).collect()
            },
            escalate: (!self.escalate.is_empty()).then(|| {
                self.escalate
                    .iter()
                    .filter_map(|who| who.0.clone())
                    .collect()
            }),
            team: self.team,
            labels: self.labels.iter().cloned().collect(),
            ..TaskSpec::default()
        }
    }
}

/// `meshctl task submit`.
pub(super) fn run(arguments: &Submit, session: &mut Session) -> Result<(), Failure> {
    let input = match &arguments.input {
        Some(argument) => input::document(argument, &mut io::stdin())?,
        None => Value::Null,
    };
    let key = match &arguments.idempotency_key {
        Some(key) => key.clone(),
        None => random_key()?,
    };
    let spec = serde_json::to_value(arguments.spec(input, key)).map_err(|error| {
        Failure::new(Exit::Bug, format!("cannot write the task as JSON: {error}"))
    })?;
    let answer = send(&Request::post(&["v1", "tasks"]).json(&spec), session)?;
    let receipt: TaskReceipt = answer.read()?;
    match arguments.wait {
        Some(within) => super::follow::wait(receipt.id.as_str(), within.duration(), session),
        None => session.out.show(&answer, || {
            Ok(Screen::new()
                .line(receipt.id.as_str())
                .named([receipt.id.as_str()]))
        }),
    }
}

/// A key that nobody else has, so that a repeated submission is recognised.
pub(in crate::commands) fn random_key() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(
            Exit::Bug,
            format!("the system gives no randomness: {error}"),
        )
    })?;
    Ok(format!("meshctl-{}", hex::encode(bytes)))
}

/// Sends a submission, and again while it is not known whether it arrived: its key makes all of them one.
fn send(request: &Request, session: &Session) -> Result<Answer, Failure> {
    let mut pauses = Pauses::new();
    let mut lost = false;
    for _ in 1..TRIES_MAX {
        match session.client()?.send(request) {
            Ok(answer) => return Ok(answer),
            Err(RequestError::Lost { .. } | RequestError::TimedOut { .. }) => lost = true,
            // A daemon that has just been lost may be restarting; one that was never there is not waited for.
            Err(RequestError::Unreachable { .. }) if lost => {}
            Err(error) => return Err(error.into()),
        }
        pauses.pause(std::time::Duration::MAX);
    }
    session.send(request)
}
