//! What tasks look like.

use std::num::NonZeroUsize;

use mesh_messages::AgentId;
use mesh_messages::escalation::EscalationEnd;
use mesh_messages::task::{CandidateReport, Task, TaskExplanation, TaskState, WaitingFor};
use mesh_messages::team::{TeamEnd, Teamwork};

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Cell, Screen, Table, compact, span};
use crate::session::Session;

const STATE_HELP: &str = "Only tasks in this state: queued, assigned, running, blocked, parked, retrying, succeeded, \
    failed, cancelled or dead_lettered";

/// Which tasks to list.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[arg(long, value_name = "STATE", help = STATE_HELP)]
    state: Option<TaskState>,
    /// Only tasks of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only tasks that went to this agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only tasks in this column of the board
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Rows to show at most
    #[arg(long, default_value = "100", value_name = "N")]
    limit: NonZeroUsize,
    /// As they stood when the log had got to this record, or at this moment, such as 2025-06-20T22:04:00Z: the first 200 that had been submitted
    #[arg(long, value_name = "POSITION|TIME", conflicts_with_all = ["state", "kind", "agent", "column"])]
    at: Option<mesh_messages::system::PastAt>,
}

pub(super) fn list(arguments: &List, session: &mut Session) -> Result<(), Failure> {
    if let Some(at) = arguments.at {
        return crate::commands::audit::past::show(at, (None, None), session);
    }
    let request = Request::get(&["v1", "tasks"])
        .query("state", arguments.state)
        .query("type", arguments.kind.as_deref())
        .query("agent", arguments.agent.as_deref())
        .query("column", arguments.column.as_deref());
    let answer = session.pages(&request, arguments.limit.get())?;
    session
        .out
        .show(&answer, || Ok(tasks_screen(&answer.rows::<Task>()?)))
}

pub(crate) fn tasks_screen(tasks: &[Task]) -> Screen {
    if tasks.is_empty() {
        return Screen::new().line("no tasks").named(Vec::<String>::new());
    }
    let mut table = Table::new(&[
        "ID",
        "STATE",
        "TYPE",
        "AGENT",
        "ATTEMPTS",
        "SUBMITTED",
        "NOTE",
    ]);
    for task in tasks {
        table.row([
            task.id.as_str().into(),
            Cell::state(task.state.name()),
            task.spec.action().into(),
            task.assignment
                .as_ref()
                .map(|assignment| &assignment.agent_id)
                .into(),
            task.attempts.len().to_string().into(),
            task.submitted_at.to_string().into(),
            note(task).into(),
        ]);
    }
    Screen::new()
        .table(table)
        .named(tasks.iter().map(|task| task.id.as_str()))
}

/// Which task, and when.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The task's id
    id: mesh_messages::TaskId,
    /// As it stood when the log had got to this record, or at this moment, such as 2025-06-20T22:04:00Z
    #[arg(long, value_name = "POSITION|TIME")]
    at: Option<mesh_messages::system::PastAt>,
}

/// What is worth knowing about a task in one line: why it waits, how far it is, or why it failed.
pub(super) fn note(task: &Task) -> String {
    if let Some(waiting) = task
        .waiting_for
        .as_ref()
        .filter(|_| !task.state.is_terminal())
    {
        return waiting.detail.clone();
    }
    if let Some(progress) = task.progress.as_ref().filter(|_| task.state.is_in_flight()) {
        let share = format!("{:.0}%", progress.fraction * 100.0);
        return progress
            .note
            .as_ref()
            .map_or_else(|| share.clone(), |note| format!("{share} {note}"));
    }
    match &task.error {
        Some(error) if task.state != TaskState::Succeeded => error.to_string(),
        Some(_) | None => String::new(),
    }
}

pub(super) fn one(arguments: &Show, session: &mut Session) -> Result<(), Failure> {
    let id = arguments.id.as_str();
    if let Some(at) = arguments.at {
        return crate::commands::audit::past::show(at, (Some(&arguments.id), None), session);
    }
    let answer = session.send(&Request::get(&["v1", "tasks", id]))?;
    session
        .out
        .show(&answer, || Ok(task_screen(&answer.read()?)))
}

