//! Serial numbers of certificates.

use std::fmt;

/// Bytes that a serial number may have (RFC 5280, 4.1.2.2).
pub const SERIAL_BYTES_MAX: usize = 20;

/// A positive certificate serial number of at most 20 bytes, without leading zeros.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial {
    // Right-aligned, zeros in front: the derived order is the numeric one.
    bytes: [u8; SERIAL_BYTES_MAX],
}

/// Why bytes are no serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// No hexadecimal number.
    #[error("not a hexadecimal number")]
    NotHex,
    /// More than 20 bytes after leading zeros.
    #[error("serial number longer than 20 bytes")]
    TooLong,
}

impl Serial {
    /// A serial from 20 random bytes, as pki.md 2 makes it: top bit cleared; never zero.
    pub fn from_random(random: [u8; SERIAL_BYTES_MAX]) -> Self {
        let mut bytes = random;
        bytes[0] &= 0x7f;
        if bytes == [0; SERIAL_BYTES_MAX] {
            bytes[SERIAL_BYTES_MAX - 1] = 1;
        }
        Serial { bytes }
    }

    /// A serial found in a certificate or a record: big-endian, leading zeros ignored.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let significant = strip_zeros(bytes);
        let mut padded = [0; SERIAL_BYTES_MAX];
        let start = SERIAL_BYTES_MAX.checked_sub(significant.len()).ok_or(SerialError::TooLong)?;
        padded[start..].copy_from_slice(significant);
        Ok(Serial { bytes: padded })
    }

    /// The number big-endian without leading zeros; empty for zero (which only foreign certificates have).
    pub fn as_bytes(&self) -> &[u8] {
        strip_zeros(&self.bytes)
    }

    /// The number as 20 bytes, zeros in front.
    pub const fn to_array(&self) -> [u8; SERIAL_BYTES_MAX] {
        self.bytes
    }
}

impl std::str::FromStr for Serial {
    type Err = SerialError;

    /// Hexadecimal digits as people copy them: with or without colons, in either case, of any length.
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|one| *one != ':')
            .map(|one| one.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(SerialError::NotHex))
            .collect::<Result<_, _>>()?;
        if digits.is_empty() || digits.len() > 4 * SERIAL_BYTES_MAX {
            return Err(if digits.is_empty() { SerialError::NotHex } else { SerialError::TooLong });
        }
        // The last two make the last byte.
        let mut bytes: Vec<u8> =
            digits.rchunks(2).map(|pair| pair.iter().fold(0, |byte, one| byte << 4 | one)).collect();
        bytes.reverse();
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_bytes() {
            [] => f.write_str("00"),
            bytes => f.write_str(&crate::digest::hex(bytes)),
        }
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows() {
        assert_eq!(Serial::from_random([0xff; 20]).as_bytes()[0], 0x7f);
        assert_eq!(Serial::from_random([0; 20]).as_bytes(), [1]);
        assert_eq!(Serial::from_bytes(&[0, 0, 5]).unwrap().to_string(), "05");
        assert_eq!(Serial::from_bytes(&[1; 21]), Err(SerialError::TooLong));
        assert!(Serial::from_bytes(&[2]).unwrap() < Serial::from_bytes(&[1, 0]).unwrap());
    }
}
