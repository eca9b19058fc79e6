//! Sending bytes at the client's pace, from memory and from files.
//!
//! *Owns*: the queue of pieces, and the pace at which a client takes them. *Runs on*: the connection's coroutine.
//! *Invariants*: pieces are sent in the order in which they were added. A client is given up as too slow only while
//! sent bytes are unacknowledged.

mod broken;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::duration_text;
use crate::handler::{Block, Buffers, SharedBytes};
use crate::http::response::ChunkHead;
use crate::spool::{BlockMove, SpoolFile};
use crate::sys::{Io, errno};

use crate::connection::Connection;
use crate::connection::transport::{Transport, Until};

/// A large block to which only this response refers stays in memory this long for a slow client; then it is moved to a
/// file.
const SPILL_AFTER: Duration = Duration::from_secs(1);
/// After a block could not be stored, the next attempt follows this much later.
const SPILL_AGAIN: Duration = Duration::from_secs(2);
/// The most pieces of memory in one system call.
const PIECES_MAX: usize = 16;
/// Pieces up to this size are copied into one buffer if it has room. Copying 1 KiB costs less than a second piece in
/// sendmsg(2).
const JOINED_BYTES_MAX: usize = 1024;
/// Buffers up to this size are reused for the connection's next response.
const KEPT_BYTES_MAX: usize = 4096;

/// Something to send.
pub(in crate::connection) enum Piece {
    /// Constant bytes.
    Static(&'static [u8]),
    /// The size line before a chunk.
    ChunkHead(ChunkHead),
    /// Bytes that the server owns.
    Owned(Vec<u8>),
    /// A number of bytes at the start of memory that another owner lends.
    Shared(Box<dyn SharedBytes>, usize),
    /// A part of the application's file.
    File(Arc<OwnedFd>, u64, u64),
    /// A part of the exchange's spool file.
    Spooled(Arc<SpoolFile>, u64, u64),
    /// A block that was moved to a file.
    Spilled(Arc<SpoolFile>, u64, u64),
    /// The head of a response in HTTP/2, before its compression.
    Head(Vec<u8>),
}

impl Piece {
    /// Makes a piece of a block, cut to this number of bytes.
    pub(in crate::connection) fn from_block(block: Block, bytes: u64) -> Self {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        match block {
            Block::Owned(mut memory) => {
                memory.truncate(length);
                Self::Owned(memory)
            }
            Block::Shared(memory) => Self::Shared(memory, length),
            Block::File { file, offset, bytes: all } => Self::File(file, offset, all.min(bytes)),
        }
    }

    /// Returns the part of a file that this piece is, if it is one.
    fn file_part(&mut self) -> Option<FilePart<'_>> {
        match self {
            Self::File(file, offset, left) => {
                Some(FilePart { file: OwnedFd::as_fd(file), offset, left, spooled: false })
            }
            Self::Spooled(file, offset, left) => {
                Some(FilePart { file: SpoolFile::as_fd(file), offset, left, spooled: true })
            }
            Self::Spilled(file, offset, left) => {
                Some(FilePart { file: SpoolFile::as_fd(file), offset, left, spooled: false })
            }
            Self::Static(_) | Self::ChunkHead(_) | Self::Owned(_) | Self::Shared(..) | Self::Head(_) => None,
        }
    }

    /// Returns its bytes, if they are in memory.
    fn memory(&self) -> Option<&[u8]> {
        match self {
            Self::Static(bytes) => Some(bytes),
            Self::ChunkHead(line) => Some(line.as_bytes()),
            Self::Owned(bytes) => Some(bytes),
            Self::Shared(memory, length) => {
                let bytes = memory.bytes();
                Some(bytes.get(..*length).unwrap_or(bytes))
            }
            Self::File(..) | Self::Spooled(..) | Self::Spilled(..) | Self::Head(_) => None,
        }
    }

    /// Returns at most `bytes_max` of its bytes after the first `skipped`, if they are in memory.
    fn part(&self, skipped: usize, bytes_max: usize) -> Option<&[u8]> {
        let bytes = self.memory()?.get(skipped..).unwrap_or_default();
        Some(bytes.get(..bytes_max).unwrap_or(bytes))
    }
}

/// The unsent part of a file.
struct FilePart<'a> {
    file: BorrowedFd<'a>,
    offset: &'a mut u64,
    left: &'a mut u64,
    /// Whether the exchange must be told how much was sent.
    spooled: bool,
}

