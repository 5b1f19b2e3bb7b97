use super::*;
use crate::model::virtual_service::PathRedirect;
use crate::objects::{Object, ParsedObject};
use crate::source::document;

fn parse(spec: &str) -> Result<Arc<HttpRoute>, Rejection> {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {spec}\n"
    );
    let parsed = document::parse(text.as_bytes());
    assert_eq!(parsed.problems, Vec::<String>::new(), "{spec}");
    match ParsedObject::parse(parsed.objects[0].clone()).outcome {
        Ok(Object::HttpRoute(route)) => Ok(route),
        Ok(other) => panic!("{other:?}"),
        Err(rejection) => Err(rejection),
    }
}

fn rule(rule: &str) -> RouteRule {
    parse(&format!("{{rules: [{rule}]}}")).unwrap().rules[0].clone()
}

#[track_caller]
fn rejected(text: &str, field: &str, reason: &str) {
    let rejection = parse(&format!("{{rules: [{text}]}}")).unwrap_err();
    assert_eq!(rejection.field, format!("spec.rules[0].{field}"), "{rejection}");
    assert!(rejection.reason.contains(reason), "{rejection}");
}

#[test]
fn what_is_not_said_is_the_apis_default() {
    let route =
        parse("{parentRefs: [{name: g}, {kind: Service, group: '', name: s, port: 80}, {kind: X, name: x}]}")
            .unwrap();
    let kinds: Vec<_> = route.parents.iter().map(|p| (p.kind, &*p.namespace)).collect();
    assert_eq!(
        kinds,
        [
            (ParentKind::Gateway, "shop"),
            (ParentKind::Service, "shop"),
            (ParentKind::Other, "shop")
        ]
    );
    let [only] = route.rules.as_slice() else {
        panic!("{route:?}")
    };
    assert!(only.backends.is_empty() && only.matches.len() == 1);
    assert_eq!(only.matches[0].condition.uri, None);
    let backend = &rule("{backendRefs: [{name: a, port: 80}]}").backends[0];
    assert_eq!(backend.weight, 1);
}

#[test]
fn more_specific_matches_come_first() {
    let matches = [
        "{path: {type: Exact, value: /a}}",
        "{path: {value: /long/prefix}, method: GET}",
        "{path: {value: /long/prefix}, headers: [{name: a, value: b}, {name: c, value: d}]}",
        "{path: {value: /long/prefix/}, headers: [{name: a, value: b}], queryParams: [{name: q, value: r}]}",
        "{path: {value: /long/prefix}, headers: [{name: a, value: b}]}",
        "{path: {value: /a}}",
        "{path: {type: RegularExpression, value: /long/regex.*}}",
        "{method: GET}",
        "{headers: [{name: a, value: b}]}",
        "{queryParams: [{name: a, value: b}]}",
        "{path: {value: /}}",
    ];
    let ranked = rule(&format!("{{matches: [{}]}}", matches.join(", "))).matches;
    for (i, pair) in ranked.windows(2).enumerate() {
        assert!(
            pair[0].order() < pair[1].order(),
            "{} before {}",
            matches[i],
            matches[i + 1]
        );
    }
}

#[test]
fn prefixes_are_replaced_by_whole_segments() {
    let rewrite = |path: &str, with: &str| {
        let text = format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{with}'}}}}}}]}}"
        );
        let Action::Forward(forward) = rule(&text).rule.action else {
            panic!("{text}")
        };
        forward.rewrite
    };
    assert_eq!(rewrite("/a", "/b/").uri.as_deref(), Some("/b"));
    assert_eq!(rewrite("/", "/b").uri.as_deref(), Some("/b/"));
    let stripped = rewrite("/a.b/", "/").regex.unwrap();
    assert_eq!((&*stripped.0, &*stripped.1), (r"^/a\.b/?(.*)$", r"/\1"));
    let full = rule(
        r"{filters: [{type: URLRewrite, urlRewrite: {hostname: x.example, path: {type: ReplaceFullPath, replaceFullPath: '/a\b'}}}]}",
    );
    let Action::Forward(forward) = full.rule.action else {
        panic!()
    };
    assert_eq!(forward.rewrite.authority.as_deref(), Some("x.example"));
    assert_eq!(forward.rewrite.regex.unwrap().1.as_ref(), r"/a\\b");
}

