//! D8: work that is called done and is not: unwritten, of the wrong form, good once, or good by its author's own word.

use mesh_tests::{Bundle, Daemon, eventually};
use serde_json::{Value, json};

use super::{PATIENCE, saw};

/// Says that it is done, whatever was asked.
fn liar() -> Bundle {
    Bundle::command("liar", r#"echo '{"done": true}'"#)
}

fn submit(daemon: &Daemon, capability: &str, contract: Option<Value>) -> String {
    let mut task = json!({
        "requirements": [capability], "input": {"want": "a report"},
        "retry": {"maxAttempts": 2, "baseDelayMs": 10},
    });
    if let Some(contract) = contract {
        task["contract"] = contract;
    }
    daemon.submit(&task)
}

/// What becomes of a task that depends on another: work that builds on it.
fn dependent(daemon: &Daemon, on: &str) -> Value {
    let id = daemon.submit(&json!({"requirements": ["echo"], "input": 1, "dependsOn": [on]}));
    daemon.ended(&id, PATIENCE)
}

/// What is learned of an agent: how often it succeeded, of how many attempts.
fn learned(daemon: &Daemon, agent: &str) -> (u64, u64) {
    let path = format!("/v1/agents/{agent}/insights");
    let insights = daemon.client().get(&path).ok(200);
    let count = |name: &str| insights[name].as_u64().expect("a count");
    (count("succeeded"), count("attempts"))
}

#[test]
fn d8_done_at_once_is_not_done_where_a_check_looks_for_the_work() {
    let daemon = Daemon::start();
    daemon.deploy(&liar());
    daemon.deploy(&Bundle::echo("echo"));
    // Control: nobody looks, and what builds on it goes on.
    let believed = submit(&daemon, "liar", None);
    let follows = dependent(&daemon, &believed);
    assert_eq!(daemon.task(&believed)["state"], "succeeded");
    assert_eq!(follows["state"], "succeeded", "{follows}");

    let look = json!({"checks": [
        {"name": "form", "command": ["grep", "-q", "done"]},
        {"name": "written", "command": ["sh", "-c", "echo looking; test -s \"$HOME/report.txt\""]},
    ]});
    let checked = submit(&daemon, "liar", Some(look));
    let follows = dependent(&daemon, &checked);
    let task = daemon.ended(&checked, PATIENCE);
    saw(&format!("checked: {}", task["error"]));
    assert_eq!(task["state"], "dead_lettered", "{task}");
    assert_eq!(task["error"]["class"], "contract", "{task}");
    let attempts = task["attempts"].as_array().unwrap();
    assert_eq!(
        attempts.len(),
        2,
        "a broken contract is a failed attempt: {task}"
    );
    for attempt in attempts {
        let expected = json!([
            {"name": "form", "passed": true},
            {"name": "written", "passed": false, "evidence": "exited with code 1: looking"},
        ]);
        assert_eq!(attempt["checks"], expected, "{task}");
    }
    assert_eq!(
        follows["state"], "cancelled",
        "nothing builds on it: {follows}"
    );
    assert_eq!(
        learned(&daemon, "liar"),
        (1, 3),
        "the control alone counts as done"
    );
}

#[test]
fn d8_work_that_is_there_passes_and_what_passed_once_is_looked_at_again() {
    let daemon = Daemon::start();
    // Writes its report, but only the first time that it is asked.
    let script = r#"n=$(cat "$HOME/n" 2>/dev/null || echo 0); n=$((n + 1)); echo $n > "$HOME/n"
        rm -f "$HOME/report.txt"; [ $n -gt 1 ] || echo text > "$HOME/report.txt"; echo '{"done": true}'"#;
    daemon.deploy(&Bundle::command("once", script));
    let look = || json!({"checks": [{"name": "written", "command": ["sh", "-c", "cat; test -s \"$HOME/report.txt\""]}]});
    let first = daemon.ended(&submit(&daemon, "once", Some(look())), PATIENCE);
    assert_eq!(first["state"], "succeeded", "{first}");
    let evidence = &first["attempts"][0]["checks"][0]["evidence"];
    assert_eq!(
        evidence, "{\"done\":true}",
        "the check gets the output: {first}"
    );
    let second = daemon.ended(&submit(&daemon, "once", Some(look())), PATIENCE);
    saw(&format!("the second time: {}", second["error"]));
    assert_eq!(second["error"]["class"], "contract", "{second}");
}

#[test]
fn d8_nobody_grades_their_own_work_and_another_agents_no_is_a_no() {
    let daemon = Daemon::start();
    let author = r#"if grep -q '"check"'; then echo '{"ok": true, "reason": "mine is fine"}'; else echo '{"text": "draft"}'; fi"#;
    let author = Bundle::command("author", author)
        .set("capabilities", json!(["write", "review"]))
        .set("concurrency", json!(4));
    daemon.deploy(&author);
    let review = || Some(json!({"checks": [{"name": "reviewed", "requirements": ["review"]}]}));
    let alone = daemon.ended(&submit(&daemon, "write", review()), PATIENCE);
    saw(&format!("alone: {}", alone["error"]));
    assert_ne!(alone["state"], "succeeded", "{alone}");
    let message = alone["error"]["message"].as_str().unwrap();
    assert!(message.contains("nobody but author itself"), "{alone}");

    let strict = r#"if grep -q draft; then echo '{"ok": false, "reason": "it is a draft"}'; else echo '{"ok": true}'; fi"#;
    let strict = Bundle::command("strict", strict).set("capabilities", json!(["review"]));
    daemon.deploy(&strict);
    let refused = daemon.ended(&submit(&daemon, "write", review()), PATIENCE);
    saw(&format!("with a critic: {}", refused["error"]));
    assert_eq!(refused["error"]["class"], "contract", "{refused}");
    let check = &refused["attempts"][0]["checks"][0];
    assert_eq!(check["evidence"], "it is a draft", "{refused}");
    let verdict = daemon.task(check["task"].as_str().unwrap());
    assert_eq!(verdict["assignment"]["agentId"], "strict", "{verdict}");
    assert_eq!(verdict["parent"], refused["id"], "{verdict}");

    daemon.deploy(&Bundle::command("better", r#"echo '{"text": "final"}'"#));
    let passed = daemon.ended(&submit(&daemon, "better", review()), PATIENCE);
    assert_eq!(passed["state"], "succeeded", "{passed}");
    assert_eq!(
        passed["attempts"][0]["checks"][0]["passed"], true,
        "{passed}"
    );
}

#[test]
fn d8_two_agents_that_check_each_other_are_busy_and_not_unable() {
    let daemon = Daemon::start();
    let script =
        r#"if grep -q '"check"'; then echo '{"ok": true}'; else echo '{"text": "draft"}'; fi"#;
    for name in ["left", "right"] {
        let agent = Bundle::command(name, script).set("capabilities", json!(["write", "review"]));
        daemon.deploy(&agent);
    }
    let review = || Some(json!({"checks": [{"name": "reviewed", "requirements": ["review"]}]}));
    let ids: Vec<_> = (0..6).map(|_| submit(&daemon, "write", review())).collect();
    for id in ids {
        let task = daemon.ended(&id, PATIENCE);
        assert_eq!(task["state"], "succeeded", "{task}");
        assert_eq!(task["attempts"].as_array().unwrap().len(), 1, "{task}");
        let check = task["attempts"][0]["checks"][0]["task"].as_str().unwrap();
        let verdict = daemon.task(check);
        assert_ne!(
            verdict["assignment"]["agentId"], task["assignment"]["agentId"],
            "{verdict}"
        );
    }
    saw("six tasks, each checked by the other one");
}

#[test]
fn d8_a_check_that_hangs_or_cannot_be_started_is_told_apart_from_bad_work() {
    let daemon = Daemon::start();
    daemon.deploy(&liar());
    let hang = json!({"checks": [{"name": "hang", "command": ["sleep", "600"], "timeoutMs": 300}]});
    let hung = daemon.ended(&submit(&daemon, "liar", Some(hang)), PATIENCE);
    assert_eq!(hung["error"]["class"], "contract", "{hung}");
    let text = hung["error"]["message"].as_str().unwrap();
    assert!(text.contains("took longer than 300 ms"), "{hung}");
    let none = json!({"checks": [{"name": "none", "command": ["no-such-program-here"]}]});
    let unmade = daemon.ended(&submit(&daemon, "liar", Some(none)), PATIENCE);
    assert_eq!(unmade["error"]["class"], "unavailable", "{unmade}");
    let status = daemon.status("liar");
    assert_eq!(status["fault"]["score"], 0, "{status}");
}

/// How many processes of this machine have these words on their command line.
fn processes(words: &str) -> usize {
    let all = std::fs::read_dir("/proc").expect("the processes").flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let text = |line: Vec<u8>| String::from_utf8_lossy(&line).replace('\0', " ");
    lines
        .filter(|line| text(line.clone()).trim().ends_with(words))
        .count()
}

#[test]
fn d8_a_check_ends_with_the_attempt_that_it_is_part_of() {
    let daemon = Daemon::start();
    let speaks = r#"echo '{"type":"HANDSHAKE","payload":{"name":"s","version":"1.0.0","capabilities":["speaks"]}}'
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"task_id":"\([^"]*\)".*/\1/p')
  case "$line" in *TASK_REQUEST*) echo "{\"type\":\"TASK_RESULT\",\"task_id\":\"$id\",\"payload\":{\"ok\":true,\"output\":1}}";; esac
done"#;
    daemon.deploy(&Bundle::shell("speaks", speaks));
    daemon.deploy(&liar());
    // Told apart from whatever else sleeps on this machine.
    let seconds = |more: u32| (100_000 + 2 * std::process::id() + more).to_string();
    for (agent, seconds) in [("speaks", seconds(0)), ("liar", seconds(1))] {
        let words = format!("sleep {seconds}");
        let slow = || json!({"checks": [{"name": "slow", "command": ["sleep", seconds], "timeoutMs": 3_600_000}]});
        let checking = |id: &str| {
            eventually("the check runs", PATIENCE, || match processes(&words) {
                1 => Ok(()),
                _ => Err(daemon.task(id).to_string()),
            });
        };
        let gone = || {
            eventually("the check is gone", PATIENCE, || match processes(&words) {
                0 => Ok(()),
                count => Err(count.to_string()),
            });
        };
        let cancelled = submit(&daemon, agent, Some(slow()));
        checking(&cancelled);
        daemon.ctl(&["task", "cancel", &cancelled]).exits(0);
        gone();
        let fine = daemon.ended(&submit(&daemon, agent, None), PATIENCE);
        assert_eq!(fine["state"], "succeeded", "its agent goes on: {fine}");
        let epoch = daemon.status(agent)["epoch"].clone();
        assert_eq!(
            fine["attempts"][0]["epoch"], epoch,
            "the same incarnation: {fine}"
        );
        let stopped = submit(&daemon, agent, Some(slow()));
        checking(&stopped);
        let order = json!({"type": "manual", "description": "looked at", "severity": "low"});
        let path = format!("/v1/agents/{agent}/quarantine");
        daemon.client().post(&path, &order).ok(200);
        gone();
        let task = daemon.task(&stopped);
        saw(&format!(
            "{agent}, isolated while checked: {}",
            task["state"]
        ));
        assert_ne!(task["state"], "succeeded", "{task}");
    }
}
