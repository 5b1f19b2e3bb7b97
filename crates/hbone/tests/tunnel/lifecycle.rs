//! Beginnings and ends: handshakes that never finish, draining, idleness, and peers that vanish.

use std::net::SocketAddr;
use std::time::Duration;

use aquifer_hbone::stream::is_reset;
use aquifer_hbone::{ConnectError, PoolConfig, ServeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::mesh::{Client, Echo, Hold, Mesh, application, soon, tls};

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_finishes_is_given_up() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let before = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let error = server.ended().await.unwrap_err();
    assert!(matches!(error, ServeError::HandshakeTimeout { .. }), "{error:?}");
    assert_eq!(before.elapsed().as_secs(), 10);
    silent.read_to_end(&mut Vec::new()).await.ok();
    // One that sends a byte now and then gains nothing by it.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let mut dripping = JoinSet::new();
    dripping.spawn(async move {
        for byte in [22, 3, 1, 2, 0, 1, 0, 1] {
            slow.write_all(&[byte]).await.ok();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
    let error = server.ended().await.unwrap_err();
    assert!(matches!(error, ServeError::HandshakeTimeout { .. }), "{error:?}");
    // Nor does one that stops after TLS.
    let _tls = tls(mesh.client_config("a", "b"), server.address).await.unwrap();
    let error = server.ended().await.unwrap_err();
    assert!(matches!(error, ServeError::HandshakeTimeout { .. }), "{error:?}");
}

#[tokio::test]
async fn draining_lets_open_streams_finish_and_takes_no_new_ones() {
    let mesh = Mesh::new();
    let (hold, mut held) = Hold::new();
    let mut server = mesh.server("b", hold).await;
    let client = Client::new(mesh.certificate("a"));
    let (mut near, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let (_, mut far) = soon(held.recv()).await.unwrap();
    server.drain.cancel();
    // The next stream is not taken on this connection: the pool notices and dials anew.
    while client.dialled() == 1 {
        client.open(server.address, mesh.id("b")).await.ok();
    }
    near.write_all(b"still here").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    soon(far.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "still here");
    far.write_all(b"so am I").await.unwrap();
    far.shutdown().await.unwrap();
    text.clear();
    soon(near.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "so am I");
    drop((near, far));
    while let Ok((_, stream)) = held.try_recv() {
        drop(stream);
    }
    server.ended().await.expect("a drained connection ends cleanly");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_five_minutes() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let (stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(client.pool.stats().connections, 1, "a stream keeps it open");
    drop(stream);
    let before = tokio::time::Instant::now();
    server.ended_eventually().await.expect("closed cleanly");
    assert!(
        (300..=601).contains(&before.elapsed().as_secs()),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(client.pool.stats(), Default::default());
    client.open(server.address, mesh.id("b")).await.map(drop).unwrap();
    assert_eq!(client.dialled(), 2);
}

#[tokio::test]
async fn a_killed_peer_resets_the_streams_and_is_dialled_again() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let (mut stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    server.kill().await;
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert!(is_reset(&error), "{error:?}");
    drop(stream);
    let error = client.open(server.address, mesh.id("b")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Dial { .. }), "{error:?}");
    assert_eq!(client.pool.stats(), Default::default());
}

/// Forwards one port to another until it is told to go silent, without closing anything: a node that lost its power.
async fn fragile_wire(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>, JoinSet<()>) {
    let (listener, address) = application().await;
    let (cut, silent) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut wires = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let mut silent = silent.clone();
            wires.spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = async { silent.wait_for(|silent| *silent).await.map(drop).unwrap() } => {
                        std::future::pending().await
                    }
                }
            });
        }
    });
    (address, cut, tasks)
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_without_a_word_is_noticed_by_both_sides() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let (address, cut, _wire) = fragile_wire(server.address).await;
    let client = Client::new(mesh.certificate("a"));
    let (mut stream, _) = client.open(address, mesh.id("b")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    stream.write_all(b"x").await.unwrap();
    stream
        .read_exact(&mut [0; 1])
        .await
        .expect("PINGs keep a live connection alive");
    cut.send(true).unwrap();
    let before = tokio::time::Instant::now();
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert!(is_reset(&error), "{error:?}");
    assert!(
        (20..=31).contains(&before.elapsed().as_secs()),
        "{:?}",
        before.elapsed()
    );
    drop(stream);
    match server.ended().await.unwrap_err() {
        ServeError::Lost { cause, .. } => assert!(cause.contains("PING"), "{cause}"),
        other => panic!("{other:?}"),
    }
    tokio::task::yield_now().await;
    assert_eq!(client.pool.stats(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_is_given_up() {
    let mesh = Mesh::new();
    let (listener, address) = application().await;
    let client = Client::new(mesh.certificate("a"));
    let before = tokio::time::Instant::now();
    let error = client.open(address, mesh.id("b")).await.err().unwrap();
    assert_eq!(before.elapsed().as_secs(), 10);
    assert!(
        error.to_string().contains("not established within 10 s"),
        "{error}"
    );
    drop(listener);
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let server = mesh.server("b", crate::mesh::Gate(gate)).await;
    let error = client.open(server.address, mesh.id("b")).await.err().unwrap();
    assert!(
        error
            .to_string()
            .contains("did not answer the request within 20 s"),
        "{error}"
    );
    assert_eq!(client.pool.stats().streams, 0);
}

#[tokio::test]
async fn closing_a_pool_lets_streams_finish_and_dropping_it_cuts_them() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let (mut stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    client.pool.close();
    let error = client.open(server.address, mesh.id("b")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Closed { .. }), "{error:?}");
    stream.write_all(b"hello").await.unwrap();
    soon(stream.read_exact(&mut [0; 5])).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap(), 0);
    drop(stream);
    server.ended().await.expect("closed cleanly");

    let client = Client::with(mesh.certificate("a"), PoolConfig::default());
    let (mut stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    drop(client);
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert!(is_reset(&error), "{error:?}");
}
