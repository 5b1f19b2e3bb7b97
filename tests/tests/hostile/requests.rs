//! Requests that two parsers could read differently, and lies about where they come from.

pub(crate) mod server;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use server::Seen;

use crate::actor::say;
use crate::place::Place;
use crate::world::{World, eventually};

const HOST: &str = "web.example.com";
const DEADLINE: Duration = Duration::from_secs(60);

/// Behind the gateway, and behind a waypoint that the routes make: `/admin` is nobody's.
const ROUTES: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web, namespace: mesh}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [web.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web-outside, namespace: mesh}
spec:
  hosts: [web.example.com]
  gateways: [web]
  http:
  - match: [{uri: {prefix: /admin}}]
    directResponse: {status: 403}
  - route: [{destination: {host: web, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: mesh}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /admin}}]
    directResponse: {status: 403}
  - match: [{uri: {prefix: /missing}}]
    route: [{destination: {host: web, subset: nobody}}]
  - route: [{destination: {host: web}}]
";

/// What is sent, and what must come of it.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    statuses: &'static [u16],
    /// What the application may see of it, at most.
    lines: &'static [&'static str],
}

fn case(
    name: &'static str,
    bytes: impl Into<Vec<u8>>,
    statuses: &'static [u16],
    lines: &'static [&'static str],
) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        statuses,
        lines,
    }
}

/// A request of `host` with further header lines, and what follows its head.
fn post(host: &str, headers: &[&str], rest: &str) -> String {
    let mut text = format!("POST /a HTTP/1.1\r\nhost: {host}\r\n");
    for header in headers {
        text += header;
        text += "\r\n";
    }
    text + "\r\n" + rest
}

const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nhost: x\r\n\r\n";
const SEEN: &[&str] = &["POST /a HTTP/1.1"];
const NOTHING: &[&str] = &[];

/// Two lengths of one body, or none that is certain.
fn framing(host: &str) -> Vec<Case> {
    let p = |headers: &[&str], rest: &str| post(host, headers, rest);
    let chunked = "transfer-encoding: chunked";
    let length = format!("content-length: {}", SMUGGLED.len());
    vec![
        // The chunks count, the length is not passed on, and nothing after it is a request.
        case(
            "both",
            p(&["content-length: 4", chunked], &format!("0\r\n\r\n{SMUGGLED}")),
            &[200],
            SEEN,
        ),
        case(
            "unknown coding",
            p(&["transfer-encoding: xchunked"], "0\r\n\r\n"),
            &[400, 501],
            NOTHING,
        ),
        case(
            "chunked not last",
            p(&["transfer-encoding: chunked, gzip"], "0\r\n\r\n"),
            &[400, 501],
            NOTHING,
        ),
        case(
            "two codings",
            p(&[chunked, "transfer-encoding: identity"], "0\r\n\r\n"),
            &[400, 501],
            NOTHING,
        ),
        case(
            "space before the colon",
            p(&["transfer-encoding : chunked"], "0\r\n\r\n"),
            &[400],
            NOTHING,
        ),
        case(
            "vertical tab",
            p(&["transfer-encoding: \u{b}chunked"], "0\r\n\r\n"),
            &[400, 501],
            NOTHING,
        ),
        case(
            "folded",
            p(&["transfer-encoding:", " chunked"], "0\r\n\r\n"),
            &[400],
            NOTHING,
        ),
        case(
            "two lengths",
            p(&["content-length: 2", "content-length: 3"], "hiX"),
            &[400],
            NOTHING,
        ),
        case(
            "a list of lengths",
            p(&["content-length: 2, 3"], "hiX"),
            &[400],
            NOTHING,
        ),
        case("a sign", p(&["content-length: +2"], "hi"), &[400], NOTHING),
        case("negative", p(&["content-length: -1"], "hi"), &[400], NOTHING),
        case("hexadecimal", p(&["content-length: 0x2"], "hi"), &[400], NOTHING),
        case(
            "too large",
            p(&["content-length: 99999999999999999999"], "hi"),
            &[400],
            NOTHING,
        ),
        case(
            "carriage return in a value",
            p(&["x: a\rcontent-length: 5"], ""),
            &[400],
            NOTHING,
        ),
        case("zero byte in a value", p(&["x: a\0b"], ""), &[400], NOTHING),
        case("a header without a colon", p(&["xyz"], ""), &[400], NOTHING),
        case(
            "length named hop by hop",
            p(&["connection: content-length", &length], SMUGGLED),
            &[200],
            SEEN,
        ),
    ]
}

