//! Route configurations and requests from small alphabets, so that many conditions hold and many just do not.

use aquifer_xds::envoy::pb::envoy::config::core::v3 as core_pb;
use aquifer_xds::envoy::pb::envoy::config::route::v3 as pb;
use aquifer_xds::envoy::pb::envoy::extensions::filters::http::cors::v3 as cors_pb;
use aquifer_xds::envoy::pb::envoy::r#type::matcher::v3 as matcher;
use aquifer_xds::envoy::pb::envoy::r#type::v3::Int64Range;
use aquifer_xds::envoy::pb::google::protobuf as wkt;
use aquifer_xds::envoy::{SOURCE_FILTER, SOURCE_NAMESPACE_FILTER};
use pb::header_matcher::HeaderMatchSpecifier;
use pb::query_parameter_matcher::QueryParameterMatchSpecifier;
use pb::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use pb::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use pb::route_match::PathSpecifier;
use pb::virtual_host::TlsRequirementType;
use prost::{Message, Name};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::Sent;

pub(crate) const CLUSTERS: [&str; 3] = ["a", "b", "c"];
/// Headers that requests carry and that routes change.
pub(crate) const CHANGED: [&str; 3] = ["x-one", "x-two", "x-three"];

const DOMAINS: [&str; 10] = [
    "*",
    "*.example.com",
    "a.example.com",
    "b.example.com:8080",
    "*-x.example.com",
    "a.*",
    "*.com",
    "A.Example.org",
    "a.example.*",
    "*.a.example.com",
];
const HOSTS: [&str; 9] = [
    "a.example.com",
    "b.example.com",
    "c.example.com",
    "q-x.example.com",
    "a.org",
    "A.EXAMPLE.com",
    "a.example.org",
    "z.a.example.com",
    "nowhere",
];
const PATHS: [&str; 10] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/A/b",
    "/b",
    "/b/c/d",
    "/c",
    "/a/b/x.html",
];
const QUERIES: [&str; 7] = ["", "?q=1", "?q=2&r=1", "?r=1&q=1", "?q", "?x=a%20b", "?"];
const VALUES: [&str; 5] = ["1", "12", "Alpha", "alphabet", "beta"];

fn maybe(random: &mut SmallRng, percent: u32) -> bool {
    random.random_ratio(percent, 100)
}

fn pick<T: Copy>(random: &mut SmallRng, list: &[T]) -> T {
    *list.choose(random).unwrap()
}

pub(crate) fn configuration(random: &mut SmallRng, number: usize) -> pb::RouteConfiguration {
    let mut domains = DOMAINS.to_vec();
    domains.shuffle(random);
    let hosts = domains.chunks(3).take(random.random_range(1..=3)).enumerate();
    pb::RouteConfiguration {
        name: format!("table-{number}"),
        virtual_hosts: hosts
            .map(|(i, domains)| virtual_host(random, i, domains))
            .collect(),
        ignore_port_in_host_matching: maybe(random, 50),
        request_headers_to_add: if maybe(random, 20) {
            vec![header_option(random)]
        } else {
            vec![]
        },
        ..Default::default()
    }
}

fn virtual_host(random: &mut SmallRng, number: usize, domains: &[&str]) -> pb::VirtualHost {
    let routes = random.random_range(1..=7);
    pb::VirtualHost {
        name: format!("host-{number}"),
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        routes: (0..routes)
            .map(|i| route(random, &format!("{number}-{i}")))
            .collect(),
        request_headers_to_add: if maybe(random, 20) {
            vec![header_option(random)]
        } else {
            vec![]
        },
        require_tls: match maybe(random, 10) {
            true => TlsRequirementType::All.into(),
            false => TlsRequirementType::None.into(),
        },
        ..Default::default()
    }
}

