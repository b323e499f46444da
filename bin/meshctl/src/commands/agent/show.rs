//! What agents look like.

use std::num::NonZeroUsize;

use mesh_messages::agent::{
    AgentStatus, AgentStatusKind, AgentSummary, InstanceView, PolicyValue, QuarantineRecord,
    SandboxView,
};
use mesh_messages::quality::Quality;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Request;
use crate::commands::policy::screen;
use crate::exit::Failure;
use crate::output::{Cell, Screen, Table, compact, megabytes, percent, quality, span};
use crate::session::Session;

/// Which agent, and when.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The agent's id
    id: mesh_messages::AgentId,
    /// As it stood when the log had got to this record, or at this moment, such as 2025-06-20T22:04:00Z
    #[arg(long, value_name = "POSITION|TIME")]
    at: Option<mesh_messages::system::PastAt>,
}

/// Which agents to list.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only agents with this capability
    #[arg(long, value_name = "NAME")]
    capability: Option<String>,
    /// Only agents of this persona
    #[arg(long, value_name = "NAME")]
    persona: Option<String>,
    /// Only agents of this status: active, quarantined or terminated
    #[arg(long, value_parser = ["active", "quarantined", "terminated"], hide_possible_values = true, value_name = "STATUS")]
    status: Option<String>,
    /// Only agents with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Rows to show at most
    #[arg(long, default_value = "1000", value_name = "N")]
    limit: NonZeroUsize,
}

pub(super) fn list(arguments: &List, session: &mut Session) -> Result<(), Failure> {
    let request = Request::get(&["v1", "agents"])
        .query("capability", arguments.capability.as_deref())
        .query("persona", arguments.persona.as_deref())
        .query("status", arguments.status.as_deref())
        .query("tag", arguments.tag.as_deref());
    let answer = session.pages(&request, arguments.limit.get())?;
    session.out.show(&answer, || {
        let agents: Vec<AgentSummary> = answer.rows()?;
        if agents.is_empty() {
            return Ok(Screen::new().line("no agents").named(Vec::<String>::new()));
        }
        if arguments.status.as_deref() == Some("quarantined") {
            return Ok(Screen::new()
                .table(quarantined(&agents))
                .named(agents.iter().map(|agent| agent.id.as_str())));
        }
        let mut table = Table::new(&[
            "ID",
            "VERSION",
            "STATUS",
            "STAGE",
            "FAULT",
            "ACTIVITY",
            "READY",
            "CAPABILITIES",
        ]);
        for agent in &agents {
            table.row([
                agent.id.as_str().into(),
                agent.version.as_str().into(),
                Cell::state(status_name(agent.status)),
                Cell::state(agent.lifecycle.name()),
                Cell::state(agent.fault_state.name()),
                Cell::state(&wire_name(&agent.activity)),
                format!("{}/{}", agent.instances_ready, agent.instances_wanted).into(),
                agent.capabilities.join(",").into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(agents.iter().map(|agent| agent.id.as_str())))
    })
}

/// How many characters of a digest a table has room for; `agent show` and JSON have all.
const DIGEST_SHOWN: usize = "blake3:0123456789ab".len();

/// With what manifest, since when, why, and how often it may still come back by itself.
fn quarantined(agents: &[AgentSummary]) -> Table {
    let mut table = Table::new(&[
        "ID", "VERSION", "MANIFEST", "SINCE", "TYPE", "SEVERITY", "RETRIES", "WHY",
    ]);
    for agent in agents {
        let record = agent.quarantine.as_ref();
        let field = |show: &dyn Fn(&QuarantineRecord) -> String| {
            record.map_or_else(|| "-".to_owned(), show)
        };
        table.row([
            agent.id.as_str().into(),
            agent.version.as_str().into(),
            field(&|record| record.manifest_digest.chars().take(DIGEST_SHOWN).collect()).into(),
            field(&|record| record.quarantined_at.to_string()).into(),
            field(&|record| wire_name(&record.reason.kind)).into(),
            field(&|record| wire_name(&record.reason.severity)).into(),
            field(&|record| format!("{}/{}", record.retry_count, record.max_retries)).into(),
            field(&|record| record.reason.description.clone()).into(),
        ]);
    }
    table
}

fn status_name(status: AgentStatusKind) -> &'static str {
    match status {
        AgentStatusKind::Active => "active",
        AgentStatusKind::Quarantined => "quarantined",
        AgentStatusKind::Terminated => "terminated",
        AgentStatusKind::NotFound => "not_found",
    }
}

/// The name that a unit variant has on the wire.
fn wire_name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).map_or_else(|_| "-".to_owned(), |value| compact(&value))
}

