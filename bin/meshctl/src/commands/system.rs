//! The mesh as a whole: `status`, `health`, `doctor`, `top`, `node`.

use std::io;
use std::path::PathBuf;
use std::process::Command as Process;

use clap::Subcommand;
use mesh_messages::agent::{AgentStatus, AgentSummary};
use mesh_messages::system::{HealthReport, NodeInfo, SystemStatus};

use crate::client::Request;
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Format, Screen, Table, compact, megabytes, percent, span};
use crate::session::Session;

pub(crate) const DOCTOR_HELP: &str = "\
Examines this machine with `meshd doctor`, and tells what the running daemon warns of, where one answers:
whoever started it may have held it more tightly than you are. With --url or MESH_URL, with -o json or yaml, and where no
meshd is installed, it asks the running daemon instead.

Examples:
  meshctl doctor
  meshctl doctor --url http://127.0.0.1:8080";

/// Most agents that `top` shows: more do not fit on a screen, and each costs a request.
const TOP_ROWS_MAX: usize = 100;

/// Commands about nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes of the mesh
    #[command(after_help = "Example:\n  meshctl node list")]
    List,
}

pub(super) fn status(session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["status"]))?;
    session
        .out
        .show(&answer, || Ok(status_screen(&answer.read()?)))
}

fn status_screen(status: &SystemStatus) -> Screen {
    let mut about = Table::new(&[]);
    let accepting = match &status.refusing_because {
        _ if status.accepting => "yes".to_owned(),
        Some(reason) => format!("no: {reason}"),
        None => "no".to_owned(),
    };
    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        let counts: Vec<String> = counts
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        if counts.is_empty() {
            "none".to_owned()
        } else {
            counts.join(", ")
        }
    };
    let health =
        serde_json::to_value(status.health).map_or_else(|_| String::new(), |name| compact(&name));
    let journal = &status.journal;
    about.row(["health".into(), Cell::state(&health)]);
    about.row(["version".into(), status.version.as_str().into()]);
    about.row(["node".into(), status.node.as_str().into()]);
    about.row(["up".into(), span(status.uptime).into()]);
    about.row(["takes work".into(), accepting.into()]);
    about.row(["agents".into(), counts(&status.agents).into()]);
    if !status.services.is_empty() {
        about.row(["services".into(), counts(&status.services).into()]);
    }
    about.row(["tasks".into(), counts(&status.tasks).into()]);
    about.row([
        "journal".into(),
        format!("{} records, {} bytes", journal.records, journal.bytes).into(),
    ]);
    about.row(["at rest".into(), status.encryption.to_string().into()]);
    if status.refused.values().any(|n| *n > 0) {
        about.row(["refused".into(), counts(&status.refused).into()]);
    }
    let mut screen = Screen::new().table(about);
    for issue in &status.issues {
        screen = screen.line(format!("issue: {issue}"));
    }
    for part in status
        .components
        .iter()
        .filter(|part| !part.running || part.restarts > 0)
    {
        let state = if part.running { "runs" } else { "is down" };
        screen = screen.line(format!(
            "component: {} {state}, restarted {} times",
            part.name, part.restarts
        ));
    }
    for warning in &status.warnings {
        screen = screen.line(format!("warning: {warning}"));
    }
    screen.named([status.node.as_str()])
}

pub(super) fn health(session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "health"]))?;
    session.out.show(&answer, || {
        let report: HealthReport = answer.read()?;
        let name = |level| {
            serde_json::to_value(level).map_or_else(|_| String::new(), |name| compact(&name))
        };
        let mut table = Table::new(&["CHECK", "STATUS", "DETAIL"]);
        for check in &report.checks {
            let level = serde_json::to_value(check.status)
                .map_or_else(|_| String::new(), |name| compact(&name));
            table.row([
                check.name.as_str().into(),
                Cell::state(&level),
                check.detail.as_str().into(),
            ]);
        }
        let names = report.checks.iter().map(|check| check.name.as_str());
        Ok(Screen::new()
            .line(name(report.status))
            .table(table)
            .named(names))
    })
}

