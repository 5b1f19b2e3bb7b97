//! Requests one after the other, each on a connection of its own, until told to stop.

use std::process::{Child, Command, Stdio};

use crate::world::World;

/// curl as a child, asking again and again.
pub(crate) struct Load(Child);

/// What became of the requests.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) asked: usize,
    pub(crate) failed: Vec<String>,
}

impl Load {
    /// Runs until `stop` exists.
    pub(crate) fn start(world: &World, host: &str, stop: &std::path::Path) -> Self {
        let curl = format!(
            "curl -sS --max-time 60 -o /dev/null -w '%{{http_code}}\\n' --resolve {host}:443:{} --cacert {} https://{host}/ 2>&1",
            world.address,
            world.authority.certificate().display()
        );
        let script = format!(
            "while [ ! -e {} ]; do {curl} || echo failed; done",
            stop.display()
        );
        let mut command: Command = world.outside_command(&["sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn end(self) -> Tally {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let failed = lines.iter().filter(|line| **line != "200");
        Tally {
            asked: lines.len(),
            failed: failed.map(|line| (*line).to_owned()).collect(),
        }
    }
}
