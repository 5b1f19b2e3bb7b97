//! A certificate chain and its key, as people bring them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use crate::certificate::time_of;
use crate::peer;
use crate::pem::{self, PemError};

/// A chain and the private key of its first certificate, checked to belong together.
///
/// Who issued it and for how long is not checked: clients do that, and the owner is told of it.
pub struct ServerKeyPair {
    certified: Arc<CertifiedKey>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    dns_names: Vec<String>,
    ip_names: Vec<std::net::IpAddr>,
}

/// Nothing of the key is ever said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyPairError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    #[error("the private key is not PEM of an unencrypted PKCS#8, PKCS#1 or SEC1 key")]
    Key,
    #[error(
        "the private key is of a kind that cannot sign here; expected RSA of 2048 bits or more, ECDSA or Ed25519"
    )]
    KeyKind,
    #[error("the private key does not belong to the first certificate of the chain")]
    Mismatch,
}

impl ServerKeyPair {
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, KeyPairError> {
        let chain = pem::certificates(chain, "certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| KeyPairError::Key)?;
        let key = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| KeyPairError::KeyKind)?;
        let first = chain.first().ok_or(PemError::Empty {
            what: "certificate chain",
        })?;
        let leaf = peer::parse(first).map_err(|e| KeyPairError::Certificate(e.to_string()))?;
        // Not rustls' own comparison: it refuses the version 1 certificates that `openssl x509 -req` makes.
        let public = key.public_key().ok_or(KeyPairError::KeyKind)?;
        if *public != *leaf.public_key().raw {
            return Err(KeyPairError::Mismatch);
        }
        let (dns_names, ip_names) = names(&leaf);
        Ok(Self {
            serial: leaf.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
            not_before: time_of(leaf.validity().not_before.timestamp()),
            not_after: time_of(leaf.validity().not_after.timestamp()),
            dns_names,
            ip_names,
            certified: Arc::new(CertifiedKey::new(chain, key)),
        })
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The certificates, without the key.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.certified.cert)
    }

    /// The serial number, lowercase hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The DNS names of the certificate, lower case; a common name is not one (RFC 9525 section 2).
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Whether clients that ask for `host` accept the certificate; `*.suffix` asks for every name below the suffix.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        if let Ok(ip) = host.parse() {
            return self.ip_names.contains(&ip);
        }
        self.dns_names.iter().any(|name| covers(name, &host))
    }
}

/// RFC 6125 section 6.4.3: a wildcard stands for one whole first label.
fn covers(name: &str, host: &str) -> bool {
    if name == host {
        return true;
    }
    let (Some(suffix), Some((first, rest))) = (name.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    first != "*" && suffix == rest
}

fn names(leaf: &X509Certificate<'_>) -> (Vec<String>, Vec<std::net::IpAddr>) {
    let names = leaf.subject_alternative_name().ok().flatten();
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    for name in names.iter().flat_map(|n| &n.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => ips.extend(ip_address(bytes)),
            _ => {}
        }
    }
    (dns, ips)
}

pub(super) fn ip_address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(Into::into);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(Into::into))
}

impl fmt::Debug for ServerKeyPair {
    /// Everything but the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerKeyPair")
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .field("dns_names", &self.dns_names)
            .finish_non_exhaustive()
    }
}
