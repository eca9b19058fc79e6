//! Connections that move from one server to another, over a channel as between two processes.

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use maypole::server::Given;
use maypole::sys::Channel;

use crate::drain::drain;
use crate::scene::{Client, PATIENCE, Scene, Served, answer_path, respond, serve, wait_until};

/// Makes the next stop of a server move its connections to another one.
fn hand_over_at_stop(from: &Served, to: &Served) {
    let (one, other) = Channel::pair().unwrap();
    to.server.receive(other).unwrap();
    from.server.hand_over_at_stop(one).unwrap();
}

/// Moves at most `count` idle connections from one server to another.
fn hand_over(from: &Served, to: &Served, count: usize) -> Given {
    let (one, other) = Channel::pair().unwrap();
    to.server.receive(other).unwrap();
    hand_over_through(from, one, count)
}

fn hand_over_through(from: &Served, channel: Channel, count: usize) -> Given {
    let (told, given) = mpsc::channel();
    from.server.hand_over(channel, count, move |given| told.send(given).unwrap()).unwrap();
    given.recv_timeout(PATIENCE).unwrap()
}

/// Returns clients that have had a response, and whose connections are idle.
fn idle_clients(served: &Served, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| served.client()).collect();
    for client in &mut clients {
        client.get("/before");
        assert_eq!(client.answer().text(), "/before");
    }
    wait_until("all are idle", || served.numbers().idle == count);
    clients
}

fn assert_serves(client: &mut Client) {
    client.get("/after");
    let answer = client.answer();
    assert_eq!(answer.text(), "/after");
    assert!(!answer.has("Connection: close"), "{}", answer.head);
}

#[test]
fn idle_connections_move_and_are_served_there() {
    let (old, new) = (serve(&[], answer_path), serve(&[], answer_path));
    let mut clients = idle_clients(&old, 5);
    assert_eq!(hand_over(&old, &new, 3), Given { moved: 3, stayed: 0 });
    wait_until("all have arrived", || new.numbers().idle == 3);
    wait_until("they are counted", || (old.numbers().connections, old.numbers().moved_away) == (2, 3));
    assert_eq!(new.numbers().moved_here, 3);
    clients.iter_mut().for_each(assert_serves);
    wait_until("the other two are idle", || old.numbers().idle == 2);
    assert_eq!(hand_over(&old, &new, 3), Given { moved: 2, stayed: 0 });
    assert!(drain(old).join().unwrap());
    clients.iter_mut().for_each(assert_serves);
}

