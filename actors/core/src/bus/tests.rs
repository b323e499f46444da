use proptest::prelude::*;
use serde_json::json;

use mesh_messages::klp::CapabilityQuery;
use mesh_messages::manifest::Persona;
use mesh_messages::{PartitionId, Position};

use super::*;

fn agent(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}

fn entry(capabilities: &[&str], persona: Persona, presence: Presence) -> AgentEntry {
    AgentEntry {
        version: "1.0.0".to_owned(),
        persona,
        capabilities: capabilities.iter().map(|&c| c.to_owned()).collect(),
        presence,
    }
}

fn snapshot() -> Snapshot {
    let agents = [
        (
            "away-scraper",
            entry(&["scrape", "fetch"], Persona::Specialist, Presence::Away),
        ),
        (
            "b-scraper",
            entry(&["scrape"], Persona::Utility, Presence::Up),
        ),
        (
            "c-scraper",
            entry(&["scrape"], Persona::Specialist, Presence::Up),
        ),
        (
            "old",
            entry(&["scrape", "legacy"], Persona::Specialist, Presence::Gone),
        ),
        (
            "webscraper",
            entry(&["web"], Persona::Utility, Presence::Up),
        ),
    ];
    Snapshot {
        agents: agents
            .into_iter()
            .map(|(id, entry)| (agent(id), entry))
            .collect(),
        node: vec!["here".to_owned()],
    }
}

fn header(at: u64) -> RecordHeader {
    RecordHeader {
        v: 1,
        ns: "default".into(),
        log: String::new(),
        position: Position(0),
        partition: PartitionId::from_static("bus"),
        seq: 0,
        time: Timestamp::from_millis(at),
        lc: 0,
        kind: "".into(),
        kv: 1,
        agent: None,
        task: None,
        actor: "meshd".into(),
        cause: None,
        correlation: None,
        payload: String::new(),
    }
}

fn take(state: &mut BusState, events: impl IntoIterator<Item = BusEvent>) {
    for event in events {
        state.apply(&header(0), &event);
    }
}

/// The events without what led to them.
fn plain(events: Vec<(BusEvent, Origin)>) -> Vec<BusEvent> {
    events.into_iter().map(|(event, _)| event).collect()
}

fn mail(n: u64, priority: Priority) -> Mail {
    Mail {
        message: n.to_string(),
        from: "user:ada".parse().unwrap(),
        sender: None,
        to: agent("echo"),
        kind: "MESSAGE".to_owned(),
        priority,
        envelope: json!({"id": n.to_string(), "priority": priority, "payload": {}}),
    }
}

fn events(posting: Posting) -> Vec<BusEvent> {
    match posting {
        Posting::Deliver(events) | Posting::Hold(events) | Posting::Refuse(events, _) => events,
    }
}

#[test]
fn addresses_mean_what_the_table_says() {
    let id = |text: &str| match snapshot().resolve(&text.parse().unwrap()) {
        Ok(Destination::Agent { id, capability, .. }) => Ok((id.to_string(), capability)),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    };
    let named = |id: &str| Ok((id.to_owned(), None));
    let able = |id: &str, capability: &str| Ok((id.to_owned(), Some(capability.to_owned())));
    for (address, expected) in [
        ("kai://agent.webscraper", named("webscraper")),
        ("agent:webscraper", named("webscraper")),
        ("kai://node.here/agent.webscraper", named("webscraper")),
        ("kExecutor:webscraper", named("webscraper")),
        ("kExecutor:web", able("webscraper", "web")),
        ("kExecutor:scrape", able("b-scraper", "scrape")),
        ("specialist:scrape", able("c-scraper", "scrape")),
        ("kExecutor:fetch", able("away-scraper", "fetch")),
        (
            "kai://agent.nobody",
            Err("Agent nobody not found".to_owned()),
        ),
        (
            "kExecutor:legacy",
            Err("nobody has the address kExecutor:legacy".to_owned()),
        ),
        (
            "kai://node.elsewhere/agent.webscraper",
            Err("elsewhere is another node, and none is connected".to_owned()),
        ),
        (
            "policy://x",
            Err("nobody has the address policy://x".to_owned()),
        ),
        (
            "kai://else.where",
            Err("nobody has the address kai://else.where".to_owned()),
        ),
        ("kai://node.here", Err("Node".to_owned())),
        ("kai://user.device.kai-core", Err("Person".to_owned())),
        ("user:ada", Err("Person".to_owned())),
    ] {
        assert_eq!(id(address), expected, "{address}");
    }
}

