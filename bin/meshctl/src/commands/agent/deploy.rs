//! From a bundle on disk to an agent that is ready.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_messages::agent::{AgentRegistration, AgentStatus, FaultState, FaultView, Lifecycle};
use serde_json::json;

use crate::bundle::Bundle;
use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Screen};
use crate::session::{Pauses, Session};

/// How long to wait for a new agent: its start and handshake have 10 s each by default, and a second try fits in.
const READY_MAX: Duration = Duration::from_secs(30);

/// What to deploy.
#[derive(Debug, clap::Args)]
pub(crate) struct Deploy {
    /// A bundle's directory, or a manifest
    path: PathBuf,
    /// Start it and wait until it is ready; what happens anyway
    #[arg(long, conflicts_with = "no_start")]
    start: bool,
    /// Register it only
    #[arg(long)]
    no_start: bool,
}

pub(super) fn validate(path: &Path, session: &mut Session) -> Result<(), Failure> {
    let document = session.out.format() != Format::Table;
    let bundle = match Bundle::read(path) {
        Ok(bundle) => bundle,
        Err(error) => {
            let failure = Failure::from(error);
            if document && session.out.format() != Format::Name {
                session.out.value(&json!({ "valid": false, "detail": failure.message, "errors": failure.details }))?;
            }
            return Err(failure);
        }
    };
    let notices: Vec<String> = bundle
        .parsed
        .notices
        .iter()
        .map(ToString::to_string)
        .collect();
    let manifest = &bundle.parsed.manifest;
    let answer = Answer::from_value(&json!({
        "valid": true,
        "id": manifest.id,
        "version": manifest.version,
        "notices": notices,
    }));
    tell_notices(&notices, session);
    session.out.show(&answer, || {
        Ok(Screen::confirmation(
            format!("{} {} valid", manifest.id, manifest.version),
            manifest.id.as_str(),
        ))
    })
}

fn tell_notices(notices: &[String], session: &mut Session) {
    for notice in notices {
        session.out.note(&format!("note: {notice}"));
    }
}

pub(super) fn deploy(arguments: &Deploy, session: &mut Session) -> Result<(), Failure> {
    let bundle = Bundle::read(&arguments.path)?;
    let archive = bundle
        .pack()
        .map_err(|error| Failure::file(&arguments.path, &error))?;
    let id = bundle.parsed.manifest.id.as_str();
    // `--start` says what the default is; only its opposite has to be told.
    let start = arguments.no_start.then_some("false");
    let progress = session.out.progress(&format!("deploying {id}"));
    let request = Request::post(&["v1", "agents"])
        .query("start", start)
        .tar(archive)
        .slow();
    let answer = session.send(&request)?;
    let registration: AgentRegistration = answer.read()?;
    tell_notices(&registration.notices, session);

    let waits = registration.changed && !arguments.no_start;
    let readiness = if waits {
        progress.say(&format!("starting {id}"));
        await_ready(&registration, session)?
    } else {
        Readiness::Ready(registration.instances_ready)
    };
    drop(progress);
    match readiness {
        Readiness::Ready(instances) => {
            let sentence = sentence(&registration, instances, arguments.no_start);
            session
                .out
                .show(&answer, || Ok(Screen::confirmation(sentence, id)))
        }
        Readiness::NotInForce(version) => {
            session.out.note(&format!(
                "{id} runs {version} still; `meshctl agent upgrade {id} --to {}` exchanges it",
                registration.version
            ));
            let sentence = format!(
                "{id} {} registered, {version} in force",
                registration.version
            );
            session
                .out
                .show(&answer, || Ok(Screen::confirmation(sentence, id)))
        }
        Readiness::Waits(lacks) => {
            let AgentRegistration { id, version, .. } = &registration;
            let sentence = format!("{id} {version} registered, it waits: {lacks}");
            session
                .out
                .show(&answer, || Ok(Screen::confirmation(sentence, id.as_str())))
        }
        Readiness::Failed(failure) => {
            session
                .out
                .show(&answer, || Ok(Screen::new().named([id])))?;
            Err(failure)
        }
    }
}

