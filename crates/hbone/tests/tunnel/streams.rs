//! What a stream promises: every byte, both ends of each half, resets, and nothing for its neighbours to suffer.

use std::hash::{DefaultHasher, Hasher};
use std::io;

use aquifer_hbone::stream::is_reset;
use aquifer_hbone::{ByteCounters, TunnelStream, copy_bidirectional};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::mesh::{Client, Echo, Forward, Hold, LOOPBACK, Mesh, application, soon};

/// A pattern that repeats nowhere near its frames' sizes.
fn pattern(at: u64, buffer: &mut [u8]) {
    for (n, byte) in buffer.iter_mut().enumerate() {
        let x = (at + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = (x >> 56) as u8;
    }
}

async fn assert_echoes(stream: &mut TunnelStream, text: &[u8]) {
    soon(stream.write_all(text)).await.unwrap();
    let mut back = vec![0; text.len()];
    soon(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_come_back_unchanged() {
    const TOTAL: u64 = 64 * 1024 * 1024;
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let (stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let writer = tokio::spawn(async move {
        let (mut sent, mut hash) = (0, DefaultHasher::new());
        let mut chunk = vec![0; 100_003];
        while sent < TOTAL {
            let size = chunk.len().min((TOTAL - sent) as usize);
            pattern(sent, &mut chunk[..size]);
            hash.write(&chunk[..size]);
            write.write_all(&chunk[..size]).await.unwrap();
            sent += size as u64;
        }
        write.shutdown().await.unwrap();
        hash.finish()
    });
    let (mut got, mut hash) = (0, DefaultHasher::new());
    let mut buffer = vec![0; 77_777];
    let mut expected = buffer.clone();
    loop {
        let read = soon(read.read(&mut buffer)).await.unwrap();
        if read == 0 {
            break;
        }
        pattern(got, &mut expected[..read]);
        assert!(buffer[..read] == expected[..read], "differs after {got} bytes");
        hash.write(&buffer[..read]);
        got += read as u64;
    }
    assert_eq!(got, TOTAL);
    writer.await.unwrap();
}

#[tokio::test]
async fn the_handler_knows_who_and_where() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    let mut headers = HeaderMap::new();
    headers.insert("baggage", "service.name=a".parse().unwrap());
    let (_stream, answer) = client
        .open_with(server.address, mesh.id("b"), headers.clone())
        .await
        .unwrap();
    assert_eq!(answer["baggage"], "k8s.namespace.name=test");
    let (facts, _held) = soon(held.recv()).await.unwrap();
    assert_eq!(facts.identity, mesh.id("a"));
    assert_eq!(facts.authority, "10.0.0.1:80");
    assert_eq!(facts.headers, headers);
    assert_eq!(facts.local, server.address);
    assert!(facts.peer.ip().is_loopback() && facts.peer.port() != 0);
}

#[tokio::test]
async fn each_half_ends_on_its_own() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    for client_ends_first in [true, false] {
        let (near, _) = client.open(server.address, mesh.id("b")).await.unwrap();
        let (_, far) = soon(held.recv()).await.unwrap();
        let (mut first, mut second) = if client_ends_first {
            (near, far)
        } else {
            (far, near)
        };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        first.shutdown().await.expect("ending twice is harmless");
        assert!(first.write_all(b"more").await.is_err());
        let mut text = Vec::new();
        soon(second.read_to_end(&mut text)).await.unwrap();
        assert_eq!(text, b"question");
        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        text.clear();
        soon(first.read_to_end(&mut text)).await.unwrap();
        assert_eq!(text, b"answer");
    }
}

/// As HTTP servers do after `connection: close`: they send the answer, end it and drop the stream.
#[tokio::test]
async fn a_server_that_ends_and_leaves_cuts_nothing() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    // The second is larger than the windows on the way.
    for size in [2, 20_000_000] {
        let (stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
        let (_, mut far) = soon(held.recv()).await.unwrap();
        let (listener, address) = application().await;
        let mut near = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let copy =
            tokio::spawn(async move { copy_bidirectional(accepted, stream, &ByteCounters::default()).await });
        near.write_all(b"question").await.unwrap();
        soon(far.read_exact(&mut [0; 8])).await.unwrap();
        let answers = tokio::spawn(async move {
            far.write_all(&vec![7; size]).await.unwrap();
            far.shutdown().await.unwrap();
        });
        let mut answer = Vec::new();
        soon(near.read_to_end(&mut answer))
            .await
            .expect("an end, not a reset");
        assert!(answer == vec![7; size], "{} of {size} bytes", answer.len());
        answers.await.unwrap();
        assert_eq!(soon(copy).await.unwrap().unwrap(), (8, size as u64));
    }
    let (mut near, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut far) = soon(held.recv()).await.unwrap();
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    drop(far);
    let mut text = Vec::new();
    soon(near.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text, b"answer");
    let error = soon(near.write_all(b"more")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "nobody reads it");
}

#[tokio::test]
async fn a_reset_is_not_an_end() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    for (near_cuts, explicitly) in [(true, true), (true, false), (false, true), (false, false)] {
        let (near, _) = client.open(server.address, mesh.id("b")).await.unwrap();
        let (_, far) = soon(held.recv()).await.unwrap();
        let (mut cuts, mut other) = if near_cuts { (near, far) } else { (far, near) };
        if explicitly {
            cuts.reset();
        }
        drop(cuts);
        let error = soon(other.read(&mut [0; 10])).await.unwrap_err();
        assert!(is_reset(&error), "{error:?}");
        let again = soon(other.read(&mut [0; 10])).await.unwrap_err();
        assert_eq!(again.kind(), error.kind(), "the error stays");
        let error = soon(other.write_all(b"x")).await.unwrap_err();
        assert!(is_reset(&error), "{error:?}");
    }
    assert_eq!(client.dialled(), 1, "a reset stream leaves its connection alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_at_once() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let client = std::sync::Arc::new(Client::new(mesh.certificate("a")));
    let barrier = || std::sync::Arc::new(tokio::sync::Barrier::new(1001));
    let (all_open, counted) = (barrier(), barrier());
    let mut streams = JoinSet::new();
    for n in 0..1000u32 {
        let (client, all_open, counted) = (client.clone(), all_open.clone(), counted.clone());
        let (address, id) = (server.address, mesh.id("b"));
        streams.spawn(async move {
            let (mut stream, _) = client.open(address, id).await.unwrap();
            all_open.wait().await;
            counted.wait().await;
            assert_echoes(&mut stream, &n.to_be_bytes()).await;
            stream.shutdown().await.unwrap();
            assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap(), 0);
        });
    }
    soon(all_open.wait()).await;
    let stats = client.pool.stats();
    assert_eq!((stats.streams, stats.waiting, stats.destinations), (1000, 0, 1));
    soon(counted.wait()).await;
    while let Some(done) = soon(streams.join_next()).await {
        done.unwrap();
    }
    assert_eq!(client.pool.stats().streams, 0);
    // Ten are needed; a caller that found the first ones full may have opened one or two more.
    assert!(
        (10..=14).contains(&client.dialled()),
        "{} connections",
        client.dialled()
    );
    assert_eq!(client.dialled(), server.accepted());
}

/// h2's default budget ends a connection at 129 such frames, ours at some 263,000 if they are left where they are.
const TINY_FRAMES: usize = 400_000;

#[tokio::test]
async fn tiny_frames_to_a_stalled_application_do_not_harm_the_neighbours() {
    let mesh = Mesh::new();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind((LOOPBACK, 0).into()).unwrap();
    let listener = socket.listen(8).unwrap();
    let (mut forward, mut ends) = Forward::to(listener.local_addr().unwrap());
    forward.send_buffer = Some(4096);
    let server = mesh.server("b", forward).await;
    let client = Client::new(mesh.certificate("a"));
    let (mut stalled, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (mut stalled_app, _) = soon(listener.accept()).await.unwrap();
    // More than both socket buffers hold, so that the agent's write to the application stalls.
    const FILL: usize = 1024 * 1024;
    soon(stalled.write_all(&vec![b'-'; FILL])).await.unwrap();
    for _ in 0..TINY_FRAMES {
        soon(stalled.write_all(b"x")).await.unwrap();
    }
    let (mut neighbour, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    soon(neighbour.write_all(b"hello")).await.unwrap();
    let mut text = [0; 5];
    soon(app.read_exact(&mut text)).await.unwrap();
    assert_eq!(&text, b"hello");
    assert_eq!(client.dialled(), 1, "both streams share one connection");
    // And the stalled one has lost nothing.
    stalled.shutdown().await.unwrap();
    let mut text = Vec::new();
    soon(stalled_app.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text.len(), FILL + TINY_FRAMES);
    drop(stalled_app);
    assert_eq!(
        soon(ends.recv()).await.unwrap(),
        format!("{}/0", FILL + TINY_FRAMES)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_frames_to_a_reader_that_never_reads_do_not_harm_the_neighbours() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    let (mut stalled, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut stalled_far) = soon(held.recv()).await.unwrap();
    for _ in 0..20_000 {
        soon(stalled.write_all(b"x")).await.unwrap();
    }
    let (mut neighbour, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut far) = soon(held.recv()).await.unwrap();
    neighbour.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    soon(far.read_exact(&mut text)).await.unwrap();
    assert_eq!(client.dialled(), 1);
    stalled.shutdown().await.unwrap();
    let mut text = Vec::new();
    soon(stalled_far.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text, vec![b'x'; 20_000]);
}

/// An application behind its node's agent on each side: socket, tunnel, socket.
struct Path {
    near: TcpStream,
    far: TcpStream,
    near_end: tokio::task::JoinHandle<Result<(u64, u64), aquifer_hbone::CopyError>>,
    far_end: tokio::sync::mpsc::Receiver<String>,
    _server: crate::mesh::Server,
    _listener: TcpListener,
}

async fn path() -> Path {
    let mesh = Mesh::new();
    let (listener, address) = application().await;
    let (forward, far_end) = Forward::to(address);
    let server = mesh.server("b", forward).await;
    let client = Client::new(mesh.certificate("a"));
    let (capture, captured) = application().await;
    let near = TcpStream::connect(captured).await.unwrap();
    let (socket, _) = capture.accept().await.unwrap();
    let (stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let near_end = tokio::spawn(async move {
        // The pool lives as long as the connection does, as an agent's does.
        let _client = client;
        copy_bidirectional(socket, stream, &ByteCounters::default()).await
    });
    let (far, _) = soon(listener.accept()).await.unwrap();
    Path {
        near,
        far,
        near_end,
        far_end,
        _server: server,
        _listener: listener,
    }
}

#[tokio::test]
async fn applications_see_the_half_close_that_the_other_made() {
    let mut path = path().await;
    path.near.write_all(b"question").await.unwrap();
    path.near.shutdown().await.unwrap();
    let mut text = Vec::new();
    soon(path.far.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text, b"question");
    path.far.write_all(b"answer").await.unwrap();
    path.far.shutdown().await.unwrap();
    text.clear();
    soon(path.near.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text, b"answer");
    assert_eq!(soon(path.near_end).await.unwrap().unwrap(), (8, 6));
    assert_eq!(soon(path.far_end.recv()).await.unwrap(), "8/6");
}

#[tokio::test]
async fn applications_see_the_reset_that_the_other_made() {
    for near_cuts in [true, false] {
        let path = path().await;
        let (cuts, mut other) = if near_cuts {
            (path.near, path.far)
        } else {
            (path.far, path.near)
        };
        cuts.set_zero_linger().unwrap();
        drop(cuts);
        let error = soon(other.read(&mut [0; 10])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = soon(path.near_end).await.unwrap().unwrap_err();
        assert!(error.is_reset(), "{error:?}");
    }
}

#[tokio::test]
async fn a_reset_is_seen_although_the_application_has_nothing_to_say() {
    // The near application has ended its half and only listens; the far one answers half and is then killed.
    let mut path = path().await;
    path.near.shutdown().await.unwrap();
    assert_eq!(soon(path.far.read(&mut [0; 1])).await.unwrap(), 0);
    path.far.write_all(b"half of").await.unwrap();
    let mut text = [0; 7];
    soon(path.near.read_exact(&mut text)).await.unwrap();
    path.far.set_zero_linger().unwrap();
    drop(path.far);
    let error = soon(path.near.read(&mut [0; 10])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// A server that answers and closes, as for `connection: close`, has often left before its client ends the question.
#[tokio::test]
async fn who_answers_and_leaves_before_the_question_ends_has_answered() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    let (stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut far) = soon(held.recv()).await.unwrap();
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    drop(far);
    // What follows on the same connection says that the end of the first stream has arrived.
    let (mut next, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut next_far) = soon(held.recv()).await.unwrap();
    next_far.write_all(b"x").await.unwrap();
    soon(next.read_exact(&mut [0; 1])).await.unwrap();
    assert_eq!(client.dialled(), 1);

    let (capture, captured) = application().await;
    let mut near = TcpStream::connect(captured).await.unwrap();
    let (socket, _) = capture.accept().await.unwrap();
    near.shutdown().await.unwrap();
    soon(socket.readable()).await.unwrap();
    let copied = soon(copy_bidirectional(socket, stream, &ByteCounters::default())).await;
    assert_eq!(copied.unwrap(), (0, 6));
    let mut text = Vec::new();
    soon(near.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text, b"answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_its_writer_down_and_nobody_else() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    let (mut slow, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut slow_far) = soon(held.recv()).await.unwrap();
    // What is queued when both halves have ended is delivered although the stream is dropped.
    slow_far.shutdown().await.unwrap();
    let writer = tokio::spawn(async move {
        assert_eq!(slow.read(&mut [0; 1]).await.unwrap(), 0);
        let mut sent = 0usize;
        let chunk = vec![7; 64 * 1024];
        while sent < 32 * 1024 * 1024 {
            slow.write_all(&chunk).await.unwrap();
            sent += chunk.len();
        }
        slow.shutdown().await.unwrap();
        sent
    });
    let (mut quick, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut far) = soon(held.recv()).await.unwrap();
    for _ in 0..100 {
        quick.write_all(b"ping").await.unwrap();
        let mut text = [0; 4];
        soon(far.read_exact(&mut text)).await.unwrap();
    }
    assert!(!writer.is_finished(), "the window of 4 MiB holds the writer back");
    let mut got = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match soon(slow_far.read(&mut buffer)).await.unwrap() {
            0 => break,
            read => got += read,
        }
    }
    assert_eq!(got, writer.await.unwrap());
}
