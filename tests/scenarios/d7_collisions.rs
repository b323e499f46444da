//! D7: agents that collide: over a piece of work, over a file, over a name; and that wait for each other.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use mesh_tests::{Bundle, Daemon, Home, eventually, has_python};
use serde_json::{Value, json};

use super::{PATIENCE, saw, signal};

/// How many want the same thing.
const AGENTS: usize = 20;

/// Adds one to a number in a file, in two steps between which others can do the same. Claims the file first, if it is told to.
/// `patience` is how long it looks for another one between its two steps.
const COUNTER: &str = r#"
import json, os, sys, time
os.umask(0)
home = None
def say(**o): print(json.dumps(o), flush=True)
def lines():
    for line in sys.stdin:
        yield json.loads(line)
inbox = lines()
def answer(request):
    for m in inbox:
        if m.get("in_reply_to") == request:
            return m["payload"]
def ask(task, request, **payload):
    say(type="CLAIM", id=request, task_id=task, payload=payload)
    return answer(request)
def read(name):
    try:
        with open(os.path.join(home, name)) as f: return f.read()
    except FileNotFoundError: return "0"
def count(task, patience):
    number = int(read("number"))
    open(os.path.join(home, "reads-%d-%s" % (number, task)), "w").close()
    until = time.monotonic() + patience
    while time.monotonic() < until and sum(n.startswith("reads-%d-" % number) for n in os.listdir(home)) < 2:
        time.sleep(0.01)
    with open(os.path.join(home, "new-" + task), "w") as f: f.write(str(number + 1))
    os.rename(os.path.join(home, "new-" + task), os.path.join(home, "number"))
    return number + 1
say(type="HANDSHAKE", payload={"name": "counter", "version": "1.0.0", "capabilities": ["count"]})
for m in inbox:
    if m["type"] != "TASK_REQUEST": continue
    task, todo = m["task_id"], m["payload"]["input"]
    home = todo["dir"]
    token, held = None, todo.get("resource")
    if held:
        claim = ask(task, task + "-a", op="acquire", resource=held, ttlMs=todo.get("ttlMs", 60000), waitMs=600000)
        if not claim["ok"]:
            say(type="TASK_RESULT", task_id=task, payload={"ok": False, "error": {"class": "unavailable", "message": json.dumps(claim)}})
            continue
        token = claim["token"]
        with open(os.path.join(home, "turns"), "a") as f: f.write(json.dumps([token, task]) + "\n")
    if todo.get("hang"):
        say(type="STATUS_UPDATE", task_id=task, payload={"note": "has it"})
        time.sleep(600)
    number = count(task, todo["patience"])
    if held: ask(task, task + "-r", op="release", resource=held, token=token)
    say(type="TASK_RESULT", task_id=task, payload={"ok": True, "output": {"token": token, "number": number}})
"#;

/// A mesh in which all of them may work at once, with replicas of an agent that share a directory.
fn mesh(agent: Bundle, replicas: usize) -> (Daemon, PathBuf) {
    let parallel = AGENTS + 4;
    let config = format!("orchestrator:\n  policies:\n    max_parallel_tasks: {parallel}\n");
    let home = Home::new().config(&config);
    let shared = home.scratch().join("shared");
    std::fs::create_dir(&shared).expect("a directory");
    let daemon = home.start();
    let access = json!({"allowedPaths": [shared], "readOnly": false});
    let agent = agent
        .set("replicas", json!(replicas))
        .set("security", json!({"fileAccess": access}));
    daemon.deploy(&agent);
    // Each replica may be another user.
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&shared, all).expect("its owner may");
    (daemon, shared)
}

fn counter() -> Bundle {
    Bundle::new("counter")
        .file("main.py", COUNTER)
        .set("entry", json!("main.py"))
        .set("capabilities", json!(["count"]))
}

fn claims(daemon: &Daemon) -> Vec<Value> {
    let page = daemon.client().get("/v1/claims").ok(200);
    page["items"].as_array().expect("claims").clone()
}

#[track_caller]
fn held_by(daemon: &Daemon, resource: &str, task: &str) -> Value {
    eventually("the task holds the resource", PATIENCE, || {
        let claims = claims(daemon);
        let claim = claims.iter().find(|claim| claim["resource"] == resource);
        match claim.filter(|claim| claim["holder"]["task"] == task) {
            Some(claim) => Ok(claim.clone()),
            None => Err(format!("{claims:?}; {}", daemon.task(task))),
        }
    })
}

