//! What an agent's actor does once its decisions are durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use ractor::Actor;

use mesh_actors_core::agent::{AgentEffect, StopKind};
use mesh_messages::klp::ControlVerb;
use mesh_messages::{Epoch, Failure, FailureClass, InstanceNo, Timestamp};

use super::{AgentMessage, AgentShell, Released, Running};
use crate::agents::instance::{InstanceActor, InstanceArgs, InstanceMessage};
use crate::agents::live::InstanceLive;
use crate::alarms::Alarm;
use crate::clock::now;
use crate::directory::LiveInstance;

impl AgentShell {
    pub(super) async fn release(&mut self) {
        for released in self.partition.released(self.durable) {
            match released {
                Released::Publish(state) => {
                    self.args.entry.publish(state);
                    self.args.services.fleet_changed(&self.args.entry);
                }
                Released::Reply(reply) => reply(),
                Released::Effect(effect) => self.perform(effect).await,
            }
        }
        self.follower.wait_for(self.partition.awaited());
    }

    async fn perform(&mut self, effect: AgentEffect) {
        let agent = self.args.entry.id.clone();
        match effect {
            AgentEffect::Spawn {
                instance,
                epoch,
                version,
                upgraded_from,
            } => {
                self.spawn(instance, epoch, &version, upgraded_from).await;
            }
            AgentEffect::Stop { epoch, how, .. } => {
                self.args.entry.set_stopping(epoch);
                self.args.services.fleet_changed(&self.args.entry);
                self.tell(
                    epoch,
                    match how {
                        StopKind::Drain => InstanceMessage::Drain,
                        StopKind::HandOver => InstanceMessage::HandOver,
                        StopKind::Kill => InstanceMessage::Kill,
                    },
                );
            }
            AgentEffect::Kept { epoch } => self.tell(epoch, InstanceMessage::Kept),
            AgentEffect::Paused(paused) => {
                let verb = if paused {
                    ControlVerb::Pause
                } else {
                    ControlVerb::Resume
                };
                for epoch in self.running.keys() {
                    self.tell(*epoch, InstanceMessage::Control(verb));
                }
            }
            AgentEffect::Down {
                instance,
                epoch,
                failure,
            } => {
                let record = self.trail.end_of(epoch);
                self.args
                    .services
                    .instance_down((agent, instance, epoch), failure, record);
            }
            AgentEffect::Arm { token, at } => {
                self.timer = Some(self.call_back(at, AgentMessage::Timer { token }));
            }
            AgentEffect::Disarm => self.timer = None,
            AgentEffect::Rest { until } => {
                self.rest = Some(self.call_back(until, AgentMessage::Rested));
            }
            AgentEffect::Deliver => {
                if let Some(delivery) = self.offers.pop_front().flatten() {
                    match self.running.get(&delivery.epoch) {
                        Some(running) if running.instance == delivery.instance => {
                            let epoch = delivery.epoch;
                            self.tell(epoch, InstanceMessage::Deliver(Box::new(delivery)));
                        }
                        _ => self.decline(delivery, "the instance is gone"),
                    }
                }
            }
            AgentEffect::Decline { reason } => {
                if let Some(delivery) = self.offers.pop_front().flatten() {
                    self.decline(delivery, &reason);
                }
            }
            AgentEffect::Isolate => self.args.services.isolate(&agent),
            AgentEffect::Release => self.args.services.release(&agent),
            AgentEffect::Seal => self.args.services.seal(&agent),
            AgentEffect::Escalate { reason } => self.args.services.escalate(&agent, &reason),
            AgentEffect::UpgradeDone { error } => {
                if error.is_none() {
                    let _we_are_here = self.me.cast(AgentMessage::Reconfigure);
                }
                self.args.services.upgrade_done(&agent, error);
            }
        }
    }

    fn call_back(&self, at: Timestamp, message: AgentMessage) -> Alarm {
        let me = self.me.clone();
        self.args.ctx.alarms.set(at, move || {
            let _gone = me.cast(message);
        })
    }

    fn not_started(&self, instance: InstanceNo, epoch: Epoch, why: String) {
        let _we_are_here = self.me.cast(AgentMessage::InstanceEnded {
            instance,
            epoch,
            failure: Some(Failure::new(FailureClass::Start, why)),
            at: now(),
        });
    }

    async fn spawn(
        &mut self,
        instance: InstanceNo,
        epoch: Epoch,
        version: &str,
        upgraded_from: Option<String>,
    ) {
        let Some(version) = self.partition.state().versions.get(version) else {
            return self.not_started(instance, epoch, format!("there is no version {version}"));
        };
        let refused = self.refused.get(&instance).cloned().unwrap_or_default();
        self.refused.insert(instance, Arc::clone(&refused));
        let live = Arc::new(InstanceLive::counting(refused));
        let args = InstanceArgs {
            ctx: Arc::clone(&self.args.ctx),
            services: Arc::clone(&self.args.services),
            owner: self.me.clone(),
            agent: self.args.entry.id.clone(),
            instance,
            epoch,
            manifest: Arc::clone(&version.manifest),
            digest: version.digest.clone(),
            upgraded_from,
            restore: self.partition.state().saved.get(&instance).cloned(),
            live: Arc::clone(&live),
            log: Arc::clone(&self.args.entry.log),
        };
        self.args.ctx.metrics.started();
        let capabilities = BTreeSet::new();
        self.args.entry.put_live(
            instance,
            LiveInstance {
                epoch,
                live,
                capabilities,
            },
        );
        // Its start-up only makes its state, so waiting for it holds up nobody.
        match InstanceActor::spawn_linked(None, InstanceActor, args, self.me.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), (instance, epoch));
                self.running.insert(epoch, Running { instance, actor });
            }
            Err(error) => self.not_started(instance, epoch, error.to_string()),
        }
    }
}
