//! One accepted outcome each, and what follows every class of failure.

use mesh_messages::task::{AcceptanceCheck, CheckReport};

use super::*;

fn mesh() -> (World, TaskId) {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let id = world.submit(json!({"type": "x", "retry": {"jitter": false}}));
    (world, id)
}

#[test]
fn a_task_is_assigned_started_and_succeeds_once() {
    let (mut world, id) = mesh();
    let (attempt, key) = world.attempt(&id);
    let started = Command::AttemptStarted {
        attempt: attempt.clone(),
        key: key.clone(),
    };
    assert_eq!(kinds(&world.run(started.clone())), ["t1 task.started"]);
    assert_eq!(world.run(started.clone()).events, []);
    let decision = world.succeed(&id);
    assert_eq!(kinds(&decision), ["t1 task.succeeded"]);
    assert!(decision.effects.contains(&Effect::TaskEnded(id.clone())));
    assert_eq!(world.view(&id).output, Some(json!("done")));

    for result in [
        Ok(json!("again")),
        Err(Failure::new(FailureClass::Crash, "late")),
    ] {
        let late = Command::AttemptEnded {
            attempt: attempt.clone(),
            key: Some(key.clone()),
            result,
        };
        assert_eq!(world.refused(late), Refusal::Stale(attempt.clone()));
    }
    let decision = world.run(started.clone());
    assert!(
        matches!(&decision.effects[..], [Effect::CancelAttempt { .. }]),
        "it is to drop it"
    );
    assert_eq!(decision.answer, Answer::Stale);
    assert_eq!(
        world.refused(started),
        Refusal::Stale(attempt),
        "it has been told"
    );
}

#[test]
fn what_is_said_again_of_checks_is_no_news() {
    let (mut world, id) = mesh();
    let (attempt, key) = world.attempt(&id);
    world.run(Command::AttemptStarted {
        attempt: attempt.clone(),
        key: key.clone(),
    });
    let checking = |name: &str| Command::AttemptChecking {
        attempt: attempt.clone(),
        key: key.clone(),
        checks: vec![AcceptanceCheck {
            name: name.to_owned(),
            command: vec!["true".to_owned()],
            requirements: Vec::new(),
            timeout_ms: None,
        }],
    };
    assert_eq!(kinds(&world.run(checking("a"))), ["t1 task.checking"]);
    assert_eq!(world.run(checking("a")).events, []);
    assert_eq!(kinds(&world.run(checking("b"))), ["t1 task.checking"]);
    let checked = |passed| Command::AttemptChecked {
        attempt: attempt.clone(),
        key: key.clone(),
        checks: vec![CheckReport {
            name: "a".to_owned(),
            passed,
            evidence: String::new(),
            task: None,
        }],
    };
    assert_eq!(kinds(&world.run(checked(true))), ["t1 task.checked"]);
    assert_eq!(world.run(checked(true)).events, []);
    assert_eq!(kinds(&world.run(checked(false))), ["t1 task.checked"]);
}

#[test]
fn reports_with_another_attempt_epoch_or_instance_are_stale() {
    let (mut world, id) = mesh();
    let (attempt, key) = world.attempt(&id);
    let wrong = [
        (
            AttemptRef {
                attempt: AttemptNo(2),
                ..attempt.clone()
            },
            key.clone(),
        ),
        (
            AttemptRef {
                epoch: Epoch(2),
                ..attempt.clone()
            },
            key.clone(),
        ),
        (
            AttemptRef {
                task: TaskId::new("other").unwrap(),
                ..attempt.clone()
            },
            key.clone(),
        ),
        (attempt.clone(), (agent_id("b"), key.1, key.2)),
        (attempt.clone(), (key.0.clone(), InstanceNo(9), key.2)),
    ];
    for (attempt, key) in wrong {
        let ended = Command::AttemptEnded {
            attempt: attempt.clone(),
            key: Some(key.clone()),
            result: Ok(Value::Null),
        };
        assert_eq!(world.refused(ended), Refusal::Stale(attempt.clone()));
        let known = world.live.fleet().has_instance(&key);
        let started = Command::AttemptStarted {
            attempt: attempt.clone(),
            key,
        };
        match world.decide(started) {
            Ok(decision) => assert!(known && decision.events.is_empty()),
            Err(refusal) => assert_eq!(refusal, Refusal::Stale(attempt)),
        }
    }
}

