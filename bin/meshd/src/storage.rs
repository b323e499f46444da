//! The data directory at rest: encrypted by the kernel (fscrypt) where the operator demands it, open while meshd runs.
//!
//! What has to be read before the directory can be is the configuration, the key's source, and the salt of the key. The salt
//! is an extended attribute of the directory itself, which the kernel shows without the key, so that it goes where the
//! directory goes. The lock is the directory's own, too: it says that nobody else gives or takes the key meanwhile.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use mesh_actors::context::KeySource;
use mesh_config::{Config, StorageEncryption};
use mesh_messages::system::AtRest;
use mesh_sandbox::fscrypt::{self, FscryptError, KeyIdentifier, KeyStatus, Policy};
use mesh_vault::{SALT_BYTES, StorageKey};
use rustix::fs::{FlockOperation, XattrFlags, fgetxattr, flock, fsetxattr};

use crate::exit::{Exit, Failure};
use crate::settings;

mod verbs;

pub(crate) use verbs::run;

/// The attribute with the salt, in hexadecimal after the version of its form.
const SALT_ATTRIBUTE: &str = "user.meshd.storage";
const SALT_FORM: &str = "1:";

/// The kernel takes the mounts of ended sandboxes apart in its own time, and they hold files of homes until then. It is asked
/// again for so long at most, and so often.
const RELEASED_MAX: Duration = Duration::from_secs(2);
const RELEASED_STEP: Duration = Duration::from_millis(20);

/// The data directory, locked; while it is held, its key is the kernel's, if it has one. Dropped, the key is taken away.
#[derive(Debug)]
pub(crate) struct Storage {
    data: PathBuf,
    // Open only while meshd runs: who has the directory open keeps the names in it readable.
    dir: Option<File>,
    key: Option<KeyIdentifier>,
    at_rest: AtRest,
}

impl Storage {
    /// Makes the data directory usable as the configuration demands; before anything else is read from it or written.
    ///
    /// # Errors
    /// A [`Failure`] that names the setting and the cure. Nothing is changed then.
    pub(crate) fn open(config: &Config, data: &Path) -> Result<Self, Failure> {
        let mut storage = Self::locked(data)?;
        let found = policy_of(storage.dir()?, data)?;
        match config.storage.encryption {
            StorageEncryption::Off => storage.as_found(found)?,
            StorageEncryption::Required => storage.unlock(&source(config, data)?, found)?,
        }
        Ok(storage)
    }

    /// What holds, for the status and the record of the start.
    pub(crate) fn at_rest(&self) -> &AtRest {
        &self.at_rest
    }

