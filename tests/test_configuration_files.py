"""Configuration files: TOML, `pyproject.toml`, and gunicorn's in Python; what takes precedence, and what an error names."""

import re
import shutil
import signal

import pytest

from process import APPS, ROOT, run

CONFIGURATIONS = ROOT / "tests" / "configurations"

SHOP = """
[maypole]
application = "probe"
bind = ["127.0.0.1:0"]
pool-size = 7
keep_alive = 2.5
umask = 0o027
proxy_protocol = "off"
raw_env = { NAME = "a,b", OTHER = "c" }
factory = false
"""


def settings(*args, **more):
    """Returns value and source of each setting that is no default, as `--print-config` prints them."""
    done = run("--print-config", *args, **more)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" = ") for line in done.stdout.splitlines() if "." not in line.split(" = ")[0]]
    found = {name: tuple(rest.rsplit("  # ", 1)) for name, _, rest in lines}
    return {name: pair for name, pair in found.items() if not pair[1].startswith("default")}


def refused(*args, **more):
    done = run(*args, **more)
    assert (done.returncode, done.stdout) == (2, ""), done
    return done.stderr


def test_file_gives_the_settings_that_neither_line_nor_environment_give(tmp_path):
    (tmp_path / "shop.toml").write_text(SHOP)
    assert settings("-c", "shop.toml", cwd=tmp_path) == {
        "application": ("probe", "shop.toml:3"),
        "bind": ("127.0.0.1:0", "shop.toml:4"),
        "pool_size": ("7", "shop.toml:5"),
        "keep_alive": ("2500ms", "shop.toml:6"),
        "umask": ("027", "shop.toml:7"),
        "proxy_protocol": ("off", "shop.toml:8"),
        "raw_env": ("NAME=a,b,OTHER=c", "shop.toml:9"),
        "factory": ("false", "shop.toml:10"),
        "config": ("shop.toml", "command line"),
    }
    env = {"MAYPOLE_KEEP_ALIVE": "3", "MAYPOLE_CONFIG": "shop.toml", "PORT": "5000", "WEB_CONCURRENCY": "2"}
    found = settings("-b", "127.0.0.1:1", "-e", "A=b", "other", cwd=tmp_path, env=env)
    assert found["application"] == ("other", "command line")
    assert found["bind"] == ("127.0.0.1:1", "command line")
    assert found["raw_env"] == ("A=b", "command line")
    assert found["keep_alive"] == ("3s", "variable MAYPOLE_KEEP_ALIVE")
    assert found["pool_size"] == ("7", "shop.toml:5")
    assert found["workers"] == ("2", "variable WEB_CONCURRENCY")
    assert settings("-c", "shop.toml", "--port", "1", cwd=tmp_path)["bind"] == ("127.0.0.1:1", "command line")


def test_project_file_is_read_if_it_has_the_table(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'maypole-shop'\n")
    assert settings("probe", cwd=tmp_path) == {"application": ("probe", "command line")}
    project.write_text("[tool.maypole]\npool_size = 5\n[tool.other]\nx = 1\n")
    assert settings("probe", cwd=tmp_path)["pool_size"] == ("5", "pyproject.toml:2")
    found = settings("probe", "--chdir", tmp_path, cwd=APPS)
    assert found["pool_size"] == ("5", "pyproject.toml:2")
    assert "pool_size" not in settings("probe", "-c", "none", cwd=tmp_path)
    assert "pool_size" not in settings("probe", cwd=tmp_path, env={"MAYPOLE_CONFIG": "none"})
    (tmp_path / "shop.toml").write_text("[maypole]\nthreads = 3\n")
    assert set(settings("probe", "-c", "shop.toml", cwd=tmp_path)) == {"application", "config", "threads"}


def test_switch_of_the_file_is_turned_off(tmp_path):
    (tmp_path / "shop.toml").write_text("[maypole]\npreload = true\n")
    found = [
        settings("-c", "shop.toml", *words, "probe", cwd=tmp_path, env=env).get("preload")
        for words, env in [((), {}), (("--no-preload",), {}), ((), {"MAYPOLE_PRELOAD": "0"})]
    ]
    assert found == [("true", "shop.toml:2"), ("false", "command line"), ("false", "variable MAYPOLE_PRELOAD")]
    (tmp_path / "shop.toml").write_text("[maypole]\npreload = false\n")
    words = "-c", "shop.toml", "--preload", "probe"
    assert settings(*words, cwd=tmp_path, env={"MAYPOLE_PRELOAD": "0"})["preload"] == ("true", "command line")


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("pool_sise = 3", "there is no setting 'pool_sise'; did you mean 'pool_size'?"),
        ("pool_size = 0", "invalid value '0' for pool_size: expected a whole number from 1 to 100000"),
        ("harakiri = 3", "there is no setting 'harakiri' (uWSGI); use --request-timeout: a client gets 504 at that time"),
        ("workers = true", "'workers' takes a number or a string, not true or false"),
        ("preload = 1", "'preload' takes true or false, not a number"),
        ("bind = 8000", "'bind' takes a string, not a number"),
        ("bind = ['8000']", "invalid value '8000' for bind: "),
        ("threads = [1]", "'threads' takes one value, not an array"),
        ("raw_env = { A = 1 }", "'raw_env.A' takes a string"),
        ("check_config = true", "'check_config' is an option of the command line only"),
        ("x = ", "string values must be quoted"),
    ],
)
def test_error_names_the_file_and_the_line(tmp_path, line, sentence):
    (tmp_path / "shop.toml").write_text(f"[maypole]\n\n{line}\n")
    text = refused("-c", "shop.toml", "probe", cwd=tmp_path)
    assert text.startswith(f"error: shop.toml:3: {sentence}") and len(text.splitlines()) == 1, text


