//! Budgets: exact at the boundary, over a whole tree, through `kill -9`, and enforced outside the agent.

use std::fs;
use std::time::Duration;

use mesh_messages::Timestamp;
use mesh_tests::{Bundle, Client, Daemon, Home, eventually, has_python};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// An agent that does what the input says: says what it used, delegates, fails, or works on and on.
const SPENDER: &str = r#"
import json, sys
def say(**line): print(json.dumps(line), flush=True)
say(type="HANDSHAKE", payload={"name": "spender", "version": "1.0.0", "capabilities": ["spend"]})
parents, refused = {}, []
for line in sys.stdin:
    got = json.loads(line)
    task = got.get("task_id")
    if got["type"] == "TASK_REQUEST":
        order = got["payload"]["input"]
        if "progress" in order:
            say(type="STATUS_UPDATE", task_id=task, payload={"usage": order["progress"]})
        if order.get("way") == "fail":
            say(type="TASK_RESULT", task_id=task, payload={"ok": False, "error": {"class": "unavailable", "message": "later"}})
        elif order.get("way") == "die":
            sys.exit(3)
        elif order.get("way") == "delegate":
            parents[task] = order["children"]
            for n in range(order["children"]):
                child = {"requirements": ["spend"], "input": {}}
                if "each" in order: child["budget"] = order["each"]
                say(type="TASK_REQUEST", id="%s/%d" % (task, n), task_id=task, payload=child)
        elif order.get("way") != "hang":
            payload = {"ok": True, "output": {}}
            if "usage" in order: payload["usage"] = order["usage"]
            say(type="TASK_RESULT", task_id=task, payload=payload)
    elif got["type"] == "TASK_RESULT":
        parent = got["in_reply_to"].rsplit("/", 1)[0]
        parents[parent] -= 1
        told = got["payload"]
        if not told["ok"]: refused.append(told["error"]["message"])
        if parents[parent] == 0:
            say(type="TASK_RESULT", task_id=parent, payload={"ok": True, "output": {"refused": refused}})
    elif got["type"] == "CONTROL":
        say(type="STATUS_UPDATE", in_reply_to=got["id"], task_id=task, payload={})
"#;

fn spender(id: &str, budget: &Value) -> Bundle {
    let bundle = Bundle::new(id)
        .set("capabilities", json!(["spend"]))
        .set("concurrency", json!(8))
        .file("spender.py", SPENDER)
        .set("entry", json!("spender.py"))
        .set("runtime", json!({"command": "python3"}));
    if budget.is_null() {
        return bundle;
    }
    bundle.set("budget", budget.clone())
}

fn order(input: &Value, budget: &Value) -> Value {
    let retry = json!({"maxAttempts": 50, "delayStrategy": "fixed", "baseDelayMs": 10});
    let mut task = json!({"requirements": ["spend"], "input": input, "retry": retry});
    if !budget.is_null() {
        task["budget"] = budget.clone();
    }
    task
}

fn budget(daemon: &Daemon, account: &str) -> Value {
    let path = format!("/v1/budgets/{account}");
    daemon.client().get(&path).ok(200)
}

/// The task, once it waits for its budget.
fn short(daemon: &Daemon, id: &str) -> Value {
    eventually("the task waits for its budget", LONG, || {
        let task = daemon.task(id);
        match (&task["state"], &task["waitingFor"]["reason"]) {
            (state, reason) if state == "parked" && reason == "budget" => Ok(task),
            other => Err(format!("{other:?}")),
        }
    })
}

fn question(task: &Value) -> String {
    task["waitingFor"]["tasks"][0].as_str().unwrap().to_owned()
}

fn answer(client: &Client, question: &str, text: &str) -> mesh_tests::Answer {
    let body = json!({"approve": true, "answer": text});
    client.post(&format!("/v1/inbox/{question}/answer"), &body)
}

fn attempts(task: &Value) -> usize {
    task["attempts"].as_array().unwrap().len()
}

