//! Actors as the tests hold them: a process each, asked one thing after the other.

use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::actor::{self, read_line, write_line};
use crate::protocol::{Conversation, Dial, Event, PodSpec, Refusal, Reply, Request};

/// An actor; killed and awaited when dropped.
pub(crate) struct ActorProcess {
    child: Child,
    requests: UnixStream,
    replies: BufReader<UnixStream>,
}

/// Where a kernel with BTF shows it to programs.
const BTF: &str = "/sys/kernel/btf";

/// An empty file system over it, for this process alone.
fn hide_btf() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )?;
    match mount(nothing, BTF, Some("tmpfs"), MsFlags::MS_RDONLY, nothing) {
        // The kernel has none.
        Err(Errno::ENOENT) => Ok(()),
        done => done,
    }
}

/// What of the kernel's BTF an actor sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Btf {
    AsItIs,
    Hidden,
}

impl ActorProcess {
    pub(crate) fn spawn(netns: Option<&Path>, cgroup: &Path) -> Self {
        Self::spawn_seeing(Btf::AsItIs, netns, cgroup)
    }

    pub(crate) fn spawn_seeing(btf: Btf, netns: Option<&Path>, cgroup: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let netns = netns.map(|path| File::open(path).expect("open a namespace"));
        let procs = File::options()
            .write(true)
            .open(cgroup.join("cgroup.procs"))
            .expect("open a cgroup");
        let mut command = Command::new(std::env::current_exe().expect("our path"));
        command
            .args([actor::ENTRY, "--exact", "--nocapture", "--test-threads=1"])
            .env(actor::VARIABLE, "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null());
        // SAFETY: the closure makes system calls only; nothing that another thread may have locked.
        unsafe {
            command.pre_exec(move || {
                set_pdeathsig(Signal::SIGKILL)?;
                nix::unistd::write(&procs, b"0")?;
                if let Some(netns) = &netns {
                    setns(netns, CloneFlags::CLONE_NEWNET)?;
                }
                if btf == Btf::Hidden {
                    hide_btf()?;
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("start an actor");
        let replies = BufReader::new(ours.try_clone().expect("duplicate a socket"));
        Self {
            child,
            requests: ours,
            replies,
        }
    }

    /// Whether there is such a file in the actor's mount namespace.
    pub(crate) fn sees_btf(&self) -> bool {
        Path::new(&format!("/proc/{}/root{BTF}/vmlinux", self.child.id())).exists()
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Reply {
        write_line(&mut self.requests, request).expect("an actor that listens");
        read_line(&mut self.replies)
            .expect("an actor that answers")
            .expect("an actor that lives")
    }

    pub(crate) fn done(&mut self, request: &Request) {
        let reply = self.ask(request);
        assert!(matches!(reply, Reply::Done), "{request:?} -> {reply:?}");
    }

    pub(crate) fn listen(&mut self, address: &str) -> u16 {
        let address: SocketAddr = address.parse().expect("an address");
        match self.ask(&Request::Listen(address)) {
            Reply::Listening(bound) => bound.port(),
            other => panic!("cannot listen on {address}: {other:?}"),
        }
    }

    pub(crate) fn listen_datagrams(&mut self, address: &str) -> u16 {
        match self.ask(&Request::ListenDatagrams(address.parse().expect("an address"))) {
            Reply::Listening(bound) => bound.port(),
            other => panic!("cannot listen on {address}: {other:?}"),
        }
    }

    /// Where a datagram came from, as its receiver saw it.
    #[track_caller]
    pub(crate) fn datagram(&mut self, to: SocketAddr) -> SocketAddr {
        match self.ask(&Request::Datagram(to)) {
            Reply::Echoed(from) => from,
            other => panic!("{to}: {other:?}"),
        }
    }

    /// The next line of the kernel programs' log, if there is one within that time.
    pub(crate) fn kernel_log(&mut self, within: Duration) -> Option<String> {
        match self.ask(&Request::KernelLog(within)) {
            Reply::Logged(line) => Some(line),
            Reply::Failed(_) => None,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn dial(&mut self, dial: Dial) -> Conversation {
        let shown = format!("{dial:?}");
        match self.ask(&Request::Connect(dial)) {
            Reply::Connected(conversation) => conversation,
            other => panic!("{shown}: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn connect(&mut self, to: SocketAddr) -> Conversation {
        self.dial(Dial::to(to))
    }

    #[track_caller]
    pub(crate) fn refused_dial(&mut self, dial: Dial) -> Refusal {
        let shown = format!("{dial:?}");
        match self.ask(&Request::Connect(dial)) {
            Reply::Refused(refusal) => refusal,
            other => panic!("{shown} was to be refused: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, to: SocketAddr) -> Refusal {
        self.refused_dial(Dial::to(to))
    }

    #[track_caller]
    pub(crate) fn enrol(&mut self, pod: PodSpec) -> u64 {
        match self.ask(&Request::Enrol(pod)) {
            Reply::Enrolled(cookie) => cookie,
            other => panic!("not enrolled: {other:?}"),
        }
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        match self.ask(&Request::Events) {
            Reply::Events(events) => events,
            other => panic!("no events: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn pods(&mut self, request: &Request) -> Vec<u64> {
        match self.ask(request) {
            Reply::Pods(pods) => pods,
            other => panic!("no pods: {other:?}"),
        }
    }

    /// SIGKILL, and nothing of the process left when this returns.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Fails only for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for ActorProcess {
    fn drop(&mut self) {
        self.end();
    }
}
