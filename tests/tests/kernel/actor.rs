//! The far end: a process inside a pod that listens and connects on request.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::agent::Agent;
use crate::protocol::{Conversation, Dial, Greeting, Refusal, Reply, Request};

/// Set for a process that is an actor; its standard input is the socket to the test.
pub(crate) const VARIABLE: &str = "AQK_ACTOR";
/// This function, as the test harness names it.
pub(crate) const ENTRY: &str = "actor::actor_process";

/// For an answer; generous, since machines are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: what an actor runs. Empty unless this process is one.
#[test]
fn actor_process() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    // SAFETY: the spawner passed a socket as descriptor 0 and nothing else uses it.
    let socket = unsafe { UnixStream::from_raw_fd(0) };
    let mut actor = Actor::default();
    let mut requests = BufReader::new(socket.try_clone().expect("duplicate the socket"));
    let mut replies = socket;
    while let Some(request) = read_line::<Request>(&mut requests).expect("read a request") {
        let reply = actor.handle(request);
        write_line(&mut replies, &reply).expect("write a reply");
    }
}

#[derive(Default)]
struct Actor {
    connections: HashMap<usize, BufReader<TcpStream>>,
    agent: Option<Agent>,
}

impl Actor {
    fn handle(&mut self, request: Request) -> Reply {
        match request {
            Request::Listen(address) => listen(address).map_or_else(|error| failed(&error), Reply::Listening),
            Request::Connect(dial) => self.connect(&dial),
            Request::Echo { connection, line } => self.echo(connection, &line),
            Request::ConnectTwice(first, second) => self.connect_twice(first, second),
            Request::ListenDatagrams(address) => {
                listen_datagrams(address).map_or_else(|error| failed(&error), Reply::Listening)
            }
            Request::Datagram(to) => datagram(to).map_or_else(|error| failed(&error), Reply::Echoed),
            Request::Load(config) => match Agent::load(config) {
                Ok(agent) => {
                    self.agent = Some(agent);
                    Reply::Done
                }
                Err(error) => Reply::Failed(format!("{error:#}")),
            },
            other => match &mut self.agent {
                Some(agent) => agent.handle(other),
                None => Reply::Failed("not an agent".to_owned()),
            },
        }
    }

    fn connect(&mut self, dial: &Dial) -> Reply {
        let connected = socket(dial).and_then(|socket| {
            connect(&socket, dial)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => self.greeted(socket.into()),
            Err(error) => Reply::Refused(refusal(&error)),
        }
    }

    /// Blocking attempts: after a failed one that was not, the kernel wants an extra connect().
    fn connect_twice(&mut self, first: SocketAddr, second: SocketAddr) -> Reply {
        let connected = socket(&Dial::to(first)).and_then(|socket| {
            if socket.connect(&first.into()).is_ok() {
                return Err(io::Error::other("the first attempt was to fail"));
            }
            socket.connect(&second.into())?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => self.greeted(socket.into()),
            Err(error) => Reply::Refused(refusal(&error)),
        }
    }

    fn greeted(&mut self, stream: TcpStream) -> Reply {
        let addresses = stream
            .peer_addr()
            .and_then(|peer| Ok((peer, stream.local_addr()?)));
        let (peer, local) = match addresses {
            Ok(addresses) => addresses,
            Err(error) => return Reply::Refused(refusal(&error)),
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let mut stream = BufReader::new(stream);
        match read_line::<Greeting>(&mut stream) {
            Ok(Some(server)) => {
                let connection = self.connections.len();
                self.connections.insert(connection, stream);
                Reply::Connected(Conversation {
                    connection,
                    peer,
                    local,
                    server,
                })
            }
            Ok(None) => Reply::Refused(Refusal::ClosedBeforeGreeting),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Reply::Refused(Refusal::ClosedBeforeGreeting)
            }
            Err(error) => Reply::Refused(refusal(&error)),
        }
    }

    fn echo(&mut self, connection: usize, line: &str) -> Reply {
        let Some(stream) = self.connections.get_mut(&connection) else {
            return Reply::Failed("no such connection".to_owned());
        };
        let mut talk = || -> io::Result<bool> {
            stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_line(&mut answer)?;
            Ok(answer.trim_end() == line)
        };
        match talk() {
            Ok(true) => Reply::Done,
            Ok(false) => Reply::Failed("another line came back".to_owned()),
            Err(error) => failed(&error),
        }
    }
}

fn socket(dial: &Dial) -> io::Result<Socket> {
    let domain = if dial.dual_stack {
        Domain::IPV6
    } else {
        Domain::for_address(dial.to)
    };
    let protocol = if dial.mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(domain, Type::STREAM.cloexec(), Some(protocol))?;
    if let Some(ip) = dial.bind {
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    if let Some(device) = &dial.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(socket)
}

fn connect(socket: &Socket, dial: &Dial) -> io::Result<()> {
    if dial.fast_open {
        // The echo server's answer to it is what later comes back first: nothing sent, nothing back.
        return socket
            .send_to_with_flags(&[], &destination(dial), libc::MSG_FASTOPEN)
            .map(|_| ());
    }
    socket.connect_timeout(&destination(dial), dial.patience.unwrap_or(PATIENCE))
}

fn destination(dial: &Dial) -> SockAddr {
    match dial.to {
        SocketAddr::V4(v4) if dial.dual_stack => {
            let mapped: Ipv6Addr = v4.ip().to_ipv6_mapped();
            SocketAddr::new(mapped.into(), v4.port()).into()
        }
        to => to.into(),
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ETIMEDOUT | libc::EAGAIN) => Refusal::TimedOut,
        Some(errno) => Refusal::Errno(errno),
        None if error.kind() == io::ErrorKind::TimedOut => Refusal::TimedOut,
        None => panic!("an error without a number: {error}"),
    }
}

fn listen(address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((stream, accepted)) = listener.accept() {
            std::thread::spawn(move || serve(&stream, accepted));
        }
    });
    Ok(bound)
}

/// The client may leave whenever it likes.
fn serve(stream: &TcpStream, accepted: SocketAddr) -> io::Result<()> {
    let greeting = Greeting {
        accepted,
        peer: stream.peer_addr()?,
        local: stream.local_addr()?,
    };
    let mut writer = stream;
    write_line(&mut writer, &greeting)?;
    io::copy(&mut &*stream, &mut writer)?;
    Ok(())
}

fn listen_datagrams(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind(address)?;
    let bound = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(from.to_string().as_bytes(), from);
        }
    });
    Ok(bound)
}

fn datagram(to: SocketAddr) -> io::Result<SocketAddr> {
    let unspecified: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"hello")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    text.parse().map_err(io::Error::other)
}

fn failed(error: &io::Error) -> Reply {
    Reply::Failed(error.to_string())
}

pub(crate) fn write_line(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line)
}

pub(crate) fn read_line<T: DeserializeOwned>(reader: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
