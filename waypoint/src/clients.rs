//! How many connections each client of a gateway has open: one address must not take the places of all others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

/// Refusals are told in one line for so long.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The open connections by client.
pub(crate) struct Clients {
    /// None for no limit.
    most: Option<usize>,
    /// Protects the counts; held for a look-up, never over an await. No larger than the limit of all connections.
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Clients {
    /// A limit of 0 is none.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: Some(most).filter(|most| *most > 0),
            open: Mutex::default(),
        }
    }

    /// A place for a connection; `None` where its client has no more.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = client(address);
        let mut open = self.open.lock();
        let count = open.entry(client).or_insert(0);
        if self.most.is_some_and(|most| *count >= most) {
            return None;
        }
        *count += 1;
        Some(Place {
            clients: self.clone(),
            client,
        })
    }
}

/// Who has an IPv6 address has its whole network of 64 bits.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

/// What a connection takes of both limits: all of it until the last of those that hold it has ended, also where bytes go
/// on when HTTP has ended, as after an upgrade.
pub(crate) struct Admission {
    _among_all: OwnedSemaphorePermit,
    _of_client: Place,
}

impl Admission {
    pub(crate) fn new(among_all: OwnedSemaphorePermit, of_client: Place) -> Self {
        Self {
            _among_all: among_all,
            _of_client: of_client,
        }
    }
}

/// One connection of a client, until it is dropped.
pub(crate) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.clients.open.lock();
        let Some(count) = open.get_mut(&self.client) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            open.remove(&self.client);
        }
    }
}

/// Refusals as lines of the log: who is refused often must not write often.
#[derive(Default)]
pub(crate) struct Refusals {
    last: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// Notes one; gives how many there were since the last line where it is time for another.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.last.is_some_and(|last| now < last + LINE_EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_so_many_places_and_gets_them_back() {
        let clients = Arc::new(Clients::new(2));
        let first = clients.admit(ip("192.0.2.1")).unwrap();
        let _second = clients.admit(ip("::ffff:192.0.2.1")).unwrap();
        assert!(clients.admit(ip("192.0.2.1")).is_none());
        assert!(
            clients.admit(ip("192.0.2.2")).is_some(),
            "another client has its own"
        );
        drop(first);
        let third = clients.admit(ip("192.0.2.1"));
        assert!(third.is_some());
        drop((third, _second));
        assert!(clients.open.lock().is_empty(), "who has none takes no room");
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let clients = Arc::new(Clients::new(1));
        let _place = clients.admit(ip("2001:db8:1:2::3"));
        assert!(clients.admit(ip("2001:db8:1:2:ffff::1")).is_none());
        assert!(clients.admit(ip("2001:db8:1:3::3")).is_some());
    }

    #[test]
    fn no_limit_refuses_nobody() {
        let clients = Arc::new(Clients::new(0));
        let places: Vec<_> = (0..1000).map(|_| clients.admit(ip("192.0.2.1"))).collect();
        assert!(places.iter().all(Option::is_some));
    }

    #[test]
    fn refusals_are_told_now_and_then_and_all_are_counted() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.note(start), Some(1));
        assert_eq!(refusals.note(start + LINE_EVERY / 2), None);
        assert_eq!(refusals.note(start + LINE_EVERY), Some(2));
    }
}
