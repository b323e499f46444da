//! What an agent's actor does with its messages: decide, commit.

use std::sync::Arc;

use ractor::{ActorProcessingErr, RpcReplyPort};

use mesh_actors_core::agent::{AgentCommand, AgentMachine, AgentState, Around};
use mesh_messages::agent::{Lifecycle, QuarantineKind, SandboxView};
use mesh_messages::events::AgentEvent;
use mesh_messages::klp::ControlVerb;
use mesh_messages::manifest::{AgentManifest, RuntimeKind};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::{
    AttemptNo, Epoch, Failure, FailureClass, InstanceNo, Severity, TaskId, Timestamp,
};

use super::refusal::refused;
use super::trail::Noted;
use super::{AgentMessage, AgentShell, GONE_MAX, OFFERS_MAX, Released};
use crate::agents::delivery::{AttemptNews, Delivery};
use crate::agents::instance::InstanceMessage;
use crate::agents::policy::effective;
use crate::agents::spawn::{Start, plan_start, sandbox_view};
use crate::clock::{now, random};
use crate::partition::{Cause, Entry, Led};
use crate::store::JournalNews;

type Answer = Box<dyn FnOnce(Result<Arc<AgentState>, Problem>) + Send>;

/// Whether an instance may be started by this.
fn may_start(command: &AgentCommand) -> bool {
    !matches!(
        command,
        AgentCommand::Offered { .. }
            | AgentCommand::AttemptEnded { .. }
            | AgentCommand::Handshaken { .. }
            | AgentCommand::Ready { .. }
            | AgentCommand::Up { .. }
            | AgentCommand::Refund { .. }
    )
}

impl AgentShell {
    #[expect(clippy::too_many_lines, reason = "one short arm for each message")]
    pub(super) async fn take(&mut self, message: AgentMessage) -> Result<(), ActorProcessingErr> {
        match message {
            AgentMessage::Order {
                command,
                cause,
                reply,
            } => {
                let answer: Answer = Box::new(move |answer| {
                    let _caller_gone = reply.send(answer);
                });
                self.step(command, &cause, Some(answer)).await
            }
            AgentMessage::Register {
                manifest,
                digest,
                cause,
                reply,
            } => self.register(*manifest, digest, &cause, reply).await,
            AgentMessage::InstanceShaken {
                instance,
                epoch,
                hooks,
                proven,
                capabilities,
            } => {
                self.args.entry.advertise(instance, epoch, capabilities);
                self.catch_up_limits(instance, epoch);
                self.internal(AgentCommand::Handshaken {
                    instance,
                    epoch,
                    hooks,
                    proven,
                })
                .await
            }
            AgentMessage::InstanceUp {
                instance,
                epoch,
                hooks,
                proven,
                capabilities,
            } => {
                self.args.entry.advertise(instance, epoch, capabilities);
                self.catch_up_limits(instance, epoch);
                let up = AgentCommand::Up {
                    instance,
                    epoch,
                    hooks,
                    proven,
                };
                self.ready(epoch, up).await
            }
            AgentMessage::InstanceReady { instance, epoch } => {
                let ready = AgentCommand::Ready { instance, epoch };
                self.ready(epoch, ready).await
            }
            AgentMessage::InstanceSaved {
                instance,
                epoch,
                answer,
            } => {
                let answer = answer.map(|state| Arc::new(*state));
                self.internal(AgentCommand::Saved {
                    instance,
                    epoch,
                    answer,
                })
                .await
            }
            AgentMessage::InstanceEnded {
                instance,
                epoch,
                failure,
                at,
            } => self.ended((instance, epoch), failure, at).await,
            AgentMessage::EndInstance { epoch, reason } => {
                self.tell(epoch, InstanceMessage::End(reason));
                Ok(())
            }
            AgentMessage::Deliver(delivery) => self.offer(*delivery).await,
            AgentMessage::CancelAttempt {
                epoch,
                task,
                attempt,
                reason,
            } => {
                self.cancel_attempt(epoch, task, attempt, reason);
                Ok(())
            }
            AgentMessage::Child { epoch, outcome } => {
                self.tell(epoch, InstanceMessage::Child(outcome));
                Ok(())
            }
            AgentMessage::Claim { epoch, answer } => {
                self.tell(epoch, InstanceMessage::Claim(answer));
                Ok(())
            }
            AgentMessage::AttemptEnded { task, ok } => {
                self.internal(AgentCommand::AttemptEnded { task, ok }).await
            }
            AgentMessage::Refund { failures } => {
                self.internal(AgentCommand::Refund { failures }).await
            }
            AgentMessage::NodeKey(told) => {
                for epoch in self.running.keys() {
                    self.tell(*epoch, InstanceMessage::NodeKey(Arc::clone(&told)));
                }
                Ok(())
            }
            AgentMessage::Mail(mail) => {
                let mut ready = self.partition.state().ready().map(|(_, i)| i.epoch);
                let ready = ready.find(|epoch| mail.epoch.is_none_or(|meant| meant == *epoch));
                if let Some(epoch) = ready {
                    self.tell(epoch, InstanceMessage::Mail(mail));
                }
                Ok(())
            }
            AgentMessage::Strike {
                epoch,
                strike,
                reply,
            } => {
                self.tell(epoch, InstanceMessage::Strike { strike, reply });
                Ok(())
            }
            AgentMessage::Violation { epoch, description } => {
                if !self.running.contains_key(&epoch) {
                    return Ok(());
                }
                self.internal(AgentCommand::Quarantine {
                    kind: QuarantineKind::SecurityViolation,
                    severity: Severity::Critical,
                    description,
                })
                .await
            }
            AgentMessage::Found {
                instance,
                epoch,
                finding,
            } => self.found(instance, epoch, *finding).await,
            AgentMessage::Condition {
                instance,
                epoch,
                change,
            } => self.condition(instance, epoch, *change).await,
            AgentMessage::Close { reply } => {
                self.closers.push(reply);
                self.internal(AgentCommand::Close).await?;
                self.answer_closers();
                Ok(())
            }
            AgentMessage::Rested => self.internal(AgentCommand::Rested).await,
            AgentMessage::NeedsChanged => self.internal(AgentCommand::NeedsChanged).await,
            AgentMessage::Limited {
                instance,
                epoch,
                limits,
                not_yet,
            } => self.limited(instance, epoch, *limits, not_yet).await,
            AgentMessage::Breached {
                instance,
                epoch,
                breach,
            } => self.breached(instance, epoch, *breach).await,
            AgentMessage::Frozen {
                instance,
                epoch,
                frozen,
                level,
            } => self.frozen(instance, epoch, frozen, level).await,
            AgentMessage::Reconfigure => self.reconfigure().await,
            AgentMessage::Timer { token } => self.internal(AgentCommand::Timer { token }).await,
            AgentMessage::Journal(JournalNews::Durable(position)) => {
                self.durable = Some(position);
                self.release().await;
                self.partition.snapshot_when_due(self.durable);
                Ok(())
            }
            AgentMessage::Journal(JournalNews::Failed(reason)) => {
                Err(format!("the journal failed: {reason}").into())
            }
        }
    }

