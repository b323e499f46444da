//! D9: one account runs out, and the fleet with it: refused in the midst of its work, told wrong times, and all at the door
//! again at the moment of the reset.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::{Bundle, Daemon, Home, eventually, has_python};
use serde_json::{Value, json};

use super::{PATIENCE, saw, starts};

/// Tasks at one account.
const TASKS: usize = 512;
/// Replicas of each of the two agents that share it.
const REPLICAS: usize = 16;
/// How long the provider works on a request.
const WORK: Duration = Duration::from_millis(20);

/// Asks the provider for each task. What it is refused with, it says by the class that it is told to.
const ASKER: &str = r#"
import json, os, sys, urllib.error, urllib.request
def say(**o): print(json.dumps(o), flush=True)
say(type="HANDSHAKE", payload={"name": os.environ["MESH_AGENT"], "version": "1.0.0", "capabilities": ["ask"]})
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] != "TASK_REQUEST": continue
    todo = m["payload"]["input"]
    try:
        with urllib.request.urlopen(todo["url"], timeout=60) as answer:
            result = {"ok": True, "output": answer.status}
    except urllib.error.HTTPError as refused:
        error = {"class": todo["class"], "message": "HTTP %d from the provider" % refused.code}
        after = refused.headers.get("Retry-After")
        if after and todo["class"] == "quota": error["retryAfterMs"] = int(after) * 1000
        result = {"ok": False, "error": error}
    say(type="TASK_RESULT", task_id=m["task_id"], payload=result)
"#;

/// One time at which the provider's limit is reached.
#[derive(Debug, Clone, Copy)]
struct Wall {
    /// After so many requests that were served.
    after: usize,
    /// For how long, from the first refusal on.
    lasts: Duration,
    /// What its refusals say, in seconds.
    says: Option<u64>,
}

#[derive(Debug, Default)]
struct Book {
    /// When each request came, and whether it was served.
    requests: Vec<(Instant, bool)>,
    served: usize,
    /// Which wall is next, and when the present one ends.
    wall: usize,
    ends: Option<Instant>,
}

/// A provider with one account, on loopback.
struct Provider {
    port: u16,
    book: Arc<Mutex<Book>>,
}

fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provider {
    fn start(walls: &'static [Wall]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let book = Arc::new(Mutex::new(Book::default()));
        let kept = Arc::clone(&book);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || answer(stream, &kept, walls));
            }
        });
        Self { port, book }
    }

    fn url(&self) -> String {
        format!("http://provider.test:{}/v1/work", self.port)
    }

    fn requests(&self) -> Vec<(Instant, bool)> {
        locked(&self.book).requests.clone()
    }
}

/// Serves or refuses one request; whoever goes away in the middle was not to be answered.
fn answer(mut stream: TcpStream, book: &Mutex<Book>, walls: &[Wall]) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 0 && !line.ends_with("\r\n\r\n") {}
    let now = Instant::now();
    let refusal = {
        let mut book = locked(book);
        if book.ends.is_some_and(|ends| now >= ends) {
            book.ends = None;
            book.wall += 1;
        }
        let wall = walls
            .get(book.wall)
            .filter(|wall| book.served >= wall.after);
        if let Some(wall) = wall {
            book.ends.get_or_insert(now + wall.lasts);
        } else {
            book.served += 1;
        }
        book.requests.push((now, wall.is_none()));
        wall.copied()
    };
    let head = match refusal {
        None => {
            thread::sleep(WORK);
            "HTTP/1.1 200 OK\r\n".to_owned()
        }
        Some(Wall { says: None, .. }) => "HTTP/1.1 429 Too Many Requests\r\n".to_owned(),
        Some(Wall {
            says: Some(after), ..
        }) => format!("HTTP/1.1 429 Too Many Requests\r\nRetry-After: {after}\r\n"),
    };
    let rest = "Content-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{head}{rest}").as_bytes()).ok()
}

/// A daemon whose agents may reach the provider.
fn daemon(provider: &Provider) -> Daemon {
    let port = provider.port;
    Home::new()
        .config(&format!(
            "orchestrator:\n  policies:\n    max_parallel_tasks: 64\nsupervision:\n  stop_timeout: 2s\napi:\n  drain_timeout: 2s\nsandbox:\n  egress:\n    ports: [{port}]\n    networks: [127.0.0.0/8]\n    hosts: {{provider.test: [127.0.0.1]}}\n"
        ))
        .start()
}

fn asker(id: &str, replicas: usize) -> Bundle {
    Bundle::new(id)
        .file("ask.py", ASKER)
        .set("entry", json!("ask.py"))
        .set("runtime", json!({"command": "python3"}))
        .set("capabilities", json!(["ask"]))
        .set("replicas", json!(replicas))
        .set("budget", json!({"provider": "acme"}))
        .set(
            "security",
            json!({"networkAccess": {"allowOutbound": true, "allowedDomains": ["provider.test"]}}),
        )
}

