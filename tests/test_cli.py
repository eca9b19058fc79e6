"""The command line: refused arguments and their messages, the source of the application, the server's addresses."""

import os
import pathlib
import re
import resource
import socket
import sys

import pytest

from client import Client
from ports import free_port
from process import APPS, MAYPOLE, clean_environment, run

# Exit codes, as `maypole --help` and the README have them.
OK, FAILURE, USAGE, NOT_STARTED, NOT_IMPORTED = 0, 1, 2, 3, 4


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option, value, hint",
    [
        ("--bind", "127.0.0.1:notaport", "127.0.0.1:notaport"),
        ("--bind", "127.0.0.1:70000", "70000"),
        ("--bind", "fd://x", "fd://x"),
        ("--pool-size", "0", "--pool-size"),
        ("--pool-size", "many", "many"),
        ("--threads", "0", "--threads"),
        ("--threads", "-1", "-1"),
        ("--backlog", "x", "--backlog"),
        ("--keep-alive", "5 parsecs", "5 parsecs"),
        ("--header-timeout", "-1", "-1"),
        ("--max-body-size", "12 elephants", "12 elephants"),
        ("--request-buffer", "x", "--request-buffer"),
        ("--stream-requests", "sometimes", "sometimes"),
        ("--log-level", "loud", "loud"),
        ("--umask", "9", "--umask"),
        ("--server-header", "a\nb", "--server-header"),
    ],
)
def test_wrong_value(option, value, hint):
    done = run(f"{option}={value}", "probe")
    assert done.returncode == USAGE, done
    assert option in done.stderr and hint in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "panicked" not in done.stderr


def test_unknown_atom_in_the_access_log_format():
    done = run("--access-logformat", "%(nonsense)s", "--access-logfile", "-", "--bind", "127.0.0.1:0", "probe")
    assert done.returncode == USAGE
    assert "nonsense" in done.stderr


def test_unknown_option():
    done = run("--no-such-option", "probe")
    assert done.returncode == USAGE
    assert "--no-such-option" in done.stderr


def test_misspelt_option_says_which_is_meant():
    done = run("--pol-size", "3", "probe")
    assert done.returncode == USAGE
    assert "--pool-size" in done.stderr


def test_no_application():
    done = run()
    assert done.returncode == USAGE
    assert "example: maypole shop.wsgi:application" in done.stderr and "required" not in done.stderr


@pytest.mark.parametrize("app", ["no_such_module", "no_such_package.module:app", "no/such/file.py:app"])
def test_missing_module(app):
    done = run("--bind", "127.0.0.1:0", app)
    assert done.returncode == NOT_IMPORTED
    assert app.partition(":")[0].partition(".")[0] in done.stderr
    assert "listening" not in done.stderr


@pytest.mark.smoke
def test_missing_attribute():
    done = run("--bind", "127.0.0.1:0", "probe:no_such_name")
    assert done.returncode == NOT_IMPORTED
    assert "no_such_name" in done.stderr and "probe" in done.stderr


def test_no_default_callable():
    done = run("--bind", "127.0.0.1:0", "broken_apps.nothing")
    assert done.returncode == NOT_IMPORTED
    assert "application" in done.stderr


def test_not_callable():
    done = run("--bind", "127.0.0.1:0", "probe:BLOCK")
    assert done.returncode == NOT_IMPORTED
    assert "call" in done.stderr and "BLOCK" in done.stderr


@pytest.mark.smoke
def test_exception_while_importing_shows_the_traceback():
    done = run("--bind", "127.0.0.1:0", "broken_apps.raises")
    assert done.returncode == NOT_IMPORTED
    assert "Traceback (most recent call last)" in done.stderr
    assert 'raise RuntimeError("broken on purpose")' in done.stderr
    assert "RuntimeError: broken on purpose" in done.stderr


def test_import_error_inside_the_module_shows_the_traceback():
    done = run("--bind", "127.0.0.1:0", "broken_apps.imports")
    assert done.returncode == NOT_IMPORTED
    assert "no_such_module_inside" in done.stderr
    assert "imports.py" in done.stderr


