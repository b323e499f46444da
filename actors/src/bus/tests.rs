use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use mesh_actors_core::bus::{AgentEntry, Presence, Snapshot};
use mesh_messages::address::Address;
use mesh_messages::identity::{DidKey, SigningKey};
use mesh_messages::klp::{Defaults, MessageType, SecurityAlert, Stamp, TaskResult, decode};
use mesh_messages::manifest::{Need, Persona, SecurityConfig, TopicPolicy};
use mesh_messages::problem::ProblemKind;
use mesh_messages::system::{Caller, Role};
use mesh_messages::{Epoch, TaskId};
use mesh_persistence::{Journal as _, LogSigner};

use super::*;
use crate::clock;
use crate::context::NodeIdentity;
use crate::sentinel::{Quota, SentinelHandle, SentinelSettings};
use crate::testing::{PATIENCE, Store, until};

/// The rest of the mesh, as the tests make it.
#[derive(Debug, Default)]
struct World {
    snapshot: Mutex<Arc<Snapshot>>,
    delivered: Mutex<Vec<(String, Envelope)>>,
    unreachable: Mutex<bool>,
    /// How often agents were restarted.
    epoch: Mutex<u64>,
    /// Agents that answer every message with this payload.
    answers: Mutex<BTreeMap<String, Value>>,
    /// Whether agents keep what they could answer by, and do not.
    ponder: Mutex<bool>,
    pondered: Mutex<Vec<Waiter>>,
    orders: Mutex<Vec<TaskOrder>>,
    alerts: Mutex<Vec<SecurityAlert>>,
    keys: Mutex<BTreeMap<String, DidKey>>,
    vault: Mutex<BTreeMap<String, String>>,
    // Those who have to sign themselves.
    signers: Mutex<BTreeSet<String>>,
    /// What every agent's manifest leaves it.
    topics: Mutex<TopicPolicy>,
    /// Further incarnations of every agent, of another version, with what their manifest leaves them.
    others: Mutex<BTreeMap<Epoch, TopicPolicy>>,
    /// What was handed to one incarnation and no other.
    addressed: Mutex<Vec<(Epoch, String)>>,
    /// Agents that may say nothing, and why.
    silenced: Mutex<BTreeMap<AgentId, &'static str>>,
    /// The same for permissions.
    security: Mutex<SecurityConfig>,
}

impl Directory for World {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.lock().unwrap())
    }

    fn presence(&self, agent: &AgentId) -> Presence {
        let snapshot = self.snapshot.lock().unwrap();
        let entry = snapshot.agents.get(agent);
        entry.map_or(Presence::Gone, |entry| entry.presence)
    }

    fn speaker(&self, sender: &Address) -> Option<Speaker> {
        let id = super::agent_of(sender)?;
        let silenced = self.silenced.lock().unwrap().get(&id).copied();
        Some(Speaker { id, silenced })
    }

    fn topics(&self, _: &AgentId, epoch: Option<Epoch>) -> TopicPolicy {
        let others = self.others.lock().unwrap();
        let other = epoch.and_then(|epoch| others.get(&epoch).cloned());
        other.unwrap_or_else(|| self.topics.lock().unwrap().clone())
    }

    fn missing(&self, _: &AgentId, _: Option<Epoch>, needs: Vec<Need>) -> Option<Need> {
        self.security.lock().unwrap().missing(needs)
    }
}

impl Delivery for World {
    fn incarnations(&self, agent: &AgentId) -> Vec<Epoch> {
        let up = self.presence(agent) == Presence::Up && !*self.unreachable.lock().unwrap();
        let epoch = *self.epoch.lock().unwrap();
        let others = self.others.lock().unwrap();
        let all = std::iter::once(Epoch(epoch + 1)).chain(others.keys().copied());
        if up { all.collect() } else { Vec::new() }
    }

    fn deliver_to(&self, agent: &AgentId, epoch: Epoch, envelope: Envelope) -> Result<(), NoRoute> {
        if self.incarnations(agent).contains(&epoch) {
            let mut addressed = self.addressed.lock().unwrap();
            addressed.push((epoch, envelope.id.clone()));
            drop(addressed);
            self.deliver(agent, envelope, None)
        } else {
            Err(NoRoute)
        }
    }

    fn deliver(
        &self,
        agent: &AgentId,
        envelope: Envelope,
        reply: Option<Waiter>,
    ) -> Result<(), NoRoute> {
        if *self.unreachable.lock().unwrap() {
            return Err(NoRoute);
        }
        if *self.ponder.lock().unwrap() {
            self.pondered.lock().unwrap().extend(reply);
        } else if let (Some(reply), Some(payload)) =
            (reply, self.answers.lock().unwrap().get(agent.as_str()))
        {
            let stamp = Stamp {
                id: "answer".into(),
                timestamp: clock::now(),
                epoch: Some(Epoch(1)),
            };
            let from = Address::agent(agent.clone());
            let to = envelope.from.clone();
            // As the session hands it over: journalled and signed.
            let payload = payload.clone();
            let mut answer = Envelope::new(MessageType::Message, from, to, payload, stamp);
            answer.in_reply_to = Some(envelope.id.clone());
            answer.sign(&node_key());
            reply.answer.send(answer).unwrap();
        }
        self.delivered
            .lock()
            .unwrap()
            .push((agent.to_string(), envelope));
        Ok(())
    }
}

#[async_trait]
impl TaskGateway for World {
    async fn submit_and_wait(&self, order: TaskOrder) -> Result<TaskAnswer, Problem> {
        let id = TaskId::new("T1").unwrap();
        let answer = if order.spec.input == Value::Null {
            TaskAnswer::Running(id)
        } else {
            TaskAnswer::Ended(
                id,
                TaskResult::Done {
                    output: order.spec.input.clone(),
                    usage: None,
                },
            )
        };
        self.orders.lock().unwrap().push(order);
        Ok(answer)
    }
}

