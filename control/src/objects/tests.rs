//! Bad objects are rejected alone, with the field and the reason.

use std::sync::Arc;

use super::*;
use crate::source::document;

fn parse(yaml: &str) -> ParsedObject {
    let parsed = document::parse(yaml.as_bytes());
    assert_eq!(parsed.problems, Vec::<String>::new());
    ParsedObject::parse(parsed.objects[0].clone())
}

#[track_caller]
fn rejected(kind: &str, spec: &str, field: &str, reason: &str) {
    let group = if kind.ends_with("Authentication") || kind.ends_with("Policy") {
        SECURITY
    } else {
        NETWORKING
    };
    let object = parse(&format!(
        "apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: x, namespace: ns}}\nspec: {spec}\n"
    ));
    let Err(rejection) = object.outcome else {
        panic!("accepted: {spec}")
    };
    assert_eq!(rejection.field, field, "{rejection}");
    assert!(rejection.reason.contains(reason), "{rejection}");
}

fn rules(http: &str) -> String {
    format!("{{hosts: [a], http: [{http}]}}")
}

const TO: &str = "route: [{destination: {host: a}}]";

#[test]
fn unknown_fields_and_wrong_types_are_named() {
    let check =
        |http: &str, field: &str, reason: &str| rejected("VirtualService", &rules(http), field, reason);
    check("{rout: []}", "spec.http[0].rout", "unknown field");
    check(
        "{match: [{uri: {prefx: /a}}], route: [{destination: {host: a}}]}",
        "spec.http[0].match[0].uri.prefx",
        "unknown field",
    );
    check(
        "{route: [{destination: {host: 5}}]}",
        "spec.http[0].route[0].destination.host",
        "expected",
    );
    check(
        "{route: [{destination: {host: a}, weight: many}]}",
        "spec.http[0].route[0].weight",
        "invalid type",
    );
    check(
        "{route: [{destination: [a, v1]}]}",
        "spec.http[0].route[0].destination",
        "expected a mapping",
    );
    check(
        "{match: {uri: a}, route: []}",
        "spec.http[0].match",
        "expected a sequence",
    );
    rejected("VirtualService", "[a]", "spec", "expected a mapping");
    rejected(
        "Gateway",
        "{selector: {a: b}, servers: [{port: {number: 99999, protocol: HTTP}, hosts: ['*']}]}",
        "spec.servers[0].port.number",
        "expected u16",
    );
    let outside =
        parse("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspecs: {}\n");
    assert_eq!(outside.outcome.unwrap_err().field, "specs");
    let labels = parse("apiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: {version: 1}}\n");
    assert_eq!(labels.outcome.unwrap_err().field, "metadata.labels.version");
}

#[test]
fn rules_of_a_virtual_service() {
    let check =
        |http: &str, field: &str, reason: &str| rejected("VirtualService", &rules(http), field, reason);
    let two = |a: i32, b: i32| {
        format!(
            "{{route: [{{destination: {{host: a}}, weight: {a}}}, {{destination: {{host: b}}, weight: {b}}}]}}"
        )
    };
    check(&two(-1, 5), "spec.http[0].route[0].weight", "-1");
    check(&two(0, 0), "spec.http[0].route", "add up to 0");
    check("{}", "spec.http[0]", "exactly one of");
    check(
        &format!("{{{TO}, redirect: {{uri: /x}}}}"),
        "spec.http[0]",
        "exactly one of",
    );
    check(
        "{redirect: {uri: /x}, fault: {abort: {httpStatus: 500}}}",
        "spec.http[0].fault",
        "together with redirect",
    );
    check(
        "{redirect: {redirectCode: 200}}",
        "spec.http[0].redirect.redirectCode",
        "301",
    );
    check(
        &format!("{{{TO}, timeout: 5}}"),
        "spec.http[0].timeout",
        "expected",
    );
    check(
        &format!("{{{TO}, timeout: soon}}"),
        "spec.http[0].timeout",
        "not a duration",
    );
    check(
        &format!("{{match: [{{uri: {{regex: '('}}}}], {TO}}}"),
        "spec.http[0].match[0].uri.regex",
        "regular expression",
    );
    check(
        &format!("{{match: [{{uri: {{exact: a, prefix: b}}}}], {TO}}}"),
        "spec.http[0].match[0].uri",
        "more than one",
    );
    check(
        &format!("{{{TO}, retries: {{retryOn: never}}}}"),
        "spec.http[0].retries.retryOn",
        "never",
    );
    check(
        &format!("{{{TO}, fault: {{abort: {{httpStatus: 99}}}}}}"),
        "spec.http[0].fault.abort.httpStatus",
        "200 to 599",
    );
    check(
        &format!("{{{TO}, fault: {{delay: {{fixedDelay: 1s, percentage: {{value: 101}}}}}}}}"),
        "spec.http[0].fault.delay.percentage.value",
        "101",
    );
    check(
        "{delegate: {name: other}}",
        "spec.http[0].delegate",
        "not supported",
    );
    check(
        &format!("{{{TO}, headers: {{request: {{set: {{'a b': c}}}}}}}}"),
        "spec.http[0].headers.request.set[\"a b\"]",
        "header name",
    );
    check(
        &format!("{{{TO}, headers: {{request: {{set: {{x: '%REQ(a)%'}}}}}}}}"),
        "spec.http[0].headers.request.set[\"x\"]",
        "%",
    );
    check(
        "{route: [{destination: {host: '*'}}]}",
        "spec.http[0].route[0].destination.host",
        "wildcard",
    );
    check(
        "{directResponse: {status: 1000}}",
        "spec.http[0].directResponse.status",
        "200 to 599",
    );
    rejected("VirtualService", "{hosts: ['a*b'], http: []}", "spec", "no rule");
    rejected(
        "VirtualService",
        &format!("{{hosts: ['a*b'], http: [{{{TO}}}]}}"),
        "spec.hosts[0]",
        "wildcard",
    );
    rejected(
        "VirtualService",
        &format!("{{hosts: [], http: [{{{TO}}}]}}"),
        "spec.hosts",
        "delegated",
    );
    rejected(
        "VirtualService",
        "{hosts: [a], tls: [{}]}",
        "spec.tls",
        "clients in the mesh",
    );
    rejected(
        "VirtualService",
        "{hosts: [a], tcp: [{}]}",
        "spec.tcp[0].route",
        "needs a destination",
    );
    rejected(
        "VirtualService",
        &format!("{{hosts: [a], exportTo: ['a/b'], http: [{{{TO}}}]}}"),
        "spec.exportTo[0]",
        "a/b",
    );
    rejected(
        "VirtualService",
        &format!("{{hosts: [a], gateways: ['/x'], http: [{{{TO}}}]}}"),
        "spec.gateways[0]",
        "none of",
    );
}

