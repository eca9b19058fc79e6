"""The cases of httpwg (the heir of h2spec), a suite for RFC 9113, if the program `httpwg` is installed:
`cargo install httpwg-cli --locked`."""

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
    "sends connect without authority": "no tunnel is ever made: each CONNECT gets 501",
    "sends headers frame with pseudo header in trailer": "trailers are dropped without being read",
}


@pytest.mark.skipif(not shutil.which("httpwg"), reason="httpwg is missing")
def test_cases_of_httpwg(server):
    running = server("probe")
    command = ["httpwg", "-a", f"127.0.0.1:{running.port}", "--frame-timeout", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    passed, cases = map(int, re.search(r"Passed (\d+)/(\d+)", text).groups())
    failed = re.findall(r"Test failed: RFC 9113 :: .* :: (.*)", text)
    assert cases > 100 and len(failed) == cases - passed
    assert not set(failed) - set(ACCEPTED)
