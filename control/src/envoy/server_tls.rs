//! How TLS ends at a listener, and the secrets that it ends with.

use aquifer_core::http::server_tls::{ClientCertificates, ClientCheck, ServerTls, TlsVersion};
use aquifer_xds::envoy::pb::envoy::config::core::v3 as core;
use aquifer_xds::envoy::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use aquifer_xds::envoy::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use aquifer_xds::type_url;
use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use tls::subject_alt_name_matcher::SanType;
use tls::tls_parameters::TlsProtocol;

use crate::envoy::values::{ads, any, bool_value};
use crate::envoy::{Named, resource_by_content};
use crate::model::secret::{Authorities, ServerCertificate};

const TLS: &str = "envoy.transport_sockets.tls";

pub(super) fn transport_socket(server: &ServerTls) -> core::TransportSocket {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(server)),
        require_client_certificate: Some(bool_value(matches!(
            server.clients,
            ClientCertificates::Required(_)
        ))),
        ..tls::DownstreamTlsContext::default()
    };
    core::TransportSocket {
        name: TLS.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}

fn common(server: &ServerTls) -> tls::CommonTlsContext {
    let suites = server.cipher_suites.iter().map(ToString::to_string);
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: protocol(server.versions.oldest()).into(),
            tls_maximum_protocol_version: protocol(server.versions.newest()).into(),
            cipher_suites: suites.collect(),
            ..tls::TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: server.certificates.iter().map(|n| sds(n)).collect(),
        alpn_protocols: server.alpn.iter().map(ToString::to_string).collect(),
        validation_context_type: server
            .clients
            .check()
            .map(|check| ValidationContextType::CombinedValidationContext(validation(check))),
        ..tls::CommonTlsContext::default()
    }
}

fn protocol(version: TlsVersion) -> TlsProtocol {
    match version {
        TlsVersion::V1_2 => TlsProtocol::TlSv12,
        TlsVersion::V1_3 => TlsProtocol::TlSv13,
    }
}

fn sds(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

fn validation(check: &ClientCheck) -> CombinedCertificateValidationContext {
    let kinds = [SanType::Dns, SanType::Uri, SanType::Email, SanType::IpAddress];
    let names = check.names.iter();
    let matchers = names.flat_map(|name| kinds.map(|kind| alternative_name(kind, name)));
    CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: matchers.collect(),
            ..tls::CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(sds(&check.authorities)),
        ..CombinedCertificateValidationContext::default()
    }
}

fn alternative_name(kind: SanType, name: &str) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.to_owned())),
            ..StringMatcher::default()
        }),
        ..tls::SubjectAltNameMatcher::default()
    }
}

/// A certificate with its key. Its version comes from the certificate alone: versions are shown, and what is made of a
/// key is not. A key that changes has another certificate.
pub fn certificate_secret(name: &str, certificate: &ServerCertificate) -> Named {
    let content = tls::secret::Type::TlsCertificate(tls::TlsCertificate {
        certificate_chain: Some(inline(&certificate.chain)),
        private_key: Some(inline(&certificate.key)),
        ..tls::TlsCertificate::default()
    });
    secret(name, content, &certificate.chain)
}

/// Authorities of client certificates.
pub fn authorities_secret(name: &str, authorities: &Authorities) -> Named {
    let content = tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
        trusted_ca: Some(inline(&authorities.pem)),
        ..tls::CertificateValidationContext::default()
    });
    secret(name, content, &authorities.pem)
}

fn secret(name: &str, content: tls::secret::Type, version_of: &[u8]) -> Named {
    let secret = tls::Secret {
        name: name.to_owned(),
        r#type: Some(content),
    };
    resource_by_content(type_url::SECRET, name, &secret, version_of)
}

fn inline(bytes: &[u8]) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineBytes(bytes.to_vec())),
        ..core::DataSource::default()
    }
}
