//! A sandboxed process as an instance sees it: three pipes and the means to end it.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;

use mesh_messages::{Failure, FailureClass};
use mesh_sandbox::{Child, ExitStatus, LaunchError, Launcher, Plan};

/// The pipes of a process that has just started.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Its standard input.
    pub(crate) stdin: Stdin,
    /// Its standard output.
    pub(crate) stdout: pipe::Receiver,
    /// Its standard error.
    pub(crate) stderr: pipe::Receiver,
}

/// The input of a process, shared between who writes it and who wants to know what was read of it. It is at its end for
/// the process when the last of them lets go.
#[derive(Debug, Clone)]
pub(crate) struct Stdin(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pipe: pipe::Sender,
    // Held while bytes go into the pipe, or what is in it is compared with this: a process that reads a line and dies at
    // once must not be found to have died before that line was counted.
    written: Mutex<u64>,
}

impl Shared {
    fn written(&self) -> MutexGuard<'_, u64> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stdin {
    fn new(pipe: pipe::Sender) -> Self {
        let written = Mutex::new(0);
        Self(Arc::new(Shared { pipe, written }))
    }

    /// How many bytes were taken out of the pipe at its other end; also when that is closed already.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn read_bytes(&self) -> io::Result<u64> {
        let written = self.0.written();
        let unread = rustix::io::ioctl_fionread(&self.0.pipe)?;
        Ok(written.saturating_sub(unread))
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.pipe.poll_write_ready(cx))?;
            let mut written = self.0.written();
            match self.0.pipe.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) => {
                    *written += count as u64;
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Starts a sandbox and takes its pipes.
///
/// # Errors
/// A failure of class `start`; the program has not run.
pub(crate) async fn launch(launcher: &Launcher, plan: Plan) -> Result<(Child, Pipes), Failure> {
    let mut child = launcher
        .launch(plan)
        .await
        .map_err(|error| start_failure(&error))?;
    let pipes = take_pipes(&mut child).map_err(|error| {
        Failure::new(
            FailureClass::Start,
            format!("its pipes cannot be used: {error}"),
        )
    })?;
    Ok((child, pipes))
}

fn take_pipes(child: &mut Child) -> std::io::Result<Pipes> {
    let take = |end: &mut Option<OwnedFd>| {
        end.take()
            .ok_or_else(|| std::io::Error::other("pipe taken already"))
    };
    Ok(Pipes {
        stdin: Stdin::new(pipe::Sender::from_owned_fd(take(&mut child.stdin)?)?),
        stdout: pipe::Receiver::from_owned_fd(take(&mut child.stdout)?)?,
        stderr: pipe::Receiver::from_owned_fd(take(&mut child.stderr)?)?,
    })
}

fn start_failure(error: &LaunchError) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Failure::new(FailureClass::Start, text)
}

/// What the end of a process that nobody told to end means.
pub(crate) fn exit_failure(status: ExitStatus) -> Failure {
    match status {
        ExitStatus { oom: true, .. } => Failure::new(
            FailureClass::Resource,
            "ended by the kernel for want of memory",
        ),
        ExitStatus {
            signal: Some(25), ..
        } => Failure::new(
            FailureClass::Resource,
            "ended by the kernel for a file beyond its limit of disk",
        ),
        ExitStatus {
            signal: Some(signal),
            ..
        } => Failure::new(
            FailureClass::Crash,
            format!("ended by signal {signal}{}", signal_name(signal)),
        ),
        ExitStatus {
            code: Some(code), ..
        } => Failure::new(
            FailureClass::Crash,
            format!("exited with code {code} without being asked"),
        ),
        ExitStatus {
            code: None,
            signal: None,
            ..
        } => Failure::new(FailureClass::Crash, "ended"),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 => " (bus error)",
        8 => " (arithmetic)",
        9 => " (kill)",
        11 => " (segmentation fault)",
        15 => " (terminate)",
        24 => " (processor time)",
        31 => " (forbidden system call)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_not_read_is_known_also_when_nobody_can_read_it_any_more() {
        let (sender, mut receiver) = pipe::pipe().unwrap();
        let mut stdin = Stdin::new(sender);
        stdin.write_all(b"readunread").await.unwrap();
        receiver.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(stdin.read_bytes().unwrap(), 4);
        drop(receiver);
        assert_eq!(stdin.read_bytes().unwrap(), 4);
        assert!(stdin.write_all(b"more").await.is_err());
    }
}
