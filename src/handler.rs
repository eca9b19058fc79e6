//! The interface between HTTP and the code that answers requests: `Handler`, `Request` in, `Responder` out.
//!
//! *Owns*: the exchange, which the connection's coroutine and the answering thread share during one request. *Runs on*:
//! both sides; each method says which. The answering side waits for the client only in methods that say so. The
//! connection's side never waits; it is woken. *Invariants*: neither side holds the lock while it waits or does I/O on
//! a socket; a response ends exactly once.

mod begin;
mod hijack;
mod responder;
mod served;
mod store;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::http::{RequestHead, ResponseHead};
use crate::phrase::count;
use crate::pool::Permit;
use crate::spool::{ResponseSpool, Spool, SpoolFile, Storage};
use crate::sys::Waker;

use self::begin::Beginning;
use self::hijack::Hijack;

pub use self::hijack::{AtEnd, CallEnd, Hold, Keeps, NotGiven, TakenStream};
pub use self::responder::{Input, Responder, Watch};
pub use self::served::{Served, Stage};

/// Answers requests. `call` must not block: it hands the request on and returns.
pub trait Handler: Send + Sync + 'static {
    /// Takes the request. The answer goes to the responder, at once or later, from any thread. A responder that is
    /// dropped unfinished counts as failed.
    fn call(&self, request: Request, responder: Responder);

    /// How many requests it works on, whether or not their clients are still there.
    fn running(&self) -> usize;

    /// How busy its threads are, for a log line: a part of a sentence.
    fn load(&self) -> String {
        format!("the handler works on {}", count(self.running(), "request"))
    }
}

/// A whole request.
#[derive(Debug)]
pub struct Request {
    /// The head, shared with the connection, which logs it.
    pub head: Arc<RequestHead>,
    /// The body.
    pub body: RequestBody,
    /// Where it came from.
    pub peer: Arc<Peer>,
    /// When all of it had come, or its head if the body is streamed.
    pub received: Instant,
    /// Until when a thread must begin it.
    pub begin_by: Instant,
    /// Whether the access log wants to know when the application ran.
    pub timed: bool,
}

/// Both ends of the connection a request came on.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address; `None` for a unix socket.
    pub remote: Option<SocketAddr>,
    /// Where it reached us; most connections of a listener share it.
    pub local: Arc<Local>,
}

impl Peer {
    /// Where the client is, for the logs: its address, or `unix`.
    pub fn client(&self) -> String {
        self.remote.map_or_else(|| "unix".to_owned(), |remote| remote.to_string())
    }
}

/// Our end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket, or `@` and the name of one without a file.
    Unix(PathBuf),
}

/// A request's body.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// All of it has been received.
    Complete(Spool),
    /// It is still coming; `Input` reads it.
    Streamed(Input),
}

/// Bytes of another owner that a response keeps alive instead of copying them.
pub trait Lent: Send {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// Whether probably nothing else keeps them alive. Then storing them elsewhere saves memory.
    fn is_ours_alone(&self) -> bool;
}

/// A piece of a response body.
pub enum Block {
    /// Bytes of our own.
    Owned(Vec<u8>),
    /// Bytes of another owner, kept alive by this value.
    Shared(Box<dyn Lent>),
    /// A part of a file, sent with sendfile(2).
    File {
        /// The file; its own position is neither used nor moved.
        file: OwnedFd,
        /// Where the part begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        bytes: u64,
    },
}

impl Block {
    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        match self {
            Self::Owned(bytes) => bytes.len() as u64,
            Self::Shared(lent) => lent.bytes().len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.len())
    }
}

/// Empty buffers for a response. They come back with it and serve the next one, so that a usual response needs no
/// allocator.
#[derive(Debug, Default)]
pub struct Buffers {
    /// For the head.
    pub head: Vec<u8>,
    /// For a small body.
    pub body: Vec<u8>,
}

/// The client has gone, or the connection was given up: nothing that is sent will arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct Gone;

/// What became of a block.
#[derive(Debug)]
pub enum Sent {
    /// It is on its way.
    Done,
    /// Memory is full because the client is slow: give the block to `Responder::send_waiting` (without the GIL).
    WouldWait(Block),
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Whole.
    Complete,
    /// The rest will never come: what was begun must be seen to be cut, and what was not begun becomes a 500.
    Failed,
    /// No thread began the request before its deadline: nothing was sent.
    Late,
}

/// When the parts of a request happened, for the access log.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApplicationTimes {
    /// When a thread took the request.
    pub started: Option<Instant>,
    /// When the application's iterable was closed.
    pub ended: Option<Instant>,
}

/// Limits of one exchange, in bytes.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How much of a response waits in memory for a slow client.
    pub response_buffer: u64,
    /// How much more waits in a temporary file before the application waits.
    pub response_spool: u64,
    /// Where that file is made.
    pub storage: Arc<Storage>,
    /// How much of a streamed request body waits in memory for the application.
    pub request_buffer: usize,
}

