//! Layer-4 policies: AuthorizationPolicy as written, PeerAuthentication as the denials it stands for.
//!
//! STRICT means "deny who proved no identity". As in Istio, workloads under plain STRICT share one built-in policy, and
//! only port-level modes need a policy of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_core::policy::{Action, Authorization, Group, Match, Rule, Scope, StringMatch};
use aquifer_core::workload::{Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::inputs::{Entry, Inputs, selects};
use crate::model::policy::{AuthorizationPolicy, MtlsMode, PeerAuthentication};

/// The built-in policy of STRICT, in the root namespace.
const STATIC_STRICT: &str = "istio_converted_static_strict";
const CONVERTED: &str = "converted_peer_authentication_";

/// The policies, and which of those that stand for PeerAuthentications are in use. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    rules: Arc<Rules>,
    generated: imbl::OrdMap<Arc<str>, Generated>,
    /// The generated policy of each workload that has one.
    of_workload: imbl::OrdMap<WorkloadUid, Arc<str>>,
    /// All policies by key.
    resources: imbl::OrdMap<Arc<str>, Arc<Authorization>>,
    /// Whether `resources` lags behind the others.
    outdated: bool,
}

#[derive(Clone, Debug)]
struct Generated {
    policy: Arc<Authorization>,
    users: usize,
}

/// What the policy objects say, apart from who is selected.
#[derive(Debug, Default)]
struct Rules {
    root: Arc<str>,
    authorizations: Vec<(Entry<AuthorizationPolicy>, Arc<Authorization>)>,
    /// Indices of those that have a selector, by namespace.
    selecting: BTreeMap<Arc<str>, Vec<usize>>,
    /// By namespace, oldest first.
    peers: BTreeMap<Arc<str>, Vec<Entry<PeerAuthentication>>>,
}

impl Policies {
    /// Takes what the policy objects say from now on; which workloads are selected is told by [`Policies::attach`].
    pub fn set_rules(&mut self, inputs: &Inputs, settings: &Settings) {
        self.rules = Arc::new(Rules::of(inputs, settings));
        self.outdated = true;
    }

    /// All policies by key.
    pub fn resources(&mut self) -> imbl::OrdMap<Arc<str>, Arc<Authorization>> {
        if std::mem::take(&mut self.outdated) {
            let written = self.rules.authorizations.iter();
            self.resources = written.map(|(_, a)| (Arc::from(a.key()), a.clone())).collect();
            let generated = self.generated.iter();
            self.resources
                .extend(generated.map(|(key, g)| (key.clone(), g.policy.clone())));
        }
        self.resources.clone()
    }

    /// The workload with its policies.
    pub fn attach(&mut self, workload: Arc<Workload>) -> Arc<Workload> {
        let rules = self.rules.clone();
        let peer = rules.peer_policy(&workload);
        let generated: Option<Arc<str>> = peer.as_ref().map(|policy| policy.key().into());
        self.uses(&workload.uid, generated.clone().zip(peer));
        let mut keys: Vec<Arc<str>> = generated.into_iter().collect();
        keys.extend(rules.selecting(&workload).map(|a| Arc::from(a.key())));
        if keys.is_empty() {
            return workload;
        }
        let mut workload = Arc::unwrap_or_clone(workload);
        workload.policies = keys;
        Arc::new(workload)
    }

    /// Forgets a workload that is gone.
    pub fn detach(&mut self, workload: &WorkloadUid) {
        self.uses(workload, None);
    }

    fn uses(&mut self, workload: &WorkloadUid, policy: Option<(Arc<str>, Authorization)>) {
        let Some((key, policy)) = policy else {
            if let Some(old) = self.of_workload.remove(workload) {
                self.give_up(&old);
            }
            return;
        };
        let old = self.of_workload.get(workload).cloned();
        let same_user = old.as_ref() == Some(&key);
        let known = self.generated.get(&key);
        self.outdated |= known.is_none_or(|known| *known.policy != policy);
        let users = known.map_or(0, |known| known.users) + usize::from(!same_user);
        let policy = match known {
            Some(known) if *known.policy == policy => known.policy.clone(),
            _ => Arc::new(policy),
        };
        self.generated.insert(key.clone(), Generated { policy, users });
        if !same_user {
            self.of_workload.insert(workload.clone(), key);
            if let Some(old) = old {
                self.give_up(&old);
            }
        }
    }

    fn give_up(&mut self, key: &Arc<str>) {
        let unused = self.generated.get_mut(key).is_some_and(|generated| {
            generated.users -= 1;
            generated.users == 0
        });
        if unused {
            self.generated.remove(key);
            self.outdated = true;
        }
    }
}

impl Rules {
    fn of(inputs: &Inputs, settings: &Settings) -> Self {
        let root = settings.root_namespace.clone();
        let made = |p: &Entry<AuthorizationPolicy>| (p.clone(), Arc::new(authorization(p, &root)));
        let authorizations: Vec<_> = inputs.authorization_policies.iter().map(made).collect();
        let mut selecting: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        for (index, (policy, made)) in authorizations.iter().enumerate() {
            if policy.spec.selector.is_some() {
                selecting.entry(made.namespace.clone()).or_default().push(index);
            }
        }
        let mut peers: BTreeMap<Arc<str>, Vec<_>> = BTreeMap::new();
        for peer in &inputs.peer_authentications {
            let of_namespace = peers.entry(peer.spec.namespace.clone()).or_default();
            of_namespace.push(peer.clone());
        }
        Self {
            authorizations,
            selecting,
            peers,
            root,
        }
    }

    /// The policies that the workload has to list, oldest first. A selector in the root namespace looks at every
    /// namespace.
    fn selecting(&self, workload: &Workload) -> impl Iterator<Item = &Arc<Authorization>> {
        let namespaces = BTreeSet::from([&self.root, &workload.namespace]);
        let lists = namespaces.into_iter().filter_map(|n| self.selecting.get(n));
        let candidates: BTreeSet<usize> = lists.flatten().copied().collect();
        let list = candidates
            .into_iter()
            .filter_map(|index| self.authorizations.get(index));
        list.filter(|(policy, _)| {
            let selector = policy.spec.selector.as_ref();
            selector.is_some_and(|s| selects(s, &workload.labels))
        })
        .map(|(_, made)| made)
    }

    fn peers(&self, namespace: &str) -> &[Entry<PeerAuthentication>] {
        self.peers.get(namespace).map_or(&[], Vec::as_slice)
    }

    fn wide_mode(&self, namespace: &str) -> MtlsMode {
        let wide = self.peers(namespace).iter().find(|p| p.spec.selector.is_none());
        wide.map_or(MtlsMode::Unset, |p| p.spec.mode)
    }

    /// The policy that enforces the workload's PeerAuthentications, where one is needed.
    fn peer_policy(&self, workload: &Workload) -> Option<Authorization> {
        let own = self.peers(&workload.namespace).iter().find(|p| {
            let selector = p.spec.selector.as_ref();
            selector.is_some_and(|s| selects(s, &workload.labels))
        });
        let inherited = [self.wide_mode(&workload.namespace), self.wide_mode(&self.root)]
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
            (MtlsMode::Strict, _) => Some(static_strict(&self.root)),
            _ => None,
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
