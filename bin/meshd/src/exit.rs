//! How meshd ends: the exit codes that supervisors of meshd may rely on.

use std::io::{self, Write};
use std::process::ExitCode;

/// Every way for meshd to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Ended as it was told to.
    Ok,
    /// What was asked for failed.
    Failed,
    /// The port or the data directory is in use.
    InUse,
    /// Bad configuration, or data of a newer version.
    Config,
    /// A failure escalated to the root, or a bug.
    Escalated,
    /// Disk full or read-only: try again when there is space.
    TryAgain,
}

impl Exit {
    /// The number the process ends with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::InUse => 5,
            Self::Config => 64,
            Self::Escalated => 70,
            Self::TryAgain => 75,
        }
    }

    /// What an error of the operating system means at start.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem => Self::TryAgain,
            io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => Self::InUse,
            _ => Self::Config,
        }
    }
}

/// Why meshd does not run, with how it ends.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// A failure with its cause.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// Something that the operating system refused.
    pub(crate) fn io(what: impl std::fmt::Display, error: io::Error) -> Self {
        let exit = Exit::of_io(&error);
        Self {
            exit,
            error: anyhow::Error::new(error).context(what.to_string()),
        }
    }
}

/// Ends the process: tells a failure on standard error, once, with all its causes.
pub(crate) fn finish(outcome: Result<Exit, Failure>) -> ExitCode {
    let exit = outcome.unwrap_or_else(|failure| {
        // Nobody is left to hear that standard error is closed.
        let _closed = writeln!(io::stderr(), "meshd: {:#}", failure.error);
        failure.exit
    });
    ExitCode::from(exit.code())
}
