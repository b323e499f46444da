//! Another key signs for the log: the file that says so, and how it changes.
//!
//! Replacing that file is the moment at which the new key is in force. Before it the old one is, whatever else was written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_messages::identity::SigningKey;

use super::open::corrupt;
use super::{FileJournal, OpenError, io_at};
use crate::checkpoint::CheckpointClaim;
use crate::fsio;
use crate::journal::{Failed, SucceedError};
use crate::succession::{LogKeys, LogSigner};

/// The successions, below a journal's directory.
pub(crate) const FILE: &str = "successions";

/// Reads who signs for the log in `dir`; `None` while its first key does.
///
/// # Errors
/// [`OpenError`] when the file is damaged or cannot be read.
pub(crate) fn read(dir: &Path) -> Result<Option<LogKeys>, OpenError> {
    let path = dir.join(FILE);
    let Some(bytes) = fsio::read_if_exists(&path).map_err(io_at(&path))? else {
        return Ok(None);
    };
    let damaged = |detail: String| corrupt(&path, 0, detail);
    let text = String::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
    let keys = LogKeys::read_any(&text).map_err(|e| damaged(e.to_string()))?;
    // Whoever replaced it may have been killed before its name was durable, and from now on somebody relies on it.
    fsio::sync_dir(dir).map_err(io_at(dir))?;
    keys.map(Some)
        .ok_or_else(|| damaged("there is nothing in it".to_owned()))
}

/// Who signs for the log in `dir`, with the secret that is there for it.
pub(super) fn signer(dir: &Path, secret: SigningKey) -> Result<LogSigner, OpenError> {
    let Some(keys) = read(dir)? else {
        return Ok(LogSigner::new(secret));
    };
    let (expected, found) = (keys.current().to_string(), secret.public().to_string());
    LogSigner::with_keys(keys, secret).ok_or(OpenError::OtherKey { expected, found })
}

impl FileJournal {
    /// The key in force signs its last checkpoint, and the new one takes over there.
    pub(super) fn hand_over(
        &self,
        new: SigningKey,
        compromised: bool,
    ) -> Result<Arc<LogSigner>, SucceedError> {
        let mut signing = self.signing();
        let last = self.sign_checkpoint(&mut signing)?;
        let tree = CheckpointClaim {
            size: last.size,
            root: last.root,
        };
        let next = signing.signer.succeeded(tree, new, compromised)?;
        let before = signing.signer.keys().to_text();
        let path = self.dir.join(FILE);
        if let Err(source) = fsio::replace(&path, next.keys().to_text().as_bytes()) {
            // Unless it is what it was for certain, nobody may sign before it was read again.
            let now = fsio::read_if_exists(&path).map(Option::unwrap_or_default);
            if !now.is_ok_and(|now| now == before.as_bytes()) {
                self.fail("the file of the log's keys may or may not have changed");
            }
            let file = path_text(path);
            return Err(SucceedError::Io { file, source });
        }
        signing.signer = Arc::new(next);
        Ok(Arc::clone(&signing.signer))
    }

    /// The journal has failed: it has to be opened again.
    fn fail(&self, reason: &str) {
        let failed = Failed {
            reason: reason.into(),
        };
        self.shared.lock().failed = Some(failed.clone());
        self.shared
            .durable
            .send_modify(|durable| durable.failed = Some(failed));
    }
}

fn path_text(path: PathBuf) -> String {
    path.display().to_string()
}
