//! The token of an incarnation: given to those who ask for one, good for what agents may, void with the incarnation.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, descendants, eventually};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_mins(1);

/// Keeps what it is told at the handshake in its home, and says it to its log; asks again when a task says so.
const BADGE: &str = r#"
ask() { echo '{"type":"HANDSHAKE","payload":{"name":"badge","version":"1.0.0","capabilities":["badge"]}}'; }
ask
while read -r line; do
  case "$line" in
    *'"type":"HANDSHAKE"'*)
      token=${line#*\"token\":\"}; token=${token%%\"*}
      printf '%s\n' "$line" >> "$HOME/hello"
      echo "told: $line" >&2 ;;
    *'"type":"TASK_REQUEST"'*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      case "$line" in
        *'"again"'*) ask ;;
        *'"say"'*) echo '{"type":"PUBLISH","payload":{"topic":"badge.said","data":1},"auth":{"token":"'$token'"}}' ;;
      esac
      echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":1}}' ;;
    *'"verb":"shutdown"'*) exit 0 ;;
  esac
done"#;

fn badge() -> Bundle {
    Bundle::shell("badge", BADGE)
        .set("capabilities", json!(["badge"]))
        .set("security", json!({"session": true}))
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// What an agent was told at its handshakes so far, once it is this many.
fn told(daemon: &Daemon, agent: &str, times: usize) -> Vec<Value> {
    eventually("its handshakes", WITHIN, || {
        let mut found = Vec::new();
        files(&daemon.home().data().join("home/agents"), &mut found);
        let hello = found.iter().find(|path| {
            path.ends_with("hello") && path.components().any(|part| part.as_os_str() == agent)
        });
        let text = hello.map(|path| fs::read_to_string(path).unwrap_or_default());
        let lines: Vec<Value> = text
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if lines.len() == times {
            Ok(lines)
        } else {
            Err(format!("{} of {times} in {found:?}", lines.len()))
        }
    })
}

fn token(line: &Value) -> String {
    let session = &line["payload"]["session"];
    assert!(session["expires"].is_string(), "{line}");
    session["token"].as_str().unwrap().to_owned()
}

/// How a token is answered that would submit a task: 202, 401.
fn submits(daemon: &Daemon, token: &str) -> u16 {
    let client = daemon.client().with_token(Some(token));
    let task = json!({"requirements": ["badge"], "input": 1});
    client.post("/v1/tasks", &task).status
}

fn is_void(daemon: &Daemon, token: &str) {
    eventually("the token is void", WITHIN, || {
        match submits(daemon, token) {
            401 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

#[test]
fn an_agent_that_asks_is_given_a_token_of_its_own_that_nobody_else_sees() {
    let daemon = Daemon::start();
    daemon.deploy(&badge());
    let first = token(&told(&daemon, "badge", 1)[0]);
    let own = daemon.client().with_token(Some(&first));
    // What agents may, and nothing more.
    assert_eq!(submits(&daemon, &first), 202);
    for path in ["/v1/tasks", "/v1/agents", "/v1/tokens", "/v1/audit"] {
        own.get(path).problem(403, "forbidden");
    }
    own.post("/v1/tokens", &json!({"role": "agent", "subject": "badge"}))
        .problem(403, "forbidden");
    own.post("/v1/agents/badge/scale", &json!({"replicas": 2}))
        .problem(403, "forbidden");
    let by = daemon.audit("kind=access.allowed");
    assert!(by.iter().any(|r| r["actor"] == "agent:badge"), "{by:?}");

    // On its own channel, too, and without a trace of it in what travels.
    assert_eq!(daemon.output("badge", &json!("say")), json!(1));
    let refused = daemon.audit("agent=badge&kind=request.refused");
    assert_eq!(refused, Vec::<Value>::new());

    // Renewed, the one before goes on, and the one before that does not.
    daemon.output("badge", &json!("again"));
    let second = token(&told(&daemon, "badge", 2)[1]);
    assert_eq!(
        (submits(&daemon, &first), submits(&daemon, &second)),
        (202, 202)
    );
    daemon.output("badge", &json!("again"));
    let third = token(&told(&daemon, "badge", 3)[2]);
    assert_eq!(
        (submits(&daemon, &first), submits(&daemon, &third)),
        (401, 202)
    );

    // One that did not ask has none.
    let plain = Bundle::shell("plain", BADGE).set("capabilities", json!(["badge", "plain"]));
    daemon.deploy(&plain);
    assert_eq!(told(&daemon, "plain", 1)[0]["payload"].get("session"), None);

    // The agent itself wrote what it was told into its log; its token is not in there.
    let logs = eventually("its log", WITHIN, || {
        let logs = daemon.client().get("/v1/agents/badge/logs").text();
        if logs.matches("[token]").count() >= 3 {
            Ok(logs)
        } else {
            Err(logs)
        }
    });
    let mut places = vec![
        logs,
        daemon.home().log(),
        daemon.client().get("/v1/audit/export").text(),
        daemon.client().get("/v1/agents/badge/history").text(),
        daemon.client().get("/v1/agents/badge/instances").text(),
        daemon.client().get("/v1/tokens").text(),
        daemon.client().get("/status").text(),
    ];
    for process in descendants(daemon.pid()) {
        for file in ["environ", "cmdline"] {
            let bytes = fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
            places.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    let mut found = Vec::new();
    files(daemon.home().data(), &mut found);
    let of_the_agent = daemon.home().data().join("home/agents");
    found.retain(|path| !path.starts_with(&of_the_agent));
    assert!(!found.is_empty());
    for path in found {
        let bytes = fs::read(path).unwrap_or_default();
        places.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    for secret in [&first, &second, &third] {
        assert!(!places.iter().any(|place| place.contains(&**secret)));
    }
}

#[test]
fn a_token_ends_with_its_incarnation_whatever_ends_that() {
    let daemon = Daemon::start();
    daemon.deploy(&badge());
    let client = daemon.client();
    let order = |verb: &str, body: Value| {
        client
            .post(&format!("/v1/agents/badge/{verb}"), &body)
            .ok(200);
    };
    let current = |times: usize| {
        let token = token(&told(&daemon, "badge", times)[times - 1]);
        assert_eq!(submits(&daemon, &token), 202, "token {times}");
        token
    };
    // Killed.
    let first = current(1);
    let process = descendants(daemon.pid())
        .into_iter()
        .find(|process| process.command.contains("run.sh"))
        .unwrap();
    let pid = rustix::process::Pid::from_raw(process.pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    is_void(&daemon, &first);
    let second = current(2);
    // Paused; it asks again when it goes on.
    order("pause", json!({}));
    is_void(&daemon, &second);
    order("resume", json!({}));
    assert_eq!(submits(&daemon, &second), 401);
    daemon.output("badge", &json!("again"));
    let third = current(3);
    // Stopped.
    order("stop", json!({}));
    is_void(&daemon, &third);
    order("start", json!({}));
    let fourth = current(4);
    // Isolated, and let out again.
    order("quarantine", json!({"description": "test"}));
    assert_eq!(submits(&daemon, &fourth), 401);
    order("recover", json!({"force": true}));
    let fifth = current(5);
    // meshd killed.
    let daemon = daemon.kill9().start();
    assert_eq!(submits(&daemon, &fifth), 401);
    let sixth = token(&told(&daemon, "badge", 6)[5]);
    assert_eq!(submits(&daemon, &sixth), 202);
}

#[test]
fn only_agents_that_shake_hands_can_ask_for_a_token() {
    let daemon = Daemon::start();
    let once = Bundle::command("once", "cat").set("security", json!({"session": true}));
    let tar = [("content-type", "application/x-tar")];
    let answer = daemon
        .client()
        .send("POST", "/v1/agents", &tar, Some(&once.tar()));
    let problem = answer.problem(422, "invalid_manifest");
    assert!(
        problem.to_string().contains("security.session"),
        "{problem}"
    );
}

/// The tokens that agents were given, as an admin sees them.
fn sessions(daemon: &Daemon) -> Vec<Value> {
    let page = daemon.client().get("/v1/tokens").ok(200);
    let of_agents = |token: &&Value| token["kind"] == "session";
    let all = page["items"].as_array().unwrap().clone();
    all.iter().filter(of_agents).cloned().collect()
}

#[test]
fn a_session_token_is_listed_and_revoked_alone_and_its_incarnation_ends() {
    let daemon = Daemon::start();
    daemon.deploy(&badge());
    let other = Bundle::shell("other", BADGE).set("capabilities", json!(["badge"]));
    daemon.deploy(&other.set("security", json!({"session": true})));
    let first = token(&told(&daemon, "badge", 1)[0]);
    let others = token(&told(&daemon, "other", 1)[0]);
    let listed = sessions(&daemon);
    assert_eq!(listed.len(), 2, "{listed:?}");
    let of = |agent: &str| {
        let mut listed = sessions(&daemon).into_iter();
        listed.find(|token| token["subject"] == agent).unwrap()
    };
    let shown = of("badge");
    assert_eq!(shown["role"], "agent", "{shown}");
    assert!(
        shown["expires"].is_string() && shown["epoch"].is_u64(),
        "{shown}"
    );
    let id = shown["id"].as_str().unwrap().to_owned();
    assert!(first.contains(&id) && !shown.to_string().contains(&first));
    let text = daemon.ctl(&["token", "list"]).exits(0).out;
    assert!(text.contains("session") && text.contains(&id), "{text}");
    // Nobody but an admin sees or ends it.
    let operator = daemon.of_role("operator", "ben");
    operator.get("/v1/tokens").problem(403, "forbidden");
    let path = format!("/v1/tokens/{id}");
    operator.delete(&path).problem(403, "forbidden");
    assert_eq!(submits(&daemon, &first), 202);

    let revoked = daemon.client().delete(&path).ok(200);
    assert_eq!(revoked["revoked"], true, "{revoked}");
    assert_eq!(submits(&daemon, &first), 401, "at once");
    assert_eq!(submits(&daemon, &others), 202, "another's goes on");
    // Its channel ended with it; the incarnation that follows has a token of its own.
    let second = token(&told(&daemon, "badge", 2)[1]);
    assert_eq!(
        (submits(&daemon, &first), submits(&daemon, &second)),
        (401, 202)
    );
    assert!(of("badge")["epoch"].as_u64() > shown["epoch"].as_u64());
    let record = &daemon.audit("agent=badge&kind=session.revoked")[0];
    assert_eq!(record["actor"], "user:admin", "{record}");
    assert_eq!(
        (&record["payload"]["id"], &record["payload"]["epoch"]),
        (&json!(id), &shown["epoch"]),
        "{record}"
    );
    assert!(
        record["cause"].is_u64(),
        "it follows from the request: {record}"
    );
    daemon
        .client()
        .delete(&path)
        .problem(404, "token_not_found");
    // It was no failure of the agent's.
    assert_eq!(
        daemon.status("badge")["fault"]["state"],
        daemon.status("other")["fault"]["state"]
    );
}

#[test]
fn a_token_is_revoked_offline_for_the_next_start_and_that_is_on_record() {
    let daemon = Daemon::start();
    let issued = |subject: &str| {
        let body = json!({"role": "operator", "subject": subject});
        daemon.client().post("/v1/tokens", &body).ok(201)
    };
    let (stolen, kept) = (issued("eve"), issued("ada"));
    let id = stolen["id"].as_str().unwrap().to_owned();
    // Where a daemon runs, it is asked.
    let data = daemon.home().data().to_owned();
    let offline = |id: &str| {
        let at = data.to_str().unwrap();
        mesh_tests::meshctl(&data, &["token", "revoke", id, "--offline", "--data", at])
    };
    let refused = offline(&id);
    assert!(refused.err.contains("runs on"), "{}", refused.err);
    let home = daemon.kill9();
    assert!(offline("nonsense").exits(2).err.contains("no token's id"));
    let said = offline(&id).exits(0);
    assert!(said.out.contains("next start"), "{}", said.out);
    let unknown = "0123456789abcdef";
    offline(unknown).exits(0);
    let admin = fs::read_to_string(data.join("token")).unwrap();
    let admin_id = admin.split('_').nth(1).unwrap().to_owned();
    offline(&admin_id).exits(0);

    let daemon = home.start();
    let with = |token: &Value| {
        let client = daemon.client().with_token(token["token"].as_str());
        client.get("/v1/tasks").status
    };
    assert_eq!((with(&stolen), with(&kept)), (401, 200));
    let old = daemon.client().with_token(Some(admin.trim()));
    assert_eq!(
        old.get("/v1/tasks").status,
        401,
        "the admin's own is replaced"
    );
    let of_offline = |kind: &str, what: &str| {
        let found = daemon.audit(&format!("kind={kind}"));
        let mut found = found.into_iter().filter(|r| r["actor"] == "offline");
        found.any(|r| r.to_string().contains(what))
    };
    assert!(of_offline("token.revoked", &id));
    assert!(of_offline("token.revoked", &admin_id));
    assert!(of_offline("request.refused", unknown));
    assert!(!data.join("revoke").exists());
    // Void for good, and not once more at each start.
    let daemon = daemon.kill9().start();
    let client = daemon.client().with_token(stolen["token"].as_str());
    assert_eq!(client.get("/v1/tasks").status, 401);
    let mine = daemon.audit("kind=token.revoked");
    assert_eq!(mine.iter().filter(|r| r["actor"] == "offline").count(), 2);

    // An order that cannot be read is not taken for none.
    let home = daemon.kill9();
    fs::write(data.join("revoke"), "something else\n").unwrap();
    let Err((home, _)) = home.try_start() else {
        panic!("it starts although it cannot know what was ordered");
    };
    fs::remove_file(data.join("revoke")).unwrap();
    home.start();
}
