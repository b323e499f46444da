//! Who may what: every verb of the `OpenAPI` document, tried by every kind of caller, against one table.
//!
//! The document is the list of verbs, so that none can be forgotten: a verb without a row fails, and so does a row without
//! a verb. Each request bears a parameter that no verb knows. It is refused as soon as the caller was found to be allowed,
//! so nothing is ever carried out, and the answer says what was decided about the caller alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_tests::{Answer, Bundle, Client, Daemon, eventually};
use serde_json::{Value, json};

/// Method, path, and who may: `v`iewer, `o`perator, `a`dmin, a`g`ent, `p`ublisher; `*` is for everybody.
const TABLE: [(&str, &str, &str); 127] = [
    ("GET", "/healthz", "*"),
    ("GET", "/openapi.json", "*"),
    ("GET", "/status", "voap"),
    ("GET", "/metrics", "voap"),
    ("GET", "/v1/health", "voap"),
    ("GET", "/v1/insights", "voap"),
    ("GET", "/v1/nodes", "voap"),
    ("GET", "/v1/events", "voap"),
    ("POST", "/v1/agents", "ap"),
    ("GET", "/v1/agents", "voap"),
    ("GET", "/v1/agents/{id}", "voap"),
    ("DELETE", "/v1/agents/{id}", "a"),
    ("GET", "/v1/dependencies", "voap"),
    ("GET", "/v1/agents/{id}/status", "voap"),
    ("GET", "/v1/agents/{id}/history", "voap"),
    ("GET", "/v1/agents/{id}/insights", "voap"),
    ("GET", "/v1/agents/{id}/logs", "voap"),
    ("GET", "/v1/agents/{id}/policy", "voap"),
    ("GET", "/v1/agents/{id}/profile", "voap"),
    ("GET", "/v1/profiles", "voap"),
    ("GET", "/v1/agents/{id}/instances", "voap"),
    ("GET", "/v1/agents/{id}/sandbox", "voap"),
    ("GET", "/v1/agents/{id}/memory", "a"),
    ("POST", "/v1/agents/{id}/start", "oa"),
    ("POST", "/v1/agents/{id}/stop", "oa"),
    ("POST", "/v1/agents/{id}/restart", "oa"),
    ("POST", "/v1/agents/{id}/pause", "oa"),
    ("POST", "/v1/agents/{id}/resume", "oa"),
    ("POST", "/v1/agents/{id}/scale", "oa"),
    ("POST", "/v1/agents/{id}/limit", "a"),
    ("POST", "/v1/agents/{id}/signal", "oa"),
    ("POST", "/v1/agents/{id}/quarantine", "a"),
    ("POST", "/v1/agents/{id}/recover", "a"),
    ("POST", "/v1/agents/{id}/upgrade", "a"),
    ("POST", "/v1/agents/{id}/rollback", "a"),
    ("POST", "/v1/agents/{id}/terminate", "a"),
    ("POST", "/v1/tasks", "oag"),
    ("GET", "/v1/tasks", "voap"),
    ("GET", "/v1/tasks/{id}", "voap"),
    ("POST", "/v1/tasks/{id}/cancel", "oa"),
    ("POST", "/v1/tasks/{id}/retry", "oa"),
    ("POST", "/v1/tasks/{id}/split", "oa"),
    ("POST", "/v1/tasks/{id}/outcome", "oa"),
    ("POST", "/v1/tasks/{id}/approve", "oa"),
    ("GET", "/v1/tasks/{id}/explain", "voap"),
    ("GET", "/v1/tasks/{id}/events", "voap"),
    ("GET", "/v1/inbox", "voap"),
    ("GET", "/v1/inbox/{id}", "voap"),
    ("POST", "/v1/inbox/{id}/answer", "oa"),
    ("GET", "/v1/trust", "voap"),
    ("GET", "/v1/trust/{id}", "voap"),
    ("POST", "/v1/trust/{id}/reset", "a"),
    ("GET", "/v1/board", "voap"),
    ("POST", "/v1/workflows", "oa"),
    ("GET", "/v1/workflows", "voap"),
    ("GET", "/v1/workflows/{id}", "voap"),
    ("POST", "/v1/workflows/{id}/cancel", "oa"),
    ("POST", "/v1/schedules", "oa"),
    ("GET", "/v1/schedules", "voap"),
    ("GET", "/v1/schedules/{id}", "voap"),
    ("DELETE", "/v1/schedules/{id}", "oa"),
    ("POST", "/v1/schedules/{id}/pause", "oa"),
    ("POST", "/v1/schedules/{id}/resume", "oa"),
    ("POST", "/v1/plans", "oa"),
    ("GET", "/v1/plans", "voap"),
    ("GET", "/v1/plans/{id}", "voap"),
    ("PUT", "/v1/plans/{id}", "oa"),
    ("POST", "/v1/plans/{id}/start", "oa"),
    ("DELETE", "/v1/plans/{id}", "oa"),
    ("POST", "/v1/services", "a"),
    ("GET", "/v1/services", "voap"),
    ("GET", "/v1/services/{id}", "voap"),
    ("PUT", "/v1/services/{id}", "a"),
    ("DELETE", "/v1/services/{id}", "a"),
    ("POST", "/v1/services/{id}/check", "oa"),
    ("POST", "/v1/services/{id}/call", "oa"),
    ("GET", "/v1/claims", "voap"),
    ("GET", "/v1/budgets", "voap"),
    ("GET", "/v1/budgets/{account}", "voap"),
    ("GET", "/v1/gates", "voap"),
    ("POST", "/v1/gates/{account}/try", "oa"),
    ("POST", "/v1/messages", "oag"),
    ("GET", "/v1/messages/{id}/trace", "voap"),
    ("POST", "/v1/subscriptions", "oag"),
    ("GET", "/v1/subscriptions", "voap"),
    ("GET", "/v1/subscriptions/{id}", "voap"),
    ("DELETE", "/v1/subscriptions/{id}", "oag"),
    ("POST", "/v1/subscriptions/{id}/pull", "oag"),
    ("POST", "/v1/subscriptions/{id}/ack", "oag"),
    ("POST", "/v1/subscriptions/{id}/nack", "oag"),
    ("POST", "/v1/subscriptions/{id}/extend", "oag"),
    ("GET", "/v1/bus/routes", "voap"),
    ("GET", "/v1/bus/dead", "voap"),
    ("POST", "/v1/bus/dead/{id}/retry", "oa"),
    ("DELETE", "/v1/bus/dead/{id}", "oa"),
    ("GET", "/v1/audit", "voap"),
    ("GET", "/v1/audit/checkpoint", "voap"),
    ("GET", "/v1/audit/successions", "voap"),
    ("GET", "/v1/audit/proof", "voap"),
    ("GET", "/v1/audit/tile/{path}", "voap"),
    ("POST", "/v1/audit/witness/add-checkpoint", "oag"),
    ("POST", "/v1/audit/witness/add-succession", "oag"),
    ("GET", "/v1/audit/export", "voap"),
    ("GET", "/v1/audit/trace", "voap"),
    ("GET", "/v1/audit/state", "voap"),
    ("GET", "/v1/export/sql", "voap"),
    ("POST", "/v1/erasures", "a"),
    ("GET", "/v1/backup", "a"),
    ("POST", "/v1/chaos", "a"),
    ("GET", "/v1/memory/{agent}", "a"),
    ("GET", "/v1/memory/{agent}/{key}", "a"),
    ("PUT", "/v1/memory/{agent}/{key}", "a"),
    ("DELETE", "/v1/memory/{agent}/{key}", "a"),
    ("POST", "/v1/tokens", "a"),
    ("GET", "/v1/tokens", "a"),
    ("DELETE", "/v1/tokens/{id}", "a"),
    ("POST", "/v1/keys", "a"),
    ("GET", "/v1/keys", "voap"),
    ("POST", "/v1/keys/{key}/revoke", "a"),
    ("POST", "/v1/keys/node/rotate", "a"),
    ("GET", "/v1/secrets", "a"),
    ("PUT", "/v1/secrets/{name}", "a"),
    ("DELETE", "/v1/secrets/{name}", "a"),
    ("GET", "/v1/policies", "voap"),
    ("PUT", "/v1/policies", "a"),
    ("GET", "/v1/governance", "voap"),
    ("POST", "/v1/governance", "a"),
];

