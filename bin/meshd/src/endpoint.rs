//! `<data>/endpoint`: where clients on this host find the daemon; beside it, where that speaks TLS, what to trust.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file's name.
const FILE: &str = "endpoint";
/// The certificates of meshd, by which clients on this host know it.
const CA_FILE: &str = "endpoint.ca";

/// The files, for as long as meshd serves. Dropped, they are removed.
#[derive(Debug)]
pub(crate) struct Endpoint(Vec<PathBuf>);

impl Endpoint {
    /// Writes the URL, after a copy of the certificates where there are any. Each is written aside and then given its
    /// name, so that no reader sees half of it.
    ///
    /// # Errors
    /// When the directory cannot be written to, or the certificates cannot be read any more.
    pub(crate) fn publish(data: &Path, url: &str, certificates: Option<&Path>) -> io::Result<Self> {
        let mut files = Vec::new();
        if let Some(certificates) = certificates {
            let path = data.join(CA_FILE);
            write(data, &path, &fs::read(certificates)?)?;
            files.push(path);
        }
        let path = data.join(FILE);
        write(data, &path, format!("{url}\n").as_bytes())?;
        files.push(path);
        Ok(Self(files))
    }

    /// Writes the copy of the certificates anew.
    ///
    /// # Errors
    /// As [`Endpoint::publish`]; the copy of before stands.
    pub(crate) fn renew(data: &Path, certificates: &Path) -> io::Result<()> {
        write(data, &data.join(CA_FILE), &fs::read(certificates)?)
    }
}

fn write(data: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut aside = tempfile::NamedTempFile::new_in(data)?;
    aside.write_all(content)?;
    aside.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        for file in &self.0 {
            // One that stays misleads a client for one refused connection.
            let _stays = fs::remove_file(file);
        }
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
        let endpoint = Endpoint::publish(data.path(), "http://127.0.0.1:2", None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "http://127.0.0.1:2\n");
        drop(endpoint);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }
}
