//! The way out of a sandbox against plain loopback: what a tunnel through the proxy costs.
//!
//! `cargo bench -p mesh-benches --no-default-features --features egress --bench egress`. Sender and receiver are threads, as
//! agent and server are processes; the proxy runs on a runtime of its own, in between.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_benches::{Goal, Report, Unit, machine};
use mesh_egress::{
    Bounds, Denial, DomainRules, Limits, NoCredentials, Observer, Pattern, Policy, Proxy,
    ProxyParts, SystemResolver, grants_from, tls_config,
};

/// Bytes of one transfer.
const TRANSFER: usize = 1 << 30;

/// What is written at once.
const CHUNK: usize = 128 * 1024;

/// Transfers of each kind, in alternating rounds; the median counts.
const ROUNDS: usize = 5;

/// Round trips of each kind.
const TRIPS: usize = 20_000;

/// Bytes of a round trip in each direction.
const MESSAGE: usize = 64;

/// What a proxy may add to a round trip at p50, in microseconds.
const ADDED_MAX: f64 = 200.0;

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn denied(&self, _: &Denial) {}
}

/// A server that swallows what comes, or sends messages back.
fn server(back: bool) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || if back { echo(stream) } else { swallow(stream) });
        }
    });
    Ok(address)
}

fn echo(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message).ok()?;
    }
    Some(())
}

/// Says when everything has come, so that a transfer ends at the receiver.
fn swallow(mut stream: TcpStream) -> Option<()> {
    let mut buffer = vec![0; CHUNK];
    while stream.read(&mut buffer).ok()? > 0 {}
    stream.write_all(b"!").ok()
}

fn transfer(mut stream: TcpStream) -> std::io::Result<Duration> {
    let chunk = vec![7; CHUNK];
    let begun = Instant::now();
    for _ in 0..TRANSFER / CHUNK {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(begun.elapsed())
}

fn trips(mut stream: TcpStream) -> std::io::Result<Vec<Duration>> {
    stream.set_nodelay(true)?;
    let mut message = [7; MESSAGE];
    let mut times = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let begun = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// A tunnel through the proxy to the server.
fn tunnel(proxy: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\n\r\n").as_bytes())?;
    let mut answer = [0; 39];
    stream.read_exact(&mut answer)?;
    if !answer.ends_with(b"\r\n\r\n") {
        return Err(std::io::Error::other(String::from_utf8_lossy(&answer)));
    }
    Ok(stream)
}

fn proxy(ports: BTreeSet<u16>) -> Result<ProxyParts, Box<dyn Error>> {
    Ok(ProxyParts {
        policy: Policy {
            domains: vec![DomainRules {
                origin: "bench".to_owned(),
                allowed: Some(vec![Pattern::parse("127.0.0.1")?]),
                blocked: Vec::new(),
            }],
            ports,
            networks: grants_from(["127.0.0.1"])?,
            ..Policy::default()
        },
        limits: Limits::default(),
        bounds: Arc::new(Bounds::of(&Limits::default())),
        resolver: Arc::new(SystemResolver),
        credentials: Arc::new(NoCredentials),
        observer: Arc::new(Nobody),
        tls: tls_config(None)?,
    })
}

fn at(times: &mut [Duration], quantile: usize) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() * quantile / 100)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

#[expect(
    clippy::print_stdout,
    reason = "the results of a benchmark go to the terminal"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", machine());
    let (sink, back) = (server(false)?, server(true)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let parts = proxy([sink.port(), back.port()].into())?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let way = listener.local_addr()?;
    runtime.spawn(Arc::new(Proxy::new(parts)).serve(listener));

    let mut report = Report::default();
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        direct.push(transfer(TcpStream::connect(sink)?)?);
        through.push(transfer(tunnel(way, sink)?)?);
    }
    let (ours, baseline) = (at(&mut through, 50), at(&mut direct, 50));
    report.row(
        "1 GiB through a tunnel, time",
        Unit::Micros,
        ours,
        ("direct loopback", baseline),
        Goal::Times(2.0),
    );
    let mut direct = trips(TcpStream::connect(back)?)?;
    let mut through = trips(tunnel(way, back)?)?;
    for quantile in [50, 99] {
        let (ours, baseline) = (at(&mut through, quantile), at(&mut direct, quantile));
        let name = format!("64 bytes there and back, p{quantile}");
        report.row(
            &name,
            Unit::Micros,
            ours,
            ("direct loopback", baseline),
            Goal::None,
        );
        let goal = if quantile == 50 {
            Goal::AtMost
        } else {
            Goal::None
        };
        let name = format!("added to it, p{quantile}");
        report.row(
            &name,
            Unit::Micros,
            ours - baseline,
            ("200 µs", ADDED_MAX),
            goal,
        );
    }
    println!("\n{}", report.table());
    Ok(())
}
