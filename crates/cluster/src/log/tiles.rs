//! The tree's hashes as they are kept: in tiles of 256, so that a proof reads a few rows, however long the log is.
//!
//! ```text
//! level 2                     hashes of 65,536 entries each …
//! level 1     hashes of 256 entries each, 256 of them a tile …
//! level 0     hashes of entries, 256 of them a tile …            [the last ones: not yet a tile]
//! ```
//!
//! A tile of level 0 is kept when it is full. One of a higher level is kept anew with each hash that it gets: one in 256
//! entries changes it. So appending costs one hash an entry, and a row or two in 256.

use super::{Hash, node_hash};
use pki::merkle::Subtrees;

/// Levels of the tree in a tile, as a power of two: it holds 256 hashes.
const TILE_BITS: u32 = 8;
/// Hashes in a full tile.
pub const TILE: usize = 1 << TILE_BITS;
/// Levels of tiles: more than any log has entries for.
pub const LEVELS: u32 = u64::BITS / TILE_BITS;

/// Where a tile lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its level, from 0.
    pub level: u32,
    /// Its number in the level, from 0.
    pub index: u64,
}

impl Place {
    /// Its number among all: those of a level follow each other.
    pub fn key(self) -> u64 {
        u64::from(self.level) << (u64::BITS - TILE_BITS) | self.index
    }

    /// The first entry below it.
    pub fn first(self) -> u64 {
        self.index << (TILE_BITS * self.level + TILE_BITS)
    }
}

/// The bytes of a tile's hashes.
pub fn encode(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes of a tile; none: these are no tile's bytes.
pub fn decode(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && hashes.len() <= TILE).then(|| hashes.to_vec())
}

/// The root over the hashes of a full tile.
pub fn root(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        for at in 0..row.len() / 2 {
            let (left, right) = (row.get(2 * at)?, row.get(2 * at + 1)?);
            let over = node_hash(left, right);
            *row.get_mut(at)? = over;
        }
        row.truncate(row.len() / 2);
    }
    row.first().copied()
}

/// Makes the tiles of a log, entry by entry.
#[derive(Clone, Debug, Default)]
pub struct Tiler {
    /// Entries taken.
    size: u64,
    /// Of each level, the hashes that are not in a full tile yet.
    open: Vec<Vec<Hash>>,
}

impl Tiler {
    /// Goes on behind the full tiles of level 0 that are kept already, `full` of them. `tile` gives a tile of a higher level as it is kept;
    /// none: it is not, or is another's, and all have to be made anew.
    pub fn resume(full: u64, mut tile: impl FnMut(Place) -> Option<Vec<Hash>>) -> Option<Self> {
        let mut open = vec![Vec::new()];
        let mut hashes = full;
        for level in 1..LEVELS {
            if hashes == 0 {
                break;
            }
            let wanted = usize::try_from(hashes % TILE as u64).ok()?;
            let index = hashes >> TILE_BITS;
            let kept = if wanted == 0 { Vec::new() } else { tile(Place { level, index })? };
            // A full tile of this level may be followed by nothing.
            open.push(kept.get(..wanted)?.to_vec());
            hashes = index;
        }
        Some(Self { size: full << TILE_BITS, open })
    }

    /// Entries taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the hash of the next entry; `keep` gets the tiles that are to be kept now.
    pub fn push(&mut self, leaf: Hash, mut keep: impl FnMut(Place, &[Hash])) {
        let mut hash = leaf;
        self.size += 1;
        for level in 0..LEVELS {
            let at = level as usize;
            if self.open.len() <= at {
                self.open.push(Vec::with_capacity(TILE));
            }
            let Some(open) = self.open.get_mut(at) else { return };
            open.push(hash);
            let full = open.len() == TILE;
            if level > 0 || full {
                let hashes = self.size >> (TILE_BITS * level);
                keep(Place { level, index: (hashes - 1) >> TILE_BITS }, open);
            }
            let over = root(open).filter(|_| full);
            let Some(over) = over else { return };
            open.clear();
            hash = over;
        }
    }
}

/// Whoever has the tiles.
pub trait Tiles {
    /// Why it does not.
    type Error;

    /// A tile: all hashes of it that there are. The last of level 0 may have to be made from its entries.
    ///
    /// # Errors
    /// If it cannot be read.
    fn tile(&mut self, place: Place) -> Result<Vec<Hash>, Self::Error>;

    /// What is said of a tile that has not got the hashes that it must have.
    fn lacking(&self, place: Place) -> Self::Error;
}

/// The tree over tiles; reads each of them once.
pub struct Tree<T> {
    tiles: T,
    read: Vec<(Place, Vec<Hash>)>,
}

impl<T> Tree<T> {
    /// The tree over these tiles.
    pub fn new(tiles: T) -> Self {
        Self { tiles, read: Vec::new() }
    }
}

