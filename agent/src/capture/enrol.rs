//! Enrolling and un-enrolling one pod.
//!
//! The order is what keeps plaintext out: listeners first, then inbound steering, and the pod's
//! cookie last, which is what turns outbound capture on. Undone in reverse.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    path::PathBuf,
};

use aquifer_ebpf_abi::{Address, Pod};
use aya::{
    Ebpf,
    maps::MapError,
    programs::{ProgramError, links::FdLink},
};
use thiserror::Error;

use crate::capture::{
    Capture, KernelLog, Netns, NetnsCookie, PinError,
    listeners::{self, ListenError, Listeners},
    load,
};

/// Where a pod is.
#[derive(Clone, Debug)]
pub struct PodNetns {
    /// A file that names its network namespace: `/proc/PID/ns/net`, or the CNI's.
    pub netns: PathBuf,
    /// Its cgroup (v2), where known: checked to lie below the captured one.
    pub cgroup: Option<PathBuf>,
    /// Its own addresses, one per family as a rule.
    pub ips: Vec<IpAddr>,
}

/// A captured pod. Its connections wait in these listeners; dropping them refuses further ones.
#[derive(Debug)]
pub struct EnrolledPod {
    /// To dial from the pod: towards the mesh, and towards the pod's application.
    pub netns: Netns,
    /// Connections the pod opens, one listener per family; what they were meant for is
    /// [`Capture::original_destination`]'s to say. Non-blocking.
    pub outbound: Vec<TcpListener>,
    /// Connections the pod receives, on every port: the accepted socket's local address is what was
    /// dialled. One whose local address is loopback was opened inside the pod, towards the listener
    /// itself, and must be refused. Non-blocking.
    pub inbound: Vec<TcpListener>,
}

impl EnrolledPod {
    pub fn cookie(&self) -> NetnsCookie {
        self.netns.cookie()
    }
}

