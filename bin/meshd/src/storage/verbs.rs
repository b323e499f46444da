//! `meshd storage`: what is done to the data directory while no daemon runs on it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::anyhow;
use mesh_actors::context::KeySource;
use mesh_config::{Config, StorageEncryption};
use mesh_sandbox::fscrypt::{self, KeyStatus, Policy};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with, syncfs};

use super::{Storage, policy_of, read_salt, source, sync_parent, told};
use crate::cli::{StorageArgs, StorageVerb};
use crate::exit::{Exit, Failure};
use crate::show;

/// What is added to the directory's name while it is copied, and afterwards to that of the plain one.
const COPY_SUFFIX: &str = ".encrypting";
const PLAIN_SUFFIX: &str = ".plain";

/// `meshd storage …`.
///
/// # Errors
/// Why not, with the exit code.
pub(crate) fn run(args: &StorageArgs) -> Result<Exit, Failure> {
    let (config, _) = show::load(&args.run)?;
    let data = fs::canonicalize(&config.data).map_err(|error| {
        Failure::io(format!("data: cannot use {}", config.data.display()), error)
    })?;
    let said = match args.verb {
        StorageVerb::Encrypt => encrypt(&config, &data)?,
        StorageVerb::Lock => lock(&data)?,
    };
    let written = writeln!(io::stdout(), "{said}");
    written.map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(Exit::Ok)
}

/// Takes away the key that a killed meshd left with the kernel.
fn lock(data: &Path) -> Result<String, Failure> {
    let mut storage = Storage::locked(data)?;
    let Policy::Encrypted(key) = policy_of(storage.dir()?, data)? else {
        return Err(told(format!("{} is not encrypted", data.display())));
    };
    let refused = |error| super::refused("storage", error);
    let status = fscrypt::key_status(storage.dir()?.as_fd(), key).map_err(refused)?;
    if status == KeyStatus::Absent {
        return Ok(format!("{} is locked already", data.display()));
    }
    storage.key = Some(key);
    storage.lock().map_err(refused)?;
    Ok(format!("{} is locked", data.display()))
}

/// Copies a plain directory into an encrypted one, and has the two change names.
fn encrypt(config: &Config, data: &Path) -> Result<String, Failure> {
    if config.storage.encryption != StorageEncryption::Required {
        return Err(told(
            "storage.encryption: set it to required, and name a key, before data is moved in"
                .to_owned(),
        ));
    }
    let source = source(config, data)?;
    let (copy, plain) = (named(data, COPY_SUFFIX), named(data, PLAIN_SUFFIX));
    let storage = Storage::locked(data)?;
    if policy_of(storage.dir()?, data)? != Policy::Plain {
        return already(&storage, data, &copy, &plain);
    }
    if plain.exists() {
        return Err(told(format!(
            "{} is in the way; remove it first",
            plain.display()
        )));
    }
    no_daemon(data)?;
    remove_unfinished(&copy)?;
    let target = copied(data, &copy, &source)?;
    // From one moment to the next: a crash leaves the one or the other, and both whole.
    renameat_with(CWD, data, CWD, &copy, RenameFlags::EXCHANGE)
        .map_err(|error| failed(data, "cannot change names with its copy", error.into()))?;
    sync_parent(data).map_err(|error| failed(data, "the change of names may be lost", error))?;
    drop(target);
    finish(data, &copy, &plain)
}

/// A log that is open has its lock.
fn no_daemon(data: &Path) -> Result<(), Failure> {
    let Ok(file) = File::open(data.join("journal/lock")) else {
        return Ok(());
    };
    let free = flock(&file, FlockOperation::NonBlockingLockExclusive);
    free.map_err(|_| {
        let error = anyhow!(
            "data: {} is in use by another meshd; stop it first",
            data.display()
        );
        Failure::new(Exit::InUse, error)
    })
}

/// What an interrupted run left; nothing that this verb has not made is removed.
fn remove_unfinished(copy: &Path) -> Result<(), Failure> {
    let Ok(dir) = File::open(copy) else {
        return Ok(());
    };
    let empty = fs::read_dir(copy).is_ok_and(|mut entries| entries.next().is_none());
    if !empty && read_salt(&dir).is_none() {
        return Err(told(format!(
            "{} is in the way; remove it first",
            copy.display()
        )));
    }
    // Whoever copies has it locked, `cp` included, which goes on when this process is killed.
    if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        let error = anyhow!(
            "an earlier run is still copying to {}; wait until it has ended",
            copy.display()
        );
        return Err(Failure::new(Exit::InUse, error));
    }
    let left = policy_of(&dir, copy)?;
    fs::remove_dir_all(copy).map_err(|error| failed(copy, "cannot be removed", error))?;
    if let Policy::Encrypted(key) = left {
        fscrypt::remove_key(dir.as_fd(), key).map_err(|error| super::refused("storage", error))?;
    }
    Ok(())
}

/// A new encrypted directory with everything that is in `data`, on the disk.
fn copied(data: &Path, copy: &Path, source: &KeySource) -> Result<Storage, Failure> {
    let made = DirBuilder::new().mode(0o700).create(copy);
    made.map_err(|error| failed(copy, "cannot be made", error))?;
    let mut target = Storage::locked(copy)?;
    let found = policy_of(target.dir()?, copy)?;
    target.unlock(source, found)?;
    let lock = target.dir()?.try_clone();
    let lock = lock.map_err(|error| failed(copy, "cannot be held", error))?;
    // Owners, modes, times, links and holes as they are, however deep an agent has nested its home.
    let ended = Command::new("cp")
        .args(["-a", "--"])
        .arg(data.join("."))
        .arg(copy)
        .stdin(Stdio::from(OwnedFd::from(lock)))
        .stdout(Stdio::null())
        .status();
    let ended = ended.map_err(|error| failed(data, "cannot be copied: `cp`", error))?;
    if !ended.success() {
        let error = anyhow!(
            "{} was not copied whole; nothing has changed",
            data.display()
        );
        return Err(Failure::new(Exit::Failed, error));
    }
    syncfs(target.dir()?).map_err(|error| failed(copy, "is not on the disk", error.into()))?;
    Ok(target)
}

/// It is encrypted: at most the plain one has yet to get its name, where a crash came in between.
fn already(storage: &Storage, data: &Path, copy: &Path, plain: &Path) -> Result<String, Failure> {
    let left = File::open(copy).ok().filter(|_| read_salt_of(storage));
    match left.map(|dir| policy_of(&dir, copy)).transpose()? {
        Some(Policy::Plain) => finish(data, copy, plain),
        _ => Ok(format!("{} is encrypted already", data.display())),
    }
}

fn read_salt_of(storage: &Storage) -> bool {
    storage.dir().is_ok_and(|dir| read_salt(dir).is_some())
}

fn finish(data: &Path, copy: &Path, plain: &Path) -> Result<String, Failure> {
    fs::rename(copy, plain).map_err(|error| failed(copy, "cannot be renamed", error))?;
    sync_parent(data).map_err(|error| failed(data, "cannot be synced", error))?;
    Ok(format!(
        "{} is encrypted. The plain data is now {}: start meshd, see that all is there, then remove it.\n\
         What is removed can be read from the disk until it is overwritten; `fstrim` or a new disk is what ends that.",
        data.display(),
        plain.display()
    ))
}

fn named(data: &Path, suffix: &str) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn failed(path: &Path, what: &str, error: io::Error) -> Failure {
    Failure::io(format!("{} {what}", path.display()), error)
}
