//! The first admin's token: whoever may read meshd's data directory may run it.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use mesh_messages::problem::Problem;
use mesh_messages::system::Role;

use super::SentinelHandle;
use crate::clock;

/// Its name in the data directory.
pub const TOKEN_FILE: &str = "token";

/// A token has 64 bytes; a file of more holds something else.
const FILE_BYTES_MAX: u64 = 256;

/// Only its owner may read it.
const FILE_MODE: u32 = 0o600;

/// Why there is no admin token.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// The file, or its directory, cannot be read or written.
    #[error("failed to access the admin's token at {path}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token was not issued.
    #[error("failed to issue the admin's token")]
    Issue(#[source] Problem),
    /// The work was given up: meshd is ending.
    #[error("the admin's token was not written because meshd is ending")]
    Ending,
}

impl SentinelHandle {
    /// Makes sure that `<data>/token` holds a valid admin token: keeps the one that is there, else issues one.
    ///
    /// A file with a token that is not valid any more, or not an admin's, is replaced. The secret is on the disk only
    /// after its digest is in the journal.
    ///
    /// # Errors
    /// [`AdminTokenError`].
    pub async fn ensure_admin_token(&self, data: &Path) -> Result<(), AdminTokenError> {
        let path = data.join(TOKEN_FILE);
        let door = std::sync::Arc::clone(&self.door);
        let there = path.clone();
        let kept = blocking(move || {
            let Some(text) = read(&there)? else {
                return Ok(false);
            };
            let caller = door.identify(text.trim_end(), true, clock::now());
            let valid = caller.is_ok_and(|caller| caller.role == Role::Admin);
            if valid {
                protect(&there)?;
            } else {
                tracing::warn!(path = %there.display(), "this is no valid admin token; it is replaced");
            }
            Ok(valid)
        });
        if in_file(&path, kept.await)? {
            return Ok(());
        }
        let issued = self
            .issue("meshd", Role::Admin, Some("admin".to_owned()), None)
            .await;
        let text = Zeroizing::new(issued.map_err(AdminTokenError::Issue)?.token);
        let target = path.clone();
        in_file(&path, blocking(move || write(&target, &text)).await)
    }
}

type Blocking<T> = Result<Result<T, std::io::Error>, tokio::task::JoinError>;

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, std::io::Error> + Send + 'static,
) -> Blocking<T> {
    tokio::task::spawn_blocking(work).await
}

fn in_file<T>(path: &Path, done: Blocking<T>) -> Result<T, AdminTokenError> {
    let done = done.map_err(|_| AdminTokenError::Ending)?;
    done.map_err(|source| AdminTokenError::File {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Option<Zeroizing<String>>, std::io::Error> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    // What is not even text is no token, and treated as such.
    Ok(Some(Zeroizing::new(
        String::from_utf8_lossy(&bytes).into_owned(),
    )))
}

/// A copy or an editor may have opened it to others.
fn protect(path: &Path) -> Result<(), std::io::Error> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others could read the admin's token; now they cannot");
        std::fs::set_permissions(path, PermissionsExt::from_mode(FILE_MODE))?;
    }
    Ok(())
}

/// Writes it aside and renames it, so that nobody ever reads half a token, and it is still there after a power cut.
fn write(path: &Path, text: &str) -> Result<(), std::io::Error> {
    let aside = path.with_extension("new");
    // What a crash left behind. Nothing else has this name: the data directory is meshd's alone.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}
