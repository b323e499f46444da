//! New certificates, keys and revocation lists, without a restart.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use super::{Tls, TlsError, TlsFiles, read_all};

/// What tells a file from the one that had its name before: when it was changed (seconds and nanoseconds), its size and
/// its number; nothing where there is none.
type Stamp = Option<(i64, i64, u64, u64)>;

/// What is spoken with now, and what it came from.
#[derive(Debug)]
pub(super) struct Loaded {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Vec<Stamp>>,
    /// How often other files were taken.
    taken: watch::Sender<u64>,
}

impl Loaded {
    pub(super) fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is another one.
        let seen = stamps(files);
        let config = read_all(files)?;
        Ok(Self {
            files: files.clone(),
            config: RwLock::new(config),
            seen: Mutex::new(seen),
            taken: watch::Sender::new(0),
        })
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&config)
    }
}

impl Tls {
    /// Whether a file is another one than when it was read last, or looked at last by this.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let now = stamps(&self.0.files);
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, now.clone()) != now
    }

    /// Reads the files again: connections that are made from now on go by them. Those that were made by a certificate end
    /// soon, each after the request that it is at, so that a certificate that counts no more opens nothing.
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = read_all(&self.0.files)?;
        let held = &self.0.config;
        *held.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.0.taken.send_modify(|taken| *taken += 1);
        Ok(())
    }

    /// Changes when other files were taken.
    pub(crate) fn taken(&self) -> watch::Receiver<u64> {
        self.0.taken.subscribe()
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    let more = [&files.client_ca, &files.client_crl];
    let more = more.into_iter().flatten();
    let all = [&files.cert, &files.key].into_iter().chain(more);
    all.map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    let of = fs::metadata(path).ok()?;
    Some((of.mtime(), of.mtime_nsec(), of.size(), of.ino()))
}
