//! Keys, signatures and times at their edges, as somebody would write them who wants two readers to disagree.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_messages::Timestamp;
use mesh_messages::identity::{DidKey, SignatureText, SigningKey};
use mesh_messages::klp::{Envelope, ReplayError, ReplayWindow, decode_line};
use proptest::prelude::*;

const KEY: &str = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
/// The order of the group, little-endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn did(bytes: &[u8]) -> String {
    format!("did:key:z{}", bs58::encode(bytes).into_string())
}

fn ed25519(point: &[u8]) -> String {
    did(&[&[0xed, 0x01], point].concat())
}

#[test]
fn a_key_has_one_spelling() {
    assert!(KEY.parse::<DidKey>().is_ok());
    let bytes = bs58::decode(&KEY["did:key:z".len()..]).into_vec().unwrap();
    let point = &bytes[2..];
    for (what, text) in [
        ("white space before", format!(" {KEY}")),
        ("a newline behind", format!("{KEY}\n")),
        ("the method in capitals", KEY.replace("key", "KEY")),
        ("a fragment", format!("{KEY}#{}", &KEY["did:key:".len()..])),
        ("a version", KEY.replace("did:key:", "did:key:1.1:")),
        ("another base, named", KEY.replace(":z", ":f")),
        (
            "a one before it, which stands for no bits",
            KEY.replace(":z", ":z1"),
        ),
        (
            "a letter that base58 does not have",
            KEY.replace("6Mk", "6M0"),
        ),
        ("a letter of another script", KEY.replace('a', "\u{0430}")),
        (
            "a code in three bytes",
            did(&[&[0xed, 0x81, 0x00], point].concat()),
        ),
        ("another code", did(&[&[0xec, 0x01], point].concat())),
        ("no code", did(point)),
        ("a byte more", ed25519(&[point, &[0]].concat())),
        ("a byte less", ed25519(&point[..31])),
        ("nothing", "did:key:z".to_owned()),
        ("very much", format!("did:key:z{}", "z".repeat(100_000))),
    ] {
        assert!(text.parse::<DidKey>().is_err(), "{what}");
    }
}

#[test]
fn keys_that_anybody_can_sign_for_are_none() {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let order_8 = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];
    let mut points: Vec<[u8; 32]> = vec![one, minus_one, [0; 32]];
    points.extend(order_8.map(|text| <[u8; 32]>::try_from(hex::decode(text).unwrap()).unwrap()));
    // The same with the sign that they do not have, and with a y that is not reduced.
    for mut point in points.clone() {
        point[31] ^= 0x80;
        points.push(point);
    }
    for low in [0xed, 0xee] {
        for high in [0x7f, 0xff] {
            let mut unreduced = [0xff; 32];
            (unreduced[0], unreduced[31]) = (low, high);
            points.push(unreduced);
        }
    }
    for point in points {
        let text = ed25519(&point);
        assert!(text.parse::<DidKey>().is_err(), "{}", hex::encode(point));
    }
}

