"""Files of unix sockets, for adapters that bind by themselves.

Runs on: the thread that binds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat


def remove_stale(path: str) -> None:
    """Takes away the file of a unix socket that nobody listens on any more; any other file stays, and cannot be bound."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as trial:
            if trial.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)
