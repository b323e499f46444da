//! Exports that are edited where the commitments do not reach: in their spelling, their notes and their last lines. Both
//! verifiers have to say the same, and what the documents say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_messages::identity::SigningKey;
use mesh_tests::has_python;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::proof_audit::Log;

type Edit<'a> = (&'a str, &'a dyn Fn(&mut Vec<String>), bool);

/// Changes a line as JSON.
fn edit(line: &mut String, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(line).unwrap();
    change(&mut value);
    *line = value.to_string();
}

/// Changes the note in the last line.
fn renote(lines: &mut [String], change: impl FnOnce(String) -> String) {
    edit(lines.last_mut().unwrap(), |value| {
        let note = value["checkpoint"].as_str().unwrap().to_owned();
        value["checkpoint"] = change(note).into();
    });
}

/// A note of these lines, as its signer makes it.
fn signed(key: &SigningKey, body: &str) -> String {
    let did = key.public().to_string();
    let public = key.public().ed25519_bytes().unwrap();
    let named = [did.as_bytes(), b"\n\x01", &public].concat();
    let text = key.sign(body.as_bytes()).to_string();
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(&text["ed25519:".len()..])
        .unwrap();
    let whole = [&Sha256::digest(named)[..4], &signature].concat();
    format!("{body}\n\u{2014} {did} {}\n", STANDARD.encode(whole))
}

#[test]
#[expect(
    clippy::too_many_lines,
    clippy::semicolon_if_nothing_returned,
    reason = "a table of edits, a row each"
)]
fn two_verifiers_agree_on_every_spelling_of_an_export() {
    if !has_python("two_verifiers_agree_on_every_spelling_of_an_export") {
        return;
    }
    let log = Log::new();
    let twice = |text: &str, part: &str| text.replacen(part, &format!("{part}{part}"), 1);
    let last_signature = |note: &str| note.lines().last().unwrap().to_owned();
    let whole: [Edit<'_>; 25] = [
        (
            "a member's name with an escape",
            &|l| l[1] = l[1].replacen("\"record\"", "\"\\u0072ecord\"", 1),
            true,
        ),
        (
            "white space, a carriage return at the end",
            &|l| l[1] = format!("{} \r", l[1].replacen("{\"", "{ \"", 1)),
            true,
        ),
        (
            "a carriage return at each end",
            &|l| {
                for line in l {
                    line.push('\r');
                }
            },
            true,
        ),
        (
            "a doubled member",
            &|l| l[1] = l[1].replacen("{\"record\"", "{\"salt\":null,\"record\"", 1),
            false,
        ),
        (
            "a doubled member, once with an escape",
            &|l| l[1] = l[1].replacen("{\"record\"", "{\"\\u0073alt\":null,\"record\"", 1),
            false,
        ),
        (
            "a member that there is not",
            &|l| edit(&mut l[1], |v| v["note"] = json!(1)),
            false,
        ),
        ("bytes after the object", &|l| l[1].push_str("{}"), false),
        ("a byte order mark", &|l| l[0].insert(0, '\u{feff}'), false),
        (
            "a salt in capitals",
            &|l| {
                edit(&mut l[1], |v| {
                    v["salt"] = v["salt"].as_str().unwrap().to_uppercase().into()
                })
            },
            false,
        ),
        (
            "a leaf hash in capitals",
            &|l| {
                edit(&mut l[1], |v| {
                    v["leaf"] = v["leaf"].as_str().unwrap().to_uppercase().into()
                })
            },
            false,
        ),
        (
            "a leaf hash that is a number",
            &|l| edit(&mut l[1], |v| v["leaf"] = json!(1)),
            false,
        ),
        (
            "no leaf hash",
            &|l| edit(&mut l[1], |v| v["leaf"] = Value::Null),
            true,
        ),
        (
            "a missing salt",
            &|l| {
                edit(&mut l[1], |v| {
                    drop(v.as_object_mut().unwrap().remove("salt"))
                })
            },
            false,
        ),
        (
            "a payload without salt",
            &|l| edit(&mut l[1], |v| v["salt"] = Value::Null),
            false,
        ),
        ("an empty line", &|l| l.insert(1, String::new()), false),
        (
            "a line that is a list",
            &|l| l[1] = format!("[{}]", l[1]),
            false,
        ),
        (
            "the checkpoint's signature twice",
            &|l| renote(l, |n| format!("{n}{}\n", last_signature(&n))),
            true,
        ),
        (
            "a second signature of the key, which does not hold",
            &|l| {
                renote(l, |n| {
                    let line = last_signature(&n);
                    let (head, encoded) = line.rsplit_once(' ').unwrap();
                    let mut bytes = STANDARD.decode(encoded).unwrap();
                    *bytes.last_mut().unwrap() ^= 1;
                    format!("{n}{head} {}\n", STANDARD.encode(bytes))
                })
            },
            false,
        ),
        (
            "a signature of a stranger beside it",
            &|l| {
                renote(l, |n| {
                    format!("{n}\u{2014} example.com/w {}\n", STANDARD.encode([7; 68]))
                })
            },
            true,
        ),
        (
            "a signature without its padding",
            &|l| renote(l, |n| n.trim_end().trim_end_matches('=').to_owned() + "\n"),
            false,
        ),
        (
            "no newline at the end",
            &|l| renote(l, |n| n.trim_end().to_owned()),
            false,
        ),
        (
            "carriage returns in the note",
            &|l| renote(l, |n| n.replace('\n', "\r\n")),
            false,
        ),
        (
            "a size with a zero before it",
            &|l| {
                renote(l, |n| {
                    let size = n.lines().nth(1).unwrap().to_owned();
                    n.replacen(&format!("\n{size}\n"), &format!("\n0{size}\n"), 1)
                })
            },
            false,
        ),
        (
            "a line more in the checkpoint",
            &|l| renote(l, |n| n.replacen("\n\n", "\nmore\n\n", 1)),
            false,
        ),
        (
            "the blank line twice",
            &|l| renote(l, |n| twice(&n, "\n\n")),
            false,
        ),
    ];
    for (what, change, holds) in whole {
        let mut lines = log.whole.clone();
        change(&mut lines);
        assert_ne!(lines, log.whole, "{what} must bite");
        assert_eq!(log.judged(what, &lines, &[]).is_none(), holds, "{what}");
    }
    let agent: [Edit<'_>; 9] = [
        (
            "an index with a fraction",
            &|l| l[1] = l[1].replacen("\"index\":", "\"index\":0.0e0,\"was\":", 1),
            false,
        ),
        (
            "an index as a float",
            &|l| {
                let at = format!("\"index\":{}", index(&l[1]));
                l[1] = l[1].replacen(&at, &format!("{at}.0"), 1);
            },
            false,
        ),
        (
            "an index with an exponent",
            &|l| {
                let at = format!("\"index\":{}", index(&l[1]));
                l[1] = l[1].replacen(&at, &format!("{at}e0"), 1);
            },
            false,
        ),
        (
            "an index as text",
            &|l| edit(&mut l[1], |v| v["proof"]["index"] = index_text(v).into()),
            false,
        ),
        (
            "a hash of the path in capitals",
            &|l| {
                edit(&mut l[1], |v| {
                    v["proof"]["path"][0] = v["proof"]["path"][0]
                        .as_str()
                        .unwrap()
                        .to_uppercase()
                        .into()
                })
            },
            false,
        ),
        (
            "a path that is longer",
            &|l| {
                edit(&mut l[1], |v| {
                    v["proof"]["path"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!("00".repeat(32)))
                })
            },
            false,
        ),
        (
            "a path that is shorter",
            &|l| {
                edit(&mut l[1], |v| {
                    drop(v["proof"]["path"].as_array_mut().unwrap().pop())
                })
            },
            false,
        ),
        (
            "positions in another spelling",
            &|l| {
                edit(l.last_mut().unwrap(), |v| {
                    v["agent"]["positions"] =
                        format!("0{}", v["agent"]["positions"].as_str().unwrap()).into()
                })
            },
            false,
        ),
        (
            "the note of positions for the checkpoint",
            &|l| {
                edit(l.last_mut().unwrap(), |v| {
                    v["checkpoint"] = v["agent"]["note"].clone()
                })
            },
            false,
        ),
    ];
    for (what, change, holds) in agent {
        let mut lines = log.agent.clone();
        change(&mut lines);
        assert_ne!(lines, log.agent, "{what} must bite");
        assert_eq!(log.judged(what, &lines, &[]).is_none(), holds, "{what}");
    }
}

