//! Tasks that agents give to agents.

use super::*;

fn asker(world: &World, parent: &TaskId, request: &str) -> Asker {
    let (attempt, key) = world.attempt(parent);
    Asker {
        parent: attempt,
        key,
        request: request.to_owned(),
    }
}

fn delegation(world: &World, parent: &TaskId, request: &str, spec: Value) -> Command {
    let spec = Box::new(serde_json::from_value(spec).unwrap());
    Command::Delegate {
        envelope: None,
        asker: asker(world, parent, request),
        spec,
    }
}

pub(super) fn delegate(world: &mut World, parent: &TaskId, request: &str, spec: Value) -> TaskId {
    let command = delegation(world, parent, request, spec);
    match world.run(command).answer {
        Answer::Child(id) => id,
        other => panic!("expected a child, got {other:?}"),
    }
}

fn answers(decision: &Decision) -> Vec<(&str, TaskState)> {
    let mut answers = Vec::new();
    for effect in &decision.effects {
        if let Effect::ChildEnded { asker, child } = effect {
            answers.push((asker.request.as_str(), child.state));
        }
    }
    answers
}

fn planner() -> (World, TaskId) {
    let mut world = World::new();
    world.agent("planner", &["plan"], &[1]);
    world.agent("worker", &["work"], &[2]);
    let parent = world.submit(json!({"type": "plan"}));
    (world, parent)
}

#[test]
fn the_outcome_of_a_child_reaches_the_attempt_that_asked() {
    let (mut world, parent) = planner();
    let child = delegate(&mut world, &parent, "r1", json!({"requirements": ["work"]}));
    let record = world.tasks.record(&child).unwrap();
    assert_eq!(
        (record.depth, record.task.submitted_by.as_str()),
        (1, "agent:planner")
    );
    let decision = world.succeed(&child);
    assert_eq!(answers(&decision), [("r1", TaskState::Succeeded)]);
}

#[test]
fn a_retried_parent_gets_the_first_child_again() {
    let (mut world, parent) = planner();
    let spec = json!({"requirements": ["work"]});
    let ended = delegate(&mut world, &parent, "r1", spec.clone());
    let running = delegate(&mut world, &parent, "r2", spec.clone());
    world.succeed(&ended);
    world.fail(&parent, FailureClass::Unavailable);
    assert_eq!(
        world.state(&running),
        TaskState::Assigned,
        "children survive a retry of their parent"
    );
    world.next();

    let command = delegation(&world, &parent, "r1", spec.clone());
    let decision = world.run(command);
    assert_eq!(decision.answer, Answer::Child(ended));
    assert_eq!(answers(&decision), [("r1", TaskState::Succeeded)]);
    assert_eq!(delegate(&mut world, &parent, "r2", spec.clone()), running);
    assert_eq!(
        answers(&world.succeed(&running)),
        [("r2", TaskState::Succeeded)]
    );
}

#[test]
fn an_ended_child_that_is_no_longer_held_is_answered_from_the_read_side() {
    let (mut world, parent) = planner();
    let spec = json!({"requirements": ["work"]});
    let child = delegate(&mut world, &parent, "r1", spec.clone());
    world.succeed(&child);
    let record = world.tasks.record(&child).unwrap().clone();
    world.tasks.evict(world.tasks.applied());
    world.replayed.evict(world.replayed.applied());
    let command = delegation(&world, &parent, "r1", spec);
    assert_eq!(
        world.tasks.lookups(&command).tasks,
        BTreeSet::from([child.clone()])
    );
    world.known.tasks.insert(child, record);
    assert_eq!(answers(&world.run(command)), [("r1", TaskState::Succeeded)]);
}

#[test]
fn a_parent_that_waits_holds_no_permit_and_gives_its_slot_to_its_own_children() {
    let mut world = World::with(TaskConfig {
        max_parallel_tasks: 1,
        ..TaskConfig::default()
    });
    world.agent("both", &["plan", "work"], &[1]);
    let parent = world.submit(json!({"type": "plan"}));
    let child = delegate(&mut world, &parent, "r1", json!({"requirements": ["work"]}));
    assert_eq!(world.state(&child), TaskState::Assigned);
    let grandchild = delegate(&mut world, &child, "r1", json!({"requirements": ["work"]}));
    assert_eq!(world.state(&grandchild), TaskState::Assigned);
    let other = world.submit(json!({"type": "work"}));
    world.succeed(&grandchild);
    world.succeed(&child);
    world.waits(&other, TaskState::Queued, WaitReason::ParallelLimit);
    world.succeed(&parent);
    assert_eq!(world.state(&other), TaskState::Assigned);
}

