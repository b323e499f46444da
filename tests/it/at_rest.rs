//! Data at rest: unreadable without its key, on a file system of its own whose raw bytes are searched.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use mesh_tests::{
    Bundle, Daemon, Ended, FileSystem, Home, LoopDisk, binary, eventually, has_program, has_python,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Said in one place each, and searched for on the disk.
const MARKERS: [&str; 6] = [
    "Zk7-task-input-Zk7",
    "Zk7-memory-Zk7",
    "Zk7-message-Zk7",
    "Zk7-bundle-Zk7",
    "Zk7-home-file-Zk7",
    "zk7namezk7",
];

const WAITS: &str = "supervision:\n  stop_timeout: 2s\napi:\n  drain_timeout: 2s\n";

/// A home whose data directory lies on the disk, and is encrypted under a key beside the home.
fn home(disk: &LoopDisk) -> Home {
    let home = Home::new().data_at(&disk.place().join("data"));
    let storage = required(&home, "storage.key");
    home.config(&storage)
}

fn required(home: &Home, key: &str) -> String {
    let key = home.scratch().join(key);
    format!(
        "{WAITS}storage:\n  encryption: required\n  key_file: {}\n",
        key.display()
    )
}

/// Something of everything, with a marker in each; what the agent answers.
fn fill(daemon: &Daemon) -> Value {
    // The name of the agent is that of directories.
    let script = format!(
        "# {}\necho '{}' > \"$HOME/note\"; ln \"$HOME/note\" \"$HOME/second\"; mkdir -p \"$HOME/deep\"; mv \"$HOME/second\" \"$HOME/deep/\"; cat",
        MARKERS[3], MARKERS[4]
    );
    let bundle = Bundle::command(MARKERS[5], &script)
        .set("memory", json!({"type": "persistent"}))
        .set("capabilities", json!(["keep"]));
    daemon.deploy(&bundle);
    let remembered = json!({"value": MARKERS[1]}).to_string();
    let json_type = [("content-type", "application/json")];
    let path = format!("/v1/memory/{}/seen", MARKERS[5]);
    let put = daemon
        .client()
        .send("PUT", &path, &json_type, Some(remembered.as_bytes()));
    assert!(put.status < 300, "{}", put.text());
    let message = json!({
        "type": "PUBLISH", "to": "topic://at.rest",
        "payload": {"topic": "at.rest", "data": {"text": MARKERS[2]}},
    });
    let posted = daemon.client().post("/v1/messages", &message);
    assert!(posted.status < 300, "{}", posted.text());
    daemon.output(
        "keep",
        &json!({"text": MARKERS[0], "more": "y".repeat(40_000)}),
    )
}

/// An input that lies in the content store.
fn large() -> Value {
    json!({"text": MARKERS[0], "more": "y".repeat(40_000)})
}

/// The markers that stand somewhere on the disk.
fn found(disk: &LoopDisk) -> Vec<&'static str> {
    let raw = disk.raw();
    let text = String::from_utf8_lossy(&raw);
    let stands = |marker: &&&str| text.contains(**marker);
    MARKERS.iter().filter(stands).copied().collect()
}

/// Names of the directory, and whether any file below it opens.
#[track_caller]
fn locked(data: &Path) {
    let names: Vec<String> = fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!names.is_empty(), "what is there is still there");
    for known in ["journal", "home", "token", "node.key"] {
        assert!(!names.iter().any(|name| name == known), "{names:?}");
    }
    for name in &names {
        let path = data.join(name);
        let readable = path.is_file() && fs::read(&path).is_ok();
        assert!(!readable, "{} can be read", path.display());
    }
    assert!(fs::write(data.join("new"), "x").is_err(), "it is locked");
}

