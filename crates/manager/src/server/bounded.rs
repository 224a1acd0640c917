//! A bounded number of places. When all are taken, the source that holds most of them gives up its oldest one: whoever
//! stalls cannot keep others out, however many connections one machine opens.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The places.
pub(crate) struct Bounded {
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    places: BTreeMap<u64, (Source, CancellationToken)>,
    /// Places by source; none of them zero.
    held: HashMap<Source, usize>,
}

/// What counts as one machine: an IPv4 address, or an IPv6 network of 64 bits, which one machine has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(u64);

impl From<IpAddr> for Source {
    fn from(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self(u64::from(addr.to_bits())),
            IpAddr::V6(addr) => Self((addr.to_bits() >> 64) as u64),
        }
    }
}

/// A place; dropping it gives it back.
pub(crate) struct Place {
    of: Arc<Bounded>,
    id: u64,
    evicted: CancellationToken,
}

impl Bounded {
    /// `max` places, at least one.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), inner: Mutex::default() })
    }

    /// Takes a place; if none is free, the oldest one of the source with the most places is told to go.
    pub(crate) fn enter(self: &Arc<Self>, source: impl Into<Source>) -> Place {
        let source = source.into();
        let mut inner = self.lock();
        if inner.places.len() >= self.max
            && let Some(oldest) = inner.oldest_of_the_greediest().and_then(|id| inner.remove(id))
        {
            oldest.cancel();
        }
        let id = inner.next;
        inner.next += 1;
        let evicted = CancellationToken::new();
        inner.places.insert(id, (source, evicted.clone()));
        *inner.held.entry(source).or_default() += 1;
        Place { of: Arc::clone(self), id, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn oldest_of_the_greediest(&self) -> Option<u64> {
        let most = self.held.values().max()?;
        self.places.iter().find(|(_, (source, _))| self.held.get(source) == Some(most)).map(|(id, _)| *id)
    }

    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let (source, evicted) = self.places.remove(&id)?;
        if let Some(held) = self.held.get_mut(&source) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&source);
            }
        }
        Some(evicted)
    }
}

impl Place {
    /// Waits until the place has to be given up.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
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
        let places = Bounded::new(2);
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
        let places = Bounded::new(4);
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
