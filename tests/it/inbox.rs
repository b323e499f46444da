//! What people are asked: durable, answered once, by those whom policy names, and never by the agent that asks.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, eventually, has_python};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(1);

/// An agent that hands the input of each task on as a request to a person, and its answer back as its result.
const ASKER: &str = r#"
import json, sys
def say(**line): print(json.dumps(line), flush=True)
say(type="HANDSHAKE", payload={"name": "asker", "version": "1.0.0", "capabilities": ["ask"]})
task = {}
for line in sys.stdin:
    got = json.loads(line)
    if got["type"] == "TASK_REQUEST":
        task[got["task_id"]] = True
        say(type="TASK_REQUEST", id="q-" + got["task_id"], task_id=got["task_id"], payload=got["payload"]["input"])
    elif got["type"] == "TASK_RESULT":
        parent = got["in_reply_to"][2:]
        say(type="TASK_RESULT", task_id=parent, payload={"ok": True, "output": got["payload"]})
"#;

fn asker(id: &str) -> Bundle {
    Bundle::new(id)
        .set("capabilities", json!(["ask"]))
        .file("asker.py", ASKER)
        .set("entry", json!("asker.py"))
        .set("runtime", json!({"command": "python3"}))
}

fn answer(client: &Client, id: &Value, body: &Value) -> mesh_tests::Answer {
    client.post(&format!("/v1/inbox/{}/answer", id.as_str().unwrap()), body)
}

#[test]
fn what_an_agent_asks_survives_kill_9_and_its_answer_reaches_the_agent_that_asks_again() {
    if !has_python(
        "what_an_agent_asks_survives_kill_9_and_its_answer_reaches_the_agent_that_asks_again",
    ) {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&asker("asker"));
    let question =
        json!({"approval": {"kind": "question", "message": "which?", "choices": ["red", "blue"]}});
    let task = daemon.ask("ask", &question);
    let item = daemon.asked(LONG);
    assert_eq!(
        (
            &item["kind"],
            &item["message"],
            &item["askedBy"],
            &item["parent"],
            &item["role"]
        ),
        (
            &json!("question"),
            &json!("which?"),
            &json!("agent:asker"),
            &json!(task),
            &json!("operator")
        ),
    );
    let daemon = daemon.kill9().start();
    let same = daemon.asked(LONG);
    assert_eq!(
        (&same["id"], &same["expiresAt"]),
        (&item["id"], &item["expiresAt"])
    );
    let olga = daemon.of_role("operator", "olga");
    for wrong in [
        json!({"approve": true}),
        json!({"approve": true, "answer": "green"}),
    ] {
        let problem = answer(&olga, &item["id"], &wrong).problem(422, "invalid_answer");
        assert_eq!(problem["field"], "answer");
    }
    let answered = answer(
        &olga,
        &item["id"],
        &json!({"approve": true, "answer": "red"}),
    )
    .ok(200);
    assert_eq!(
        (&answered["state"], &answered["answered"]["by"]),
        (&json!("approved"), &json!("user:olga"))
    );
    let ended = daemon.ended(&task, LONG);
    assert_eq!(ended["output"]["output"]["answer"], "red", "{ended}");
    assert_eq!(daemon.inbox(), Vec::<Value>::new());
    let late = json!({"approve": false});
    answer(&olga, &item["id"], &late).problem(409, "not_waiting_for_approval");
    let daemon = daemon.kill9().start();
    let kept = daemon
        .client()
        .get(&format!("/v1/inbox/{}", item["id"].as_str().unwrap()))
        .ok(200);
    assert_eq!(kept["answered"], answered["answered"]);
}

