//! Secrets that gateways end TLS with: looked up in the namespace of the gateway's pods, and nowhere else.
//!
//! That is Istio's rule, and the whole of who may have which: whoever may run pods in a namespace may read its Secrets.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::http::server_tls::{ClientCertificates, ClientCheck, ServerTls};

use crate::compile::inputs::Inputs;
use crate::compile::selected::Selected;
use crate::model::secret::{Authorities, Secret, SecretProblem, ServerCertificate};
use crate::model::termination::{AuthoritiesRef, CA_SUFFIX, Termination};

/// The Secrets of one namespace.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    inputs: &'a Inputs,
    namespace: &'a str,
}

/// Why a server has not what it needs; what it serves is closed until it has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error(
        "no Secret {0} in the namespace of the gateway's pods; connections are closed until there is one"
    )]
    Missing(String),
    #[error(
        "Secret {0} cannot be read ({1}); give the control plane the right to list and watch Secrets of that namespace, as tlsSecrets of the gateway chart does"
    )]
    Unreadable(String, String),
    #[error("Secret {0} is of no use: {1}; connections are closed until it is corrected")]
    Unusable(String, SecretProblem),
}

impl<'a> Credentials<'a> {
    pub fn new(inputs: &'a Inputs, namespace: &'a str) -> Self {
        Self { inputs, namespace }
    }

    pub fn certificate(&self, name: &str) -> Result<&'a Arc<ServerCertificate>, CredentialError> {
        let found = self.find(name)?.certificate.as_ref();
        found.map_err(|problem| self.unusable(name, problem))
    }

    pub fn authorities(&self, reference: &AuthoritiesRef) -> Result<&'a Arc<Authorities>, CredentialError> {
        let name = self.authorities_secret(reference);
        let found = self.find(&name)?.authorities.as_ref();
        found.map_err(|problem| self.unusable(&name, problem))
    }

    /// The Secret that the authorities are taken from.
    fn authorities_secret(&self, reference: &AuthoritiesRef) -> Arc<str> {
        let name = &reference.reference().name;
        let beside: Arc<str> = format!("{name}{CA_SUFFIX}").into();
        match reference {
            AuthoritiesRef::Beside(_) if self.find(&beside).is_ok() => beside,
            AuthoritiesRef::Beside(_) | AuthoritiesRef::In(_) => name.clone(),
        }
    }

    fn find(&self, name: &str) -> Result<&'a Secret, CredentialError> {
        if let Some(secret) = self.inputs.secret(self.namespace, name) {
            return Ok(secret);
        }
        let secret = format!("{}/{name}", self.namespace);
        match self.inputs.unreadable_secrets.get(self.namespace) {
            Some(problem) => Err(CredentialError::Unreadable(secret, problem.clone())),
            None => Err(CredentialError::Missing(secret)),
        }
    }

    fn unusable(&self, name: &str, problem: &SecretProblem) -> CredentialError {
        CredentialError::Unusable(format!("{}/{name}", self.namespace), problem.clone())
    }
}

/// The name of a certificate on the wire, as Istio's gateways have it.
pub fn certificate_resource(name: &str) -> String {
    format!("kubernetes://{name}")
}

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
    ServerTls {
        certificates: certificates
            .map(|c| certificate_resource(&c.name).into())
            .collect(),
        clients: clients.unwrap_or(ClientCertificates::NotAsked),
        versions: termination.versions,
        cipher_suites: termination.cipher_suites.clone(),
        alpn: alpn.iter().map(|p| (*p).into()).collect(),
    }
}

/// The namespaces whose Secrets are needed: those of pods that a Gateway with a certificate selects.
pub fn namespaces(inputs: &Inputs, selected: &Selected) -> BTreeSet<Arc<str>> {
    let with_tls = inputs
        .gateways
        .iter()
        .filter(|g| g.spec.terminations().next().is_some());
    let selectors: BTreeSet<_> = with_tls.map(|g| &g.spec.selector).collect();
    let pods = selectors.into_iter().flat_map(|s| selected.running(inputs, s));
    pods.map(|(namespace, _)| namespace).collect()
}
