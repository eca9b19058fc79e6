//! The live page of a service in a terminal: `maypole top`.
//!
//! *Owns*: the terminal, and a thread that asks the service once a second. *Runs on*: the main thread of the command
//! draws and reads keys; `maypole-top` asks; a short-lived thread waits for each command. *Invariants*: the main thread
//! never waits for the service. An end of the service is shown, and so is its return. The terminal is as before when
//! the command ends, also after a signal and after a panic.

mod keys;
mod numbers;
mod page;
mod screen;
mod text;
mod view;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};

use self::keys::Key;
use self::numbers::Numbers;
use self::screen::Screen;
use self::view::{View, Wish};
use crate::documents::{Requests, Stats, parse};
use crate::sys::{self, Event, SignalPipe};

/// How often the service is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long the rest of a key may take. A slow line splits the bytes of a key.
const KEY_MAX: Duration = Duration::from_millis(50);
const SIGNALS: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP, SIGCONT];

/// The service that is shown.
pub trait Service: Send + Sync + 'static {
    /// Returns what the service shows at a path.
    ///
    /// # Errors
    /// A sentence: there is no such service, or it does not respond.
    fn get(&self, path: &str) -> Result<Vec<u8>, String>;

    /// Makes the service reload, and returns a sentence that says what has come of it.
    fn reload(&self) -> String;
}

/// Shows the service until the operator ends the page. If the output or the input is no terminal, returns one page as
/// text instead.
///
/// # Errors
/// A sentence: the service does not respond at the beginning, or there is no thread or descriptor left.
pub fn run(service: impl Service) -> Result<Option<String>, String> {
    let service: Arc<dyn Service> = Arc::new(service);
    let (mut numbers, mut view) = (Numbers::default(), View::default());
    add(&mut numbers, ask(&*service, false)?);
    if !screen::is_possible() {
        thread::sleep(EVERY);
        add(&mut numbers, ask(&*service, false)?);
        view.update(&numbers);
        return Ok(Some(page::print(&view, &numbers, screen::columns_of_paper())));
    }
    view.update(&numbers);
    let plain = |error: io::Error| sys::plain(&error);
    let (news, asked) = Asked::start(service).map_err(plain)?;
    let signals = SignalPipe::install(&SIGNALS).map_err(plain)?;
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(plain)?.into();
    let screen = Screen::open().map_err(plain)?;
    let mut live = Live { numbers, view, screen, input, signals, news, asked, keys: Vec::new() };
    let signal = live.run();
    // The terminal is as before from here on, and signals act as by default.
    drop(live);
    if let Some(signal) = signal {
        sys::send_signal(std::process::id(), signal);
    }
    Ok(None)
}

/// Asks for the numbers and the requests.
fn ask(service: &dyn Service, with_stacks: bool) -> Result<(Stats, Requests), String> {
    let stats = parse(&service.get("/stats.json")?)?;
    let requests = parse(&service.get(if with_stacks { "/requests.json?stacks" } else { "/requests.json" })?)?;
    Ok((stats, requests))
}

fn add(numbers: &mut Numbers, (stats, requests): (Stats, Requests)) {
    numbers.add(stats, requests, Instant::now());
}

/// What the threads that ask have got.
enum News {
    Numbers(Result<Box<(Stats, Requests)>, String>),
    AllStacks(Result<Vec<u8>, String>),
    Reloaded(String),
}

/// The way to the threads that ask the service.
struct Asked {
    service: Arc<dyn Service>,
    sender: Sender<News>,
    arrived: Arc<Event>,
    with_stacks: Arc<AtomicBool>,
    /// A message makes the thread ask at once.
    now: Sender<()>,
}

impl Asked {
    /// Starts the thread that asks once a second. Returns where its news arrive.
    fn start(service: Arc<dyn Service>) -> io::Result<(Receiver<News>, Self)> {
        let ((sender, news), (now, asked)) = (mpsc::channel(), mpsc::channel());
        let (arrived, with_stacks) = (Arc::new(Event::new()?), Arc::new(AtomicBool::new(false)));
        let asking = (Arc::clone(&service), sender.clone(), Arc::clone(&arrived), Arc::clone(&with_stacks));
        sys::start_thread_without_signals("maypole-top", move || {
            let (service, sender, arrived, with_stacks) = asking;
            while !matches!(asked.recv_timeout(EVERY), Err(RecvTimeoutError::Disconnected)) {
                let numbers = ask(&*service, with_stacks.load(Ordering::Relaxed));
                // An error means that the page has ended.
                let _ = sender.send(News::Numbers(numbers.map(Box::new)));
                arrived.happen();
            }
        })?;
        Ok((news, Self { service, sender, arrived, with_stacks, now }))
    }

