//! What ends by itself, and what follows.

use super::*;

#[test]
fn a_crash_backs_off_and_the_timer_starts_the_next_incarnation() {
    let mut world = World::serving(1);
    let crash = world.end(0, Some(FailureClass::Crash));
    expect(
        &world,
        &crash,
        &["fault backoff", "failed 0@1 crash"],
        &["down 0@1 crash", "arm +200"],
    );
    assert_eq!(world.state.stage(), Lifecycle::Registered);
    let errors: Vec<_> = world.state.errors.values().collect();
    assert_eq!((errors[0].kind.as_str(), errors[0].count), ("crash", 1));
    let due = world.fire();
    expect(
        &world,
        &due,
        &["fault running", "activated 0@2 1.0.0"],
        &["spawn 0@2 1.0.0"],
    );
}

#[test]
fn a_critical_violation_and_a_policy_failure_isolate_as_the_table_says() {
    let mut world = World::serving(2);
    let violation = world.end(0, Some(FailureClass::Policy));
    expect(
        &world,
        &violation,
        &["fault backoff", "failed 0@1 policy"],
        &["down 0@1 policy", "arm +200"],
    );
    let critical = world.run(AgentCommand::Quarantine {
        kind: QuarantineKind::SecurityViolation,
        severity: Severity::Critical,
        description: "forged its sender".to_owned(),
    });
    expect(
        &world,
        &critical,
        &["fault quarantined", "quarantined Critical"],
        &["disarm", "kill 1@2", "isolate"],
    );
    assert!(world.machine.policy().is_exhausted());
}

#[test]
fn without_auto_restart_an_end_stops_the_agent_whoever_is_to_blame() {
    let config = FaultConfig {
        auto_restart: false,
        ..FaultConfig::default()
    };
    for class in [FailureClass::Crash, FailureClass::Lost] {
        let mut world = World::with(2, config.clone());
        world.run(AgentCommand::Start);
        world.all_ready();
        let ended = world.end(0, Some(class));
        let failed = format!("failed 0@1 {class}");
        let down = format!("down 0@1 {class}");
        expect(
            &world,
            &ended,
            &["fault stopped", &failed],
            &[&down, "drain 1@2"],
        );
        world.all_stopped();
        assert!(world.processes.is_empty());
    }
}

#[test]
fn an_end_that_is_nobodys_failure_is_followed_by_a_delayed_start_and_never_scored() {
    let mut world = World::serving(1);
    for (epoch, rest) in [(1, "rest +200"), (2, "rest +400"), (3, "rest +800")] {
        let ended = world.end(0, Some(FailureClass::Lost));
        let (failed, down) = (
            format!("failed 0@{epoch} lost"),
            format!("down 0@{epoch} lost"),
        );
        expect(&world, &ended, &[&failed], &[&down, rest]);
        let due = world.wake();
        assert_eq!(
            effect(&due.effects[0], world.now),
            format!("spawn 0@{} 1.0.0", epoch + 1)
        );
    }
    assert_eq!(world.machine.policy().record().score, 0);
    assert_eq!(world.fault(), FaultState::Running);
}

#[test]
fn what_an_instance_was_told_to_stop_for_is_what_its_attempts_end_with() {
    let mut world = World::serving(1);
    world.run(AgentCommand::Quarantine {
        kind: QuarantineKind::SecurityViolation,
        severity: Severity::Critical,
        description: "forged its sender".to_owned(),
    });
    let ended = world.end(0, Some(FailureClass::Policy));
    expect(
        &world,
        &ended,
        &["fault quarantined", "failed 0@1 policy"],
        &["down 0@1 policy"],
    );
    assert!(world.machine.policy().is_exhausted());
}

