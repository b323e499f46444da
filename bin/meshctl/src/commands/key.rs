//! `meshctl key`: ed25519 identities.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use mesh_messages::address::Address;
use mesh_messages::identity::{DidKey, SigningKey};
use mesh_messages::system::{KeyInfo, KeyRotation, RotatedKey, SystemStatus};
use serde_json::json;
use zeroize::Zeroizing;

use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::{Screen, Table};
use crate::session::Session;

/// A secret has 64 digits; a file of more holds something else.
const SECRET_BYTES_MAX: u64 = 1024;

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
    /// Register a public key as somebody's; the one that the owner had before does not hold any more
    #[command(
        after_help = "Examples:\n  meshctl key register --owner user:ada --file ada.key\n  meshctl key register --owner agent:echo did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK\n  meshctl key register --owner kai://node.berlin did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK\n\nThe checkpoints of a node whose key is registered are co-signed when it asks for it."
    )]
    Register {
        /// The public key
        #[arg(
            value_name = "DID:KEY",
            required_unless_present = "file",
            conflicts_with = "file"
        )]
        key: Option<DidKey>,
        /// The file of a secret that `key new` wrote; only its public half is sent
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Whose it is: `user:ada`, `agent:echo`, `kai://node.berlin`
        #[arg(long, value_name = "ADDRESS")]
        owner: Address,
    },
    /// Make a new key for an owner, or for the node itself, in place of the old one
    #[command(
        after_help = "Examples:\n  meshctl key rotate --owner user:ada --out ada-2.key\n  meshctl key rotate --node --reason 'once a year'\n  meshctl key rotate --node --compromised --reason 'copied from a backup'\n\nThe node's new secret is made by meshd and stays in its data directory (node.key): copy it to where the old one's copy was.\nThe node's name and its log's stay; both keys sign that the new one takes over."
    )]
    Rotate {
        /// Whose it is
        #[arg(long, value_name = "ADDRESS", required_unless_present = "node")]
        owner: Option<Address>,
        /// The file for the new secret; it must not exist
        #[arg(long, value_name = "FILE", required_unless_present = "node")]
        out: Option<PathBuf>,
        /// The node's own key
        #[arg(long, conflicts_with_all = ["owner", "out"])]
        node: bool,
        /// With --node: the old key is in wrong hands; tokens that can be narrowed end
        #[arg(long, requires = "node")]
        compromised: bool,
        /// With --node: why, for the record
        #[arg(long, value_name = "TEXT", requires = "node")]
        reason: Option<String>,
    },
    /// List the registered keys, those of the past included
    #[command(after_help = "Example:\n  meshctl key list")]
    List,
    /// Revoke a key, for ever
    #[command(
        after_help = "Example:\n  meshctl key revoke did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK --reason 'laptop stolen'"
    )]
    Revoke {
        /// Which
        #[arg(value_name = "DID:KEY")]
        key: DidKey,
        /// Why, for the record
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Print the node's did:key, which its audit log is verified with, and the one in force; or that of a key's file
    #[command(after_help = "Examples:\n  meshctl key show\n  meshctl key show --file ada.key")]
    Show {
        /// The file of a secret that `key new` wrote; needs no daemon
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::New { out } => new(out, session),
        Command::Show { file: None } => show(session),
        Command::Show { file: Some(path) } => show_file(path, session),
        Command::Register { key, file, owner } => {
            let key = match (key, file) {
                (Some(key), _) => *key,
                (None, Some(path)) => read_secret(path)?.public(),
                (None, None) => return Err(Failure::new(Exit::Usage, "name a key or --file")),
            };
            register(&key, owner, session)
        }
        Command::Rotate {
            owner: Some(owner),
            out: Some(out),
            ..
        } => {
            let key = generate(out)?;
            session
                .out
                .note(&format!("the secret is in {}", out.display()));
            register(&key.public(), owner, session)
        }
        Command::Rotate {
            compromised,
            reason,
            ..
        } => {
            let order = KeyRotation {
                compromised: *compromised,
                reason: reason.clone().unwrap_or_default(),
            };
            rotate_node(&order, session)
        }
        Command::List => list(session),
        Command::Revoke { key, reason } => revoke(key, reason, session),
    }
}

