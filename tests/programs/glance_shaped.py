"""A parent that binds, forks workers that serve, and replaces them at SIGHUP: in the shape of Glance's and Heat's.

    python glance_shaped.py WORKERS

A worker that gets SIGHUP sets `is_accepting` to False and closes its socket, as theirs do, finishes what runs and
exits with 0; SIGTERM raises SystemExit in it. *Runs on*: the parent's main thread waits for signals and children; a
worker's main thread is in `server`. `/pid` returns the worker's process ID, `/slow` takes a second.
"""

import os
import signal
import socket
import sys
import time

import maypole
from maypole import eventlet as wsgi

SOCK = socket.create_server(("127.0.0.1", 0), backlog=128)
wsgi.HttpProtocol.default_request_version = "HTTP/1.0"
wsgi.MAX_HEADER_LINE = 16384


def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print(f"slow {os.getpid()}", flush=True)
        time.sleep(1)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def hangup(number, frame):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    wsgi.is_accepting = False
    SOCK.close()


def worker():
    signal.signal(signal.SIGHUP, hangup)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    wsgi.server(SOCK, application, custom_pool=maypole.Pool(100), debug=False, keepalive=True, socket_timeout=900)


def main():
    signals = {signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def start():
        pids = set()
        for _ in range(int(sys.argv[1])):
            pid = os.fork()
            if pid == 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
                code = 1
                try:
                    worker()
                    code = 0
                finally:
                    os._exit(code)
            pids.add(pid)
        return pids

    current = start()
    children = set(current)
    stopping = False
    while children:
        number = signal.sigwait(signals)
        if number == signal.SIGHUP:
            old, current = current, start()
            children |= current
            for pid in old:
                os.kill(pid, signal.SIGHUP)
        elif number == signal.SIGTERM:
            stopping = True
            for pid in children:
                os.kill(pid, signal.SIGTERM)
        else:
            for pid in list(children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    children.discard(pid)
                    print(f"ended {pid} {os.waitstatus_to_exitcode(status)}", flush=True)
    sys.exit(0 if stopping else 1)


if __name__ == "__main__":
    main()
