//! Filter chains as Envoy writes them in JSON.

use aquifer_core::http::listener::{Chain, ListenerProtocol};
use aquifer_core::http::server_tls::{ClientCertificates, ServerTls, TlsVersion};
use serde_json::{Value, json};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

pub(super) fn chain(chain: &Chain) -> Value {
    let mut json = json!({ "name": chain.name, "filters": [filter(&chain.protocol)] });
    if !chain.server_names.is_empty() {
        json["filter_chain_match"] = json!({ "server_names": chain.server_names });
    }
    if let Some(tls) = &chain.tls {
        json["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": transport_socket(tls),
        });
    }
    json
}

fn filter(protocol: &ListenerProtocol) -> Value {
    match protocol {
        ListenerProtocol::Http(http) => json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "rds": { "route_config_name": http.routes },
                "use_remote_address": http.edge,
                "normalize_path": http.path.normalize,
            },
        }),
        ListenerProtocol::Tcp(tcp) => {
            let clusters = tcp.destinations.iter();
            let clusters: Vec<_> = clusters
                .map(|d| json!({ "name": d.cluster, "weight": d.weight }))
                .collect();
            json!({
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": { "weighted_clusters": { "clusters": clusters }},
            })
        }
    }
}

fn transport_socket(tls: &ServerTls) -> Value {
    let secrets = tls.certificates.iter().map(|name| json!({ "name": name }));
    let mut common = json!({
        "tls_params": {
            "tls_minimum_protocol_version": version(tls.versions.oldest()),
            "tls_maximum_protocol_version": version(tls.versions.newest()),
            "cipher_suites": tls.cipher_suites.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
        },
        "alpn_protocols": tls.alpn,
        "tls_certificate_sds_secret_configs": secrets.collect::<Vec<_>>(),
    });
    if let Some(check) = tls.clients.check() {
        common["combined_validation_context"] = json!({
            "default_validation_context": { "match_subject_alt_names": check.names },
            "validation_context_sds_secret_config": { "name": check.authorities },
        });
    }
    json!({
        "@type": TLS,
        "common_tls_context": common,
        "require_client_certificate": matches!(tls.clients, ClientCertificates::Required(_)),
    })
}

fn version(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_2 => "TLSv1_2",
        TlsVersion::V1_3 => "TLSv1_3",
    }
}
