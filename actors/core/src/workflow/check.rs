//! Whether a document makes sense as a whole: everything that is wrong is told at once, each with its path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use mesh_messages::schema::{Checker, FieldError};
use mesh_messages::task::TaskSpec;
use mesh_messages::team::TeamOrder;
use mesh_messages::workflow::{
    AFTER_MAX, Approval, Compensation, DOCUMENT_BYTES_MAX, ITEMS_MAX, NESTING_MAX, ROUNDS_MAX,
    RegisteredCall, SERVICE_HEADERS_MAX, STEP_ID_MAX, STEPS_MAX, Service, ServiceTarget,
    SubWorkflow, WorkflowDocument, WorkflowStep,
};
use mesh_messages::{AgentId, ServiceId};
use serde::Deserialize as _;
use serde_json::Value;

mod known;
mod version;

use super::plan::Plan;
use super::team::{self, Candidate};
use crate::task::json_len;
use known::task_parts;
use version::versions;

/// Most errors that are told at once: nobody reads more.
pub const ERRORS_MAX: usize = 64;

static CHECKER: LazyLock<Checker> = LazyLock::new(|| {
    Checker::of::<WorkflowDocument>().expect("the derived schema is a schema, which the tests show")
});

/// Says whether an agent is registered that has all of these capabilities.
pub type Offers<'a> = &'a dyn Fn(&[String]) -> bool;

/// Says whether a registered service can be called so.
pub type Serves<'a> = &'a dyn Fn(&RegisteredCall) -> Result<(), String>;

/// What a document may refer to outside of itself.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The newest document of a name.
    pub named: &'a dyn Fn(&str) -> Option<Arc<WorkflowDocument>>,
    /// Whether an agent is registered that has all these capabilities; not asked when absent.
    pub offered: Option<Offers<'a>>,
    /// Whether an agent is registered; not asked when absent.
    pub registered: Option<&'a dyn Fn(&AgentId) -> bool>,
    /// What is wrong with a call of a registered service, if anything; not asked when absent.
    pub services: Option<Serves<'a>>,
    /// The agents of which teams can be drafted; not asked when absent.
    pub fleet: Option<&'a [Candidate]>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Reads and checks a document; named workflows are written out in what comes back.
///
/// # Errors
/// Everything that is wrong, sorted by path; paths begin below the document.
pub fn check(source: &Value, around: Surroundings<'_>) -> Result<Plan, Vec<FieldError>> {
    let bytes = json_len(source);
    if bytes > DOCUMENT_BYTES_MAX {
        let message =
            format!("the document has {bytes} bytes; at most {DOCUMENT_BYTES_MAX} are accepted");
        return Err(vec![FieldError::new("", message)]);
    }
    let mut errors = Vec::new();
    let plan = look(source, around, 0, "", &mut errors);
    errors.sort();
    errors.dedup();
    errors.truncate(ERRORS_MAX);
    match plan {
        Some(plan) if errors.is_empty() => Ok(plan),
        _ if errors.is_empty() => Err(vec![FieldError::new("", "it cannot be read")]),
        _ => Err(errors),
    }
}

