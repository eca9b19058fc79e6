//! The slowest requests of the last minutes, and the code in which requests that take long were seen.
//!
//! *Owns*: the slowest requests of each minute, and the samples of requests that are still served. *Runs on*: the
//! connections' coroutines enter requests that have ended; a sampling thread adds samples; any thread reads.
//! *Invariants*: a fast request costs one comparison. A lock is held for a moment only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::http::RequestHead;
use crate::sys::Lock;

/// How many of the slowest requests are kept.
const KEPT_MAX: usize = 20;
/// For how many minutes they are kept.
const MINUTES: usize = 5;
/// A request that took less is never kept.
const KEPT_MIN: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);

/// A Python function that has been called and has not returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The file of its code.
    pub file: String,
    /// The line that runs.
    pub line: u32,
    /// The name of the function.
    pub function: String,
}

impl std::fmt::Display for Frame {
    /// Writes `/srv/shop/report.py:31 totals`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.function)
    }
}

/// The code in which a request was seen most often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mostly {
    /// The function, and the line of it that was seen most often.
    pub frame: Frame,
    /// How many samples were in this function.
    pub samples: u32,
    /// How many samples there are.
    pub of: u32,
}

/// The parts of a request's time. Together they are the whole, except for moments that belong to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Split {
    /// From its first byte to the last byte of its response.
    pub duration: Duration,
    /// The part in which it arrived.
    pub receive: Duration,
    /// The part in which it waited for a place in the pool and for a thread.
    pub queue: Duration,
    /// The part inside the application.
    pub application: Duration,
    /// The part in which the response was sent after the application had ended.
    pub send: Duration,
}

/// A request that took long.
#[derive(Debug, Clone)]
pub struct SlowRequest {
    /// When it ended.
    pub ended: SystemTime,
    /// Where its time went.
    pub split: Split,
    /// The status of the response; 499 if its client left before.
    pub status: u16,
    /// The client.
    pub client: String,
    /// The beginning of its first line.
    pub line: String,
    /// `None`: it was never sampled.
    pub mostly: Option<Mostly>,
}

/// The samples of a request that is being served.
#[derive(Debug)]
struct Samples {
    head: Arc<RequestHead>,
    frames: Vec<(Frame, u32)>,
    /// Whether the log says already that the request still runs.
    is_said: bool,
}

/// The slowest requests of one minute.
#[derive(Debug, Default)]
struct Kept {
    /// The newest minute is last.
    minutes: Vec<Vec<SlowRequest>>,
    /// The number of the newest minute, counted from the start of the server.
    minute: u64,
}

/// The slow requests of a server.
#[derive(Debug)]
pub struct SlowRequests {
    /// A request that takes this long is logged. Zero: none is.
    limit: Duration,
    started: Instant,
    /// A request that took fewer nanoseconds is neither kept nor logged.
    floor_nanos: AtomicU64,
    kept: Lock<Kept>,
    sampled: Lock<Vec<Samples>>,
}

impl SlowRequests {
    /// Begins. `limit` is from when on a request is logged. Zero: none is.
    pub fn new(limit: Duration) -> Self {
        let slow = Self {
            limit,
            started: Instant::now(),
            floor_nanos: AtomicU64::new(0),
            kept: Lock::default(),
            sampled: Lock::default(),
        };
        slow.set_floor(KEPT_MIN);
        slow
    }

    /// Returns from when on a request is logged. `None`: none is.
    pub fn limit(&self) -> Option<Duration> {
        (!self.limit.is_zero()).then_some(self.limit)
    }

    /// Returns whether a request that took this many nanoseconds is kept or logged.
    #[inline]
    pub fn is_slow(&self, nanos: u64) -> bool {
        nanos >= self.floor_nanos.load(Ordering::Relaxed)
    }