fn new(path: &Path, session: &mut Session) -> Result<(), Failure> {
    let key = generate(path)?;
    let public = key.public().to_string();
    session
        .out
        .note(&format!("the secret is in {}", path.display()));
    let answer = Answer::from_value(&json!({ "key": public, "file": path.display().to_string() }));
    session
        .out
        .show(&answer, || Ok(Screen::new().line(&public).named([&public])))
}

/// Makes a key and writes its secret to a new file of its owner's.
fn generate(path: &Path) -> Result<SigningKey, Failure> {
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
    Ok(key)
}

/// Reads a secret that [`generate`] wrote.
pub(super) fn read_secret(path: &Path) -> Result<SigningKey, Failure> {
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(|error| Failure::file(path, &error))?;
    let mode = file
        .metadata()
        .map_err(|error| Failure::file(path, &error))?;
    if mode.permissions().mode() & 0o077 != 0 {
        let text = format!(
            "{}: others may read this secret; chmod 600 it",
            path.display()
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    file.take(SECRET_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::file(path, &error))?;
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut *secret).map_err(|_| {
        let text = format!("{}: not the 32 bytes of a secret in hex", path.display());
        Failure::new(Exit::Failed, text)
    })?;
    Ok(SigningKey::from_secret(&secret))
}

fn show_file(path: &Path, session: &mut Session) -> Result<(), Failure> {
    let public = read_secret(path)?.public().to_string();
    let answer = Answer::from_value(&json!({ "key": public }));
    session
        .out
        .show(&answer, || Ok(Screen::new().line(&public).named([&public])))
}

fn register(key: &DidKey, owner: &Address, session: &mut Session) -> Result<(), Failure> {
    let body = json!({ "key": key, "owner": owner.to_string() });
    let answer = session.send(&Request::post(&["v1", "keys"]).json(&body))?;
    session.out.show(&answer, || {
        Ok(Screen::confirmation(
            format!("{key} is the key of {owner}"),
            key.to_string(),
        ))
    })
}

fn rotate_node(order: &KeyRotation, session: &mut Session) -> Result<(), Failure> {
    let request = Request::post(&["v1", "keys", "node", "rotate"]).json(&json!(order));
    let answer = session.send(&request)?;
    let rotated: RotatedKey = answer.read()?;
    let out = &mut session.out;
    out.note("copy node.key from the data directory to where its last copy was; without it no backup from here on can be restored");
    if rotated.ended_tokens > 0 {
        let ended = rotated.ended_tokens;
        out.note(&format!(
            "{ended} tokens that can be narrowed have ended; issue others"
        ));
    }
    let (new, old, size) = (rotated.key, rotated.replaces, rotated.size);
    out.show(&answer, || {
        Ok(Screen::confirmation(
            format!("{new} signs for the node from record {size} on, in place of {old}"),
            new.to_string(),
        ))
    })
}

fn revoke(key: &DidKey, reason: &str, session: &mut Session) -> Result<(), Failure> {
    let text = key.to_string();
    let request =
        Request::post(&["v1", "keys", &text, "revoke"]).json(&json!({ "reason": reason }));
    let answer = session.send(&request)?;
    session.out.show(&answer, || {
        Ok(Screen::confirmation(format!("{text} revoked"), &text))
    })
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "keys"]), usize::MAX)?;
    session.out.show(&answer, || {
        let keys: Vec<KeyInfo> = answer.rows()?;
        let mut table = Table::new(&["KEY", "OWNER", "REGISTERED", "REVOKED", "REASON"]);
        for key in &keys {
            table.row([
                key.key.to_string().into(),
                key.owner.as_str().into(),
                key.registered.to_string().into(),
                key.revoked.into(),
                key.reason.as_deref().unwrap_or_default().into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(keys.iter().map(|key| key.key.to_string())))
    })
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
    let current = status.key.as_ref().unwrap_or(&status.node);
    if *current != status.node {
        session.out.note(&format!(
            "{current} signs for it now; `meshctl audit successions` prints how it came to that"
        ));
    }
    let answer = Answer::from_value(&json!({ "key": status.node, "inForce": current }));
    session.out.show(&answer, || {
        Ok(Screen::new()
            .line(&status.node)
            .named([status.node.as_str()]))
    })
}