def test_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "empty.toml").write_text("[other]\n")
    for name, sentence in [
        ("gone.toml", "cannot read settings from gone.toml: No such file or directory\n"),
        ("empty.toml", "empty.toml: there is no table [maypole], which has the settings\n"),
        ("uwsgi.ini", "cannot read settings from uwsgi.ini: `maypole migrate uwsgi.ini` makes a TOML file of it\n"),
    ]:
        assert refused("-c", name, "probe", cwd=tmp_path) == f"error: {sentence}"
    (tmp_path / "pyproject.toml").write_text("[tool.maypole]\nx\n")
    assert refused("probe", cwd=tmp_path).startswith("error: pyproject.toml:2: ")


def test_server_says_which_file_it_has_read(server, tmp_path):
    (tmp_path / "shop.toml").write_text(f'[maypole]\nchdir = "{APPS}"\nbind = "127.0.0.1:0"\nserver_header = "shop"\n')
    started = server("probe", "-c", "shop.toml", cwd=tmp_path, bind=False)
    assert "settings from shop.toml\n" in started.err.text()
    assert started.get().get("server") == "shop"


@pytest.mark.parametrize("workers", [(), ("-w", "2")])
def test_server_says_that_it_does_not_read_gunicorns_file(server, tmp_path, workers):
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit('it was read')\n")
    line = "gunicorn.conf.py is not read: give -c gunicorn.conf.py to read it, or -c none if that is right\n"
    started = server("probe", "--chdir", APPS, *workers, cwd=tmp_path)
    assert started.err.text().count(line) == 1
    assert line not in server("probe", "--chdir", APPS, *workers, "-c", "none", cwd=tmp_path).err.text()


@pytest.mark.smoke
def test_reload_reads_the_file_anew(server, tmp_path):
    file = tmp_path / "shop.toml"

    def write(line):
        file.write_text(f'[maypole]\nchdir = "{APPS}"\nbind = "127.0.0.1:0"\n{line}\n')

    write('server_header = "old"')
    started = server("probe", "-w", "1", "-c", "shop.toml", cwd=tmp_path, bind=False)
    assert started.get().get("server") == "old"
    write('server_header = "new"')
    started.signal(signal.SIGHUP)
    started.err.wait(r"\] reloaded: ")
    assert started.get().get("server") == "new"
    write("pool_size = 0")
    started.signal(signal.SIGHUP)
    started.err.wait(r"shop\.toml:4: invalid value '0' for pool_size")
    assert started.get().get("server") == "new"


