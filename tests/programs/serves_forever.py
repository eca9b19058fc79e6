"""Programs that call `serve_forever(handle_signals=True)`: `serves_forever.py SCENARIO`.

Each prints at its end, as one line of JSON, which of its earlier signal handlers are in place.
"""

import json
import logging
import os
import signal
import sys
import threading
import time

import maypole


def application(environ, start_response):
    path = environ["PATH_INFO"]
    print("inside", path, flush=True)
    if path == "/until-stopping":
        while server.state == "running":
            time.sleep(0.01)
    if path == "/hang":
        threading.Event().wait(100)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answered"]


class Early(maypole.Server):
    """Gets the signal to stop before it has started."""

    def start(self):
        os.kill(os.getpid(), signal.SIGTERM)
        super().start()


def own(*_):
    print("own handler", flush=True)


def on_a_thread():
    failed = []

    def run():
        try:
            server.serve_forever(handle_signals=True)
        except RuntimeError as error:
            failed.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    print(json.dumps(failed), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    scenario = sys.argv[1]
    kind = Early if scenario == "early" else maypole.Server
    server = kind(application, "127.0.0.1:0", graceful_timeout=0.2 if scenario == "impatient" else 60)
    if scenario == "thread":
        on_a_thread()
        sys.exit()
    signal.signal(signal.SIGTERM, own)
    before = signal.getsignal(signal.SIGINT)
    server.serve_forever(handle_signals=True)
    same = signal.getsignal(signal.SIGINT) is before and signal.getsignal(signal.SIGTERM) is own
    print(json.dumps({"same": same, "state": server.state}), flush=True)
