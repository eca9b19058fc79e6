//! The title of the process, which `ps` and `top` show in place of its command line.
//!
//! *Owns*: the memory in which the kernel has put the words of the command line, and the environment behind them. *Runs
//! on*: the main thread. *Invariants*: the environment has been copied before its memory is used. The memory is used
//! only by a process that had one thread when it set its first title, because another thread could read the environment.
//! *Source*: `proc_pid_cmdline(5)`, `proc_pid_stat(5)`, `prctl(2)`.

use std::ffi::{CStr, CString};
use std::ptr;

use super::Lock;

/// The memory of the command line and of the environment.
#[derive(Debug, Clone, Copy)]
struct Area {
    start: usize,
    /// The end of the words.
    words_end: usize,
    /// The end of the environment, if it follows on the words. Else the end of the words.
    end: usize,
    /// Whether the environment has been copied.
    is_copied: bool,
}

static AREA: Lock<Option<Area>> = Lock::new(None);

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// Shows `title` for this process. The command line can no longer be read afterwards, and `/proc/PID/environ` neither if
/// the title is longer than the command line. If the process has several threads when it sets its first title, only the
/// name of the main thread changes, which is the first 15 bytes of the title. A later title may then be cut to the length
/// of the command line. (Main thread.)
pub fn set_title(title: &str) {
    let title: Vec<u8> = title.bytes().filter(|byte| *byte != 0).collect();
    if let Ok(name) = CString::new(&title[..title.len().min(15)]) {
        // SAFETY: the name ends with a zero byte and lives through the call.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
    let mut known = AREA.lock();
    let Some(mut area) = known.or_else(|| (super::threads() == 1).then(Area::of_process).flatten()) else { return };
    area.show(&title);
    *known = Some(area);
}

impl Area {
    /// Finds the memory. `None`: the kernel does not say.
    fn of_process() -> Option<Self> {
        let text = std::fs::read("/proc/self/stat").ok()?;
        let text = String::from_utf8_lossy(&text);
        // The command is in parentheses, and may contain parentheses. The state is field 3.
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok().filter(|address| *address != 0);
        let (start, words_end, environment, end) = (field(48)?, field(49)?, field(50)?, field(51)?);
        let end = if environment == words_end { end } else { words_end };
        (start < words_end && words_end <= end).then_some(Self { start, words_end, end, is_copied: false })
    }

    /// Writes the title over the memory.
    fn show(&mut self, title: &[u8]) {
        let fits = title.len() < self.words_end - self.start;
        if !fits && !self.is_copied && super::threads() == 1 {
            self.copy_environment();
            self.is_copied = true;
        }
        let end = if self.is_copied { self.end } else { self.words_end };
        let start = ptr::with_exposed_provenance_mut::<u8>(self.start);
        let bytes = end - self.start;
        let shown = title.len().min(bytes - 1);
        // SAFETY: the kernel says that this memory holds the words and the environment. It stays mapped and writable as
        // long as the process lives. The words have been read, and the environment has been copied if it is written over.
        unsafe {
            ptr::write_bytes(start, 0, bytes);
            ptr::copy_nonoverlapping(title.as_ptr(), start, shown);
        }
    }

    /// Copies each variable that lies in the memory. The copies are never freed, as the environment never is.
    fn copy_environment(&self) {
        // SAFETY: no other thread runs, so nothing else reads or changes the environment. It is an array of strings that
        // ends with a null pointer.
        unsafe {
            let mut variable = environ;
            while !variable.is_null() && !(*variable).is_null() {
                if (self.words_end..self.end).contains(&(*variable).addr()) {
                    *variable = CStr::from_ptr(*variable).to_owned().into_raw();
                }
                variable = variable.add(1);
            }
        }
    }
}
