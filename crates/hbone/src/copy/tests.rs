use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

type Copying = tokio::task::JoinHandle<Result<(u64, u64), CopyError>>;

/// Runs a copy between two streams of memory and hands out their other ends.
fn copying(size: usize) -> (DuplexStream, DuplexStream, Copying) {
    let (near, a) = duplex(size);
    let (b, far) = duplex(size);
    let task =
        tokio::spawn(async move { copy_bidirectional(Plain(a), Plain(b), &ByteCounters::default()).await });
    (near, far, task)
}

#[tokio::test]
async fn copies_both_ways_until_both_have_ended() {
    let (mut near, mut far, copy) = copying(100);
    near.write_all(b"forth").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "forth");
    tokio::task::yield_now().await;
    assert!(!copy.is_finished(), "the way back is still open");
    far.write_all(b"and back").await.unwrap();
    far.shutdown().await.unwrap();
    text.clear();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "and back");
    assert_eq!(copy.await.unwrap().unwrap(), (5, 8));
}

#[tokio::test]
async fn large_data_through_a_narrow_pipe_arrives_whole() {
    let (mut near, mut far, copy) = copying(7);
    let sent: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
    drop(far);
    writer.await.unwrap();
    assert_eq!(copy.await.unwrap().unwrap().0, 100_000);
}

#[tokio::test]
async fn counters_move_while_the_connection_lives() {
    let (mut near, a) = tcp_pair().await;
    let (b, mut far) = tcp_pair().await;
    let counters = ByteCounters::default();
    let talk = async {
        near.write_all(b"12345").await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!((counters.a_to_b(), counters.b_to_a()), (5, 0));
        far.write_all(b"123").await.unwrap();
        near.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!((counters.a_to_b(), counters.b_to_a()), (5, 3));
    };
    tokio::select! {
        () = talk => {}
        _ = copy_bidirectional(a, b, &counters) => panic!("ended early"),
    }
}

#[tokio::test]
async fn a_reset_on_one_socket_resets_the_other() {
    for near_cuts in [true, false] {
        let (near, a) = tcp_pair().await;
        let (b, far) = tcp_pair().await;
        let copy = tokio::spawn(async move { copy_bidirectional(a, b, &ByteCounters::default()).await });
        let (cuts, mut other) = if near_cuts { (near, far) } else { (far, near) };
        cuts.set_zero_linger().unwrap();
        drop(cuts);
        let error = copy.await.unwrap().unwrap_err();
        assert!(error.is_reset(), "{error:?}");
        assert_eq!((error.side == Side::A, error.step), (near_cuts, Step::Read));
        assert_eq!(
            error.fault(),
            if near_cuts { Fault::Client } else { Fault::Upstream }
        );
        let seen = other.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_flushed_when_the_source_pauses() {
    // A writer that keeps everything until it is flushed, as a compressor does.
    let (mut near, a) = duplex(1000);
    let (b, mut far) = duplex(1000);
    let buffered = tokio::io::BufStream::new(b);
    let copy =
        tokio::spawn(
            async move { copy_bidirectional(Plain(a), Plain(buffered), &ByteCounters::default()).await },
        );
    near.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    tokio::time::timeout(Duration::from_secs(5), far.read_exact(&mut text))
        .await
        .expect("flushed")
        .unwrap();
    drop((near, far));
    copy.await.unwrap().ok();
}

/// One task per connection holds this; it is what an idle connection costs besides its sockets.
#[test]
fn the_future_stays_small() {
    let counters = ByteCounters::default();
    let (near, _a) = duplex(1);
    let (far, _b) = duplex(1);
    let future = copy_bidirectional(Plain(near), Plain(far), &counters);
    let size = size_of_val(&future);
    assert!(size <= 600, "{size} bytes");
}
