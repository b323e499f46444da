//! Limits of instances that run: changed by a policy, run into, and frozen processes. On record before anything follows.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use mesh_actors_core::agent::AgentCommand;
use mesh_messages::agent::ControlLevel;
use mesh_messages::events::AgentEvent;
use mesh_messages::limits::{Breach, BreachAction, InstanceLimits};
use mesh_messages::{Epoch, Failure, FailureClass, InstanceNo};
use mesh_sandbox::Limits;

use super::{AgentMessage, AgentShell};
use crate::agents::instance::InstanceMessage;
use crate::agents::live::InstanceLive;
use crate::agents::policy::effective;

impl AgentShell {
    /// The policy that is in force has changed: what runs takes it over as far as the kernel lets it.
    pub(super) async fn reconfigure(&mut self) -> Result<(), ActorProcessingErr> {
        let Some(manifest) = self.partition.state().manifest() else {
            return Ok(());
        };
        let policy = effective(manifest, &self.args.ctx);
        for live in self.args.entry.live() {
            let (instance, live) = live;
            let limits = policy.limits;
            let known = live.live.limits();
            if known.is_none_or(|known| known == limits) {
                continue;
            }
            let (me, epoch) = (self.me.clone(), live.epoch);
            // The kernel may have to find memory first.
            ractor::concurrency::spawn(async move {
                let set = tokio::task::spawn_blocking(move || set_limits(&live.live, limits));
                if let Ok(not_yet) = set.await {
                    let _gone = me.cast(AgentMessage::Limited {
                        instance,
                        epoch,
                        limits: Box::new(shown(limits)),
                        not_yet,
                    });
                }
            });
        }
        let config = AgentCommand::Configure(Box::new(policy.fault));
        self.internal(config).await
    }

    /// The limits of an instance are others now.
    pub(super) async fn limited(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        limits: InstanceLimits,
        not_yet: Vec<String>,
    ) -> Result<(), ActorProcessingErr> {
        let event = AgentEvent::LimitsChanged {
            instance,
            epoch,
            limits,
            not_yet,
        };
        self.record(event, None, || {}).await
    }

    /// An instance ran into a limit.
    pub(super) async fn breached(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        breach: Breach,
    ) -> Result<(), ActorProcessingErr> {
        let Some(running) = self.running.get(&epoch) else {
            return Ok(()); // It has ended by itself.
        };
        let actor = running.actor.clone();
        let ends = (breach.action == BreachAction::End)
            .then(|| Failure::new(FailureClass::Resource, breach.detail.clone()));
        let event = AgentEvent::LimitBreached {
            instance,
            epoch,
            breach,
        };
        self.record(event, None, move || {
            if let Some(failure) = ends {
                let _gone = actor.cast(InstanceMessage::End(failure));
            }
        })
        .await
    }

    /// All processes of an instance stand still, or go on.
    pub(super) async fn frozen(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        frozen: bool,
        level: Option<ControlLevel>,
    ) -> Result<(), ActorProcessingErr> {
        if !self.running.contains_key(&epoch) {
            return Ok(());
        }
        let event = AgentEvent::InstanceFrozen {
            instance,
            epoch,
            frozen,
            level,
        };
        self.record(event, None, || {}).await
    }
}

/// Sets the limits of all processes of an instance; answers what does not hold yet, and why.
fn set_limits(live: &Arc<InstanceLive>, limits: Limits) -> Vec<String> {
    let before = live.limits();
    live.set_limits(limits);
    let mut not_yet: Vec<String> = live
        .processes()
        .iter()
        .flat_map(|process| process.set_limits(&limits))
        .filter_map(|set| Some(format!("{}: {}", set.control, set.problem?)))
        .collect();
    if before.is_some_and(|before| before.disk_bytes != limits.disk_bytes) {
        let text = "disk: a single file may be as large as before until the next start";
        not_yet.push(text.to_owned());
    }
    not_yet.sort();
    not_yet.dedup();
    not_yet
}

/// Limits as records and people see them.
pub(crate) fn shown(limits: Limits) -> InstanceLimits {
    InstanceLimits {
        cpu_millicores: limits.cpu_millicores,
        memory_bytes: limits.memory_bytes,
        pids: limits.pids,
        disk_bytes: limits.disk_bytes,
        connections: None,
        bytes_per_second: None,
    }
}