def test_syntax_error():
    done = run("--bind", "127.0.0.1:0", "broken_apps.syntax")
    assert done.returncode == NOT_IMPORTED
    assert "SyntaxError" in done.stderr


def test_system_exit_while_importing():
    done = run("--bind", "127.0.0.1:0", "broken_apps.exits")
    assert done.returncode == NOT_IMPORTED


def test_failing_factory_shows_the_traceback():
    done = run("--bind", "127.0.0.1:0", "factories:failing()")
    assert done.returncode == NOT_IMPORTED
    assert "ValueError: no application today" in done.stderr


def test_address_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        done = run("--bind", address, "probe")
    assert done.returncode == NOT_STARTED, done
    assert address in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_server_on_the_same_address_is_refused(server):
    first = server()
    done = run("--bind", f"127.0.0.1:{first.port}", "probe")
    assert done.returncode == NOT_STARTED
    assert first.get().status == 200


def test_foreign_address():
    done = run("--bind", "192.0.2.1:0", "probe")
    assert done.returncode == NOT_STARTED
    assert "192.0.2.1" in done.stderr


def test_unix_socket_in_a_missing_directory():
    done = run("--bind", "unix:/no/such/directory/socket", "probe")
    assert done.returncode == NOT_STARTED
    assert "/no/such/directory/socket" in done.stderr


def test_missing_directory_to_change_to():
    done = run("--chdir", "/no/such/directory", "probe")
    assert done.returncode == NOT_STARTED
    assert "/no/such/directory" in done.stderr


@pytest.mark.parametrize("number", [99, 1])
def test_fd_that_is_no_listening_socket(number):
    done = run("--bind", f"fd://{number}", "probe")
    assert done.returncode in (USAGE, NOT_STARTED)
    assert f"fd://{number}" in done.stderr


# --- answered at once ---------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_version():
    done = run("--version")
    assert done.returncode == OK
    assert done.stdout.startswith("maypole ")


def test_help_names_every_setting():
    done = run("--help")
    assert done.returncode == OK
    for option in """--bind --backlog --chdir --pythonpath --pool-size --threads --max-connections --keep-alive
            --header-timeout --body-timeout --write-timeout --queue-timeout --graceful-timeout --min-rate
            --limit-request-line --limit-request-fields --limit-request-field-size --max-body-size --request-buffer
            --stream-requests --response-buffer --response-spool --spool-dir --spool-total --umask --init --access-logfile
            --access-logformat --error-logfile --log-level --server-header --check-config --print-config --stack-size
            --factory --version --help""".split():
        assert option in done.stdout, option
    # By default clap prints the variable of each option. The help has one legend for all of them instead.
    assert done.stdout.count("MAYPOLE_POOL_SIZE") == 1


def test_check_config_of_a_good_application():
    done = run("--check-config", "--bind", "127.0.0.1:0", "probe")
    assert done.returncode == OK, done
    assert "listening" not in done.stderr


def test_check_config_of_a_bad_application():
    assert run("--check-config", "no_such_module").returncode == NOT_IMPORTED


def test_print_config():
    done = run("--print-config", "--pool-size", "7", "--keep-alive", "2m", "--max-body-size", "64k", "probe")
    assert done.returncode == OK
    lines = {line.partition("=")[0].strip().lstrip("-").replace("_", "-"): line for line in done.stdout.splitlines()}
    assert "7" in lines["pool-size"]
    assert any(unit in lines["keep-alive"] for unit in ("120", "2m"))
    assert any(unit in lines["max-body-size"] for unit in ("65536", "64"))
    for name in ("backlog", "threads", "header-timeout", "log-level"):
        assert name in lines


@pytest.mark.parametrize("value", ["500ms", "0.5", "2", "2s", "2m", "1h"])
def test_durations_take_units(value):
    done = run("--check-config", "--queue-timeout", value, "probe")
    assert done.returncode == OK, done.stderr


