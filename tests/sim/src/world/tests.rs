//! What is wrong with a world is noticed: each test lets one live until it has what it needs, and damages it.

use super::*;

/// A world that has come to where this holds.
fn world(holds: impl Fn(&World) -> bool) -> World {
    let mut world = World::new(3, 400, None);
    while !holds(&world) {
        let more = world.step().unwrap();
        assert!(more && world.faults_left > 0, "it never came to that");
    }
    world
}

#[track_caller]
fn breaks(verdict: Verdict, promise: &str) {
    let breach = verdict.unwrap_err();
    assert_eq!(breach.promise, promise, "{breach}");
}

fn is_settled(world: &World) -> bool {
    world.log.records.len() > 100 && world.log.durable == world.log.records.len()
}

#[test]
fn memory_that_is_not_what_the_log_says_is_noticed() {
    const PROMISE: &str = "replay equals what is in memory";
    let up = |world: &World| {
        is_settled(world) && world.orchestrator.is_some() && world.registry.is_some()
    };
    let mut world = world(up);
    world.compare_with_replica().unwrap();
    let registry = world.registry.as_mut().unwrap();
    registry.owned.state.agents.clear();
    breaks(world.compare_with_replica(), PROMISE);
    world.replica.tasks = mesh_actors_core::task::Tasks::default();
    breaks(world.compare_with_replica(), PROMISE);
    breaks(world.replay_everything(), PROMISE);
}

#[test]
fn a_record_that_cannot_be_read_is_noticed() {
    let mut world = world(is_settled);
    world.replay_everything().unwrap();
    world.log.records[50].payload.truncate(3);
    breaks(
        world.replay_everything(),
        "replay: what was stored can be read",
    );
}

#[test]
fn a_second_owner_of_a_partition_is_noticed() {
    let mut world = world(|world| is_settled(world) && world.registry.is_some());
    let mut registry = world.registry.take().unwrap();
    let mut twin = world.owned(Part::Registry, registry.owned.state.clone());
    let event = || mesh_messages::events::RegistryEvent::Listed {
        agent: AgentId::new("new").unwrap(),
    };
    let events = [(event(), None, None)];
    world
        .append(Part::Registry, &mut registry.owned, &events)
        .unwrap();
    let verdict = world.append::<_, usize, _>(Part::Registry, &mut twin, &events);
    breaks(verdict.map(|_| ()), "one owner for each partition");
}

#[test]
fn an_agent_whose_timer_is_not_armed_is_noticed() {
    let waits = |seat: &Seat| {
        seat.shell
            .as_ref()
            .is_some_and(|shell| shell.timer.is_some() && shell.owned.waiting() == 0)
    };
    let mut world = world(|world| world.seats.iter().any(waits));
    world.audit_agents().unwrap();
    let seat = world.seats.iter_mut().find(|seat| waits(seat)).unwrap();
    seat.shell.as_mut().unwrap().timer = None;
    breaks(
        world.audit_agents(),
        "nothing waits without a deadline: agents",
    );
}

#[test]
fn a_task_whose_timer_is_not_armed_is_noticed() {
    let mut world = world(|world| {
        let actor = world.orchestrator.as_ref();
        actor.is_some_and(|actor| actor.owned.state.next_timer().is_some())
    });
    world.audit_tasks().unwrap();
    world.orchestrator.as_mut().unwrap().forget_timer();
    breaks(
        world.audit_tasks(),
        "nothing waits without a deadline: tasks",
    );
}

#[test]
fn a_process_that_outlives_its_instance_is_noticed() {
    const PROMISE: &str = "no process of an agent outlives its instance";
    let mut world = world(|world| world.processes.len() > 2);
    world.audit_processes().unwrap();
    // The actor is gone, and what it ran is not.
    let (agent, epoch) = *world.processes.keys().next().unwrap();
    let shell = world.seats[agent].shell.take();
    breaks(world.audit_processes(), PROMISE);
    world.seats[agent].shell = shell;
    // A second one of the same replica.
    let instance = world.processes[&(agent, epoch)].instance;
    let twin = world.spawn(agent, instance, Epoch(epoch.0 + 1000));
    breaks(twin, PROMISE);
}

#[test]
fn a_quarantined_agent_that_executes_is_noticed() {
    let mut world = world(|world| !world.processes.is_empty() && world.now > 1000);
    let (agent, _) = *world.processes.keys().next().unwrap();
    world.seats[agent].isolated_since = Some(0);
    breaks(
        world.audit_processes(),
        "a quarantined agent executes and receives nothing",
    );
}

#[test]
fn a_quarantined_agent_with_a_token_is_noticed() {
    use mesh_messages::agent::FaultState;
    let runs = |seat: &Seat| seat.published.fault_state() == FaultState::Running;
    let mut world = world(|world| world.sentinel.is_some() && world.seats.iter().any(runs));
    let agent = world.seats.iter().position(runs).unwrap();
    world.token(agent, true).unwrap();
    while world.log.durable < world.log.records.len() {
        world.step().unwrap();
    }
    world.seats[agent].isolated_since = Some(0);
    // It would have had its time.
    world.now += 100_000;
    world.skew -= 100_000;
    breaks(
        world.audit_access(),
        "a quarantined agent holds no valid token",
    );
}

#[test]
fn a_report_that_is_taken_and_was_stale_is_noticed() {
    let mut world = world(|world| !world.ledger.decided.held.is_empty());
    // The ledger is told that somebody else has it.
    let (task, attempt, holder) = world.attempt_under_way().unwrap();
    let line = world.ledger.decided.lines.get_mut(&task).unwrap();
    let epoch = holder.2;
    line.holder = Some((holder.0.clone(), holder.1, Epoch(epoch.0 + 1)));
    let report = mesh_actors_core::task::Command::AttemptEnded {
        attempt: mesh_actors_core::task::AttemptRef {
            task,
            attempt,
            epoch,
        },
        key: Some(holder),
        result: Ok(serde_json::Value::Null),
    };
    breaks(
        world.run(report, None),
        "results of superseded attempts are refused",
    );
}

#[test]
fn a_queue_without_a_bound_is_noticed() {
    let mut world = World::new(3, 400, None);
    for _ in 0..=PLANNED_MAX {
        world.queue.at(1, Event::Submit);
    }
    breaks(world.audit(), "every queue is bounded: messages under way");
}