#[test]
fn what_agents_were_told_and_wrote_is_nowhere_on_the_disk_and_is_back_with_the_key() {
    let test = "what_agents_were_told_and_wrote_is_nowhere_on_the_disk_and_is_back_with_the_key";
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    let daemon = home(&disk).start();
    let told = fill(&daemon);
    let status = daemon.client().get("/status").ok(200);
    assert_eq!(status["encryption"]["level"], "kernel", "{status}");
    let begun = daemon.audit("kind=node.started");
    assert_eq!(
        begun[0]["payload"]["encryption"]["level"], "kernel",
        "{begun:?}"
    );
    assert!(daemon.ctl(&["status"]).exits(0).out.contains("fscrypt"));
    let mut doctor = daemon.home().command();
    doctor.args(["doctor", "-o", "json", "--data"]);
    doctor.arg(daemon.home().data());
    let examined = Ended::of(doctor, Duration::from_secs(30));
    let examined: Value = serde_json::from_str(&examined.out).unwrap();
    let finding = examined["findings"].as_array().unwrap().iter();
    let finding = finding
        .clone()
        .find(|finding| finding["name"] == "encryption");
    assert_eq!(finding.unwrap()["verdict"], "good", "{examined}");
    assert_eq!(found(&disk), [""; 0], "while it runs");
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    locked(home.data());
    assert_eq!(found(&disk), [""; 0], "when it has ended");
    disk.mount_again();
    locked(home.data());

    let daemon = home.start();
    assert_eq!(
        daemon.output(
            "keep",
            &json!({"text": MARKERS[0], "more": "y".repeat(40_000)})
        ),
        told
    );
    let path = format!("/v1/memory/{}/seen", MARKERS[5]);
    assert_eq!(daemon.client().get(&path).ok(200)["value"], MARKERS[1]);
    let archive = daemon.home().scratch().join("backup.tar");
    let archive = archive.to_str().unwrap();
    daemon
        .ctl(&["backup", "--out", archive, "--include-key"])
        .exits(0);
    let log = daemon.home().log();
    let key = fs::read_to_string(daemon.home().scratch().join("storage.key")).unwrap();
    assert!(!log.contains(key.trim()), "the key is in the log");
    for place in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{place}", daemon.pid())).unwrap();
        assert!(
            !String::from_utf8_lossy(&text).contains(key.trim()),
            "{place}"
        );
    }
}

#[test]
fn without_encryption_the_same_search_finds_all_of_it_and_the_status_says_none() {
    let test = "without_encryption_the_same_search_finds_all_of_it_and_the_status_says_none";
    let Some(disk) = LoopDisk::mount(test, FileSystem::Ext4) else {
        return;
    };
    let home = Home::new().data_at(&disk.place().join("data"));
    let daemon = home.start();
    fill(&daemon);
    let status = daemon.client().get("/status").ok(200);
    assert_eq!(status["encryption"]["level"], "none", "{status}");
    assert_eq!(found(&disk), MARKERS);
}

#[test]
fn a_killed_daemon_leaves_its_key_until_it_is_taken_away_or_the_next_start() {
    let test = "a_killed_daemon_leaves_its_key_until_it_is_taken_away_or_the_next_start";
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    let daemon = home(&disk).start();
    let told = fill(&daemon);
    // Nobody takes the key from under a running daemon: neither the verb nor a second one.
    daemon.home().storage("lock").exits(5);
    daemon.home().storage("encrypt").exits(5);
    let other = daemon.home().run_to_end();
    assert_eq!(other.code, 5, "{}", other.err);
    assert_eq!(
        daemon.output(
            "keep",
            &json!({"text": MARKERS[0], "more": "y".repeat(40_000)})
        ),
        told
    );

    let home = daemon.kill9();
    assert!(
        home.data().join("token").is_file(),
        "the kernel has it still"
    );
    eventually("the key is taken away", Duration::from_secs(10), || {
        let ended = home.storage("lock");
        let names = fs::read_dir(home.data()).unwrap();
        let readable = names.flatten().any(|entry| entry.file_name() == "token");
        match (ended.code, readable) {
            (0, false) => Ok(()),
            seen => Err(format!("{seen:?} {}", ended.err)),
        }
    });
    locked(home.data());
    let daemon = home.start();
    assert_eq!(
        daemon.output(
            "keep",
            &json!({"text": MARKERS[0], "more": "y".repeat(40_000)})
        ),
        told
    );
    let daemon = daemon.kill9().start();
    assert_eq!(daemon.output("keep", &json!({"text": "t"}))["text"], "t");
    assert_eq!(found(&disk), [""; 0]);
}

