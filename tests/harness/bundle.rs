//! Agents for tests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// Every kind of bad manners, by the name that its first argument gives.
const ROGUE: &str = include_str!("agents/rogue.py");

/// A word in the command line and environment of everything that a test's agents start, and of nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker(String);

impl Marker {
    /// A new one.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("mesh-it-{}-{number}-end", std::process::id()))
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Marker {
    fn default() -> Self {
        Self::new()
    }
}

/// A manifest and the files beside it.
#[derive(Debug, Clone)]
pub struct Bundle {
    manifest: Value,
    files: Vec<(String, String)>,
}

impl Bundle {
    /// An agent with one capability, its own id, and nothing to run yet.
    pub fn new(id: &str) -> Self {
        Self {
            manifest: json!({"id": id, "version": "1.0.0", "capabilities": [id]}),
            files: Vec::new(),
        }
    }

    /// The part of meshd that answers with what it was asked: needs nothing but the binary. Its capability is `echo`.
    pub fn echo(id: &str) -> Self {
        Self::new(id)
            .set("capabilities", json!(["echo"]))
            .set("entry", json!("builtin:echo"))
    }

    /// `rogue.py` in one of its ways.
    pub fn rogue(id: &str, way: &str) -> Self {
        Self::new(id)
            .file("rogue.py", ROGUE)
            .set("entry", json!("rogue.py"))
            .set(
                "runtime",
                json!({"command": "python3", "args": ["rogue.py", way]}),
            )
    }

    /// `rogue.py` in one of its ways, with the mark on everything it starts.
    pub fn marked_rogue(id: &str, way: &str, marker: &Marker) -> Self {
        let mark = marker.as_str();
        Self::rogue(id, way).set(
            "runtime",
            json!({"command": "python3", "args": ["rogue.py", way, mark], "env": {"IT_MARK": mark}}),
        )
    }

    /// An agent that tries what it is asked to, on the network and around it (`agents/traveller.py`).
    pub fn traveller(id: &str) -> Self {
        Self::new(id)
            .file("traveller.py", include_str!("agents/traveller.py"))
            .set("entry", json!("traveller.py"))
            .set("runtime", json!({"command": "python3"}))
    }

    /// A shell script that speaks KLP.
    pub fn shell(id: &str, script: &str) -> Self {
        Self::new(id)
            .file("run.sh", &format!("#!/bin/sh\n{script}\n"))
            .set("entry", json!("run.sh"))
    }

    /// A shell script that is run once per task.
    pub fn command(id: &str, script: &str) -> Self {
        Self::shell(id, script).set("runtime", json!({"kind": "command"}))
    }

    /// Sets a part of the manifest.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.manifest[key] = value;
        self
    }

    /// Adds or replaces a file.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.retain(|(known, _)| known != name);
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// The agent's id.
    pub fn id(&self) -> &str {
        self.manifest["id"].as_str().expect("an id")
    }

    /// The manifest.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// Writes it into a directory of its own below `parent`.
    pub fn write(&self, parent: &Path) -> PathBuf {
        let dir = parent.join(self.id());
        fs::create_dir_all(&dir).expect("a directory for the bundle");
        fs::write(dir.join("manifest.json"), self.manifest.to_string()).expect("a manifest");
        for (name, content) in &self.files {
            let path = dir.join(name);
            fs::write(&path, content).expect("a file of the bundle");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        dir
    }

    /// It as the archive that `POST /v1/agents` takes.
    pub fn tar(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let manifest = self.manifest.to_string();
        let all = std::iter::once(("manifest.json", manifest.as_str())).chain(
            self.files
                .iter()
                .map(|(name, content)| (name.as_str(), content.as_str())),
        );
        for (name, content) in all {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            archive
                .append_data(&mut header, name, content.as_bytes())
                .expect("an entry");
        }
        archive.into_inner().expect("an archive")
    }
}