    /// Asks for something that may take long.
    fn ask(&self, ask: impl FnOnce(&dyn Service) -> News + Send + 'static) -> io::Result<()> {
        let (service, sender, arrived) = (Arc::clone(&self.service), self.sender.clone(), Arc::clone(&self.arrived));
        let asking = sys::start_thread_without_signals("maypole-top", move || {
            let _ = sender.send(ask(&*service));
            arrived.happen();
        });
        asking.map(drop)
    }
}

/// The page while it is on the terminal.
struct Live {
    numbers: Numbers,
    view: View,
    screen: Screen,
    /// The standard input, without a buffer: a key in a buffer would wake nothing.
    input: File,
    signals: SignalPipe,
    news: Receiver<News>,
    asked: Asked,
    /// The bytes of a key that has not arrived in full.
    keys: Vec<u8>,
}

impl Live {
    /// Draws and obeys until the page ends. Returns the signal that has ended it, if the process is to end by it.
    fn run(&mut self) -> Option<i32> {
        loop {
            let size = Screen::size();
            self.screen.draw(&page::draw(&self.view, &self.numbers, size, Instant::now()), size);
            let timeout = if self.keys.is_empty() { EVERY } else { KEY_MAX };
            let descriptors: [BorrowedFd<'_>; 3] =
                [self.input.as_fd(), self.signals.as_fd(), self.asked.arrived.as_fd()];
            let ready = sys::wait_for_any(&descriptors, Some(timeout));
            for signal in self.signals.take() {
                match signal {
                    SIGINT => return None,
                    SIGTERM | SIGHUP => return Some(signal),
                    _ => self.obey(signal)?,
                }
            }
            self.take_news();
            let pressed = match ready.first() {
                Some(true) => self.read_keys()?,
                _ if !self.keys.is_empty() => keys::finish(&mut self.keys),
                _ => Vec::new(),
            };
            for key in pressed {
                if self.press(key) {
                    return None;
                }
            }
        }
    }

    /// Obeys a signal after which the page goes on. `None`: the terminal has gone.
    fn obey(&mut self, signal: i32) -> Option<()> {
        match signal {
            SIGTSTP => {
                self.screen.leave();
                sys::send_signal(std::process::id(), signal_hook::consts::SIGSTOP);
                self.screen.enter().ok()
            }
            // Another process may have used the terminal meanwhile.
            SIGCONT => self.screen.enter().ok(),
            // The next drawing has the new size.
            _ => Some(()),
        }
    }

    fn take_news(&mut self) {
        self.asked.arrived.forget();
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Numbers(Ok(numbers)) => {
                    add(&mut self.numbers, *numbers);
                    self.view.update(&self.numbers);
                }
                News::Numbers(Err(sentence)) => self.numbers.failure = Some(sentence),
                News::AllStacks(Ok(text)) => self.view.take_stacks(&String::from_utf8_lossy(&text)),
                News::AllStacks(Err(sentence)) => self.view.take_stacks(&sentence),
                News::Reloaded(sentence) => self.view.notice = Some(sentence),
            }
        }
    }

    /// Reads keys. `None`: the terminal has gone.
    fn read_keys(&mut self) -> Option<Vec<Key>> {
        let mut bytes = [0; 256];
        match self.input.read(&mut bytes) {
            Ok(0) => None,
            Ok(length) => {
                self.keys.extend_from_slice(bytes.get(..length).unwrap_or_default());
                Some(keys::read(&mut self.keys))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Does what a key means. Returns whether the page ends.
    fn press(&mut self, key: Key) -> bool {
        let wish = self.view.press(key, &self.numbers);
        self.asked.with_stacks.store(self.view.needs_stacks(), Ordering::Relaxed);
        let asked = match wish {
            None => Ok(()),
            Some(Wish::Quit) => return true,
            Some(Wish::Numbers) => {
                // An error means that the thread has panicked. The page says how old the numbers are.
                let _ = self.asked.now.send(());
                Ok(())
            }
            Some(Wish::AllStacks) => self.asked.ask(|service| News::AllStacks(service.get("/stacks"))),
            Some(Wish::Reload) => {
                self.view.notice = Some("The service reloads.".to_owned());
                self.asked.ask(|service| News::Reloaded(service.reload()))
            }
        };
        if let Err(error) = asked {
            self.view.notice = Some(format!("There is no thread left to ask the service: {}", sys::plain(&error)));
        }
        false
    }
}
