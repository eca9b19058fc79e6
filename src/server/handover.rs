//! Connections that move to another process, and connections that come from one.
//!
//! *Owns*: the channels to the processes that receive connections, and the connections on their way. *Runs on*: one
//! plain thread for each channel; a connection leaves and enters on the runtime's thread. *Invariants*: a sender keeps
//! its copy of a descriptor until the receiver has answered how many connections it takes. A receiver answers before it
//! touches a connection. So each connection has one owner, and only the crash of its owner loses it. A connection on its
//! way is in no epoll set, because a registration belongs to the open socket and not to the descriptor.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::kept::Kept;
use super::registry::{Member, Registry};
use super::{Inner, Server};
use crate::connection::{Look, Moved, Resting};
use crate::handler::Local;
use crate::metrics::{Counter, End, Gauge};
use crate::sys::{self, Channel, Condition, DESCRIPTORS_MAX, HeldFd, HeldMessage, Lock, MESSAGE_BYTES_MAX, errno};
use crate::throttle::Throttle;

/// How long a sender waits for the receiver's answer. After that, the connections stay here.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a server that stops waits for another receiver before it closes idle connections, if its last receiver has no
/// room, or has ended and no other one is promised.
const NEXT_RECEIVER_MAX: Duration = Duration::from_secs(2);
/// The pause before a message is sent again while too many descriptors are on their way in the whole system.
const RETRY: Duration = Duration::from_millis(10);

/// Stands for the number of a receiver that does not wait for a stop.
const NO_STOP: u64 = 0;

/// Limits how often the log says that there is no room for connections that come from another process.
static FULL: Throttle = Throttle::new(Duration::from_secs(10));

/// What became of the connections that were to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Given {
    /// How many have moved.
    pub moved: usize,
    /// How many could not move: they have stayed, or a stop has closed them.
    pub stayed: usize,
}

/// The connections of a server that move.
#[derive(Default)]
pub(super) struct Handover {
    /// The processes that receive connections when the server stops.
    receivers: Lock<Receivers>,
    /// Notified when there is a further receiver, or when there will be none.
    arrived: Condition,
    /// What a stop has kept. `None`: it keeps nothing.
    pub(super) kept: Lock<Option<Kept>>,
    /// Connections on their way. They no longer count as open.
    pending: Gauge,
    /// Connections that have moved to other processes.
    moved: Counter,
    /// The connections among them that a stop has moved.
    moved_at_stop: Counter,
    /// Idle connections that a stop has closed although they should have moved.
    closed: Counter,
    /// Connections that have come from other processes.
    received: Counter,
    /// Whether a stop has looked at each connection that was idle when the last listener had ended.
    pub(super) has_looked: AtomicBool,
    arrivals: Lock<Arrivals>,
}

/// What decides how many connections of other processes are taken.
#[derive(Default)]
struct Arrivals {
    /// Whether the stop has ended. A connection that arrives from now on would be lost.
    has_ended: bool,
    /// Connections that have been taken, and do not count as open yet.
    expected: usize,
}

/// Whether a connection that enters has its room already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// `expect` has set it aside.
    SetAside,
    /// It counts from now on.
    New,
}

/// A connection on its way.
pub(super) type Leaving = (HeldFd, Moved);

#[derive(Default)]
struct Receivers {
    queues: Vec<(u64, mpsc::Sender<Leaving>)>,
    /// How many receivers there have been.
    total: u64,
    /// Counts the connections, which the receivers get in turn.
    turn: usize,
    /// How long a stop waits for another receiver after its last one has ended. `None`: none is promised.
    promised: Option<Duration>,
}

/// Why a receiver gets no more connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// It has no room, or does not answer.
    Refused,
    /// It has ended.
    Ended,
}

/// The plain thread that sends connections to one process.
struct Sender {
    inner: Arc<Inner>,
    channel: Channel,
    leaving: mpsc::Receiver<Leaving>,
    /// The connection that did not fit into the last message.
    next: Option<(Leaving, Vec<u8>)>,
    /// The number of the receiver, or `NO_STOP`.
    number: u64,
    given: Given,
}

