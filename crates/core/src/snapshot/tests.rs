use super::*;
use crate::policy::Action;
use crate::service::LoadBalancing;
use proptest::prelude::*;

fn network() -> Arc<str> {
    "".into()
}

fn at(ip: &str) -> NetworkAddress {
    NetworkAddress::new(&network(), ip.parse().unwrap())
}

fn workload(name: &str, ip: &str, services: &[&str]) -> Arc<Workload> {
    let mut w = Workload::empty(WorkloadUid::pod("Kubernetes", "ns", name));
    w.name = name.into();
    w.namespace = "ns".into();
    w.addresses = vec![ip.parse().unwrap()];
    w.services = services
        .iter()
        .map(|s| (NamespacedHostname::new("ns", s), Vec::new()))
        .collect();
    Arc::new(w)
}

fn service(namespace: &str, hostname: &str, vip: &str, canonical: bool) -> Arc<Service> {
    Arc::new(Service {
        name: hostname.into(),
        namespace: namespace.into(),
        hostname: hostname.into(),
        vips: vec![at(vip)],
        ports: Vec::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: LoadBalancing::default(),
        canonical,
        ingress_use_waypoint: false,
        namespace_only: false,
    })
}

fn policy(namespace: &str, name: &str, scope: Scope) -> Arc<Authorization> {
    Arc::new(Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope,
        action: Action::Deny,
        groups: Vec::new(),
        dry_run: false,
    })
}

#[test]
fn a_moved_address_belongs_to_the_newer_workload() {
    let first = workload("a", "10.0.0.1", &[]);
    let second = workload("b", "10.0.0.1", &[]);
    let snapshot =
        MeshSnapshot::default().apply([Change::Workload(first.clone()), Change::Workload(second.clone())]);
    assert_eq!(snapshot.workload_at(&at("10.0.0.1")), Some(&second));
    let snapshot = snapshot.apply([Change::RemoveAddress(first.uid.as_str().into())]);
    assert_eq!(snapshot.workload_at(&at("10.0.0.1")), Some(&second));
    let snapshot = snapshot.apply([Change::RemoveAddress(second.uid.as_str().into())]);
    assert_eq!(snapshot.workload_at(&at("10.0.0.1")), None);
}

#[test]
fn host_network_workloads_own_no_address() {
    let mut w = (*workload("a", "10.0.0.1", &[])).clone();
    w.host_network = true;
    let snapshot = MeshSnapshot::default().apply([Change::Workload(Arc::new(w))]);
    assert_eq!(snapshot.workload_at(&at("10.0.0.1")), None);
}

#[test]
fn what_runs_on_a_nodes_network_tells_the_nodes_address() {
    let mut w = (*workload("a", "10.0.0.1", &[])).clone();
    w.host_network = true;
    let written = MeshSnapshot::default().apply([Change::Workload(Arc::new(w.clone()))]);
    assert_eq!(
        written.node_at(&at("10.0.0.1")),
        None,
        "an address that somebody wrote"
    );
    w.node = "worker".into();
    let first = Arc::new(w.clone());
    w.uid = WorkloadUid::pod("Kubernetes", "ns", "b");
    let second = Arc::new(w);
    let both = written.apply([Change::Workload(first.clone()), Change::Workload(second.clone())]);
    assert!(both.node_at(&at("10.0.0.1")).is_some());
    let one = both.apply([Change::RemoveAddress(second.uid.as_str().into())]);
    assert_eq!(one.node_at(&at("10.0.0.1")), Some(&first));
    let none = one.apply([Change::RemoveAddress(first.uid.as_str().into())]);
    assert_eq!(none.node_at(&at("10.0.0.1")), None);
}

#[test]
fn an_older_snapshot_stays_as_it_was() {
    let before = MeshSnapshot::default().apply([Change::Workload(workload("a", "10.0.0.1", &["s"]))]);
    let after = before.apply([Change::Workload(workload("a", "10.0.0.2", &[]))]);
    let key = NamespacedHostname::new("ns", "s");
    assert_eq!(
        (before.endpoints(&key).count(), after.endpoints(&key).count()),
        (1, 0)
    );
    assert!(before.workload_at(&at("10.0.0.1")).is_some() && after.workload_at(&at("10.0.0.1")).is_none());
    assert!(after.generation() > before.generation());
}

#[test]
fn own_namespace_then_canonical_wins() {
    let snapshot = MeshSnapshot::default().apply([
        Change::Service(service("a", "h", "10.96.0.1", false)),
        Change::Service(service("b", "h", "10.96.0.1", true)),
    ]);
    let named = |ns: &str| snapshot.service_named("h", ns).unwrap().namespace.to_string();
    let at_vip = |ns: &str| {
        snapshot
            .service_at(&at("10.96.0.1"), ns)
            .unwrap()
            .namespace
            .to_string()
    };
    assert_eq!(
        (named("a"), named("b"), named("c")),
        ("a".into(), "b".into(), "b".into())
    );
    assert_eq!((at_vip("a"), at_vip("c")), ("a".into(), "b".into()));
}

#[test]
fn a_policy_that_changes_scope_leaves_its_old_place() {
    let snapshot = MeshSnapshot::default().apply([Change::Policy(policy("ns", "p", Scope::Namespace))]);
    assert_eq!(snapshot.unlisted_policies("ns").count(), 1);
    assert_eq!(snapshot.unlisted_policies("other").count(), 0);
    let snapshot = snapshot.apply([Change::Policy(policy("ns", "p", Scope::Global))]);
    assert_eq!(snapshot.unlisted_policies("other").count(), 1);
    let snapshot = snapshot.apply([Change::RemovePolicy("ns/p".into())]);
    assert_eq!(
        snapshot.unlisted_policies("ns").count() + snapshot.policies().count(),
        0
    );
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8, 0..4u8, 0..8u8).prop_map(|(n, ip, s)| Step::Put(n, ip, s)),
        (0..6u8).prop_map(Step::Remove),
    ]
}

proptest! {
    /// Indexes hold exactly what a rebuild from the surviving workloads would hold.
    #[test]
    fn indexes_agree_with_the_workloads(steps in proptest::collection::vec(step(), 0..40)) {
        let mut snapshot = MeshSnapshot::default();
        for s in steps {
            let change = match s {
                Step::Put(n, ip, services) => {
                    let served: Vec<&str> =
                        ["s0", "s1", "s2"].into_iter().enumerate().filter(|(i, _)| services & (1 << i) != 0).map(|(_, s)| s).collect();
                    Change::Workload(workload(&format!("w{n}"), &format!("10.0.0.{ip}"), &served))
                }
                Step::Remove(n) => Change::RemoveAddress(format!("Kubernetes//Pod/ns/w{n}").into()),
            };
            snapshot = snapshot.apply([change]);
        }
        for service in ["s0", "s1", "s2"] {
            let key = NamespacedHostname::new("ns", service);
            let want = snapshot.workloads().filter(|w| w.services.contains_key(&key)).count();
            prop_assert_eq!(snapshot.endpoints(&key).count(), want);
        }
        for ip in 0..4 {
            let owner = snapshot.workload_at(&at(&format!("10.0.0.{ip}")));
            let has = snapshot.workloads().any(|w| w.addresses[0].to_string() == format!("10.0.0.{ip}"));
            prop_assert_eq!(owner.is_some(), has);
            if let Some(owner) = owner {
                prop_assert_eq!(snapshot.workload(&owner.uid), Some(owner));
            }
        }
    }
}
