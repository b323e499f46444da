//! Who is restarted after which end.

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, crash, flags, with};

fn remark() -> ExitReason {
    ExitReason::Shutdown(Some("x".to_owned()))
}

/// Everything that counts as a failure.
fn failures() -> [ExitReason; 5] {
    [
        crash(),
        ExitReason::Killed,
        ExitReason::Escalated("x".to_owned()),
        ExitReason::Unknown,
        ExitReason::Abandoned,
    ]
}

fn alone(strategy: Strategy, restart: Restart) -> Bench {
    let spec = with(ChildSpec::worker("a"), |spec| spec.restart = restart);
    Bench::booted(
        flags(strategy, 1, std::time::Duration::from_secs(5)),
        vec![spec],
    )
}

const STRATEGIES: [Strategy; 4] = [
    Strategy::OneForOne,
    Strategy::OneForAll,
    Strategy::RestForOne,
    Strategy::Dynamic,
];

#[track_caller]
fn is_restarted(restart: Restart, reason: ExitReason) {
    for strategy in STRATEGIES {
        let mut bench = alone(strategy, restart);
        bench.exit("a", reason.clone());
        bench.expect("exit a; start a");
        assert_eq!(bench.status("a"), Some(ChildStatus::Running));
    }
}

/// It stays down: listed still if transient, except in a pool; forgotten if temporary. Its end is reported as it was.
#[track_caller]
fn stays_down(restart: Restart, reason: ExitReason) {
    for strategy in STRATEGIES {
        let mut bench = alone(strategy, restart);
        let incarnation = bench.incarnation("a");
        bench.exit("a", reason.clone());
        bench.expect("exit a");
        let kept = strategy != Strategy::Dynamic && restart == Restart::Transient;
        assert_eq!(bench.status("a"), kept.then_some(ChildStatus::Down));
        assert_eq!(bench.end, None);
        let reported = Report::Exited {
            child: "a".into(),
            incarnation,
            reason: reason.clone(),
            restart,
        };
        assert!(bench.reports.contains(&reported));
    }
}

#[test]
fn otp_035_a_permanent_child_is_restarted_after_a_normal_end() {
    is_restarted(Restart::Permanent, ExitReason::Normal);
}

#[test]
fn otp_036_a_permanent_child_is_restarted_after_a_shutdown() {
    is_restarted(Restart::Permanent, ExitReason::Shutdown(None));
}

#[test]
fn otp_037_a_permanent_child_is_restarted_after_a_shutdown_with_a_remark() {
    is_restarted(Restart::Permanent, remark());
}

#[test]
fn a_permanent_child_is_restarted_after_every_failure() {
    for reason in failures() {
        is_restarted(Restart::Permanent, reason);
    }
}

#[test]
fn otp_039_a_transient_child_is_not_restarted_after_a_normal_end() {
    stays_down(Restart::Transient, ExitReason::Normal);
}

#[test]
fn otp_040_a_transient_child_is_not_restarted_after_a_shutdown() {
    stays_down(Restart::Transient, ExitReason::Shutdown(None));
}

#[test]
fn otp_041_a_transient_child_is_not_restarted_after_a_shutdown_with_a_remark() {
    stays_down(Restart::Transient, remark());
}

#[test]
fn a_transient_child_is_restarted_after_every_failure() {
    for reason in failures() {
        is_restarted(Restart::Transient, reason);
    }
}

#[test]
fn otp_043_a_temporary_child_is_forgotten_after_a_normal_end() {
    stays_down(Restart::Temporary, ExitReason::Normal);
}

#[test]
fn otp_044_a_temporary_child_is_forgotten_after_a_shutdown() {
    stays_down(Restart::Temporary, ExitReason::Shutdown(None));
    stays_down(Restart::Temporary, remark());
}

#[test]
fn otp_045_a_temporary_child_is_forgotten_after_every_failure_and_the_failure_reported() {
    for reason in failures() {
        stays_down(Restart::Temporary, reason);
    }
}

#[test]
fn an_exit_of_a_past_incarnation_is_dropped_and_counted() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a");
    let incarnation = bench.incarnation("a");
    bench.crash("a");
    bench.take_log();
    bench.input(Input::Exited {
        child: "a".into(),
        incarnation,
        reason: crash(),
    });
    bench.expect("");
    assert_eq!((bench.supervisor.stale_count(), bench.end), (1, None));
}

#[test]
fn whatever_names_a_past_incarnation_changes_nothing() {
    let mut bench = Bench::running(Strategy::OneForOne, 5, "a b");
    let (child, incarnation) = (ChildId::from("a"), bench.incarnation("a"));
    bench.crash("a");
    bench.take_log();
    let before: Vec<_> = bench
        .supervisor
        .children()
        .map(|view| view.status)
        .collect();
    let late = [
        Input::Started {
            child: child.clone(),
            incarnation,
        },
        Input::Ignored {
            child: child.clone(),
            incarnation,
        },
        Input::StartFailed {
            child: child.clone(),
            incarnation,
            reason: "late".to_owned(),
        },
        Input::RetryStart {
            child: child.clone(),
            incarnation,
        },
        Input::LimitReached {
            child,
            incarnation,
            limit: Limit::Asked,
        },
    ];
    let count = late.len();
    for input in late {
        bench.input(input);
    }
    bench.expect("");
    let after: Vec<_> = bench
        .supervisor
        .children()
        .map(|view| view.status)
        .collect();
    assert_eq!(before, after);
    assert_eq!(
        bench.supervisor.stale_count(),
        u64::try_from(count).unwrap()
    );
}
