//! The KLP conversation of an instance: what its lines mean, and what is written to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use mesh_actors_core::liveness;
use mesh_messages::address::Address;
use mesh_messages::klp::{
    Control, ControlVerb, Defaults, Envelope, ErrorCode, Handshake, HandshakeReply, KlpDecodeError,
    KlpError, MessageType, SessionLimits, Stamp, StatusUpdate, decode_with, is_challenge,
    node_proof,
};
use mesh_messages::manifest::{AgentManifest, Program};
use mesh_messages::task::Progress;
use mesh_messages::{Failure, FailureClass, TaskId};

use super::{Asked, Awaited, Phase, Session};
use crate::agents::agent::AgentMessage;
use crate::agents::delivery::{AttemptNews, Mail};
use crate::agents::lines::{Input, LINE_MAX};
use crate::agents::policy::effective;
use crate::clock::now;

/// How often an agent with the `health` hook and no declared heartbeat is asked, and how long it may take.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
const HEALTH_TTL: Duration = Duration::from_secs(15);
/// Answers that may be outstanding from one agent to those who wrote to it.
const MAIL_MAX: usize = 256;

impl Session {
    pub(super) fn input(&mut self, input: Input) {
        // What is being ended is not listened to any more.
        let heard = !matches!(self.phase, Phase::Killed { .. });
        match input {
            Input::Line(line) if heard => {
                self.args.live.active(now());
                // A side task that the line leads to gives the permit back itself.
                if !self.line(&line) {
                    self.lines.add_permits(1);
                }
                self.watched(liveness::Input::Line);
            }
            Input::TooLong(ends) if heard => {
                self.too_long(&ends);
                self.lines.add_permits(1);
                self.watched(liveness::Input::Line);
            }
            Input::Line(_) | Input::TooLong(_) => self.lines.add_permits(1),
            Input::End => self.heard_out(),
        }
    }

