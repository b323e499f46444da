use serde_json::{Value, json};

use super::*;

fn key(n: u8) -> SigningKey {
    SigningKey::from_secret(&[n; 32])
}

fn root(mesh: &SigningKey) -> Root {
    Root {
        mesh: mesh.public(),
        id: "0011223344556677".to_owned(),
        role: Role::Operator,
        subject: "ada".to_owned(),
        expires: None,
    }
}

fn issued() -> Capability {
    Capability::issue(&key(1), &root(&key(1)), &[2; 32])
}

fn limits(value: Value) -> Limits {
    serde_json::from_value(value).unwrap()
}

fn narrowed() -> Capability {
    let first = limits(json!({"verbs": ["task.submit"], "taskTypes": ["billing.*"]}));
    let second = limits(json!({"hops": 0}));
    let once = issued().narrow(&first, &[3; 32]).unwrap();
    once.narrow(&second, &[4; 32]).unwrap()
}

/// The token's form, to be tampered with.
fn form(token: &Capability) -> Value {
    let text = token.text();
    let encoded = text.strip_prefix(CAPABILITY_PREFIX).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
}

fn text(form: &Value) -> String {
    let written = URL_SAFE_NO_PAD.encode(serde_json::to_vec(form).unwrap());
    format!("{CAPABILITY_PREFIX}{written}")
}

fn judged(form: &Value) -> Result<Proven, CapabilityError> {
    Capability::read(&text(form))?.verify(&key(1).public())
}

#[test]
fn a_token_says_what_it_was_given_and_what_was_taken_from_it() {
    let token = narrowed();
    let read = Capability::read(&token.text()).unwrap();
    let proven = read.verify(&key(1).public()).unwrap();
    assert_eq!(proven.root, root(&key(1)));
    assert_eq!(proven.narrowed.len(), 2);
    assert_eq!(proven.narrowed[1].limits.hops, Some(0));
    assert!(proven.narrowed[0].id.starts_with("0011223344556677."));
    let whole = issued().verify(&key(1).public()).unwrap();
    assert_eq!(
        whole.digest, proven.digest,
        "it is known by its first block"
    );
    assert_eq!(format!("{token:?}"), "Capability { blocks: 3, .. }");
}

#[test]
fn a_block_that_was_widened_exchanged_or_taken_off_is_found() {
    let whole = form(&narrowed());
    judged(&whole).unwrap();
    // Widened: in any block, by one character.
    for block in 0..3 {
        let mut forged = whole.clone();
        let payload = forged["blocks"][block]["payload"].as_str().unwrap();
        let wider = payload
            .replace("operator", "admin")
            .replace("billing.*", "*")
            .replace("\"hops\":0", "\"hops\":9");
        forged["blocks"][block]["payload"] = json!(wider);
        assert_eq!(judged(&forged), Err(CapabilityError::Forged(block)));
    }
    // The last blocks cut off, the secret of the whole kept.
    for kept in 1..3 {
        let mut cut = whole.clone();
        cut["blocks"].as_array_mut().unwrap().truncate(kept);
        assert_eq!(judged(&cut), Err(CapabilityError::Cut));
    }
    // One taken out of the middle, and two exchanged.
    let mut without = whole.clone();
    without["blocks"].as_array_mut().unwrap().remove(1);
    assert_eq!(judged(&without), Err(CapabilityError::Forged(1)));
    let mut swapped = whole.clone();
    swapped["blocks"].as_array_mut().unwrap().swap(1, 2);
    assert_eq!(judged(&swapped), Err(CapabilityError::Forged(1)));
    // A block of another token, narrowed less, in the place of this one's.
    let other = form(&issued().narrow(&limits(json!({})), &[4; 32]).unwrap());
    let mut mixed = whole.clone();
    mixed["blocks"][2] = other["blocks"][1].clone();
    assert_eq!(judged(&mixed), Err(CapabilityError::Forged(2)));
    // Another secret, another next key.
    let mut stolen = whole.clone();
    stolen["secret"] = json!("07".repeat(32));
    assert_eq!(judged(&stolen), Err(CapabilityError::Cut));
    let mut led = whole.clone();
    led["blocks"][2]["next"] = json!(key(7).public());
    led["secret"] = json!("07".repeat(32));
    assert_eq!(judged(&led), Err(CapabilityError::Forged(2)));
    // A signature of a good block in the place of another one's.
    let mut lent = whole.clone();
    lent["blocks"][2]["signature"] = whole["blocks"][1]["signature"].clone();
    assert_eq!(judged(&lent), Err(CapabilityError::Forged(2)));
}

