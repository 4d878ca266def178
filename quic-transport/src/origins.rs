//! Handshakes that are running, by where they come from.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use crate::signal::lock;

/// How many there are from each origin; only from those that have some.
#[derive(Debug, Default, Clone)]
pub(crate) struct Origins(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    origins: Origins,
    origin: IpAddr,
}

impl Origins {
    /// One more from `address`; `None` when there are `max` already.
    pub(crate) fn enter(&self, address: IpAddr, max: usize) -> Option<Running> {
        let origin = origin(address);
        let mut running = lock(&self.0);
        let count = running.entry(origin).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        let origins = self.clone();
        Some(Running { origins, origin })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = lock(&self.origins.0);
        if let Some(count) = running.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.origin);
            }
        }
    }
}

/// What one party may be expected to have: an address of IPv4, a /64 of IPv6 (RFC 6177, section 2).
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_origin_has_its_own_places() {
        let origins = Origins::default();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let held = [
            "10.0.0.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "2001:db8::2:0:0:1",
        ]
        .map(|address| origins.enter(at(address), 2).unwrap());
        for full in ["10.0.0.1", "2001:db8::3"] {
            assert!(origins.enter(at(full), 2).is_none(), "{full}");
        }
        for other in ["10.0.0.2", "2001:db8:0:1::1"] {
            assert!(origins.enter(at(other), 2).is_some(), "{other}");
        }
        drop(held);
        assert!(lock(&origins.0).is_empty());
    }
}
