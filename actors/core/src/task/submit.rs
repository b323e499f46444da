//! Accepting tasks: from outside, and from agents that delegate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_messages::access::TaskFacts;
use mesh_messages::budget::Amounts;
use mesh_messages::events::TaskEvent;
use mesh_messages::inbox::Ruling;
use mesh_messages::record::PAYLOAD_INLINE_MAX;
use mesh_messages::schema::FieldError;
use mesh_messages::task::{
    DEADLINE_DEFAULT_MS, TASKS_PER_SUBMIT_MAX, Task, TaskReceipt, TaskSpec, TaskState,
};
use mesh_messages::team::TeamWish;
use mesh_messages::{AgentId, TaskId, Timestamp};
use serde_json::Value;

use crate::access::limits::{self, WITHIN_MAX};

use super::asks::{self, OPEN_ASKS_MAX, POLICY};
use super::budgets;
use super::claims::taken_above;
use super::command::{Answer, Asker, Effect, NewTask, Refusal};
use super::config::RetryPolicy;
use super::dispatch::no_judge;
use super::record::{TaskRecord, waiting_for_tasks};
use super::tx::Tx;
use super::validate::{Report, own_labels, validate};

/// Most tasks that have not ended: what start-up, memory and the eye can cope with.
pub const LIVE_TASKS_MAX: usize = 100_000;
/// Of those, the most that one submitter may have, with all that follows from them: one who floods the mesh leaves room for
/// the others.
pub const LIVE_TASKS_OF_ONE_MAX: usize = LIVE_TASKS_MAX / 2;
/// Deepest delegation: a chain of agents that ask agents ends here.
pub const DEPTH_MAX: u32 = 8;
/// Most children of one task.
pub const CHILDREN_MAX: usize = 1000;
/// Largest submission in bytes of its specifications, those apart that are large enough to lie beside the journal: one
/// append takes 4 MiB, and the records' heads and what follows from the submission have to fit in it, too.
const SUBMISSION_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A task that passed all checks.
pub(super) struct Accepted {
    id: TaskId,
    spec: TaskSpec,
    envelope: Option<Box<Value>>,
    digest: String,
    depth: u32,
    deadline_at: Timestamp,
}

/// What one task of a submission leads to.
pub(super) enum Item {
    New(Box<Accepted>),
    /// It was there before.
    Held(TaskId),
    /// It was there before, and is no longer held.
    Past(Box<TaskReceipt>),
}

pub(crate) fn submit(tx: &mut Tx<'_>, by: &str, tasks: Vec<NewTask>) -> Result<Answer, Refusal> {
    let items = admit(tx, by, tasks, false)?;
    let replayed = !items.iter().any(|item| matches!(item, Item::New(_)));
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        answers.push(match item {
            Item::New(accepted) => {
                let id = accepted.id.clone();
                accept(tx, by, *accepted);
                Ok(id)
            }
            Item::Held(id) => Ok(id),
            Item::Past(receipt) => Err(*receipt),
        });
    }
    tx.settle();
    let receipts = answers
        .into_iter()
        .filter_map(|answer| match answer {
            Ok(id) => tx.view(&id).map(|task| receipt_of(&task)),
            Err(receipt) => Some(receipt),
        })
        .collect();
    Ok(Answer::Receipts { receipts, replayed })
}

/// The id of the child that a task's `request` leads to; the same in every attempt, another one in every round.
pub(crate) fn child_id(parent: &TaskId, round: u32, request: &str) -> TaskId {
    let mut hash = blake3::Hasher::new();
    for part in [parent.as_str(), &round.to_string(), request] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let hex = hash.finalize().to_hex();
    TaskId::new(format!("c-{}", &hex[..40]))
        .expect("a prefix and 40 hexadecimal digits are a task id")
}

