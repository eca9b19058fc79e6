//! What a server has counted since its start, in memory that another process may read.
//!
//! *Owns*: the layout of the memory. *Runs on*: each number says which thread writes it; any thread of any process that
//! has the memory reads. *Invariants*: every word is atomic. A reader may see a request in one number and not yet in
//! another.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::closes::{CLOSE_CODES, index_of};
use super::histogram::{self, HISTOGRAM_WORDS, Histogram, Times};
use super::{Class, Closer, Count, Departure, End, ErrorCode, Method, Numbers, Phase, Reason};
use crate::sys::SharedMemory;

/// The words of a server's meters.
pub const METER_WORDS: usize = AT_STATUSES + STATUSES_MAX;

/// The server's `Numbers`, which the server writes from time to time.
const AT_NUMBERS: usize = 0;
const NUMBERS_MAX: usize = 48;
const AT_COUNTS: usize = AT_NUMBERS + NUMBERS_MAX;
const COUNTS_MAX: usize = 48;
/// Requests that were refused, by reason.
const AT_REFUSALS: usize = AT_COUNTS + COUNTS_MAX;
const REFUSALS_MAX: usize = 24;
/// Connections that have ended, by their end.
const AT_ENDS: usize = AT_REFUSALS + REFUSALS_MAX;
const ENDS_MAX: usize = 16;
/// Workers that have ended, by the cause.
const AT_DEPARTURES: usize = AT_ENDS + ENDS_MAX;
const DEPARTURES_MAX: usize = 16;
/// WebSockets that have ended, by who closed them and by the code.
const AT_CLOSES: usize = AT_DEPARTURES + DEPARTURES_MAX;
const CLOSES_MAX: usize = 64;
/// Streams of HTTP/2 that the server has reset, and connections that it has told to leave, by the error code.
const AT_RESETS: usize = AT_CLOSES + CLOSES_MAX;
const AT_GOAWAYS: usize = AT_RESETS + ERROR_CODES_MAX;
const ERROR_CODES_MAX: usize = 16;
const AT_REQUESTS: usize = AT_GOAWAYS + ERROR_CODES_MAX;
const AT_HISTOGRAMS: usize = AT_REQUESTS + Method::ALL.len() * Class::ALL.len();
/// The phases, then one histogram of whole requests for each class of status, then the queue of proxies, then the times
/// in which responses were suspended.
const TIMINGS: usize = AT_SUSPENDED + 1;
const AT_PROXY_QUEUE: usize = Phase::ALL.len() + Class::ALL.len();
const AT_SUSPENDED: usize = AT_PROXY_QUEUE + 1;
/// Responses by their status, except those with 200. They are the rest of `Class::Success`.
const AT_STATUSES: usize = AT_HISTOGRAMS + TIMINGS * HISTOGRAM_WORDS;
const STATUSES_MAX: usize = 900;
const STATUSES: RangeInclusive<u16> = 100..=999;
/// The status for a connection that was taken over, and for a client that left, as the access log of nginx has it.
const TAKEN: u16 = 101;
const LEFT: u16 = 499;

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// Its method.
    pub method: Method,
    /// The status of its response. 0 is none: the client disconnected before.
    pub status: u16,
    /// When its first byte arrived.
    pub began: Option<Instant>,
    /// When all of it had arrived that the application does not read itself.
    pub received: Option<Instant>,
    /// When a thread began it.
    pub started: Option<Instant>,
    /// When the application had ended.
    pub ended: Option<Instant>,
    /// When the last byte of its response was sent.
    pub sent: Instant,
}

impl Served {
    /// Leaves a part of the application's time out.
    #[cold]
    pub fn leave_out(&mut self, time: Duration) {
        // Without a start there is no such time.
        let until = self.ended.unwrap_or(self.sent);
        let time = self.started.map_or(Duration::ZERO, |started| until.saturating_duration_since(started).min(time));
        for moment in [&mut self.began, &mut self.received, &mut self.started] {
            *moment = moment.map(|moment| moment + time);
        }
    }
}

