//! The threads on which handshakes run, so that their computations delay no other client.
//!
//! *Owns*: the threads, and the queue in front of them. *Runs on*: the threads `maypole-tls`; a connection's coroutine
//! queues its session and waits for its waker. *Invariants*: the queue is bounded. A session that was queued always
//! comes back.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::certificates::{Certificates, Offered};
use super::facts::Facts;
use super::session::{Broken, Session};
use crate::sys::{self, Lock, Waker};

/// The most handshakes that wait. A thread does about 5,000 of them in a second, or 1,000 with RSA keys.
const QUEUE_MAX: usize = 1024;
/// The most threads. More would take the processors from the application.
const THREADS_MAX: usize = 2;

/// The handshakes of a server.
#[derive(Debug)]
pub struct Handshakes {
    certificates: Arc<Certificates>,
    queue: Sender<Work>,
}

/// By how much the threads give way to others.
const NICE: i32 = 15;

/// A session on its way to a thread, and back.
#[derive(Debug)]
pub struct Pending(Arc<Lock<Option<Stepped>>>);

/// A session after a part of its handshake.
#[derive(Debug)]
pub struct Stepped {
    /// The session.
    pub session: Box<Session>,
    /// What has to be sent to the client.
    pub to_send: Vec<u8>,
    /// Whether the handshake can go on, or has ended well.
    pub result: Result<(), Broken>,
    /// What is known of the session, if the handshake has ended well.
    pub facts: Option<Arc<Facts>>,
}

struct Work {
    session: Box<Session>,
    waker: Waker,
    place: Arc<Lock<Option<Stepped>>>,
}

impl Handshakes {
    /// Starts the threads. They end when the value is dropped.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn start(certificates: Arc<Certificates>) -> io::Result<Self> {
        let (queue, work) = bounded(QUEUE_MAX);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..(processors / 2).clamp(1, THREADS_MAX) {
            let work = work.clone();
            sys::start_thread_without_signals("maypole-tls", move || run(&work))?;
        }
        Ok(Self { certificates, queue })
    }

    /// Begins a session with the client's first message. The client chooses from the versions of HTTP in `offered`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn begin(&self, hello: Vec<u8>, offered: Offered) -> Result<Box<Session>, Broken> {
        Session::new(self.certificates.current(offered), hello).map(Box::new)
    }

    /// Queues a session whose handshake goes on. The waker is called when the session is there again.
    ///
    /// # Errors
    /// Too many wait already. The session is dropped.
    pub fn queue(&self, session: Box<Session>, waker: Waker) -> Result<Pending, Full> {
        let place = Arc::default();
        let work = Work { session, waker, place: Arc::clone(&place) };
        match self.queue.try_send(work) {
            Ok(()) => Ok(Pending(place)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Full { waiting: QUEUE_MAX }),
        }
    }
}

/// Too many handshakes wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many.
    pub waiting: usize,
}

impl Pending {
    /// Returns the session, if it is there again.
    pub fn take(&self) -> Option<Stepped> {
        self.0.lock().take()
    }
}

fn run(queue: &Receiver<Work>) {
    // A flood of handshakes must not delay clients that have theirs behind them.
    sys::give_way(NICE);
    for Work { mut session, waker, place } in queue {
        let mut to_send = Vec::new();
        // A session always comes back, or its connection would wait for ever.
        let shake_hands = AssertUnwindSafe(|| session.shake_hands(&mut to_send));
        let result = catch_unwind(shake_hands).unwrap_or(Err(Broken::Ended));
        let facts = (result.is_ok() && !session.is_handshaking()).then(|| Arc::new(session.facts()));
        *place.lock() = Some(Stepped { session, to_send, result, facts });
        waker.wake_now();
    }
}
