"""docs/reference/exit-codes.md: each example command ends with the page's exit code, and prints the page's message."""

import builtins
import re
import socket
import subprocess

import pytest

from client import PATIENCE
from process import MAYPOLE, ROOT, clean_environment

PAGE = (ROOT / "docs" / "reference" / "exit-codes.md").read_text()


def table(comment):
    """Returns the rows of the table after a comment, without the header row."""
    text = PAGE.partition(f"<!-- {comment}:")[2].partition("-->\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert rows and all(len(row) == 4 for row in rows)
    return rows


def examples(comment):
    """Returns the first cell, the example and the message of each row with an example."""
    found = []
    for first, _, example, message in table(comment):
        # Examples with a placeholder are left to other tests.
        if example and "PID" not in example:
            found.append((first.strip("`"), example.strip("`"), message.strip("`")))
    return found


@pytest.fixture
def directory(tmp_path):
    hello = PAGE.partition("<!-- snippet: file hello.py -->\n```python\n")[2].partition("```")[0]
    (tmp_path / "hello.py").write_text(hello)
    return tmp_path


@pytest.mark.parametrize("code, command, prints", examples("exit codes"))
def test_command_ends_with_its_code(directory, code, command, prints):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = command.replace("127.0.0.1:8000", f"127.0.0.1:{taken.getsockname()[1]}")
        shell = 'maypole() { "$MAYPOLE_UNDER_TEST" "$@"; }; '
        # Another server may have the default address.
        env = clean_environment(MAYPOLE_UNDER_TEST=MAYPOLE, MAYPOLE_BIND="127.0.0.1:0")
        done = subprocess.run(
            ["sh", "-c", shell + command], cwd=directory, env=env,
            capture_output=True, text=True, timeout=3 * PATIENCE, stdin=subprocess.DEVNULL,
        )
    assert done.returncode == int(code), done
    assert prints in done.stdout + done.stderr, done


def test_every_code_of_the_first_table_has_causes_and_an_example():
    codes = re.findall(r"^\| (\d) \|", PAGE.partition("## What causes")[0], re.M)
    assert codes == ["0", "1", "2", "3", "4"]
    assert {row[0] for row in table("exit codes")} == set(codes) == {code for code, _, _ in examples("exit codes")}


def test_server_whose_socket_is_shut_down_ends_with_1(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        running = server("probe", "--bind", f"fd://{fd}", bind=False, pass_fds=(fd,))
        listener.shutdown(socket.SHUT_RDWR)
        assert running.wait() == 1, running.err.text()


@pytest.mark.parametrize("exception, code, message", examples("exceptions"))
def test_call_raises_what_the_page_names(exception, code, message):
    maypole = pytest.importorskip("maypole")

    def app(environ, start_response):
        raise NotImplementedError

    async def asgi(scope, receive, send):
        raise NotImplementedError

    names = {"maypole": maypole, "app": app, "asgi": asgi}
    server = maypole.Server(app, "127.0.0.1:0")
    try:
        with pytest.raises(BaseException) as raised:
            exec(code, {**names, "server": server})
    finally:
        server.close()
    assert isinstance(raised.value, getattr(builtins, exception)), raised.value
    assert message in str(raised.value)
