"""The application of the soak test: `probe`, which must not remember every path that it has served, and what memory is in use."""

import collections
import ctypes
import gc
import json
import sys

import probe

probe.SERVED = collections.deque(maxlen=1)
LIBC = ctypes.CDLL(None)


class Mallinfo(ctypes.Structure):
    """mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


def memory(environ, start_response, query):
    """What is handed out by malloc, where it says so (glibc 2.33), and by Python's allocator."""
    gc.collect()
    used = 0
    if hasattr(LIBC, "mallinfo2"):
        LIBC.mallinfo2.restype = Mallinfo
        info = LIBC.mallinfo2()
        used = (info.uordblks + info.hblkhd) / (1 << 20)
    return probe.reply(start_response, json.dumps({"used_mib": used, "python_blocks": sys.getallocatedblocks()}))


probe.ROUTES["memory"] = memory
application = probe.application
