//! Short ways to configure the proxy under test, and the state of the seed's mesh.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::http::action::{Action, Destination, Destinations, Forward};
use aquifer_core::http::cluster::{BalancePolicy, Cluster, Endpoint, Endpoints, UpstreamHttp};
use aquifer_core::http::listener::{
    Binding, Chain, Chains, HttpListener, Listener, ListenerProtocol, PathHandling, TcpListener,
};
use aquifer_core::http::matching::RouteMatch;
use aquifer_core::http::retry::{BackOff, RetryOn, RetryPolicy};
use aquifer_core::http::table::{HostPort, Route, RouteTable, VirtualHost};
use aquifer_core::names::NamespacedHostname;
use aquifer_core::policy::{self, Authorization, Group, Match, Rule, Scope, StringMatch};
use aquifer_core::service::{AppProtocol, PortMapping};
use aquifer_core::snapshot::Change;
use aquifer_core::workload::{GatewayAddress, GatewayDestination, TunnelProtocol, Workload, WorkloadUid};

use super::Mesh;
use crate::state::Changes;

/// The service's VIP and port, as an authority says it.
pub(crate) const REVIEWS: &str = "10.96.0.1:9080";
pub(crate) const MONGO: &str = "10.96.0.2:27017";

fn put<R>(resource: R) -> Changes<R> {
    Changes {
        put: vec![resource],
        remove: Vec::new(),
    }
}

pub(crate) fn http_listener(name: &str, address: &str, binding: Binding) -> Listener {
    let http = http_protocol("routes", binding == Binding::Bound);
    Listener {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        binding,
        chains: Chains::only(Chain::plain(name, http)),
    }
}

pub(crate) fn http_protocol(routes: &str, edge: bool) -> ListenerProtocol {
    ListenerProtocol::Http(HttpListener {
        routes: routes.into(),
        path: PathHandling::default(),
        edge,
        trusted_hops: 0,
        stream_idle_timeout: None,
        forward_client_certificate: edge,
    })
}

pub(crate) fn tcp_protocol(cluster: &str) -> ListenerProtocol {
    ListenerProtocol::Tcp(TcpListener {
        destinations: Destinations::single(cluster),
        idle_timeout: None,
    })
}

impl Mesh {
    /// The listener of the reviews service.
    pub(crate) fn reviews_listener(&self) {
        let name = "inbound-vip|9080|http|reviews.bookinfo.svc.cluster.local";
        self.listener(http_listener(name, REVIEWS, Binding::Tunnel));
    }

    pub(crate) fn listener(&self, listener: Listener) {
        self.writer.lock().listeners(put(listener));
    }

    pub(crate) fn tcp_listener(&self, cluster: &str) {
        let listener = Listener {
            name: "inbound-vip|27017|tcp|mongodb.bookinfo.svc.cluster.local".into(),
            addresses: vec![MONGO.parse().unwrap()],
            binding: Binding::Tunnel,
            chains: Chains::only(Chain::plain("mongo", tcp_protocol(cluster))),
        };
        self.listener(listener);
    }

    pub(crate) fn routes(&self, routes: Vec<Route>) {
        let host = VirtualHost {
            name: "any".into(),
            domains: vec!["*".into()],
            routes,
            ..VirtualHost::default()
        };
        self.table(vec![host]);
    }

    pub(crate) fn table(&self, hosts: Vec<VirtualHost>) {
        let table = RouteTable::new("routes", HostPort::Ignored, hosts).unwrap();
        self.writer.lock().routes(put(table));
    }

    pub(crate) fn cluster(&self, name: &str, endpoints: Vec<Endpoint>) {
        let cluster = Cluster {
            name: name.into(),
            balance: BalancePolicy::RoundRobin,
            connect_timeout: Duration::from_secs(10),
            http: UpstreamHttp::AsDownstream,
            service_name: name.into(),
            names: None,
        };
        for endpoint in endpoints.iter().filter(|e| !e.workload.is_empty()) {
            self.workload_of(endpoint);
        }
        let mut writer = self.writer.lock();
        writer.clusters(put(cluster));
        writer.endpoints(put(Endpoints {
            name: name.into(),
            list: endpoints,
        }));
    }

