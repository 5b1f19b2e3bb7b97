//! Looks for text in the packets of a lab's nodes: on the link between them and on their ends of the pods' links.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use aquifer_tests::demo::namespace::{Inside, Namespace};
use aquifer_tests::lab::Lab;
use aquifer_tests::lab::layout::{LabName, Layout};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

const TICK: Duration = Duration::from_millis(100);
const RECEIVE_BUFFER: usize = 32 << 20;

pub(crate) struct Sniffer {
    stop: Arc<AtomicBool>,
    nodes: Vec<Inside<io::Result<Found>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) packets: usize,
    pub(crate) with_text: usize,
}

impl Sniffer {
    /// Returns when what happens next is seen.
    pub(crate) fn start(lab: &Lab, text: &str) -> Self {
        let name: LabName = lab.name().parse().unwrap();
        let layout = Layout::new(&name);
        let stop = Arc::new(AtomicBool::new(false));
        let status = lab.status().unwrap();
        let nodes = status.nodes.iter().map(|node| {
            let (opened, wait) = sync_channel(1);
            let (stop, text) = (stop.clone(), text.as_bytes().to_vec());
            let inside = Namespace::of(&layout, &node.name)
                .spawn(move || {
                    let socket = open()?;
                    let _ = opened.send(());
                    read(&socket, &text, &stop)
                })
                .unwrap();
            wait.recv().unwrap();
            inside
        });
        Self {
            nodes: nodes.collect(),
            stop,
        }
    }

    pub(crate) fn stop(self) -> Found {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Found::default();
        for node in self.nodes {
            let found = node.join().unwrap().unwrap();
            sum.packets += found.packets;
            sum.with_text += found.with_text;
        }
        sum
    }
}

fn open() -> io::Result<Socket> {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(all)))?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

fn read(socket: &Socket, text: &[u8], stop: &AtomicBool) -> io::Result<Found> {
    let mut found = Found::default();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 65536];
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        match socket.recv(&mut buffer) {
            Ok(length) => {
                found.packets += 1;
                // SAFETY: the kernel has written the first `length` bytes.
                let bytes = unsafe { buffer[..length].assume_init_ref() };
                found.with_text += usize::from(bytes.windows(text.len()).any(|w| w == text));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && stopping => return Ok(found),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
