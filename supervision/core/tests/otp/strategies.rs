//! Whom a failure concerns.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, crash, flags, with};

#[test]
fn otp_047_one_for_one_leaves_the_others_alone() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b c");
    let before = (bench.incarnation("a"), bench.incarnation("c"));
    bench.crash("b");
    bench.expect("exit b; start b");
    assert_eq!((bench.incarnation("a"), bench.incarnation("c")), before);
}

#[test]
fn otp_048_one_for_all_order() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b c d");
    bench.crash("b");
    bench.expect("exit b; stop d; stop c; stop a; start a; start b; start c; start d");
}

#[test]
fn otp_049_rest_for_one_order() {
    let mut bench = Bench::running(Strategy::RestForOne, 1, "a b c d");
    bench.crash("b");
    bench.expect("exit b; stop d; stop c; start b; start c; start d");
}

#[test]
fn a_group_waits_for_each_stop_and_each_start() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b c");
    bench.deaf.insert("c".into());
    bench.slow.insert("a".into());
    bench.crash("b");
    bench.expect("exit b; stop c");
    bench.exit("c", ExitReason::Shutdown(None));
    bench.expect("exit c; stop a; start a");
    bench.finish_start("a");
    bench.expect("start b; start c");
}

#[test]
fn otp_051_a_temporary_bystander_is_stopped_and_forgotten() {
    let specs = vec![
        ChildSpec::worker("a"),
        with(ChildSpec::worker("b"), |spec| {
            spec.restart = Restart::Temporary;
        }),
        with(ChildSpec::worker("c"), |spec| {
            spec.restart = Restart::Transient;
        }),
    ];
    let mut bench = Bench::booted(flags(Strategy::OneForAll, 1, Duration::from_secs(5)), specs);
    bench.crash("a");
    bench.expect("exit a; stop c; stop b; start a; start c");
    assert_eq!(bench.listed(), ["a", "c"]);
}

#[test]
fn otp_052_siblings_that_were_down_come_back_with_their_group() {
    let specs = vec![
        ChildSpec::worker("a"),
        ChildSpec::worker("b"),
        with(ChildSpec::worker("c"), |spec| {
            spec.restart = Restart::Transient;
        }),
    ];
    let mut bench = Bench::booted(flags(Strategy::OneForAll, 1, Duration::from_secs(5)), specs);
    bench.exit("c", ExitReason::Normal);
    bench.terminate("b").unwrap();
    bench.take_log();
    bench.crash("a");
    bench.expect("exit a; start a; start b; start c");
}

#[test]
fn otp_053_a_sibling_that_fails_in_the_groups_restart_is_counted_and_tried_again() {
    let mut bench = Bench::running(Strategy::OneForAll, 2, "a b c");
    bench.failing.insert("c".into(), 1);
    bench.crash("a");
    bench.expect(
        "exit a; stop c; stop b; start a; start b; fail c; stop b; stop a; start a; start b; start c",
    );
    assert_eq!(bench.end, None);
    bench.crash("a");
    assert!(
        matches!(bench.end, Some(End::Escalated { .. })),
        "two restarts were counted"
    );
}

#[test]
fn otp_055_only_the_crashed_member_of_a_pool_restarts() {
    let mut bench = Bench::running(Strategy::Dynamic, 1, "");
    for id in ["x", "y", "z"] {
        bench.add(ChildSpec::worker(id)).unwrap();
    }
    bench.take_log();
    bench.crash("y");
    bench.expect("exit y; start y");
}

fn counts(specs: usize, active: usize) -> Counts {
    Counts {
        specs,
        active,
        workers: specs,
        supervisors: 0,
    }
}

fn pool_of_three_with_two_failing_once() -> Bench {
    let mut bench = Bench::running(Strategy::Dynamic, 10, "");
    for id in ["x", "y", "z"] {
        bench.add(ChildSpec::worker(id)).unwrap();
    }
    bench.hold_retries = true;
    bench.failing.extend([("x".into(), 1), ("y".into(), 1)]);
    bench.exit_together(&["x", "y"], crash());
    bench
}

#[test]
fn otp_056_a_pool_stays_exact_while_restarts_fail_and_recover() {
    let mut bench = pool_of_three_with_two_failing_once();
    assert_eq!(bench.listed(), ["x", "y", "z"]);
    bench.release_retries();
    assert_eq!(bench.supervisor.counts(), counts(3, 3));
    assert_eq!(bench.listed(), ["x", "y", "z"]);
    bench.take_log();
    bench.stop();
    bench.expect("stop x; stop y; stop z");
}

#[test]
fn otp_091_members_being_restarted_are_counted_but_not_as_active() {
    let mut bench = pool_of_three_with_two_failing_once();
    assert_eq!(bench.supervisor.counts(), counts(3, 1));
    bench.release_retries();
    assert_eq!(bench.supervisor.counts(), counts(3, 3));
}

#[test]
fn a_member_that_is_being_restarted_can_be_terminated() {
    let mut bench = pool_of_three_with_two_failing_once();
    assert_eq!(bench.terminate("x"), Ok(Reply::Terminated));
    bench.release_retries();
    assert_eq!(bench.listed(), ["y", "z"]);
    assert_eq!(bench.supervisor.counts(), counts(2, 2));
}

#[test]
fn rest_for_one_starts_a_terminated_child_behind_the_crashed_one_and_none_before_it() {
    let mut bench = Bench::running(Strategy::RestForOne, 1, "a b c d");
    bench.terminate("a").unwrap();
    bench.terminate("c").unwrap();
    bench.take_log();
    bench.crash("b");
    bench.expect("exit b; stop d; start b; start c; start d");
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
}

