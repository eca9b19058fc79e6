//! Tests of the listeners.

use std::os::fd::{BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use std::os::unix::net::UnixStream;

use super::*;

fn tcp(port: u16) -> ListenAddress {
    ListenAddress::Tcp { host: "127.0.0.1".into(), port }
}

#[test]
fn port_zero_finds_a_port() {
    let bound = Listener::bind_all(&[tcp(0)], 16).unwrap();
    assert!(matches!(bound[0].address(), BoundAddress::Tcp(address) if address.port() != 0));
}

#[test]
fn both_families_of_a_port_are_bound_side_by_side() {
    let free = Listener::bind_all(&[tcp(0)], 16).unwrap();
    let BoundAddress::Tcp(address) = free[0].address().clone() else { panic!("not tcp") };
    drop(free);
    let both = ["0.0.0.0", "::"].map(|host| ListenAddress::Tcp { host: host.into(), port: address.port() });
    assert_eq!(Listener::bind_all(&both, 16).unwrap().len(), 2);
    let alone = Listener::bind_all(&both[1..], 16).unwrap();
    assert!(!SockRef::from(&alone[0].fd).only_v6().unwrap(), "it takes IPv4 as well");
}

#[test]
fn accepted_socket_inherits_its_options() {
    let bound = Listener::bind_all(&[tcp(0)], 16).unwrap();
    let BoundAddress::Tcp(address) = bound[0].address().clone() else { panic!("not tcp") };
    let _client = std::net::TcpStream::connect(address).unwrap();
    let Io::Done((accepted, _)) = sys::accept(&bound[0].fd) else { panic!("no client came") };
    let accepted = SockRef::from(&accepted);
    assert!(accepted.tcp_nodelay().unwrap());
    assert_eq!(accepted.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
}

/// Counts the calls of a listener.
#[derive(Default)]
struct Counting {
    has_room: bool,
    makes_room: bool,
    accepted: AtomicUsize,
    made: AtomicUsize,
}

impl Acceptor for &Counting {
    fn accepted(&self, _fd: HeldFd, _remote: Option<SocketAddr>) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }
    fn has_room(&self) -> bool {
        self.has_room
    }
    fn limit(&self) -> (usize, String) {
        (1, "a test".to_owned())
    }
    fn make_room(&self) -> bool {
        self.made.fetch_add(1, Ordering::SeqCst);
        self.makes_room
    }
    fn is_closed(&self) -> bool {
        false
    }
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn leaves_queue(&self) -> bool {
        false
    }
}

/// Runs one turn of a listener that has `clients` clients in its queue.
fn turn_of(counting: &Counting, clients: usize) -> Turn {
    let bound = Listener::bind_all(&[tcp(0)], 256).unwrap().remove(0);
    let BoundAddress::Tcp(address) = *bound.address() else { panic!("not tcp") };
    SockRef::from(&bound.fd).set_nonblocking(true).unwrap();
    let _clients: Vec<_> = (0..clients).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    bound.accept_some(&bound.fd, &counting, None, &mut false).unwrap()
}

#[test]
fn flood_of_clients_has_a_bounded_turn() {
    let counting = Counting { has_room: true, ..Counting::default() };
    assert_eq!(turn_of(&counting, 4 * ACCEPTS_AT_ONCE), Turn::Over);
    assert_eq!(counting.accepted.load(Ordering::SeqCst), ACCEPTS_AT_ONCE);
    assert_eq!(turn_of(&counting, 3), Turn::Empty);
    assert_eq!(counting.accepted.load(Ordering::SeqCst), ACCEPTS_AT_ONCE + 3);
}

#[test]
fn making_room_for_nothing_has_a_bounded_turn() {
    let counting = Counting { makes_room: true, ..Counting::default() };
    assert_eq!(turn_of(&counting, 1), Turn::Over);
    assert_eq!((counting.accepted.into_inner(), counting.made.into_inner()), (0, ACCEPTS_AT_ONCE));
}

#[test]
fn room_is_made_for_a_client_that_is_there_only() {
    let counting = Counting { makes_room: true, ..Counting::default() };
    assert_eq!(turn_of(&counting, 0), Turn::Empty);
    assert_eq!(counting.made.into_inner(), 0);
    let counting = Counting::default();
    assert_eq!(turn_of(&counting, 1), Turn::NoRoom);
}

/// A listening socket. A client connects to it right after it is first checked for clients.
struct Late {
    socket: OwnedFd,
    address: SocketAddr,
    looks: AtomicUsize,
}

impl AsFd for Late {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if self.looks.fetch_add(1, Ordering::SeqCst) == 1 {
            std::mem::forget(std::net::TcpStream::connect(self.address).unwrap());
        }
        self.socket.as_fd()
    }
}

#[test]
fn client_that_comes_after_the_look_for_room_is_not_accepted_without_it() {
    let bound = Listener::bind_all(&[tcp(0)], 16).unwrap().remove(0);
    let BoundAddress::Tcp(address) = *bound.address() else { panic!("not tcp") };
    SockRef::from(&bound.fd).set_nonblocking(true).unwrap();
    let late = Late { socket: bound.fd.as_fd().try_clone_to_owned().unwrap(), address, looks: AtomicUsize::new(0) };
    let counting = Counting::default();
    while late.looks.load(Ordering::SeqCst) < 2 {
        bound.accept_some(&late, &&counting, None, &mut false).unwrap();
    }
    assert_eq!(bound.accept_some(&late, &&counting, None, &mut false).unwrap(), Turn::NoRoom, "the client is there");
    assert_eq!(counting.accepted.into_inner(), 0);
}

#[test]
fn address_in_use_is_named_in_the_error() {
    let bound = Listener::bind_all(&[tcp(0)], 16).unwrap();
    let BoundAddress::Tcp(address) = bound[0].address().clone() else { panic!("not tcp") };
    let error = Listener::bind_all(&[tcp(address.port())], 16).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains(&address.to_string()) && text.contains("in use"), "{text}");
}

#[test]
fn stale_socket_file_is_replaced_and_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let bound = Listener::bind_all(&[ListenAddress::Unix(path.clone())], 16).unwrap();
    assert!(Listener::bind_all(&[ListenAddress::Unix(path.clone())], 16).is_err(), "in use");
    drop(bound);
    assert!(!path.exists());
}

#[test]
fn file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    assert!(Listener::bind_all(&[ListenAddress::Unix(path.clone())], 16).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn descriptor_that_does_not_listen_is_refused() {
    let (one, _other) = UnixStream::pair().unwrap();
    let number = OwnedFd::from(one).into_raw_fd();
    let error = Listener::bind_all(&[ListenAddress::Fd(number)], 16).unwrap_err();
    assert!(format!("{error:#}").contains("does not listen"), "{error:#}");
    let error = Listener::bind_all(&[ListenAddress::Fd(9999)], 16).unwrap_err();
    assert!(format!("{error:#}").contains("fd://9999"), "{error:#}");
}
