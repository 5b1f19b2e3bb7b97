//! Cross-origin resource sharing: which preflight is answered here, and what a response is given.

use ::http::header::{HeaderMap, HeaderValue, ORIGIN};
use ::http::{Method, header};

use super::text::TextMatch;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    pub allow_origins: Vec<TextMatch>,
    pub allow_methods: Option<HeaderValue>,
    pub allow_headers: Option<HeaderValue>,
    pub expose_headers: Option<HeaderValue>,
    pub max_age: Option<HeaderValue>,
    pub allow_credentials: bool,
    /// A preflight from an origin that is not allowed goes to the service.
    pub forward_unmatched_preflights: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsDecision {
    /// Not a cross-origin request, or one of an origin without a grant.
    Pass,
    /// Answer 200 with these headers; the service is not asked.
    AnswerPreflight(HeaderMap),
    /// Forward, and add these to the response.
    Grant(HeaderMap),
}

impl Cors {
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> CorsDecision {
        let Some(origin) = headers.get(ORIGIN) else {
            return CorsDecision::Pass;
        };
        let allowed = self.allow_origins.iter().any(|m| m.matches(origin.as_bytes()));
        let preflight =
            *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        match (allowed, preflight) {
            (true, true) => CorsDecision::AnswerPreflight(self.preflight(Some(origin))),
            (true, false) => CorsDecision::Grant(self.grant(Some(origin))),
            // Without an allowed origin the browser takes the rest for a refusal.
            (false, true) if !self.forward_unmatched_preflights => {
                CorsDecision::AnswerPreflight(self.preflight(None))
            }
            (false, _) => CorsDecision::Pass,
        }
    }

    fn grant(&self, origin: Option<&HeaderValue>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        if self.allow_credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        if let (Some(_), Some(expose)) = (origin, &self.expose_headers) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        headers
    }

    fn preflight(&self, origin: Option<&HeaderValue>) -> HeaderMap {
        let mut headers = self.grant(origin);
        let more = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, &self.allow_methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, &self.allow_headers),
            (header::ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ];
        for (name, value) in more {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(origin: Option<&'static str>, preflight: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        if preflight {
            headers.insert(
                header::ACCESS_CONTROL_REQUEST_METHOD,
                HeaderValue::from_static("PUT"),
            );
        }
        headers
    }

    #[test]
    fn grants_answers_or_passes() {
        let cors = Cors {
            allow_origins: vec![TextMatch::exact("https://a.example")],
            allow_methods: Some(HeaderValue::from_static("GET,PUT")),
            forward_unmatched_preflights: true,
            ..Cors::default()
        };
        let ask = |method, origin, preflight| cors.decide(&method, &request(origin, preflight));
        assert_eq!(ask(Method::GET, None, false), CorsDecision::Pass);
        assert_eq!(
            ask(Method::OPTIONS, Some("https://b.example"), true),
            CorsDecision::Pass
        );
        assert!(matches!(
            ask(Method::GET, Some("https://a.example"), false),
            CorsDecision::Grant(_)
        ));
        let CorsDecision::AnswerPreflight(headers) = ask(Method::OPTIONS, Some("https://a.example"), true)
        else {
            panic!("preflight is answered");
        };
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_METHODS], "GET,PUT");
    }
}
