//! `meshctl schedule`: runs of workflows that begin at planned times.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use mesh_messages::schedule::{Firing, Schedule};
use serde_json::{Map, Value};

use crate::client::Request;
use crate::exit::Failure;
use crate::input;
use crate::output::{Cell, Screen, Table};
use crate::session::Session;

const CREATE_HELP: &str = "\
FILE is a workflow in YAML or JSON, or - for standard input. The pattern has five fields: minute, hour,
day of month, month, day of week; or it is @hourly, @daily, @weekly, @monthly or @yearly.

Where clocks are set: a pattern of one minute and one hour fires once on each of its days, right after a
gap that it falls into, and the first time of two; any other pattern follows the clock.

Examples:
  meshctl schedule create nightly report.yaml --cron '30 2 * * *' --time-zone Europe/Berlin
  meshctl schedule create sync sync.yaml --cron '*/5 * * * *' --missed skip --overlap queue";

/// Commands about schedules.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a schedule and print when it fires first
    #[command(after_help = CREATE_HELP)]
    Create(Create),
    /// List schedules, with when they fire next
    #[command(after_help = "Examples:\n  meshctl schedule list\n  meshctl schedule list --watch")]
    List {
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Show a schedule: its next times, and what became of the latest
    #[command(after_help = "Example:\n  meshctl schedule show nightly")]
    Show {
        /// Its name
        id: String,
    },
    /// Have a schedule begin nothing until it is resumed
    #[command(after_help = "Example:\n  meshctl schedule pause nightly")]
    Pause {
        /// Its name
        id: String,
    },
    /// Have a schedule go on; what passed meanwhile is not made up for
    #[command(after_help = "Example:\n  meshctl schedule resume nightly")]
    Resume {
        /// Its name
        id: String,
    },
    /// Remove a schedule; its runs go on
    #[command(after_help = "Example:\n  meshctl schedule delete nightly")]
    Delete {
        /// Its name
        id: String,
    },
}

/// What to make.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name
    id: String,
    /// The workflow
    file: PathBuf,
    /// When it fires
    #[arg(long, value_name = "PATTERN")]
    cron: String,
    /// The IANA time zone in which the pattern is read
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// What each run gets: JSON, @FILE with JSON, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// What becomes of times at which meshd did not run
    #[arg(long, value_enum, value_name = "RULE", default_value_t = MissedRule::Once)]
    missed: MissedRule,
    /// What becomes of a time while an earlier run has not ended
    #[arg(long, value_enum, value_name = "RULE", default_value_t = OverlapRule::Skip)]
    overlap: OverlapRule,
    /// Have it begin paused
    #[arg(long)]
    paused: bool,
    /// Accept steps that no deployed agent can do yet
    #[arg(long)]
    deploy_later: bool,
}

/// As `missed` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum MissedRule {
    /// None is made up for
    Skip,
    /// One run makes up for all
    Once,
    /// Each is made up for, the latest 50 at most
    All,
}

/// As `overlap` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum OverlapRule {
    /// It is left out
    Skip,
    /// Its run begins when the earlier ones have ended
    Queue,
    /// Its run begins at once
    Allow,
    /// The earlier run is cancelled first
    CancelPrevious,
}

/// The name of a value on the command line, which is that of the API.
fn name_of(rule: impl ValueEnum) -> Value {
    let value = rule.to_possible_value();
    value.map_or(Value::Null, |value| Value::from(value.get_name()))
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
        Command::Create(arguments) => create(arguments, session),
        Command::List { limit } => list(limit.get(), session),
        Command::Show { id } => show(id, session),
        Command::Pause { id } => set_paused(id, "pause", session),
        Command::Resume { id } => set_paused(id, "resume", session),
        Command::Delete { id } => {
            let answer = session.send(&Request::delete(&["v1", "schedules", id]))?;
            session.out.show(&answer, || {
                Ok(Screen::confirmation(format!("schedule {id} deleted"), id))
            })
        }
    }
}

