//! Real sockets: listeners come and go while others serve.

use std::net::SocketAddr;

use aquifer_core::http::listener::Binding;
use aquifer_core::http::table::VirtualHost;
use aquifer_core::snapshot::Change;
use aquifer_telemetry::readiness::Readiness;
use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::sockets::Sockets;
use crate::state::Changes;
use crate::testing::app::{Named, Socket};
use crate::testing::client::{Http, app};
use crate::testing::model::{http_listener, route, to};
use crate::testing::{DEADLINE, Mesh, free_port};

async fn connect(address: SocketAddr) -> TcpStream {
    let connecting = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, connecting).await.unwrap()
}

#[tokio::test]
async fn serves_hosts_and_changes_listeners_live() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "productpage", Named("productpage")).await;
    mesh.cluster("productpage", vec![pod]);
    mesh.table(vec![VirtualHost {
        name: "shop".into(),
        domains: vec!["shop.example".into()],
        routes: vec![route("r", to("productpage"))],
        ..VirtualHost::default()
    }]);
    let (first, second) = (free_port().await, free_port().await);
    mesh.listener(http_listener("first", &first.to_string(), Binding::Bound));
    let sockets = Sockets::new(
        mesh.proxy.clone(),
        mesh.drain.clone(),
        mesh.connections.clone(),
        0,
    );
    let up = Readiness::default().wait_for("listeners", "sockets");
    mesh.connections.spawn(sockets.run(up));

    let mut http = Http::over(connect(first).await).await;
    let mut ask = async |host: &str| {
        let request = Request::get("/")
            .header("host", host)
            .header("x-forwarded-for", "9.9.9.9");
        http.send(request, Bytes::new()).await
    };
    let response = ask(&format!("shop.example:{}", first.port())).await;
    assert_eq!(app(&response), "productpage");
    assert_eq!(response.headers()["x-seen-x-forwarded-for"], "9.9.9.9,127.0.0.1");
    assert_eq!(ask("other.example").await.status(), 404);

    mesh.listener(http_listener("second", &second.to_string(), Binding::Bound));
    let mut other = Http::over(connect(second).await).await;
    let request = || Request::get("/").header("host", "shop.example");
    assert_eq!(other.send(request(), Bytes::new()).await.status(), 200);
    // The first connection was not disturbed.
    assert_eq!(ask("shop.example").await.status(), 200);

    let remove = vec!["second".to_owned()];
    mesh.writer.lock().listeners(Changes { put: vec![], remove });
    let refused = async {
        while TcpStream::connect(second).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.unwrap();
    assert_eq!(ask("shop.example").await.status(), 200);
}

/// Whether the gateway keeps the connection: one that it refuses ends at once.
async fn is_kept(http: &mut TcpStream) -> bool {
    let ask = b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    let mut byte = [0];
    http.write_all(ask).await.is_ok() && matches!(http.read(&mut byte).await, Ok(1))
}

#[tokio::test]
async fn a_client_has_no_more_connections_than_its_share() {
    let mesh = Mesh::start().await;
    mesh.table(Vec::new());
    let address = free_port().await;
    mesh.listener(http_listener("first", &address.to_string(), Binding::Bound));
    let (proxy, drain, connections) = (mesh.proxy.clone(), mesh.drain.clone(), mesh.connections.clone());
    let sockets = Sockets::new(proxy, drain, connections, 2);
    let up = Readiness::default().wait_for("listeners", "sockets");
    mesh.connections.spawn(sockets.run(up));

    let (mut first, mut second) = (connect(address).await, connect(address).await);
    assert!(is_kept(&mut first).await && is_kept(&mut second).await);
    assert!(!is_kept(&mut connect(address).await).await);
    let counted = "aquifer_gateway_connections_refused_total{limit=\"client\"} 1";
    mesh.counts(counted, |metrics| metrics.contains(counted)).await;
    drop(first);
    let again = async { while !is_kept(&mut connect(address).await).await {} };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
    assert!(is_kept(&mut second).await, "the others go on");
}

/// HTTP is over on such a connection, the connection is not.
#[tokio::test]
async fn a_websocket_counts_as_long_as_it_is_open() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Socket).await;
    mesh.cluster("v1", vec![pod]);
    mesh.table(vec![VirtualHost {
        name: "shop".into(),
        domains: vec!["shop.example".into()],
        routes: vec![route("r", to("v1"))],
        ..VirtualHost::default()
    }]);
    let address = free_port().await;
    mesh.listener(http_listener("first", &address.to_string(), Binding::Bound));
    let (proxy, drain, connections) = (mesh.proxy.clone(), mesh.drain.clone(), mesh.connections.clone());
    let sockets = Sockets::new(proxy, drain, connections, 1);
    let up = Readiness::default().wait_for("listeners", "sockets");
    mesh.connections.spawn(sockets.run(up));

    let mut socket = connect(address).await;
    let ask = b"GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(ask).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    // Both directions, so that hyper has let go of the connection.
    socket.write_all(b"frame").await.unwrap();
    let mut frame = [0; 5];
    socket.read_exact(&mut frame).await.unwrap();
    for _ in 0..3 {
        assert!(!is_kept(&mut connect(address).await).await);
    }
    drop(socket);
    let again = async { while !is_kept(&mut connect(address).await).await {} };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
}

#[tokio::test]
async fn strangers_wait_outside_until_a_gateway_knows_its_own_pod() {
    let mesh = Mesh::start().await;
    mesh.table(Vec::new());
    let address = free_port().await;
    mesh.listener(http_listener("first", &address.to_string(), Binding::Bound));
    let own = mesh
        .proxy
        .shared
        .mesh()
        .workload(&mesh.proxy.own)
        .cloned()
        .unwrap();
    let gone = Change::RemoveAddress(own.uid.as_str().into());
    mesh.writer.lock().mesh(vec![gone.clone()]);
    let (proxy, drain, connections) = (mesh.proxy.clone(), mesh.drain.clone(), mesh.connections.clone());
    let sockets = Sockets::new(proxy, drain, connections, 0);
    let up = Readiness::default().wait_for("listeners", "sockets");
    mesh.connections.spawn(sockets.run(up));

    assert!(
        !is_kept(&mut connect(address).await).await,
        "its policies are unknown"
    );
    mesh.writer.lock().mesh(vec![Change::Workload(own)]);
    let mut kept = connect(address).await;
    assert!(is_kept(&mut kept).await);
    // A pod that is leaving keeps what it has.
    mesh.writer.lock().mesh(vec![gone]);
    assert!(is_kept(&mut kept).await);
    assert!(!is_kept(&mut connect(address).await).await);
}
