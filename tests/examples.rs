//! Tests of the load-test tools in `examples/`, each as a process: their output and their exit codes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::Duration;

/// The longest that a read in a test waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the command of an example. `cargo test` does not build an example with tests as a program, so the first call
/// builds all examples.
fn example(name: &str) -> Command {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let cargo = Command::new(env!("CARGO")).args(["build", "--quiet", "--examples", "--profile", profile]).status();
        assert!(cargo.unwrap().success(), "cargo cannot build the examples");
    });
    let tests: PathBuf = std::env::current_exe().unwrap();
    Command::new(tests.parent().unwrap().parent().unwrap().join("examples").join(name))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `calibrate` on a free port. Returns the process and its address.
fn calibrate() -> (Running, String) {
    let mut child = example("calibrate").arg("127.0.0.1:0").stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let running = Running(child);
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}"));
    (running, address.to_owned())
}

/// Starts a server that responds 200 to paths that begin with `/ok` and 500 to all others. Returns its address, and the
/// first request head that it receives.
fn server() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(String::new()));
    let first = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let first = Arc::clone(&first);
            thread::spawn(move || answer(&stream.unwrap(), &first));
        }
    });
    (address, seen)
}

fn answer(mut stream: &TcpStream, first: &Mutex<String>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        received.extend_from_slice(&buffer[..bytes]);
        while let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(received.drain(..end + 4).collect()).unwrap();
            let status = if head.starts_with("GET /ok") { "200 OK" } else { "500 Internal Server Error" };
            let mut kept = first.lock().unwrap();
            if kept.is_empty() {
                *kept = head;
            }
            drop(kept);
            if write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    }
}

/// Runs `open_loop` for 20 requests.
fn open_loop(arguments: &[&str]) -> Output {
    let few = ["--rate", "100", "--duration", "0.2", "--connections", "2", "--drain", "20"];
    example("open_loop").args(few).args(arguments).output().unwrap()
}

#[test]
fn calibrate_on_an_address_in_use_says_so() {
    let (_first, address) = calibrate();
    let second = example("calibrate").arg(&address).output().unwrap();
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    assert!(text(&second).contains(&format!("cannot listen on {address}: address in use")), "{}", text(&second));
    assert!(!text(&second).contains("listening on"), "{}", text(&second));
}

#[test]
fn calibrate_answers_open_loop() {
    let (_running, address) = calibrate();
    let done = open_loop(&[&format!("http://{address}/")]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    assert!(text(&done).contains("errors 0"), "{}", text(&done));
}

#[test]
fn open_loop_takes_a_url() {
    let (address, seen) = server();
    let done = open_loop(&["--header", "X-One: 1", &format!("http://{address}/ok?x=1")]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let head = format!("GET /ok?x=1 HTTP/1.1\r\nHost: {address}\r\nX-One: 1\r\n\r\n");
    assert_eq!(*seen.lock().unwrap(), head);
    assert!(text(&done).contains(&format!("to http://{address}/ok?x=1")), "{}", text(&done));
}

#[test]
fn open_loop_takes_host_and_port_with_a_path() {
    let (address, seen) = server();
    let done = open_loop(&["--json", "--path", "/ok/2", &address]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    assert!(text(&done).contains("\"refused\":0"), "{}", text(&done));
    assert!(seen.lock().unwrap().starts_with("GET /ok/2 HTTP/1.1\r\n"));
}

#[test]
fn open_loop_with_failed_requests_exits_with_1() {
    let (address, _) = server();
    let done = open_loop(&[&format!("http://{address}/raise")]);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    assert!(
        text(&done).contains("errors 20 (status 20") && text(&done).contains("first error: status 500"),
        "{}",
        text(&done)
    );
}

#[test]
fn open_loop_without_a_server_exits_with_1() {
    // The socket is bound but does not listen, so that no other process can take the port meanwhile.
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    let done = open_loop(&[&format!("http://{address}/")]);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    assert!(text(&done).contains(&format!("cannot connect to {address}: connection refused")), "{}", text(&done));
}

#[test]
fn open_loop_says_which_argument_is_wrong() {
    for (arguments, words) in [
        (&["https://127.0.0.1:1/"][..], "open_loop has no TLS"),
        (&["127.0.0.1"], "the port is missing"),
        (&["127.0.0.1:port"], "the port must be a number from 1 to 65535"),
        (&["--path", "x", "127.0.0.1:1"], "a path begins with '/'"),
        (&["--path", "/a", "http://127.0.0.1:1/b"], "the URL has a path already"),
        (&["--rate", "0", "127.0.0.1:1"], "a number above 0"),
        (&["--duration=-1", "127.0.0.1:1"], "expected seconds"),
        (&["--connections", "0", "127.0.0.1:1"], "1 or more"),
        (&["--header", "Accept", "127.0.0.1:1"], "'Accept: text/html'"),
    ] {
        let done = example("open_loop").args(arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {}", text(&done));
        assert!(text(&done).contains(words), "{arguments:?}: {}", text(&done));
    }
}
