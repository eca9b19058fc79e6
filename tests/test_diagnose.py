"""The page about services that hang or are slow: one command finds the guilty line of each prepared case."""

import re

import pytest

from process import EXAMPLES, ROOT, eventually, run

PAGE = (ROOT / "docs" / "howto" / "diagnose.md").read_text()
CASES = {"deadlock": ("/buy", "/cancel"), "pattern": ("/register", "/"), "service": ("/price", "/price", "/price")}


def places(text, name):
    """Returns the lines of code that a text names: the line and its function."""
    of_stack = re.findall(rf'/{name}\.py", line (\d+), in (\w+)', text)
    of_table = re.findall(rf"(\w+) \(\S*/{name}\.py:(\d+)\)", text)
    return {*of_stack, *((line, function) for function, line in of_table)}


@pytest.mark.parametrize("name", CASES)
def test_guilty_line_is_found_with_one_command(server, name):
    section = next(part for part in PAGE.split("\n## ") if f"maypole {name}:app" in part)
    command = re.search(r"^maypole (dump|requests)$", section, re.M)[1]
    running = server(f"{name}:app", cwd=EXAMPLES / "hangs")
    clients = [running.client() for _ in CASES[name]]
    for client, path in zip(clients, CASES[name], strict=True):
        assert f"http://127.0.0.1:8000{path}" in section
        client.request(f"GET {path} HTTP/1.1")
    expected = places(section, name)
    assert expected, "the page names no line"
    text = eventually(lambda: (text := run(command, running.pid).stdout) and expected <= places(text, name) and text,
                      what=f"what the page shows: {expected}")
    if name == "pattern":
        assert eventually(lambda: "a thread keeps Python's lock" in run(command, running.pid).stdout, what="its reason")
    else:
        assert text.count(f"GET {CASES[name][0]} HTTP/1.1") == CASES[name].count(CASES[name][0])
    running.kill()
    for client in clients:
        client.close()
