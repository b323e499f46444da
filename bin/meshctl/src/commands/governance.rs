//! `meshctl governance`: making, signing, checking and submitting changes that admins sign together.
//!
//! Only `show` and `submit` need a daemon, and `new` where it is not told the mesh and the sequence number: a document
//! goes from admin to admin as a file, and each signs it on a machine of their own.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use mesh_messages::Timestamp;
use mesh_messages::governance::{
    AdminSet, GOVERNANCE_VERSION, GovernanceUpdate, GovernanceView, HaltOrder, kind,
};
use mesh_messages::identity::DidKey;
use mesh_messages::units::Span;
use serde_json::{Value, json};

use crate::client::{Answer, Request};
use crate::commands::key::read_secret;
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::{Screen, Table};
use crate::session::Session;

/// How long an update may be signed and submitted when nobody says.
const EXPIRES_DEFAULT: &str = "7d";

/// Commands about governance.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show who governs: the admins' keys, how many have to sign, and who signed what is in force
    #[command(after_help = "Example:\n  meshctl governance show")]
    Show,
    /// Write an update and sign it as its issuer
    #[command(after_help = NEW_HELP)]
    New(Box<New>),
    /// Add a signature to an update; needs no daemon
    #[command(after_help = "Example:\n  meshctl governance sign update.json --key ben.key")]
    Sign {
        /// The update
        file: PathBuf,
        /// The file of a secret that `key new` wrote
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Say whose signatures of an update hold; needs no daemon
    #[command(after_help = "Example:\n  meshctl governance verify update.json")]
    Verify {
        /// The update
        file: PathBuf,
    },
    /// Hand an update in; it is taken once, and only with enough signatures
    #[command(after_help = "Example:\n  meshctl governance submit update.json")]
    Submit {
        /// The update
        file: PathBuf,
    },
}

const NEW_HELP: &str = "\
Types and what they take:
  admin_update        --admin KEY (for each admin) and --threshold N; the first one names the admins
  policy_update       --policy FILE, as `meshctl policy apply` takes it
  emergency_shutdown  --reason TEXT: isolates every agent, until it is lifted and each is recovered
  emergency_lift      --reason TEXT

Examples:
  meshctl governance new admin_update --key ada.key --admin did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK --threshold 1 --out update.json
  meshctl governance new policy_update --key ada.key --policy policy.yaml --out update.json
  meshctl governance new emergency_shutdown --key ada.key --reason 'leaked key' --out update.json";

/// What is to be changed, and by whom.
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// What kind of change
    #[arg(value_name = "TYPE", value_parser = kind::ALL)]
    kind: String,
    /// The issuer's secret, as `key new` wrote it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "update.json")]
    out: PathBuf,
    /// An admin's public key; for each of them
    #[arg(long = "admin", value_name = "DID:KEY")]
    admins: Vec<DidKey>,
    /// How many admins have to sign from then on
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,
    /// The policy
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// For how long it can be submitted
    #[arg(long, value_name = "TIME", default_value = EXPIRES_DEFAULT)]
    expires: Span,
    /// The node's key; the daemon is asked when absent
    #[arg(long, value_name = "DID:KEY", requires = "sequence")]
    mesh: Option<DidKey>,
    /// The update's number, one more than the last; the daemon is asked when absent
    #[arg(long, value_name = "N", requires = "mesh")]
    sequence: Option<u64>,
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::Show)
    }
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Show => {
            let answer = session.send(&Request::get(&["v1", "governance"]))?;
            session.out.show(&answer, || Ok(screen(&answer.read()?)))
        }
        Command::New(new) => write_new(new, session),
        Command::Sign { file, key } => {
            let mut update = read(file)?;
            let secret = read_secret(key)?;
            update.sign(&secret);
            write(file, &update)?;
            told(&update, &format!("signed as {}", secret.public()), session)
        }
        Command::Verify { file } => verify(&read(file)?, session),
        Command::Submit { file } => {
            let body = serde_json::to_value(read(file)?).unwrap_or_default();
            let answer = session.send(&Request::post(&["v1", "governance"]).json(&body))?;
            session.out.show(&answer, || Ok(screen(&answer.read()?)))
        }
    }
}

