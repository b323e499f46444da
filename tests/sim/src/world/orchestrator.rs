//! The task machine's actor: the real machine, and what its effects do.

mod answers;

use std::collections::BTreeMap;

use mesh_actors_core::routing::InstanceKey;
use mesh_actors_core::task::{
    Answer, AttemptRef, Command, Context, Effect, FleetChange, FleetNews, Live, Refusal, Tasks,
};
use mesh_messages::events::TaskEvent;
use mesh_messages::{AttemptNo, Epoch, Failure, TaskId, Timestamp};

use super::forest::Part;
use super::parts::Owned;
use super::{Event, World};
use crate::checkers::{Verdict, breach, ensure};

const FENCE: &str = "results of superseded attempts are refused";
const WAITS: &str = "nothing waits without a deadline: tasks";

/// What the task machine's actor is told.
#[derive(Debug)]
pub(crate) enum ToOrchestrator {
    /// An agent is like this now.
    Fleet { agent: usize, change: FleetChange },
    /// All agents have been announced.
    Complete(FleetChange),
    /// A command, and who waits for its answer.
    Command {
        command: Box<Command>,
        reply: Option<Reply>,
    },
    /// Take in the news that were put aside.
    Backlog,
}

/// News of an agent, if it is one that is known here.
type News = (Option<usize>, FleetNews);

/// Who waits for an answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Report(usize, Epoch, u64),
    Delegation(usize, Epoch, TaskId, AttemptNo),
    /// A client, with the keys of what it submitted.
    Client(Vec<Option<String>>),
    /// Whoever reported for a process that never had the attempt.
    Alone(usize, AttemptRef),
}

#[derive(Debug)]
pub(crate) enum Released {
    Effect(Box<Effect>),
    Answer(Answer, Reply),
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Orchestrator {
    pub(crate) owned: Owned<Tasks, Released>,
    pub(crate) live: Live,
    actor: u64,
    armed: Option<(Timestamp, u64)>,
    /// Which actor each agent had when it was looked at last.
    agents: BTreeMap<usize, u64>,
    /// News that came while there were many.
    aside: Vec<News>,
}

#[cfg(test)]
impl Orchestrator {
    /// A timer that was not armed.
    pub(crate) fn forget_timer(&mut self) {
        self.armed = None;
    }
}

impl World {
    /// Sends the task machine a message.
    pub(crate) fn send_orchestrator(&mut self, lane: u64, message: ToOrchestrator) {
        let at = self.now + self.random.between(0, 3);
        let lane = (lane, 3 << 40);
        self.queue
            .in_lane(lane, at, Event::Orchestrator { message });
    }

    pub(crate) fn tell_orchestrator(&mut self, command: Command) {
        let message = ToOrchestrator::Command {
            command: Box::new(command),
            reply: None,
        };
        self.send_orchestrator(1001, message);
    }

    /// Reports the end of an attempt that no process has seen.
    pub(crate) fn report_alone(&mut self, key: InstanceKey, attempt: AttemptRef, failure: Failure) {
        let agent = self.ids.iter().position(|id| *id == key.0).unwrap_or(0);
        let message = ToOrchestrator::Command {
            command: Box::new(Command::AttemptEnded {
                attempt: attempt.clone(),
                key: Some(key),
                result: Err(failure),
            }),
            reply: Some(Reply::Alone(agent, attempt)),
        };
        self.send_orchestrator(agent as u64, message);
    }

    /// The task machine's actor has its partition, and takes stock of what is in whose hands.
    pub(crate) fn orchestrator_up(&mut self) -> Verdict {
        let state = self.replica.tasks.clone();
        let archive = &self.replica.archive;
        self.ledger.reloaded(|id| {
            let held = state.get(id).map(|task| task.state);
            held.or_else(|| archive.get(id).map(|record| record.task.state))
        })?;
        let owned = self.owned(Part::Orchestrator, state);
        self.actors += 1;
        self.orchestrator = Some(Orchestrator {
            owned,
            live: Live::default(),
            actor: self.actors,
            armed: None,
            agents: self
                .seats
                .iter()
                .enumerate()
                .map(|(agent, seat)| (agent, seat.actor_no))
                .collect(),
            aside: Vec::new(),
        });
        let present = (0..self.seats.len())
            .flat_map(|agent| self.in_hand(agent))
            .collect();
        self.run(
            Command::Reconcile {
                agent: None,
                present,
            },
            None,
        )?;
        for agent in 0..self.seats.len() {
            let seat = &self.seats[agent];
            if seat.published.records == 0 {
                continue;
            }
            let change = FleetChange::Agent(seat.id.clone(), Box::new(seat.fleet()));
            self.run(Command::Fleet(change), None)?;
        }
        if self.complete {
            self.run(Command::Fleet(FleetChange::Complete), None)?;
        }
        Ok(())
    }

