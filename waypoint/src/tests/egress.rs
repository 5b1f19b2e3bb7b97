//! On the way out: names that are looked up, addresses that are written down, tunnels to a gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::http::cluster::{
    BalancePolicy, Cluster, Endpoint, NamedEndpoint, Names as OfCluster, Transport, UpstreamHttp,
};
use aquifer_core::http::listener::Binding;
use aquifer_core::snapshot::Change;
use aquifer_core::workload::{TunnelProtocol, Workload};
use aquifer_telemetry::names::NameMetrics;
use parking_lot::Mutex;

use crate::inbound::Inbound;
use crate::names::{Failure, Lookup, Names};
use crate::state::Changes;
use crate::testing::app::Named;
use crate::testing::client::app as answered_by;
use crate::testing::model::{http_listener, route, to};
use crate::testing::{DEADLINE, Mesh, endpoint, free_port, id, ip, listen};
use crate::tunnel::GatewayTunnels;

type Zone = Arc<Mutex<BTreeMap<&'static str, Vec<IpAddr>>>>;

/// A name server that knows what it is told.
fn lookup(zone: &Zone) -> Lookup {
    let zone = zone.clone();
    Arc::new(move |name: Arc<str>| {
        let answer = zone.lock().get(&*name).cloned();
        Box::pin(async move {
            match &*name {
                "panics.example" => panic!("a look-up that panics"),
                _ => answer.ok_or_else(|| Failure::Unanswered("SERVFAIL".to_owned())),
            }
        })
    })
}

fn named(hosts: &[&str], first_only: bool) -> Cluster {
    let list = hosts.iter().map(|host| NamedEndpoint {
        host: (*host).into(),
        port: 80,
        weight: 1,
    });
    Cluster {
        name: "out".into(),
        balance: BalancePolicy::RoundRobin,
        connect_timeout: Duration::from_secs(10),
        http: UpstreamHttp::AsDownstream,
        service_name: "out".into(),
        names: Some(OfCluster {
            namespace: "bookinfo".into(),
            list: list.collect(),
            first_only,
        }),
    }
}

fn put(mesh: &Mesh, cluster: Cluster) {
    mesh.writer.lock().clusters(Changes {
        put: vec![cluster],
        remove: Vec::new(),
    });
}

