//! Starts sandboxes.
//!
//! ```text
//! caller ── launch(plan) ──► conductor thread, one per sandbox          (launch/conduct.rs)
//!                              │  home, order, groups, pipes
//!                              ├─ "start a helper" ──► spawner thread   (launch/spawner.rs)
//!                              │  order ► init ► go ► ready
//!            ◄── Child ────────┤
//!                              └─ waits for the end, removes the groups, publishes the exit status
//! ```
//!
//! The kernel ends a helper when the *thread* that started it ends. So one thread starts them all and lives
//! as long as any launcher or child does; a thread of an async runtime may end any time.

mod conduct;
mod spawner;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cgroup::{self, Ability, Hierarchies};
use crate::child::Child;
use crate::image;
use crate::plan::Plan;
use crate::probe::{Finding, HostSettings, Probe, Standing, Trials};
use crate::sweep::{self, SweepReport};
use crate::wire::Stage;

use spawner::Spawner;

/// Open descriptors of a process when no limit is asked for: the usual default of Linux.
pub(crate) const NOFILE_DEFAULT: u32 = 1_024;

/// What a launcher needs to know about its run.
#[derive(Debug, Clone)]
pub struct LauncherConfig {
    /// Where records of living sandboxes are kept for the sweep of a later run, e.g. `<data>/run`.
    pub run_dir: PathBuf,
    /// This run of meshd; different each time. The same letters as [`crate::SandboxSpec::run_id`].
    pub run_id: String,
    /// Names meshd's control groups; different for each data directory, the same for each run on it.
    pub tag: String,
    /// The program that calls [`crate::sandbox_main`]; this process's own image when `None`.
    pub helper: Option<PathBuf>,
    /// Whether to try if homes can be images ([`crate::HomeForm::Image`]), which takes some tens of milliseconds more.
    pub images: bool,
}

