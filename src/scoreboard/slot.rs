//! A worker's slot.
//!
//! *Owns*: the layout of a slot's head: one line of the processor's cache for each group of words that the same thread
//! writes, so that threads do not take each other's line. *Runs on*: any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::requests::{Inside, Row, forget, inside, note};
use super::{AT_USED, Scoreboard, age, micros};
use crate::metrics::Meters;
use crate::sys;

/// The words of a head: four lines.
pub(super) const HEAD_WORDS: usize = 32;

// The first line: what changes rarely.
const STATE: usize = 0;
const PID: usize = 1;
const NUMBER: usize = 2;
const GENERATION: usize = 3;
/// When a thread began to wait for the GIL; 0 if none waits.
const GIL_SOUGHT: usize = 4;
const GIL_TICK: usize = 5;
/// When the state became `Serving`.
const SERVED_SINCE: usize = 6;
// The second line: the runtime's thread writes it.
const CONNECTIONS: usize = 8;
const REQUESTS: usize = 9;
const RUNTIME_TICK: usize = 11;
const IS_FULL: usize = 12;
// The third line: the thread of the heartbeat writes it.
const CALLS: usize = 16;
const BEGUN: usize = 17;
// The fourth line: what the process writes at its end.
const CUT: usize = 24;

/// A worker whose thread waits for the GIL for this long is stuck. In a process in which n threads compute, a thread
/// waits up to n times 5 ms (`sys.setswitchinterval`).
const STUCK_AFTER: Duration = Duration::from_millis(150);
/// A worker whose tick is older than this is stopped or hangs. Each tick comes once a second.
const FROZEN_AFTER: Duration = Duration::from_secs(3);

/// What the process of a slot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No process has the slot.
    Empty,
    /// The process imports the application.
    Starting,
    /// The worker accepts connections.
    Serving,
    /// The worker accepts no more connections.
    Draining,
}

impl State {
    fn of(word: u64) -> Self {
        match word {
            1 => Self::Starting,
            2 => Self::Serving,
            3 => Self::Draining,
            _ => Self::Empty,
        }
    }

    fn word(self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Starting => 1,
            Self::Serving => 2,
            Self::Draining => 3,
        }
    }
}

/// A worker's part of the scoreboard.
#[derive(Debug, Clone)]
pub struct Slot {
    board: Scoreboard,
    index: usize,
}

impl Slot {
    pub(super) fn new(board: Scoreboard, index: usize) -> Self {
        Self { board, index }
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.board.head(self.index)[at]
    }

