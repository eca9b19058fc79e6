//! Watches files, and reports which of them have changed (`--reload`).
//!
//! *Owns*: the watched items, and the kernel's notices of changes in their directories. *Runs on*: the thread
//! `maypole-watch`; other threads add items. *Invariants*: a notice only wakes the thread, which then compares every
//! file with what it knows. So both engines find the same changes. Changes that follow each other closely, such as
//! those of a checkout, are one report.

mod stamps;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use self::stamps::Stamps;
pub use self::stamps::{Item, Versions};
use crate::config::ReloadEngine;

/// The files must stay as they are for this long, twice, before a change is reported.
const QUIET: Duration = Duration::from_millis(40);
/// A change is reported after this long even if further files change.
const BURST_MAX: Duration = Duration::from_secs(2);
/// Between two looks at every file without a notice. 1,500 files take about 3 ms.
const POLL: Duration = Duration::from_secs(1);
/// The same beside the kernel's notices, for file systems that give none, such as those of a network.
const POLL_BESIDE: Duration = Duration::from_secs(2);

/// Watches files until it is dropped.
#[derive(Debug)]
pub struct Watch(Sender<Message>);

enum Message {
    Add(Vec<Item>),
    /// Answer when the messages before this one are done.
    Ask(Sender<()>),
    /// The kernel noticed a change at these paths.
    Notice(Vec<PathBuf>),
    End,
}

impl Watch {
    /// Starts to watch. Calls `report` with the files that have changed, on the thread that watches.
    ///
    /// # Errors
    /// The process cannot start a thread. With `--reload-engine inotify`: the kernel has no `inotify` left.
    pub fn start(engine: ReloadEngine, report: impl FnMut(&BTreeSet<PathBuf>) + Send + 'static) -> io::Result<Self> {
        let (send, receive) = mpsc::channel();
        let notices = match engine {
            ReloadEngine::Poll => None,
            ReloadEngine::Auto => notices(&send).inspect_err(say_polling).ok(),
            ReloadEngine::Inotify => Some(notices(&send).map_err(io::Error::other)?),
        };
        let interval = match (engine, &notices) {
            (ReloadEngine::Inotify, _) => None,
            (_, Some(_)) => Some(POLL_BESIDE),
            (_, None) => Some(POLL),
        };
        let mut watching =
            Watching { stamps: Stamps::default(), notices, told: BTreeSet::new(), interval, changed: BTreeSet::new() };
        thread::Builder::new().name("maypole-watch".to_owned()).spawn(move || watching.run(&receive, report))?;
        Ok(Self(send))
    }

    /// Adds items. An item that is watched already is ignored.
    pub fn add(&self, items: Vec<Item>) {
        // The thread ends only with this value.
        let _ = self.0.send(Message::Add(items));
    }

    /// Waits until the items are watched, at most `timeout`. Later changes of them are reported.
    pub fn wait_added(&self, timeout: Duration) {
        let (answer, answered) = mpsc::channel();
        let _ = self.0.send(Message::Ask(answer));
        let _ = answered.recv_timeout(timeout);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.send(Message::End);
    }
}

/// Makes the kernel's notices messages.
fn notices(to: &Sender<Message>) -> notify::Result<RecommendedWatcher> {
    let to = to.clone();
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) if is_change(event.kind) => drop(to.send(Message::Notice(event.paths))),
        Ok(_) => {}
        Err(error) => log::warn!("--reload: {}", plain(&error)),
    })
}

/// Returns whether a file may have changed. A file that was only read has not.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn say_polling(error: &notify::Error) {
    log::warn!(
        "--reload looks at each file once a second instead of waiting for notices of the kernel: {}",
        plain(error)
    );
}

/// Returns what failed, with the kernel's limit if that was the reason.
fn plain(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "no more directories can be watched (sysctl fs.inotify.max_user_watches)".to_owned()
        }
        notify::ErrorKind::Io(error) => crate::sys::plain(error),
        _ => error.to_string(),
    }
}

/// The state of the thread that watches.
struct Watching {
    stamps: Stamps,
    /// `None`: every file is looked at once per interval.
    notices: Option<RecommendedWatcher>,
    /// The directories whose changes the kernel notices, and whether those below count.
    told: BTreeSet<(PathBuf, bool)>,
    /// `None`: there is no look without a notice.
    interval: Option<Duration>,
    /// What has changed since the last report.
    changed: BTreeSet<PathBuf>,
}

