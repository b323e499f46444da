//! Requests by way of the handle.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mesh_supervision::{
    Child, ChildStatus, Counts, Flags, REQUESTS_MAX, Refusal, RequestError, Restart, Started,
    Strategy, SupervisorSpec,
};

use crate::bench::{
    Habit, Journal, Tell, actor, puppet, puppet_with, statuses, supervise, tell, until,
};

fn refused(refusal: Refusal) -> RequestError {
    RequestError::Refused(refusal)
}

#[tokio::test(start_paused = true)]
async fn otp_007_a_child_without_anything_to_supervise_is_listed() {
    let supervisor = supervise(SupervisorSpec::new(Flags::default())).await;
    let child = Child::worker("a", |_| async { Ok(Started::ignored()) });
    assert_eq!(supervisor.add(child).await, Ok(None));
    let counts = Counts {
        specs: 1,
        active: 0,
        workers: 1,
        supervisors: 0,
    };
    assert_eq!(supervisor.counts().await, Ok(counts));
}

#[tokio::test(start_paused = true)]
async fn otp_009_an_added_child_whose_start_fails_is_forgotten() {
    let journal = Journal::new();
    let supervisor = supervise(SupervisorSpec::new(Flags::default())).await;
    let habit = Habit::default();
    habit.failing_starts.store(1, Ordering::SeqCst);
    let child = puppet_with("a", &journal, habit);
    let error = supervisor.add(child.clone()).await.unwrap_err();
    assert!(
        matches!(&error, RequestError::Refused(Refusal::StartFailed { reason, .. }) if reason.contains("no luck")),
        "{error:?}"
    );
    assert!(statuses(&supervisor).await.is_empty());
    assert!(supervisor.add(child).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn otp_077_to_083_administration() {
    let journal = Journal::new();
    let supervisor =
        supervise(SupervisorSpec::new(Flags::default()).child(puppet("a", &journal))).await;
    assert_eq!(
        supervisor.delete_child("a").await,
        Err(refused(Refusal::Running("a".into())))
    );
    assert!(matches!(
        supervisor.add(puppet("a", &journal)).await,
        Err(RequestError::Refused(Refusal::AlreadyStarted { .. }))
    ));
    supervisor.terminate_child("a").await.unwrap();
    assert_eq!(
        supervisor.add(puppet("a", &journal)).await,
        Err(refused(Refusal::AlreadyPresent("a".into())))
    );
    let second = supervisor.start_child("a").await.unwrap().unwrap();
    let third = supervisor.restart_child("a").await.unwrap().unwrap();
    assert!(third > second);
    supervisor.terminate_child("a").await.unwrap();
    supervisor.delete_child("a").await.unwrap();
    assert_eq!(
        supervisor.start_child("a").await,
        Err(refused(Refusal::NotFound("a".into())))
    );
    journal
        .expect("start a; stop a; start a; stop a; start a; stop a")
        .await;
}

#[tokio::test(start_paused = true)]
async fn otp_084_a_pools_members_come_and_go() {
    let journal = Journal::new();
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..Flags::default()
    };
    let supervisor = supervise(SupervisorSpec::new(flags)).await;
    supervisor.add(puppet("a", &journal)).await.unwrap();
    assert_eq!(
        supervisor.restart_child("a").await,
        Err(refused(Refusal::Pool))
    );
    supervisor.terminate_child("a").await.unwrap();
    assert!(statuses(&supervisor).await.is_empty());
    supervisor.add(puppet("a", &journal)).await.unwrap();
    journal.expect("start a; stop a; start a").await;
}

#[tokio::test(start_paused = true)]
async fn otp_089_requests_are_served_during_a_slow_restart() {
    let journal = Journal::new();
    let slow = Habit {
        start_takes: Duration::from_secs(30),
        ..Habit::default()
    };
    let spec = SupervisorSpec::new(Flags::default())
        .child(puppet_with("a", &journal, slow))
        .child(puppet("b", &journal));
    let supervisor = supervise(spec).await;
    journal.take();
    tell(&supervisor, "a", Tell::Panic).await;
    until(&supervisor, "a", Some(ChildStatus::Starting)).await;
    supervisor.restart_child("b").await.unwrap();
    assert_eq!(journal.take(), "stop b; start b");
    supervisor.terminate_child("a").await.unwrap();
    assert_eq!(statuses(&supervisor).await["a"], ChildStatus::Down);
}

#[tokio::test(start_paused = true)]
async fn otp_103_105_a_change_lists_new_children_and_keeps_running_ones_with_new_code_from_their_next_start()
 {
    let (old, new) = (Journal::new(), Journal::new());
    let supervisor =
        supervise(SupervisorSpec::new(Flags::default()).child(puppet("a", &old))).await;
    let before = actor(&supervisor, "a").await;
    let children = vec![
        puppet("a", &new).restart(Restart::Transient),
        puppet("b", &new),
    ];
    supervisor.change(Flags::default(), children).await.unwrap();
    assert_eq!(actor(&supervisor, "a").await, before);
    assert_eq!(statuses(&supervisor).await["b"], ChildStatus::Down);
    tell(&supervisor, "a", Tell::Panic).await;
    new.expect("start a").await;
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
    supervisor.start_child("b").await.unwrap();
    new.expect("start b").await;
    old.expect("start a").await;
}

#[tokio::test(start_paused = true)]
async fn a_re_added_child_of_the_same_id_runs_its_own_code() {
    let (old, new) = (Journal::new(), Journal::new());
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..Flags::default()
    };
    let supervisor = supervise(SupervisorSpec::new(flags).child(puppet("a", &old))).await;
    let deleting = supervisor.terminate_child("a");
    let adding = supervisor.add(puppet("a", &new));
    let (terminated, added) = tokio::join!(deleting, adding);
    terminated.unwrap();
    added.unwrap();
    old.expect("start a; stop a").await;
    new.expect("start a").await;
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_are_admitted_are_busy() {
    let journal = Journal::new();
    let slow = Habit {
        start_takes: Duration::from_secs(30),
        ..Habit::default()
    };
    let supervisor = supervise(SupervisorSpec::new(Flags::default())).await;
    let adding = |supervisor: &mesh_supervision::SupervisorHandle, n: usize| {
        let (supervisor, child) = (
            supervisor.clone(),
            puppet_with(&format!("c{n}"), &journal, slow.clone()),
        );
        tokio::spawn(async move { supervisor.add(child).await })
    };
    let tasks: Vec<_> = (0..=REQUESTS_MAX).map(|n| adding(&supervisor, n)).collect();
    let mut busy = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => {}
            Err(RequestError::Busy) => busy += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(busy, 1);
    assert_eq!(
        supervisor.counts().await.unwrap().active,
        REQUESTS_MAX,
        "the permits came back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_waited_for_beyond_its_limit() {
    let journal = Journal::new();
    let slow = Habit {
        start_takes: Duration::from_secs(30),
        ..Habit::default()
    };
    let limit = Duration::from_secs(1);
    let supervisor = supervise(SupervisorSpec::new(Flags::default()))
        .await
        .with_limit(limit);
    let error = supervisor
        .add(puppet_with("a", &journal, slow))
        .await
        .unwrap_err();
    assert_eq!(error, RequestError::TimedOut { limit });
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
}

#[tokio::test(start_paused = true)]
async fn otp_107_a_thousand_children_start_in_order_and_all_stop() {
    let journal = Journal::new();
    let ids: Vec<String> = (0..1_000).map(|n| format!("c{n:03}")).collect();
    let spec = ids
        .iter()
        .fold(SupervisorSpec::new(Flags::default()), |spec, id| {
            spec.child(puppet(id, &journal))
        });
    let supervisor = supervise(spec).await;
    let starts: Vec<String> = ids.iter().map(|id| format!("start {id}")).collect();
    assert_eq!(journal.take(), starts.join("; "));
    supervisor.stop(Duration::from_mins(10)).await;
    let stops: Vec<String> = ids.iter().rev().map(|id| format!("stop {id}")).collect();
    assert_eq!(journal.take(), stops.join("; "));
}

#[tokio::test(start_paused = true)]
async fn otp_085_a_failing_restart_is_retried_and_recovers() {
    let journal = Journal::new();
    let habit = Habit::default();
    let failing = Arc::clone(&habit.failing_starts);
    let flags = Flags {
        intensity: 10,
        ..Flags::default()
    };
    let supervisor =
        supervise(SupervisorSpec::new(flags).child(puppet_with("a", &journal, habit))).await;
    failing.store(3, Ordering::SeqCst);
    tell(&supervisor, "a", Tell::Panic).await;
    journal
        .expect("start a; fail a; fail a; fail a; start a")
        .await;
}
