//! The seam between HTTP and whatever answers: `Handler`, `Request` in, `Responder` out.
//!
//! *Owns*: the exchange, that is, what the connection's coroutine and the answering thread share during one request.
//! *Runs on*: both sides; each method says which. The answering side never waits for the client but in the two methods
//! that say so; the connection's side never waits at all, it is woken.
//! *Invariants*: neither side holds the lock while it waits or does I/O on a socket; a response ends exactly once.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::http::{Framing, RequestHead, ResponseHead};
use crate::pool::Permit;
use crate::spool::{self, Spool};
use crate::sys::{self, Waker};

/// Answers requests. `call` must not block: it hands the request on and returns.
pub trait Handler: Send + Sync + 'static {
    /// Takes the request. The answer goes to the responder, at once or later, from any thread. A responder that is
    /// dropped unfinished counts as failed.
    fn call(&self, request: Request, responder: Responder);
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
}

/// Both ends of the connection a request came on.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address; `None` for a unix socket.
    pub remote: Option<SocketAddr>,
    /// Where it reached us; most connections of a listener share it.
    pub local: Arc<Local>,
}

/// Our end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a unix socket.
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

/// Bytes of somebody else that a response keeps alive instead of copying them.
pub trait Lent: Send {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// Whether nobody else keeps them alive, as far as one can tell: then memory is won by storing them elsewhere.
    fn is_ours_alone(&self) -> bool;
}

/// A piece of a response body.
pub enum Block {
    /// Bytes of our own.
    Owned(Vec<u8>),
    /// Somebody else's bytes, kept alive by this value.
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
    pub spool_dir: PathBuf,
    /// How much of a streamed request body waits in memory for the application.
    pub request_buffer: usize,
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
}

/// Everything that the answering side has said so far and the connection has not yet taken.
#[derive(Debug, Default)]
pub struct Outbox {
    /// An interim response (1xx), ready to send.
    pub interim: Vec<u8>,
    /// The head, once.
    pub head: Option<ResponseHead>,
    /// The length of the whole body where it is known although the head may not say it.
    pub body_bytes: Option<u64>,
    /// Blocks in the order in which they go out.
    pub blocks: VecDeque<Block>,
    /// Whether there are bytes in the spool file behind the blocks: `Exchange::take_spooled`.
    pub spooled: bool,
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
    /// Bytes of response in `outbox.blocks`, but for those of files.
    waiting_bytes: u64,
    spooled: Option<Spooled>,
    gone: bool,
    input: InputState,
}

/// The part of a response that waits on disk.
#[derive(Debug)]
struct Spooled {
    file: Arc<File>,
    read: u64,
    written: u64,
}

#[derive(Debug, Default)]
struct InputState {
    buffer: VecDeque<u8>,
    /// A thread waits for more.
    wanted: bool,
    complete: bool,
    failed: Option<io::ErrorKind>,
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
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what there is to send. No thread waits for that, only for the spool file to become shorter. `end` comes only when nothing is
    /// left in the spool file.
    pub fn take(&self) -> Outbox {
        let mut state = self.lock();
        state.waiting_bytes = 0;
        let spooled = state.spooled.as_ref().is_some_and(|spooled| spooled.read < spooled.written);
        let outbox = &mut state.outbox;
        Outbox {
            interim: std::mem::take(&mut outbox.interim),
            head: outbox.head.take(),
            body_bytes: outbox.body_bytes,
            blocks: std::mem::take(&mut outbox.blocks),
            spooled,
            end: if spooled { None } else { outbox.end },
            environ: if spooled { Vec::new() } else { std::mem::take(&mut outbox.environ) },
            times: outbox.times,
        }
    }

