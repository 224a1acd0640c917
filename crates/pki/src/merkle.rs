//! Merkle trees over the entries of a log, and proofs over them (RFC 9162, 2.1): that an entry is in the log of a root, and that
//! one root's log begins with another's. Who makes a proof needs the roots of whole subtrees, from wherever they are; who
//! checks one needs nothing.

use crate::digest::{sha256, sha256_of};

/// A hash in the tree.
pub type Hash = [u8; 32];

/// What stands before an entry where it is hashed (RFC 9162, 2.1.1).
pub const LEAF: u8 = 0;

/// The hash of an entry as a leaf of the tree.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256_of(&[&[LEAF], entry])
}

/// The hash of a node of the tree over two others.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0u8; 65];
    bytes[0] = 1;
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    sha256(&bytes)
}

/// Gives the roots of whole subtrees of a log.
pub trait Subtrees {
    /// Why it cannot.
    type Error;

    /// The root of the subtree over 2^`level` entries from `first` on, which is a multiple of that.
    ///
    /// # Errors
    /// If an entry of it is missing, or cannot be read.
    fn subtree(&mut self, level: u32, first: u64) -> Result<Hash, Self::Error>;
}

/// The path from an entry to the root over the first `size` (RFC 9162, 2.1.3.1); none if there is no such entry.
///
/// # Errors
/// Those of the subtrees.
pub fn inclusion<S: Subtrees>(tree: &mut S, seq: u64, size: u64) -> Result<Option<Vec<Hash>>, S::Error> {
    if seq >= size {
        return Ok(None);
    }
    let mut path = Vec::new();
    let (mut first, mut count) = (0, size);
    while count > 1 {
        let split = split(count);
        if seq - first < split {
            path.push(root_of(tree, first + split, count - split)?);
            count = split;
        } else {
            path.push(root_of(tree, first, split)?);
            first += split;
            count -= split;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// What shows that the log of `size` entries begins with its first `before` (RFC 9162, 2.1.4.1); none if it is shorter than that. Nothing has to be
/// shown of no entries, nor of all of them.
///
/// # Errors
/// Those of the subtrees.
pub fn consistency<S: Subtrees>(tree: &mut S, before: u64, size: u64) -> Result<Option<Vec<Hash>>, S::Error> {
    if before > size {
        return Ok(None);
    }
    let mut path = Vec::new();
    if before == 0 || before == size {
        return Ok(Some(path));
    }
    let (mut first, mut count, mut known) = (0, size, true);
    loop {
        let rest = before - first;
        if rest == count {
            if !known {
                path.push(root_of(tree, first, count)?);
            }
            break;
        }
        let split = split(count);
        if rest <= split {
            path.push(root_of(tree, first + split, count - split)?);
            count = split;
        } else {
            path.push(root_of(tree, first, split)?);
            first += split;
            count -= split;
            known = false;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// The root over the first `size` entries.
///
/// # Errors
/// Those of the subtrees.
pub fn root<S: Subtrees>(tree: &mut S, size: u64) -> Result<Hash, S::Error> {
    if size == 0 { Ok(sha256(&[])) } else { root_of(tree, 0, size) }
}

/// Roots of the whole subtrees that the first `size` entries are made of, largest first: one for each bit set in `size`.
///
/// # Errors
/// Those of the subtrees.
pub fn frontier<S: Subtrees>(tree: &mut S, size: u64) -> Result<Vec<Hash>, S::Error> {
    let mut frontier = Vec::new();
    let mut first = 0;
    for level in (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1) {
        frontier.push(tree.subtree(level, first)?);
        first += 1 << level;
    }
    Ok(frontier)
}

/// Whether the path leads from this leaf, at this place, to the root over so many entries (RFC 9162, 2.1.3.2).
pub fn includes(leaf: Hash, seq: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if seq >= size {
        return false;
    }
    let (mut place, mut last) = (seq, size - 1);
    let mut hash = leaf;
    for step in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(step, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the path shows that the log of `size` entries with `root` begins with the `before` entries of `root_before` (RFC 9162, 2.1.4.2).
pub fn extends(before: u64, root_before: &Hash, size: u64, root: &Hash, path: &[Hash]) -> bool {
    if before == 0 || before == size {
        let same = if before == 0 { *root_before == sha256(&[]) } else { root_before == root };
        return path.is_empty() && same;
    }
    if before > size {
        return false;
    }
    let mut steps = path.iter();
    let begin = if before.is_power_of_two() { Some(root_before) } else { steps.next() };
    let Some(begin) = begin else { return false };
    let (mut place, mut last) = (before - 1, size - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*begin, *begin);
    for step in steps {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            old = node_hash(step, &old);
            new = node_hash(step, &new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, step);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && old == *root_before && new == *root
}

/// Where a tree over so many entries is divided: the largest power of two below.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

/// The root over `count` entries (one at least) from `first` on, which is a multiple of the power of two at or above `count`.
fn root_of<S: Subtrees>(tree: &mut S, first: u64, count: u64) -> Result<Hash, S::Error> {
    let mut hash = None;
    let mut end = first + count;
    for level in (0..u64::BITS).filter(|level| count >> level & 1 == 1) {
        end -= 1 << level;
        let left = tree.subtree(level, end)?;
        hash = Some(match hash {
            None => left,
            Some(right) => node_hash(&left, &right),
        });
    }
    Ok(hash.unwrap_or_else(|| sha256(&[])))
}

#[cfg(test)]
mod tests;
