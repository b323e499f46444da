//! What the permissions of a manifest leave an agent, kind by kind; what is missing is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mesh_tests::{Bundle, Client, Daemon, Outside, eventually, has_python};
use serde_json::{Value, json};

use crate::egress;

mod memory;
mod posted;

use memory::shares_memory_with_itself_alone;

const LONG: Duration = Duration::from_mins(1);

/// Does what its tasks order: says a line, and answers what it was answered where that is waited for; or runs Python.
const AGENT: &str = r#"
import json, os, sys
def say(**line): print(json.dumps(line), flush=True)
def hear(): return json.loads(sys.stdin.readline() or "null")
def done(order):
    if "run" in order:
        try: return eval(order["run"])
        except Exception as error: return type(error).__name__
    line = {key: value for key, value in order.items() if key != "wait"}
    say(**line)
    while order.get("wait"):
        got = hear()
        if got.get("in_reply_to") == order["id"]: return got
say(type="HANDSHAKE", payload={"name": "agent", "version": "1.0.0", "capabilities": ["obey"]})
while True:
    got = hear()
    if got is None or got.get("payload", {}).get("verb") == "shutdown": break
    if got["type"] == "TASK_REQUEST":
        output = [done(order) for order in got["payload"]["input"]]
        say(type="TASK_RESULT", task_id=got["task_id"], payload={"ok": True, "output": output})
    if got["type"] == "MESSAGE":
        # As an answer, each of the lines names the message.
        output = [done({**order, "in_reply_to": got["id"]}) for order in got["payload"]["orders"]]
        say(type="MESSAGE", in_reply_to=got["id"], to="kai://agent.other", payload=output)
"#;

fn agent(security: &Value) -> Bundle {
    Bundle::new("agent")
        .set("capabilities", json!(["obey"]))
        .set("security", security.clone())
        .file("agent.py", AGENT)
        .set(
            "runtime",
            json!({"command": "python3", "args": ["agent.py"]}),
        )
}

fn permission(resource: &str, actions: &[&str], scope: Option<&str>) -> Value {
    let mut permission = json!({"resource": resource, "actions": actions});
    if let Some(scope) = scope {
        permission["scope"] = json!(scope);
    }
    permission
}

/// A line, and whether its answer is waited for.
fn line(kind: &str, to: Option<&str>, payload: Value, wait: bool) -> Value {
    let mut line =
        json!({"type": kind, "payload": payload, "id": format!("{kind}-{payload}"), "wait": wait});
    if let Some(to) = to {
        line["to"] = json!(to);
    }
    line
}

fn memory(op: &str, key: &str) -> Value {
    let payload = match op {
        "set" | "once" => json!({"op": op, "key": key, "value": 1}),
        _ => json!({"op": op, "key": key}),
    };
    line("MEMORY", None, payload, true)
}

/// The refusals that are on record: the action, what it was about, and the rule.
fn refused(daemon: &Daemon) -> Vec<(String, String)> {
    let denied = daemon.audit("kind=access.denied");
    let text =
        |payload: &Value, field: &str| payload[field].as_str().unwrap_or_default().to_owned();
    denied
        .iter()
        .map(|record| &record["payload"])
        .filter(|payload| payload["user"] == "agent:agent")
        .inspect(|payload| assert_eq!(payload["reason"], "Insufficient permissions", "{payload}"))
        .map(|payload| (text(payload, "action"), text(payload, "rule")))
        .collect()
}

#[track_caller]
fn on_record(daemon: &Daemon, expected: &[(&str, &str)]) {
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(action, rule)| ((*action).to_owned(), format!("permission {rule}")))
        .collect();
    expected.sort();
    eventually("what is refused is on record", LONG, || {
        let mut refused = refused(daemon);
        refused.sort();
        if refused.len() < expected.len() {
            return Err(format!("{refused:?}"));
        }
        assert_eq!(refused, expected, "one record each, and of nothing else");
        Ok(())
    });
}

fn own(daemon: &Daemon) -> Client {
    let body = json!({"role": "agent", "subject": "agent"});
    let issued = daemon.client().post("/v1/tokens", &body).ok(201);
    daemon.client().with_token(issued["token"].as_str())
}

