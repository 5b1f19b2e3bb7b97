//! Each kind of mistake gives its finding, and what is right gives none.

use super::*;

const APPLICATION: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1, namespace: shop}
spec: {template: {metadata: {labels: {app: reviews, version: v1}}, spec: {containers: [{name: a}]}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
";

fn input(documents: &str, background: &str, view: View) -> Input {
    let document = |name: &str, text: &str| Document {
        origin: name.into(),
        bytes: text.into(),
    };
    Input {
        documents: vec![document("file.yaml", documents)],
        background: vec![document("cluster", background)],
        view,
        namespace: "shop".into(),
        mesh: Mesh::in_namespace("istio-system"),
        now: SystemTime::now(),
    }
}

fn found(documents: &str, view: View) -> Vec<String> {
    let findings = validate(&input(documents, "", view));
    findings
        .iter()
        .map(|f| format!("{} {} {}", f.level, f.reason, f.field))
        .collect()
}

#[test]
fn a_pods_label_that_leads_to_no_waypoint_is_found() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, labels: {istio.io/use-waypoint: wp}}\nspec: {}\n---\n";
    let refused = format!("{pod}{}", waypoint("service"));
    for view in [View::Files, View::Cluster] {
        let found = found(&refused, view);
        let found = found.iter().find(|f| f.contains("NoWaypoint"));
        assert_eq!(
            found.map(|f| &**f),
            Some("warning NoWaypoint metadata.labels"),
            "{view:?}"
        );
    }
    assert!(found(&format!("{pod}{}", waypoint("all")), View::Files).is_empty());
}

fn waypoint(serves: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: wp, namespace: shop, labels: {{istio.io/waypoint-for: {serves}}}}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n---\n"
    )
}

#[test]
fn files_without_the_waypoints_gateway_are_no_reason_to_warn() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop, labels: {istio.io/use-waypoint: wp}}\nspec: {}\n";
    assert_eq!(found(pod, View::Files), ["info NoWaypoint metadata.labels"]);
    assert!(found(pod, View::Cluster).contains(&"warning NoWaypoint metadata.labels".to_owned()));
    let of_node = pod.replace("spec: {}", "spec: {hostNetwork: true}");
    assert_eq!(found(&of_node, View::Files), Vec::<String>::new());
}

#[test]
fn rules_behind_a_waypoint_that_refuses_say_why_and_what_helps() {
    let labelled = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}\n---\n";
    let rules = rules("{route: [{destination: {host: reviews, subset: v1}}]}");
    let judged = |more: &str, view: View| {
        let text = format!("{labelled}{more}{rules}");
        let findings = validate(&input(&text, "", view)).into_iter();
        let of_rules = findings.filter(|f| f.object == "VirtualService shop/r");
        let of_rules: Vec<_> = of_rules
            .map(|f| (f.level, f.reason, f.message, f.remedy))
            .collect();
        let [found] = <[_; 1]>::try_from(of_rules).unwrap();
        found
    };
    let (level, reason, message, remedy) = judged("", View::Files);
    assert_eq!((level, reason), (Level::Info, "NoWaypoint"), "{message}");
    assert!(message.contains("waypoint shop/wp does not exist"), "{message}");
    assert!(
        remedy.contains("aquifer waypoint apply") && !remedy.contains("dataplane-mode"),
        "{remedy}"
    );
    assert_eq!(judged("", View::Cluster).0, Level::Warning);
    let (level, reason, message, remedy) = judged(&waypoint("workload"), View::Files);
    assert_eq!((level, reason), (Level::Warning, "NoWaypoint"), "{message}");
    assert!(
        message.contains("is not for services (label istio.io/waypoint-for)"),
        "{message}"
    );
    assert!(remedy.contains("change the waypoint's Gateway"), "{remedy}");
}

fn rules(http: &str) -> String {
    format!(
        "{APPLICATION}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\nspec: {{hosts: [reviews], http: [{http}]}}\n"
    )
}

#[test]
fn what_is_right_has_no_findings() {
    assert_eq!(found(APPLICATION, View::Files), Vec::<String>::new());
    let http = "{route: [{destination: {host: reviews, subset: v1}}]}";
    assert_eq!(found(&rules(http), View::Files), Vec::<String>::new());
}