fn write_new(new: &New, session: &mut Session) -> Result<(), Failure> {
    let secret = read_secret(&new.key)?;
    let payload = payload(new)?;
    let (mesh, sequence) = if let (Some(mesh), Some(sequence)) = (new.mesh, new.sequence) {
        (mesh, sequence)
    } else {
        let answer = session.send(&Request::get(&["v1", "governance"]))?;
        let view: GovernanceView = answer.read()?;
        (view.mesh, view.sequence + 1)
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = Timestamp::ZERO.plus(now);
    let mut update = GovernanceUpdate {
        v: GOVERNANCE_VERSION,
        mesh,
        sequence,
        expires: now.plus(new.expires.duration()),
        issuer: secret.public(),
        kind: new.kind.clone(),
        payload,
        signatures: Vec::new(),
    };
    update.sign(&secret);
    write(&new.out, &update)?;
    let done = format!("update {sequence} is in {}", new.out.display());
    told(&update, &done, session)
}

/// What the type takes, from the options that belong to it; one that belongs to another is a mistake.
fn payload(new: &New) -> Result<Value, Failure> {
    let usage = |text: &str| Err(Failure::new(Exit::Usage, text));
    let is = |kinds: &[&str]| kinds.contains(&new.kind.as_str());
    let admins = is(&[kind::ADMIN_UPDATE]);
    let policy = is(&[kind::POLICY_UPDATE]);
    let halt = is(&[kind::EMERGENCY_SHUTDOWN, kind::EMERGENCY_LIFT]);
    if !admins && (!new.admins.is_empty() || new.threshold.is_some()) {
        return usage("--admin and --threshold belong to admin_update");
    }
    if !policy && new.policy.is_some() {
        return usage("--policy belongs to policy_update");
    }
    if !halt && new.reason.is_some() {
        return usage("--reason belongs to emergency_shutdown and emergency_lift");
    }
    let value = if admins {
        let (false, Some(threshold)) = (new.admins.is_empty(), new.threshold) else {
            return usage("admin_update takes --admin, for each admin, and --threshold");
        };
        serde_json::to_value(AdminSet {
            admins: new.admins.clone(),
            threshold,
        })
    } else if policy {
        let Some(file) = &new.policy else {
            return usage("policy_update takes --policy");
        };
        return input::yaml(file, &mut io::stdin());
    } else {
        serde_json::to_value(HaltOrder {
            reason: new.reason.clone().unwrap_or_default(),
        })
    };
    value.map_err(|error| Failure::new(Exit::Bug, error.to_string()))
}

fn read(path: &Path) -> Result<GovernanceUpdate, Failure> {
    let value = input::yaml(path, &mut io::stdin())?;
    serde_json::from_value(value)
        .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))
}

fn write(path: &Path, update: &GovernanceUpdate) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(update)
        .map_err(|error| Failure::new(Exit::Bug, error.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|error| Failure::file(path, &error))
}

fn told(update: &GovernanceUpdate, done: &str, session: &mut Session) -> Result<(), Failure> {
    let value = serde_json::to_value(update).unwrap_or_default();
    let answer = Answer::from_value(&value);
    session.out.show(&answer, || {
        Ok(Screen::confirmation(
            done.to_owned(),
            update.sequence.to_string(),
        ))
    })
}

fn verify(update: &GovernanceUpdate, session: &mut Session) -> Result<(), Failure> {
    let signers = update.signers();
    let given = update.signatures.len();
    let answer = Answer::from_value(&json!({ "signers": signers, "signatures": given }));
    session.out.show(&answer, || {
        let mut table = Table::new(&["SIGNER", "HOLDS"]);
        for signature in &update.signatures {
            let holds = signers.contains(&signature.key);
            table.row([
                signature.key.to_string().into(),
                if holds { "yes" } else { "no" }.into(),
            ]);
        }
        let named = signers.iter().map(ToString::to_string);
        Ok(Screen::new().table(table).named(named))
    })?;
    if signers.len() == given && given > 0 {
        return Ok(());
    }
    let text = "a signature does not hold, is there twice, or there is none";
    Err(Failure::new(Exit::Failed, text))
}

fn screen(view: &GovernanceView) -> Screen {
    let mut table = Table::new(&["WHAT", "VALUE", "FROM"]);
    let signed = |name: &str| {
        view.origins.get(name).map_or_else(String::new, |origin| {
            let signers: Vec<_> = origin.signers.iter().map(ToString::to_string).collect();
            format!(
                "update {} signed by {}",
                origin.sequence,
                signers.join(", ")
            )
        })
    };
    let sequence = view.sequence.to_string();
    table.row(["sequence".into(), sequence.into(), "".into()]);
    match &view.authority {
        None => table.row(["admins".into(), "none named yet".into(), "".into()]),
        Some(set) => {
            let threshold = format!("{} of {}", set.threshold, set.admins.len());
            table.row([
                "threshold".into(),
                threshold.into(),
                signed("admins").into(),
            ]);
            for admin in &set.admins {
                table.row(["admin".into(), admin.to_string().into(), "".into()]);
            }
        }
    }
    for name in view.origins.keys().filter(|name| *name != "admins") {
        table.row(["policy".into(), name.as_str().into(), signed(name).into()]);
    }
    if let Some(halt) = &view.halted {
        let from = format!("update {}", halt.origin.sequence);
        table.row(["halted".into(), halt.reason.as_str().into(), from.into()]);
    }
    Screen::new().table(table).named([view.mesh.to_string()])
}
