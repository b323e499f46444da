//! Ordered, timed stops.

use std::time::Duration;

use mesh_supervision::{
    AutoShutdown, ChildStatus, End, Ended, Flags, RequestError, Restart, Shutdown, Strategy,
    SupervisorSpec,
};
use tokio::time::Instant;

use crate::bench::{Habit, Journal, Tell, actor, puppet, puppet_with, supervise, tell};

const LIMIT: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_mins(1);

fn deaf() -> Habit {
    Habit {
        deaf: true,
        ..Habit::default()
    }
}

#[tokio::test(start_paused = true)]
async fn otp_023_children_are_stopped_in_reverse() {
    let journal = Journal::new();
    let spec = ["a", "b", "c"]
        .iter()
        .fold(SupervisorSpec::new(Flags::default()), |spec, id| {
            spec.child(puppet(id, &journal))
        });
    let supervisor = supervise(spec).await;
    assert_eq!(
        supervisor.stop(PATIENCE).await,
        Ended::InOrder(End::Stopped)
    );
    journal
        .expect("start a; start b; start c; stop c; stop b; stop a")
        .await;
    assert_eq!(
        supervisor.stop(PATIENCE).await,
        Ended::InOrder(End::Stopped),
        "again"
    );
    assert_eq!(supervisor.counts().await, Err(RequestError::NotRunning));
}

#[tokio::test(start_paused = true)]
async fn otp_025_027_a_hung_child_is_killed_at_its_limit_and_the_others_stop_in_order() {
    let journal = Journal::new();
    let hung = puppet_with("b", &journal, deaf()).shutdown(Shutdown::Timeout(LIMIT));
    let spec = SupervisorSpec::new(Flags::default())
        .child(puppet("a", &journal))
        .child(hung);
    let supervisor = supervise(spec).await;
    let begin = Instant::now();
    supervisor.stop(PATIENCE).await;
    let took = begin.elapsed();
    assert!(
        LIMIT <= took && took < LIMIT + Duration::from_millis(10),
        "{took:?}"
    );
    journal.expect("start a; start b; stop b; stop a").await;
}

#[tokio::test(start_paused = true)]
async fn the_stops_own_limit_cuts_infinity_short() {
    let journal = Journal::new();
    let hung = puppet_with("a", &journal, deaf()).shutdown(Shutdown::Infinity);
    let supervisor = supervise(SupervisorSpec::new(Flags::default()).child(hung)).await;
    let begin = Instant::now();
    supervisor.stop(Duration::from_secs(2)).await;
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn otp_028_029_a_pool_is_stopped_all_at_once() {
    let journal = Journal::new();
    let flags = Flags {
        strategy: Strategy::Dynamic,
        ..Flags::default()
    };
    let spec = ["a", "b", "c"]
        .iter()
        .fold(SupervisorSpec::new(flags), |spec, id| {
            spec.child(puppet_with(id, &journal, deaf()).shutdown(Shutdown::Timeout(LIMIT)))
        });
    let supervisor = supervise(spec).await;
    let begin = Instant::now();
    supervisor.stop(PATIENCE).await;
    assert!(begin.elapsed() < 2 * LIMIT, "the limits run side by side");
}

#[tokio::test(start_paused = true)]
async fn otp_033_a_child_that_unlinked_itself_is_stopped_all_the_same() {
    let journal = Journal::new();
    let spec = SupervisorSpec::new(Flags::default()).child(puppet("a", &journal));
    let supervisor = supervise(spec).await;
    tell(&supervisor, "a", Tell::Unlink(supervisor.cell())).await;
    let begin = Instant::now();
    supervisor.terminate_child("a").await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "it did not need to be killed"
    );
    journal.expect("start a; stop a").await;
}

#[tokio::test(start_paused = true)]
async fn the_crash_of_a_child_that_unlinked_itself_is_noticed() {
    let journal = Journal::new();
    let spec = SupervisorSpec::new(Flags::default()).child(puppet("a", &journal));
    let supervisor = supervise(spec).await;
    tell(&supervisor, "a", Tell::Unlink(supervisor.cell())).await;
    tell(&supervisor, "a", Tell::Panic).await;
    journal.expect("start a; start a").await;
}

#[tokio::test(start_paused = true)]
async fn otp_087_a_start_under_way_does_not_hold_up_the_stop() {
    let journal = Journal::new();
    let slow = Habit {
        start_takes: Duration::from_secs(50),
        ..Habit::default()
    };
    let spec = SupervisorSpec::new(Flags::default())
        .child(puppet("a", &journal))
        .child(puppet_with("b", &journal, slow));
    let (supervisor, _join) = mesh_supervision::Supervisor::spawn(None, spec)
        .await
        .unwrap();
    journal.expect("start a").await;
    let begin = Instant::now();
    assert_eq!(
        supervisor.stop(PATIENCE).await,
        Ended::InOrder(End::Stopped)
    );
    assert!(begin.elapsed() < Duration::from_secs(1));
    journal.expect("stop a").await;
}

#[tokio::test(start_paused = true)]
async fn otp_093_a_significant_childs_end_ends_the_supervisor() {
    let journal = Journal::new();
    let flags = Flags {
        auto_shutdown: AutoShutdown::AnySignificant,
        ..Flags::default()
    };
    let spec = SupervisorSpec::new(flags)
        .child(
            puppet("a", &journal)
                .restart(Restart::Transient)
                .significant(),
        )
        .child(puppet("b", &journal));
    let supervisor = supervise(spec).await;
    tell(&supervisor, "a", Tell::Stop(None)).await;
    assert_eq!(
        supervisor.terminated().await,
        Ended::InOrder(End::AutoShutdown)
    );
    journal.expect("start a; start b; stop a; stop b").await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_past_the_handle_is_in_order_too() {
    let journal = Journal::new();
    let hung = puppet_with("b", &journal, deaf()).shutdown(Shutdown::Timeout(LIMIT));
    let spec = SupervisorSpec::new(Flags::default())
        .child(puppet("a", &journal))
        .child(hung)
        .child(puppet("c", &journal));
    let supervisor = supervise(spec).await;
    supervisor.cell().stop(None);
    assert_eq!(supervisor.terminated().await, Ended::InOrder(End::Stopped));
    journal
        .expect("start a; start b; start c; stop c; stop b; stop a")
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_owner_learns_that_the_supervisor_was_killed_and_no_child_survives() {
    let journal = Journal::new();
    let supervisor =
        supervise(SupervisorSpec::new(Flags::default()).child(puppet("a", &journal))).await;
    let child = actor(&supervisor, "a").await;
    supervisor.cell().kill();
    assert_eq!(supervisor.terminated().await, Ended::Killed);
    child.wait(None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_terminated_child_stays_down() {
    let journal = Journal::new();
    let supervisor =
        supervise(SupervisorSpec::new(Flags::default()).child(puppet("a", &journal))).await;
    supervisor.terminate_child("a").await.unwrap();
    let children = supervisor.children().await.unwrap();
    assert_eq!(
        (children[0].status, &children[0].actor),
        (ChildStatus::Down, &None)
    );
}
