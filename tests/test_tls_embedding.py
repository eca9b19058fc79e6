"""TLS in programs that were written for other servers."""

import ssl
import sys

import pytest

import maypole
from certs import Authority, Secured
from maypole import serving
from running import program

SHOP = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [environ['wsgi.url_scheme'].encode()]\n"


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("a", "localhost")
    (authority.directory / "shop.py").write_text(SHOP)
    return authority


def application(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.url_scheme"].encode()]


def ask(address, authority):
    with Secured(address, authority.context(), "localhost") as client:
        return client.get().body


def test_server_takes_the_files(issued):
    files = {"certfile": issued.path("a.pem"), "keyfile": issued.path("a.key")}
    with maypole.Server(application, bind="127.0.0.1:0", **files) as server:
        assert server.addresses == [f"https://127.0.0.1:{server.port}"]
        assert ask(server.addresses[0], issued) == b"https"
    with pytest.raises(ValueError, match=r"^certfile \S+shop\.py is not in PEM"):
        maypole.Server(application, bind="127.0.0.1:0", certfile=issued.path("shop.py"))


def test_ssl_context_of_werkzeug_is_a_pair_of_files(issued):
    pair = (issued.path("a.pem"), issued.path("a.key"))
    server = serving.make_server("127.0.0.1", 0, application, ssl_context=pair)
    server._engine().start()
    try:
        assert ask(f"https://127.0.0.1:{server.port}", issued) == b"https"
    finally:
        server.server_close()
    for wrong in (ssl.create_default_context(), "other"):
        with pytest.raises(ValueError, match="certfile= and keyfile="):
            serving.make_server("127.0.0.1", 0, application, ssl_context=wrong)
    if "cryptography" not in sys.modules:
        with pytest.raises(ImportError, match="pip install cryptography"):
            serving.make_server("127.0.0.1", 0, application, ssl_context="adhoc")


def test_flask_command_has_the_options_of_flask_run(server, issued):
    command = ["-m", "flask", "--app", "shop", "maypole", "--port", "0", "--cert", "a.pem", "--key", "a.key"]
    (issued.directory / "shop.py").write_text("import flask\napp = flask.Flask(__name__)\n@app.get('/')\ndef root():\n    return flask.request.scheme\n")
    running = program(server, *command, cwd=issued.directory)
    assert ask(running.addresses[0], issued) == b"https"
