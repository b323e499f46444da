//! Tasks that agents decline.

use super::*;

fn world() -> World {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.agent(name, &["work"], &[1]);
    }
    world
}

#[test]
fn the_next_best_is_offered_what_one_declines_and_it_costs_nobody_anything() {
    let mut world = world();
    let id = world.submit(json!({"type": "work", "retry": {"maxAttempts": 1}}));
    let first = world.agent_of(&id);
    let decision = world.fail(&id, FailureClass::Declined);
    let second = world.agent_of(&id);
    assert_ne!(first, second);
    assert_eq!(delivered(&decision), [format!("{id}#2")]);
    let record = world.tasks.record(&id).unwrap();
    assert_eq!((record.used, record.failed_on.len()), (0, 0));
    let error = record.task.attempts[0].error.clone().unwrap();
    assert_eq!(error.class, FailureClass::Declined);
    let told = Effect::ReportToAgent {
        key: (agent_id(&first), InstanceNo(0), Epoch(1)),
        task: id.clone(),
        outcome: AttemptOutcome::Unscored(FailureClass::Declined),
    };
    assert!(decision.effects.contains(&told), "{decision:?}");
    assert!(decision.trust.is_empty());
    assert_eq!(world.tasks.stats().successes(&agent_id(&first)), 0);
    world.succeed(&id);
}

#[test]
fn when_all_have_declined_it_is_dead_lettered_or_somebody_takes_it_up() {
    let mut world = world();
    let plain = world.submit(json!({"type": "work"}));
    let taken = world.submit(json!({"type": "work", "escalate": [{"person": "operator"}]}));
    for id in [&plain, &taken] {
        let mut asked = BTreeSet::new();
        while world.state(id).is_in_flight() {
            assert!(asked.insert(world.agent_of(id)), "nobody is asked twice");
            world.fail(id, FailureClass::Declined);
            // The other one has a slot of its own, or waits for one.
            if world.state(id) == TaskState::Queued {
                let other = if *id == plain { &taken } else { &plain };
                if world.state(other).is_in_flight() {
                    world.fail(other, FailureClass::Declined);
                }
            }
        }
    }
    assert_eq!(world.state(&plain), TaskState::DeadLettered);
    let error = world.tasks.get(&plain).unwrap().error.clone().unwrap();
    assert!(error.message.contains("declined by all"), "{error}");
    world.waits(&taken, TaskState::Blocked, WaitReason::Escalation);
}

#[test]
fn an_incarnation_that_declined_is_not_asked_again_and_another_is() {
    let mut world = World::new();
    world.agent("a", &["work"], &[1]);
    let down = agent_view(FaultState::Stopped, &["work"], &[], Epoch(1));
    world.fleet("b", down);
    let id = world.submit(json!({"type": "work"}));
    world.fail(&id, FailureClass::Declined);
    // There is one more that could have it, if it ran.
    assert_eq!(world.state(&id), TaskState::Queued);
    let waits = world.view(&id).waiting_for.unwrap();
    assert_eq!(waits.reason, WaitReason::AgentDown);
    assert!(waits.detail.contains("declined it"), "{waits:?}");
    let next = world.submit(json!({"type": "work"}));
    assert_eq!(world.agent_of(&next), "a", "it holds up nobody else");
    world.succeed(&next);
    assert_eq!(world.state(&id), TaskState::Queued);
    let fresh = agent_view(FaultState::Running, &["work"], &[1], Epoch(2));
    world.run(Command::InstanceDown {
        key: (agent_id("a"), InstanceNo(0), Epoch(1)),
        failure: Failure::new(FailureClass::Crash, "signal 9"),
    });
    world.fleet("a", fresh);
    assert_eq!(
        world.attempt(&id).1,
        (agent_id("a"), InstanceNo(0), Epoch(2))
    );
    world.succeed(&id);
}

#[test]
fn a_round_has_so_many_declines_and_the_next_begins_anew() {
    let mut world = World::new();
    world.agent("a", &["work"], &[1]);
    world.fleet(
        "b",
        agent_view(FaultState::Stopped, &["work"], &[], Epoch(1)),
    );
    let id = world.submit(json!({"type": "work"}));
    let mut epoch = 1;
    while world.state(&id) != TaskState::DeadLettered {
        world.fail(&id, FailureClass::Declined);
        world.run(Command::InstanceDown {
            key: (agent_id("a"), InstanceNo(0), Epoch(epoch)),
            failure: Failure::new(FailureClass::Lost, "restarted"),
        });
        epoch += 1;
        world.fleet(
            "a",
            agent_view(FaultState::Running, &["work"], &[1], Epoch(epoch)),
        );
    }
    assert_eq!(epoch, 1 + DECLINES_MAX as u64);
    world.run(Command::Retry { task: id.clone() });
    assert_eq!(world.agent_of(&id), "a");
}

#[test]
fn a_task_for_one_agent_ends_when_that_one_declines() {
    let mut world = world();
    let id = world.submit(json!({"type": "work", "agent": "b"}));
    world.fail(&id, FailureClass::Declined);
    assert_eq!(world.state(&id), TaskState::DeadLettered);
}
