//! Registered services: added, checked, called; their secrets seen by nobody but them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_tests::{Daemon, Home, eventually};
use serde_json::{Value, json};

mod kept;
mod uses;

const SECRET: &str = "geo-s3cret-of-the-service";
const LONG: Duration = Duration::from_mins(1);

/// What it says to a path: the status and the body, one after the other; the last one for ever.
type Script = BTreeMap<String, Vec<(u16, String)>>;

/// A small HTTP server of the test's own.
struct Server {
    port: u16,
    script: Arc<Mutex<Script>>,
    heard: Arc<Mutex<Vec<String>>>,
    dead: Arc<Mutex<bool>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            script: Arc::default(),
            heard: Arc::default(),
            dead: Arc::default(),
        };
        let (script, heard, dead) = (
            server.script.clone(),
            server.heard.clone(),
            server.dead.clone(),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, heard, dead) = (script.clone(), heard.clone(), dead.clone());
                std::thread::spawn(move || drop(answer(stream.unwrap(), &script, &heard, &dead)));
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What it says to a path from here on.
    fn says(&self, path: &str, answers: &[(u16, Value)]) {
        let answers = answers
            .iter()
            .map(|(status, body)| (*status, body.to_string()));
        self.script
            .lock()
            .unwrap()
            .insert(path.to_owned(), answers.collect());
    }

    /// Whether it hangs up on everybody.
    fn is_dead(&self, dead: bool) {
        *self.dead.lock().unwrap() = dead;
    }

    /// The requests for a path, heads and bodies.
    fn heard(&self, path: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let is = |request: &&String| {
            let target = request.split(' ').nth(1).unwrap_or_default();
            target.split('?').next() == Some(path)
        };
        heard.iter().filter(is).cloned().collect()
    }
}

fn answer(
    stream: TcpStream,
    script: &Mutex<Script>,
    heard: &Mutex<Vec<String>>,
    dead: &Mutex<bool>,
) -> std::io::Result<()> {
    if *dead.lock().unwrap() {
        return Ok(());
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
    }
    let lower = request.to_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body)?;
    request.push_str(&String::from_utf8_lossy(&body));
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    heard.lock().unwrap().push(request);
    let (status, body) = {
        let mut script = script.lock().unwrap();
        match script.get_mut(&path) {
            None => (404, "{}".to_owned()),
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
        }
    };
    let mut stream = stream;
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn definition(server: &Server, id: &str) -> Value {
    json!({"id": id, "name": "Geocoder", "type": "utility", "capabilities": ["geocode"], "endpoints": [
        {"name": "find", "url": server.url("/find"), "method": "GET"},
        {"name": "store", "url": server.url("/store")},
    ], "health": {"intervalMs": 1000, "timeoutMs": 2000}})
}

fn call(daemon: &Daemon, id: &str, order: Value) -> mesh_tests::Answer {
    daemon
        .client()
        .post(&format!("/v1/services/{id}/call"), &order)
}

fn service(daemon: &Daemon, id: &str) -> Value {
    daemon.client().get(&format!("/v1/services/{id}")).ok(200)
}

#[track_caller]
fn status(daemon: &Daemon, id: &str, wanted: &str) -> Value {
    eventually(&format!("{id} is {wanted}"), LONG, || {
        let found = service(daemon, id);
        if found["status"] == wanted {
            Ok(found)
        } else {
            Err(found.to_string())
        }
    })
}

#[test]
fn a_service_is_added_listed_called_changed_and_removed_and_survives_kill_9() {
    let server = Server::start();
    server.says("/find", &[(200, json!({"lat": 48}))]);
    server.says("/store", &[(200, json!("stored"))]);
    let daemon = Daemon::start();
    let added = daemon
        .client()
        .post("/v1/services", &definition(&server, "geo"))
        .ok(201);
    assert_eq!(
        (&added["status"], &added["version"]),
        (&json!("active"), &json!(1)),
        "{added}"
    );
    daemon
        .client()
        .post("/v1/services", &definition(&server, "geo"))
        .ok(200);
    let mut other = definition(&server, "geo");
    other["name"] = json!("Other");
    daemon
        .client()
        .post("/v1/services", &other)
        .problem(409, "service_exists");

    is_called(&server, &daemon);
    let home = daemon.kill9();
    let daemon = home.start();
    is_changed_and_removed(&daemon, &added, other);
}

