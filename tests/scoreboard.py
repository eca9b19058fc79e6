"""The scoreboard of a service, as `src/scoreboard.rs` lays it out: made for a worker, or read while workers serve."""

import contextlib
import fcntl
import mmap
import os
import struct

SLOTS = 512
HEADER_BYTES = 4096
HEAD_BYTES = 32 * 8
ROW_BYTES = 24 * 8
ROWS_BYTES = 256 * ROW_BYTES
METERS_BYTES = (48 + 104 + 64 + 32 + 10 * 6 + 13 * 112 + 900) * 8
# Where the rows begin: after the heads, the meters of the processes that have ended, and those of all slots.
AT_ROWS = HEADER_BYTES + SLOTS * HEAD_BYTES + (1 + SLOTS) * METERS_BYTES
BYTES = AT_ROWS + SLOTS * ROWS_BYTES
LAYOUT = int.from_bytes(b"maypole\x09", "big")
# A seal, and the command that sets it: the module `fcntl` has no names for them.
F_ADD_SEALS, SEALS = 1033, 1 | 2 | 4

# The words of a head, by their index.
WORDS = {
    "state": 0,
    "pid": 1,
    "number": 2,
    "generation": 3,
    "gil_sought": 4,
    "gil_tick": 5,
    "connections": 8,
    "requests": 9,
    "runtime_tick": 11,
    "calls": 16,
    "begun": 17,
}
SERVING = 2


def create():
    """Makes an empty scoreboard, and returns its descriptor."""
    fd = os.memfd_create("maypole", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, BYTES)
    os.pwrite(fd, struct.pack("=Q", LAYOUT), 0)
    fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    return fd


class Scoreboard:
    """A scoreboard that this process maps."""

    def __init__(self, fd):
        self.memory = mmap.mmap(fd, BYTES)

    @classmethod
    def of(cls, pid):
        """Returns the scoreboard of a service, by the process of its supervisor or of a worker."""
        folder = f"/proc/{pid}/fd"
        for number in os.listdir(folder):
            path = f"{folder}/{number}"
            # The process may have closed this one meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(path).startswith("/memfd:maypole"):
                    with open(path, "r+b") as file:
                        return cls(file.fileno())
        raise LookupError(f"process {pid} has no scoreboard")

    def slots(self):
        """Returns the slots that have a process: each word by its name."""
        (used,) = struct.unpack_from("=Q", self.memory, 8)
        slots = (struct.unpack_from("=32Q", self.memory, HEADER_BYTES + index * HEAD_BYTES) for index in range(used))
        return [{name: slot[at] for name, at in WORDS.items()} for slot in slots if slot[0]]

    def serving(self):
        """Returns the slots of the workers that serve."""
        return [slot for slot in self.slots() if slot["state"] == SERVING]

    def inside(self, index=0):
        """Returns the request lines in the rows of a slot."""
        start = AT_ROWS + index * ROWS_BYTES
        lines = []
        for row in range(start, start + ROWS_BYTES, ROW_BYTES):
            received, about = struct.unpack_from("=2Q", self.memory, row)
            if received:
                lines.append(self.memory[row + 16 : row + 16 + (about & 0xFFFF)].decode())
        return lines
