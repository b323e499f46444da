//! A single call of the journal fails, by its number, in a life of its own; the lives follow each other on one directory.
//!
//! Writes and syncs go through a preloaded shim, which can also do half of them or end the process in the midst of one.
//! What goes past libc (allocating, renaming) is failed by strace.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mesh_tests::{Client, Daemon, Home, Random, eventually, has_program, shim};
use rustix::process::Signal;

use super::load::{Books, echo, home, no_panic, say, seeded, task};
use crate::crash::{setting, submit};

/// Numbers of the calls that fail; `MESH_FAULT_INDEX` asks for more.
const INDEX: u64 = 6;
/// Lives between two looks at everything.
const LOOK_EVERY: u64 = 10;
/// Tasks after which a fault that has not come does not come: a call that is seldom made.
const TASKS_MAX: u64 = 150;
/// A journal that failed is open again, or meshd has ended, within this time.
const SETTLED_MAX: Duration = Duration::from_mins(1);

/// How meshd may end because of its disk: the data cannot be used, the mesh has failed, try again later.
const ENDS: [i32; 3] = [64, 70, 75];
/// `kill -9`.
const KILLED: i32 = 128 + 9;

/// A call that fails.
#[derive(Debug, Clone, Copy)]
struct Fault {
    /// Which calls are counted.
    call: Call,
    /// What happens at the one.
    what: &'static str,
    /// From then on to all.
    lasting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
    Allocate,
    Rename,
}

impl Fault {
    const fn once(call: Call, what: &'static str) -> Self {
        Self {
            call,
            what,
            lasting: false,
        }
    }

    const fn lasting(call: Call, what: &'static str) -> Self {
        Self {
            call,
            what,
            lasting: true,
        }
    }

