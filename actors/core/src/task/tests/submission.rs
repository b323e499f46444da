//! What is accepted, what is refused, and what a second submission of the same task gets.

use super::*;

fn fields(refusal: &Refusal) -> Vec<&str> {
    match refusal {
        Refusal::Invalid { errors } => errors.iter().map(|e| e.path.as_str()).collect(),
        other => panic!("expected an invalid submission, got {other:?}"),
    }
}

#[test]
fn an_array_is_accepted_whole_or_not_at_all_and_every_error_is_named() {
    let mut world = World::new();
    let specs = vec![
        json!({"type": "ok"}),
        json!({"requirements": ["not ok"], "trust": 2}),
        json!({"type": "x", "dependsOn": ["nobody"], "parent": "nobody"}),
    ];
    let command = world.submission(specs);
    let refusal = world.refused(command);
    assert_eq!(
        fields(&refusal),
        [
            "[1].requirements[0]",
            "[1].trust",
            "[2].dependsOn[0]",
            "[2].parent"
        ]
    );
    assert_eq!(world.tasks.ids().count(), 0);
}

#[test]
fn a_single_task_has_its_fields_named_without_an_index() {
    let mut world = World::new();
    let command = world.submission(vec![json!({})]);
    let refusal = world.refused(command);
    assert_eq!(fields(&refusal), ["requirements"]);
    let problem = mesh_messages::problem::Problem::from(refusal);
    assert_eq!(
        (problem.kind.status(), problem.field.as_deref()),
        (422, Some("requirements"))
    );
}

#[test]
fn the_size_of_a_submission_is_bounded() {
    let mut world = World::new();
    let command = world.submission(Vec::new());
    assert_eq!(fields(&world.refused(command)), [""]);
    let command = world.submission(vec![json!({"type": "x"}); 1001]);
    assert_eq!(fields(&world.refused(command)), [""]);
    let large = json!({"type": "x", "input": "y".repeat(20_000)});
    let command = world.submission(vec![large; 200]);
    assert!(matches!(world.refused(command), Refusal::TooLarge { .. }));
    let decision = world.submit_all(vec![json!({"type": "x"}); 1000]);
    assert_eq!(receipts(&decision).len(), 1000);
}

#[test]
fn an_id_that_a_task_has_or_had_is_not_given_out_again() {
    let mut world = World::new();
    let first = world.submit(json!({"type": "x"}));
    world.ids = 0;
    let again = world.submission(vec![json!({"type": "x"})]);
    assert_eq!(
        world.refused(again.clone()),
        Refusal::IdTaken(first.clone())
    );

    let record = world.tasks.record(&first).unwrap().clone();
    let cancel = Command::Cancel {
        task: first.clone(),
        reason: String::new(),
    };
    world.run(cancel);
    world.tasks.evict(world.tasks.applied());
    world.replayed.evict(world.replayed.applied());
    assert_eq!(
        world.tasks.lookups(&again).tasks,
        BTreeSet::from([first.clone()])
    );
    world.known.tasks.insert(first.clone(), record);
    assert_eq!(world.refused(again), Refusal::IdTaken(first));
}

#[test]
fn nothing_new_depends_on_what_is_about_to_be_removed_and_a_replay_is_still_answered() {
    let mut world = World::new();
    let (first, other) = (
        world.submit(json!({"type": "x"})),
        world.submit(json!({"type": "x"})),
    );
    let depends = json!({"type": "y", "dependsOn": [other, first], "idempotencyKey": "k"});
    let command = world.submission(vec![depends]);
    let before = world.run(command.clone());
    world.known.removing.insert(first.clone());
    let again = world.run(command);
    assert_eq!(receipts(&again)[0].id, receipts(&before)[0].id);
    let command = world.submission(vec![json!({"type": "y", "dependsOn": [other, first]})]);
    assert_eq!(fields(&world.refused(command)), ["dependsOn[1]"]);
    let command = world.submission(vec![json!({"type": "y", "dependsOn": [other]})]);
    assert_eq!(receipts(&world.run(command)).len(), 1);
}

#[test]
fn defaults_are_decided_at_submission() {
    let mut world = World::new();
    let id = world.submit(json!({"type": "x", "retry": {"maxAttempts": 7}}));
    let record = world.tasks.record(&id).unwrap();
    assert_eq!(
        record.task.deadline_at,
        world.now.plus(Duration::from_hours(24))
    );
    assert_eq!(
        record.retry,
        RetryPolicy {
            max_attempts: 7,
            ..RetryPolicy::default()
        }
    );
}