impl Handover {
    /// Returns whether an idle connection can go somewhere.
    pub(super) fn has_receiver(&self) -> bool {
        !self.receivers.lock().queues.is_empty() || self.kept.lock().is_some()
    }

    /// Returns whether no connection is on its way here or elsewhere, and `others` have ended. If so, no further one is
    /// received.
    pub(super) fn end_if_quiet(&self, others: impl FnOnce() -> bool) -> bool {
        let mut arrivals = self.arrivals.lock();
        arrivals.has_ended = arrivals.has_ended || (self.pending.value() == 0 && others());
        arrivals.has_ended
    }

    /// Returns whether a stop has looked at the idle connections, and none is on its way.
    pub(super) fn has_left(&self) -> bool {
        self.has_looked.load(Ordering::SeqCst) && self.pending.value() == 0
    }

    /// Counts an idle connection that a stop closes. Does nothing if no process was to receive it.
    pub(super) fn note_closed(&self) {
        if self.receivers.lock().total > 0 {
            self.closed.count();
        }
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.value()
    }

    pub(super) fn received(&self) -> u64 {
        self.received.value()
    }

    /// Counts a connection that was on its way, and that the stop has kept.
    pub(super) fn has_kept(&self) {
        self.moved_at_stop.count();
        self.pending.fall();
    }

    /// Waits for a receiver if the last one is lost. Returns whether there is one. (Plain thread.)
    fn await_receiver(&self, loss: Loss) -> bool {
        let mut receivers = self.receivers.lock();
        if loss == Loss::Ended
            && let Some(longest) = receivers.promised
        {
            let waits = |receivers: &mut Receivers| receivers.queues.is_empty() && receivers.promised.is_some();
            receivers = self.arrived.wait_timeout_while(receivers, longest, waits);
        } else {
            let waits = |receivers: &mut Receivers| receivers.queues.is_empty();
            receivers = self.arrived.wait_timeout_while(receivers, NEXT_RECEIVER_MAX, waits);
        }
        !receivers.queues.is_empty()
    }

    /// Passes a connection to the next receiver. Returns it if there is none.
    fn pass(&self, mut leaving: Leaving) -> Result<(), Leaving> {
        let receivers = &mut *self.receivers.lock();
        while !receivers.queues.is_empty() {
            receivers.turn = (receivers.turn + 1) % receivers.queues.len();
            let Err(error) = receivers.queues[receivers.turn].1.send(leaving) else { return Ok(()) };
            leaving = error.0;
            receivers.queues.remove(receivers.turn);
        }
        Err(leaving)
    }
}

impl Server {
    /// Hands at most `count` idle connections over to the process at the other end of the channel, the longest idle
    /// first. When this has ended, calls `told` on another thread. (Plain thread.)
    ///
    /// # Errors
    /// No thread can be started. All connections stay here.
    pub fn hand_over(
        &self,
        channel: Channel,
        count: usize,
        told: impl FnOnce(Given) + Send + 'static,
    ) -> io::Result<()> {
        let queue = Sender::start(&self.inner, channel, NO_STOP, told)?;
        self.inner.on_runtime(move |inner| {
            for _ in 0..count {
                let Some(member) = inner.registry.idle().evict_oldest() else { break };
                if !member.connection.can_move() {
                    inner.rest(member);
                    continue;
                }
                let leaving = inner.detach(*member);
                if let Err(error) = queue.send(leaving) {
                    inner.take_back(error.0);
                }
            }
        });
        Ok(())
    }

    /// Makes the stop hand connections over to the process at the other end of the channel: the connections that are idle then, and
    /// each other one when it becomes idle. Several such processes get connections in turn. A stop that has lost its
    /// receivers may get a further one. (Plain thread.)
    ///
    /// # Errors
    /// No thread can be started.
    pub fn hand_over_at_stop(&self, channel: Channel) -> io::Result<()> {
        let number = {
            let mut receivers = self.inner.handover.receivers.lock();
            receivers.total += 1;
            receivers.total
        };
        let queue = Sender::start(&self.inner, channel, number, |_| ())?;
        self.inner.handover.receivers.lock().queues.push((number, queue));
        self.inner.handover.arrived.notify_all();
        if self.inner.drain().hands_over() {
            // Connections that wait for a receiver move now.
            self.inner.on_runtime(Inner::close_idle);
        }
        Ok(())
    }

