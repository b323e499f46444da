//! Who waits for the end of which task.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, mpsc};

use mesh_messages::TaskId;
use mesh_messages::task::Task;

/// Ends that a listener to all of them may lag behind before it has to look for itself.
const ENDS_KEPT: usize = 4096;

/// Who waits, by task, so that an end costs what its own waiters cost, however many others there are. As large as the
/// requests that wait, which the edge bounds.
#[derive(Debug)]
pub(super) struct Waiters {
    by_task: Mutex<BTreeMap<TaskId, Vec<Waiter>>>,
    next: AtomicU64,
    all: broadcast::Sender<TaskId>,
}

impl Default for Waiters {
    fn default() -> Self {
        Self {
            by_task: Mutex::default(),
            next: AtomicU64::new(0),
            all: broadcast::Sender::new(ENDS_KEPT),
        }
    }
}

#[derive(Debug)]
struct Waiter {
    no: u64,
    ends: mpsc::UnboundedSender<End>,
}

/// The end of a task, and how it looked then; `None` where only the read side can show it by now.
pub type End = (TaskId, Option<Task>);

impl Waiters {
    /// Begins to listen for the ends of tasks; what ended before is not heard.
    pub(super) fn watch<'a>(
        self: &Arc<Self>,
        tasks: impl IntoIterator<Item = &'a TaskId>,
    ) -> EndWatch {
        let (sender, ends) = mpsc::unbounded_channel();
        let watch = EndWatch {
            waiters: Arc::clone(self),
            no: self.next.fetch_add(1, Ordering::Relaxed),
            sender,
            ends,
            tasks: Vec::new(),
        };
        watch.with(tasks)
    }

    /// A task has ended, durably. `view` shows it, if anybody wants to see it.
    pub(super) fn ended(&self, task: &TaskId, view: impl FnOnce() -> Option<Task>) {
        let _nobody_listens = self.all.send(task.clone());
        let Some(waiters) = self.lock().remove(task) else {
            return;
        };
        let view = view();
        for waiter in waiters {
            let _gone = waiter.ends.send((task.clone(), view.clone()));
        }
    }

    /// Hears of every end from now on.
    pub(super) fn all(&self) -> broadcast::Receiver<TaskId> {
        self.all.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Vec<Waiter>>> {
        self.by_task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of the ends of some tasks, once each.
#[derive(Debug)]
pub struct EndWatch {
    waiters: Arc<Waiters>,
    no: u64,
    sender: mpsc::UnboundedSender<End>,
    // Not bounded by itself: an end for each task that is listened for.
    ends: mpsc::UnboundedReceiver<End>,
    tasks: Vec<TaskId>,
}

impl EndWatch {
    /// Listens for these, too, or again: a task that is given another round can end once more.
    #[must_use]
    pub fn with<'a>(mut self, tasks: impl IntoIterator<Item = &'a TaskId>) -> Self {
        let mut by_task = self.waiters.lock();
        for task in tasks {
            let waiters = by_task.entry(task.clone()).or_default();
            if waiters.iter().all(|waiter| waiter.no != self.no) {
                waiters.push(Waiter {
                    no: self.no,
                    ends: self.sender.clone(),
                });
                self.tasks.push(task.clone());
            }
        }
        drop(by_task);
        self
    }

    /// The next end.
    pub async fn next(&mut self) -> End {
        match self.ends.recv().await {
            Some(end) => end,
            // `self` holds a sender.
            None => std::future::pending().await,
        }
    }
}

impl Drop for EndWatch {
    fn drop(&mut self) {
        let mut by_task = self.waiters.lock();
        for task in &self.tasks {
            if let Some(waiters) = by_task.get_mut(task) {
                waiters.retain(|waiter| waiter.no != self.no);
                if waiters.is_empty() {
                    by_task.remove(task);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TaskId {
        TaskId::new(text).unwrap()
    }

    fn task(text: &str) -> Task {
        serde_json::from_value(serde_json::json!({
            "id": text, "state": "succeeded", "attempts": [], "submittedBy": "user:a",
            "submittedAt": "2026-01-01T00:00:00Z", "deadlineAt": "2026-01-02T00:00:00Z",
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn an_end_reaches_everybody_who_waits_for_it_and_nobody_else() {
        let waiters = Arc::new(Waiters::default());
        let mut first = waiters.watch([&id("a"), &id("b")]);
        let mut second = waiters.watch([&id("a")]);
        let mut third = waiters.watch([&id("c")]);
        waiters.ended(&id("a"), || Some(task("a")));
        assert_eq!(first.next().await, (id("a"), Some(task("a"))));
        assert_eq!(second.next().await, (id("a"), Some(task("a"))));
        assert!(third.ends.try_recv().is_err());
        // Heard once, and again when asked for again.
        waiters.ended(&id("a"), || unreachable!("nobody waits for it any more"));
        let mut first = first.with([&id("a")]);
        // What is forgotten here by then is told all the same.
        waiters.ended(&id("a"), || None);
        assert_eq!(first.next().await, (id("a"), None));
    }

    #[test]
    fn who_is_gone_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::default());
        let first = waiters.watch([&id("a"), &id("b"), &id("a")]);
        let second = waiters.watch([&id("a")]);
        drop(first);
        assert_eq!(waiters.lock().len(), 1);
        drop(second);
        assert!(waiters.lock().is_empty());
    }
}
