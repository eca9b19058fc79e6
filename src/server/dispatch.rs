//! Moves connections between their coroutines and the idle set.
//!
//! *Owns*: the number of coroutines, and its limit. *Runs on*: the runtime's thread. *Invariants*: each connection has
//! one owner: its coroutine, the idle set (idle or waiting for a coroutine), or the call that has taken it over. Once
//! the server is cut, no connection gets a coroutine or goes to the idle set.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Inner;
use super::registry::{Bed, Member, Open};
use crate::connection::{Look, Outcome, Resting, Shared, TakenConnection};
use crate::drain::Stage;
use crate::handler::{KeptBy, NotGiven, Rouse};
use crate::idle::{Eviction, Reason};
use crate::metrics::{End, Gauge};
use crate::sys;

/// The most connections that have a coroutine at the same time. A stack takes two memory mappings, and a process may
/// have 65,530 (`vm.max_map_count`), enough for 32,765 stacks. The server uses about half of them, because the
/// application needs mappings too.
pub(super) const COROUTINES_MAX: usize = 16_000;
/// Extra coroutines above `COROUTINES_MAX`, used only to send the response to a timeout. If none of them is free, the
/// connection is closed without a response.
const COROUTINES_SPARE: usize = 256;

/// The coroutines of connections.
pub(super) struct Coroutines {
    running: Gauge,
    max: usize,
}

/// Counts a coroutine for as long as it lives.
struct Counted(Arc<Inner>);

impl Coroutines {
    /// Allows `max` coroutines at the same time.
    pub(super) fn new(max: usize) -> Self {
        Self { running: Gauge::default(), max }
    }

    /// Returns the number of running coroutines.
    pub(super) fn len(&self) -> usize {
        self.running.value()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.coroutines.running.fall() == 0 {
            self.0.drain().note();
        }
    }
}

impl Inner {
    /// Decides what happens to a connection that the idle set releases. (Idle set's coroutine.)
    pub(super) fn leave(self: &Arc<Self>, mut member: Box<Member>, reason: Reason) {
        match reason {
            Reason::Broken | Reason::Left => return member.end(End::Client),
            Reason::Roused => return self.run(member),
            Reason::Unserved => return self.tell(member, Resting::turn_away),
            Reason::Expired if member.connection.has_begun() => return self.tell(member, Resting::expire),
            Reason::Expired | Reason::Readable => {}
        }
        match member.connection.look(&self.shared) {
            // A request that arrived at the last moment is still served.
            Look::Something => self.run(member),
            Look::Nothing if reason == Reason::Readable || member.connection.has_begun() => self.rest(member),
            // The client has disconnected or was idle for too long: close the connection without a coroutine.
            Look::Nothing => member.end(End::KeepAlive),
            Look::End => member.end(End::Client),
        }
    }

    /// Gives a connection a coroutine. If none is free, the connection waits for one.
    pub(super) fn run(self: &Arc<Self>, member: Box<Member>) {
        if self.drain().stage() == Stage::Cut {
            return drop(member);
        }
        if self.coroutines.len() >= self.coroutines.max {
            return self.wait_for_coroutine(member);
        }
        let inner = Arc::clone(self);
        self.coroutine(move || inner.serve(*member));
    }

    /// Gives a connection a coroutine that tells its client why the connection is closed. If no coroutine is free, only
    /// closes the connection.
    fn tell(self: &Arc<Self>, member: Box<Member>, tell: fn(Resting, &Arc<Shared>)) {
        if self.drain().stage() == Stage::Cut || self.coroutines.len() >= self.coroutines.max + COROUTINES_SPARE {
            return member.end(End::Refused);
        }
        let inner = Arc::clone(self);
        self.coroutine(move || {
            let Member { connection, open } = *member;
            open.set_end(End::Refused);
            tell(connection, &inner.shared);
            drop(open);
        });
    }

    /// Starts a coroutine and counts it. Before it ends, it serves the connections that wait for a coroutine.
    fn coroutine(self: &Arc<Self>, code: impl FnOnce() + Send + 'static) {
        self.coroutines.running.rise();
        let counted = Counted(Arc::clone(self));
        let started = sys::spawn_here(move || {
            let inner = &counted.0;
            code();
            while inner.coroutines.len() <= inner.coroutines.max
                && let Some(member) = inner.registry.idle().next_waiting()
            {
                inner.serve(*member);
            }
        });
        if let Err(error) = started {
            log::error!("cannot start a coroutine: {}", sys::plain(&error));
        }
    }