/// The manifest and the instances are left to `-o yaml` and `agent instances`: together they fill pages.
pub(super) fn profile(arguments: &Show, session: &mut Session) -> Result<(), Failure> {
    let id = arguments.id.as_str();
    if let Some(at) = arguments.at {
        return crate::commands::audit::past::show(at, (None, Some(&arguments.id)), session);
    }
    let answer = session.send(&Request::get(&["v1", "agents", id]))?;
    session.out.show(&answer, || {
        let mut profile: Value = answer.read()?;
        if let Some(fields) = profile.as_object_mut() {
            fields.remove("manifest");
        }
        if let Some(health) = profile.get_mut("health").and_then(Value::as_object_mut) {
            health.remove("instances");
        }
        Ok(Screen::new().document(&profile).named([id]))
    })
}

pub(super) fn status(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "agents", id, "status"]))?;
    session
        .out
        .show(&answer, || Ok(status_screen(&answer.read()?).named([id])))
}

fn status_screen(status: &AgentStatus) -> Screen {
    let mut about = Table::new(&[]);
    let mut pair = |name: &str, cell: Option<Cell>| {
        if let Some(cell) = cell {
            about.row([name.into(), cell]);
        }
    };
    pair("status", Some(Cell::state(status_name(status.status))));
    pair(
        "stage",
        status.lifecycle.map(|stage| Cell::state(stage.name())),
    );
    pair(
        "activity",
        status
            .activity
            .map(|activity| Cell::state(&wire_name(&activity))),
    );
    pair(
        "paused",
        status.paused.filter(|paused| *paused).map(|_| "yes".into()),
    );
    pair("version", status.version.as_deref().map(Cell::from));
    pair("epoch", status.epoch.map(|epoch| epoch.to_string().into()));
    pair("up", status.uptime.map(|ms| span(ms).into()));
    if let Some(fault) = &status.fault {
        pair("fault", Some(Cell::state(fault.state.name())));
        pair("score", Some(fault.score.to_string().into()));
        pair(
            "crashes",
            Some(format!("{} in the window", fault.crashes_in_window).into()),
        );
        pair(
            "next start",
            fault.next_attempt_at.map(|at| at.to_string().into()),
        );
        pair("reason", fault.reason.as_deref().map(Cell::from));
        if let Some(record) = &fault.quarantine {
            pair(
                "quarantined",
                Some(record.quarantined_at.to_string().into()),
            );
            pair(
                "recoveries",
                Some(format!("{} of {}", record.retry_count, record.max_retries).into()),
            );
            pair("manifest", Some(record.manifest_digest.as_str().into()));
        }
    }
    for unmet in &status.waiting_for {
        pair("waits", Some(unmet.to_string().into()));
    }
    if let Some(health) = &status.health {
        pair("health", Some(Cell::state(&wire_name(&health.status))));
        pair("memory", Some(megabytes(Some(health.memory_usage)).into()));
        pair(
            "cpu",
            health.cpu_usage.map(|share| percent(Some(share)).into()),
        );
        for error in &health.errors {
            let text = format!(
                "{} × {}, last {}: {}",
                error.count, error.kind, error.last_occurrence, error.message
            );
            pair("error", Some(text.into()));
        }
    }
    let screen = Screen::new().table(about);
    match status.instances.as_deref() {
        None | Some([]) => screen,
        Some(instances) => screen.table(instance_table(instances)),
    }
}

