//! The rows of the table, one by one and in its order.

use std::time::Duration;

use mesh_supervision_core::fault::*;

use crate::bench::{Bench, NANO, SECOND, failure};

const LIVE_OR_STOPPED: [FaultState; 6] = [
    FaultState::Running,
    FaultState::Backoff,
    FaultState::Open,
    FaultState::HalfOpen,
    FaultState::Recovering,
    FaultState::Stopped,
];

#[test]
fn a_critical_failure_quarantines_from_everywhere_without_automatic_recovery() {
    for state in LIVE_OR_STOPPED {
        let mut bench = Bench::in_state(state);
        bench.fail(Severity::Critical);
        assert_eq!(
            (bench.state(), bench.delay()),
            (FaultState::Quarantined, None),
            "from {state}"
        );
        assert!(bench.policy.is_exhausted());
        assert!(bench.has(|effect| matches!(
            effect,
            FaultEffect::Isolate {
                exhausted: true,
                ..
            }
        )));
    }
}

#[test]
fn the_threshold_quarantines_and_arms_the_first_recovery() {
    let mut bench = Bench::running();
    bench.crash_until(FaultState::Quarantined);
    assert_eq!(bench.record().score, 5);
    assert_eq!(
        (bench.record().recovery_attempt, bench.delay()),
        (1, Some(60 * SECOND))
    );
    let quarantine = bench.record().quarantine.clone().unwrap();
    assert_eq!((quarantine.retry_count, quarantine.max_retries), (0, 3));
    assert_eq!(
        (
            quarantine.quarantined_at,
            quarantine.reason.description.as_str()
        ),
        (bench.now, "boom")
    );
}

#[test]
fn the_threshold_counts_in_every_live_state_but_recovering() {
    for state in [
        FaultState::Running,
        FaultState::Backoff,
        FaultState::Open,
        FaultState::HalfOpen,
    ] {
        let mut bench = Bench::in_state(state);
        while bench.record().score < 4 {
            // A replica that still works fails; brings HalfOpen back to Open, which is as live.
            bench.crash();
        }
        bench.crash();
        assert_eq!(bench.state(), FaultState::Quarantined, "from {state}");
    }
}

#[test]
fn more_than_twelve_failures_an_hour_quarantine_whatever_the_score() {
    let mut bench = Bench::running();
    for nth in 1..=13 {
        bench.crash();
        assert_eq!(
            bench.state() == FaultState::Quarantined,
            nth == 13,
            "after {nth}"
        );
        if nth < 13 {
            bench.fire();
            bench.up();
            bench.pass(61 * SECOND);
            assert_eq!(bench.record().score, 0, "stable in between");
        }
    }
}

#[test]
fn the_hour_forgets_by_age_alone_and_includes_its_edge() {
    for (age, quarantined) in [(HOUR, true), (HOUR + NANO, false)] {
        let mut bench = Bench::running();
        let first = bench.now;
        for _ in 0..12 {
            bench.crash();
            bench.fire();
            bench.up();
            bench.pass(62 * SECOND);
        }
        bench.pass(first.plus(age).since(bench.now));
        bench.crash();
        assert_eq!(
            bench.state() == FaultState::Quarantined,
            quarantined,
            "{age:?} after the first"
        );
    }
}

#[test]
fn more_than_max_crashes_in_the_window_open_the_breaker() {
    let mut bench = Bench::running();
    for _ in 0..3 {
        bench.crash();
        assert_eq!(bench.state(), FaultState::Backoff);
        bench.fire();
        assert_eq!(bench.state(), FaultState::Running);
        bench.up();
    }
    bench.take();
    bench.crash();
    assert_eq!(
        (bench.state(), bench.delay()),
        (FaultState::Open, Some(5 * SECOND))
    );
    assert!(!bench.has(|effect| matches!(effect, FaultEffect::Start { .. })));
}

#[test]
fn the_crash_window_includes_its_edge() {
    for (age, state) in [
        (60 * SECOND, FaultState::Open),
        (60 * SECOND + NANO, FaultState::Backoff),
    ] {
        let config = FaultConfig {
            max_crashes: 1,
            stable_min: 600 * SECOND,
            ..FaultConfig::default()
        };
        let mut bench = Bench::running_with(config);
        let first = bench.now;
        bench.crash();
        bench.fire();
        bench.pass(first.plus(age).since(bench.now));
        bench.crash();
        assert_eq!(bench.state(), state, "{age:?} after the first");
    }
}