#[test]
fn ten_calls_are_ten_also_across_kill_9_and_an_answer_lets_the_task_go_on() {
    if !has_python("ten_calls_are_ten_also_across_kill_9_and_an_answer_lets_the_task_go_on") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&spender("spender", &Value::Null));
    let id = daemon.submit(&order(&json!({"way": "fail"}), &json!({"calls": 10})));
    eventually("some attempts were made", LONG, || {
        let made = attempts(&daemon.task(&id));
        if made >= 3 {
            Ok(())
        } else {
            Err(made.to_string())
        }
    });
    let daemon = daemon.kill9().start();
    let task = short(&daemon, &id);
    assert_eq!(attempts(&task), 10, "not one more, not one less: {task}");
    let account = format!("task:{id}");
    let shown = budget(&daemon, &account);
    assert_eq!(
        (&shown["used"]["calls"], &shown["left"]["calls"]),
        (&json!(10), &json!(0))
    );
    assert!(
        task["waitingFor"]["detail"]
            .as_str()
            .unwrap()
            .contains("10 of 10 calls used")
    );
    let asked = question(&task);
    let daemon = daemon.kill9().start();
    let task = short(&daemon, &id);
    assert_eq!((question(&task), attempts(&task)), (asked.clone(), 10));
    assert_eq!(budget(&daemon, &account)["used"]["calls"], 10);

    let olga = daemon.of_role("operator", "olga");
    let victor = daemon.of_role("viewer", "victor");
    assert_eq!(answer(&victor, &asked, "2").status, 403);
    answer(&olga, &asked, "soon").problem(422, "invalid_answer");
    answer(&olga, &asked, "2").ok(200);
    answer(&olga, &asked, "2").problem(409, "not_waiting_for_approval");
    let task = eventually("two more attempts", LONG, || {
        let task = short(&daemon, &id);
        if attempts(&task) == 12 {
            Ok(task)
        } else {
            Err(task.to_string())
        }
    });
    answer(&olga, &question(&task), "cancel").ok(200);
    assert_eq!(daemon.ended(&id, LONG)["state"], "cancelled");
    assert!(!daemon.audit("kind=task.budget").is_empty());
    daemon
        .client()
        .get(&format!("/v1/budgets/{account}"))
        .problem(404, "budget_not_found");
}

#[test]
fn a_tree_of_delegation_shares_one_budget_and_a_childs_own_is_carved_from_it() {
    if !has_python("a_tree_of_delegation_shares_one_budget_and_a_childs_own_is_carved_from_it") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&spender("spender", &Value::Null));
    let input = json!({"way": "delegate", "children": 4});
    let id = daemon.submit(&order(&input, &json!({"attempts": 4})));
    let account = format!("task:{id}");
    // Itself and three children: the fourth waits.
    let shown = eventually("one child waits", LONG, || {
        let shown = budget(&daemon, &account);
        let waits = shown["waiting"].as_array().map_or(0, Vec::len) == 1;
        let done = shown["used"]["attempts"] == 3;
        if waits && done {
            Ok(shown)
        } else {
            Err(shown.to_string())
        }
    });
    assert_eq!(shown["reserved"]["attempts"], 1, "{shown}");
    let mut child = order(&json!({}), &json!({"attempts": 1}));
    child["parent"] = json!(id);
    let refused = daemon
        .client()
        .post("/v1/tasks", &child)
        .problem(422, "invalid_task");
    assert_eq!(refused["field"], "budget.attempts");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("asks for 1, and 0 is left of {account}")),
        "{detail}"
    );
    let asked = shown["question"].as_str().unwrap();
    let ran = daemon.ctl(&["inbox", "answer", asked, "3"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(daemon.ended(&id, LONG)["state"], "succeeded");
}

#[test]
fn what_is_bounded_holds_for_agents_that_say_nothing_or_too_much() {
    if !has_python("what_is_bounded_holds_for_agents_that_say_nothing_or_too_much") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&spender("spender", &Value::Null));
    // It says nothing and does not stop.
    let id = daemon.submit(&order(&json!({"way": "hang"}), &json!({"wallTimeMs": 700})));
    let task = short(&daemon, &id);
    assert_eq!(task["attempts"][0]["error"]["class"], "quota");
    assert_eq!(
        budget(&daemon, &format!("task:{id}"))["used"]["wallTimeMs"],
        700
    );
    assert_eq!(daemon.client().get("/v1/gates").ok(200)["items"], json!([]));
    // It says that it used more than there is, and works on.
    let spend = json!({"way": "hang", "progress": {"tokens": 120, "money": 0.5}});
    let id = daemon.submit(&order(
        &spend,
        &json!({"tokens": 100, "reserve": {"tokens": 50}}),
    ));
    let task = short(&daemon, &id);
    assert_eq!(task["attempts"][0]["used"]["tokens"], 120);
    assert_eq!(task["attempts"][0]["used"]["money"], "0.5");
    // Its result is taken, and what it used beyond the budget is shown.
    let spend = json!({"usage": {"tokens": 30}});
    let id = daemon.submit(&order(&spend, &json!({"tokens": 20})));
    let task = daemon.ended(&id, LONG);
    assert_eq!(
        (&task["state"], &task["attempts"][0]["used"]["tokens"]),
        (&json!("succeeded"), &json!(30))
    );
}