pub(crate) fn task_screen(task: &Task) -> Screen {
    let mut about = Table::new(&[]);
    let mut pair = |name: &str, cell: Cell| about.row([name.into(), cell]);
    pair("id", task.id.as_str().into());
    pair("state", Cell::state(task.state.name()));
    pair("type", task.spec.action().into());
    pair("requires", task.spec.needs().join(", ").into());
    pair(
        "submitted",
        format!("{} by {}", task.submitted_at, task.submitted_by).into(),
    );
    match task.ended_at {
        Some(end) => {
            let took = u64::try_from(end.since(task.submitted_at).as_millis()).unwrap_or(u64::MAX);
            pair("ended", format!("{end}, after {}", span(took)).into());
        }
        None => pair("deadline", task.deadline_at.to_string().into()),
    }
    if !task.spec.depends_on.is_empty() {
        let on: Vec<&str> = task
            .spec
            .depends_on
            .iter()
            .map(mesh_messages::TaskId::as_str)
            .collect();
        pair("depends on", on.join(", ").into());
    }
    if let Some(parent) = &task.spec.parent {
        pair("parent", parent.as_str().into());
    }
    if let Some(latest) = &task.escalation {
        let end = match (latest.end, &latest.by) {
            (None, _) => format!("until {}", latest.until),
            (Some(EscalationEnd::Retried), _) => "retried".to_owned(),
            (Some(EscalationEnd::Done), by) => format!("done by {}", by.as_deref().unwrap_or("?")),
            (Some(EscalationEnd::Dropped), Some(by)) => format!("given up by {by}"),
            (Some(EscalationEnd::Dropped), None) => "nobody took it up".to_owned(),
        };
        let text = format!("to {} as {}: {end}", latest.to, latest.task);
        pair("escalated", text.into());
    }
    if let Some(about) = &task.spec.escalates {
        pair("escalates", about.as_str().into());
    }
    if let Some(team) = &task.teamwork {
        pair("team", team_text(team).into());
    }
    for (key, value) in &task.spec.labels {
        pair("label", format!("{key}={value}").into());
    }
    let note = note(task);
    if !note.is_empty() {
        pair(
            if task.waiting_for.is_some() {
                "waits for"
            } else {
                "note"
            },
            note.into(),
        );
    }
    pair("input", compact(&task.spec.input).into());
    if let Some(output) = &task.output {
        pair("output", compact(output).into());
    }
    let screen = Screen::new().table(about).named([task.id.as_str()]);
    if task.attempts.is_empty() {
        return screen;
    }
    let mut attempts = Table::new(&["ATTEMPT", "AGENT", "EPOCH", "STARTED", "TOOK", "ERROR"]);
    for attempt in &task.attempts {
        let took = attempt.ended_at.map(|end| {
            span(u64::try_from(end.since(attempt.started_at).as_millis()).unwrap_or(u64::MAX))
        });
        attempts.row([
            attempt.number.to_string().into(),
            format!("{}#{}", attempt.agent_id, attempt.instance).into(),
            attempt.epoch.to_string().into(),
            attempt.started_at.to_string().into(),
            took.into(),
            attempt.error.as_ref().into(),
        ]);
    }
    screen.table(attempts)
}

pub(super) fn explain(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "tasks", id, "explain"]))?;
    session
        .out
        .show(&answer, || Ok(explanation_screen(&answer.read()?)))
}

fn explanation_screen(why: &TaskExplanation) -> Screen {
    let mut screen = Screen::new().named([why.task_id.as_str()]).line(format!(
        "task {} is {}; it requires {}",
        why.task_id,
        why.state,
        why.requirements.join(", ")
    ));
    if let Some(waiting) = &why.waiting_for {
        screen = screen.line(waiting_text(waiting));
    }
    if let Some(team) = &why.teamwork {
        screen = screen.line(format!("team {}: {}", team.number, team_text(team)));
        if !team.reasons.is_empty() {
            screen = screen.line(format!("its members: {}", team.reasons));
        }
    }
    if let Some(assignment) = &why.assignment {
        let share = assignment.confidence * 100.0;
        screen = screen.line(format!(
            "attempt {} went to {}#{} with {share:.0}% confidence: {}",
            assignment.attempt,
            assignment.agent_id,
            assignment.instance,
            assignment.reasoning.join("; "),
        ));
        for risk in &assignment.risk_factors {
            screen = screen.line(format!("risk: {}: {}", risk.factor, risk.detail));
        }
    }
    for said in &why.messages {
        let got = if said.received {
            ""
        } else {
            ", which no agent has got"
        };
        screen = screen.line(format!(
            "{} at {} from {} to {}{got}",
            said.kind, said.at, said.from, said.to
        ));
    }
    if why.candidates.is_empty() && why.teamwork.is_some() {
        return screen;
    }
    if why.candidates.is_empty() {
        return screen.line("there is no candidate: no agent has these capabilities");
    }
    screen.table(candidate_table(&why.candidates))
}

/// Who leads a team, who is in it, and how far it is.
fn team_text(team: &Teamwork) -> String {
    let parts = team.parts.iter().map(|part| {
        let needs = part.capabilities.join(", ");
        let who = part.agent.as_ref().map_or("", AgentId::as_str);
        let sep = if who.is_empty() { "" } else { " " };
        format!("{}{sep}{who} ({needs}) as {}", part.name, part.task)
    });
    let parts: Vec<_> = parts.collect();
    let pattern = team.pattern.name();
    let stands = match team.end {
        Some(TeamEnd::Done) => "done",
        Some(TeamEnd::Failed) => "failed",
        Some(TeamEnd::Disbanded) => "disbanded before it began",
        None if team.began_at.is_none() => "formed, nobody has begun",
        None => "at work",
    };
    let parts = parts.join("; ");
    match &team.lead {
        Some(lead) => format!("{pattern}, led by {lead}, {stands}: {parts}"),
        None => format!("{stands}, split into {parts}"),
    }
}

fn waiting_text(waiting: &WaitingFor) -> String {
    match waiting.until {
        Some(until) => format!("it waits until {until}: {}", waiting.detail),
        None => format!("it waits: {}", waiting.detail),
    }
}

fn candidate_table(candidates: &[CandidateReport]) -> Table {
    let mut table = Table::new(&["CANDIDATE", "ELIGIBLE", "SCORE", "REASONS"]);
    for candidate in candidates {
        let name = match candidate.instance {
            Some(instance) => format!("{}#{instance}", candidate.agent_id),
            None => candidate.agent_id.to_string(),
        };
        table.row([
            name.into(),
            if candidate.eligible { "yes" } else { "no" }.into(),
            format!("{:.3}", candidate.score).into(),
            candidate.reasons.join("; ").into(),
        ]);
    }
    table
}
