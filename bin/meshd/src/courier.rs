//! Tells people of what needs somebody's eyes: records of some kinds, into a file and to an address.
//!
//! What is told follows from the log, and how far it was told is on the disk: so each is told at least once, whatever ends in
//! between, in the order of the log. Each bears the id of its record, by which a second telling is known. Who cannot be
//! told waits for nobody else, is in the health report meanwhile, and is told all of it later.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mesh_actors::mesh::Mesh;
use mesh_config::AlertsConfig;
use mesh_messages::Position;
use mesh_messages::problem::ProblemKind;
use mesh_messages::system::AuditEntry;
use rustls::crypto::aws_lc_rs::default_provider;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::{durable, outgoing};

/// How often it is looked for something new.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest pause before somebody who could not be told is tried again; it doubles from [`LOOK_EVERY`].
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// How long a telling may take altogether; a disk may hang, too.
const TELL_MAX: Duration = Duration::from_secs(30);
/// Alerts of one request, and bytes of it; one that is larger goes by itself.
const BATCH_MAX: usize = 100;
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Authorities that are known to an operator are a few.
const CA_BYTES_MAX: u64 = 1024 * 1024;
/// Only its owner may read what was told.
const FILE_MODE: u32 = 0o600;
/// Answers that are shown in the health report, in characters.
const SHOWN_MAX: usize = 200;

/// Whoever is told.
enum Sink {
    File(PathBuf),
    Url {
        url: String,
        token_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
    },
}

impl Sink {
    fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Url { .. } => "url",
        }
    }

    /// Blocks on the disk or the network.
    fn tell(&self, events: &[String]) -> anyhow::Result<()> {
        match self {
            Self::File(path) => {
                append(path, events).with_context(|| format!("cannot write {}", path.display()))
            }
            Self::Url {
                url,
                token_file,
                ca_file,
            } => post(url, token_file.as_deref(), ca_file.as_deref(), events),
        }
    }
}

/// One for each that is told.
struct Courier {
    mesh: Mesh,
    source: String,
    kinds: Vec<String>,
    sink: Arc<Sink>,
    /// Where it is kept how far was told.
    place: PathBuf,
    told: Option<Position>,
    /// A telling that took too long, and may still go on.
    hung: Option<JoinHandle<anyhow::Result<()>>>,
}

/// How far was told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    /// The last record; `null` when the log was empty.
    through: Option<Position>,
}

/// Tells for as long as the answer is held. Nobody is told of what happened before they were named for the first time.
///
/// # Errors
/// The file that says how far was told cannot be read or written.
pub(crate) fn couriers(
    settings: &AlertsConfig,
    data: &Path,
    source: String,
    mesh: &Mesh,
) -> anyhow::Result<JoinSet<()>> {
    let file = settings.file.clone().map(Sink::File);
    let url = settings.url.clone().map(|url| Sink::Url {
        url,
        token_file: settings.token_file.clone(),
        ca_file: settings.ca_file.clone(),
    });
    let mut all = JoinSet::new();
    for sink in file.into_iter().chain(url) {
        let place = data.join(format!("alerts-{}", sink.name()));
        let told = if let Some(told) = read_told(&place)? {
            told.through
        } else {
            let end = mesh.log_end()?;
            write_told(&place, end)?;
            end
        };
        let courier = Courier {
            mesh: mesh.clone(),
            source: source.clone(),
            kinds: settings.kinds.clone(),
            sink: Arc::new(sink),
            place,
            told,
            hung: None,
        };
        all.spawn(courier.run());
    }
    Ok(all)
}

