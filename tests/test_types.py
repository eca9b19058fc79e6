"""The keywords of `maypole.Server` and `maypole.serve` have types: editors complete them, and mypy finds mistakes."""

import re
import subprocess
import sys
import typing

import pytest

from client import PATIENCE
from process import clean_environment, run

maypole = pytest.importorskip("maypole")

PROGRAM = """
import maypole
from maypole import sse
from wsgiref.types import WSGIApplication

def serve(app: WSGIApplication) -> None:
    maypole.Server(app, "127.0.0.1:0", pool_size=5, keep_alive=1.5, body_timeout="2m", max_body_size="1M", threads=None)
    maypole.Server(app, host="::", port=80, werkzeug_socket=True, proxy_allow_from=["10.0.0.0/8", "::1"])
    maypole.serve("shop:app", bind=["127.0.0.1:0"], chdir="/", umask="027", unix_socket_mode=0o660)
    settings: maypole.Settings = {"pool_size": 5}
    maypole.Server(app, **settings)
    maypole.serve(app, pool_sizee=1)  # wrong: Unexpected keyword argument "pool_sizee"
    maypole.Server(app, pool_size="many")  # wrong: Argument "pool_size"
    maypole.Server(app, chdir="/")  # wrong: Unexpected keyword argument "chdir"
    maypole.Server(app, werkzeug_socket="yes")  # wrong: Argument "werkzeug_socket"

def events(environ: dict[str, object]) -> bool:
    broadcast = sse.Broadcast(order=int, older=lambda topics, id: [sse.Message("a", id="1")], retry="2s", heartbeat=None)
    stream = broadcast.subscribe(environ, "news", last_event_id="7")
    sse.EventStream(environ, overflow="drop")  # wrong: Argument "overflow"
    stream.send(b"bytes")  # wrong: Argument 1 to "send"
    broadcast.subscribe(environ, b"news")  # wrong: Argument 2 to "subscribe"
    maypole.wait(environ, maypole.Event(), timeout=1.5).response(lambda: None, nothing="[]")
    maypole.wait(environ, "news")  # wrong: Argument 2 to "wait"
    return stream.missed and stream.send("text", id="8")
"""


def test_mypy_finds_wrong_keywords_and_takes_right_ones(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "program.py"], cwd=tmp_path,
        env=clean_environment(), capture_output=True, text=True, timeout=6 * PATIENCE,
    )
    found = {int(line): words for line, words in re.findall(r"^program\.py:(\d+): error: (.*)$", done.stdout, re.M)}
    lines = enumerate(PROGRAM.splitlines(), 1)
    expected = {number: line.partition("# wrong: ")[2] for number, line in lines if "# wrong: " in line}
    assert found.keys() == expected.keys(), done.stdout + done.stderr
    for number, words in expected.items():
        assert found[number].startswith(words), found[number]


def test_types_have_every_setting():
    done = run("--print-config", "probe")
    settings = {line.split(" = ")[0] for line in done.stdout.splitlines()}
    settings = {name for name in settings if "." not in name} - {"application"}
    # The parts of `bind`, and the settings that make `serve` do something else than serve.
    more = {"host", "port", "check_config", "print_config"}
    hints = typing.get_type_hints(maypole.ProcessSettings)
    assert set(hints) == settings | more
    assert set(typing.get_type_hints(maypole.Settings)) < set(hints)
    assert "chdir" not in typing.get_type_hints(maypole.Settings)


@pytest.mark.parametrize("setting", [{"host": "127.0.0.1", "port": 0}, {"port": 0}, {"bind": "127.0.0.1:0"}])
def test_keywords_say_where_to_listen(setting):
    server = maypole.Server(lambda environ, start_response: [], **setting)
    try:
        assert server.host == "127.0.0.1"
        assert server.settings["bind"] == "127.0.0.1:0"
    finally:
        server.close()


@pytest.mark.parametrize("mode", [0o660, "660", "0o660"])
def test_mode_is_octal_as_text_and_a_number_as_a_number(mode):
    server = maypole.Server(lambda environ, start_response: [], port=0, unix_socket_mode=mode)
    try:
        assert server.settings["unix_socket_mode"] == "660"
    finally:
        server.close()


def test_mode_in_decimal_digits_is_refused():
    with pytest.raises(ValueError, match="invalid value '1224' for unix_socket_mode"):
        maypole.Server(lambda environ, start_response: [], port=0, unix_socket_mode=660)


def test_serve_prints_keywords_as_the_source_of_values():
    program = "import maypole; raise SystemExit(maypole.serve('shop', print_config=True, pool_size=5, port=80))"
    done = subprocess.run([sys.executable, "-c", program], env=clean_environment(), capture_output=True, text=True,
                          timeout=3 * PATIENCE)
    assert done.returncode == 0, done
    for line in ["pool_size = 5  # keyword", "bind = 127.0.0.1:80  # keyword", "threads = 256  # default"]:
        assert line in done.stdout.splitlines(), done.stdout
