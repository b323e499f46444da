//! Tasks that no single agent can do: given to teams by themselves, against the real daemon and across `kill -9`.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

const END_MAX: Duration = Duration::from_mins(1);

/// Says who it is, with what it was given.
fn member(id: &str, capability: &str) -> Bundle {
    let script = format!("sleep 0.5; printf '{{\"by\": \"{id}\", \"of\": '; cat; printf '}}'");
    Bundle::command(id, &script).set("capabilities", json!([capability]))
}

fn both() -> Value {
    json!({"requirements": ["research", "write"], "input": {"topic": "tides"}})
}

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.deploy(&member("ann", "research"));
    daemon.deploy(&member("bob", "write"));
    daemon
}

#[test]
fn a_team_does_what_nobody_can_alone_and_everything_shows_it() {
    let daemon = daemon();
    let id = daemon.submit(&both());
    let told = daemon
        .client()
        .get(&format!("/v1/tasks/{id}/explain"))
        .ok(200);
    let team = &told["teamwork"];
    assert_eq!(team["pattern"], "cross_functional", "{told}");
    assert_eq!(team["lead"], "ann", "{told}");
    assert_eq!(told["waitingFor"]["reason"], "team", "{told}");
    assert_eq!(
        told["waitingFor"]["agents"],
        json!(["ann", "bob"]),
        "{told}"
    );
    let board = daemon.client().get("/v1/board").ok(200);
    let column = &board["columns"][2];
    let cards = column["cards"].as_array().unwrap();
    let card = cards.iter().find(|card| card["id"] == id.as_str());
    let card = card.unwrap_or_else(|| panic!("{board}"));
    assert_eq!(card["waitingFor"]["reason"], "team", "{card}");
    assert_eq!(card["agent"], "ann", "its lead: {card}");
    let shown = daemon.ctl(&["task", "show", &id]).exits(0);
    assert!(shown.out.contains("led by ann"), "{}", shown.out);
    let task = daemon.ended(&id, END_MAX);
    let of = json!({"topic": "tides"});
    assert_eq!(
        task["output"],
        json!({"research": {"by": "ann", "of": of}, "write": {"by": "bob", "of": of}}),
        "{task}"
    );
    assert_eq!(task["teamwork"]["end"], "done");
    for part in task["teamwork"]["parts"].as_array().unwrap() {
        let part = daemon.task(part["task"].as_str().unwrap());
        assert_eq!(
            (&part["parent"], &part["state"]),
            (&json!(id), &json!("succeeded"))
        );
        assert_eq!(part["submittedBy"], task["submittedBy"]);
    }
    let events = daemon
        .client()
        .get(&format!("/v1/tasks/{id}/events"))
        .ok(200);
    let kinds: Vec<_> = events["items"]
        .as_array()
        .unwrap_or_else(|| panic!("{events}"))
        .iter()
        .map(|event| event["kind"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "task.team").count(),
        3,
        "formed, began, done: {kinds:?}"
    );
}

#[test]
fn a_team_outlives_kills_and_does_its_work_once() {
    let home = Home::new();
    let mut daemon = home.start();
    daemon.deploy(&member("ann", "research"));
    daemon.deploy(&member("bob", "write"));
    daemon.deploy(&member("eve", "lead"));
    let mut task = both();
    task["idempotencyKey"] = json!("once");
    let id = daemon.submit(&task);
    let mut seen = Vec::new();
    // Killed in each phase that it can be seen in.
    let ended = loop {
        let now = eventually("the team gets on", END_MAX, || {
            let task = daemon.task(&id);
            let phase = task["teamwork"]["phase"].clone();
            if task["endedAt"].is_string() || !seen.contains(&phase) {
                Ok(task)
            } else {
                Err(task.to_string())
            }
        });
        if now["endedAt"].is_string() {
            break now;
        }
        seen.push(now["teamwork"]["phase"].clone());
        daemon = daemon.kill9().start();
        let again = daemon.client().post("/v1/tasks", &task).ok(200);
        assert_eq!(again["id"], id.as_str());
    };
    assert_eq!(seen, [json!("brief"), json!("parts"), json!("decide")]);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["teamwork"]["number"], 1, "{ended}");
    let decided = &ended["output"]["of"];
    assert_eq!(
        (&ended["output"]["by"], &decided["phase"]),
        (&json!("eve"), &json!("decide"))
    );
    assert_eq!(decided["results"]["part-1"]["by"], "ann", "{ended}");
    assert_eq!(
        decided["results"]["part-2"]["of"]["brief"]["by"], "eve",
        "{ended}"
    );
    let all = daemon.client().get("/v1/tasks?limit=100").ok(200);
    let all = all["items"].as_array().unwrap();
    assert_eq!(all.len(), 5, "the task, brief, two parts, decide");
}