#[test]
fn d7_twenty_agents_change_one_file_and_no_change_is_lost() {
    if !has_python("d7_twenty_agents_change_one_file_and_no_change_is_lost") {
        return;
    }
    let (daemon, dir) = mesh(counter(), AGENTS);
    // Control: two without a claim, and the change of one of them is lost.
    let free = json!({"requirements": ["count"], "input": {"dir": dir, "patience": 100}});
    let both: Vec<_> = (0..2).map(|_| daemon.submit(&free)).collect();
    let ends: Vec<_> = both.iter().map(|id| daemon.ended(id, PATIENCE)).collect();
    let numbers: Vec<_> = ends
        .iter()
        .map(|end| end["output"]["number"].as_u64())
        .collect();
    saw(&format!("two without a claim count to {numbers:?}"));
    assert_eq!(numbers, [Some(1), Some(1)], "{ends:?}");

    let claimed = json!({"requirements": ["count"], "input": {"dir": dir, "patience": 0.05, "resource": "file:number"}});
    let all: Vec<_> = (0..AGENTS).map(|_| daemon.submit(&claimed)).collect();
    let ends: Vec<_> = all.iter().map(|id| daemon.ended(id, PATIENCE)).collect();
    let mut turns: Vec<_> = ends
        .iter()
        .map(|end| {
            assert_eq!(end["state"], "succeeded", "{end}");
            let number = |name: &str| end["output"][name].as_u64().expect("a number");
            (number("token"), number("number"))
        })
        .collect();
    turns.sort_unstable();
    let tokens: BTreeSet<_> = turns.iter().map(|(token, _)| token).collect();
    assert_eq!(tokens.len(), AGENTS, "each its own token: {turns:?}");
    let numbers: Vec<_> = turns.iter().map(|(_, number)| *number).collect();
    let expected: Vec<_> = (2..2 + AGENTS as u64).collect();
    saw(&format!("{AGENTS} with a claim count to {numbers:?}"));
    assert_eq!(numbers, expected, "in the order of their tokens");
    assert!(claims(&daemon).is_empty(), "nothing is left claimed");
}

/// Adds one to a number in a file, without a channel on which it could claim the file.
const COMMAND: &str = "\
umask 0
read line
cd \"$(printf %s \"$line\" | tr -d '\\\"')\" || exit 4
n=$(cat number 2>/dev/null || echo 0)
sleep 0.1
echo $((n + 1)) > number
printf '%s' \"${MESH_CLAIMS:-null}\"";

#[test]
fn d7_twenty_commands_change_one_file_and_no_change_is_lost() {
    let agent = Bundle::command("command", COMMAND).set("concurrency", json!(AGENTS));
    let (daemon, dir) = mesh(agent, 1);
    let number = || {
        let text = std::fs::read_to_string(dir.join("number")).unwrap_or_default();
        text.trim().parse::<usize>().unwrap_or_default()
    };
    let all = |task: &Value| {
        let ids: Vec<_> = (0..AGENTS).map(|_| daemon.submit(task)).collect();
        ids.iter()
            .map(|id| daemon.ended(id, PATIENCE))
            .collect::<Vec<_>>()
    };
    // Control: without a claim changes are lost.
    all(&json!({"requirements": ["command"], "input": dir}));
    let free = number();
    saw(&format!(
        "{AGENTS} commands without a claim count to {free}"
    ));
    assert!(free < AGENTS, "some were lost");
    std::fs::remove_file(dir.join("number")).expect("it was made");
    let claimed =
        json!({"requirements": ["command"], "input": dir, "claims": [{"resource": "file:number"}]});
    let ends = all(&claimed);
    let tokens = ends.iter().map(|end| end["output"]["file:number"].as_u64());
    let tokens: BTreeSet<_> = tokens.flatten().collect();
    saw(&format!("with a claim they count to {}", number()));
    assert_eq!((number(), tokens.len()), (AGENTS, AGENTS), "{ends:?}");
    assert!(claims(&daemon).is_empty(), "nothing is left claimed");
}

#[test]
fn d7_one_piece_of_work_has_one_owner_however_many_ask_for_it() {
    let (daemon, _) = mesh(Bundle::echo("echo"), 4);
    let card = json!({"requirements": ["echo"], "input": 1, "idempotencyKey": "the card"});
    // The first is accepted, the others get that one.
    let ask = |_| daemon.client().post("/v1/tasks", &card).json()["id"].to_string();
    let ids: BTreeSet<_> = (0..AGENTS).map(ask).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.into_iter().next().expect("one");
    let task = daemon.ended(id.trim_matches('"'), PATIENCE);
    saw(&format!(
        "{AGENTS} asked, {} attempts were made",
        task["attempts"]
    ));
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(1), "{task}");
    // Control: without a name for it each is another piece of work.
    let other = json!({"requirements": ["echo"], "input": 1});
    let ids: BTreeSet<_> = (0..3).map(|_| daemon.submit(&other)).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn d7_who_waits_is_told_why_and_a_dead_holder_blocks_nobody() {
    if !has_python("d7_who_waits_is_told_why_and_a_dead_holder_blocks_nobody") {
        return;
    }
    let (daemon, dir) = mesh(counter(), 3);
    let input = json!({"dir": dir, "patience": 0, "resource": "branch:main", "hang": true, "ttlMs": 600_000});
    let hangs = daemon.submit(&json!({
        "requirements": ["count"], "input": input, "retry": {"maxAttempts": 1},
    }));
    let first = held_by(&daemon, "branch:main", &hangs);
    let waits = daemon.submit(&json!({
        "requirements": ["count"], "input": {"dir": dir, "patience": 0, "resource": "branch:main"},
    }));
    let told = eventually("the wait has a reason", PATIENCE, || {
        let task = daemon.task(&waits);
        match task["waitingFor"]["reason"].as_str() {
            Some("claim") => Ok(task),
            _ => Err(task.to_string()),
        }
    });
    let waiting_for = &told["waitingFor"];
    saw(&format!("waits: {}", waiting_for["detail"]));
    assert_eq!(waiting_for["tasks"], json!([hangs]), "{told}");
    let list = daemon.ctl(&["claim", "list"]).exits(0).out;
    assert!(
        list.contains("branch:main") && list.contains(&waits),
        "{list}"
    );

    let instance = first["holder"]["instance"].as_u64().expect("a replica");
    let status = daemon.status("counter");
    let instances = status["instances"].as_array().expect("instances");
    let holder = instances.iter().find(|i| i["instance"] == instance);
    let pid = holder.and_then(|i| i["pid"].as_u64()).expect("its process");
    signal("-KILL", pid);
    let task = daemon.ended(&waits, PATIENCE);
    assert_eq!(task["state"], "succeeded", "{task}");
    let (before, after) = (&first["holder"]["token"], &task["output"]["token"]);
    saw(&format!(
        "the dead one had token {before}, the next one {after}"
    ));
    assert!(after.as_u64() > before.as_u64(), "{task}");
}

