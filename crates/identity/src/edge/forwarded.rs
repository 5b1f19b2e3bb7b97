//! `x-forwarded-client-cert`: what an upstream is told of the certificate that a client proved.

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{AttributeTypeAndValue, X509Certificate, X509Name};

use crate::peer;
use crate::pem;

/// The header's value for a verified certificate, with the elements that Istio's gateways set, in Envoy's order; `None`
/// where the certificate cannot be read.
pub fn forwarded_client_certificate(leaf: &CertificateDer<'_>) -> Option<String> {
    let certificate = peer::parse(leaf).ok()?;
    let pem = pem::encode_certificates([leaf]);
    let mut elements = vec![
        format!("Hash={}", digest(leaf)),
        format!("Cert=\"{}\"", url_encoded(&pem)),
        format!("Subject=\"{}\"", subject(certificate.subject())),
    ];
    elements.extend(names(&certificate));
    Some(elements.join(";"))
}

fn digest(leaf: &CertificateDer<'_>) -> String {
    // The hash is the same one whatever suite it is taken from.
    let sha256 = TLS13_AES_128_GCM_SHA256.tls13().map(|s| s.common.hash_provider);
    let digest = sha256.map(|h| h.hash(leaf));
    let bytes = digest.iter().flat_map(|d| d.as_ref());
    bytes.map(|b| format!("{b:02x}")).collect()
}

/// What of PEM may not stand in the header as it is.
fn url_encoded(pem: &str) -> String {
    let mut encoded = String::with_capacity(pem.len() + pem.len() / 8);
    for c in pem.chars() {
        match c {
            '\n' => encoded.push_str("%0A"),
            ' ' => encoded.push_str("%20"),
            '+' => encoded.push_str("%2B"),
            '/' => encoded.push_str("%2F"),
            '=' => encoded.push_str("%3D"),
            c => encoded.push(c),
        }
    }
    encoded
}

/// Names of URIs first, then DNS. What could end the element is left out: a client's certificate writes no elements.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<_> = names.iter().flat_map(|n| &n.value.general_names).collect();
    let harmless = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_graphic() && !b";,\"=".contains(&b))
    };
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if harmless(uri) => Some(format!("URI={uri}")),
        _ => None,
    });
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) if harmless(name) => Some(format!("DNS={name}")),
        _ => None,
    });
    uris.chain(dns).collect()
}

/// RFC 2253: the most specific part first, separated by commas.
fn subject(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter()
        .map(|part| {
            let attributes: Vec<String> = part.iter().map(attribute).collect();
            attributes.join("+")
        })
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let key = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), ToOwned::to_owned);
    format!("{key}={}", escaped(attribute.as_str().unwrap_or_default()))
}

/// RFC 2253 section 2.4; bytes beyond ASCII as pairs of hexadecimal digits.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let at_an_end = (byte == b' ' && (at == 0 || at == last)) || (byte == b'#' && at == 0);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            _ if at_an_end => {
                text.push('\\');
                text.push(char::from(byte));
            }
            0x20..=0x7e => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:02X}")),
        }
    }
    text
}
