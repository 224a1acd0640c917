//! The stream between parent and child: a pair of sockets that keep records apart (SOCK_SEQPACKET). A record is one message, sent by
//! one system call and received by one, so that any number of threads use either end without a lock, and one message wakes one thread.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, setsockopt, shutdown, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use zeroize::{Zeroize, Zeroizing};

use crate::protocol::{BODY_BYTES_MAX, Body};

/// One end.
pub(crate) struct Records(OwnedFd);

/// Room for one record; wiped after each, because records hold PINs and keys.
pub(crate) struct Room(Body);

impl Records {
    /// Two ends. A write to the first waits at most `write_time_max` for a peer that reads nothing.
    pub(crate) fn pair(write_time_max: Duration) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let time = TimeVal::new(write_time_max.as_secs().try_into().unwrap_or(i64::MAX), 0);
        setsockopt(&ours, sockopt::SendTimeout, &time)?;
        Ok((Records(ours), theirs))
    }

    pub(crate) fn of(stream: OwnedFd) -> Self {
        Records(stream)
    }

    /// Sends a message.
    pub(crate) fn send(&self, body: &Body) -> io::Result<()> {
        if body.len() > BODY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long"));
        }
        loop {
            match send(self.0.as_raw_fd(), body, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a message and hands it to `read`; None at the end of the stream.
    pub(crate) fn receive<T>(&self, room: &mut Room, read: impl FnOnce(&[u8]) -> T) -> io::Result<Option<T>> {
        loop {
            match recv(self.0.as_raw_fd(), &mut room.0, MsgFlags::empty()) {
                Ok(0) => return Ok(None),
                Ok(length) if length > BODY_BYTES_MAX => {
                    room.0.as_mut_slice().zeroize();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
                }
                Ok(length) => {
                    let value = read(&room.0[..length]);
                    room.0[..length].zeroize();
                    return Ok(Some(value));
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends both directions: whoever waits here or there is woken.
    pub(crate) fn shut(&self) {
        // It may be shut already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    /// Tells the peer that nothing more will come.
    pub(crate) fn shut_writing(&self) {
        // A stream that cannot be shut has ended.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }
}

impl Room {
    pub(crate) fn new() -> Self {
        // One byte more than allowed: a record that is cut off is seen.
        Room(Zeroizing::new(vec![0; BODY_BYTES_MAX + 1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(bytes: &[u8]) -> Body {
        Zeroizing::new(bytes.to_vec())
    }

    fn pair() -> (Records, Records) {
        let (ours, theirs) = Records::pair(Duration::from_secs(10)).unwrap();
        (ours, Records::of(theirs))
    }

    #[test]
    fn records_arrive_whole_and_in_order_and_leave_nothing_behind() {
        let (ours, theirs) = pair();
        let mut room = Room::new();
        for length in [1, 5, 4_096, BODY_BYTES_MAX, 7] {
            let sent = body(&vec![7; length]);
            ours.send(&sent).unwrap();
            ours.send(&body(b"next")).unwrap();
            assert_eq!(theirs.receive(&mut room, <[u8]>::to_vec).unwrap().as_deref(), Some(sent.as_slice()));
            assert_eq!(theirs.receive(&mut room, <[u8]>::to_vec).unwrap().as_deref(), Some(b"next".as_slice()));
        }
        assert!(room.0.iter().all(|byte| *byte == 0));
        assert!(ours.send(&body(&vec![0; BODY_BYTES_MAX + 1])).is_err(), "too long");
        drop(ours);
        assert_eq!(theirs.receive(&mut room, <[u8]>::to_vec).unwrap(), None);
        assert!(theirs.send(&body(b"nobody listens")).is_err());
    }

    #[test]
    fn a_record_that_is_too_long_is_an_error() {
        let (ours, theirs) = pair();
        send(ours.0.as_raw_fd(), &vec![1; BODY_BYTES_MAX + 1], MsgFlags::empty()).unwrap();
        let mut room = Room::new();
        assert!(theirs.receive(&mut room, |_| ()).is_err());
        assert!(room.0.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn shutting_wakes_who_waits() {
        let (ours, theirs) = pair();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| theirs.receive(&mut Room::new(), |_| ()).unwrap());
            ours.shut();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }

    #[test]
    fn many_threads_share_both_ends() {
        let (ours, theirs) = pair();
        let received = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut room, mut all) = (Room::new(), Vec::new());
                        while let Some(record) = theirs.receive(&mut room, <[u8]>::to_vec).unwrap() {
                            all.push(record);
                        }
                        all
                    })
                })
                .collect();
            let writers: Vec<_> = (0..8_u8)
                .map(|writer| {
                    let ours = &ours;
                    scope.spawn(move || (0..100_u8).for_each(|number| ours.send(&body(&[writer, number])).unwrap()))
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            ours.shut_writing();
            let mut all: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
            all.sort();
            all
        });
        let expected: Vec<_> = (0..8).flat_map(|writer| (0..100).map(move |number| vec![writer, number])).collect();
        assert_eq!(received, expected);
    }
}
