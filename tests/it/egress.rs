//! The one way out of a sandbox, from within one.

use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, Outside, eventually, has_python};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// A daemon whose operator opened loopback on the port of the test's own server, under names that need no DNS.
pub(crate) fn daemon(outside: &Outside) -> Daemon {
    let port = outside.port();
    let hosts = "{allowed.test: [127.0.0.1], api.test: [127.0.0.1], free.test: [127.0.0.1], b.test: [127.0.0.1], \
                 private.test: [10.1.2.3], metadata.test: [169.254.169.254], carrier.test: [100.64.0.1]}";
    Home::new()
        .config(&format!(
            "sandbox:\n  egress:\n    ports: [80, {port}]\n    networks: [127.0.0.0/8]\n    hosts: {hosts}\n"
        ))
        .start()
}

/// An agent that may reach these domains.
pub(crate) fn traveller(id: &str, domains: &[&str]) -> Bundle {
    Bundle::traveller(id).set(
        "security",
        json!({"networkAccess": {"allowOutbound": true, "allowedDomains": domains, "blockedDomains": ["no.below.test"]}}),
    )
}

fn denial(seen: &Value) -> Value {
    let text = seen["value"]["body"]
        .as_str()
        .or(seen["value"].as_str())
        .unwrap_or_else(|| panic!("{seen}"));
    let body = text.split_once("\r\n\r\n").map_or(text, |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {seen}"))
}

#[test]
fn an_agent_reaches_what_it_may_by_every_protocol_and_nothing_by_itself() {
    if !has_python("an_agent_reaches_what_it_may_by_every_protocol_and_nothing_by_itself") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    daemon.deploy(&traveller("net", &["allowed.test"]));
    let port = outside.port();
    let seen = daemon.output(
        "net",
        &json!({
            "http": ["http", format!("http://allowed.test:{port}/hello?a=b"), "POST", {"x-own": "1"}, "the body"],
            "tunnel": ["tunnel", format!("Allowed.TEST.:{port}"), "GET /tunnel HTTP/1.0\r\n\r\n"],
            "socks": ["socks", "allowed.test", port, "GET /socks HTTP/1.0\r\n\r\n"],
            "direct": ["direct", "127.0.0.1", port],
            "elsewhere": ["direct", "192.0.2.1", 80],
            "udp": ["udp", "192.0.2.1", 53],
            "lookup": ["lookup", "allowed.test"],
            "env": ["env"],
        }),
    );
    let body = seen["http"]["value"]["body"]
        .as_str()
        .unwrap_or_else(|| panic!("{seen}"));
    assert!(
        body.starts_with("POST /hello?a=b HTTP/1.1\r\n") && body.ends_with("the body"),
        "{body}"
    );
    assert!(
        seen["tunnel"]["value"]
            .as_str()
            .unwrap()
            .contains("GET /tunnel"),
        "{seen}"
    );
    assert!(
        seen["socks"]["value"]["body"]
            .as_str()
            .unwrap()
            .contains("GET /socks"),
        "{seen}"
    );
    for closed in ["direct", "elsewhere", "udp", "lookup"] {
        assert_eq!(seen[closed]["ok"], false, "{closed}: {seen}");
    }
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        assert_eq!(
            seen["env"]["value"][name], "http://127.0.0.1:3128",
            "{name}"
        );
    }
    assert!(
        seen["env"]["value"]["NO_PROXY"]
            .as_str()
            .unwrap()
            .contains("localhost")
    );
    assert_eq!(outside.heard().len(), 3, "{:?}", outside.heard());

    let sandbox = daemon.client().get("/v1/agents/net/sandbox").ok(200);
    let network = sandbox["controls"]
        .as_array()
        .unwrap()
        .iter()
        .find(|control| control["control"] == "network")
        .unwrap();
    assert_eq!(network["level"], "kernel", "{network}");
    assert!(
        network["mechanism"]
            .as_str()
            .unwrap()
            .starts_with("egress proxy"),
        "{network}"
    );
}

