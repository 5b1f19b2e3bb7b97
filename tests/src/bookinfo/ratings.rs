//! `ratings`: stars of a book, from memory (version 1) or from a database (version 2).

use std::collections::BTreeMap;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::answer::{Answer, ServedBy};
use super::settings::Store;
use super::{database, not_found};

const MAX_BODY: usize = 64 * 1024;
/// Products whose posted ratings are remembered.
const MAX_PRODUCTS: usize = 1024;

#[derive(Debug)]
pub(crate) struct Ratings {
    me: ServedBy,
    store: Store,
    /// Ratings that were posted, by product; never held across an await.
    posted: Mutex<BTreeMap<i64, Value>>,
}

impl Ratings {
    pub(crate) fn new(me: ServedBy, store: Store) -> Self {
        Self {
            me,
            store,
            posted: Mutex::default(),
        }
    }

    pub(crate) fn health(&self) -> Answer {
        Answer::json(
            &self.me,
            StatusCode::OK,
            json!({ "status": "Ratings is healthy" }),
        )
    }

    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Answer {
        let Some(id) = request.uri().path().strip_prefix("/ratings/") else {
            return not_found(&self.me);
        };
        let Ok(id) = id.parse::<i64>() else {
            return Answer::error(
                &self.me,
                StatusCode::BAD_REQUEST,
                "please provide numeric product ID",
            );
        };
        match *request.method() {
            Method::GET => self.show(id).await,
            Method::POST => self.store(id, request).await,
            _ => not_found(&self.me),
        }
    }

    async fn show(&self, id: i64) -> Answer {
        let target = match &self.store {
            Store::Database(target) => target,
            Store::Memory => return self.ratings(id, &self.remembered(id)),
        };
        match database::query(target).await {
            Ok(found) => {
                let served_by = found.served_by.parse().ok();
                let stars = |index: usize| found.documents.get(index).map_or(0, |document| document.rating);
                self.ratings(id, &json!({ "Reviewer1": stars(0), "Reviewer2": stars(1) }))
                    .used(served_by)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(database = %target, cause, "{error}");
                Answer::error(&self.me, StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
            }
        }
    }

    async fn store(&self, id: i64, request: Request<Incoming>) -> Answer {
        if matches!(self.store, Store::Database(_)) {
            let message = "Post not implemented for database backed ratings";
            return Answer::error(&self.me, StatusCode::NOT_IMPLEMENTED, message);
        }
        let invalid = || {
            Answer::error(
                &self.me,
                StatusCode::BAD_REQUEST,
                "please provide valid ratings JSON",
            )
        };
        let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
            return invalid();
        };
        let Ok(ratings) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
            return invalid();
        };
        let mut posted = self.posted.lock();
        if posted.len() < MAX_PRODUCTS || posted.contains_key(&id) {
            posted.insert(id, ratings.clone());
        }
        self.ratings(id, &ratings)
    }

    fn remembered(&self, id: i64) -> Value {
        self.posted
            .lock()
            .get(&id)
            .cloned()
            .unwrap_or_else(|| json!({ "Reviewer1": 5, "Reviewer2": 4 }))
    }

    fn ratings(&self, id: i64, ratings: &Value) -> Answer {
        Answer::json(&self.me, StatusCode::OK, json!({ "id": id, "ratings": ratings }))
    }
}