    fn in_hand(&self, agent: usize) -> Vec<(InstanceKey, TaskId, AttemptNo)> {
        let seat = &self.seats[agent];
        let no_of = |epoch: &Epoch| {
            let live = seat.live.iter().find(|(_, live)| *live == epoch);
            live.map(|(no, _)| *no)
        };
        seat.open
            .iter()
            .filter_map(|(epoch, task, attempt)| {
                let key = (seat.id.clone(), no_of(epoch)?, *epoch);
                Some((key, task.clone(), *attempt))
            })
            .collect()
    }

    /// A message arrives at the task machine's actor; nobody hears it when there is none.
    pub(crate) fn orchestrator_hears(&mut self, message: ToOrchestrator) -> Verdict {
        if self.orchestrator.is_none() {
            return Ok(());
        }
        match message {
            ToOrchestrator::Fleet { agent, change } => {
                self.hears_news((Some(agent), FleetNews::Changed(change)))
            }
            ToOrchestrator::Complete(change) => self.hears_news((None, FleetNews::Changed(change))),
            ToOrchestrator::Command { command, reply } => match *command {
                Command::InstanceDown { key, failure } => {
                    self.hears_news((None, FleetNews::Down { key, failure }))
                }
                command => self.run(command, reply),
            },
            ToOrchestrator::Backlog => {
                let orchestrator = self.orchestrator.as_mut();
                let aside = orchestrator.map(|o| std::mem::take(&mut o.aside));
                self.take_in(aside.unwrap_or_default())
            }
        }
    }

    /// News are taken in at once, or behind whatever else has come, together.
    fn hears_news(&mut self, news: News) -> Verdict {
        let many = self.random.percent(30);
        let later = self.now + self.random.between(0, 20);
        let Some(orchestrator) = &mut self.orchestrator else {
            return Ok(());
        };
        if orchestrator.aside.is_empty() && !many {
            return self.take_in(vec![news]);
        }
        if orchestrator.aside.is_empty() {
            let message = ToOrchestrator::Backlog;
            self.queue.at(later, Event::Orchestrator { message });
        }
        orchestrator.aside.push(news);
        Ok(())
    }

    fn take_in(&mut self, news: Vec<News>) -> Verdict {
        let mut batch = Vec::new();
        for (agent, news) in news {
            let Some(orchestrator) = &mut self.orchestrator else {
                return Ok(());
            };
            if let Some(agent) = agent {
                let no = self.seats[agent].actor_no;
                if orchestrator.agents.insert(agent, no) != Some(no) {
                    self.decide_on(std::mem::take(&mut batch))?;
                    // What the one before had in hand is lost, before the new one's instances are known.
                    let present = self.in_hand(agent).into_iter().collect();
                    let agent = Some(self.seats[agent].id.clone());
                    self.run(Command::Reconcile { agent, present }, None)?;
                }
            }
            batch.push(news);
        }
        self.decide_on(batch)
    }

    fn decide_on(&mut self, batch: Vec<FleetNews>) -> Verdict {
        if batch.is_empty() {
            return Ok(());
        }
        self.run(Command::News(batch), None)
    }

    pub(crate) fn due(&mut self, actor: u64, armed: u64) -> Verdict {
        let Some(orchestrator) = &mut self.orchestrator else {
            return Ok(());
        };
        if orchestrator.actor != actor || orchestrator.armed.is_none_or(|(_, no)| no != armed) {
            return Ok(());
        }
        orchestrator.armed = None;
        self.run(Command::Tick, None)
    }

