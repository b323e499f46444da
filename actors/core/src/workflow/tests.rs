//! Runs of documents, decided and replayed: some by hand, most at random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::task::TaskState;
use mesh_messages::workflow::{StepState, UnitOutcome, WorkflowDocument};
use mesh_messages::{Failure, FailureClass, TaskId, Timestamp, WorkflowRunId};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn nobody(_: &str) -> Option<Arc<WorkflowDocument>> {
    None
}

fn plan(source: &Value) -> Result<Plan, Vec<String>> {
    let around = Surroundings {
        services: None,
        fleet: None,
        named: &nobody,
        offered: None,
        registered: None,
    };
    check(source, around).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// A machine, its replay, and the tasks that somebody else has in hand.
struct World {
    state: Workflows,
    replayed: Workflows,
    now: Timestamp,
    open: BTreeSet<TaskId>,
    to_cancel: BTreeSet<TaskId>,
    events: Vec<WorkflowEvent>,
    ended: Vec<WorkflowRunId>,
    submitted: BTreeMap<TaskId, usize>,
    drafts: Vec<Draft>,
}

impl World {
    fn new() -> Self {
        Self {
            state: Workflows::default(),
            replayed: Workflows::default(),
            now: Timestamp::from_millis(1000),
            open: BTreeSet::new(),
            to_cancel: BTreeSet::new(),
            events: Vec::new(),
            ended: Vec::new(),
            submitted: BTreeMap::new(),
            drafts: Vec::new(),
        }
    }

    fn start(&mut self, source: &Value, input: Value) -> WorkflowRunId {
        let id =
            WorkflowRunId::new(format!("run{}", self.ended.len() + self.events.len())).unwrap();
        let new = NewRun {
            id: id.clone(),
            plan: Arc::new(plan(source).unwrap()),
            input,
            by: "ann".to_owned(),
            key: None,
            request: String::new(),
            scheduled: None,
        };
        self.run(Command::Start(Box::new(new)));
        id
    }

    #[track_caller]
    fn run(&mut self, command: Command) {
        let mut next = Some(command);
        while let Some(command) = next.take() {
            let decision = self.state.decide(command, self.now).unwrap();
            for event in &decision.events {
                self.replayed.apply(event);
            }
            assert_eq!(
                self.replayed, self.state,
                "replay must lead to the same state"
            );
            self.events.extend(decision.events);
            for effect in decision.effects {
                match effect {
                    Effect::Submit(job) => {
                        *self.submitted.entry(job.task.clone()).or_default() += 1;
                        self.open.insert(job.task);
                    }
                    Effect::Call(call) => {
                        self.open.insert(call.task);
                    }
                    Effect::Cancel { task, .. } => {
                        self.to_cancel.insert(task);
                    }
                    Effect::Draft(draft) => self.drafts.push(*draft),
                    Effect::RunEnded(run) => self.ended.push(run),
                }
            }
            next = decision.more.then_some(Command::Tick);
        }
    }

    fn end(&mut self, task: &TaskId, outcome: UnitOutcome) {
        self.open.remove(task);
        self.to_cancel.remove(task);
        let task = task.clone();
        self.run(Command::Ended { task, outcome });
    }

    /// As after a kill: the state from its snapshot, what is open from the state.
    fn restart(&mut self) {
        let text = serde_json::to_string(&self.state).unwrap();
        let back: Workflows = serde_json::from_str(&text).unwrap();
        assert_eq!(back, self.state);
        self.state = back;
        let mut drafts = Vec::new();
        let named: BTreeSet<TaskId> = self
            .state
            .open_work()
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Submit(job) => Some(job.task),
                Effect::Call(call) => Some(call.task),
                Effect::Cancel { task, .. } => Some(task),
                Effect::Draft(draft) => {
                    drafts.push(*draft);
                    None
                }
                Effect::RunEnded(run) => panic!("{run} has ended"),
            })
            .collect();
        assert_eq!(named, self.open, "a restart asks for exactly what is open");
        self.drafts = drafts;
        self.state.look_again();
        self.run(Command::Tick);
    }

    fn view(&self, id: &WorkflowRunId) -> mesh_messages::workflow::WorkflowRun {
        self.state.view(self.state.run(id).unwrap())
    }
}

