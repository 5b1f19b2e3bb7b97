//! A request's head, checked once: what routing and forwarding rely on.

use std::borrow::Cow;

use aquifer_core::http::listener::PathHandling;
use aquifer_core::http::normalize::normalize;
use aquifer_core::http::request::{RequestView, Source};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, Version};

use super::failure::Failure;

/// The head without its hop-by-hop part; the host is kept apart from the headers.
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) scheme: &'static str,
    pub(crate) headers: HeaderMap,
}

impl Head {
    pub(crate) fn parse(parts: Parts, path: PathHandling) -> Result<Self, Failure> {
        if parts.method == Method::CONNECT {
            return Err(Failure::BadRequest("CONNECT is not supported here"));
        }
        let host = host(&parts)?;
        let mut headers = parts.headers;
        headers.remove(HOST);
        if headers.contains_key(TRANSFER_ENCODING) {
            only_chunked(&headers)?;
            // RFC 9112 section 6.3: the length that was also given is not to be believed, nor passed on.
            headers.remove(CONTENT_LENGTH);
        }
        let raw_path = match parts.uri.path() {
            "" => "/",
            path => path,
        };
        let normal = normalize(raw_path, path).map(Cow::into_owned);
        Ok(Self {
            path: normal.ok_or(Failure::BadRequest("the path cannot be normalised"))?,
            query: parts.uri.query().map(str::to_owned),
            method: parts.method,
            version: parts.version,
            scheme: "http",
            host,
            headers,
        })
    }

    pub(crate) fn view<'a>(&'a self, source: Source<'a>) -> RequestView<'a> {
        RequestView {
            method: &self.method,
            scheme: self.scheme,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            source,
        }
    }

    /// As the access log shows it.
    pub(crate) fn path_and_query(&self) -> String {
        join(&self.path, self.query.as_deref())
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }
}

pub(crate) fn join(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// RFC 9112 section 6.1: a coding beside the chunks would be lost on the way, for the chunks are made anew.
fn only_chunked(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings
        .next()
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() {
        return Ok(());
    }
    Err(Failure::NotImplemented(
        "the only transfer coding that is supported is chunked",
    ))
}

/// RFC 9112 section 3.2: exactly one `Host`, and the authority of an absolute target wins over it.
fn host(parts: &Parts) -> Result<String, Failure> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::BadRequest("more than one Host header"));
    }
    if let Some(authority) = parts.uri.authority() {
        return checked(authority.as_str());
    }
    match header.map(|h| h.to_str()) {
        Some(Ok(host)) => checked(host),
        Some(Err(_)) => Err(Failure::BadRequest("the Host header is not text")),
        None if parts.version == Version::HTTP_10 => Ok(String::new()),
        None => Err(Failure::BadRequest("the Host header is missing")),
    }
}

/// What may be a host and port, and nothing that another parser could read as more.
fn checked(host: &str) -> Result<String, Failure> {
    let allowed = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%' | b'*')
    };
    if host.len() <= 512 && host.bytes().all(allowed) {
        return Ok(host.to_owned());
    }
    Err(Failure::BadRequest("the host holds characters that no host has"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parse(request: http::request::Builder) -> Result<Head, Failure> {
        Head::parse(request.body(()).unwrap().into_parts().0, PathHandling::default())
    }

    #[test]
    fn one_host_is_needed_and_the_target_wins() {
        let head = parse(Request::get("/a?b=c").header("host", "h:80")).unwrap();
        assert_eq!(
            (head.host.as_str(), head.path_and_query().as_str()),
            ("h:80", "/a?b=c")
        );
        assert_eq!(
            parse(Request::get("http://x/").header("host", "h")).unwrap().host,
            "x"
        );
        assert!(parse(Request::get("/")).is_err());
        assert!(parse(Request::get("/").header("host", "a").header("host", "b")).is_err());
        assert!(parse(Request::get("/").header("host", "a/b")).is_err());
        assert!(parse(Request::connect("h:80")).is_err());
    }

    #[test]
    fn other_codings_are_not_implemented() {
        for coding in ["gzip, chunked", "gzip", "chunked, chunked"] {
            let request = Request::post("/")
                .header("host", "h")
                .header("transfer-encoding", coding);
            assert_eq!(parse(request).map(drop).unwrap_err().status(), 501, "{coding}");
        }
    }

    #[test]
    fn a_length_beside_chunks_is_dropped() {
        let request = Request::post("/")
            .header("host", "h")
            .header("content-length", "5");
        let head = parse(request.header("transfer-encoding", "chunked")).unwrap();
        assert!(!head.headers.contains_key("content-length"));
    }
}