#[test]
fn the_other_kinds() {
    rejected("DestinationRule", "{}", "spec.host", "missing");
    rejected(
        "DestinationRule",
        "{host: a, subsets: [{name: v1}, {name: v1}]}",
        "spec.subsets[1].name",
        "twice",
    );
    rejected(
        "DestinationRule",
        "{host: a, trafficPolicy: {loadBalancer: {simple: BEST}}}",
        "spec.trafficPolicy.loadBalancer.simple",
        "BEST",
    );
    rejected(
        "DestinationRule",
        "{host: a, trafficPolicy: {tls: {mode: SOME}}}",
        "spec.trafficPolicy.tls.mode",
        "ISTIO_MUTUAL",
    );
    let server = |protocol: &str, tls: &str| {
        format!(
            "{{selector: {{istio: x}}, servers: [{{port: {{number: 443, name: h, protocol: {protocol}}}, tls: {{{tls}}}, hosts: ['*']}}]}}"
        )
    };
    for (protocol, tls, field, reason) in [
        ("HTTPS", "mode: SIMPLE", "tls.credentialName", "missing"),
        (
            "HTTPS",
            "mode: SIMPLE, credentialName: 'builtin://x'",
            "tls.credentialName",
            "not the name of a Secret",
        ),
        (
            "HTTPS",
            "mode: SOME, credentialName: c",
            "tls.mode",
            "expected SIMPLE",
        ),
        ("HTTPS", "mode: ISTIO_MUTUAL", "tls.mode", "tunnels"),
        (
            "HTTPS",
            "mode: SIMPLE, credentialName: c, httpsRedirect: true",
            "tls.httpsRedirect",
            "https already",
        ),
        (
            "HTTPS",
            "mode: SIMPLE, serverCertificate: /f",
            "tls.serverCertificate",
            "credentialName",
        ),
        (
            "HTTPS",
            "mode: MUTUAL, credentialName: c, caCrl: /f",
            "tls.caCrl",
            "not checked",
        ),
        (
            "HTTPS",
            "mode: SIMPLE, credentialName: c, maxProtocolVersion: TLSV1_1",
            "tls.maxProtocolVersion",
            "TLS 1.2",
        ),
        (
            "HTTPS",
            "mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2",
            "tls.minProtocolVersion",
            "newer than",
        ),
        (
            "HTTPS",
            "mode: SIMPLE, credentialName: c, cipherSuites: [AES128-SHA]",
            "tls.cipherSuites",
            "ECDHE",
        ),
        (
            "HTTPS",
            "mode: SIMPLE, credentialName: c, ecdhCurves: [P-256]",
            "tls.ecdhCurves",
            "cannot be chosen",
        ),
        (
            "HTTPS",
            "mode: MUTUAL, credentialName: c, insecureSkipVerify: true",
            "tls.insecureSkipVerify",
            "always checked",
        ),
        ("TCP", "mode: SIMPLE, credentialName: c", "tls", "write TLS"),
        ("HTTP", "mode: SIMPLE, credentialName: c", "tls", "write HTTPS"),
    ] {
        rejected(
            "Gateway",
            &server(protocol, tls),
            &format!("spec.servers[0].{field}"),
            reason,
        );
    }
    rejected(
        "Gateway",
        "{selector: {}, servers: []}",
        "spec.selector",
        "every pod",
    );
    rejected("WorkloadEntry", "{address: 192.0.2.1}", "kind", "not supported");
    rejected(
        "PeerAuthentication",
        "{mtls: {mode: MAYBE}}",
        "spec.mtls.mode",
        "MAYBE",
    );
    rejected(
        "PeerAuthentication",
        "{portLevelMtls: {'80': {mode: STRICT}}}",
        "spec.portLevelMtls",
        "selector",
    );
    rejected(
        "PeerAuthentication",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {x: {mode: STRICT}}}",
        "spec.portLevelMtls[\"x\"]",
        "port",
    );
    rejected("AuthorizationPolicy", "{action: MAYBE}", "spec.action", "ALLOW");
    rejected(
        "AuthorizationPolicy",
        "{action: CUSTOM}",
        "spec.action",
        "not supported",
    );
    rejected(
        "AuthorizationPolicy",
        "{targetRefs: [{kind: Service, name: a}]}",
        "spec.targetRefs",
        "not supported",
    );
    rejected(
        "AuthorizationPolicy",
        "{rules: [{to: [{operation: {ports: ['http']}}]}]}",
        "spec.rules[0].to[0].operation.ports[0]",
        "port",
    );
    rejected(
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {ipBlocks: [a]}}]}]}",
        "spec.rules[0].from[0].source.ipBlocks[0]",
        "CIDR",
    );
    rejected(
        "AuthorizationPolicy",
        "{rules: [{when: [{key: no.such, values: [a]}]}]}",
        "spec.rules[0].when[0].key",
        "no.such",
    );
}