impl Courier {
    async fn run(mut self) {
        let mut pause = LOOK_EVERY;
        let mut failing = None;
        loop {
            match self.round().await {
                Ok(Round::Told { more }) => {
                    if failing.take().is_some() {
                        tracing::info!(whom = self.sink.name(), "alerts are told again");
                        self.mesh.alerts_untold(self.sink.name(), None);
                    }
                    pause = LOOK_EVERY;
                    if more {
                        continue;
                    }
                }
                Ok(Round::Unknown) => {}
                Err(error) => {
                    let why = format!("{error:#}");
                    if failing.as_ref() != Some(&why) {
                        tracing::error!(whom = self.sink.name(), why, "alerts are not told");
                        self.mesh.alerts_untold(self.sink.name(), Some(why.clone()));
                    }
                    failing = Some(why);
                }
            }
            tokio::time::sleep(pause).await;
            if failing.is_some() {
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Tells of what is new.
    async fn round(&mut self) -> anyhow::Result<Round> {
        let kinds = self.kinds.clone();
        let found = match self.mesh.alerts(kinds, self.told, BATCH_MAX).await {
            Ok(found) => found,
            // The health report says so itself.
            Err(problem) if problem.kind == ProblemKind::Unavailable => return Ok(Round::Unknown),
            Err(problem) => return Err(problem).context("the log cannot be read"),
        };
        if found.items.is_empty() {
            self.told = found.through;
            return Ok(Round::Told { more: false });
        }
        for batch in batches(&self.source, found.items) {
            let Some(last) = batch.last() else { continue };
            let last = last.entry.position;
            self.tell(batch).await?;
            self.note(Some(last)).await?;
        }
        // Only after something was told: else the file would be written whenever the log grows.
        self.note(found.through).await?;
        Ok(Round::Told { more: true })
    }

    /// Tells of a batch; of one that is too much for whoever is told, in parts, and in the end without what is large.
    async fn tell(&mut self, batch: Vec<Alert>) -> anyhow::Result<()> {
        let mut open = vec![batch];
        while let Some(mut batch) = open.pop() {
            let lines = batch.iter().map(|alert| alert.text.clone()).collect();
            let Err(error) = self.say(lines).await else {
                continue;
            };
            let too_much = error.downcast_ref().is_some_and(Refused::is_of_the_content);
            match batch.as_mut_slice() {
                [alert] if too_much && !alert.cut => {
                    alert.cut(&self.source);
                    open.push(batch);
                }
                [_, _, ..] if too_much => {
                    let later = batch.split_off(batch.len() / 2);
                    open.extend([later, batch]);
                }
                _ => return Err(error),
            }
        }
        Ok(())
    }

    async fn say(&mut self, lines: Vec<String>) -> anyhow::Result<()> {
        if self.hung.as_ref().is_some_and(|hung| !hung.is_finished()) {
            bail!("it still does not answer");
        }
        let sink = Arc::clone(&self.sink);
        let mut saying = tokio::task::spawn_blocking(move || sink.tell(&lines));
        let Ok(said) = tokio::time::timeout(TELL_MAX, &mut saying).await else {
            self.hung = Some(saying);
            bail!("it does not answer within {TELL_MAX:?}");
        };
        said?
    }

    async fn note(&mut self, through: Option<Position>) -> anyhow::Result<()> {
        // Where it cannot be kept, it is told again only after a restart.
        self.told = through;
        let place = self.place.clone();
        tokio::task::spawn_blocking(move || write_told(&place, through)).await?
    }
}

/// What came of a look.
enum Round {
    /// There is nothing that was not told; whether there may be more.
    Told { more: bool },
    /// What there is to tell cannot be known now.
    Unknown,
}

/// One record, and how it is told.
struct Alert {
    entry: AuditEntry,
    text: String,
    /// Its payload was left out.
    cut: bool,
}

impl Alert {
    fn new(source: &str, entry: AuditEntry) -> Self {
        let text = cloud_event(source, &entry).to_string();
        Self {
            entry,
            text,
            cut: false,
        }
    }

    fn cut(&mut self, source: &str) {
        self.entry.payload = None;
        self.text = cloud_event(source, &self.entry).to_string();
        self.cut = true;
    }
}

/// Whoever is told does not take it.
#[derive(Debug, thiserror::Error)]
#[error("it answered {status}: {text}")]
struct Refused {
    status: u16,
    text: String,
}

impl Refused {
    /// Whether less, or something else, may be taken.
    const fn is_of_the_content(&self) -> bool {
        matches!(self.status, 400 | 413 | 422)
    }
}

/// As many as fit into one telling each.
fn batches(source: &str, entries: Vec<AuditEntry>) -> Vec<Vec<Alert>> {
    let mut all: Vec<Vec<Alert>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let alert = Alert::new(source, entry);
        let size = alert.text.len();
        match all.last_mut() {
            Some(batch) if batch.len() < BATCH_MAX && bytes + size <= BATCH_BYTES_MAX => {
                bytes += size;
                batch.push(alert);
            }
            _ => {
                bytes = size;
                all.push(vec![alert]);
            }
        }
    }
    all
}

/// A record as a `CloudEvent` (version 1.0 of the specification, structured mode).
fn cloud_event(source: &str, entry: &AuditEntry) -> Value {
    let mut event = json!({
        "specversion": "1.0",
        "id": entry.position.to_string(),
        "source": source,
        "type": format!("meshd.{}", entry.kind),
        "time": entry.time,
        "datacontenttype": "application/json",
        "data": entry,
    });
    let agent = entry.agent.as_ref().map(|agent| format!("agents/{agent}"));
    let subject = agent.or_else(|| entry.task.as_ref().map(|task| format!("tasks/{task}")));
    if let Some(subject) = subject {
        event["subject"] = subject.into();
    }
    event
}

/// Opened anew each time, so that it can be moved away by whoever rotates it.
fn append(path: &Path, lines: &[String]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(FILE_MODE)
        .open(path)?;
    let mut text = lines.join("\n");
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

fn post(
    url: &str,
    token_file: Option<&Path>,
    ca_file: Option<&Path>,
    events: &[String],
) -> anyhow::Result<()> {
    let roots = match ca_file {
        Some(path) => RootCerts::new_with_certs(&authorities(path)?),
        None => RootCerts::WebPki,
    };
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
        .root_certs(roots)
        .build();
    let content = "application/cloudevents-batch+json";
    let request = outgoing::request(url, content, token_file, tls)?;
    let mut answer = request.send(format!("[{}]", events.join(",")))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text = answer.body_mut().with_config().limit(64 * 1024);
    let text = text.read_to_string().unwrap_or_default();
    let text: String = text.chars().take(SHOWN_MAX).collect();
    bail!(Refused {
        status: status.as_u16(),
        text
    });
}

fn authorities(path: &Path) -> anyhow::Result<Vec<ureq::tls::Certificate<'static>>> {
    let pem = outgoing::read(path, CA_BYTES_MAX)?;
    let mut found = Vec::new();
    for item in parse_pem(pem.as_bytes()) {
        let item = item.with_context(|| format!("{} is no PEM", path.display()))?;
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(found)
}

fn read_told(place: &Path) -> anyhow::Result<Option<Told>> {
    let text = match fs::read(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", place.display()))?,
    };
    let told = serde_json::from_slice(&text).with_context(|| {
        let place = place.display();
        format!("{place} does not say how far alerts were told; remove it to begin with what happens from now on")
    })?;
    Ok(Some(told))
}

fn write_told(place: &Path, through: Option<Position>) -> anyhow::Result<()> {
    let text = serde_json::to_vec(&Told { through })?;
    durable::replace(place, &text).with_context(|| format!("cannot write {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_what_fits_and_a_large_alert_goes_by_itself() {
        let entry = |at: u64, size: usize| -> AuditEntry {
            serde_json::from_value(json!({
                "position": at, "time": "2026-01-01T00:00:00Z", "kind": "k", "actor": "meshd", "cause": null,
                "commitment": "c", "payload": "x".repeat(size),
            }))
            .unwrap()
        };
        let sizes = |entries: Vec<AuditEntry>| -> Vec<Vec<u64>> {
            let of = |batch: Vec<Alert>| batch.iter().map(|a| a.entry.position.0).collect();
            batches("s", entries).into_iter().map(of).collect()
        };
        assert_eq!(sizes(Vec::new()), Vec::<Vec<u64>>::new());
        let nearly_half = BATCH_BYTES_MAX / 2 - 1000;
        let found = sizes(vec![
            entry(1, nearly_half),
            entry(2, nearly_half),
            entry(3, 2000),
        ]);
        assert_eq!(found, [vec![1, 2], vec![3]]);
        let found = sizes(vec![entry(1, 1), entry(2, BATCH_BYTES_MAX), entry(3, 1)]);
        assert_eq!(found, [vec![1], vec![2], vec![3]]);
        let many: Vec<_> = (0..=BATCH_MAX as u64).map(|at| entry(at, 1)).collect();
        let counts: Vec<usize> = sizes(many).iter().map(Vec::len).collect();
        assert_eq!(counts, [BATCH_MAX, 1]);
    }

    #[test]
    fn what_was_cut_is_told_without_its_payload() {
        let entry = json!({
            "position": 7, "time": "2026-01-01T00:00:00Z", "kind": "k", "actor": "meshd", "cause": null,
            "commitment": "c", "payload": "much",
        });
        let mut alert = Alert::new("s", serde_json::from_value(entry).unwrap());
        assert!(alert.text.contains("much"));
        alert.cut("s");
        assert!(!alert.text.contains("much") && alert.text.contains("\"id\":\"7\""));
    }
}
