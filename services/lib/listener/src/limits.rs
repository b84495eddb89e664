use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts the running sessions of a port, in total and by client.
#[derive(Debug)]
pub struct Limits {
    max_total: usize,
    max_per_client: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

impl Limits {
    pub fn new(max_total: usize, max_per_client: usize) -> Arc<Self> {
        Arc::new(Self { max_total, max_per_client, counts: Mutex::default() })
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
    /// Books the slot to a client, once its address is known. `false` when that client has too many.
    pub fn assign(&mut self, address: IpAddr) -> bool {
        let client = client_of(address);
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.by_client.entry(client).or_default();
        if *count >= self.limits.max_per_client {
            return false;
        }
        *count += 1;
        self.client = Some(client);
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        let Some(client) = self.client else { return };
        if let Some(count) = counts.by_client.get_mut(&client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.by_client.remove(&client);
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counts_in_total_and_by_client() {
        let limits = Limits::new(3, 1);
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
        let limits = Limits::new(9, 1);
        let mut first = limits.enter().unwrap();
        assert!(first.assign("2001:db8::1".parse().unwrap()));
        assert!(!limits.enter().unwrap().assign("2001:db8::2".parse().unwrap()));
        assert!(limits.enter().unwrap().assign("2001:db8:0:1::1".parse().unwrap()));
        let mut mapped = limits.enter().unwrap();
        assert!(mapped.assign("::ffff:192.0.2.1".parse().unwrap()));
        assert!(!limits.enter().unwrap().assign("192.0.2.1".parse().unwrap()));
    }
}