/// The sizes of chunks. Most connections send none, and a queue is moved for each request.
#[derive(Default)]
struct Chunks(Option<Box<Sizes>>);

#[derive(Default)]
struct Sizes(Vec<u64>);

impl Chunks {
    /// Adds one, as the first one or after the others.
    fn add(&mut self, size: u64, is_first: bool) {
        let Sizes(sizes) = &mut **self.0.get_or_insert_default();
        if is_first {
            sizes.clear();
        }
        sizes.push(size);
    }

    fn sizes(&self) -> &[u64] {
        self.0.as_ref().map_or(&[], |sizes| &sizes.0)
    }
}

/// Pieces in the order in which they go out.
#[derive(Default)]
pub(in crate::connection) struct SendQueue {
    pieces: VecDeque<Piece>,
    /// How many bytes of the first piece have been sent, if it is in memory.
    front_sent: usize,
    /// How many bytes of a response's body have been sent or are in the queue. See `body_bytes_sent`.
    pub(in crate::connection) body_bytes: u64,
    /// How many bytes have been sent, including the head and the framing.
    pub(in crate::connection) wire_bytes: u64,
    /// How many bytes of spool files have been sent since the exchange was last told.
    pub(in crate::connection) spooled_sent: u64,
    /// The sizes of the chunks that were added since the queue was last empty, and since the response began.
    chunks: Chunks,
    /// Empty buffers for the next response.
    buffers: Buffers,
}

/// The result of sending.
#[derive(Debug)]
pub(in crate::connection) enum Flushed {
    /// The whole queue was sent.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// The socket might take more, but this connection has used up its turn.
    Turn,
    /// The client has gone: the connection can no longer be used.
    Broken,
    /// The file in front has ended early, or reading it has failed with this error.
    FileFailed(Option<io::Error>),
}

/// How fast a client reads. Bytes that it acknowledged count, not bytes that the socket accepted.
pub(in crate::connection) struct Pace {
    /// When the socket was full for the first time.
    began: Option<Instant>,
    /// Bytes that the socket accepted.
    taken: u64,
    /// At the previous look: `taken`, and the unacknowledged bytes of everything that the socket ever accepted. The
    /// socket may still hold many bytes from before this pace began.
    looked: Option<(u64, u64)>,
    /// Bytes that were seen to be acknowledged.
    acknowledged: u64,
    /// When the last acknowledgement was seen.
    moved: Option<Instant>,
    /// If a block could not be stored: no new attempt before this time.
    no_spill_before: Option<Instant>,
}

impl Pace {
    pub(in crate::connection) fn new() -> Self {
        Self { began: None, taken: 0, looked: None, acknowledged: 0, moved: None, no_spill_before: None }
    }
}

impl Pace {
    /// Notes that the socket has accepted bytes.
    pub(in crate::connection) fn take(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// Returns whether the socket has been full since this pace began.
    pub(in crate::connection) fn has_blocked(&self) -> bool {
        self.began.is_some()
    }
}

impl SendQueue {
    /// Appends a piece. Small pieces are joined.
    pub(in crate::connection) fn push(&mut self, piece: Piece) {
        let Some(bytes) = piece.memory() else { return self.pieces.push_back(piece) };
        if bytes.is_empty() {
            return;
        }
        if bytes.len() <= JOINED_BYTES_MAX
            && let Some(Piece::Owned(last)) = self.pieces.back_mut()
            && last.capacity() - last.len() >= bytes.len()
        {
            last.extend_from_slice(bytes);
            self.buffers.keep(piece);
            return;
        }
        self.pieces.push_back(piece);
    }

    /// Appends constant bytes, if there are any.
    pub(super) fn push_static(&mut self, bytes: &'static [u8]) {
        if !bytes.is_empty() {
            self.push(Piece::Static(bytes));
        }
    }

    /// Appends `bytes` bytes of a body with their framing.
    pub(super) fn push_block(&mut self, piece: Piece, bytes: u64, chunk_head: ChunkHead, end: &'static [u8]) {
        if !chunk_head.is_empty() {
            self.chunks.add(bytes, self.body_bytes == 0 || self.pieces.is_empty());
            self.push(Piece::ChunkHead(chunk_head));
        }
        self.body_bytes += bytes;
        self.push(piece);
        self.push_static(end);
    }

