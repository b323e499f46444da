//! The only way to the bus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use mesh_actors_core::access::{Recipient, needs};
use mesh_actors_core::bus::{RECENT_MAX, Seen};
use mesh_messages::access::AccessVerb;
use mesh_messages::address::{Address, TopicPattern};
use mesh_messages::klp::{Envelope, ErrorCode, MessageType, ReplayWindow, Stamp};
use mesh_messages::manifest::{Action as Permitted, Need, ResourceKind};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;
use mesh_messages::{AgentId, Epoch, Timestamp};

use super::answer::Asked;
use super::check::{self, Vouched};
use super::outside::Outside;
use super::{Message, route};
use crate::clock;
use crate::context::NodeIdentity;
use crate::operations::Action;
use crate::sentinel::{Facts, SentinelHandle};
use crate::slot::Slot;

/// How far the clocks of sender and receiver may differ, and for how long a message is known to have come before.
const CLOCK_WINDOW: Duration = Duration::from_mins(5);

/// Messages that are known to have come before. What survived a restart must leave room for what comes after it.
const SEEN_MAX: usize = 2 * RECENT_MAX;

/// Lines of one agent within the clock window that are known as said on its own channel. An agent that signs more is not
/// refused there; what is posted under its signature is, until what could not be remembered is out of the window.
const SAID_MAX: usize = 10_000;

/// What is asked for in the audit when a posted message becomes a task.
const PATH: &str = "/v1/messages";

/// This node, as the bus speaks for it.
#[derive(Debug, Clone)]
pub struct NodeSigner {
    /// Its address.
    pub address: Address,
    /// Who it is.
    pub node: Arc<NodeIdentity>,
}

impl NodeSigner {
    /// Signs in its name, with the key in force.
    pub(super) fn sign(&self, envelope: &mut Envelope) {
        envelope.sign(self.node.signer().secret());
    }
}

/// The only way to talk to the bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BusHandle {
    pub(super) slot: Slot<Message>,
    pub(super) outside: Outside,
    pub(super) node: NodeSigner,
    pub(super) sentinel: SentinelHandle,
    window: Arc<Mutex<ReplayWindow>>,
    // What agents signed on their own channels, each its own: none fills the window of another.
    said: Arc<Mutex<BTreeMap<AgentId, ReplayWindow>>>,
    /// Whether an agent that nobody knows is gone; before, it may not be known yet.
    pub(super) complete: Arc<AtomicBool>,
    /// Since when it knows what agents said on their own channels.
    began: Timestamp,
}

impl BusHandle {
    /// A handle of a bus that is yet to be started.
    #[must_use]
    pub fn new(outside: Outside, node: NodeSigner, sentinel: SentinelHandle) -> Self {
        Self {
            slot: Slot::new("bus"),
            outside,
            node,
            sentinel,
            window: Arc::new(Mutex::new(ReplayWindow::new(CLOCK_WINDOW, SEEN_MAX))),
            said: Arc::default(),
            complete: Arc::default(),
            began: clock::now(),
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.slot.is_running()
    }

    /// How often it was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.slot.restarts()
    }

    /// Takes one posted envelope, and answers with the reply, or with a receipt when none came in time, in the form in
    /// which the envelope came.
    ///
    /// A receipt is `{accepted, id, status, agent?, taskId?, receivers?}`, its status `delivered`, `held`, `published`,
    /// `recorded` or `running`.
    ///
    /// # Errors
    /// What is wrong with the envelope, under the codes of the protocol; `mailbox_full`;
    /// `agent_terminated`; what the task machine refuses.
    pub async fn send(&self, caller: &Caller, envelope: Value) -> Result<Value, Problem> {
        self.send_within(caller, envelope, None).await
    }

