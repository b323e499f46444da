//! Turns a plan into the helper's order: what is where in the sandbox. Looks at the host's files, changes none.

mod layout;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::launch::{LaunchError, NOFILE_DEFAULT};
use crate::plan::Plan;
use crate::spec::{HOME_INSIDE, NetworkAccess, PROXY_PORT, Program, SandboxSpec, TempAccess};
use crate::wire::{LandlockOrder, Limit, Order};

use layout::Layout;

/// Memory that one process may lock: enough for secrets, too little to starve the host.
const MEMLOCK_BYTES: u64 = 8 << 20;

/// Signals that may wait for the user's processes; each costs kernel memory.
const SIGPENDING: u64 = 1_024;

/// Bytes of POSIX message queues: the kernel's own default.
const MSGQUEUE_BYTES: u64 = 819_200;

/// What programs look at to find a proxy; some only at one case.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Works out everything that the helper of `plan` is to do.
pub(crate) fn build(plan: &Plan) -> Result<Order, LaunchError> {
    let spec = &plan.spec;
    let layout = Layout::of(spec)?;
    let image = spec.program == Program::Image;
    let name = match &spec.program {
        Program::Path(path) => path.display().to_string(),
        Program::Image => "meshd".to_owned(),
    };
    let program = match &spec.program {
        Program::Path(path) => Some(path.clone()),
        Program::Image => None,
    };
    Ok(Order {
        hostname: hostname(&spec.label),
        ids: spec.ids,
        user_namespace: plan.user_namespace,
        own_network: spec.network != NetworkAccess::Open,
        proxy_port: (spec.network == NetworkAccess::Proxy).then_some(PROXY_PORT),
        secrets: spec
            .secrets
            .iter()
            .map(|secret| (secret.name.clone(), secret.content.len() as u64))
            .collect(),
        landlock: LandlockOrder {
            abi: plan.landlock_abi,
            rules: layout.rules(),
            image,
        },
        root: layout.finish(),
        limits: limits(plan),
        execution: spec.execution,
        program,
        args: std::iter::once(name)
            .chain(spec.args.iter().cloned())
            .collect(),
        env: environment(spec),
        workdir: spec.workdir.clone().unwrap_or_else(|| HOME_INSIDE.into()),
    })
}

fn environment(spec: &SandboxSpec) -> Vec<String> {
    let mut env: BTreeMap<&str, &str> = BTreeMap::from([
        ("HOME", HOME_INSIDE),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ]);
    if spec.temp == TempAccess::Private {
        env.insert("TMPDIR", "/tmp");
    } else if spec.narrowed.home.write && spec.narrowed.home.delete {
        // Many programs fail without any place for temporary files.
        env.insert("TMPDIR", HOME_INSIDE);
    }
    // What node asks for and no sandbox gives, and for old versions the way to the proxy.
    env.insert("NODE_OPTIONS", layout::NODE_OPTIONS);
    // HTTP in every variable: clients without support for SOCKS refuse to start at all when one names it.
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    if spec.network == NetworkAccess::Proxy {
        env.extend(PROXY_VARIABLES.map(|name| (name, proxy.as_str())));
        env.extend(["NO_PROXY", "no_proxy"].map(|name| (name, "localhost,127.0.0.1,::1")));
        // Without it node's own client looks at none of these, and older ones not even with it.
        env.insert("NODE_USE_ENV_PROXY", "1");
    }
    env.extend(
        spec.env
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    );
    env.into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// A label as a host name: what DNS allows, and never empty.
fn hostname(label: &str) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = label.chars().take(63).map(legal).collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "agent".to_owned()
    } else {
        name.to_owned()
    }
}

fn limits(plan: &Plan) -> Vec<(Limit, u64)> {
    let asked = &plan.spec.limits;
    let mut limits = vec![
        // A dump would write the agent's secrets to the disk.
        (Limit::Core, 0),
        (Limit::Nofile, asked.nofile.unwrap_or(NOFILE_DEFAULT).into()),
        (Limit::Memlock, MEMLOCK_BYTES),
        (Limit::Sigpending, SIGPENDING),
        (Limit::Msgqueue, MSGQUEUE_BYTES),
        (Limit::Nice, 0),
        (Limit::Rtprio, 0),
    ];
    limits.extend(asked.disk_bytes.map(|bytes| (Limit::Fsize, bytes)));
    if !plan.pids_by_group {
        limits.extend(asked.pids.map(|pids| (Limit::Nproc, pids.into())));
    }
    if !plan.memory_by_group {
        limits.extend(asked.memory_bytes.map(|bytes| (Limit::Data, bytes)));
    }
    limits
}

/// Makes the agent's home when it is missing and sees to it that it is the agent's, and closed to everybody else.
pub(crate) fn prepare_home(spec: &SandboxSpec) -> Result<(), LaunchError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt as _, chown};
    let home = &spec.home;
    let error = |source| LaunchError::Path {
        path: home.clone(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(home)
        .map_err(error)?;
    let meta = fs::symlink_metadata(home).map_err(error)?;
    if !meta.is_dir() {
        return Err(error(io::ErrorKind::NotADirectory.into()));
    }
    if meta.mode() & 0o7777 != 0o700 {
        // An earlier incarnation opened it to others, or closed it to itself.
        fs::set_permissions(home, fs::Permissions::from_mode(0o700)).map_err(error)?;
    }
    let Some(ids) = spec.ids else { return Ok(()) };
    if meta.uid() == ids.uid {
        return Ok(());
    }
    let empty = fs::read_dir(home).map_err(error)?.next().is_none();
    if meta.uid() != 0 || !empty {
        // Whatever another user left there may be links and programs meant for this one.
        return Err(LaunchError::HomeOwner {
            home: home.clone(),
            owner: meta.uid(),
            wanted: ids.uid,
        });
    }
    chown(home, Some(ids.uid), Some(ids.gid)).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_label_becomes_a_host_name() {
        for (label, expected) in [
            ("echo", "echo"),
            ("Web Scraper!", "web-scraper"),
            ("日本", "agent"),
            ("", "agent"),
        ] {
            assert_eq!(hostname(label), expected);
        }
        assert!(hostname(&"x".repeat(200)).len() <= 63);
    }
}
