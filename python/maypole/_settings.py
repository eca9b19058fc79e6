"""The settings as keywords, with their types, for editors and type checkers: `**settings: Unpack[Settings]`.

Made from the command line's own description by `MAYPOLE_BLESS=1 cargo test --test generated`; do not edit it.
"""

from __future__ import annotations

from os import PathLike
from typing import TypedDict


class Settings(TypedDict, total=False):
    """The settings of `maypole.Server`. None means the default."""

    werkzeug_socket: bool | None
    """Give WebSocket libraries the connection: `werkzeug.socket`."""

    bind: str | list[str] | None
    """Listen here: `HOST:PORT`, `[V6]:PORT`, `unix:PATH`, `unix:@NAME`, `fd://N`. Repeatable. Without it: systemd's
    sockets, `0.0.0.0:$PORT`, or the default. Default: `127.0.0.1:8000`."""

    host: str | None
    """Listen on this host: the host of `--bind`. Default: `127.0.0.1`."""

    port: int | None
    """Listen on this port: the port of `--bind`. Default: `8000`."""

    unix_socket_mode: int | str | None
    """Give a unix socket this file mode. Default: 777 less `--umask`, so that a proxy of any user can connect."""

    unix_socket_owner: str | None
    """Give a unix socket this owner. Default: the server's."""

    backlog: int | None
    """Let the kernel hold this many connections that are not accepted yet. It drops more. Default: `2048`."""

    certfile: str | PathLike[str] | list[str | PathLike[str]] | None
    """Speak TLS with the certificate of this file, in PEM, and with those that lead to its authority. Repeatable."""

    keyfile: str | PathLike[str] | list[str | PathLike[str]] | None
    """Take the key of the certificate from this file, in PEM. Repeatable. Default: it is in `--certfile`."""

    keyfile_password: str | None
    """Decrypt keys with this password, `file:PATH` or `env:NAME`. Without it an encrypted key ends the start."""

    ca_certs: str | PathLike[str] | None
    """Trust the client certificates of the authorities in this file, in PEM. It needs `--cert-reqs`."""

    cert_reqs: str | None
    """Ask clients for a certificate: `none`, `optional`, `required`. A wrong one ends the connection. Default:
    `none`."""

    ssl_crl: str | PathLike[str] | None
    """Refuse client certificates that this file revokes, in PEM."""

    ciphers: str | None
    """Use these cipher suites only, in this order. Names of OpenSSL and of IANA, separated by colons."""

    ssl_version: str | None
    """Speak these versions: `TLS` (1.2 and 1.3), `TLSv1_2`, `TLSv1_3`. Refuse others. Default: `TLS`."""

    https_redirect: bool | None
    """Redirect plain HTTP on an address with TLS to `https://`, with 308. Without it the answer is 400."""

    ktls: str | None
    """Let the kernel seal the files of clients with TLS: `auto`, if it can, or `off`. Default: `auto`."""

    http: str | None
    """Speak HTTP/`1`, HTTP/`2`, or with `auto` what each client chooses. Refuse the other one. Default: `auto`."""

    http2_max_connections: int | None
    """Serve at most this many HTTP/2 connections at once. Offer HTTP/1.1 to further clients with TLS. Default:
    `1000`."""

    http2_max_concurrent_streams: int | None
    """Serve at most this many requests of one HTTP/2 connection at once. Default: `100`."""

    http2_keep_alive: float | str | None
    """Close an HTTP/2 connection that has had no request for this long. Default: `30s`."""

    proxy_protocol: str | None
    """Expect a PROXY header on each connection: `off`, `v1`, `v2`, `auto`. Answer 400 without it. Default: `off`."""

    proxy_allow_from: str | list[str] | None
    """Take PROXY headers from these networks only, or `*`. Answer 403 to others. Default: `127.0.0.1,::1`."""

    forwarded_allow_ips: str | list[str] | None
    """Take the client and its URL from the proxies of these networks, or `*`: what X-Forwarded-For and others say.
    Default: `127.0.0.1,::1`."""

    forwarded_headers: str | None
    """Read what these fields of proxies say: `x-forwarded`, `forwarded`, or `none`. Default: `x-forwarded`."""

    trusted_proxy_count: int | None
    """Expect this many proxies before the client, instead of knowing their addresses. Default: `0`."""

    strip_untrusted_forwarded: str | None
    """Leave out the fields of proxies that are not trusted: `on`, `off`. The application does not see them then.
    Default: `on`."""

    static: str | list[str] | None
    """Serve the files of a directory below this prefix, without Python: `--static /static=public`. Repeatable."""

    static_cache_control: str | None
    """Send this `Cache-Control` with each file, such as `public, max-age=3600`. Default: none."""

    sendfile_root: str | list[str] | None
    """Send files below this directory that the application names in `X-Sendfile` or `X-Accel-Redirect`. Repeatable."""

    scheme: str | None
    """Give the application this scheme if no proxy names one: `http`, `https`. Default: `http`."""

    prefix: str | None
    """Serve the application below this path. Answer 404 to all others."""

    pool_size: int | None
    """Serve at most this many requests at once. More wait for up to `--queue-timeout`. Default: `1000`."""

    threads: int | None
    """Run the application on at most this many threads. Only as many start as it can use. Default: `256`."""

    max_connections: int | None
    """Hold at most this many connections. One more closes the longest idle one. Default: as `ulimit -n` allows."""

    limit_request_line: int | str | None
    """Answer 414 to a longer request line. Default: `8190`."""

    limit_request_fields: int | None
    """Answer 431 to more header fields. Default: `100`."""

    limit_request_field_size: int | str | None
    """Answer 431 to a longer header field. Default: `8190`."""

    limit_request_head: int | str | None
    """Answer 431 to a longer request head. Default: `64KiB`."""

    max_body_size: int | str | None
    """Answer 413 to a longer request body. Default: `1GiB`."""

    request_buffer: int | str | None
    """Hold a request body up to this size in memory, and put a longer one into a temporary file. Default: `4MiB`."""

    stream_requests: int | str | None
    """Pass a body on while it arrives: `never`, above SIZE, `always`. The application may wait then. Default:
    `never`."""

    response_buffer: int | str | None
    """Hold this much of a response in memory for a slow client, and put more into a temporary file. Default:
    `64KiB`."""

    response_spool: int | str | None
    """Put this much of a response into a temporary file. For more, the application waits for the client. Default:
    `64MiB`."""

    spool_dir: str | PathLike[str] | None
    """Make temporary files here. Default: `$TMPDIR`, else `/tmp`."""

    spool_total: int | str | None
    """Limit all temporary files together. Then uploads wait, then get 503. Default: 1/4 of the free space."""

    keep_alive: float | str | None
    """Close a connection that is idle this long. 0 closes it after each response. Default: `75s`."""

    header_timeout: float | str | None
    """Answer 408 to a head that takes longer than this. Default: `10s`."""

    body_timeout: float | str | None
    """Answer 408 if a body stops for this long. Default: `30s`."""

    write_timeout: float | str | None
    """Close the connection if the client reads nothing for this long. Default: `60s`."""

    queue_timeout: float | str | None
    """Answer 503 to a request that waits this long for its turn. 0 does not wait. Default: `30s`."""

    request_timeout: float | str | None
    """Answer 504 to a request that takes this long, log where it is, and give up its thread. 0 is no limit. Default:
    `0s`."""

    request_interrupt: bool | None
    """Raise `maypole.RequestTimeout` in the code of a request at its `--request-timeout`, to end it."""

    graceful_timeout: float | str | None
    """Let requests end for this long after SIGTERM, then cut them. 0 cuts them at once. Default: `30s`."""

    max_suspended: int | None
    """Set at most this many suspended responses aside. More hold their threads. Default: 9/10 of
    `--max-connections`."""

    suspended_on_stop: str | None
    """Close suspended responses at a stop: at once with `close`, when `--graceful-timeout` is nearly over with
    `finish`. Default: `close`."""

    min_rate: int | str | None
    """Close a connection slower than this, in bytes a second, after 5 s of grace. 0 is no limit. Default: `240`."""

    access_logfile: str | PathLike[str] | None
    """Log each request to a file, `none` or `-` (stdout). Default: `none`."""

    access_logformat: str | None
    """Log each request as `common`, `combined`, `json` or in gunicorn's atoms. Default: as gunicorn does. Default:
    `%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"`."""

    log_level: str | None
    """Leave out lines less serious than `debug`, `info`, `warning`, `error` or `critical`. Default: `info`."""

    access_log_slower_than: float | str | None
    """Write a line only for requests that take longer than this, and for status 500 and above. Default: for all."""

    access_log_sample: float | str | None
    """Write a line only for this share of the requests, such as 0.01, and for status 500 and above. Default: all."""

    request_id_header: str | None
    """Give each request an id in this field: a proxy's, or a new one. Default: none. Example: X-Request-ID."""

    status_bind: str | list[str] | None
    """Show what the service does on this address: probes, metrics, and a page for people. Repeatable. Default: none."""

    status_allow: str | list[str] | None
    """Let these networks read `--status-bind`, or `*`. Answer 403 to others. Default: `127.0.0.1,::1`."""

    slow_request: float | str | None
    """Log a request that takes this long, with the code in which it spent most of its time. 0 logs none. Default:
    `0s`."""

    max_http_version: str | None
    """Answer in HTTP `1.1` or `1.0` at most. Default: `1.1`."""

    server_header: str | None
    """Send this Server field; empty sends none. Default: `maypole`."""

    stack_size: int | str | None
    """Give each coroutine a stack of this size. Default: `128KiB`."""


