//! `meshctl workflow`: submitting, following and ending runs of workflows.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use mesh_messages::task::TaskState;
use mesh_messages::units::Span;
use mesh_messages::workflow::{StepState, StepView, WorkflowCheck, WorkflowRun, mermaid};
use serde_json::{Value, json};

use crate::client::{Answer, Request, RequestError};
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::{Cell, Format, Screen, Table};
use crate::session::{Pauses, Session};

/// Longest single wait that meshd is asked for; short, so that progress is seen.
const ROUND_MAX: Duration = Duration::from_secs(1);
/// How long meshd may be away before the wait is given up: a restart takes less.
const ABSENCE_MAX: Duration = Duration::from_secs(15);
/// How often a submission is sent: once, and again while its answer gets lost.
const TRIES_MAX: u32 = 8;
/// How long to wait when nobody says.
const WAIT_DEFAULT: &str = "30s";

const SUBMIT_HELP: &str = "\
FILE is a workflow in YAML or JSON, or - for standard input. With --wait only the output stands on
standard output, and it exits with 0 (succeeded), 1 (failed or cancelled; why is told on standard
error) or 7 (still running).

Examples:
  meshctl workflow submit review.yaml --input '{\"topic\": \"tides\"}' --wait 2m
  meshctl workflow submit incident.json --check";

/// Commands about workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a run and print its id; with --wait, its output
    #[command(after_help = SUBMIT_HELP)]
    Submit(Submit),
    /// List runs, newest first
    #[command(after_help = "Examples:\n  meshctl workflow list\n  meshctl workflow list --watch")]
    List {
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Show a run: its steps, its output or its error
    #[command(
        after_help = "Examples:\n  meshctl workflow show 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --watch\n  \
        meshctl workflow show 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --graph mermaid"
    )]
    Show {
        /// The run's id
        id: String,
        /// Print the graph instead
        #[arg(long, value_enum, value_name = "FORM")]
        graph: Option<Graph>,
    },
    /// End a run, and what it has under way
    #[command(
        after_help = "Example:\n  meshctl workflow cancel 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --reason 'no longer needed'"
    )]
    Cancel {
        /// The run's id
        id: String,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

/// Forms of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Graph {
    /// A Mermaid flowchart
    Mermaid,
}

/// What to submit.
#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// The workflow
    file: PathBuf,
    /// What the run gets: JSON, @FILE with JSON, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// Submissions under one key are one run
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Only say whether it makes sense
    #[arg(long, conflicts_with_all = ["wait", "input"])]
    check: bool,
    /// Accept steps that no deployed agent can do yet
    #[arg(long)]
    deploy_later: bool,
    /// Wait for its end, 30s unless it says how long, and print its output
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = WAIT_DEFAULT)]
    wait: Option<Span>,
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. })
    }
}

/// Runs one of them.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Submit(arguments) => submit(arguments, session),
        Command::List { limit } => list(limit.get(), session),
        Command::Show { id, graph } => show(id, *graph, session),
        Command::Cancel { id, reason } => {
            let request = Request::post(&["v1", "workflows", id, "cancel"]);
            let answer = session.send(&match reason {
                Some(reason) => request.json(&json!({ "reason": reason })),
                None => request,
            })?;
            session.out.show(&answer, || {
                let run: WorkflowRun = answer.read()?;
                Ok(Screen::confirmation(
                    format!("{} {}", run.id, run.state),
                    run.id.as_str(),
                ))
            })
        }
    }
}

