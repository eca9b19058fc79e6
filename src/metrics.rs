//! The server's counters and gauges, and all their values at one moment.
//!
//! *Owns*: the kinds of numbers, and the list of all of them. A number itself belongs to the module that counts. *Runs
//! on*: any thread. *Invariants*: counting is always on and costs one atomic instruction. Every number that is
//! published stands in `Numbers`. `stats()`, reports and the lines of a stop read that and nothing else. What a server
//! has counted since its start stands in `Meters`.

mod closes;
mod ends;
mod error_code;
mod histogram;
mod kinds;
mod meters;
mod reason;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::phrase::count;

pub use self::closes::{CLOSE_CODES, Closer};
pub use self::ends::{Departure, End};
pub use self::error_code::ErrorCode;
pub use self::histogram::{Histogram, Times};
pub use self::kinds::{Class, Count, Method, Phase};
pub use self::meters::{METER_WORDS, Meters, Served, Sums};
pub use self::reason::Reason;

/// A number that only grows. It orders no other memory, so nothing may wait for its value.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    /// Counts `number` more.
    #[inline]
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// Returns how many have been counted.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls. A thread that reads the value of a fall also sees what happened before that fall, so
/// a drain can wait for 0.
#[derive(Debug, Default)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn rise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Adds one if the value is below `limit`. Returns whether it did.
    #[inline]
    pub fn rise_below(&self, limit: usize) -> bool {
        let one_more = |value: usize| (value < limit).then_some(value + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// Adds this many.
    #[inline]
    pub fn raise(&self, number: usize) {
        self.0.fetch_add(number, Ordering::SeqCst);
    }

    /// Takes this many away.
    #[inline]
    pub fn lower(&self, number: usize) {
        self.0.fetch_sub(number, Ordering::SeqCst);
    }

    /// Takes one away. Returns what is left.
    #[inline]
    pub fn fall(&self) -> usize {
        self.0.fetch_sub(1, Ordering::SeqCst) - 1
    }

    /// Returns the current value.
    #[inline]
    pub fn value(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Every number of one server at one moment. A number that the server does not have is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Connections that are open.
    pub connections: usize,
    /// Open connections that have nothing to do.
    pub idle: usize,
    /// Requests being served, from their permit to the last byte of their response.
    pub requests: usize,
    /// Calls that have not ended, including those whose clients have left.
    pub calls: usize,
    /// Suspended responses that are set aside: no thread works on them.
    pub suspended: usize,
    /// Connections that running calls have taken over. They do not count as open connections.
    pub hijacked: usize,
    /// Open connections that speak HTTP/2.
    pub http2_connections: usize,
    /// Their streams whose responses the clients have not got.
    pub http2_streams: usize,
    /// All connections that calls have taken over since the start.
    pub hijacked_total: u64,
    /// All connections that have moved to other processes since the start.
    pub moved_away: u64,
    /// All connections that have moved here from other processes since the start.
    pub moved_here: u64,
    /// Running coroutines, most of them serving a connection.
    pub coroutines: usize,
    /// Threads for the application.
    pub threads: usize,
    /// The threads among them that run calls. A thread that waits inside the application counts.
    pub threads_running: usize,
    /// The most threads that may exist.
    pub threads_max: usize,
    /// Threads that run calls past `--request-timeout`, besides `threads`: others have taken their places.
    pub threads_given_up: usize,
    /// The running threads whose calls are past `--request-timeout`, and whose places no others can take.
    pub threads_overdue: usize,
    /// Calls that no thread has taken yet.
    pub queued: usize,
    /// The permits. `None`: requests need no permit.
    pub permits: Option<Permits>,
    /// Requests handed over to the application's threads since the start.
    pub served: u64,
    /// The requests among them whose client left before a thread was free.
    pub abandoned: u64,
    /// The requests among them that no thread began within `--queue-timeout`.
    pub late: u64,
    /// Bytes of bodies and responses in temporary files.
    pub spooled: u64,
    /// WebSockets that are open. They count as open connections, too.
    pub websockets: usize,
    /// The WebSockets among them whose last message found no room, because the client is slow.
    pub websockets_slow: usize,
    /// Bytes of messages that wait for the clients of WebSockets.
    pub websocket_waiting_bytes: usize,
    /// All WebSockets that were opened since the start.
    pub websockets_total: u64,
    /// Messages that the clients of WebSockets have sent since the start.
    pub messages_received: u64,
    /// Messages that the application has sent through WebSockets since the start.
    pub messages_sent: u64,
}

/// The permits of a pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permits {
    /// All permits, free and taken.
    pub size: usize,
    /// Permits in use.
    pub taken: usize,
    /// Requests that wait for one.
    pub waiting: usize,
}

impl Numbers {
    /// Adds the numbers of another server.
    pub fn add(&mut self, other: &Self) {
        let (mut words, others) = (self.to_words(), other.to_words());
        words.iter_mut().zip(others).for_each(|(word, other)| *word += other);
        *self = Self::from_words(words);
    }

    /// Returns all numbers as words, for memory that another process reads.
    pub fn to_words(&self) -> [u64; 32] {
        // Each field is named, so that a new one is not forgotten.
        let Self {
            connections,
            idle,
            requests,
            calls,
            suspended,
            hijacked,
            http2_connections,
            http2_streams,
            hijacked_total,
            moved_away,
            moved_here,
            coroutines,
            threads,
            threads_running,
            threads_max,
            threads_given_up,
            threads_overdue,
            queued,
            permits,
            served,
            abandoned,
            late,
            spooled,
            websockets,
            websockets_slow,
            websocket_waiting_bytes,
            websockets_total,
            messages_received,
            messages_sent,
        } = *self;
        let Permits { size, taken, waiting } = permits.unwrap_or_default();
        [
            connections as u64,
            idle as u64,
            requests as u64,
            calls as u64,
            hijacked as u64,
            hijacked_total,
            moved_away,
            moved_here,
            coroutines as u64,
            threads as u64,
            threads_running as u64,
            threads_max as u64,
            queued as u64,
            permits.is_some().into(),
            size as u64,
            taken as u64,
            waiting as u64,
            served,
            abandoned,
            late,
            threads_given_up as u64,
            threads_overdue as u64,
            spooled,
            suspended as u64,
            websockets as u64,
            websockets_slow as u64,
            websocket_waiting_bytes as u64,
            websockets_total,
            messages_received,
            messages_sent,
            http2_connections as u64,
            http2_streams as u64,
        ]
    }

    /// Returns the numbers of these words, which `to_words` has made.
    pub fn from_words(words: [u64; 32]) -> Self {
        let size = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
        let permits = Permits { size: size(words[14]), taken: size(words[15]), waiting: size(words[16]) };
        Self {
            connections: size(words[0]),
            idle: size(words[1]),
            requests: size(words[2]),
            calls: size(words[3]),
            hijacked: size(words[4]),
            hijacked_total: words[5],
            moved_away: words[6],
            moved_here: words[7],
            coroutines: size(words[8]),
            threads: size(words[9]),
            threads_running: size(words[10]),
            threads_max: size(words[11]),
            queued: size(words[12]),
            permits: (words[13] != 0).then_some(permits),
            served: words[17],
            abandoned: words[18],
            late: words[19],
            threads_given_up: size(words[20]),
            threads_overdue: size(words[21]),
            spooled: words[22],
            suspended: size(words[23]),
            websockets: size(words[24]),
            websockets_slow: size(words[25]),
            websocket_waiting_bytes: size(words[26]),
            websockets_total: words[27],
            messages_received: words[28],
            messages_sent: words[29],
            http2_connections: size(words[30]),
            http2_streams: size(words[31]),
        }
    }

    /// Returns the numbers that a program may read, by name.
    pub fn published(&self) -> [(&'static str, u64); 23] {
        // Each field is named, so that a new one is not forgotten.
        let Self {
            connections,
            idle,
            requests,
            calls: _,
            suspended,
            hijacked,
            http2_connections,
            http2_streams,
            hijacked_total,
            moved_away: _,
            moved_here: _,
            coroutines,
            threads,
            threads_running,
            threads_max: _,
            threads_given_up: _,
            threads_overdue: _,
            queued,
            permits,
            served,
            abandoned,
            late,
            spooled: _,
            websockets,
            websockets_slow,
            websocket_waiting_bytes,
            websockets_total,
            messages_received,
            messages_sent,
        } = *self;
        let Permits { size, taken, waiting: _ } = permits.unwrap_or_default();
        [
            ("connections", connections as u64),
            ("idle", idle as u64),
            ("requests", requests as u64),
            ("hijacked", hijacked as u64),
            ("coroutines", coroutines as u64),
            ("threads", threads as u64),
            ("threads_running", threads_running as u64),
            ("queued", queued as u64),
            ("pool_size", size as u64),
            ("pool_taken", taken as u64),
            ("served", served),
            ("abandoned", abandoned),
            ("late", late),
            ("hijacked_total", hijacked_total),
            ("suspended", suspended as u64),
            ("websockets", websockets as u64),
            ("websockets_slow", websockets_slow as u64),
            ("websocket_waiting_bytes", websocket_waiting_bytes as u64),
            ("websockets_total", websockets_total),
            ("websocket_messages_received", messages_received),
            ("websocket_messages_sent", messages_sent),
            ("http2_connections", http2_connections as u64),
            ("http2_streams", http2_streams as u64),
        ]
    }

    /// Returns how busy the server is, as a sentence: `2 requests are being served; 2 of 1000 places in the pool are
    /// taken (--pool-size)` …
    pub fn summary(&self) -> String {
        let verb = if self.requests == 1 { "is" } else { "are" };
        let (requests, places, load) = (count(self.requests, "request"), self.places(), self.load());
        format!("{requests} {verb} being served; {places}; {load}{}{}", self.sockets(), self.http2())
    }

    /// Returns how many WebSockets are open, as a further part of a sentence. Empty if none is.
    fn sockets(&self) -> String {
        let Self { websockets, websockets_slow, .. } = *self;
        if websockets == 0 {
            return String::new();
        }
        let verb = if websockets == 1 { "is" } else { "are" };
        let slow = if websockets_slow == 0 { String::new() } else { format!(", {websockets_slow} with a slow client") };
        format!("; {} {verb} open{slow}", count(websockets, "WebSocket"))
    }

    /// Returns how many connections speak HTTP/2, as a further part of a sentence. Empty if none does.
    fn http2(&self) -> String {
        if self.http2_connections == 0 {
            return String::new();
        }
        let (connections, streams) = (count(self.http2_connections, "connection"), count(self.http2_streams, "stream"));
        format!("; {connections} with {streams} of HTTP/2")
    }

    /// Returns how busy the pool is, as a part of a sentence.
    pub fn places(&self) -> String {
        let Some(Permits { size, taken, waiting }) = self.permits else {
            return "requests need no place in a pool".to_owned();
        };
        let waiting = count(waiting, "request");
        format!("{taken} of {size} places in the pool are taken (--pool-size), {waiting} waiting for one")
    }

    /// Returns how busy the threads are, as a part of a sentence.
    pub fn load(&self) -> String {
        let Self { threads_running, threads_max, queued, calls, .. } = *self;
        if threads_max == 0 {
            return format!("the handler works on {}", count(calls, "request"));
        }
        let queued = count(queued, "call");
        format!("{threads_running} of at most {threads_max} threads run calls (--threads), {queued} waiting for one")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_grows_and_gauge_rises_and_falls() {
        let (counter, gauge) = (Counter::default(), Gauge::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counter.count();
                        counter.add(2);
                        gauge.rise();
                        gauge.rise();
                        assert!(gauge.fall() > 0);
                    }
                });
            }
        });
        assert_eq!((counter.value(), gauge.value()), (12_000, 4_000));
    }

    #[test]
    fn gauge_rises_up_to_a_limit_for_all_threads_together() {
        let (gauge, rises) = (Gauge::default(), Counter::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).filter(|_| gauge.rise_below(1500)).for_each(|_| rises.count()));
            }
        });
        assert_eq!((gauge.value(), rises.value()), (1500, 1500));
        assert!(gauge.fall() == 1499 && gauge.rise_below(1500) && !gauge.rise_below(1500));
    }

    #[test]
    fn summary_names_requests_permits_and_threads() {
        let permits = Some(Permits { size: 1000, taken: 2, waiting: 1 });
        let busy =
            Numbers { requests: 2, permits, threads_running: 1, threads_max: 4, queued: 3, ..Numbers::default() };
        assert_eq!(
            busy.summary(),
            "2 requests are being served; 2 of 1000 places in the pool are taken (--pool-size), 1 request waiting for \
             one; 1 of at most 4 threads run calls (--threads), 3 calls waiting for one"
        );
        let sockets = Numbers { websockets: 3, websockets_slow: 1, ..busy };
        assert!(sockets.summary().ends_with("waiting for one; 3 WebSockets are open, 1 with a slow client"));
        let http2 = Numbers { http2_connections: 1, http2_streams: 2, ..busy };
        assert_eq!(http2.summary(), busy.summary() + "; 1 connection with 2 streams of HTTP/2");
        let bare = Numbers { requests: 1, calls: 1, ..Numbers::default() };
        assert_eq!(
            bare.summary(),
            "1 request is being served; requests need no place in a pool; the handler works on 1 request"
        );
    }

    #[test]
    fn published_numbers_are_each_under_its_name() {
        let numbers = Numbers {
            connections: 1,
            idle: 2,
            requests: 3,
            hijacked: 4,
            coroutines: 5,
            threads: 6,
            threads_running: 7,
            queued: 8,
            permits: Some(Permits { size: 9, taken: 10, waiting: 25 }),
            served: 11,
            abandoned: 12,
            late: 13,
            hijacked_total: 14,
            suspended: 15,
            http2_connections: 22,
            http2_streams: 23,
            calls: 31,
            moved_away: 26,
            moved_here: 27,
            threads_max: 28,
            threads_given_up: 29,
            threads_overdue: 30,
            spooled: 25,
            websockets: 16,
            websockets_slow: 17,
            websocket_waiting_bytes: 18,
            websockets_total: 19,
            messages_received: 20,
            messages_sent: 21,
        };
        let values: Vec<_> = numbers.published().iter().map(|(_, value)| *value).collect();
        assert_eq!(values, (1..=23).collect::<Vec<_>>());
        assert_eq!(Numbers::from_words(numbers.to_words()), numbers);
    }
}
