//! A control plane's process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{PATIENCE, World};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(crate) struct Control {
    child: Child,
    grpc: u16,
    monitoring: u16,
    log: PathBuf,
}

/// Of this machine's loopback.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) grpc: u16,
    pub(crate) monitoring: u16,
}

impl Control {
    pub(crate) fn start(world: &World, name: &str, peers: &[u16]) -> Self {
        Self::start_on(world, name, free_port(), peers)
    }

    pub(crate) fn start_on(world: &World, name: &str, monitoring: u16, peers: &[u16]) -> Self {
        let grpc = free_port();
        Self::start_with(world, name, Ports { grpc, monitoring }, peers, &[])
    }

    /// With these variables, where they are not of the tests' own.
    pub(crate) fn start_with(
        world: &World,
        name: &str,
        Ports { grpc, monitoring }: Ports,
        peers: &[u16],
        variables: &[(String, String)],
    ) -> Self {
        let log = world.file(&format!("{name}.log"));
        let peers: Vec<String> = peers.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let child = Command::new(programs().join("aquifer-control"))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env("KUBECONFIG", world.kubeconfig())
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", "istio-system")
            .env("AQUIFER_GRPC_LISTEN", format!("127.0.0.1:{grpc}"))
            .env("AQUIFER_MONITORING_LISTEN", format!("127.0.0.1:{monitoring}"))
            .env("AQUIFER_TRUSTED_NODE_ACCOUNTS", "istio-system/aquifer-agent")
            .env("AQUIFER_WAYPOINT_LINGER", "1")
            // Longer than a replica takes to hear of the proxies of the others.
            .env("AQUIFER_ROOT_ANNOUNCE", "3")
            .envs((!peers.is_empty()).then(|| ("AQUIFER_PEERS", peers.join(","))))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        world.pages_at(monitoring);
        Self {
            child,
            grpc,
            monitoring,
            log,
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.grpc)
    }

    pub(crate) fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            assert!(Instant::now() < deadline, "not ready; its log: {}", self.text());
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        page(self.monitoring, "/ready").is_ok()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether one of its lines has all of that.
    pub(crate) fn said_together(&self, words: &[&str]) -> bool {
        self.text()
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Whether one of its lines has all the words of the first, and a later one all of the next.
    pub(crate) fn said_in_order(&self, lines: &[&[&str]]) -> bool {
        let text = self.text();
        let mut said = text.lines();
        let mut later = |words: &&[&str]| said.any(|line| words.iter().all(|word| line.contains(word)));
        lines.iter().all(&mut later)
    }

    /// How often it logged that.
    pub(crate) fn said(&self, words: &str) -> usize {
        self.text().matches(words).count()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it says about its authority; nothing where it does not answer.
    pub(crate) fn authority(&self) -> serde_json::Value {
        let text = page(self.monitoring, "/debug/ca").unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn ends_in_order(mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}; its log: {}", self.text());
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.text());
        }
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The body of a page that answers 200.
pub(crate) fn page(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return Ok(body.to_owned());
    }
    Err(io::Error::other(head.to_owned()))
}

/// A port that nobody listens at now, and that nobody here was given before: the process takes it a moment later.
pub(crate) fn free_port() -> u16 {
    let any = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let port = std::iter::repeat_with(any).find(|port| !given.contains(port));
    let port = port.expect("there are more ports than this process takes");
    given.push(port);
    port
}

/// Ports that processes were told to listen at.
static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// The folder of the product's programs: beside the one that the tests are in.
pub(crate) fn programs() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().and_then(Path::parent).unwrap();
    for program in ["aquifer-control", "aquifer-waypoint"] {
        assert!(
            folder.join(program).exists(),
            "no {program} in {}: cargo build --profile lab --workspace --bins",
            folder.display()
        );
    }
    folder.to_owned()
}
