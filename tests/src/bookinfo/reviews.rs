//! `reviews`: two opinions about a book; from version 2 on with the stars that `ratings` gives.

use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, ServedBy};
use super::client::{Client, Fetched};
use super::not_found;
use super::propagate::propagated;
use super::settings::{ReviewsSettings, Stars};

const REVIEWS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "Two pairs of twins, one town and no end of mistaken doors. I laughed until the lights came up.",
    ),
    (
        "Reviewer2",
        "Light and quick. It asks less of its audience than the later plays, and gives them a good evening.",
    ),
];

#[derive(Debug)]
pub(crate) struct Reviews {
    me: ServedBy,
    settings: ReviewsSettings,
    client: Client,
}

impl Reviews {
    pub(crate) fn new(me: ServedBy, settings: ReviewsSettings) -> Self {
        Self {
            me,
            settings,
            client: Client::default(),
        }
    }

    pub(crate) fn health(&self) -> Answer {
        Answer::json(
            &self.me,
            StatusCode::OK,
            json!({ "status": "Reviews is healthy" }),
        )
    }

    pub(crate) async fn handle<B>(&self, request: &Request<B>) -> Answer {
        let Some(id) = request
            .uri()
            .path()
            .strip_prefix("/reviews/")
            .filter(|_| request.method() == Method::GET)
        else {
            return not_found(&self.me);
        };
        if id.parse::<i64>().is_err() {
            return Answer::error(
                &self.me,
                StatusCode::BAD_REQUEST,
                "please provide numeric product id",
            );
        }
        let Some(stars) = &self.settings.stars else {
            return self.answer(id, [None, None]);
        };
        match self.ratings(stars, id, request.headers()).await {
            Some(fetched) => self.answer(id, rated(stars, &fetched)).used(fetched.chain),
            None => self.answer(id, [Some(unavailable()), Some(unavailable())]),
        }
    }

    /// The answer of `ratings`, if it is one; why not is in the log, as the reader of the page cannot help.
    async fn ratings(&self, stars: &Stars, id: &str, headers: &HeaderMap) -> Option<Fetched> {
        let path = format!("/ratings/{id}");
        match self
            .client
            .get(&stars.ratings, &path, &propagated(headers), stars.timeout)
            .await
        {
            Ok(fetched) if fetched.status == StatusCode::OK => Some(fetched),
            Ok(fetched) => {
                tracing::warn!(status = %fetched.status, target_service = %stars.ratings, "ratings refused");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "ratings did not answer");
                None
            }
        }
    }

    fn answer(&self, id: &str, ratings: [Option<Value>; 2]) -> Answer {
        let reviews: Vec<Value> = REVIEWS
            .iter()
            .zip(ratings)
            .map(|((reviewer, text), rating)| match rating {
                Some(rating) => json!({ "reviewer": reviewer, "text": text, "rating": rating }),
                None => json!({ "reviewer": reviewer, "text": text }),
            })
            .collect();
        let body = json!({ "id": id, "podname": self.me.pod, "clustername": self.settings.cluster, "reviews": reviews });
        Answer::json(&self.me, StatusCode::OK, body)
    }
}

fn rated(stars: &Stars, fetched: &Fetched) -> [Option<Value>; 2] {
    let answer: Value = serde_json::from_slice(&fetched.body).unwrap_or_default();
    REVIEWS.map(|(reviewer, _)| {
        Some(match answer["ratings"][reviewer].as_i64() {
            Some(count) => json!({ "stars": count, "color": stars.color }),
            None => unavailable(),
        })
    })
}

fn unavailable() -> Value {
    json!({ "error": "Ratings service is currently unavailable" })
}
