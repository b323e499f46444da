//! Deaths of meshd, of instances, and of the actors between.

use super::*;

#[test]
fn after_a_restart_every_attempt_is_lost_and_tried_again_without_using_up_one() {
    let mut world = World::new();
    world.agent("a", &["x"], &[2]);
    let ids: Vec<_> = (0..3).map(|_| world.submit(json!({"type": "x"}))).collect();
    world.tasks = world.tasks.rebuilt();
    world.live = Live::default();
    let decision = world.run(Command::Recover);
    assert!(!decision.more);
    for id in &ids {
        assert_eq!(
            world.state(id),
            TaskState::Queued,
            "nothing parks before the fleet is known"
        );
    }
    assert_eq!(world.tasks.record(&ids[0]).unwrap().used, 0);
    world.run(Command::Fleet(FleetChange::Complete));
    world.waits(&ids[0], TaskState::Parked, WaitReason::NoAgent);
    world.fleet("a", agent_view(FaultState::Running, &["x"], &[2], Epoch(2)));
    assert_eq!(
        world.attempt(&ids[0]).0,
        AttemptRef {
            task: ids[0].clone(),
            attempt: AttemptNo(2),
            epoch: Epoch(2)
        }
    );
}

#[test]
fn a_task_that_waits_over_a_restart_for_what_it_waited_for_costs_no_record() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let waits = world.submit(json!({"type": "nobody"}));
    let moves = world.submit(json!({"agent": "a", "type": "y"}));
    for id in [&waits, &moves] {
        world.waits(id, TaskState::Parked, WaitReason::NoAgent);
    }
    world.tasks = world.tasks.rebuilt();
    world.live = Live::default();
    assert_eq!(world.run(Command::Recover).events, []);
    world.fleet("a", agent_view(FaultState::Running, &["y"], &[1], Epoch(2)));
    assert_eq!(world.state(&moves), TaskState::Assigned);
    let complete = world.run(Command::Fleet(FleetChange::Complete));
    assert_eq!(complete.events, []);
    world.waits(&waits, TaskState::Parked, WaitReason::NoAgent);
}

#[test]
fn an_instance_takes_all_its_attempts_with_it() {
    let mut world = World::new();
    world.agent("a", &["x"], &[2]);
    let (one, two) = (
        world.submit(json!({"type": "x"})),
        world.submit(json!({"type": "x"})),
    );
    let (attempt, key) = world.attempt(&one);
    let failure = Failure::new(FailureClass::Resource, "out of memory");
    world.take_up(&key);
    world.run(Command::InstanceDown {
        key: key.clone(),
        failure: failure.clone(),
    });
    for id in [&one, &two] {
        let task = world.view(id);
        assert_eq!(
            (task.state, task.error),
            (TaskState::Retrying, Some(failure.clone()))
        );
    }
    let late = Command::AttemptEnded {
        attempt: attempt.clone(),
        key: Some(key.clone()),
        result: Ok(Value::Null),
    };
    assert_eq!(world.refused(late), Refusal::Stale(attempt));
    assert_eq!(world.run(Command::InstanceDown { key, failure }).events, []);
}

#[test]
fn reconciling_ends_what_nobody_has_and_drops_what_nobody_should_have() {
    let mut world = World::new();
    world.agent("a", &["x"], &[2]);
    world.agent("b", &["y"], &[1]);
    let (kept, missing) = (
        world.submit(json!({"type": "x"})),
        world.submit(json!({"type": "x"})),
    );
    let elsewhere = world.submit(json!({"type": "y"}));
    let (attempt, key) = world.attempt(&kept);
    let ghost = (key.clone(), TaskId::new("ghost").unwrap(), AttemptNo(4));
    let present = BTreeSet::from([(key.clone(), kept.clone(), attempt.attempt), ghost.clone()]);
    let decision = world.run(Command::Reconcile {
        agent: Some(agent_id("a")),
        present,
    });
    assert_eq!(world.state(&kept), TaskState::Assigned);
    assert_eq!(world.state(&elsewhere), TaskState::Assigned);
    assert!(matches!(
        &decision.effects[0],
        Effect::CancelAttempt { task, attempt, .. } if (task, attempt) == (&ghost.1, &ghost.2)
    ));
    // The ghost holds the second slot until it is dropped.
    world.waits(&missing, TaskState::Queued, WaitReason::Capacity);
    let dropped = AttemptRef {
        task: ghost.1,
        attempt: ghost.2,
        epoch: key.2,
    };
    let decision = world.run(Command::AttemptEnded {
        attempt: dropped,
        key: Some(key),
        result: Err(Failure::new(FailureClass::Cancelled, "dropped")),
    });
    assert_eq!(delivered(&decision), [format!("{missing}#2")]);
}

#[test]
fn more_than_one_group_of_work_is_done_in_several_decisions() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let parent = world.submit(json!({"type": "x"}));
    world.submit_all(vec![json!({"type": "y", "parent": parent}); 1000]);
    for _ in 0..2 {
        world.submit_all(vec![json!({"type": "y", "dependsOn": [parent]}); 1000]);
    }
    let mut decision = world.run(Command::Cancel {
        task: parent,
        reason: "enough".to_owned(),
    });
    let mut decisions = 1;
    while decision.more {
        assert!(decision.events.len() < 2000);
        decision = world.run(Command::Tick);
        decisions += 1;
    }
    assert!(decisions > 2);
    assert_eq!(world.tasks.live_count(), 0);
}

#[test]
fn memory_holds_ended_tasks_only_until_they_are_projected() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let first = world.submit(json!({"type": "x"}));
    world.succeed(&first);
    let projected = world.tasks.applied();
    let second = world.submit(json!({"type": "x"}));
    world.succeed(&second);
    world.tasks.evict(projected);
    assert_eq!(world.tasks.ids().collect::<Vec<_>>(), [&second]);
    world.tasks.evict(world.tasks.applied());
    assert_eq!(world.tasks.ids().count(), 0);
}

#[test]
fn a_snapshot_from_before_trust_claims_and_gates_is_read() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let id = world.submit(json!({"requirements": ["x"]}));
    let mut old = serde_json::to_value(&world.tasks).unwrap();
    let fields = old.as_object_mut().unwrap();
    for later in ["acquitted", "claims", "trust", "gates"] {
        assert!(fields.remove(later).is_some(), "{later} is in a snapshot");
    }
    let read: Tasks = serde_json::from_value(old).unwrap();
    assert_eq!(read.get(&id), world.tasks.get(&id));
}
