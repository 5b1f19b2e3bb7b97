//! The HTML of productpage.

use std::fmt::Write as _;

use http::StatusCode;
use serde_json::Value;

use crate::bookinfo::answer::{ServedBy, chain_text};

const STYLE: &str = "body { font-family: sans-serif; max-width: 60em; margin: auto }\n\
                     .black { color: black } .red { color: red }\n";

pub(crate) struct Page<'a> {
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) user: Option<&'a str>,
    pub(crate) details: (StatusCode, &'a Value),
    pub(crate) reviews: (StatusCode, &'a Value),
    pub(crate) chain: &'a [ServedBy],
}

pub(crate) fn index() -> String {
    document(
        "<h1>Hello! This is a simple bookstore application</h1>\n<a href=\"/productpage\">The book</a>\n",
    )
}

/// Content type and content of a file under `/static`.
pub(crate) fn static_file(name: &str) -> Option<(&'static str, &'static str)> {
    (name == "style.css").then_some(("text/css", STYLE))
}

impl Page<'_> {
    pub(crate) fn render(&self) -> String {
        let mut body = String::with_capacity(4096);
        body.push_str(&session(self.user));
        body.push_str(&format!("<h1>{}</h1>\n<p>{}</p>\n", self.title, self.description));
        body.push_str(&details(self.details.0, self.details.1));
        body.push_str(&reviews(self.reviews.0, self.reviews.1));
        body.push_str(&format!(
            "<!-- served by: {} -->\n",
            escape(&chain_text(self.chain))
        ));
        document(&body)
    }
}

fn document(body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n<head>\n<title>Simple Bookstore App</title>\n\
         <meta charset=\"utf-8\">\n<link rel=\"stylesheet\" href=\"/static/style.css\">\n</head>\n\
         <body>\n{body}</body>\n</html>\n"
    )
}

fn session(user: Option<&str>) -> String {
    match user {
        Some(user) => format!("<p>{} (<a href=\"/logout\">sign out</a>)</p>\n", escape(user)),
        None => "<form method=\"post\" action=\"/login\"><input name=\"username\"> \
                 <button>Sign in</button></form>\n"
            .to_owned(),
    }
}

fn details(status: StatusCode, details: &Value) -> String {
    if status != StatusCode::OK {
        return failed("Error fetching product details!", details);
    }
    let fields = [
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ];
    let mut html = String::from("<h4>Book Details</h4>\n<dl>\n");
    for (label, field) in fields {
        // Writing to a string cannot fail.
        let _ = writeln!(html, "<dt>{label}:</dt>{}", text(&details[field]));
    }
    html.push_str("</dl>\n");
    html
}

fn reviews(status: StatusCode, reviews: &Value) -> String {
    if status != StatusCode::OK {
        return failed("Error fetching product reviews!", reviews);
    }
    let mut html = String::from("<h4>Book Reviews</h4>\n");
    for review in reviews["reviews"].as_array().into_iter().flatten() {
        let _ = writeln!(
            html,
            "<blockquote>\n<p>{}</p>\n<small>{}</small>\n{}</blockquote>",
            text(&review["text"]),
            text(&review["reviewer"]),
            rating(&review["rating"])
        );
    }
    let _ = writeln!(
        html,
        "<p>Reviews served by: <u>{}</u></p>",
        text(&reviews["podname"])
    );
    html
}

fn rating(rating: &Value) -> String {
    if let Some(error) = rating["error"].as_str() {
        return format!("<p><i>{}</i></p>\n", escape(error));
    }
    let Some(stars) = rating["stars"].as_u64() else {
        return String::new();
    };
    let filled = usize::try_from(stars.min(5)).unwrap_or(5);
    format!(
        "<font color=\"{}\">{}{}</font>\n",
        text(&rating["color"]),
        "\u{2605}".repeat(filled),
        "\u{2606}".repeat(5 - filled)
    )
}

fn failed(heading: &str, answer: &Value) -> String {
    format!("<h4>{heading}</h4>\n<p>{}</p>\n", text(&answer["error"]))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(reviews_status: StatusCode, reviews: &Value) -> String {
        let chain = ["productpage/v1@p".parse().unwrap()];
        let details = json!({ "type": "paperback" });
        let page = Page {
            title: "T",
            description: "D",
            user: None,
            details: (StatusCode::OK, &details),
            reviews: (reviews_status, reviews),
            chain: &chain,
        };
        page.render()
    }

    #[test]
    fn stars_have_the_colour_that_reviews_chose() {
        let review = json!({ "reviewer": "R", "text": "a < b", "rating": { "stars": 4, "color": "red" } });
        let page = render(
            StatusCode::OK,
            &json!({ "reviews": [review], "podname": "reviews-v3-x" }),
        );
        assert!(
            page.contains("<font color=\"red\">\u{2605}\u{2605}\u{2605}\u{2605}\u{2606}</font>"),
            "{page}"
        );
        assert!(
            page.contains("a &lt; b") && page.contains("<title>Simple Bookstore App</title>"),
            "{page}"
        );
        assert!(page.contains("<!-- served by: productpage/v1@p -->"), "{page}");
    }

    #[test]
    fn a_failure_of_reviews_is_told_on_the_page() {
        let page = render(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": "Sorry" }));
        assert!(
            page.contains("Error fetching product reviews!") && page.contains("Sorry"),
            "{page}"
        );
    }
}
