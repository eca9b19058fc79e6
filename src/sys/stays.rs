//! A thread that is never unwound: `pthread_exit(3)` stops it where it is.
//!
//! *Runs on*: threads that run Python below frames of the server. *Invariants*: while a `Stays` lives, `pthread_exit`
//! on its thread runs no destructor and unwinds no frame. *Source*: `Py_FinalizeEx`: until `CPython` 3.13, a thread
//! that asks for the GIL during finalization is ended by `pthread_exit`. That unwinds the stack by force. Most frames
//! between Python's code and the server's are declared not to unwind, which aborts the process. The others would
//! release Python objects without the GIL.
//!
//! `pthread_exit` calls the handlers that `_pthread_cleanup_push` has registered. The C library keeps both functions
//! for programs that were compiled long ago. It calls a handler as soon as the frame that holds its record is left. A
//! record that is on no stack counts as left before the first frame is unwound (glibc `unwind_stop`). musl unwinds
//! nothing and calls the handlers first. The handler never returns, so no frame is unwound.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

use super::SignalMask;

/// The C library's record of a handler: four words in glibc (`struct _pthread_cleanup_buffer`), three in musl.
type Record = UnsafeCell<[usize; 8]>;

unsafe extern "C" {
    fn _pthread_cleanup_push(record: *mut c_void, routine: extern "C" fn(*mut c_void), argument: *mut c_void);
    fn _pthread_cleanup_pop(record: *mut c_void, execute: c_int);
}

/// While this lives, `pthread_exit(3)` on this thread keeps the thread where it is, until the process has ended.
#[derive(Debug)]
pub struct Stays {
    /// On the heap: a record on this stack would be noticed only after the frames above it have been unwound.
    record: ManuallyDrop<Box<Record>>,
    /// The value that was the innermost one when this one was made.
    outer: *const Record,
    /// Keeps the value on the thread that made it.
    here: PhantomData<*const ()>,
}

thread_local! {
    /// The record of the newest living value on this thread.
    static INNERMOST: Cell<*const Record> = const { Cell::new(std::ptr::null()) };
}

impl Stays {
    /// Begins on the calling thread. Several values may live at once. If a value is dropped before a newer one, its
    /// record stays registered forever.
    pub fn here() -> Self {
        let record = ManuallyDrop::new(Box::<Record>::default());
        let outer = INNERMOST.replace(&raw const **record);
        // SAFETY: the record is large enough for either C library, and lives until `drop` removes it.
        unsafe { _pthread_cleanup_push(record.get().cast(), stay, std::ptr::null_mut()) };
        Self { record, outer, here: PhantomData }
    }
}

impl Drop for Stays {
    fn drop(&mut self) {
        // A later record refers to this one, which then stays registered and in memory.
        if !std::ptr::eq(INNERMOST.get(), &raw const **self.record) {
            return;
        }
        INNERMOST.set(self.outer);
        // SAFETY: it was pushed on this thread, and every record that was pushed later has been removed. Nothing refers
        // to it afterwards.
        unsafe {
            _pthread_cleanup_pop(self.record.get().cast(), 0);
            ManuallyDrop::drop(&mut self.record);
        }
    }
}

/// Waits forever, with all signals blocked, so that signals go to other threads.
extern "C" fn stay(_: *mut c_void) {
    SignalMask::block_all();
    loop {
        // SAFETY: pause(2) may be called at any time.
        unsafe { libc::pause() };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Sends a message when it is dropped.
    struct Tells(mpsc::Sender<()>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    unsafe extern "C" {
        // Declared as not unwinding, like Python's functions.
        fn pthread_exit(value: *mut c_void) -> *mut c_void;
    }

    #[inline(never)]
    extern "C" fn leave(started: &mpsc::Sender<()>) {
        started.send(()).unwrap();
        // SAFETY: the thread stays, so no frame is unwound.
        unsafe { pthread_exit(std::ptr::null_mut()) };
    }

    #[test]
    fn thread_that_stays_is_not_unwound_by_pthread_exit() {
        let (dropped, drops) = mpsc::channel();
        let (started, starts) = mpsc::channel();
        let thread = thread::spawn(move || {
            let _outer = Stays::here();
            drop(Stays::here());
            let _tells = Tells(dropped);
            leave(&started);
        });
        starts.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(drops.recv_timeout(Duration::from_millis(100)), Err(RecvTimeoutError::Timeout));
        assert!(!thread.is_finished());
    }

    #[test]
    fn values_dropped_in_the_wrong_order_leave_no_dangling_record() {
        let thread = thread::spawn(|| {
            let (outer, inner) = (Stays::here(), Stays::here());
            let record: *const Record = &raw const **outer.record;
            drop(outer);
            drop(inner);
            std::ptr::eq(INNERMOST.get(), record)
        });
        assert!(thread.join().unwrap(), "the outer record is still the innermost one");
    }

    #[test]
    fn thread_that_stayed_for_a_while_ends_as_usual() {
        let thread = thread::spawn(|| drop((Stays::here(), Stays::here()).0));
        assert!(thread.join().is_ok());
    }
}