    /// Handles a line; true when a side task has taken over its permit.
    fn line(&mut self, line: &[u8]) -> bool {
        if line.iter().all(u8::is_ascii_whitespace) {
            return false;
        }
        let envelope = match decode_with(line, &self.defaults()) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.unreadable_result(line, &error.to_string());
                self.refuse(error.id.clone(), &error.into());
                return false;
            }
        };
        if self.is_forged(&envelope)
            || self.is_badly_signed(&envelope)
            || self.is_unsigned(&envelope)
        {
            return false;
        }
        if envelope.epoch.is_some_and(|epoch| epoch != self.args.epoch) {
            self.args.ctx.metrics.refused("stale_epoch");
            let detail = format!("this is epoch {}", self.args.epoch);
            self.refuse(
                Some(envelope.id),
                &problem(ErrorCode::Stale, Some("epoch"), detail),
            );
            return false;
        }
        if envelope.kind != MessageType::Handshake && !self.shook {
            let detail = "the first line is a HANDSHAKE".to_owned();
            self.refuse(
                Some(envelope.id),
                &problem(ErrorCode::Unexpected, Some("type"), detail),
            );
            return false;
        }
        self.envelope(envelope)
    }

    fn envelope(&mut self, envelope: Envelope) -> bool {
        let id = envelope.id.clone();
        if self.lacks_permission(&envelope) {
            return false;
        }
        let done = match envelope.kind {
            MessageType::Handshake => self.handshake(&envelope).map(|()| false),
            MessageType::TaskResult => self.task_result(&envelope).map(|()| false),
            MessageType::StatusUpdate => self.status_update(&envelope).map(|()| false),
            MessageType::TaskRequest => self.delegate(&envelope),
            MessageType::Memory => self.memory(&envelope),
            MessageType::Claim => self.claim(&envelope),
            MessageType::Message
            | MessageType::Publish
            | MessageType::Subscribe
            | MessageType::Ack
            | MessageType::CapabilityQuery
            | MessageType::SecurityAlert => Ok(self.pass_on(envelope)),
            MessageType::Error => {
                let text = envelope.payload.to_string();
                self.args
                    .log
                    .push(now(), self.args.instance, self.args.epoch, text.as_bytes());
                Ok(false)
            }
            MessageType::Control | MessageType::CapabilityReply => {
                let detail = format!("{} is meshd's to send", envelope.kind);
                Err(problem(ErrorCode::Unexpected, Some("type"), detail))
            }
        };
        done.unwrap_or_else(|problem| {
            self.refuse(Some(id), &problem);
            false
        })
    }

    fn defaults(&self) -> Defaults {
        Defaults {
            id: None,
            from: Some(Address::agent(self.args.agent.clone())),
            to: Address::node(&self.args.ctx.node.did.to_string()).ok(),
            timestamp: Some(now()),
            epoch: Some(self.args.epoch),
        }
    }

    pub(super) fn message(&mut self, kind: MessageType, payload: Value) -> Envelope {
        self.next_id += 1;
        let stamp = Stamp {
            id: format!("m{}-{}", self.args.epoch, self.next_id),
            timestamp: now(),
            epoch: Some(self.args.epoch),
        };
        let to = Address::agent(self.args.agent.clone());
        let from =
            Address::node(&self.args.ctx.node.did.to_string()).unwrap_or_else(|_| to.clone());
        Envelope::new(kind, from, to, payload, stamp)
    }

    pub(super) fn send(&mut self, envelope: &Envelope) {
        self.write(envelope.to_line());
    }

    pub(super) fn write(&mut self, line: Vec<u8>) {
        let Some(out) = &self.out else { return };
        self.queued += line.len() as u64;
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) = out.try_send(line) {
            self.kill(Some(Failure::new(
                FailureClass::Hang,
                "does not read its input",
            )));
        }
    }

    // ---- the start ----

    fn handshake(&mut self, envelope: &Envelope) -> Result<(), KlpError> {
        if self.shook && self.args.manifest.security.session {
            return self.renew(envelope);
        }
        if self.shook || self.phase != Phase::Starting {
            let detail = "hands were shaken already, or it is too late for that".to_owned();
            return Err(problem(ErrorCode::Unexpected, Some("type"), detail));
        }
        let hello: Handshake = match envelope.payload_as().and_then(checked) {
            Ok(hello) => hello,
            Err(error) => {
                let text = format!("its handshake is malformed: {error}");
                self.kill(Some(Failure::new(FailureClass::Start, text)));
                return Ok(());
            }
        };
        let manifest = Arc::clone(&self.args.manifest);
        if let Some(surplus) = hello
            .capabilities
            .iter()
            .find(|c| !manifest.has_capability(c))
        {
            let text = format!("its profile is wider than its manifest: {surplus}");
            self.kill(Some(Failure::new(FailureClass::Start, text)));
            return Ok(());
        }
        if let Some(other) = other_identity(&hello, &manifest) {
            // Its channel is its identity, not what it calls itself; but an operator may have deployed the wrong files.
            tracing::warn!(manifest = %manifest.id, version = %manifest.version, "its handshake names {other}");
        }
        if !self.has_proven(&hello, envelope) {
            return Ok(());
        }
        self.hooks = hello.hooks.iter().copied().collect();
        if let Err(error) = self.welcome(&hello, envelope) {
            let text = format!("it was given no token: {}", error.detail);
            self.kill(Some(Failure::new(FailureClass::Start, text)));
            return Ok(());
        }
        let capabilities: BTreeSet<String> = if hello.capabilities.is_empty() {
            manifest.capabilities.iter().cloned().collect()
        } else {
            hello.capabilities.into_iter().collect()
        };
        // Popped from the end: `init` comes first.
        if self.would_lose_state() {
            return Ok(());
        }
        for verb in [
            ControlVerb::Start,
            ControlVerb::RestoreState,
            ControlVerb::Upgrade,
            ControlVerb::Init,
        ] {
            let args = match (&self.args.upgraded_from, verb) {
                (Some(from), ControlVerb::Upgrade) => json!({ "oldVersion": from }),
                (None, ControlVerb::Upgrade) => continue,
                (_, ControlVerb::RestoreState) => match self.handed_on() {
                    Some(args) => args,
                    None => continue,
                },
                _ => Value::Null,
            };
            if self.hooks.contains(&verb) {
                self.opening.push((verb, args));
            }
        }
        if self.opening.is_empty() {
            self.up(capabilities);
        } else {
            self.shaken(capabilities);
            self.open_next();
        }
        Ok(())
    }

    fn hooks_named(&self) -> Vec<String> {
        self.hooks.iter().map(|h| h.name().to_owned()).collect()
    }

    /// Hands were shaken by this profile, and there is nothing left to do before it serves: one thing to tell, and to
    /// write down.
    pub(super) fn up(&mut self, capabilities: BTreeSet<String>) {
        self.shook = true;
        if self.serve() {
            let _owner_gone = self.args.owner.cast(AgentMessage::InstanceUp {
                instance: self.args.instance,
                epoch: self.args.epoch,
                hooks: self.hooks_named(),
                proven: self.proven.take(),
                capabilities,
            });
        }
    }

    /// Tells the owner that hands were shaken, and by what profile.
    fn shaken(&mut self, capabilities: BTreeSet<String>) {
        self.shook = true;
        let hooks = self.hooks_named();
        let _owner_gone = self.args.owner.cast(AgentMessage::InstanceShaken {
            instance: self.args.instance,
            epoch: self.args.epoch,
            hooks,
            proven: self.proven.take(),
            capabilities,
        });
    }

    pub(super) fn hello_reply(&self, hello: &Handshake) -> HandshakeReply {
        let limits = effective(&self.args.manifest, &self.args.ctx).limits.kernel;
        let node = &self.args.ctx.node;
        let key = *node.signer().keys().current();
        let (agent, epoch) = (&self.args.agent, self.args.epoch);
        let proof = hello.challenge.as_ref().map(|challenge| {
            let text = node_proof(&node.did.to_string(), agent, epoch, challenge);
            node.signer().secret().sign(&text)
        });
        HandshakeReply {
            node: node.did.to_string(),
            key: (key != node.did).then(|| key.to_string()),
            agent: self.args.agent.clone(),
            instance: self.args.instance,
            epoch: self.args.epoch,
            challenge: None,
            proof,
            session: None,
            limits: SessionLimits {
                line_bytes: LINE_MAX as u64,
                concurrency: self.args.manifest.concurrency.get(),
                memory_bytes: limits.memory_bytes,
                cpu_millicores: limits.cpu_millicores,
                heartbeat_ttl_ms: self.args.manifest.heartbeat.map(|h| h.ttl.as_millis()),
            },
        }
    }

    /// Calls the next hook of the start; after the last one the agent is ready.
    fn open_next(&mut self) {
        match self.opening.pop() {
            Some((verb, args)) => {
                let limit = self.start_until.since(now());
                self.control(verb, args, None, Some(limit));
            }
            None => self.ready(),
        }
    }

    /// It serves from now on; false when it was told to end meanwhile.
    fn serve(&mut self) -> bool {
        if self.phase != Phase::Starting {
            return false;
        }
        self.phase = Phase::Ready;
        self.watched(liveness::Input::Ready);
        // What it said of itself while it started counts from now on.
        self.settle_condition();
        if self.hooks.contains(&ControlVerb::Health) {
            self.next_health = Some(now().plus(self.health_interval()));
        }
        true
    }

    fn ready(&mut self) {
        if self.serve() {
            let _owner_gone = self.args.owner.cast(AgentMessage::InstanceReady {
                instance: self.args.instance,
                epoch: self.args.epoch,
            });
        }
    }

    // ---- hooks ----

    /// Sends a `CONTROL` and answers its id. With a limit, its answer is waited for.
    pub(super) fn control(
        &mut self,
        verb: ControlVerb,
        args: Value,
        task: Option<TaskId>,
        limit: Option<Duration>,
    ) -> String {
        let deadline_ms = limit.map(|l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX));
        let payload = serde_json::to_value(Control {
            verb,
            args,
            deadline_ms,
        })
        .unwrap_or_default();
        let mut envelope = self.message(MessageType::Control, payload);
        envelope.task_id = task;
        // A shutdown is answered by the end, a cancellation by letting go of the task.
        if let Some(limit) = limit.filter(|_| !verb.is_always_sent()) {
            self.asked.insert(
                envelope.id.clone(),
                Asked {
                    verb,
                    limit,
                    until: now().plus(limit),
                },
            );
        }
        self.send(&envelope);
        envelope.id
    }

    fn answered(&mut self, verb: ControlVerb, update: &StatusUpdate) {
        let opening = matches!(
            verb,
            ControlVerb::Init
                | ControlVerb::Start
                | ControlVerb::Upgrade
                | ControlVerb::RestoreState
        );
        if verb == ControlVerb::SaveState {
            return self.state_told(update);
        }
        match &update.error {
            Some(why) if opening => {
                let text = format!("its {} hook failed: {why}", verb.name());
                self.kill(Some(Failure::new(FailureClass::Start, text)));
            }
            None if opening => self.open_next(),
            _ if verb == ControlVerb::Health && self.hooks.contains(&verb) => {
                self.next_health = Some(now().plus(self.health_interval()));
            }
            _ => {}
        }
    }

    /// A hook did not return in time.
    pub(super) fn unanswered(&mut self, asked: &Asked) {
        let verb = asked.verb;
        let (class, text) = match verb {
            ControlVerb::Health => {
                let limit = asked.limit;
                return self.watched(liveness::Input::Unanswered { limit });
            }
            ControlVerb::SaveState => return self.state_untold(),
            ControlVerb::Init
            | ControlVerb::Start
            | ControlVerb::Upgrade
            | ControlVerb::RestoreState => (
                FailureClass::Start,
                format!("its {} hook did not return in time", verb.name()),
            ),
            _ => (
                FailureClass::Hang,
                format!("did not answer `{}` in time", verb.name()),
            ),
        };
        self.kill(Some(Failure::new(class, text)));
    }

    fn health_interval(&self) -> Duration {
        self.args
            .manifest
            .heartbeat
            .map_or(HEALTH_INTERVAL, |h| h.interval.duration())
    }

    /// Asks the agent how it is; its silence is a finding.
    pub(super) fn ask_health(&mut self) {
        self.next_health = None;
        let ttl = self
            .args
            .manifest
            .heartbeat
            .map_or(HEALTH_TTL, |h| h.ttl.duration());
        self.control(ControlVerb::Health, Value::Null, None, Some(ttl));
    }

    /// Takes its secrets out of what it says for people: that is shown, logged and recorded.
    fn blot(&self, update: &mut StatusUpdate) {
        let health = update.health.as_mut();
        let texts = [
            update.note.as_mut(),
            update.error.as_mut(),
            health.and_then(|health| health.message.as_mut()),
        ];
        for text in texts.into_iter().flatten() {
            self.blotter.text(text);
        }
    }

    fn status_update(&mut self, envelope: &Envelope) -> Result<(), KlpError> {
        let mut update: StatusUpdate = envelope.payload_as()?;
        self.blot(&mut update);
        if let Some(health) = &update.health {
            self.condition.reported(now(), health);
            self.settle_condition();
        }
        let answers = envelope.in_reply_to.as_ref();
        self.prepared(answers);
        if let Some(asked) = answers.and_then(|id| self.asked.remove(id)) {
            self.answered(asked.verb, &update);
        } else if answers.is_none() && update.health.is_some() {
            // It says how it is without naming who asked.
            self.asked
                .retain(|_, asked| asked.verb != ControlVerb::Health);
            self.answered(ControlVerb::Health, &update);
        }
        let let_go = self.flights.iter().find_map(|(task, flight)| {
            let give_up = flight.give_up.as_ref()?;
            let named = answers == Some(&give_up.control);
            let working =
                update.progress.is_some() || update.call.is_some() || update.usage.is_some();
            let meant =
                envelope.task_id.as_ref() == Some(task) && !working && update.call_ended.is_none();
            (named || meant).then(|| (task.clone(), give_up.reason.clone()))
        });
        if let Some((task, reason)) = let_go {
            self.land(&task, Err(reason));
            return Ok(());
        }
        self.announced(envelope, &update)?;
        let Some(task) = &envelope.task_id else {
            return Ok(());
        };
        // An answer to a hook may name the task that the hook was about, which is over by then.
        if answers.is_some() && update.progress.is_none() {
            return Ok(());
        }
        let Some(flight) = self.flights.get(task) else {
            return Err(problem(
                ErrorCode::Stale,
                Some("task_id"),
                format!("{task} is not in hand"),
            ));
        };
        let (attempt, epoch) = (flight.attempt, self.args.epoch);
        if let Some(usage) = update.usage {
            self.report(AttemptNews::Used {
                task: task.clone(),
                attempt,
                epoch,
                usage,
                last: false,
            });
        }
        if let Some(fraction) = update.progress {
            let progress = Progress {
                fraction,
                note: update.note,
                at: now(),
            };
            let task = task.clone();
            self.watched(liveness::Input::Progress {
                task: task.clone(),
                fraction,
            });
            self.report(AttemptNews::Progress {
                task,
                attempt,
                epoch,
                progress,
            });
        }
        Ok(())
    }

    /// Gives the agent a message, and remembers who waits for the answer.
    pub(super) fn mail(&mut self, mail: Mail) {
        if self.phase != Phase::Ready || self.out.is_none() {
            return; // The dropped reply tells the sender.
        }
        if let Some(reply) = mail.reply {
            self.mail
                .retain(|_, awaited| !awaited.by.answer.is_closed());
            if self.mail.len() >= MAIL_MAX {
                return;
            }
            let awaited = Awaited {
                by: reply,
                asker: mail.envelope.from.clone(),
            };
            self.mail.insert(mail.envelope.id.clone(), awaited);
        }
        self.send(&mail.envelope);
    }
}

