//! New certificates, keys and revocation lists, without a restart.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use super::{Tls, TlsError, TlsFiles, read, read_all};

/// What tells a file from the one that had its name before: when its content and when its rights were changed (seconds
/// and nanoseconds each), its size and its number; nothing where there is none.
type Stamp = Option<[i128; 6]>;

/// What is spoken with now, and what it came from.
#[derive(Debug)]
pub(super) struct Loaded {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
    numbers: RandomState,
    /// How often other files were taken.
    taken: watch::Sender<u64>,
}

/// What is known of the files.
#[derive(Debug)]
struct Seen {
    stamps: Vec<Stamp>,
    /// What was read in them when they were taken last; nothing where that could not be read.
    held: Held,
    /// Whether what was seen last is yet to be taken.
    untaken: bool,
}

/// A number for what each file holds, other in each process, so that nothing of a key is told by it.
type Held = Vec<Option<u64>>;

impl Loaded {
    pub(super) fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is another one.
        let numbers = RandomState::new();
        let seen = Seen {
            stamps: stamps(files),
            held: held(files, &numbers),
            untaken: false,
        };
        let config = read_all(files)?;
        Ok(Self {
            files: files.clone(),
            config: RwLock::new(config),
            seen: Mutex::new(seen),
            numbers,
            taken: watch::Sender::new(0),
        })
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&config)
    }
}

impl Tls {
    /// Whether a file is another one than when it was looked at last by this, or what was seen then is yet to be taken.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let now = stamps(&self.0.files);
        let mut seen = self.seen();
        seen.untaken |= seen.stamps != now;
        seen.stamps = now;
        seen.untaken
    }

    /// Reads the files again: connections that are made from now on go by them. Those that were made by a certificate end
    /// soon, each after the request that it is at, so that a certificate that counts no more opens nothing. Where the files
    /// hold what they held before, nothing changes; whether they hold something else.
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays in force, and the files count as changed until they are taken.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.seen().untaken = true;
        // Before they are read: what changes meanwhile is seen as another one the next time.
        let now = held(&self.0.files, &self.0.numbers);
        let config = read_all(&self.0.files)?;
        let mut seen = self.seen();
        seen.untaken = false;
        if seen.held == now && now.iter().all(Option::is_some) {
            return Ok(false);
        }
        seen.held = now;
        drop(seen);
        let spoken = &self.0.config;
        *spoken.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.0.taken.send_modify(|taken| *taken += 1);
        Ok(true)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connections that were made with a certificate, each after the request that it is at, as when other files were
    /// taken: whom certificates stand for has changed.
    pub fn show_again(&self) {
        self.0.taken.send_modify(|taken| *taken += 1);
    }

    /// Changes when other files were taken, or certificates have to be shown again.
    pub(crate) fn taken(&self) -> watch::Receiver<u64> {
        self.0.taken.subscribe()
    }
}

fn all(files: &TlsFiles) -> impl Iterator<Item = &PathBuf> {
    let more = [&files.client_ca, &files.client_crl];
    let more = more.into_iter().flatten();
    [&files.cert, &files.key].into_iter().chain(more)
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    all(files).map(|path| stamp(path)).collect()
}

fn held(files: &TlsFiles, numbers: &RandomState) -> Held {
    let number = |path: &PathBuf| Some(numbers.hash_one(&read("", path).ok()?.0));
    all(files).map(number).collect()
}

fn stamp(path: &Path) -> Stamp {
    let of = fs::metadata(path).ok()?;
    let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()].map(i128::from);
    let [changed, changed_ns, rights, rights_ns] = times;
    let (size, number) = (i128::from(of.size()), i128::from(of.ino()));
    Some([changed, changed_ns, rights, rights_ns, size, number])
}
