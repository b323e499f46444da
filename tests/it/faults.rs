//! Faults of the host: what cannot be had, what is full, what is damaged. A clear error, the right exit code, no loss.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Ended, Home, eventually, is_root, skip};
use serde_json::json;

#[test]
fn a_port_in_use_is_a_conflict() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Home::new().listen(&address).run_to_end().exits(5);
    assert!(ended.err.contains(&address), "{}", ended.err);
    assert_eq!(ended.out, "");
}

#[test]
fn a_second_daemon_on_the_same_data_is_a_conflict_and_harms_nothing() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let second = Home::new()
        .data_at(daemon.home().data())
        .run_to_end()
        .exits(5);
    assert!(second.err.contains("in use"), "{}", second.err);
    let endpoint = fs::read_to_string(daemon.home().data().join("endpoint")).unwrap();
    assert_eq!(endpoint.trim(), daemon.url());
    assert_eq!(daemon.output("echo", &json!(1)), json!(1));
    assert_eq!(daemon.audit("kind=activated").len(), 1);
}

#[test]
fn bad_configuration_names_the_place_and_starts_nothing() {
    for (yaml, named) in [
        ("orchestrater: {}\n", &["orchestrater", "orchestrator"][..]),
        (
            "default_policy:\n  lifecycle:\n    max_crashes: many\n",
            &["default_policy.lifecycle.max_crashes"],
        ),
        (
            "api:\n  rate_limit:\n    burst: 0\n",
            &["api.rate_limit.burst"],
        ),
        (
            "supervision:\n  backof_max: 3s\n",
            &["supervision", "backof_max", "backoff_max"],
        ),
        ("listen: [\n", &["meshd.yaml"]),
    ] {
        let home = Home::new().config(yaml);
        let ended = home.run_to_end().exits(64);
        for name in named {
            assert!(ended.err.contains(name), "{name} in: {}", ended.err);
        }
        assert_eq!(ended.out, "");
        assert!(
            !home.data().exists(),
            "nothing is made by a start that does not happen"
        );
    }
    let home = Home::new().env("MESH_API__RATE_LIMIT__BURST", "lots");
    let ended = home.run_to_end().exits(64);
    assert!(
        ended.err.contains("MESH_API__RATE_LIMIT__BURST"),
        "{}",
        ended.err
    );

    let home = Home::new().config("orchestrater: {}\n");
    let mut check = home.command();
    check.args(["config", "--check", "--config", "meshd.yaml"]);
    Ended::of(check, Duration::from_secs(30)).exits(64);
}

/// The files of the log, below a data directory.
fn segments(data: &Path) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "seg") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(data, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no log below {}", data.display());
    found
}

/// A home with a log of some length.
fn with_history() -> Home {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    for n in 0..20 {
        daemon.output("echo", &json!(n));
    }
    daemon.kill9()
}

fn poke(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn data_of_a_newer_version_is_refused_untouched() {
    let home = with_history();
    for segment in segments(home.data()) {
        poke(&segment, 8, &99_u32.to_le_bytes());
    }
    let before: Vec<Vec<u8>> = segments(home.data())
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    let ended = home.run_to_end().exits(64);
    assert!(ended.err.contains("99"), "{}", ended.err);
    let after: Vec<Vec<u8>> = segments(home.data())
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert!(before == after, "the refused data was changed");
}

#[test]
fn damage_in_the_midst_of_the_log_is_refused_with_its_place_and_nothing_is_cut() {
    let home = with_history();
    let segment = segments(home.data()).remove(0);
    let bytes = fs::read(&segment).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let at = used / 2;
    poke(&segment, at as u64, &[bytes[at] ^ 0x10]);
    let damaged = fs::read(&segment).unwrap();
    let ended = home.run_to_end();
    assert!([1, 64, 70].contains(&ended.code), "{ended:?}");
    let name = segment.file_name().unwrap().to_string_lossy();
    assert!(
        ended.err.contains("damaged at byte") && ended.err.contains(&*name),
        "{}",
        ended.err
    );
    assert!(
        fs::read(&segment).unwrap() == damaged,
        "the damaged log was changed"
    );
    // Mended, it goes on.
    poke(&segment, at as u64, &[bytes[at]]);
    let daemon = home.start();
    assert_eq!(daemon.output("echo", &json!("mended")), json!("mended"));
}

/// A small file system of its own, until it is dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let options = format!("size={size},mode=755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(dir.to_owned()))
    }

    fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Takes all the space there is.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for chunk in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0x55; chunk]).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A home whose data lies on a small file system of its own.
pub(crate) fn on_tmpfs(test: &str, size: &str) -> Option<(Home, Tmpfs)> {
    if !is_root() {
        skip(test, "mounting takes root");
        return None;
    }
    let home = Home::new().config("journal:\n  segment_size: 512KiB\napi:\n  drain_timeout: 2s\n");
    let disk = home.scratch().join("disk");
    let Some(tmpfs) = Tmpfs::mount(&disk, size) else {
        skip(test, "a tmpfs cannot be mounted here");
        return None;
    };
    Some((home.data_at(&disk.join("data")), tmpfs))
}