#[test]
fn capability_query_names_all_who_can_and_are_not_gone() {
    let find = |capabilities: &[&str], persona| {
        let capabilities = capabilities.iter().map(|&c| c.to_owned()).collect();
        let reply = snapshot().query(&CapabilityQuery {
            capabilities,
            persona,
        });
        reply
            .agents
            .into_iter()
            .map(|a| a.id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        find(&["scrape"], None),
        ["away-scraper", "b-scraper", "c-scraper"]
    );
    assert_eq!(find(&["scrape", "fetch"], None), ["away-scraper"]);
    assert_eq!(find(&["scrape"], Some(Persona::Utility)), ["b-scraper"]);
    assert_eq!(find(&[], None).len(), 4);
}

#[test]
fn message_for_an_agent_that_is_up_is_received_and_not_held() {
    let mut state = BusState::default();
    let Posting::Deliver(events) = state.post(&mail(1, Priority::Normal), Presence::Up) else {
        panic!("not delivered");
    };
    assert!(matches!(&events[..], [BusEvent::Received { .. }]));
    take(&mut state, events);
    assert_eq!(state.held(&agent("echo")), 0);

    let between_agents = Mail {
        sender: Some(agent("other")),
        ..mail(2, Priority::Normal)
    };
    let Posting::Deliver(events) = state.post(&between_agents, Presence::Up) else {
        panic!("not delivered");
    };
    assert!(matches!(
        &events[..],
        [BusEvent::Sent { .. }, BusEvent::Received { .. }]
    ));
    take(&mut state, events);
    assert_eq!(state.held(&agent("echo")), 0);
}

#[test]
fn mail_of_an_absent_agent_comes_back_by_urgency_then_age_and_without_the_expired() {
    let mut state = BusState::default();
    let mut late = mail(9, Priority::Critical);
    late.envelope["expires"] = json!("1970-01-01T00:00:01.000Z");
    for m in [
        mail(1, Priority::Normal),
        mail(2, Priority::Low),
        mail(3, Priority::Critical),
        mail(4, Priority::Normal),
        late,
    ] {
        let Posting::Hold(events) = state.post(&m, Presence::Away) else {
            panic!("not held")
        };
        take(&mut state, events);
    }
    let before = state.release(&agent("echo"), Timestamp::from_millis(999));
    assert_eq!(before.mail.len(), 5);
    let release = state.release(&agent("echo"), Timestamp::from_millis(1000));
    let ids: Vec<_> = release
        .mail
        .iter()
        .map(|(m, _)| m.message.as_str())
        .collect();
    assert_eq!(ids, ["3", "1", "4", "2"]);
    assert!(!release.more);
    take(&mut state, plain(release.events));
    assert_eq!(state.held(&agent("echo")), 0);
    assert_eq!(
        state.release(&agent("echo"), Timestamp::ZERO),
        Release::default()
    );
}

#[test]
fn a_full_mailbox_refuses_the_newcomer_and_keeps_what_it_has() {
    let mut state = BusState::default();
    for n in 0..HELD_MAX as u64 {
        let posting = state.post(&mail(n, Priority::Normal), Presence::Away);
        take(&mut state, events(posting));
    }
    let posting = state.post(&mail(1000, Priority::Critical), Presence::Away);
    assert!(
        matches!(&posting, Posting::Refuse(_, BusRefusal::MailboxFull(_))),
        "{posting:?}"
    );
    take(&mut state, events(posting));
    assert_eq!(state.held(&agent("echo")), HELD_MAX);
    let release = state.release(&agent("echo"), Timestamp::ZERO);
    assert_eq!(release.mail.len(), RELEASE_MAX);
    assert!(release.more);
}

#[test]
fn mail_is_bounded_in_bytes_too() {
    let mut state = BusState::default();
    let large = |n| {
        let mut m = mail(n, Priority::Normal);
        m.envelope["payload"] = json!("x".repeat(1024 * 1024));
        m
    };
    let mut taken = 0;
    while let Posting::Hold(events) = state.post(&large(taken), Presence::Away) {
        take(&mut state, events);
        taken += 1;
    }
    assert_eq!(taken, 7);
}

#[test]
fn terminated_agents_get_nothing_and_their_mail_is_dead() {
    let mut state = BusState::default();
    let posting = state.post(&mail(1, Priority::Normal), Presence::Away);
    take(&mut state, events(posting));
    let given_up = plain(state.give_up(&agent("echo")));
    assert!(matches!(&given_up[..], [BusEvent::DeadLettered { .. }]));
    take(&mut state, given_up);
    assert_eq!(state.held(&agent("echo")), 0);
    assert!(matches!(
        state.post(&mail(2, Priority::Normal), Presence::Gone),
        Posting::Refuse(_, BusRefusal::Gone(_))
    ));
}

#[test]
fn publication_reaches_each_subscriber_once_and_not_its_publisher() {
    let mut state = BusState::default();
    for (who, pattern) in [
        ("a", "news.*"),
        ("a", "news.>"),
        ("b", "news.weather"),
        ("c", "sport"),
    ] {
        let event = state
            .subscribe(&agent(who), &pattern.parse().unwrap())
            .unwrap();
        take(&mut state, event);
    }
    let topic = "news.weather".parse().unwrap();
    let who = |publisher: Option<&AgentId>| {
        state
            .subscribers(&topic, publisher)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(who(None), ["a", "b"]);
    assert_eq!(who(Some(&agent("a"))), ["b"]);
    assert_eq!(
        state.subscribe(&agent("a"), &"news.*".parse().unwrap()),
        Ok(None)
    );
}

#[test]
fn subscriptions_are_bounded() {
    let mut state = BusState::default();
    for n in 0..SUBSCRIPTIONS_MAX {
        let event = state
            .subscribe(&agent("a"), &format!("t.{n}").parse().unwrap())
            .unwrap();
        take(&mut state, event);
    }
    let refused = state.subscribe(&agent("a"), &"one.more".parse().unwrap());
    assert_eq!(refused, Err(BusRefusal::Subscriptions(agent("a"))));
}

proptest! {
    #[test]
    fn whatever_is_held_is_released_or_dead_once_and_survives_a_snapshot(
        steps in prop::collection::vec((0u8..4, 0u64..20, 0u8..4), 1..150),
    ) {
        let priorities = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
        let mut state = BusState::default();
        let mut waiting: Vec<String> = Vec::new();
        for (n, (step, id, priority)) in (0u64..).zip(steps) {
            match step {
                0 | 1 => {
                    let m = mail(n * 100 + id, priorities[usize::from(priority)]);
                    let presence = if step == 0 { Presence::Away } else { Presence::Up };
                    let posting = state.post(&m, presence);
                    if matches!(posting, Posting::Hold(_)) {
                        waiting.push(m.message.clone());
                    }
                    take(&mut state, events(posting));
                }
                2 => {
                    let release = state.release(&agent("echo"), Timestamp::ZERO);
                    for (mail, _) in &release.mail {
                        let place = waiting.iter().position(|w| *w == mail.message);
                        prop_assert!(place.is_some(), "released what was not held, or twice");
                        waiting.remove(place.unwrap());
                    }
                    take(&mut state, plain(release.events));
                }
                _ => {
                    let events = plain(state.give_up(&agent("echo")));
                    prop_assert_eq!(events.len(), waiting.len());
                    waiting.clear();
                    take(&mut state, events);
                }
            }
            prop_assert_eq!(state.held(&agent("echo")), waiting.len());
            prop_assert!(waiting.len() <= HELD_MAX);
        }
        let text = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(&serde_json::from_str::<BusState>(&text).unwrap(), &state);
    }
}

#[test]
fn what_becomes_of_mail_that_waited_follows_from_its_own_record() {
    let mut state = BusState::default();
    for n in 0..4 {
        let expires = (n == 3).then(|| Timestamp::from_millis(1).to_string());
        let mut mail = mail(n, Priority::Normal);
        mail.envelope["expires"] = json!(expires);
        let header = RecordHeader {
            position: Position(100 + n),
            correlation: Some(format!("r-{n}")),
            ..header(0)
        };
        for event in events(state.post(&mail, Presence::Away)) {
            state.apply(&header, &event);
        }
    }
    let release = state.release(&agent("echo"), Timestamp::from_millis(2));
    let origins = |events: &[(BusEvent, Origin)]| -> Vec<_> {
        let of = |(_, origin): &(BusEvent, Origin)| {
            (
                origin.record.unwrap().0,
                origin.correlation.clone().unwrap(),
            )
        };
        events.iter().map(of).collect()
    };
    let expected: Vec<_> = (0..4).map(|n| (100 + n, format!("r-{n}"))).collect();
    assert_eq!(origins(&release.events), expected);
    assert_eq!(origins(&state.give_up(&agent("echo"))), expected);
    // What a snapshot of an earlier version holds has none, and is read.
    let mut old = serde_json::to_value(&state).unwrap();
    for held in old["held"]["echo"].as_array_mut().unwrap() {
        held.as_object_mut().unwrap().remove("origin");
    }
    let old: BusState = serde_json::from_value(old).unwrap();
    let release = old.release(&agent("echo"), Timestamp::from_millis(2));
    assert_eq!(release.events[0].1, Origin::default());
}
