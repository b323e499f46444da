//! From a name to a connection: resolved once, checked, and dialled by the very address that was checked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::denial::{Code, Denial};
use crate::host::Host;
use crate::policy::Policy;

/// How the proxy speaks TLS; made by [`tls_config`].
pub type TlsConfig = ClientConfig;

/// Addresses of one name that are tried; a name may have hundreds.
const ADDRESSES_MAX: usize = 4;

/// Turns names into addresses.
#[async_trait]
pub trait Resolver: Send + Sync + std::fmt::Debug + 'static {
    /// All addresses of a name, in the order in which they are to be tried.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // The dot keeps the host's search domains out of it: an agent that asks for `db` is not to get `db.corp.example`.
        let absolute = if name.contains('.') {
            format!("{name}.")
        } else {
            name.to_owned()
        };
        let found = tokio::net::lookup_host((absolute.as_str(), 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// Connects to a host that [`Policy::decide`] let through.
///
/// # Errors
/// The [`Denial`], about this host and port.
pub(crate) async fn dial(
    policy: &Policy,
    resolver: &dyn Resolver,
    limit: Duration,
    host: &Host,
    port: u16,
) -> Result<TcpStream, Denial> {
    let attempt = async {
        let addresses = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => match policy.hosts.get(name) {
                Some(addresses) => addresses.clone(),
                None => resolver.resolve(name).await.map_err(|error| {
                    Denial::new(
                        Code::NotResolved,
                        format!("the name cannot be resolved: {error}"),
                    )
                })?,
            },
        };
        let mut good = permitted(&addresses, |address| policy.permits_address(address))?;
        good.truncate(ADDRESSES_MAX);
        connect(&good, port).await
    };
    let connected = tokio::time::timeout(limit, attempt).await;
    let late = || Denial::new(Code::Timeout, format!("no connection within {limit:?}"));
    connected
        .map_err(|_| late())
        .and_then(|connected| connected)
        .map_err(|denial| denial.at(host, port))
}

/// Those of a name's addresses that `permits` leaves, in their order; the first refusal when it leaves none.
pub(crate) fn permitted(
    addresses: &[IpAddr],
    permits: impl Fn(IpAddr) -> Result<(), Denial>,
) -> Result<Vec<IpAddr>, Denial> {
    let mut refusal = None;
    let mut good = Vec::new();
    for address in addresses {
        match permits(*address) {
            Ok(()) => good.push(*address),
            Err(denial) => {
                refusal.get_or_insert(denial);
            }
        }
    }
    if good.is_empty() {
        let nothing = || Denial::new(Code::NotResolved, "the name has no address");
        return Err(refusal.unwrap_or_else(nothing));
    }
    Ok(good)
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, Denial> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(*address, port)).await {
            Ok(stream) => {
                // Small requests wait for nothing; a failure costs only latency.
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.map_or_else(String::new, |error| format!(": {error}"));
    Err(Denial::new(
        Code::Unreachable,
        format!("nobody answers there{error}"),
    ))
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file of further authorities cannot be read.
    #[error("sandbox.egress.extra_ca: {} holds no readable certificates in PEM: {reason}", path.display())]
    ExtraCa {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The library refused its own set-up.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// How the proxy speaks TLS where it does so in an agent's name: the web's authorities, and the operator's further ones.
///
/// # Errors
/// [`TlsError`].
pub fn tls_config(extra_ca: Option<&std::path::Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    if let Some(path) = extra_ca {
        let failed = |reason: String| TlsError::ExtraCa {
            path: path.to_owned(),
            reason,
        };
        let found =
            CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
        let mut count = 0;
        for certificate in found {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| failed(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(failed("it is empty".to_owned()));
        }
    }
    // Named, because another crate of the process may have made another provider the default.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Answers with a good address first and with a forbidden one ever after.
    #[derive(Debug, Default)]
    struct Flipping(AtomicUsize);

    #[async_trait]
    impl Resolver for Flipping {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
            Ok(vec![
                if first { "127.0.0.1" } else { "10.0.0.1" }
                    .parse()
                    .unwrap(),
            ])
        }
    }

    fn granting(networks: &[&str]) -> Policy {
        Policy {
            networks: crate::grants_from(networks.iter().copied()).unwrap(),
            ..Policy::default()
        }
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_and_what_was_checked_is_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (resolver, host) = (Flipping::default(), Host::parse("rebind.test").unwrap());
        let policy = granting(&["127.0.0.1"]);
        let limit = Duration::from_secs(5);
        let stream = dial(&policy, &resolver, limit, &host, port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().ip().to_string(), "127.0.0.1");
        assert_eq!(resolver.0.load(Ordering::SeqCst), 1);
        let denial = dial(&policy, &resolver, limit, &host, port)
            .await
            .unwrap_err();
        assert_eq!(
            (denial.code, denial.host.as_str()),
            (Code::AddressNotAllowed, "rebind.test")
        );
    }

    #[test]
    fn of_several_addresses_only_the_good_ones_are_dialled() {
        let policy = granting(&[]);
        let ips = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<IpAddr>>()
        };
        let checked =
            |addresses: &[IpAddr]| permitted(addresses, |address| policy.permits_address(address));
        assert_eq!(
            checked(&ips(&["10.0.0.1", "1.1.1.1"])).unwrap(),
            ips(&["1.1.1.1"])
        );
        for forbidden in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "::1",
            "::ffff:7f00:1",
        ] {
            let denial = checked(&ips(&[forbidden])).unwrap_err();
            assert_eq!(denial.code, Code::AddressNotAllowed, "{forbidden}");
        }
        assert_eq!(checked(&[]).unwrap_err().code, Code::NotResolved);
    }
}
