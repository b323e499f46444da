use proptest::prelude::*;

use mesh_messages::PartitionId;
use mesh_messages::Position;

use super::*;

fn header() -> RecordHeader {
    RecordHeader {
        v: 1,
        ns: "default".into(),
        log: String::new(),
        position: Position(0),
        partition: PartitionId::from_static("sentinel"),
        seq: 0,
        time: Timestamp::ZERO,
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

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn new(id: &str, role: Role, subject: Option<&str>, end: Option<u64>) -> NewToken {
    NewToken {
        id: id.to_owned(),
        digest: "d".to_owned(),
        role,
        subject: subject.map(str::to_owned),
        expires_at: end.map(at),
        attenuable: false,
    }
}

fn take(state: &mut SentinelState, events: impl IntoIterator<Item = SentinelEvent>) {
    for event in events {
        state.apply(&header(), &event);
    }
}

#[test]
fn issued_token_is_valid_until_the_moment_it_expires() {
    let mut state = SentinelState::default();
    let events = state
        .issue(at(10), new("a", Role::Viewer, Some("ann"), Some(20)))
        .unwrap();
    take(&mut state, events);
    let token = state.token("a").unwrap();
    assert!(token.is_valid(at(19)));
    assert!(!token.is_valid(at(20)));
    assert_eq!(token.bearer(), "user:ann");
}

#[test]
fn subject_defaults_to_the_role_and_an_agents_must_be_its_id() {
    let state = SentinelState::default();
    let events = state
        .issue(at(0), new("a", Role::Admin, None, None))
        .unwrap();
    assert!(
        matches!(&events[..], [SentinelEvent::TokenIssued { subject, .. }] if subject == "admin")
    );
    for (role, subject, refusal) in [
        (Role::Agent, None, IssueRefusal::AgentSubject),
        (Role::Agent, Some("not an id"), IssueRefusal::AgentSubject),
        (Role::Viewer, Some(""), IssueRefusal::Subject),
        (Role::Viewer, Some("agent:x"), IssueRefusal::Subject),
        (Role::Viewer, Some("a\nb"), IssueRefusal::Subject),
    ] {
        assert_eq!(
            state.issue(at(0), new("a", role, subject, None)),
            Err(refusal),
            "{subject:?}"
        );
    }
}

#[test]
fn what_would_be_void_from_the_start_or_exists_is_refused() {
    let mut state = SentinelState::default();
    assert_eq!(
        state.issue(at(5), new("a", Role::Viewer, None, Some(5))),
        Err(IssueRefusal::Expired)
    );
    let events = state
        .issue(at(5), new("a", Role::Viewer, None, None))
        .unwrap();
    take(&mut state, events);
    assert_eq!(
        state.issue(at(5), new("a", Role::Viewer, None, None)),
        Err(IssueRefusal::Taken("a".into()))
    );
}

#[test]
fn revoking_is_final_idempotent_and_refuses_the_unknown() {
    let mut state = SentinelState::default();
    let events = state
        .issue(at(0), new("a", Role::Viewer, None, None))
        .unwrap();
    take(&mut state, events);
    let event = state.revoke("a").unwrap();
    assert!(event.is_some());
    take(&mut state, event);
    assert!(!state.token("a").unwrap().is_valid(at(0)));
    assert_eq!(state.revoke("a"), Ok(None));
    assert_eq!(state.revoke("b"), Err(UnknownToken("b".into())));
    assert!(state.list()[0].revoked);
}

#[test]
fn an_agents_tokens_go_together_and_leave_a_person_of_the_same_name_alone() {
    let mut state = SentinelState::default();
    for (id, role, subject) in [
        ("a", Role::Agent, "echo"),
        ("b", Role::Agent, "other"),
        ("c", Role::Viewer, "echo"),
    ] {
        let events = state
            .issue(at(0), new(id, role, Some(subject), None))
            .unwrap();
        take(&mut state, events);
    }
    let events = state.revoke_agent(&AgentId::new("echo").unwrap());
    assert_eq!(events, [SentinelEvent::TokenRevoked { id: "a".into() }]);
    take(&mut state, events);
    assert!(
        state
            .revoke_agent(&AgentId::new("echo").unwrap())
            .is_empty()
    );
}

#[test]
fn a_full_table_makes_room_by_clearing_what_has_expired_and_refuses_when_nothing_has() {
    let mut state = SentinelState::default();
    for n in 0..TOKENS_MAX {
        let end = if n == 7 { Some(50) } else { None };
        let events = state
            .issue(at(0), new(&n.to_string(), Role::Viewer, None, end))
            .unwrap();
        take(&mut state, events);
    }
    assert_eq!(
        state.issue(at(49), new("x", Role::Viewer, None, None)),
        Err(IssueRefusal::TooMany)
    );
    let events = state
        .issue(at(50), new("x", Role::Viewer, None, None))
        .unwrap();
    assert_eq!(events.len(), 2);
    take(&mut state, events);
    assert!(state.token("7").unwrap().revoked);
    assert!(state.token("x").unwrap().is_valid(at(50)));
}

proptest! {
    #[test]
    fn any_history_keeps_the_state_bounded_and_the_revoked_void(
        steps in prop::collection::vec((0u8..30, any::<bool>(), 0u64..100), 1..200),
    ) {
        let mut state = SentinelState::default();
        let mut void = std::collections::BTreeSet::new();
        for (id, revoke, now) in steps {
            let id = id.to_string();
            if revoke {
                if let Ok(event) = state.revoke(&id) {
                    take(&mut state, event);
                    void.insert(id);
                }
            } else if let Ok(events) =
                state.issue(at(now), new(&id, Role::Viewer, None, Some(now + 10)))
            {
                prop_assert!(!void.contains(&id), "a revoked id is never given out again");
                take(&mut state, events);
            }
            for id in &void {
                prop_assert!(state.token(id).is_none_or(|t| !t.is_valid(Timestamp::ZERO)));
            }
            prop_assert_eq!(state.revoked.len(), state.tokens.values().filter(|t| t.revoked).count());
        }
        let kept: SentinelState =
            serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        prop_assert_eq!(&kept, &state);
    }
}

#[test]
fn a_key_in_wrong_hands_ends_what_rests_on_it_and_another_change_does_not() {
    let mut state = SentinelState::default();
    let narrowable = NewToken {
        attenuable: true,
        ..new("a", Role::Viewer, None, None)
    };
    for token in [narrowable, new("b", Role::Viewer, None, None)] {
        let issued = state.issue(at(0), token).unwrap();
        take(&mut state, issued);
    }
    let key = |n: u8| Box::new(mesh_messages::identity::SigningKey::from_secret(&[n; 32]).public());
    let rotated = |number: u64, compromised| SentinelEvent::KeyRotated {
        number,
        old: key(1),
        new: key(2),
        size: number,
        compromised,
        reason: String::new(),
        note: String::new(),
    };
    assert_eq!(state.resting_on_keys(), ["a"]);
    take(&mut state, [rotated(1, false)]);
    assert!(state.token("a").unwrap().is_valid(at(1)));
    take(&mut state, [rotated(2, true)]);
    assert!(!state.token("a").unwrap().is_valid(at(1)));
    assert!(state.token("b").unwrap().is_valid(at(1)));
    assert!(state.resting_on_keys().is_empty());
    assert_eq!(state.keys().rotations(), 2);
}
