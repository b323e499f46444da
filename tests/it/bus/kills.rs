//! `kill -9` at random moments, against publishers and subscribers that remember every answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, Home, Random, eventually, has_python};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::envelope;
use crate::crash::setting;

/// Publishers at once, and lives that end by `kill -9`.
const PUBLISHERS: u64 = 3;
const KILLS: u64 = 4;

fn say(line: &str) {
    // Past the capture of the test runner: a failure must name its seed whatever happens.
    drop(writeln!(std::io::stderr(), "bus: {line}"));
}

/// What publishers know, and what subscribers did.
#[derive(Debug, Default)]
struct Ledger {
    /// Acknowledged publications.
    taken: BTreeSet<String>,
    /// By subscription: acknowledged deliveries.
    done: BTreeMap<String, BTreeSet<String>>,
    /// Deliveries whose acknowledgement nobody answered: it counts, or they come again.
    unsure: BTreeSet<(String, String)>,
    /// By subscription and message: the highest delivery that was seen.
    seen: BTreeMap<(String, String), u64>,
}

fn keep_publishing(
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
        let (id, topic) = (
            format!("{name}-{number}"),
            ["t.a", "t.b"][usize::from(number % 2 == 0)],
        );
        let body = envelope(&id, topic, &json!(number)).to_string();
        let headers = [("content-type", "application/json")];
        match client.try_send("POST", "/v1/messages", &headers, Some(body.as_bytes())) {
            Ok(answer) if answer.status == 200 => {
                ledger.lock().unwrap().taken.insert(format!("{topic} {id}"));
            }
            Ok(answer) if [429, 503].contains(&answer.status) => {}
            Ok(answer) => panic!("{id}: {} {}", answer.status, answer.text()),
            Err(_) => return,
        }
        // Load, not synchronisation.
        std::thread::sleep(Duration::from_millis(random.between(1, 15)));
    }
}

/// Pulls once, checks what comes against what is known, and acknowledges most of it; false when the daemon is gone.
fn take(client: &Client, ledger: &Mutex<Ledger>, name: &str, random: &mut Random) -> Option<usize> {
    let send = |path: &str, body: &Value| {
        let headers = [("content-type", "application/json")];
        let body = body.to_string();
        client
            .try_send("POST", path, &headers, Some(body.as_bytes()))
            .ok()
    };
    let answer = send(
        &format!("/v1/subscriptions/{name}/pull?max=16&wait=200ms"),
        &json!({}),
    )?;
    if answer.status != 200 {
        return None;
    }
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    let mut tokens = Vec::new();
    for message in &messages {
        let id = message["envelope"]["id"].as_str().unwrap().to_owned();
        let delivery = message["delivery"].as_u64().unwrap();
        let mut ledger = ledger.lock().unwrap();
        let done = ledger.done.entry(name.to_owned()).or_default();
        assert!(
            !done.contains(&id),
            "{id} came to {name} after it was acknowledged"
        );
        let before = ledger.seen.insert((name.to_owned(), id.clone()), delivery);
        assert!(
            before.unwrap_or_default() < delivery,
            "{id} came to {name} as {before:?} and {delivery}"
        );
        // One in four is left to come again.
        if random.between(0, 4) > 0 {
            tokens.push((id, message["token"].clone()));
        }
    }
    if !tokens.is_empty() {
        let named: Vec<&Value> = tokens.iter().map(|(_, token)| token).collect();
        let body = json!({ "tokens": named });
        let Some(answer) = send(&format!("/v1/subscriptions/{name}/ack"), &body) else {
            let unsure = tokens.into_iter().map(|(id, _)| (name.to_owned(), id));
            ledger.lock().unwrap().unsure.extend(unsure);
            return None;
        };
        if answer.status == 200 {
            let outcome = answer.json();
            let settled = outcome["done"].as_array().unwrap();
            let mut ledger = ledger.lock().unwrap();
            let done = ledger.done.entry(name.to_owned()).or_default();
            done.extend(
                tokens
                    .into_iter()
                    .filter(|(_, token)| settled.contains(token))
                    .map(|(id, _)| id),
            );
        }
    }
    Some(messages.len())
}

