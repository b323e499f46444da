//! One provider, many agents: who waits, for how long, and how they come back.

use mesh_messages::gate::{GateState, ProviderGate};

use super::*;
use crate::gate::{GATE_SPREAD_MAX, RAMP_STEP};

/// As many agents as fell with one account in the story that D9 tells.
const FLEET: usize = 512;

/// Agents that each take one task at a time and all work on one account.
fn fleet_of(world: &mut World, count: usize, provider: &str) {
    for number in 0..count {
        let mut agent = agent_view(FaultState::Running, &["x"], &[1], Epoch(1));
        agent.account = Some(provider.to_owned());
        world.fleet(&format!("{provider}-{number:03}"), agent);
    }
}

fn wide() -> World {
    World::with(TaskConfig {
        max_parallel_tasks: 4096,
        ..TaskConfig::default()
    })
}

fn gate(world: &World) -> ProviderGate {
    let gates: Vec<_> = world.tasks.gates().all().collect();
    assert_eq!(gates.len(), 1, "one account has one gate: {gates:?}");
    gates[0].clone()
}

fn under_way(world: &World) -> Vec<TaskId> {
    let ids = world.tasks.ids();
    ids.filter(|id| world.state(id).is_in_flight())
        .cloned()
        .collect()
}

fn limit(said: Option<u64>) -> Failure {
    Failure {
        retry_after_ms: said,
        ..Failure::new(FailureClass::Quota, "429 Too Many Requests")
    }
}

/// A world whose promises are looked at only where the test asks: after each of thousands of steps it would take minutes.
struct Wide {
    tasks: Tasks,
    live: Live,
    config: TaskConfig,
    known: Known,
    now: Timestamp,
    random: u64,
    reported: Vec<AttemptOutcome>,
}

impl Wide {
    fn run(&mut self, command: Command) {
        let mut next = Some(command);
        while let Some(command) = next.take() {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005) | 1;
            let ctx = Context {
                now: self.now,
                random: self.random,
                config: &self.config,
                known: &self.known,
            };
            let decision = self.tasks.decide(&mut self.live, command, ctx).unwrap();
            let told = decision.effects.into_iter().filter_map(|e| match e {
                Effect::ReportToAgent { outcome, .. } => Some(outcome),
                _ => None,
            });
            self.reported.extend(told);
            next = decision.more.then_some(Command::Tick);
        }
    }

    fn under_way(&self) -> Vec<TaskId> {
        let of = |id: &&TaskId| self.tasks.get(id).unwrap().state.is_in_flight();
        self.tasks.ids().filter(of).cloned().collect()
    }

    fn end(&mut self, id: &TaskId, result: Result<Value, Failure>) {
        let held = self.tasks.record(id).and_then(|r| r.attempt()).unwrap();
        let key = (held.agent_id.clone(), held.instance, held.epoch);
        let attempt = AttemptRef {
            task: id.clone(),
            attempt: held.number,
            epoch: held.epoch,
        };
        self.run(Command::AttemptEnded {
            attempt,
            key: Some(key),
            result,
        });
    }
}

/// The provider answers 429 to everybody, says a time that is too early, and is back later than that.
#[test]
fn five_hundred_agents_at_one_account_wait_once_and_come_back_without_a_herd() {
    let mut world = Wide {
        tasks: Tasks::default(),
        live: Live::default(),
        config: TaskConfig {
            max_parallel_tasks: 4096,
            ..TaskConfig::default()
        },
        known: Known::default(),
        now: Timestamp::from_millis(START),
        random: 7,
        reported: Vec::new(),
    };
    for number in 0..FLEET {
        let mut agent = agent_view(FaultState::Running, &["x"], &[1], Epoch(1));
        agent.account = Some("acme".to_owned());
        let id = agent_id(&format!("a{number:03}"));
        world.run(Command::Fleet(FleetChange::Agent(id, Box::new(agent))));
    }
    world.run(Command::Fleet(FleetChange::Complete));
    let tasks = (0..2 * FLEET).map(|number| NewTask {
        id: TaskId::new(format!("t{number}")).unwrap(),
        fresh: true,
        envelope: None,
        spec: serde_json::from_value(json!({"requirements": ["x"]})).unwrap(),
    });
    let all: Vec<_> = tasks.collect();
    for some in all.chunks(FLEET) {
        world.run(Command::Submit {
            by: "user:test".to_owned(),
            tasks: some.to_vec(),
        });
    }
    assert_eq!(world.under_way().len(), FLEET);

    // The provider has nothing for anybody until then, whatever it says.
    let back = world.now.plus(Duration::from_secs(90));
    let (mut refused, mut refused_at_once, mut most_after) = (0, 0, 0);
    let mut last = 0;
    while world.tasks.live_count() > 0 {
        let busy = world.under_way();
        if world.now < back {
            refused_at_once = refused_at_once.max(busy.len() * usize::from(refused > 0));
            refused += busy.len();
            for id in busy {
                world.end(&id, Err(limit(Some(20_000))));
            }
            assert_eq!(world.tasks.gates().all().count(), 1);
            assert!(
                world.under_way().is_empty(),
                "nobody passes a gate that is closed"
            );
        } else {
            let grown = busy.len().saturating_sub(last);
            most_after = most_after.max(grown);
            last = busy.len();
            for id in busy {
                world.end(&id, Ok(json!("done")));
            }
        }
        if let Some(at) = world.tasks.gates().next_timer()
            && world.under_way().is_empty()
        {
            world.now = world.now.max(at);
            world.run(Command::Tick);
        }
    }
    let ended = world.tasks.counts();
    assert_eq!(
        ended.get(&TaskState::Succeeded),
        Some(&(2 * FLEET as u64)),
        "no task is lost: {ended:?}"
    );
    assert_eq!(refused_at_once, 1, "the limit is tried by one alone");
    assert!(refused <= FLEET + 5, "{refused} requests were refused");
    assert!(
        most_after <= FLEET / 2,
        "{most_after} came back at one moment"
    );
    assert!(
        world.reported.iter().all(|outcome| matches!(
            outcome,
            AttemptOutcome::Succeeded | AttemptOutcome::Unscored(FailureClass::Quota)
        )),
        "no agent is to blame"
    );
    for id in world.tasks.ids() {
        assert_eq!(world.tasks.record(id).unwrap().used, 0);
    }
}

