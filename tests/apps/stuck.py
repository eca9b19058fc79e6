"""An application whose import never ends: it sleeps, or is inside a C function that ignores signals."""

import collections
import itertools
import os
import sys
import time

print("importing", file=sys.stderr, flush=True)
if os.environ.get("STUCK") == "computing":
    collections.deque(itertools.repeat(None), maxlen=0)
time.sleep(600)
