//! The Gateway API on a real API server, with the chart's definitions.

use serde_json::{Value, json};

use crate::world::{World, helm_template};

const KIND: &str = "gateways.gateway.networking.k8s.io";

/// As people write them: nothing of it may be pruned or refused.
const MANIFESTS: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: edge
  namespace: shop
  annotations: {networking.istio.io/service-type: ClusterIP}
spec:
  gatewayClassName: istio
  infrastructure: {labels: {team: a}}
  listeners:
  - name: http
    port: 80
    protocol: HTTP
    hostname: '*.example.com'
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {istio.io/dataplane-mode: ambient}}}, kinds: [{kind: HTTPRoute}]}
  - name: https
    port: 443
    protocol: HTTPS
    tls: {mode: Terminate, certificateRefs: [{kind: Secret, name: cert}]}
  - name: far
    port: 443
    protocol: HTTPS
    hostname: far.example.com
    tls: {certificateRefs: [{name: cert, namespace: safe}]}
  - {name: pass, port: 443, protocol: TLS, hostname: '*.pass.example.com', tls: {mode: Passthrough}}
  - {name: bytes, port: 9000, protocol: TCP}
  - {name: datagrams, port: 53, protocol: UDP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: http}, {name: edge, sectionName: https}]
  hostnames: [web.example.com]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /v1}
      headers: [{type: RegularExpression, name: x-user, value: 'a.*'}]
      queryParams: [{name: q, value: r}]
      method: GET
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
    - type: URLRewrite
      urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs: [{name: web, port: 80, weight: 90}, {name: nobody, port: 80, weight: 10}]
    timeouts: {request: 10s, backendRequest: 2s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mirrored, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}], backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: grant, namespace: shop}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}], to: [{group: '', kind: Service}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{matches: [{method: {service: a.B, method: C}}], backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: passed, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [a.pass.example.com]
  rules: [{name: all, backendRefs: [{name: web, port: 80, weight: 3}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: forwarded, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: bytes}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

/// What another controller would have said.
const ELSEWHERE: &str = r#"{"status":{"parents":[{"parentRef":{"name":"edge","namespace":"elsewhere"},"controllerName":"example.com/other","conditions":[{"type":"Accepted","status":"True","reason":"Accepted","message":"","lastTransitionTime":"2024-01-01T00:00:00Z"}]}]}}"#;

pub(crate) fn real_manifests_are_taken_and_answered_for(world: &World) {
    classes(world);
    world.apply(MANIFESTS);
    assert_eq!(
        rule(world)["filters"][1]["urlRewrite"]["path"]["replacePrefixMatch"],
        "/"
    );
    refused_by_the_definition(world);
    let parent = |name: &str, at: usize, kind: &str| {
        condition(&route(world, name)["status"]["parents"][at]["conditions"], kind)
    };
    world.until("the route is attached", || {
        parent("web", 0, "Accepted") == "True Accepted"
    });
    world.until("its missing backend is named", || {
        parent("web", 0, "ResolvedRefs") == "False BackendNotFound"
    });
    assert_eq!(parent("web", 1, "Accepted"), "True Accepted", "HTTPS is served");
    world.until("what cannot be done is refused", || {
        parent("mirrored", 0, "Accepted") == "False UnsupportedValue"
    });
    deployed(world);
    gateway(world);
    others_words_stay(world);
    grpc(world);
    streams(world);
    shaped(world);
}

fn get(world: &World, kind: &str, name: &str) -> Value {
    serde_json::from_str(&world.kubectl(&["get", kind, name, "-n", "shop", "-o", "json"])).unwrap()
}

fn route(world: &World, name: &str) -> Value {
    get(world, "httproute", name)
}

fn rule(world: &World) -> Value {
    route(world, "web")["spec"]["rules"][0].clone()
}

/// `STATUS REASON`.
fn condition(list: &Value, kind: &str) -> String {
    let found = list.as_array().into_iter().flatten().find(|c| c["type"] == kind);
    let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
    found.map_or_else(String::new, |c| {
        format!("{} {}", text(c, "status"), text(c, "reason"))
    })
}

fn classes(world: &World) {
    let accepted = |class: &str| {
        let path =
            "jsonpath={.spec.controllerName} {.status.conditions[0].type}={.status.conditions[0].status}";
        world
            .try_kubectl(&["get", "gatewayclass", class, "-o", path])
            .unwrap_or_default()
    };
    for (class, controller) in [
        ("istio", "gateway"),
        ("aquifer", "gateway"),
        ("istio-waypoint", "mesh"),
    ] {
        let wanted = format!("istio.io/{controller}-controller Accepted=True");
        world.until("the class is there and accepted", || accepted(class) == wanted);
    }
    world.kubectl(&["delete", "gatewayclass", "aquifer"]);
    world.until("a deleted class comes back", || {
        accepted("aquifer").ends_with("True")
    });
}

fn refused_by_the_definition(world: &World) {
    for (spec, named) in [
        (
            json!({"parentRefs": [{"name": "edge"}], "rules": [{"filters": [{"type": "URLRewrite"}]}]}),
            "urlRewrite",
        ),
        (
            json!({"rules": [{"backendRefs": [{"name": "a", "port": 0}]}]}),
            "port",
        ),
        (json!({"rules": [{"timeouts": {"request": "soon"}}]}), "request"),
    ] {
        let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "bad", "namespace": "shop"}, "spec": spec});
        let error = world.refused(&object.to_string());
        assert!(error.contains(named), "{error}");
    }
}

fn deployed(world: &World) {
    let find =
        |kind: &str, path: &str| world.try_kubectl(&["get", kind, "edge-istio", "-n", "shop", "-o", path]);
    let owner = "jsonpath={.metadata.ownerReferences[0].name} {.metadata.labels.team}";
    for kind in ["deployment", "service", "serviceaccount"] {
        world.until("it belongs to the Gateway", || {
            find(kind, owner).is_some_and(|o| o == "edge a")
        });
    }
    assert_eq!(
        find("service", "jsonpath={.spec.type} {.spec.ports[*].port}").unwrap(),
        "ClusterIP 15021 80 443 9000"
    );
}

fn gateway(world: &World) {
    let status = || get(world, KIND, "edge")["status"].clone();
    let listener = |at: usize, kind: &str| condition(&status()["listeners"][at]["conditions"], kind);
    world.until("all listeners but one are valid", || {
        condition(&status()["conditions"], "Accepted") == "True ListenersNotValid"
    });
    assert_eq!(listener(0, "Accepted"), "True Accepted");
    assert_eq!(listener(1, "Accepted"), "True Accepted");
    assert_eq!(listener(5, "Accepted"), "False UnsupportedProtocol");
    let attached = || {
        let listeners = status()["listeners"].as_array().cloned().unwrap_or_default();
        let counts = listeners.iter().map(|l| l["attachedRoutes"].as_u64().unwrap());
        counts.collect::<Vec<_>>()
    };
    world.until_said("the routes of each kind are attached", || match attached() {
        counts if counts == [1, 1, 0, 1, 1, 0] => Ok(()),
        counts => Err(format!("{counts:?}")),
    });
    assert_eq!(status()["listeners"][3]["supportedKinds"][0]["kind"], "TLSRoute");
    certificates(world);
    // No kubelet of this cluster has the image.
    assert_eq!(condition(&status()["conditions"], "Programmed"), "False Pending");
    world.until("its Service's name is its address", || {
        status()["addresses"]
            .to_string()
            .contains("edge-istio.shop.svc.cluster.local")
    });
    let edit = r#"{"spec":{"listeners":[{"name":"http","port":80,"protocol":"HTTP"}]}}"#;
    world.kubectl(&["patch", KIND, "edge", "-n", "shop", "--type=merge", "-p", edit]);
    world.until("the status follows the edit", || {
        let observed = status()["conditions"][0]["observedGeneration"].as_i64();
        observed == Some(2) && status()["listeners"].as_array().unwrap().len() == 1
    });
}

/// Another controller's entry in a status stays when ours is written, and when ours goes.
fn others_words_stay(world: &World) {
    let write = [
        "patch",
        "httproute",
        "web",
        "-n",
        "shop",
        "--subresource=status",
        "--type=merge",
        "-p",
        ELSEWHERE,
    ];
    world.kubectl(&write);
    let controllers = || {
        let parents = route(world, "web")["status"]["parents"].clone();
        let names = parents.as_array().cloned().unwrap_or_default();
        names
            .iter()
            .map(|p| p["controllerName"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (other, ours) = ("example.com/other", "istio.io/gateway-controller");
    world.until("ours come back beside the other", || {
        controllers() == [other, ours, ours]
    });
    let away = r#"{"spec":{"parentRefs":[{"name":"edge","namespace":"elsewhere"}]}}"#;
    world.kubectl(&[
        "patch",
        "httproute",
        "web",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        away,
    ]);
    world.until("ours go, the other stays", || controllers() == [other]);
}

/// Secrets are read where a role allows it, and in another namespace only once that has granted one.
fn certificates(world: &World) {
    let resolved = |at: usize| {
        let conditions = get(world, KIND, "edge")["status"]["listeners"][at]["conditions"].clone();
        let message = conditions
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "ResolvedRefs");
        let message = message.map(|c| c["message"].to_string()).unwrap_or_default();
        format!("{} {message}", condition(&conditions, "ResolvedRefs"))
    };
    let said = |at: usize, what: &str, reason: &str, words: &str| {
        world.until(what, || {
            let said = resolved(at);
            said.starts_with(reason) && said.contains(words)
        });
    };
    let bad = "False InvalidCertificateRef";
    said(
        1,
        "the missing right is said",
        bad,
        "Secret shop/cert cannot be read",
    );
    said(
        2,
        "the missing grant is said",
        "False RefNotPermitted",
        "no ReferenceGrant of namespace safe",
    );
    world.kubectl(&["create", "namespace", "safe"]);
    world.apply(GRANT);
    said(
        2,
        "what is granted is looked for",
        bad,
        "Secret safe/cert cannot be read",
    );
    let roles = [
        "aquifer",
        "-n",
        "istio-system",
        "-s",
        "templates/control/rbac.yaml",
        "--set",
        "gatewayApi.secretNamespaces={shop,safe}",
    ];
    world.apply(&helm_template("deploy/chart", &roles));
    said(1, "the missing Secret is said", bad, "no Secret shop/cert");
    for namespace in ["shop", "safe"] {
        world.apply(&secret(namespace));
    }
    for at in [1, 2] {
        said(at, "a Secret that comes is taken", "True ResolvedRefs", "");
    }
    world.kubectl(&["delete", "referencegrant", "edge", "-n", "safe"]);
    said(2, "what is taken back goes", "False RefNotPermitted", "");
}

const GRANT: &str = r"
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: edge, namespace: safe}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Secret, name: cert}]}
";