    /// Enters a request that has ended and is slow.
    pub fn enter(&self, request: SlowRequest, now: Instant) {
        let mut kept = self.kept.lock();
        self.turn_to(&mut kept, now);
        let Some(minute) = kept.minutes.last_mut() else { return };
        if minute.len() < KEPT_MAX {
            minute.push(request);
        } else if let Some(fastest) = minute.iter_mut().min_by_key(|kept| kept.split.duration)
            && fastest.split.duration < request.split.duration
        {
            *fastest = request;
        }
        self.set_floor(floor_of(minute));
    }

    /// Forgets requests that are too old. Call this from time to time: the floor of a busy minute is high.
    pub fn turn(&self, now: Instant) {
        self.turn_to(&mut self.kept.lock(), now);
    }

    fn turn_to(&self, kept: &mut Kept, now: Instant) {
        let minute = now.saturating_duration_since(self.started).as_secs() / MINUTE.as_secs();
        if kept.minutes.is_empty() || kept.minute != minute {
            let passed = usize::try_from(minute - kept.minute).unwrap_or(MINUTES).clamp(1, MINUTES);
            kept.minutes.extend((0..passed).map(|_| Vec::new()));
            let old = kept.minutes.len().saturating_sub(MINUTES);
            kept.minutes.drain(..old);
            kept.minute = minute;
            self.set_floor(KEPT_MIN);
        }
    }

    fn set_floor(&self, floor: Duration) {
        let floor = self.limit().map_or(floor, |limit| floor.min(limit));
        self.floor_nanos.store(nanos(floor), Ordering::Relaxed);
    }

    /// Returns the slowest requests of the last minutes, the slowest first.
    pub fn slowest(&self, now: Instant) -> Vec<SlowRequest> {
        let mut kept = self.kept.lock();
        self.turn_to(&mut kept, now);
        let mut all: Vec<_> = kept.minutes.iter().flatten().cloned().collect();
        drop(kept);
        all.sort_by_key(|request| std::cmp::Reverse(request.split.duration));
        all.truncate(KEPT_MAX);
        all
    }

    /// Adds a sample: the code in which this request is now.
    pub fn sample(&self, head: &Arc<RequestHead>, frame: Frame) {
        let mut all = self.sampled.lock();
        let index = all.iter().position(|samples| Arc::ptr_eq(&samples.head, head)).unwrap_or_else(|| {
            all.push(Samples { head: Arc::clone(head), frames: Vec::new(), is_said: false });
            all.len() - 1
        });
        let frames = &mut all[index].frames;
        match frames.iter_mut().find(|(known, _)| *known == frame) {
            Some((_, count)) => *count += 1,
            None => frames.push((frame, 1)),
        }
    }

    /// Returns the code in which a request was seen most often, if it was sampled and this has not been asked before.
    pub fn say_once(&self, head: &Arc<RequestHead>) -> Option<Mostly> {
        let mut all = self.sampled.lock();
        let samples = all.iter_mut().find(|samples| Arc::ptr_eq(&samples.head, head) && !samples.is_said)?;
        samples.is_said = true;
        samples.mostly()
    }

    /// Removes the samples of a request that has ended, and returns the code in which it was seen most often.
    pub fn take_samples(&self, head: &RequestHead) -> Option<Mostly> {
        let mut all = self.sampled.lock();
        let index = all.iter().position(|samples| std::ptr::eq(Arc::as_ptr(&samples.head), head))?;
        let samples = all.swap_remove(index);
        drop(all);
        samples.mostly()
    }

    /// Removes the samples of requests other than these.
    pub fn keep_samples(&self, heads: &[&Arc<RequestHead>]) {
        self.sampled.lock().retain(|samples| heads.iter().any(|head| Arc::ptr_eq(&samples.head, head)));
    }
}

impl Samples {
    fn mostly(&self) -> Option<Mostly> {
        let is_same = |one: &Frame, other: &Frame| one.file == other.file && one.function == other.function;
        let of_function = |frame: &Frame| {
            self.frames.iter().filter(|(other, _)| is_same(frame, other)).map(|(_, count)| count).sum::<u32>()
        };
        let (frame, _) = self.frames.iter().max_by_key(|(frame, count)| (of_function(frame), *count))?;
        let of = self.frames.iter().map(|(_, count)| count).sum();
        Some(Mostly { frame: frame.clone(), samples: of_function(frame), of })
    }
}

