//! Tells HTTP/2 with prior knowledge from HTTP/1 by the first bytes, which stay readable.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads until the version is clear. No method of HTTP/1 begins as the preface of HTTP/2 does.
pub(super) async fn sniff<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Version, Rewound<S>)> {
    let mut read = BytesMut::with_capacity(1024);
    let version = loop {
        let seen = read.len().min(PREFACE.len());
        if read[..seen] != PREFACE[..seen] {
            break Version::Http1;
        }
        if seen == PREFACE.len() {
            break Version::Http2;
        }
        if stream.read_buf(&mut read).await? == 0 {
            return match seen {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok((Version::Http1, Rewound::new(read.freeze(), stream))),
            };
        }
    };
    Ok((version, Rewound::new(read.freeze(), stream)))
}

/// A stream with the bytes that were read already put back in front.
pub(super) struct Rewound<S> {
    front: Bytes,
    stream: S,
}

impl<S> Rewound<S> {
    fn new(front: Bytes, stream: S) -> Self {
        Self { front, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.front.len().min(buf.remaining());
        buf.put_slice(&self.front[..length]);
        self.front.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(chunks: &[&[u8]], want: Version) {
        let mut builder = tokio_test_stream(chunks);
        let (version, mut rewound) = sniff(&mut builder).await.unwrap();
        assert_eq!(version, want);
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, chunks.concat());
    }

    /// A reader that gives one chunk per read.
    fn tokio_test_stream(chunks: &[&[u8]]) -> impl AsyncRead + Unpin {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        tokio_util::io::StreamReader::new(futures_util::stream::iter(
            chunks.into_iter().map(|c: io::Result<Bytes>| c),
        ))
    }

    #[tokio::test]
    async fn finds_the_version_and_loses_nothing() {
        check(&[b"GET / HTTP/1.1\r\n\r\n"], Version::Http1).await;
        check(&[b"P", b"OST / HTTP/1.1\r\n\r\n"], Version::Http1).await;
        check(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\nrest"], Version::Http2).await;
        check(&[b"PRI"], Version::Http1).await;
        assert!(sniff(&b""[..]).await.is_err());
    }
}
