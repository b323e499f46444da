//! What can be asked of a running supervisor.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, flags, with, workers};

#[test]
fn otp_077_a_terminated_child_keeps_its_spec_and_stays_down() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b");
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    bench.expect("stop a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
    assert_eq!(bench.listed(), ["a", "b"]);
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated), "again");
    bench.expect("");
}

#[test]
fn otp_080_a_stopped_child_can_be_deleted_once() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b");
    bench.terminate("a").unwrap();
    assert_eq!(bench.delete("a"), Ok(Reply::Deleted));
    assert_eq!(bench.delete("a"), Err(Refusal::NotFound("a".into())));
    assert_eq!(bench.listed(), ["b"]);
}

#[test]
fn a_terminated_child_can_be_started_again_in_its_old_place() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a b");
    let before = bench.incarnation("a");
    bench.terminate("a").unwrap();
    assert!(matches!(bench.start("a"), Ok(Reply::Started(_))));
    assert!(bench.incarnation("a") > before);
    bench.take_log();
    bench.stop();
    bench.expect("stop b; stop a");
}

#[test]
fn a_terminated_temporary_child_is_forgotten() {
    let temporary = with(ChildSpec::worker("a"), |spec| {
        spec.restart = Restart::Temporary;
    });
    let mut bench = Bench::booted(Flags::default(), vec![temporary.clone()]);
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    assert_eq!(bench.start("a"), Err(Refusal::NotFound("a".into())));
    assert!(matches!(bench.add(temporary), Ok(Reply::Started(_))));
}

#[test]
fn a_start_by_order_that_fails_or_is_ignored_leaves_the_child_down_and_listed() {
    let mut bench = Bench::running(Strategy::OneForAll, 0, "a b");
    bench.terminate("a").unwrap();
    bench.failing.insert("a".into(), 1);
    assert!(matches!(bench.start("a"), Err(Refusal::StartFailed { .. })));
    bench.ignoring.insert("a".into());
    assert_eq!(bench.start("a"), Ok(Reply::Ignored));
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
    assert_eq!(bench.status("b"), Some(ChildStatus::Running));
    assert_eq!(bench.end, None);
}

#[test]
fn a_wrong_spec_is_refused_before_anything_else_is_looked_at() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a");
    let significant = with(ChildSpec::worker("a"), |spec| spec.significant = true);
    let wrong = SpecError::SignificantWithoutAutoShutdown { id: "a".into() };
    assert_eq!(bench.add(significant), Err(Refusal::Spec(wrong)));
    assert_eq!(
        bench.add(ChildSpec::worker("")),
        Err(Refusal::Spec(SpecError::MissingId))
    );
}

#[test]
fn counts_tell_workers_from_supervisors_and_the_running_from_the_listed() {
    let specs = vec![
        ChildSpec::worker("a"),
        ChildSpec::supervisor("b"),
        ChildSpec::worker("c"),
    ];
    let mut bench = Bench::booted(Flags::default(), specs);
    bench.terminate("c").unwrap();
    assert_eq!(
        bench.supervisor.counts(),
        Counts {
            specs: 3,
            active: 2,
            workers: 2,
            supervisors: 1
        }
    );
}

#[test]
fn children_are_listed_in_the_order_of_their_starts_and_added_ones_last() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "b a");
    bench.add(ChildSpec::worker("0")).unwrap();
    bench.crash("b");
    assert_eq!(bench.listed(), ["b", "a", "0"]);
}

#[test]
fn otp_079_a_running_child_cannot_be_deleted() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a");
    assert_eq!(bench.delete("a"), Err(Refusal::Running("a".into())));
}

#[test]
fn otp_081_a_known_child_cannot_be_added_again() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a");
    let incarnation = bench.incarnation("a");
    let refusal = Refusal::AlreadyStarted {
        child: "a".into(),
        incarnation,
    };
    assert_eq!(bench.add(ChildSpec::worker("a")), Err(refusal.clone()));
    assert_eq!(bench.start("a"), Err(refusal));
    bench.terminate("a").unwrap();
    assert_eq!(
        bench.add(ChildSpec::worker("a")),
        Err(Refusal::AlreadyPresent("a".into()))
    );
}

