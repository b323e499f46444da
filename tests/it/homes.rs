//! Homes that are file systems of their own (`sandbox.homes: image`): what the kernel then holds, what is left of them, and what
//! is said where there are none.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::{
    Bundle, Daemon, FileSystem, Home, LoopDisk, binary, eventually, has_program, is_root, skip,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A user that no machine gives to anybody.
const USER: u32 = 6_171;

const SOON: Duration = Duration::from_secs(20);

const IMAGES: &str = "sandbox:\n  homes: image\n";

/// An agent that does with its home what it is told, in a process per task.
const SCRIPT: &str = r#"
case "$(cat)" in
  *fill*) i=0; while head -c 1048576 /dev/zero > ~/part$i; do i=$((i+1)); [ $i -lt 200 ] || break; done 2>~/said || true
          sleep 2; echo "$i $(tail -1 ~/said) $(head -c 65536 /dev/zero 2>&1 > ~/more)" ;;
  *keep*) echo kept > ~/note; sync; echo ok ;;
  *) cat ~/note; ls -A ~ | wc -l ;;
esac
"#;

/// Whether images can be mounted here, as root; else the test is skipped.
fn has_images(test: &str) -> bool {
    let programs = ["mkfs.ext4", "e2fsck", "resize2fs"];
    let able = is_root()
        && Path::new("/dev/loop-control").exists()
        && programs.iter().all(|program| has_program(test, program));
    if !able {
        skip(test, "images take root, loop devices and e2fsprogs");
    }
    able
}

fn keeper(id: &str, disk: &str) -> Bundle {
    Bundle::command(id, SCRIPT).set("policy", json!({"resource_limits": {"disk": disk}}))
}

fn image(daemon: &Daemon, id: &str) -> PathBuf {
    let path = format!("home/images/utility/{id}.ext4");
    daemon.home().data().join(path)
}

/// Loop devices that show something below the data directory.
fn devices(data: &Path) -> Vec<String> {
    let backing = |entry: fs::DirEntry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        file.contains(data.to_str().unwrap()).then_some(file)
    };
    let entries = fs::read_dir("/sys/block").unwrap().filter_map(Result::ok);
    entries.filter_map(backing).collect()
}

fn nothing_is_mounted(data: &Path) {
    eventually("no loop device is left", SOON, || {
        let left = devices(data);
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("{}/home", data.display())));
}

fn disk(daemon: &Daemon, id: &str) -> Value {
    let view = daemon.client().get(&format!("/v1/agents/{id}/sandbox"));
    let view = view.ok(200);
    let mut controls = view["controls"].as_array().unwrap().iter();
    let disk = controls.find(|one| one["control"] == "disk").unwrap();
    disk.clone()
}

fn breach(daemon: &Daemon) -> Option<Value> {
    let records = daemon.audit("kind=limit.breached");
    let mut breaches = records.iter().map(|one| &one["payload"]["breach"]);
    breaches.find(|one| one["limit"] == "disk").cloned()
}

#[test]
fn a_home_that_is_an_image_refuses_what_is_beyond_its_limit_and_outlives_kill_9() {
    let test = "a_home_that_is_an_image_refuses_what_is_beyond_its_limit_and_outlives_kill_9";
    if !has_images(test) {
        return;
    }
    let daemon = Home::new().config(IMAGES).start();
    daemon.deploy(&keeper("keeper", "32MiB"));
    assert_eq!(
        daemon.output("keeper", &json!("keep")),
        json!({"text": "ok\n"})
    );
    let held = disk(&daemon, "keeper");
    assert_eq!(
        (&held["level"], &held["mechanism"]),
        (&json!("kernel"), &json!("ext4 image"))
    );
    assert!(
        held["detail"].as_str().unwrap().contains("33554432 bytes"),
        "{held}"
    );
    let epoch = daemon.status("keeper")["epoch"].clone();
    let said = daemon.output("keeper", &json!("fill"))["text"].to_string();
    assert!(said.contains("No space left on device"), "{said}");
    eventually("the breach is on record", SOON, || {
        breach(&daemon).map(drop).ok_or_else(String::new)
    });
    let told = breach(&daemon).unwrap();
    assert_eq!(
        (&told["action"], &told["allowed"]),
        (&json!("held"), &json!(32 << 20)),
        "{told}"
    );
    assert!(told["seen"].as_u64().unwrap() <= 32 << 20, "{told}");
    assert_eq!(daemon.status("keeper")["epoch"], epoch, "it goes on");
    // While a process has it.
    daemon.submit(&json!({"requirements": ["keeper"], "input": "fill"}));
    let data = daemon.home().data().to_owned();
    eventually("it is in use", SOON, || {
        let now = devices(&data);
        (now.len() == 1).then_some(()).ok_or(format!("{now:?}"))
    });
    let home = daemon.kill9();
    nothing_is_mounted(&data);
    let daemon = home.start();
    let text = daemon.output("keeper", &json!("look"))["text"].to_string();
    assert!(text.starts_with("\"kept"), "{text}");
    let path = image(&daemon, "keeper");
    assert!(path.exists());
    let removed = daemon.client().delete("/v1/agents/keeper");
    assert!(removed.status < 300, "{}", removed.text());
    assert!(!path.exists());
    nothing_is_mounted(&data);
    let (_home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0);
}

