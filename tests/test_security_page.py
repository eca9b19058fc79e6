"""Checks the security page: its limits are those of the program, and its smuggled requests get the listed responses."""

import re

import pytest

from process import ROOT, run

PAGE = (ROOT / "docs" / "explain" / "security.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Limits")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and "`--" in line
]
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1, "ms": 0.001, "m": 60, "": 1}
NUMBER = r"(\d[\d,.]*)(?: ?(KiB|MiB|GiB|bytes|ms|s|m)\b)?"


def amount(text):
    """Returns a number with its unit, in bytes, seconds or items."""
    match = re.match(NUMBER, text)
    return float(match[1].replace(",", "")) * UNITS[match[2] or ""]


@pytest.fixture(scope="module")
def defaults():
    done = run("--print-config", "probe")
    assert done.returncode == 0, done.stderr
    return {name: (value, why) for name, value, why in re.findall(r"^(\w+) = (\S+) *# default(.*)$", done.stdout, re.M)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2])
def test_limit_of_the_security_model_is_the_default(row, defaults):
    for option in re.findall(r"`--([\w-]+)`", row[2]):
        value, why = defaults[option.replace("-", "_")]
        if why:
            # The default depends on the machine: descriptors, or free space.
            assert re.search("descriptors|free", row[1]), (row, value, why)
        else:
            # The cell has the number. Some cells have two numbers.
            stated = [amount(part[0]) for part in re.finditer(NUMBER, row[1])]
            assert amount(value) in stated, (row, value)


def test_table_has_all_limits():
    assert len(ROWS) >= 15


CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = [
    ("Content-Length: 5", CHUNKED), ("Content-Length: 5", "Content-Length: 5"), ("Content-Length: +5",),
    ("Transfer-Encoding: gzip",), ("Content_Length: 5",), ("Transfer_Encoding: chunked",), ("Host: other",), ("X : y",),
    ("X: y\r\n z",), ("X: y\nZ: z",), ("X: y\rz",), ("X: y\x01",),
]  # fmt: skip


@pytest.mark.parametrize("fields", SMUGGLED, ids=repr)
def test_request_that_smuggles_is_refused_and_nothing_follows(probe, fields):
    with probe.client() as client:
        client.request("POST / HTTP/1.1", *fields, body=b"5\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().status in (400, 501)
        client.assert_closed()


@pytest.mark.parametrize("size", ["+5", "0x5", "5_0", "0" * 17, "-1"])
def test_chunk_size_that_smuggles_is_refused(probe, size):
    with probe.client() as client:
        client.request("POST / HTTP/1.1", CHUNKED, body=f"{size}\r\nhello\r\n0\r\n\r\n".encode())
        assert client.response().status == 400
        client.assert_closed()