pub(crate) fn delegate(
    tx: &mut Tx<'_>,
    asker: Asker,
    (mut spec, envelope): (TaskSpec, Option<Box<Value>>),
) -> Result<Answer, Refusal> {
    let parent = &asker.parent.task;
    let current = tx.tasks.entry(parent).and_then(|entry| {
        let attempt = entry.record.attempt()?;
        let same = attempt.number == asker.parent.attempt
            && (&attempt.agent_id, attempt.instance, attempt.epoch)
                == (&asker.key.0, asker.key.1, asker.key.2);
        same.then_some(entry.record.round)
    });
    let Some(round) = current else {
        return Err(Refusal::Stale(asker.parent));
    };
    let id = child_id(parent, round, &asker.request);
    // As meshd asks for a check; no agent can write such an id.
    let verifies = asker.request.contains('\n');
    if verifies && let Some(why) = nobody_judges(tx, &id, &spec) {
        return Err(Refusal::Invalid {
            errors: vec![FieldError::new("requirements", why)],
        });
    }
    if tx.tasks.live(&id).is_some() {
        tx.live.askers.insert(id.clone(), asker);
        return Ok(Answer::Child(id));
    }
    let ended = tx.tasks.record(&id).or_else(|| tx.ctx.known.tasks.get(&id));
    if let Some(child) = ended.map(|record| Box::new(record.task.clone())) {
        tx.effect(Effect::ChildEnded { asker, child });
        return Ok(Answer::Child(id));
    }
    if spec.parent.get_or_insert_with(|| parent.clone()) != parent {
        let error = FieldError::new(
            "parent",
            format!("must be {parent}, the task that delegates, or be left out"),
        );
        return Err(Refusal::Invalid {
            errors: vec![error],
        });
    }
    // The request's id says already which requests are the same.
    spec.idempotency_key = None;
    let by = format!("agent:{}", asker.key.0);
    if verifies {
        // One agent answers for it.
        spec.team = Some(TeamWish::Never);
    }
    let items = admit(
        tx,
        &by,
        vec![NewTask {
            id: id.clone(),
            fresh: false,
            spec,
            envelope,
        }],
        verifies,
    )?;
    tx.live.askers.insert(id.clone(), asker);
    for item in items {
        if let Item::New(accepted) = item {
            accept(tx, &by, *accepted);
        }
    }
    tx.settle();
    Ok(Answer::Child(id))
}

/// Why a check that no agent has in hand, and that has not ended, is never made: nobody else can do it.
fn nobody_judges(tx: &Tx<'_>, id: &TaskId, spec: &TaskSpec) -> Option<String> {
    let author = spec.avoid.as_ref()?;
    let known = tx.tasks.record(id).or_else(|| tx.ctx.known.tasks.get(id));
    let settled = known.is_some_and(|check| {
        let state = check.task.state;
        state.is_in_flight() || state.is_terminal()
    });
    let (fleet, needs) = (&tx.live.fleet, spec.needs());
    let mut others = fleet.capable(&needs, None).filter(|(id, _)| *id != author);
    (!settled && fleet.is_complete() && others.next().is_none()).then(|| no_judge(author, &needs))
}

/// Checks a submission as a whole. Changes nothing.
pub(super) fn admit(
    tx: &Tx<'_>,
    by: &str,
    tasks: Vec<NewTask>,
    verifies: bool,
) -> Result<Vec<Item>, Refusal> {
    let count = tasks.len();
    if count == 0 || count > TASKS_PER_SUBMIT_MAX {
        let message = format!("a submission has 1 to {TASKS_PER_SUBMIT_MAX} tasks, not {count}");
        return Err(Refusal::Invalid {
            errors: vec![FieldError::new("", message)],
        });
    }
    let mut batch = Batch {
        errors: Vec::new(),
        bytes: 0,
        keys: BTreeMap::new(),
        children: BTreeMap::new(),
        ids: BTreeSet::new(),
        asks: 0,
        carved: BTreeMap::new(),
    };
    let mut items = Vec::with_capacity(count);
    for (index, task) in tasks.into_iter().enumerate() {
        let index = (count > 1).then_some(index);
        if let Some(item) = admit_one(tx, by, task, (index, verifies), &mut batch)? {
            items.push(item);
        }
    }
    if !batch.errors.is_empty() {
        return Err(Refusal::Invalid {
            errors: batch.errors,
        });
    }
    if batch.bytes > SUBMISSION_BYTES_MAX {
        return Err(Refusal::TooLarge {
            bytes: batch.bytes,
            limit: SUBMISSION_BYTES_MAX,
        });
    }
    let live = tx.tasks.live_count();
    if live + batch.ids.len() > LIVE_TASKS_MAX {
        return Err(Refusal::Full {
            live,
            limit: LIVE_TASKS_MAX,
        });
    }
    for (tenant, more) in wanted(tx, by, &items) {
        let live = tx.tasks.live_of(&tenant);
        if live + more > LIVE_TASKS_OF_ONE_MAX {
            return Err(Refusal::FullForOne {
                submitter: tenant.to_string(),
                live,
                limit: LIVE_TASKS_OF_ONE_MAX,
            });
        }
    }
    Ok(items)
}

