//! What the shell knows of the incarnations that are not over.

use std::collections::BTreeMap;

use mesh_supervision_core::supervisor::{ChildId, ChildStatus, ExitReason, Incarnation, Input};
use ractor::{ActorCell, ActorId, ActorProcessingErr, ActorRef};
use tokio::{sync::oneshot, task::AbortHandle, time::Instant};

use super::{Message, State};
use crate::{exit::SHUTDOWN, handle::SupervisorHandle, start::Tried};

/// How many ends of unknown actors are remembered while starts are under way. A child may end before its start is
/// known to have succeeded; whoever else is linked to a supervisor is none of its business.
const EARLY_ENDS_MAX: usize = 1024;

/// The incarnations that are not over.
#[derive(Default)]
pub(super) struct Slots {
    slots: BTreeMap<Incarnation, Slot>,
    by_actor: BTreeMap<ActorId, Incarnation>,
    early_ends: BTreeMap<ActorId, ExitReason>,
    starts_under_way: usize,
}

/// One incarnation; its limits end with it.
pub(super) struct Slot {
    pub(super) child: ChildId,
    pub(super) body: Body,
    limits: Vec<AbortHandle>,
}

/// What there is to stop.
pub(super) enum Body {
    /// A start, which is given up by this.
    Start(Option<oneshot::Sender<()>>),
    /// An actor, maybe a supervisor of ours.
    Actor {
        cell: ActorCell,
        supervisor: Option<SupervisorHandle>,
    },
}

impl Drop for Slot {
    fn drop(&mut self) {
        for limit in &self.limits {
            limit.abort();
        }
    }
}

impl Slot {
    /// Asks for an end by then.
    pub(super) fn ask(&mut self, deadline: Instant) {
        match &mut self.body {
            Body::Start(give_up) => drop(give_up.take()),
            Body::Actor {
                supervisor: Some(supervisor),
                ..
            } => {
                // A tenth less, so that the inner one can finish in order before the outer one loses patience.
                let now = Instant::now();
                let earlier = now + deadline.saturating_duration_since(now) / 10 * 9;
                supervisor.request_stop(Some(earlier));
            }
            Body::Actor {
                cell,
                supervisor: None,
            } => cell.stop(Some(SHUTDOWN.to_owned())),
        }
    }

    pub(super) fn kill(&mut self) {
        match &mut self.body {
            Body::Start(give_up) => drop(give_up.take()),
            Body::Actor { cell, .. } => cell.kill(),
        }
    }
}

impl Slots {
    pub(super) fn start(
        &mut self,
        child: ChildId,
        incarnation: Incarnation,
        give_up: oneshot::Sender<()>,
    ) {
        self.starts_under_way += 1;
        let slot = Slot {
            child,
            body: Body::Start(Some(give_up)),
            limits: Vec::new(),
        };
        self.slots.insert(incarnation, slot);
    }

    pub(super) fn get_mut(&mut self, incarnation: Incarnation) -> Option<&mut Slot> {
        self.slots.get_mut(&incarnation)
    }

    pub(super) fn limit(&mut self, incarnation: Incarnation, limit: AbortHandle) {
        match self.slots.get_mut(&incarnation) {
            Some(slot) => slot.limits.push(limit),
            None => limit.abort(),
        }
    }

    pub(super) fn is_current(&self, incarnation: Incarnation) -> bool {
        self.slots.contains_key(&incarnation)
    }

    pub(super) fn cell(&self, incarnation: Incarnation) -> Option<ActorCell> {
        match &self.slots.get(&incarnation)?.body {
            Body::Start(_) => None,
            Body::Actor { cell, .. } => Some(cell.clone()),
        }
    }

    /// Whether this is a supervisor all of whose children have been started.
    fn was_ready(&self, incarnation: Incarnation) -> bool {
        match self.slots.get(&incarnation).map(|slot| &slot.body) {
            Some(Body::Actor {
                supervisor: Some(supervisor),
                ..
            }) => supervisor.life.borrow().was_ready(),
            Some(Body::Actor { .. } | Body::Start(_)) | None => false,
        }
    }

