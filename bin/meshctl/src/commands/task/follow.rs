//! Waiting for tasks to end.

use std::time::{Duration, Instant};

use mesh_messages::task::{Task, TaskState};

use super::show::note;
use crate::client::{Answer, Request, RequestError};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Screen};
use crate::session::{Pauses, Session};
use crate::watch::Wakeups;

/// Longest single wait that meshd is asked for; a longer one is asked for in rounds.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// How long meshd may be away before the wait is given up: a restart takes less.
const ABSENCE_MAX: Duration = Duration::from_secs(15);
/// Longest time between two looks at a task that is being watched.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// `meshctl task wait`, and the end of `task submit --wait`.
pub(super) fn wait(id: &str, within: Duration, session: &mut Session) -> Result<(), Failure> {
    let progress = session.out.progress(&format!("task {id}"));
    let end = Instant::now() + within;
    let (answer, task) = loop {
        let left = end.saturating_duration_since(Instant::now());
        let (answer, task) = look(id, left.min(ROUND_MAX), session)?;
        if task.state.is_terminal() || left.is_zero() {
            break (answer, task);
        }
        progress.say(&format!("task {id} {} {}", task.state, note(&task)));
    };
    drop(progress);
    finish(&answer, &task, session)
}

/// The task once it has ended, or as it is after `wait`. Outlives a restart of meshd.
fn look(id: &str, wait: Duration, session: &Session) -> Result<(Answer, Task), Failure> {
    let request = Request::get(&["v1", "tasks", id]).wait(wait);
    let mut pauses = Pauses::new();
    let mut absent_since = None;
    loop {
        match session.client()?.send(&request) {
            Ok(answer) => {
                let task = answer.read()?;
                return Ok((answer, task));
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

/// Prints the output alone, or the whole task as a document; everything but success is a failure.
fn finish(answer: &Answer, task: &Task, session: &mut Session) -> Result<(), Failure> {
    match (session.out.format(), &task.output) {
        (Format::Json | Format::Yaml | Format::Name, _) => {
            session
                .out
                .show(answer, || Ok(Screen::new().named([task.id.as_str()])))?;
        }
        (Format::Table, output) if task.state == TaskState::Succeeded => {
            session
                .out
                .value(output.as_ref().unwrap_or(&serde_json::Value::Null))?;
        }
        (Format::Table, _) => {}
    }
    match task.state {
        TaskState::Succeeded => Ok(()),
        TaskState::Failed | TaskState::Cancelled | TaskState::DeadLettered => Err(failed(task)),
        TaskState::Queued
        | TaskState::Assigned
        | TaskState::Running
        | TaskState::Blocked
        | TaskState::Parked
        | TaskState::Retrying => Err(still_running(task)),
    }
}

fn failed(task: &Task) -> Failure {
    let why = task
        .error
        .as_ref()
        .map(|error| format!(": {error}"))
        .unwrap_or_default();
    Failure::new(
        Exit::Failed,
        format!("task {} {}{why}", task.id, task.state),
    )
}

fn still_running(task: &Task) -> Failure {
    let note = note(task);
    let note = if note.is_empty() {
        note
    } else {
        format!(": {note}")
    };
    Failure::new(Exit::TimedOut, format!("task {} is {} still{note}", task.id, task.state))
        .hint(format!("`meshctl task wait {0}` goes on waiting, `meshctl task explain {0}` says why it takes long", task.id))
}

/// `meshctl task watch`: a line per change, until the end.
pub(super) fn watch(id: &str, session: &mut Session) -> Result<(), Failure> {
    let wakeups = Wakeups::new(session)?;
    let mut last = String::new();
    loop {
        let (answer, task) = look(id, Duration::ZERO, session)?;
        let line = match task
            .assignment
            .as_ref()
            .filter(|_| task.state.is_in_flight())
        {
            Some(at) => format!(
                "{} on {}#{}, attempt {} {}",
                task.state,
                at.agent_id,
                at.instance,
                at.attempt,
                note(&task)
            ),
            None => format!("{} {}", task.state, note(&task)),
        };
        let line = line.trim_end();
        if line != last {
            match session.out.format() {
                Format::Table => session.out.line(line)?,
                Format::Json | Format::Yaml | Format::Name => {
                    session
                        .out
                        .show(&answer, || Ok(Screen::new().named([id])))?;
                }
            }
            session.out.flush()?;
            line.clone_into(&mut last);
        }
        if task.state.is_terminal() {
            return if task.state == TaskState::Succeeded {
                Ok(())
            } else {
                Err(failed(&task))
            };
        }
        wakeups.wait(LOOK_MAX);
    }
}
