//! The unlock key (pki.md 10.1): while managers are locked at rest, their key files are sealed under it.
//!
//! There is a key exactly while [`Settings::autolock`](crate::settings::Settings::autolock) says so; both change in one entry.

use std::sync::Arc;

use pki::unlock_key::UnlockKey;

use crate::account::{Event, KeyKind};
use crate::apply::Entry;
use crate::command::UpdateCluster;
use crate::outcome::Outcome;
use crate::state::State;

/// An unlock key in the log and in the state; shows nothing of itself.
#[derive(Clone)]
pub struct UnlockBox(pub Arc<UnlockKey>);

impl std::fmt::Debug for UnlockBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnlockBox")
    }
}

impl PartialEq for UnlockBox {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes().ct_eq(other.0.bytes().expose())
    }
}

impl Eq for UnlockBox {}

/// What an update does to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockChange {
    /// It stays, or there stays none.
    Keep,
    /// A fresh one takes its place.
    Fresh,
    /// There is none any more.
    Drop,
}

/// What an update means that wants managers locked, or not, and perhaps another key.
pub fn change(wanted: bool, present: bool, rotate: bool) -> LockChange {
    match (wanted, present) {
        (true, true) if !rotate => LockChange::Keep,
        (true, _) => LockChange::Fresh,
        (false, true) => LockChange::Drop,
        (false, false) => LockChange::Keep,
    }
}

impl State {
    /// Somebody was given the unlock key.
    pub(crate) fn unlock_key_shown(&self, entry: &mut Entry<'_>) -> Outcome {
        if self.unlock.is_none() {
            return Outcome::Unchanged;
        }
        entry.tell(Event::KeyDelivered { key: KeyKind::Unlock, node: None });
        Outcome::Done { version: entry.index }
    }

    /// The key after an update: none without the setting. Who wants managers locked brings a key, or there is one.
    pub(crate) fn unlock_after(&self, update: &UpdateCluster) -> Option<UnlockBox> {
        let wanted = update.settings.as_ref().unwrap_or(&self.settings).autolock;
        update.unlock.as_ref().or(self.unlock.as_ref()).filter(|_| wanted).cloned()
    }

    /// Takes a key, or none, with the setting that goes with it.
    pub(crate) fn lock_by(&mut self, unlock: Option<UnlockBox>) {
        if self.settings.autolock != unlock.is_some() {
            Arc::make_mut(&mut self.settings).autolock = unlock.is_some();
        }
        self.unlock = unlock;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c170_c171_c172_c173_c174_the_table() {
        let rows = [
            // Wanted, there, rotate.
            ((false, false, false), LockChange::Keep),
            ((false, false, true), LockChange::Keep),
            ((true, false, false), LockChange::Fresh),
            ((true, false, true), LockChange::Fresh),
            ((true, true, false), LockChange::Keep),
            ((true, true, true), LockChange::Fresh),
            ((false, true, false), LockChange::Drop),
            ((false, true, true), LockChange::Drop),
        ];
        for ((wanted, present, rotate), expected) in rows {
            assert_eq!(change(wanted, present, rotate), expected, "{wanted} {present} {rotate}");
        }
    }
}
