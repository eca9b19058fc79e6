//! All values of one server's counters and gauges at one moment: their list, their words, their names, and sentences.
//!
//! *Runs on*: any thread. *Invariants*: a number stands in the list alone. The words that another process reads, the
//! sums of several servers and the names that a program sees follow from it.

use crate::phrase::count;

/// A number as a word of memory that another process reads.
trait Word {
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Self;
}

impl Word for u64 {
    fn to_word(self) -> u64 {
        self
    }

    fn from_word(word: u64) -> Self {
        word
    }
}

impl Word for usize {
    fn to_word(self) -> u64 {
        self as u64
    }

    fn from_word(word: u64) -> Self {
        Self::try_from(word).unwrap_or(Self::MAX)
    }
}

/// Lists each number once: its field, and the name under which a program may read it. The permits are numbers, too. The
/// order is that of the words, so another one is another layout of the scoreboard.
macro_rules! numbers {
    ($($(#[$meaning:meta])+ $field:ident: $type:ty $(= $name:literal)?,)+) => {
        /// Every number of one server at one moment. A number that the server does not have is 0.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Numbers {
            $($(#[$meaning])+ pub $field: $type,)+
            /// The permits. `None`: requests need no permit.
            pub permits: Option<Permits>,
        }

        /// How many words the numbers take: one for each of the list, and those of the permits.
        const NUMBER_WORDS: usize = [$(stringify!($field)),+].len() + 4;

        impl Numbers {
            /// Returns all numbers as words, for memory that another process reads.
            pub fn to_words(&self) -> [u64; NUMBER_WORDS] {
                let Permits { size, taken, waiting } = self.permits.unwrap_or_default();
                [
                    $(self.$field.to_word(),)+
                    self.permits.is_some().into(),
                    size.to_word(),
                    taken.to_word(),
                    waiting.to_word(),
                ]
            }

            /// Returns the numbers of these words, which `to_words` has made.
            pub fn from_words(words: [u64; NUMBER_WORDS]) -> Self {
                let mut words = words.into_iter();
                let mut next = || words.next().unwrap_or_default();
                // The fields are filled in this order.
                Self {
                    $($field: Word::from_word(next()),)+
                    permits: (next() != 0).then(|| Permits {
                        size: Word::from_word(next()),
                        taken: Word::from_word(next()),
                        waiting: Word::from_word(next()),
                    }),
                }
            }

            /// Returns the numbers that a program may read, by name.
            pub fn published(&self) -> Vec<(&'static str, u64)> {
                let Permits { size, taken, waiting: _ } = self.permits.unwrap_or_default();
                let listed: &[&[(&'static str, u64)]] = &[
                    $(&[$(($name, self.$field.to_word()))?],)+
                    &[("pool_size", size.to_word()), ("pool_taken", taken.to_word())],
                ];
                listed.concat()
            }
        }
    };
}

numbers! {
    /// Connections that are open.
    connections: usize = "connections",
    /// Open connections that have nothing to do.
    idle: usize = "idle",
    /// Requests being served, from their permit to the last byte of their response.
    requests: usize = "requests",
    /// Calls that have not ended, including those whose clients have left.
    calls: usize,
    /// Suspended responses that are set aside: no thread works on them.
    suspended: usize = "suspended",
    /// Connections that running calls have taken over. They do not count as open connections.
    hijacked: usize = "hijacked",
    /// Open connections that speak HTTP/2.
    http2_connections: usize = "http2_connections",
    /// Their streams whose responses the clients have not got.
    http2_streams: usize = "http2_streams",
    /// All connections that calls have taken over since the start.
    hijacked_total: u64 = "hijacked_total",
    /// All connections that have moved to other processes since the start.
    moved_away: u64,
    /// All connections that have moved here from other processes since the start.
    moved_here: u64,
    /// Running coroutines, most of them serving a connection.
    coroutines: usize = "coroutines",
    /// Threads for the application.
    threads: usize = "threads",
    /// The threads among them that run calls. A thread that waits inside the application counts.
    threads_running: usize = "threads_running",
    /// The most threads that may exist.
    threads_max: usize,
    /// Threads that run calls past `--request-timeout`, besides `threads`: others have taken their places.
    threads_given_up: usize,
    /// The running threads whose calls are past `--request-timeout`, and whose places no others can take.
    threads_overdue: usize,
    /// Calls that no thread has taken yet.
    queued: usize = "queued",
    /// Requests handed over to the application's threads since the start.
    served: u64 = "served",
    /// The requests among them whose client left before a thread was free.
    abandoned: u64 = "abandoned",
    /// The requests among them that no thread began within `--queue-timeout`.
    late: u64 = "late",
    /// Bytes of bodies and responses in temporary files.
    spooled: u64,
    /// WebSockets that are open. They count as open connections, too.
    websockets: usize = "websockets",
    /// The WebSockets among them whose last message found no room, because the client is slow.
    websockets_slow: usize = "websockets_slow",
    /// Bytes of messages that wait for the clients of WebSockets.
    websocket_waiting_bytes: usize = "websocket_waiting_bytes",
    /// All WebSockets that were opened since the start.
    websockets_total: u64 = "websockets_total",
    /// Messages that the clients of WebSockets have sent since the start.
    messages_received: u64 = "websocket_messages_received",
    /// Messages that the application has sent through WebSockets since the start.
    messages_sent: u64 = "websocket_messages_sent",
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
        let permits = Some(Permits { size: 9, taken: 10, waiting: 11 });
        let numbers =
            Numbers { connections: 1, hijacked_total: 2, calls: 3, messages_sent: 4, permits, ..Numbers::default() };
        let published: Vec<_> = numbers.published().into_iter().filter(|(_, value)| *value > 0).collect();
        let expected = [
            ("connections", 1),
            ("hijacked_total", 2),
            ("websocket_messages_sent", 4),
            ("pool_size", 9),
            ("pool_taken", 10),
        ];
        assert_eq!(published, expected);
    }

    #[test]
    fn each_number_has_a_word_of_its_own() {
        let words = std::array::from_fn(|at| 1 + at as u64);
        // The word before those of the permits only says that there are permits.
        let numbers = Numbers::from_words(words);
        let mut back = numbers.to_words();
        back[NUMBER_WORDS - 4] = words[NUMBER_WORDS - 4];
        assert_eq!(back, words);
        assert_eq!(Numbers::from_words(numbers.to_words()), numbers);
        let none = Numbers { permits: None, ..numbers };
        assert_eq!(Numbers::from_words(none.to_words()), none);
    }

    #[test]
    fn numbers_of_two_servers_are_added() {
        let permits = Some(Permits { size: 9, taken: 1, waiting: 2 });
        let mut sum = Numbers { idle: 1, permits, ..Numbers::default() };
        sum.add(&Numbers { idle: 2, late: 3, ..Numbers::default() });
        assert_eq!(sum, Numbers { idle: 3, late: 3, permits, ..Numbers::default() });
    }
}
