//! The board: columns move by themselves, limits hold per replica, and what waits says why and for whom.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// A card, and the column that it is in.
fn card(board: &Value, id: &str) -> Option<(String, Value)> {
    board["columns"].as_array()?.iter().find_map(|column| {
        let cards = column["cards"].as_array()?;
        let card = cards.iter().find(|card| card["id"] == id)?;
        Some((column["name"].as_str()?.to_owned(), card.clone()))
    })
}

#[track_caller]
fn comes_to(daemon: &Daemon, id: &str, column: &str) -> (Value, Value) {
    eventually(&format!("{id} is in {column}"), PATIENCE, || {
        let board = daemon.client().get("/v1/board").ok(200);
        match card(&board, id) {
            Some((at, card)) if at == column => Ok((card, board)),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn a_replicas_limit_holds_and_each_waiting_card_says_why_and_for_whom() {
    let daemon = Daemon::start();
    // Ends when it is told to.
    let until =
        r#"cat > /dev/null; while [ ! -e "$HOME/go" ]; do sleep 0.05; done; echo '{"ok": true}'"#;
    daemon.deploy(&Bundle::command("worker", until));
    let submit = |more: Value| {
        let mut task = json!({"requirements": ["worker"], "input": null});
        for (key, value) in more.as_object().unwrap() {
            task[key] = value.clone();
        }
        daemon.submit(&task)
    };
    let first = submit(json!({}));
    let (at_work, _) = comes_to(&daemon, &first, "In progress");
    assert_eq!(
        (&at_work["agent"], &at_work["instance"]),
        (&json!("worker"), &json!(0))
    );
    // It is assigned before its replica has it.
    eventually("its replica has it", PATIENCE, || {
        let board = daemon.client().get("/v1/board").ok(200);
        let agent = &board["agents"][0];
        let busy = json!([{"instance": 0, "wip": 1, "tasks": [first]}]);
        if agent["agentId"] == "worker" && agent["instances"] == busy {
            Ok(())
        } else {
            Err(board.to_string())
        }
    });

    let second = submit(json!({}));
    let (waits, _) = comes_to(&daemon, &second, "Ready");
    assert_eq!(waits["waitingFor"]["reason"], "capacity", "{waits}");
    assert_eq!(waits["waitingFor"]["agents"], json!(["worker"]));
    let after = submit(json!({"dependsOn": [first]}));
    let (waits, _) = comes_to(&daemon, &after, "Blocked");
    assert_eq!(waits["waitingFor"]["tasks"], json!([first]), "{waits}");
    let nobody = daemon.submit(&json!({"requirements": ["unheard-of"], "input": null}));
    let (waits, _) = comes_to(&daemon, &nobody, "Backlog");
    assert_eq!(waits["waitingFor"]["reason"], "no_agent", "{waits}");
    let asks = daemon.submit(&json!({"approval": {"message": "go?"}}));
    let (waits, board) = comes_to(&daemon, &asks, "Review");
    assert_eq!(waits["waitingFor"]["reason"], "approval", "{waits}");
    let totals: Vec<_> = board["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["total"].as_u64().unwrap())
        .collect();
    assert_eq!(totals, [1, 1, 1, 1, 1, 0], "{board}");

    let screen = daemon.ctl(&["board"]).exits(0).out;
    for said in [
        "Review (1)",
        "all slots of the capable instances are taken [worker]",
        "#0 1/1",
    ] {
        assert!(screen.contains(said), "{said}: {screen}");
    }
    daemon
        .client()
        .post(&format!("/v1/tasks/{asks}/approve"), &json!({}))
        .ok(200);
    comes_to(&daemon, &asks, "Done");
}

/// Longer than a check may take in the next test, so that one whose pause counted would be late.
const PAUSE: Duration = Duration::from_secs(24);

#[test]
fn a_result_that_is_being_checked_is_in_review_and_a_pause_does_not_make_it_late() {
    let daemon = Daemon::start();
    let wait = r#"while [ ! -e "$HOME/go" ]; do sleep 0.05; done"#;
    let worker = Bundle::command("worker", r#"echo '{"text": "done"}'"#);
    daemon.deploy(&worker);
    daemon.deploy(&Bundle::command("author", r#"echo '{"text": "draft"}'"#));
    let critic = format!(r#"cat > /dev/null; {wait}; echo '{{"ok": true, "reason": "fine"}}'"#);
    daemon.deploy(&Bundle::command("critic", &critic));
    let submit = |capability: &str, check: Value| {
        let mut check = check;
        check["name"] = json!("looked at");
        check["timeoutMs"] = json!(22_000);
        daemon.submit(&json!({
            "requirements": [capability], "input": null, "contract": {"checks": [check]},
            "retry": {"maxAttempts": 1},
        }))
    };
    let by_command = submit("worker", json!({"command": ["sh", "-c", wait]}));
    let (checked, _) = comes_to(&daemon, &by_command, "Review");
    assert_eq!(checked["waitingFor"]["reason"], "check", "{checked}");
    let detail = checked["waitingFor"]["detail"].as_str().unwrap();
    assert!(detail.contains("\"looked at\" by a command"), "{checked}");
    daemon.ctl(&["agent", "pause", "worker"]).exits(0);
    let by_agent = submit("author", json!({"requirements": ["critic"]}));
    let for_whom = eventually("the critic is named", PATIENCE, || {
        let board = daemon.client().get("/v1/board").ok(200);
        match card(&board, &by_agent) {
            Some((at, card))
                if at == "Review" && card["waitingFor"]["agents"] == json!(["critic"]) =>
            {
                Ok(card)
            }
            other => Err(format!("{other:?}")),
        }
    });
    let tasks = for_whom["waitingFor"]["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 1, "{for_whom}");
    daemon.ctl(&["agent", "pause", "critic"]).exits(0);
    // Not to wait for something, but to let time pass.
    std::thread::sleep(PAUSE);
    for id in [&by_command, &by_agent] {
        assert_eq!(daemon.task(id)["state"], "running", "{}", daemon.task(id));
    }
    for agent in ["worker", "critic"] {
        let home = daemon.home().data().join("home/agents");
        let found = std::fs::read_dir(home).unwrap().flatten();
        let own = found
            .map(|kind| kind.path().join(agent))
            .find(|path| path.exists());
        std::fs::write(own.expect("its home").join("go"), "").unwrap();
        daemon.ctl(&["agent", "resume", agent]).exits(0);
    }
    for id in [&by_command, &by_agent] {
        let task = daemon.ended(id, PATIENCE);
        assert_eq!(task["state"], "succeeded", "{task}");
        comes_to(&daemon, id, "Done");
    }
}

#[test]
fn cycle_time_throughput_and_failures_are_counted_by_agent() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::command("refuse", "exit 3"));
    for _ in 0..4 {
        let id = daemon.submit(&json!({"requirements": ["echo"], "input": 1}));
        daemon.ended(&id, PATIENCE);
    }
    let id = daemon.submit(&json!({"requirements": ["refuse"], "input": 1}));
    let failed = daemon.ended(&id, PATIENCE);
    let (card, board) = comes_to(&daemon, &id, "Done");
    assert_eq!(card["error"]["class"], "refusal", "{failed}");
    let flow = &board["flow"];
    assert_eq!(
        (&flow["ended"], &flow["succeeded"]),
        (&json!(5), &json!(4)),
        "{flow}"
    );
    assert_eq!(flow["failureRate"], 0.2, "{flow}");
    assert!(flow["cycleTimeP50Ms"].as_u64().unwrap() <= flow["cycleTimeP95Ms"].as_u64().unwrap());
    let agents = board["agents"].as_array().unwrap();
    let of = |id: &str| agents.iter().find(|agent| agent["agentId"] == id).unwrap();
    assert_eq!(
        (&of("echo")["attempts"], &of("echo")["failureRate"]),
        (&json!(4), &json!(0.0))
    );
    assert!(of("echo")["cycleTimeMs"].as_f64().is_some(), "{board}");
    assert_eq!(of("refuse")["failureRate"], 1.0, "{board}");
    let lately = |id: &str| (&of(id)["flow"]["ended"], &of(id)["flow"]["succeeded"]);
    assert_eq!(lately("echo"), (&json!(4), &json!(4)), "{board}");
    assert_eq!(lately("refuse"), (&json!(1), &json!(0)), "{board}");
}

#[test]
fn cards_go_from_one_board_to_another_once_and_keep_what_they_depend_on() {
    let first = Daemon::start();
    let waits =
        |key: &str| json!({"requirements": ["later"], "input": key, "labels": {"card": key}});
    let a = first.submit(&waits("a"));
    let mut b = waits("b");
    b["dependsOn"] = json!([a]);
    first.submit(&b);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cards.jsonl");
    let file = file.to_str().unwrap();
    first.ctl(&["board", "export", "--out", file]).exits(0);
    drop(first);

    let second = Daemon::start();
    for _ in 0..2 {
        second.ctl(&["board", "import", file]).exits(0);
    }
    let tasks = second.client().get("/v1/tasks").ok(200);
    let tasks = tasks["items"].as_array().unwrap();
    assert_eq!(tasks.len(), 2, "{tasks:?}");
    let of = |key: &str| {
        let labelled = |task: &&Value| task["labels"]["card"] == key;
        tasks.iter().find(labelled).unwrap()
    };
    assert_eq!(of("b")["dependsOn"], json!([of("a")["id"]]));
    second.deploy(&Bundle::command("later", "cat"));
    let id = of("b")["id"].as_str().unwrap();
    assert_eq!(second.ended(id, PATIENCE)["output"], "b");

    // What was waited for has succeeded: the card that is left no longer depends on anything that is not there.
    let mut c = waits("c");
    c["requirements"] = json!(["nobody"]);
    c["dependsOn"] = json!([id]);
    second.submit(&c);
    // A step belongs to its run: it is no card, or it would be done twice.
    let step = json!({"id": "one", "requirements": ["nobody"]});
    let run = json!({"workflow": {"name": "w", "steps": [step]}});
    second
        .client()
        .post("/v1/workflows?deployLater=true", &run)
        .ok(202);
    eventually("the step is a task", PATIENCE, || {
        let tasks = second.client().get("/v1/tasks").ok(200);
        let tasks = tasks["items"].as_array().unwrap();
        let step = tasks.iter().any(|task| task["labels"]["step"] == "one");
        if step {
            Ok(())
        } else {
            Err(format!("{tasks:?}"))
        }
    });
    let left = second.ctl(&["board", "export"]).exits(0).out;
    let left: Value = serde_json::from_str(left.trim()).unwrap();
    assert_eq!(left["task"]["labels"]["card"], "c", "{left}");
    assert_eq!(left["task"].get("dependsOn"), None, "{left}");
}

#[test]
fn what_is_no_card_is_refused_by_its_line_and_nothing_is_made() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cards.jsonl");
    let card = r#"{"task":{"requirements":["x"],"input":1}}"#;
    for (lines, said) in [
        (format!("{card}\n\nrubbish\n"), "line 3: "),
        (
            format!("{card}\n{{\"title\":\"x\"}}\n"),
            "line 2: unknown field `title`",
        ),
        (
            format!("{card}\n{{\"task\":{{\"requirements\":[\"\"],\"input\":1}}}}\n"),
            "line 2: requirements[0]",
        ),
        (
            r#"{"id":"free","task":{"requirements":["x"],"input":1}}
{"id":"a","task":{"requirements":["x"],"dependsOn":["b"]}}
{"id":"b","task":{"requirements":["x"],"dependsOn":["a"]}}"#
                .to_owned(),
            "line 2: it depends on itself",
        ),
        (
            r#"{"id":"a","task":{"requirements":["x"],"dependsOn":["elsewhere"]}}"#.to_owned(),
            "line 1: dependsOn[0]",
        ),
    ] {
        std::fs::write(&file, &lines).unwrap();
        let refused = daemon
            .ctl(&["board", "import", file.to_str().unwrap()])
            .exits(1);
        assert!(refused.err.contains(said), "{said}: {}", refused.err);
        let tasks = daemon.client().get("/v1/tasks").ok(200);
        assert_eq!(tasks["items"], json!([]), "{lines}");
    }
}

#[test]
fn quality_is_what_checks_said_of_first_and_last_results_not_what_agents_say() {
    let daemon = Daemon::start();
    // Its first answer at each task is a draft, its second is good.
    let second = r#"
        n="$HOME/seen-$(cat | tr -dc a-z)"
        if [ -e "$n" ]; then echo '{"good": true}'; else touch "$n"; echo '{"good": false, "says": "perfect"}'; fi"#;
    daemon.deploy(&Bundle::command("second", second));
    daemon.deploy(&Bundle::command("always", r#"echo '{"good": true}'"#));
    let contract = json!({"outputSchema": {
        "type": "object", "required": ["good"], "properties": {"good": {"const": true}},
    }});
    let submit = |capability: &str, input: &str, contract: Option<&Value>, most: u32| {
        let mut task = json!({
            "requirements": [capability], "input": input,
            "retry": {"maxAttempts": most, "baseDelayMs": 1},
        });
        if let Some(contract) = contract {
            task["contract"] = contract.clone();
        }
        daemon.ended(&daemon.submit(&task), PATIENCE)
    };
    assert_eq!(
        submit("second", "a", Some(&contract), 3)["state"],
        "succeeded"
    );
    assert_eq!(
        submit("second", "b", Some(&contract), 1)["state"],
        "dead_lettered"
    );
    // Nobody looks at this one: it is completed, and says nothing of quality.
    assert_eq!(submit("second", "c", None, 1)["state"], "succeeded");
    assert_eq!(
        submit("always", "a", Some(&contract), 3)["state"],
        "succeeded"
    );

    let expected = json!({"verified": 2, "passedFirst": 0, "passed": 1});
    let whole = json!({"verified": 1, "passedFirst": 1, "passed": 1});
    let told = |daemon: &Daemon| {
        let insights = daemon.client().get("/v1/agents/second/insights").ok(200);
        assert_eq!(insights["quality"], expected, "{insights}");
        assert_eq!(insights["succeeded"], 2, "{insights}");
        let by = json!([{"capability": "second", "quality": expected}]);
        assert_eq!(insights["byCapability"], by);
        assert_eq!(insights["byType"][0]["quality"], expected);
        let board = daemon.client().get("/v1/board").ok(200);
        let agents = board["agents"].as_array().unwrap();
        let of = |id: &str| agents.iter().find(|agent| agent["agentId"] == id).unwrap();
        assert_eq!(of("second")["quality"], expected);
        assert_eq!(of("always")["quality"], whole);
        let metrics = daemon.client().get("/metrics").text();
        for line in [
            r#"tasks_verified{agent="second"} 2"#,
            r#"tasks_verified_passed_first{agent="second"} 0"#,
            r#"tasks_verified_passed{agent="second"} 1"#,
        ] {
            assert!(
                metrics.lines().any(|found| found == line),
                "{line}: {metrics}"
            );
        }
    };
    told(&daemon);
    let screen = daemon.ctl(&["board"]).exits(0).out;
    assert!(screen.contains("1/2 passed, 0 at first"), "{screen}");
    let screen = daemon.ctl(&["agent", "insights", "second"]).exits(0).out;
    assert!(screen.contains("1/2 passed, 0 at first"), "{screen}");
    // It is folded from the log, so a kill takes nothing of it.
    let daemon = daemon.kill9().start();
    told(&daemon);
}

#[test]
fn a_running_card_shows_what_its_agent_says_of_it_and_to_whom() {
    let daemon = Daemon::start();
    let listener = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"listener","version":"1.0.0","capabilities":["listener"]}}'
while read -r line; do :; done"#;
    let speaker = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"speaker","version":"1.0.0","capabilities":["speaker"]}}'
while read -r line; do
  case "$line" in
    *TASK_REQUEST*)
      task=$(echo "$line" | sed 's/.*"task_id":"\([^"]*\)".*/\1/')
      echo '{"type":"STATUS_UPDATE","task_id":"'$task'","payload":{"progress":0.25,"note":"asking"}}'
      echo '{"type":"MEMORY","id":"m1","payload":{"op":"set","key":"seen","value":1}}'
      echo '{"type":"MESSAGE","id":"q1","to":"agent:listener","payload":{"secret":"of the two"}}'
      while [ ! -e "$HOME/go" ]; do sleep 0.05; done
      echo '{"type":"TASK_RESULT","task_id":"'$task'","payload":{"ok":true,"output":1}}' ;;
  esac
done"#;
    daemon.deploy(&Bundle::shell("listener", listener));
    daemon.deploy(&Bundle::shell("speaker", speaker).set("memory", json!({"type": "persistent"})));
    let feed = daemon
        .client()
        .events("?topic=agent.speaker.message_sent", None);
    let id = daemon.ask("speaker", &json!(null));
    let card = eventually("the card shows it", PATIENCE, || {
        let board = daemon.client().get("/v1/board").ok(200);
        match card(&board, &id) {
            Some((_, card)) if card["messages"][0]["received"] == true => Ok(card),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(
        (&card["progress"], &card["note"]),
        (&json!(0.25), &json!("asking"))
    );
    assert!(card["progressAt"].is_string(), "{card}");
    let said = &card["messages"][0];
    assert_eq!(
        (&said["from"], &said["to"], &said["type"]),
        (
            &json!("kai://agent.speaker"),
            &json!("kai://agent.listener"),
            &json!("MESSAGE")
        ),
        "{card}"
    );
    assert!(
        !card.to_string().contains("of the two"),
        "not what it says: {card}"
    );
    let told = daemon
        .client()
        .get(&format!("/v1/tasks/{id}/explain"))
        .ok(200);
    assert_eq!(told["messages"][0]["id"], "q1", "{told}");
    let board = daemon.ctl(&["board"]).exits(0);
    assert!(
        board
            .out
            .contains("25% asking; MESSAGE from kai://agent.speaker to kai://agent.listener"),
        "{}",
        board.out
    );
    // It is said as it happens, with the task.
    let event = feed
        .into_iter()
        .find(|event| event.data["data"]["kind"] == "message_sent")
        .expect("it is said");
    assert_eq!(event.data["data"]["task"], id.as_str(), "{}", event.data);
    // And on record: nothing that an agent does for a task is without it.
    for kind in ["message_sent", "message_received", "memory.set"] {
        let records = daemon
            .client()
            .get(&format!("/v1/audit?task={id}&kind={kind}"))
            .ok(200);
        assert_eq!(
            records["items"].as_array().map(Vec::len),
            Some(1),
            "{kind}: {records}"
        );
    }
}

/// Columns of the tasks of these states, whatever they wait for.
fn fits(state: &str, column: &str) -> bool {
    let columns: &[&str] = match state {
        "parked" => &["Backlog", "Blocked"],
        "queued" => &["Ready"],
        "assigned" | "retrying" => &["In progress"],
        "running" => &["In progress", "Review"],
        "blocked" => &["Blocked", "Review", "In progress"],
        _ => &["Done"],
    };
    columns.contains(&column)
}

#[test]
fn each_look_at_the_board_is_of_one_moment() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::command(
        "quick",
        "cat > /dev/null; sleep 0.02; echo 1",
    ));
    let tasks: Vec<String> = (0..80)
        .map(|number| daemon.ask("quick", &json!(number)))
        .collect();
    let (mut looks, mut busy) = (0, 0);
    eventually("all are done", PATIENCE, || {
        let board = daemon.client().get("/v1/board?cards=200").ok(200);
        looks += 1;
        let mut seen = std::collections::BTreeMap::new();
        for column in board["columns"].as_array().unwrap() {
            let (name, cards) = (
                column["name"].as_str().unwrap(),
                column["cards"].as_array().unwrap(),
            );
            assert_eq!(
                column["total"],
                cards.len(),
                "{name} of look {looks}: {column}"
            );
            for card in cards {
                let state = card["state"].as_str().unwrap();
                assert!(fits(state, name), "{name} of look {looks}: {card}");
                let before = seen.insert(card["id"].as_str().unwrap().to_owned(), card.clone());
                assert!(
                    before.is_none(),
                    "two cards in look {looks}: {before:?} and {card} in {name}"
                );
            }
        }
        for id in &tasks {
            assert!(
                seen.contains_key(id),
                "{id} is not on the board of look {looks}: {board}"
            );
        }
        for instance in board["agents"][0]["instances"].as_array().unwrap() {
            let own = instance["tasks"].as_array().unwrap();
            assert!(
                own.len() as u64 <= instance["wip"].as_u64().unwrap(),
                "{instance}"
            );
            busy += own.len();
            for task in own {
                let card = &seen[task.as_str().unwrap()];
                assert!(
                    ["assigned", "running"].contains(&card["state"].as_str().unwrap()),
                    "{card}"
                );
                assert_eq!(card["instance"], instance["instance"], "{card}");
            }
        }
        let done = seen
            .values()
            .filter(|card| card["state"] == "succeeded")
            .count();
        (done == tasks.len())
            .then_some(())
            .ok_or_else(|| format!("{done} are done"))
    });
    assert!(looks > 3 && busy > 0, "{looks} looks, {busy} in hand");
}
