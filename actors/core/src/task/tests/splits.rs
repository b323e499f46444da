//! Tasks that are split by order.

use mesh_messages::split::SplitPart;
use mesh_messages::team::TeamEnd;

use super::*;

fn parts(of: Value) -> Vec<SplitPart> {
    serde_json::from_value(of).unwrap()
}

fn split(task: &TaskId, of: Value) -> Command {
    Command::Split {
        task: task.clone(),
        by: "ann".to_owned(),
        parts: parts(of),
    }
}

/// Two that have to succeed before a third.
fn three() -> Value {
    json!([
        {"name": "read", "after": ["fetch", "ask"], "task": {"type": "x", "input": 3}},
        {"name": "fetch", "task": {"type": "x", "input": 1}},
        {"name": "ask", "task": {"type": "x", "input": 2}},
    ])
}

fn of(world: &World, id: &TaskId) -> BTreeMap<String, TaskId> {
    let team = world.tasks.get(id).unwrap().teamwork.clone().unwrap();
    let parts = team.parts.into_iter();
    parts.map(|part| (part.name, part.task)).collect()
}

#[test]
fn a_task_ends_with_what_it_was_split_into_and_each_part_comes_after_those_it_needs() {
    let mut world = World::new();
    let id = world.submit(json!({"type": "nobody-can"}));
    world.run(split(&id, three()));
    world.waits(&id, TaskState::Blocked, WaitReason::Team);
    let parts = of(&world, &id);
    assert_eq!(
        world.tasks.get(&parts["read"]).unwrap().spec.parent,
        Some(id.clone())
    );
    world.agent("a", &["x"], &[4]);
    world.waits(&parts["read"], TaskState::Blocked, WaitReason::Dependency);
    world.end(&parts["fetch"], Ok(json!("f")));
    world.end(&parts["ask"], Ok(json!("q")));
    assert_eq!(world.state(&id), TaskState::Blocked);
    // What was split stays split, although there is somebody now who could do it alone.
    world.agent("b", &["nobody-can"], &[1]);
    world.waits(&id, TaskState::Blocked, WaitReason::Team);
    world.end(&parts["read"], Ok(json!("r")));
    let task = world.tasks.get(&id).unwrap();
    assert_eq!(task.state, TaskState::Succeeded);
    assert_eq!(
        task.output,
        Some(json!({"fetch": "f", "ask": "q", "read": "r"}))
    );
    assert_eq!(task.teamwork.as_ref().unwrap().end, Some(TeamEnd::Done));
}

#[test]
fn the_first_part_that_fails_for_good_ends_all_and_another_round_is_whole_again() {
    let mut world = World::new();
    let id = world.submit(json!({"type": "nobody-can"}));
    world.agent("a", &["x"], &[4]);
    world.run(split(&id, three()));
    let parts = of(&world, &id);
    world.fail(&parts["ask"], FailureClass::Refusal);
    let task = world.tasks.get(&id).unwrap();
    assert!(task.state.is_terminal());
    assert!(
        task.error
            .as_ref()
            .unwrap()
            .message
            .starts_with("ask of its parts"),
        "{task:?}"
    );
    assert_eq!(world.state(&parts["fetch"]), TaskState::Cancelled);
    assert_eq!(world.state(&parts["read"]), TaskState::Cancelled);
    world.run(Command::Retry { task: id.clone() });
    world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
    world.run(split(&id, json!([{"name": "ask", "task": {"type": "x"}}])));
    let again = of(&world, &id);
    assert_ne!(again["ask"], parts["ask"]);
    world.succeed(&again["ask"]);
    assert_eq!(world.state(&id), TaskState::Succeeded);
}

#[test]
fn what_cannot_be_split_is_told_and_stays_as_it_is() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let at_work = world.submit(json!({"type": "x"}));
    let asks = world.submit(json!({"type": "q", "approval": {"message": "may it?"}}));
    let claims = world.submit(json!({"type": "y", "claims": [{"resource": "r"}]}));
    for id in [&at_work, &asks, &claims] {
        let before = world.tasks.get(id).cloned();
        let refusal = world.refused(split(id, three()));
        assert!(
            matches!(refusal, Refusal::NotSplittable { .. }),
            "{refusal:?}"
        );
        assert_eq!(world.tasks.get(id).cloned(), before);
    }
    let id = world.submit(json!({"type": "y"}));
    for (of, path) in [
        (json!([]), "parts"),
        (
            json!([{"name": "a b", "task": {"type": "x"}}]),
            "parts[0].name",
        ),
        (
            json!([{"name": "a", "task": {"type": "x"}}, {"name": "a", "task": {"type": "x"}}]),
            "parts[1].name",
        ),
        (
            json!([{"name": "a", "after": ["b"], "task": {"type": "x"}}]),
            "parts[0].after[0]",
        ),
        (
            json!([{"name": "a", "after": ["b"], "task": {"type": "x"}},
                   {"name": "b", "after": ["a"], "task": {"type": "x"}}]),
            "parts",
        ),
        (
            json!([{"name": "b", "after": ["a"], "task": {"type": "x", "timeoutMs": 0}},
                   {"name": "a", "task": {"type": "x"}}]),
            "parts[0].task.timeoutMs",
        ),
        (json!([{"name": "a", "task": {}}]), "parts[0].task"),
        (
            json!([{"name": "a", "task": {"type": "x", "labels": {"step": "s"}}}]),
            "parts[0].task.labels.step",
        ),
    ] {
        match world.refused(split(&id, of.clone())) {
            Refusal::Invalid { errors } => {
                assert!(errors[0].path.starts_with(path), "{of}: {errors:?}");
            }
            other => panic!("{of}: {other:?}"),
        }
    }
    world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
}
