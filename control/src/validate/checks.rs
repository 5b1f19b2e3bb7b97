//! What the control plane has no reason to look at, and people want to be told before they apply it.

use std::sync::Arc;
use std::time::SystemTime;

mod certificates;

use crate::compile::Compiled;
use crate::compile::inputs::{Labels, selects};
use crate::compile::waypoints::Refusal;
use crate::model::service_entry::ServiceEntry;
use crate::model::virtual_service::{HttpRule, VirtualService};
use crate::objects::kube::Pod;
use crate::objects::{Object, ObjectKey, ParsedObject};
use crate::store::Store;
use crate::validate::View;
use crate::validate::finding::{Finding, Level, no_waypoint};
use crate::validate::secrets::{self, SecretName};
use crate::validate::world::World;

/// Versions of Istio's and the Gateway API's groups that there are; the API server refuses others.
const VERSIONS: [(&str, &[&str]); 5] = [
    ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]),
    ("security.istio.io", &["v1", "v1beta1"]),
    ("telemetry.istio.io", &["v1", "v1alpha1"]),
    ("extensions.istio.io", &["v1alpha1"]),
    (
        "gateway.networking.k8s.io",
        &["v1", "v1beta1", "v1alpha2", "v1alpha3"],
    ),
];

pub(super) struct Checks<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) compiled: &'a Compiled,
    pub(super) store: &'a Store,
    pub(super) now: SystemTime,
}

/// An object and where it stands.
struct Subject<'o> {
    key: &'o ObjectKey,
    origin: &'o str,
    object: &'o ParsedObject,
}

impl Checks<'_> {
    pub(super) fn all(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (key, origin, object) in self.store.objects() {
            if !self.world.is_judged(key) {
                continue;
            }
            let subject = Subject { key, origin, object };
            findings.extend(version(&subject));
            findings.extend(self.missing_namespace(&subject));
            findings.extend(self.missing_secrets(&subject));
            if let Ok(accepted) = &object.outcome {
                findings.extend(self.of_content(&subject, accepted));
            }
        }
        findings
    }

    fn of_content(&self, subject: &Subject<'_>, accepted: &Object) -> Vec<Finding> {
        match accepted {
            Object::VirtualService(rules) => unreachable_rules(subject, rules),
            Object::Gateway(gateway) => certificates::lifetimes(self, subject, gateway),
            Object::KubeGateway(_) => certificates::of_listeners(self, subject),
            Object::Pod(pod) => self.without_waypoint(subject, pod).into_iter().collect(),
            Object::ServiceEntry(entry) => not_captured(subject, entry).into_iter().collect(),
            Object::AuthorizationPolicy(policy) => self.selects_nothing(subject, policy.selector.as_ref()),
            Object::PeerAuthentication(policy) => self.selects_nothing(subject, policy.selector.as_ref()),
            _ => Vec::new(),
        }
    }

    fn missing_namespace(&self, subject: &Subject<'_>) -> Option<Finding> {
        let namespace = &subject.key.namespace;
        if namespace.is_empty() || self.compiled.inputs.namespaces.contains_key(namespace) {
            return None;
        }
        let finding = subject.finding(Level::Error, "NoNamespace");
        let message = format!("namespace {namespace} does not exist");
        Some(
            finding
                .at("metadata.namespace", message)
                .remedy(format!("`kubectl create namespace {namespace}`")),
        )
    }

    fn missing_secrets(&self, subject: &Subject<'_>) -> Vec<Finding> {
        let report = self.compiled.reports.get(subject.key);
        let said = |field: &str| report.is_some_and(|r| r.notices.iter().any(|n| n.field == field));
        let references = secrets::of_gateway_api(&subject.object.raw).into_iter();
        let missing = references.filter(|r| !self.is_secret(&r.secret) && !said(&r.field));
        let level = if self.world.view == View::Cluster {
            Level::Error
        } else {
            Level::Info
        };
        let report = |r: secrets::Reference| {
            let SecretName { namespace, name } = &r.secret;
            let message = format!("no Secret {namespace}/{name}");
            let remedy = format!("`kubectl create secret tls {name} -n {namespace} --cert=FILE --key=FILE`");
            subject
                .finding(level, "NoSecret")
                .at(r.field, message)
                .remedy(remedy)
        };
        missing.map(report).collect()
    }

    fn is_secret(&self, secret: &SecretName) -> bool {
        let key = ObjectKey::new("", "Secret", &secret.namespace, &secret.name);
        self.store.object(&key).is_some()
    }

    /// A pod has no status of ours that would say it. To one on its node's network the label means nothing.
    fn without_waypoint(&self, subject: &Subject<'_>, pod: &Pod) -> Option<Finding> {
        if pod.spec.host_network {
            return None;
        }
        let waypoints = &self.compiled.waypoints;
        let (refusal, reason) = waypoints.refuses_pod(&self.compiled.inputs, &subject.object.meta)?;
        let level = match refusal {
            Refusal::NoGateway => no_waypoint(self.world.view),
            Refusal::NotFor(_) | Refusal::NotOpen => Level::Warning,
        };
        let finding = subject.finding(level, "NoWaypoint");
        let message = format!("traffic to the pod's own address stays at layer 4: {reason}");
        let remedy = "aquifer waypoint apply --for workload (or all) makes one; for a Service, label the Service instead";
        Some(finding.at("metadata.labels", message).remedy(remedy))
    }

    fn selects_nothing(&self, subject: &Subject<'_>, selector: Option<&Labels>) -> Vec<Finding> {
        let Some(selector) = selector else {
            return Vec::new();
        };
        let in_reach = |namespace: &Arc<str>| {
            subject.key.namespace == self.compiled.settings.root_namespace
                || subject.key.namespace == *namespace
        };
        let mut pods = self
            .compiled
            .inputs
            .pods
            .iter()
            .filter(|p| in_reach(&p.meta.namespace))
            .peekable();
        let unknown = self.world.view == View::Files && pods.peek().is_none();
        if unknown || pods.any(|p| selects(selector, &p.meta.labels)) {
            return Vec::new();
        }
        let finding = subject.finding(Level::Warning, "SelectsNothing");
        let message = "no pod has these labels; the policy holds for nobody";
        vec![
            finding
                .at("spec.selector.matchLabels", message)
                .remedy("correct the labels; they are those of pods, not of Services"),
        ]
    }
}

