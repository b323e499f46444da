//! TLS: nothing is served without it where it is configured, and a certificate says who its bearer is, and no more.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use mesh_tests::{Daemon, Home, MESHCTL, Ran, binary, eventually, meshctl};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustix::process::Signal;

/// An authority, with a directory for what it signs.
struct Authority {
    dir: PathBuf,
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &'static str) -> Self {
        let mut params = named(name, Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.join(name).with_extension("pem"), certificate.pem()).unwrap();
        Self {
            dir: dir.to_owned(),
            name,
            issuer: Issuer::new(params, key),
        }
    }

    fn file(&self) -> String {
        text(&self.dir.join(self.name).with_extension("pem"))
    }

    /// A certificate and its key, in `<file>.pem` and `<file>.key`.
    fn signs(&self, file: &str, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        put(&self.dir, file, &certificate, &key);
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn put(dir: &Path, file: &str, certificate: &Certificate, key: &KeyPair) {
    fs::write(dir.join(format!("{file}.pem")), certificate.pem()).unwrap();
    let path = dir.join(format!("{file}.key"));
    fs::write(&path, key.serialize_pem()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn named(common: &str, alternatives: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params.subject_alt_names = alternatives;
    params
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A home with meshd's certificate and those of clients: `ada`, an operator; `ben`, a viewer by common name; `eve`, whom
/// nobody named.
fn home(more: &str) -> Home {
    let home = Home::new();
    let dir = home.scratch().to_owned();
    let ours = Authority::new(&dir, "ours");
    let server = vec![SanType::IpAddress([127, 0, 0, 1].into()), dns("localhost")];
    ours.signs("server", &named("meshd", server));
    // What leads to the authority belongs into the file.
    let chain = fs::read_to_string(dir.join("server.pem")).unwrap()
        + &fs::read_to_string(ours.file()).unwrap();
    fs::write(dir.join("server.pem"), chain).unwrap();
    ours.signs(
        "ada",
        &named("whoever", vec![dns("x.test"), uri("spiffe://mesh/ada")]),
    );
    ours.signs("ben", &named("ben", Vec::new()));
    // Her common name is another's, and counts for nothing beside an alternative name.
    ours.signs("eve", &named("ben", vec![dns("eve.test")]));
    let mut late = named("ben", Vec::new());
    late.not_before = date_time_ymd(2020, 1, 1);
    late.not_after = date_time_ymd(2021, 1, 1);
    ours.signs("late", &late);
    Authority::new(&dir, "theirs").signs("foreign", &named("ben", Vec::new()));
    let (alone, key) = (named("ben", Vec::new()), KeyPair::generate().unwrap());
    put(&dir, "alone", &alone.self_signed(&key).unwrap(), &key);
    let at = dir.display();
    let more = more.replace('@', &at.to_string());
    home.config(&format!(
        "api:
  drain_timeout: 2s
  connections_max: 16
  tls:
    cert: {at}/server.pem
    key: {at}/server.key
    client_ca: {at}/ours.pem
    clients:
      - {{subject: 'spiffe://mesh/ada', name: 'user:ada', role: operator}}
      - {{subject: 'CN=ben', name: 'user:ben', role: viewer}}
{more}"
    ))
}

/// `meshctl` of somebody on this machine, who has no token of the daemon's.
fn with(daemon: &Daemon, dir: &Path, certificate: &str, arguments: &[&str]) -> Ran {
    let file = |name: String| text(&dir.join(name));
    let (ca, cert) = (file("ours.pem".into()), file(format!("{certificate}.pem")));
    let key = file(format!("{certificate}.key"));
    let mut words = vec!["--url", daemon.url(), "--ca", &ca, "--cert", &cert];
    words.extend(["--cert-key", &key]);
    words.extend(arguments);
    meshctl(daemon.home().data(), &words)
}

const ISSUE: &[&str] = &["token", "issue", "--role", "viewer"];
const SUBMIT: &[&str] = &["task", "submit", "--requires", "nothing"];
const LIST: &[&str] = &["agent", "list"];

#[test]
fn a_certificate_that_was_named_is_its_bearers_name_and_role_and_any_other_is_nobody() {
    let daemon = home("").start();
    assert!(daemon.url().starts_with("https://"), "{}", daemon.url());
    let dir = daemon.home().scratch().to_owned();
    let as_client = |who: &str, words: &[&str]| with(&daemon, &dir, who, words);

    as_client("ada", LIST).exits(0);
    as_client("ada", SUBMIT).exits(0);
    as_client("ada", ISSUE).exits(4);
    as_client("ben", LIST).exits(0);
    as_client("ben", SUBMIT).exits(4);
    for (nobody, code) in [("eve", 4), ("late", 6), ("foreign", 6), ("alone", 6)] {
        as_client(nobody, LIST).exits(code);
    }
    // A key of another certificate is told before anything is sent.
    let (cert, key) = (text(&dir.join("ben.pem")), text(&dir.join("ada.key")));
    let told = meshctl(
        daemon.home().data(),
        &["--cert", &cert, "--cert-key", &key, "agent", "list"],
    );
    assert!(told.exits(2).err.contains("ben.pem and its key"));
    // Without a certificate and without a token.
    let (empty, ca) = (dir.join("empty"), text(&dir.join("ours.pem")));
    meshctl(
        &empty,
        &["--url", daemon.url(), "--ca", &ca, "agent", "list"],
    )
    .exits(4);
    // The authority is not one of the web's.
    meshctl(&empty, &["--url", daemon.url(), "agent", "list"]).exits(6);

    // Whoever has a token on this machine finds daemon and authority without a word.
    let local = |words: &[&str]| meshctl(daemon.home().data(), words);
    local(ISSUE).exits(0);
    let told = local(&["audit", "export"]).exits(0).out;
    for who in ["user:ada", "user:ben", "certificate:eve.test?"] {
        assert!(told.contains(who), "{who} is in the audit: {told}");
    }

    // A token decides, whoever the certificate is of; a bad one is not made good by it.
    let token = text(&daemon.home().data().join("token"));
    let named = |file: &str, words: &[&str]| {
        as_client("ben", &[&["--token-file", file] as &[&str], words].concat())
    };
    named(&token, ISSUE).exits(0);
    let bad = dir.join("bad");
    fs::write(&bad, "mesh_0123456789abcdef_x\n").unwrap();
    named(&text(&bad), LIST).exits(4);

    // All of it holds in the next life.
    let daemon = daemon.kill9().start();
    with(&daemon, &dir, "ada", LIST).exits(0);
    with(&daemon, &dir, "ada", ISSUE).exits(4);
    meshctl(daemon.home().data(), ISSUE).exits(0);
}

#[test]
fn where_a_certificate_is_required_a_token_alone_opens_nothing() {
    let daemon = home("    require_client_cert: true\n").start();
    let dir = daemon.home().scratch().to_owned();
    meshctl(daemon.home().data(), LIST).exits(6);
    with(&daemon, &dir, "ada", LIST).exits(0);
    with(&daemon, &dir, "foreign", LIST).exits(6);
    let token = text(&daemon.home().data().join("token"));
    let words = [&["--token-file", token.as_str()] as &[&str], ISSUE].concat();
    // Hers stands for nobody, and it opens the connection all the same.
    with(&daemon, &dir, "eve", &words).exits(0);
}

#[test]
fn who_speaks_no_tls_or_nothing_at_all_is_not_served_and_keeps_nobody_out() {
    let daemon = home("").start();
    let address: SocketAddr = daemon.url().trim_start_matches("https://").parse().unwrap();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        let limit = Some(Duration::from_secs(30));
        stream.set_read_timeout(limit).unwrap();
        stream
    };
    let mut plain = connect();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // Whether the end comes in order or not.
    let _reset = plain.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(!answer.contains("HTTP/"), "{answer}");
    let url = format!("http://{address}");
    meshctl(daemon.home().data(), &["--url", &url, "agent", "list"]).exits(6);

    // More than all connections that there may be.
    let silent: Vec<TcpStream> = (0..40).map(|_| connect()).collect();
    let rubbish: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = connect();
            // The head of a long record that never comes.
            let _cut_already = stream.write_all(&[0x16, 0x03, 0x01, 0x3f, 0xff, 0x01]);
            stream
        })
        .collect();
    let began = std::time::Instant::now();
    meshctl(daemon.home().data(), LIST).exits(0);
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(8),
        "it waited for others: {took:?}"
    );

    // They do not keep the end from coming either, and what is left behind misleads nobody.
    let (home, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0, "{}", home.log());
    assert!(!home.data().join("endpoint.ca").exists());
    drop((silent, rubbish));
}