#[test]
fn a_signature_has_one_form() {
    let key = SigningKey::from_secret(&[3; 32]);
    let good = key.sign(b"hello").to_string();
    let bytes = URL_SAFE_NO_PAD.decode(&good["ed25519:".len()..]).unwrap();
    let holds = |bytes: &[u8]| {
        let text = format!("ed25519:{}", URL_SAFE_NO_PAD.encode(bytes));
        text.parse::<SignatureText>()
            .is_ok_and(|signature| key.public().verify(b"hello", &signature).is_ok())
    };
    assert!(holds(&bytes));
    // S + L is S again to whoever does not look.
    let (mut malleable, mut carry) = (bytes.clone(), 0u16);
    for (s, l) in malleable[32..].iter_mut().zip(L) {
        let sum = u16::from(*s) + u16::from(l) + carry;
        (*s, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(carry, 0);
    assert!(!holds(&malleable), "S is not reduced");
    // R of small order, with each S that could go with it.
    for s in [[0; 32], bytes[32..].try_into().unwrap()] {
        let mut forged = vec![0; 64];
        forged[0] = 1;
        forged[32..].copy_from_slice(&s);
        assert!(!holds(&forged), "R is the neutral element");
    }
    assert!(!holds(&bytes[..63]) && !holds(&[&bytes[..], &[0]].concat()));
    for (what, text) in [
        ("padding", format!("{good}==")),
        ("white space within", good.replacen(':', ": ", 1)),
        ("a newline behind", format!("{good}\n")),
        (
            "the name in capitals",
            good.replacen("ed25519", "Ed25519", 1),
        ),
        ("no name", good["ed25519:".len()..].to_owned()),
        ("another name", good.replacen("ed25519", "ed25519ph", 1)),
        (
            "the other alphabet",
            format!("{}+/", &good[..good.len() - 2]),
        ),
        ("bits beyond the last byte", {
            let last = good.chars().last().unwrap();
            let next = char::from(u8::try_from(last).unwrap() + 1);
            format!("{}{next}", &good[..good.len() - 1])
        }),
    ] {
        assert!(text.parse::<SignatureText>().is_err(), "{what}");
    }
}

fn envelope(from: &str, id: &str, at: Timestamp, more: &str) -> Envelope {
    let line = format!(
        r#"{{"type":"MESSAGE","from":"{from}","to":"agent:echo","id":"{id}","timestamp":"{at}","payload":1{more}}}"#
    );
    decode_line(line.as_bytes()).unwrap()
}

#[test]
fn a_message_is_expired_from_the_moment_that_it_names() {
    let end: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let at = |millis: i64| Timestamp::from_millis(end.as_millis().saturating_add_signed(millis));
    for (spelling, extra) in [
        ("2026-01-01T00:00:00Z", 0),
        ("2026-01-01T01:00:00+01:00", 0),
        ("2025-12-31T23:59:59.999Z", -1),
        ("2026-01-01T00:00:00.001Z", 1),
    ] {
        let more = format!(r#","expires":"{spelling}""#);
        let envelope = envelope("user:ada", "1", end, &more);
        assert!(!envelope.is_expired(at(extra - 1)), "{spelling}");
        assert!(envelope.is_expired(at(extra)), "{spelling}");
        assert!(envelope.is_expired(at(extra + 1)), "{spelling}");
    }
}

#[test]
fn at_the_edges_of_the_window_no_message_is_taken_twice() {
    let window = Duration::from_mins(5);
    let sent: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let copy = || envelope("user:ada", "1", sent, "");
    for (first, second) in [
        (sent.minus(window), sent.plus(window)),
        (sent, sent.plus(window)),
        (sent.plus(window), sent.plus(window)),
    ] {
        let mut seen = ReplayWindow::new(window, 10);
        assert_eq!(seen.admit(&copy(), first), Ok(()));
        assert_eq!(seen.admit(&copy(), second), Err(ReplayError::Seen));
    }
    let mut seen = ReplayWindow::new(window, 10);
    let millisecond = Duration::from_millis(1);
    for outside in [
        sent.minus(window).minus(millisecond),
        sent.plus(window).plus(millisecond),
    ] {
        assert_eq!(
            seen.admit(&copy(), outside),
            Err(ReplayError::OutsideWindow)
        );
    }
    // A clock that is set back forgets nothing that could come again.
    assert_eq!(seen.admit(&copy(), sent.plus(window)), Ok(()));
    assert_eq!(
        seen.admit(&copy(), sent.minus(window)),
        Err(ReplayError::Seen)
    );
    // Names that run into each other are different messages; the highest epoch is one, too.
    for (from, id, more) in [
        ("user:a", "da1", ""),
        ("user:ad", "a1", ""),
        ("user:ada", "1", r#","epoch":9007199254740992"#),
        ("user:ada", "1", r#","epoch":1"#),
    ] {
        assert_eq!(seen.admit(&envelope(from, id, sent, more), sent), Ok(()));
    }
}

proptest! {
    #[test]
    fn a_changed_bit_of_key_or_signature_holds_for_nothing(secret: [u8; 32], at in 0..64usize, bit in 0..8u8) {
        let key = SigningKey::from_secret(&secret);
        let good = key.sign(b"hello").to_string();
        let mut bytes = URL_SAFE_NO_PAD.decode(&good["ed25519:".len()..]).unwrap();
        bytes[at] ^= 1 << bit;
        let text = format!("ed25519:{}", URL_SAFE_NO_PAD.encode(&bytes));
        let signature: SignatureText = text.parse().unwrap();
        prop_assert!(key.public().verify(b"hello", &signature).is_err());
        let mut point = key.public().ed25519_bytes().unwrap();
        point[at % 32] ^= 1 << bit;
        let good: SignatureText = good.parse().unwrap();
        let other = DidKey::from_bytes(&point);
        prop_assert!(other.map_or(true, |other| other.verify(b"hello", &good).is_err()));
    }
}
