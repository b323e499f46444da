//! `meshctl export`: what the mesh knows, in the form of others. And how anything that comes as a stream becomes a file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::client::Request;
use crate::exit::{Exit, Failure};
use crate::output::{Progress, Screen};
use crate::session::Session;

/// Bytes copied at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Files that hold no more than their writer's readers may see anyway.
const MODE_USUAL: u32 = 0o666;

pub(crate) const EXPORT_HELP: &str = "\
Writes the tables agent_profiles, task_assignments, agent_relationships and learning_insights as one transaction that
SQLite and PostgreSQL both load. The tables must not be there yet.

Examples:
  meshctl export --sql --out mesh.sql
  meshctl export --sql | sqlite3 mesh.db
  meshctl export --sql | psql -v ON_ERROR_STOP=1 mesh";

/// What to export, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// As an SQL script
    #[arg(long, required = true)]
    sql: bool,
    /// The file to write; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Export, session: &mut Session) -> Result<(), Failure> {
    // It is the only form so far, and the argument parser asks for it.
    debug_assert!(arguments.sql, "the parser lets nothing else through");
    save(
        &Request::get(&["v1", "export", "sql"]),
        arguments.out.as_deref(),
        session,
    )
}

/// Asks for a stream and writes it to a file, or to standard output.
pub(super) fn save(
    request: &Request,
    out: Option<&Path>,
    session: &mut Session,
) -> Result<(), Failure> {
    let mut stream = session.client()?.stream(request)?;
    let progress = session.out.progress("exporting");
    let Some(path) = out else {
        return copy(&mut stream, &progress, |chunk| {
            Ok(session.out.write(chunk)?)
        })
        .map(drop);
    };
    let bytes = write_whole(path, MODE_USUAL, |file| {
        copy(&mut stream, &progress, |chunk| {
            file.write_all(chunk).map_err(|e| Failure::file(path, &e))
        })
    });
    drop(progress);
    let sentence = format!("{} bytes in {}", bytes?, path.display());
    let name = path.display().to_string();
    session.out.screen(&Screen::confirmation(sentence, name))
}

/// Writes a file that has its own name only once it is whole and on the disk. A part of it is removed.
pub(super) fn write_whole<T>(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut fs::File) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let failed = |error: io::Error| Failure::file(path, &error);
    let create = || -> io::Result<fs::File> {
        // One that an earlier run left may have another mode.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&part)
    };
    let mut file = create().map_err(failed)?;
    let written = write(&mut file).and_then(|value| {
        file.sync_all().map_err(failed)?;
        fs::rename(&part, path).map_err(failed)?;
        Ok(value)
    });
    if written.is_err() {
        // What matters has failed already.
        drop(fs::remove_file(&part));
    }
    written
}

/// Copies the stream to its end. An export that breaks off is none.
pub(super) fn copy(
    stream: &mut dyn Read,
    progress: &Progress,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let read = match stream.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("it broke off after {bytes} bytes: {error}"),
                )
                .hint("what came is incomplete; meshd's log says why"));
            }
        };
        write(&chunk[..read])?;
        bytes += read as u64;
        progress.so_far(bytes);
    }
}