#[test]
fn instances_have_an_image_each_and_leave_none_mounted() {
    let test = "instances_have_an_image_each_and_leave_none_mounted";
    if !has_images(test) {
        return;
    }
    let daemon = Home::new().config(IMAGES).start();
    daemon.deploy(&Bundle::echo("echo").set("replicas", json!(2)));
    eventually("both are ready", SOON, || {
        let status = daemon.status("echo");
        let ready = status["instances"].as_array().unwrap().iter();
        let ready = ready
            .filter(|one| one["ready"] == true || one["state"] == "ready")
            .count();
        let data = daemon.home().data();
        (ready == 2 || devices(data).len() == 2)
            .then_some(())
            .ok_or(status.to_string())
    });
    let data = daemon.home().data().to_owned();
    assert_eq!(devices(&data).len(), 2);
    assert!(image(&daemon, "echo").exists() && image(&daemon, "echo#1").exists());
    for verb in ["pause", "resume", "restart", "stop"] {
        daemon.ctl(&["agent", verb, "echo"]).exits(0);
    }
    nothing_is_mounted(&data);
    assert!(image(&daemon, "echo").exists());
}

#[test]
fn the_limit_of_an_image_changes_and_not_below_what_lies_there() {
    let test = "the_limit_of_an_image_changes_and_not_below_what_lies_there";
    if !has_images(test) {
        return;
    }
    let daemon = Home::new().config(IMAGES).start();
    let script = "head -c 20971520 /dev/zero > ~/part\n".to_owned() + SHELL;
    daemon.deploy(
        &Bundle::shell("holder", &script)
            .set("policy", json!({"resource_limits": {"disk": "64MiB"}})),
    );
    assert_eq!(daemon.output("holder", &json!(1)), json!(1));
    let limit = |size: &str| {
        let body = json!({"disk": size});
        daemon.client().post("/v1/agents/holder/limit", &body)
    };
    let refused = limit("16MiB").problem(422, "start_refused");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("its home holds"),
        "{refused}"
    );
    assert_eq!(refused["field"], "limits");
    limit("32MiB").ok(200);
    limit("128MiB").ok(200);
    daemon.ctl(&["agent", "restart", "holder"]).exits(0);
    eventually("it has grown", SOON, || {
        let bytes = fs::metadata(image(&daemon, "holder")).unwrap().len();
        (bytes == 128 << 20).then_some(()).ok_or(bytes.to_string())
    });
    assert_eq!(daemon.output("holder", &json!(2)), json!(2));
}