fn good(output: Value) -> UnitOutcome {
    UnitOutcome::Succeeded { output }
}

fn bad(state: StepState) -> UnitOutcome {
    UnitOutcome::Failed {
        state,
        error: Failure::new(FailureClass::Refusal, "no"),
    }
}

#[test]
fn a_step_waits_for_what_its_expressions_name() {
    let mut world = World::new();
    let document = json!({"steps": [
        {"id": "second", "requirements": ["x"], "input": "${steps.first.output + 1}"},
        {"id": "first", "requirements": ["x"]},
    ]});
    let id = world.start(&document, Value::Null);
    assert_eq!(world.open.len(), 1);
    let first = world.open.first().cloned().unwrap();
    world.end(&first, good(json!(4)));
    let second = world.open.first().cloned().unwrap();
    world.end(&second, good(json!("done")));
    assert_eq!(world.view(&id).output, Some(json!({"second": "done"})));
    assert_eq!(world.ended, [id]);
}

#[test]
fn what_a_loop_made_is_taken_back_as_of_the_round_that_made_it() {
    let mut world = World::new();
    let undo =
        json!({"requirements": ["x"], "input": {"made": "${steps.a.output}", "in": "${round}"}});
    let document = json!({"steps": [
        {"id": "a", "requirements": ["x"], "repeat": {"max": 3}, "onError": "compensate", "compensate": undo},
    ]});
    world.start(&document, Value::Null);
    let outcomes = [good(json!("p")), good(json!("q")), bad(StepState::Failed)];
    for outcome in outcomes {
        let task = world.open.first().cloned().unwrap();
        world.end(&task, outcome);
    }
    let mut inputs = world.events.iter().filter_map(|event| match event {
        WorkflowEvent::Compensating { input, .. } => Some(input.clone()),
        _ => None,
    });
    assert_eq!(inputs.next(), Some(json!({"made": "q", "in": 2})));
}

#[test]
fn types_that_steps_are_known_to_have_are_minded() {
    let schema = |kind: &str| json!({"outputSchema": {"type": kind}});
    let around = |step: Value| {
        plan(&json!({"steps": [
            {"id": "each", "requirements": ["x"], "forEach": [1, 2]},
            {"id": "person", "approval": true},
            {"id": "yes", "requirements": ["x"], "contract": schema("boolean")},
            {"id": "many", "requirements": ["x"], "contract": schema("array")},
            {"id": "any", "requirements": ["x"]},
            step,
        ]}))
    };
    let step = |field: &str, value: Value| {
        let mut step = json!({"id": "z", "requirements": ["x"]});
        step[field] = value;
        step
    };
    for (field, value, what) in [
        (
            "input",
            json!("${foo(input.a)}"),
            "unknown function \"foo\"",
        ),
        (
            "input",
            json!("${input.a.matches('x')}"),
            "unknown function",
        ),
        ("input", json!("${input.a.split(',')}"), "unknown function"),
        (
            "input",
            json!("${size(input.a, 1)}"),
            "size takes 1 value, not 2",
        ),
        (
            "input",
            json!("${input.a.contains()}"),
            "contains takes 2 values, not 1",
        ),
        ("input", json!("${steps.any.outptu}"), "and no outptu"),
        ("input", json!("${steps.any['outptu']}"), "and no outptu"),
        ("input", json!("${steps.any.state + 1}"), "type mismatch"),
        ("when", json!("${steps.any.state}"), "type mismatch"),
        ("forEach", json!("${steps.any.state}"), "type mismatch"),
        ("when", json!("${steps.each.output}"), "type mismatch"),
        ("forEach", json!("${steps.person.output}"), "type mismatch"),
        ("forEach", json!("${steps.yes.output}"), "type mismatch"),
        ("when", json!("${steps.many.output}"), "type mismatch"),
        (
            "repeat",
            json!({"max": 2, "until": "${round}"}),
            "type mismatch",
        ),
    ] {
        let Err(errors) = around(step(field, value.clone())) else {
            panic!("{field}: {value} was accepted");
        };
        assert!(
            errors.iter().any(|error| error.contains(what)),
            "{value}: {errors:?}"
        );
        assert!(
            errors.iter().all(|error| error.starts_with("steps[5].")),
            "{errors:?}"
        );
    }
    for (field, value) in [
        (
            "when",
            json!("${steps.any.state == 'succeeded' && size(steps.each.output) > 1}"),
        ),
        ("when", json!("${steps.yes.output}")),
        ("when", json!("${steps.any.output}")),
        ("when", json!("${has(steps.person.output.by)}")),
        ("when", json!("${steps.any.error == null}")),
        ("forEach", json!("${steps.many.output}")),
        (
            "forEach",
            json!("${steps.each.output.filter(i, i.startsWith('a')).map(round, round.size())}"),
        ),
        (
            "forEach",
            json!("${steps.any.output == null ? [] : steps.any.output}"),
        ),
        (
            "repeat",
            json!({"max": 2, "until": "${round > 1 && steps.z.output.exists_one(x, x == 1)}"}),
        ),
        (
            "input",
            json!("${[int('1'), double(input.a), string(input.a)]}"),
        ),
    ] {
        let made = around(step(field, value.clone()));
        assert!(made.is_ok(), "{field}: {value}: {made:?}");
    }
    // What takes an item back sees what that item made.
    let mut each = step("forEach", json!([1]));
    each["compensate"] = json!({"requirements": ["x"], "input": "${steps.z.output + 1}"});
    assert!(around(each).is_ok());
}

