//! Text in cells of a terminal.
//!
//! *Runs on*: any thread. *Invariants*: a line and a cell have only printable text. A cell has exactly the columns that
//! were asked for.

use crate::phrase::terminal::{cut, printable, width_of};

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
