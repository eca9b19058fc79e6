//! A load-test target without Python: what the coroutine runtime alone can serve on this machine.
//!
//! It answers every request with `Hello, World!`, by `may_minihttp` on the runtime that Maypole uses. A benchmark
//! that has it in the same run says how far a server is from the ceiling, and whether it is the load generator that
//! is the limit.
//!
//! ```text
//! cargo run --release --example calibrate -- 127.0.0.1:8000
//! cargo run --release --example calibrate -- --workers 2 --stack-size 65536 127.0.0.1:0
//! ```
//!
//! It says where it listens on its standard error, and serves until it is killed.

use std::io;
use std::net::{SocketAddr, TcpListener};

use clap::Parser;
use may_minihttp::{HttpServer, HttpService, Request, Response};

/// Answers `Hello, World!` to everything: the ceiling in a benchmark.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes a free one.
    #[arg(default_value = "127.0.0.1:8000")]
    address: SocketAddr,
    /// Threads that run coroutines.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// A coroutine's stack in bytes, rounded up to whole pages.
    #[arg(long, default_value_t = 64 << 10)]
    stack_size: usize,
}

#[derive(Clone)]
struct Hello;

impl HttpService for Hello {
    fn call(&mut self, _: Request, response: &mut Response) -> io::Result<()> {
        response.header("Content-Type: text/plain").body("Hello, World!");
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    may::config()
        .set_workers(options.workers)
        .set_stack_size((options.stack_size / size_of::<usize>()).next_multiple_of(512))
        .set_worker_pin(false);
    let address = match options.address.port() {
        // The server does not say which port it got, so take one and give it back.
        0 => TcpListener::bind(options.address)?.local_addr()?,
        _ => options.address,
    };
    let server = HttpServer(Hello).start(address)?;
    eprintln!("listening on http://{address}");
    server.join().map_err(|_| anyhow::anyhow!("the server ended"))
}
