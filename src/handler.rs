//! The interface between HTTP and the code that produces responses: a `Handler` gets a `Request` and a `Responder`.
//!
//! *Owns*: the exchange, which the connection's coroutine and the handler's thread share during one request. *Runs on*:
//! both sides; each method says which. The handler's side waits for the client only in methods that say so. The
//! connection's side never waits; it is woken. *Invariants*: neither side holds the lock while it waits or does I/O on
//! a socket. A response ends exactly once.

mod begin;
mod origin;
mod overdue;
mod responder;
mod store;
mod suspended;
mod takeover;
mod upgrade;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::admission::Admission;
use crate::drain::Drain;
use crate::http::{RequestHead, ResponseHead};
use crate::metrics::{Meters, Numbers};
use crate::pool::{Permit, Pool};
use crate::spool::{ResponseSpool, Spool, SpoolFile, Storage};
use crate::sys::{Condition, Lock, Waker};

use self::begin::Beginning;
use self::suspended::Suspensions;
use self::takeover::Takeover;

pub use self::origin::{Hidden, Local, Origin, Scheme, Told, client_name};
pub use self::overdue::Overdue;
pub use self::responder::{Input, Responder, Watch};
pub use self::suspended::{Pause, Producer, Rouse};
pub use self::takeover::{AtEnd, CallEnd, Hold, KeptBy, NotGiven, TakenStream};
pub use self::upgrade::Upgrade;

/// Produces responses. `call` must not block: it passes the request on and returns.
pub trait Handler: Send + Sync + 'static {
    /// Decides about a request whose head has arrived. Called once for each request, before `call`. Must not block.
    fn admit(&self, head: &RequestHead, origin: &Origin) -> Admission<'_>;

    /// Takes the request. The handler gives the response to the responder, at once or later, from any thread. A
    /// responder that is dropped unfinished fails the response.
    fn call(&self, request: Request, responder: Responder);

    /// Returns how many requests the handler works on, including those whose clients have gone.
    fn running(&self) -> usize;

    /// Takes the stop of the server, before the first call. The handler calls `Drain::note` whenever `running` has
    /// become 0.
    fn join_drain(&self, drain: &Arc<Drain>);

    /// Returns the pool in which most of its requests wait, for reports. `None`: no request needs a permit.
    fn pool(&self) -> Option<&Arc<Pool>>;

    /// Sets how many suspended responses may be set aside at once. Called before the first request.
    fn limit_suspended(&self, _max: usize) {}

    /// Returns how many suspended responses are set aside.
    fn suspended(&self) -> usize {
        0
    }

    /// Fills in the handler's own numbers: those of its threads and of their requests.
    fn measure(&self, _numbers: &mut Numbers) {}

    /// Shows what the handler has counted itself.
    fn show(&self, _meters: &Meters) {}
}

/// A whole request.
#[derive(Debug)]
pub struct Request {
    /// The head, shared with the connection, which logs it.
    pub head: Arc<RequestHead>,
    /// The body.
    pub body: RequestBody,
    /// Where it comes from.
    pub origin: Arc<Origin>,
    /// When the last byte arrived, or the last byte of the head if the body is streamed.
    pub received: Instant,
    /// The deadline for a thread to begin the request.
    pub begin_by: Instant,
    /// The deadline for the end of the response. `None`: there is none.
    pub deadline: Option<Instant>,
    /// What `Terms::route` said in `Handler::admit`.
    pub route: usize,
}

/// A request's body.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// All of it has been received. The box keeps a request small, which is moved several times.
    Complete(Box<Spool>),
    /// It is still coming; `Input` reads it.
    Streamed(Input),
}

/// Bytes of another owner that a response keeps alive instead of copying them.
pub trait SharedBytes: Send {
    /// Returns the bytes.
    fn bytes(&self) -> &[u8];
    /// Returns whether probably nothing else keeps the bytes alive. If so, storing them elsewhere saves memory.
    fn is_ours_alone(&self) -> bool;
}

/// A piece of a response body.
pub enum Block {
    /// Bytes that the server owns.
    Owned(Vec<u8>),
    /// Bytes of another owner, kept alive by this value.
    Shared(Box<dyn SharedBytes>),
    /// A part of a file, sent with sendfile(2).
    File {
        /// The file; its own position is neither used nor moved. Several parts share one descriptor.
        file: Arc<OwnedFd>,
        /// Where the part begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        bytes: u64,
    },
}

impl Block {
    /// Returns how many bytes it has.
    pub fn len(&self) -> u64 {
        match self {
            Self::Owned(bytes) => bytes.len() as u64,
            Self::Shared(shared) => shared.bytes().len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }
    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.len())
    }
}