fn secret(namespace: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["far.example.com".to_owned()]).unwrap();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": "cert", "namespace": namespace },
        "stringData": { "tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem() },
    })
    .to_string()
}

fn streams(world: &World) {
    for (kind, name) in [("tlsroute", "passed"), ("tcproute", "forwarded")] {
        let said = || {
            let conditions = get(world, kind, name)["status"]["parents"][0]["conditions"].clone();
            condition(&conditions, "Accepted")
        };
        // The Gateway was edited meanwhile, and has no such listener any more.
        world.until("its status follows the Gateway", || {
            said() == "False NoMatchingParent" || said() == "False NotAllowedByListeners"
        });
    }
    let error = world.refused(
        &json!({"apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute", "metadata": {"name": "bad", "namespace": "shop"}, "spec": {"rules": []}})
            .to_string(),
    );
    assert!(error.contains("rules"), "{error}");
}

fn grpc(world: &World) {
    let accepted = || {
        condition(
            &get(world, "grpcroute", "calls")["status"]["parents"][0]["conditions"],
            "Accepted",
        )
    };
    world.until("a kind without support says so", || {
        accepted() == "False UnsupportedValue"
    });
}

const SHAPE: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: shape, namespace: shop}
data:
  deployment: '{spec: {template: {spec: {terminationGracePeriodSeconds: 7}}}}'
  horizontalPodAutoscaler: '{spec: {minReplicas: 2, maxReplicas: 3}}'
  podDisruptionBudget: '{spec: {minAvailable: 1}}'
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shaped, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: shape}}
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