    pub(super) fn tell(&self, epoch: Epoch, message: InstanceMessage) {
        if let Some(running) = self.running.get(&epoch) {
            // One that has just ended needs to be told nothing.
            let _gone = running.actor.cast(message);
        }
    }

    /// An instance serves from now on.
    async fn ready(
        &mut self,
        epoch: Epoch,
        command: AgentCommand,
    ) -> Result<(), ActorProcessingErr> {
        let (services, id) = (Arc::clone(&self.args.services), self.args.entry.id.clone());
        // Told only when everybody can see that it serves: who has mail for it looks at once.
        let told: Answer = Box::new(move |_| services.agent_ready(&id));
        self.step(command, &Cause::meshd(), Some(told)).await?;
        if self.partition.state().paused {
            self.tell(epoch, InstanceMessage::Control(ControlVerb::Pause));
        }
        Ok(())
    }

    pub(super) async fn internal(
        &mut self,
        command: AgentCommand,
    ) -> Result<(), ActorProcessingErr> {
        self.step(command, &Cause::meshd(), None).await
    }

    pub(super) async fn ended(
        &mut self,
        (instance, epoch): (InstanceNo, Epoch),
        failure: Option<Failure>,
        at: Timestamp,
    ) -> Result<(), ActorProcessingErr> {
        self.running.remove(&epoch);
        self.args.entry.remove_live(instance, epoch);
        let ended = AgentCommand::Ended {
            instance,
            epoch,
            failure,
        };
        // Neither before what was decided last, nor in a future that the clock was set back from.
        let now = now();
        let at = at.clamp(self.stepped.min(now), now);
        self.step_at(at, ended, &Cause::meshd(), None).await?;
        if self.is_idle() {
            self.args.services.idle(&self.args.entry.id);
        }
        self.answer_closers();
        Ok(())
    }

