//! One page of a pod through a port that kubectl forwards: it also reaches what listens on the pod's loopback only.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::fetch;
use crate::kubectl::Kubectl;

/// How long the port may take to open.
const DEADLINE: Duration = Duration::from_secs(60);
const MAX_LINE: u64 = 4096;

pub(super) fn get(
    kubectl: &Kubectl,
    namespace: &str,
    pod: &str,
    port: u16,
    path: &str,
    longest: usize,
) -> anyhow::Result<String> {
    let forward = Forward::open(kubectl, namespace, pod, port)
        .with_context(|| format!("cannot reach port {port} of pod {namespace}/{pod}"))?;
    fetch::get(&format!("http://127.0.0.1:{}{path}", forward.local), longest)
}

/// A running kubectl; ends with this value.
struct Forward {
    child: Child,
    local: u16,
}

impl Forward {
    fn open(kubectl: &Kubectl, namespace: &str, pod: &str, port: u16) -> anyhow::Result<Self> {
        let (pod, ports) = (format!("pod/{pod}"), format!(":{port}"));
        let arguments = [
            "port-forward",
            "--address=127.0.0.1",
            "-n",
            namespace,
            &pod,
            &ports,
        ];
        let mut forward = Self {
            child: kubectl.spawn(&arguments)?,
            local: 0,
        };
        let stdout = forward.child.stdout.take().context("kubectl has no output")?;
        let (sender, receiver) = mpsc::sync_channel(1);
        // Ends with the pipe, which ends with the child, which ends with this value. Read to the end: kubectl says a line
        // at each connection, and would die of a closed pipe.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut first = String::new();
            let _ = (&mut lines).take(MAX_LINE).read_line(&mut first);
            let _ = sender.send(first);
            let _ = io::copy(&mut lines, &mut io::sink());
        });
        let line = receiver.recv_timeout(DEADLINE);
        let Ok(line) = line else {
            bail!("kubectl opened no port within {} s", DEADLINE.as_secs())
        };
        forward.local = match local_port(&line) {
            Some(local) => local,
            None => bail!("{}", forward.complaint()),
        };
        Ok(forward)
    }

    /// What kubectl says when it gives up.
    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = self.child.kill();
            let _ = stderr.take(MAX_LINE).read_to_string(&mut text);
        }
        match text.trim() {
            "" => "kubectl opened no port".to_owned(),
            text => text.to_owned(),
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `Forwarding from 127.0.0.1:41235 -> 15014`
fn local_port(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?
        .split(' ')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_port_that_kubectl_chose() {
        assert_eq!(
            local_port("Forwarding from 127.0.0.1:41235 -> 15014\n"),
            Some(41235)
        );
        assert_eq!(local_port("error: no such pod"), None);
        assert_eq!(local_port("Forwarding from 127.0.0.1:x"), None);
    }
}
