//! The bytes between `h2` and the transport, and the wakes of `h2`.
//!
//! *Owns*: bytes that `h2` has not read, and bytes that the transport has not taken. *Runs on*: the connection's
//! coroutine alone; the lock is never contended. *Invariants*: `h2` never waits here: the connection asks it again after
//! each change. What waits to be sent is bounded, because a full pipe takes no more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sys::Lock;

/// `h2` may add to what waits to be sent while there is less than this, in bytes. It adds at most one frame more.
const OUTBOUND_BYTES_MAX: usize = 64 * 1024;
/// Buffers up to this size are kept while the connection has a coroutine.
const KEPT_BYTES_MAX: usize = 128 * 1024;

/// One end for `h2`, and one for the connection.
#[derive(Clone, Default)]
pub(super) struct Pipe(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ends: Lock<Ends>,
    // What is asked in each round, without the lock. One coroutine writes and reads them.
    /// Whether `h2` has not read everything.
    is_unread: AtomicBool,
    /// Whether the transport has not taken everything.
    is_unsent: AtomicBool,
    /// Whether `h2` had to wait for room.
    has_refused: AtomicBool,
    /// Whether no more will be received.
    has_ended: AtomicBool,
}

#[derive(Default)]
struct Ends {
    /// Received bytes, of which `h2` has read the first `read`.
    inbound: Vec<u8>,
    read: usize,
    /// Bytes to send, of which the transport has taken the first `sent`.
    outbound: Vec<u8>,
    sent: usize,
}

impl Pipe {
    /// Adds received bytes: `receive` appends them, and its result is returned.
    pub(super) fn receive<T>(&self, receive: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let ends = &mut *self.0.ends.lock();
        if ends.read >= ends.inbound.len() {
            ends.inbound.clear();
            ends.read = 0;
        }
        let result = receive(&mut ends.inbound);
        self.0.is_unread.store(ends.read < ends.inbound.len(), Ordering::Relaxed);
        result
    }

    /// Notes that no more will be received.
    pub(super) fn end(&self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }

    /// Returns whether `h2` has read everything.
    pub(super) fn is_read(&self) -> bool {
        !self.0.is_unread.load(Ordering::Relaxed)
    }

    /// Has `send` take some of the bytes to send. Returns its result, and `None` if there are none.
    pub(super) fn send<T>(&self, send: impl FnOnce(&[u8]) -> T, taken: impl FnOnce(&T) -> usize) -> Option<T> {
        if self.is_sent() {
            return None;
        }
        let ends = &mut *self.0.ends.lock();
        let rest = ends.outbound.get(ends.sent..).filter(|rest| !rest.is_empty())?;
        let result = send(rest);
        ends.sent += taken(&result);
        if ends.sent >= ends.outbound.len() {
            ends.outbound.clear();
            ends.sent = 0;
            self.0.is_unsent.store(false, Ordering::Relaxed);
            if ends.outbound.capacity() > KEPT_BYTES_MAX {
                ends.outbound = Vec::new();
            }
        }
        Some(result)
    }

    /// Returns whether the transport has taken everything.
    pub(super) fn is_sent(&self) -> bool {
        !self.0.is_unsent.load(Ordering::Relaxed)
    }

    /// Returns whether `h2` had to wait for room since the last call.
    pub(super) fn take_refused(&self) -> bool {
        take(&self.0.has_refused)
    }
}