#[test]
fn every_mistake_is_named_with_its_field() {
    let check =
        |http: &str, expected: &str| assert_eq!(found(&rules(http), View::Files), [expected], "{http}");
    check("{rout: []}", "error UnknownField spec.http[0].rout");
    check(
        "{route: [{destination: {host: reviws}}]}",
        "error NotFound spec.http[0].route[0].destination",
    );
    check(
        "{route: [{destination: {host: reviews, subset: v9}}]}",
        "error NotFound spec.http[0].route[0].destination",
    );
    check(
        "{route: [{destination: {host: reviews}, weight: -1}]}",
        "error Invalid spec.http[0].route[0].weight",
    );
    check(
        "{route: [{destination: {host: cart.other.svc.cluster.local}}]}",
        "info NotFound spec.http[0].route[0].destination",
    );
    check(
        "{route: [{destination: {host: reviews}}]}, {route: [{destination: {host: reviews}}]}",
        "warning Unreachable spec.http[1]",
    );
}

#[test]
fn entries_for_hosts_outside_are_judged() {
    let entry = |rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out}}\nspec: {{hosts: [out.example], ports: [{{number: 80, name: http, protocol: HTTP}}], {rest}}}\n"
        )
    };
    let nothing = Vec::<String>::new();
    let addresses = "addresses: [10.96.7.7], resolution: STATIC, endpoints: [{address: 192.0.2.1}]";
    assert_eq!(found(&entry(addresses), View::Files), nothing);
    let dns = entry("resolution: DNS");
    assert_eq!(found(&dns, View::Files), ["info NoAddresses spec.addresses"]);
    let wild = dns.replace("out.example", "'*.example'");
    assert_eq!(found(&wild, View::Files), ["error Unsupported spec.hosts[0]"]);
    assert_eq!(
        found(&entry("resolution: DNS, endpoint: []"), View::Files),
        ["error UnknownField spec.endpoint"]
    );
    let two = format!(
        "{}---\n{}",
        entry(addresses),
        entry(addresses).replace("name: out}", "name: other}")
    );
    let conflicts = ["error Conflict spec.addresses[0]", "error Conflict spec.hosts"];
    assert_eq!(found(&two, View::Files), conflicts);
    // A destination that an entry has is found.
    let rules = http_to("out.example");
    assert_eq!(
        found(&format!("{rules}---\n{}", entry(addresses)), View::Files),
        nothing
    );
}

fn http_to(host: &str) -> String {
    rules(&format!("{{route: [{{destination: {{host: {host}}}}}]}}"))
}

#[test]
fn a_near_miss_is_suggested() {
    let findings = validate(&input(&http_to("reviws"), "", View::Files));
    assert_eq!(findings[0].remedy, "did you mean \"reviews\"?");
    let findings = validate(&input(&http_to("reviews.shop"), "", View::Files));
    assert_eq!(
        findings[0].remedy,
        "did you mean \"reviews.shop.svc.cluster.local\"?"
    );
}

#[test]
fn the_younger_of_two_rules_for_one_host_is_reported() {
    let rule = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews}}}}]}}]}}\n---\n"
        )
    };
    let old = rule("old").replace(
        "metadata: {",
        "metadata: {creationTimestamp: \"2024-01-01T00:00:00Z\", ",
    );
    let background = format!(
        "{APPLICATION}{old}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{istio.io/dataplane-mode: ambient}}}}"
    );
    let findings = validate(&input(&rule("new"), &background, View::Cluster));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].reason, &*findings[0].object),
        ("Conflict", "VirtualService shop/new")
    );
    // An update of the old one is no conflict with itself.
    assert_eq!(validate(&input(&rule("old"), &background, View::Cluster)), []);
}

#[test]
fn a_cluster_without_the_namespace_is_noticed() {
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRICT}}";
    assert_eq!(
        found(text, View::Cluster),
        ["error NoNamespace metadata.namespace"]
    );
    assert_eq!(found(text, View::Files), Vec::<String>::new());
}

