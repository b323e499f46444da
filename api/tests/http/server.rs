//! Over real connections: hosts, slow clients, limits, the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_api::{ApiConfig, Drained, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::fake::Fake;
use crate::support::config;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Drained>,
}

impl Server {
    async fn start(fake: &Arc<Fake>, config: ApiConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let ops = Arc::<Fake>::clone(fake);
        let shutdown = async { stopped.await.unwrap() };
        let serving = tokio::spawn(async { serve(listener, ops, config, shutdown).await.unwrap() });
        Self {
            address,
            stop,
            serving,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn stop(self) -> Drained {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.serving)
            .await
            .expect("it does not end")
            .unwrap()
    }
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// All that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection stays open");
    drop(read);
    String::from_utf8(bytes).unwrap()
}

/// Reads until the text was seen.
async fn until(stream: &mut TcpStream, text: &str) -> String {
    let (mut seen, mut bytes) = (String::new(), [0; 4096]);
    while !seen.contains(text) {
        let n = timeout(PATIENCE, stream.read(&mut bytes))
            .await
            .expect("nothing comes")
            .unwrap();
        assert_ne!(n, 0, "closed after {seen}");
        seen.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    }
    seen
}

#[tokio::test]
async fn foreign_hosts_are_refused_on_loopback() {
    let server = Server::start(
        &Fake::new(),
        ApiConfig {
            hosts: vec!["mesh.internal".into()],
            ..config()
        },
    )
    .await;
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:1", 200),
        ("mesh.internal", 200),
        ("evil.example", 421),
    ] {
        let mut stream = server.connect().await;
        say(
            &mut stream,
            &format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
        )
        .await;
        let answer = rest(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host}: {answer}"
        );
        assert_eq!(answer.contains("\"code\":\"unknown_host\""), status == 421);
    }
    assert_eq!(server.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn a_request_that_names_no_host_is_refused() {
    let server = Server::start(&Fake::new(), config()).await;
    for (version, status) in [("1.1", 400), ("1.0", 200)] {
        let mut stream = server.connect().await;
        let request = format!("GET /healthz HTTP/{version}\r\nconnection: close\r\n\r\n");
        say(&mut stream, &request).await;
        let answer = rest(&mut stream).await;
        let line = answer.lines().next().unwrap_or_default();
        assert!(line.contains(&format!(" {status} ")), "{version}: {answer}");
        assert_eq!(
            answer.contains("\"field\":\"Host\""),
            status == 400,
            "{answer}"
        );
    }
    assert_eq!(server.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_idle_ones_are_closed() {
    let server = Server::start(&Fake::new(), config()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        say(
            &mut stream,
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        )
        .await;
        until(&mut stream, "\"ok\"").await;
    }
    assert_eq!(rest(&mut stream).await, "");
    server.stop().await;
}

#[tokio::test]
async fn slow_heads_do_not_hold_a_connection() {
    let fake = Fake::new();
    let server = Server::start(
        &fake,
        ApiConfig {
            connections_max: 4,
            ..config()
        },
    )
    .await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = server.connect().await;
        say(&mut stream, "GET /healthz HTT").await;
        slow.push(stream);
    }
    // The fifth waits until the others have used up their time.
    let mut stream = server.connect().await;
    say(
        &mut stream,
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(rest(&mut stream).await.contains("\"ok\""));
    for stream in &mut slow {
        rest(stream).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refused_upload_is_told_why() {
    let server = Server::start(&Fake::new(), config()).await;
    let mut stream = server.connect().await;
    let size = 4 * 1024 * 1024;
    let head = "POST /v1/tasks HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer admin\r\nconnection: close\r\n";
    say(
        &mut stream,
        &format!("{head}content-type: application/json\r\ncontent-length: {size}\r\n\r\n"),
    )
    .await;
    stream.write_all(&vec![b' '; size]).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let server = Server::start(&Fake::new(), config()).await;
    let mut stream = server.connect().await;
    say(
        &mut stream,
        &format!(
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
            "a".repeat(40_000)
        ),
    )
    .await;
    assert!(
        until(&mut stream, "\r\n")
            .await
            .starts_with("HTTP/1.1 431 ")
    );
    server.stop().await;
}

#[tokio::test]
async fn shutdown_ends_streams_and_waits_and_lets_requests_finish() {
    let fake = Fake::new();
    let server = Server::start(&fake, config()).await;
    let auth = "host: localhost\r\nauthorization: Bearer admin\r\n";
    let mut events = server.connect().await;
    say(
        &mut events,
        &format!("GET /v1/events HTTP/1.1\r\n{auth}\r\n"),
    )
    .await;
    until(&mut events, "retry: 1000").await;
    let mut waiting = server.connect().await;
    let body = r#"{"type":"slow"}"#;
    let length = body.len();
    say(
        &mut waiting,
        &format!("POST /v1/tasks?wait=5m HTTP/1.1\r\n{auth}content-length: {length}\r\n\r\n{body}"),
    )
    .await;
    while !fake.calls().contains(&"submit 1".into()) {
        tokio::task::yield_now().await;
    }
    let drained = server.stop().await;
    assert_eq!(drained, Drained { cut: 0 });
    assert!(rest(&mut waiting).await.starts_with("HTTP/1.1 202 "));
    assert!(
        rest(&mut events).await.ends_with("0\r\n\r\n"),
        "the stream ends in order"
    );
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_and_counted() {
    let fake = Fake::new();
    let config = ApiConfig {
        drain_timeout: Duration::from_millis(50),
        answer_timeout: Duration::from_mins(1),
        ..config()
    };
    let server = Server::start(&fake, config).await;
    let mut stream = server.connect().await;
    say(
        &mut stream,
        "GET /v1/agents/hangs HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer admin\r\n\r\n",
    )
    .await;
    while fake.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.stop().await, Drained { cut: 1 });
}

#[tokio::test]
async fn a_reader_that_takes_nothing_costs_no_memory_and_loses_its_connection() {
    let fake = Fake::new();
    let server = Server::start(
        &fake,
        ApiConfig {
            stall_timeout: Duration::from_millis(500),
            ..config()
        },
    )
    .await;
    let mut stream = server.connect().await;
    say(
        &mut stream,
        "GET /v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer admin\r\n\r\n",
    )
    .await;
    until(&mut stream, "retry: 1000").await;
    // Once the socket's buffers are full, the kernel gives the reader up, and with it goes its place in the feed.
    let began = std::time::Instant::now();
    while fake.readers() > 0 {
        for _ in 0..100 {
            fake.publish(&format!("task.{}", "x".repeat(4096)));
        }
        assert!(began.elapsed() < PATIENCE, "the reader is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}