@pytest.mark.parametrize("value", ["64k", "64K", "64KiB", "64kib", "1GiB", "1 GiB", "1MB", "1048576"])
def test_sizes_take_units(value):
    done = run("--check-config", "--max-body-size", value, "probe")
    assert done.returncode == OK, done.stderr


# --- where the application comes from -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "app, options, expected",
    [
        ("probe", [], b"Hello, World!\n"),
        ("probe:application", [], b"Hello, World!\n"),
        ("factories:app", [], b"app"),
        ("factories", [], b"app"),
        ("factories:holder.inner", [], b"inner"),
        ("factories:make()", [], b"made"),
        ("factories:make", ["--factory"], b"made"),
        ("broken_apps/../factories.py:app", [], b"app"),
        (str(APPS / "factories.py") + ":app", [], b"app"),
        ("pkg.sub.module:app", [], b"pkg"),
    ],
)
def test_application_forms(server, app, options, expected):
    assert server(app, *options).get().body == expected


def test_factory_with_arguments(server):
    assert server("factories:make_with('x', count=3)").get().body == b"xxx"


def test_chdir(server, tmp_path):
    (tmp_path / "there.py").write_text(
        "import os\ndef application(e, s):\n    s('200 OK', [])\n    return [os.getcwd().encode()]\n"
    )
    assert server("there", "--chdir", str(tmp_path), cwd="/").get().body == os.fsencode(os.path.realpath(tmp_path))


def test_pythonpath(server, tmp_path):
    (tmp_path / "elsewhere.py").write_text("def application(e, s):\n    s('200 OK', [])\n    return [b'elsewhere']\n")
    assert server("elsewhere", "--pythonpath", str(tmp_path), cwd="/").get().body == b"elsewhere"


def test_working_directory_is_on_the_path(server, tmp_path):
    (tmp_path / "here.py").write_text("def application(e, s):\n    s('200 OK', [])\n    return [b'here']\n")
    assert server("here", cwd=tmp_path).get().body == b"here"


@pytest.mark.smoke
def test_virtual_environment_is_used(server):
    said = server("interpreter").get().body.decode().splitlines()
    assert said[0] == sys.prefix
    assert said[1] == "%d.%d.%d" % sys.version_info[:3]


def test_virtual_environment_of_another_version_is_refused(tmp_path):
    minor = sys.version_info[1] + 1
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.{minor}.1\n")
    (tmp_path / "lib" / f"python3.{minor}" / "site-packages").mkdir(parents=True)
    os.symlink(sys.executable, tmp_path / "bin" / "python")
    done = run("--bind", "127.0.0.1:0", "probe", env={"VIRTUAL_ENV": str(tmp_path)})
    assert done.returncode not in (OK, USAGE), done
    assert f"3.{minor}" in done.stderr and "3.%d" % sys.version_info[1] in done.stderr
    assert "listening" not in done.stderr


# --- where it listens ---------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_ready_line(server):
    running = server("probe", "--pool-size", "17")
    line = running.err.wait(r".*listening on .*")[0]
    assert f"pid {running.pid}" in line
    assert "CPython %d.%d.%d" % sys.version_info[:3] in line
    assert "maypole " in line
    assert f"http://127.0.0.1:{running.port}" in line
    assert running.pool_size == 17


def test_two_addresses(server):
    running = server("probe", "--bind", "127.0.0.2:0")
    assert len(running.addresses) == 2
    for address in running.addresses:
        with Client(address) as client:
            assert client.get().status == 200


def test_ipv6(server):
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    running = server("probe", "--bind", "[::1]:0", bind=False)
    assert running.address.startswith("http://[::1]:")
    assert running.get().status == 200


def test_host_name(server):
    assert server("probe", "-b", "localhost:0", bind=False).get().status == 200


@pytest.mark.smoke
def test_unix_socket(server, tmp_path):
    path = tmp_path / "s"
    running = server("probe", "--bind", f"unix:{path}", bind=False)
    assert running.address == f"unix:{path}"
    assert running.get().status == 200
    said = running.get("/environ").body
    assert b'"REMOTE_ADDR"' in said
    running.stop()
    assert not path.exists()


