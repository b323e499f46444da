//! How each control is enforced on a given machine, one function per control.

use super::report::{Control, Enforcement, Level};
use super::user_namespace;
use crate::probe::{CgroupKind, Controller, Finding, Probe};
use crate::spec::{HomeForm, NetworkAccess, SandboxSpec};
use crate::wire::UserNamespace;

/// A control as worked out, with the remedy when it falls short of what was asked.
pub(super) struct Verdict {
    pub(super) enforcement: Enforcement,
    pub(super) short: Option<String>,
}

/// Every control, in the order of the report.
pub(super) fn verdicts(spec: &SandboxSpec, probe: &Probe) -> Vec<Verdict> {
    let mut all = vec![
        filesystem(spec, probe),
        processes(probe),
        network(spec, probe),
        ipc(spec, probe),
        user(spec, probe),
        simple(
            Control::Privileges,
            "no capabilities, no new privileges",
            &probe.privileges,
            "empty capability sets, no_new_privs",
        ),
        simple(
            Control::Syscalls,
            "no dangerous system calls",
            &probe.seccomp,
            "seccomp filters; foreign ABIs refused",
        ),
        cpu(spec, probe),
        memory(spec, probe),
        pids(spec, probe),
        disk(spec, probe),
        descriptors(spec),
        kernel(
            Control::Environment,
            "exact",
            "cleared, then set",
            String::new(),
        ),
    ];
    if let Some(bytes) = spec.limits.io_bytes_per_second {
        all.push(io(bytes, probe));
    }
    if !spec.execution.is_open() {
        all.push(all_of(
            Control::Execution,
            "only what was installed",
            &[&probe.mounts, &probe.landlock, &probe.seccomp],
            "what it can write is mounted without execution; Landlock; no files in memory",
        ));
    }
    all
}

fn verdict(
    control: Control,
    requested: &str,
    mechanism: &str,
    level: Level,
    detail: String,
) -> Verdict {
    let enforcement = Enforcement {
        control,
        requested: requested.to_owned(),
        mechanism: mechanism.to_owned(),
        level,
        detail,
    };
    Verdict {
        enforcement,
        short: None,
    }
}

fn kernel(control: Control, requested: &str, mechanism: &str, detail: String) -> Verdict {
    verdict(control, requested, mechanism, Level::Kernel, detail)
}

impl Verdict {
    fn short(self, remedy: impl Into<String>) -> Self {
        Self {
            short: Some(remedy.into()),
            ..self
        }
    }
}

/// Enforced by the kernel when every finding works, by nobody otherwise.
fn all_of(control: Control, requested: &str, findings: &[&Finding], mechanism: &str) -> Verdict {
    match findings.iter().find(|finding| !finding.works) {
        None => kernel(control, requested, mechanism, String::new()),
        Some(missing) => {
            let remedy = missing.remedy.clone().unwrap_or_default();
            verdict(
                control,
                requested,
                "none",
                Level::None,
                missing.detail.clone(),
            )
            .short(remedy)
        }
    }
}

fn simple(control: Control, requested: &str, finding: &Finding, mechanism: &str) -> Verdict {
    all_of(control, requested, &[finding], mechanism)
}

fn filesystem(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    let writable = spec
        .allowed_paths
        .iter()
        .filter(|path| !path.read_only)
        .count();
    let readable = spec.allowed_paths.len() - writable;
    let home = if spec.narrowed.home.changes() {
        "home"
    } else {
        "home to read"
    };
    let requested = format!("{home}, {readable} paths to read, {writable} to write");
    let mechanism = format!(
        "private mounts on a read-only root, Landlock {}",
        probe.landlock_abi
    );
    let mut told = all_of(
        Control::Filesystem,
        &requested,
        &[&probe.mounts, &probe.landlock],
        &mechanism,
    );
    let mut notes: Vec<&str> = spec
        .allowed_paths
        .iter()
        .map(|path| path.note.as_str())
        .filter(|note| !note.is_empty())
        .collect();
    if writable > 0 {
        notes.push(
            "whoever shares a path that can be written can talk through sockets and pipes in it",
        );
    }
    if told.short.is_none() {
        told.enforcement.detail = notes.join("; ");
    }
    told
}

fn processes(probe: &Probe) -> Verdict {
    let mechanism = "process namespace; the whole tree ends with its first process";
    simple(
        Control::Processes,
        "own tree only",
        &probe.mounts,
        mechanism,
    )
}

fn network(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    match spec.network {
        NetworkAccess::None => simple(
            Control::Network,
            "none",
            &probe.network,
            "own network namespace with loopback only",
        ),
        NetworkAccess::Proxy => simple(
            Control::Network,
            "outbound by policy",
            &probe.network,
            "egress proxy: own network namespace with loopback only, and meshd's listener on it",
        ),
        NetworkAccess::Open => verdict(
            Control::Network,
            "open",
            "none",
            Level::None,
            "the host's network, unfiltered, as the operator granted".to_owned(),
        ),
    }
}

fn ipc(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    /// The first Landlock version that keeps abstract sockets apart.
    const SCOPED: i32 = 6;
    let requested = "own objects only";
    if spec.network == NetworkAccess::Open && probe.ipc.works && probe.landlock_abi < SCOPED {
        let detail = "with the host's network come its abstract Unix sockets".to_owned();
        let remedy = "use a kernel of 6.12 or newer, or do not grant open network";
        return verdict(
            Control::Ipc,
            requested,
            "IPC namespace",
            Level::Advisory,
            detail,
        )
        .short(remedy);
    }
    simple(
        Control::Ipc,
        requested,
        &probe.ipc,
        "IPC, UTS and cgroup namespaces",
    )
}