#[test]
fn what_cannot_be_encrypted_or_opened_is_refused_with_its_reason_and_changes_nothing() {
    let test = "what_cannot_be_encrypted_or_opened_is_refused_with_its_reason_and_changes_nothing";
    let (Some(able), Some(unable)) = (
        LoopDisk::mount(test, FileSystem::EncryptingExt4),
        LoopDisk::mount(test, FileSystem::Ext4),
    ) else {
        return;
    };
    let refused = |home: &Home, words: &str| {
        let ended = home.run_to_end().exits(64);
        assert!(ended.err.contains(words), "{words:?} in {}", ended.err);
    };
    // A file system without it, its root, and a key in what it opens.
    let home = home(&unable);
    refused(&home, "tune2fs -O encrypt");
    assert_eq!(fs::read_dir(home.data()).unwrap().count(), 0);
    let home = home.data_at(able.place());
    refused(&home, "root of its file system");
    let home = home.data_at(&able.place().join("data"));
    let inside = format!(
        "{WAITS}storage:\n  encryption: required\n  key_file: {}\n",
        home.data().join("key").display()
    );
    let home = home.config(&inside);
    refused(&home, "lies in the directory that it opens");
    let home = home.config("storage:\n  encryption: required\n");
    refused(&home, "storage.encryption");

    // Plain data stays as it is.
    let plain = able.place().join("plain");
    let home = home.config(WAITS).data_at(&plain);
    let (home, _) = home.start().stop(Signal::TERM);
    let config = required(&home, "storage.key");
    let home = home.config(&config);
    refused(&home, "meshd storage encrypt");
    assert!(plain.join("token").is_file());

    // Another key, none, a passphrase instead; then the right one again.
    let home = home.data_at(&able.place().join("data"));
    let (home, _) = home.start().stop(Signal::TERM);
    let key = home.scratch().join("storage.key");
    let kept = home.scratch().join("kept.key");
    let other = home.config(&config.replace("storage.key", "other.key"));
    fs::write(other.scratch().join("other.key"), "5a".repeat(32)).unwrap();
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(other.scratch().join("other.key"), mode).unwrap();
    refused(&other, "is not the one that");
    let home = other.config(&config);
    fs::rename(&key, &kept).unwrap();
    refused(&home, "cannot be read");
    let home = home.config(WAITS);
    refused(&home, "set it to required");
    locked(home.data());
    fs::rename(&kept, &key).unwrap();
    drop(home.config(&config).start());
}

#[test]
fn plain_data_is_moved_in_with_homes_and_all_and_the_plain_copy_is_named() {
    let test = "plain_data_is_moved_in_with_homes_and_all_and_the_plain_copy_is_named";
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    let home = Home::new().data_at(&disk.place().join("data"));
    let daemon = home.start();
    let told = fill(&daemon);
    let records = daemon.client().get("/status").ok(200)["journal"]["records"].clone();
    assert!(daemon.home().storage("encrypt").code != 0, "it runs");
    let (home, _) = daemon.stop(Signal::TERM);
    home.storage("encrypt").exits(64);
    let config = required(&home, "storage.key");
    let home = home.config(&config);
    let said = home.storage("encrypt").exits(0);
    assert!(said.out.contains("data.plain"), "{}", said.out);
    locked(home.data());
    let plain = disk.place().join("data.plain");
    assert!(
        plain.join("token").is_file(),
        "the plain data is the operator's to remove"
    );
    let again = home.storage("encrypt").exits(0);
    assert!(again.out.contains("already"), "{}", again.out);
    // As if the machine had stopped after the two had changed names: the rest is made up for.
    fs::rename(&plain, disk.place().join("data.encrypting")).unwrap();
    home.storage("encrypt").exits(0);
    fs::remove_dir_all(&plain).unwrap();

    let daemon = home.start();
    let now = daemon.client().get("/status").ok(200);
    assert!(
        now["journal"]["records"].as_u64() > records.as_u64(),
        "{now}"
    );
    assert_eq!(now["encryption"]["level"], "kernel", "{now}");
    assert_eq!(
        daemon.output(
            "keep",
            &json!({"text": MARKERS[0], "more": "y".repeat(40_000)})
        ),
        told
    );
    let homes = daemon.home().data().join("home/agents");
    let mut notes = Vec::new();
    collect(&homes, "note", &mut notes);
    assert!(!notes.is_empty(), "the home came along");
}

#[test]
fn moving_in_that_is_killed_leaves_all_of_it_and_is_taken_up_again() {
    let test = "moving_in_that_is_killed_leaves_all_of_it_and_is_taken_up_again";
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    let home = Home::new().data_at(&disk.place().join("data"));
    let daemon = home.start();
    let told = fill(&daemon);
    let (home, _) = daemon.stop(Signal::TERM);
    let config = required(&home, "storage.key");
    let mut home = home.config(&config);
    // What is not of its making is in the way, and stays.
    let copy = disk.place().join("data.encrypting");
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("mine"), "x").unwrap();
    let refused = home.storage("encrypt").exits(64);
    assert!(refused.err.contains("is in the way"), "{}", refused.err);
    fs::remove_file(copy.join("mine")).unwrap();
    for after in [1, 5, 10, 20, 40, 80, 160] {
        home = home.storage_and_kill9("encrypt", Duration::from_millis(after));
        // Either the plain one or the encrypted one has the name, and is whole.
        assert!(home.data().is_dir());
    }
    eventually("it is moved in", Duration::from_secs(30), || {
        let ended = home.storage("encrypt");
        match ended.code {
            0 => Ok(()),
            5 => Err(ended.err),
            code => panic!("{code}: {}", ended.err),
        }
    });
    assert!(!copy.exists());
    let daemon = home.start();
    assert_eq!(daemon.output("keep", &large()), told);
    let status = daemon.client().get("/status").ok(200);
    assert_eq!(status["encryption"]["level"], "kernel", "{status}");
}

