//! Text of others, made fit to be shown.

/// Characters of a foreign text that are shown at most.
pub(crate) const SHOWN_CHARS_MAX: usize = 512;

/// What of `bytes` can be shown: no control characters, at most [`SHOWN_CHARS_MAX`] characters.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(4 * SHOWN_CHARS_MAX)];
    let text = String::from_utf8_lossy(head);
    let mut chars = text.chars();
    let visible = |c: char| if c.is_control() || is_format(c) { ' ' } else { c };
    let mut shown: String = chars.by_ref().take(SHOWN_CHARS_MAX).map(visible).collect();
    shown.truncate(shown.trim_end().len());
    if chars.next().is_some() || head.len() < bytes.len() {
        shown.push('…');
    }
    shown
}

/// Characters that change the order or the look of others.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_harmless() {
        let rows: [(&[u8], &str); 5] = [
            (b"plain", "plain"),
            (b"a\r\nb\x1b[31m\0", "a  b [31m"),
            ("\u{202e}x".as_bytes(), " x"),
            (b"\xff", "\u{fffd}"),
            (b"", ""),
        ];
        for (bytes, text) in rows {
            assert_eq!(shown(bytes), text);
        }
        assert_eq!(shown(&[b'a'; 100_000]), format!("{}…", "a".repeat(SHOWN_CHARS_MAX)));
    }
}
