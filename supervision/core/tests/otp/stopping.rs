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
    // It is told of the nearer one, for it may have children of its own.
    bench.expect("stop a; stop a; kill a");
}

#[test]
fn a_stop_hurries_the_children_that_are_being_stopped_by_order_already() {
    let patient = with(ChildSpec::worker("a"), |spec| {
        spec.shutdown = Shutdown::Infinity;
    });
    let mut bench = Bench::booted(Flags::default(), vec![patient, impatient("b")]);
    bench.deaf.extend(["a".into(), "b".into()]);
    bench.request(Request::Terminate { child: "a".into() });
    bench.request(Request::Terminate { child: "b".into() });
    let deadline = Some(bench.now.plus(LIMIT * 2));
    bench.input(Input::Stop { deadline });
    // The one that has less time keeps its own limit.
    bench.expect("stop a; stop b; stop a");
    bench.pass(LIMIT);
    bench.expect("kill b");
    bench.pass(LIMIT);
    bench.expect("kill a");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn a_stop_without_a_deadline_leaves_the_stops_under_way_their_time() {
    let mut bench = Bench::booted(Flags::default(), vec![impatient("a")]);
    bench.deaf.insert("a".into());
    bench.request(Request::Terminate { child: "a".into() });
    bench.stop();
    bench.expect("stop a");
    bench.pass(LIMIT);
    bench.expect("kill a");
}

#[test]
fn a_termination_under_way_is_answered_although_the_supervisor_ends() {
    type Cause = fn(&mut Bench);
    let causes: [(Cause, bool); 2] = [
        (|bench| bench.stop(), false),
        (|bench| bench.crash("b"), true),
    ];
    for (cause, escalates) in causes {
        let mut bench = Bench::running(Strategy::OneForOne, 0, "a b c");
        bench.deaf.insert("a".into());
        bench.slow.insert("d".into());
        let terminated = bench.request(Request::Terminate { child: "a".into() });
        let added = bench.request(Request::Add {
            spec: ChildSpec::worker("d"),
        });
        cause(&mut bench);
        // A start is given up, and what would come after it refused.
        assert_eq!(
            bench.replies.remove(&added),
            Some(Err(Refusal::ShuttingDown))
        );
        assert_eq!(bench.replies.get(&terminated), None);
        bench.exit("a", ExitReason::Shutdown(None));
        assert_eq!(
            bench.replies.remove(&terminated),
            Some(Ok(Reply::Terminated))
        );
        assert_eq!(bench.end.is_some_and(|end| end.is_abnormal()), escalates);
    }
}

/// What Erlang reports as `shutdown_error`, and what it does not.
#[test]
fn whether_a_stop_was_clean_depends_on_the_restart_type_as_in_otp() {
    let remark = || ExitReason::Shutdown(Some("done".to_owned()));
    let ends = [
        ExitReason::Normal,
        ExitReason::Shutdown(None),
        remark(),
        ExitReason::Killed,
        crash(),
    ];
    let (asked, killed) = (Shutdown::WORKER, Shutdown::BrutalKill);
    for (restart, shutdown, clean) in [
        (
            Restart::Permanent,
            asked,
            [false, true, false, false, false],
        ),
        (Restart::Transient, asked, [true, true, true, false, false]),
        (Restart::Temporary, asked, [true, true, true, false, false]),
        (
            Restart::Permanent,
            killed,
            [false, false, false, true, false],
        ),
        (Restart::Transient, killed, [true, true, true, true, false]),
        (Restart::Temporary, killed, [true, true, true, true, false]),
    ] {
        for (reason, clean) in ends.iter().zip(clean) {
            let spec = with(ChildSpec::worker("a"), |spec| {
                (spec.restart, spec.shutdown) = (restart, shutdown);
            });
            let mut bench = Bench::booted(Flags::default(), vec![spec]);
            bench.deaf.insert("a".into());
            bench.immortal.insert("a".into());
            bench.stop();
            bench.exit("a", reason.clone());
            let stopped = bench.reports.iter().find_map(|report| match report {
                Report::Stopped { clean, .. } => Some(*clean),
                _ => None,
            });
            assert_eq!(stopped, Some(clean), "{restart:?} {shutdown:?} {reason}");
        }
    }
}

#[test]
fn a_start_that_is_given_up_is_a_clean_stop() {
    for shutdown in [Shutdown::WORKER, Shutdown::BrutalKill] {
        let spec = with(ChildSpec::worker("a"), |spec| spec.shutdown = shutdown);
        let mut bench = Bench::new(Flags::default(), vec![spec]);
        bench.slow.insert("a".into());
        bench.boot();
        bench.stop();
        let clean = |report: &Report| matches!(report, Report::Stopped { clean: true, .. });
        assert!(bench.reports.iter().any(clean), "{:?}", bench.reports);
    }
}

#[test]
fn a_limit_that_a_nearer_one_overtook_ends_nothing() {
    let patient = with(ChildSpec::worker("a"), |spec| {
        spec.shutdown = Shutdown::Timeout(LIMIT * 2);
    });
    let mut bench = Bench::booted(Flags::default(), vec![patient]);
    bench.deaf.insert("a".into());
    bench.immortal.insert("a".into());
    bench.stop();
    let near = (LIMIT * 2).saturating_sub(Duration::from_millis(1));
    bench.input(Input::Stop {
        deadline: Some(bench.now.plus(near)),
    });
    bench.pass(near);
    bench.expect("stop a; stop a; kill a");
    // The first limit comes while it is being killed already.
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.end, None);
    bench.pass(Flags::default().kill_limit);
    assert_eq!(bench.end, Some(End::Stopped));
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

fn impatient_pool(ids: &[&str]) -> Bench {
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..Flags::default()
    };
    Bench::booted(flags, ids.iter().map(|id| impatient(id)).collect())
}

