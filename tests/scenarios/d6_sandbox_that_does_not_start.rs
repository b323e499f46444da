//! D6: a sandbox that does not start. Elsewhere namespaces "work" and then refuse every mount, or there are none, and
//! people switch isolation off. Here meshd starts, says what is missing and how to get it, refuses what needs it, and runs
//! what may do without it while saying so everywhere.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use mesh_tests::{
    Bundle, Daemon, Home, MESHD, binary, deny, descendants, has_program, is_root, skip,
};
use serde_json::json;

use crate::saw;

/// A user that no test machine gives to anybody.
const USER: u32 = 61_044;

/// Makes one kind of namespace impossible to have more of, then gives up every right to undo that.
const WITHOUT: &str =
    "echo 0 > \"/proc/sys/user/$0\"; exec setpriv --ambient-caps=-all --inh-caps=-all \"$@\"";

/// How an ordinary user starts a program, on a machine that lacks something (or nothing).
fn words(lacks: Option<&str>) -> Vec<String> {
    let user = USER.to_string();
    let mut words = vec![
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--inh-caps=-all",
    ];
    if let Some(lacks) = lacks {
        words.extend([
            "unshare",
            "--user",
            "--map-current-user",
            "--keep-caps",
            "sh",
            "-c",
            WITHOUT,
            lacks,
        ]);
    }
    words.into_iter().map(str::to_owned).collect()
}

/// Whether this machine can show it; says so when not.
fn shown(test: &str) -> bool {
    if !is_root() {
        skip(test, "only root can become another user");
        return false;
    }
    if !has_program(test, "setpriv") || !has_program(test, "unshare") {
        return false;
    }
    let words = words(Some("max_user_namespaces"));
    let able = Command::new(&words[0])
        .args(&words[1..])
        .args(["test", "-x"])
        .arg(binary(MESHD))
        .stderr(Stdio::null())
        .status();
    let able = able.is_ok_and(|status| status.success());
    if !able {
        skip(
            test,
            "an ordinary user cannot get at the binaries, or has no user namespaces to begin with",
        );
    }
    able
}

