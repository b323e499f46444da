//! What is found of an instance, and how it is: put on record first, then acted upon.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use mesh_actors_core::liveness::Change;
use mesh_messages::agent::HealthLevel;
use mesh_messages::events::AgentEvent;
use mesh_messages::liveness::{Finding, HealthAction};
use mesh_messages::{Epoch, Failure, FailureClass, InstanceNo, TaskId};

use super::trail::Noted;
use super::{AgentShell, Released};
use crate::agents::instance::InstanceMessage;
use crate::partition::{Cause, Entry};

impl AgentShell {
    /// An instance was found to get nowhere; it acts upon that when it is durable.
    pub(super) async fn found(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        finding: Finding,
    ) -> Result<(), ActorProcessingErr> {
        let Some(running) = self.running.get(&epoch) else {
            return Ok(()); // It has ended by itself.
        };
        let actor = running.actor.clone();
        let event = AgentEvent::Finding {
            instance,
            epoch,
            finding: finding.clone(),
        };
        let task = finding.task.clone();
        self.record(event, task, move || {
            let _gone = actor.cast(InstanceMessage::Act(Box::new(finding)));
        })
        .await
    }

    /// An instance's level changed: a warning drains it, only what is critical ends it.
    pub(super) async fn condition(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        change: Change,
    ) -> Result<(), ActorProcessingErr> {
        let Some(running) = self.running.get(&epoch) else {
            return Ok(());
        };
        let actor = running.actor.clone();
        let Change { from, to, reason } = change;
        let action = match to {
            HealthLevel::Healthy => HealthAction::Resume,
            HealthLevel::Warning => HealthAction::Drain,
            HealthLevel::Critical => HealthAction::Restart,
        };
        let event = AgentEvent::InstanceHealth {
            instance,
            epoch,
            from,
            to,
            action,
            reason: reason.clone(),
        };
        let (entry, services) = (
            Arc::clone(&self.args.entry),
            Arc::clone(&self.args.services),
        );
        self.record(event, None, move || {
            let live = entry.live().remove(&instance);
            let Some(live) = live.filter(|live| live.epoch == epoch) else {
                return;
            };
            match action {
                HealthAction::Resume => live.live.drain(None),
                HealthAction::Drain => live.live.drain(Some(reason)),
                HealthAction::Restart => {
                    live.live.drain(Some(reason.clone()));
                    let failure = Failure::new(FailureClass::Hang, reason);
                    let _gone = actor.cast(InstanceMessage::End(failure));
                }
            }
            services.fleet_changed(&entry);
        })
        .await
    }

    /// Journals an event, and does something once it is durable.
    pub(super) async fn record(
        &mut self,
        event: AgentEvent,
        task: Option<TaskId>,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<(), ActorProcessingErr> {
        let cause = Cause::meshd();
        let led = self.trail.led(std::slice::from_ref(&event), &cause);
        let noted = Noted::of(&event, &cause);
        let entry = Entry {
            event,
            agent: Some(self.args.entry.id.clone()),
            task,
            led: led.into_iter().next().unwrap_or_default(),
        };
        let last = self
            .partition
            .commit(vec![entry], &cause, Vec::new())
            .await?;
        self.trail.note(std::iter::once(noted), last);
        let state = Arc::clone(self.partition.state());
        let effects = vec![Released::Publish(state), Released::Reply(Box::new(then))];
        self.partition.commit(Vec::new(), &cause, effects).await?;
        self.release().await;
        Ok(())
    }
}
