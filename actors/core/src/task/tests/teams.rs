//! Teams that form by themselves.

use mesh_messages::team::{TeamEnd, TeamPattern, TeamPhase};

use super::*;

impl World {
    fn team(&self, id: &TaskId) -> Teamwork {
        *self
            .tasks
            .get(id)
            .unwrap()
            .teamwork
            .clone()
            .expect("a team")
    }

    fn parts_in_hand(&self, agent: &str) -> Vec<InstanceKey> {
        let agent = self.live.fleet.agent(&agent_id(agent)).unwrap().clone();
        let all = agent.instances.iter();
        all.map(|(no, one)| (agent_id("cid"), *no, one.epoch))
            .collect()
    }

    fn parts(&self, id: &TaskId) -> Vec<TaskId> {
        self.team(id)
            .current()
            .map(|part| part.task.clone())
            .collect()
    }
}

fn both() -> Value {
    json!({"requirements": ["research", "write"], "input": {"topic": "tides"}})
}

/// Two agents, neither of which can do it alone.
fn world() -> World {
    let mut world = World::new();
    world.agent("ann", &["research"], &[1]);
    world.agent("bob", &["write"], &[1]);
    world
}

#[test]
fn a_task_that_nobody_can_do_alone_is_done_by_a_team_side_by_side() {
    let mut world = world();
    let decision = world.submit_all(vec![both()]);
    let id = receipts(&decision)[0].id.clone();
    let team = world.team(&id);
    assert_eq!(
        (team.pattern, team.lead.as_ref().unwrap().as_str()),
        (TeamPattern::CrossFunctional, "ann")
    );
    let members: Vec<_> = team
        .parts
        .iter()
        .map(|part| {
            (
                part.agent.as_ref().unwrap().as_str(),
                part.capabilities.join("+"),
            )
        })
        .collect();
    assert_eq!(
        members,
        [("ann", "research".to_owned()), ("bob", "write".to_owned())]
    );
    world.waits(&id, TaskState::Blocked, WaitReason::Team);
    assert_eq!(world.view(&id).column(), "In progress");
    let parts = world.parts(&id);
    assert_eq!(world.view(&id).waiting_for.unwrap().tasks, parts);
    assert_eq!(
        delivered(&decision),
        parts
            .iter()
            .map(|part| format!("{part}#1"))
            .collect::<Vec<_>>()
    );
    for part in &parts {
        let task = world.tasks.get(part).unwrap();
        assert_eq!(task.spec.input, json!({"topic": "tides"}));
        assert_eq!(
            (task.spec.parent.as_ref(), task.submitted_by.as_str()),
            (Some(&id), "user:test")
        );
        assert_eq!(task.deadline_at, world.tasks.get(&id).unwrap().deadline_at);
    }
    world.end(&parts[0], Ok(json!("moon")));
    // What it made is kept until the others have done theirs.
    world.tasks.evict(world.tasks.applied());
    world.replayed.evict(world.replayed.applied());
    let decision = world.end(&parts[1], Ok(json!("text")));
    assert!(decision.effects.contains(&Effect::TaskEnded(id.clone())));
    let task = world.tasks.get(&id).unwrap();
    assert_eq!(
        task.output,
        Some(json!({"research": "moon", "write": "text"}))
    );
    assert_eq!(
        (task.state, world.team(&id).end),
        (TaskState::Succeeded, Some(TeamEnd::Done))
    );
    world.tasks.evict(world.tasks.applied());
    assert_eq!(world.tasks.ids().count(), 0);
}

#[test]
fn where_somebody_leads_the_lead_briefs_and_decides() {
    let mut world = world();
    world.agent("eve", &["lead"], &[1]);
    let mut spec = both();
    spec["contract"] = json!({"outputSchema": {"type": "string"}});
    let id = world.submit(spec);
    let team = world.team(&id);
    assert_eq!(
        (
            team.pattern,
            team.lead.as_ref().unwrap().as_str(),
            team.phase
        ),
        (TeamPattern::Hierarchical, "eve", TeamPhase::Brief)
    );
    let brief = world.parts(&id)[0].clone();
    assert_eq!(world.agent_of(&brief), "eve");
    assert_eq!(
        world.tasks.get(&brief).unwrap().spec.input["members"][1]["capabilities"],
        json!(["write"])
    );
    world.end(&brief, Ok(json!("go")));
    let parts = world.parts(&id);
    assert_eq!(parts.len(), 2);
    assert_eq!(
        world.tasks.get(&parts[0]).unwrap().spec.input["brief"],
        "go"
    );
    for part in &parts {
        world.end(part, Ok(json!("part")));
    }
    let decide = world.parts(&id)[0].clone();
    let spec = &world.tasks.get(&decide).unwrap().spec;
    assert_eq!(
        spec.input["results"],
        json!({"part-1": "part", "part-2": "part"})
    );
    assert!(spec.contract.is_some(), "the lead's result is the team's");
    world.end(&decide, Ok(json!("all")));
    let task = world.tasks.get(&id).unwrap();
    assert_eq!(
        (task.state, task.output.clone()),
        (TaskState::Succeeded, Some(json!("all")))
    );
}