/// Why no launcher could be started. meshd cannot run agents then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The helper's image cannot be opened.
    #[error("cannot open the helper's image {}", path.display())]
    Image {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory for records cannot be made.
    #[error("cannot make the run directory {}", path.display())]
    RunDir {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name is not fit to be a file name.
    #[error("`{0}` is not a name of a-z, 0-9, `-`, `_`, `.`")]
    Name(String),
    /// The thread that starts helpers could not be started.
    #[error("cannot start the spawner thread")]
    Thread(#[source] io::Error),
    /// The helper could not try what the machine gives.
    #[error("the helper could not probe this machine")]
    Probe(#[source] io::Error),
}

/// Why a sandbox was not started. Its program did not run, and nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A step of the set-up failed in the helper. Report it; the probe may be out of date.
    #[error("{stage} failed ({detail})")]
    Setup {
        /// The step.
        stage: Stage,
        /// What it was about.
        detail: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The sandbox stands, but the program cannot be executed. Correct the manifest.
    #[error("cannot execute {program}")]
    Program {
        /// What was to be executed.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A path of the specification is missing, a link, or not accessible.
    #[error("cannot show {} in the sandbox", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The home holds another user's files. Give them to `wanted` (`chown -R`) or remove them.
    #[error("home {} belongs to user {owner}, not to {wanted}", home.display())]
    HomeOwner {
        /// The home.
        home: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who should own it.
        wanted: u32,
    },
    /// Something outside the helper could not be prepared. Retry with backoff.
    #[error("cannot prepare {what}")]
    Prepare {
        /// What.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The helper died before it was done, for instance for want of memory. Retry with backoff.
    #[error("the sandbox helper died before the program ran")]
    Died,
    /// The helper did not finish in time. Retry with backoff.
    #[error("the sandbox was not ready in time")]
    Timeout,
    /// The plan names another run than the launcher's. A bug of the caller.
    #[error("the plan belongs to run `{0}`, which is not this one")]
    Run(String),
}

/// Starts sandboxes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    spawner: Spawner,
    /// Held open, so that an upgrade of the file on disk does not change what is started.
    image: Arc<File>,
    pub(crate) hierarchies: Hierarchies,
    run_dir: PathBuf,
    run_id: String,
    probe: Probe,
}

impl Inner {
    /// A process that will hold memory; it is not told how much yet.
    pub(crate) fn balloon(&self) -> io::Result<std::process::Child> {
        self.spawner.balloon()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hierarchies.release();
    }
}

impl Launcher {
    /// Opens the helper's image, starts the spawner thread and probes the machine. Takes some tens of
    /// milliseconds and blocks meanwhile.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: LauncherConfig) -> Result<Self, StartError> {
        for name in [&config.run_id, &config.tag] {
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
            if name.is_empty()
                || name.len() > 64
                || name.starts_with('.')
                || !name.chars().all(legal)
            {
                return Err(StartError::Name(name.clone()));
            }
        }
        let path = config.helper.unwrap_or_else(|| "/proc/self/exe".into());
        let image = File::open(&path).map_err(|source| StartError::Image { path, source })?;
        let image = Arc::new(image);
        let run_dir = config.run_dir;
        fs::create_dir_all(&run_dir).map_err(|source| StartError::RunDir {
            path: run_dir.clone(),
            source,
        })?;
        let spawner = Spawner::start(Arc::clone(&image)).map_err(StartError::Thread)?;
        let trials = spawner.probe().map_err(StartError::Probe)?;
        let hierarchies = Hierarchies::discover(&config.tag);
        let images = if config.images {
            image::trial(&run_dir)
        } else {
            Finding::unasked()
        };
        let probe = findings(trials, &hierarchies, &run_dir, images);
        let run_id = config.run_id;
        Ok(Self {
            inner: Arc::new(Inner {
                spawner,
                image,
                hierarchies,
                run_dir,
                run_id,
                probe,
            }),
        })
    }

    /// What this machine gives, as found at the start.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.inner.probe
    }

    /// Tries whether an agent can stand for the owner of this path ([`crate::AllowedPath::as_owner`]), which differs with the
    /// file system that it lies on. Takes some milliseconds and blocks meanwhile. Only root is asked.
    ///
    /// # Errors
    /// Why not, with the cure, in words.
    pub fn stands_for_owner(&self, path: &Path) -> Result<(), String> {
        let why = match self.inner.spawner.owner(path) {
            Ok(None) => return Ok(()),
            Ok(Some(failure)) => failure.to_string(),
            Err(error) => error.to_string(),
        };
        Err(format!(
            "no agent can stand for its owner there: {why}; use Linux 5.12 or newer, which lets meshd make user namespaces, and a file \
             system that shows other owners than it has (ext4, XFS, btrfs; tmpfs from 6.3), or take the path out of \
             sandbox.files.as_owner"
        ))
    }

    /// Ends and removes whatever earlier runs on the same data directory left. Blocks until it is gone.
    ///
    /// Only processes that an earlier run recorded and that are still the same ones, or that live in
    /// groups of meshd's own, are touched.
    #[must_use]
    pub fn sweep(&self) -> SweepReport {
        sweep::sweep(
            &self.inner.run_dir,
            &self.inner.run_id,
            &self.inner.hierarchies,
        )
    }

    /// Removes the launcher's own places among the control groups, as far as no sandbox is in them. Dropping the last
    /// clone does the same, but a process that is about to exit may not get so far: call this last.
    pub fn close(&self) {
        self.inner.hierarchies.release();
    }

    /// Starts the sandbox and returns once its program runs. Dropping the future ends the sandbox.
    ///
    /// # Errors
    /// [`LaunchError`]; then nothing of the sandbox is left.
    pub async fn launch(&self, plan: Plan) -> Result<Child, LaunchError> {
        let (answer, started) = tokio::sync::oneshot::channel();
        conduct::begin(Arc::clone(&self.inner), plan, answer)?;
        started.await.unwrap_or(Err(LaunchError::Died))
    }

    /// [`Launcher::launch`] for a caller that may block.
    ///
    /// # Errors
    /// [`LaunchError`]; then nothing of the sandbox is left.
    ///
    /// # Panics
    /// On a thread of an async runtime.
    pub fn launch_blocking(&self, plan: Plan) -> Result<Child, LaunchError> {
        let (answer, started) = tokio::sync::oneshot::channel();
        conduct::begin(Arc::clone(&self.inner), plan, answer)?;
        started.blocking_recv().unwrap_or(Err(LaunchError::Died))
    }
}

fn findings(trials: Trials, hierarchies: &Hierarchies, data: &Path, images: Finding) -> Probe {
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let [cpu, memory, pids, freezer] = [
        Ability::Cpu,
        Ability::Memory,
        Ability::Pids,
        Ability::Freeze,
    ]
    .map(|ability| hierarchies.controller(ability));
    let io = cgroup::trial(hierarchies, data);
    trials.findings(
        kernel,
        Standing::read(),
        &HostSettings::read(),
        [cpu, memory, pids, freezer, io],
        images,
    )
}
