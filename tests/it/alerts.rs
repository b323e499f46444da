//! Alerts: what needs somebody's eyes is told as it happens, at least once each, to whoever can be told and later to whoever
//! cannot.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_tests::{Bundle, Daemon, Home, Outside, eventually};
use serde_json::{Value, json};

/// How soon an alert is to be there.
const SOON: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_mins(1);

/// Raises an alert with each task.
const WARY: &str = r#"
echo '{"type":"HANDSHAKE","payload":{"name":"wary","version":"1.0.0","capabilities":["wary"]}}'
while read -r line; do
  case $line in
    *TASK_REQUEST*)
      task=$(printf %s "$line" | sed 's/.*"task_id":"\([^"]*\)".*/\1/')
      echo '{"type":"SECURITY_ALERT","payload":{"severity":"low","description":"looks odd","agent":"echo"}}'
      echo '{"type":"TASK_RESULT","task_id":"'"$task"'","payload":{"ok":true,"output":1}}' ;;
    *shutdown*) exit 0 ;;
  esac
done"#;

/// The alerts of a file.
fn filed(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("lines of JSON")
}

/// The alerts that were posted, in the order of the requests.
fn posted(outside: &Outside) -> Vec<Value> {
    let mut all = Vec::new();
    for request in outside.heard() {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.contains("content-type: application/cloudevents-batch+json"));
        all.extend(serde_json::from_str::<Vec<Value>>(body).unwrap());
    }
    all
}

fn ids(alerts: &[Value]) -> Vec<u64> {
    let id = |alert: &Value| alert["id"].as_str().unwrap().parse().unwrap();
    alerts.iter().map(id).collect()
}

/// Something that is refused, and by that an alert; answers when it is on record.
fn denied(daemon: &Daemon) {
    let before = denials(daemon).len();
    let order = json!({"role": "viewer", "subject": "v"});
    let issued = daemon.client().post("/v1/tokens", &order).ok(201);
    let viewer = daemon.client().with_token(issued["token"].as_str());
    viewer
        .post("/v1/tasks", &json!({"requirements": ["echo"]}))
        .problem(403, "forbidden");
    eventually("it is on record", LONG, || {
        let now = denials(daemon).len();
        (now > before).then_some(()).ok_or_else(|| now.to_string())
    });
}

fn denials(daemon: &Daemon) -> Vec<u64> {
    let records = daemon.audit("kind=access.denied");
    records
        .iter()
        .map(|r| r["position"].as_u64().unwrap())
        .collect()
}

#[test]
fn an_alert_is_in_the_file_and_at_the_address_within_seconds() {
    let outside = Outside::start();
    let home = Home::new();
    let (file, secret) = (
        home.scratch().join("alerts.jsonl"),
        home.scratch().join("secret"),
    );
    fs::write(&secret, "s3cr3t\n").unwrap();
    let config = format!(
        "alerts:\n  file: {}\n  url: http://127.0.0.1:{}/hook\n  token_file: {}\n",
        file.display(),
        outside.port(),
        secret.display()
    );
    let daemon = home.config(&config).start();
    daemon.deploy(&Bundle::shell("wary", WARY));
    let begun = Instant::now();
    daemon.ask("wary", &json!(1));
    let told = |what: &str, alerts: &dyn Fn() -> Vec<Value>| {
        eventually(what, LONG, || {
            let found = alerts()
                .into_iter()
                .find(|a| a["type"] == "meshd.security.alert");
            found.ok_or_else(|| format!("{:?}", alerts()))
        })
    };
    let in_file = told("in the file", &|| filed(&file));
    let at_address = told("at the address", &|| posted(&outside));
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?}");
    assert_eq!(in_file, at_address);
    let record = &daemon.audit("kind=security.alert")[0];
    assert_eq!(&in_file["data"], record);
    assert_eq!(in_file["id"], record["position"].to_string());
    assert_eq!(in_file["specversion"], "1.0");
    assert_eq!(in_file["subject"], "agents/wary");
    assert_eq!(
        in_file["source"],
        daemon.client().get("/status").ok(200)["node"]
    );
    let said = &in_file["data"]["payload"];
    assert_eq!(
        (&said["severity"], &said["description"], &said["about"]),
        (&json!("low"), &json!("looks odd"), &json!("echo"))
    );
    let head = outside.heard()[0].to_lowercase();
    assert!(head.contains("authorization: bearer s3cr3t\r\n"), "{head}");
    assert!(!fs::read_to_string(&file).unwrap().contains("s3cr3t"));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Other records are nobody's alerts.
    assert!(
        filed(&file)
            .iter()
            .all(|a| a["type"] != "meshd.task.submitted")
    );
}

