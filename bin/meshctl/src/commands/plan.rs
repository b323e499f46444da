//! `meshctl plan`: what is to be done, stored so that it can be read and edited before it runs.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use mesh_messages::plan::StoredPlan;
use mesh_messages::workflow::mermaid;
use serde_json::{Map, Value, json};

use crate::client::Request;
use crate::exit::Failure;
use crate::input;
use crate::output::{Cell, Screen, Table};
use crate::session::Session;

const CREATE_HELP: &str = "\
FILE is a workflow in YAML or JSON, or - for standard input. A single task is given with --task instead, as
JSON in the form of a submission. With --team the workflow is drafted over the agents that there are: which of
them have what is required between them, or what nobody has. Nothing of a plan runs before somebody starts it.

Examples:
  meshctl plan create review.yaml --goal 'a text about tides' --input '{\"topic\": \"tides\"}'
  meshctl plan create --task '{\"requirements\": [\"echo\"], \"input\": 1}'
  meshctl plan create --team cross_functional --requires research --requires write --input '{\"topic\": \"tides\"}'
  meshctl plan create --team peer --requires judge --size 5 --rounds 3 --agreement unanimous --input '\"guilty?\"'";

const EDIT_HELP: &str = "\
--version is the one that was read: when somebody wrote another one since, nothing changes.

Examples:
  meshctl plan show 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d -o yaml
  meshctl plan edit 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d review.yaml --version 1";

/// Commands about plans.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store a plan and print its id
    #[command(after_help = CREATE_HELP)]
    Create(Written),
    /// List plans
    #[command(after_help = "Examples:\n  meshctl plan list\n  meshctl plan list --watch")]
    List {
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Show a plan: its steps, its graph and its earlier versions
    #[command(after_help = "Example:\n  meshctl plan show 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d")]
    Show {
        /// Its id
        id: String,
    },
    /// Write another version of a plan that was not started
    #[command(after_help = EDIT_HELP)]
    Edit {
        /// Its id
        id: String,
        #[command(flatten)]
        written: Written,
        /// The version that was read
        #[arg(long, value_name = "N")]
        version: u32,
    },
    /// Start a plan as it was read, and print the id of its run
    #[command(
        after_help = "Example:\n  meshctl plan start 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --version 2"
    )]
    Start {
        /// Its id
        id: String,
        /// The version that was read
        #[arg(long, value_name = "N")]
        version: u32,
    },
    /// Remove a plan; its run goes on
    #[command(after_help = "Example:\n  meshctl plan delete 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d")]
    Delete {
        /// Its id
        id: String,
    },
}

/// What a plan is.
#[derive(Debug, clap::Args)]
pub(crate) struct Written {
    /// The workflow
    #[arg(required_unless_present_any = ["task", "pattern"])]
    file: Option<PathBuf>,
    /// Instead: one task, as JSON, @FILE with JSON, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with_all = ["file", "input"])]
    task: Option<String>,
    #[command(flatten)]
    team: Team,
    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    goal: Option<String>,
    /// What the workflow works on: JSON, @FILE with JSON, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    input: Option<String>,
    /// Accept steps that no deployed agent can do yet
    #[arg(long)]
    deploy_later: bool,
}

/// A team from which the workflow is drafted.
#[derive(Debug, clap::Args)]
pub(crate) struct Team {
    /// Instead: a team of this kind
    #[arg(long = "team", value_enum, value_name = "PATTERN", conflicts_with_all = ["file", "task"], requires = "requires")]
    pattern: Option<Pattern>,
    /// With --team: a capability that it must have; may be given more than once
    #[arg(long = "requires", value_name = "CAPABILITY", requires = "pattern")]
    requires: Vec<String>,
    /// With --team hierarchical: the capability of the lead; with --team debate: of the judge
    #[arg(long, value_name = "CAPABILITY", requires = "pattern")]
    lead: Option<String>,
    /// With --team peer, swarm, debate or auction: how many at once, 2 to 9 [default: 3; 2 in a debate]
    #[arg(long, value_name = "N", requires = "pattern")]
    size: Option<u32>,
    /// With --team peer, swarm or debate: most rounds, 1 to 20 [default: 1 of peers, 5 of a swarm, 2 of a debate]
    #[arg(long, value_name = "N", requires = "pattern")]
    rounds: Option<u32>,
    /// With --team peer: when they agree [default: majority]
    #[arg(long, value_enum, value_name = "RULE", requires = "pattern")]
    agreement: Option<Agreement>,
    /// With --team swarm: the score at which it ends
    #[arg(
        long,
        value_name = "SCORE",
        requires = "pattern",
        allow_negative_numbers = true
    )]
    target: Option<f64>,
}

/// As `team.pattern` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Pattern {
    /// A lead writes a brief, members do their parts, the lead decides
    Hierarchical,
    /// Several do the same, and have to agree
    Peer,
    /// The fewest agents that have all capabilities between them
    #[value(alias = "cross-functional")]
    CrossFunctional,
    /// Tries at once, round by round, each from the best so far
    Swarm,
    /// Several argue in rounds, a judge decides
    Debate,
    /// Several bid, and who bids lowest does it
    Auction,
}

/// As `team.agreement` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Agreement {
    /// More than half give the same answer
    Majority,
    /// All give the same answer
    Unanimous,
}

