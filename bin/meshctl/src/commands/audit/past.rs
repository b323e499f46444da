//! How a task or an agent stood at a past position: asked of the daemon, or worked out from an export without one.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _};
use std::path::{Path, PathBuf};

use mesh_actors_core::past::{AgentPast, TaskPast};
use mesh_messages::identity::DidKey;
use mesh_messages::system::{PastAt, PastState};
use mesh_messages::{AgentId, RecordHeader, TaskId};
use mesh_persistence::verify;
use serde::Deserialize;
use serde_json::json;

use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

/// Of what, and when.
#[derive(Debug, clap::Args)]
pub(crate) struct State {
    /// An export to work it out from, once it is verified; the daemon is asked without it
    file: Option<PathBuf>,
    /// The last record to take in, or a moment, such as 2025-06-20T22:04:00Z
    #[arg(long, value_name = "POSITION|TIME")]
    at: PastAt,
    /// How this task stood
    #[arg(long, value_name = "ID", conflicts_with = "agent")]
    task: Option<TaskId>,
    /// How this agent stood
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// With an export: the node's key, from a source that you trust
    #[arg(long, value_name = "DID:KEY", requires = "file")]
    key: Option<DidKey>,
}

pub(super) fn run(arguments: &State, session: &mut Session) -> Result<(), Failure> {
    let Some(path) = &arguments.file else {
        let about = (arguments.task.as_ref(), arguments.agent.as_ref());
        return show(arguments.at, about, session);
    };
    let state = of_export(path, arguments)?;
    let answer = Answer::from_value(&json!(state));
    session.out.show(&answer, || Ok(screen(&state)))
}

/// Asks the daemon; also what `--at` does elsewhere.
pub(crate) fn show(
    at: PastAt,
    (task, agent): (Option<&TaskId>, Option<&AgentId>),
    session: &mut Session,
) -> Result<(), Failure> {
    let request = Request::get(&["v1", "audit", "state"])
        .query("at", Some(at))
        .query("task", task)
        .query("agent", agent);
    let answer = session.send(&request)?;
    session.out.show(&answer, || Ok(screen(&answer.read()?)))
}

fn screen(state: &PastState) -> Screen {
    let mut screen = match (&state.task, &state.agent, &state.items) {
        (Some(task), ..) => crate::commands::task::task_screen(task),
        (None, Some(agent), _) => Screen::new()
            .document(&json!(agent))
            .named([agent.id.as_str()]),
        (None, None, Some(tasks)) => crate::commands::task::tasks_screen(tasks),
        (None, None, None) => Screen::new().line("its records were erased").named([""; 0]),
    };
    screen = screen.line(format!("as of record {}, {}", state.at, state.time));
    if state.erased > 0 {
        screen = screen.line(format!(
            "without {} records that were erased since",
            state.erased
        ));
    }
    if state.elsewhere > 0 {
        let count = state.elsewhere;
        screen = screen.line(format!(
            "without {count} records whose content is not in the export"
        ));
    }
    screen
}

/// One line of an export, as far as it is needed here: it has been verified.
#[derive(Deserialize)]
struct Line {
    record: Option<String>,
    payload: Option<String>,
}

enum Past {
    Task(Box<TaskPast>),
    Agent(Box<AgentPast>),
}

fn of_export(path: &Path, arguments: &State) -> Result<PastState, Failure> {
    let mut past = match (&arguments.task, &arguments.agent) {
        (Some(task), _) => Past::Task(Box::new(TaskPast::new(task.clone()))),
        (None, Some(agent)) => Past::Agent(Box::new(AgentPast::new(agent.clone()))),
        (None, None) => {
            let text = "of an export one task or one agent can be shown: give --task or --agent";
            return Err(Failure::new(Exit::Usage, text));
        }
    };
    let failed = |text: String| Failure::new(Exit::Failed, text);
    let mut file = File::open(path).map_err(|error| Failure::file(path, &error))?;
    // What does not verify is not worked with.
    let report = verify(BufReader::new(&file), arguments.key.as_ref(), None)
        .map_err(|error| failed(error.to_string()))?;
    if let PastAt::Record(at) = arguments.at
        && at.0 >= report.size
    {
        let text = format!(
            "the log has {} records; there is no record {at}",
            report.size
        );
        return Err(failed(text));
    }
    file.rewind().map_err(|error| Failure::file(path, &error))?;
    let mut last = None;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| Failure::file(path, &error))?;
        let read = |error: serde_json::Error| failed(error.to_string());
        let Line { record, payload } = serde_json::from_str(&line).map_err(read)?;
        let Some(record) = record else { break };
        let header: RecordHeader = serde_json::from_str(&record).map_err(read)?;
        let beyond = match arguments.at {
            PastAt::Record(at) => header.position > at,
            PastAt::Moment(moment) => header.time > moment,
        };
        if beyond {
            break;
        }
        let payload = payload.as_deref().map(str::as_bytes);
        let taken = match &mut past {
            Past::Task(past) => past.take(&header, payload),
            Past::Agent(past) => past.take(&header, payload),
        };
        taken.map_err(|error| failed(error.to_string()))?;
        last = Some((header.position, header.time));
    }
    let (task, agent, gaps) = match past {
        Past::Task(past) => {
            let (task, gaps) = past.task();
            (task, None, gaps)
        }
        Past::Agent(past) => {
            let (agent, gaps) = past.agent();
            (None, agent, gaps)
        }
    };
    let missing = task.is_none() && agent.is_none() && gaps.erased + gaps.elsewhere == 0;
    let Some((position, time)) = last.filter(|_| !missing) else {
        let text = format!("at {} there was none of that name", arguments.at);
        return Err(Failure::new(Exit::NotFound, text));
    };
    Ok(PastState {
        at: match arguments.at {
            PastAt::Record(at) => at,
            PastAt::Moment(_) => position,
        },
        time,
        task,
        agent,
        items: None,
        next_cursor: None,
        erased: gaps.erased,
        elsewhere: gaps.elsewhere,
    })
}
