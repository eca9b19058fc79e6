//! Several servers accept from one socket and share a scoreboard, as workers do. Here they are in one process.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Instant;

use maypole::scoreboard::{Scoreboard, Slot, State};

use super::scene::*;

/// Servers that accept from the same sockets.
struct Workers {
    board: Scoreboard,
    servers: Vec<Served>,
}

impl Workers {
    /// Starts this many servers, with a slot for each and `idle` slots of workers that serve and never accept.
    fn start(count: usize, idle: usize, bind: &str) -> Self {
        let board = Scoreboard::create().unwrap();
        let enter = |index| {
            let slot = board.slot(index);
            slot.enter(std::process::id(), index + 1, 1);
            slot.set_state(State::Serving);
            slot
        };
        (count..count + idle).for_each(|index| drop(enter(index)));
        let servers = serve_as_workers(bind, (0..count).map(enter).collect());
        Self { board, servers }
    }

    fn slots(&self) -> Vec<Slot> {
        self.board.slots().collect()
    }

    /// Waits until the servers have accepted this many connections, and returns how many each has.
    fn accepted(&self, total: usize) -> Vec<usize> {
        let end = Instant::now() + PATIENCE;
        loop {
            let each: Vec<_> = self.slots().iter().map(Slot::connections).collect();
            if each.iter().sum::<usize>() >= total {
                return each;
            }
            assert!(Instant::now() < end, "{each:?} of {total}");
            std::thread::yield_now();
        }
    }

    fn burst(&self, count: usize) -> Vec<Client> {
        (0..count).map(|_| self.servers[0].client()).collect()
    }
}

/// Checks that no worker has more than 1.3 times its share, or one more.
fn assert_even(each: &[usize]) {
    let total: usize = each.iter().sum();
    let share = total.div_ceil(each.len());
    let most = (total * 13 / (10 * each.len())).max(share + 1);
    assert!(each.iter().all(|&count| count <= most), "{each:?}: the most is {most}");
}

#[test]
fn connections_are_spread_evenly() {
    for total in [16, 64, 500] {
        let workers = Workers::start(4, 0, "127.0.0.1:0");
        let _clients = workers.burst(total);
        assert_even(&workers.accepted(total));
    }
}

#[test]
fn connections_of_a_unix_socket_are_spread_evenly() {
    let name = format!("maypole-spread-{}", std::process::id());
    let workers = Workers::start(4, 0, &format!("unix:@{name}"));
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let _clients: Vec<_> = (0..64).map(|_| UnixStream::connect_addr(&address).unwrap()).collect();
    assert_even(&workers.accepted(64));
}

#[test]
fn client_is_accepted_although_the_worker_that_it_is_left_to_never_comes() {
    let workers = Workers::start(1, 1, "127.0.0.1:0");
    let _clients = workers.burst(8);
    assert_eq!(workers.accepted(8), [8, 0]);
}

#[test]
fn stuck_worker_gets_no_connection_while_others_are_free() {
    let workers = Workers::start(3, 0, "127.0.0.1:0");
    let slots = workers.slots();
    slots[1].seek_gil();
    while !slots[1].is_stuck() {
        std::thread::yield_now();
    }
    let _clients = workers.burst(20);
    let each = workers.accepted(20);
    assert_eq!(each[1], 0, "{each:?}");
    assert_even(&[each[0], each[2]]);
    // It gets its share once it is free.
    slots[1].tick_gil();
    let _more = workers.burst(10);
    assert_even(&workers.accepted(30));
}

#[test]
fn worker_that_is_alone_free_accepts_although_it_is_stuck() {
    let workers = Workers::start(1, 0, "127.0.0.1:0");
    workers.slots()[0].seek_gil();
    let _clients = workers.burst(5);
    assert_eq!(workers.accepted(5), [5]);
}
