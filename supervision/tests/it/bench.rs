//! An actor that does what it is told, and a log of what was done.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mesh_supervision::{
    Child, ChildStatus, Observer, Report, Started, Supervisor, SupervisorHandle, SupervisorSpec,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

/// What happened, in order. Waiting for it is waiting for a state.
#[derive(Clone)]
pub(crate) struct Journal(watch::Sender<Vec<String>>);

impl Journal {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    pub(crate) fn note(&self, entry: String) {
        self.0.send_modify(|entries| entries.push(entry));
    }

    pub(crate) fn take(&self) -> String {
        self.0.send_replace(Vec::new()).join("; ")
    }

    pub(crate) fn count(&self, entry: &str) -> usize {
        self.0
            .borrow()
            .iter()
            .filter(|other| *other == entry)
            .count()
    }

    /// Waits until it says exactly this, and empties it.
    pub(crate) async fn expect(&self, wanted: &str) {
        let mut watcher = self.0.subscribe();
        let reached = watcher.wait_for(|entries| entries.join("; ") == wanted);
        if tokio::time::timeout(Duration::from_hours(1), reached)
            .await
            .is_err()
        {
            assert_eq!(self.take(), wanted);
        }
        self.take();
    }
}

/// How the actor behaves.
#[derive(Clone, Default)]
pub(crate) struct Habit {
    /// How many of the next starts fail.
    pub(crate) failing_starts: Arc<AtomicU32>,
    /// How long each start takes.
    pub(crate) start_takes: Duration,
    /// It does not return from its end.
    pub(crate) deaf: bool,
    /// It panics instead of starting.
    pub(crate) panics_at_start: bool,
    /// It fails right after it was started.
    pub(crate) fails_after_start: bool,
}

pub(crate) enum Tell {
    Panic,
    Fail,
    Stop(Option<&'static str>),
    Unlink(ActorCell),
}

impl ractor::Message for Tell {}

pub(crate) struct Puppet {
    id: String,
    journal: Journal,
    habit: Habit,
}

impl Puppet {
    pub(crate) fn new(id: &str, journal: &Journal) -> Self {
        Self::with(id, journal, Habit::default())
    }

    pub(crate) fn with(id: &str, journal: &Journal, habit: Habit) -> Self {
        Self {
            id: id.to_owned(),
            journal: journal.clone(),
            habit,
        }
    }
}

impl Actor for Puppet {
    type Msg = Tell;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Tell>, (): ()) -> Result<(), ActorProcessingErr> {
        tokio::time::sleep(self.habit.start_takes).await;
        let failing = &self.habit.failing_starts;
        if failing
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            self.journal.note(format!("fail {}", self.id));
            return Err("no luck".into());
        }
        assert!(!self.habit.panics_at_start, "bad init");
        self.journal.note(format!("start {}", self.id));
        Ok(())
    }

    async fn post_start(&self, _: ActorRef<Tell>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if self.habit.fails_after_start {
            Err("stillborn".into())
        } else {
            Ok(())
        }
    }

    async fn handle(
        &self,
        myself: ActorRef<Tell>,
        tell: Tell,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match tell {
            Tell::Panic => panic!("boom"),
            Tell::Fail => return Err("boom".into()),
            Tell::Stop(reason) => myself.stop(reason.map(ToOwned::to_owned)),
            Tell::Unlink(supervisor) => myself.get_cell().unlink(supervisor),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Tell>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.journal.note(format!("stop {}", self.id));
        if self.habit.deaf {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

pub(crate) fn puppet(id: &str, journal: &Journal) -> Child {
    puppet_with(id, journal, Habit::default())
}

pub(crate) fn puppet_with(id: &str, journal: &Journal, habit: Habit) -> Child {
    let (id, journal) = (id.to_owned(), journal.clone());
    Child::worker(id.clone(), move |context| {
        let puppet = Puppet::with(&id, &journal, habit.clone());
        async move {
            Ok(Started::from(
                Actor::spawn_linked(None, puppet, (), context.supervisor).await?,
            ))
        }
    })
}

pub(crate) async fn supervise(spec: SupervisorSpec) -> SupervisorHandle {
    let (handle, _join) = Supervisor::spawn(None, spec).await.unwrap();
    handle.ready().await.unwrap();
    handle
}

pub(crate) async fn actor(supervisor: &SupervisorHandle, id: &str) -> ActorCell {
    let children = supervisor.children().await.unwrap();
    children
        .into_iter()
        .find(|child| child.spec.id.as_str() == id)
        .and_then(|child| child.actor)
        .unwrap()
}

pub(crate) async fn tell(supervisor: &SupervisorHandle, id: &str, what: Tell) {
    actor(supervisor, id).await.send_message(what).unwrap();
}

pub(crate) async fn statuses(supervisor: &SupervisorHandle) -> BTreeMap<String, ChildStatus> {
    let children = supervisor.children().await.unwrap();
    children
        .into_iter()
        .map(|child| (child.spec.id.to_string(), child.status))
        .collect()
}

/// Waits until a child has that status, at most for an hour of virtual time.
pub(crate) async fn until(supervisor: &SupervisorHandle, id: &str, status: Option<ChildStatus>) {
    let reached = async {
        while statuses(supervisor).await.get(id).copied() != status {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_hours(1), reached)
        .await
        .unwrap();
}

/// Notes every report but those of stops.
pub(crate) struct Noter(pub(crate) Journal);

impl Observer for Noter {
    fn report(&self, _: &str, report: &Report) {
        self.0.note(match report {
            Report::Started { child, .. } => format!("started {child}"),
            Report::StartFailed { child, reason, .. } => format!("start failed {child}: {reason}"),
            Report::Exited { child, reason, .. } => format!("exited {child}: {reason}"),
            Report::Restarting { child, .. } => format!("restarting {child}"),
            Report::LimitExceeded { child, .. } => format!("limit {child}"),
            Report::Overdue { child, .. } => format!("overdue {child}"),
            Report::Stopped { child, reason, .. } => format!("stopped {child}: {reason}"),
            Report::Ended(end) => format!("ended: {end}"),
        });
    }
}
