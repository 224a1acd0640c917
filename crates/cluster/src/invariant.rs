//! What must hold of every state, one property a function, each with its source. The simulator checks all of them after
//! every step; so do the crash tests after every restart.

use std::collections::{BTreeMap, BTreeSet};

use pki::digest::Digest;
use pki::identity::Role;

use crate::node::{BlobDigest, IssuerHash, LETTERS_MAX, Leaf, OFFERED_LEAVES_MAX, PREVIOUS_LEAVES_MAX};
use crate::operators::{CERTIFICATES_PER_NAME_MAX, OPERATORS_MAX};
use crate::revocation::SHOWN_AFTER_END;
use crate::roots::Roots;
use crate::state::State;
use crate::trust;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{property}: {detail}")]
pub struct Broken {
    /// Which property.
    pub property: &'static str,
    /// What was found.
    pub detail: String,
}

/// Checks every property of one state.
///
/// # Errors
/// The first that does not hold.
pub fn check(state: &State) -> Result<(), Broken> {
    serials_are_unique(state)?;
    letters_are_registered(state)?;
    requests_are_found(state)?;
    lists_are_bounded(state)?;
    removed_nodes_are_gone(state)?;
    unfinished_joins_are_counted(state)?;
    limited_tokens_keep_their_limits(state)?;
    finished_nodes_have_a_leaf(state)?;
    leaves_end_is_the_last(state)?;
    blobs_are_counted(state)?;
    no_key_outlives_its_use(state)?;
    rotation_is_consistent(state)?;
    anchors_are_led_to(state)?;
    members_are_managers(state)?;
    places_are_unique(state)?;
    locked_with_a_key(state)?;
    operators_are_bounded(state)?;
    what_was_taken_back_stays_so(state)?;
    log_fits_frontier(state)
}

/// Checks what must hold between a state and one that came from it.
///
/// # Errors
/// The first property that does not hold.
pub fn check_step(before: &State, after: &State) -> Result<(), Broken> {
    let property = "time, epoch, index, cuts and the issuance log never go back (design 4)";
    let broken = |detail: String| Err(Broken { property, detail });
    if after.time < before.time || after.epoch < before.epoch || after.index < before.index {
        return broken(format!("time {:?} after {:?}", after.time, before.time));
    }
    if after.log_size() < before.log_size() {
        return broken(format!("log size {} after {}", after.log_size(), before.log_size()));
    }
    for (id, node) in &before.nodes {
        match after.nodes.get(id) {
            Some(now) if now.cut < node.cut => return broken(format!("cut of {id}")),
            Some(now) if node.unfinished.is_none() && now.unfinished.is_some() => {
                return broken(format!("{id} is unfinished again"));
            }
            None if node.unfinished.is_none() && !after.removals.contains_key(id) && node.leaves_end > after.time => {
                return broken(format!("{id} vanished without a removal"));
            }
            _ => {}
        }
    }
    uses_are_spent_once(before, after)?;
    places_are_given_once(before, after)?;
    revocations_only_grow(before, after)?;
    rotation_goes_on(before, after)?;
    leaves_are_of_the_plan(before, after)?;
    revoked_operators_stay_so(before, after)?;
    for (id, removal) in &before.removals {
        if after.nodes.contains_key(id) && removal.until >= after.time {
            return broken(format!("{id} was removed and is back"));
        }
    }
    Ok(())
}

/// RFC 5280, 4.1.2.2: a serial is unique for its issuer.
fn serials_are_unique(state: &State) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    for node in state.nodes.values() {
        for leaf in node.leaves() {
            if !seen.insert((leaf.issuer, leaf.serial)) {
                return broken("a serial is registered once", format!("{} of {}", leaf.serial, node.id));
            }
        }
    }
    Ok(())
}

/// Design 5: nothing leaves a manager that is not registered.
fn letters_are_registered(state: &State) -> Result<(), Broken> {
    for node in state.nodes.values() {
        for letter in &node.mailbox {
            if !node.offered.contains(&letter.leaf) {
                return broken("a letter's leaf is offered", format!("{} of {}", letter.leaf.serial, node.id));
            }
        }
    }
    Ok(())
}