/// How many tasks of a submission are new, by whose they are.
fn wanted(tx: &Tx<'_>, by: &str, items: &[Item]) -> BTreeMap<Arc<str>, usize> {
    let mut wanted = BTreeMap::new();
    for item in items {
        if let Item::New(accepted) = item {
            let tenant = tx.tasks.tenant_of(by, accepted.spec.parent.as_ref());
            *wanted.entry(tenant).or_default() += 1;
        }
    }
    wanted
}

/// What the earlier tasks of a submission mean for the later ones.
struct Batch {
    errors: Vec<FieldError>,
    bytes: usize,
    keys: BTreeMap<String, (TaskId, String)>,
    children: BTreeMap<TaskId, usize>,
    ids: BTreeSet<TaskId>,
    /// How many ask a person.
    asks: usize,
    /// What their budgets take from those above them.
    carved: BTreeMap<String, Amounts>,
}

fn admit_one(
    tx: &Tx<'_>,
    by: &str,
    NewTask {
        id,
        fresh,
        mut spec,
        envelope,
    }: NewTask,
    (index, verifies): (Option<usize>, bool),
    batch: &mut Batch,
) -> Result<Option<Item>, Refusal> {
    let before = batch.errors.len();
    let bytes = validate(&spec, &mut Report::new(index, &mut batch.errors));
    if fresh {
        own_labels(&spec, &mut Report::new(index, &mut batch.errors));
    }
    if batch.errors.len() > before {
        return Ok(None);
    }
    let digest = digest_of(&spec);
    if let Some(key) = &spec.idempotency_key {
        if let Some(item) = replayed(tx, by, key, &digest, batch)? {
            return Ok(Some(item));
        }
        batch.keys.insert(key.clone(), (id.clone(), digest.clone()));
    }
    hold_within(tx, &mut spec, verifies)?;
    if spec.within.len() > WITHIN_MAX {
        let text = format!("has more than {WITHIN_MAX} limits with those handed on by its parent");
        Report::new(index, &mut batch.errors).add("within", text);
    }
    // Asking a person is no delegation to an agent, and a check is asked for by whoever submitted the work.
    let cross_agent = by.starts_with("agent:") && spec.approval.is_none() && !verifies;
    if cross_agent && !tx.ctx.config.allow_cross_agent {
        return Err(Refusal::CrossAgent);
    }
    if batch.ids.contains(&id) || state_of(tx, &id).is_some() {
        return Err(Refusal::IdTaken(id));
    }
    let mut report = Report::new(index, &mut batch.errors);
    for (nth, dependency) in spec.depends_on.iter().enumerate() {
        let field = format!("dependsOn[{nth}]");
        if *dependency == id {
            report.add(&field, "a task cannot depend on itself");
        } else if !batch.ids.contains(dependency) && state_of(tx, dependency).is_none() {
            report.add(&field, format!("task {dependency} is not known"));
        } else if tx.ctx.known.removing.contains(dependency) {
            report.add(&field, format!("task {dependency} is being removed"));
        }
    }
    let mut depth = 0;
    let mut deadline_at = tx.ctx.now.plus(Duration::from_millis(
        spec.deadline_ms.unwrap_or(DEADLINE_DEFAULT_MS),
    ));
    // The steps of what it had started are judged by whoever started them.
    if fresh && let Some(why) = not_on_behalf(tx, by, spec.parent.as_ref()) {
        report.add("parent", why);
    }
    if let Some(parent) = &spec.parent {
        let planned = batch.children.entry(parent.clone()).or_default();
        *planned += 1;
        match may_have_child(tx, parent, *planned) {
            Ok(record) => {
                depth = record.depth + 1;
                deadline_at = deadline_at.min(record.task.deadline_at);
            }
            Err(why) => report.add("parent", why),
        }
    }
    if let Some((nth, holder)) = taken_above(tx.tasks, &spec) {
        let why = format!("task {holder} above it has it, and it would wait for that one");
        report.add(&format!("claims[{nth}].resource"), why);
    }
    if let Some(budget) = &spec.budget {
        let (parent, now) = (spec.parent.as_ref(), tx.ctx.now);
        let over = budgets::over_ask(tx.tasks, budget, parent, &mut batch.carved, now);
        if let Some((field, why)) = over {
            report.add(&format!("budget{field}"), why);
        }
    }
    if batch.errors.len() > before {
        return Ok(None);
    }
    if spec.approval.is_some() && by.starts_with("agent:") {
        batch.asks += 1;
        let open = tx.tasks.index().asks.get(by).map_or(0, BTreeSet::len);
        if open + batch.asks > OPEN_ASKS_MAX {
            return Err(Refusal::TooManyAsks { by: by.to_owned() });
        }
    }
    let said = envelope.as_ref().map_or(0, |said| said.to_string().len());
    let bytes = bytes + said;
    // Larger payloads lie in the content store; the journal holds only their digest.
    batch.bytes += if bytes > PAYLOAD_INLINE_MAX { 0 } else { bytes };
    batch.ids.insert(id.clone());
    Ok(Some(Item::New(Box::new(Accepted {
        id,
        spec,
        envelope,
        digest,
        depth,
        deadline_at,
    }))))
}