#[test]
fn redirects_say_where_and_how() {
    let to = |text: &str| {
        let made = rule(&format!(
            "{{filters: [{{type: RequestRedirect, requestRedirect: {text}}}]}}"
        ));
        let Action::Redirect(redirect) = made.rule.action else {
            panic!("{text}")
        };
        (redirect, made.redirects_to_listener)
    };
    let (plain, to_listener) = to("{hostname: x.example}");
    assert_eq!((plain.code, to_listener), (302, true));
    let (https, to_listener) =
        to("{scheme: https, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /y}}");
    assert_eq!(
        (https.code, https.path, to_listener),
        (301, Some(PathRedirect::Full("/y".into())), false)
    );
    assert!(!to("{port: 8080}").1);
}

#[test]
fn header_values_are_literal() {
    let made = rule(
        "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: '50%'}, {name: a, value: second}], add: [{name: B, value: x}], remove: [C]}}], timeouts: {request: 10s, backendRequest: 500ms}}",
    );
    let edits = &made.rule.request_headers;
    assert_eq!(edits.set, [("a".into(), "50%%".into())]);
    assert_eq!(
        (&edits.add[..], &edits.remove[..]),
        (&[("b".into(), "x".into())][..], &["c".into()][..])
    );
    let Action::Forward(forward) = made.rule.action else {
        panic!()
    };
    assert_eq!(forward.timeout, Some(Duration::from_secs(10)));
    assert_eq!(forward.retries.per_try_timeout, Some(Duration::from_millis(500)));
}

#[test]
fn what_cannot_be_kept_whole_is_refused_by_its_field() {
    rejected(
        "{matches: [{path: {value: a}}]}",
        "matches[0].path.value",
        "begin with /",
    );
    rejected(
        "{matches: [{path: {value: /a//b}}]}",
        "matches[0].path.value",
        "no path",
    );
    rejected(
        "{matches: [{path: {type: RegularExpression, value: '('}}]}",
        "matches[0].path.value",
        "regular expression",
    );
    rejected(
        "{matches: [{path: {type: Fuzzy, value: /}}]}",
        "matches[0].path.type",
        "not known",
    );
    rejected("{matches: [{method: get}]}", "matches[0].method", "is none of");
    rejected(
        "{matches: [{headers: [{name: 'a b', value: c}]}]}",
        "matches[0].headers[0].name",
        "header name",
    );
    rejected("{backendRefs: [{name: a}]}", "backendRefs[0].port", "missing");
    rejected(
        "{backendRefs: [{name: a, port: 80, weight: -1}]}",
        "backendRefs[0].weight",
        "expected 0",
    );
    rejected(
        "{filters: [{type: RequestMirror, requestMirror: {}}]}",
        "filters[0].type",
        "not supported",
    );
    rejected(
        "{filters: [{type: ExtensionRef}]}",
        "filters[0].type",
        "not supported",
    );
    rejected("{filters: [{type: CORS}]}", "filters[0].type", "not supported");
    rejected(
        "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}], matches: [{path: {type: Exact, value: /a}}]}",
        "filters[0].urlRewrite.path.replacePrefixMatch",
        "PathPrefix",
    );
    rejected(
        "{filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]}",
        "filters[0].requestRedirect.scheme",
        "neither",
    );
    rejected(
        "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}]}",
        "backendRefs",
        "together",
    );
    rejected(
        "{filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]}",
        "filters[1].type",
        "twice",
    );
    rejected("{timeouts: {request: 1.5s}}", "timeouts.request", "duration");
    rejected(
        "{timeouts: {request: 1s, backendRequest: 2s}}",
        "timeouts.backendRequest",
        "longer",
    );
    rejected("{retry: {attempts: 2}}", "retry", "unknown field");
    rejected(
        "{backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {}}]}]}",
        "backendRefs[0].filters",
        "only Request",
    );
    let rejection = parse("{hostnames: ['*']}").unwrap_err();
    assert_eq!(rejection.field, "spec.hostnames[0]");
}

proptest::proptest! {
    #[test]
    fn never_panics(path in "\\PC{0,20}", value in "\\PC{0,20}", kind in "Exact|PathPrefix|RegularExpression|\\PC{0,3}") {
        let spec = serde_json::json!({
            "hostnames": [value], "rules": [{
                "matches": [{"path": {"type": kind, "value": path}, "headers": [{"name": value, "value": path}]}],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": value, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": path}}}],
                "timeouts": {"request": value},
            }],
        });
        let _ = parse(&spec.to_string());
    }
}
