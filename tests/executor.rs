//! Tests of the executor alone: calls that wait, compute or do almost nothing, and the number of threads that run them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::mpsc::{self, Receiver, Sender};

use pyo3::prelude::*;

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use maypole::executor::{Executor, Ran, Runner, Task};
use maypole::metrics::Numbers;
use maypole::sys::Lock;

const PATIENCE: Duration = Duration::from_secs(20);

enum Work {
    /// Return at once.
    Return,
    /// Wait without the GIL.
    Sleep(Duration),
    /// Compute with the GIL, which is released only at the interpreter's own switches.
    Compute(Duration),
    /// Hold the GIL for 1 ms, then wait for 5 ms without it.
    ComputeAndSleep,
    Panic,
    /// Wait without the GIL for the way in which the call ends.
    UntilTold(Receiver<Ran>),
}

/// The number of calls that compute now. `PEAK` is the highest number so far.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Call(Work, Sender<thread::ThreadId>);

struct Python3(Py<PyAny>);

impl Task for Call {
    fn still_waits(&self, _: Instant) -> bool {
        true
    }
}

impl Runner<Call> for Python3 {
    fn run(&mut self, py: Python<'_>, call: Call, _: &mut Instant) -> Ran {
        match call.0 {
            Work::Return => {}
            Work::Sleep(time) => drop(self.0.call1(py, (time.as_secs_f64(),)).unwrap()),
            Work::Compute(time) => {
                PEAK.fetch_max(INSIDE.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                compute(py, time);
                INSIDE.fetch_sub(1, Ordering::SeqCst);
            }
            Work::ComputeAndSleep => {
                compute(py, Duration::from_millis(1));
                self.0.call1(py, (0.005,)).unwrap();
            }
            Work::Panic => panic!("as the test wants it"),
            Work::UntilTold(told) => {
                let ran = py.detach(move || told.recv_timeout(PATIENCE)).unwrap();
                let _ = call.1.send(thread::current().id());
                return ran;
            }
        }
        // An error means that the test is over.
        let _ = call.1.send(thread::current().id());
        Ran::Ended
    }
}

fn compute(py: Python<'_>, time: Duration) {
    let code = c"import time\nend = time.monotonic() + seconds\nwhile time.monotonic() < end: pass\n";
    let names = pyo3::types::PyDict::new(py);
    names.set_item("seconds", time.as_secs_f64()).unwrap();
    py.run(code, Some(&names), None).unwrap();
}

/// Returns the number of executor threads in this process.
fn executor_threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
    names.filter(|name| std::fs::read_to_string(name).unwrap_or_default().starts_with("maypole-exec")).count()
}

fn executor(threads_max: usize) -> Executor<Call> {
    maypole::interpreter::start(&["maypole".to_owned()]).unwrap();
    let make = |py: Python<'_>, _: &str| -> Box<dyn Runner<Call>> {
        Box::new(Python3(py.import("time").unwrap().getattr("sleep").unwrap().unbind()))
    };
    Executor::start(threads_max, Box::new(make), Box::new(|_| false)).unwrap()
}

fn numbers(executor: &Executor<Call>) -> Numbers {
    let mut numbers = Numbers::default();
    executor.measure(&mut numbers);
    numbers
}

/// Has the executor do all the work. Returns the number of threads that did it, and the time it took.
fn run(executor: &Executor<Call>, work: impl IntoIterator<Item = Work>) -> (usize, Duration) {
    let (done, wait) = mpsc::channel();
    let began = Instant::now();
    let mut calls = 0;
    for work in work {
        executor.submit(Call(work, done.clone()));
        calls += 1;
    }
    let threads: HashSet<_> = (0..calls).map(|_| wait.recv_timeout(PATIENCE).unwrap()).collect();
    (threads.len(), began.elapsed())
}

/// Lets one test run at a time, because all tests share one GIL.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Lock<()> = Lock::new(());
    ALONE.lock()
}

#[test]
fn trivial_calls_stay_on_few_threads() {
    let _alone = alone();
    // Other tests in this process use the GIL meanwhile, so the best of several rounds counts.
    let rounds = (0..20).map(|_| run(&executor(16), (0..5_000).map(|_| Work::Return)).0);
    assert!(rounds.into_iter().any(|threads| threads <= 2));
}

#[test]
fn sleeping_calls_get_a_thread_each() {
    let _alone = alone();
    let sleep = Duration::from_millis(500);
    // Other processes may use the processors, so the best of several rounds counts.
    let mut rounds = (0..6).map(|_| run(&executor(64), (0..32).map(|_| Work::Sleep(sleep))));
    assert!(rounds.any(|(threads, took)| threads > 16 && took < sleep * 3));
}

#[test]
fn sleeping_calls_stay_within_the_cap() {
    let _alone = alone();
    let executor = executor(4);
    let (threads, _) = run(&executor, (0..16).map(|_| Work::Sleep(Duration::from_millis(50))));
    assert!(threads <= 4 && numbers(&executor).threads <= 4, "{threads}, {executor:?}");
}

