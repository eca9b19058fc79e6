"""Ports for servers that cannot take port 0, or that come back on the same port.

*Runs on*: the test's thread. *Invariants*: no client and no server on port 0 gets such a port, because it is below those
that the kernel gives out. No other test gets it either: a lock keeps it until this process ends.
"""

import contextlib
import fcntl
import os
import pathlib
import random
import socket
import tempfile

FIRST, LAST = 15_000, 32_000
# One byte for each port. The lock of a byte ends with the process, or when the process closes the file.
LOCKS = open(pathlib.Path(tempfile.gettempdir()) / f"maypole-tests-ports-{os.geteuid()}", "wb")
TAKEN = set()


def free_port():
    """Returns a port of this machine that is free, and stays free until the test uses it."""
    for port in random.sample(range(FIRST, LAST), 200):
        if port in TAKEN:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            fcntl.lockf(LOCKS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            TAKEN.add(port)
            probe.bind(("0.0.0.0", port))
            return port
    raise RuntimeError("no port is free")
