//! Who is trusted with what, and what is told of it.

use super::*;

fn checked() -> Value {
    json!({"type": "x", "contract": {"outputSchema": {"type": "string"}}, "retry": {"maxAttempts": 1}})
}

fn trusting() -> Value {
    json!({"type": "x", "trust": true})
}

impl World {
    fn trust_in(&self, agent: &str) -> u32 {
        let (agent, x) = (agent_id(agent), ["x".to_owned()]);
        self.tasks.trust().level(&agent, &x, self.now).millionths()
    }

    fn reset_trust(&mut self, agent: &str, millionths: u32) -> Decision {
        let reset = serde_json::from_value(
            json!({"reason": "test", "score": f64::from(millionths) / 1e6, "capability": "x"}),
        );
        self.run(Command::ResetTrust {
            agent: agent_id(agent),
            by: "user:ada".to_owned(),
            reset: reset.unwrap(),
        })
    }

    /// A result that breaks its schema.
    fn break_contract(&mut self) -> Decision {
        let id = self.submit(checked());
        self.end(&id, Ok(json!(42)))
    }
}

#[test]
fn a_millionth_below_the_threshold_is_not_enough_and_the_threshold_is() {
    let mut world = World::new();
    world.agent("a", &["x"], &[4]);
    world.reset_trust("a", 699_999);
    let id = world.submit(trusting());
    world.waits(&id, TaskState::Parked, WaitReason::Trust);
    let plain = world.submit(json!({"type": "x"}));
    assert_eq!(world.state(&plain), TaskState::Assigned);
    // What it waits for comes: it is handed out in the same decision.
    let decision = world.reset_trust("a", 700_000);
    assert_eq!(delivered(&decision), [format!("{id}#1")]);
}

#[test]
fn a_task_may_name_its_own_level_and_none() {
    let mut world = World::new();
    world.agent("a", &["x"], &[4]);
    world.reset_trust("a", 500_000);
    let spec = |trust: Value| json!({"type": "x", "trust": trust});
    for (trust, goes) in [
        (json!(0.5), true),
        (json!(0.500_001), false),
        (json!(false), true),
        (json!(0), true),
    ] {
        let id = world.submit(spec(trust.clone()));
        let expected = if goes {
            TaskState::Assigned
        } else {
            TaskState::Parked
        };
        assert_eq!(world.state(&id), expected, "{trust}");
    }
}

#[test]
fn the_wait_names_who_lacks_how_much_and_when_time_will_do() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    world.reset_trust("a", 699_000);
    let id = world.submit(trusting());
    let waiting = world.view(&id).waiting_for.unwrap();
    assert_eq!(waiting.detail, "it needs trust 0.7 at x; a has 0.699");
    let ctx = Context {
        now: world.now,
        random: 0,
        config: &world.config,
        known: &world.known,
    };
    let why = world.tasks.explain(&world.live, ctx, &id).unwrap();
    assert_eq!(
        why.candidates[0].reasons,
        ["trust 0.699, and the task needs 0.7"]
    );
    // Nobody has to ask: time alone brings it about, at the time that was named.
    let until = waiting.until.unwrap();
    assert_eq!(world.live.next_timer(), Some(until));
    world.now = until;
    assert_eq!(delivered(&world.run(Command::Tick)), [format!("{id}#1")]);
    assert_eq!(world.live.next_timer(), None);
}

#[test]
fn of_two_the_trusted_one_gets_it_although_the_other_is_idle() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    world.break_contract();
    world.agent("b", &["x"], &[2]);
    let first = world.submit(trusting());
    let second = world.submit(trusting());
    let third = world.submit(trusting());
    assert_eq!(
        (world.agent_of(&first), world.agent_of(&second)),
        ("b".into(), "b".into())
    );
    // It waits for a slot of the one that may have it, not for trust.
    world.waits(&third, TaskState::Queued, WaitReason::Capacity);
}

#[test]
fn trust_that_comes_by_time_wakes_also_what_waits_for_somebody_else() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    world.reset_trust("a", 699_000);
    world.agent("b", &["x"], &[2]);
    let first = world.submit(trusting());
    let second = world.submit(trusting());
    let third = world.submit(trusting());
    for id in [&first, &second] {
        assert_eq!(world.agent_of(id), "b");
    }
    world.waits(&third, TaskState::Queued, WaitReason::Capacity);
    // `b` stays busy, and nothing else happens: the timer is there for `a`.
    let begun = world.now;
    while world.state(&third) == TaskState::Queued {
        world.now = world.live.next_timer().expect("a timer");
        assert!(world.now.since(begun) < Duration::from_hours(24));
        world.run(Command::Tick);
    }
    assert_eq!(world.agent_of(&third), "a");
}

