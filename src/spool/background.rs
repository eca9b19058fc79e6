//! File work that a coroutine must not wait for, done on one thread of the process.

use std::io;
use std::thread;

use crossbeam::channel::Sender;

use crate::sys::{Lock, SignalMask};

type Work = Box<dyn FnOnce() + Send>;

/// The queue of the thread, and the process that started it. A forked child has no such thread.
static QUEUE: Lock<Option<(u32, Sender<Work>)>> = Lock::new(None);

/// Starts the thread, unless it is running.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn start_background() -> io::Result<()> {
    queue().map(drop)
}

fn queue() -> io::Result<Sender<Work>> {
    let mut started = QUEUE.lock();
    let process = std::process::id();
    if let Some((owner, queue)) = &*started
        && *owner == process
    {
        return Ok(queue.clone());
    }
    let (queue, work) = crossbeam::channel::unbounded::<Work>();
    let signals = SignalMask::block_all();
    let thread = thread::Builder::new().name("maypole-disk".into()).spawn(move || work.iter().for_each(|work| work()));
    signals.restore();
    thread?;
    *started = Some((process, queue.clone()));
    Ok(queue)
}

/// Queues work for the thread. If the thread cannot be started, the caller does the work, however long it takes.
pub fn in_background(work: impl FnOnce() + Send + 'static) {
    let work: Work = Box::new(work);
    match queue() {
        Ok(queue) => {
            if let Err(refused) = queue.send(work) {
                (refused.0)();
            }
        }
        Err(_) => work(),
    }
}
