//! Properties of the whole process: limits, the umask, signal actions.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The CPU clock of a thread. Other threads can read it while the thread lives.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// Returns the calling thread's clock.
    pub fn current() -> Self {
        let mut clock = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: the number lives through the call. Failing leaves a clock that is no other thread's.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        Self(clock)
    }

    /// Returns how long the thread has run; zero after it has ended.
    pub fn elapsed(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the structure lives through the call, which fails where the thread has ended.
        unsafe { libc::clock_gettime(self.0, &raw mut time) };
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// Returns whether the process has a terminal that sends it signals.
pub fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Returns whether this process has a thread with this number.
pub fn thread_lives(id: u32) -> bool {
    Path::new(&format!("/proc/self/task/{id}")).exists()
}

/// Returns whether there is a process with this number.
pub fn process_exists(pid: u32) -> bool {
    // SAFETY: signal 0 has no effect.
    let sent = unsafe { libc::kill(pid.cast_signed(), 0) };
    pid.cast_signed() > 0 && (sent == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
}

/// Returns the child processes that have not ended: their numbers and their commands in printable form.
pub fn children() -> Vec<(u32, String)> {
    let own = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut children: Vec<_> = numbers.filter(|&pid| lives_as_child_of(pid, own)).collect();
    children.sort_unstable();
    children.into_iter().map(|pid| (pid, command(pid))).collect()
}

/// Returns whether a process is a child of `parent` and has not ended (`proc_pid_stat(5)`).
fn lives_as_child_of(pid: u32, parent: u32) -> bool {
    let Ok(text) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    let text = String::from_utf8_lossy(&text);
    // The command is in parentheses, and may contain parentheses.
    let mut fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let state = fields.next();
    state.is_some_and(|state| !matches!(state, "Z" | "X")) && fields.next() == Some(&parent.to_string())
}

/// Returns the command line of a process, shortened.
fn command(pid: u32) -> String {
    const COMMAND_MAX: usize = 80;
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = words.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    let text = words.map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(COMMAND_MAX) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

/// Returns how many processors this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Makes each arena of the allocator keep up to `kept_bytes` of freed memory, and makes the allocator map each
/// allocation of at least `mapped_bytes` separately (`mallopt(3)`). Allocator settings in the environment take
/// precedence.
#[cfg_attr(not(target_env = "gnu"), allow(unused_variables, reason = "other allocators have no such thresholds"))]
pub fn set_allocator_thresholds(kept_bytes: i32, mapped_bytes: i32) {
    #[cfg(target_env = "gnu")]
    {
        let is_set = |name: &str| name == "GLIBC_TUNABLES" || name.starts_with("MALLOC_");
        if std::env::vars_os().any(|(name, _)| name.to_str().is_some_and(is_set)) {
            return;
        }
        // SAFETY: may be called at any time; a value that is refused changes nothing.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, kept_bytes);
            libc::mallopt(libc::M_MMAP_THRESHOLD, mapped_bytes);
        }
    }
}

/// Gives unused memory back to the system (`malloc_trim(3)`). This takes some milliseconds.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time on any thread.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Returns how many descriptors this process may have open (`RLIMIT_NOFILE`, the soft limit).
pub fn descriptor_limit() -> usize {
    usize::try_from(limits().rlim_cur).unwrap_or(usize::MAX)
}

/// Raises the soft limit of descriptors to the hard limit, and returns it.
pub fn raise_descriptor_limit() -> usize {
    let mut limits = limits();
    if limits.rlim_cur < limits.rlim_max {
        limits.rlim_cur = limits.rlim_max;
        // SAFETY: the structure lives through the call. Failing leaves the limit as it was, which the caller sees.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) };
    }
    descriptor_limit()
}

/// Makes the kernel's table of this process's descriptors large enough for `count` of them. The kernel doubles a table
/// that is full, and if the process has several threads, the thread that has needed it waits up to 20 ms.
///
/// # Errors
/// The process may not have this many descriptors, or the kernel has no memory for the table.
pub fn enlarge_descriptor_table(count: usize) -> io::Result<()> {
    let (open, _) = io::pipe()?;
    let last = RawFd::try_from(count.saturating_sub(1)).unwrap_or(RawFd::MAX);
    // SAFETY: the descriptor is open through the call.
    unsafe { duplicate_from(open.as_raw_fd(), last) }.map(drop)
}

fn limits() -> libc::rlimit {
    let mut limits = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    // SAFETY: the structure lives through the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) };
    limits
}

/// Sets the process's umask and returns the old one.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask(2) cannot fail.
    unsafe { libc::umask(mask) }
}

/// Returns the process's umask, if the kernel tells it (from Linux 4.7 on).
pub fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let digits = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(digits.trim(), 8).ok()
}

