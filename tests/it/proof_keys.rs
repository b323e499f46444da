//! Keys of others: publishers whose bundles are taken only as they signed them, and foreign owners with RSA keys.

use std::fs;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_tests::{Bundle, Daemon, Home, meshctl};
use serde_json::{Value, json};

use crate::proof_identity::base58;

/// What a registration is refused for: the code and the field, or nothing.
fn refused(daemon: &Daemon, tar: &[u8]) -> Option<(String, String)> {
    let headers = [("content-type", "application/x-tar")];
    let path = "/v1/agents?start=false";
    let answer = daemon.client().send("POST", path, &headers, Some(tar));
    let told: Value = serde_json::from_str(&answer.text()).unwrap();
    let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    (answer.status >= 400).then(|| (text("code"), text("field")))
}

fn tar(dir: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", dir).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn a_bundle_is_taken_only_as_its_registered_publisher_signed_it() {
    let daemon = Home::new()
        .config("default_policy:\n  security:\n    signature_required: true\n")
        .start();
    let scratch = daemon.home().scratch().to_owned();
    let nowhere = scratch.join("nowhere");
    let file = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let offline = |arguments: &[&str]| meshctl(&nowhere, arguments);
    let key = |name: &str| {
        let made = offline(&["key", "new", "--out", &file(name), "-o", "json"]);
        made.exits(0).json()["key"].as_str().unwrap().to_owned()
    };
    let (acme, newer) = (key("acme.key"), key("newer.key"));
    let dir = Bundle::shell("signed", "exit 0").write(&scratch);
    let place = dir.to_str().unwrap().to_owned();
    let policy = |field: &str| Some(("policy_refused".to_owned(), field.to_owned()));
    let bad = |field: &str| Some(("bad_bundle_signature".to_owned(), field.to_owned()));

    assert_eq!(
        refused(&daemon, &tar(&dir)),
        policy("signature"),
        "unsigned"
    );
    offline(&["agent", "sign", &place, "--key", &file("acme.key")]).exits(0);
    offline(&["agent", "verify", &place, "--key", &acme]).exits(0);
    assert_eq!(
        offline(&["agent", "verify", &place, "--key", &newer]).code,
        1
    );
    assert_eq!(
        refused(&daemon, &tar(&dir)),
        policy("signature"),
        "signed by nobody who is known"
    );
    let owner = ["--owner", "publisher:acme"];
    let register = [&["key", "register", acme.as_str()][..], &owner].concat();
    daemon.ctl(&register).exits(0);
    assert_eq!(refused(&daemon, &tar(&dir)), None);

    // A byte of a file, a file more, a file less, a bit of a mode, a member of the manifest: each was not signed.
    let original = fs::read_to_string(dir.join("run.sh")).unwrap();
    fs::write(dir.join("run.sh"), original.replace("exit 0", "exit 1")).unwrap();
    assert_eq!(refused(&daemon, &tar(&dir)), bad("signature.bundle"));
    assert_ne!(offline(&["agent", "verify", &place]).code, 0);
    fs::write(dir.join("run.sh"), &original).unwrap();
    fs::write(dir.join("more.txt"), "more").unwrap();
    assert_eq!(refused(&daemon, &tar(&dir)), bad("signature.bundle"));
    fs::remove_file(dir.join("more.txt")).unwrap();
    let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let altered = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&manifest).unwrap();
        change(&mut value);
        fs::write(dir.join("manifest.json"), value.to_string()).unwrap();
        refused(&daemon, &tar(&dir))
    };
    assert_eq!(
        altered(&|manifest| manifest["version"] = json!("1.0.1")),
        bad("signature")
    );
    assert_eq!(
        altered(&|manifest| manifest["signature"]["key"] = json!(newer)),
        bad("signature")
    );
    assert!(altered(&|manifest| manifest["signature"]["bundle"] = json!("blake3:00")).is_some());
    assert_eq!(
        altered(&|manifest| {
            manifest.as_object_mut().unwrap().remove("signature");
            manifest["version"] = json!("1.0.1");
        }),
        policy("signature")
    );

    // The publisher takes another key: what the old one signs from here on is nobody's, and what the new one signs is.
    let version = |version: &str, key: &str| {
        let mut value: Value = serde_json::from_str(&manifest).unwrap();
        value["version"] = json!(version);
        value.as_object_mut().unwrap().remove("signature");
        fs::write(dir.join("manifest.json"), value.to_string()).unwrap();
        offline(&["agent", "sign", &place, "--key", &file(key)]).exits(0);
        refused(&daemon, &tar(&dir))
    };
    assert_eq!(version("1.1.0", "acme.key"), None);
    let register = [&["key", "register", newer.as_str()][..], &owner].concat();
    daemon.ctl(&register).exits(0);
    assert_eq!(version("1.2.0", "acme.key"), policy("signature"));
    assert_eq!(version("1.2.0", "newer.key"), None);
    daemon
        .ctl(&["key", "revoke", &newer, "--reason", "stolen"])
        .exits(0);
    assert_eq!(version("1.3.0", "newer.key"), policy("signature"));
    // A revoked key comes back for nobody, also after a restart.
    let daemon = daemon.kill9().start();
    assert_eq!(refused(&daemon, &tar(&dir)), policy("signature"));
    let again = daemon.ctl(&["key", "register", &newer, "--owner", "publisher:other"]);
    assert_eq!(again.code, 5, "{}", again.err);
    // Each refusal is on record with its cause, after the record that it was asked for.
    let records = daemon.audit("kind=request.refused");
    let of_code = |code: &str| {
        let has = |record: &&Value| record["payload"]["code"] == code;
        records.iter().filter(has).count()
    };
    assert!(of_code("policy_refused") >= 5, "{records:?}");
    assert!(of_code("bad_bundle_signature") >= 4, "{records:?}");
    for record in &records {
        assert!(record["cause"].is_u64(), "{record}");
        assert_eq!(record["actor"], "user:admin");
    }
}

