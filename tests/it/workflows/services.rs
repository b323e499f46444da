//! Plain services as steps: called under one key, and only whom the operator leaves.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::thread::JoinHandle;

use mesh_tests::Home;
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;

/// Answers each request with a price, after as many refusals as asked for; ends with the heads of all of them.
fn serve(answers: &'static [&'static str]) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for status in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut byte = [0];
            while !request.ends_with("{\"item\":\"tea\"}")
                && stream.read(&mut byte).unwrap_or(0) > 0
            {
                request.push(char::from(byte[0]));
            }
            let body = "{\"price\":3}";
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
            heads.push(request.to_lowercase());
        }
        heads
    });
    (address, served)
}

#[test]
fn a_plain_service_is_a_step_and_gets_its_key() {
    let (address, served) = serve(&["503 Busy", "200 OK"]);
    let daemon = daemon();
    let workflow = json!({"steps": [
        {"id": "price", "service": format!("http://{address}/price"), "input": {"item": "tea"}},
        {"id": "sum", "requirements": ["echo"], "input": "${steps.price.output.price * 2}"},
    ], "output": "${steps.sum.output}"});
    let run = outcome(&daemon, &workflow, &Value::Null);
    assert_eq!(
        (&run["state"], &run["output"]),
        (&json!("succeeded"), &json!(6)),
        "{run}"
    );
    let heads = served.join().unwrap();
    let key = |head: &String| {
        head.lines()
            .find(|l| l.starts_with("idempotency-key:"))
            .map(str::to_owned)
    };
    assert!(key(&heads[0]).is_some());
    assert_eq!(
        key(&heads[0]),
        key(&heads[1]),
        "a repeated call has the same key"
    );
}

/// What a run of one call says of it when it was not made.
#[track_caller]
fn refusal(daemon: &Daemon, url: &str) -> String {
    let workflow = json!({"steps": [{"id": "call", "service": {"url": url, "method": "GET"}}]});
    let run = outcome(daemon, &workflow, &Value::Null);
    assert_eq!(run["state"], "failed", "{run}");
    let error = &step(&run, "call")["error"];
    assert_eq!(error["class"], "refusal", "{run}");
    error["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_service_that_the_operator_does_not_leave_is_not_called() {
    let daemon = Home::new()
        .config("services:\n  blocked_domains: [old.example]\n")
        .start();
    let metadata = [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0:1/",
    ];
    for url in metadata {
        let said = refusal(&daemon, url);
        let told = ["address_not_allowed", "services.networks"];
        assert!(told.iter().all(|part| said.contains(part)), "{said}");
    }
    let said = refusal(&daemon, "http://old.example/");
    assert!(said.contains("services.blocked_domains"), "{said}");
    // Two ways to read an address are no way.
    for odd in ["http://2852039166/", "http://0xa9fea9fe/", "http://127.1/"] {
        let said = refusal(&daemon, odd);
        assert!(said.contains("bad_host"), "{odd}: {said}");
    }
}

#[test]
fn closed_to_this_host_neither_its_address_nor_its_name_is_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = Home::new().config("services:\n  networks: []\n").start();
    for host in ["127.0.0.1", "localhost"] {
        let said = refusal(&daemon, &format!("http://{host}:{port}/"));
        assert!(said.contains("loopback"), "{said}");
    }
    assert!(listener.accept().is_err(), "nobody came");

    let only = "services:\n  allowed_domains: [prices.example]\n  ports: [80]\n";
    let daemon = Home::new().config(only).start();
    let said = refusal(&daemon, &format!("http://127.0.0.1:{port}/"));
    assert!(said.contains("services.allowed_domains"), "{said}");
    let said = refusal(&daemon, "http://prices.example:81/");
    assert!(said.contains("services.ports"), "{said}");
    assert!(listener.accept().is_err(), "nobody came");
}

#[test]
fn a_service_over_tls_is_called_when_its_authority_is_known() {
    let home = Home::new();
    let dir = home.scratch().to_owned();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let certificate = params.self_signed(&key).unwrap().pem();
    std::fs::write(dir.join("server.pem"), &certificate).unwrap();
    std::fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.join("server.key"), owner_only).unwrap();
    let at = dir.display();
    let serves = format!("api:\n  tls: {{cert: {at}/server.pem, key: {at}/server.key}}\n");
    // What meshd serves without a token is a service as good as any.
    let service = home.config(&serves).start();
    let url = format!("{}/healthz", service.url());
    assert!(url.starts_with("https://"), "{url}");
    let workflow = json!({"steps": [{"id": "call", "service": {"url": url, "method": "GET"}}],
        "output": "${steps.call.output}"});
    let knows = format!("services:\n  ca_file: {at}/server.pem\n");
    let run = outcome(&Home::new().config(&knows).start(), &workflow, &Value::Null);
    assert_eq!(run["state"], "succeeded", "{run}");

    let run = outcome(&Daemon::start(), &workflow, &Value::Null);
    assert_eq!(run["state"], "failed", "{run}");
    assert_eq!(step(&run, "call")["error"]["class"], "unavailable", "{run}");
}

#[test]
fn what_no_host_can_be_is_refused_at_start() {
    for (config, key) in [
        (
            "services:\n  allowed_domains: ['http://x']\n",
            "services.allowed_domains[0]",
        ),
        (
            "services:\n  networks: [10.0.0.0/99]\n",
            "services.networks[0]",
        ),
        (
            "sandbox:\n  egress:\n    blocked_domains: ['a b']\n",
            "sandbox.egress.blocked_domains[0]",
        ),
    ] {
        let (home, code) = Home::new().config(config).try_start().err().unwrap();
        assert_eq!(code, 64, "{config}");
        assert!(home.log().contains(key), "{}", home.log());
    }
}