#[test]
fn each_task_that_was_accepted_is_told_of_across_kill_9_and_once_under_one_id() {
    let mut daemon = Home::new().start();
    let name = json!({"name": "made", "topic": "task.created", "maxUnacked": 1000, "ackTimeoutMs": 600_000});
    daemon.client().post("/v1/subscriptions", &name).ok(201);
    let mut accepted = BTreeSet::new();
    for life in 0..KILLS {
        let tasks: Vec<Value> = (0..40)
            .map(|n| json!({"type": format!("{life}-{n}"), "requirements": ["nobody"]}))
            .collect();
        let receipts = daemon.client().post("/v1/tasks", &json!(tasks)).ok(202);
        let ids = receipts.as_array().unwrap().iter();
        accepted.extend(ids.map(|receipt| receipt["id"].as_str().unwrap().to_owned()));
        // At once: what was answered is durable, and most of it was not told yet.
        daemon = daemon.kill9().start();
    }
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    eventually("everybody is told of", Duration::from_mins(1), || {
        let pulled = daemon
            .client()
            .post("/v1/subscriptions/made/pull?max=64&wait=1s", &json!({}))
            .ok(200);
        let messages = pulled["messages"].as_array().unwrap();
        for message in messages {
            let envelope = &message["envelope"];
            let task = envelope["payload"]["data"]["task"].as_str().unwrap();
            let id = envelope["id"].as_str().unwrap().to_owned();
            assert_eq!(id, format!("task.created:{task}"));
            assert!(envelope["context"]["record"].is_u64(), "{envelope}");
            let before = told.insert(task.to_owned(), message["token"].to_string());
            assert_eq!(before, None, "{task} stands in the queue twice");
        }
        if told.len() == accepted.len() {
            Ok(())
        } else {
            Err(format!("{} of {}", told.len(), accepted.len()))
        }
    });
    assert!(told.keys().eq(&accepted));
    // Who comes later is not told of what was before.
    let late = json!({"name": "late", "topic": "task.created", "ackTimeoutMs": 600_000});
    daemon.client().post("/v1/subscriptions", &late).ok(201);
    let id = daemon.submit(&json!({"requirements": ["nobody"]}));
    let daemon = daemon.kill9().start();
    let pulled = eventually("the last one is told of", Duration::from_mins(1), || {
        let pulled = daemon
            .client()
            .post("/v1/subscriptions/late/pull?max=64&wait=1s", &json!({}))
            .ok(200);
        match pulled["messages"].as_array().unwrap().as_slice() {
            [] => Err("nothing yet".to_owned()),
            some => Ok(some.to_vec()),
        }
    });
    assert_eq!(pulled.len(), 1, "{pulled:?}");
    assert_eq!(pulled[0]["envelope"]["payload"]["data"]["task"], *id);
}

#[test]
fn what_an_agent_leaves_behind_that_is_terminated_is_gone_also_when_meshd_is_killed_at_once() {
    if !has_python("bus") {
        return;
    }
    let mut daemon = Home::new().start();
    for round in 0..3 {
        let id = format!("reader{round}");
        let reader = Bundle::new(&id)
            .set("capabilities", json!(["reader"]))
            .set("entry", json!("main.py"))
            .file("main.py", super::READER);
        daemon.deploy(&reader);
        let inbox = format!("/v1/subscriptions/agent:{id}:inbox");
        eventually("it subscribed", Duration::from_mins(1), || {
            match daemon.client().get(&inbox) {
                answer if answer.status == 200 => Ok(()),
                answer => Err(answer.text()),
            }
        });
        let path = format!("/v1/agents/{id}/terminate");
        daemon.client().post(&path, &json!({}));
        daemon = daemon.kill9().start();
        eventually("its subscription is gone", Duration::from_mins(1), || {
            let listed = daemon.client().get("/v1/subscriptions").ok(200);
            match listed["items"].as_array().unwrap().as_slice() {
                [] => Ok(()),
                some => Err(format!("{some:?}")),
            }
        });
        // What is sent to it now is refused, and kept for nobody.
        let message = json!({"type": "MESSAGE", "to": format!("kai://agent.{id}"), "payload": {}});
        let refused = daemon.client().post("/v1/messages", &message);
        assert_eq!(refused.status, 409, "{}", refused.text());
    }
}

