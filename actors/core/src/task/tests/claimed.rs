//! What a task claims as a whole: all of it with the assignment or none, and whoever waits is called when it is free.

use proptest::prelude::*;

use super::*;
use crate::task::claims::claim_wait;
use crate::task::index::{group_of, waits_for_claims};

impl World {
    /// An attempt under way has what its task claims, and nobody waits for what it could have.
    pub(super) fn check_claimants(&self, more: bool) {
        for id in self.tasks.ids() {
            let entry = self.tasks.entry(id).expect("a held task");
            if waits_for_claims(entry) && !more {
                let group = group_of(entry);
                let mut claims = entry.task().spec.claims.iter();
                // One of its own line has its turn first.
                let behind = claims.any(|claim| {
                    let turn = (group.clone(), claim.resource.clone());
                    self.tasks.index().claiming.contains_key(&turn)
                });
                let wait = claim_wait(&self.tasks, &self.live, entry);
                assert!(behind || wait.is_some(), "{id} waits for nothing");
            }
        }
    }

    fn holds(&self, id: &TaskId) -> Vec<String> {
        self.tasks.claims().held_by(id).cloned().collect()
    }
}

fn claiming(needs: &str, names: &[&str]) -> Value {
    let claims: Vec<_> = names.iter().map(|name| json!({"resource": name})).collect();
    json!({"requirements": [needs], "claims": claims})
}

/// The same, shared with others.
fn sharing(needs: &str, names: &[&str]) -> Value {
    let mut spec = claiming(needs, names);
    for claim in spec["claims"].as_array_mut().expect("a list") {
        claim["mode"] = json!("shared");
    }
    spec
}

fn world(slots: u32) -> World {
    let mut world = World::new();
    world.agent("a", &["work"], &[slots]);
    world.agent("b", &["other"], &[slots]);
    world
}

#[test]
fn an_attempt_comes_with_all_that_its_task_claims_and_gives_it_back_with_its_end() {
    let mut world = world(4);
    let decision = world.submit_all(vec![claiming("work", &["x", "y"])]);
    let first = receipts(&decision)[0].id.clone();
    let Some(Effect::Deliver(delivery)) = decision.effects.first() else {
        panic!("{decision:?}");
    };
    let tokens: Vec<_> = delivery
        .claims
        .iter()
        .map(|one| one.token.unwrap())
        .collect();
    assert!(
        tokens[0] < tokens[1],
        "in the order in which they are named"
    );
    // Of another line, and it needs one of them: it does not take the free one meanwhile.
    let second = world.submit(claiming("other", &["z", "y"]));
    world.waits(&second, TaskState::Parked, WaitReason::Claim);
    let waits = world.view(&second).waiting_for.unwrap();
    assert_eq!(
        waits.tasks,
        std::slice::from_ref(&first),
        "{}",
        waits.detail
    );
    assert_eq!(world.view(&second).column(), "Blocked");
    assert!(world.holds(&second).is_empty());
    let shown: Vec<_> = world.tasks.claimed().collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!((&*shown[0].resource, &*shown[0].tasks), ("x", &[][..]));
    assert_eq!(shown[1].resource, "y");
    assert_eq!(shown[1].tasks, std::slice::from_ref(&second));
    assert!(shown[1].waiting.is_empty(), "it has no attempt");
    let decision = world.succeed(&first);
    assert_eq!(delivered(&decision), [format!("{second}#1")]);
    assert_eq!(world.holds(&second), ["y", "z"]);
    assert!(world.tasks.claimed().all(|claim| claim.tasks.is_empty()));
}

#[test]
fn every_end_of_an_attempt_gives_back_what_it_had() {
    for end in 0..4 {
        let mut world = world(2);
        world.config.retry.max_attempts = 1;
        let first = world.submit(claiming("work", &["x"]));
        let second = world.submit(claiming("other", &["x"]));
        let decision = match end {
            0 => world.fail(&first, FailureClass::Refusal),
            1 => world.crash(&first),
            2 => world.run(Command::Recover),
            _ => {
                let key = world.attempt(&first).1;
                let task = first.clone();
                let reason = "enough".to_owned();
                world.run(Command::Cancel { task, reason });
                // Whoever works on it may still be at it: until it is known to be gone, nobody gets it.
                world.waits(&second, TaskState::Parked, WaitReason::Claim);
                let failure = Failure::new(FailureClass::Crash, "signal 9");
                world.run(Command::InstanceDown { key, failure })
            }
        };
        let others = delivered(&decision);
        // What was lost with meshd is tried again at once, and stands before it.
        let next = if end == 2 {
            format!("{first}#2")
        } else {
            format!("{second}#1")
        };
        assert!(others.contains(&next), "{end}: {others:?}");
    }
}

