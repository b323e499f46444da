//! The proxy over real sockets: what each kind of client gets, and the attacks on it by their numbers.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_egress::{
    Binding, Bounds, Code, Credentials, Denial, DomainRules, HeaderTemplate, Limits, Observer,
    Pattern, Policy, Protocol, Proxy, ProxyParts, RequestRule, Resolver, grants_from, tls_config,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Longest wait of a test: far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<Denial>>);

impl Observer for Seen {
    fn denied(&self, denial: &Denial) {
        self.0.lock().unwrap().push(denial.clone());
    }
}

/// `*.test` is this host; what is called otherwise lies where its name says.
#[derive(Debug, Default)]
struct Names(AtomicUsize);

#[async_trait::async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let address = match name {
            "private.test" => "10.1.2.3",
            "metadata.test" => "169.254.169.254",
            "carrier.test" => "100.64.0.1",
            "mapped.test" => "::ffff:127.0.0.1",
            // Any address, spelled as a name: 169-254-169-254.at.below.test.
            spelled if spelled.ends_with(".at.below.test") => {
                let text = spelled.trim_end_matches(".at.below.test");
                let v4 = text.replace('-', ".");
                let v6 = text.replace('-', ":");
                let address = v4.parse().or_else(|_| v6.parse::<IpAddr>());
                return address.map(|a| vec![a]).map_err(io::Error::other);
            }
            "gone.test" => return Err(io::Error::other("no such name")),
            _ => "127.0.0.1",
        };
        Ok(vec![address.parse().unwrap()])
    }
}

#[derive(Debug)]
struct Vault;

impl Credentials for Vault {
    fn secret(&self, name: &str, host: &str) -> Option<Zeroizing<Vec<u8>>> {
        (name == "key" && host != "ungranted.test").then(|| Zeroizing::new(b"s3cr3t".to_vec()))
    }
}

struct Bench {
    proxy: std::net::SocketAddr,
    seen: Arc<Seen>,
    names: Arc<Names>,
}

/// A server that answers every request with what it was sent.
async fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    port
}

async fn echo(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut heard = Vec::new();
    while !heard.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = if heard.starts_with(b"GET /switch") {
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: upgrade\r\n\r\n".to_vec()
    } else if heard.starts_with(b"GET /redirect") {
        b"HTTP/1.1 301 Moved\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    } else {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            heard.len()
        );
        [head.into_bytes(), heard].concat()
    };
    stream.write_all(&text).await.ok();
    stream.shutdown().await.ok();
}

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn policy(ports: impl IntoIterator<Item = u16>) -> Policy {
    let allowed = [
        "allowed.test",
        "*.below.test",
        "private.test",
        "metadata.test",
        "carrier.test",
        "mapped.test",
        "gone.test",
        "secure.test",
        "api.test",
        "ungranted.test",
        "169.254.169.254",
    ];
    let patterns = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect::<Vec<_>>()
    };
    let bind = |hosts: &[&str], tls| Binding {
        secret: "key".to_owned(),
        requests: RequestRule::parse(&list(hosts), Some(&list(&["GET"])), Some(&list(&["/v1/*"])))
            .unwrap(),
        header: HeaderTemplate::parse("Authorization: Bearer {secret}").unwrap(),
        tls,
    };
    Policy {
        domains: vec![DomainRules {
            origin: "security.networkAccess".to_owned(),
            allowed: Some(patterns(&allowed)),
            blocked: patterns(&["no.below.test"]),
        }],
        ports: ports.into_iter().collect::<BTreeSet<_>>(),
        requests: vec![
            RequestRule::parse(
                &list(&["api.test"]),
                Some(&list(&["GET"])),
                Some(&list(&["/v1/*"])),
            )
            .unwrap(),
        ],
        networks: grants_from(["127.0.0.0/8"]).unwrap(),
        brokered: vec![
            bind(&["api.test", "ungranted.test"], false),
            bind(&["secure.test"], true),
        ],
        ..Policy::default()
    }
}

async fn bench(policy: Policy, limits: Limits) -> Bench {
    let names = Arc::new(Names::default());
    let mut bench = bench_with(policy, limits, names.clone()).await;
    bench.names = names;
    bench
}

