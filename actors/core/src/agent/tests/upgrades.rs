//! Exchanging a version.

use super::*;

fn upgrade() -> AgentCommand {
    AgentCommand::Upgrade {
        target: None,
        forceful: false,
        rollback: false,
        kind: "hard".to_owned(),
    }
}

fn upgrading(replicas: u32) -> World {
    let mut world = World::serving(replicas);
    world.register("1.1.0", replicas);
    world.run(upgrade());
    world
}

#[test]
fn an_upgrade_drains_the_old_version_before_the_new_one_starts() {
    let mut world = World::serving(2);
    world.register("1.1.0", 2);
    let begun = world.run(upgrade());
    expect(
        &world,
        &begun,
        &["executing -> upgrading"],
        &["drain 0@1", "drain 1@2"],
    );
    let first = world.end(0, None);
    expect(&world, &first, &["stopped 0@1"], &["down 0@1 lost"]);
    let last = world.end(1, None);
    expect(
        &world,
        &last,
        &["stopped 1@2", "activated 0@3 1.1.0", "activated 1@4 1.1.0"],
        &[
            "down 1@2 lost",
            "spawn 0@3 1.1.0 from 1.0.0",
            "spawn 1@4 1.1.0 from 1.0.0",
        ],
    );
    world.shake(0);
    world.ready(0);
    assert_eq!(world.state.stage(), Lifecycle::Upgrading);
    world.shake(1);
    let up = world.ready(1);
    expect(
        &world,
        &up,
        &[
            "started 1@4",
            "upgraded 1.0.0 1.1.0 true",
            "upgrading -> executing",
        ],
        &["upgrade done true"],
    );
    assert_eq!(world.state.current.as_deref(), Some("1.1.0"));
    let back = world.run(AgentCommand::Upgrade {
        target: None,
        forceful: false,
        rollback: true,
        kind: "rollback".to_owned(),
    });
    assert_eq!(back.effects.len(), 2);
    world.all_stopped();
    world.all_ready();
    assert_eq!(world.state.current.as_deref(), Some("1.0.0"));
}

#[test]
fn a_new_version_that_fails_is_replaced_by_the_old_one_and_not_scored() {
    for class in [FailureClass::Start, FailureClass::Lost] {
        let mut world = upgrading(2);
        world.all_stopped();
        let failed = world.end(0, Some(class));
        let (error, down) = (format!("failed 0@3 {class}"), format!("down 0@3 {class}"));
        expect(
            &world,
            &failed,
            &[&error, "upgrading -> registered", "activated 0@5 1.0.0"],
            &[&down, "upgrade done false", "kill 1@4", "spawn 0@5 1.0.0"],
        );
        let other = world.end(1, None);
        assert_eq!(effect(&other.effects[1], world.now), "spawn 1@6 1.0.0");
        world.all_ready();
        assert_eq!(world.state.stage(), Lifecycle::Executing);
        assert_eq!(world.state.current.as_deref(), Some("1.0.0"));
        assert_eq!(world.machine.policy().record().score, 0);
    }
}

#[test]
fn a_stop_and_a_quarantine_abandon_an_upgrade() {
    let mut world = upgrading(1);
    let stop = world.run(AgentCommand::Stop);
    expect(
        &world,
        &stop,
        &[
            "fault stopped",
            "upgrading -> registered",
            "desired running=false paused=false replicas=1",
        ],
        &["drain 0@1", "upgrade done false"],
    );
    world.all_stopped();
    let start = world.run(AgentCommand::Start);
    assert_eq!(effect(&start.effects[0], world.now), "spawn 0@2 1.0.0");

    let mut world = upgrading(1);
    world.all_stopped();
    let isolated = world.run(isolate(Severity::Medium));
    expect(
        &world,
        &isolated,
        &[
            "fault quarantined",
            "upgrading -> registered",
            "quarantined Medium",
        ],
        &["upgrade done false", "kill 0@2", "isolate"],
    );
}

#[test]
fn a_second_upgrade_and_scaling_wait_for_the_end_of_the_first() {
    let mut world = upgrading(1);
    for command in [upgrade(), AgentCommand::Scale { replicas: 0 }] {
        let refused = world.try_run(command).unwrap_err();
        assert_eq!(refused, AgentRefusal::Upgrading(world.id.clone()));
    }
}

#[test]
fn an_upgrade_that_begins_while_a_replica_backs_off_exchanges_all_of_them() {
    let mut world = World::serving(2);
    world.register("1.1.0", 2);
    world.end(0, Some(FailureClass::Crash));
    assert_eq!(world.fault(), FaultState::Backoff);
    world.run(upgrade());
    // The delay ends while the old version still drains: two versions never run at once.
    let due = world.fire();
    expect(&world, &due, &["fault running"], &[]);
    let drained = world.end(1, None);
    assert_eq!(drained.effects.len(), 3);
    world.all_ready();
    assert_eq!(world.state.current.as_deref(), Some("1.1.0"));
    assert_eq!(world.processes.len(), 2);
}

#[test]
fn what_is_stopped_changes_its_version_at_once_and_what_is_starting_not_at_all() {
    let mut world = World::new(1);
    world.register("1.1.0", 1);
    let upgraded = world.run(upgrade());
    expect(
        &world,
        &upgraded,
        &["upgraded 1.0.0 1.1.0 true"],
        &["upgrade done true"],
    );
    world.run(AgentCommand::Start);
    world.register("1.2.0", 1);
    let refused = world.try_run(upgrade()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "agent a is activated; it cannot become upgrading"
    );
    let same = world.try_run(AgentCommand::Upgrade {
        target: Some("1.1.0".to_owned()),
        forceful: true,
        rollback: false,
        kind: "hard".to_owned(),
    });
    assert!(matches!(same, Err(AgentRefusal::Version(_))));
}

#[test]
fn an_upgrade_that_meshd_did_not_survive_leaves_the_old_version_in_force() {
    let mut world = upgrading(1);
    world.all_stopped();
    let boot = world.reboot();
    expect(
        &world,
        &boot,
        &[
            "fault running",
            "failed 0@2 lost",
            "upgrading -> registered",
            "activated 0@3 1.0.0",
        ],
        &["down 0@2 lost", "upgrade done false", "spawn 0@3 1.0.0"],
    );
}
