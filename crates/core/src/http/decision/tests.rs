use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::http::action::{Destination, Destinations};
use crate::http::matching::{
    HeaderCondition, HeaderMatch, PathMatch, QueryMatch, RouteMatch, SourceAttribute, SourceMatch,
};
use crate::http::request::Source;
use crate::http::table::HostPort;
use crate::http::text::{Case, Pattern, TextMatch, TextPattern};

type Labels = BTreeMap<Arc<str>, Arc<str>>;

fn forward(cluster: &str) -> Action {
    Action::Forward(Forward::to(Destinations::single(cluster)))
}

fn no_match() -> Action {
    Action::DirectResponse(DirectResponse {
        status: 404,
        body: Arc::from(&b""[..]),
    })
}

fn table(routes: Vec<Route>) -> RouteTable {
    let host = VirtualHost {
        name: "ratings".into(),
        domains: vec!["*".into()],
        routes,
        ..VirtualHost::default()
    };
    RouteTable::new("t", HostPort::Ignored, vec![host]).unwrap()
}

struct Request {
    headers: HeaderMap,
    path: &'static str,
    query: Option<&'static str>,
    labels: Option<Labels>,
}

fn get(path: &'static str) -> Request {
    Request {
        headers: HeaderMap::new(),
        path,
        query: None,
        labels: None,
    }
}

impl Request {
    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers
            .append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }
    fn query(mut self, query: &'static str) -> Self {
        self.query = Some(query);
        self
    }
    fn label(mut self, key: &str, value: &str) -> Self {
        self.labels
            .get_or_insert_default()
            .insert(key.into(), value.into());
        self
    }
    fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &Method::GET,
            scheme: "http",
            host: "ratings:9080",
            path: self.path,
            query: self.query,
            headers: &self.headers,
            source: Source {
                labels: self.labels.as_ref(),
                namespace: Some("bookinfo"),
            },
        }
    }
    fn name<'t>(&self, table: &'t RouteTable) -> &'t str {
        route(table, &self.view(), 0).route_name()
    }
}

fn with(f: impl FnOnce(&mut RouteMatch)) -> RouteMatch {
    let mut m = RouteMatch::any();
    f(&mut m);
    m
}

fn from_version(version: &str) -> RouteMatch {
    with(|m| m.source = vec![label("version", version, false)])
}

fn label(key: &str, value: &str, invert: bool) -> SourceMatch {
    SourceMatch {
        attribute: SourceAttribute::Label(key.into()),
        value: Some(TextMatch::exact(value)),
        invert,
    }
}

#[test]
fn first_matching_route_wins() {
    let path = |p: &str| PathMatch::Prefix {
        prefix: p.into(),
        case: Case::Sensitive,
    };
    let t = table(vec![
        Route::new("a", with(|m| m.path = path("/a")), forward("a")),
        Route::new("ab", with(|m| m.path = path("/ab")), forward("ab")),
    ]);
    assert_eq!(get("/ab").name(&t), "a");
    assert_eq!(route(&t, &get("/b").view(), 0).outcome, Outcome::NotFound);
}

/// The seed's ratings rule: reviews v3 to v2, v2 to v1, everybody else the default route to the service.
#[test]
fn source_labels_choose_and_clients_without_a_rule_get_the_service() {
    let t = table(vec![
        Route::new("v3", from_version("v3"), forward("ratings-v2")),
        Route::new("v2", from_version("v2"), forward("ratings-v1")),
        Route::new("no-match", from_version("v3"), no_match()),
        Route::new("no-match", from_version("v2"), no_match()),
        Route::new("default", RouteMatch::any(), forward("ratings")),
    ]);
    let cluster = |r: Request| route(&t, &r.view(), 0).cluster();
    assert_eq!(cluster(get("/").label("version", "v3")), Some("ratings-v2"));
    assert_eq!(cluster(get("/").label("version", "v2")), Some("ratings-v1"));
    assert_eq!(cluster(get("/").label("version", "v1")), Some("ratings"));
    assert_eq!(cluster(get("/")), Some("ratings"));
}

/// A rule survived for this client, but its request matches none: 404, not the default route.
#[test]
fn no_match_comes_before_the_default_route() {
    let conditional = with(|m| {
        m.source = vec![label("version", "v3", false)];
        m.path = PathMatch::Exact {
            path: "/only".into(),
            case: Case::Sensitive,
        };
    });
    let t = table(vec![
        Route::new("v3", conditional, forward("ratings-v2")),
        Route::new("no-match", from_version("v3"), no_match()),
        Route::new("default", RouteMatch::any(), forward("ratings")),
    ]);
    assert_eq!(get("/only").label("version", "v3").name(&t), "v3");
    assert_eq!(get("/else").label("version", "v3").name(&t), "no-match");
    let refused = get("/else").label("version", "v3");
    assert_eq!(route(&t, &refused.view(), 0).outcome, Outcome::NotFound);
    assert_eq!(get("/else").label("version", "v1").name(&t), "default");
}

#[test]
fn inverted_and_namespace_conditions() {
    let inverted = with(|m| m.source = vec![label("version", "v3", true)]);
    let t = table(vec![Route::new("not-v3", inverted, forward("a"))]);
    assert_eq!(get("/").name(&t), "not-v3");
    assert_eq!(get("/").label("version", "v2").name(&t), "not-v3");
    assert_eq!(get("/").label("version", "v3").name(&t), "");
    let namespace = |ns: &str| {
        let source = SourceMatch {
            attribute: SourceAttribute::Namespace,
            value: Some(TextMatch::exact(ns)),
            invert: false,
        };
        table(vec![Route::new(
            "in",
            with(|m| m.source = vec![source]),
            forward("a"),
        )])
    };
    assert_eq!(get("/").name(&namespace("bookinfo")), "in");
    assert_eq!(get("/").name(&namespace("other")), "");
}

