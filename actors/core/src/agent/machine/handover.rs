//! State that an incarnation hands on to the next one of its replica, when it is told to stop for a restart or another
//! version: asked for once its work is done, durable before it is let go, given back until somebody has taken it.

use std::sync::Arc;

use mesh_messages::agent::Lifecycle;
use mesh_messages::events::AgentEvent;
use mesh_messages::{Epoch, Failure, InstanceNo};
use serde_json::Value;

use super::{AgentEffect, AgentMachine, StopKind, Turn};

/// The hooks by which an agent says that it takes part.
const SAVES: &str = "save_state";
const RESTORES: &str = "restore_state";

impl AgentMachine {
    /// Stops all instances; those that named the hook are asked for their state before.
    pub(super) fn hand_over_all(&mut self, turn: &mut Turn<'_>) {
        let all: Vec<_> = turn
            .instances
            .iter()
            .map(|(no, (epoch, _))| (*no, *epoch))
            .collect();
        for (instance, epoch) in all {
            let how = if turn.names(instance, epoch, SAVES)
                && !self.is_stopping(instance, epoch)
                && turn.stage(instance) == Some(Lifecycle::Executing)
            {
                self.handing.insert(instance, epoch);
                StopKind::HandOver
            } else {
                StopKind::Drain
            };
            self.stop_one(turn, instance, epoch, how);
        }
    }

    /// One that was asked for its state has answered, or not in time.
    pub(super) fn saved(
        &mut self,
        turn: &mut Turn<'_>,
        (instance, epoch): (InstanceNo, Epoch),
        answer: Result<Arc<Value>, String>,
    ) {
        if self.handing.get(&instance) != Some(&epoch) || !turn.is_current(instance, epoch) {
            return;
        }
        self.handing.remove(&instance);
        match answer {
            // It has nothing to hand on.
            Ok(state) if state.is_null() => {}
            Ok(state) => {
                let version = turn.state.instances.get(&instance);
                let version = version.map(|i| i.version.clone()).unwrap_or_default();
                turn.out.events.push(AgentEvent::StateSaved {
                    instance,
                    epoch,
                    version,
                    state,
                });
            }
            Err(reason) => self.not_handed_on(turn, (instance, epoch), &reason),
        }
        turn.out.effects.push(AgentEffect::Kept { epoch });
    }

    /// One that was asked for its state has ended without an answer.
    pub(super) fn ended_in_hand(&mut self, turn: &mut Turn<'_>, of: (InstanceNo, Epoch)) {
        let (instance, epoch) = of;
        if self.handing.get(&instance) == Some(&epoch) {
            self.handing.remove(&instance);
            self.not_handed_on(turn, of, "it ended before it said what it is");
        }
    }

    fn not_handed_on(
        &mut self,
        turn: &mut Turn<'_>,
        (instance, epoch): (InstanceNo, Epoch),
        reason: &str,
    ) {
        turn.lose(instance, epoch, reason);
        if self
            .upgrade
            .as_ref()
            .is_some_and(|upgrade| !upgrade.started)
        {
            let why = format!("the state of its instance {instance} could not be saved: {reason}");
            self.abandon_upgrade(turn, &why);
        }
    }
}

impl Turn<'_> {
    /// An incarnation serves: what was saved for it is its own, or nobody's.
    pub(super) fn note_restored(&mut self, instance: InstanceNo, epoch: Epoch) {
        let Some(saved) = self.state.saved.get(&instance) else {
            return;
        };
        if self.names(instance, epoch, RESTORES) {
            let from = saved.epoch;
            self.out.events.push(AgentEvent::StateRestored {
                instance,
                epoch,
                from,
            });
        } else {
            self.lose(instance, epoch, "it names no hook `restore_state`");
        }
    }

    /// An incarnation failed while it was given the state. The next one is not: it would fail as well. An upgrade that is
    /// given up keeps it for the version that it is of.
    pub(super) fn note_not_restored(
        &mut self,
        (instance, epoch): (InstanceNo, Epoch),
        failure: &Failure,
    ) {
        let given = self.state.saved.contains_key(&instance)
            && self.stage_of(instance, epoch) == Some(Lifecycle::Handshaken)
            && self.names(instance, epoch, RESTORES);
        if given {
            self.lose(instance, epoch, &failure.message);
        }
    }

    fn lose(&mut self, instance: InstanceNo, epoch: Epoch, reason: &str) {
        self.out.events.push(AgentEvent::StateLost {
            instance,
            epoch,
            reason: reason.to_owned(),
        });
    }

    fn names(&self, instance: InstanceNo, epoch: Epoch, hook: &str) -> bool {
        let known = self.state.instances.get(&instance);
        known.is_some_and(|i| i.epoch == epoch && i.hooks.iter().any(|named| named == hook))
    }

    fn stage(&self, instance: InstanceNo) -> Option<Lifecycle> {
        self.instances.get(&instance).map(|(_, stage)| *stage)
    }

    fn stage_of(&self, instance: InstanceNo, epoch: Epoch) -> Option<Lifecycle> {
        let known = self.state.instances.get(&instance)?;
        (known.epoch == epoch).then_some(known.stage)
    }
}