#[test]
fn stop_moves_what_is_idle_at_once_and_the_rest_after_its_request() {
    let old = Scene::new(&[]);
    let new = Arc::new(serve(&[], answer_path));
    let silent = old.client();
    let (mut busy, request, responder) = old.get("/busy");
    let mut slow = old.client();
    slow.send("GET /after HT");
    wait_until("a part of the head has arrived", || old.numbers().idle == 2);
    hand_over_at_stop(&old, &new);
    let draining = drain(old.served);
    wait_until("two have moved", || new.numbers().connections == 2);
    answer_path(request, responder);
    let answer = busy.answer();
    assert!(answer.text() == "/busy" && !answer.has("Connection: close"), "{}", answer.head);
    assert!(draining.join().unwrap());
    slow.send("TP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(slow.answer().text(), "/after");
    [silent, busy, slow].iter_mut().for_each(assert_serves);
    assert_eq!(new.numbers().moved_here, 3);
}

#[test]
fn stop_keeps_listeners_and_idle_connections_for_the_next_server() {
    let (old, new) = (serve(&[], answer_path), serve(&[], answer_path));
    let mut clients = idle_clients(&old, 3);
    old.server.keep_at_stop();
    assert!(old.server.drain(PATIENCE));
    let _waits = old.client();
    let kept = old.server.take_kept();
    assert_eq!((kept.listeners.len(), kept.connections.len(), old.numbers().connections), (1, 3, 0));
    new.server.enter_kept(kept.connections);
    clients.iter_mut().for_each(assert_serves);
}

#[test]
fn stop_that_is_to_keep_nothing_after_all_closes() {
    let scene = Scene::new(&[]);
    let mut idle = scene.client();
    scene.assert_serves(&mut idle, "/before");
    let (mut busy, request, responder) = scene.get("/busy");
    wait_until("one is idle", || scene.numbers().idle == 1);
    scene.server.keep_at_stop();
    scene.server.begin_drain();
    wait_until("it is kept", || scene.server.given().moved == 1);
    scene.server.keep_no_more();
    idle.assert_closed();
    wait_until("the listener is closed", || TcpStream::connect(scene.address).is_err());
    answer_path(request, responder);
    assert!(busy.answer().has("Connection: close"));
    assert!(scene.server.wait_drained(Instant::now() + PATIENCE));
}

#[test]
fn pipelined_requests_move_with_their_connection() {
    let (old, new) = (Scene::new(&[]), serve(&[], answer_path));
    let (mut client, request, responder) =
        old.request("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HT");
    hand_over_at_stop(&old, &new);
    let (address, draining) = (old.address, drain(old.served));
    wait_until("the stop has begun", || TcpStream::connect(address).is_err());
    answer_path(request, responder);
    assert!(draining.join().unwrap());
    client.send("TP/1.1\r\nHost: h\r\n\r\n");
    let texts = [client.answer(), client.answer(), client.answer()].map(|answer| answer.text().to_owned());
    assert_eq!(texts, ["/1", "/2", "/3"]);
    assert_serves(&mut client);
}

#[test]
fn body_that_arrives_slowly_is_received_before_its_connection_moves() {
    let (old, new) = (Scene::new(&[]), serve(&[], answer_path));
    let mut client = old.client();
    client.send("POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab");
    wait_until("it has a coroutine", || old.numbers().coroutines == 1);
    hand_over_at_stop(&old, &new);
    let server = &old.server;
    thread::scope(|scope| {
        let draining = scope.spawn(|| server.drain(PATIENCE));
        client.send("cd");
        respond(old.next().1, b"/up");
        assert_eq!(client.answer().text(), "/up");
        assert!(draining.join().unwrap());
    });
    assert_serves(&mut client);
}

#[test]
fn stop_whose_receivers_have_gone_closes_idle_connections_and_says_so() {
    let old = Scene::new(&[]);
    let mut clients: Vec<_> = (0..3).map(|_| old.client()).collect();
    for client in &mut clients {
        old.assert_serves(client, "/before");
    }
    let (mut busy, request, responder) = old.get("/busy");
    wait_until("three are idle", || old.numbers().idle == 3);
    drop(Channel::pair().map(|(one, _)| old.server.hand_over_at_stop(one).unwrap()));
    let server = &old.server;
    thread::scope(|scope| {
        let draining = scope.spawn(|| server.drain(PATIENCE));
        clients.iter_mut().for_each(Client::assert_closed);
        answer_path(request, responder);
        assert!(busy.answer().has("Connection: close"));
        assert!(draining.join().unwrap());
    });
    assert_eq!(old.server.given(), Given { moved: 0, stayed: 3 });
}

#[test]
fn stop_whose_only_receiver_has_gone_goes_on_with_the_next_one() {
    let (old, new) = (Scene::new(&[]), serve(&[], answer_path));
    let mut idle = old.client();
    old.assert_serves(&mut idle, "/before");
    let (mut busy, request, responder) = old.get("/busy");
    wait_until("one is idle", || old.numbers().idle == 1);
    let (one, other) = Channel::pair().unwrap();
    old.server.hand_over_at_stop(one).unwrap();
    let server = &old.server;
    thread::scope(|scope| {
        let draining = scope.spawn(|| server.drain(PATIENCE));
        // The receiver dies with a connection on its way to it.
        drop((other.receive_held().unwrap(), other));
        answer_path(request, responder);
        let answer = busy.answer();
        assert!(answer.text() == "/busy" && !answer.has("Connection: close"), "{}", answer.head);
        wait_until("both wait for a receiver", || old.numbers().idle == 2);
        idle.get("/meanwhile");
        old.answer_next();
        let answer = idle.answer();
        assert!(answer.text() == "/meanwhile" && !answer.has("Connection: close"), "{}", answer.head);
        hand_over_at_stop(&old, &new);
        assert!(draining.join().unwrap());
    });
    assert_eq!(old.server.given(), Given { moved: 2, stayed: 0 });
    [idle, busy].iter_mut().for_each(assert_serves);
}

#[test]
fn connections_without_room_there_stay_and_go_to_the_next_receiver() {
    let (old, full, new) =
        (serve(&[], answer_path), serve(&["--max-connections", "2"], answer_path), serve(&[], answer_path));
    let mut clients = idle_clients(&old, 6);
    let given = hand_over(&old, &full, 6);
    assert_eq!(given, Given { moved: 2, stayed: 4 });
    wait_until("the others are back", || old.numbers().idle == 4);
    clients.iter_mut().for_each(assert_serves);
    hand_over_at_stop(&old, &full);
    hand_over_at_stop(&old, &new);
    assert!(drain(old).join().unwrap());
    wait_until("all have arrived", || (full.numbers().connections, new.numbers().connections) == (2, 4));
    clients.iter_mut().for_each(assert_serves);
}

#[test]
fn receiver_that_stops_passes_connections_on() {
    let (old, new, next) = (Scene::new(&[]), Scene::new(&[]), serve(&[], answer_path));
    let (mut busy, request, responder) = old.get("/busy");
    let (mut later, held, holder) = new.get("/held");
    hand_over_at_stop(&old, &new);
    hand_over_at_stop(&new, &next);
    let (old, new) = (drain(old.served), drain(new.served));
    answer_path(request, responder);
    assert_eq!(busy.answer().text(), "/busy");
    wait_until("it has come through both", || next.numbers().idle == 1);
    assert!(old.join().unwrap());
    answer_path(held, holder);
    assert_eq!(later.answer().text(), "/held");
    assert!(new.join().unwrap());
    [busy, later].iter_mut().for_each(assert_serves);
}

#[test]
fn receiver_that_does_not_answer_gets_nothing() {
    let old = serve(&[], answer_path);
    let mut clients = idle_clients(&old, 2);
    let (one, other) = Channel::pair().unwrap();
    assert_eq!(hand_over_through(&old, one, 2), Given { moved: 0, stayed: 2 });
    // The message arrives, but the answer to it does not. It has one of the connections, or both.
    let late = other.receive_held().unwrap().unwrap();
    assert!((1..=2).contains(&late.descriptors.len()));
    assert!(other.send(b"2", &[]).is_err());
    drop(late);
    clients.iter_mut().for_each(assert_serves);
}

#[test]
fn many_connections_move_in_less_than_a_second() {
    const COUNT: usize = 1000;
    maypole::sys::raise_descriptor_limit();
    let (old, new) = (serve(&[], answer_path), serve(&[], answer_path));
    let mut clients = idle_clients(&old, COUNT);
    let began = Instant::now();
    let given = hand_over(&old, &new, COUNT);
    let took = began.elapsed();
    assert_eq!(given, Given { moved: COUNT, stayed: 0 });
    assert!(took < Duration::from_secs(5), "{took:?}");
    clients.iter_mut().for_each(assert_serves);
}

/// Sends requests, each at another moment after the connection has become idle. Returns how many it sent.
fn send_now_and_then(mut client: Client, over: &AtomicBool, number: u64) -> usize {
    let (mut sent, mut pause) = (0, number);
    while !over.load(Ordering::Relaxed) {
        let path = format!("/{number}/{sent}");
        client.get(&path);
        assert_eq!(client.answer().text(), path);
        sent += 1;
        // Knuth's generator MMIX. A quiet connection becomes idle after 50 ms.
        pause = pause.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_micros(48_000 + (pause >> 40) % 10_000));
    }
    sent
}

