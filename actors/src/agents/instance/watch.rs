//! The watch over what the agent does: what its lines mean for its liveness, and what follows from what is found.
//!
//! ```text
//!  lines, timers ──► Watch::step ──► finding ──► agent's actor ──► journal ──(durable)──► act: end, cancel, alert
//!  what it says of itself ──► Condition::settle ──► change ──► agent's actor ──► journal ──► drained, or ended
//! ```
//! So nothing is done about a finding before it is on record, and each is acted upon once.

use std::time::Duration;

use serde_json::Value;

use mesh_actors_core::liveness::{Call, Fingerprint, Input, Limits, Watch};
use mesh_messages::events::{CallNote, SentinelEvent};
use mesh_messages::klp::{CallAnnounced, Envelope, ErrorCode, KlpError, StatusUpdate};
use mesh_messages::liveness::{Finding, FindingAction};
use mesh_messages::manifest::{AgentManifest, RuntimeKind};
use mesh_messages::{Failure, FailureClass, TaskId, Timestamp};

use super::session::problem;
use super::{Phase, Session};
use crate::agents::agent::AgentMessage;
use crate::clock::now;

/// Of what an agent calls something, what a finding repeats.
const NAME_MAX: usize = 64;

/// The watch over an incarnation of this agent.
pub(super) fn watch(manifest: &AgentManifest, limits: Limits, now: Timestamp) -> Watch {
    // Who does not speak has no heartbeat.
    let speaks = manifest.resolved_runtime().kind == RuntimeKind::Klp;
    let ttl = manifest.heartbeat.filter(|_| speaks);
    Watch::new(limits, ttl.map(|heartbeat| heartbeat.ttl.duration()), now)
}

/// A delegated task, as a call of its parent's.
pub(super) fn delegated(request: &str) -> String {
    format!("task {request}")
}