impl Team {
    fn order(&self) -> Option<Value> {
        let name = |value: clap::builder::PossibleValue| Value::from(value.get_name());
        let pattern = self.pattern?.to_possible_value()?;
        let mut order = json!({"pattern": name(pattern), "requirements": self.requires});
        let agreement = self.agreement.and_then(|rule| rule.to_possible_value());
        let given = [
            ("lead", self.lead.clone().map(Value::from)),
            ("size", self.size.map(Value::from)),
            ("rounds", self.rounds.map(Value::from)),
            ("agreement", agreement.map(name)),
            ("target", self.target.map(Value::from)),
        ];
        for (key, value) in given {
            if let Some(value) = value {
                order[key] = value;
            }
        }
        Some(order)
    }
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
        Command::Create(written) => {
            let request = Request::post(&["v1", "plans"]);
            write(request, body(written, None)?, written, session)
        }
        Command::List { limit } => list(limit.get(), session),
        Command::Show { id } => {
            let answer = session.send(&Request::get(&["v1", "plans", id]))?;
            session.out.show(&answer, || Ok(screen(&answer.read()?)))
        }
        Command::Edit {
            id,
            written,
            version,
        } => {
            let request = Request::put(&["v1", "plans", id]);
            write(request, body(written, Some(*version))?, written, session)
        }
        Command::Start { id, version } => {
            let request = Request::post(&["v1", "plans", id, "start"]);
            let answer = session.send(&request.json(&json!({ "version": version })))?;
            session.out.show(&answer, || {
                let plan: StoredPlan = answer.read()?;
                let run = plan.run.map(|run| run.to_string()).unwrap_or_default();
                Ok(Screen::confirmation(format!("started as {run}"), run))
            })
        }
        Command::Delete { id } => {
            let answer = session.send(&Request::delete(&["v1", "plans", id]))?;
            session.out.show(&answer, || {
                Ok(Screen::confirmation(format!("plan {id} deleted"), id))
            })
        }
    }
}

fn body(written: &Written, version: Option<u32>) -> Result<Value, Failure> {
    let mut body = Map::new();
    if let Some(file) = &written.file {
        let workflow = input::yaml(file, &mut io::stdin())?;
        body.insert("workflow".to_owned(), workflow);
    }
    for (name, argument) in [("task", &written.task), ("input", &written.input)] {
        if let Some(argument) = argument {
            let value = input::document(argument, &mut io::stdin())?;
            body.insert(name.to_owned(), value);
        }
    }
    if let Some(team) = written.team.order() {
        body.insert("team".to_owned(), team);
    }
    if let Some(goal) = &written.goal {
        body.insert("goal".to_owned(), Value::from(goal.as_str()));
    }
    if let Some(version) = version {
        body.insert("version".to_owned(), Value::from(version));
    }
    Ok(Value::Object(body))
}

fn write(
    request: Request,
    body: Value,
    written: &Written,
    session: &mut Session,
) -> Result<(), Failure> {
    let later = written.deploy_later.then_some(true);
    let answer = session.send(&request.query("deployLater", later).json(&body))?;
    session.out.show(&answer, || {
        let plan: StoredPlan = answer.read()?;
        let sentence = format!("plan {} is at version {}", plan.id, plan.current.version);
        Ok(Screen::confirmation(sentence, plan.id.as_str()))
    })
}

fn list(limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "plans"]), limit)?;
    session.out.show(&answer, || {
        let plans: Vec<StoredPlan> = answer.rows()?;
        if plans.is_empty() {
            return Ok(Screen::new().line("no plans").named(Vec::<String>::new()));
        }
        let mut table = Table::new(&["ID", "STATE", "VERSION", "WORKFLOW", "STEPS", "GOAL"]);
        for plan in &plans {
            let workflow = &plan.current.workflow;
            table.row([
                plan.id.as_str().into(),
                Cell::state(plan.state.name()),
                plan.current.version.to_string().into(),
                workflow.name.as_str().into(),
                workflow.steps.len().to_string().into(),
                plan.current.goal.as_str().into(),
            ]);
        }
        let names = plans.iter().map(|plan| plan.id.as_str());
        Ok(Screen::new().table(table).named(names))
    })
}

fn screen(plan: &StoredPlan) -> Screen {
    let current = &plan.current;
    let mut about = Table::new(&[]);
    let mut pair = |name: &str, cell: Cell| about.row([name.into(), cell]);
    pair("id", plan.id.as_str().into());
    pair("state", Cell::state(plan.state.name()));
    pair("goal", current.goal.as_str().into());
    let version = format!("{} by {} at {}", current.version, current.by, current.at);
    pair("version", version.into());
    pair("input", current.input.to_string().into());
    if let (Some(run), Some(by)) = (&plan.run, &plan.started_by) {
        pair("run", format!("{run}, started by {by}").into());
    }
    for earlier in &plan.earlier {
        let version = format!("{} by {} at {}", earlier.version, earlier.by, earlier.at);
        pair("earlier", version.into());
    }
    let document = serde_json::to_value(&current.workflow).unwrap_or_default();
    Screen::new()
        .table(about)
        .line("")
        .document(&document)
        .line("")
        .line(mermaid(&current.workflow, None))
        .named([plan.id.as_str()])
}
