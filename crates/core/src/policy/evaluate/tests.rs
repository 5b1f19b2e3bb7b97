use super::*;
use crate::names::NamespacedHostname;
use crate::policy::Scope;
use crate::service::{LoadBalancing, Service};
use crate::snapshot::Change;
use crate::workload::{GatewayAddress, WorkloadUid};
use proptest::prelude::*;

fn exact(s: &str) -> StringMatch {
    StringMatch::Exact(s.into())
}

fn policy(name: &str, scope: Scope, action: Action, matches: Vec<Match>) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "ns".into(),
        scope,
        action,
        groups: vec![Group {
            rules: vec![Rule { matches }],
        }],
        dry_run: false,
    }
}

fn destination(policies: &[&str]) -> Workload {
    let mut w = Workload::empty(WorkloadUid::pod("Kubernetes", "ns", "dst"));
    w.namespace = "ns".into();
    w.policies = policies.iter().map(|p| (*p).into()).collect();
    w
}

fn mesh(policies: Vec<Authorization>) -> MeshSnapshot {
    MeshSnapshot::default().apply(policies.into_iter().map(|p| Change::Policy(Arc::new(p))))
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn connection(source: Option<&SpiffeId>) -> Connection<'_> {
    Connection {
        source,
        source_addr: "10.0.0.1:40000".parse().unwrap(),
        destination: "10.0.0.2:80".parse().unwrap(),
    }
}

/// PEERAUTHENTICATION STRICT as istiod converts it: deny whoever has no identity.
fn strict() -> Authorization {
    let no_identity = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    policy(
        "istio_converted_static_strict",
        Scope::WorkloadSelector,
        Action::Deny,
        vec![no_identity],
    )
}

#[test]
fn nothing_said_is_allowed() {
    assert_eq!(
        authorize(&mesh(vec![]), &destination(&[]), &connection(None)),
        Ok(Permit { policy: None })
    );
}

#[test]
fn strict_refuses_plaintext_only() {
    let m = mesh(vec![strict()]);
    let w = destination(&["ns/istio_converted_static_strict"]);
    let denial = authorize(&m, &w, &connection(None)).unwrap_err();
    assert_eq!(
        denial.to_string(),
        "denied by policy ns/istio_converted_static_strict"
    );
    let anyone = id("spiffe://cluster.local/ns/a/sa/b");
    assert!(authorize(&m, &w, &connection(Some(&anyone))).is_ok());
    assert!(authorize(&m, &destination(&[]), &connection(None)).is_ok());
}

#[test]
fn a_listed_policy_that_is_unknown_denies() {
    let denial = authorize(&mesh(vec![]), &destination(&["ns/late"]), &connection(None)).unwrap_err();
    assert_eq!(denial.reason, DenialReason::UnknownPolicy);
    assert!(denial.to_string().contains("ns/late"));
}

#[test]
fn deny_wins_over_allow() {
    let everything = Match {
        destination_ports: vec![80],
        ..Match::default()
    };
    let m = mesh(vec![
        policy("a", Scope::Namespace, Action::Allow, vec![everything.clone()]),
        policy("d", Scope::Namespace, Action::Deny, vec![everything]),
    ]);
    let denial = authorize(&m, &destination(&[]), &connection(None)).unwrap_err();
    assert_eq!(denial.policy.as_deref(), Some("ns/d"));
}

#[test]
fn an_allow_that_does_not_match_denies() {
    let only_a = Match {
        principals: vec![exact("cluster.local/ns/a/sa/a")],
        ..Match::default()
    };
    let m = mesh(vec![policy("a", Scope::Namespace, Action::Allow, vec![only_a])]);
    let (a, b) = (
        id("spiffe://cluster.local/ns/a/sa/a"),
        id("spiffe://cluster.local/ns/a/sa/b"),
    );
    let decide = |source| authorize(&m, &destination(&[]), &connection(source));
    assert_eq!(
        decide(Some(&a)),
        Ok(Permit {
            policy: Some("ns/a".into())
        })
    );
    assert_eq!(decide(Some(&b)).unwrap_err().reason, DenialReason::NoAllowMatches);
    assert_eq!(decide(None).unwrap_err().reason, DenialReason::NoAllowMatches);
}

