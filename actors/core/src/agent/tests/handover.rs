//! State that is handed on.

use super::*;

const BOTH: [&str; 2] = ["save_state", "restore_state"];

fn soft() -> AgentCommand {
    AgentCommand::Upgrade {
        target: None,
        forceful: false,
        rollback: false,
        kind: "soft".to_owned(),
    }
}

impl World {
    /// A replica shakes hands, naming these hooks, and serves.
    fn up(&mut self, no: u32, hooks: &[&str]) -> Decision {
        let (instance, epoch) = self.who(no);
        self.run(AgentCommand::Handshaken {
            instance,
            epoch,
            hooks: hooks.iter().map(|hook| (*hook).to_owned()).collect(),
            proven: None,
        });
        self.run(AgentCommand::Ready { instance, epoch })
    }

    fn who(&self, no: u32) -> (InstanceNo, Epoch) {
        let instance = InstanceNo(no);
        (instance, self.state.instances[&instance].epoch)
    }

    fn save(&mut self, no: u32, answer: Result<Value, &str>) -> Decision {
        let (instance, epoch) = self.who(no);
        let answer = answer.map(Arc::new).map_err(str::to_owned);
        self.run(AgentCommand::Saved {
            instance,
            epoch,
            answer,
        })
    }

    fn kept(&self) -> Vec<(u32, Value)> {
        let saved = self.state.saved.iter();
        saved
            .map(|(no, saved)| (no.0, (*saved.state).clone()))
            .collect()
    }
}

/// A world in which so many replicas serve that name both hooks, and a newer version is there.
fn handing(replicas: u32) -> World {
    let mut world = World::new(replicas);
    world.run(AgentCommand::Start);
    for no in 0..replicas {
        world.up(no, &BOTH);
    }
    world.register("1.1.0", replicas);
    world
}

#[test]
fn what_the_old_version_says_is_on_record_before_it_ends_and_taken_by_the_new_one() {
    let mut world = handing(2);
    let begun = world.run(soft());
    expect(
        &world,
        &begun,
        &["executing -> upgrading"],
        &["hand over 0@1", "hand over 1@2"],
    );
    let saved = world.save(0, Ok(json!({"a": 1})));
    expect(&world, &saved, &["saved 0@1"], &["kept 1"]);
    let none = world.save(1, Ok(Value::Null));
    expect(&world, &none, &[], &["kept 2"]);
    world.end(0, None);
    world.end(1, None);
    let both = [(0, json!({"a": 1}))];
    assert_eq!(world.kept(), both);
    let up = world.up(0, &BOTH);
    expect(&world, &up, &["started 0@3"], &[]);
    assert_eq!(world.kept(), both, "the exchange is not over");
    let up = world.up(1, &BOTH);
    assert_eq!(
        up.effects.last(),
        Some(&AgentEffect::UpgradeDone { error: None })
    );
    assert_eq!(world.kept(), []);
}

#[test]
fn where_one_replica_fails_the_old_version_has_the_state_of_all_again() {
    let mut world = handing(2);
    world.run(soft());
    for no in 0..2 {
        world.save(no, Ok(json!(no)));
    }
    for no in 0..2 {
        world.end(no, None);
    }
    world.up(0, &BOTH);
    world.end(1, Some(FailureClass::Start));
    world.end(0, None);
    assert_eq!(world.kept(), [(0, json!(0)), (1, json!(1))]);
    // The one that failed is the first to be started again.
    for (no, taken) in [
        (1, ["restored 1@5 from 2", "started 1@5"]),
        (0, ["restored 0@6 from 1", "started 0@6"]),
    ] {
        let up = world.up(no, &BOTH);
        expect(&world, &up, &taken, &[]);
    }
    assert_eq!(world.state.current.as_deref(), Some("1.0.0"));
    assert_eq!(world.kept(), []);
}