/// Design 5: what is to be signed later is found by whoever signs.
fn requests_are_found(state: &State) -> Result<(), Broken> {
    let asking = state.nodes.values().filter(|node| node.pending.is_some()).map(|node| &node.id);
    if asking.eq(state.pending.iter()) {
        Ok(())
    } else {
        broken("every request that waits is on the list", format!("{:?}", state.pending))
    }
}

/// Design 4: at most four leaves offered, four letters and four replaced leaves a node.
fn lists_are_bounded(state: &State) -> Result<(), Broken> {
    for node in state.nodes.values() {
        let full = node.offered.len() > OFFERED_LEAVES_MAX
            || node.mailbox.len() > LETTERS_MAX
            || node.previous.len() > PREVIOUS_LEAVES_MAX;
        if full {
            return broken("lists are bounded", node.id.to_string());
        }
    }
    Ok(())
}

/// Design 4: ids are never reused; a removed node has no record.
fn removed_nodes_are_gone(state: &State) -> Result<(), Broken> {
    match state.removals.keys().find(|id| state.nodes.contains_key(*id)) {
        Some(id) => broken("a removed node has no record", id.to_string()),
        None => Ok(()),
    }
}

/// Design 5: the bound on unfinished joins counts exactly those that are there.
fn unfinished_joins_are_counted(state: &State) -> Result<(), Broken> {
    let mut rows: BTreeMap<u32, u32> = BTreeMap::new();
    let mut keys = 0;
    for node in state.nodes.values() {
        if let Some(token) = node.unfinished {
            *rows.entry(token.row).or_default() += 1;
            let own: BTreeSet<_> = node.join_keys().collect();
            keys += own.len();
            let found = |key| state.joins.get(key).is_some_and(|ids| ids.contains(&node.id));
            if !own.iter().all(found) {
                return broken("unfinished joins are found by key", node.id.to_string());
            }
        }
    }
    for (number, row) in (0u32..).zip(&state.tokens.rows) {
        let counted = rows.get(&number).copied().unwrap_or_default();
        if counted != row.unfinished {
            return broken("unfinished joins are counted", format!("row {number}: {} for {counted}", row.unfinished));
        }
    }
    let indexed: usize = state.joins.values().map(Vec::len).sum();
    if keys != indexed || !state.joins.values().all(|ids| ids.is_sorted()) {
        return broken("unfinished joins are found by key", format!("{indexed} keys for {keys}"));
    }
    Ok(())
}

/// Issue 6, 5: a token admits as many keys as it has uses, each unfinished join by it holds one of them, and it is open only while
/// the root is served that it names.
fn limited_tokens_keep_their_limits(state: &State) -> Result<(), Broken> {
    let property = "a token with limits keeps them";
    let served = state.roots.served().map(|root| Digest::of(&root.bundle));
    for (row, token) in state.tokens.limited.rows() {
        if token.used.len() > token.uses as usize || row >= state.tokens.limited.next() {
            return broken(property, format!("token {row}: {} of {}", token.used.len(), token.uses));
        }
        if token.closed.is_none() && Some(token.digest) != served {
            return broken(property, format!("token {row} names another root and is open"));
        }
        let found = state.tokens.limited.find(&token.hash).map(|(found, _)| found);
        if found != Some(row) {
            return broken(property, format!("token {row} is found as {found:?}"));
        }
        let holders: BTreeSet<_> = token.used.values().map(|(node, _)| node).collect();
        let unfinished = state.nodes.values().filter(|node| node.unfinished.is_some_and(|used| used.row == row));
        let (mut count, mut held) = (0, 0);
        unfinished.for_each(|node| {
            count += 1;
            held += u32::from(holders.contains(&node.id));
        });
        if count != token.unfinished || held != count {
            return broken(property, format!("token {row}: {held} of {count} unfinished joins hold a use"));
        }
    }
    Ok(())
}