    /// Makes a stop whose last receiver has ended wait for the next one, until `hand_over_at_stop` names it or
    /// `promise_no_receiver` says that there is none, and for `longest` at most. (Plain thread.)
    pub fn promise_receivers(&self, longest: Duration) {
        self.inner.handover.receivers.lock().promised = Some(longest);
    }

    /// Makes a stop whose receivers have ended close idle connections. (Plain thread.)
    pub fn promise_no_receiver(&self) {
        self.inner.handover.receivers.lock().promised = None;
        self.inner.handover.arrived.notify_all();
    }

    /// Returns what became of the connections that the stop should move.
    pub fn given(&self) -> Given {
        let handover = &self.inner.handover;
        let number = |counter: &Counter| usize::try_from(counter.value()).unwrap_or(usize::MAX);
        Given { moved: number(&handover.moved_at_stop), stayed: number(&handover.closed) }
    }

    /// Receives connections from the process at the other end of the channel until that process closes it. Takes only
    /// as many as there is room for. (Plain thread; returns at once.)
    ///
    /// # Errors
    /// No thread can be started. The other process keeps its connections.
    pub fn receive(&self, channel: Channel) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        let receive = move || {
            if let Err(error) = inner.receive_all(&channel) {
                log::error!("connections of another process cannot be received: {}", sys::plain(&error));
            }
        };
        thread::Builder::new().name("maypole-receive".to_owned()).spawn(receive).map(drop)
    }
}

impl Inner {
    /// Moves an idle connection of a server that hands over. If it cannot move now, or if there is no receiver, it stays
    /// and is served until it can. (The runtime's thread, as for all methods below.)
    pub(super) fn move_away(self: &Arc<Self>, member: Box<Member>) {
        if member.connection.is_secured() {
            return self.drain_idle(member);
        }
        if !member.connection.can_move() {
            let until = member.connection.rest_deadline(&self.shared);
            return self.keep(member, until);
        }
        let handover = &self.handover;
        if !handover.has_receiver() {
            return self.stay(member);
        }
        let leaving = self.detach(*member);
        if let Err(leaving) = handover.keep(leaving).or_else(|leaving| handover.pass(leaving)) {
            return self.take_back(leaving);
        }
        self.drain().note();
    }

    /// Serves or parks a connection that no process receives at the moment.
    fn stay(self: &Arc<Self>, mut member: Box<Member>) {
        match member.connection.look_again(&self.shared) {
            Look::Something => self.run(member),
            Look::Nothing => {
                let until = member.connection.rest_deadline(&self.shared);
                self.keep(member, until);
            }
            Look::End => member.end(End::Client),
        }
    }

    /// Takes a connection out of the server. It counts as one on its way until `moved` or `take_back`.
    fn detach(&self, member: Member) -> Leaving {
        self.registry.idle().unwatch(&member.open.slot, &member);
        self.handover.pending.rise();
        let Member { connection, open } = member;
        let leaving = connection.into_moved();
        open.detach();
        leaving
    }

    /// Continues the stop as one without a handover, because no process receives connections any more. Returns false
    /// unless connections were handed over until now.
    pub(super) fn close_from_now_on(self: &Arc<Self>) -> bool {
        let has_ended = self.drain().end_handover();
        if has_ended {
            self.close_idle();
        }
        has_ended
    }

    /// Returns a connection that could not move to the server.
    fn take_back(self: &Arc<Self>, leaving: Leaving) {
        self.enter(leaving, Room::New);
        self.handover.pending.fall();
        self.drain().note();
    }

