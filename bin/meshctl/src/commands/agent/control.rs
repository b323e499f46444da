//! Orders to agents.

use mesh_messages::agent::{AgentStatus, RecoveryResult};
use mesh_messages::dependency::{DependencyGraph, Dependents, Needed};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Id;
use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

/// An order that is answered with the agent's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Start(Needed),
    Stop(Dependents),
    Restart,
    Pause,
    Resume,
    Terminate,
    Scale { replicas: u32 },
}

impl Verb {
    /// Its name in the route, its body, and what it is called once it is done.
    fn parts(self) -> (&'static str, Option<Value>, String) {
        let plain = |name, done: &str| (name, None, done.to_owned());
        match self {
            Self::Start(needed) => {
                let body = (needed != Needed::Wait).then(|| json!({ "needed": needed }));
                ("start", body, "started".to_owned())
            }
            Self::Stop(dependents) => {
                let said = dependents != Dependents::Refuse;
                let body = said.then(|| json!({ "dependents": dependents }));
                ("stop", body, "stopped".to_owned())
            }
            Self::Restart => plain("restart", "restarted"),
            Self::Pause => plain("pause", "paused"),
            Self::Resume => plain("resume", "resumed"),
            Self::Terminate => plain("terminate", "terminated"),
            Self::Scale { replicas } => (
                "scale",
                Some(json!({ "replicas": replicas })),
                format!("scaled to {replicas}"),
            ),
        }
    }
}

fn post(id: &str, verb: &str, body: Option<&Value>, session: &Session) -> Result<Answer, Failure> {
    let request = Request::post(&["v1", "agents", id, verb]).slow();
    session.send(&match body {
        Some(body) => request.json(body),
        None => request,
    })
}

pub(super) fn order(id: &str, verb: Verb, session: &mut Session) -> Result<(), Failure> {
    let (name, body, done) = verb.parts();
    let answer = match verb {
        Verb::Stop(Dependents::Stop) => stop_all(id, session)?,
        _ => post(id, name, body.as_ref(), session)?,
    };
    confirm(id, &done, &answer, session)
}

/// Stops an agent and whoever needs it.
///
/// That takes as long as there are waves of those who need each other, and meshd lets no answer take longer than it is set
/// to. What was stopped stays so, and whoever asks again has the rest stopped: at least one wave each time.
fn stop_all(id: &str, session: &Session) -> Result<Answer, Failure> {
    let graph: DependencyGraph = session
        .send(&Request::get(&["v1", "dependencies"]))?
        .read()?;
    let order = json!({ "dependents": Dependents::Stop });
    let request = Request::post(&["v1", "agents", id, "stop"]).slow();
    let request = request.json(&order);
    for _ in 1..graph.waves.len() {
        match session.client()?.send(&request) {
            Err(error) if error.is_late() => {}
            answer => return Ok(answer?),
        }
    }
    session.send(&request)
}

/// Says what was done, and the stage that the agent is in now.
fn confirm(id: &str, done: &str, answer: &Answer, session: &mut Session) -> Result<(), Failure> {
    session.out.show(answer, || {
        let status: AgentStatus = answer.read()?;
        let stage = status
            .lifecycle
            .map(|stage| format!(" ({stage})"))
            .unwrap_or_default();
        let waits: Vec<String> = status.waiting_for.iter().map(ToString::to_string).collect();
        let waits = if waits.is_empty() {
            String::new()
        } else {
            format!("; it waits: {}", waits.join(", "))
        };
        Ok(Screen::confirmation(
            format!("{id} {done}{stage}{waits}"),
            id,
        ))
    })
}

/// How and why to isolate an agent.
#[derive(Debug, clap::Args)]
pub(crate) struct Quarantine {
    #[command(flatten)]
    agent: Id,
    /// Why, in words
    #[arg(long, value_name = "TEXT", default_value = "ordered with meshctl")]
    reason: String,
    #[arg(long = "type", value_name = "KIND", default_value = "manual", hide_possible_values = true,
          help = "The kind of reason: crash, resource_abuse, security_violation or manual",
          value_parser = ["crash", "resource_abuse", "security_violation", "manual"])]
    kind: String,
    /// How bad it is: low, medium, high or critical
    #[arg(long, value_name = "SEVERITY", default_value = "medium", hide_possible_values = true,
          value_parser = ["low", "medium", "high", "critical"])]
    severity: String,
}

