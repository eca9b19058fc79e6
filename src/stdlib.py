"""Has modules of the standard library found in the standard library, whatever is first on `sys.path`.

Runs on: the thread that imports what the server needs, before anything of the application is imported. `begin()` puts
a finder first, `end()` takes it away. Names of other modules are found as always, so other threads may import
meanwhile.
"""

import os
import sys

# Loaded in every interpreter; a file of the application may be called `importlib.py`.
from _frozen_importlib_external import PathFinder


class StandardFirst:
    """Finds top-level modules of the standard library in its own directories."""

    def __init__(self, places):
        self.places = places

    def find_spec(self, name, path=None, target=None):
        if path is not None or name not in sys.stdlib_module_names:
            return None
        return PathFinder.find_spec(name, self.places)


def begin():
    # An interpreter that has its library inside itself says no file: there is nothing that could be hidden.
    file = getattr(os, "__file__", None)
    if file is None:
        return None
    library = os.path.dirname(file)
    extensions = os.path.join(library, "lib-dynload")
    further = [place for place in sys.path if os.path.basename(place) == "lib-dynload" and place != extensions]
    finder = StandardFirst([library, extensions, *further])
    sys.meta_path.insert(0, finder)
    return finder


def end(finder):
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)