#[test]
fn a_crash_is_answered_by_a_delayed_start() {
    let mut bench = Bench::running();
    bench.crash();
    assert_eq!(
        (bench.state(), bench.delay()),
        (FaultState::Backoff, Some(Duration::from_millis(200)))
    );
    let epoch = bench.record().epoch;
    bench.take();
    bench.fire();
    let to = FaultState::Running;
    let expected = [
        FaultEffect::Transition {
            from: FaultState::Backoff,
            to,
        },
        FaultEffect::Start { epoch: epoch + 1 },
    ];
    assert_eq!(bench.take(), expected);
}

#[test]
fn delays_double_up_to_their_cap() {
    let config = FaultConfig {
        max_crashes: 900,
        quarantine_threshold: 900,
        hourly_max: 900,
        ..FaultConfig::default()
    };
    let mut bench = Bench::running_with(config);
    let mut delays = Vec::new();
    for _ in 0..40 {
        bench.crash();
        delays.push(u64::try_from(bench.delay().unwrap().as_millis()).unwrap());
        bench.fire();
    }
    assert_eq!(
        delays[..9],
        [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]
    );
    assert!(delays[9..].iter().all(|&delay| delay == 30_000));
}

#[test]
fn jitter_halves_a_delay_at_most() {
    let mut bench = Bench::running();
    let input = FaultInput::Failure(failure(Severity::Medium));
    bench
        .policy
        .step(bench.now, 0, input, &mut bench.effects)
        .unwrap();
    let delay = bench.delay().unwrap();
    assert_eq!(delay, Duration::from_millis(100) + NANO);
}

#[test]
fn without_auto_restart_a_crash_stops_it() {
    let mut bench = Bench::running_with(FaultConfig {
        auto_restart: false,
        ..FaultConfig::default()
    });
    bench.crash();
    assert_eq!((bench.state(), bench.delay()), (FaultState::Stopped, None));
    assert!(bench.has(|effect| *effect == FaultEffect::Stop));
}

#[test]
fn a_replicas_crash_in_backoff_doubles_the_delay_from_now() {
    let mut bench = Bench::in_state(FaultState::Backoff);
    bench.now = bench.now.plus(Duration::from_millis(150));
    let stale = bench.record().timer.unwrap().token;
    bench.crash();
    assert_eq!(
        (bench.state(), bench.delay()),
        (FaultState::Backoff, Some(Duration::from_millis(400)))
    );
    bench.take();
    bench.input(FaultInput::Timer { token: stale });
    assert_eq!(
        (bench.state(), bench.take().len()),
        (FaultState::Backoff, 0)
    );
}

#[test]
fn a_replicas_crash_while_open_re_arms_the_same_cool_down() {
    let config = FaultConfig {
        quarantine_threshold: 9,
        ..FaultConfig::default()
    };
    let mut bench = Bench::running_with(config);
    bench.crash_until(FaultState::Open);
    bench.now = bench.now.plus(3 * SECOND);
    bench.crash();
    assert_eq!(
        (bench.state(), bench.delay()),
        (FaultState::Open, Some(5 * SECOND))
    );
}

#[test]
fn a_crash_while_half_open_doubles_the_cool_down_up_to_its_cap() {
    let config = FaultConfig {
        quarantine_threshold: 99,
        hourly_max: 99,
        ..FaultConfig::default()
    };
    let mut bench = Bench::running_with(config);
    bench.crash_until(FaultState::Open);
    let mut delays = Vec::new();
    for _ in 0..7 {
        delays.push(bench.delay().unwrap().as_secs());
        bench.fire();
        assert_eq!(bench.state(), FaultState::HalfOpen);
        bench.crash();
    }
    assert_eq!(delays, [5, 10, 20, 40, 60, 60, 60]);
}

#[test]
fn a_crash_in_recovery_counts_the_attempt_and_doubles_the_delay_until_exhausted() {
    let mut bench = Bench::running_with(FaultConfig {
        essential: true,
        ..FaultConfig::default()
    });
    bench.crash_until(FaultState::Quarantined);
    for (attempt, delay) in [(2, 120), (3, 240)] {
        bench.fire();
        assert_eq!(bench.state(), FaultState::Recovering);
        bench.crash();
        assert_eq!(bench.delay(), Some(delay * SECOND));
        assert_eq!(
            bench.record().recovery_attempt,
            u32::try_from(attempt).unwrap()
        );
        let retries = bench.record().quarantine.as_ref().unwrap().retry_count;
        assert_eq!(retries, bench.record().recovery_attempt - 1);
    }
    assert!(!bench.has(|effect| matches!(effect, FaultEffect::Escalate { .. })));
    bench.fire();
    bench.crash();
    assert_eq!(
        (bench.state(), bench.delay()),
        (FaultState::Quarantined, None)
    );
    assert!(bench.policy.is_exhausted());
    assert!(bench.has(|effect| matches!(effect, FaultEffect::Escalate { .. })));
}

