//! What the server needs from the coroutine runtime, so that a newer version of `may` can be tried.
//!
//! A coroutine asserts nothing, because the runtime catches its panic. It sends what it saw to the test's thread.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use maypole::sys::{self, Deferred, HeldFd, Io, Readiness, TimerFd, TurnOf, Waitable, Waker};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn start() {
    sys::start_runtime(64 * 1024).expect("the runtime starts");
}

/// Runs `code` on a coroutine and returns its result.
fn on_coroutine<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> R {
    start();
    let (tell, told) = mpsc::channel();
    sys::spawn(move || report(&tell, code()));
    next(&told)
}

/// Sends a report to the test. An error means that the test has ended.
fn report<T>(tell: &Sender<T>, what: T) {
    let _ = tell.send(what);
}

#[track_caller]
fn next<T>(told: &Receiver<T>) -> T {
    told.recv_timeout(PATIENCE).expect("the coroutine tells it in time")
}

fn waitable(fd: impl Into<OwnedFd>) -> Waitable {
    Waitable::new(HeldFd::from(fd.into())).expect("the runtime can watch it")
}

/// Returns a descriptor on which nothing happens before the writer is used or dropped. A socket's first event would be
/// that it can be written to.
fn quiet() -> (Waitable, PipeWriter) {
    let (reader, writer): (PipeReader, _) = io::pipe().expect("there are descriptors");
    (waitable(reader), writer)
}

/// Waits until the reports, joined, fulfil the condition.
fn wait_until(waitable: &Waitable, condition: impl Fn(Readiness) -> bool) -> Readiness {
    let mut reported = Readiness::NONE;
    while !condition(reported) {
        reported = reported.and(waitable.wait());
    }
    reported
}

/// Receives until the stream has nothing more. Returns the bytes, and whether the stream has ended.
fn drain(waitable: &Waitable) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match sys::receive(waitable, &mut bytes, 1024) {
            Io::Done(0) => return (bytes, true),
            Io::Done(_) => {}
            Io::WouldBlock | Io::Failed(_) => return (bytes, false),
        }
    }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    (listener.accept().unwrap().0, theirs)
}

#[test]
fn wake_before_the_wait_lets_it_return() {
    let reported = on_coroutine(|| {
        let (quiet, _writer) = quiet();
        quiet.waker().wake_here();
        quiet.wait()
    });
    assert!(!reported.is_event(), "{reported:?}");
}

#[test]
fn two_wakes_before_the_wait_let_one_wait_return() {
    let wakes: [fn(&Waker); 2] = [
        |waker| (0..2).for_each(|_| waker.wake_here()),
        |waker| {
            (0..2).for_each(|_| waker.wake_later());
            sys::flush_wakes();
        },
    ];
    for wake in wakes {
        start();
        let (tell, told) = mpsc::channel();
        let (quiet, mut writer) = quiet();
        sys::spawn(move || {
            wake(&quiet.waker());
            for _ in 0..2 {
                report(&tell, quiet.wait().is_event());
            }
        });
        assert!(!next(&told), "the first wait ends by a wake");
        writer.write_all(b"x").unwrap();
        assert!(next(&told), "the second wait ends by the byte");
    }
}

#[test]
fn wake_during_the_wait_ends_it() {
    let (tell, told) = mpsc::channel();
    let record = on_coroutine(move || {
        let record = Arc::new(Mutex::new(vec!["begins"]));
        let (quiet, writer) = quiet();
        let (waker, its) = (quiet.waker(), Arc::clone(&record));
        sys::spawn_here(move || {
            quiet.wait();
            its.lock().unwrap().push("woken");
            report(&tell, ());
            drop(writer);
        })
        .unwrap();
        record.lock().unwrap().push("waits");
        waker.wake_here();
        record
    });
    next(&told);
    assert_eq!(*record.lock().unwrap(), ["begins", "waits", "woken"]);
}