class ProcessSettings(Settings, total=False):
    """The settings of `maypole.serve`: those of a server, and those of a process that does nothing else."""

    factory: bool | None
    """Call the named callable, and serve what it returns."""

    paste: str | PathLike[str] | None
    """Serve the application of a `PasteDeploy` file."""

    chdir: str | PathLike[str] | None
    """Change to this directory first; paths are relative to it."""

    pythonpath: str | PathLike[str] | list[str | PathLike[str]] | None
    """Add this directory to `sys.path`. Repeatable."""

    mount: str | list[str] | None
    """Serve another application below this path. Repeatable."""

    virtual_host: str | list[str] | None
    """Serve another application for this host, or for `*.DOMAIN`. Repeatable."""

    error_logfile: str | PathLike[str] | None
    """Log the server's lines to a file, `none` or `-` (stderr). Default: `-`."""

    log_config: str | PathLike[str] | None
    """Log through Python's `logging`, which this file configures. Default: none."""

    log_syslog: bool | None
    """Send log lines to syslog, besides the files. `--error-logfile none` leaves syslog alone."""

    log_syslog_to: str | None
    """Send them to `unix:///PATH`, `udp://HOST:PORT` or `tcp://HOST:PORT`. Default: `unix:///dev/log`."""

    log_syslog_prefix: str | None
    """Put this name into the tag of each message: `maypole.NAME.error`. Default: none."""

    log_syslog_facility: str | None
    """Send the messages as this facility, such as `user`, `daemon` or `local0` to `local7`. Default: `user`."""

    disable_redirect_access_to_syslog: bool | None
    """Leave the lines of the access log out of syslog."""

    control: str | PathLike[str] | None
    """Take the commands `maypole status`, `reload` and others on this unix socket, too. Default: an abstract name
    only."""

    alarm_after: float | str | None
    """Log all stacks once if no thread gets the GIL, or no request ends, for this long. 0 never does. Default:
    `10s`."""

    statsd_host: str | None
    """Send the numbers to a StatsD server once a second, at `HOST:PORT` or `unix:///PATH`. Default: to none."""

    statsd_prefix: str | None
    """Put this and a dot before each name for StatsD, such as `shop`. Default: nothing."""

    dogstatsd_tags: str | None
    """Add these tags for DogStatsD to each number, such as `service:shop,env:live`. Default: none."""

    capture_output: bool | None
    """Write what the application prints to the error log."""

    workers: int | str | None
    """Serve with this many worker processes: a number, or `auto` for one per processor. Default: one process."""

    preload: bool | None
    """Import the application once, and fork the workers. It implies `--workers 1`."""

    worker_timeout: float | str | None
    """Replace a worker that does not respond for this long. 0 never does. Default: `30s`."""

    worker_start_timeout: float | str | None
    """Kill a new worker that does not serve after this long. 0 waits without a limit. Default: `120s`."""

    max_requests: int | None
    """Replace a worker after this many requests. 0 never does. It implies `--workers 1`. Default: `0`."""

    max_requests_jitter: int | None
    """Add a random number of requests, up to this one, to `--max-requests`. Default: `0`."""

    max_worker_memory: int | str | None
    """Replace a worker that uses more memory than this. It implies `--workers 1`. Default: no limit."""

    worker_lifetime: float | str | None
    """Replace a worker after this time. 0 never does. It implies `--workers 1`. Default: `0s`."""

    hooks: str | PathLike[str] | None
    """Call the functions of this Python file when processes start and end. It implies `--workers 1`. Default: none."""

    reload: bool | None
    """Reload the application when one of its files changes, for development. It implies `--workers 1`."""

    reload_extra_file: str | PathLike[str] | list[str | PathLike[str]] | None
    """Reload when this file or a file in this directory changes, too. Repeatable."""

    reload_engine: str | None
    """Find changed files with `inotify`, by looking at each (`poll`), or as the system allows (`auto`). Default:
    `auto`."""

    uwsgi_module: bool | None
    """Give the application a module `uwsgi`, for services that need one."""

    uwsgi_opt: str | list[str] | None
    """Put this into `uwsgi.opt`. Repeatable. `%t` in the value is the time of the start."""

    config: str | PathLike[str] | None
    """Read settings from this file: TOML, a Python file of gunicorn, `python:MODULE`, or `none`. Default: the table in
    `pyproject.toml`."""

    user: str | None
    """Run as this user, once the addresses and the log files are open. Default: the user that starts it."""

    group: str | None
    """Run as this group. Default: the group of `--user`."""

    pid: str | PathLike[str] | None
    """Write the number of the process to this file, and remove the file at the end. Default: no file."""

    proc_name: str | None
    """Show this name in `ps` and `top`. Default: the command line, or the application's name with workers."""

    raw_env: str | list[str] | None
    """Set this environment variable for the application. Repeatable."""

    worker_tmp_dir: str | PathLike[str] | None
    """Do nothing: workers have no heartbeat file. The option is accepted for gunicorn's command lines."""

    umask: int | str | None
    """Take these mode bits, such as 027, from new files. Default: keep the umask that the process has."""

    init: str | None
    """Start an init as process 1 of a container, or not: `auto`, `off`. It reaps orphans and passes signals on.
    Default: `auto`."""

    check_config: bool | None
    """Check the settings, import the application, and exit."""

    print_config: bool | None
    """Print each setting, its value and its source, and exit."""