    fn locked(data: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::io(format!("data: cannot use {}", data.display()), error);
        let dir = File::open(data).map_err(failed)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let error = anyhow!("data: {} is in use by another meshd", data.display());
                return Err(Failure::new(Exit::InUse, error));
            }
            // A file system without locks has no keys either; the log has a lock of its own.
            Err(error) => tracing::debug!(%error, "the data directory cannot be locked"),
        }
        Ok(Self {
            data: data.to_owned(),
            dir: Some(dir),
            key: None,
            at_rest: AtRest::none(),
        })
    }

    fn dir(&self) -> Result<&File, Failure> {
        self.dir
            .as_ref()
            .ok_or_else(|| Failure::new(Exit::Escalated, anyhow!("the data directory is closed")))
    }

    /// Nothing is demanded: what somebody else encrypted and opened is used as it is.
    fn as_found(&mut self, found: Policy) -> Result<(), Failure> {
        match found {
            Policy::Encrypted(key) => {
                let status = fscrypt::key_status(self.dir()?.as_fd(), key);
                let status = status.map_err(|error| refused("storage.encryption", error))?;
                if status != KeyStatus::Present {
                    return Err(told(format!(
                        "storage.encryption: {} is encrypted and the kernel does not have its key; \
                         set it to required and name the key's source under storage",
                        self.data.display()
                    )));
                }
                self.at_rest =
                    AtRest::kernel("fscrypt, under a key that meshd was not told to hold");
            }
            Policy::Other => {
                self.at_rest = AtRest::kernel("fscrypt, as somebody else has set it up");
            }
            _ => {}
        }
        Ok(())
    }

    fn unlock(&mut self, source: &KeySource, found: Policy) -> Result<(), Failure> {
        let key = match found {
            Policy::Encrypted(policy) => self.known_key(source, policy)?,
            Policy::Plain => return self.encrypt_new(source),
            _ => {
                return Err(told(format!(
                    "storage.encryption: {} is encrypted in a way that is not meshd's; set it to off, or name another directory",
                    self.data.display()
                )));
            }
        };
        self.give(&key)
    }

    /// The key of a directory that is encrypted, which must be the one it was encrypted with.
    fn known_key(&self, source: &KeySource, policy: KeyIdentifier) -> Result<StorageKey, Failure> {
        let salt = read_salt(self.dir()?).ok_or_else(|| {
            told(format!(
                "storage.encryption: {} is encrypted, and its attribute {SALT_ATTRIBUTE}, without which the key cannot be \
                 derived, is missing or changed; restore it from a copy, or restore a backup. If somebody else encrypted the \
                 directory, set this to off",
                self.data.display()
            ))
        })?;
        let key = StorageKey::existing(source, salt).map_err(|error| {
            let what = format!("storage: {} cannot be opened", self.data.display());
            Failure::new(Exit::Config, anyhow::Error::new(error).context(what))
        })?;
        if key.identifier() != policy.0 {
            return Err(told(format!(
                "storage: the key from {source} is not the one that {} was encrypted with; put that one back",
                self.data.display()
            )));
        }
        Ok(key)
    }

    /// The first start: an empty directory, which gets its policy before anything is written.
    fn encrypt_new(&mut self, source: &KeySource) -> Result<(), Failure> {
        let filled = fs::read_dir(&self.data)
            .map_err(|error| Failure::io(format!("data: {}", self.data.display()), error))?
            .next()
            .is_some();
        if filled {
            return Err(told(if is_mount(&self.data) {
                root_of_file_system(&self.data)
            } else {
                format!(
                    "storage.encryption: {} holds plain data; move it in with `meshd storage encrypt`, or set this to off",
                    self.data.display()
                )
            }));
        }
        let key = StorageKey::make(source).map_err(|error| {
            let what = format!("storage: {} cannot be encrypted", self.data.display());
            Failure::new(Exit::Config, anyhow::Error::new(error).context(what))
        })?;
        let dir = self.dir()?;
        let salt = format!("{SALT_FORM}{}", hex::encode(key.salt()));
        fsetxattr(dir, SALT_ATTRIBUTE, salt.as_bytes(), XattrFlags::empty())
            .map_err(|error| Failure::io("storage: the key's salt cannot be kept", error.into()))?;
        self.give(&key)?;
        let dir = self.dir()?;
        let encrypted = fscrypt::encrypt(dir.as_fd(), KeyIdentifier(key.identifier()));
        encrypted.map_err(|error| match error {
            FscryptError::Refused if is_mount(&self.data) => told(root_of_file_system(&self.data)),
            error => refused("storage.encryption", error),
        })?;
        // Both are durable before there is anything that would be lost without them.
        dir.sync_all()
            .and_then(|()| sync_parent(&self.data))
            .map_err(|error| Failure::io(format!("data: {}", self.data.display()), error))
    }

    fn give(&mut self, key: &StorageKey) -> Result<(), Failure> {
        let given = fscrypt::add_key(self.dir()?.as_fd(), key.master());
        let given = given.map_err(|error| refused("storage.encryption", error))?;
        self.key = Some(given);
        self.at_rest = AtRest::kernel(fscrypt::MECHANISM);
        Ok(())
    }

    /// Takes the key away, and closes the directory. What is said is what is left.
    fn lock(&mut self) -> Result<(), FscryptError> {
        let (Some(dir), Some(key)) = (self.dir.take(), self.key.take()) else {
            return Ok(());
        };
        let mut left = fscrypt::remove_key(dir.as_fd(), key)?;
        // The directory was open until now, so its own names are still readable. Asked of its parent, where that is on the
        // same file system, the kernel forgets them, too. Whoever starts in between has given the key anew, and keeps it.
        drop(dir);
        if let Some(parent) = beside(&self.data) {
            let begun = Instant::now();
            while fscrypt::key_status(parent.as_fd(), key)? == KeyStatus::RemovedInPart {
                left = fscrypt::remove_key(parent.as_fd(), key)?;
                if !left.files_busy || begun.elapsed() > RELEASED_MAX {
                    break;
                }
                std::thread::sleep(RELEASED_STEP);
            }
        }
        if left.files_busy {
            tracing::warn!(data = %self.data.display(), "somebody still has files of the data directory open, and can read those");
        }
        if left.other_users {
            tracing::warn!(data = %self.data.display(), "another user gave the kernel the data directory's key, too; it keeps it");
        }
        Ok(())
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Err(error) = self.lock() {
            tracing::error!(%error, "the data directory's key is still the kernel's");
        }
    }
}

