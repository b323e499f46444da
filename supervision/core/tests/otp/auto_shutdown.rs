//! The end of a significant child while something else is under way: OTP hears of it when that is over.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, crash, with};

fn significant(id: &str) -> ChildSpec {
    with(ChildSpec::worker(id), |spec| {
        spec.significant = true;
        spec.restart = Restart::Transient;
    })
}

fn flags(strategy: Strategy, auto_shutdown: AutoShutdown) -> Flags {
    Flags {
        strategy,
        auto_shutdown,
        intensity: 5,
        ..Flags::default()
    }
}

/// `a` and `b` are significant, and `x` between them is slow to start.
fn with_a_slow_start(strategy: Strategy, auto_shutdown: AutoShutdown) -> Bench {
    let specs = vec![significant("a"), ChildSpec::worker("x"), significant("b")];
    let mut bench = Bench::new(flags(strategy, auto_shutdown), specs);
    bench.slow.insert("x".into());
    bench
}

#[test]
fn with_all_significant_a_child_that_its_group_is_still_to_start_keeps_the_supervisor() {
    for (strategy, crashes) in [
        (Strategy::OneForAll, "x"),
        (Strategy::OneForAll, "b"),
        (Strategy::RestForOne, "x"),
        (Strategy::RestForOne, "a"),
    ] {
        let mut bench = with_a_slow_start(strategy, AutoShutdown::AllSignificant);
        bench.boot();
        bench.finish_start("x");
        bench.crash(crashes);
        assert_eq!(bench.status("x"), Some(ChildStatus::Starting));
        bench.take_log();
        bench.exit("a", ExitReason::Normal);
        bench.expect("exit a");
        bench.finish_start("x");
        bench.expect("start b");
        assert_eq!(bench.status("a"), Some(ChildStatus::Down));
        assert_eq!(bench.status("b"), Some(ChildStatus::Running));
        assert_eq!(bench.end, None, "{strategy:?}, {crashes} crashed");
        bench.exit("b", ExitReason::Normal);
        assert_eq!(bench.end, Some(End::AutoShutdown));
    }
}

#[test]
fn with_all_significant_a_child_that_the_boot_is_still_to_start_keeps_the_supervisor() {
    for strategy in [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
    ] {
        let mut bench = with_a_slow_start(strategy, AutoShutdown::AllSignificant);
        bench.boot();
        bench.exit("a", ExitReason::Normal);
        bench.finish_start("x");
        assert!(bench.ready);
        assert_eq!(bench.status("b"), Some(ChildStatus::Running));
        assert_eq!(bench.end, None);
        bench.exit("b", ExitReason::Shutdown(None));
        assert_eq!(bench.end, Some(End::AutoShutdown));
    }
}