    #[inline]
    fn read(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    #[inline]
    fn write(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn count(&self, at: usize) -> usize {
        usize::try_from(self.read(at)).unwrap_or(usize::MAX)
    }

    /// Returns the scoreboard.
    pub fn scoreboard(&self) -> &Scoreboard {
        &self.board
    }

    /// Returns how many workers are to serve. `None`: the supervisor does not say.
    pub fn workers(&self) -> Option<usize> {
        self.board.workers()
    }

    /// Returns what the process has counted.
    pub fn meters(&self) -> Meters {
        self.board.meters(self.index)
    }

    /// Returns the index of the slot.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the process that has the slot; 0 if none has.
    pub fn pid(&self) -> u32 {
        u32::try_from(self.read(PID)).unwrap_or(0)
    }

    /// Returns the worker's number, from 1.
    pub fn number(&self) -> usize {
        self.count(NUMBER)
    }

    /// Returns how often the worker's number has been given to a worker.
    pub fn generation(&self) -> u64 {
        self.read(GENERATION)
    }

    /// Returns what the process does.
    #[inline]
    pub fn state(&self) -> State {
        State::of(self.word(STATE).load(Ordering::Acquire))
    }

    /// Returns for how long the worker has served. `None` if it has not begun to.
    pub fn served_for(&self) -> Option<Duration> {
        age(self.read(SERVED_SINCE))
    }

    /// Returns the number of open connections, including connections that calls have taken over.
    #[inline]
    pub fn connections(&self) -> usize {
        self.count(CONNECTIONS)
    }

    /// Returns the number of requests being served.
    #[inline]
    pub fn requests(&self) -> usize {
        self.count(REQUESTS)
    }

    /// Returns how many requests the worker has begun to serve since its start.
    pub fn begun(&self) -> u64 {
        self.read(BEGUN)
    }

    /// Returns whether the worker is at its limit of connections.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.read(IS_FULL) != 0
    }

    /// Returns how many calls wait or run.
    pub fn calls(&self) -> usize {
        self.count(CALLS)
    }

    /// Returns how many requests the process has cut off at its end.
    pub fn cut(&self) -> usize {
        self.count(CUT)
    }

    /// Returns how long ago the runtime's thread ran the worker's tick. `None` before the first one.
    pub fn runtime_tick(&self) -> Option<Duration> {
        age(self.read(RUNTIME_TICK))
    }

    /// Returns how long ago a thread got the GIL for the worker's tick. `None` before the first one.
    pub fn gil_tick(&self) -> Option<Duration> {
        age(self.read(GIL_TICK))
    }

    /// Returns for how long the tick's thread has been waiting for the GIL. `None` if it does not wait.
    pub fn gil_sought(&self) -> Option<Duration> {
        age(self.read(GIL_SOUGHT))
    }

    /// Returns whether no thread of the worker gets the GIL, so that a new request would wait.
    #[inline]
    pub fn is_stuck(&self) -> bool {
        let sought = self.read(GIL_SOUGHT);
        sought != 0 && age(sought).is_some_and(|waited| waited >= STUCK_AFTER)
    }

    /// Returns whether the runtime runs. The first tick is still to come in a process that has just started.
    #[inline]
    pub(super) fn runs(&self) -> bool {
        self.runtime_tick().is_none_or(|age| age < FROZEN_AFTER)
    }

    /// Returns whether the worker can serve requests: its runtime runs, and no thread has kept the GIL for long.
    pub fn responds(&self) -> bool {
        self.runs() && self.gil_sought().is_none_or(|time| time < FROZEN_AFTER)
    }

    /// Takes the slot for a process, and forgets what was in it. The state is `Starting`.
    pub fn enter(&self, pid: u32, number: usize, generation: u64) {
        self.clear();
        self.write(PID, pid.into());
        self.write(NUMBER, number as u64);
        self.write(GENERATION, generation);
        self.board.header(AT_USED).fetch_max(self.index as u64 + 1, Ordering::Relaxed);
        self.set_state(State::Starting);
    }

    /// Gives the slot back. The supervisor does this once the process has ended.
    pub fn leave(&self) {
        self.set_state(State::Empty);
        self.clear();
    }

    fn clear(&self) {
        self.board.keep_counts(self.index);
        self.board.head(self.index).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.board.rows(self.index).iter().step_by(super::ROW_WORDS).for_each(|word| {
            // A write would make the kernel provide the page.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        });
    }

    /// Sets what the process does.
    pub fn set_state(&self, state: State) {
        if state == State::Serving && self.state() != State::Serving {
            self.write(SERVED_SINCE, micros(sys::machine_time()));
        }
        self.word(STATE).store(state.word(), Ordering::Release);
    }

    /// Sets the number of open connections. (The runtime's thread.)
    #[inline]
    pub fn set_connections(&self, number: usize) {
        self.write(CONNECTIONS, number as u64);
    }

    /// Sets the number of requests being served. (The runtime's thread.)
    #[inline]
    pub fn set_requests(&self, number: usize) {
        self.write(REQUESTS, number as u64);
    }

    /// Sets how many requests the worker has begun to serve since its start.
    pub fn set_begun(&self, number: u64) {
        self.write(BEGUN, number);
    }

    /// Sets whether the worker is at its limit of connections. (The runtime's thread.)
    #[inline]
    pub fn set_full(&self, is_full: bool) {
        if self.is_full() != is_full {
            self.write(IS_FULL, is_full.into());
        }
    }

    /// Sets how many requests the process cuts off.
    pub fn set_cut(&self, number: usize) {
        self.write(CUT, number as u64);
    }

    /// Sets how many calls wait or run.
    pub fn set_calls(&self, number: usize) {
        self.write(CALLS, number as u64);
    }

    /// Records that the runtime's thread runs.
    pub fn tick_runtime(&self) {
        self.write(RUNTIME_TICK, micros(sys::machine_time()));
    }

    /// Records that the tick's thread begins to wait for the GIL.
    pub fn seek_gil(&self) {
        self.write(GIL_SOUGHT, micros(sys::machine_time()));
    }

    /// Records that the tick's thread has got the GIL.
    pub fn tick_gil(&self) {
        self.write(GIL_TICK, micros(sys::machine_time()));
        self.write(GIL_SOUGHT, 0);
    }

    /// Notes a request that a thread begins to serve. An empty `id` is none. `None`: no row is free, so a crash would not
    /// report the request.
    #[inline]
    pub fn note_request(&self, thread: u32, received: Instant, line: &[u8], id: &[u8]) -> Option<Row> {
        note(self.board.rows(self.index), thread, self.board.micros_at(received), line, id)
    }

    /// Removes what `note_request` has noted.
    #[inline]
    pub fn forget_request(&self, row: Row) {
        forget(self.board.rows(self.index), row);
    }

    /// Returns the requests that are noted, the oldest first.
    pub fn requests_inside(&self) -> Vec<Inside> {
        inside(self.board.rows(self.index))
    }
}