#[test]
fn no_wake_of_many_threads_is_lost() {
    const ROUNDS: usize = 2000;
    start();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (tell, told) = mpsc::channel();
            let (quiet, writer) = quiet();
            let waker = quiet.waker();
            let asked = Arc::new(AtomicUsize::new(0));
            let its = Arc::clone(&asked);
            sys::spawn(move || {
                for round in 1..=ROUNDS {
                    while its.load(Ordering::Acquire) < round {
                        quiet.wait();
                    }
                    report(&tell, round);
                }
                drop(writer);
            });
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    asked.store(round, Ordering::Release);
                    waker.wake_now();
                    assert_eq!(next(&told), round);
                }
            });
        }
    });
}

#[test]
fn wakes_collected_during_an_action_resume_their_coroutines() {
    let (tell, told) = mpsc::channel();
    on_coroutine(move || {
        let (quiet, writer) = quiet();
        let waker = quiet.waker();
        sys::spawn_here(move || {
            quiet.wait();
            report(&tell, ());
            drop(writer);
        })
        .unwrap();
        sys::collect_wakes(|| {
            let thread = thread::spawn(move || waker.wake_now());
            drop(thread.join());
        });
    });
    next(&told);
}

#[test]
fn end_of_input_is_a_hang_up_and_not_a_break() {
    for (ours, theirs) in [streams(UnixStream::pair().unwrap()), streams(tcp_pair())] {
        theirs.end_output();
        let reported = on_coroutine(move || wait_until(&waitable(ours), Readiness::is_hangup));
        assert!(reported.is_readable() && !reported.is_broken(), "{reported:?}");
    }
}

/// The client's side of a stream.
trait Client: Send {
    fn end_output(&self);
}

impl Client for UnixStream {
    fn end_output(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Client for TcpStream {
    fn end_output(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

fn streams<T: Into<OwnedFd> + Client + 'static>((ours, theirs): (T, T)) -> (OwnedFd, Box<dyn Client>) {
    (ours.into(), Box::new(theirs))
}

#[test]
fn close_of_a_local_peer_is_a_break() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let reported = on_coroutine(move || wait_until(&waitable(ours), Readiness::is_broken));
    assert!(reported.is_hangup(), "{reported:?}");
}

#[test]
fn reset_during_the_wait_is_a_break() {
    start();
    let (ours, theirs) = tcp_pair();
    let (tell, told) = mpsc::channel();
    sys::spawn(move || {
        let ours = waitable(ours);
        // The first event is that the socket can be written to.
        report(&tell, ours.wait());
        report(&tell, wait_until(&ours, Readiness::is_broken));
    });
    next(&told);
    sys::reset_on_close(&theirs);
    drop(theirs);
    assert!(next(&told).is_hangup());
}

#[test]
fn data_before_the_hang_up_is_reported_and_read() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"last words").unwrap();
    drop(theirs);
    let (reported, read) = on_coroutine(move || {
        let ours = waitable(ours);
        (wait_until(&ours, Readiness::is_hangup), drain(&ours))
    });
    assert!(reported.is_readable(), "{reported:?}");
    assert_eq!(read, (b"last words".to_vec(), true));
}

#[test]
fn hang_up_after_unread_data_is_a_new_event() {
    start();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (tell, told) = mpsc::channel();
    sys::spawn(move || {
        let ours = waitable(ours);
        report(&tell, wait_until(&ours, Readiness::is_readable).is_hangup());
        report(&tell, wait_until(&ours, Readiness::is_hangup).is_hangup());
    });
    theirs.write_all(b"x").unwrap();
    assert!(!next(&told), "the peer is still there");
    drop(theirs);
    assert!(next(&told));
}

#[test]
fn descriptor_with_a_used_number_gets_its_own_events() {
    start();
    // Another test may get the number first.
    let reused = (0..1000).any(|_| {
        let (first, _writer) = quiet();
        let (number, stale) = (first.number(), first.waker());
        drop(first);
        let (second, mut writer) = quiet();
        if second.number() != number {
            return false;
        }
        // The waker of the first descriptor does not wake the second one.
        stale.wake_now();
        let (tell, told) = mpsc::channel();
        sys::spawn(move || report(&tell, second.wait()));
        writer.write_all(b"x").unwrap();
        assert!(next(&told).is_readable());
        true
    });
    assert!(reused, "no descriptor has got the number of an earlier one");
}

#[test]
fn descriptor_can_leave_the_runtime_and_return() {
    let read = on_coroutine(|| {
        let (first, mut writer) = quiet();
        let second = waitable(first.into_fd());
        writer.write_all(b"x").unwrap();
        second.wait().is_readable()
    });
    assert!(read);
}