/// What each is called in the list of escapes, what is tried, and what comes of it.
fn attacks(port: u16) -> [(&'static str, Value, &'static str); 17] {
    let url = |host: &str| format!("http://{host}:{port}/");
    [
        (
            "proxy-06",
            json!(["tunnel", format!("allowed.test%00.evil.example:{port}")]),
            "bad_request",
        ),
        (
            "proxy-07",
            json!(["tunnel", format!("evil-below.test:{port}")]),
            "domain_not_allowed",
        ),
        (
            "proxy-08",
            json!(["tunnel", format!("xn--llowed-2nf.test:{port}")]),
            "domain_not_allowed",
        ),
        (
            "proxy-09 a",
            json!(["tunnel", "2130706433:443"]),
            "bad_host",
        ),
        ("proxy-09 b", json!(["tunnel", "0x7f.1:443"]), "bad_host"),
        ("proxy-09 c", json!(["tunnel", "127.1:443"]), "bad_host"),
        (
            "proxy-10 a",
            json!(["tunnel", format!("[::ffff:127.0.0.1]:{port}")]),
            "domain_not_allowed",
        ),
        (
            "proxy-10 b",
            json!(["tunnel", "[fe80::1%25eth0]:80"]),
            "bad_host",
        ),
        (
            "proxy-11 a",
            json!(["http", url("private.test")]),
            "address_not_allowed",
        ),
        (
            "proxy-11 b",
            json!(["http", url("carrier.test")]),
            "address_not_allowed",
        ),
        (
            "proxy-11 c",
            json!(["http", url("metadata.test")]),
            "address_not_allowed",
        ),
        (
            "metadata itself",
            json!(["http", "http://169.254.169.254/latest/meta-data/"]),
            "address_not_allowed",
        ),
        (
            "proxy-13",
            json!(["tunnel", "allowed.test:22"]),
            "port_not_allowed",
        ),
        (
            "proxy-14",
            json!([
                "raw",
                format!(
                    "GET {} HTTP/1.1\r\nHost: evil.example\r\n\r\n",
                    url("allowed.test")
                )
            ]),
            "bad_request",
        ),
        (
            "proxy-17",
            json!([
                "raw",
                format!(
                    "POST {0} HTTP/1.1\r\nHost: allowed.test:{port}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                    url("allowed.test")
                )
            ]),
            "bad_request",
        ),
        (
            "proxy-24",
            json!(["http", url("no.below.test")]),
            "domain_blocked",
        ),
        (
            "proxy-26",
            json!(["relayed", format!("evil.example:{port}")]),
            "domain_not_allowed",
        ),
    ]
}

#[test]
fn what_is_refused_has_a_reason_for_the_agent_a_record_and_a_number() {
    if !has_python("what_is_refused_has_a_reason_for_the_agent_a_record_and_a_number") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    let domains = [
        "allowed.test",
        "*.below.test",
        "private.test",
        "metadata.test",
        "carrier.test",
        "169.254.169.254",
    ];
    daemon.deploy(&traveller("net", &domains));
    let port = outside.port();
    let rows = attacks(port);
    let acts: serde_json::Map<String, Value> = rows
        .iter()
        .map(|(name, act, _)| ((*name).to_owned(), act.clone()))
        .collect();
    let seen = daemon.output("net", &Value::Object(acts));
    for (name, _, code) in &rows {
        let told = denial(&seen[*name]);
        assert_eq!(told["code"], *code, "{name}: {told}");
        assert!(
            !told["reason"].as_str().unwrap().is_empty(),
            "{name}: {told}"
        );
    }
    assert_eq!(
        outside.heard(),
        Vec::<String>::new(),
        "nothing of this went out"
    );

    let recorded = eventually("the refusals are in the audit", PATIENCE, || {
        let recorded = daemon.audit("kind=egress.denied");
        if recorded.len() >= 12 {
            Ok(recorded)
        } else {
            Err(format!("{recorded:?}"))
        }
    });
    let evil = recorded
        .iter()
        .map(|entry| &entry["payload"])
        .find(|payload| payload["host"] == "evil.example")
        .unwrap();
    assert_eq!(evil["agent"], "net");
    assert_eq!(evil["code"], "domain_not_allowed");
    assert!(
        evil["rule"].as_str().unwrap().contains("allowedDomains"),
        "{evil}"
    );
    let metrics = daemon.client().get("/metrics").text();
    assert!(
        metrics.contains("egress_denied_total{kind=\"domain_not_allowed\"}"),
        "{metrics}"
    );
}

#[test]
fn a_flood_of_refusals_does_not_fill_the_log() {
    if !has_python("a_flood_of_refusals_does_not_fill_the_log") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    daemon.deploy(&traveller("net", &[]));
    let acts: serde_json::Map<String, Value> = (0..200)
        .map(|number| {
            (
                number.to_string(),
                json!(["tunnel", format!("host-{}.test:443", number % 50)]),
            )
        })
        .collect();
    let seen = daemon.output("net", &Value::Object(acts));
    assert!(
        seen.as_object()
            .unwrap()
            .values()
            .all(|one| denial(one)["code"] == "domain_not_allowed")
    );
    let recorded = daemon.audit("kind=egress.denied").len();
    assert!((1..=30).contains(&recorded), "{recorded} records");
    // What was only counted is told when the instance ends.
    daemon.client().post("/v1/agents/net/stop", &json!({}));
    eventually("all two hundred are accounted for", PATIENCE, || {
        let entries = daemon.audit("kind=egress.denied");
        let sum: u64 = entries
            .iter()
            .filter_map(|entry| entry["payload"]["count"].as_u64())
            .sum();
        if sum == 200 {
            Ok(())
        } else {
            Err(format!("{sum} in {} records", entries.len()))
        }
    });
}

