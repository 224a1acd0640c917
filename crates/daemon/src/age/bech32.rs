//! Bech32 (BIP 173) as age uses it: of any length, read only.

use zeroize::Zeroizing;

const CHARSET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
const CHECKSUM: usize = 6;

/// The bytes behind this prefix, if the text is well formed and of one case.
pub(super) fn decode(prefix: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (upper, lower) = (text.bytes().any(|b| b.is_ascii_uppercase()), text.bytes().any(|b| b.is_ascii_lowercase()));
    if upper && lower {
        return None;
    }
    let text = Zeroizing::new(text.to_ascii_lowercase());
    let data = text.strip_prefix(prefix)?.strip_prefix('1')?;
    let value = |byte: u8| CHARSET.iter().position(|known| *known == byte).and_then(|at| u8::try_from(at).ok());
    let values = Zeroizing::new(data.bytes().map(value).collect::<Option<Vec<u8>>>()?);
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    if checksum(high.chain([0]).chain(low).chain(values.iter().copied())) != 1 {
        return None;
    }
    let values = values.get(..values.len().checked_sub(CHECKSUM)?)?;
    let mut out = Zeroizing::new(Vec::with_capacity(values.len()));
    let (mut held, mut bits) = (0u32, 0);
    for value in values {
        held = (held << 5 | u32::from(*value)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    let rest = held & ((1 << bits) - 1);
    (bits < 5 && rest == 0).then_some(out)
}

fn checksum(values: impl Iterator<Item = u8>) -> u32 {
    values.fold(1, |sum, value| {
        let top = sum >> 25;
        let sum = (sum & 0x01ff_ffff) << 5 ^ u32::from(value);
        GENERATOR.iter().zip(0..).filter(|(_, bit)| top >> bit & 1 == 1).fold(sum, |sum, (part, _)| sum ^ part)
    })
}
