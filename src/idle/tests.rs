//! Tests of the set with sockets: what leaves it, in which order, and when.

use super::*;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};

const PATIENCE: Duration = Duration::from_secs(10);

struct Kept {
    stream: UnixStream,
    slot: Slot,
    set: Arc<IdleSet<Kept>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.set.give_back(&self.slot);
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn idle_set() -> (Arc<IdleSet<Kept>>, Receiver<(Kept, Reason)>) {
    let (left, leaving) = mpsc::channel();
    // An error means that the test has ended.
    let set = IdleSet::new(move |kept, reason| drop(left.send((kept, reason)))).unwrap();
    (set, leaving)
}

fn keep(set: &Arc<IdleSet<Kept>>, deadline: Duration) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    park(set, Kept { stream: ours, slot: set.slot(), set: Arc::clone(set) }, deadline);
    theirs
}

fn park(set: &IdleSet<Kept>, kept: Kept, deadline: Duration) {
    let index = kept.slot.index();
    assert!(set.park(index, kept, Instant::now() + deadline, Eviction::Allowed).is_ok());
}

#[test]
fn readable_leaves_and_can_be_parked_again() {
    let (set, leaving) = idle_set();
    let mut theirs = keep(&set, PATIENCE);
    for _ in 0..3 {
        assert_eq!(set.len(), 1);
        theirs.write_all(b"x").unwrap();
        let (mut kept, reason) = leaving.recv_timeout(PATIENCE).unwrap();
        assert_eq!(reason, Reason::Readable);
        assert!(set.is_empty());
        std::io::Read::read_exact(&mut kept.stream, &mut [0]).unwrap();
        park(&set, kept, PATIENCE);
    }
}

#[test]
fn unwatched_is_out_of_the_set_and_can_be_parked_again() {
    let (set, leaving) = idle_set();
    let mut theirs = keep(&set, PATIENCE);
    theirs.write_all(b"x").unwrap();
    let (kept, _) = leaving.recv_timeout(PATIENCE).unwrap();
    set.unwatch(&kept.slot, &kept);
    assert!(!set.state.lock().slots.get_mut(0).unwrap().registered);
    // A descriptor that was still in the set could not be added again.
    park(&set, kept, PATIENCE);
    assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Readable);
}

#[test]
fn readable_before_it_is_parked_leaves_at_once() {
    let (set, leaving) = idle_set();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    park(&set, Kept { stream: ours, slot: set.slot(), set: Arc::clone(&set) }, PATIENCE);
    assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Readable);
}

#[test]
fn hang_up_counts_as_readable() {
    let (set, leaving) = idle_set();
    drop(keep(&set, PATIENCE));
    assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Readable);
}

#[test]
fn deadlines_pass_in_their_order_and_not_early() {
    let (set, leaving) = idle_set();
    let began = Instant::now();
    let late = keep(&set, Duration::from_millis(200));
    let early = keep(&set, Duration::from_millis(100));
    for (stream, after) in [(early, 100), (late, 200)] {
        let (kept, reason) = leaving.recv_timeout(PATIENCE).unwrap();
        assert_eq!(reason, Reason::Expired);
        assert!(began.elapsed() >= Duration::from_millis(after));
        drop(kept);
        let mut stream = stream;
        assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0, "the right one was closed");
    }
}

#[test]
fn deadline_of_an_earlier_stay_means_nothing() {
    let (set, leaving) = idle_set();
    let mut theirs = keep(&set, Duration::from_millis(100));
    theirs.write_all(b"x").unwrap();
    let (mut kept, _) = leaving.recv_timeout(PATIENCE).unwrap();
    std::io::Read::read_exact(&mut kept.stream, &mut [0]).unwrap();
    park(&set, kept, Duration::from_secs(3));
    assert!(leaving.recv_timeout(Duration::from_millis(250)).is_err());
    assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Expired);
}

fn keep_fixed(set: &Arc<IdleSet<Kept>>) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let kept = Kept { stream: ours, slot: set.slot(), set: Arc::clone(set) };
    assert!(set.park(kept.slot.index(), kept, Instant::now() + PATIENCE, Eviction::Refused).is_ok());
    theirs
}