/// Empty buffers for a response. The connection returns them after sending and reuses them for the next one. So a usual
/// response needs no allocation.
#[derive(Debug, Default)]
pub struct Buffers {
    /// For the head.
    pub head: Vec<u8>,
    /// For a small body.
    pub body: Vec<u8>,
}

/// The client has gone, or the server has given the connection up. Bytes that are sent do not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct Gone;

/// The result of sending a block.
#[derive(Debug)]
pub enum Sent {
    /// The block is on its way.
    Done,
    /// Memory is full because the client is slow: give the block to `Responder::send_waiting` (without the GIL).
    WouldWait(Block),
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The response is complete.
    Complete,
    /// The response is incomplete. If its head was sent, the client sees a cut-off response. Otherwise it gets a 500.
    Failed,
    /// No thread began the request before its deadline: nothing was sent.
    Late,
    /// The request is past its deadline. If the head was sent, the client sees a cut-off response. Otherwise it gets a
    /// 504.
    Overdue,
}

/// When the application did its part of a request.
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
    /// The maximum number of response bytes that wait in memory for a slow client.
    pub response_buffer: u64,
    /// The most further bytes that wait in a temporary file before the application has to wait.
    pub response_spool: u64,
    /// The storage for that file.
    pub storage: Arc<Storage>,
    /// The maximum number of bytes of a streamed request body that wait in memory for the application.
    pub request_buffer: usize,
}

impl Bounds {
    /// Returns how many bytes of a streamed request body may still wait when the connection receives more.
    fn input_low(&self) -> usize {
        self.request_buffer / 2
    }
}

/// The state that both sides share during one request.
#[derive(Debug)]
pub struct Exchange {
    state: Lock<State>,
    /// Notified for the handler's thread: there is room again, input has arrived, or the client has gone.
    change: Condition,
    waker: Waker,
    bounds: Arc<Bounds>,
    /// Whether the client closed its side; read without the lock.
    disconnected: AtomicBool,
    beginning: Beginning,
    /// Whether the response has been suspended, and whether the connection may rest: see `suspended`.
    suspended: AtomicU8,
    /// Whether the connection rests.
    rests: AtomicBool,
}

