#!/usr/bin/env python3
"""Measures the memory of clients, threads and waiting requests: the figures of docs/howto/sizing.md.

    python3 benches/load/memory.py [PROGRAM [WORD]]        target/release/maypole, unless told; only rows with this word

Each row is a server of its own. Memory is the process's own (`RssAnon`): before the clients come, at its highest, and when it no
longer changes while they are there. `each` is the last less the first, divided by their number. The Python of the virtual
environment that is active needs Flask, Django and flask-sock.

The last line is one server with the settings of the page for a container of 512 MB, and all kinds of clients at once.
"""

import os
import pathlib
import re
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.path.abspath(sys.argv[1]) if sys.argv[1:] else str(ROOT / "target/release/maypole")
WORD = "".join(sys.argv[2:3])
CERTIFICATES = ROOT / "tests/certificates"
TLS = ["--certfile", str(CERTIFICATES / "ecdsa.pem"), "--keyfile", str(CERTIFICATES / "ecdsa.key")]
SETTLE_SECONDS = 2
PATIENCE = 60
KIB = 1024

PLAIN = """
import time
def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        time.sleep(20)
    if environ["PATH_INFO"] == "/read":
        environ["wsgi.input"].read()
        time.sleep(20)
    body = b"x" * (1 << 20) if environ["PATH_INFO"] == "/large" else b"ok"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
FLASK = """
import time
from flask import Flask, render_template_string, request
from flask_sock import Sock
application = Flask(__name__)
sock = Sock(application)
@application.route("/")
def index():
    return "ok"
@application.route("/wait")
def wait():
    text = render_template_string("{% for n in numbers %}{{ n }} {% endfor %}", numbers=range(1000))
    time.sleep(20)
    return text
@application.route("/large")
def large():
    return bytes(1 << 20)
@application.route("/read", methods=["POST"])
def read():
    request.get_data()
    return wait()
@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())
"""
DJANGO = """
import time
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="for this", ALLOWED_HOSTS=["*"], INSTALLED_APPS=[
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
def index(request):
    return HttpResponse("ok")
def wait(request):
    time.sleep(20)
    return HttpResponse("ok")
urlpatterns = [path("", index), path("wait", wait)]
application = get_wsgi_application()
"""


class Server:
    def __init__(self, directory, application, *options):
        (pathlib.Path(directory) / "measured.py").write_text(application)
        command = [PROGRAM, "--bind", "127.0.0.1:0", "--max-connections", "15000", "--keep-alive", "1h", *options,
                   "measured"]
        self.process = subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on https?://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            sys.exit("the server does not start")
        # As after an hour of service: all modules are imported, and all caches are filled.
        for _ in range(50):
            (ask_in_tls(self) if "--certfile" in options else self.ask("/")).close()
        time.sleep(SETTLE_SECONDS)

    def send(self, request):
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        connection.sendall(request)
        return connection

    def ask(self, path):
        connection = self.send(head(path))
        connection.recv(65536)
        return connection

    def memory(self, name="RssAnon"):
        """Returns the memory in KiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])

    def settled(self, name="RssAnon"):
        """Returns the peak of memory from now on, and the memory once it no longer changes."""
        end, highest, last, since = time.monotonic() + 15, 0, 0, 0.0
        while time.monotonic() < end:
            now = self.memory(name)
            highest = max(highest, now)
            if abs(now - last) > now / 100:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > 2 * SETTLE_SECONDS:
                break
            time.sleep(0.05)
        return highest, self.memory(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def head(path, *fields):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


def upload(size):
    return f"POST /read HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size)


def websocket(server):
    connection = server.send(head(
        "/echo", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: a2V5a2V5a2V5a2V5a2V5a2U="))
    connection.recv(65536)
    return connection


def ask_in_tls(server, version=ssl.TLSVersion.TLSv1_3):
    """Returns a client with a session of TLS that has got its response. Its own side of the session is forgotten."""
    context = CONTEXTS.get(version)
    if context is None:
        context = CONTEXTS[version] = ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["http/1.1"])
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), PATIENCE), server_hostname="localhost")
    connection.sendall(head("/"))
    while not connection.recv(65536).endswith(b"ok"):
        pass
    return socket.socket(fileno=connection.detach())