fn submit(arguments: &Submit, session: &mut Session) -> Result<(), Failure> {
    let workflow = input::yaml(&arguments.file, &mut io::stdin())?;
    let given = match &arguments.input {
        Some(argument) => input::document(argument, &mut io::stdin())?,
        None => Value::Null,
    };
    let key = match &arguments.idempotency_key {
        Some(key) => key.clone(),
        None => super::task::random_key()?,
    };
    let body = json!({ "workflow": workflow, "input": given, "idempotencyKey": key });
    let request = Request::post(&["v1", "workflows"])
        .query("check", arguments.check.then_some(true))
        .query("deployLater", arguments.deploy_later.then_some(true))
        .json(&body);
    if arguments.check {
        let answer = session.send(&request)?;
        return session.out.show(&answer, || {
            let check: WorkflowCheck = answer.read()?;
            let line = format!(
                "{} {} is valid: {} steps",
                check.name, check.version, check.steps
            );
            Ok(Screen::confirmation(line, check.name))
        });
    }
    let answer = send(&request, session)?;
    let run: WorkflowRun = answer.read()?;
    match arguments.wait {
        Some(within) => wait(run.id.as_str(), within.duration(), session),
        None => session.out.show(&answer, || {
            Ok(Screen::new().line(run.id.as_str()).named([run.id.as_str()]))
        }),
    }
}

/// Sends a submission, and again while it is not known whether it arrived: its key makes all of them one.
fn send(request: &Request, session: &Session) -> Result<Answer, Failure> {
    let mut pauses = Pauses::new();
    let mut lost = false;
    for _ in 1..TRIES_MAX {
        match session.client()?.send(request) {
            Ok(answer) => return Ok(answer),
            Err(RequestError::Lost { .. } | RequestError::TimedOut { .. }) => lost = true,
            Err(RequestError::Unreachable { .. }) if lost => {}
            Err(error) => return Err(error.into()),
        }
        pauses.pause(Duration::MAX);
    }
    session.send(request)
}

fn wait(id: &str, within: Duration, session: &mut Session) -> Result<(), Failure> {
    let progress = session.out.progress(&format!("workflow {id}"));
    let end = Instant::now() + within;
    let (answer, run) = loop {
        let left = end.saturating_duration_since(Instant::now());
        let (answer, run) = look(id, left.min(ROUND_MAX), session)?;
        if run.state.is_terminal() || left.is_zero() {
            break (answer, run);
        }
        progress.say(&format!("workflow {id} {}", summary(&run)));
    };
    drop(progress);
    finish(&answer, &run, session)
}

/// How far a run is, in one line.
fn summary(run: &WorkflowRun) -> String {
    let ended = run
        .steps
        .iter()
        .filter(|step| step.state.is_terminal())
        .count();
    let open = run
        .steps
        .iter()
        .filter(|step| step.round > 0 && !step.state.is_terminal());
    let names: Vec<String> = open
        .map(|step| format!("{} {}", step.id, step.state))
        .collect();
    format!(
        "{}, {ended} of {} steps; {}",
        run.state,
        run.steps.len(),
        names.join(", ")
    )
}

