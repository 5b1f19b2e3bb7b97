//! The system's resolver.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use aquifer_core::address::is_of_a_host;
use dns_lookup::{LookupError, LookupErrorKind};

use super::{Answer, Failure, Lookup};

/// Addresses that are taken of one answer.
const MAX_ADDRESSES: usize = 64;

/// Each look-up holds a thread until the resolver's own time limit.
pub(crate) fn lookup() -> Lookup {
    Arc::new(move |name: Arc<str>| {
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || ask(&name));
            asked
                .await
                .map_err(|error| Failure::Unanswered(error.to_string()))?
        })
    })
}

/// The addresses that this host has a route to; all where it has one to none.
fn ask(name: &str) -> Answer {
    let all: Vec<IpAddr> = dns_lookup::lookup_host(name).map_err(failure)?.collect();
    let routed: Vec<IpAddr> = all.iter().copied().filter(|ip| has_route(*ip)).collect();
    Ok(if routed.is_empty() { all } else { routed })
}

/// A name server that says that there is no such name is believed; anything else may be over in a moment.
fn failure(error: LookupError) -> Failure {
    match error.kind() {
        LookupErrorKind::NoName | LookupErrorKind::NoData => Failure::Nothing,
        _ => Failure::Unanswered(io::Error::from(error).to_string()),
    }
}

/// The kernel says so when a socket of datagrams is told its peer; nothing is sent.
fn has_route(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0));
    socket.is_ok_and(|socket| socket.connect(SocketAddr::new(ip, 9)).is_ok())
}

/// What of an answer may be connected to.
pub(super) fn usable(addresses: Vec<IpAddr>) -> Answer {
    let mut kept: Vec<IpAddr> = Vec::new();
    for ip in addresses {
        let ip = ip.to_canonical();
        if is_of_a_host(ip) && !kept.contains(&ip) && kept.len() < MAX_ADDRESSES {
            kept.push(ip);
        }
    }
    match kept.is_empty() {
        true => Err(Failure::Nothing),
        false => Ok(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_that_there_is_nothing_counts_as_nothing() {
        let of = |kind: i32| failure(LookupError::new(kind));
        // EAI_NONAME, EAI_NODATA, EAI_AGAIN, EAI_FAIL and EAI_SYSTEM of Linux.
        for (kind, is_nothing) in [(-2, true), (-5, true), (-3, false), (-4, false), (-11, false)] {
            assert_eq!(matches!(of(kind), Failure::Nothing), is_nothing, "{kind}");
        }
    }

    #[test]
    fn of_an_answer_other_hosts_are_taken_once_each() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let answer = vec![
            ip("127.0.0.1"),
            ip("192.0.2.1"),
            ip("::ffff:192.0.2.1"),
            ip("169.254.169.254"),
        ];
        assert_eq!(usable(answer).unwrap(), [ip("192.0.2.1")]);
        assert!(matches!(usable(vec![ip("::1")]), Err(Failure::Nothing)));
    }
}