    /// Decides on a command, commits, and checks what was decided.
    pub(crate) fn run(&mut self, command: Command, mut reply: Option<Reply>) -> Verdict {
        let mut next = Some(command);
        while let Some(command) = next.take() {
            let repeat = matches!(command, Command::Recover | Command::Reconcile { .. })
                .then(|| command.clone());
            let Some(mut orchestrator) = self.orchestrator.take() else {
                return Ok(());
            };
            let known = self
                .replica
                .known(orchestrator.owned.state.lookups(&command));
            let context = Context {
                now: self.wall(),
                random: self.random.bits(),
                config: &self.clients.config,
                known: &known,
            };
            let told = said(&command);
            let (name, applied) = (command.name(), orchestrator.owned.state.applied());
            let decided = orchestrator
                .owned
                .state
                .decide(&mut orchestrator.live, command, context);
            self.check_fence(name, told, &decided)?;
            let decision = match decided {
                Ok(decision) => decision,
                Err(refusal) => {
                    let same = orchestrator.owned.state.applied() == applied;
                    self.orchestrator = Some(orchestrator);
                    ensure(same, "bad input changes nothing", || {
                        format!("{name} was refused ({refusal}) and changed something")
                    })?;
                    self.trace
                        .note(self.now, format_args!("tasks <- {name} refused: {refusal}"));
                    self.refused(reply.take(), &refusal);
                    return Ok(());
                }
            };
            self.trace.note(
                self.now,
                format_args!("tasks <- {name}: {} events", decision.events.len()),
            );
            for (id, event) in &decision.events {
                self.trace
                    .note(self.now, format_args!("  {id} {}", event.kind()));
                self.ledger.decided.fold(id, event, &mut self.edges)?;
            }
            self.check_handed_out(&orchestrator, &decision.events)?;
            let events: Vec<_> = decision
                .events
                .into_iter()
                .map(|(id, event)| (event, None, Some(id)))
                .chain(decision.trust.into_iter().map(|trusting| {
                    let agent = trusting.change.agent.clone();
                    (
                        TaskEvent::Trust(Box::new(trusting.change)),
                        Some(agent),
                        None,
                    )
                }))
                .chain(
                    decision
                        .accounts
                        .into_iter()
                        .map(|event| (event, None, None)),
                )
                .collect();
            if !events.is_empty()
                && self
                    .append(Part::Orchestrator, &mut orchestrator.owned, &events)?
                    .is_none()
            {
                // What is in memory is ahead of the log, and goes with its owner.
                return Ok(());
            }
            let mut effects: Vec<_> = decision
                .effects
                .into_iter()
                .map(|effect| Released::Effect(Box::new(effect)))
                .collect();
            if let Some(reply) = reply.take() {
                effects.push(Released::Answer(decision.answer, reply));
            }
            orchestrator.owned.after_last(effects);
            let actor = orchestrator.actor;
            let due = orchestrator.owned.state.next_timer();
            if orchestrator.armed.map(|(at, _)| at) != due {
                self.actors += 1;
                orchestrator.armed = due.map(|at| (at, self.actors));
                if let Some(at) = due {
                    let armed = self.actors;
                    let moment = self.moment(at);
                    self.queue.at(moment, Event::Due { actor, armed });
                }
            }
            self.orchestrator = Some(orchestrator);
            if decision.more {
                next = Some(repeat.unwrap_or(Command::Tick));
            }
        }
        self.release_orchestrator()
    }

    /// Whoever speaks for an attempt that is over is not heard.
    fn check_fence(
        &mut self,
        name: &str,
        told: Option<(AttemptRef, Option<InstanceKey>)>,
        decided: &Result<mesh_actors_core::task::Decision, Refusal>,
    ) -> Verdict {
        let Some((attempt, key)) = told else {
            return Ok(());
        };
        let decided_book = &self.ledger.decided;
        let current = match &key {
            Some(key) => {
                key.2 == attempt.epoch
                    && decided_book.is_current(&attempt.task, attempt.attempt, key)
            }
            // From outside: whoever knows the attempt's number and epoch may say what became of it.
            None => decided_book
                .holder(&attempt.task, attempt.attempt)
                .is_some_and(|holder| holder.2 == attempt.epoch),
        };
        let context = || format!("{name} of {attempt:?} by {key:?}");
        if current {
            self.edges.hit("report", "of the attempt under way: taken");
            return ensure(decided.is_ok(), "a report is taken", || {
                format!("{}: {decided:?}", context())
            });
        }
        match decided {
            Err(Refusal::Stale(_)) => {
                self.edges.hit("report", "stale: refused");
                Ok(())
            }
            Ok(decision) if decision.answer == Answer::Dropped => {
                self.edges
                    .hit("report", "of what was to be dropped: slot freed");
                Ok(())
            }
            Ok(decision) if decision.answer == Answer::Stale => {
                self.edges.hit("report", "a stale start: told to drop it");
                Ok(())
            }
            Ok(decision) => {
                let touched = decision.events.iter().find(|(id, event)| {
                    *id == attempt.task
                        && matches!(
                            event,
                            TaskEvent::Succeeded { .. }
                                | TaskEvent::AttemptFailed { .. }
                                | TaskEvent::Started { .. }
                        )
                });
                breach(FENCE, format!("{} led to {touched:?}", context()))
            }
            Err(other) => breach(FENCE, format!("{} got {other}", context())),
        }
    }

