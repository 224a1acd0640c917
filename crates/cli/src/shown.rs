//! Text of others on a terminal: a host name, a label or an error may hold what moves the cursor, paints over lines or turns the
//! direction of reading. What is shown instead is its escape, as `\u{1b}`; JSON says `\u001b`.

use std::borrow::Cow;
use std::fmt::Write as _;

/// A piece of somebody's text, shown within a line.
pub(crate) fn field(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// Text of several lines.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && c != '\t' && is_hidden(c))
}

/// JSON, in which such characters stand within strings only.
pub(crate) fn json(text: String) -> String {
    let hidden = |c: char| c != '\n' && is_hidden(c);
    if !text.chars().any(hidden) {
        return text;
    }
    let mut shown = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Whether a character does something instead of being seen: C0, DEL and C1 controls; marks, embeddings, overrides and isolates of
/// direction; what has no width, separates lines, or is a tag. Source: Unicode 16, Bidi_Control and Default_Ignorable_Code_Point.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_something_is_shown_as_what_it_is() {
        let rows = [
            ("node-1.example", "node-1.example"),
            ("größe 节点 \\ \"", "größe 节点 \\ \""),
            ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("a\nb\tc\rd", "a\\u{a}b\\u{9}c\\u{d}d"),
            ("\u{9b}2J\u{85}\u{7f}\0", "\\u{9b}2J\\u{85}\\u{7f}\\u{0}"),
            ("\u{202e}txt.exe\u{2066}\u{200f}", "\\u{202e}txt.exe\\u{2066}\\u{200f}"),
            ("a\u{200b}b\u{feff}\u{2028}\u{e0041}", "a\\u{200b}b\\u{feff}\\u{2028}\\u{e0041}"),
        ];
        for (text, shown) in rows {
            assert_eq!(field(text), shown);
        }
        assert_eq!(lines("a\n\tb\x1b\r\n"), "a\n\tb\\u{1b}\\u{d}\n");
        assert!(matches!(field("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_json() {
        let text = "a\u{9b}\u{202e}\u{7f}\u{e0041}\x1b\nb\\";
        let written = json(serde_json::to_string(text).unwrap_or_default());
        assert!(!written.chars().any(is_hidden), "{written}");
        assert_eq!(serde_json::from_str::<String>(&written).ok().as_deref(), Some(text));
    }
}