impl Bounds {
    /// How much of a streamed request body may wait when the connection goes on to receive it.
    fn input_low(&self) -> usize {
        self.request_buffer / 2
    }
}

/// What both sides share during one request.
#[derive(Debug)]
pub struct Exchange {
    state: Mutex<State>,
    /// Signalled towards the answering thread: there is room again, input came, or the client has gone.
    change: Condvar,
    waker: Waker,
    bounds: Arc<Bounds>,
    /// The client closed its side; read without the lock.
    disconnected: AtomicBool,
    beginning: Beginning,
}

/// Everything that the answering side has said so far and the connection has not yet taken.
#[derive(Debug, Default)]
pub struct Outbox {
    /// An interim response (1xx), ready to send.
    pub interim: Vec<u8>,
    /// The head, once.
    pub head: Option<ResponseHead>,
    /// The length of the whole body if it is known, although the head may not say it.
    pub body_bytes: Option<u64>,
    /// Blocks in the order in which they go out.
    pub blocks: VecDeque<Block>,
    /// Whether there are bytes in the spool file behind the blocks: `Exchange::take_spooled`.
    pub spooled: bool,
    /// The thread waits for the connection's stream: `Exchange::promise_stream`.
    pub stream_wanted: bool,
    /// The end, once everything before it has been taken.
    pub end: Option<End>,
    /// Values of environ entries that the access log asked for.
    pub environ: Vec<(String, String)>,
    /// When the application ran.
    pub times: ApplicationTimes,
}

#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    /// Bytes of the response in `outbox.blocks`, without those of files.
    waiting_bytes: u64,
    spooled: Option<ResponseSpool>,
    /// A thread waits for room in memory or in the file.
    room_wanted: bool,
    gone: bool,
    /// The place in the pool, until the response ends or the client leaves before a thread has begun.
    permit: Option<Permit>,
    input: InputState,
    /// The connection's stream, if the answering side has asked for it.
    hijack: Option<Box<Hijack>>,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct InputState {
    buffer: VecDeque<u8>,
    /// A thread waits for more.
    wanted: bool,
    /// Something has come, so that the connection need not be told that it is wanted.
    begun: bool,
    /// The answering side has told the client to go on.
    continued: bool,
    /// Nothing more comes, whatever the answering side does.
    closed: bool,
    progress: Progress,
}

impl InputState {
    /// Moves bytes from the front into the buffer, as many as fit. Returns how many.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let bytes = self.buffer.len().min(buffer.len());
        let (front, back) = self.buffer.as_slices();
        let (to_front, to_back) = buffer[..bytes].split_at_mut(front.len().min(bytes));
        to_front.copy_from_slice(&front[..to_front.len()]);
        to_back.copy_from_slice(&back[..to_back.len()]);
        self.buffer.drain(..bytes);
        bytes
    }
}

/// How far a streamed body has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    #[default]
    Coming,
    /// The application expects another body after one that is complete.
    Again,
    Complete,
    Failed(io::ErrorKind),
}

