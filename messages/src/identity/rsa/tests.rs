use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::identity::{DidKey, SignatureText};

/// The examples of the did:key method specification: 2048 and 4096 bits.
const KEYS: [&str; 2] = [
    "did:key:z4MXj1wBzi9jUstyPMS4jQqB6KdJaiatPkAtVtGc6bQEQEEsKTic4G7Rou3iBf9vPmT5dbkm9qsZsuVNjq8HCuW1w24nhBFGkRE4cd2Uf2tfrB3N7h4mnyPp1BF3ZttHTYv3DLUPi1zMdkULiow3M1GfXkoC6DoxDUm1jmN6GBj22SjVsr6dxezRVQc7aj9TxE7JLbMH1wh5X3kA58H3DFW8rnYMakFGbca5CB2Jf6CnGQZmL7o5uJAdTwXfy2iiiyPxXEGerMhHwhjTA1mKYobyk2CpeEcmvynADfNZ5MBvcCS7m3XkFCMNUYBS9NQ3fze6vMSUPsNa6GVYmKx2x6JrdEjCk3qRMMmyjnjCMfR4pXbRMZa3i",
    "did:key:zgghBUVkqmWS8e1ioRVp2WN9Vw6x4NvnE9PGAyQsPqM3fnfPf8EdauiRVfBTcVDyzhqM5FFC7ekAvuV1cJHawtfgB9wDcru1hPDobk3hqyedijhgWmsYfJCmodkiiFnjNWATE7PvqTyoCjcmrc8yMRXmFPnoASyT5beUd4YZxTE9VfgmavcPy3BSouNmASMQ8xUXeiRwjb7xBaVTiDRjkmyPD7NYZdXuS93gFhyDFr5b3XLg7Rfj9nHEqtHDa7NmAX7iwDAbMUFEfiDEf9hrqZmpAYJracAjTTR8Cvn6mnDXMLwayNG8dcsXFodxok2qksYF4D8ffUxMRmyyQVQhhhmdSi4YaMPqTnC1J6HTG9Yfb98yGSVaWi4TApUhLXFow2ZvB6vqckCNhjCRL2R4MDUSk71qzxWHgezKyDeyThJgdxydrn1osqH94oSeA346eipkJvKqYREXBKwgB5VL6WF4qAK6sVZxJp2dQBfCPVZ4EbsBQaJXaVK7cNcWG8tZBFWZ79gG9Cu6C4u8yjBS8Ux6dCcJPUTLtixQu4z2n5dCsVSNdnP1EEs8ZerZo5pBgc68w4Yuf9KL3xVxPnAB1nRCBfs9cMU6oL1EdyHbqrTfnjE8HpY164akBqe92LFVsk8RusaGsVPrMekT8emTq5y8v8CabuZg5rDs3f9NPEtogjyx49wiub1FecM5B7QqEcZSYiKHgF4mfkteT2",
];

/// RFC 7515, appendix A.2: the modulus, what is signed, and the signature.
const MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const MESSAGE: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

fn did(der: &[u8]) -> String {
    let bytes = [&[0x85, 0x24][..], der].concat();
    format!("did:key:z{}", bs58::encode(bytes).into_string())
}

fn published() -> (Vec<u8>, DidKey) {
    let modulus = URL_SAFE_NO_PAD.decode(MODULUS).unwrap();
    let der = RsaKey(Big::from_slice(&modulus).unwrap()).to_der();
    (der.clone(), did(&der).parse().unwrap())
}

fn text(bytes: &[u8]) -> SignatureText {
    format!("rsa:{}", URL_SAFE_NO_PAD.encode(bytes))
        .parse()
        .unwrap()
}

#[test]
fn published_keys_read_and_are_written_as_they_were() {
    for text in KEYS {
        let key: DidKey = text.parse().unwrap();
        assert_eq!(
            (key.to_string().as_str(), key.ed25519_bytes()),
            (text, None)
        );
    }
}

