//! An HTTP server that understands as little as it can and says all it saw.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::transparency::server::listen;

pub(crate) const PORT: u16 = 8080;

/// One request, as it stood on the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) pod: String,
    pub(crate) line: String,
    /// Lower-case names, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let (_, value) = found.next()?;
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        Some(value)
    }
}

/// Request lines since they were last asked for by `GET /-/lines`.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Serves until the process ends.
pub(crate) fn serve() -> io::Result<()> {
    listen(PORT, |stream| {
        let mut stream = BufReader::new(stream.try_clone()?);
        while answer(&mut stream)? {}
        Ok(())
    })?;
    loop {
        std::thread::park();
    }
}

/// Whether another request may follow.
fn answer(stream: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let Some(seen) = read(stream)? else {
        return Ok(false);
    };
    let body = if seen.line.contains(" /-/lines ") {
        serde_json::to_string(&std::mem::take(&mut *LINES.lock().unwrap()))?
    } else {
        LINES.lock().unwrap().push(seen.line.clone());
        serde_json::to_string(&seen)?
    };
    let answer = match seen.line.split(' ').nth(1) {
        // Lets a proxy take one answer for two.
        Some("/-/two-answers") => {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"
                .to_owned()
        }
        Some("/-/two-lengths") => {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk".to_owned()
        }
        Some("/-/garbage") => "\0\u{1}\u{2}\r\n\r\n".to_owned(),
        Some("/-/endless-head") => format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20)),
        Some("/-/early-end") => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned(),
        _ => format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    };
    stream.get_mut().write_all(answer.as_bytes())?;
    let closes = seen
        .headers
        .iter()
        .any(|(n, v)| n == "connection" && v == "close");
    Ok(!closes && !seen.line.contains(" /-/early-end "))
}

fn read(stream: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut header = Vec::new();
        stream.read_until(b'\n', &mut header)?;
        let header = String::from_utf8_lossy(&header).into_owned();
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        read_chunks(stream, &mut body)?;
    } else if let Some(length) = header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        stream.take(length).read_to_end(&mut body)?;
    }
    Ok(Some(Seen {
        pod: std::env::var("HOSTNAME").unwrap_or_default(),
        line: line.trim_end().to_owned(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }))
}

fn read_chunks(stream: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut size = String::new();
        stream.read_line(&mut size)?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
        stream.take(size).read_to_end(body)?;
        let mut end = String::new();
        stream.read_line(&mut end)?;
        while size == 0 && !end.trim_end().is_empty() {
            // Trailers.
            end.clear();
            stream.read_line(&mut end)?;
        }
        if size == 0 {
            return Ok(());
        }
    }
}
