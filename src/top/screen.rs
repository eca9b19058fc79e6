//! The terminal while the page is on it.
//!
//! *Owns*: its alternate screen, its cursor and the mode of its keys. *Runs on*: the main thread. *Invariants*: the
//! terminal is as before once the screen is dropped, also after a panic, whose message stays visible. A terminal that
//! takes no output, because Ctrl-S has stopped it, holds up nothing. *Source*: ECMA-48 §8.3; xterm's private modes 25
//! and 1049.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use super::page::Size;
use super::text::{Line, Style};
use crate::phrase::terminal::width_of;
use crate::sys::{self, KeyMode};

/// The alternate screen, empty and without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[m\x1b[?25h\x1b[?1049l";
/// How long a terminal may take to be ready for output.
const WRITABLE_WITHIN: Duration = Duration::from_millis(100);
/// The size of a terminal that does not know its own.
const USUAL_SIZE: Size = Size { columns: 80, rows: 24 };

/// Returns whether input and output are a terminal on which a page can be drawn.
pub(super) fn is_possible() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// Returns how many columns a page on an output that is no terminal has: `COLUMNS`, else those of a wide terminal.
pub(super) fn columns_of_paper() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns.filter(|columns| *columns > 0).unwrap_or(120)
}

/// The terminal while the page is on it.
#[derive(Debug)]
pub(super) struct Screen {
    keys: Option<KeyMode>,
    has_colours: bool,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn open() -> io::Result<Self> {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            write(LEAVE);
            earlier(panic);
        }));
        let mut screen = Self { keys: None, has_colours: has_colours() };
        screen.enter()?;
        Ok(screen)
    }

    /// Takes the terminal again, after `leave` or after another process has used it.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        // The mode of before is back first: another process may have changed it.
        drop(self.keys.take());
        self.keys = Some(KeyMode::begin(&io::stdin())?);
        write(ENTER);
        Ok(())
    }

    /// Gives the terminal back.
    pub(super) fn leave(&mut self) {
        if self.keys.take().is_some() {
            write(LEAVE);
        }
    }

    /// Returns the size of the terminal.
    pub(super) fn size() -> Size {
        sys::terminal_size(&io::stdout()).map_or(USUAL_SIZE, |(columns, rows)| Size { columns, rows })
    }

    /// Draws all lines of the screen. Each is at most as wide as the terminal.
    pub(super) fn draw(&self, lines: &[Line], size: Size) {
        write(&frame(lines, size, self.has_colours));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Returns whether the terminal has colours, and the operator wants them (`no-color.org`).
fn has_colours() -> bool {
    let kind = std::env::var("TERM").unwrap_or_default();
    let is_monochrome =
        kind.starts_with("vt1") || kind.starts_with("vt2") || kind.ends_with("-m") || kind.ends_with("mono");
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_monochrome
}

/// Returns what draws the lines.
fn frame(lines: &[Line], size: Size, has_colours: bool) -> String {
    let mut frame = String::new();
    for (at, line) in lines.iter().enumerate().take(size.rows) {
        let _ = write!(frame, "\x1b[{};1H", at + 1);
        for (style, text) in &line.0 {
            match style {
                Style::Plain => frame.push_str(text),
                Style::Reversed => frame.extend(["\x1b[7m", text, "\x1b[m"]),
                Style::Alarm if has_colours => frame.extend(["\x1b[1;31m", text, "\x1b[m"]),
                Style::Strong | Style::Alarm => frame.extend(["\x1b[1m", text, "\x1b[m"]),
            }
        }
        // After the last column, some terminals would erase the last character.
        if line.0.iter().map(|(_, text)| width_of(text)).sum::<usize>() < size.columns {
            frame.push_str("\x1b[K");
        }
    }
    frame
}

/// Writes to the terminal, unless it takes no output.
fn write(text: &str) {
    let mut out = io::stdout().lock();
    if sys::wait_writable(out.as_fd(), WRITABLE_WITHIN) {
        // An error means that the terminal has gone, which the next read of a key sees.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_keeps_the_last_column_and_erases_what_is_behind_shorter_lines() {
        let lines = [Line::plain("ab").with(Style::Alarm, "cd"), Line::plain("x"), Line::plain("y")];
        let size = Size { columns: 4, rows: 2 };
        assert_eq!(frame(&lines, size, true), "\x1b[1;1Hab\x1b[1;31mcd\x1b[m\x1b[2;1Hx\x1b[K");
        assert_eq!(frame(&lines, size, false), "\x1b[1;1Hab\x1b[1mcd\x1b[m\x1b[2;1Hx\x1b[K");
    }
}
