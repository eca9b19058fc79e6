"""TLS in programs that were written for other servers."""

import shutil
import signal
import ssl
import subprocess
import sys

import pytest

import maypole
from certs import Authority, Secured
from client import PATIENCE
from maypole import serving
from process import EXAMPLES, clean_environment
from running import program, tool

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


def test_adhoc_certificate_is_made_for_the_host(monkeypatch, tmp_path):
    pytest.importorskip("cryptography")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = serving.make_server("127.0.0.1", 0, application, ssl_context="adhoc")
    server._engine().start()
    try:
        (made,) = tmp_path.glob("maypole-adhoc-*/cert.pem")
        assert made.parent.stat().st_mode & 0o77 == 0, "others cannot read the key"
        for host in ("127.0.0.1", "localhost"):
            trusting = ssl.create_default_context(cafile=made)
            with Secured(f"https://127.0.0.1:{server.port}", trusting, host) as client:
                assert client.get().body == b"https"
    finally:
        server.server_close()


def test_adhoc_without_cryptography_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.x509", None)
    with pytest.raises(ImportError, match="pip install cryptography"):
        serving.make_server("127.0.0.1", 0, application, ssl_context="adhoc")


def test_flask_command_has_the_options_of_flask_run(server, issued):
    command = ["-m", "flask", "--app", "shop", "maypole", "--port", "0", "--cert", "a.pem", "--key", "a.key"]
    (issued.directory / "shop.py").write_text("import flask\napp = flask.Flask(__name__)\n@app.get('/')\ndef root():\n    return flask.request.scheme\n")
    running = program(server, *command, cwd=issued.directory)
    assert ask(running.addresses[0], issued) == b"https"


def test_runmaypole_has_the_options_of_the_server(server, issued, tmp_path):
    pytest.importorskip("django")
    shutil.copytree(EXAMPLES / "django_site", tmp_path, dirs_exist_ok=True)
    files = issued.options("a")
    command = ["manage.py", "runmaypole", "127.0.0.1:0", "--noreload", *files]
    running = program(server, *command, cwd=tmp_path, ready=r"Starting (?:WSGI )?development server at https://[^:]*:(\d+)/", out=True)
    assert ask(running.addresses[0], issued) == b"Hello from Django\n"
    running.signal(signal.SIGINT)
    assert running.wait() == 0
    workers = ["manage.py", "runmaypole", "127.0.0.1:0", "--noreload", "--workers", "2", *files]
    running = program(server, *workers, cwd=tmp_path, ready=r"listening on https://127.0.0.1:(\d+).*2 workers")
    assert ask(running.addresses[0], issued) == b"Hello from Django\n"


def test_pserve_takes_the_files_from_the_section_of_the_server(server, issued, tmp_path):
    pytest.importorskip("pyramid")
    shutil.copytree(EXAMPLES / "pserve", tmp_path, dirs_exist_ok=True)
    ini = tmp_path / "development.ini"
    files = f"certfile = {issued.path('a.pem')}\nkeyfile = {issued.path('a.key')}"
    assert "use = egg:maypole#main" in ini.read_text()
    text = ini.read_text().replace("127.0.0.1:6543", "127.0.0.1:0")
    ini.write_text(text.replace("use = egg:maypole#main", f"use = egg:maypole#main\n{files}"))
    running = program(server, tool("pserve"), "development.ini", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
                      ready=r"listening on https://\S*?:(\d+)")
    with Secured(running.addresses[0], issued.context(), "localhost") as client:
        assert client.get().status == 200


def test_oslo_reads_the_section_ssl(issued):
    oslo_config = pytest.importorskip("oslo_config.cfg")
    pytest.importorskip("oslo_service._options")
    oslo = pytest.importorskip("maypole.oslo")
    conf = oslo_config.ConfigOpts()
    oslo.register_opts(conf)
    conf([], project="test", default_config_files=[])
    with pytest.raises(RuntimeError, match="cert_file and key_file"):
        oslo.Server(conf, "api", application, host="127.0.0.1", use_ssl=True)
    conf.set_override("cert_file", issued.path("a.pem"), "ssl")
    conf.set_override("key_file", issued.path("a.key"), "ssl")
    for authorities, client in ((None, None), (issued.path("ca.pem"), "a")):
        conf.set_override("ca_file", authorities, "ssl")
        conf.set_override("version", "TLSv1_2" if client else None, "ssl")
        service = oslo.Server(conf, "api", application, host="127.0.0.1", use_ssl=True)
        service.start()
        try:
            with Secured(f"https://127.0.0.1:{service.port}", issued.context(client), "localhost") as asking:
                assert asking.get().body == b"https"
                assert asking.socket.version() == ("TLSv1.2" if client else "TLSv1.3")
            if client:
                # The authorities are those of the clients: each needs a certificate.
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    ask(f"https://127.0.0.1:{service.port}", issued)
        finally:
            service.close()
            service.wait()


EVENTLET = """
import sys
import eventlet
from maypole import eventlet as wsgi

def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.url_scheme"].encode()]

plain = eventlet.listen(("127.0.0.1", 0))
print(f"port {plain.getsockname()[1]}", file=sys.stderr, flush=True)
wsgi.server(eventlet.wrap_ssl(plain, certfile="a.pem", keyfile="a.key", server_side=True), app, log_output=False)
"""


def test_socket_that_eventlet_has_wrapped(server, issued):
    pytest.importorskip("eventlet")
    (issued.directory / "wrapped.py").write_text(EVENTLET)
    running = program(server, "-W", "ignore", "wrapped.py", cwd=issued.directory)
    assert ask(running.addresses[0], issued) == b"https"
    # Its own loop knows no signals.
    running.stop(expect=-signal.SIGTERM)


@pytest.mark.parametrize("call, error", [
    ("maypole.Server(app, certfile=context)", "ValueError: certfile: an object of the module ssl"),
    ("maypole.serve(app, certfile=context)", "ValueError: certfile: an object of the module ssl"),
    ("maypole.serve(app, ssl_context=context)", "ValueError: ssl_context: an object of the module ssl"),
    ("serving.run_simple('127.0.0.1', 0, app, ssl_context=context)", "ValueError: ssl_context must be"),
    ("serving.make_server('127.0.0.1', 0, app, ssl_context=context)", "ValueError: ssl_context must be"),
])
def test_context_of_ssl_is_an_error_that_names_the_keywords(call, error):
    code = f"import ssl, maypole\nfrom maypole import serving\napp = print\ncontext = ssl.create_default_context()\n{call}"
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith(error) and last.endswith("certfile= and keyfile="), done.stderr
