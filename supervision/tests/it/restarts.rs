//! Who is restarted, in which order, how often.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mesh_supervision::{ChildStatus, End, Ended, Flags, Restart, Strategy, SupervisorSpec};

use crate::bench::{
    Habit, Journal, Noter, Tell, actor, puppet, puppet_with, supervise, tell, until,
};

fn spec(strategy: Strategy, intensity: u32, ids: &str, journal: &Journal) -> SupervisorSpec {
    let flags = Flags {
        strategy,
        intensity,
        ..Flags::default()
    };
    ids.split(' ').fold(SupervisorSpec::new(flags), |spec, id| {
        spec.child(puppet(id, journal))
    })
}

#[tokio::test(start_paused = true)]
async fn otp_047_one_for_one_restarts_only_the_crashed() {
    let journal = Journal::new();
    let supervisor = supervise(spec(Strategy::OneForOne, 1, "a b c", &journal)).await;
    let before = (actor(&supervisor, "a").await, actor(&supervisor, "c").await);
    journal.expect("start a; start b; start c").await;
    tell(&supervisor, "b", Tell::Panic).await;
    journal.expect("start b").await;
    assert_eq!(
        (actor(&supervisor, "a").await, actor(&supervisor, "c").await),
        before
    );
}

#[tokio::test(start_paused = true)]
async fn otp_048_one_for_all_order() {
    let journal = Journal::new();
    let supervisor = supervise(spec(Strategy::OneForAll, 1, "a b c d", &journal)).await;
    journal.take();
    tell(&supervisor, "b", Tell::Panic).await;
    journal
        .expect("stop d; stop c; stop a; start a; start b; start c; start d")
        .await;
}

#[tokio::test(start_paused = true)]
async fn otp_049_rest_for_one_order() {
    let journal = Journal::new();
    let supervisor = supervise(spec(Strategy::RestForOne, 1, "a b c d", &journal)).await;
    journal.take();
    tell(&supervisor, "b", Tell::Fail).await;
    journal
        .expect("stop d; stop c; start b; start c; start d")
        .await;
}

#[tokio::test(start_paused = true)]
async fn otp_035_to_045_restart_types_and_ends() {
    let (normal, shutdown, remark) = (None, Some("shutdown"), Some("shutdown: done"));
    let (drained, odd) = (Some("Drained"), Some("disk on fire"));
    for (restart, reason, restarted) in [
        (Restart::Permanent, normal, true),
        (Restart::Permanent, shutdown, true),
        (Restart::Transient, normal, false),
        (Restart::Transient, shutdown, false),
        (Restart::Transient, remark, false),
        (Restart::Transient, drained, false),
        (Restart::Transient, odd, true),
        (Restart::Temporary, odd, false),
    ] {
        let journal = Journal::new();
        let child = puppet("a", &journal).restart(restart);
        let supervisor = supervise(SupervisorSpec::new(Flags::default()).child(child)).await;
        let first = actor(&supervisor, "a").await;
        tell(&supervisor, "a", Tell::Stop(reason)).await;
        first.wait(None).await.unwrap();
        if restarted {
            journal.expect("start a; stop a; start a").await;
            until(&supervisor, "a", Some(ChildStatus::Running)).await;
        } else {
            let kept = (restart != Restart::Temporary).then_some(ChildStatus::Down);
            until(&supervisor, "a", kept).await;
            assert_eq!(journal.take(), "start a; stop a", "{restart:?} {reason:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_transient_child_is_restarted() {
    let journal = Journal::new();
    let child = puppet("a", &journal).restart(Restart::Transient);
    let supervisor = supervise(SupervisorSpec::new(Flags::default()).child(child)).await;
    actor(&supervisor, "a").await.kill();
    journal.expect("start a; start a").await;
}

#[tokio::test(start_paused = true)]
async fn otp_057_two_crashes_at_once_are_one_restart_of_the_group() {
    let journal = Journal::new();
    let supervisor = supervise(spec(Strategy::OneForAll, 1, "a b", &journal)).await;
    journal.take();
    let (a, b) = (actor(&supervisor, "a").await, actor(&supervisor, "b").await);
    a.kill();
    b.kill();
    journal.expect("start a; start b").await;
    until(&supervisor, "b", Some(ChildStatus::Running)).await;
}

#[tokio::test(start_paused = true)]
async fn otp_060_the_owner_learns_that_the_root_gave_up() {
    let journal = Journal::new();
    let supervisor = supervise(spec(Strategy::OneForOne, 1, "a b", &journal)).await;
    tell(&supervisor, "a", Tell::Panic).await;
    journal.expect("start a; start b; start a").await;
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
    tell(&supervisor, "a", Tell::Panic).await;
    let ended = supervisor.terminated().await;
    assert!(ended.is_abnormal());
    assert!(
        matches!(ended, Ended::InOrder(End::Escalated { intensity: 1, .. })),
        "{ended:?}"
    );
    journal.expect("stop b").await;
}

#[tokio::test(start_paused = true)]
async fn otp_063_failed_restarts_count() {
    let journal = Journal::new();
    let habit = Habit::default();
    let failing = Arc::clone(&habit.failing_starts);
    let flags = Flags {
        intensity: 3,
        ..Flags::default()
    };
    let supervisor =
        supervise(SupervisorSpec::new(flags).child(puppet_with("a", &journal, habit))).await;
    failing.store(100, Ordering::SeqCst);
    tell(&supervisor, "a", Tell::Panic).await;
    assert!(supervisor.terminated().await.is_abnormal());
    journal.expect("start a; fail a; fail a; fail a").await;
}

#[tokio::test(start_paused = true)]
async fn otp_064_the_window_slides() {
    let journal = Journal::new();
    let flags = Flags {
        intensity: 1,
        period: Duration::from_secs(1),
        ..Flags::default()
    };
    let supervisor = supervise(SupervisorSpec::new(flags).child(puppet("a", &journal))).await;
    journal.take();
    for _ in 0..20 {
        until(&supervisor, "a", Some(ChildStatus::Running)).await;
        tell(&supervisor, "a", Tell::Panic).await;
        journal.expect("start a").await;
        tokio::time::sleep(Duration::from_millis(2_100)).await;
    }
    assert_eq!(supervisor.counts().await.unwrap().active, 1);
}

#[tokio::test(start_paused = true)]
async fn otp_108_109_reports_are_in_order() {
    let (journal, reports) = (Journal::new(), Journal::new());
    let observer = Arc::new(Noter(reports.clone()));
    let supervisor =
        supervise(spec(Strategy::OneForOne, 1, "a b", &journal).observer(observer)).await;
    reports.take();
    tell(&supervisor, "a", Tell::Panic).await;
    reports
        .expect("exited a: failed: boom; restarting a; started a")
        .await;
    tell(&supervisor, "a", Tell::Fail).await;
    supervisor.terminated().await;
    let end = "child a needed more than 1 restarts within 5s (failed: boom)";
    reports
        .expect(&format!(
            "exited a: failed: boom; limit a; stopped b: shutdown; ended: {end}"
        ))
        .await;
}
