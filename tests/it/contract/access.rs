//! Who may do what, and that what is secret stays secret.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, eventually};
use serde_json::{Value, json};

fn issue(daemon: &Daemon, body: &Value) -> (Client, Value) {
    let issued = daemon.client().post("/v1/tokens", body).ok(201);
    (daemon.client().with_token(issued["token"].as_str()), issued)
}

#[test]
fn two_paths_are_open_and_everything_else_asks_who_you_are() {
    let daemon = Daemon::start();
    let nobody = daemon.client().with_token(None);
    assert_eq!(nobody.get("/healthz").ok(200)["status"], "ok");
    let document = nobody.get("/openapi.json").ok(200);
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 30, "{:?}", paths.keys().collect::<Vec<_>>());

    let wrong = daemon.client().with_token(Some("not-a-token"));
    let mut asked = 0;
    for (path, methods) in paths {
        let concrete = path
            .replace("{id}", "x")
            .replace("{agent}", "x")
            .replace("{key}", "x");
        for method in methods
            .as_object()
            .unwrap()
            .keys()
            .filter(|method| *method != "parameters")
        {
            if ["/healthz", "/openapi.json"].contains(&path.as_str()) {
                continue;
            }
            for caller in [&nobody, &wrong] {
                let answer = caller.send(&method.to_uppercase(), &concrete, &[], body_of(method));
                let problem = answer.problem(401, "unauthenticated");
                assert_eq!(
                    problem["detail"], "Invalid authentication",
                    "{method} {path}"
                );
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            }
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked}");
}

fn body_of(method: &str) -> Option<&'static [u8]> {
    matches!(method, "post" | "put").then_some(b"{}")
}

#[test]
fn roles_permit_what_they_say_and_refusals_are_audited() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let (viewer, _) = issue(&daemon, &json!({"role": "viewer", "subject": "vera"}));
    let (operator, _) = issue(&daemon, &json!({"role": "operator"}));
    let (publisher, _) = issue(&daemon, &json!({"role": "publisher"}));
    let task = json!({"requirements": ["echo"], "input": 1});

    viewer.get("/v1/agents").ok(200);
    viewer.post("/v1/tasks", &task).problem(403, "forbidden");
    viewer
        .post("/v1/agents/echo/stop", &json!({}))
        .problem(403, "forbidden");
    operator.post("/v1/tasks", &task).ok(202);
    operator.post("/v1/agents/echo/pause", &json!({})).ok(200);
    operator.post("/v1/agents/echo/resume", &json!({})).ok(200);
    for verb in ["quarantine", "terminate", "recover"] {
        operator
            .post(&format!("/v1/agents/echo/{verb}"), &json!({}))
            .problem(403, "forbidden");
    }
    operator
        .post("/v1/tokens", &json!({"role": "admin"}))
        .problem(403, "forbidden");
    operator.get("/v1/memory/echo").problem(403, "forbidden");
    publisher.post("/v1/tasks", &task).problem(403, "forbidden");
    let tar = Bundle::echo("theirs").tar();
    publisher
        .send(
            "POST",
            "/v1/agents?start=false",
            &[("content-type", "application/x-tar")],
            Some(&tar),
        )
        .ok(201);

    assert_eq!(
        daemon.status("echo")["lifecycle"],
        "executing",
        "a refused request changed nothing"
    );
    let denied = daemon.audit("kind=access.denied");
    assert_eq!(denied.len(), 8, "{denied:?}");
    assert!(
        denied
            .iter()
            .any(|record| record["actor"].as_str().unwrap().contains("vera")),
        "{denied:?}"
    );
    let agents = daemon.audit("kind=registered&agent=theirs");
    assert_eq!(agents.len(), 1);
}

#[test]
fn tokens_end_when_their_time_is_up_and_when_they_are_revoked() {
    let daemon = Daemon::start();
    let (brief, _) = issue(&daemon, &json!({"role": "viewer", "ttl": "1s"}));
    brief.get("/status").ok(200);
    eventually("it has expired", Duration::from_secs(10), || {
        match brief.get("/status").status {
            401 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    let (kept, issued) = issue(&daemon, &json!({"role": "viewer"}));
    kept.get("/status").ok(200);
    daemon
        .ctl(&["token", "revoke", issued["id"].as_str().unwrap()])
        .exits(0);
    kept.get("/status").problem(401, "unauthenticated");
    // Also in the next life.
    let token = issued["token"].as_str().unwrap().to_owned();
    let daemon = daemon.kill9().start();
    daemon
        .client()
        .with_token(Some(&token))
        .get("/status")
        .problem(401, "unauthenticated");
}

#[test]
fn a_token_is_shown_once_and_is_nowhere_afterwards() {
    fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                files(&entry.path(), found);
            } else if entry.file_type().unwrap().is_file() {
                found.push(entry.path());
            }
        }
    }
    let daemon = Daemon::start();
    let issued = daemon
        .ctl(&["token", "issue", "--role", "operator"])
        .exits(0);
    let token = issued.out.trim();
    assert_eq!(token.lines().count(), 1, "{token}");
    daemon
        .client()
        .with_token(Some(token))
        .post("/v1/tasks", &json!({"type": "x"}))
        .ok(202);
    daemon
        .client()
        .with_token(Some(&token[..token.len() - 1]))
        .get("/status")
        .problem(401, "unauthenticated");
    let admin = fs::read_to_string(daemon.home().data().join("token")).unwrap();
    let data = daemon.home().data().to_owned();
    let export = daemon.client().get("/v1/audit/export");
    assert_eq!(export.status, 200);
    let list = daemon.client().get("/v1/tokens").text();
    let (home, code) = daemon.stop(rustix::process::Signal::TERM);
    assert_eq!(code, 0);

    let mut all = Vec::new();
    files(&data, &mut all);
    let holds = |bytes: &[u8], secret: &str| {
        bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes())
    };
    for secret in [token, admin.trim()] {
        for path in all
            .iter()
            .filter(|path| path.file_name().is_none_or(|name| name != "token"))
        {
            assert!(
                !holds(&fs::read(path).unwrap(), secret),
                "{} holds a token",
                path.display()
            );
        }
        assert!(
            !holds(home.log().as_bytes(), secret),
            "the log holds a token"
        );
        assert!(!holds(&export.body, secret), "the export holds a token");
        assert!(!list.contains(secret), "the list shows a token");
    }
}

#[test]
fn a_web_page_cannot_point_its_own_name_at_the_daemon() {
    let daemon = Daemon::start();
    let foreign = daemon
        .client()
        .send("GET", "/status", &[("host", "evil.example:80")], None);
    foreign.problem(421, "unknown_host");
}

#[test]
fn nobody_but_an_admin_names_directories_of_the_host() {
    let daemon = Daemon::start();
    let (publisher, _) = issue(&daemon, &json!({"role": "publisher"}));
    let bundle = Bundle::shell("script", "true");
    let dir = bundle.write(daemon.home().scratch());
    let body = json!({"manifest": bundle.manifest(), "path": dir});
    publisher
        .post("/v1/agents?start=false", &body)
        .problem(403, "forbidden");
    daemon
        .client()
        .post("/v1/agents?start=false", &body)
        .ok(201);
}
