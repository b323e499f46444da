//! A tiny HTTP server in the test's own process: it answers as told and remembers what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
    /// Method and path, without parameters.
    pub(crate) fn route(&self) -> (&str, &str) {
        (
            &self.method,
            self.target.split('?').next().unwrap_or_default(),
        )
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A document.
    Json(u16, Value),
    /// An RFC 9457 problem with this status and code.
    Problem(u16, &'static str),
    /// Text of this media type.
    Text(&'static str, String),
    /// The beginning of an answer, then the end of the connection.
    Broken(&'static str, String),
    /// The end of the connection.
    Lost,
}

/// The server. Its thread ends with the process.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stub {
    /// Serves on a free port of the loopback interface.
    pub(crate) fn new(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (remembered, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (remembered, answer) = (Arc::clone(&remembered), Arc::clone(&answer));
                thread::spawn(move || serve(connection, &remembered, answer.as_ref()));
            }
        });
        Self { url, seen }
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic under it").clone()
    }
}

/// One request per connection. `answer` is told how many requests of the same route came before.
fn serve(
    mut connection: TcpStream,
    seen: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync),
) -> Option<()> {
    let request = read(&mut BufReader::new(connection.try_clone().ok()?))?;
    let before = {
        let mut seen = seen.lock().ok()?;
        let before = seen
            .iter()
            .filter(|other| other.route() == request.route())
            .count();
        seen.push(request.clone());
        before
    };
    let (status, media, body, whole) = match answer(&request, before) {
        Reply::Json(status, value) => (status, "application/json", value.to_string(), true),
        Reply::Problem(status, code) => {
            let problem = serde_json::json!({ "status": status, "code": code, "detail": format!("refused: {code}") });
            (
                status,
                "application/problem+json",
                problem.to_string(),
                true,
            )
        }
        Reply::Text(media, text) => (200, media, text, true),
        Reply::Broken(media, text) => (200, media, text, false),
        Reply::Lost => return Some(()),
    };
    let length = body.len() + usize::from(!whole);
    write!(
        connection,
        "HTTP/1.1 {status} X\r\ncontent-type: {media}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .ok()?;
    connection.flush().ok()
}

fn read(stream: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Seen {
        method,
        target,
        headers,
        body,
    })
}