#[test]
fn types_of_fields_that_a_schema_names_are_minded() {
    let around = |field: &str, value: &Value| {
        let mut step = json!({"id": "z", "requirements": ["x"]});
        step[field] = value.clone();
        let schema = json!({"type": "object", "additionalProperties": false, "properties": {
            "n": {"type": "string"}, "inner": {"properties": {"list": {"type": "array"}}}}});
        plan(&json!({"steps": [
            {"id": "row", "requirements": ["x"], "contract": {"outputSchema": schema}},
            step,
        ]}))
    };
    for (field, value, what) in [
        (
            "forEach",
            json!("${steps.row.output.n}"),
            "must be a list, not a string",
        ),
        (
            "when",
            json!("${steps.row.output.inner.list}"),
            "must be a bool, not a list",
        ),
        (
            "input",
            json!("${steps.row.output['n'] + 1}"),
            "type mismatch",
        ),
        ("input", json!("${steps.row.output.m}"), "no field \"m\""),
        (
            "when",
            json!("${size(steps.row['output'].m.deep) > 1}"),
            "no field \"m\"",
        ),
    ] {
        let Err(errors) = around(field, &value) else {
            panic!("{field}: {value} was accepted");
        };
        assert!(
            errors
                .iter()
                .any(|error| error.starts_with("steps[1].") && error.contains(what)),
            "{value}: {errors:?}"
        );
    }
    for (field, value) in [
        ("when", json!("${has(steps.row.output.m)}")),
        ("forEach", json!("${steps.row.output.inner.list}")),
        ("when", json!("${steps.row.output.inner.other}")),
        ("when", json!("${steps.row.output.n == 'yes'}")),
    ] {
        let made = around(field, &value);
        assert!(made.is_ok(), "{value}: {:?}", made.err());
    }
}

#[test]
fn a_loop_that_fails_in_a_later_round_made_nothing() {
    let mut world = World::new();
    let document = json!({"steps": [
        {"id": "a", "requirements": ["x"], "repeat": {"max": 3}, "onError": "continue"},
        {"id": "b", "requirements": ["x"], "input": "${steps.a.output}"},
    ]});
    let id = world.start(&document, Value::Null);
    let first = world.open.first().cloned().unwrap();
    world.end(&first, good(json!("of the first round")));
    let second = world.open.first().cloned().unwrap();
    world.end(&second, bad(StepState::Failed));
    let run = world.state.run(&id).unwrap();
    assert_eq!(run.steps[1].units[0].input, Value::Null);
}

