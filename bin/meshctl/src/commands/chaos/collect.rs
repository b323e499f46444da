//! What is gathered when the last blow has fallen.

use std::collections::BTreeMap;

use mesh_messages::identity::DidKey;
use mesh_messages::task::Task;
use mesh_messages::{Position, TaskId, Timestamp};
use mesh_persistence::verify;

use mesh_messages::events::TaskEvent;

use super::evidence::{Fact, Log, Watched, What};
use super::fleet::{Start, facts};
use crate::client::Request;
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Most tasks whose end is judged: each costs a request.
const WATCHED_MAX: usize = 20_000;

/// Everything that was recorded from the first blow on.
pub(super) fn audit(from: Position, session: &Session) -> Result<Vec<Fact>, Failure> {
    let mut all = facts(&Request::get(&["v1", "audit"]), Some(from), session)?;
    all.retain(|fact| fact.position >= from);
    Ok(all)
}

/// The tasks that were acknowledged meanwhile, whoever submitted them, and their deadlines.
pub(super) fn submitted(facts: &[Fact]) -> BTreeMap<TaskId, Timestamp> {
    let mut tasks = BTreeMap::new();
    for fact in facts {
        if let (What::Task(event), Some(task)) = (&fact.what, &fact.task)
            && let TaskEvent::Submitted { deadline_at, .. } = &**event
        {
            tasks.insert(task.clone(), *deadline_at);
        }
    }
    tasks
}

/// How these tasks stand.
pub(super) fn watched(
    tasks: &BTreeMap<TaskId, Timestamp>,
    session: &mut Session,
) -> Result<BTreeMap<TaskId, Watched>, Failure> {
    if tasks.len() > WATCHED_MAX {
        let (all, some) = (tasks.len(), WATCHED_MAX);
        session
            .out
            .warn(&format!("of {all} tasks only {some} are judged"));
    }
    let mut watched = BTreeMap::new();
    for (id, deadline) in tasks.iter().take(WATCHED_MAX) {
        let answer = session.send(&Request::get(&["v1", "tasks", id.as_str()]));
        let (state, deadline) = match answer.and_then(|answer| answer.read::<Task>()) {
            Ok(task) => (Some(task.state), task.deadline_at),
            Err(failure) if failure.exit == Exit::NotFound => (None, *deadline),
            Err(failure) => return Err(failure),
        };
        watched.insert(id.clone(), Watched { state, deadline });
    }
    Ok(watched)
}

/// Reads the log as an export and verifies it here, against the node's key and the checkpoint from before.
pub(super) fn log(start: &Start, session: &Session) -> Log {
    let key: DidKey = match start.key.parse() {
        Ok(key) => key,
        Err(_) => return Log::NotRead(format!("{} is no key", start.key)),
    };
    let stream = session
        .client()
        .and_then(|client| Ok(client.stream(&Request::get(&["v1", "audit", "export"]))?));
    let stream = match stream {
        Ok(stream) => stream,
        Err(failure) => return Log::NotRead(failure.message),
    };
    match verify(stream, Some(&key), Some(&start.witness)) {
        Ok(report) => Log::Verified {
            records: report.records,
            root: report.root.to_string(),
            witnessed: report.witnessed,
        },
        Err(mesh_persistence::VerifyError::Read(error)) => {
            Log::NotRead(format!("the export broke off: {error}"))
        }
        Err(error) => Log::Wrong(error.to_string()),
    }
}