fn look(
    source: &Value,
    around: Surroundings<'_>,
    depth: usize,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Option<Plan> {
    let rows = source
        .get("steps")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if rows.len() > STEPS_MAX {
        let message = format!("has {} steps; at most {STEPS_MAX} are accepted", rows.len());
        errors.push(FieldError::new(join(path, "steps"), message));
        return None;
    }
    let mut own: Vec<FieldError> = CHECKER.check(source);
    for (index, row) in rows.iter().enumerate() {
        if row
            .get("repeat")
            .is_some_and(|repeat| repeat.get("max").is_none())
        {
            let field = format!("steps[{index}].repeat.max");
            own.retain(|error| error.path != field);
            own.push(FieldError::new(
                field,
                "a loop without a bound: say at most how many rounds",
            ));
        }
    }
    if depth == 0 {
        for error in versions(source) {
            own.retain(|other| other.path != error.path);
            own.push(error);
        }
    }
    let refused: BTreeSet<String> = own.iter().map(|error| error.path.clone()).collect();
    let by_schema = own.len();
    // What can be read is checked although other parts cannot, so that all errors come at once.
    let mut document = readable(source, rows, &own);
    let ids: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.get("id").and_then(Value::as_str))
        .collect();
    names(source, rows, &mut own);
    for (index, step) in &mut document.steps {
        let at = format!("steps[{index}]");
        parts(step, &at, around, &mut own);
        if let Some(workflow) = &mut step.workflow {
            inner(workflow, &at, around, depth, &mut own);
        }
    }
    let mut told = Vec::new();
    let plan = plan_of(&document, &ids, &mut told);
    own.extend(told);
    if plan.size > STEPS_MAX {
        let message = format!(
            "has {} steps with those of the workflows in it; at most {STEPS_MAX} are accepted",
            plan.size
        );
        own.push(FieldError::new("steps", message));
    }
    // Of a value that the schema refuses, nothing else need be told.
    let mut later = own.split_off(by_schema);
    later.retain(|error| !refused.contains(&error.path));
    own.append(&mut later);
    let fine = own.is_empty();
    for error in own {
        errors.push(FieldError::new(join(path, &error.path), error.message));
    }
    fine.then_some(plan)
}

fn join(path: &str, field: &str) -> String {
    match (path, field) {
        ("", field) => field.to_owned(),
        (path, "") => path.to_owned(),
        (path, field) => format!("{path}.{field}"),
    }
}

/// The parts of a document that can be read.
struct Readable {
    head: WorkflowDocument,
    steps: Vec<(usize, WorkflowStep)>,
}

fn readable(source: &Value, rows: &[Value], wrong: &[FieldError]) -> Readable {
    let mut head = source.clone();
    if let Value::Object(fields) = &mut head {
        fields.insert("steps".to_owned(), Value::Array(Vec::new()));
    }
    let head = WorkflowDocument::deserialize(&head).unwrap_or_else(|_| WorkflowDocument {
        name: String::new(),
        version: mesh_messages::workflow::DocumentVersion::default(),
        description: None,
        steps: Vec::new(),
        output: None,
    });
    let steps = rows
        .iter()
        .enumerate()
        .filter_map(|(index, row)| Some((index, step_of(index, row, wrong)?)));
    Readable {
        head,
        steps: steps.collect(),
    }
}

/// A step, without those of its fields that are wrong; nothing when what it is cannot be told then.
fn step_of(index: usize, row: &Value, wrong: &[FieldError]) -> Option<WorkflowStep> {
    const FORMS: [&str; 7] = [
        "id",
        "requirements",
        "type",
        "service",
        "workflow",
        "team",
        "approval",
    ];
    if let Ok(step) = WorkflowStep::deserialize(row) {
        return Some(step);
    }
    let own = format!("steps[{index}].");
    let mut rest = row.clone();
    let fields = rest.as_object_mut()?;
    for error in wrong {
        let Some(below) = error.path.strip_prefix(&own) else {
            continue;
        };
        let field = below.split(['.', '[']).next().unwrap_or_default();
        if FORMS.contains(&field) {
            return None;
        }
        fields.remove(field);
    }
    WorkflowStep::deserialize(&rest).ok()
}

