"""Real servers for tests of applications: PostgreSQL and Redis, each with a directory of its own.

*Runs on*: the test's thread. *Invariants*: they listen on unix sockets only, and end with their context.
"""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import tempfile
import threading

import pytest

from client import PATIENCE
from deployment import IS_ROOT


@contextlib.contextmanager
def postgres(connections, *statements):
    """Starts PostgreSQL with a limit of connections, runs statements, and gives the directory of its socket."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if IS_ROOT else {}
    with tempfile.TemporaryDirectory(prefix="maypole-") as name:
        os.chmod(name, 0o777)
        data = os.path.join(name, "data")
        done = subprocess.run(
            [f"{found[-1]}/initdb", "--auth", "trust", "--username", "postgres", "--no-sync", "-D", data],
            capture_output=True, text=True, timeout=60, **user)
        assert done.returncode == 0, done.stderr
        settings = {"listen_addresses": "", "unix_socket_directories": name, "max_connections": connections, "fsync": "off"}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [f"{found[-1]}/postgres", "-D", data, *options]
        # On SIGINT it closes connections, and on SIGTERM it waits for clients.
        with running(command, "ready to accept connections", end=signal.SIGINT, **user):
            for statement in statements:
                subprocess.run(
                    [f"{found[-1]}/psql", "-h", name, "-U", "postgres", "-qc", statement],
                    check=True, capture_output=True, timeout=3 * PATIENCE)
            yield name


@contextlib.contextmanager
def redis():
    """Starts Redis, and gives its URL."""
    program = shutil.which("redis-server")
    if not program:
        pytest.skip("Redis is not installed")
    with tempfile.TemporaryDirectory(prefix="maypole-") as name:
        words = ["--port", "0", "--unixsocket", f"{name}/socket", "--save", "", "--appendonly", "no", "--dir", name]
        with running([program, *words], "Ready to accept connections|The server is now ready"):
            yield f"unix://{name}/socket"


@contextlib.contextmanager
def running(command, ready, end=signal.SIGTERM, **more):
    """Starts a server, waits until it writes one of the texts of `ready`, and sends `end` to it with the context's end."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if any(words in line for words in ready.split("|")):
                break
        else:
            pytest.fail(f"{command[0]} does not start: {''.join(lines)}")
        drain = threading.Thread(target=lambda: [None for _ in process.stdout], daemon=True)
        drain.start()
        yield
    finally:
        process.send_signal(end)
        process.wait(PATIENCE)
