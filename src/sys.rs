//! System calls and the coroutine runtime: with the pyo3 glue the only room with `unsafe`.
//!
//! *Owns*: nothing but the runtime. *Runs on*: any thread; what must run on a coroutine says so.
#![allow(unsafe_code, reason = "this is the room for it; every block says why it is sound")]

mod coroutine;
mod epoll;
mod process;
mod socket;

pub use coroutine::{
    Deferred, Readiness, Waitable, Waker, collect_wakes, flush_wakes, spawn, spawn_here, start_runtime,
};
pub use epoll::{Epoll, TimerFd};
pub use process::{
    ThreadClock, descriptor_limit, give_memory_back, inherited_descriptor, keep_freed_memory, processors,
    raise_descriptor_limit, set_umask,
};
pub use socket::{
    Io, LITTLE_BYTES, accept, is_readable, receive, receive_little, reset_on_close, send, send_all, send_file,
    shutdown_read, shutdown_write, unacknowledged,
};