const ROLES: [(char, &str); 5] = [
    ('v', "viewer"),
    ('o', "operator"),
    ('a', "admin"),
    ('g', "agent"),
    ('p', "publisher"),
];

/// What holds for one verb: the decision is named beside it in the document.
#[derive(Debug, Clone)]
struct Verb {
    method: String,
    path: String,
    action: Option<String>,
}

impl Verb {
    /// Its path, about things that do not exist.
    fn request(&self) -> String {
        let mut concrete = String::new();
        for part in self.path.split('/').skip(1) {
            concrete.push('/');
            concrete.push_str(if part.starts_with('{') {
                "nobody"
            } else {
                part
            });
        }
        format!("{concrete}?nonsense=1")
    }

    fn ask(&self, caller: &Client) -> Answer {
        let body = matches!(&*self.method, "POST" | "PUT").then_some(&b"{}"[..]);
        caller.send(&self.method, &self.request(), &[], body)
    }
}

fn verbs(daemon: &Daemon) -> Vec<Verb> {
    let document = daemon.client().get("/openapi.json").ok(200);
    let mut verbs = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if method != "parameters" {
                verbs.push(Verb {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    action: operation["x-action"].as_str().map(str::to_owned),
                });
            }
        }
    }
    verbs
}

fn issue(daemon: &Daemon, body: &Value) -> (Client, Value) {
    let issued = daemon.client().post("/v1/tokens", body).ok(201);
    (daemon.client().with_token(issued["token"].as_str()), issued)
}

