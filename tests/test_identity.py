"""The process in its system: user and group, PID file, title, captured output, variables."""

import fcntl
import grp
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import sys
import tempfile

import pytest

from client import Client
from deployment import place  # noqa: F401
from process import APPS, START_PATIENCE, clean_environment, eventually, run

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])


@pytest.fixture(scope="module")
def python_home():
    """Gives the home of a Python that every user may read: that of this run, or a copy of its library."""
    base = pathlib.Path(sys.base_prefix)
    if all(path.stat().st_mode & 0o5 == 0o5 for path in (base, *base.parents)):
        yield base
        return
    library = pathlib.Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="maypole-") as name:
        os.chmod(name, 0o755)
        left_out = shutil.ignore_patterns("__pycache__", "site-packages", "test", "tests", "idlelib", "config-*", "ensurepip")
        shutil.copytree(base / library, pathlib.Path(name) / library, ignore=left_out)
        yield name


@pytest.fixture
def served(server, place, python_home):  # noqa: F811
    """Starts a server in a directory that every user may enter, with a Python that every user may read."""
    shutil.copy(APPS / "identity.py", place)
    return lambda *options, **more: server(
        "identity", *options, cwd=place, env={"PYTHONHOME": str(python_home), "VIRTUAL_ENV": None}, **more)


def told(running):
    return json.loads(running.get().body)


def command_line(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


@needs_root
@WORKERS
def test_application_runs_as_the_user_and_its_files_stay_usable(served, place, workers):  # noqa: F811
    mail = pwd.getpwnam("mail")
    log, access, spool, socket = (place / name for name in ("errors", "access", "spool", "socket"))
    spool.mkdir()
    os.chown(spool, mail.pw_uid, mail.pw_gid)
    running = served(
        "--user", "mail", *workers, "--error-logfile", log, "--access-logfile", access,
        "--spool-dir", spool, "--bind", f"unix:{socket}", bind=False, ready=False)
    running.addresses = [f"unix:{socket}"]
    eventually(lambda: log.exists() and "listening on" in log.read_text(), START_PATIENCE, "that it listens")
    answer = told(running)
    assert answer["imported_as"] == answer["user"] == [mail.pw_uid] * 3
    assert answer["group"] == [mail.pw_gid] * 3
    assert answer["groups"] == sorted(os.getgrouplist("mail", mail.pw_gid))
    # The variables stay as they are, and a profiler of the same user may look into the process.
    assert answer["home"] == clean_environment().get("HOME") and answer["owner"] == mail.pw_uid
    for file in (log, access):
        assert (file.stat().st_uid, file.stat().st_gid) == (mail.pw_uid, mail.pw_gid), file
    assert socket.stat().st_uid == mail.pw_uid
    if workers:
        supervisor = pathlib.Path(f"/proc/{running.pid}/status").read_text()
        assert answer["parent"] == running.pid and re.search(r"(?m)^Uid:\t0\t0", supervisor)
    running.stop()
    assert access.read_text()


@needs_root
@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["imports", "preload"])
def test_workers_of_another_user_get_renamed_logs_and_settings_that_only_root_may_touch(served, place, more):  # noqa: F811
    mail = pwd.getpwnam("mail")
    settings, logs = place / "maypole.toml", place / "logs"
    settings.write_text("[maypole]\nworkers = 1\nuser = 'mail'\nraw_env = ['SHOP_MODE=first']\n")
    settings.chmod(0o600)
    logs.mkdir()
    running = served(
        "-c", settings, *more, "--access-logfile", logs / "access", "--pid", logs / "pid", "--bind", f"unix:{logs}/socket")
    assert told(running)["environ"] == {"SHOP_MODE": "first"}
    # A client has its response a moment before the line is in the file.
    eventually(lambda: (logs / "access").stat().st_size, what="the line of the first request")
    old = (logs / "access").rename(logs / "access.1")
    running.signal(signal.SIGUSR1)
    eventually((logs / "access").exists, what="the new file of the access log")
    settings.write_text(settings.read_text().replace("first", "second"))
    running.signal(signal.SIGHUP)
    running.err.wait("reloaded: 1 worker")
    assert told(running)["environ"] == {"SHOP_MODE": "second"}
    running.stop()
    assert "Permission denied" not in running.err.text()
    new = logs / "access"
    assert (new.stat().st_uid, len(old.read_text().splitlines()), len(new.read_text().splitlines())) == (mail.pw_uid, 1, 1)
    # The supervisor removes what only root may remove.
    assert sorted(os.listdir(logs)) == ["access", "access.1"]


