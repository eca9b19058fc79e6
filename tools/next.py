"""next.py TARGET: the smoke tests on CPythons that this machine's system lacks, in a Debian unstable.

The Debian is made once, in TARGET/sid. Remove that directory to get newer packages. `tools/smoke` tests each of these
CPythons inside, as it tests those of this machine, and the stand-alone binary starts and stops. Build files go into
TARGET, as for the others.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import chroot
import pythons

ROOT = pathlib.Path(__file__).resolve().parent.parent
# CPythons without packages in last year's Debian.
MINORS = (14, 15)
TOOLS = ["ca-certificates", "gcc", "libc6-dev", "procps"]


def packages(minor):
    return [f"python3.{minor}", f"python3.{minor}-venv", f"libpython3.{minor}-dev"]


def home(variable, default):
    return os.environ.get(variable, os.path.expanduser(default))


def environment():
    """Returns the variables for the Debian, with the places of tools."""
    cargo = home("CARGO_HOME", "~/.cargo")
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TEST_PATIENCE", "CI", "TERM")}
    return {
        **kept,
        **chroot.pip_environment(),
        "PATH": f"{cargo}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "CARGO_HOME": cargo,
        "RUSTUP_HOME": home("RUSTUP_HOME", "~/.rustup"),
    }


def main():
    target = pathlib.Path(sys.argv[1]).resolve()
    found = {pythons.minor_of(path) for path in pythons.others()} | {sys.version_info[1]}
    minors = [minor for minor in MINORS if minor not in found]
    if not minors:
        print("== every CPython is on this machine itself")
        return 0
    names = " and ".join(f"3.{minor}" for minor in minors)
    if reason := chroot.lacking():
        print(f"next: SKIPPED, CPython {names}: {reason}")
        return 0
    root = chroot.make(target / "sid", "sid", [package for minor in MINORS for package in packages(minor)] + TOOLS)
    env = environment()
    # Each path is the same inside and outside, so that Cargo and pip use earlier builds.
    places = [ROOT, target, env["CARGO_HOME"], env["RUSTUP_HOME"]]
    binds = [(place, place) for place in places] + chroot.pip_binds()

    def start(minor):
        command = ["tools/smoke", f"/usr/bin/python3.{minor}", target, "binary"]
        said = tempfile.TemporaryFile("w+", errors="replace")
        entering = chroot.entering(root, command, binds, workdir=ROOT, env=env)
        return subprocess.Popen(entering, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT), said

    # The runs take place at the same time, because most of a test's time is waiting.
    started = [start(minor) for minor in minors]
    status = 0
    for process, said in started:
        status |= process.wait()
        said.seek(0)
        print(said.read(), flush=True)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
