//! Finds the binaries under test, and builds them when they are not there or out of date.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The daemon.
pub const MESHD: &str = "meshd";
/// The client.
pub const MESHCTL: &str = "meshctl";

/// Names a directory with ready binaries; nothing is built then.
const READY_DIR: &str = "MESH_BIN_DIR";

/// The path of one of the binaries.
///
/// `cargo test` builds binaries only for the tests of their own package, so this asks cargo, once per run: when they are
/// up to date that costs a moment.
pub fn binary(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match std::env::var_os(READY_DIR) {
        Some(dir) => PathBuf::from(dir),
        None => build(),
    })
    .join(name)
}

/// Builds both in the profile and target directory of the running test, `<target>/<profile>/deps/it-<hash>`.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let dir = test
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps");
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--package",
            MESHD,
            "--package",
            MESHCTL,
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(dir.parent().expect("the target directory"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .expect("cargo runs");
    assert!(built.success(), "meshd and meshctl do not build");
    dir.to_path_buf()
}
