//! Compares the executor with fixed pools of threads, without sockets:
//! `cargo bench --bench pools [-- --quick] [LOAD...]`.
//!
//! The threads of a fixed pool share one queue. They stay attached to Python, and release the GIL only to wait for
//! calls. Calls arrive and replies leave as with the executor, so only the policy differs. Each load keeps a fixed
//! number of calls outstanding. The pools and the executor take turns. The program prints the pool with the best
//! median, the executor's median, and the median of the rounds' ratios of the two.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;
use maypole::executor::{Executor, Ran, Runner, Task};
use maypole::metrics::Numbers;
use maypole::sys::{self, Deferred, Waitable, Waker};
use pyo3::prelude::*;

/// The most threads of a server.
const THREADS_MAX: usize = 1000;
/// Replies wake their coroutines in groups of this size if calls are shorter than …
const FLUSH_EVERY: u32 = 16;
/// … this on average, in nanoseconds, as in the executor.
const SHORT_CALL_NANOS: u64 = 30_000;

struct Load {
    name: &'static str,
    /// One call computes for `compute`. One of `sleeps_one_in` calls then sleeps for `sleep`.
    compute: Duration,
    sleep: Duration,
    sleeps_one_in: u64,
    outstanding: usize,
    /// The pool sizes that are tried.
    sizes: &'static [usize],
}

const LOADS: [Load; 6] = [
    Load {
        name: "hello",
        compute: Duration::ZERO,
        sleep: Duration::ZERO,
        sleeps_one_in: 1,
        outstanding: 64,
        sizes: &[1, 2, 4],
    },
    Load {
        name: "sleep-10ms",
        compute: Duration::ZERO,
        sleep: Duration::from_millis(10),
        sleeps_one_in: 1,
        outstanding: 256,
        sizes: &[64, 128, 192, 256],
    },
    Load {
        name: "cpu-1ms-sleep-5ms",
        compute: Duration::from_millis(1),
        sleep: Duration::from_millis(5),
        sleeps_one_in: 1,
        outstanding: 64,
        sizes: &[4, 6, 8, 16, 32, 64],
    },
    Load {
        name: "cpu-20us-sleep-200us",
        compute: Duration::from_micros(20),
        sleep: Duration::from_micros(200),
        sleeps_one_in: 1,
        outstanding: 64,
        sizes: &[4, 8, 12, 16, 32, 64],
    },
    Load {
        name: "hello-1-in-1000-sleeps-50ms",
        compute: Duration::ZERO,
        sleep: Duration::from_millis(50),
        sleeps_one_in: 1000,
        outstanding: 64,
        sizes: &[8, 16, 32, 48, 64],
    },
    Load {
        name: "cpu-20ms",
        compute: Duration::from_millis(20),
        sleep: Duration::ZERO,
        sleeps_one_in: 1,
        outstanding: 32,
        sizes: &[1, 2, 4],
    },
];

/// The receiver of a reply.
struct Reply {
    is_there: AtomicBool,
    waker: Waker,
}

struct Call(Arc<Reply>);

impl Task for Call {
    fn still_waits(&self, _: Instant) -> bool {
        true
    }
}

/// Calls the load's function.
struct Application(Py<PyAny>);

impl Runner<Call> for Application {
    fn run(&mut self, py: Python<'_>, call: Call, _: &mut Instant) -> Ran {
        drop(self.0.call0(py).unwrap());
        call.0.is_there.store(true, Ordering::Release);
        call.0.waker.wake_later();
        Ran::Ended
    }
}

/// The executor or a fixed pool.
trait Contender: Send + Sync {
    fn submit(&self, call: Call);
    fn threads(&self) -> usize;
}

impl Contender for Executor<Call> {
    fn submit(&self, call: Call) {
        Executor::submit(self, call);
    }

    fn threads(&self) -> usize {
        let mut numbers = Numbers::default();
        self.measure(&mut numbers);
        numbers.threads
    }
}