fn sentence(registration: &AgentRegistration, instances: u32, no_start: bool) -> String {
    let AgentRegistration { id, version, .. } = registration;
    let what = if registration.changed {
        "registered"
    } else {
        "unchanged"
    };
    match instances {
        0 if registration.changed && no_start => format!("{id} {version} registered, not started"),
        1 => format!("{id} {version} {what}, 1 instance ready"),
        n => format!("{id} {version} {what}, {n} instances ready"),
    }
}

/// How far an agent got.
enum Readiness {
    Ready(u32),
    /// Another version runs; this one waits for an upgrade.
    NotInForce(String),
    /// Agents that it needs are not there; it starts when they are.
    Waits(String),
    Failed(Failure),
}

/// Waits until all instances are ready, or until it is clear that they will not be.
fn await_ready(registration: &AgentRegistration, session: &Session) -> Result<Readiness, Failure> {
    let id = registration.id.as_str();
    let request = Request::get(&["v1", "agents", id, "status"]);
    let end = Instant::now() + READY_MAX;
    let mut pauses = Pauses::new();
    loop {
        let status: AgentStatus = session.send(&request)?.read()?;
        if let Some(version) = status
            .version
            .as_ref()
            .filter(|version| **version != registration.version)
        {
            return Ok(Readiness::NotInForce(version.clone()));
        }
        let ready = instances_ready(&status);
        if ready >= registration.instances_wanted {
            return Ok(Readiness::Ready(ready));
        }
        if let Some(fault) = status.fault.as_ref().filter(|fault| is_final(fault)) {
            return Ok(Readiness::Failed(not_ready(registration, fault)));
        }
        let left = end.saturating_duration_since(Instant::now());
        let lacks = &status.waiting_for;
        if !lacks.is_empty() && (left.is_zero() || lacks.iter().any(|unmet| !unmet.coming)) {
            let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
            return Ok(Readiness::Waits(lacks.join(", ")));
        }
        if left.is_zero() {
            return Ok(Readiness::Failed(out_of_time(
                registration,
                ready,
                status.fault.as_ref(),
            )));
        }
        pauses.pause(left);
    }
}

fn instances_ready(status: &AgentStatus) -> u32 {
    let instances = status.instances.as_deref().unwrap_or_default();
    let ready = instances
        .iter()
        .filter(|instance| instance.lifecycle == Lifecycle::Executing)
        .count();
    u32::try_from(ready).unwrap_or(u32::MAX)
}

/// Whether waiting does not mend it: a start follows much later, or not at all.
fn is_final(fault: &FaultView) -> bool {
    match fault.state {
        FaultState::Open | FaultState::Quarantined | FaultState::Terminated => true,
        // Before its first start it is stopped, too; after a failure that state is its last.
        FaultState::Stopped => fault.score > 0,
        FaultState::Running
        | FaultState::Backoff
        | FaultState::HalfOpen
        | FaultState::Recovering => false,
    }
}

fn not_ready(registration: &AgentRegistration, fault: &FaultView) -> Failure {
    let AgentRegistration { id, version, .. } = registration;
    let reason = fault.reason.as_deref().unwrap_or("no reason given");
    let message = format!(
        "{id} {version} registered, but it is {}: {reason}",
        fault.state.name()
    );
    Failure::new(Exit::Failed, message).hint(format!(
        "`meshctl agent logs {id}` shows what it wrote, `meshctl agent status {id}` how it stands"
    ))
}

/// After failures it has failed; without any it merely takes its time.
fn out_of_time(registration: &AgentRegistration, ready: u32, fault: Option<&FaultView>) -> Failure {
    if let Some(fault) = fault.filter(|fault| fault.score > 0) {
        return not_ready(registration, fault);
    }
    let AgentRegistration {
        id,
        version,
        instances_wanted: wanted,
        ..
    } = registration;
    let waited = READY_MAX.as_secs();
    let message =
        format!("{id} {version} registered, {ready} of {wanted} instances ready after {waited} s");
    Failure::new(Exit::TimedOut, message).hint(format!(
        "`meshctl agent status {id} --watch` shows how it goes on"
    ))
}