def test_stale_unix_socket_is_replaced(server, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert server("probe", "--bind", f"unix:{path}", bind=False).get().status == 200


def test_unix_socket_in_use_is_refused(server, tmp_path):
    path = tmp_path / "s"
    first = server("probe", "--bind", f"unix:{path}", bind=False)
    done = run("--bind", f"unix:{path}", "probe")
    assert done.returncode == NOT_STARTED
    assert first.get().status == 200


def test_file_in_place_of_a_unix_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    assert run("--bind", f"unix:{path}", "probe").returncode == NOT_STARTED
    assert path.read_text() == "data"


def test_umask_of_a_unix_socket(server, tmp_path):
    path = tmp_path / "s"
    server("probe", "--umask", "077", "--bind", f"unix:{path}", bind=False)
    assert os.stat(path).st_mode & 0o777 == 0o700


def test_inherited_descriptor(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        running = server("probe", "--bind", f"fd://{fd}", bind=False, pass_fds=(fd,))
        running.addresses = ["http://127.0.0.1:%d" % listener.getsockname()[1]]
        assert running.get().status == 200


SYSTEMD = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3);"
    "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid() + int(sys.argv[2])));"
    "os.execv(sys.argv[3], sys.argv[3:])"
)


def test_listen_fds(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-c", SYSTEMD, str(fd), "0", MAYPOLE, "--access-logfile", "none", "probe"]
        running = server("probe", bind=False, command=command, pass_fds=(fd,))
        running.addresses = ["http://127.0.0.1:%d" % listener.getsockname()[1]]
        assert running.get().status == 200


def test_listen_fds_of_another_process_are_not_ours(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-c", SYSTEMD, str(fd), "1", MAYPOLE, "--bind", "127.0.0.1:0", "probe"]
        running = server("probe", bind=False, command=command, pass_fds=(fd,))
        assert running.port != listener.getsockname()[1]
        assert running.get().status == 200


def test_port_variable(server):
    port = free_port()
    running = server("probe", bind=False, env={"PORT": str(port)})
    assert running.address == f"http://0.0.0.0:{port}"
    assert running.get().status == 200


def test_bind_beats_port_variable(server):
    running = server("probe", env={"PORT": str(free_port())})
    assert running.address.startswith("http://127.0.0.1:")


def test_settings_from_the_environment(server):
    running = server("probe", bind=False, env={"MAYPOLE_BIND": "127.0.0.1:0", "MAYPOLE_POOL_SIZE": "33"})
    assert running.pool_size == 33
    assert running.get().status == 200


def test_command_line_beats_environment(server):
    assert server("probe", "--pool-size", "44", env={"MAYPOLE_POOL_SIZE": "33"}).pool_size == 44


def test_wrong_value_from_the_environment():
    done = run("probe", env={"MAYPOLE_POOL_SIZE": "many"})
    assert done.returncode == USAGE
    assert "many" in done.stderr


def test_environment_of_the_application_is_ours():
    assert "MAYPOLE" not in clean_environment()


def test_max_connections_makes_room(server):
    """The server closes the connection that has been idle longest, to make room for a new one."""
    running = server("probe", "--max-connections", "20")
    clients = []
    try:
        for _ in range(40):
            client = running.client()
            clients.append(client)
            assert client.get().status == 200
        clients[0].assert_closed()
        clients[-1].assert_open()
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("limit", [300, 4096])
def test_table_of_descriptors_has_room_before_clients_come(server, limit):
    running = server("probe", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
    status = pathlib.Path(f"/proc/{running.pid}/status").read_text()
    # The kernel doubles the table when it is full, and lets the thread that accepts clients wait.
    assert int(re.search(r"FDSize:\s*(\d+)", status)[1]) >= limit


def test_descriptor_limit_makes_room_and_is_said_once(server):
    running = server("probe", "--max-connections", "100000",
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)))
    clients = []
    try:
        for _ in range(200):
            client = running.client()
            clients.append(client)
            assert client.get().status == 200
        assert running.err.text().lower().count("descriptors") <= 3
    finally:
        for client in clients:
            client.close()
