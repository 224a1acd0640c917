//! Overwrites pages that the database has freed, where an old snapshot lay: a table takes them, full of zeros, and is dropped.

use super::table::FILL;
use redb::{Database, ReadableDatabase, TableHandle};
use std::path::Path;

/// Transactions that only let the database take back what was freed before.
const FIRST_PIECES: u64 = 2;
/// Pages of one piece: 1 MiB.
const PIECE_ROWS: u64 = 256;
/// Two of these do not fit into one page.
const ROW: [u8; 3900] = [0; 3900];
/// Pieces at most: what is freed at once is a snapshot, or a few small ones.
const PIECES_MAX: u64 = FIRST_PIECES + 8;

/// How far it is.
#[derive(Default)]
pub(super) struct Fill {
    pieces: u64,
    /// The file's length when the first free page was taken.
    length: Option<u64>,
}

impl Fill {
    /// Whether something was freed that was not overwritten: the table is the mark.
    pub(super) fn is_due(database: &Database) -> Result<bool, redb::Error> {
        Ok(database.begin_read()?.list_tables()?.any(|table| table.name() == FILL.name()))
    }

    /// Writes one piece, synced. None: it is done, and the table is gone.
    pub(super) fn go_on(mut self, database: &Database, path: &Path) -> Result<Option<Self>, redb::Error> {
        let length = || std::fs::metadata(path).ok().map(|file| file.len());
        if self.pieces == FIRST_PIECES {
            self.length = length();
        }
        // It has begun to grow: nothing is free any more.
        let grown = self.length.is_some_and(|before| length().is_some_and(|now| now > before));
        let transaction = database.begin_write()?;
        if self.pieces == 0 {
            // Of one that was broken off: its pages are as good as free.
            transaction.delete_table(FILL)?;
        }
        if grown || self.pieces >= PIECES_MAX {
            transaction.delete_table(FILL)?;
            transaction.commit()?;
            return Ok(None);
        }
        {
            let mut table = transaction.open_table(FILL)?;
            let rows = if self.pieces < FIRST_PIECES { 1 } else { PIECE_ROWS };
            for row in 0..rows {
                table.insert(self.pieces * PIECE_ROWS + row, ROW.as_slice())?;
            }
        }
        transaction.commit()?;
        self.pieces += 1;
        Ok(Some(self))
    }
}
