"""PasteDeploy: `egg:maypole#main` under the real pserve with its reloader, and `maypole --paste`."""

import re
import shutil
import signal
import subprocess
import sys

import pytest

from process import EXAMPLES, MAYPOLE, run
from running import change, program, rewrite, see, tool

# The line that pserve or the binary logs when it listens.
LISTENING = r"listening on \S*?:(\d+)"

COMPOSITE = """
[composite:main]
use = egg:Paste#urlmap
/shop = shop
/admin = admin

[app:shop]
use = call:words:make
word = shop

[app:admin]
use = call:words:make
word = admin

[server:main]
use = egg:maypole#main
host = 127.0.0.1
port = 0
threads = 3
url_scheme = https

[server:factory]
use = egg:maypole#factory
paste.server_factory = main
"""

WORDS = """
import logging

def make(global_conf, word):
    logging.getLogger("words").info("making %s", word)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        said = [word, environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["wsgi.url_scheme"]]
        return [" ".join(said).encode()]

    return application
"""


@pytest.fixture
def site(tmp_path):
    """Makes a directory with an ini file of two applications."""
    (tmp_path / "site.ini").write_text(COMPOSITE)
    (tmp_path / "words.py").write_text(WORDS)
    return tmp_path


@pytest.fixture
def shop(tmp_path):
    """Starts the example on a free port."""
    shutil.copytree(EXAMPLES / "pserve", tmp_path, dirs_exist_ok=True)
    ini = tmp_path / "development.ini"
    ini.write_text(ini.read_text().replace("127.0.0.1:6543", "127.0.0.1:0"))
    return tmp_path


def pserve(server, cwd, *arguments, **more):
    return program(server, tool("pserve"), *arguments, cwd=cwd, env={"PYTHONPATH": str(cwd)}, ready=LISTENING, **more)


# --- the settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section, settings", [
    ({}, {}),
    ({"threads": "8", "keep_alive": "75s"}, {"threads": "8", "keep_alive": "75s"}),
    ({"host": "10.0.0.1", "port": "80"}, {"listen": ["10.0.0.1:80"]}),
    ({"port": "80"}, {"listen": ["127.0.0.1:80"]}),
    ({"host": "::1"}, {"listen": ["[::1]:8000"]}),
    ({"host": "*", "port": "80"}, {"listen": ["0.0.0.0:80"]}),
    ({"listen": "*:80 [::1]:81\nlocalhost:82"}, {"listen": ["0.0.0.0:80", "[::1]:81", "localhost:82"]}),
    ({"bind": "127.0.0.1:80,unix:/run/s"}, {"listen": ["127.0.0.1:80", "unix:/run/s"]}),
    ({"unix_socket": "/run/shop"}, {"listen": ["unix:/run/shop"]}),
    ({"url_scheme": "https"}, {"scheme": "https"}),
])
def test_section_becomes_settings(section, settings):
    from maypole.paste import _settings_of
    assert _settings_of(section) == settings


@pytest.mark.parametrize("section, sentence", [
    ({"listen": "a:1", "port": "2"}, "listen and host/port each give an address"),
    ({"unix_socket": "s", "bind": "a:1"}, "bind and unix_socket each give"),
    ({"url_scheme": "http", "scheme": "http"}, "url_scheme and scheme are the same"),
])
def test_section_that_contradicts_itself_is_refused(section, sentence):
    from maypole.paste import _settings_of
    with pytest.raises(ValueError, match=sentence):
        _settings_of(section)


# --- pserve ---------------------------------------------------------------------------------------------------------


def test_pserve_serves_a_composite_and_stops(server, site):
    running = pserve(server, site, "site.ini")
    with running.client() as idle:
        assert idle.get("/shop/x").body == b"shop /shop /x https"
        assert running.get("/admin").body == b"admin /admin  https"
        running.signal(signal.SIGTERM)
        idle.assert_closed()
    assert running.wait() == 0


def test_pserve_with_workers(server, site):
    rewrite(site / "site.ini", "threads = 3", "threads = 3\nworkers = 2")
    running = pserve(server, site, "site.ini")
    assert running.get("/shop/x").body == b"shop /shop /x https"
    running.err.wait(r"listening on .*, 2 workers")
    running.signal(signal.SIGTERM)
    assert running.wait() == 0


def test_pserve_with_a_factory(server, site):
    ini = site / "site.ini"
    ini.write_text(ini.read_text().replace("[server:factory]\nuse = egg:maypole#factory", "[server:other]"
                                           ).replace("paste.server_factory = main", "paste.server_factory = maypole.paste:server_factory\nport = 0"))
    running = pserve(server, site, "site.ini", "--server-name", "other")
    assert running.get("/shop").body == b"shop /shop  http"
    running.signal(signal.SIGINT)
    assert running.wait() == 0


