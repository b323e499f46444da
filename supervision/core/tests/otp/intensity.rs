//! How many restarts are granted, and what follows the last.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, crash, flags, with, workers};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);

fn is_escalated(bench: &Bench) -> bool {
    matches!(bench.end, Some(End::Escalated { .. }))
}

#[test]
fn otp_059_060_061_an_intensity_of_n_grants_n_restarts_and_no_more() {
    for intensity in [0, 1, 3, 7] {
        for strategy in [
            Strategy::OneForOne,
            Strategy::OneForAll,
            Strategy::RestForOne,
        ] {
            let mut bench = Bench::running(strategy, intensity, "a");
            for _ in 0..intensity {
                bench.crash("a");
                assert!(!is_escalated(&bench));
            }
            bench.crash("a");
            assert!(is_escalated(&bench));
            let starts = bench.take_log().matches("start a").count();
            assert_eq!(starts, usize::try_from(intensity).unwrap());
        }
    }
}

#[test]
fn otp_063_failed_starts_count() {
    let mut bench = Bench::running(Strategy::OneForOne, 3, "a");
    bench.failing.insert("a".into(), 100);
    bench.crash("a");
    bench.expect("exit a; fail a; fail a; fail a");
    assert!(is_escalated(&bench));
}

#[test]
fn otp_064_the_window_slides() {
    let mut bench = Bench::booted(flags(Strategy::OneForOne, 1, SECOND), workers("a"));
    for _ in 0..50 {
        bench.crash("a");
        bench.pass(Duration::from_millis(2100));
    }
    assert_eq!(bench.end, None);
}

#[test]
fn otp_065_the_window_includes_its_edge() {
    for (age, escalates) in [
        (SECOND.saturating_sub(NANO), true),
        (SECOND, true),
        (SECOND + NANO, false),
    ] {
        let mut bench = Bench::booted(flags(Strategy::OneForOne, 1, SECOND), workers("a"));
        bench.crash("a");
        bench.pass(age);
        bench.crash("a");
        assert_eq!(is_escalated(&bench), escalates, "after {age:?}");
    }
}

#[test]
fn otp_067_orders_are_not_counted() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a");
    for _ in 0..5 {
        assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
        assert!(matches!(bench.start("a"), Ok(Reply::Started(_))));
        assert!(matches!(
            bench.ask(Request::Restart { child: "a".into() }),
            Ok(Reply::Started(_))
        ));
    }
    assert_eq!(bench.end, None);
}

#[test]
fn otp_068_a_normal_end_of_a_transient_child_is_not_counted() {
    let spec = with(ChildSpec::worker("a"), |spec| {
        spec.restart = Restart::Transient;
    });
    let mut bench = Bench::booted(flags(Strategy::OneForOne, 0, SECOND), vec![spec]);
    bench.exit("a", ExitReason::Normal);
    assert_eq!(bench.end, None);
}

#[test]
fn otp_069_the_window_is_the_supervisors() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b");
    bench.crash("a");
    bench.crash("b");
    assert!(is_escalated(&bench));
}

#[test]
fn otp_071_escalation_stops_the_rest_in_reverse_and_is_abnormal() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a b c");
    bench.crash("b");
    bench.expect("exit b; stop c; stop a");
    let end = bench.end.unwrap();
    assert!(end.is_abnormal());
    assert!(end.to_string().contains("boom"), "{end}");
}

/// An outer supervisor learns of an inner one's escalation as an abnormal exit, whatever its restart type.
#[test]
fn otp_072_073_an_inner_supervisor_that_escalated_is_restarted_even_when_transient() {
    for restart in [Restart::Permanent, Restart::Transient] {
        let inner = with(ChildSpec::supervisor("inner"), |spec| {
            spec.restart = restart;
        });
        let mut outer = Bench::booted(
            flags(Strategy::OneForOne, 1, SECOND),
            vec![inner, ChildSpec::worker("z")],
        );
        outer.exit(
            "inner",
            ExitReason::Escalated("too many restarts".to_owned()),
        );
        outer.expect("exit inner; start inner");
        outer.exit(
            "inner",
            ExitReason::Escalated("too many restarts".to_owned()),
        );
        assert!(
            is_escalated(&outer),
            "the outer one counted the first restart"
        );
    }
}

#[test]
fn otp_075_a_pool_escalates_too() {
    let mut bench = Bench::running(Strategy::Dynamic, 0, "a b");
    bench.crash("a");
    bench.expect("exit a; stop b");
    assert!(is_escalated(&bench));
}

#[test]
fn otp_108_the_crash_is_reported_before_the_restart_and_the_start_last() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a");
    bench.reports.clear();
    bench.crash("a");
    let kinds: Vec<&str> = bench.reports.iter().map(kind).collect();
    assert_eq!(kinds, ["exited", "restarting", "started"]);
}

#[test]
fn otp_109_the_limit_is_reported_between_the_crash_and_the_stops() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a b");
    bench.reports.clear();
    bench.exit("a", crash());
    let kinds: Vec<&str> = bench.reports.iter().map(kind).collect();
    assert_eq!(kinds, ["exited", "limit", "stopped", "ended"]);
}

fn kind(report: &Report) -> &'static str {
    match report {
        Report::Started { .. } => "started",
        Report::StartFailed { .. } => "start failed",
        Report::Exited { .. } => "exited",
        Report::Restarting { .. } => "restarting",
        Report::LimitExceeded { .. } => "limit",
        Report::Overdue { .. } => "overdue",
        Report::Stopped { .. } => "stopped",
        Report::Ended(_) => "ended",
    }
}
