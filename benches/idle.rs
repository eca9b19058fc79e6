//! Measures an idle period: putting a connection into the idle set and getting it back. `cargo bench --bench idle`.
//!
//! Every connection has data to read, so it comes back as soon as the idle set looks. All work is done on the runtime's
//! thread, as in the server, so no other core has to be woken.
#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use maypole::idle::{Eviction, IdleSet, Slot};
use maypole::sys;

struct Resting {
    socket: UnixStream,
    /// The other side. It keeps the connection open and its data readable.
    _client: UnixStream,
    slot: Slot,
}

impl AsFd for Resting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn resting(set: &Arc<IdleSet<Box<Resting>>>) -> Resting {
    let (socket, mut client) = UnixStream::pair().unwrap();
    client.write_all(b"GET").unwrap();
    Resting { socket, _client: client, slot: set.slot() }
}

fn park_and_wake(criterion: &mut Criterion) {
    sys::start_runtime(64 << 10).unwrap();
    let (left, leaving) = may::sync::mpsc::channel();
    let leaving = Arc::new(leaving);
    let set = IdleSet::new(move |member, _| drop(left.send(member))).unwrap();
    let mut group = criterion.benchmark_group("park and wake");
    for count in [1_usize, 64, 256] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_custom(|rounds| {
                let (set, leaving) = (Arc::clone(&set), Arc::clone(&leaving));
                let (done, elapsed) = std::sync::mpsc::channel();
                sys::spawn(move || {
                    let mut members: Vec<_> = (0..count).map(|_| Box::new(resting(&set))).collect();
                    let start = Instant::now();
                    for _ in 0..rounds {
                        // Each round has another deadline, as with keep-alive.
                        let deadline = Instant::now() + Duration::from_secs(75);
                        for member in members.drain(..) {
                            let index = member.slot.index();
                            assert!(set.park(index, member, deadline, Eviction::Allowed).is_ok());
                        }
                        members.extend((0..count).map(|_| leaving.recv().unwrap()));
                    }
                    done.send(start.elapsed()).unwrap();
                });
                elapsed.recv().unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, park_and_wake);
criterion_main!(benches);
