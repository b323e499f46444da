//! `kill -9` in a loop, under load, against a client that remembers every acknowledgement.
//!
//! The lives are short and end at moments that a seed chooses, some of them before the daemon is ready. What the client
//! was told must be there afterwards, must end, and must end once; nothing of an old life may outlive it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_tests::{
    Bundle, Client, Daemon, Home, Marker, Process, Random, descendants, eventually, has_python,
    marked, survivors,
};
use serde_json::{Value, json};

/// Lives that end by `kill -9`; `MESH_KILLS` asks for more.
const KILLS: u64 = 5;
/// Clients at once.
const WORKERS: u64 = 3;
/// Nothing of an ended life may be alive after this time.
const GONE_MAX: Duration = Duration::from_secs(5);

pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn say(line: &str) {
    // Past the capture of the test runner: a failure in a long run must name its seed whatever happens.
    drop(writeln!(std::io::stderr(), "crash: {line}"));
}

/// What the clients know.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Key → body of what was sent and not answered: it may or may not have been taken.
    pub(crate) unsure: BTreeMap<String, Value>,
    /// Key → id of what was acknowledged.
    pub(crate) acknowledged: BTreeMap<String, String>,
}

/// Sends one submission and notes what came of it; false when the daemon is gone.
pub(crate) fn submit(client: &Client, ledger: &Mutex<Ledger>, key: &str, body: &Value) -> bool {
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    let answer = client.try_send(
        "POST",
        "/v1/tasks",
        &headers,
        Some(body.to_string().as_bytes()),
    );
    let mut ledger = ledger.lock().unwrap();
    match answer {
        Ok(answer) if [200, 202].contains(&answer.status) => {
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            if let Some(before) = ledger.acknowledged.insert(key.to_owned(), id.clone()) {
                assert_eq!(before, id, "{key} was acknowledged as two tasks");
            }
            ledger.unsure.remove(key);
            true
        }
        // Refused before anything happened, or ending: it may be asked again.
        Ok(answer) if [429, 503].contains(&answer.status) => {
            ledger.unsure.insert(key.to_owned(), body.clone());
            true
        }
        Ok(answer) => panic!("{key}: {} {}", answer.status, answer.text()),
        Err(_) => {
            ledger.unsure.insert(key.to_owned(), body.clone());
            false
        }
    }
}

/// Submits until it is told to stop or the daemon is gone.
fn work(
    client: &Client,
    ledger: &Mutex<Ledger>,
    stop: &AtomicBool,
    name: &str,
    mut random: Random,
) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = match random.between(0, 3) {
            0 => json!({"requirements": ["echo"], "input": {"n": number}}),
            1 => json!({"requirements": ["slow"], "input": {"ms": random.between(0, 40)}}),
            _ => json!({"requirements": ["leaver"], "input": number}),
        };
        if !submit(client, ledger, &format!("{name}-{number}"), &body) {
            return;
        }
        // Load, not synchronisation: some tens of submissions in each life.
        std::thread::sleep(Duration::from_millis(random.between(2, 25)));
    }
}

fn fleet(marker: &Marker) -> [Bundle; 3] {
    let env = json!({"env": {"IT_MARK": marker.as_str()}});
    [
        Bundle::echo("echo").set("runtime", env),
        Bundle::marked_rogue("slow", "slow", marker).set("replicas", json!(2)),
        // Every task of it leaves a process behind that hears no signal.
        Bundle::marked_rogue("leaver", "daemonize", marker),
    ]
}

#[track_caller]
fn nothing_is_left(old: &[Process], marker: &Marker) {
    eventually("no process of the old life is alive", GONE_MAX, || {
        let left = [survivors(old), marked(marker.as_str())].concat();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}

#[test]
fn every_acknowledged_task_survives_kill_9_and_ends_once() {
    if !has_python("every_acknowledged_task_survives_kill_9_and_ends_once") {
        return;
    }
    let kills = setting("MESH_KILLS", KILLS);
    let seed = setting("MESH_SEED", u64::from(std::process::id()) << 20 | kills);
    say(&format!("MESH_SEED={seed} MESH_KILLS={kills}"));
    let mut random = Random::new(seed);
    let marker = Marker::new();
    let ledger = Mutex::new(Ledger::default());

    // The agents' limit on processes must not be what ends them: they leave one behind per task, on purpose.
    let mut daemon = Home::new().start();
    for bundle in &fleet(&marker) {
        daemon.deploy(
            &bundle
                .clone()
                .set("policy", json!({"resource_limits": {"pids": 4096}})),
        );
    }
    for round in 0..kills {
        daemon = one_life(daemon, round, &mut random, &ledger, &marker);
    }
    finish(&daemon, ledger.into_inner().unwrap(), &marker);
}

/// Puts load on a life, ends it, and begins the next one.
fn one_life(
    daemon: Daemon,
    round: u64,
    random: &mut Random,
    ledger: &Mutex<Ledger>,
    marker: &Marker,
) -> Daemon {
    // What was left open by the end before is asked again: same key, same body.
    let unsure = ledger.lock().unwrap().unsure.clone();
    for (key, body) in &unsure {
        assert!(
            submit(daemon.client(), ledger, key, body),
            "{key}: no answer from a daemon that lives"
        );
    }
    let lived = Duration::from_millis(random.between(20, 900));
    let client = daemon.client().clone();
    let stop = AtomicBool::new(false);
    let (home, old) = std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (client, stop, random) = (&client, &stop, Random::new(random.next_u64()));
            scope.spawn(move || work(client, ledger, stop, &format!("{round}-{worker}"), random));
        }
        std::thread::sleep(lived);
        let old = descendants(daemon.pid());
        let home = daemon.kill9();
        stop.store(true, Ordering::Relaxed);
        (home, old)
    });
    nothing_is_left(&old, marker);
    let home = if random.between(0, 4) == 0 {
        home.start_and_kill9(Duration::from_millis(random.between(0, 400)))
    } else {
        home
    };
    nothing_is_left(&[], marker);
    let daemon = home.start();
    let known = ledger.lock().unwrap().acknowledged.len();
    if round % 10 == 9 {
        say(&format!("{} lives, {known} acknowledged tasks", round + 1));
    }
    // At once, not only in the end: a part of them, so that the cost of a life does not grow with the run.
    let ledger = ledger.lock().unwrap();
    for (key, id) in ledger.acknowledged.iter().rev().take(20) {
        let answer = daemon.client().get(&format!("/v1/tasks/{id}"));
        assert_eq!(
            answer.status,
            200,
            "{key} = {id} was acknowledged and is not there: {}",
            answer.text()
        );
    }
    daemon
}