impl Watching {
    fn run(&mut self, messages: &Receiver<Message>, mut report: impl FnMut(&BTreeSet<PathBuf>)) {
        // When the burst of changes began, and when the files are looked at.
        let (mut began, mut look) = (None, self.next_look());
        loop {
            let message = match look {
                Some(look) => messages.recv_timeout(look.saturating_duration_since(Instant::now())),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(Message::Add(items)) => items.iter().for_each(|item| self.add(item)),
                Ok(Message::Ask(answer)) => drop(answer.send(())),
                Ok(Message::Notice(paths)) => {
                    if paths.iter().any(|path| self.stamps.concerns(path)) {
                        let began = *began.get_or_insert_with(Instant::now);
                        look = Some((Instant::now() + QUIET).min(began + BURST_MAX));
                    }
                }
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let found = self.stamps.look();
                    let goes_on = !found.is_empty() && began.get_or_insert_with(Instant::now).elapsed() < BURST_MAX;
                    self.changed.extend(found);
                    if goes_on {
                        look = Some(Instant::now() + QUIET);
                        continue;
                    }
                    if !self.changed.is_empty() {
                        report(&std::mem::take(&mut self.changed));
                    }
                    (began, look) = (None, self.next_look());
                }
            }
        }
    }

    fn next_look(&self) -> Option<Instant> {
        self.interval.map(|interval| Instant::now() + interval)
    }

    /// Adds an item, and asks the kernel for notices of its directory. An editor replaces a file, so that a notice of
    /// the file itself would be the last one.
    fn add(&mut self, item: &Item) {
        if !self.stamps.add(item) {
            return;
        }
        log::debug!("--reload watches {item}, {} files in all", self.stamps.len());
        match item {
            Item::Tree(dir) => self.tell(dir, true),
            Item::Sources(dir) => self.tell(dir, false),
            Item::File(path) => {
                // If the file is a link, the file that it leads to is what changes.
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                path.parent().into_iter().for_each(|dir| self.tell(dir, false));
                if real != *path && self.stamps.add(&Item::File(real.clone())) {
                    real.parent().into_iter().for_each(|dir| self.tell(dir, false));
                }
            }
        }
    }

    fn tell(&mut self, dir: &Path, recursive: bool) {
        let Some(notices) = &mut self.notices else { return };
        let key = (dir.to_owned(), recursive);
        if self.told.contains(&key) || self.told.contains(&(dir.to_owned(), true)) || !dir.is_dir() {
            return;
        }
        let mode = if recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        match notices.watch(dir, mode) {
            Ok(()) => {
                self.told.insert(key);
            }
            Err(error) => {
                say_polling(&error);
                (self.notices, self.interval) = (None, Some(POLL));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn start(engine: ReloadEngine) -> (Watch, Receiver<BTreeSet<PathBuf>>) {
        let (send, receive) = mpsc::channel();
        (Watch::start(engine, move |changed| send.send(changed.clone()).unwrap()).unwrap(), receive)
    }

    /// Changes a file like an editor, and returns what is reported.
    fn change(path: &Path, reports: &Receiver<BTreeSet<PathBuf>>) -> BTreeSet<PathBuf> {
        let beside = path.with_extension("tmp");
        fs::write(&beside, "x").unwrap();
        fs::rename(&beside, path).unwrap();
        reports.recv_timeout(PATIENCE).unwrap()
    }

    #[test]
    fn every_engine_reports_what_has_changed() {
        for engine in [ReloadEngine::Inotify, ReloadEngine::Poll, ReloadEngine::Auto] {
            let dir = tempfile::tempdir().unwrap();
            let (file, tree) = (dir.path().join("shop.py"), dir.path().join("templates"));
            fs::create_dir(&tree).unwrap();
            let (watch, reports) = start(engine);
            watch.add(vec![Item::File(file.clone()), Item::Tree(tree.clone())]);
            watch.wait_added(PATIENCE);
            assert_eq!(change(&file, &reports), BTreeSet::from([file.clone()]));
            let page = tree.join("page.html");
            assert_eq!(change(&page, &reports), BTreeSet::from([page.clone()]));
            drop(watch);
            assert!(reports.recv_timeout(PATIENCE).is_err_and(|error| error == RecvTimeoutError::Disconnected));
        }
    }

    #[test]
    fn changes_that_follow_each_other_are_one_report() {
        let dir = tempfile::tempdir().unwrap();
        let files: BTreeSet<_> = (0..50).map(|number| dir.path().join(format!("m{number}.py"))).collect();
        let (watch, reports) = start(ReloadEngine::Poll);
        watch.add(vec![Item::Sources(dir.path().to_owned())]);
        watch.wait_added(PATIENCE);
        for file in &files {
            fs::write(file, "x").unwrap();
        }
        let (mut seen, mut count) = (BTreeSet::new(), 0);
        while seen.len() < files.len() {
            seen.extend(reports.recv_timeout(PATIENCE).unwrap());
            count += 1;
        }
        assert_eq!(seen, files);
        // If the machine is busy, the files can appear so slowly that they are several reports.
        assert!(count < 10, "{count} reports");
    }
}