#[test]
fn requests_sent_while_their_connection_moves_to_and_fro_are_served_once() {
    const CLIENTS: usize = 8;
    const MOVES: usize = 500;
    let served = Arc::new(AtomicUsize::new(0));
    let counting = || {
        let served = Arc::clone(&served);
        serve(&[], move |request, responder| {
            served.fetch_add(1, Ordering::Relaxed);
            answer_path(request, responder);
        })
    };
    let (mut from, mut to) = (counting(), counting());
    let over = AtomicBool::new(false);
    let end = Instant::now() + PATIENCE;
    let sent: usize = thread::scope(|scope| {
        let connected: Vec<_> = (0..CLIENTS).map(|_| from.client()).collect();
        let clients = connected.into_iter().zip(0..);
        let clients = clients.map(|(client, number)| {
            let over = &over;
            scope.spawn(move || send_now_and_then(client, over, number))
        });
        let clients: Vec<_> = clients.collect();
        let mut moves = 0;
        while moves < MOVES && Instant::now() < end {
            moves += hand_over(&from, &to, CLIENTS).moved;
            std::mem::swap(&mut from, &mut to);
        }
        over.store(true, Ordering::Relaxed);
        // On a busy machine the time is over before that.
        assert!(moves >= MOVES / 10, "only {moves} moves");
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!(served.load(Ordering::Relaxed), sent);
}

#[test]
fn connection_that_the_client_has_closed_ends_there() {
    let (old, new) = (serve(&[], answer_path), serve(&[], answer_path));
    let clients = idle_clients(&old, 2);
    let streams: Vec<TcpStream> = clients.into_iter().map(|client| client.stream).collect();
    assert_eq!(hand_over(&old, &new, 2).moved, 2);
    wait_until("both have arrived", || new.numbers().moved_here == 2);
    drop(old);
    streams[0].shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((&streams[0]).read(&mut [0]).unwrap(), 0);
    drop(streams);
    wait_until("both have ended", || new.numbers().connections == 0);
}
