//! Serials that external CAs gave: one that comes twice is none.

use std::collections::{HashSet, VecDeque};

use pki::serial::Serial;

/// Serials remembered; the oldest gives way. A CA that repeats itself does so soon, and what a node holds is compared besides.
const REMEMBERED_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Serials {
    known: HashSet<Serial>,
    order: VecDeque<Serial>,
}

impl Serials {
    /// Remembers a serial; whether it is one that was not known.
    pub(super) fn add(&mut self, serial: Serial) -> bool {
        if !self.known.insert(serial) {
            return false;
        }
        self.order.push_back(serial);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        let serial = |n: u32| {
            let mut bytes = [1; 20];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            Serial::from_random(bytes)
        };
        let mut serials = Serials::default();
        for n in 0..=u32::try_from(REMEMBERED_MAX).unwrap_or(u32::MAX) {
            assert!(serials.add(serial(n)));
            assert!(!serials.add(serial(n)), "known");
        }
        assert!(!serials.known.contains(&serial(0)) && serials.known.contains(&serial(1)));
        assert_eq!(serials.known.len(), REMEMBERED_MAX);
    }
}
