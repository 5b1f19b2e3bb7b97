//! The succession in writing: JSON, certificates in PEM, no key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aquifer_identity::authority::{certificates, certificates_pem};
use aquifer_identity::succession::{Succession, TrustedRoot};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    signer: String,
    roots: Vec<Root>,
    /// Seconds since 1970.
    changed_at: u64,
    known_at: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Root {
    certificate: String,
    signed: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("it is not the JSON that this version writes: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a certificate in it cannot be read: {0}")]
    Certificate(String),
}

pub(crate) fn encode(succession: &Succession) -> String {
    let root = |root: &TrustedRoot| Root {
        certificate: certificates_pem([&root.certificate]),
        signed: root.signed,
    };
    let record = Record {
        signer: certificates_pem([&succession.signer]),
        roots: succession.roots.iter().map(root).collect(),
        changed_at: seconds(succession.changed_at),
        known_at: succession.known_at.map(seconds),
    };
    serde_json::to_string_pretty(&record).unwrap_or_default()
}

pub(crate) fn decode(text: &str) -> Result<Succession, RecordError> {
    let record: Record = serde_json::from_str(text)?;
    let roots = record.roots.into_iter().map(|root| {
        let (certificate, signed) = (one(&root.certificate)?, root.signed);
        Ok(TrustedRoot { certificate, signed })
    });
    Ok(Succession {
        signer: one(&record.signer)?,
        roots: roots.collect::<Result<_, RecordError>>()?,
        changed_at: at(record.changed_at),
        known_at: record.known_at.map(at),
    })
}

fn one(pem: &str) -> Result<aquifer_identity::authority::Certificate, RecordError> {
    let mut all = certificates(pem).map_err(|e| RecordError::Certificate(e.to_string()))?;
    Ok(all.remove(0))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What a hand wrote may be beyond any clock.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}
