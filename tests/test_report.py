"""`--check-config` and `--print-config`; unknown variables; virtual environments; few descriptors."""

import pathlib
import re
import resource
import subprocess
import sys

import pytest

from process import APPS, MAYPOLE, clean_environment, run

OK, USAGE, NOT_STARTED = 0, 2, 3


def report(*args, **more):
    """Returns the value and the source of each setting."""
    done = run("--print-config", *args, "probe", **more)
    assert done.returncode == OK, done
    rows = [re.fullmatch(r"([\w.]+) = (.*)  # (.+)", line) for line in done.stdout.splitlines()]
    assert all(rows), done.stdout
    return {row[1]: (row[2], row[3]) for row in rows}


@pytest.mark.smoke
def test_print_config_says_where_each_value_comes_from():
    rows = report("--keep-alive", "2m", "--max-body-size", "1M", env={"MAYPOLE_POOL_SIZE": "7", "PORT": "5000"})
    assert rows["keep_alive"] == ("2m", "command line")
    assert rows["pool_size"] == ("7", "variable MAYPOLE_POOL_SIZE")
    assert rows["bind"] == ("0.0.0.0:5000", "variable PORT")
    assert rows["threads"] == ("256", "default")
    assert rows["request_buffer"] == ("1MiB", "default, follows max_body_size")
    assert report("--port", "80")["bind"] == ("127.0.0.1:80", "command line")


def test_print_config_names_the_sockets_of_systemd():
    script = 'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", MAYPOLE, "--print-config", "probe"], cwd=APPS,
                          env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert "bind = fd://3,fd://4  # systemd (LISTEN_FDS)\n" in done.stdout, done


@pytest.mark.smoke
def test_print_config_says_the_limits_that_hold(tmp_path):
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))}
    rows = report(env={"TMPDIR": str(tmp_path)}, **few)
    assert rows["max_connections"] == ("840", "default, what a limit of 1024 open files leaves")
    assert rows["system.open_files"][0] == "1024"
    assert rows["spool_dir"] == (str(tmp_path), "variable TMPDIR")
    assert re.fullmatch(r"[1-9]\d*(?:[KMGT]iB)?", rows["spool_total"][0])
    assert report("--max-connections", "20", **few)["max_connections"] == ("20", "command line")
    cut = ("840", "command line, what a limit of 1024 open files leaves")
    assert report("--max-connections", "5000", **few)["max_connections"] == cut


@pytest.mark.smoke
def test_print_config_says_which_python_runs(tmp_path):
    rows = report("--pythonpath", str(tmp_path))
    assert rows["python.version"][0] == "%d.%d.%d" % sys.version_info[:3]
    assert rows["python.environment"][0] == sys.prefix
    assert rows["python.path"][0].split(":")[:2] == [str(APPS), str(tmp_path)]
    assert f"{sys.prefix}/lib" in rows["python.path"][0]


def test_print_config_imports_nothing():
    assert run("--print-config", "no_such_module").returncode == OK


@pytest.mark.smoke
def test_check_config_says_that_all_is_well():
    done = run("--check-config", "probe")
    assert (done.returncode, done.stderr) == (OK, ""), done
    python = "CPython %d.%d.%d, %s" % (*sys.version_info[:3], sys.prefix)
    parts = "OK: the settings, the log files and the directory of temporary files are usable"
    assert done.stdout == f"{parts}, and probe was imported by {python}\n"


def test_check_config_says_if_no_temporary_file_can_be_made():
    done = run("--check-config", "probe", env={"TMPDIR": "/nowhere/at-all"})
    assert done.returncode == OK
    said = "OK: the settings and the log files are usable, no temporary file can be made in /nowhere/at-all, and probe was"
    assert done.stdout.startswith(f"{said} imported by"), done


