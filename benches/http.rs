//! Measures HTTP on bytes, without sockets: `cargo bench --bench http`.
//!
//! Request heads: minimal, as a browser sends them, and with many fields and cookies. Also response heads and bodies.
#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::fmt::Write;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use maypole::http::response::Context;
use maypole::http::{BodyDecoder, Framing, HeadScanner, Limits, Persistence, RequestHead, ResponseHead, Version};

const LIMITS: Limits =
    Limits { request_line_bytes_max: 8190, fields_max: 100, field_bytes_max: 8190, head_bytes_max: 64 << 10 };

const TINY: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

const BROWSER: &str = "GET /some/path?name=value HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.org/other\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Priority: u=0, i\r\n\r\n";

/// Makes a head of 30 fields: a browser's, fields that proxies add, and cookies of 1 KiB.
fn large() -> String {
    let mut head =
        BROWSER.trim_end_matches("\r\n").replace("session=", &format!("track={}; session=", "x".repeat(960)));
    head.push_str("\r\n");
    for number in 0..18 {
        write!(head, "X-Forwarded-Detail-{number}: value {number} of what a proxy has to say\r\n").unwrap();
    }
    head + "\r\n"
}

fn heads() -> [(&'static str, String); 3] {
    [("tiny", TINY.to_owned()), ("12 fields", BROWSER.to_owned()), ("30 fields", large())]
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for (name, head) in heads() {
        let head = head.as_bytes();
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(BenchmarkId::new("whole", name), |bencher| {
            bencher.iter(|| HeadScanner::default().scan(black_box(head), &LIMITS).unwrap().unwrap());
        });
        group.bench_function(BenchmarkId::new("in pieces of 64 bytes", name), |bencher| {
            bencher.iter(|| {
                let mut scanner = HeadScanner::default();
                let mut end = 0;
                loop {
                    end = (end + 64).min(head.len());
                    if let Some(length) = scanner.scan(black_box(&head[..end]), &LIMITS).unwrap() {
                        break length;
                    }
                }
            });
        });
    }
    group.finish();
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (name, head) in heads() {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| RequestHead::parse(black_box(head.as_bytes()), &LIMITS).unwrap());
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let hello: &[(&str, &str)] = &[("Content-Type", "text/plain"), ("Content-Length", "13")];
    let page: &[(&str, &str)] = &[
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", "48123"),
        ("Vary", "Cookie, Accept-Encoding"),
        ("Cache-Control", "max-age=0, no-cache, no-store, must-revalidate, private"),
        ("X-Frame-Options", "DENY"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Set-Cookie", "csrftoken=0123456789abcdef; expires=Sat, 20 Nov 2027 00:00:00 GMT; Path=/; SameSite=Lax"),
        ("Set-Cookie", "sessionid=fedcba9876543210; HttpOnly; Path=/; SameSite=Lax; Secure"),
    ];
    let chunked: &[(&str, &str)] = &[("Content-Type", "text/plain")];
    let context = Context {
        version: Version::Http11,
        is_head: false,
        persistence: Persistence::KeepAlive,
        body_bytes: None,
        date: b"Sat, 21 Nov 2026 00:00:00 GMT",
        server: Some(b"maypole"),
        request_id: None,
    };
    let mut group = criterion.benchmark_group("encode");
    for (name, fields) in [("2 fields", hello), ("10 fields", page), ("chunked", chunked)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut head = ResponseHead::new(black_box(b"200 OK")).unwrap();
                for (name, value) in black_box(fields) {
                    head.push_field(name.as_bytes(), value.as_bytes()).unwrap();
                }
                head.encode(&context)
            });
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    const BODY_BYTES: usize = 64 << 10;
    let chunks = |size: usize| {
        let chunk = format!("{size:x}\r\n{}\r\n", "x".repeat(size));
        (Framing::Chunked, chunk.repeat(BODY_BYTES / size) + "0\r\n\r\n")
    };
    let bodies = [
        ("length", (Framing::Length(BODY_BYTES as u64), "x".repeat(BODY_BYTES))),
        ("chunks of 4 KiB", chunks(4096)),
        ("chunks of 16 bytes", chunks(16)),
    ];
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Bytes(BODY_BYTES as u64));
    for (name, (framing, body)) in bodies {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut decoder = BodyDecoder::new(framing, u64::MAX);
                // A connection reads 16 KiB at once.
                for mut piece in black_box(body.as_bytes()).chunks(16 << 10) {
                    while !piece.is_empty() {
                        let step = decoder.decode(piece).unwrap();
                        black_box(step.data);
                        piece = &piece[step.consumed..];
                    }
                }
                assert!(decoder.is_complete());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, scan, parse, encode, decode);
criterion_main!(benches);
