//! `meshctl export --sql`: the script loads into a real database, and its rows are what happened.

use std::process::Command;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, has_python};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// Loads a script into an empty database and answers with every table's rows by column, and its columns with their defaults.
const LOAD: &str = r#"
import json, sqlite3, sys
db = sqlite3.connect(":memory:")
db.executescript(open(sys.argv[1], encoding="utf-8").read())
db.row_factory = sqlite3.Row
tables = ["agent_profiles", "task_assignments", "agent_relationships", "learning_insights"]
print(json.dumps({
    table: {
        "columns": {c["name"]: c["dflt_value"] for c in db.execute(f"PRAGMA table_info({table})")},
        "rows": [dict(row) for row in db.execute(f"SELECT * FROM {table} ORDER BY id")],
    } for table in tables
}))
"#;

fn loaded(daemon: &Daemon) -> Value {
    let file = daemon.home().scratch().join("mesh.sql");
    daemon
        .ctl(&["export", "--sql", "--out", file.to_str().unwrap()])
        .exits(0);
    let ran = Command::new("python3")
        .args(["-c", LOAD])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&ran.stderr),
        std::fs::read_to_string(&file).unwrap()
    );
    serde_json::from_slice(&ran.stdout).unwrap()
}

fn rows<'v>(loaded: &'v Value, table: &str) -> &'v [Value] {
    loaded[table]["rows"].as_array().unwrap()
}

/// A column that holds a JSON document.
fn document(row: &Value, column: &str) -> Value {
    serde_json::from_str(row[column].as_str().unwrap()).unwrap()
}

/// One value of the metrics endpoint.
fn metric(daemon: &Daemon, name: &str) -> String {
    let text = daemon.client().get("/metrics").text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .to_owned()
}

#[test]
fn the_tables_load_into_sqlite_and_hold_every_assignment_with_its_outcome() {
    if !has_python("the_tables_load_into_sqlite_and_hold_every_assignment_with_its_outcome") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo").set("name", json!("it's \"Echo\"; DROP TABLE x;--")));
    daemon.deploy(&Bundle::command(
        "refuser",
        "echo \"it's no use\" >&2; exit 9",
    ));
    for n in 0..5 {
        daemon.output("echo", &json!({ "n": n }));
    }
    let refused = daemon.ask("refuser", &json!({}));
    assert_eq!(daemon.ended(&refused, SOON)["state"], "failed");
    let waits = daemon.ask("nobody-can", &json!({}));

    let all = loaded(&daemon);
    let defaults = &all["agent_profiles"]["columns"];
    assert_eq!(
        (&defaults["capabilities"], &defaults["health_status"]),
        (&json!("'[]'"), &json!("'{}'"))
    );
    assert_eq!(
        all["agent_relationships"]["columns"]["strength"],
        json!("1.0")
    );
    let defaults = &all["learning_insights"]["columns"];
    assert_eq!(
        (&defaults["generalizable"], &defaults["applied_count"]),
        (&json!("false"), &json!("0"))
    );

    let agents = rows(&all, "agent_profiles");
    assert_eq!(agents.len(), 2);
    assert_eq!(agents[0]["id"], "echo");
    assert_eq!(agents[0]["name"], "it's \"Echo\"; DROP TABLE x;--");
    assert_eq!(document(&agents[0], "capabilities"), json!(["echo"]));
    assert_eq!(
        document(&agents[0], "performance_metrics")["succeeded"],
        json!(5)
    );
    assert_eq!(
        document(&agents[0], "health_status")["lifecycle"],
        "executing"
    );

    let assignments = rows(&all, "task_assignments");
    assert_eq!(
        assignments.len(),
        6,
        "{waits} waits and has none: {assignments:?}"
    );
    for row in assignments {
        let task = daemon.task(row["task_id"].as_str().unwrap());
        let assignment = &task["assignment"];
        assert_eq!(row["agent_id"], assignment["agentId"]);
        assert_eq!(row["confidence"], assignment["confidence"]);
        assert_eq!(document(row, "reasoning"), assignment["reasoning"]);
        assert_eq!(document(row, "risk_factors"), assignment["riskFactors"]);
        assert_eq!(row["estimated_duration"], assignment["estimatedDuration"]);
        let outcome = document(row, "outcome");
        assert_eq!(outcome["success"], json!(task["state"] == "succeeded"));
        assert_eq!(outcome["error"], task["error"]);
        let ended = task["endedAt"].as_str().unwrap().replace('T', " ");
        assert_eq!(row["completed_at"], ended.trim_end_matches('Z'));
    }
    assert_eq!(rows(&all, "agent_relationships"), &[] as &[Value]);
    let insights = rows(&all, "learning_insights");
    assert_eq!(insights.len(), 2);
    assert_eq!(document(&insights[0], "insights")["succeeded"], json!(5));
    assert_eq!(
        insights[0]["applied_count"],
        json!(4),
        "all but the first were decided with it"
    );

    // The metrics say the same as the table.
    assert_eq!(metric(&daemon, "tasks_total"), "7");
    assert_eq!(metric(&daemon, "tasks_completed"), "5");
    assert_eq!(metric(&daemon, "tasks_failed"), "1");
    let rate: f64 = metric(&daemon, "tasks_success_rate").parse().unwrap();
    assert!((rate - 5.0 / 6.0).abs() < 1e-9, "{rate}");
    assert_eq!(metric(&daemon, "task_routing_duration_count"), "6");
    assert_eq!(metric(&daemon, "task_completion_duration_count"), "6");

    // Another life of the daemon exports the same, and so do views that were made anew.
    let before = (
        assignments.to_vec(),
        insights.to_vec(),
        rows(&all, "agent_relationships").to_vec(),
    );
    let home = daemon.kill9();
    std::fs::remove_dir_all(home.data().join("projections")).unwrap();
    let daemon = home.start();
    let again = loaded(&daemon);
    assert_eq!(rows(&again, "task_assignments"), before.0);
    assert_eq!(rows(&again, "learning_insights"), before.1);
}