/// Chunks that end elsewhere for another reader. Their request has begun when they show: the answer is an error's.
fn chunks(host: &str) -> Vec<Case> {
    let p = |rest: &str| post(host, &["transfer-encoding: chunked"], rest);
    let refused: &[u16] = &[400, 502, 503];
    vec![
        case(
            "chunk of negative size",
            p(&format!("-2\r\nhi\r\n0\r\n\r\n{SMUGGLED}")),
            refused,
            NOTHING,
        ),
        case(
            "chunk size overflows",
            p(&format!("10000000000000002\r\nhi\r\n0\r\n\r\n{SMUGGLED}")),
            refused,
            NOTHING,
        ),
        case(
            "chunk size with prefix",
            p(&format!("0x2\r\nhi\r\n0\r\n\r\n{SMUGGLED}")),
            refused,
            NOTHING,
        ),
        case(
            "chunk without its end",
            p(&format!("2\r\nhiXX0\r\n\r\n{SMUGGLED}")),
            refused,
            NOTHING,
        ),
        case(
            "line feed in an extension",
            p(&format!("2;\nxx\r\nhi\r\n0\r\n\r\n{SMUGGLED}")),
            refused,
            NOTHING,
        ),
        case("an extension", p("2;a=b\r\nhi\r\n0\r\n\r\n"), &[200], SEEN),
        case(
            "trailers",
            p("2\r\nhi\r\n0\r\ncontent-length: 99\r\nhost: evil\r\n\r\n"),
            &[200],
            SEEN,
        ),
    ]
}

/// Whose request it is.
fn targets(host: &str) -> Vec<Case> {
    let get = |line: &str, headers: &[&str]| {
        let headers: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
        format!("{line}\r\n{headers}\r\n")
    };
    let own = format!("host: {host}");
    let own = own.as_str();
    vec![
        case(
            "two hosts",
            get("GET /a HTTP/1.1", &[own, "host: evil"]),
            &[400],
            NOTHING,
        ),
        case("no host", get("GET /a HTTP/1.1", &["x: y"]), &[400], NOTHING),
        case(
            "a list of hosts",
            get("GET /a HTTP/1.1", &[&format!("{own}, evil")]),
            &[400],
            NOTHING,
        ),
        case(
            "user in the host",
            get("GET /a HTTP/1.1", &[&format!("host: admin@{host}")]),
            &[400],
            NOTHING,
        ),
        case(
            "user in the target",
            get(&format!("GET http://u:p@{host}/a HTTP/1.1"), &[own]),
            &[400],
            NOTHING,
        ),
        case(
            "connect",
            get("CONNECT 127.0.0.1:15000 HTTP/1.1", &[own]),
            &[400, 404],
            NOTHING,
        ),
        case("no version", get("GET /a", &[]), &[400], NOTHING),
        case(
            "a later version",
            get("GET /a HTTP/2.0", &[own]),
            &[400, 505],
            NOTHING,
        ),
        case("a tab", get("GET\t/a\tHTTP/1.1", &[own]), &[400], NOTHING),
        case("dots", get("GET /x/../admin HTTP/1.1", &[own]), &[403], NOTHING),
        case(
            "escaped dots",
            get("GET /x/%2e%2e/admin HTTP/1.1", &[own]),
            &[403],
            NOTHING,
        ),
        case(
            "escaped letters",
            get("GET /%61dmin HTTP/1.1", &[own]),
            &[403],
            NOTHING,
        ),
        case(
            "backslashes",
            get("GET /x\\..\\admin HTTP/1.1", &[own]),
            &[403],
            NOTHING,
        ),
        case(
            "a fragment",
            get("GET /admin#x HTTP/1.1", &[own]),
            &[403],
            NOTHING,
        ),
        case(
            "a control character",
            get("GET /\u{1} HTTP/1.1", &[own]),
            &[400],
            NOTHING,
        ),
        case(
            "upgrade to HTTP/2",
            get(
                "GET /a HTTP/1.1",
                &[
                    own,
                    "connection: upgrade, http2-settings",
                    "upgrade: h2c",
                    "http2-settings: AAMAAABk",
                ],
            ),
            &[200],
            &["GET /a HTTP/1.1"],
        ),
        case("garbage", vec![0xff; 1000], &[400], NOTHING),
        case(
            "TLS",
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_vec(),
            &[400],
            NOTHING,
        ),
        case(
            "a long path",
            get(&format!("GET /{} HTTP/1.1", "a".repeat(70_000)), &[own]),
            &[414, 431],
            NOTHING,
        ),
        case(
            "a long header",
            get("GET /a HTTP/1.1", &[own, &format!("x: {}", "a".repeat(70_000))]),
            &[431],
            NOTHING,
        ),
        case(
            "many headers",
            get(
                "GET /a HTTP/1.1",
                &[&format!("{own}\r\n{}", "x: y\r\n".repeat(200))],
            ),
            &[431],
            NOTHING,
        ),
    ]
}

