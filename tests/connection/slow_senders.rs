//! Clients that send slowly, and the deadlines of heads and bodies.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::scene::{answer_path, serve};

#[test]
fn slow_head_is_parked_and_read_to_its_end() {
    let served = serve(&[], answer_path);
    let mut client = served.client();
    for part in ["GET /slow ", "HTTP/1.1\r\nHo", "st: h\r\n\r", "\n"] {
        client.send(part);
        // Longer than the linger: each part finds the connection in the idle set.
        thread::sleep(Duration::from_millis(120));
    }
    assert_eq!(client.answer().text(), "/slow");
}

#[test]
fn slow_head_expires_with_408() {
    let served = serve(&["--header-timeout", "300ms"], answer_path);
    let mut client = served.client();
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\nHo");
    let answer = client.answer();
    assert_eq!(answer.status, 408);
    assert!(began.elapsed() >= Duration::from_millis(300));
    client.assert_closed();
}

#[test]
fn slow_head_that_drips_expires_with_408() {
    let served = serve(&["--header-timeout", "500ms"], answer_path);
    let mut client = served.client();
    let mut writer = client.stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: ".iter().chain([b'x'; 1000].iter()) {
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(client.answer().status, 408);
    drop(client);
    dripping.join().unwrap();
}

#[test]
fn slow_body_expires_with_408() {
    let served = serve(&["--body-timeout", "300ms"], answer_path);
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(client.answer().status, 408);
}

#[test]
fn body_below_the_lowest_rate_expires_with_408() {
    let served = serve(&["--min-rate", "1MiB"], answer_path);
    let mut client = served.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
    let mut writer = client.stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let began = Instant::now();
    assert_eq!(client.answer().status, 408);
    assert!((4..15).contains(&began.elapsed().as_secs()));
    drop(client);
    dripping.join().unwrap();
}
