//! A publisher's signature of a bundle.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use mesh_messages::identity::DidKey;
use mesh_messages::manifest::{manifest_signing_input, verify_manifest_signature};
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::client::Answer;
use crate::commands::key::read_secret;
use crate::exit::{Exit, Failure};
use crate::output::Screen;
use crate::session::Session;

/// What to sign, and with what.
#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// A bundle's directory, or a manifest
    path: PathBuf,
    /// The file of a secret that `key new` wrote
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// What to check, and against whose key.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// A bundle's directory, or a manifest
    path: PathBuf,
    /// The publisher's key, from a source that you trust
    #[arg(long, value_name = "DID:KEY")]
    key: Option<DidKey>,
}

/// Writes the signature into the manifest.
pub(super) fn sign(arguments: &Sign, session: &mut Session) -> Result<(), Failure> {
    let secret = read_secret(&arguments.key)?;
    let bundle = Bundle::read(&arguments.path)?;
    let public = secret.public();
    let mut manifest = bundle.parsed.source.clone();
    let unsigned = Failure::new(Exit::Bug, "the manifest is no object");
    let members = manifest.as_object_mut().ok_or(unsigned)?;
    let mut signature = json!({ "key": public });
    if let Some(digest) = bundle.files_digest() {
        signature["bundle"] = digest.into();
    }
    members.insert("signature".to_owned(), signature);
    let text = secret.sign(&manifest_signing_input(&manifest)).to_string();
    manifest["signature"]["signature"] = text.into();
    let path = bundle.manifest_path();
    if path.extension().is_none_or(|extension| extension != "json") {
        session.out.note(&format!(
            "{} is written anew as JSON, which YAML is a form of; comments are gone",
            path.display()
        ));
    }
    write(path, &manifest).map_err(|error| Failure::file(path, &error))?;
    let answer = Answer::from_value(&json!({ "key": public, "signature": manifest["signature"] }));
    session.out.show(&answer, || {
        let sentence = format!("{} signed by {public}", path.display());
        Ok(Screen::confirmation(sentence, public.to_string()))
    })
}

/// Checks that the manifest's signature holds, and that it covers the bundle's other files as they are.
pub(super) fn verify(arguments: &Verify, session: &mut Session) -> Result<(), Failure> {
    let bundle = Bundle::read(&arguments.path)?;
    let failed = |detail: String| Failure::new(Exit::Failed, detail);
    let signature =
        verify_manifest_signature(&bundle.parsed.source).map_err(|e| failed(e.to_string()))?;
    if signature.bundle != bundle.files_digest() {
        let text = "signature.bundle: the files beside the manifest are not those that were signed";
        return Err(failed(text.to_owned()));
    }
    match arguments.key {
        Some(key) if key != signature.key => {
            let text = format!("signature.key: signed by {}, not by {key}", signature.key);
            return Err(failed(text));
        }
        Some(_) => {}
        None => session.out.warn(
            "the key is the bundle's own; with --key it is shown who signed, not only that it agrees with itself",
        ),
    }
    let answer = Answer::from_value(&json!({ "key": signature.key, "bundle": signature.bundle }));
    session.out.show(&answer, || {
        let sentence = format!("signed by {}", signature.key);
        Ok(Screen::confirmation(sentence, signature.key.to_string()))
    })
}

fn write(path: &Path, manifest: &Value) -> std::io::Result<()> {
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut aside = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer_pretty(&mut aside, manifest)?;
    aside.write_all(b"\n")?;
    let mode = std::fs::metadata(path)?.permissions();
    aside.as_file().set_permissions(mode)?;
    aside.as_file().sync_all()?;
    aside
        .persist(path)
        .map(drop)
        .map_err(|refused| refused.error)
}