#[test]
fn whoever_waits_for_several_is_not_overtaken_for_ever() {
    let mut world = world(8);
    let x = world.submit(claiming("work", &["x"]));
    let both = world.submit(claiming("other", &["x", "y"]));
    // `y` is free, and an earlier one wants it.
    let y = world.submit(claiming("work", &["y"]));
    world.waits(&y, TaskState::Parked, WaitReason::Claim);
    assert_eq!(delivered(&world.succeed(&x)), [format!("{both}#1")]);
    assert_eq!(delivered(&world.succeed(&both)), [format!("{y}#1")]);
}

#[test]
fn tasks_share_what_they_read_and_one_that_writes_is_not_overtaken() {
    let mut world = world(8);
    let readers: Vec<_> = (0..3)
        .map(|_| world.submit(sharing("work", &["x"])))
        .collect();
    assert!(
        readers
            .iter()
            .all(|id| world.state(id) == TaskState::Assigned)
    );
    let writer = world.submit(claiming("other", &["x"]));
    world.waits(&writer, TaskState::Parked, WaitReason::Claim);
    let late: Vec<_> = (0..3)
        .map(|_| world.submit(sharing("work", &["x"])))
        .collect();
    for id in &late {
        world.waits(id, TaskState::Parked, WaitReason::Claim);
    }
    for (nth, id) in readers.iter().enumerate() {
        let decision = world.succeed(id);
        let next = if nth == 2 {
            vec![format!("{writer}#1")]
        } else {
            Vec::new()
        };
        assert_eq!(delivered(&decision), next);
    }
    let decision = world.succeed(&writer);
    let all: Vec<_> = late.iter().map(|id| format!("{id}#1")).collect();
    assert_eq!(delivered(&decision), all, "all of them at once");
}

#[test]
fn what_is_still_being_ended_keeps_out_who_wants_it_alone_and_not_who_shares() {
    let mut world = world(8);
    let first = world.submit(sharing("work", &["x"]));
    let key = world.attempt(&first).1;
    world.take_up(&key);
    world.run(Command::Cancel {
        task: first,
        reason: "enough".to_owned(),
    });
    let second = world.submit(sharing("other", &["x"]));
    assert_eq!(world.agent_of(&second), "b");
    world.succeed(&second);
    let third = world.submit(claiming("other", &["x"]));
    world.waits(&third, TaskState::Parked, WaitReason::Claim);
    world.run(Command::InstanceDown {
        key,
        failure: Failure::new(FailureClass::Crash, "signal 9"),
    });
    assert_eq!(world.agent_of(&third), "b");
}

#[test]
fn a_delegated_task_shares_what_the_one_above_it_shares() {
    let mut world = world(8);
    let parent = world.submit(sharing("work", &["x"]));
    let writer = world.submit(claiming("other", &["x"]));
    world.waits(&writer, TaskState::Parked, WaitReason::Claim);
    let (asked, key) = world.attempt(&parent);
    let asker = Asker {
        parent: asked,
        key,
        request: "r".to_owned(),
    };
    let spec = serde_json::from_value(sharing("other", &["x"])).unwrap();
    let decision = world.run(Command::Delegate {
        envelope: None,
        asker,
        spec: Box::new(spec),
    });
    let Answer::Child(child) = decision.answer.clone() else {
        panic!("{decision:?}");
    };
    // The one above it would wait for it for ever.
    assert_eq!(delivered(&decision), [format!("{child}#1")]);
}

#[test]
fn a_delegated_task_does_not_stand_behind_one_that_waits_for_its_parent() {
    let mut world = world(8);
    let parent = world.submit(claiming("work", &["x"]));
    let both = world.submit(claiming("other", &["x", "y"]));
    let (asked, key) = world.attempt(&parent);
    let spec = serde_json::from_value(claiming("work", &["y"])).unwrap();
    let asker = Asker {
        parent: asked,
        key,
        request: "r".to_owned(),
    };
    let decision = world.run(Command::Delegate {
        envelope: None,
        asker: asker.clone(),
        spec: Box::new(spec),
    });
    let Answer::Child(child) = decision.answer.clone() else {
        panic!("{decision:?}");
    };
    assert_eq!(delivered(&decision), [format!("{child}#1")]);
    world.succeed(&child);
    assert_eq!(delivered(&world.succeed(&parent)), [format!("{both}#1")]);
    // What its parent has, it would wait for in vain.
    let parent = world.submit(claiming("work", &["p"]));
    let (asked, key) = world.attempt(&parent);
    let spec = serde_json::from_value(claiming("work", &["q", "p"])).unwrap();
    let asker = Asker {
        parent: asked,
        key,
        request: "r".to_owned(),
    };
    let refusal = world.refused(Command::Delegate {
        envelope: None,
        asker,
        spec: Box::new(spec),
    });
    assert!(
        refusal.to_string().contains("claims[1].resource"),
        "{refusal}"
    );
}

