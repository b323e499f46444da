//! The table notices a policy that is not the one it was told: it is told another one, or handed what was never decided.

use super::*;
use crate::Breach;
use crate::world::World;

/// Simulates with every table told something else than its agent, until that is noticed.
fn noticed(twist: fn(&mut FaultConfig, &FaultConfig)) -> Breach {
    let mut world = World::new(11, 400, None);
    loop {
        for seat in &mut world.seats {
            let real = seat.config.clone();
            twist(&mut seat.table.config, &real);
        }
        match world.step() {
            Ok(more) => assert!(more && world.faults_left > 0, "nobody noticed"),
            Err(breach) => return breach,
        }
    }
}

#[test]
fn a_threshold_that_is_off_by_one_is_noticed() {
    let breach = noticed(|told, real| told.quarantine_threshold = real.quarantine_threshold + 1);
    assert_eq!(breach.promise, PROMISE, "{breach}");
}

#[test]
fn a_restart_too_many_within_the_window_is_noticed() {
    let breach = noticed(|told, real| told.max_crashes = real.max_crashes + 1);
    assert_eq!(breach.promise, PROMISE, "{breach}");
}

#[test]
fn a_wait_that_is_longer_by_a_millisecond_is_noticed() {
    let breach = noticed(|told, real| told.stable_min = real.stable_min + Duration::from_millis(1));
    assert_eq!(breach.promise, PROMISE, "{breach}");
}

#[test]
fn a_restart_where_none_is_wanted_is_noticed() {
    let breach = noticed(|told, real| told.auto_restart = !real.auto_restart);
    assert_eq!(breach.promise, PROMISE, "{breach}");
}

/// What the table says of an agent that never ran and does this.
fn of_one_step(command: &AgentCommand, effect: AgentEffect) -> Breach {
    let (now, config) = (WallTime::from_millis(1000), FaultConfig::default());
    let id = mesh_messages::AgentId::new("a").unwrap();
    let machine = AgentMachine::new(id, config.clone(), now).unwrap();
    let mut table = FaultTable::new(config, now.as_millis());
    let state = AgentState::default();
    let looked = table.look(&state, command);
    let verdict = table.decided(
        now,
        (command, looked),
        &[effect],
        (&machine, &state),
        &mut Edges::default(),
    );
    verdict.unwrap_err()
}

#[test]
fn a_task_for_an_agent_that_may_have_none_is_noticed() {
    let task = TaskId::new("t1").unwrap();
    let offered = AgentCommand::Offered {
        task,
        epoch: Epoch(1),
    };
    let breach = of_one_step(&offered, AgentEffect::Deliver);
    assert_eq!(
        breach.promise,
        "an agent gets the tasks that its policy lets it have"
    );
}

#[test]
fn an_isolation_and_an_escalation_without_a_reason_are_noticed() {
    let breach = of_one_step(&AgentCommand::Pause, AgentEffect::Isolate);
    assert_eq!(breach.promise, "a quarantined agent is isolated");
    let escalate = AgentEffect::Escalate {
        reason: "test".to_owned(),
    };
    let breach = of_one_step(&AgentCommand::Pause, escalate);
    assert_eq!(
        breach.promise,
        "an essential agent escalates when it is exhausted"
    );
}
