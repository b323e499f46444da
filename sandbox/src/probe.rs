//! What this machine gives, found by doing it in a process that is thrown away afterwards.
//!
//! Looking at versions and settings is not enough: some systems let a namespace be made and then refuse
//! every mount in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::HomeForm;
use crate::wire::{Failure, Stage};

/// What a sandbox can be built from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The kernel's release.
    pub kernel: String,
    /// Whether meshd runs as root and can give each agent a user of its own.
    pub root: bool,
    /// User namespaces of an ordinary user.
    pub user_namespace: Finding,
    /// Own mounts and process ids: a private, read-only root with its own `/proc`.
    pub mounts: Finding,
    /// An own network with its loopback.
    pub network: Finding,
    /// Own System V and POSIX objects, host name and view of the cgroups.
    pub ipc: Finding,
    /// Giving up capabilities, and `no_new_privs`.
    pub privileges: Finding,
    /// Landlock.
    pub landlock: Finding,
    /// Landlock's version; 0 without it.
    pub landlock_abi: i32,
    /// System call filters.
    pub seccomp: Finding,
    /// Limiting processor time.
    pub cpu: Controller,
    /// Limiting memory.
    pub memory: Controller,
    /// Limiting processes.
    pub pids: Controller,
    /// Freezing all processes at once.
    pub freezer: Controller,
    /// Limiting how fast disks are read and written.
    pub io: Controller,
    /// Homes as file systems of their own, which hold the sum of what lies in them.
    #[serde(default = "Finding::unasked")]
    pub images: Finding,
}

impl Probe {
    /// What a new home is made of here, where an image at `path` is wanted or not.
    #[must_use]
    pub fn new_home(&self, wanted: bool, path: PathBuf) -> HomeForm {
        match (wanted, self.images.works) {
            (true, true) => HomeForm::Image { path },
            (true, false) => HomeForm::Directory {
                note: format!("no image, as {}", self.images.detail),
            },
            (false, _) => HomeForm::default(),
        }
    }
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Whether it worked.
    pub works: bool,
    /// What was seen, for a person.
    pub detail: String,
    /// How to get it, when it is missing.
    pub remedy: Option<String>,
}

/// A cgroup controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Which hierarchy offers it.
    pub kind: CgroupKind,
    /// Whether it can be used.
    pub finding: Finding,
}

/// The hierarchy behind a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupKind {
    /// The unified hierarchy.
    V2,
    /// A hierarchy of its own.
    V1,
    /// None that meshd may write to.
    None,
}

/// What the trials answered: how each failed, if it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trials {
    pub(crate) user_namespace: Option<Failure>,
    pub(crate) mounts: Option<Failure>,
    pub(crate) network: Option<Failure>,
    pub(crate) ipc: Option<Failure>,
    pub(crate) privileges: Option<Failure>,
    pub(crate) landlock: Option<Failure>,
    pub(crate) landlock_abi: i32,
    pub(crate) seccomp: Option<Failure>,
}

/// Settings of the host that explain why something does not work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostSettings {
    /// `kernel.apparmor_restrict_unprivileged_userns`.
    pub(crate) apparmor_restricts: bool,
    /// `kernel.unprivileged_userns_clone`, where the distribution has it.
    pub(crate) clone_disabled: bool,
    /// `user.max_user_namespaces` is zero.
    pub(crate) none_allowed: bool,
}

/// As whom meshd runs, and under what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether it is root.
    pub(crate) root: bool,
    /// Whether a system call filter holds meshd itself, as in a container.
    pub(crate) filtered: bool,
}

impl Standing {
    pub(crate) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let filtered = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"))
            .is_some_and(|mode| mode.trim() == "2");
        Self {
            root: rustix::process::geteuid().is_root(),
            filtered,
        }
    }

    /// What comes before every other cure.
    const fn unfiltered(self) -> &'static str {
        if self.filtered {
            "a system call filter holds meshd: run meshd outside the container, or with a seccomp profile that allows it; else "
        } else {
            ""
        }
    }
}

impl HostSettings {
    pub(crate) fn read() -> Self {
        let setting = |path: &str| {
            std::fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let is = |path: &str, value: &str| setting(path).as_deref() == Some(value);
        Self {
            apparmor_restricts: is(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
            ),
            clone_disabled: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            none_allowed: is("/proc/sys/user/max_user_namespaces", "0"),
        }
    }

    /// How to let meshd have namespaces and mounts.
    fn remedy(&self, root: bool) -> &'static str {
        if root {
            "run meshd outside a container, or in one that has CAP_SYS_ADMIN and whose seccomp and AppArmor profiles allow \
             namespaces and mounts"
        } else if self.apparmor_restricts {
            "give meshd an AppArmor profile with `userns,`, or `sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0`, or run meshd as root"
        } else if self.clone_disabled {
            "`sysctl -w kernel.unprivileged_userns_clone=1`, or run meshd as root"
        } else if self.none_allowed {
            "`sysctl -w user.max_user_namespaces=15000`, or run meshd as root"
        } else {
            "run meshd outside a container, in one whose seccomp and AppArmor profiles allow user \
             namespaces and mounts, or as root"
        }
    }
}