impl Keys for World {
    fn key_of(&self, address: &Address) -> Option<DidKey> {
        self.keys.lock().unwrap().get(&address.to_string()).copied()
    }
    fn must_sign(&self, sender: &Address) -> bool {
        self.signers.lock().unwrap().contains(&sender.to_string())
    }
    fn resolve(&self, reference: &str, _: &Address) -> Option<zeroize::Zeroizing<String>> {
        self.vault
            .lock()
            .unwrap()
            .get(reference)
            .cloned()
            .map(zeroize::Zeroizing::new)
    }
}

impl Alarms for World {
    fn alert(&self, _: &Address, alert: SecurityAlert) {
        self.alerts.lock().unwrap().push(alert);
    }
}

struct Fixture {
    store: Store,
    world: Arc<World>,
    sentinel: SentinelHandle,
    bus: BusHandle,
}

fn agent(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}

fn caller(name: &str, role: Role) -> Caller {
    Caller {
        name: name.to_owned(),
        role,
        loopback: false,
        narrowed: Vec::new(),
    }
}

fn ada() -> Caller {
    caller("user:ada", Role::Operator)
}

fn node_key() -> SigningKey {
    SigningKey::from_secret(&[9; 32])
}

impl Fixture {
    async fn new() -> Self {
        let requests = Quota::per_second(NonZeroU32::new(1000).unwrap());
        let sentinel = SentinelHandle::new(SentinelSettings {
            requests,
            audit_all_actions: false,
        });
        let (store, world) = (Store::new(), Arc::new(World::default()));
        crate::sentinel::tests::start(&sentinel, &store.cell).await;
        let outside = Outside {
            directory: Arc::clone(&world) as Arc<dyn Directory>,
            delivery: Arc::clone(&world) as Arc<dyn Delivery>,
            tasks: Arc::clone(&world) as Arc<dyn TaskGateway>,
            keys: Arc::clone(&world) as Arc<dyn Keys>,
            alarms: Arc::clone(&world) as Arc<dyn Alarms>,
        };
        let node = NodeSigner {
            address: Address::node("here").unwrap(),
            node: Arc::new(NodeIdentity::new(LogSigner::new(node_key()))),
        };
        let bus = BusHandle::new(outside, node, sentinel.clone());
        let fixture = Self {
            store,
            world,
            sentinel,
            bus,
        };
        for (id, presence) in [
            ("webscraper", Presence::Up),
            ("other", Presence::Up),
            ("ill", Presence::Away),
        ] {
            fixture.set(id, Some(presence));
        }
        fixture.start().await;
        fixture
    }

    async fn start(&self) {
        let args = BusArgs {
            handle: self.bus.clone(),
            store: self.store.cell.clone(),
        };
        let (_actor, _join) = Actor::spawn(None, Bus, args).await.unwrap();
        until("the bus", || self.bus.is_running()).await;
    }

    async fn stop(&self) {
        let actor = self.bus.slot.current().unwrap();
        actor.stop_and_wait(None, Some(PATIENCE)).await.unwrap();
    }

    fn set(&self, id: &str, presence: Option<Presence>) {
        let mut snapshot = self.world.snapshot.lock().unwrap();
        let mut changed = Snapshot {
            node: vec!["here".to_owned()],
            ..(**snapshot).clone()
        };
        changed.agents.remove(id);
        if let Some(presence) = presence {
            let capabilities = vec!["scrape".to_owned(), id.to_owned()];
            let entry = AgentEntry {
                version: "1.0.0".to_owned(),
                persona: Persona::Utility,
                capabilities,
                presence,
            };
            changed.agents.insert(agent(id), entry);
        }
        *snapshot = Arc::new(changed);
    }

    async fn send(&self, envelope: Value) -> Result<Value, Problem> {
        self.bus.send(&ada(), envelope).await
    }

    async fn line(
        &self,
        from: &str,
        kind: MessageType,
        to: &str,
        payload: Value,
    ) -> Result<Option<Envelope>, Problem> {
        let stamp = Stamp {
            id: uuid::Uuid::now_v7().to_string(),
            timestamp: clock::now(),
            epoch: Some(Epoch(1)),
        };
        let envelope = Envelope::new(
            kind,
            Address::agent(agent(from)),
            to.parse().unwrap(),
            payload,
            stamp,
        );
        self.bus.from_agent(&agent(from), Epoch(1), envelope).await
    }

    fn delivered(&self) -> Vec<String> {
        let delivered = self.world.delivered.lock().unwrap();
        delivered
            .iter()
            .map(|(agent, e)| format!("{agent}:{}", e.id))
            .collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.store.kinds(&partition::BUS)
    }

    fn answer_with(&self, agent: &str, payload: Value) {
        self.world
            .answers
            .lock()
            .unwrap()
            .insert(agent.to_owned(), payload);
    }
}

fn message(id: &str, to: &str) -> Value {
    json!({
        "type": "MESSAGE", "id": id, "from": "user:ada", "to": to, "payload": {"text": "hi"},
        "timestamp": clock::now()
    })
}

#[tokio::test]
async fn a_message_is_journalled_signed_delivered_and_its_answer_comes_back_signed() {
    let fixture = Fixture::new().await;
    fixture.answer_with("webscraper", json!({"text": "ho"}));
    let reply = fixture
        .send(message("m1", "kai://agent.webscraper"))
        .await
        .unwrap();
    assert_eq!(
        (
            &reply["type"],
            &reply["in_reply_to"],
            &reply["payload"],
            &reply["to"]
        ),
        (
            &json!("MESSAGE"),
            &json!("m1"),
            &json!({"text": "ho"}),
            &json!("user:ada")
        )
    );
    let reply = decode(reply, &Defaults::default()).unwrap();
    reply.verify(&node_key().public()).unwrap();
    let (to, seen) = fixture.world.delivered.lock().unwrap()[0].clone();
    assert_eq!(
        (to.as_str(), seen.from.to_string().as_str()),
        ("webscraper", "user:ada")
    );
    seen.verify(&node_key().public()).unwrap();
    let records = fixture.store.records(&partition::BUS);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].header.kind, "message_received");
    assert_eq!(records[0].header.agent, Some(agent("webscraper")));
    assert_eq!(records[0].header.actor, "user:ada");
}

