//! D1: an agent that dies at once is started again and again, and every start is paid for.

use std::time::{Duration, Instant};

use mesh_tests::{Bundle, Daemon, Home, eventually, has_python};
use serde_json::{Value, json};

use super::{PATIENCE, saw, starts, story};

/// Tasks that wait meanwhile.
const WAITING: usize = 200;

/// Shakes hands and dies within its first second.
const SHORT_LIVED: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"dying","version":"1.0.0","capabilities":["dying"]}}'
sleep 0.1
exit 1"#;

/// As shipped, with shorter waits, and with room for all the tasks.
const QUICK: &str = "orchestrator:\n  policies:\n    max_parallel_tasks: 64\nsupervision:\n  backoff_base: 20ms\n  cool_down_base: 200ms\n  stop_timeout: 1s\n";
/// The same, and nothing that would end a storm.
const UNPROTECTED: &str = "orchestrator:\n  policies:\n    max_parallel_tasks: 64\nsupervision:\n  backoff_base: 1ms\n  backoff_max: 2ms\n  hourly_max: 999\n  stop_timeout: 1s\n";

fn fill(daemon: &Daemon, capability: &str) -> Vec<String> {
    let task = |n: usize| json!({"requirements": [capability], "input": n});
    let tasks: Vec<Value> = (0..WAITING).map(task).collect();
    let receipts = daemon.client().post("/v1/tasks", &json!(tasks)).ok(202);
    let ids = receipts.as_array().expect("a receipt for each").iter();
    ids.map(|receipt| receipt["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn d1_an_agent_that_dies_at_once_is_started_to_the_number_and_not_once_more() {
    let daemon = Home::new().config(QUICK).start();
    daemon.deploy(&Bundle::echo("healthy"));
    let no_interpreter = Bundle::new("missing")
        .file("run.sh", "#!/no/such/interpreter\n")
        .set("entry", json!("run.sh"));
    for (agent, bundle) in [
        ("dying", Bundle::shell("dying", SHORT_LIVED)),
        ("missing", no_interpreter),
    ] {
        let began = Instant::now();
        let bundle = bundle.set(
            "policy",
            json!({"lifecycle": {"max_crashes": 3, "quarantine_threshold": 5}}),
        );
        daemon.register(&bundle);
        let tasks = fill(&daemon, agent);
        let status = daemon.fault_state(agent, "quarantined", PATIENCE);
        // Three restarts, the trial of the open breaker: five starts, five failures, and no other path.
        assert_eq!(starts(&daemon, agent), 5, "{status}");
        let errors = daemon.audit(&format!("kind=error&agent={agent}"));
        assert_eq!(errors.len(), 5, "{errors:?}");
        let why = &status["fault"]["quarantine"]["reason"];
        assert_eq!(why["type"], "crash", "{status}");
        saw(&format!(
            "D1 {agent}: 5 starts in {:?} with {WAITING} tasks waiting, then quarantined: {}",
            began.elapsed(),
            why["description"]
        ));

        // Whatever asks for it, it is not started again.
        let client = daemon.client();
        for verb in ["start", "restart", "resume"] {
            let refused = client.post(&format!("/v1/agents/{agent}/{verb}"), &json!({}));
            assert!(refused.text().contains("recover"), "{}", refused.text());
            assert_eq!(refused.status, 409);
        }
        for n in 0..20 {
            assert_eq!(
                daemon.output("echo", &json!(n)),
                json!(n),
                "others are unaffected"
            );
        }
        // One that the last incarnation left behind waits for its own delay first.
        for task in &tasks {
            daemon.task_state(task, "parked", PATIENCE);
        }
        assert_eq!(starts(&daemon, agent), 5);
    }
    assert_eq!(starts(&daemon, "healthy"), 1);
}

#[test]
fn d1_control_without_its_limits_the_same_agent_is_started_without_end() {
    let daemon = Home::new().config(UNPROTECTED).start();
    let lax = json!({"lifecycle": {"max_crashes": 999, "quarantine_threshold": 999}});
    daemon.register(&Bundle::shell("dying", SHORT_LIVED).set("policy", lax));
    let storm = eventually("a storm of starts", PATIENCE, || {
        match starts(&daemon, "dying") {
            storm @ 20.. => Ok(storm),
            few => Err(few.to_string()),
        }
    });
    saw(&format!("D1 control: {storm} starts, and more to come"));
}

#[test]
fn d1_a_task_that_kills_whoever_takes_it_is_found_out_among_two_hundred() {
    if !has_python("d1_a_task_that_kills_whoever_takes_it_is_found_out_among_two_hundred") {
        return;
    }
    let daemon = Home::new().config(QUICK).start();
    daemon.deploy(&Bundle::rogue("victim", "killed").set("replicas", json!(3)));
    let poison = daemon.submit(&json!({
        "requirements": ["victim"], "input": "die", "priority": "high",
        "retry": {"maxAttempts": 50, "baseDelayMs": 10},
    }));
    let tasks = fill(&daemon, "victim");
    let poison = daemon.ended(&poison, PATIENCE);
    assert_eq!(poison["state"], "dead_lettered", "{poison}");
    assert_eq!(poison["attempts"].as_array().unwrap().len(), 2, "{poison}");
    for (n, task) in tasks.iter().enumerate() {
        let task = daemon.ended(task, PATIENCE);
        assert_eq!(
            (&task["state"], &task["output"]),
            (&json!("succeeded"), &json!(n)),
            "{task}"
        );
    }
    let status = daemon.status("victim");
    assert_eq!(
        status["fault"]["score"], 0,
        "its failures are refunded: {status}"
    );
    assert_eq!(starts(&daemon, "victim"), 3 + 2);
    saw(&format!(
        "D1 poison: {}; {WAITING} other tasks done by the same agent",
        story(&poison)
    ));
}

#[test]
fn d1_what_was_decided_outlives_the_daemon() {
    let home = Home::new().config(QUICK);
    let daemon = home.start();
    daemon.register(&Bundle::shell("dying", SHORT_LIVED));
    eventually("it has failed twice", PATIENCE, || {
        let errors = daemon.audit("kind=error&agent=dying").len();
        if errors >= 2 {
            Ok(())
        } else {
            Err(errors.to_string())
        }
    });
    // A new life is no new chance.
    let daemon = daemon.kill9().start();
    let status = daemon.fault_state("dying", "quarantined", PATIENCE);
    let started = starts(&daemon, "dying");
    let errors = daemon.audit("kind=error&agent=dying");
    let scored = errors
        .iter()
        .filter(|record| record["payload"]["failure"]["class"] != "lost")
        .count();
    assert_eq!(scored, 5, "{status}");
    // A start that the kill cut short is made up for; it scored nothing.
    assert!((5..=6).contains(&started), "{started} starts");
    let daemon = daemon.kill9().start();
    assert_eq!(daemon.status("dying")["fault"]["state"], "quarantined");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(starts(&daemon, "dying"), started);
    saw(&format!("D1 kill -9: {started} starts over three lives"));
}
