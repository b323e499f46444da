//! Names that a client's certificate vouches for, and whom the operator takes them for.

use crate::Timestamp;
use crate::system::Role;

/// What the verified certificate of a connection says about who is at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// The names, as [`KnownCertificate::subject`] spells them: the URIs, then the DNS names in lower case; of a
    /// certificate with neither, the common name as `CN=…`. Empty when it bears none of these.
    pub names: Vec<String>,
    /// The end of its validity; from then on it says nothing.
    pub until: Timestamp,
}

/// Whom a name in a certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownCertificate {
    /// The name: a URI such as `spiffe://mesh/ada`, a DNS name in lower case, or `CN=…`.
    pub subject: String,
    /// The caller's name in the audit, such as `user:ada`.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// What a caller presents to say who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials<'a> {
    /// Its bearer token. Empty when there was something in its place that is none.
    pub bearer: Option<&'a str>,
    /// The verified certificate of its connection. A token decides alone, valid or not; this does where there is none.
    pub certificate: Option<&'a CertificateNames>,
    /// Whether it sits on this host.
    pub loopback: bool,
    /// What it asks for, as the record of a refusal names it; nothing where it is not known yet.
    pub resource: &'a str,
}
