//! Gives checkpoints to whoever shall keep them: a file, and a witness that co-signs them.
//!
//! Nothing waits for it. A witness that cannot be reached is told of in the log, and gets the next checkpoint, whose proof
//! begins where it stands.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use mesh_actors::kept::COSIGNED_FILE;
use mesh_actors::operations::Operations;
use mesh_config::WitnessConfig;
use mesh_persistence::AddCheckpoint;
use tokio::sync::Mutex;
use ureq::tls::TlsConfig;

use crate::{durable, outgoing};

/// Largest answer of a witness: a few lines.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Largest file of checkpoints. Beyond it, every other one of the older half goes: what is left still narrows down where a
/// log was rewritten, and `meshctl audit verify` reads files of this size.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Only its owner may read it.
const FILE_MODE: u32 = 0o600;

/// See the module.
pub(crate) struct Notary {
    settings: WitnessConfig,
    operations: Arc<dyn Operations>,
    cosigned: PathBuf,
    /// How many records the last checkpoint covered that went into the file, and that the witness has.
    filed: u64,
    witnessed: u64,
    /// How many notes of the log's keys went into the file, and the witness has.
    keys_filed: usize,
    keys_witnessed: usize,
}

impl std::fmt::Debug for Notary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notary")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Notary {
    /// `None` when nobody shall keep checkpoints.
    pub(crate) fn new(
        settings: WitnessConfig,
        data: &Path,
        operations: Arc<dyn Operations>,
    ) -> Option<Arc<Mutex<Self>>> {
        (settings.file.is_some() || settings.url.is_some()).then(|| {
            Arc::new(Mutex::new(Self {
                settings,
                operations,
                cosigned: data.join(COSIGNED_FILE),
                filed: 0,
                witnessed: 0,
                keys_filed: 0,
                keys_witnessed: 0,
            }))
        })
    }

    /// Publishes now and whenever the interval has passed.
    pub(crate) async fn publish_regularly(notary: Arc<Mutex<Self>>) {
        let interval = notary.lock().await.settings.interval.duration();
        loop {
            notary.lock().await.publish().await;
            tokio::time::sleep(interval).await;
        }
    }

    /// Publishes a checkpoint if the log has grown. What fails is logged, and tried again with the next one.
    pub(crate) async fn publish(&mut self) {
        let mut note = match self.operations.checkpoint().await {
            Ok(note) => note,
            Err(problem) => {
                tracing::warn!(%problem, "no checkpoint for the witness");
                return;
            }
        };
        let Some(size) = size_of(&note) else { return };
        // Before what a later key signed.
        let successions = split(&self.operations.successions());
        if let Some(path) = self.settings.file.clone() {
            self.keys_filed += file_successions(path, successions.clone(), self.keys_filed).await;
        }
        if let Some(url) = self.settings.url.clone()
            && size > self.witnessed
        {
            match self.cosign_all(&url, &note, &successions).await {
                Ok(lines) => {
                    note.push_str(&lines);
                    self.witnessed = size;
                    let (path, text) = (self.cosigned.clone(), note.clone());
                    logged("keep the co-signed checkpoint", move || {
                        durable::replace(&path, text.as_bytes())
                    })
                    .await;
                }
                Err(error) => {
                    tracing::warn!(
                        url,
                        error = format!("{error:#}"),
                        "the witness did not co-sign"
                    );
                }
            }
        }
        if let Some(path) = self.settings.file.clone()
            && size > self.filed
            && logged("file a checkpoint for the witness", move || {
                file(&path, &note)
            })
            .await
        {
            self.filed = size;
        }
    }

    /// Has the witness take in which keys sign for the log, and co-sign the checkpoint; its lines on that.
    async fn cosign_all(
        &mut self,
        url: &str,
        note: &str,
        successions: &[String],
    ) -> anyhow::Result<String> {
        for succession in successions.iter().skip(self.keys_witnessed) {
            let size = succession_size(succession).context("a succession without a size")?;
            self.cosign((url, "add-succession"), succession, size)
                .await?;
            self.keys_witnessed += 1;
            self.witnessed = self.witnessed.max(size);
        }
        let size = size_of(note).context("a checkpoint without a size")?;
        self.cosign((url, "add-checkpoint"), note, size).await
    }

    /// Has the witness co-sign; its lines.
    async fn cosign(
        &self,
        (url, verb): (&str, &str),
        note: &str,
        size: u64,
    ) -> anyhow::Result<String> {
        // What it knows already, it co-signs from wherever.
        let mut old = self.witnessed.min(size);
        // The witness knows best where it stands; it says so once.
        for _ in 0..2 {
            if old > size {
                bail!(
                    "it has co-signed {old} records, this log has {size}: the log was cut, or is not the one it knows"
                );
            }
            let proof = if old == 0 || old == size {
                Vec::new()
            } else {
                let proof = self.operations.consistency_proof(old, Some(size)).await;
                let proof = proof.map_err(|problem| anyhow!("no proof from {old}: {problem}"))?;
                serde_json::from_value(proof["path"].clone())?
            };
            let body = AddCheckpoint::to_body(old, &proof, note);
            let (url, token) = (format!("{url}/{verb}"), self.settings.token_file.clone());
            let answer =
                tokio::task::spawn_blocking(move || post(&url, token.as_deref(), body)).await??;
            match answer {
                (200, text) if text.lines().all(|line| line.starts_with("\u{2014} ")) => {
                    return Ok(text);
                }
                (200, _) => bail!("its answer is no co-signature"),
                (409, text) => {
                    old = text
                        .trim()
                        .parse()
                        .context("it says no size to prove from")?;
                }
                (status, text) => {
                    let text: String = text.chars().take(300).collect();
                    bail!("it answered {status}: {text}");
                }
            }
        }
        bail!("it changes its mind about where it stands")
    }
}

