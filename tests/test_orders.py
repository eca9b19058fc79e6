"""A response ends exactly once, in every order of the events that can end it."""

import json
import subprocess
import sys

import pytest

from process import PROGRAMS, clean_environment

pytestmark = pytest.mark.smoke


def test_every_order_ends_the_response_once_and_frees_all_threads_and_places():
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "orders.py")],
        env=clean_environment(), capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["wrong"] == []
    assert seen["orders"] == 685, "all orders of six events, and of each subset that has the call"
    # A thread that was too late, or whose client had left, got an error.
    assert {"read BrokenPipeError", "write BrokenPipeError", "write RuntimeError"} <= set(seen["ways"])
