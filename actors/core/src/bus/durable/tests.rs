use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use mesh_messages::{PartitionId, RecordHeader};

use super::super::DeadRefusal;
use super::*;

const OWNER: &str = "user:ada";

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// A bus and its log.
#[derive(Default)]
struct Bench {
    state: BusState,
    log: Vec<(RecordHeader, BusEvent)>,
    now: u64,
}

impl Bench {
    fn take(&mut self, events: impl IntoIterator<Item = BusEvent>) {
        for event in events {
            let header = RecordHeader {
                v: 1,
                ns: "default".into(),
                log: String::new(),
                position: Position(self.log.len() as u64),
                partition: PartitionId::from_static("bus"),
                seq: 0,
                time: at(self.now),
                lc: 0,
                kind: event.kind().into(),
                kv: 1,
                agent: None,
                task: None,
                actor: "meshd".into(),
                cause: None,
                correlation: None,
                payload: String::new(),
            };
            self.state.apply(&header, &event);
            self.log.push((header, event));
        }
    }

    fn make(&mut self, name: &str, order: serde_json::Value) -> String {
        let mut whole = json!({"name": name, "topic": "t.>"});
        whole
            .as_object_mut()
            .unwrap()
            .extend(order.as_object().unwrap().clone());
        let order: SubscriptionOrder = serde_json::from_value(whole).unwrap();
        let Making::Make(event) = self.state.make(OWNER, &order, false).unwrap() else {
            panic!("it was there");
        };
        self.take([event]);
        format!("{OWNER}:{name}")
    }

    fn publish(&mut self, id: &str, priority: &str) -> Result<(), BusRefusal> {
        let envelope = json!({"id": id, "from": "user:eve", "to": "topic://t.a", "type": "PUBLISH",
            "priority": priority, "payload": {"topic": "t.a"}});
        let (topic, from) = ("t.a".parse().unwrap(), "user:eve".parse().unwrap());
        match self.state.publish(&topic, (&from, id, true), &envelope) {
            Publishing::Accept(pushed) => {
                let sent = BusEvent::Sent {
                    message: id.to_owned(),
                    from: "user:eve".to_owned(),
                    to: "topic://t.a".to_owned(),
                    kind: "PUBLISH".to_owned(),
                    envelope,
                };
                self.take([sent].into_iter().chain(pushed));
                Ok(())
            }
            Publishing::Known => Ok(()),
            Publishing::Refuse(refusal) => Err(refusal),
        }
    }

    fn pull(&mut self, id: &str, most: usize) -> Vec<Handed> {
        let out = self.state.hand_out(id, most, None, at(self.now));
        self.take(out.events);
        out.messages
    }

    fn settle(&mut self, id: &str, op: AckOp, tokens: &[String]) -> AckOutcome {
        let said = (tokens, None, "no");
        let (events, outcome) = self.state.settle(id, op, said, None, at(self.now));
        self.take(events);
        outcome
    }

    fn wait(&mut self, ms: u64) {
        self.now += ms;
        let events = self.state.overdue(at(self.now));
        self.take(events);
    }

    fn replayed(&self) -> BusState {
        let mut state = BusState::default();
        for (header, event) in &self.log {
            state.apply(header, event);
        }
        state
    }
}

fn ids(handed: &[Handed]) -> Vec<String> {
    let id = |h: &Handed| h.envelope["id"].as_str().unwrap().to_owned();
    handed.iter().map(id).collect()
}

fn tokens(handed: &[Handed]) -> Vec<String> {
    handed.iter().map(|h| h.token.clone()).collect()
}

#[test]
fn a_message_comes_until_it_is_acknowledged_and_then_no_more() {
    let mut bench = Bench::default();
    let sub = bench.make("s", json!({"ackTimeoutMs": 1000}));
    bench.publish("m", "normal").unwrap();
    let first = bench.pull(&sub, 9);
    assert_eq!((ids(&first), first[0].delivery), (vec!["m".to_owned()], 1));
    assert!(bench.pull(&sub, 9).is_empty(), "it is in hand");
    bench.wait(1001);
    let second = bench.pull(&sub, 9);
    assert_eq!(second[0].delivery, 2);
    let stale = bench.settle(&sub, AckOp::Ack, &tokens(&first));
    assert_eq!(
        stale.stale,
        tokens(&first),
        "an earlier delivery settles nothing"
    );
    let done = bench.settle(&sub, AckOp::Ack, &tokens(&second));
    assert_eq!(done.done, tokens(&second));
    bench.wait(100_000);
    assert!(bench.pull(&sub, 9).is_empty());
    assert!(bench.state.durable.messages.is_empty(), "nobody needs it");
}

