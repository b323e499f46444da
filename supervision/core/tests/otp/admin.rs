//! What can be asked of a running supervisor.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, flags, with, workers};

#[test]
fn otp_077_080_a_terminated_child_keeps_its_spec_until_it_is_deleted() {
    let mut bench = Bench::running(Strategy::OneForOne, 1, "a b");
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    bench.expect("stop a");
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    assert_eq!(bench.delete("a"), Ok(Reply::Deleted));
    assert_eq!(bench.delete("a"), Err(Refusal::NotFound("a".into())));
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
    let mut bench = Bench::running(Strategy::OneForOne, 0, "a");
    let before = bench.supervisor.clone();
    let dynamic = flags(Strategy::Dynamic, 1, Duration::from_secs(1));
    let refusal = Err(Refusal::Spec(SpecError::StrategyFixed));
    assert_eq!(bench.ask(change(dynamic, Vec::new())), refusal);
    let twice = bench.ask(change(Flags::default(), workers("b b")));
    assert_eq!(
        twice,
        Err(Refusal::Spec(SpecError::DuplicateId { id: "b".into() }))
    );
    assert_eq!(bench.supervisor, before);
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