/// A handshake whose challenge, if there is one, is one.
pub(super) fn checked(hello: Handshake) -> Result<Handshake, KlpDecodeError> {
    if hello.challenge.as_deref().is_none_or(is_challenge) {
        return Ok(hello);
    }
    Err(KlpDecodeError {
        id: None,
        byte: None,
        code: ErrorCode::InvalidPayload,
        field: Some("payload.challenge".to_owned()),
        detail: "payload.challenge: expected 16 to 128 letters, digits and +/=_-".to_owned(),
    })
}

/// What an agent calls itself, where its manifest calls it otherwise.
fn other_identity(hello: &Handshake, manifest: &AgentManifest) -> Option<String> {
    if matches!(manifest.resolved_runtime().program, Program::Builtin(_)) {
        return None; // It is a part of meshd, and names that part and meshd's version.
    }
    let named = hello.name == manifest.id.as_str() || hello.name == manifest.display_name();
    let same = named && hello.version == manifest.version.to_string();
    (!same).then(|| format!("{} {}", hello.name, hello.version))
}

/// An `ERROR`'s payload.
pub(super) fn problem(code: ErrorCode, field: Option<&str>, detail: String) -> KlpError {
    KlpError {
        code: code.name().to_owned(),
        field: field.map(str::to_owned),
        detail,
    }
}