async fn bench_with(policy: Policy, limits: Limits, resolver: Arc<dyn Resolver>) -> Bench {
    let bounds = Arc::new(Bounds::of(&limits));
    bench_of(policy, limits, bounds, resolver).await
}

async fn bounded(policy: Policy, limits: Limits, bounds: Arc<Bounds>) -> Bench {
    bench_of(policy, limits, bounds, Arc::new(Names::default())).await
}

async fn bench_of(
    policy: Policy,
    limits: Limits,
    bounds: Arc<Bounds>,
    resolver: Arc<dyn Resolver>,
) -> Bench {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let extra = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/ca.pem");
    let parts = ProxyParts {
        policy,
        bounds,
        limits,
        resolver,
        credentials: Arc::new(Vault),
        observer: seen.clone(),
        tls: tls_config(Some(&extra)).unwrap(),
    };
    tokio::spawn(Arc::new(Proxy::new(parts)).serve(listener));
    Bench {
        proxy,
        seen,
        names: Arc::default(),
    }
}

impl Bench {
    async fn with(port: u16) -> Self {
        bench(policy([port]), Limits::default()).await
    }

    /// Sends bytes and reads to the end.
    async fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("an end in time").ok();
        answer
    }

    async fn ask(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.say(text.as_bytes()).await).into_owned()
    }

    async fn connect(&self, target: &str) -> String {
        self.ask(&format!("CONNECT {target} HTTP/1.1\r\n\r\n"))
            .await
    }

    async fn get(&self, host: &str, port: u16, path: &str, headers: &str) -> String {
        self.ask(&format!(
            "GET http://{host}:{port}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n{headers}\r\n"
        ))
        .await
    }

    fn codes(&self) -> Vec<Code> {
        self.seen
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|denial| denial.code)
            .collect()
    }
}

fn refused(answer: &str, status: u16, code: &str) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{status} {code}: {answer}"
    );
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["code"], code, "{body}");
    assert!(!body["reason"].as_str().unwrap().is_empty());
    let line = answer.lines().next().unwrap();
    assert!(line.ends_with(&format!("({code})")), "{line}");
}

#[tokio::test]
async fn the_three_ways_through_reach_the_server() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    // proxy-03: the trailing dot is no other host.
    for host in [
        "allowed.test",
        "Allowed.TEST",
        "allowed.test.",
        "a.below.test",
    ] {
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\nGET /inside HTTP/1.1\r\n\r\n");
        let answer = bench.ask(&request).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("GET /inside"),
            "{host}: {answer}"
        );
    }
    let answer = bench
        .get(
            "allowed.test",
            port,
            "/path?q=1",
            "X-Own: kept\r\nConnection: X-Drop\r\nX-Drop: 1\r\n",
        )
        .await;
    assert!(answer.contains("GET /path?q=1 HTTP/1.1\r\n"), "{answer}");
    assert!(
        answer.contains("x-own: kept") && !answer.to_lowercase().contains("x-drop: 1"),
        "{answer}"
    );
    assert!(
        answer.contains(&format!("host: allowed.test:{port}")),
        "{answer}"
    );
    let mut socks = vec![5, 1, 0, 5, 1, 0, 3, 12];
    socks.extend(b"allowed.test");
    socks.extend(port.to_be_bytes());
    socks.extend(b"GET /socks HTTP/1.1\r\n\r\n");
    let answer = bench.say(&socks).await;
    assert_eq!(&answer[..4], &[5, 0, 5, 0]);
    assert!(String::from_utf8_lossy(&answer).contains("GET /socks"));
    assert_eq!(bench.codes(), []);
}

#[tokio::test]
async fn a_body_is_carried_whole_in_both_framings() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bench = Bench::with(port).await;
    let server = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !String::from_utf8_lossy(&heard).contains("the body") {
                assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
            }
            stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n",
                )
                .await
                .unwrap();
            bodies.push(String::from_utf8_lossy(&heard).into_owned());
        }
        bodies
    });
    for (header, body) in [
        ("Content-Length: 8", "the body"),
        ("Transfer-Encoding: chunked", "8\r\nthe body\r\n0\r\n\r\n"),
    ] {
        let answer = bench
            .ask(&format!("POST http://allowed.test:{port}/ HTTP/1.1\r\nHost: allowed.test:{port}\r\n{header}\r\n\r\n{body}"))
            .await;
        assert!(answer.contains("done"), "{answer}");
    }
    assert_eq!(server.await.unwrap().len(), 2);
}