/// The plan of what can be read; a step that cannot be read is there, but is nothing.
fn plan_of(document: &Readable, ids: &[&str], errors: &mut Vec<FieldError>) -> Plan {
    let mut whole = document.head.clone();
    let mut read = document.steps.iter().peekable();
    let mut steps = Vec::with_capacity(ids.len());
    let count = document
        .steps
        .last()
        .map_or(0, |(index, _)| index + 1)
        .max(ids.len());
    let known: BTreeSet<&str> = document
        .steps
        .iter()
        .map(|(_, step)| step.id.as_str())
        .collect();
    let mut unread = ids.iter().filter(|id| !known.contains(**id));
    for index in 0..count {
        match read.next_if(|(at, _)| *at == index) {
            Some((_, step)) => steps.push(step.clone()),
            None => steps.push(WorkflowStep {
                id: unread.next().map(|id| (*id).to_owned()).unwrap_or_default(),
                ..WorkflowStep::default()
            }),
        }
    }
    whole.steps = steps;
    let plan = Plan::make(Arc::new(whole), errors);
    cycles(&plan, errors);
    plan
}

/// Names: of the document, and of its steps.
fn names(source: &Value, rows: &[Value], errors: &mut Vec<FieldError>) {
    if source.get("steps").is_some() && rows.is_empty() {
        errors.push(FieldError::new("steps", "a workflow has at least one step"));
    }
    if let Some(name) = source.get("name").and_then(Value::as_str)
        && (name.is_empty() || name.len() > 128 || name.chars().any(char::is_control))
    {
        errors.push(FieldError::new(
            "name",
            "must have 1 to 128 bytes, all of them visible",
        ));
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let Some(id) = row.get("id").and_then(Value::as_str) else {
            continue;
        };
        let path = format!("steps[{index}].id");
        let ok = !id.is_empty()
            && id.len() <= STEP_ID_MAX
            && id.as_bytes()[0].is_ascii_alphanumeric()
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !ok {
            let message = format!(
                "must be 1 to {STEP_ID_MAX} characters out of A-Z a-z 0-9 - _ ., starting with a letter or digit"
            );
            errors.push(FieldError::new(path.clone(), message));
        }
        if let Some(first) = seen.insert(id, index) {
            errors.push(FieldError::new(
                path,
                format!("\"{id}\" is the id of steps[{first}], too"),
            ));
        }
    }
}

/// What one step says, apart from its expressions.
fn parts(step: &WorkflowStep, at: &str, around: Surroundings<'_>, errors: &mut Vec<FieldError>) {
    let mut add = |field: &str, message: String| {
        errors.push(FieldError::new(join(at, field), message));
    };
    let task = !step.requirements.is_empty() || step.kind.is_some();
    let forms = [
        task,
        step.service.is_some(),
        step.workflow.is_some(),
        step.team.is_some(),
        step.approval.is_some(),
    ];
    match forms.iter().filter(|form| **form).count() {
        0 => add(
            "",
            "is nothing: give it requirements, a service, a workflow, a team or an approval"
                .to_owned(),
        ),
        1 => {}
        _ => add(
            "",
            "is several things: requirements, service, workflow, team and approval exclude each other"
                .to_owned(),
        ),
    }
    let for_tasks = [
        ("agent", step.agent.is_some()),
        ("prefer", step.prefer.is_some()),
        ("retry", step.retry.is_some()),
        ("contract", step.contract.is_some()),
        ("escalate", step.escalate.is_some()),
        ("claims", !step.claims.is_empty()),
        ("trust", step.trust.is_some()),
    ];
    for (field, there) in for_tasks {
        if there && !task {
            add(field, "belongs to a task; this step is none".to_owned());
        }
    }
    if matches!(step.approval, Some(Approval::Asked(false))) {
        add(
            "approval",
            "must be true, a question, or left out".to_owned(),
        );
    }
    if step.for_each.is_some() && step.repeat.is_some() {
        let message =
            "forEach and repeat exclude each other; put one of them into a workflow of its own";
        add("repeat", message.to_owned());
    }
    if step.after.len() > AFTER_MAX {
        let count = step.after.len();
        let message = format!("has {count} entries; at most {AFTER_MAX} are accepted");
        add("after", message);
    }
    if let Some(Value::Array(items)) = &step.for_each
        && items.len() > ITEMS_MAX
    {
        let count = items.len();
        add(
            "forEach",
            format!("has {count} items; at most {ITEMS_MAX} are accepted"),
        );
    }
    if let Some(repeat) = &step.repeat
        && (repeat.max == 0 || repeat.max > ROUNDS_MAX)
    {
        add("repeat.max", format!("must be from 1 to {ROUNDS_MAX}"));
    }
    if task {
        let spec = TaskSpec {
            kind: step.kind.clone(),
            requirements: step.requirements.clone(),
            agent: step.agent.clone(),
            prefer: step.prefer.clone(),
            timeout_ms: step.timeout_ms,
            retry: step.retry.clone(),
            contract: step.contract.clone(),
            escalate: step.escalate.clone(),
            claims: step.claims.clone(),
            trust: step.trust,
            ..TaskSpec::default()
        };
        task_parts(&spec, at, around, errors);
    }
    if let Some(service) = &step.service {
        service_parts(service, &join(at, "service"), around, errors);
    }
    if let Some(order) = &step.team {
        team_parts(order, &join(at, "team"), around, errors);
    }
    if let Some(approval) = &step.approval {
        let spec = TaskSpec {
            approval: Some(approval.spec()),
            ..TaskSpec::default()
        };
        task_parts(&spec, at, around, errors);
    }
    if let Some(undo) = &step.compensate {
        undo_parts(undo, &join(at, "compensate"), around, errors);
    }
}