@needs_root
def test_process_of_another_user_serves_on_if_it_may_not_read_its_settings_any_more(served, place):  # noqa: F811
    settings = place / "maypole.toml"
    settings.write_text("[maypole]\nuser = 'mail'\n")
    settings.chmod(0o600)
    running = served("-c", settings)
    running.signal(signal.SIGHUP)
    running.err.wait("SIGHUP: nothing changes, because (?s:.*)maypole.toml: Permission denied")
    assert told(running)["user"] == [pwd.getpwnam("mail").pw_uid] * 3


@needs_root
def test_group_alone_and_numbers(served):
    assert told(served("--group", "mail"))["group"] == [grp.getgrnam("mail").gr_gid] * 3
    answer = told(served("--user", "4711", "--group", "4712"))
    assert (answer["user"], answer["group"], answer["groups"]) == ([4711] * 3, [4712] * 3, [4712])


@pytest.mark.parametrize("workers", [(), ("--workers", "1"), ("--check-config",)])
def test_unknown_user_is_refused(workers):
    done = run("--bind", "127.0.0.1:0", "--user", "no-such-user", *workers, "identity")
    assert done.returncode == 3 and "there is no user no-such-user (--user)\n" in done.stderr


@needs_root
def test_ordinary_user_cannot_change_the_user():
    def become_mail():
        os.setgid(pwd.getpwnam("mail").pw_gid)
        os.setuid(pwd.getpwnam("mail").pw_uid)

    done = run("--bind", "127.0.0.1:0", "--user", "daemon", "identity", preexec_fn=become_mail)
    assert done.returncode == 3
    assert re.search(
        r"cannot run as the user daemon \(--user\): only root may change .*, and this is user 8: Operation", done.stderr)


@needs_root
def test_directory_of_temporary_files_has_to_be_usable_for_the_user(place):  # noqa: F811
    spool = place / "spool"
    spool.mkdir(mode=0o700)
    done = run("--bind", "127.0.0.1:0", "--user", "mail", "--spool-dir", spool, "identity")
    assert done.returncode == 3 and "as user 8: " in done.stderr and "Permission denied" in done.stderr


@WORKERS
def test_pid_file_is_there_until_the_end(server, tmp_path, workers):
    path = tmp_path / "shop.pid"
    path.write_text("999999999\n")      # A process that was killed has left it.
    running = server("identity", "--pid", path, *workers)
    assert path.read_text() == f"{running.pid}\n" and path.stat().st_mode & 0o777 == 0o644
    second = run("--bind", "127.0.0.1:0", "--pid", path, *workers, "identity")
    assert second.returncode == 3 and f"process {running.pid} runs and has {path} as its PID file" in second.stderr
    assert path.read_text() == f"{running.pid}\n"
    running.stop()
    assert os.listdir(tmp_path) == []


def test_pid_file_of_a_number_that_another_process_has_is_replaced(server, tmp_path):
    path = tmp_path / "shop.pid"
    path.write_text(f"{os.getpid()}\n")
    running = server("identity", "--pid", path)
    assert path.read_text() == f"{running.pid}\n"
    running.signal(signal.SIGTERM)
    assert running.wait() == 0 and not path.exists()


def test_file_that_is_no_pid_file_is_not_replaced(tmp_path):
    path = tmp_path / "important"
    path.write_text("text\n")
    done = run("--bind", "127.0.0.1:0", "--pid", path, "identity")
    assert done.returncode == 3 and "is no PID file: it is not replaced" in done.stderr
    assert path.read_text() == "text\n"
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_second_signal_removes_the_pid_file_too(server, tmp_path):
    path = tmp_path / "shop.pid"
    running = server("probe", "--pid", path)
    with running.client() as client:
        client.request("GET /hold/end HTTP/1.1")
        assert running.get("/held/end").body == b"yes"
        running.signal(signal.SIGINT)
        running.err.wait("stopping;")
        running.signal(signal.SIGINT)
        assert running.wait() == 0 and not path.exists()


