//! Finds the hierarchies of this machine and a place of meshd's own in each.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Ability;
use crate::probe::{CgroupKind, Controller, Finding};

/// Where meshd moves itself when its own group must hold groups: version 2 keeps processes in leaves only.
const OWN_LEAF: &str = "meshd-daemon";

const REMEDY: &str = "run meshd as root, or as a systemd service with `Delegate=yes` \
     (`systemd-run --user --scope -p Delegate=yes meshd` for a trial)";

/// The directory in one hierarchy under which meshd makes its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) kind: CgroupKind,
    pub(crate) parent: PathBuf,
}

/// What can be done, and where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hierarchies {
    abilities: BTreeMap<Ability, Hierarchy>,
    problems: BTreeMap<Ability, String>,
}

/// A mounted hierarchy and this process's own place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    kind: CgroupKind,
    controllers: Vec<String>,
    own: PathBuf,
}

impl Hierarchies {
    /// Looks for a writable place for each ability. `tag` names meshd's directory there and differs
    /// between data directories.
    pub(crate) fn discover(tag: &str) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mounted = parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let mut found = Self::default();
        let useful = |hierarchy: &&Mounted| {
            hierarchy.kind == CgroupKind::V2 || !v1_abilities(hierarchy).is_empty()
        };
        for hierarchy in mounted.iter().filter(useful) {
            match claim(hierarchy, tag) {
                Ok((parent, abilities)) => {
                    let place = Hierarchy {
                        kind: hierarchy.kind,
                        parent: parent.clone(),
                    };
                    for ability in abilities {
                        found
                            .abilities
                            .entry(ability)
                            .or_insert_with(|| place.clone());
                    }
                    if !found.parents().contains(&&place) {
                        // Another hierarchy does all that this one can; an empty directory is all to undo.
                        fs::remove_dir(&parent).ok();
                    }
                }
                Err(error) => {
                    let problem = format!("{}: {error}", hierarchy.own.display());
                    for ability in Ability::ALL {
                        found
                            .problems
                            .entry(ability)
                            .or_insert_with(|| problem.clone());
                    }
                }
            }
        }
        found
    }

    /// The place for one ability.
    pub(crate) fn get(&self, ability: Ability) -> Option<&Hierarchy> {
        self.abilities.get(&ability)
    }

    /// Every directory under which meshd makes groups, once each.
    pub(crate) fn parents(&self) -> Vec<&Hierarchy> {
        let mut parents: Vec<&Hierarchy> = Vec::new();
        for hierarchy in self.abilities.values() {
            if !parents.contains(&hierarchy) {
                parents.push(hierarchy);
            }
        }
        parents
    }

    /// Removes meshd's own directories, as far as no group is left in them.
    pub(crate) fn release(&self) {
        for hierarchy in self.parents() {
            // A group that is left belongs to the next sweep, and so does its parent.
            fs::remove_dir(&hierarchy.parent).ok();
        }
    }

    /// What to report about one ability.
    pub(crate) fn controller(&self, ability: Ability) -> Controller {
        let finding = |works, detail, remedy| Finding {
            works,
            detail,
            remedy,
        };
        if let Some(place) = self.get(ability) {
            let detail = place.parent.display().to_string();
            return Controller {
                kind: place.kind,
                finding: finding(true, detail, None),
            };
        }
        let missing = || format!("no hierarchy offers `{}`", ability.v1());
        let detail = self.problems.get(&ability).cloned().unwrap_or_else(missing);
        Controller {
            kind: CgroupKind::None,
            finding: finding(false, detail, Some(REMEDY.to_owned())),
        }
    }
}

/// Pairs the mounts of `/proc/self/mountinfo` with the places of `/proc/self/cgroup`; version 2 first.
fn parse(mountinfo: &str, cgroup: &str) -> Vec<Mounted> {
    let places: Vec<(&str, &str)> = cgroup
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(_, rest)| rest.split_once(':'))
        .collect();
    let mut mounted: Vec<Mounted> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let mut before = before.split(' ').skip(3);
        let (Some(root), Some(point)) = (before.next(), before.next()) else {
            continue;
        };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        let (kind, place) = match kind {
            Some("cgroup2") => (
                CgroupKind::V2,
                places.iter().find(|(names, _)| names.is_empty()),
            ),
            Some("cgroup") => {
                let mounted_here = |names: &str| {
                    !names.is_empty()
                        && names
                            .split(',')
                            .all(|name| options.split(',').any(|o| o == name))
                };
                (
                    CgroupKind::V1,
                    places.iter().find(|(names, _)| mounted_here(names)),
                )
            }
            _ => continue,
        };
        let Some((names, path)) = place else { continue };
        let Some(own) = below(root, path) else {
            continue;
        };
        let controllers = names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let own = Path::new(point).join(own);
        if !mounted.iter().any(|seen| seen.own == own) {
            mounted.push(Mounted {
                kind,
                controllers,
                own,
            });
        }
    }
    mounted.sort_by_key(|hierarchy| hierarchy.kind != CgroupKind::V2);
    mounted
}

