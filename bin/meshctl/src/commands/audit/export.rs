//! Exporting the log.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::client::Request;
use crate::exit::{Exit, Failure};
use crate::output::{Progress, Screen};
use crate::session::Session;

/// Bytes copied at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What to export, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Only the records of this agent, each with its proof
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// The file to write; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Export, session: &mut Session) -> Result<(), Failure> {
    let request =
        Request::get(&["v1", "audit", "export"]).query("agent", arguments.agent.as_deref());
    let mut stream = session.client()?.stream(&request)?;
    let progress = session.out.progress("exporting");
    let Some(path) = &arguments.out else {
        return copy(&mut stream, &progress, |chunk| {
            Ok(session.out.write(chunk)?)
        })
        .map(drop);
    };
    // Under its own name it appears only when it is whole.
    let part = part_of(path);
    let written = write_file(&part, &mut stream, &progress).and_then(|bytes| {
        fs::rename(&part, path)
            .map_err(|error| Failure::file(path, &error))
            .map(|()| bytes)
    });
    drop(progress);
    match written {
        Ok(bytes) => {
            let sentence = format!("{bytes} bytes in {}", path.display());
            let name = path.display().to_string();
            session.out.screen(&Screen::confirmation(sentence, name))
        }
        Err(failure) => {
            // It may never have been made; what matters has failed already.
            drop(fs::remove_file(&part));
            Err(failure)
        }
    }
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn write_file(path: &Path, stream: &mut dyn Read, progress: &Progress) -> Result<u64, Failure> {
    let failed = |error: io::Error| Failure::file(path, &error);
    let mut file = File::create(path).map_err(failed)?;
    let bytes = copy(stream, progress, |chunk| {
        file.write_all(chunk).map_err(failed)
    })?;
    file.sync_all().map_err(failed)?;
    Ok(bytes)
}

/// Copies the stream to its end. An export that breaks off is none.
fn copy(
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
                    format!("the export broke off after {bytes} bytes: {error}"),
                )
                .hint("it is incomplete; try again"));
            }
        };
        write(&chunk[..read])?;
        bytes += read as u64;
        progress.say(&format!("exporting, {bytes} bytes"));
    }
}