fn of_role(daemon: &Daemon, role: &str, subject: &str) -> Client {
    issue(daemon, &json!({"role": role, "subject": subject})).0
}

/// Whether a caller was let in; anything but one of the two answers fails.
fn decided(verb: &Verb, caller: &str, answer: &Answer) -> bool {
    if answer.status == 403 {
        let problem = answer.problem(403, "forbidden");
        assert_eq!(
            problem["detail"], "Insufficient permissions",
            "{verb:?} {caller}"
        );
        let text = problem.to_string();
        assert!(
            !text.contains("role") && !text.contains("nonsense"),
            "{verb:?} tells {caller} more: {text}"
        );
        return false;
    }
    assert_eq!(
        answer.status,
        400,
        "{verb:?} by {caller}: {}",
        answer.text()
    );
    answer.problem(400, "unknown_parameter");
    true
}

#[test]
fn every_verb_is_open_to_exactly_those_whom_the_table_names() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    daemon.deploy(&Bundle::echo("jailed"));
    let verbs = verbs(&daemon);
    let table: BTreeMap<_, _> = TABLE
        .iter()
        .map(|(method, path, who)| ((*method, *path), *who))
        .collect();
    assert_eq!(table.len(), TABLE.len(), "a verb stands in the table twice");
    let documented: BTreeSet<_> = verbs
        .iter()
        .map(|verb| (&*verb.method, &*verb.path))
        .collect();
    let ruled: BTreeSet<_> = table.keys().copied().collect();
    assert_eq!(
        documented, ruled,
        "the document and the table name the same verbs"
    );

    let allowed: Vec<(char, Client)> = ROLES
        .map(|(letter, role)| {
            (
                letter,
                of_role(&daemon, role, if letter == 'g' { "echo" } else { role }),
            )
        })
        .into();
    let (revoked, issued) = issue(&daemon, &json!({"role": "admin"}));
    daemon
        .client()
        .delete(&format!("/v1/tokens/{}", issued["id"].as_str().unwrap()))
        .ok(200);
    let (expired, _) = issue(&daemon, &json!({"role": "admin", "ttl": "1s"}));
    eventually(
        "it has expired",
        Duration::from_secs(30),
        || match expired.get("/status").status {
            401 => Ok(()),
            other => Err(other.to_string()),
        },
    );
    let jailed = of_role(&daemon, "agent", "jailed");
    daemon
        .client()
        .post(
            "/v1/agents/jailed/quarantine",
            &json!({"description": "test"}),
        )
        .ok(200);
    let half = issued["token"].as_str().unwrap();
    let nobodies = [
        ("no token", daemon.client().with_token(None)),
        (
            "no real token",
            daemon
                .client()
                .with_token(Some("mesh_0000000000000000_AAAA")),
        ),
        (
            "half a token",
            daemon.client().with_token(Some(&half[..half.len() - 1])),
        ),
        ("a revoked admin", revoked),
        ("an expired admin", expired),
        ("a quarantined agent", jailed),
    ];

    for verb in &verbs {
        let who = table[&(&*verb.method, &*verb.path)];
        for (name, caller) in &nobodies {
            let answer = verb.ask(caller);
            if who == "*" {
                assert_eq!(answer.status, 200, "{verb:?} by {name}");
                continue;
            }
            let problem = answer.problem(401, "unauthenticated");
            assert_eq!(
                problem["detail"], "Invalid authentication",
                "{verb:?} by {name}"
            );
        }
        for (letter, caller) in allowed.iter().filter(|_| who != "*") {
            let let_in = decided(verb, &letter.to_string(), &verb.ask(caller));
            assert_eq!(let_in, who.contains(*letter), "{verb:?} by {letter}");
        }
    }
}