impl Exchange {
    /// A new exchange; the waker wakes the connection's coroutine. (Connection's side, like all methods here.)
    pub fn new(waker: Waker, bounds: Arc<Bounds>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            change: Condvar::new(),
            waker,
            bounds,
            disconnected: AtomicBool::new(false),
            beginning: Beginning::default(),
        })
    }

    /// The same, for a request that holds this place in the pool.
    pub fn with_permit(waker: Waker, bounds: Arc<Bounds>, permit: Permit) -> Arc<Self> {
        let exchange = Self::new(waker, bounds);
        exchange.lock().permit = Some(permit);
        exchange
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `bytes` more may wait in memory. One block always may, however large.
    fn fits(&self, state: &State, bytes: u64) -> bool {
        state.waiting_bytes == 0 || state.waiting_bytes.saturating_add(bytes) <= self.bounds.response_buffer
    }

    /// Makes it fit for the next request of the same connection, which holds `permit`. Gives the permit back if the
    /// answering side has not let go of the exchange yet.
    ///
    /// # Errors
    /// The permit: another exchange is needed.
    pub fn renew(self: &mut Arc<Self>, permit: Permit) -> Result<(), Permit> {
        let Some(exchange) = Arc::get_mut(self) else { return Err(permit) };
        let state = exchange.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut blocks = std::mem::take(&mut state.outbox.blocks);
        blocks.clear();
        let outbox = Outbox { blocks, ..Outbox::default() };
        *state = State { outbox, permit: Some(permit), ..State::default() };
        *exchange.disconnected.get_mut() = false;
        exchange.beginning.renew();
        Ok(())
    }

    /// Takes the bytes to send, in exchange for an outbox that has been sent completely. `end` comes only when nothing
    /// is left in the spool file. Returns whether there is anything.
    pub fn take(&self, taken: &mut Outbox) -> bool {
        let mut state = self.lock();
        state.waiting_bytes = 0;
        if std::mem::take(&mut state.room_wanted) {
            self.change.notify_all();
        }
        let spooled = state.spooled.as_ref().is_some_and(|spooled| spooled.waiting() > 0);
        taken.stream_wanted = state.hijack.as_ref().is_some_and(|hijack| hijack.is_wanted());
        let outbox = &mut state.outbox;
        std::mem::swap(&mut taken.blocks, &mut outbox.blocks);
        outbox.blocks.clear();
        taken.interim = std::mem::take(&mut outbox.interim);
        taken.head = outbox.head.take();
        taken.body_bytes = outbox.body_bytes;
        taken.spooled = spooled;
        taken.end = if spooled { None } else { outbox.end };
        if taken.end.is_some() {
            taken.environ = std::mem::take(&mut outbox.environ);
            taken.times = outbox.times;
        }
        let has_bytes = !taken.interim.is_empty() || !taken.blocks.is_empty() || taken.spooled;
        has_bytes || taken.head.is_some() || taken.end.is_some() || taken.stream_wanted
    }

    /// The next part of the spool file to send, at most `bytes_max` bytes long: the file, and where in it. The caller
    /// says `spooled_sent` for what it has sent.
    pub fn take_spooled(&self, bytes_max: u64) -> Option<(Arc<SpoolFile>, u64, u64)> {
        self.lock().spooled.as_ref()?.next_part(bytes_max)
    }

    /// Bytes of the spool file have been sent. The disk gets their space back.
    pub fn spooled_sent(&self, bytes: u64) {
        let mut state = self.lock();
        let is_read = state.spooled.as_mut().is_some_and(|spooled| spooled.sent(bytes));
        let read = if is_read { state.spooled.take() } else { None };
        drop(state);
        self.change.notify_all();
        // A long file takes a while to go.
        drop(read);
    }

    /// Whether the application waits for (more of) the streamed body.
    pub fn wants_input(&self) -> bool {
        self.lock().input.wanted
    }

    /// Whether the application has sent `100 Continue` itself. What it sent before it wanted input counts, if this is
    /// asked after that.
    pub fn has_continued(&self) -> bool {
        self.lock().input.continued
    }

    /// The connection is given up: sends fail from now on, and waiting threads go on. A request that no thread has begun
    /// is never begun, and its place in the pool is free at once.
    pub fn set_gone(&self) {
        self.disconnected.store(true, Ordering::Release);
        let withdrawn = self.beginning.withdraw();
        let mut state = self.lock();
        state.gone = true;
        state.input.closed = true;
        let permit = if withdrawn { state.permit.take() } else { None };
        state.outbox.blocks.clear();
        state.spooled = None;
        if matches!(state.input.progress, Progress::Coming | Progress::Again) {
            state.input.progress = Progress::Failed(io::ErrorKind::ConnectionReset);
        }
        drop(state);
        drop(permit);
        self.change.notify_all();
    }

    /// The client closed its side, although it may still read. Returns whether that is news.
    pub fn set_disconnected(&self) -> bool {
        !self.disconnected.swap(true, Ordering::AcqRel)
    }

    /// How many more bytes of a streamed body may be given. None, before the application has read half of the most: the
    /// connection is woken then, and more than a few bytes are handed on at once.
    pub fn input_room(&self) -> usize {
        let waiting = self.lock().input.buffer.len();
        if waiting > self.bounds.input_low() { 0 } else { self.bounds.request_buffer - waiting }
    }

    /// More of a streamed body: everything that one read brought.
    pub fn give_input(&self, data: &[u8]) {
        let mut state = self.lock();
        state.input.buffer.extend(data);
        state.input.begun = true;
        let wanted = std::mem::take(&mut state.input.wanted);
        drop(state);
        // A reader that waits has said so.
        if wanted {
            self.change.notify_all();
        }
    }

    /// Whether another body is to be received after the one that was complete; asked once for each.
    pub fn take_again(&self) -> bool {
        let progress = &mut self.lock().input.progress;
        let again = *progress == Progress::Again;
        if again {
            *progress = Progress::Coming;
        }
        again
    }

    /// The response is over: nothing more of a streamed body will be given, and a thread that waits for it goes on.
    pub fn close_input(&self) {
        let mut state = self.lock();
        state.input.closed = true;
        if matches!(state.input.progress, Progress::Coming | Progress::Again) {
            state.input.progress = Progress::Failed(io::ErrorKind::BrokenPipe);
        }
        drop(state);
        self.change.notify_all();
    }

    /// A streamed body is complete (`None`) or will never be.
    pub fn end_input(&self, failed: Option<io::ErrorKind>) {
        let mut state = self.lock();
        state.input.progress = failed.map_or(Progress::Complete, Progress::Failed);
        state.input.wanted = false;
        drop(state);
        self.change.notify_all();
    }
}

/// How long a step took, or zero if it did not happen.
pub fn between(from: Option<Instant>, to: Option<Instant>) -> Duration {
    match (from, to) {
        (Some(from), Some(to)) => to.saturating_duration_since(from),
        _ => Duration::ZERO,
    }
}
