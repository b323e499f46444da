//! What is kept of services: secrets from everybody else, calls within bounds, definitions of a file.

use rustix::process::Signal;

use super::*;

#[test]
fn a_secret_reaches_the_service_alone_and_is_seen_nowhere_else() {
    let server = Server::start();
    let daemon = Daemon::start();
    let grant = json!({"value": SECRET, "agents": ["service:bearer", "service:header", "service:basic", "service:query"], "domains": ["127.0.0.1"]});
    daemon.client().put("/v1/secrets/geo-key", &grant).ok(200);
    let kinds = [
        (
            "bearer",
            json!({"type": "bearer", "secret": "geo-key"}),
            format!("authorization: Bearer {SECRET}"),
        ),
        (
            "header",
            json!({"type": "header", "secret": "geo-key", "name": "X-Api-Key"}),
            format!("x-api-key: {SECRET}"),
        ),
        (
            "basic",
            json!({"type": "basic", "secret": "geo-key", "username": "ada"}),
            "authorization: Basic ".to_owned(),
        ),
        (
            "query",
            json!({"type": "query", "secret": "geo-key", "name": "key"}),
            format!("/query?a=b&q=1&key={SECRET}"),
        ),
    ];
    let mut seen = String::new();
    for (id, auth, wanted) in &kinds {
        let path = format!("/{id}");
        // It says again what it was told: that is not for whoever called.
        server.says(
            &path,
            &[(
                200,
                json!({"you said": SECRET, "list": [format!("a{SECRET}b")]}),
            )],
        );
        let mut definition = definition(&server, id);
        definition["auth"] = auth.clone();
        let tail = if *id == "query" { "?a=b" } else { "" };
        definition["endpoints"] =
            json!([{"name": "run", "url": server.url(&format!("{path}{tail}")), "method": "GET"}]);
        seen += &daemon
            .client()
            .post("/v1/services", &definition)
            .ok(201)
            .to_string();
        let reply = call(&daemon, id, json!({"params": {"q": 1}})).ok(200);
        assert_eq!(reply["output"]["you said"], "[secret geo-key]", "{reply}");
        server.says(&path, &[(403, json!({"bad key": SECRET}))]);
        seen += &call(&daemon, id, json!({"params": {"q": 1}})).text();
        seen += &reply.to_string();
        let heard = server.heard(&path);
        let plain = heard[0]
            .replace("Authorization", "authorization")
            .replace("X-Api-Key", "x-api-key");
        assert!(plain.contains(wanted), "{wanted}: {heard:?}");
    }
    // Who is not named by the secret does not get it, and neither does another host.
    let mut stranger = definition(&server, "stranger");
    stranger["auth"] = json!({"type": "bearer", "secret": "geo-key"});
    let added = daemon.client().post("/v1/services", &stranger).ok(201);
    assert_eq!(added["status"], "error", "{added}");
    assert!(
        added["fault"]["reason"]
            .as_str()
            .unwrap()
            .contains("secret geo-key"),
        "{added}"
    );
    let elsewhere = json!({"value": SECRET, "agents": ["*"], "domains": ["geo.example"]});
    daemon
        .client()
        .put("/v1/secrets/geo-key", &elsewhere)
        .ok(200);
    seen += &call(&daemon, "bearer", json!({}))
        .problem(409, "service_secret_missing")
        .to_string();

    for place in [
        "/v1/services",
        "/v1/services/bearer",
        "/v1/audit?limit=1000",
        "/metrics",
        "/status",
        "/v1/health",
    ] {
        seen += &daemon.client().get(place).text();
    }
    for words in [&["audit", "export"][..], &["service", "show", "bearer"]] {
        let told = daemon.ctl(words).exits(0);
        seen += &told.out;
        seen += &told.err;
    }
    let (home, _) = daemon.stop(Signal::TERM);
    seen += &home.log();
    assert!(!seen.contains(SECRET), "it is seen");
}

#[test]
fn a_blocked_address_is_not_dialled_even_when_it_was_registered_before() {
    let server = Server::start();
    server.says("/find", &[(200, json!("found"))]);
    let daemon = Daemon::start();
    daemon
        .client()
        .post("/v1/services", &definition(&server, "geo"))
        .ok(201);
    let home = daemon.stop(Signal::TERM).0;
    let heard = server.heard("/").len() + server.heard("/find").len();
    let daemon = home.config("services:\n  networks: []\n").start();
    let problem = call(&daemon, "geo", json!({"endpoint": "find"})).problem(403, "service_denied");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("services.networks"),
        "{problem}"
    );
    let checked = daemon
        .client()
        .post("/v1/services/geo/check", &json!({}))
        .ok(200);
    assert_eq!(checked["status"], "error", "{checked}");
    assert_eq!(
        server.heard("/").len() + server.heard("/find").len(),
        heard,
        "nobody came"
    );
}