#[test]
fn every_kind_of_refusal_is_in_the_audit_with_action_resource_user_and_reason() {
    let daemon = Daemon::start();
    let verbs = verbs(&daemon);
    let mut actions: BTreeMap<String, Verb> = BTreeMap::new();
    for verb in verbs {
        if let Some(action) = verb.action.clone() {
            actions.entry(action).or_insert(verb);
        }
    }
    assert!(actions.len() > 10, "{:?}", actions.keys());
    let denied = |reason: &str| {
        let mut records = daemon.audit("kind=access.denied");
        records.retain(|record| record["payload"]["reason"] == reason);
        records
    };
    for (action, verb) in &actions {
        let who = TABLE
            .iter()
            .find(|(method, path, _)| (*method, *path) == (&verb.method, &verb.path))
            .unwrap()
            .2;
        let (_, role) = ROLES
            .into_iter()
            .find(|(letter, _)| !who.contains(*letter))
            .unwrap();
        // A caller of its own: refusals of one caller are recorded up to a rate.
        let subject = format!("who-{action}");
        if role == "agent" {
            daemon.register(&Bundle::echo(&subject));
        }
        let caller = of_role(&daemon, role, &subject);
        assert!(!decided(verb, role, &verb.ask(&caller)), "{verb:?}");
        let path = verb.request();
        let user = if role == "agent" {
            format!("agent:{subject}")
        } else {
            format!("user:{subject}")
        };
        let expected = json!({
            "action": action, "resource": path.split('?').next(), "user": user, "reason": "Insufficient permissions",
        });
        eventually(
            "the refusal is in the audit",
            Duration::from_secs(30),
            || {
                let records = denied("Insufficient permissions");
                match records
                    .iter()
                    .find(|record| record["payload"]["user"] == user)
                {
                    Some(record) if record["payload"] == expected && record["actor"] == user => {
                        Ok(())
                    }
                    other => Err(format!("{other:?}, not {expected}")),
                }
            },
        );
    }
    // One denial is one record, whatever the verb.
    for kind in ["access.denied", "request.refused"] {
        let records = daemon.audit(&format!("kind={kind}"));
        for action in actions.keys() {
            let user = |who: &str| format!("{who}:who-{action}");
            let of_it = records.iter().filter(|record| {
                record["actor"] == user("user") || record["actor"] == user("agent")
            });
            let expected = usize::from(kind == "access.denied");
            assert_eq!(of_it.count(), expected, "{kind} {action}");
        }
    }
    daemon
        .client()
        .with_token(Some("nobody"))
        .get("/v1/tasks")
        .problem(401, "unauthenticated");
    eventually(
        "the stranger is in the audit",
        Duration::from_secs(30),
        || {
            let records = denied("Invalid authentication");
            let found = records.iter().any(|record| {
                record["payload"]["action"] == "authenticate"
                    && record["payload"]["user"] == "anonymous"
            });
            if found {
                Ok(())
            } else {
                Err(format!("{records:?}"))
            }
        },
    );
}

