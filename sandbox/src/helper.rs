//! The re-executed helper: it turns itself into the sandbox, step by step, and then into the agent.
//!
//! ```text
//! meshd ─ spawner thread
//!   └─ outer   own session; makes the namespaces; waits for pid 1            (outer.rs)
//!        └─ pid 1   builds the file system; reaps; obeys the control socket  (init.rs)
//!             └─ agent   limits, identity, Landlock, seccomp, execve         (agent.rs)
//! ```
//!
//! Every link breaks the whole: `outer` dies with the spawner thread, pid 1 with `outer` or with the
//! control socket, and with pid 1 the kernel ends whatever lives in its namespace.

mod agent;
mod balloon;
mod identity;
mod init;
mod landlock;
mod mounts;
mod outer;
mod owners;
mod secrets;
mod trial;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::wire::{Failure, HELPER_NAME, Order, Stage, Status};

/// First argument of a helper that is to try what the machine gives.
pub(crate) const MODE_PROBE: &str = "probe";

/// First argument of a helper that is to try whether an agent can stand for the owner of a path.
pub(crate) const MODE_OWNER: &str = "owner";

/// First argument of a helper that is to become a sandbox.
pub(crate) const MODE_LAUNCH: &str = "launch";

/// First argument of a helper that is to hold memory at a sandbox's cost.
pub(crate) const MODE_BALLOON: &str = "balloon";

/// Exit code of a helper that could not do its work; what happened is on the status pipe.
const EXIT_FAILED: i32 = 125;

/// Whether this process was started to be a sandbox helper, and [`sandbox_main`] must be called.
#[must_use]
pub fn is_helper_invocation() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| name == HELPER_NAME)
}

/// The main of the helper. Call it first thing in `main`, before any thread exists, when
/// [`is_helper_invocation`] says so.
#[expect(clippy::exit, reason = "this is a process's main")]
pub fn sandbox_main() -> ! {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let launcher = args
        .next()
        .and_then(|pid| pid.parse().ok())
        .and_then(Pid::from_raw);
    let code = match (mode.as_str(), launcher) {
        (MODE_PROBE, Some(launcher)) => trial::run(launcher),
        (MODE_OWNER, Some(launcher)) => trial::owner(launcher, std::env::args_os().nth(3)),
        (MODE_LAUNCH, Some(launcher)) => outer::run(launcher),
        (MODE_BALLOON, Some(launcher)) => balloon::run(launcher),
        _ => EXIT_FAILED,
    };
    std::process::exit(code)
}

/// Dies with `parent`, now and from now on.
///
/// The kernel forgets this whenever the process changes its user or capabilities, so it is repeated
/// after each such step.
fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(parent) {
        return Ok(());
    }
    Err(io::Error::other("the launcher is gone"))
}

/// A step that failed.
#[derive(Debug)]
struct StepError {
    stage: Stage,
    source: io::Error,
    detail: String,
}

/// Names the step in which an error happened.
trait At<T> {
    fn at(self, stage: Stage, detail: impl Into<String>) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, stage: Stage, detail: impl Into<String>) -> Result<T, StepError> {
        self.map_err(|error| StepError {
            stage,
            source: error.into(),
            detail: detail.into(),
        })
    }
}

impl StepError {
    fn into_failure(self) -> Failure {
        let errno = self.source.raw_os_error().unwrap_or(0);
        let detail = match errno {
            0 => format!("{}: {}", self.detail, self.source),
            _ => self.detail,
        };
        Failure {
            stage: self.stage,
            errno,
            detail,
        }
    }
}

/// Where failures are told. Closed by `execve`, which is how the launcher learns that it worked.
#[derive(Debug)]
struct StatusPipe(File);

impl StatusPipe {
    fn new(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }

    fn tell(&mut self, status: &Status) -> io::Result<()> {
        let mut line = serde_json::to_vec(status)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// Tells a failure. When that fails too, the launcher sees the pipe end without a word.
    fn fail(&mut self, error: StepError) -> i32 {
        self.tell(&Status::Failed(error.into_failure())).ok();
        EXIT_FAILED
    }
}

/// The descriptors that came with an order, as far as they are still needed.
#[derive(Debug)]
struct Descriptors {
    status: StatusPipe,
    stdio: [OwnedFd; 3],
    image: OwnedFd,
    /// What the secrets hold; gone before the agent's process exists.
    secrets: Option<OwnedFd>,
    /// The mount of a home that is a file system of its own; gone before the agent's process exists.
    home: Option<OwnedFd>,
}

/// What pid 1 needs from its parent.
#[derive(Debug)]
struct Handover {
    order: Order,
    descriptors: Descriptors,
    control: OwnedFd,
    /// Ends when the parent does.
    lifeline: OwnedFd,
    /// For whom the agent stands in what it is granted.
    owners: owners::Owners,
}

/// Whether the other end of a pipe or socket is gone. Never blocks.
fn hung_up(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
}

/// Replaces standard input, output and error.
fn redirect(stdio: &[OwnedFd; 3]) -> io::Result<()> {
    rustix::stdio::dup2_stdin(stdio[0].as_fd())?;
    rustix::stdio::dup2_stdout(stdio[1].as_fd())?;
    rustix::stdio::dup2_stderr(stdio[2].as_fd())?;
    Ok(())
}
