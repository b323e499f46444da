//! Clients that remember every answer, and what must hold of it afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_tests::{Answer, Bundle, Client, Daemon, Home, Random, eventually};
use serde_json::{Value, json};

use crate::crash::{Ledger, each_ends_once, setting, submit};

/// The smallest segments that there are, so that a few tasks lead over several of them.
pub(super) const CONFIG: &str = "journal:\n  segment_size: 128KiB\nsupervision:\n  stop_timeout: 2s\napi:\n  drain_timeout: 2s\ntelemetry:\n  log_format: human\n";

/// Input beyond this lies in the content store; one task in so many has such an input.
const LARGE: u64 = 34_000;
const LARGE_EVERY: u64 = 12;

/// How many of the acknowledged tasks are looked for after each life: about what one life adds.
const RECENT: usize = 30;

/// A read side that was destroyed shows everything again within this time.
const REBUILT_MAX: Duration = Duration::from_mins(1);

/// A home with small segments.
pub(super) fn home() -> Home {
    Home::new().config(CONFIG)
}

/// Says something past the capture of the test runner: a failure in a long run must name its seed whatever happens.
pub(super) fn say(test: &str, line: &str) {
    drop(writeln!(std::io::stderr(), "storage: {test}: {line}"));
}

/// The seed of a test, told.
pub(super) fn seeded(test: &str) -> Random {
    let seed = setting("MESH_SEED", u64::from(std::process::id()));
    say(test, &format!("MESH_SEED={seed}"));
    Random::new(seed)
}

/// What the clients know of one data directory, over all its lives.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) ledger: Mutex<Ledger>,
    // A checkpoint that was given out: whatever comes later continues it.
    witness: Option<PathBuf>,
}

/// A task for the agent that echoes.
pub(super) fn task(random: &mut Random) -> Value {
    let size = match random.between(0, LARGE_EVERY) {
        0 => LARGE,
        _ => random.between(10, 6000),
    };
    let size = usize::try_from(size).unwrap();
    json!({"requirements": ["echo"], "input": {"text": "x".repeat(size)}})
}

/// An agent that echoes, quick enough to keep up with the clients.
pub(super) fn echo() -> Bundle {
    Bundle::echo("echo").set("concurrency", json!(8))
}

impl Books {
    /// Submits until it is told to stop or the daemon is gone.
    pub(super) fn work(&self, client: &Client, name: &str, stop: &AtomicBool, mut random: Random) {
        for number in 0.. {
            let key = format!("{name}-{number}");
            if stop.load(Ordering::Relaxed)
                || !submit(client, &self.ledger, &key, &task(&mut random))
            {
                return;
            }
        }
    }

    /// Asks again what was sent and not answered: same key, same body. False when the daemon is gone.
    pub(super) fn ask_again(&self, client: &Client) -> bool {
        let unsure = self.ledger.lock().unwrap().unsure.clone();
        unsure
            .iter()
            .all(|(key, body)| submit(client, &self.ledger, key, body))
    }

    /// Looks for all that was acknowledged last. Not for all there is: the cost of a life must not grow with the run.
    #[track_caller]
    pub(super) fn recent_are_there(&self, daemon: &mut Daemon, what: &str) {
        let ended = self.recent_are_there_or_it_ended(daemon, what);
        assert_eq!(ended, None, "{what}: the daemon has ended");
    }

    /// The same for a daemon that may end meanwhile; how it ended, if it did.
    #[track_caller]
    pub(super) fn recent_are_there_or_it_ended(
        &self,
        daemon: &mut Daemon,
        what: &str,
    ) -> Option<i32> {
        let client = daemon.client().clone();
        let ledger = self.ledger.lock().unwrap();
        let mut newest: Vec<_> = ledger.acknowledged.iter().collect();
        newest.sort_by_key(|&(_, id)| std::cmp::Reverse(id));
        for (key, id) in newest.into_iter().take(RECENT) {
            let path = format!("/v1/tasks/{id}");
            let answer = eventually(
                &format!("{path} answers"),
                REBUILT_MAX,
                || match answer_now(&client, &path) {
                    Ok(answer) => Ok(Ok(answer)),
                    Err(error) => daemon.exit_code().map(Err).ok_or(error),
                },
            );
            let answer = match answer {
                Ok(answer) => answer,
                Err(code) => return Some(code),
            };
            assert_eq!(
                answer.status,
                200,
                "{what}: {key} = {id} was acknowledged and is not there: {}; its records: {}",
                answer.text(),
                client.get(&format!("/v1/audit?task={id}")).text()
            );
        }
        None
    }