/// The meters of one server.
#[derive(Clone)]
pub struct Meters {
    memory: Arc<SharedMemory>,
    start: usize,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Meters {
    /// Makes meters in memory of their own.
    ///
    /// # Errors
    /// The process has no descriptor or no address space left.
    pub fn create() -> std::io::Result<Self> {
        Ok(Self::within(Arc::new(SharedMemory::create(METER_WORDS)?), 0))
    }

    /// Returns the meters that begin at this word of the memory.
    pub fn within(memory: Arc<SharedMemory>, start: usize) -> Self {
        Self { memory, start }
    }

    #[inline]
    fn words(&self) -> &[AtomicU64; METER_WORDS] {
        self.memory.words()[self.start..].first_chunk().expect("the memory has all words")
    }

    /// Counts a request that has ended. Returns how long it took, in nanoseconds. (The runtime's thread.)
    #[inline]
    pub fn served(&self, served: &Served) -> u64 {
        let words = self.words();
        // Most responses have this status.
        let class = if served.status == 200 { Class::Success } else { count_status(words, served.status) };
        let at = AT_REQUESTS + served.method as usize * Class::ALL.len() + class as usize;
        words[at].store(words[at].load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // What has not happened takes the rest of the time.
        let Served { sent, .. } = *served;
        let began = served.began.unwrap_or(sent);
        let received = served.received.unwrap_or(sent);
        let started = served.started.unwrap_or(sent);
        let (receive, queue) = (nanos_between(began, received), nanos_between(received, started));
        // Most heads arrive in one piece, and have no body.
        if receive == 0 {
            histogram::observe_nothing(histogram_at(words, Phase::Receive as usize));
        } else {
            histogram::observe(histogram_at(words, Phase::Receive as usize), receive);
        }
        histogram::observe(histogram_at(words, Phase::Queue as usize), queue);
        let mut all = receive + queue;
        if served.started.is_some() {
            let ended = served.ended.unwrap_or(sent);
            let (application, send) = (nanos_between(started, ended), nanos_between(ended, sent));
            histogram::observe(histogram_at(words, Phase::Application as usize), application);
            histogram::observe(histogram_at(words, Phase::Send as usize), send);
            all += application + send;
        }
        histogram::observe(histogram_at(words, Phase::ALL.len() + class as usize), all);
        all
    }

    /// Counts a request whose call had taken the connection over. (Any thread.)
    pub fn taken(&self, method: Method, duration: Duration) {
        let words = self.words();
        let at = AT_REQUESTS + method as usize * Class::ALL.len() + Class::Taken as usize;
        words[at].fetch_add(1, Ordering::Relaxed);
        histogram::observe_shared(histogram_at(words, Phase::ALL.len() + Class::Taken as usize), duration);
    }

    /// Counts the time that a request has spent in a proxy's queue. (The runtime's thread.)
    #[cold]
    pub fn proxied(&self, queued: Duration) {
        histogram::observe(histogram_at(self.words(), AT_PROXY_QUEUE), histogram::nanos_of(queued));
    }

    /// Counts the time for which a response was suspended. (The runtime's thread.)
    #[cold]
    pub fn suspended(&self, time: Duration) {
        histogram::observe(histogram_at(self.words(), AT_SUSPENDED), histogram::nanos_of(time));
    }

    /// Sets the waits for the GIL. (The thread that takes the server's numbers.)
    pub fn set_gil_waits(&self, waits: &Times) {
        waits.copy_to(histogram_at(self.words(), Phase::Gil as usize));
    }

    /// Counts `number` more. (Any thread.)
    #[inline]
    pub fn count(&self, what: Count, number: u64) {
        self.words()[AT_COUNTS + what as usize].fetch_add(number, Ordering::Relaxed);
    }

    /// Counts bytes that were received or sent. (The runtime's thread, which alone writes these numbers.)
    #[inline]
    pub fn transferred(&self, what: Count, bytes: usize) {
        let word = &self.words()[AT_COUNTS + what as usize];
        word.store(word.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    /// Counts connections that have ended. (Any thread.)
    pub fn ended(&self, end: End, number: u64) {
        self.words()[AT_ENDS + end as usize].fetch_add(number, Ordering::Relaxed);
    }

    /// Counts a worker that has ended. (The supervisor's thread.)
    pub fn departed(&self, why: Departure) {
        self.words()[AT_DEPARTURES + why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a WebSocket that has ended with this code. (The runtime's thread.)
    pub fn closed(&self, closer: Closer, code: u16) {
        let at = closer as usize * CLOSE_CODES.len() + index_of(code);
        self.words()[AT_CLOSES + at].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often something was counted. (Any thread.)
    pub fn counted(&self, what: Count) -> u64 {
        self.words()[AT_COUNTS + what as usize].load(Ordering::Relaxed)
    }

    /// Counts a stream of HTTP/2 that the server has reset. (Any thread.)
    pub fn reset(&self, why: ErrorCode) {
        self.words()[AT_RESETS + why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection of HTTP/2 that the server has told to leave. (Any thread.)
    pub fn told_to_leave(&self, why: ErrorCode) {
        self.words()[AT_GOAWAYS + why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was refused. (Any thread.)
    pub fn refused(&self, why: Reason) {
        self.words()[AT_REFUSALS + why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Sets how often something was counted elsewhere. A thread that comes late with an older number changes nothing.
    /// (Any thread.)
    pub fn set(&self, what: Count, number: u64) {
        self.words()[AT_COUNTS + what as usize].fetch_max(number, Ordering::Relaxed);
    }

    /// Shows the server's numbers, and counts those that only grow. (The thread that takes them.)
    pub fn show(&self, numbers: &Numbers) {
        self.show_numbers(numbers);
        self.set(Count::Begun, numbers.served);
        self.set(Count::Abandoned, numbers.abandoned);
        self.set(Count::Late, numbers.late);
        self.set(Count::MovedHere, numbers.moved_here);
    }

    fn show_numbers(&self, numbers: &Numbers) {
        for (word, number) in self.words()[AT_NUMBERS..].iter().zip(numbers.to_words()) {
            word.store(number, Ordering::Relaxed);
        }
    }

    /// Returns the numbers that were shown last.
    pub fn numbers(&self) -> Numbers {
        let words = self.words();
        Numbers::from_words(std::array::from_fn(|at| words[AT_NUMBERS + at].load(Ordering::Relaxed)))
    }

    /// Adds what these meters have counted to `sum`.
    pub fn add_to(&self, sum: &mut Sums) {
        let words = self.words();
        for (at, count) in sum.counts.iter_mut().enumerate() {
            *count += words[AT_COUNTS + at].load(Ordering::Relaxed);
        }
        for (at, refusals) in sum.refusals.iter_mut().enumerate() {
            *refusals += words[AT_REFUSALS + at].load(Ordering::Relaxed);
        }
        for (at, ends) in sum.ends.iter_mut().enumerate() {
            *ends += words[AT_ENDS + at].load(Ordering::Relaxed);
        }
        for (at, departures) in sum.departures.iter_mut().enumerate() {
            *departures += words[AT_DEPARTURES + at].load(Ordering::Relaxed);
        }
        for (at, closes) in sum.closes.iter_mut().flatten().enumerate() {
            *closes += words[AT_CLOSES + at].load(Ordering::Relaxed);
        }
        for (at, resets) in sum.resets.iter_mut().enumerate() {
            *resets += words[AT_RESETS + at].load(Ordering::Relaxed);
        }
        for (at, goaways) in sum.goaways.iter_mut().enumerate() {
            *goaways += words[AT_GOAWAYS + at].load(Ordering::Relaxed);
        }
        for (at, requests) in sum.requests.iter_mut().flatten().enumerate() {
            *requests += words[AT_REQUESTS + at].load(Ordering::Relaxed);
        }
        for (at, timing) in sum.timings.iter_mut().enumerate() {
            timing.add(histogram_at(words, at));
        }
        for (status, word) in STATUSES.zip(&words[AT_STATUSES..]) {
            let responses = word.load(Ordering::Relaxed);
            if responses > 0 {
                *sum.statuses.entry(status).or_default() += responses;
            }
        }
    }

    /// Moves all counts to other meters, and forgets the numbers. (Once the process that writes them has ended.)
    pub fn move_to(&self, other: &Self) {
        self.show_numbers(&Numbers::default());
        for (word, sum) in self.words().iter().zip(other.words()) {
            // A write that changes nothing would make the kernel provide the page.
            let value = word.load(Ordering::Relaxed);
            if value != 0 {
                sum.fetch_add(value, Ordering::Relaxed);
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Counts a response with a status other than 200, and returns the status's class. (The runtime's thread.)
#[cold]
fn count_status(words: &[AtomicU64; METER_WORDS], status: u16) -> Class {
    if STATUSES.contains(&status) {
        let word = &words[AT_STATUSES + usize::from(status - STATUSES.start())];
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
    Class::of(status)
}

/// Returns the time between two moments. A subtraction costs as much as all of `observe`, and many requests arrive at one
/// moment.
#[inline]
fn nanos_between(from: Instant, to: Instant) -> u64 {
    if from == to { 0 } else { histogram::nanos_of(to.saturating_duration_since(from)) }
}

#[inline]
fn histogram_at(words: &[AtomicU64; METER_WORDS], timing: usize) -> &[AtomicU64; HISTOGRAM_WORDS] {
    words[AT_HISTOGRAMS + timing * HISTOGRAM_WORDS..].first_chunk().expect("the meters have all histograms")
}

/// What the meters of one or several servers have counted.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    counts: [u64; Count::ALL.len()],
    refusals: [u64; Reason::ALL.len()],
    ends: [u64; End::ALL.len()],
    departures: [u64; Departure::ALL.len()],
    /// WebSockets that have ended, by who closed them and by the code.
    closes: [[u64; CLOSE_CODES.len()]; Closer::ALL.len()],
    resets: [u64; ErrorCode::ALL.len()],
    goaways: [u64; ErrorCode::ALL.len()],
    /// Requests that have ended, by method and by class.
    requests: [[u64; Class::ALL.len()]; Method::ALL.len()],
    timings: [Histogram; TIMINGS],
    /// Responses by their status, except those with 200.
    statuses: BTreeMap<u16, u64>,
}

impl Sums {
    /// Returns what has been counted since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = self.clone();
        let counts = later.counts.iter_mut().zip(&earlier.counts);
        let requests = later.requests.iter_mut().flatten().zip(earlier.requests.iter().flatten());
        let refusals = later.refusals.iter_mut().zip(&earlier.refusals);
        let departures = later.departures.iter_mut().zip(&earlier.departures);
        let codes =
            later.resets.iter_mut().chain(&mut later.goaways).zip(earlier.resets.iter().chain(&earlier.goaways));
        let ends = later.ends.iter_mut().zip(&earlier.ends);
        let closes = later.closes.iter_mut().flatten().zip(earlier.closes.iter().flatten());
        counts
            .chain(refusals)
            .chain(ends)
            .chain(departures)
            .chain(closes)
            .chain(codes)
            .chain(requests)
            .for_each(|(count, before)| *count = count.saturating_sub(*before));
        let timings = later.timings.iter_mut().zip(&earlier.timings);
        timings.for_each(|(timing, before)| *timing = timing.since(before));
        for (status, before) in &earlier.statuses {
            later.statuses.entry(*status).and_modify(|responses| *responses = responses.saturating_sub(*before));
        }
        later
    }

    /// Returns how often something was counted.
    pub fn count(&self, what: Count) -> u64 {
        self.counts[what as usize]
    }

    /// Returns how many requests were refused for this reason.
    pub fn refusals(&self, why: Reason) -> u64 {
        self.refusals[why as usize]
    }

    /// Returns how many connections have ended in this way.
    pub fn ends(&self, end: End) -> u64 {
        self.ends[end as usize]
    }

    /// Returns how many WebSockets this side has closed, or left, with each of `CLOSE_CODES`.
    pub fn closes(&self, closer: Closer) -> &[u64; CLOSE_CODES.len()] {
        &self.closes[closer as usize]
    }

    /// Returns how many workers have ended for this reason.
    pub fn departures(&self, why: Departure) -> u64 {
        self.departures[why as usize]
    }

    /// Returns how many streams of HTTP/2 the server has reset with this code.
    pub fn resets(&self, why: ErrorCode) -> u64 {
        self.resets[why as usize]
    }

    /// Returns how many connections of HTTP/2 the server has told to leave with this code.
    pub fn goaways(&self, why: ErrorCode) -> u64 {
        self.goaways[why as usize]
    }

    /// Returns how many requests with this method and class have ended.
    pub fn requests(&self, method: Method, class: Class) -> u64 {
        self.requests[method as usize][class as usize]
    }

    /// Returns how many requests with this class have ended.
    pub fn of_class(&self, class: Class) -> u64 {
        self.requests.iter().map(|classes| classes[class as usize]).sum()
    }

    /// Returns how many responses had each status. A connection that was taken over counts as 101, and a client that left
    /// before its response as 499. The number of 200 may be one too many or too few for a moment.
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        let mut statuses = self.statuses.clone();
        let others: u64 =
            self.statuses.iter().filter(|(status, _)| **status / 100 == 2).map(|(_, number)| number).sum();
        *statuses.entry(200).or_default() = self.of_class(Class::Success).saturating_sub(others);
        *statuses.entry(TAKEN).or_default() += self.of_class(Class::Taken);
        *statuses.entry(LEFT).or_default() += self.of_class(Class::Left);
        statuses.retain(|_, responses| *responses > 0);
        statuses
    }

    /// Returns the times of a phase.
    pub fn phase(&self, phase: Phase) -> &Histogram {
        &self.timings[phase as usize]
    }

    /// Returns the times of requests in the queue of their proxy, if it has said when it got them.
    pub fn proxy_queue(&self) -> &Histogram {
        &self.timings[AT_PROXY_QUEUE]
    }

    /// Returns the times for which responses were suspended, if they were.
    pub fn suspended(&self) -> &Histogram {
        &self.timings[AT_SUSPENDED]
    }

    /// Returns the times of all whole requests.
    pub fn durations(&self) -> Histogram {
        let mut all = Histogram::default();
        for class in Class::ALL {
            all.merge(self.duration(class));
        }
        all
    }

    /// Returns the times of the whole requests of a class.
    pub fn duration(&self, class: Class) -> &Histogram {
        &self.timings[Phase::ALL.len() + class as usize]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn served(method: Method, status: u16) -> Served {
        let now = Instant::now();
        let after = |millis| Some(now + Duration::from_millis(millis));
        Served {
            method,
            status,
            began: after(1),
            received: after(2),
            started: after(4),
            ended: after(8),
            sent: now + Duration::from_millis(16),
        }
    }

    #[test]
    fn counts_of_a_process_that_has_ended_stay_in_the_sum() {
        let (ended, rest) = (Meters::create().unwrap(), Meters::create().unwrap());
        ended.served(&served(Method::Get, 200));
        ended.served(&Served { started: None, ended: None, ..served(Method::Post, 0) });
        let waits = Times::default();
        waits.observe(Duration::from_secs(1));
        ended.set_gil_waits(&waits);
        ended.count(Count::Accepted, 3);
        ended.refused(Reason::MinRate);
        ended.closed(Closer::Server, 1001);
        ended.closed(Closer::Client, 4000);
        ended.reset(ErrorCode::RefusedStream);
        ended.told_to_leave(ErrorCode::EnhanceYourCalm);
        ended.show(&Numbers { connections: 7, ..Numbers::default() });
        assert_eq!(ended.numbers().connections, 7);
        ended.move_to(&rest);
        rest.served(&served(Method::Get, 204));
        let mut sums = Sums::default();
        ended.add_to(&mut sums);
        rest.add_to(&mut sums);
        assert_eq!(sums.requests(Method::Get, Class::Success), 2);
        assert_eq!(sums.requests(Method::Post, Class::Left), 1);
        assert_eq!((sums.count(Count::Accepted), sums.count(Count::SaturatedMicros)), (3, 0));
        assert_eq!((sums.refusals(Reason::MinRate), sums.refusals(Reason::BodySize)), (1, 0));
        let closes = Closer::ALL.map(|closer| sums.closes(closer).iter().sum::<u64>());
        assert_eq!((closes, sums.closes(Closer::Server)[1], sums.closes(Closer::Client)[17]), ([1, 0, 1], 1, 1));
        assert_eq!((sums.resets(ErrorCode::RefusedStream), sums.resets(ErrorCode::Cancel)), (1, 0));
        assert_eq!((sums.goaways(ErrorCode::EnhanceYourCalm), sums.goaways(ErrorCode::NoError)), (1, 0));
        let counted = Phase::ALL.map(|phase| sums.phase(phase).count());
        assert_eq!(counted, [3, 3, 2, 2, 1]);
        let millis = Phase::ALL.map(|phase| format!("{:.0}", sums.phase(phase).sum() * 1e3));
        assert_eq!(millis, ["3", "18", "8", "16", "1000"]);
        assert_eq!((sums.duration(Class::Success).count(), sums.duration(Class::Left).count()), (2, 1));
        assert_eq!(sums.statuses(), [(200, 1), (204, 1), (499, 1)].into());
        assert_eq!((ended.numbers(), rest.numbers()), (Numbers::default(), Numbers::default()));
    }

    #[test]
    fn time_that_is_left_out_is_missing_in_the_application_and_in_the_whole() {
        let sums_without = |time: u64, request: Served| {
            let meters = Meters::create().unwrap();
            let mut request = request;
            request.leave_out(Duration::from_millis(time));
            meters.served(&request);
            meters.suspended(Duration::from_millis(time));
            let mut sums = Sums::default();
            meters.add_to(&mut sums);
            let phases = [Phase::Receive, Phase::Queue, Phase::Application, Phase::Send].map(|phase| sums.phase(phase));
            let all = [sums.duration(Class::Success), sums.suspended()];
            phases.into_iter().chain(all).map(|times| format!("{:.0}", times.sum() * 1e3)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(sums_without(3, served(Method::Get, 200)), "1 2 1 8 12 3");
        assert_eq!(sums_without(9, served(Method::Get, 200)), "1 2 0 8 11 9", "no more than the application took");
        assert_eq!(sums_without(7, Served { ended: None, ..served(Method::Get, 200) }), "1 2 5 0 8 7");
        assert_eq!(sums_without(7, Served { started: None, ended: None, ..served(Method::Get, 200) }), "1 14 0 0 15 7");
    }

    #[test]
    fn every_kind_has_its_place() {
        assert!(Count::ALL.len() <= COUNTS_MAX && Numbers::default().to_words().len() <= NUMBERS_MAX);
        for (at, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, at);
        }
        assert!(Reason::ALL.len() <= REFUSALS_MAX && Closer::ALL.len() * CLOSE_CODES.len() <= CLOSES_MAX);
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        assert!(End::ALL.len() <= ENDS_MAX && Departure::ALL.len() <= DEPARTURES_MAX);
        for (at, why) in Departure::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
        for (at, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at);
        }
        assert!(ErrorCode::ALL.len() <= ERROR_CODES_MAX);
        for (at, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at);
        }
        for (at, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, at);
            assert_eq!(Method::of(method.name().as_bytes()), method);
        }
        for (at, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, at);
        }
    }
}