/// Everything that comes back until the other side ends, or stops.
fn send(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // The other side may have hung up before it has read everything, and still have answered.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        answer.extend(&buffer[..read]);
    }
    answer
}

fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let lines = text.split("\r\n").filter(|line| line.starts_with("HTTP/1.1 "));
    lines.map(|line| line[9..12].parse().unwrap()).collect()
}

type Exchange<'a> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>;

/// The way to the application: through the gateway from outside, or through the waypoint.
struct Way<'a> {
    name: &'static str,
    host: &'static str,
    /// Sends bytes on a connection of their own, and answers what came back.
    send: Exchange<'a>,
}

impl Way<'_> {
    fn ask(&self, line: &str, headers: &str) -> Vec<u8> {
        let request = format!(
            "{line}\r\nhost: {}\r\nconnection: close\r\n{headers}\r\n",
            self.host
        );
        (self.send)(request.as_bytes())
    }

    fn seen(&self, headers: &str) -> Seen {
        let answer = self.ask("GET /seen HTTP/1.1", headers);
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 200"), "{}: {text:?}", self.name);
        serde_json::from_str(body).unwrap()
    }

    /// Request lines that have reached the application since the last time.
    fn lines(&self) -> Vec<String> {
        let answer = self.ask("GET /-/lines HTTP/1.1", "");
        let answer = String::from_utf8(answer).unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{}: {answer:?}", self.name))
    }

    fn check(&self, case: &Case) {
        let answer = (self.send)(&case.bytes);
        let told = statuses(&answer);
        let name = format!("{}: {}", self.name, case.name);
        assert_eq!(
            told.len(),
            1,
            "{name}: one answer, not {told:?}: {}",
            String::from_utf8_lossy(&answer)
        );
        assert!(case.statuses.contains(&told[0]), "{name}: {}", told[0]);
        assert_eq!(self.lines(), case.lines, "{name}: the application saw");
    }

    fn check_all(&self) {
        for cases in [framing(self.host), chunks(self.host), targets(self.host)] {
            for case in &cases {
                self.check(case);
            }
        }
    }

    /// What a client says of itself is believed as far as it goes: an address before ours at most.
    fn check_lies(&self, at_the_edge: bool) {
        let seen = self.seen(
            "x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\nx-forwarded-client-cert: By=x\r\nx-envoy-retry-on: 5xx\r\nkeep-alive: 5\r\nproxy-connection: x\r\n",
        );
        let chain = seen.header("x-forwarded-for").unwrap();
        for gone in [
            "x-forwarded-client-cert",
            "keep-alive",
            "proxy-connection",
            "connection",
        ] {
            assert_eq!(seen.header(gone), None, "{}: {seen:?}", self.name);
        }
        if at_the_edge {
            let (told, ours) = chain.split_once(',').expect("our own entry");
            assert_eq!(told, "6.6.6.6");
            assert_ne!(ours, "6.6.6.6");
            assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
            assert_eq!(seen.header("x-envoy-retry-on"), None);
        }
        assert!(seen.header("x-request-id").is_some());
    }

    /// The application's answers can be as wrong as any request: they stay with the request that they answer.
    fn check_answers(&self) {
        for (path, statuses_wanted) in [
            ("/-/two-answers", &[200][..]),
            ("/-/two-lengths", &[502, 503]),
            ("/-/garbage", &[502, 503]),
            ("/-/endless-head", &[502, 503]),
        ] {
            let told = statuses(&self.ask(&format!("GET {path} HTTP/1.1"), ""));
            assert_eq!(told.len(), 1, "{}: {path}: {told:?}", self.name);
            assert!(
                statuses_wanted.contains(&told[0]),
                "{}: {path}: {told:?}",
                self.name
            );
            let seen = self.seen("");
            assert_eq!(seen.line, "GET /seen HTTP/1.1", "{}: after {path}", self.name);
        }
        let cut = self.ask("GET /-/early-end HTTP/1.1", "");
        assert!(
            !cut.ends_with(b"0\r\n\r\n"),
            "half of an answer must not look whole"
        );
        self.lines();
    }
}