/// A home that belongs to that user.
fn home(lacks: Option<&str>) -> Home {
    let home = Home::new();
    let root = home.scratch().to_owned();
    let given = |path: &Path| chown(path, Some(USER), Some(USER)).expect("root gives files away");
    given(&root);
    for entry in std::fs::read_dir(&root).expect("a home") {
        given(&entry.expect("an entry").path());
    }
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let words = words(lacks);
    home.through(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What `meshd doctor` says when it is started like this, and whether it is content.
fn doctor(words: &[String]) -> (String, bool) {
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg(binary(MESHD))
        .arg("doctor")
        .current_dir("/tmp")
        // What this test is told by its environment is no configuration.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .output()
        .expect("the doctor runs");
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.success(),
    )
}

#[test]
fn d6_what_a_machine_lacks_is_named_with_its_cure_and_never_done_without() {
    if !shown("d6_what_a_machine_lacks_is_named_with_its_cure_and_never_done_without") {
        return;
    }
    for (lacks, control) in [
        // No namespaces at all, as in many containers.
        ("max_user_namespaces", "filesystem"),
        // Namespaces that work and then allow no mounts, as AppArmor does it.
        ("max_mnt_namespaces", "filesystem"),
        ("max_pid_namespaces", "processes"),
        ("max_net_namespaces", "network"),
        ("max_ipc_namespaces", "ipc"),
    ] {
        let (said, content) = doctor(&words(Some(lacks)));
        assert!(!content, "{lacks}: the doctor is content: {said}");
        let line = said
            .lines()
            .position(|line| line.contains(&format!("✗ {control}")));
        let line = line.expect("a word about it");
        let cure = said.lines().nth(line + 1).unwrap_or_default();
        assert!(cure.contains("run meshd"), "{lacks}: no cure: {said}");

        let daemon = home(Some(lacks)).start();
        let tar = Bundle::echo("echo").tar();
        let headers = [("content-type", "application/x-tar")];
        let answer = daemon
            .client()
            .send("POST", "/v1/agents", &headers, Some(&tar));
        assert_eq!(answer.status, 422, "{lacks}: {}", answer.text());
        let text = answer.text();
        assert!(
            text.contains("start_refused") && text.contains(control) && text.contains("remedy"),
            "{lacks}: {text}"
        );
        // Registered without a start it is refused at the order to start, too, and nothing of it ever ran.
        daemon
            .client()
            .send("POST", "/v1/agents?start=false", &headers, Some(&tar));
        let start = daemon.client().post("/v1/agents/echo/start", &json!({}));
        assert_eq!(start.status, 422, "{lacks}: {}", start.text());
        assert_eq!(daemon.audit("kind=activated").len(), 0, "{lacks}");
        saw(&format!(
            "{lacks} = 0: refused for {control}; cure: {}",
            cure.trim()
        ));
    }
}

#[test]
fn d6_control_where_only_limits_are_missing_it_runs_and_says_so_everywhere() {
    let test = "d6_control_where_only_limits_are_missing_it_runs_and_says_so_everywhere";
    if !shown(test) {
        return;
    }
    let (said, content) = doctor(&words(None));
    assert!(
        content && said.contains("~ user") && said.contains("as an ordinary user"),
        "{said}"
    );
    let daemon = home(None).start();
    daemon.deploy(&Bundle::echo("echo"));
    assert_eq!(
        daemon.output("echo", &json!({"works": true})),
        json!({"works": true})
    );
    let log = daemon.home().log();
    assert!(
        log.contains("weaker than asked for") && log.contains("meshd doctor"),
        "{log}"
    );
    let recorded = &daemon.audit("kind=activated&agent=echo")[0]["payload"]["sandbox"];
    let shown = daemon.client().get("/v1/agents/echo/sandbox").ok(200);
    for view in [recorded, &shown] {
        assert_eq!(view["profile"], "strict", "{view}");
        let degraded = view["degraded"].as_array().unwrap();
        assert!(degraded.contains(&json!("user")), "{view}");
        let user = view["controls"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["control"] == "user");
        assert_eq!(user.unwrap()["level"], "none", "{view}");
    }
    // An agent that demands all of it does not run on such a machine.
    let strict =
        Bundle::echo("strict").set("policy", json!({"security": {"sandbox_level": "maximum"}}));
    let headers = [("content-type", "application/x-tar")];
    let answer = daemon
        .client()
        .send("POST", "/v1/agents", &headers, Some(&strict.tar()));
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("user"), "{}", answer.text());
    saw("an ordinary user without control groups: runs, degraded, and says so");
}

/// An agent that asks for no more than the weakest profile.
fn relaxed(id: &str) -> Bundle {
    Bundle::echo(id).set("policy", json!({"security": {"sandbox_level": "relaxed"}}))
}

/// Sends a bundle; the answer's status and text.
fn register(daemon: &Daemon, bundle: &Bundle, query: &str) -> (u16, String) {
    let headers = [("content-type", "application/x-tar")];
    let to = format!("/v1/agents{query}");
    let answer = daemon
        .client()
        .send("POST", &to, &headers, Some(&bundle.tar()));
    (answer.status, answer.text())
}

/// How a program is started on a machine that denies this, by a root that may do all else.
fn denied(program: &Path, what: &str) -> Vec<String> {
    let program = program.display().to_string();
    [program.as_str(), what, "--"].map(str::to_owned).to_vec()
}