#[test]
fn a_full_disk_refuses_new_work_with_its_reason_loses_nothing_and_resumes_by_itself() {
    let test = "a_full_disk_refuses_new_work_with_its_reason_loses_nothing_and_resumes_by_itself";
    let Some((home, disk)) = on_tmpfs(test, "96m") else {
        return;
    };
    let daemon = home.start();
    daemon.deploy(&Bundle::echo("echo"));
    let before = daemon.ask("echo", &json!("before"));
    disk.fill();
    let mut acknowledged = vec![before];
    let big = json!({"requirements": ["echo"], "input": "x".repeat(20_000)});
    let refused = eventually("new work is refused", Duration::from_mins(1), || {
        let answer = daemon.client().post("/v1/tasks", &big);
        match answer.status {
            202 => {
                acknowledged.push(answer.json()["id"].as_str().unwrap().to_owned());
                Err("taken".to_owned())
            }
            _ => Ok(answer),
        }
    });
    refused.problem(503, "read_only");
    assert!(refused.header("retry-after").is_some());
    let status = daemon.client().get("/status").ok(200);
    assert_eq!(status["accepting"], false, "{status}");
    assert!(
        status["refusingBecause"]
            .as_str()
            .is_some_and(|why| !why.is_empty()),
        "{status}"
    );
    daemon
        .ctl(&["task", "submit", "--requires", "echo"])
        .exits(75);

    disk.free();
    let after = eventually("it resumes by itself", Duration::from_mins(1), || {
        let answer = daemon.client().post(
            "/v1/tasks",
            &json!({"requirements": ["echo"], "input": "after"}),
        );
        if answer.status == 202 {
            Ok(answer)
        } else {
            Err(answer.text())
        }
    });
    acknowledged.push(after.json()["id"].as_str().unwrap().to_owned());
    for id in &acknowledged {
        assert_eq!(
            daemon.ended(id, Duration::from_mins(1))["state"],
            "succeeded"
        );
    }
    let daemon = daemon.kill9().start();
    for id in &acknowledged {
        assert_eq!(daemon.task(id)["state"], "succeeded");
    }
    let file = daemon.home().scratch().join("audit.jsonl");
    daemon
        .ctl(&["audit", "export", "--out", file.to_str().unwrap()])
        .exits(0);
    daemon
        .ctl(&["audit", "verify", file.to_str().unwrap()])
        .exits(0);
    drop(daemon);
}

#[test]
fn a_start_on_a_full_disk_says_try_again() {
    let Some((home, disk)) = on_tmpfs("a_start_on_a_full_disk_says_try_again", "16m") else {
        return;
    };
    disk.fill();
    let ended = home.run_to_end().exits(75);
    assert!(ended.err.to_lowercase().contains("space"), "{}", ended.err);
    disk.free();
    home.start();
}

#[test]
fn a_start_on_a_read_only_disk_says_try_again() {
    let test = "a_start_on_a_read_only_disk_says_try_again";
    let (home, _disk) = if is_root() {
        let Some((home, disk)) = on_tmpfs(test, "64m") else {
            return;
        };
        // Also with data from a life before.
        let (home, code) = home.start().stop(rustix::process::Signal::TERM);
        assert_eq!(code, 0);
        disk.remount("ro");
        (home, Some(disk))
    } else {
        let home = Home::new();
        let parent = home.scratch().join("closed");
        fs::create_dir(&parent).unwrap();
        fs::set_permissions(&parent, fs::Permissions::from_mode(0o555)).unwrap();
        (home.data_at(&parent.join("data")), None)
    };
    let ended = home.run_to_end().exits(75);
    let told = ended.err.to_lowercase();
    assert!(
        told.contains("read-only") || told.contains("permission"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains(home.data().to_str().unwrap()),
        "it names the directory: {}",
        ended.err
    );
}

#[test]
fn projections_that_are_damaged_or_gone_are_rebuilt() {
    let home = with_history();
    let mut wiped = 0;
    for entry in fs::read_dir(home.data()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("projection") {
            fs::remove_dir_all(entry.path()).unwrap();
            wiped += 1;
        }
    }
    assert_eq!(
        wiped, 1,
        "the projections lie in one directory of their own"
    );
    let daemon = home.start();
    let tasks = daemon
        .client()
        .get("/v1/tasks?limit=1000&state=succeeded")
        .ok(200);
    assert_eq!(tasks["items"].as_array().unwrap().len(), 20);
    assert_eq!(daemon.output("echo", &json!("rebuilt")), json!("rebuilt"));
}

#[test]
fn a_client_that_sends_half_a_request_and_waits_holds_up_nobody() {
    let daemon = Daemon::start();
    let address = daemon.url().strip_prefix("http://").unwrap();
    let mut half = Vec::new();
    for _ in 0..50 {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .write_all(b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n")
            .unwrap();
        half.push(stream);
    }
    let began = std::time::Instant::now();
    daemon.client().get("/status").ok(200);
    assert!(began.elapsed() < Duration::from_secs(5));
    // Garbage is answered, or the connection closed; the daemon lives.
    let mut garbage = std::net::TcpStream::connect(address).unwrap();
    garbage
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
        .unwrap();
    garbage
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut told = Vec::new();
    drop(garbage.read_to_end(&mut told));
    daemon.client().get("/healthz").ok(200);
}
