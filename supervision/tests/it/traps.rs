//! Where ractor is not what one might think.

use std::time::Duration;

use mesh_supervision::{
    Child, ChildStatus, End, Ended, Flags, Started, Supervisor, SupervisorSpec,
};
use ractor::Actor;

use crate::bench::{Habit, Journal, Puppet, puppet, puppet_with, supervise, until};

async fn boot_failure(child: Child) -> String {
    let spec = SupervisorSpec::new(Flags::default()).child(child);
    let (supervisor, _join) = Supervisor::spawn(None, spec).await.unwrap();
    match supervisor.ready().await {
        Err(Ended::InOrder(End::BootFailed { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn otp_005_a_child_that_panics_in_its_start_fails_the_boot_with_the_cause() {
    let habit = Habit {
        panics_at_start: true,
        ..Habit::default()
    };
    let reason = boot_failure(puppet_with("a", &Journal::new(), habit)).await;
    assert!(reason.contains("bad init"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn start_code_that_panics_is_a_failed_start() {
    let reason = boot_failure(Child::worker("a", |_| async { panic!("in the code") })).await;
    assert!(reason.contains("in the code"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_is_a_failed_start_and_leaves_nothing_behind() {
    let journal = Journal::new();
    let slow = Habit {
        start_takes: Duration::from_secs(50),
        ..Habit::default()
    };
    let child = puppet_with("a", &journal, slow).start_limit(Duration::from_secs(1));
    let reason = boot_failure(child).await;
    assert!(reason.contains("longer than 1s"), "{reason}");
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(journal.take(), "");
}

/// `ActorFailed` arrives without `ActorStarted`, and before the start's task has reported.
#[tokio::test(start_paused = true)]
async fn a_child_that_fails_right_after_its_start_is_counted_once_each_time() {
    let journal = Journal::new();
    let habit = Habit {
        fails_after_start: true,
        ..Habit::default()
    };
    let flags = Flags {
        intensity: 3,
        ..Flags::default()
    };
    let spec = SupervisorSpec::new(flags).child(puppet_with("a", &journal, habit));
    let (supervisor, _join) = Supervisor::spawn(None, spec).await.unwrap();
    let ended = supervisor.terminated().await;
    let Ended::InOrder(End::Escalated { reason, .. }) = ended else {
        panic!("{ended:?}")
    };
    assert!(reason.contains("stillborn"), "{reason}");
    assert_eq!(
        journal.count("start a"),
        4,
        "the first start and three restarts"
    );
}

/// ractor releases a name when the actor begins to stop.
#[tokio::test(start_paused = true)]
async fn a_named_child_is_restarted_under_its_name() {
    let journal = Journal::new();
    let spec = SupervisorSpec::new(Flags::default()).child(Child::worker("named", {
        let journal = journal.clone();
        move |context| {
            let puppet = Puppet::new("named", &journal);
            let name = Some("traps-named-child".to_owned());
            async move {
                Ok(Started::from(
                    Actor::spawn_linked(name, puppet, (), context.supervisor).await?,
                ))
            }
        }
    }));
    let supervisor = supervise(spec).await;
    let first = ractor::registry::where_is("traps-named-child").unwrap();
    first.kill();
    journal.expect("start named; start named").await;
    until(&supervisor, "named", Some(ChildStatus::Running)).await;
    let second = ractor::registry::where_is("traps-named-child").unwrap();
    assert_ne!(first.get_id(), second.get_id());
}

/// ractor's own default would stop the parent on any exit of a linked actor.
#[tokio::test(start_paused = true)]
async fn an_actor_that_is_linked_but_no_child_is_none_of_its_business() {
    let journal = Journal::new();
    let supervisor =
        supervise(SupervisorSpec::new(Flags::default()).child(puppet("a", &journal))).await;
    let stranger = Puppet::new("stranger", &journal);
    let (actor, join) = Actor::spawn_linked(None, stranger, (), supervisor.cell())
        .await
        .unwrap();
    actor.kill();
    join.await.unwrap();
    assert_eq!(supervisor.counts().await.unwrap().active, 1);
    journal.expect("start a; start stranger").await;
}
