//! `meshctl backup`: a running node's log, content and bundles in one file.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use mesh_messages::identity::SigningKey;
use mesh_persistence::{AboutBackup, about_backup, write_key_entry};
use serde_json::json;

use super::export::{copy, write_whole};
use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

/// The file holds what agents remember, and perhaps the node's key.
const MODE_OWNER_ONLY: u32 = 0o600;
/// What a backup says of itself lies within this.
const BEGIN_BYTES_MAX: usize = 128 * 1024;
/// The node's key in its data directory.
pub(super) const KEY_FILE: &str = "node.key";

pub(crate) const BACKUP_HELP: &str = "\
Taken while meshd works: the log up to a signed checkpoint, the content store and the bundles. The file is for its owner
only. Not in it: agents' own working directories, and the node's private key unless --include-key is given, which meshd
never hands out and which is therefore read from the data directory. Keep a copy of it: nothing can be restored without it.
The vault is in it only with --with-vault, encrypted; the vault's key never is.

Examples:
  meshctl backup --out mesh.tar
  meshctl backup --out mesh.tar --with-vault
  meshctl backup --out mesh.tar --include-key --data /var/lib/meshd";

/// Where to write it, and whether with the key.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Put the node's private key into it, from the data directory on this machine
    #[arg(long)]
    include_key: bool,
    /// Put the vault into it, encrypted as it is; its key never is in a backup
    #[arg(long)]
    with_vault: bool,
}

pub(super) fn run(arguments: &Backup, session: &mut Session) -> Result<(), Failure> {
    let key_file = session.data_dir().join(KEY_FILE);
    let key = arguments
        .include_key
        .then(|| read_key(&key_file))
        .transpose()?;
    let vault = arguments.with_vault.then(|| "true".to_owned());
    let request = Request::get(&["v1", "backup"]).query("vault", vault);
    let mut stream = session.client()?.stream(&request)?;
    let progress = session.out.progress("backing up");
    let path = &arguments.out;
    let written = write_whole(path, MODE_OWNER_ONLY, |file| {
        let (begin, about) = read_begin(&mut stream)?;
        let failed = |error: io::Error| Failure::file(path, &error);
        if let Some((text, key)) = &key {
            let ours = key.public().to_string();
            let node = about.key_in_force();
            if ours != node {
                let message = format!(
                    "{} is the key {ours}, but the node's key in force is {node}",
                    key_file.display()
                );
                return Err(Failure::new(Exit::Conflict, message)
                    .hint("name the data directory of that node with --data"));
            }
            write_key_entry(text, file).map_err(failed)?;
        }
        progress.count_bytes(about.bytes);
        let mut whole = begin.as_slice().chain(&mut stream);
        let bytes = copy(&mut whole, &progress, |chunk| {
            file.write_all(chunk).map_err(failed)
        })?;
        Ok((bytes, about))
    });
    drop(progress);
    let (bytes, about) = written?;
    if key.is_none() {
        session.out.note(&format!(
            "the node's key is not in it; to restore it, a copy of {KEY_FILE} from the node's data directory is needed"
        ));
    }
    if arguments.with_vault && about.vault {
        session.out.note(
            "the vault is in it, encrypted; without a copy of its key, kept elsewhere, its secrets are lost",
        );
    } else if arguments.with_vault {
        session.out.note("there is no vault to put into it");
    }
    let name = path.display().to_string();
    let answer = Answer::from_value(&json!({
        "file": name, "records": about.records, "log": about.log, "bytes": bytes, "key": key.is_some(),
        "vault": about.vault,
    }));
    let sentence = format!("{} records, {bytes} bytes in {name}", about.records);
    session
        .out
        .show(&answer, || Ok(Screen::confirmation(sentence, name)))
}

/// Reads as much of the stream as it takes to know what it is.
fn read_begin(stream: &mut dyn Read) -> Result<(Vec<u8>, AboutBackup), Failure> {
    let mut begin = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(about) = about_backup(&begin) {
            return Ok((begin, about));
        }
        let read = stream
            .read(&mut chunk)
            .map_err(|error| Failure::new(Exit::Failed, format!("it broke off: {error}")))?;
        begin.extend_from_slice(&chunk[..read]);
        if read == 0 || begin.len() > BEGIN_BYTES_MAX {
            let message = "what meshd sends does not begin like a backup";
            return Err(Failure::new(Exit::Failed, message)
                .hint("meshctl and meshd may be of different versions"));
        }
    }
}

/// The text of a key's file, and the key.
pub(super) fn read_key(path: &Path) -> Result<(String, SigningKey), Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    let mut secret = [0; 32];
    hex::decode_to_slice(text.trim(), &mut secret).map_err(|_| {
        Failure::new(
            Exit::Failed,
            format!("{} is not 32 bytes in hex", path.display()),
        )
    })?;
    Ok((text, SigningKey::from_secret(&secret)))
}
