//! Headers that a proxy adds, removes or keeps to itself.

use std::net::{IpAddr, SocketAddr};

use aquifer_core::http::listener::HttpListener;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};

use super::TlsFacts;
use super::head::Head;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub(crate) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub(crate) const UPSTREAM_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const EXPECT: HeaderName = http::header::EXPECT;

/// Whether the request asks for a WebSocket.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    let names = |name: &HeaderName, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values
            .flat_map(|v| v.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    };
    names(&CONNECTION, "upgrade") && names(&UPGRADE, "websocket")
}

/// Removes what concerns one connection only (RFC 9110 section 7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !is_end_to_end(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    let trailers = headers
        .get(TE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        TE,
    ] {
        headers.remove(name);
    }
    if trailers {
        // gRPC insists on it, and it promises nothing that this proxy would not keep.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// What nobody may have taken out by naming it in `connection`: framing, and what proxies tell of the client.
fn is_end_to_end(name: &HeaderName) -> bool {
    let proxies_say = name.as_str().starts_with("x-forwarded-") || *name == X_REQUEST_ID;
    proxies_say || *name == CONTENT_LENGTH || *name == COOKIE || *name == HOST
}

/// Says the same upgrade to the next hop.
pub(crate) fn ask_for_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Prepares a request's headers for the next hop, and settles what its scheme is.
pub(crate) fn prepare(
    head: &mut Head,
    listener: &HttpListener,
    client: SocketAddr,
    tls: Option<&TlsFacts>,
    request_id: impl FnOnce() -> String,
) {
    strip_hop_by_hop(&mut head.headers);
    // The 100 response is given here, when the body is first asked for.
    head.headers.remove(EXPECT);
    head.headers.remove(X_FORWARDED_CLIENT_CERT);
    let certificate = tls.and_then(|t| t.client_certificate.clone());
    if let Some(certificate) = certificate.filter(|_| listener.forward_client_certificate) {
        head.headers.insert(X_FORWARDED_CLIENT_CERT, certificate);
    }
    if listener.edge {
        at_the_edge(&mut head.headers, listener, client.ip());
    } else {
        let address = || HeaderValue::try_from(client.ip().to_string());
        if !head.headers.contains_key(X_FORWARDED_FOR)
            && let Ok(address) = address()
        {
            head.headers.insert(X_FORWARDED_FOR, address);
        }
    }
    let own = if tls.is_some() { "https" } else { "http" };
    head.scheme = scheme(&mut head.headers, own);
    if !head.headers.contains_key(X_REQUEST_ID)
        && let Ok(id) = HeaderValue::try_from(request_id())
    {
        head.headers.insert(X_REQUEST_ID, id);
    }
}

/// A client outside the mesh does not steer its proxies, and what it says of its address is only a part of the truth.
fn at_the_edge(headers: &mut HeaderMap, listener: &HttpListener, client: IpAddr) {
    let steering = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-envoy-"));
    for name in steering.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    if listener.trusted_hops == 0 {
        headers.remove(X_FORWARDED_PROTO);
    }
    let before = headers.get_all(X_FORWARDED_FOR).iter();
    let mut chain: Vec<&str> = before.filter_map(|v| v.to_str().ok()).collect();
    let client = client.to_string();
    chain.push(&client);
    if let Ok(value) = HeaderValue::try_from(chain.join(",")) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// The scheme that the client used, as the first proxy said it; said here where nobody has.
fn scheme(headers: &mut HeaderMap, own: &'static str) -> &'static str {
    match headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(_) => "http",
        None => {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(own));
            own
        }
    }
}

/// The address of the client at the edge: the entry that the outermost trusted proxy wrote.
pub(crate) fn trusted_client(headers: &HeaderMap, listener: &HttpListener, client: SocketAddr) -> SocketAddr {
    let Some(back) = (listener.trusted_hops as usize)
        .checked_sub(1)
        .filter(|_| listener.edge)
    else {
        return client;
    };
    let values = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let entries: Vec<&str> = values.flat_map(|v| v.split(',')).map(str::trim).collect();
    let told = entries
        .iter()
        .rev()
        .nth(back)
        .and_then(|text| text.parse::<IpAddr>().ok());
    told.map_or(client, |ip| SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_core::http::listener::PathHandling;

    fn listener(edge: bool, trusted_hops: u32) -> HttpListener {
        HttpListener {
            routes: "r".into(),
            path: PathHandling::default(),
            edge,
            trusted_hops,
            stream_idle_timeout: None,
            forward_client_certificate: edge,
        }
    }

    fn prepared(listener: &HttpListener, given: &[(&'static str, &'static str)]) -> HeaderMap {
        over(None, listener, given)
    }

    fn over(
        tls: Option<&TlsFacts>,
        listener: &HttpListener,
        given: &[(&'static str, &'static str)],
    ) -> HeaderMap {
        let mut request = http::Request::get("/").header("host", "h");
        for (name, value) in given {
            request = request.header(*name, *value);
        }
        let mut head = Head::parse(request.body(()).unwrap().into_parts().0, PathHandling::default())
            .unwrap_or_else(|e| panic!("{e}"));
        let client = "10.0.0.9:1234".parse().unwrap();
        prepare(&mut head, listener, client, tls, || "id".into());
        head.headers
    }

    #[test]
    fn what_a_handshake_has_shown_is_told_and_nothing_else() {
        let facts = |certificate: Option<&'static str>| TlsFacts {
            chain: "c".into(),
            server_name: None,
            client_certificate: certificate.map(HeaderValue::from_static),
        };
        let given = [
            ("x-forwarded-proto", "http"),
            ("x-forwarded-client-cert", "Subject=\"CN=root\""),
        ];
        let headers = over(Some(&facts(Some("Hash=1"))), &listener(true, 0), &given);
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-client-cert"], "Hash=1");
        let headers = over(Some(&facts(None)), &listener(true, 0), &given);
        assert!(!headers.contains_key("x-forwarded-client-cert"));
        let headers = over(Some(&facts(Some("Hash=1"))), &listener(false, 0), &given);
        assert!(!headers.contains_key("x-forwarded-client-cert"));
    }

    #[test]
    fn the_edge_believes_nothing() {
        let given = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-retry-on", "5xx"),
            ("x-forwarded-client-cert", "By=x"),
        ];
        let headers = prepared(&listener(true, 0), &given);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4,10.0.0.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert!(
            !headers.contains_key("x-envoy-retry-on") && !headers.contains_key("x-forwarded-client-cert")
        );
        assert_eq!(headers["x-request-id"], "id");
    }

    #[test]
    fn inside_the_mesh_what_the_edge_said_is_kept() {
        let given = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "mine"),
        ];
        let headers = prepared(&listener(false, 0), &given);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4");
        assert_eq!(
            (&headers["x-forwarded-proto"], &headers["x-request-id"]),
            (&"https".parse().unwrap(), &"mine".parse().unwrap())
        );
        assert_eq!(prepared(&listener(false, 0), &[])["x-forwarded-for"], "10.0.0.9");
    }

    #[test]
    fn a_client_cannot_have_the_proxies_words_taken_out() {
        let given = [
            ("connection", "x-forwarded-for, x-request-id, x-forwarded-proto"),
            ("x-request-id", "mine"),
        ];
        let headers = prepared(&listener(true, 0), &given);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.9");
        assert_eq!(headers["x-request-id"], "mine");
        assert_eq!(headers["x-forwarded-proto"], "http");
    }

    #[test]
    fn hop_by_hop_headers_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("keep-alive", "1"),
            ("x", "1"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x"]);
    }

    #[test]
    fn trusted_hops_count_from_the_right() {
        let mut headers = HeaderMap::new();
        headers.insert(
            X_FORWARDED_FOR,
            HeaderValue::from_static("9.9.9.9, 1.2.3.4, 10.1.1.1"),
        );
        let client = "10.0.0.9:1".parse().unwrap();
        assert_eq!(
            trusted_client(&headers, &listener(true, 2), client)
                .ip()
                .to_string(),
            "1.2.3.4"
        );
        assert_eq!(trusted_client(&headers, &listener(true, 0), client), client);
    }
}
