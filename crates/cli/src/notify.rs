//! Tells systemd that the daemon answers: one datagram to the socket in `NOTIFY_SOCKET` (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `READY=1`; nothing without a service manager.
pub(crate) fn ready() {
    say("READY=1");
}

/// Says `STOPPING=1`.
pub(crate) fn stopping() {
    say("STOPPING=1");
}

fn say(word: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, word) {
        tracing::warn!(%error, "cannot tell the service manager {word}");
    }
}

/// A path, or with a leading `@` a name in the abstract namespace.
fn send(socket: &OsStr, word: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_path_and_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("swarmpki-notify-{}", std::process::id());
        let addresses =
            [SocketAddr::from_pathname(&path).unwrap(), SocketAddr::from_abstract_name(name.as_bytes()).unwrap()];
        let sockets = [path.into_os_string(), format!("@{name}").into()];
        for (address, socket) in addresses.iter().zip(sockets) {
            let service_manager = UnixDatagram::bind_addr(address).unwrap();
            send(&socket, "READY=1").unwrap();
            let mut said = [0; 32];
            let length = service_manager.recv(&mut said).unwrap();
            assert_eq!(&said[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/notify"), "READY=1").is_err());
    }
}
