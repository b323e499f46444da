//! TLS on the surface: its files, its handshakes, and the names in a client's certificate.
//!
//! Whether a certificate is genuine is decided here, by rustls; whom it stands for is not.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_messages::certificate::CertificateNames;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

mod names;
mod reload;

use reload::Loaded;

/// How long a handshake may take: a few round trips, and signatures on a busy machine.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at once, and a quarter of all connections at most, so that strangers do not take the places of those who
/// are served.
const HANDSHAKES_MAX: usize = 256;
/// Largest file that is read: a bundle of the web's authorities has a quarter of that.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where certificates and key are, each in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// meshd's certificate, followed by those that lead to its authority.
    pub cert: PathBuf,
    /// Its key. Nobody but its owner may have a right to it.
    pub key: PathBuf,
    /// The authorities of clients' certificates; without it clients are asked for none.
    pub client_ca: Option<PathBuf>,
    /// Lists of clients' certificates that were revoked; with it, one for each authority that signs them.
    pub client_crl: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub require_client_cert: bool,
}

/// Why there is no TLS. Each names the key of the configuration to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}", path.display())]
    Unreadable {
        /// The configuration's key.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read or change the key.
    #[error("api.tls.key: others have rights to {} (mode {mode:03o}); take them away with chmod 600", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{key}: {} holds no {expected} in PEM: {reason}", path.display())]
    Malformed {
        /// The configuration's key.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// Why it is not.
        reason: String,
    },
    /// Certificate and key cannot be used, or not with each other.
    #[error("api.tls: certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// The authorities of clients cannot be used.
    #[error("api.tls.client_ca: it cannot be used")]
    ClientCa(#[source] VerifierBuilderError),
    /// The revocation lists cannot be used.
    #[error("api.tls.client_crl: it cannot be used")]
    ClientCrl(#[source] VerifierBuilderError),
}

/// Why a connection did not come to speak TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("not done within {} s", HANDSHAKE_MAX.as_secs())]
    TimedOut,
    #[error("cut, because too many others were waiting")]
    Cut,
    #[error("{0}")]
    Failed(#[from] io::Error),
}

/// What the surface speaks TLS with. Cheap to clone; equal to its clones alone.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Loaded>);

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tls {}

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Loaded::new(files)?)))
    }

    /// Shakes hands, and tells what the client's certificate says, when it has one that an authority vouches for.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        cut: Cut,
    ) -> Result<(TlsStream<TcpStream>, Option<Arc<CertificateNames>>), HandshakeError> {
        let acceptor = TlsAcceptor::from(self.0.config());
        let shaking = timeout(HANDSHAKE_MAX, acceptor.accept(stream));
        let stream = tokio::select! {
            shaken = shaking => shaken.map_err(|_| HandshakeError::TimedOut)??,
            _ = cut.0 => return Err(HandshakeError::Cut),
        };
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let names = leaf.and_then(|leaf| names::read(leaf)).map(Arc::new);
        Ok((stream, names))
    }
}

/// Reads and checks the files, and makes of them what is spoken with.
fn read_all(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates("api.tls.cert", &files.cert)?;
    let key = private_key(&files.key)?;
    // Named, because another crate of the process may have made another provider the default.
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(clients(files, path, provider)?),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each connection is verified anew: a resumed one would bring a certificate along that was good once.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What checks the certificates of clients: by whom they are signed, and with lists that none of them was revoked.
fn clients(
    files: &TlsFiles,
    authorities: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let field = "api.tls.client_ca";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(field, authorities)? {
        roots
            .add(certificate)
            .map_err(|error| malformed(field, authorities, "authority", &error))?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(path) = &files.client_crl {
        // Of an authority without a list, or with one that is over, nothing is known, and nobody is let in.
        verifier = verifier
            .with_crls(revocations(path)?)
            .enforce_revocation_expiration();
    }
    if !files.require_client_cert {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map_err(|error| match error {
        VerifierBuilderError::InvalidCrl(_) => TlsError::ClientCrl(error),
        error => TlsError::ClientCa(error),
    })
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let (field, expected) = ("api.tls.client_crl", "revocation list");
    let (bytes, _) = read(field, path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| malformed(field, path, expected, &error))?;
    if found.is_empty() {
        return Err(malformed(field, path, expected, &"there is none"));
    }
    Ok(found)
}

/// Ends when a handshake has to make room.
#[derive(Debug)]
pub(crate) struct Cut(oneshot::Receiver<()>);

/// The handshakes that are not done. One too many ends the oldest: who is slow or says nothing keeps nobody out.
#[derive(Debug)]
pub(crate) struct Handshakes {
    // Closed once the handshake is over.
    waiting: VecDeque<oneshot::Sender<()>>,
    most: usize,
}

impl Handshakes {
    pub(crate) fn within(connections_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            most: (connections_max / 4).clamp(1, HANDSHAKES_MAX),
        }
    }

    pub(crate) fn begin(&mut self) -> Cut {
        self.waiting.retain(|handshake| !handshake.is_closed());
        while self.waiting.len() >= self.most {
            // Dropped, it cuts.
            self.waiting.pop_front();
        }
        let (handshake, cut) = oneshot::channel();
        self.waiting.push_back(handshake);
        Cut(cut)
    }
}

fn certificates(
    field: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let expected = "certificate";
    let (bytes, _) = read(field, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| malformed(field, path, expected, &error))?;
    if found.is_empty() {
        return Err(malformed(field, path, expected, &"there is none"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let field = "api.tls.key";
    let (bytes, mode) = read(field, path)?;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(TlsError::Open { path, mode });
    }
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| malformed(field, path, "private key", &error))
}

/// Content and permissions of one file: what is checked is what is read.
fn read(key: &'static str, path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let read = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let text = format!("too large: it has more than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::other(text));
        }
        Ok((bytes, metadata.permissions().mode() & 0o777))
    };
    read().map_err(|source| TlsError::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
}

fn malformed(
    key: &'static str,
    path: &Path,
    expected: &'static str,
    reason: &dyn std::fmt::Display,
) -> TlsError {
    TlsError::Malformed {
        key,
        path: path.to_owned(),
        expected,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unfinished_handshake_makes_room_and_finished_ones_take_none() {
        let mut handshakes = Handshakes::within(12);
        let mut first = handshakes.begin();
        let second = handshakes.begin();
        let mut third = handshakes.begin();
        // One is done: the next one needs nobody's place.
        drop(second);
        let mut fourth = handshakes.begin();
        let open = |cut: &mut Cut| cut.0.try_recv() == Err(oneshot::error::TryRecvError::Empty);
        assert!(open(&mut first) && open(&mut third) && open(&mut fourth));
        let mut fifth = handshakes.begin();
        assert!(!open(&mut first), "the oldest is cut");
        assert!(open(&mut third) && open(&mut fourth) && open(&mut fifth));
    }

    #[test]
    fn there_is_always_room_for_one_and_never_for_more_than_the_bound() {
        assert_eq!(Handshakes::within(1).most, 1);
        assert_eq!(Handshakes::within(1024).most, 256);
        assert_eq!(Handshakes::within(usize::MAX).most, HANDSHAKES_MAX);
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_and_not_cut() {
        let path = std::env::temp_dir().join(format!("mesh-tls-{}", std::process::id()));
        let most = vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap()];
        std::fs::write(&path, &most).unwrap();
        assert_eq!(read("x", &path).unwrap().0.len(), most.len());
        std::fs::write(&path, [&*most, b" "].concat()).unwrap();
        let refused = read("x", &path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(refused, TlsError::Unreadable { source, .. }
            if source.to_string().contains("too large")));
    }
}