#[test]
fn a_rate_bounds_the_calls_and_roles_say_who_may() {
    let server = Server::start();
    server.says("/find", &[(200, json!("found"))]);
    let daemon = Daemon::start();
    let mut definition = definition(&server, "geo");
    definition["rate"] = json!({"perSecond": 1, "burst": 2});
    let (viewer, operator) = (
        daemon.of_role("viewer", "v"),
        daemon.of_role("operator", "o"),
    );
    operator
        .post("/v1/services", &definition)
        .problem(403, "forbidden");
    daemon.client().post("/v1/services", &definition).ok(201);
    assert_eq!(viewer.get("/v1/services/geo").ok(200)["id"], "geo");
    let order = json!({"endpoint": "find"});
    viewer
        .post("/v1/services/geo/call", &order)
        .problem(403, "forbidden");
    viewer
        .post("/v1/services/geo/check", &json!({}))
        .problem(403, "forbidden");
    for _ in 0..2 {
        operator.post("/v1/services/geo/call", &order).ok(200);
    }
    let busy = operator.post("/v1/services/geo/call", &order);
    assert!(busy.header("retry-after").is_some());
    busy.problem(429, "service_busy");
    operator
        .delete("/v1/services/geo")
        .problem(403, "forbidden");
}

#[test]
fn meshctl_adds_lists_shows_calls_checks_and_removes() {
    let server = Server::start();
    server.says("/find", &[(200, json!({"lat": 48}))]);
    let daemon = Daemon::start();
    let file = daemon.home().scratch().join("geo.yaml");
    std::fs::write(&file, definition(&server, "geo").to_string()).unwrap();
    let file = file.to_str().unwrap();
    assert!(
        daemon
            .ctl(&["service", "add", file])
            .exits(0)
            .out
            .contains("service geo is active")
    );
    let listed = daemon.ctl(&["service", "list"]).exits(0).out;
    assert!(
        [
            "geo",
            "utility",
            "active",
            "closed",
            "geocode",
            "find store"
        ]
        .iter()
        .all(|word| listed.contains(word)),
        "{listed}"
    );
    let shown = daemon.ctl(&["service", "show", "geo"]).exits(0).out;
    assert!(
        shown.contains("/find") && shown.contains("TRIED AGAIN"),
        "{shown}"
    );
    let called = daemon
        .ctl(&["service", "call", "geo", "find", "--params", "{\"q\": 1}"])
        .exits(0);
    assert_eq!(
        serde_json::from_str::<Value>(&called.out).unwrap(),
        json!({"lat": 48})
    );
    daemon.ctl(&["service", "call", "geo", "nope"]).exits(1);
    daemon.ctl(&["service", "check", "geo"]).exits(0);
    assert!(daemon.ctl(&["status"]).exits(0).out.contains("services"));
    daemon.ctl(&["service", "add", file, "--replace"]).exits(0);
    server.is_dead(true);
    let checked = daemon.ctl(&["service", "check", "geo"]).exits(0).out;
    assert!(checked.contains("in error"), "{checked}");
    daemon.ctl(&["service", "call", "geo", "find"]).exits(75);
    daemon.ctl(&["service", "remove", "geo"]).exits(0);
    daemon.ctl(&["service", "show", "geo"]).exits(3);
}

#[test]
fn a_file_of_definitions_is_loaded_at_each_start_and_refused_whole_when_wrong() {
    let server = Server::start();
    server.says("/find", &[(200, json!("found"))]);
    let home = Home::new();
    let file = home.scratch().join("services.yaml");
    let write = |services: &[Value]| {
        std::fs::write(&file, json!({"services": services}).to_string()).unwrap();
    };
    let config = format!("services:\n  definitions: {}\n", file.display());
    write(&[definition(&server, "geo"), definition(&server, "old")]);
    let daemon = home.config(&config).start();
    assert_eq!(service(&daemon, "geo")["origin"], "config");
    assert_eq!(
        call(&daemon, "geo", json!({"endpoint": "find"})).ok(200)["output"],
        "found"
    );
    daemon
        .client()
        .delete("/v1/services/geo")
        .problem(409, "service_configured");
    daemon
        .client()
        .post("/v1/services", &definition(&server, "own"))
        .ok(201);
    let home = daemon.kill9();
    write(&[definition(&server, "geo")]);
    let daemon = home.start();
    daemon
        .client()
        .get("/v1/services/old")
        .problem(404, "service_not_found");
    assert_eq!(
        (
            service(&daemon, "geo")["version"].clone(),
            service(&daemon, "own")["version"].clone()
        ),
        (json!(1), json!(1))
    );
    let home = daemon.stop(Signal::TERM).0;
    let mut bad = definition(&server, "bad");
    bad["endpoints"][1]["url"] = json!("http://far.example/");
    write(&[definition(&server, "geo"), bad]);
    let ended = home.run_to_end().exits(64);
    assert!(
        ended.err.contains("services.definitions")
            && ended.err.contains("services[1].endpoints[1].url"),
        "{}",
        ended.err
    );
}