fn header(name: &str, condition: HeaderCondition) -> HeaderMatch {
    HeaderMatch {
        name: name.into(),
        condition,
        invert: false,
        missing_as_empty: false,
    }
}

#[test]
fn header_conditions() {
    let exact = |v: &str| HeaderCondition::from(TextPattern::Exact(v.into()));
    let holds = |m: HeaderMatch, r: &Request| m.matches(&r.view());
    let jason = get("/").header("end-user", "jason");
    assert!(holds(header("end-user", exact("jason")), &jason));
    assert!(!holds(header("end-user", exact("jaso")), &jason));
    assert!(!holds(header("end-user", exact("jason")), &get("/")));
    assert!(holds(header("end-user", HeaderCondition::Absent), &get("/")));
    assert!(holds(header("end-user", HeaderCondition::Present), &jason));
    let twice = get("/").header("a", "1").header("a", "2");
    assert!(holds(header("a", exact("1")), &twice) && holds(header("a", exact("2")), &twice));
    assert!(holds(header(":authority", exact("ratings:9080")), &jason));
    assert!(holds(header(":path", exact("/?q")), &get("/").query("q")));
    assert!(holds(
        header("n", HeaderCondition::Range { start: 1, end: 5 }),
        &get("/").header("n", "4")
    ));
    assert!(!holds(
        header("n", HeaderCondition::Range { start: 1, end: 5 }),
        &get("/").header("n", "5")
    ));
    let regex = Pattern::parse("ja.*").unwrap();
    assert!(holds(
        header("end-user", TextPattern::Regex(regex).into()),
        &jason
    ));
}

/// Envoy: an absent header satisfies an inverted condition only where it counts as an empty one.
#[test]
fn inverted_header_conditions() {
    let mut m = header("end-user", TextPattern::Exact("jason".into()).into());
    m.invert = true;
    assert!(!m.matches(&get("/").view()));
    assert!(m.matches(&get("/").header("end-user", "eve").view()));
    m.missing_as_empty = true;
    assert!(m.matches(&get("/").view()));
    assert!(!m.matches(&get("/").header("end-user", "jason").view()));
}

#[test]
fn query_conditions() {
    let m = |value: Option<&str>| QueryMatch {
        name: "q".into(),
        value: value.map(TextMatch::exact),
    };
    assert!(m(Some("1")).matches(&get("/").query("a=2&q=1&q=3").view()));
    assert!(!m(Some("3")).matches(&get("/").query("q=1&q=3").view()));
    assert!(m(None).matches(&get("/").query("q").view()));
    assert!(!m(None).matches(&get("/").view()));
}

#[test]
fn path_conditions() {
    let check = |m: PathMatch, path: &str, want: bool| assert_eq!(m.matches(path), want, "{m:?} {path}");
    let case = Case::Sensitive;
    check(
        PathMatch::Prefix {
            prefix: "/foo".into(),
            case,
        },
        "/foobar",
        true,
    );
    check(
        PathMatch::SegmentPrefix {
            prefix: "/foo".into(),
            case,
        },
        "/foobar",
        false,
    );
    check(
        PathMatch::SegmentPrefix {
            prefix: "/foo".into(),
            case,
        },
        "/foo/bar",
        true,
    );
    check(
        PathMatch::SegmentPrefix {
            prefix: "/foo".into(),
            case,
        },
        "/foo",
        true,
    );
    check(
        PathMatch::Exact {
            path: "/foo".into(),
            case,
        },
        "/foo/",
        false,
    );
    let case = Case::Insensitive;
    check(
        PathMatch::Exact {
            path: "/FOO".into(),
            case,
        },
        "/foo",
        true,
    );
    check(
        PathMatch::Regex(Pattern::parse("/v[0-9]").unwrap()),
        "/v1/x",
        false,
    );
}

#[test]
fn mutations_come_most_specific_first() {
    let add = |n: &'static str| HeaderMutations {
        remove: vec![HeaderName::from_static(n)],
        set: vec![],
    };
    let mut destination = Destination::to("c", 1);
    destination.request_headers = add("destination");
    let action = Action::Forward(Forward::to(Destinations::new(vec![destination]).unwrap()));
    let mut r = Route::new("r", RouteMatch::any(), action);
    r.request_headers = add("route");
    let host = VirtualHost {
        domains: vec!["*".into()],
        routes: vec![r],
        request_headers: add("host"),
        ..VirtualHost::default()
    };
    let mut t = RouteTable::new("t", HostPort::Ignored, vec![host]).unwrap();
    t.request_headers = add("table");
    let request = get("/");
    let decision = route(&t, &request.view(), 0);
    let order: Vec<_> = decision
        .request_mutations()
        .map(|m| m.remove[0].as_str())
        .collect();
    assert_eq!(order, ["destination", "route", "host", "table"]);
}

proptest! {
    #[test]
    fn never_panics_and_is_a_function_of_its_input(path in "/\\PC{0,20}", host in "\\PC{0,20}", random: u64) {
        let t = table(vec![
            Route::new("v3", from_version("v3"), forward("ratings-v2")),
            Route::new("default", RouteMatch::any(), forward("ratings")),
        ]);
        let headers = HeaderMap::new();
        let view = RequestView {
            method: &Method::GET, scheme: "http", host: &host, path: &path, query: None, headers: &headers,
            source: Source::default(),
        };
        prop_assert_eq!(route(&t, &view, random), route(&t, &view, random));
        prop_assert_eq!(route(&t, &view, random).route_name(), "default");
    }
}