    /// Makes a connection that has moved one of the server's own.
    fn enter(self: &Arc<Self>, (fd, moved): Leaving, room: Room) {
        let connection = Resting::from_moved(fd, moved, &self.shared);
        // `expect` sees the connection once: as an expected one, or as an open one.
        let mut arrivals = self.handover.arrivals.lock();
        arrivals.expected -= usize::from(room == Room::SetAside);
        let entered = connection.map(|connection| Registry::enter(self, connection));
        drop(arrivals);
        match entered {
            Ok(member) => {
                let mut member = Box::new(member);
                match member.connection.look_again(&self.shared) {
                    Look::Something => self.run(member),
                    Look::Nothing => self.rest(member),
                    Look::End => member.end(End::Client),
                }
            }
            Err(error) => log::error!("cannot watch a connection, which is closed: {}", sys::plain(&error)),
        }
        self.show_connections();
    }

    /// Receives connections until the channel ends. (Plain thread.)
    fn receive_all(self: &Arc<Self>, channel: &Channel) -> io::Result<()> {
        while let Some(HeldMessage { bytes, descriptors }) = channel.receive_held()? {
            let connections = Moved::decode(&bytes).unwrap_or_default();
            let (sent, arrived) = (connections.len(), connections.len().min(descriptors.len()));
            let taken = self.expect(arrived);
            // The other process keeps its connections unless it gets this answer.
            if channel.send(taken.to_string().as_bytes(), &[]).is_err() {
                self.handover.arrivals.lock().expected -= taken;
                self.expect_no_more(taken);
                return Ok(());
            }
            if taken < sent
                && !self.drain().has_begun()
                && let Some(more) = FULL.pass()
            {
                let limit = self.registry.limit();
                let (stayed, max, cause) = (sent - taken, limit.connections_max, &limit.cause);
                log::warn!(
                    "{stayed} of {sent} connections of another process found no room here, the limit is {max} \
                     ({cause}){more}"
                );
            }
            self.on_runtime(move |inner| {
                inner.enter_all(descriptors.into_iter().zip(connections).take(taken), Room::SetAside);
                inner.expect_no_more(taken);
            });
        }
        Ok(())
    }

    /// Returns how many of `arrived` connections are taken. They count as connections on their way until
    /// `expect_no_more`. A server that stops takes connections only while it hands over, too: the process that sends
    /// them may not know yet that this one stops.
    fn expect(&self, arrived: usize) -> usize {
        let handover = &self.handover;
        let mut arrivals = handover.arrivals.lock();
        let is_open = !self.drain().has_begun() || (!arrivals.has_ended && self.drain().hands_over());
        let taken = if is_open { arrived.min(self.room().saturating_sub(arrivals.expected)) } else { 0 };
        arrivals.expected += taken;
        (0..taken).for_each(|_| handover.pending.rise());
        taken
    }

    fn expect_no_more(&self, count: usize) {
        for _ in 0..count {
            self.handover.pending.fall();
        }
        self.drain().note();
    }

    /// Returns how many more connections may be opened.
    fn room(&self) -> usize {
        self.registry.room(self.takeovers.current())
    }

    /// Enters connections that were received or kept. Connections with the same local address share its value.
    pub(super) fn enter_all(self: &Arc<Self>, connections: impl Iterator<Item = Leaving>, room: Room) {
        let mut local: Option<Arc<Local>> = None;
        for (fd, mut moved) in connections {
            if let Some(local) = &local {
                moved.share_local(local);
            }
            local = Some(Arc::clone(moved.local()));
            self.handover.received.count();
            self.enter((fd, moved), room);
        }
    }
}

impl Sender {
    /// Starts the thread. It ends when the returned queue is dropped and empty, and then calls `told`.
    fn start(
        inner: &Arc<Inner>,
        channel: Channel,
        number: u64,
        told: impl FnOnce(Given) + Send + 'static,
    ) -> io::Result<mpsc::Sender<Leaving>> {
        channel.set_timeout(Some(ANSWER_MAX))?;
        let (queue, leaving) = mpsc::channel();
        let sender = Self { inner: Arc::clone(inner), channel, leaving, next: None, number, given: Given::default() };
        thread::Builder::new().name("maypole-give".to_owned()).spawn(move || told(sender.run()))?;
        Ok(queue)
    }