fn started_by(home: Home, words: &[String]) -> Home {
    home.through(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn d6_calls_that_a_filter_denies_are_named_with_their_cure_and_never_done_without() {
    let Some(program) =
        deny("d6_calls_that_a_filter_denies_are_named_with_their_cure_and_never_done_without")
    else {
        return;
    };
    for (what, control) in [
        ("namespaces", "network"),
        ("mounts", "filesystem"),
        ("landlock", "filesystem"),
        ("filters", "syscalls"),
    ] {
        let words = denied(program, what);
        let (said, content) = doctor(&words);
        assert!(!content, "{what}: the doctor is content: {said}");
        let line = said
            .lines()
            .position(|line| line.contains(&format!("✗ {control}")))
            .unwrap_or_else(|| panic!("{what}: no word about {control}: {said}"));
        let cure = said.lines().nth(line + 1).unwrap_or_default().trim();
        assert!(
            cure.contains("seccomp profile") && !cure.contains("as root"),
            "{what}: {said}"
        );

        // What never degrades is refused also where the operator demands no sandbox.
        let lax = "orchestrator: {security: {sandbox_required: false}}\n";
        for (config, bundle) in [("", Bundle::echo("strict")), (lax, relaxed("echo"))] {
            let daemon = started_by(Home::new().config(config), &words).start();
            let before = descendants(daemon.pid());
            let (status, text) = register(&daemon, &bundle, "");
            assert_eq!(status, 422, "{what}: {text}");
            // The cure is the doctor's, word by word.
            for part in ["start_refused", control, "remedy", cure] {
                assert!(text.contains(part), "{what}: no {part} in {text}");
            }
            let (status, text) = register(&daemon, &bundle, "?start=false");
            assert_eq!(status, 201, "{what}: {text}");
            let start = format!("/v1/agents/{}/start", bundle.id());
            let start = daemon.client().post(&start, &json!({}));
            assert_eq!(start.status, 422, "{what}: {}", start.text());
            assert!(start.text().contains(cure), "{what}: {}", start.text());
            assert_eq!(
                descendants(daemon.pid()),
                before,
                "{what}: something is left"
            );
            assert_eq!(daemon.audit("kind=activated").len(), 0, "{what}");
        }
        saw(&format!(
            "{what} denied: refused for {control}; cure: {cure}"
        ));
    }
}

/// Root without control groups, which may make all namespaces but those of users.
fn without_groups(program: &Path) -> Vec<String> {
    let mut words: Vec<String> = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "umount -R /sys/fs/cgroup && exec \"$@\"",
        "sh",
    ]
    .map(str::to_owned)
    .to_vec();
    words.extend(denied(program, "user-namespaces"));
    words
}

#[test]
fn d6_control_what_may_degrade_runs_under_a_filter_and_says_so_and_what_may_not_is_refused() {
    let test =
        "d6_control_what_may_degrade_runs_under_a_filter_and_says_so_and_what_may_not_is_refused";
    let Some(program) = deny(test) else {
        return;
    };
    let words = without_groups(program);
    let able = Command::new(&words[0])
        .args(&words[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status();
    if !able.is_ok_and(|status| status.success()) {
        skip(test, "the control groups cannot be taken away");
        return;
    }
    let none = "sandbox: {degradable: []}\n";
    let daemon = started_by(Home::new().config(none), &words).start();
    let (status, text) = register(&daemon, &Bundle::echo("strict"), "");
    assert_eq!(status, 422, "{text}");
    for control in ["cpu: ", "memory: ", "pids: "] {
        assert!(text.contains(control), "no {control}in {text}");
    }
    assert_eq!(daemon.audit("kind=activated").len(), 0);

    let lax = format!("{none}orchestrator: {{security: {{sandbox_required: false}}}}\n");
    let daemon = started_by(Home::new().config(&lax), &words).start();
    daemon.deploy(&relaxed("echo"));
    assert_eq!(
        daemon.output("echo", &json!({"works": true})),
        json!({"works": true})
    );
    let recorded = &daemon.audit("kind=activated&agent=echo")[0]["payload"]["sandbox"];
    let shown = daemon.client().get("/v1/agents/echo/sandbox").ok(200);
    for view in [recorded, &shown] {
        for (control, level) in [
            ("cpu", "none"),
            ("memory", "advisory"),
            ("pids", "advisory"),
            ("filesystem", "kernel"),
        ] {
            let all = view["controls"].as_array().unwrap();
            let one = all.iter().find(|one| one["control"] == control);
            assert_eq!(one.unwrap()["level"], level, "{control}: {view}");
            let degraded = view["degraded"].as_array().unwrap();
            assert_eq!(
                degraded.contains(&json!(control)),
                level != "kernel",
                "{view}"
            );
        }
    }
    saw("no control groups and no user namespaces: runs where that may be, and says so");
}