#[test]
fn what_stands_for_a_dollar_does_so_in_lists_too_and_long_lists_are_refused() {
    let mut world = World::new();
    let document = json!({"steps": [
        {"id": "a", "requirements": ["x"], "input": ["$${x}", ["$${y}"], {"z": "$${z}"}]},
    ]});
    let id = world.start(&document, Value::Null);
    let run = world.state.run(&id).unwrap();
    assert_eq!(
        run.steps[0].units[0].input,
        json!(["${x}", ["${y}"], {"z": "${z}"}])
    );
    let items: Vec<u32> = (0..10_000).collect();
    let long = json!({"steps": [{"id": "a", "requirements": ["x"], "forEach": items}]});
    let errors = plan(&long).unwrap_err();
    assert_eq!(
        errors,
        ["steps[0].forEach: has 10000 items; at most 1000 are accepted"]
    );
}

#[test]
fn what_tasks_of_a_step_claim_is_written_out_for_each_item() {
    let mut world = World::new();
    let document = json!({"steps": [
        {"id": "a", "requirements": ["x"], "forEach": "${input}", "claims": [{"resource": "file:${item}"}, {"resource": "disk"}]},
    ]});
    let id = world.start(&document, json!(["p", "q"]));
    let run = world.state.run(&id).unwrap();
    let names = |index: usize| {
        let claims = run.steps[0].units[index].claims.iter();
        claims
            .map(|claim| claim.resource.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(0), names(1)),
        (
            vec!["file:p".to_owned(), "disk".to_owned()],
            vec!["file:q".to_owned(), "disk".to_owned()],
        )
    );
    world.restart();
    // What is no name of a resource fails the step.
    for item in [json!("\n"), json!("x".repeat(300))] {
        let id = world.start(&document, json!([item]));
        let error = world.view(&id).error.unwrap();
        assert!(error.message.contains("claims: [0].resource"), "{error:?}");
    }
    let wrong = json!({"steps": [
        {"id": "a", "approval": true, "claims": [{"resource": "r"}]},
        {"id": "b", "requirements": ["x"], "claims": [{"resource": "${steps.nobody.output}"}, {"resource": ""}]},
    ]});
    let errors = plan(&wrong).unwrap_err();
    for path in [
        "steps[0].claims:",
        "steps[1].claims: unknown step",
        "steps[1].claims[1].resource",
    ] {
        assert!(
            errors.iter().any(|error| error.starts_with(path)),
            "{path} in {errors:#?}"
        );
    }
}

#[test]
fn a_step_whose_time_is_up_fails_once_its_task_has_ended() {
    let mut world = World::new();
    let document = json!({"steps": [{"id": "a", "requirements": ["x"], "timeoutMs": 50}]});
    let id = world.start(&document, Value::Null);
    world.now = world.now.plus(Duration::from_millis(49));
    world.run(Command::Tick);
    assert!(world.to_cancel.is_empty());
    world.now = world.now.plus(Duration::from_millis(1));
    world.run(Command::Tick);
    let task = world.to_cancel.first().cloned().unwrap();
    assert!(
        world.ended.is_empty(),
        "its task may have succeeded at the last moment"
    );
    world.end(&task, bad(StepState::Cancelled));
    let run = world.view(&id);
    assert_eq!(run.error.unwrap().class, FailureClass::Timeout);
    assert_eq!(run.steps[0].state, StepState::Failed);
}

#[test]
fn a_run_goes_on_by_the_document_it_began_with() {
    let mut world = World::new();
    let old = json!({"name": "w", "version": 1, "steps": [
        {"id": "a", "requirements": ["x"]}, {"id": "b", "requirements": ["x"], "after": ["a"]}]});
    let new = json!({"name": "w", "version": 2, "steps": [{"id": "a", "requirements": ["y"]}]});
    let first = world.start(&old, Value::Null);
    world.start(&new, Value::Null);
    assert_eq!(world.state.named("w").unwrap().version.0, "2");
    world.restart();
    assert_eq!(world.view(&first).version, "1");
    assert_eq!(world.view(&first).steps.len(), 2);
}

