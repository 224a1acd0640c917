//! A bounded number of places. When all are taken, the holder of most of them gives up its oldest one: whoever
//! stalls cannot keep others out, however many connections one machine, or one person, opens.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The places, and whose they are: machines' or others'.
pub struct Bounded<K = Source> {
    max: usize,
    inner: Mutex<Inner<K>>,
}

struct Inner<K> {
    next: u64,
    places: BTreeMap<u64, (K, CancellationToken)>,
    /// Places by holder; none of them zero.
    held: HashMap<K, usize>,
}

/// What counts as one machine: an IPv4 address, or an IPv6 network of 64 bits, which one machine has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(u64);

impl From<IpAddr> for Source {
    fn from(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self(u64::from(addr.to_bits())),
            IpAddr::V6(addr) => Self((addr.to_bits() >> 64) as u64),
        }
    }
}

/// A place; dropping it gives it back.
pub struct Place<K: Clone + Eq + Hash = Source> {
    of: Arc<Bounded<K>>,
    id: u64,
    evicted: CancellationToken,
}

impl<K: Clone + Eq + Hash> Bounded<K> {
    /// `max` places, at least one.
    pub fn new(max: usize) -> Arc<Self> {
        let inner = Inner { next: 0, places: BTreeMap::new(), held: HashMap::new() };
        Arc::new(Self { max: max.max(1), inner: Mutex::new(inner) })
    }

    /// Takes a place; if none is free, the oldest one of the holder with the most places is told to go.
    pub fn enter(self: &Arc<Self>, holder: impl Into<K>) -> Place<K> {
        let holder = holder.into();
        let mut inner = self.lock();
        if inner.places.len() >= self.max
            && let Some(oldest) = inner.oldest_of_the_greediest().and_then(|id| inner.remove(id))
        {
            oldest.cancel();
        }
        let id = inner.next;
        inner.next += 1;
        let evicted = CancellationToken::new();
        inner.places.insert(id, (holder.clone(), evicted.clone()));
        *inner.held.entry(holder).or_default() += 1;
        Place { of: Arc::clone(self), id, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Inner<K> {
    fn oldest_of_the_greediest(&self) -> Option<u64> {
        let most = self.held.values().max()?;
        self.places.iter().find(|(_, (holder, _))| self.held.get(holder) == Some(most)).map(|(id, _)| *id)
    }

    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let (holder, evicted) = self.places.remove(&id)?;
        if let Some(held) = self.held.get_mut(&holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&holder);
            }
        }
        Some(evicted)
    }
}

impl<K: Clone + Eq + Hash> Place<K> {
    /// Waits until the place has to be given up.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.of.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn source(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[tokio::test]
    async fn the_oldest_gives_way() {
        let places = Bounded::<Source>::new(2);
        let (first, second) = (places.enter(source(1)), places.enter(source(1)));
        assert!(!first.evicted.is_cancelled());
        let third = places.enter(source(1));
        first.evicted().await;
        assert!(!second.evicted.is_cancelled() && !third.evicted.is_cancelled());
        drop(third);
        let _fourth = places.enter(source(1));
        assert!(!second.evicted.is_cancelled(), "a place given back is free");
        drop(first);
        assert_eq!(places.lock().places.len(), 2);
    }

    #[test]
    fn a_flood_from_one_machine_pushes_out_itself() {
        let places = Bounded::<Source>::new(4);
        let honest = places.enter(source(1));
        let flood: Vec<_> = (0..100).map(|_| places.enter(source(2))).collect();
        assert!(!honest.evicted.is_cancelled());
        assert_eq!(flood.iter().filter(|place| !place.evicted.is_cancelled()).count(), 3);
        drop((honest, flood));
        let inner = places.lock();
        assert!(inner.places.is_empty() && inner.held.is_empty(), "nothing stays behind");
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let of = |last| Source::from(IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last)));
        assert_eq!(of(1), of(2));
        assert_ne!(of(1), Source::from(IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1))));
        assert_eq!(
            Source::from(IpAddr::from(Ipv4Addr::LOCALHOST.to_ipv6_mapped())),
            Source::from(IpAddr::from(Ipv4Addr::LOCALHOST))
        );
    }
}
