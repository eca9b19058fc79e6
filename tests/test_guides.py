"""Compares the guides for users of other servers with the real packages and the real program.

Every setting of the other server stands in a table. Every option, variable and keyword of Maypole in the guides exists.
Defaults are as the guides name them. Example command lines of both servers parse. `MAYPOLE_BLESS=1` adds to the list
of uWSGI's options.
"""

import ast
import contextlib
import fnmatch
import io
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys

import pytest

from client import PATIENCE, Client
from process import ROOT, run

# The environments of the smoke tests lack these packages. tests/requirements.txt has them for the other tests.
gunicorn_config = pytest.importorskip("gunicorn.config")
Adjustments = pytest.importorskip("waitress.adjustments").Adjustments
granian_command = pytest.importorskip("granian.cli").cli
uvicorn_command = pytest.importorskip("uvicorn").main
hypercorn_config = pytest.importorskip("hypercorn.config").Config
GunicornConfig, KNOWN_SETTINGS = gunicorn_config.Config, gunicorn_config.KNOWN_SETTINGS

DOCS = ROOT / "docs"
OVERVIEW = "from-gunicorn-uwsgi-waitress"
PAGES = {
    "gunicorn": "from-gunicorn",
    "uWSGI": "from-uwsgi",
    "waitress": "from-waitress",
    "granian": "from-granian",
    "uvicorn": "from-uvicorn-hypercorn",
    "hypercorn": "from-uvicorn-hypercorn",
}
GUIDES = [*dict.fromkeys(PAGES.values()), OVERVIEW]
PROGRAMS = ["gunicorn", "uwsgi", "waitress-serve", "granian", "uvicorn", "hypercorn", "maypole"]
UWSGI_OPTIONS = ROOT / "src/config/foreign/uwsgi.txt"
CODE = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# Options of programs that are not servers.
FOREIGN_OPTIONS = {"--now", "--env-file", "--no-"}


def text_of(name):
    return (DOCS / f"{name}.md").read_text()


def rows(server):
    """Returns the rows of a server's tables: its own cell, Maypole's cell, remarks."""
    found = []
    for table in re.findall(rf"<!-- options {server}/[\w-]+: begin -->\n(.*?)<!-- options", text_of(PAGES[server]), re.S):
        for line in table.strip().splitlines()[2:]:
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 3, line
            found.append(cells)
    assert len(found) > 20, server
    return found


def theirs(server):
    """Returns the names in the first column, without the defaults in parentheses."""
    return {name for cell, _, _ in rows(server) for name in CODE.findall(re.sub(r"\(`[^`]*`\)", "", cell))}


def blocks(name, *languages):
    return [body for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text_of(name), re.M | re.S) if language in languages]


def printed_settings(*words):
    done = run("--print-config", *words, "probe")
    assert done.returncode == 0, done
    lines = (re.fullmatch(r"(\w+) = (.*?)  # .*", line) for line in done.stdout.splitlines())
    return dict(line.groups() for line in lines if line)


@pytest.fixture(scope="module")
def our_printed():
    return printed_settings()


@pytest.fixture(scope="module")
def our_settings(our_printed):
    return set(our_printed)


@pytest.fixture(scope="module")
def our_options(our_settings):
    assert len(our_settings) > 30
    others = {"--help", "--version", "--check-config", "--print-config", "--log-file", "--host", "--port", "--timeout"}
    others |= {"--name", "--env", "--preload-app"}
    return {f"--{name.replace('_', '-')}" for name in our_settings} | others


# --- theirs -------------------------------------------------------------------------------------------------------


def help_of(program):
    path = pathlib.Path(sys.executable).with_name(program)
    done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=3 * PATIENCE)
    return done.stdout + done.stderr


def gunicorn_options():
    return {option for setting in KNOWN_SETTINGS for option in setting.cli or []}


def waitress_options():
    names = {name.replace("_", "-") for name, _ in Adjustments._params}
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in names} | {"--call", "--help"}