#[test]
fn no_team_is_formed_where_one_could_do_it_in_whatever_state_it_is_or_where_it_is_not_wanted() {
    for fault in [
        FaultState::Stopped,
        FaultState::Quarantined,
        FaultState::Open,
        FaultState::Backoff,
        FaultState::Running,
    ] {
        let mut world = world();
        world.fleet(
            "all",
            agent_view(fault, &["research", "write"], &[], Epoch(1)),
        );
        let id = world.submit(both());
        assert_eq!(world.tasks.get(&id).unwrap().teamwork, None, "{fault:?}");
    }
    let mut world = world();
    // At its limit.
    world.agent("all", &["research", "write"], &[1]);
    let first = world.submit(both());
    assert_eq!(world.agent_of(&first), "all");
    let second = world.submit(both());
    world.waits(&second, TaskState::Queued, WaitReason::Capacity);
    for (key, value) in [("team", json!("never")), ("agent", json!("ann"))] {
        let mut world = self::world();
        let mut spec = both();
        spec[key] = value;
        let id = world.submit(spec);
        world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
    }
}

#[test]
fn what_is_missing_is_said_and_the_team_is_formed_when_it_is_there() {
    let mut world = World::new();
    world.agent("ann", &["research"], &[1]);
    let id = world.submit(both());
    world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
    let detail = |world: &World, id: &TaskId| world.view(id).waiting_for.unwrap().detail;
    assert!(
        detail(&world, &id).contains("nobody has write"),
        "{}",
        detail(&world, &id)
    );
    world.fleet(
        "bob",
        agent_view(FaultState::Stopped, &["write"], &[], Epoch(1)),
    );
    world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
    assert!(
        detail(&world, &id).contains("write is had by bob alone"),
        "{}",
        detail(&world, &id)
    );
    world.agent("bob", &["write"], &[1]);
    world.waits(&id, TaskState::Blocked, WaitReason::Team);
    let mut led = both();
    led["team"] = json!("hierarchical");
    let id = world.submit(led);
    assert!(
        detail(&world, &id).contains("nobody who serves has lead"),
        "{}",
        detail(&world, &id)
    );
    let mut checked = both();
    checked["contract"] = json!({"checks": [{"name": "ok", "command": ["true"]}]});
    let id = world.submit(checked);
    assert!(
        detail(&world, &id).contains("checked where its lead works"),
        "{}",
        detail(&world, &id)
    );
}

#[test]
fn before_it_has_begun_a_team_makes_way_for_one_who_can_do_all() {
    let mut world = world();
    let busy = [
        world.submit(json!({"requirements": ["research"]})),
        world.submit(json!({"requirements": ["write"]})),
    ];
    let id = world.submit(both());
    let parts = world.parts(&id);
    world.agent("all", &["research", "write"], &[1]);
    assert_eq!(world.agent_of(&id), "all");
    assert_eq!(world.team(&id).end, Some(TeamEnd::Disbanded));
    assert!(
        parts
            .iter()
            .all(|part| world.state(part) == TaskState::Cancelled)
    );
    assert!(busy.iter().all(|id| world.state(id).is_in_flight()));
    // Once somebody has begun, the team keeps it.
    let mut world = self::world();
    let id = world.submit(both());
    world.agent("all", &["research", "write"], &[1]);
    world.waits(&id, TaskState::Blocked, WaitReason::Team);
    assert!(world.team(&id).began_at.is_some());
}

#[test]
fn a_team_that_has_not_begun_is_formed_anew_when_a_member_is_gone() {
    let mut world = world();
    world.submit(json!({"requirements": ["research"]}));
    world.submit(json!({"requirements": ["write"]}));
    let id = world.submit(both());
    world.run(Command::Fleet(FleetChange::Gone(agent_id("bob"))));
    world.waits(&id, TaskState::Parked, WaitReason::NoAgent);
    world.agent("cid", &["write"], &[1]);
    world.waits(&id, TaskState::Blocked, WaitReason::Team);
    let team = world.team(&id);
    assert_eq!(
        (team.number, team.parts[1].agent.as_ref().unwrap().as_str()),
        (2, "cid")
    );
    // And one that has begun waits for whoever has what is missing.
    let gone = team.parts[1].task.clone();
    let busy = world.parts_in_hand("cid");
    for key in busy {
        let failure = Failure::new(FailureClass::Lost, "gone");
        world.run(Command::InstanceDown { key, failure });
    }
    world.run(Command::Fleet(FleetChange::Gone(agent_id("cid"))));
    world.pass(Duration::from_secs(1));
    world.waits(&gone, TaskState::Parked, WaitReason::NoAgent);
    let detail = world.view(&id).waiting_for.unwrap().detail;
    assert!(detail.contains("no registered agent has write"), "{detail}");
}

