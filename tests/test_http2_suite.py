"""The cases of httpwg (the heir of h2spec), a suite for RFC 9113, if the program `httpwg` is installed. `make test` and
`make test-http2` install it."""

import ctypes
import errno
import os
import re
import shutil
import subprocess

import pytest

#: Cases that fail, and why that is right.
CODES = "the connection or the stream ends, with PROTOCOL_ERROR in place of a more precise code, as the crate h2 does it"
ACCEPTED = {
    "invalid header block fragment": CODES,
    "closed sends headers frame after rst stream": CODES,
    "half closed remote sends headers frame": CODES,
    "half closed remote sends data frame": CODES,
    "closed sends headers frame": CODES,
    "sends settings frame with ack and payload": CODES,
    "sends settings frame with invalid length": CODES,
    "sends settings initial window size with exceeded max window size value": CODES,
    "sends settings initial window size with invalid value": CODES,
    "sends priority frame with invalid length": CODES,
    "sends data frame on invalid stream state": CODES,
    "sends rst stream frame with invalid length": CODES,
    "sends ping frame with invalid length": CODES,
    "sends window update frame with invalid length": CODES,
    "sends goaway frame with unknown error code": "a GOAWAY without open streams ends the connection, often before the PING "
                                                  "that follows it is answered",
    "sends connect without authority": "no tunnel is ever made: each CONNECT gets 501",
    "sends headers frame with pseudo header in trailer": "trailers are dropped without being read",
}


#: The system call io_uring_setup, which has the same number on all architectures, and the size of its parameters.
IO_URING_SETUP, IO_URING_PARAMS = 425, 120


def io_uring_error():
    """Why no program can use io_uring here, without which httpwg does not run."""
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(IO_URING_PARAMS))
    if ring >= 0:
        return os.close(ring)
    return errno.errorcode[ctypes.get_errno()]


@pytest.mark.skipif(not shutil.which("httpwg"), reason="httpwg is missing")
def test_cases_of_httpwg(server):
    if error := io_uring_error():
        pytest.skip(f"httpwg needs io_uring, which fails with {error}")
    running = server("probe")
    command = ["httpwg", "-v", "-a", f"127.0.0.1:{running.port}", "--connect-timeout", "60000", "--frame-timeout", "5000"]
    # One case after the other, without backtraces: all cases at once run out of time on a busy machine.
    environment = {**os.environ, "SEQUENTIAL": "1", "RUST_BACKTRACE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    # httpwg names no failure of a case that ends with a panic.
    begun, passed = (set(re.findall(rf"{what}: (RFC 9113 :: .*)", text)) for what in ("Running test", "Test passed"))
    assert (len(passed), len(begun)) == tuple(map(int, re.search(r"Passed (\d+)/(\d+)", text).groups()))
    assert len(begun) > 100
    assert not {name.rpartition(" :: ")[2] for name in begun - passed} - set(ACCEPTED)
