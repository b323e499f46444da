//! What an agent's home is made of: a directory, or a file system of its own in an image beside it.
//!
//! ```text
//! <data>/home/agents/<type>/<id>         whose it is, by its owner; the files, unless there is an image
//! <data>/home/images/<type>/<id>.ext4    the files
//! ```
//!
//! Where an image is, it is the home, whatever the setting says by now; where files lie in the directory, that is. So a change of
//! the setting loses nothing, and is for homes that are made from then on.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use mesh_sandbox::{HomeForm, image_usage, remove_home};

use super::spawn::SpawnRefusal;
use crate::context::Context;

const IMAGES: &str = "home/images";
const SUFFIX: &str = ".ext4";

/// What tells an image that is being made from one that is.
const DRAFT: &str = ".ext4.draft-";

/// Whether there are images in this data directory, or have been.
pub(crate) fn has_images(data: &Path) -> bool {
    data.join(IMAGES).is_dir()
}

/// Where the image of a home lies.
fn image_of(data: &Path, home: &Path) -> PathBuf {
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .unwrap_or_default()
            .to_owned()
    };
    let mut name: OsString = part(Some(home));
    name.push(SUFFIX);
    data.join(IMAGES).join(part(home.parent())).join(name)
}

/// What this home is made of, or will be. Looks at the disk, changes nothing.
///
/// # Errors
/// When it is an image and this machine mounts none.
pub(super) fn form(ctx: &Context, home: &Path) -> Result<HomeForm, SpawnRefusal> {
    let path = image_of(&ctx.settings.data, home);
    let probe = ctx.launcher.probe();
    if path.symlink_metadata().is_ok() {
        return match probe.new_home(true, path.clone()) {
            HomeForm::Directory { note } => Err(SpawnRefusal::Home(format!(
                "{} holds its files: {note}; {}",
                path.display(),
                probe.images.remedy.as_deref().unwrap_or_default()
            ))),
            image @ HomeForm::Image { .. } => Ok(image),
        };
    }
    let holds = || std::fs::read_dir(home).is_ok_and(|mut entries| entries.next().is_some());
    if ctx.settings.home_images && probe.images.works && holds() {
        let note = "no image, as the home was made as a directory and files lie in it: move them away while the agent is stopped, or remove \
                    it with its home";
        return Ok(HomeForm::Directory {
            note: note.to_owned(),
        });
    }
    Ok(probe.new_home(ctx.settings.home_images, path))
}

/// Whether files of a home lie in an image.
pub(super) fn is_image(data: &Path, home: &Path) -> bool {
    image_of(data, home).symlink_metadata().is_ok()
}

/// Removes a home, whatever it is made of. The image first: its directory says whose it is.
///
/// # Errors
/// The first that the kernel gives.
pub(crate) fn remove(data: &Path, home: &Path) -> io::Result<()> {
    match std::fs::remove_file(image_of(data, home)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    remove_home(home)
}

/// Bytes in the home of an instance that runs, where that is an image: no more can be there than its limit.
pub(crate) fn held(data: &Path, home: &Path) -> Option<u64> {
    let path = image_of(data, home);
    match image_usage(&path) {
        Ok(used) => used,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(image = %path.display(), %error, "what lies in a home cannot be told");
            None
        }
    }
}

/// Removes what a run left that was killed while it made an image. Before any agent starts.
pub(crate) fn remove_drafts(data: &Path) {
    let entries = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
    for dir in entries(data.join(IMAGES)) {
        for file in entries(dir.path()) {
            if file.file_name().to_string_lossy().contains(DRAFT)
                && let Err(error) = std::fs::remove_file(file.path())
            {
                tracing::warn!(file = %file.path().display(), %error, "half an image could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_home_has_an_image_of_its_own_and_both_go() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let home = data.join("home/agents/utility/a#1");
        let other = data.join("home/agents/utility/a");
        let image = image_of(data, &home);
        assert_eq!(image, data.join("home/images/utility/a#1.ext4"));
        assert_ne!(image, image_of(data, &other));
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(image.parent().unwrap()).unwrap();
        let draft = data.join("home/images/utility/a.ext4.draft-1-0");
        for file in [&image, &draft] {
            std::fs::write(file, "x").unwrap();
        }
        assert!(is_image(data, &home) && !is_image(data, &other));
        remove_drafts(data);
        assert!(image.exists() && !draft.exists());
        remove(data, &home).unwrap();
        assert!(!image.exists() && !home.exists());
        remove(data, &home).unwrap();
    }
}
