"""Runs the conformance suites against the stand-alone server, and against a server inside a Python program.

    python tests/conformance BINARY [--only REGEX] [--slow FACTOR] [-v]
    python tests/conformance --list

The Python that runs this needs the package `maypole`, for the server inside a program. A suite fails if one of its
cases fails, at any level, unless its `ARGUED` says why that case may. `--only` runs the cases whose names match,
`--slow` multiplies every wait, and `-v` shows what the server did in each case.
"""

import argparse
import pathlib
import re
import sys
import tempfile

import http1
import pep3333
import suite
from server import Died, Server

HERE = pathlib.Path(__file__).resolve().parent
EMBEDDED = [sys.executable, str(HERE.parent / "programs" / "embedded_server.py"), "{bind}", "{app}"]
SUITES = {"http1": http1, "pep3333": pep3333}


def run(name, label, command, options):
    """Runs one suite against one server. Returns whether it passed."""
    tests = SUITES[name]
    chosen = re.compile(options.only).search
    with tempfile.TemporaryDirectory(prefix="conformance.") as place:
        environment = {"CONFORMANCE_DIR": place}
        try:
            with Server(command, tests.APP, HERE / name, pathlib.Path(place, "log"), environment) as server:
                verdicts = tests.run(server, chosen, options.slow)
                server.check()
        except Died as died:
            print(f"FAIL {name} {label}: {died}", flush=True)
            return False
    return suite.summary(name, label, verdicts, tests.ARGUED, options.verbose)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", help="the stand-alone server")
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--slow", default=1.0, type=float, metavar="FACTOR")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    if options.list:
        for tests in SUITES.values():
            for case in tests.CASES:
                print(f"{case.level:6} {case.name:34} {case.source:16} {case.note}")
        return 0
    if not options.binary:
        parser.error("name the stand-alone server")
    binary = str(pathlib.Path(options.binary).resolve())
    servers = {"binary": [binary, "--bind", "{bind}", "{app}"], "embedded": EMBEDDED}
    passed = [run(name, label, command, options) for label, command in servers.items() for name in SUITES]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
