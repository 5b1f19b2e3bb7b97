//! The sample's environment variables, read once.

use std::time::Duration;

use thiserror::Error;

use super::Environment;
use super::answer::ServedBy;
use super::client::Target;
use super::part::{BookinfoService, Part};

const HTTP_PORT: u16 = 9080;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) me: ServedBy,
    pub(crate) port: u16,
    pub(crate) role: Role,
}

#[derive(Debug)]
pub(crate) enum Role {
    Productpage(Upstreams),
    Details,
    Reviews(ReviewsSettings),
    Ratings(Store),
    Database,
}

/// Whom productpage asks.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) details: Target,
    pub(crate) reviews: Target,
    pub(crate) ratings: Target,
}

#[derive(Debug)]
pub(crate) struct ReviewsSettings {
    pub(crate) cluster: String,
    pub(crate) stars: Option<Stars>,
}

/// How reviews shows ratings, where it does.
#[derive(Debug)]
pub(crate) struct Stars {
    pub(crate) color: String,
    pub(crate) ratings: Target,
    pub(crate) timeout: Duration,
}

#[derive(Debug)]
pub(crate) enum Store {
    Memory,
    Database(Target),
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name}={value:?}: expected {expected}")]
pub struct SettingsError {
    name: String,
    value: String,
    expected: &'static str,
}

impl Settings {
    pub(crate) fn resolve(part: &Part, environment: &Environment) -> Result<Self, SettingsError> {
        let reader = Reader(environment);
        let version = reader.text("SERVICE_VERSION").unwrap_or(&part.version).to_owned();
        let pod = reader
            .text("POD_NAME")
            .or_else(|| reader.text("HOSTNAME"))
            .unwrap_or("unknown");
        let role = match part.service {
            BookinfoService::Productpage => Role::Productpage(upstreams(&reader)?),
            BookinfoService::Details => Role::Details,
            BookinfoService::Reviews => Role::Reviews(reviews(&reader, &version)?),
            BookinfoService::Ratings => Role::Ratings(store(&reader, &version)?),
            BookinfoService::Mongodb => Role::Database,
        };
        Ok(Self {
            port: reader.port("PORT", part.service.default_port())?,
            me: ServedBy {
                service: part.service.name().to_owned(),
                pod: pod.to_owned(),
                version,
            },
            role,
        })
    }
}

fn upstreams(reader: &Reader<'_>) -> Result<Upstreams, SettingsError> {
    Ok(Upstreams {
        details: reader.target("DETAILS", "details")?,
        reviews: reader.target("REVIEWS", "reviews")?,
        ratings: reader.target("RATINGS", "ratings")?,
    })
}

/// Version 1 shows no ratings, version 2 black stars, every later one red stars.
fn reviews(reader: &Reader<'_>, version: &str) -> Result<ReviewsSettings, SettingsError> {
    let default = if version == "v1" { "false" } else { "true" };
    let enabled = match reader.text("ENABLE_RATINGS").unwrap_or(default) {
        "true" => true,
        "false" => false,
        other => return Err(error("ENABLE_RATINGS", other, "true or false")),
    };
    let color = reader
        .text("STAR_COLOR")
        .unwrap_or(if version == "v3" { "red" } else { "black" });
    // The sample's own: black stars wait longer than others.
    let timeout = Duration::from_millis(if color == "black" { 10_000 } else { 2_500 });
    let ratings = reader.target("RATINGS", "ratings")?;
    Ok(ReviewsSettings {
        cluster: reader.text("CLUSTER_NAME").unwrap_or("null").to_owned(),
        stars: enabled.then(|| Stars {
            color: color.to_owned(),
            ratings,
            timeout,
        }),
    })
}