#[test]
fn secrets_selectors_and_versions_are_checked() {
    let gateway = |name: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: a, port: 1, protocol: HBONE, tls: {{certificateRefs: [{{name: {name}}}]}}}}]}}"
        )
    };
    assert_eq!(
        found(&gateway("x"), View::Files),
        ["info NoSecret spec.listeners[0].tls.certificateRefs[0]"]
    );
    let secret = "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\n";
    assert_eq!(
        found(&format!("{}{secret}", gateway("x")), View::Files),
        Vec::<String>::new()
    );
    let policy = format!(
        "{APPLICATION}apiVersion: security.istio.io/v1alpha9\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {{selector: {{matchLabels: {{app: nobody}}}}, mtls: {{mode: STRICT}}}}"
    );
    assert_eq!(
        found(&policy, View::Files),
        [
            "error UnknownVersion apiVersion",
            "warning SelectsNothing spec.selector.matchLabels"
        ]
    );
}

#[test]
fn broken_documents_and_duplicates_are_reported() {
    let findings = found(
        "{ broken: [\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
        View::Files,
    );
    assert_eq!(findings, ["error Unreadable ", "warning Duplicate metadata.name"]);
}

#[test]
fn settings_that_cannot_be_applied_are_an_error_with_what_stays() {
    let settings = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{text}\"}}"
        )
    };
    let wrong = settings("discoverySelectors: [{labels: {a: b}}]");
    assert_eq!(
        found(&wrong, View::Files),
        ["error Invalid data.mesh.discoverySelectors"]
    );
    assert_eq!(found(&settings("["), View::Files), ["error Invalid data.mesh"]);
    let right = settings("discoverySelectors: [{matchLabels: {a: b}}]");
    assert_eq!(found(&right, View::Files), Vec::<String>::new());
    // Another namespace's is nobody's.
    let other = wrong.replace("namespace: istio-system", "namespace: shop");
    assert_eq!(found(&other, View::Files), Vec::<String>::new());
}

mod at_admission {
    use super::*;

    fn verdict(spec: &str) -> Verdict {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r, namespace: shop}}\nspec: {spec}"
        );
        let store = Store::default();
        let compiled = settled(&store, &Arc::new(settings(&Mesh::in_namespace("istio-system"))));
        judge(
            document::parse(text.as_bytes()).objects[0].clone(),
            Some(&compiled),
        )
    }

    #[test]
    fn only_what_is_wrong_in_itself_is_refused() {
        let Verdict::Refuse { reason } = verdict("{hosts: [a], htp: []}") else {
            panic!("admitted")
        };
        assert!(
            reason.starts_with("VirtualService shop/r: spec.htp: unknown field"),
            "{reason}"
        );
        let Verdict::Admit { warnings } =
            verdict("{hosts: [a], http: [{route: [{destination: {host: a}}]}]}")
        else {
            panic!("refused")
        };
        assert!(
            warnings.iter().any(|w| w.contains("no service has the host")),
            "{warnings:?}"
        );
        assert!(
            matches!(verdict("{hosts: [a], tls: [{}]}"), Verdict::Admit { warnings } if warnings.len() == 1)
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(spec in "[-a-z0-9{}\\[\\]:, \"]{0,120}") {
            let text = format!("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: r}}\nspec: {spec}");
            for object in document::parse(text.as_bytes()).objects {
                let _ = judge(object, None);
            }
        }
    }
}

mod of_the_gateway_api {
    use super::*;