    /// An actor has ended: which incarnation that was, if its start is known to have succeeded.
    pub(super) fn ended(
        &mut self,
        actor: ActorId,
        reason: ExitReason,
    ) -> Option<(ChildId, Incarnation, ExitReason)> {
        if let Some(&incarnation) = self.by_actor.get(&actor) {
            return self
                .slots
                .get(&incarnation)
                .map(|slot| (slot.child.clone(), incarnation, reason));
        }
        if self.starts_under_way > 0 && self.early_ends.len() < EARLY_ENDS_MAX {
            self.early_ends.insert(actor, reason);
        }
        None
    }

    /// The incarnation is over.
    pub(super) fn over(&mut self, incarnation: Incarnation) {
        if let Some(slot) = self.slots.remove(&incarnation)
            && let Body::Actor { cell, .. } = &slot.body
        {
            self.by_actor.remove(&cell.get_id());
        }
    }

    /// All of them, for the last resort.
    pub(super) fn take(&mut self) -> BTreeMap<Incarnation, Slot> {
        self.by_actor.clear();
        std::mem::take(&mut self.slots)
    }

    /// A start is over; how its actor has ended, if it has.
    fn tried(&mut self, incarnation: Incarnation, tried: &Tried) -> Option<ExitReason> {
        self.starts_under_way = self.starts_under_way.saturating_sub(1);
        let mut early = None;
        if let Tried::Spawned { cell, supervisor } = tried {
            early = self.early_ends.remove(&cell.get_id());
            if let Some(slot) = self.slots.get_mut(&incarnation) {
                let was_given_up = matches!(slot.body, Body::Start(None));
                slot.body = Body::Actor {
                    cell: cell.clone(),
                    supervisor: supervisor.clone(),
                };
                self.by_actor.insert(cell.get_id(), incarnation);
                if was_given_up && let Some(supervisor) = supervisor {
                    // The start won; the machine asks again when it hears so, which for a supervisor would be late.
                    supervisor.request_stop(Some(Instant::now()));
                }
            } else {
                // Its incarnation was abandoned, so nobody wants it.
                cell.kill();
            }
        }
        if self.starts_under_way == 0 {
            self.early_ends.clear();
        }
        early
    }
}

impl State {
    pub(super) fn start_tried(
        &mut self,
        myself: &ActorRef<Message>,
        child: ChildId,
        incarnation: Incarnation,
        tried: Tried,
    ) -> Result<(), ActorProcessingErr> {
        let early_end = self.slots.tried(incarnation, &tried);
        match tried {
            Tried::Failed(reason) => {
                self.slots.over(incarnation);
                self.input(
                    myself,
                    Input::StartFailed {
                        child,
                        incarnation,
                        reason,
                    },
                )
            }
            Tried::Ignored => {
                self.slots.over(incarnation);
                self.input(myself, Input::Ignored { child, incarnation })
            }
            Tried::Spawned { supervisor, .. } => {
                if supervisor.is_none() {
                    self.input(
                        myself,
                        Input::Started {
                            child: child.clone(),
                            incarnation,
                        },
                    )?;
                }
                match early_end {
                    Some(reason) if self.slots.is_current(incarnation) => {
                        self.exited(myself, child, incarnation, reason)
                    }
                    Some(_) | None => Ok(()),
                }
            }
        }
    }

    pub(super) fn exited(
        &mut self,
        myself: &ActorRef<Message>,
        child: ChildId,
        incarnation: Incarnation,
        reason: ExitReason,
    ) -> Result<(), ActorProcessingErr> {
        let is_starting = self.machine.child(&child).is_some_and(|view| {
            view.status == ChildStatus::Starting && view.incarnation == Some(incarnation)
        });
        if is_starting && self.slots.was_ready(incarnation) {
            // ractor's news of the end may overtake the message that it was up.
            let child = child.clone();
            self.input(myself, Input::Started { child, incarnation })?;
        }
        self.slots.over(incarnation);
        self.input(
            myself,
            Input::Exited {
                child,
                incarnation,
                reason,
            },
        )
    }
}
