use serde_json::{Value, json};

use super::*;

fn parse(spec: &str) -> (Result<ServiceEntry, Rejection>, Vec<Notice>) {
    let value: Value = serde_saphyr::from_str(spec).unwrap();
    let raw: raw::ServiceEntry = serde_json::from_value(value).unwrap();
    let meta: Meta = serde_json::from_value(json!({"name": "x", "namespace": "shop"})).unwrap();
    let mut notices = Vec::new();
    (ServiceEntry::parse(&raw, &meta, None, &mut notices), notices)
}

const PORTS: &str = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}]";

fn taken(rest: &str) -> ServiceEntry {
    parse(&format!("{{hosts: [A.example.com], {PORTS}, {rest}}}"))
        .0
        .unwrap_or_else(|e| panic!("{rest}: {e}"))
}

#[test]
fn takes_the_port_of_the_endpoint_then_the_target_then_the_number() {
    let entry = taken("resolution: STATIC, endpoints: [{address: 192.0.2.1, ports: {tls: 8443}, weight: 3}]");
    let Resolution::Static(endpoints) = &entry.resolution else {
        panic!("{entry:?}")
    };
    let ports: Vec<u16> = entry.ports.iter().map(|p| endpoints[0].port(p)).collect();
    assert_eq!((ports, endpoints[0].weight), (vec![8080, 8443], 3));
    let protocols: Vec<_> = entry.ports.iter().map(|p| p.protocol).collect();
    assert_eq!(protocols, [AppProtocol::Http11, AppProtocol::Tls]);
    assert_eq!(entry.hosts[0].to_string(), "a.example.com");
    assert_eq!(entry.location, Location::External);
}

#[test]
fn names_and_addresses_are_both_endpoints_of_dns() {
    let entry = taken("resolution: DNS, endpoints: [{address: 192.0.2.1}, {address: B.example.com}]");
    let Resolution::Dns {
        endpoints,
        first_only: false,
    } = &entry.resolution
    else {
        panic!("{entry:?}")
    };
    assert_eq!(endpoints[1].address, Target::Name("b.example.com".into()));
    assert!(matches!(endpoints[0].address, Target::Address(_)));
}

#[test]
fn a_whole_range_is_an_address_and_belongs_to_the_first_host() {
    let (entry, notices) = parse(&format!(
        "{{hosts: [a.example.com, b.example.com, a.example.com], addresses: [192.0.2.1/32, 192.0.2.1, '2001:db8::1'], {PORTS}, resolution: DNS}}"
    ));
    let entry = entry.unwrap();
    assert_eq!((entry.hosts.len(), entry.addresses.len()), (2, 2));
    assert_eq!(entry.addresses_of("a.example.com").len(), 2);
    assert!(entry.addresses_of("b.example.com").is_empty());
    assert!(notices[0].message.contains("a.example.com"), "{notices:?}");
}