/// The signals that a thread blocks.
#[derive(Clone, Copy)]
pub struct SignalMask(libc::sigset_t);

impl std::fmt::Debug for SignalMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalMask")
    }
}

impl SignalMask {
    /// Returns the signals that the calling thread blocks.
    pub fn current() -> Self {
        Self::change(libc::SIG_BLOCK, None)
    }

    /// Blocks all signals on the calling thread, and on the threads that it starts. Returns the previous mask.
    pub fn block_all() -> Self {
        // SAFETY: an all-zero set is valid memory for sigfillset(3), which makes it a set.
        let all = unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            all
        };
        Self::change(libc::SIG_SETMASK, Some(&all))
    }

    /// Returns the mask that blocks no signal.
    pub fn none() -> Self {
        // SAFETY: an all-zero set is valid memory for sigemptyset(3), which makes it a set.
        unsafe {
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            Self(none)
        }
    }

    /// Makes this the mask of the calling thread.
    pub fn restore(&self) {
        Self::change(libc::SIG_SETMASK, Some(&self.0));
    }

    fn change(how: libc::c_int, to: Option<&libc::sigset_t>) -> Self {
        // SAFETY: the sets live through the call, which cannot fail with these arguments.
        unsafe {
            let mut before = std::mem::zeroed();
            libc::pthread_sigmask(how, to.map_or(std::ptr::null(), std::ptr::from_ref), &raw mut before);
            Self(before)
        }
    }
}

/// A signal, and an action of this process for it.
#[derive(Clone, Copy)]
pub struct SignalAction {
    signal: libc::c_int,
    pub(super) action: libc::sigaction,
}

impl std::fmt::Debug for SignalAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalAction")
    }
}

impl SignalAction {
    /// Returns the current action for a signal.
    pub fn current(signal: libc::c_int) -> Self {
        // SAFETY: an all-zero sigaction is valid, and lives through the call.
        let action = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut action);
            action
        };
        Self { signal, action }
    }

    /// Returns the default action for a signal.
    pub fn default_of(signal: libc::c_int) -> Self {
        // SAFETY: an all-zero sigaction is the default action.
        Self { signal, action: unsafe { std::mem::zeroed() } }
    }

    /// Returns the action that runs `handler`, which does only what `signal-safety(7)` allows. It does not interrupt
    /// system calls that can be restarted. No other signal interrupts the handler: the stack for handlers that the
    /// standard library gives the main thread has no room for several of them.
    pub(super) fn handled_by(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> Self {
        let mut own = Self::default_of(signal);
        own.action.sa_sigaction = handler as *const () as libc::sighandler_t;
        own.action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the set lives through the call.
        unsafe { libc::sigfillset(&raw mut own.action.sa_mask) };
        own
    }

    /// Returns the signal.
    pub fn signal(&self) -> libc::c_int {
        self.signal
    }

    /// Returns whether the action runs a function.
    pub fn has_handler(&self) -> bool {
        !matches!(self.action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
    }

    /// Returns the action that ignores a signal.
    pub fn ignored(signal: libc::c_int) -> Self {
        let mut action = Self::default_of(signal);
        action.action.sa_sigaction = libc::SIG_IGN;
        action
    }

    /// Makes this the action for the signal.
    pub fn restore(&self) {
        // SAFETY: the kernel gave this action, it is the default one, or it is one of this room's.
        unsafe { libc::sigaction(self.signal, &raw const self.action, std::ptr::null_mut()) };
    }

    /// Runs the action's handler on the calling thread, as if the signal had arrived. Does nothing if the action has no
    /// handler.
    ///
    /// # Safety
    /// The library that installed the handler is still loaded.
    pub unsafe fn run_handler(&self) {
        let handler = self.action.sa_sigaction;
        if !self.has_handler() || self.action.sa_flags & libc::SA_SIGINFO != 0 {
            return;
        }
        // SAFETY: without SA_SIGINFO it is a function that takes the signal's number (sigaction(2)). It must be
        // prepared for a call at any moment on any thread, and its code is there, as the caller promises.
        unsafe {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
            handler(self.signal);
        }
    }
}

/// Gives SIGSEGV and SIGBUS their default actions. The handlers of Rust's standard library tell of the overflow of a
/// stack. After a signal that a process has sent, they let this one go on. (At the start of the program)
pub fn end_at_crashes() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        SignalAction::default_of(signal).restore();
    }
}

