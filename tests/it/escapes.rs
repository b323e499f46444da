//! What meshd itself must withstand: the rows of the table of escapes (`sandbox/tests/escapes/`) that are no attempt of a
//! program inside but of meshd's own doing, by their numbers; and what holds for agents while they run.

use std::path::Path;
use std::time::{Duration, Instant};

use mesh_tests::{
    Bundle, Daemon, Home, Marker, descendants, eventually, has_python, is_root, marked, skip,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A script per task; its words are its result.
fn command(id: &str, script: &str) -> Bundle {
    Bundle::command(id, script)
}

fn has_event(daemon: &Daemon, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut found = Value::Null;
    eventually(kind, SOON, || {
        let entries = daemon.audit(&format!("kind={kind}"));
        match entries.iter().find(|entry| fits(&entry["payload"])) {
            Some(entry) => {
                found = entry["payload"].clone();
                Ok(())
            }
            None => Err(format!("{entries:?}")),
        }
    });
    found
}

/// A process below the daemon that uses processor time as long as it may.
const SPINNER: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"spin","version":"1.0.0","capabilities":["spin"]}}'
( while :; do :; done ) &
while read -r line; do
  case "$line" in
    *TASK_REQUEST*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      echo "{\"type\":\"TASK_RESULT\",\"task_id\":\"$task\",\"payload\":{\"ok\":true,\"output\":1}}" ;;
    *shutdown*) exit 0 ;;
  esac
done
"#;

/// Processor ticks of everything below the daemon.
fn ticks(daemon: &Daemon) -> u64 {
    descendants(daemon.pid())
        .iter()
        .filter_map(|process| std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).ok())
        .filter_map(|stat| {
            let fields: Vec<String> = stat
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        })
        .sum()
}

#[test]
fn a_paused_agent_stands_still_and_goes_on_where_it_was() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::shell("spin", SPINNER));
    eventually("it spins", SOON, || {
        let used = ticks(&daemon);
        if used > 5 {
            Ok(())
        } else {
            Err(format!("{used}"))
        }
    });
    let epoch = daemon.status("spin")["epoch"].clone();
    daemon.ctl(&["agent", "pause", "spin"]).exits(0);
    let frozen = has_event(&daemon, "instance.frozen", |payload| {
        payload["frozen"] == true
    });
    assert!(
        ["kernel", "advisory"].contains(&frozen["level"].as_str().unwrap()),
        "{frozen}"
    );
    let shown = &daemon.status("spin")["instances"][0];
    assert_eq!(shown["frozen"], frozen["level"], "{shown}");
    let before = ticks(&daemon);
    let waiting = daemon.ask("spin", &json!(1));
    let task = daemon
        .client()
        .get(&format!("/v1/tasks/{waiting}?wait=700ms"))
        .ok(200);
    assert_ne!(task["state"], "succeeded", "a paused agent gets no work");
    assert!(
        ticks(&daemon) <= before + 1,
        "it used processor time while it was paused"
    );

    daemon.ctl(&["agent", "resume", "spin"]).exits(0);
    assert_eq!(daemon.ended(&waiting, SOON)["state"], "succeeded");
    assert_eq!(
        daemon.status("spin")["epoch"],
        epoch,
        "it is the same incarnation"
    );
    assert!(
        daemon.status("spin")["instances"][0]
            .get("frozen")
            .is_none()
    );
    // One that stands still is ended like any other.
    daemon.ctl(&["agent", "pause", "spin"]).exits(0);
    eventually("it stands still again", SOON, || {
        let shown = daemon.status("spin")["instances"][0].clone();
        shown["frozen"]
            .is_string()
            .then_some(())
            .ok_or_else(|| shown.to_string())
    });
    daemon.ctl(&["agent", "stop", "spin"]).exits(0);
    daemon.gone("spin", SOON);
    // And one that is started while it is paused stands still as soon as it serves.
    daemon.ctl(&["agent", "start", "spin"]).exits(0);
    eventually("the next one stands still", SOON, || {
        let shown = daemon.status("spin")["instances"][0].clone();
        if shown["frozen"].is_string() {
            Ok(())
        } else {
            Err(shown.to_string())
        }
    });
}