#[test]
fn a_token_of_another_node_or_of_nobody_is_none() {
    let foreign = Capability::issue(&key(9), &root(&key(9)), &[2; 32]);
    assert_eq!(
        foreign.verify(&key(1).public()),
        Err(CapabilityError::Foreign)
    );
    // One that another node signs in this node's name.
    let posing = Capability::issue(&key(9), &root(&key(1)), &[2; 32]);
    assert_eq!(
        posing.verify(&key(1).public()),
        Err(CapabilityError::Forged(0))
    );
    // One that this node signed for another.
    let lent = Capability::issue(&key(1), &root(&key(9)), &[2; 32]);
    assert_eq!(lent.verify(&key(1).public()), Err(CapabilityError::Foreign));
}

#[test]
fn what_is_too_long_or_of_another_form_is_refused_before_anything_is_verified() {
    let mut token = issued();
    for n in 1..BLOCKS_MAX {
        token = token
            .narrow(&Limits::default(), &[u8::try_from(n).unwrap() + 10; 32])
            .unwrap();
    }
    token.verify(&key(1).public()).unwrap();
    let more = token.narrow(&Limits::default(), &[99; 32]);
    assert_eq!(more.unwrap_err(), CapabilityError::TooLong);
    let mut many = form(&issued());
    let block = many["blocks"][0].clone();
    many["blocks"] = json!(vec![block; 1000]);
    assert_eq!(judged(&many), Err(CapabilityError::TooLong));
    let mebibyte = format!("{CAPABILITY_PREFIX}{}", "A".repeat(1024 * 1024));
    assert_eq!(
        Capability::read(&mebibyte).unwrap_err(),
        CapabilityError::TooLong
    );
    let names = limits(json!({"taskTypes": vec!["a".repeat(250); 60]}));
    assert_eq!(
        issued().narrow(&names, &[3; 32]).unwrap_err(),
        CapabilityError::TooLong
    );
    let long = limits(json!({"agents": ["a".repeat(300)]}));
    assert!(matches!(
        issued().narrow(&long, &[3; 32]),
        Err(CapabilityError::Malformed(_))
    ));

    let good = form(&issued());
    for (field, value) in [
        ("v", json!(2)),
        ("blocks", json!([])),
        ("secret", json!("00")),
        ("more", json!(1)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(
            matches!(judged(&bad), Err(CapabilityError::Malformed(_))),
            "{field}"
        );
    }
    for text in [
        "",
        "meshcap_",
        "meshcap_!!",
        "mesh_0011223344556677_AAAA",
        "meshcap_e30",
    ] {
        assert!(
            matches!(Capability::read(text), Err(CapabilityError::Malformed(_))),
            "{text}"
        );
    }
}

#[test]
fn a_holder_who_signs_a_block_of_an_unknown_kind_voids_the_token() {
    let token = issued();
    let block = signed(
        &SigningKey::from_secret(&token.secret),
        Some((1, &token.blocks[0].signature)),
        r#"{"role":"admin"}"#.to_owned(),
        &[5; 32],
    );
    let mut blocks = token.blocks.clone();
    blocks.push(block);
    let odd = Capability {
        blocks,
        secret: Zeroizing::new([5; 32]),
    };
    assert!(matches!(
        odd.verify(&key(1).public()),
        Err(CapabilityError::Malformed(_))
    ));
}