/// Starts a thread that blocks all signals, so that they reach other threads of the process.
///
/// # Errors
/// There is no thread left.
pub fn start_thread_without_signals<T: Send + 'static>(
    name: &str,
    code: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let mask = SignalMask::block_all();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(code);
    mask.restore();
    thread
}

/// The shortest time that a thread can ask for, in nanoseconds.
const SLICE_NS: u64 = 100_000;

/// Makes the calling thread give way to others. It gets less time by this many steps of niceness (nice(2), which counts
/// by thread on Linux), and gets it in short pieces (`sched_setattr(2)`, from Linux 6.12 on). Otherwise a thread that an
/// event has woken waits until this one has had some milliseconds.
pub fn give_way(steps: i32) {
    // SAFETY: changes the calling thread alone. An error leaves it as it is.
    unsafe { libc::nice(steps) };
    // SAFETY: all zeros are valid attributes.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most as many bytes as the size says.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if read == 0 && i32::try_from(attributes.sched_policy) == Ok(libc::SCHED_OTHER) {
        attributes.sched_runtime = SLICE_NS;
        // SAFETY: the attributes live through the call. An error leaves the thread as it is.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

/// Returns how many threads the process has; 0 if the kernel does not say.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Returns how many threads the process has besides those of Maypole; 0 if the kernel does not say.
pub fn foreign_threads() -> usize {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| !name.starts_with("maypole-")).count()
}

/// Ends the process without running its exit handlers.
pub fn exit_now(status: libc::c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Converts the result of a system call that returns a length or -1.
pub(super) fn length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Opens `/dev/null` on each of the descriptors 0, 1 and 2 that is closed, as daemons do. Otherwise the next socket
/// could get one of these numbers, and a library that prints would write to a client. A failure is ignored, because it
/// cannot be reported.
pub fn open_standard_descriptors() {
    for number in 0..=2 {
        // SAFETY: fcntl(2) on a closed descriptor fails. open(2) takes the lowest free number, which is this one: those
        // below are open. On failure nothing changes.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0 {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
}

/// Removes a variable from the environment, and returns its value. Does not remove it if the process has several
/// threads.
pub fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    if super::threads() == 1 {
        // SAFETY: no other thread reads the environment, because there is none.
        unsafe { std::env::remove_var(name) };
    }
    Some(value)
}

/// Sets a variable of the environment. Does not if the process has several threads.
pub fn set_variable(name: &str, value: &str) {
    if super::threads() == 1 {
        // SAFETY: no other thread reads the environment, because there is none.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Takes over a descriptor that the parent process left open, and closes it on exec(2).
///
/// # Safety
/// No other code of the process owns the descriptor, if it is open.
///
/// # Errors
/// The number is not that of an open descriptor.
pub unsafe fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) has no effect on a number that is no descriptor.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and the caller promises that it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Duplicates a descriptor. The original stays with its owner.
///
/// # Safety
/// If the descriptor is open, its owner lets the caller use it, and keeps it open through the call.
///
/// # Errors
/// The number is not that of an open descriptor, or the process has no descriptor left.
pub unsafe fn duplicate_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the caller promises the same.
    unsafe { duplicate_from(number, 3) }
}

/// Does the same. The new descriptor has the first free number from `first` on.
///
/// # Safety
/// As for `duplicate_descriptor`.
unsafe fn duplicate_from(number: RawFd, first: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) has no effect on a number that is no descriptor.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, first) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, so it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Makes a descriptor refer to the open file of another one, in one step (dup3(2)). The other descriptor stays open.
/// Whether exec(2) closes the descriptor does not change.
///
/// # Errors
/// Not expected while both are open.
pub fn replace_descriptor(replaced: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open, so that the owner of the first one still owns an open descriptor afterwards.
    let result = unsafe {
        let closes = libc::fcntl(replaced.as_raw_fd(), libc::F_GETFD) & libc::FD_CLOEXEC != 0;
        libc::dup3(by.as_raw_fd(), replaced.as_raw_fd(), if closes { libc::O_CLOEXEC } else { 0 })
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
