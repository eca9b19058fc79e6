"""Loading the application: modules by their path, projects with files named like modules of the standard library, and
callables that are not WSGI applications."""

import pathlib
import subprocess
import sys
import textwrap

import pytest

from client import PATIENCE
from process import clean_environment, run

NOT_IMPORTED = 4

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{__name__} {__file__}".encode()]
"""

ASGI = """
async def function(scope, receive, send): pass

class Instance:
    async def __call__(self, scope, receive, send): pass
    async def method(self, scope, receive, send): pass

instance, method = Instance(), Instance().method

def plain(scope, receive, send): pass

import functools
partial = functools.partial(function)

async def two(environ, start_response): pass

async def generator(environ, start_response): yield b""

def make(config=None): pass

def none(): pass

def keyword(environ, start_response, *, needed): pass
"""

WSGI = """
import functools

def answer(start_response, body=b"served"):
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def variadic(*arguments): return answer(arguments[1])

def more(environ, start_response, exc_info=None, *, extra=1): return answer(start_response)

def one_and_more(environ, *rest): return answer(rest[0])

class Bound:
    def __call__(self, *arguments): return answer(arguments[1])
    def method(self, environ, start_response): return answer(start_response)
    @staticmethod
    def static(environ, start_response): return answer(start_response)

instance, method, static = Bound(), Bound().method, Bound.static

class Static:
    @staticmethod
    def __call__(environ, start_response): return answer(start_response)

staticcall = Static()

class Iterated:
    def __init__(self, environ, start_response): self.body = answer(start_response)
    def __iter__(self): return iter(self.body)

async def wrapped_by_others(scope, receive, send): pass

@functools.wraps(wrapped_by_others)
def decorated(environ, start_response): return answer(start_response)

def with_first(first, environ, start_response): return answer(start_response)

partial = functools.partial(with_first, 1)

class Both:
    async def __aenter__(self): pass
    def __call__(self, environ, start_response): return answer(start_response)

both = Both()
"""


@pytest.fixture
def project(tmp_path):
    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    "path, name",
    [
        ("d/app.py", "app"),
        ("d/site.py", "maypole_file_site"),
        ("d/types.py", "maypole_file_types"),
        ("d/statistics.py", "maypole_file_statistics"),
        ("d/my-app.py", "my-app"),
        ("d/my.app.py", "my_app"),
        ("d/app.wsgi", "app_wsgi"),
        ("d/application", "maypole_file_application"),
        ("./my.app.py", "my_app"),
        ("my.app.py", "my_app"),
        ("./app.wsgi", "app_wsgi"),
        ("app.wsgi", "app_wsgi"),
        ("site.py", "maypole_file_site"),
    ],
)
def test_file_that_is_named_is_the_one_that_runs(server, project, path, name):
    root = project({path: APP})
    where, file = server(path, cwd=root).get().body.decode().split(" ", 1)
    assert where == name
    assert pathlib.Path(file).samefile(root / path)


def test_file_without_its_extension(server, project):
    root = project({"d/my.app.py": APP})
    assert server("d/my.app", cwd=root).get().body.startswith(b"my_app ")


@pytest.mark.parametrize(
    "path, name",
    [
        ("pkg/wsgi.py", "pkg.wsgi"),
        ("pkg/sub/wsgi.py", "pkg.sub.wsgi"),
        ("pkg/my.app.py", "pkg.my_app"),
        ("pkg/app.wsgi", "pkg.app_wsgi"),
        ("pkg/__init__.py", "pkg"),
    ],
)
def test_file_inside_a_package_is_that_packages_module(server, project, path, name):
    root = project({"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/helper.py": "x = 1", "pkg/sub/helper.py": ""})
    own = root / path
    own.write_text(own.read_text() if own.exists() else "")
    relative = "" if path.endswith("__init__.py") else "from . import helper\n"
    own.write_text(relative + "import pkg.helper\n" + APP)
    # The working directory is elsewhere, so the server must add the package's parent to the path.
    served = server(str(own), cwd="/").get().body.decode()
    assert served == f"{name} {own}"


def test_package_by_its_directory(server, project):
    root = project({"pkg/__init__.py": "from .inner import application", "pkg/inner.py": APP})
    assert server("./pkg", cwd=root).get().body.startswith(b"pkg.inner ")


def test_file_beside_a_package_of_its_name_is_not_the_package(server, project):
    root = project({"d/shop.py": "import shop\nassert shop.models\n" + APP, "d/shop/__init__.py": "models = True\n"})
    assert server("d/shop.py", cwd=root).get().body.startswith(b"maypole_file_shop ")


def test_wsgi_file_imports_the_module_of_its_name(server, project):
    root = project({"d/shop.wsgi": "from shop import application\n", "d/shop.py": APP})
    assert server("d/shop.wsgi", cwd=root).get().body.startswith(b"shop ")


def test_library_module_of_the_files_name_stays_importable(server, project):
    root = project({"d/statistics.py": "import statistics\nassert statistics.mean([1, 3]) == 2\n" + APP})
    assert server("d/statistics.py", cwd=root).get().status == 200


def test_package_with_a_taken_name_is_refused(project):
    root = project({"email/__init__.py": "", "email/wsgi.py": APP})
    done = run("--bind", "127.0.0.1:0", "email/wsgi.py", cwd=root)
    assert done.returncode == NOT_IMPORTED
    assert "'email'" in done.stderr and "another name" in done.stderr


def test_failure_in_a_file_shows_its_traceback(project):
    root = project({"d/app.wsgi": "x = 1\nraise RuntimeError('on purpose')\n"})
    done = run("--bind", "127.0.0.1:0", "d/app.wsgi", cwd=root)
    assert done.returncode == NOT_IMPORTED
    assert "on purpose" in done.stderr and 'app.wsgi", line 2' in done.stderr


def test_objects_of_a_file_can_be_pickled_for_another_process(server, project):
    root = project({"d/jobs.py": """
        import multiprocessing

        def double(number):
            return 2 * number

        def application(environ, start_response):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                body = str(pool.map(double, [21])).encode()
            start_response("200 OK", [])
            return [body]
        """.replace("\n        ", "\n")})
    assert server("d/jobs.py", cwd=root).get().body == b"[42]"


# --- files with names of the standard library ---------------------------------------------------------------------

NAMES = ["signal", "logging", "faulthandler", "threading", "atexit", "traceback", "socket", "ast", "io", "os", "enum", "re"]


@pytest.mark.parametrize("option", ["cwd", "pythonpath", "chdir"])
def test_projects_files_stop_no_start(server, project, option):
    text = "raise ImportError('the file of the project')\n"
    root = project({"shop.py": APP + "\ndef broken(e, s): raise ValueError('traceback wanted')\n",
                    **{f"{name}.py": text for name in NAMES}})
    arguments = {"cwd": ([], root), "pythonpath": (["--pythonpath", str(root)], "/"), "chdir": (["--chdir", str(root)], "/")}
    options, cwd = arguments[option]
    running = server("shop:broken", "--werkzeug-socket", *options, cwd=cwd)
    assert running.get().status == 500
    running.err.wait("ValueError: traceback wanted")
    running.stop()


def test_projects_files_do_not_stop_python_m_maypole(project):
    root = project({"shop.py": APP, "signal.py": "raise ImportError('the file of the project')\n"})
    done = subprocess.run(
        [sys.executable, "-m", "maypole", "--check-config", "shop"],
        cwd=root, env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr


def test_traceback_is_the_librarys_where_the_path_changes_later(project):
    root = project({
        "files/traceback.py": "raise ImportError('the file of the project')\n",
        "program.py": """
            import sys, urllib.request
            import maypole
            sys.modules.pop("traceback")
            sys.path.insert(0, "files")

            def application(environ, start_response):
                raise ValueError("on purpose")

            import logging
            logging.basicConfig(stream=sys.stdout, format="%(message)s")
            with maypole.Server(application, "127.0.0.1:0") as server:
                try:
                    urllib.request.urlopen(server.addresses[0], timeout=10)
                except urllib.error.HTTPError as error:
                    assert error.code == 500
            """.replace("\n            ", "\n"),
    })
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=root, env=clean_environment(), capture_output=True, text=True, timeout=3 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert 'raise ValueError("on purpose")' in done.stdout


# --- callables that are not WSGI applications ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["function", "instance", "method", "plain", "partial", "two", "generator"])
def test_asgi_application_is_refused_at_the_start(project, name):
    root = project({"asgi_app.py": ASGI})
    done = run("--bind", "127.0.0.1:0", f"asgi_app:{name}", cwd=root)
    assert done.returncode == NOT_IMPORTED
    assert f"'asgi_app:{name}' is asynchronous" in done.stderr and "ASGI server" in done.stderr
    assert "listening" not in done.stderr


def test_djangos_asgi_handler_is_told_of_its_wsgi_handler(project):
    pytest.importorskip("django")
    root = project({"asgi.py": """