fn submit_many(daemon: &Daemon, provider: &Provider, class: &str, count: usize) -> Vec<String> {
    let input = json!({"url": provider.url(), "class": class});
    let task = json!({"requirements": ["ask"], "input": input, "retry": {"baseDelayMs": 10}});
    let all = Value::Array(vec![task; count]);
    let receipts = daemon.client().post("/v1/tasks", &all).ok(202);
    let receipts = receipts.as_array().expect("receipts").iter();
    receipts
        .map(|receipt| receipt["id"].as_str().expect("an id").to_owned())
        .collect()
}

fn all_ended(daemon: &Daemon, ids: &[String]) -> Vec<Value> {
    ids.iter().map(|id| daemon.ended(id, PATIENCE)).collect()
}

/// The states that the account's gate went through, in order.
fn moves(daemon: &Daemon) -> Vec<(String, Value)> {
    let records = daemon.audit("kind=task.gate");
    let gates = records.iter().map(|record| &record["payload"]["gate"]);
    gates
        .map(|gate| {
            assert_eq!(
                gate["account"], "provider:acme",
                "one account, one gate: {gate}"
            );
            (
                gate["state"].as_str().unwrap_or_default().to_owned(),
                gate.clone(),
            )
        })
        .collect()
}

/// How many requests were under way at once, at most, among these.
fn at_once(requests: &[(Instant, bool)]) -> usize {
    let during = |at: Instant| {
        let before = requests
            .iter()
            .filter(|(began, _)| *began <= at && at < *began + WORK);
        before.count()
    };
    requests
        .iter()
        .map(|(at, _)| during(*at))
        .max()
        .unwrap_or_default()
}

/// Whoever came first after a wall came alone, and late enough.
fn came_back_alone(requests: &[(Instant, bool)]) {
    for (index, pair) in requests.windows(2).enumerate() {
        let [(refused_at, false), (_, true)] = pair else {
            continue;
        };
        let back = &requests[index + 1..];
        let next = &back[..back.len().min(4)];
        saw(&format!(
            "back {:?} after the last refusal; {} at once among the first {}",
            next[0].0.duration_since(*refused_at),
            at_once(next),
            next.len()
        ));
        assert!(next[0].0.duration_since(*refused_at) >= Duration::from_secs(1));
        assert!(
            at_once(&next[..2.min(next.len())]) == 1,
            "the first goes alone"
        );
    }
}

#[test]
fn d9_a_fleet_at_one_account_waits_behind_one_gate_and_comes_back_without_a_herd() {
    const WALLS: &[Wall] = &[
        // Says less than is true.
        Wall {
            after: 100,
            lasts: Duration::from_secs(6),
            says: Some(1),
        },
        // Says nothing.
        Wall {
            after: 300,
            lasts: Duration::from_secs(3),
            says: None,
        },
    ];
    if !has_python("d9_a_fleet_at_one_account_waits_behind_one_gate_and_comes_back_without_a_herd")
    {
        return;
    }
    let provider = Provider::start(WALLS);
    let daemon = daemon(&provider);
    for id in ["asker-a", "asker-b"] {
        daemon.deploy(&asker(id, REPLICAS));
    }
    let ids = submit_many(&daemon, &provider, "quota", TASKS);
    // What waits says for what, and until when.
    let parked = eventually("a task waits behind the gate", PATIENCE, || {
        let parked = daemon
            .client()
            .get("/v1/tasks?state=parked&limit=1")
            .ok(200);
        let found = parked["items"][0].clone();
        (found["waitingFor"]["reason"] == "quota")
            .then_some(found)
            .ok_or_else(|| parked.to_string())
    });
    let waiting = &parked["waitingFor"];
    assert!(waiting["until"].is_string(), "{waiting}");
    assert!(
        waiting["detail"]
            .as_str()
            .unwrap()
            .contains("provider:acme"),
        "{waiting}"
    );
    let tasks = all_ended(&daemon, &ids);
    let mut refused = 0;
    for task in &tasks {
        assert_eq!(task["state"], "succeeded", "{task}");
        for attempt in task["attempts"].as_array().unwrap() {
            let class = &attempt["error"]["class"];
            assert!(class.is_null() || class == "quota", "{task}");
            refused += usize::from(class == "quota");
        }
    }
    for id in ["asker-a", "asker-b"] {
        let fault = daemon.status(id)["fault"].clone();
        assert_eq!(
            (&fault["state"], &fault["score"]),
            (&json!("running"), &json!(0))
        );
        assert_eq!(starts(&daemon, id), REPLICAS, "nobody was restarted");
    }
    let requests = provider.requests();
    let told = requests.iter().filter(|(_, served)| !served).count();
    saw(&format!(
        "{} requests, {told} refused, {refused} attempts",
        requests.len()
    ));
    assert_eq!(
        told, refused,
        "every refusal was an attempt, and none was lost"
    );
    // Each wall costs what was under way when it was met, and one attempt for each wait that was too short.
    assert!(told <= 2 * (2 * REPLICAS + 4), "{told} refused");
    came_back_alone(&requests);
    let moves = moves(&daemon);
    let states: Vec<_> = moves.iter().map(|(state, _)| state.as_str()).collect();
    assert!(
        states.contains(&"closed") && states.contains(&"ramping"),
        "{states:?}"
    );
    let strikes = moves
        .iter()
        .filter_map(|(_, gate)| gate["strikes"].as_u64());
    assert!(
        strikes.max() >= Some(2),
        "the provider was found to be wrong: {states:?}"
    );
    let metrics = daemon.client().get("/metrics").text();
    assert!(
        metrics.contains("provider_gate_moves_total{state=\"closed\"}"),
        "{metrics}"
    );
}

