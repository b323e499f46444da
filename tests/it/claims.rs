//! What a task claims as a whole: agents without a channel to claim over have it before they begin, and never two at once.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, eventually};
use serde_json::{Value, json};

const END_MAX: Duration = Duration::from_mins(1);

/// Reads a number from a file and writes the next one a while later. What it claims is in its environment.
const COUNT: &str = "\
umask 0
read line
cd \"$(printf %s \"$line\" | tr -d '\\\"')\" || exit 4
n=$(cat number 2>/dev/null || echo 0)
echo \"$MESH_CLAIMS\" >> tokens
sleep 0.2
echo $((n + 1)) > number
printf '%s' \"${MESH_CLAIMS:-null}\"";

/// A daemon with replicas of a counting command that share a directory.
fn mesh(script: &str) -> (Daemon, PathBuf) {
    let home = Home::new();
    let shared = home.scratch().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let daemon = home.start();
    let access = json!({"allowedPaths": [shared], "readOnly": false});
    let agent = Bundle::command("count", script)
        .set("replicas", json!(2))
        .set("concurrency", json!(4))
        .set("security", json!({"fileAccess": access}));
    daemon.deploy(&agent);
    // Each replica may be another user.
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&shared, all).unwrap();
    (daemon, shared)
}

fn number(dir: &std::path::Path) -> u64 {
    let text = std::fs::read_to_string(dir.join("number")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn claims(daemon: &Daemon) -> Vec<Value> {
    let page = daemon.client().get("/v1/claims").ok(200);
    page["items"].as_array().unwrap().clone()
}

#[test]
fn commands_that_claim_one_file_change_it_one_after_the_other_also_after_kill_9() {
    let (mut daemon, dir) = mesh(COUNT);
    let work = |claims: Value| json!({"requirements": ["count"], "input": dir, "claims": claims});
    let claimed = work(json!([{"resource": "file:number"}, {"resource": "disk"}]));
    let ids: Vec<_> = (0..6).map(|_| daemon.submit(&claimed)).collect();
    let waits = eventually(
        "one has it, another says for whom it waits",
        END_MAX,
        || {
            let waits = ids.iter().map(|id| daemon.task(id));
            let mut waits = waits.filter(|task| task["waitingFor"]["reason"] == "claim");
            let waits = waits.next();
            let waits = waits.ok_or_else(|| format!("{:?}", claims(&daemon)))?;
            // Who holds it may change between two looks; somebody stands in line all the while.
            let line = claims(&daemon).into_iter();
            let mut line = line.filter_map(|one| one["tasks"].as_array().cloned());
            if !line.any(|tasks| tasks.iter().any(|task| ids.iter().any(|id| task == id))) {
                return Err("no claim shows who stands in line for it".to_owned());
            }
            // Each has it for a while only, so the board is looked at while somebody waits.
            let board = daemon.client().get("/v1/board").ok(200);
            let mut columns = board["columns"].as_array().unwrap().iter();
            let blocked = columns.find(|one| one["name"] == "Blocked");
            if blocked.unwrap()["cards"].as_array().unwrap().is_empty() {
                Err(board.to_string())
            } else {
                Ok(waits)
            }
        },
    );
    assert_eq!(waits["state"], "parked");
    let holder = waits["waitingFor"]["tasks"][0].as_str().unwrap();
    assert!(ids.iter().any(|id| id == holder), "{waits}");
    // Whoever had it when meshd was killed is tried again, and nobody has it twice.
    daemon = daemon.kill9().start();
    let ends: Vec<_> = ids.iter().map(|id| daemon.ended(id, END_MAX)).collect();
    let mut tokens: Vec<u64> = ends
        .iter()
        .map(|end| {
            assert_eq!(end["state"], "succeeded", "{end}");
            let held = &end["output"];
            assert!(
                held["disk"].as_u64() > held["file:number"].as_u64(),
                "{end}"
            );
            held["file:number"].as_u64().unwrap()
        })
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), ids.len(), "each its own token");
    let attempts: u64 = ends
        .iter()
        .map(|end| end["attempts"].as_array().unwrap().len() as u64)
        .sum();
    let counted = number(&dir);
    assert!(
        (6..=attempts).contains(&counted),
        "no change is lost: {counted}, {attempts} attempts"
    );
    assert!(claims(&daemon).is_empty(), "nothing is left claimed");
    // The tokens rose from one to the next, as whoever guards the file saw them.
    let seen = std::fs::read_to_string(dir.join("tokens")).unwrap();
    let seen: Vec<u64> = seen
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["file:number"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert!(seen.is_sorted(), "{seen:?}");
    let text = format!("{:?}", dir.to_str().unwrap());
    let by_hand = [
        "task",
        "submit",
        "--requires",
        "count",
        "--claim",
        "x",
        "--input",
        &text,
        "--wait",
    ];
    let output = daemon.ctl(&by_hand).exits(0).out;
    assert!(output.contains("\"x\":"), "{output}");
    // Control: without a claim there is none in the environment.
    let free = daemon.submit(&work(json!([])));
    assert_eq!(daemon.ended(&free, END_MAX)["output"], Value::Null);
}

#[test]
fn a_claim_is_given_on_when_its_command_is_gone_however_it_ends() {
    let script = "trap '' TERM; read line; sleep 600";
    let (daemon, dir) = mesh(script);
    let claims_it = |more: Value| {
        let mut task = json!({"requirements": ["count"], "input": dir, "claims": [{"resource": "r"}], "retry": {"maxAttempts": 1}});
        for (key, value) in more.as_object().unwrap() {
            task[key] = value.clone();
        }
        daemon.submit(&task)
    };
    let running = |id: &str| {
        eventually("it has the resource", END_MAX, || {
            let found = claims(&daemon);
            let task = daemon.task(id);
            let has = found.iter().any(|one| one["holder"]["task"] == id);
            if has && task["state"] == "running" {
                Ok(())
            } else {
                Err(format!("{found:?} {task}"))
            }
        });
    };
    let times_out = claims_it(json!({"timeoutMs": 5000}));
    let cancelled = claims_it(json!({}));
    let last = claims_it(json!({}));
    running(&times_out);
    eventually("the next one waits for it", END_MAX, || {
        let task = daemon.task(&cancelled);
        if task["waitingFor"]["reason"] == "claim" {
            Ok(())
        } else {
            Err(task.to_string())
        }
    });
    running(&cancelled);
    assert_ne!(daemon.ended(&times_out, END_MAX)["state"], "succeeded");
    let path = format!("/v1/tasks/{cancelled}/cancel");
    daemon.client().post(&path, &json!({})).ok(200);
    running(&last);
    // One that waits is cancelled, and holds nobody up.
    let waits = claims_it(json!({}));
    daemon
        .client()
        .post(&format!("/v1/tasks/{waits}/cancel"), &json!({}))
        .ok(200);
    daemon
        .client()
        .post(&format!("/v1/tasks/{last}/cancel"), &json!({}))
        .ok(200);
    eventually("nothing is claimed", END_MAX, || {
        let left = claims(&daemon);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    let body = json!({"requirements": ["count"], "claims": [{"resource": " x"}, {"resource": "y", "token": 1}]});
    let problem = daemon.client().post("/v1/tasks", &body).json();
    let errors = problem["errors"].to_string();
    assert!(
        errors.contains("claims[0].resource") && errors.contains("claims[1].token"),
        "{problem}"
    );
}

#[test]
fn steps_of_a_workflow_claim_what_their_items_name() {
    let (daemon, dir) = mesh(COUNT);
    let workflow = json!({"steps": [
        {"id": "each", "requirements": ["count"], "forEach": [1, 2, 3, 4], "input": "${input.dir}",
         "claims": [{"resource": "dir:${input.dir}"}]},
    ]});
    let body = json!({"workflow": workflow, "input": {"dir": dir}});
    let run = daemon.client().post("/v1/workflows?wait=1m", &body).json();
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(number(&dir), 4, "no change is lost");
}
