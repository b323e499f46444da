//! How many restarts are granted, and what follows the last.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, crash, flags, with, workers};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);

fn is_escalated(bench: &Bench) -> bool {
    matches!(bench.end, Some(End::Escalated { .. }))
}

const GROUPS: [Strategy; 3] = [
    Strategy::OneForOne,
    Strategy::OneForAll,
    Strategy::RestForOne,
];

/// So many restarts are granted, and the crash after the last ends the supervisor.
#[track_caller]
fn grants_exactly(intensity: u32) {
    for strategy in GROUPS {
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

#[test]
fn otp_059_an_intensity_of_zero_grants_no_restart() {
    grants_exactly(0);
}

#[test]
fn otp_060_an_intensity_of_one_grants_one_restart() {
    grants_exactly(1);
}

#[test]
fn otp_061_an_intensity_of_three_grants_three_restarts_and_ends_at_the_fourth_crash() {
    grants_exactly(3);
    grants_exactly(7);
}

#[test]
fn each_failed_start_within_a_restart_of_the_group_counts() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let mut bench = Bench::running(strategy, 2, "a b c");
        bench.failing.insert("c".into(), 100);
        bench.crash("a");
        let first = "exit a; stop c; stop b; start a; start b; fail c";
        let again = match strategy {
            // The one that failed is the one that needs the next restart.
            Strategy::RestForOne => "fail c; stop b; stop a",
            _ => "stop b; stop a; start a; start b; fail c; stop b; stop a",
        };
        bench.expect(&format!("{first}; {again}"));
        let Some(End::Escalated { child, .. }) = &bench.end else {
            panic!("{:?}", bench.end)
        };
        assert_eq!(child.as_str(), "c");
    }
}

#[test]
fn a_restart_that_is_ignored_is_over_and_was_counted() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b");
    bench.ignoring.insert("a".into());
    bench.crash("a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
    bench.crash("b");
    assert!(is_escalated(&bench));
}

#[test]
fn restarts_that_have_left_the_window_are_granted_again() {
    let mut bench = Bench::booted(flags(Strategy::OneForOne, 2, SECOND), workers("a"));
    for _ in 0..3 {
        bench.crash("a");
        bench.crash("a");
        bench.pass(SECOND + NANO);
    }
    assert_eq!(bench.end, None);
    bench.crash("a");
    bench.crash("a");
    bench.crash("a");
    assert!(is_escalated(&bench));
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
#[track_caller]
fn inner_that_escalated_is_restarted(restart: Restart) {
    let inner = with(ChildSpec::supervisor("inner"), |spec| {
        spec.restart = restart;
    });
    let mut outer = Bench::booted(
        flags(Strategy::OneForOne, 1, SECOND),
        vec![inner, ChildSpec::worker("z")],
    );
    let gave_up = ExitReason::Escalated("too many restarts".to_owned());
    outer.exit("inner", gave_up.clone());
    outer.expect("exit inner; start inner");
    outer.exit("inner", gave_up);
    assert!(
        is_escalated(&outer),
        "the outer one counted the first restart"
    );
}

#[test]
fn otp_072_a_permanent_inner_supervisor_that_escalated_is_restarted() {
    inner_that_escalated_is_restarted(Restart::Permanent);
}

/// Where it differs from OTP: there, the subtree would be gone without a word.
#[test]
fn otp_073_a_transient_inner_supervisor_that_escalated_is_restarted_all_the_same() {
    inner_that_escalated_is_restarted(Restart::Transient);
}

/// The shell makes a new machine for each start of an inner supervisor, and a new machine remembers nothing.
#[test]
fn otp_076_a_restarted_supervisor_has_an_empty_window() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a");
    bench.crash("a");
    bench.crash("a");
    assert!(is_escalated(&bench));
    let mut next = Bench::running(Strategy::OneForOne, 1, "a");
    next.now = bench.now;
    next.crash("a");
    next.expect("exit a; start a");
    assert_eq!(next.end, None);
}

#[test]
fn the_window_of_a_pool_is_shared_by_its_members() {
    let mut bench = Bench::running(Strategy::Dynamic, 2, "a b c");
    bench.crash("a");
    bench.crash("b");
    assert_eq!(bench.end, None);
    bench.crash("c");
    assert!(is_escalated(&bench));
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

#[test]
fn a_retry_that_a_restart_of_the_group_overtook_does_not_count() {
    let mut bench = Bench::running(Strategy::OneForAll, 2, "a b c");
    bench.failing.insert("a".into(), 1);
    bench.hold_retries = true;
    bench.crash("b");
    bench.expect("exit b; stop c; stop a; fail a");
    bench.start("b").unwrap();
    bench.start("c").unwrap();
    bench.expect("start b; start c");
    bench.deaf.insert("c".into());
    bench.crash("b");
    bench.expect("exit b; stop c");
    // Two failures by now, which is the most; the retry finds that its child is about to be started anyway.
    bench.release_retry();
    bench.expect("");
    bench.exit("c", ExitReason::Shutdown(None));
    bench.expect("exit c; start a; start b; start c");
    assert_eq!(bench.end, None);
}