#[test]
fn an_agents_window_rolls_over_and_a_providers_account_is_the_operators_to_bound() {
    if !has_python("an_agents_window_rolls_over_and_a_providers_account_is_the_operators_to_bound")
    {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&spender(
        "windowed",
        &json!({"calls": 2, "per": "3s", "provider": "acme"}),
    ));
    let tasks: Vec<_> = (0..3)
        .map(|_| daemon.submit(&order(&json!({}), &Value::Null)))
        .collect();
    for id in &tasks[..2] {
        daemon.ended(id, LONG);
    }
    // By itself, without anybody's answer, and not before the window of the first is over.
    assert_eq!(daemon.ended(&tasks[2], LONG)["state"], "succeeded");
    let mut began: Vec<Timestamp> = tasks
        .iter()
        .map(|id| {
            let task = daemon.client().get(&format!("/v1/tasks/{id}")).ok(200);
            serde_json::from_value(task["attempts"][0]["startedAt"].clone()).expect("a time")
        })
        .collect();
    began.sort_unstable();
    let passed = began[2].since(began[0]);
    assert!(passed >= Duration::from_secs(3), "{passed:?}");

    let ran = daemon.ctl(&[
        "budget",
        "set",
        "provider:acme",
        "--per-ms",
        "3600000",
        "--attempts",
        "1",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let olga = daemon.of_role("operator", "olga");
    let document = json!({"budgets": {"provider:acme": null}});
    assert_eq!(olga.put("/v1/policies", &document).status, 403);
    let wrong = json!({"budgets": {"acme": {"perMs": 1, "calls": 1}}});
    daemon
        .client()
        .put("/v1/policies", &wrong)
        .problem(422, "invalid_budget");
    let first = daemon.submit(&order(&json!({}), &Value::Null));
    daemon.ended(&first, LONG);
    let second = daemon.submit(&order(&json!({}), &Value::Null));
    let task = eventually("the provider's account is used up", LONG, || {
        let task = short(&daemon, &second);
        let detail = task["waitingFor"]["detail"].to_string();
        if detail.contains("provider:acme") {
            Ok(task)
        } else {
            Err(detail)
        }
    });
    // Everybody's account is an admin's to raise.
    answer(&olga, &question(&task), "1").problem(403, "forbidden");
    let daemon = daemon.kill9().start();
    let listed = daemon.ctl(&["budget", "list"]);
    assert!(listed.out.contains("provider:acme"), "{}", listed.out);
    answer(daemon.client(), &question(&task), "1").ok(200);
    assert_eq!(daemon.ended(&second, LONG)["state"], "succeeded");
    let third = daemon.submit(&order(&json!({}), &Value::Null));
    short(&daemon, &third);
    daemon.client().put("/v1/policies", &document).ok(200);
    assert_eq!(daemon.ended(&third, LONG)["state"], "succeeded");
}

#[test]
fn restarts_are_counted_across_kill_9_and_what_has_none_left_waits_for_a_person() {
    if !has_python("restarts_are_counted_across_kill_9_and_what_has_none_left_waits_for_a_person") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&spender("spender", &Value::Null));
    let id = daemon.submit(&order(&json!({"way": "fail"}), &json!({"restarts": 3})));
    let task = short(&daemon, &id);
    assert_eq!(
        attempts(&task),
        4,
        "the first is none, three are restarts: {task}"
    );
    let detail = task["waitingFor"]["detail"].as_str().unwrap();
    assert!(detail.contains("3 of 3 restarts used"), "{detail}");
    let daemon = daemon.kill9().start();
    let account = format!("task:{id}");
    let shown = budget(&daemon, &account);
    assert_eq!(
        (&shown["used"]["restarts"], &shown["left"]["restarts"]),
        (&json!(3), &json!(0))
    );
    answer(daemon.client(), &question(&task), "2").ok(200);
    let task = eventually("it is short again", LONG, || {
        let task = short(&daemon, &id);
        if attempts(&task) == 6 {
            Ok(task)
        } else {
            Err(attempts(&task).to_string())
        }
    });
    let ran = daemon.ctl(&["inbox", "answer", &question(&task), "cancel"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(daemon.ended(&id, LONG)["state"], "cancelled");
}

#[test]
fn an_agent_whose_instances_fail_too_often_is_given_no_more_work_until_somebody_says_so() {
    let name =
        "an_agent_whose_instances_fail_too_often_is_given_no_more_work_until_somebody_says_so";
    if !has_python(name) {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&spender("frail", &json!({"restarts": 1, "per": "1h"})));
    let mut deadly = order(&json!({"way": "die"}), &Value::Null);
    deadly["retry"]["maxAttempts"] = json!(1);
    let first = daemon.submit(&deadly);
    assert_eq!(daemon.ended(&first, LONG)["state"], "dead_lettered");
    let second = daemon.submit(&order(&json!({}), &Value::Null));
    eventually("its restarts are used up", LONG, || {
        let task = short(&daemon, &second);
        let detail = task["waitingFor"]["detail"].to_string();
        if detail.contains("1 of 1 restarts used") {
            Ok(())
        } else {
            Err(detail)
        }
    });
    let records = daemon.audit("agent=frail&kind=task.budget");
    let counted: Vec<_> = records
        .iter()
        .filter(|record| record["payload"]["step"]["step"] == "restarted")
        .collect();
    assert_eq!(counted.len(), 1, "{records:?}");
    let asked = question(&short(&daemon, &second));
    // An orderly stop and a kill of meshd are no failures of the agent.
    let daemon = daemon.kill9().start();
    let shown = budget(&daemon, "agent:frail");
    assert_eq!(shown["used"]["restarts"], 1, "{shown}");
    // The question of before is the one to answer, also once the agent is up again.
    daemon.executing("frail", 1, LONG);
    assert_eq!(question(&short(&daemon, &second)), asked);
    let olga = daemon.of_role("operator", "olga");
    answer(&olga, &asked, "1").problem(403, "forbidden");
    answer(daemon.client(), &asked, "1").ok(200);
    assert_eq!(daemon.ended(&second, LONG)["state"], "succeeded");
}

#[test]
fn a_delegation_names_a_part_of_its_parents_budget_and_never_more_than_is_left() {
    if !has_python("a_delegation_names_a_part_of_its_parents_budget_and_never_more_than_is_left") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&spender("spender", &Value::Null));
    // Of four calls one is its own, and three are left for twice two.
    let input = json!({"way": "delegate", "children": 2, "each": {"calls": 2}});
    let id = daemon.submit(&order(&input, &json!({"calls": 4})));
    let task = daemon.ended(&id, LONG);
    let refused = task["output"]["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 1, "{task}");
    let told = refused[0].as_str().unwrap();
    assert!(
        told.contains(&format!("asks for 2, and 1 is left of task:{id}")),
        "{told}"
    );
    let children = daemon.audit("kind=task.submitted");
    let of_agent: Vec<_> = children
        .iter()
        .filter(|record| record["payload"]["by"] == "agent:spender")
        .collect();
    assert_eq!(
        of_agent.len(),
        1,
        "what is refused is no task: {children:?}"
    );
    assert_eq!(of_agent[0]["payload"]["spec"]["budget"]["calls"], 2);
}

#[test]
fn what_was_used_in_a_window_is_known_when_the_records_of_its_tasks_are_erased() {
    if !has_python("what_was_used_in_a_window_is_known_when_the_records_of_its_tasks_are_erased") {
        return;
    }
    let daemon = Home::new()
        .config("journal:\n  retention:\n    max_tasks: 0\n")
        .start();
    daemon.deploy(&spender("spender", &json!({"calls": 10, "per": "1h"})));
    for _ in 0..3 {
        let id = daemon.submit(&order(&json!({}), &Value::Null));
        daemon.ended(&id, LONG);
    }
    eventually("their records are erased", LONG, || {
        let erased = daemon.audit("kind=tasks.erased");
        let records = erased
            .iter()
            .map(|record| record["payload"]["records"].as_u64().unwrap())
            .sum::<u64>();
        let left = daemon.client().get("/v1/tasks").ok(200);
        let left = left["items"].as_array().unwrap().len();
        if records >= 12 && left == 0 {
            Ok(())
        } else {
            Err(format!("{records} records, {left} tasks"))
        }
    });
    // No snapshot, no read side: all that is left is the log.
    let home = daemon.kill9();
    fs::remove_dir_all(home.data().join("journal/snapshots")).ok();
    fs::remove_dir_all(home.data().join("projections")).unwrap();
    let daemon = home.start();
    let shown = eventually("the agent is known", LONG, || {
        let answer = daemon.client().get("/v1/budgets/agent:spender");
        if answer.status == 200 {
            Ok(answer.json())
        } else {
            Err(answer.text())
        }
    });
    assert_eq!(
        (&shown["used"]["calls"], &shown["left"]["calls"]),
        (&json!(3), &json!(7))
    );
}