/// The size that a checkpoint names in its second line.
fn size_of(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}

/// The size that a succession names in its third line.
fn succession_size(note: &str) -> Option<u64> {
    note.lines().nth(2)?.split(' ').next()?.parse().ok()
}

/// Notes that follow each other, with an empty line between them.
fn split(notes: &str) -> Vec<String> {
    let pieces: Vec<&str> = notes.split_inclusive("\n\n").collect();
    // A note has an empty line within it, so two pieces are one note.
    let notes = pieces.chunks(2).map(<[&str]>::concat);
    notes.map(|note| format!("{}\n", note.trim_end())).collect()
}

/// Appends those notes that are not in the file; how many more are in it.
async fn file_successions(path: PathBuf, notes: Vec<String>, filed: usize) -> usize {
    if notes.len() <= filed {
        return 0;
    }
    let more = notes.len() - filed;
    let done = logged("file a succession for the witness", move || {
        // A run before this one may have filed some of them.
        let known = match std::fs::read_to_string(&path) {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let missing = notes.iter().filter(|note| !known.contains(note.as_str()));
        missing.into_iter().try_for_each(|note| file(&path, note))
    });
    if done.await { more } else { 0 }
}

fn post(url: &str, token: Option<&Path>, body: String) -> anyhow::Result<(u16, String)> {
    let request = outgoing::request(url, "text/plain", token, TlsConfig::default())?;
    let mut answer = request.send(body)?;
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    let text = text.read_to_string()?;
    Ok((answer.status().as_u16(), text))
}

/// Does something with a file where that holds nobody up; true when it succeeded.
async fn logged(
    what: &'static str,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> bool {
    let done = tokio::task::spawn_blocking(work).await;
    match done.map_err(io::Error::other).and_then(|done| done) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "failed to {what}");
            false
        }
    }
}

/// Appends a checkpoint; makes room first when there is none.
fn file(path: &Path, note: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(FILE_MODE)
        .open(path)?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        let mut text = String::new();
        File::open(path)?.read_to_string(&mut text)?;
        durable::replace(path, thinned(&text).as_bytes())?;
        file = OpenOptions::new().append(true).open(path)?;
    }
    // In one write, so that a crash leaves a whole checkpoint or a broken last one.
    file.write_all(format!("{note}\n").as_bytes())?;
    file.sync_all()
}

/// Every other one of the older half of the notes, and the newer half; successions stay, for nothing makes up for them.
fn thinned(text: &str) -> String {
    let notes: Vec<&str> = text.split_inclusive("\n\n").collect();
    // A note has an empty line within it, so two pieces are one note.
    let notes: Vec<String> = notes.chunks(2).map(<[&str]>::concat).collect();
    let half = notes.len() / 2;
    let kept = notes
        .iter()
        .enumerate()
        .filter(|(n, note)| *n >= half || n % 2 == 0 || succession_size(note).is_some());
    kept.map(|(_, note)| note.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_keeps_every_new_and_half_of_the_old_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let note = |n: u32| format!("log\n{n}\nroot\n\n\u{2014} log {}\n", "A".repeat(1000));
        let count = u32::try_from(FILE_BYTES_MAX / 1000).unwrap();
        for n in 0..count {
            file(&path, &note(n)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= FILE_BYTES_MAX + 2000);
        let sizes: Vec<u32> = text
            .split("log\n")
            .filter_map(|rest| rest.lines().next()?.parse().ok())
            .collect();
        assert_eq!((sizes[0], sizes[1]), (0, 2));
        assert_eq!(sizes[sizes.len() - 2..], [count - 2, count - 1]);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, FILE_MODE);
    }
}