#[test]
fn an_allow_without_rules_allows_nothing() {
    let mut p = policy("none", Scope::Namespace, Action::Allow, vec![]);
    p.groups.clear();
    assert!(authorize(&mesh(vec![p]), &destination(&[]), &connection(None)).is_err());
    let all = policy("all", Scope::Namespace, Action::Allow, vec![]);
    assert!(authorize(&mesh(vec![all]), &destination(&[]), &connection(None)).is_ok());
    let empty_match = policy("skipped", Scope::Namespace, Action::Allow, vec![Match::default()]);
    assert!(authorize(&mesh(vec![empty_match]), &destination(&[]), &connection(None)).is_err());
}

#[test]
fn dry_run_is_not_enforced() {
    let mut p = policy("d", Scope::Namespace, Action::Deny, vec![]);
    p.dry_run = true;
    assert!(authorize(&mesh(vec![p]), &destination(&[]), &connection(None)).is_ok());
}

#[test]
fn policies_of_other_namespaces_do_not_hold() {
    let p = policy("d", Scope::Namespace, Action::Deny, vec![]);
    let mut other = destination(&[]);
    other.namespace = "other".into();
    let m = mesh(vec![p.clone()]);
    assert!(authorize(&m, &other, &connection(None)).is_ok());
    let global = Authorization {
        scope: Scope::Global,
        ..p
    };
    assert!(authorize(&mesh(vec![global]), &other, &connection(None)).is_err());
}

#[test]
fn address_ranges_compare_across_notations() {
    let check = |net: &str, ip: &str, want| {
        assert_eq!(
            contains(
                &net.parse().unwrap(),
                ip.parse::<IpAddr>().unwrap().to_canonical()
            ),
            want,
            "{net} {ip}"
        );
    };
    check("10.0.0.0/8", "10.1.2.3", true);
    check("10.0.0.0/8", "::ffff:10.1.2.3", true);
    check("::ffff:10.0.0.0/104", "10.1.2.3", true);
    check("::/0", "10.1.2.3", false);
    check("0.0.0.0/0", "fd00::1", false);
    check("fd00::/8", "fd00::1", true);
}

/// What the documentation says, written without regard to speed or to the code above.
mod reference {
    use super::*;

    pub(super) fn allowed(policies: &[Authorization], c: &Connection<'_>) -> bool {
        let hit = |a: Action| {
            policies
                .iter()
                .any(|p| p.action == a && p.groups.iter().any(|g| group(g, c)))
        };
        let has_allow = policies.iter().any(|p| p.action == Action::Allow);
        !hit(Action::Deny) && (!has_allow || hit(Action::Allow))
    }

    fn group(g: &Group, c: &Connection<'_>) -> bool {
        for r in &g.rules {
            let meaningful: Vec<&Match> = r.matches.iter().filter(|m| **m != Match::default()).collect();
            let any = meaningful.iter().any(|m| one(m, c));
            if !(r.matches.is_empty() || any) {
                return false;
            }
        }
        true
    }

    fn one(m: &Match, c: &Connection<'_>) -> bool {
        let text = |s: &StringMatch, v: &str| match s {
            StringMatch::Exact(w) => **w == *v,
            StringMatch::Prefix(w) => v.get(..w.len()) == Some(&**w),
            StringMatch::Suffix(w) => v.len() >= w.len() && v[v.len() - w.len()..] == **w,
            StringMatch::Presence => true,
        };
        let mut ok = true;
        let ns = |s: &StringMatch| c.source.is_some_and(|i| text(s, i.namespace()));
        let principal = |s: &StringMatch| {
            c.source
                .is_some_and(|i| text(s, &i.as_str()["spiffe://".len()..]))
        };
        if !m.namespaces.is_empty() {
            ok &= m.namespaces.iter().any(ns);
        }
        if m.not_namespaces.iter().any(ns) {
            ok = false;
        }
        if !m.principals.is_empty() {
            ok &= m.principals.iter().any(principal);
        }
        if m.not_principals.iter().any(principal) {
            ok = false;
        }
        if !m.destination_ports.is_empty() {
            ok &= m.destination_ports.contains(&c.destination.port());
        }
        if m.not_destination_ports.contains(&c.destination.port()) {
            ok = false;
        }
        ok
    }
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        prop_oneof![Just("a"), Just("b"), Just("cluster.local/ns/a/sa/b")].prop_map(exact),
        Just(StringMatch::Prefix("cluster.local/ns/a".into())),
        Just(StringMatch::Suffix("b".into())),
        Just(StringMatch::Presence),
    ]
}

fn strings() -> impl Strategy<Value = Vec<StringMatch>> {
    proptest::collection::vec(string_match(), 0..2)
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(80u16..82, 0..2)
}

