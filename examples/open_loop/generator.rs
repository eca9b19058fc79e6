//! The test itself: sends requests at their times, and receives the responses.
//!
//! *Invariants*: request number n is due at n ÷ rate, whatever the server does. A request without a free connection is
//! sent when one becomes free, oldest first, and its latency still counts from when it was due. No request is left out:
//! one without a response at the end counts with the time that it has waited so far.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::histogram::Histogram;
use crate::response::{Answer, Reader};
use crate::sys::{Event, Poller};

/// How long the generator waits before it makes a failed connection again.
const RECONNECT: Duration = Duration::from_millis(100);
/// The longest wait for events, so that the end of the test is noticed.
const LOOK: Duration = Duration::from_millis(50);

/// The parameters of a test.
pub struct Plan {
    pub address: SocketAddr,
    /// One request, in wire format.
    pub request: Vec<u8>,
    /// Requests per second.
    pub rate: f64,
    pub duration: Duration,
    pub connections: usize,
    /// How long to wait for responses after the last request.
    pub drain: Duration,
    /// How long before a request is due the generator stops sleeping.
    pub spin: Duration,
}

/// The results of a test.
#[derive(Default)]
pub struct Outcome {
    /// Requests that were due.
    pub due: u64,
    pub sent: u64,
    /// Requests with a complete response, whatever its status.
    pub answered: u64,
    /// Responses with a status other than 2xx or 3xx.
    pub refused: u64,
    /// Requests whose connection failed or sent a malformed response.
    pub broken: u64,
    /// Requests that were due and had no response at the end.
    pub unanswered: u64,
    /// Requests that were due and had no response when the last one was due: how far the server has fallen behind.
    pub backlog: u64,
    pub reconnects: u64,
    /// The times from when a request was due until its response.
    pub latency: Histogram,
    /// The times from when a request was due and had a connection until it was sent: the generator's own error.
    pub pacing: Histogram,
    /// How long the generator had work to do.
    pub busy: Duration,
    pub elapsed: Duration,
    /// An example of a failure.
    pub complaint: Option<String>,
}

struct Connection {
    stream: Option<TcpStream>,
    reader: Reader,
    /// When the current request was due, if there is one.
    due: Option<Instant>,
    /// How many bytes of the request have been sent.
    sent: usize,
    /// Since when the connection can take a request.
    free_since: Instant,
}

/// Runs a plan.
///
/// # Errors
/// The first connections cannot be made.
pub fn run(plan: &Plan) -> io::Result<Outcome> {
    let mut poller = Poller::new()?;
    let mut connections = Vec::with_capacity(plan.connections);
    let free_since = Instant::now();
    for key in 0..plan.connections {
        let stream = connect(plan.address)?;
        poller.add(stream.as_raw_fd(), key, false)?;
        connections.push(Connection {
            stream: Some(stream),
            reader: Reader::default(),
            due: None,
            sent: 0,
            free_since,
        });
    }
    let mut generator = Generator {
        plan,
        free: (0..plan.connections).collect(),
        connections,
        absent: VecDeque::new(),
        buffer: vec![0; 64 << 10],
        outcome: Outcome::default(),
    };
    let start = Instant::now();
    let last = start + plan.duration;
    let end = last + plan.drain;
    let mut ready = Vec::new();
    let mut backlog = None;
    let mut now = start;
    loop {
        generator.reconnect(&poller, now);
        if now >= last {
            backlog.get_or_insert_with(|| generator.behind(start, last));
        }
        let sent = generator.outcome.sent;
        let next = generator.send_due(&poller, start, last);
        if generator.is_done(start, last) || now >= end {
            break;
        }
        let ask = Instant::now();
        let wait = match next {
            Some(due) => due.saturating_duration_since(ask).saturating_sub(plan.spin).min(LOOK),
            None => LOOK,
        };
        poller.wait(wait, &mut ready)?;
        let answered = Instant::now();
        for event in &ready {
            generator.take(&poller, *event);
        }
        let before = std::mem::replace(&mut now, Instant::now());
        if generator.outcome.sent > sent || !ready.is_empty() {
            generator.outcome.busy += (ask - before) + (now - answered);
        }
    }
    generator.outcome.backlog = backlog.unwrap_or(0);
    Ok(generator.finish(start, last))
}

struct Generator<'a> {
    plan: &'a Plan,
    connections: Vec<Connection>,
    /// Connections without a request; the one that has been idle longest comes first.
    free: VecDeque<usize>,
    /// Connections that could not be made again, and when to try next.
    absent: VecDeque<(Instant, usize)>,
    buffer: Vec<u8>,
    outcome: Outcome,
}

