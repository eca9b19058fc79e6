"""Checks Maypole's exit code and output for wrong input against docs/reference/answers.md.

`MAYPOLE_BLESS=1` writes the page from real runs.
"""

import concurrent.futures
import os
import pathlib
import re
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
from typing import NamedTuple

import pytest

from client import PATIENCE
from process import MAYPOLE, ROOT, clean_environment

PAGE = ROOT / "docs" / "reference" / "answers.md"
BEGIN, END = "<!-- answers:begin -->\n", "<!-- answers:end -->\n"
# The page shows at most this many lines of an answer.
LINES_MAX = 8
# The page shows this directory in place of the real one.
PLACE, ENVIRONMENT = "/srv/shop", "/srv/shop/venv"
USAGE, NOT_STARTED, NOT_IMPORTED = 2, 3, 4

FILES = {
    "shop.py": """
        def application(environ, start_response):
            start_response("200 OK", [])
            return [b""]

        def create_app(name="shop"):
            return application
        """,
    "broken.py": "raise RuntimeError('no database')",
    "syntax.py": "def application(environ, start_response:\n    pass",
    "imports.py": "import no_such_library",
    "exits.py": "import sys\nsys.exit(1)",
    "nothing.py": "VERSION = 1",
    "number.py": "application = 42",
    "one.py": "def application(environ): pass",
    "factories.py": "def failing():\n    raise ValueError('no settings')\ndef none():\n    return None",
    "asgi.py": "async def app(scope, receive, send): pass",
    "asgi_class.py": "class App:\n    async def __call__(self, scope, receive, send): pass\napp = App()",
    "project/wsgi.py": "application = None",
    "empty/README": "",
    "plain.txt": "not Python at all",
}


class Case(NamedTuple):
    """A wrong input. The word `PORT_IN_USE` in it stands for a port that is in use."""

    words: str
    code: int
    env: dict = {}
    #: The limit of descriptors.
    descriptors: int = 0
    #: The number of lines that are the same in every version of Python.
    lines: int = LINES_MAX
    #: The address on which a run without an error would listen.
    bind: bool = True


def bind(words, code=USAGE, **more):
    return Case(f"{words} shop", code, bind=False, **more)


