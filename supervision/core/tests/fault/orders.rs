//! Orders: every order in every state.

use mesh_supervision_core::fault::*;

use crate::bench::{Bench, SECOND};

const STATES: [FaultState; 8] = [
    FaultState::Running,
    FaultState::Backoff,
    FaultState::Open,
    FaultState::HalfOpen,
    FaultState::Quarantined,
    FaultState::Recovering,
    FaultState::Stopped,
    FaultState::Terminated,
];

/// What an order comes to: the state after it, or the refusal's name.
fn outcome(state: FaultState, order: Order) -> String {
    let mut bench = Bench::in_state(state);
    let before = bench.policy.clone();
    match bench.order(order) {
        Ok(()) => bench.state().name().to_owned(),
        Err(refusal) => {
            assert_eq!(bench.policy, before, "a refusal changes nothing");
            assert!(bench.effects.is_empty());
            let name = format!("{refusal:?}");
            let end = name.find([' ', '(']).unwrap_or(name.len());
            name[..end].to_owned()
        }
    }
}

#[track_caller]
fn check(order: &Order, expected: [&str; 8]) {
    let outcomes = STATES.map(|state| outcome(state, order.clone()));
    assert_eq!(
        outcomes,
        expected.map(ToOwned::to_owned),
        "{}",
        order.name()
    );
}

#[test]
fn every_order_in_every_state() {
    //                  running             backoff          open             half_open      quarantined           recovering     stopped          terminated
    check(
        &Order::Start,
        [
            "AlreadyRunning",
            "NextAttemptAt",
            "NextAttemptAt",
            "OnTrial",
            "Quarantined",
            "OnTrial",
            "running",
            "Terminated",
        ],
    );
    check(
        &Order::Stop,
        [
            "stopped",
            "stopped",
            "stopped",
            "stopped",
            "Quarantined",
            "stopped",
            "stopped",
            "Terminated",
        ],
    );
    check(
        &Order::Restart,
        [
            "running",
            "NextAttemptAt",
            "NextAttemptAt",
            "OnTrial",
            "Quarantined",
            "OnTrial",
            "Stopped",
            "Terminated",
        ],
    );
    check(
        &Order::Resume,
        [
            "running",
            "backoff",
            "open",
            "half_open",
            "Quarantined",
            "recovering",
            "Stopped",
            "Terminated",
        ],
    );
    check(&Order::Terminate, ["terminated"; 8]);
    let n = "NotQuarantined";
    check(
        &Order::Recover { force: false },
        [n, n, n, n, "recovering", n, n, "Terminated"],
    );
    let q = "quarantined";
    let kind = ReasonKind::Manual;
    let order = Order::Quarantine {
        kind,
        severity: Severity::High,
        description: String::new(),
    };
    check(&order, [q, q, q, q, q, q, q, "Terminated"]);
}

#[test]
fn a_refusal_names_when_it_will_be_started() {
    let mut bench = Bench::in_state(FaultState::Open);
    let at = bench.now.plus(5 * SECOND);
    let refusal = FaultRefusal::NextAttemptAt {
        state: FaultState::Open,
        at,
    };
    assert_eq!(bench.order(Order::Start), Err(refusal));
    assert_eq!(bench.record().next_attempt_at(), Some(at));
}

#[test]
fn the_refusals_that_users_read_have_their_words() {
    assert_eq!(
        FaultRefusal::MaxRetriesExceeded.to_string(),
        "max_retries_exceeded"
    );
    assert_eq!(
        FaultRefusal::NotQuarantined.to_string(),
        "not in quarantine"
    );
    assert!(FaultRefusal::Quarantined.to_string().contains("recover"));
}

#[test]
fn a_manual_quarantine_stays_until_somebody_recovers_it() {
    for severity in [Severity::Low, Severity::Medium, Severity::High] {
        let mut bench = Bench::running();
        bench.quarantine(ReasonKind::Manual, severity);
        assert_eq!(
            (bench.state(), bench.delay()),
            (FaultState::Quarantined, None)
        );
        bench.order(Order::Recover { force: false }).unwrap();
        bench.up();
        bench.pass(60 * SECOND);
        assert_eq!(bench.state(), FaultState::Running);
    }
}

#[test]
fn a_manual_quarantine_whose_recovery_failed_needs_force() {
    let mut bench = Bench::running();
    bench.quarantine(ReasonKind::Manual, Severity::Low);
    for _ in 0..3 {
        let force = bench.policy.is_exhausted();
        bench.order(Order::Recover { force }).unwrap();
        bench.crash();
        assert_eq!(
            (bench.state(), bench.delay()),
            (FaultState::Quarantined, None)
        );
        assert_eq!(
            bench.order(Order::Recover { force: false }),
            Err(FaultRefusal::MaxRetriesExceeded)
        );
    }
}

#[test]
fn a_quarantine_ordered_for_a_cause_is_treated_like_that_cause() {
    let mut bench = Bench::running();
    bench.quarantine(ReasonKind::SecurityViolation, Severity::High);
    assert_eq!(bench.delay(), Some(300 * SECOND));
    let mut bench = Bench::running();
    bench.quarantine(ReasonKind::SecurityViolation, Severity::Critical);
    assert_eq!(bench.delay(), None);
    assert_eq!(
        bench.order(Order::Recover { force: false }),
        Err(FaultRefusal::MaxRetriesExceeded)
    );
    bench.order(Order::Recover { force: true }).unwrap();
    assert_eq!(bench.state(), FaultState::Recovering);
}