/// Output of the handler's side that the connection has not yet taken.
#[derive(Debug, Default)]
pub struct Outbox {
    /// An interim response (1xx), ready to send.
    pub interim: Vec<u8>,
    /// The head, once.
    pub head: Option<ResponseHead>,
    /// The length of the whole body if it is known, even if the head does not declare it.
    pub body_bytes: Option<u64>,
    /// Whether the head is sent before the first block.
    pub head_now: bool,
    /// Blocks in sending order.
    pub blocks: Vec<Block>,
    /// Whether bytes in the spool file follow the blocks: `Exchange::take_spooled`.
    pub spooled: bool,
    /// Whether the thread waits for the connection's stream: `Exchange::promise_stream`.
    pub stream_wanted: bool,
    /// The WebSocket that the connection becomes, in place of a final response.
    pub upgrade: Option<Box<Upgrade>>,
    /// How the response ended, once everything before it has been taken.
    pub end: Option<End>,
    /// Values of environ entries that the access log asked for.
    pub environ: Vec<(String, String)>,
    /// When the application ran.
    pub times: ApplicationTimes,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct State {
    outbox: Outbox,
    /// Bytes of the response in `outbox.blocks`, without those of files.
    waiting_bytes: u64,
    spooled: Option<ResponseSpool>,
    /// Whether a thread waits for room in memory or in the file.
    room_wanted: bool,
    gone: bool,
    /// Whether the response has ended because the request is past its deadline.
    is_overdue: bool,
    /// Whether the handler's side has given a head and goes on with the body.
    head_given: bool,
    /// The place in the pool, until the response ends or the client leaves before a thread has begun.
    permit: Option<Permit>,
    input: InputState,
    /// The connection's stream, if the handler's side has asked for it.
    takeover: Option<Box<Takeover>>,
    suspensions: Suspensions,
    /// Empty buffers for the response.
    buffers: Buffers,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct InputState {
    buffer: VecDeque<u8>,
    /// Whether a thread waits for more input.
    wanted: bool,
    /// Whether input has arrived before. If so, the connection need not be told that more is wanted.
    begun: bool,
    /// Whether the handler's side has sent `100 Continue`.
    continued: bool,
    /// Whether no more input will come, even if the handler's side expects another body.
    closed: bool,
    progress: Progress,
}

impl Outbox {
    /// Empties it, but keeps the memory of the blocks. Usually all of it has been taken.
    fn renew(&mut self) {
        // Without `..`, a new part cannot be forgotten here.
        let Self { interim, head, body_bytes, head_now, blocks, spooled, stream_wanted, upgrade, end, environ, times } =
            self;
        (*interim, *head, *body_bytes, *head_now) = (Vec::new(), None, None, false);
        blocks.clear();
        (*spooled, *stream_wanted, *upgrade, *end) = (false, false, None, None);
        *environ = Vec::new();
        *times = ApplicationTimes::default();
    }
}

impl State {
    /// Prepares the state for the next request. Setting the parts one by one costs less than moving a new state.
    fn renew(&mut self, next: Option<Permit>, empty: Buffers) {
        let Self {
            outbox,
            waiting_bytes,
            spooled,
            room_wanted,
            gone,
            is_overdue,
            head_given,
            permit,
            input,
            takeover,
            suspensions,
            buffers,
        } = self;
        outbox.renew();
        (*waiting_bytes, *spooled, *room_wanted, *gone) = (0, None, false, false);
        (*is_overdue, *head_given, *permit) = (false, false, next);
        *input = InputState::default();
        (*takeover, *suspensions, *buffers) = (None, Suspensions::default(), empty);
    }
}

impl InputState {
    /// Moves bytes from the front into `buffer`, as many as fit. Returns their number.
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

/// The state of receiving a streamed body.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    #[default]
    Coming,
    /// The application expects another body after a complete one.
    Again,
    Complete,
    Failed(io::ErrorKind),
}

impl Exchange {
    /// Makes an exchange; the waker wakes the connection's coroutine. (Connection's side, like all methods here.)
    pub fn new(waker: Waker, bounds: Arc<Bounds>) -> Arc<Self> {
        Arc::new(Self {
            state: Lock::default(),
            change: Condition::default(),
            waker,
            bounds,
            disconnected: AtomicBool::new(false),
            beginning: Beginning::default(),
            suspended: AtomicU8::new(suspended::NEVER),
            rests: AtomicBool::new(false),
        })
    }

    /// Makes an exchange for a request that holds this permit, if it needs one.
    pub fn with_permit(waker: Waker, bounds: Arc<Bounds>, permit: Option<Permit>) -> Arc<Self> {
        let exchange = Self::new(waker, bounds);
        exchange.lock().permit = permit;
        exchange
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns whether `bytes` more may wait in memory. If no bytes wait, a block of any size may.
    fn fits(&self, state: &State, bytes: u64) -> bool {
        state.waiting_bytes == 0 || state.waiting_bytes.saturating_add(bytes) <= self.bounds.response_buffer
    }

    /// Prepares the exchange for the next request of the same connection, which holds `permit` if it needs one. The
    /// response may use the buffers.
    ///
    /// # Errors
    /// Returns the permit if the handler's side still holds the exchange: another exchange is needed.
    pub fn renew(self: &mut Arc<Self>, permit: Option<Permit>, buffers: Buffers) -> Result<(), Option<Permit>> {
        let Some(exchange) = Arc::get_mut(self) else { return Err(permit) };
        exchange.state.get_mut().renew(permit, buffers);
        *exchange.disconnected.get_mut() = false;
        *exchange.suspended.get_mut() = suspended::NEVER;
        *exchange.rests.get_mut() = false;
        exchange.beginning.renew();
        Ok(())
    }

    /// Moves the output to send into `taken`, whose earlier content must have been sent. `end` is set only when nothing
    /// is left in the spool file. Returns whether there is any output.
    #[allow(clippy::inline_always, reason = "a call would cost each request of HTTP/1")]
    #[inline(always)]
    pub fn take(&self, taken: &mut Outbox) -> bool {
        let mut state = self.lock();
        state.waiting_bytes = 0;
        if std::mem::take(&mut state.room_wanted) {
            self.change.notify_all();
        }
        let spooled = state.spooled.as_ref().is_some_and(|spooled| spooled.waiting() > 0);
        taken.stream_wanted = state.takeover.as_ref().is_some_and(|takeover| takeover.is_wanted());
        let outbox = &mut state.outbox;
        std::mem::swap(&mut taken.blocks, &mut outbox.blocks);
        outbox.blocks.clear();
        taken.interim = std::mem::take(&mut outbox.interim);
        taken.head = outbox.head.take();
        taken.body_bytes = outbox.body_bytes;
        taken.head_now = outbox.head_now;
        taken.spooled = spooled;
        taken.end = if spooled { None } else { outbox.end };
        if taken.end.is_some() {
            taken.upgrade = outbox.upgrade.take();
            taken.environ = std::mem::take(&mut outbox.environ);
            taken.times = outbox.times;
        }
        let has_bytes = !taken.interim.is_empty() || !taken.blocks.is_empty() || taken.spooled;
        has_bytes || taken.head.is_some() || taken.end.is_some() || taken.stream_wanted
    }

    /// Returns the next part of the spool file to send: the file, the offset, and the length of at most `bytes_max`
    /// bytes. The caller reports what it has sent with `spooled_sent`.
    pub fn take_spooled(&self, bytes_max: u64) -> Option<(Arc<SpoolFile>, u64, u64)> {
        self.lock().spooled.as_ref()?.next_part(bytes_max)
    }

    /// Counts bytes of the spool file that have been sent. The file is closed when all of it has been sent.
    pub fn spooled_sent(&self, bytes: u64) {
        let mut state = self.lock();
        let is_read = state.spooled.as_mut().is_some_and(|spooled| spooled.sent(bytes));
        let read = if is_read { state.spooled.take() } else { None };
        drop(state);
        self.change.notify_all();
        // Closing a long file takes a while, so it happens without the lock.
        drop(read);
    }

    /// Returns whether no thread has begun the request. (Any thread.)
    pub fn waits_for_thread(&self) -> bool {
        self.beginning.is_waiting()
    }

    /// Returns whether the response has ended, although not all of it may have been sent. (Any thread.)
    pub fn has_ended(&self) -> bool {
        self.lock().outbox.end.is_some()
    }

    /// Returns whether the application waits for (more of) the streamed body.
    pub fn wants_input(&self) -> bool {
        self.lock().input.wanted
    }

    /// Returns whether the application has sent `100 Continue` itself. Called after `wants_input` returned true, it
    /// covers everything that the application sent before it wanted input.
    pub fn has_continued(&self) -> bool {
        self.lock().input.continued
    }

    /// Gives the connection up: sends fail from now on, and waiting threads continue. A request that no thread has
    /// begun is never begun, and its place in the pool is free at once.
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
        let producer = state.suspensions.take();
        drop(state);
        drop(permit);
        self.change.notify_all();
        if let Some(producer) = producer {
            producer.wake();
        }
    }

    /// Notes that the client closed its side, although it may still read. Returns whether that was new.
    pub fn set_disconnected(&self) -> bool {
        !self.disconnected.swap(true, Ordering::AcqRel)
    }

    /// Returns how many more bytes of a streamed body may be given. The result is 0 until the application has read down
    /// to half of the limit. Then the connection is woken, so that more than a few bytes are passed on at once.
    pub fn input_room(&self) -> usize {
        let waiting = self.lock().input.buffer.len();
        if waiting > self.bounds.input_low() { 0 } else { self.bounds.request_buffer - waiting }
    }

    /// Adds the bytes that one read of a streamed body brought.
    pub fn give_input(&self, data: &[u8]) {
        let mut state = self.lock();
        state.input.buffer.extend(data);
        state.input.begun = true;
        let wanted = std::mem::take(&mut state.input.wanted);
        drop(state);
        // A waiting reader has set the flag.
        if wanted {
            self.change.notify_all();
        }
    }

    /// Returns whether another body must be received after the complete one. Returns true once for each.
    pub fn take_again(&self) -> bool {
        let progress = &mut self.lock().input.progress;
        let again = *progress == Progress::Again;
        if again {
            *progress = Progress::Coming;
        }
        again
    }

    /// Ends the input because the response has ended. A thread that waits for more of a streamed body continues.
    pub fn close_input(&self) {
        let mut state = self.lock();
        state.input.closed = true;
        if matches!(state.input.progress, Progress::Coming | Progress::Again) {
            state.input.progress = Progress::Failed(io::ErrorKind::BrokenPipe);
        }
        drop(state);
        self.change.notify_all();
    }

    /// Ends a streamed body: complete (`None`) or failed.
    pub fn end_input(&self, failed: Option<io::ErrorKind>) {
        let mut state = self.lock();
        state.input.progress = failed.map_or(Progress::Complete, Progress::Failed);
        state.input.wanted = false;
        drop(state);
        self.change.notify_all();
    }
}

/// Returns how long a step took, or zero if it did not happen.
pub fn between(from: Option<Instant>, to: Option<Instant>) -> Duration {
    match (from, to) {
        (Some(from), Some(to)) => to.saturating_duration_since(from),
        _ => Duration::ZERO,
    }
}