#[test]
fn an_agent_that_waits_for_others_is_not_given_a_second_task_beyond_its_concurrency() {
    let mut world = World::new();
    world.agent("planner", &["plan"], &[1]);
    world.agent("worker", &["work"], &[2]);
    let first = world.submit(json!({"type": "plan"}));
    let child = delegate(&mut world, &first, "r1", json!({"requirements": ["work"]}));
    let second = world.submit(json!({"type": "plan"}));
    world.waits(&second, TaskState::Queued, WaitReason::Capacity);
    world.succeed(&child);
    world.waits(&second, TaskState::Queued, WaitReason::Capacity);
    world.succeed(&first);
    assert_eq!(world.state(&second), TaskState::Assigned);
}

#[test]
fn children_end_with_their_parent_and_inherit_its_deadline() {
    let mut world = World::new();
    world.agent("planner", &["plan"], &[1]);
    world.agent("worker", &["work"], &[2]);
    let parent = world.submit(json!({"type": "plan", "deadlineMs": 5000}));
    let child = delegate(&mut world, &parent, "r1", json!({"requirements": ["work"]}));
    let waiting = delegate(
        &mut world,
        &parent,
        "r2",
        json!({"requirements": ["nobody"]}),
    );
    let deadline = world.view(&parent).deadline_at;
    assert_eq!(world.view(&child).deadline_at, deadline);
    let decision = world.run(Command::Cancel {
        task: parent.clone(),
        reason: "enough".to_owned(),
    });
    for id in [&child, &waiting] {
        assert_eq!(world.state(id), TaskState::Cancelled);
    }
    let stopped = |e: &&Effect| matches!(e, Effect::CancelAttempt { .. });
    assert_eq!(decision.effects.iter().filter(stopped).count(), 2);
    assert_eq!(answers(&decision), []);
}

#[test]
fn delegation_is_bounded_in_depth_and_number() {
    let mut world = World::with(TaskConfig {
        max_parallel_tasks: 100,
        ..TaskConfig::default()
    });
    world.agent("a", &["x"], &[100]);
    let spec = json!({"requirements": ["x"]});
    let mut task = world.submit(spec.clone());
    for _ in 0..DEPTH_MAX {
        task = delegate(&mut world, &task, "r", spec.clone());
    }
    let command = delegation(&world, &task, "r", spec.clone());
    assert!(matches!(world.refused(command), Refusal::Invalid { .. }));

    let parent = world.submit(spec);
    let child = json!({"type": "nobody", "parent": parent});
    world.submit_all(vec![child.clone(); CHILDREN_MAX]);
    let command = world.submission(vec![child]);
    assert!(matches!(world.refused(command), Refusal::Invalid { .. }));
}

#[test]
fn stale_attempts_cannot_delegate_and_nobody_can_when_it_is_off() {
    let (mut world, parent) = planner();
    let spec = json!({"requirements": ["work"]});
    let stale = delegation(&world, &parent, "r1", spec.clone());
    world.fail(&parent, FailureClass::Unavailable);
    world.next();
    assert!(matches!(world.refused(stale), Refusal::Stale(_)));
    world.config.allow_cross_agent = false;
    let command = delegation(&world, &parent, "r1", spec);
    assert_eq!(world.refused(command), Refusal::CrossAgent);
}

#[test]
fn another_round_of_a_parent_gets_new_children() {
    let (mut world, parent) = planner();
    let spec = json!({"requirements": ["work"]});
    let first = delegate(&mut world, &parent, "r1", spec.clone());
    world.fail(&first, FailureClass::Refusal);
    world.fail(&parent, FailureClass::Refusal);
    world.run(Command::Retry {
        task: parent.clone(),
    });
    let second = delegate(&mut world, &parent, "r1", spec);
    assert_ne!(first, second);
    assert_eq!(world.state(&second), TaskState::Assigned);
    let retry = Command::Retry { task: first };
    assert_eq!(
        delivered(&world.run(retry)).len(),
        1,
        "its parent lives again"
    );
}