#[tokio::test]
async fn spellings_of_hosts_do_not_pass() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    // proxy-08, proxy-09, proxy-10: what is readable, and no host by that name.
    for target in [
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[fe80::1%25eth0]",
        "xn--a",
    ] {
        let answer = bench.connect(&format!("{target}:{port}")).await;
        refused(&answer, 403, "bad_host");
    }
    // proxy-06 and user names.
    for target in [
        "allowed.test%00.evil.example",
        "allowed.test\0.evil.example",
        "user@allowed.test",
        "allowed.test@evil.example",
        "al_lowed.test",
        "allowed.test..",
    ] {
        let answer = bench.connect(&format!("{target}:{port}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
    }
    // proxy-07, proxy-08: homoglyphs are other names.
    for target in [
        "evil-below.test",
        "below.test",
        "evil.example",
        "xn--llowed-2nf.test",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ] {
        refused(
            &bench.connect(&format!("{target}:{port}")).await,
            403,
            "domain_not_allowed",
        );
    }
    // proxy-24: what is blocked stays blocked.
    refused(
        &bench.connect(&format!("no.below.test:{port}")).await,
        403,
        "domain_blocked",
    );
    // proxy-13.
    refused(
        &bench.connect("allowed.test:22").await,
        403,
        "port_not_allowed",
    );
    assert_eq!(
        bench.names.0.load(Ordering::SeqCst),
        0,
        "nothing of this was looked up"
    );
}

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_after_resolving() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    // proxy-11.
    for host in [
        "private.test",
        "metadata.test",
        "carrier.test",
        "mapped.test",
        "169.254.169.254",
    ] {
        refused(
            &bench.connect(&format!("{host}:{port}")).await,
            403,
            "address_not_allowed",
        );
        refused(
            &bench.get(host, port, "/", "").await,
            403,
            "address_not_allowed",
        );
    }
    refused(
        &bench.connect(&format!("gone.test:{port}")).await,
        502,
        "not_resolved",
    );
}

/// Answers differently each time, as a name server in an attacker's hand does.
#[derive(Debug)]
struct Flipping {
    answers: Vec<&'static str>,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Resolver for Flipping {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(vec![
            self.answers[turn % self.answers.len()].parse().unwrap(),
        ])
    }
}

/// proxy-12.
#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_dialled() {
    let port = echo_server().await;
    // What is public in this test is the loopback; the other address would be refused if anybody asked again.
    for (answers, code) in [
        (vec!["127.0.0.1", "10.1.2.3"], None),
        (vec!["10.1.2.3", "127.0.0.1"], Some("address_not_allowed")),
    ] {
        let names = Arc::new(Flipping {
            answers,
            asked: AtomicUsize::new(0),
        });
        let bench = bench_with(policy([port]), Limits::default(), names.clone()).await;
        let answer = bench.get("allowed.test", port, "/", "").await;
        match code {
            None => assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}"),
            Some(code) => refused(&answer, 403, code),
        }
        assert_eq!(names.asked.load(Ordering::SeqCst), 1, "asked once only");
    }
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    // proxy-14: the target and the header disagree.
    let answer = bench
        .ask(&format!(
            "GET http://allowed.test:{port}/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
        ))
        .await;
    refused(&answer, 400, "bad_request");
    // proxy-17: two lengths.
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    refused(
        &bench.get("allowed.test", port, "/", both).await,
        400,
        "bad_request",
    );
    // A second request behind the first is not sent on.
    let first =
        format!("GET http://allowed.test:{port}/one HTTP/1.1\r\nHost: allowed.test:{port}\r\n\r\n");
    let second = "GET http://evil.example/two HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let answer = bench.ask(&format!("{first}{second}")).await;
    assert!(
        answer.contains("/one") && !answer.contains("/two"),
        "{answer}"
    );
    // proxy-21.
    let bomb = format!(
        "GET http://allowed.test:{port}/ HTTP/1.1\r\nHost: allowed.test:{port}\r\n{}\r\n",
        "x: y\r\n".repeat(9000)
    );
    refused(&bench.ask(&bomb).await, 431, "head_too_large");
    let long = format!("x: {}\r\n", "y".repeat(8 * 1024));
    let answer = bench.get("allowed.test", port, "/", &long).await;
    refused(&answer, 431, "head_too_large");
    // No request to a proxy at all.
    refused(
        &bench
            .ask("GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
            .await,
        400,
        "bad_request",
    );
}

