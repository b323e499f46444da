//! A supervisor answers whatever its children do: it waits for none of them in a handler of its own.
//!
//! The children here block the very thread that they run on, so nothing but another thread can let them go. They do so only
//! when the supervisor has been told that they run: tokio keeps the task that was woken last for the thread that woke it, and
//! gives it to no other. A thread that blocks in the same poll takes that task with it.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use mesh_supervision::{
    Child, ChildStatus, Flags, Incarnation, Shutdown, Started, Supervisor, SupervisorHandle,
    SupervisorSpec,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus};
use tokio::{sync::watch, task::JoinHandle};

use crate::bench::{Journal, actor, puppet, supervise, until};

/// Longer than anything takes that is going to happen at all.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    PreStart,
    Handle,
    PostStop,
}

/// Holds whoever comes until it is opened, which it is at the latest when the test is over, however that ends.
#[derive(Clone)]
struct Gate(Arc<GateState>);

struct GateState {
    is_open: Mutex<bool>,
    opened: Condvar,
    held: watch::Sender<usize>,
    greeted: watch::Sender<usize>,
}

impl Gate {
    fn new() -> Self {
        Self(Arc::new(GateState {
            is_open: Mutex::new(false),
            opened: Condvar::new(),
            held: watch::Sender::new(0),
            greeted: watch::Sender::new(0),
        }))
    }

    fn pass(&self) {
        let is_open = self.0.is_open.lock().unwrap();
        if !*is_open {
            self.0.held.send_modify(|held| *held += 1);
        }
        drop(self.0.opened.wait_while(is_open, |is_open| !*is_open));
    }

    fn open(&self) {
        *self.0.is_open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }

    /// Waits until somebody is held.
    async fn holds(&self) {
        let mut held = self.0.held.subscribe();
        let came = tokio::time::timeout(PATIENCE, held.wait_for(|held| *held > 0)).await;
        drop(came.unwrap().unwrap());
    }
}

struct OpenAtTheEnd(Gate);

impl Drop for OpenAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

struct Blocker(Place, Gate);

impl Blocker {
    fn reach(&self, place: Place) {
        if self.0 == place {
            self.1.pass();
        }
    }
}

impl Actor for Blocker {
    type Msg = String;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<String>, (): ()) -> Result<(), ActorProcessingErr> {
        self.reach(Place::PreStart);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<String>,
        message: String,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if message == GREETING {
            self.1.0.greeted.send_modify(|greeted| *greeted += 1);
        } else {
            self.reach(Place::Handle);
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<String>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.reach(Place::PostStop);
        Ok(())
    }
}

fn blocker(place: Place, gate: &Gate) -> Child {
    let gate = gate.clone();
    Child::worker("blocker", move |context| {
        let blocker = Blocker(place, gate.clone());
        async move {
            let spawned = Actor::spawn_linked(None, blocker, (), context.supervisor).await?;
            Ok(Started::from(spawned))
        }
    })
    .shutdown(Shutdown::Infinity)
}

/// Does not block.
const GREETING: &str = "hello";

/// The blocker, when its supervisor has heard that it runs.
async fn settled(supervisor: &SupervisorHandle, gate: &Gate) -> ActorCell {
    let blocker = actor(supervisor, "blocker").await;
    let mut greeted = gate.0.greeted.subscribe();
    blocker.send_message(GREETING.to_owned()).unwrap();
    let answered = tokio::time::timeout(PATIENCE, greeted.wait_for(|greeted| *greeted > 0)).await;
    drop(answered.unwrap().unwrap());
    supervisor.counts().await.unwrap();
    blocker
}

/// Everything that can be asked is answered, while the blocker blocks.
async fn answers(supervisor: &SupervisorHandle, blocked: ChildStatus, journal: &Journal) {
    let supervisor = supervisor.clone().with_limit(PATIENCE);
    let listed = supervisor.child("blocker").await.unwrap().unwrap();
    assert_eq!(listed.status, blocked);
    assert_eq!(supervisor.counts().await.unwrap().specs, 2);
    supervisor.add(puppet("b", journal)).await.unwrap();
    supervisor.restart_child("a").await.unwrap();
    supervisor.terminate_child("a").await.unwrap();
    supervisor.start_child("a").await.unwrap();
    actor(&supervisor, "a").await.kill();
    until(&supervisor, "a", Some(ChildStatus::Running)).await;
    supervisor.terminate_child("b").await.unwrap();
    supervisor.delete_child("b").await.unwrap();
    supervisor
        .change(Flags::default(), Vec::new())
        .await
        .unwrap();
    let listed = supervisor.child("blocker").await.unwrap().unwrap();
    assert_eq!(listed.status, blocked, "it blocks still");
}