#[test]
fn a_new_version_that_cannot_take_it_gives_way_to_the_old_one_which_gets_it_back() {
    let mut world = handing(1);
    world.run(soft());
    world.save(0, Ok(json!("v1")));
    world.end(0, None);
    let (instance, epoch) = world.who(0);
    world.run(AgentCommand::Handshaken {
        instance,
        epoch,
        hooks: BOTH.map(str::to_owned).to_vec(),
        proven: None,
    });
    let failed = world.end(0, Some(FailureClass::Start));
    expect(
        &world,
        &failed,
        &[
            "failed 0@2 start",
            "upgrading -> registered",
            "activated 0@3 1.0.0",
        ],
        &["down 0@2 start", "upgrade done false", "spawn 0@3 1.0.0"],
    );
    assert_eq!(world.kept(), [(0, json!("v1"))], "it is still there");
    let up = world.up(0, &BOTH);
    expect(&world, &up, &["restored 0@3 from 1", "started 0@3"], &[]);
    assert_eq!(world.state.current.as_deref(), Some("1.0.0"));
}

#[test]
fn an_upgrade_without_the_state_that_was_asked_for_is_given_up() {
    for silent in [false, true] {
        let mut world = handing(1);
        world.run(soft());
        if silent {
            let ended = world.end(0, Some(FailureClass::Crash));
            expect(
                &world,
                &ended,
                &[
                    "lost 0@1",
                    "upgrading -> registered",
                    "stopped 0@1",
                    "activated 0@2 1.0.0",
                ],
                &["upgrade done false", "down 0@1 lost", "spawn 0@2 1.0.0"],
            );
        } else {
            let refused = world.save(0, Err("too large"));
            expect(
                &world,
                &refused,
                &["lost 0@1", "upgrading -> registered"],
                &["upgrade done false", "kept 1"],
            );
            world.end(0, None);
        }
        world.up(0, &BOTH);
        assert_eq!(world.state.current.as_deref(), Some("1.0.0"));
    }
}

#[test]
fn a_restart_by_order_hands_on_and_what_fails_by_it_is_not_given_twice() {
    let mut world = handing(1);
    let told = world.run(AgentCommand::Restart);
    assert_eq!(
        told.effects,
        [AgentEffect::Stop {
            instance: InstanceNo(0),
            epoch: Epoch(1),
            how: StopKind::HandOver,
        }]
    );
    world.save(0, Ok(json!(1)));
    world.end(0, None);
    let (instance, epoch) = world.who(0);
    let hooks = BOTH.map(str::to_owned).to_vec();
    world.run(AgentCommand::Handshaken {
        instance,
        epoch,
        hooks,
        proven: None,
    });
    world.end(0, Some(FailureClass::Start));
    assert_eq!(world.kept(), [], "the next start is without it");
}

#[test]
fn what_was_saved_outlives_meshd_and_ends_with_the_agent() {
    let mut world = handing(1);
    world.run(soft());
    world.save(0, Ok(json!(1)));
    world.reboot();
    assert_eq!(world.kept(), [(0, json!(1))]);
    let up = world.up(0, &BOTH);
    expect(
        &world,
        &up,
        &["fault running", "restored 0@2 from 1", "started 0@2"],
        &[],
    );
    world.run(AgentCommand::Restart);
    world.save(0, Ok(json!(2)));
    world.run(AgentCommand::Terminate {
        reason: "over".to_owned(),
    });
    assert_eq!(world.kept(), []);
}

#[test]
fn who_names_no_hook_is_asked_for_nothing() {
    let mut world = World::serving(1);
    world.register("1.1.0", 1);
    let begun = world.run(soft());
    expect(&world, &begun, &["executing -> upgrading"], &["drain 0@1"]);
    // Nor is one that is asked to be exchanged hard.
    let mut world = handing(1);
    let hard = AgentCommand::Upgrade {
        target: None,
        forceful: false,
        rollback: false,
        kind: "hard".to_owned(),
    };
    let begun = world.run(hard);
    expect(&world, &begun, &["executing -> upgrading"], &["drain 0@1"]);
}

#[test]
fn a_replica_that_names_no_hook_to_take_it_ends_what_was_saved() {
    let mut world = handing(1);
    world.run(AgentCommand::Restart);
    world.save(0, Ok(json!(1)));
    world.end(0, None);
    let up = world.up(0, &["save_state"]);
    expect(
        &world,
        &up,
        &["fault running", "lost 0@2", "started 0@2"],
        &[],
    );
    assert_eq!(world.kept(), []);
}
