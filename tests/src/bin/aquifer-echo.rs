//! The plainest application: an HTTP server that says who it is and whom it sees, and its client.
//!
//! `aquifer-echo serve [ADDRESS:]PORT...` and `aquifer-echo get HOST:PORT`. Standard library only, so that
//! the suites need nothing from the machine and see the sockets of plain blocking programs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// For a machine that is busy for a moment; who is not there is refused at once.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A request that is longer is not ours.
const MAX_REQUEST: u64 = 64 * 1024;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve", first, rest @ ..] => serve_all(first, rest),
        ["get", target] => get(target),
        _ => Err(io::Error::other(
            "usage: aquifer-echo serve [ADDRESS:]PORT... | get HOST:PORT",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve_all(first: &str, rest: &[&str]) -> io::Result<()> {
    for address in rest {
        let listener = listen(address)?;
        std::thread::spawn(move || serve(&listener));
    }
    serve(&listen(first)?);
    Ok(())
}

/// A bare port is served in both families.
fn listen(address: &str) -> io::Result<TcpListener> {
    match address.parse::<u16>() {
        Ok(port) => TcpListener::bind(("::", port)),
        Err(_) => TcpListener::bind(address),
    }
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            if let Err(error) = answer(&stream) {
                drop(writeln!(io::stderr(), "connection: {error}"));
            }
        });
    }
}

/// One request per connection.
fn answer(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let peer = stream.peer_addr()?;
    let local = stream.local_addr()?;
    let mut request = BufReader::new(stream.take(MAX_REQUEST));
    let mut line = String::new();
    request.read_line(&mut line)?;
    let mut headers = String::new();
    let mut told = String::new();
    loop {
        let mut header = String::new();
        request.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        headers += &format!("header {}\n", header.trim());
        told.push_str(&forwarded(&header));
    }
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let body = format!(
        "pod {name}\nclient {}\nlocal {}\n{told}request {}\n{headers}",
        canonical(peer),
        canonical(local),
        line.trim()
    );
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())
}

/// What proxies say of the client, a line `NAME VALUE` for each header.
fn forwarded(header: &str) -> String {
    match header.split_once(':') {
        Some((name, value)) if name.to_ascii_lowercase().starts_with("x-forwarded-") => {
            format!("{} {}\n", name.to_ascii_lowercase(), value.trim())
        }
        _ => String::new(),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Prints the body of a 200; anything else is an error.
fn get(target: &str) -> io::Result<()> {
    let mut stream = connect(target)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.take(MAX_REQUEST).read_to_string(&mut response)?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("no HTTP answer"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(
            head.lines().next().unwrap_or_default().to_owned(),
        ));
    }
    io::stdout().write_all(body.as_bytes())
}

fn connect(target: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}
