//! `meshctl task`: submitting, following and controlling tasks.

mod follow;
mod show;
mod submit;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Subcommand;
use mesh_messages::units::Span;
use serde_json::{Value, json};

use crate::client::Request;
use crate::exit::Failure;
use crate::input;
use crate::output::Screen;
use crate::session::Session;

pub(crate) use show::{task_screen, tasks_screen};
pub(super) use submit::random_key;

/// Commands about tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a task and print its id; with --wait, its output
    #[command(after_help = SUBMIT_HELP)]
    Submit(submit::Submit),
    /// List tasks, newest first
    #[command(
        after_help = "Examples:\n  meshctl task list --state dead_lettered\n  meshctl task list --agent echo --watch"
    )]
    List(show::List),
    /// Show a task: its state, its attempts, its output or its error
    #[command(
        after_help = "Examples:\n  meshctl task show 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d\n  meshctl task show 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --at 1042"
    )]
    Show(show::Show),
    /// Wait until a task has ended and print its output
    #[command(
        after_help = "Exits with 0, 1 (failed, cancelled or dead-lettered) or 7 (still running).\n\n\
        Example:\n  meshctl task wait 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --timeout 5m"
    )]
    Wait {
        #[command(flatten)]
        task: Id,
        /// How long to wait
        #[arg(long, value_name = "TIME", default_value = WAIT_DEFAULT)]
        timeout: Span,
    },
    /// Follow a task until it has ended
    #[command(
        after_help = "Exits with 0, or with 1 (failed, cancelled or dead-lettered).\n\n\
        Example:\n  meshctl task watch 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d"
    )]
    Watch(Id),
    /// End a task, and the process that works on it
    #[command(
        after_help = "Example:\n  meshctl task cancel 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --reason 'no longer needed'"
    )]
    Cancel {
        #[command(flatten)]
        task: Id,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Give a failed or dead-lettered task another round
    #[command(after_help = "Example:\n  meshctl task retry 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d")]
    Retry(Id),
    /// Have a task that waits for an agent done as several, with dependencies between them
    #[command(after_help = SPLIT_HELP)]
    Split {
        #[command(flatten)]
        task: Id,
        /// The parts, as YAML or JSON; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Approve what a task asks a person, or deny it
    #[command(
        after_help = "Examples:\n  meshctl task approve 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --comment 'looks right'\n  \
        meshctl task approve 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d --deny"
    )]
    Approve {
        #[command(flatten)]
        task: Id,
        /// Deny it instead
        #[arg(long)]
        deny: bool,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Say why a task went to its agent, or why it waits: every candidate and every reason
    #[command(after_help = "Example:\n  meshctl task explain 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d")]
    Explain(Id),
    /// Show a task's records
    #[command(after_help = "Example:\n  meshctl task events 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d")]
    Events {
        #[command(flatten)]
        task: Id,
        /// Rows to show at most
        #[arg(long, default_value = "1000", value_name = "N")]
        limit: NonZeroUsize,
    },
}

/// How long to wait when nobody says.
const WAIT_DEFAULT: &str = "30s";

const SUBMIT_HELP: &str = "\
With --wait only the output stands on standard output, and it exits with 0 (succeeded), 1 (failed,
cancelled or dead-lettered; why is told on standard error) or 7 (still running). A submission whose
answer got lost is repeated under the same idempotency key, so it is never done twice.

Examples:
  meshctl task submit --requires echo --input '{\"text\": \"hi\"}' --wait
  meshctl task submit --requires summarise,translate --input @article.json --priority high
  meshctl task submit --type scrape --deadline 5m --max-attempts 2 --label team=web
  meshctl task submit --requires echo --input 7 --idempotency-key order-7 --wait 2m";

const SPLIT_HELP: &str = "\
The file lists the parts. Each is a task below this one, which succeeds when all of them have, with
their outputs by their names, and fails with the first that fails for good:

  parts:
    - name: fetch
      task: {requirements: [fetch], input: {url: 'https://example.com'}}
    - name: read
      after: [fetch]
      task: {requirements: [summarise]}

Example:
  meshctl task split 01932c07-0f3e-7c4b-9d55-0c4f0a1b2c3d parts.yaml";

/// The task meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Id {
    /// The task's id
    id: String,
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(
            self,
            Self::List(_) | Self::Show(_) | Self::Explain(_) | Self::Events { .. }
        )
    }
}

/// Runs one of them.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Submit(arguments) => submit::run(arguments, session),
        Command::List(arguments) => show::list(arguments, session),
        Command::Show(arguments) => show::one(arguments, session),
        Command::Wait { task, timeout } => follow::wait(&task.id, timeout.duration(), session),
        Command::Watch(task) => follow::watch(&task.id, session),
        Command::Cancel { task, reason } => {
            let body = reason.as_ref().map(|reason| json!({ "reason": reason }));
            order(&task.id, "cancel", body.as_ref(), session)
        }
        Command::Retry(task) => order(&task.id, "retry", None, session),
        Command::Split { task, file } => {
            let body = input::yaml(file, &mut std::io::stdin())?;
            order(&task.id, "split", Some(&body), session)
        }
        Command::Approve {
            task,
            deny,
            comment,
        } => {
            let body = json!({ "approve": !deny, "comment": comment });
            order(&task.id, "approve", Some(&body), session)
        }
        Command::Explain(task) => show::explain(&task.id, session),
        Command::Events { task, limit } => {
            super::audit::records(&["v1", "tasks", &task.id, "events"], limit.get(), session)
        }
    }
}

/// An order that is answered with the task.
fn order(id: &str, verb: &str, body: Option<&Value>, session: &mut Session) -> Result<(), Failure> {
    let request = Request::post(&["v1", "tasks", id, verb]);
    let answer = session.send(&match body {
        Some(body) => request.json(body),
        None => request,
    })?;
    session.out.show(&answer, || {
        let task: mesh_messages::task::Task = answer.read()?;
        Ok(Screen::confirmation(
            format!("task {id} {}", task.state),
            id,
        ))
    })
}
