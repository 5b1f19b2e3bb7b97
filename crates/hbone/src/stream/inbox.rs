//! Bytes that were taken from the connection but not yet by the stream's reader.
//!
//! Small frames are joined: each would otherwise keep a piece of the connection's read buffer alive and count against
//! its budget of small frames. How much can be in here is limited by the stream's flow-control window.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::ReadBuf;

/// What h2 counts as small.
const SMALL: usize = 256;
/// Up to this the joined bytes are one chunk.
const JOINED: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Inbox {
    chunks: VecDeque<Bytes>,
    /// Small frames, joined; younger than all chunks.
    joined: BytesMut,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.joined.is_empty()
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        // The first is kept as it is: a reader that keeps up never pays for a copy.
        if chunk.len() < SMALL && !self.is_empty() {
            self.joined.extend_from_slice(&chunk);
            if self.joined.len() >= JOINED {
                self.close_joined();
            }
            return;
        }
        self.close_joined();
        self.chunks.push_back(chunk);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.chunks.pop_front().or_else(|| {
            let joined = std::mem::take(&mut self.joined).freeze();
            (!joined.is_empty()).then_some(joined)
        })
    }

    /// Fills `buf` as far as it goes and answers how many bytes that took.
    pub(super) fn read(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let Some(mut chunk) = self.pop() else {
                break;
            };
            let taken = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..taken]);
            chunk.advance(taken);
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
        }
        buf.filled().len() - before
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            let joined = std::mem::take(&mut self.joined).freeze();
            self.chunks.push_back(joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(inbox: &mut Inbox) -> Vec<Bytes> {
        std::iter::from_fn(|| inbox.pop()).collect()
    }

    #[test]
    fn a_thousand_single_bytes_become_two_chunks() {
        let mut inbox = Inbox::default();
        for n in 0..1000u32 {
            inbox.push(Bytes::copy_from_slice(&[n as u8]));
        }
        let chunks = drain(&mut inbox);
        assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [1, 999]);
        assert!(inbox.is_empty());
    }

    proptest! {
        #[test]
        fn order_and_content_survive(
            frames in proptest::collection::vec((0usize..600, any::<u8>()), 0..60),
            reads in proptest::collection::vec(0usize..900, 0..30),
        ) {
            let mut inbox = Inbox::default();
            let mut expected = Vec::new();
            let mut got = Vec::new();
            let mut reads = reads.into_iter();
            for (len, byte) in frames {
                if len > 0 {
                    inbox.push(Bytes::from(vec![byte; len]));
                    expected.extend(vec![byte; len]);
                }
                if let Some(size) = reads.next() {
                    let mut space = vec![0; size];
                    let mut buf = ReadBuf::new(&mut space);
                    let taken = inbox.read(&mut buf);
                    prop_assert_eq!(taken, buf.filled().len());
                    got.extend_from_slice(buf.filled());
                }
            }
            got.extend(drain(&mut inbox).into_iter().flatten());
            prop_assert_eq!(got, expected);
        }
    }
}