/// Counts how many exist.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn sixteen_thousand_coroutines_wait_at_once() {
    const COUNT: usize = 16_000;
    start();
    let limit = sys::raise_descriptor_limit();
    assert!(limit > COUNT + 1000, "the process may open {limit} descriptors; run the test with `ulimit -Hn 20000`");
    let (reader, writer) = io::pipe().unwrap();
    let (tell, told) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    for _ in 0..COUNT {
        let (reader, tell, counted) = (reader.try_clone().unwrap(), tell.clone(), Counted::new(&waiting));
        sys::spawn(move || {
            let quiet = waitable(reader);
            report(&tell, false);
            let reported = quiet.wait();
            drop((quiet, counted));
            report(&tell, reported.is_hangup());
        });
    }
    assert!((0..COUNT).all(|_| !next(&told)), "each begins to wait");
    assert_eq!(waiting.load(Ordering::SeqCst), COUNT);
    drop(writer);
    assert!((0..COUNT).all(|_| next(&told)), "each sees the end of the pipe");
    assert_eq!(waiting.load(Ordering::SeqCst), 0);
}

#[test]
fn panic_ends_one_coroutine_and_drops_what_it_owns() {
    start();
    let running = Arc::new(AtomicUsize::new(0));
    let (tell, told) = mpsc::channel();
    let (survivor, mut wakes) = quiet();
    let counted = Counted::new(&running);
    sys::spawn(move || {
        report(&tell, survivor.wait());
        drop(counted);
    });
    for starts in [spawned, spawned_here] {
        let (ours, mut theirs) = tcp_pair();
        let counted = Counted::new(&running);
        let ours = waitable(ours);
        starts(Box::new(move || {
            let _owned = (ours, counted);
            panic!("a panic that the test has ordered");
        }));
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "its socket is closed");
    }
    // The dropped socket was the first of the two to be dropped, so the count is read on the runtime's thread.
    let its = Arc::clone(&running);
    assert_eq!(on_coroutine(move || its.load(Ordering::SeqCst)), 1);
    wakes.write_all(b"x").unwrap();
    assert!(next(&told).is_readable());
}

type Code = Box<dyn FnOnce() + Send>;

fn spawned(code: Code) {
    sys::spawn(code);
}

fn spawned_here(code: Code) {
    on_coroutine(move || sys::spawn_here(code).unwrap());
}

#[test]
fn coroutine_started_by_another_begins_at_once() {
    let record = on_coroutine(|| {
        let (quiet, mut writer) = quiet();
        let record = Arc::new(Mutex::new(Vec::new()));
        let its = Arc::clone(&record);
        sys::spawn_here(move || {
            its.lock().unwrap().push("begins");
            quiet.wait();
            its.lock().unwrap().push("goes on");
        })
        .unwrap();
        record.lock().unwrap().push("its parent goes on");
        writer.write_all(b"x").unwrap();
        record.lock().unwrap().clone()
    });
    assert_eq!(record, ["begins", "its parent goes on"]);
}

#[test]
fn every_coroutine_runs_on_the_thread_of_the_runtime() {
    fn told_by(starts: fn(Code)) -> [ThreadId; 2] {
        let (tell, told): (Sender<ThreadId>, _) = mpsc::channel();
        let (quiet, mut writer) = quiet();
        starts(Box::new(move || {
            report(&tell, thread::current().id());
            quiet.wait();
            report(&tell, thread::current().id());
        }));
        let before = next(&told);
        writer.write_all(b"x").unwrap();
        [before, next(&told)]
    }
    let runtime = on_coroutine(|| thread::current().id());
    assert_ne!(runtime, thread::current().id());
    for starts in [spawned, spawned_here, |code| sys::spawn_here(code).unwrap()] {
        assert_eq!(told_by(starts), [runtime; 2]);
    }
}

