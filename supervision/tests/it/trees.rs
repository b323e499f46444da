//! Supervisors under supervisors.

use std::time::Duration;

use mesh_supervision::{
    AutoShutdown, Child, ChildStatus, End, Ended, Flags, Restart, Shutdown, Started, Strategy,
    Supervisor, SupervisorHandle, SupervisorSpec,
};
use tokio::{sync::watch, time::Instant};

use crate::bench::{Habit, Journal, Tell, puppet, puppet_with, supervise, tell, until};

type Slot = watch::Sender<Option<SupervisorHandle>>;

/// An inner supervisor whose handle can be had.
fn inner(
    id: &str,
    slot: &Slot,
    spec: impl Fn() -> SupervisorSpec + Send + Sync + 'static,
) -> Child {
    let slot = slot.clone();
    Child::new(
        mesh_supervision::ChildSpec::supervisor(id),
        move |context| {
            let (spec, slot) = (spec(), slot.clone());
            async move {
                let (handle, join) =
                    Supervisor::spawn_linked(None, spec, context.supervisor).await?;
                slot.send_replace(Some(handle.clone()));
                Ok(Started::supervisor(handle, join))
            }
        },
    )
}

fn current(slot: &Slot) -> SupervisorHandle {
    slot.borrow().clone().unwrap()
}