    fn run(mut self) -> Given {
        let mut lost = None;
        loop {
            let (batch, encoded) = self.batch();
            if batch.is_empty() {
                break;
            }
            let mut taken = 0;
            if lost.is_none() {
                (taken, lost) = match self.send(&batch, &encoded) {
                    Some(taken) => (taken, (taken < batch.len()).then_some(Loss::Refused)),
                    None => (0, Some(Loss::Ended)),
                };
            }
            if lost.is_some() {
                self.inner.handover.receivers.lock().queues.retain(|(number, _)| *number != self.number);
            }
            self.finish(batch, taken);
        }
        if let Some(loss) = lost.filter(|_| self.number != NO_STOP) {
            self.end_without_receiver(loss);
        }
        self.given
    }

    /// Continues the stop as one without a handover, unless another process receives connections soon.
    fn end_without_receiver(&self, loss: Loss) {
        if self.inner.handover.await_receiver(loss) {
            return;
        }
        self.inner.on_runtime(move |inner| {
            if !inner.handover.has_receiver() && inner.close_from_now_on() {
                let why = match loss {
                    Loss::Refused => "the process that should receive them has no room",
                    Loss::Ended => "no process receives them",
                };
                log::warn!("idle connections are closed: {why}");
            }
        });
    }

    /// Waits for connections, and returns those of the next message. Returns none at the end.
    fn batch(&mut self) -> (Vec<Leaving>, Vec<Vec<u8>>) {
        let (mut batch, mut encoded, mut bytes) = (Vec::new(), Vec::new(), 2);
        let first = self.next.take().or_else(|| self.leaving.recv().ok().map(with_bytes));
        let mut next = first;
        while let Some((leaving, part)) = next {
            bytes += part.len() + 1;
            if bytes > MESSAGE_BYTES_MAX && !batch.is_empty() {
                self.next = Some((leaving, part));
                break;
            }
            batch.push(leaving);
            encoded.push(part);
            if batch.len() == DESCRIPTORS_MAX {
                break;
            }
            next = self.leaving.try_recv().ok().map(with_bytes);
        }
        (batch, encoded)
    }

    /// Sends connections. Returns how many the receiver takes: the first ones. `None`: it has ended.
    fn send(&self, batch: &[Leaving], encoded: &[Vec<u8>]) -> Option<usize> {
        let descriptors: Vec<_> = batch.iter().map(|(fd, _)| fd.as_fd()).collect();
        let (message, end) = (Moved::message(encoded), Instant::now() + ANSWER_MAX);
        while let Err(error) = self.channel.send(&message, &descriptors) {
            if error.raw_os_error() != Some(errno::ETOOMANYREFS) || Instant::now() >= end {
                log::warn!("connections cannot be handed over, and stay: {}", sys::plain(&error));
                return (error.kind() != io::ErrorKind::BrokenPipe).then_some(0);
            }
            thread::sleep(RETRY);
        }
        let answer = match self.channel.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                log::warn!("connections stay, because the process that should receive them does not answer");
                // From now on, the receiver cannot answer, and then it takes none. An answer may have arrived just now.
                self.channel.shut_down();
                self.channel.receive()
            }
            Ok(None) | Err(_) => {
                log::warn!("connections stay, because the process that should receive them has ended");
                return None;
            }
            answer => answer,
        };
        let answer = answer.ok().flatten().and_then(|answer| String::from_utf8(answer.bytes).ok()?.parse().ok());
        Some(answer.unwrap_or(0).min(batch.len()))
    }

    /// Closes the connections that have moved, and returns the others to the server.
    fn finish(&mut self, mut batch: Vec<Leaving>, taken: usize) {
        let inner = &self.inner;
        let stayed = batch.split_off(taken);
        self.given.moved += taken;
        self.given.stayed += stayed.len();
        drop(batch);
        inner.handover.moved.add(taken as u64);
        inner.shared.meters().ended(End::Moved, taken as u64);
        if self.number != NO_STOP {
            inner.handover.moved_at_stop.add(taken as u64);
        }
        inner.expect_no_more(taken);
        if !stayed.is_empty() {
            inner.on_runtime(move |inner| {
                for leaving in stayed {
                    inner.take_back(leaving);
                }
            });
        }
    }
}

fn with_bytes(leaving: Leaving) -> (Leaving, Vec<u8>) {
    let encoded = leaving.1.encode();
    (leaving, encoded)
}
