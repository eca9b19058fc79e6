//! HTTP/2: something happens for a connection while it does something else. If that wake is lost, the stream hangs.

use maypole::handler::{Block, Responder};
use maypole::sys;

use crate::scene::{Client, Scene, Served, finish, ok, respond, serve};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// `:method GET` and `:method POST`, in front of `:scheme http`, `:path /` and `:authority h` (RFC 7541 §6, Appendix A).
const GET: &[u8] = b"\x82\x86\x84\x41\x01h";
const POST: &[u8] = b"\x83\x86\x84\x41\x01h";

/// No deadline of the client wakes its connection.
const NO_DEADLINE: [&str; 4] = ["--min-rate", "0", "--body-timeout", "1h"];

/// A client of HTTP/2 that sends each frame when the test says so, and no other one.
struct Frames {
    client: Client,
    /// The content of all frames DATA.
    body: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

impl Frames {
    /// Connects, with this window for each stream (`SETTINGS_INITIAL_WINDOW_SIZE`). The server has read everything
    /// afterwards.
    fn connect(served: &Served, window: u32) -> Self {
        let mut this = Self { client: served.client(), body: Vec::new() };
        let settings = [&[0, 4], &window.to_be_bytes()[..]].concat();
        this.client.send([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &settings)].concat());
        this.until(|kind, flags| kind == SETTINGS && flags == 0);
        this.client.send(frame(SETTINGS, ACK, 0, b""));
        this.ping();
        this
    }

    /// Takes frames up to the first one of this kind.
    fn until(&mut self, is_wanted: impl Fn(u8, u8) -> bool) {
        loop {
            let head = self.client.exactly(9);
            let payload = self.client.exactly(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize);
            if head[3] == DATA {
                self.body.extend(payload);
            }
            if is_wanted(head[3], head[4]) {
                return;
            }
        }
    }

    /// Sends PING and takes its reply: the connection has looked at all of its streams.
    fn ping(&mut self) {
        self.client.send(frame(PING, 0, 0, &[7; 8]));
        self.until(|kind, _| kind == PING);
    }
}

/// The connection passes the last part of the body on, and has no more of its turn. So others have theirs before it
/// sends. In this time the application responds.
#[test]
fn response_that_comes_in_the_turn_of_others_is_sent() {
    let served = serve(&NO_DEADLINE, |request, responder| {
        // A coroutine that is started here runs when this one lets others run for the first time.
        sys::spawn(move || {
            drop(request);
            sys::collect_wakes(|| respond(responder, b"done"));
        });
    });
    let mut client = Frames::connect(&served, 1000);
    client.client.send(frame(HEADERS, END_HEADERS, 1, POST));
    // The connection waits until the time of the body is over, and no longer until it may rest.
    client.ping();
    // They come in one piece, and cost more than a turn: mostly by their number.
    let data = frame(DATA, 0, 1, &[b'x'; 250]).repeat(110);
    client.client.send([data, frame(DATA, END_STREAM, 1, b"")].concat());
    client.until(|kind, flags| kind == DATA && flags & END_STREAM != 0);
    assert_eq!(client.body, b"done");
}

/// The application ends its response while a part of it waits for the client's window. Then the window opens, by one
/// frame.
#[test]
fn output_that_comes_while_the_window_is_closed_is_sent_after_it_has_opened() {
    let scene = Scene::new(&NO_DEADLINE);
    let mut client = Frames::connect(&scene, 3);
    client.client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, GET));
    let (request, mut responder) = scene.next();
    drop(request);
    responder.head(ok(), None);
    send(&mut responder, b"first");
    client.until(|kind, _| kind == DATA);
    assert_eq!(client.body, b"fir");
    send(&mut responder, b"second");
    finish(responder);
    client.ping();
    client.ping();
    client.client.send(frame(WINDOW_UPDATE, 0, 1, &1000_u32.to_be_bytes()));
    client.until(|kind, flags| kind == DATA && flags & END_STREAM != 0);
    assert_eq!(client.body, b"firstsecond");
}

fn send(responder: &mut Responder, content: &[u8]) {
    responder.send(Block::Owned(content.to_vec())).unwrap();
    sys::flush_wakes();
}
