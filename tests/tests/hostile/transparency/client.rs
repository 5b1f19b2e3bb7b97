//! The client's side: one thing after the other, until something is not as it should be.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::server::{judge, pour};
use super::{BULK, port};
use crate::actor::say;

const DEADLINE: Duration = Duration::from_secs(90);
/// Until a datagram, which nobody repeats, is sent once more: under load the kernel may drop one.
const REPEAT: Duration = Duration::from_secs(5);

type Check = fn(&str) -> io::Result<()>;

/// Checks everything against the server's behaviours; `target` is an address or a name.
pub(crate) fn converse(target: &str) -> io::Result<()> {
    let checks: [(&str, Check); 9] = [
        ("a server that speaks first", server_first),
        ("one half ends, the other goes on", half_close),
        ("nothing but an end", empty),
        ("a reset by the server", reset_by_server),
        ("a reset by the client", reset_by_client),
        ("an end by the client", end_by_client),
        ("a closed port", closed_port),
        ("datagrams", datagrams),
        ("bulk both ways at once and each way alone", bulk),
    ];
    for (name, check) in checks {
        check(target).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        say(name);
    }
    say("all is well");
    Ok(())
}

fn resolve(target: &str, port: u16) -> io::Result<SocketAddr> {
    let ip = target.parse::<IpAddr>();
    if let Ok(ip) = ip {
        return Ok(SocketAddr::new(ip, port));
    }
    let mut addresses = (target, port).to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::other("no address"))
}

fn connect(target: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&resolve(target, port)?, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

fn read_all(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn expect(what: &str, wanted: &str) -> io::Result<()> {
    if what.trim_end() == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!("expected {wanted:?}, not {what:?}")))
}

fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0; 1];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    String::from_utf8(line).map_err(io::Error::other)
}

fn server_first(target: &str) -> io::Result<()> {
    let asked = resolve(target, port::GREETING)?;
    let mut stream = connect(target, port::GREETING)?;
    let greeting = line(&mut stream)?;
    let own = std::env::var("POD_IP").ok();
    let seen = greeting.split(' ').next().unwrap_or_default();
    let seen: IpAddr = seen.parse().map_err(io::Error::other)?;
    if seen.is_loopback() || own.is_some_and(|own| own != seen.to_string()) {
        return Err(io::Error::other(format!("the server sees {seen}")));
    }
    if stream.peer_addr()? != asked {
        return Err(io::Error::other(
            "getpeername() tells another address than was dialled",
        ));
    }
    stream.write_all(b"thanks")?;
    stream.shutdown(Shutdown::Write)?;
    expect(&read_all(&mut stream)?, "bye thanks")
}

fn half_close(target: &str) -> io::Result<()> {
    let mut stream = connect(target, port::SINK)?;
    pour(&mut stream, 1000)?;
    stream.shutdown(Shutdown::Write)?;
    expect(&read_all(&mut stream)?, "1000 bytes in order")
}

fn empty(target: &str) -> io::Result<()> {
    let mut stream = connect(target, port::SINK)?;
    stream.shutdown(Shutdown::Write)?;
    expect(&read_all(&mut stream)?, "0 bytes in order")
}

fn reset_by_server(target: &str) -> io::Result<()> {
    let mut stream = connect(target, port::RESET)?;
    stream.write_all(b"x")?;
    expect_reset(&mut stream)
}

fn expect_reset(stream: &mut TcpStream) -> io::Result<()> {
    match stream.read(&mut [0; 10]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => Err(io::Error::other(format!("expected a reset, not {other:?}"))),
    }
}

/// Lets the server notice how this client ends, and asks.
fn watched(target: &str, end: impl FnOnce(TcpStream) -> io::Result<()>) -> io::Result<String> {
    let mut stream = connect(target, port::WATCH)?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0; 1])?;
    end(stream)?;
    let mut asking = connect(target, port::WATCH)?;
    asking.write_all(b"?")?;
    read_all(&mut asking)
}

fn reset_by_client(target: &str) -> io::Result<()> {
    let how = watched(target, |stream| {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    })?;
    expect(&how, "ConnectionReset")
}

fn end_by_client(target: &str) -> io::Result<()> {
    expect(&watched(target, |_| Ok(()))?, "end")
}

/// Refused at once, or after the mesh has looked: but never left waiting.
fn closed_port(target: &str) -> io::Result<()> {
    if target.parse::<IpAddr>().is_err() {
        // Packets to a port that a Service does not have go nowhere, with and without a mesh.
        return Ok(());
    }
    match connect(target, port::CLOSED) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
        Ok(mut stream) => expect_reset(&mut stream),
    }
}

fn datagrams(target: &str) -> io::Result<()> {
    let to = resolve(target, port::ECHO)?;
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
        .parse()
        .map_err(io::Error::other)?;
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(REPEAT))?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        socket.send_to(b"ping", to)?;
        match socket.recv_from(&mut [0; 10]) {
            Ok(answer) if answer == (4, to) => return Ok(()),
            Ok((length, from)) => return Err(io::Error::other(format!("{length} bytes from {from}"))),
            Err(error) if error.kind() != ErrorKind::WouldBlock || Instant::now() > deadline => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
}

fn bulk(target: &str) -> io::Result<()> {
    let whole = format!("{BULK} bytes in order");
    let mut echo = connect(target, port::ECHO)?;
    let mut sending = echo.try_clone()?;
    let sender = std::thread::spawn(move || {
        pour(&mut sending, BULK)?;
        sending.shutdown(Shutdown::Write)
    });
    expect(&judge(&mut echo)?, &whole)?;
    sender
        .join()
        .map_err(|_| io::Error::other("the sender has died"))??;

    let mut sink = connect(target, port::SINK)?;
    pour(&mut sink, BULK)?;
    sink.shutdown(Shutdown::Write)?;
    expect(&read_all(&mut sink)?, &whole)?;

    // The server ends first, and still hears what comes after.
    let mut source = connect(target, port::SOURCE)?;
    expect(&judge(&mut source)?, &whole)?;
    source.write_all(b"heard")?;
    drop(source);
    let mut asking = connect(target, port::WATCH)?;
    asking.write_all(b"?")?;
    expect(&read_all(&mut asking)?, "heard")
}

fn short(target: &str) -> io::Result<()> {
    let mut stream = connect(target, port::GREETING)?;
    line(&mut stream)?;
    stream.write_all(b"thanks")?;
    stream.shutdown(Shutdown::Write)?;
    expect(&read_all(&mut stream)?, "bye thanks")
}

pub(crate) fn sequence(target: &str, count: usize) -> io::Result<()> {
    for n in 0..count {
        short(target).map_err(|error| io::Error::other(format!("connection {n}: {error}")))?;
    }
    say("done");
    Ok(())
}

/// All opened at once, all open at the same time, and all still their own.
pub(crate) fn parallel(target: &str, count: usize) -> io::Result<()> {
    let open = |n: usize| -> io::Result<TcpStream> {
        let mut stream = connect(target, port::ECHO)?;
        stream.write_all(format!("{n}\n").as_bytes())?;
        Ok(stream)
    };
    let streams: io::Result<Vec<TcpStream>> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..count).map(|n| scope.spawn(move || open(n))).collect();
        let opened = opening.into_iter().map(|thread| thread.join());
        opened
            .map(|stream| stream.map_err(|_| io::Error::other("a thread has died"))?)
            .collect()
    });
    for (n, stream) in streams?.iter_mut().enumerate() {
        expect(&line(stream)?, &n.to_string())?;
    }
    say("done");
    Ok(())
}
