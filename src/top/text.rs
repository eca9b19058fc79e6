//! Text in cells of a terminal.
//!
//! *Runs on*: any thread. *Invariants*: text that `printable` returns cannot move the cursor, change the direction of
//! writing, or send a command to the terminal. A cell has exactly the columns that were asked for.

use std::fmt::Write as _;

/// How a text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Strong,
    /// Reversed: the request that is chosen, and titles of columns.
    Reversed,
    /// Something that needs an operator.
    Alarm,
}

/// A line of the page: texts that follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(pub(super) Vec<(Style, String)>);

impl Line {
    /// Returns a line of one text.
    pub(super) fn new(style: Style, text: &str) -> Self {
        Self(vec![(style, printable(text))])
    }

    /// Returns a plain line.
    pub(super) fn plain(text: &str) -> Self {
        Self::new(Style::Plain, text)
    }

    /// Adds a text.
    pub(super) fn with(mut self, style: Style, text: &str) -> Self {
        self.0.push((style, printable(text)));
        self
    }

    /// Returns the line, cut if it is wider than this.
    pub(super) fn cut(self, width: usize) -> Self {
        let mut left = width;
        let mut kept = Vec::new();
        for (style, text) in self.0 {
            let text = cut(&text, left);
            left -= width_of(&text);
            kept.push((style, text));
        }
        Self(kept)
    }

    /// Returns the text without its styles.
    pub(super) fn text(&self) -> String {
        let text: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        text.trim_end().to_owned()
    }
}

/// Replaces characters that a terminal does not print by their escapes, such as `\x1b`.
pub(super) fn printable(text: &str) -> String {
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
pub(super) fn width_of(text: &str) -> usize {
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
pub(super) fn cut(text: &str, width: usize) -> String {
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

/// Returns a cell: printable text at its left side.
pub(super) fn left(text: &str, width: usize) -> String {
    let text = cut(&printable(text), width);
    let space = width - width_of(&text);
    text + &" ".repeat(space)
}

/// Returns a cell: printable text at its right side.
pub(super) fn right(text: &str, width: usize) -> String {
    let text = cut(&printable(text), width);
    " ".repeat(width - width_of(&text)) + &text
}

/// Returns a number with separators: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns a rate: `0.3`, `12.5`, `1,234`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and far below 2^52")]
pub(super) fn rate(rate: f64) -> String {
    if rate < 99.95 { format!("{rate:.1}") } else { grouped(rate.round() as u64) }
}

/// Returns a time with the unit that fits: `0.3 ms`, `12 ms`, `1.5 s`, `12 min`, `3 h`, `5 d`.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        ..0.00995 => format!("{:.1} ms", seconds * 1e3),
        ..0.9995 => format!("{:.0} ms", seconds * 1e3),
        ..99.95 => format!("{seconds:.1} s"),
        ..600.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", (seconds / 60.0).floor()),
        ..172_800.0 => format!("{:.0} h", (seconds / 3600.0).floor()),
        _ => format!("{:.0} d", (seconds / 86_400.0).floor()),
    }
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

    #[test]
    fn cell_has_its_width() {
        for text in ["", "ab", "abcdef", "表表表表", "a\x1bbc", "größe größe"] {
            for width in 0..12 {
                assert_eq!((width_of(&left(text, width)), width_of(&right(text, width))), (width, width), "{text:?}");
            }
        }
        assert_eq!((left("abcdef", 4), right("ab", 4)), ("abc…".to_owned(), "  ab".to_owned()));
        let line = Line::plain("abc").with(Style::Strong, "def").with(Style::Plain, "g").cut(5);
        assert_eq!(line.text(), "abcd…");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 0.25, 99.9, 1234.4].map(rate), ["0.0", "0.2", "99.9", "1,234"]);
        let times = [0.0, 0.0003, 0.0421, 1.26, 99.0, 150.0, 3599.0, 90_000.0, 200_000.0].map(time);
        assert_eq!(times, ["0.0 ms", "0.3 ms", "42 ms", "1.3 s", "99.0 s", "150 s", "59 min", "25 h", "2 d"]);
    }
}