CONTEXTS = {}


def measure(what, application, count, client, *options):
    """Prints a row: the memory of `count` clients, each made by `client(server)`."""
    if WORD not in what:
        return
    with tempfile.TemporaryDirectory() as directory, Server(directory, application, *options) as server:
        before = server.memory()
        clients = [client(server) for _ in range(count)]
        highest, after = server.settled()
        each, threads = (after - before) / count, server.memory("Threads")
        print(f"| {what} | {count} | {before / KIB:.0f} | {highest / KIB:.0f} | {after / KIB:.0f} | {each:.1f} KiB | {threads} |", flush=True)
        for connection in clients:
            connection.close()


def container():
    """Measures the page's settings for 512 MB, under 2,000 idle clients, 400 requests, 200 uploads and 200 slow readers."""
    options = ["--threads", "32", "--request-buffer", "1MiB", "--max-body-size", "50MiB", "--queue-timeout", "60s"]
    with tempfile.TemporaryDirectory() as directory, Server(directory, FLASK, *options) as server:
        before = server.memory("VmRSS")
        clients = [server.ask("/") for _ in range(2000)]
        clients += [server.send(head("/large")) for _ in range(200)]
        clients += [server.send(head("/wait")) for _ in range(400)]
        clients += [server.send(upload(1 << 20)) for _ in range(200)]
        highest, after = server.settled("VmRSS")
        threads = server.memory("Threads")
        print(f"\n512 MB: {before / KIB:.0f} MiB before, at most {highest / KIB:.0f} MiB, then {after / KIB:.0f} MiB, {threads} threads")
        for connection in clients:
            connection.close()


def main():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print("| what | number | before, MiB | highest, MiB | then, MiB | each | threads |\n|---|--:|--:|--:|--:|--:|--:|")
    wait = lambda server: server.send(head("/wait"))
    slow = ["--queue-timeout", "60s"]
    measure("idle clients, plain application", PLAIN, 10_000, lambda server: server.ask("/"))
    measure("idle clients with TLS 1.3", PLAIN, 10_000, ask_in_tls, *TLS)
    measure("idle clients with TLS 1.2", PLAIN, 10_000, lambda server: ask_in_tls(server, ssl.TLSVersion.TLSv1_2), *TLS)
    measure("clients in the middle of a head", PLAIN, 5_000, lambda server: server.send(b"GET / HTTP/1.1\r\nHost: a\r\n"), "--header-timeout", "60s")
    measure("requests inside a plain application", PLAIN, 250, wait)
    measure("requests inside Flask with a template", FLASK, 250, wait)
    measure("requests inside Django", DJANGO, 250, wait)
    measure("requests that wait for a thread", PLAIN, 900, wait, "--threads", "4", *slow)
    measure("requests that wait for a place in the pool", PLAIN, 2_000, wait, "--threads", "4", "--pool-size", "8", *slow)
    measure("bodies of 1 MiB in memory", PLAIN, 60, lambda server: server.send(upload(1 << 20)))
    measure("bodies of 1 MiB, more than 64", PLAIN, 200, lambda server: server.send(upload(1 << 20)))
    measure("bodies of 8 MiB, in files", PLAIN, 30, lambda server: server.send(upload(8 << 20)))
    measure("clients that do not read a response of 1 MiB", PLAIN, 500, lambda server: server.send(head("/large")))
    measure("WebSockets of flask-sock", FLASK, 200, websocket, "--werkzeug-socket")
    if not WORD:
        container()


if __name__ == "__main__":
    main()
