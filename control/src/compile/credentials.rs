//! Secrets that gateways end TLS with, and the whole of who may have which.
//!
//! Those of the namespace of the gateway's pods: whoever may run pods in a namespace may read its Secrets. That is Istio's
//! rule. A Gateway of the Gateway API may name a Secret of another namespace, which then has to say so by a ReferenceGrant:
//! to the Gateway's namespace, and to that of the pods where that is yet another one.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::http::server_tls::{ClientCertificates, ClientCheck, ServerTls};

use crate::compile::gateway_api::grants::{self, Referent, Referrer};
use crate::compile::gateway_api::listeners::OpenGateway;
use crate::compile::inputs::Inputs;
use crate::compile::selected::Selected;
use crate::model::secret::{Authorities, Secret, SecretProblem, ServerCertificate};
use crate::model::termination::{AuthoritiesRef, CA_SUFFIX, SecretRef, Termination};

/// The Secrets that pods of one namespace may have.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    inputs: &'a Inputs,
    /// That of the pods.
    namespace: &'a str,
    /// That of the Gateway, which may name Secrets of others.
    gateway: &'a str,
}

/// Why a server has not what it needs; what it serves is closed until it has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error(
        "no Secret {0}; connections are closed until there is one where the gateway's pods run, or where the Gateway says"
    )]
    Missing(String),
    #[error(
        "Secret {0} cannot be read ({1}); give the control plane the right to list and watch Secrets of that namespace, as tlsSecrets of the gateway chart and gatewayApi.secretNamespaces of the mesh's do"
    )]
    Unreadable(String, String),
    #[error("Secret {0} is of no use: {1}; connections are closed until it is corrected")]
    Unusable(String, SecretProblem),
    #[error("{0}; connections are closed until one does")]
    NotPermitted(String),
}

impl<'a> Credentials<'a> {
    pub fn new(inputs: &'a Inputs, namespace: &'a str) -> Self {
        Self {
            inputs,
            namespace,
            gateway: namespace,
        }
    }

    /// Those that `gateway` may name and that pods of `namespace` may have.
    pub fn of_gateway(inputs: &'a Inputs, namespace: &'a str, gateway: &'a str) -> Self {
        Self {
            inputs,
            namespace,
            gateway,
        }
    }

    pub fn certificate(&self, reference: &SecretRef) -> Result<&'a Arc<ServerCertificate>, CredentialError> {
        let found = self.find(reference)?.certificate.as_ref();
        found.map_err(|problem| self.unusable(reference, problem))
    }

    pub fn authorities(&self, reference: &AuthoritiesRef) -> Result<&'a Arc<Authorities>, CredentialError> {
        let reference = self.authorities_secret(reference);
        let found = self.find(&reference)?.authorities.as_ref();
        found.map_err(|problem| self.unusable(&reference, problem))
    }

    /// The Secret that the authorities are taken from. As in Istio, that with the suffix where it is there, be it of use
    /// or not, and otherwise the certificate's own.
    fn authorities_secret(&self, reference: &AuthoritiesRef) -> SecretRef {
        let own = reference.reference();
        let beside = SecretRef {
            name: format!("{}{CA_SUFFIX}", own.name).into(),
            ..own.clone()
        };
        match reference {
            AuthoritiesRef::Beside(_) if self.find(&beside).is_ok() => beside,
            AuthoritiesRef::Beside(_) | AuthoritiesRef::In(_) => own.clone(),
        }
    }

    fn find(&self, reference: &SecretRef) -> Result<&'a Secret, CredentialError> {
        let namespace = self.place(reference);
        if let Some(message) = self.refusal(namespace, &reference.name) {
            return Err(CredentialError::NotPermitted(message));
        }
        if let Some(secret) = self.inputs.secret(namespace, &reference.name) {
            return Ok(secret);
        }
        let secret = format!("{namespace}/{}", reference.name);
        match self.inputs.unreadable_secrets.get(namespace) {
            Some(problem) => Err(CredentialError::Unreadable(secret, problem.clone())),
            None => Err(CredentialError::Missing(secret)),
        }
    }

    /// The namespace that the Secret is in.
    fn place<'s>(&'s self, reference: &'s SecretRef) -> &'s str {
        reference.namespace.as_deref().unwrap_or(self.namespace)
    }

    /// Why the Secret is not for this Gateway or its pods.
    fn refusal(&self, namespace: &str, name: &str) -> Option<String> {
        let to = Referent {
            kind: "Secret",
            namespace,
            name,
        };
        let from = [self.gateway, self.namespace].map(|namespace| Referrer {
            kind: "Gateway",
            namespace,
        });
        let refused = from
            .into_iter()
            .find(|from| !grants::allow(self.inputs, *from, to))?;
        Some(grants::missing(refused, to))
    }

    fn unusable(&self, reference: &SecretRef, problem: &SecretProblem) -> CredentialError {
        let secret = format!("{}/{}", self.place(reference), reference.name);
        CredentialError::Unusable(secret, problem.clone())
    }
}