#[test]
fn everything_wrong_is_told_with_its_path() {
    let cases = [
        (
            json!({"steps": []}),
            "steps: a workflow has at least one step",
        ),
        (json!({"name": "x"}), "steps: required, but missing"),
        (
            json!({"steps": [{"id": "a", "requirements": ["x"], "after": ["a"]}]}),
            "steps[0].after: cycle: a → a",
        ),
        (
            json!({"steps": [
                {"id": "a", "requirements": ["x"], "input": "${steps.b.output}"},
                {"id": "b", "requirements": ["x"], "input": {"v": "${steps.a.output}"}}]}),
            "steps[0].after: cycle: b → a → b",
        ),
        (
            json!({"steps": [{"id": "a", "requirements": ["x"], "input": {"deep": ["${item}"]}}]}),
            "steps[0].input: item is known under forEach only",
        ),
        (
            json!({"steps": [{"id": "a", "workflow": {"steps": [{"id": "b", "after": ["c"], "approval": true}]}}]}),
            "steps[0].workflow.steps[0].after[0]: unknown step \"c\"",
        ),
        (
            json!({"steps": [{"id": "a", "service": "ftp://example.com"}]}),
            "steps[0].service: must be an http:// or https:// address",
        ),
        (
            json!({"steps": [{"id": "a", "requirements": ["x"], "when": "${1 + 'a' == 2}"}]}),
            "steps[0].when: type mismatch: + does not take int and string",
        ),
        (
            json!({"steps": [{"id": "a", "workflow": "nobody"}]}),
            "steps[0].workflow: unknown workflow \"nobody\": none of this name has run here; write it out",
        ),
    ];
    for (document, expected) in cases {
        let errors = plan(&document).map(drop).unwrap_err();
        assert!(
            errors.iter().any(|error| error == expected),
            "{expected}: {errors:#?}"
        );
    }
}

#[test]
fn workflows_in_workflows_have_a_bottom() {
    let mut document = json!({"steps": [{"id": "a", "requirements": ["x"]}]});
    for _ in 0..3 {
        document = json!({"steps": [{"id": "a", "workflow": document}]});
        assert!(document.to_string().len() < 1000);
    }
    plan(&document).unwrap();
    let deeper = json!({"steps": [{"id": "a", "workflow": document}]});
    assert!(plan(&deeper).map(drop).unwrap_err()[0].contains("nested 4 deep"));
}

/// A step of a random document: which earlier steps it follows, and what it is.
#[derive(Debug, Clone)]
struct RandomStep {
    after: Vec<prop::sample::Index>,
    on_error: &'static str,
    shape: u8,
    undo: bool,
}

fn random_step() -> impl Strategy<Value = RandomStep> {
    (
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        prop::sample::select(vec!["fail", "continue", "compensate"]),
        0..8_u8,
        any::<bool>(),
    )
        .prop_map(|(after, on_error, shape, undo)| RandomStep {
            after,
            on_error,
            shape,
            undo,
        })
}

fn document_of(steps: &[RandomStep]) -> Value {
    let mut rows = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let mut row = json!({"id": format!("s{number}"), "onError": step.on_error});
        match step.shape {
            0 => row["approval"] = json!(true),
            1 => {
                row["workflow"] = json!({"steps": [
                    {"id": "x", "requirements": ["c"], "compensate": {"requirements": ["c"]}},
                    {"id": "y", "requirements": ["c"], "after": ["x"], "onError": step.on_error}]});
            }
            2 => {
                row["workflow"] = json!({"steps": [{"id": "x", "requirements": ["c"]}]});
                row["forEach"] = json!([1, 2]);
            }
            _ => row["requirements"] = json!(["c"]),
        }
        match step.shape {
            3 => row["forEach"] = json!("${input.items}"),
            4 => {
                row["repeat"] =
                    json!({"max": 3, "until": format!("${{steps.s{number}.output == 1}}")});
            }
            5 => row["when"] = json!("${input.yes}"),
            6 => row["when"] = json!("${!input.yes}"),
            _ => {}
        }
        if step.undo {
            row["compensate"] =
                json!({"requirements": ["c"], "input": format!("${{steps.s{number}.output}}")});
        }
        if number > 0 {
            let after: BTreeSet<String> = step
                .after
                .iter()
                .map(|index| format!("s{}", index.index(number)))
                .collect();
            row["after"] = json!(after);
        }
        rows.push(row);
    }
    json!({"name": "random", "steps": rows, "output": "done"})
}

