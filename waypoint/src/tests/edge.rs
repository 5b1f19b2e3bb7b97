//! TLS of clients outside the mesh, on real sockets, for a client that others wrote.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;

use aquifer_core::http::cluster::{Endpoint, Transport};
use aquifer_core::http::listener::{Binding, Chain, Chains, Listener, ListenerProtocol};
use aquifer_core::http::server_tls::{ClientCertificates, ServerTls, TlsVersions};
use aquifer_core::http::table::{HostPort, RouteTable, VirtualHost};
use aquifer_identity::edge::{EdgeSecret, HelloReader, ServerKeyPair};
use aquifer_telemetry::readiness::Readiness;
use aquifer_xds::envoy::Secret;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::sockets::Sockets;
use crate::state::Changes;
use crate::testing::app::Named;
use crate::testing::model::{http_protocol, route, tcp_protocol, to};
use crate::testing::{DEADLINE, Mesh, endpoint, free_port, ip, listen};

/// A gateway with a server for each of two hosts, and one that passes on the TLS of others.
struct Gateway {
    mesh: Mesh,
    address: SocketAddr,
    folder: tempfile::TempDir,
    /// Where TLS goes that is passed on.
    behind: TcpListener,
}

fn tls(secret: &str) -> ServerTls {
    ServerTls {
        certificates: vec![secret.into()],
        clients: ClientCertificates::NotAsked,
        versions: TlsVersions::default(),
        cipher_suites: Vec::new(),
        alpn: vec!["h2".into(), "http/1.1".into()],
    }
}

fn chain(host: &str, tls: Option<ServerTls>, protocol: ListenerProtocol) -> Chain {
    Chain {
        server_names: vec![host.into()],
        tls,
        ..Chain::plain(host, protocol)
    }
}

impl Gateway {
    async fn start() -> Self {
        let mesh = Mesh::start().await;
        let pod = mesh.pod(11, "productpage", Named("productpage")).await;
        mesh.cluster("productpage", vec![pod]);
        let address = free_port().await;
        let behind = listen(ip(1)).await;
        let passed = Endpoint {
            transport: Transport::Plaintext,
            ..endpoint(behind.local_addr().unwrap(), "vault")
        };
        mesh.cluster("vault", vec![passed]);
        let gateway = Self {
            mesh,
            address,
            folder: tempfile::tempdir().unwrap(),
            behind,
        };
        gateway.listen();
        gateway
    }

    fn listen(&self) {
        for host in ["a.example", "b.example"] {
            let table = VirtualHost {
                name: host.into(),
                domains: vec![host.into()],
                routes: vec![route(host, to("productpage"))],
                ..VirtualHost::default()
            };
            let table = RouteTable::new(host, HostPort::Ignored, vec![table]).unwrap();
            self.mesh.writer.lock().routes(Changes {
                put: vec![table],
                remove: Vec::new(),
            });
        }
        let chains = vec![
            chain("a.example", Some(tls("cert-a")), http_protocol("a.example", true)),
            chain("b.example", Some(tls("cert-b")), http_protocol("b.example", true)),
            chain("*.example", None, tcp_protocol("vault")),
        ];
        self.mesh.listener(Listener {
            name: "edge".into(),
            addresses: vec![self.address],
            binding: Binding::Bound,
            chains: Chains::new(chains).unwrap(),
        });
        let sockets = Sockets::new(
            self.mesh.proxy.clone(),
            self.mesh.drain.clone(),
            self.mesh.connections.clone(),
            0,
        );
        let up = Readiness::default().wait_for("listeners", "sockets");
        self.mesh.connections.spawn(sockets.run(up));
    }

    /// Gives a server a new certificate, which clients trust from then on.
    fn certify(&self, secret: &str, host: &str) {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(self.folder.path().join(host), &chain).unwrap();
        let pair = ServerKeyPair::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        self.mesh.writer.lock().secrets(Changes {
            put: vec![Secret {
                name: secret.into(),
                content: EdgeSecret::KeyPair(Arc::new(pair)),
            }],
            remove: Vec::new(),
        });
    }

    /// What curl says of a request: status, version of HTTP, and its own complaint.
    async fn ask(&self, server: &str, more: &[&str]) -> (String, String) {
        let port = self.address.port();
        let output: Output = Command::new("curl")
            .args(["-sS", "-o", "/dev/null", "--max-time", "60"])
            .args(["-w", "%{http_code} %{http_version}"])
            .args(["--resolve", &format!("{server}:{port}:127.0.0.1")])
            .arg("--cacert")
            .arg(self.folder.path().join(server))
            .args(more)
            .arg(format!("https://{server}:{port}/"))
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    }

    async fn up(&self) {
        let connected = async {
            while TcpStream::connect(self.address).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, connected).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_chooses_its_server_and_a_server_without_a_certificate_is_closed_alone() {
    let gateway = Gateway::start().await;
    gateway.up().await;
    gateway.certify("cert-a", "a.example");
    std::fs::write(gateway.folder.path().join("b.example"), "").unwrap();
    std::fs::write(gateway.folder.path().join("x.org"), "").unwrap();
    assert_eq!(
        gateway.ask("a.example", &[]).await,
        ("200 2".into(), String::new())
    );
    assert_eq!(gateway.ask("a.example", &["--http1.1"]).await.0, "200 1.1");
    assert_eq!(gateway.ask("b.example", &["-k"]).await.0, "000 0");
    assert_eq!(gateway.ask("x.org", &["-k"]).await.0, "000 0");
    // On the connection of another server: of a host of the listener, and of none.
    assert_eq!(
        gateway.ask("a.example", &["-H", "host: b.example"]).await.0,
        "421 2"
    );
    assert_eq!(gateway.ask("a.example", &["-H", "host: x.org"]).await.0, "404 2");

    gateway.certify("cert-b", "b.example");
    assert_eq!(
        gateway.ask("b.example", &[]).await,
        ("200 2".into(), String::new())
    );
    // A new certificate is shown at once; the old one is not trusted any more by this client.
    gateway.certify("cert-a", "a.example");
    assert_eq!(
        gateway.ask("a.example", &[]).await,
        ("200 2".into(), String::new())
    );

    let removed = vec!["cert-a".to_owned()];
    gateway.mesh.writer.lock().secrets(Changes {
        put: Vec::new(),
        remove: removed,
    });
    assert_eq!(gateway.ask("a.example", &["-k"]).await.0, "000 0");
    assert_eq!(gateway.ask("b.example", &[]).await.0, "200 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_on_is_not_touched() {
    let gateway = Gateway::start().await;
    gateway.up().await;
    std::fs::write(gateway.folder.path().join("c.example"), "").unwrap();
    let asking = gateway.ask("c.example", &["-k"]);
    let behind = async {
        let (mut stream, _) = gateway.behind.accept().await.unwrap();
        let mut reader = HelloReader::default();
        let mut piece = [0; 512];
        loop {
            let read = stream.read(&mut piece).await.unwrap();
            assert_ne!(read, 0, "the client's message came whole");
            if let Some(hello) = reader.read(&piece[..read]).unwrap() {
                return hello.server_name;
            }
        }
    };
    // The server behind hangs up without an answer, and so does the gateway.
    let (answer, name) = tokio::join!(asking, behind);
    assert_eq!(name.as_deref(), Some("c.example"));
    assert_eq!(answer.0, "000 0");
}
