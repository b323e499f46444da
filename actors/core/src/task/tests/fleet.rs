//! Who gets what, in which order, and what the rest is told.

use super::*;

#[test]
fn the_sixth_task_waits_for_a_place_in_the_mesh() {
    let mut world = World::new();
    world.agent("a", &["x"], &[10]);
    let ids: Vec<_> = (0..6).map(|_| world.submit(json!({"type": "x"}))).collect();
    world.waits(&ids[5], TaskState::Queued, WaitReason::ParallelLimit);
    let decision = world.succeed(&ids[0]);
    assert_eq!(delivered(&decision), ["t6#1"]);
}

#[test]
fn no_instance_exceeds_its_slots_while_another_is_idle() {
    let mut world = World::new();
    world.agent("a", &["x"], &[2]);
    world.agent("b", &["x"], &[1]);
    let ids: Vec<_> = (0..4).map(|_| world.submit(json!({"type": "x"}))).collect();
    let who: Vec<_> = ids[..3].iter().map(|id| world.agent_of(id)).collect();
    assert_eq!(who, ["a", "b", "a"]);
    world.waits(&ids[3], TaskState::Queued, WaitReason::Capacity);
    world.succeed(&ids[1]);
    assert_eq!(world.agent_of(&ids[3]), "b");
}

#[test]
fn urgent_tasks_overtake_but_nobody_is_overtaken_for_ever() {
    let mut world = World::new();
    let submit = |world: &mut World, priority: &str| {
        world.submit(json!({"type": "x", "priority": priority}))
    };
    let low = submit(&mut world, "low");
    let normal = submit(&mut world, "normal");
    let critical = submit(&mut world, "critical");
    world.now = world.now.plus(Duration::from_secs(15 * 60 + 1));
    let late = submit(&mut world, "critical");
    world.agent("a", &["x"], &[1]);
    for id in [&critical, &normal, &low, &late] {
        assert_eq!(world.state(id), TaskState::Assigned, "{id}");
        world.succeed(id);
    }
}

#[test]
fn equal_tasks_run_in_the_order_of_their_submission() {
    let mut world = World::new();
    let ids: Vec<_> = (0..12)
        .map(|_| world.submit(json!({"type": "x"})))
        .collect();
    world.agent("a", &["x"], &[1]);
    for id in &ids {
        world.succeed(id);
    }
}

#[test]
fn a_task_waits_for_what_keeps_its_agents_and_is_told_so() {
    let mut world = World::new();
    let id = world.submit(json!({"type": "x"}));
    world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
    let mut view = agent_view(FaultState::Stopped, &["x"], &[], Epoch(1));
    world.fleet("a", view.clone());
    world.waits(&id, TaskState::Parked, WaitReason::AgentDown);
    view.fault = FaultState::Open;
    view.reason = Some("4 crashes in 60 s".to_owned());
    view.next_attempt_at = Some(world.now.plus(Duration::from_secs(5)));
    let until = view.next_attempt_at;
    world.fleet("a", view.clone());
    world.waits(&id, TaskState::Parked, WaitReason::Breaker);
    let waiting = world.view(&id).waiting_for.unwrap();
    assert_eq!(
        (waiting.until, waiting.agents),
        (until, vec![agent_id("a")])
    );
    assert!(waiting.detail.contains("4 crashes"), "{}", waiting.detail);
    view.fault = FaultState::HalfOpen;
    world.fleet("a", view);
    world.waits(&id, TaskState::Queued, WaitReason::AgentDown);
    world.fleet(
        "a",
        agent_view(FaultState::HalfOpen, &["x"], &[1], Epoch(2)),
    );
    assert_eq!(world.state(&id), TaskState::Assigned);
}

