"""Shows what a worker has from the import of the application, and what its own process has."""

import gc
import json
import os
import random
import threading

IMPORTED_IN = os.getpid()
print("imported", end="")


def application(environ, start_response):
    """Sends facts on the process as JSON."""
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "imported_in": IMPORTED_IN,
        "frozen": gc.get_freeze_count() > 0,
        "random": random.random(),
        "threads": [thread.name for thread in threading.enumerate()],
        "multiprocess": environ["wsgi.multiprocess"],
        "run_once": environ["wsgi.run_once"],
    }
    body = json.dumps(facts).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]




def start_thread():
    """Returns the application, and leaves a thread behind."""
    threading.Thread(target=threading.Event().wait, name="refresher", daemon=True).start()
    return application
