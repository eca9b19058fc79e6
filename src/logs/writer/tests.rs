//! Tests of the writer: order, flushing, and logs that are slow or full.

use std::fs::OpenOptions;
use std::io::{PipeReader, Read as _};

use std::os::fd::AsRawFd as _;

use super::*;

fn pipe() -> (PipeReader, Arc<Sink>) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, Arc::new(Sink::from_fd(writer.into())))
}

fn read_all(mut reader: PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn flush_returns_when_everything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let sink = Sink::open(&path).unwrap();
    let writer = Writer::start().unwrap();
    let mut expected = String::new();
    for number in 0..10_000 {
        let line = format!("line {number}\n");
        expected.push_str(&line);
        writer.send(&sink, line.into_bytes());
    }
    assert!(writer.flush());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    writer.send(&sink, b"and on\n".to_vec());
    assert!(writer.flush());
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("and on\n"));
    assert_eq!(writer.counters.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn line_without_flush_is_written_soon() {
    let (mut reader, sink) = pipe();
    let writer = Writer::start().unwrap();
    writer.send(&sink, b"hello\n".to_vec());
    let mut line = [0; 6];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"hello\n");
}

#[test]
fn file_that_exists_is_appended_to() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "before\n").unwrap();
    let writer = Writer::start().unwrap();
    writer.send(&Sink::open(file.path()).unwrap(), b"after\n".to_vec());
    assert!(writer.flush());
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "before\nafter\n");
}

#[test]
fn file_that_is_opened_again_gets_the_lines_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let sink = Sink::open(&path).unwrap();
    let descriptor = sink.descriptor().unwrap().as_raw_fd();
    let writer = Writer::start().unwrap();
    let send = |text: &[u8]| {
        writer.send(&sink, text.to_vec());
        assert!(writer.flush());
    };
    send(b"one\n");
    std::fs::rename(&path, &old).unwrap();
    send(b"two\n");
    let fails = || crate::logs::sink::reopen_all().iter().any(|(failed, _)| *failed == path);
    assert!(!fails());
    send(b"three\n");
    // A directory in its place cannot be opened, so that the lines go on to the old file.
    let blocked = dir.path().join("log.2");
    std::fs::rename(&path, &blocked).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(fails());
    send(b"four\n");
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert_eq!((read(&old), read(&blocked)), ("one\ntwo\n".to_owned(), "three\nfour\n".to_owned()));
    assert_eq!(sink.descriptor().unwrap().as_raw_fd(), descriptor);
}

#[test]
fn queue_that_is_full_drops_and_counts() {
    let (reader, slow) = pipe();
    let (errors, report) = pipe();
    let writer = Writer::start().unwrap();
    writer.report_to(&report);
    // The pipe holds 64 KiB and is not read. With the lines that the thread holds, at most twice the queue fits.
    let sent = 3 * LINES_MAX;
    for _ in 0..sent {
        writer.send(&slow, vec![b'\n'; 256]);
    }
    assert!(!writer.flush_within(Duration::from_millis(50)));
    let written = thread::spawn(move || read_all(reader).len() / 256);
    assert!(writer.flush());
    drop((slow, report, writer));
    let report = read_all(errors);
    let (_, dropped) = report.split_once("[WARNING] ").unwrap();
    let (dropped, text) = dropped.split_once(' ').unwrap();
    assert_eq!(text, "log lines were dropped: the log file is too slow\n");
    assert_eq!(dropped.parse::<usize>().unwrap() + written.join().unwrap(), sent);
}

#[test]
fn queue_with_large_lines_is_bounded_in_bytes() {
    let (_reader, slow) = pipe();
    let writer = Writer::start().unwrap();
    for _ in 0..40 {
        writer.send(&slow, vec![b'\n'; 1024 * 1024]);
    }
    assert!(writer.counters.bytes.load(Ordering::Relaxed) <= BYTES_MAX);
    assert!(writer.counters.dropped.load(Ordering::Relaxed) >= 24);
}

#[test]
fn log_that_cannot_be_written_is_reported() {
    let (errors, report) = pipe();
    let full = Arc::new(Sink::from_fd(OpenOptions::new().write(true).open("/dev/full").unwrap().into()));
    let writer = Writer::start().unwrap();
    writer.report_to(&report);
    writer.send(&full, b"one\n".to_vec());
    writer.send(&full, b"two\n".to_vec());
    assert!(writer.flush());
    drop((full, report, writer));
    let text = read_all(errors);
    assert!(text.contains(" log lines were lost: No space left on device"), "{text}");
}

#[test]
fn log_that_nobody_holds_is_closed() {
    let (reader, sink) = pipe();
    let writer = Writer::start().unwrap();
    writer.send(&sink, b"last\n".to_vec());
    drop(sink);
    assert_eq!(read_all(reader), "last\n");
    drop(writer);
}
