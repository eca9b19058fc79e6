"""`--reload`: a change of a file restarts the worker, and code that cannot be loaded shows its traceback.

The tests write real files and speak raw bytes. A test that changes a file waits for the log line of the new worker, or
asks while it starts: then the client waits for the new code.
"""

import base64
import hashlib
import html
import os
import re
import shutil
import signal
import subprocess

import pytest

from client import Client
from process import MAYPOLE, halt, run
from test_workers import workers

SHOP = """
import views
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return views.text(environ)
"""
VIEWS = """
def text(environ):
    return [b"%s"]
"""
HTML = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
SERVES = r"worker 1 \(pid \d+\) serves\n"
RESTARTING = r"has changed(?: meanwhile)?: restarting"


class Site:
    """A directory with an application, and the server that serves it."""

    def __init__(self, path, server):
        self.path, self.start = path, server
        self.write("shop.py", SHOP)
        self.write("views.py", VIEWS % "one")

    def write(self, name, text):
        """Writes a file in place."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)

    def replace(self, name, text):
        """Writes a file like an editor: under another name, then with a rename."""
        beside = self.path / f".{os.path.basename(name)}.new"
        beside.write_text(text)
        beside.rename((self.path / name))

    def serve(self, app="shop:app", *args, **more):
        more.setdefault("cwd", self.path)
        self.server = self.start(app, "--reload", "--log-level", "debug", *args, **more)
        # The line "listening" may come before or after this one.
        self.server.err.wait(SERVES)
        self.mark = len(self.server.err.text())
        return self

    def expect(self, pattern):
        """Waits for a line after the last one that was waited for."""
        match = self.server.err.wait(pattern, start=self.mark)
        self.mark = match.end()
        return match

    def restarts(self, file=r"\S+"):
        """Waits until the server has found a change of `file`, and the new worker serves."""
        self.expect(f"{file} {RESTARTING}")
        self.expect(SERVES)

    def body(self, path="/", *fields):
        response = self.server.get(path, *fields)
        return response.status, response.body.decode()


@pytest.fixture
def site(server, tmp_path):
    return Site(tmp_path, server)


@pytest.mark.smoke
@pytest.mark.parametrize("engine", ["inotify", "poll"])
def test_change_of_an_imported_module_is_served(site, engine):
    site.serve("shop:app", "--reload-engine", engine)
    assert site.body() == (200, "one")
    site.write("views.py", VIEWS % "second")
    site.restarts("views.py")
    assert site.body() == (200, "second")
    site.replace("shop.py", SHOP.replace("text/plain", "text/x-new"))
    site.restarts("shop.py")
    assert site.server.get().get("Content-Type") == "text/x-new"
    site.replace("views.py", VIEWS % "after a rename")
    site.restarts("views.py")
    assert site.body() == (200, "after a rename")


def test_many_changes_at_once_are_one_restart(site):
    site.write("views.py", "import parts.a, parts.b, parts.c\n" + VIEWS % "one")
    for name in "abc":
        site.write(f"parts/{name}.py", "")
    site.serve()
    # To the worker, which stands still meanwhile, all files change at the same moment.
    [worker] = workers(site.server)
    halt(worker)
    for name in ["parts/a.py", "parts/b.py", "parts/c.py"]:
        site.replace(name, "VALUE = 2")
    os.kill(worker, signal.SIGCONT)
    site.expect(rf"parts/a.py and 2 other files {RESTARTING} 1 worker")
    site.expect(SERVES)


def test_module_of_a_later_import_and_of_a_package_without_init_is_watched(site):
    site.write("views.py", "def text(environ):\n    from late.inner import TEXT\n    return [TEXT]\n")
    site.write("late/inner.py", "TEXT = b'one'")
    site.serve()
    assert site.body() == (200, "one")
    # The server asks Python for new modules once a second: a change before that is found as soon as it is watched.
    site.server.err.wait(r'watches the file \S*/late/inner.py,')
    site.replace("late/inner.py", "TEXT = b'two'")
    site.restarts("late/inner.py")
    assert site.body() == (200, "two")


@pytest.mark.parametrize("options", [[], ["--reload-engine", "poll"]])
def test_templates_and_extra_files_are_watched(site, options):
    site.write("templates/page.html", "one")
    site.write("settings.ini", "one")
    site.write("data/deep/list.txt", "one")
    extra = ["--reload-extra-file", "settings.ini", "--reload-extra-file", "data"]
    site.serve("shop:app", *extra, *options)
    for name in ["templates/page.html", "settings.ini", "data/deep/list.txt"]:
        site.replace(name, "two")
        site.restarts(name)
    site.write("templates/new/page.html", "new")
    site.restarts("templates/new/page.html")
    site.write("templates/.page.html.swp", "an editor's")
    site.write("notes.txt", "of no concern")
    site.write("views.py", VIEWS % "last")
    site.restarts("views.py")
    assert site.body() == (200, "last")


@pytest.mark.parametrize(("framework", "directory"), [("jinja2", "pages"), ("flask", "skin"), ("django", "layout")])
def test_directories_of_templates_that_a_framework_knows_are_watched(site, framework, directory):
    site.write(f"{directory}/page.html", "one")
    site.write("loaders.py", {
        "jinja2": "import jinja2\nloader = jinja2.Environment(loader=jinja2.FileSystemLoader('pages'))\n",
        "flask": "import flask\nflask_app = flask.Flask(__name__, template_folder='skin')\n",
        "django": "from django.conf import settings\nsettings.configure(TEMPLATES=[{'DIRS': ['layout']}])\n",
    }[framework])
    # Modules are looked for meanwhile: no new one is left when the import has ended.
    site.write("views.py", "import loaders, time\ntime.sleep(0.3)\n" + VIEWS % "one")
    site.serve()
    site.replace(f"{directory}/page.html", "two")
    site.restarts(f"{directory}/page.html")


def test_syntax_error_restarts_nothing_and_is_shown_until_it_is_mended(site):
    site.serve()
    site.replace("views.py", "def text(environ:\n    return '<b>'\n")
    site.expect(r"views.py cannot be compiled: requests get this error until it can \(--reload\)\n")
    site.expect(r"SyntaxError: ")
    response = site.server.get("/", HTML)
    assert response.status == 500
    assert response.get("Content-Type") == "text/html; charset=utf-8"
    page = response.body.decode()
    assert "SyntaxError" in page and "def text(environ:" in page
    assert response.get("Cache-Control") == "no-store"
    # The same error is still there, in another place: the page changes, so that the browser loads it anew.
    site.replace("views.py", "\n\ndef text(environ:\n")
    site.expect(r"views.py cannot be compiled")
    site.expect(r"SyntaxError: ")
    again = site.server.get("/", HTML, method="HEAD")
    assert again.status == 500 and again.get("Maypole-Reload") != response.get("Maypole-Reload")
    site.write("views.py", VIEWS % "mended")
    site.restarts("views.py")
    response = site.server.get("/", HTML)
    assert (response.status, response.body, response.get("Maypole-Reload")) == (200, b"mended", None)
    assert site.server.err.text().count(" has changed") == 1


def test_page_permits_only_its_own_script_and_style(site):
    site.write("views.py", "raise ValueError('<script>alert(1)</script>')\n")
    site.serve()
    response = site.server.get("/", HTML)
    policy, page = response.get("Content-Security-Policy"), response.body.decode()
    assert page.count("<script") == 1 and html.escape("<script>alert(1)</script>") in page
    for tag in ["style", "script"]:
        text = re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy, f"the hash of the {tag} in page.rs is {digest}"
    assert "default-src 'none'" in policy
    plain = site.server.get("/", "Accept: */*")
    assert plain.get("Content-Type") == "text/plain; charset=utf-8"
    assert plain.body.decode().startswith("ValueError: <script>alert(1)</script>\n\nimporting 'shop' failed:\nTraceback")


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("import missing_part\n", "ModuleNotFoundError: No module named 'missing_part'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('no database')\n", "SystemExit: no database"),
    ],
)
def test_failed_import_shows_its_traceback_until_a_file_mends_it(site, broken, error):
    site.serve()
    site.replace("views.py", broken + VIEWS % "mended")
    site.restarts("views.py")
    site.server.err.wait(r"requests get this error until a file changes \(--reload\): ")
    status, text = site.body()
    assert status == 500 and text.startswith(error) and "views.py" in text
    if "missing" in broken:
        site.write("missing_part.py", "")
        site.restarts("missing_part.py")
    else:
        site.replace("views.py", VIEWS % "mended")
        site.restarts("views.py")
    assert site.body() == (200, "mended")


def test_first_start_with_broken_code_serves_the_page(site):
    (site.path / "shop.py").unlink()
    site.serve()
    status, text = site.body()
    assert status == 500 and text.startswith("there is no module 'shop' on sys.path")
    site.write("shop.py", SHOP)
    site.restarts("shop.py")
    assert site.body() == (200, "one")


@pytest.mark.parametrize(
    ("app", "options", "changed"),
    [
        ("shop:make", ["--factory"], "shop.py"),
        ("shop:make()", [], "views.py"),
        ("inner/main.py:app", [], "inner/main.py"),
        ("inner/main.py:app", [], "views.py"),
        ("--paste=site.ini", [], "site.ini"),
        ("--paste=site.ini#main", [], "views.py"),
    ],
)
def test_every_way_to_name_the_application_is_watched(site, app, options, changed):
    site.write("shop.py", SHOP + "\ndef make(config=None):\n    return app\n")
    site.write("inner/main.py", "from shop import app\n")
    site.write("site.ini", "[app:main]\npaste.app_factory = shop:make\n")
    site.serve(app, "--pythonpath", ".", *options)
    assert site.body() == (200, "one")
    text = (site.path / changed).read_text()
    site.replace(changed, text.replace('b"one"', 'b"second"') + "\n\n")
    site.restarts(changed)
    assert site.body() == (200, "second" if changed == "views.py" else "one")


def test_client_that_asks_during_a_restart_waits_for_the_new_code(site):
    os.mkfifo(site.path / "gate")
    site.serve()
    site.replace("views.py", "open('gate').read()\n" + VIEWS % "new")
    site.expect(RESTARTING)
    # Another process writes this line: it may come before the one above.
    site.server.err.wait(r"stopped \S+ \S+ after --reload")
    with site.server.client() as client:
        client.request()
        assert client.quiet(0.3)
        (site.path / "gate").write_text("open")
        assert client.response().body == b"new"


def test_import_that_hangs_is_given_up_when_a_file_changes(site):
    os.mkfifo(site.path / "gate")
    site.serve()
    site.replace("views.py", "open('gate').read()\n" + VIEWS % "hangs")
    site.expect(RESTARTING)
    site.server.err.wait(r'watches the file \S*/shop.py,', start=site.mark)
    with site.server.client() as client:
        client.request()
        # The module hangs, so that only its directory's other files are known: `shop` is being imported.
        site.replace("shop.py", SHOP.replace("import views", "import other as views"))
        site.write("other.py", VIEWS % "other")
        site.restarts("shop.py")
        assert client.response().body == b"other"


def test_running_request_may_end_but_does_not_hold_a_restart(site):
    os.mkfifo(site.path / "gate")
    site.write("views.py", """