#[test]
fn cap_of_one_serves_in_order() {
    let _alone = alone();
    let executor = executor(1);
    let (threads, took) = run(&executor, (0..5).map(|_| Work::Sleep(Duration::from_millis(20))));
    assert_eq!(threads, 1);
    assert!(took >= Duration::from_millis(100));
}

#[test]
fn computing_calls_stay_on_few_threads() {
    let _alone = alone();
    // A standby thread may find the GIL free by chance, if it checks at a switch. Other tests in this process cause
    // switches too, so the best of several rounds counts.
    let mut peaks = (0..10).map(|_| {
        PEAK.store(0, Ordering::SeqCst);
        run(&executor(16), (0..60).map(|_| Work::Compute(Duration::from_millis(5))));
        PEAK.load(Ordering::SeqCst)
    });
    assert!(peaks.any(|peak| peak <= 2));
}

#[test]
fn calls_that_compute_and_sleep_overlap() {
    let _alone = alone();
    let time = |threads, calls| run(&executor(threads), (0..calls).map(|_| Work::ComputeAndSleep)).1;
    // Other processes may use the processors, so that the computing takes longer, and the best of several rounds counts.
    let half_of_the_sleep = Duration::from_millis(300 * 5 / 2);
    let mut rounds = (0..6).map(|_| (3 * time(1, 100), time(64, 300)));
    assert!(rounds.any(|(in_sequence, took)| took + half_of_the_sleep < in_sequence));
}

#[test]
fn one_sleeper_in_a_hundred_does_not_stall_the_others() {
    let _alone = alone();
    let work = |number| if number % 100 == 0 { Work::Sleep(Duration::from_millis(200)) } else { Work::Return };
    // In sequence the sleeping calls would take 4 s. Other processes may use the processors, so the best of several
    // rounds counts.
    let mut rounds = (0..6).map(|_| run(&executor(64), (0..2000).map(work)).1);
    assert!(rounds.any(|took| took < Duration::from_millis(1500)));
}

#[test]
fn call_submitted_to_a_resting_executor_is_run() {
    let _alone = alone();
    let executor = executor(4);
    for _ in 0..200 {
        let (_, took) = run(&executor, [Work::Return]);
        assert!(took < PATIENCE);
    }
}

#[test]
fn call_that_panics_leaves_the_executor_whole() {
    let _alone = alone();
    let executor = executor(1);
    let (done, _wait) = mpsc::channel();
    executor.submit(Call(Work::Panic, done));
    run(&executor, [Work::Return]);
}

/// Submits a call that runs until the sender says how it ends, and waits until it runs.
fn begin_long_call(executor: &Executor<Call>, done: &Sender<thread::ThreadId>) -> Sender<Ran> {
    let (tell, told) = mpsc::channel();
    wait_for(executor, |numbers| numbers.threads_running == 0);
    executor.submit(Call(Work::UntilTold(told), done.clone()));
    wait_for(executor, |numbers| numbers.threads_running == 1 && numbers.queued == 0);
    tell
}

