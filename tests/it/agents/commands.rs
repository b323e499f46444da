//! The `command` runtime: any program, one process per task.

use mesh_tests::{Bundle, Daemon};
use serde_json::{Value, json};

use super::{SOON, bounded, classes};

fn run(script: &str, input: &Value) -> (Daemon, Value) {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::command("program", script));
    let task = daemon.submit(&bounded("program", input, 2, 30_000));
    let task = daemon.ended(&task, SOON);
    (daemon, task)
}

#[test]
fn output_is_json_where_it_parses_and_text_where_it_does_not() {
    let (daemon, task) = run("cat", &json!({"n": [1, 2]}));
    assert_eq!(
        (&task["state"], &task["output"]),
        (&json!("succeeded"), &json!({"n": [1, 2]}))
    );
    daemon.deploy(&Bundle::command("text", "echo not json"));
    assert_eq!(
        daemon.output("text", &json!(1)),
        json!({"text": "not json\n"})
    );
    daemon.deploy(&Bundle::command("quiet", "exec >&-; cat > /dev/null"));
    assert_eq!(daemon.output("quiet", &json!(1)), json!({"text": ""}));
    daemon.deploy(&Bundle::command("log", "echo seen >&2; echo 1"));
    assert_eq!(daemon.output("log", &json!(null)), json!(1));
    let logs = daemon.client().get("/v1/agents/log/logs").text();
    assert!(logs.contains("seen"), "{logs}");
}

#[test]
fn exit_codes_are_refusals_save_the_one_that_says_try_again() {
    let (daemon, task) = run("exit 7", &json!(1));
    assert_eq!(
        (&task["state"], classes(&task)),
        (&json!("failed"), vec!["refusal"]),
        "{task}"
    );
    assert!(
        task["error"]["message"].as_str().unwrap().contains('7'),
        "{task}"
    );
    daemon.deploy(&Bundle::command("later", "exit 75"));
    let task = daemon.submit(&bounded("later", &json!(1), 2, 30_000));
    let task = daemon.ended(&task, SOON);
    assert_eq!(
        (&task["state"], classes(&task)),
        (&json!("dead_lettered"), vec!["unavailable", "unavailable"]),
        "{task}"
    );
    for agent in ["program", "later"] {
        assert_eq!(daemon.status(agent)["fault"]["score"], 0, "{agent}");
    }
}

#[test]
fn death_by_a_signal_is_a_crash_and_counts_against_the_agent() {
    let (daemon, task) = run("kill -SEGV $$", &json!(1));
    assert_eq!(
        (&task["state"], classes(&task)),
        (&json!("dead_lettered"), vec!["crash", "crash"]),
        "{task}"
    );
    assert!(
        task["error"]["message"].as_str().unwrap().contains("11"),
        "{task}"
    );
    assert_eq!(daemon.audit("kind=error&agent=program").len(), 2);
}

#[test]
fn a_program_that_takes_too_long_is_ended_with_all_it_started() {
    let daemon = Daemon::start();
    let marker = mesh_tests::Marker::new();
    let script = format!("export MARK={}; sleep 1000 & sleep 1000", marker.as_str());
    daemon.deploy(&Bundle::command("slow", &script));
    let task = daemon.submit(&bounded("slow", &json!(1), 1, 1000));
    mesh_tests::eventually("it runs", SOON, || {
        if mesh_tests::marked(marker.as_str()).len() >= 2 {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
    let task = daemon.ended(&task, SOON);
    assert_eq!(
        (&task["state"], classes(&task)),
        (&json!("dead_lettered"), vec!["timeout"]),
        "{task}"
    );
    mesh_tests::eventually(
        "nothing of it lives",
        std::time::Duration::from_secs(5),
        || match mesh_tests::marked(marker.as_str()) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );
}

#[test]
fn output_without_an_end_is_cut_off() {
    let (daemon, task) = run(
        "while true; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
        &json!(1),
    );
    assert_eq!(
        (&task["state"], classes(&task)),
        (&json!("dead_lettered"), vec!["contract", "contract"]),
        "{task}"
    );
    assert_eq!(daemon.status("program")["fault"]["score"], 0);
}