/// Version 2 asks a database, version 1 holds its ratings itself; DB_TYPE overrides.
fn store(reader: &Reader<'_>, version: &str) -> Result<Store, SettingsError> {
    let default = if version == "v2" { "mongodb" } else { "memory" };
    match reader.text("DB_TYPE").unwrap_or(default) {
        "mongodb" => {}
        "memory" => return Ok(Store::Memory),
        other => {
            return Err(error(
                "DB_TYPE",
                other,
                "mongodb; no other database has a stand-in",
            ));
        }
    }
    let url = reader
        .text("MONGO_DB_URL")
        .unwrap_or("mongodb://mongodb:27017/test");
    let target = url
        .strip_prefix("mongodb://")
        .and_then(|rest| rest.split('/').next())
        .and_then(|authority| Target::parse(authority, BookinfoService::Mongodb.default_port()))
        .ok_or_else(|| error("MONGO_DB_URL", url, "mongodb://HOST:PORT/NAME"))?;
    Ok(Store::Database(target))
}

struct Reader<'a>(&'a Environment);

impl<'a> Reader<'a> {
    /// An empty variable counts as absent, as in the sample.
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn port(&self, name: &str, default: u16) -> Result<u16, SettingsError> {
        self.text(name).map_or(Ok(default), |value| {
            value
                .parse()
                .map_err(|_| error(name, value, "a port, 0 to 65535"))
        })
    }

    /// `X_HOSTNAME`, completed by `SERVICES_DOMAIN`, and `X_SERVICE_PORT`.
    fn target(&self, prefix: &str, default: &str) -> Result<Target, SettingsError> {
        let host = self.text(&format!("{prefix}_HOSTNAME")).unwrap_or(default);
        let host = match self.text("SERVICES_DOMAIN") {
            Some(domain) => format!("{host}.{domain}"),
            None => host.to_owned(),
        };
        Ok(Target {
            host,
            port: self.port(&format!("{prefix}_SERVICE_PORT"), HTTP_PORT)?,
        })
    }
}

fn error(name: &str, value: &str, expected: &'static str) -> SettingsError {
    SettingsError {
        name: name.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(part: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::resolve(&part.parse().unwrap(), &environment.collect())
    }

    fn star_color(part: &str, variables: &[(&str, &str)]) -> Option<String> {
        match resolve(part, variables).unwrap().role {
            Role::Reviews(settings) => settings.stars.map(|stars| stars.color),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_version_of_reviews_decides_about_stars() {
        assert_eq!(star_color("reviews-v1", &[]), None);
        assert_eq!(star_color("reviews-v2", &[]).as_deref(), Some("black"));
        assert_eq!(star_color("reviews-v3", &[]).as_deref(), Some("red"));
        assert_eq!(
            star_color("reviews-v1", &[("SERVICE_VERSION", "v3")]).as_deref(),
            Some("red")
        );
        assert_eq!(star_color("reviews-v3", &[("ENABLE_RATINGS", "false")]), None);
        assert_eq!(
            star_color("reviews-v2", &[("STAR_COLOR", "green")]).as_deref(),
            Some("green")
        );
    }

    #[test]
    fn only_ratings_v2_asks_a_database() {
        let store = |part, variables: &[_]| match resolve(part, variables).unwrap().role {
            Role::Ratings(store) => store,
            other => panic!("{other:?}"),
        };
        assert!(matches!(store("ratings-v1", &[]), Store::Memory));
        let url = [("MONGO_DB_URL", "mongodb://db.example:1234/test")];
        match store("ratings-v2", &url) {
            Store::Database(target) => assert_eq!(target.to_string(), "db.example:1234"),
            Store::Memory => panic!("v2 must ask its database"),
        }
    }

    #[test]
    fn wrong_values_are_refused_with_their_name() {
        let error = resolve("ratings-v2", &[("MONGO_DB_URL", "mysql://x")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("MONGO_DB_URL") && error.contains("mongodb://HOST:PORT/NAME"),
            "{error}"
        );
        assert!(resolve("productpage", &[("REVIEWS_SERVICE_PORT", "many")]).is_err());
    }
}
