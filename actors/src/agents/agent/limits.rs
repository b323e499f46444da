//! Limits of instances that run: changed by a policy, run into, and frozen processes. On record before anything follows.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use mesh_actors_core::agent::AgentCommand;
use mesh_messages::agent::ControlLevel;
use mesh_messages::events::AgentEvent;
use mesh_messages::limits::{Breach, BreachAction, InstanceLimits};
use mesh_messages::{Epoch, Failure, FailureClass, InstanceNo};

use super::{AgentMessage, AgentShell};
use crate::agents::instance::InstanceMessage;
use crate::agents::live::InstanceLive;
use crate::agents::policy::{InstanceBounds, effective};
use crate::few::Few;

impl AgentShell {
    /// The policy that is in force has changed: what runs takes it over as far as the kernel lets it.
    pub(super) async fn reconfigure(&mut self) -> Result<(), ActorProcessingErr> {
        let Some(manifest) = self.partition.state().manifest() else {
            return Ok(());
        };
        let policy = effective(manifest, &self.args.ctx);
        // What the next start gets is worked out anew.
        self.sandboxes = Few::default();
        for (instance, live) in self.args.entry.live() {
            if live.live.want_limits(policy.limits) {
                self.settle_limits(instance, live.epoch, live.live);
            }
        }
        let config = AgentCommand::Configure(Box::new(policy.fault));
        self.internal(config).await
    }

    /// A process of an instance runs now; a policy may have changed while it was on its way.
    pub(super) fn catch_up_limits(&self, instance: InstanceNo, epoch: Epoch) {
        let live = self.args.entry.live().into_iter();
        for (_, live) in live.filter(|(no, live)| *no == instance && live.epoch == epoch) {
            if live.live.is_unsettled() {
                self.settle_limits(instance, epoch, live.live);
            }
        }
    }

    fn settle_limits(&self, instance: InstanceNo, epoch: Epoch, live: Arc<InstanceLive>) {
        let me = self.me.clone();
        // The kernel may have to find memory first.
        let _not_awaited = tokio::task::spawn_blocking(move || {
            live.settle_limits(|limits, not_yet| {
                let _gone = me.cast(AgentMessage::Limited {
                    instance,
                    epoch,
                    limits: Box::new(shown(limits)),
                    not_yet,
                });
            });
        });
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

/// Limits as records and people see them.
pub(crate) fn shown(limits: InstanceBounds) -> InstanceLimits {
    let InstanceBounds { kernel, way_out } = limits;
    InstanceLimits {
        cpu_millicores: kernel.cpu_millicores,
        memory_bytes: kernel.memory_bytes,
        pids: kernel.pids,
        disk_bytes: kernel.disk_bytes,
        io_bytes_per_second: kernel.io_bytes_per_second,
        connections: way_out.map(|way| way.connections),
        bytes_per_second: way_out.and_then(|way| way.bytes_per_second),
    }
}