/// Issue 6, 5: what a finished join used stays used, what is closed stays closed, and a number is given once.
fn uses_are_spent_once(before: &State, after: &State) -> Result<(), Broken> {
    let property = "a use is spent once, and a closed token stays closed";
    if after.tokens.limited.next() < before.tokens.limited.next() {
        return broken(property, format!("next {}", after.tokens.limited.next()));
    }
    for (row, old) in before.tokens.limited.rows() {
        let Some(new) = after.tokens.limited.get(row) else { continue };
        if old.hash != new.hash || old.uses != new.uses || (old.closed.is_some() && old.closed != new.closed) {
            return broken(property, format!("token {row}"));
        }
        if old.used.ptr_eq(&new.used) {
            continue;
        }
        let spent = |id| before.nodes.get(id).is_none_or(|node| node.unfinished.is_none());
        let lost =
            old.used.iter().find(|(key, (id, _))| spent(id) && new.used.get(*key).is_none_or(|(now, _)| now != id));
        if let Some((_, (id, _))) = lost {
            return broken(property, format!("token {row}: the use of {id}"));
        }
    }
    Ok(())
}

/// Design 4: `current` is the leaf proven by use, and a join is finished by that very proof.
fn finished_nodes_have_a_leaf(state: &State) -> Result<(), Broken> {
    match state.nodes.values().find(|node| node.unfinished.is_some() == node.current.is_some()) {
        Some(node) => broken("a node is finished by the use of a leaf", node.id.to_string()),
        None => Ok(()),
    }
}

/// Conformance P34: a removal is on record until the last certificate of the node has ended.
fn leaves_end_is_the_last(state: &State) -> Result<(), Broken> {
    let late = |node: &&std::sync::Arc<crate::node::Node>| node.leaves().any(|leaf| leaf.not_after > node.leaves_end);
    match state.nodes.values().find(late) {
        Some(node) => broken("no leaf ends after the last one", node.id.to_string()),
        None => Ok(()),
    }
}

/// Design 4: bulky parts are stored once and let go with their last reader.
fn blobs_are_counted(state: &State) -> Result<(), Broken> {
    let mut counts: BTreeMap<BlobDigest, u64> = BTreeMap::new();
    for report in state.nodes.values().filter_map(|node| node.report.as_ref()) {
        for digest in report.blobs() {
            *counts.entry(digest).or_default() += 1;
        }
    }
    let stored: BTreeMap<_, _> = state.blobs.iter().map(|(digest, (count, _))| (*digest, *count)).collect();
    if counts == stored {
        Ok(())
    } else {
        broken("blobs are counted", format!("{} for {}", stored.len(), counts.len()))
    }
}

/// Design 6: a root that was given up has no key here any more, unless nodes may trust it alone.
fn no_key_outlives_its_use(state: &State) -> Result<(), Broken> {
    let Some(rotation) = state.rotation() else { return Ok(()) };
    let useless = |root: &&std::sync::Arc<crate::roots::Root>| {
        !root.custody.is_outside() && !rotation.given.contains(&root.trust)
    };
    match rotation.passed.iter().find(useless) {
        Some(root) => broken("no key outlives its use", format!("{:?}", root.issuer)),
        None => Ok(()),
    }
}

/// Design 6: leaves verify for every member, by what they carry or by the bundle; who is put aside is a node.
fn rotation_is_consistent(state: &State) -> Result<(), Broken> {
    let Some(rotation) = state.rotation() else { return Ok(()) };
    if let Some(why) = rotation.contradiction() {
        return broken("a rotation does not contradict itself", why.to_owned());
    }
    // Dates are looked at when it is made; a ladder that ends is made anew.
    if !rotation.leads() {
        return broken("the way leads to every root that members hold", format!("{:?}", rotation.phase));
    }
    if let Some(id) = rotation.aside.iter().find(|id| state.members.rows.contains_key(*id)) {
        return broken("a member of the raft group is not put aside", id.to_string());
    }
    match rotation.aside.iter().find(|id| !state.nodes.contains_key(*id)) {
        Some(id) => broken("who is put aside is a node", id.to_string()),
        None => Ok(()),
    }
}

/// Design 6: what goes with a late node's leaf leads to what its holder trusts.
fn anchors_are_led_to(state: &State) -> Result<(), Broken> {
    let Roots::Stable { root, stragglers } = &state.roots else { return Ok(()) };
    let ends: Vec<_> = stragglers.iter().map(|anchor| &anchor.certificate).chain(&root.certificates).collect();
    for anchor in stragglers.iter().filter(|anchor| !anchor.ladder.is_empty()) {
        let steps: Vec<_> = root.steps.iter().chain(&anchor.ladder).cloned().collect();
        let others = ends.iter().copied().filter(|end| !root.certificates.contains(end));
        if !trust::verifies(&root.issuer, &steps, others) {
            return broken("a straggler's ladder leads to its root", format!("{:?}", anchor.issuer));
        }
    }
    Ok(())
}