#[test]
fn a_negative_acknowledgement_brings_it_again_after_its_pause_and_more_time_keeps_it() {
    let mut bench = Bench::default();
    let sub = bench.make("s", json!({"ackTimeoutMs": 1000}));
    bench.publish("m", "normal").unwrap();
    let handed = bench.pull(&sub, 1);
    let pause = Some(Duration::from_secs(5));
    let said = (&*tokens(&handed), pause, "not yet");
    let (events, _) = bench.state.settle(&sub, AckOp::Nack, said, None, at(0));
    bench.take(events);
    bench.wait(4999);
    assert!(bench.pull(&sub, 1).is_empty());
    bench.wait(1);
    let again = bench.pull(&sub, 1);
    assert_eq!(again[0].delivery, 2);
    bench.wait(900);
    assert_eq!(
        bench
            .settle(&sub, AckOp::Extend, &tokens(&again))
            .done
            .len(),
        1
    );
    bench.wait(900);
    assert_eq!(
        bench.settle(&sub, AckOp::Ack, &tokens(&again)).done.len(),
        1
    );
}

#[test]
fn what_comes_too_often_is_a_dead_letter_with_its_causes_and_can_be_put_back() {
    let mut bench = Bench::default();
    let sub = bench.make("s", json!({"maxDeliver": 2}));
    bench.publish("m", "normal").unwrap();
    for _ in 0..2 {
        let handed = bench.pull(&sub, 1);
        bench.settle(&sub, AckOp::Nack, &tokens(&handed));
    }
    assert!(bench.pull(&sub, 1).is_empty());
    let letter = bench.state.dead_letters().next().unwrap().clone();
    assert_eq!(
        (&*letter.message, letter.deliveries, letter.causes.len()),
        ("m", 2, 2)
    );
    assert_eq!(letter.causes[1].why, "refused: no");
    assert!(letter.retryable);
    let event = bench.state.retry_dead(letter.id, at(0)).unwrap();
    bench.take([event]);
    assert_eq!(bench.state.dead_letters().count(), 0);
    assert_eq!(bench.pull(&sub, 1)[0].delivery, 3, "the count goes on");
    assert_eq!(bench.state.drop_dead(letter.id), Err(DeadRefusal::Unknown));
}

#[test]
fn a_full_queue_refuses_or_drops_the_oldest_of_the_least_priority() {
    let mut bench = Bench::default();
    let sub = bench.make("s", json!({"maxQueue": 2}));
    bench.publish("high", "high").unwrap();
    bench.publish("low", "low").unwrap();
    bench.publish("normal", "normal").unwrap();
    let dead = |bench: &Bench| -> Vec<String> {
        bench
            .state
            .dead_letters()
            .map(|letter| letter.message.clone())
            .collect()
    };
    assert_eq!(dead(&bench), ["low"]);
    bench.publish("another low", "low").unwrap();
    assert_eq!(
        dead(&bench),
        ["low", "another low"],
        "it would go before all others"
    );
    assert_eq!(ids(&bench.pull(&sub, 9)), ["high", "normal"]);
    bench.publish("late", "critical").unwrap();
    assert_eq!(
        dead(&bench).last().unwrap(),
        "late",
        "what is in hand is not taken away"
    );

    let mut bench = Bench::default();
    bench.make("s", json!({"maxQueue": 1, "overflow": "reject"}));
    bench.publish("1", "normal").unwrap();
    assert!(matches!(
        bench.publish("2", "critical"),
        Err(BusRefusal::QueueFull(_))
    ));
    let records = bench.log.len();
    assert_eq!(bench.replayed(), bench.state);
    assert_eq!(records, 2, "a refusal changes nothing");
}

