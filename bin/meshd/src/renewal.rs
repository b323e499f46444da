//! New certificates without a restart: taken when a file has changed, and at SIGHUP; whom those of clients stand for, at
//! SIGHUP.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_api::Tls;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::endpoint::Endpoint;

/// How often it is looked whether a file has changed: a handful of calls to the system.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads the configuration again, and takes whom the certificates of clients stand for; else says why not.
pub(crate) type TakeClients = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Takes other files for as long as it is polled; from now on SIGHUP means that, and ends nothing.
///
/// # Errors
/// The signal cannot be listened for.
pub(crate) fn renew(
    tls: Tls,
    certificates: PathBuf,
    data: PathBuf,
    clients: Option<TakeClients>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was said of files that were not taken: they are tried again at each look, and it is said once.
        let said = Arc::new(Mutex::new(None));
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                _ = look.tick() => false,
            };
            let (tls, certificates, data) = (tls.clone(), certificates.clone(), data.clone());
            let (told, clients) = (Arc::clone(&said), clients.clone());
            let taking = tokio::task::spawn_blocking(move || {
                if asked && let Some(clients) = clients {
                    take_clients(&clients, &tls);
                }
                // Looked at in any case, so that what was taken now is not taken again.
                if tls.has_changed() || asked {
                    let why = take(&tls, &certificates, &data).err();
                    tell(&told, why, asked);
                }
            });
            if taking.await.is_err() {
                let why = "it ended in a panic".to_owned();
                tell(&said, Some(why), asked);
            }
        }
    })
}

/// Takes the clients; what cannot be taken changes nothing.
fn take_clients(clients: &TakeClients, tls: &Tls) {
    match clients() {
        Ok(()) => {
            tls.show_again();
            tracing::info!("clients were taken from the configuration");
        }
        Err(error) => tracing::error!(
            error,
            "clients were not taken from the configuration; those of before are known"
        ),
    }
}

/// Takes the files; says why they cannot be taken.
fn take(tls: &Tls, certificates: &Path, data: &Path) -> Result<(), String> {
    match tls.reload() {
        Ok(true) => tracing::info!("certificates were taken"),
        Ok(false) => tracing::info!("certificates hold what they held before"),
        Err(error) => return Err(format!("{:#}", anyhow::Error::new(error))),
    }
    if let Err(error) = Endpoint::renew(data, certificates) {
        tracing::error!(%error, "clients on this host may not know the new certificate");
    }
    Ok(())
}

/// Logs why certificates were not taken, when somebody asked or it is something else than last time.
fn tell(said: &Mutex<Option<String>>, why: Option<String>, asked: bool) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = &why
        && (asked || *said != why)
    {
        tracing::error!(
            error,
            "certificates were not taken; those of before stay in force"
        );
    }
    *said = why;
}
