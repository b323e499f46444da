//! How meshctl speaks TLS: whom it trusts, and as whom it shows itself.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use ureq::tls::{
    Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem,
};

/// Largest file that is read: a bundle of the web's authorities has a quarter of that.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The files that were named or found. Without `ca`, the web's authorities are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Authorities of meshd's certificate.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate to show.
    pub(crate) cert: Option<PathBuf>,
    /// Its key; in the certificate's file when absent.
    pub(crate) key: Option<PathBuf>,
}

/// Why TLS cannot be spoken with these files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file is not there, or not for us.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {expected} in PEM", path.display())]
    Malformed {
        path: PathBuf,
        expected: &'static str,
    },
    /// Certificate and key cannot be used, or not with each other.
    #[error("{} and its key cannot be shown: {source}", path.display())]
    Pair {
        path: PathBuf,
        source: rustls::Error,
    },
    /// A key says nothing without its certificate.
    #[error("--cert-key needs --cert (or MESH_CERT), the certificate that the key belongs to")]
    KeyAlone,
}

impl TlsFiles {
    /// Reads them.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn load(&self) -> Result<TlsConfig, TlsError> {
        let roots = match &self.ca {
            Some(path) => RootCerts::new_with_certs(&certificates(path)?),
            None => RootCerts::WebPki,
        };
        let client = match (&self.cert, &self.key) {
            (None, None) => None,
            (None, Some(_)) => return Err(TlsError::KeyAlone),
            (Some(cert), key) => {
                let chain = certificates(cert)?;
                let key = private_key(key.as_ref().unwrap_or(cert))?;
                check(&chain, &key).map_err(|source| TlsError::Pair {
                    path: cert.clone(),
                    source,
                })?;
                Some(ClientCert::new_with_certs(&chain, key))
            }
        };
        Ok(TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
            .root_certs(roots)
            .client_cert(client)
            .build())
    }
}

/// Does what the first connection will do, which takes for granted that it can be done.
fn check(chain: &[Certificate<'static>], key: &PrivateKey<'static>) -> Result<(), rustls::Error> {
    let chain = chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()));
    let key = PrivateKeyDer::try_from(key.der().to_vec())
        .map_err(|reason| rustls::Error::General(reason.to_owned()))?;
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain.collect(), key)?;
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, TlsError> {
    let malformed = || TlsError::Malformed {
        path: path.to_owned(),
        expected: "certificate",
    };
    let mut found = Vec::new();
    for item in parse_pem(&read(path)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| malformed())? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(malformed());
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, TlsError> {
    PrivateKey::from_pem(&read(path)?).map_err(|_| TlsError::Malformed {
        path: path.to_owned(),
        expected: "private key",
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}
