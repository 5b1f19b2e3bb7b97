//! Which streams share a connection, who opens it, and what happens when it is dead or full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aquifer_hbone::{ConnectError, Fault, PoolConfig, Retry};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;

use crate::mesh::{Client, Echo, Mesh, Refuse, Server, request, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_come_together_share_one_connection() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let client = Arc::new(Client::new(mesh.certificate("a")));
    let start = Arc::new(Barrier::new(50));
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let (client, start, address, id) = (client.clone(), start.clone(), server.address, mesh.id("b"));
        callers.spawn(async move {
            start.wait().await;
            client.open(address, id).await.unwrap()
        });
    }
    let streams = soon(callers.join_all()).await;
    assert_eq!((client.dialled(), client.pool.stats().streams), (1, 50));
    drop(streams);
    assert_eq!(client.pool.stats().streams, 0);
}

#[tokio::test]
async fn a_failed_dial_is_told_to_all_who_waited() {
    let mesh = Mesh::new();
    let client = Arc::new(Client::new(mesh.certificate("a")));
    let dials = Arc::new(AtomicUsize::new(0));
    let release = Arc::new(Notify::new());
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (client, dials, release) = (client.clone(), dials.clone(), release.clone());
        let key = client.key("127.0.0.1:1".parse().unwrap(), mesh.id("b"));
        callers.spawn(async move {
            let dial = async move || {
                dials.fetch_add(1, Ordering::SeqCst);
                release.notified().await;
                Err(std::io::ErrorKind::HostUnreachable.into())
            };
            client
                .pool
                .connect(key, request(HeaderMap::new()), dial)
                .await
                .err()
                .unwrap()
        });
    }
    while client.pool.stats().waiting < 19 {
        tokio::task::yield_now().await;
    }
    release.notify_one();
    for error in soon(callers.join_all()).await {
        assert!(matches!(error, ConnectError::Dial { .. }), "{error:?}");
        assert_eq!((error.fault(), error.retry()), (Fault::Upstream, Retry::Safe));
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    assert_eq!(client.pool.stats(), Default::default());
}

#[tokio::test]
async fn who_waits_takes_over_from_a_dropped_caller() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let client = Arc::new(Client::new(mesh.certificate("a")));
    let leader = {
        let client = client.clone();
        let key = client.key(server.address, mesh.id("b"));
        tokio::spawn(async move {
            let never = async || std::future::pending::<std::io::Result<TcpStream>>().await;
            client
                .pool
                .connect(key, request(HeaderMap::new()), never)
                .await
                .map(drop)
        })
    };
    while client.pool.stats().destinations == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = {
        let (client, address, id) = (client.clone(), server.address, mesh.id("b"));
        tokio::spawn(async move { client.open(address, id).await.map(drop) })
    };
    while client.pool.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    leader.abort();
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(client.dialled(), 1);
}

#[tokio::test]
async fn different_identities_share_nothing() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let _one = client.open(server.address, mesh.id("b")).await.unwrap();
    let mut key = client.key(server.address, mesh.id("b"));
    key.expected.push(mesh.id("c"));
    let dial = async || TcpStream::connect(server.address).await;
    let connect = client.pool.connect(key, request(HeaderMap::new()), dial);
    let _other = soon(connect).await.unwrap();
    assert_eq!(client.pool.stats().connections, 2);
    // Nor does a failure to prove one identity leak a connection to another: same port, wrong name.
    assert!(client.open(server.address, mesh.id("z")).await.is_err());
    assert_eq!(client.pool.stats().connections, 2);
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_new_streams() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let mut client = Client::new(mesh.certificate("a"));
    let (mut old, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    client.certificate = mesh.certificate("a");
    let _new = client.open(server.address, mesh.id("b")).await.unwrap();
    assert_eq!(client.dialled(), 2);
    old.write_all(b"x").await.unwrap();
    soon(old.read_exact(&mut [0; 1]))
        .await
        .expect("the old stream goes on");
}

