//! Which thread keeps the GIL while all others wait for it, as far as the system knows it.
//!
//! *Owns*: nothing. *Runs on*: the thread of the alarms, while the heartbeat waits for the GIL. *Invariants*: a thread
//! that waits for the GIL is never named. *Source*: `proc_pid_syscall(5)`, futex(2).

use std::fs;
use std::thread;
use std::time::Duration;

/// The name of the heartbeat's thread, as the system cuts it. It waits for the GIL, so it shows where others wait.
const SEEKER: &str = "maypole-heartbe";
/// How often its wait is looked at. Between two waits it runs for a moment.
const LOOKS: usize = 20;
/// The condition for which threads wait has several words within this many bytes.
const CONDITION_BYTES: u64 = 64;

/// How often the threads are looked at, and the time between two looks. Python's switch interval is 5 ms.
const SAMPLES: usize = 5;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It runs.
    Runs,
    /// It waits in this system call, with this first argument.
    Waits { call: u64, argument: u64 },
}

/// Returns the threads among `callers` that may keep the GIL, by the system's numbers: those that were found at each of
/// several looks. If there is none, the GIL goes from thread to thread. `None`: that is not known. It takes
/// `SAMPLES` times `SAMPLE_EVERY`.
pub(super) fn holders(callers: &[u64]) -> Option<Vec<u64>> {
    let wait = (0..LOOKS).find_map(|_| wait_of_seeker())?;
    let mut found: Option<Vec<u64>> = None;
    for _ in 0..SAMPLES {
        let doing: Vec<_> = callers.iter().filter_map(|thread| Some((*thread, doing(*thread)?))).collect();
        let chosen = choose(&doing, wait);
        if chosen.is_empty() {
            return None;
        }
        found = Some(match found {
            None => chosen,
            Some(before) => before.into_iter().filter(|thread| chosen.contains(thread)).collect(),
        });
        thread::sleep(SAMPLE_EVERY);
    }
    found
}

/// Chooses those that run. If none does, chooses those that wait for something other than a lock.
fn choose(doing: &[(u64, Doing)], (futex, address): (u64, u64)) -> Vec<u64> {
    let among = |is_chosen: &dyn Fn(Doing) -> bool| {
        doing.iter().filter(|(_, doing)| is_chosen(*doing)).map(|(thread, _)| *thread).collect::<Vec<_>>()
    };
    let running = among(&|doing| doing == Doing::Runs);
    if !running.is_empty() {
        return running;
    }
    let elsewhere = among(&|doing| matches!(doing, Doing::Waits { call, .. } if call != futex));
    if !elsewhere.is_empty() {
        return elsewhere;
    }
    among(&|doing| matches!(doing, Doing::Waits { argument, .. } if argument.abs_diff(address) > CONDITION_BYTES))
}

/// Returns the call and the address with which the heartbeat waits for the GIL.
fn wait_of_seeker() -> Option<(u64, u64)> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let seeker = tasks
        .flatten()
        .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == SEEKER))?;
    match doing(seeker.file_name().to_str()?.parse().ok()?)? {
        Doing::Waits { call, argument } => Some((call, argument)),
        Doing::Runs => None,
    }
}

fn doing(thread: u64) -> Option<Doing> {
    parse(&fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?)
}

/// Reads `running`, or `202 0x7f12…` with further words.
fn parse(text: &str) -> Option<Doing> {
    if text.starts_with("running") {
        return Some(Doing::Runs);
    }
    let mut words = text.split_whitespace();
    let call = words.next()?.parse().ok()?;
    let argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    Some(Doing::Waits { call, argument })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn thread_that_waits_for_the_gil_is_never_chosen() {
        let (gil, other) = (parse("202 0x1000 0x80 0x0\n").unwrap(), parse("202 0x9000 0x80\n").unwrap());
        let (sleeps, runs) = (parse("230 0x1 0x0\n").unwrap(), parse("running\n").unwrap());
        let wait = (202, 0x1004);
        assert_eq!(choose(&[(1, gil), (2, runs), (3, sleeps), (4, other)], wait), [2]);
        assert_eq!(choose(&[(1, gil), (3, sleeps), (4, other)], wait), [3]);
        assert_eq!(choose(&[(1, gil), (4, other)], wait), [4]);
        assert_eq!(choose(&[(1, gil)], wait), [0; 0]);
        assert_eq!(parse("-1 0x7ffd 0x7f\n"), None);
    }
}
