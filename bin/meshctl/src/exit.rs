//! How meshctl ends: the exit codes scripts may rely on, and the one way a failure is told to people.

use std::io::{self, Write};

use crate::output::plain;

/// Every way for meshctl to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It worked.
    Ok,
    /// The request or the task failed, or a file is invalid.
    Failed,
    /// Wrong usage.
    Usage,
    /// There is no such thing.
    NotFound,
    /// Not allowed.
    Denied,
    /// It contradicts what is there.
    Conflict,
    /// No meshd answers.
    Unreachable,
    /// It takes longer than was waited.
    TimedOut,
    /// A bug, of meshd's or ours.
    Bug,
    /// Not now.
    TryAgain,
}

impl Exit {
    /// The number the process ends with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Conflict => 5,
            Self::Unreachable => 6,
            Self::TimedOut => 7,
            Self::Bug => 70,
            Self::TryAgain => 75,
        }
    }

    /// What an HTTP status means for us.
    pub(crate) const fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Ok,
            401 | 403 => Self::Denied,
            404 => Self::NotFound,
            409 => Self::Conflict,
            429 | 503 => Self::TryAgain,
            408 | 504 => Self::TimedOut,
            500..=599 => Self::Bug,
            _ => Self::Failed,
        }
    }
}

/// Why meshctl did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How to end.
    pub(crate) exit: Exit,
    /// What went wrong; empty when there is nothing left to say, or nobody to say it to.
    pub(crate) message: String,
    /// All that is wrong, when there is more than one thing.
    pub(crate) details: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// A failure with a text.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            details: Vec::new(),
            hint: None,
        }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An end whose reason has been told already.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// The same, with the next step.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with all that is wrong.
    #[must_use]
    pub(crate) fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// A file that could not be used.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        Self::new(Exit::Failed, format!("{}: {error}", path.display()))
    }

    /// Tells it: the message, then each detail on a line of its own, then what to do.
    pub(crate) fn report(&self, err: &mut dyn Write) -> io::Result<()> {
        if self.message.is_empty() {
            return Ok(());
        }
        writeln!(err, "meshctl: {}", plain(&self.message))?;
        for detail in &self.details {
            writeln!(err, "  {}", plain(detail))?;
        }
        if let Some(hint) = &self.hint {
            writeln!(err, "  {}", plain(hint))?;
        }
        Ok(())
    }
}

/// Standard output failed. That its reader has left (`meshctl events | head`) is an ordinary end.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::silent(Exit::Ok)
        } else {
            Self::new(Exit::Failed, format!("cannot write the output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_the_promised_exit_code() {
        let cases = [
            (200, 0),
            (202, 0),
            (204, 0),
            (400, 1),
            (413, 1),
            (422, 1),
            (401, 4),
            (403, 4),
            (404, 3),
            (409, 5),
            (429, 75),
            (503, 75),
            (504, 7),
            (500, 70),
            (302, 1),
        ];
        for (status, code) in cases {
            assert_eq!(Exit::of_status(status).code(), code, "{status}");
        }
    }

    #[test]
    fn report_names_message_details_and_next_step() {
        let mut told = Vec::new();
        Failure::new(Exit::Failed, "2 errors in manifest.yaml")
            .details(vec!["id: required".into(), "entry: \u{1b}[31mred".into()])
            .hint("see `meshd schema manifest`")
            .report(&mut told)
            .unwrap();
        assert_eq!(
            String::from_utf8(told).unwrap(),
            "meshctl: 2 errors in manifest.yaml\n  id: required\n  entry: \\u{1b}[31mred\n  see `meshd schema manifest`\n"
        );
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Ok, ""));
    }
}