from django.conf import settings
settings.configure()
from django.core.asgi import get_asgi_application
application = get_asgi_application()
"""})
    done = run("--bind", "127.0.0.1:0", "asgi", cwd=root)
    assert done.returncode == NOT_IMPORTED
    assert "asynchronous" in done.stderr and "wsgi:application" in done.stderr


@pytest.mark.parametrize("name, words", [("make", "(config)"), ("none", "no arguments"), ("keyword", "(environ, start_response)")])
def test_function_of_other_arguments_is_refused_at_the_start(project, name, words):
    root = project({"asgi_app.py": ASGI})
    done = run("--bind", "127.0.0.1:0", f"asgi_app:{name}", cwd=root)
    assert done.returncode == NOT_IMPORTED
    assert words in done.stderr
    assert ("--factory" in done.stderr) == (name != "keyword")


@pytest.mark.parametrize(
    "name",
    ["variadic", "more", "one_and_more", "instance", "method", "static", "staticcall", "Iterated", "decorated", "partial", "both"],
)
def test_every_kind_of_wsgi_callable_is_served(server, project, name):
    root = project({"wsgi_app.py": WSGI})
    assert server(f"wsgi_app:{name}", cwd=root).get().body == b"served"


def test_embedded_server_refuses_what_is_no_wsgi_application():
    maypole = pytest.importorskip("maypole")
    from maypole import eventlet, serving

    names = {}
    exec(textwrap.dedent(ASGI), names)
    for name in ["function", "instance", "method", "plain", "partial", "none"]:
        with pytest.raises(TypeError, match="the application is"):
            maypole.Server(names[name], "127.0.0.1:0")
        with pytest.raises(TypeError, match="the application is"):
            maypole.serve(names[name], "127.0.0.1:0")
        with pytest.raises(TypeError, match="the application is"):
            serving.make_server("127.0.0.1", 0, names[name])
        with pytest.raises(TypeError, match="the application is"):
            eventlet.server(None, names[name])
    exec(textwrap.dedent(WSGI), names)
    for name in ["variadic", "instance", "method", "Iterated", "decorated", "partial"]:
        maypole.Server(names[name], "127.0.0.1:0").close()