    /// The next part of the spool file to send, at most `bytes_max` bytes long: the file, and where in it. The caller
    /// says `spooled_sent` for what it has sent.
    pub fn take_spooled(&self, bytes_max: u64) -> Option<(Arc<File>, u64, u64)> {
        let state = self.lock();
        let spooled = state.spooled.as_ref()?;
        let bytes = (spooled.written - spooled.read).min(bytes_max);
        (bytes > 0).then(|| (Arc::clone(&spooled.file), spooled.read, bytes))
    }

    /// Bytes of the spool file have been sent. An empty file is cut to nothing, so that the disk gets its space back.
    pub fn spooled_sent(&self, bytes: u64) {
        let mut state = self.lock();
        if let Some(spooled) = state.spooled.as_mut() {
            spooled.read += bytes;
            if spooled.read == spooled.written {
                state.spooled = None;
            }
        }
        drop(state);
        self.change.notify_all();
    }

    /// Whether the application waits for (more of) the streamed body.
    pub fn wants_input(&self) -> bool {
        self.lock().input.wanted
    }

    /// The connection is given up: sends fail from now on, and waiting threads go on.
    pub fn set_gone(&self) {
        self.disconnected.store(true, Ordering::Release);
        let mut state = self.lock();
        state.gone = true;
        state.outbox.blocks.clear();
        state.spooled = None;
        if !state.input.complete {
            state.input.failed.get_or_insert(io::ErrorKind::ConnectionReset);
        }
        drop(state);
        self.change.notify_all();
    }

    /// The client closed its side, although it may still read.
    pub fn set_disconnected(&self) {
        self.disconnected.store(true, Ordering::Release);
    }

    /// How many more bytes of a streamed body may be given.
    pub fn input_room(&self) -> usize {
        self.bounds.request_buffer.saturating_sub(self.lock().input.buffer.len())
    }

    /// More of a streamed body.
    pub fn give_input(&self, data: &[u8]) {
        let mut state = self.lock();
        state.input.buffer.extend(data);
        state.input.wanted = false;
        drop(state);
        self.change.notify_all();
    }

    /// A streamed body is complete (`None`) or will never be.
    pub fn end_input(&self, failed: Option<io::ErrorKind>) {
        let mut state = self.lock();
        state.input.complete = failed.is_none();
        state.input.failed = failed;
        state.input.wanted = false;
        drop(state);
        self.change.notify_all();
    }
}

/// Reads a body that is still coming. (Answering side.)
#[derive(Debug)]
pub struct Input {
    exchange: Arc<Exchange>,
    /// How the body is delimited; its length is known in advance only with `Framing::Length`.
    pub framing: Framing,
}

impl Input {
    /// The input of an exchange whose body is streamed.
    pub fn new(exchange: Arc<Exchange>, framing: Framing) -> Self {
        Self { exchange, framing }
    }