/// Design 6: phases follow each other, and a rotation that ended stays so.
fn rotation_goes_on(before: &State, after: &State) -> Result<(), Broken> {
    let property = "a rotation never goes back to a phase";
    match (before.rotation(), after.rotation()) {
        (Some(before), Some(after)) if after.id < before.id => broken(property, format!("id {}", after.id)),
        (Some(before), Some(after)) if after.id == before.id && after.phase < before.phase => {
            broken(property, format!("{:?} after {:?}", after.phase, before.phase))
        }
        (None, Some(rotation)) if rotation.id <= before.index => broken(property, format!("id {}", rotation.id)),
        _ => Ok(()),
    }
}

/// Design 5 and 6: what is registered was signed by a key that signed then.
fn leaves_are_of_the_plan(before: &State, after: &State) -> Result<(), Broken> {
    if before.cluster.is_none() {
        return Ok(());
    }
    let signs = |issuer: &IssuerHash| {
        let plan = |roots: &Roots| roots.is_signing(issuer) || roots.is_present(issuer);
        plan(&before.roots) || plan(&after.roots)
    };
    for (id, node) in &after.nodes {
        let known = before.nodes.get(id);
        if known.is_some_and(|known| std::sync::Arc::ptr_eq(known, node)) {
            continue;
        }
        let fresh = |leaf: &&Leaf| known.is_none_or(|known| known.leaves().all(|old| old.serial != leaf.serial));
        if node.leaves().filter(fresh).any(|leaf| !signs(&leaf.issuer)) {
            return broken("a leaf is signed by a key of the plan", id.to_string());
        }
    }
    Ok(())
}

/// Design 4: a node has a place in the raft group if it is a manager, or is becoming one; who has a place holds the root's key;
/// a cluster has a manager, and not all are to leave.
fn members_are_managers(state: &State) -> Result<(), Broken> {
    let rows = &state.members.rows;
    for node in state.nodes.values() {
        let manager = node.role == Role::Manager;
        if manager && !rows.contains_key(&node.id) {
            return broken("a manager has a place in the raft group", node.id.to_string());
        }
        if node.promoting.is_some() && (manager || node.spec.role == Role::Worker || !node.ours) {
            return broken("who is becoming a manager is none yet, is to be one, and can be one", node.id.to_string());
        }
    }
    for id in rows.keys() {
        let node = state.nodes.get(id);
        if !node.is_some_and(|node| node.unfinished.is_none() && node.signed_role() == Role::Manager) {
            return broken("a place in the raft group is a manager's, now or soon", id.to_string());
        }
        if !state.members.key_holders.contains(id) {
            return broken("whoever has a place is a key holder", id.to_string());
        }
    }
    if state.cluster.is_none() {
        Ok(())
    } else if !state.nodes.values().any(|node| node.role == Role::Manager) {
        broken("a cluster has a manager", String::new())
    } else if !state.nodes.values().any(|node| node.is_lasting()) {
        broken("somebody is to stay a manager, or to become one", String::new())
    } else {
        Ok(())
    }
}

/// pki.md 10.1: whoever is locked can be unlocked.
fn locked_with_a_key(state: &State) -> Result<(), Broken> {
    if state.settings.autolock == state.unlock.is_some() {
        Ok(())
    } else {
        broken("managers are locked at rest while there is an unlock key", format!("{}", state.settings.autolock))
    }
}

/// What an operator can make us store has bounds; its root is no root of nodes.
fn operators_are_bounded(state: &State) -> Result<(), Broken> {
    let operators = &state.operators;
    let mut live: BTreeMap<_, usize> = BTreeMap::new();
    for row in operators.rows.values().filter(|row| row.revoked.is_none()) {
        *live.entry(&row.name).or_default() += 1;
    }
    let full = live.iter().find(|(_, count)| **count > CERTIFICATES_PER_NAME_MAX);
    if let Some((name, count)) = full {
        return broken("an operator has a bounded number of certificates", format!("{name}: {count}"));
    }
    if operators.rows.len() > OPERATORS_MAX {
        return broken("certificates of operators are bounded", operators.rows.len().to_string());
    }
    let Some(root) = &operators.root else { return Ok(()) };
    match state.roots.in_use().find(|swarm| swarm.issuer == root.issuer) {
        Some(_) => broken("the operators' root is no root of nodes", format!("{:?}", root.issuer)),
        None => Ok(()),
    }
}

