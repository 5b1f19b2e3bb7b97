//! How a request's path and host are rewritten, and where a redirect points.

use std::borrow::Cow;

use ::http::{HeaderMap, HeaderName};

use super::matching::PathMatch;
use super::request::RequestView;
use super::text::Pattern;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// Replaces what the route's path condition matched.
    Prefix(Box<str>),
    Regex {
        pattern: Pattern,
        substitution: Box<str>,
    },
}

impl PathRewrite {
    /// The new path, without the query; `None` where the substitution makes no valid text.
    pub fn apply(&self, matched: &PathMatch, path: &str) -> Option<String> {
        match self {
            Self::Prefix(new) => {
                let rest = path.get(matched.replaced_len(path)..)?;
                Some(format!("{new}{rest}"))
            }
            Self::Regex {
                pattern,
                substitution,
            } => pattern.replace_all(path, substitution),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRewrite {
    Literal(Box<str>),
    /// The value of this request header, where it is present.
    Header(HeaderName),
}

impl HostRewrite {
    /// The new host. `headers` are the request's after the route's changes, as Envoy has it.
    pub fn apply(&self, headers: &HeaderMap) -> Option<String> {
        match self {
            Self::Literal(host) => Some(host.to_string()),
            Self::Header(name) => {
                let value = headers.get(name)?.to_str().ok()?;
                (!value.is_empty()).then(|| value.to_owned())
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    Keep,
    /// The whole path; its own query, where it has one, replaces the request's.
    Replace(Box<str>),
    Rewrite(PathRewrite),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub strip_query: bool,
    pub status: u16,
}

impl Redirect {
    /// The `location` of the response.
    pub fn location(&self, matched: &PathMatch, request: &RequestView<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = match (&self.host, self.port) {
            (Some(host), _) => Cow::Borrowed(&**host),
            (None, Some(_)) => Cow::Borrowed(without_port(request.host)),
            (None, None) => self.kept_host(request, scheme),
        };
        let port = self.port.map(|p| format!(":{p}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{}", self.target(matched, request))
    }

    /// A port that is the default of the old scheme is dropped when the scheme changes.
    fn kept_host<'a>(&self, request: &RequestView<'a>, scheme: &str) -> Cow<'a, str> {
        let (host, port) = split_port(request.host);
        let was_default = matches!(
            (request.scheme, port),
            ("http", Some("80")) | ("https", Some("443"))
        );
        if scheme != request.scheme && was_default {
            return Cow::Borrowed(host);
        }
        Cow::Borrowed(request.host)
    }

    fn target(&self, matched: &PathMatch, request: &RequestView<'_>) -> String {
        let path = match &self.path {
            RedirectPath::Keep => request.path.to_owned(),
            RedirectPath::Replace(path) if path.contains('?') => return path.to_string(),
            RedirectPath::Replace(path) => path.to_string(),
            RedirectPath::Rewrite(rewrite) => rewrite
                .apply(matched, request.path)
                .unwrap_or_else(|| request.path.to_owned()),
        };
        match request.query {
            Some(query) if !self.strip_query => format!("{path}?{query}"),
            _ => path,
        }
    }
}

/// Splits a host and its port; brackets of IPv6 stay with the host.
pub fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The host alone.
pub fn without_port(host: &str) -> &str {
    split_port(host).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Source;
    use crate::http::text::Case;
    use ::http::Method;

    fn view<'a>(
        headers: &'a HeaderMap,
        host: &'a str,
        path: &'a str,
        query: Option<&'a str>,
    ) -> RequestView<'a> {
        RequestView {
            method: &Method::GET,
            scheme: "http",
            host,
            path,
            query,
            headers,
            source: Source::default(),
        }
    }

    fn prefix(p: &str) -> PathMatch {
        PathMatch::Prefix {
            prefix: p.into(),
            case: Case::Sensitive,
        }
    }

    #[test]
    fn prefix_rewrites_replace_what_matched() {
        let to = PathRewrite::Prefix("/new".into());
        assert_eq!(to.apply(&prefix("/old"), "/old/x").unwrap(), "/new/x");
        assert_eq!(to.apply(&prefix("/old"), "/older").unwrap(), "/newer");
        let exact = PathMatch::Exact {
            path: "/a".into(),
            case: Case::Sensitive,
        };
        assert_eq!(to.apply(&exact, "/a").unwrap(), "/new");
    }

    #[test]
    fn splits_ports_of_names_and_addresses() {
        assert_eq!(split_port("a.b:80"), ("a.b", Some("80")));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("::1"), ("::1", None));
        assert_eq!(split_port("a:"), ("a:", None));
        assert_eq!(split_port("a:x"), ("a:x", None));
    }

    #[test]
    fn redirects_keep_what_they_do_not_name() {
        let headers = HeaderMap::new();
        let request = view(&headers, "shop.example:80", "/a/b", Some("q=1"));
        let redirect = |f: fn(&mut Redirect)| {
            let mut r = Redirect {
                scheme: None,
                host: None,
                port: None,
                path: RedirectPath::Keep,
                strip_query: false,
                status: 301,
            };
            f(&mut r);
            r.location(&prefix("/a"), &request)
        };
        assert_eq!(redirect(|_| ()), "http://shop.example:80/a/b?q=1");
        assert_eq!(
            redirect(|r| r.scheme = Some("https".into())),
            "https://shop.example/a/b?q=1"
        );
        assert_eq!(
            redirect(|r| r.port = Some(8443)),
            "http://shop.example:8443/a/b?q=1"
        );
        assert_eq!(
            redirect(|r| r.path = RedirectPath::Replace("/c".into())),
            "http://shop.example:80/c?q=1"
        );
        assert_eq!(
            redirect(|r| r.path = RedirectPath::Replace("/c?d".into())),
            "http://shop.example:80/c?d"
        );
        assert_eq!(redirect(|r| r.strip_query = true), "http://shop.example:80/a/b");
        let rewritten = redirect(|r| r.path = RedirectPath::Rewrite(PathRewrite::Prefix("/z".into())));
        assert_eq!(rewritten, "http://shop.example:80/z/b?q=1");
    }
}
