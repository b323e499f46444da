//! A sandboxed process as an instance sees it: three pipes and the means to end it.

use std::os::fd::OwnedFd;

use tokio::net::unix::pipe;

use mesh_messages::{Failure, FailureClass};
use mesh_sandbox::{Child, ExitStatus, LaunchError, Launcher, Plan};

/// The pipes of a process that has just started.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Its standard input.
    pub(crate) stdin: pipe::Sender,
    /// Its standard output.
    pub(crate) stdout: pipe::Receiver,
    /// Its standard error.
    pub(crate) stderr: pipe::Receiver,
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
        stdin: pipe::Sender::from_owned_fd(take(&mut child.stdin)?)?,
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
        25 => " (file size)",
        31 => " (forbidden system call)",
        _ => "",
    }
}
