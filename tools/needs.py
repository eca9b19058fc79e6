"""Prints what this machine lacks to build Maypole, in one sentence, and exits with 1 if something is missing.

    needs.py CARGO

Any Python can run this program, old ones too.
"""

from __future__ import print_function

import glob
import os
import subprocess
import sys


def shared_library():
    """Returns whether the shared library of the running Python exists. The stand-alone binary is linked to it."""
    import sysconfig

    library = sysconfig.get_config_var("LDLIBRARY") or ""
    places = [sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("LIBPL") or ""]
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    places += [os.path.join(place, multiarch) for place in places]
    return library.endswith(".so") and any(glob.glob(os.path.join(place, library + "*")) for place in places)


def runs(*command):
    try:
        with open(os.devnull, "w") as nothing:
            return subprocess.call(command, stdout=nothing, stderr=nothing) == 0
    except OSError:
        return False


def lacking(cargo):
    name = "Python %d.%d (%s)" % (sys.version_info[0], sys.version_info[1], sys.executable)
    if sys.version_info < (3, 10):
        return name + " is too old: Maypole needs CPython 3.10 or newer. Name another one: make PYTHON=/path/to/python3.12"
    if sys.implementation.name != "cpython":
        return name + " is not CPython, which Maypole needs. Name another one: make PYTHON=/path/to/python3.12"
    if not shared_library():
        return (name + " has no shared library (libpython3.x.so). Debian: apt install python3-dev;"
                " pyenv: build it with PYTHON_CONFIGURE_OPTS=--enable-shared")
    if not runs(cargo, "--version"):
        return "Rust is missing (%s does not run): https://rustup.rs installs it" % cargo
    if not runs("cc", "--version"):
        return "A C compiler is missing (cc does not run), which Rust needs to link. Debian: apt install gcc libc6-dev"
    return None


problem = lacking(sys.argv[1])
if problem:
    print(problem, file=sys.stderr)
    sys.exit(1)