    /// Serves a connection until it is idle, sleeps or ends. (The connection's coroutine.)
    fn serve(self: &Arc<Self>, mut member: Member) {
        loop {
            let Member { connection, open } = member;
            // A panic ends only this connection. It is caught so that the counts stay correct.
            let serve = AssertUnwindSafe(|| connection.serve(&self.shared, &*self.handler));
            match catch_unwind(serve) {
                Ok(Outcome::Idle(connection, until)) => self.park(Box::new(Member { connection, open }), until),
                Ok(Outcome::Suspended(connection)) => match self.sleep(Box::new(Member { connection, open })) {
                    Some(roused) => {
                        member = *roused;
                        continue;
                    }
                    None => return,
                },
                Ok(Outcome::Closed(end)) => open.set_end(end),
                Ok(Outcome::TakenOver(taken)) => self.give(*taken, open),
                Ok(Outcome::Upgraded(upgraded)) => self.enter_websocket(*upgraded, open),
                Err(_) => log::error!("a connection ended by a panic; this is a defect of the server"),
            }
            return;
        }
    }

    /// Lets a connection with a suspended response sleep. Returns it if its response goes on at once.
    fn sleep(&self, member: Box<Member>) -> Option<Box<Member>> {
        if self.drain().stage() == Stage::Cut {
            member.end(End::Stopped);
            return None;
        }
        if self.ends_suspended() {
            member.connection.end_suspended();
        }
        let (idle, index) = (self.registry.idle(), member.open.slot.index());
        let bed: Arc<dyn Rouse> = Arc::<Bed>::clone(self.registry.bed());
        if !member.connection.sleeps(bed, idle.place(index)) {
            return Some(member);
        }
        if let Err((member, error)) = idle.sleep(index, member) {
            log::error!("cannot keep a connection whose response is suspended: {}", sys::plain(&error));
            drop(member);
        }
        None
    }

    /// Returns whether suspended responses end, because the server stops.
    fn ends_suspended(&self) -> bool {
        self.drain().has_begun() && self.suspended_end.load(Ordering::SeqCst)
    }

    /// Passes a connection to the call that takes it over. It no longer counts as open, unless it speaks TLS: then this
    /// coroutine passes its bytes on. (The connection's coroutine.)
    fn give(&self, mut taken: TakenConnection, open: Open) {
        let bridge = taken.take_bridge();
        if bridge.is_none() {
            self.registry.idle().unwatch(&open.slot, &taken);
        }
        match self.takeovers.enter(taken.as_fd()) {
            Ok(takeover) => {
                open.set_end(End::Hijacked);
                let open = bridge.as_ref().map(|_| open);
                taken.give(takeover.hold(), move |kept_by| {
                    if kept_by == KeptBy::Server {
                        takeover.shut_down();
                    }
                });
                if let Some(bridge) = bridge {
                    bridge.run();
                }
                drop(open);
            }
            Err(error) => {
                log::error!("a connection cannot be taken over: {}", sys::plain(&error));
                taken.refuse(NotGiven::NoDescriptor);
            }
        }
    }

    /// Parks a connection that has no coroutine.
    pub(super) fn rest(self: &Arc<Self>, member: Box<Member>) {
        let until = member.connection.rest_deadline(&self.shared);
        self.park(member, until);
    }

    /// Parks a connection until a deadline. If the server is stopping, may hand it over or close it instead.
    pub(super) fn park(self: &Arc<Self>, member: Box<Member>, until: Instant) {
        match self.drain().stage() {
            Stage::Serving => self.keep(member, until),
            // Its coroutine tells the client to use another connection.
            Stage::HandingOver | Stage::Draining if member.connection.is_http2() => self.run(member),
            Stage::HandingOver => self.move_away(member),
            Stage::Draining => self.drain_idle(member),
            Stage::Cut => member.end(End::Stopped),
        }
    }

    pub(super) fn keep(&self, member: Box<Member>, until: Instant) {
        let index = member.open.slot.index();
        // A client that has begun a request is not evicted, because it would lose that request.
        let eviction = if member.connection.has_begun() { Eviction::Refused } else { Eviction::Allowed };
        if let Err((member, error)) = self.registry.idle().park(index, member, until, eviction) {
            log::error!("cannot keep an idle connection: {}", sys::plain(&error));
            drop(member);
        }
        if eviction == Eviction::Allowed {
            self.listeners.feed();
        }
    }

    /// Makes a connection with a request wait for a free coroutine, at most for `--queue-timeout`, as for a permit.
    fn wait_for_coroutine(&self, member: Box<Member>) {
        let index = member.open.slot.index();
        let until = Instant::now() + self.shared.queue_timeout();
        if let Err((member, error)) = self.registry.idle().wait_for_coroutine(index, member, until) {
            log::error!("cannot keep a connection that waits for a coroutine: {}", sys::plain(&error));
            drop(member);
        }
    }
}
