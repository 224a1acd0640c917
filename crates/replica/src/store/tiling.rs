//! Keeps the hashes of the tree over the issuance log, a little behind the entries: in the same transaction as they, or, where
//! entries came out of order, or before there were any hashes, a piece at a time when nobody waits.

use super::rows::seal;
use super::table::{ISSUED, TILES};
use super::{Files, StoreError};
use crate::seal::{Kind, Sealer};
use cluster::log::tiles::{Place, TILE, Tiler, decode};
use cluster::log::{Hash, leaf_hash};
use redb::{Durability, ReadableDatabase, ReadableTable, Table};

/// Entries that are caught up with at a time.
const PIECE: usize = 4096;

/// What is kept already, and what is not.
pub(super) struct Tiling {
    tiler: Tiler,
    /// One more than the last entry that there is.
    end: u64,
    behind: bool,
}

impl Tiling {
    /// Goes on from what is kept.
    pub(super) fn resume(files: &Files) -> Result<Self, StoreError> {
        let failed = |error| StoreError::database(&files.path, "read the issuance log of", error);
        let end = files.last_issued().map_err(failed)?.map_or(0, |seq| seq.saturating_add(1));
        let full = files.full_tiles().map_err(failed)?;
        let kept = |place: Place| files.stored_tile(place).ok().flatten();
        // What cannot be gone on from is made anew.
        let tiler = Tiler::resume(full, kept).unwrap_or_default();
        let behind = tiler.size() < end;
        Ok(Self { tiler, end, behind })
    }

    /// Whether there are entries whose hashes are not kept.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// An entry was written.
    pub(super) fn take(
        &mut self,
        seq: u64,
        bytes: &[u8],
        tiles: &mut Table<'_, u64, &'static [u8]>,
        sealer: &mut Sealer,
    ) -> Result<(), redb::Error> {
        self.end = self.end.max(seq.saturating_add(1));
        if seq == self.tiler.size() {
            self.push(leaf_hash(bytes), tiles, sealer)?;
        }
        self.behind = self.tiler.size() < self.end;
        Ok(())
    }

    fn push(
        &mut self,
        leaf: Hash,
        tiles: &mut Table<'_, u64, &'static [u8]>,
        sealer: &mut Sealer,
    ) -> Result<(), redb::Error> {
        let mut result = Ok(());
        self.tiler.push(leaf, |place, hashes| {
            if result.is_ok() {
                result = keep(place, hashes, tiles, sealer);
            }
        });
        result
    }

    /// A piece of what is missing.
    pub(super) fn catch_up(&mut self, files: &Files, sealer: &mut Sealer) -> Result<(), StoreError> {
        let failed = |error| StoreError::database(&files.path, "write the tree of", error);
        let mut leaves = Vec::new();
        let read = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let table = files.database.begin_read()?.open_table(ISSUED)?;
            let rows = table.range(self.tiler.size()..)?.take(PIECE);
            rows.map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).map_err(Into::into)).collect()
        };
        for (at, (seq, sealed)) in (self.tiler.size()..).zip(read().map_err(failed)?) {
            // Behind a gap nothing is known; what cannot be read is told by whoever reads it.
            let Some(bytes) = (seq == at).then(|| files.opener.open(Kind::Issued, seq, &sealed).ok()).flatten() else {
                break;
            };
            leaves.push(leaf_hash(&bytes));
        }
        let more = leaves.len() == PIECE;
        if leaves.is_empty() {
            self.behind = false;
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let mut transaction = files.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut tiles = transaction.open_table(TILES)?;
                for leaf in leaves {
                    self.push(leaf, &mut tiles, sealer)?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(failed)?;
        self.behind = more;
        Ok(())
    }
}

fn keep(
    place: Place,
    hashes: &[Hash],
    tiles: &mut Table<'_, u64, &'static [u8]>,
    sealer: &mut Sealer,
) -> Result<(), redb::Error> {
    let sealed = seal(sealer, Kind::Tile, place.key(), &cluster::log::tiles::encode(hashes))?;
    tiles.insert(place.key(), sealed.as_slice())?;
    Ok(())
}

impl Files {
    /// The last sequence number in the issuance projection.
    pub(super) fn last_issued(&self) -> Result<Option<u64>, redb::Error> {
        let table = self.database.begin_read()?.open_table(ISSUED)?;
        Ok(table.last()?.map(|(key, _)| key.value()))
    }

    /// Full tiles of level 0, from the first on.
    fn full_tiles(&self) -> Result<u64, redb::Error> {
        let table = self.database.begin_read()?.open_table(TILES)?;
        let above = Place { level: 1, index: 0 }.key();
        let last = table.range(..above)?.next_back().transpose()?;
        Ok(last.map_or(0, |(key, _)| key.value().saturating_add(1)))
    }

    /// A tile as it is kept; none: it is not there.
    pub(super) fn stored_tile(&self, place: Place) -> Result<Option<Vec<Hash>>, StoreError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(TILES)?;
            Ok(table.get(place.key())?.map(|value| value.value().to_vec()))
        };
        let failed = |error| StoreError::database(&self.path, "read the tree of", error);
        let Some(sealed) = read().map_err(failed)? else { return Ok(None) };
        let hashes = decode(&self.unseal(Kind::Tile, place.key(), &sealed)?);
        let wrong = || StoreError::damaged(&self.path, format!("hashes of the issuance log ({place:?}) are none"));
        hashes.filter(|hashes| place.level > 0 || hashes.len() == TILE).map(Some).ok_or_else(wrong)
    }
}