pub(super) fn nodes(session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "nodes"]))?;
    session.out.show(&answer, || {
        let nodes: Vec<NodeInfo> = answer.rows()?;
        let mut table = Table::new(&["ID", "STATE", "VERSION", "URL", "AGENTS"]);
        for node in &nodes {
            table.row([
                node.id.as_str().into(),
                Cell::state(&node.state),
                node.version.as_str().into(),
                node.url.as_str().into(),
                node.agents.to_string().into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(nodes.iter().map(|node| node.id.as_str())))
    })
}

pub(super) fn doctor(session: &mut Session) -> Result<(), Failure> {
    let local = session.out.format() == Format::Table && !session.is_named();
    if local && let Some(result) = local_doctor(session.named_data()) {
        // Nobody has to run, and whoever does may not know the user.
        if let Ok(answer) = session.send(&Request::get(&["status"])) {
            let screen = Screen::new().line("").line("the daemon that runs here:");
            session
                .out
                .show(&answer, || Ok(warnings(&answer.read()?, screen)))?;
        }
        return result;
    }
    let answer = session.send(&Request::get(&["status"]))?;
    session
        .out
        .show(&answer, || Ok(warnings(&answer.read()?, Screen::new())))
}

fn warnings(status: &SystemStatus, screen: Screen) -> Screen {
    if status.warnings.is_empty() {
        return screen.line("the running daemon has no warnings");
    }
    status.warnings.iter().fold(screen, Screen::line)
}

/// Runs the doctor of the meshd that is installed with us; `None` when there is none.
fn local_doctor(data: Option<PathBuf>) -> Option<Result<(), Failure>> {
    let beside: Option<PathBuf> = std::env::current_exe()
        .ok()
        .map(|path| path.with_file_name("meshd"));
    let meshd = beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("meshd"));
    let mut doctor = Process::new(&meshd);
    doctor.arg("doctor");
    if let Some(data) = data {
        doctor.arg("--data").arg(data);
    }
    match doctor.status() {
        Ok(status) if status.success() => Some(Ok(())),
        // It has told why already.
        Ok(_) => Some(Err(Failure::silent(Exit::Failed))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(Failure::file(&meshd, &error))),
    }
}

/// One look; it is repeated by whoever watches.
pub(super) fn top(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "agents"]), TOP_ROWS_MAX)?;
    if matches!(session.out.format(), Format::Json | Format::Yaml) {
        return session.out.show(&answer, || Ok(Screen::new()));
    }
    let agents: Vec<AgentSummary> = answer.rows()?;
    let mut rows = Vec::new();
    for agent in &agents {
        let status: AgentStatus = session
            .send(&Request::get(&[
                "v1",
                "agents",
                agent.id.as_str(),
                "status",
            ]))?
            .read()?;
        rows.push((agent, status));
    }
    // The busiest first; ids keep equals from swapping places at every look.
    let cpu = |status: &AgentStatus| {
        status
            .health
            .as_ref()
            .and_then(|health| health.cpu_usage)
            .unwrap_or(0.0)
    };
    rows.sort_by(|(a, one), (b, other)| {
        cpu(other)
            .total_cmp(&cpu(one))
            .then_with(|| a.id.cmp(&b.id))
    });
    let mut table = Table::new(&[
        "AGENT", "FAULT", "ACTIVITY", "READY", "TASKS", "CPU", "MEMORY", "UP",
    ]);
    for (agent, status) in &rows {
        let tasks: usize = status
            .instances
            .iter()
            .flatten()
            .map(|one| one.assigned_tasks.len())
            .sum();
        let activity = serde_json::to_value(agent.activity)
            .map_or_else(|_| String::new(), |name| compact(&name));
        table.row([
            agent.id.as_str().into(),
            Cell::state(agent.fault_state.name()),
            Cell::state(&activity),
            format!("{}/{}", agent.instances_ready, agent.instances_wanted).into(),
            tasks.to_string().into(),
            percent(status.health.as_ref().and_then(|health| health.cpu_usage)).into(),
            megabytes(status.health.as_ref().map(|health| health.memory_usage)).into(),
            status.uptime.map(span).into(),
        ]);
    }
    let names = rows.iter().map(|(agent, _)| agent.id.as_str());
    session.out.screen(&Screen::new().table(table).named(names))
}