#[test]
fn what_was_taken_reaches_every_subscription_across_kill_9_and_what_was_acknowledged_comes_no_more()
{
    let seed = setting("MESH_SEED", 8);
    say(&format!("seed {seed}"));
    let mut random = Random::new(seed);
    let ledger = Mutex::new(Ledger::default());
    let daemon = Daemon::start();
    for (name, topic) in [("all", "t.*"), ("half", "t.a"), ("rest", "t.>")] {
        let order = json!({"name": name, "topic": topic, "ackTimeoutMs": 300, "maxDeliver": 1000, "maxQueue": 10000});
        daemon.client().post("/v1/subscriptions", &order).ok(201);
    }
    let mut home: Option<Home> = Some(daemon.kill9());
    for life in 0..setting("MESH_KILLS", KILLS) {
        let daemon = home.take().unwrap().start();
        let stop = AtomicBool::new(false);
        let span = Duration::from_millis(random.between(300, 1500));
        say(&format!("life {life} of {span:?}"));
        std::thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                let (client, ledger, stop) = (daemon.client().clone(), &ledger, &stop);
                let (name, random) = (
                    format!("p{publisher}-{life}"),
                    Random::new(random.next_u64()),
                );
                scope.spawn(move || keep_publishing(&client, ledger, stop, &name, random));
            }
            for name in ["all", "half", "rest"] {
                let (client, ledger, stop) = (daemon.client().clone(), &ledger, &stop);
                let mut random = Random::new(random.next_u64());
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed)
                        && take(&client, ledger, name, &mut random).is_some()
                    {}
                });
            }
            std::thread::sleep(span);
            home = Some(daemon.kill9());
            stop.store(true, Ordering::Relaxed);
        });
    }
    let daemon = home.take().unwrap().start();
    let mut random = Random::new(random.next_u64());
    for (name, wanted) in [("all", "t."), ("half", "t.a"), ("rest", "t.")] {
        eventually(name, Duration::from_mins(2), || {
            while take(daemon.client(), &ledger, name, &mut random).is_some_and(|count| count > 0) {
            }
            let ledger = ledger.lock().unwrap();
            let done = &ledger.done[name];
            let meant = ledger
                .taken
                .iter()
                .filter(|taken| taken.starts_with(wanted));
            let missing: Vec<_> = meant
                .map(|taken| taken.split_once(' ').unwrap().1)
                .filter(|id| {
                    !done.contains(*id)
                        && !ledger.unsure.contains(&(name.to_owned(), (*id).to_owned()))
                })
                .collect();
            let view = daemon
                .client()
                .get(&format!("/v1/subscriptions/{name}"))
                .ok(200);
            let empty = view["queued"] == 0 && view["unacked"] == 0;
            if missing.is_empty() && empty {
                Ok(())
            } else {
                Err(format!("{} missing, {view}", missing.len()))
            }
        });
    }
    let taken = ledger.lock().unwrap().taken.len();
    say(&format!("{taken} publications were taken"));
    assert!(taken > 10, "{taken}");
    assert_eq!(
        daemon.client().get("/v1/bus/dead").ok(200)["items"],
        json!([])
    );
    let (_, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
}