/// The run once it has ended, or as it is after `wait`. Outlives a restart of meshd.
fn look(id: &str, wait: Duration, session: &Session) -> Result<(Answer, WorkflowRun), Failure> {
    let request = Request::get(&["v1", "workflows", id]).wait(wait);
    let mut pauses = Pauses::new();
    let mut absent_since = None;
    loop {
        match session.client()?.send(&request) {
            Ok(answer) => {
                let run = answer.read()?;
                return Ok((answer, run));
            }
            Err(error @ (RequestError::Lost { .. } | RequestError::Unreachable { .. })) => {
                // Somebody who was never there is not waited for.
                if absent_since.is_none() && matches!(error, RequestError::Unreachable { .. }) {
                    return Err(error.into());
                }
                let since = *absent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > ABSENCE_MAX {
                    return Err(error.into());
                }
                pauses.pause(ABSENCE_MAX);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Prints the output alone, or the whole run as a document; everything but success is a failure.
fn finish(answer: &Answer, run: &WorkflowRun, session: &mut Session) -> Result<(), Failure> {
    match (session.out.format(), run.state) {
        (Format::Json | Format::Yaml | Format::Name, _) => {
            session
                .out
                .show(answer, || Ok(Screen::new().named([run.id.as_str()])))?;
        }
        (Format::Table, TaskState::Succeeded) => {
            session
                .out
                .value(run.output.as_ref().unwrap_or(&Value::Null))?;
        }
        (Format::Table, _) => {}
    }
    if run.state == TaskState::Succeeded {
        return Ok(());
    }
    if run.state.is_terminal() {
        let why = run
            .error
            .as_ref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        let message = format!("workflow {} {}{why}", run.id, run.state);
        return Err(Failure::new(Exit::Failed, message));
    }
    let message = format!("workflow {} is still {}", run.id, summary(run));
    let hint = format!("`meshctl workflow show {} --watch` follows it", run.id);
    Err(Failure::new(Exit::TimedOut, message).hint(hint))
}

fn list(limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "workflows"]), limit)?;
    session.out.show(&answer, || {
        let runs: Vec<WorkflowRun> = answer.rows()?;
        if runs.is_empty() {
            return Ok(Screen::new()
                .line("no workflows")
                .named(Vec::<String>::new()));
        }
        let mut table = Table::new(&["ID", "STATE", "NAME", "STEPS", "SUBMITTED", "NOTE"]);
        for run in &runs {
            let ended = run
                .steps
                .iter()
                .filter(|step| step.state.is_terminal())
                .count();
            table.row([
                run.id.as_str().into(),
                Cell::state(run.state.name()),
                format!("{} {}", run.name, run.version).into(),
                format!("{ended}/{}", run.steps.len()).into(),
                run.submitted_at.to_string().into(),
                run.error
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default()
                    .into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(runs.iter().map(|run| run.id.as_str())))
    })
}

fn show(id: &str, graph: Option<Graph>, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "workflows", id]))?;
    let run: WorkflowRun = answer.read()?;
    if let (Some(Graph::Mermaid), Some(document)) = (graph, &run.workflow) {
        for line in mermaid(document, Some(&run)).lines() {
            session.out.line(line)?;
        }
        return Ok(());
    }
    session.out.show(&answer, || Ok(screen(&run)))
}

fn screen(run: &WorkflowRun) -> Screen {
    let mut about = Table::new(&[]);
    let mut pair = |name: &str, cell: Cell| about.row([name.into(), cell]);
    pair("id", run.id.as_str().into());
    pair("workflow", format!("{} {}", run.name, run.version).into());
    pair("state", Cell::state(run.state.name()));
    pair(
        "submitted",
        format!("{} by {}", run.submitted_at, run.submitted_by).into(),
    );
    if let Some(end) = run.ended_at {
        pair("ended", end.to_string().into());
    }
    if let Some(error) = &run.error {
        pair("error", error.to_string().into());
    }
    let mut steps = Table::new(&["STEP", "STATE", "KIND", "ROUND", "ITEMS", "TASKS", "NOTE"]);
    for step in &run.steps {
        let kind = serde_json::to_value(step.kind).unwrap_or_default();
        let tasks = match step.task_ids.as_slice() {
            [] => String::new(),
            [one] => one.to_string(),
            many => format!("{} tasks", many.len()),
        };
        steps.row([
            step.id.as_str().into(),
            Cell::state(step.state.name()),
            kind.as_str().unwrap_or_default().into(),
            step.round.to_string().into(),
            step.items
                .map(|(ended, all)| format!("{ended}/{all}"))
                .unwrap_or_default()
                .into(),
            tasks.into(),
            note(step).into(),
        ]);
    }
    let screen = Screen::new().table(about).line("").table(steps);
    let screen = match &run.output {
        Some(output) => screen.line("").line("output").document(output),
        None => screen,
    };
    screen.named([run.id.as_str()])
}

fn note(step: &StepView) -> String {
    let undone = match step.compensation {
        Some(StepState::Succeeded) => "taken back; ",
        Some(StepState::Failed) => "not taken back; ",
        Some(_) => "being taken back; ",
        None => "",
    };
    let why = step.waiting_for.clone();
    let why = why
        .or_else(|| step.error.as_ref().map(ToString::to_string))
        .unwrap_or_default();
    format!("{undone}{why}").trim_end_matches("; ").to_owned()
}