#[test]
fn waits_are_journalled_only_when_their_reason_changes() {
    let mut world = World::new();
    let specs = vec![json!({"type": "x"}); 50];
    let parked = world.submit_all(specs).events;
    assert_eq!(parked.len(), 100);
    let view = |reason: &str| FleetAgent {
        reason: Some(reason.to_owned()),
        ..agent_view(FaultState::Open, &["x"], &[], Epoch(1))
    };
    assert_eq!(world.fleet("a", view("one")).events.len(), 50);
    assert_eq!(world.fleet("a", view("two")).events.len(), 0);
    let backoff = agent_view(FaultState::Backoff, &["x"], &[], Epoch(1));
    assert_eq!(world.fleet("a", backoff).events.len(), 50);
    let running = agent_view(FaultState::Running, &["x"], &[], Epoch(2));
    assert_eq!(world.fleet("a", running).events.len(), 0);
}

#[test]
fn an_agent_on_probation_gets_one_task_at_a_time() {
    let mut world = World::new();
    world.fleet(
        "a",
        agent_view(FaultState::Recovering, &["x"], &[4, 4], Epoch(1)),
    );
    let (one, two) = (
        world.submit(json!({"type": "x"})),
        world.submit(json!({"type": "x"})),
    );
    world.waits(&two, TaskState::Queued, WaitReason::Capacity);
    let decision = world.fail(&one, FailureClass::Refusal);
    let report = Effect::ReportToAgent {
        key: (agent_id("a"), InstanceNo(0), Epoch(1)),
        task: one,
        outcome: AttemptOutcome::Unscored(FailureClass::Refusal),
    };
    assert!(
        decision.effects.contains(&report),
        "so that the permit can be returned"
    );
    assert_eq!(world.state(&two), TaskState::Assigned);
}

#[test]
fn closed_instances_and_paused_agents_get_nothing_and_keep_what_they_have() {
    let mut world = World::new();
    world.agent("a", &["x"], &[2]);
    let one = world.submit(json!({"type": "x"}));
    let mut view = agent_view(FaultState::Running, &["x"], &[2], Epoch(1));
    view.instances.get_mut(&InstanceNo(0)).unwrap().closed = Some("draining".to_owned());
    world.fleet("a", view.clone());
    let two = world.submit(json!({"type": "x"}));
    world.waits(&two, TaskState::Queued, WaitReason::Capacity);
    view.paused = true;
    world.fleet("a", view);
    world.waits(&two, TaskState::Parked, WaitReason::AgentDown);
    world.succeed(&one);
    world.agent("a", &["x"], &[2]);
    assert_eq!(world.state(&two), TaskState::Assigned);
}

#[test]
fn a_failed_task_is_offered_to_another_agent_unless_fallback_is_off() {
    for (fallback, expected) in [(true, "b"), (false, "a")] {
        let mut world = World::with(TaskConfig {
            fallback_on_error: fallback,
            ..TaskConfig::default()
        });
        world.agent("a", &["x"], &[1]);
        world.agent("b", &["x"], &[1]);
        let id = world.submit(json!({"type": "x"}));
        assert_eq!(world.agent_of(&id), "a");
        world.fail(&id, FailureClass::Unavailable);
        world.next();
        assert_eq!(world.agent_of(&id), expected);
    }
}

#[test]
fn without_fallback_a_task_waits_for_its_agent() {
    let mut world = World::with(TaskConfig {
        fallback_on_error: false,
        ..TaskConfig::default()
    });
    world.agent("a", &["x"], &[1]);
    world.agent("b", &["x"], &[1]);
    let id = world.submit(json!({"type": "x"}));
    world.fail(&id, FailureClass::Unavailable);
    world.run(Command::Fleet(FleetChange::Gone(agent_id("a"))));
    world.next();
    world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
}

#[test]
fn a_task_that_names_its_agent_is_given_to_no_other() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    world.agent("b", &["x"], &[1]);
    let id = world.submit(json!({"type": "x", "agent": "b"}));
    assert_eq!(world.agent_of(&id), "b");
    let other = world.submit(json!({"type": "x", "agent": "c"}));
    world.waits(&other, TaskState::Parked, WaitReason::NoAgent);
    world.fail(&id, FailureClass::Unavailable);
    world.next();
    assert_eq!(world.agent_of(&id), "b");
}

