//! What members and their services go through: stopped, killed, started again, without power.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::cgroup::Cgroups;
use super::layout::Member;
use super::{Cluster, ClusterError, ServiceState, io_error, netns, supervisor};

/// For a service that is killed when it does not end by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(120);

impl Cluster {
    /// Stops a service, waits until it has ended, and keeps it so until `start_service`.
    pub fn stop_service(&self, member: Member, service: &str) -> Result<Vec<ServiceState>, ClusterError> {
        self.call(member, &format!("stop {service}"))?;
        let ended = |states: &[ServiceState]| states.iter().all(|s| s.name != service || s.pid.is_none());
        let what = format!("{service} of {member} has ended");
        let stopped = self.kubectl.until(&what, STOP_PATIENCE, || {
            let states = self.services(member).map_err(|error| error.to_string())?;
            if ended(&states) {
                Ok(states)
            } else {
                Err("it still runs".to_owned())
            }
        });
        Ok(stopped?)
    }

    pub fn start_service(&self, member: Member, service: &str) -> Result<Vec<ServiceState>, ClusterError> {
        self.call(member, &format!("start {service}"))
    }

    /// Kills a service with SIGKILL; its supervisor starts it again.
    pub fn kill_service(&self, member: Member, service: &str) -> Result<Vec<ServiceState>, ClusterError> {
        self.call(member, &format!("kill {service}"))
    }

    /// What a member's supervisor knows of its services.
    pub fn services(&self, member: Member) -> Result<Vec<ServiceState>, ClusterError> {
        self.call(member, "status")
    }

    /// Cuts a member's power: all its processes and its network go at once, its disk stays.
    pub fn stop_member(&self, member: Member) -> Result<(), ClusterError> {
        let (cgroups, cgroup) = (Cgroups::find()?, self.layout.member_cgroup(member));
        cgroups.kill(&cgroup)?;
        cgroups.remove(&cgroup)?;
        Ok(netns::unplug(&self.layout, member)?)
    }

    /// Starts a member that is not running, with the disk that it had.
    pub fn start_member(&self, member: Member) -> Result<(), ClusterError> {
        netns::plug(&self.layout, member, self.record.nodes)?;
        Cgroups::find()?.create(&self.layout.member_cgroup(member))?;
        if member == Member::World {
            return Ok(());
        }
        let spec = self.layout.spec(member);
        let output = Command::new(&self.program)
            .arg("launch")
            .arg(&spec)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| io_error("run", &self.program, error))?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ClusterError::Launch { member, message })
    }

    /// What a member goes through that loses its power for a moment.
    pub fn restart_member(&self, member: Member) -> Result<(), ClusterError> {
        self.stop_member(member)?;
        self.start_member(member)
    }

    fn call(&self, member: Member, command: &str) -> Result<Vec<ServiceState>, ClusterError> {
        let answer = supervisor::call(&self.layout.socket(member), command);
        let refused = |message: String| ClusterError::Refused { member, message };
        answer
            .map_err(|error| refused(format!("its supervisor does not answer: {error}")))?
            .map_err(refused)
    }
}