#[test]
fn the_gateway_lets_nothing_through_that_is_not_one_request() {
    let Some(world) = World::new("edge") else { return };
    world.apply("default", ROUTES);
    world.settle();
    let status = world.lab.status().unwrap();
    let gateway = status.service("istio-system", "istio-ingressgateway").unwrap();
    let address = SocketAddr::new(gateway.addresses[0], 80);
    let outside = Place::outside(&world);
    let way = Way {
        name: "gateway",
        host: HOST,
        send: Box::new(|bytes| send(outside.connect(address).unwrap(), bytes)),
    };
    eventually(
        "the gateway knows its routes",
        || statuses(&way.ask("GET /a HTTP/1.1", "")),
        |told| told == &[200],
    );
    way.lines();
    way.check_all();
    way.check_lies(true);
    way.check_answers();

    // A thousand clients that never finish their requests do not keep another one from being served.
    let slow: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut stream = outside.connect(address).unwrap();
            stream.write_all(b"GET /slow HTTP/1.1\r\nhost: web.exa").unwrap();
            stream
        })
        .collect();
    way.seen("");
    drop(slow);
    world.assert_nobody_died();
}

/// Sends bytes from inside a pod.
fn send_from(world: &World, from: &str, target: &str, bytes: &[u8]) -> Vec<u8> {
    let mut command = world.command(from, &format!("pipe {target}"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // It may hang up before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    let output = child.wait_with_output().unwrap();
    let begin = output
        .stdout
        .windows(PIPED.len())
        .position(|window| window == PIPED);
    let begin = begin.expect("the mark before the answer") + PIPED.len();
    let answer = output.stdout[begin..].to_vec();
    if answer.is_empty() {
        // Shown where the test fails for it.
        let agents = world.lab.logs("istio-system/ztunnel", 4096).unwrap();
        let waypoint = world.lab.logs("mesh/waypoint", 4096).unwrap();
        eprintln!("no answer; {agents}\n{waypoint}");
    }
    answer
}

const PIPED: &[u8] = b"~ piped\n";

/// An actor's part: standard input to a connection, and what comes back to standard output.
pub(crate) fn pipe(target: &str) -> io::Result<()> {
    let stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    say("piped");
    io::stdout().write_all(&send(stream, &bytes))
}

#[test]
fn the_waypoint_lets_nothing_through_that_is_not_one_request() {
    let Some(world) = World::new("waypoint") else {
        return;
    };
    world.apply("default", ROUTES);
    let node = world.pod("mesh/server").node;
    let client = world.client("mesh", &node, false);
    let way = Way {
        name: "waypoint",
        host: "web",
        send: Box::new(|bytes| send_from(&world, &client, "web:80", bytes)),
    };
    eventually(
        "a waypoint serves the routes",
        || statuses(&way.ask("GET /admin HTTP/1.1", "")),
        |told| told == &[403],
    );
    world.settle();
    way.lines();
    way.check_all();
    way.check_lies(false);
    way.check_answers();
    // A destination that does not exist is an answer with a reason, and the other routes go on.
    let answer = String::from_utf8(way.ask("GET /missing HTTP/1.1", "")).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("cluster_not_found"),
        "{answer}"
    );
    way.seen("");
    world.assert_nobody_died();
}
