//! What a server is, from its protocol and TLS mode together.

use crate::model::gateway::{ServerKind, tls};
use crate::objects::istio as raw;
use crate::objects::{Notice, Rejection};

/// # Errors
/// Where protocol and mode do not fit, or this version has no such server.
pub(super) fn kind(
    protocol: &str,
    tls: Option<&raw::ServerTls>,
    field: &str,
    notices: &mut Vec<Notice>,
) -> Result<ServerKind, Rejection> {
    match protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => plain(tls, field),
        "HTTPS" => encrypted(tls, field, ServerKind::Https, notices),
        "TLS" => encrypted(tls, field, ServerKind::Tls, notices),
        "TCP" | "MONGO" if tls.is_none() => Ok(ServerKind::Tcp),
        "TCP" | "MONGO" => {
            let reason = format!("is set for protocol {protocol}; write TLS for bytes inside of TLS");
            Err(Rejection::invalid(format!("{field}.tls"), reason))
        }
        _ => Err(Rejection::invalid(
            format!("{field}.port.protocol"),
            format!("is {protocol:?}; expected HTTP, HTTP2, GRPC, HTTPS, TLS or TCP"),
        )),
    }
}

/// TLS of a server without TLS is the redirect to one that has it.
fn plain(tls: Option<&raw::ServerTls>, field: &str) -> Result<ServerKind, Rejection> {
    let https_only = tls.is_some_and(|t| t.https_redirect);
    let rest = tls.map(|t| raw::ServerTls {
        https_redirect: false,
        ..t.clone()
    });
    if rest.is_some_and(|t| t != raw::ServerTls::default()) {
        let reason = "has more than httpsRedirect, but the protocol is without TLS; write HTTPS";
        return Err(Rejection::invalid(format!("{field}.tls"), reason));
    }
    Ok(ServerKind::Http { https_only })
}

fn encrypted(
    tls: Option<&raw::ServerTls>,
    field: &str,
    ended: fn(crate::model::termination::Termination) -> ServerKind,
    notices: &mut Vec<Notice>,
) -> Result<ServerKind, Rejection> {
    let field = format!("{field}.tls");
    let Some(tls) = tls else {
        return Err(Rejection::invalid(
            field,
            "is missing; a server with TLS needs a mode",
        ));
    };
    if tls.https_redirect {
        let reason = "redirects what is https already; it belongs to the server of plain HTTP";
        return Err(Rejection::invalid(format!("{field}.httpsRedirect"), reason));
    }
    match &*tls.mode {
        "PASSTHROUGH" => Ok(ServerKind::Passthrough),
        "" | "SIMPLE" => tls::termination(tls, tls::Clients::NotAsked, &field, notices).map(ended),
        "MUTUAL" => tls::termination(tls, tls::Clients::Required, &field, notices).map(ended),
        "OPTIONAL_MUTUAL" => tls::termination(tls, tls::Clients::Optional, &field, notices).map(ended),
        "ISTIO_MUTUAL" | "AUTO_PASSTHROUGH" => {
            let reason = format!(
                "is {}, which this version has not: inside the mesh, clients reach a gateway through tunnels",
                tls.mode
            );
            Err(Rejection::unsupported(format!("{field}.mode"), reason))
        }
        other => Err(Rejection::invalid(
            format!("{field}.mode"),
            format!("is {other:?}; expected SIMPLE, MUTUAL, OPTIONAL_MUTUAL or PASSTHROUGH"),
        )),
    }
}
