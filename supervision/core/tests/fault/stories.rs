//! Whole stories, with the exact number of starts.

use mesh_supervision_core::fault::*;

use crate::bench::{Bench, SECOND};

#[test]
fn an_agent_that_dies_at_once_is_started_eight_times_in_all() {
    let mut bench = Bench::new(FaultConfig::default());
    bench.order(Order::Start).unwrap();
    for _ in 0..100 {
        if bench.state().is_started() {
            bench.crash();
        } else if bench.record().timer.is_some() {
            bench.fire();
        }
    }
    assert!(bench.policy.is_exhausted());
    // The first, three restarts, one trial of the breaker, three recoveries.
    assert_eq!(bench.starts, 1 + 3 + 1 + 3);
}

#[test]
fn an_agent_that_crashes_every_61_seconds_is_started_sixteen_times_in_an_hour() {
    let mut bench = Bench::new(FaultConfig::default());
    bench.order(Order::Start).unwrap();
    for _ in 0..100 {
        if bench.state().is_started() {
            bench.up();
            bench.pass(61 * SECOND);
            bench.crash();
        } else if bench.record().timer.is_some() {
            bench.fire();
        }
    }
    assert!(bench.policy.is_exhausted());
    // Thirteen failures are borne or lead into quarantine; then every recovery is followed by another.
    assert_eq!(bench.starts, 13 + 3);
}

#[test]
fn a_policy_restored_at_any_point_of_a_story_goes_on_with_the_same_deadlines() {
    let mut bench = Bench::running();
    for _ in 0..40 {
        let record = bench.record().clone();
        let mut effects = Vec::new();
        let config = FaultConfig::default();
        let restored =
            FaultPolicy::restore(record.clone(), config, bench.now, &mut effects).unwrap();
        assert_eq!(restored.record().state, record.state);
        assert_eq!(restored.record().score, record.score);
        assert_eq!(restored.record().recovery_attempt, record.recovery_attempt);
        let started = effects
            .iter()
            .any(|effect| matches!(effect, FaultEffect::Start { .. }));
        assert_eq!(
            started,
            record.state.is_started(),
            "what ran is brought back, and nothing else"
        );
        if !started {
            let deadline = |timer: Option<Timer>| timer.map(|timer| timer.at);
            assert_eq!(deadline(restored.record().timer), deadline(record.timer));
            assert_eq!(restored.record().epoch, record.epoch);
        }
        if let (Some(new), Some(old)) = (restored.record().timer, record.timer) {
            assert!(
                new.token > old.token,
                "a timer of before must not be taken for this one"
            );
        }
        if bench.state().is_started() {
            bench.crash();
        } else if bench.record().timer.is_some() {
            bench.fire();
        }
    }
}

#[test]
fn a_restored_trial_has_its_permit_back_and_a_restored_quarantine_is_isolated_again() {
    let mut bench = Bench::in_state(FaultState::HalfOpen);
    bench.probe();
    let restore = |record: &FaultRecord, now| {
        let mut effects = Vec::new();
        let config = FaultConfig::default();
        let policy = FaultPolicy::restore(record.clone(), config, now, &mut effects).unwrap();
        (policy, effects)
    };
    let (policy, _) = restore(bench.record(), bench.now);
    assert_eq!(policy.record().permit, Some(Permit::Free));
    assert_eq!(policy.record().up_since, None);
    let bench = Bench::in_state(FaultState::Quarantined);
    let (_, effects) = restore(bench.record(), bench.now);
    assert!(matches!(
        effects[..],
        [FaultEffect::Isolate { .. }, FaultEffect::Arm(_)]
    ));
}
