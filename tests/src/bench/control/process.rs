//! The control plane's process, beside the cluster rather than in it: so that its time and memory are its own.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::api::Api;
use super::{ControlBenchError, io, objects};
use crate::bench::usage;

const PROGRAM: &str = "aquifer-control";
/// Between two looks at a readiness page, which tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Of its log, when it ends too early.
const LAST_WORDS: usize = 2000;

pub(super) struct ControlProcess {
    child: Child,
    grpc: u16,
    monitoring: u16,
    folder: TempDir,
}

impl ControlProcess {
    pub(super) fn start(kubeconfig: &Path) -> Result<Self, ControlBenchError> {
        let program = program()?;
        let folder =
            tempfile::tempdir().map_err(|source| io("make", Path::new("a temporary folder"), source))?;
        let log = folder.path().join("log");
        let output = fs::File::create(&log).map_err(|source| io("write", &log, source))?;
        let (grpc, monitoring) = (free_port()?, free_port()?);
        // Whatever ends this program ends it, too.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&program)
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAME", "bench")
            .env("POD_NAMESPACE", objects::MESH_NAMESPACE)
            .env("AQUIFER_GRPC_LISTEN", format!("127.0.0.1:{grpc}"))
            .env("AQUIFER_MONITORING_LISTEN", format!("127.0.0.1:{monitoring}"))
            .env("AQUIFER_WEBHOOK_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(|source| io("run", &program, source))?;
        Ok(Self {
            child,
            grpc,
            monitoring,
            folder,
        })
    }

    /// Waits until it serves.
    pub(super) async fn ready(&mut self, patience: Duration) -> Result<(), ControlBenchError> {
        let deadline = Instant::now() + patience;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.monitoring));
        while !is_ready(address).await {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(ControlBenchError::Ended(status.to_string(), self.last_words()));
            }
            if Instant::now() > deadline {
                return Err(ControlBenchError::Late("readiness", patience));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// By name, as its certificate has it.
    pub(super) fn grpc(&self) -> String {
        format!("localhost:{}", self.grpc)
    }

    /// The root certificate, as any pod finds it, in a file.
    pub(super) async fn root_certificate(&self, api: &Api) -> Result<PathBuf, ControlBenchError> {
        let namespace = objects::MESH_NAMESPACE;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert");
        let map = loop {
            match api.get(&path).await {
                Ok(map) => break map,
                Err(error) => tracing::debug!(%error, "no root certificate yet"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let pem = map["data"]["root-cert.pem"].as_str().unwrap_or_default();
        let file = self.folder.path().join("root-cert.pem");
        fs::write(&file, pem).map_err(|source| io("write", &file, source))?;
        Ok(file)
    }

    pub(super) fn cpu_seconds(&self) -> f64 {
        usage::of_process(self.child.id()).map_or(0.0, |share| share.cpu_seconds)
    }

    pub(super) fn resident_megabytes(&self) -> f64 {
        usage::of_process(self.child.id()).map_or(0.0, |share| share.rss_megabytes)
    }

    /// The most that it ever had.
    pub(super) fn peak_megabytes(&self) -> f64 {
        usage::peak_megabytes(self.child.id()).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let mut text = String::new();
        if let Ok(mut log) = fs::File::open(self.folder.path().join("log")) {
            // What cannot be read is not told; the exit status is.
            drop(log.read_to_string(&mut text));
        }
        let from = text.floor_char_boundary(text.len().saturating_sub(LAST_WORDS));
        text.split_off(from)
    }
}

impl Drop for ControlProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    ask.await.is_ok_and(|answer| answer.ends_with(b" 200"))
}

/// A port that nobody listens at now; the process takes it a moment later.
fn free_port() -> Result<u16, ControlBenchError> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|source| io("find a free port of", Path::new("127.0.0.1"), source))
}

/// Beside this program.
fn program() -> Result<PathBuf, ControlBenchError> {
    let this = std::env::current_exe().map_err(|source| io("find", Path::new("this program"), source))?;
    Ok(this.with_file_name(PROGRAM))
}