fn route(random: &mut SmallRng, name: &str) -> pb::Route {
    let path = path(random);
    let regex = matches!(path, PathSpecifier::SafeRegex(_));
    let action = match random.random_range(0..10) {
        0 => pb::route::Action::Redirect(redirect(random)),
        1 => pb::route::Action::DirectResponse(direct(random)),
        _ => pb::route::Action::Route(forward(random)),
    };
    pb::Route {
        name: name.to_owned(),
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(path),
            // Envoy takes case_sensitive with an expression as an error of the user.
            case_sensitive: (!regex && maybe(random, 30)).then_some(wkt::BoolValue { value: false }),
            headers: list(random, 35, header_matcher),
            query_parameters: list(random, 20, query_matcher),
            dynamic_metadata: list(random, 30, source_matcher),
            ..Default::default()
        }),
        action: Some(action),
        request_headers_to_add: list(random, 25, header_option),
        request_headers_to_remove: if maybe(random, 15) {
            vec![pick(random, &CHANGED).to_owned()]
        } else {
            vec![]
        },
        ..Default::default()
    }
}

fn list<T>(random: &mut SmallRng, percent: u32, make: impl Fn(&mut SmallRng) -> T) -> Vec<T> {
    let mut list = Vec::new();
    while list.len() < 3 && maybe(random, percent) {
        list.push(make(random));
    }
    list
}

fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: text.to_owned(),
        ..Default::default()
    }
}

fn path(random: &mut SmallRng) -> PathSpecifier {
    match random.random_range(0..8) {
        0..=2 => PathSpecifier::Prefix(pick(random, &["/", "/a", "/a/b", "/b", "/A"]).to_owned()),
        3 | 4 => PathSpecifier::Path(pick(random, &["/a", "/a/b", "/b", "/A/b"]).to_owned()),
        5 => PathSpecifier::PathSeparatedPrefix(pick(random, &["/a", "/b", "/a/b"]).to_owned()),
        _ => PathSpecifier::SafeRegex(regex(pick(
            random,
            &["/a.*", "/[ab]", "/a|/b", "/[^/]+/b", ".*", "/b/(c|x)/.*"],
        ))),
    }
}

fn string_matcher(random: &mut SmallRng) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern;
    let pattern = match random.random_range(0..5) {
        0 => MatchPattern::Exact(
            pick(random, &["1", "12", "Alpha", "alphabet", "beta", "1,12", "12,1"]).to_owned(),
        ),
        1 => MatchPattern::Prefix(pick(random, &["1", "al", "Al"]).to_owned()),
        2 => MatchPattern::Suffix(pick(random, &["2", "a", "bet"]).to_owned()),
        3 => MatchPattern::Contains(pick(random, &["1", "lph", "PH"]).to_owned()),
        _ => MatchPattern::SafeRegex(regex(pick(random, &["[0-9]+", "alpha.*", "1,.*", ".*"]))),
    };
    let is_regex = matches!(pattern, MatchPattern::SafeRegex(_));
    matcher::StringMatcher {
        ignore_case: !is_regex && maybe(random, 30),
        match_pattern: Some(pattern),
    }
}

fn header_matcher(random: &mut SmallRng) -> pb::HeaderMatcher {
    let specifier = match random.random_range(0..8) {
        0 => HeaderMatchSpecifier::PresentMatch(true),
        1 => HeaderMatchSpecifier::PresentMatch(false),
        2 => HeaderMatchSpecifier::RangeMatch(Int64Range { start: 1, end: 12 }),
        _ => HeaderMatchSpecifier::StringMatch(string_matcher(random)),
    };
    if maybe(random, 10) {
        let method = matcher::string_matcher::MatchPattern::Exact("POST".to_owned());
        return pb::HeaderMatcher {
            name: ":method".to_owned(),
            invert_match: maybe(random, 30),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher::StringMatcher {
                match_pattern: Some(method),
                ..Default::default()
            })),
            ..Default::default()
        };
    }
    pb::HeaderMatcher {
        name: pick(random, &CHANGED).to_owned(),
        invert_match: maybe(random, 30),
        treat_missing_header_as_empty: maybe(random, 30),
        header_match_specifier: Some(specifier),
    }
}

