"""The guides for those who come from gunicorn, uWSGI and waitress, held to the real packages and the real program.

Every setting of theirs stands in a table; every option, variable and keyword of Maypole in the guides exists; defaults are
what the guides say; example command lines parse, theirs and ours.
"""

import ast
import contextlib
import fnmatch
import io
import pathlib
import re
import shlex
import socket
import subprocess
import sys

import pytest

from conftest import PATIENCE, ROOT, Client, run

# The environments of the smoke tests have neither; that of the other tests has them by tests/requirements.txt.
gunicorn_config = pytest.importorskip("gunicorn.config")
Adjustments = pytest.importorskip("waitress.adjustments").Adjustments
GunicornConfig, KNOWN_SETTINGS = gunicorn_config.Config, gunicorn_config.KNOWN_SETTINGS

DOCS = ROOT / "docs"
GUIDES = ["from-gunicorn", "from-uwsgi", "from-waitress", "from-gunicorn-uwsgi-waitress"]
SERVERS = ["gunicorn", "uWSGI", "waitress"]
CODE = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# Of programs that are neither ours nor one of theirs.
FOREIGN_OPTIONS = {"--now", "--env-file"}
# The wheel of uWSGI that the tests install is built without TLS and these routers.
NOT_IN_THE_WHEEL = {
    "https*", "http-to-https", "ssl-*", "sni*", "hsts*", "http2-*", "forkptyrouter*", "sslrouter*", "legion*",
}  # fmt: skip


def text_of(name):
    return (DOCS / f"{name}.md").read_text()


def rows(server):
    """The rows of the tables of a server's guide: their cell, our cell, remarks."""
    found = []
    for line in text_of(f"from-{server.lower()}").splitlines():
        if line.startswith("| ") and not line.startswith(f"| {server} |"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 3, line
            found.append(cells)
    assert len(found) > 20, server
    return found


def theirs(server):
    """What the first column names, without the defaults in parentheses."""
    return {name for cell, _, _ in rows(server) for name in CODE.findall(re.sub(r"\(`[^`]*`\)", "", cell))}


def blocks(name, *languages):
    return [body for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text_of(name), re.M | re.S) if language in languages]


@pytest.fixture(scope="module")
def our_options():
    done = run("--help")
    assert done.returncode == 0, done
    return set(OPTION.findall(done.stdout))


@pytest.fixture(scope="module")
def our_settings():
    done = run("--print-config", "probe")
    assert done.returncode == 0, done
    # A name with a point is no setting: the version of Python, for instance.
    return {name for name in (line.split(" = ")[0] for line in done.stdout.splitlines()) if "." not in name}


def our_defaults():
    """By option, from the reference, which is generated."""
    reference = (DOCS / "reference" / "settings.md").read_text()
    return dict(re.findall(r"^### `(--[\w-]+)`\n\n.* default `([^`]+)`$", reference, re.M))


@pytest.fixture(scope="module")
def uwsgi_options():
    program = pathlib.Path(sys.executable).with_name("uwsgi")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=PATIENCE)
    options = set(re.findall(r"^\s+(?:-\w\|)?--([\w-]+)", done.stdout + done.stderr, re.M))
    assert len(options) > 800, done
    return options


# --- theirs -------------------------------------------------------------------------------------------------------


def gunicorn_options():
    return {option for setting in KNOWN_SETTINGS for option in setting.cli or []}


def waitress_options():
    names = {name.replace("_", "-") for name, _ in Adjustments._params}
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in names} | {"--call", "--help"}


def test_every_setting_of_gunicorn_is_in_its_table():
    named = theirs("gunicorn")
    missing = {option for option in gunicorn_options() if option not in named}
    for setting in KNOWN_SETTINGS:
        # A setting whose option has the same name need not be named twice.
        if setting.name not in named and f"--{setting.name.replace('_', '-')}" not in named:
            missing.add(setting.name)
    assert not missing


def test_the_table_of_gunicorn_names_nothing_else():
    known = gunicorn_options() | {setting.name for setting in KNOWN_SETTINGS} | {"APP_MODULE"}
    assert not theirs("gunicorn") - known


def test_every_adjustment_of_waitress_is_in_its_table_and_nothing_else():
    assert theirs("waitress") - {"--call", "--help", "MODULE:OBJECT"} == {name for name, _ in Adjustments._params}


def test_every_option_of_uwsgi_is_in_its_tables_or_in_a_group(uwsgi_options):
    patterns = theirs("uWSGI")
    assert not {option for option in uwsgi_options if not any(fnmatch.fnmatchcase(option, one) for one in patterns)}


def test_the_tables_of_uwsgi_name_nothing_else(uwsgi_options):
    assert not {one for one in theirs("uWSGI") - NOT_IN_THE_WHEEL if not fnmatch.filter(uwsgi_options, one)}


