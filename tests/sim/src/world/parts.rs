//! Owning a partition of the log: decide, append, apply, and perform when it is on the disk.

use std::collections::VecDeque;

use mesh_messages::{AgentId, RecordHeader, TaskId};
use mesh_supervision_core::supervisor::ExitReason;

use super::forest::Part;
use super::tree::{NodeId, Tried};
use super::{Event, World};
use crate::checkers::{Verdict, breach, ensure};
use crate::journal::{Storable, partition_of};

/// How often a part that starts looks whether its partition is on the disk.
const LOOK_AGAIN: u64 = 2;

/// A partition in the hands of its owner, and what follows from its last events when they are durable.
#[derive(Debug)]
pub(crate) struct Owned<S, E> {
    pub(crate) state: S,
    next_seq: u64,
    /// How many records lie before the end of the partition's last one.
    last: usize,
    pending: VecDeque<(usize, Vec<E>)>,
}

impl<S, E> Owned<S, E> {
    fn new(state: S, next_seq: u64) -> Self {
        Self {
            state,
            next_seq,
            last: 0,
            pending: VecDeque::new(),
        }
    }

    /// Effects that wait for what was appended before.
    pub(crate) fn after_last(&mut self, effects: Vec<E>) {
        if !effects.is_empty() {
            self.pending.push_back((self.last, effects));
        }
    }

    /// What may be done now.
    pub(crate) fn released(&mut self, durable: usize) -> Vec<E> {
        let mut out = Vec::new();
        while self.pending.front().is_some_and(|(at, _)| *at <= durable) {
            if let Some((_, effects)) = self.pending.pop_front() {
                out.extend(effects);
            }
        }
        out
    }

    /// How many records the log had after the partition's last one.
    pub(crate) const fn last(&self) -> usize {
        self.last
    }

    /// How many groups of effects wait.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }
}

/// Whether an owner is still there after an append.
pub(crate) type Kept = Result<Option<Vec<RecordHeader>>, crate::Breach>;

impl World {
    /// A part's actor is started.
    pub(crate) fn part_starts(&mut self, part: Part, node: NodeId) {
        let after = match part {
            Part::Journal => 1,
            _ => self.random.between(0, 5),
        };
        self.queue.at(self.now + after, Event::Load { part, node });
    }

    /// A part opens its partition, when all that was appended to it is on the disk.
    pub(crate) fn load(&mut self, part: Part, node: NodeId) -> Verdict {
        if self.tree.parts.get(&part) != Some(&node) {
            return Ok(());
        }
        if part == Part::Journal {
            if self.log.failed {
                let lucky = self.random.index(self.log.waiting() + 1);
                let lost = self.reopen(lucky);
                self.trace.note(
                    self.now,
                    format_args!("journal opened again, {lost} groups lost"),
                );
                self.follow()?;
            }
            self.journal_up = true;
            self.tried(node, Tried::Up);
            return Ok(());
        }
        if self.log.failed || !self.journal_up {
            self.tried(node, Tried::Failed);
            return Ok(());
        }
        if !self.log.is_settled(part) {
            let at = self.now + LOOK_AGAIN;
            self.queue.at(at, Event::Load { part, node });
            return Ok(());
        }
        self.trace.note(self.now, format_args!("{part:?} is up"));
        self.tried(node, Tried::Up);
        match part {
            Part::Journal => Ok(()),
            Part::Sentinel => {
                self.sentinel_up();
                Ok(())
            }
            Part::Registry => {
                self.registry_up();
                Ok(())
            }
            Part::Orchestrator => self.orchestrator_up(),
            Part::Agent(agent) => self.agent_up(agent),
        }
    }

    /// Opens the log again, with so many of the groups that were not synced.
    pub(crate) fn reopen(&mut self, lucky: usize) -> usize {
        let lost = self.log.reopen(lucky);
        for seat in &mut self.seats {
            seat.lose(self.log.durable);
        }
        lost
    }

    /// A partition as its next owner finds it: folded from the stored bytes.
    pub(crate) fn owned<S, E>(&self, part: Part, state: S) -> Owned<S, E> {
        let mut owned = Owned::new(state, self.log.next_seq(part));
        owned.last = self.log.durable;
        owned
    }

