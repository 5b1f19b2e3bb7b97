//! The real Envoy: its configuration in a folder, its process, and requests to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aquifer_xds::envoy::pb::envoy::config::route::v3::RouteConfiguration;
use aquifer_xds::envoy::pb::envoy::service::discovery::v3::DiscoveryResponse;
use aquifer_xds::envoy::pb::google::protobuf::Any;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::{Message, Name};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::generate::CLUSTERS;
use crate::ours::changed;
use crate::upstream::{self, Upstream};
use crate::{CrossOrigin, Outcome, Paths, Sent};

const DEADLINE: Duration = Duration::from_secs(60);
/// The file where Envoy writes the address of its administration.
const ADMIN: &str = "admin";

/// Source labels come as headers; the route is chosen again once they are metadata. The route's name goes back.
const LUA: &str = r#"
function envoy_on_request(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  for name, value in pairs(handle:headers()) do
    if string.sub(name, 1, 8) == "x-label-" then
      metadata:set("aquifer.source", string.sub(name, 9), value)
    elseif name == "x-namespace" then
      metadata:set("aquifer.source_namespace", "name", value)
    end
  end
  handle:clearRouteCache()
end
function envoy_on_response(handle)
  handle:headers():replace("x-route", handle:streamInfo():routeName())
end
"#;

/// Where the binary is, if it is anywhere.
pub(crate) fn binary() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/envoy/envoy/_bin/envoy");
    let named = std::env::var_os("AQUIFER_ENVOY").map(PathBuf::from);
    [named, Some(installed)]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

/// A running Envoy; it ends with this value.
pub(crate) struct Envoy {
    process: Child,
    ports: Vec<SocketAddr>,
    _folder: TempDir,
    _upstreams: Vec<Upstream>,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts Envoy with a listener for each table, and waits until it serves.
pub(crate) async fn start(binary: &Path, tables: &[RouteConfiguration], paths: Paths) -> Envoy {
    let folder = tempfile::tempdir().unwrap();
    let mut upstreams = Vec::new();
    for name in CLUSTERS {
        upstreams.push(upstream::start(name).await);
    }
    for table in tables {
        std::fs::write(rds_file(folder.path(), &table.name), discovery(table)).unwrap();
    }
    let bootstrap = bootstrap(tables, folder.path(), &upstreams, paths);
    let config = folder.path().join("envoy.json");
    std::fs::write(&config, bootstrap.to_string()).unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let process = Command::new(binary)
        .arg("-c")
        .arg(&config)
        .arg("--admin-address-path")
        .arg(folder.path().join(ADMIN))
        .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut envoy = Envoy {
        process,
        ports: Vec::new(),
        _folder: folder,
        _upstreams: upstreams,
    };
    let admin = envoy.wait_until_ready().await;
    envoy.ports = listening(admin, tables).await;
    envoy
}

/// Where Envoy listens for each table: it has chosen its ports itself, so that nobody can come before it.
async fn listening(admin: SocketAddr, tables: &[RouteConfiguration]) -> Vec<SocketAddr> {
    let response = exchange(admin, from_admin("/listeners?format=json"))
        .await
        .unwrap();
    let all: Value = serde_json::from_slice(response.body()).unwrap();
    let all = all["listener_statuses"].as_array().unwrap();
    let port = |table: &RouteConfiguration| {
        let own = all.iter().find(|listener| listener["name"] == *table.name);
        let port = &own.unwrap()["local_address"]["socket_address"]["port_value"];
        u16::try_from(port.as_u64().unwrap()).unwrap()
    };
    let address = |table| SocketAddr::from((Ipv4Addr::LOCALHOST, port(table)));
    tables.iter().map(address).collect()
}

fn from_admin(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", "admin");
    request.body(Empty::new()).unwrap()
}

fn rds_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.pb"))
}

fn discovery(table: &RouteConfiguration) -> Vec<u8> {
    let resource = Any {
        type_url: RouteConfiguration::type_url(),
        value: table.encode_to_vec(),
    };
    let response = DiscoveryResponse {
        version_info: "1".into(),
        type_url: RouteConfiguration::type_url(),
        resources: vec![resource],
        ..DiscoveryResponse::default()
    };
    response.encode_to_vec()
}

fn bootstrap(tables: &[RouteConfiguration], folder: &Path, upstreams: &[Upstream], paths: Paths) -> Value {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners = tables
        .iter()
        .map(|table| listener(&table.name, any, folder, paths));
    let clusters = CLUSTERS
        .iter()
        .zip(upstreams)
        .map(|(name, upstream)| cluster(name, upstream.address));
    json!({
        "node": { "id": "oracle", "cluster": "oracle" },
        "admin": { "address": socket(any) },
        "static_resources": {
            "listeners": listeners.collect::<Vec<_>>(),
            "clusters": clusters.collect::<Vec<_>>(),
        },
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn listener(table: &str, address: SocketAddr, folder: &Path, paths: Paths) -> Value {
    let typed = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    json!({
        "name": table,
        "address": socket(address),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": typed("network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": table,
                "normalize_path": paths == Paths::Normalised,
                "merge_slashes": paths == Paths::Normalised,
                "rds": {
                    "route_config_name": table,
                    "config_source": { "path_config_source": { "path": rds_file(folder, table) } },
                },
                "http_filters": [
                    { "name": "lua", "typed_config": {
                        "@type": typed("http.lua.v3.Lua"),
                        "default_source_code": { "inline_string": LUA },
                    }},
                    { "name": "envoy.filters.http.cors", "typed_config": { "@type": typed("http.cors.v3.Cors") } },
                    { "name": "envoy.filters.http.router", "typed_config": { "@type": typed("http.router.v3.Router") } },
                ],
            },
        }]}],
    })
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(address) } }] }],
        },
    })
}

