//! A Secret, as far as TLS is ended with it: read once when it changes, its keys shown to nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aquifer_identity::edge::{ClientRoots, KeyPairError, RootsError, ServerKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::objects::RawObject;

/// Keys of a `kubernetes.io/tls` Secret, and those that Istio has for a generic one; the first that is there counts.
const CERTIFICATE: [&str; 2] = ["cert", "tls.crt"];
const PRIVATE_KEY: [&str; 2] = ["key", "tls.key"];
const AUTHORITIES: [&str; 2] = ["cacert", "ca.crt"];
const REVOCATIONS: [&str; 2] = ["crl", "ca.crl"];

/// Everything that is read of a Secret; what else it holds is dropped on arrival.
pub const DATA_KEYS: [&str; 8] = [
    "cert", "tls.crt", "key", "tls.key", "cacert", "ca.crt", "crl", "ca.crl",
];

#[derive(Clone, Debug)]
pub struct Secret {
    /// For a server to prove itself with.
    pub certificate: Result<Arc<ServerCertificate>, SecretProblem>,
    /// To check clients against.
    pub authorities: Result<Arc<Authorities>, SecretProblem>,
}

/// A chain and its key, checked to belong together.
pub struct ServerCertificate {
    pub chain: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
    pub pair: ServerKeyPair,
}

impl fmt::Debug for ServerCertificate {
    /// Everything but the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.fmt(f)
    }
}

#[derive(Clone, Debug)]
pub struct Authorities {
    pub pem: Vec<u8>,
}

/// Why a Secret is of no use for a purpose.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    #[error("it has neither {0} nor {1}")]
    Lacks(&'static str, &'static str),
    #[error("its {0} is not base64")]
    NotBase64(&'static str),
    #[error("{0}")]
    KeyPair(#[from] KeyPairError),
    #[error("{0}")]
    Roots(#[from] RootsError),
    #[error(
        "it has a revocation list ({0}), which this version does not check; clients would be let in that it refuses"
    )]
    Revocations(&'static str),
}

type Entries = BTreeMap<&'static str, Option<Zeroizing<Vec<u8>>>>;

impl Secret {
    /// Reads what is there; a Secret is never rejected, for most have nothing to do with TLS.
    pub fn read(raw: &RawObject) -> Self {
        let entries = entries(&raw.value);
        Self {
            certificate: certificate(&entries).map(Arc::new),
            authorities: authorities(&entries).map(Arc::new),
        }
    }
}

/// By hand, since a parser's errors quote what they could not read.
fn entries(value: &Value) -> Entries {
    let of = |field: &str, key: &str| value.get(field)?.get(key)?.as_str();
    let entry = |key: &'static str| {
        let bytes = match (of("stringData", key), of("data", key)) {
            (Some(text), _) => Some(text.as_bytes().to_vec()),
            (None, Some(text)) => STANDARD.decode(text.trim()).ok(),
            (None, None) => return None,
        };
        Some((key, bytes.map(Zeroizing::new)))
    };
    DATA_KEYS.into_iter().filter_map(entry).collect()
}

fn one_of(entries: &Entries, names: [&'static str; 2]) -> Result<Zeroizing<Vec<u8>>, SecretProblem> {
    let [generic, standard] = names;
    let found = names
        .into_iter()
        .find_map(|name| Some((name, entries.get(name)?)));
    match found {
        Some((_, Some(bytes))) => Ok(bytes.clone()),
        Some((name, None)) => Err(SecretProblem::NotBase64(name)),
        None => Err(SecretProblem::Lacks(standard, generic)),
    }
}

fn certificate(entries: &Entries) -> Result<ServerCertificate, SecretProblem> {
    let chain = one_of(entries, CERTIFICATE)?.to_vec();
    let key = one_of(entries, PRIVATE_KEY)?;
    let pair = ServerKeyPair::from_pem(&chain, &key)?;
    Ok(ServerCertificate { chain, key, pair })
}

fn authorities(entries: &Entries) -> Result<Authorities, SecretProblem> {
    let pem = one_of(entries, AUTHORITIES)?.to_vec();
    if let Some(name) = REVOCATIONS.into_iter().find(|name| entries.contains_key(name)) {
        return Err(SecretProblem::Revocations(name));
    }
    ClientRoots::from_pem(&pem)?;
    Ok(Authorities { pem })
}