impl std::fmt::Display for Mostly {
    /// Writes `18 of 21 samples were in /srv/shop/report.py:31 totals`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = if self.of == 1 { "sample was" } else { "samples were" };
        write!(f, "{} of {} {verb} in {}", self.samples, self.of, self.frame)
    }
}

/// Returns how long a request must have taken to be kept in this minute.
fn floor_of(minute: &[SlowRequest]) -> Duration {
    let fastest = minute.iter().map(|kept| kept.split.duration).min();
    fastest.filter(|_| minute.len() >= KEPT_MAX).unwrap_or(KEPT_MIN)
}

#[inline]
fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::http::Limits;

    fn took(millis: u64) -> SlowRequest {
        SlowRequest {
            ended: SystemTime::now(),
            split: Split { duration: Duration::from_millis(millis), ..Split::default() },
            status: 200,
            client: String::new(),
            line: String::new(),
            mostly: None,
        }
    }

    #[test]
    fn slowest_requests_of_the_last_minutes_are_kept() {
        let slow = SlowRequests::new(Duration::ZERO);
        let begin = slow.started;
        assert!(!slow.is_slow(nanos(Duration::from_millis(99))) && slow.is_slow(nanos(KEPT_MIN)));
        for millis in 101..=130 {
            slow.enter(took(millis), begin);
        }
        assert!(!slow.is_slow(nanos(Duration::from_millis(110))), "20 slower ones are known");
        let millis = |at: u64| {
            let all = slow.slowest(begin + Duration::from_secs(at));
            all.iter().map(|request| request.split.duration.as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(millis(0), (111..=130).rev().collect::<Vec<_>>());
        slow.turn(begin + MINUTE);
        assert!(slow.is_slow(nanos(Duration::from_millis(110))), "a new minute begins with none");
        slow.enter(took(500), begin + MINUTE);
        assert_eq!(millis(4 * 60 + 59), [500].into_iter().chain((112..=130).rev()).collect::<Vec<_>>());
        assert_eq!(millis(5 * 60), [500]);
        assert_eq!(millis(6 * 60), [0; 0]);
    }

    #[test]
    fn request_beyond_the_limit_is_slow_whatever_is_kept() {
        let slow = SlowRequests::new(Duration::from_millis(50));
        (0..30).for_each(|_| slow.enter(took(1000), slow.started));
        assert!(slow.is_slow(nanos(Duration::from_millis(50))) && !slow.is_slow(nanos(Duration::from_millis(49))));
    }

    #[test]
    fn function_with_most_samples_is_named_with_its_most_common_line() {
        let limits = Limits { request_line_bytes_max: 100, fields_max: 1, field_bytes_max: 100, head_bytes_max: 200 };
        let head = || Arc::new(RequestHead::parse(b"GET / HTTP/1.0\r\n\r\n", &limits).unwrap());
        let (slow, one, other) = (SlowRequests::new(MINUTE), head(), head());
        for (line, function) in [(9, "wait"), (9, "wait"), (9, "wait"), (1, "sum"), (2, "sum"), (2, "sum"), (3, "sum")]
        {
            slow.sample(&one, Frame { file: "shop.py".to_owned(), line, function: function.to_owned() });
        }
        slow.sample(&other, Frame { file: "shop.py".to_owned(), line: 7, function: "pay".to_owned() });
        assert_eq!(slow.say_once(&one).unwrap().to_string(), "4 of 7 samples were in shop.py:2 sum");
        assert_eq!(slow.say_once(&one), None);
        assert_eq!(slow.take_samples(&other).unwrap().to_string(), "1 of 1 sample was in shop.py:7 pay");
        assert_eq!(slow.take_samples(&other), None);
        slow.keep_samples(&[&other]);
        assert_eq!(slow.take_samples(&one), None);
    }
}
