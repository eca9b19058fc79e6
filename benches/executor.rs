//! Measures the hand-over to a thread that holds the GIL and back, with an empty call: `cargo bench --bench executor`.
//!
//! Each of N coroutines submits a call, waits for its reply, and submits the next one, as busy connections do. The time
//! is that of one round of all coroutines. With one coroutine it is mostly the time to wake a halted core.
#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use maypole::executor::{Executor, Ran, Runner, Task};
use maypole::sys::{self, Waitable, Waker};
use pyo3::Python;

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

struct NoOperation;

impl Runner<Call> for NoOperation {
    fn run(&mut self, _: Python<'_>, call: Call, _: &mut Instant) -> Ran {
        call.0.is_there.store(true, Ordering::Release);
        call.0.waker.wake_later();
        Ran::Ended
    }
}

/// Makes a descriptor to wait for. The caller keeps its other side open.
fn waitable() -> (Waitable, UnixStream) {
    let (socket, client) = UnixStream::pair().unwrap();
    (Waitable::new(OwnedFd::from(socket)).unwrap(), client)
}

fn hand_over(criterion: &mut Criterion) {
    Python::initialize();
    sys::start_runtime(64 << 10).unwrap();
    let executor = Arc::new(Executor::start(4, Box::new(|_, _| Box::new(NoOperation)), Box::new(|_| false)).unwrap());
    let mut group = criterion.benchmark_group("hand over and reply");
    for count in [1_usize, 8, 64] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_custom(|rounds| {
                let waitables: Vec<_> = (0..count).map(|_| waitable()).collect();
                let running = Arc::new(AtomicUsize::new(count));
                let (done, end) = std::sync::mpsc::channel();
                let start = Instant::now();
                for (waitable, client) in waitables {
                    let (executor, running, done) = (Arc::clone(&executor), Arc::clone(&running), done.clone());
                    sys::spawn(move || {
                        let _client = client;
                        let reply = Arc::new(Reply { is_there: AtomicBool::new(false), waker: waitable.waker() });
                        for _ in 0..rounds {
                            executor.submit(Call(Arc::clone(&reply)));
                            while !reply.is_there.swap(false, Ordering::Acquire) {
                                waitable.wait();
                            }
                        }
                        if running.fetch_sub(1, Ordering::AcqRel) == 1 {
                            done.send(Instant::now()).unwrap();
                        }
                    });
                }
                end.recv().unwrap() - start
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hand_over);
criterion_main!(benches);