#[test]
fn the_shares_of_the_priorities_are_as_stated_and_order_within_one_is_kept() {
    let mut bench = Bench::default();
    let sub = bench.make("s", json!({"maxUnacked": 1000}));
    for n in 0..60 {
        for priority in ["low", "normal", "high", "critical"] {
            bench
                .publish(&format!("{priority}-{n:02}"), priority)
                .unwrap();
        }
    }
    let first = ids(&bench.pull(&sub, 30));
    let count = |name: &str| first.iter().filter(|id| id.starts_with(name)).count();
    assert_eq!(
        [
            count("critical"),
            count("high"),
            count("normal"),
            count("low")
        ],
        [16, 8, 4, 2]
    );
    let mut all = first;
    while all.len() < 240 {
        all.extend(ids(&bench.pull(&sub, 30)));
    }
    for priority in ["low", "normal", "high", "critical"] {
        let own: Vec<_> = all.iter().filter(|id| id.starts_with(priority)).collect();
        assert!(own.is_sorted(), "{own:?}");
        assert_eq!(own.len(), 60);
    }
}

#[test]
fn an_incarnation_that_is_over_gives_back_what_it_had_and_cannot_acknowledge() {
    let mut bench = Bench::default();
    let order: SubscriptionOrder = serde_json::from_value(json!({"topic": "t.a"})).unwrap();
    let Making::Make(event) = bench.state.make("agent:echo", &order, true).unwrap() else {
        panic!("new");
    };
    bench.take([event]);
    bench.publish("m", "normal").unwrap();
    let (sub, echo) = ("agent:echo:t.a", AgentId::new("echo").unwrap());
    let out = bench.state.hand_out(sub, 1, Some(Epoch(1)), at(0));
    bench.take(out.events);
    let said = (&*tokens(&out.messages), None, "");
    let (_, other) = bench
        .state
        .settle(sub, AckOp::Ack, said, Some(Epoch(2)), at(0));
    assert_eq!(other.done.len(), 0);
    assert!(
        bench
            .state
            .orphaned(&echo, |epoch| epoch != Epoch(1), at(0))
            .is_empty()
    );
    let back = bench.state.orphaned(&echo, |_| true, at(0));
    bench.take(back);
    let again = bench.state.hand_out(sub, 1, Some(Epoch(2)), at(0));
    assert_eq!(again.messages[0].delivery, 2);
}

#[test]
fn the_same_message_is_published_once() {
    let mut bench = Bench::default();
    let sub = bench.make("s", json!({}));
    bench.publish("m", "normal").unwrap();
    bench.publish("m", "normal").unwrap();
    assert_eq!(bench.pull(&sub, 9).len(), 1);
}

#[test]
fn the_same_order_twice_is_one_subscription_and_another_under_its_name_is_refused() {
    let mut bench = Bench::default();
    bench.make("s", json!({}));
    let order = |json| serde_json::from_value::<SubscriptionOrder>(json).unwrap();
    let same = order(json!({"name": "s", "topic": "t.>"}));
    assert_eq!(bench.state.make(OWNER, &same, false), Ok(Making::Known));
    let other = order(json!({"name": "s", "topic": "u"}));
    assert!(matches!(
        bench.state.make(OWNER, &other, false),
        Err(TermsRefusal::Exists(_))
    ));
    let zero = order(json!({"name": "z", "topic": "u", "maxUnacked": 0}));
    assert!(matches!(
        bench.state.make(OWNER, &zero, false),
        Err(TermsRefusal::Field {
            field: "maxUnacked",
            ..
        })
    ));
    let reject = order(json!({"topic": "u", "overflow": "reject"}));
    assert_eq!(
        bench.state.make("agent:a", &reject, true),
        Err(TermsRefusal::Bulkhead)
    );
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Publish(u8, u8),
    Pull(u8, u8),
    Ack(u8, AckOp),
    Wait(u16),
    Restart,
    RetryDead,
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop::sample::select(vec![AckOp::Ack, AckOp::Ack, AckOp::Nack, AckOp::Extend]);
    prop_oneof![
        6 => (0..200_u8, 0..4_u8).prop_map(|(id, priority)| Step::Publish(id, priority)),
        4 => (0..2_u8, 1..6_u8).prop_map(|(sub, most)| Step::Pull(sub, most)),
        4 => (any::<u8>(), op).prop_map(|(which, op)| Step::Ack(which, op)),
        2 => (0..1500_u16).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => Just(Step::RetryDead),
        1 => (0..40_u8).prop_map(Step::Remove),
    ]
}

