"""The place of a worker among the workers of a service.

*Owns*: nothing; the server puts what it knows into `sys.modules`. *Runs on*: any thread.
"""

from __future__ import annotations

import sys
from typing import NamedTuple


class Worker(NamedTuple):
    """The place of a worker process."""

    #: The number of the worker, from 1. A replacement has the number of the worker that it replaces.
    number: int
    #: How many workers the service has, as SIGTTIN, SIGTTOU or a reload have set it last.
    workers: int
    #: When the service started, as `time.time()` counts. It is the same in all workers, also after a reload.
    started: float
    #: When this worker started.
    worker_started: float
    #: The process that has started the workers and watches them.
    supervisor: int
    #: How often the number has been given to a worker.
    generation: int


def worker() -> Worker | None:
    """Returns the place of this process among the workers of a service. `None` outside a worker.

    With `--preload`, it is `None` while the application is imported, because the workers do not exist yet. A process
    that a worker forks has the place of that worker.
    """
    place = sys.modules.get("_maypole_place")
    return None if place is None else Worker(*place.fields)._replace(workers=place.workers())