/// What is sent, what is answered, and what is on record of it.
fn is_called(server: &Server, daemon: &Daemon) {
    let order = json!({"endpoint": "find", "params": {"q": "Wien & Graz", "n": [1, 2]}});
    let reply = call(daemon, "geo", order).ok(200);
    assert_eq!(
        (&reply["output"], &reply["attempts"]),
        (&json!({"lat": 48}), &json!(1)),
        "{reply}"
    );
    let heard = server.heard("/find");
    assert!(
        heard[0].starts_with("GET /find?n=1&n=2&q=Wien%20%26%20Graz HTTP"),
        "{heard:?}"
    );
    assert!(
        heard[0].to_lowercase().contains("idempotency-key: call-"),
        "{heard:?}"
    );
    let order = json!({"endpoint": "store", "params": {"a": 1}, "idempotencyKey": "k-1"});
    assert_eq!(call(daemon, "geo", order).ok(200)["output"], "stored");
    let heard = server.heard("/store");
    assert!(
        heard[0].ends_with("{\"a\":1}") && heard[0].to_lowercase().contains("idempotency-key: k-1"),
        "{heard:?}"
    );
    call(daemon, "geo", json!({"endpoint": "nope"})).problem(422, "invalid_service_call");
    call(daemon, "geo", json!({})).problem(422, "invalid_service_call");
    call(daemon, "geo", json!({"endpoint": "find", "params": [1]}))
        .problem(422, "invalid_service_call");
    call(daemon, "nobody", json!({})).problem(404, "service_not_found");

    let called = daemon.audit("kind=service.called");
    assert_eq!(called.len(), 2, "{called:?}");
    let first = &called[0]["payload"];
    let says = [
        &first["service"],
        &first["endpoint"],
        &first["status"],
        &first["attempts"],
    ];
    assert_eq!(
        says,
        [&json!("geo"), &json!("find"), &json!(200), &json!(1)],
        "{first}"
    );
    assert!(
        first["by"].is_string() && first["durationMs"].is_u64(),
        "{first}"
    );
}

fn is_changed_and_removed(daemon: &Daemon, added: &Value, mut other: Value) {
    let back = service(daemon, "geo");
    assert_eq!(
        (&back["version"], &back["registeredAt"]),
        (&json!(1), &added["registeredAt"]),
        "{back}"
    );
    other["status"] = json!("inactive");
    let changed = daemon.client().put("/v1/services/geo", &other).ok(200);
    assert_eq!(
        (&changed["status"], &changed["version"]),
        (&json!("inactive"), &json!(2)),
        "{changed}"
    );
    call(daemon, "geo", json!({"endpoint": "find"})).problem(409, "service_inactive");
    let list = |query: &str| {
        daemon
            .client()
            .get(&format!("/v1/services?{query}"))
            .ok(200)["items"]
            .as_array()
            .unwrap()
            .len()
    };
    let counts = [
        list("capability=geocode"),
        list("capability=x"),
        list("type=llm"),
        list("status=inactive"),
    ];
    assert_eq!(counts, [1, 0, 0, 1]);
    daemon.client().delete("/v1/services/geo").ok(200);
    daemon
        .client()
        .get("/v1/services/geo")
        .problem(404, "service_not_found");
    daemon
        .client()
        .delete("/v1/services/geo")
        .problem(404, "service_not_found");
    let kinds = ["service.registered", "service.updated", "service.removed"];
    for kind in kinds {
        assert_eq!(daemon.audit(&format!("kind={kind}")).len(), 1, "{kind}");
    }
}

#[test]
fn a_definition_that_makes_no_sense_is_refused_as_a_whole_with_all_that_is_wrong() {
    let daemon = Home::new()
        .config("services:\n  blocked_domains: [old.example]\n")
        .start();
    let bad = json!({"id": "geo", "name": "", "type": "utility", "endpoints": [
        {"name": "a", "url": "http://geo.example/"}, {"name": "a", "url": "https://old.example/"},
        {"name": "c", "url": "http://169.254.169.254/latest"}],
        "rate": {"perSecond": 0}});
    let problem = daemon
        .client()
        .post("/v1/services", &bad)
        .problem(422, "invalid_service");
    let errors: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e.as_str().unwrap())
        .collect();
    let paths: Vec<_> = errors
        .iter()
        .map(|error| error.split(": ").next().unwrap())
        .collect();
    let expected = [
        "name",
        "endpoints[1].name",
        "rate.perSecond",
        "endpoints[0].url",
        "endpoints[1].url",
        "endpoints[2].url",
    ];
    assert_eq!(paths, expected, "{problem}");
    let told = [
        "services.http_domains",
        "services.blocked_domains",
        "services.networks",
    ];
    for word in told {
        assert!(
            errors.iter().any(|error| error.contains(word)),
            "{word}: {problem}"
        );
    }
    // Of another form: a value where only the name of a secret belongs.
    let mut bad = json!({"id": "geo", "name": "x", "type": "magic", "endpoints": [{"name": "a", "url": "https://geo.example/"}]});
    daemon.client().post("/v1/services", &bad);
    bad["type"] = json!("llm");
    bad["auth"] = json!({"type": "bearer", "secret": "a", "value": SECRET});
    let refused = daemon.client().post("/v1/services", &bad);
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(!refused.text().contains(SECRET), "{}", refused.text());
    assert_eq!(
        daemon.client().get("/v1/services").ok(200)["items"],
        json!([])
    );
    assert!(daemon.audit("kind=service.registered").is_empty());
}