#[test]
fn one_key_and_one_content_is_one_task_also_after_it_has_ended() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let spec = json!({"type": "x", "idempotencyKey": "k"});
    let first = world.submit(spec.clone());
    assert_eq!(world.submit(spec.clone()), first);
    world.succeed(&first);
    let again = world.submit_all(vec![spec]);
    assert_eq!(receipts(&again)[0].id, first);
    assert_eq!(receipts(&again)[0].state, TaskState::Succeeded);
    assert_eq!((again.events.len(), again.effects.len()), (0, 0));
    assert!(matches!(
        again.answer,
        Answer::Receipts { replayed: true, .. }
    ));
}

#[test]
fn one_key_and_another_content_is_a_conflict_that_changes_nothing() {
    let mut world = World::new();
    let first = world.submit(json!({"type": "x", "idempotencyKey": "k"}));
    let other = json!({"type": "x", "idempotencyKey": "k", "input": 1});
    let command = world.submission(vec![json!({"type": "y"}), other]);
    let refusal = world.refused(command);
    assert_eq!(
        refusal,
        Refusal::KeyTaken {
            key: "k".to_owned(),
            task: first
        }
    );
}

#[test]
fn keys_are_kept_per_caller_and_work_within_one_array() {
    let mut world = World::new();
    let spec = json!({"type": "x", "idempotencyKey": "k"});
    let decision = world.submit_all(vec![spec.clone(); 2]);
    assert_eq!(receipts(&decision)[0].id, receipts(&decision)[1].id);
    assert!(matches!(
        decision.answer,
        Answer::Receipts {
            replayed: false,
            ..
        }
    ));
    let Command::Submit { tasks, .. } = world.submission(vec![spec]) else {
        unreachable!()
    };
    let decision = world.run(Command::Submit {
        by: "user:other".to_owned(),
        tasks,
    });
    assert_ne!(receipts(&decision)[0].id.as_str(), "t1");
}

#[test]
fn a_key_of_a_task_that_is_no_longer_held_is_answered_from_the_read_side() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let spec = json!({"type": "x", "idempotencyKey": "k"});
    let first = world.submit(spec.clone());
    world.succeed(&first);
    let record = world.tasks.record(&first).unwrap().clone();
    world.tasks.evict(world.tasks.applied());
    world.replayed.evict(world.replayed.applied());
    assert_eq!(world.tasks.ids().count(), 0);

    let command = world.submission(vec![spec.clone()]);
    let wanted = world.tasks.lookups(&command);
    assert_eq!(
        wanted.keys,
        BTreeSet::from([("user:test".to_owned(), "k".to_owned())])
    );
    world
        .known
        .keys
        .extend(wanted.keys.into_iter().map(|key| (key, record.clone())));
    let decision = world.run(command);
    assert_eq!(
        (receipts(&decision)[0].id.clone(), decision.events.len()),
        (first, 0)
    );
    let other = world.submission(vec![json!({"type": "y", "idempotencyKey": "k"})]);
    assert!(matches!(world.refused(other), Refusal::KeyTaken { .. }));
}

#[test]
fn a_task_waits_for_its_dependencies_and_then_runs() {
    let mut world = World::new();
    world.agent("a", &["x"], &[4]);
    let (one, two) = (
        world.submit(json!({"type": "x"})),
        world.submit(json!({"type": "x"})),
    );
    let last = world.submit(json!({"type": "x", "dependsOn": [one, two]}));
    world.waits(&last, TaskState::Blocked, WaitReason::Dependency);
    world.succeed(&one);
    assert_eq!(
        world.view(&last).waiting_for.unwrap().tasks,
        [two.as_str()].map(|id| TaskId::new(id).unwrap())
    );
    let decision = world.succeed(&two);
    assert_eq!(delivered(&decision), [format!("{last}#1")]);
    let late = world.submit(json!({"type": "x", "dependsOn": [one]}));
    assert_eq!(world.state(&late), TaskState::Assigned);
}

#[test]
fn a_task_is_cancelled_with_the_dependency_that_did_not_succeed_named() {
    let mut world = World::new();
    world.agent("a", &["x"], &[4]);
    let one = world.submit(json!({"type": "x"}));
    let two = world.submit(json!({"type": "y", "dependsOn": [one]}));
    let three = world.submit(json!({"type": "y", "dependsOn": [two]}));
    world.fail(&one, FailureClass::Refusal);
    for (id, named) in [(&two, &one), (&three, &two)] {
        let task = world.view(id);
        assert_eq!(task.state, TaskState::Cancelled);
        assert!(task.error.unwrap().message.contains(named.as_str()));
    }
    let late = world.submit(json!({"type": "x", "dependsOn": [one]}));
    assert_eq!(world.state(&late), TaskState::Cancelled);
}
