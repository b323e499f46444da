//! The one thread that starts helpers.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::de::DeserializeOwned;

use crate::helper::{MODE_BALLOON, MODE_LAUNCH, MODE_OWNER, MODE_PROBE};
use crate::probe::Trials;
use crate::wire::{Failure, HELPER_NAME};

/// Starts that may wait. The callers are threads that wait for the answer anyway.
const STARTS_MAX: usize = 16;

/// A handle to the thread.
#[derive(Debug)]
pub(super) struct Spawner {
    starts: SyncSender<Start>,
}

#[derive(Debug)]
struct Start {
    mode: &'static str,
    about: Option<PathBuf>,
    stdin: Stdio,
    stdout: Stdio,
    answer: SyncSender<io::Result<Child>>,
}

impl Spawner {
    pub(super) fn start(image: Arc<File>) -> io::Result<Self> {
        let (starts, received) = sync_channel(STARTS_MAX);
        let run = move || serve(&image, &received);
        std::thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(run)?;
        Ok(Self { starts })
    }

    /// Starts a helper that takes its order from `control`.
    pub(super) fn helper(&self, control: OwnedFd) -> io::Result<Child> {
        self.spawn(MODE_LAUNCH, None, control.into(), Stdio::null())
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
        let gone = || io::Error::other("the spawner thread is gone");
        self.starts
            .send(Start {
                mode,
                about,
                stdin,
                stdout,
                answer,
            })
            .map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }
}

fn serve(image: &File, starts: &Receiver<Start>) {
    let own = std::process::id().to_string();
    // Not by its path: that may lead to another file by now.
    let path = format!("/proc/self/fd/{}", image.as_raw_fd());
    while let Ok(Start {
        mode,
        about,
        stdin,
        stdout,
        answer,
    }) = starts.recv()
    {
        let mut command = Command::new(&path);
        command
            .arg0(HELPER_NAME)
            .args([mode, &own])
            .args(about)
            .env_clear();
        let child = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn();
        // Nobody waits any more: the helper sees its socket close and ends; this reaps it.
        if let Err(unclaimed) = answer.send(child)
            && let Ok(mut child) = unclaimed.0
        {
            child.wait().ok();
        }
    }
}