    /// The whole of it: everything acknowledged is in the list, and the log verifies and continues what it was.
    #[track_caller]
    pub(super) fn hold(&mut self, daemon: &Daemon, what: &str) {
        let listed = listed(daemon.client());
        {
            let ledger = self.ledger.lock().unwrap();
            for (key, id) in &ledger.acknowledged {
                assert!(
                    listed.contains_key(id),
                    "{what}: {key} = {id} was acknowledged and is not in the list"
                );
            }
        }
        let file = daemon.home().scratch().join("audit.jsonl");
        let file = file.to_str().unwrap();
        daemon.ctl(&["audit", "export", "--out", file]).exits(0);
        let mut verify = vec!["audit", "verify", file];
        if let Some(witness) = &self.witness {
            verify.extend(["--witness", witness.to_str().unwrap()]);
        }
        daemon.ctl(&verify).exits(0);
        self.keep_checkpoint(daemon);
    }

    /// Keeps a checkpoint as somebody elsewhere would.
    #[track_caller]
    pub(super) fn keep_checkpoint(&mut self, daemon: &Daemon) {
        let note = daemon.ctl(&["audit", "checkpoint"]).exits(0).out;
        // Not on the disk that fails.
        let path = daemon.home().scratch().join("witness.note");
        fs::write(&path, note).unwrap();
        self.witness = Some(path);
    }

    /// Waits for every end, and compares what the clients were told with what the log says; returns how many tasks.
    #[track_caller]
    pub(super) fn close(self, daemon: &Daemon) -> usize {
        assert!(self.ask_again(daemon.client()), "the daemon is gone");
        let ledger = self.ledger.into_inner().unwrap();
        assert!(!ledger.acknowledged.is_empty(), "the load must bite");
        each_ends_once(daemon, &ledger, self.witness.as_deref());
        ledger.acknowledged.len()
    }
}

/// What a living daemon answers. While the read side is rebuilt it refuses rather than leave something out, and while
/// the journal is opened again the surface above it restarts, too.
#[track_caller]
fn answer(client: &Client, path: &str) -> Answer {
    eventually(&format!("{path} answers"), REBUILT_MAX, || {
        answer_now(client, path)
    })
}

fn answer_now(client: &Client, path: &str) -> Result<Answer, String> {
    match client.try_send("GET", path, &[], None) {
        Ok(answer) if answer.status == 503 => Err(answer.text()),
        Ok(answer) => Ok(answer),
        Err(error) => Err(error.to_string()),
    }
}

/// No part of the daemon has panicked in any of its lives.
#[track_caller]
pub(super) fn no_panic(home: &Home) {
    let log = home.log();
    let panics: Vec<_> = log
        .lines()
        // sled panics on damage; that is caught, and the projections are rebuilt.
        .filter(|line| line.contains("panicked at") && !line.contains("/sled-"))
        .collect();
    assert!(panics.is_empty(), "{}", panics.join("\n"));
}

/// All tasks that the daemon lists: id → state and output.
#[track_caller]
pub(super) fn listed(client: &Client) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/tasks?limit=1000{cursor}");
        let page = answer(client, &path).ok(200);
        for task in page["items"].as_array().expect("a page") {
            all.insert(task["id"].as_str().unwrap().to_owned(), task.clone());
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// Copies a data directory, as it lies there.
pub(super) fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "cp -a");
}

/// Pause of load, not synchronisation: a life of some length.
pub(super) fn live(random: &mut Random, from: u64, to: u64) {
    std::thread::sleep(Duration::from_millis(random.between(from, to)));
}
