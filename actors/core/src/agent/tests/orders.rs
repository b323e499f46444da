//! What people order, in every stage.

use super::*;

#[test]
fn a_start_passes_the_stages_in_order() {
    let mut world = World::new(1);
    let start = world.run(AgentCommand::Start);
    expect(
        &world,
        &start,
        &[
            "fault running",
            "activated 0@1 1.0.0",
            "desired running=true paused=false replicas=1",
        ],
        &["spawn 0@1 1.0.0"],
    );
    assert_eq!(world.state.stage(), Lifecycle::Activated);
    let shaken = world.shake(0);
    expect(&world, &shaken, &["handshaken 0@1"], &[]);
    assert_eq!(world.state.stage(), Lifecycle::Handshaken);
    let ready = world.ready(0);
    expect(&world, &ready, &["fault running", "started 0@1"], &[]);
    assert_eq!(world.state.stage(), Lifecycle::Executing);
    let again = world.try_run(AgentCommand::Start).unwrap_err();
    assert!(matches!(again, AgentRefusal::Policy { order: "start", .. }));
}

#[test]
fn a_stop_drains_and_the_end_is_nobodys_failure() {
    let mut world = World::serving(2);
    let stop = world.run(AgentCommand::Stop);
    expect(
        &world,
        &stop,
        &[
            "fault stopped",
            "desired running=false paused=false replicas=2",
        ],
        &["drain 0@1", "drain 1@2"],
    );
    // Even if it crashes on its way out.
    let ended = world.end(0, Some(FailureClass::Crash));
    expect(&world, &ended, &["stopped 0@1"], &["down 0@1 lost"]);
    assert_eq!(world.state.stage(), Lifecycle::Executing);
    world.end(1, None);
    assert_eq!(world.state.stage(), Lifecycle::Registered);
    assert_eq!(world.machine.policy().record().score, 0);
}

#[test]
fn a_start_while_the_old_incarnation_is_going_waits_for_its_end() {
    let mut world = World::serving(1);
    world.run(AgentCommand::Stop);
    let start = world.run(AgentCommand::Start);
    expect(
        &world,
        &start,
        &[
            "fault running",
            "desired running=true paused=false replicas=1",
        ],
        &[],
    );
    let ended = world.end(0, None);
    expect(
        &world,
        &ended,
        &["stopped 0@1", "activated 0@2 1.0.0"],
        &["down 0@1 lost", "spawn 0@2 1.0.0"],
    );
}

#[test]
fn a_restart_brings_back_each_replica_when_it_has_ended() {
    let mut world = World::serving(2);
    let restart = world.run(AgentCommand::Restart);
    expect(
        &world,
        &restart,
        &["fault running"],
        &["drain 0@1", "drain 1@2"],
    );
    let ended = world.end(1, None);
    expect(
        &world,
        &ended,
        &["stopped 1@2", "activated 1@3 1.0.0"],
        &["down 1@2 lost", "spawn 1@3 1.0.0"],
    );
    // What still drains does not vouch for the new start, nor keep it from being vouched for.
    assert_eq!(world.machine.policy().record().up_since, None);
    world.shake(1);
    world.ready(1);
    assert_eq!(
        world.machine.policy().record().up_since.map(|_| ()),
        Some(())
    );
}

#[test]
fn what_was_told_to_stop_proves_nothing_by_getting_ready() {
    let mut world = World::new(1);
    world.run(AgentCommand::Start);
    world.run(isolate(Severity::Low));
    world.run(AgentCommand::Recover { force: false });
    let late = world.shake(0);
    expect(&world, &late, &[], &[]);
    let late = world.ready(0);
    expect(&world, &late, &[], &[]);
    assert_eq!(world.machine.policy().record().up_since, None);
}

#[test]
fn in_quarantine_a_pause_and_an_upgrade_are_refused_naming_recover() {
    let mut world = World::serving(1);
    world.register("1.1.0", 1);
    world.run(isolate(Severity::Medium));
    let upgrade = |rollback| AgentCommand::Upgrade {
        target: None,
        forceful: false,
        rollback,
        kind: "hard".to_owned(),
    };
    for command in [AgentCommand::Pause, upgrade(false), upgrade(true)] {
        let refused = world.try_run(command).unwrap_err().to_string();
        assert!(refused.contains("use recover"), "{refused}");
    }
}

#[test]
fn a_pause_needs_an_agent_that_serves() {
    let mut world = World::new(1);
    let refused = world.try_run(AgentCommand::Pause).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "agent a is registered; it cannot become executing"
    );
    let mut world = World::serving(1);
    let pause = world.run(AgentCommand::Pause);
    expect(
        &world,
        &pause,
        &["desired running=true paused=true replicas=1"],
        &["paused true"],
    );
    let resume = world.run(AgentCommand::Resume);
    expect(
        &world,
        &resume,
        &["desired running=true paused=false replicas=1"],
        &["paused false"],
    );
}

