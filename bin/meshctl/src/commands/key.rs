//! `meshctl key`: ed25519 identities.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use mesh_messages::identity::SigningKey;
use mesh_messages::system::SystemStatus;
use serde_json::json;

use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

/// Commands about keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new ed25519 key: prints its did:key and keeps its secret in a file for its owner only
    #[command(after_help = "Example:\n  meshctl key new --out publisher.key")]
    New {
        /// The file for the secret, 32 bytes in hex; it must not exist
        #[arg(long, value_name = "FILE", default_value = "mesh.key")]
        out: PathBuf,
    },
    /// Print the node's did:key, which its audit log is verified with
    #[command(after_help = "Example:\n  meshctl key show")]
    Show,
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::New { out } => new(out, session),
        Command::Show => show(session),
    }
}

fn new(path: &Path, session: &mut Session) -> Result<(), Failure> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| {
        Failure::new(
            Exit::Bug,
            format!("the system gives no randomness: {error}"),
        )
    })?;
    let key = SigningKey::from_secret(&secret);
    write_secret(path, &key).map_err(|error| {
        let failure = Failure::file(path, &error);
        if error.kind() == io::ErrorKind::AlreadyExists {
            Failure {
                exit: Exit::Conflict,
                ..failure
            }
            .hint("a key that exists is never overwritten; name another file with --out")
        } else {
            failure
        }
    })?;
    let public = key.public().to_string();
    session
        .out
        .note(&format!("the secret is in {}", path.display()));
    let answer = Answer::from_value(&json!({ "key": public, "file": path.display().to_string() }));
    session
        .out
        .show(&answer, || Ok(Screen::new().line(&public).named([&public])))
}

fn write_secret(path: &Path, key: &SigningKey) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{}", hex::encode(key.secret_bytes()))?;
    file.sync_all()
}

fn show(session: &mut Session) -> Result<(), Failure> {
    let status: SystemStatus = session.send(&Request::get(&["status"]))?.read()?;
    let answer = Answer::from_value(&json!({ "key": status.node }));
    session.out.show(&answer, || {
        Ok(Screen::new()
            .line(&status.node)
            .named([status.node.as_str()]))
    })
}