impl<T: Tiles> Subtrees for Tree<T> {
    type Error = T::Error;

    fn subtree(&mut self, level: u32, first: u64) -> Result<Hash, T::Error> {
        let (tile, within) = (level / TILE_BITS, level % TILE_BITS);
        let hash = first >> (TILE_BITS * tile);
        let place = Place { level: tile, index: hash >> TILE_BITS };
        let at = match self.read.iter().position(|(known, _)| *known == place) {
            Some(at) => at,
            None => {
                let hashes = self.tiles.tile(place)?;
                self.read.push((place, hashes));
                self.read.len() - 1
            }
        };
        let begin = usize::try_from(hash & (TILE as u64 - 1)).unwrap_or_default();
        let hashes = self.read.get(at).and_then(|(_, hashes)| hashes.get(begin..begin + (1 << within)));
        hashes.and_then(root).ok_or_else(|| self.tiles.lacking(place))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::log::{LogHead, leaf_hash};
    use pki::merkle;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Tiles in memory, and the entries, which are their own numbers.
    #[derive(Default)]
    struct Kept {
        tiles: BTreeMap<Place, Vec<Hash>>,
        size: u64,
        reads: usize,
    }

    fn leaf(seq: u64) -> Hash {
        leaf_hash(&seq.to_be_bytes())
    }

    impl Kept {
        fn of(size: u64) -> (Self, Tiler, LogHead) {
            let (mut kept, mut tiler, mut head) = (Self::default(), Tiler::default(), LogHead::default());
            for seq in 0..size {
                tiler.push(leaf(seq), |place, hashes| drop(kept.tiles.insert(place, hashes.to_vec())));
                head.append_hash(leaf(seq));
            }
            kept.size = size;
            (kept, tiler, head)
        }
    }

    impl Tiles for &mut Kept {
        type Error = Place;

        fn tile(&mut self, place: Place) -> Result<Vec<Hash>, Place> {
            self.reads += 1;
            if let Some(hashes) = self.tiles.get(&place) {
                return Ok(decode(&encode(hashes)).unwrap());
            }
            assert_eq!(place.level, 0, "only the last entries are without a tile");
            Ok((place.first()..self.size).map(leaf).collect())
        }

        fn lacking(&self, place: Place) -> Place {
            place
        }
    }

    #[test]
    fn proofs_from_tiles() {
        for size in [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000] {
            let (mut kept, _, head) = Kept::of(size);
            assert_eq!(merkle::frontier(&mut Tree::new(&mut kept), size).as_deref(), Ok(head.frontier()), "{size}");
            for seq in [0, 1, size / 2, size - 1].into_iter().filter(|seq| *seq < size) {
                kept.reads = 0;
                let proof = merkle::inclusion(&mut Tree::new(&mut kept), seq, size).unwrap().unwrap();
                assert!(kept.reads <= 6, "{} tiles read for {seq} of {size}", kept.reads);
                assert!(merkle::includes(leaf(seq), seq, size, &proof, &head.root()), "{seq} of {size}");
            }
        }
    }

    #[test]
    fn a_tile_that_is_short_is_named() {
        let (mut kept, ..) = Kept::of(1024);
        let place = Place { level: 1, index: 0 };
        kept.tiles.get_mut(&place).unwrap().truncate(2);
        assert_eq!(merkle::root(&mut Tree::new(&mut kept), 1024), Err(place));
        assert_eq!(decode(&[0; 33]), None);
        assert_eq!(decode(&[0; 32 * 257]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whoever goes on from what is kept goes on as if he had never stopped; what older heads say can be shown at any time.
        #[test]
        fn it_goes_on_where_it_was(size in 0u64..140_000, more in 0u64..70_000, before in any::<prop::sample::Index>()) {
            let (mut kept, _, mut head) = Kept::of(size);
            let before = before.index(size as usize + 1) as u64;
            let older = merkle::root(&mut Tree::new(&mut kept), before).unwrap();
            let full = size >> TILE_BITS;
            let mut tiler = Tiler::resume(full, |place| kept.tiles.get(&place).cloned()).unwrap();
            prop_assert_eq!(tiler.size(), full << TILE_BITS);
            for seq in tiler.size()..size + more {
                tiler.push(leaf(seq), |place, hashes| drop(kept.tiles.insert(place, hashes.to_vec())));
            }
            for seq in size..size + more {
                head.append_hash(leaf(seq));
            }
            kept.size = size + more;
            prop_assert_eq!(tiler.size(), kept.size.max(full << TILE_BITS));
            prop_assert_eq!(merkle::root(&mut Tree::new(&mut kept), size + more), Ok(head.root()));
            let proof = merkle::consistency(&mut Tree::new(&mut kept), before, size + more).unwrap().unwrap();
            prop_assert!(merkle::extends(before, &older, size + more, &head.root(), &proof));
        }
    }
}