/// An autoscaler and a budget on request; they go with the request.
fn shaped(world: &World) {
    world.apply(SHAPE);
    let find = |kind: &str, path: &str| {
        world
            .try_kubectl(&["get", kind, "shaped", "-n", "shop", "-o", path])
            .unwrap_or_default()
    };
    world.until("what was asked for is there", || {
        find("hpa", "jsonpath={.spec.minReplicas} {.spec.scaleTargetRef.name}") == "2 shaped"
            && find("pdb", "jsonpath={.spec.minAvailable}") == "1"
            && find(
                "deployment",
                "jsonpath={.spec.template.spec.terminationGracePeriodSeconds}",
            ) == "7"
    });
    let edit = r#"{"data":{"horizontalPodAutoscaler":null,"deployment":null}}"#;
    world.kubectl(&[
        "patch",
        "configmap",
        "shape",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        edit,
    ]);
    world.until("what is asked for no more goes", || {
        find("hpa", "name").is_empty()
            && find(
                "deployment",
                "jsonpath={.spec.template.spec.terminationGracePeriodSeconds}",
            ) == "30"
    });
    assert_eq!(find("pdb", "jsonpath={.spec.minAvailable}"), "1");
    world.kubectl(&["delete", KIND, "shaped", "-n", "shop"]);
}