    /// Reads some bytes; 0 means the end of the body. Waits for the client: call it without the GIL.
    ///
    /// # Errors
    /// The client has gone, was too slow, or sent something malformed.
    pub fn read_waiting(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.exchange.lock();
        loop {
            let available = state.input.buffer.len();
            if available > 0 {
                let bytes = available.min(buffer.len());
                for (to, from) in buffer.iter_mut().zip(state.input.buffer.drain(..bytes)) {
                    *to = from;
                }
                drop(state);
                self.exchange.waker.wake_now();
                return Ok(bytes);
            }
            if state.input.complete {
                return Ok(0);
            }
            if let Some(kind) = state.input.failed {
                return Err(io::Error::new(kind, "the client did not send the whole request body"));
            }
            if !state.input.wanted {
                state.input.wanted = true;
                drop(state);
                self.exchange.waker.wake_now();
                state = self.exchange.lock();
                continue;
            }
            state = self.exchange.change.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The answering side of an exchange. Dropped unfinished, it fails the response.
#[derive(Debug)]
pub struct Responder {
    exchange: Arc<Exchange>,
    /// The place in the pool: given back when the responder ends.
    permit: Option<Permit>,
    ended: bool,
    /// A part of the response was lost, so that it cannot end whole.
    lost: bool,
}

impl Responder {
    /// The answering side of `exchange`.
    pub fn new(exchange: Arc<Exchange>, permit: Option<Permit>) -> Self {
        Self { exchange, permit, ended: false, lost: false }
    }

    /// Whether the client has closed its side of the connection (it can still be reading: shutdown(2)).
    pub fn client_disconnected(&self) -> bool {
        self.exchange.disconnected.load(Ordering::Acquire)
    }

    /// A callable's view of the same that outlives the responder.
    pub fn watch(&self) -> Watch {
        Watch { exchange: Arc::clone(&self.exchange) }
    }

    /// When a thread took the request.
    pub fn set_started(&self, at: Instant) {
        self.exchange.lock().outbox.times.started = Some(at);
    }

    /// Sends an interim response (1xx), given as it goes on the wire.
    pub fn interim(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let mut state = self.exchange.lock();
        if state.gone {
            return Err(Gone);
        }
        state.outbox.interim.extend_from_slice(bytes);
        drop(state);
        self.exchange.waker.wake_now();
        Ok(())
    }

    /// Sends the head, with the body's length where it is known. Nothing leaves before the first block or the end: the
    /// caller follows up with one of these.
    pub fn head(&mut self, head: ResponseHead, body_bytes: Option<u64>) {
        let mut state = self.exchange.lock();
        state.outbox.head = Some(head);
        state.outbox.body_bytes = body_bytes;
    }

    /// Sends a block, without delay and without waiting.
    ///
    /// # Errors
    /// `Gone`: the client has gone, stop.
    pub fn send(&mut self, block: Block) -> Result<Sent, Gone> {
        let mut state = self.exchange.lock();
        if state.gone {
            return Err(Gone);
        }
        let spooling = state.spooled.is_some();
        let bytes = if matches!(block, Block::File { .. }) { 0 } else { block.len() };
        let fits = state.waiting_bytes == 0 || state.waiting_bytes + bytes <= self.exchange.bounds.response_buffer;
        if spooling || !fits {
            return Ok(Sent::WouldWait(block));
        }
        state.waiting_bytes += bytes;
        state.outbox.blocks.push_back(block);
        drop(state);
        self.exchange.waker.wake_now();
        Ok(Sent::Done)
    }

    /// Sends a block that did not fit into memory: into the spool file, or, when that is full too, after waiting for
    /// the client. Call it without the GIL.
    ///
    /// # Errors
    /// `Gone`: the client has gone, or the file could not be written (which is logged, and the response then ends as
    /// failed).
    pub fn send_waiting(&mut self, block: Block) -> Result<(), Gone> {
        let sent = self.store(block);
        self.lost |= sent.is_err();
        sent
    }

    fn store(&mut self, block: Block) -> Result<(), Gone> {
        if let Block::File { file, offset, bytes } = block {
            let mut buffer = vec![0; 64 * 1024];
            let (file, mut offset, end) = (File::from(file), offset, offset + bytes);
            while offset < end {
                let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
                match file.read_at(&mut buffer[..wanted], offset) {
                    Ok(0) => break,
                    Ok(read) => {
                        self.spool(&buffer[..read])?;
                        offset += read as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        log::error!("cannot read a file that the application sends: {error}");
                        return Err(Gone);
                    }
                }
            }
            return Ok(());
        }
        match &block {
            Block::Owned(bytes) => self.spool(bytes),
            Block::Shared(lent) => self.spool(lent.bytes()),
            Block::File { .. } => Ok(()),
        }
    }

    /// Writes into the spool file, waiting while it is full.
    fn spool(&mut self, mut data: &[u8]) -> Result<(), Gone> {
        let exchange = Arc::clone(&self.exchange);
        let high_water = exchange.bounds.response_spool.max(1);
        while !data.is_empty() {
            let mut state = exchange.lock();
            if state.gone {
                return Err(Gone);
            }
            let waiting = state.spooled.as_ref().map_or(0, |spooled| spooled.written - spooled.read);
            // What has been sent still takes space until the file goes: a long one is sent to its end, and the next
            // part begins a new one.
            let is_long = state.spooled.as_ref().is_some_and(|spooled| spooled.written / 2 >= high_water);
            if waiting >= high_water || (is_long && waiting > 0) {
                drop(exchange.change.wait(state).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            let (file, at) = match &state.spooled {
                Some(spooled) => (Arc::clone(&spooled.file), spooled.written),
                None => match spool::temporary_file(&exchange.bounds.spool_dir) {
                    Ok(file) => {
                        let file = Arc::new(file);
                        state.spooled = Some(Spooled { file: Arc::clone(&file), read: 0, written: 0 });
                        (file, 0)
                    }
                    Err(error) => {
                        log::error!("cannot make a temporary file in {}: {error}", exchange.bounds.spool_dir.display());
                        return Err(Gone);
                    }
                },
            };
            drop(state);
            let part = data.len().min(usize::try_from(high_water - waiting).unwrap_or(usize::MAX));
            if let Err(error) = file.write_all_at(&data[..part], at) {
                log::error!("cannot write a temporary file in {}: {error}", exchange.bounds.spool_dir.display());
                return Err(Gone);
            }
            data = &data[part..];
            let mut state = exchange.lock();
            match state.spooled.as_mut() {
                // The same file, for only this side makes one and only a fully read one is dropped.
                Some(spooled) if Arc::ptr_eq(&spooled.file, &file) => spooled.written = at + part as u64,
                _ => {
                    state.spooled = Some(Spooled { file, read: at, written: at + part as u64 });
                }
            }
            let gone = state.gone;
            drop(state);
            if gone {
                return Err(Gone);
            }
            exchange.waker.wake_now();
        }
        Ok(())
    }

    /// Ends the response. The place in the pool is free again. The coroutine is woken with the next `sys::flush_wakes`,
    /// which whoever runs calls one after the other owes.
    pub fn finish(mut self, end: End, ended: Instant, environ: Vec<(String, String)>) {
        self.end(end, Some(ended), environ);
    }

    /// Head, all blocks and the end in one: the usual response. Otherwise like `finish`.
    pub fn respond(
        mut self,
        head: ResponseHead,
        body_bytes: u64,
        blocks: impl IntoIterator<Item = Block>,
        ended: Instant,
        environ: Vec<(String, String)>,
    ) {
        {
            let mut state = self.exchange.lock();
            let outbox = &mut state.outbox;
            outbox.head = Some(head);
            outbox.body_bytes = Some(body_bytes);
            outbox.blocks.extend(blocks);
        }
        self.end(End::Complete, Some(ended), environ);
    }

    fn end(&mut self, end: End, ended: Option<Instant>, environ: Vec<(String, String)>) {
        self.ended = true;
        let end = if self.lost { End::Failed } else { end };
        {
            let mut state = self.exchange.lock();
            state.outbox.end = Some(end);
            state.outbox.times.ended = ended;
            state.outbox.environ = environ;
        }
        drop(self.permit.take());
        self.exchange.waker.wake_later();
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.ended {
            self.end(End::Failed, None, Vec::new());
            sys::flush_wakes();
        }
    }
}

/// Tells whether the client has gone, for as long as it is kept.
#[derive(Debug, Clone)]
pub struct Watch {
    exchange: Arc<Exchange>,
}

impl Watch {
    /// Whether the client has closed its side of the connection.
    pub fn client_disconnected(&self) -> bool {
        self.exchange.disconnected.load(Ordering::Acquire)
    }
}

/// How long a step took, or zero where it did not happen.
pub fn between(from: Option<Instant>, to: Option<Instant>) -> Duration {
    match (from, to) {
        (Some(from), Some(to)) => to.saturating_duration_since(from),
        _ => Duration::ZERO,
    }
}
