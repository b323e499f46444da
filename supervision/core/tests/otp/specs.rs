//! Starting a supervisor, and what it refuses to be.

use std::time::Duration;

use mesh_supervision_core::supervisor::*;

use crate::bench::{Bench, flags, with, workers};

fn refused(flags: Flags, specs: Vec<ChildSpec>) -> SpecError {
    Supervisor::new(flags, specs).unwrap_err()
}

#[test]
fn otp_001_a_supervisor_without_children_runs_and_stops() {
    let mut bench = Bench::booted(Flags::default(), Vec::new());
    assert_eq!(bench.supervisor.counts(), Counts::default());
    bench.stop();
    assert_eq!(bench.end, Some(End::Stopped));
}

#[test]
fn otp_004_a_child_that_cannot_start_fails_the_boot_and_stops_the_others_in_reverse() {
    let mut bench = Bench::new(Flags::default(), workers("a b c"));
    bench.failing.insert("c".into(), 1);
    bench.boot();
    bench.expect("start a; start b; fail c; stop b; stop a");
    assert_eq!(
        bench.end,
        Some(End::BootFailed {
            child: "c".into(),
            reason: "no luck".to_owned()
        })
    );
    assert!(!bench.ready);
}

#[test]
fn otp_007_an_ignored_permanent_child_is_listed_but_not_active() {
    let mut bench = Bench::booted(Flags::default(), Vec::new());
    bench.ignoring.insert("a".into());
    assert_eq!(bench.add(ChildSpec::worker("a")), Ok(Reply::Ignored));
    assert_eq!(
        bench.supervisor.counts(),
        Counts {
            specs: 1,
            active: 0,
            workers: 1,
            supervisors: 0
        }
    );
    assert_eq!(bench.status("a"), Some(ChildStatus::Down));
}

#[test]
fn otp_008_an_ignored_temporary_child_is_forgotten() {
    let temporary = with(ChildSpec::worker("a"), |spec| {
        spec.restart = Restart::Temporary;
    });
    let mut bench = Bench::new(
        Flags::default(),
        vec![temporary.clone(), ChildSpec::worker("b")],
    );
    bench.ignoring.insert("a".into());
    bench.boot();
    assert!(bench.ready);
    assert_eq!(bench.listed(), ["b"]);
    assert_eq!(bench.add(temporary), Ok(Reply::Ignored));
    assert_eq!(bench.listed(), ["b"]);
}

#[test]
fn otp_009_an_added_child_whose_start_fails_is_forgotten_and_nothing_else_happens() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::Dynamic] {
        let mut bench = Bench::running(strategy, 0, "a");
        bench.failing.insert("b".into(), 1);
        let reason = "no luck".to_owned();
        let refusal = Refusal::StartFailed {
            child: "b".into(),
            reason,
        };
        assert_eq!(bench.add(ChildSpec::worker("b")), Err(refusal));
        bench.expect("fail b");
        assert_eq!(bench.listed(), ["a"]);
        assert_eq!(bench.end, None);
    }
}

#[test]
fn otp_011_defaults_are_those_of_otp() {
    let flags = Flags::default();
    assert_eq!(
        (flags.strategy, flags.auto_shutdown),
        (Strategy::OneForOne, AutoShutdown::Never)
    );
    assert_eq!((flags.intensity, flags.period), (1, Duration::from_secs(5)));
    let worker = ChildSpec::worker("a");
    assert_eq!(
        (worker.restart, worker.significant),
        (Restart::Permanent, false)
    );
    assert_eq!(worker.shutdown, Shutdown::Timeout(Duration::from_secs(5)));
    assert_eq!(ChildSpec::supervisor("a").shutdown, Shutdown::Infinity);
}

#[test]
fn otp_012_a_child_needs_an_id() {
    assert_eq!(
        refused(Flags::default(), vec![ChildSpec::worker("")]),
        SpecError::MissingId
    );
    let long = "x".repeat(CHILD_ID_LEN_MAX + 1);
    let error = refused(Flags::default(), vec![ChildSpec::worker(long.as_str())]);
    assert!(matches!(error, SpecError::LongId { .. }));
}

#[test]
fn otp_016_a_shutdown_of_zero_asks_and_kills_at_once() {
    let spec = with(ChildSpec::worker("a"), |spec| {
        spec.shutdown = Shutdown::Timeout(Duration::ZERO);
    });
    let mut bench = Bench::booted(Flags::default(), vec![spec]);
    bench.deaf.insert("a".into());
    assert_eq!(bench.terminate("a"), Ok(Reply::Terminated));
    bench.expect("stop a; kill a");
}

#[test]
fn otp_017_two_children_cannot_share_an_id() {
    let error = refused(Flags::default(), workers("a b a"));
    assert_eq!(error, SpecError::DuplicateId { id: "a".into() });
}

#[test]
fn otp_020_a_period_of_zero_is_refused() {
    let flags = flags(Strategy::OneForOne, 1, Duration::ZERO);
    assert_eq!(refused(flags, Vec::new()), SpecError::EmptyPeriod);
}

#[test]
fn otp_021_significant_children_need_auto_shutdown_and_an_end() {
    let spec = with(ChildSpec::worker("a"), |spec| {
        spec.significant = true;
        spec.restart = Restart::Transient;
    });
    let error = refused(Flags::default(), vec![spec.clone()]);
    assert_eq!(
        error,
        SpecError::SignificantWithoutAutoShutdown { id: "a".into() }
    );
    let flags = Flags {
        auto_shutdown: AutoShutdown::AnySignificant,
        ..Flags::default()
    };
    assert!(Supervisor::new(flags, vec![spec.clone()]).is_ok());
    let permanent = with(spec, |spec| spec.restart = Restart::Permanent);
    assert_eq!(
        refused(flags, vec![permanent]),
        SpecError::SignificantPermanent { id: "a".into() }
    );
}

#[test]
fn more_children_than_allowed_are_refused() {
    let flags = Flags {
        children_max: 2,
        ..Flags::default()
    };
    assert_eq!(
        refused(flags, workers("a b c")),
        SpecError::TooMany { given: 3, max: 2 }
    );
    let mut bench = Bench::booted(flags, workers("a b"));
    let refusal = Refusal::Spec(SpecError::TooMany { given: 3, max: 2 });
    assert_eq!(bench.add(ChildSpec::worker("c")), Err(refusal));
}
