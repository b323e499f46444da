//! The names in a certificate.

use mesh_messages::Timestamp;
use mesh_messages::certificate::CertificateNames;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// What a certificate says about its holder; nothing when it is not in the strict form.
///
/// Whoever verified it vouches for it; this only reads.
pub(super) fn read(certificate: &[u8]) -> Option<CertificateNames> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let said = certificate.tbs_certificate();
    let alternatives = said.get_extension::<SubjectAltName>().ok()?;
    let alternatives = alternatives.map_or_else(Vec::new, |(_, names)| names.0);
    let uris = alternatives.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        _ => None,
    });
    let hosts = alternatives.iter().filter_map(|name| match name {
        GeneralName::DnsName(host) => Some(host.to_string().to_ascii_lowercase()),
        _ => None,
    });
    let mut names: Vec<String> = uris.chain(hosts).collect();
    if names.is_empty() {
        let common = said.subject().common_name().ok()?;
        names.extend(common.map(|name| format!("CN={}", name.value())));
    }
    let until = said.validity().not_after.to_unix_duration();
    Some(CertificateNames {
        names,
        until: Timestamp::from_millis(u64::try_from(until.as_millis()).ok()?),
    })
}