/// Answers each task with 1, then 2.
const SHELL: &str = r#"
n=0
echo '{"type":"HANDSHAKE","payload":{"name":"holder","version":"1.0.0","capabilities":["holder"]}}'
while read -r line; do
  case "$line" in
    *TASK_REQUEST*)
      task=${line#*\"task_id\":\"}; task=${task%%\"*}
      input=${line#*\"input\":}; input=${input%%[,\}]*}
      echo "{\"type\":\"TASK_RESULT\",\"task_id\":\"$task\",\"payload\":{\"ok\":true,\"output\":$input}}" ;;
    *shutdown*) exit 0 ;;
  esac
done
"#;

#[test]
fn a_home_stays_what_it_is_when_the_setting_changes() {
    let test = "a_home_stays_what_it_is_when_the_setting_changes";
    if !has_images(test) {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&keeper("old", "32MiB"));
    daemon.output("old", &json!("keep"));
    let (home, _) = daemon.stop(Signal::TERM);
    let daemon = home.config(IMAGES).start();
    daemon.deploy(&keeper("new", "32MiB"));
    daemon.output("new", &json!("keep"));
    assert_eq!(
        daemon.output("old", &json!("look")),
        json!({"text": "kept\n1\n"})
    );
    let said = disk(&daemon, "old");
    assert_eq!(said["level"], "advisory", "{said}");
    assert!(
        said["detail"]
            .as_str()
            .unwrap()
            .contains("made as a directory"),
        "{said}"
    );
    assert!(!image(&daemon, "old").exists() && image(&daemon, "new").exists());
    let (home, _) = daemon.stop(Signal::TERM);
    let daemon = home.config("").start();
    assert_eq!(
        daemon.output("new", &json!("look")),
        json!({"text": "kept\n1\n"})
    );
    assert_eq!(disk(&daemon, "new")["level"], "kernel");
}

#[test]
fn a_directory_that_is_encrypted_holds_images_too() {
    let test = "a_directory_that_is_encrypted_holds_images_too";
    if !has_images(test) {
        return;
    }
    let Some(disk) = LoopDisk::mount(test, FileSystem::EncryptingExt4) else {
        return;
    };
    let home = Home::new().data_at(&disk.place().join("data"));
    let key = home.scratch().join("storage.key");
    let config = format!(
        "{IMAGES}storage:\n  encryption: required\n  key_file: {}\n",
        key.display()
    );
    let daemon = home.config(&config).start();
    daemon.deploy(&keeper("keeper", "16MiB"));
    daemon.output("keeper", &json!("keep"));
    let (home, _) = daemon.stop(Signal::TERM);
    let text = "kept\n";
    assert!(
        !disk
            .raw()
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    );
    let daemon = home.start();
    assert_eq!(
        daemon.output("keeper", &json!("look")),
        json!({"text": "kept\n1\n"})
    );
    daemon.stop(Signal::TERM);
}

#[test]
fn without_root_a_home_is_a_directory_and_that_is_said() {
    let test = "without_root_a_home_is_a_directory_and_that_is_said";
    if !(is_root() && has_program(test, "setpriv")) {
        return skip(test, "only root can become an ordinary user");
    }
    for (degradable, accepted) in [
        ("[cpu, memory, pids, disk, user]", true),
        ("[cpu, memory, pids, user]", false),
    ] {
        let config = format!("{IMAGES}  degradable: {degradable}\n");
        let home = Home::new().config(&config);
        let meshd = home.scratch().join("meshd");
        fs::copy(binary("meshd"), &meshd).unwrap();
        chown(home.scratch(), Some(USER), Some(USER)).unwrap();
        for entry in fs::read_dir(home.scratch()).unwrap().flatten() {
            chown(entry.path(), Some(USER), Some(USER)).unwrap();
        }
        fs::set_permissions(&meshd, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(fs::metadata(&meshd).unwrap().uid(), USER);
        let number = USER.to_string();
        let run = format!("shift; exec {} \"$@\"", meshd.display());
        #[rustfmt::skip]
        let words = ["setpriv", "--reuid", &number, "--regid", &number, "--clear-groups", "--inh-caps=-all", "sh", "-c", &run, "sh"];
        let daemon = home.through(&words).start();
        let bundle = keeper("keeper", "32MiB");
        if accepted {
            daemon.deploy(&bundle);
            let said = disk(&daemon, "keeper");
            assert_eq!(said["level"], "advisory", "{said}");
            assert!(
                said["detail"]
                    .as_str()
                    .unwrap()
                    .contains("no image, as meshd is not root"),
                "{said}"
            );
        } else {
            let place = bundle.write(daemon.home().scratch());
            let refused = daemon.ctl(&["agent", "deploy", place.to_str().unwrap()]);
            assert_ne!(refused.code, 0);
            assert!(
                refused.err.contains("disk") && refused.err.contains("run meshd as root"),
                "{}",
                refused.err
            );
        }
    }
}