#[test]
fn a_gate_holds_up_its_account_alone_and_others_take_the_work() {
    let mut world = wide();
    fleet_of(&mut world, 2, "acme");
    let id = world.submit(json!({"requirements": ["x"]}));
    let other = world.submit(json!({"requirements": ["x"]}));
    world.end(&id, Err(limit(Some(30_000))));
    world.waits(&id, TaskState::Parked, WaitReason::Quota);
    let until = world.view(&id).waiting_for.unwrap().until.unwrap();
    let wait = until.since(world.now);
    let said = Duration::from_secs(30);
    assert!(
        (said..=said + GATE_SPREAD_MAX).contains(&wait),
        "when it reopens can be seen: {wait:?}"
    );
    assert_eq!(
        world.state(&other),
        TaskState::Assigned,
        "what is under way goes on"
    );
    // An agent on another account is there: it takes what waits at once.
    fleet_of(&mut world, 1, "other");
    assert_eq!(world.agent_of(&id), "other-000");
    world.succeed(&id);
    assert_eq!(
        gate(&world).state,
        GateState::Closed,
        "that tells nothing of this account"
    );
}

#[test]
fn a_long_attempt_that_shows_nothing_does_not_keep_the_gate_shut() {
    let mut world = wide();
    fleet_of(&mut world, 4, "acme");
    let ids: Vec<_> = (0..4)
        .map(|_| world.submit(json!({"requirements": ["x"]})))
        .collect();
    for id in &ids {
        world.end(id, Err(limit(None)));
    }
    world.next();
    assert_eq!(under_way(&world).len(), 1);
    let opened = world.now;
    for many in [2, 4] {
        world.next();
        assert_eq!(under_way(&world).len(), many);
    }
    assert!(
        world.now.since(opened) <= 4 * RAMP_STEP,
        "a step takes at most twice its time"
    );
}

#[test]
fn a_gate_stands_where_it_stood_after_a_restart() {
    let mut world = wide();
    fleet_of(&mut world, 2, "acme");
    let id = world.submit(json!({"requirements": ["x"]}));
    world.end(&id, Err(limit(Some(60_000))));
    let before = gate(&world);
    world.tasks = world.tasks.rebuilt();
    world.live = Live::default();
    world.run(Command::Recover);
    fleet_of(&mut world, 2, "acme");
    world.run(Command::Fleet(FleetChange::Complete));
    assert_eq!(gate(&world), before);
    world.waits(&id, TaskState::Parked, WaitReason::Quota);
    world.now = before.until;
    world.run(Command::Tick);
    assert_eq!(world.state(&id), TaskState::Assigned);
}

#[test]
fn a_person_may_have_it_tried_now_and_it_is_tried_by_one() {
    let mut world = wide();
    fleet_of(&mut world, 3, "acme");
    let ids: Vec<_> = (0..3)
        .map(|_| world.submit(json!({"requirements": ["x"]})))
        .collect();
    for id in &ids {
        world.end(id, Err(limit(Some(3_600_000))));
    }
    let other = Command::TryGate {
        account: "provider:other".to_owned(),
    };
    assert!(matches!(world.refused(other), Refusal::NoGate(_)));
    for _ in 0..2 {
        let decision = world.run(Command::TryGate {
            account: "provider:acme".to_owned(),
        });
        let Answer::Gate(shown) = decision.answer else {
            panic!("{:?}", decision.answer)
        };
        assert_eq!((shown.state, shown.permits), (GateState::Ramping, 1));
        assert_eq!(under_way(&world).len(), 1);
    }
}

#[test]
fn a_limit_that_ends_its_task_closes_the_gate_all_the_same() {
    let mut world = wide();
    fleet_of(&mut world, 1, "acme");
    let id = world.submit(json!({"requirements": ["x"]}));
    let final_one = Failure {
        retryable: false,
        ..limit(None)
    };
    world.end(&id, Err(final_one));
    assert_eq!(world.state(&id), TaskState::Failed);
    assert_eq!(gate(&world).state, GateState::Closed);
    let next = world.submit(json!({"requirements": ["x"]}));
    world.waits(&next, TaskState::Parked, WaitReason::Quota);
}

#[test]
fn one_that_is_refused_again_and_again_does_not_keep_its_submitters_others_from_trying() {
    let mut world = wide();
    fleet_of(&mut world, 2, "acme");
    let greedy = world.submit(json!({"requirements": ["x"]}));
    let other = world.submit(json!({"requirements": ["x"]}));
    for id in [&greedy, &other] {
        world.end(id, Err(limit(Some(3_000))));
    }
    // Whoever was refused longest ago tries next, whichever was submitted first.
    world.next();
    let mut tried = under_way(&world);
    for _ in 0..6 {
        assert_eq!(tried.len(), 1, "one tries, the others wait");
        let first = tried.remove(0);
        world.end(&first, Err(limit(Some(3_000))));
        world.next();
        tried = under_way(&world);
        assert_ne!(tried, [first], "it is the other one's turn");
    }
}