# --- variables ----------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_variable_that_is_no_setting_is_told_with_the_nearest_name(server):
    running = server("probe", env={"MAYPOLE_POOLSIZE": "5", "MAYPOLE_NOSUCH": "1", "MAYPOLE_POOL_SIZE": "7"})
    warnings = re.findall(r"\[WARNING\] (.*)", running.err.text())
    assert warnings == [
        "the variable MAYPOLE_NOSUCH is ignored: there is no such setting",
        "the variable MAYPOLE_POOLSIZE is ignored: there is no such setting; did you mean MAYPOLE_POOL_SIZE?",
    ]
    assert running.pool_size == 7


def test_variables_of_a_kubernetes_service_are_no_settings(server):
    running = server("probe", env={
        "MAYPOLE_SERVICE_HOST": "10.0.0.1", "MAYPOLE_PORT": "tcp://10.0.0.1:80", "MAYPOLE_PORT_80_TCP_ADDR": "10.0.0.1",
    })
    assert "WARNING" not in running.err.text()


# --- virtual environments -----------------------------------------------------------------------------------------

# The command of the package is a script in Python.
IS_PACKAGE = pathlib.Path(MAYPOLE).read_bytes()[:2] == b"#!"
stand_alone = pytest.mark.skipif(IS_PACKAGE, reason="the package runs in the Python that it is installed in")


@stand_alone
def test_environment_that_does_not_exist_is_refused(tmp_path):
    done = run("--bind", "127.0.0.1:0", "probe", env={"VIRTUAL_ENV": str(tmp_path / "none")})
    assert done.returncode == NOT_STARTED
    assert f"the virtual environment {tmp_path}/none does not exist (variable VIRTUAL_ENV)" in done.stderr


@stand_alone
def test_directory_that_is_no_environment_is_refused(tmp_path):
    done = run("--print-config", "probe", env={"VIRTUAL_ENV": str(tmp_path)})
    assert done.returncode == NOT_STARTED
    assert f"{tmp_path} is not a virtual environment: it has no pyvenv.cfg (variable VIRTUAL_ENV)" in done.stderr


@stand_alone
def test_environment_without_its_python_is_refused(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/no/such/python3")
    (tmp_path / "pyvenv.cfg").write_text("home = /no/such\nversion = %d.%d.1\n" % sys.version_info[:2])
    done = run("--bind", "127.0.0.1:0", "probe", env={"VIRTUAL_ENV": str(tmp_path)})
    assert done.returncode == NOT_STARTED
    assert "has no bin/python, or the Python that it was made from is gone" in done.stderr


def test_package_in_another_environment_than_the_active_one_says_so(tmp_path):
    pytest.importorskip("maypole")
    done = subprocess.run(
        [sys.executable, "-m", "maypole", "--check-config", "probe"], cwd=APPS, capture_output=True, text=True, timeout=60,
        env=clean_environment(VIRTUAL_ENV=str(tmp_path)),
    )
    assert done.returncode == OK, done
    assert f"VIRTUAL_ENV is {tmp_path}, but this Maypole is installed in {sys.prefix}" in done.stderr


@pytest.mark.smoke
def test_ready_line_names_the_environment(server):
    line = server("probe").err.wait(r".*listening on .*")[0]
    assert "(CPython %d.%d.%d, %s), pid" % (*sys.version_info[:3], sys.prefix) in line


# --- descriptors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [[], ["--check-config"]])
def test_start_with_too_few_descriptors_is_refused_in_a_sentence(option):
    done = run(*option, "probe", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)))
    assert done.returncode == NOT_STARTED
    assert done.stderr == (
        "error: the process may have 16 files open at once (ulimit -n), and Maypole needs at least 44, and one more for "
        "each client\n"
    )


def test_limit_of_descriptors_that_is_too_low_for_the_pool_is_told(server):
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))}
    said = "the limit of open files (ulimit -n) is 256, which is enough for 168 connections: fewer requests than"
    assert f"{said} --pool-size (1000) can be served at once" in server("probe", **few).err.text()
    assert "ulimit" not in server("probe", "--pool-size", "100", **few).err.text()
    assert "ulimit" not in server("probe", "--max-connections", "100", **few).err.text()
    text = server("probe", "--max-connections", "5000", **few).err.text()
    assert "--max-connections is 5000, but the limit of open files (ulimit -n) is 256" in text
