//! Owners: who registered an agent, or submitted a task, may make less of it, and nobody else without the role.

use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

fn register(publisher: &Client, bundle: &Bundle) {
    let tar = ("Content-Type", "application/x-tar");
    let answer = publisher.send("POST", "/v1/agents", &[tar], Some(&bundle.tar()));
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
}

fn verb(caller: &Client, agent: &str, verb: &str) -> u16 {
    let path = format!("/v1/agents/{agent}/{verb}");
    caller.post(&path, &json!({})).status
}

#[test]
fn a_publisher_makes_less_of_its_own_agents_and_touches_nobody_elses() {
    let daemon = Daemon::start();
    let (ada, ben) = (
        daemon.of_role("publisher", "ada"),
        daemon.of_role("publisher", "ben"),
    );
    let viewer = daemon.of_role("viewer", "ada");
    register(&ada, &Bundle::echo("hers"));
    register(&ben, &Bundle::echo("his"));
    let profile = daemon.client().get("/v1/agents/hers").ok(200);
    assert!(profile.to_string().contains("user:ada"), "{profile}");
    for agent in ["hers", "his"] {
        // 409: it runs already.
        let started = verb(daemon.client(), agent, "start");
        assert!(matches!(started, 200 | 409), "{started}");
        daemon.fault_state(agent, "running", PATIENCE);
    }

    for act in ["pause", "resume", "restart", "stop", "terminate"] {
        assert_eq!(verb(&ada, "his", act), 403, "{act}");
        assert_eq!(verb(&viewer, "hers", act), 403, "{act}");
    }
    ada.delete("/v1/agents/his").problem(403, "forbidden");
    for act in [
        "start",
        "resume",
        "quarantine",
        "recover",
        "upgrade",
        "rollback",
    ] {
        assert_eq!(verb(&ada, "hers", act), 403, "{act}");
    }
    let scale = json!({"replicas": 3});
    ada.post("/v1/agents/hers/scale", &scale)
        .problem(403, "forbidden");
    ada.post("/v1/agents/%68ers/stop", &json!({}))
        .problem(403, "forbidden");

    for act in ["restart", "stop"] {
        assert_eq!(verb(&ada, "hers", act), 200, "{act}");
    }
    assert_eq!(
        verb(&ada, "hers", "restart"),
        403,
        "what is stopped stays stopped"
    );
    ada.delete("/v1/agents/hers").ok(200);
    let denied = daemon.audit("kind=access.denied");
    let named = |record: &&Value| {
        record.to_string().contains("/v1/agents/his/stop")
            && record.to_string().contains("Insufficient permissions")
    };
    assert!(denied.iter().any(|record| named(&record)), "{denied:?}");
}

#[test]
fn an_owner_does_not_undo_what_others_did_to_its_agent() {
    let daemon = Daemon::start();
    let ada = daemon.of_role("publisher", "ada");
    for agent in ["isolated", "limited"] {
        register(&ada, &Bundle::echo(agent));
        // 409: it runs already.
        let started = verb(daemon.client(), agent, "start");
        assert!(matches!(started, 200 | 409), "{started}");
        daemon.fault_state(agent, "running", PATIENCE);
    }
    let order = json!({"type": "manual", "description": "a look", "severity": "high"});
    let path = "/v1/agents/isolated/quarantine";
    daemon.client().post(path, &order).ok(200);
    daemon.fault_state("isolated", "quarantined", PATIENCE);
    // Ended and registered anew, it would be out.
    assert_eq!(verb(&ada, "isolated", "terminate"), 403);
    ada.delete("/v1/agents/isolated").problem(403, "forbidden");
    daemon.client().delete("/v1/agents/isolated").ok(200);

    let policy = json!({"agents": {"limited": {"lifecycle": {"quarantine_threshold": 3}}}});
    let json = ("Content-Type", "application/json");
    let body = policy.to_string();
    let applied = daemon
        .client()
        .send("PUT", "/v1/policies", &[json], Some(body.as_bytes()));
    applied.ok(200);
    ada.delete("/v1/agents/limited").problem(403, "forbidden");
    assert_eq!(verb(&ada, "limited", "stop"), 200);
}

#[test]
fn an_agent_cancels_the_tasks_that_it_submitted_and_no_others() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let agent = daemon.of_role("agent", "echo");
    // Nobody has it, so it waits.
    let task = json!({"type": "nobody-can"});
    let receipt = agent.post("/v1/tasks", &task).ok(202);
    let own = find_id(&receipt);
    let other = daemon.submit(&task);
    let cancel = |id: &str| agent.post(&format!("/v1/tasks/{id}/cancel"), &json!({}));
    cancel(&other).problem(403, "forbidden");
    cancel("no-such-task").problem(403, "forbidden");
    cancel(&own).ok(200);
    assert_eq!(daemon.task(&own)["state"], "cancelled");
    assert_eq!(daemon.task(&other)["state"], "parked");
    agent
        .post(&format!("/v1/tasks/{own}/retry"), &json!({}))
        .problem(403, "forbidden");
}

fn find_id(receipt: &Value) -> String {
    let id = receipt["id"]
        .as_str()
        .or_else(|| receipt["taskId"].as_str());
    id.unwrap_or_else(|| panic!("no id in {receipt}"))
        .to_owned()
}