#[test]
fn what_cannot_be_served_with_is_refused_at_start_with_what_to_mend() {
    let home = home("");
    let dir = home.scratch().to_owned();
    let key = dir.join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let told = home.run_to_end().exits(64).err;
    assert!(
        told.contains("api.tls.key") && told.contains("chmod 600"),
        "{told}"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    fs::copy(dir.join("ada.key"), &key).unwrap();
    let told = home.run_to_end().exits(64).err;
    assert!(told.contains("cannot be used together"), "{told}");

    fs::write(&key, "no key").unwrap();
    let told = home.run_to_end().exits(64).err;
    assert!(told.contains("no private key in PEM"), "{told}");

    fs::remove_file(&key).unwrap();
    let told = home.run_to_end().exits(64).err;
    assert!(told.contains("api.tls.key: cannot read"), "{told}");
    drop(home);

    for (yaml, said) in [
        ("{cert: a}", "api.tls.key"),
        ("{require_client_cert: true}", "api.tls.require_client_cert"),
        ("{certificate: a}", "cert"),
        (
            "{cert: a, key: b, client_ca: c, clients: [{subject: a.test, name: ada, role: admin}]}",
            "api.tls.clients[0].name",
        ),
        (
            "{cert: a, key: b, client_ca: c, clients: [{subject: A.test, name: 'user:a', role: agent}]}",
            "api.tls.clients[0].role",
        ),
    ] {
        let home = Home::new().config(&format!("api:\n  tls: {yaml}\n"));
        let told = home.run_to_end().exits(64).err;
        assert!(told.contains(said), "{yaml}: {told}");
    }
}

/// Somebody who follows the events by a certificate, and says when the stream has ended.
struct Following {
    meshctl: Child,
    said: PathBuf,
}

impl Following {
    fn start(daemon: &Daemon, dir: &Path, certificate: &str) -> Self {
        let file = |name: String| text(&dir.join(name));
        let said = dir.join("followed");
        let mut command = Command::new(binary(MESHCTL));
        let (ca, cert) = (file("ours.pem".into()), file(format!("{certificate}.pem")));
        command.args(["--url", daemon.url(), "--ca", &ca, "--cert", &cert]);
        command.args(["--cert-key", &file(format!("{certificate}.key"))]);
        command.args(["events", "--since", "0"]).env_clear();
        let out = fs::File::create(dir.join("events")).unwrap();
        command.stdout(out).stderr(fs::File::create(&said).unwrap());
        let meshctl = command.spawn().unwrap();
        eventually(
            "events come",
            Duration::from_secs(30),
            || match fs::metadata(dir.join("events")).unwrap().len() {
                0 => Err("none yet".to_owned()),
                _ => Ok(()),
            },
        );
        Self { meshctl, said }
    }

    fn ends(&self, within: Duration) {
        eventually("the stream ends", within, || {
            let said = fs::read_to_string(&self.said).unwrap();
            if said.contains("the stream ended") {
                Ok(())
            } else {
                Err(said)
            }
        });
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _over = self.meshctl.kill();
        let _over = self.meshctl.wait();
    }
}

/// A list of what an authority revoked, which is good for an hour or was so until yesterday.
fn revokes(authority: &Authority, file: &str, serials: &[u64], is_over: bool) {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(if is_over { 2025 } else { 2100 }, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&authority.issuer).unwrap();
    fs::write(authority.dir.join(file), list.pem().unwrap()).unwrap();
}

#[test]
fn whom_a_clients_certificate_stands_for_is_read_again_at_sighup() {
    let home = home("");
    let dir = home.scratch().to_owned();
    let file = dir.join("meshd.yaml");
    let daemon = home.start();
    let list = |who: &str| with(&daemon, &dir, who, LIST).code;
    let stops = |who: &str| with(&daemon, &dir, who, &["agent", "stop", "nobody"]).code;
    let taken = |what: &str, done: &dyn Fn() -> bool| {
        daemon.signal(Signal::HUP);
        eventually(what, Duration::from_secs(30), || {
            done().then_some(()).ok_or_else(|| daemon.home().log())
        });
    };
    assert_eq!((list("ben"), stops("ben")), (0, 4), "a viewer");
    let before = fs::read_to_string(&file).unwrap();
    let other = before.replace("role: viewer", "role: operator");
    assert_ne!(before, other);
    fs::write(&file, &other).unwrap();
    assert_eq!(stops("ben"), 4, "not before it is asked for");
    taken("he is an operator now", &|| stops("ben") == 3);
    // What makes no sense changes nothing.
    fs::write(&file, other.replace("role: operator", "role: king")).unwrap();
    taken("it is told", &|| {
        daemon.home().log().contains("clients were not taken")
    });
    assert_eq!(stops("ben"), 3);
    // Who is not named any more is nobody.
    fs::write(&file, before.replace("CN=ben", "CN=carl")).unwrap();
    taken("he is nobody", &|| list("ben") != 0);
}

#[test]
fn certificates_and_lists_are_taken_without_a_restart_and_what_was_revoked_opens_nothing() {
    let home = home("    client_crl: '@/revoked.pem'\n");
    let dir = home.scratch().to_owned();
    // The authority anew, to sign by number.
    let ours = Authority::new(&dir, "ours");
    let sign = |file: &str, serial: u64, params: &CertificateParams| {
        let mut params = params.clone();
        params.serial_number = Some(SerialNumber::from(serial));
        ours.signs(file, &params);
    };
    let server = vec![SanType::IpAddress([127, 0, 0, 1].into()), dns("localhost")];
    let serve = |serial: u64| {
        sign("server", serial, &named("meshd", server.clone()));
        let chain = fs::read_to_string(dir.join("server.pem")).unwrap()
            + &fs::read_to_string(ours.file()).unwrap();
        fs::write(dir.join("server.pem"), chain).unwrap();
    };
    serve(1);
    sign("ada", 2, &named("ada", vec![uri("spiffe://mesh/ada")]));
    sign("ben", 3, &named("ben", Vec::new()));
    revokes(&ours, "revoked.pem", &[2], false);
    let daemon = home.start();
    let list = |who: &str| with(&daemon, &dir, who, LIST).code;
    assert_eq!((list("ada"), list("ben")), (6, 0), "hers was revoked");

    // A connection that is open when its certificate is revoked ends, and a stream on it, too.
    let open = Following::start(&daemon, &dir, "ben");
    revokes(&ours, "revoked.pem", &[3], false);
    eventually("the list is taken", Duration::from_secs(30), || {
        match (list("ada"), list("ben")) {
            (0, 6) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    open.ends(Duration::from_secs(30));

    // One that is over says nothing, so nobody is let in by a certificate; a token is.
    revokes(&ours, "revoked.pem", &[], true);
    daemon.signal(Signal::HUP);
    eventually("the list is over", Duration::from_secs(30), || {
        match list("ada") {
            6 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    meshctl(daemon.home().data(), LIST).exits(0);
    // What cannot be used is not taken: that of before stays in force.
    fs::write(dir.join("revoked.pem"), "no list\n").unwrap();
    daemon.signal(Signal::HUP);
    eventually("it is told", Duration::from_secs(30), || {
        let log = daemon.home().log();
        if log.contains("api.tls.client_crl") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert_eq!(list("ada"), 6);
    meshctl(daemon.home().data(), LIST).exits(0);
    revokes(&ours, "revoked.pem", &[], false);
    eventually("all are let in", Duration::from_secs(30), || {
        match (list("ada"), list("ben")) {
            (0, 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // meshd's own certificate: the new one is served, and those on this machine know it.
    let served = || {
        let copy = fs::read_to_string(daemon.home().data().join("endpoint.ca"));
        copy.unwrap_or_default()
    };
    let before = served();
    serve(9);
    let now = fs::read_to_string(dir.join("server.pem")).unwrap();
    eventually(
        "the new one is taken",
        Duration::from_secs(30),
        || match served() {
            copy if copy == now && copy != before => Ok(()),
            copy => Err(copy),
        },
    );
    meshctl(daemon.home().data(), LIST).exits(0);
    assert_eq!(list("ben"), 0);
    let (_, code) = daemon.stop(Signal::TERM);
    assert_eq!(code, 0, "SIGHUP ended nothing");
}