proptest! {
    /// At least once: whatever was taken is acknowledged, in a queue, or a dead letter, in every subscription. Bounded:
    /// neither a queue nor what is in hand is ever beyond its bound. And the log gives the same state.
    #[test]
    fn nothing_is_lost_nothing_is_beyond_its_bound_and_the_log_gives_the_same_state(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut bench = Bench::default();
        let subs = [
            bench.make("a", json!({"ackTimeoutMs": 1000, "maxUnacked": 3, "maxDeliver": 3, "maxQueue": 8})),
            bench.make("b", json!({"ackTimeoutMs": 500, "maxUnacked": 8, "maxDeliver": 2, "maxQueue": 5})),
        ];
        // By subscription and message: how often it was handed out; acknowledged ones apart.
        let mut seen: BTreeMap<(usize, String), u32> = BTreeMap::new();
        let mut acked: BTreeSet<(usize, String)> = BTreeSet::new();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        let mut hands: Vec<(usize, Handed)> = Vec::new();
        let mut removed = false;
        for step in steps {
            match step {
                Step::Publish(id, priority) => {
                    let priority = ["low", "normal", "high", "critical"][usize::from(priority)];
                    bench.publish(&id.to_string(), priority).unwrap();
                    if !removed {
                        taken.insert(id.to_string());
                    }
                }
                Step::Pull(sub, most) => {
                    let sub = usize::from(sub);
                    for handed in bench.pull(&subs[sub], usize::from(most)) {
                        let key = (sub, handed.envelope["id"].as_str().unwrap().to_owned());
                        prop_assert!(!acked.contains(&key), "{key:?} was acknowledged");
                        let before = seen.insert(key, handed.delivery).unwrap_or_default();
                        prop_assert!(handed.delivery > before);
                        hands.push((sub, handed));
                    }
                }
                Step::Ack(which, op) if !hands.is_empty() => {
                    let (sub, handed) = hands.swap_remove(usize::from(which) % hands.len());
                    let outcome = bench.settle(&subs[sub], op, std::slice::from_ref(&handed.token));
                    if op == AckOp::Ack && !outcome.done.is_empty() {
                        acked.insert((sub, handed.envelope["id"].as_str().unwrap().to_owned()));
                    }
                    if op == AckOp::Extend {
                        hands.push((sub, handed));
                    }
                }
                Step::Ack(..) => {}
                Step::Wait(ms) => bench.wait(u64::from(ms)),
                Step::Restart => bench.state = bench.replayed(),
                Step::RetryDead => {
                    let first = bench.state.dead_letters().next().map(|letter| letter.id);
                    if let Some(Ok(event)) = first.map(|id| bench.state.retry_dead(id, at(bench.now))) {
                        bench.take([event]);
                    }
                }
                Step::Remove(n) => {
                    if n == 0 {
                        removed = true;
                        bench.take([BusEvent::Removed { subscription: subs[1].clone(), reason: "test".to_owned() }]);
                    }
                }
            }
            for queue in bench.state.queues() {
                prop_assert!(queue.len() <= queue.terms.max_queue as usize);
                prop_assert!(queue.out() <= queue.terms.max_unacked);
            }
            for (sub, id) in subs.iter().enumerate() {
                let Some(queue) = bench.state.queue(id) else { continue };
                for message in &taken {
                    let waits = queue.items().any(|(record, _)| {
                        bench.state.durable.messages[&record].envelope["id"] == **message
                    });
                    let dead = bench.state.dead_letters().any(|letter| {
                        letter.message == *message && letter.subscription.as_ref() == Some(id)
                    });
                    let places = u8::from(waits) + u8::from(dead) + u8::from(acked.contains(&(sub, message.clone())));
                    prop_assert_eq!(places, 1, "{} in {}", message, id);
                }
            }
        }
        prop_assert_eq!(bench.replayed(), bench.state.clone());
        let stored = serde_json::to_string(&bench.state).unwrap();
        prop_assert_eq!(serde_json::from_str::<BusState>(&stored).unwrap(), bench.state);
    }
}

fn publication(state: &BusState, topic: &str, epoch: Option<u64>) -> Publishing {
    let envelope = json!({"id": "1", "from": "agent:a", "to": format!("topic://{topic}"), "type": "PUBLISH",
        "epoch": epoch, "payload": {"topic": topic}});
    let (topic, from) = (topic.parse().unwrap(), "agent:a".parse().unwrap());
    state.publish(&topic, (&from, "1", true), &envelope)
}

