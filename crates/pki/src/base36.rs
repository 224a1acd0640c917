//! Big-endian integers as digits `0-9a-z`: ids and join tokens are written so (pki.md 1 and 5).

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Writes `bytes`, a big-endian integer, as exactly `N` digits, zeros in front; digits that do not fit are lost.
pub(crate) fn encode<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut number = zeroize::Zeroizing::new(bytes.to_vec());
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in number.iter_mut() {
            let value = remainder << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 36).unwrap_or(u8::MAX);
            remainder = value % 36;
        }
        *digit = DIGITS[usize::try_from(remainder).unwrap_or(0) % 36];
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