fn wait_for(executor: &Executor<Call>, holds: impl Fn(&Numbers) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(&numbers(executor)) {
        assert!(Instant::now() < end, "{executor:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn thread_that_is_given_up_is_replaced_and_ends_after_its_call() {
    let _alone = alone();
    let executor = executor(1);
    let (done, wait) = mpsc::channel();
    let first = begin_long_call(&executor, &done);
    assert!(executor.give_up());
    assert_eq!(numbers(&executor).threads_given_up, 1);
    let (threads, _) = run(&executor, (0..3).map(|_| Work::Return));
    assert_eq!((threads, numbers(&executor).threads), (1, 1));
    // The budget of one thread is spent.
    let second = begin_long_call(&executor, &done);
    assert!(!executor.give_up());
    assert_eq!((numbers(&executor).threads_overdue, numbers(&executor).threads_running), (1, 1));
    first.send(Ran::GivenUp).unwrap();
    let given_up = wait.recv_timeout(PATIENCE).unwrap();
    wait_for(&executor, |numbers| numbers.threads_given_up == 0);
    executor.overdue_ended();
    second.send(Ran::Ended).unwrap();
    assert_ne!(wait.recv_timeout(PATIENCE).unwrap(), given_up);
    run(&executor, [Work::Return]);
    assert!(executor.shut_down(PATIENCE));
}

#[test]
fn thread_that_is_given_up_stays_if_none_has_taken_its_place() {
    let _alone = alone();
    let executor = executor(1);
    let (done, wait) = mpsc::channel();
    let call = begin_long_call(&executor, &done);
    assert!(executor.give_up());
    call.send(Ran::GivenUp).unwrap();
    let thread = wait.recv_timeout(PATIENCE).unwrap();
    wait_for(&executor, |numbers| numbers.threads_given_up == 0);
    executor.submit(Call(Work::Return, done));
    assert_eq!(wait.recv_timeout(PATIENCE).unwrap(), thread);
    assert!(executor.shut_down(PATIENCE));
}

#[test]
fn shut_down_does_not_wait_longer_than_its_timeout_for_a_thread_that_is_given_up() {
    let _alone = alone();
    let executor = executor(1);
    let (done, wait) = mpsc::channel();
    let call = begin_long_call(&executor, &done);
    assert!(executor.give_up());
    assert!(!executor.shut_down(Duration::from_millis(1)));
    call.send(Ran::GivenUp).unwrap();
    wait.recv_timeout(PATIENCE).unwrap();
    assert!(executor.shut_down(PATIENCE));
}

#[test]
fn dropped_executor_ends_its_threads() {
    let _alone = alone();
    let executor = executor(8);
    run(&executor, (0..4).map(|_| Work::Sleep(Duration::from_millis(50))));
    let (done, wait) = mpsc::channel();
    executor.submit(Call(Work::Sleep(Duration::from_millis(200)), done));
    let end = Instant::now() + PATIENCE;
    while numbers(&executor).threads_running == 0 {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
    drop(executor);
    wait.recv_timeout(PATIENCE).unwrap();
    while executor_threads() > 0 {
        assert!(Instant::now() < end, "threads live on");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn shut_down_ends_with_the_last_thread_and_not_at_its_timeout() {
    let _alone = alone();
    for round in 0..20 {
        let executor = executor(4);
        run(&executor, (0..4).map(|_| Work::Sleep(Duration::from_millis(1))));
        let began = Instant::now();
        assert!(executor.shut_down(PATIENCE), "round {round}");
        assert!(began.elapsed() < PATIENCE / 2, "round {round}");
        assert_eq!(numbers(&executor).threads, 0);
    }
}

#[test]
fn shut_down_waits_for_a_call_that_runs_until_its_timeout() {
    let _alone = alone();
    let executor = executor(1);
    let (done, wait) = mpsc::channel();
    run(&executor, [Work::Return]);
    executor.submit(Call(Work::Sleep(Duration::from_millis(300)), done));
    let end = Instant::now() + PATIENCE;
    while numbers(&executor).queued > 0 {
        assert!(Instant::now() < end);
        thread::yield_now();
    }
    assert!(!executor.shut_down(Duration::ZERO));
    let began = Instant::now();
    assert!(executor.shut_down(PATIENCE));
    assert!(wait.try_recv().is_ok(), "the call has ended");
    assert!(began.elapsed() < PATIENCE / 2);
}

#[test]
fn shut_down_right_after_a_call_was_submitted_ends_all_the_same() {
    let _alone = alone();
    for round in 0..20 {
        let executor = executor(1);
        let (done, _wait) = mpsc::channel();
        executor.submit(Call(Work::Return, done));
        let began = Instant::now();
        assert!(executor.shut_down(PATIENCE), "round {round}");
        assert!(began.elapsed() < PATIENCE / 2, "round {round}");
    }
}

#[test]
fn work_that_comes_after_the_end_is_run_by_a_thread_that_ends_again() {
    let _alone = alone();
    for round in 0..20 {
        let executor = executor(1);
        run(&executor, [Work::Return]);
        assert!(executor.shut_down(PATIENCE), "round {round}");
        let (done, wait) = mpsc::channel();
        for submit in [Executor::submit_at_any_time, Executor::submit_now, Executor::submit_step] {
            submit(&executor, Call(Work::Return, done.clone()));
        }
        for _ in 0..3 {
            assert_ne!(wait.recv_timeout(PATIENCE).unwrap(), thread::current().id());
        }
        assert!(executor.shut_down(PATIENCE), "round {round}");
        let numbers = numbers(&executor);
        assert_eq!((numbers.queued, numbers.threads, numbers.threads_running), (0, 0, 0), "round {round}");
    }
}

#[test]
fn work_that_is_queued_while_the_threads_end_is_run() {
    let _alone = alone();
    for round in 0..50 {
        let executor = executor(2);
        run(&executor, [Work::Return]);
        let (done, wait) = mpsc::channel();
        thread::scope(|scope| {
            let submitting = scope.spawn(|| {
                for _ in 0..20 {
                    executor.submit_step(Call(Work::Return, done.clone()));
                }
            });
            executor.shut_down(PATIENCE);
            submitting.join().unwrap();
        });
        for _ in 0..20 {
            wait.recv_timeout(PATIENCE).unwrap();
        }
        assert!(executor.shut_down(PATIENCE), "round {round}");
        assert_eq!((numbers(&executor).queued, executor_threads()), (0, 0), "round {round}");
    }
}

#[test]
fn shut_down_does_not_wait_longer_than_its_timeout_for_work_that_came_late() {
    let _alone = alone();
    let executor = executor(1);
    run(&executor, [Work::Return]);
    assert!(executor.shut_down(PATIENCE));
    let ((tell, told), (done, wait)) = (mpsc::channel(), mpsc::channel());
    executor.submit_step(Call(Work::UntilTold(told), done));
    assert!(!executor.shut_down(Duration::from_millis(1)));
    tell.send(Ran::Ended).unwrap();
    wait.recv_timeout(PATIENCE).unwrap();
    assert!(executor.shut_down(PATIENCE));
}