#[test]
fn an_exhausted_agent_that_is_not_essential_only_stays_isolated() {
    let mut bench = Bench::running();
    for _ in 0..4 {
        bench.crash_until(FaultState::Quarantined);
        if bench.record().timer.is_some() {
            bench.fire();
        }
    }
    assert!(bench.policy.is_exhausted());
    assert!(!bench.has(|effect| matches!(effect, FaultEffect::Escalate { .. })));
}

#[test]
fn attempts_and_first_delays_go_by_the_worst_severity() {
    for (severity, attempts, delay) in [
        (Severity::Low, 5, Some(30 * SECOND)),
        (Severity::Medium, 3, Some(60 * SECOND)),
        (Severity::High, 1, Some(300 * SECOND)),
        (Severity::Critical, 0, None),
    ] {
        let config = FaultConfig {
            quarantine_threshold: 2,
            ..FaultConfig::default()
        };
        let mut bench = Bench::running_with(config);
        bench.fail(severity);
        if severity != Severity::Critical {
            bench.fail(Severity::Low);
        }
        assert_eq!(bench.state(), FaultState::Quarantined);
        assert_eq!(
            bench.record().quarantine.as_ref().unwrap().max_retries,
            attempts
        );
        assert_eq!(bench.delay(), delay);
        let mut recoveries = 0;
        while bench.record().timer.is_some() {
            bench.fire();
            recoveries += 1;
            bench.fail(Severity::Low);
        }
        assert_eq!(recoveries, attempts);
    }
}

#[test]
fn a_repeated_resource_failure_is_high() {
    let abuse = || {
        let mut failure = failure(Severity::Medium);
        failure.kind = ReasonKind::ResourceAbuse;
        FaultInput::Failure(failure)
    };
    let mut bench = Bench::running();
    bench.input(abuse());
    assert_eq!(bench.record().worst, Some(Severity::Medium));
    bench.fire();
    bench.input(abuse());
    assert_eq!(bench.record().worst, Some(Severity::High));
}

#[test]
fn being_up_for_long_enough_forgets_the_score() {
    let mut bench = Bench::in_state(FaultState::Backoff);
    bench.fire();
    bench.pass(100 * SECOND);
    assert_eq!(bench.record().score, 1, "it was never up");
    bench.up();
    bench.pass((60 * SECOND).saturating_sub(NANO));
    assert_eq!(bench.record().score, 1);
    bench.pass(NANO);
    assert_eq!((bench.record().score, bench.record().backoffs), (0, 0));
    assert!(bench.has(|effect| *effect == FaultEffect::Settled));
}

#[test]
fn long_delays_ask_for_a_longer_stable_time() {
    let mut bench = Bench::running_with(FaultConfig {
        cool_down: Ladder {
            base: 50 * SECOND,
            cap: 50 * SECOND,
        },
        ..FaultConfig::default()
    });
    bench.crash_until(FaultState::Open);
    bench.fire();
    bench.up();
    bench.pass(10 * SECOND);
    assert_eq!(bench.state(), FaultState::Running);
    bench.pass((90 * SECOND).saturating_sub(NANO));
    assert_eq!(bench.record().score, 4);
    bench.pass(NANO);
    assert_eq!(bench.record().score, 0);
}

#[test]
fn a_task_while_open_is_parked_until_the_trial() {
    let mut bench = Bench::in_state(FaultState::Open);
    let until = bench.record().timer.map(|timer| timer.at);
    assert_eq!(bench.offer(), Admission::Parked { until });
}

#[test]
fn the_cool_downs_end_is_a_trial_with_one_permit() {
    let mut bench = Bench::in_state(FaultState::Open);
    bench.fire();
    assert_eq!(bench.state(), FaultState::HalfOpen);
    assert_eq!(
        bench.offer(),
        Admission::Parked { until: None },
        "it is not up yet"
    );
    bench.up();
    bench.probe();
    assert_eq!(
        bench.offer(),
        Admission::Parked { until: None },
        "the permit is taken"
    );
}