#[tokio::test]
async fn heads_that_another_reader_could_read_otherwise_never_leave() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    let at = format!("http://allowed.test:{port}");
    let host = format!("Host: allowed.test:{port}");
    let post = |lines: &str| format!("POST {at}/ HTTP/1.1\r\n{host}\r\n{lines}\r\n\r\n0\r\n\r\n");
    let mut asked: Vec<String> = [
        // The length of the body, in two ways, or in one that is not plain.
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: \"chunked\"",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        // Lines that fold, end early, or have a name that is none.
        "X-A: b\r\n folded: c",
        "X-A: b\nHost: evil.example",
        "X-A: b\rHost: evil.example",
        "X-A\0: b",
        ": empty",
        "X A: b",
        // A second host, in every dress.
        "Host: evil.example",
        "host : evil.example",
        "hOST: evil.example",
    ]
    .into_iter()
    .map(post)
    .collect();
    for target in [
        format!("http://allowed.test:{port}@evil.example/"),
        format!("http://evil.example#@allowed.test:{port}/"),
        format!("http://allowed.test:{port}\\@evil.example/"),
        format!("http://allowed.test:{port}:80/"),
        format!("http://allowed.test:{port}\t/"),
        format!("http:///allowed.test:{port}/"),
        format!("http:/allowed.test:{port}/"),
        format!("//allowed.test:{port}/"),
        format!("https://allowed.test:{port}/"),
        format!("ftp://allowed.test:{port}/"),
        "http://".to_owned(),
        "http://allowed.test:0/".to_owned(),
        "http://allowed.test:99999/".to_owned(),
        "http://allowed.test:+80/".to_owned(),
        "http://[::1/".to_owned(),
        "*".to_owned(),
    ] {
        asked.push(format!("GET {target} HTTP/1.1\r\n{host}\r\n\r\n"));
    }
    asked.push("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned());
    asked.push(format!("GET {at}/ HTTP/0.9\r\n{host}\r\n\r\n"));
    asked.push(format!("GET {at}/ HTTP/1.1\r\n\r\n"));
    asked.push(format!(" GET {at}/ HTTP/1.1\r\n{host}\r\n\r\n"));
    asked.push(format!("GET  {at}/ HTTP/1.1\r\n{host}\r\n\r\n"));
    for tunnel in [
        format!("allowed.test:{port}:443"),
        "allowed.test".to_owned(),
        format!("http://allowed.test:{port}"),
        format!("allowed.test:{port}/"),
        format!("evil.example:80@allowed.test:{port}"),
        ":443".to_owned(),
    ] {
        asked.push(format!("CONNECT {tunnel} HTTP/1.1\r\n\r\n"));
    }
    for text in asked {
        let answer = bench.ask(&text).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{text:?}: {answer}");
    }
    assert_eq!(
        bench.names.0.load(Ordering::SeqCst),
        0,
        "nothing was looked up"
    );
}

