//! TLS towards clients outside the mesh: what a server at its edge asks for and offers.
//!
//! Independent of the API that asked for it: secrets are named here, and given by whoever builds a configuration.

use std::fmt;
use std::sync::Arc;

/// How TLS is ended at a server. What is negotiable is ordered by preference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// Names of the secrets with a certificate and its key: one, or one per kind of key.
    pub certificates: Vec<Arc<str>>,
    pub clients: ClientCertificates,
    pub versions: TlsVersions,
    /// For TLS 1.2; empty for every suite that there is. TLS 1.3 has no bad ones to take out.
    pub cipher_suites: Vec<CipherSuite>,
    pub alpn: Vec<Arc<str>>,
}

impl ServerTls {
    /// Every secret that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        let authority = self.clients.check().map(|check| &check.authorities);
        self.certificates.iter().chain(authority)
    }
}

/// Whether clients show a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    NotAsked,
    /// One that is shown must be good.
    Optional(ClientCheck),
    Required(ClientCheck),
}

impl ClientCertificates {
    pub fn check(&self) -> Option<&ClientCheck> {
        match self {
            Self::NotAsked => None,
            Self::Optional(check) | Self::Required(check) => Some(check),
        }
    }
}

/// Which client certificates are good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCheck {
    /// Name of the secret with the authorities that may have issued it.
    pub authorities: Arc<str>,
    /// It must have one of these as a subject alternative name of any kind; empty asks for none.
    pub names: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// The oldest and the newest version that is spoken; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsVersions {
    oldest: TlsVersion,
    newest: TlsVersion,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self {
            oldest: TlsVersion::V1_2,
            newest: TlsVersion::V1_3,
        }
    }
}

impl TlsVersions {
    /// `None` where the oldest is newer than the newest.
    pub fn new(oldest: TlsVersion, newest: TlsVersion) -> Option<Self> {
        (oldest <= newest).then_some(Self { oldest, newest })
    }

    pub fn oldest(self) -> TlsVersion {
        self.oldest
    }

    pub fn newest(self) -> TlsVersion {
        self.newest
    }

    pub fn contain(self, version: TlsVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }
}

/// The suites of TLS 1.2 that are spoken: forward secret and authenticated, no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    EcdsaAes128,
    EcdsaAes256,
    EcdsaChacha20,
    RsaAes128,
    RsaAes256,
    RsaChacha20,
}

impl CipherSuite {
    pub const ALL: [Self; 6] = [
        Self::EcdsaAes128,
        Self::RsaAes128,
        Self::EcdsaAes256,
        Self::RsaAes256,
        Self::EcdsaChacha20,
        Self::RsaChacha20,
    ];

    /// Reads the name that OpenSSL and Envoy have for it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaAes128 => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Self::EcdsaAes256 => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Self::EcdsaChacha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Self::RsaAes128 => "ECDHE-RSA-AES128-GCM-SHA256",
            Self::RsaAes256 => "ECDHE-RSA-AES256-GCM-SHA384",
            Self::RsaChacha20 => "ECDHE-RSA-CHACHA20-POLY1305",
        }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_a_range() {
        assert_eq!(TlsVersions::new(TlsVersion::V1_3, TlsVersion::V1_2), None);
        let newest = TlsVersions::new(TlsVersion::V1_3, TlsVersion::V1_3).unwrap();
        assert!(!newest.contain(TlsVersion::V1_2) && newest.contain(TlsVersion::V1_3));
        assert!(TlsVersions::default().contain(TlsVersion::V1_2));
    }

    #[test]
    fn suites_have_one_name_each() {
        for suite in CipherSuite::ALL {
            assert_eq!(CipherSuite::parse(suite.as_str()), Some(suite));
        }
        assert_eq!(CipherSuite::parse("AES128-SHA"), None);
    }
}
