//! Splitting a task by order: it is done as several, with dependencies between them, and ends when they have.
//!
//! From then on it is as if a team had it: blocked, its parts below it, and the end of the last of them its own end, in one
//! group of records. Nobody is chosen: whoever can does each part.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::TaskId;
use mesh_messages::schema::FieldError;
use mesh_messages::split::{PART_NAME_MAX, PARTS_MAX, SplitPart};
use mesh_messages::task::TaskState;
use mesh_messages::team::{TeamPart, TeamPattern, TeamPhase, TeamStep, Teamwork};

use super::command::{Answer, NewTask, Refusal};
use super::submit::{Item, accept, admit, child_id};
use super::tx::Tx;

pub(crate) fn split(
    tx: &mut Tx<'_>,
    by: &str,
    id: &TaskId,
    parts: Vec<SplitPart>,
) -> Result<Answer, Refusal> {
    let (round, number) = splittable(tx, id)?;
    let order = order(&parts).map_err(|errors| Refusal::Invalid { errors })?;
    let ids: BTreeMap<&str, TaskId> = parts
        .iter()
        .map(|part| {
            let name = part.name.as_str();
            // No agent can write such a request, so none can have asked for this child.
            let request = format!("split\n{number}\n{name}");
            (name, child_id(id, round, &request))
        })
        .collect();
    let team = Teamwork {
        number,
        pattern: TeamPattern::CrossFunctional,
        split: true,
        lead: None,
        parts: parts
            .iter()
            .map(|part| TeamPart {
                name: part.name.clone(),
                agent: None,
                capabilities: part.task.needs(),
                task: ids[part.name.as_str()].clone(),
            })
            .collect(),
        reasons: format!("split by {by}"),
        phase: TeamPhase::Parts,
        formed_at: tx.ctx.now,
        began_at: None,
        end: None,
    };
    let tasks = order.iter().map(|nth| {
        let part = &parts[*nth];
        let mut spec = part.task.clone();
        spec.parent = Some(id.clone());
        let after = part.after.iter().map(|name| ids[name.as_str()].clone());
        spec.depends_on.extend(after);
        NewTask {
            id: ids[part.name.as_str()].clone(),
            fresh: true,
            spec,
            envelope: None,
        }
    });
    let items =
        admit(tx, by, tasks.collect(), false).map_err(|refusal| in_parts(refusal, &order))?;
    tx.team_step(id, TeamStep::Formed(Box::new(team)));
    for item in items {
        if let Item::New(accepted) = item {
            accept(tx, by, *accepted);
        }
    }
    tx.settle();
    Ok(tx
        .view(id)
        .map_or(Answer::Done, |task| Answer::Task(Box::new(task))))
}

/// The round of a task that can be split, and the how manieth team its parts are.
fn splittable(tx: &Tx<'_>, id: &TaskId) -> Result<(u32, u32), Refusal> {
    let Some(entry) = tx.tasks.live(id) else {
        let held = tx.tasks.record(id).or_else(|| tx.ctx.known.tasks.get(id));
        return Err(match held {
            Some(record) => Refusal::Ended {
                task: id.clone(),
                state: record.task.state,
            },
            None => Refusal::NotFound(id.clone()),
        });
    };
    let task = entry.task();
    let why = if !matches!(task.state, TaskState::Queued | TaskState::Parked) {
        format!(
            "it is {}; only what waits for an agent can be split",
            task.state
        )
    } else if task.spec.approval.is_some() {
        "it asks a person".to_owned()
    } else if task.spec.escalates.is_some() {
        "it takes up another task, which waits for its answer".to_owned()
    } else if !task.spec.claims.is_empty() {
        "it claims resources; have its parts claim them, in a task without".to_owned()
    } else {
        let number = task.teamwork.as_ref().map_or(0, |team| team.number) + 1;
        return Ok((entry.record.round, number));
    };
    Err(Refusal::NotSplittable {
        task: id.clone(),
        why,
    })
}

/// An order in which each part comes after those that it needs.
///
/// # Errors
/// All that is wrong with names and dependencies.
fn order(parts: &[SplitPart]) -> Result<Vec<usize>, Vec<FieldError>> {
    let mut errors = Vec::new();
    if parts.is_empty() || parts.len() > PARTS_MAX {
        let count = parts.len();
        let message = format!("a task is split into 1 to {PARTS_MAX} parts, not {count}");
        return Err(vec![FieldError::new("parts", message)]);
    }
    let mut names = BTreeMap::new();
    for (nth, part) in parts.iter().enumerate() {
        let mut add = |field: &str, message: String| {
            errors.push(FieldError::new(format!("parts[{nth}].{field}"), message));
        };
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let name = &part.name;
        if name.is_empty() || name.len() > PART_NAME_MAX || !name.bytes().all(legal) {
            let message = format!("must be 1 to {PART_NAME_MAX} of a-z, A-Z, 0-9, `-`, `_`");
            add("name", message);
        } else if names.insert(name.as_str(), nth).is_some() {
            add("name", format!("{name} is there twice"));
        }
        if part.task.parent.is_some() {
            add("task.parent", "is the task that is split".to_owned());
        }
        if part.task.idempotency_key.is_some() {
            let message = "a part has none: its task and its name stand for it";
            add("task.idempotencyKey", message.to_owned());
        }
    }
    for (nth, part) in parts.iter().enumerate() {
        for (at, name) in part.after.iter().enumerate() {
            let message = match names.get(name.as_str()) {
                None => format!("no part is called {name}"),
                Some(other) if *other == nth => "a part cannot wait for itself".to_owned(),
                Some(_) => continue,
            };
            errors.push(FieldError::new(
                format!("parts[{nth}].after[{at}]"),
                message,
            ));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut order = Vec::with_capacity(parts.len());
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while order.len() < parts.len() {
        let before = order.len();
        for (nth, part) in parts.iter().enumerate() {
            let name = part.name.as_str();
            if !placed.contains(name) && part.after.iter().all(|it| placed.contains(it.as_str())) {
                placed.insert(name);
                order.push(nth);
            }
        }
        if order.len() == before {
            let rest = parts.iter().map(|part| part.name.as_str());
            let rest: Vec<_> = rest.filter(|name| !placed.contains(name)).collect();
            let message = format!("cycle: {} wait for each other", rest.join(", "));
            return Err(vec![FieldError::new("parts", message)]);
        }
    }
    Ok(order)
}

/// What is wrong with the tasks, by where they stand in the order.
fn in_parts(refusal: Refusal, order: &[usize]) -> Refusal {
    let Refusal::Invalid { errors } = refusal else {
        return refusal;
    };
    let errors = errors.into_iter().map(|error| {
        // One task alone has no index.
        let (nth, field) = error
            .path
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]."))
            .and_then(|(nth, field)| Some((nth.parse::<usize>().ok()?, field)))
            .unwrap_or((0, error.path.as_str()));
        let nth = order.get(nth).copied().unwrap_or_default();
        let dot = if field.is_empty() { "" } else { "." };
        FieldError::new(format!("parts[{nth}].task{dot}{field}"), error.message)
    });
    Refusal::Invalid {
        errors: errors.collect(),
    }
}