#[tokio::test]
async fn chunks_that_could_be_read_otherwise_end_the_request() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    for body in [
        "FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1\r\nxGET http://evil.example/smuggled HTTP/1.1\r\n\r\n0\r\n\r\n",
        "1;a=\"\r\nx\"\r\n0\r\n\r\n",
    ] {
        let answer = bench
            .ask(&format!(
                "POST http://allowed.test:{port}/ HTTP/1.1\r\nHost: allowed.test:{port}\r\n\
                 Transfer-Encoding: chunked\r\n\r\n{body}"
            ))
            .await;
        assert!(!answer.contains("smuggled"), "{body:?}: {answer}");
        // Never a second answer behind the first.
        assert!(
            answer.matches("HTTP/1.1 ").count() <= 2,
            "{body:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn what_belongs_to_one_connection_is_not_passed_on() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    let headers = "Connection: close, X-Secret-Hop, Host, Authorization\r\nX-Secret-Hop: 1\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQAAP__\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers\r\n\
                   Proxy-Connection: keep-alive\r\nExpect: 100-continue\r\n";
    let answer = bench.get("allowed.test", port, "/", headers).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    let (_, sent) = lower.split_once("\r\n\r\n").unwrap();
    for gone in [
        "x-secret-hop",
        "upgrade",
        "proxy-",
        "\r\nte:",
        "expect",
        "connection: close,",
    ] {
        assert!(!sent.contains(gone), "{gone}: {sent}");
    }
    assert_eq!(sent.matches("\r\nhost:").count(), 1, "{sent}");
    assert!(
        sent.contains(&format!("host: allowed.test:{port}")),
        "{sent}"
    );
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_however_its_address_is_dressed() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    for address in [
        "0-0-0-0",
        "10-0-0-1",
        "169-254-169-254",
        "169-254-170-2",
        "168-63-129-16",
        "192-0-0-192",
        "100-100-100-200",
        "255-255-255-255",
        "0--0",
        "0--1",
        "0--ffff-a9fe-a9fe",
        "0--ffff-0-a9fe-a9fe",
        "0--a9fe-a9fe",
        "64-ff9b--a9fe-a9fe",
        "64-ff9b-1--a9fe-a9fe",
        "2002-a9fe-a9fe--1",
        "2001-0-a9fe-a9fe--1",
        "fd00-ec2--254",
        "fd20-ce--254",
        "fe80--1",
        "ff02--1",
    ] {
        let host = format!("{address}.at.below.test");
        for answer in [
            bench.connect(&format!("{host}:{port}")).await,
            bench.get(&host, port, "/", "").await,
        ] {
            // What begins with a colon has no such spelling: "0::1" is "::1".
            refused(&answer, 403, "address_not_allowed");
        }
        let mut socks = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
        socks.extend(host.as_bytes());
        socks.extend(port.to_be_bytes());
        assert_eq!(&bench.say(&socks).await[..4], &[5, 0, 5, 2], "{host}");
    }
    // Bare addresses are reached only if they are listed.
    for target in [
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[::169.254.169.254]",
        "[::]",
        "0.0.0.0",
        "168.63.129.16",
    ] {
        let answer = bench.connect(&format!("{target}:{port}")).await;
        refused(&answer, 403, "domain_not_allowed");
    }
    for target in [
        "0251.0376.0251.0376",
        "0xa9.0xfe.0xa9.0xfe",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "169.254.169.254..",
        "[::ffff:169.254.169.254%25lo]",
        "\u{2460}69.254.169.254",
        "169\u{3002}254\u{3002}169\u{3002}254",
    ] {
        let answer = bench.connect(&format!("{target}:{port}")).await;
        let refused = answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 403 ");
        assert!(refused, "{target}: {answer}");
    }
}

#[tokio::test]
async fn socks_names_that_could_be_read_otherwise_are_refused() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    for name in [
        &b"allowed.test\0.evil.example"[..],
        b"evil.example\0allowed.test",
        b"allowed.test:80",
        b"user@allowed.test",
        b"http://allowed.test",
        b"[::ffff:127.0.0.1]",
        b"2130706433",
        b"0177.0.0.1",
        b"allowed.test..",
        b"allowed.test/",
        b"allowed.test\r\nHost: evil.example",
        b"\xff\xfe",
        b"*",
        b"",
    ] {
        let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        bytes.extend(port.to_be_bytes());
        let answer = bench.say(&bytes).await;
        assert_eq!(&answer[..4], &[5, 0, 5, 2], "{name:?}: {answer:?}");
    }
    // Version 4, in which a name follows an address, is none that is spoken here.
    let four = [&[4, 1, 0, 80, 0, 0, 0, 1, 0][..], b"allowed.test\0"].concat();
    assert!(!bench.say(&four).await.starts_with(&[0, 90]));
    assert_eq!(
        bench.names.0.load(Ordering::SeqCst),
        0,
        "nothing was looked up"
    );
}