#[test]
fn each_agent_has_a_way_out_of_its_own_with_its_own_policy() {
    if !has_python("each_agent_has_a_way_out_of_its_own_with_its_own_policy") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    daemon.deploy(&traveller("a", &["allowed.test"]));
    daemon.deploy(&traveller("b", &["b.test"]));
    daemon.deploy(&Bundle::traveller("none"));
    let port = outside.port();
    let ask = json!({"a": ["http", format!("http://allowed.test:{port}/")], "b": ["http", format!("http://b.test:{port}/")]});
    // proxy-25: the listener is in the agent's own network; there is no other to be found.
    for (agent, own, others) in [("a", "a", "b"), ("b", "b", "a")] {
        let seen = daemon.output(agent, &ask);
        assert_eq!(seen[own]["value"]["status"], 200, "{agent}: {seen}");
        assert_eq!(
            seen[others]["value"]["code"], "domain_not_allowed",
            "{agent}: {seen}"
        );
    }
    let seen = daemon.output(
        "none",
        &json!({"raw": ["raw", "CONNECT allowed.test:80 HTTP/1.1\r\n\r\n"], "env": ["env"]}),
    );
    assert_eq!(
        seen["raw"]["ok"], false,
        "who asks for no network has no proxy: {seen}"
    );
    assert!(seen["env"]["value"].get("HTTP_PROXY").is_none());
}

#[test]
fn methods_paths_ports_and_connections_are_held_to_what_the_manifest_says() {
    if !has_python("methods_paths_ports_and_connections_are_held_to_what_the_manifest_says") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    let port = outside.port();
    daemon.deploy(&Bundle::traveller("net").set(
        "security",
        json!({"networkAccess": {
            "allowOutbound": true, "allowedDomains": ["api.test", "free.test"], "allowedPorts": [port, 9],
            "requests": [{"domains": ["api.test"], "methods": ["GET"], "paths": ["/v1/*"]}],
        }}),
    ));
    let url = |path: &str| format!("http://api.test:{port}{path}");
    let seen = daemon.output(
        "net",
        &json!({
            "good": ["http", url("/v1/models?x=1")],
            "method": ["http", url("/v1/models"), "DELETE"],
            "path": ["http", url("/admin")],
            "climb": ["raw", format!("GET {} HTTP/1.1\r\nHost: api.test:{port}\r\n\r\n", url("/v1/../admin"))],
            "hidden": ["tunnel", format!("api.test:{port}")],
            "free": ["http", format!("http://free.test:{port}/anything"), "DELETE"],
            "port": ["tunnel", "free.test:80"],
            "beyond": ["tunnel", "free.test:9"],
        }),
    );
    assert_eq!(seen["good"]["value"]["status"], 200, "{seen}");
    assert_eq!(seen["free"]["value"]["status"], 200, "{seen}");
    for (name, code) in [
        ("method", "method_not_allowed"),
        ("path", "path_not_allowed"),
        ("climb", "path_not_allowed"),
        ("hidden", "tunnel_not_allowed"),
        ("port", "port_not_allowed"),
        ("beyond", "port_not_allowed"),
    ] {
        assert_eq!(denial(&seen[name])["code"], code, "{name}: {seen}");
    }
}

#[test]
fn a_program_run_once_per_task_has_the_same_way_out() {
    if !has_python("a_program_run_once_per_task_has_the_same_way_out") {
        return;
    }
    let outside = Outside::start();
    let daemon = daemon(&outside);
    let script = "import json, sys, urllib.request\n\
                  print(json.dumps({'got': urllib.request.urlopen(json.load(sys.stdin), timeout=20).read().decode()}))\n";
    daemon.deploy(
        &Bundle::new("once")
            .file("once.py", script)
            .set("entry", json!("once.py"))
            .set("runtime", json!({"kind": "command", "command": "python3"}))
            .set("security", json!({"networkAccess": {"allowOutbound": true, "allowedDomains": ["allowed.test"]}})),
    );
    let seen = daemon.output(
        "once",
        &json!(format!("http://allowed.test:{}/once", outside.port())),
    );
    assert!(
        seen["got"].as_str().unwrap().contains("GET /once"),
        "{seen}"
    );
}
