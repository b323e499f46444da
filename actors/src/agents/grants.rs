//! Files of the host that agents are granted: what the operator lets, what is there, and whether the agent's user can use it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mesh_messages::manifest::{AgentManifest, FileGrant};
use mesh_messages::problem::Problem;
use mesh_messages::system::{Caller, Role};
use mesh_sandbox::{AllowedPath, owned_below};

use super::spawn::SpawnRefusal;
use crate::context::{Context, FileBounds};

/// Whose files may still lie where they were granted to write, below the data directory: a file for each user, named as
/// it, that names the paths.
const FORMER: &str = "home/former";

/// What a manifest's grants are on this host, now.
///
/// # Errors
/// [`SpawnRefusal::Files`] for the first that the operator does not let, or that is not there.
pub(super) fn allowed_paths(
    ctx: &Context,
    manifest: &AgentManifest,
) -> Result<Vec<AllowedPath>, SpawnRefusal> {
    let bounds = &ctx.settings.files;
    let root = ctx.launcher.probe().root;
    let grants = manifest.security.file_grants();
    let one = |grant: &FileGrant| {
        let path = PathBuf::from(&grant.path);
        let refused = |why: String, policy: bool| SpawnRefusal::Files {
            field: field(manifest, &path),
            text: format!("{}: {why}", path.display()),
            policy,
        };
        if let Some(why) = blocked(bounds, &path) {
            return Err(refused(why, true));
        }
        present(&path).map_err(|why| refused(why, false))?;
        let as_owner = root && bounds.as_owner.iter().any(|top| path.starts_with(top));
        if as_owner && is_roots(&path) {
            let why = "it belongs to user or group 0, for whom no agent stands; give it an owner of its own, or take it out of \
                       sandbox.files.as_owner";
            return Err(refused(why.to_owned(), false));
        }
        if as_owner {
            let tried = ctx.launcher.stands_for_owner(&path);
            tried.map_err(|why| refused(why, false))?;
        }
        let note = if root && !as_owner {
            unusable(&path, grant.rights.changes())
        } else {
            None
        };
        Ok(AllowedPath {
            read_only: !grant.rights.changes(),
            as_owner,
            note: note.unwrap_or_default(),
            path,
        })
    };
    grants.paths.iter().map(one).collect()
}

/// The manifest's field that grants a path.
fn field(manifest: &AgentManifest, path: &Path) -> String {
    let all = &manifest.security.file_access.allowed_paths;
    let index = all.iter().position(|allowed| path.starts_with(allowed));
    format!(
        "security.fileAccess.allowedPaths[{}]",
        index.unwrap_or_default()
    )
}

/// Why the operator does not let a path be granted.
fn blocked(bounds: &FileBounds, path: &Path) -> Option<String> {
    if let Some(allowed) = &bounds.allowed
        && !allowed.iter().any(|top| path.starts_with(top))
    {
        return Some("not below any of sandbox.files.allowed_paths".to_owned());
    }
    let hit = bounds.blocked.iter().find(|one| {
        if one.is_absolute() {
            path.starts_with(one) || one.starts_with(path)
        } else {
            path.iter().any(|part| part == one.as_os_str())
                || std::fs::symlink_metadata(path.join(one)).is_ok()
        }
    })?;
    Some(format!(
        "it is, lies in or holds {}, which sandbox.files.blocked_paths names",
        hit.display()
    ))
}

/// Whoever is no admin grants nothing that the operator did not name.
pub(crate) fn by_whom(
    ctx: &Context,
    caller: &Caller,
    manifest: &AgentManifest,
) -> Result<(), Problem> {
    let access = &manifest.security.file_access;
    if ctx.settings.files.allowed.is_some()
        || caller.role == Role::Admin
        || access.allowed_paths.is_empty()
    {
        return Ok(());
    }
    let text = "security.fileAccess.allowedPaths: only an admin may register an agent that is granted files of the host, \
                unless sandbox.files.allowed_paths names which";
    let field = "security.fileAccess.allowedPaths[0]";
    Err(Problem::invalid("policy_refused", field, text))
}

/// That a path is there, and is no link and behind none, so that nobody else chooses what is granted.
fn present(path: &Path) -> Result<(), String> {
    match std::fs::canonicalize(path) {
        Ok(real) if real == path => Ok(()),
        Ok(real) => Err(format!(
            "it is, or lies behind, a symbolic link; grant {} itself",
            real.display()
        )),
        Err(error) => Err(format!("it cannot be granted: {error}")),
    }
}

fn is_roots(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() == 0 || meta.gid() == 0)
}

/// What a user of its own cannot do in a path that only its modes let it use.
fn unusable(path: &Path, writes: bool) -> Option<String> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    let (read, write) = if meta.is_dir() {
        (0o5, 0o3)
    } else {
        (0o4, 0o2)
    };
    let lacks = |bits: u32| meta.mode() & bits != bits;
    let verb = match (writes && lacks(write), lacks(read)) {
        (_, true) => "read",
        (true, false) => "write",
        (false, false) => return None,
    };
    let owner = meta.uid();
    let cure = if is_roots(path) {
        "give it an owner that is not root and name it in sandbox.files.as_owner, or open its mode"
    } else {
        "name it in sandbox.files.as_owner, or open its mode"
    };
    Some(format!(
        "{}: belongs to user {owner}, and the agent's own user cannot {verb} there; {cure}",
        path.display()
    ))
}

