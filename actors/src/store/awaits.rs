//! Who waits for which position of the journal: one task tells all of them, each only when its own is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use mesh_messages::Position;
use mesh_persistence::{Durability, Journal};

use super::JournalNews;

type Tell = Arc<dyn Fn(JournalNews) + Send + Sync>;

/// All who wait for positions of one journal.
#[derive(Debug, Default)]
pub(super) struct Awaits(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    durable: Option<Position>,
    // Why nothing becomes durable any more.
    over: Option<String>,
    last: u64,
    // Whom to tell, and what they wait for.
    followers: BTreeMap<u64, (Tell, Option<Position>)>,
    // The same, by position.
    due: BTreeSet<(Position, u64)>,
    follows: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("durable", &self.durable)
            .field("over", &self.over)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

/// One who is told. Dropping it ends that.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    no: u64,
}

impl Follower {
    /// Tells it when this position is durable, at once if it is already; instead of any that it waited for before.
    pub fn wait_for(&self, position: Option<Position>) {
        let mut inner = self.shared.lock();
        let durable = inner.durable;
        let Some((tell, wanted)) = inner.followers.get_mut(&self.no) else {
            return;
        };
        if *wanted == position {
            return;
        }
        let is_there = position.is_some() && durable >= position;
        let before = std::mem::replace(wanted, position.filter(|_| !is_there));
        let tell = Arc::clone(tell);
        if let Some(before) = before {
            inner.due.remove(&(before, self.no));
        }
        if let Some(position) = position.filter(|_| !is_there) {
            inner.due.insert((position, self.no));
        }
        drop(inner);
        if let Some(durable) = durable.filter(|_| is_there) {
            tell(JournalNews::Durable(durable));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        if let Some((_, Some(position))) = inner.followers.remove(&self.no) {
            inner.due.remove(&(position, self.no));
        }
    }
}

impl Awaits {
    /// One more. The first one has the journal followed, until it fails or is closed.
    pub(super) fn follow(
        &self,
        journal: &dyn Journal,
        closing: watch::Receiver<bool>,
        tell: Tell,
    ) -> Follower {
        let mut inner = self.0.lock();
        inner.last += 1;
        let no = inner.last;
        inner.followers.insert(no, (Arc::clone(&tell), None));
        if !std::mem::replace(&mut inner.follows, true) {
            let durable = journal.durable();
            inner.durable = durable.borrow().upto;
            ractor::concurrency::spawn(follow(Arc::clone(&self.0), durable, closing));
        }
        let over = inner.over.clone();
        drop(inner);
        if let Some(why) = over {
            tell(JournalNews::Failed(why));
        }
        Follower {
            shared: Arc::clone(&self.0),
            no,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nobody is told anything under it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable_up_to(&self, position: Position) {
        let mut told = Vec::new();
        let mut inner = self.lock();
        inner.durable = Some(position);
        while inner.due.first().is_some_and(|(due, _)| *due <= position) {
            let Some((_, no)) = inner.due.pop_first() else {
                break;
            };
            if let Some((tell, wanted)) = inner.followers.get_mut(&no) {
                *wanted = None;
                told.push(Arc::clone(tell));
            }
        }
        drop(inner);
        for tell in told {
            tell(JournalNews::Durable(position));
        }
    }

    fn over(&self, why: &str) {
        let mut inner = self.lock();
        inner.over = Some(why.to_owned());
        let followers = inner.followers.values();
        let all: Vec<_> = followers.map(|(tell, _)| Arc::clone(tell)).collect();
        drop(inner);
        for tell in all {
            tell(JournalNews::Failed(why.to_owned()));
        }
    }
}

/// Does not hold the journal, which is opened again only when nobody has it.
async fn follow(
    shared: Arc<Shared>,
    mut durable: watch::Receiver<Durability>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let Durability { upto, failed } = durable.borrow_and_update().clone();
        if let Some(failed) = failed {
            return shared.over(&failed.reason);
        }
        if let Some(position) = upto {
            shared.durable_up_to(position);
        }
        let more = tokio::select! {
            more = durable.changed() => more.is_ok(),
            closed = closing.wait_for(|closing| *closing) => {
                drop(closed);
                false
            }
        };
        if !more {
            return shared.over("it was closed");
        }
    }
}