#[test]
fn what_may_be_tried_again_is_and_what_may_have_been_done_is_not() {
    let server = Server::start();
    let daemon = Daemon::start();
    server.says(
        "/find",
        &[
            (503, json!("busy")),
            (429, json!("slow")),
            (200, json!("found")),
        ],
    );
    server.says("/store", &[(500, json!("oops")), (200, json!("stored"))]);
    daemon
        .client()
        .post("/v1/services", &definition(&server, "geo"))
        .ok(201);
    let reply = call(&daemon, "geo", json!({"endpoint": "find"})).ok(200);
    assert_eq!(
        (&reply["output"], &reply["attempts"]),
        (&json!("found"), &json!(3)),
        "{reply}"
    );
    let keys: Vec<_> = server
        .heard("/find")
        .iter()
        .map(|request| {
            request
                .lines()
                .find(|line| line.to_lowercase().starts_with("idempotency-key"))
                .unwrap()
                .to_owned()
        })
        .collect();
    assert!(
        keys.len() == 3 && keys.iter().all(|key| key == &keys[0]),
        "{keys:?}"
    );
    let problem =
        call(&daemon, "geo", json!({"endpoint": "store"})).problem(503, "service_unavailable");
    assert!(
        problem["detail"].as_str().unwrap().contains("answered 500"),
        "{problem}"
    );
    assert_eq!(server.heard("/store").len(), 1);
    server.says("/find", &[(404, json!("no such place"))]);
    let problem = call(&daemon, "geo", json!({"endpoint": "find"})).problem(422, "service_refused");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("answered 404: \"no such place\""),
        "{problem}"
    );
}

#[test]
fn a_breaker_opens_is_shown_and_lets_calls_through_again() {
    let server = Server::start();
    server.says("/find", &[(500, json!("oops"))]);
    let daemon = Daemon::start();
    daemon
        .client()
        .post("/v1/services", &definition(&server, "geo"))
        .ok(201);
    for _ in 0..2 {
        call(&daemon, "geo", json!({"endpoint": "find"})).problem(503, "service_unavailable");
    }
    let heard = server.heard("/find").len();
    assert_eq!(heard, 5, "three tries, then two");
    let answer = call(&daemon, "geo", json!({"endpoint": "find"}));
    assert!(answer.header("retry-after").is_some());
    let problem = answer.problem(503, "service_unavailable");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("circuit breaker"),
        "{problem}"
    );
    assert_eq!(server.heard("/find").len(), heard, "nothing was sent");
    let shown = service(&daemon, "geo");
    assert_eq!(shown["breaker"]["state"], "open", "{shown}");
    assert_eq!(shown["status"], "active", "its checks pass");
    eventually("health tells", LONG, || {
        let health = daemon.client().get("/v1/health").ok(200);
        let told = health["issues"].to_string();
        if told.contains("services.geo") {
            Ok(())
        } else {
            Err(told)
        }
    });
    server.says("/find", &[(200, json!("found"))]);
    eventually(
        "half-open",
        LONG,
        || match service(&daemon, "geo")["breaker"]["state"].as_str() {
            Some("half_open") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    assert_eq!(
        call(&daemon, "geo", json!({"endpoint": "find"})).ok(200)["output"],
        "found"
    );
    assert_eq!(service(&daemon, "geo")["breaker"]["state"], "closed");
}

#[test]
fn a_service_that_does_not_answer_is_in_error_and_recovers_and_each_change_is_said_once() {
    let server = Server::start();
    server.is_dead(true);
    let daemon = Daemon::start();
    let added = daemon
        .client()
        .post("/v1/services", &definition(&server, "geo"))
        .ok(201);
    assert_eq!(added["status"], "error", "{added}");
    assert!(
        added["fault"]["reason"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1"),
        "{added}"
    );
    let problem =
        call(&daemon, "geo", json!({"endpoint": "find"})).problem(503, "service_unavailable");
    assert!(
        problem["detail"].as_str().unwrap().contains("in error"),
        "{problem}"
    );
    server.is_dead(false);
    server.says("/find", &[(200, json!("found"))]);
    status(&daemon, "geo", "active");
    assert_eq!(
        call(&daemon, "geo", json!({"endpoint": "find"})).ok(200)["output"],
        "found"
    );
    server.is_dead(true);
    status(&daemon, "geo", "error");
    // Across a kill it stays so, and is not said again.
    let daemon = daemon.kill9().start();
    assert_eq!(service(&daemon, "geo")["status"], "error");
    daemon
        .client()
        .post("/v1/services/geo/check", &json!({}))
        .ok(200);
    eventually("health tells", LONG, || {
        let health = daemon.client().get("/v1/health").ok(200)["issues"].to_string();
        if health.contains("services.geo") {
            Ok(())
        } else {
            Err(health)
        }
    });
    server.is_dead(false);
    let checked = daemon
        .client()
        .post("/v1/services/geo/check", &json!({}))
        .ok(200);
    assert_eq!(checked["status"], "active", "{checked}");
    let counts = ["service.unhealthy", "service.recovered"]
        .map(|kind| daemon.audit(&format!("kind={kind}")).len());
    assert_eq!(counts, [2, 2]);
}