#[test]
fn a_stop_during_a_recovery_does_not_skip_the_trial() {
    let recovered = |bench: &Bench| bench.has(|it| matches!(it, FaultEffect::Recovered { .. }));
    let mut bench = Bench::running();
    bench.quarantine(ReasonKind::SecurityViolation, Severity::Critical);
    bench.order(Order::Recover { force: true }).unwrap();
    bench.up();
    let quarantine = bench.record().quarantine.clone();
    for _ in 0..2 {
        bench.order(Order::Stop).unwrap();
        assert_eq!(bench.state(), FaultState::Stopped);
        assert_eq!(bench.record().quarantine, quarantine);
        let now = bench.now;
        bench.policy = FaultPolicy::restore(
            bench.record().clone(),
            FaultConfig::default(),
            now,
            &mut Vec::new(),
        )
        .unwrap();
        bench.order(Order::Start).unwrap();
        assert_eq!(bench.state(), FaultState::Recovering);
        bench.up();
    }
    assert!(!recovered(&bench));
    bench.pass(60 * SECOND);
    assert_eq!(
        (bench.state(), recovered(&bench)),
        (FaultState::Running, true)
    );
    assert_eq!(bench.record().quarantine, None);
}

#[test]
fn a_recovery_that_fails_after_a_stop_is_a_failed_recovery() {
    let mut bench = Bench::in_state(FaultState::Recovering);
    let (stopped, straight) = (bench.policy.clone(), {
        bench.crash();
        bench.record().quarantine.clone()
    });
    bench.policy = stopped;
    bench.order(Order::Stop).unwrap();
    bench.order(Order::Start).unwrap();
    bench.crash();
    assert_eq!(bench.state(), FaultState::Quarantined);
    assert_eq!(bench.record().quarantine, straight);
}

#[test]
fn a_manual_order_in_quarantine_cancels_the_recovery() {
    let mut bench = Bench::in_state(FaultState::Quarantined);
    bench.quarantine(ReasonKind::Manual, Severity::Low);
    let quarantine = bench.record().quarantine.clone().unwrap();
    assert_eq!((bench.delay(), quarantine.max_retries), (None, 0));
    assert_eq!(
        (quarantine.reason.kind, quarantine.reason.severity),
        (ReasonKind::Manual, Severity::Medium)
    );
}

#[test]
fn an_ordered_quarantine_of_an_essential_agent_does_not_escalate() {
    const KINDS: [ReasonKind; 4] = [
        ReasonKind::Crash,
        ReasonKind::ResourceAbuse,
        ReasonKind::SecurityViolation,
        ReasonKind::Manual,
    ];
    const SEVERITIES: [Severity; 4] = [
        Severity::Low,
        Severity::Medium,
        Severity::High,
        Severity::Critical,
    ];
    let essential = FaultConfig {
        essential: true,
        ..FaultConfig::default()
    };
    let escalated =
        |bench: &Bench| bench.has(|effect| matches!(effect, FaultEffect::Escalate { .. }));
    for (first, then) in KINDS.into_iter().flat_map(|a| KINDS.map(|b| (a, b))) {
        for severity in SEVERITIES {
            let mut bench = Bench::running_with(essential.clone());
            bench.quarantine(then, severity);
            assert!(!escalated(&bench), "{then:?} {severity:?}");
            // While it is quarantined, by an order and by its failures.
            let mut bench = Bench::running_with(essential.clone());
            bench.quarantine(first, Severity::Low);
            bench.quarantine(then, severity);
            assert!(!escalated(&bench), "{first:?}, then {then:?} {severity:?}");
            let mut bench = Bench::running_with(essential.clone());
            bench.crash_until(FaultState::Quarantined);
            bench.take();
            bench.quarantine(then, severity);
            assert!(!escalated(&bench), "crashed, then {then:?} {severity:?}");
        }
    }
    // A failure does, in the same place.
    let mut bench = Bench::running_with(essential);
    bench.quarantine(ReasonKind::Crash, Severity::Low);
    bench.fail(Severity::Critical);
    assert!(escalated(&bench));
}

#[test]
fn stopping_keeps_the_score_and_cancels_the_timer() {
    for state in [
        FaultState::Backoff,
        FaultState::Open,
        FaultState::HalfOpen,
        FaultState::Recovering,
    ] {
        let mut bench = Bench::in_state(state);
        let score = bench.record().score;
        bench.order(Order::Stop).unwrap();
        assert_eq!((bench.record().score, bench.record().timer), (score, None));
        bench.order(Order::Start).unwrap();
        bench.crash();
        assert_ne!(bench.state(), FaultState::Running);
        assert_eq!(bench.record().score, score + 1);
    }
}

#[test]
fn a_stopped_agent_refuses_tasks() {
    for state in [
        FaultState::Stopped,
        FaultState::Quarantined,
        FaultState::Terminated,
    ] {
        assert_eq!(Bench::in_state(state).offer(), Admission::Refused { state });
    }
    for state in [FaultState::Running, FaultState::Backoff] {
        assert_eq!(Bench::in_state(state).offer(), Admission::Granted);
    }
}

#[test]
fn an_ordered_restart_is_a_new_start_and_must_prove_itself_anew() {
    let mut bench = Bench::in_state(FaultState::Backoff);
    bench.fire();
    bench.up();
    bench.now = bench.now.plus(30 * SECOND);
    let epoch = bench.record().epoch;
    bench.order(Order::Restart).unwrap();
    assert!(bench.has(|effect| *effect == FaultEffect::Restart { epoch: epoch + 1 }));
    assert_eq!(bench.record().timer, None);
    bench.up();
    assert_eq!(bench.delay(), Some(60 * SECOND));
}