/// Holds a task to what the one on whose behalf it is submitted hands on. Asking a person hands nothing on.
pub(crate) fn hold_within(tx: &Tx<'_>, spec: &mut TaskSpec, verifies: bool) -> Result<(), Refusal> {
    let parent = spec.parent.as_ref().filter(|_| spec.approval.is_none());
    let Some(entry) = parent.and_then(|parent| tx.tasks.live(parent)) else {
        return Ok(());
    };
    let within = &entry.record.task.spec.within;
    let mut all = TaskFacts::all_of(spec).into_iter();
    let own = all.next().map(|facts| TaskFacts {
        check: verifies,
        ..facts
    });
    let own = own.unwrap_or_else(|| TaskFacts::of(spec));
    let handed = limits::handed_on(within, tx.ctx.now, &own);
    let mut handed = handed.map_err(Refusal::Confined)?;
    for check in all {
        limits::handed_on(within, tx.ctx.now, &check).map_err(Refusal::Confined)?;
    }
    handed.append(&mut spec.within);
    spec.within = handed;
    Ok(())
}

/// Why an agent may not submit a task on behalf of this one, or of none: nobody else's limits are its to use up, and those
/// of the work that it has in hand are not left behind by asking for more work elsewhere.
fn not_on_behalf(tx: &Tx<'_>, by: &str, parent: Option<&TaskId>) -> Option<String> {
    let agent = AgentId::new(by.strip_prefix("agent:")?).ok()?;
    let in_hand: BTreeSet<&TaskId> = tx.tasks.in_hand_of_agent(&agent).collect();
    let bounded = in_hand.iter().find(|id| {
        let within = tx.tasks.get(id).map(|task| &task.spec.within);
        within.is_some_and(|within| !within.is_empty())
            || budgets::nearest(tx.tasks, Some(id)).is_some()
    });
    if let Some(parent) = parent {
        // One that is not there is told of by its own name.
        let task = tx.tasks.live(parent)?.task();
        if task.submitted_by != by && !in_hand.contains(parent) {
            return Some(format!(
                "{agent} neither has task {parent} in hand nor submitted it"
            ));
        }
        // What it submitted of its own is bounded by nothing, unless it stands below what it has in hand.
        if is_below(tx, parent, &in_hand) {
            return None;
        }
    }
    bounded.map(|task| {
        format!(
            "{agent} has task {task} in hand, which is bounded; name the task that this one is for"
        )
    })
}

/// Whether a task is one of these, or stands below one of them.
fn is_below(tx: &Tx<'_>, id: &TaskId, those: &BTreeSet<&TaskId>) -> bool {
    let above = |id: &&TaskId| tx.tasks.get(id)?.spec.parent.as_ref();
    std::iter::successors(Some(id), above).any(|id| those.contains(id))
}

fn may_have_child<'a>(
    tx: &'a Tx<'_>,
    parent: &TaskId,
    planned: usize,
) -> Result<&'a TaskRecord, String> {
    let Some(entry) = tx.tasks.live(parent) else {
        return Err(format!("task {parent} is not known, or has ended"));
    };
    if entry.record.depth >= DEPTH_MAX {
        return Err(format!("tasks may be delegated {DEPTH_MAX} times at most"));
    }
    if entry.children + planned > CHILDREN_MAX {
        return Err(format!(
            "task {parent} may have at most {CHILDREN_MAX} children"
        ));
    }
    Ok(&entry.record)
}

