//! Ordered, timed shutdown, and shutdown by significant children.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, crash, with, workers};

const LIMIT: Duration = Duration::from_millis(100);

fn impatient(id: &str) -> ChildSpec {
    with(ChildSpec::worker(id), |spec| {
        spec.shutdown = Shutdown::Timeout(LIMIT);
    })
}

fn significant(id: &str, restart: Restart) -> ChildSpec {
    with(ChildSpec::worker(id), |spec| {
        spec.significant = true;
        spec.restart = restart;
    })
}

fn auto(auto_shutdown: AutoShutdown) -> Flags {
    Flags {
        auto_shutdown,
        intensity: 3,
        ..Flags::default()
    }
}

#[test]
fn otp_023_children_are_stopped_in_reverse_one_after_the_other() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b c");
    bench.deaf.insert("c".into());
    bench.stop();
    bench.expect("stop c");
    bench.exit("c", ExitReason::Shutdown(None));
    bench.expect("exit c; stop b; stop a");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn otp_024_infinity_waits_up_to_the_cap_and_no_longer() {
    let spec = with(ChildSpec::worker("a"), |spec| {
        spec.shutdown = Shutdown::Infinity;
    });
    let mut bench = Bench::booted(Flags::default(), vec![spec]);
    bench.deaf.insert("a".into());
    bench.stop();
    bench.pass(
        Flags::default()
            .infinity_cap
            .saturating_sub(Duration::from_nanos(1)),
    );
    bench.expect("stop a");
    bench.pass(Duration::from_nanos(1));
    bench.expect("kill a");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn otp_024_an_orders_deadline_cuts_every_wait_short_and_keeps_the_order() {
    let infinite = with(ChildSpec::worker("b"), |spec| {
        spec.shutdown = Shutdown::Infinity;
    });
    let mut bench = Bench::booted(Flags::default(), vec![ChildSpec::worker("a"), infinite]);
    bench.deaf.extend(["a".into(), "b".into()]);
    let deadline = Some(bench.now.plus(Duration::from_secs(2)));
    bench.input(Input::Stop { deadline });
    bench.pass(Duration::from_secs(2));
    bench.expect("stop b; kill b; stop a; kill a");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn a_second_stop_can_only_bring_the_deadline_nearer() {
    let infinite = with(ChildSpec::worker("a"), |spec| {
        spec.shutdown = Shutdown::Infinity;
    });
    let mut bench = Bench::booted(Flags::default(), vec![infinite]);
    bench.deaf.insert("a".into());
    bench.stop();
    let near = bench.now.plus(LIMIT);
    bench.input(Input::Stop {
        deadline: Some(near),
    });
    bench.input(Input::Stop {
        deadline: Some(near.plus(LIMIT)),
    });
    bench.pass(LIMIT);
    bench.expect("stop a; kill a");
}

#[test]
fn otp_025_a_child_that_ignores_the_request_is_killed_at_its_limit() {
    let mut bench = Bench::booted(Flags::default(), vec![impatient("a")]);
    bench.deaf.insert("a".into());
    bench.stop();
    bench.pass(LIMIT.saturating_sub(Duration::from_nanos(1)));
    bench.expect("stop a");
    bench.pass(Duration::from_nanos(1));
    bench.expect("kill a");
    let overdue = bench
        .reports
        .iter()
        .any(|report| matches!(report, Report::Overdue { .. }));
    let killed = bench.reports.iter().any(|report| {
        matches!(
            report,
            Report::Stopped {
                reason: ExitReason::Killed,
                clean: false,
                ..
            }
        )
    });
    assert!(overdue && killed, "{:?}", bench.reports);
}

#[test]
fn otp_027_only_the_hung_child_is_killed() {
    let mut bench = Bench::booted(Flags::default(), vec![impatient("a"), impatient("b")]);
    bench.deaf.insert("b".into());
    bench.stop();
    bench.pass(LIMIT);
    bench.expect("stop b; kill b; stop a");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn otp_028_029_a_pool_is_asked_all_at_once_and_its_hung_member_is_killed() {
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..Flags::default()
    };
    let mut bench = Bench::booted(flags, vec![impatient("a"), impatient("b"), impatient("c")]);
    bench.deaf.extend(["a".into(), "b".into()]);
    bench.stop();
    bench.expect("stop a; stop b; stop c");
    bench.exit("a", ExitReason::Shutdown(None));
    assert_eq!(bench.end, None);
    bench.pass(LIMIT);
    bench.expect("exit a; kill b");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn brutal_kill_asks_nobody() {
    let spec = with(ChildSpec::worker("a"), |spec| {
        spec.shutdown = Shutdown::BrutalKill;
    });
    let mut bench = Bench::booted(Flags::default(), vec![spec]);
    bench.stop();
    bench.expect("kill a");
    assert!(
        bench
            .reports
            .iter()
            .any(|report| matches!(report, Report::Stopped { clean: true, .. }))
    );
}

#[test]
fn a_killed_child_that_stays_is_abandoned_after_the_kill_limit() {
    let mut bench = Bench::booted(Flags::default(), vec![impatient("a")]);
    bench.deaf.insert("a".into());
    bench.immortal.insert("a".into());
    bench.stop();
    bench.pass(LIMIT + Flags::default().kill_limit);
    assert_eq!(bench.end, Some(End::Stopped));
    let abandoned = bench.reports.iter().any(|report| {
        matches!(
            report,
            Report::Stopped {
                reason: ExitReason::Abandoned,
                ..
            }
        )
    });
    assert!(abandoned);
}

#[test]
fn otp_031_032_children_that_end_by_themselves_during_the_stop_keep_their_reasons() {
    let ids: Vec<String> = (0..12).map(|n| format!("c{n:02}")).collect();
    let mut bench = Bench::running(Strategy::OneForOne, 0, &ids.join(" "));
    bench.deaf.insert("c11".into());
    bench.stop();
    let early: Vec<&str> = ids[..11].iter().map(String::as_str).collect();
    bench.exit_together(&early[..6], crash());
    bench.exit_together(&early[6..], ExitReason::Normal);
    bench.exit("c11", ExitReason::Killed);
    assert_eq!(bench.end, Some(End::Stopped));
    let crashes = bench.reports.iter().filter(|report| {
        matches!(
            report,
            Report::Exited {
                reason: ExitReason::Failed(_),
                ..
            }
        )
    });
    assert_eq!(crashes.count(), 6);
    assert!(!bench.take_log().contains("start"));
}

#[test]
fn otp_033_a_stopping_child_whose_exit_never_arrives_does_not_hang_anybody() {
    let mut bench = Bench::booted(Flags::default(), vec![impatient("a")]);
    bench.deaf.insert("a".into());
    bench.immortal.insert("a".into());
    let id = bench.request(Request::Terminate { child: "a".into() });
    bench.pass(LIMIT + Flags::default().kill_limit);
    assert_eq!(bench.replies[&id], Ok(Reply::Terminated));
}

#[test]
fn otp_087_a_supervisor_that_retries_a_start_stops_at_once() {
    let mut bench = Bench::running(Strategy::OneForOne, 100, "a b");
    bench.hold_retries = true;
    bench.failing.insert("a".into(), 100);
    bench.crash("a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Restarting));
    bench.stop();
    bench.expect("exit a; fail a; stop b");
    assert_eq!(bench.end, Some(End::Stopped));
    bench.release_retries();
    bench.expect("");
}

#[test]
fn a_start_under_way_is_given_up_when_the_supervisor_stops() {
    let mut bench = Bench::new(Flags::default(), workers("a b"));
    bench.slow.insert("b".into());
    bench.boot();
    bench.stop();
    bench.expect("start a; start b; stop b; stop a");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn otp_092_an_ordinary_childs_end_does_not_end_the_supervisor() {
    let ordinary = with(ChildSpec::worker("b"), |spec| {
        spec.restart = Restart::Temporary;
    });
    let specs = vec![significant("a", Restart::Transient), ordinary];
    let mut bench = Bench::booted(auto(AutoShutdown::AnySignificant), specs);
    bench.exit("b", ExitReason::Normal);
    assert_eq!(bench.end, None);
}

#[test]
fn otp_093_the_first_significant_end_stops_the_rest() {
    let specs = vec![significant("a", Restart::Transient), ChildSpec::worker("b")];
    let mut bench = Bench::booted(auto(AutoShutdown::AnySignificant), specs);
    bench.exit("a", ExitReason::Normal);
    bench.expect("exit a; stop b");
    assert_eq!(bench.end, Some(End::AutoShutdown));
    assert!(!End::AutoShutdown.is_abnormal());
}

#[test]
fn all_significant_children_have_to_end() {
    let specs = vec![
        significant("a", Restart::Transient),
        significant("b", Restart::Temporary),
    ];
    let mut bench = Bench::booted(auto(AutoShutdown::AllSignificant), specs);
    bench.exit("a", ExitReason::Normal);
    assert_eq!(bench.end, None);
    bench.crash("b");
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn otp_095_a_restarted_significant_child_does_not_end_the_supervisor() {
    let specs = vec![significant("a", Restart::Transient)];
    let mut bench = Bench::booted(auto(AutoShutdown::AnySignificant), specs);
    bench.crash("a");
    bench.expect("exit a; start a");
    assert_eq!(bench.end, None);
}

#[test]
fn otp_097_a_significant_child_stopped_for_its_group_does_not_end_the_supervisor() {
    let flags = Flags {
        strategy: Strategy::OneForAll,
        ..auto(AutoShutdown::AnySignificant)
    };
    let specs = vec![ChildSpec::worker("a"), significant("b", Restart::Transient)];
    let mut bench = Bench::booted(flags, specs);
    bench.crash("a");
    bench.expect("exit a; stop b; start a; start b");
    assert_eq!(bench.end, None);
}

#[test]
fn a_terminated_significant_child_does_not_end_the_supervisor() {
    let specs = vec![significant("a", Restart::Transient)];
    let mut bench = Bench::booted(auto(AutoShutdown::AnySignificant), specs);
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    assert_eq!(bench.end, None);
}

#[test]
fn otp_100_a_pool_ends_with_its_last_significant_member() {
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..auto(AutoShutdown::AllSignificant)
    };
    let specs = vec![
        significant("a", Restart::Transient),
        significant("b", Restart::Transient),
    ];
    let mut bench = Bench::booted(flags, specs);
    bench.exit("b", ExitReason::Normal);
    assert_eq!(bench.end, None);
    bench.exit("a", ExitReason::Normal);
    assert_eq!(bench.end, Some(End::AutoShutdown));
}