def click_options(command):
    return {option for one in command.params for option in [*one.opts, *one.secondary_opts] if option.startswith("-")} | {"--help"}


@pytest.fixture(scope="module")
def uwsgi_options():
    """Returns each option with its short form."""
    options = re.findall(r"^\s+(?:(-\w)\|)?--([\w-]+)", help_of("uwsgi"), re.M)
    assert len(options) > 800
    return {long: short for short, long in options}


@pytest.fixture(scope="module")
def hypercorn_options():
    options = {*OPTION.findall(help_of("hypercorn")), *re.findall(r"(?<![\w-])-\w\b", help_of("hypercorn"))} - {"-h"}
    assert len(options) > 30
    return options


def test_every_setting_of_gunicorn_is_in_its_table():
    named = theirs("gunicorn")
    missing = {option for option in gunicorn_options() if option not in named}
    for setting in KNOWN_SETTINGS:
        # If a setting and its option have the same name, the table names it once.
        if setting.name not in named and f"--{setting.name.replace('_', '-')}" not in named:
            missing.add(setting.name)
    assert not missing


def test_the_table_of_gunicorn_names_nothing_else():
    known = gunicorn_options() | {setting.name for setting in KNOWN_SETTINGS} | {"APP_MODULE"}
    assert not theirs("gunicorn") - known


def test_every_adjustment_of_waitress_is_in_its_table_and_nothing_else():
    assert theirs("waitress") - {"--call", "--help", "MODULE:OBJECT"} == {name for name, _ in Adjustments._params}


def test_list_of_uwsgi_options_has_all_that_the_program_has(uwsgi_options):
    lines = dict((line + " ").split(" ", 1) for line in UWSGI_OPTIONS.read_text().splitlines())
    listed = {long: short.strip() for long, short in lines.items()}
    # The wheel of uWSGI in the tests lacks TLS and some routers, so the list may have more.
    merged = {**listed, **uwsgi_options}
    if os.environ.get("MAYPOLE_BLESS") == "1":
        UWSGI_OPTIONS.write_text("".join(f"{long} {short}".strip() + "\n" for long, short in sorted(merged.items())))
    else:
        assert listed == merged


def test_every_option_of_uwsgi_is_in_its_tables_or_in_a_group():
    options, patterns = {line.split()[0] for line in UWSGI_OPTIONS.read_text().splitlines()}, theirs("uWSGI")
    assert not {option for option in options if not any(fnmatch.fnmatchcase(option, one) for one in patterns)}
    assert not {one for one in patterns if not fnmatch.filter(options, one)}


@pytest.mark.parametrize("server, command", [("granian", granian_command), ("uvicorn", uvicorn_command)])
def test_every_option_is_in_its_table_and_nothing_else(server, command):
    known, named = click_options(command), {name for name in theirs(server) if name.startswith("-")}
    # One row covers all options that begin with `--no-`.
    named |= {f"--no-{name[2:]}" for name in named if f"--no-{name[2:]}" in known}
    assert named == known


def test_every_setting_of_hypercorn_is_in_its_table_and_nothing_else(hypercorn_options):
    named = theirs("hypercorn")
    assert {name for name in named if name.startswith("-")} == hypercorn_options
    settings = {name for name in dir(hypercorn_config) if not name.startswith("_") and not callable(getattr(hypercorn_config, name))}
    settings -= {"log", "ssl_enabled"}
    named = {name.lstrip("-").replace("-", "_") for name in named} | {"logger_class"}
    assert not settings - named


def stated_defaults(server):
    """Returns the names in a row, and the default that the row states."""
    for cell, _, _ in rows(server):
        stated = re.search(r"\(`([^`]*)`\)", cell)
        if stated is not None:
            yield CODE.findall(cell[: stated.start()]), stated[1]


