//! What the units of a step are made of: what each gets, and what has to be done for it.

use std::collections::BTreeMap;

use mesh_messages::claim::{TaskClaim, not_a_resource};
use mesh_messages::task::{DEADLINE_DEFAULT_MS, TASK_DATA_MAX};
use mesh_messages::workflow::{ITEMS_MAX, UnitPlan};
use mesh_messages::{Failure, FailureClass};
use serde_json::{Value, json};

use super::decide::{Effect, effect_for, unit_task};
use super::drafting::Draft;
use super::expr::{Expression, Scope};
use super::plan::Work;
use super::state::Run;
use super::template::Template;
use crate::task::json_len;

/// Most bytes of what all units of one step get together.
pub const STEP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a step does not begin, or ends as it does.
pub(super) fn contract(message: impl Into<String>) -> Failure {
    Failure {
        retryable: false,
        ..Failure::new(FailureClass::Contract, message)
    }
}

pub(super) fn short(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

/// What an expression of a step sees.
pub(crate) fn scope<'a>(run: &'a Run, templates: &[&Template]) -> Scope<'a> {
    let mut expressions: Vec<&Expression> = Vec::new();
    for template in templates {
        template.expressions(&mut expressions);
    }
    let mut steps = BTreeMap::new();
    for expression in expressions {
        for id in expression.steps() {
            if let Some((id, number)) = run.plan.by_id.get_key_value(id) {
                steps.entry(id.as_str()).or_insert_with(|| {
                    let (step, plan) = (&run.steps[*number], &run.plan.steps[*number]);
                    json!({
                        "output": step.output(plan.each.is_some()),
                        "state": step.state,
                        "error": step.error,
                    })
                });
            }
        }
    }
    Scope::new(&run.input, steps)
}

/// The units of a round, with what they get written out.
pub(super) fn units(run: &Run, number: usize, round: u32) -> Result<Vec<UnitPlan>, Failure> {
    let plan = &run.plan.steps[number];
    let items = match &plan.each {
        None => vec![None],
        Some(each) => match each.write(&scope(run, &[each])) {
            Ok(Value::Array(items)) if items.len() > ITEMS_MAX => {
                let count = items.len();
                let message = format!("forEach: {count} items; at most {ITEMS_MAX} are accepted");
                return Err(contract(message));
            }
            Ok(Value::Array(items)) => items.into_iter().map(Some).collect(),
            Ok(other) => {
                let message = format!("forEach: must be a list, not {}", short(&other));
                return Err(contract(message));
            }
            Err(error) => return Err(contract(format!("forEach: {error}"))),
        },
    };
    let named: Vec<&Template> = plan.claims.iter().chain([&plan.input]).collect();
    let mut base = scope(run, &named);
    base.round = Some(round);
    let mut bytes = 0;
    let mut units = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let mut scope = base.clone();
        scope.item = item.as_ref();
        scope.index = u32::try_from(index).ok();
        let input = plan.input.write(&scope);
        let input = input.map_err(|error| contract(format!("input: {error}")))?;
        let own = json_len(&input);
        bytes += own;
        if own > TASK_DATA_MAX || bytes > STEP_BYTES_MAX {
            let message = format!(
                "input: larger than {TASK_DATA_MAX} bytes, or than {STEP_BYTES_MAX} for all items together"
            );
            return Err(contract(message));
        }
        let is_run = matches!(plan.work, Work::Run(_) | Work::Team(_));
        let task = (!is_run).then(|| unit_task(&run.id, &plan.id, round, index, false));
        let claims = claims(plan.claims.as_ref(), &scope)?;
        units.push(UnitPlan {
            input,
            item,
            task,
            claims,
        });
    }
    Ok(units)
}

/// What the task of a unit claims, written out.
pub(crate) fn claims(
    template: Option<&Template>,
    scope: &Scope<'_>,
) -> Result<Vec<TaskClaim>, Failure> {
    let Some(template) = template else {
        return Ok(Vec::new());
    };
    let wrong = |why: String| contract(format!("claims: {why}"));
    let written = template.write(scope);
    let written = written.map_err(|error| wrong(error.to_string()))?;
    let claims: Vec<TaskClaim> =
        serde_json::from_value(written).map_err(|error| wrong(error.to_string()))?;
    for (nth, claim) in claims.iter().enumerate() {
        if let Some(why) = not_a_resource(&claim.resource) {
            return Err(wrong(format!("[{nth}].resource: {why}")));
        }
        let mut earlier = claims[..nth].iter();
        if earlier.any(|one| one.resource == claim.resource) {
            return Err(wrong(format!("[{nth}].resource: is there twice")));
        }
    }
    Ok(claims)
}

/// What a unit, or its compensation, is as an effect; nothing for runs, and for teams that are drafted.
pub(crate) fn effect_of(run: &Run, number: usize, index: usize, undo: bool) -> Option<Effect> {
    let plan = &run.plan.steps[number];
    let unit = run.steps[number].units.get(index)?;
    let labels = [("workflow", run.id.as_str()), ("step", plan.id.as_str())];
    if undo {
        let (undo, under_way) = (plan.undo.as_ref()?, unit.undo.as_ref()?);
        let (task, input) = (under_way.task.clone(), under_way.input.clone());
        let mut effect = effect_for(&undo.work, task, &run.by, input, labels, undo.timeout_ms);
        if let Some(Effect::Submit(job)) = &mut effect {
            job.spec.claims.clone_from(&under_way.claims);
        }
        return effect;
    }
    if matches!(plan.work, Work::Team(_)) && unit.outcome.is_none() {
        let draft = Draft::of(run, number, index);
        return (!run.children.contains(&(number, index))).then(|| Effect::Draft(Box::new(draft)));
    }
    let task = unit.task.clone()?;
    let mut effect = effect_for(
        &plan.work,
        task,
        &run.by,
        unit.input.clone(),
        labels,
        plan.timeout_ms,
    );
    if let Some(Effect::Submit(job)) = &mut effect {
        // The step's own time may be longer than tasks have by themselves.
        job.spec.deadline_ms = plan.timeout_ms.filter(|ms| *ms > DEADLINE_DEFAULT_MS);
        job.spec.claims.clone_from(&unit.claims);
    }
    effect
}