#[test]
fn policy_decides_what_is_asked_and_of_whom_whatever_the_agent_says() {
    if !has_python("policy_decides_what_is_asked_and_of_whom_whatever_the_agent_says") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&asker("asker"));
    let rules = json!([
        {"action": "file.read", "decision": "allow"},
        {"action": "file.*", "decision": "deny"},
        {"action": "net.*", "decision": "ask", "role": "admin"},
    ]);
    let document = json!({"default": {"approvals": rules}});
    daemon
        .client()
        .send(
            "PUT",
            "/v1/policies",
            &[("content-type", "application/json")],
            Some(document.to_string().as_bytes()),
        )
        .ok(200);
    let permission = |action: &str| {
        json!({"approval": {
            "kind": "permission", "role": "operator", "permission": {"action": action, "resource": "x"},
        }})
    };

    let read = daemon.ended(&daemon.ask("ask", &permission("file.read")), LONG);
    assert_eq!(read["output"]["ok"], true, "{read}");
    assert_eq!(read["output"]["output"]["by"], "policy", "{read}");
    let delete = daemon.ended(&daemon.ask("ask", &permission("file.delete")), LONG);
    assert_eq!(delete["output"]["ok"], false, "{delete}");
    assert_eq!(delete["output"]["error"]["class"], "refusal", "{delete}");
    let all = daemon
        .client()
        .get("/v1/inbox?state=all&kind=permission")
        .ok(200);
    let rules: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["rule"].clone())
        .collect();
    assert_eq!(rules, ["default.approvals[1]", "default.approvals[0]"]);

    let task = daemon.ask("ask", &permission("net.open"));
    let item = daemon.asked(LONG);
    assert_eq!(
        (&item["role"], &item["rule"]),
        (&json!("admin"), &json!("default.approvals[2]"))
    );
    let yes = json!({"approve": true});
    for (role, status, code) in [
        ("viewer", 403, "forbidden"),
        ("operator", 403, "forbidden"),
        ("publisher", 403, "forbidden"),
    ] {
        let caller = daemon.of_role(role, role);
        answer(&caller, &item["id"], &yes).problem(status, code);
        caller
            .post(
                &format!("/v1/tasks/{}/approve", item["id"].as_str().unwrap()),
                &yes,
            )
            .problem(status, code);
    }
    answer(&daemon.of_role("agent", "asker"), &item["id"], &yes).problem(403, "forbidden");
    eventually("the refused answer is in the audit", LONG, || {
        let denied = daemon.audit("kind=access.denied");
        let found = denied.iter().any(|record| {
            record["payload"] == json!({
                "action": "inbox.answer", "resource": format!("/v1/inbox/{}", item["id"].as_str().unwrap()),
                "user": "user:operator", "reason": "Insufficient permissions",
            })
        });
        if found {
            Ok(())
        } else {
            Err(format!("{denied:?}"))
        }
    });
    assert_eq!(
        daemon.asked(LONG)["id"],
        item["id"],
        "a refused answer changes nothing"
    );
    daemon
        .ctl(&["inbox", "approve", item["id"].as_str().unwrap()])
        .exits(0);
    assert_eq!(
        daemon.ended(&task, LONG)["output"]["output"]["by"],
        "user:admin"
    );
    let approved = daemon.audit("kind=task.approved");
    assert_eq!(approved.len(), 3, "{approved:?}");
}

#[test]
fn of_many_answers_at_once_exactly_one_counts() {
    let daemon = Daemon::start();
    let task = daemon.submit(&json!({"approval": {"message": "ship it?"}}));
    let callers: Vec<_> = (0..8)
        .map(|n| daemon.of_role("operator", &format!("o{n}")))
        .collect();
    let barrier = Arc::new(Barrier::new(callers.len()));
    let answers: Vec<_> = callers
        .into_iter()
        .enumerate()
        .map(|(n, caller)| {
            let (barrier, task) = (Arc::clone(&barrier), json!(task));
            std::thread::spawn(move || {
                barrier.wait();
                answer(&caller, &task, &json!({"approve": n % 2 == 0})).status
            })
        })
        .collect();
    let statuses: Vec<_> = answers
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|status| **status == 409).count(),
        7,
        "{statuses:?}"
    );
    assert_eq!(daemon.audit("kind=task.approved").len(), 1);
}

#[test]
fn a_request_that_nobody_answers_expires_and_one_that_is_cancelled_is_withdrawn() {
    let daemon = Daemon::start();
    let brief = daemon.submit(&json!({"approval": {"message": "soon?"}, "deadlineMs": 200}));
    let dropped = daemon.submit(&json!({"approval": {"message": "never mind"}}));
    daemon
        .client()
        .post(&format!("/v1/tasks/{dropped}/cancel"), &json!({}))
        .ok(200);
    for (id, state) in [(&brief, "expired"), (&dropped, "withdrawn")] {
        eventually("it is over", LONG, || {
            let item = daemon.client().get(&format!("/v1/inbox/{id}")).ok(200);
            if item["state"] == state {
                Ok(())
            } else {
                Err(item.to_string())
            }
        });
        answer(daemon.client(), &json!(id), &json!({"approve": true}))
            .problem(409, "not_waiting_for_approval");
    }
    assert_eq!(daemon.inbox(), Vec::<Value>::new());
}

