//! Configuration that changes under load, and the graceful end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Request;

use crate::testing::app::Named;
use crate::testing::client::app;
use crate::testing::model::{REVIEWS, route, split, to};
use crate::testing::{DEADLINE, Mesh, ip};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_change_under_load_without_a_failure() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (
        mesh.pod(11, "v1", Named("v1")).await,
        mesh.pod(12, "v2", Named("v2")).await,
    );
    mesh.cluster("v1", vec![v1]);
    mesh.cluster("v2", vec![v2]);
    mesh.reviews_listener();
    mesh.routes(vec![route("r", to("v1"))]);
    let waypoint = mesh.waypoint().await;
    let done = Arc::new(AtomicBool::new(false));
    let load = async |n: u8| {
        let client = mesh.client(waypoint, "productpage", ip(50 + n));
        let mut http = client.http(REVIEWS).await;
        let mut sent = 0u32;
        while !done.load(Ordering::Relaxed) {
            let response = http.send(Request::get("/"), Bytes::new()).await;
            assert_eq!(response.status(), 200, "{:?}", response.body());
            sent += 1;
        }
        sent
    };
    let change = async {
        let client = mesh.client(waypoint, "productpage", ip(60));
        for round in 0..40u32 {
            let (a, b) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
            mesh.routes(vec![route("r", split(&[("v1", a), ("v2", b)]))]);
            // The change is in force with the next request: nothing waits, nothing is lost.
            let response = client.get(REVIEWS, "/").await;
            assert_eq!(app(&response), if b == 1 { "v2" } else { "v1" });
        }
        done.store(true, Ordering::Relaxed);
    };
    let (a, b, c, ()) = tokio::join!(load(0), load(1), load(2), change);
    assert!(a > 0 && b > 0 && c > 0);
}

#[tokio::test]
async fn endpoints_change_without_touching_the_connections_of_others() {
    let mesh = Mesh::start().await;
    let (a, b) = (
        mesh.pod(11, "v1", Named("a")).await,
        mesh.pod(12, "v1", Named("b")).await,
    );
    mesh.cluster("v1", vec![a.clone()]);
    mesh.reviews_listener();
    mesh.routes(vec![route("r", to("v1"))]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut http = client.http(REVIEWS).await;
    let mut ask = async || app(&http.send(Request::get("/"), Bytes::new()).await).to_owned();
    assert_eq!(ask().await, "a");
    mesh.cluster("v1", vec![a, b.clone()]);
    let seen = [ask().await, ask().await];
    assert!(
        seen.contains(&"a".to_owned()) && seen.contains(&"b".to_owned()),
        "{seen:?}"
    );
    mesh.cluster("v1", vec![b]);
    assert_eq!(ask().await, "b");
}

/// Reviews, of which there is one version with one pod.
async fn with_one_version() -> Mesh {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.cluster("v1", vec![pod]);
    mesh.reviews_listener();
    mesh.routes(vec![route("r", to("v1"))]);
    mesh
}

#[tokio::test]
async fn who_comes_while_it_leaves_is_served_and_asked_to_come_on_another_connection() {
    let mesh = with_one_version().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut before = client.http(REVIEWS).await;
    let response = before.send(Request::get("/"), Bytes::new()).await;
    assert_eq!(response.headers().get("connection"), None);
    mesh.proxy.leaving.begin();
    for http in [&mut before, &mut client.http(REVIEWS).await] {
        let response = http.send(Request::get("/"), Bytes::new()).await;
        assert_eq!((response.status().as_u16(), app(&response)), (200, "v1"));
        assert_eq!(response.headers()["connection"], "close");
        assert!(http.try_send(Request::get("/"), Bytes::new()).await.is_err());
    }
}

#[tokio::test]
async fn a_drain_finishes_what_has_begun_and_takes_nothing_more() {
    let mesh = with_one_version().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut http = client.http(REVIEWS).await;
    assert_eq!(http.send(Request::get("/"), Bytes::new()).await.status(), 200);
    mesh.drain.cancel();
    mesh.connections.close();
    tokio::time::timeout(DEADLINE, mesh.connections.wait())
        .await
        .unwrap();
    assert!(http.try_send(Request::get("/"), Bytes::new()).await.is_err());
}
