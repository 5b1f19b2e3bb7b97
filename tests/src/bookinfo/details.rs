//! `details`: facts about a book.

use http::{Method, Request, StatusCode};
use serde_json::json;

use super::answer::{Answer, ServedBy};
use super::not_found;

#[derive(Debug)]
pub(crate) struct Details {
    me: ServedBy,
}

impl Details {
    pub(crate) fn new(me: ServedBy) -> Self {
        Self { me }
    }

    pub(crate) fn health(&self) -> Answer {
        Answer::json(
            &self.me,
            StatusCode::OK,
            json!({ "status": "Details is healthy" }),
        )
    }

    pub(crate) fn handle<B>(&self, request: &Request<B>) -> Answer {
        let Some(id) = request
            .uri()
            .path()
            .strip_prefix("/details/")
            .filter(|_| request.method() == Method::GET)
        else {
            return not_found(&self.me);
        };
        match id.parse::<i64>() {
            Ok(id) => Answer::json(&self.me, StatusCode::OK, book(id)),
            Err(_) => Answer::error(
                &self.me,
                StatusCode::BAD_REQUEST,
                "please provide numeric product id",
            ),
        }
    }
}

fn book(id: i64) -> serde_json::Value {
    json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    })
}
