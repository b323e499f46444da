//! `meshctl restore`: from a backup to a data directory, without a daemon.

use std::error::Error as _;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use mesh_persistence::{RestoreError, restore};
use serde_json::json;

use super::backup::read_key;
use crate::client::Answer;
use crate::exit::{Exit, Failure};
use crate::output::{Progress, Screen};
use crate::session::Session;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;

pub(crate) const RESTORE_HELP: &str = "\
Needs no daemon. The data directory (--data) must be empty or missing. All of the backup is unpacked beside it and checked:
its digest, every record against its commitment, all of them against the root that the node signed. Only then it gets its
place. Start meshd on it afterwards; it gets a new admin token, in the data directory.

The node that was backed up must not run any more: both would go on with the same log, and what they write would
contradict each other. A witness's checkpoint shows that (`meshctl audit verify --witness`).

Examples:
  meshctl restore mesh.tar --data /var/lib/meshd
  meshctl restore mesh.tar --data ./restored --node-key node.key";

/// What to restore.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// The backup
    file: PathBuf,
    /// The node's private key, when it is not in the backup
    #[arg(long, value_name = "FILE")]
    node_key: Option<PathBuf>,
}

pub(super) fn run(arguments: &Restore, session: &mut Session) -> Result<(), Failure> {
    let key = arguments.node_key.as_deref().map(read_key).transpose()?;
    let data = session.data_dir();
    let file =
        File::open(&arguments.file).map_err(|error| Failure::file(&arguments.file, &error))?;
    let progress = session.out.progress("restoring");
    if let Ok(about) = file.metadata() {
        progress.count_bytes(about.len());
    }
    let reader = BufReader::with_capacity(
        CHUNK_BYTES,
        Counted {
            file,
            read: 0,
            progress: &progress,
        },
    );
    let restored = restore(reader, &data, key.map(|(_, key)| key));
    drop(progress);
    let restored = restored.map_err(|error| told(&error))?;
    if restored.erased > 0 {
        session.out.note(&format!(
            "the payloads of {} records were erased, and stay so",
            restored.erased
        ));
    }
    session.out.note(
        "the node that was backed up must not run any more; both would go on with the same log",
    );
    if restored.vault {
        session.out.note(
            "the vault was in it; put its key where the configuration says, before meshd is started (vault.key in the data \
             directory when it says nothing)",
        );
    }
    let name = data.display().to_string();
    let answer = Answer::from_value(&json!({
        "data": name,
        "log": restored.log,
        "key": restored.key,
        "records": restored.records,
        "root": restored.root.to_string(),
        "erased": restored.erased,
        "contents": restored.contents,
        "bundleFiles": restored.bundle_files,
        "vault": restored.vault,
    }));
    let sentence = format!(
        "restored and verified {} records, {} contents and {} files of bundles into {name}, root {}",
        restored.records, restored.contents, restored.bundle_files, restored.root
    );
    session
        .out
        .show(&answer, || Ok(Screen::confirmation(sentence, name)))
}

fn told(error: &RestoreError) -> Failure {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        message = format!("{message}: {inner}");
        source = inner.source();
    }
    match error {
        RestoreError::NotEmpty(_) => Failure::new(Exit::Conflict, message)
            .hint("name a directory that is empty or missing with --data"),
        RestoreError::NoKey => Failure::new(Exit::Usage, message)
            .hint("name a copy of the node's node.key with --node-key"),
        RestoreError::OtherKey { .. } => Failure::new(Exit::Conflict, message)
            .hint("name the key that was in force when the backup was taken with --node-key"),
        RestoreError::Damaged(_) | RestoreError::Log(_) => Failure::new(Exit::Failed, message)
            .hint("nothing was restored; use another copy of the backup"),
        _ => Failure::new(Exit::Failed, message),
    }
}

/// Shows how far a file was read.
struct Counted<'a> {
    file: File,
    read: u64,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read(buffer)?;
        self.read += len as u64;
        self.progress.at(self.read);
        Ok(len)
    }
}