#[test]
fn a_child_cannot_be_retried_after_its_parent() {
    let (mut world, parent) = planner();
    let child = delegate(&mut world, &parent, "r1", json!({"requirements": ["work"]}));
    world.fail(&child, FailureClass::Refusal);
    world.succeed(&parent);
    let refusal = world.refused(Command::Retry { task: child });
    assert!(refusal.to_string().contains(parent.as_str()), "{refusal}");
}

/// What the instance of an author asks of another agent, as it is asked for.
fn check_of(world: &World, parent: &TaskId) -> Command {
    let author = world.view(parent).assignment.unwrap().agent_id;
    let spec = json!({"requirements": ["check"], "avoid": author});
    delegation(world, parent, "check\n1\n0", spec)
}

fn judged(world: &mut World, parent: &TaskId) -> TaskId {
    let asked = check_of(world, parent);
    match world.run(asked).answer {
        Answer::Child(id) => id,
        other => panic!("expected a child, got {other:?}"),
    }
}

fn explained(world: &World, id: &TaskId) -> mesh_messages::task::TaskExplanation {
    let told = world.tasks.explain(&world.live, world.context(), id);
    told.expect("a held task")
}

fn who_has(world: &World, id: &TaskId) -> Option<String> {
    let view = world.view(id);
    Some(view.assignment?.agent_id.to_string())
}

#[test]
fn two_agents_check_each_others_work_and_never_their_own() {
    let mut world = World::new();
    world.agent("a", &["work", "check"], &[1]);
    world.agent("b", &["work", "check"], &[1]);
    let tasks: Vec<_> = (0..3)
        .map(|_| world.submit(json!({"type": "work"})))
        .collect();
    assert_eq!(world.state(&tasks[2]), TaskState::Queued);
    let first = judged(&mut world, &tasks[0]);
    // The other is at work. Its author is free, and does not get it.
    assert_eq!(world.state(&first), TaskState::Queued);
    let waits = world.view(&first).waiting_for.unwrap();
    assert_eq!(waits.reason, WaitReason::Capacity);
    let author = who_has(&world, &tasks[0]).unwrap();
    assert!(!waits.agents.iter().any(|agent| agent.as_str() == author));
    let why = explained(&world, &first).candidates;
    let own = why
        .iter()
        .find(|one| one.agent_id.as_str() == author)
        .unwrap();
    assert!(!own.eligible && own.reasons == ["did the work that is checked"]);
    // Both are under review now, and neither waits for the other.
    let second = judged(&mut world, &tasks[1]);
    assert_eq!(who_has(&world, &first), who_has(&world, &tasks[1]));
    assert_eq!(who_has(&world, &second), who_has(&world, &tasks[0]));
    // What is no check gets no such slot.
    assert_eq!(world.state(&tasks[2]), TaskState::Queued);
    for check in [&first, &second] {
        world.end(check, Ok(json!({"ok": true})));
    }
    world.end(&tasks[0], Ok(json!(1)));
    assert_eq!(who_has(&world, &tasks[2]), Some(author));
}

#[test]
fn a_check_that_nobody_else_can_make_is_refused_at_once() {
    let mut world = World::new();
    world.agent("a", &["work", "check"], &[1]);
    let task = world.submit(json!({"type": "work"}));
    let asked = check_of(&world, &task);
    let Refusal::Invalid { errors } = world.refused(asked) else {
        panic!("it is not the check that is refused");
    };
    assert!(
        errors[0].message.contains("nobody but a itself"),
        "{errors:?}"
    );
    // Who is stopped may come back.
    world.fleet(
        "b",
        agent_view(FaultState::Stopped, &["check"], &[], Epoch(1)),
    );
    let check = judged(&mut world, &task);
    assert_eq!(
        world.view(&check).waiting_for.unwrap().reason,
        WaitReason::AgentDown
    );
}

#[test]
fn an_agent_that_is_only_avoided_has_not_failed_the_task() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let task = world.submit(json!({"type": "x", "avoid": "a"}));
    let told = explained(&world, &task);
    let reasons = &told.candidates[0].reasons;
    assert!(
        reasons.iter().any(|why| why == "the task asks for another"),
        "{reasons:?}"
    );
    let assignment = world.view(&task).assignment.unwrap();
    assert!(
        !assignment
            .risk_factors
            .iter()
            .any(|risk| risk.factor == "failed_before")
    );
}