    /// The programs that it takes; says that the test is skipped where they are missing.
    fn tool(self, test: &str) -> Option<Tool> {
        match self.call {
            Call::Write | Call::Sync => Some(Tool::Shim(shim(test)?.to_str()?)),
            Call::Allocate | Call::Rename => has_program(test, "strace").then_some(Tool::Strace),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Tool {
    Shim(&'static str),
    Strace,
}

/// Where the tool writes what it did.
fn log_of(home: &Home) -> PathBuf {
    home.scratch().join("disk.log")
}

fn prepare(home: Home, tool: Tool, fault: Fault, nth: u64) -> Home {
    let log = log_of(&home);
    drop(fs::remove_file(&log));
    let log = log.to_str().unwrap().to_owned();
    let what = fault.what;
    match tool {
        Tool::Shim(library) => {
            let class = match fault.call {
                Call::Sync => "sync",
                _ => "write",
            };
            let on = if fault.lasting { "+" } else { "" };
            let dir = home.data().join("journal");
            home.only_env(&[
                ("LD_PRELOAD", library),
                ("DISK_DIR", dir.to_str().unwrap()),
                ("DISK_FAULT", &format!("{class}:{what}:{nth}{on}")),
                ("DISK_LOG", &log),
            ])
        }
        Tool::Strace => {
            let calls = match fault.call {
                Call::Allocate => "fallocate",
                _ => "rename,renameat,renameat2",
            };
            let error = what.to_uppercase();
            let on = if fault.lasting { "+" } else { "" };
            // As a grandchild, so that the child is meshd; of its agents it only sees what they do with these calls.
            home.through(&[
                "strace",
                "-D",
                "-f",
                "--seccomp-bpf",
                "-o",
                &log,
                "-e",
                &format!("trace={calls}"),
                "-e",
                &format!("inject={calls}:error={error}:when={nth}{on}"),
            ])
        }
    }
}

/// How often the fault has come.
fn fired(home: &Home) -> usize {
    let log = fs::read_to_string(log_of(home)).unwrap_or_default();
    log.lines()
        .filter(|line| line.starts_with("fired ") || line.contains("(INJECTED)"))
        .count()
}

/// One task after the other until the fault has come, or meshd is gone, or it does not come.
fn load(books: &Books, client: &Client, home: &Home, nth: u64, random: &mut Random) {
    for number in 0..TASKS_MAX {
        let answered = submit(
            client,
            &books.ledger,
            &format!("{nth}-{number}"),
            &task(random),
        );
        if !answered || fired(home) > 0 {
            return;
        }
    }
}

/// After a fault meshd has ended as documented, or takes work again.
#[track_caller]
fn settled(daemon: &mut Daemon, books: &Books, fault: Fault, nth: u64) -> Option<i32> {
    let key = format!("{nth}-after");
    let client = daemon.client().clone();
    let body = serde_json::json!({"requirements": ["echo"], "input": "after"});
    eventually(
        &format!("{fault:?} at {nth}: it takes work again, or has ended"),
        SETTLED_MAX,
        || {
            if let Some(code) = daemon.exit_code() {
                return Ok(Some(code));
            }
            submit(&client, &books.ledger, &key, &body);
            let taken = books.ledger.lock().unwrap().acknowledged.contains_key(&key);
            // What a disk that fails for good leaves is a mesh that refuses: that is an answer, too.
            let refused = fault.lasting && client.try_send("GET", "/healthz", &[], None).is_ok();
            if taken || refused {
                Ok(None)
            } else {
                let status = client.try_send("GET", "/status", &[], None);
                Err(status.map_or_else(|error| error.to_string(), |status| status.text()))
            }
        },
    )
}

/// A life with a fault in it; false when the fault did not come.
#[track_caller]
fn one_life(
    home: Home,
    books: &Books,
    tool: Tool,
    fault: Fault,
    nth: u64,
    random: &mut Random,
) -> (Home, bool) {
    let home = prepare(home, tool, fault, nth);
    let (home, code) = match home.try_start() {
        Err((home, code)) => (home, Some(code)),
        Ok(mut daemon) => {
            // The fault may come at any moment, and end the daemon.
            let what = format!("{fault:?} at {nth}");
            let mut code = books.recent_are_there_or_it_ended(&mut daemon, &what);
            if code.is_none() {
                let client = daemon.client().clone();
                load(books, &client, daemon.home(), nth, random);
                code = settled(&mut daemon, books, fault, nth);
            }
            let code = code.or_else(|| {
                books.recent_are_there_or_it_ended(&mut daemon, &format!("after {what}"))
            });
            if code.is_none() && random.between(0, 2) == 0 {
                // Also an orderly end, on a disk that may fail still.
                let (home, code) = daemon.stop(Signal::TERM);
                let killed = fault.what == "die" && code == KILLED;
                assert!(
                    killed || [0, 70].contains(&code),
                    "{fault:?} at {nth}: exit {code}"
                );
                (home, None)
            } else {
                (daemon.kill9(), code)
            }
        }
    };
    let came = fired(&home) > 0;
    if let Some(code) = code {
        let expected = if fault.what == "die" {
            &[KILLED][..]
        } else {
            &ENDS
        };
        assert!(
            came && expected.contains(&code),
            "{fault:?} at {nth}: exit {code}, the fault came: {came}"
        );
    }
    let log = fs::read_to_string(log_of(&home)).unwrap_or_default();
    let again: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("again ") && line.contains("/log/"))
        .collect();
    assert!(
        again.is_empty(),
        "{fault:?} at {nth}: the log was used after a failed sync: {again:?}"
    );
    (home.only_env(&[]).through(&[]), came)
}

fn lives(test: &str, fault: Fault) {
    let Some(tool) = fault.tool(test) else {
        return;
    };
    let mut random = seeded(test);
    let mut books = Books::default();
    let daemon = home().start();
    daemon.deploy(&echo());
    books.keep_checkpoint(&daemon);
    let mut home = daemon.kill9();
    let (mut came, last) = (0, setting("MESH_FAULT_INDEX", INDEX));
    for nth in 1..=last {
        let (next, did) = one_life(home, &books, tool, fault, nth, &mut random);
        came += u64::from(did);
        home = next;
        if nth % LOOK_EVERY == 0 {
            let daemon = home.start();
            books.hold(&daemon, &format!("after {fault:?} up to {nth}"));
            home = daemon.kill9();
        }
    }
    assert!(came > 0, "the fault never came");
    no_panic(&home);
    let daemon = home.start();
    for number in 0..3 {
        let key = format!("sound-{number}");
        submit(daemon.client(), &books.ledger, &key, &task(&mut random));
    }
    books.hold(&daemon, "in the end");
    let tasks = books.close(&daemon);
    say(
        test,
        &format!("{fault:?}: {came} of {last} came, {tasks} acknowledged tasks"),
    );
    drop(daemon);
}

#[test]
fn a_write_that_fails_loses_nothing() {
    lives(
        "a_write_that_fails_loses_nothing",
        Fault::once(Call::Write, "eio"),
    );
}

#[test]
fn a_write_without_space_loses_nothing() {
    lives(
        "a_write_without_space_loses_nothing",
        Fault::once(Call::Write, "enospc"),
    );
}

#[test]
fn a_write_that_fails_half_way_loses_nothing() {
    lives(
        "a_write_that_fails_half_way_loses_nothing",
        Fault::once(Call::Write, "torn"),
    );
}

#[test]
fn a_short_write_is_gone_on_with() {
    lives(
        "a_short_write_is_gone_on_with",
        Fault::once(Call::Write, "short"),
    );
}

#[test]
fn kill_9_in_the_midst_of_a_write_loses_nothing() {
    lives(
        "kill_9_in_the_midst_of_a_write_loses_nothing",
        Fault::once(Call::Write, "die"),
    );
}

#[test]
fn kill_9_before_a_sync_loses_nothing() {
    lives(
        "kill_9_before_a_sync_loses_nothing",
        Fault::once(Call::Sync, "die"),
    );
}

#[test]
fn a_failed_sync_is_never_retried_and_loses_nothing() {
    lives(
        "a_failed_sync_is_never_retried_and_loses_nothing",
        Fault::once(Call::Sync, "eio"),
    );
}

#[test]
fn a_sync_without_space_is_never_retried_and_loses_nothing() {
    lives(
        "a_sync_without_space_is_never_retried_and_loses_nothing",
        Fault::once(Call::Sync, "enospc"),
    );
}

#[test]
fn a_disk_that_syncs_nothing_any_more_ends_the_mesh_and_loses_nothing() {
    lives(
        "a_disk_that_syncs_nothing_any_more_ends_the_mesh_and_loses_nothing",
        Fault::lasting(Call::Sync, "eio"),
    );
}

#[test]
fn a_disk_that_writes_nothing_any_more_ends_the_mesh_and_loses_nothing() {
    lives(
        "a_disk_that_writes_nothing_any_more_ends_the_mesh_and_loses_nothing",
        Fault::lasting(Call::Write, "eio"),
    );
}

#[test]
fn a_segment_that_cannot_be_allocated_loses_nothing() {
    for what in ["enospc", "eio"] {
        lives(
            "a_segment_that_cannot_be_allocated_loses_nothing",
            Fault::once(Call::Allocate, what),
        );
    }
}

#[test]
fn a_rename_that_fails_loses_nothing() {
    for what in ["enospc", "eio"] {
        lives(
            "a_rename_that_fails_loses_nothing",
            Fault::once(Call::Rename, what),
        );
    }
}
