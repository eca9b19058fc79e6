//! Text on a terminal: what it prints, and how many columns that takes.
//!
//! *Runs on*: any thread. *Invariants*: text that `printable` returns cannot move the cursor, change the direction of
//! writing, or send a command to the terminal.

use std::fmt::Write as _;

/// Replaces characters that a terminal does not print by their escapes, such as `\x1b`.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' '..='~' | '…' => printable.push(character),
            _ if character.is_alphanumeric() && !is_joined(character) => printable.push(character),
            '\0'..='\u{ff}' => {
                let _ = write!(printable, "\\x{:02x}", u32::from(character));
            }
            _ => printable.extend(character.escape_unicode()),
        }
    }
    printable
}

/// Returns whether a letter or a digit may have no column of its own: signs of Indic and other scripts, which Unicode
/// counts as letters.
fn is_joined(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{10ff}' | '\u{1160}'..='\u{11ff}'
        | '\u{1700}'..='\u{1dff}' | '\u{a800}'..='\u{abff}' | '\u{fb1e}' | '\u{fe00}'..='\u{fe2f}'
        | '\u{10000}'..)
}

/// Returns the columns of printable text.
pub fn width_of(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// Returns the columns of a character: two for those of East Asia (Unicode Standard Annex 11).
fn columns(character: char) -> usize {
    match character {
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff01}'..='\u{ff60}' => 2,
        _ => 1,
    }
}

/// Returns text, cut if it is wider than `width`.
pub fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let (mut kept, mut left) = (String::new(), width.saturating_sub(1));
    for character in text.chars() {
        if columns(character) > left {
            break;
        }
        left -= columns(character);
        kept.push(character);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_client_sends_nothing_to_the_terminal() {
        let text = "GET /\x1b]0;title\x07\r\n\u{9b}2J\u{202e}é größe 表 e\u{301}\u{200b}";
        let expected = "GET /\\x1b]0;title\\x07\\x0d\\x0a\\x9b2J\\u{202e}é größe 表 e\\u{301}\\u{200b}";
        assert_eq!(printable(text), expected);
        for code in (0..=0x0010_ffff).filter_map(char::from_u32).filter(|one| one.is_control()) {
            assert!(printable(&code.to_string()).bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{code:?}");
        }
    }
}