#[test]
fn the_command_line_is_refused_as_http_is() {
    let daemon = Daemon::start();
    let issued = daemon
        .client()
        .post("/v1/tokens", &json!({"role": "viewer"}))
        .ok(201);
    let file = daemon.home().scratch().join("viewer.token");
    std::fs::write(&file, issued["token"].as_str().unwrap()).unwrap();
    let file = file.to_str().unwrap();
    for line in [
        &["task", "submit", "--requires", "echo"][..],
        &["token", "list"],
        &["agent", "stop", "echo"],
        &["memory", "list", "echo"],
        &["inbox", "approve", "nothing"],
    ] {
        let mut arguments = vec!["--token-file", file];
        arguments.extend(line);
        let ran = daemon.ctl(&arguments).exits(4);
        assert!(
            ran.err.contains("Insufficient permissions"),
            "{line:?}: {}",
            ran.err
        );
    }
    daemon.ctl(&["--token-file", file, "task", "list"]).exits(0);
}

#[test]
fn a_message_in_anothers_name_is_refused_and_audited_like_any_other_act() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let operator = of_role(&daemon, "operator", "olga");
    let forged = json!({
        "v": 1, "id": "m-1", "type": "MESSAGE", "from": "user:ada", "to": "agent:echo",
        "timestamp": "2025-06-20T22:04:00Z", "payload": {},
    });
    operator
        .post("/v1/messages", &forged)
        .problem(403, "not_allowed");
    eventually(
        "the forgery is in the audit",
        Duration::from_secs(30),
        || {
            let records = daemon.audit("kind=access.denied");
            let found = records.iter().any(|record| {
                let payload = &record["payload"];
                payload["action"] == "message.send"
                    && payload["user"] == "user:olga"
                    && payload["resource"] == "user:ada"
            });
            if found {
                Ok(())
            } else {
                Err(format!("{records:?}"))
            }
        },
    );
}

#[test]
fn what_agents_remember_is_in_no_answer_to_a_reader_and_the_proofs_hold_all_the_same() {
    const SECRET: &str = "only-for-admins";
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo").set("memory", json!({"type": "persistent"})));
    let body = json!({"value": SECRET}).to_string();
    let kind = [("content-type", "application/json")];
    daemon
        .client()
        .send("PUT", "/v1/memory/echo/k", &kind, Some(body.as_bytes()))
        .ok(200);
    let viewer = of_role(&daemon, "viewer", "vera");
    let position = daemon.audit("kind=memory.set")[0]["position"].clone();
    let paths = [
        "/v1/audit".to_owned(),
        "/v1/agents/echo/history".to_owned(),
        format!("/v1/audit/trace?position={position}"),
        "/v1/audit/export".to_owned(),
    ];
    for path in &paths {
        assert!(
            daemon.client().get(path).text().contains(SECRET),
            "{path} as an admin"
        );
        let answer = viewer.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(
            !answer.text().contains(SECRET),
            "{path} tells: {}",
            answer.text()
        );
        assert!(
            answer.text().contains("memory.set"),
            "{path} leaves the record out"
        );
    }
    let before = position.as_u64().unwrap().checked_sub(1);
    let event = viewer
        .events("?topic=agent.echo.*", before)
        .find(|event| event.data["data"]["kind"] == "memory.set")
        .unwrap();
    assert!(!event.data.to_string().contains(SECRET), "{:?}", event.data);
    let file = daemon.home().scratch().join("viewer.jsonl");
    std::fs::write(&file, viewer.get("/v1/audit/export").body).unwrap();
    daemon
        .ctl(&["audit", "verify", file.to_str().unwrap()])
        .exits(0);
}