#[test]
fn scaling_starts_what_is_missing_and_drains_what_is_too_much() {
    let mut world = World::serving(1);
    let up = world.run(AgentCommand::Scale { replicas: 3 });
    expect(
        &world,
        &up,
        &[
            "desired running=true paused=false replicas=3",
            "activated 1@2 1.0.0",
            "activated 2@3 1.0.0",
        ],
        &["spawn 1@2 1.0.0", "spawn 2@3 1.0.0"],
    );
    let down = world.run(AgentCommand::Scale { replicas: 1 });
    expect(
        &world,
        &down,
        &["desired running=true paused=false replicas=1"],
        &["drain 1@2", "drain 2@3"],
    );
    let ended = world.end(1, None);
    expect(&world, &ended, &["stopped 1@2"], &["down 1@2 lost"]);
    // Wanted again before it had ended: it comes back when it has.
    let back = world.run(AgentCommand::Scale { replicas: 3 });
    assert_eq!(back.effects.len(), 1);
    let ended = world.end(2, None);
    assert_eq!(effect(&ended.effects[1], world.now), "spawn 2@5 1.0.0");
}

#[test]
fn a_replica_that_is_scaled_away_does_not_keep_the_others_from_being_up() {
    let mut world = World::new(2);
    world.run(AgentCommand::Start);
    world.shake(0);
    world.ready(0);
    assert_eq!(world.machine.policy().record().up_since, None);
    world.run(AgentCommand::Scale { replicas: 1 });
    world.all_stopped();
    assert_eq!(
        world.machine.policy().record().up_since,
        Some(core_now(&world))
    );
}

fn core_now(world: &World) -> mesh_supervision_core::Timestamp {
    fault::core_time(world.now)
}

#[test]
fn scaling_what_does_not_run_starts_nothing() {
    let mut world = World::new(1);
    let scaled = world.run(AgentCommand::Scale { replicas: 2 });
    expect(
        &world,
        &scaled,
        &["desired running=false paused=false replicas=2"],
        &[],
    );
    let start = world.run(AgentCommand::Start);
    assert_eq!(start.effects.len(), 2);
}

#[test]
fn a_quarantine_kills_and_only_recover_or_terminate_lead_out() {
    let mut world = World::serving(2);
    let isolated = world.run(isolate(Severity::Medium));
    expect(
        &world,
        &isolated,
        &["fault quarantined", "quarantined Medium"],
        &["kill 0@1", "kill 1@2", "isolate"],
    );
    for command in [
        AgentCommand::Start,
        AgentCommand::Stop,
        AgentCommand::Restart,
        AgentCommand::Resume,
    ] {
        let refused = world.try_run(command).unwrap_err();
        assert!(refused.to_string().contains("use recover"), "{refused}");
    }
    world.end(0, None);
    let recover = world.run(AgentCommand::Recover { force: false });
    expect(
        &world,
        &recover,
        &["fault recovering", "recovered", "activated 0@3 1.0.0"],
        &["spawn 0@3 1.0.0"],
    );
    // The one that is still being killed says nothing about how far the agent is.
    assert_eq!(world.state.stage(), Lifecycle::Activated);
    let ended = world.end(1, None);
    assert_eq!(effect(&ended.effects[1], world.now), "spawn 1@4 1.0.0");
    world.all_ready();
    let recovered = world.fire();
    expect(
        &world,
        &recovered,
        &["fault running", "probation.passed"],
        &["release"],
    );
    assert_eq!(world.state.quarantine, None);
}

#[test]
fn a_worse_quarantine_is_noted_again_but_a_reboot_notes_nothing() {
    let mut world = World::serving(1);
    world.run(isolate(Severity::Medium));
    world.all_stopped();
    let worse = world.run(isolate(Severity::Critical));
    expect(
        &world,
        &worse,
        &["fault quarantined", "quarantined Critical"],
        &[],
    );
    let boot = world.reboot();
    expect(&world, &boot, &[], &["isolate"]);
    let refused = world.try_run(AgentCommand::Recover { force: false });
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("max_retries_exceeded")
    );
    let forced = world.run(AgentCommand::Recover { force: true });
    assert_eq!(forced.effects.len(), 1);
}