#[test]
fn a_result_of_an_earlier_attempt_on_the_same_incarnation_is_stale() {
    let (mut world, id) = mesh();
    let (first, key) = world.attempt(&id);
    world.fail(&id, FailureClass::Unavailable);
    world.next();
    let (second, again) = world.attempt(&id);
    assert_eq!((again, second.epoch), (key.clone(), first.epoch));
    for key in [Some(key), None] {
        let late = Command::AttemptEnded {
            attempt: first.clone(),
            key,
            result: Ok(json!("late")),
        };
        assert_eq!(world.refused(late), Refusal::Stale(first.clone()));
    }
    world.succeed(&id);
    assert_eq!(world.view(&id).output, Some(json!("done")));
}

#[test]
fn retryable_failures_pause_200_then_400_ms_and_three_attempts_are_all() {
    let (mut world, id) = mesh();
    for (attempt, pause) in [(1, 200), (2, 400)] {
        assert_eq!(world.attempt(&id).0.attempt, AttemptNo(attempt));
        world.fail(&id, FailureClass::Unavailable);
        world.waits(&id, TaskState::Retrying, WaitReason::Retry);
        let due = world.tasks.next_timer().unwrap();
        assert_eq!(due.since(world.now), Duration::from_millis(pause));
        world.pass(Duration::from_millis(pause - 1));
        assert_eq!(world.state(&id), TaskState::Retrying);
        assert_eq!(delivered(&world.next()), [format!("t1#{}", attempt + 1)]);
    }
    let decision = world.fail(&id, FailureClass::Unavailable);
    assert_eq!(world.state(&id), TaskState::DeadLettered);
    assert!(decision.effects.contains(&Effect::Escalate(id.clone())));
    assert_eq!(world.view(&id).attempts.len(), 3);
}

#[test]
fn every_class_has_the_consequence_of_the_table() {
    use FailureClass as C;
    for class in FailureClass::ALL {
        let (mut world, id) = mesh();
        world.fail(&id, class);
        let expected = match class {
            C::Crash
            | C::Start
            | C::Hang
            | C::Resource
            | C::Timeout
            | C::Unavailable
            | C::Contract => TaskState::Retrying,
            C::Quota => TaskState::Parked,
            C::Refusal | C::Auth | C::Policy => TaskState::Failed,
            C::Cancelled => TaskState::Cancelled,
            // The only one that can do it will not.
            C::Declined => TaskState::DeadLettered,
            C::Lost => TaskState::Assigned,
        };
        assert_eq!(world.state(&id), expected, "{class}");
    }
}

#[test]
fn a_failure_that_calls_itself_final_is() {
    let (mut world, id) = mesh();
    let failure = Failure {
        retryable: false,
        ..Failure::new(FailureClass::Unavailable, "never")
    };
    world.end(&id, Err(failure));
    assert_eq!(world.state(&id), TaskState::Failed);
}

#[test]
fn a_quota_parks_and_uses_up_no_attempt() {
    let (mut world, id) = mesh();
    for _ in 0..10 {
        world.fail(&id, FailureClass::Quota);
        world.waits(&id, TaskState::Parked, WaitReason::Quota);
        world.next();
        assert_eq!(world.state(&id), TaskState::Assigned);
    }
    assert_eq!(world.tasks.record(&id).unwrap().used, 0);
}

#[test]
fn lost_attempts_are_free_up_to_twenty() {
    let (mut world, id) = mesh();
    for lost in 0..20 {
        world.fail(&id, FailureClass::Lost);
        if lost > 0 {
            assert_eq!(
                world.state(&id),
                TaskState::Retrying,
                "only the first time at once"
            );
            world.next();
        }
        assert_eq!(world.state(&id), TaskState::Assigned);
    }
    assert_eq!(world.tasks.record(&id).unwrap().used, 0);
    world.fail(&id, FailureClass::Lost);
    assert_eq!(world.state(&id), TaskState::DeadLettered);
}

#[test]
fn an_attempt_that_takes_too_long_is_taken_back_and_its_slot_stays_taken_until_it_is_dropped() {
    let (mut world, id) = mesh();
    let (attempt, key) = world.attempt(&id);
    let decision = world.pass(Duration::from_mins(10));
    assert!(
        decision
            .effects
            .iter()
            .any(|e| matches!(e, Effect::CancelAttempt { .. }))
    );
    assert_eq!(world.view(&id).error.unwrap().class, FailureClass::Timeout);
    world.pass(Duration::from_millis(200));
    world.waits(&id, TaskState::Queued, WaitReason::Capacity);

    let late = Command::AttemptEnded {
        attempt,
        key: Some(key),
        result: Ok(json!("late")),
    };
    let decision = world.run(late);
    assert_eq!(decision.answer, Answer::Dropped);
    assert_eq!(delivered(&decision), ["t1#2"]);
}