#[tokio::test]
async fn a_full_connection_takes_new_streams_when_old_ones_end() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let config = PoolConfig {
        streams_per_connection: 2,
        max_connections: 1,
        ..PoolConfig::default()
    };
    let client = Arc::new(Client::with(mesh.certificate("a"), config));
    let (first, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    let _second = client.open(server.address, mesh.id("b")).await.unwrap();
    let waiting = {
        let (client, address, id) = (client.clone(), server.address, mesh.id("b"));
        tokio::spawn(async move { client.open(address, id).await.map(drop) })
    };
    while client.pool.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    drop(first);
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(client.dialled(), 1);
}

#[tokio::test]
async fn new_streams_go_to_the_least_loaded_connection() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let config = PoolConfig {
        streams_per_connection: 3,
        ..PoolConfig::default()
    };
    let client = Client::with(mesh.certificate("a"), config);
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(client.open(server.address, mesh.id("b")).await.unwrap());
    }
    assert_eq!(client.dialled(), 2);
    // Two places become free on the first connection and one on the second.
    drop((streams.remove(0), streams.remove(0), streams.pop()));
    for _ in 0..3 {
        streams.push(client.open(server.address, mesh.id("b")).await.unwrap());
    }
    assert_eq!(client.dialled(), 2);
}

#[tokio::test]
async fn idle_connections_make_room_and_busy_ones_do_not() {
    let mesh = Mesh::new();
    let servers = [
        mesh.server("b", Echo).await,
        mesh.server("b", Echo).await,
        mesh.server("b", Echo).await,
    ];
    let config = PoolConfig {
        max_connections: 2,
        ..PoolConfig::default()
    };
    let client = Client::with(mesh.certificate("a"), config);
    let open = |server: &Server| client.open(server.address, mesh.id("b"));
    let (idle, _) = open(&servers[0]).await.unwrap();
    let _busy = open(&servers[1]).await.unwrap();
    let error = open(&servers[2]).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::Exhausted { limit: 2, .. }),
        "{error:?}"
    );
    assert_eq!(error.fault(), Fault::Mesh);
    drop(idle);
    let _third = open(&servers[2]).await.unwrap();
    assert_eq!(client.pool.stats().connections, 2);
}

#[tokio::test]
async fn a_refusal_carries_status_and_reason() {
    let mesh = Mesh::new();
    let refuse = Refuse(StatusCode::UNAUTHORIZED, "policy \"deny-all\" of test");
    let server = mesh.server("b", refuse).await;
    let client = Client::new(mesh.certificate("a"));
    let error = client.open(server.address, mesh.id("b")).await.err().unwrap();
    assert_eq!((error.fault(), error.retry()), (Fault::Client, Retry::Never));
    match error {
        ConnectError::Refused { status, reason, .. } => {
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert_eq!(reason, "policy \"deny-all\" of test");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.pool.stats().streams, 0);
}

#[tokio::test]
async fn a_dead_pooled_connection_is_replaced_without_an_error() {
    let mesh = Mesh::new();
    let certificate = mesh.certificate("b");
    let mut server = Server::start(&certificate, Echo).await;
    let client = Client::new(mesh.certificate("a"));
    for _ in 0..20 {
        client
            .open(server.address, mesh.id("b"))
            .await
            .map(drop)
            .expect("no caller sees the change");
        // The process is replaced by another on the same port, as an agent's upgrade does.
        let address = server.address;
        server.kill().await;
        server = Server::start_at(address, &certificate, Echo).await;
    }
    assert!(client.dialled() >= 20);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_place_has_an_end() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let config = PoolConfig {
        streams_per_connection: 1,
        max_connections: 1,
        max_waiting: 1,
        ..PoolConfig::default()
    };
    let client = Arc::new(Client::with(mesh.certificate("a"), config));
    let _busy = client.open(server.address, mesh.id("b")).await.unwrap();
    let waiting = {
        let (client, address, id) = (client.clone(), server.address, mesh.id("b"));
        tokio::spawn(async move { client.open(address, id).await.err().unwrap() })
    };
    while client.pool.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    let error = client.open(server.address, mesh.id("b")).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::Exhausted { limit: 1, .. }),
        "{error:?}"
    );
    let before = tokio::time::Instant::now();
    let error = waiting.await.unwrap();
    assert!(
        error
            .to_string()
            .contains("no connection became free within 10 s"),
        "{error}"
    );
    assert!(before.elapsed() <= Duration::from_secs(11));
}
