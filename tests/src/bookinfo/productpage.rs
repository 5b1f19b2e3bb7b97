//! `productpage`: the page that a person opens, and the same data as JSON under `/api/v1`.

mod page;

use std::time::Duration;

use http::header::{COOKIE, LOCATION, REFERER, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{Answer, ServedBy};
use super::client::{Client, Target};
use super::not_found;
use super::propagate::propagated;
use super::settings::Upstreams;

const TIMEOUT: Duration = Duration::from_secs(3);
/// The sample asks reviews twice before it gives up; the bug is part of its lesson on timeouts.
const REVIEWS_ATTEMPTS: usize = 2;
const MAX_FORM: usize = 16 * 1024;
const SESSION: &str = "session";
const END_USER: HeaderName = HeaderName::from_static("end-user");

const TITLE: &str = "The Comedy of Errors";
const DESCRIPTION: &str =
    "One of <b>Shakespeare's</b> early plays and his shortest: a farce of twins taken for one another.";

#[derive(Debug)]
pub(crate) struct Productpage {
    me: ServedBy,
    upstreams: Upstreams,
    client: Client,
}

/// What another part said: its JSON or an error in its place, and who answered.
struct Told {
    status: StatusCode,
    json: Value,
    chain: Vec<ServedBy>,
}

impl Productpage {
    pub(crate) fn new(me: ServedBy, upstreams: Upstreams) -> Self {
        Self {
            me,
            upstreams,
            client: Client::default(),
        }
    }

    pub(crate) fn health(&self) -> Answer {
        Answer::text(
            &self.me,
            StatusCode::OK,
            "text/html; charset=utf-8",
            "Product page is healthy".to_owned(),
        )
    }

    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/" | "/index.html") => Answer::html(&self.me, page::index()),
            (&Method::GET, "/productpage") => self.page(request.headers()).await,
            (&Method::POST, "/login") => self.login(request).await,
            (&Method::GET, "/logout") => self.redirect(request.headers(), "session=; Max-Age=0; Path=/"),
            (&Method::GET, "/api/v1/products") => Answer::text(
                &self.me,
                StatusCode::OK,
                "application/json",
                json!([{ "id": 0, "title": TITLE, "descriptionHtml": DESCRIPTION }]).to_string(),
            ),
            (&Method::GET, path) => match path.strip_prefix("/api/v1/products/") {
                Some(rest) => self.product(rest, request.headers()).await,
                None => self.static_file(path),
            },
            _ => not_found(&self.me),
        }
    }

    async fn page(&self, headers: &HeaderMap) -> Answer {
        let forwarded = forwarded(headers);
        let details = self.details("0", &forwarded).await;
        let reviews = self.reviews("0", &forwarded).await;
        let mut chain = vec![self.me.clone()];
        chain.extend(details.chain.iter().chain(&reviews.chain).cloned());
        let page = page::Page {
            title: TITLE,
            description: DESCRIPTION,
            user: user(headers),
            details: (details.status, &details.json),
            reviews: (reviews.status, &reviews.json),
            chain: &chain,
        };
        Answer::html(&self.me, page.render()).used(chain.into_iter().skip(1))
    }

    async fn product(&self, rest: &str, headers: &HeaderMap) -> Answer {
        let forwarded = forwarded(headers);
        let (id, what) = rest.split_once('/').unwrap_or((rest, ""));
        if id.parse::<i64>().is_err() {
            return not_found(&self.me);
        }
        let told = match what {
            "" => self.details(id, &forwarded).await,
            "reviews" => self.reviews(id, &forwarded).await,
            "ratings" => self.ratings(id, &forwarded).await,
            _ => return not_found(&self.me),
        };
        Answer::text(&self.me, told.status, "application/json", told.json.to_string()).used(told.chain)
    }

    async fn details(&self, id: &str, headers: &HeaderMap) -> Told {
        let told = self
            .ask(&self.upstreams.details, &format!("/details/{id}"), headers)
            .await;
        told.or_unavailable("Sorry, product details are currently unavailable for this book.")
    }

    async fn reviews(&self, id: &str, headers: &HeaderMap) -> Told {
        let path = format!("/reviews/{id}");
        let mut told = self.ask(&self.upstreams.reviews, &path, headers).await;
        for _ in 1..REVIEWS_ATTEMPTS {
            if told.status == StatusCode::OK {
                break;
            }
            told = self.ask(&self.upstreams.reviews, &path, headers).await;
        }
        told.or_unavailable("Sorry, product reviews are currently unavailable for this book.")
    }

    async fn ratings(&self, id: &str, headers: &HeaderMap) -> Told {
        let told = self
            .ask(&self.upstreams.ratings, &format!("/ratings/{id}"), headers)
            .await;
        told.or_unavailable("Sorry, product ratings are currently unavailable for this book.")
    }

    async fn ask(&self, target: &Target, path: &str, headers: &HeaderMap) -> Told {
        match self.client.get(target, path, headers, TIMEOUT).await {
            Ok(fetched) => {
                if fetched.status != StatusCode::OK {
                    tracing::warn!(upstream = %target, path, status = %fetched.status, "refused");
                }
                let json = serde_json::from_slice(&fetched.body).unwrap_or_default();
                Told {
                    status: fetched.status,
                    json,
                    chain: fetched.chain,
                }
            }
            Err(error) => {
                tracing::warn!(path, %error, "no answer");
                Told {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    json: Value::Null,
                    chain: Vec::new(),
                }
            }
        }
    }

    async fn login(&self, request: Request<Incoming>) -> Answer {
        let headers = request.headers().clone();
        let Ok(form) = Limited::new(request.into_body(), MAX_FORM).collect().await else {
            return Answer::error(&self.me, StatusCode::BAD_REQUEST, "please provide a form");
        };
        let form = form.to_bytes();
        let name = form
            .split(|byte| *byte == b'&')
            .filter_map(|field| field.strip_prefix(b"username="))
            .find_map(|value| std::str::from_utf8(value).ok())
            .filter(|name| is_user(name))
            .unwrap_or_default();
        self.redirect(&headers, &format!("{SESSION}={name}; Path=/; HttpOnly"))
    }

    /// Back to where the browser came from, with a session that began or ended.
    fn redirect(&self, headers: &HeaderMap, cookie: &str) -> Answer {
        let back = headers
            .get(REFERER)
            .cloned()
            .unwrap_or_else(|| HeaderValue::from_static("/productpage"));
        let answer = Answer::text(
            &self.me,
            StatusCode::FOUND,
            "text/html; charset=utf-8",
            String::new(),
        );
        match HeaderValue::from_str(cookie) {
            Ok(cookie) => answer.header(LOCATION, back).header(SET_COOKIE, cookie),
            Err(_) => answer.header(LOCATION, back),
        }
    }

    fn static_file(&self, path: &str) -> Answer {
        match path.strip_prefix("/static/").and_then(page::static_file) {
            Some((content_type, body)) => {
                Answer::text(&self.me, StatusCode::OK, content_type, body.to_owned())
            }
            None => not_found(&self.me),
        }
    }
}

impl Told {
    fn or_unavailable(self, message: &str) -> Self {
        if self.status == StatusCode::OK {
            return self;
        }
        Self {
            json: json!({ "error": message }),
            ..self
        }
    }
}

/// What the sample forwards, and the user of the session as `end-user`.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = propagated(headers);
    if let Some(user) = user(headers).and_then(|user| HeaderValue::from_str(user).ok()) {
        forwarded.insert(END_USER, user);
    }
    forwarded
}

fn user(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, value)| (name == SESSION && is_user(value)).then_some(value))
}

/// A name that can stand in a cookie, a header and a page as it is.
fn is_user(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
