//! What is there beside the sandbox: interpreters, the data directory, limits.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use mesh_actors::secrets::SecretShelf;
use mesh_config::Config;
use mesh_sandbox::interpreter_paths;

use super::{Finding, Verdict, finding};
use crate::{identity, settings, storage};

/// Interpreters that are looked for: those of the entries that need none to be named.
const INTERPRETERS: [(&str, &str); 2] = [
    ("python3", "`.py` agents"),
    ("node", "`.js`, `.mjs` and `.ts` agents"),
];
/// Descriptors that a fleet of a hundred agents needs: six each, and the daemon's own.
const DESCRIPTORS_WANTED: u64 = 1024;

/// Everything about the host.
pub(super) fn findings(data_dir: &Path) -> Vec<Finding> {
    let mut findings: Vec<_> = INTERPRETERS.map(|(name, of)| interpreter(name, of)).into();
    findings.push(data(data_dir));
    findings.push(descriptors());
    findings
}

/// Whether the vault opens, where there is one.
pub(super) fn vault(config: &Config) -> Finding {
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    match SecretShelf::examine(&data, settings::vault_key(config).as_ref()) {
        Ok(0) => finding("secrets", "vault", Verdict::Good, "no secrets yet"),
        Ok(count) => finding(
            "secrets",
            "vault",
            Verdict::Good,
            format!("opens; {count} secrets"),
        ),
        Err(reason) => Finding {
            cure: Some("put the key back, or remove the vault and set its secrets anew".to_owned()),
            ..finding("secrets", "vault", Verdict::Weak, reason)
        },
    }
}

/// Whether the data directory is encrypted, or could be.
pub(super) fn encryption(config: &Config) -> Finding {
    match storage::examine(config) {
        Ok(at_rest) => finding("host", "encryption", Verdict::Good, at_rest.to_string()),
        Err((detail, cure)) => Finding {
            cure: Some(cure),
            ..finding("host", "encryption", Verdict::Weak, detail)
        },
    }
}

fn interpreter(name: &str, of: &str) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match interpreter_paths(name, OsStr::new(&path)) {
        Ok(found) => finding(
            "host",
            name,
            Verdict::Good,
            found.program.display().to_string(),
        ),
        Err(error) => Finding {
            cure: Some(format!("install {name} to run {of}; nothing else needs it")),
            ..finding("host", name, Verdict::Weak, error.to_string())
        },
    }
}

fn data(path: &Path) -> Finding {
    // The first directory on the way that exists is where a missing one would be made.
    let there = path.ancestors().find(|dir| dir.is_dir());
    let dir = there
        .filter(|dir| !dir.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    match tempfile::tempfile_in(&dir) {
        Ok(_) if path.is_dir() && identity::is_open_to_others(path) => Finding {
            cure: Some(format!("chmod 700 {}", path.display())),
            ..finding(
                "host",
                "data",
                Verdict::Weak,
                format!("{} can be looked into by others", path.display()),
            )
        },
        Ok(_) => finding(
            "host",
            "data",
            Verdict::Good,
            format!("{} can be written", path.display()),
        ),
        Err(error) => Finding {
            cure: Some("name another directory with --data, or make this one writable".to_owned()),
            ..finding(
                "host",
                "data",
                Verdict::Bad,
                format!("{}: {error}", dir.display()),
            )
        },
    }
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let shown = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let enough = limit.is_none_or(|limit| limit >= DESCRIPTORS_WANTED);
    let verdict = if enough { Verdict::Good } else { Verdict::Weak };
    Finding {
        cure: (!enough).then(|| format!("ulimit -Hn {DESCRIPTORS_WANTED}, for a hundred agents")),
        ..finding(
            "host",
            "descriptors",
            verdict,
            format!("{shown} may be open"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_missing_is_judged_by_where_it_would_be_made() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(data(&root.path().join("a/b")).verdict, Verdict::Good);
        assert_eq!(data(Path::new("/proc/no/such")).verdict, Verdict::Bad);
    }
}