/// The name of a certificate on the wire, as Istio's gateways have it.
pub fn certificate_resource(reference: &SecretRef) -> String {
    let name = &reference.name;
    match &reference.namespace {
        None => format!("kubernetes://{name}"),
        Some(namespace) => format!("kubernetes-gateway://{namespace}/{name}"),
    }
}

/// No Secret is called so: a server that has nothing else is closed.
const NO_CERTIFICATE: &str = "kubernetes-gateway://certificate.invalid/none";

/// The name of authorities on the wire: Istio's where they are beside the certificate.
pub fn authorities_resource(reference: &AuthoritiesRef) -> String {
    let name = &reference.reference().name;
    match reference {
        AuthoritiesRef::Beside(_) => format!("kubernetes://{name}{CA_SUFFIX}"),
        AuthoritiesRef::In(_) => format!("kubernetes://{name}/ca.crt"),
    }
}

/// How a server ends TLS, with Secrets by their names on the wire.
pub fn server_tls(termination: &Termination, alpn: &[&str]) -> ServerTls {
    let certificates = termination.certificates.iter();
    let clients = termination.clients.as_ref().map(|check| {
        let model = ClientCheck {
            authorities: authorities_resource(&check.authorities).into(),
            names: check.names.clone(),
        };
        match check.required {
            true => ClientCertificates::Required(model),
            false => ClientCertificates::Optional(model),
        }
    });
    let mut certificates: Vec<Arc<str>> = certificates.map(|c| certificate_resource(c).into()).collect();
    if certificates.is_empty() {
        certificates.push(NO_CERTIFICATE.into());
    }
    ServerTls {
        certificates,
        clients: clients.unwrap_or(ClientCertificates::NotAsked),
        versions: termination.versions,
        cipher_suites: termination.cipher_suites.clone(),
        alpn: alpn.iter().map(|p| (*p).into()).collect(),
    }
}

/// The namespaces whose Secrets are needed: those of pods that a Gateway with a certificate selects, and those of Secrets
/// that a Gateway of the Gateway API names and may have.
pub fn namespaces<'g>(
    inputs: &Inputs,
    selected: &Selected,
    gateways: impl IntoIterator<Item = &'g OpenGateway>,
) -> BTreeSet<Arc<str>> {
    let with_tls = inputs
        .gateways
        .iter()
        .filter(|g| g.spec.terminations().next().is_some());
    let selectors: BTreeSet<_> = with_tls.map(|g| &g.spec.selector).collect();
    let pods = selectors.into_iter().flat_map(|s| selected.running(inputs, s));
    let named = gateways.into_iter().flat_map(|gateway| named(inputs, gateway));
    pods.map(|(namespace, _)| namespace).chain(named).collect()
}

fn named(inputs: &Inputs, gateway: &OpenGateway) -> BTreeSet<Arc<str>> {
    let credentials = of_open(inputs, gateway);
    let references = gateway.terminations().flat_map(|(_, t)| t.references());
    let permitted = references.filter_map(|reference| {
        let namespace = reference.namespace.as_ref()?;
        let refused = credentials.refusal(namespace, &reference.name);
        refused.is_none().then(|| namespace.clone())
    });
    permitted.collect()
}

/// Those of a Gateway of the Gateway API and the pods behind its Service.
pub fn of_open<'a>(inputs: &'a Inputs, gateway: &'a OpenGateway) -> Credentials<'a> {
    Credentials::of_gateway(inputs, &gateway.service.namespace, &gateway.entry.meta.namespace)
}