#[tokio::test]
async fn a_redirect_is_the_agents_to_follow_and_is_checked_again() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    // proxy-18.
    let answer = bench.get("allowed.test", port, "/redirect", "").await;
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    refused(
        &bench.get("evil.example", 80, "/", "").await,
        403,
        "domain_not_allowed",
    );
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let port = echo_server().await;
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let bench = bench(policy([port]), limits).await;
    // proxy-19.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(bench.proxy).await.unwrap();
        stream
            .write_all(format!("CONNECT allowed.test:{port} HTTP/1.1\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        held.push(stream);
    }
    refused(
        &bench.connect(&format!("allowed.test:{port}")).await,
        503,
        "too_many_connections",
    );
    assert_eq!(bench.codes(), [Code::TooManyConnections]);
    drop(held);
    let again = async {
        let asked = format!("CONNECT allowed.test:{port} HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        while !bench.ask(&asked).await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("a place is free again");
}

#[tokio::test]
async fn who_dawdles_is_dropped() {
    let port = echo_server().await;
    let limits = Limits {
        head: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let bench = bench(policy([port]), limits).await;
    // proxy-20, and a tunnel on which nothing moves.
    for text in [
        "GET http://allo".to_owned(),
        format!("CONNECT allowed.test:{port} HTTP/1.1\r\n\r\n"),
        "\u{5}".to_owned(),
    ] {
        let mut stream = TcpStream::connect(bench.proxy).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{text:?} is still open");
    }
}

#[tokio::test]
async fn socks_offers_connections_and_nothing_else() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    // proxy-22: BIND and UDP ASSOCIATE.
    for command in [2, 3] {
        let answer = bench
            .say(&[5, 1, 0, 5, command, 0, 1, 127, 0, 0, 1, 0, 80])
            .await;
        assert_eq!(&answer[..4], &[5, 0, 5, 7], "{command}");
    }
    // proxy-23.
    let mut long = vec![5, 1, 0, 5, 1, 0, 3, 255];
    long.extend([0xff; 255]);
    long.extend(port.to_be_bytes());
    assert_eq!(&bench.say(&long).await[..4], &[5, 0, 5, 2]);
    // A name that is not allowed, and a bare address.
    let mut evil = vec![5, 1, 0, 5, 1, 0, 3, 12];
    evil.extend(b"evil.example");
    evil.extend(port.to_be_bytes());
    assert_eq!(&bench.say(&evil).await[..4], &[5, 0, 5, 2]);
    assert_eq!(
        &bench.say(&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80]).await[..4],
        &[5, 0, 5, 2]
    );
    assert_eq!(bench.say(&[5, 1, 2]).await, [5, 0xff]);
}

#[tokio::test]
async fn a_bound_credential_is_added_and_replaces_the_agents_own() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    let answer = bench
        .get(
            "api.test",
            port,
            "/v1/models",
            "Authorization: Bearer mine\r\n",
        )
        .await;
    assert!(
        answer.contains("authorization: Bearer s3cr3t") && !answer.contains("mine"),
        "{answer}"
    );
    // Another host gets none, another path and method nothing at all.
    assert!(
        !bench
            .get("allowed.test", port, "/v1/models", "")
            .await
            .contains("s3cr3t")
    );
    refused(
        &bench.get("api.test", port, "/v2", "").await,
        403,
        "path_not_allowed",
    );
    refused(
        &bench.get("api.test", port, "/v1/../v2", "").await,
        403,
        "path_not_allowed",
    );
    refused(
        &bench.connect(&format!("api.test:{port}")).await,
        403,
        "tunnel_not_allowed",
    );
    refused(
        &bench.get("ungranted.test", port, "/v1/x", "").await,
        503,
        "credential_missing",
    );
    let told = format!("{:?}", bench.seen.0.lock().unwrap());
    assert!(!told.contains("s3cr3t"), "{told}");
}

#[tokio::test]
async fn no_header_changes_a_bound_request_behind_the_proxy() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    let other = "X-HTTP-Method-Override: DELETE\r\nx-original-url: /v2\r\nX-Kept: 1\r\n";
    let bound = bench.get("api.test", port, "/v1/models", other).await;
    let bound = bound.to_ascii_lowercase();
    assert!(
        bound.contains("x-kept") && !bound.contains("delete") && !bound.contains("/v2"),
        "{bound}"
    );
    // Where any method may be used, the header is the agent's affair.
    let free = bench.get("allowed.test", port, "/", other).await;
    assert!(free.contains("DELETE"), "{free}");
}