prop_compose! {
    fn a_match()(namespaces in strings(), not_namespaces in strings(), principals in strings(), not_principals in strings(),
                 destination_ports in ports(), not_destination_ports in ports()) -> Match {
        Match { namespaces, not_namespaces, principals, not_principals, destination_ports, not_destination_ports, ..Match::default() }
    }
}

fn groups() -> impl Strategy<Value = Vec<Group>> {
    let rule = proptest::collection::vec(a_match(), 0..3).prop_map(|matches| Rule { matches });
    let group = proptest::collection::vec(rule, 0..3).prop_map(|rules| Group { rules });
    proptest::collection::vec(group, 0..3)
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        all in proptest::collection::vec((groups(), any::<bool>()), 0..4),
        source in proptest::option::of(prop_oneof![Just("a"), Just("b")]),
        port in 80u16..82,
    ) {
        let policies: Vec<Authorization> = all.into_iter().enumerate().map(|(i, (groups, allow))| {
            let action = if allow { Action::Allow } else { Action::Deny };
            Authorization { groups, ..policy(&format!("p{i}"), Scope::Namespace, action, vec![]) }
        }).collect();
        let source = source.map(|ns| id(&format!("spiffe://cluster.local/ns/{ns}/sa/b")));
        let c = Connection { destination: format!("10.0.0.2:{port}").parse().unwrap(), ..connection(source.as_ref()) };
        let got = authorize(&mesh(policies.clone()), &destination(&[]), &c);
        prop_assert_eq!(got.is_ok(), reference::allowed(&policies, &c), "{:?}", got);
    }
}

/// A DENY of the client's principal; a service of the workload with a waypoint.
#[test]
fn what_comes_from_the_own_waypoint_was_decided_there() {
    let waypoint_key = NamespacedHostname::new("ns", "waypoint.ns.svc.cluster.local");
    let service_key = NamespacedHostname::new("ns", "web.ns.svc.cluster.local");
    let mut waypoint = Workload::empty(WorkloadUid::pod("c", "ns", "waypoint"));
    waypoint.namespace = "ns".into();
    waypoint.service_account = "waypoint".into();
    waypoint.native_tunnel = true;
    waypoint.services.insert(waypoint_key.clone(), vec![]);
    let mut web = Workload::empty(WorkloadUid::pod("c", "ns", "web"));
    web.namespace = "ns".into();
    web.services.insert(service_key.clone(), vec![]);
    let service = |key: &NamespacedHostname, waypoint: Option<GatewayAddress>| Service {
        name: "s".into(),
        namespace: key.namespace.clone(),
        hostname: key.hostname.clone(),
        vips: vec![],
        ports: vec![],
        subject_alt_names: vec![],
        waypoint,
        load_balancing: LoadBalancing::default(),
        canonical: true,
        ingress_use_waypoint: false,
        namespace_only: false,
    };
    let address = GatewayAddress {
        destination: GatewayDestination::Hostname(waypoint_key.clone()),
        hbone_port: 15008,
    };
    let everyone = Match {
        not_principals: vec![exact("nobody")],
        ..Match::default()
    };
    let deny_all = policy("deny", Scope::Namespace, Action::Deny, vec![everyone]);
    let base = [
        Change::Workload(Arc::new(waypoint.clone())),
        Change::Workload(Arc::new(web.clone())),
        Change::Service(Arc::new(service(&waypoint_key, None))),
        Change::Policy(Arc::new(deny_all)),
    ];
    let plain = Change::Service(Arc::new(service(&service_key, None)));
    let behind = Change::Service(Arc::new(service(&service_key, Some(address))));
    let from = |identity: &SpiffeId, mesh: &MeshSnapshot| {
        let connection = Connection {
            source: Some(identity),
            source_addr: "10.0.0.1:1".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
        };
        authorize_at_node(mesh, &web, &connection, Instant::now()).is_ok()
    };
    let (own, other) = (
        waypoint.identity().unwrap(),
        SpiffeId::parse("spiffe://cluster.local/ns/ns/sa/other").unwrap(),
    );
    let without = MeshSnapshot::default().apply(base.clone().into_iter().chain([plain]));
    assert!(
        !from(&own, &without),
        "a waypoint of nothing is a client as any other"
    );
    let with = MeshSnapshot::default().apply(base.into_iter().chain([behind]));
    assert!(from(&own, &with));
    assert!(!from(&other, &with));
}