#[test]
fn a_quarantine_is_recorded_once_however_often_meshd_starts() {
    for severity in [Severity::Medium, Severity::Critical] {
        let mut world = World::serving(2);
        let isolated = world.run(isolate(severity));
        assert!(
            isolated
                .events
                .iter()
                .any(|e| matches!(e, AgentEvent::Quarantined { .. }))
        );
        world.end(0, None);
        for _ in 0..3 {
            let boot = world.reboot();
            let again = boot
                .events
                .iter()
                .any(|e| matches!(e, AgentEvent::Quarantined { .. }));
            assert!(!again, "{:?}", boot.events);
        }
    }
    let mut world = World::serving(1);
    while world.fault() != FaultState::Quarantined {
        if world.processes.is_empty() {
            world.fire();
        } else {
            world.end(0, Some(FailureClass::Crash));
        }
    }
    let boot = world.reboot();
    let events: Vec<_> = boot.events.iter().map(event).collect();
    assert_eq!(events, ["fault quarantined"]);
}

#[test]
fn a_refund_leads_out_of_the_quarantine_that_it_was_counted_for() {
    let mut world = World::serving(1);
    while world.fault() != FaultState::Quarantined {
        if world.processes.is_empty() {
            world.fire();
        } else {
            world.end(0, Some(FailureClass::Crash));
        }
    }
    let refund = world.run(AgentCommand::Refund { failures: 2 });
    let events: Vec<_> = refund.events.iter().map(event).collect();
    assert_eq!(events, ["fault backoff", "recovered"]);
    assert_eq!(world.state.quarantine, None);
    let due = world.fire();
    assert_eq!(due.effects.len(), 1, "{:?}", due.effects);
    assert_eq!(world.state.stage(), Lifecycle::Activated);
}

#[test]
fn ends_that_are_nobodys_failure_have_a_limit_within_the_window() {
    let mut world = World::serving(1);
    for _ in 0..3 {
        world.end(0, Some(FailureClass::Lost));
        world.wake();
    }
    let rested = world.end(0, Some(FailureClass::Lost));
    // A minute after the first of them, 1.2 s ago.
    expect(
        &world,
        &rested,
        &["failed 0@4 lost"],
        &["down 0@4 lost", "rest +58801"],
    );
    // Too early, for whatever reason: it rests on.
    world.pass(Duration::from_secs(57));
    let early = world.run(AgentCommand::Rested);
    expect(&world, &early, &[], &["rest +1801"]);
    let due = world.wake();
    expect(&world, &due, &["activated 0@5 1.0.0"], &["spawn 0@5 1.0.0"]);
}

#[test]
fn a_rest_that_ended_late_counts_from_when_it_ended() {
    let mut world = World::serving(1);
    world.end(0, Some(FailureClass::Lost));
    world.pass(Duration::from_secs(10));
    world.wake();
    for _ in 0..2 {
        world.end(0, Some(FailureClass::Lost));
        world.wake();
    }
    let fourth = world.end(0, Some(FailureClass::Lost));
    // A minute after the first start, 1.2 s ago, and not after the moment 9.8 s before it at which it was due.
    expect(
        &world,
        &fourth,
        &["failed 0@4 lost"],
        &["down 0@4 lost", "rest +58801"],
    );
}

#[test]
fn a_resting_replica_leaves_the_others_alone_and_orders_wake_it() {
    let mut world = World::serving(2);
    for _ in 0..3 {
        world.end(1, Some(FailureClass::Lost));
        world.wake();
    }
    world.end(1, Some(FailureClass::Lost));
    assert_eq!(world.processes.len(), 1);
    // The end of the other one does not start it early.
    let other = world.end(0, Some(FailureClass::Lost));
    assert_eq!(effect(&other.effects[1], world.now), "rest +200");
    let due = world.wake();
    let spawns = due.events.iter().map(event).collect::<Vec<_>>();
    assert_eq!(spawns, ["activated 0@6 1.0.0"]);
    world.run(AgentCommand::Stop);
    world.all_stopped();
    let start = world.run(AgentCommand::Start);
    assert_eq!(start.events.len(), 4);
    // The timer of the rest fires all the same, and finds nothing to do.
    let late = world.wake();
    expect(&world, &late, &[], &[]);
}