#[test]
fn a_deadline_ends_a_task_wherever_it_stands() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let running = world.submit(json!({"type": "x", "deadlineMs": 1000}));
    let queued = world.submit(json!({"type": "x", "deadlineMs": 1000}));
    let parked = world.submit(json!({"type": "nobody", "deadlineMs": 1000}));
    let blocked = world.submit(json!({"type": "x", "deadlineMs": 1000, "dependsOn": [parked]}));
    world.pass(Duration::from_millis(999));
    let decision = world.pass(Duration::from_millis(1));
    for id in [&running, &queued, &parked] {
        assert_eq!(world.state(id), TaskState::DeadLettered);
        assert!(decision.effects.contains(&Effect::Escalate(id.clone())));
    }
    assert!(world.state(&blocked).is_terminal());
    let stopped = |e: &&Effect| matches!(e, Effect::CancelAttempt { task, .. } if *task == running);
    assert_eq!(decision.effects.iter().filter(stopped).count(), 1);
}

#[test]
fn cancelling_is_final_and_a_late_result_is_ignored() {
    let (mut world, id) = mesh();
    let (attempt, key) = world.attempt(&id);
    let cancel = Command::Cancel {
        task: id.clone(),
        reason: "user:test changed its mind".to_owned(),
    };
    let decision = world.run(cancel.clone());
    assert_eq!(kinds(&decision), ["t1 task.cancelled"]);
    assert!(matches!(
        &decision.effects[..],
        [Effect::CancelAttempt { .. }, ..]
    ));
    let state = TaskState::Cancelled;
    assert_eq!(
        world.refused(cancel),
        Refusal::Ended {
            task: id.clone(),
            state
        }
    );
    let late = Command::AttemptEnded {
        attempt: attempt.clone(),
        key: Some(key.clone()),
        result: Ok(Value::Null),
    };
    assert_eq!(world.run(late.clone()).answer, Answer::Dropped);
    assert_eq!(world.refused(late), Refusal::Stale(attempt));
    assert_eq!(world.state(&id), TaskState::Cancelled);
    let unknown = TaskId::new("nobody").unwrap();
    let cancel = Command::Cancel {
        task: unknown.clone(),
        reason: String::new(),
    };
    assert_eq!(world.refused(cancel), Refusal::NotFound(unknown));
}

#[test]
fn an_output_that_breaks_its_schema_fails_the_attempt_as_contract() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let contract = json!({"outputSchema": {"type": "object", "required": ["sum"]}});
    let id = world.submit(json!({"type": "x", "contract": contract}));
    world.end(&id, Ok(json!({"total": 1})));
    let error = world.view(&id).error.unwrap();
    assert_eq!(error.class, FailureClass::Contract);
    assert!(error.message.contains("sum"), "{error}");
    world.next();
    world.end(&id, Ok(json!({"sum": 1})));
    assert_eq!(world.state(&id), TaskState::Succeeded);
}

fn report(name: &str, passed: bool) -> CheckReport {
    CheckReport {
        name: name.to_owned(),
        passed,
        evidence: "two tests failed".to_owned(),
        task: None,
    }
}

/// The instance says how its checks went, then hands in its result.
fn hand_in(world: &mut World, id: &TaskId, checks: Vec<CheckReport>) {
    let (attempt, key) = world.attempt(id);
    world.run(Command::AttemptChecked {
        attempt,
        key,
        checks,
    });
    world.end(id, Ok(json!("done")));
}

#[test]
fn a_result_counts_once_every_check_of_this_very_attempt_has_passed() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let checks =
        json!([{"name": "tests", "command": ["true"]}, {"name": "review", "requirements": ["r"]}]);
    let id = world.submit(json!({
        "type": "x", "contract": {"checks": checks}, "retry": {"maxAttempts": 4},
    }));
    world.end(&id, Ok(json!("done")));
    let error = world.view(&id).error.unwrap();
    assert_eq!(error.class, FailureClass::Contract);
    assert!(error.message.contains("\"tests\" was not made"), "{error}");
    world.next();
    hand_in(
        &mut world,
        &id,
        vec![report("tests", true), report("review", false)],
    );
    let error = world.view(&id).error.unwrap();
    assert!(
        error
            .message
            .contains("\"review\" did not pass: two tests failed"),
        "{error}"
    );
    world.next();
    // What passed in an earlier attempt says nothing of this one.
    hand_in(&mut world, &id, vec![report("review", true)]);
    assert_ne!(world.state(&id), TaskState::Succeeded);
    world.next();
    hand_in(
        &mut world,
        &id,
        vec![report("tests", true), report("review", true)],
    );
    assert_eq!(world.state(&id), TaskState::Succeeded);
    let attempts = world.view(&id).attempts;
    let made: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt.checks.len())
        .collect();
    assert_eq!(made, [0, 2, 1, 2]);
}

