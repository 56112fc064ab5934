//! Text of others on a terminal: names, labels and paths that come from a repository or a server may
//! hold control characters, which a terminal would obey. JSON escapes them by itself.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes what a terminal obeys in the value of a line, line breaks included.
pub fn value(text: &str) -> Cow<'_, str> {
    escape(text, |character| is_obeyed(character) || character == '\n' || character == '\t')
}

/// Escapes what a terminal obeys in lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, is_obeyed)
}

/// Escapes like [`lines`], and indents all lines but the first, so that a line break within a value
/// does not begin a line that looks like one of ours.
pub fn message(text: &str) -> Cow<'_, str> {
    match lines(text) {
        text if text.contains('\n') => Cow::Owned(text.trim_end().replace('\n', "\n  ")),
        text => text,
    }
}

/// Whether a character is an instruction for a terminal, or changes the direction or the lines of
/// the text around it. Not line feed and tab.
fn is_obeyed(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        character => character.is_control(),
    }
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_escaped(character) {
            // Writing into memory does not fail.
            let _ = write!(escaped, "{}", character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}