pub(super) fn quarantine(arguments: &Quarantine, session: &mut Session) -> Result<(), Failure> {
    let id = &arguments.agent.id;
    let body = json!({
        "type": arguments.kind,
        "description": arguments.reason,
        "severity": arguments.severity,
    });
    let answer = post(id, "quarantine", Some(&body), session)?;
    confirm(id, "quarantined", &answer, session)
}

pub(super) fn recover(id: &str, force: bool, session: &mut Session) -> Result<(), Failure> {
    let answer = post(id, "recover", Some(&json!({ "force": force })), session)?;
    let result: RecoveryResult = answer.read()?;
    if result.success {
        return session.out.show(&answer, || {
            Ok(Screen::confirmation(format!("{id} recovering"), id))
        });
    }
    show_documents_only(&answer, session)?;
    let reason = result
        .reason
        .unwrap_or_else(|| "no reason given".to_owned());
    let failure = Failure::new(Exit::Failed, format!("{id} not recovered: {reason}"));
    Err(if reason == "max_retries_exceeded" {
        failure.hint(format!(
            "`meshctl agent recover {id} --force` tries once more, with an admin's token"
        ))
    } else {
        failure
    })
}

/// A result that says "no" is still the answer that JSON and YAML promise; people read it on standard error.
fn show_documents_only(answer: &Answer, session: &mut Session) -> Result<(), Failure> {
    session
        .out
        .show(answer, || Ok(Screen::new().named(Vec::<String>::new())))
}

/// Which version to run, and how to get there.
#[derive(Debug, clap::Args)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    agent: Id,
    /// The version; without it, the newest one registered
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// soft lets the agent take over its state where it can, hard stops and starts it
    #[arg(long = "type", value_name = "KIND", default_value = "soft", hide_possible_values = true,
          value_parser = ["soft", "hard"])]
    kind: String,
    /// Also to an older version
    #[arg(long)]
    force: bool,
}

pub(super) fn upgrade(arguments: &Upgrade, session: &mut Session) -> Result<(), Failure> {
    let body = json!({
        "targetVersion": arguments.to,
        "type": arguments.kind,
        "forceful": arguments.force,
    });
    exchange(&arguments.agent.id, "upgrade", "upgraded", &body, session)
}

pub(super) fn rollback(id: &str, to: Option<&str>, session: &mut Session) -> Result<(), Failure> {
    let body = json!({ "targetVersion": to, "type": "rollback" });
    exchange(id, "rollback", "rolled back", &body, session)
}

/// The answer to `upgrade` and `rollback`, as far as it is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpgradeResult {
    success: bool,
    #[serde(rename = "type")]
    kind: String,
    error: Option<String>,
    #[serde(default)]
    rollback_available: bool,
}

fn exchange(
    id: &str,
    verb: &str,
    done: &str,
    body: &Value,
    session: &mut Session,
) -> Result<(), Failure> {
    let answer = post(id, verb, Some(body), session)?;
    let result: UpgradeResult = answer.read()?;
    if result.success {
        let sentence = format!("{id} {done} ({})", result.kind);
        return session
            .out
            .show(&answer, || Ok(Screen::confirmation(sentence, id)));
    }
    show_documents_only(&answer, session)?;
    let reason = result.error.unwrap_or_else(|| "no reason given".to_owned());
    let failure = Failure::new(Exit::Failed, format!("{id} not {done}: {reason}"));
    Err(if result.rollback_available {
        failure.hint(format!(
            "`meshctl agent rollback {id}` goes back to an earlier version"
        ))
    } else {
        failure
    })
}

pub(super) fn remove(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::delete(&["v1", "agents", id]).slow())?;
    session.out.show(&answer, || {
        Ok(Screen::confirmation(format!("{id} removed"), id))
    })
}