fn query_matcher(random: &mut SmallRng) -> pb::QueryParameterMatcher {
    let specifier = if maybe(random, 40) {
        QueryParameterMatchSpecifier::PresentMatch(true)
    } else {
        QueryParameterMatchSpecifier::StringMatch(string_matcher(random))
    };
    pb::QueryParameterMatcher {
        name: pick(random, &["q", "r", "x"]).to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

fn source_matcher(random: &mut SmallRng) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    let namespace = maybe(random, 25);
    let (filter, key) = match namespace {
        true => (SOURCE_NAMESPACE_FILTER, "name"),
        false => (SOURCE_FILTER, pick(random, &["app", "version"])),
    };
    let value = match maybe(random, 20) {
        true => matcher::value_matcher::MatchPattern::PresentMatch(true),
        false => matcher::value_matcher::MatchPattern::StringMatch(string_matcher(random)),
    };
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(key.to_owned())),
        }],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(value),
        }),
        invert: maybe(random, 30),
    }
}

fn header_option(random: &mut SmallRng) -> core_pb::HeaderValueOption {
    core_pb::HeaderValueOption {
        header: Some(core_pb::HeaderValue {
            key: pick(random, &CHANGED).to_owned(),
            value: pick(random, &["new", "100%%", ""]).to_owned(),
            ..Default::default()
        }),
        append_action: random.random_range(0..4),
        keep_empty_value: maybe(random, 50),
        ..Default::default()
    }
}

fn forward(random: &mut SmallRng) -> pb::RouteAction {
    let mut action = pb::RouteAction {
        cluster_specifier: Some(cluster(random)),
        ..Default::default()
    };
    let substitute = |pattern: &str, substitution: &str| matcher::RegexMatchAndSubstitute {
        pattern: Some(regex(pattern)),
        substitution: substitution.to_owned(),
    };
    match random.random_range(0..6) {
        0 => action.prefix_rewrite = pick(random, &["/", "/new", "/a/"]).to_owned(),
        1 => action.regex_rewrite = Some(substitute("/([^/]*)", r"/\1-x")),
        2 => action.regex_rewrite = Some(substitute("b", "$1B")),
        _ => {}
    }
    action.host_rewrite_specifier = match random.random_range(0..6) {
        0 => Some(HostRewriteSpecifier::HostRewriteLiteral("rewritten".to_owned())),
        1 => Some(HostRewriteSpecifier::HostRewriteHeader("x-one".to_owned())),
        _ => None,
    };
    action
}

/// Weights of zero and one: chance must not decide what is compared.
fn cluster(random: &mut SmallRng) -> ClusterSpecifier {
    if maybe(random, 8) {
        return ClusterSpecifier::Cluster("missing".to_owned());
    }
    if maybe(random, 70) {
        return ClusterSpecifier::Cluster(pick(random, &CLUSTERS).to_owned());
    }
    let chosen = random.random_range(0..CLUSTERS.len());
    let weight = |(i, name): (usize, &&str)| pb::weighted_cluster::ClusterWeight {
        name: (*name).to_owned(),
        weight: Some(wkt::UInt32Value {
            value: u32::from(i == chosen),
        }),
        ..Default::default()
    };
    let mut clusters: Vec<_> = CLUSTERS.iter().enumerate().map(weight).collect();
    clusters[chosen].request_headers_to_add = list(random, 50, header_option);
    ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
        clusters,
        ..Default::default()
    })
}

fn redirect(random: &mut SmallRng) -> pb::RedirectAction {
    let path = match random.random_range(0..4) {
        0 => Some(PathRewriteSpecifier::PathRedirect("/to".to_owned())),
        1 => Some(PathRewriteSpecifier::PathRedirect("/to?with=query".to_owned())),
        2 => Some(PathRewriteSpecifier::PrefixRewrite("/to".to_owned())),
        _ => None,
    };
    pb::RedirectAction {
        host_redirect: if maybe(random, 40) {
            "other.example".to_owned()
        } else {
            String::new()
        },
        port_redirect: if maybe(random, 30) { 8443 } else { 0 },
        response_code: random.random_range(0..5),
        strip_query: maybe(random, 30),
        scheme_rewrite_specifier: match random.random_range(0..3) {
            0 => Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
            1 => Some(SchemeRewriteSpecifier::SchemeRedirect("https".to_owned())),
            _ => None,
        },
        path_rewrite_specifier: path,
    }
}