fn index(line: &str) -> u64 {
    let line: Value = serde_json::from_str(line).unwrap();
    line["proof"]["index"].as_u64().unwrap()
}

fn index_text(line: &Value) -> String {
    line["proof"]["index"].to_string()
}

#[test]
fn a_key_holders_checkpoints_of_other_forms_say_nothing() {
    if !has_python("a_key_holders_checkpoints_of_other_forms_say_nothing") {
        return;
    }
    let mut log = Log::new();
    let key = SigningKey::from_secret(&[5; 32]);
    let did = key.public().to_string();
    log.key.clone_from(&did);
    let empty = STANDARD.encode(Sha256::digest([]));
    let closing = |note: String| vec![json!({"checkpoint": note, "key": did}).to_string()];
    let of = |size: &str, root: &str| closing(signed(&key, &format!("{did}\n{size}\n{root}\n")));
    for (what, lines, holds) in [
        ("an empty log", of("0", &empty), true),
        (
            "an empty log with another root",
            of("0", &STANDARD.encode([0; 32])),
            false,
        ),
        ("no size", of("", &empty), false),
        ("a negative size", of("-0", &empty), false),
        ("a size with a sign", of("+0", &empty), false),
        ("a size of two zeros", of("00", &empty), false),
        ("a size with a space", of(" 0", &empty), false),
        ("a size in other digits", of("\u{0660}", &empty), false),
        ("a size with an underscore", of("0_0", &empty), false),
        (
            "a size beyond 64 bits",
            of("18446744073709551616", &empty),
            false,
        ),
        (
            "a size of 2^64 - 1",
            of("18446744073709551615", &empty),
            false,
        ),
        (
            "a root without padding",
            of("0", empty.trim_end_matches('=')),
            false,
        ),
        (
            "a root of 31 bytes",
            of("0", &STANDARD.encode(&Sha256::digest([])[..31])),
            false,
        ),
        (
            "a root of other bits",
            of("0", &format!("{}V=", &empty[..empty.len() - 2])),
            false,
        ),
        (
            "a root in the alphabet of addresses",
            of("0", &empty.replace('/', "_").replace('+', "-")),
            false,
        ),
        (
            "another origin",
            closing(signed(&key, &format!("{did}x\n0\n{empty}\n"))),
            false,
        ),
        (
            "an origin only",
            closing(signed(&key, &format!("{did}\n"))),
            false,
        ),
    ] {
        assert_eq!(log.judged(what, &lines, &[]).is_none(), holds, "{what}");
    }
}
