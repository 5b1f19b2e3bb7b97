//! `DownstreamTlsContext` to the model.

use std::sync::Arc;

use aquifer_core::http::server_tls::{
    CipherSuite, ClientCertificates, ClientCheck, ServerTls, TlsVersion, TlsVersions,
};

use super::matching::each;
use super::pb::envoy::config::core::v3::TransportSocket;
use super::pb::envoy::config::core::v3::transport_socket::ConfigType;
use super::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use super::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use super::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters,
};
use super::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use super::text::not_empty;
use super::values::{flag, unpack};
use super::{FieldError, Result, fields};

const TLS: &str = "envoy.transport_sockets.tls";

pub(super) fn convert(socket: &TransportSocket) -> Result<ServerTls> {
    if socket.name != TLS {
        return Err(FieldError::new(
            "name",
            format!("{:?} is not supported, only {TLS}", socket.name),
        ));
    }
    let Some(ConfigType::TypedConfig(config)) = &socket.config_type else {
        return Err(FieldError::new("typed_config", "is missing"));
    };
    downstream(&unpack("typed_config", config)?)
}

fn downstream(context: &DownstreamTlsContext) -> Result<ServerTls> {
    fields!(context => DownstreamTlsContext {
        read: [common_tls_context, require_client_certificate],
        // Sessions are resumed within one configuration only, in memory.
        harmless: [session_timeout, disable_stateful_session_resumption, prefer_client_ciphers],
        refused: [require_sni, ocsp_staple_policy, full_scan_certs_on_sni_mismatch, session_ticket_keys_type],
    });
    let common = context.common_tls_context.as_ref();
    let common = common.ok_or_else(|| FieldError::new("common_tls_context", "is missing"))?;
    let required = flag(context.require_client_certificate.as_ref());
    server_tls(common, required).map_err(|e| e.within("common_tls_context"))
}

fn server_tls(common: &CommonTlsContext, required: bool) -> Result<ServerTls> {
    fields!(common => CommonTlsContext {
        read: [tls_params, tls_certificate_sds_secret_configs, alpn_protocols, validation_context_type],
        harmless: [],
        refused: [
            tls_certificates, tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker,
            key_log,
        ],
    });
    let field = "tls_certificate_sds_secret_configs";
    let certificates = each(field, &common.tls_certificate_sds_secret_configs, secret_name)?;
    if certificates.is_empty() {
        return Err(FieldError::new(field, "is empty"));
    }
    let parameters = common.tls_params.clone().unwrap_or_default();
    let (versions, cipher_suites) = negotiable(&parameters).map_err(|e| e.within("tls_params"))?;
    Ok(ServerTls {
        certificates,
        clients: clients(common.validation_context_type.as_ref(), required)?,
        versions,
        cipher_suites,
        alpn: common.alpn_protocols.iter().map(|p| p.as_str().into()).collect(),
    })
}

fn secret_name(config: &SdsSecretConfig) -> Result<Arc<str>> {
    // Where it comes from is not asked: every secret comes by the stream that the listener came by.
    Ok(not_empty("name", &config.name)?.into())
}

fn negotiable(parameters: &TlsParameters) -> Result<(TlsVersions, Vec<CipherSuite>)> {
    fields!(parameters => TlsParameters {
        read: [tls_minimum_protocol_version, tls_maximum_protocol_version, cipher_suites],
        harmless: [],
        refused: [ecdh_curves, signature_algorithms, compliance_policies],
    });
    let default = TlsVersions::default();
    let oldest = version(parameters.tls_minimum_protocol_version, default.oldest())?;
    let newest = version(parameters.tls_maximum_protocol_version, default.newest())?;
    let versions = TlsVersions::new(oldest, newest)
        .ok_or_else(|| FieldError::new("tls_minimum_protocol_version", "is above the maximum"))?;
    let suites = each("cipher_suites", &parameters.cipher_suites, |name| {
        CipherSuite::parse(name).ok_or_else(|| FieldError::new(name, "is not supported"))
    })?;
    Ok((versions, suites))
}

fn version(value: i32, default: TlsVersion) -> Result<TlsVersion> {
    match TlsProtocol::try_from(value) {
        Ok(TlsProtocol::TlsAuto) => Ok(default),
        Ok(TlsProtocol::TlSv12) => Ok(TlsVersion::V1_2),
        Ok(TlsProtocol::TlSv13) => Ok(TlsVersion::V1_3),
        _ => Err(FieldError::new(
            "tls_protocol_version",
            "is neither TLSv1_2 nor TLSv1_3",
        )),
    }
}

fn clients(validation: Option<&ValidationContextType>, required: bool) -> Result<ClientCertificates> {
    let check = match validation {
        None if required => {
            let reason = "is missing, but client certificates are required";
            return Err(FieldError::new("validation_context_type", reason));
        }
        None => return Ok(ClientCertificates::NotAsked),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            check(combined).map_err(|e| e.within("combined_validation_context"))?
        }
        Some(_) => {
            let reason = "is not a combined_validation_context";
            return Err(FieldError::new("validation_context_type", reason));
        }
    };
    Ok(match required {
        true => ClientCertificates::Required(check),
        false => ClientCertificates::Optional(check),
    })
}

fn check(combined: &CombinedCertificateValidationContext) -> Result<ClientCheck> {
    fields!(combined => CombinedCertificateValidationContext {
        read: [default_validation_context, validation_context_sds_secret_config],
        harmless: [],
        refused: [validation_context_certificate_provider, validation_context_certificate_provider_instance],
    });
    let secret = combined.validation_context_sds_secret_config.as_ref();
    let secret =
        secret.ok_or_else(|| FieldError::new("validation_context_sds_secret_config", "is missing"))?;
    let context = combined.default_validation_context.clone().unwrap_or_default();
    Ok(ClientCheck {
        authorities: secret_name(secret)?,
        names: names(&context).map_err(|e| e.within("default_validation_context"))?,
    })
}

/// A name counts whatever its kind; Istio lists each kind with the same text.
fn names(context: &CertificateValidationContext) -> Result<Vec<Arc<str>>> {
    fields!(context => CertificateValidationContext {
        read: [match_typed_subject_alt_names],
        harmless: [],
        refused: [
            trusted_ca, ca_certificate_provider_instance, system_root_certs, watched_directory,
            verify_certificate_spki, verify_certificate_hash, match_subject_alt_names,
            require_signed_certificate_timestamp, crl, allow_expired_certificate, trust_chain_verification,
            custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list,
        ],
    });
    let mut names = each(
        "match_typed_subject_alt_names",
        &context.match_typed_subject_alt_names,
        name,
    )?;
    names.dedup();
    Ok(names)
}

fn name(matcher: &SubjectAltNameMatcher) -> Result<Arc<str>> {
    let text = matcher.matcher.as_ref();
    let exact = text
        .filter(|m| !m.ignore_case)
        .and_then(|m| m.match_pattern.as_ref());
    match exact {
        Some(MatchPattern::Exact(name)) if !name.is_empty() => Ok(name.as_str().into()),
        _ => Err(FieldError::new("matcher", "is not an exact text")),
    }
}
