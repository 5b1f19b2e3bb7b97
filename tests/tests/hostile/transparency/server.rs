//! The server's side: a behaviour per port.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use socket2::SockRef;

use super::{BULK, pattern, port};

type Behaviour = fn(&mut TcpStream) -> io::Result<()>;

/// How the last watched client has ended, once it has.
static ENDED: Mutex<Option<String>> = Mutex::new(None);
static SOMEBODY_ENDED: Condvar = Condvar::new();
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves in threads of this process, until it ends.
pub(crate) fn serve() -> io::Result<()> {
    let behaviours: [(u16, Behaviour); 6] = [
        (port::ECHO, echo),
        (port::SINK, sink),
        (port::SOURCE, source),
        (port::GREETING, greet),
        (port::RESET, reset),
        (port::WATCH, watch),
    ];
    for (port, behaviour) in behaviours {
        listen(port, behaviour)?;
    }
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port::ECHO))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

pub(crate) fn listen(
    port: u16,
    behaviour: impl Fn(&mut TcpStream) -> io::Result<()> + Copy + Send + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    // Five hundred may come at once.
    // SAFETY: a plain system call on a socket that is ours.
    if unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 1024) } != 0 {
        return Err(io::Error::last_os_error());
    }
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client may leave in the middle: that is the client's to tell.
            std::thread::spawn(move || behaviour(&mut stream));
        }
    });
    Ok(())
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(&mut stream.try_clone()?, stream)?;
    Ok(())
}

fn sink(stream: &mut TcpStream) -> io::Result<()> {
    let judgement = judge(stream)?;
    stream.write_all(judgement.as_bytes())
}

/// Reads to the end and says how much came, and whether it was the pattern.
pub(crate) fn judge(stream: &mut impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 256 * 1024];
    let mut expected = buffer.clone();
    let mut at = 0;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(format!("{at} bytes in order\n"));
        }
        pattern(at, &mut expected[..read]);
        if buffer[..read] != expected[..read] {
            return Ok(format!("wrong within {read} bytes from {at} on\n"));
        }
        at += read as u64;
    }
}

/// Sends the pattern.
pub(crate) fn pour(stream: &mut impl Write, total: u64) -> io::Result<()> {
    let mut buffer = vec![0; 100_003];
    let mut at = 0;
    while at < total {
        let size = (total - at).min(buffer.len() as u64);
        let piece = &mut buffer[..size as usize];
        pattern(at, piece);
        stream.write_all(piece)?;
        at += size;
    }
    Ok(())
}

fn source(stream: &mut TcpStream) -> io::Result<()> {
    pour(stream, BULK)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut judgement = String::new();
    stream.read_to_string(&mut judgement)?;
    note(judgement);
    Ok(())
}

fn greet(stream: &mut TcpStream) -> io::Result<()> {
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    let (peer, local) = (peer.ip().to_canonical(), local.ip().to_canonical());
    stream.write_all(format!("{peer} {local}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    stream.write_all(format!("bye {answer}").as_bytes())
}

fn reset(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; 1])?;
    SockRef::from(&*stream).set_linger(Some(Duration::ZERO))
}

fn watch(stream: &mut TcpStream) -> io::Result<()> {
    let mut first = [0; 1];
    stream.read_exact(&mut first)?;
    if first == *b"?" {
        return tell(stream);
    }
    stream.write_all(b"!")?;
    note(match stream.read(&mut first) {
        Ok(0) => "end".to_owned(),
        Ok(_) => "more".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    });
    Ok(())
}

fn note(how: String) {
    *ENDED.lock().unwrap() = Some(how);
    SOMEBODY_ENDED.notify_all();
}

/// Waits until a client has ended, and says how.
fn tell(stream: &mut TcpStream) -> io::Result<()> {
    let ended = ENDED.lock().unwrap();
    let (mut ended, _) = SOMEBODY_ENDED
        .wait_timeout_while(ended, PATIENCE, |ended| ended.is_none())
        .unwrap();
    let how = ended.take().unwrap_or_else(|| "nobody has ended".to_owned());
    stream.write_all(how.trim_end().as_bytes())
}
