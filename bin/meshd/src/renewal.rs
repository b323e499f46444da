//! New certificates without a restart: taken when a file has changed, and at SIGHUP.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_api::Tls;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::endpoint::Endpoint;

/// How often it is looked whether a file has changed: a handful of calls to the system.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Takes other files for as long as it is polled; from now on SIGHUP means that, and ends nothing.
///
/// # Errors
/// The signal cannot be listened for.
pub(crate) fn renew(
    tls: Tls,
    certificates: PathBuf,
    data: PathBuf,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                _ = look.tick() => false,
            };
            let (tls, certificates, data) = (tls.clone(), certificates.clone(), data.clone());
            let taking = tokio::task::spawn_blocking(move || {
                // Looked at in any case, so that what was taken now is not taken again.
                if tls.has_changed() || asked {
                    take(&tls, &certificates, &data);
                }
            });
            if taking.await.is_err() {
                tracing::error!("taking certificates ended in a panic; trying again");
            }
        }
    })
}

fn take(tls: &Tls, certificates: &Path, data: &Path) {
    if let Err(error) = tls.reload() {
        let error = anyhow::Error::new(error);
        tracing::error!(
            error = format!("{error:#}"),
            "certificates were not taken; those of before stay in force"
        );
        return;
    }
    tracing::info!("certificates were taken");
    if let Err(error) = Endpoint::renew(data, certificates) {
        tracing::error!(%error, "clients on this host may not know the new certificate");
    }
}