@pytest.mark.parametrize("server, defaults", [
    ("gunicorn", {option: str(setting.default) for setting in KNOWN_SETTINGS for option in setting.cli or []}),
    ("waitress", {name: getattr(Adjustments, name) for name, _ in Adjustments._params}),
])  # fmt: skip
def test_their_defaults_are_as_the_table_says(server, defaults):
    checked = 0
    for cell, _, _ in rows(server):
        stated = re.search(r"\(`([^`]*)`\)", cell)
        if stated is None:
            continue
        last = CODE.findall(cell[: stated.start()])[-1] if server == "waitress" else re.findall(r"`(--[^`]+)`", cell)[0]
        default = defaults[last]
        if isinstance(default, list):
            default = default[0]
        default = f"{default:o}" if last == "unix_socket_perms" else str(default)
        assert stated[1] == default, cell
        checked += 1
    assert checked >= 5


# --- ours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_our_column_names_options_that_exist_and_their_defaults(server, our_options):
    defaults = our_defaults()
    checked = 0
    for cell, ours, remarks in rows(server):
        if ours == "none":
            assert remarks, f"{cell}: a reason is missing"
        elif ours != "the first argument" and "](" not in ours:
            options = set(OPTION.findall(ours))
            assert options and options <= our_options, f"{cell}: {ours}"
        for option, default in re.findall(r"`(--[\w-]+)` \(`([^`]+)`\)", f"{ours} {remarks}"):
            assert defaults[option] == default, cell
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", GUIDES)
def test_every_option_in_a_guide_exists_here_or_there(name, our_options):
    known = our_options | gunicorn_options() | waitress_options() | FOREIGN_OPTIONS
    text = re.sub(r"^(gunicorn|uwsgi|waitress-serve) .*", "", text_of(name), flags=re.M)
    assert not set(OPTION.findall(text)) - known


@pytest.mark.parametrize("name", [*GUIDES, "howto/systemd"])
def test_every_variable_and_keyword_in_a_guide_is_a_setting(name, our_settings):
    variables = set(re.findall(r"\bMAYPOLE_[A-Z_]+", text_of(name)))
    assert {one.removeprefix("MAYPOLE_").lower() for one in variables} <= our_settings
    for body in blocks(name, "python"):
        for call in (node for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in ("maypole.serve", "maypole.Server"):
                assert {keyword.arg for keyword in call.keywords} <= {*our_settings, "environ", "on_access", "sock", "fd", None}


def example_lines(program):
    """The command lines of `program` in code blocks and in inline code."""
    found = []
    for name in GUIDES:
        text = text_of(name)
        candidates = [line for body in blocks(name, "sh") for line in body.splitlines()]
        candidates += CODE.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        found += [line for line in candidates if line.startswith(f"{program} ") and "…" not in line]
    assert found, program
    return found


@pytest.mark.parametrize("line", example_lines("maypole"))
def test_example_command_lines_parse(line):
    done = run("--print-config", *shlex.split(line, comments=True)[1:])
    assert done.returncode == 0, done.stderr


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
    assert checked == 2


@pytest.mark.parametrize("line", example_lines("gunicorn"))
def test_example_command_lines_of_gunicorn_parse(line):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            GunicornConfig().parser().parse_args(shlex.split(line)[1:])
        except SystemExit:
            pytest.fail(errors.getvalue())


@pytest.mark.parametrize("line", example_lines("waitress-serve"))
def test_example_command_lines_of_waitress_parse(line):
    Adjustments.parse_args(shlex.split(line)[1:])


def test_example_command_lines_and_files_of_uwsgi_have_only_its_options(uwsgi_options):
    used = {option[2:] for line in example_lines("uwsgi") for option in OPTION.findall(line)}
    for body in blocks("from-gunicorn-uwsgi-waitress", "ini"):
        used |= set(re.findall(r"^([\w-]+) =", body, re.M))
    assert len(used) > 10
    assert not used - uwsgi_options


def test_example_configuration_of_gunicorn_has_only_its_settings():
    body = next(body for body in blocks("from-gunicorn-uwsgi-waitress", "python") if "gunicorn.conf.py" in body)
    config = GunicornConfig()
    for statement in ast.parse(body).body:
        config.set(statement.targets[0].id, ast.literal_eval(statement.value))


# --- what the pages promise ---------------------------------------------------------------------------------------


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
    # The kernel deals by a hash of the client's port: that one gets all 200 is as likely as 200 heads in a row.
    for _ in range(200):
        with Client(f"http://127.0.0.1:{port}") as client:
            answered.add(client.get("/").get("Server"))
    assert answered == {"one", "two"}