#[test]
fn one_good_task_closes_the_breaker_and_keeps_the_score() {
    let mut bench = Bench::in_state(FaultState::HalfOpen);
    let token = bench.probe();
    bench.task_ended(token, TaskEnd::Ok);
    assert_eq!(
        (bench.state(), bench.record().score),
        (FaultState::Running, 4)
    );
    bench.pass(60 * SECOND);
    assert_eq!(bench.record().score, 0);
}

#[test]
fn ten_idle_seconds_close_the_breaker() {
    let mut bench = Bench::in_state(FaultState::HalfOpen);
    bench.pass((10 * SECOND).saturating_sub(NANO));
    assert_eq!(bench.state(), FaultState::HalfOpen);
    bench.pass(NANO);
    assert_eq!(
        (bench.state(), bench.record().score),
        (FaultState::Running, 4)
    );
}

#[test]
fn a_task_without_verdict_returns_the_permit_and_begins_the_idle_time_anew() {
    let mut bench = Bench::in_state(FaultState::HalfOpen);
    let token = bench.probe();
    bench.pass(30 * SECOND);
    assert_eq!(
        bench.state(),
        FaultState::HalfOpen,
        "a task under way is not idleness"
    );
    bench.task_ended(token, TaskEnd::Unscored);
    assert_eq!(
        (bench.state(), bench.record().permit),
        (FaultState::HalfOpen, Some(Permit::Free))
    );
    bench.task_ended(token, TaskEnd::Ok);
    assert_eq!(bench.state(), FaultState::HalfOpen, "that task is over");
    bench.pass((10 * SECOND).saturating_sub(NANO));
    assert_eq!(bench.state(), FaultState::HalfOpen);
    bench.pass(NANO);
    assert_eq!(bench.state(), FaultState::Running);
}

#[test]
fn an_unscored_failure_only_returns_the_permit() {
    for state in LIVE_OR_STOPPED {
        let mut bench = Bench::in_state(state);
        let on_trial = matches!(state, FaultState::HalfOpen | FaultState::Recovering);
        if on_trial {
            bench.probe();
        }
        let score = bench.record().score;
        let mut unscored = failure(Severity::Critical);
        unscored.scored = false;
        bench.input(FaultInput::Failure(unscored));
        assert_eq!((bench.state(), bench.record().score), (state, score));
        assert_eq!(bench.record().permit == Some(Permit::Free), on_trial);
    }
}

#[test]
fn the_recovery_timer_starts_a_trial() {
    let mut bench = Bench::in_state(FaultState::Quarantined);
    let epoch = bench.record().epoch;
    bench.fire();
    assert_eq!(bench.state(), FaultState::Recovering);
    assert!(bench.has(|effect| *effect == FaultEffect::Start { epoch: epoch + 1 }));
    assert_eq!(bench.record().permit, Some(Permit::Free));
}

#[test]
fn a_minute_up_and_idle_is_a_recovery() {
    let mut bench = Bench::in_state(FaultState::Recovering);
    bench.pass((60 * SECOND).saturating_sub(NANO));
    assert_eq!(bench.state(), FaultState::Recovering);
    bench.pass(NANO);
    assert_eq!(
        (bench.state(), bench.record().score),
        (FaultState::Running, 0)
    );
    assert_eq!(bench.record().quarantine, None);
    assert!(bench.has(|effect| *effect == FaultEffect::Recovered { attempt: 1 }));
}

#[test]
fn a_good_task_is_a_recovery_only_after_a_minute_up() {
    let mut bench = Bench::in_state(FaultState::Recovering);
    let token = bench.probe();
    bench.task_ended(token, TaskEnd::Ok);
    assert_eq!(bench.state(), FaultState::Recovering);
    bench.probe();
    bench.pass(60 * SECOND);
    assert_eq!(
        bench.state(),
        FaultState::Running,
        "one went well, though another is under way"
    );
    let mut bench = Bench::in_state(FaultState::Recovering);
    let token = bench.probe();
    bench.pass(90 * SECOND);
    assert_eq!(
        bench.state(),
        FaultState::Recovering,
        "its only task is still under way"
    );
    bench.task_ended(token, TaskEnd::Ok);
    assert_eq!(bench.state(), FaultState::Running);
}

#[test]
fn a_worse_failure_in_quarantine_raises_the_severity_and_may_cancel_the_recovery() {
    let mut bench = Bench::in_state(FaultState::Quarantined);
    let delay = bench.delay();
    bench.fail(Severity::Medium);
    assert_eq!(bench.delay(), delay);
    bench.fail(Severity::High);
    let quarantine = bench.record().quarantine.clone().unwrap();
    assert_eq!(
        (quarantine.reason.severity, quarantine.max_retries),
        (Severity::High, 1)
    );
    assert_eq!(
        bench.delay(),
        delay,
        "the first of one attempt is still allowed"
    );
    bench.fail(Severity::Critical);
    assert_eq!(bench.delay(), None);
    assert!(bench.policy.is_exhausted());
}

