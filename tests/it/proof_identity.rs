//! Keys: registered, proven, rotated, revoked; and an agent of another implementation of the protocol.

use std::fs;
use std::process::Command;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Ended, eventually, has_python};
use serde_json::{Value, json};

use crate::proof_audit::interop;

/// How long something may take that a process of an agent does.
const WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn python(arguments: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = Command::new("python3");
    command.args(arguments).envs(env.iter().copied());
    Ended::of(command, Duration::from_mins(2))
}

/// The second implementation as an agent, with this secret if any.
pub(crate) fn bundle(id: &str, secret: Option<&str>, forges: bool) -> Bundle {
    let mut bundle = Bundle::new(id)
        .set("capabilities", json!(["interop"]))
        .set("entry", json!("agent.py"))
        .set(
            "runtime",
            json!({"command": "python3", "args": ["agent.py"]}),
        );
    for file in ["agent.py", "klp.py", "ed25519.py", "rsa.py"] {
        bundle = bundle.file(file, &fs::read_to_string(interop(file)).unwrap());
    }
    if let Some(secret) = secret {
        bundle = bundle.file("secret", secret);
    }
    if forges {
        bundle = bundle.file("forge", "");
    }
    bundle
}

/// Makes a key; its secret and its name.
pub(crate) fn new_key(daemon: &Daemon, name: &str) -> (String, String) {
    let path = daemon.home().scratch().join(name);
    let made = daemon.ctl(&["key", "new", "--out", path.to_str().unwrap(), "-o", "json"]);
    let did = made.exits(0).json()["key"].as_str().unwrap().to_owned();
    (fs::read_to_string(&path).unwrap().trim().to_owned(), did)
}

/// Makes a key and registers it as this owner's; its secret and its name.
pub(crate) fn key_of(daemon: &Daemon, owner: &str) -> (String, String) {
    let (secret, did) = new_key(daemon, &format!("{owner}.key"));
    let register = ["key", "register", &did, "--owner", owner];
    daemon.ctl(&register).exits(0);
    (secret, did)
}

/// An envelope with the signature of this secret's key.
pub(crate) fn signed(secret: &str, envelope: &Value) -> Value {
    let program = "import sys,json;sys.path.insert(0,sys.argv[1]);import klp;print(json.dumps(klp.sign(json.loads(sys.argv[2]),bytes.fromhex(sys.argv[3]))))";
    let dir = interop("");
    let ended = python(
        &[
            "-c",
            program,
            dir.to_str().unwrap(),
            &envelope.to_string(),
            secret,
        ],
        &[],
    );
    assert_eq!(ended.code, 0, "{}", ended.err);
    serde_json::from_str(&ended.out).unwrap()
}

