//! Tokens that their holder narrows without asking: what is left of them, on every way in, and what voids them.

use std::time::Duration;

use mesh_tests::{Answer, Bundle, Client, Daemon, eventually, has_python};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// An agent that delegates the input of each task as a line of its own, and hands the answer back as its result.
const ASKER: &str = r#"
import json, sys
def say(**line): print(json.dumps(line), flush=True)
say(type="HANDSHAKE", payload={"name": "asker", "version": "1.0.0", "capabilities": ["ask"]})
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] == "TASK_REQUEST":
        say(type="TASK_REQUEST", id="q-" + got["task_id"], task_id=got["task_id"], **got["payload"]["input"])
    elif got["type"] == "TASK_RESULT":
        say(type="TASK_RESULT", task_id=got["in_reply_to"][2:], payload={"ok": True, "output": got["payload"]})
"#;

fn asker(id: &str) -> Bundle {
    Bundle::new(id)
        .set("capabilities", json!(["ask"]))
        .file("asker.py", ASKER)
        .set("entry", json!("asker.py"))
        .set("runtime", json!({"command": "python3"}))
}

fn issue(daemon: &Daemon, role: &str, subject: &str) -> (String, String) {
    let body = json!({"role": role, "subject": subject, "attenuable": true});
    let issued = daemon.client().post("/v1/tokens", &body).ok(201);
    let text = |name: &str| issued[name].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

/// What `meshctl token narrow` prints; it is given no daemon.
fn narrow(daemon: &Daemon, token: &str, arguments: &[&str]) -> String {
    let mut all = vec!["--url", "http://127.0.0.1:1", "token", "narrow", token];
    all.extend(arguments);
    let ran = daemon.ctl(&all);
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out.trim().to_owned()
}

fn inspected(daemon: &Daemon, token: &str) -> Value {
    let ran = daemon.ctl(&["-o", "json", "token", "inspect", token]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn with(daemon: &Daemon, token: &str) -> Client {
    daemon.client().with_token(Some(token))
}

#[track_caller]
fn forbidden(answer: &Answer) {
    let problem = answer.problem(403, "forbidden");
    assert_eq!(problem["detail"], "Insufficient permissions", "{problem}");
}

#[track_caller]
fn void(answer: &Answer) {
    let problem = answer.problem(401, "unauthenticated");
    assert_eq!(problem["detail"], "Invalid authentication", "{problem}");
}

fn task(kind: &str) -> Value {
    json!({"type": kind, "requirements": ["echo"], "input": {}})
}

#[test]
fn a_narrowed_token_does_what_is_left_and_nothing_that_would_give_the_rest_back() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let (whole, id) = issue(&daemon, "admin", "ada");
    with(&daemon, &whole).get("/v1/tokens").ok(200);
    let billing = narrow(
        &daemon,
        &whole,
        &[
            "--verb",
            "task.submit",
            "--verb",
            "read",
            "--task-type",
            "billing.*",
        ],
    );
    let client = with(&daemon, &billing);
    let done = client
        .post("/v1/tasks?wait=30s", &task("billing.run"))
        .ok(200);
    assert_eq!(done["submittedBy"], "user:ada");
    assert_eq!(
        done["within"][0]["taskTypes"],
        json!(["billing.*"]),
        "{done}"
    );
    client.get("/status").ok(200);
    forbidden(&client.post("/v1/tasks", &task("echo")));
    forbidden(&client.post("/v1/tasks", &json!([task("billing.run"), task("echo")])));
    forbidden(&client.get("/v1/tokens"));
    forbidden(&client.post("/v1/tokens", &json!({"role": "viewer"})));
    forbidden(&client.put("/v1/policies", &json!({})));
    forbidden(&client.get("/v1/backup"));
    forbidden(&client.post("/v1/agents/echo/stop", &json!({})));
    // A block that is added widens nothing.
    let wider = narrow(
        &daemon,
        &billing,
        &[
            "--verb",
            "task.submit",
            "--verb",
            "tokens",
            "--task-type",
            "*",
        ],
    );
    forbidden(&with(&daemon, &wider).post("/v1/tasks", &task("echo")));
    forbidden(&with(&daemon, &wider).get("/v1/tokens"));
    with(&daemon, &wider)
        .post("/v1/tasks", &task("billing.run"))
        .ok(202);
    // Of an agent, and of an empty token; and runs go beyond what a narrowed token can hold.
    let one = narrow(&daemon, &whole, &["--agent", "echo"]);
    with(&daemon, &one)
        .post("/v1/agents/echo/pause", &json!({}))
        .ok(200);
    with(&daemon, &one)
        .post("/v1/agents/echo/resume", &json!({}))
        .ok(200);
    forbidden(&with(&daemon, &one).post("/v1/agents/other/stop", &json!({})));
    forbidden(&with(&daemon, &one).post("/v1/tasks", &task("billing.run")));
    let brief = narrow(&daemon, &whole, &["--ttl", "1h"]);
    let run = json!({"workflow": {"name": "w", "steps": [{"id": "s", "requirements": ["echo"]}]}});
    forbidden(&with(&daemon, &brief).post("/v1/workflows", &run));
    with(&daemon, &brief)
        .post("/v1/tasks", &task("echo"))
        .ok(202);

    let shown = inspected(&daemon, &wider);
    assert_eq!(shown["id"], id.as_str());
    assert_eq!(shown["narrowed"].as_array().unwrap().len(), 2);
    eventually("the refusal names the block", LONG, || {
        let denied = daemon.audit("kind=access.denied");
        let rule = format!("token {}", shown["narrowed"][0]["id"].as_str().unwrap());
        let found = denied
            .iter()
            .any(|record| record["payload"]["rule"] == rule.as_str());
        if found { Ok(()) } else { Err(rule) }
    });
    for kind in ["token.issued", "task.submitted", "access.denied"] {
        let records = daemon.audit(&format!("kind={kind}"));
        let found = format!("{records:?}");
        assert!(!records.is_empty() && !found.contains("meshcap_"), "{kind}");
    }
}

#[test]
fn what_is_revoked_over_foreign_or_tampered_with_opens_nothing_also_after_kill_9() {
    let daemon = Daemon::start();
    let (whole, id) = issue(&daemon, "operator", "ada");
    let first = narrow(&daemon, &whole, &["--verb", "read"]);
    let second = narrow(&daemon, &first, &["--hops", "1"]);
    let sibling = narrow(&daemon, &whole, &["--verb", "read"]);
    let over = narrow(&daemon, &whole, &["--ttl", "1ms"]);
    for token in [&whole, &first, &second, &sibling] {
        with(&daemon, token).get("/status").ok(200);
    }
    eventually("it is over", LONG, || {
        let answer = with(&daemon, &over).get("/status");
        if answer.status == 401 {
            Ok(())
        } else {
            Err(answer.status.to_string())
        }
    });
    let block = inspected(&daemon, &first)["narrowed"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    daemon
        .client()
        .delete(&format!("/v1/tokens/{block}"))
        .ok(200);
    void(&with(&daemon, &first).get("/status"));
    void(&with(&daemon, &second).get("/status"));
    with(&daemon, &sibling).get("/status").ok(200);
    with(&daemon, &whole).get("/status").ok(200);
    daemon
        .client()
        .delete(&format!("/v1/tokens/{id}.zz"))
        .problem(404, "token_not_found");
    let daemon = daemon.kill9().start();
    void(&with(&daemon, &first).get("/status"));
    void(&with(&daemon, &second).get("/status"));
    with(&daemon, &sibling).get("/status").ok(200);

    let other = Daemon::start();
    let (foreign, _) = issue(&other, "admin", "ada");
    void(&with(&daemon, &foreign).get("/status"));
    // Any one character changed, or the whole cut.
    let middle = whole.len() / 2;
    let flip = if &whole[middle..=middle] == "A" {
        "B"
    } else {
        "A"
    };
    let tampered = format!("{}{flip}{}", &whole[..middle], &whole[middle + 1..]);
    void(&with(&daemon, &tampered).get("/status"));
    void(&with(&daemon, &whole[..middle]).get("/status"));
    void(&with(&daemon, &format!("meshcap_{}", "A".repeat(20_000))).get("/status"));
    // The parts of it that are no secret are no plain token either.
    void(&with(&daemon, &format!("mesh_{id}_{}", "A".repeat(43))).get("/status"));
    daemon.client().delete(&format!("/v1/tokens/{id}")).ok(200);
    for token in [&whole, &sibling] {
        void(&with(&daemon, token).get("/status"));
    }
}

#[test]
fn a_delegated_task_does_no_more_than_its_token_says() {
    if !has_python("a_delegated_task_does_no_more_than_its_token_says") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&asker("asker"));
    let (whole, _) = issue(&daemon, "operator", "ada");
    let token = narrow(
        &daemon,
        &whole,
        &[
            "--verb",
            "task.submit",
            "--task-type",
            "billing.*",
            "--hops",
            "0",
        ],
    );
    let child = |payload: Value, token: Option<&str>| match token {
        Some(token) => json!({"payload": payload, "auth": {"token": token}}),
        None => json!({"payload": payload}),
    };
    let billing = json!({"action": "billing.run", "requirements": ["echo"], "input": {}});
    let other = json!({"action": "other", "requirements": ["echo"], "input": {}});
    let asked = |input: Value| daemon.ended(&daemon.ask("ask", &input), LONG)["output"].clone();
    assert_eq!(asked(child(other.clone(), None))["ok"], true);
    assert_eq!(asked(child(billing.clone(), Some(&token)))["ok"], true);
    let refused = asked(child(other.clone(), Some(&token)));
    assert_eq!(
        refused["error"]["message"], "Insufficient permissions",
        "{refused}"
    );
    let unknown = asked(child(billing.clone(), Some("meshcap_e30")));
    assert_eq!(
        unknown["error"]["message"], "Invalid authentication",
        "{unknown}"
    );

    // What a narrowed token submits is not handed on beyond its hops, nor to what it leaves out.
    let ada = |arguments: &[&str]| with(&daemon, &narrow(&daemon, &whole, arguments));
    let wrap = |input: Value| json!({"type": "ask", "requirements": ["ask"], "input": input});
    let end = |client: &Client, input: Value| {
        let task = client.post("/v1/tasks", &wrap(input)).ok(202);
        daemon.ended(task["id"].as_str().unwrap(), LONG)["output"].clone()
    };
    let none = end(
        &ada(&["--verb", "task.submit", "--hops", "0"]),
        child(billing.clone(), None),
    );
    assert_eq!(
        none["error"]["message"], "Insufficient permissions",
        "{none}"
    );
    let one = ada(&["--verb", "task.submit", "--hops", "1"]);
    assert_eq!(end(&one, child(billing.clone(), None))["ok"], true);
    let again = child(
        json!({"requirements": ["ask"], "input": child(billing.clone(), None)}),
        None,
    );
    let twice = end(&one, again.clone());
    assert_eq!(
        twice["output"]["error"]["message"], "Insufficient permissions",
        "{twice}"
    );
    let enough = end(&ada(&["--verb", "task.submit", "--hops", "2"]), again);
    assert_eq!(enough["output"]["ok"], true, "{enough}");
    let typed = ada(&["--task-type", "ask", "--task-type", "billing.*"]);
    assert_eq!(end(&typed, child(billing.clone(), None))["ok"], true);
    let outside = end(&typed, child(other, None));
    assert_eq!(
        outside["error"]["message"], "Insufficient permissions",
        "{outside}"
    );
}

#[test]
fn what_stands_for_good_and_what_checks_a_result_is_left_to_no_token_that_does_not_say_so() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let schedule = json!({
        "id": "nightly", "cron": "0 3 * * *", "timeZone": "UTC", "paused": true,
        "workflow": {"name": "w", "steps": [{"id": "s", "requirements": ["echo"]}]},
    });
    daemon.client().post("/v1/schedules", &schedule).ok(201);
    let (token, _) = issue(&daemon, "operator", "ci");
    let control = narrow(&daemon, &token, &["--verb", "task.control"]);
    let control = with(&daemon, &control);
    forbidden(&control.post("/v1/schedules/nightly/resume", &json!({})));
    forbidden(&control.send("DELETE", "/v1/schedules/nightly", &[], None));
    assert_eq!(
        daemon.client().get("/v1/schedules/nightly").ok(200)["paused"],
        true
    );

    // Who is to check a result is part of what is submitted.
    let echo = narrow(&daemon, &token, &["--requires", "echo", "--hops", "0"]);
    let echo = with(&daemon, &echo);
    let checked = |needs: &str| {
        let check = json!({"name": "looks right", "requirements": [needs]});
        json!({"requirements": ["echo"], "input": 1, "contract": {"checks": [check]}})
    };
    forbidden(&echo.post("/v1/tasks", &checked("shell")));
    echo.post("/v1/tasks", &checked("echo")).ok(202);

    // One agent is named, and what does not say which one it is done to is not left.
    let agent = [
        "--verb",
        "agent.register",
        "--verb",
        "chaos",
        "--agent",
        "echo",
    ];
    let (admin, _) = issue(&daemon, "admin", "root");
    let agent = with(&daemon, &narrow(&daemon, &admin, &agent));
    let manifest = json!({"manifest": {"id": "other", "version": "1.0.0", "capabilities": ["x"], "entry": "builtin:echo"}});
    forbidden(&agent.post("/v1/agents", &manifest));

    // What agents remember is shown to nobody whose token does not leave it, in the log neither.
    let json = [("content-type", "application/json")];
    let value = br#"{"value":"a secret"}"#;
    let path = "/v1/memory/echo/k";
    let put = daemon.client().send("PUT", path, &json, Some(value));
    assert!((200..300).contains(&put.status), "{}", put.text());
    let reader = with(&daemon, &narrow(&daemon, &admin, &["--verb", "read"]));
    for path in ["/v1/audit?limit=1000", "/v1/audit/export"] {
        let shown = reader.get(path);
        assert_eq!(shown.status, 200);
        assert!(!shown.text().contains("a secret"), "{path}");
    }
}

#[test]
fn a_stream_of_events_ends_with_its_token() {
    let daemon = Daemon::start();
    let (token, id) = issue(&daemon, "viewer", "ada");
    let events = with(&daemon, &token).events("", None);
    daemon.ctl(&["token", "revoke", &id]).exits(0);
    let begun = std::time::Instant::now();
    for _event in events {
        assert!(begun.elapsed() < LONG, "it goes on");
    }
    // What is read ends; what is never sent would not.
    assert!(begun.elapsed() < LONG, "it ended by itself");
}
