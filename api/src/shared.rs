//! What all requests share.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_actors::operations::Operations;
use mesh_messages::certificate::CertificateNames;
use tokio::sync::{Semaphore, watch};

use crate::config::ApiConfig;

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) ops: Arc<dyn Operations>,
    pub(crate) config: ApiConfig,
    /// Free places for streams.
    pub(crate) streams: Arc<Semaphore>,
    /// The address that meshd listens on, when it does.
    pub(crate) bound: Option<SocketAddr>,
    /// Turns true when streams and waits are to end.
    pub(crate) closing: watch::Receiver<bool>,
}

impl Shared {
    /// Returns once meshd is shutting down.
    pub(crate) async fn closed(&self) {
        let mut closing = self.closing.clone();
        // Without a server there is nobody to close anything, and the sender is gone.
        if closing.wait_for(|closing| *closing).await.is_err() {
            futures::future::pending::<()>().await;
        }
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The verified certificate of the client of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerCertificate(pub(crate) Arc<CertificateNames>);