/// Starts coroutines that take turns: each records its name after each turn. Returns what they have recorded.
fn turns(of: &[(&'static str, TurnOf)], each: usize) -> Vec<&'static str> {
    let (tell, told) = mpsc::channel();
    let (count, of) = (of.len() * each, of.to_vec());
    on_coroutine(move || {
        for (name, kind) in of {
            let tell = tell.clone();
            sys::spawn_here(move || {
                let (quiet, writer) = quiet();
                let waker = quiet.waker();
                for _ in 0..each {
                    quiet.take_turn(&waker, kind);
                    report(&tell, name);
                }
                drop(writer);
            })
            .unwrap();
        }
    });
    (0..count).map(|_| next(&told)).collect()
}

#[test]
fn turns_come_in_the_order_of_asking() {
    let names = ["a", "b", "c", "d", "e"].map(|name| (name, TurnOf::One));
    assert_eq!(turns(&names, 3).concat(), "abcdeabcdeabcde");
}

#[test]
fn coroutine_of_many_connections_does_not_wait_behind_single_ones() {
    let mut names = vec![("one", TurnOf::One); 20];
    names.push(("many", TurnOf::Many));
    assert_eq!(turns(&names, 1)[0], "many");
}

#[test]
fn event_that_came_before_the_turn_is_reported_by_it() {
    let reported = on_coroutine(|| {
        let (quiet, mut writer) = quiet();
        writer.write_all(b"x").unwrap();
        quiet.take_turn(&quiet.waker(), TurnOf::One)
    });
    assert!(reported.is_readable(), "{reported:?}");
}

#[test]
fn event_is_served_while_others_take_turns() {
    start();
    let over = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    for kind in [TurnOf::One, TurnOf::One, TurnOf::Many] {
        let (over, tell) = (Arc::clone(&over), tell.clone());
        sys::spawn(move || {
            let (quiet, writer) = quiet();
            let waker = quiet.waker();
            report(&tell, "begins");
            while !over.load(Ordering::Relaxed) {
                quiet.take_turn(&waker, kind);
            }
            report(&tell, "ends");
            drop(writer);
        });
    }
    let (quiet, mut writer) = quiet();
    sys::spawn(move || {
        quiet.wait();
        over.store(true, Ordering::Relaxed);
    });
    assert!((0..3).all(|_| next(&told) == "begins"));
    writer.write_all(b"x").unwrap();
    assert!((0..3).all(|_| next(&told) == "ends"));
}

#[test]
fn timer_ends_a_wait_at_its_time_and_again_after_it_is_cleared() {
    const AFTER: Duration = Duration::from_millis(20);
    let waits = on_coroutine(|| {
        let (timer, waitable) = TimerFd::new().unwrap();
        let began = Instant::now();
        let waits = [Duration::from_secs(3600), AFTER, AFTER].map(|after| {
            timer.arm(after);
            // The first time is replaced before it comes.
            if after == AFTER {
                wait_until(&waitable, Readiness::is_readable);
                timer.clear();
            }
            began.elapsed()
        });
        waits.to_vec()
    });
    assert!(waits[0] < PATIENCE && waits[1] >= AFTER && waits[2] >= AFTER * 2, "{waits:?}");
}

#[test]
fn deferred_action_runs_once_after_a_batch() {
    const COUNT: usize = 10;
    let (tell, told) = mpsc::channel();
    start();
    let action = tell.clone();
    let deferred = Arc::new(Deferred::new(move || report(&action, "action")));
    for _ in 0..2 {
        let (tell, deferred) = (tell.clone(), Arc::clone(&deferred));
        on_coroutine(move || {
            let wakers: Vec<_> = (0..COUNT)
                .map(|_| {
                    let ((quiet, writer), deferred, tell) = (quiet(), Arc::clone(&deferred), tell.clone());
                    let waker = quiet.waker();
                    sys::spawn_here(move || {
                        quiet.wait();
                        deferred.ask();
                        report(&tell, "asks");
                        drop(writer);
                    })
                    .unwrap();
                    waker
                })
                .collect();
            wakers.iter().for_each(Waker::wake_here);
        });
        assert!((0..COUNT).all(|_| next(&told) == "asks"));
        assert_eq!(next(&told), "action");
    }
    drop((deferred, tell));
    // The action is dropped with its sender, so it has not run a third time, and its coroutine has ended.
    assert!(told.recv_timeout(PATIENCE).is_err_and(|error| error == mpsc::RecvTimeoutError::Disconnected));
}
