"""Prints the other CPythons on this machine that Maypole can be built for: 3.10 to 3.15 with a shared libpython.

Prints one for each minor version except the running one. Looks on the PATH and in the directories of pyenv and uv.
"""

import glob
import os
import subprocess
import sys

MINORS = range(10, 16)
QUESTION = (
    "import os, sys, sysconfig as s; d = s.get_config_var('LIBDIR') or ''; n = s.get_config_var('INSTSONAME') or '';"
    "print(sys.version_info[1] if sys.implementation.name == 'cpython' and s.get_config_var('Py_ENABLE_SHARED')"
    " and os.path.exists(os.path.join(d, n)) and not s.get_config_var('Py_GIL_DISABLED') else 0)"
)


def candidates(minor):
    name = f"python3.{minor}"
    home = os.path.expanduser("~")
    root = os.environ.get("PYENV_ROOT", f"{home}/.pyenv")
    for pattern in (f"{root}/versions/3.{minor}.*/bin/{name}", f"{home}/.local/share/uv/python/cpython-3.{minor}.*/bin/{name}"):
        yield from sorted(glob.glob(pattern), reverse=True)
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if "shims" not in directory:
            yield os.path.join(directory, name)


def minor_of(path):
    """Returns the minor version of a CPython that Maypole can be built for, and 0 for other programs."""
    if not os.access(path, os.X_OK):
        return 0
    try:
        done = subprocess.run([path, "-c", QUESTION], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(done.stdout) if done.stdout.strip().isdigit() else 0


def others():
    """Returns one Python for each minor version except the running one."""
    for minor in MINORS:
        if minor != sys.version_info[1]:
            found = next((path for path in candidates(minor) if minor_of(path) == minor), None)
            if found:
                yield found


if __name__ == "__main__":
    for path in others():
        print(path)