#[test]
fn a_trial_gets_its_permit_back_when_the_instance_that_has_the_task_is_stopped() {
    let mut world = World::serving(2);
    for _ in 0..4 {
        world.end(0, Some(FailureClass::Crash));
        if world.fault() == FaultState::Backoff {
            world.fire();
            world.all_ready();
        }
    }
    assert_eq!(world.fault(), FaultState::Open);
    world.fire();
    world.all_ready();
    assert_eq!(world.fault(), FaultState::HalfOpen);
    let epoch = world.processes[&InstanceNo(1)].epoch;
    let task = task("t1");
    let offered = AgentCommand::Offered {
        task: task.clone(),
        epoch,
    };
    let probe = world.run(offered.clone());
    expect(&world, &probe, &["fault half_open"], &["deliver"]);
    let second = world.run(offered.clone());
    expect(&world, &second, &[], &["decline"]);
    world.run(AgentCommand::Scale { replicas: 1 });
    world.end(1, None);
    // Nothing else would ever report that attempt.
    let epoch = world.processes[&InstanceNo(0)].epoch;
    let again = world.run(AgentCommand::Offered {
        task: task.clone(),
        epoch,
    });
    assert_eq!(effect(again.effects.last().unwrap(), world.now), "deliver");
    let done = world.run(AgentCommand::AttemptEnded { task, ok: true });
    expect(&world, &done, &["fault running"], &["disarm", "arm +60000"]);
}

#[test]
fn an_offer_for_what_is_gone_or_going_is_declined_without_asking_the_policy() {
    let mut world = World::serving(1);
    let offer = |epoch| AgentCommand::Offered {
        task: task("t1"),
        epoch,
    };
    let stale = world.run(offer(Epoch(7)));
    expect(&world, &stale, &[], &["decline"]);
    let fresh = world.run(offer(Epoch(1)));
    expect(&world, &fresh, &[], &["deliver"]);
    world.run(AgentCommand::Stop);
    let late = world.run(offer(Epoch(1)));
    expect(&world, &late, &[], &["decline"]);
}

#[test]
fn a_boot_restarts_what_ran_and_waits_for_what_waited() {
    let mut world = World::serving(2);
    let boot = world.reboot();
    expect(
        &world,
        &boot,
        &[
            "fault running",
            "failed 0@1 lost",
            "failed 1@2 lost",
            "activated 0@3 1.0.0",
            "activated 1@4 1.0.0",
        ],
        &[
            "down 0@1 lost",
            "down 1@2 lost",
            "spawn 0@3 1.0.0",
            "spawn 1@4 1.0.0",
        ],
    );
    let mut world = World::serving(1);
    world.end(0, Some(FailureClass::Crash));
    let boot = world.reboot();
    expect(&world, &boot, &["fault backoff"], &["arm +200"]);
    let mut world = World::serving(1);
    world.run(AgentCommand::Stop);
    let boot = world.reboot();
    expect(&world, &boot, &["failed 0@1 lost"], &["down 0@1 lost"]);
}

#[test]
fn a_stale_end_changes_nothing() {
    let mut world = World::serving(1);
    let stale = world.run(AgentCommand::Ended {
        instance: InstanceNo(0),
        epoch: Epoch(9),
        failure: Some(Failure::new(FailureClass::Crash, "test")),
    });
    expect(&world, &stale, &[], &[]);
    let unknown = world.run(AgentCommand::Ready {
        instance: InstanceNo(5),
        epoch: Epoch(1),
    });
    expect(&world, &unknown, &[], &[]);
}

#[test]
fn refunded_failures_no_longer_count() {
    let mut world = World::serving(1);
    world.end(0, Some(FailureClass::Crash));
    assert_eq!(world.machine.policy().record().score, 1);
    let refund = world.run(AgentCommand::Refund { failures: 1 });
    expect(&world, &refund, &["fault backoff"], &[]);
    assert_eq!(world.machine.policy().record().score, 0);
}
