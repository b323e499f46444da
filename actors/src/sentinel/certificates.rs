//! Callers that are known by their certificate instead of by a token.
//!
//! Whether the certificate is genuine was decided when the connection was made; here is decided whom it stands for.

use std::collections::BTreeMap;

use mesh_messages::Timestamp;
use mesh_messages::certificate::{CertificateNames, KnownCertificate};
use mesh_messages::system::{Caller, Role};

use super::door::Rejected;

/// Longest name in a record of somebody who is not known: a certificate can bear any.
const NAME_CHARS_MAX: usize = 256;

/// The certificates that the operator named, by the name that they bear.
#[derive(Debug, Clone, Default)]
pub(super) struct Certificates(BTreeMap<String, (String, Role)>);

impl Certificates {
    pub(super) fn new(known: &[KnownCertificate]) -> Self {
        let known = known.iter();
        let known = known.map(|k| (k.subject.clone(), (k.name.clone(), k.role)));
        Self(known.collect())
    }

    /// Whom a certificate stands for. One whose names stand for several stands for none: which one counts would be a
    /// guess.
    pub(super) fn identify(
        &self,
        certificate: &CertificateNames,
        loopback: bool,
        now: Timestamp,
    ) -> Result<Caller, Rejected> {
        let claimed = certificate.names.first();
        let short = |name: &String| name.chars().take(NAME_CHARS_MAX).collect::<String>();
        let rejected = Rejected {
            claimed: claimed.map(|name| format!("certificate:{}", short(name))),
        };
        let mut known = certificate.names.iter().filter_map(|name| self.0.get(name));
        let Some(one) = known.next().filter(|_| now < certificate.until) else {
            return Err(rejected);
        };
        if known.any(|other| other != one) {
            return Err(rejected);
        }
        let (name, role) = one;
        Ok(Caller {
            name: name.clone(),
            role: *role,
            loopback,
            narrowed: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> Timestamp {
        Timestamp::from_millis(n)
    }

    fn of(names: &[&str]) -> CertificateNames {
        CertificateNames {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            until: at(100),
        }
    }

    #[test]
    fn a_certificate_stands_for_the_one_that_all_its_known_names_stand_for() {
        let known = [
            ("spiffe://mesh/ada", "user:ada", Role::Operator),
            ("ada.test", "user:ada", Role::Operator),
            ("ada-admin.test", "user:ada", Role::Admin),
            ("CN=ben", "user:ben", Role::Viewer),
        ]
        .map(|(subject, name, role)| KnownCertificate {
            subject: subject.to_owned(),
            name: name.to_owned(),
            role,
        });
        let certificates = Certificates::new(&known);
        let who = |names: &[&str], now| {
            let found = certificates.identify(&of(names), true, at(now));
            found.ok().map(|caller| (caller.name, caller.role))
        };
        let ada = Some(("user:ada".to_owned(), Role::Operator));
        assert_eq!(who(&["spiffe://mesh/ada"], 99), ada);
        assert_eq!(
            who(&["other.test", "ada.test", "spiffe://mesh/ada"], 0),
            ada
        );
        assert_eq!(
            who(&["CN=ben"], 0),
            Some(("user:ben".to_owned(), Role::Viewer))
        );
        for names in [
            &[] as &[&str],
            &[""],
            &["ben"],
            &["cn=ben"],
            &["CN=ada.test"],
            &["spiffe://mesh/ada/x"],
            &["ada.test", "CN=ben"],
            &["ada.test", "ada-admin.test"],
        ] {
            assert_eq!(who(names, 0), None, "{names:?}");
        }
        assert_eq!(who(&["ada.test"], 100), None, "its validity is over");
        let nobody = Certificates::default().identify(&of(&["ada.test"]), false, at(0));
        let claimed = Some("certificate:ada.test".to_owned());
        assert_eq!(nobody, Err(Rejected { claimed }));
    }
}