/// What there is to say of an agent's grants when it is registered.
pub(crate) fn notices(ctx: &Context, manifest: &AgentManifest) -> Vec<String> {
    allowed_paths(ctx, manifest)
        .unwrap_or_default()
        .into_iter()
        .filter(|path| !path.note.is_empty())
        .map(|path| format!("{}: {}", field(manifest, &path.path), path.note))
        .collect()
}

/// Notes for the users of homes that are about to go where they may have left files.
pub(crate) fn remember(
    data: &Path,
    homes: &[PathBuf],
    manifests: &[&AgentManifest],
) -> std::io::Result<()> {
    let mut paths: BTreeSet<String> = manifests
        .iter()
        .flat_map(|manifest| manifest.security.file_grants().paths)
        .filter(|grant| grant.rights.changes())
        .map(|grant| grant.path)
        .collect();
    if paths.is_empty() {
        return Ok(());
    }
    for home in homes {
        let Ok(meta) = std::fs::symlink_metadata(home) else {
            continue;
        };
        paths.extend(former(data, meta.uid()).unwrap_or_default());
        let note = serde_json::to_vec(&paths)?;
        super::spawn::write_kept(&data.join(FORMER).join(meta.uid().to_string()), &note)?;
    }
    Ok(())
}

fn former(data: &Path, user: u32) -> Option<BTreeSet<String>> {
    let text = std::fs::read(data.join(FORMER).join(user.to_string())).ok()?;
    // What cannot be read says that there is something, and not what: the whole system then, which holds too much to be
    // looked through.
    Some(serde_json::from_slice(&text).unwrap_or_else(|_| BTreeSet::from(["/".to_owned()])))
}

/// The users about whom there are notes.
pub(super) fn former_users(data: &Path) -> BTreeSet<u32> {
    let name = |name: &OsStr| name.to_str().and_then(|text| text.parse().ok());
    std::fs::read_dir(data.join(FORMER))
        .into_iter()
        .flatten()
        .filter_map(|entry| name(&entry.ok()?.file_name()))
        .collect()
}

/// Whether nothing of a user is left where it was granted to write; then its note goes, too.
pub(super) fn is_forgotten(data: &Path, user: u32) -> bool {
    let Some(paths) = former(data, user) else {
        return true;
    };
    let left = paths
        .iter()
        .any(|path| owned_below(Path::new(path), user).unwrap_or(true));
    if !left {
        // One that stays is looked at again the next time.
        std::fs::remove_file(data.join(FORMER).join(user.to_string())).ok();
    }
    !left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(allowed: Option<&[&str]>, blocked: &[&str]) -> FileBounds {
        let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect();
        FileBounds {
            allowed: allowed.map(paths),
            blocked: paths(blocked),
            as_owner: Vec::new(),
        }
    }

    #[test]
    fn what_the_operator_does_not_let_is_told_from_what_it_does() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("ada/.ssh")).unwrap();
        let ada = dir.path().join("ada");
        let open = bounds(None, &[".ssh", "/srv/closed"]);
        for (path, is_blocked) in [
            (Path::new("/srv/open"), false),
            (Path::new("/srv/closed-not"), false),
            (Path::new("/srv/closed"), true),
            (Path::new("/srv/closed/below"), true),
            (Path::new("/srv"), true),
            (&ada, true),
            (&ada.join(".ssh"), true),
            (&ada.join(".ssh/id"), true),
            (&ada.join("files"), false),
        ] {
            assert_eq!(blocked(&open, path).is_some(), is_blocked, "{path:?}");
        }
        let few = bounds(Some(&["/srv/open"]), &[]);
        assert!(blocked(&few, Path::new("/srv/open/below")).is_none());
        assert!(blocked(&few, Path::new("/srv/opened")).is_some());
        assert!(blocked(&bounds(Some(&[]), &[]), Path::new("/srv")).is_some());
    }

    #[test]
    fn a_link_and_nothing_are_not_granted() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::os::unix::fs::symlink(top.join("real"), top.join("link")).unwrap();
        assert_eq!(present(&top.join("real")), Ok(()));
        assert!(present(&top.join("link")).unwrap_err().contains("link"));
        assert!(present(&top.join("absent")).is_err());
    }

    #[test]
    fn a_note_stays_until_nothing_of_the_users_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        let me = std::fs::metadata(&shared).unwrap().uid();
        let note = dir.path().join(FORMER).join(me.to_string());
        let text = serde_json::to_vec(&[&shared]).unwrap();
        super::super::spawn::write_kept(&note, &text).unwrap();
        assert_eq!(former_users(dir.path()), BTreeSet::from([me]));
        // The directory itself is its own.
        assert!(!is_forgotten(dir.path(), me));
        std::fs::remove_dir(&shared).unwrap();
        assert!(is_forgotten(dir.path(), me));
        assert!(!note.exists() && is_forgotten(dir.path(), me));
        std::fs::write(&note, "nonsense").unwrap();
        assert!(!is_forgotten(dir.path(), me));
    }
}