@pytest.mark.parametrize("server, defaults", [
    ("gunicorn", {option: setting.default for setting in KNOWN_SETTINGS for option in setting.cli or []}),
    ("waitress", {name: getattr(Adjustments, name) for name, _ in Adjustments._params}),
    ("granian", {option: one.default for one in granian_command.params for option in one.opts}),
    ("uvicorn", {option: one.default for one in uvicorn_command.params for option in one.opts}),
    ("hypercorn", {name: getattr(hypercorn_config, name) for name in dir(hypercorn_config)}),
])  # fmt: skip
def test_their_defaults_are_as_the_table_says(server, defaults):
    checked = 0
    for names, stated in stated_defaults(server):
        spelt = [spelling for name in names for spelling in (name, name.lstrip("-").replace("-", "_"))]
        known = [defaults[name] for name in spelt if name in defaults]
        assert known, names
        default = known[0][0] if isinstance(known[0], list) else getattr(known[0], "value", known[0])
        default = f"{default:o}" if names == ["unix_socket_perms"] else str(default)
        assert stated == default, names
        checked += 1
    assert checked >= 3


# --- ours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", PAGES)
def test_our_column_names_options_that_exist_and_their_defaults(server, our_options, our_printed):
    checked = 0
    for cell, ours, remarks in rows(server):
        assert remarks, f"{cell}: a reason is missing"
        if ours not in ("none", "the first argument"):
            options = set(OPTION.findall(ours))
            assert options and options <= our_options, f"{cell}: {ours}"
        for option, default in re.findall(r"`(--[\w-]+)` \(`([^`]+)`\)", f"{ours} {remarks}"):
            # A page may write a default in another way than the program prints it.
            setting = option.removeprefix("--").replace("-", "_")
            assert printed_settings(f"{option}={default}")[setting] == our_printed[setting], cell
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", GUIDES)
def test_every_option_in_a_guide_exists_here_or_there(name, our_options, hypercorn_options):
    known = our_options | gunicorn_options() | waitress_options() | FOREIGN_OPTIONS | hypercorn_options
    known |= click_options(granian_command) | click_options(uvicorn_command)
    text = re.sub(rf"^({'|'.join(PROGRAMS)}) .*", "", text_of(name), flags=re.M)
    assert not set(OPTION.findall(text)) - known


