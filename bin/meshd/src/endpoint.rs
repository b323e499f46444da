//! `<data>/endpoint`: where clients on this host find the daemon.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file's name.
const FILE: &str = "endpoint";

/// The file, for as long as meshd serves. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Endpoint(PathBuf);

impl Endpoint {
    /// Writes the URL aside and gives it its name, so that no reader sees half of it.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub(crate) fn publish(data: &Path, url: &str) -> io::Result<Self> {
        let path = data.join(FILE);
        let mut aside = tempfile::NamedTempFile::new_in(data)?;
        writeln!(aside, "{url}")?;
        aside.persist(&path).map_err(|refused| refused.error)?;
        Ok(Self(path))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // One that stays misleads a client for one refused connection.
        let _stays = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_replaces_a_stale_one_and_is_gone_afterwards() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join(FILE);
        fs::write(&path, "http://127.0.0.1:1\n").unwrap();
        let endpoint = Endpoint::publish(data.path(), "http://127.0.0.1:2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "http://127.0.0.1:2\n");
        drop(endpoint);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }
}