#[test]
fn what_cannot_be_in_effect_is_refused_with_field_and_reason() {
    let check = |rest: &str, field: &str, reason: &str| {
        let base = if rest.contains("hosts:") {
            String::new()
        } else {
            "hosts: [a.example.com], ".to_owned()
        };
        let ports = if rest.contains("ports: [") { "" } else { PORTS };
        let separator = if ports.is_empty() { "" } else { ", " };
        let (entry, _) = parse(&format!("{{{base}{ports}{separator}{rest}}}"));
        let rejection = entry.expect_err(rest);
        assert_eq!(rejection.field, field, "{rest}");
        assert!(rejection.reason.contains(reason), "{rest}: {rejection}");
    };
    check("hosts: [], resolution: DNS", "spec.hosts", "0 entries");
    check(
        "hosts: ['*.example.com'], resolution: DNS",
        "spec.hosts[0]",
        "wildcard",
    );
    check(
        "hosts: [a.shop.svc.cluster.local], resolution: DNS",
        "spec.hosts[0]",
        "Kubernetes Services",
    );
    check(
        "hosts: [reviews.shop.svc], resolution: DNS",
        "spec.hosts[0]",
        "Kubernetes Services",
    );
    check(
        "resolution: DNS, addresses: [10.0.0.0/8]",
        "spec.addresses[0]",
        "range",
    );
    check(
        "resolution: DNS, addresses: [x]",
        "spec.addresses[0]",
        "not an IP",
    );
    check(
        "resolution: DNS, addresses: [10.0.0.0/33]",
        "spec.addresses[0]",
        "not an IP",
    );
    check(
        "resolution: DNS, addresses: [127.0.0.1]",
        "spec.addresses[0]",
        "every host",
    );
    check("resolution: DNS, ports: []", "spec.ports", "0 entries");
    check(
        "resolution: DNS, ports: [{number: 0, name: a}]",
        "spec.ports[0].number",
        "missing",
    );
    check(
        "resolution: DNS, ports: [{number: 1}]",
        "spec.ports[0].name",
        "missing",
    );
    check(
        "resolution: DNS, ports: [{number: 1, name: a, protocol: UDP}]",
        "spec.ports[0].protocol",
        "UDP",
    );
    check(
        "resolution: DNS, ports: [{number: 1, name: a, protocol: X}]",
        "spec.ports[0].protocol",
        "expected",
    );
    check(
        "resolution: DNS, ports: [{number: 1, name: a}, {number: 1, name: b}]",
        "spec.ports[1].number",
        "twice",
    );
    check(
        "location: MARS, resolution: DNS",
        "spec.location",
        "MESH_EXTERNAL",
    );
    check("resolution: DYNAMIC_DNS", "spec.resolution", "DYNAMIC_DNS");
    check("resolution: MAYBE", "spec.resolution", "expected");
    check("resolution: NONE", "spec.resolution", "without addresses");
    check(
        "addresses: [192.0.2.1], endpoints: [{address: 192.0.2.2}]",
        "spec.endpoints",
        "NONE",
    );
    check("resolution: STATIC", "spec.endpoints", "workloadSelector");
    check(
        "resolution: STATIC, endpoints: [{address: 127.0.0.1}]",
        "spec.endpoints[0].address",
        "every host",
    );
    check(
        "resolution: STATIC, endpoints: [{address: a.example.com}]",
        "spec.endpoints[0].address",
        "DNS for names",
    );
    check(
        "resolution: STATIC, endpoints: [{address: 'unix:///a'}]",
        "spec.endpoints[0].address",
        "file system",
    );
    check(
        "resolution: STATIC, endpoints: [{address: 192.0.2.1, network: net}]",
        "spec.endpoints[0].network",
        "networks",
    );
    check(
        "resolution: STATIC, endpoints: [{address: 192.0.2.1, serviceAccount: a}]",
        "spec.endpoints[0].serviceAccount",
        "identity",
    );
    check(
        "resolution: STATIC, endpoints: [{address: 192.0.2.1, ports: {x: 1}}]",
        "spec.endpoints[0].ports",
        "no port",
    );
    check(
        "resolution: STATIC, endpoints: [{address: 192.0.2.1}], workloadSelector: {labels: {a: b}}",
        "spec.workloadSelector",
        "beside",
    );
    check(
        "resolution: STATIC, workloadSelector: {}",
        "spec.workloadSelector.labels",
        "missing",
    );
    check(
        "resolution: DNS, workloadSelector: {labels: {a: b}}",
        "spec.workloadSelector",
        "STATIC",
    );
    check(
        "resolution: DNS, endpoints: [{address: '*.x'}]",
        "spec.endpoints[0].address",
        "wildcard",
    );
    check(
        "resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.b}, {address: c.d}]",
        "spec.endpoints",
        "one name",
    );
}

#[test]
fn what_has_no_effect_is_named() {
    let (entry, notices) = parse(&format!(
        "{{hosts: [short], {PORTS}, resolution: DNS, location: MESH_INTERNAL, subjectAltNames: [a], endpoints: [{{address: a.b, locality: x}}]}}"
    ));
    assert!(entry.is_ok());
    let mut fields: Vec<&str> = notices.iter().map(|n| n.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "spec.endpoints[0].locality",
            "spec.hosts[0]",
            "spec.location",
            "spec.subjectAltNames"
        ]
    );
}

#[test]
fn one_entry_does_not_make_a_million_records() {
    let check = |hosts: usize, ports: usize, endpoints: usize, refused: Option<&str>| {
        let list =
            |of: usize, item: &dyn Fn(usize) -> String| (0..of).map(item).collect::<Vec<_>>().join(", ");
        let (entry, _) = parse(&format!(
            "{{hosts: [{}], ports: [{}], resolution: STATIC, endpoints: [{}]}}",
            list(hosts, &|i| format!("h{i}.example")),
            list(ports, &|i| format!("{{number: {}, name: p{i}}}", i + 1)),
            list(endpoints, &|i| format!(
                "{{address: 192.0.{}.{}}}",
                i / 256,
                i % 256
            )),
        ));
        let field = entry.err().map(|rejection| rejection.field);
        assert_eq!(field.as_deref(), refused, "{hosts} {ports} {endpoints}");
    };
    check(1, 2, 4096, None);
    check(256, 2, 32, None);
    check(256, 4, 16, None);
    check(256, 4, 17, Some("spec.endpoints"));
    check(256, 5, 1, Some("spec.hosts"));
    check(256, 1, 4096, Some("spec.endpoints"));
}
