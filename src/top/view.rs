//! What the operator looks at: the order of the requests, the chosen one, its stack, or all stacks.
//!
//! *Owns*: this state, and what each key does to it. *Runs on*: the main thread. *Invariants*: the chosen request stays
//! chosen while others come and go.

use std::cmp::Ordering;

use super::keys::Key;
use super::numbers::Numbers;
use crate::documents::Row;

/// The keys, for the last line of the page.
pub(super) const PAGE_KEYS: &str = "q quit  j/k choose  Enter stack  s order  d all stacks  r reload";
/// The keys, for the last line of a text.
pub(super) const TEXT_KEYS: &str = "q back  j/k, Space, Home, End scroll";
const QUESTION: &str = "Reload the service? y reloads it, any other key does not.";

/// How many lines Space and the page keys scroll by.
const PAGE_LINES: usize = 15;
/// By how much the time of arrival of one request may differ between two responses, in seconds.
const AGE_ERROR: f64 = 1.0;

/// The order of the requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Age,
    Worker,
    Phase,
    Client,
}

impl Order {
    /// Returns the order's name, as it follows "by".
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Worker => "worker",
            Self::Phase => "phase",
            Self::Client => "client",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Age => Self::Worker,
            Self::Worker => Self::Phase,
            Self::Phase => Self::Client,
            Self::Client => Self::Age,
        }
    }

    /// Compares two requests. The order by age decides between equal ones, because the rows are sorted by it.
    fn compare(self, one: &Row, other: &Row) -> Ordering {
        match self {
            Self::Age => Ordering::Equal,
            Self::Worker => one.worker.cmp(&other.worker),
            Self::Phase => one.phase.cmp(&other.phase),
            Self::Client => one.client.cmp(&other.client),
        }
    }
}

/// What is on the screen.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Shown {
    #[default]
    Page,
    /// The stack of the chosen request.
    Stack,
    /// All stacks, as lines. `None`: they have not arrived yet.
    AllStacks(Option<Vec<String>>),
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// The numbers, now.
    Numbers,
    AllStacks,
    Reload,
}

/// What the operator looks at.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) shown: Shown,
    pub(super) order: Order,
    /// The requests in the order that was chosen.
    pub(super) rows: Vec<Row>,
    /// The index of the chosen request.
    pub(super) at: usize,
    /// The chosen request, as it was last seen. `None`: the first one is chosen, whichever that is.
    chosen: Option<Row>,
    /// Whether the chosen request is still being served.
    pub(super) is_served: bool,
    /// The first line of a text.
    pub(super) first: usize,
    asks: bool,
    /// What has come of the last command.
    pub(super) notice: Option<String>,
}

impl View {
    /// Returns whether the stacks of the requests are needed.
    pub(super) fn needs_stacks(&self) -> bool {
        self.shown == Shown::Stack
    }

    /// Returns the chosen request. `None`: no request is being served.
    pub(super) fn chosen(&self) -> Option<&Row> {
        self.chosen.as_ref().or_else(|| self.rows.get(self.at))
    }

    /// Returns what the last line says, if it is not the keys.
    pub(super) fn message(&self) -> Option<&str> {
        if self.asks { Some(QUESTION) } else { self.notice.as_deref() }
    }

    /// Takes the requests of a response.
    pub(super) fn update(&mut self, numbers: &Numbers) {
        self.rows.clone_from(&numbers.requests.requests);
        let order = self.order;
        self.rows.sort_by(|one, other| order.compare(one, other));
        let found = self.chosen.as_ref().and_then(|chosen| find(&self.rows, chosen));
        self.is_served = found.is_some();
        if let Some(at) = found {
            let stack = self.chosen.take().map(|chosen| chosen.stack).unwrap_or_default();
            let mut row = self.rows[at].clone();
            if row.stack.is_empty() && row.python == "read" && row.thread.is_some() {
                // This response was asked for without stacks.
                row.stack = stack;
            }
            (self.at, self.chosen) = (at, Some(row));
        } else if self.shown != Shown::Stack {
            self.at = self.at.min(self.rows.len().saturating_sub(1));
            self.chosen = if self.chosen.is_some() { self.rows.get(self.at).cloned() } else { None };
        }
    }

