//! The tables of the database. Stored since format 1: change only with a sample in testdata/.

use crate::seal::{SALT_BYTES, random_salt};
use redb::{Database, ReadableTable, TableDefinition};
use std::io;

/// [`META_KEYS`] → sealed message.
pub(crate) const META: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("meta");
/// Position → sealed piece of the snapshot.
pub(crate) const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");
/// Sequence number → sealed entry of the issuance log.
pub(crate) const ISSUED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("issued");
/// Sequence number → sealed private part of that entry, until it is erased.
pub(crate) const PRIVATE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("private");
/// Place → sealed hashes of the tree over the issuance log.
pub(crate) const TILES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("tiles");
/// Number of a process start → its salt, in clear.
pub(crate) const SALTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("salts");

/// What overwrites free pages. While it is there, pages that were freed may hold what has to go.
pub(crate) const FILL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("fill");

/// The rows of the meta table.
pub(crate) struct MetaKeys {
    /// What the snapshot covers.
    pub(crate) snapshot: u64,
    /// A frame that was in the log when this was written.
    pub(crate) frame: u64,
}

/// The rows of the meta table.
pub(crate) const META_KEYS: MetaKeys = MetaKeys { snapshot: 1, frame: 2 };

/// Who seals in a process: the log's thread, and the database's.
const SEALERS: usize = 2;

/// A salt's number and the salt.
pub(crate) type Salt = (u32, [u8; SALT_BYTES]);

/// Makes the tables that are missing and adds the salts of this process, one for each of its sealers, durably: nothing is ever sealed under a salt
/// that could be lost. That sync also makes durable what a killed process left in the page cache.
pub(crate) fn prepare(database: &Database) -> Result<(Vec<Salt>, [Salt; SEALERS]), redb::Error> {
    let fresh = || random_salt().map_err(|error| redb::Error::Io(io::Error::other(error)));
    let mut own = [(0, fresh()?), (0, fresh()?)];
    let transaction = database.begin_write()?;
    let mut salts = Vec::new();
    {
        transaction.open_table(META)?;
        transaction.open_table(SNAPSHOT)?;
        transaction.open_table(ISSUED)?;
        transaction.open_table(PRIVATE)?;
        transaction.open_table(TILES)?;
        let mut table = transaction.open_table(SALTS)?;
        for row in table.iter()? {
            let (id, salt) = row?;
            let salt =
                salt.value().try_into().map_err(|_| redb::Error::Corrupted("a salt has a wrong length".into()))?;
            salts.push((id.value(), salt));
        }
        let mut last = salts.last().map_or(0, |(last, _)| *last);
        for (number, salt) in &mut own {
            last = last.checked_add(1).ok_or_else(|| redb::Error::Corrupted("the salts are used up".into()))?;
            *number = last;
            table.insert(last, salt.as_slice())?;
        }
        salts.extend(own);
    }
    transaction.commit()?;
    Ok((salts, own))
}