/// Control: agents that call the same refusals an outage. Every attempt is spent at the wall.
#[test]
fn d9_control_without_the_class_the_fleet_runs_against_the_wall_and_falls() {
    const WALLS: &[Wall] = &[Wall {
        after: 10,
        lasts: Duration::from_secs(3),
        says: Some(1),
    }];
    if !has_python("d9_control_without_the_class_the_fleet_runs_against_the_wall_and_falls") {
        return;
    }
    let provider = Provider::start(WALLS);
    let daemon = daemon(&provider);
    daemon.deploy(&asker("asker", 4));
    let ids = submit_many(&daemon, &provider, "unavailable", 64);
    let tasks = all_ended(&daemon, &ids);
    let dead = tasks
        .iter()
        .filter(|task| task["state"] == "dead_lettered")
        .count();
    let told = provider
        .requests()
        .iter()
        .filter(|(_, served)| !served)
        .count();
    saw(&format!(
        "control: {dead} of 64 tasks died, {told} requests were refused"
    ));
    assert!(dead >= 20 && told >= 60, "{dead} died, {told} refused");
}

#[test]
fn d9_a_gate_outlives_kill_9_and_an_absurd_time_is_bounded() {
    const WALLS: &[Wall] = &[Wall {
        after: 0,
        lasts: Duration::from_hours(1),
        says: Some(30 * 24 * 3600),
    }];
    if !has_python("d9_a_gate_outlives_kill_9_and_an_absurd_time_is_bounded") {
        return;
    }
    let provider = Provider::start(WALLS);
    let daemon = daemon(&provider);
    daemon.deploy(&asker("asker", 1));
    let ids = submit_many(&daemon, &provider, "quota", 3);
    let gate = |daemon: &Daemon| {
        eventually("all wait behind the gate", PATIENCE, || {
            let waits = ids.iter().map(|id| daemon.task(id)["waitingFor"].clone());
            let waits: Vec<_> = waits.collect();
            let all = waits.iter().all(|wait| wait["reason"] == "quota");
            all.then(|| waits[0]["until"].clone())
                .ok_or_else(|| format!("{waits:?}"))
        })
    };
    let until = gate(&daemon);
    let closed = moves(&daemon)[0].1.clone();
    // Seconds of the day; midnight may lie between.
    let second = |value: &Value| {
        let clock = value.as_str().expect("a time")[11..19].split(':');
        clock.fold(0, |all, part| {
            all * 60 + part.parse::<u64>().expect("a number")
        })
    };
    let wait = (second(&closed["until"]) + 24 * 3600 - second(&closed["since"])) % (24 * 3600);
    assert!((3600..=3606).contains(&wait), "an hour at most: {wait} s");
    let asked = provider.requests().len();
    let daemon = daemon.kill9().start();
    assert_eq!(gate(&daemon), until, "the same gate, until the same time");
    assert_eq!(provider.requests().len(), asked, "nobody asked again");
    let shown = daemon.ctl(&["task", "show", &ids[0]]);
    assert!(shown.out.contains("provider:acme"), "{shown:?}");
    let listed = daemon.client().get("/v1/gates").ok(200);
    assert_eq!(listed["items"], json!([closed]), "{listed}");
    // Somebody thinks that it is over: one goes, is refused, and nobody else follows.
    let tried = daemon.ctl(&["gate", "try", "provider:acme"]);
    assert_eq!(tried.code, 0, "{tried:?}");
    eventually("one has tried", PATIENCE, || {
        let gates = daemon.client().get("/v1/gates").ok(200);
        (gates["items"][0]["strikes"] == 2)
            .then_some(())
            .ok_or_else(|| gates.to_string())
    });
    assert_eq!(provider.requests().len(), asked + 1);
    let none = daemon.ctl(&["gate", "try", "provider:other"]);
    assert!(
        none.code != 0 && none.err.contains("provider:other"),
        "{none:?}"
    );
}
