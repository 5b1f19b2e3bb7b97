//! The TLS settings of a server that ends TLS.

use std::sync::Arc;

use aquifer_core::http::server_tls::{CipherSuite, TlsVersion, TlsVersions};

use crate::model::termination::{AuthoritiesRef, ClientCheck, SecretRef, Termination};
use crate::objects::istio as raw;
use crate::objects::{Notice, Rejection};

/// Whether certificates of clients are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    NotAsked,
    Optional,
    Required,
}

/// More certificates than kinds of keys that clients tell apart.
const MAX_CERTIFICATES: usize = 4;

pub(super) fn termination(
    tls: &raw::ServerTls,
    clients: Clients,
    field: &str,
    notices: &mut Vec<Notice>,
) -> Result<Termination, Rejection> {
    refuse_unsupported(tls, field)?;
    let certificates = certificates(tls, field)?;
    let clients = match (clients, certificates.first()) {
        (Clients::NotAsked, _) | (_, None) => None,
        (asked, Some(first)) => Some(ClientCheck {
            required: asked == Clients::Required,
            authorities: authorities(tls, first, field),
            names: tls.subject_alt_names.clone(),
        }),
    };
    if clients.is_none() && !tls.subject_alt_names.is_empty() {
        let message = "has no effect: clients are not asked for a certificate in mode SIMPLE";
        notices.push(Notice::warning(format!("{field}.subjectAltNames"), message));
    }
    Ok(Termination {
        certificates,
        clients,
        versions: versions(tls, field, notices)?,
        cipher_suites: cipher_suites(&tls.cipher_suites, field, notices)?,
    })
}

/// What this version would have to leave out, at the cost of somebody's security.
fn refuse_unsupported(tls: &raw::ServerTls, field: &str) -> Result<(), Rejection> {
    let files = "names a file, and gateways have none; put it into a Secret and name that in credentialName";
    let unchecked =
        "is not checked by this version; subjectAltNames and an authority of one's own narrow clients down";
    let fixed = "cannot be chosen in this version; take the field out to have the usual ones";
    let checked =
        "is not done by this version: a client's certificate is always checked where one is asked for";
    let set = [
        ("serverCertificate", tls.server_certificate.is_some(), files),
        ("privateKey", tls.private_key.is_some(), files),
        ("caCertificates", tls.ca_certificates.is_some(), files),
        ("tlsCertificates", !tls.tls_certificates.is_empty(), files),
        ("caCrl", tls.ca_crl.is_some(), unchecked),
        (
            "verifyCertificateSpki",
            !tls.verify_certificate_spki.is_empty(),
            unchecked,
        ),
        (
            "verifyCertificateHash",
            !tls.verify_certificate_hash.is_empty(),
            unchecked,
        ),
        ("ecdhCurves", !tls.ecdh_curves.is_empty(), fixed),
        ("alpnProtocols", !tls.alpn_protocols.is_empty(), fixed),
        (
            "insecureSkipVerify",
            tls.insecure_skip_verify == Some(true),
            checked,
        ),
    ];
    match set.into_iter().find(|(_, is_set, _)| *is_set) {
        Some((name, _, reason)) => Err(Rejection::unsupported(format!("{field}.{name}"), reason)),
        None => Ok(()),
    }
}

fn certificates(tls: &raw::ServerTls, field: &str) -> Result<Vec<SecretRef>, Rejection> {
    let one = tls.credential_name.iter().filter(|n| !n.is_empty());
    let one = one.map(|name| (name, format!("{field}.credentialName")));
    let more = tls.credential_names.iter().enumerate();
    let more = more.map(|(i, name)| (name, format!("{field}.credentialNames[{i}]")));
    let all: Vec<SecretRef> = one
        .chain(more)
        .map(|(name, field)| secret_ref(name, field))
        .collect::<Result<_, _>>()?;
    let at = format!("{field}.credentialName");
    match all.len() {
        0 => Err(Rejection::invalid(
            at,
            "is missing; it names the Secret with the certificate",
        )),
        1..=MAX_CERTIFICATES => Ok(all),
        _ => Err(Rejection::invalid(
            at,
            format!("names more than {MAX_CERTIFICATES} Secrets"),
        )),
    }
}