const REMEDY_LANDLOCK: &str = "use a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and have `landlock` in its `lsm=` list";
const REMEDY_SECCOMP: &str =
    "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64, aarch64 or riscv64";
const REMEDY_PRIVILEGES: &str = "run meshd where its seccomp profile lets it give up capabilities";

impl Trials {
    /// Puts the answers into words.
    pub(crate) fn findings(
        self,
        kernel: String,
        standing: Standing,
        settings: &HostSettings,
        cgroups: [Controller; 5],
        images: Finding,
    ) -> Probe {
        let root = standing.root;
        let cure = |other: &str| format!("{}{other}", standing.unfiltered());
        let namespaces = &cure(settings.remedy(root));
        let [cpu, memory, pids, freezer, io] = cgroups;
        let said = match self.landlock_abi {
            0 => "the kernel has no Landlock".to_owned(),
            abi => format!("version {abi}"),
        };
        Probe {
            kernel,
            root,
            user_namespace: finding(
                self.user_namespace,
                "an ordinary user may make them",
                namespaces,
            ),
            mounts: finding(self.mounts, "private root, own /proc", namespaces),
            network: finding(self.network, "empty network with loopback", namespaces),
            ipc: finding(self.ipc, "own IPC, host name and cgroup view", namespaces),
            privileges: finding(
                self.privileges,
                "no capabilities, no new ones",
                REMEDY_PRIVILEGES,
            ),
            landlock: finding(self.landlock, &said, &cure(REMEDY_LANDLOCK)),
            landlock_abi: self.landlock_abi,
            seccomp: finding(self.seccomp, "filters hold", &cure(REMEDY_SECCOMP)),
            cpu,
            memory,
            pids,
            freezer,
            io,
            images,
        }
    }
}

fn finding(failure: Option<Failure>, well: &str, remedy: &str) -> Finding {
    match failure {
        None => Finding {
            works: true,
            detail: well.to_owned(),
            remedy: None,
        },
        Some(failure) => Finding {
            works: false,
            detail: failure.to_string(),
            remedy: Some(remedy.to_owned()),
        },
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} failed ({})", self.stage, self.detail)?;
        if self.errno == 0 {
            return Ok(());
        }
        write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno))
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Order => "reading the plan",
            Self::UserNamespace => "making the user namespace",
            Self::Namespaces => "making the namespaces",
            Self::Mounts => "building the file system",
            Self::Network => "bringing up the loopback",
            Self::Fork => "starting a process",
            Self::Limits => "setting a resource limit",
            Self::Identity => "becoming the agent's user",
            Self::Privileges => "giving up privileges",
            Self::Landlock => "entering Landlock",
            Self::Workdir => "entering the working directory",
            Self::Seccomp => "installing the system call filters",
            Self::Exec => "executing the program",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Failure {
        Failure {
            stage: Stage::UserNamespace,
            errno: libc::EPERM,
            detail: "as an ordinary user".into(),
        }
    }

    #[test]
    fn a_missing_thing_names_its_cause_and_the_setting_that_cures_it() {
        let settings = HostSettings {
            apparmor_restricts: true,
            ..HostSettings::default()
        };
        let finding = finding(Some(failed()), "fine", settings.remedy(false));
        assert!(!finding.works);
        assert!(
            finding.detail.contains("making the user namespace"),
            "{}",
            finding.detail
        );
        assert!(
            finding.detail.contains("not permitted"),
            "{}",
            finding.detail
        );
        assert!(
            finding
                .remedy
                .unwrap()
                .contains("apparmor_restrict_unprivileged_userns=0")
        );
    }

    #[test]
    fn each_setting_has_its_own_cure() {
        let settings = [
            HostSettings {
                apparmor_restricts: true,
                ..HostSettings::default()
            },
            HostSettings {
                clone_disabled: true,
                ..HostSettings::default()
            },
            HostSettings {
                none_allowed: true,
                ..HostSettings::default()
            },
            HostSettings::default(),
        ];
        let cures: std::collections::BTreeSet<_> = settings
            .iter()
            .map(|settings| settings.remedy(false))
            .collect();
        assert_eq!(cures.len(), 4);
        // None of them says anything to root, which is not told to become root, either.
        for settings in settings {
            assert!(settings.remedy(true).contains("CAP_SYS_ADMIN"));
        }
    }
}