impl Generator<'_> {
    /// Sends all requests that are due. Returns when the next one is due. `None` if there is no next one, or no
    /// connection for it.
    fn send_due(&mut self, poller: &Poller, start: Instant, last: Instant) -> Option<Instant> {
        loop {
            let due = self.due_at(start, self.outcome.due);
            if due >= last {
                return None;
            }
            let now = Instant::now();
            if due > now {
                return Some(due);
            }
            let key = self.free.pop_front()?;
            self.outcome.due += 1;
            let connection = &mut self.connections[key];
            self.outcome.pacing.add(nanos(now.saturating_duration_since(due.max(connection.free_since))));
            connection.due = Some(due);
            connection.sent = 0;
            self.outcome.sent += 1;
            self.write(poller, key);
        }
    }

    fn due_at(&self, start: Instant, number: u64) -> Instant {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
        let seconds = number as f64 / self.plan.rate;
        start + Duration::from_secs_f64(seconds)
    }

    /// Returns how many requests due before `last` have no response.
    fn behind(&self, start: Instant, last: Instant) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of requests")]
        let all = ((last - start).as_secs_f64() * self.plan.rate).ceil() as u64;
        all.saturating_sub(self.outcome.answered + self.outcome.broken)
    }

    /// Returns whether every request was sent, and no response is awaited.
    fn is_done(&self, start: Instant, last: Instant) -> bool {
        self.due_at(start, self.outcome.due) >= last
            && self.connections.iter().all(|connection| connection.due.is_none())
    }

    fn write(&mut self, poller: &Poller, key: usize) {
        let connection = &mut self.connections[key];
        let Some(stream) = &mut connection.stream else { return };
        let rest = &self.plan.request[connection.sent..];
        match stream.write(rest) {
            Ok(bytes) if bytes == rest.len() => {
                let resumed = connection.sent > 0;
                connection.sent += bytes;
                if resumed && let Err(error) = poller.change(stream.as_raw_fd(), key, false) {
                    self.fail(poller, key, &error.to_string());
                }
            }
            Ok(bytes) => {
                connection.sent += bytes;
                if let Err(error) = poller.change(stream.as_raw_fd(), key, true) {
                    self.fail(poller, key, &error.to_string());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = poller.change(stream.as_raw_fd(), key, true) {
                    self.fail(poller, key, &error.to_string());
                }
            }
            Err(error) => self.fail(poller, key, &error.to_string()),
        }
    }

    fn take(&mut self, poller: &Poller, event: Event) {
        let key = event.key;
        if event.writable {
            self.write(poller, key);
        }
        if !event.readable {
            return;
        }
        let connection = &mut self.connections[key];
        let Some(stream) = &mut connection.stream else { return };
        let answer = match stream.read(&mut self.buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(error) => return self.fail(poller, key, &error.to_string()),
            Ok(0) => match (connection.reader.end(), connection.due) {
                (None, None) => return self.renew(poller, key),
                (None, Some(_)) => return self.fail(poller, key, "closed without an answer"),
                (answer, _) => answer,
            },
            Ok(_) if connection.due.is_none() => return self.fail(poller, key, "an answer without a request"),
            Ok(bytes) => match connection.reader.take(&self.buffer[..bytes]) {
                Ok(answer) => answer,
                Err(complaint) => return self.fail(poller, key, complaint),
            },
        };
        if let (Some(answer), Some(due)) = (answer, connection.due.take_if(|_| answer.is_some())) {
            self.count(answer, due);
            if answer.closes {
                self.renew(poller, key);
            } else {
                self.release(key);
            }
        }
    }

    fn count(&mut self, answer: Answer, due: Instant) {
        self.outcome.answered += 1;
        if !(200..400).contains(&answer.status) {
            self.outcome.refused += 1;
            self.outcome.complaint.get_or_insert_with(|| format!("status {}", answer.status));
        }
        self.outcome.latency.add(nanos(due.elapsed()));
    }

    fn release(&mut self, key: usize) {
        self.connections[key].free_since = Instant::now();
        self.free.push_back(key);
    }

    /// Handles a broken connection: the request on it, if any, has failed.
    fn fail(&mut self, poller: &Poller, key: usize, complaint: &str) {
        if self.connections[key].due.take().is_some() {
            self.outcome.broken += 1;
        }
        self.outcome.complaint.get_or_insert_with(|| complaint.to_owned());
        self.renew(poller, key);
    }

    /// Makes a connection again.
    fn renew(&mut self, poller: &Poller, key: usize) {
        let was_free = self.connections[key].stream.is_some() && self.free.contains(&key);
        self.connections[key].stream = None;
        self.connections[key].reader = Reader::default();
        if was_free {
            self.free.retain(|&other| other != key);
        }
        self.outcome.reconnects += 1;
        let made = connect(self.plan.address).and_then(|stream| {
            poller.add(stream.as_raw_fd(), key, false)?;
            Ok(stream)
        });
        match made {
            Ok(stream) => {
                self.connections[key].stream = Some(stream);
                self.release(key);
            }
            Err(error) => {
                self.outcome.complaint.get_or_insert_with(|| format!("connect: {error}"));
                self.absent.push_back((Instant::now() + RECONNECT, key));
            }
        }
    }

    /// Tries again to make the connections that could not be made.
    fn reconnect(&mut self, poller: &Poller, now: Instant) {
        while let Some(&(when, key)) = self.absent.front()
            && when <= now
        {
            self.absent.pop_front();
            self.renew(poller, key);
        }
    }

    fn finish(mut self, start: Instant, last: Instant) -> Outcome {
        let now = Instant::now();
        let waiting: Vec<Instant> = self.connections.iter().filter_map(|connection| connection.due).collect();
        for due in waiting {
            self.give_up(now, due);
        }
        loop {
            let due = self.due_at(start, self.outcome.due);
            if due >= last {
                break;
            }
            self.outcome.due += 1;
            self.give_up(now, due);
        }
        self.outcome.elapsed = now - start;
        self.outcome
    }

    fn give_up(&mut self, now: Instant, due: Instant) {
        self.outcome.unanswered += 1;
        self.outcome.latency.add(nanos(now.saturating_duration_since(due)));
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