impl Pipe {
    /// Frees the memory that an idle connection does not need.
    pub(super) fn rest(&self) {
        let ends = &mut *self.0.ends.lock();
        if ends.read >= ends.inbound.len() && ends.outbound.is_empty() {
            *ends = Ends::default();
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_read() {
            return if self.0.has_ended.load(Ordering::Relaxed) { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let ends = &mut *self.0.ends.lock();
        let rest = ends.inbound.get(ends.read..).unwrap_or_default();
        let bytes = rest.len().min(room.remaining());
        room.put_slice(rest.get(..bytes).unwrap_or_default());
        ends.read += bytes;
        self.0.is_unread.store(ends.read < ends.inbound.len(), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outbound = &mut self.0.ends.lock().outbound;
        if outbound.len() >= OUTBOUND_BYTES_MAX {
            self.0.has_refused.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        let before = outbound.len();
        for piece in pieces {
            outbound.extend_from_slice(piece);
        }
        self.0.is_unsent.store(!outbound.is_empty(), Ordering::Relaxed);
        Poll::Ready(Ok(outbound.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Set when `h2` has something new for a connection or for a stream.
pub(super) struct News {
    is_set: AtomicBool,
    /// Set together with this one.
    of_all: Option<Arc<News>>,
}

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set();
        if let Some(of_all) = &self.of_all {
            of_all.set();
        }
    }
}

impl News {
    /// Makes it set, so that everything is looked at once. Also returns its waker.
    pub(super) fn begin() -> (Arc<Self>, Waker) {
        Self::with(None)
    }

    /// Does the same for one of many.
    pub(super) fn of(all: &Arc<Self>) -> (Arc<Self>, Waker) {
        Self::with(Some(Arc::clone(all)))
    }

    fn with(of_all: Option<Arc<Self>>) -> (Arc<Self>, Waker) {
        let news = Arc::new(Self { is_set: AtomicBool::new(true), of_all });
        (Arc::clone(&news), Waker::from(news))
    }

    /// Sets it.
    pub(super) fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
    }

    /// Returns whether it is set.
    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Returns whether it is set, and clears it.
    pub(super) fn take(&self) -> bool {
        take(&self.is_set)
    }
}

/// Returns whether a flag is set, and clears it. Only one coroutine writes it, so this needs no exchange.
fn take(flag: &AtomicBool) -> bool {
    let is_set = flag.load(Ordering::Relaxed);
    if is_set {
        flag.store(false, Ordering::Relaxed);
    }
    is_set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pipe: &Pipe, bytes: usize) -> Option<Vec<u8>> {
        let mut memory = vec![0; bytes];
        let mut room = ReadBuf::new(&mut memory);
        let mut pipe = pipe.clone();
        let read = Pin::new(&mut pipe).poll_read(&mut Context::from_waker(Waker::noop()), &mut room);
        read.is_ready().then(|| room.filled().to_vec())
    }

    fn write(pipe: &Pipe, bytes: &[u8]) -> bool {
        let mut pipe = pipe.clone();
        Pin::new(&mut pipe).poll_write(&mut Context::from_waker(Waker::noop()), bytes).is_ready()
    }

    #[test]
    fn received_bytes_are_read_once_and_then_the_end() {
        let pipe = Pipe::default();
        assert_eq!(read(&pipe, 2), None);
        pipe.receive(|memory| memory.extend_from_slice(b"abc"));
        assert_eq!((read(&pipe, 2), pipe.is_read()), (Some(b"ab".to_vec()), false));
        assert_eq!((read(&pipe, 2), pipe.is_read()), (Some(b"c".to_vec()), true));
        assert_eq!(read(&pipe, 2), None);
        pipe.end();
        assert_eq!(read(&pipe, 2), Some(Vec::new()));
    }

    #[test]
    fn full_pipe_takes_no_more_until_it_is_empty() {
        let pipe = Pipe::default();
        assert!(write(&pipe, &vec![1; OUTBOUND_BYTES_MAX]));
        assert!(!pipe.take_refused());
        assert!(!write(&pipe, &[1]));
        assert!(pipe.take_refused() && !pipe.take_refused() && !pipe.is_sent());
        assert_eq!(pipe.send(<[u8]>::len, |_| 10), Some(OUTBOUND_BYTES_MAX));
        assert!(!write(&pipe, &[1]), "only an empty pipe takes more");
        assert_eq!(pipe.send(<[u8]>::len, |sent| *sent), Some(OUTBOUND_BYTES_MAX - 10));
        assert!(pipe.is_sent() && write(&pipe, &[1]));
        assert_eq!(pipe.send(|_| 0, |_| 1), Some(0));
        assert_eq!(pipe.send(|_| 0, |_| 0), None);
    }

    #[test]
    fn news_are_taken_once() {
        let (news, waker) = News::begin();
        assert!(news.take() && !news.take());
        waker.wake_by_ref();
        assert!(news.take() && !news.take());
    }
}
