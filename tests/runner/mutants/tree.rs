//! The copy of the sources that bugs are planted in.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::planted::Mutant;

/// Pause between two looks at a running test.
const PAUSE: Duration = Duration::from_millis(50);
/// Lines of a failed build that are shown.
const LINES_SHOWN: usize = 30;

/// How the tests of a package went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All of them passed.
    Passed,
    /// A test failed, or they did not come to an end.
    Caught { by: String },
    /// The compiler refused it.
    DoesNotBuild { why: String },
}

/// The sources as they are in the working tree, in a place of their own.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    target: PathBuf,
}

/// A file that has a bug in it until [`Planted::remove`].
#[derive(Debug)]
pub(super) struct Planted {
    path: PathBuf,
    sound: String,
}

impl Tree {
    /// Copies what git would commit, tracked or not. Files that are the same keep their times, so that cargo keeps its build.
    pub(super) fn copy() -> Result<Self, Box<dyn Error>> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .ok_or("the tests have no workspace around them")?;
        let place = from.join("target/mutants");
        let (root, target) = (place.join("tree"), place.join("target"));
        let listed = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(from)
            .output()?;
        if !listed.status.success() {
            return Err("git ls-files failed; planting bugs needs a git checkout".into());
        }
        let listed = String::from_utf8(listed.stdout)?;
        let names: BTreeSet<&str> = listed.split_terminator('\0').collect();
        for name in &names {
            let (source, copy) = (from.join(name), root.join(name));
            // A file that git still lists may have been deleted.
            let Ok(bytes) = fs::read(&source) else {
                continue;
            };
            if fs::read(&copy).is_ok_and(|old| old == bytes) {
                continue;
            }
            fs::create_dir_all(copy.parent().unwrap_or(&root))?;
            fs::write(&copy, bytes)?;
        }
        remove_others(&root, &root, &names)?;
        Ok(Self { root, target })
    }

    /// Puts a bug in.
    pub(super) fn plant(&self, mutant: &Mutant) -> Result<Planted, Box<dyn Error>> {
        let path = self.root.join(mutant.file);
        let sound = fs::read_to_string(&path)?;
        let places = sound.matches(mutant.from).count();
        if places != 1 {
            return Err(format!(
                "{}: {} has {places} places that read {:?}; exactly one is needed",
                mutant.name, mutant.file, mutant.from
            )
            .into());
        }
        fs::write(&path, sound.replacen(mutant.from, mutant.to, 1))?;
        Ok(Planted { path, sound })
    }

    /// Runs the tests of a package.
    pub(super) fn test(&self, package: &str, limit: Duration) -> Result<Outcome, Box<dyn Error>> {
        let built = self.cargo(package).arg("--no-run").output()?;
        if !built.status.success() {
            let told = String::from_utf8_lossy(&built.stderr);
            let lines: Vec<&str> = told.lines().collect();
            let from = lines.len().saturating_sub(LINES_SHOWN);
            return Ok(Outcome::DoesNotBuild {
                why: lines[from..].join("\n"),
            });
        }
        let told = tempfile::NamedTempFile::new()?;
        let mut running = self
            .cargo(package)
            .stdin(Stdio::null())
            .stdout(told.reopen()?)
            .stderr(Stdio::null())
            // A group, so that a test that hangs can be ended with everything that it started.
            .process_group(0)
            .spawn()?;
        let Some(status) = wait(&mut running, limit)? else {
            return Ok(Outcome::Caught {
                by: format!("a test that had not ended after {} s", limit.as_secs()),
            });
        };
        if status.success() {
            return Ok(Outcome::Passed);
        }
        let text = String::from_utf8_lossy(&fs::read(told.path())?).into_owned();
        let failed = text
            .lines()
            .filter_map(|line| line.strip_prefix("test "))
            .filter_map(|line| line.strip_suffix(" ... FAILED"));
        let failed: Vec<&str> = failed.collect();
        let by = match failed.as_slice() {
            [] => format!("the tests, which ended with {status}"),
            [one] => (*one).to_owned(),
            [one, more @ ..] => format!("{one} and {} more", more.len()),
        };
        Ok(Outcome::Caught { by })
    }

    fn cargo(&self, package: &str) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["test", "--package", package, "--no-fail-fast"])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            // Nobody debugs these builds, and they are smaller and quicker without.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_TERM_COLOR", "never");
        command
    }
}

impl Planted {
    /// Takes the bug out again.
    pub(super) fn remove(self) -> std::io::Result<()> {
        fs::write(&self.path, &self.sound)
    }
}

/// Waits for an end; ends it, and everything that it started, when there is none in time.
fn wait(running: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, Box<dyn Error>> {
    let began = Instant::now();
    loop {
        if let Some(status) = running.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() > limit {
            let group = i32::try_from(running.id()).ok();
            if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
                rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
            }
            running.wait()?;
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Removes from the copy what is not in the working tree any more.
fn remove_others(root: &Path, dir: &Path, names: &BTreeSet<&str>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(root, &path, names)?;
            continue;
        }
        let name = path.strip_prefix(root).ok().and_then(Path::to_str);
        if !name.is_some_and(|name| names.contains(name)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