    /// The same, and the sender says how long it wants to wait for the reply; with no time at all, the receipt comes as
    /// soon as the message is where it goes.
    ///
    /// # Errors
    /// As [`BusHandle::send`].
    pub async fn send_within(
        &self,
        caller: &Caller,
        envelope: Value,
        wait: Option<Duration>,
    ) -> Result<Value, Problem> {
        let now = clock::now();
        let parts = (&*self.outside.keys, &self.sentinel);
        let claimed = envelope.get("from").and_then(Value::as_str);
        let claimed = claimed.unwrap_or_default().to_owned();
        let vouched = check::posted(caller, envelope, parts, now)
            .inspect_err(|problem| self.note_refusal(caller, &claimed, problem))?;
        // Under a narrowed token, it is done within that token's limits, whoever brings it.
        let mut caller = caller.clone();
        if let Some(bearer) = &vouched.bearer {
            if vouched.envelope.kind != MessageType::TaskRequest {
                let action = action_of(vouched.envelope.kind);
                self.sentinel.decide(bearer, action, PATH)?;
            }
            caller.narrowed.extend(bearer.narrowed.iter().cloned());
        }
        let caller = &caller;
        // That the caller may send was decided at the door.
        if action_of(vouched.envelope.kind) == Action::MessageReceive {
            self.sentinel.decide(caller, Action::MessageReceive, PATH)?;
        }
        self.check_permissions(caller, action_of(vouched.envelope.kind), &vouched.envelope)?;
        let admitted = self.admit(&vouched, now)?;
        self.hold(caller, &vouched)
            .await
            .inspect_err(|_| self.forget(&admitted))?;
        if vouched.envelope.kind == MessageType::TaskRequest {
            // A task is a task, whichever way it comes. What it is, is known when its address is.
            self.sentinel
                .decide_later(caller, Action::TaskSubmit, PATH)?;
        }
        let asked = Asked::new(&vouched.envelope, now, wait);
        let envelope = check::sealed(vouched, &self.node);
        let is_publication = envelope.kind == MessageType::Publish;
        let answer = route::route(self, caller, envelope, &asked).await;
        // What was not published may be sent again as it is; if it was after all, the bus knows it by its id.
        if is_publication
            && answer
                .as_ref()
                .is_err_and(|problem| problem.kind == ProblemKind::Unavailable)
        {
            self.forget(&admitted);
        }
        Ok(asked.in_its_form(answer?))
    }

    /// Passes on what an agent says to others on its own channel; the answer, if there is one at once.
    ///
    /// # Errors
    /// As [`BusHandle::send`], and `forged_sender` when it speaks in another's name.
    pub async fn from_agent(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        envelope: Envelope,
    ) -> Result<Option<Envelope>, Problem> {
        let parts = (&*self.outside.keys, &self.sentinel);
        let caller = check::agent_as_caller(agent);
        let to = envelope.to.to_string();
        let action = action_of(envelope.kind);
        self.sentinel.decide(&caller, action, &to)?;
        let claimed = envelope.from.to_string();
        let vouched = check::of_agent((agent, epoch), envelope, parts, clock::now())
            .inspect_err(|problem| self.note_refusal(&caller, &claimed, problem))?;
        if let Some(bearer) = &vouched.bearer {
            self.sentinel.decide(bearer, action, &to)?;
        }
        let envelope = check::sealed(vouched, &self.node);
        route::from_agent(self, (agent, epoch), envelope).await
    }

    /// Journals what an agent answers to somebody who waits for it, who was allowed to ask; as it is to be handed to them.
    ///
    /// # Errors
    /// As [`BusHandle::from_agent`].
    pub async fn answered(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        (asker, envelope): (&Address, Envelope),
    ) -> Result<Envelope, Problem> {
        let parts = (&*self.outside.keys, &self.sentinel);
        let caller = check::agent_as_caller(agent);
        let claimed = envelope.from.to_string();
        let vouched = check::of_agent((agent, epoch), envelope, parts, clock::now())
            .inspect_err(|problem| self.note_refusal(&caller, &claimed, problem))?;
        let envelope = check::sealed(vouched, &self.node);
        route::note(self, &caller.name, &envelope, asker).await?;
        Ok(envelope)
    }

    /// Journals a line of an agent to this node that it signed itself, so that anybody can check it afterwards. One that does
    /// not hold under the key that is registered as the agent's own proves nothing, and is left out.
    ///
    /// # Errors
    /// That it cannot be journalled now.
    pub async fn said(&self, agent: &AgentId, line: &Envelope) -> Result<(), Problem> {
        if !self.is_own_word(line) {
            return Ok(());
        }
        let vouched = Vouched {
            envelope: line.clone(),
            bearer: None,
            signed: true,
        };
        let line = check::sealed(vouched, &self.node);
        let by = check::agent_as_caller(agent).name;
        route::note(self, &by, &line, &self.node.address).await
    }

    /// A line whole, for the record of what it led to, if its sender signed it with the key that is registered as their own.
    /// One that writes out a token is for nobody's eyes.
    pub(crate) fn own_word(&self, line: &Envelope) -> Option<Box<Value>> {
        let shows_token = (line.auth.as_ref())
            .and_then(|auth| auth.token.as_deref())
            .is_some_and(|token| !token.starts_with(check::REFERENCE));
        (!shows_token && self.is_own_word(line)).then(|| Box::new(line.to_value()))
    }

