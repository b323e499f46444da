//! Services as steps of workflows, as agents, and as what agents wait for.

use mesh_tests::Bundle;

use super::*;

#[test]
fn a_step_calls_a_registered_service_with_its_secret_and_is_refused_where_there_is_none() {
    let server = Server::start();
    server.says("/find", &[(503, json!("busy")), (200, json!({"lat": 48}))]);
    server.says("/store", &[(200, json!("stored"))]);
    let daemon = Daemon::start();
    let grant = json!({"value": SECRET, "agents": ["service:geo"]});
    daemon.client().put("/v1/secrets/geo-key", &grant).ok(200);
    let mut definition = definition(&server, "geo");
    definition["auth"] = json!({"type": "bearer", "secret": "geo-key"});
    let workflow = json!({"steps": [
        {"id": "find", "service": "geo/find", "input": {"q": "${input.place}"}},
        {"id": "store", "service": {"id": "geo", "endpoint": "store"}, "input": "${steps.find.output.lat}"},
    ], "output": "${steps.store.output}"});
    let body = json!({"workflow": workflow, "input": {"place": "Wien"}});
    let refused = daemon
        .client()
        .post("/v1/workflows", &body)
        .problem(422, "invalid_workflow");
    assert!(
        refused["errors"]
            .to_string()
            .contains("steps[0].service: unknown service: geo"),
        "{refused}"
    );
    daemon.client().post("/v1/services", &definition).ok(201);
    let run = daemon
        .client()
        .post("/v1/workflows?wait=60s", &body)
        .ok(200);
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &json!("stored")),
        "{run}"
    );
    let heard = server.heard("/find");
    assert_eq!(heard.len(), 2, "tried again");
    assert!(
        heard[1].contains("q=Wien") && heard[1].contains(&format!("Bearer {SECRET}")),
        "{heard:?}"
    );
    assert!(
        server.heard("/store")[0].ends_with("48"),
        "{:?}",
        server.heard("/store")
    );
    let called = daemon.audit("kind=service.called");
    assert_eq!(called.len(), 2, "{called:?}");
    assert!(!format!("{called:?}{run}").contains(SECRET));
    let mut wrong = body.clone();
    wrong["workflow"]["steps"][0]["service"] = json!("geo");
    let refused = daemon
        .client()
        .post("/v1/workflows", &wrong)
        .problem(422, "invalid_workflow");
    assert!(
        refused["errors"].to_string().contains("several endpoints"),
        "{refused}"
    );
    // A rule on calls is a rule on workflows that call, also on those that somebody else stored.
    let plan = daemon.client().post("/v1/plans", &body).ok(201);
    let (plan, version) = (plan["id"].as_str().unwrap(), &plan["version"]);
    let rules = json!({"default": {"access": [{"decision": "deny", "verbs": ["service.call"], "roles": ["operator"]}]}});
    daemon.client().put("/v1/policies", &rules).ok(200);
    let operator = daemon.of_role("operator", "o");
    operator
        .post("/v1/workflows", &body)
        .problem(403, "forbidden");
    operator
        .post(
            &format!("/v1/plans/{plan}/start"),
            &json!({"version": version}),
        )
        .problem(403, "forbidden");
    operator
        .post("/v1/services/geo/call", &json!({"endpoint": "find"}))
        .problem(403, "forbidden");
}

