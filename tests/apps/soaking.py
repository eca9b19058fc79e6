"""The application of the soak test: `probe` without its record of paths, and a count of the memory in use."""

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
    """Returns the bytes that malloc (from glibc 2.33 on) and Python's allocator have handed out."""
    gc.collect()
    used = 0
    if hasattr(LIBC, "mallinfo2"):
        LIBC.mallinfo2.restype = Mallinfo
        info = LIBC.mallinfo2()
        used = (info.uordblks + info.hblkhd) / (1 << 20)
    return probe.reply(start_response, json.dumps({"used_mib": used, "python_blocks": sys.getallocatedblocks()}))


probe.ROUTES["memory"] = memory
application = probe.application