fn addresses(mesh: &Mesh) -> Vec<String> {
    let state = mesh.proxy.shared.proxy();
    let endpoints = state.clusters["out"].endpoints.iter();
    endpoints.map(|e| e.address.to_string()).collect()
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

/// Waits until the cluster has these endpoints.
async fn leads_to(mesh: &Mesh, wanted: &[&str]) {
    let waiting = async {
        while addresses(mesh) != wanted {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(waited.is_ok(), "{:?} and not {wanted:?}", addresses(mesh));
}

async fn shows(mesh: &Mesh, line: &str) {
    mesh.counts(line, |metrics| metrics.contains(line)).await;
}

/// How many look-ups have failed so far.
fn failed(mesh: &Mesh) -> u64 {
    let metrics = mesh.metrics();
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("aquifer_name_lookups_total{outcome=\"failed\"} "));
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn names_are_followed_and_keep_their_last_answer() {
    let mesh = Mesh::start().await;
    let zone = Zone::default();
    let metrics = NameMetrics::new(&mesh.registry);
    let names = Names::new(&mesh.writer, lookup(&zone), metrics).every(Duration::from_millis(1));
    mesh.connections.spawn(names.run(mesh.drain.clone()));

    put(&mesh, named(&["a.example", "192.0.2.9"], false));
    shows(&mesh, "aquifer_names_failing 1").await;
    assert_eq!(
        addresses(&mesh),
        ["192.0.2.9:80"],
        "what is unknown has no endpoint"
    );

    zone.lock().insert("a.example", vec![v4(1), v4(2), v4(1)]);
    leads_to(&mesh, &["192.0.2.1:80", "192.0.2.2:80", "192.0.2.9:80"]).await;
    shows(&mesh, "aquifer_names_failing 0").await;
    zone.lock().insert("a.example", vec![v4(3)]);
    leads_to(&mesh, &["192.0.2.3:80", "192.0.2.9:80"]).await;
    zone.lock().remove("a.example");
    shows(&mesh, "aquifer_names_failing 1").await;
    assert_eq!(
        addresses(&mesh),
        ["192.0.2.3:80", "192.0.2.9:80"],
        "nobody could say"
    );
    // What stands for no other host is given up after a while.
    zone.lock().insert("a.example", vec![Ipv4Addr::LOCALHOST.into()]);
    leads_to(&mesh, &["192.0.2.9:80"]).await;

    zone.lock().insert("b.example", vec![v4(5), v4(4)]);
    put(&mesh, named(&["b.example"], true));
    leads_to(&mesh, &["192.0.2.5:80"]).await;
    shows(&mesh, "aquifer_names_failing 0").await;
    mesh.writer.lock().clusters(Changes {
        put: Vec::new(),
        remove: vec!["out".to_owned()],
    });
    assert!(mesh.writer.lock().wanted_names().borrow().is_empty());
}

#[tokio::test]
async fn a_look_up_that_panics_fails_and_the_others_go_on() {
    let mesh = Mesh::start().await;
    let zone = Zone::default();
    let names = Names::new(&mesh.writer, lookup(&zone), NameMetrics::new(&mesh.registry));
    mesh.connections
        .spawn(names.every(Duration::from_millis(1)).run(mesh.drain.clone()));
    zone.lock().insert("a.example", vec![v4(1)]);
    put(&mesh, named(&["a.example", "panics.example"], false));
    leads_to(&mesh, &["192.0.2.1:80"]).await;
    // Asked again after it panicked, and not only once.
    let again = async {
        while failed(&mesh) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
    shows(&mesh, "aquifer_names_failing 1").await;
    zone.lock().insert("a.example", vec![v4(2)]);
    leads_to(&mesh, &["192.0.2.2:80"]).await;
}

#[tokio::test]
async fn an_address_outside_is_reached_plainly_unless_it_is_a_pods() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "out", Named("out")).await;
    let outside = Endpoint {
        transport: Transport::Outside,
        workload: "".into(),
        ..pod.clone()
    };
    mesh.reviews_listener();
    mesh.cluster("out", vec![outside.clone()]);
    mesh.routes(vec![route("r", to("out"))]);
    let waypoint = mesh.waypoint().await;
    let client = mesh.client(waypoint, "client", ip(20));
    let authority = crate::testing::model::REVIEWS;
    assert_eq!(answered_by(&client.get(authority, "/").await), "out");

    mesh.workload("out", "out", ip(11), "v1");
    assert_eq!(
        client.get(authority, "/").await.status(),
        200,
        "it takes no tunnels"
    );
    let record = mesh.proxy.shared.mesh();
    let record = record
        .workloads()
        .find(|w| &*w.name == "out")
        .cloned()
        .expect("one");
    let enrolled = Workload {
        tunnel: TunnelProtocol::Hbone,
        ..Workload::clone(&record)
    };
    mesh.writer
        .lock()
        .mesh(vec![Change::Workload(Arc::new(enrolled))]);
    // A connection that was opened before stays; the cluster is another one now.
    mesh.cluster("out", Vec::new());
    mesh.cluster("out", vec![outside]);
    assert_eq!(client.get(authority, "/").await.status(), 503);
}

/// Starts the port of a gateway's tunnels, with a listener for them; answers its address and the listener's authority.
async fn gateway(mesh: &Mesh, native: bool) -> (std::net::SocketAddr, String) {
    let pod = mesh.pod(11, "out", Named("out")).await;
    mesh.cluster("out", vec![endpoint(pod.address, "out")]);
    mesh.routes(vec![route("r", to("out"))]);
    let free = free_port().await;
    mesh.listener(http_listener(
        "edge",
        &format!("0.0.0.0:{}", free.port()),
        Binding::Bound,
    ));
    let mut own = Workload::empty(mesh.proxy.own.clone());
    own.namespace = "bookinfo".into();
    own.native_tunnel = native;
    mesh.writer.lock().mesh(vec![Change::Workload(Arc::new(own))]);
    let socket = listen(ip(1)).await;
    let address = socket.local_addr().unwrap();
    let tunnels = GatewayTunnels {
        proxy: mesh.proxy.clone(),
        network: "".into(),
        drain: mesh.drain.clone(),
    };
    let inbound = Inbound {
        tunnels: Arc::new(tunnels),
        certificates: mesh.certificates.clone(),
        identity: id("waypoint"),
        drain: mesh.drain.clone(),
        connections: mesh.connections.clone(),
    };
    mesh.connections.spawn(inbound.run(socket));
    (address, free.to_string())
}

#[tokio::test]
async fn a_tunnel_to_a_gateway_gets_what_its_port_serves() {
    let mesh = Mesh::start().await;
    let (address, authority) = gateway(&mesh, true).await;
    let client = mesh.client(address, "client", ip(20));
    let answer = client.get(&authority, "/").await;
    assert_eq!((answer.status().as_u16(), answered_by(&answer)), (200, "out"));
    // Not an address of this pod, and not a port of it.
    let elsewhere = authority.replace("127.0.0.1", "127.0.0.2");
    assert!(client.tunnel(&elsewhere).await.is_err());
    assert!(client.tunnel("127.0.0.1:1").await.is_err());

    mesh.deny("client");
    let error = client
        .tunnel(&authority)
        .await
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("401"), "{error}");
    let other = mesh.client(address, "other", ip(21));
    assert_eq!(other.get(&authority, "/").await.status(), 200);
}

#[tokio::test]
async fn a_gateway_for_strangers_takes_no_tunnels() {
    let mesh = Mesh::start().await;
    let (address, authority) = gateway(&mesh, false).await;
    let client = mesh.client(address, "client", ip(20));
    assert!(client.tunnel(&authority).await.is_err());
}