fn create(arguments: &Create, session: &mut Session) -> Result<(), Failure> {
    let workflow = input::yaml(&arguments.file, &mut io::stdin())?;
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
    put("id", Value::from(arguments.id.as_str()));
    put("cron", Value::from(arguments.cron.as_str()));
    put("timeZone", Value::from(arguments.time_zone.as_str()));
    put("workflow", workflow);
    if let Some(argument) = &arguments.input {
        put("input", input::document(argument, &mut io::stdin())?);
    }
    put("missed", name_of(arguments.missed));
    put("overlap", name_of(arguments.overlap));
    put("paused", Value::from(arguments.paused));
    let request = Request::post(&["v1", "schedules"])
        .query("deployLater", arguments.deploy_later.then_some(true))
        .json(&Value::Object(body));
    let answer = session.send(&request)?;
    session.out.show(&answer, || {
        let schedule: Schedule = answer.read()?;
        Ok(confirmation(&schedule))
    })
}

fn confirmation(schedule: &Schedule) -> Screen {
    let when = match schedule.upcoming.first() {
        Some(next) => format!("fires next at {}", next.local),
        None => "is paused".to_owned(),
    };
    Screen::confirmation(
        format!("schedule {} {when}", schedule.id),
        schedule.id.as_str(),
    )
}

fn set_paused(id: &str, verb: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::post(&["v1", "schedules", id, verb]))?;
    session.out.show(&answer, || {
        let schedule: Schedule = answer.read()?;
        Ok(confirmation(&schedule))
    })
}

fn list(limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "schedules"]), limit)?;
    session.out.show(&answer, || {
        let schedules: Vec<Schedule> = answer.rows()?;
        if schedules.is_empty() {
            return Ok(Screen::new()
                .line("no schedules")
                .named(Vec::<String>::new()));
        }
        let mut table = Table::new(&["ID", "STATE", "WORKFLOW", "CRON", "NEXT", "LATEST"]);
        for schedule in &schedules {
            let next = schedule.upcoming.first();
            table.row([
                schedule.id.as_str().into(),
                Cell::state(state(schedule)),
                format!("{} {}", schedule.name, schedule.version).into(),
                schedule.cron.as_str().into(),
                next.map(|next| next.local.clone())
                    .unwrap_or_default()
                    .into(),
                schedule.recent.first().map(told).unwrap_or_default().into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(schedules.iter().map(|schedule| schedule.id.as_str())))
    })
}

fn state(schedule: &Schedule) -> &'static str {
    match (schedule.paused, schedule.running.is_empty()) {
        (true, _) => "paused",
        (false, false) => "running",
        (false, true) => "waiting",
    }
}

fn told(firing: &Firing) -> String {
    let times = firing.times.map(|times| format!(" ({times} times)"));
    format!(
        "{} at {}{}",
        firing.outcome.name(),
        firing.planned,
        times.unwrap_or_default()
    )
}

fn show(id: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "schedules", id]))?;
    session.out.show(&answer, || Ok(screen(&answer.read()?)))
}

fn screen(schedule: &Schedule) -> Screen {
    let mut about = Table::new(&[]);
    let mut pair = |name: &str, cell: Cell| about.row([name.into(), cell]);
    pair("id", schedule.id.as_str().into());
    pair("state", Cell::state(state(schedule)));
    let workflow = format!("{} {}", schedule.name, schedule.version);
    pair("workflow", workflow.into());
    let pattern = format!("{} in {}", schedule.cron, schedule.time_zone);
    pair("pattern", pattern.into());
    pair("missed", schedule.missed.name().into());
    pair("overlap", schedule.overlap.name().into());
    let made = format!("{} by {}", schedule.created_at, schedule.created_by);
    pair("created", made.into());
    for next in &schedule.upcoming {
        pair("next", next.local.as_str().into());
    }
    for run in &schedule.running {
        pair("running", run.as_str().into());
    }
    for planned in &schedule.waiting {
        pair("waiting", planned.to_string().into());
    }
    let mut recent = Table::new(&["PLANNED", "OUTCOME", "RUN", "NOTE"]);
    for firing in &schedule.recent {
        let run = firing.run.as_ref();
        let times = firing.times.map(|times| format!("{times} times; "));
        let reason = firing.reason.clone().unwrap_or_default();
        recent.row([
            firing.planned.to_string().into(),
            Cell::state(firing.outcome.name()),
            run.map(ToString::to_string).unwrap_or_default().into(),
            format!("{}{reason}", times.unwrap_or_default()).into(),
        ]);
    }
    Screen::new()
        .table(about)
        .line("")
        .table(recent)
        .named([schedule.id.as_str()])
}