#[test]
fn an_hour_of_running_forgets_the_recovery_attempts() {
    let mut bench = Bench::in_state(FaultState::Recovering);
    bench.pass(60 * SECOND);
    assert_eq!(
        (bench.state(), bench.record().recovery_attempt),
        (FaultState::Running, 1)
    );
    bench.pass(HOUR.saturating_sub(NANO));
    assert_eq!(bench.record().recovery_attempt, 1);
    bench.pass(NANO);
    assert_eq!(bench.record().recovery_attempt, 0);
}

#[test]
fn a_timer_that_fires_early_is_armed_again() {
    let mut bench = Bench::in_state(FaultState::Open);
    let timer = bench.record().timer.unwrap();
    bench.input(FaultInput::Timer { token: timer.token });
    let again = bench.record().timer.unwrap();
    assert_eq!((bench.state(), again.at), (FaultState::Open, timer.at));
    assert_ne!(again.token, timer.token);
}

#[test]
fn reports_of_an_earlier_start_are_dropped() {
    let mut bench = Bench::in_state(FaultState::Open);
    let old = bench.record().epoch;
    bench.fire();
    bench.input(FaultInput::Up { epoch: old });
    assert_eq!(bench.record().up_since, None);
}

#[test]
fn new_thresholds_wait_for_the_end_of_the_episode() {
    let strict = FaultConfig {
        quarantine_threshold: 1,
        ..FaultConfig::default()
    };
    let mut bench = Bench::in_state(FaultState::Backoff);
    bench.input(FaultInput::Configure(strict.clone()));
    bench.fire();
    bench.crash();
    assert_eq!(
        bench.state(),
        FaultState::Backoff,
        "still by the old threshold"
    );
    assert_eq!(bench.policy.config_next(), Some(&strict));
    bench.fire();
    bench.up();
    bench.pass(60 * SECOND);
    assert_eq!(bench.policy.config(), &strict);
    bench.crash();
    assert_eq!(bench.state(), FaultState::Quarantined);
    let mut calm = Bench::running();
    calm.input(FaultInput::Configure(strict.clone()));
    assert_eq!(calm.policy.config(), &strict, "at once between episodes");
}

#[test]
fn a_configuration_that_is_not_sound_is_refused() {
    let mut bench = Bench::running();
    let zero = FaultConfig {
        crash_window: Duration::ZERO,
        ..FaultConfig::default()
    };
    let refusal = FaultRefusal::Config(FaultConfigError::Zero {
        field: "crash_window",
    });
    assert_eq!(bench.try_input(FaultInput::Configure(zero)), Err(refusal));
    let upside_down = Ladder {
        base: 2 * SECOND,
        cap: SECOND,
    };
    let config = FaultConfig {
        backoff: upside_down,
        ..FaultConfig::default()
    };
    assert_eq!(
        config.check(),
        Err(FaultConfigError::CapBelowBase { field: "backoff" })
    );
    let config = FaultConfig {
        hourly_max: 1_000,
        ..FaultConfig::default()
    };
    assert_eq!(
        config.check(),
        Err(FaultConfigError::TooLarge {
            field: "hourly_max"
        })
    );
}

#[test]
fn a_task_without_verdict_just_before_the_idle_time_is_over_begins_it_anew() {
    let mut bench = Bench::in_state(FaultState::HalfOpen);
    let token = bench.probe();
    bench.pass(9 * SECOND);
    bench.task_ended(token, TaskEnd::Unscored);
    bench.pass((10 * SECOND).saturating_sub(NANO));
    assert_eq!(bench.state(), FaultState::HalfOpen);
    bench.pass(NANO);
    assert_eq!(bench.state(), FaultState::Running);
    // In recovery, the minute up is the longer wait.
    let mut bench = Bench::in_state(FaultState::Recovering);
    let token = bench.probe();
    bench.pass(9 * SECOND);
    bench.task_ended(token, TaskEnd::Unscored);
    bench.pass((51 * SECOND).saturating_sub(NANO));
    assert_eq!(bench.state(), FaultState::Recovering);
    bench.pass(NANO);
    assert_eq!(bench.state(), FaultState::Running);
}
