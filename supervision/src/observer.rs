//! Who is told what a supervisor does.

use mesh_supervision_core::supervisor::Report;

/// Is told everything that happens, in order: the crash before the restart, the restart before the start.
///
/// Called from within the supervisor, so it must neither block nor panic; hand on what takes time.
pub trait Observer: Send + Sync + 'static {
    /// One thing has happened.
    fn report(&self, supervisor: &str, report: &Report);
}

/// Logs by way of `tracing`; what a supervisor uses unless it is told otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl Observer for Log {
    fn report(&self, supervisor: &str, report: &Report) {
        match report {
            Report::Started { child, incarnation } => {
                tracing::debug!(supervisor, %child, %incarnation, "child started");
            }
            Report::StartFailed {
                child,
                incarnation,
                reason,
            } => {
                tracing::error!(supervisor, %child, %incarnation, reason, "child failed to start");
            }
            Report::Exited {
                child,
                incarnation,
                reason,
                restart,
            } if reason.is_abnormal() => {
                tracing::error!(supervisor, %child, %incarnation, %reason, ?restart, "child failed");
            }
            Report::Exited {
                child,
                incarnation,
                reason,
                restart,
            } => {
                tracing::info!(supervisor, %child, %incarnation, %reason, ?restart, "child ended");
            }
            Report::Restarting {
                child,
                restarts_in_window,
            } => {
                tracing::warn!(supervisor, %child, restarts_in_window, "restarting");
            }
            Report::LimitExceeded {
                child,
                intensity,
                period,
            } => {
                tracing::error!(supervisor, %child, intensity, ?period, "too many restarts; giving up");
            }
            Report::Overdue { child, incarnation } => {
                tracing::warn!(supervisor, %child, %incarnation, "child did not stop in time; killing it");
            }
            Report::Stopped {
                child,
                incarnation,
                reason,
                clean: true,
            } => {
                tracing::debug!(supervisor, %child, %incarnation, %reason, "child stopped");
            }
            Report::Stopped {
                child,
                incarnation,
                reason,
                clean: false,
            } => {
                tracing::error!(supervisor, %child, %incarnation, %reason, "child did not stop in order");
            }
            Report::Ended(end) if end.is_abnormal() => {
                tracing::error!(supervisor, %end, "supervisor gave up");
            }
            Report::Ended(end) => tracing::debug!(supervisor, %end, "supervisor ended"),
        }
    }
}
