//! A way to a Service of a cluster whose network this machine is not in: kubectl's port-forward, for as long as it is held.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use super::kubectl::{Kubectl, KubectlError};

/// Dropping it closes the way.
#[derive(Debug)]
pub struct Tunnel {
    child: Child,
    /// Reads what kubectl says of each connection, so that it never waits for somebody to read.
    reader: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Tunnel {
    /// To one pod behind the Service; a port of this machine's loopback is chosen.
    pub fn open(kubectl: &Kubectl, namespace: &str, service: &str, port: u16) -> Result<Self, KubectlError> {
        let arguments = [
            "-n",
            namespace,
            "port-forward",
            "--address=127.0.0.1",
            &format!("service/{service}"),
            &format!(":{port}"),
        ];
        let failed = |message: String| KubectlError::Failed {
            arguments: arguments.join(" "),
            message,
        };
        let mut child = ending_with_us(&kubectl.command(&arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| failed("it has no output".to_owned()))?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let Some(address) = lines.next().as_deref().and_then(address) else {
            drop(child.kill());
            drop(child.wait());
            return Err(failed("it did not say where it listens".to_owned()));
        };
        let reader = std::thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            child,
            reader: Some(reader),
            address,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        // Its output has ended with it.
        self.reader.take().map(JoinHandle::join);
    }
}

/// The same command, killed when the thread that starts it ends: a signal ends this process without anything being
/// dropped.
fn ending_with_us(command: &Command) -> Command {
    let mut ending = Command::new("setpriv");
    ending.args(["--pdeathsig", "KILL", "--"]);
    ending.arg(command.get_program()).args(command.get_args());
    ending
}

/// `Forwarding from 127.0.0.1:41235 -> 8080`
fn address(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("Forwarding from ")?
        .split(" -> ")
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_what_kubectl_says() {
        let found = address("Forwarding from 127.0.0.1:41235 -> 8080");
        assert_eq!(found, Some("127.0.0.1:41235".parse().unwrap()));
        assert_eq!(address("error: unable to forward port"), None);
    }
}