/// A certificate of an operator that was taken back stays so until it has ended, and none vanishes before.
fn revoked_operators_stay_so(before: &State, after: &State) -> Result<(), Broken> {
    let property = "a certificate of an operator is on record until it has ended, and stays taken back";
    for (serial, row) in &before.operators.rows {
        match after.operators.rows.get(serial) {
            Some(now) if now.revoked != row.revoked && row.revoked.is_some() => {
                return broken(property, format!("{serial} is back"));
            }
            Some(now) if (now.role, &now.name, &now.spki) != (row.role, &row.name, &row.spki) => {
                return broken(property, format!("{serial} is another"));
            }
            None if row.not_after >= after.time => return broken(property, format!("{serial} is gone")),
            _ => {}
        }
    }
    Ok(())
}

/// RFC 5280, 5: a leaf that was taken back opens nothing; only the one that a node is known by stays on its record, and not on a
/// member's.
fn what_was_taken_back_stays_so(state: &State) -> Result<(), Broken> {
    let revocations = &state.revocations;
    if let Some(why) = revocations.contradiction() {
        return broken(why, format!("{revocations:?}"));
    }
    for node in state.nodes.values() {
        let revoked = |leaf: &&Leaf| revocations.contains(&leaf.issuer, &leaf.serial);
        let others = node.offered.iter().chain(node.previous.iter().map(|(leaf, _)| leaf));
        if let Some(leaf) = others.clone().find(revoked) {
            return broken(
                "a leaf that was taken back is registered no more",
                format!("{} of {}", leaf.serial, node.id),
            );
        }
        if state.members.rows.contains_key(&node.id) && node.current.iter().any(|leaf| revoked(&leaf)) {
            return broken("a member's leaf in use is not taken back", node.id.to_string());
        }
    }
    Ok(())
}

/// RFC 5280, 3.3: what was taken back is shown until it has ended.
fn revocations_only_grow(before: &State, after: &State) -> Result<(), Broken> {
    let (old, new) = (&before.revocations, &after.revocations);
    if new.version() < old.version() {
        return broken("revocations are numbered upwards", format!("{} after {}", new.version(), old.version()));
    }
    for ((issuer, serial), row) in old.rows() {
        let stays = new.get(issuer, serial) == Some(row);
        if !stays && row.until.saturating_add(SHOWN_AFTER_END) >= after.time {
            return broken("what was taken back stays so until it has ended", serial.to_string());
        }
    }
    Ok(())
}

/// Design 4: a number stands for one place.
fn places_are_unique(state: &State) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    for (id, row) in &state.members.rows {
        if row.raft_id == 0 || row.raft_id >= state.members.next_raft_id || !seen.insert(row.raft_id) {
            return broken("a number stands for one place", format!("{} of {id}", row.raft_id));
        }
    }
    Ok(())
}

/// Design 4: whoever forgot how it voted comes back under another number.
fn places_are_given_once(before: &State, after: &State) -> Result<(), Broken> {
    let property = "the number of a place is never given again";
    let (old, new) = (&before.members, &after.members);
    if new.next_raft_id < old.next_raft_id {
        return broken(property, format!("{} after {}", new.next_raft_id, old.next_raft_id));
    }
    let back = new.rows.iter().find(|(id, row)| {
        row.raft_id < old.next_raft_id && old.rows.get(*id).is_none_or(|known| known.raft_id != row.raft_id)
    });
    match back {
        Some((id, row)) => broken(property, format!("{} of {id}", row.raft_id)),
        None => Ok(()),
    }
}

/// RFC 6962, 2.1: one complete subtree for each bit of the size.
fn log_fits_frontier(state: &State) -> Result<(), Broken> {
    let subtrees = state.log.frontier().len();
    if subtrees == state.log.size().count_ones() as usize {
        Ok(())
    } else {
        broken("the log's frontier fits its size", subtrees.to_string())
    }
}

fn broken(property: &'static str, detail: String) -> Result<(), Broken> {
    Err(Broken { property, detail })
}