#[test]
fn a_foreign_rsa_key_signs_messages_in_one_form_until_it_is_revoked() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let bytes = [&[0x85, 0x24], pair.public_key().as_ref()].concat();
    let did = format!("did:key:z{}", base58(&bytes));
    let registered = daemon.ctl(&["key", "register", &did, "--owner", "user:ada", "-o", "json"]);
    assert_eq!(registered.exits(0).json()["key"], did);
    let now = daemon.client().get("/v1/health").ok(200)["timestamp"]
        .as_str()
        .unwrap()
        .to_owned();
    let post = |id: &str, spoil: &dyn Fn(&mut Value, Vec<u8>) -> Vec<u8>| {
        let mut envelope = json!({
            "v": 1, "id": id, "type": "CAPABILITY_QUERY", "from": "user:ada", "to": "kai://agent.echo",
            "timestamp": now, "payload": {"capabilities": ["echo"]}, "auth": {"key": did},
        });
        // Members in order, no fractions, plain letters: this is its canonical form.
        let input = format!("KLP/1\n{envelope}");
        let mut signature = vec![0; 256];
        pair.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            input.as_bytes(),
            &mut signature,
        )
        .unwrap();
        let signature = spoil(&mut envelope, signature);
        envelope["auth"]["signature"] = format!("rsa:{}", URL_SAFE_NO_PAD.encode(signature)).into();
        let body = envelope.to_string();
        let answer = daemon
            .client()
            .send("POST", "/v1/messages", &[], Some(body.as_bytes()));
        let code = serde_json::from_str::<Value>(&answer.text()).unwrap()["code"].clone();
        (answer.status, code.as_str().unwrap_or_default().to_owned())
    };
    let bad = (403, "bad_signature".to_owned());
    assert_eq!(post("1", &|_, s| s).0, 200);
    assert_eq!(post("1", &|_, s| s), (409, "replayed".to_owned()));
    assert_eq!(post("2", &|_, s| [vec![0], s].concat()), bad);
    assert_eq!(post("3", &|_, s| s[..255].to_vec()), bad);
    let changed = post("4", &|envelope, s| {
        envelope["payload"] = json!({"capabilities": []});
        s
    });
    assert_eq!(changed, bad);
    // Over a restart, and then no more.
    let daemon = daemon.kill9().start();
    let keys = daemon.client().get("/v1/keys").ok(200);
    assert_eq!(keys["items"][0]["key"], did, "{keys}");
    daemon
        .ctl(&["key", "revoke", &did, "--reason", "test"])
        .exits(0);
    let revoked = daemon.client().get("/v1/keys").ok(200);
    assert!(
        !revoked["items"][0]["revokedAt"].is_null() || !revoked["items"][0]["revoked"].is_null()
    );
}
