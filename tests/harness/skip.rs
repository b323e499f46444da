//! Tests that this machine cannot run say so, loudly: a silent skip looks like a pass.

use std::io::Write as _;
use std::path::Path;

/// Says that the calling test is skipped. The handle is written to directly, because the test runner swallows what a
/// passing test prints; `.ci/run` counts these lines.
pub fn skip(test: &str, reason: &str) {
    drop(writeln!(std::io::stderr(), "SKIPPED {test}: {reason}"));
}

/// Whether tests run as root, as mounting needs.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the agents of `rogue.py` can run; says that the test is skipped when not.
pub fn has_python(test: &str) -> bool {
    let found = ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join("python3").exists());
    if !found {
        skip(test, "python3 is not in /usr/local/bin, /usr/bin or /bin");
    }
    found
}

/// Whether a program is there; says that the test is skipped when not.
pub fn has_program(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    if !found {
        skip(test, &format!("{program} is not installed"));
    }
    found
}
