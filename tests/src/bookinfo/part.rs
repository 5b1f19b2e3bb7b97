//! Which part of bookinfo to play: told by a word, or by the name of the sample's image.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Names of the sample's images start with this, after registry and organisation.
const IMAGE_PREFIX: &str = "examples-bookinfo-";

/// A service of the sample and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub service: BookinfoService,
    pub version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BookinfoService {
    Productpage,
    Details,
    Reviews,
    Ratings,
    Mongodb,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is no part of bookinfo; expected productpage, details, reviews, ratings or mongodb, with -VERSION or without, or the name of such an image"
)]
pub struct PartError(String);

impl FromStr for Part {
    type Err = PartError;

    /// Accepts `reviews-v2`, `reviews` (version 1) and `docker.io/istio/examples-bookinfo-reviews-v2:1.20.3`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || PartError(text.to_owned());
        let last = text.rsplit('/').next().unwrap_or(text);
        let name = last.split(['@', ':']).next().unwrap_or(last);
        let name = name.strip_prefix(IMAGE_PREFIX).unwrap_or(name);
        let (service, version) = name.split_once('-').unwrap_or((name, "v1"));
        if version.is_empty() {
            return Err(refused());
        }
        Ok(Self {
            service: BookinfoService::parse(service).ok_or_else(refused)?,
            version: version.to_owned(),
        })
    }
}

/// The parts that the sample's manifests run.
pub const NAMES: [&str; 8] = [
    "productpage-v1",
    "details-v1",
    "reviews-v1",
    "reviews-v2",
    "reviews-v3",
    "ratings-v1",
    "ratings-v2",
    "mongodb",
];
/// Of the sample whose manifests are in `deploy/samples`.
const TAG: &str = "1.20.3";

/// The image of a part, as the sample's manifests name it.
pub fn image_name(part: &str) -> String {
    format!("docker.io/istio/{IMAGE_PREFIX}{part}:{TAG}")
}

/// Lab mappings `GLOB=COMMAND` from the sample's images to `program`, this crate's `bookinfo`.
pub fn image_mappings(program: &std::path::Path) -> Vec<String> {
    NAMES
        .iter()
        .map(|part| format!("*{IMAGE_PREFIX}{part}*='{}' {part}", program.display()))
        .collect()
}

impl BookinfoService {
    const ALL: [Self; 5] = [
        Self::Productpage,
        Self::Details,
        Self::Reviews,
        Self::Ratings,
        Self::Mongodb,
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == text)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Productpage => "productpage",
            Self::Details => "details",
            Self::Reviews => "reviews",
            Self::Ratings => "ratings",
            Self::Mongodb => "mongodb",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Self::Mongodb => 27017,
            _ => 9080,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.service.name(), self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let parsed = text.parse::<Part>().ok().map(|part| part.to_string());
        assert_eq!(parsed.as_deref(), expected, "{text}");
    }

    #[test]
    fn words_and_image_names_choose_the_part() {
        check("productpage", Some("productpage-v1"));
        check("reviews-v3", Some("reviews-v3"));
        check(
            "docker.io/istio/examples-bookinfo-ratings-v2:1.20.3",
            Some("ratings-v2"),
        );
        check("examples-bookinfo-mongodb", Some("mongodb-v1"));
        check(
            "registry:5000/istio/examples-bookinfo-details-v1@sha256:abc",
            Some("details-v1"),
        );
    }

    #[test]
    fn other_names_are_refused() {
        check("nginx", None);
        check("", None);
        check("reviews-", None);
    }
}