/// The part of `path` below a mount's root; `None` when it lies outside.
fn below<'a>(root: &str, path: &'a str) -> Option<&'a Path> {
    Path::new(path).strip_prefix(root).ok()
}

/// Makes meshd's directory in a hierarchy and says what groups in it can do.
fn claim(mounted: &Mounted, tag: &str) -> io::Result<(PathBuf, Vec<Ability>)> {
    let parent = mounted.own.join(format!("meshd-{tag}"));
    make_directory(&parent)?;
    let abilities = match mounted.kind {
        CgroupKind::V2 => {
            delegate(&mounted.own)?;
            delegate(&parent)?;
            offered_v2(&parent)
        }
        CgroupKind::V1 | CgroupKind::None => v1_abilities(mounted),
    };
    // A directory of ours is no proof that processes may be moved: try a group and its files.
    let trial = parent.join(".trial");
    make_directory(&trial)?;
    let writable = fs::OpenOptions::new()
        .write(true)
        .open(trial.join("cgroup.procs"));
    fs::remove_dir(&trial)?;
    writable.map(|_| (parent, abilities))
}

/// What groups of a version 1 hierarchy can do.
fn v1_abilities(mounted: &Mounted) -> Vec<Ability> {
    let offered = |ability: &Ability| mounted.controllers.iter().any(|name| name == ability.v1());
    Ability::ALL.into_iter().filter(offered).collect()
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        answer => answer,
    }
}

/// Hands the controllers of `group` that matter down to the groups in it.
fn delegate(group: &Path) -> io::Result<()> {
    let offered = fs::read_to_string(group.join("cgroup.controllers"))?;
    for name in Ability::ALL.into_iter().filter_map(Ability::v2) {
        if !offered.split_whitespace().any(|offer| offer == name) {
            continue;
        }
        let enable = || fs::write(group.join("cgroup.subtree_control"), format!("+{name}"));
        match enable() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                leave(group)?;
                enable()?;
            }
            answer => answer?,
        }
    }
    Ok(())
}

/// Moves meshd into a leaf of its own group, when nobody else lives in it.
fn leave(group: &Path) -> io::Result<()> {
    let own = std::process::id().to_string();
    let members = fs::read_to_string(group.join("cgroup.procs"))?;
    if members.lines().any(|pid| pid != own) {
        return Err(io::Error::other(
            "other processes live in meshd's group, so it cannot hold groups",
        ));
    }
    let leaf = group.join(OWN_LEAF);
    make_directory(&leaf)?;
    fs::write(leaf.join("cgroup.procs"), own)
}

fn offered_v2(parent: &Path) -> Vec<Ability> {
    let handed = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    let handed = |name: &str| handed.split_whitespace().any(|word| word == name);
    Ability::ALL
        .into_iter()
        .filter(|ability| ability.v2().is_none_or(handed))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 29 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 29 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 29 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 29 0:30 / /home rw,relatime - ext4 /dev/vda rw";

    #[test]
    fn every_hierarchy_is_paired_with_our_place_in_it() {
        let places = "3:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/x\n0::/user/s.scope\n";
        let found = parse(HYBRID, places);
        let own: Vec<_> = found
            .iter()
            .map(|mounted| mounted.own.to_str().unwrap())
            .collect();
        let expected = [
            "/sys/fs/cgroup/unified/user/s.scope",
            "/sys/fs/cgroup/cpu,cpuacct/",
            "/sys/fs/cgroup/memory/a/b",
            "/sys/fs/cgroup/systemd/x",
        ];
        assert_eq!(own, expected);
        assert_eq!(found[1].controllers, ["cpu", "cpuacct"]);
    }

    #[test]
    fn a_mount_that_shows_only_a_part_is_entered_relative_to_that_part() {
        let mount = "30 29 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw";
        let found = parse(mount, "0::/docker/abc/inner\n");
        assert_eq!(found[0].own, Path::new("/sys/fs/cgroup/inner"));
        assert!(parse(mount, "0::/elsewhere\n").is_empty());
    }

    #[test]
    fn a_missing_ability_says_why_and_how_to_get_it() {
        let controller = Hierarchies::default().controller(Ability::Memory);
        assert_eq!(controller.kind, CgroupKind::None);
        assert!(controller.finding.remedy.unwrap().contains("Delegate=yes"));
    }
}