    fn is_own_word(&self, line: &Envelope) -> bool {
        check::check_signature(line, &*self.outside.keys).unwrap_or(false)
    }

    /// Remembers what an agent signed and said on its own channel: posted by anybody, it is a replay.
    pub fn heard(&self, agent: &AgentId, line: &Envelope) {
        if !is_posted(line.kind) {
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let window = said
            .entry(agent.clone())
            .or_insert_with(|| ReplayWindow::new(CLOCK_WINDOW, SAID_MAX));
        window.note(&head_as_sent(line), clock::now());
    }

    /// An agent is up: what was held for it is brought to it. To be told on every start of an instance, and when a
    /// quarantine ends.
    pub fn agent_ready(&self, agent: &AgentId) {
        // A bus that is being restarted looks at all held mail when it is back.
        drop(self.slot.cast(Message::Back {
            agent: agent.clone(),
        }));
    }

    /// An agent was terminated: what was held for it is dead.
    pub fn agent_gone(&self, agent: &AgentId) {
        // Mail that outlives this is dead when somebody next writes to the agent.
        drop(self.slot.cast(Message::GiveUp {
            agent: agent.clone(),
        }));
    }

    /// All agents are known: from now on, one that is not is gone, and what it left is removed. Told also when it was
    /// known before; a bus that is restarted finds out by itself.
    pub fn fleet_complete(&self) {
        self.complete.store(true, Ordering::Release);
        drop(self.slot.cast(Message::Complete));
    }

    /// Whether an agent's manifest leaves it this topic: on its own channel that of the incarnation that speaks.
    ///
    /// # Errors
    /// `forbidden`, and the audit says so.
    pub(super) fn check_topic(
        &self,
        (agent, epoch): (&AgentId, Option<Epoch>),
        action: Action,
        topic: &TopicPattern,
    ) -> Result<(), Problem> {
        let policy = self.outside.directory.topics(agent, epoch);
        let (left, act, rule) = match action {
            Action::MessageReceive => (
                policy.may_subscribe(topic),
                Permitted::Read,
                "security.topics.subscribe",
            ),
            _ => (
                policy.may_publish(topic),
                Permitted::Write,
                "security.topics.publish",
            ),
        };
        if left {
            return Ok(());
        }
        let need = Need::new(ResourceKind::Topic, act, topic.as_str());
        let missing = self.outside.directory.missing(agent, epoch, vec![need]);
        let rule = missing.map_or_else(|| rule.to_owned(), |need| need.to_string());
        let facts = Facts {
            barred: Some(rule),
            ..Facts::default()
        };
        let agent = check::agent_as_caller(agent);
        let resource = format!("topic://{topic}");
        self.sentinel.judge(&agent, action, &resource, &facts)
    }

    /// Whether the operator's rules let a message reach somebody: by who brings it, and by the agent that says it.
    ///
    /// # Errors
    /// `forbidden`, and the audit says so.
    pub(super) fn check_recipient(
        &self,
        caller: &Caller,
        envelope: &Envelope,
        to: Option<Recipient>,
    ) -> Result<(), Problem> {
        let resource = match &to {
            // That it may be said at all was decided before.
            None => return Ok(()),
            Some(Recipient::Topic(topic)) => format!("topic://{topic}"),
            Some(Recipient::Agent(..) | Recipient::Person(_)) => envelope.to.to_string(),
        };
        let facts = Facts {
            to,
            ..Facts::default()
        };
        let action = Action::MessageSend;
        self.sentinel.judge(caller, action, &resource, &facts)?;
        let sender = super::agent_of(&envelope.from).map(|agent| check::agent_as_caller(&agent));
        match sender.filter(|sender| sender.name != caller.name) {
            Some(sender) => self.sentinel.judge(&sender, action, &resource, &facts),
            None => Ok(()),
        }
    }

    /// Whether an agent that posts a message has the permissions that it needs.
    fn check_permissions(
        &self,
        caller: &Caller,
        action: Action,
        envelope: &Envelope,
    ) -> Result<(), Problem> {
        let Some(agent) = check::agent_of_caller(caller) else {
            return Ok(());
        };
        // What it came through is a door for messages; for what else it does there is a door of its own.
        let (action, needs) = match envelope.kind {
            // The task is asked about when its address has told what it needs.
            MessageType::TaskRequest => (Action::TaskSubmit, Vec::new()),
            _ => (action, needs::of_message(envelope)),
        };
        let door = AccessVerb::named(action.name()).map(needs::of_action);
        let needs = door.into_iter().chain(needs).collect();
        match self.outside.directory.missing(&agent, None, needs) {
            None => Ok(()),
            Some(need) => {
                let to = envelope.to.to_string();
                Err(self.sentinel.lacks(caller, action, &to, &need))
            }
        }
    }

    /// Audits that somebody may not speak in a name, as any other act that is refused.
    fn note_refusal(&self, caller: &Caller, claimed: &str, problem: &Problem) {
        if problem.kind == ProblemKind::Forbidden {
            let action = Action::MessageSend.name();
            self.sentinel
                .record_denied(&caller.name, action, claimed, &problem.detail);
        }
    }

    /// Refuses what came before. What is signed must also be of this time; what is not was sent by its caller just now,
    /// whatever time it names.
    /// Answers as what it is remembered.
    fn admit(&self, vouched: &Vouched, now: Timestamp) -> Result<Envelope, Problem> {
        let envelope = &vouched.envelope;
        if vouched.signed
            && let Some(agent) = super::agent_of(&envelope.from)
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(window) = said.get_mut(&agent) {
                let known = window.check(&head_as_sent(envelope), now);
                known.map_err(check::replayed)?;
            }
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let at = if vouched.signed {
            envelope.timestamp.at()
        } else {
            now
        };
        let head = head(envelope.from.clone(), envelope.epoch, &envelope.id, at);
        window.admit(&head, now).map_err(check::replayed)?;
        Ok(head)
    }

    /// What was not taken after all may come again.
    fn forget(&self, admitted: &Envelope) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.forget(admitted);
    }

