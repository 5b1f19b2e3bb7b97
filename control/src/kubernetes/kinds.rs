//! The kinds that the control plane reads and writes: their groups, versions and plural names.

use kube::core::{ApiResource, GroupVersionKind};

use crate::compile::waypoints::MANAGED_LABEL;
use crate::objects::{GATEWAY_API, NETWORKING, ObjectKey, SECURITY};

const DISCOVERY: &str = "discovery.k8s.io";
const TELEMETRY: &str = "telemetry.istio.io";
const EXTENSIONS: &str = "extensions.istio.io";
/// Name of the ConfigMap of the root certificate, in every namespace.
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";

/// A kind as the API server serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// The best first; the first one that is served is read.
    pub versions: &'static [&'static str],
}

impl Kind {
    pub fn resource(&self, version: &str) -> ApiResource {
        let gvk = GroupVersionKind::gvk(self.group, version, self.kind);
        ApiResource::from_gvk_with_plural(&gvk, self.plural)
    }

    /// An object of this kind belongs to no namespace.
    pub fn is_of_the_cluster(&self) -> bool {
        matches!(self.kind, "GatewayClass" | "Namespace")
    }

    /// `PLURAL.GROUP`, as in the name of a definition.
    pub fn name(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

/// Which objects of a kind are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those of this name, in all namespaces.
    Named(&'static str),
    /// The one of this name in the control plane's namespace.
    OwnNamed(&'static str),
    /// Those with this label.
    Labelled(&'static str),
    /// The one that its follower is given.
    Given,
    /// Those of one namespace, which the follower is told.
    OfNamespace,
}

/// Who reads a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The model cannot do without it: nothing is served before it has been read.
    Essential,
    /// What it says closes something, keeps a proxy there, or leaves namespaces out: nothing is served or deleted before it
    /// has been read, unless the API server has no such kind.
    Protective,
    Model,
    /// Only the writer of objects, to see what is there.
    Writer,
}

#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub kind: Kind,
    pub which: Which,
    pub reader: Reader,
}

const fn kind(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    versions: &'static [&'static str],
) -> Kind {
    Kind {
        group,
        kind,
        plural,
        versions,
    }
}

const V1: &[&str] = &["v1"];
const ISTIO: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const ISTIO_SECURITY: &[&str] = &["v1", "v1beta1"];

pub const CONFIG_MAP: Kind = kind("", "ConfigMap", "configmaps", V1);
pub const DEFINITIONS: Kind = kind(
    "apiextensions.k8s.io",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    V1,
);

/// Kinds that are read whole.
const WHOLE: [Kind; 22] = [
    kind(NETWORKING, "VirtualService", "virtualservices", ISTIO),
    kind(NETWORKING, "DestinationRule", "destinationrules", ISTIO),
    kind(NETWORKING, "Gateway", "gateways", ISTIO),
    kind(NETWORKING, "ServiceEntry", "serviceentries", ISTIO),
    kind(NETWORKING, "WorkloadEntry", "workloadentries", ISTIO),
    kind(NETWORKING, "WorkloadGroup", "workloadgroups", ISTIO),
    kind(NETWORKING, "Sidecar", "sidecars", ISTIO),
    kind(NETWORKING, "ProxyConfig", "proxyconfigs", &["v1beta1"]),
    kind(NETWORKING, "EnvoyFilter", "envoyfilters", &["v1alpha3"]),
    kind(
        SECURITY,
        "AuthorizationPolicy",
        "authorizationpolicies",
        ISTIO_SECURITY,
    ),
    kind(
        SECURITY,
        "PeerAuthentication",
        "peerauthentications",
        ISTIO_SECURITY,
    ),
    kind(
        SECURITY,
        "RequestAuthentication",
        "requestauthentications",
        ISTIO_SECURITY,
    ),
    kind(TELEMETRY, "Telemetry", "telemetries", &["v1", "v1alpha1"]),
    kind(EXTENSIONS, "WasmPlugin", "wasmplugins", &["v1alpha1"]),
    kind(EXTENSIONS, "TrafficExtension", "trafficextensions", &["v1alpha1"]),
    kind(GATEWAY_API, "Gateway", "gateways", GATEWAY),
    kind(GATEWAY_API, "GatewayClass", "gatewayclasses", GATEWAY),
    kind(GATEWAY_API, "HTTPRoute", "httproutes", GATEWAY),
    kind(GATEWAY_API, "GRPCRoute", "grpcroutes", V1),
    kind(
        GATEWAY_API,
        "TLSRoute",
        "tlsroutes",
        &["v1", "v1alpha3", "v1alpha2"],
    ),
    kind(GATEWAY_API, "TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    kind(GATEWAY_API, "ReferenceGrant", "referencegrants", GATEWAY),
];
const GATEWAY: &[&str] = &["v1", "v1beta1"];

const NAMESPACES: Kind = kind("", "Namespace", "namespaces", V1);
const PODS: Kind = kind("", "Pod", "pods", V1);
const SERVICES: Kind = kind("", "Service", "services", V1);
const ENDPOINT_SLICES: Kind = kind(DISCOVERY, "EndpointSlice", "endpointslices", V1);
const SERVICE_ACCOUNTS: Kind = kind("", "ServiceAccount", "serviceaccounts", V1);
const DEPLOYMENTS: Kind = kind("apps", "Deployment", "deployments", V1);
const AUTOSCALERS: Kind = kind(
    "autoscaling",
    "HorizontalPodAutoscaler",
    "horizontalpodautoscalers",
    &["v2"],
);
const BUDGETS: Kind = kind("policy", "PodDisruptionBudget", "poddisruptionbudgets", V1);
/// What is made for a proxy, beside its Service.
const MADE: [Kind; 4] = [SERVICE_ACCOUNTS, DEPLOYMENTS, AUTOSCALERS, BUDGETS];

/// Slices that Kubernetes makes from a selector say what the Pod objects say; only the others are read. In a large
/// cluster that is most of all changes.
const BY_HAND: &str = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// The largest and the most of what is in Secrets, and nothing that TLS is ended with.
pub const NOT_FOR_TLS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";

/// Secrets are watched in the namespaces of gateways only, each on its own.
pub const SECRETS: Watch = Watch {
    kind: kind("", "Secret", "secrets", V1),
    which: Which::OfNamespace,
    reader: Reader::Model,
};

/// Everything that is watched in the whole cluster.
pub fn watches() -> Vec<Watch> {
    let essential = [NAMESPACES, PODS, SERVICES].map(|kind| Watch {
        kind,
        which: Which::All,
        reader: Reader::Essential,
    });
    let slices = Watch {
        kind: ENDPOINT_SLICES,
        which: Which::Labelled(BY_HAND),
        reader: Reader::Essential,
    };
    let whole = WHOLE.map(|kind| Watch {
        kind,
        which: Which::All,
        reader: match (kind.group, kind.kind) {
            // Without its Gateway, what is behind a waypoint is reached past it, and the proxy is one too many.
            (SECURITY, _) | (GATEWAY_API, "Gateway") => Reader::Protective,
            _ => Reader::Model,
        },
    });
    let settings = Watch {
        kind: CONFIG_MAP,
        which: Which::OwnNamed(crate::mesh_config::CONFIG_MAP),
        reader: Reader::Protective,
    };
    let roots = Watch {
        kind: CONFIG_MAP,
        which: Which::Named(ROOT_CONFIG_MAP),
        reader: Reader::Writer,
    };
    let made = MADE.map(|kind| Watch {
        kind,
        which: Which::Labelled(MANAGED_LABEL),
        reader: Reader::Writer,
    });
    essential
        .into_iter()
        .chain(whole)
        .chain([slices, settings, roots])
        .chain(made)
        .collect()
}

/// The kind of an object that is written, by its key.
pub fn of(key: &ObjectKey) -> Option<Kind> {
    [NAMESPACES, PODS, SERVICES, CONFIG_MAP]
        .into_iter()
        .chain(MADE)
        .chain(WHOLE)
        .find(|kind| *kind.group == *key.group && *kind.kind == *key.kind)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// What the chart lets the control plane do with that verb in all namespaces, as `PLURAL.GROUP` or
    /// `PLURAL/status.GROUP`.
    fn granted(verb: &str) -> BTreeSet<String> {
        let chart = include_str!("../../../deploy/rendered/default.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(chart).unwrap();
        let is_role = |o: &&Value| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "aquifer-control";
        let role = objects.iter().find(is_role).unwrap();
        let texts = |rule: &Value, field: &str| -> Vec<String> {
            let list = rule[field].as_array().into_iter().flatten();
            list.map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let rules = role["rules"].as_array().unwrap().iter();
        let having = rules.filter(|rule| texts(rule, "verbs").iter().any(|has| has == verb));
        let names = having.flat_map(|rule| {
            let group = texts(rule, "apiGroups").remove(0);
            let name = move |resource: String| match &*group {
                "" => resource,
                group => format!("{resource}.{group}"),
            };
            texts(rule, "resources").into_iter().map(name)
        });
        names.collect()
    }

    #[test]
    fn the_chart_lets_it_read_what_it_reads_and_nothing_else() {
        let everywhere = watches()
            .into_iter()
            .filter(|w| !matches!(w.which, Which::OwnNamed(_)));
        let read: BTreeSet<String> = everywhere
            .map(|watch| watch.kind)
            .chain([DEFINITIONS])
            .map(|kind| kind.name())
            .collect();
        assert_eq!(granted("list"), read);
        assert_eq!(granted("watch"), read);
    }

    #[test]
    fn the_chart_lets_it_answer_for_what_it_answers_for_and_nothing_else() {
        // Grants have no status.
        let answered = WHOLE.iter().filter(|kind| kind.kind != "ReferenceGrant");
        let status = |kind: &Kind| format!("{}/status{}", kind.plural, &kind.name()[kind.plural.len()..]);
        let statuses: BTreeSet<String> = answered.chain([&SERVICES]).map(status).collect();
        let patched = granted("patch");
        let granted: BTreeSet<String> = patched.into_iter().filter(|name| name.contains('/')).collect();
        assert_eq!(granted, statuses);
    }

    #[test]
    fn the_chart_lets_it_delete_what_it_makes_and_nothing_else() {
        let made: BTreeSet<String> = MADE.iter().chain([&SERVICES]).map(Kind::name).collect();
        assert_eq!(granted("delete"), made);
    }

    #[test]
    fn every_kind_is_watched_once_per_choice() {
        let mut names: Vec<String> = watches()
            .iter()
            .map(|w| format!("{} {:?}", w.kind.name(), w.which))
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_start_waits_for_what_closes_something_or_keeps_a_proxy_there() {
        let protective = watches().into_iter().filter(|w| w.reader == Reader::Protective);
        let names: BTreeSet<String> = protective.map(|w| w.kind.name()).collect();
        let expected = [
            "authorizationpolicies.security.istio.io",
            "configmaps",
            "gateways.gateway.networking.k8s.io",
            "peerauthentications.security.istio.io",
            "requestauthentications.security.istio.io",
        ];
        assert_eq!(names, expected.map(str::to_owned).into());
    }

    /// A kind that the chart defines and nobody reads would have objects without an answer.
    #[test]
    fn every_kind_that_the_chart_defines_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/files/crds");
        let read: Vec<String> = WHOLE.iter().map(Kind::name).collect();
        let files = std::fs::read_dir(folder).unwrap();
        for file in files.map(|f| f.unwrap().file_name().into_string().unwrap()) {
            let name = file.strip_suffix(".yaml").unwrap();
            assert!(read.iter().any(|r| r == name), "{name} is not read");
        }
    }

    #[test]
    fn kinds_of_one_name_are_told_apart_by_group() {
        let key = |group| ObjectKey::new(group, "Gateway", "a", "b");
        assert_eq!(of(&key(NETWORKING)).unwrap().group, NETWORKING);
        assert_eq!(of(&key(GATEWAY_API)).unwrap().group, GATEWAY_API);
        assert_eq!(of(&key("example.com")), None);
    }
}
