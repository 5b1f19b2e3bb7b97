//! What a listener does with its connections, from its protocol and its TLS settings together.

use std::sync::Arc;

use aquifer_core::http::server_tls::TlsVersions;

use crate::compile::gateway_api::listeners::BadReference;
use crate::compile::inputs::Entry;
use crate::compile::report::Condition;
use crate::model::gateway::ServerKind;
use crate::model::termination::{SecretRef, Termination};
use crate::objects::gateway_api::{Gateway, Listener, ListenerTls, ObjectReference};

/// Ports of the program itself: tunnels, metrics, health, administration.
const RESERVED: [u16; 4] = [15000, 15008, 15020, 15021];
/// More certificates than kinds of keys that clients tell apart.
const MAX_CERTIFICATES: usize = 4;

pub(super) fn refused(reason: &'static str, message: impl Into<String>) -> Condition {
    Condition::new("Accepted", false, reason, message)
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Condition> {
    Err(refused("Invalid", message))
}

type Served = (ServerKind, Vec<BadReference>);

/// # Errors
/// The condition of a listener that is not accepted.
pub(super) fn of(gateway: &Entry<Gateway>, index: usize, listener: &Listener) -> Result<Served, Condition> {
    port(listener.port)?;
    let tls = listener.tls.as_ref();
    let plain = |kind| match tls {
        None => Ok((kind, Vec::new())),
        Some(_) => invalid(format!("a listener of protocol {} has no tls", listener.protocol)),
    };
    match &*listener.protocol {
        "HTTP" => plain(ServerKind::Http { https_only: false }),
        "TCP" if !listener.hostname.is_empty() => {
            invalid("a listener of protocol TCP has no hostname: nothing in bytes tells hosts apart")
        }
        "TCP" => plain(ServerKind::Tcp),
        "HTTPS" => match mode(tls)? {
            Mode::Passthrough => {
                invalid("tls.mode Passthrough needs protocol TLS: what is not decrypted is not HTTP yet")
            }
            Mode::Terminate(tls) => ended(gateway, index, tls, ServerKind::Https),
        },
        "TLS" => match mode(tls)? {
            Mode::Passthrough => Ok((ServerKind::Passthrough, Vec::new())),
            Mode::Terminate(tls) => ended(gateway, index, tls, ServerKind::Tls),
        },
        other => {
            let message = format!(
                "protocol {other} is not supported for this class by this version; HTTP, HTTPS, TLS and TCP are"
            );
            Err(refused("UnsupportedProtocol", message))
        }
    }
}

fn port(port: u16) -> Result<(), Condition> {
    if port == 0 {
        return Err(refused("PortUnavailable", "port 0 cannot be opened"));
    }
    if RESERVED.contains(&port) {
        let message = format!("port {port} is the gateway's own; its Service may map another port to it");
        return Err(refused("PortUnavailable", message));
    }
    Ok(())
}

enum Mode<'a> {
    Terminate(&'a ListenerTls),
    Passthrough,
}

fn mode(tls: Option<&ListenerTls>) -> Result<Mode<'_>, Condition> {
    let Some(tls) = tls else {
        return invalid("tls is missing; a listener with TLS needs certificateRefs, or mode Passthrough");
    };
    match tls.mode.as_deref().unwrap_or("Terminate") {
        "Terminate" => Ok(Mode::Terminate(tls)),
        "Passthrough" if tls.certificate_refs.is_empty() => Ok(Mode::Passthrough),
        "Passthrough" => {
            invalid("tls.certificateRefs has no meaning with mode Passthrough: TLS ends elsewhere")
        }
        other => invalid(format!(
            "tls.mode is {other:?}; expected Terminate or Passthrough"
        )),
    }
}

fn ended(
    gateway: &Entry<Gateway>,
    index: usize,
    tls: &ListenerTls,
    kind: fn(Termination) -> ServerKind,
) -> Result<Served, Condition> {
    refuse_unsupported(&gateway.spec, tls)?;
    if tls.certificate_refs.is_empty() {
        return invalid("tls.certificateRefs is empty; it names the Secrets with the certificates");
    }
    if tls.certificate_refs.len() > MAX_CERTIFICATES {
        return invalid(format!(
            "tls.certificateRefs names more than {MAX_CERTIFICATES} Secrets; for further hosts make further listeners"
        ));
    }
    let (mut certificates, mut bad) = (Vec::new(), Vec::new());
    for (i, reference) in tls.certificate_refs.iter().enumerate() {
        let field = format!("spec.listeners[{index}].tls.certificateRefs[{i}]");
        match secret(reference, &gateway.meta.namespace, &field) {
            Ok(secret) => certificates.push(secret),
            Err(message) => bad.push(BadReference { field, message }),
        }
    }
    let termination = Termination {
        certificates,
        clients: None,
        versions: TlsVersions::default(),
        cipher_suites: Vec::new(),
    };
    Ok((kind(termination), bad))
}

/// What this version would have to leave out, at the cost of somebody's security.
fn refuse_unsupported(gateway: &Gateway, tls: &ListenerTls) -> Result<(), Condition> {
    let of_clients = gateway.tls.as_ref().and_then(|tls| tls.get("frontend"));
    if of_clients.is_some_and(|f| !f.is_null()) {
        return invalid("spec.tls.frontend is not supported by this version: clients would go unchecked");
    }
    if tls.frontend_validation.as_ref().is_some_and(|v| !v.is_null()) {
        return invalid(
            "tls.frontendValidation is not supported by this version: clients would go unchecked; Istio's Gateway has mode MUTUAL",
        );
    }
    match tls.options.keys().next() {
        Some(option) => invalid(format!("tls.options: {option} is not supported by this version")),
        None => Ok(()),
    }
}

fn secret(reference: &ObjectReference, namespace: &Arc<str>, field: &str) -> Result<SecretRef, String> {
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    if !matches!((group, kind), ("" | "core", "Secret")) {
        return Err(format!(
            "{group}/{kind} holds no certificate for this version; only Secret does"
        ));
    }
    if reference.name.is_empty() {
        return Err("names no Secret".to_owned());
    }
    let own = reference.namespace.as_ref().filter(|n| !n.is_empty());
    Ok(SecretRef {
        namespace: Some(own.unwrap_or(namespace).clone()),
        name: reference.name.clone(),
        field: field.to_owned(),
    })
}