/// A team: what is wrong with its order, and whom it misses.
fn team_parts(order: &TeamOrder, at: &str, around: Surroundings<'_>, errors: &mut Vec<FieldError>) {
    let goal = order.goal.as_deref().unwrap_or_default();
    let wrong = match around.fleet {
        Some(fleet) => team::draft(order, goal, fleet).err().unwrap_or_default(),
        None => team::misfits(order),
    };
    let wrong = wrong.into_iter();
    errors.extend(wrong.map(|e| FieldError::new(join(at, &e.path), e.message)));
}

fn undo_parts(
    undo: &Compensation,
    at: &str,
    around: Surroundings<'_>,
    errors: &mut Vec<FieldError>,
) {
    let task = !undo.requirements.is_empty() || undo.kind.is_some();
    if task == undo.service.is_some() {
        let message = "must be one thing: a task (requirements or type) or a service";
        errors.push(FieldError::new(at, message));
    }
    if task {
        let spec = TaskSpec {
            kind: undo.kind.clone(),
            requirements: undo.requirements.clone(),
            timeout_ms: undo.timeout_ms,
            claims: undo.claims.clone(),
            trust: undo.trust,
            ..TaskSpec::default()
        };
        task_parts(&spec, at, around, errors);
    }
    if let Some(service) = &undo.service {
        if !undo.claims.is_empty() {
            let message = "only a task claims anything";
            errors.push(FieldError::new(join(at, "claims"), message));
        }
        if undo.trust.is_some() {
            let message = "belongs to a task; a service has earned none";
            errors.push(FieldError::new(join(at, "trust"), message));
        }
        service_parts(service, &join(at, "service"), around, errors);
    }
}