    const EDGE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\nspec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}, {name: tcp, port: 9000, protocol: TCP}]}\n---\n";

    fn route(kind: &str, spec: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec: {spec}\n"
        )
    }

    fn gateway(rest: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: shop}}\nspec: {{gatewayClassName: istio, {rest}}}\n"
        )
    }

    #[test]
    fn every_mistake_is_named_with_its_field() {
        let check = |kind: &str, spec: &str, expected: &[&str]| {
            let text = format!("{APPLICATION}{EDGE}{}", route(kind, spec));
            let findings = validate(&input(&text, "", View::Cluster));
            let of_it = findings.iter().filter(|f| f.object.ends_with("shop/r"));
            let said: Vec<String> = of_it
                .map(|f| {
                    assert!(!f.remedy.is_empty() && !f.message.is_empty(), "{f:?}");
                    format!("{} {} {}", f.level, f.reason, f.field)
                })
                .filter(|f| !f.ends_with("metadata.namespace"))
                .collect();
            assert_eq!(said, expected, "{kind} {spec}");
        };
        let backend = |rest: &str| {
            format!(
                "{{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: reviews, port: 9080{rest}}}]}}]}}"
            )
        };
        for kind in ["HTTPRoute", "TCPRoute"] {
            check(kind, &backend(""), &[]);
            check(
                kind,
                &backend(", weight: -1"),
                &["error Invalid spec.rules[0].backendRefs[0].weight"],
            );
            check(
                kind,
                &backend(", wheight: 1"),
                &["error UnknownField spec.rules[0].backendRefs[0].wheight"],
            );
            check(
                kind,
                &backend(", namespace: other"),
                &["error NotPermitted spec.rules[0].backendRefs[0]"],
            );
        }
        check(
            "HTTPRoute",
            "{parentRefs: [{name: edge}], rules: [{filters: [{type: RequestMirror}]}]}",
            &["error Unsupported spec.rules[0].filters[0].type"],
        );
        check(
            "TLSRoute",
            "{parentRefs: [{name: edge}], hostnames: [a.org]}",
            &["warning Suspicious spec.parentRefs"],
        );
        check(
            "GRPCRoute",
            "{parentRefs: [{name: edge}]}",
            &["error Unsupported kind"],
        );
        check(
            "ReferenceGrant",
            "{from: [], too: []}",
            &["error UnknownField spec.too"],
        );
    }

    #[test]
    fn gateways_are_judged_with_their_certificates() {
        let check = |rest: &str, view: View, expected: &[&str]| {
            let mut said = found(&gateway(rest), view);
            said.retain(|f| !f.ends_with("metadata.namespace"));
            assert_eq!(said, expected, "{rest}");
        };
        let listener =
            |tls: &str| format!("listeners: [{{name: a, port: 443, protocol: HTTPS, tls: {{{tls}}}}}]");
        let reference = "spec.listeners[0].tls.certificateRefs[0]";
        check(
            &listener("certificateRefs: [{name: x}]"),
            View::Cluster,
            &[&format!("error NotFound {reference}")],
        );
        check(
            &listener("certificateRefs: [{name: x}]"),
            View::Files,
            &[&format!("info NotFound {reference}")],
        );
        check(
            &listener("certificateRefs: [{name: x, namespace: other}]"),
            View::Cluster,
            &[&format!("error NotPermitted {reference}")],
        );
        check(
            &listener("certificateRefs: [{name: x, kind: Bucket}]"),
            View::Files,
            &[&format!("error BadSecret {reference}")],
        );
        check(
            "listeners: [{name: a, port: 443, protocol: HTTPS}]",
            View::Files,
            &["warning Suspicious spec.listeners[0]"],
        );
        check("listners: []", View::Files, &["error UnknownField spec.listners"]);
    }

    #[test]
    fn certificates_are_judged_by_their_time() {
        let text = format!(
            "{}{}",
            gateway(
                "listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: telemetry-gw-cert, namespace: istio-system}]}}]"
            ),
            certificate("a.org", -1)
        );
        let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: istio-system}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Secret}]}\n";
        let reference = "spec.listeners[0].tls.certificateRefs[0]";
        assert_eq!(
            found(&text, View::Files),
            [format!("warning NotPermitted {reference}")]
        );
        assert_eq!(
            found(&format!("{text}{grant}"), View::Files),
            [format!("error Expired {reference}")]
        );
    }

    /// Beside a mesh that has `background`.
    fn verdict(background: &str, text: &str) -> Verdict {
        let mut store = Store::default();
        for object in document::parse(background.as_bytes()).objects {
            let origin = object.key.to_string().into();
            store.apply(crate::store::SourceEvent::Applied { origin, object });
        }
        let compiled = settled(&store, &Arc::new(settings(&Mesh::in_namespace("istio-system"))));
        judge(
            document::parse(text.as_bytes()).objects[0].clone(),
            Some(&compiled),
        )
    }

    const FOREIGN: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: theirs, namespace: shop}\nspec: {gatewayClassName: nginx}\n";

    #[test]
    fn only_what_is_for_this_mesh_alone_is_refused() {
        let background = format!("{EDGE}{FOREIGN}");
        let wrong = |parents: &str| route("HTTPRoute", &format!("{{parentRefs: [{parents}], ruels: []}}"));
        let judged = |parents: &str| verdict(&background, &wrong(parents));
        assert!(
            matches!(judged("{name: edge}"), Verdict::Refuse { reason } if reason.starts_with("HTTPRoute shop/r: spec.ruels: unknown field"))
        );
        assert_eq!(
            judged("{name: theirs}"),
            Verdict::Admit { warnings: Vec::new() },
            "another implementation may know the field"
        );
        for shared in ["{name: edge}, {name: theirs}", "{name: not-there-yet}"] {
            assert!(matches!(judged(shared), Verdict::Admit { warnings } if warnings.len() == 1));
        }
        let before_the_first_model = judge(
            document::parse(wrong("{name: edge}").as_bytes()).objects[0].clone(),
            None,
        );
        assert!(matches!(before_the_first_model, Verdict::Admit { .. }));
        let foreign = FOREIGN.replace("nginx}", "nginx, listners: 1}");
        assert_eq!(
            verdict(&background, &foreign),
            Verdict::Admit { warnings: Vec::new() }
        );
    }

    #[test]
    fn what_would_become_of_it_is_told_before_it_is_stored() {
        let warnings = |text: &str| match verdict(EDGE, text) {
            Verdict::Admit { warnings } => warnings.join("\n"),
            Verdict::Refuse { reason } => panic!("{reason}"),
        };
        let said = warnings(&route(
            "TCPRoute",
            "{parentRefs: [{name: edge, sectionName: http}], rules: [{backendRefs: [{name: nobody, port: 1}]}]}",
        ));
        assert!(
            said.contains("does not allow routes of kind TCPRoute")
                && said.contains("no Service has the host nobody"),
            "{said}"
        );
        let said = warnings(&gateway(
            "listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: x}]}}]",
        ));
        assert!(
            said.contains("spec.listeners[0].tls.certificateRefs[0]: no Secret shop/x"),
            "{said}"
        );
        let said = warnings(&gateway("listeners: [{name: a, port: 1, protocol: UDP}]"));
        assert!(said.contains("protocol UDP is not supported"), "{said}");
    }
}