#[tokio::test]
async fn an_answer_is_journalled_as_what_follows_from_the_message_before_it_is_handed_over() {
    let fixture = Fixture::new().await;
    fixture
        .send(message("m1", "agent:webscraper"))
        .await
        .unwrap();
    let line = |from: &str| {
        let mut answer = message("a1", "user:ada");
        answer["from"] = json!(from);
        answer["in_reply_to"] = json!("m1");
        answer["auth"] = json!({"token": "vault://nobody"});
        decode(answer, &Defaults::default()).unwrap()
    };
    let (me, epoch) = (agent("webscraper"), Epoch(4));
    let asker: Address = "user:ada".parse().unwrap();
    let forged = fixture
        .bus
        .answered(&me, epoch, (&asker, line("agent:other")))
        .await;
    assert_eq!(forged.unwrap_err().code, "forged_sender");
    fixture.store.journal.hold();
    let (bus, honest) = (fixture.bus.clone(), line("agent:webscraper"));
    let answering = tokio::spawn(async move { bus.answered(&me, epoch, (&asker, honest)).await });
    until("the record", || {
        fixture.store.journal.next_seq(&partition::BUS) == 2
    })
    .await;
    assert!(!answering.is_finished());
    fixture.store.journal.release();
    let answer = answering.await.unwrap().unwrap();
    answer.verify(&node_key().public()).unwrap();
    assert_eq!(answer.epoch, Some(epoch));
    let records = fixture.store.records(&partition::BUS);
    let header = &records[1].header;
    assert_eq!(header.kind, "message_sent");
    assert_eq!(header.actor, "agent:webscraper");
    assert_eq!(header.cause, Some(records[0].header.position));
    // One that an agent waited for does not wait for that agent afterwards.
    let (me, asker) = (agent("webscraper"), Address::agent(agent("other")));
    let answer = fixture
        .bus
        .answered(&me, epoch, (&asker, line("agent:webscraper")));
    answer.await.unwrap();
    assert_eq!(
        fixture.kinds()[2..],
        ["message_sent", "message_received"].map(str::to_owned)
    );
    fixture.bus.agent_ready(&agent("other"));
    fixture
        .send(message("m2", "agent:webscraper"))
        .await
        .unwrap();
    assert_eq!(fixture.delivered(), ["webscraper:m1", "webscraper:m2"]);
}

#[tokio::test]
async fn what_an_agent_signed_and_said_is_a_replay_when_somebody_posts_it() {
    let fixture = Fixture::new().await;
    let key = SigningKey::from_secret(&[7; 32]);
    let known = ("agent:echo".to_owned(), key.public());
    fixture.world.keys.lock().unwrap().extend([known]);
    let signed = |id: &str| {
        let mut line = message(id, "agent:webscraper");
        line["from"] = json!("agent:echo");
        // The channel's epoch is no part of what is signed.
        let defaults = Defaults {
            epoch: Some(Epoch(3)),
            ..Defaults::default()
        };
        let mut line = decode(line, &Defaults::default()).unwrap();
        line.sign(&key);
        let sent = line.to_value();
        (decode(sent.clone(), &defaults).unwrap(), sent)
    };
    let (line, sent) = signed("m1");
    fixture.bus.heard(&agent("echo"), &line);
    let again = fixture.send(sent).await.unwrap_err();
    assert_eq!(
        (again.code, again.kind),
        ("replayed", ProblemKind::Conflict)
    );
    assert!(fixture.delivered().is_empty());
    let (_, other) = signed("m2");
    fixture.send(other).await.unwrap();
    assert_eq!(fixture.delivered(), ["webscraper:m2"]);
}

#[tokio::test]
async fn a_message_is_delivered_only_once_it_is_durable() {
    let fixture = Fixture::new().await;
    fixture.answer_with("webscraper", json!(1));
    fixture.store.journal.hold();
    let bus = fixture.bus.clone();
    let sending =
        tokio::spawn(async move { bus.send(&ada(), message("m1", "agent:webscraper")).await });
    until("the record", || {
        fixture.store.journal.next_seq(&partition::BUS) == 1
    })
    .await;
    assert!(fixture.delivered().is_empty() && !sending.is_finished());
    fixture.store.journal.release();
    sending.await.unwrap().unwrap();
    assert_eq!(fixture.delivered(), ["webscraper:m1"]);
}

#[tokio::test]
async fn the_shorter_form_is_taken_and_answered_in_its_own_form() {
    let fixture = Fixture::new().await;
    fixture.answer_with("webscraper", json!({"seen": true}));
    let root = caller("user:root", Role::Admin);
    let envelope = json!({
        "from": "kai://user.device.kai-core", "to": "kai://agent.webscraper", "intent": "analyze_image",
        "payload": {"image": "x"}, "priority": "high", "auth": "vault://token@kai",
        "timestamp": 1_718_000_000_000_u64, "messageId": "s1"
    });
    let reply = fixture.bus.send(&root, envelope).await.unwrap();
    assert_eq!(reply["payload"], json!({"seen": true}));
    assert_eq!(reply["intent"], "analyze_image");
    assert_eq!(reply["context"], json!({"inReplyTo": "s1"}));
    assert!(
        reply["timestamp"].is_u64() && reply.get("type").is_none(),
        "{reply}"
    );
}

#[tokio::test]
async fn an_unsigned_envelope_that_names_no_sender_and_no_id_is_its_callers_and_each_time_a_new_one()
 {
    let fixture = Fixture::new().await;
    fixture.answer_with("webscraper", json!(1));
    let envelope = json!({"type": "MESSAGE", "to": "kai://agent.webscraper", "payload": {}});
    for _ in 0..2 {
        fixture.send(envelope.clone()).await.unwrap();
    }
    let delivered = fixture.world.delivered.lock().unwrap().clone();
    for (_, seen) in &delivered {
        assert_eq!(seen.from.to_string(), "user:ada");
        seen.verify(&node_key().public()).unwrap();
    }
    assert_eq!(delivered.len(), 2);
    assert_ne!(delivered[0].1.id, delivered[1].1.id);
    // What names its id is the same message each time.
    let named = message("m1", "agent:webscraper");
    fixture.send(named.clone()).await.unwrap();
    assert_eq!(fixture.send(named).await.unwrap_err().code, "replayed");
}