    /// Takes the stacks of all threads.
    pub(super) fn take_stacks(&mut self, text: &str) {
        if matches!(self.shown, Shown::AllStacks(_)) {
            self.shown = Shown::AllStacks(Some(text.lines().map(str::to_owned).collect()));
        }
    }

    /// Does what a key means.
    pub(super) fn press(&mut self, key: Key, numbers: &Numbers) -> Option<Wish> {
        if std::mem::take(&mut self.asks) {
            return (key == Key::Character('y')).then_some(Wish::Reload);
        }
        self.notice = None;
        match self.shown {
            Shown::Page => self.press_on_page(key, numbers),
            Shown::Stack | Shown::AllStacks(_) => {
                self.press_on_text(key);
                None
            }
        }
    }

    fn press_on_page(&mut self, key: Key, numbers: &Numbers) -> Option<Wish> {
        let last = self.rows.len().saturating_sub(1);
        let at = match key {
            Key::Character('q') => return Some(Wish::Quit),
            Key::Character('d') => {
                (self.shown, self.first) = (Shown::AllStacks(None), 0);
                return Some(Wish::AllStacks);
            }
            Key::Enter => {
                self.chosen = Some(self.chosen()?.clone());
                (self.shown, self.first, self.is_served) = (Shown::Stack, 0, true);
                return Some(Wish::Numbers);
            }
            Key::Character('r') => {
                self.asks = true;
                return None;
            }
            Key::Character('s') => {
                self.order = self.order.next();
                self.update(numbers);
                return None;
            }
            Key::Down | Key::Character('j') => self.at + 1,
            Key::Up | Key::Character('k') => self.at.saturating_sub(1),
            Key::PageDown => self.at + PAGE_LINES,
            Key::PageUp => self.at.saturating_sub(PAGE_LINES),
            Key::Home | Key::Character('g') => 0,
            Key::End | Key::Character('G') => last,
            Key::Escape | Key::Character(_) => return None,
        };
        self.at = at.min(last);
        self.chosen = self.rows.get(self.at).cloned();
        None
    }

    fn press_on_text(&mut self, key: Key) {
        self.first = match key {
            Key::Character('q') | Key::Escape | Key::Enter => {
                self.shown = Shown::Page;
                0
            }
            Key::Down | Key::Character('j') => self.first + 1,
            Key::Up | Key::Character('k') => self.first.saturating_sub(1),
            Key::PageDown => self.first + PAGE_LINES,
            Key::PageUp => self.first.saturating_sub(PAGE_LINES),
            Key::Home | Key::Character('g') => 0,
            // The drawing stops at the last line.
            Key::End | Key::Character('G') => usize::MAX / 2,
            Key::Character(_) => self.first,
        };
    }
}

