//! The attempts that an instance has in hand, and what it asks of the mesh on their behalf.

use std::sync::Arc;

use ractor::ActorRef;
use serde_json::Value;
use tokio::sync::Semaphore;

use mesh_actors_core::liveness::Input;
use mesh_messages::address::Address;
use mesh_messages::klp::{
    ControlVerb, Envelope, ErrorCode, KlpDecodeError, KlpError, MemoryOp, MessageType, TaskRequest,
    TaskResult,
};
use mesh_messages::{AttemptNo, Failure, FailureClass, TaskId};

use super::checks::Checkable;
use super::refusals::{nameless, told};
use super::session::problem;
use super::watch::delegated;
use super::{Awaited, Flight, GiveUp, InstanceMessage, Phase, Session};
use crate::agents::delivery::{AttemptNews, ChildOutcome, Delivery};
use crate::agents::process::Stdin;
use crate::agents::services::{BearerText, Delegation};
use crate::bus::Waiter;
use crate::clock::now;
use crate::partition::Cause;

impl Session {
    /// Takes an attempt in hand.
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        let held = self.flights.contains_key(&delivery.task);
        if delivery.epoch != self.args.epoch || self.phase != Phase::Ready || held {
            let text = if held {
                "the instance has not let go of an earlier attempt yet"
            } else {
                "the instance no longer takes work"
            };
            let failure = Failure::new(FailureClass::Lost, text);
            return self.report(AttemptNews::Ended {
                task: delivery.task,
                attempt: delivery.attempt,
                epoch: delivery.epoch,
                result: Err(failure),
            });
        }
        if let Err(failure) = self.terms.takes(&delivery.needs, &delivery.input) {
            return self.report(AttemptNews::Ended {
                task: delivery.task,
                attempt: delivery.attempt,
                epoch: delivery.epoch,
                result: Err(failure),
            });
        }
        let (task, attempt, epoch) = (delivery.task.clone(), delivery.attempt, self.args.epoch);
        self.flights.insert(
            task.clone(),
            Flight {
                attempt,
                led: delivery.led.clone(),
                behind: self.queued,
                unread: false,
                give_up: None,
                work: Checkable::of(&delivery),
            },
        );
        self.show_flights();
        if self.converses() {
            self.watched(Input::Begun {
                task: task.clone(),
                attempt,
            });
        }
        self.report(AttemptNews::Started {
            task,
            attempt,
            epoch,
        });
        if !self.converses() {
            return self.run(delivery);
        }
        let left = delivery.attempt_until.since(now());
        let request = TaskRequest {
            action: Some(delivery.action),
            requirements: Vec::new(),
            input: (*delivery.input).clone(),
            deadline_ms: Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            timeout_ms: None,
            approval: None,
            budget: None,
            claims: delivery.claims,
            escalate: None,
            trust: None,
        };
        let payload = serde_json::to_value(request).unwrap_or_default();
        let mut envelope = self.message(MessageType::TaskRequest, payload);
        envelope.task_id = Some(delivery.task);
        envelope.attempt = Some(delivery.attempt);
        envelope.priority = delivery.priority;
        self.send(&envelope);
    }

    pub(super) fn task_result(&mut self, envelope: &Envelope) -> Result<(), KlpError> {
        let Some(task) = envelope.task_id.clone() else {
            let (failure, problem) = nameless();
            if let Some(task) = self.only_task() {
                self.land(&task, Err(failure));
            }
            return Err(problem);
        };
        // What is being checked was handed in before.
        let flight = self.flights.get(&task);
        let Some(flight) = flight.filter(|_| !self.running.contains_key(&task)) else {
            self.args.ctx.metrics.refused("stale_result");
            return Err(problem(
                ErrorCode::Stale,
                Some("task_id"),
                format!("{task} is not in hand"),
            ));
        };
        if envelope
            .attempt
            .is_some_and(|attempt| attempt != flight.attempt)
        {
            self.args.ctx.metrics.refused("stale_result");
            let detail = format!("attempt {} is in hand", flight.attempt);
            return Err(problem(ErrorCode::Stale, Some("attempt"), detail));
        }
        let (attempt, epoch) = (flight.attempt, self.args.epoch);
        let payload = envelope.payload_as::<TaskResult>();
        if let Ok(TaskResult::Done { usage, .. } | TaskResult::Failed { usage, .. }) = &payload
            && let Some(usage) = *usage
        {
            self.report(AttemptNews::Used {
                task: task.clone(),
                attempt,
                epoch,
                usage,
                last: true,
            });
        }
        let (result, error) = match payload {
            Ok(TaskResult::Done { output, .. }) => (Ok(output), None),
            Ok(TaskResult::Failed { error, .. }) => {
                let mut failure = own_word(error);
                self.blotter.text(&mut failure.message);
                self.hook_error(Some(task.clone()), told(&failure));
                (Err(failure), None)
            }
            Err(error) => (Err(contract(&error)), Some(error)),
        };
        // A result counts as the agent's word, so what it signed is kept with it.
        let auth = envelope.auth.as_ref();
        if auth.is_some_and(|auth| auth.signature.is_some()) {
            let led = self.flights.get(&task).map(|flight| flight.led.clone());
            self.report(AttemptNews::Said {
                task: task.clone(),
                line: Box::new(envelope.clone()),
                led: led.unwrap_or_else(Cause::meshd),
            });
        }
        self.handed_in(&task, result);
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// An attempt has come to its end.
    pub(super) fn land(&mut self, task: &TaskId, result: Result<Value, Failure>) {
        let Some(flight) = self.flights.remove(task) else {
            return;
        };
        self.watched(Input::Ended { task: task.clone() });
        self.condition.ended(task);
        self.settle_condition();
        if let (Err(failure), None) = (&result, &flight.give_up) {
            self.note_failed(task, flight.attempt, failure);
        }
        // Also of an attempt that was cancelled: its slot is free only now.
        let (task, attempt, epoch) = (task.clone(), flight.attempt, self.args.epoch);
        self.report(AttemptNews::Ended {
            task,
            attempt,
            epoch,
            result,
        });
        self.after_flight();
    }

    /// Makes the agent let go of an attempt.
    pub(super) fn cancel_attempt(&mut self, task: &TaskId, attempt: AttemptNo, reason: Failure) {
        let limit = self.args.ctx.settings.cancel_timeout;
        let held = self.flights.get(task).is_some_and(|f| f.attempt == attempt);
        if held && reason.class != FailureClass::Cancelled {
            self.note_failed(task, attempt, &reason);
        }
        if !held {
            // It has let go already; whoever cancels waits to hear so.
            let (task, epoch) = (task.clone(), self.args.epoch);
            return self.report(AttemptNews::Ended {
                task,
                attempt,
                epoch,
                result: Err(reason),
            });
        }
        if let Some(work) = self.running.get_mut(task) {
            // Its slot is free when its process, or that of a check, is gone; the runner says so.
            return work.cancel();
        }
        if !self.converses() {
            return;
        }
        let control = self.control(
            ControlVerb::Cancel,
            Value::Null,
            Some(task.clone()),
            Some(limit),
        );
        if let Some(flight) = self.flights.get_mut(task) {
            flight.give_up = Some(GiveUp {
                until: now().plus(limit),
                control,
                reason,
                found: false,
            });
        }
    }

    /// Marks what the agent ended without having read: that it ended is not these tasks' doing.
    pub(super) fn mark_unread(&mut self) {
        let Some(Ok(read)) = self.stdin.as_ref().map(Stdin::read_bytes) else {
            return;
        };
        for flight in self.flights.values_mut() {
            flight.unread = flight.behind >= read;
        }
    }

    /// What was in hand at the end: what the agent never read is given back, the rest fails with its instance.
    pub(super) fn abandon_flights(&mut self, failure: Option<&Failure>) {
        let unread: Vec<_> = self.flights.extract_if(.., |_, f| f.unread).collect();
        for (task, flight) in unread {
            let failure = Failure::new(FailureClass::Lost, "the agent ended before it read of it");
            self.note_failed(&task, flight.attempt, &failure);
            self.report(AttemptNews::Ended {
                task,
                attempt: flight.attempt,
                epoch: self.args.epoch,
                result: Err(failure),
            });
        }
        for (task, flight) in &self.flights {
            // Those that were to be given up have been noted.
            if let (Some(failure), None) = (failure, &flight.give_up) {
                self.note_failed(task, flight.attempt, failure);
            }
        }
    }

    /// One line for each attempt that failed.
    pub(super) fn note_failed(&self, task: &TaskId, attempt: AttemptNo, failure: &Failure) {
        tracing::warn!(
            agent = %self.args.agent,
            instance = %self.args.instance,
            epoch = %self.args.epoch,
            %task,
            %attempt,
            class = failure.class.name(),
            reason = %failure.message,
            "an attempt failed"
        );
    }

    pub(super) fn report(&mut self, news: AttemptNews) {
        if let AttemptNews::Progress { .. } = &news {
            // Never kept for long, so it need not wait for its turn.
            let (services, agent) = (Arc::clone(&self.args.services), self.args.agent.clone());
            let instance = self.args.instance;
            ractor::concurrency::spawn(async move {
                services.report(&agent, instance, vec![news]).await;
            });
        } else {
            self.reports.send(news);
        }
    }

    /// The task in hand on whose behalf something is asked.
    pub(super) fn behalf(&self, envelope: &Envelope) -> Result<TaskId, KlpError> {
        let parent = match (&envelope.task_id, self.flights.len()) {
            (Some(parent), _) if self.flights.contains_key(parent) => Some(parent.clone()),
            (Some(parent), _) => {
                let detail = format!("{parent} is not in hand");
                return Err(problem(ErrorCode::Stale, Some("task_id"), detail));
            }
            (None, 1) => self.flights.keys().next().cloned(),
            (None, _) => None,
        };
        let Some(parent) = parent else {
            let detail = format!(
                "{} tasks are in hand; name the one on whose behalf this is",
                self.flights.len()
            );
            return Err(problem(ErrorCode::MissingField, Some("task_id"), detail));
        };
        Ok(parent)
    }

    pub(super) fn delegate(&mut self, envelope: &Envelope) -> Result<bool, KlpError> {
        let task: TaskRequest = envelope.payload_as()?;
        let parent = self.behalf(envelope)?;
        let request = envelope.id.clone();
        self.watch_delegation(&parent, envelope);
        let watched = Some((parent.clone(), delegated(&request)));
        let delegation = Delegation {
            agent: self.args.agent.clone(),
            instance: self.args.instance,
            epoch: self.args.epoch,
            attempt: self
                .flights
                .get(&parent)
                .map(|f| f.attempt)
                .unwrap_or_default(),
            parent,
            request: request.clone(),
            task,
            avoid: None,
            token: envelope
                .auth
                .as_ref()
                .and_then(|auth| auth.token.as_deref())
                .map(BearerText::new),
            within: Vec::new(),
            line: (envelope.auth.as_ref())
                .is_some_and(|auth| auth.signature.is_some())
                .then(|| Box::new(envelope.clone())),
        };
        let services = Arc::clone(&self.args.services);
        let led = self.led_by(Some(&delegation.parent));
        self.aside((watched, led, None), async move {
            match services.delegate(delegation).await {
                Ok(_) => None,
                // A delegation that is refused has its outcome: so an agent waits for one kind of answer only.
                Err(error) => {
                    let failure = Failure::new(FailureClass::Refusal, error.detail);
                    Some((
                        MessageType::TaskResult,
                        request,
                        result_payload(&Err(failure)),
                    ))
                }
            }
        });
        Ok(true)
    }

    /// Tells the agent how a delegated task ended.
    pub(super) fn child_ended(&mut self, outcome: ChildOutcome) {
        let Some(outcome) = self.verdict_given(outcome) else {
            return;
        };
        self.watched(Input::Answered {
            task: Some(outcome.parent),
            id: delegated(&outcome.request),
        });
        let mut envelope = self.message(MessageType::TaskResult, result_payload(&outcome.result));
        envelope.in_reply_to = Some(outcome.request);
        envelope.task_id = Some(outcome.child);
        self.send(&envelope);
    }

    pub(super) fn memory(&mut self, envelope: &Envelope) -> Result<bool, KlpError> {
        let op: MemoryOp = envelope.payload_as()?;
        let (services, agent) = (Arc::clone(&self.args.services), self.args.agent.clone());
        let id = envelope.id.clone();
        let watched = self.watch_memory(envelope);
        // Addressed to another agent, it is about that agent's memory.
        let owner = match &envelope.to {
            Address::Agent { id, .. } => id.clone(),
            _ => agent.clone(),
        };
        let led = self.led_by(envelope.task_id.as_ref());
        let task = self.about(envelope);
        self.aside((watched, led, task), async move {
            let reply = services.memory(&agent, &owner, op).await;
            Some((
                MessageType::Memory,
                id,
                serde_json::to_value(reply).unwrap_or_default(),
            ))
        });
        Ok(true)
    }

    /// Whether somebody waits for this as the answer to a message: then they get it, and nothing else is done with it.
    pub(super) fn is_awaited(&self, line: &Envelope) -> bool {
        let asked = line.in_reply_to.as_ref();
        line.kind == MessageType::Message && asked.is_some_and(|id| self.mail.contains_key(id))
    }

    /// Passes on what the agent says to others; true when a side task does it.
    pub(super) fn pass_on(&mut self, mut envelope: Envelope) -> bool {
        let says = matches!(
            envelope.kind,
            MessageType::Message | MessageType::Publish | MessageType::SecurityAlert
        );
        // What it signed is left as it is, and what answers another's message is about that one's task.
        let signed = envelope
            .auth
            .as_ref()
            .is_some_and(|auth| auth.signature.is_some());
        if says && !signed && envelope.task_id.is_none() && envelope.in_reply_to.is_none() {
            envelope.task_id = self.only_task();
        }
        let asked = envelope
            .in_reply_to
            .as_ref()
            .filter(|_| self.is_awaited(&envelope));
        if let Some(awaited) = asked.and_then(|id| self.mail.remove(id)) {
            self.answer_mail(awaited, envelope);
            return true;
        }
        let (services, agent) = (Arc::clone(&self.args.services), self.args.agent.clone());
        let (epoch, id, me) = (self.args.epoch, envelope.id.clone(), self.me.clone());
        let led = self.led_by(envelope.task_id.as_ref());
        self.aside((None, led, None), async move {
            match services.pass_on(&agent, epoch, envelope).await {
                Ok(None) => None,
                Ok(Some(answer)) => Some((answer.kind, id, answer.payload)),
                Err(error) => {
                    refused(&me, id, error);
                    None
                }
            }
        });
        true
    }

    /// Gives somebody who waits the agent's answer, when it is on the disk.
    fn answer_mail(&mut self, Awaited { by, asker }: Awaited, mut envelope: Envelope) {
        let Waiter {
            answer,
            correlation,
        } = by;
        let signature = envelope
            .auth
            .as_ref()
            .and_then(|auth| auth.signature.as_ref());
        if signature.is_none() {
            // Whom it answers is known, whatever the line says or leaves out; what is signed stays as it is.
            envelope.to = asker.clone();
        }
        let (services, agent) = (Arc::clone(&self.args.services), self.args.agent.clone());
        let (epoch, id, me) = (self.args.epoch, envelope.id.clone(), self.me.clone());
        let permit = Permit(Arc::clone(&self.lines));
        let work = async move {
            match services.answered(&agent, epoch, (&asker, envelope)).await {
                Ok(envelope) => drop(answer.send(envelope)),
                Err(error) => refused(&me, id, error),
            }
            drop(permit);
        };
        // It belongs to the request that asked; which message it follows from is found where it is journalled. It goes on
        // when the agent ends right after its last word.
        let work = crate::request::following(None, correlation, work);
        ractor::concurrency::spawn(work);
    }

    /// What led to a line of the agent: the attempt at the task that it names, or at the only one in hand.
    pub(super) fn led_by(&self, task: Option<&TaskId>) -> Option<Cause> {
        let flight = match task {
            Some(task) => self.flights.get(task),
            None if self.flights.len() == 1 => self.flights.values().next(),
            None => None,
        };
        flight.map(|flight| flight.led.clone())
    }

    /// Does something that takes time beside the session, then writes the answer and gives the line's permit back. With
    /// an answer, the watched call has ended.
    pub(super) fn aside(
        &mut self,
        (watched, led, task): (Option<(TaskId, String)>, Option<Cause>, Option<TaskId>),
        work: impl Future<Output = Option<(MessageType, String, Value)>> + Send + 'static,
    ) {
        let (me, permit) = (self.me.clone(), Permit(Arc::clone(&self.lines)));
        let mut answer = self.message(MessageType::Message, Value::Null);
        self.spawn(async move {
            let (cause, correlation) = led.map_or((None, None), |l| (l.cause, l.correlation));
            let answered = crate::request::working_on(task, cause, correlation, work).await;
            if let Some((kind, in_reply_to, payload)) = answered {
                answer.kind = kind;
                answer.payload = payload;
                answer.in_reply_to = Some(in_reply_to);
                let _gone = me.cast(InstanceMessage::Answer(answer.to_line(), watched));
            }
            drop(permit);
        });
    }
}