#[tokio::test]
async fn a_message_that_nobody_answers_ends_in_a_receipt_when_its_senders_wait_is_over() {
    let fixture = Fixture::new().await;
    let to = "agent:webscraper";
    *fixture.world.ponder.lock().unwrap() = true;
    // The wait is part of the request, so a sender that wants none has its receipt at once.
    for (id, wait) in [("m1", Duration::ZERO), ("m2", Duration::from_millis(20))] {
        let ada = ada();
        let sent = fixture.bus.send_within(&ada, message(id, to), Some(wait));
        let receipt = tokio::time::timeout(Duration::from_secs(4), sent)
            .await
            .expect("before the usual wait is over")
            .unwrap();
        assert_eq!(receipt["status"], "delivered", "{receipt}");
    }
}

#[tokio::test]
async fn what_misses_a_field_or_names_nobody_is_refused_with_the_field() {
    let fixture = Fixture::new().await;
    for field in ["from", "to", "intent", "payload"] {
        let mut envelope = json!({
            "from": "user:ada", "to": "agent:webscraper", "intent": "x", "payload": {},
            "timestamp": clock::now().as_millis()
        });
        envelope.as_object_mut().unwrap().remove(field);
        let problem = fixture.send(envelope).await.unwrap_err();
        assert_eq!(problem.detail, format!("Missing required field: {field}"));
        assert_eq!(problem.field.as_deref(), Some(field));
    }
    assert!(fixture.kinds().is_empty());
    let unknown = fixture
        .send(message("m1", "kai://agent.nobody"))
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code, unknown.kind),
        ("unknown_address", ProblemKind::NotFound)
    );
    assert_eq!(unknown.detail, "Agent nobody not found");
    assert_eq!(fixture.kinds(), ["message.dead_lettered"]);
}

#[tokio::test]
async fn nobody_speaks_in_another_name_but_an_admin_or_with_that_names_signature_or_token() {
    let fixture = Fixture::new().await;
    let mut foreign = message("m1", "agent:webscraper");
    foreign["from"] = json!("user:bob");
    let problem = fixture.send(foreign.clone()).await.unwrap_err();
    assert_eq!(
        (problem.code, problem.field.as_deref()),
        ("not_allowed", Some("from"))
    );
    let root = caller("user:root", Role::Admin);
    fixture.answer_with("webscraper", json!(1));
    fixture.bus.send(&root, foreign.clone()).await.unwrap();

    let token = fixture
        .sentinel
        .issue("t", Role::Viewer, Some("bob".to_owned()), None)
        .await
        .unwrap();
    foreign["id"] = json!("m2");
    foreign["auth"] = json!({"token": token.token});
    fixture.send(foreign.clone()).await.unwrap();
    let seen = fixture
        .world
        .delivered
        .lock()
        .unwrap()
        .last()
        .unwrap()
        .1
        .clone();
    assert_eq!(
        seen.auth.unwrap().token,
        None,
        "the token itself goes nowhere"
    );
    for record in fixture.store.records(&partition::BUS) {
        let payload = String::from_utf8(record.body.unwrap().payload).unwrap();
        assert!(!payload.contains(&token.token));
    }

    fixture
        .world
        .vault
        .lock()
        .unwrap()
        .insert("vault://bob@kai".to_owned(), token.token.clone());
    foreign["id"] = json!("m3");
    foreign["auth"] = json!({"token": "vault://bob@kai"});
    let borrowed = fixture.send(foreign).await.unwrap_err();
    assert_eq!(
        borrowed.code, "not_allowed",
        "who only knows a reference may not use what it stands for"
    );
    let mut own = message("m4", "agent:webscraper");
    own["auth"] = json!({"token": "vault://bob@kai"});
    fixture.send(own.clone()).await.unwrap();
    fixture.sentinel.revoke("t", &token.id).await.unwrap();
    own["id"] = json!("m5");
    let revoked = fixture.send(own).await.unwrap_err();
    assert_eq!(
        (revoked.detail.as_str(), revoked.field.as_deref()),
        ("Invalid authentication", Some("auth.token"))
    );
}

#[tokio::test]
async fn signatures_hold_for_the_whole_envelope_and_the_senders_known_key() {
    let fixture = Fixture::new().await;
    fixture.answer_with("webscraper", json!(1));
    let bob = SigningKey::from_secret(&[5; 32]);
    let signed = |id: &str, key: &SigningKey| {
        let mut raw = message(id, "agent:webscraper");
        raw["from"] = json!("user:bob");
        let mut envelope = decode(raw, &Defaults::default()).unwrap();
        envelope.sign(key);
        envelope
    };
    let unknown = fixture
        .send(signed("m1", &bob).to_value())
        .await
        .unwrap_err();
    assert_eq!(
        (unknown.code, unknown.field.as_deref()),
        ("bad_signature", Some("auth.key"))
    );
    fixture
        .world
        .keys
        .lock()
        .unwrap()
        .insert("user:bob".to_owned(), bob.public());
    fixture.send(signed("m1", &bob).to_value()).await.unwrap();
    let seen = fixture
        .world
        .delivered
        .lock()
        .unwrap()
        .last()
        .unwrap()
        .1
        .clone();
    seen.verify(&bob.public())
        .expect("it arrives as it was signed");

    let mut changed = signed("m2", &bob).to_value();
    changed["payload"]["text"] = json!("ho");
    let tampered = fixture.send(changed).await.unwrap_err();
    assert_eq!(
        (tampered.code, tampered.field.as_deref()),
        ("bad_signature", Some("auth.signature"))
    );
    let other = fixture
        .send(signed("m3", &node_key()).to_value())
        .await
        .unwrap_err();
    assert_eq!(other.code, "bad_signature");
}

