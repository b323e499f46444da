//! Everyday programs in Python and Node, in every profile, with meshd as root and as an ordinary user: they simply work.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mesh_tests::{Bundle, Daemon, Home, Outside, binary, has_program, is_root, skip};
use serde_json::{Value, json};

/// A user that no test machine gives to anybody.
const USER: u32 = 61_044;
/// What an interpreter, its processes and everything they try may take on a machine with other work.
const PATIENCE: Duration = Duration::from_mins(3);

/// Each profile; those of two names by the one that the other tests do not use.
const PROFILES: [&str; 3] = ["basic", "enhanced", "maximum"];

/// A server that speaks TLS under a certificate of its own.
struct Secure {
    server: Child,
    port: u64,
    certificate: String,
}

impl Drop for Secure {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

const SECURE: &str = "
import http.server, ssl, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'secure ' + self.path.encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answer)
trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
trust.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = trust.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
";

impl Secure {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["allowed.test".to_owned()]).unwrap();
        let (certificate, key) = (dir.path().join("cert"), dir.path().join("key"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let mut server = Command::new("python3")
            .args(["-c", SECURE])
            .args([&certificate, &key])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let said = server.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        Self {
            server,
            port: line.trim().parse().unwrap(),
            certificate: made.cert.pem(),
        }
    }
}

/// A daemon that lets agents out to the test's own servers, and asks of no agent more than its manifest does.
fn daemon(outside: &Outside, secure: &Secure, user: Option<u32>) -> Daemon {
    let ports = format!("[{}, {}]", outside.port(), secure.port);
    let home = Home::new().config(&format!(
        "default_policy:\n  security:\n    sandbox_level: basic\nsandbox:\n  egress:\n    ports: {ports}\n    \
         networks: [127.0.0.0/8]\n    hosts: {{allowed.test: [127.0.0.1]}}\n"
    ));
    let Some(user) = user else {
        return home.start();
    };
    // The build directory may be closed to others.
    let meshd = home.scratch().join("meshd");
    fs::copy(binary("meshd"), &meshd).unwrap();
    chown(home.scratch(), Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(home.scratch()).unwrap().flatten() {
        chown(entry.path(), Some(user), Some(user)).unwrap();
    }
    fs::set_permissions(&meshd, fs::Permissions::from_mode(0o755)).unwrap();
    let number = user.to_string();
    let words = ["setpriv", "--reuid", &number, "--regid", &number];
    let words = [
        &words[..],
        &["--clear-groups", "--inh-caps=-all", "sh", "-c"],
    ]
    .concat();
    // The harness names the binary of the build; this is it, where the user may read it.
    let run = format!("shift; exec {} \"$@\"", meshd.display());
    home.through(&[&words[..], &[run.as_str(), "sh"]].concat())
        .start()
}

fn worker(id: &str, language: &str, profile: &str, certificate: &str) -> Bundle {
    let bundle = Bundle::new(id);
    let bundle = if language == "python" {
        bundle
            .file("worker.py", include_str!("../harness/agents/worker.py"))
            .file("beside.py", "VALUE = 'beside'\n")
            .set("entry", json!("worker.py"))
            .set("runtime", json!({"kind": "command", "command": "python3"}))
    } else {
        let env = json!({"NODE_EXTRA_CA_CERTS": "/agent/ca.pem"});
        bundle
            .file("worker.mjs", include_str!("../harness/agents/worker.mjs"))
            .file("beside.mjs", "export const VALUE = 'beside';\n")
            .file("ca.pem", certificate)
            .set("entry", json!("worker.mjs"))
            .set(
                "runtime",
                json!({"kind": "command", "command": "node", "env": env}),
            )
    };
    bundle
        .set("policy", json!({"security": {"sandbox_level": profile}}))
        .set(
            "security",
            json!({"networkAccess": {"allowOutbound": true, "allowedDomains": ["allowed.test"]},
                   "fileAccess": {"tempFileAccess": true}}),
        )
}

/// What each case comes to wherever the program runs.
fn expected(language: &str) -> Value {
    if language == "python" {
        json!({
            "packages": "hello", "bundled": "beside", "venv": "True", "subprocesses": ["ac", 3, 1_000_000],
            "threads": 328_350, "processes": [285, 285, 285], "shared": ["ok", 1],
            "asynchronous": ["hi", "PING", "PING"], "database": 1, "temporary": 1_000_000, "signals": 3,
            "system": [[1, 2, 3], "agent", true, "127.0.0.1"], "served": 200,
            "over_http": [200, true], "over_tls": [200, "secure /python"], "certificates": true,
        })
    } else {
        json!({
            "packages": "hello", "bundled": "beside", "workers": 30, "children": ["b", "2", 21, 500_000],
            "streams": "ABC", "watch": "new", "signals": "SIGUSR2", "served": ["served", "local"],
            "system": [true, "127.0.0.1", "agent", true],
            "over_http": [200, true], "over_tls": [200, "secure /node"],
        })
    }
}

fn everyday(test: &str, language: &str, user: Option<u32>) {
    let interpreter = if language == "python" {
        "python3"
    } else {
        "node"
    };
    if !has_program(test, "python3") || !has_program(test, interpreter) {
        return;
    }
    if user.is_some() && !(is_root() && has_program(test, "setpriv")) {
        return skip(test, "only root can become an ordinary user");
    }
    let (outside, secure) = (Outside::start(), Secure::start());
    let daemon = daemon(&outside, &secure, user);
    for profile in PROFILES {
        let bundle = worker(profile, language, profile, &secure.certificate);
        if user.is_some() && profile == "maximum" {
            // It gives up none of what only root can give, and says so.
            let answer = daemon.client().send(
                "POST",
                "/v1/agents",
                &[("content-type", "application/x-tar")],
                Some(&bundle.tar()),
            );
            answer.problem(422, "start_refused");
            continue;
        }
        daemon.deploy(&bundle);
        let input = json!({"http": outside.port(), "tls": secure.port, "ca": secure.certificate});
        let id = daemon.submit(&json!({"requirements": [profile], "input": input}));
        let task = daemon.ended(&id, PATIENCE);
        assert_eq!(task["state"], "succeeded", "{profile}: {task}");
        let (told, expected) = (&task["output"], expected(language));
        for (case, wanted) in expected.as_object().unwrap() {
            assert_eq!(told[case], *wanted, "{case} in {profile}: {}", told[case]);
        }
        let sandbox = daemon
            .client()
            .get(&format!("/v1/agents/{profile}/sandbox"));
        let held = sandbox.ok(200)["controls"].to_string();
        assert!(held.contains("egress proxy"), "{held}");
    }
}

#[test]
fn everyday_python_works_in_every_profile() {
    everyday("everyday_python_works_in_every_profile", "python", None);
}

#[test]
fn everyday_node_works_in_every_profile() {
    everyday("everyday_node_works_in_every_profile", "node", None);
}

#[test]
fn everyday_python_works_with_meshd_as_an_ordinary_user() {
    let test = "everyday_python_works_with_meshd_as_an_ordinary_user";
    everyday(test, "python", Some(USER));
}

#[test]
fn everyday_node_works_with_meshd_as_an_ordinary_user() {
    let test = "everyday_node_works_with_meshd_as_an_ordinary_user";
    everyday(test, "node", Some(USER));
}