def text(environ):
    if environ["PATH_INFO"] == "/wait":
        return [open("gate").read().encode()]
    def stream():
        while True:
            yield environ["wsgi.errors"].flush() or b"tick"
    return stream() if environ["PATH_INFO"] == "/stream" else [b"one"]
""")
    site.serve("shop:app", "--graceful-timeout", "20s")
    with site.server.client() as client:
        client.request("GET /wait HTTP/1.1")
        site.server.err.wait(r'watches the file \S*/views.py,')
        gate = open(site.path / "gate", "w")
        site.write("other.py", "")
        site.replace("shop.py", SHOP + "import other\n")
        site.expect("--reload: stopping; 1 request")
        gate.write("the end")
        gate.close()
        assert client.response().body == b"the end"
    site.expect(SERVES)


def test_stream_without_an_end_is_cut_at_a_restart(site):
    site.write("views.py", """
def text(environ):
    def stream():
        yield b"begun"
        open("gate").read()
    return stream() if environ["PATH_INFO"] == "/stream" else [b"one"]
""")
    os.mkfifo(site.path / "gate")
    site.serve()
    with site.server.client() as client:
        client.request("GET /stream HTTP/1.1").head()
        site.replace("views.py", VIEWS % "two")
        site.restarts("views.py")
        assert site.body() == (200, "two")
        assert client.rest().count(b"begun") == 1


def test_all_workers_restart(site):
    site.serve("shop:app", "-w", "2")
    site.server.err.wait(r"worker 2 \(pid \d+\) serves")
    site.mark = len(site.server.err.text())
    site.replace("views.py", VIEWS % "two")
    site.expect(rf"views.py {RESTARTING} 2 workers")
    site.server.err.wait(SERVES, start=site.mark)
    site.server.err.wait(r"worker 2 \(pid \d+\) serves", start=site.mark)
    assert {site.body() for _ in range(8)} == {(200, "two")}
    assert site.server.err.text().count(" has changed") == 1


def test_preload_is_refused(site):
    result = run("shop:app", "--reload", "--preload", cwd=site.path)
    assert result.returncode == 2
    assert "--reload cannot be combined with --preload" in result.stderr


def test_name_that_no_file_can_mend_ends_the_start(site):
    result = run("shop:app(site)", "--reload", "--bind", "127.0.0.1:0", cwd=site.path)
    assert (result.returncode, result.stdout) == (4, "")
    assert "is not a call whose arguments are literals" in result.stderr


def test_socket_stays_open_for_a_client_that_connects_at_any_moment(site):
    site.serve()
    seen = set()
    for number in range(3):
        site.replace("views.py", VIEWS % f"v{number}")
        while f"v{number}" not in seen:
            # Each client has a connection of its own, which is never refused.
            with Client(site.server.address) as client:
                seen.add(client.get().body.decode())
        site.restarts("views.py")


CONFIGURATIONS = {
    "shop.toml": "[maypole]\nserver_header = '%s'\n",
    "pyproject.toml": "[tool.maypole]\nserver_header = '%s'\n",
    "gunicorn.conf.py": "server_header = '%s'\ndef post_fork(server, worker):\n    pass\n",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_change_of_the_configuration_file_is_read(site, name):
    text, options = CONFIGURATIONS[name], [] if name == "pyproject.toml" else ["-c", name]
    site.write(name, text % "one")
    site.serve("shop:app", *options)
    assert site.server.get().get("Server") == "one"
    site.replace(name, text % "two")
    site.expect(rf"{name} has changed \(--reload\): reloading settings and application")
    site.expect(r"reloaded: 1 worker with the new settings")
    assert site.server.get().get("Server") == "two"
    # With a wrong value, the settings before it hold, and changes of the application are still found.
    site.replace(name, text.replace("server_header", "pool_size") % "0")
    site.expect(r"the reload has failed, and the old code serves: .*invalid value '0' for pool_size")
    site.replace("views.py", VIEWS % "new")
    site.restarts("views.py")
    response = site.server.get()
    assert (response.get("Server"), response.body) == ("two", b"new")


@pytest.mark.parametrize("count", [1, 2])
def test_change_of_the_configuration_file_is_read_if_the_worker_that_watches_it_has_ended(site, count):
    site.write("shop.toml", "[maypole]\nserver_header = 'one'\n")
    site.serve("shop:app", "-c", "shop.toml", "-w", f"{count}")
    # None of them sees the change.
    for pid in workers(site.server):
        os.kill(pid, signal.SIGSTOP)
    site.replace("shop.toml", "[maypole]\nserver_header = 'two'\n")
    for pid in workers(site.server):
        os.kill(pid, signal.SIGKILL)
    site.expect(r"shop.toml has changed \(--reload\): reloading settings and application")
    site.expect(r"reloaded: \d workers? with the new settings")
    assert site.server.get().get("Server") == "two"
    assert site.server.err.text().count("shop.toml has changed") == 1


def test_change_of_the_hooks_is_read(site):
    hooks = "def post_fork(server, worker):\n    server.log.info('hooks: %s')\n"
    site.write("hooks.py", hooks % "one")
    site.serve("shop:app", "--hooks", "hooks.py")
    site.server.err.wait("hooks: one")
    site.replace("hooks.py", hooks % "two")
    site.expect(r"hooks.py has changed \(--reload\): reloading")
    site.expect(r"hooks: two")


def test_module_that_is_deleted_and_comes_back(site):
    site.serve()
    (site.path / "views.py").unlink()
    site.restarts("views.py")
    status, text = site.body()
    assert status == 500 and text.startswith("ModuleNotFoundError: No module named 'views'")
    site.write("views.py", VIEWS % "back")
    site.restarts("views.py")
    assert site.body() == (200, "back")


def test_error_that_is_mended_at_once_leaves_no_page(site):
    site.serve()
    site.write("views.py", "def text(environ:\n")
    site.write("views.py", VIEWS % "mended")
    site.restarts("views.py")
    assert site.body() == (200, "mended")


def test_package_behind_a_link_is_watched(site):
    (site.path / "views.py").unlink()
    site.write("elsewhere/parts/__init__.py", VIEWS % "one")
    (site.path / "views").symlink_to(site.path / "elsewhere/parts")
    site.serve("shop:app", "--reload-engine", "inotify")
    assert site.body() == (200, "one")
    site.replace("elsewhere/parts/__init__.py", VIEWS % "two")
    site.restarts()
    assert site.body() == (200, "two")


def test_directory_that_vanishes_and_comes_back_is_watched(site):
    site.write("data/list.txt", "one")
    site.serve("shop:app", "--reload-extra-file", "data")
    shutil.rmtree(site.path / "data")
    site.restarts("data/list.txt")
    site.write("data/list.txt", "two")
    site.restarts("data")
    site.replace("data/list.txt", "three")
    site.restarts("data/list.txt")


def test_limit_of_inotify_is_named_and_files_are_looked_at_instead(site):
    limited = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 1 > /proc/sys/user/max_inotify_watches; exec "$@"', "sh"]
    if subprocess.run([*limited, "true"], capture_output=True, check=False).stderr:
        pytest.skip("no user namespace with a limit of its own can be made here")
    words = ["--reload", "--log-level", "debug", "--access-logfile", "none", "--bind", "127.0.0.1:0", "shop:app"]
    site.server = site.start("", command=[*limited, MAYPOLE, *words], cwd=site.path, bind=False)
    site.mark = site.server.err.wait(SERVES).end()
    line = r"looks at each file once a second .*: no more directories can be watched \(sysctl fs.inotify.max_user_watches\)"
    site.server.err.wait(line)
    site.replace("views.py", VIEWS % "two")
    site.restarts("views.py")
    assert site.body() == (200, "two")
