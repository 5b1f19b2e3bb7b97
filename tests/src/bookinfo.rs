//! Stand-ins for the public bookinfo sample, for machines without container images.
//!
//! One program plays productpage, details, reviews v1 to v3, ratings v1 and v2 and the database, with
//! the sample's ports, paths, JSON and environment variables. Beyond the sample every answer says who
//! served it (see [`answer::Answer`]), so that a test can count which version answered. Nothing here knows
//! the mesh. Read [`part::Part`] and [`answer::Answer`] first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Incoming};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub mod answer;
mod client;
pub mod database;
mod details;
mod health;
pub mod part;
mod productpage;
mod propagate;
mod ratings;
mod reviews;
mod server;
mod settings;

use answer::Answer;
use part::{Part, PartError};
use settings::Settings;

pub use settings::SettingsError;

/// No part sends a request over a connection that is older than this.
pub const CONNECTION_AGE: Duration = Duration::from_secs(1);

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Environment variables as a map, so that no test touches its own process's.
pub type Environment = BTreeMap<String, String>;

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Part(#[from] PartError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot listen on port {port}: {source}; is another server running in this namespace?")]
    Listen { port: u16, source: std::io::Error },
}

/// A part that listens; [`Running::serve`] answers until it is told to stop.
#[derive(Debug)]
pub struct Running {
    listener: tokio::net::TcpListener,
    service: Service,
}

#[derive(Clone, Debug)]
enum Service {
    Http(Arc<HttpPart>),
    Database(Arc<database::Database>),
}

#[derive(Debug)]
enum HttpPart {
    Productpage(productpage::Productpage),
    Details(details::Details),
    Reviews(reviews::Reviews),
    Ratings(ratings::Ratings),
}

/// Binds the port of `part` (or that of the variable `PORT`; 0 takes a free one).
pub fn start(part: &Part, environment: &Environment) -> Result<Running, StartError> {
    let settings = Settings::resolve(part, environment)?;
    let port = settings.port;
    let listener = server::listen(port).map_err(|source| StartError::Listen { port, source })?;
    Ok(Running {
        listener,
        service: Service::new(settings),
    })
}

impl Running {
    /// Where it listens; the address is the unspecified one of IPv6, or of IPv4 where there is no IPv6.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub async fn serve(self, stop: CancellationToken) {
        match self.service {
            Service::Http(part) => server::serve_http(self.listener, part, stop).await,
            Service::Database(database) => server::serve_lines(self.listener, database, stop).await,
        }
    }
}

impl Service {
    fn new(settings: Settings) -> Self {
        let me = settings.me;
        let part = match settings.role {
            settings::Role::Productpage(upstreams) => {
                HttpPart::Productpage(productpage::Productpage::new(me, upstreams))
            }
            settings::Role::Details => HttpPart::Details(details::Details::new(me)),
            settings::Role::Reviews(reviews) => HttpPart::Reviews(reviews::Reviews::new(me, reviews)),
            settings::Role::Ratings(store) => HttpPart::Ratings(ratings::Ratings::new(me, store)),
            settings::Role::Database => return Self::Database(Arc::new(database::Database::new(me))),
        };
        Self::Http(Arc::new(part))
    }
}

impl HttpPart {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() == health::CHECK {
            return health::serving();
        }
        let health = request.method() == Method::GET && request.uri().path() == "/health";
        let answer = match self {
            Self::Productpage(part) if health => part.health(),
            Self::Details(part) if health => part.health(),
            Self::Reviews(part) if health => part.health(),
            Self::Ratings(part) if health => part.health(),
            Self::Productpage(part) => part.handle(request).await,
            Self::Details(part) => part.handle(&request),
            Self::Reviews(part) => part.handle(&request).await,
            Self::Ratings(part) => part.handle(request).await,
        };
        answer.into_response().map(BodyExt::boxed_unsync)
    }
}

/// What every part answers to a path that it does not have.
fn not_found(me: &answer::ServedBy) -> Answer {
    Answer::error(me, StatusCode::NOT_FOUND, "not found")
}