#[test]
fn an_agent_waits_for_the_service_that_it_requires_and_starts_when_it_is_there() {
    let server = Server::start();
    let daemon = Daemon::start();
    let needs = json!([{"name": "geo", "type": "service"}, {"name": "nice", "type": "service", "required": false}]);
    let registered = daemon.register(&Bundle::echo("walker").set("dependencies", needs));
    let notices = registered["notices"].to_string();
    assert!(
        notices.contains("service geo") && notices.contains("service nice"),
        "{registered}"
    );
    let waits = |said: &str| {
        eventually("it waits and says for what", LONG, || {
            let status = daemon.status("walker");
            let waiting = &status["waitingFor"][0];
            let text = waiting.to_string();
            if waiting["agent"] == "geo" && waiting["type"] == "service" && text.contains(said) {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    };
    waits("is not registered");
    server.is_dead(true);
    daemon
        .client()
        .post("/v1/services", &definition(&server, "geo"))
        .ok(201);
    waits("is in error");
    let graph = daemon.client().get("/v1/dependencies").ok(200);
    let needs = &graph["agents"][0]["needs"];
    assert_eq!(
        (&needs[0]["met"], &needs[1]["met"]),
        (&json!(false), &json!(false)),
        "{graph}"
    );
    server.is_dead(false);
    eventually("it serves", LONG, || {
        let status = daemon.status("walker");
        if status["instances"][0]["state"] == "ready"
            || status["waitingFor"] == json!([])
            || status.get("waitingFor").is_none()
        {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert_eq!(daemon.output("echo", &json!({"a": 1})), json!({"a": 1}));
    let graph = daemon.client().get("/v1/dependencies").ok(200);
    assert_eq!(graph["agents"][0]["needs"][0]["met"], true, "{graph}");
}

#[test]
fn a_service_does_tasks_as_an_agent_and_another_one_takes_over_when_it_cannot() {
    let (first, second) = (Server::start(), Server::start());
    first.says("/store", &[(200, json!({"by": "first"}))]);
    second.says("/store", &[(200, json!({"by": "second"}))]);
    let daemon = Daemon::start();
    for (server, id) in [(&first, "one"), (&second, "two")] {
        daemon
            .client()
            .post("/v1/services", &definition(server, id))
            .ok(201);
    }
    let agent = |id: &str, service: &str| json!({"manifest": {"id": id, "version": "1.0.0", "capabilities": ["geocode"], "entry": format!("service:{service}/store")}});
    daemon
        .of_role("publisher", "p")
        .post("/v1/agents", &agent("sly", "one"))
        .problem(403, "forbidden");
    daemon
        .client()
        .post("/v1/agents", &agent("a-one", "one"))
        .ok(201);
    assert_eq!(
        daemon.output("geocode", &json!({"q": "Wien"})),
        json!({"by": "first"})
    );
    let heard = first.heard("/store");
    assert!(heard[0].ends_with("{\"q\":\"Wien\"}"), "{heard:?}");
    let called = daemon.audit("kind=service.called");
    assert_eq!(called[0]["payload"]["by"], "agent:a-one", "{called:?}");
    let status = daemon.status("a-one");
    assert_eq!(status["health"]["status"], "healthy", "{status}");

    daemon
        .client()
        .post("/v1/agents", &agent("b-two", "two"))
        .ok(201);
    first.is_dead(true);
    let task = json!({"requirements": ["geocode"], "input": 1, "retry": {"maxAttempts": 5, "baseDelayMs": 10}, "prefer": "a-one"});
    let id = daemon.submit(&task);
    let ended = daemon.ended(&id, LONG);
    assert_eq!(
        (&ended["state"], &ended["output"]),
        (&json!("succeeded"), &json!({"by": "second"})),
        "{ended}"
    );
    first.is_dead(false);

    // A contract holds for it as for any agent.
    second.says("/store", &[(200, json!("nonsense"))]);
    first.says("/store", &[(200, json!("nonsense"))]);
    let task = json!({"requirements": ["geocode"], "input": 1, "retry": {"maxAttempts": 1}, "contract": {"outputSchema": {"type": "object"}}});
    let ended = daemon.ended(&daemon.submit(&task), LONG);
    assert_ne!(ended["state"], "succeeded", "{ended}");
    assert_eq!(
        ended["attempts"][0]["error"]["class"], "contract",
        "{ended}"
    );
    let gone = json!({"manifest": {"id": "gone", "version": "1.0.0", "capabilities": ["x"], "entry": "service:nobody/at all"}});
    daemon
        .client()
        .post("/v1/agents", &gone)
        .problem(422, "invalid_manifest");
}