#[test]
fn earlier_attempts_have_rows_of_their_own_and_delegation_makes_a_relationship() {
    if !has_python("earlier_attempts_have_rows_of_their_own_and_delegation_makes_a_relationship") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::command("busy", "exit 75"));
    let task = json!({
        "requirements": ["busy"],
        "retry": { "maxAttempts": 3, "baseDelayMs": 1, "jitter": false },
    });
    let id = daemon.submit(&task);
    assert_eq!(daemon.ended(&id, SOON)["state"], "dead_lettered");
    let all = loaded(&daemon);
    let assignments = rows(&all, "task_assignments");
    assert_eq!(assignments.len(), 3, "{assignments:?}");
    for (row, attempt) in assignments.iter().zip(1..) {
        assert_eq!(row["id"], format!("{id}/{attempt}"));
        assert_eq!(document(row, "outcome")["success"], json!(false));
        assert!(row["completed_at"].is_string());
    }
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::rogue("boss", "delegate"));
    daemon.output("boss", &json!({ "to": "echo", "input": 1 }));
    let all = loaded(&daemon);
    let relations = rows(&all, "agent_relationships");
    assert_eq!(relations.len(), 1, "{relations:?}");
    let [from, to] = ["agent_a_id", "agent_b_id"].map(|column| &relations[0][column]);
    assert_eq!((from, to), (&json!("boss"), &json!("echo")));
    assert_eq!(relations[0]["strength"], json!(1.0), "the default");
    let context = json!({ "assigned": 1, "succeeded": 1, "failed": 0 });
    assert_eq!(document(&relations[0], "context"), context);

    let issued = ["token", "issue", "--role", "agent", "--subject", "echo"];
    let issued = daemon.ctl(&issued).exits(0);
    let agent = daemon.client().with_token(Some(issued.out.trim()));
    agent.get("/v1/export/sql").problem(403, "forbidden");
}
