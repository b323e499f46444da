use mesh_messages::identity::SigningKey;
use serde_json::{Value, json};

use super::*;

fn secret(n: u8) -> SigningKey {
    SigningKey::from_secret(&[n; 32])
}

fn mesh() -> DidKey {
    secret(99).public()
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_000)
}

fn update(sequence: u64, kind: &str, payload: Value, signers: &[u8]) -> GovernanceUpdate {
    let mut update = GovernanceUpdate {
        v: 1,
        mesh: mesh(),
        sequence,
        expires: Timestamp::from_millis(2_000),
        issuer: secret(signers.first().copied().unwrap_or(1)).public(),
        kind: kind.to_owned(),
        payload,
        signatures: Vec::new(),
    };
    for n in signers {
        update.sign(&secret(*n));
    }
    update
}

fn set(admins: &[u8], threshold: u32) -> Value {
    let keys: Vec<_> = admins.iter().map(|n| secret(*n).public()).collect();
    json!({"admins": keys, "threshold": threshold})
}

/// Two of the three admins 1, 2, 3.
fn governed() -> Governance {
    let mut state = Governance::default();
    take(
        &mut state,
        &update(1, kind::ADMIN_UPDATE, set(&[1, 2, 3], 2), &[1, 2]),
    );
    state
}

fn take(state: &mut Governance, update: &GovernanceUpdate) -> Accepted {
    let accepted = state.decide(now(), &mesh(), update).unwrap();
    state.apply(update, &accepted.signers);
    accepted
}

fn denied(state: &Governance, update: &GovernanceUpdate) -> Denied {
    state.decide(now(), &mesh(), update).unwrap_err()
}

fn policy() -> Value {
    json!({"default": {"essential": true}})
}

#[test]
fn m_signatures_suffice_and_one_fewer_does_not() {
    let state = governed();
    for (signers, result) in [
        (&[1][..], Some((1, 2))),
        (&[1, 2], None),
        (&[3, 1], None),
        (&[1, 2, 3], None),
        // Strangers do not count.
        (&[1, 7, 8], Some((1, 2))),
    ] {
        let update = update(2, kind::POLICY_UPDATE, policy(), signers);
        let refused = state.decide(now(), &mesh(), &update).err();
        let expected = result.map(|(have, need)| Denied::Signatures { have, need });
        assert_eq!(refused, expected, "{signers:?}");
    }
    assert_eq!(
        Denied::Signatures { have: 1, need: 2 }.to_string(),
        "Insufficient signatures"
    );
}

#[test]
fn a_signer_counts_once_however_often_they_sign() {
    let state = governed();
    let mut update = update(2, kind::POLICY_UPDATE, policy(), &[1]);
    let again = update.signatures[0].clone();
    update.signatures.extend([again.clone(), again]);
    assert_eq!(
        denied(&state, &update),
        Denied::Signatures { have: 1, need: 2 }
    );
}

#[test]
fn who_is_no_admin_or_did_not_sign_issues_nothing() {
    let state = governed();
    let stranger = update(2, kind::POLICY_UPDATE, policy(), &[7, 1, 2]);
    assert_eq!(denied(&state, &stranger), Denied::Authority);
    let mut borrowed = update(2, kind::POLICY_UPDATE, policy(), &[1, 2]);
    borrowed.issuer = secret(3).public();
    assert_eq!(
        denied(&state, &borrowed),
        Denied::Signatures { have: 0, need: 2 },
        "another issuer is another document"
    );
    assert_eq!(Denied::Authority.to_string(), "Invalid admin authority");
}

#[test]
fn an_admin_may_issue_what_enough_others_sign() {
    let state = governed();
    let issued = |signers: &[u8]| {
        let mut update = update(2, kind::POLICY_UPDATE, policy(), signers);
        update.issuer = secret(3).public();
        update.signatures.clear();
        for signer in signers {
            update.sign(&secret(*signer));
        }
        update
    };
    let good = state.decide(now(), &mesh(), &issued(&[1, 2])).unwrap();
    assert_eq!(good.signers.len(), 2);
    for (signers, have) in [(&[] as &[u8], 0), (&[1], 1), (&[3], 1)] {
        let expected = Denied::Signatures { have, need: 2 };
        assert_eq!(denied(&state, &issued(signers)), expected);
    }
    let expected = "Insufficient signatures";
    assert_eq!(denied(&state, &issued(&[])).to_string(), expected);
    // What it would do is looked at last, and by nobody who may not.
    let mut unknown = update(2, "node_dance", json!({}), &[1]);
    assert_eq!(
        denied(&state, &unknown),
        Denied::Signatures { have: 1, need: 2 }
    );
    unknown.issuer = secret(9).public();
    assert_eq!(denied(&state, &unknown), Denied::Authority);
}