#[test]
fn otp_028_the_hung_member_of_a_pool_is_killed_when_the_time_that_all_share_is_up() {
    let mut bench = impatient_pool(&["a", "b", "c"]);
    bench.deaf.extend(["a".into(), "b".into()]);
    bench.stop();
    bench.exit("a", ExitReason::Shutdown(None));
    assert_eq!(bench.end, None);
    bench.take_log();
    bench.pass(LIMIT);
    bench.expect("kill b");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn otp_029_all_members_of_a_pool_are_asked_before_any_is_waited_for() {
    let mut bench = impatient_pool(&["a", "b", "c"]);
    bench.deaf.extend(["a".into(), "b".into(), "c".into()]);
    bench.stop();
    bench.expect("stop a; stop b; stop c");
    for id in ["b", "a", "c"] {
        assert_eq!(bench.end, None);
        bench.exit(id, ExitReason::Shutdown(None));
    }
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn a_pool_kills_those_of_its_members_that_are_not_to_be_asked() {
    let brutal = with(ChildSpec::worker("b"), |spec| {
        spec.shutdown = Shutdown::BrutalKill;
    });
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..Flags::default()
    };
    let mut bench = Bench::booted(flags, vec![impatient("a"), brutal, impatient("c")]);
    bench.stop();
    bench.expect("stop a; kill b; stop c");
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

/// Twelve children of which eleven end by themselves while the last is being stopped.
fn twelve_end_during_the_stop(strategy: Strategy) -> Bench {
    let ids: Vec<String> = (0..12).map(|n| format!("c{n:02}")).collect();
    let mut bench = Bench::running(strategy, 0, &ids.join(" "));
    bench
        .deaf
        .extend(ids.iter().map(|id| ChildId::from(id.as_str())));
    bench.stop();
    let early: Vec<&str> = ids[..11].iter().map(String::as_str).collect();
    bench.exit_together(&early[..6], crash());
    bench.exit_together(&early[6..], ExitReason::Normal);
    assert_eq!(bench.end, None);
    bench.exit("c11", ExitReason::Shutdown(None));
    bench
}

/// How each child ended, as it was reported.
fn ends(bench: &Bench) -> Vec<&ExitReason> {
    let ends = bench.reports.iter().filter_map(|report| match report {
        Report::Exited { reason, .. } | Report::Stopped { reason, .. } => Some(reason),
        _ => None,
    });
    ends.collect()
}

#[test]
fn otp_031_children_that_end_by_themselves_during_the_stop_keep_their_reasons_and_stay_down() {
    for strategy in [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
    ] {
        let mut bench = twelve_end_during_the_stop(strategy);
        assert_eq!(bench.end, Some(End::Stopped));
        let log = bench.take_log();
        assert!(!log.contains("start"), "{log}");
        let ends = ends(&bench);
        let count = |reason: &ExitReason| ends.iter().filter(|end| **end == reason).count();
        assert_eq!(count(&crash()), 6);
        assert_eq!(count(&ExitReason::Normal), 5);
        assert_eq!(count(&ExitReason::Shutdown(None)), 1);
    }
}

#[test]
fn otp_032_an_abnormal_end_during_the_stop_of_a_pool_is_reported_once_as_unclean() {
    let bench = twelve_end_during_the_stop(Strategy::Dynamic);
    assert_eq!(bench.end, Some(End::Stopped));
    let unclean = bench.reports.iter().filter(|report| {
        matches!(
            report,
            Report::Stopped {
                reason: ExitReason::Failed(_),
                clean: false,
                ..
            }
        )
    });
    assert_eq!(unclean.count(), 6, "once for each that failed");
    assert_eq!(ends(&bench).len(), 12);
}

#[test]
fn a_start_that_fails_during_the_stop_is_not_tried_again() {
    let mut bench = Bench::running(Strategy::OneForOne, 5, "a b");
    bench.slow.insert("a".into());
    bench.deaf.insert("b".into());
    bench.crash("a");
    bench.stop();
    let incarnation = bench.supervisor.child(&"a".into()).unwrap().incarnation;
    bench.input(Input::StartFailed {
        child: "a".into(),
        incarnation: incarnation.unwrap(),
        reason: "late".to_owned(),
    });
    bench.exit("b", ExitReason::Shutdown(None));
    bench.expect("exit a; start a; stop b; exit b");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn a_start_that_succeeds_during_the_stop_is_stopped_in_its_turn() {
    let mut bench = Bench::running(Strategy::OneForOne, 5, "a b");
    bench.slow.insert("a".into());
    bench.deaf.insert("b".into());
    bench.crash("a");
    bench.stop();
    bench.finish_start("a");
    assert_eq!(bench.end, None);
    bench.exit("b", ExitReason::Shutdown(None));
    bench.expect("exit a; start a; stop b; exit b; stop a");
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn a_boot_that_fails_stops_what_was_started_in_reverse_and_starts_nothing_more() {
    for strategy in [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
        Strategy::Dynamic,
    ] {
        let flags = Flags {
            strategy,
            ..Flags::default()
        };
        let mut bench = Bench::new(flags, workers("a b c d"));
        bench.failing.insert("c".into(), 1);
        bench.boot();
        let log = bench.take_log();
        let wanted = match strategy {
            Strategy::Dynamic => "start a; start b; fail c; stop a; stop b",
            _ => "start a; start b; fail c; stop b; stop a",
        };
        assert_eq!(log, wanted);
        assert!(matches!(bench.end, Some(End::BootFailed { .. })));
    }
}

#[test]
fn an_escalation_waits_for_a_hung_sibling_no_longer_than_its_limit() {
    let mut bench = Bench::booted(
        Flags {
            intensity: 0,
            ..Flags::default()
        },
        vec![impatient("a"), impatient("b"), ChildSpec::worker("c")],
    );
    bench.deaf.insert("a".into());
    bench.crash("c");
    bench.expect("exit c; stop b; stop a");
    bench.pass(LIMIT);
    bench.expect("kill a");
    assert!(matches!(bench.end, Some(End::Escalated { .. })));
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
fn a_significant_temporary_child_ends_the_supervisor_however_it_ends() {
    for reason in [ExitReason::Normal, ExitReason::Shutdown(None), crash()] {
        let specs = vec![ChildSpec::worker("b"), significant("a", Restart::Temporary)];
        let mut bench = Bench::booted(auto(AutoShutdown::AnySignificant), specs);
        bench.exit("a", reason);
        bench.expect("exit a; stop b");
        assert_eq!(bench.end, Some(End::AutoShutdown));
    }
}

#[test]
fn with_all_significant_a_child_that_was_terminated_or_never_ran_does_not_keep_the_supervisor() {
    let specs = vec![
        significant("a", Restart::Transient),
        significant("b", Restart::Transient),
        significant("c", Restart::Transient),
        ChildSpec::worker("d"),
    ];
    let mut bench = Bench::new(auto(AutoShutdown::AllSignificant), specs);
    bench.ignoring.insert("c".into());
    bench.boot();
    bench.terminate("b").unwrap();
    assert_eq!(bench.end, None);
    bench.exit("a", ExitReason::Normal);
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn with_all_significant_a_child_that_is_being_restarted_keeps_the_supervisor() {
    let specs = vec![
        significant("a", Restart::Transient),
        significant("b", Restart::Transient),
    ];
    let mut bench = Bench::booted(auto(AutoShutdown::AllSignificant), specs);
    bench.hold_retries = true;
    bench.failing.insert("a".into(), 1);
    bench.crash("a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Restarting));
    bench.exit("b", ExitReason::Normal);
    assert_eq!(bench.end, None);
    bench.release_retries();
    bench.exit("a", ExitReason::Normal);
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn a_significant_child_that_is_ignored_at_its_restart_does_not_end_the_supervisor() {
    let specs = vec![significant("a", Restart::Transient)];
    let mut bench = Bench::booted(auto(AutoShutdown::AnySignificant), specs);
    bench.ignoring.insert("a".into());
    bench.crash("a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
    assert_eq!(bench.end, None);
}

#[test]
fn any_significant_member_ends_a_pool_of_that_kind() {
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..auto(AutoShutdown::AnySignificant)
    };
    let specs = vec![
        significant("a", Restart::Transient),
        significant("b", Restart::Transient),
    ];
    let mut bench = Bench::booted(flags, specs);
    bench.exit("a", ExitReason::Normal);
    bench.expect("exit a; stop b");
    assert_eq!(bench.end, Some(End::AutoShutdown));
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
