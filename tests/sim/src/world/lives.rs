//! Lives of meshd: their start, their end in order or by kill -9, and what of the log the next one finds.

use mesh_actors_core::agent::AgentState;
use mesh_actors_core::task::Tasks;

use super::{Event, World};
use crate::checkers::{Verdict, ensure};
use crate::replica::Replica;

/// How long it takes until somebody starts meshd again.
const START_AGAIN: (u64, u64) = (50, 3000);

impl World {
    /// meshd is started.
    pub(crate) fn start(&mut self) -> Verdict {
        if self.tree.root.is_some() {
            return Ok(());
        }
        self.lives += 1;
        self.trace
            .note(self.now, format_args!("life {} begins", self.lives));
        self.plant()
    }

    /// The tree has come to its end: so has meshd, and it is started again.
    pub(crate) fn meshd_ends(&mut self) -> Verdict {
        if self.tree.root.is_none() {
            return Ok(());
        }
        self.edges.hit("life", "meshd ends by itself");
        // What was appended is written before it leaves; what it could not sync may be lost.
        let lucky = if self.log.failed {
            self.random.index(self.log.waiting() + 1)
        } else {
            self.log.waiting()
        };
        self.dies(lucky)
    }

    /// kill -9: what was written stays, what was not is gone.
    pub(crate) fn kill_9(&mut self) -> Verdict {
        self.edges.hit("life", "kill -9");
        let lucky = self.random.index(self.log.waiting() + 1);
        self.dies(lucky)
    }

    /// The machine loses its power: only what was synced is left.
    pub(crate) fn power_cut(&mut self) -> Verdict {
        self.edges.hit("life", "power cut");
        self.dies(0)
    }

    fn dies(&mut self, lucky: usize) -> Verdict {
        let lost = self.reopen(lucky);
        self.trace.note(
            self.now,
            format_args!("life {} ends, {lost} groups lost", self.lives),
        );
        if lost > 0 {
            self.edges.hit("life", "what was not synced is lost");
        }
        self.tree = super::Tree::default();
        self.wanted_agents.clear();
        (self.complete, self.journal_up) = (false, false);
        (self.orchestrator, self.sentinel, self.registry) = (None, None, None);
        self.processes.clear();
        for seat in &mut self.seats {
            seat.forget();
        }
        self.queue.retain(Event::is_outside);
        self.follow()?;
        if self.random.percent(10) {
            self.replay_everything()?;
        }
        let after = self.random.between(START_AGAIN.0, START_AGAIN.1);
        self.queue.at(self.now + after, Event::Start);
        Ok(())
    }

    /// Folds the whole log anew, and compares it with what was folded on the way.
    pub(crate) fn replay_everything(&mut self) -> Verdict {
        const PROMISE: &str = "replay equals what is in memory";
        let mut anew = Replica::default();
        for record in &self.log.records[..self.log.durable] {
            anew.fold(record)?;
        }
        let nobody = AgentState::default();
        for agent in 0..self.seats.len() {
            let then = self.replica.agents.get(&agent).unwrap_or(&nobody);
            let now = anew.agents.get(&agent).unwrap_or(&nobody);
            ensure(then == now, PROMISE, || format!("agent {agent}"))?;
        }
        ensure(anew.sentinel == self.replica.sentinel, PROMISE, || {
            "tokens".to_owned()
        })?;
        ensure(anew.registry == self.replica.registry, PROMISE, || {
            "registry".to_owned()
        })?;
        // The other one has forgotten what had ended. What is left has to be the same.
        let mut then = self.replica.tasks.clone();
        anew.tasks.evict(anew.tasks.applied());
        then.evict(then.applied());
        let ids = |tasks: &Tasks| tasks.ids().cloned().collect::<Vec<_>>();
        ensure(ids(&anew.tasks) == ids(&then), PROMISE, || {
            "which tasks have not ended".to_owned()
        })?;
        for id in then.ids() {
            ensure(anew.tasks.record(id) == then.record(id), PROMISE, || {
                format!("task {id}")
            })?;
        }
        // A snapshot holds all of it.
        let stored = serde_json::to_vec(&then).unwrap_or_default();
        let read = serde_json::from_slice(&stored).ok();
        ensure(
            read.as_ref() == Some(&then),
            "a snapshot holds everything",
            || "tasks".to_owned(),
        )
    }
}