fn patient() -> Flags {
    Flags {
        intensity: 1,
        period: Duration::from_mins(1),
        ..Flags::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_starts_in_order_and_stops_in_reverse_over_all_levels() {
    let journal = Journal::new();
    let spec = {
        let journal = journal.clone();
        move || {
            SupervisorSpec::new(Flags::default())
                .child(puppet("b", &journal))
                .child(puppet("c", &journal))
        }
    };
    let root = SupervisorSpec::new(Flags {
        strategy: Strategy::RestForOne,
        ..Flags::default()
    })
    .child(puppet("a", &journal))
    .child(Child::supervisor("trees-middle", spec))
    .child(puppet("d", &journal));
    let root = supervise(root).await;
    journal.expect("start a; start b; start c; start d").await;
    assert_eq!(root.counts().await.unwrap().supervisors, 1);
    root.stop(Duration::from_mins(1)).await;
    journal.expect("stop d; stop c; stop b; stop a").await;
}

#[tokio::test(start_paused = true)]
async fn otp_072_073_076_an_inner_supervisor_that_gave_up_is_restarted_with_an_empty_window() {
    for restart in [Restart::Permanent, Restart::Transient] {
        let (journal, slot) = (Journal::new(), Slot::new(None));
        let spec = {
            let journal = journal.clone();
            move || {
                SupervisorSpec::new(patient())
                    .child(puppet("x", &journal))
                    .child(puppet("y", &journal))
            }
        };
        let root = SupervisorSpec::new(patient())
            .child(inner("inner", &slot, spec).restart(restart))
            .child(puppet("z", &journal));
        let root = supervise(root).await;
        journal.expect("start x; start y; start z").await;
        let first = current(&slot);
        tell(&first, "x", Tell::Panic).await;
        journal.expect("start x").await;
        until(&first, "x", Some(ChildStatus::Running)).await;
        tell(&first, "x", Tell::Panic).await;
        assert!(first.terminated().await.is_abnormal());
        journal.expect("stop y; start x; start y").await;
        // The new one grants its one restart again; then it gives up, and so does the root, which has granted one.
        let second = current(&slot);
        second.ready().await.unwrap();
        tell(&second, "x", Tell::Panic).await;
        journal.expect("start x").await;
        until(&second, "x", Some(ChildStatus::Running)).await;
        tell(&second, "x", Tell::Panic).await;
        let ended = root.terminated().await;
        let Ended::InOrder(End::Escalated { child, reason, .. }) = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(child.as_str(), "inner");
        assert!(
            reason.contains("child x needed more than 1 restarts"),
            "{reason}"
        );
        journal.expect("stop y; stop z").await;
    }
}

#[tokio::test(start_paused = true)]
async fn otp_099_significant_ends_chain_upwards() {
    let (journal, slot) = (Journal::new(), Slot::new(None));
    let flags = Flags {
        auto_shutdown: AutoShutdown::AnySignificant,
        ..Flags::default()
    };
    let spec = {
        let journal = journal.clone();
        move || {
            SupervisorSpec::new(flags).child(
                puppet("c", &journal)
                    .restart(Restart::Transient)
                    .significant(),
            )
        }
    };
    let root = SupervisorSpec::new(flags)
        .child(puppet("a", &journal))
        .child(
            inner("b", &slot, spec)
                .restart(Restart::Transient)
                .significant(),
        );
    let root = supervise(root).await;
    tell(&current(&slot), "c", Tell::Stop(None)).await;
    assert_eq!(root.terminated().await, Ended::InOrder(End::AutoShutdown));
    journal.expect("start a; start c; stop c; stop a").await;
}

#[tokio::test(start_paused = true)]
async fn an_inner_supervisor_whose_child_cannot_start_fails_the_outer_boot_with_the_cause() {
    let journal = Journal::new();
    let spec = {
        let journal = journal.clone();
        move || {
            let habit = Habit {
                panics_at_start: true,
                ..Habit::default()
            };
            SupervisorSpec::new(Flags::default())
                .child(puppet("a", &journal))
                .child(puppet_with("b", &journal, habit))
        }
    };
    let root =
        SupervisorSpec::new(Flags::default()).child(Child::supervisor("trees-unbootable", spec));
    let (root, _join) = Supervisor::spawn(None, root).await.unwrap();
    let ended = root.ready().await.unwrap_err();
    let Ended::InOrder(End::BootFailed { reason, .. }) = ended else {
        panic!("{ended:?}")
    };
    assert!(reason.contains("bad init"), "{reason}");
    journal.expect("start a; stop a").await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_reaches_the_innermost_child_before_the_outer_one_loses_patience() {
    let (journal, slot) = (Journal::new(), Slot::new(None));
    let spec = {
        let journal = journal.clone();
        move || {
            let habit = Habit {
                deaf: true,
                ..Habit::default()
            };
            SupervisorSpec::new(Flags::default())
                .child(puppet("a", &journal))
                .child(puppet_with("b", &journal, habit).shutdown(Shutdown::Infinity))
        }
    };
    let root =
        supervise(SupervisorSpec::new(Flags::default()).child(inner("inner", &slot, spec))).await;
    let begin = Instant::now();
    let middle = current(&slot);
    root.stop(Duration::from_secs(10)).await;
    assert_eq!(
        middle.terminated().await,
        Ended::InOrder(End::Stopped),
        "it was not killed"
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
    // Nothing was left for the other one, which was killed.
    journal.expect("start a; start b; stop b").await;
}

#[tokio::test(start_paused = true)]
async fn a_shortened_stop_reaches_the_innermost_child() {
    let (journal, slot) = (Journal::new(), Slot::new(None));
    let spec = {
        let journal = journal.clone();
        move || {
            let habit = Habit {
                deaf: true,
                ..Habit::default()
            };
            SupervisorSpec::new(Flags::default())
                .child(puppet_with("b", &journal, habit).shutdown(Shutdown::Infinity))
        }
    };
    let root =
        supervise(SupervisorSpec::new(Flags::default()).child(inner("inner", &slot, spec))).await;
    let middle = current(&slot);
    let (patient, begin) = (root.clone(), Instant::now());
    let first = tokio::spawn(async move { patient.stop(Duration::from_mins(4)).await });
    journal.expect("start b; stop b").await;
    root.stop(Duration::from_secs(10)).await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(
        middle.terminated().await,
        Ended::InOrder(End::Stopped),
        "it was not killed"
    );
    assert_eq!(first.await.unwrap(), Ended::InOrder(End::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_killed_inner_supervisor_is_restarted_with_all_its_children() {
    let (journal, slot) = (Journal::new(), Slot::new(None));
    let spec = {
        let journal = journal.clone();
        move || SupervisorSpec::new(patient()).child(puppet("x", &journal))
    };
    let root = supervise(SupervisorSpec::new(patient()).child(inner("inner", &slot, spec))).await;
    let first = current(&slot);
    first.cell().kill();
    journal.expect("start x; start x").await;
    until(&root, "inner", Some(ChildStatus::Running)).await;
    assert_eq!(first.terminated().await, Ended::Killed);
}

#[tokio::test(start_paused = true)]
async fn an_inner_supervisor_whose_significant_child_was_done_during_its_boot_has_booted() {
    // With a slow start behind it, and with nothing left to stop, so that being up and the end are one.
    for last_is_ignored in [false, true] {
        let (journal, slot) = (Journal::new(), Slot::new(None));
        let flags = Flags {
            auto_shutdown: AutoShutdown::AnySignificant,
            ..Flags::default()
        };
        let spec = {
            let journal = journal.clone();
            move || {
                let slow = Habit {
                    start_takes: Duration::from_secs(1),
                    ..Habit::default()
                };
                let last = if last_is_ignored {
                    Child::worker("b", |_| async {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        Ok(Started::ignored())
                    })
                } else {
                    puppet_with("b", &journal, slow)
                };
                SupervisorSpec::new(flags)
                    .child(
                        puppet("a", &journal)
                            .restart(Restart::Transient)
                            .significant(),
                    )
                    .child(last)
            }
        };
        let root = SupervisorSpec::new(Flags::default())
            .child(inner("inner", &slot, spec).restart(Restart::Transient))
            .child(puppet("z", &journal));
        let (root, _join) = Supervisor::spawn(None, root).await.unwrap();
        let mut up = slot.subscribe();
        let handle = up.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        until(&handle, "a", Some(ChildStatus::Running)).await;
        tell(&handle, "a", Tell::Stop(None)).await;
        root.ready().await.unwrap();
        until(&root, "inner", Some(ChildStatus::Down)).await;
        assert_eq!(handle.terminated().await, Ended::InOrder(End::AutoShutdown));
        assert_eq!(journal.count("start z"), 1);
        root.stop(Duration::from_secs(5)).await;
    }
}