impl Subject<'_> {
    fn finding(&self, level: Level, reason: &'static str) -> Finding {
        Finding::of(self.key, self.origin, level, reason)
    }
}

/// Right, and seldom known: gateways alone lead to such an entry.
fn not_captured(subject: &Subject<'_>, entry: &ServiceEntry) -> Option<Finding> {
    let finding = subject.finding(Level::Info, "NoAddresses");
    let message = "pods connect to the hosts as if there were no entry; gateways lead to them";
    entry.addresses.is_empty().then(|| {
        finding.at("spec.addresses", message).remedy(
            "give addresses within agent.meshCidrs, and let the cluster's DNS answer the hosts with them",
        )
    })
}

fn version(subject: &Subject<'_>) -> Option<Finding> {
    let (group, version) = subject.object.raw.api_version.split_once('/')?;
    let (_, known) = VERSIONS.iter().find(|(known, _)| *known == group)?;
    if known.contains(&version) {
        return None;
    }
    let finding = subject.finding(Level::Error, "UnknownVersion");
    let message = format!("{group} has no version {version}; the API server refuses the object");
    Some(
        finding
            .at("apiVersion", message)
            .remedy(format!("write {group}/{}", known[0])),
    )
}

/// Rules behind one that takes every request.
fn unreachable_rules(subject: &Subject<'_>, rules: &VirtualService) -> Vec<Finding> {
    let Some(last) = rules.http.iter().position(ends_the_list) else {
        return Vec::new();
    };
    let behind = last + 1..rules.http.len();
    let report = |i: usize| {
        let finding = subject.finding(Level::Warning, "Unreachable");
        let message = format!("spec.http[{last}] takes every request; this rule is never asked");
        finding
            .at(format!("spec.http[{i}]"), message)
            .remedy("move it above, or take it out")
    };
    behind.map(report).collect()
}

fn ends_the_list(rule: &HttpRule) -> bool {
    let everywhere = rule
        .conditions
        .iter()
        .any(|c| c.is_catch_all() && c.gateways.is_empty());
    rule.conditions.is_empty() || everywhere
}
