"""No broken version of an application takes the service down: every kind, with every way to bring new code."""

import signal

import pytest

GOOD = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"%s"]

def make():
    return application
"""
#: What a version does, and what the log says of it.
KINDS = {
    "def make(:\n": "SyntaxError",
    "import nosuch\n": "No module named 'nosuch'",
    "def make():\n    raise OSError('no database')\n": "OSError: no database",
    "def make():\n    return 1\n": "object of type int cannot be called",
    "import sys\nsys.exit('no licence')\n": "no licence",
    "import ctypes\nctypes.string_at(0)\n": "SIGSEGV",
    "import os\nos.abort()\n": "SIGABRT",
    "import os\nos._exit(7)\n": "exit status:? 7",
    "import os\nos._exit(0)\n": "exit status:? 0",
    "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))\ndata = [bytes(1 << 31)]\n": "MemoryError",
}
#: The options, the signal, and the line that says that the version before serves on.
WAYS = {
    "workers": (["-w", "2"], signal.SIGHUP, "the reload has failed, and the old code serves"),
    "preload": (["-w", "2", "--preload"], signal.SIGHUP, "the reload has failed, and the old code serves"),
    "alone": ([], signal.SIGHUP, "SIGHUP: nothing changes, because"),
    "upgrade": (["-w", "2"], signal.SIGUSR2, r"the new supervisor \d+ has ended before it served; this one serves on"),
}


@pytest.mark.parametrize("way", WAYS)
def test_broken_version_leaves_the_old_one_serving_and_the_log_has_the_reason(server, tmp_path, way):
    options, number, failed = WAYS[way]
    code = tmp_path / "shop.py"
    code.write_text(GOOD % "first")
    running = server("shop:make()", *options, cwd=tmp_path)
    with running.client() as client:
        for text, reason in KINDS.items():
            code.write_text(text)
            start = len(running.err.text())
            running.signal(number)
            running.err.wait(failed, start=start)
            running.err.wait(reason, start=start)
            # The connection has never been closed.
            assert client.get().body == b"first", text
        code.write_text(GOOD % "second")
        start = len(running.err.text())
        running.signal(signal.SIGHUP)
        running.err.wait("pool size" if way == "alone" else r"reloaded: 2 workers", start=start)
        assert client.get().body == b"second"