#[test]
fn those_of_one_line_are_called_one_by_one() {
    let mut world = world(2);
    let specs = (0..50).map(|_| claiming("work", &["x"]));
    let decision = world.submit_all(specs.collect());
    let ids: Vec<_> = receipts(&decision)
        .iter()
        .map(|one| one.id.clone())
        .collect();
    for pair in ids.windows(2) {
        let decision = world.succeed(&pair[0]);
        assert_eq!(delivered(&decision), [format!("{}#1", pair[1])]);
        assert!(decision.events.len() < 10, "{:?}", kinds(&decision));
    }
}

#[test]
fn where_no_agent_is_nobody_is_kept_waiting_for_one_who_cannot_go() {
    let mut world = world(2);
    let first = world.submit(claiming("work", &["x"]));
    let nobody = world.submit(claiming("unknown", &["x"]));
    let other = world.submit(claiming("other", &["x"]));
    world.succeed(&first);
    assert_eq!(world.state(&other), TaskState::Assigned);
    world.succeed(&other);
    world.waits(&nobody, TaskState::Parked, WaitReason::NoAgent);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_path() {
    let mut world = world(1);
    let claims = json!([{"resource": ""}, {"resource": "a"}, {"resource": "a"}, {"resource": "b", "token": 3}]);
    let command = world.submission(vec![json!({"requirements": ["work"], "claims": claims})]);
    let Refusal::Invalid { errors } = world.refused(command) else {
        panic!("it is invalid");
    };
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "claims[0].resource",
            "claims[2].resource",
            "claims[3].token"
        ]
    );
    let many: Vec<_> = (0..17)
        .map(|n| json!({"resource": format!("r{n}")}))
        .collect();
    let command = world.submission(vec![json!({"requirements": ["work"], "claims": many})]);
    let refusal = world.refused(command).to_string();
    assert!(refusal.contains("at most 16"), "{refusal}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is claimed, whoever ends how: the world itself checks that nobody waits for what is free; and all come to
    /// their end as soon as those before them do.
    #[test]
    fn nobody_waits_for_ever(
        steps in prop::collection::vec((0..8_u8, 0..8_u8, 0..4_usize, 1..4_u32), 1..60),
    ) {
        let mut world = world(2);
        world.config.retry.max_attempts = 100;
        let mut ids: Vec<TaskId> = Vec::new();
        let mut epoch = 1;
        for (what, set, who, some) in steps {
            let names: Vec<_> = ["x", "y", "z"].into_iter().enumerate()
                .filter_map(|(n, name)| (set & (1 << n) != 0).then_some(name)).collect();
            let going: Vec<_> = ids.iter().filter(|id| world.tasks.record(id).is_some_and(|r| r.attempt().is_some())).cloned().collect();
            let one = (!going.is_empty()).then(|| going[who % going.len()].clone());
            match (what, one) {
                (0..=1, _) => ids.push(world.submit(claiming(["work", "other"][who % 2], &names))),
                (2..=3, _) => ids.push(world.submit(sharing(["work", "other"][who % 2], &names))),
                (4, Some(id)) => { world.succeed(&id); }
                (5, Some(id)) => {
                    let (asked, key) = world.attempt(&id);
                    let asker = Asker { parent: asked, key, request: format!("q{some}") };
                    let spec = if some == 1 { sharing("other", &names) } else { claiming("other", &names) };
                    let spec = serde_json::from_value(spec).unwrap();
                    if let Ok(decision) = world.decide(Command::Delegate { envelope: None, asker, spec: Box::new(spec) })
                        && let Answer::Child(child) = decision.answer
                        && !ids.contains(&child)
                    {
                        ids.push(child);
                    }
                }
                (6, Some(id)) => {
                    world.crash(&id);
                    epoch += 1;
                    let name = ["a", "b"][who % 2];
                    let can = ["work", "other"][who % 2];
                    world.fleet(name, agent_view(FaultState::Running, &[can], &[2], Epoch(epoch)));
                }
                _ => { world.pass(Duration::from_secs(u64::from(some) * 30)); }
            }
        }
        epoch += 1;
        for (name, can) in [("a", "work"), ("b", "other")] {
            let view = agent_view(FaultState::Running, &[can], &[8], Epoch(epoch));
            world.fleet(name, view);
        }
        let mut turns = 0;
        loop {
            turns += 1;
            prop_assert!(turns < 2000, "it comes to no end");
            let going: Vec<_> = ids.iter().filter(|id| world.tasks.record(id).is_some_and(|r| r.attempt().is_some())).cloned().collect();
            // A child before its parent.
            if let Some(id) = going.last() {
                world.succeed(id);
                continue;
            }
            let open = ids.iter().filter(|id| !world.outcomes.contains_key(*id)).count();
            if open == 0 {
                break;
            }
            world.pass(Duration::from_mins(1));
        }
        prop_assert_eq!(world.tasks.claims().all().count(), 0);
    }
}
