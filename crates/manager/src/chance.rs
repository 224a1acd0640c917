//! Randomness, given as an argument.

use std::sync::Arc;

use pki::identity::NodeId;
use pki::key::PrivateKey;
use pki::serial::Serial;

/// A source of random bytes. The product's is the operating system's; the simulator's comes from its seed.
#[derive(Clone)]
pub struct Chance(Arc<Fill>);

type Fill = dyn Fn(&mut [u8]) -> bool + Send + Sync;

/// No random bytes could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoChance;

impl Chance {
    /// A source; it returns false when it has nothing to give.
    pub fn new(fill: impl Fn(&mut [u8]) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// The operating system's.
    pub fn system() -> Self {
        Self::new(|bytes| aws_lc_rs::rand::fill(bytes).is_ok())
    }

    /// `N` random bytes.
    ///
    /// # Errors
    /// If the source has none.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], NoChance> {
        let mut bytes = [0; N];
        if (self.0)(&mut bytes) { Ok(bytes) } else { Err(NoChance) }
    }

    /// A new node id.
    ///
    /// # Errors
    /// If the source has no bytes.
    pub fn node_id(&self) -> Result<NodeId, NoChance> {
        Ok(NodeId::generate(self.bytes()?))
    }

    /// A new serial.
    ///
    /// # Errors
    /// If the source has no bytes.
    pub fn serial(&self) -> Result<Serial, NoChance> {
        Ok(Serial::from_random(self.bytes()?))
    }

    /// A new P-256 key. A seed outside the group's order, once in 2^32 draws, is drawn again.
    ///
    /// # Errors
    /// If the source has no bytes, or none that make a key.
    pub fn p256_key(&self) -> Result<PrivateKey, NoChance> {
        for _ in 0..4 {
            let seed = zeroize::Zeroizing::new(self.bytes::<32>()?);
            if let Ok(key) = PrivateKey::generate_p256(&seed) {
                return Ok(key);
            }
        }
        Err(NoChance)
    }
}