    /// Returns how many bytes of a body wait, or `most` if more do.
    pub(in crate::connection) fn waiting_bytes(&self, most: usize) -> usize {
        let mut bytes: usize = 0;
        for piece in &self.pieces {
            let more = match piece {
                Piece::File(_, _, left) | Piece::Spooled(_, _, left) | Piece::Spilled(_, _, left) => {
                    usize::try_from(*left).unwrap_or(most)
                }
                in_memory => in_memory.memory().map_or(0, <[u8]>::len),
            };
            bytes = more.saturating_add(bytes);
            if bytes.saturating_sub(self.front_sent) >= most {
                return most;
            }
        }
        bytes.saturating_sub(self.front_sent)
    }

    /// Takes the head of a response in HTTP/2 from the front.
    pub(in crate::connection) fn take_head(&mut self) -> Option<Vec<u8>> {
        let Some(Piece::Head(_)) = self.pieces.front() else { return None };
        let Some(Piece::Head(head)) = self.pieces.pop_front() else { return None };
        self.wire_bytes += head.len() as u64;
        Some(head)
    }

    /// Takes at most `bytes_max` bytes of a body from the front, for HTTP/2. Small pieces are joined, and a block that
    /// the server owns is not copied. If a file has ended early, returns 0 bytes.
    pub(in crate::connection) fn take_bytes(&mut self, bytes_max: usize) -> Io<Vec<u8>> {
        if let (Some(Piece::Owned(only)), 0, 1) = (self.pieces.front(), self.front_sent, self.pieces.len())
            && only.len() <= bytes_max
            && let Some(Piece::Owned(bytes)) = self.pieces.pop_front()
        {
            self.wire_bytes += bytes.len() as u64;
            return Io::Done(bytes);
        }
        let mut bytes = Vec::new();
        while let Some(piece) = self.pieces.front_mut() {
            let room = bytes_max - bytes.len();
            if let Some(FilePart { file, offset, left, spooled }) = piece.file_part() {
                if !bytes.is_empty() {
                    break;
                }
                let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(room);
                match Transport::read_file(file, &mut bytes, *offset, wanted) {
                    Io::Done(read) => {
                        *offset += read as u64;
                        *left -= (read as u64).min(*left);
                        self.file_sent(read as u64, spooled);
                    }
                    Io::WouldBlock => return Io::WouldBlock,
                    Io::Failed(error) => return Io::Failed(error),
                }
                break;
            }
            let Some(part) = piece.part(self.front_sent, room).filter(|_| room > 0) else { break };
            bytes.reserve_exact(part.len());
            bytes.extend_from_slice(part);
            let taken = part.len();
            self.advance(taken);
        }
        self.wire_bytes += bytes.len() as u64;
        Io::Done(bytes)
    }

    /// Empties a queue that has been sent, but keeps its memory. Returns its free buffers.
    pub(in crate::connection) fn renew(&mut self) -> Buffers {
        let Self { pieces, front_sent, body_bytes, wire_bytes, spooled_sent, chunks: _, buffers } = self;
        if !pieces.is_empty() {
            pieces.clear();
        }
        (*front_sent, *body_bytes, *wire_bytes, *spooled_sent) = (0, 0, 0, 0);
        std::mem::take(buffers)
    }

    /// Gives the memory of a queue back that is empty and stays so for a while.
    pub(super) fn give_memory_back(&mut self) {
        self.pieces.shrink_to(0);
        self.chunks = Chunks::default();
        self.buffers = Buffers::default();
    }

    /// Drops all pieces. Returns the bytes of those in memory, and `[offset+bytes]` for a part of a file.
    #[cfg(test)]
    pub(super) fn drop_all(&mut self) -> String {
        let text = |mut piece: Piece| match piece.file_part() {
            Some(part) => format!("[{}+{}]", part.offset, part.left),
            None => String::from_utf8_lossy(piece.memory().unwrap_or_default()).into_owned(),
        };
        self.pieces.drain(..).map(text).collect()
    }

    pub(in crate::connection) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Counts bytes sent from the file in front.
    fn file_sent(&mut self, bytes: u64, spooled: bool) {
        if spooled {
            self.spooled_sent += bytes;
        }
        if let Some(Piece::File(_, _, 0) | Piece::Spooled(_, _, 0) | Piece::Spilled(_, _, 0)) = self.pieces.front() {
            self.pieces.pop_front();
        }
    }

