//! Failures that turned out to be a task's fault.

use mesh_supervision_core::fault::*;

use crate::bench::Bench;

#[test]
fn a_refund_takes_the_score_back_and_nothing_else() {
    let mut bench = Bench::running();
    bench.crash();
    bench.fire();
    bench.crash();
    bench.input(FaultInput::Refund { failures: 2 });
    assert_eq!((bench.record().score, bench.record().hour.len()), (0, 2));
    assert_eq!(bench.state(), FaultState::Backoff);
    bench.input(FaultInput::Refund { failures: 9 });
    assert_eq!(bench.record().score, 0);
}

#[test]
fn a_refund_undoes_an_open_breaker_that_follows_from_the_refunded_failures() {
    let mut bench = Bench::in_state(FaultState::Open);
    bench.input(FaultInput::Refund { failures: 2 });
    assert_eq!(bench.state(), FaultState::Backoff);
    assert_eq!((bench.record().score, bench.record().cool_downs), (2, 0));
    bench.fire();
    assert_eq!(bench.state(), FaultState::Running);
}

#[test]
fn a_refund_too_small_leaves_the_breaker_open() {
    let mut bench = Bench::running_with(FaultConfig {
        quarantine_threshold: 50,
        ..FaultConfig::default()
    });
    bench.crash_until(FaultState::Open);
    bench.crash();
    bench.crash();
    bench.input(FaultInput::Refund { failures: 2 });
    assert_eq!(bench.state(), FaultState::Open);
    bench.input(FaultInput::Refund { failures: 1 });
    assert_eq!(bench.state(), FaultState::Backoff);
}

#[test]
fn a_refund_leads_out_of_a_quarantine_that_follows_from_the_refunded_failures() {
    for (refunded, to) in [(1, FaultState::Open), (2, FaultState::Backoff)] {
        let mut bench = Bench::in_state(FaultState::Quarantined);
        bench.input(FaultInput::Refund { failures: refunded });
        assert_eq!(bench.state(), to);
        assert!(bench.has(|effect| *effect == FaultEffect::Acquitted));
        assert_eq!(bench.record().quarantine, None);
        assert_eq!(bench.record().recovery_attempt, 0);
        assert!(bench.record().timer.is_some());
    }
}

#[test]
fn no_refund_leads_out_of_a_quarantine_that_has_another_cause() {
    let mut ordered = Bench::running();
    ordered.crash();
    ordered.quarantine(ReasonKind::Crash, Severity::Medium);
    let mut critical = Bench::running();
    critical.fail(Severity::Critical);
    let mut both = Bench::in_state(FaultState::Quarantined);
    both.quarantine(ReasonKind::Manual, Severity::Low);
    let mut recovery = Bench::in_state(FaultState::Recovering);
    recovery.crash();
    for mut bench in [ordered, critical, both, recovery] {
        let timer = bench.record().timer;
        bench.input(FaultInput::Refund { failures: 9 });
        assert_eq!(bench.state(), FaultState::Quarantined);
        assert_eq!(bench.record().timer, timer);
    }
}

#[test]
fn a_refund_starts_nothing_that_is_not_to_be_restarted() {
    let mut bench = Bench::running_with(FaultConfig {
        auto_restart: false,
        max_crashes: 0,
        ..FaultConfig::default()
    });
    bench.crash();
    assert_eq!(bench.state(), FaultState::Open);
    bench.input(FaultInput::Refund { failures: 1 });
    assert_eq!(bench.state(), FaultState::Stopped);
    assert_eq!(bench.record().timer, None);
}