#[test]
fn d7_a_claim_and_its_token_survive_kill_9_and_its_dead_holder_does_not_keep_it() {
    if !has_python("d7_a_claim_and_its_token_survive_kill_9_and_its_dead_holder_does_not_keep_it") {
        return;
    }
    let (daemon, dir) = mesh(counter(), 2);
    let input =
        json!({"dir": dir, "patience": 0, "resource": "port:8080", "hang": true, "ttlMs": 600_000});
    let hangs = daemon.submit(&json!({
        "requirements": ["count"], "input": input, "retry": {"maxAttempts": 1},
    }));
    let first = held_by(&daemon, "port:8080", &hangs);
    let daemon = daemon.kill9().start();
    // Its next attempt asks anew, behind nobody: the claim of the one that died with meshd died with it.
    let again = eventually("the next attempt has it", PATIENCE, || {
        let claims = claims(&daemon);
        let found = claims.iter().find(|claim| claim["holder"]["attempt"] == 2);
        found
            .cloned()
            .ok_or_else(|| format!("{claims:?}; {}", daemon.task(&hangs)))
    });
    saw(&format!(
        "before {}, after {}",
        first["holder"]["token"], again["holder"]["token"]
    ));
    let token = |claim: &Value| claim["holder"]["token"].as_u64().expect("a token");
    assert!(token(&again) > token(&first), "{first} {again}");
    let steps = daemon.audit(&format!("kind=task.claim&task={hangs}"));
    assert_eq!(steps.len(), 2, "both grants are on record: {steps:?}");
}

/// Takes one thing, and once the other is taken, too, waits a while for that.
const CROSSED: &str = r#"
import json, os, sys, time
os.umask(0)
def say(**o): print(json.dumps(o), flush=True)
say(type="HANDSHAKE", payload={"name": "crossed", "version": "1.0.0", "capabilities": ["cross"]})
task = None
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "TASK_REQUEST":
        task, names = m["task_id"], m["payload"]["input"]
        say(type="CLAIM", id="one", payload={"op": "acquire", "resource": names[0]})
    elif m["type"] == "CLAIM" and m["in_reply_to"] == "one":
        open(os.path.join(names[3], names[0]), "w").close()
        while not os.path.exists(os.path.join(names[3], names[1])): time.sleep(0.01)
        say(type="CLAIM", id="two", payload={"op": "acquire", "resource": names[1], "waitMs": names[2]})
    elif m["type"] == "CLAIM":
        say(type="TASK_RESULT", task_id=task, payload={"ok": True, "output": m["payload"].get("code", "granted")})
"#;

#[test]
fn d7_two_that_wait_for_each_other_are_told_apart_by_their_deadline() {
    if !has_python("d7_two_that_wait_for_each_other_are_told_apart_by_their_deadline") {
        return;
    }
    let crossed = Bundle::new("crossed")
        .file("main.py", CROSSED)
        .set("entry", json!("main.py"))
        .set("capabilities", json!(["cross"]));
    let (daemon, dir) = mesh(crossed, 2);
    let task = |input: Value| daemon.submit(&json!({"requirements": ["cross"], "input": input}));
    let one = task(json!(["a", "b", 600_000, dir]));
    held_by(&daemon, "a", &one);
    let other = task(json!(["b", "a", 500, dir]));
    let ends = [&one, &other].map(|id| daemon.ended(id, PATIENCE));
    saw(&format!(
        "they end with {} and {}",
        ends[0]["output"], ends[1]["output"]
    ));
    let outputs = ends.map(|end| end["output"].clone());
    assert_eq!(outputs, [json!("granted"), json!("wait_over")]);
}
