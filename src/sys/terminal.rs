//! The terminal of a command: its size, and keys that arrive one by one (`termios(3)`, `ioctl_tty(2)`).
//!
//! *Owns*: the mode of the terminal's input, from `begin` until the value is dropped. *Runs on*: the main thread of a
//! command. *Invariants*: the mode of before is back once the value is dropped, also if the thread has panicked. The
//! keys of signals, such as Ctrl-C, keep their meaning.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

/// Keys arrive one by one and do not appear, for as long as the value lives.
pub struct KeyMode {
    terminal: OwnedFd,
    before: libc::termios,
}

impl std::fmt::Debug for KeyMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyMode")
    }
}

impl KeyMode {
    /// Begins the mode.
    ///
    /// # Errors
    /// It is no terminal, or it has gone.
    pub fn begin(terminal: &impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let mut before = MaybeUninit::uninit();
        // SAFETY: the structure lives through the call, which fills it unless it fails.
        let before = unsafe {
            if libc::tcgetattr(terminal.as_raw_fd(), before.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            before.assume_init()
        };
        let mut mode = before;
        mode.c_lflag &= !(libc::ICANON | libc::ECHO);
        mode.c_cc[libc::VMIN] = 1;
        mode.c_cc[libc::VTIME] = 0;
        let begun = Self { terminal, before };
        begun.set(&mode)?;
        Ok(begun)
    }

    fn set(&self, mode: &libc::termios) -> io::Result<()> {
        // SAFETY: the structure lives through the call.
        match unsafe { libc::tcsetattr(self.terminal.as_raw_fd(), libc::TCSANOW, std::ptr::from_ref(mode)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for KeyMode {
    fn drop(&mut self) {
        // If Ctrl-S has stopped the output, the kernel goes on with it once the key has no meaning. The screen of before
        // could not return otherwise. An error means that the terminal has gone.
        let mut flowing = self.before;
        flowing.c_iflag &= !libc::IXON;
        let _ = self.set(&flowing).and_then(|()| self.set(&self.before));
    }
}

/// Returns how many columns and rows a terminal has. `None`: it is no terminal, or it does not know.
pub fn terminal_size(terminal: &impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes into the structure, which lives through the call.
    let asked = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    let known = asked == 0 && size.ws_col > 0 && size.ws_row > 0;
    known.then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::File;
    use std::os::fd::FromRawFd as _;

    use super::*;

    /// Returns both ends of a terminal of 100 columns and 30 rows: that of the person, and that of the command.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut person, mut command) = (-1, -1);
        let nothing = std::ptr::null_mut();
        // SAFETY: the numbers and the size live through the call; both descriptors are new.
        unsafe {
            let opened = libc::openpty(&raw mut person, &raw mut command, nothing, std::ptr::null(), &raw const size);
            assert_eq!(opened, 0);
            (OwnedFd::from_raw_fd(person), OwnedFd::from_raw_fd(command))
        }
    }

    fn flags(terminal: &OwnedFd) -> libc::tcflag_t {
        let mut mode = MaybeUninit::uninit();
        // SAFETY: the structure lives through the call, which fills it.
        unsafe {
            assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()), 0);
            mode.assume_init().c_lflag
        }
    }

    #[test]
    fn mode_returns_after_a_panic() {
        let (_person, command) = terminal();
        let before = flags(&command);
        assert_eq!(before & libc::ICANON, libc::ICANON);
        let copy = command.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let _mode = KeyMode::begin(&copy).unwrap();
            assert_eq!(flags(&copy) & (libc::ICANON | libc::ECHO | libc::ISIG), libc::ISIG);
            std::panic::resume_unwind(Box::new("a panic without a message"));
        });
        assert!(thread.join().is_err_and(|panic| panic.is::<&str>()));
        assert_eq!(flags(&command), before);
    }

    #[test]
    fn only_a_terminal_has_a_size_and_a_mode() {
        let (_person, command) = terminal();
        assert_eq!(terminal_size(&command), Some((100, 30)));
        let file = File::open("/dev/null").unwrap();
        assert_eq!(terminal_size(&file), None);
        assert!(KeyMode::begin(&file).is_err());
    }
}