struct FixedPool {
    shared: Arc<Fixed>,
    size: usize,
    kick: Deferred,
}

struct Fixed {
    queue: SegQueue<Call>,
    idle: Mutex<Vec<Thread>>,
    average_nanos: AtomicU64,
}

impl FixedPool {
    fn start(size: usize, function: &Py<PyAny>) -> Self {
        let shared =
            Arc::new(Fixed { queue: SegQueue::new(), idle: Mutex::default(), average_nanos: AtomicU64::new(0) });
        for _ in 0..size {
            let shared = Arc::clone(&shared);
            let function = Python::attach(|py| function.clone_ref(py));
            thread::spawn(move || Python::attach(|py| shared.live(py, &mut Application(function))));
        }
        let kicked = Arc::clone(&shared);
        Self { shared, size, kick: Deferred::new(move || kicked.kick()) }
    }
}

impl Contender for FixedPool {
    fn submit(&self, call: Call) {
        self.shared.queue.push(call);
        self.kick.ask();
    }

    fn threads(&self) -> usize {
        self.size
    }
}

impl Fixed {
    /// Wakes as many threads as there are calls.
    fn kick(&self) {
        fence(Ordering::SeqCst);
        let calls = self.queue.len();
        if calls > 0 {
            let mut idle = self.idle.lock().unwrap();
            let stay = idle.len().saturating_sub(calls);
            for thread in idle.drain(stay..) {
                thread.unpark();
            }
        }
    }

    fn live(&self, py: Python<'_>, application: &mut Application) -> ! {
        loop {
            let (mut batch, mut began) = (0, Instant::now());
            while let Some(call) = self.queue.pop() {
                application.run(py, call, &mut Instant::now());
                batch += 1;
                let average = self.average_nanos.load(Ordering::Relaxed);
                if batch >= FLUSH_EVERY || average == 0 || average > SHORT_CALL_NANOS {
                    sys::flush_wakes();
                    let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap() / u64::from(batch);
                    let moved = if average == 0 { nanos } else { average - average / 8 + nanos / 8 };
                    self.average_nanos.store(moved.max(1), Ordering::Relaxed);
                    (batch, began) = (0, Instant::now());
                }
            }
            sys::flush_wakes();
            py.detach(|| {
                let me = thread::current();
                self.idle.lock().unwrap().push(me.clone());
                fence(Ordering::SeqCst);
                if self.queue.is_empty() {
                    thread::park();
                }
                // The thread may have been woken without a call.
                self.idle.lock().unwrap().retain(|thread| thread.id() != me.id());
            });
        }
    }
}

/// Drives the contender with a closed loop. Returns its calls per second, measured after a third of the time.
fn drive(contender: &Arc<dyn Contender>, outstanding: usize, time: Duration) -> f64 {
    let completed = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let running = Arc::new(AtomicUsize::new(outstanding));
    let (done, end) = std::sync::mpsc::channel();
    for _ in 0..outstanding {
        let (socket, client) = UnixStream::pair().unwrap();
        let waitable = Waitable::new(OwnedFd::from(socket)).unwrap();
        let (contender, completed, stop) = (Arc::clone(contender), Arc::clone(&completed), Arc::clone(&stop));
        let (running, done) = (Arc::clone(&running), done.clone());
        sys::spawn(move || {
            let _client = client;
            let reply = Arc::new(Reply { is_there: AtomicBool::new(false), waker: waitable.waker() });
            while !stop.load(Ordering::Relaxed) {
                contender.submit(Call(Arc::clone(&reply)));
                while !reply.is_there.swap(false, Ordering::Acquire) {
                    waitable.wait();
                }
                completed.fetch_add(1, Ordering::Relaxed);
            }
            if running.fetch_sub(1, Ordering::AcqRel) == 1 {
                done.send(()).unwrap();
            }
        });
    }
    thread::sleep(time / 3);
    let (before, began) = (completed.load(Ordering::Relaxed), Instant::now());
    thread::sleep(time / 3 * 2);
    let (after, took) = (completed.load(Ordering::Relaxed), began.elapsed());
    stop.store(true, Ordering::Relaxed);
    end.recv().unwrap();
    #[allow(clippy::cast_precision_loss, reason = "the number of calls is small")]
    let calls = (after - before) as f64;
    calls / took.as_secs_f64()
}

/// The Python code of a call.
const CODE: &std::ffi::CStr = c"
import time

def spin(n):
    x = 0
    for i in range(n):
        x += i & 7
    return x

def calibrate():
    times = []
    for _ in range(50):
        start = time.perf_counter()
        spin(10000)
        times.append(time.perf_counter() - start)
    return 10000 / sorted(times)[10]

PER_SECOND = calibrate()

def make(compute, seconds, one_in):
    n = int(compute * PER_SECOND)
    calls = 0
    def hello():
        pass
    def call():
        nonlocal calls
        if n:
            spin(n)
        if one_in > 1:
            calls += 1
            if calls % one_in:
                return
        if seconds:
            time.sleep(seconds)
    return call if n or seconds else hello
";

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let quick = words.iter().any(|word| word == "--quick");
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let (rounds, time) = if quick { (2, Duration::from_millis(400)) } else { (7, Duration::from_millis(600)) };
    maypole::interpreter::start(&["bench".to_owned()]).unwrap();
    sys::start_runtime(64 << 10).unwrap();
    let module = Python::attach(|py| PyModule::from_code(py, CODE, c"load.py", c"load").unwrap().unbind());
    println!(
        "{:28} {:>6} {:>10} {:>10} {:>7} {:>6}  all pools",
        "load", "pool", "calls/s", "executor", "threads", "ratio"
    );
    for load in LOADS.iter().filter(|load| wanted.is_empty() || wanted.iter().any(|word| load.name == *word)) {
        let function = Python::attach(|py| {
            let arguments = (load.compute.as_secs_f64(), load.sleep.as_secs_f64(), load.sleeps_one_in);
            module.call_method1(py, "make", arguments).unwrap()
        });
        let for_executor = Python::attach(|py| function.clone_ref(py));
        let make = move |py: Python<'_>, _: &str| -> Box<dyn Runner<Call>> {
            Box::new(Application(for_executor.clone_ref(py)))
        };
        let executor = Executor::start(THREADS_MAX, Box::new(make), Box::new(|_| false)).unwrap();
        let mut contenders: Vec<Arc<dyn Contender>> = vec![Arc::new(executor)];
        for size in load.sizes {
            contenders.push(Arc::new(FixedPool::start(*size, &function)));
        }
        let mut rates = vec![Vec::new(); contenders.len()];
        for _ in 0..rounds {
            for (contender, rates) in contenders.iter().zip(&mut rates) {
                rates.push(drive(contender, load.outstanding, time));
            }
        }
        let medians: Vec<f64> = rates.iter().map(|rates| median(rates)).collect();
        let best = (1..medians.len()).max_by(|a, b| medians[*a].total_cmp(&medians[*b])).unwrap();
        let ratios: Vec<f64> = rates[0].iter().zip(&rates[best]).map(|(ours, pool)| ours / pool).collect();
        let all: Vec<String> = contenders
            .iter()
            .zip(&medians)
            .skip(1)
            .map(|(pool, rate)| format!("{}: {rate:.0}", pool.threads()))
            .collect();
        println!(
            "{:28} {:>6} {:>10.0} {:>10.0} {:>7} {:>6.2}  {}",
            load.name,
            contenders[best].threads(),
            medians[best],
            medians[0],
            contenders[0].threads(),
            median(&ratios),
            all.join(", ")
        );
    }
    // The pools' threads never end.
    std::process::exit(0);
}