/// No step begins before what it follows is over, and what is taken back is what succeeded, last first.
fn judge(world: &World, id: &WorkflowRunId, document: &Value) {
    let mut over: BTreeSet<String> = BTreeSet::new();
    let mut succeeded: Vec<(String, u32)> = Vec::new();
    let mut undone: Vec<(String, u32)> = Vec::new();
    let mut compensates = false;
    let row = |step: &str| {
        let number: usize = step[1..].parse().unwrap();
        &document["steps"][number]
    };
    for event in world.events.iter().filter(|event| event.run() == Some(id)) {
        match event {
            WorkflowEvent::StepStarted { step, .. } => {
                for before in row(step)["after"].as_array().into_iter().flatten() {
                    let before = before.as_str().unwrap();
                    assert!(
                        over.contains(before),
                        "{step} began before {before} was over"
                    );
                }
            }
            WorkflowEvent::StepEnded { step, .. } => {
                assert!(over.insert(step.clone()), "{step} ended twice");
            }
            WorkflowEvent::UnitEnded {
                step,
                index,
                outcome,
                ..
            } if outcome.output().is_some() => {
                let unit = (step.clone(), *index);
                succeeded.retain(|other| *other != unit);
                if row(step).get("compensate").is_some() {
                    succeeded.push(unit);
                }
            }
            WorkflowEvent::Ending { compensate, .. } => compensates = *compensate,
            WorkflowEvent::Compensating { step, index, .. } => undone.push((step.clone(), *index)),
            _ => {}
        }
    }
    if compensates {
        succeeded.reverse();
        assert_eq!(
            undone, succeeded,
            "exactly what succeeded is taken back, last first"
        );
    } else {
        assert!(undone.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_run_ends_whatever_happens_and_its_replay_is_the_same(
        steps in prop::collection::vec(random_step(), 1..9),
        choices in prop::collection::vec((any::<prop::sample::Index>(), 0..12_u8), 200),
        items in 0..4_usize,
        yes in any::<bool>(),
    ) {
        let document = document_of(&steps);
        let mut world = World::new();
        let id = world.start(&document, json!({"items": vec![0; items], "yes": yes}));
        let mut choices = choices.into_iter().cycle();
        for _ in 0..2000 {
            if world.open.is_empty() {
                break;
            }
            let (which, how) = choices.next().unwrap();
            if let Some(task) = world.to_cancel.first().cloned() {
                // Cancelled in time, or it ended a moment before.
                let outcome = if how < 2 { good(json!(1)) } else { bad(StepState::Cancelled) };
                world.end(&task, outcome);
                continue;
            }
            let open: Vec<TaskId> = world.open.iter().cloned().collect();
            let task = which.get(&open).clone();
            match how {
                0 => world.end(&task, bad(StepState::DeadLettered)),
                1 => world.restart(),
                2 => world.end(&task, good(json!(0))),
                3 => {
                    // Told twice, as after a restart.
                    world.end(&task, good(json!(1)));
                    let again = Command::Ended { task, outcome: bad(StepState::Failed) };
                    world.run(again);
                }
                _ => world.end(&task, good(json!(1))),
            }
        }
        prop_assert!(world.open.is_empty(), "something is open for ever");
        let run = world.view(&id);
        prop_assert!(run.state.is_terminal(), "{:?}", run);
        prop_assert!(run.steps.iter().all(|step| step.state.is_terminal()));
        prop_assert!(world.submitted.values().all(|times| *times == 1), "a task is asked for once");
        judge(&world, &id, &document);
        let mut ends = world.ended.clone();
        ends.sort();
        let count = ends.len();
        ends.dedup();
        prop_assert_eq!(ends.len(), count, "a run ends once");
        prop_assert_eq!(world.state.runs().filter(|run| run.ended.is_none()).count(), 0);
        prop_assert!(matches!(run.state, TaskState::Succeeded | TaskState::Failed));
        let applied = world.state.applied();
        world.state.evict(applied);
        prop_assert_eq!(world.state.runs().count(), 0);
    }
}

mod plans;
mod schedules;
mod teams;

#[test]
fn what_the_schema_refuses_is_told_once() {
    let step = |field: &str, value: Value| {
        let mut step = json!({"id": "a", "requirements": ["x"]});
        step[field] = value;
        json!({"steps": [step]})
    };
    let cases = [
        (step("timeoutMs", json!(0)), "steps[0].timeoutMs"),
        (step("timeoutMs", json!("1s")), "steps[0].timeoutMs"),
        (step("forEach", json!(5)), "steps[0].forEach"),
        (step("when", json!(5)), "steps[0].when"),
        (
            step("repeat", json!({"max": 0, "until": "${true}"})),
            "steps[0].repeat.max",
        ),
        (step("repeat", json!({"max": 0})), "steps[0].repeat.max"),
        (
            step("repeat", json!({"until": "${true}"})),
            "steps[0].repeat.max",
        ),
        (
            step("service", json!({"url": "http://x.test", "method": 5})),
            "steps[0].service.method",
        ),
        (
            step("compensate", json!({"requirements": ["y"], "timeoutMs": 0})),
            "steps[0].compensate.timeoutMs",
        ),
        (
            step("retry", json!({"maxRetries": -1})),
            "steps[0].retry.maxRetries",
        ),
        (step("outputSchema", json!(5)), "steps[0].outputSchema"),
        (step("id", json!(5)), "steps[0].id"),
        (step("approval", json!(5)), "steps[0].approval"),
        (
            json!({"steps": [{"id": "a", "workflow": {"steps": [
                {"id": "b", "requirements": ["x"], "timeoutMs": 0, "forEach": 5}]}}]}),
            "steps[0].workflow.steps[0].timeoutMs",
        ),
    ];
    for (document, path) in cases {
        let errors = plan(&document).map(drop).unwrap_err();
        let told: Vec<&str> = errors
            .iter()
            .filter_map(|error| Some(error.split_once(": ")?.0))
            .collect();
        let once: std::collections::BTreeSet<_> = told.iter().collect();
        assert_eq!(once.len(), told.len(), "{errors:#?}");
        assert!(told.contains(&path), "{path}: {errors:#?}");
    }
}

#[test]
fn a_version_is_a_text_or_a_whole_number() {
    let document =
        |version: Value| json!({"version": version, "steps": [{"id": "a", "requirements": ["x"]}]});
    for (version, text) in [
        (json!(2), "2"),
        (json!("1.10"), "1.10"),
        (json!(u64::MAX), "18446744073709551615"),
    ] {
        let plan = plan(&document(version)).unwrap();
        assert_eq!(plan.document().version.0, text);
    }
    // What a YAML reader makes of 1.10, 2.0 and a number beyond 64 bits.
    for version in [json!(1.1), json!(2.0), json!(1e30), json!(-0.5)] {
        let wrong = document(version);
        let inner = json!({"steps": [{"id": "b", "workflow": {"steps": [{"id": "c", "workflow": wrong}]}}]});
        for (document, path) in [
            (&wrong, "version: "),
            (&inner, "steps[0].workflow.steps[0].workflow.version: "),
        ] {
            let errors = plan(document).map(drop).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:#?}");
            assert!(errors[0].starts_with(path), "{errors:#?}");
            assert!(errors[0].ends_with("put it in quotes"), "{errors:#?}");
        }
    }
    let version = |value: Value| {
        serde_json::from_value::<mesh_messages::workflow::DocumentVersion>(value).unwrap()
    };
    assert_eq!(version(json!(1.1)).0, "1.1", "earlier logs are read");
}
