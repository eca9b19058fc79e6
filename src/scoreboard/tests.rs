//! Slots and rows, read through a second mapping as another process does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::metrics::Count;

/// Returns a scoreboard, and the same one as another process sees it.
fn boards() -> (Scoreboard, Scoreboard) {
    let one = Scoreboard::create().unwrap();
    let other = Scoreboard::open(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
    (one, other)
}

#[test]
fn slot_is_read_in_another_process() {
    let (worker, supervisor) = boards();
    let slot = worker.slot(SLOTS - 1);
    slot.enter(4711, 3, 7);
    slot.set_connections(5);
    slot.set_requests(2);
    slot.set_calls(4);
    slot.set_begun(1);
    let seen = supervisor.slot(SLOTS - 1);
    assert_eq!((seen.pid(), seen.number(), seen.generation(), seen.state()), (4711, 3, 7, State::Starting));
    assert_eq!((seen.connections(), seen.requests(), seen.calls(), seen.begun()), (5, 2, 4, 1));
    assert_eq!((seen.runtime_tick(), seen.gil_tick(), seen.gil_sought()), (None, None, None));
    slot.set_state(State::Serving);
    slot.tick_runtime();
    assert_eq!(seen.state(), State::Serving);
    assert!(seen.runtime_tick().is_some());
    assert_eq!(supervisor.slots().count(), SLOTS);
    assert_eq!(supervisor.serving(), 1);
}

#[test]
fn slot_that_was_left_is_empty() {
    let (worker, supervisor) = boards();
    let slot = worker.slot(0);
    slot.enter(4711, 1, 1);
    slot.set_connections(5);
    assert!(slot.note_request(0, Instant::now(), b"GET / HTTP/1.1", b"").is_some());
    supervisor.slot(0).leave();
    assert_eq!((slot.pid(), slot.connections(), slot.state()), (0, 0, State::Empty));
    assert!(slot.requests_inside().is_empty());
}

#[test]
fn slot_is_stuck_only_while_a_thread_waits_for_the_gil() {
    let (worker, supervisor) = boards();
    let (slot, seen) = (worker.slot(0), supervisor.slot(0));
    slot.enter(4711, 1, 1);
    assert!(!seen.is_stuck());
    slot.seek_gil();
    assert!(seen.gil_sought().is_some());
    while !seen.is_stuck() {
        std::thread::yield_now();
    }
    slot.tick_gil();
    assert!(!seen.is_stuck() && seen.responds());
    assert!(seen.gil_tick().is_some());
}

#[test]
fn requests_inside_are_read_after_their_process_has_gone() {
    let (worker, supervisor) = boards();
    let slot = worker.slot(9);
    let now = Instant::now();
    let long = [b'a'; 500];
    let new = slot.note_request(1, now, b"GET /new HTTP/1.1", b"").unwrap();
    slot.note_request(2, now.checked_sub(Duration::from_secs(5)).unwrap(), &long, &[b'i'; 100]).unwrap();
    let same =
        slot.note_request(2, now.checked_sub(Duration::from_secs(3)).unwrap(), b"POST /same", b"019ac21e-id").unwrap();
    let seen = || supervisor.slot(9).requests_inside();
    let lines: Vec<_> = seen().into_iter().map(|request| (request.thread, request.line)).collect();
    let expected = [(2, long[..112].to_vec()), (2, b"POST /same".to_vec()), (1, b"GET /new HTTP/1.1".to_vec())];
    assert_eq!(lines, expected);
    let ids: Vec<_> = seen().into_iter().map(|request| request.id).collect();
    assert_eq!(ids, [vec![b'i'; 64], b"019ac21e-id".to_vec(), Vec::new()]);
    assert!((5..60).contains(&seen()[0].age.as_secs()));
    slot.forget_request(same);
    slot.forget_request(new);
    assert_eq!(seen().len(), 1);
    drop((worker, slot));
    assert_eq!(seen().len(), 1);
}

#[test]
fn request_without_a_free_row_is_not_noted() {
    let (worker, _) = boards();
    let slot = worker.slot(0);
    let rows: Vec<_> = (0..8).map(|_| slot.note_request(300, Instant::now(), b"GET /", b"").unwrap()).collect();
    assert!(slot.note_request(300, Instant::now(), b"GET /", b"").is_none());
    for row in rows {
        slot.forget_request(row);
    }
    assert!(slot.note_request(300, Instant::now(), b"GET /", b"").is_some());
}

#[test]
fn memory_of_another_layout_is_refused() {
    let (one, _) = boards();
    one.header(AT_LAYOUT).store(1, Ordering::SeqCst);
    assert!(Scoreboard::open(one.as_fd().try_clone_to_owned().unwrap()).is_err());
}

#[test]
fn sums_never_fall_while_counts_move() {
    let (worker, supervisor) = boards();
    let slot = worker.slot(0);
    let ends = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                slot.enter(4711, 1, 1);
                slot.meters().count(Count::Accepted, 5);
                slot.leave();
            }
            ends.store(true, Ordering::SeqCst);
        });
        let mut before = 0;
        while !ends.load(Ordering::SeqCst) {
            let accepted = supervisor.sums().count(Count::Accepted);
            assert!(accepted >= before && accepted.is_multiple_of(5), "{accepted} after {before}");
            before = accepted;
        }
    });
    assert_eq!(supervisor.sums().count(Count::Accepted), 10_000);
}
