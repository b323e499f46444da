//! Ends of which ractor has several kinds, and ends of whoever is above.

use std::sync::{Arc, Mutex};

use mesh_supervision::{
    Child, ChildStatus, End, Ended, Flags, Restart, SpawnError, Started, Supervisor, SupervisorSpec,
};
use ractor::{Actor, SpawnErr};
use tokio::task::AbortHandle;

use crate::bench::{Habit, Journal, Puppet, Tell, actor, puppet, puppet_with, supervise, until};

/// A transient child, and what cancels the tasks of its incarnations.
fn cancellable(journal: &Journal) -> (Child, Arc<Mutex<Vec<AbortHandle>>>) {
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let child = Child::worker("a", {
        let (journal, tasks) = (journal.clone(), Arc::clone(&tasks));
        move |context| {
            let (puppet, tasks) = (Puppet::new("a", &journal), Arc::clone(&tasks));
            async move {
                let (actor, join) =
                    Actor::spawn_linked(None, puppet, (), context.supervisor).await?;
                tasks.lock().unwrap().push(join.abort_handle());
                Ok(Started::from((actor, join)))
            }
        }
    });
    (child.restart(Restart::Transient), tasks)
}

#[tokio::test(start_paused = true)]
async fn a_transient_child_whose_task_was_cancelled_is_restarted() {
    let journal = Journal::new();
    let (child, tasks) = cancellable(&journal);
    let supervisor = supervise(SupervisorSpec::new(Flags::default()).child(child)).await;
    tasks.lock().unwrap()[0].abort();
    journal.expect("start a; start a").await;
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
    assert_eq!(tasks.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn being_killed_or_cancelled_counts_against_the_intensity() {
    let journal = Journal::new();
    let (child, tasks) = cancellable(&journal);
    let supervisor = supervise(SupervisorSpec::new(Flags::default()).child(child)).await;
    actor(&supervisor, "a").await.kill();
    journal.expect("start a; start a").await;
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
    tasks.lock().unwrap()[1].abort();
    let ended = supervisor.terminated().await;
    let Ended::InOrder(End::Escalated { reason, .. }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(reason, "killed");
}

/// It is then known only that it is gone; which is abnormal.
#[tokio::test(start_paused = true)]
async fn a_child_that_was_never_linked_is_watched_all_the_same() {
    let journal = Journal::new();
    let child = Child::worker("a", {
        let journal = journal.clone();
        move |_| {
            let puppet = Puppet::new("a", &journal);
            async move { Ok(Started::from(Actor::spawn(None, puppet, ()).await?)) }
        }
    });
    let spec = SupervisorSpec::new(Flags::default()).child(child.restart(Restart::Transient));
    let supervisor = supervise(spec).await;
    actor(&supervisor, "a")
        .await
        .send_message(Tell::Fail)
        .unwrap();
    journal.expect("start a; start a").await;
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
    supervisor.terminate_child("a").await.unwrap();
    journal.expect("stop a").await;
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_ends_with_its_parent_and_so_do_its_children() {
    let journal = Journal::new();
    let (parent, _join) = Actor::spawn(None, Puppet::new("parent", &journal), ())
        .await
        .unwrap();
    let spec = SupervisorSpec::new(Flags::default()).child(puppet("a", &journal));
    let (supervisor, _join) = Supervisor::spawn_linked(None, spec, parent.get_cell())
        .await
        .unwrap();
    supervisor.ready().await.unwrap();
    let child = actor(&supervisor, "a").await;
    parent.stop(None);
    supervisor.terminated().await;
    child.wait(None).await.unwrap();
    supervisor.cell().wait(None).await.unwrap();
}

/// `otp_005`: the parent of a supervisor that cannot start learns why, and lives.
#[tokio::test(start_paused = true)]
async fn a_supervisor_that_cannot_start_does_not_end_its_parent() {
    let journal = Journal::new();
    let parent = supervise(SupervisorSpec::new(Flags::default())).await;
    let habit = Habit {
        panics_at_start: true,
        ..Habit::default()
    };
    let inner = Child::supervisor("ends-unstartable", {
        let journal = journal.clone();
        move || {
            SupervisorSpec::new(Flags::default()).child(puppet_with("a", &journal, habit.clone()))
        }
    });
    let refused = parent.add(inner).await.unwrap_err();
    let mesh_supervision::RequestError::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert!(refusal.to_string().contains("bad init"), "{refusal}");
    assert_eq!(parent.counts().await.unwrap().specs, 0);
}

/// The caller's start code is what `init` is in OTP, and this is its `ignore`.
#[tokio::test(start_paused = true)]
async fn otp_003_a_supervisor_that_is_not_wanted_is_ignored_and_leaves_nothing() {
    let parent = supervise(SupervisorSpec::new(Flags::default())).await;
    let spec = mesh_supervision::ChildSpec::supervisor("ends-unwanted");
    let unwanted = Child::new(spec, |_| async { Ok(Started::ignored()) });
    assert_eq!(parent.add(unwanted).await, Ok(None));
    assert!(ractor::registry::where_is("ends-unwanted").is_none());
    assert!(parent.cell().get_children().is_empty());
    let listed = parent.child("ends-unwanted").await.unwrap().unwrap();
    assert_eq!((listed.status, listed.actor), (ChildStatus::Down, None));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_fails_the_start_and_says_which() {
    let journal = Journal::new();
    let spec = || SupervisorSpec::new(Flags::default()).child(puppet("a", &journal));
    let name = || Some("ends-taken".to_owned());
    let (first, _join) = Supervisor::spawn(name(), spec()).await.unwrap();
    first.ready().await.unwrap();
    let refused = Supervisor::spawn(name(), spec()).await.unwrap_err();
    assert!(
        matches!(&refused, SpawnError::Actor(SpawnErr::ActorAlreadyRegistered(taken)) if taken == "ends-taken"),
        "{refused:?}"
    );
    let parent = supervise(SupervisorSpec::new(Flags::default())).await;
    let inner = || Child::supervisor("ends-taken", || SupervisorSpec::new(Flags::default()));
    let refused = parent.add(inner()).await.unwrap_err();
    let mesh_supervision::RequestError::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert!(refusal.to_string().contains("'ends-taken'"), "{refusal}");
    first.stop(std::time::Duration::from_secs(5)).await;
    assert!(parent.add(inner()).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_was_given_up_gives_its_name_back() {
    let journal = Journal::new();
    let slow = Habit {
        start_takes: std::time::Duration::from_secs(50),
        ..Habit::default()
    };
    let child = Child::worker("a", {
        let (journal, name) = (journal.clone(), "ends-given-up");
        move |context| {
            let puppet = Puppet::with("a", &journal, slow.clone());
            async move {
                let spawned =
                    Actor::spawn_linked(Some(name.to_owned()), puppet, (), context.supervisor);
                Ok(Started::from(spawned.await?))
            }
        }
    });
    let supervisor = supervise(SupervisorSpec::new(Flags::default())).await;
    let second = std::time::Duration::from_secs(1);
    let too_slow = supervisor.add(child.clone().start_limit(second)).await;
    assert!(too_slow.is_err());
    assert!(ractor::registry::where_is("ends-given-up").is_none());
    assert!(supervisor.add(child).await.unwrap().is_some());
    journal.expect("start a").await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_takes_too_long_is_tried_again_and_counted() {
    let journal = Journal::new();
    let (slow, quick) = (Habit::default(), Habit::default());
    let slow = Habit {
        start_takes: std::time::Duration::from_secs(50),
        ..slow
    };
    let starts = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let child = Child::worker("a", {
        let (journal, starts) = (journal.clone(), Arc::clone(&starts));
        move |context| {
            let nth = starts.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            // The second and the third start take too long.
            let habit = if matches!(nth, 1 | 2) { &slow } else { &quick };
            let puppet = Puppet::with("a", &journal, habit.clone());
            async move {
                let spawned = Actor::spawn_linked(None, puppet, (), context.supervisor);
                Ok(Started::from(spawned.await?))
            }
        }
    });
    let flags = Flags {
        intensity: 3,
        ..Flags::default()
    };
    let child = child.start_limit(std::time::Duration::from_millis(100));
    let supervisor = supervise(SupervisorSpec::new(flags).child(child)).await;
    actor(&supervisor, "a").await.kill();
    journal.expect("start a; start a").await;
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
    assert_eq!(starts.load(std::sync::atomic::Ordering::SeqCst), 4);
    actor(&supervisor, "a").await.kill();
    assert!(
        supervisor.terminated().await.is_abnormal(),
        "three were counted"
    );
}