#[test]
fn limits_are_changed_while_an_agent_runs_and_that_is_on_record() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let first = daemon.status("echo")["instances"][0].clone();
    assert_eq!(first["limits"]["memoryBytes"], 512_000_000, "{first}");
    // Several in a row, faster than they are carried out: the last one holds.
    for memory in [96, 160, 112, 128] {
        let policy = json!({"agents": {"echo": {"resource_limits": {"memory": format!("{memory}MiB"), "cpu": 0.5, "pids": 40, "disk": "64MiB"}}}});
        let answer = daemon.client().send(
            "PUT",
            "/v1/policies",
            &[("content-type", "application/json")],
            Some(policy.to_string().as_bytes()),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let changed = has_event(&daemon, "limits.changed", |payload| {
        payload["limits"]["memoryBytes"] == 128 << 20
    });
    let limits =
        json!({"cpuMillicores": 500, "memoryBytes": 128 << 20, "pids": 40, "diskBytes": 64 << 20});
    assert_eq!(changed["limits"], limits, "{changed}");
    let now = daemon.status("echo")["instances"][0].clone();
    assert_eq!(
        (&now["limits"], &now["epoch"]),
        (&limits, &first["epoch"]),
        "without a restart"
    );
    let records = daemon.audit("kind=limits.changed");
    assert_eq!(
        records.last().unwrap()["payload"]["limits"],
        limits,
        "the last record is of the last change"
    );
    // What the record says is what the kernel has.
    let pid = now["pid"].to_string();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let ours: Vec<&str> = groups
        .lines()
        .filter(|line| line.contains("meshd-"))
        .collect();
    let held = changed["not_yet"]
        .as_array()
        .map_or(3, |late| 3 - late.len());
    if held == 0 {
        return skip(
            "limits_are_changed_while_an_agent_runs_and_that_is_on_record",
            "no control group can be had here; the record says so",
        );
    }
    let read = |controller: &str, files: [&str; 2]| {
        let line = ours.iter().find(|line| {
            line.split(':')
                .nth(1)
                .unwrap()
                .split(',')
                .any(|one| one == controller)
        })?;
        let path = line.rsplit(':').next()?;
        let v1 = Path::new("/sys/fs/cgroup")
            .join(controller)
            .join(path.trim_start_matches('/'))
            .join(files[0]);
        std::fs::read_to_string(v1).ok()
    };
    if let Some(bytes) = read("memory", ["memory.limit_in_bytes", "memory.max"]) {
        assert_eq!(bytes.trim(), (128 << 20).to_string());
    }
    if let Some(tasks) = read("pids", ["pids.max", "pids.max"]) {
        assert_eq!(tasks.trim(), "42", "and the sandbox's own two");
    }
}

#[test]
fn a_home_that_grows_beyond_its_limit_ends_its_agent_with_a_record() {
    let daemon = Daemon::start();
    let script = "i=0; while :; do i=$((i+1)); head -c 1m /dev/zero > ~/part$i; sleep 0.02; done";
    daemon.deploy(
        &command("filler", script).set("policy", json!({"resource_limits": {"disk": "16MiB"}})),
    );
    let task = daemon
        .submit(&json!({"requirements": ["filler"], "input": {}, "retry": {"maxAttempts": 1}}));
    let breach = has_event(&daemon, "limit.breached", |payload| {
        payload["breach"]["limit"] == "disk"
    });
    assert_eq!(breach["breach"]["action"], "end", "{breach}");
    assert_eq!(breach["breach"]["allowed"], 16 << 20, "{breach}");
    assert!(
        breach["breach"]["seen"].as_u64().unwrap() > 16 << 20,
        "{breach}"
    );
    let ended = daemon.ended(&task, SOON);
    assert_ne!(ended["state"], "succeeded");
    assert_eq!(
        ended["attempts"][0]["error"]["class"], "resource",
        "{ended}"
    );
}

#[test]
fn processes_that_the_kernel_refuses_are_on_record_and_harm_nobody() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("neighbour"));
    // A shell that cannot fork ends, so each tries in one of its own.
    let script = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); (sleep 6 & sleep 6 & sleep 6 & sleep 6 &) ; done 2>/dev/null; sleep 6; echo done";
    daemon
        .deploy(&command("forker", script).set("policy", json!({"resource_limits": {"pids": 16}})));
    let view = daemon.client().get("/v1/agents/forker/sandbox").ok(200);
    let grouped = view["controls"].as_array().unwrap().iter().any(|one| {
        one["control"] == "pids" && one["mechanism"].as_str().unwrap().starts_with("cgroup")
    });
    daemon.submit(&json!({"requirements": ["forker"], "input": {}}));
    assert_eq!(daemon.output("echo", &json!(7)), json!(7));
    if !grouped {
        return skip(
            "processes_that_the_kernel_refuses_are_on_record_and_harm_nobody",
            "no control group counts processes here",
        );
    }
    let breach = has_event(&daemon, "limit.breached", |payload| {
        payload["breach"]["limit"] == "pids"
    });
    assert_eq!(
        (&breach["breach"]["action"], &breach["breach"]["allowed"]),
        (&json!("held"), &json!(16))
    );
}