#[test]
fn a_workflows_approval_is_in_the_inbox_and_the_list_has_pages() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let document = json!({"name": "ship", "version": "1", "steps": [
        {"id": "sign", "approval": {"message": "ship?", "role": "admin"}},
        {"id": "go", "after": ["sign"], "requirements": ["echo"], "input": "gone"},
    ]});
    let run = daemon
        .client()
        .post("/v1/workflows", &json!({"workflow": document, "input": {}}))
        .ok(202);
    let item = daemon.asked(LONG);
    assert_eq!(
        (&item["message"], &item["role"]),
        (&json!("ship?"), &json!("admin"))
    );
    // Its card says whose answer it is that is waited for.
    let board = daemon.client().get("/v1/board").ok(200);
    assert!(
        board
            .to_string()
            .contains("an admin has to approve or deny it: ship?"),
        "{board}"
    );
    let shown = format!("/v1/workflows/{}", run["id"].as_str().unwrap());
    let shown = daemon.client().get(&shown).ok(200);
    assert_eq!(
        shown["steps"][0]["waitingFor"], "an admin has to approve or deny it",
        "{shown}"
    );
    let operator = daemon.of_role("operator", "olga");
    answer(&operator, &item["id"], &json!({"approve": true})).problem(403, "forbidden");
    answer(daemon.client(), &item["id"], &json!({"approve": true})).ok(200);
    let run = format!("/v1/workflows/{}?wait=60s", run["id"].as_str().unwrap());
    assert_eq!(daemon.client().get(&run).ok(200)["state"], "succeeded");

    for n in 0..5 {
        daemon.submit(&json!({"approval": {"message": format!("{n}?")}}));
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/inbox?limit=2".to_owned());
    loop {
        let page = daemon.client().get(&path).ok(200);
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["message"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) => path = format!("/v1/inbox?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["4?", "3?", "2?", "1?", "0?"]);
    let listed = daemon.ctl(&["inbox", "list", "-o", "json"]).exits(0).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 5);
    let shown = daemon
        .ctl(&["inbox", "show", listed["items"][0]["id"].as_str().unwrap()])
        .exits(0);
    assert!(shown.out.contains("4?"), "{}", shown.out);
    daemon
        .client()
        .get("/v1/inbox/nobody")
        .problem(404, "not_in_inbox");
    let work = daemon.ask("echo", &json!(1));
    daemon
        .client()
        .get(&format!("/v1/inbox/{work}"))
        .problem(404, "not_in_inbox");
    daemon
        .client()
        .get("/v1/inbox?state=nonsense")
        .problem(400, "invalid_query");
}

#[test]
fn requests_that_make_no_sense_are_refused_with_the_field() {
    let daemon = Daemon::start();
    for (approval, field) in [
        (json!({"kind": "permission"}), "approval.permission"),
        (
            json!({"permission": {"action": "a"}}),
            "approval.permission",
        ),
        (json!({"choices": ["a"]}), "approval.choices"),
        (
            json!({"kind": "question", "choices": ["a", "a"]}),
            "approval.choices[1]",
        ),
        (
            json!({"kind": "permission", "permission": {"action": ""}}),
            "approval.permission.action",
        ),
    ] {
        let problem = daemon
            .client()
            .post("/v1/tasks", &json!({"approval": approval}))
            .problem(422, "invalid_task");
        assert_eq!(problem["field"], field, "{problem}");
    }
    daemon
        .client()
        .post("/v1/tasks", &json!({"approval": {"role": "agent"}}))
        .problem(422, "invalid_value");
    assert_eq!(daemon.inbox(), Vec::<Value>::new());
}

#[test]
fn an_agents_open_questions_are_bounded() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let agent = daemon.of_role("agent", "echo");
    let ask = json!({"approval": {"message": "again?"}});
    let many: Vec<_> = (0..100).map(|_| ask.clone()).collect();
    agent.post("/v1/tasks", &json!(many)).ok(202);
    agent.post("/v1/tasks", &ask).problem(503, "too_many_asks");
    daemon.client().post("/v1/tasks", &ask).ok(202);
    let first = daemon.inbox().last().unwrap()["id"].clone();
    answer(daemon.client(), &first, &json!({"approve": false})).ok(200);
    agent.post("/v1/tasks", &ask).ok(202);
}