#[test]
fn a_fall_is_known_to_the_very_decision_that_follows_it() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let doomed = world.submit(checked());
    let waits = world.submit(trusting());
    world.waits(&waits, TaskState::Queued, WaitReason::Capacity);
    let decision = world.end(&doomed, Ok(json!(42)));
    assert_eq!(delivered(&decision), [""; 0]);
    world.waits(&waits, TaskState::Parked, WaitReason::Trust);
    let trusting = &decision.trust[0];
    assert!(matches!(
        &decision.events[trusting.after.unwrap()].1,
        TaskEvent::AttemptFailed { .. }
    ));
}

#[test]
fn what_nobody_checked_raises_nothing() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let start = world.trust_in("a");
    for spec in [
        json!({"type": "x"}),
        json!({"type": "x", "contract": {"outputSchema": {}}}),
        json!({"type": "x", "contract": {"outputSchema": {"title": "anything"}}}),
    ] {
        let id = world.submit(spec);
        assert_eq!(world.succeed(&id).trust, []);
    }
    let id = world.submit(checked());
    assert_eq!(world.succeed(&id).trust.len(), 1);
    assert!(world.trust_in("a") > start);
}

#[test]
fn what_an_agent_or_a_person_from_outside_says_of_an_agent_counts_for_nothing() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let start = world.trust_in("a");
    for output in [json!("fine"), json!(42)] {
        let mut command = world.submission(vec![checked()]);
        if let Command::Submit { by, .. } = &mut command {
            *by = "agent:b".to_owned();
        }
        let id = receipts(&world.run(command))[0].id.clone();
        assert_eq!(world.end(&id, Ok(output)).trust, []);
    }
    let id = world.submit(checked());
    let (attempt, _) = world.attempt(&id);
    let told = world.run(Command::AttemptEnded {
        attempt,
        key: None,
        result: Ok(json!("fine")),
    });
    assert_eq!(told.trust, []);
    assert_eq!(world.trust_in("a"), start);
}

#[test]
fn a_misdeed_that_is_announced_again_and_again_counts_once() {
    let mut world = World::new();
    let mut view = agent_view(FaultState::Running, &["x"], &[1], Epoch(1));
    view.digest = Some("blake3:1".to_owned());
    view.misdeeds = vec![mesh_messages::trust::Misdeed {
        record: mesh_messages::Position(9),
        what: "forged its sender".to_owned(),
        severity: mesh_messages::Severity::High,
    }];
    assert_eq!(world.fleet("a", view.clone()).trust.len(), 1);
    let fallen = world.trust_in("a");
    assert_eq!(fallen, 250_000);
    assert_eq!(world.fleet("a", view.clone()).trust, []);
    // Nor does it help to leave and come back.
    world.run(Command::Fleet(FleetChange::Gone(agent_id("a"))));
    assert_eq!(world.fleet("a", view).trust, []);
    assert_eq!(world.trust_in("a"), fallen);
}

#[test]
fn a_poisonous_task_takes_no_trust_at_its_end() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let id = world.submit(json!({"type": "x"}));
    assert_eq!(world.crash(&id).trust.len(), 1);
    let view = agent_view(FaultState::Running, &["x"], &[1], Epoch(2));
    world.fleet("a", view);
    world.next();
    let decision = world.crash(&id);
    assert_eq!(world.state(&id), TaskState::DeadLettered);
    assert_eq!(decision.trust, []);
}

#[test]
fn what_an_agent_says_of_its_own_work_counts_as_verified_by_nobody() {
    let mut world = World::new();
    world.agent("a", &["x"], &[4]);
    let verified = |world: &World| {
        let known = world.tasks.qualities().agent(&agent_id("a"));
        known.map_or(0, |known| known.all.verified)
    };
    let unchecked = |world: &World, id: &TaskId| {
        let error = world.tasks.get(id).unwrap().error.clone().unwrap();
        error.unchecked
    };
    let id = world.submit(checked());
    world.end(&id, Err(Failure::new(FailureClass::Contract, "I broke it")));
    assert!(unchecked(&world, &id));
    assert_eq!(verified(&world), 0);
    let id = world.submit(checked());
    world.end(&id, Ok(json!(42)));
    assert!(!unchecked(&world, &id));
    assert_eq!(verified(&world), 1);
}