#[test]
fn whatever_is_changed_after_the_signing_voids_the_signatures() {
    let state = governed();
    let good = update(2, kind::POLICY_UPDATE, policy(), &[1, 2]);
    state.decide(now(), &mesh(), &good).unwrap();
    let changes: [fn(&mut GovernanceUpdate); 4] = [
        |update| update.payload = json!({"default": {"essential": false}}),
        |update| update.expires = Timestamp::from_millis(9_000),
        |update| update.sequence = 3,
        |update| update.kind = kind::EMERGENCY_SHUTDOWN.to_owned(),
    ];
    for change in changes {
        let mut bad = good.clone();
        change(&mut bad);
        let none = Denied::Signatures { have: 0, need: 2 };
        assert_eq!(denied(&state, &bad), none, "{bad:?}");
    }
}

#[test]
fn an_update_counts_once_here_and_in_time() {
    let mut state = governed();
    let first = update(2, kind::POLICY_UPDATE, policy(), &[1, 2]);
    take(&mut state, &first);
    assert_eq!(
        denied(&state, &first),
        Denied::Sequence { found: 2, next: 3 }
    );
    let early = update(4, kind::POLICY_UPDATE, policy(), &[1, 2]);
    assert_eq!(
        denied(&state, &early),
        Denied::Sequence { found: 4, next: 3 }
    );
    let good = update(3, kind::POLICY_UPDATE, policy(), &[1, 2]);
    let void = state.decide(good.expires, &mesh(), &good).unwrap_err();
    assert_eq!(void, Denied::Expired(good.expires));
    let elsewhere = state
        .decide(now(), &secret(98).public(), &good)
        .unwrap_err();
    assert_eq!(elsewhere, Denied::Elsewhere(Box::new(mesh())));
}

#[test]
fn the_first_admins_vouch_for_themselves_and_the_next_are_vouched_for_by_them() {
    let empty = Governance::default();
    let none = update(1, kind::POLICY_UPDATE, policy(), &[1, 2]);
    assert_eq!(denied(&empty, &none), Denied::NoAdmins);
    let alone = update(1, kind::ADMIN_UPDATE, set(&[1, 2, 3], 2), &[1]);
    assert_eq!(
        denied(&empty, &alone),
        Denied::Signatures { have: 1, need: 2 }
    );
    let mut state = governed();
    let coup = update(2, kind::ADMIN_UPDATE, set(&[7, 8], 1), &[7, 8]);
    assert_eq!(denied(&state, &coup), Denied::Authority);
    take(
        &mut state,
        &update(2, kind::ADMIN_UPDATE, set(&[4, 5], 1), &[2, 3]),
    );
    let old = update(3, kind::POLICY_UPDATE, policy(), &[1, 2, 3]);
    assert_eq!(denied(&state, &old), Denied::Authority);
    take(&mut state, &update(3, kind::POLICY_UPDATE, policy(), &[5]));
    assert_eq!(state.origins["default"].signers, [secret(5).public()]);
    assert_eq!(state.origins["admins"].sequence, 2);
}

#[test]
fn sets_and_payloads_that_make_no_sense_and_unknown_types_are_refused() {
    let state = governed();
    for payload in [
        set(&[], 1),
        set(&[1], 2),
        set(&[1], 0),
        set(&[1, 1], 1),
        json!({"admins": 7}),
        json!(null),
    ] {
        let update = update(2, kind::ADMIN_UPDATE, payload, &[1, 2]);
        assert!(
            matches!(denied(&state, &update), Denied::Payload(_)),
            "{update:?}"
        );
    }
    // Out of its range, too: it would be in force, and no agent's machine could be made with it.
    for policy in [
        json!({"defaults": {}}),
        json!({"default": {"crash_window_ms": 0}}),
        json!({"default": {"max_crashes": 1_000_000}}),
    ] {
        let wrong = update(2, kind::POLICY_UPDATE, policy, &[1, 2]);
        assert!(
            matches!(denied(&state, &wrong), Denied::Payload(_)),
            "{wrong:?}"
        );
    }
    let unknown = denied(&state, &update(2, "node_dance", json!({}), &[1, 2]));
    assert_eq!(unknown, Denied::UnknownType("node_dance".to_owned()));
    let said = "Unknown governance update type: node_dance";
    assert_eq!(unknown.to_string(), said);
    let lift = update(2, kind::EMERGENCY_LIFT, json!({"reason": ""}), &[1, 2]);
    assert_eq!(denied(&state, &lift), Denied::NotHalted);
}

#[test]
fn a_shutdown_holds_until_it_is_lifted_and_survives_being_stored() {
    let mut state = governed();
    take(
        &mut state,
        &update(
            2,
            kind::EMERGENCY_SHUTDOWN,
            json!({"reason": "leak"}),
            &[1, 3],
        ),
    );
    let stored = serde_json::to_string(&state).unwrap();
    let mut state: Governance = serde_json::from_str(&stored).unwrap();
    assert_eq!(state.halted.as_ref().unwrap().reason, "leak");
    take(
        &mut state,
        &update(
            3,
            kind::EMERGENCY_LIFT,
            json!({"reason": "mended"}),
            &[1, 2],
        ),
    );
    assert_eq!(state.halted, None);
}
