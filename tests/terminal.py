"""A command on a terminal: a pseudo-terminal, and what a person sees on it.

*Runs on*: a thread reads what the command writes. *Invariants*: every wait has a deadline.
"""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading

import pyte
import pytest

from client import PATIENCE
from process import MAYPOLE, clean_environment


class Terminal:
    """A terminal on which a command runs."""

    def __init__(self, *words, columns=80, rows=24, **env):
        self._person, command = pty.openpty()
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition(threading.RLock())
        self._written = b""
        self._closed = False
        self._set_size(columns, rows)
        # A descriptor of the terminal of its own: its mode can be read after the end of the command.
        self._terminal = os.dup(command)
        self.mode = termios.tcgetattr(self._terminal)
        self.process = subprocess.Popen(
            [MAYPOLE, *map(str, words)],
            env=clean_environment(TERM="xterm-256color", **env),
            stdin=command, stdout=command, stderr=command,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(command)
        self._hangs_up, self._hang_up = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            try:
                ready, _, _ = select.select([self._person, self._hangs_up], [], [])
                piece = b"" if self._hangs_up in ready else os.read(self._person, 1 << 16)
            except OSError:
                piece = b""
            with self._changed:
                self._closed = not piece
                self._written += piece
                # The model has no second screen: it gets what is drawn, and the tests look at the bytes for the rest.
                self._stream.feed(piece)
                self._changed.notify_all()
            if not piece:
                return

    def _set_size(self, columns, rows):
        fcntl.ioctl(self._person, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns, rows):
        with self._changed:
            self._screen.resize(rows, columns)
            self._set_size(columns, rows)

    def press(self, keys):
        os.write(self._person, keys.encode())

    def lines(self):
        with self._changed:
            return [line.rstrip() for line in self._screen.display]

    def text(self):
        return "\n".join(self.lines())

    def written(self):
        with self._changed:
            return self._written

    def colours(self):
        """Returns the colours of the letters on the screen."""
        with self._changed:
            return {cell.fg for line in self._screen.buffer.values() for cell in line.values()}

    def wait(self, condition, timeout=PATIENCE):
        """Waits until the screen is as `condition` wants it: a function, or a text that is to be on it. Returns what
        that gives."""
        wanted = condition if callable(condition) else lambda: condition in self.text()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or wanted(), timeout)
            found = wanted()
        if not found:
            pytest.fail(f"no {condition!r} on the terminal:\n{self.text()}")
        return found

    def end(self):
        """Waits for the end of the command. Returns its status."""
        return self.process.wait(PATIENCE)

    def assert_restored(self):
        """Checks that the terminal is as it was before the command."""
        assert termios.tcgetattr(self._terminal) == self.mode
        self.wait(lambda: self._written.rstrip().endswith(b"\x1b[m\x1b[?25h\x1b[?1049l"))

    def hang_up(self):
        """Closes the person's end, as the end of a terminal's window does."""
        # The read has to end first: it would keep the end open.
        os.write(self._hang_up, b"x")
        self._thread.join(PATIENCE)
        os.close(self._person)
        self._person = None

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._terminal)
        self._thread.join(PATIENCE)
        for descriptor in (self._person, self._hangs_up, self._hang_up):
            if descriptor is not None:
                os.close(descriptor)
