//! Whether a client whose protocol nobody declared speaks HTTP, told by the first line that it sends.
//!
//! What may be HTTP is never taken for something else: a client must not get around what is done to requests by saying them
//! slowly or oddly.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is longer is left to who answers requests: what is read of it is judged anew each time.
const LONGEST: usize = 4 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Http,
    Other,
}

/// Reads until it is clear. Given up and called again, it goes on with what is in `read`.
pub(crate) async fn listen<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> io::Result<Speech> {
    loop {
        if let Some(speech) = judge(read) {
            return Ok(speech);
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(Speech::Other);
        }
    }
}

fn judge(read: &[u8]) -> Option<Speech> {
    // Servers overlook empty lines before a request (RFC 9112 section 2.2).
    let start = read.iter().position(|b| !matches!(b, b'\r' | b'\n'));
    let text = &read[start.unwrap_or(read.len())..];
    let end = text.iter().position(|b| *b == b'\n');
    // Some servers overlook blanks before a request, too.
    let line = text[..end.unwrap_or(text.len())].trim_ascii();
    let method = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    if !method.iter().all(|b| is_of_token(*b)) {
        return Some(Speech::Other);
    }
    match end {
        Some(_) if is_request(line) => Some(Speech::Http),
        Some(_) => Some(Speech::Other),
        None => (read.len() >= LONGEST).then_some(Speech::Http),
    }
}

/// RFC 9110 section 5.6.2.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A line that names its version; or the one of HTTP/0.9, which some servers still answer.
fn is_request(line: &[u8]) -> bool {
    let mut words = line.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty());
    let (first, second) = (words.next(), words.next());
    let last = words.next_back().or(second).unwrap_or_default();
    let versioned = last.get(..5).is_some_and(|v| v.eq_ignore_ascii_case(b"HTTP/"));
    let first_ever = first == Some(b"GET") && second.is_some_and(|path| path.starts_with(b"/"));
    versioned || first_ever
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells() {
        let check = |said: &[u8], want: Option<Speech>| {
            assert_eq!(judge(said), want, "{:?}", String::from_utf8_lossy(said));
        };
        for request in [
            "GET / HTTP/1.1\r\n",
            "\r\n\nPOST /a?b HTTP/1.0\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "BREW /pot  HTTP/1.1 \r\n",
            "GET /old\r\n",
            " GET / HTTP/1.1\r\n",
            "GET /\x01 HTTP/1.1\r\n",
        ] {
            check(request.as_bytes(), Some(Speech::Http));
        }
        for other in [
            &b"\x16\x03\x01"[..],
            b"{\"a\"",
            b"EHLO me\r\n",
            b"*3\r\n",
            b"\0\0\0\x08",
            b"get /key\r\n",
            b"A\0\0\0 ",
        ] {
            check(other, Some(Speech::Other));
        }
        for not_yet in [&b""[..], b"\r\n", b"GE", b"GET / HTTP/1.1", b"PING", b" x"] {
            check(not_yet, None);
        }
        check(&[b'A'; LONGEST], Some(Speech::Http));
    }

    #[tokio::test]
    async fn nothing_is_lost_when_it_is_given_up_in_between() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut read = BytesMut::new();
        tokio::io::AsyncWriteExt::write_all(&mut far, b"GET / ")
            .await
            .unwrap();
        {
            let mut first = std::pin::pin!(listen(&mut near, &mut read));
            assert!(futures_util::poll!(&mut first).is_pending());
        }
        tokio::io::AsyncWriteExt::write_all(&mut far, b"HTTP/1.1\r\n")
            .await
            .unwrap();
        assert_eq!(listen(&mut near, &mut read).await.unwrap(), Speech::Http);
        assert_eq!(&read[..], b"GET / HTTP/1.1\r\n");
    }
}
