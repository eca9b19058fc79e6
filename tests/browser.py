"""A real Chromium without a window, driven through its pipe (`--remote-debugging-pipe`, the DevTools protocol).

*Runs on*: the test's thread. *Invariants*: every read has a deadline, and the browser ends with its context.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 60
WORDS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@contextlib.contextmanager
def browser(directory):
    """Starts a browser whose files are in `directory`, and gives a page of it."""
    (inner_in, outer_in), (outer_out, inner_out) = os.pipe(), os.pipe()

    def arrange():
        # The browser reads commands from descriptor 3, and writes to 4.
        read, write = os.dup2(inner_in, 100), os.dup2(inner_out, 101)
        os.dup2(read, 3)
        os.dup2(write, 4)

    line = [CHROMIUM, *WORDS, f"--user-data-dir={directory}/profile", "--remote-debugging-pipe", "about:blank"]
    process = subprocess.Popen(
        line, env={**os.environ, "HOME": str(directory)}, start_new_session=True, close_fds=False, preexec_fn=arrange,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(inner_in)
    os.close(inner_out)
    try:
        yield Page(outer_out, outer_in)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        os.close(outer_in)
        os.close(outer_out)


class Page:
    """A page of the browser."""

    def __init__(self, source, sink):
        self.source, self.sink, self.received, self.number, self.session = source, sink, b"", 0, None
        #: What the page has complained about: errors, warnings, and violations of its policy.
        self.complaints = []
        targets = self.command("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self.session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.sink, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self.message(end)
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def message(self, end):
        """Returns the next message, and notes complaints."""
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.source], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not respond"
            piece = os.read(self.source, 1 << 20)
            assert piece, "the browser has ended"
            self.received += piece
        text, _, self.received = self.received.partition(b"\0")
        message = json.loads(text)
        method, parameters = message.get("method"), message.get("params")
        if method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str(parameters["args"]))
        return message

    def open(self, address):
        self.command("Page.navigate", url=address)

    def value(self, expression):
        """Returns the value of an expression in the page's script."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def show(self, width, height, scheme="light"):
        """Shows the page in a window of this size, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setScrollbarsHidden", hidden=True)
        self.command("Emulation.setEmulatedMedia", features=features)
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def picture(self, path):
        """Writes a picture of all of the page."""
        shot = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