#[test]
fn who_cannot_be_told_is_told_all_of_it_later_also_after_kill_9() {
    let outside = Outside::start();
    outside.answer_with(503);
    let home = Home::new();
    let file = home.scratch().join("alerts.jsonl");
    let config = format!(
        "alerts:\n  file: {}\n  url: http://127.0.0.1:{}/\n  kinds: [access.denied]\n",
        file.display(),
        outside.port()
    );
    let daemon = home.config(&config).start();
    denied(&daemon);
    denied(&daemon);
    // The one waits for nobody, and the report says who is not told.
    eventually("both are in the file", LONG, || {
        let found = ids(&filed(&file));
        (found == denials(&daemon))
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
    eventually("the report says so", LONG, || {
        let report = daemon.client().get("/v1/health").ok(200);
        let said = report["issues"].to_string();
        let named = said.contains("alerts.url: not told: it answered 503");
        named.then_some(()).ok_or(said)
    });
    let daemon = daemon.kill9().start();
    denied(&daemon);
    outside.answer_with(202);
    let expected = denials(&daemon);
    assert_eq!(expected.len(), 3);
    let accepted_from = outside.heard().len();
    eventually("all are told", LONG, || {
        let found: BTreeSet<u64> = ids(&posted(&outside)).into_iter().collect();
        let all =
            outside.heard().len() > accepted_from && expected.iter().all(|id| found.contains(id));
        all.then_some(()).ok_or_else(|| format!("{found:?}"))
    });
    eventually("the report is well again", LONG, || {
        let report = daemon.client().get("/v1/health").ok(200);
        let said = report["issues"].to_string();
        (!said.contains("alerts.url")).then_some(()).ok_or(said)
    });
    // Each in its turn: what was accepted goes on where the last one ended.
    eventually("the file has all of it, too", LONG, || {
        let mut found = ids(&filed(&file));
        let in_order = found.is_sorted();
        found.dedup();
        (in_order && found == expected)
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
    // What was told is not told again by the next life.
    let (home, code) = daemon.stop(rustix::process::Signal::TERM);
    assert_eq!(code, 0);
    let before = filed(&file).len();
    let daemon = home.start();
    denied(&daemon);
    eventually("the next one is told", LONG, || {
        let found = ids(&filed(&file));
        (found.last() == denials(&daemon).last())
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
    assert_eq!(filed(&file).len(), before + 1);
}

#[test]
fn what_is_too_much_for_whoever_is_told_does_not_hold_up_the_rest() {
    let outside = Outside::start();
    // It takes nothing of more than 1300 bytes.
    outside.bound_bodies(1300);
    let config = format!(
        "alerts:\n  url: http://127.0.0.1:{}/\n  kinds: [security.alert, access.denied]\n",
        outside.port()
    );
    let daemon = Home::new().config(&config).start();
    let loud = WARY.replace("looks odd", &"loud".repeat(1000));
    daemon.deploy(&Bundle::shell("wary", &loud));
    daemon.output("wary", &json!(1));
    for _ in 0..3 {
        denied(&daemon);
    }
    let expected = denials(&daemon);
    eventually("all are taken", LONG, || {
        let taken = posted(&outside);
        let found: BTreeSet<u64> = ids(&taken).into_iter().collect();
        let loud = taken
            .iter()
            .find(|a| a["type"] == "meshd.security.alert" && a["data"]["payload"].is_null());
        let all = loud.is_some() && expected.iter().all(|id| found.contains(id));
        all.then_some(()).ok_or_else(|| format!("{found:?}"))
    });
    // Its own record repeats no more than is for people.
    let record = &daemon.audit("kind=security.alert")[0];
    assert_eq!(record["payload"]["description"], "loud".repeat(250));
}

#[test]
fn nobody_is_told_of_what_happened_before_they_were_named() {
    let home = Home::new();
    let file = home.scratch().join("alerts.jsonl");
    let daemon = home.start();
    denied(&daemon);
    assert!(!file.exists());
    let config = format!("alerts:\n  file: {}\n  kinds: [access.]\n", file.display());
    let daemon = daemon.kill9().config(&config).start();
    denied(&daemon);
    let newest = denials(&daemon)[1];
    eventually("the second is told", LONG, || {
        let told = ids(&filed(&file));
        told.contains(&newest)
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    });
    let told = filed(&file);
    assert!(ids(&told)[0] > denials(&daemon)[0], "{told:?}");
    // A kind that ends with a dot is all that begin so.
    assert!(
        told.iter().any(|a| a["type"] == "meshd.access.allowed"),
        "{told:?}"
    );
}

#[test]
fn an_address_is_checked_against_its_authority() {
    let home = Home::new();
    let dir = home.scratch();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let address = "127.0.0.1".parse().unwrap();
    params
        .subject_alt_names
        .push(rcgen::SanType::IpAddress(address));
    let certificate = params.self_signed(&key).unwrap();
    let (pem, private) = (dir.join("cert.pem"), dir.join("cert.key"));
    fs::write(&pem, certificate.pem()).unwrap();
    fs::write(&private, key.serialize_pem()).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    let tls = format!(
        "api:\n  tls:\n    cert: {}\n    key: {}\n",
        pem.display(),
        private.display()
    );
    // Whoever listens there wants a token, which is an answer all the same.
    let receiver = Home::new().config(&tls).start();
    let told = |ca: &str| {
        let config = format!(
            "alerts:\n  url: {}/v1/tasks\n{ca}  kinds: [access.denied]\n",
            receiver.url()
        );
        let daemon = Home::new().config(&config).start();
        denied(&daemon);
        eventually("the report says how it went", LONG, || {
            let report = daemon.client().get("/v1/health").ok(200);
            let said = report["issues"].to_string();
            said.contains("alerts.url: not told")
                .then_some(said.clone())
                .ok_or(said)
        })
    };
    let unknown = told("");
    assert!(
        !unknown.contains("it answered") && unknown.to_lowercase().contains("cert"),
        "{unknown}"
    );
    let known = told(&format!("  ca_file: {}\n", pem.display()));
    assert!(known.contains("it answered 401"), "{known}");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    for (config, named) in [
        ("alerts:\n  url: ftp://x\n", "alerts.url"),
        ("alerts:\n  kinds: []\n", "alerts.kinds"),
        ("alerts:\n  kinds: ['*']\n", "alerts.kinds"),
    ] {
        let (home, code) = Home::new()
            .config(config)
            .try_start()
            .expect_err("it does not start");
        assert_eq!(code, 64);
        assert!(home.log().contains(named), "{}", home.log());
    }
}