fn service_parts(
    service: &Service,
    at: &str,
    around: Surroundings<'_>,
    errors: &mut Vec<FieldError>,
) {
    let call = match service.target() {
        ServiceTarget::Plain(call) => call,
        ServiceTarget::Registered(call) => {
            let known = around.services.map_or(Ok(()), |services| services(&call));
            let known = match ServiceId::new(call.id.as_str()) {
                Ok(_) => known,
                Err(_) => Err(
                    "must be an http:// or https:// address, or the id of a registered service"
                        .to_owned(),
                ),
            };
            errors.extend(known.err().map(|why| FieldError::new(at, why)));
            return;
        }
    };
    let mut add = |field: &str, message: &str| {
        errors.push(FieldError::new(join(at, field), message));
    };
    let host = call
        .url
        .strip_prefix("http://")
        .or_else(|| call.url.strip_prefix("https://"))
        .map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let visible = call.url.bytes().all(|b| b.is_ascii_graphic());
    match host {
        None => add("", "must be an http:// or https:// address"),
        Some(host)
            if host.is_empty() || host.contains('@') || !visible || call.url.contains("${") =>
        {
            add(
                "",
                "must be a plain address with a host, without a user and without expressions",
            );
        }
        Some(_) => {}
    }
    if call.headers.len() > SERVICE_HEADERS_MAX {
        add("headers", "has too many entries");
    }
    for (name, value) in &call.headers {
        let token =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let own = [
            "host",
            "content-length",
            "transfer-encoding",
            "idempotency-key",
            "content-type",
        ];
        if !token || own.contains(&name.to_ascii_lowercase().as_str()) {
            add("headers", "names a header that cannot be set");
        } else if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            add("headers", "has a value that is not plain ASCII");
        }
    }
}

/// A workflow in a step: a name is written out, a document is looked at.
fn inner(
    workflow: &mut SubWorkflow,
    at: &str,
    around: Surroundings<'_>,
    depth: usize,
    errors: &mut Vec<FieldError>,
) {
    let path = join(at, "workflow");
    if depth + 1 >= NESTING_MAX {
        let message = format!("workflows may be nested {NESTING_MAX} deep at most");
        errors.push(FieldError::new(path, message));
        *workflow = SubWorkflow::Named(String::new());
        return;
    }
    let source = match workflow {
        SubWorkflow::Named(name) => {
            let Some(document) = (around.named)(name) else {
                let message = format!(
                    "unknown workflow \"{name}\": none of this name has run here; write it out"
                );
                errors.push(FieldError::new(path, message));
                return;
            };
            let value = serde_json::to_value(&*document);
            *workflow = SubWorkflow::Inline(Box::new((*document).clone()));
            value
        }
        SubWorkflow::Inline(document) => serde_json::to_value(&**document),
    };
    let source = source.expect("a document has string keys only");
    if let Some(plan) = look(&source, around, depth + 1, &path, errors) {
        *workflow = SubWorkflow::Inline(Box::new((*plan.document).clone()));
    } else {
        // Its errors are told; the plan around it need not tell them again.
        *workflow = SubWorkflow::Named(String::new());
    }
}

/// Names every cycle, one step of which is taken out before the next is looked for.
fn cycles(plan: &Plan, errors: &mut Vec<FieldError>) {
    let mut left: BTreeSet<usize> = (0..plan.steps.len()).collect();
    loop {
        // What waits for nothing that is left can run, and is no part of a cycle.
        loop {
            let free =
                |index: &usize| !plan.steps[*index].deps.iter().any(|dep| left.contains(dep));
            let ready: Vec<usize> = left.iter().copied().filter(free).collect();
            if ready.is_empty() {
                break;
            }
            for index in ready {
                left.remove(&index);
            }
        }
        let Some(start) = left.first().copied() else {
            return;
        };
        let mut way = vec![start];
        let mut at = start;
        let cycle = loop {
            let next = plan.steps[at]
                .deps
                .iter()
                .copied()
                .find(|dep| left.contains(dep));
            let Some(next) = next else { break Vec::new() };
            if let Some(from) = way.iter().position(|seen| *seen == next) {
                break way.split_off(from);
            }
            way.push(next);
            at = next;
        };
        let Some(first) = cycle.first().copied() else {
            return;
        };
        let mut names: Vec<&str> = cycle
            .iter()
            .map(|index| plan.steps[*index].id.as_str())
            .collect();
        names.reverse();
        let last = names[0];
        let text = format!("cycle: {} → {last}", names.join(" → "));
        errors.push(FieldError::new(format!("steps[{first}].after"), text));
        left.remove(&first);
    }
}

/// The JSON Schema (draft 2020-12) of documents.
pub fn document_schema() -> &'static Value {
    CHECKER.schema()
}
