"""What the tests of the how-to pages share: snippets of the pages, and proxies in front of a real server.

If a single test runs a block, the line before the fence is `<!-- snippet: test NAME -->`. snippets.py has the rules.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

import snippets as pages
from client import PATIENCE, Client
from ports import free_port
from process import ROOT, Lines, eventually

HOWTO = ROOT / "docs" / "howto"
# If the tests run as root, nginx's workers run as another user than the server, as in production.
IS_ROOT = os.geteuid() == 0


def snippets(page, test, language=None):
    """Returns the blocks of a how-to page that belong to a test, in their order."""
    blocks = [block for block in pages.blocks(HOWTO / f"{page}.md") if (block.action, block.argument) == ("test", test)]
    found = [block.text for block in blocks if language in (None, block.language)]
    assert found, f"{page}.md has no {language or 'block'} for {test}"
    return found


def files(page):
    """Returns the blocks of a how-to page that are files, by name."""
    return {block.argument: block.text for block in pages.blocks(HOWTO / f"{page}.md") if block.action == "file"}


def snippet(page, test, language):
    found = snippets(page, test, language)
    assert len(found) == 1, f"{page}.md has {len(found)} blocks for {test}"
    return found[0]


def line_on(page, beginning):
    """Returns a pattern for the log line that a page shows with this beginning. Numbers and the request may differ."""
    text = (HOWTO / f"{page}.md").read_text()
    in_blocks = "".join(block.text for block in pages.blocks(HOWTO / f"{page}.md") if block.language == "text")
    shown = re.findall(r"`([^`\n]+)`", text) + re.findall(r"(?m)^(?:\[\w+\] )?(.+)$", in_blocks)
    found = [line for line in shown if line.startswith(beginning)]
    assert found, f"{page}.md shows no line that begins with {beginning!r}"
    pattern = re.escape(found[0].replace("PUT /raw", "@"))
    pattern = re.sub(r"\d+", r"\\d+", pattern).replace("@", r"\w+ /\w+")
    return re.sub(r"(request|call)s", r"\1s?", pattern)


def file_name(body):
    """Returns the file name of a snippet, which is in a comment on its first line."""
    return re.match(r"# (\S+?):?(\s|$)", body)[1]


def needs(*programs):
    missing = [program for program in programs if not program_path(program)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def program_path(program):
    # Debian installs them in directories that an ordinary user's PATH lacks.
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@pytest.fixture
def alone():
    """Allows one test at a time that starts a systemd or has a control group. A systemd names its control groups after
    the units, and would end those of others. At its start it moves the processes of the first group into one of its
    own, also a process that has just left."""
    with open(pathlib.Path(tempfile.gettempdir()) / "maypole-tests-systemd.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def place():
    """Makes a directory that every user may enter, unlike pytest's temporary directories."""
    with tempfile.TemporaryDirectory(prefix="maypole-") as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


@pytest.fixture
def shop(server, place):
    """Starts the server of a page's command line: `shop(page, test)`. It serves `probe`, or the files of `files`."""

    def start(page, test, *more, replace=(), files=None, **popen):
        (place / "shop").mkdir(exist_ok=True)
        for name, body in (files or {"shop/wsgi.py": (ROOT / "tests/apps/probe.py").read_text()}).items():
            (place / name).write_text(body)
        words = command(snippet(page, test, "sh"), place, *replace)
        *options, application = words
        return server(application, *options, *more, bind=False, cwd=place, **popen)

    return start


def command(line, place, *replace):
    """Returns the arguments of a page's `maypole …`, with a free port and with directories below `place`."""
    words = shlex.split(at(line, place, ("127.0.0.1:8000", "127.0.0.1:0"), *replace), comments=True)
    assert words.pop(0) == "maypole", line
    return words


def at(text, place, *replace):
    """Returns a snippet's text with its directories moved below `place`."""
    for old, new in (("/run/shop/", f"{place}/"), *replace):
        text = text.replace(old, new)
    return text


class Front:
    """A proxy in front of a server."""

    def __init__(self, name, command, port, log=None, **popen):
        self.port = port
        self.log = log
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, **popen)
        self.out = Lines(self.process.stdout)
        eventually(self.listens, what=f"that {name} listens")

    def listens(self):
        if self.process.poll() is not None:
            self.out.settle()
            pytest.fail(f"it ended with {self.process.returncode}:\n{self.said()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def said(self):
        """Returns the whole log."""
        return self.out.text() + (self.log.read_text() if self.log and self.log.exists() else "")

    def client(self):
        return Client(f"http://127.0.0.1:{self.port}")

    def get(self, path="/", *fields, host="shop.example", method="GET"):
        with self.client() as client:
            return client.request(f"{method} {path} HTTP/1.1", *fields, host=host).response(method)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)


@pytest.fixture
def fronts():
    started = []
    try:
        yield started
    finally:
        for front in started:
            front.end()


@pytest.fixture
def nginx(fronts, place):
    """Starts nginx with a page's file, in front of these servers: `nginx(page, test, {"127.0.0.1:8000": …})`."""
    needs("nginx")

    def start(page, test, upstream=(), replace=()):
        port, tls_port = free_port(), free_port()
        body = snippet(page, test, "nginx")
        replaced = [(old, str(new)) for old, new in dict(upstream).items()]
        listen = [("listen 80;", f"listen 127.0.0.1:{port};"), ("listen 443 ", f"listen 127.0.0.1:{tls_port} ")]
        (place / "shop.conf").write_text(at(body, place, *listen, *replaced, *replace))
        user = "user www-data;" if IS_ROOT else ""
        temporary = "".join(f"{kind}_temp_path {place}/{kind};\n" for kind in (
            "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (place / "nginx.conf").write_text(
            f"{user}\ndaemon off;\npid {place}/nginx.pid;\nworker_processes 1;\n"
            f"error_log {place}/error.log;\nevents {{ worker_connections 512; }}\n"
            f"http {{\naccess_log off;\n{temporary}include {place}/shop.conf;\n}}\n")
        configuration = ["-c", place / "nginx.conf", "-e", place / "error.log"]
        program = program_path("nginx")
        checked = subprocess.run([program, "-t", *map(str, configuration)], capture_output=True, text=True, timeout=3 * PATIENCE)
        assert checked.returncode == 0, checked.stderr
        assert "[warn]" not in checked.stderr, checked.stderr
        front = Front("nginx", [program, *configuration], port, place / "error.log")
        front.tls_port = tls_port
        fronts.append(front)
        return front

    return start


@pytest.fixture
def haproxy(fronts, place):
    """Starts HAProxy with a page's file."""
    needs("haproxy")

    def start(page, test, upstream=()):
        port = free_port()
        replaced = [(old, str(new)) for old, new in dict(upstream).items()]
        body = at(snippet(page, test, "haproxy"), place, ("bind :80", f"bind 127.0.0.1:{port}"), *replaced)
        (place / "haproxy.cfg").write_text(body)
        program = program_path("haproxy")
        checked = subprocess.run(
            [program, "-c", "-f", place / "haproxy.cfg"], capture_output=True, text=True, timeout=3 * PATIENCE)
        assert checked.returncode == 0 and "[WARNING]" not in checked.stderr + checked.stdout, checked
        fronts.append(Front("haproxy", [program, "-db", "-f", place / "haproxy.cfg"], port))
        return fronts[-1]

    return start


@pytest.fixture
def caddy(fronts, place):
    """Starts Caddy with a page's file, without TLS: a certificate would come from the network."""
    needs("caddy")

    def start(page, test, upstream=()):
        port = free_port()
        replaced = [(old, str(new)) for old, new in dict(upstream).items()]
        body = at(snippet(page, test, "caddy"), place, ("shop.example {", f"http://shop.example:{port} {{"), *replaced)
        body = body.replace("unix//run/shop/", f"unix/{place}/")
        (place / "Caddyfile").write_text("{\n\tadmin off\n}\n" + body)
        env = {**os.environ, "HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place)}
        configuration = ["--config", place / "Caddyfile", "--adapter", "caddyfile"]
        program = program_path("caddy")
        checked = subprocess.run(
            [program, "validate", *configuration], capture_output=True, text=True, timeout=3 * PATIENCE, env=env)
        assert checked.returncode == 0, checked.stderr
        fronts.append(Front("caddy", [program, "run", *configuration], port, env=env))
        return fronts[-1]

    return start
