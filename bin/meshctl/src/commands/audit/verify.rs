//! Verifying an export, offline.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use mesh_messages::identity::DidKey;
use mesh_persistence::{VerifyError, VerifyReport, verify};
use serde_json::json;

use crate::client::Answer;
use crate::exit::{Exit, Failure};
use crate::output::{Progress, Screen};
use crate::session::Session;

/// Twice what `audit.witness.file` grows to; anything longer is some other file.
const WITNESS_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What to verify, and against what.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The export
    file: PathBuf,
    /// The node's first key, which is its log's name, or the one in force, from a source that you trust
    #[arg(long, value_name = "DID:KEY")]
    key: Option<DidKey>,
    /// Checkpoints of the same log that somebody else kept
    #[arg(long, value_name = "FILE")]
    witness: Option<PathBuf>,
}

pub(super) fn run(arguments: &Verify, session: &mut Session) -> Result<(), Failure> {
    let witness = arguments.witness.as_deref().map(read_witness).transpose()?;
    let file =
        File::open(&arguments.file).map_err(|error| Failure::file(&arguments.file, &error))?;
    let progress = session.out.progress("verifying");
    if let Ok(about) = file.metadata() {
        progress.count_bytes(about.len());
    }
    let reader = BufReader::with_capacity(
        256 * 1024,
        Counted {
            file,
            read: 0,
            progress: &progress,
        },
    );
    let report = verify(reader, arguments.key.as_ref(), witness.as_deref());
    drop(progress);
    let report = report.map_err(|error| told(&error, &arguments.file))?;
    if report.key_is_from_file {
        session.out.warn(&format!(
            "the key is the file's own, {}; with --key it is shown who signed, not only that it agrees with itself",
            report.key
        ));
    }
    if arguments.witness.is_some() && report.witnessed.is_none() {
        session.out.warn(
            "nothing of the witness's was compared: one agent's export takes a proof for that. \
             `meshctl audit export --agent ID --witness FILE` writes it, and an export of the whole log needs none",
        );
    }
    remarks(&report, session);
    let answer = Answer::from_value(&json!({
        "records": report.records,
        "erased": report.erased,
        "withheld": report.withheld,
        "size": report.size,
        "root": report.root.to_string(),
        "key": report.key,
        "signer": report.signer,
        "keyIsFromFile": report.key_is_from_file,
        "ofOneAgent": report.of_one_agent,
        "witnessed": report.witnessed,
    }));
    let sentence = format!("verified {} records, root {}", report.records, report.root);
    session.out.show(&answer, || {
        Ok(Screen::new()
            .line(sentence)
            .named([report.root.to_string()]))
    })
}

fn remarks(report: &VerifyReport, session: &mut Session) {
    if report.of_one_agent {
        let all = report.size;
        session.out.note(&format!("these are all records of one agent that the node signed that there were, out of {all} of the whole log"));
    }
    if report.erased > 0 {
        session.out.note(&format!(
            "the payloads of {} records were erased; their headers hold",
            report.erased
        ));
    }
    if report.withheld > 0 {
        session.out.note(&format!(
            "the payloads of {} records are withheld from whom this export is for; their headers hold",
            report.withheld
        ));
    }
    if let Some(size) = report.witnessed {
        session.out.note(&format!(
            "it continues the log of {size} records that the witness saw"
        ));
    }
}

fn told(error: &VerifyError, path: &Path) -> Failure {
    match error {
        VerifyError::Read(source) => Failure::file(path, source),
        other => Failure::new(Exit::Failed, other.to_string()),
    }
}

pub(super) fn read_witness(path: &Path) -> Result<String, Failure> {
    let mut note = String::new();
    File::open(path)
        .and_then(|file| file.take(WITNESS_BYTES_MAX).read_to_string(&mut note))
        .map_err(|error| Failure::file(path, &error))?;
    Ok(note)
}

/// Shows how far the reading is.
struct Counted<'a> {
    file: File,
    read: u64,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read += read as u64;
        self.progress.at(self.read);
        Ok(read)
    }
}
