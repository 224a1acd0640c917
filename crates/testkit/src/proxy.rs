//! A TCP proxy that a test may stop at a chosen moment: between a request and the next one, say.
//!
//! It reads the frames of TLS without opening them: kind and length are in the clear, and that is enough to tell a large request from a small one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A TLS record of type *application data* (RFC 8446, section 5.1).
pub const APPLICATION_DATA: u8 = 23;

/// One TLS record that passes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Which connection, counted from 1 in the order accepted.
    pub connection: u64,
    /// Whether the client sent it.
    pub from_client: bool,
    /// Its type byte.
    pub kind: u8,
    /// The length of its payload in bytes, encrypted.
    pub length: usize,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is dropped, and both halves of its connection are closed.
    Cut,
}

/// A running proxy. Its threads end with their connections.
pub struct Proxy {
    address: SocketAddr,
}

impl Proxy {
    /// Listens at `listen` and connects each caller to `target`; `judge` sees each record before it is passed on and may block.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub fn start(
        listen: SocketAddr,
        target: SocketAddr,
        judge: impl Fn(Record) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(listen).expect("the proxy's address");
        let address = listener.local_addr().expect("the proxy's address");
        let judge: Arc<dyn Fn(Record) -> Verdict + Send + Sync> = Arc::new(judge);
        let count = AtomicU64::new(0);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let connection = count.fetch_add(1, Ordering::Relaxed) + 1;
                // Nobody behind: the caller sees its connection closed, as it would without us.
                let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else {
                    continue;
                };
                for from_client in [true, false] {
                    let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else {
                        continue;
                    };
                    if !from_client {
                        std::mem::swap(&mut from, &mut to);
                    }
                    let judge = Arc::clone(&judge);
                    std::thread::spawn(move || {
                        pump(from, to, |kind, length| judge(Record { connection, from_client, kind, length }))
                    });
                }
            }
        });
        Self { address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, judge: impl Fn(u8, usize) -> Verdict) {
    // A stream that breaks off is an ordinary end here: the other side learns it from the closed connection.
    let _ended = pass_records(&mut from, &mut to, judge);
    for half in [from, to] {
        let _already_closed = half.shutdown(Shutdown::Both);
    }
}

fn pass_records(
    from: &mut impl Read,
    to: &mut impl Write,
    judge: impl Fn(u8, usize) -> Verdict,
) -> std::io::Result<()> {
    loop {
        // RFC 8446, 5.1: type (1), version (2), length (2), payload.
        let mut record = vec![0; 5];
        match from.read_exact(&mut record) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + length, 0);
        from.read_exact(&mut record[5..])?;
        if judge(record[0], length) == Verdict::Cut {
            return Ok(());
        }
        to.write_all(&record)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(bytes: &[u8], judge: impl Fn(u8, usize) -> Verdict) -> (bool, Vec<u8>) {
        let mut out = Vec::new();
        (pass_records(&mut &bytes[..], &mut out, judge).is_ok(), out)
    }

    #[test]
    fn records_pass_until_one_is_cut() {
        let two = [22, 3, 3, 0, 1, 9, APPLICATION_DATA, 3, 3, 0, 2, 7, 7];
        assert_eq!(pass(&two, |_, _| Verdict::Pass), (true, two.to_vec()));
        let cut = |kind, length| {
            if (kind, length) == (APPLICATION_DATA, 2) { Verdict::Cut } else { Verdict::Pass }
        };
        assert_eq!(pass(&two, cut), (true, two[..6].to_vec()));
    }

    #[test]
    fn a_torn_record_is_not_passed_on() {
        assert_eq!(pass(&[22, 3, 3, 0, 9, 1], |_, _| Verdict::Pass), (false, vec![]));
    }
}
