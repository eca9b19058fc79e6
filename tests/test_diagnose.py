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
    assert (EXAMPLES / "hangs" / f"{name}.py").read_text() in section
    running = server(f"{name}:app", cwd=EXAMPLES / "hangs")
    clients = [running.client() for _ in CASES[name]]
    for client, path in zip(clients, CASES[name], strict=True):
        assert f"http://127.0.0.1:8000{path}" in section
        client.request(f"GET {path} HTTP/1.1")
    expected = places(section, name)
    assert expected, "the page names no line"
    path = CASES[name][0]
    count = CASES[name].count(path)

    def is_as_the_page_shows():
        text = run(command, running.pid).stdout
        # One of several requests may reach the line before the others have arrived.
        has_all = "a thread keeps the GIL (Python's lock)" in text if name == "pattern" else text.count(f"GET {path} HTTP/1.1") == count
        return has_all and expected <= places(text, name)

    eventually(is_as_the_page_shows, what=f"what the page shows: {expected}, and {count} requests for {path}")
    if name == "service":
        group = "  3 requests are here, with the stack below them:\n"
        eventually(lambda: group in run("dump", running.pid).stdout, what="three requests with the same stack")
    running.kill()
    for client in clients:
        client.close()