/// Forks as fast as it can, as a program does that wants to outrun whoever stops it.
const STORM: &str = r#"
import os, time, sys
MARK = sys.argv[1]
def child():
    while True:
        if os.fork() == 0:
            os.setsid()
            continue
        time.sleep(0.001)
        os._exit(0)
print('{"type":"HANDSHAKE","payload":{"name":"storm","version":"1.0.0","capabilities":["storm"]}}', flush=True)
for _ in range(20):
    if os.fork() == 0:
        child()
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(1)
"#;

/// What a quarantine may take, from the order to its answer, when nothing is left alive.
const QUARANTINE_MAX: Duration = Duration::from_secs(1);
/// Storms that are tried. Other work on the machine only ever adds time, so one in time shows what it takes.
const STORMS: usize = 3;

#[test]
fn a_quarantine_holds_within_a_second_under_a_storm_of_forks() {
    let test = "a_quarantine_holds_within_a_second_under_a_storm_of_forks";
    if !has_python(test) {
        return;
    }
    let mut times = Vec::new();
    while times.len() < STORMS {
        let took = quarantine_in_a_storm();
        times.push(took);
        if took <= QUARANTINE_MAX {
            return;
        }
    }
    panic!("each took longer than {QUARANTINE_MAX:?}: {times:?}");
}

/// How long it took until nothing of the storm was left.
fn quarantine_in_a_storm() -> Duration {
    let marker = Marker::new();
    let daemon = Daemon::start();
    let mark = marker.as_str();
    daemon.deploy(
        &Bundle::new("storm")
            .file("storm.py", STORM)
            .set("entry", json!("storm.py"))
            .set(
                "runtime",
                json!({"command": "python3", "args": ["storm.py", mark], "env": {"IT_MARK": mark}}),
            ),
    );
    eventually("the storm blows", SOON, || {
        let count = marked(mark).len();
        if count > 10 {
            Ok(())
        } else {
            Err(format!("{count}"))
        }
    });
    let order = json!({"type": "manual", "description": "a storm", "severity": "high"});
    let asked = Instant::now();
    daemon
        .client()
        .post("/v1/agents/storm/quarantine", &order)
        .ok(200);
    let took = asked.elapsed();
    assert_eq!(marked(mark), [], "alive in quarantine");
    assert_eq!(daemon.status("storm")["status"], "quarantined");
    took
}

/// What lies in the data directory, and what the kernel has, of an agent.
fn remains(daemon: &Daemon, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    let homes = daemon.home().data().join("home/agents");
    for persona in std::fs::read_dir(homes).into_iter().flatten().flatten() {
        for home in std::fs::read_dir(persona.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if home.file_name().to_string_lossy().starts_with(id) {
                found.push(home.path().display().to_string());
            }
        }
    }
    let run = daemon.home().data().join("run");
    for record in std::fs::read_dir(run).into_iter().flatten().flatten() {
        if record.file_name().to_string_lossy().contains(id) {
            found.push(record.path().display().to_string());
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(id))
            .map(str::to_owned),
    );
    let groups = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{id}*")])
        .output()
        .unwrap();
    found.extend(
        String::from_utf8_lossy(&groups.stdout)
            .lines()
            .map(str::to_owned),
    );
    found
}

/// res-14, res-15: what an agent leaves in its home is gone with it, however it is nested, wherever its links lead, whatever
/// kind of file it is and however it is called; and a FIFO without a writer holds nobody up who looks.
#[test]
fn nothing_is_left_of_an_agent_that_is_removed() {
    let daemon = Daemon::start();
    let id = format!("leftover{}", std::process::id());
    let script = "cd; ln -s . loop; ln -s / root; mkdir -p a/b; mkfifo pipe; ln pipe again; i=0
        : > $(printf 'n%.0s' $(seq 255)); : > \"$(printf 'a\\nb\\033[2J')\"; truncate -s 500M sparse; mknod zero c 1 5 2>/dev/null
        d=$(printf 'd%.0s' $(seq 200)); while [ $i -lt 60 ]; do mkdir $d; cd -P $d 2>/dev/null || break; i=$((i+1)); done
        chmod 0 . 2>/dev/null; echo STARTED";
    daemon.deploy(&command(&id, script));
    assert_eq!(daemon.output(&id, &json!({}))["text"], "STARTED\n");
    assert!(
        remains(&daemon, &id)
            .iter()
            .any(|path| path.contains("home/agents"))
    );
    daemon
        .client()
        .send("DELETE", &format!("/v1/agents/{id}"), &[], None);
    eventually("nothing is left", SOON, || {
        let left = remains(&daemon, &id);
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
    assert!(Path::new("/usr/bin").exists());
}

/// daemon-11, daemon-12: no two agents are one user, and a user is not given again while another's files could be left.
#[test]
fn users_are_given_once() {
    if !is_root() {
        return skip("users_are_given_once", "meshd may not switch users here");
    }
    let daemon = Daemon::start();
    let uid = |id: &str| {
        daemon.deploy(&Bundle::echo(id));
        daemon.status(id)["instances"][0]["uid"].as_u64().unwrap()
    };
    // Other daemons on this machine have agents, too.
    let names = ["one", "two", "three"].map(|name| format!("{name}{}", std::process::id()));
    let (one, two) = (uid(&names[0]), uid(&names[1]));
    assert_ne!(one, two);
    for id in &names[..2] {
        daemon
            .client()
            .send("DELETE", &format!("/v1/agents/{id}"), &[], None);
    }
    eventually("both are gone", SOON, || {
        let left = [remains(&daemon, &names[0]), remains(&daemon, &names[1])].concat();
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
    // A file that `one` made where it was allowed to would be the next agent's.
    let three = uid(&names[2]);
    assert!(
        three != one && three != two,
        "{three} was {one} or {two} before"
    );
    drop(daemon);
}

/// secret-06, secret-08: another agent does not have it, and a log does not show it.
#[test]
fn a_secret_that_an_agent_prints_is_blotted_out_in_its_log() {
    let daemon = Daemon::start();
    let word = "correct-horse-battery-staple";
    let value = json!({"value": word, "agents": ["leaky"]});
    let headers = [("content-type", "application/json")];
    daemon.client().send(
        "PUT",
        "/v1/secrets/db",
        &headers,
        Some(value.to_string().as_bytes()),
    );
    let mount = json!([{"name": "db-password", "from": "vault://db", "mode": "mount"}]);
    let script = "cat /run/secrets/* 2>&1 | sed 's/^/it is /' >&2; echo ok";
    daemon.deploy(&command("leaky", script).set("secrets", mount));
    daemon.deploy(&command("other", script));
    daemon.output("leaky", &json!({}));
    daemon.output("other", &json!({}));
    eventually("the line is in the log", SOON, || {
        let log = daemon.client().get("/v1/agents/leaky/logs").text();
        if log.contains("it is [secret db-password]") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let logs =
        ["leaky", "other"].map(|id| daemon.client().get(&format!("/v1/agents/{id}/logs")).text());
    assert!(!logs.concat().contains(word), "{logs:?}");
    // secret-07: nor does anything else that meshd keeps, when it has ended.
    let (home, _) = daemon.stop(rustix::process::Signal::TERM);
    assert!(!home.log().contains(word));
    assert_eq!(
        files_with(home.data(), word),
        Vec::<std::path::PathBuf>::new()
    );
}

fn files_with(dir: &Path, word: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, word));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes
                .windows(word.len())
                .any(|part| part == word.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

/// stdio-03, stdio-04, stdio-05, daemon-15: what an agent writes is data, whatever it is.
#[test]
fn nothing_that_an_agent_writes_harms_whoever_reads_it() {
    if !has_python("nothing_that_an_agent_writes_harms_whoever_reads_it") {
        return;
    }
    let daemon = Daemon::start();
    let bytes = r"\xff\xfe\xc0\x80\x00\xed\xa0\x80\x1b]0;pwn\x07\x1b[2J\r\n";
    let script = format!(
        "import sys\nsys.stderr.buffer.write(b'{bytes}')\nsys.stderr.flush()\ncase = sys.stdin.read()\n\
         print('['*200000 if 'depth' in case else '{{\"a\":1e999999}}' if 'number' in case else '{{\"at\":\"9999-12-31T23:59:59Z\"}}')\n"
    );
    daemon.deploy(
        &Bundle::new("writer")
            .file("writer.py", &script)
            .set("entry", json!("writer.py"))
            .set("runtime", json!({"kind": "command", "command": "python3"})),
    );
    for case in ["depth", "number", "time"] {
        let id = daemon.submit(
            &json!({"requirements": ["writer"], "input": case, "retry": {"maxAttempts": 1}}),
        );
        let task = daemon.ended(&id, SOON);
        assert!(
            ["succeeded", "failed", "dead_lettered"].contains(&task["state"].as_str().unwrap()),
            "{task}"
        );
        // Whatever it says, the times of its task are meshd's.
        assert!(
            !task["endedAt"].as_str().unwrap().starts_with("9999"),
            "{task}"
        );
    }
    let shown = daemon.ctl(&["agent", "logs", "writer"]);
    let text = format!("{shown:?}");
    assert!(
        !shown.out.contains('\u{1b}') && !shown.out.contains('\u{7}') && !shown.out.contains('\0'),
        "{text}"
    );
    assert_eq!(daemon.client().get("/healthz").status, 200);
}

/// daemon-14: an agent has no socket to meshd on which it could pass descriptors, only three pipes.
#[test]
fn an_agent_has_nothing_to_pass_descriptors_through() {
    let daemon = Home::new().start();
    let script = "for fd in 0 1 2; do readlink /proc/self/fd/$fd; done; ls /proc/self/fd | wc -l";
    daemon.deploy(&command("ends", script));
    let text = daemon.output("ends", &json!({}))["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[..3].iter().all(|line| line.starts_with("pipe:")),
        "{text}"
    );
    // The fourth is the one with which `ls` looks.
    assert_eq!(lines[3].trim(), "4", "{text}");
}