/// The task for which an idempotency key stands already.
fn replayed(
    tx: &Tx<'_>,
    by: &str,
    key: &str,
    digest: &str,
    batch: &Batch,
) -> Result<Option<Item>, Refusal> {
    let full = (by.to_owned(), key.to_owned());
    let held = tx
        .tasks
        .index()
        .keys
        .get(&full)
        .and_then(|id| tx.tasks.record(id));
    let (id, first, item) = if let Some((id, first)) = batch.keys.get(key) {
        (id, first, Item::Held(id.clone()))
    } else if let Some(record) = held {
        (
            &record.task.id,
            &record.digest,
            Item::Held(record.task.id.clone()),
        )
    } else if let Some(record) = tx.ctx.known.keys.get(&full) {
        (
            &record.task.id,
            &record.digest,
            Item::Past(Box::new(receipt_of(&record.task))),
        )
    } else {
        return Ok(None);
    };
    if first != digest {
        return Err(Refusal::KeyTaken {
            key: key.to_owned(),
            task: id.clone(),
        });
    }
    Ok(Some(item))
}

fn state_of(tx: &Tx<'_>, id: &TaskId) -> Option<TaskState> {
    let held = tx.tasks.get(id).map(|task| task.state);
    held.or_else(|| tx.ctx.known.tasks.get(id).map(|record| record.task.state))
}

pub(super) fn accept(tx: &mut Tx<'_>, by: &str, accepted: Accepted) {
    let Accepted {
        id,
        spec,
        envelope,
        digest,
        depth,
        deadline_at,
    } = accepted;
    let retry: RetryPolicy = tx.ctx.config.retry.completed(spec.retry.as_ref());
    let depends_on = spec.depends_on.clone();
    let ruled = spec.approval.as_ref();
    let ruled = ruled.map(|ask| asks::ruling(&tx.ctx.config.policy, by, ask, false));
    let verdict = ruled.as_ref().and_then(asks::verdict_of);
    let verdict = verdict.map(|(approve, comment)| TaskEvent::Approved {
        at: tx.ctx.now,
        by: POLICY.to_owned(),
        approve,
        comment: Some(comment),
        answer: None,
    });
    let event = TaskEvent::Submitted {
        spec: Box::new(spec),
        by: by.to_owned(),
        at: tx.ctx.now,
        deadline_at,
        retry: retry.to_spec(),
        depth,
        digest,
        ruling: ruled
            .filter(|ruling| *ruling != Ruling::default())
            .map(Box::new),
        envelope,
    };
    tx.emit(&id, event);
    if let Some(verdict) = verdict {
        // It waits for nothing, and for nobody.
        return tx.emit(&id, verdict);
    }
    let mut pending = Vec::new();
    for dependency in &depends_on {
        match state_of(tx, dependency) {
            Some(TaskState::Succeeded) => {}
            Some(state) if state.is_terminal() => {
                return tx.cancel(
                    &id,
                    format!("task {dependency}, on which it depends, is {state}"),
                );
            }
            _ => pending.push(dependency.clone()),
        }
    }
    if pending.len() < depends_on.len() {
        let event = if pending.is_empty() {
            TaskEvent::Waiting {
                state: TaskState::Queued,
                waiting_for: None,
            }
        } else {
            let waiting_for = Some(waiting_for_tasks(pending));
            TaskEvent::Waiting {
                state: TaskState::Blocked,
                waiting_for,
            }
        };
        tx.emit(&id, event);
    }
}

/// Digest of what was submitted: the same text for the same content.
///
/// What a token that it came with was narrowed to is no part of it: the same may be submitted again with another one.
pub(crate) fn digest_of(spec: &TaskSpec) -> String {
    let mut value = serde_json::to_value(spec).expect("a task has string keys only");
    if let Some(fields) = value.as_object_mut() {
        fields.remove("within");
    }
    format!(
        "blake3:{}",
        blake3::hash(&mesh_messages::json::canonical(&value)).to_hex()
    )
}

/// The receipt of a task as it is.
pub(crate) fn receipt_of(task: &Task) -> TaskReceipt {
    TaskReceipt {
        id: task.id.clone(),
        state: task.state,
        assignment: task.assignment.clone(),
        waiting_for: task.waiting_for.clone(),
    }
}