fn user(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    let requested = "own unprivileged user";
    match (probe.root, spec.ids) {
        (true, Some(ids)) => {
            let namespace = if probe.user_namespace.works {
                ", user namespace"
            } else {
                ""
            };
            let mechanism = format!("uid {}, gid {}{namespace}", ids.uid, ids.gid);
            kernel(Control::User, requested, &mechanism, String::new())
        }
        (true, None) => {
            let detail =
                "meshd is root and no user was chosen; an agent is never user 0".to_owned();
            let remedy = "configure a range of user ids for agents";
            verdict(Control::User, requested, "none", Level::None, detail).short(remedy)
        }
        (false, _) => {
            let detail =
                "the same user as meshd, with its groups; only the namespaces keep agents apart";
            verdict(
                Control::User,
                requested,
                "user namespace",
                Level::None,
                detail.to_owned(),
            )
            .short("run meshd as root, so that it can give each agent a user")
        }
    }
}

fn unlimited(control: Control) -> Verdict {
    verdict(
        control,
        "unlimited",
        "none",
        Level::None,
        "no limit was asked for".to_owned(),
    )
}

/// A limit that only a control group holds exactly; `otherwise` is what remains without one.
fn grouped(
    control: Control,
    requested: &str,
    group: &Controller,
    otherwise: (&str, Level),
) -> Verdict {
    if group.finding.works {
        let kind = if group.kind == CgroupKind::V2 {
            "cgroup v2"
        } else {
            "cgroup v1"
        };
        return kernel(control, requested, kind, String::new());
    }
    let remedy = group.finding.remedy.clone().unwrap_or_default();
    verdict(
        control,
        requested,
        otherwise.0,
        otherwise.1,
        group.finding.detail.clone(),
    )
    .short(remedy)
}

fn cpu(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    let Some(millicores) = spec.limits.cpu_millicores else {
        return unlimited(Control::Cpu);
    };
    grouped(
        Control::Cpu,
        &format!("{millicores} millicores"),
        &probe.cpu,
        ("none", Level::None),
    )
}

fn memory(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    let Some(bytes) = spec.limits.memory_bytes else {
        return unlimited(Control::Memory);
    };
    let otherwise = ("RLIMIT_DATA of each process", Level::Advisory);
    grouped(
        Control::Memory,
        &format!("{bytes} bytes"),
        &probe.memory,
        otherwise,
    )
}

fn pids(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    let Some(pids) = spec.limits.pids else {
        return unlimited(Control::Pids);
    };
    let requested = format!("{pids} processes and threads");
    if !probe.pids.finding.works && user_namespace(probe) != UserNamespace::None {
        // Since Linux 5.14 the kernel counts this limit apart for each user namespace.
        let detail = format!("no cgroup: {}", probe.pids.finding.detail);
        return kernel(
            Control::Pids,
            &requested,
            "RLIMIT_NPROC in an own user namespace",
            detail,
        );
    }
    let otherwise = ("RLIMIT_NPROC of the user", Level::Advisory);
    grouped(Control::Pids, &requested, &probe.pids, otherwise)
}

fn disk(spec: &SandboxSpec, probe: &Probe) -> Verdict {
    let Some(bytes) = spec.limits.disk_bytes else {
        return unlimited(Control::Disk);
    };
    let requested = format!("{bytes} bytes");
    let mut detail = String::new();
    if let HomeForm::Directory { note } = &spec.home_form {
        detail.push_str(
            "each file is bounded, their sum is not; memory file systems are bounded by the kernel",
        );
        if !note.is_empty() {
            detail = format!("{detail}; {note}");
        }
        let otherwise = match &probe.images.remedy {
            Some(remedy) => remedy,
            None if note.is_empty() => "set sandbox.homes to `image`",
            None => "have the home become an image",
        };
        let remedy = format!("list `disk` in sandbox.degradable, or {otherwise}");
        return verdict(
            Control::Disk,
            &requested,
            "RLIMIT_FSIZE",
            Level::Advisory,
            detail,
        )
        .short(remedy);
    }
    detail = format!("its home is an ext4 image of {bytes} bytes, ext4's own tables among them");
    if probe.images.works && spec.ids.is_some() {
        return kernel(Control::Disk, &requested, "ext4 image", detail);
    }
    all_of(Control::Disk, &requested, &[&probe.images], "ext4 image")
}

fn io(bytes: u64, probe: &Probe) -> Verdict {
    let requested = format!("{bytes} bytes a second read, as many written");
    let group = &probe.io;
    let whole = group.kind == CgroupKind::V2 && probe.memory.kind == CgroupKind::V2;
    if !group.finding.works || whole {
        return grouped(Control::Io, &requested, group, ("none", Level::None));
    }
    let (mechanism, remedy) = if group.kind == CgroupKind::V2 {
        let remedy = "let control groups of version 2 account for memory, too";
        ("cgroup v2", remedy)
    } else {
        let remedy = "list `io` in sandbox.degradable, or use control groups of version 2";
        ("cgroup v1", remedy)
    };
    let detail = "reading and direct writing are held; what the kernel writes later is not counted";
    verdict(
        Control::Io,
        &requested,
        mechanism,
        Level::Advisory,
        detail.to_owned(),
    )
    .short(remedy)
}

fn descriptors(spec: &SandboxSpec) -> Verdict {
    let most = spec.limits.nofile.unwrap_or(crate::launch::NOFILE_DEFAULT);
    let requested = format!("only stdin, stdout and stderr; at most {most} open");
    kernel(
        Control::Descriptors,
        &requested,
        "closed before execution, RLIMIT_NOFILE",
        String::new(),
    )
}