#[test]
fn otp_083_an_unknown_child_is_not_found() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a");
    let not_found = Err(Refusal::NotFound("x".into()));
    assert_eq!(bench.terminate("x"), not_found);
    assert_eq!(bench.start("x"), not_found);
    assert_eq!(bench.delete("x"), not_found);
    assert_eq!(bench.ask(Request::Restart { child: "x".into() }), not_found);
}

#[test]
fn otp_084_members_of_a_pool_can_only_be_added_and_terminated() {
    let mut bench = Bench::running(Strategy::Dynamic, 1, "a");
    assert_eq!(bench.delete("a"), Err(Refusal::Pool));
    assert_eq!(bench.start("a"), Err(Refusal::Pool));
    assert_eq!(
        bench.ask(Request::Restart { child: "a".into() }),
        Err(Refusal::Pool)
    );
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    assert_eq!(bench.status("a"), None);
}

#[test]
fn otp_085_a_failing_restart_is_visible_and_guarded() {
    let mut bench = Bench::running(Strategy::OneForOne, 100, "a b");
    bench.hold_retries = true;
    bench.failing.insert("a".into(), 2);
    bench.crash("a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Restarting));
    assert_eq!(bench.supervisor.counts().active, 1);
    assert_eq!(
        bench.add(ChildSpec::worker("a")),
        Err(Refusal::AlreadyPresent("a".into()))
    );
    let restarting = Err(Refusal::Restarting("a".into()));
    assert_eq!(bench.start("a"), restarting);
    assert_eq!(
        bench.ask(Request::Restart { child: "a".into() }),
        restarting
    );
    assert_eq!(bench.delete("a"), restarting);
    bench.release_retries();
    assert_eq!(bench.status("a"), Some(ChildStatus::Running));
}

#[test]
fn terminating_a_child_ends_its_retries() {
    let mut bench = Bench::running(Strategy::OneForOne, 100, "a");
    bench.hold_retries = true;
    bench.failing.insert("a".into(), 100);
    bench.crash("a");
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    bench.take_log();
    bench.release_retries();
    bench.expect("");
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
}

#[test]
fn otp_088_siblings_stay_consistent_while_a_group_retries() {
    let mut bench = Bench::running(Strategy::RestForOne, 100, "a b c");
    bench.hold_retries = true;
    bench.failing.insert("b".into(), 3);
    bench.crash("b");
    bench.expect("exit b; stop c; fail b");
    bench.release_retry();
    bench.expect("fail b");
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    assert!(matches!(bench.start("a"), Ok(Reply::Started(_))));
    bench.take_log();
    bench.release_retries();
    bench.expect("fail b; start b; start c");
    bench.stop();
    bench.expect("stop c; stop b; stop a");
}

#[test]
fn otp_089_requests_are_served_during_a_slow_start() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b");
    bench.slow.insert("a".into());
    bench.crash("a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Starting));
    assert_eq!(bench.terminate("b"), Ok(Reply::Terminated));
    assert!(matches!(bench.start("b"), Ok(Reply::Started(_))));
}

#[test]
fn requests_wait_for_a_restart_of_the_group_and_are_then_served_in_order() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b");
    bench.slow.insert("a".into());
    bench.crash("b");
    let terminate = bench.request(Request::Terminate { child: "b".into() });
    let delete = bench.request(Request::Delete { child: "b".into() });
    assert!(bench.replies.is_empty());
    bench.finish_start("a");
    assert_eq!(bench.replies[&terminate], Ok(Reply::Terminated));
    assert_eq!(bench.replies[&delete], Ok(Reply::Deleted));
}

#[test]
fn more_requests_than_may_wait_are_refused_as_busy_and_the_waiting_are_told_of_the_end() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a");
    bench.slow.insert("a".into());
    bench.crash("a");
    for _ in 0..DEFERRED_MAX {
        bench.request(Request::Delete { child: "a".into() });
    }
    assert!(bench.replies.is_empty());
    assert_eq!(bench.delete("a"), Err(Refusal::Busy));
    bench.stop();
    assert_eq!(bench.replies.len(), DEFERRED_MAX);
    assert!(
        bench
            .replies
            .values()
            .all(|reply| *reply == Err(Refusal::ShuttingDown))
    );
    assert_eq!(bench.delete("a"), Err(Refusal::ShuttingDown));
}