    /// Drops `sent` bytes of memory that have been sent.
    #[allow(clippy::inline_always, reason = "a call would cost each request of HTTP/1")]
    #[inline(always)]
    fn advance(&mut self, mut sent: usize) {
        while let Some(front) = self.pieces.front().and_then(Piece::memory) {
            let left = front.len() - self.front_sent;
            if sent < left {
                self.front_sent += sent;
                return;
            }
            sent -= left;
            self.front_sent = 0;
            if let Some(piece) = self.pieces.pop_front() {
                self.buffers.keep(piece);
            }
        }
    }
}

impl Buffers {
    /// Keeps the memory of a piece that has been sent.
    fn keep(&mut self, piece: Piece) {
        let Piece::Owned(mut buffer) = piece else { return };
        if buffer.capacity() > KEPT_BYTES_MAX {
            return;
        }
        buffer.clear();
        // The larger buffer is for the head.
        if buffer.capacity() > self.head.capacity() {
            std::mem::swap(&mut buffer, &mut self.head);
        }
        if buffer.capacity() > self.body.capacity() {
            self.body = buffer;
        }
    }
}

impl Connection {
    /// Sends as much of the queue as the socket takes, within this connection's turn.
    pub(in crate::connection) fn flush(&mut self, queue: &mut SendQueue, pace: &mut Pace) -> Flushed {
        loop {
            if self.transport.turn().is_over() && !queue.is_empty() {
                return Flushed::Turn;
            }
            let room = self.transport.turn().bytes_left();
            let sent = match queue.pieces.front_mut().map(Piece::file_part) {
                None => return Flushed::All,
                Some(Some(FilePart { file, offset, left, spooled })) => {
                    match self.transport.send_file(file, *offset, *left, room.into()) {
                        Io::Done(0) => return Flushed::FileFailed(None),
                        Io::Done(bytes) => {
                            *offset += bytes as u64;
                            *left -= (bytes as u64).min(*left);
                            queue.file_sent(bytes as u64, spooled);
                            Io::Done(bytes)
                        }
                        Io::Failed(error) if error.raw_os_error() == Some(errno::EIO) => {
                            return Flushed::FileFailed(Some(error));
                        }
                        other => other,
                    }
                }
                Some(None) => {
                    let sent = self.send_memory(queue, room as usize);
                    if let Io::Done(bytes) = sent {
                        queue.advance(bytes);
                    }
                    sent
                }
            };
            match sent {
                Io::Done(bytes) => {
                    queue.wire_bytes += bytes as u64;
                    pace.taken += bytes as u64;
                }
                Io::WouldBlock => return Flushed::Blocked,
                Io::Failed(_) => return Flushed::Broken,
            }
        }
    }

    /// Sends pieces of memory from the front of the queue, at most `bytes_max` bytes.
    fn send_memory(&mut self, queue: &SendQueue, bytes_max: usize) -> Io<usize> {
        if let (Some(only), 1) = (queue.pieces.front(), queue.pieces.len()) {
            return self.transport.send(only.part(queue.front_sent, bytes_max).unwrap_or_default());
        }
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        let mut more_follows = false;
        let mut room = bytes_max;
        for (slice, piece) in slices.iter_mut().zip(&queue.pieces) {
            let skipped = if count == 0 { queue.front_sent } else { 0 };
            let Some(bytes) = piece.part(skipped, room).filter(|_| room > 0) else {
                more_follows = true;
                break;
            };
            *slice = IoSlice::new(bytes);
            room -= bytes.len();
            count += 1;
        }
        self.transport.send_pieces(slices.get(..count).unwrap_or_default(), more_follows)
    }

    /// Returns the time by which a blocked socket must take more, or be looked at again. `None`: the client is too
    /// slow; give up.
    pub(in crate::connection) fn send_deadline(&self, pace: &mut Pace) -> Option<Instant> {
        let now = Instant::now();
        let began = *pace.began.get_or_insert(now);
        let unacknowledged = self.transport.unacknowledged();
        // With TLS, the client acknowledges sealed bytes.
        let sent = pace.taken + self.transport.ahead();
        if let Some((taken, before)) = pace.looked.replace((sent, unacknowledged)) {
            let moved = (before + (sent - taken)).saturating_sub(unacknowledged);
            if moved > 0 {
                pace.acknowledged += moved;
                pace.moved = Some(now);
            }
        }
        let stalls = pace.moved.unwrap_or(began) + self.shared.config.write_timeout;
        let rate_due = self.shared.rate_deadline(began, pace.acknowledged);
        let deadline = stalls.min(rate_due);
        if now >= deadline {
            return None;
        }
        // Acknowledgements cause no event: look again before the deadline, or they would be missed.
        Some(deadline.min(now + self.shared.config.write_timeout.min(Duration::from_secs(5))))
    }