# Settings of each file of gunicorn, and the names that have no effect, or a different one, with their lines.
GUNICORN = {
    "gthread": (
        {"bind": "unix:shop.sock", "threads": "4", "request_timeout": "5m", "keep_alive": "65s", "preload": "true",
         "max_requests": "1000", "max_requests_jitter": "100", "capture_output": "true", "log_level": "info",
         "umask": "007", "proc_name": "shop", "graceful_timeout": "20s", "backlog": "1024"},
        ["8 timeout"],
    ),
    "cores": (
        {"bind": "0.0.0.0:8080", "workers": "2", "worker_tmp_dir": "/dev/shm", "access_logfile": "-"},
        ["21 timeout", "threads"],
    ),
    "hooks": (
        {"bind": "127.0.0.1:8000,[::1]:8000", "workers": "3", "hooks": str(CONFIGURATIONS / "hooks.conf.py")},
        ["19 worker_int", "threads"],
    ),
    "asynchronous": (
        {"bind": "0.0.0.0:8000", "workers": "4", "max_connections": "2000", "forwarded_allow_ips": "*"},
        ["7 worker_class", "10 secure_scheme_headers"],
    ),
    "account": (
        {"chdir": str(CONFIGURATIONS), "pythonpath": "/srv/shop/lib,/srv/shop/plugins", "user": "www-data",
         "group": "www-data", "pid": "/run/shop/shop.pid", "raw_env": "SHOP_MODE=production,SHOP_LIST=a,b,SCRIPT_NAME=/shop",
         "prefix": "/shop",
         "spool_dir": "/var/tmp", "limit_request_line": "65536", "limit_request_fields": "200"},
        ["threads"],
    ),
    "metrics": (
        {"bind": "0.0.0.0:8000", "raw_env": "PROMETHEUS_MULTIPROC_DIR=/tmp/shop-metrics", "reload": "false",
         "statsd_host": "localhost:8125", "statsd_prefix": "shop", "hooks": str(CONFIGURATIONS / "metrics.conf.py")},
        ["9 worker_class"],
    ),
    "logs": (
        {"access_logfile": "access.log", "access_logformat": '%(h)s %(t)s "%(r)s" %(s)s %(D)s %({x-request-id}i)s',
         "log_config": str(CONFIGURATIONS / "logs.conf.py")},
        ["9 logger_class", "11 max_request", "12 keep_alives"],
    ),
}


@pytest.mark.parametrize("name", GUNICORN)
def test_file_of_gunicorn_is_read_as_it_is(name):
    expected, remarks = GUNICORN[name]
    arguments = ("--print-config", "-c", CONFIGURATIONS / f"{name}.conf.py", "probe")
    env = {"WORKERS_MAX": "2"}
    done = run(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    # `max_connections` is what the limit of open files leaves.
    found = {name: value for name, (value, _) in settings(*arguments[1:], env=env).items()}
    assert {key: found[key].partition("  # ")[0] for key in expected} == expected
    assert re.findall(r"^  (?:line (\d+): )?(\w+): \w", done.stderr, re.M) == [
        tuple(remark.split()) if " " in remark else ("", remark) for remark in remarks
    ]


def test_file_of_gunicorn_is_replaced_by_line_and_environment(tmp_path):
    shutil.copy(CONFIGURATIONS / "logs.conf.py", tmp_path / "gunicorn.conf.py")
    found = settings("-c", "gunicorn.conf.py", "-w", "2", "probe", cwd=tmp_path, env={"MAYPOLE_THREADS": "3"})
    assert found["workers"] == ("2", "command line")
    assert found["threads"] == ("3", "variable MAYPOLE_THREADS")
    assert found["bind"] == ("127.0.0.1:8002", "gunicorn.conf.py:3")
    shutil.copy(CONFIGURATIONS / "logs.conf.py", tmp_path / "shop_settings.py")
    assert settings("-c", "python:shop_settings", "probe", cwd=tmp_path)["workers"] == ("1", "python:shop_settings:4")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("x = 1 / 0", "cannot read settings from bad.py: ZeroDivisionError: division by zero\nTraceback "),
        ("x = (", "cannot read settings from bad.py: SyntaxError: '(' was never closed\n  File "),
        ("import sys; sys.exit(3)", "cannot read settings from bad.py: SystemExit: 3\nTraceback "),
        ("import os; os._exit(0)", "cannot read settings from bad.py: the process that read it has crashed\n"),
        ("\nworkers = 'many'", "bad.py:2: invalid value 'many' for workers: expected auto or a whole number"),
        ("\nworkers = print", "bad.py:2: 'workers' is a function\n"),
        ("daemon = True", "bad.py:1: daemon: Maypole stays in the foreground; a systemd unit with ExecStart="),
    ],
)
def test_error_in_a_file_of_gunicorn_ends_the_start(tmp_path, text, sentence):
    (tmp_path / "bad.py").write_text(text + "\n")
    assert refused("-c", "bad.py", "probe", cwd=tmp_path).startswith(f"error: {sentence}")


def test_server_runs_with_a_file_of_gunicorn(server, tmp_path):
    text = f"""
import os
chdir = {str(APPS)!r}
bind = "127.0.0.1:0"
errorlog = "-"
enable_backlog_metric = True
threads = 2
print("computed by", os.getppid())
"""
    (tmp_path / "gunicorn.conf.py").write_text(text)
    started = server("probe", "-c", "gunicorn.conf.py", cwd=tmp_path, bind=False)
    assert started.get().status == 200
    assert "gunicorn.conf.py: one setting has no effect here, or a different one:\n  line 6: enable_backlog_metric: " in started.err.text()
    # The process of the server is the parent of the one that has read the file.
    assert f"computed by {started.pid}\n" in started.err.text()