    fn check_handed_out(
        &self,
        orchestrator: &Orchestrator,
        events: &[(TaskId, TaskEvent)],
    ) -> Verdict {
        for (id, event) in events {
            let TaskEvent::Assigned { assignment, .. } = event else {
                continue;
            };
            let holder = (
                assignment.agent_id.clone(),
                assignment.instance,
                assignment.epoch,
            );
            let agent = orchestrator.live.fleet().agent(&assignment.agent_id);
            let instance = agent.and_then(|a| a.instances.get(&assignment.instance));
            let slots = instance.map_or(0, |i| i.concurrency);
            self.ledger.decided.check_slots(
                &holder,
                slots,
                self.clients.config.max_parallel_tasks,
            )?;
            let open = instance.is_some_and(|i| i.closed.is_none() && i.epoch == assignment.epoch);
            ensure(open, FENCE, || {
                format!("{id} was handed to {holder:?}, which takes nothing: {agent:?}")
            })?;
        }
        Ok(())
    }

    /// Every task that has not ended waits for something that comes.
    pub(crate) fn audit_tasks(&mut self) -> Verdict {
        let Some(orchestrator) = &self.orchestrator else {
            return Ok(());
        };
        let tasks = &orchestrator.owned.state;
        let armed = orchestrator.armed.map(|(at, _)| at);
        ensure(tasks.next_timer() == armed, WAITS, || {
            format!("due is {:?}, armed {armed:?}", tasks.next_timer())
        })?;
        ensure(
            orchestrator.owned.waiting() < 5000,
            "every queue is bounded: effects that wait for the disk",
            || format!("{} of the task machine", orchestrator.owned.waiting()),
        )?;
        let known = mesh_actors_core::task::Known::default();
        let context = Context {
            now: self.wall(),
            random: 0,
            config: &self.clients.config,
            known: &known,
        };
        // A few at a time: all are looked at in the end.
        let ids: Vec<_> = tasks.ids().collect();
        for _ in 0..4.min(ids.len()) {
            let Some(id) = self.random.pick(&ids) else {
                continue;
            };
            let Some(task) = tasks.view(&orchestrator.live, context, id) else {
                continue;
            };
            if task.state.is_terminal() {
                continue;
            }
            let first = tasks.next_timer();
            ensure(
                first.is_some_and(|at| at <= task.deadline_at),
                WAITS,
                || {
                    format!(
                        "{id} is to end by {}, and the next timer is {first:?}",
                        task.deadline_at
                    )
                },
            )?;
            if task.state.is_in_flight() {
                let at = task.attempts.last();
                ensure(at.is_some(), WAITS, || format!("{id} is in flight nowhere"))?;
            } else {
                ensure(task.waiting_for.is_some(), WAITS, || {
                    format!("{id} is {} for no reason", task.state)
                })?;
            }
        }
        Ok(())
    }

    /// Whether all tasks have ended and all of that is on the disk.
    pub(crate) fn is_over(&self) -> bool {
        self.orchestrator.as_ref().is_some_and(|orchestrator| {
            orchestrator.owned.state.live_count() == 0 && self.log.durable == self.log.records.len()
        })
    }
}

/// Who says what of which attempt.
fn said(command: &Command) -> Option<(AttemptRef, Option<InstanceKey>)> {
    match command {
        Command::AttemptStarted { attempt, key } => Some((attempt.clone(), Some(key.clone()))),
        Command::AttemptEnded { attempt, key, .. } => Some((attempt.clone(), key.clone())),
        _ => None,
    }
}
