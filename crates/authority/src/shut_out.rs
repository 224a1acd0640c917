//! Managers that are shut out: a file in the state directory, one a line, added to by the operator's command and read at each
//! request.

use std::io;
use std::path::Path;

use pki::digest::unhex;
use pki::identity::NodeId;
use pki::serial::Serial;

use crate::state_dir;

/// The list's name in the state directory.
const FILE_NAME: &str = "shut-out";
/// Bytes of the list that are read; one that is longer is not used, and nobody let in.
const BYTES_MAX: u64 = 1024 * 1024;

/// Who is shut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShutOut {
    /// A node, whatever certificate it shows; none is issued to it either.
    Node(NodeId),
    /// A certificate, by its serial number.
    Serial(Serial),
}

/// Reads a serial number in hex, with colons or not.
#[must_use]
pub fn parse_serial(text: &str) -> Option<Serial> {
    let digits = text.replace(':', "");
    let digits = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
    unhex(&digits).and_then(|bytes| Serial::from_bytes(&bytes).ok())
}

impl ShutOut {
    fn line(&self) -> String {
        match self {
            ShutOut::Node(node) => format!("node {node}\n"),
            ShutOut::Serial(serial) => format!("serial {serial}\n"),
        }
    }

    /// Adds it to the list; a server that runs sees it at the next request.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn add(&self, dir: &Path) -> io::Result<()> {
        let mut text = list(dir)?;
        if !text.contains(&self.line()) {
            text.push_str(&self.line());
        }
        state_dir::put(dir, FILE_NAME, text.as_bytes())
    }
}

/// The list, as it was read.
pub(crate) struct List(String);

impl List {
    /// Reads the list of a state directory.
    ///
    /// # Errors
    /// If it cannot be read: then nobody is to be let in.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        list(dir).map(Self)
    }

    /// Whether a node, or a certificate by its serial number, is shut out.
    pub(crate) fn holds(&self, node: &NodeId, serial: Option<&Serial>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let serial = serial.map(ToString::to_string);
        self.0.lines().any(|line| match line.split_once(' ') {
            Some(("node", shut)) => shut == node.as_str(),
            Some(("serial", shut)) => Some(shut) == serial.as_deref(),
            _ => false,
        })
    }
}

fn list(dir: &Path) -> io::Result<String> {
    state_dir::get(dir, FILE_NAME, BYTES_MAX).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn by_node_and_by_serial_and_nobody_if_the_list_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other): (NodeId, NodeId) = ("one".parse().unwrap(), "other".parse().unwrap());
        let serial = parse_serial("7A:3f:01").unwrap();
        let shut = |node: &NodeId, serial| List::read(dir.path()).map(|list| list.holds(node, serial));
        assert!(!shut(&one, Some(&serial)).unwrap());
        ShutOut::Node(one.clone()).add(dir.path()).unwrap();
        assert!(shut(&one, None).unwrap() && !shut(&other, Some(&serial)).unwrap());
        ShutOut::Serial(parse_serial("7a3f01").unwrap()).add(dir.path()).unwrap();
        assert!(shut(&one, None).unwrap() && shut(&other, Some(&serial)).unwrap());
        std::fs::write(dir.path().join(FILE_NAME), [0xff]).unwrap();
        assert!(shut(&other, None).is_err());
        assert!(ShutOut::Node(other).add(dir.path()).is_err(), "and it is not overwritten");
        assert_eq!(parse_serial("x"), None);
    }
}