#[tokio::test]
async fn a_message_is_taken_once_also_across_a_restart() {
    let fixture = Fixture::new().await;
    fixture.answer_with("webscraper", json!(1));
    fixture
        .send(message("m1", "agent:webscraper"))
        .await
        .unwrap();
    let again = fixture
        .send(message("m1", "agent:webscraper"))
        .await
        .unwrap_err();
    assert_eq!(
        (again.code, again.kind),
        ("replayed", ProblemKind::Conflict)
    );
    fixture.stop().await;
    // A new process: nothing of the handle's memory is left.
    let bus = BusHandle::new(
        fixture.bus.outside.clone(),
        fixture.bus.node.clone(),
        fixture.sentinel.clone(),
    );
    let fixture = Fixture { bus, ..fixture };
    fixture.start().await;
    let again = fixture
        .send(message("m1", "agent:webscraper"))
        .await
        .unwrap_err();
    assert_eq!(again.code, "replayed");
    assert_eq!(fixture.delivered(), ["webscraper:m1"]);
}

#[tokio::test]
async fn expired_messages_are_refused() {
    let fixture = Fixture::new().await;
    let mut old = message("m1", "agent:webscraper");
    old["expires"] = json!("2001-01-01T00:00:00Z");
    assert_eq!(fixture.send(old).await.unwrap_err().code, "expired");
}

#[tokio::test]
async fn mail_of_an_absent_agent_is_held_across_a_restart_and_brought_by_urgency() {
    let fixture = Fixture::new().await;
    for (id, priority) in [("low", "low"), ("urgent", "critical"), ("normal", "normal")] {
        let mut envelope = message(id, "agent:ill");
        envelope["priority"] = json!(priority);
        let receipt = fixture.send(envelope).await.unwrap();
        assert_eq!(
            (&receipt["status"], &receipt["agent"]),
            (&json!("held"), &json!("ill"))
        );
    }
    assert!(fixture.delivered().is_empty());
    fixture.stop().await;
    fixture.start().await;
    fixture.set("ill", Some(Presence::Up));
    fixture.bus.agent_ready(&agent("ill"));
    until("the mail", || fixture.delivered().len() == 3).await;
    assert_eq!(fixture.delivered(), ["ill:urgent", "ill:normal", "ill:low"]);
    let kinds = fixture.kinds();
    assert_eq!(kinds[..3], ["message_sent"; 3]);
    assert_eq!(kinds[3..], ["message_received"; 3]);
    // Each was received because it was sent itself, and not because of its neighbour.
    let records = fixture.store.records(&partition::BUS);
    let sent = |at: usize| Some(records[at].header.position);
    let causes: Vec<_> = records[3..].iter().map(|r| r.header.cause).collect();
    assert_eq!(causes, [sent(1), sent(2), sent(0)]);
}

#[tokio::test]
async fn mail_that_cannot_be_handed_over_after_all_is_held_and_tried_again() {
    let fixture = Fixture::new().await;
    *fixture.world.unreachable.lock().unwrap() = true;
    let receipt = fixture
        .send(message("m1", "agent:webscraper"))
        .await
        .unwrap();
    assert_eq!(receipt["status"], "held");
    *fixture.world.unreachable.lock().unwrap() = false;
    until("the second try", || {
        fixture.delivered() == ["webscraper:m1"]
    })
    .await;
}

#[tokio::test]
async fn a_terminated_agent_gets_nothing_and_what_waited_for_it_is_dead() {
    let fixture = Fixture::new().await;
    fixture.send(message("m1", "agent:ill")).await.unwrap();
    fixture.set("ill", Some(Presence::Gone));
    fixture.bus.agent_gone(&agent("ill"));
    until("the dead letter", || {
        fixture.kinds() == ["message_sent", "message.dead_lettered"]
    })
    .await;
    let refused = fixture.send(message("m2", "agent:ill")).await.unwrap_err();
    assert_eq!(refused.code, "agent_terminated");
}

#[tokio::test]
async fn publications_reach_subscribers_whose_subscriptions_survive_a_restart() {
    let fixture = Fixture::new().await;
    let node = "kai://node.here";
    for (who, pattern) in [("webscraper", "news.*"), ("other", "news.>")] {
        fixture
            .line(who, MessageType::Subscribe, node, json!({"topic": pattern}))
            .await
            .unwrap();
    }
    fixture.stop().await;
    fixture.start().await;
    fixture
        .line(
            "other",
            MessageType::Publish,
            node,
            json!({"topic": "news.weather", "data": 7}),
        )
        .await
        .unwrap();
    until("the publication", || fixture.delivered().len() == 1).await;
    let (to, envelope) = fixture.world.delivered.lock().unwrap()[0].clone();
    assert_eq!(
        (to.as_str(), &envelope.payload["data"]),
        ("webscraper", &json!(7))
    );
    let mut publish = message("p1", "topic://news.sport");
    publish["type"] = json!("PUBLISH");
    publish["payload"] = json!({"topic": "news.sport", "data": 1});
    assert_eq!(fixture.send(publish.clone()).await.unwrap()["receivers"], 2);
    publish["id"] = json!("p2");
    publish["payload"]["topic"] = json!("news.*");
    publish["to"] = json!("topic://news.*");
    assert_eq!(
        fixture.send(publish).await.unwrap_err().code,
        "invalid_field"
    );
}