#[test]
fn memory_is_what_its_permissions_leave_before_and_after_a_crash() {
    if !has_python("memory_is_what_its_permissions_leave_before_and_after_a_crash") {
        return;
    }
    let daemon = Daemon::start();
    let permissions = [
        permission("memory", &["read"], None),
        permission("memory", &["write"], Some("mine/*")),
    ];
    daemon.deploy(&agent(&json!({"permissions": permissions})));
    let orders = json!([
        memory("set", "mine/1"),
        memory("get", "mine/1"),
        memory("list", ""),
        memory("set", "mine"),
        memory("once", "yours/1"),
        memory("delete", "mine/1"),
    ]);
    let answers = |daemon: &Daemon| -> Vec<(bool, String)> {
        let answers = daemon.output("obey", &orders);
        let one = |answer: &Value| {
            let payload = &answer["payload"];
            let error = payload["error"].as_str().unwrap_or_default();
            (payload["ok"].as_bool().unwrap(), error.to_owned())
        };
        answers.as_array().unwrap().iter().map(one).collect()
    };
    let seen = answers(&daemon);
    assert!(seen[..3].iter().all(|(ok, _)| *ok), "{seen:?}");
    let missing = [
        "memory:write (mine)",
        "memory:write (yours/1)",
        "memory:delete (mine/1)",
    ];
    for ((ok, error), missing) in seen[3..].iter().zip(missing) {
        let expected =
            format!("Insufficient permissions: permission {missing} is not in the manifest");
        assert_eq!((*ok, error), (false, &expected));
    }
    let expected: Vec<_> = missing.iter().map(|rule| ("memory", *rule)).collect();
    on_record(&daemon, &expected);

    let daemon = daemon.kill9().start();
    daemon.fault_state("agent", "running", LONG);
    assert_eq!(answers(&daemon), seen, "they hold after a restart as well");
    on_record(&daemon, &[&expected[..], &expected[..]].concat());
}

#[test]
fn tools_agents_topics_and_claims_are_what_its_permissions_leave() {
    if !has_python("tools_agents_topics_and_claims_are_what_its_permissions_leave") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let permissions = [
        permission("capability", &["execute"], Some("echo")),
        permission("capability", &["read"], Some("ec*")),
        permission("agent", &["write"], Some("echo")),
        permission("topic", &["write"], Some("orders.*")),
        permission("claim", &["write"], Some("port:*")),
    ];
    daemon.deploy(&agent(&json!({"permissions": permissions})));
    let delegate = |capability: &str| {
        line(
            "TASK_REQUEST",
            None,
            json!({"requirements": [capability], "input": 1}),
            true,
        )
    };
    let query = |list: Value| {
        line(
            "CAPABILITY_QUERY",
            None,
            json!({"capabilities": list}),
            true,
        )
    };
    let claim = |resource: &str| {
        let payload = json!({"op": "acquire", "resource": resource, "ttlMs": 60_000});
        line("CLAIM", None, payload, true)
    };
    let message = |to: &str, wait| line("MESSAGE", Some(to), json!({"to": to}), wait);
    let publish = |topic: &str, wait| line("PUBLISH", None, json!({"topic": topic}), wait);
    let left = daemon.output(
        "obey",
        &json!([
            delegate("echo"),
            query(json!(["echo"])),
            claim("port:80"),
            message("kai://agent.echo", false),
            publish("orders.new", false),
        ]),
    );
    assert_eq!(left[0]["payload"]["ok"], true, "{left}");
    assert_eq!(left[1]["type"], "CAPABILITY_REPLY", "{left}");
    assert_eq!(left[2]["payload"]["ok"], true, "{left}");
    assert_eq!(refused(&daemon), []);

    let barred = [
        (
            delegate("secret-tool"),
            "task.submit",
            "capability:execute (secret-tool)",
        ),
        (query(json!([])), "read", "capability:read (*)"),
        (
            claim("branch:main"),
            "task.submit",
            "claim:write (branch:main)",
        ),
        (
            message("kai://agent.other", true),
            "message.send",
            "agent:write (other)",
        ),
        (
            publish("prices", true),
            "message.send",
            "topic:write (prices)",
        ),
        (
            line("SUBSCRIBE", None, json!({"topic": "orders.new"}), true),
            "message.receive",
            "topic:read (orders.new)",
        ),
    ];
    let orders: Vec<_> = barred.iter().map(|(order, ..)| order).collect();
    let answers = daemon.output("obey", &json!(orders));
    for (answer, (_, _, rule)) in answers.as_array().unwrap().iter().zip(&barred) {
        assert!(answer.to_string().contains(rule), "{rule}: {answer}");
    }
    assert_eq!(
        answers[0]["type"], "TASK_RESULT",
        "a delegation has its outcome: {answers}"
    );
    assert_eq!(answers[1]["payload"]["code"], "not_allowed", "{answers}");
    let expected: Vec<_> = barred
        .iter()
        .map(|(_, action, rule)| (*action, *rule))
        .collect();
    on_record(&daemon, &expected);
}