@pytest.mark.parametrize("name", [*GUIDES, "howto/systemd"])
def test_every_variable_and_keyword_in_a_guide_is_a_setting(name, our_settings):
    variables = set(re.findall(r"\bMAYPOLE_[A-Z_]+", text_of(name)))
    assert {one.removeprefix("MAYPOLE_").lower() for one in variables} <= our_settings
    for body in blocks(name, "python"):
        for call in (node for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in ("maypole.serve", "maypole.Server"):
                assert {keyword.arg for keyword in call.keywords} <= {*our_settings, "environ", "on_access", "sock", "fd", None}


def example_lines():
    """Returns the command lines in code blocks, and those of Maypole in inline code. A line with a file runs elsewhere."""
    found = []
    for name in GUIDES:
        text = text_of(name)
        candidates = [line for body in blocks(name, "sh") for line in body.splitlines()]
        candidates += CODE.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        found += [line for line in candidates if line.split(" ")[0] in PROGRAMS and " " in line and "…" not in line]
    wrong_or_with_file = re.compile(r"^maypole (migrate |.*-k gevent|.*-c \S+\.(py|toml))")
    return [line for line in dict.fromkeys(found) if not wrong_or_with_file.match(line)]


@pytest.mark.parametrize("line", example_lines())
def test_example_command_lines_parse(line, uwsgi_options, hypercorn_options):
    program, *words = shlex.split(line, comments=True)
    if program == "maypole":
        done = run("--print-config", *words)
        assert done.returncode == 0, done.stderr
    elif program == "gunicorn":
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            try:
                GunicornConfig().parser().parse_args(words)
            except SystemExit:
                pytest.fail(errors.getvalue())
    elif program == "waitress-serve":
        Adjustments.parse_args(words)
    else:
        known = {
            "uwsgi": {f"--{option}" for option in uwsgi_options},
            "granian": click_options(granian_command),
            "uvicorn": click_options(uvicorn_command),
            "hypercorn": hypercorn_options,
        }[program]
        assert {word.partition("=")[0] for word in words if re.match("-+[a-z]", word)} <= known


@pytest.mark.parametrize("line", [line for line in example_lines() if not line.startswith("maypole ")])
def test_example_command_lines_of_others_are_answered_option_by_option(line, our_options):
    program, *words = shlex.split(line)
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    foreign = [option for option in options if option not in our_options]
    done = run("--print-config", *words)
    lines = done.stderr.splitlines()
    assert done.returncode == (2 if foreign else 0), done.stderr
    assert [line.split()[4] for line in lines] == foreign
    assert all(program.removesuffix("-serve") in line.partition(":")[2].lower() for line in lines), done.stderr


def test_example_command_lines_are_found():
    assert {line.split(" ")[0] for line in example_lines()} == set(PROGRAMS)


def test_files_of_variables_parse():
    checked = 0
    for name in [*GUIDES, "howto/systemd"]:
        for body in blocks(name, "sh"):
            env = dict(re.findall(r"^(MAYPOLE_\w+)=(.*)$", body, re.M))
            if env:
                done = run("--print-config", "probe", env=env)
                assert done.returncode == 0, done.stderr
                for variable, value in env.items():
                    assert f"{variable.removeprefix('MAYPOLE_').lower()} = {value}  # variable {variable}\n" in done.stdout
                checked += 1
    assert checked >= 2


def test_example_file_of_uwsgi_has_only_its_options(uwsgi_options):
    used = {option for body in blocks("from-uwsgi", "ini") for option in re.findall(r"^([\w-]+) =", body, re.M)}
    assert len(used) > 10
    assert not used - set(uwsgi_options)


def test_example_configuration_of_gunicorn_has_only_its_settings():
    body = blocks("from-gunicorn", "python")[0]
    config = GunicornConfig()
    for statement in ast.parse(body).body:
        config.set(statement.targets[0].id, ast.literal_eval(statement.value))


# --- what the pages promise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, expected", [
    (["-w", "4", "-k", "gevent", "-R", "m"], ["-k (--worker-class of gunicorn", "-R (--enable-stdio-inheritance of gunicorn"]),
    (["--enable-backlog-metric", "m:app"], ["--enable-backlog-metric (gunicorn"]),
    (["--http-socket", ":8000", "--wsgi-file", "wsgi.py", "--master"], ["--http-socket (uWSGI)", "--wsgi-file (uWSGI)", "--master (uWSGI)"]),
    (["--interface", "wsgi", "--blocking-threads", "4", "m:app"], ["--interface (granian)", "--blocking-threads (granian)"]),
    (["--reload", "--ssl-certfile=x", "m:app"], ["--ssl-certfile (uvicorn"]),
    (["--bnd", ":8000", "m:app"], ["--bnd; did you mean --bind?"]),
])  # fmt: skip
def test_foreign_options_are_answered_with_a_sentence_each(words, expected):
    done = run(*words)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert len(lines) == len(expected), done.stderr
    for line, begin in zip(lines, expected, strict=True):
        assert line.startswith(f"error: maypole has no {begin}"), line
    assert "similar" not in done.stderr and "as a value" not in done.stderr


def test_two_processes_share_a_port_by_reuse_port(server):
    port = 0
    for name in ("one", "two"):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            port = listener.getsockname()[1]
            fd = listener.fileno()
            server("probe", "--server-header", name, "--bind", f"fd://{fd}", bind=False, pass_fds=(fd,))
    answered = set()
    # The kernel chooses by a hash of the client's port. All 200 for one process are as likely as 200 heads in a row.
    for _ in range(200):
        with Client(f"http://127.0.0.1:{port}") as client:
            answered.add(client.get("/").get("Server"))
    assert answered == {"one", "two"}