#[test]
fn terminating_a_starting_child_gives_its_start_up() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "");
    bench.slow.insert("a".into());
    let add = bench.request(Request::Add {
        spec: ChildSpec::worker("a"),
    });
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    assert_eq!(bench.replies[&add], Err(Refusal::Terminated("a".into())));
    bench.expect("start a; stop a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
}

#[test]
fn a_start_that_wins_against_its_cancellation_is_stopped_again() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "");
    bench.slow.insert("a".into());
    bench.deaf.insert("a".into());
    bench.request(Request::Add {
        spec: ChildSpec::worker("a"),
    });
    let terminate = bench.request(Request::Terminate { child: "a".into() });
    bench.deaf.clear();
    bench.finish_start("a");
    bench.expect("start a; stop a; stop a");
    assert_eq!(bench.replies[&terminate], Ok(Reply::Terminated));
}

fn change(flags: Flags, specs: Vec<ChildSpec>) -> Request {
    Request::Change { flags, specs }
}

#[test]
fn otp_101_new_flags_are_used_and_the_children_untouched() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a b");
    let new = flags(Strategy::OneForAll, 1, Duration::from_secs(9));
    assert_eq!(bench.ask(change(new, workers("a b"))), Ok(Reply::Changed));
    bench.expect("");
    bench.crash("b");
    bench.expect("exit b; stop a; start a; start b");
}

#[test]
fn otp_103_a_new_spec_is_listed_but_not_started() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a");
    assert_eq!(
        bench.ask(change(Flags::default(), workers("a b"))),
        Ok(Reply::Changed)
    );
    assert_eq!(bench.status("b"), Some(ChildStatus::Down));
    assert!(matches!(bench.start("b"), Ok(Reply::Started(_))));
}

#[test]
fn otp_104_a_child_that_is_no_longer_listed_keeps_running() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a b");
    assert_eq!(
        bench.ask(change(Flags::default(), workers("a"))),
        Ok(Reply::Changed)
    );
    assert_eq!(bench.status("b"), Some(ChildStatus::Running));
}

#[test]
fn otp_105_a_changed_spec_keeps_the_instance_and_counts_from_its_next_end() {
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a");
    let before = bench.incarnation("a");
    let temporary = with(ChildSpec::worker("a"), |spec| {
        spec.restart = Restart::Temporary;
    });
    assert_eq!(
        bench.ask(change(Flags::default(), vec![temporary])),
        Ok(Reply::Changed)
    );
    assert_eq!(bench.incarnation("a"), before);
    bench.crash("a");
    bench.expect("exit a");
    assert_eq!((bench.status("a"), bench.end), (None, None));
}

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let two = Flags {
        children_max: 2,
        ..Flags::default()
    };
    let mut bench = Bench::booted(two, workers("a"));
    let before = bench.supervisor.clone();
    let dynamic = flags(Strategy::Dynamic, 1, Duration::from_secs(1));
    let empty = flags(Strategy::OneForOne, 1, Duration::ZERO);
    let significant = with(ChildSpec::worker("b"), |spec| spec.significant = true);
    let unfit = SpecError::SignificantWithoutAutoShutdown { id: "b".into() };
    for (flags, specs, wrong) in [
        (dynamic, Vec::new(), SpecError::StrategyFixed),
        (empty, workers("b"), SpecError::EmptyPeriod),
        (
            two,
            workers("b b"),
            SpecError::DuplicateId { id: "b".into() },
        ),
        (two, vec![ChildSpec::worker("c"), significant], unfit),
        (two, workers("b c"), SpecError::TooMany { given: 3, max: 2 }),
    ] {
        assert_eq!(bench.ask(change(flags, specs)), Err(Refusal::Spec(wrong)));
        assert_eq!(bench.supervisor, before);
    }
}

#[test]
fn a_change_sets_the_order_of_starts_with_the_unlisted_behind() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b c d");
    let before = bench.incarnation("d");
    let rest = flags(Strategy::RestForOne, 1, Duration::from_secs(5));
    bench.ask(change(rest, workers("d x b"))).unwrap();
    assert_eq!(bench.listed(), ["d", "x", "b", "a", "c"]);
    assert_eq!(bench.incarnation("d"), before);
    bench.crash("b");
    bench.expect("exit b; stop c; stop a; start b; start a; start c");
    bench.stop();
    bench.expect("stop c; stop a; stop b; stop d");
}

