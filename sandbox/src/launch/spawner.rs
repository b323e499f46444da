//! The one thread that starts helpers.
//!
//! While sandboxes are about, it keeps one helper ahead of need: most of what a start takes is executing an image. Such a
//! helper has no order, holds nothing but the socket on which it waits for one, and ends with the thread, or a moment after
//! the last sandbox.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::de::DeserializeOwned;

use crate::helper::{MODE_BALLOON, MODE_LAUNCH, MODE_OWNER, MODE_PROBE};
use crate::probe::Trials;
use crate::wire::{Failure, HELPER_NAME};

/// Starts that may wait. The callers are threads that wait for the answer anyway.
const STARTS_MAX: usize = 16;

/// How long a helper waits for an order after the last sandbox has ended: over most restarts.
const SPARE_STAYS: Duration = Duration::from_secs(1);

/// How long after the start of a sandbox the next helper is started: that one's program starts in peace.
const SPARE_AFTER: Duration = Duration::from_millis(2);

/// A helper that waits for its order.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) process: Child,
    /// Where it takes the order, and whatever comes after it.
    pub(super) control: OwnedFd,
}

/// A helper that was asked for.
#[derive(Debug)]
pub(super) struct Asked(Receiver<io::Result<Helper>>);

impl Asked {
    /// Blocks until it runs.
    pub(super) fn wait(self) -> io::Result<Helper> {
        self.0.recv().map_err(|_| gone())?
    }
}

/// A handle to the thread.
#[derive(Debug)]
pub(super) struct Spawner {
    requests: SyncSender<Request>,
}

#[derive(Debug)]
enum Request {
    /// A helper for a sandbox.
    Helper(SyncSender<io::Result<Helper>>),
    /// One for anything else.
    Other(Start),
    /// A sandbox runs.
    Began,
    /// One that ran has ended.
    Ended,
}

#[derive(Debug)]
struct Start {
    mode: &'static str,
    about: Option<PathBuf>,
    stdin: Stdio,
    stdout: Stdio,
    answer: SyncSender<io::Result<Child>>,
}

fn gone() -> io::Error {
    io::Error::other("the spawner thread is gone")
}

impl Spawner {
    pub(super) fn start(image: Arc<File>) -> io::Result<Self> {
        let (requests, received) = sync_channel(STARTS_MAX);
        let run = move || Stable::new(&image).serve(&received);
        std::thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(run)?;
        Ok(Self { requests })
    }

    /// Asks for a helper that takes an order.
    pub(super) fn helper(&self) -> io::Result<Asked> {
        let (answer, started) = sync_channel(1);
        self.requests
            .send(Request::Helper(answer))
            .map_err(|_| gone())?;
        Ok(Asked(started))
    }

    /// A sandbox runs: the next start may be near.
    pub(super) fn began(&self) {
        // Without the thread nothing can be started anyway.
        self.requests.send(Request::Began).ok();
    }

    /// A sandbox of which [`Spawner::began`] was told has ended.
    pub(super) fn ended(&self) {
        self.requests.send(Request::Ended).ok();
    }

    /// Starts a helper that holds memory, which it is told on its standard input.
    pub(super) fn balloon(&self) -> io::Result<Child> {
        self.spawn(MODE_BALLOON, None, Stdio::piped(), Stdio::piped())
    }

    /// Lets a helper try what the machine gives.
    pub(super) fn probe(&self) -> io::Result<Trials> {
        self.tell(MODE_PROBE, None)
    }

    /// Lets a helper try whether an agent can stand for the owner of a path; how it failed, if it did.
    pub(super) fn owner(&self, path: &Path) -> io::Result<Option<Failure>> {
        self.tell(MODE_OWNER, Some(path.to_owned()))
    }

    /// Runs a helper to its end; what it prints.
    fn tell<T: DeserializeOwned>(
        &self,
        mode: &'static str,
        about: Option<PathBuf>,
    ) -> io::Result<T> {
        let mut child = self.spawn(mode, about, Stdio::null(), Stdio::piped())?;
        let mut told = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut told)?;
        }
        child.wait()?;
        let silent = |_| io::Error::other("the helper's image does not call `sandbox_main` first");
        serde_json::from_slice(&told).map_err(silent)
    }

    fn spawn(
        &self,
        mode: &'static str,
        about: Option<PathBuf>,
        stdin: Stdio,
        stdout: Stdio,
    ) -> io::Result<Child> {
        let (answer, started) = sync_channel(1);
        self.requests
            .send(Request::Other(Start {
                mode,
                about,
                stdin,
                stdout,
                answer,
            }))
            .map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }
}

/// The thread's own: what it starts helpers from, and the one that it has started already.
struct Stable {
    /// Not the path of the image: that may lead to another file by now.
    image: String,
    own: String,
    spare: Option<Helper>,
    /// Sandboxes that run.
    living: usize,
    /// Whether a spare one is to be started: one sandbox has begun, and the next may be near.
    due: bool,
}

impl Stable {
    fn new(image: &File) -> Self {
        Self {
            image: format!("/proc/self/fd/{}", image.as_raw_fd()),
            own: std::process::id().to_string(),
            spare: None,
            living: 0,
            due: false,
        }
    }

    fn serve(mut self, requests: &Receiver<Request>) {
        loop {
            let next = match (&self.spare, self.living) {
                (None, _) if self.due => requests.recv_timeout(SPARE_AFTER),
                (Some(_), 0) => requests.recv_timeout(SPARE_STAYS),
                _ => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(Request::Helper(answer)) => {
                    let helper = self.spare().map_or_else(|| self.helper(), Ok);
                    // Nobody waits any more: the helper sees its socket close and ends.
                    if let Err(unclaimed) = answer.send(helper)
                        && let Ok(helper) = unclaimed.0
                    {
                        helper.dismiss();
                    }
                }
                Ok(Request::Other(start)) => self.other(start),
                Ok(Request::Began) => {
                    self.living += 1;
                    self.due = true;
                }
                Ok(Request::Ended) => self.living = self.living.saturating_sub(1),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(spare) = self.spare.take() {
                        spare.dismiss();
                    } else {
                        // Whoever needs one is told why there is none.
                        self.spare = self.helper().ok();
                        self.due = false;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.spare.take().into_iter().for_each(Helper::dismiss);
    }

    /// The one that waits, if it still lives.
    fn spare(&mut self) -> Option<Helper> {
        let mut spare = self.spare.take()?;
        matches!(spare.process.try_wait(), Ok(None)).then_some(spare)
    }

    /// Starts a helper that takes an order.
    fn helper(&self) -> io::Result<Helper> {
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let process = self
            .command(MODE_LAUNCH, None)
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Helper { process, control })
    }

    fn other(&self, start: Start) {
        let child = self
            .command(start.mode, start.about)
            .stdin(start.stdin)
            .stdout(start.stdout)
            .spawn();
        // Nobody waits any more: the helper sees its input close and ends; this reaps it.
        if let Err(unclaimed) = start.answer.send(child)
            && let Ok(mut child) = unclaimed.0
        {
            child.wait().ok();
        }
    }

    fn command(&self, mode: &str, about: Option<PathBuf>) -> Command {
        let mut command = Command::new(&self.image);
        command
            .arg0(HELPER_NAME)
            .args([mode, &self.own])
            .args(about)
            .env_clear()
            .stderr(Stdio::null());
        command
    }
}

impl Helper {
    /// Ends it, which had no order.
    fn dismiss(mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
