//! Loading the programs, adopting the pins of an earlier agent, attaching.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use aquifer_ebpf_abi::{MAPS, program};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps,
        links::{FdLink, LinkError},
    },
};
use parking_lot::Mutex;
use thiserror::Error;

use crate::capture::{
    Capture, CaptureConfig, Netns, cgroup, enrol::Enrolments, maps::Maps, pins::PinError, pins::Pins,
};

/// Built by `cargo xtask ebpf`; see build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/aquifer.bpf.o"));

/// On the captured cgroup, in the order of attaching: connects are captured once all else works.
const SOCKET_ADDRESS_PROGRAMS: [&str; 6] = [
    program::GETPEERNAME4,
    program::GETPEERNAME6,
    program::GETSOCKNAME4,
    program::GETSOCKNAME6,
    program::CONNECT4,
    program::CONNECT6,
];

/// Why capture could not be set up on this node.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot open the {what} {path}")]
    Open {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the captured cgroup {captured} is not below the node's cgroup {node}")]
    CapturedOutsideNode { captured: PathBuf, node: PathBuf },
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(
        "cannot load the kernel programs; is the kernel 6.1 or later, and does the agent have CAP_BPF and CAP_NET_ADMIN?"
    )]
    Object(#[source] EbpfError),
    #[error("cannot prepare the maps of the kernel programs")]
    Maps(#[source] MapError),
    #[error("cannot tell which cgroup the agent is in")]
    OwnCgroup(#[source] cgroup::OwnCgroupError),
    #[error("cannot load or attach the kernel program {name}; is the kernel 6.1 or later?")]
    Program {
        name: &'static str,
        source: Box<ProgramError>,
    },
}

pub(crate) fn load(config: &CaptureConfig) -> Result<Capture, LoadError> {
    let captured = open_cgroup("captured cgroup", &config.captured_cgroup)?;
    let node = open_cgroup("node's cgroup", &config.node_cgroup)?;
    check_nesting(&captured, &node)?;
    let node_netns = Netns::open(&config.node_netns)
        .map_err(|source| open_error("node's network namespace", &config.node_netns, source))?;

    let pins = Pins::open(&config.bpffs)?;
    pins.check_layouts()?;
    let mut object = load_object(&pins, node_netns.cookie().as_u64())?;
    let maps = Maps::take(&mut object).map_err(LoadError::Maps)?;
    maps.set_mesh_ranges(&config.mesh_cidrs)
        .map_err(LoadError::Maps)?;
    let own_cgroup = cgroup::own_id(config.own_cgroup.as_deref()).map_err(LoadError::OwnCgroup)?;
    maps.agents
        .lock()
        .insert(own_cgroup, 0, 0)
        .map_err(LoadError::Maps)?;

    attach_sock_ops(&mut object, &pins, &node.file)?;
    for name in SOCKET_ADDRESS_PROGRAMS {
        attach_socket_address(&mut object, &pins, name, &captured.file)?;
    }
    load_lookup(&mut object)?;
    Ok(Capture {
        pins,
        node_netns: node_netns.cookie(),
        captured_cgroup: captured.path,
        maps,
        enrolments: Mutex::new(Enrolments::new(object)),
    })
}

struct Cgroup {
    file: File,
    path: PathBuf,
}

fn open_cgroup(what: &'static str, path: &Path) -> Result<Cgroup, LoadError> {
    let open = || {
        Ok(Cgroup {
            file: File::open(path)?,
            path: path.canonicalize()?,
        })
    };
    open().map_err(|source| open_error(what, path, source))
}

fn open_error(what: &'static str, path: &Path, source: io::Error) -> LoadError {
    LoadError::Open {
        what,
        path: path.to_path_buf(),
        source,
    }
}

/// The program on the node's cgroup finishes what those on the captured one begin.
fn check_nesting(captured: &Cgroup, node: &Cgroup) -> Result<(), LoadError> {
    if captured.path.starts_with(&node.path) {
        return Ok(());
    }
    Err(LoadError::CapturedOutsideNode {
        captured: captured.path.clone(),
        node: node.path.clone(),
    })
}

fn load_object(pins: &Pins, node_netns: u64) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // No relocation against the running kernel's types: the programs read stable contexts only.
    loader
        .btf(None)
        .override_global(program::NODE_NETNS, &node_netns, true);
    for layout in &MAPS {
        loader.map_pin_path(layout.name, pins.map(layout.name));
    }
    loader.load(OBJECT).map_err(LoadError::Object)
}

fn attach_sock_ops(object: &mut Ebpf, pins: &Pins, node: &File) -> Result<(), LoadError> {
    let name = program::SOCK_OPS;
    let mut attach = || -> Result<FdLink, ProgramError> {
        let program: &mut SockOps = find(object, name)?.try_into()?;
        program.load()?;
        let id = program.attach(node, CgroupAttachMode::Single)?;
        fd_link(program.take_link(id)?.try_into())
    };
    pin(pins, name, attach())
}

fn attach_socket_address(
    object: &mut Ebpf,
    pins: &Pins,
    name: &'static str,
    captured: &File,
) -> Result<(), LoadError> {
    let mut attach = || -> Result<FdLink, ProgramError> {
        let program: &mut CgroupSockAddr = find(object, name)?.try_into()?;
        program.load()?;
        let id = program.attach(captured, CgroupAttachMode::Single)?;
        fd_link(program.take_link(id)?.try_into())
    };
    pin(pins, name, attach())
}

fn pin(pins: &Pins, name: &'static str, link: Result<FdLink, ProgramError>) -> Result<(), LoadError> {
    let link = link.map_err(|source| program_error(name, source))?;
    Ok(pins.replace(link, &pins.program_link(name))?)
}

fn fd_link(link: Result<FdLink, LinkError>) -> Result<FdLink, ProgramError> {
    link.map_err(|error| ProgramError::IOError(io::Error::other(error)))
}

fn load_lookup(object: &mut Ebpf) -> Result<(), LoadError> {
    let name = program::SK_LOOKUP;
    lookup_program(object)
        .and_then(SkLookup::load)
        .map_err(|source| program_error(name, source))
}

/// The inbound program, which is attached to one pod after the other.
pub(crate) fn lookup_program(object: &mut Ebpf) -> Result<&mut SkLookup, ProgramError> {
    find(object, program::SK_LOOKUP)?.try_into()
}

fn find<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, ProgramError> {
    object.program_mut(name).ok_or_else(|| {
        ProgramError::IOError(io::Error::other(
            "the embedded object lacks it: rebuild with `cargo xtask ebpf`",
        ))
    })
}

fn program_error(name: &'static str, source: ProgramError) -> LoadError {
    LoadError::Program {
        name,
        source: Box::new(source),
    }
}