def test_pserve_with_an_unknown_key_names_the_nearest(server, site):
    rewrite(site / "site.ini", "threads = 3", "thread = 3")
    running = program(server, tool("pserve"), "site.ini", cwd=site, env={"PYTHONPATH": str(site)}, ready=None)
    assert running.wait() != 0
    assert re.search(r"thread\b.*threads", running.err.wait_end())


def test_pserve_with_a_wrong_value_says_what_it_takes(server, site):
    rewrite(site / "site.ini", "threads = 3", "threads = many")
    running = program(server, tool("pserve"), "site.ini", cwd=site, env={"PYTHONPATH": str(site)}, ready=None)
    assert running.wait() != 0
    assert re.search(r"ValueError: .*threads", running.err.wait_end())


def test_pserve_reload_serves_the_new_code(server, shop):
    running = pserve(server, shop, "development.ini", "--reload", "--reload-interval", "1")
    with running.client() as idle:
        assert idle.get().body == b"Hello from Pyramid\n"
        began = change(running, shop / "shop.py", "from Pyramid\\n", "again\\n", r"shop\.py changed")
        # The idle client does not delay the end of the old process.
        see(running, LISTENING, start=began)
        assert running.get().body == b"Hello again\n"
        idle.assert_closed()
    # pserve kills a server that takes longer than a second. On a busy machine a process may take that long to end.
    assert re.search("SIGTERM: stopping.*\n.*stopped .* after SIGTERM: every request has ended", running.err.text())
    running.signal(signal.SIGTERM)
    running.wait()


# --- maypole --paste ------------------------------------------------------------------------------------------------


def served(server, spec, *arguments, cwd):
    return server("", command=[MAYPOLE, "--bind", "127.0.0.1:0", *map(str, arguments), "--paste", str(spec)], cwd=cwd)


def test_paste_serves_main_and_named_applications(server, site):
    running = served(server, "site.ini", cwd=site)
    assert running.get("/shop").body == b"shop /shop  http"
    named = served(server, "site.ini#admin", cwd=site)
    assert named.get("/x").body == b"admin  /x http"


def test_paste_serves_the_pyramid_example_with_its_logging(server, shop):
    running = served(server, "development.ini", cwd=shop)
    assert running.get().body == b"Hello from Pyramid\n"


def test_paste_takes_the_logging_of_the_file(server, site):
    ini = site / "site.ini"
    example = (EXAMPLES / "pserve" / "development.ini").read_text()
    ini.write_text(ini.read_text() + example[example.index("[loggers]"):])
    running = served(server, "site.ini", cwd=site)
    running.err.wait(r"INFO words: making shop\n")


def test_paste_from_elsewhere_knows_its_directory(server, site, tmp_path_factory):
    ini = site / "odd #1.ini"
    ini.write_text("[app:main]\nuse = call:words:make\nword = %(here)s\n")
    running = served(server, f"{ini}#main", "--pythonpath", site, cwd=tmp_path_factory.mktemp("elsewhere"))
    assert running.get().body.split()[0] == str(site).encode()


@pytest.mark.parametrize("spec, code, sentence", [
    ("nowhere.ini", 4, r"there is no file '.*nowhere\.ini'"),
    ("site.ini#nobody", 4, r"nobody"),
    ("broken.ini", 4, r"(?s)broken\.ini.*Traceback.*ModuleNotFoundError.*no_such_module"),
])
def test_paste_that_cannot_be_loaded_is_told(site, spec, code, sentence):
    (site / "broken.ini").write_text("[app:main]\nuse = call:no_such_module:make\n")
    done = run("--bind", "127.0.0.1:0", "--paste", spec, cwd=site)
    assert done.returncode == code, done.stderr
    assert re.search(sentence, done.stderr), done.stderr


def test_paste_without_pastedeploy_says_what_to_install(site):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", site / "venv"], check=True)
    done = run("--bind", "127.0.0.1:0", "--paste", "site.ini", cwd=site, env={"VIRTUAL_ENV": str(site / "venv")})
    assert done.returncode == 4
    assert "pip install PasteDeploy" in done.stderr and "Traceback" not in done.stderr


def test_paste_and_a_module_are_one_too_many(site):
    done = run("--paste", "site.ini", "words:app", cwd=site)
    assert done.returncode == 2 and "--paste" in done.stderr
    assert run(cwd=site).returncode == 2