/// How the directory is encrypted; a file system that does not encrypt has plain directories, as long as nobody asks.
fn policy_of(dir: &File, data: &Path) -> Result<Policy, Failure> {
    match fscrypt::policy(dir.as_fd()) {
        Ok(policy) => Ok(policy),
        Err(FscryptError::Unsupported) => Ok(Policy::Plain),
        Err(error) => Err(refused(&format!("data: {}", data.display()), error)),
    }
}

/// Where the key comes from. It cannot lie in what it opens.
fn source(config: &Config, data: &Path) -> Result<KeySource, Failure> {
    let source = settings::storage_key(config)
        .ok_or_else(|| told("storage.encryption: no key is named".to_owned()))?;
    if let KeySource::File(path) | KeySource::Passphrase(path) = &source {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let real = absolute.parent().map(fs::canonicalize);
        let path = match (real, absolute.file_name()) {
            (Some(Ok(dir)), Some(name)) => dir.join(name),
            _ => absolute,
        };
        if path.starts_with(data) {
            return Err(told(format!(
                "storage: the key {} lies in the directory that it opens; keep it elsewhere",
                path.display()
            )));
        }
    }
    Ok(source)
}

fn read_salt(dir: &File) -> Option<[u8; SALT_BYTES]> {
    let mut text = [0_u8; SALT_FORM.len() + SALT_BYTES * 2];
    let length = fgetxattr(dir, SALT_ATTRIBUTE, &mut text).ok()?;
    let digits = text.get(..length)?.strip_prefix(SALT_FORM.as_bytes())?;
    let mut salt = [0; SALT_BYTES];
    hex::decode_to_slice(digits, &mut salt).ok()?;
    Some(salt)
}

/// The directory beside which the data directory lies, where it is of the same file system.
fn beside(data: &Path) -> Option<File> {
    let parent = File::open(data.parent()?).ok()?;
    let same = parent.metadata().ok()?.dev() == fs::metadata(data).ok()?.dev();
    same.then_some(parent)
}

fn is_mount(data: &Path) -> bool {
    beside(data).is_none()
}

fn sync_parent(data: &Path) -> io::Result<()> {
    data.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn root_of_file_system(data: &Path) -> String {
    format!(
        "storage.encryption: {} is the root of its file system, which the kernel does not encrypt; name a directory in it",
        data.display()
    )
}

fn told(text: String) -> Failure {
    Failure::new(Exit::Config, anyhow!(text))
}

fn refused(what: &str, error: FscryptError) -> Failure {
    let cure = match error {
        FscryptError::Unsupported => {
            "; use ext4 with the feature `encrypt` (`tune2fs -O encrypt DEVICE`, and mount it again) or f2fs, or set it to off"
        }
        FscryptError::NotEmpty => "; move its data in with `meshd storage encrypt`",
        FscryptError::Refused => "; meshd's user has to own it",
        _ => "",
    };
    let exit = match &error {
        FscryptError::Io(error) => Exit::of_io(error),
        _ => Exit::Config,
    };
    let what = format!("{what}: the data directory cannot be encrypted{cure}");
    Failure::new(exit, anyhow::Error::new(error).context(what))
}

/// What `meshd doctor` says: whether it is encrypted, else whether it could be.
pub(crate) fn examine(config: &Config) -> Result<AtRest, (String, String)> {
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    // The first directory on the way that exists is where a missing one would be made.
    let there = data.ancestors().find(|dir| dir.is_dir());
    let found = there
        .and_then(|dir| File::open(dir).ok())
        .map(|dir| fscrypt::policy(dir.as_fd()));
    let demanded = config.storage.encryption == StorageEncryption::Required;
    match found {
        Some(Ok(Policy::Encrypted(_) | Policy::Other)) => Ok(AtRest::kernel("fscrypt")),
        Some(Ok(_)) if demanded && !data.is_dir() => Ok(AtRest::kernel("fscrypt, from the first start on")),
        Some(Ok(_)) if demanded => Err((
            "demanded, and the directory is not encrypted".to_owned(),
            "if it holds data, move that in: stop meshd, `meshd storage encrypt`".to_owned(),
        )),
        Some(Ok(_)) => Err((
            "none: as readable as the disk below".to_owned(),
            "storage.encryption: required, and a key; this file system can".to_owned(),
        )),
        Some(Err(_)) | None => Err((
            "none: as readable as the disk below, and this file system does not encrypt".to_owned(),
            "a file system that does: ext4 with `tune2fs -O encrypt DEVICE`, or f2fs; or encrypt the disk (LUKS)".to_owned(),
        )),
    }
}
