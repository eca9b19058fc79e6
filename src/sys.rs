//! System calls, locks and the coroutine runtime: the only module with `unsafe` besides the pyo3 glue.
//!
//! *Owns*: only the runtime. *Runs on*: any thread; a function that needs a coroutine says so.
#![allow(unsafe_code, reason = "this is the room for it; every block says why it is sound")]

mod accounts;
mod apart;
mod channel;
mod clock;
mod coroutine;
mod epoll;
pub mod errno;
mod files;
mod forks;
mod grandchild;
mod init;
mod ktls;
mod lock;
mod oom;
mod peer;
mod plain;
mod poll;
mod process;
mod random;
mod shared;
mod signal_pipe;
mod signals;
mod socket;
mod spawn;
mod stays;
mod terminal;
mod title;
mod usage;
mod zone;

pub use accounts::{Account, group_id, run_as, running_as, user_id};
pub use apart::run_in_copy;
pub use channel::{Channel, DESCRIPTORS_MAX, HeldMessage, MESSAGE_BYTES_MAX, Message, stream_pair};
pub use clock::{machine_time, unix_micros};
pub use coroutine::{
    Deferred, Readiness, RuntimeLost, StartError, TurnOf, Waitable, Waker, begin_share, collect_wakes, flush_wakes,
    has_runtime, spawn, spawn_here, start_runtime, try_descriptors,
};
pub use epoll::{Epoll, Event, Interest, TimerFd};
pub use files::{OPEN_AT_ONCE, Space, lock_file, open_itself, path_of, space_of};
pub use forks::{HeldFd, HeldNumber, HoldableFd, forks, watch_forks};
pub use grandchild::{Forked, end_with_parent, fork_twice};
pub use init::{fork_alone, is_first_process, run_behind_init};
pub use ktls::{
    TlsCipher, TlsDirection, TlsKeys, TlsVersion, begin_kernel_tls, has_kernel_tls, has_tls_room,
    receive_little_records, receive_records, send_record, set_tls_keys, unread,
};
pub use lock::{Condition, Lock};
pub use oom::out_of_memory_kills;
pub use peer::{Peer, connect_abstract, connect_unix_stream, peer_of};
pub use plain::plain;
pub use poll::{is_readable, wait_for_any, wait_writable};
pub use process::{
    SignalAction, SignalMask, ThreadClock, children, descriptor_limit, duplicate_descriptor, end_at_crashes,
    enlarge_descriptor_table, exit_now, foreign_threads, give_way, has_terminal, inherited_descriptor,
    open_standard_descriptors, process_exists, processors, raise_descriptor_limit, replace_descriptor,
    set_allocator_thresholds, set_umask, set_variable, start_thread_without_signals, take_variable, thread_lives,
    threads, trim_memory, umask,
};
pub use random::random;
pub use shared::{SharedMemory, memory_file};
pub use signal_pipe::SignalPipe;
pub use signals::{
    EndAtOnce, OPTIONAL_SIGNALS, SIGNALS, SUPERVISOR_SIGNALS, enlarge_signal_stack, forget_signal_actions, has_arrived,
    remember_signal_actions,
};
pub use socket::{
    Io, LITTLE_BYTES, accept, complete_no_more, end_stream, probe_peer, read_at, receive, receive_little,
    reset_on_close, send, send_all, send_file, shutdown_write, unacknowledged,
};
pub use spawn::{
    Life, Program, Trial, adopt_orphans, adopts_orphans, await_end, reap, reap_one, send_signal, user_id_of_process,
};
pub use stays::Stays;
pub use terminal::{KeyMode, terminal_size};
pub use title::set_title;
pub use usage::{open_descriptors, own_memory, resident_memory};
pub use zone::local_offset;
