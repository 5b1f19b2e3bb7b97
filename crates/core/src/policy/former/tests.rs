use std::sync::Arc;

use super::*;
use crate::identity::SpiffeId;
use crate::policy::evaluate::{Connection, authorize_at_node};
use crate::policy::{Action, Authorization, Scope};
use crate::service::{LoadBalancing, Service};

fn key(name: &str) -> NamespacedHostname {
    NamespacedHostname::new("ns", &format!("{name}.ns.svc.cluster.local"))
}

/// What is behind the waypoint of that name, if any.
fn behind(waypoint: Option<&str>) -> Option<GatewayAddress> {
    waypoint.map(|name| GatewayAddress {
        destination: GatewayDestination::Hostname(key(name)),
        hbone_port: 15008,
    })
}

fn workload(name: &str) -> Workload {
    let mut workload = Workload::empty(WorkloadUid::pod("c", "ns", name));
    (workload.namespace, workload.service_account) = ("ns".into(), name.into());
    workload
}

/// The pod itself, which serves `web`.
fn pod(waypoint: Option<&str>) -> Change {
    let mut pod = workload("pod");
    pod.services.insert(key("web"), vec![]);
    pod.waypoint = behind(waypoint);
    Change::Workload(Arc::new(pod))
}

fn service(waypoint: Option<&str>) -> Change {
    let key = key("web");
    Change::Service(Arc::new(Service {
        name: "web".into(),
        namespace: key.namespace,
        hostname: key.hostname,
        vips: vec![],
        ports: vec![],
        subject_alt_names: vec![],
        waypoint: behind(waypoint),
        load_balancing: LoadBalancing::default(),
        canonical: true,
        ingress_use_waypoint: false,
        namespace_only: false,
    }))
}

fn waypoint(name: &str) -> Change {
    let mut waypoint = workload(name);
    waypoint.native_tunnel = true;
    waypoint.services.insert(key(name), vec![]);
    Change::Workload(Arc::new(waypoint))
}

/// The waypoints `old` and `new`, and a policy that allows nobody.
fn mesh(changes: impl IntoIterator<Item = Change>) -> MeshSnapshot {
    let nobody = Authorization {
        name: "nobody".into(),
        namespace: "ns".into(),
        scope: Scope::Namespace,
        action: Action::Allow,
        groups: vec![],
        dry_run: false,
    };
    let base = [waypoint("old"), waypoint("new"), Change::Policy(Arc::new(nobody))];
    MeshSnapshot::default().apply(base.into_iter().chain(changes))
}

/// Whether the pod lets somebody in.
fn admits(mesh: &MeshSnapshot, account: &str, now: Instant) -> bool {
    let source = SpiffeId::parse(&format!("spiffe://cluster.local/ns/ns/sa/{account}")).unwrap();
    let connection = Connection {
        source: Some(&source),
        source_addr: "10.0.0.1:1".parse().unwrap(),
        destination: "10.0.0.2:80".parse().unwrap(),
    };
    let pod = mesh.workload(&workload("pod").uid).unwrap();
    authorize_at_node(mesh, pod, &connection, now).is_ok()
}

/// At the time of the change, just before the former waypoint has to be done, and then.
fn admitted(mesh: &MeshSnapshot, account: &str, now: Instant) -> [bool; 3] {
    let moments = [now, now + LEAVING - Duration::from_millis(1), now + LEAVING];
    moments.map(|moment| admits(mesh, account, moment))
}

#[test]
fn a_former_waypoint_is_let_in_until_it_has_to_be_done() {
    let now = Instant::now();
    for to in [Some("new"), None] {
        let of_pod = mesh([pod(Some("old")), service(None)]).apply_at(vec![pod(to)], now);
        let of_service = mesh([pod(None), service(Some("old"))]).apply_at(vec![service(to)], now);
        for mesh in [of_pod, of_service] {
            assert_eq!(admitted(&mesh, "old", now), [true, true, false]);
            assert_eq!(admitted(&mesh, "new", now), [to.is_some(); 3]);
            assert_eq!(admitted(&mesh, "other", now), [false; 3]);
        }
    }
}

#[test]
fn it_is_known_when_the_first_of_them_is_none_any_more() {
    let now = Instant::now();
    let later = now + Duration::from_secs(10);
    let mesh = mesh([pod(Some("old")), service(Some("old"))]);
    let mesh = mesh
        .apply_at(vec![pod(None)], now)
        .apply_at(vec![service(None)], later);
    let until = |at| {
        let pod = mesh.workload(&workload("pod").uid).unwrap();
        mesh.former_waypoints().until(pod, at)
    };
    assert_eq!(until(later), Some(now + LEAVING));
    assert_eq!(until(now + LEAVING), Some(later + LEAVING));
    assert_eq!(until(later + LEAVING), None);
}

#[test]
fn who_proves_to_be_a_former_waypoint_has_to_be_one_still() {
    let now = Instant::now();
    let left = mesh([pod(Some("old")), service(None)]).apply_at(vec![pod(None)], now);
    let gone = left.apply_at(
        vec![Change::RemoveAddress(workload("old").uid.as_str().into())],
        now,
    );
    assert_eq!(admitted(&gone, "old", now), [false; 3]);
}

#[test]
fn another_pod_of_the_name_has_no_former_waypoint() {
    let now = Instant::now();
    let removed = Change::RemoveAddress(workload("pod").uid.as_str().into());
    let mesh = mesh([pod(Some("old")), service(None)]);
    let again = mesh
        .apply_at(vec![pod(None)], now)
        .apply_at(vec![removed.clone()], now)
        .apply_at(vec![pod(None)], now);
    let at_once = mesh.apply_at(vec![removed, pod(None)], now);
    for mesh in [again, at_once] {
        assert_eq!(admitted(&mesh, "old", now), [false; 3]);
    }
}

#[test]
fn what_is_over_is_not_kept() {
    let now = Instant::now();
    let left = mesh([pod(Some("old")), service(Some("old"))]).apply_at(vec![pod(None), service(None)], now);
    let kept = left.apply_at(vec![], now + LEAVING).former_waypoints().clone();
    assert!(kept.of_workloads.is_empty() && kept.of_services.is_empty());
}