SECTIONS = {
    "The application": [
        Case("", USAGE, bind=False),
        Case("-b :8000", USAGE, bind=False),
        Case("''", USAGE),
        Case(":application", USAGE),
        Case("shop:", USAGE),
        Case("shpo", NOT_IMPORTED),
        Case("shop.wsgi:application", NOT_IMPORTED),
        Case("shop:aplication", NOT_IMPORTED),
        Case("nothing", NOT_IMPORTED),
        Case("nothing:VERSION", NOT_IMPORTED),
        Case("number", NOT_IMPORTED),
        Case("one", NOT_IMPORTED),
        Case("shop:create_app", NOT_IMPORTED),
        Case("'shop:create_app(name)'", NOT_IMPORTED),
        Case("'shop:create_app('", NOT_IMPORTED),
        Case("'shop:create_app(1, 2)'", NOT_IMPORTED, lines=2),
        Case("--factory shop", NOT_IMPORTED, lines=2),
        Case("'factories:failing()'", NOT_IMPORTED, lines=2),
        Case("'factories:none()'", NOT_IMPORTED),
        Case("broken", NOT_IMPORTED, lines=2),
        Case("syntax", NOT_IMPORTED, lines=2),
        Case("imports", NOT_IMPORTED, lines=2),
        Case("exits", NOT_IMPORTED, lines=2),
        Case("asgi:app", NOT_IMPORTED),
        Case("asgi_class:app", NOT_IMPORTED),
        Case("no/such/file.py", NOT_IMPORTED),
        Case("shop.py:aplication", NOT_IMPORTED),
        Case("project/", NOT_IMPORTED),
        Case("empty/", NOT_IMPORTED),
        Case("./plain.txt", NOT_IMPORTED, lines=2),
        Case("project", NOT_IMPORTED),
        Case(".", NOT_IMPORTED),
        Case("shop broken", USAGE),
        Case("--paste none.ini", NOT_IMPORTED, lines=1),
        Case("--paste site.ini shop", USAGE),
        Case("--paste site.ini --factory", USAGE),
        Case("--chdir nowhere shop", NOT_STARTED),
        Case("--chdir shop.py shop", NOT_STARTED),
    ],
    "Where it listens": [
        bind("-b 8000"),
        bind("-b ''"),
        bind("-b 127.0.0.1:x"),
        bind("-b 127.0.0.1:"),
        bind("-b 127.0.0.1:70000"),
        bind("-b '127.0.0.1 8000'"),
        bind("-b ::1:8000"),
        bind("-b '[::1'"),
        bind("-b '0.0.0.0:$PORT'"),
        bind("-b http://127.0.0.1:8000/shop"),
        bind("-b https://127.0.0.1:8443"),
        bind("-b ws://127.0.0.1:8000"),
        bind("-b tcp://127.0.0.1:x"),
        bind("-b /run/shop.sock"),
        bind("-b unix:"),
        bind("-b unix:/" + 110 * "x"),
        bind("-b fd://x"),
        bind("-b fd://99", NOT_STARTED),
        bind("-b unix:/nowhere/shop.sock", NOT_STARTED),
        bind("-b unix:shop.py", NOT_STARTED),
        bind("-b 127.0.0.1:PORT_IN_USE", NOT_STARTED),
        bind("-b 192.0.2.1:8000", NOT_STARTED),
        bind("-b 127.0.0.1:8000 -b 127.0.0.1:8000"),
        bind("--host 0.0.0.0 --port 8000 --bind :8000"),
        bind("--host 0.0.0.0:8000"),
        bind("--port 70000"),
        bind("--port :8000"),
        bind("", env={"PORT": "tcp://10.0.0.1:80"}),
        bind("", env={"LISTEN_FDS": "two", "LISTEN_PID": "PID"}),
        bind("-b unix:s --unix-socket-mode rw"),
        bind("-b unix:s --unix-socket-owner nobody:"),
        bind("-b unix:s --unix-socket-owner no-such-user", NOT_STARTED),
        bind("--proxy-protocol v3"),
        bind("--proxy-protocol v2 --proxy-allow-from example.org"),
    ],
    "Values": [
        Case("--pool-size 0 shop", USAGE),
        Case("--pool-size many shop", USAGE),
        Case("--threads -1 shop", USAGE),
        Case("--threads shop", USAGE),
        Case("--max-connections 0 shop", USAGE),
        Case("--workers many shop", USAGE),
        Case("--max-requests-jitter 5 shop", USAGE),
        Case("--keep-alive '5 parsecs' shop", USAGE),
        Case("--header-timeout 0 shop", USAGE),
        Case("--graceful-timeout 30d shop", USAGE),
        Case("--max-body-size '12 elephants' shop", USAGE),
        Case("--limit-request-line 2M shop", USAGE),
        Case("--response-buffer 1 shop", USAGE),
        Case("--stream-requests sometimes shop", USAGE),
        Case("--log-level loud shop", USAGE),
        Case("--umask 9 shop", USAGE),
        Case("--init yes shop", USAGE),
        Case("--max-http-version 2 shop", USAGE),
        Case("--server-header 'a\tb' shop", USAGE),
        Case("--access-logformat '%(x)s' shop", USAGE),
        Case("--access-logformat '100%' shop", USAGE),
        Case("--request-buffer 2M --max-body-size 1M shop", USAGE),
        Case("--limit-request-line 65k shop", USAGE),
        Case("--factory=maybe shop", USAGE),
    ],
    "Files and the machine": [
        Case("--spool-dir /nowhere shop", NOT_STARTED),
        Case("--spool-dir shop.py shop", NOT_STARTED),
        Case("--access-logfile /nowhere/access.log shop", NOT_STARTED),
        Case("--access-logfile empty shop", NOT_STARTED),
        Case("--error-logfile /nowhere/error.log shop", NOT_STARTED),
        Case("--error-logfile empty shop", NOT_STARTED),
        Case("--config gone.toml shop", USAGE),
        Case("--config uwsgi.ini shop", USAGE),
        Case("shop", NOT_STARTED, descriptors=16),
    ],
    "Variables and environments": [
        Case("shop", USAGE, {"MAYPOLE_POOL_SIZE": "many"}),
        Case("--check-config shop", 0, {"MAYPOLE_POOLSIZE": "5"}),
        Case("--check-config shop", 0, {"MAYPOLE_NOSUCH": "1"}),
        Case("--check-config shop", 0, {"MAYPOLE_PORT": "8000"}),
        Case("shop", NOT_STARTED, {"VIRTUAL_ENV": "/nowhere/venv"}),
        Case("shop", NOT_STARTED, {"VIRTUAL_ENV": f"{PLACE}/empty"}),
    ],
    "Options that Maypole does not have": [
        Case("--no-such-option shop", USAGE),
        Case("--bnd :8000 shop", USAGE),
        Case("--pol-size 3 shop", USAGE),
        Case("--keepalive 5 shop", USAGE),
        Case("--access-log-format common shop", USAGE),
        Case("--worker-class gevent shop", USAGE),
        Case("-k gevent shop", USAGE),
        Case("--reuse-port shop", USAGE),
        Case("--certfile cert.pem --keyfile key.pem shop", USAGE),
        Case("--header-map refuse shop", USAGE),
        Case("--daemon shop", USAGE),
        Case("--processes 4 shop", USAGE),
        Case("--http :8000 shop", USAGE),
        Case("--wsgi-file shop.py shop", USAGE),
        Case("--interface wsgi shop", USAGE),
        Case("--listen :8000 shop", USAGE),
    ],
}