#[tokio::test]
async fn a_server_that_changes_the_protocol_is_not_followed() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    refused(
        &bench.get("allowed.test", port, "/switch", "").await,
        502,
        "unreachable",
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_told_with_its_host_as_written() {
    let port = echo_server().await;
    let bench = Bench::with(port).await;
    for (target, host) in [
        (
            "http://me:sekrit@allowed.test:1/x?token=sekrit",
            "allowed.test:1",
        ),
        ("http://a_b.test/p", "a_b.test"),
        ("http://0x7f.1/p", "0x7f.1"),
        ("/v1/sekrit", ""),
    ] {
        bench
            .ask(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        let told = bench.seen.0.lock().unwrap().pop().unwrap();
        assert_eq!(told.host, host, "{target}");
        assert!(!format!("{told:?}").contains("sekrit"), "{told:?}");
    }
}

#[tokio::test]
async fn a_bound_credential_travels_in_tls_to_the_right_server_only() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let chain = CertificateDer::pem_file_iter(dir.join("server.pem"))
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("server-key.pem")).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    echo(stream).await;
                }
            });
        }
    });
    let bench = Bench::with(port).await;
    let answer = bench.get("secure.test", port, "/v1/x", "").await;
    assert!(answer.contains("authorization: Bearer s3cr3t"), "{answer}");
    assert!(
        answer.contains(&format!("host: secure.test:{port}")),
        "{answer}"
    );
    // The certificate is another host's: the credential never leaves.
    let mut other = policy([port]);
    other.brokered = vec![Binding {
        requests: RequestRule::parse(&list(&["allowed.test"]), None, None).unwrap(),
        ..other.brokered[1].clone()
    }];
    let bench = self::bench(other, Limits::default()).await;
    refused(
        &bench.get("allowed.test", port, "/v1/x", "").await,
        502,
        "unreachable",
    );
}

#[tokio::test]
async fn fewer_connections_and_another_rate_hold_at_once() {
    let port = echo_server().await;
    let bounds = Arc::new(Bounds::new(2, None));
    let bench = bounded(policy([port]), Limits::default(), Arc::clone(&bounds)).await;
    let asked = format!("CONNECT allowed.test:{port} HTTP/1.1\r\n\r\n");
    let mut held = TcpStream::connect(bench.proxy).await.unwrap();
    held.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    held.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    bounds.set(1, None);
    refused(
        &bench.connect(&format!("allowed.test:{port}")).await,
        503,
        "too_many_connections",
    );
    // What is open stays open, and what is allowed again goes through again.
    bounds.set(2, Some(1_000_000));
    let answer = bench.ask(&format!("{asked}GET / HTTP/1.1\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(held);
}

/// SV8: a protocol that is not listed is refused.
#[tokio::test]
async fn only_listed_protocols_get_out() {
    let port = echo_server().await;
    let with = async |protocols: &[Protocol]| {
        let mut policy = policy([port]);
        policy.protocols = Some(protocols.iter().copied().collect());
        bench(policy, Limits::default()).await
    };
    let tunnel = format!("CONNECT allowed.test:{port} HTTP/1.1\r\n\r\n");
    let plain = format!("{tunnel}GET / HTTP/1.1\r\n\r\n");
    let mut tls = tunnel.clone().into_bytes();
    tls.extend([0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]);
    tls.extend(b"\r\n\r\n");

    let none = with(&[]).await;
    refused(&none.ask(&plain).await, 403, "protocol_not_allowed");
    refused(
        &none.get("allowed.test", port, "/", "").await,
        403,
        "protocol_not_allowed",
    );

    let http = with(&[Protocol::Http]).await;
    let answer = http.get("allowed.test", port, "/", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    refused(&http.ask(&plain).await, 403, "protocol_not_allowed");

    let https = with(&[Protocol::Https]).await;
    refused(
        &https.get("allowed.test", port, "/", "").await,
        403,
        "protocol_not_allowed",
    );
    let answer = https.say(&tls).await;
    assert!(answer.len() > 45, "what is TLS goes through: {answer:?}");
    assert_eq!(https.codes(), [Code::ProtocolNotAllowed]);
    // The tunnel stands, but nothing else than TLS gets into it.
    let answer = https.ask(&plain).await;
    assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\n");
    assert_eq!(
        https.codes(),
        [Code::ProtocolNotAllowed, Code::ProtocolNotAllowed]
    );

    let tcp = with(&[Protocol::Tcp]).await;
    let answer = tcp.ask(&plain).await;
    assert!(answer.contains("GET /"), "{answer}");
}
