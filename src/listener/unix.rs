//! Unix sockets in the file system: checks whether a process listens on them, and creates and removes their files.
//!
//! *Owns*: the file of a socket that was bound here, unless another program has replaced it. *Runs on*: the thread that
//! binds. *Invariants*: no function waits. A file is removed only if it is a socket on which no process listens, or if
//! it was created here: another program may have put its own file in the same place. A file never has a wider mode than
//! the settings say, not even for a moment. The process's umask is not changed. *Source*: unix(7), `connect(2)`,
//! `bind(2)`.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{FileRights, Owner};
use crate::sys::{self, errno};

/// The longest path that a socket can be bound to, in bytes: `sun_path` holds 108 with the NUL at its end (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// The identity of a socket's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// What exists at the path of a socket.
#[derive(Debug, PartialEq, Eq)]
enum FileState {
    /// No file.
    Nothing,
    /// A file that is not a socket.
    Other,
    /// The file of a socket that is in use.
    Alive,
    /// The file of a socket that no process has open.
    Stale(SocketFile),
}

impl SocketFile {
    fn of(path: &Path, metadata: &std::fs::Metadata) -> Self {
        Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() }
    }

    /// Returns the numbers that distinguish the file from every other.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Returns the file at this path that has these numbers.
    pub(super) fn from_identity(path: &Path, (device, inode): (u64, u64)) -> Self {
        Self { path: path.to_owned(), device, inode }
    }

    /// Gives the file other rights, unless another file has replaced it.
    pub(super) fn renew(&self, rights: &FileRights) -> anyhow::Result<()> {
        give(self, rights, rights.owner.as_ref().map(ids).transpose()?)
    }

    /// Removes the file, unless another file has replaced it.
    pub(super) fn remove(&self) -> io::Result<()> {
        match self.path.symlink_metadata() {
            Ok(now) if Self::of(&self.path, &now) == *self => std::fs::remove_file(&self.path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Binds a socket and makes it listen. The path is made absolute, because the process may change its directory later.
pub(super) fn bind(path: &Path, backlog: i32, rights: &FileRights) -> anyhow::Result<(OwnedFd, SocketFile)> {
    let ids = rights.owner.as_ref().map(ids).transpose()?;
    let path = std::path::absolute(path)?;
    match find(&path)? {
        FileState::Nothing => {}
        FileState::Stale(file) => file.remove()?,
        FileState::Alive => return Err(io::Error::from_raw_os_error(errno::EADDRINUSE).into()),
        FileState::Other => bail!("the file exists and is not a socket"),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // bind(2) creates the file with the mode of the socket, less the umask.
    let socket = File::from(OwnedFd::from(socket));
    socket.set_permissions(Permissions::from_mode(rights.mode))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(short(&path))?)?;
    let file = SocketFile::of(&path, &path.symlink_metadata()?);
    // Owner and mode are set first: no client can connect before the socket listens.
    let listening = give(&file, rights, ids).and_then(|()| Ok(socket.listen(backlog)?));
    if let Err(error) = listening {
        // Ignore an error from the removal: it would hide the first error.
        let _ = file.remove();
        return Err(error);
    }
    Ok((socket.into(), file))
}

/// Removes the file of a unix socket that no process has open. Every other file stays.
///
/// # Errors
/// The file cannot be removed.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    match find(path) {
        Ok(FileState::Stale(file)) => file.remove(),
        // If the path cannot be examined, it cannot be bound either, and that error says why.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Finds out what exists at a path. The connection that tests a socket is closed at once.
fn find(path: &Path) -> io::Result<FileState> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileState::Nothing),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Ok(FileState::Other);
    }
    let trial = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let Err(error) = trial.connect(&SockAddr::unix(short(path))?) else { return Ok(FileState::Alive) };
    match error.raw_os_error() {
        Some(errno::ECONNREFUSED) => Ok(FileState::Stale(SocketFile::of(path, &metadata))),
        Some(errno::ENOENT) => Ok(FileState::Nothing),
        // The socket's queue is full, or the socket is of another type, such as syslog's.
        Some(errno::EAGAIN | errno::EPROTOTYPE) => Ok(FileState::Alive),
        _ => Err(error),
    }
}

/// Returns the path, relative to the working directory if it is too long for the address of a socket and lies below
/// that directory.
fn short(path: &Path) -> PathBuf {
    if path.as_os_str().len() > PATH_BYTES_MAX
        && let Ok(here) = std::env::current_dir()
        && let Ok(relative) = path.strip_prefix(here)
    {
        return relative.to_owned();
    }
    path.to_owned()
}