fn secret_ref(name: &Arc<str>, field: String) -> Result<SecretRef, Rejection> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    // Istio's own schemes, such as builtin:// and kubernetes-gateway://, name what this version has not.
    if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) {
        let reason = format!("{name:?} is not the name of a Secret");
        return Err(Rejection::invalid(field, reason));
    }
    Ok(SecretRef {
        namespace: None,
        name: name.clone(),
        field,
    })
}

fn authorities(tls: &raw::ServerTls, first: &SecretRef, field: &str) -> AuthoritiesRef {
    match tls.ca_cert_credential_name.as_ref().filter(|n| !n.is_empty()) {
        Some(name) => AuthoritiesRef::In(SecretRef {
            namespace: None,
            name: name.clone(),
            field: format!("{field}.caCertCredentialName"),
        }),
        None => AuthoritiesRef::Beside(first.clone()),
    }
}

fn versions(tls: &raw::ServerTls, field: &str, notices: &mut Vec<Notice>) -> Result<TlsVersions, Rejection> {
    let default = TlsVersions::default();
    let (min, max) = (
        format!("{field}.minProtocolVersion"),
        format!("{field}.maxProtocolVersion"),
    );
    let oldest = match version(tls.min_protocol_version.as_deref(), &min)? {
        Asked::Version(version) => version,
        Asked::Any => default.oldest(),
        Asked::TooOld => {
            notices.push(Notice::warning(
                &*min,
                "is older than what is spoken; TLS 1.2 and 1.3 are",
            ));
            default.oldest()
        }
    };
    let newest = match version(tls.max_protocol_version.as_deref(), &max)? {
        Asked::Version(version) => version,
        Asked::Any => default.newest(),
        Asked::TooOld => {
            let reason = "is older than TLS 1.2, and nothing older is spoken (RFC 8996)";
            return Err(Rejection::unsupported(max, reason));
        }
    };
    TlsVersions::new(oldest, newest)
        .ok_or_else(|| Rejection::invalid(min, "is newer than maxProtocolVersion"))
}

enum Asked {
    Any,
    Version(TlsVersion),
    TooOld,
}

fn version(text: Option<&str>, field: &str) -> Result<Asked, Rejection> {
    match text {
        None | Some("" | "TLS_AUTO") => Ok(Asked::Any),
        Some("TLSV1_0" | "TLSV1_1") => Ok(Asked::TooOld),
        Some("TLSV1_2") => Ok(Asked::Version(TlsVersion::V1_2)),
        Some("TLSV1_3") => Ok(Asked::Version(TlsVersion::V1_3)),
        Some(other) => {
            let reason = format!("is {other:?}; expected TLS_AUTO, TLSV1_2 or TLSV1_3");
            Err(Rejection::invalid(field, reason))
        }
    }
}

fn cipher_suites(
    names: &[Arc<str>],
    field: &str,
    notices: &mut Vec<Notice>,
) -> Result<Vec<CipherSuite>, Rejection> {
    let field = format!("{field}.cipherSuites");
    let known: Vec<CipherSuite> = names.iter().filter_map(|n| CipherSuite::parse(n)).collect();
    if names.is_empty() || known.len() == names.len() {
        return Ok(known);
    }
    let spoken = CipherSuite::ALL.map(CipherSuite::as_str).join(", ");
    if known.is_empty() {
        let reason = format!("has no suite that is spoken; there are {spoken}");
        return Err(Rejection::unsupported(field, reason));
    }
    let message = format!("has suites that are not spoken; they are left out. There are {spoken}");
    notices.push(Notice::warning(field, message));
    Ok(known)
}