#[test]
fn a_second_implementation_agrees_with_the_vectors() {
    if !has_python("a_second_implementation_agrees_with_the_vectors") {
        return;
    }
    let vectors = interop("../vectors/klp");
    let ended = python(
        &[
            interop("vectors.py").to_str().unwrap(),
            vectors.to_str().unwrap(),
        ],
        &[],
    );
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[test]
fn an_agent_of_the_second_implementation_proves_its_key_works_and_asks() {
    if !has_python("an_agent_of_the_second_implementation_proves_its_key_works_and_asks") {
        return;
    }
    let daemon = Daemon::start();
    let (secret, did) = key_of(&daemon, "agent:interop");
    daemon.deploy(&bundle("interop", Some(&secret), false));
    assert_eq!(
        daemon.output("interop", &json!({"text": "hé€😀", "n": 0.1})),
        json!({"text": "hé€😀", "n": 0.1})
    );
    let found = daemon.output("interop", &json!({"query": ["interop"]}));
    assert_eq!(found["agents"][0]["id"], "interop", "{found}");
    let heard = daemon.client().send(
        "POST",
        "/v1/messages",
        &[],
        Some(br#"{"type":"MESSAGE","to":"agent:interop","payload":"hello"}"#),
    );
    assert_eq!(heard.ok(200)["payload"], json!({"heard": "hello"}));
    // Revoked, the key proves nothing any more: the next start is refused.
    daemon
        .ctl(&["key", "revoke", &did, "--reason", "test"])
        .exits(0);
    daemon.ctl(&["agent", "restart", "interop"]);
    eventually("the start that is refused", WITHIN, || {
        let failed = daemon.audit("agent=interop&kind=error");
        failed
            .iter()
            .any(|r| r.to_string().contains("not registered"))
            .then_some(())
            .ok_or_else(|| format!("{failed:?}"))
    });
}

#[test]
fn an_agent_whose_key_was_rotated_starts_with_the_new_one_only() {
    let test = "an_agent_whose_key_was_rotated_starts_with_the_new_one_only";
    if !has_python(test) {
        return;
    }
    let daemon = Daemon::start();
    let (old, did) = new_key(&daemon, "old.key");
    daemon
        .ctl(&["key", "register", &did, "--owner", "agent:interop"])
        .exits(0);
    daemon.deploy(&bundle("interop", Some(&old), false));
    assert_eq!(daemon.output("interop", &json!(1)), 1);
    let path = daemon.home().scratch().join("new.key");
    let out = path.to_str().unwrap();
    let rotate = ["key", "rotate", "--owner", "agent:interop", "--out", out];
    daemon.ctl(&rotate).exits(0);
    let new = fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_ne!(new, old);
    daemon.ctl(&["agent", "restart", "interop"]);
    eventually("the start that is refused", WITHIN, || {
        let failed = daemon.audit("agent=interop&kind=error");
        let refused = |r: &Value| r.to_string().contains("not the one registered");
        failed
            .iter()
            .any(refused)
            .then_some(())
            .ok_or_else(|| format!("{failed:?}"))
    });
    daemon.ctl(&["agent", "terminate", "interop"]).exits(0);
    let next = bundle("interop", Some(&new), false).set("version", json!("2.0.0"));
    daemon.deploy(&next);
    assert_eq!(daemon.output("interop", &json!(2)), 2);
    let again = daemon.ctl(&["key", "register", &did, "--owner", "agent:interop"]);
    assert_eq!(again.code, 5, "{}", again.err);
}

#[test]
fn an_agent_that_forges_its_proof_is_isolated_for_good() {
    if !has_python("an_agent_that_forges_its_proof_is_isolated_for_good") {
        return;
    }
    let daemon = Daemon::start();
    let (secret, did) = new_key(&daemon, "agent.key");
    daemon
        .ctl(&["key", "register", &did, "--owner", "agent:forger"])
        .exits(0);
    daemon.register(&bundle("forger", Some(&secret), true));
    daemon.fault_state("forger", "quarantined", WITHIN);
    let record = &daemon.audit("agent=forger&kind=quarantined")[0];
    assert!(record.to_string().contains("critical"), "{record}");

    // Another's key is no better than a bad signature.
    let (_, other) = new_key(&daemon, "other.key");
    daemon
        .ctl(&["key", "register", &other, "--owner", "agent:thief"])
        .exits(0);
    daemon.register(&bundle("thief", Some(&secret), false));
    daemon.fault_state("thief", "quarantined", WITHIN);
}

#[test]
fn an_alert_of_an_agent_about_itself_isolates_it_and_about_another_does_not() {
    if !has_python("an_alert_of_an_agent_about_itself_isolates_it_and_about_another_does_not") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&bundle("interop", None, false));
    daemon.output("interop", &json!({"alert": {"severity": "critical", "description": "echo looks odd", "agent": "echo"}}));
    eventually("the alert on record", WITHIN, || {
        let sent = daemon.audit("agent=interop&kind=message_sent");
        sent.iter()
            .any(|r| r.to_string().contains("looks odd"))
            .then_some(())
            .ok_or_else(|| format!("{sent:?}"))
    });
    assert_eq!(daemon.output("echo", &json!(1)), json!(1));
    daemon.submit(&json!({"requirements": ["interop"], "input": {"alert": {"severity": "high", "description": "my key leaked"}}}));
    daemon.fault_state("interop", "quarantined", WITHIN);
}

#[test]
fn signed_messages_are_taken_once_in_their_time_from_the_key_that_holds() {
    if !has_python("signed_messages_are_taken_once_in_their_time_from_the_key_that_holds") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let (secret, did) = new_key(&daemon, "ada.key");
    let (other, _) = new_key(&daemon, "eve.key");
    daemon
        .ctl(&["key", "register", &did, "--owner", "user:ada"])
        .exits(0);
    let now = daemon.client().get("/v1/health").ok(200)["timestamp"]
        .as_str()
        .unwrap()
        .to_owned();
    let envelope = |id: &str, more: Value| {
        let mut envelope = json!({
            "v": 1, "id": id, "type": "CAPABILITY_QUERY", "from": "user:ada", "to": "kai://agent.echo",
            "timestamp": now, "payload": {"capabilities": ["echo"]},
        });
        for (key, value) in more.as_object().unwrap() {
            envelope[key] = value.clone();
        }
        envelope
    };
    let post = |envelope: &Value| {
        let answer = daemon.client().send(
            "POST",
            "/v1/messages",
            &[],
            Some(envelope.to_string().as_bytes()),
        );
        let code = serde_json::from_str::<Value>(&answer.text()).unwrap()["code"].clone();
        (answer.status, code.as_str().unwrap_or_default().to_owned())
    };
    let good = signed(&secret, &envelope("1", json!({})));
    assert_eq!(post(&good).0, 200);
    assert_eq!(post(&good), (409, "replayed".to_owned()));
    let mut changed = signed(&secret, &envelope("2", json!({})));
    changed["payload"] = json!({"capabilities": ["other"]});
    assert_eq!(post(&changed), (403, "bad_signature".to_owned()));
    assert_eq!(
        post(&signed(&other, &envelope("3", json!({})))),
        (403, "bad_signature".to_owned())
    );
    let old = signed(
        &secret,
        &envelope("4", json!({"timestamp": "2025-06-20T22:04:00Z"})),
    );
    assert_eq!(post(&old), (409, "replayed".to_owned()));
    let late = signed(
        &secret,
        &envelope("5", json!({"expires": "2025-06-20T22:04:00Z"})),
    );
    assert_eq!(post(&late).1, "expired");
    // Rotated: the old key is nobody's, and stays so.
    let (newer, newer_did) = new_key(&daemon, "ada-2.key");
    daemon
        .ctl(&["key", "register", &newer_did, "--owner", "user:ada"])
        .exits(0);
    assert_eq!(
        post(&signed(&secret, &envelope("6", json!({})))),
        (403, "bad_signature".to_owned())
    );
    assert_eq!(post(&signed(&newer, &envelope("7", json!({})))).0, 200);
    let back = daemon.ctl(&["key", "register", &did, "--owner", "user:ada"]);
    assert_eq!(back.code, 5, "{}", back.err);
    // And over a restart.
    let daemon = daemon.kill9().start();
    let late = signed(&secret, &envelope("8", json!({})));
    let answer = daemon.client().send(
        "POST",
        "/v1/messages",
        &[],
        Some(late.to_string().as_bytes()),
    );
    assert_eq!(answer.status, 403);
    let keys = daemon.client().get("/v1/keys").ok(200);
    assert_eq!(keys["items"].as_array().unwrap().len(), 2, "{keys}");
}

#[test]
fn keys_that_anybody_can_sign_for_and_keys_of_other_kinds_are_refused() {
    let daemon = Daemon::start();
    let post = |key: &str| {
        let body = json!({"key": key, "owner": "user:eve"}).to_string();
        daemon
            .client()
            .send("POST", "/v1/keys", &[], Some(body.as_bytes()))
            .status
    };
    // The points of order 1 and 4, a P-256 key, and ones that are no point.
    for key in [
        "did:key:z6MkeXATEjyXENzBXBxgC5EHk2JE5aqd7qMGGtDpLUH1e2Sj",
        "did:key:z6MkeTG3bFFSLYVU7VqhgZxqr6YzpaGrQtFMh1uvqGy1vDnP",
        "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169",
        "did:key:z6Mk",
        "nonsense",
    ] {
        assert!([400, 422].contains(&post(key)), "{key}");
    }
}

#[test]
fn a_foreign_key_on_another_curve_signs_messages_and_is_verified_strictly() {
    use k256::ecdsa::Signature;
    use k256::ecdsa::signature::Signer as _;

    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let (secret, did) = foreign_key(9);
    daemon
        .ctl(&["key", "register", &did, "--owner", "user:ada"])
        .exits(0);
    let now = daemon.client().get("/v1/health").ok(200)["timestamp"]
        .as_str()
        .unwrap()
        .to_owned();
    let post = |id: &str, spoil: &dyn Fn(&mut Value, Signature) -> String| {
        let mut envelope = json!({
            "v": 1, "id": id, "type": "CAPABILITY_QUERY", "from": "user:ada", "to": "kai://agent.echo",
            "timestamp": now, "payload": {"capabilities": ["echo"]}, "auth": {"key": did},
        });
        // Members in order, no fractions, plain letters: this is its canonical form.
        let signature: Signature = secret.sign(format!("KLP/1\n{envelope}").as_bytes());
        let text = spoil(&mut envelope, signature.normalize_s());
        envelope["auth"]["signature"] = text.into();
        let body = envelope.to_string();
        let answer = daemon
            .client()
            .send("POST", "/v1/messages", &[], Some(body.as_bytes()));
        let code = serde_json::from_str::<Value>(&answer.text()).unwrap()["code"].clone();
        (answer.status, code.as_str().unwrap_or_default().to_owned())
    };
    let written = |kind: &str, signature: &Signature| {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        format!("{kind}:{}", engine.encode(signature.to_bytes()))
    };
    let refused = (403, "bad_signature".to_owned());
    assert_eq!(post("1", &|_, s| written("secp256k1", &s)).0, 200);
    assert_eq!(
        post("1", &|_, s| written("secp256k1", &s)),
        (409, "replayed".to_owned())
    );
    assert_eq!(post("2", &|_, s| written("ed25519", &s)), refused);
    let changed = post("3", &|envelope, s| {
        envelope["payload"] = json!({"capabilities": []});
        written("secp256k1", &s)
    });
    assert_eq!(changed, refused);
    // The other `s` that would hold: nobody makes a second signature out of one.
    let twin = post("4", &|_, s| {
        let (r, s) = s.split_scalars();
        written("secp256k1", &Signature::from_scalars(*r, -*s).unwrap())
    });
    assert_eq!(twin, refused);
    daemon
        .ctl(&["key", "revoke", &did, "--reason", "test"])
        .exits(0);
    assert_eq!(post("5", &|_, s| written("secp256k1", &s)), refused);
}

/// A key on the other curve, and its name in the published form: base58btc of the multicodec and the compressed point.
pub(crate) fn foreign_key(secret: u8) -> (k256::ecdsa::SigningKey, String) {
    let secret = k256::ecdsa::SigningKey::from_slice(&[secret; 32]).unwrap();
    let point = secret.verifying_key().to_sec1_point(true);
    let did = base58(&[&[0xe7, 0x01], point.as_bytes()].concat());
    (secret, format!("did:key:z{did}"))
}

pub(crate) fn base58(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits: Vec<u32> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            (*digit, carry) = (carry % 58, carry / 58);
        }
        while carry > 0 {
            digits.push(carry % 58);
            carry /= 58;
        }
    }
    let letter = |digit: &u32| char::from(LETTERS[usize::try_from(*digit).unwrap()]);
    digits.iter().rev().map(letter).collect()
}