/// Sets the owner and the mode of a file.
fn give(file: &SocketFile, rights: &FileRights, ids: Option<(Option<u32>, Option<u32>)>) -> anyhow::Result<()> {
    let path = &file.path;
    // Work on the opened file: another program may replace the path meanwhile.
    let opened = sys::open_itself(path)?;
    let metadata = opened.metadata()?;
    if SocketFile::of(path, &metadata) != *file {
        bail!("another program has put a file in its place");
    }
    let itself = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    if let (Some((user, group)), Some(owner)) = (ids, &rights.owner) {
        std::os::unix::fs::chown(&itself, user, group)
            .with_context(|| format!("cannot give it to {owner} (--unix-socket-owner)"))?;
    }
    if metadata.mode() & 0o777 != rights.mode {
        std::fs::set_permissions(&itself, Permissions::from_mode(rights.mode))
            .with_context(|| format!("cannot give it the mode {:03o} (--unix-socket-mode)", rights.mode))?;
    }
    Ok(())
}

/// Returns the user ID and the group ID of an owner.
fn ids(owner: &Owner) -> anyhow::Result<(Option<u32>, Option<u32>)> {
    let number = |name: &String, look_up: fn(&str) -> io::Result<Option<u32>>, kind: &str| {
        // As in chown(1), a number that is not a name is an ID. `u32::MAX` is refused, because chown(2) takes it as "no
        // change".
        let known = look_up(name).with_context(|| format!("cannot look up the {kind} {name} (--unix-socket-owner)"))?;
        let id = known.or_else(|| name.parse().ok().filter(|&id| id != u32::MAX && !name.starts_with('+')));
        id.with_context(|| format!("there is no {kind} {name} (--unix-socket-owner)"))
    };
    let user = owner.user.as_ref().map(|name| number(name, sys::user_id, "user")).transpose()?;
    let group = owner.group.as_ref().map(|name| number(name, sys::group_id, "group")).transpose()?;
    Ok((user, group))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn socket_of_each_kind_that_lives_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let _stream = UnixListener::bind(path("stream")).unwrap();
        let _datagram = UnixDatagram::bind(path("datagram")).unwrap();
        let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        full.bind(&SockAddr::unix(path("full")).unwrap()).unwrap();
        full.listen(0).unwrap();
        let waiting = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        waiting.connect(&SockAddr::unix(path("full")).unwrap()).unwrap();
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        packets.bind(&SockAddr::unix(path("packets")).unwrap()).unwrap();
        packets.listen(1).unwrap();
        for name in ["stream", "datagram", "full", "packets"] {
            assert_eq!(find(&path(name)).unwrap(), FileState::Alive, "{name}");
            remove_stale(&path(name)).unwrap();
            let error = bind(&path(name), 1, &FileRights::default()).unwrap_err();
            let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            assert_eq!((number, path(name).exists()), (Some(errno::EADDRINUSE), true), "{name}");
        }
    }

    #[test]
    fn file_of_a_socket_that_has_gone_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixDatagram::bind(&path).unwrap());
        assert!(matches!(find(&path).unwrap(), FileState::Stale(_)));
        remove_stale(&path).unwrap();
        assert_eq!(find(&path).unwrap(), FileState::Nothing);
        std::fs::write(&path, "precious").unwrap();
        remove_stale(&path).unwrap();
        assert_eq!(find(&path).unwrap(), FileState::Other);
    }

    #[test]
    fn file_that_has_come_in_place_of_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_ours, file) = bind(&path, 1, &FileRights::default()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (_theirs, other) = bind(&path, 1, &FileRights::default()).unwrap();
        file.remove().unwrap();
        assert!(path.exists());
        other.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn mode_is_what_was_asked_for_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o660, 0o600, 0o000] {
            let path = dir.path().join(format!("{mode:o}"));
            let _bound = bind(&path, 1, &FileRights { mode, owner: None }).unwrap();
            assert_eq!(path.metadata().unwrap().mode() & 0o777, mode);
        }
    }

    #[test]
    fn owner_that_is_unknown_is_named_and_no_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for (text, said) in
            [("no-such-user", "there is no user no-such-user"), (":no-such-group", "there is no group no-such-group")]
        {
            let rights = FileRights { owner: Some(Owner::parse(text).unwrap()), ..FileRights::default() };
            assert!(format!("{:#}", bind(&path, 1, &rights).unwrap_err()).contains(said));
            assert!(!path.exists());
        }
        let itself = path.parent().unwrap().metadata().unwrap();
        let owner = Owner::parse(&format!("{}:{}", itself.uid(), itself.gid())).unwrap();
        bind(&path, 1, &FileRights { owner: Some(owner), ..FileRights::default() }).unwrap();
    }
}
