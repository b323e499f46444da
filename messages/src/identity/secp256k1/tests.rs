use k256::ecdsa::SigningKey;
use k256::ecdsa::signature::Signer as _;

use super::*;
use crate::identity::{DidKey, SignatureText};

/// The example of the did:key method specification.
const KEY: &str = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme";

fn foreign() -> (SigningKey, DidKey) {
    let secret = SigningKey::from_slice(&[7; 32]).unwrap();
    let point = secret.verifying_key().to_sec1_point(true);
    let mut bytes = vec![0xe7, 0x01];
    bytes.extend(point.as_bytes());
    let text = format!("did:key:z{}", bs58::encode(bytes).into_string());
    (secret, text.parse().unwrap())
}

fn text(bytes: &[u8]) -> SignatureText {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    format!("secp256k1:{encoded}").parse().unwrap()
}

#[test]
fn a_published_key_reads_and_is_written_as_it_was() {
    let key: DidKey = KEY.parse().unwrap();
    assert_eq!((key.to_string().as_str(), key.ed25519_bytes()), (KEY, None));
    let wide = bs58::encode([&[0xe7, 0x01][..], &[4; 65]].concat()).into_string();
    for other in [
        format!("{KEY}1"),
        // No point of the curve, an uncompressed one, one of a wrong sign.
        format!(
            "did:key:z{}",
            bs58::encode([&[0xe7, 0x01, 0x02][..], &[0xff; 32]].concat()).into_string()
        ),
        format!(
            "did:key:z{}",
            bs58::encode([&[0xe7, 0x01, 0x05][..], &[1; 32]].concat()).into_string()
        ),
        format!("did:key:z{wide}"),
    ] {
        assert!(other.parse::<DidKey>().is_err(), "{other}");
    }
}

#[test]
fn a_signature_holds_for_its_message_and_key_in_one_form() {
    let (secret, key) = foreign();
    let signature: Signature = secret.sign(b"hello");
    let signature = signature.normalize_s();
    let low = text(&signature.to_bytes());
    assert_eq!(key.verify(b"hello", &low), Ok(()));
    assert_eq!(key.verify(b"hellp", &low), Err(BadSignature));
    let other: DidKey = KEY.parse().unwrap();
    assert_eq!(other.verify(b"hello", &low), Err(BadSignature));
    // The other `s` that holds, and values that are none.
    let (r, s) = signature.split_scalars();
    let high = Signature::from_scalars(*r, -*s).unwrap();
    assert_eq!(
        key.verify(b"hello", &text(&high.to_bytes())),
        Err(BadSignature)
    );
    for bytes in [[0; 64], [0xff; 64]] {
        assert_eq!(key.verify(b"hello", &text(&bytes)), Err(BadSignature));
    }
    let mut half = [0; 64];
    half[..32].copy_from_slice(&signature.to_bytes()[..32]);
    assert_eq!(key.verify(b"hello", &text(&half)), Err(BadSignature));
}

#[test]
fn a_signature_of_another_kind_is_never_the_keys() {
    let ours = crate::identity::SigningKey::from_secret(&[7; 32]);
    let (_, key) = foreign();
    assert_eq!(key.verify(b"x", &ours.sign(b"x")), Err(BadSignature));
    assert_eq!(
        ours.public().verify(b"x", &text(&[1; 64])),
        Err(BadSignature)
    );
}