/// Tells the agent that its line was refused.
fn refused(me: &ActorRef<InstanceMessage>, line: String, error: KlpError) {
    let refused = InstanceMessage::Refused {
        line,
        error,
        recorded: crate::request::was_denied(),
    };
    let _gone = me.cast(refused);
}

/// A line's permit, given back whatever happens to what the line led to.
struct Permit(Arc<Semaphore>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

fn contract(error: &KlpDecodeError) -> Failure {
    Failure::new(
        FailureClass::Contract,
        format!("its TASK_RESULT is malformed: {error}"),
    )
}

/// An agent may say how its work failed, but not what only meshd can know.
fn own_word(failure: Failure) -> Failure {
    let class = match failure.class {
        FailureClass::Crash | FailureClass::Start | FailureClass::Hang | FailureClass::Resource => {
            FailureClass::Unavailable
        }
        FailureClass::Policy | FailureClass::Lost | FailureClass::Cancelled => {
            FailureClass::Refusal
        }
        FailureClass::Timeout
        | FailureClass::Unavailable
        | FailureClass::Contract
        | FailureClass::Quota
        | FailureClass::Refusal
        | FailureClass::Declined
        | FailureClass::Auth => failure.class,
    };
    Failure { class, ..failure }
}

fn result_payload(result: &Result<Value, Failure>) -> Value {
    let result = match result {
        Ok(output) => TaskResult::Done {
            output: output.clone(),
            usage: None,
        },
        Err(error) => TaskResult::Failed {
            error: error.clone(),
            usage: None,
        },
    };
    serde_json::to_value(result).unwrap_or_default()
}