impl Envoy {
    /// Where its administration listens, once it is ready.
    async fn wait_until_ready(&mut self) -> SocketAddr {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            if let Some(admin) = self.admin()
                && let Some(answer) = exchange(admin, from_admin("/ready")).await
                && answer.status() == StatusCode::OK
            {
                return admin;
            }
            let ended = self.process.try_wait().unwrap();
            let late = tokio::time::Instant::now() > deadline;
            assert!(
                ended.is_none() && !late,
                "envoy did not start: {ended:?}\n{}",
                self.log()
            );
        }
    }

    fn admin(&self) -> Option<SocketAddr> {
        let text = std::fs::read_to_string(self._folder.path().join(ADMIN)).ok()?;
        text.trim().parse().ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self._folder.path().join("log")).unwrap_or_default()
    }

    /// What Envoy does with a request to the table of that number.
    pub(crate) async fn send(&self, table: usize, sent: &Sent) -> Outcome {
        outcome(&self.exchange(table, sent).await)
    }

    /// How Envoy answers a cross-origin request.
    pub(crate) async fn cross_origin(&self, table: usize, sent: &Sent) -> CrossOrigin {
        let response = self.exchange(table, sent).await;
        CrossOrigin {
            forwarded: response.headers().contains_key("x-app"),
            status: response.status().as_u16(),
            grants: grants(response.headers()),
        }
    }

    async fn exchange(&self, table: usize, sent: &Sent) -> Response<Bytes> {
        let mut request = Request::builder()
            .method(sent.method)
            .uri(&sent.target)
            .header("host", &sent.host);
        for (name, value) in &sent.headers {
            request = request.header(*name, *value);
        }
        for (key, value) in &sent.labels {
            request = request.header(format!("x-label-{key}"), *value);
        }
        if let Some(namespace) = sent.namespace {
            request = request.header("x-namespace", namespace);
        }
        let request = request.body(Empty::new()).unwrap();
        let response = exchange(self.ports[table], request).await;
        response.unwrap_or_else(|| panic!("no answer to {sent:?}\n{}", self.log()))
    }
}

/// What a response grants other origins.
pub(crate) fn grants(headers: &HeaderMap) -> Vec<(String, String)> {
    let named = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-"));
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut grants: Vec<_> = named
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    grants.sort();
    grants
}

async fn exchange(address: SocketAddr, request: Request<Empty<Bytes>>) -> Option<Response<Bytes>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driving = tokio::spawn(connection);
    let response = tokio::time::timeout(DEADLINE, sender.send_request(request))
        .await
        .ok()?
        .ok()?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    driving.abort();
    Some(Response::from_parts(parts, body))
}

fn outcome(response: &Response<Bytes>) -> Outcome {
    let headers = response.headers();
    let one = |name: &str| values(headers, name).into_iter().next().unwrap_or_default();
    let status = response.status().as_u16();
    let body = String::from_utf8_lossy(response.body()).into_owned();
    let cluster = one("x-app");
    let forwarded = !cluster.is_empty();
    Outcome {
        status,
        route: one("x-route"),
        target: one("x-seen-target"),
        host: one("x-seen-host"),
        headers: if forwarded {
            changed(|name| values(headers, &format!("x-seen-{name}")))
        } else {
            Vec::new()
        },
        location: one("location"),
        body,
        cluster,
    }
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    let all = headers.get_all(name).iter();
    all.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect()
}