#[test]
fn a_change_may_leave_unlisted_significant_children_without_effect() {
    let significant = with(ChildSpec::worker("a"), |spec| {
        spec.significant = true;
        spec.restart = Restart::Transient;
    });
    let any = Flags {
        auto_shutdown: AutoShutdown::AnySignificant,
        ..Flags::default()
    };
    let mut bench = Bench::booted(any, vec![significant, ChildSpec::worker("b")]);
    let asked = bench.ask(change(Flags::default(), workers("b")));
    assert_eq!(asked, Ok(Reply::Changed));
    bench.exit("a", ExitReason::Normal);
    bench.expect("exit a");
    assert_eq!(bench.end, None);
}

#[test]
fn the_restarts_before_a_change_count_against_its_intensity() {
    let mut bench = Bench::running(Strategy::OneForOne, 5, "a");
    bench.crash("a");
    bench.crash("a");
    let strict = flags(Strategy::OneForOne, 2, Duration::from_secs(5));
    bench.ask(change(strict, Vec::new())).unwrap();
    assert_eq!(bench.end, None);
    bench.crash("a");
    assert!(matches!(bench.end, Some(End::Escalated { .. })));
}

#[test]
fn a_change_of_a_pool_concerns_its_flags_and_members_only() {
    let mut bench = Bench::running(Strategy::Dynamic, 1, "a b");
    let strict = flags(Strategy::Dynamic, 0, Duration::from_secs(5));
    let stranger = SpecError::NotAMember { id: "x".into() };
    assert_eq!(
        bench.ask(change(strict, workers("a x"))),
        Err(Refusal::Spec(stranger))
    );
    assert_eq!(bench.supervisor.flags().intensity, 1);
    let temporary = with(ChildSpec::worker("a"), |spec| {
        spec.restart = Restart::Temporary;
    });
    assert_eq!(
        bench.ask(change(strict, vec![temporary])),
        Ok(Reply::Changed)
    );
    bench.crash("a");
    assert_eq!((bench.status("a"), &bench.end), (None, &None));
    bench.crash("b");
    assert!(matches!(bench.end, Some(End::Escalated { .. })));
}

#[test]
fn a_change_waits_for_a_restart_of_the_group() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b");
    bench.slow.insert("a".into());
    bench.crash("b");
    let asked = bench.request(change(Flags::default(), workers("b a c")));
    assert!(!bench.replies.contains_key(&asked));
    bench.finish_start("a");
    assert_eq!(bench.replies[&asked], Ok(Reply::Changed));
    bench.expect("exit b; stop a; start a; start b");
    assert_eq!(bench.listed(), ["b", "a", "c"]);
}

#[test]
fn a_temporary_child_that_a_change_listed_is_forgotten_by_a_restart_of_its_group() {
    let mut bench = Bench::running(Strategy::OneForAll, 1, "a b");
    let temporary = with(ChildSpec::worker("t"), |spec| {
        spec.restart = Restart::Temporary;
    });
    let all = flags(Strategy::OneForAll, 1, Duration::from_secs(5));
    let specs = vec![ChildSpec::worker("a"), temporary, ChildSpec::worker("b")];
    bench.ask(change(all, specs)).unwrap();
    assert_eq!(bench.status("t"), Some(ChildStatus::Down));
    bench.crash("b");
    bench.expect("exit b; stop a; start a; start b");
    assert_eq!(bench.listed(), ["a", "b"]);
}

#[test]
fn otp_107_boot_and_stop_of_many_children_are_in_order() {
    let ids: Vec<String> = (0..5_000).map(|n| format!("c{n:04}")).collect();
    let mut bench = Bench::new(
        flags(Strategy::OneForOne, 1, Duration::from_secs(5)),
        workers(&ids.join(" ")),
    );
    bench.boot();
    let expected: Vec<String> = ids.iter().map(|id| format!("start {id}")).collect();
    bench.expect(&expected.join("; "));
    bench.stop();
    let expected: Vec<String> = ids.iter().rev().map(|id| format!("stop {id}")).collect();
    bench.expect(&expected.join("; "));
    assert_eq!(bench.end, Some(End::Stopped));
}