    /// Holds what is signed to what its sender is now, and sees to it that it is known as taken after a restart, too.
    async fn hold(&self, caller: &Caller, vouched: &Vouched) -> Result<(), Problem> {
        if !vouched.signed {
            return Ok(());
        }
        let envelope = &vouched.envelope;
        let here = self.node.node.did.to_string();
        if matches!(&envelope.from, Address::Node(name) if **name == *here) {
            let detail = "this node speaks for itself: nobody posts what it signed";
            return Err(check::refusal(ErrorCode::NotAllowed, "from", detail));
        }
        check::check_speaker(envelope, &self.outside, self.began)?;
        if !check::is_recorded(envelope.kind) {
            route::taken(self, &caller.name, envelope).await?;
        }
        Ok(())
    }

    /// Makes known what came before this process.
    pub(super) fn remember<'a>(&self, recent: impl Iterator<Item = &'a Seen>) {
        let now = clock::now();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        for seen in recent {
            if let Ok(from) = seen.from.parse() {
                // What is known already, or too old to be a danger, is refused, which is right.
                let _known = window.admit(&head(from, seen.epoch, &seen.id, seen.at), now);
            }
        }
    }
}

/// What a message needs the right to: who subscribes or acknowledges receives.
const fn action_of(kind: MessageType) -> Action {
    match kind {
        MessageType::Subscribe | MessageType::Ack => Action::MessageReceive,
        _ => Action::MessageSend,
    }
}

/// Whether a message may also be posted.
const fn is_posted(kind: MessageType) -> bool {
    match kind {
        MessageType::TaskRequest
        | MessageType::Message
        | MessageType::StatusUpdate
        | MessageType::Publish
        | MessageType::Subscribe
        | MessageType::CapabilityQuery
        | MessageType::SecurityAlert => true,
        MessageType::TaskResult
        | MessageType::CapabilityReply
        | MessageType::Handshake
        | MessageType::Memory
        | MessageType::Claim
        | MessageType::Ack
        | MessageType::Control
        | MessageType::Error => false,
    }
}

/// The same of what is signed: what its signature does not cover, the channel's epoch, does not tell it from itself.
fn head_as_sent(envelope: &Envelope) -> Envelope {
    let epoch = check::epoch_as_sent(envelope);
    let (from, at) = (envelope.from.clone(), envelope.timestamp.at());
    head(from, epoch, &envelope.id, at)
}

/// As much of an envelope as its identity needs.
fn head(from: Address, epoch: Option<Epoch>, id: &str, timestamp: Timestamp) -> Envelope {
    let stamp = Stamp {
        id: id.to_owned(),
        timestamp,
        epoch,
    };
    Envelope::new(MessageType::Message, from.clone(), from, Value::Null, stamp)
}
