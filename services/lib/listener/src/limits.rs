use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts the running sessions of a port, in total, by client and by network.
#[derive(Debug)]
pub struct Limits {
    max_total: usize,
    max_per_client: usize,
    max_per_network: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
    by_network: HashMap<IpAddr, usize>,
}

impl Limits {
    pub fn new(max_total: usize, max_per_client: usize, max_per_network: usize) -> Arc<Self> {
        Arc::new(Self { max_total, max_per_client, max_per_network, counts: Mutex::default() })
    }

    /// `None` when no further connection fits.
    pub fn enter(self: &Arc<Self>) -> Option<Slot> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.max_total {
            return None;
        }
        counts.total += 1;
        Some(Slot { limits: self.clone(), client: None })
    }
}

/// A place in the port's limits, given back on drop.
#[derive(Debug)]
pub struct Slot {
    limits: Arc<Limits>,
    client: Option<IpAddr>,
}

impl Slot {
    /// Books the slot to a client, once its address is known. `false` when that client or its
    /// network has too many.
    pub fn assign(&mut self, address: IpAddr) -> bool {
        let client = client_of(address);
        let network = network_of(client);
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |map: &HashMap<IpAddr, usize>, key| map.get(key).copied().unwrap_or_default();
        if of(&counts.by_client, &client) >= self.limits.max_per_client
            || of(&counts.by_network, &network) >= self.limits.max_per_network
        {
            return false;
        }
        *counts.by_client.entry(client).or_default() += 1;
        *counts.by_network.entry(network).or_default() += 1;
        self.client = Some(client);
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        let Some(client) = self.client else { return };
        leave(&mut counts.by_client, client);
        leave(&mut counts.by_network, network_of(client));
    }
}

fn leave(counts: &mut HashMap<IpAddr, usize>, key: IpAddr) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// An IPv6 customer has at least a /64, so single addresses would limit nobody.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

/// What usually has one owner: an IPv4 /24, an IPv6 /48.
fn network_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & !0xff).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 80 << 80).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counts_in_total_and_by_client() {
        let limits = Limits::new(3, 1, 9);
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut first = limits.enter().unwrap();
        assert!(first.assign(a));
        let mut second = limits.enter().unwrap();
        assert!(!second.assign(a), "one per client");
        assert!(second.assign(b));
        let third = limits.enter().unwrap();
        assert!(limits.enter().is_none(), "three in total");
        drop((first, third));
        assert!(limits.enter().unwrap().assign(a), "places come back");
    }

    #[test]
    fn ipv6_clients_are_networks() {
        let limits = Limits::new(9, 1, 9);
        let mut first = limits.enter().unwrap();
        assert!(first.assign("2001:db8::1".parse().unwrap()));
        assert!(!limits.enter().unwrap().assign("2001:db8::2".parse().unwrap()));
        assert!(limits.enter().unwrap().assign("2001:db8:0:1::1".parse().unwrap()));
        let mut mapped = limits.enter().unwrap();
        assert!(mapped.assign("::ffff:192.0.2.1".parse().unwrap()));
        assert!(!limits.enter().unwrap().assign("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn networks_have_a_limit_of_their_own() {
        let limits = Limits::new(9, 9, 2);
        let mut slots: Vec<_> = (0..3).map(|_| limits.enter().unwrap()).collect();
        assert!(slots[0].assign("192.0.2.1".parse().unwrap()) && slots[1].assign("192.0.2.200".parse().unwrap()));
        assert!(!slots[2].assign("192.0.2.3".parse().unwrap()));
        assert!(slots[2].assign("192.0.3.3".parse().unwrap()), "the next network");
        slots.remove(0);
        assert!(limits.enter().unwrap().assign("192.0.2.3".parse().unwrap()));
        drop(slots);
        let counts = limits.counts.lock().unwrap();
        assert!(counts.by_client.is_empty() && counts.by_network.is_empty() && counts.total == 0);
    }
}