#[tokio::test]
async fn a_task_request_becomes_a_task_and_its_result_the_reply() {
    let fixture = Fixture::new().await;
    let request = json!({
        "type": "TASK_REQUEST", "from": "user:ada", "to": "kExecutor:webscraper", "task_id": "abc123",
        "payload": {"action": "scrape", "target": "https://example.com", "params": {}},
        "timestamp": "2025-06-20T22:04:00Z"
    });
    let reply = fixture.send(request).await.unwrap();
    assert_eq!(reply["type"], "TASK_RESULT");
    assert_eq!(
        reply["payload"],
        json!({"ok": true, "output": {"target": "https://example.com", "params": {}}})
    );
    assert_eq!(
        (&reply["task_id"], &reply["from"]),
        (&json!("abc123"), &json!("kai://node.here"))
    );
    assert_eq!(reply["context"]["taskId"], "T1");
    decode(reply, &Defaults::default())
        .unwrap()
        .verify(&node_key().public())
        .unwrap();
    let order = fixture.world.orders.lock().unwrap()[0].clone();
    assert_eq!(
        (order.caller.name.as_str(), order.only),
        ("user:ada", Some(agent("webscraper")))
    );
    assert_eq!(
        (order.spec.action(), order.spec.needs()),
        ("scrape", vec!["scrape".to_owned()])
    );
    assert_eq!(order.spec.labels["klp.task_id"], "abc123");
    assert!(order.spec.idempotency_key.unwrap().starts_with("klp:"));

    let mut waiting = message("t2", "kExecutor:scrape");
    waiting["type"] = json!("TASK_REQUEST");
    waiting["payload"] = json!({"action": "dig"});
    let receipt = fixture.send(waiting).await.unwrap();
    assert_eq!(
        (&receipt["status"], &receipt["taskId"]),
        (&json!("running"), &json!("T1"))
    );
    let order = fixture.world.orders.lock().unwrap()[1].clone();
    assert_eq!(
        (order.spec.needs(), order.only),
        (vec!["scrape".to_owned()], None)
    );
}

#[tokio::test]
async fn queries_are_answered_alerts_are_heard_and_the_rest_is_misplaced() {
    let fixture = Fixture::new().await;
    let of = |kind: &str, payload: Value| {
        let mut envelope = message(&format!("of-{kind}"), "kSentinel:mesh");
        envelope["type"] = json!(kind);
        envelope["payload"] = payload;
        envelope
    };
    let found = fixture
        .send(of(
            "CAPABILITY_QUERY",
            json!({"capabilities": ["webscraper"]}),
        ))
        .await
        .unwrap();
    assert_eq!(found["type"], "CAPABILITY_REPLY");
    assert_eq!(found["payload"]["agents"][0]["id"], "webscraper");
    let alert = json!({"severity": "high", "description": "odd"});
    let receipt = fixture.send(of("SECURITY_ALERT", alert)).await.unwrap();
    assert_eq!(receipt["status"], "recorded");
    assert_eq!(fixture.world.alerts.lock().unwrap()[0].description, "odd");
    assert_eq!(fixture.kinds(), ["message_sent", "security.alert"]);
    for kind in [
        "TASK_RESULT",
        "HANDSHAKE",
        "MEMORY",
        "CLAIM",
        "CONTROL",
        "ERROR",
        "CAPABILITY_REPLY",
        "SUBSCRIBE",
        "ACK",
    ] {
        let problem = fixture.send(of(kind, json!({}))).await.unwrap_err();
        assert_eq!(
            (problem.code, problem.field.as_deref()),
            ("unexpected", Some("type")),
            "{kind}"
        );
    }
    let mut status = message("st", "agent:webscraper");
    status["type"] = json!("STATUS_UPDATE");
    status["payload"] = json!({"progress": 0.5});
    assert_eq!(fixture.send(status).await.unwrap()["status"], "delivered");
}