# Lines of a program that has `import maypole` and `from shop import application` before it.
PROGRAMS = [
    "maypole.Server(application, pool_sizee=1)",
    "maypole.Server(application, pool_size=0)",
    "maypole.Server(application, chdir='/')",
    "maypole.Server(application, 'unix:/nowhere/s')",
    "maypole.Server(application, '192.0.2.1:80')",
    "maypole.Server(application, port=80, bind=':80')",
    "maypole.Server(application, port=80, fd=0)",
    "maypole.Server(application, spool_dir='/nowhere')",
    "maypole.Server(application, '127.0.0.1:0', access_logfile='/nowhere/log').start()",
    "maypole.Server(application, '127.0.0.1:0', bakclog=5)",
    "maypole.Server(42)",
]


def shown(case):
    """Returns the command line as a reader would write it."""
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in case.env.items())
    limit = f"ulimit -n {case.descriptors}; " if case.descriptors else ""
    words = re.sub(r"x{100,}", "x…x", case.words).replace("PORT_IN_USE", "8000").replace("\t", r"\t")
    return re.sub(" +", " ", f"{limit}{variables} maypole {words}").strip().replace("PID=PID", "PID=$$")


def normalised(text, place, port):
    text = text.replace(sys.prefix, ENVIRONMENT).replace(str(place), PLACE)
    text = text.replace(f":{port}", ":8000")
    text = re.sub(r"^\[\d{4}-\d\d-\d\d [^\]]*\] \[\d+\] ", "[2026-11-21 09:30:00.000 +0000] [4711] ", text, flags=re.M)
    text = re.sub(rf"(on sys.path: {PLACE}).*", r"\1, …", text)
    text = re.sub(r"CPython 3\.\d+\.\d+", "CPython 3.11.7", text)
    text = re.sub(r"x{100,}", "x…x", text)
    return re.sub(r" at 0x[0-9a-f]+", " at 0x…", text)


