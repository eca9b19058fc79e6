//! Maypole: a WSGI server for many clients at once.
//!
//! Coroutines and the kernel hold clients that are idle, that send slowly or that read slowly. Python runs on a few
//! threads, which only get complete requests. The crate is the stand-alone program and the Python extension module; its
//! Rust interface is for these two and for the tests, and may change at any time.
//!
//! The modules, in the order in which the code runs. A module imports only the modules and the outside crates that its
//! row names, which `tests/tidy` checks.
//!
//! | module | owns | imports | outside crates |
//! |---|---|---|---|
//! | `main` | the stand-alone binary | cli, config, directory, evaluation, link, supervisor, sys, worker | |
//! | `python` | the extension module: servers inside a Python program | cli, config, directory, embedded, executor, instance, interpreter, link, listener, logs, phrase, pool, server, signals, spool, stdlib, supervisor, sys, tls, worker, wsgi | anyhow, crossbeam, log, pyo3 |
//! | `worker` | a stand-alone process, from its settings to its exit: import, listen, signals | cli, config, connection, control, executor, hooks, identity, instance, interpreter, link, listener, logs, memory, metrics, phrase, requests, scoreboard, server, signals, spool, status, stdlib, sys, systemd, throttle, tls, watch, wsgi | anyhow, log, pyo3, serde, serde_json, signal-hook |
//! | `supervisor` | the process that starts workers, watches them, and replaces them | cli, config, control, identity, instance, link, listener, logs, metrics, phrase, scoreboard, signals, status, sys, systemd, tls, watch | anyhow, log, serde, serde_json, signal-hook |
//! | `directory` | a process that serves the files of a directory and nothing else, without Python | cli, config, identity, instance, listener, logs, phrase, server, signals, sys, systemd, tls | anyhow, log, signal-hook |
//! | `embedded` | one server inside a program: its phases, from start to stop and again | config, instance, listener, logs, metrics, pool, requests, server, sys, tls, wsgi | anyhow |
//! | `status` | what a service shows of itself over HTTP: probes, metrics, numbers; its commands arrive here; its numbers go to StatsD | config, control, http, listener, logs, metrics, phrase, scoreboard, sys, throttle | anyhow, log, prometheus-client, serde, serde_json |
//! | `instance` | a server with its applications: the order of its start and of its end | config, files, handler, listener, logs, memory, pool, scoreboard, server, sites, sys, tls, wsgi | anyhow, log, pyo3 |
//! | `signals` | the signals of a stand-alone process, handed out as commands; acts on none | stdlib, sys | anyhow, pyo3, signal-hook |
//! | `identity` | what the system knows the process by: user and group, PID file, title, working directory | config, logs, spool, sys | anyhow, log |
//! | `evaluation` | a process that evaluates a configuration file in Python | cli, config, interpreter | pyo3 |
//! | `systemd` | what systemd is told of the service | sys | log |
//! | `cli` | argv → `Config`; exit codes | config, control, migrate | |
//! | `migrate` | the configuration of another server as a file of Maypole | config | |
//! | `hooks` | the functions of an operator's file that a process calls at events of its life | config, wsgi | log, pyo3 |
//! | `interpreter` | finding and starting CPython | sys | pyo3 |
//! | `server` | one serving process's connections: wires listener → connection → handler → idle; drains | admission, config, connection, drain, handler, http, idle, listener, logs, memory, metrics, phrase, pool, requests, scoreboard, spool, sys, throttle, timer, tls, websocket | anyhow, log |
//! | `wsgi` | requests to Python: environ, start_response, input, file_wrapper, the call; importing the application | admission, config, drain, executor, files, handler, http, logs, memory, metrics, phrase, pool, requests, scoreboard, sites, spool, stdlib, sys, tls, websocket | crossbeam, log, memchr, pyo3 |
//! | `connection` | one connection: read, call, write, keep or close | admission, config, drain, forwarded, handler, http, http2, logs, metrics, phrase, pool, proxy, requests, spool, sys, throttle, timer, tls, websocket | h2, http_types, log, octets, serde, serde_json, tokio |
//! | `sites` | which application gets a request, by its host and its path: sans-I/O | config, handler, http | |
//! | `forwarded` | what proxies say about the client and its URL in the fields of a request: sans-I/O | config, handler, http | |
//! | `requests` | the table of requests that are being served, for reports | chain, handler, http, phrase, spool, sys | |
//! | `files` | files below a prefix of the path, served without Python; files that the application names | admission, config, drain, handler, http, metrics, phrase, pool, sys, throttle | cap-std, log, mime_guess |
//! | `handler` | the seam: `trait Handler`, `Request`, `Responder`, `Block` | admission, drain, http, metrics, pool, spool, sys, tls, websocket | log, thiserror |
//! | `websocket` | WebSockets: the handshake, the protocol on bytes, what an application and the server share of a socket | http, metrics, sys | base64, ring, thiserror, tungstenite |
//! | `admission` | what a handler decides once a head has arrived: which body, how long, at which pool | config, http, pool | |
//! | `executor` | OS threads, their queue, the GIL's hand-over; no HTTP, no WSGI | metrics, phrase, sys, throttle | crossbeam, log, pyo3 (GIL only) |
//! | `control` | the commands that an operator gives to a running service: sockets, the way to the process, the command line | config, documents, listener, phrase, sys, top | anyhow, log, serde, serde_json |
//! | `top` | the live page of a service in a terminal | documents, phrase, sys | signal-hook |
//! | `documents` | what a service shows as JSON, as a command reads it | phrase | serde, serde_json |
//! | `listener` | sockets: TCP, unix, inherited; accept with back-off | config, sys, throttle, timer | anyhow, log, serde, socket2 |
//! | `idle` | idle connections, and connections that wait for a coroutine; generic over the value | chain, sys, timer | |
//! | `timer` | deadlines: a heap, and a coroutine that wakes connections | chain, sys | |
//! | `pool` | permits, fair, with a deadline | chain, metrics, sys | |
//! | `drain` | the stop of a server: its stage, and waiting for its end | chain, sys | |
//! | `chain` | linked lists from which any element can leave | | |
//! | `spool` | bytes in memory up to a limit, then in unlinked temporary files, which have a common limit | sys, throttle | crossbeam, log, tempfile, thiserror |
//! | `link` | the messages between the supervisor and a worker | sys | serde, serde_json |
//! | `scoreboard` | what each worker does at this moment, in memory that all of them share | metrics, sys | |
//! | `logs` | error lines and access lines | config, phrase, sys | anyhow, crossbeam, log, thiserror |
//! | `watch` | files whose change is reported: what is known of each, and the kernel's notices | config, sys | log, notify |
//! | `tls` | TLS on bytes: certificates, sessions, and the threads of the handshakes | config, sys, throttle | crossbeam, log, pem, pkcs8, ring, rustls, thiserror, x509-cert |
//! | `config` | every setting, once: type, default, limit, reason; the options of other servers | http | clap, log, serde, serde_json, strsim, thiserror, toml |
//! | `proxy` | the header with which a proxy names the client of a connection: sans-I/O | | memchr, thiserror |
//! | `http2` | HTTP/2 on bytes, as far as a crate leaves it to a server: heads in the form of HTTP/1, frames counted | http | http_types, memchr, octets, thiserror |
//! | `http` | HTTP/1.x on bytes: sans-I/O, no clock, no coroutine, no Python | phrase | httparse, httpdate, memchr, thiserror |
//! | `stdlib` | the modules of Python's library that the server uses, imported once and kept | | pyo3 |
//! | `memory` | when freed memory is kept, and when it is given back to the system | sys | |
//! | `metrics` | what the server counts: counters, gauges, times, and their values at one moment | phrase, sys | |
//! | `throttle` | log lines that a loop can repeat: one per interval | sys | |
//! | `phrase` | parts of sentences for log lines: a number with its noun, a length of time, what a client sent; numbers and bytes as characters; text in HTML and on a terminal | | |
//! | `sys` | system calls, locks and the coroutine runtime: the only user of libc, and of `unsafe` outside the pyo3 glue | | libc, may, socket2, crossbeam, thiserror |

pub mod admission;
pub mod chain;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod directory;
mod documents;
pub mod drain;
mod embedded;
pub mod evaluation;
pub mod executor;
pub mod files;
pub mod forwarded;
pub mod handler;
pub mod hooks;
pub mod http;
mod http2;
pub mod identity;
pub mod idle;
mod instance;
pub mod interpreter;
pub mod link;
pub mod listener;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod migrate;
pub mod phrase;
pub mod pool;
pub mod proxy;
pub mod python;
pub mod requests;
pub mod scoreboard;
pub mod server;
mod signals;
pub mod sites;
pub mod spool;
pub mod status;
pub mod stdlib;
pub mod supervisor;
pub mod sys;
pub mod systemd;
pub mod throttle;
pub mod timer;
pub mod tls;
pub mod top;
pub mod watch;
pub mod websocket;
pub mod worker;
pub mod wsgi;