#[test]
fn an_agent_that_has_to_sign_is_heard_only_under_its_own_key() {
    let test = "an_agent_that_has_to_sign_is_heard_only_under_its_own_key";
    if !has_python(test) {
        return;
    }
    let daemon = Daemon::start();
    let must = |bundle: Bundle| {
        bundle.set(
            "policy",
            json!({"maxCrashes": 1, "security": {"crypto_required": true}}),
        )
    };
    // Without a key of its own it is not taken, and is told how.
    let (secret, did) = new_key(&daemon, "agent.key");
    let source = fs::read_to_string(interop("agent.py")).unwrap();
    let leaves_out = source.replace(
        "if secret and shaken:",
        "if secret and shaken and kind != \"SECURITY_ALERT\" and not (kind == \"TASK_RESULT\" and payload[\"output\"] == \"bare\"):",
    );
    assert_ne!(source, leaves_out);
    let signs = must(bundle("interop", Some(&secret), false)).file("agent.py", &leaves_out);
    let tar = [("content-type", "application/x-tar")];
    let answer = daemon
        .client()
        .send("POST", "/v1/agents", &tar, Some(&signs.tar()));
    let problem = answer.problem(422, "policy_refused");
    assert!(
        problem.to_string().contains("meshctl key register"),
        "{problem}"
    );
    daemon
        .ctl(&["key", "register", &did, "--owner", "agent:interop"])
        .exits(0);
    daemon.deploy(&signs);
    assert_eq!(daemon.output("interop", &json!(1)), json!(1));

    // What it does not sign is refused, on its own channel and in its name over HTTP; it goes on.
    let alert = json!({"alert": {"severity": "critical", "description": "bare words"}});
    assert_eq!(daemon.output("interop", &alert), alert);
    let refused = daemon.audit("agent=interop&kind=request.refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0]["payload"]["code"], "unsigned");
    let bare = json!({"requirements": ["interop"], "input": "bare", "retry": {"maxAttempts": 1}});
    let ended = daemon.ended(&daemon.submit(&bare), WITHIN);
    assert!(ended.to_string().contains("is not signed"), "{ended}");
    let posted =
        json!({"type": "MESSAGE", "from": "agent:interop", "to": "agent:interop", "payload": 1});
    daemon
        .client()
        .post("/v1/messages", &posted)
        .problem(403, "unsigned");
    // The answer does not wait for the record.
    eventually("the refusal on record", WITHIN, || {
        let denied = daemon.audit("kind=access.denied");
        denied
            .iter()
            .any(|r| r.to_string().contains("crypto_required"))
            .then_some(())
            .ok_or_else(|| format!("{denied:?}"))
    });
    assert_eq!(daemon.output("interop", &json!(2)), json!(2));
    let policy = daemon.client().get("/v1/agents/interop/policy").text();
    assert!(policy.contains("security.crypto_required"), "{policy}");

    // One that has a key and does not name it does not start.
    let (_, other) = new_key(&daemon, "other.key");
    daemon
        .ctl(&["key", "register", &other, "--owner", "agent:mute"])
        .exits(0);
    daemon.register(&must(bundle("mute", None, false)));
    eventually("the start that is refused", WITHIN, || {
        let failed = daemon.audit("agent=mute&kind=error");
        let named = |r: &Value| r.to_string().contains("names no key");
        failed
            .iter()
            .any(named)
            .then_some(())
            .ok_or_else(|| format!("{failed:?}"))
    });
}
