//! Big-endian integers as digits `0-9a-z`: ids and join tokens are written so (pki.md 1 and 5).

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Digits taken by one division: 36^5 is the largest power that leaves a limb's remainder and the next limb in 64 bits with room.
const DIGITS_A_PASS: usize = 5;
const DIVISOR: u64 = 36_u64.pow(DIGITS_A_PASS as u32);
const _: () = assert!(DIVISOR < 1 << 32);

/// Writes `bytes`, a big-endian integer, as exactly `N` digits, zeros in front; digits that do not fit are lost.
pub(crate) fn encode<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let limb = |chunk: &[u8]| chunk.iter().rev().fold(0_u32, |limb, byte| limb << 8 | u32::from(*byte));
    // Least limb last, as the bytes are.
    let reversed = zeroize::Zeroizing::new(bytes.iter().rev().copied().collect::<Vec<u8>>());
    let mut number = zeroize::Zeroizing::new(reversed.chunks(4).rev().map(limb).collect::<Vec<u32>>());
    let mut digits = [b'0'; N];
    for pass in digits.rchunks_mut(DIGITS_A_PASS) {
        let mut remainder = 0_u64;
        for limb in number.iter_mut() {
            let value = remainder << 32 | u64::from(*limb);
            *limb = u32::try_from(value / DIVISOR).unwrap_or(u32::MAX);
            remainder = value % DIVISOR;
        }
        for digit in pass.iter_mut().rev() {
            *digit = DIGITS[usize::try_from(remainder % 36).unwrap_or(0)];
            remainder /= 36;
        }
    }
    digits
}

/// Reads digits (either case) as a big-endian integer; `None` for another character or if it needs more than `N` bytes.
pub(crate) fn decode<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut number = [0_u8; N];
    for character in digits.chars() {
        let mut carry = character.to_digit(36)?;
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows() {
        assert_eq!(&encode::<3>(&[0]), b"000");
        assert_eq!(&encode::<3>(&[1, 0]), b"074");
        assert_eq!(decode::<2>("074"), Some([1, 0]));
        assert_eq!(decode::<2>("1ekf"), Some([0xff, 0xff]));
        assert_eq!(decode::<2>("1ekg"), None, "one more than two bytes hold");
        assert_eq!(decode::<2>("a-"), None);
        assert_eq!(decode::<2>("ä"), None);
    }
}