#[test]
fn a_part_that_fails_for_good_ends_the_task_and_the_other_parts() {
    let mut world = world();
    let mut spec = both();
    spec["retry"] = json!({"maxAttempts": 1});
    let id = world.submit(spec.clone());
    let parts = world.parts(&id);
    world.fail(&parts[0], FailureClass::Timeout);
    let task = world.tasks.get(&id).unwrap();
    let error = task.error.clone().unwrap();
    assert_eq!(
        (task.state, error.class),
        (TaskState::DeadLettered, FailureClass::Timeout)
    );
    assert!(
        error.message.contains("part-1") && error.message.contains("ann"),
        "{error}"
    );
    assert_eq!(world.state(&parts[1]), TaskState::Cancelled);
    // Another round is another team.
    world.run(Command::Retry { task: id.clone() });
    world.waits(&id, TaskState::Blocked, WaitReason::Team);
    assert_eq!(world.team(&id).number, 2);
    // Where somebody is to take it up, they are asked first.
    spec["escalate"] = json!([{"person": "operator"}]);
    let mut world = self::world();
    let id = world.submit(spec);
    let parts = world.parts(&id);
    world.fail(&parts[1], FailureClass::Refusal);
    world.waits(&id, TaskState::Blocked, WaitReason::Escalation);
    assert_eq!(world.state(&parts[0]), TaskState::Cancelled);
}

#[test]
fn the_end_of_the_task_is_the_end_of_its_parts() {
    let mut world = world();
    let mut spec = both();
    spec["deadlineMs"] = json!(1000);
    let id = world.submit(spec.clone());
    let parts = world.parts(&id);
    world.run(Command::Cancel {
        task: id.clone(),
        reason: "enough".to_owned(),
    });
    assert!(
        parts
            .iter()
            .all(|part| world.state(part) == TaskState::Cancelled)
    );
    let mut world = self::world();
    let id = world.submit(spec);
    let parts = world.parts(&id);
    world.pass(Duration::from_secs(2));
    assert!(
        world.state(&id).is_terminal() && parts.iter().all(|part| world.state(part).is_terminal())
    );
}

#[test]
fn a_team_has_what_its_task_claims_until_it_ends() {
    let mut world = world();
    let mut spec = both();
    spec["claims"] = json!([{"resource": "repo"}]);
    let decision = world.submit_all(vec![spec.clone()]);
    let id = receipts(&decision)[0].id.clone();
    let handed = decision.effects.iter().filter_map(|effect| match effect {
        Effect::Deliver(delivery) => Some(delivery.claims[0].token),
        _ => None,
    });
    let handed: BTreeSet<_> = handed.collect();
    assert_eq!(handed.len(), 1, "each part may use it");
    let second = world.submit(spec);
    world.waits(&second, TaskState::Parked, WaitReason::Claim);
    let parts = world.parts(&id);
    world.succeed(&parts[0]);
    world.waits(&second, TaskState::Parked, WaitReason::Claim);
    world.succeed(&parts[1]);
    world.waits(&second, TaskState::Blocked, WaitReason::Team);
    // Cancelled, its agents may still be at it.
    let third = world.submit(json!({"requirements": ["write"], "claims": [{"resource": "repo"}]}));
    let keys: Vec<_> = world
        .parts(&second)
        .iter()
        .map(|part| world.attempt(part).1)
        .collect();
    world.run(Command::Cancel {
        task: second,
        reason: "enough".to_owned(),
    });
    world.waits(&third, TaskState::Parked, WaitReason::Claim);
    for (nth, key) in keys.into_iter().enumerate() {
        world.waits(&third, TaskState::Parked, WaitReason::Claim);
        let failure = Failure::new(FailureClass::Crash, "signal 9");
        let (name, can) = [("ann", "research"), ("bob", "write")][nth];
        world.run(Command::InstanceDown { key, failure });
        let again = agent_view(FaultState::Running, &[can], &[1], Epoch(2));
        world.fleet(name, again);
    }
    assert_eq!(world.agent_of(&third), "bob");
}

#[test]
fn what_a_team_hands_in_has_to_keep_the_contract() {
    let mut world = world();
    let mut spec = both();
    spec["contract"] = json!({"outputSchema": {"type": "object", "required": ["write", "sign"]}});
    let id = world.submit(spec);
    for part in world.parts(&id) {
        world.succeed(&part);
    }
    let task = world.tasks.get(&id).unwrap();
    assert_eq!(
        (task.state, task.error.as_ref().unwrap().class),
        (TaskState::Failed, FailureClass::Contract)
    );
}

#[test]
fn the_budget_of_the_task_holds_for_its_parts() {
    let mut world = world();
    let mut spec = both();
    spec["budget"] = json!({"attempts": 1});
    let id = world.submit(spec);
    let parts = world.parts(&id);
    let handed = parts
        .iter()
        .filter(|part| world.state(part).is_in_flight())
        .count();
    assert_eq!(handed, 1, "the second attempt is one too many");
}