#[test]
fn a_message_that_somebody_sent_it_leaves_an_answer_and_nothing_else() {
    if !has_python("a_message_that_somebody_sent_it_leaves_an_answer_and_nothing_else") {
        return;
    }
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&agent(&json!({"permissions": []})));
    let claim = json!({"op": "acquire", "resource": "a"});
    let task = json!({"requirements": ["echo"], "input": 1, "claims": [{"resource": "a"}]});
    let orders = json!([
        memory("get", "a"),
        line("CLAIM", None, claim, true),
        line("TASK_REQUEST", None, task, true),
        line("PUBLISH", None, json!({"topic": "a"}), true),
    ]);
    let message =
        json!({"type": "MESSAGE", "to": "kai://agent.agent", "payload": {"orders": orders}});
    let answer = daemon.client().post("/v1/messages", &message).ok(200);
    let answers = answer["payload"].as_array();
    let answers = answers.unwrap_or_else(|| panic!("its answer is let through: {answer}"));
    let missing = [
        ("memory", "memory:read (a)"),
        ("task.submit", "claim:write (a)"),
        ("task.submit", "capability:execute (echo)"),
        ("message.send", "topic:write (a)"),
    ];
    assert_eq!(answers.len(), missing.len(), "{answer}");
    for (answer, (_, missing)) in answers.iter().zip(missing) {
        assert!(answer.to_string().contains(missing), "{missing}: {answer}");
    }
    on_record(&daemon, &missing);
}

#[track_caller]
fn denied(answer: &mesh_tests::Answer, rule: &str) {
    let problem = answer.problem(403, "forbidden");
    let errors = json!([format!("denied by permission {rule}")]);
    assert_eq!(problem["errors"], errors, "{problem}");
}

#[test]
fn over_http_its_token_opens_what_its_permissions_leave() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let permissions = [
        permission("api", &["execute"], Some("task.submit")),
        permission("capability", &["execute"], Some("echo")),
        permission("claim", &["write"], Some("port:*")),
    ];
    let agent = Bundle::echo("agent");
    daemon.deploy(&agent.set("security", json!({"permissions": permissions})));
    let own = own(&daemon);
    let task = |need: &str| json!({"requirements": [need], "input": 1});
    own.post("/v1/tasks", &task("echo")).ok(202);
    denied(
        &own.post("/v1/tasks", &task("agent")),
        "capability:execute (agent)",
    );
    let with = |field: &str, value: Value| {
        let mut task = task("echo");
        task[field] = value;
        own.post("/v1/tasks", &task)
    };
    with("claims", json!([{"resource": "port:80"}])).ok(202);
    let claims = json!([{"resource": "port:80"}, {"resource": "branch:main"}]);
    denied(&with("claims", claims), "claim:write (branch:main)");
    let check = json!({"name": "looked at", "requirements": ["agent"]});
    let contract = json!({"checks": [check]});
    denied(&with("contract", contract), "capability:execute (agent)");
    let message = json!({"type": "MESSAGE", "to": "kai://agent.echo", "payload": {}});
    denied(
        &own.post("/v1/messages", &message),
        "api:write (message.send)",
    );
    on_record(
        &daemon,
        &[
            ("task.submit", "capability:execute (agent)"),
            ("task.submit", "claim:write (branch:main)"),
            ("task.submit", "capability:execute (agent)"),
            ("message.send", "api:write (message.send)"),
        ],
    );
    // A permission gives nothing that the role does not.
    own.get("/v1/tasks").problem(403, "forbidden");
    own.get("/v1/memory/agent").problem(403, "forbidden");
}