pub(super) fn instances(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "agents", id, "instances"]))?;
    session.out.show(&answer, || {
        let instances: Vec<InstanceView> = answer.rows()?;
        let names: Vec<String> = instances
            .iter()
            .map(|one| format!("{id}#{}", one.instance))
            .collect();
        Ok(Screen::new().table(instance_table(&instances)).named(names))
    })
}

fn instance_table(instances: &[InstanceView]) -> Table {
    let mut table = Table::new(&[
        "INSTANCE", "EPOCH", "STAGE", "ACTIVITY", "PID", "USER", "CPU", "MEMORY", "TASKS",
    ]);
    for one in instances {
        table.row([
            one.instance.to_string().into(),
            one.epoch.to_string().into(),
            Cell::state(one.lifecycle.name()),
            Cell::state(&wire_name(&one.activity)),
            one.pid.into(),
            one.uid.into(),
            percent(one.cpu_usage).into(),
            megabytes(one.memory_usage).into(),
            one.assigned_tasks.len().to_string().into(),
        ]);
    }
    table
}

/// Also `policy show`, of one agent.
pub(in crate::commands) fn policy(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "agents", id, "policy"]))?;
    session.out.show(&answer, || {
        let values: Vec<PolicyValue> = answer.rows()?;
        Ok(screen(&values))
    })
}

pub(super) fn sandbox(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "agents", id, "sandbox"]))?;
    session.out.show(&answer, || {
        let sandbox: SandboxView = answer.read()?;
        let mut table = Table::new(&["CONTROL", "LEVEL", "MECHANISM", "REQUESTED", "DETAIL"]);
        for control in &sandbox.controls {
            table.row([
                control.control.as_str().into(),
                Cell::state(&wire_name(&control.level)),
                control.mechanism.as_str().into(),
                control.requested.as_str().into(),
                control.detail.as_str().into(),
            ]);
        }
        let names = sandbox
            .controls
            .iter()
            .map(|control| control.control.as_str());
        Ok(Screen::new()
            .line(match sandbox.degraded.as_slice() {
                [] => format!("profile {}", sandbox.profile),
                degraded => format!(
                    "profile {}, degraded: {}",
                    sandbox.profile,
                    degraded.join(", ")
                ),
            })
            .table(table)
            .named(names))
    })
}

/// `GET /v1/agents/{id}/insights`, as far as it is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Insights {
    by_type: Vec<TypeInsight>,
    attempts: u64,
    succeeded: u64,
    #[serde(default)]
    quality: Quality,
    #[serde(default)]
    by_capability: Vec<CapabilityInsight>,
}

#[derive(Debug, Deserialize)]
struct CapabilityInsight {
    capability: String,
    quality: Quality,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeInsight {
    #[serde(rename = "type")]
    kind: String,
    attempts: u64,
    succeeded: u64,
    mean_duration_ms: Option<f64>,
    #[serde(default)]
    quality: Quality,
}

pub(super) fn insights(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "agents", id, "insights"]))?;
    session.out.show(&answer, || {
        let insights: Insights = answer.read()?;
        let mut table = Table::new(&["TYPE", "ATTEMPTS", "SUCCEEDED", "MEAN", "VERIFIED"]);
        for one in &insights.by_type {
            table.row([
                one.kind.as_str().into(),
                one.attempts.to_string().into(),
                one.succeeded.to_string().into(),
                one.mean_duration_ms.map(|ms| format!("{ms:.0}ms")).into(),
                quality(&one.quality).into(),
            ]);
        }
        let mut capabilities = Table::new(&["CAPABILITY", "VERIFIED"]);
        for one in &insights.by_capability {
            capabilities.row([one.capability.as_str().into(), quality(&one.quality).into()]);
        }
        let total = format!(
            "{} attempts, {} succeeded",
            insights.attempts, insights.succeeded
        );
        let screen = Screen::new().line(total);
        Ok(if insights.by_type.is_empty() {
            screen
        } else if insights.by_capability.is_empty() {
            screen.table(table)
        } else {
            screen
                .line(format!("verified: {}", quality(&insights.quality)))
                .table(table)
                .table(capabilities)
        }
        .named(insights.by_type.iter().map(|one| one.kind.as_str())))
    })
}