#[test]
fn the_last_significant_end_during_a_boot_ends_the_supervisor_when_it_is_up() {
    let specs = vec![significant("a"), ChildSpec::worker("x")];
    let flags = flags(Strategy::OneForOne, AutoShutdown::AllSignificant);
    let mut bench = Bench::new(flags, specs);
    bench.slow.insert("x".into());
    bench.boot();
    bench.exit("a", ExitReason::Normal);
    assert_eq!(bench.end, None);
    bench.take_log();
    bench.finish_start("x");
    assert!(bench.ready);
    bench.expect("stop x");
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn the_first_significant_end_during_a_boot_ends_the_supervisor_when_it_is_up() {
    let mut bench = with_a_slow_start(Strategy::OneForOne, AutoShutdown::AnySignificant);
    bench.boot();
    bench.exit("a", ExitReason::Normal);
    assert_eq!((bench.end.clone(), bench.ready), (None, false));
    bench.take_log();
    bench.finish_start("x");
    assert!(bench.ready);
    bench.expect("start b; stop b; stop x");
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn a_boot_that_fails_after_a_significant_end_is_a_failed_boot() {
    let mut bench = with_a_slow_start(Strategy::OneForOne, AutoShutdown::AnySignificant);
    bench.failing.insert("b".into(), 1);
    bench.boot();
    bench.exit("a", ExitReason::Normal);
    bench.finish_start("x");
    assert!(matches!(bench.end, Some(End::BootFailed { .. })));
    assert!(!bench.ready);
}

#[test]
fn the_first_significant_end_during_a_restart_of_the_group_ends_the_supervisor_after_it() {
    let mut bench = with_a_slow_start(Strategy::OneForAll, AutoShutdown::AnySignificant);
    bench.boot();
    bench.finish_start("x");
    bench.crash("x");
    bench.take_log();
    bench.exit("a", ExitReason::Normal);
    assert_eq!(bench.end, None);
    bench.finish_start("x");
    bench.expect("exit a; start b; stop b; stop x");
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn with_all_significant_a_group_that_cannot_be_started_whole_does_not_keep_the_supervisor() {
    let mut bench = with_a_slow_start(Strategy::OneForAll, AutoShutdown::AllSignificant);
    bench.boot();
    bench.finish_start("x");
    bench.crash("x");
    bench.exit("a", ExitReason::Normal);
    let incarnation = bench.supervisor.child(&"x".into()).unwrap().incarnation;
    bench.input(Input::StartFailed {
        child: "x".into(),
        incarnation: incarnation.unwrap(),
        reason: "no luck".to_owned(),
    });
    // The retry comes behind the end of `a`, and `b` is down until then.
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn a_significant_end_while_the_last_other_one_is_being_terminated_ends_the_supervisor_after_that() {
    let specs = vec![significant("a"), significant("b"), ChildSpec::worker("c")];
    let flags = flags(Strategy::OneForOne, AutoShutdown::AllSignificant);
    let mut bench = Bench::booted(flags, specs);
    bench.deaf.insert("a".into());
    let order = bench.request(Request::Terminate { child: "a".into() });
    bench.exit("b", ExitReason::Normal);
    bench.expect("stop a; exit b");
    assert_eq!(bench.end, None);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.replies.remove(&order), Some(Ok(Reply::Terminated)));
    bench.expect("kill a; stop c");
    assert_eq!(bench.end, Some(End::AutoShutdown));
}

#[test]
fn a_significant_end_while_another_one_is_being_started_is_decided_by_that_start() {
    let flags = flags(Strategy::OneForOne, AutoShutdown::AllSignificant);
    for ended in [true, false] {
        let specs = vec![significant("a"), ChildSpec::worker("c")];
        let mut bench = Bench::booted(flags, specs);
        bench.slow.insert("b".into());
        let order = bench.request(Request::Add {
            spec: significant("b"),
        });
        bench.exit("a", ExitReason::Normal);
        assert_eq!(bench.end, None);
        if ended {
            let incarnation = bench.supervisor.child(&"b".into()).unwrap().incarnation;
            bench.input(Input::StartFailed {
                child: "b".into(),
                incarnation: incarnation.unwrap(),
                reason: "boom".to_owned(),
            });
            assert!(matches!(
                bench.replies.remove(&order),
                Some(Err(Refusal::StartFailed { .. }))
            ));
            assert_eq!(bench.end, Some(End::AutoShutdown));
        } else {
            bench.finish_start("b");
            assert_eq!(bench.end, None);
            bench.exit("b", ExitReason::Normal);
            assert_eq!(bench.end, Some(End::AutoShutdown));
        }
    }
}

#[test]
fn a_significant_end_while_another_one_is_being_restarted_is_decided_by_that_start() {
    let flags = flags(Strategy::OneForOne, AutoShutdown::AllSignificant);
    for ignored in [true, false] {
        let mut bench = Bench::booted(flags, vec![significant("a"), significant("b")]);
        bench.slow.insert("b".into());
        bench.exit("b", crash());
        bench.exit("a", ExitReason::Normal);
        assert_eq!(bench.end, None);
        let incarnation = bench.supervisor.child(&"b".into()).unwrap().incarnation;
        let (child, incarnation) = ("b".into(), incarnation.unwrap());
        if ignored {
            bench.input(Input::Ignored { child, incarnation });
        } else {
            bench.finish_start("b");
        }
        assert_eq!(bench.end.is_some(), ignored);
    }
}