#[test]
fn nobody_outside_can_say_that_a_task_with_checks_is_done() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let contract = json!({"checks": [{"name": "tests", "command": ["true"]}]});
    let id = world.submit(json!({"type": "x", "contract": contract}));
    let (attempt, _) = world.attempt(&id);
    let done = Command::AttemptEnded {
        attempt,
        key: None,
        result: Ok(json!("done")),
    };
    assert_eq!(world.refused(done), Refusal::NeedsChecks(id));
}

#[test]
fn a_task_goes_to_the_agent_that_it_avoids_only_where_there_is_no_other() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let alone = world.submit(json!({"type": "x", "avoid": "a"}));
    let who = |world: &World, id: &TaskId| world.view(id).assignment.unwrap().agent_id.to_string();
    assert_eq!(who(&world, &alone), "a");
    world.end(&alone, Ok(json!(1)));
    world.agent("b", &["x"], &[2]);
    for avoided in ["a", "b", "b", "a"] {
        let id = world.submit(json!({"type": "x", "avoid": avoided}));
        assert_ne!(who(&world, &id), avoided);
        world.end(&id, Ok(json!(1)));
    }
}

#[test]
fn an_outcome_from_outside_ends_the_attempt_and_stops_its_instance() {
    let (mut world, id) = mesh();
    let (attempt, _) = world.attempt(&id);
    let decision = world.run(Command::AttemptEnded {
        attempt,
        key: None,
        result: Ok(json!(1)),
    });
    assert_eq!(world.state(&id), TaskState::Succeeded);
    assert!(matches!(
        &decision.effects[..],
        [Effect::CancelAttempt { .. }, ..]
    ));
}

#[test]
fn a_failed_task_gets_another_round_with_new_numbers_and_a_new_deadline() {
    let (mut world, id) = mesh();
    let retry = Command::Retry { task: id.clone() };
    assert!(matches!(
        world.refused(retry.clone()),
        Refusal::NotRetryable { .. }
    ));
    world.fail(&id, FailureClass::Refusal);
    world.pass(Duration::from_hours(1));
    assert_eq!(delivered(&world.run(retry)), ["t1#2"]);
    let record = world.tasks.record(&id).unwrap();
    assert_eq!((record.round, record.used), (1, 0));
    assert_eq!(
        record.task.deadline_at,
        world.now.plus(Duration::from_hours(24))
    );
}

#[test]
fn a_failed_task_that_is_no_longer_held_comes_back_as_it_was() {
    let (mut world, id) = mesh();
    world.fail(&id, FailureClass::Refusal);
    let record = world.tasks.record(&id).unwrap().clone();
    world.tasks.evict(world.tasks.applied());
    world.replayed.evict(world.replayed.applied());
    let retry = Command::Retry { task: id.clone() };
    assert_eq!(world.refused(retry.clone()), Refusal::NotFound(id.clone()));
    world.known.tasks.insert(id.clone(), record);
    assert_eq!(delivered(&world.run(retry)), ["t1#2"]);
    assert_eq!(world.view(&id).attempts.len(), 2);
}

#[test]
fn a_task_that_ends_two_instances_alone_is_poison_and_the_score_is_refunded() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    world.agent("b", &["x"], &[1]);
    let id = world.submit(json!({"type": "x", "retry": {"maxAttempts": 10}}));
    assert_eq!(world.agent_of(&id), "a");
    world.crash(&id);
    world.next();
    assert_eq!(
        world.agent_of(&id),
        "b",
        "another agent is offered it first"
    );
    let decision = world.crash(&id);
    let task = world.view(&id);
    let error = task.error.unwrap();
    assert_eq!(
        (task.state, error.class),
        (TaskState::DeadLettered, FailureClass::Crash)
    );
    assert!(error.message.contains("poison"), "{error}");
    for agent in ["a", "b"] {
        let refund = Effect::RefundScore {
            agent: agent_id(agent),
            failures: 1,
        };
        assert!(decision.effects.contains(&refund));
    }
}