#[test]
fn oldest_that_may_go_is_evicted() {
    let (set, leaving) = idle_set();
    let mut streams: Vec<_> = (0..2).map(|_| keep(&set, PATIENCE)).collect();
    streams.insert(0, keep_fixed(&set));
    streams.extend((0..2).map(|_| keep(&set, PATIENCE)));
    // The second value comes back and is idle again, so it has been idle for the shortest time.
    let second = set.evict_oldest().unwrap();
    let index = second.slot.index();
    park(&set, second, PATIENCE);
    // A value that left by itself can no longer be evicted.
    streams[3].write_all(b"x").unwrap();
    let (left, _) = leaving.recv_timeout(PATIENCE).unwrap();
    let mut evicted = Vec::new();
    while let Some(kept) = set.evict_oldest() {
        evicted.push(kept.slot.index());
    }
    assert_eq!((evicted, left.slot.index()), (vec![1, 4, index], 3));
    assert_eq!(set.len(), 1, "the one that stays");
    assert_eq!(set.take_idle().len(), 1);
    assert!(set.is_empty());
}

#[test]
fn values_that_wait_leave_in_the_order_in_which_they_came() {
    let (set, leaving) = idle_set();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let kept = Kept { stream: ours, slot: set.slot(), set: Arc::clone(&set) };
        assert!(set.wait_for_coroutine(kept.slot.index(), kept, Instant::now() + PATIENCE).is_ok());
        streams.push(theirs);
    }
    assert!(set.is_empty() && set.evict_oldest().is_none() && set.take_idle().is_empty(), "none of them rests");
    // Data does not take a value out of the queue; a disconnect does.
    streams[0].write_all(b"x").unwrap();
    drop(streams.remove(1));
    let (gone, reason) = leaving.recv_timeout(PATIENCE).unwrap();
    assert_eq!((gone.slot.index(), reason), (1, Reason::Broken));
    assert_eq!(set.next_waiting().unwrap().slot.index(), 0);
    assert_eq!(set.next_waiting().unwrap().slot.index(), 2);
    assert_eq!(set.take_waiting().len(), 1);
    assert!(set.next_waiting().is_none());
}

#[test]
fn deadline_of_a_value_that_waits_passes() {
    let (set, leaving) = idle_set();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let kept = Kept { stream: ours, slot: set.slot(), set: Arc::clone(&set) };
    assert!(set.wait_for_coroutine(kept.slot.index(), kept, Instant::now() + Duration::from_millis(50)).is_ok());
    assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Unserved);
    assert!(set.next_waiting().is_none());
}

#[test]
fn slot_of_one_that_was_dropped_serves_the_next() {
    let (set, leaving) = idle_set();
    let gone = keep(&set, Duration::from_millis(50));
    drop(set.evict_oldest().unwrap());
    let _stays = keep(&set, PATIENCE);
    assert!(set.state.lock().slots.get_mut(1).is_none(), "the two have the same slot");
    assert!(leaving.recv_timeout(Duration::from_millis(200)).is_err(), "the old deadline is not the new one's");
    drop(gone);
}

fn put_to_sleep(set: &Arc<IdleSet<Kept>>) -> (UnixStream, u64) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let kept = Kept { stream: ours, slot: set.slot(), set: Arc::clone(set) };
    let (index, place) = (kept.slot.index(), set.place(kept.slot.index()));
    assert!(set.sleep(index, kept).is_ok());
    (theirs, place)
}

#[test]
fn value_that_sleeps_leaves_when_it_is_roused_or_its_client_ends_and_not_by_data() {
    let (set, leaving) = idle_set();
    let mut asleep: Vec<_> = (0..4).map(|_| put_to_sleep(&set)).collect();
    assert_eq!((set.asleep(), set.len()), (4, 0));
    assert!(set.evict_oldest().is_none() && set.take_idle().is_empty() && set.take_waiting().is_empty());
    for (stream, _) in &mut asleep {
        stream.write_all(b"x").unwrap();
    }
    set.rouse(asleep[1].1);
    sys::flush_wakes();
    let (roused, reason) = leaving.recv_timeout(PATIENCE).unwrap();
    assert_eq!((roused.slot.index(), reason), (1, Reason::Roused), "data alone has taken none");
    drop(asleep.remove(2));
    let (left, reason) = leaving.recv_timeout(PATIENCE).unwrap();
    assert_eq!((left.slot.index(), reason), (2, Reason::Left));
    asleep[0].0.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Left, "the end of input is enough");
    assert_eq!(set.take_asleep().len(), 1);
    assert_eq!(set.asleep(), 0);
}

#[test]
fn rousing_of_an_earlier_value_does_not_take_the_next_one_at_its_place() {
    let (set, leaving) = idle_set();
    let (_theirs, place) = put_to_sleep(&set);
    drop(set.take_asleep());
    let (_stays, next) = put_to_sleep(&set);
    assert_ne!(place, next);
    set.rouse(place);
    set.rouse(next);
    sys::flush_wakes();
    assert_eq!(leaving.recv_timeout(PATIENCE).unwrap().1, Reason::Roused);
    assert!(leaving.recv_timeout(Duration::from_millis(50)).is_err(), "there was one");
}
