//! A load-test target without Python: the most that the coroutine runtime can serve on this machine.
//!
//! It answers every request with `Hello, World!`, by `may_minihttp` on the runtime that Maypole uses. Use it beside a
//! server in a benchmark. If it is no faster than the server, the load generator is the limit.
//!
//! ```text
//! cargo run --release --example calibrate -- 127.0.0.1:8000
//! cargo run --release --example calibrate -- --workers 2 --stack-size 65536 127.0.0.1:0
//! ```
//!
//! It prints the address on standard error when it listens, and serves until it is killed. If the address is in use, it
//! says so and exits with 1.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::anyhow;
use clap::Parser;
use may_minihttp::{HttpServer, HttpService, Request, Response};

/// Answers every request with `Hello, World!`, without Python: the upper limit in a benchmark.
#[derive(Parser)]
struct Options {
    /// Listen on this address; port 0 takes a free port.
    #[arg(default_value = "127.0.0.1:8000", value_parser = address)]
    address: SocketAddr,
    /// Run coroutines on this many threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
    /// Give each coroutine a stack of this size, rounded up to whole pages.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10)]
    stack_size: usize,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:8000 or [::1]:8000".to_owned())
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
    // `may_minihttp` sets SO_REUSEPORT, so a second server on the port would silently take half of the requests.
    // Binding first without that option fails if the address is in use. It also shows which port was taken for port 0.
    let bound = TcpListener::bind(options.address)
        .map_err(|error| anyhow!("cannot listen on {}: {}", options.address, error.kind()))?;
    let address = bound.local_addr()?;
    drop(bound);
    let server = HttpServer(Hello).start(address)?;
    eprintln!("listening on http://{address}");
    server.join().map_err(|_| anyhow!("the server ended"))
}