    /// The record of an endpoint, if the mesh has none of it.
    fn workload_of(&self, endpoint: &Endpoint) {
        let mut workload = Workload::empty(WorkloadUid::new(&endpoint.workload));
        if self.proxy.shared.mesh().workload(&workload.uid).is_some() {
            return;
        }
        workload.namespace = "bookinfo".into();
        workload.addresses = vec![endpoint.address.ip()];
        self.writer
            .lock()
            .mesh(vec![Change::Workload(Arc::new(workload))]);
    }

    /// A policy of the namespace that refuses one service account.
    pub(crate) fn deny(&self, service_account: &str) {
        let principal = format!("cluster.local/ns/bookinfo/sa/{service_account}");
        let refused = Match {
            principals: vec![StringMatch::Exact(principal.into())],
            ..Match::default()
        };
        let policy = Authorization {
            name: "deny".into(),
            namespace: "bookinfo".into(),
            scope: Scope::Namespace,
            action: policy::Action::Deny,
            groups: vec![Group {
                rules: vec![Rule {
                    matches: vec![refused],
                }],
            }],
            dry_run: false,
        };
        self.writer.lock().mesh(vec![Change::Policy(Arc::new(policy))]);
    }

    /// The record of a pod, which names the waypoint of that name for its own address.
    pub(crate) fn behind(
        &self,
        waypoint: Option<&str>,
        endpoint: &Endpoint,
        services: &[(u16, AppProtocol)],
    ) {
        let mut workload = Workload::empty(WorkloadUid::new(&endpoint.workload));
        workload.name = endpoint.workload.rsplit('/').next().unwrap().into();
        workload.workload_name = workload.name.clone();
        workload.service_account = workload.name.clone();
        workload.namespace = "bookinfo".into();
        workload.addresses = vec![endpoint.address.ip()];
        workload.tunnel = TunnelProtocol::Hbone;
        workload.waypoint = waypoint.map(|name| GatewayAddress {
            destination: GatewayDestination::Hostname(NamespacedHostname::new(
                "bookinfo",
                &format!("{name}.bookinfo.svc.cluster.local"),
            )),
            hbone_port: 15008,
        });
        for (n, (service_port, protocol)) in services.iter().enumerate() {
            let port = PortMapping {
                service_port: *service_port,
                target_port: endpoint.address.port(),
                protocol: *protocol,
            };
            let service = NamespacedHostname::new("bookinfo", &format!("s{n}.bookinfo.svc.cluster.local"));
            workload.services.insert(service, vec![port]);
        }
        self.writer
            .lock()
            .mesh(vec![Change::Workload(Arc::new(workload))]);
    }

    /// A pod that the mesh knows, at an address, with labels.
    pub(crate) fn workload(&self, name: &str, service_account: &str, ip: std::net::IpAddr, version: &str) {
        let mut workload = Workload::empty(WorkloadUid::pod("Kubernetes", "bookinfo", name));
        workload.name = name.into();
        workload.namespace = "bookinfo".into();
        workload.service_account = service_account.into();
        workload.workload_name = name.into();
        workload.canonical_name = service_account.into();
        workload.canonical_revision = version.into();
        workload.addresses = vec![ip];
        workload.labels = BTreeMap::from([(Arc::from("version"), Arc::from(version))]);
        self.writer
            .lock()
            .mesh(vec![Change::Workload(Arc::new(workload))]);
    }
}

pub(crate) fn split(weights: &[(&str, u32)]) -> Forward {
    let list = weights
        .iter()
        .map(|(cluster, weight)| Destination::to(cluster, *weight))
        .collect();
    Forward::to(Destinations::new(list).unwrap())
}

pub(crate) fn to(cluster: &str) -> Forward {
    Forward::to(Destinations::single(cluster))
}

pub(crate) fn route(name: &str, forward: Forward) -> Route {
    Route::new(name, RouteMatch::any(), Action::Forward(forward))
}

/// As Istio has it without a word from the user.
pub(crate) fn retries(on: &str) -> Option<RetryPolicy> {
    Some(RetryPolicy {
        on: RetryOn::parse(on).unwrap(),
        attempts: 2,
        status_codes: Vec::new(),
        per_try_timeout: None,
        avoid_previous_hosts: true,
        back_off: BackOff {
            base: Duration::from_millis(1),
            max: Duration::from_millis(2),
        },
    })
}
