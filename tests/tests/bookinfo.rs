//! The stand-ins for bookinfo, over loopback: the sample's answers, and who gave them.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aquifer_tests::bookinfo::answer::ServedBy;
use aquifer_tests::bookinfo::{self, Environment};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

const DEADLINE: Duration = Duration::from_secs(20);

struct Started {
    port: u16,
    _stop: DropGuard,
}

fn start(part: &str, variables: &[(&str, &str)]) -> Started {
    let mut environment = Environment::new();
    environment.insert("PORT".to_owned(), "0".to_owned());
    environment.insert("POD_NAME".to_owned(), format!("{part}-pod"));
    environment.extend(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let running = bookinfo::start(&part.parse().unwrap(), &environment).unwrap();
    let port = running.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    tokio::spawn(running.serve(stop.clone()));
    Started {
        port,
        _stop: stop.drop_guard(),
    }
}

/// Everything from the database to the page; `reviews` is the version that answers.
struct Bookinfo {
    page: Started,
    _others: Vec<Started>,
}

fn bookinfo(reviews: &str, ratings: &str) -> Bookinfo {
    let database = start("mongodb", &[]);
    let url = format!("mongodb://127.0.0.1:{}/test", database.port);
    let ratings = start(ratings, &[("MONGO_DB_URL", &url)]);
    let ratings_port = ratings.port.to_string();
    let ratings_at = [
        ("RATINGS_HOSTNAME", "127.0.0.1"),
        ("RATINGS_SERVICE_PORT", ratings_port.as_str()),
    ];
    let reviews = start(reviews, &ratings_at);
    let details = start("details", &[]);
    let (reviews_port, details_port) = (reviews.port.to_string(), details.port.to_string());
    let mut upstreams = vec![
        ("REVIEWS_HOSTNAME", "localhost"),
        ("REVIEWS_SERVICE_PORT", reviews_port.as_str()),
        ("DETAILS_HOSTNAME", "127.0.0.1"),
        ("DETAILS_SERVICE_PORT", details_port.as_str()),
    ];
    upstreams.extend(ratings_at);
    Bookinfo {
        page: start("productpage", &upstreams),
        _others: vec![database, ratings, reviews, details],
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn served_by(&self) -> Vec<String> {
        let line = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix("x-served-by: "))
            .unwrap_or_default();
        let entries = line.split(", ").map(|entry| entry.parse::<ServedBy>().unwrap());
        entries
            .map(|entry| format!("{}/{}", entry.service, entry.version))
            .collect()
    }
}

async fn send(address: SocketAddr, request: &str) -> Reply {
    exchange(TcpStream::connect(address).await.unwrap(), request).await
}

async fn exchange(mut stream: TcpStream, request: &str) -> Reply {
    let exchange = async {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn get(port: u16, path: &str) -> Reply {
    get_with(port, path, "").await
}

async fn get_with(port: u16, path: &str, headers: &str) -> Reply {
    send(local(port), &request(path, headers)).await
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn request(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn the_page_names_every_part_that_served_it() {
    for (reviews, ratings, expected) in [
        (
            "reviews-v1",
            "ratings-v1",
            vec!["productpage/v1", "details/v1", "reviews/v1"],
        ),
        (
            "reviews-v2",
            "ratings-v1",
            vec!["productpage/v1", "details/v1", "reviews/v2", "ratings/v1"],
        ),
        (
            "reviews-v3",
            "ratings-v2",
            vec![
                "productpage/v1",
                "details/v1",
                "reviews/v3",
                "ratings/v2",
                "mongodb/v1",
            ],
        ),
    ] {
        let running = bookinfo(reviews, ratings);
        let reply = get(running.page.port, "/productpage").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.served_by(), expected);
        assert!(
            reply.body.contains("<title>Simple Bookstore App</title>"),
            "{}",
            reply.body
        );
        assert!(
            reply
                .body
                .contains(&format!("{reviews}@{reviews}-pod").replacen('-', "/", 1)),
            "{}",
            reply.body
        );
        assert_eq!(
            reply.body.contains("<font color=\"red\">"),
            reviews == "reviews-v3"
        );
        assert_eq!(
            reply.body.contains("<font color=\"black\">"),
            reviews == "reviews-v2"
        );
    }
}

#[tokio::test]
async fn the_json_has_the_samples_shape() {
    let running = bookinfo("reviews-v3", "ratings-v1");
    let reviews = get(running.page.port, "/api/v1/products/0/reviews").await.json();
    assert_eq!(reviews["id"], "0");
    assert_eq!(reviews["podname"], "reviews-v3-pod");
    assert_eq!(reviews["reviews"][0]["reviewer"], "Reviewer1");
    assert_eq!(
        reviews["reviews"][0]["rating"],
        json!({ "stars": 5, "color": "red" })
    );
    assert_eq!(
        reviews["reviews"][1]["rating"],
        json!({ "stars": 4, "color": "red" })
    );
    let ratings = get(running.page.port, "/api/v1/products/0/ratings").await.json();
    assert_eq!(ratings["ratings"], json!({ "Reviewer1": 5, "Reviewer2": 4 }));
    assert_eq!(ratings["id"], 0);
    let details = get(running.page.port, "/api/v1/products/0").await.json();
    assert_eq!(details["ISBN-10"], "1234567890");
    let products = get(running.page.port, "/api/v1/products").await.json();
    assert_eq!(products[0]["title"], "The Comedy of Errors");
}

#[tokio::test]
async fn reviews_v1_shows_no_ratings() {
    let reviews = start("reviews-v1", &[]);
    let reply = get(reviews.port, "/reviews/0").await;
    assert_eq!(reply.json()["reviews"][0].get("rating"), None);
}

#[tokio::test]
async fn ratings_v2_without_its_database_says_so() {
    // Held without listening: no other test gets the port meanwhile.
    let nobody = TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("mongodb://{}/test", nobody.local_addr().unwrap());
    let ratings = start("ratings-v2", &[("MONGO_DB_URL", &url)]);
    let reply = get(ratings.port, "/ratings/0").await;
    assert_eq!(reply.status, 500);
    assert_eq!(reply.json()["error"], "could not connect to ratings database");
}

#[tokio::test]
async fn reviews_without_ratings_show_an_error_in_place_of_stars() {
    let reviews = start(
        "reviews-v2",
        &[("RATINGS_HOSTNAME", "127.0.0.1"), ("RATINGS_SERVICE_PORT", "1")],
    );
    let reply = get(reviews.port, "/reviews/0").await;
    assert_eq!(reply.status, 200);
    let rating = &reply.json()["reviews"][0]["rating"];
    assert_eq!(rating["error"], "Ratings service is currently unavailable");
}

#[tokio::test]
async fn the_page_survives_missing_upstreams() {
    let absent: Vec<(&str, &str)> = ["DETAILS", "REVIEWS", "RATINGS"]
        .into_iter()
        .flat_map(|name| match name {
            "DETAILS" => [("DETAILS_HOSTNAME", "127.0.0.1"), ("DETAILS_SERVICE_PORT", "1")],
            "REVIEWS" => [("REVIEWS_HOSTNAME", "127.0.0.1"), ("REVIEWS_SERVICE_PORT", "1")],
            _ => [("RATINGS_HOSTNAME", "127.0.0.1"), ("RATINGS_SERVICE_PORT", "1")],
        })
        .collect();
    let page = start("productpage", &absent);
    let reply = get(page.port, "/productpage").await;
    assert_eq!(reply.status, 200);
    assert!(
        reply.body.contains("Error fetching product details!"),
        "{}",
        reply.body
    );
    let sorry = "Sorry, product reviews are currently unavailable for this book.";
    assert!(reply.body.contains(sorry), "{}", reply.body);
    assert_eq!(
        get(page.port, "/api/v1/products/0/reviews").await.json(),
        json!({ "error": sorry })
    );
}

#[tokio::test]
async fn reviews_are_asked_twice() {
    let fake = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = fake.local_addr().unwrap().port().to_string();
    let page = start(
        "productpage",
        &[("REVIEWS_HOSTNAME", "127.0.0.1"), ("REVIEWS_SERVICE_PORT", &port)],
    );
    let asked = async {
        for status in ["503 Service Unavailable", "200 OK"] {
            let (stream, _) = fake.accept().await.unwrap();
            answer_once(stream, status, "{\"podname\":\"second\",\"reviews\":[]}").await;
        }
    };
    let (reply, ()) = tokio::join!(get(page.port, "/api/v1/products/0/reviews"), asked);
    assert_eq!(
        (reply.status, reply.json()["podname"].as_str()),
        (200, Some("second"))
    );
}

#[tokio::test]
async fn trace_headers_and_the_user_reach_the_last_part() {
    let fake = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = fake.local_addr().unwrap().port().to_string();
    let ratings = [
        ("RATINGS_HOSTNAME", "127.0.0.1"),
        ("RATINGS_SERVICE_PORT", port.as_str()),
    ];
    let reviews = start("reviews-v2", &ratings);
    let reviews_port = reviews.port.to_string();
    let page = start(
        "productpage",
        &[
            ("REVIEWS_HOSTNAME", "127.0.0.1"),
            ("REVIEWS_SERVICE_PORT", &reviews_port),
        ],
    );
    let headers = "x-request-id: id-1\r\ntraceparent: 00-a-b-01\r\nx-b3-traceid: t1\r\nuser-agent: probe\r\n\
                   cookie: theme=dark; session=jason\r\nx-private: no\r\n";
    let asked = async {
        let (stream, _) = fake.accept().await.unwrap();
        answer_once(stream, "200 OK", "{\"ratings\":{}}").await
    };
    let (_, seen) = tokio::join!(get_with(page.port, "/api/v1/products/0/reviews", headers), asked);
    for expected in [
        "x-request-id: id-1",
        "traceparent: 00-a-b-01",
        "x-b3-traceid: t1",
        "end-user: jason",
        "user-agent: probe",
    ] {
        assert!(seen.contains(expected), "{expected} is missing in {seen}");
    }
    assert!(!seen.contains("x-private"), "{seen}");
}

/// Reads one request, answers it, closes; returns the request.
async fn answer_once(mut stream: TcpStream, status: &str, body: &str) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        request.extend(byte);
    }
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn signing_in_and_out_is_a_cookie() {
    let page = start("productpage", &[]);
    let form = "username=jason&passwd=x";
    let request = format!(
        "POST /login HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    let reply = send(SocketAddr::from((Ipv4Addr::LOCALHOST, page.port)), &request).await;
    assert_eq!(reply.status, 302);
    assert!(reply.head.contains("set-cookie: session=jason"), "{}", reply.head);
    let reply = get(page.port, "/logout").await;
    assert!(reply.head.contains("session=; Max-Age=0"), "{}", reply.head);
}

#[tokio::test]
async fn both_address_families_and_health_are_served() {
    for part in ["productpage", "details", "reviews", "ratings"] {
        let started = start(part, &[]);
        let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        // A machine without IPv6 serves IPv4 alone.
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            addresses.push(IpAddr::from(Ipv6Addr::LOCALHOST));
        }
        for address in addresses {
            let request = "GET /health HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
            let reply = send(SocketAddr::from((address, started.port)), request).await;
            assert_eq!(reply.status, 200, "{part} on {address}");
            assert!(reply.body.contains("is healthy"), "{}", reply.body);
        }
    }
}

/// As a kubelet's gRPC probe asks: `grpc.health.v1`, over HTTP/2 without TLS.
#[tokio::test]
async fn grpc_health_checks_are_answered() {
    let started = start("details", &[]);
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, started.port))
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://details/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    let answer = tokio::time::timeout(DEADLINE, sender.send_request(request)).await;
    let answer = answer.unwrap().unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    // One message of two bytes: its field 1, the status, is SERVING.
    assert_eq!(*answer.to_bytes(), [0, 0, 0, 0, 2, 0x08, 0x01]);
}

#[tokio::test]
async fn who_has_connected_is_answered_after_the_signal_to_stop() {
    let details = start("details", &[]);
    let port = details.port;
    let accepted = TcpStream::connect(local(port)).await.unwrap();
    // The server runs on this thread: it accepts while somebody else is answered, and the last one not before the signal.
    assert_eq!(get(port, "/details/0").await.status, 200);
    let waiting = std::net::TcpStream::connect(local(port)).unwrap();
    waiting.set_nonblocking(true).unwrap();
    drop(details);
    for stream in [accepted, TcpStream::from_std(waiting).unwrap()] {
        assert_eq!(exchange(stream, &request("/details/0", "")).await.status, 200);
    }
    TcpStream::connect(local(port)).await.unwrap_err();
}

#[tokio::test]
async fn wrong_requests_are_answered() {
    let ratings = start("ratings-v1", &[]);
    assert_eq!(get(ratings.port, "/ratings/many").await.status, 400);
    assert_eq!(get(ratings.port, "/elsewhere").await.status, 404);
    let request = "POST /ratings/0 HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
    let reply = send(SocketAddr::from((Ipv4Addr::LOCALHOST, ratings.port)), request).await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn the_database_answers_lines_and_refuses_garbage() {
    let database = start("mongodb", &[]);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, database.port));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"find ratings\nfind books\nhello\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answers))
        .await
        .unwrap()
        .unwrap();
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers[0]["documents"], json!([{ "rating": 5 }, { "rating": 4 }]));
    assert!(
        answers[1]["error"].is_string() && answers[2]["error"].is_string(),
        "{answers:?}"
    );
    assert_eq!(answers.len(), 3);
}