#[test]
fn every_field_of_the_api_is_known() {
    let full = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: ns}\nspec:\n  hosts: [a]\n  http:\n  - name: nn\n    match: [{name: m, uri: {prefix: /}, scheme: {exact: http}, method: {regex: G.*}, authority: {exact: a}, headers: {x: {}}, port: 80, sourceLabels: {a: b}, gateways: [mesh], queryParams: {q: {exact: '1'}}, ignoreUriCase: true, withoutHeaders: {yy: {}}, sourceNamespace: z, statPrefix: s}]\n    route: [{destination: {host: a, subset: s, port: {number: 80}}, weight: 1, headers: {request: {set: {a: b}, add: {c: d}, remove: [e]}, response: {remove: [f]}}}]\n    rewrite: {uri: /x, authority: yy}\n    timeout: 1s\n    retries: {attempts: 3, perTryTimeout: 1s, retryOn: '5xx,503', retryRemoteLocalities: true, retryIgnorePreviousHosts: true, backoff: 25ms}\n    fault: {delay: {fixedDelay: 1s, percentage: {value: 0.1}}, abort: {grpcStatus: UNAVAILABLE}}\n    mirror: {host: b}\n    mirrorPercentage: {value: 50}\n    corsPolicy: {allowOrigins: [{exact: '*'}], allowMethods: [GET], allowHeaders: [a], exposeHeaders: [b], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}\n    headers: {request: {set: {Host: c}}}\n";
    let object = parse(full);
    assert!(object.outcome.is_ok(), "{:?}", object.outcome);
    let fields: Vec<&str> = object.notices.iter().map(|n| n.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.http[0].retries.retryRemoteLocalities",
            "spec.http[0].mirror"
        ]
    );
}

proptest::proptest! {
    #[test]
    fn any_json_is_answered(value in json(), kind in 0usize..12) {
        let (group, kind) = [
            (NETWORKING, "VirtualService"), (NETWORKING, "DestinationRule"), (NETWORKING, "Gateway"), (NETWORKING, "Sidecar"),
            (SECURITY, "PeerAuthentication"), (SECURITY, "AuthorizationPolicy"), (GATEWAY_API, "Gateway"),
            ("", "Pod"), ("", "Service"), ("", "Namespace"), ("", "ConfigMap"), ("discovery.k8s.io", "EndpointSlice"),
        ][kind];
        let raw = RawObject { key: ObjectKey::new(group, kind, "n", "x"), api_version: "v1".into(), value };
        let _ = ParsedObject::parse(Arc::new(raw));
    }
}

/// JSON that looks like objects: the names of fields are often real ones.
pub(crate) fn json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z*./%-]{0,12}".prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "hosts",
        "http",
        "match",
        "route",
        "destination",
        "host",
        "weight",
        "subset",
        "labels",
        "servers",
        "port",
        "number",
        "selector",
        "matchLabels",
        "rules",
        "from",
        "source",
        "principals",
        "mtls",
        "mode",
        "podIP",
        "containers",
        "ports",
        "endpoints",
        "addresses",
        "data",
        "name",
        "uri",
        "prefix",
    ]);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
