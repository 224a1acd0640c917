//! The tree over the issuance log, read from its tiles. What is not kept yet is made from what is below it.

use super::table::ISSUED;
use super::{Files, Store, StoreError};
use crate::seal::Kind;
use cluster::log::tiles::{Place, TILE, Tiles, Tree, root};
use cluster::log::{Hash, leaf_hash};
use pki::merkle;
use redb::ReadableDatabase;

struct Kept<'a> {
    files: &'a Files,
    /// Entries that there are for whoever asks.
    size: u64,
}

impl Tiles for Kept<'_> {
    type Error = StoreError;

    fn tile(&mut self, place: Place) -> Result<Vec<Hash>, StoreError> {
        let mut hashes = match self.files.stored_tile(place)? {
            Some(kept) => kept,
            None if place.level == 0 => return self.files.leaves(place.first(), TILE),
            None => Vec::new(),
        };
        // What is kept of a tile that is not full may be behind what is below it.
        let first = place.index * TILE as u64;
        for index in first + hashes.len() as u64..first + TILE as u64 {
            let below = Place { level: place.level - 1, index };
            if below.first() >= self.size {
                break;
            }
            let tile = self.tile(below)?;
            let Some(hash) = root(&tile).filter(|_| tile.len() == TILE) else { break };
            hashes.push(hash);
        }
        Ok(hashes)
    }

    fn lacking(&self, place: Place) -> StoreError {
        let entry = place.first();
        StoreError::damaged(&self.files.path, format!("entries of the issuance log are missing, from {entry} on"))
    }
}

impl Files {
    /// Hashes of at most so many entries from one on, without a gap.
    fn leaves(&self, from: u64, max: usize) -> Result<Vec<Hash>, StoreError> {
        let failed = |error| StoreError::database(&self.path, "read the issuance log of", error);
        let read = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let table = self.database.begin_read()?.open_table(ISSUED)?;
            let rows = table.range(from..)?.take(max);
            rows.map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).map_err(Into::into)).collect()
        };
        let rows = read().map_err(failed)?;
        let whole = rows.into_iter().zip(from..).take_while(|((seq, _), at)| seq == at);
        whole.map(|((seq, sealed), _)| Ok(leaf_hash(&self.unseal(Kind::Issued, seq, &sealed)?))).collect()
    }
}

impl Store {
    fn tree<T>(
        &self,
        size: u64,
        make: impl FnOnce(&mut Tree<Kept<'_>>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let files = self.files();
        make(&mut Tree::new(Kept { files: &files, size }))
    }

    /// The path from an entry to the root over the first `size`; none: there is no such entry.
    pub(crate) fn inclusion(&self, seq: u64, size: u64) -> Result<Option<Vec<Hash>>, StoreError> {
        self.tree(size, |tree| merkle::inclusion(tree, seq, size))
    }

    /// What shows that the first `before` entries are the beginning of the first `size`; none: they are more.
    pub(crate) fn consistency(&self, before: u64, size: u64) -> Result<Option<Vec<Hash>>, StoreError> {
        self.tree(size, |tree| merkle::consistency(tree, before, size))
    }

    /// The root over the first `size` entries.
    pub(crate) fn root(&self, size: u64) -> Result<Hash, StoreError> {
        self.tree(size, |tree| merkle::root(tree, size))
    }
}