#[test]
fn the_published_signature_holds_for_its_message_and_key_only() {
    let (_, key) = published();
    let bytes = URL_SAFE_NO_PAD.decode(SIGNATURE).unwrap();
    let signature = text(&bytes);
    assert_eq!(signature.to_string(), format!("rsa:{SIGNATURE}"));
    assert_eq!(key.verify(MESSAGE.as_bytes(), &signature), Ok(()));
    let other: DidKey = KEYS[0].parse().unwrap();
    for (key, message, bytes) in [
        (key, "other", bytes.clone()),
        (other, MESSAGE, bytes.clone()),
        // Longer and shorter than the modulus, and of no bits and all bits.
        (key, MESSAGE, [&[0], &bytes[..]].concat()),
        (key, MESSAGE, [&bytes[..], &[0]].concat()),
        (key, MESSAGE, vec![0; 256]),
        (key, MESSAGE, vec![0xff; 256]),
    ] {
        assert_eq!(
            key.verify(message.as_bytes(), &text(&bytes)),
            Err(BadSignature)
        );
    }
    for at in [0, 100, 255] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(
            key.verify(MESSAGE.as_bytes(), &text(&changed)),
            Err(BadSignature)
        );
    }
    // The same number modulo the key, where it is no shorter than the key, is another text of it.
    let modulus = URL_SAFE_NO_PAD.decode(MODULUS).unwrap();
    let (mut twin, mut carry) = (bytes.clone(), 0u16);
    for (ours, theirs) in twin.iter_mut().zip(&modulus).rev() {
        let sum = u16::from(*ours) + u16::from(*theirs) + carry;
        (*ours, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    if carry == 1 {
        twin.insert(0, 1);
    }
    assert_eq!(
        key.verify(MESSAGE.as_bytes(), &text(&twin)),
        Err(BadSignature)
    );
}

#[test]
fn one_padding_and_one_digest_are_taken() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let key: DidKey = did(pair.public_key().as_ref()).parse().unwrap();
    let sign = |padding: &'static dyn aws_lc_rs::signature::RsaEncoding| {
        let mut signature = vec![0; 256];
        pair.sign(padding, &SystemRandom::new(), b"hello", &mut signature)
            .unwrap();
        text(&signature)
    };
    assert_eq!(key.verify(b"hello", &sign(&RSA_PKCS1_SHA256)), Ok(()));
    assert_eq!(
        key.verify(b"hello", &sign(&RSA_PSS_SHA256)),
        Err(BadSignature)
    );
    assert_eq!(
        key.verify(b"hello", &sign(&aws_lc_rs::signature::RSA_PKCS1_SHA512)),
        Err(BadSignature)
    );
    // A signature of another kind is never the key's.
    let ours = crate::identity::SigningKey::from_secret(&[7; 32]);
    assert_eq!(key.verify(b"x", &ours.sign(b"x")), Err(BadSignature));
    assert_eq!(
        ours.public().verify(b"x", &text(&[1; 256])),
        Err(BadSignature)
    );
}

type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn a_key_has_one_spelling_and_bounds() {
    let (der, _) = published();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut der = der.clone();
        change(&mut der);
        did(&der).parse::<DidKey>()
    };
    assert!(with(&|_| {}).is_ok());
    let modulus = |len: usize| {
        let bytes = [&[0x80][..], &vec![1; len - 1]].concat();
        RsaKey(Big {
            bytes: {
                let mut whole = [0; MODULUS_MAX];
                let len = bytes.len().min(MODULUS_MAX);
                whole[..len].copy_from_slice(&bytes[..len]);
                whole
            },
            len: bytes.len().min(MODULUS_MAX),
        })
        .to_der()
    };
    assert!(did(&modulus(256)).parse::<DidKey>().is_ok());
    assert!(did(&modulus(512)).parse::<DidKey>().is_ok());
    let refused: [(&str, Change<'_>); 12] = [
        ("bytes at the end", &|der| der.push(0)),
        ("cut", &|der| {
            der.pop();
        }),
        ("another exponent", &|der| {
            let last = der.len() - 1;
            der[last] = 3;
        }),
        ("an even modulus", &|der| {
            let last = der.len() - 6;
            der[last] &= 0xfe;
        }),
        ("a modulus that is not of full length", &|der| {
            der[9] &= 0x7f;
        }),
        ("a negative modulus", &|der| der[8] = 0xff),
        ("another tag", &|der| der[0] = 0x31),
        ("a length in three bytes", &|der| {
            der.splice(1..2, [0x83, 0]);
        }),
        ("an indefinite length", &|der| {
            der.splice(1..4, [0x80]);
        }),
        ("1024 bits", &|der| *der = modulus(128)),
        ("2040 bits", &|der| *der = modulus(255)),
        ("an X.509 wrapping", &|der| {
            der.splice(
                0..0,
                [
                    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7,
                    0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00,
                ],
            );
        }),
    ];
    for (name, change) in refused {
        assert!(with(change).is_err(), "{name}");
    }
    let long = [
        &[0x30, 0x82, 0x02, 0x13, 0x02, 0x82, 0x02, 0x0a, 0, 0x80][..],
        &[1; 520],
        &EXPONENT_DER,
    ]
    .concat();
    assert!(did(&long).parse::<DidKey>().is_err(), "more than 4096 bits");
}