/// Why a pod is not enrolled; it is then as it was before.
#[derive(Debug, Error)]
pub enum EnrolError {
    #[error("cannot enter the network namespace {path}; is the pod still there?")]
    Netns { path: PathBuf, source: io::Error },
    #[error("the pod uses the node's network namespace; host network pods cannot be enrolled")]
    HostNetwork,
    #[error("the pod has {count} addresses; between 1 and {max} are supported", max = Pod::MAX_ADDRESSES)]
    Addresses { count: usize },
    #[error(
        "the pod's cgroup {cgroup} is not below the captured one ({captured}): its connections would not be seen"
    )]
    NotCaptured { cgroup: PathBuf, captured: PathBuf },
    #[error("cannot find the pod's cgroup {path}; is the pod still there?")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error(
        "cannot listen on {address} in the pod; does a container use the port, or is the pod's loopback device down?"
    )]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot write the kernel's maps; are more than {max} pods enrolled?", max = aquifer_ebpf_abi::capacity::PODS)]
    Maps(#[source] MapError),
    #[error("cannot attach the inbound program to the pod's network namespace")]
    Attach(#[source] Box<ProgramError>),
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// Why a pod is still enrolled, in part at least; its traffic is then refused rather than passed.
#[derive(Debug, Error)]
pub enum UnenrolError {
    #[error("cannot write the kernel's maps")]
    Maps(#[from] MapError),
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// The inbound program and the pods this process enrolled.
pub(crate) struct Enrolments {
    object: Ebpf,
    addresses: HashMap<NetnsCookie, Vec<IpAddr>>,
}

impl Enrolments {
    pub(crate) fn new(object: Ebpf) -> Self {
        Self {
            object,
            addresses: HashMap::new(),
        }
    }

    /// Forgets a pod; answers the addresses that are nobody's now. One that was given to another pod meanwhile has that
    /// pod's listener.
    fn forget(&mut self, pod: NetnsCookie) -> Vec<IpAddr> {
        let mut addresses = self.addresses.remove(&pod).unwrap_or_default();
        addresses.retain(|ip| !self.addresses.values().any(|others| others.contains(ip)));
        addresses
    }

    pub(crate) fn take_log(&mut self) -> Option<KernelLog> {
        KernelLog::take(&mut self.object)
    }

    fn attach_lookup(&mut self, netns: &Netns) -> Result<FdLink, ProgramError> {
        let program = load::lookup_program(&mut self.object)?;
        let id = program.attach(netns)?;
        Ok(program.take_link(id)?.into())
    }
}

impl Capture {
    /// Captures a pod's traffic from now on; connections it has are left alone.
    ///
    /// Enrolling a pod again, also one an earlier agent enrolled, replaces its listeners in one
    /// step. Enters the pod's namespace on the calling thread; blocks for less than a millisecond.
    pub fn enrol(&self, pod: &PodNetns) -> Result<EnrolledPod, EnrolError> {
        self.check(pod)?;
        let netns = Netns::open(&pod.netns).map_err(|source| EnrolError::Netns {
            path: pod.netns.clone(),
            source,
        })?;
        if netns.cookie() == self.node_netns {
            return Err(EnrolError::HostNetwork);
        }
        let listeners = open_listeners(&netns, pod)?;
        let mut enrolments = self.enrolments.lock();
        let known = self.pins.pod_link(netns.cookie()).exists();
        if let Err(error) = self.switch_on(&mut enrolments, &netns, &pod.ips, &listeners) {
            if !known {
                // A pod captured before stays refused; this one is given back as it was.
                let _ = self.switch_off(&mut enrolments, netns.cookie());
            }
            return Err(error);
        }
        let inbound = [listeners.inbound_v4, listeners.inbound_v6];
        Ok(EnrolledPod {
            netns,
            outbound: listeners.outbound,
            inbound: inbound.into_iter().flatten().collect(),
        })
    }

    /// Gives a pod its plain connectivity back. One that was not enrolled is no error.
    ///
    /// Connections already captured go on as long as this process serves them.
    pub fn unenrol(&self, pod: NetnsCookie) -> Result<(), UnenrolError> {
        self.switch_off(&mut self.enrolments.lock(), pod)
    }

    /// Un-enrols every pod but `wanted`; for those an earlier agent left that are gone or no
    /// longer wanted. Returns the pods un-enrolled.
    ///
    /// Also removes the pins of other layout versions: to be called once this agent has enrolled
    /// the pods it serves. Until then both versions' programs run, and refuse rather than pass.
    pub fn retain(&self, wanted: &[NetnsCookie]) -> Result<Vec<NetnsCookie>, UnenrolError> {
        let mut enrolments = self.enrolments.lock();
        let mut unwanted = self.known_pods()?;
        unwanted.retain(|pod| !wanted.contains(pod));
        for pod in &unwanted {
            self.switch_off(&mut enrolments, *pod)?;
        }
        self.pins.remove_other_versions()?;
        Ok(unwanted)
    }

    /// Pods captured in either direction: an agent killed between the two steps leaves only one.
    pub(crate) fn known_pods(&self) -> Result<Vec<NetnsCookie>, UnenrolError> {
        let mut pods = self.pins.pods()?;
        for cookie in self.maps.pods.lock().keys() {
            pods.push(NetnsCookie::new(cookie?));
        }
        pods.sort_unstable();
        pods.dedup();
        Ok(pods)
    }

    fn check(&self, pod: &PodNetns) -> Result<(), EnrolError> {
        if pod.ips.is_empty() || pod.ips.len() > Pod::MAX_ADDRESSES {
            return Err(EnrolError::Addresses { count: pod.ips.len() });
        }
        let Some(path) = &pod.cgroup else {
            return Ok(());
        };
        let cgroup = fs::canonicalize(path).map_err(|source| EnrolError::Cgroup {
            path: path.clone(),
            source,
        })?;
        if cgroup.starts_with(&self.captured_cgroup) {
            return Ok(());
        }
        Err(EnrolError::NotCaptured {
            cgroup,
            captured: self.captured_cgroup.clone(),
        })
    }

    fn switch_on(
        &self,
        enrolments: &mut Enrolments,
        netns: &Netns,
        ips: &[IpAddr],
        listeners: &Listeners,
    ) -> Result<(), EnrolError> {
        let cookie = netns.cookie();
        enrolments.addresses.insert(cookie, ips.to_vec());
        self.put_listeners(ips, listeners).map_err(EnrolError::Maps)?;
        let link = enrolments
            .attach_lookup(netns)
            .map_err(|error| EnrolError::Attach(Box::new(error)))?;
        self.pins.replace(link, &self.pins.pod_link(cookie))?;
        self.maps
            .pods
            .lock()
            .insert(cookie.as_u64(), pod_value(ips), 0)
            .map_err(EnrolError::Maps)
    }

    fn put_listeners(&self, ips: &[IpAddr], listeners: &Listeners) -> Result<(), MapError> {
        let mut map = self.maps.listeners.lock();
        for ip in ips {
            let listener = if ip.is_ipv4() {
                &listeners.inbound_v4
            } else {
                &listeners.inbound_v6
            };
            if let Some(listener) = listener {
                map.insert(Address::from(*ip), listener.as_raw_fd(), 0)?;
            }
        }
        Ok(())
    }

    fn switch_off(&self, enrolments: &mut Enrolments, pod: NetnsCookie) -> Result<(), UnenrolError> {
        absent_is_fine(self.maps.pods.lock().remove(&pod.as_u64()))?;
        self.pins.remove_pod_link(pod)?;
        for ip in enrolments.forget(pod) {
            absent_is_fine(self.maps.listeners.lock().remove(&Address::from(ip)))?;
        }
        Ok(())
    }
}

fn open_listeners(netns: &Netns, pod: &PodNetns) -> Result<Listeners, EnrolError> {
    let opened = netns
        .run(|| Ok(listeners::open(&pod.ips)))
        .map_err(|source| EnrolError::Netns {
            path: pod.netns.clone(),
            source,
        })?;
    opened.map_err(|ListenError { address, source }| EnrolError::Listen { address, source })
}

fn pod_value(ips: &[IpAddr]) -> Pod {
    let mut addresses = [Address::UNSPECIFIED; Pod::MAX_ADDRESSES];
    for (slot, ip) in addresses.iter_mut().zip(ips) {
        *slot = Address::from(*ip);
    }
    Pod { addresses }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
