//! `Secret` to what TLS is ended with.
//!
//! No error says anything of a secret's content.

use std::sync::Arc;

use aquifer_identity::edge::{ClientRoots, EdgeSecret, ServerKeyPair};

use super::pb::envoy::config::core::v3::DataSource;
use super::pb::envoy::config::core::v3::data_source::Specifier;
use super::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use super::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret as Wire, TlsCertificate,
};
use super::text::not_empty;
use super::{FieldError, Result, fields};

/// A secret with its name.
#[derive(Clone, Debug)]
pub struct Secret {
    pub name: Arc<str>,
    pub content: EdgeSecret,
}

pub(super) fn convert(secret: &Wire) -> Result<Secret> {
    let content = match &secret.r#type {
        Some(Type::TlsCertificate(certificate)) => EdgeSecret::KeyPair(Arc::new(
            key_pair(certificate).map_err(|e| e.within("tls_certificate"))?,
        )),
        Some(Type::ValidationContext(context)) => EdgeSecret::Roots(Arc::new(
            roots(context).map_err(|e| e.within("validation_context"))?,
        )),
        _ => {
            let reason = "is neither a tls_certificate nor a validation_context";
            return Err(FieldError::new("type", reason));
        }
    };
    Ok(Secret {
        name: not_empty("name", &secret.name)?.into(),
        content,
    })
}

fn key_pair(certificate: &TlsCertificate) -> Result<ServerKeyPair> {
    fields!(certificate => TlsCertificate {
        read: [certificate_chain, private_key],
        harmless: [],
        refused: [
            pkcs12, watched_directory, private_key_provider, password, ocsp_staple, signed_certificate_timestamp,
            tls_params,
        ],
    });
    let chain = inline("certificate_chain", certificate.certificate_chain.as_ref())?;
    let key = inline("private_key", certificate.private_key.as_ref())?;
    ServerKeyPair::from_pem(chain, key).map_err(|e| FieldError::new("certificate_chain", e))
}

fn roots(context: &CertificateValidationContext) -> Result<ClientRoots> {
    fields!(context => CertificateValidationContext {
        read: [trusted_ca],
        harmless: [],
        refused: [
            ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki,
            verify_certificate_hash, match_typed_subject_alt_names, match_subject_alt_names,
            require_signed_certificate_timestamp, crl, allow_expired_certificate, trust_chain_verification,
            custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list,
        ],
    });
    let pem = inline("trusted_ca", context.trusted_ca.as_ref())?;
    ClientRoots::from_pem(pem).map_err(|e| FieldError::new("trusted_ca", e))
}

fn inline<'d>(field: &str, source: Option<&'d DataSource>) -> Result<&'d [u8]> {
    match source.and_then(|s| s.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.as_bytes()),
        Some(_) => Err(FieldError::new(
            field,
            "is not inline: secrets are not read from files",
        )),
        None => Err(FieldError::new(field, "is missing")),
    }
}