#[test]
fn an_assignment_says_why_and_who_else_was_looked_at() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    world.fleet("b", agent_view(FaultState::Open, &["x"], &[1], Epoch(1)));
    let first = world.submit(json!({"type": "x"}));
    world.now = world.now.plus(Duration::from_millis(300));
    world.succeed(&first);
    let id = world.submit(json!({"type": "x"}));
    let task = world.view(&id);
    let assignment = task.assignment.unwrap();
    assert_eq!(assignment.estimated_duration, Some(300));
    assert_eq!(
        assignment.expected_completion,
        Some(world.now.plus(Duration::from_millis(300)))
    );
    assert!((assignment.confidence - 2.0 / 3.0).abs() < 1e-9);
    assert!(
        assignment
            .reasoning
            .iter()
            .any(|reason| reason.contains("1 of 1 attempts"))
    );
    let ctx = Context {
        now: world.now,
        random: 0,
        config: &world.config,
        known: &world.known,
    };
    let explanation = world.tasks.explain(&world.live, ctx, &id).unwrap();
    let seen: Vec<_> = explanation
        .candidates
        .iter()
        .map(|c| (c.agent_id.as_str(), c.eligible))
        .collect();
    assert_eq!(seen, [("a", true), ("b", false)]);
}

#[test]
fn a_waiting_task_is_explained_by_what_each_agent_lacks() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let id = world.submit(json!({"requirements": ["x", "y"]}));
    let ctx = Context {
        now: world.now,
        random: 0,
        config: &world.config,
        known: &world.known,
    };
    let explanation = world.tasks.explain(&world.live, ctx, &id).unwrap();
    assert_eq!(explanation.requirements, ["x", "y"]);
    assert_eq!(explanation.candidates[0].reasons, ["lacks y"]);
}

#[test]
fn ten_thousand_waiting_tasks_do_not_slow_the_others() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    for _ in 0..10 {
        // Beside the checks of `World`, which look at every task.
        let command = world.submission(vec![json!({"type": "x"}); 1000]);
        let ctx = Context {
            now: world.now,
            random: 1,
            config: &world.config,
            known: &world.known,
        };
        world.tasks.decide(&mut world.live, command, ctx).unwrap();
    }
    let ctx = Context {
        now: world.now,
        random: 1,
        config: &world.config,
        known: &world.known,
    };
    for n in 1..=1000 {
        let id = TaskId::new(format!("t{n}")).unwrap();
        let record = world.tasks.record(&id).unwrap();
        let attempt = AttemptRef {
            task: id,
            attempt: record.last_attempt,
            epoch: Epoch(1),
        };
        let key = (agent_id("a"), InstanceNo(0), Epoch(1));
        let ended = Command::AttemptEnded {
            attempt,
            key: Some(key),
            result: Ok(Value::Null),
        };
        let decision = world.tasks.decide(&mut world.live, ended, ctx).unwrap();
        assert_eq!(decision.events.len(), 2, "one end and one assignment each");
    }
}

#[test]
fn attempts_that_are_too_many_for_one_group_end_in_the_next() {
    let mut world = World::with(TaskConfig {
        max_parallel_tasks: 600,
        ..TaskConfig::default()
    });
    world.agent("a", &["work"], &[600]);
    let specs = vec![json!({"type": "work"}); 600];
    let submitted = world.submit_all(specs);
    let mut more = submitted.more;
    while more {
        more = world.pass(Duration::ZERO).more;
    }
    let first = &receipts(&submitted)[0].id;
    let key = world.attempt(first).1;
    assert_eq!(world.tasks.in_flight_on(&key).count(), 600);
    let mut decision = world.run(Command::InstanceDown {
        key: key.clone(),
        failure: Failure::new(FailureClass::Crash, "signal 9"),
    });
    assert!(decision.more);
    while decision.more {
        assert!(decision.events.len() < 1100);
        decision = world.pass(Duration::ZERO);
    }
    assert_eq!(world.tasks.in_flight_on(&key).count(), 0);
    for receipt in receipts(&submitted) {
        let record = world.tasks.record(&receipt.id).unwrap();
        assert_eq!((record.lost, record.solo_kills), (1, 0));
        assert!(!record.task.state.is_terminal());
    }
}