#[test]
fn files_are_what_its_permissions_leave_by_the_kernels_word() {
    if !has_python("files_are_what_its_permissions_leave_by_the_kernels_word") {
        return;
    }
    let shared = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = fs::canonicalize(shared.path()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["in", "out"] {
        let dir = path.join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.join("file"), name).unwrap();
        fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let path = path.to_str().unwrap();
    let daemon = Daemon::start();
    let out = format!("{path}/out");
    daemon.deploy(&agent(&json!({
        "permissions": [
            permission("file", &["read"], Some(&format!("{path}/in"))),
            permission("file", &["read", "write"], Some(&out)),
            permission("file", &["read"], Some("/etc")),
        ],
        "fileAccess": {"allowedPaths": [path], "readOnly": false, "tempFileAccess": true},
    })));
    let run = |text: String| json!({"run": text});
    let seen = daemon.output(
        "obey",
        &json!([
            run(format!("open('{path}/in/file').read()")),
            run(format!("open('{path}/in/file', 'w').write('x')")),
            run(format!("open('{out}/new', 'w').write('x')")),
            run(format!("os.remove('{out}/file')")),
            run(format!("sorted(os.listdir('{path}'))")),
            run("open(os.environ['HOME'] + '/x', 'w').write('x')".to_owned()),
            run("open('/tmp/x', 'w').write('x')".to_owned()),
            run("__import__('subprocess').run(['/usr/bin/true']).returncode".to_owned()),
        ]),
    );
    assert_eq!(seen[0], "in", "{seen}");
    assert_eq!(seen[1], "OSError", "read-only file system: {seen}");
    assert_eq!(seen[2], 1, "{seen}");
    assert_eq!(seen[3], "PermissionError", "nothing is removed: {seen}");
    for closed in [5, 6] {
        assert!(seen[closed].is_string(), "neither home nor /tmp: {seen}");
    }
    assert_eq!(seen[7], 0, "what is installed runs: {seen}");
    assert!(fs::exists(format!("{out}/file")).unwrap());
    let sandbox = daemon.client().get("/v1/agents/agent/sandbox").ok(200);
    let controls = sandbox["controls"].as_array().unwrap();
    let control = |name: &str| controls.iter().find(|one| one["control"] == name).unwrap();
    assert_eq!(
        control("filesystem")["requested"],
        "home to read, 1 paths to read, 1 to write"
    );
    assert_eq!(control("execution")["level"], "kernel", "{sandbox}");
}

#[test]
fn the_way_out_is_what_its_permissions_leave() {
    if !has_python("the_way_out_is_what_its_permissions_leave") {
        return;
    }
    let outside = Outside::start();
    let daemon = egress::daemon(&outside);
    let permissions = [
        permission("network", &["read"], Some("allowed.test")),
        permission("network", &["execute"], Some("api.test")),
    ];
    daemon.deploy(&Bundle::traveller("net").set(
        "security",
        json!({
            "networkAccess": {"allowOutbound": true}, "permissions": permissions,
        }),
    ));
    let port = outside.port();
    let url = |host: &str| format!("http://{host}:{port}/");
    let seen = daemon.output(
        "net",
        &json!({
            "read": ["http", url("allowed.test")],
            "write": ["http", url("allowed.test"), "POST", {}, "x"],
            "delete": ["http", url("allowed.test"), "DELETE"],
            "tunnel": ["tunnel", format!("allowed.test:{port}"), "GET / HTTP/1.0\r\n\r\n"],
            "other": ["http", url("free.test")],
            "blind": ["tunnel", format!("api.test:{port}"), "GET /blind HTTP/1.0\r\n\r\n"],
            "seen": ["http", url("api.test")],
        }),
    );
    assert_eq!(seen["read"]["value"]["status"], 200, "{seen}");
    assert!(
        seen["blind"]["value"]
            .as_str()
            .unwrap()
            .contains("GET /blind"),
        "{seen}"
    );
    let mut expected = Vec::new();
    for (act, missing) in [
        ("write", "network:write (allowed.test)"),
        ("delete", "network:delete (allowed.test)"),
        ("tunnel", "network:execute (allowed.test)"),
        ("other", "network:read (free.test)"),
        ("seen", "network:read (api.test)"),
    ] {
        let answer = seen[act]["value"].to_string();
        assert!(answer.contains("permission_missing"), "{act}: {answer}");
        assert!(answer.contains(missing), "{act}: {answer}");
        expected.push(format!("permission {missing}"));
    }
    assert_eq!(outside.heard().len(), 2, "{:?}", outside.heard());
    expected.sort();
    eventually("each is on record", LONG, || {
        let denied = daemon.audit("kind=egress.denied");
        let rules = denied
            .iter()
            .map(|one| one["payload"]["rule"].as_str().unwrap_or_default());
        let mut rules: Vec<_> = rules.map(str::to_owned).collect();
        rules.sort();
        if rules == expected {
            Ok(())
        } else {
            Err(format!("{rules:?}"))
        }
    });
}

#[test]
fn with_an_empty_list_an_agent_can_only_talk_to_meshd() {
    if !has_python("with_an_empty_list_an_agent_can_only_talk_to_meshd") {
        return;
    }
    let outside = Outside::start();
    let daemon = egress::daemon(&outside);
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&agent(&json!({
        "permissions": [],
        "session": true,
        "networkAccess": {"allowOutbound": true},
        "fileAccess": {"allowedPaths": ["/var/tmp"], "readOnly": false, "tempFileAccess": true},
    })));
    let port = outside.port();
    let connect = format!("__import__('socket').create_connection(('127.0.0.1', {port}), 5)");
    let write = |path: &str| json!({"run": format!("open('{path}', 'w').write('x')")});
    let orders = json!([
        {"type": "STATUS_UPDATE", "payload": {"progress": 0.5}},
        memory("get", "a"),
        line("TASK_REQUEST", None, json!({"requirements": ["echo"], "input": 1}), true),
        line("MESSAGE", Some("kai://agent.echo"), json!({}), true),
        line("PUBLISH", None, json!({"topic": "a"}), true),
        line("SUBSCRIBE", None, json!({"topic": "a"}), true),
        line("CAPABILITY_QUERY", None, json!({}), true),
        line("CLAIM", None, json!({"op": "acquire", "resource": "a"}), true),
        {"run": connect},
        {"run": "os.environ.get('HTTP_PROXY')"},
        {"run": "os.path.exists('/var/tmp')"},
        write("/tmp/x"), write("/var/tmp/x"), write("x"),
        {"run": "open(os.environ['HOME'] + '/x', 'w').write('x')"},
    ]);
    // It takes its task and answers it.
    let seen = daemon.output("obey", &orders);
    let seen = seen.as_array().unwrap();
    let missing = [
        "memory:read (a)",
        "capability:execute (echo)",
        "agent:write (echo)",
        "topic:write (a)",
        "topic:read (a)",
        "capability:read (*)",
        "claim:write (a)",
    ];
    for (answer, missing) in seen[1..8].iter().zip(missing) {
        assert!(answer.to_string().contains(missing), "{missing}: {answer}");
    }
    assert!(seen[8].is_string(), "nobody is reached: {seen:?}");
    assert_eq!(
        (&seen[9], &seen[10]),
        (&Value::Null, &json!(false)),
        "{seen:?}"
    );
    for (index, answer) in seen[11..].iter().enumerate() {
        assert!(answer.is_string(), "{index} was written: {seen:?}");
    }
    assert_eq!(outside.heard().len(), 0);
    shares_memory_with_itself_alone(&daemon);
    let own = own(&daemon);
    own.post("/v1/tasks", &json!({"requirements": ["echo"]}))
        .problem(403, "forbidden");
    let sandbox = daemon.client().get("/v1/agents/agent/sandbox").ok(200);
    let controls = sandbox["controls"].as_array().unwrap();
    let network = controls
        .iter()
        .find(|one| one["control"] == "network")
        .unwrap();
    assert_eq!(network["requested"], "none", "{sandbox}");
}

