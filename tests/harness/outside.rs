//! The world outside: a server of the test's own, on loopback, that keeps what it heard.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the server waits for a client that says nothing.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A server that answers each request with what it was sent. It runs until the test's process ends.
#[derive(Debug)]
pub struct Outside {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
    status: Arc<AtomicU16>,
    body_max: Arc<AtomicUsize>,
}

impl Outside {
    /// Starts it on a free port of loopback.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let status = Arc::new(AtomicU16::new(200));
        let body_max = Arc::new(AtomicUsize::new(usize::MAX));
        let (kept, says) = (Arc::clone(&heard), Arc::clone(&status));
        let bound = Arc::clone(&body_max);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, says) = (Arc::clone(&kept), Arc::clone(&says));
                let bound = Arc::clone(&bound);
                thread::spawn(move || answer(stream, &kept, &says, &bound));
            }
        });
        Self {
            port,
            heard,
            status,
            body_max,
        }
    }

    /// From now on larger bodies are refused with 413, and are not among what was heard.
    pub fn bound_bodies(&self, bytes: usize) {
        self.body_max.store(bytes, Ordering::Release);
    }

    /// From now on it answers with this status; with 200 at first.
    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Every request so far, head and body.
    pub fn heard(&self) -> Vec<String> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Whoever goes away in the middle was not to be answered.
fn answer(
    stream: TcpStream,
    kept: &Mutex<Vec<String>>,
    status: &AtomicU16,
    body_max: &AtomicUsize,
) -> Option<()> {
    stream.set_read_timeout(Some(SILENCE_MAX)).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|count| *count > 0)?;
        text.push_str(&line);
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if length > body_max.load(Ordering::Acquire) {
        let mut stream = stream;
        let refusal = b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(refusal).ok();
    }
    text.push_str(&String::from_utf8_lossy(&body));
    kept.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text.clone());
    let mut stream = stream;
    let head = format!(
        "HTTP/1.1 {} Said\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.load(Ordering::Acquire),
        text.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(text.as_bytes()).ok()
}
