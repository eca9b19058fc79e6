"""wheel.py PYTHON DIRECTORY: builds the package's wheel for this CPython into DIRECTORY, and tries it.

It installs the wheel into an empty virtual environment, and serves examples/hello.py from there, by the console script
and by `python -m maypole`."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(*command, **more):
    subprocess.run([str(word) for word in command], check=True, timeout=1200, **more)


def pip(python, *arguments, **more):
    run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, **more)


def serve(command):
    """Starts the server, sends one request and stops it."""
    command = [*map(str, command), "--bind", "127.0.0.1:0", "hello:application"]
    with subprocess.Popen(command, cwd=ROOT / "examples", stderr=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stderr:
                if match := re.search(r"listening on (http://[^,]+)", line):
                    body = urllib.request.urlopen(match[1], timeout=20).read()
                    break
            else:
                sys.exit(f"{command} does not serve")
            assert body.startswith(b"Hello"), body
        finally:
            server.send_signal(signal.SIGTERM)
        # Its output while it stops fits into the pipe.
        assert server.wait(20) == 0
    print(f"{line.strip()}\n  answers {body.decode().strip()!r} to {' '.join(command[:3])}")


def install_and_serve(python, wheel):
    """Installs the wheel into an empty virtual environment of this Python, and serves with it."""
    with tempfile.TemporaryDirectory() as work:
        environment = pathlib.Path(work, "empty")
        run(python, "-m", "venv", environment)
        pip(environment / "bin/python", "install", "--no-index", wheel)
        serve([environment / "bin/maypole"])
        serve([environment / "bin/python", "-m", "maypole"])


def main():
    python, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    tag = subprocess.check_output([python, "-c", "import sys; print('%d%d' % sys.version_info[:2])"], text=True).strip()
    environment = {name: value for name, value in os.environ.items() if name != "PYO3_PYTHON"}
    environment["CARGO_TARGET_DIR"] = str(directory.parent / f"wheel{tag}")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run(python, "-m", "venv", work / "build")
        pip(work / "build/bin/python", "wheel", "--no-deps", "--wheel-dir", work, ROOT, env=environment)
        (wheel,) = work.glob("maypole-*.whl")
        install_and_serve(python, wheel)
        print(shutil.copy(wheel, directory))


if __name__ == "__main__":
    main()