#[test]
fn an_incarnation_may_number_its_messages_anew() {
    let mut bench = Bench::default();
    for epoch in [Some(1), Some(2), None] {
        assert_eq!(
            publication(&bench.state, "t.a", epoch),
            Publishing::Accept(Vec::new()),
            "{epoch:?}"
        );
        let envelope = json!({"id": "1", "from": "agent:a", "epoch": epoch});
        let received = |envelope: serde_json::Value| BusEvent::Received {
            message: "1".to_owned(),
            from: "agent:a".to_owned(),
            to: "agent:b".to_owned(),
            kind: "PUBLISH".to_owned(),
            envelope,
        };
        let sent = BusEvent::Sent {
            message: "1".to_owned(),
            from: "agent:a".to_owned(),
            to: "topic://t.a".to_owned(),
            kind: "PUBLISH".to_owned(),
            envelope,
        };
        bench.take([sent, received(serde_json::Value::Null)]);
    }
    assert_eq!(
        bench.state.recent().count(),
        3,
        "what is received is what was sent"
    );
    let loaded: BusState =
        serde_json::from_value(serde_json::to_value(&bench.state).unwrap()).unwrap();
    for epoch in [Some(1), Some(2), None] {
        assert_eq!(
            publication(&loaded, "t.a", epoch),
            Publishing::Known,
            "{epoch:?}"
        );
    }
}

#[test]
fn what_makes_no_room_for_a_newcomer_stays() {
    let mut bench = Bench::default();
    let id = bench.make("q", json!({"maxQueue": 10}));
    let big = |kib: usize| "x".repeat(kib * 1024);
    let publish = |bench: &mut Bench, name: &str, priority: &str, kib: usize| {
        let envelope = json!({"id": name, "from": "user:eve", "to": "topic://t.a", "type": "PUBLISH",
            "priority": priority, "payload": {"topic": "t.a", "data": big(kib)}});
        let (topic, from) = ("t.a".parse().unwrap(), "user:eve".parse().unwrap());
        let Publishing::Accept(pushed) =
            bench.state.publish(&topic, (&from, name, true), &envelope)
        else {
            panic!("refused");
        };
        let sent = BusEvent::Sent {
            message: name.to_owned(),
            from: "user:eve".to_owned(),
            to: "topic://t.a".to_owned(),
            kind: "PUBLISH".to_owned(),
            envelope,
        };
        bench.take([sent].into_iter().chain(pushed));
    };
    publish(&mut bench, "low", "low", 1);
    publish(&mut bench, "critical", "critical", 7 * 1024);
    publish(&mut bench, "normal", "normal", 2 * 1024);
    assert_eq!(ids(&bench.pull(&id, 10)), ["critical", "low"]);
    assert_eq!(bench.state.queue(&id).unwrap().dead, 1);
}

#[test]
fn agents_hear_nothing_of_what_happens_to_the_mesh() {
    let mut bench = Bench::default();
    bench.make("all", json!({"topic": ">"}));
    let order: SubscriptionOrder =
        serde_json::from_value(json!({"name": "all", "topic": ">"})).unwrap();
    let Making::Make(event) = bench.state.make("agent:a", &order, true).unwrap() else {
        panic!("it was there");
    };
    let agent = AgentId::new("b").unwrap();
    let live = bench
        .state
        .subscribe(&agent, &">".parse().unwrap())
        .unwrap();
    bench.take([event].into_iter().chain(live));
    for (topic, durable, live) in [("task.created", 1, 0), ("task.other", 2, 1)] {
        let topic = topic.parse().unwrap();
        assert_eq!(bench.state.durable_receivers(&topic), durable);
        assert_eq!(bench.state.subscribers(&topic, None).count(), live);
    }
    let removed = BusEvent::Removed {
        subscription: format!("{OWNER}:all"),
        reason: String::new(),
    };
    bench.take([removed]);
    assert!(!bench.state.is_wanted(&"task.created".parse().unwrap()));
}

#[test]
fn what_happens_to_the_mesh_is_refused_by_no_subscription() {
    let mut bench = Bench::default();
    bench.make(
        "r",
        json!({"topic": ">", "maxQueue": 1, "overflow": "reject"}),
    );
    bench.publish("m1", "normal").unwrap();
    assert!(bench.publish("m2", "normal").is_err());
    let (topic, from) = (
        "task.created".parse().unwrap(),
        "kai://node.here".parse().unwrap(),
    );
    let envelope = json!({"id": "c", "from": "kai://node.here"});
    let Publishing::Accept(pushed) = bench.state.announce(&topic, (&from, "c", true), &envelope)
    else {
        panic!("refused");
    };
    assert_eq!(pushed.len(), 1);
}
