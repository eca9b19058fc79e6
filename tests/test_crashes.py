"""A crash writes the stacks of Python into the error log, and ends the process by the same signal as without them."""

import signal

import pytest

from process import APPS


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("SIGSEGV", "Segmentation fault"),
        ("SIGABRT", "Aborted"),
        ("SIGBUS", "Bus error"),
        ("SIGFPE", "Floating point exception"),
        ("SIGILL", "Illegal instruction"),
    ],
)
def test_crash_in_a_request_writes_the_stacks(server, name, sentence):
    running = server("crashing:application")
    with running.client() as client:
        client.send(f"GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert running.wait() == -getattr(signal, name)
    text = running.err.text()
    assert f"Fatal Python error: {sentence}" in text, text
    assert "crashing.py" in text and "in application" in text, text


def test_crash_in_the_import_writes_the_stacks_into_the_error_log(server, tmp_path):
    log = tmp_path / "error.log"
    crash = {"CRASHING_AT_IMPORT": "SIGSEGV"}
    running = server("crashing:application", "--error-logfile", log, ready=False, env=crash)
    assert running.wait() == -signal.SIGSEGV
    text = log.read_text()
    assert "Fatal Python error: Segmentation fault" in text and "in touch_nothing" in text, text
    assert running.err.text() == ""


def test_application_that_enables_faulthandler_keeps_its_own_file(server, tmp_path):
    (tmp_path / "own.py").write_text(
        "import faulthandler\n"
        "faulthandler.enable(file=open('stacks', 'wb'))\n"
        "from crashing import application\n"
    )
    running = server("own:application", "--pythonpath", APPS, cwd=tmp_path)
    with running.client() as client:
        client.send(b"GET /SIGSEGV HTTP/1.1\r\nHost: a\r\n\r\n")
        assert running.wait() == -signal.SIGSEGV
    assert "Fatal Python error" in (tmp_path / "stacks").read_text()
    assert "Fatal Python error" not in running.err.text()
