#!/usr/bin/env python3
"""Makes the pictures of the status for the documentation: docs/figures/status-*.png, and the page of `maypole top`
as text in docs/howto/status.md.

usage: MAYPOLE=FILE tools/status_figures.py [SECONDS]

It serves an application with four workers, sends it requests of several kinds for some time, and shows the page in a
headless Chromium: light, dark, and as wide as a phone. It also shows the service on a pseudo-terminal.
"""

import pathlib
import random
import re
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import CHROMIUM, browser  # noqa: E402
from client import Client  # noqa: E402
from process import factory  # noqa: E402
from status import Status  # noqa: E402
from terminal import Terminal  # noqa: E402

GUIDE = ROOT / "docs" / "howto" / "status.md"
#: The picture of the terminal in the guide.
PICTURE = re.compile(r"(<!-- snippet: skip it is a picture of a terminal -->\n```text\n).*?(^```$)", re.S | re.M)
SIZES = {"light": (1280, 960, "light"), "dark": (1280, 960, "dark"), "phone": (390, 844, "light")}
SHOP = """
import random, time
PRICES = {}
def find():
    time.sleep(random.expovariate(8))
def totals():
    sum(number * number for number in range(random.randrange(200_000)))
    if random.random() < 0.02:
        time.sleep(1)
def price(article):
    return PRICES[article]
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/search":
        find()
    elif path == "/report":
        totals()
    elif path == "/broken":
        price("chair")
    status = "404 Not Found" if path == "/missing" else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    return [b"x" * 2000]
"""
#: The rates, which come with the second response, and a request inside the application.
SHOWN = [r" serving +\d", r" shop\.py:\d+ (?:find|totals)$"]
PATHS = ["/"] * 40 + ["/search"] * 12 + ["/report"] * 6 + ["/missing", "/broken"]


def load(address, ends):
    """Sends requests on one connection, at a pace that changes."""
    with Client(address) as client:
        while not ends.is_set():
            client.get(random.choice(PATHS))
            ends.wait(random.expovariate(20 + 15 * random.random()))


def show_terminal(pid):
    """Writes the page of `maypole top` into the guide, at a moment at which a request is inside the application."""
    terminal = Terminal("top", pid, columns=100, rows=20)
    try:
        terminal.wait(lambda: all(re.search(one, terminal.text(), re.M) for one in SHOWN))
        picture = terminal.text().rstrip()
    finally:
        terminal.close()
    text = GUIDE.read_text()
    assert PICTURE.search(text), f"{GUIDE} has no place for the picture"
    GUIDE.write_text(PICTURE.sub(lambda place: place[1] + picture + "\n" + place[2], text))


def main():
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else 120
    ends = threading.Event()
    with tempfile.TemporaryDirectory() as scratch, factory() as server:
        directory = pathlib.Path(scratch, "shop")
        directory.mkdir()
        (directory / "shop.py").write_text(SHOP)
        settings = ("-w", "4", "--status-bind", "0", "--slow-request", "800ms", "--keep-alive", "10m")
        running = server("shop:app", *settings, cwd=directory)
        clients = [threading.Thread(target=load, args=(running.address, ends)) for _ in range(12)]
        for client in clients:
            client.start()
        idle = [Client(running.address) for _ in range(30)]
        with browser(scratch) as page:
            page.open(f"http://{Status(running).address}/")
            time.sleep(duration)
            for name, (width, height, scheme) in SIZES.items():
                page.show(width, height, scheme)
                time.sleep(1.5)
                page.picture(ROOT / "docs" / "figures" / f"status-{name}.png")
        show_terminal(running.pid)
        ends.set()
        for client in clients:
            client.join()
        for client in idle:
            client.close()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    main() if CHROMIUM else sys.exit("there is no Chromium on this machine")
