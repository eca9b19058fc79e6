"""Starts the server under test as a process of its own, and stops it.

*Invariants*: the server chooses its port, and it is ready when its log says so. A server that ends by itself fails the
suite that runs against it.
"""

import os
import pathlib
import re
import signal
import subprocess
import time

READY = re.compile(r"listening on http://([\d.]+):(\d+)")
#: The most seconds that a server needs to start, or to stop, on a busy machine.
PATIENCE = float(os.environ.get("TEST_PATIENCE", 20))


class Died(Exception):
    """The server ended by itself."""


class Server:
    """A running server. `command` has the words `{bind}` and `{app}`."""

    def __init__(self, command, app, directory, log, environment=()):
        self.log = pathlib.Path(log)
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAYPOLE")}
        env.update(environment, PYTHONPATH=str(directory), PYTHONDONTWRITEBYTECODE="1")
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [word.format(bind="127.0.0.1:0", app=app) for word in command],
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self):
        try:
            self.address = self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_ready(self):
        """Returns the address, once the server listens."""
        end = time.monotonic() + PATIENCE
        while not (match := READY.search(self.text())):
            self.check()
            if time.monotonic() > end:
                raise Died(f"the server does not listen: {self.text()[-3000:]}")
            time.sleep(0.02)
        return match[1], int(match[2])

    def text(self):
        return self.log.read_text("utf-8", "replace")

    def check(self):
        """Raises if the server has ended."""
        if self.process.poll() is not None:
            raise Died(f"the server ended with {self.process.returncode}: {self.text()[-3000:]}")

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(PATIENCE)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue
