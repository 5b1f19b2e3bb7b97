//! Layer-4 authorisation: the policies, and the decision made from them.
//!
//! Semantics of Istio's `security.Authorization`: a policy matches if any of its groups does; a group if all of its
//! rules do; a rule if any of its matches does; a match is AND over kinds of fields and OR inside one kind.

pub mod evaluate;
pub mod former;

use std::sync::Arc;

use ipnet::IpNet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Action {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that list the policy.
    WorkloadSelector,
}

/// How a string is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum StringMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// Any non-empty value.
    Presence,
}

/// A service account named without its trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct ServiceAccountMatch {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// AND over the fields that are set, OR inside each; `not_*` must not match.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
}

/// Matches that are OR-ed; a rule with none is true.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rule {
    pub matches: Vec<Match>,
}

/// Rules that are AND-ed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Group {
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Authorization {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub scope: Scope,
    pub action: Action,
    pub groups: Vec<Group>,
    /// Logged but not enforced.
    pub dry_run: bool,
}

impl Authorization {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
