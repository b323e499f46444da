//! The real binary, in an empty directory and with an environment of the test's own.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// meshctl, about to be run.
#[derive(Debug)]
pub(crate) struct Meshctl {
    pub(crate) dir: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("standard output is JSON")
    }
}

impl Meshctl {
    /// With nothing to find.
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            env: Vec::new(),
        }
    }
    /// With `MESH_URL`.
    pub(crate) fn at(url: &str) -> Self {
        Self::new().env("MESH_URL", url)
    }
    /// With a variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }
    /// With a file in its directory.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        std::fs::write(path, content).expect("a file");
        self
    }
    /// A path in its directory.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
    /// The command, for more than a run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null());
        command
    }
    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(arguments).output().expect("meshctl runs");
        let text = |bytes| String::from_utf8(bytes).expect("meshctl writes UTF-8");
        Ran {
            code: status.code().expect("it ends by itself"),
            out: text(stdout),
            err: text(stderr),
        }
    }
}
