//! Plain calls of an actor: one, or many until it is told to stop.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::actor::{say, until_released};

const DEADLINE: Duration = Duration::from_secs(60);
/// Callers of a load, each waiting for its answer before the next request.
const CALLERS: usize = 4;
/// Between the requests of one caller: the rate is bounded, not the time that anything takes.
const PAUSE: Duration = Duration::from_millis(20);
/// Failures that are told one by one.
const TOLD: usize = 5;

/// What came of a load.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) failures: Vec<String>,
}

/// `HOST:PORT` or `HOST:PORT/PATH`.
pub(crate) fn get(target: &str) -> io::Result<()> {
    let mut caller = Caller::new(target);
    say(caller.call(true)?.trim_end());
    Ok(())
}

/// Holds a connection that echoes until somebody cuts it, and says both.
pub(crate) fn hold(target: &str) -> io::Result<()> {
    let mut stream = connect(target)?;
    let mut byte = [b'x'];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    say("open");
    stream.set_read_timeout(None)?;
    match stream.read(&mut byte) {
        Ok(0) | Err(_) => say("cut"),
        Ok(_) => say("an answer to nothing"),
    }
    Ok(())
}

/// Calls until standard input ends, `per_connection` requests on every connection; then says the tally.
pub(crate) fn load(target: &str, per_connection: usize) -> io::Result<()> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (tally, stop, target) = (tally.clone(), stop.clone(), target.to_owned());
            std::thread::spawn(move || {
                let mut caller = Caller::new(&target);
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    calls += 1;
                    tally
                        .lock()
                        .unwrap()
                        .add(caller.call(calls % per_connection == 0));
                    std::thread::park_timeout(PAUSE);
                }
            })
        })
        .collect();
    say("calling");
    until_released();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().map_err(|_| io::Error::other("a caller has died"))?;
    }
    say(&serde_json::to_string(&*tally.lock().unwrap())?);
    Ok(())
}

impl Tally {
    fn add(&mut self, result: io::Result<String>) {
        match result {
            Ok(_) => self.answered += 1,
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < TOLD {
                    self.failures.push(format!("after {}: {error}", self.answered));
                }
            }
        }
    }
}

struct Caller {
    host: String,
    path: String,
    connection: Option<BufReader<TcpStream>>,
}

impl Caller {
    fn new(target: &str) -> Self {
        let (host, path) = target.split_once('/').unwrap_or((target, ""));
        Self {
            host: host.to_owned(),
            path: format!("/{path}"),
            connection: None,
        }
    }

    /// One request; the body of a 200.
    fn call(&mut self, last: bool) -> io::Result<String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(connect(&self.host)?),
        };
        let ending = if last { "connection: close\r\n" } else { "" };
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\n{ending}\r\n",
            self.path, self.host
        );
        connection.get_mut().write_all(request.as_bytes())?;
        let body = answer(&mut connection)?;
        if last {
            let rest = connection.read(&mut [0; 1])?;
            if rest != 0 {
                return Err(io::Error::other("more than the answer came"));
            }
        } else {
            self.connection = Some(connection);
        }
        Ok(body)
    }
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let addresses: Vec<_> = host.to_socket_addrs()?.collect();
    let address = addresses.first().ok_or_else(|| io::Error::other("no address"))?;
    let stream = TcpStream::connect_timeout(address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// The body of an answer that says its length; anything but 200 is an error.
fn answer(connection: &mut impl BufRead) -> io::Result<String> {
    let mut status = String::new();
    connection.read_line(&mut status)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::Error::other(format!("the end after {status:?}")));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    if status.starts_with("HTTP/1.1 200") {
        return Ok(body);
    }
    Err(io::Error::other(format!("{}: {body}", status.trim_end())))
}
