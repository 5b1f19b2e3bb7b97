//! Tells HTTP/2 with prior knowledge from HTTP/1 by the first bytes, which stay readable.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::rewound::Rewound;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads until the version is clear. No method of HTTP/1 begins as the preface of HTTP/2 does. A client that leaves
/// without a word is answered in kind.
pub(super) async fn sniff<S>(mut stream: S) -> io::Result<(Version, Rewound<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
            if seen == 0 {
                stream.shutdown().await?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok((Version::Http1, Rewound::new(read.freeze(), stream)));
        }
    };
    Ok((version, Rewound::new(read.freeze(), stream)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    async fn check(chunks: &[&[u8]], want: Version) {
        let mut builder = tokio_test_stream(chunks);
        let (version, mut rewound) = sniff(&mut builder).await.unwrap();
        assert_eq!(version, want);
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, chunks.concat());
    }

    /// A reader that gives one chunk per read.
    fn tokio_test_stream(chunks: &[&[u8]]) -> impl AsyncRead + AsyncWrite + Unpin {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let reader = tokio_util::io::StreamReader::new(futures_util::stream::iter(
            chunks.into_iter().map(|c: io::Result<Bytes>| c),
        ));
        tokio::io::join(reader, tokio::io::sink())
    }

    #[tokio::test]
    async fn finds_the_version_and_loses_nothing() {
        check(&[b"GET / HTTP/1.1\r\n\r\n"], Version::Http1).await;
        check(&[b"P", b"OST / HTTP/1.1\r\n\r\n"], Version::Http1).await;
        check(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\nrest"], Version::Http2).await;
        check(&[b"PRI"], Version::Http1).await;
        assert!(sniff(tokio_test_stream(&[])).await.is_err());
    }
}