/// Returns where a request is that was seen before. Requests have no number: the one that fits best is taken.
fn find(rows: &[Row], chosen: &Row) -> Option<usize> {
    let fits = |row: &Row| {
        (row.pid, &row.request) == (chosen.pid, &chosen.request)
            && (row.client.is_none() || chosen.client.is_none() || row.client == chosen.client)
            && row.age_seconds + AGE_ERROR > chosen.age_seconds
    };
    rows.iter().position(fits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::documents::{Frame, Requests, Stats};

    fn row(age: f64, worker: usize, line: &str) -> Row {
        let (pid, request) = (4000 + u32::try_from(worker).unwrap(), format!("GET {line} HTTP/1.1"));
        let (phase, client) = ("application".to_owned(), Some(format!("10.0.0.{worker}:1")));
        Row { age_seconds: age, phase, client, worker, pid, request, python: "read".to_owned(), ..Row::default() }
    }

    fn numbers(requests: Vec<Row>) -> Numbers {
        let mut numbers = Numbers::default();
        numbers.add(Stats::default(), Requests { requests, ..Requests::default() }, Instant::now());
        numbers
    }

    fn lines(view: &View) -> Vec<&str> {
        view.rows.iter().map(|row| row.request.split(' ').nth(1).unwrap()).collect()
    }

    #[test]
    fn chosen_request_stays_chosen_while_others_come_and_go() {
        let (mut view, mut now) =
            (View::default(), numbers(vec![row(9.0, 2, "/old"), row(5.0, 1, "/a"), row(4.0, 1, "/b")]));
        view.update(&now);
        assert_eq!(view.chosen().unwrap().request, "GET /old HTTP/1.1");
        view.press(Key::Down, &now);
        view.press(Key::Character('s'), &now);
        assert_eq!((lines(&view), view.at, view.order.name()), (vec!["/a", "/b", "/old"], 0, "worker"));
        now = numbers(vec![row(7.0, 1, "/c"), row(6.0, 1, "/a")]);
        view.update(&now);
        assert_eq!((view.at, view.chosen().unwrap().request.as_str()), (1, "GET /a HTTP/1.1"));
        now = numbers(vec![row(8.0, 1, "/c")]);
        view.update(&now);
        assert_eq!((view.at, view.chosen().unwrap().request.as_str()), (0, "GET /c HTTP/1.1"));
        view.update(&numbers(Vec::new()));
        assert_eq!((view.at, view.chosen()), (0, None));
        assert_eq!(view.press(Key::Enter, &numbers(Vec::new())), None);
    }

    #[test]
    fn stack_of_a_request_stays_after_its_end() {
        let mut with_stack = row(2.0, 1, "/a");
        with_stack.stack = vec![Frame { file: "a.py".to_owned(), line: 3, function: "f".to_owned() }];
        let (mut view, now) = (View::default(), numbers(vec![row(1.0, 1, "/a"), row(0.5, 1, "/b")]));
        view.update(&now);
        assert_eq!(view.press(Key::Enter, &now), Some(Wish::Numbers));
        assert!(view.needs_stacks());
        view.update(&numbers(vec![with_stack.clone()]));
        assert_eq!((view.chosen().unwrap(), view.is_served), (&with_stack, true));
        // Another request of the same client begins later.
        view.update(&numbers(vec![row(0.1, 1, "/a")]));
        assert_eq!((view.chosen().unwrap(), view.is_served), (&with_stack, false));
        assert_eq!((view.press(Key::Character('q'), &now), &view.shown), (None, &Shown::Page));
    }

    #[test]
    fn reload_needs_a_second_key() {
        let (mut view, now) = (View::default(), numbers(Vec::new()));
        assert_eq!(view.press(Key::Character('r'), &now), None);
        assert_eq!(view.message(), Some(QUESTION));
        assert_eq!(view.press(Key::Character('q'), &now), None);
        assert_eq!(
            (view.press(Key::Character('r'), &now), view.press(Key::Character('y'), &now)),
            (None, Some(Wish::Reload))
        );
        assert_eq!(view.message(), None);
        assert_eq!(view.press(Key::Character('q'), &now), Some(Wish::Quit));
    }

    #[test]
    fn all_stacks_scroll() {
        let (mut view, now) = (View::default(), numbers(Vec::new()));
        assert_eq!(view.press(Key::Character('d'), &now), Some(Wish::AllStacks));
        view.take_stacks("a\nb\n");
        assert_eq!(view.shown, Shown::AllStacks(Some(vec!["a".to_owned(), "b".to_owned()])));
        view.press(Key::PageDown, &now);
        view.press(Key::Up, &now);
        assert_eq!(view.first, PAGE_LINES - 1);
        view.press(Key::Escape, &now);
        view.take_stacks("late");
        assert_eq!(view.shown, Shown::Page);
    }
}