#[tokio::test]
async fn an_agent_reaches_agents_and_people_in_its_own_name_only() {
    let fixture = Fixture::new().await;
    fixture
        .line("other", MessageType::Message, "agent:webscraper", json!(1))
        .await
        .unwrap();
    fixture
        .line("other", MessageType::Message, "user:ada", json!(2))
        .await
        .unwrap();
    assert_eq!(
        fixture.kinds(),
        ["message_sent", "message_received", "message_sent"]
    );
    let records = fixture.store.records(&partition::BUS);
    let agents: Vec<_> = records
        .iter()
        .map(|r| r.header.agent.clone().unwrap().to_string())
        .collect();
    assert_eq!(agents, ["other", "webscraper", "other"]);

    let forge = |from: &str, epoch| {
        let stamp = Stamp {
            id: "f".into(),
            timestamp: clock::now(),
            epoch: Some(Epoch(epoch)),
        };
        let to = "agent:webscraper".parse().unwrap();
        Envelope::new(
            MessageType::Message,
            from.parse().unwrap(),
            to,
            json!(1),
            stamp,
        )
    };
    for (from, epoch, code) in [
        ("kai://agent.webscraper", 1, "forged_sender"),
        ("user:ada", 1, "forged_sender"),
        ("agent:other", 7, "stale"),
    ] {
        let problem = fixture
            .bus
            .from_agent(&agent("other"), Epoch(1), forge(from, epoch))
            .await;
        assert_eq!(problem.unwrap_err().code, code, "{from}");
    }
    assert!(
        fixture
            .bus
            .from_agent(&agent("other"), Epoch(1), forge("agent:other#2", 1))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_full_disk_refuses_mail_and_says_so() {
    let fixture = Fixture::new().await;
    fixture
        .store
        .journal
        .set_read_only(Some("the disk is full"));
    let problem = fixture
        .send(message("m1", "agent:webscraper"))
        .await
        .unwrap_err();
    assert_eq!(
        (problem.code, problem.kind),
        ("read_only", ProblemKind::Unavailable)
    );
}

fn order(name: &str, topic: &str, more: Value) -> mesh_messages::bus::SubscriptionOrder {
    let mut order = json!({"name": name, "topic": topic});
    if let Value::Object(more) = more {
        order.as_object_mut().unwrap().extend(more);
    }
    serde_json::from_value(order).unwrap()
}

fn publication(id: &str, topic: &str) -> Value {
    let mut envelope = message(id, &format!("topic://{topic}"));
    envelope["type"] = json!("PUBLISH");
    envelope["payload"] = json!({"topic": topic, "data": id});
    envelope
}

#[tokio::test]
async fn a_publication_that_was_refused_may_be_sent_again() {
    let fixture = Fixture::new().await;
    let rejecting = order("q", "news", json!({"maxQueue": 1, "overflow": "reject"}));
    fixture
        .bus
        .make_subscription(&ada(), rejecting)
        .await
        .unwrap();
    fixture.send(publication("m1", "news")).await.unwrap();
    for _ in 0..2 {
        let refused = fixture.send(publication("m2", "news")).await.unwrap_err();
        assert_eq!(refused.code, "queue_full");
    }
    fixture.bus.remove_subscription(&ada(), "q").await.unwrap();
    fixture.send(publication("m2", "news")).await.unwrap();
    let again = fixture.send(publication("m2", "news")).await.unwrap_err();
    assert_eq!(again.code, "replayed");
}

#[tokio::test]
async fn the_past_is_read_up_to_the_moment_of_the_subscription() {
    let fixture = Fixture::new().await;
    for id in ["m1", "m2", "m3"] {
        fixture.send(publication(id, "news")).await.unwrap();
    }
    let mut found = Vec::new();
    let earliest = order("q", "news", json!({"from": "earliest"}));
    fixture
        .bus
        .make_subscription(&ada(), earliest)
        .await
        .unwrap();
    while found.len() < 3 {
        let pulled = fixture.bus.pull(&ada(), "q", (10, PATIENCE)).await.unwrap();
        assert!(!pulled.messages.is_empty(), "{found:?}");
        let id = |handed: Handed| handed.envelope["id"].as_str().unwrap().to_owned();
        found.extend(pulled.messages.into_iter().map(id));
    }
    assert_eq!(found, ["m1", "m2", "m3"]);
}

#[tokio::test]
async fn subscriptions_of_agents_that_are_gone_are_removed_when_all_are_known() {
    let fixture = Fixture::new().await;
    for who in ["other", "webscraper"] {
        let asked = json!({"topic": "news", "durable": true, "name": "q"});
        fixture
            .line(who, MessageType::Subscribe, "kai://node.here", asked)
            .await
            .unwrap();
    }
    fixture.stop().await;
    // It is removed while the bus does not hear of it.
    fixture.set("other", None);
    fixture.start().await;
    assert_eq!(fixture.bus.subscriptions().await.unwrap().len(), 2);
    fixture.bus.fleet_complete();
    let left = fixture.bus.subscriptions().await.unwrap();
    let left: Vec<_> = left.iter().map(|view| &*view.terms.id).collect();
    assert_eq!(left, ["agent:webscraper:q"]);
    fixture.stop().await;
    fixture.set("webscraper", None);
    fixture.start().await;
    until("the rest is removed", || {
        fixture
            .kinds()
            .iter()
            .filter(|kind| *kind == "subscription.removed")
            .count()
            == 2
    })
    .await;
}

#[tokio::test]
async fn a_pull_that_is_over_is_answered_also_while_the_disk_is_full() {
    let fixture = Fixture::new().await;
    fixture
        .bus
        .make_subscription(&ada(), order("q", "news", Value::Null))
        .await
        .unwrap();
    let (bus, limit) = (fixture.bus.clone(), Duration::from_millis(200));
    let pulling = tokio::spawn(async move { bus.pull(&ada(), "q", (1, limit)).await });
    tokio::task::yield_now().await;
    fixture
        .store
        .journal
        .set_read_only(Some("the disk is full"));
    let answer = tokio::time::timeout(PATIENCE, pulling).await.unwrap();
    match answer.unwrap() {
        Ok(pulled) => assert!(pulled.messages.is_empty()),
        // It came too late to wait at all.
        Err(problem) => assert_eq!(problem.code, "read_only"),
    }
}

/// What an agent acknowledges by: subscription and token of each delivery that it got, in order.
fn in_hand(fixture: &Fixture, who: &str) -> Vec<(String, String)> {
    let delivered = fixture.world.delivered.lock().unwrap();
    let its = delivered.iter().filter(|(agent, _)| agent == who);
    let deliveries = its.filter_map(|(_, envelope)| {
        let delivery = envelope.context.as_ref()?.get("delivery")?;
        let text = |field: &str| delivery[field].as_str().unwrap().to_owned();
        Some((text("subscription"), text("token")))
    });
    deliveries.collect()
}

#[tokio::test]
async fn an_agent_has_so_many_messages_in_hand_over_all_of_its_subscriptions() {
    let fixture = Fixture::new().await;
    for n in 0..3 {
        let asked = json!({
            "topic": "news", "durable": true, "name": format!("q{n}"), "maxUnacked": 1000,
        });
        let done = fixture.line("other", MessageType::Subscribe, "kai://node.here", asked);
        done.await.unwrap();
    }
    for n in 0..200 {
        let sent = fixture.send(publication(&format!("m{n}"), "news"));
        sent.await.unwrap();
    }
    until("as many as there may be are in hand", || {
        in_hand(&fixture, "other").len() == 512
    })
    .await;
    // The bus has seen to all that was published, and holds the rest back.
    fixture
        .send(publication("last", "elsewhere"))
        .await
        .unwrap();
    let had = in_hand(&fixture, "other");
    assert_eq!(had.len(), 512);
    // Another agent's place is its own.
    let asked = json!({"topic": "news.other", "durable": true, "name": "q"});
    let done = fixture.line(
        "webscraper",
        MessageType::Subscribe,
        "kai://node.here",
        asked,
    );
    done.await.unwrap();
    fixture.send(publication("x", "news.other")).await.unwrap();
    until("the other one gets its own", || {
        in_hand(&fixture, "webscraper").len() == 1
    })
    .await;
    let (subscription, _) = had[0].clone();
    let tokens = had.iter().filter(|(of, _)| *of == subscription).take(10);
    let tokens: Vec<_> = tokens.map(|(_, token)| token).collect();
    let acked = json!({"subscription": subscription, "tokens": tokens});
    let done = fixture.line("other", MessageType::Ack, "kai://node.here", acked);
    done.await.unwrap();
    until("for each that is done one more comes", || {
        in_hand(&fixture, "other").len() == 522
    })
    .await;
}

#[tokio::test]
async fn an_agent_uses_no_topic_beyond_its_manifest_and_what_it_has_beyond_a_later_one_ends() {
    let fixture = Fixture::new().await;
    let left = |publish: &[&str], subscribe: &[&str]| {
        let policy = json!({"publish": publish, "subscribe": subscribe});
        *fixture.world.topics.lock().unwrap() = serde_json::from_value(policy).unwrap();
    };
    let subscribes = async |topic: &str, durable: bool| {
        let mut asked = json!({"topic": topic});
        if durable {
            asked["durable"] = json!(true);
            asked["name"] = json!(topic.replace(['.', '>', '*'], "-"));
        }
        let done = fixture.line("other", MessageType::Subscribe, "kai://node.here", asked);
        done.await.map(|_| ()).map_err(|problem| problem.code)
    };
    let publishes = async |topic: &str| {
        let payload = json!({"topic": topic, "data": 1});
        let to = format!("topic://{topic}");
        let done = fixture.line("other", MessageType::Publish, &to, payload);
        done.await.map(|_| ()).map_err(|problem| problem.code)
    };
    left(&["a.*"], &["a.>", "b"]);
    for topic in ["a.x", "a.*", "a.x.>", "b"] {
        for durable in [false, true] {
            assert_eq!(subscribes(topic, durable).await, Ok(()), "{topic}");
        }
    }
    for topic in ["a", "c", ">", "*", "*.x", "b.x"] {
        for durable in [false, true] {
            assert_eq!(
                subscribes(topic, durable).await,
                Err("forbidden"),
                "{topic}"
            );
        }
    }
    assert_eq!(publishes("a.y").await, Ok(()));
    for topic in ["a", "a.x.y", "b"] {
        assert_eq!(publishes(topic).await, Err("forbidden"), "{topic}");
    }
    // In its name, whoever says it.
    let mut forged = publication("f1", "b");
    forged["from"] = json!("kai://agent.other");
    let admin = caller("user:root", Role::Admin);
    let refused = fixture.bus.send(&admin, forged).await.unwrap_err();
    assert_eq!(refused.code, "forbidden");

    left(&[], &["a.x"]);
    fixture.bus.agent_ready(&agent("other"));
    until("what is beyond it ends", || {
        let ended = fixture.kinds();
        let ended = ended.iter().filter(|kind| *kind == "subscription.removed");
        ended.count() == 3
    })
    .await;
    let before = fixture.delivered().len();
    fixture.send(publication("m1", "b")).await.unwrap();
    fixture.send(publication("m2", "a.x")).await.unwrap();
    until("what is left goes on", || {
        fixture.delivered().len() > before
    })
    .await;
    let got = fixture.delivered();
    assert!(got.iter().all(|got| got != "other:m1"), "{got:?}");
    assert!(got.iter().any(|got| got == "other:m2"), "{got:?}");
}

#[tokio::test]
async fn while_two_versions_run_a_publication_goes_to_one_whose_manifest_leaves_it_the_topic() {
    let fixture = Fixture::new().await;
    let policy = |subscribe: &[&str]| -> TopicPolicy {
        serde_json::from_value(json!({"subscribe": subscribe})).unwrap()
    };
    let versions = |one: &[&str], other: &[&str]| {
        *fixture.world.topics.lock().unwrap() = policy(one);
        *fixture.world.others.lock().unwrap() = [(Epoch(9), policy(other))].into();
    };
    versions(&["a.x"], &["a.x"]);
    let asked = json!({"topic": "a.x"});
    let done = fixture.line("other", MessageType::Subscribe, "kai://node.here", asked);
    done.await.unwrap();
    let both = fixture.send(publication("m0", "a.x")).await;
    both.unwrap();
    until("one of both has it", || fixture.delivered() == ["other:m0"]).await;
    assert!(fixture.world.addressed.lock().unwrap().is_empty());

    versions(&["a.x"], &[]);
    fixture.send(publication("m1", "a.x")).await.unwrap();
    versions(&[], &["a.x"]);
    fixture.send(publication("m2", "a.x")).await.unwrap();
    versions(&[], &[]);
    fixture.send(publication("m3", "a.x")).await.unwrap();
    versions(&["a.x"], &["a.x"]);
    fixture.send(publication("m4", "a.x")).await.unwrap();
    until("the last one is there", || {
        fixture.delivered().last().map(String::as_str) == Some("other:m4")
    })
    .await;
    let addressed = fixture.world.addressed.lock().unwrap().clone();
    let expected = [(Epoch(1), "m1"), (Epoch(9), "m2")];
    assert_eq!(
        addressed,
        expected.map(|(epoch, id)| (epoch, id.to_owned()))
    );
    assert_eq!(fixture.delivered().len(), 4);
}

#[tokio::test]
async fn tasks_are_told_of_from_where_the_bus_left_off_and_once() {
    let fixture = Fixture::new().await;
    let created = |records: &[u64]| {
        let one = |record: &u64| Created {
            record: Position(*record),
            id: format!("task.created:t{record}"),
            data: json!({"task": format!("t{record}")}),
        };
        records.iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(fixture.bus.feed_from().await.unwrap(), None, "nobody wants");
    let made = order("q", "task.*", json!({}));
    fixture.bus.make_subscription(&ada(), made).await.unwrap();
    let since = fixture.bus.feed_from().await.unwrap().unwrap();
    fixture.bus.tell_created(created(&[70, 71])).await.unwrap();
    let next = Some(Position(72));
    assert!(since < Position(70));
    assert_eq!(fixture.bus.feed_from().await.unwrap(), next);
    // Told again, as after a crash before it was noted that it had been done.
    fixture.bus.tell_created(created(&[70, 71])).await.unwrap();
    fixture.stop().await;
    fixture.start().await;
    assert_eq!(fixture.bus.feed_from().await.unwrap(), next);
    fixture.bus.tell_created(created(&[71, 72])).await.unwrap();
    let pulled = fixture.bus.pull(&ada(), "q", (10, PATIENCE)).await.unwrap();
    let told = pulled.messages.iter();
    let told: Vec<_> = told
        .map(|handed| handed.envelope["payload"]["data"]["task"].to_string())
        .collect();
    assert_eq!(told, ["\"t70\"", "\"t71\"", "\"t72\""]);
    fixture.bus.remove_subscription(&ada(), "q").await.unwrap();
    assert_eq!(fixture.bus.feed_from().await.unwrap(), None);
}
