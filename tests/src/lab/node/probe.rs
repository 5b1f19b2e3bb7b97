//! Readiness, liveness and startup probes, as a kubelet runs them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::FromNode;

/// Until the first success a probe runs this often: a lab should be up in seconds, not in periods.
const EAGER: Duration = Duration::from_millis(150);
/// As much of a response as a status line needs.
const MAX_HEAD: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeSpec {
    /// Pod, container, start and kind; reports repeat it.
    pub(crate) id: String,
    pub(crate) action: Action,
    pub(crate) pace: Pace,
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) failure_threshold: u32,
    pub(crate) success_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    Http {
        host: IpAddr,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        host: IpAddr,
        port: u16,
    },
    /// The file says how to enter the container and what to run there.
    Exec {
        start: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// Quick until the first success (readiness, startup).
    Eager,
    Steady,
}

/// Counts results and says when the verdict changes.
#[derive(Debug, Default)]
struct Verdict {
    successes: u32,
    failures: u32,
    healthy: Option<bool>,
    detail: String,
}

/// Probes until aborted; reports every change of verdict, and of the reason for a bad one.
pub(super) async fn run(spec: ProbeSpec, reports: mpsc::Sender<FromNode>) {
    tokio::time::sleep(spec.initial_delay).await;
    let mut verdict = Verdict::default();
    loop {
        let result = tokio::time::timeout(spec.timeout, attempt(&spec.action)).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {:?}", spec.timeout)));
        if let Some((healthy, detail)) = verdict.count(&spec, result) {
            let id = spec.id.clone();
            if reports
                .send(FromNode::Probed { id, healthy, detail })
                .await
                .is_err()
            {
                return;
            }
        }
        let eager = spec.pace == Pace::Eager && verdict.healthy != Some(true);
        tokio::time::sleep(if eager {
            spec.period.min(EAGER)
        } else {
            spec.period
        })
        .await;
    }
}

impl Verdict {
    fn count(&mut self, spec: &ProbeSpec, result: Result<(), String>) -> Option<(bool, String)> {
        let (healthy, detail) = match result {
            Ok(()) => {
                self.failures = 0;
                self.successes += 1;
                (self.successes >= spec.success_threshold)
                    .then_some(true)
                    .zip(Some(String::new()))
            }
            Err(detail) => {
                self.successes = 0;
                self.failures += 1;
                (self.failures >= spec.failure_threshold)
                    .then_some(false)
                    .zip(Some(detail))
            }
        }?;
        let news = self.healthy != Some(healthy) || self.detail != detail;
        self.healthy = Some(healthy);
        self.detail = detail;
        news.then(|| (healthy, self.detail.clone()))
    }
}

async fn attempt(action: &Action) -> Result<(), String> {
    match action {
        Action::Tcp { host, port } => connect(*host, *port).await.map(drop),
        Action::Http {
            host,
            port,
            path,
            headers,
        } => http(*host, *port, path, headers).await,
        Action::Exec { start } => exec(start).await,
    }
}

async fn connect(host: IpAddr, port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::new(host, port);
    TcpStream::connect(address)
        .await
        .map_err(|error| format!("connect {address}: {error}"))
}

async fn http(host: IpAddr, port: u16, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let mut stream = connect(host, port).await?;
    let own_host = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !own_host {
        request += &format!("Host: {}\r\n", SocketAddr::new(host, port));
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "User-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    let failed = |error: std::io::Error| format!("GET {path} at port {port}: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    let mut limited = stream.take(MAX_HEAD as u64);
    while !head.contains(&b'\n') && limited.read_buf(&mut head).await.map_err(failed)? > 0 {}
    match status_code(&head) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("GET {path} at port {port}: HTTP status {code}")),
        None => Err(format!("GET {path} at port {port}: not an HTTP answer")),
    }
}

fn status_code(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.trim().parse().ok()
}

async fn exec(start: &PathBuf) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("container").arg(start).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command.status().await.map_err(|error| error.to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("probe command: {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ProbeSpec {
        ProbeSpec {
            id: "p".to_owned(),
            action: Action::Exec {
                start: PathBuf::new(),
            },
            pace: Pace::Eager,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 2,
            success_threshold: 1,
        }
    }

    #[test]
    fn verdicts_change_at_thresholds_and_are_told_once() {
        let (spec, mut verdict) = (spec(), Verdict::default());
        let refused = || Err("refused".to_owned());
        assert_eq!(verdict.count(&spec, refused()), None);
        assert_eq!(
            verdict.count(&spec, refused()),
            Some((false, "refused".to_owned()))
        );
        assert_eq!(verdict.count(&spec, refused()), None);
        assert_eq!(verdict.count(&spec, Ok(())), Some((true, String::new())));
        assert_eq!(verdict.count(&spec, Ok(())), None);
    }

    #[test]
    fn only_http_status_lines_count() {
        assert_eq!(status_code(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status_code(b"SSH-2.0-x\r\n"), None);
        assert_eq!(status_code(b""), None);
    }
}
