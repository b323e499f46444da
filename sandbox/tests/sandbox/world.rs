//! Where the suite runs: in a network, an IPC namespace and a mount namespace of its own, once as root and once as an
//! ordinary user. What only root can make (addresses, namespaces, another user) is made here, once for all tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, ExitCode};

use crate::bench::is_root;
use crate::say;

/// Set for a suite that runs in namespaces made by this module; names the user as which it runs.
pub(crate) const WORLD: &str = "MESH_SANDBOX_WORLD";

/// An address of the host outside of 127.0.0.0/8: reserved for documentation, and only ever on the test's own loopback.
pub(crate) const HOST_ADDRESS: &str = "192.0.2.77";

/// Where clouds answer their machines; here, only ever on the test's own loopback.
pub(crate) const METADATA_ADDRESS: &str = "169.254.169.254";

/// A user that no test machine gives to anybody, and not the agents'.
const USER: u32 = 61_043;

/// Prepares the namespaces, opens descriptors that no sandbox may inherit, and becomes the suite.
const PREPARE: &str = "
set -e
ip link set lo up
ip addr add \"$HOST_ADDRESS/32\" dev lo
ip addr add \"$METADATA_ADDRESS/32\" dev lo
echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
exec 7< \"$TMPDIR/descriptor\" 9< /usr
exec \"$@\"
";

/// The lines of a table but its head and what is empty.
pub(crate) fn without_lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().skip(1).filter(|line| !line.trim().is_empty())
}

/// Runs the suite in a world of its own as root, then as an ordinary user. `None` when that is not for this process to
/// do: it runs the tests itself, and says what it cannot show.
pub(crate) fn both(args: &[String]) -> Option<ExitCode> {
    if std::env::var_os(WORLD).is_some() {
        return None;
    }
    if !is_root() {
        say(
            "SKIPPED: the suite as root, and rows that need namespaces made by root: run it as root for both",
        );
        return None;
    }
    let missing = ["unshare", "setpriv", "ip"].into_iter().find(|tool| {
        let found = Command::new(tool).arg("--version").output();
        // Some say their version elsewhere; that they can be run is enough.
        found.is_err()
    });
    if let Some(tool) = missing {
        say(&format!(
            "SKIPPED: the suite as an ordinary user: no `{tool}` here (util-linux, iproute2)"
        ));
        return None;
    }
    let mut good = true;
    for (who, user) in [("root", None), ("an ordinary user", Some(USER))] {
        say(&format!("\nas {who}:"));
        good &= suite(who, user, args);
    }
    Some(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn suite(who: &str, user: Option<u32>, args: &[String]) -> bool {
    let dir = tempfile::Builder::new()
        .prefix("mesh-world-")
        .tempdir()
        .unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("descriptor"), "topsecret").unwrap();
    // The build directory may be closed to others.
    let image = dir.path().join("suite");
    fs::copy(std::env::current_exe().unwrap(), &image).unwrap();
    if user.is_some() {
        chown(dir.path(), user, user).unwrap();
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--ipc", "--mount", "/bin/sh", "-c", PREPARE, "sh"]);
    if let Some(user) = user {
        let user = user.to_string();
        command.args([
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "--inh-caps=-all",
        ]);
    }
    command.arg(&image).args(args);
    command
        .env(WORLD, who)
        .env("TMPDIR", dir.path())
        .env("HOME", dir.path());
    command
        .env("HOST_ADDRESS", HOST_ADDRESS)
        .env("METADATA_ADDRESS", METADATA_ADDRESS)
        .env("MESHSECRET", "topsecret");
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            say(&format!("the suite cannot be run as {who}: {error}"));
            false
        }
    }
}
