//! Ports for nodes that end and come back: nobody else takes them in between.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

/// Where ports are looked for: below those that systems hand out (Linux from 32,768, macOS from 49,152), since
/// otherwise any socket that anyone opens may get the port of a node that is just restarting. The ports
/// from 20,000 are left to `scripts/`.
const PORTS: Range<u16> = 10_000..20_000;

/// UDP ports on the loopback, which no other test gets as long as this lives, whether they are in use or not.
///
/// A TCP socket on the same number is the claim, which the system takes back however the test ends.
pub struct Ports {
    claims: Vec<TcpListener>,
}

impl Ports {
    /// Claims `count` ports that are free.
    ///
    /// # Panics
    ///
    /// When there are not so many.
    #[must_use]
    pub fn claim(count: usize) -> Self {
        // Tests that start together do not all try the same ones first.
        let first = PORTS.start + (RandomState::new().hash_one(()) % PORTS.len() as u64) as u16;
        let claims: Vec<_> = (first..PORTS.end)
            .chain(PORTS.start..first)
            .filter_map(claim)
            .take(count)
            .collect();
        assert_eq!(claims.len(), count, "too few free ports in {PORTS:?}");
        Self { claims }
    }

    /// The ports.
    ///
    /// # Panics
    ///
    /// Never: the sockets are bound.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let address = |claim: &TcpListener| claim.local_addr().expect("a bound socket");
        self.claims.iter().map(address)
    }
}

/// A claim on `port`, unless another test has one or someone uses it.
fn claim(port: u16) -> Option<TcpListener> {
    let address = (Ipv4Addr::LOCALHOST, port);
    let claim = TcpListener::bind(address).ok()?;
    UdpSocket::bind(address).ok()?;
    Some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_claimed_twice_even_when_it_is_not_in_use() {
        let all: Vec<Ports> = (0..50).map(|_| Ports::claim(5)).collect();
        let mut ports: Vec<u16> = all
            .iter()
            .flat_map(Ports::addresses)
            .map(|address| address.port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 250);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn a_port_in_use_is_not_claimed() {
        let ports = Ports::claim(1);
        let address = ports.addresses().next().unwrap();
        drop(ports);
        let _used = UdpSocket::bind(address).unwrap();
        assert!(claim(address.port()).is_none());
    }
}
