//! `meshd key rotate`: another key for the node while no daemon runs on its data.
//!
//! The log itself says which key is in force, so nothing else has to be told. The next start puts it on record.

use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::anyhow;
use mesh_actors::clock::now;
use mesh_messages::identity::SigningKey;
use mesh_persistence::{
    FileJournal, FileJournalOptions, Journal as _, OpenError, prepare_next, settle,
};
use zeroize::Zeroizing;

use crate::cli::{KeyArgs, KeyVerb};
use crate::daemon::Node;
use crate::exit::{Exit, Failure};
use crate::identity::JOURNAL_DIR;
use crate::show;

/// `meshd key …`.
///
/// # Errors
/// Why not, with the exit code; then the key in force is what it was.
pub(crate) fn run(args: &KeyArgs) -> Result<Exit, Failure> {
    let KeyVerb::Rotate { run, compromised } = &args.verb;
    let (config, origins) = show::load(run)?;
    if !config.data.join(JOURNAL_DIR).is_dir() {
        let text = anyhow!("data: there is no log in {}", config.data.display());
        return Err(Failure::new(Exit::Config, text));
    }
    let options = FileJournalOptions {
        segment_bytes: config.journal.segment_size.bytes(),
    };
    let (node, storage) = Node::open(config, origins)?;
    let journal = node.data.join(JOURNAL_DIR);
    let journal = FileJournal::open(&journal, &options, node.identity.key, Arc::new(now))
        .map_err(not_open)?;
    let mut secret = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *secret).map_err(|error| Failure::new(Exit::Failed, anyhow!(error)))?;
    let next = SigningKey::from_secret(&secret);
    let before = journal.signer();
    let failed = |error: anyhow::Error| Failure::new(Exit::Failed, error);
    prepare_next(&node.data, before.keys().current(), &next).map_err(|e| failed(e.into()))?;
    let after = journal.succeed(next, *compromised);
    // Whichever is in force now has its place.
    let current = after.as_ref().map_or(&before, |after| after);
    let settled = settle(&node.data, current.keys().current());
    let after = after.map_err(|error| failed(error.into()))?;
    settled.map_err(|error| failed(error.into()))?;
    drop(journal);
    drop(storage);
    let said = format!(
        "{} is signed for by {} from here on; the next start puts that on record",
        after.keys().log(),
        after.keys().current()
    );
    let written = writeln!(io::stdout(), "{said}");
    written.map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(Exit::Ok)
}

fn not_open(error: OpenError) -> Failure {
    let exit = match &error {
        OpenError::InUse { .. } => Exit::InUse,
        _ => Exit::Config,
    };
    Failure::new(exit, error)
}