/// Waits until everything has ended, then compares what the client was told with what the log says.
fn finish(daemon: &Daemon, ledger: Ledger, marker: &Marker) {
    let ledger = Mutex::new(ledger);
    let unsure = ledger.lock().unwrap().unsure.clone();
    for (key, body) in &unsure {
        assert!(submit(daemon.client(), &ledger, key, body));
    }
    let ledger = ledger.into_inner().unwrap();
    assert!(
        ledger.acknowledged.len() > 10,
        "the load must bite: {}",
        ledger.acknowledged.len()
    );
    each_ends_once(daemon, &ledger, None);
    for agent in ["echo", "slow", "leaver"] {
        daemon.ctl(&["agent", "stop", agent]).exits(0);
    }
    nothing_is_left(&[], marker);
}

/// Waits until everything has ended, then looks into the log: each acknowledged task was submitted once and succeeded once.
/// The log must hold what the witness saw, where there is one.
#[track_caller]
pub(crate) fn each_ends_once(daemon: &Daemon, ledger: &Ledger, witness: Option<&Path>) {
    eventually("every task has ended", Duration::from_mins(5), || {
        let counts = daemon.client().get("/status").ok(200)["tasks"].clone();
        let open: u64 = [
            "queued", "assigned", "running", "blocked", "parked", "retrying",
        ]
        .iter()
        .filter_map(|state| counts[*state].as_u64())
        .sum();
        if open == 0 {
            Ok(())
        } else {
            Err(counts.to_string())
        }
    });

    let file = daemon.home().scratch().join("audit.jsonl");
    daemon
        .ctl(&["audit", "export", "--out", file.to_str().unwrap()])
        .exits(0);
    let mut verify = vec!["audit", "verify", file.to_str().unwrap()];
    if let Some(witness) = witness {
        verify.extend(["--witness", witness.to_str().unwrap()]);
    }
    let verified = daemon.ctl(&verify).exits(0);
    say(&format!(
        "{} tasks acknowledged; {}",
        ledger.acknowledged.len(),
        verified.out.trim()
    ));
    let export = std::fs::read_to_string(&file).unwrap();
    let (ends, keys) = read(&export, &daemon.home().data().join("content"));

    let mut wrong = Vec::new();
    for (key, id) in &ledger.acknowledged {
        match ends.get(id).map(Vec::as_slice) {
            Some([end]) if end == "task.succeeded" => {}
            other => wrong.push(format!("{key} = {id} ended {other:?}")),
        }
        match keys.get(key).map(Vec::as_slice) {
            Some([only]) if only == id => {}
            other => wrong.push(format!("{key} = {id} was submitted as {other:?}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        ledger.acknowledged.len(),
        wrong.join("\n")
    );
}

/// From an export: the ends of each task, and the tasks of each key. Large payloads lie in the content store.
fn read(
    export: &str,
    content: &Path,
) -> (BTreeMap<String, Vec<String>>, BTreeMap<String, Vec<String>>) {
    let (mut ends, mut keys) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
    for line in export.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(header) = line["record"].as_str() else {
            continue;
        };
        let header: Value = serde_json::from_str(header).unwrap();
        let (Some(task), Some(kind)) = (header["task"].as_str(), header["kind"].as_str()) else {
            continue;
        };
        // A payload is the event: its kind, and what belongs to it.
        let mut payload: Value =
            serde_json::from_str(line["payload"].as_str().unwrap_or("null")).unwrap_or_default();
        if let Some(digest) = payload["$content"].as_str() {
            let (shard, rest) = digest.split_at(2);
            let bytes = std::fs::read(content.join(shard).join(rest)).unwrap();
            payload = serde_json::from_slice(&bytes).unwrap();
        }
        let payload = &payload[kind];
        let ends_it = match kind {
            "task.succeeded" | "task.cancelled" | "task.dead_lettered" => true,
            "task.attempt_failed" => ["fail", "dead_letter", "cancel"]
                .iter()
                .any(|end| payload["then"] == *end),
            _ => false,
        };
        if ends_it {
            ends.entry(task.to_owned())
                .or_default()
                .push(kind.to_owned());
        }
        if let ("task.submitted", Some(key)) = (kind, payload["spec"]["idempotencyKey"].as_str()) {
            keys.entry(key.to_owned())
                .or_default()
                .push(task.to_owned());
        }
    }
    (ends, keys)
}