    /// Appends events of a part. `None` when the log takes no more: then the part has ended, with all that it had in
    /// memory, and hears nothing any more.
    pub(crate) fn append<S, E, V: Storable>(
        &mut self,
        part: Part,
        owned: &mut Owned<S, E>,
        events: &[(V, Option<AgentId>, Option<TaskId>)],
    ) -> Kept {
        let now = self.wall();
        let partition = partition_of(part, &self.ids);
        match self
            .log
            .append((part, &partition), owned.next_seq, now, events)
        {
            Ok(headers) => {
                owned.next_seq += headers.len() as u64;
                owned.last = self.log.records.len();
                self.sync_soon();
                Ok(Some(headers))
            }
            Err(crate::journal::AppendRefusal::Failed) => {
                self.part_fails(part)?;
                Ok(None)
            }
            Err(crate::journal::AppendRefusal::Fenced) => {
                breach(
                    "one owner for each partition",
                    format!("{part:?} was fenced"),
                )?;
                Ok(None)
            }
        }
    }

    fn sync_soon(&mut self) {
        if let Some(opened) = self.log.begin_sync() {
            let takes = if self.random.percent(5) {
                self.random.between(20, 200)
            } else {
                self.random.between(1, 6)
            };
            self.queue.at(self.now + takes, Event::Synced { opened });
        }
    }

    /// A sync is over: whatever waited for it is done.
    pub(crate) fn synced(&mut self, opened: u64) -> Verdict {
        if opened != self.log.opened || !self.journal_up {
            return Ok(());
        }
        let ok = !std::mem::take(&mut self.clients.next_sync_fails);
        self.log.end_sync(ok);
        if !ok {
            self.trace.note(self.now, format_args!("a sync failed"));
            // The owner of the log ends, and so do the owners of partitions, each when it hears of it.
            for (part, node) in self.tree.parts.clone() {
                let after = u64::from(part != Part::Journal);
                let reason = ExitReason::Failed("the journal failed".to_owned());
                let at = self.now + after + self.random.between(0, 2);
                self.queue.at(at, Event::Exit { node, reason });
            }
            return Ok(());
        }
        self.follow()?;
        self.sync_soon();
        self.release_all()
    }

    /// The second reader takes in what is on the disk.
    pub(crate) fn follow(&mut self) -> Verdict {
        while self.replica.next < self.log.durable {
            let Some(record) = self.log.records.get(self.replica.next) else {
                return Ok(());
            };
            self.ledger.durable_record(record, &mut self.uncounted)?;
            self.replica.fold(record)?;
        }
        Ok(())
    }

    fn release_all(&mut self) -> Verdict {
        for agent in 0..self.seats.len() {
            self.release_agent(agent)?;
        }
        self.release_orchestrator()?;
        self.release_sentinel();
        self.release_registry();
        Ok(())
    }

    /// A part cannot go on.
    fn part_fails(&mut self, part: Part) -> Verdict {
        let Some(node) = self.tree.parts.get(&part).copied() else {
            return Ok(());
        };
        self.exit(node, ExitReason::Failed("it cannot append".to_owned()))
    }

    /// A part's actor is gone, with all that it had in memory.
    pub(crate) fn part_is_gone(&mut self, part: Part) {
        self.trace.note(self.now, format_args!("{part:?} is gone"));
        match part {
            Part::Journal => self.journal_up = false,
            Part::Sentinel => self.sentinel = None,
            Part::Registry => self.registry = None,
            Part::Orchestrator => self.orchestrator = None,
            Part::Agent(agent) => self.agent_gone(agent),
        }
    }

    /// Where everything that was appended is on the disk, memory and log say the same.
    pub(crate) fn compare_with_replica(&mut self) -> Verdict {
        const PROMISE: &str = "replay equals what is in memory";
        let durable = self.log.durable;
        if let Some(orchestrator) = &mut self.orchestrator
            && orchestrator.owned.last() <= durable
        {
            let (tasks, replica) = (&mut orchestrator.owned.state, &mut self.replica.tasks);
            ensure(tasks == replica, PROMISE, || "tasks".to_owned())?;
            // The read side shows all that has ended, so it can be forgotten.
            tasks.evict(tasks.applied());
            replica.evict(replica.applied());
        }
        if let Some(sentinel) = &self.sentinel
            && sentinel.owned.last() <= durable
        {
            let same = sentinel.owned.state == self.replica.sentinel;
            ensure(same, PROMISE, || "tokens".to_owned())?;
        }
        if let Some(registry) = &self.registry
            && registry.owned.last() <= durable
        {
            let same = registry.owned.state == self.replica.registry;
            ensure(same, PROMISE, || "registry".to_owned())?;
        }
        for (agent, seat) in self.seats.iter().enumerate() {
            let Some(shell) = &seat.shell else { continue };
            if shell.owned.last() > durable {
                continue;
            }
            let stored = self.replica.agents.get(&agent);
            let same = stored.map_or(shell.owned.state.records == 0, |stored| {
                *stored == shell.owned.state
            });
            ensure(same, PROMISE, || {
                format!("agent {agent}: {:?}\nstored {stored:?}", shell.owned.state)
            })?;
        }
        Ok(())
    }
}