fn direct(random: &mut SmallRng) -> pb::DirectResponseAction {
    pb::DirectResponseAction {
        status: pick(random, &[200, 404, 418, 503]),
        body: maybe(random, 50).then(|| core_pb::DataSource {
            specifier: Some(core_pb::data_source::Specifier::InlineString("direct".to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn request(random: &mut SmallRng) -> Sent {
    let host = pick(random, &HOSTS);
    let port = pick(random, &["", "", ":80", ":8080"]);
    let mut headers = Vec::new();
    for name in CHANGED {
        while headers.len() < 4 && maybe(random, 40) {
            headers.push((name, pick(random, &VALUES)));
        }
    }
    let label = |random: &mut SmallRng, key| maybe(random, 60).then(|| (key, pick(random, &VALUES)));
    Sent {
        method: pick(random, &["GET", "GET", "POST", "PUT"]),
        host: format!("{host}{port}"),
        target: format!("{}{}", pick(random, &PATHS), pick(random, &QUERIES)),
        headers,
        labels: [label(random, "app"), label(random, "version")]
            .into_iter()
            .flatten()
            .collect(),
        namespace: maybe(random, 60).then(|| pick(random, &VALUES)),
    }
}

/// A table that sends everything to one cluster.
pub(crate) fn everything_to(cluster: &str) -> pb::RouteConfiguration {
    one_route(pb::Route {
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(pb::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    })
}

fn one_route(route: pb::Route) -> pb::RouteConfiguration {
    pb::RouteConfiguration {
        name: "table".to_owned(),
        virtual_hosts: vec![pb::VirtualHost {
            name: "host".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(crate) fn get(target: &str) -> Sent {
    Sent {
        method: "GET",
        host: "host".to_owned(),
        target: target.to_owned(),
        headers: Vec::new(),
        labels: Vec::new(),
        namespace: None,
    }
}

/// A path of pieces that a normal form treats specially.
pub(crate) fn crooked_path(random: &mut SmallRng) -> String {
    const PIECES: [&str; 18] = [
        "/", "/", "/", ".", "..", "a", "b", "%2e", "%2E", "%2f", "%61", "%7e", "%5c", "\\", "~", "%", "%zz",
        "%25",
    ];
    let pieces = random.random_range(0..10);
    let rest: String = (0..pieces).map(|_| pick(random, &PIECES)).collect();
    format!("/{rest}")
}

/// A table with a policy for cross-origin requests.
pub(crate) fn cross_origin(forward_unmatched: bool) -> pb::RouteConfiguration {
    use matcher::string_matcher::MatchPattern;
    let origin = |pattern| matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    };
    let policy = cors_pb::CorsPolicy {
        allow_origin_string_match: vec![
            origin(MatchPattern::Exact("https://a.example".to_owned())),
            origin(MatchPattern::SafeRegex(regex("https://[^.]*\\.b\\.example"))),
        ],
        allow_methods: "GET,PUT".to_owned(),
        allow_headers: "x-one".to_owned(),
        expose_headers: "x-two".to_owned(),
        max_age: "60".to_owned(),
        allow_credentials: Some(wkt::BoolValue { value: true }),
        forward_not_matching_preflights: Some(wkt::BoolValue {
            value: forward_unmatched,
        }),
        ..Default::default()
    };
    let any = wkt::Any {
        type_url: cors_pb::CorsPolicy::type_url(),
        value: policy.encode_to_vec(),
    };
    let mut table = everything_to("a");
    table.name = format!("cors-{forward_unmatched}");
    let route = &mut table.virtual_hosts[0].routes[0];
    route
        .typed_per_filter_config
        .insert("envoy.filters.http.cors".to_owned(), any);
    table
}

pub(crate) fn cross_origin_requests() -> Vec<Sent> {
    let origins = [
        None,
        Some("https://a.example"),
        Some("https://x.b.example"),
        Some("https://c.example"),
    ];
    let mut requests = Vec::new();
    for origin in origins {
        for (method, asks) in [
            ("GET", false),
            ("GET", true),
            ("OPTIONS", false),
            ("OPTIONS", true),
        ] {
            let origin = origin.map(|origin| ("origin", origin));
            let asks = asks.then_some(("access-control-request-method", "PUT"));
            requests.push(Sent {
                method,
                headers: origin.into_iter().chain(asks).collect(),
                ..get("/")
            });
        }
    }
    requests
}