const KIALI: &str = include_str!("../../../deploy/samples/seed/ingress.yaml");

/// A Secret for the seed's gateway, whose certificate ended so many days from now.
fn certificate(host: &str, days: i64) -> String {
    let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    let now = SystemTime::now();
    let day = std::time::Duration::from_secs(24 * 3600);
    params.not_before = (now - day * 400).into();
    let length = day * u32::try_from(days.unsigned_abs()).unwrap();
    params.not_after = if days < 0 {
        (now - length).into()
    } else {
        (now + length).into()
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let indented = |pem: &str| pem.replace('\n', "\n    ");
    format!(
        "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: telemetry-gw-cert, namespace: istio-system}}\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(&pem),
        indented(&key.serialize_pem())
    )
}

#[test]
fn certificates_of_gateways_are_judged() {
    let seed = KIALI.replace("${INGRESS_DOMAIN}", "10.0.0.1.nip.io");
    let judged = |secret: &str, view| {
        let mut found = found(&format!("{seed}{secret}"), view);
        // Kiali's Service is not part of the story's manifests.
        found.retain(|f| !f.contains("spec.http") && !f.contains("spec.selector") && !f.contains("metadata"));
        found
    };
    let name = "spec.servers[0].tls.credentialName";
    assert_eq!(judged("", View::Files), [format!("info NotFound {name}")]);
    let host = "kiali.10.0.0.1.nip.io";
    assert!(judged(&certificate(host, 90), View::Files).is_empty());
    assert_eq!(
        judged(&certificate(host, -1), View::Files),
        [format!("error Expired {name}")]
    );
    assert_eq!(
        judged(&certificate(host, 2), View::Files),
        [format!("warning ExpiresSoon {name}")]
    );
    assert_eq!(
        judged(&certificate("other.org", 90), View::Files),
        ["warning Suspicious spec.servers[0].hosts[0]"]
    );
    let empty =
        "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: telemetry-gw-cert, namespace: istio-system}\n";
    assert_eq!(judged(empty, View::Files), [format!("error BadSecret {name}")]);
}