#[test]
fn an_agent_that_dies_of_every_task_is_acquitted_once_and_again_only_when_it_did_something_well() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let mut epoch = 1;
    let mut restart = move |world: &mut World| {
        epoch += 1;
        let view = agent_view(FaultState::Running, &["x"], &[1], Epoch(epoch));
        world.fleet("a", view);
    };
    let mut poison = |world: &mut World| {
        let id = world.submit(json!({"type": "x", "retry": {"maxAttempts": 10}}));
        world.crash(&id);
        restart(world);
        world.next();
        let decision = world.crash(&id);
        assert_eq!(world.state(&id), TaskState::DeadLettered);
        restart(world);
        decision
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::RefundScore { .. }))
    };
    assert!(poison(&mut world));
    assert!(!poison(&mut world), "it has done nothing since");
    let good = world.submit(json!({"type": "x"}));
    world.succeed(&good);
    assert!(poison(&mut world));
    assert!(!poison(&mut world));
}

#[test]
fn what_an_instance_never_took_in_hand_is_lost_with_it_and_no_suspect() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let id = world.submit(json!({"type": "x"}));
    let key = world.attempt(&id).1;
    world.run(Command::InstanceDown {
        key,
        failure: Failure::new(FailureClass::Crash, "exited with code 0"),
    });
    let record = world.tasks.record(&id).unwrap();
    assert_eq!((record.lost, record.used), (1, 0));
    assert!(!record.is_suspect());
    let class = record.task.error.as_ref().map(|failure| failure.class);
    assert_eq!(class, Some(FailureClass::Lost));
}

#[test]
fn suspects_run_alone_so_that_the_innocent_are_cleared() {
    let mut world = World::new();
    world.agent("a", &["x"], &[3]);
    let ids: Vec<_> = (0..3).map(|_| world.submit(json!({"type": "x"}))).collect();
    world.crash(&ids[0]);
    world.fleet("a", agent_view(FaultState::Running, &["x"], &[3], Epoch(2)));
    world.pass(Duration::from_millis(200));
    let at_work = |world: &World| {
        ids.iter()
            .filter(|id| world.state(id).is_in_flight())
            .count()
    };
    assert_eq!(at_work(&world), 1);
    let other = world.submit(json!({"type": "x"}));
    world.waits(&other, TaskState::Queued, WaitReason::Capacity);
    world.waits(&ids[1], TaskState::Queued, WaitReason::Isolation);
    for id in &ids {
        assert_eq!(at_work(&world), 1);
        world.succeed(id);
    }
    assert_eq!(world.state(&other), TaskState::Assigned);
}

#[test]
fn a_suspect_gets_an_instance_of_its_own_while_others_keep_it_busy() {
    let mut world = World::new();
    world.agent("a", &["x"], &[2]);
    let (bad, good) = (
        world.submit(json!({"type": "x"})),
        world.submit(json!({"type": "x"})),
    );
    world.succeed(&good);
    world.crash(&bad);
    let long = world.submit(json!({"type": "x"}));
    world.fleet("a", agent_view(FaultState::Running, &["x"], &[2], Epoch(2)));
    assert_eq!(world.state(&long), TaskState::Assigned);
    world.pass(Duration::from_millis(200));
    let later = world.submit(json!({"type": "x"}));
    world.waits(&bad, TaskState::Queued, WaitReason::Isolation);
    world.waits(&later, TaskState::Queued, WaitReason::Capacity);
    world.succeed(&long);
    assert_eq!(world.state(&bad), TaskState::Assigned);
    assert_eq!(world.state(&later), TaskState::Queued);
}

#[test]
fn a_task_goes_to_the_agent_that_it_prefers_while_that_one_is_free_and_has_not_failed_it() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    world.agent("b", &["x"], &[1]);
    let who = |world: &World, id: &TaskId| world.view(id).assignment.unwrap().agent_id.to_string();
    for preferred in ["b", "a", "b"] {
        let id = world.submit(json!({"type": "x", "prefer": preferred}));
        assert_eq!(who(&world, &id), preferred);
        world.end(&id, Ok(json!(1)));
    }
    let first = world.submit(json!({"type": "x", "prefer": "b"}));
    assert_eq!(who(&world, &first), "b");
    // It is taken: somebody else does it at once.
    let second = world.submit(json!({"type": "x", "prefer": "b"}));
    assert_eq!(who(&world, &second), "a");
}