#[test]
fn rest_for_one_of_the_last_child_concerns_nobody_else() {
    let mut bench = Bench::running(Strategy::RestForOne, 1, "a b c");
    bench.crash("c");
    bench.expect("exit c; start c");
}

#[test]
fn a_sibling_that_fails_in_the_restart_of_the_rest_is_the_one_that_is_tried_again() {
    let mut bench = Bench::running(Strategy::RestForOne, 5, "a b c d");
    bench.failing.insert("c".into(), 1);
    bench.crash("b");
    bench.expect("exit b; stop d; stop c; start b; fail c; start c; start d");
}

#[test]
fn a_crashed_temporary_or_finished_transient_child_does_not_restart_its_group() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        for restart in [Restart::Temporary, Restart::Transient] {
            let first = with(ChildSpec::worker("a"), |spec| spec.restart = restart);
            let specs = vec![first, ChildSpec::worker("b")];
            let mut bench = Bench::booted(flags(strategy, 0, Duration::from_secs(5)), specs);
            let reason = match restart {
                Restart::Temporary => crash(),
                Restart::Permanent | Restart::Transient => ExitReason::Normal,
            };
            bench.exit("a", reason);
            bench.expect("exit a");
            assert_eq!(bench.end, None);
        }
    }
}

#[test]
fn a_sibling_that_has_nothing_to_supervise_does_not_hold_up_the_restart_of_its_group() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b c");
    bench.ignoring.insert("b".into());
    bench.crash("a");
    bench.expect("exit a; stop c; stop b; start a; start c");
    assert_eq!(bench.status("b"), Some(ChildStatus::Down));
}

#[test]
fn a_child_that_is_killed_while_it_restarts_is_a_failed_restart() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::Dynamic] {
        let mut bench = Bench::running(strategy, 3, "a");
        bench.slow.insert("a".into());
        bench.crash("a");
        let view = bench.supervisor.child(&"a".into()).unwrap();
        let incarnation = view.incarnation.unwrap();
        bench.slow.clear();
        bench.input(Input::Exited {
            child: "a".into(),
            incarnation,
            reason: ExitReason::Killed,
        });
        bench.expect("exit a; start a; start a");
        assert_eq!(bench.status("a"), Some(ChildStatus::Running));
        let counted = bench.reports.iter().rev().find_map(|report| match report {
            Report::Restarting {
                restarts_in_window, ..
            } => Some(*restarts_in_window),
            _ => None,
        });
        assert_eq!(counted, Some(2));
    }
}

#[test]
fn a_hung_sibling_is_killed_at_its_limit_and_the_group_goes_on() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b c");
    bench.deaf.insert("c".into());
    bench.crash("a");
    bench.expect("exit a; stop c");
    bench.pass(Duration::from_secs(5));
    bench.expect("kill c; stop b; start a; start b; start c");
}

#[test]
fn otp_057_two_crashes_in_one_tick_are_one_restart_of_the_group() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b");
    bench.deaf.insert("b".into());
    bench.exit_together(&["a", "b"], crash());
    assert_eq!(bench.end, None);
    bench.expect("exit a; exit b; stop b; start a; start b");
}

#[test]
fn otp_096_two_crashes_in_one_tick_are_two_restarts_in_one_for_one() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b");
    bench.exit_together(&["a", "b"], crash());
    assert!(matches!(bench.end, Some(End::Escalated { .. })));
}

#[test]
fn an_earlier_failure_widens_the_restart_under_way() {
    let mut bench = Bench::running(Strategy::RestForOne, 2, "a b c d");
    bench.deaf.insert("d".into());
    bench.crash("c");
    bench.crash("b");
    bench.exit("d", ExitReason::Shutdown(None));
    bench.expect("exit c; stop d; exit b; exit d; start b; start c; start d");
}

#[test]
fn a_failure_of_a_child_that_the_group_has_started_already_begins_anew_from_there() {
    let mut bench = Bench::running(Strategy::RestForOne, 2, "a b c d");
    bench.slow.insert("d".into());
    bench.crash("b");
    bench.take_log();
    bench.crash("c");
    bench.expect("exit c; stop d; start c; start d");
}

#[test]
fn a_crash_during_the_boot_of_a_group_still_boots_all() {
    let mut bench = Bench::new(flags(Strategy::OneForAll, 1, Duration::from_secs(5)), {
        crate::bench::workers("a b c")
    });
    bench.slow.insert("b".into());
    bench.boot();
    bench.crash("a");
    bench.expect("start a; start b; exit a; stop b; start a; start b");
    assert!(!bench.ready);
    bench.finish_start("b");
    bench.expect("start c");
    assert!(bench.ready);
}

#[test]
fn an_added_child_that_a_failing_group_took_down_is_given_up() {
    let mut bench = Bench::running(Strategy::OneForAll, 5, "a");
    bench.slow.insert("b".into());
    let add = bench.request(Request::Add {
        spec: ChildSpec::worker("b"),
    });
    bench.failing.insert("a".into(), 1);
    bench.hold_retries = true;
    bench.crash("a");
    bench.expect("start b; exit a; stop b; fail a");
    assert_eq!(bench.replies[&add], Err(Refusal::Terminated("b".into())));
    assert_eq!(bench.listed(), ["a"]);
    bench.release_retries();
    bench.expect("start a");
}

#[test]
fn otp_057_a_sibling_that_crashes_before_its_turn_to_be_stopped_is_not_counted() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b c");
    bench.deaf.insert("c".into());
    bench.crash("a");
    bench.crash("b");
    bench.exit("c", ExitReason::Shutdown(None));
    bench.expect("exit a; stop c; exit b; exit c; start a; start b; start c");
    assert_eq!(bench.end, None);
}
