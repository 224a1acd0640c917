#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

#[test]
fn an_empty_state_comes_back() {
    let state = State::decode_snapshot(&State::empty().encode_snapshot()).unwrap();
    assert!(state.cluster.is_none());
    assert_eq!(state.index, 0);
}

#[test]
fn later_formats_and_garbage_are_refused() {
    assert_eq!(Batch::decode(&[0x08, 0x02]).err(), Some(DecodeError::Later(2)));
    assert_eq!(Batch::decode(&[]).err(), Some(DecodeError::Field("format")));
    assert!(matches!(Batch::decode(b"\xff\xff").err(), Some(DecodeError::Malformed(_))));
}