impl Session {
    /// Whether anything is still expected of it.
    fn is_watched(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Draining { .. }) && !self.stands()
    }

    /// When time alone may show something.
    pub(super) fn watch_due(&self) -> Option<Timestamp> {
        let due = self.watch.due().into_iter().chain(self.condition.due());
        due.min().filter(|_| self.is_watched())
    }

    /// Takes note of something, and passes on what it shows.
    pub(super) fn watched(&mut self, input: Input) {
        if !self.is_watched() {
            // Nothing counts against who stands still; but what it is answered meanwhile, it does not wait for any more.
            if let Input::Answered { task, id } = &input {
                self.watch.answered_still(now(), task.as_ref(), id);
            }
            return;
        }
        let mut findings = Vec::new();
        self.watch.step(now(), input, &mut findings);
        for finding in findings {
            tracing::warn!(
                finding = finding.finding.name(),
                action = finding.action.name(),
                task = finding.task.as_ref().map(tracing::field::display),
                reason = finding.detail,
                "found to get nowhere"
            );
            let _owner_gone = self.args.owner.cast(AgentMessage::Found {
                instance: self.args.instance,
                epoch: self.args.epoch,
                finding: Box::new(finding),
            });
        }
    }

    /// Does what a finding leads to. It is on record by now.
    pub(super) fn act(&mut self, finding: Finding) {
        if !self.is_watched() {
            return;
        }
        match (finding.action, finding.task, finding.attempt) {
            (FindingAction::End, ..) => {
                self.kill(Some(Failure::new(FailureClass::Hang, finding.detail)));
            }
            (FindingAction::Cancel, Some(task), Some(attempt)) => {
                let flight = self.flights.get(&task);
                let held = flight.is_some_and(|f| f.attempt == attempt && f.give_up.is_none());
                if held {
                    let reason = Failure::new(FailureClass::Timeout, finding.detail);
                    self.cancel_attempt(&task, attempt, reason);
                    if let Some(Some(give_up)) = self.flights.get_mut(&task).map(|f| &mut f.give_up)
                    {
                        give_up.found = true;
                    }
                }
            }
            (FindingAction::Alert, Some(task), _) => {
                if self.flights.contains_key(&task) {
                    self.condition.alerted(task, &finding.detail);
                    self.settle_condition();
                }
            }
            // Without a task there is nothing to cancel, and nothing that could be watched until its end.
            (FindingAction::Cancel | FindingAction::Alert | FindingAction::Off, ..) => {}
        }
    }

    /// Tells the owner when the instance is not what it was.
    pub(super) fn settle_condition(&mut self) {
        if !self.is_watched() {
            return;
        }
        if let Some(change) = self.condition.settle(now()) {
            self.args.live.set_level(change.to);
            let _owner_gone = self.args.owner.cast(AgentMessage::Condition {
                instance: self.args.instance,
                epoch: self.args.epoch,
                change: Box::new(change),
            });
        }
    }

    /// The task that a line is about: the one it names, or the only one in hand.
    pub(super) fn about(&self, envelope: &Envelope) -> Option<TaskId> {
        match &envelope.task_id {
            Some(task) => self.flights.contains_key(task).then(|| task.clone()),
            None => self.only_task(),
        }
    }

    /// It announces a call, or the end of one.
    pub(super) fn announced(
        &mut self,
        envelope: &Envelope,
        update: &StatusUpdate,
    ) -> Result<(), KlpError> {
        if update.call.is_none() && update.call_ended.is_none() {
            return Ok(());
        }
        let task = self.about(envelope);
        if let Some(named) = envelope.task_id.as_ref().filter(|_| task.is_none()) {
            let detail = format!("{named} is not in hand");
            return Err(problem(ErrorCode::Stale, Some("task_id"), detail));
        }
        if let Some(id) = &update.call_ended {
            let note = self.call_note(task.clone(), id);
            self.note_call(SentinelEvent::CallEnded(Box::new(note)));
            let id = own(id);
            self.watched(Input::Answered {
                task: task.clone(),
                id,
            });
        }
        let Some(call) = &update.call else {
            return Ok(());
        };
        let note = CallNote {
            name: call.name.clone(),
            fingerprint: call.fingerprint.clone(),
            bound_ms: Some(call.bound_ms.get()),
            ..self.call_note(task.clone(), &call.id)
        };
        let call = announced_call(call);
        if !self.watch.takes_call(task.as_ref(), &call.id) {
            let detail =
                "too many calls are in flight; say of some that they have ended".to_owned();
            return Err(problem(ErrorCode::Busy, Some("payload.call"), detail));
        }
        self.note_call(SentinelEvent::CallAnnounced(Box::new(note)));
        self.watched(Input::Called { task, call });
        Ok(())
    }

    fn call_note(&self, task: Option<TaskId>, id: &str) -> CallNote {
        CallNote {
            agent: self.args.agent.clone(),
            epoch: self.args.epoch,
            task,
            id: id.to_owned(),
            name: None,
            fingerprint: None,
            bound_ms: None,
        }
    }

    /// What it does beside meshd is on record, too, as far as it says so.
    fn note_call(&self, event: SentinelEvent) {
        let (SentinelEvent::CallAnnounced(call) | SentinelEvent::CallEnded(call)) = &event else {
            return;
        };
        let led = call.task.as_ref().and_then(|task| self.led_by(Some(task)));
        self.args.services.called(event, led);
    }

    /// It has something done by another agent.
    pub(super) fn watch_delegation(&mut self, parent: &TaskId, envelope: &Envelope) {
        let what = Fingerprint::of("TASK_REQUEST", envelope.payload.to_string().as_bytes());
        let call = Call {
            id: delegated(&envelope.id),
            name: "TASK_REQUEST".to_owned(),
            what,
            // The task's deadline is the bound.
            bound: None,
            moves: true,
            waits: false,
        };
        let task = Some(parent.clone());
        self.watched(Input::Called { task, call });
    }

    /// It reads or writes memory. What it is on behalf of is known only when it says so, or has one task in hand; the
    /// call that has to be answered, then.
    pub(super) fn watch_memory(&mut self, envelope: &Envelope) -> Option<(TaskId, String)> {
        let task = self.about(envelope)?;
        let asked = format!("{} {}", envelope.to, envelope.payload);
        let text = |key: &str| envelope.payload[key].as_str().unwrap_or_default();
        let name = format!("MEMORY {} {}", text("op"), text("key"));
        let id = format!("memory {}", envelope.id);
        let call = Call {
            id: id.clone(),
            name: name.trim_end().chars().take(NAME_MAX).collect(),
            what: Fingerprint::of("MEMORY", asked.as_bytes()),
            bound: None,
            // To remember something is not to have done it.
            moves: false,
            waits: false,
        };
        self.watched(Input::Called {
            task: Some(task.clone()),
            call,
        });
        Some((task, id))
    }

    /// Answers what an agent asked for aside.
    pub(super) fn answer(&mut self, line: Vec<u8>, call: Option<(TaskId, String)>) {
        if let Some((task, id)) = call {
            let task = Some(task);
            self.watched(Input::Answered { task, id });
        }
        self.write(line);
    }
}

/// An agent's own name for a call, apart from those that meshd gives.
fn own(id: &str) -> String {
    format!("call {id}")
}

fn announced_call(call: &CallAnnounced) -> Call {
    let name = call.name.as_deref().unwrap_or(&call.id);
    let asked = call.fingerprint.as_deref().unwrap_or_default();
    let what = Value::from(vec![name, asked]).to_string();
    Call {
        id: own(&call.id),
        name: name.chars().take(NAME_MAX).collect(),
        what: Fingerprint::of("call", what.as_bytes()),
        bound: Some(Duration::from_millis(call.bound_ms.get())),
        moves: true,
        waits: false,
    }
}