def answer(case, place, port):
    """Returns the exit code and the first lines of the output."""
    words = shlex.split(case.words.replace("PORT_IN_USE", str(port)))
    env = {name: value.replace(PLACE, str(place)) for name, value in case.env.items()}
    if case.bind and "-b" not in words:
        words = ["--bind", "127.0.0.1:0", *words]
    command = [MAYPOLE, *words]
    if "LISTEN_PID" in env:
        del env["LISTEN_PID"]
        command = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *command]
    few = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, 2 * (case.descriptors,))) if case.descriptors else None
    done = subprocess.run(command, cwd=place, env=clean_environment(**env), capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=3 * PATIENCE, preexec_fn=few)
    return done.returncode, first_lines(normalised(done.stderr + done.stdout, place, port), case.lines)


def first_lines(text, count):
    lines = text.rstrip().splitlines()
    return "\n".join([*lines[:count], *(["…"] if len(lines) > count else [])])


def raised(program, place, port):
    code = f"import sys; sys.path.insert(0, '.'); import maypole; from shop import application\n{program}"
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=clean_environment(), capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=3 * PATIENCE)
    assert done.returncode == 1, done
    return normalised(done.stderr.splitlines()[-1], place, port)


class Answers(NamedTuple):
    """The results of all runs."""

    of_cases: dict
    of_programs: dict


@pytest.fixture(scope="module")
def answers():
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as taken:
        place = pathlib.Path(name).resolve() / "shop"
        for file, text in FILES.items():
            path = place / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(line[8:] if text.startswith("\n") else line for line in text.splitlines()) + "\n")
        port = taken.getsockname()[1]
        cases = [case for section in SECTIONS.values() for case in section]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            of_cases = pool.map(lambda case: answer(case, place, port), cases)
            programs = PROGRAMS if has_package() else []
            of_programs = pool.map(lambda program: raised(program, place, port), programs)
            return Answers(dict(zip(map(shown, cases), of_cases)), dict(zip(programs, of_programs)))


def has_package():
    return subprocess.run([sys.executable, "-c", "import maypole"], capture_output=True, cwd="/").returncode == 0


def block(first, text, last):
    return "```text\n" + "\n".join(line for line in [first, text, last] if line) + "\n```\n"


def case_block(case, answers):
    code, text = answers.of_cases[shown(case)]
    return block("$ " + shown(case), text, f"(exit code {code})")


def program_block(program, answers):
    return block(">>> " + program, answers.of_programs[program], "")


def test_there_are_enough_wrong_inputs():
    cases = [shown(case) for section in SECTIONS.values() for case in section]
    assert len(cases) == len(set(cases)) and len(cases) + len(PROGRAMS) >= 86


def test_page_is_current_or_blessed(answers):
    """Writes the page with MAYPOLE_BLESS=1. In any case the page must name exactly the inputs of the table."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    if os.environ.get("MAYPOLE_BLESS") == "1":
        assert answers.of_programs, "the package is not installed here"
        pieces = []
        for title, cases in SECTIONS.items():
            pieces += [f"## {title}\n", *(case_block(case, answers) for case in cases)]
        pieces += ["## In a program\n", *(program_block(program, answers) for program in PROGRAMS)]
        PAGE.write_text(before + BEGIN + "\n" + "\n".join(pieces) + "\n" + END + after)
    named = re.findall(r"^(?:\$|>>>) (.*)$", PAGE.read_text(), re.M)
    assert named == [shown(case) for section in SECTIONS.values() for case in section] + PROGRAMS


@pytest.mark.parametrize("case", [case for section in SECTIONS.values() for case in section], ids=shown)
def test_answer_is_as_the_page_says(case, answers):
    code, text = answers.of_cases[shown(case)]
    assert code == case.code, text
    assert "(os error" not in text and "panicked" not in text and 'Some("' not in text, text
    assert case_block(case, answers) in PAGE.read_text(), text


@pytest.mark.parametrize("program", PROGRAMS)
def test_exception_is_as_the_page_says(program, answers):
    if not answers.of_programs:
        pytest.skip("the package is not installed here")
    text = answers.of_programs[program]
    assert "os error" not in text, text
    assert program_block(program, answers) in PAGE.read_text(), text