fn adding(supervisor: &SupervisorHandle, child: Child) -> JoinHandle<Option<Incarnation>> {
    let supervisor = supervisor.clone();
    tokio::spawn(async move { supervisor.add(child).await.unwrap() })
}

async fn supervise_one(journal: &Journal) -> SupervisorHandle {
    supervise(SupervisorSpec::new(Flags::default()).child(puppet("a", journal))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_answers_while_a_child_blocks_in_its_pre_start() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let supervisor = supervise_one(&journal).await;
    let _open = OpenAtTheEnd(gate.clone());
    let added = adding(&supervisor, blocker(Place::PreStart, &gate));
    gate.holds().await;
    answers(&supervisor, ChildStatus::Starting, &journal).await;
    gate.open();
    assert!(added.await.unwrap().is_some());
    until(&supervisor, "blocker", Some(ChildStatus::Running)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_answers_while_a_child_blocks_in_its_post_stop() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let supervisor = supervise_one(&journal).await;
    let _open = OpenAtTheEnd(gate.clone());
    supervisor
        .add(blocker(Place::PostStop, &gate))
        .await
        .unwrap();
    settled(&supervisor, &gate).await;
    let terminated = tokio::spawn({
        let supervisor = supervisor.clone();
        async move { supervisor.terminate_child("blocker").await }
    });
    gate.holds().await;
    answers(&supervisor, ChildStatus::Stopping, &journal).await;
    gate.open();
    terminated.await.unwrap().unwrap();
    until(&supervisor, "blocker", Some(ChildStatus::Down)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_answers_while_a_child_blocks_in_its_handler() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let supervisor = supervise_one(&journal).await;
    let _open = OpenAtTheEnd(gate.clone());
    supervisor.add(blocker(Place::Handle, &gate)).await.unwrap();
    let blocked = settled(&supervisor, &gate).await;
    blocked.send_message("block".to_owned()).unwrap();
    gate.holds().await;
    answers(&supervisor, ChildStatus::Running, &journal).await;
}

/// What cannot even be killed is given up; and when it ends after all, that concerns nobody any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_late_end_of_an_abandoned_incarnation_does_not_touch_its_successor() {
    let gate = Gate::new();
    let flags = Flags {
        kill_limit: SHORT,
        ..Flags::default()
    };
    let supervisor = supervise(SupervisorSpec::new(flags)).await;
    let _open = OpenAtTheEnd(gate.clone());
    let child = blocker(Place::Handle, &gate).shutdown(Shutdown::Timeout(SHORT));
    let first = supervisor.add(child).await.unwrap();
    let abandoned = settled(&supervisor, &gate).await;
    abandoned.send_message("block".to_owned()).unwrap();
    gate.holds().await;
    supervisor.terminate_child("blocker").await.unwrap();
    assert_ne!(
        abandoned.get_status(),
        ActorStatus::Stopped,
        "it is still there"
    );
    let second = supervisor.start_child("blocker").await.unwrap();
    assert!(second > first);
    gate.open();
    abandoned.wait(Some(PATIENCE)).await.unwrap();
    let now = supervisor.child("blocker").await.unwrap().unwrap();
    assert_eq!(
        (now.status, now.incarnation),
        (ChildStatus::Running, second)
    );
    assert_ne!(now.actor.unwrap().get_id(), abandoned.get_id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_that_blocks_its_thread_does_not_hold_up_the_stop_beyond_the_limits() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let flags = Flags {
        kill_limit: SHORT,
        ..Flags::default()
    };
    let spec = SupervisorSpec::new(flags)
        .child(puppet("a", &journal))
        .child(blocker(Place::PreStart, &gate).shutdown(Shutdown::Timeout(SHORT)));
    let (supervisor, _join) = Supervisor::spawn(None, spec).await.unwrap();
    let _open = OpenAtTheEnd(gate.clone());
    gate.holds().await;
    let stopped = tokio::time::timeout(PATIENCE, supervisor.stop(PATIENCE)).await;
    assert!(!stopped.unwrap().is_abnormal());
    journal.expect("start a; stop a").await;
}
