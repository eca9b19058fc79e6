//! The log lines of a server that stops: who requested it, which requests may still run, and how it ended.
//!
//! *Runs on*: the plain thread that stops the server.

use std::time::{Duration, Instant};

use log::Level;

use super::Server;
use crate::metrics::Numbers;
use crate::phrase::{count, seconds};
use crate::requests::Snapshot;

/// A stop that has begun.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Who requested the stop: a signal, or a call with its place in the program.
    pub who: String,
    /// When it began.
    pub began: Instant,
    /// How long running requests may still take.
    pub timeout: Duration,
    /// The setting that `timeout` comes from: `--graceful-timeout`.
    pub setting: &'static str,
}

impl Stop {
    /// Returns a stop that begins now.
    pub fn new(who: impl Into<String>, timeout: Duration, setting: &'static str) -> Self {
        Self { who: who.into(), began: Instant::now(), timeout, setting }
    }

    /// Returns who requested the stop, without the place in the program.
    fn short_who(&self) -> &str {
        self.who.split_once(" called ").map_or(&*self.who, |(call, _)| call)
    }

    /// Returns when running requests are cut off.
    pub fn end(&self) -> Instant {
        self.began + self.timeout
    }
}

impl Server {
    /// Logs that the server stops. In a service with workers, the supervisor says so for all of them.
    pub fn say_stopping(&self, stop: &Stop) {
        let Stop { who, timeout, setting, .. } = stop;
        let level = self.stop_level();
        match self.numbers().requests {
            0 => log::log!(level, "{who}: stopping; no request is being served"),
            requests => {
                let (requests, time) = (count(requests, "request"), seconds(*timeout));
                log::log!(level, "{who}: stopping; {requests} may run for {time} more ({setting})");
            }
        }
    }

    fn stop_level(&self) -> Level {
        if self.inner.is_worker { Level::Debug } else { Level::Info }
    }

    /// Logs that the server has stopped and that no request was cut off.
    pub fn say_stopped(&self, stop: &Stop) {
        self.inner.shared.end_overload();
        let (who, time) = (stop.short_who(), seconds(stop.began.elapsed()));
        log::log!(self.stop_level(), "stopped {time} after {who}: every request has ended");
    }

    /// Logs that the time is over, and which requests are cut off.
    pub fn say_cut_off(&self, stop: &Stop) {
        self.inner.shared.end_overload();
        let Some(unended) = self.cut_off() else { return self.say_stopped(stop) };
        let (who, time, setting) = (stop.short_who(), seconds(stop.began.elapsed()), stop.setting);
        log::warn!("stopped {time} after {who}; {setting} cut off {unended}");
    }

    /// Returns how busy the server is: `2 requests are being served; 2 of 1000 places in the pool are taken
    /// (--pool-size)` … Also returns these requests, the oldest first.
    pub fn summary(&self) -> (String, Vec<Snapshot>) {
        let served = self.requests();
        let numbers = Numbers { requests: served.len(), ..self.numbers() };
        (numbers.summary(), served)
    }

    /// Describes the requests and calls that have not ended, which are cut off, one line for each: `2 requests, 1 call
    /// whose client has left:` … Shows the supervisor how many they are.
    pub fn cut_off(&self) -> Option<String> {
        let (numbers, served) = (self.numbers(), self.inner.shared.requests());
        let calls = numbers.calls.saturating_sub(served.handled());
        if let Some(slot) = &self.inner.slot {
            slot.set_cut(numbers.requests + calls);
        }
        let receiving = numbers.connections.saturating_sub(numbers.requests + numbers.idle);
        let parts = [
            (numbers.requests, "request", ""),
            (calls, "call", " whose client has left"),
            (receiving, "connection", " without a whole request"),
        ];
        let parts = parts.into_iter().filter(|(number, ..)| *number > 0);
        let parts: Vec<_> = parts.map(|(number, what, which)| format!("{}{which}", count(number, what))).collect();
        let colon = if numbers.requests > 0 { ":" } else { "" };
        (!parts.is_empty()).then(|| format!("{}{colon}{served}", parts.join(", ")))
    }
}
