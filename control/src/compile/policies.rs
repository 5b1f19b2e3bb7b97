//! Layer-4 policies: AuthorizationPolicy as written, PeerAuthentication as the denials it stands for.
//!
//! STRICT means "deny who proved no identity". As in Istio, workloads under plain STRICT share one built-in policy, and
//! only port-level modes need a policy of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_core::policy::{Action, Authorization, Group, Match, Rule, Scope, StringMatch};
use aquifer_core::workload::{Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::discovery::Discovery;
use crate::compile::inputs::{Entry, Inputs, selects};
use crate::model::policy::{AuthorizationPolicy, MtlsMode, PeerAuthentication};

/// The built-in policy of STRICT, in the root namespace.
const STATIC_STRICT: &str = "istio_converted_static_strict";
const CONVERTED: &str = "converted_peer_authentication_";

#[derive(Debug, Default)]
pub struct Policies {
    pub resources: Vec<Authorization>,
    of_workload: BTreeMap<WorkloadUid, Vec<Arc<str>>>,
}

pub fn compile(inputs: &Inputs, discovery: &Discovery, settings: &Settings) -> Policies {
    let mut policies = Policies::default();
    let authorizations: Vec<_> = inputs
        .authorization_policies
        .iter()
        .map(|p| (p, authorization(p, &settings.root_namespace)))
        .collect();
    let mut generated = BTreeMap::new();
    for workload in discovery.workloads.values() {
        let mut keys = Vec::new();
        if let Some(policy) = peer_policy(inputs, workload, settings) {
            let key: Arc<str> = policy.key().into();
            generated.entry(key.clone()).or_insert(policy);
            keys.push(key);
        }
        let selecting = authorizations
            .iter()
            .filter(|(p, a)| applies(p, a, workload, &settings.root_namespace));
        keys.extend(selecting.map(|(_, a)| Arc::from(a.key())));
        if !keys.is_empty() {
            policies.of_workload.insert(workload.uid.clone(), keys);
        }
    }
    policies.resources = authorizations
        .into_iter()
        .map(|(_, a)| a)
        .chain(generated.into_values())
        .collect();
    policies
}

impl Policies {
    pub fn attach(&self, workload: Arc<Workload>) -> Arc<Workload> {
        match self.of_workload.get(&workload.uid) {
            None => workload,
            Some(keys) => {
                let mut workload = Arc::unwrap_or_clone(workload);
                workload.policies = keys.clone();
                Arc::new(workload)
            }
        }
    }
}

fn authorization(policy: &Entry<AuthorizationPolicy>, root: &str) -> Authorization {
    let spec = &policy.spec;
    let scope = match &spec.selector {
        Some(_) => Scope::WorkloadSelector,
        None if &*spec.namespace == root => Scope::Global,
        None => Scope::Namespace,
    };
    Authorization {
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        scope,
        action: spec.action,
        groups: spec.groups.clone(),
        dry_run: spec.dry_run,
    }
}

/// Whether the workload has to list the policy. A selector in the root namespace looks at every namespace.
fn applies(
    policy: &Entry<AuthorizationPolicy>,
    made: &Authorization,
    workload: &Workload,
    root: &str,
) -> bool {
    let Some(selector) = &policy.spec.selector else {
        return false;
    };
    let in_scope = made.namespace == workload.namespace || &*made.namespace == root;
    in_scope && selects(selector, &workload.labels)
}

/// The policy that enforces the workload's PeerAuthentications, where one is needed.
fn peer_policy(inputs: &Inputs, workload: &Workload, settings: &Settings) -> Option<Authorization> {
    let root = &settings.root_namespace;
    let all = &inputs.peer_authentications;
    let wide = |namespace: &str| {
        let found = all
            .iter()
            .find(|p| p.spec.selector.is_none() && *p.spec.namespace == *namespace);
        found.map_or(MtlsMode::Unset, |p| p.spec.mode)
    };
    let own = all.iter().find(|p| {
        let selector = p.spec.selector.as_ref();
        p.spec.namespace == workload.namespace && selector.is_some_and(|s| selects(s, &workload.labels))
    });
    let inherited = [wide(&workload.namespace), wide(root)]
        .into_iter()
        .find(|m| *m != MtlsMode::Unset);
    let inherited = inherited.unwrap_or(MtlsMode::Permissive);
    let mode = match own.map(|p| p.spec.mode) {
        None | Some(MtlsMode::Unset) => inherited,
        Some(mode) => mode,
    };
    let exceptions = own.map_or_else(Vec::new, |p| exceptions(&p.spec, mode));
    match (mode, own) {
        (_, Some(own)) if !exceptions.is_empty() => Some(port_policy(&own.spec, mode, exceptions)),
        (MtlsMode::Strict, _) => Some(static_strict(root)),
        _ => None,
    }
}

/// Ports whose mode is not the workload's.
fn exceptions(own: &PeerAuthentication, mode: MtlsMode) -> Vec<u16> {
    let differs = own
        .ports
        .iter()
        .filter(|(_, port_mode)| **port_mode != MtlsMode::Unset && **port_mode != mode);
    differs.map(|(port, _)| *port).collect()
}

fn static_strict(root: &Arc<str>) -> Authorization {
    let nobody = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    denial(STATIC_STRICT.into(), root.clone(), nobody)
}

fn port_policy(own: &PeerAuthentication, mode: MtlsMode, ports: Vec<u16>) -> Authorization {
    let mut nobody = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    match mode {
        MtlsMode::Strict => nobody.not_destination_ports = ports,
        _ => nobody.destination_ports = ports,
    }
    denial(
        format!("{CONVERTED}{}", own.name).into(),
        own.namespace.clone(),
        nobody,
    )
}

fn denial(name: Arc<str>, namespace: Arc<str>, of: Match) -> Authorization {
    Authorization {
        name,
        namespace,
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        groups: vec![Group {
            rules: vec![Rule { matches: vec![of] }],
        }],
        dry_run: false,
    }
}
