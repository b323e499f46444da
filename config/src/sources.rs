//! Where values come from, before they are joined.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The file that is read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "config/meshd.yaml";

/// What the names of environment variables begin with; `__` stands for nesting.
pub const ENV_PREFIX: &str = "MESH_";

/// Variables of the client, which the daemon does not read.
pub const ENV_OF_THE_CLIENT: [&str; 6] = [
    "MESH_URL",
    "MESH_TOKEN",
    "MESH_DATA",
    "MESH_CA",
    "MESH_CERT",
    "MESH_CERT_KEY",
];

/// Where values come from; later ones win.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sources {
    /// A file's path and content.
    pub file: Option<(PathBuf, Vec<u8>)>,
    /// Environment variables, those of others included.
    pub env: Vec<(String, String)>,
    /// Dotted keys with the values that flags give them, each with the flag's name, such as `--listen`.
    pub flags: Vec<(String, String, Value)>,
}

/// A source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file that was named.
    #[error("cannot read the configuration {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A variable of ours is not UTF-8.
    #[error("the environment variable {0} is not UTF-8")]
    Env(String),
}

impl Sources {
    /// Reads the file (`path`, else [`DEFAULT_FILE`] when present) and the environment of this process.
    ///
    /// # Errors
    /// [`ReadError`] when the named file cannot be read, the default one is there but cannot, or a variable is no text.
    pub fn read(path: Option<&Path>) -> Result<Self, ReadError> {
        let file = match path {
            Some(path) => Some(read_file(path)?),
            None => match read_file(Path::new(DEFAULT_FILE)) {
                Ok(file) => Some(file),
                Err(ReadError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else {
                continue;
            };
            let value = value
                .into_string()
                .map_err(|_| ReadError::Env(name.to_owned()))?;
            env.push((name.to_owned(), value));
        }
        // The environment has no order of its own; errors should have one.
        env.sort();
        Ok(Self {
            file,
            env,
            flags: Vec::new(),
        })
    }

    /// Adds what a flag says.
    #[must_use]
    pub fn with_flag(mut self, flag: &str, key: &str, value: impl Into<Value>) -> Self {
        self.flags
            .push((flag.to_owned(), key.to_owned(), value.into()));
        self
    }
}

fn read_file(path: &Path) -> Result<(PathBuf, Vec<u8>), ReadError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok((path.to_owned(), bytes)),
        Err(source) => Err(ReadError::File {
            path: path.to_owned(),
            source,
        }),
    }
}