    /// The session of an instance failed; it has ended when what it ran is gone.
    pub(super) fn lost(&self, instance: InstanceNo, epoch: Epoch, failure: Failure) {
        let live = self.args.entry.live().remove(&instance);
        let live = live.filter(|live| live.epoch == epoch);
        let (me, at) = (self.me.clone(), now());
        ractor::concurrency::spawn(async move {
            if let Some(live) = live {
                let _late = tokio::time::timeout(GONE_MAX, live.live.end_processes()).await;
            }
            let _gone = me.cast(AgentMessage::InstanceEnded {
                instance,
                epoch,
                failure: Some(failure),
                at,
            });
        });
    }

    /// No instance is there, none is being started.
    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.partition.state().instances.is_empty()
    }

    fn answer_closers(&mut self) {
        if self.is_idle() {
            for closer in self.closers.drain(..) {
                let _gone = closer.send(());
            }
        }
    }

    /// Decides, commits, and lets go of what is durable.
    pub(super) async fn step(
        &mut self,
        command: AgentCommand,
        cause: &Cause,
        answer: Option<Answer>,
    ) -> Result<(), ActorProcessingErr> {
        self.step_at(now(), command, cause, answer).await
    }

    async fn step_at(
        &mut self,
        now: Timestamp,
        command: AgentCommand,
        cause: &Cause,
        answer: Option<Answer>,
    ) -> Result<(), ActorProcessingErr> {
        self.stepped = now;
        let lacks = may_start(&command) && {
            self.foresee();
            self.args.ctx.directory.lacks(self.partition.state())
        };
        let sandboxes = &self.sandboxes;
        let sandbox = |version: &str| sandboxes.get(version)?.as_deref().cloned();
        let decided = {
            let (state, sandbox) = (self.partition.state(), &sandbox);
            let around = Around { sandbox, lacks };
            self.machine.step(state, now, random(), &around, command)
        };
        let decision = match decided {
            Ok(decision) => decision,
            Err(refusal) => {
                if let Some(answer) = answer {
                    answer(Err(refused(&self.args.entry.id, &refusal)));
                }
                return Ok(());
            }
        };
        let changed = !decision.events.is_empty();
        let agent = Some(self.args.entry.id.clone());
        let led = self.trail.led(&decision.events, cause);
        let noted: Vec<_> = decision
            .events
            .iter()
            .map(|event| Noted::of(event, cause))
            .collect();
        let entries = decision.events.into_iter().zip(led);
        let entries = entries
            .map(|(event, led)| Entry {
                event,
                agent: agent.clone(),
                task: None,
                led,
            })
            .collect();
        let last = self.partition.commit(entries, cause, Vec::new()).await?;
        self.trail.note(noted.into_iter(), last);
        let state = Arc::clone(self.partition.state());
        let mut effects = Vec::new();
        if changed || self.durable.is_none() {
            effects.push(Released::Publish(Arc::clone(&state)));
        }
        effects.extend(decision.effects.into_iter().map(Released::Effect));
        if let Some(answer) = answer {
            effects.push(Released::Reply(Box::new(move || answer(Ok(state)))));
        }
        self.partition.commit(Vec::new(), cause, effects).await?;
        self.release().await;
        Ok(())
    }

    /// Works out what will be enforced around what is started.
    fn foresee(&mut self) {
        let versions: Vec<_> = self.partition.state().versions.keys().cloned().collect();
        for version in versions {
            if !self.sandboxes.contains_key(&version) {
                let view = self.sandbox_of(&version);
                self.sandboxes.insert(version, view.map(Box::new));
            }
        }
    }

    fn sandbox_of(&self, version: &str) -> Option<SandboxView> {
        let version = self.partition.state().versions.get(version)?;
        if version.manifest.resolved_runtime().kind == RuntimeKind::Native {
            return None;
        }
        let start = Start {
            manifest: &version.manifest,
            digest: &version.digest,
            instance: InstanceNo(0),
            epoch: Epoch(0),
            process: 0,
        };
        // A refusal shows when it is started; here there is just nothing to show.
        plan_start(&self.args.ctx, start)
            .ok()
            .map(|plan| sandbox_view(&self.args.ctx, &version.manifest, plan.report()))
    }

    async fn register(
        &mut self,
        manifest: AgentManifest,
        digest: String,
        cause: &Cause,
        reply: RpcReplyPort<Result<(bool, Arc<AgentState>), Problem>>,
    ) -> Result<(), ActorProcessingErr> {
        let state = self.partition.state();
        let version = manifest.version.to_string();
        if state.stage() == Lifecycle::Terminated {
            let id = &self.args.entry.id;
            let text =
                format!("agent {id} is being terminated; try again when its instances are gone");
            let _caller_gone =
                reply.send(Err(Problem::new(ProblemKind::Conflict, "terminated", text)));
            return Ok(());
        }
        let over = state.stage() == Lifecycle::Audited;
        if let Some(there) = state.versions.get(&version).filter(|_| !over) {
            let answer = if there.digest == digest {
                Ok((false, Arc::clone(state)))
            } else {
                let id = &self.args.entry.id;
                let text = format!(
                    "agent {id} {version} is registered with other content ({}); give the new content a new version",
                    there.digest
                );
                Err(Problem::new(ProblemKind::Conflict, "version_exists", text).field("version"))
            };
            let _caller_gone = reply.send(answer);
            return Ok(());
        }
        let name = manifest.display_name().to_owned();
        let mut events = Vec::new();
        if state.stage() == Lifecycle::Defined {
            events.push(AgentEvent::Created { name });
        }
        self.sandboxes.remove(&version);
        let config = effective(&manifest, &self.args.ctx).fault;
        events.push(AgentEvent::Registered {
            manifest: Box::new(manifest),
            digest,
        });
        let agent = Some(self.args.entry.id.clone());
        let noted: Vec<_> = events.iter().map(|event| Noted::of(event, cause)).collect();
        let entries = events.into_iter().enumerate();
        let entries = entries
            .map(|(index, event)| Entry {
                event,
                agent: agent.clone(),
                task: None,
                led: Led::in_turn(index),
            })
            .collect();
        let last = self.partition.commit(entries, cause, Vec::new()).await?;
        self.trail.note(noted.into_iter(), last);
        if over || self.partition.state().versions.len() == 1 {
            self.machine = AgentMachine::new(self.args.entry.id.clone(), config, now())?;
        }
        let state = Arc::clone(self.partition.state());
        let effects = vec![
            Released::Publish(Arc::clone(&state)),
            Released::Reply(Box::new(move || {
                let _caller_gone = reply.send(Ok((true, state)));
            })),
        ];
        self.partition.commit(Vec::new(), cause, effects).await?;
        self.release().await;
        Ok(())
    }

    async fn offer(&mut self, delivery: Delivery) -> Result<(), ActorProcessingErr> {
        if self.offers.len() >= OFFERS_MAX {
            self.decline(delivery, "too many attempts wait for it");
            return Ok(());
        }
        let command = AgentCommand::Offered {
            task: delivery.task.clone(),
            epoch: delivery.epoch,
        };
        self.offers.push_back(Some(delivery));
        self.internal(command).await
    }

    /// Makes whoever has an attempt let go of it. Whoever cancels waits to hear so.
    fn cancel_attempt(&mut self, epoch: Epoch, task: TaskId, attempt: AttemptNo, reason: Failure) {
        let offered = self.offers.iter_mut().find(|offer| {
            offer.as_ref().is_some_and(|delivery| {
                (delivery.epoch, &delivery.task, delivery.attempt) == (epoch, &task, attempt)
            })
        });
        if let Some(delivery) = offered.and_then(Option::take) {
            return self.report_end(delivery, reason);
        }
        // When the incarnation is gone, the news of that has ended the attempt.
        let message = InstanceMessage::CancelAttempt {
            task,
            attempt,
            reason,
        };
        self.tell(epoch, message);
    }

    pub(super) fn decline(&self, delivery: Delivery, reason: &str) {
        self.report_end(delivery, Failure::new(FailureClass::Lost, reason));
    }

    /// Reports the end of an attempt that no instance has seen.
    fn report_end(&self, delivery: Delivery, failure: Failure) {
        let (services, agent) = (Arc::clone(&self.args.services), self.args.entry.id.clone());
        let instance = delivery.instance;
        let news = AttemptNews::Ended {
            task: delivery.task,
            attempt: delivery.attempt,
            epoch: delivery.epoch,
            result: Err(failure),
        };
        ractor::concurrency::spawn(
            async move { services.report(&agent, instance, vec![news]).await },
        );
    }
}