#[test]
fn no_team_is_formed_for_who_is_away_for_a_while_nor_where_something_is_missing() {
    let daemon = daemon();
    daemon.deploy(&member("all", "research").set("capabilities", json!(["research", "write"])));
    daemon
        .client()
        .post("/v1/agents/all/stop", &json!({}))
        .ok(200);
    let waiting = daemon.submit(&both());
    let task = daemon.task_state(&waiting, "parked", END_MAX);
    assert_eq!(task["waitingFor"]["reason"], "agent_down", "{task}");
    let missing = daemon.submit(&json!({"requirements": ["research", "fly"]}));
    let task = daemon.task_state(&missing, "parked", END_MAX);
    assert_eq!(task["waitingFor"]["reason"], "no_agent", "{task}");
    assert!(
        task["waitingFor"]["detail"]
            .as_str()
            .unwrap()
            .contains("nobody has fly"),
        "{task}"
    );
    let alone = daemon.submit(&json!({"requirements": ["research", "fly"], "team": "never"}));
    daemon.task_state(&alone, "parked", END_MAX);
    let wrong =
        json!({"requirements": ["research", "fly"], "agent": "ann", "team": "hierarchical"});
    let problem = daemon
        .client()
        .post("/v1/tasks", &wrong)
        .problem(422, "invalid_task");
    assert_eq!(problem["field"], "team", "{problem}");
    daemon
        .client()
        .post("/v1/agents/all/start", &json!({}))
        .ok(200);
    let task = daemon.ended(&waiting, END_MAX);
    assert_eq!(task["output"]["by"], "all", "{task}");
    // What was missing is there now.
    daemon.deploy(&member("cid", "fly"));
    let task = daemon.ended(&missing, END_MAX);
    assert_eq!(task["output"]["fly"]["by"], "cid", "{task}");
    assert_eq!(daemon.task(&alone)["state"], "parked");
}

/// A card splits into cards with dependencies, and closes when they have; also across `kill -9`.
#[test]
fn a_task_is_split_by_order_and_ends_with_its_parts() {
    let daemon = daemon();
    let id = daemon.submit(&json!({"requirements": ["report"], "type": "report"}));
    let file = daemon.home().scratch().join("parts.yaml");
    let text = "parts:\n\
        - {name: text, after: [facts], task: {requirements: [write], input: {about: tides}}}\n\
        - {name: facts, task: {requirements: [research], input: 1}}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let viewer = daemon.of_role("viewer", "vic");
    let body = json!({"parts": [{"name": "a", "task": {"type": "x"}}]});
    viewer
        .post(&format!("/v1/tasks/{id}/split"), &body)
        .problem(403, "forbidden");
    daemon.ctl(&["task", "split", &id, file]).exits(0);
    let shown = daemon.ctl(&["task", "show", &id]).exits(0);
    assert!(shown.out.contains("split into"), "{}", shown.out);
    let daemon = daemon.kill9().start();
    let task = daemon.ended(&id, END_MAX);
    assert_eq!(task["state"], "succeeded", "{task}");
    assert_eq!(task["output"]["facts"]["by"], "ann", "{task}");
    assert_eq!(task["output"]["text"]["by"], "bob", "{task}");
    let part = |name: &str| {
        let parts = task["teamwork"]["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["name"] == name).unwrap();
        daemon.ended(part["task"].as_str().unwrap(), END_MAX)
    };
    let (facts, text) = (part("facts"), part("text"));
    assert_eq!(text["dependsOn"], json!([facts["id"]]), "{text}");
    let ended = facts["endedAt"].as_str().unwrap();
    assert!(
        ended <= text["attempts"][0]["startedAt"].as_str().unwrap(),
        "{text}"
    );
    let again = daemon
        .client()
        .post(&format!("/v1/tasks/{id}/split"), &body);
    again.problem(409, "task_ended");
}
