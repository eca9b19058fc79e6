//! The WebSockets of a server: connections that rest without a coroutine until a side has something to say.
//!
//! *Owns*: each WebSocket. *Runs on*: the coroutine of their set, and one more that looks after those that the
//! application needs; `attend` may be called on any thread. *Invariants*: no coroutine waits between taking a socket out
//! of the set and putting it back, so each is in the set whenever another coroutine looks for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::Inner;
use super::registry::Open;
use crate::connection::{Next, Upgraded};
use crate::drain::Stage;
use crate::idle::{IdleSet, Reason, Slot};
use crate::metrics::{End, Meters};
use crate::sys::{self, Lock, TimerFd, TurnOf, Waitable, Waker};
use crate::websocket::{Attendant, Place, Socket, Tally};

/// How many sockets are looked after before other connections get their turn.
const ATTENDED_MAX: usize = 64;

/// The WebSockets of a server.
pub(super) struct WebSockets {
    parts: OnceLock<Parts>,
    tally: Tally,
    /// The sockets that the application needs.
    called: Lock<Vec<(Arc<Socket>, u32)>>,
    closed: AtomicBool,
}

struct Parts {
    set: Arc<IdleSet<Box<Member>>>,
    /// Wakes the coroutine for the sockets that the application needs.
    waker: Waker,
}

/// A WebSocket and its places, dropped in this order.
struct Member {
    upgraded: Upgraded,
    kept: Kept,
    open: Open,
}

/// Keeps a slot in the set. Dropping it gives the slot back.
struct Kept {
    slot: Slot,
    set: Arc<IdleSet<Box<Member>>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.set.give_back(&self.slot);
    }
}

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.upgraded.as_fd()
    }
}

impl Attendant for WebSockets {
    fn attend(&self, socket: &Arc<Socket>, place: u32) {
        let mut called = self.called.lock();
        called.push((Arc::clone(socket), place));
        let is_first = called.len() == 1;
        drop(called);
        // The coroutine takes all of them at once.
        if is_first && let Some(parts) = self.parts.get() {
            parts.waker.wake_now();
        }
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl WebSockets {
    /// Makes those of a server that has these meters.
    pub(super) fn new(meters: Meters) -> Self {
        Self {
            parts: OnceLock::new(),
            tally: Tally::new(meters),
            called: Lock::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Returns what is counted of them.
    pub(super) fn numbers(&self) -> &Tally {
        &self.tally
    }

    fn set(&self) -> &Arc<IdleSet<Box<Member>>> {
        &self.parts.get().expect("set before the first listener runs").set
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.set().len()
    }

    /// Closes all of them at once.
    pub(super) fn cut(&self) {
        drop(self.set().take_idle());
    }

    /// Ends the coroutines.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(parts) = self.parts.get() {
            parts.set.close();
            parts.waker.wake_now();
        }
    }
}

/// Starts the coroutines.
///
/// # Errors
/// The process has no descriptor left.
pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
    let leaving = Arc::downgrade(inner);
    let set = IdleSet::new(move |member, reason| {
        if let Some(inner) = leaving.upgrade() {
            inner.attend_websocket(member, reason == Reason::Readable);
        }
    })?;
    let (timer, waitable) = TimerFd::new()?;
    let waker = waitable.waker();
    let _ = inner.websockets.parts.set(Parts { set, waker: waker.clone() });
    let inner = Arc::downgrade(inner);
    sys::spawn(move || {
        run(&inner, &waitable, &waker);
        drop(timer);
    });
    Ok(())
}

/// Looks after the sockets that the application needs.
fn run(inner: &Weak<Inner>, waitable: &Waitable, waker: &Waker) {
    while let Some(inner) = inner.upgrade() {
        let websockets = Arc::clone(&inner.websockets);
        if websockets.closed.load(Ordering::SeqCst) {
            return;
        }
        let called = std::mem::take(&mut *websockets.called.lock());
        let is_quiet = called.is_empty();
        for some in called.chunks(ATTENDED_MAX) {
            for (socket, place) in some {
                let member = websockets.set().take_if(*place, |member| Arc::ptr_eq(member.upgraded.socket(), socket));
                if let Some(member) = member {
                    inner.attend_websocket(member, false);
                }
            }
            waitable.take_turn(waker, TurnOf::Many);
        }
        // A coroutine that waits must not keep the server.
        drop(inner);
        if is_quiet {
            waitable.wait();
        }
    }
}

impl Inner {
    /// Takes a connection that has become a WebSocket. (The connection's coroutine.)
    pub(super) fn enter_websocket(self: &Arc<Self>, upgraded: Upgraded, open: Open) {
        if self.drain().stage() == Stage::Cut {
            return open.set_end(End::Stopped);
        }
        self.registry.idle().unwatch(&open.slot, &upgraded);
        let set = Arc::clone(self.websockets.set());
        let slot = set.slot();
        let attendant: Arc<dyn Attendant> = Arc::<WebSockets>::clone(&self.websockets);
        upgraded.socket().open(Place { attendant, number: slot.index() });
        self.attend_websocket(Box::new(Member { upgraded, kept: Kept { slot, set }, open }), false);
    }

    /// Does what can be done for a WebSocket, and lets it rest again or ends it. `has_event` says whether the set has
    /// released it because of an event.
    fn attend_websocket(&self, mut member: Box<Member>, has_event: bool) {
        let stage = self.drain().stage();
        if stage == Stage::Cut {
            return member.open.set_end(End::Stopped);
        }
        match member.upgraded.attend(stage != Stage::Serving, has_event) {
            Next::End(end) => member.open.set_end(end),
            Next::Rest(interest, until) => {
                let (set, index) = (Arc::clone(&member.kept.set), member.kept.slot.index());
                if let Err((member, error)) = set.park_for(index, member, until, interest) {
                    log::error!("cannot keep a WebSocket: {}", sys::plain(&error));
                    drop(member);
                }
            }
        }
    }

    /// Begins the close of all WebSockets, because the server stops. (The runtime's thread.)
    pub(super) fn go_away(self: &Arc<Self>) {
        for member in self.websockets.set().take_idle() {
            self.attend_websocket(member, false);
        }
    }
}