#[test]
fn a_terminated_agent_is_audited_when_its_last_instance_is_gone() {
    let mut world = World::serving(2);
    let reason = "test".to_owned();
    let ended = world.run(AgentCommand::Terminate { reason });
    expect(
        &world,
        &ended,
        &["fault terminated", "terminated"],
        &["drain 0@1", "drain 1@2", "isolate"],
    );
    world.end(0, None);
    assert_eq!(world.state.stage(), Lifecycle::Terminated);
    let last = world.end(1, None);
    let records = format!("audited {}", world.state.records);
    expect(
        &world,
        &last,
        &["stopped 1@2", &records],
        &["down 1@2 lost", "seal"],
    );
    assert_eq!(world.state.stage(), Lifecycle::Audited);
    for command in [
        AgentCommand::Start,
        AgentCommand::Scale { replicas: 3 },
        AgentCommand::Pause,
        AgentCommand::Recover { force: true },
        isolate(Severity::Low),
        AgentCommand::Upgrade {
            target: None,
            forceful: true,
            rollback: false,
            kind: "hard".to_owned(),
        },
    ] {
        assert!(world.try_run(command.clone()).is_err(), "{command:?}");
    }
}

#[test]
fn a_termination_that_meshd_did_not_survive_is_audited_by_its_next_life() {
    let mut world = World::serving(1);
    let reason = "test".to_owned();
    world.run(AgentCommand::Terminate { reason });
    let boot = world.reboot();
    let records = format!("audited {}", world.state.records);
    expect(
        &world,
        &boot,
        &["failed 0@1 lost", &records],
        &["down 0@1 lost", "seal"],
    );
}

#[test]
fn a_new_registration_begins_a_new_life_with_higher_epochs() {
    let mut world = World::serving(1);
    world.end(0, Some(FailureClass::Crash));
    let reason = "test".to_owned();
    world.run(AgentCommand::Terminate { reason });
    assert_eq!(world.state.stage(), Lifecycle::Audited);
    world.register("1.0.0", 1);
    world.machine = AgentMachine::new(world.id.clone(), world.config.clone(), world.now).unwrap();
    let start = world.run(AgentCommand::Start);
    assert_eq!(effect(&start.effects[0], world.now), "spawn 0@2 1.0.0");
    assert_eq!(world.machine.policy().record().score, 0);
}

#[test]
fn after_close_nothing_is_started_and_nothing_counts() {
    let mut world = World::serving(2);
    world.end(0, Some(FailureClass::Crash));
    assert_eq!(world.fault(), FaultState::Backoff);
    world.closed = true;
    let close = world.run(AgentCommand::Close);
    expect(&world, &close, &[], &["drain 1@2"]);
    // The timer of the backoff is due meanwhile, and somebody gives an order.
    let due = world.fire();
    assert!(
        due.effects
            .iter()
            .all(|e| !matches!(e, AgentEffect::Spawn { .. }))
    );
    world.run(AgentCommand::Restart);
    let ended = world.end(1, Some(FailureClass::Crash));
    expect(&world, &ended, &["stopped 1@2"], &["down 1@2 lost"]);
    assert_eq!(world.machine.policy().record().score, 1);
}

#[test]
fn an_agent_without_a_version_takes_no_orders() {
    let mut world = World::new(1);
    (world.state, world.replayed) = (AgentState::default(), AgentState::default());
    for command in [
        AgentCommand::Start,
        AgentCommand::Scale { replicas: 2 },
        isolate(Severity::Low),
    ] {
        let refused = world.try_run(command).unwrap_err();
        assert_eq!(refused, AgentRefusal::NoVersion(world.id.clone()));
    }
    for command in [
        AgentCommand::Stop,
        AgentCommand::Terminate {
            reason: String::new(),
        },
    ] {
        let nothing = world.run(command);
        expect(&world, &nothing, &[], &[]);
    }
}

#[test]
fn nothing_is_started_while_an_agent_that_it_needs_is_not_there() {
    let mut world = World::new(2);
    world.lacks = true;
    world.run(AgentCommand::Start);
    assert!(world.state.running);
    assert!(world.state.instances.is_empty(), "it waits");
    // Whatever else asks for a start waits as well, and counts as nothing.
    world.run(AgentCommand::Scale { replicas: 3 });
    world.run(AgentCommand::NeedsChanged);
    assert!(world.state.instances.is_empty());
    world.lacks = false;
    world.run(AgentCommand::NeedsChanged);
    assert_eq!(world.state.instances.len(), 3);
    world.all_ready();
    // What it needs is lost again: what runs goes on, and news of it starts nothing twice.
    world.lacks = true;
    world.run(AgentCommand::NeedsChanged);
    assert_eq!(world.state.ready().count(), 3);
    // A stop is carried out all the same.
    world.run(AgentCommand::Stop);
    assert!(!world.state.running);
}

#[test]
fn one_that_was_stopped_while_it_waited_is_not_started_by_what_it_waited_for() {
    let mut world = World::new(1);
    world.lacks = true;
    world.run(AgentCommand::Start);
    world.run(AgentCommand::Stop);
    world.lacks = false;
    world.run(AgentCommand::NeedsChanged);
    assert!(world.state.instances.is_empty());
}