    /// Returns why a response is cut off, after `send_deadline` returned `None`: `the client took nothing for 60s
    /// (--write-timeout)` …
    pub(in crate::connection) fn slowness(&self, pace: &Pace) -> String {
        let (timeout, taken) = (self.shared.config.write_timeout, pace.acknowledged);
        let stalls = pace.moved.or(pace.began).is_none_or(|moved| moved.elapsed() >= timeout);
        self.slowness_of(stalls, taken)
    }

    /// Returns why a response is cut off whose client has taken `taken` bytes.
    pub(in crate::connection) fn slowness_of(&self, stalls: bool, taken: u64) -> String {
        let (timeout, rate) = (self.shared.config.write_timeout, self.shared.config.min_rate);
        if stalls {
            format!("the client took nothing for {} (--write-timeout)", duration_text(timeout))
        } else {
            format!("the client took {taken} bytes, which is less than {rate} bytes/s (--min-rate)")
        }
    }

    /// Returns when the block at the front is moved to a file because the client is slow. `None`: the block is small,
    /// or moving it would free no memory.
    pub(in crate::connection) fn spill_due(&self, queue: &SendQueue, pace: &Pace) -> Option<Instant> {
        let Some(Piece::Shared(memory, length)) = queue.pieces.front() else { return None };
        let unsent = (length - queue.front_sent.min(*length)) as u64;
        let due = pace.no_spill_before.unwrap_or(pace.began? + SPILL_AFTER);
        let is_worth = unsent > self.shared.derived.bounds.response_buffer && memory.is_ours_alone();
        (is_worth && self.shared.derived.bounds.storage.total() > 0).then_some(due)
    }

    /// Moves the unsent part of the first block to a file, on the thread for file work. If the block cannot be stored,
    /// it stays in memory and is sent from there.
    pub(in crate::connection) fn spill(&mut self, queue: &mut SendQueue, pace: &mut Pace) {
        let Some(Piece::Shared(..)) = queue.pieces.front() else { return };
        let Some(Piece::Shared(memory, length)) = queue.pieces.pop_front() else { return };
        let sent = queue.front_sent;
        let storage = Arc::clone(&self.shared.derived.bounds.storage);
        let waker = self.transport.waker().clone();
        let moved = BlockMove::start(
            &storage,
            memory,
            move |memory| memory.bytes().get(sent..length).unwrap_or_default(),
            waker,
        );
        loop {
            match moved.take_result() {
                Some(Ok(file)) => {
                    queue.front_sent = 0;
                    queue.pieces.push_front(Piece::Spilled(Arc::new(file), 0, (length - sent) as u64));
                    return;
                }
                Some(Err((error, memory))) => {
                    queue.pieces.push_front(Piece::Shared(memory, length));
                    pace.no_spill_before = Some(Instant::now() + SPILL_AGAIN);
                    storage.complain("a response", &error, "it stays in memory until it is sent");
                    return;
                }
                None => self.transport.wait(Until::EVENT),
            }
        }
    }

    /// Sends a few bytes and waits until they are sent. Returns whether they are.
    pub(in crate::connection) fn send_now(&mut self, bytes: &'static [u8]) -> bool {
        let mut queue = SendQueue::default();
        queue.push(Piece::Static(bytes));
        self.send_queue(&mut queue)
    }

    /// Sends the whole queue at the client's pace. Returns whether all of it was sent.
    pub(in crate::connection) fn send_queue(&mut self, queue: &mut SendQueue) -> bool {
        let mut pace = Pace::new();
        loop {
            self.transport.take_turn();
            match self.flush(queue, &mut pace) {
                Flushed::All => return true,
                Flushed::Turn => {}
                Flushed::Broken | Flushed::FileFailed(_) => return false,
                Flushed::Blocked => {
                    let Some(deadline) = self.send_deadline(&mut pace) else { return false };
                    self.transport.wait(Until::at(deadline));
                }
            }
        }
    }
}