def test_titles_show_part_and_name(server):
    running = server("identity", "--workers", "2")
    answer = told(running)
    assert command_line(running.pid) == "maypole: supervisor [identity]"
    assert re.fullmatch(r"maypole: worker [12] \[identity\]", command_line(answer["pid"]))
    assert pathlib.Path(f"/proc/{answer['pid']}/comm").read_text() == "maypole: worker\n"
    assert answer["home"] == clean_environment().get("HOME")


def test_title_of_one_process_is_changed_only_on_demand(server):
    running = server("identity")
    assert command_line(running.pid).endswith(" identity")
    # The title is longer than the command line, so that it takes the place of the environment.
    name = "the shop in the village by the river" * 8
    running = server("identity", "--raw-env", "SHOP_MODE=test", "--proc-name", name)
    assert command_line(running.pid) == f"maypole [{name}]"
    answer = told(running)
    assert answer["home"] == clean_environment().get("HOME") and answer["environ"] == {"SHOP_MODE": "test"}


@WORKERS
def test_variables_are_set_for_the_application(server, workers):
    running = server("identity", "-e", "SHOP_MODE=a=b", "--env", "SHOP_DEBUG=", *workers, env={"SHOP_MODE": "old"})
    assert told(running)["environ"] == {"SHOP_MODE": "a=b", "SHOP_DEBUG": ""}


@WORKERS
def test_captured_output_is_in_the_error_log_also_after_it_was_opened_again(server, tmp_path, workers):
    path = tmp_path / "errors"
    running = server(
        "identity", "--capture-output", "--error-logfile", path, *workers, "--bind", f"unix:{tmp_path}/socket",
        bind=False, ready=False)
    running.addresses = [f"unix:{tmp_path}/socket"]
    eventually(lambda: path.exists() and "listening on" in path.read_text(), START_PATIENCE, "that it listens")
    eventually(lambda: "printed at the import\n" in path.read_text(), what="the line of the import")
    old = path.rename(tmp_path / "errors.1")
    running.signal(signal.SIGUSR1)
    eventually(lambda: path.exists() and "open again" in path.read_text(), what="that the log is opened again")
    with Client(running.address) as client:
        eventually(lambda: client.get("/print") and "printed to stdout\nprinted to stderr\n" in path.read_text())
    running.stop()
    assert "printed to" not in old.read_text() or workers
    assert running.out.wait_end() == "" and running.err.wait_end() == ""


def test_settings_of_the_process_hold_for_the_template_and_the_process_of_the_hooks(server, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "shop.py").write_text("import os\nprint('imported in', os.getpid())\nfrom wsgiref.simple_server import demo_app as app\n")
    (site / "hooks.py").write_text("""
import os, subprocess
print("loaded in", os.getpid(), os.environ["SHOP_MODE"], os.getcwd())
def when_ready(server): subprocess.run(["echo", "written by a child of a hook"])
""")
    log = site / "errors"
    running = server(
        "shop:app", "--preload", "--hooks", "hooks.py", "--chdir", site, "--capture-output", "--error-logfile", "errors",
        "--proc-name", "the shop", "--raw-env", "SHOP_MODE=test", "--pid", "pid", ready=False)
    eventually(lambda: log.exists() and "written by a child of a hook\n" in log.read_text(), what="the last line")
    text = log.read_text()
    template = re.search(r"^imported in (\d+)$", text, re.M)[1]
    loaded = re.findall(rf"^loaded in (\d+) test {re.escape(str(site))}$", text, re.M)
    [hooks] = set(loaded) - {template}
    assert template in loaded and (site / "pid").read_text() == f"{running.pid}\n"
    titles = {role: command_line(pid) for role, pid in [("template", template), ("hooks", hooks), ("supervisor", running.pid)]}
    assert titles == {role: f"maypole: {role} [the shop]" for role in titles}
    running.stop()
    assert running.out.wait_end() == "" and running.err.wait_end() == "" and not (site / "pid").exists()


@WORKERS
@pytest.mark.parametrize(("path", "said"), [
    ("nosuch/pid", "cannot write the PID file {} (--pid): No such file or directory"),
    (".", "{} (--pid) exists and is no PID file: it is not replaced"),
])  # fmt: skip
def test_pid_file_that_cannot_be_written_prevents_the_start(tmp_path, workers, path, said):
    done = run("--bind", "127.0.0.1:0", "--pid", tmp_path / path, *workers, "identity")
    assert done.returncode == 3 and said.format(tmp_path / path) in done.stderr, done.stderr