#[test]
fn what_nothing_enforces_is_refused_at_deploy_by_name() {
    let daemon = Daemon::start();
    let deploy = |permissions: Value, secrets: Value| {
        let bundle = Bundle::echo("agent").set("security", json!({"permissions": permissions}));
        let manifest = bundle.set("secrets", secrets).manifest().clone();
        daemon
            .client()
            .post("/v1/agents", &json!({"manifest": manifest}))
    };
    for (permissions, named) in [
        (
            json!([permission("fiel", &["read"], None)]),
            "security.permissions[0].resource",
        ),
        (
            json!([permission("memory", &["execute"], None)]),
            "security.permissions[0].actions",
        ),
        (
            json!([permission("topic", &["read"], Some("a..b"))]),
            "security.permissions[0].scope",
        ),
    ] {
        let problem = deploy(permissions, json!([])).problem(422, "invalid_manifest");
        assert!(problem.to_string().contains(named), "{named}: {problem}");
    }
    let secret = json!([{"name": "db", "from": "vault://db", "mode": "mount"}]);
    let problem = deploy(json!([]), secret).problem(422, "invalid_manifest");
    assert!(
        problem.to_string().contains("permission secret:read (db)"),
        "{problem}"
    );
    assert_eq!(
        daemon.client().get("/v1/agents").ok(200)["items"],
        json!([])
    );
}