fn collect(dir: &Path, name: &str, into: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, name, into);
        } else if entry.file_name() == name {
            into.push(path);
        }
    }
}

#[test]
fn a_passphrase_opens_it_too() {
    let test = "a_passphrase_opens_it_too";
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    let home = Home::new().data_at(&disk.place().join("data"));
    let phrase = home.scratch().join("phrase");
    fs::write(&phrase, "correct horse battery staple").unwrap();
    fs::set_permissions(&phrase, fs::Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "{WAITS}storage:\n  encryption: required\n  passphrase_file: {}\n",
        phrase.display()
    );
    let (home, _) = home.config(&config).start().stop(Signal::TERM);
    locked(home.data());
    fs::write(&phrase, "correct horse battery stable").unwrap();
    let ended = home.run_to_end().exits(64);
    assert!(ended.err.contains("is not the one that"), "{}", ended.err);
    assert!(!ended.err.contains("battery"), "{}", ended.err);
    fs::write(&phrase, "correct horse battery staple").unwrap();
    drop(home.start());
}

/// Asks for the policy of its home, and then tries to take away the key that it names, as itself and for everybody.
const TAKES_THE_KEY: &str = r#"
import ctypes as c, json, os, struct
libc = c.CDLL(None, use_errno=True)
home = os.open(os.environ["HOME"], os.O_RDONLY)
policy = c.create_string_buffer(struct.pack("<Q", 24) + bytes(24), 32)
assert libc.ioctl(home, c.c_ulong(0xc0096616), policy) == 0, os.strerror(c.get_errno())
key = policy.raw[16:32]
def take(request):
    asked = c.create_string_buffer(struct.pack("<II32sI", 2, 0, key, 0) + bytes(20), 64)
    return c.get_errno() if libc.ioctl(home, c.c_ulong(request), asked) else 0
print(json.dumps({"errno": [take(0xc0406618), take(0xc0406619)]}))
"#;

#[test]
fn an_ordinary_user_s_data_is_encrypted_too() {
    let test = "an_ordinary_user_s_data_is_encrypted_too";
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    if !has_program(test, "setpriv") {
        return;
    }
    let user = 64_321;
    let own = disk.place().join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(user), Some(user)).unwrap();
    let open = || fs::Permissions::from_mode(0o755);
    fs::set_permissions(disk.place().parent().unwrap(), open()).unwrap();
    let home = Home::new().data_at(&own.join("data"));
    let config = required(&home, "storage.key");
    let home = home.config(&config);
    // The build directory may be closed to others.
    let meshd = home.scratch().join("meshd");
    fs::copy(binary("meshd"), &meshd).unwrap();
    chown(home.scratch(), Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(home.scratch()).unwrap().flatten() {
        chown(entry.path(), Some(user), Some(user)).unwrap();
    }
    fs::set_permissions(&meshd, open()).unwrap();
    let number = user.to_string();
    let run = format!("shift; exec {} \"$@\"", meshd.display());
    let words = ["setpriv", "--reuid", &number, "--regid", &number];
    let rest = ["--clear-groups", "--inh-caps=-all", "sh", "-c", &run, "sh"];
    let daemon = home.through(&[&words[..], &rest[..]].concat()).start();
    let told = fill(&daemon);
    // To the kernel the agent is meshd's own user, who may take back the key that they gave.
    if has_python(test) {
        let taker = Bundle::command("taker", &format!("python3 -c '{TAKES_THE_KEY}'"));
        daemon.deploy(&taker.set("capabilities", json!(["take"])));
        let taken = daemon.output("take", &json!({}));
        assert_eq!(taken["errno"], json!([1, 1]), "{taken}");
        assert_eq!(daemon.output("keep", &large()), told);
    }
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
    locked(home.data());
    assert_eq!(found(&disk), [""; 0]);
    let daemon = home.start();
    assert_eq!(daemon.output("keep", &large()), told);
}
