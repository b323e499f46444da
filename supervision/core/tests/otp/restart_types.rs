//! Who is restarted after which end.

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, crash, flags, with};

fn ends() -> [ExitReason; 8] {
    [
        ExitReason::Normal,
        ExitReason::Shutdown(None),
        ExitReason::Shutdown(Some("x".to_owned())),
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

#[test]
fn otp_035_036_037_a_permanent_child_is_restarted_however_it_ended() {
    for strategy in STRATEGIES {
        for reason in ends() {
            let mut bench = alone(strategy, Restart::Permanent);
            bench.exit("a", reason);
            bench.expect("exit a; start a");
        }
    }
}

#[test]
fn otp_039_040_041_a_transient_child_is_restarted_after_abnormal_ends_only() {
    for strategy in STRATEGIES {
        for reason in ends() {
            let mut bench = alone(strategy, Restart::Transient);
            bench.exit("a", reason.clone());
            if reason.is_abnormal() {
                bench.expect("exit a; start a");
            } else {
                bench.expect("exit a");
                // The spec is kept, except in a pool.
                let kept = (strategy != Strategy::Dynamic).then_some(ChildStatus::Down);
                assert_eq!(bench.status("a"), kept);
            }
        }
    }
}

#[test]
fn otp_043_044_045_a_temporary_child_is_never_restarted_and_is_forgotten() {
    for strategy in STRATEGIES {
        for reason in ends() {
            let mut bench = alone(strategy, Restart::Temporary);
            bench.exit("a", reason.clone());
            bench.expect("exit a");
            assert_eq!(bench.status("a"), None);
            let reported = Report::Exited {
                child: "a".into(),
                incarnation: bench.reports.iter().find_map(started).unwrap(),
                reason,
                restart: Restart::Temporary,
            };
            assert!(bench.reports.contains(&reported));
        }
    }
}

fn started(report: &Report) -> Option<Incarnation> {
    if let Report::Started { incarnation, .. } = report {
        Some(*incarnation)
    } else {
        None
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
